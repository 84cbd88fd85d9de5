"""What writing some items takes, worked out before anything is spent or written."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic

from ..errors import InvalidItemError, InvalidVectorError, ModelMismatchError
from ..keys import K
from ..models import registry
from ..models.base import BATCH_SIZE, batches, check_batch_size, check_content, kinds
from . import rows
from .items import fold, of_item
from .resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..keys import Keys
    from ..models.base import Content, SupportsEmbedding
    from ..vectors import Float32
    from ..work import Reference
    from .items import ContentKey, Item


LOG = logging.getLogger("embeddings")


@dataclass(repr=False, eq=False)
class Plan(Generic[K]):
    """Items on their way into a collection, from `Collection.plan` to `Collection.apply`.

    In between `embed` calls the model, with no database, and so in nobody's transaction. Ids come
    in the order in which they are stored. What is not listed here is for `Collection.apply`.

    Attributes:
        collection: The name of the collection.
        model_id: The id of its embedding model.
    """

    collection: str
    model_id: str
    model: SupportsEmbedding
    call_model: Callable[[SupportsEmbedding, list[Any]], list[Float32]]
    keys: Keys[K]
    force: bool
    lists: list[list[Item]]
    """From `items.fold`."""
    missing: dict[ContentKey, Content]
    """What has no vector yet."""
    vectors: dict[ContentKey, Float32]
    new_ids: set[str]
    written_ids: set[str]

    @property
    def new(self) -> list[K]:
        """The ids of items whose content has to be embedded."""
        return self._sorted(self.new_ids)

    @property
    def reusable(self) -> list[K]:
        """The ids of items that are written without the model.

        Their vector is there, under the same id or another.
        """
        return self._sorted(self.written_ids - self.new_ids)

    @property
    def unchanged(self) -> list[K]:
        """The ids of items that are there already, just as they are to be."""
        ids = {item.id for items in self.lists for item in items}
        return self._sorted(ids - self.new_ids - self.written_ids)

    def _sorted(self, ids: set[str]) -> list[K]:
        return [self.keys.from_text(id) for id in sorted(ids)]

    @property
    def contents(self) -> list[Content]:
        """What the model is still to be called with: each content once. Count your tokens here."""
        return list(self.missing.values())

    def embed(self, batch_size: int = BATCH_SIZE) -> None:
        """Call the model for `contents`; no database is touched.

        If it fails, what was embedded until then is kept, and another call goes on from there.

        Args:
            batch_size: The most values in one call of the model; a smaller `batch_size` of the
                model goes first.

        Raises:
            ModelError: The model failed.
            ValueError: `batch_size` is not a positive integer.
        """
        check_batch_size(batch_size)
        own = getattr(self.model, "batch_size", None)
        for batch in batches(list(self.missing), min(batch_size, own or batch_size)):
            began = perf_counter()
            self.call({key: self.missing[key] for key in batch})
            for key in batch:
                del self.missing[key]
            took = (perf_counter() - began) * 1000
            LOG.debug("batch for %r: %d embedded, %.1f ms", self.collection, len(batch), took)

    def call(self, contents: dict[ContentKey, Content]) -> None:
        """Call the model once, and take up the vectors.

        Raises:
            InvalidItemError: The model refuses a content.
            InvalidVectorError: A vector cannot be stored. Both messages name the item.
        """
        try:
            made = self.call_model(self.model, list(contents.values()))
        except (InvalidItemError, InvalidVectorError) as error:
            if error.position is None:
                raise
            key = list(contents)[error.position]
            ids = (item.id for items in self.lists for item in items if item.key == key)
            raise type(error)(f"item {next(ids)!r}: {error}", error.position) from None
        self.vectors |= zip(contents, made, strict=True)

    def __repr__(self) -> str:
        new, written = len(self.new_ids), len(self.written_ids | self.new_ids)
        return f"<Plan for {self.collection!r}: {written} to write, {new} of them new>"


def make(
    collection: Reference[K],
    given: list[Item],
    vectors: dict[ContentKey, Float32] | None = None,
    *,
    force: bool,
) -> Plan[K]:
    """Return what writing items takes, having read what is there.

    Args:
        collection: Where they are to be written.
        given: In the order in which they were given.
        vectors: Those that are at hand.
        force: Call the model even for vectors that are there.
    """
    vectors = vectors or {}
    lists = fold(given)
    first, later = lists[0], lists[1:]
    with collection.work() as work:
        row = collection.find(work)
        if row is None:
            collection.refuse_if_deleted()
        model = collection.model_of(row)
        for item in {item.key[1]: item for item in reversed(given)}.values():
            try:
                check_content(model, item.content)
            except InvalidItemError as error:
                raise of_item(item.id, error) from None
        todo = resolve(work, first, vectors, kinds(model), exists=row is not None, force=force)
    # What comes later cannot rely on a row that is about to be replaced.
    missing = {item.key: item.content for item in todo.missing}
    missing |= {i.key: i.content for items in later for i in items if i.key not in vectors}
    written = {row["id"] for row in todo.rows + todo.changes}
    return Plan(
        collection=collection.name,
        model_id=collection.model_id_of(row),
        model=model,
        call_model=collection.embed,
        keys=collection.keys,
        force=force,
        lists=lists,
        missing=missing,
        vectors=todo.vectors,
        new_ids={item.id for items in lists for item in items if item.key in missing},
        written_ids=written.union(item.id for items in later for item in items),
    )


def apply(collection: Reference[K], plan: Plan[K]) -> None:
    """Write what was planned, in one transaction. See `Collection.apply`."""
    if plan.collection not in {collection.name, *(name for name, _ in collection.renamed)}:
        raise InvalidItemError(
            f"This plan is for the collection {plan.collection!r}, not {collection.name!r}"
        )
    if plan.contents:
        raise InvalidItemError(
            f"{len(plan.contents)} contents of this plan have no vector yet: call plan.embed()"
        )
    collection.check_model_id(plan.model_id)
    if plan.lists != [[]]:
        began = perf_counter()
        write(collection, plan)
        log_batch(plan, began)


def log_batch(plan: Plan[Any], began: float) -> None:
    """Write a line about a batch that was written to the log at DEBUG.

    Args:
        plan: The batch.
        began: When, by `perf_counter`.
    """
    if LOG.isEnabledFor(logging.DEBUG):
        new, written = len(plan.new_ids), len(plan.written_ids - plan.new_ids)
        count = len({item.id for items in plan.lists for item in items})
        LOG.debug(
            "batch in %r: %d items, %d embedded by %r, %d written without, %d unchanged, %.1f ms",
            plan.collection,
            count,
            new,
            plan.model_id,
            written,
            count - new - written,
            (perf_counter() - began) * 1000,
        )


def write(collection: Reference[K], plan: Plan[K]) -> None:
    """Read again and write; once more if another writer changed the rows in between."""
    while missing := _written_or_missing(collection, plan):
        LOG.warning(
            "other writers changed %d items in %r meanwhile: the model is called for them again",
            len(missing),
            collection.name,
        )
        plan.call({item.key: item.content for item in missing})


def _written_or_missing(collection: Reference[K], plan: Plan[K]) -> list[Item]:
    """Write in one transaction, or return the items that need the model first."""
    with collection.work(write=True) as work:
        row = collection.find_or_create(work, plan.model_id)
        if row.model_id != plan.model_id and (
            registry.canonical_id(row.model_id) != registry.canonical_id(plan.model_id)
        ):
            raise ModelMismatchError(collection.name, row.model_id, plan.model_id)
        for position, items in enumerate(plan.lists):
            if position:
                collection.existing(work)
            todo = resolve(work, items, plan.vectors, kinds(plan.model), force=plan.force)
            if todo.missing:
                return todo.missing
            rows.write(work, todo)
    return []

"""What writing some items takes, worked out before anything is spent or written."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic

from ..errors import InvalidItemError, InvalidVectorError, ModelError, ModelMismatchError
from ..keys import K
from ..models import registry
from ..models.base import (
    BATCH_SIZE,
    batches,
    check_batch_size,
    check_content,
    check_kind,
    kinds,
    prefixed,
)
from . import rows
from .items import fold
from .resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from ..keys import Keys
    from ..models.base import Content, SupportsEmbedding
    from ..vectors import Float32
    from ..work import Reference
    from .items import ContentKey, Item


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
        return [prefixed(self.model, content) for content in self.missing.values()]

    def embed(self, batch_size: int = BATCH_SIZE) -> None:
        """Call the model for `contents`; no database is touched.

        If it fails, what was embedded until then is kept, and another call goes on from there.

        Args:
            batch_size: The most values in one call of the model; a smaller `batch_size` of the
                model goes first.

        Raises:
            ModelError: The model failed; its `ids` are those of the items concerned.
            ValueError: `batch_size` is not a positive integer.
        """
        check_batch_size(batch_size)
        own = getattr(self.model, "batch_size", None)
        for batch in batches(list(self.missing), min(batch_size, own or batch_size)):
            with self.naming(batch):
                made = self.call_model(self.model, [self.missing[key] for key in batch])
            self.vectors |= zip(batch, made, strict=True)
            for key in batch:
                del self.missing[key]

    @contextmanager
    def naming(self, batch: list[ContentKey]) -> Iterator[None]:
        """Add the ids of the items concerned to an error in the block."""
        try:
            yield
        except (InvalidItemError, InvalidVectorError, ModelError) as error:
            concerned = {batch[i] for i in error.positions} if error.positions else {*batch}
            error.add_ids(
                self._sorted(
                    {item.id for items in self.lists for item in items if item.key in concerned}
                )
            )
            raise

    def __repr__(self) -> str:
        new, written = len(self.new_ids), len(self.written_ids | self.new_ids)
        return f"<Plan for {self.collection!r}: {written} to write, {new} of them new>"


def make(
    collection: Reference[K],
    given: list[Item],
    prepared: Float32 | None = None,
    *,
    force: bool,
) -> Plan[K]:
    """Return what writing items takes, having read what is there.

    Args:
        collection: Where they are to be written.
        given: In the order in which they were given.
        prepared: The vector of the first item, where it is at hand.
        force: Call the model even for vectors that are there.
    """
    with collection.work() as work:
        row = collection.find(work)
        if row is None:
            collection.refuse_if_deleted()
        model = collection.model_of(row)
        given = [_as_embedded(collection, model, item) for item in given]
        for example in {item.key[1]: item.content for item in given}.values():
            check_kind(model, example)
        vectors = {} if prepared is None else {given[0].key: prepared}
        lists = fold(given)
        first, later = lists[0], lists[1:]
        todo = resolve(work, first, vectors, kinds(model), exists=row is not None, force=force)
    # What comes later cannot rely on a row that is about to be replaced.
    missing = {item.key: item.content for item in todo.missing}
    missing |= {i.key: i.content for items in later for i in items if i.key not in vectors}
    _check_missing(collection, model, lists, missing)
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


def _as_embedded(collection: Reference[Any], model: SupportsEmbedding, item: Item) -> Item:
    """Return an item under the hash of what the model is given, the document prefix included."""
    content = prefixed(model, item.content)
    if content is item.content:
        return item
    return item._replace(key=(collection.content_hash(content), item.key[1]))


def _check_missing(
    collection: Reference[Any],
    model: SupportsEmbedding,
    lists: list[list[Item]],
    missing: Collection[ContentKey],
) -> None:
    for items in lists:
        for item in items:
            if item.key in missing:
                try:
                    check_content(model, item.content)
                except (InvalidItemError, InvalidVectorError, ModelError) as error:
                    error.add_ids([collection.keys.from_text(item.id)])
                    raise


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
        write(collection, plan)


def write(collection: Reference[K], plan: Plan[K]) -> None:
    """Read again and write; once more if another writer changed the rows in between."""
    while missing := _written_or_missing(collection, plan):
        with plan.naming([item.key for item in missing]):
            made = collection.embed(plan.model, [item.content for item in missing])
        plan.vectors |= zip((item.key for item in missing), made, strict=True)


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

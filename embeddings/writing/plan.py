"""What writing some items takes, worked out before anything is spent or written."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace
from decimal import Decimal
from numbers import Real
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic

from ..errors import InvalidItemError, InvalidVectorError, ModelError, RefusedError, shown_ids
from ..keys import K, chunk_owner
from ..models.base import (
    BATCH_SIZE,
    EmbeddingModel,
    at_most_own,
    batches,
    check_batch_size,
    check_kind,
    kinds,
    prefixed,
    tokens_of,
)
from ..work.reference import retried
from . import parts
from .calls import Calls, calls_at_once, check_on_error, in_order, reason_of
from .items import fold, hashes_of, of_item
from .progress import teller
from .report import Report
from .resolve import resolve, stored_rows

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from ..keys import Keys
    from ..models.base import Content, SupportsEmbedding
    from ..sessions.runtime import Begun, Runtime
    from ..vectors import Float32
    from ..work.reference import Reference
    from ..work.row import CollectionRow
    from .calls import Answer, OnError
    from .chunks import Chunks
    from .items import Item
    from .parts import Kept
    from .progress import Progress
    from .resolve import StoredRow


LOG = logging.getLogger("embeddings")
NOTHING: Mapping[str, Any] = MappingProxyType({})


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
    runtime: Runtime
    keys: Keys[K]
    force: bool
    given: list[Item]
    """From `items.fold`."""
    items: list[Item]
    """The same, or their chunks."""
    missing: dict[bytes, Content]
    """What has no vector yet."""
    vectors: dict[bytes, Float32]
    new_ids: set[str]
    written_ids: set[str]
    stored: dict[str, StoredRow]
    """The rows that were there when the plan was made, by their ids."""
    refused: dict[bytes, str] = field(default_factory=dict)
    """What the model does not take, with the reason."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Values of a host's own columns, for new rows."""
    chunks: Chunks | None = None
    """How the texts are cut; then `items` are chunks, and so are all ids here."""
    kept: dict[str, Kept] = field(default_factory=dict)
    """What was kept of chunks when the plan was made, by their ids."""
    row: CollectionRow | None = None
    """The collection's row, as it was when the plan was made."""
    has_new_words: bool = False
    """Whether an item that is unchanged has no words in the collection's text index yet."""

    @property
    def new(self) -> list[K]:
        """The ids of items whose content has to be embedded."""
        return self._sorted(self.items_of(self.new_ids))

    @property
    def reusable(self) -> list[K]:
        """The ids of items that are written without the model.

        Their vector is there, under the same id or another.
        """
        return self._sorted(self.items_of(self.written_ids) - self.items_of(self.new_ids))

    @property
    def unchanged(self) -> list[K]:
        """The ids of items that are there already, just as they are to be."""
        return self._sorted(self.unchanged_ids)

    @property
    def unchanged_ids(self) -> set[str]:
        """The stored ids of those."""
        ids = self.items_of([item.id for item in self.items])
        return ids - self.items_of(self.new_ids | self.written_ids)

    def items_of(self, ids: Iterable[str]) -> set[str]:
        """Return the stored ids of the items whose rows have these ids."""
        return {*ids} if self.chunks is None else {chunk_owner(id) for id in ids}

    def _sorted(self, ids: set[str]) -> list[K]:
        return [self.keys.from_text(id) for id in sorted(ids)]

    @property
    def contents(self) -> list[Content]:
        """What the model is still to be called with: each content once."""
        return [prefixed(self.model, content) for content in self.missing.values()]

    @property
    def characters(self) -> int:
        """The number of characters of the texts among `contents`."""
        return sum(len(content) for content in self.contents if isinstance(content, str))

    @property
    def tokens(self) -> int:
        """About how many tokens `contents` have; by the model's `estimate_tokens`."""
        return sum(tokens_of(self.model, content) for content in self.contents)

    def cost(self, price: float | Decimal) -> float:
        """Return about what embedding `contents` costs, in the currency of the price.

        Args:
            price: Of a million tokens.

        Raises:
            ValueError: The price is no number from 0 on.
        """
        if not isinstance(price, Real | Decimal) or not 0 <= price < math.inf:
            raise ValueError(f"price must be a number, of a million tokens, not {price!r}")
        return self.tokens * float(price) / 1_000_000

    def embed(
        self,
        batch_size: int = BATCH_SIZE,
        *,
        concurrency: int | None = None,
        progress: Progress = None,
        on_error: OnError = "raise",
    ) -> Report:
        """Call the model for `contents`, and return how many items it made vectors for.

        No database is touched. If it fails, what was embedded until then is kept, and another call
        goes on from there.

        Args:
            batch_size: The most values in one call of the model; a smaller `batch_size` of the
                model goes first.
            concurrency: The most calls of the model at a time; by default what the model says.
            progress: Called with the contents done and the contents in all; True draws a bar.
            on_error: With "skip" items that the model refuses by themselves, or has no finite
                vector for as it has for others, leave the plan, and stand in `skipped` of the
                report.

        Raises:
            ModelError: The model failed; its `ids` are those of the items concerned.
            ValueError: `batch_size` or `concurrency` is not a positive integer, or `on_error`
                neither of the two.
        """
        check_batch_size(batch_size)
        skips, at_once = check_on_error(on_error), calls_at_once(self.model, concurrency)
        began, count, waiting = perf_counter(), len(self.missing), self._waiting()
        tell = teller(progress, count)

        def finish(call: Begun[Answer]) -> Report:
            answer = call.result()
            report = self.take(answer)
            took = answer.seconds * 1000
            LOG.debug(
                "batch for %r: %d embedded, %.1f ms", self.collection, len(answer.vectors), took
            )
            tell(count - len(self.missing))
            return report

        with self.runtime.pool(at_once) as pool:
            calls = Calls(self.model, self.runtime, pool, skips=skips, size=batch_size)
            report = in_order(
                batches(list(self.missing), at_most_own(self.model, batch_size)),
                lambda keys: calls.begin({key: self.missing[key] for key in keys}),
                finish,
                calls.ahead,
            )
        skipped = self.without_refused()
        embedded = len(waiting & self.items_of(item.id for item in self.items))
        seconds = perf_counter() - began
        return replace(report, embedded=embedded, skipped=skipped, seconds=seconds)

    def _waiting(self) -> set[str]:
        """Return the stored ids of the items that lack a vector."""
        return self.items_of(item.id for item in self.items if item.key in self.missing)

    def take(self, answer: Answer) -> Report:
        """Take up what came of calling the model, and return what that took.

        Raises:
            ModelError: The model failed; its `ids` are those of the items concerned.
        """
        self.vectors |= answer.vectors
        self.refused |= answer.refused
        self.missing = {
            key: content
            for key, content in self.missing.items()
            if key not in answer.vectors and key not in answer.refused
        }
        if answer.error is not None:
            if isinstance(answer.error, InvalidItemError | InvalidVectorError | ModelError):
                concerned = answer.concerned()
                ids = {item.owner for item in self.items if item.key in concerned}
                answer.error.add_ids(self._sorted(ids))
            else:
                ids = {item.owner for item in self.items if item.key in answer.asked}
                answer.error.add_note(f"It was raised for the {shown_ids(self._sorted(ids))}")
            raise answer.error
        return Report(requests=answer.usage.requests, tokens=answer.usage.tokens)

    def without_refused(self) -> tuple[tuple[K, str], ...]:
        """Take what the model does not take off the plan; return the ids, with the reason."""
        if not self.refused:
            return ()
        refused = [item for item in self.items if item.key in self.refused]
        gone = {item.owner: self.refused[item.key] for item in refused}
        ids = {item.id for item in self.items if item.owner in gone}
        self.items = [item for item in self.items if item.owner not in gone]
        self.new_ids -= ids
        self.written_ids -= ids
        return tuple((self.keys.from_text(id), why) for id, why in sorted(gone.items()))

    def keep_embedded(self) -> None:
        """Leave on the plan what has a vector, after a failure of the model."""
        self.refused |= dict.fromkeys(self.missing, "")
        self.missing.clear()
        self.without_refused()

    def __repr__(self) -> str:
        new = len(self.items_of(self.new_ids))
        written = len(self.items_of(self.written_ids | self.new_ids))
        return f"<Plan for {self.collection!r}: {written} to write, {new} of them new>"


@retried
def make(
    collection: Reference[K],
    given: list[Item],
    prepared: Mapping[Content, Float32] | None = None,
    *,
    force: bool,
    skips: bool = False,
    extra: Mapping[str, Any] = NOTHING,
) -> Plan[K]:
    """Return what writing items takes, having read what is there.

    Args:
        collection: Where they are to be written.
        given: In the order in which they were given.
        prepared: The vectors of the one item or its chunks, where they are at hand.
        force: Call the model even for vectors that are there.
        skips: Note items that the model is known to refuse, instead of raising an error.
        extra: Values of a host's own columns, for new rows.
    """
    with collection.work() as work:
        work.item = given[0] if len(given) == 1 else None
        row = collection.find(work)
        if row is None:
            collection.refuse_if_deleted()
        model = collection.model_of(row)
        items = fold(_as_embedded(collection, model, given))
        for item in {type(item.content): item for item in reversed(given)}.values():
            try:
                check_kind(model, item.content)
            except InvalidItemError as error:
                raise of_item(collection.keys, item.id, error) from None
        whole = items
        chunks = parts.chunks_for(collection, row)
        if chunks is not None:
            items = parts.cut(collection, model, chunks, items)
        vectors = parts.vectors_of(collection, items, prepared) if prepared else {}
        stored = None if row is None else stored_rows(work, items)
        kept = parts.kept_parts(work, stored)
        compared = parts.compared(work, items, stored, kept)
        todo = resolve(work, compared, stored, vectors, kinds(model), force=force)
        known = sorted(todo.unchanged & todo.texts.keys())
        has_new_words = bool(known) and bool(work.database.without_words(work, known))
    missing = {item.key: item.content for item in todo.missing}
    refused = _refused(collection, model, items, missing, skips=skips)
    missing = {key: content for key, content in missing.items() if key not in refused}
    written = {row["id"] for row in todo.rows + todo.changes}
    if chunks is not None:
        written.update(item.id for item in parts.changed(compared, todo, kept))
    return Plan(
        collection=collection.name,
        model_id=collection.model_id_of(row),
        model=model,
        runtime=collection.sessions.runtime,
        keys=collection.keys,
        force=force,
        given=whole,
        items=items,
        missing=missing,
        vectors=todo.vectors,
        new_ids={item.id for item in items if item.key in missing},
        written_ids=written,
        stored=stored or {},
        refused=refused,
        extra=extra,
        chunks=chunks,
        kept=kept,
        row=row,
        has_new_words=has_new_words,
    )


def _as_embedded(
    collection: Reference[Any], model: SupportsEmbedding, given: list[Item]
) -> list[Item]:
    """Return items under the hash of what the model is given, the document prefix included."""
    if not getattr(model, "document_prefix", ""):
        return given
    hashes = [hashes_of(collection, prefixed(model, item.content)) for item in given]
    return [
        item._replace(content_hash=content_hash, key=key)
        for item, (content_hash, key) in zip(given, hashes, strict=True)
    ]


def _refused(
    collection: Reference[Any],
    model: SupportsEmbedding,
    items: list[Item],
    missing: Collection[bytes],
    *,
    skips: bool,
) -> dict[bytes, str]:
    """Return which of the contents the model is known to refuse, with the reason."""
    refused: dict[bytes, str] = {}
    check_item = getattr(model, "check_item", None)
    if check_item is None or getattr(check_item, "__func__", None) is EmbeddingModel.check_item:
        return refused
    for item in items:
        if item.key not in missing:
            continue
        try:
            check_item(item.content)
        except (InvalidItemError, InvalidVectorError, ModelError) as error:
            if skips and isinstance(error, InvalidItemError | RefusedError):
                refused[item.key] = reason_of(error)
                continue
            error.add_ids([collection.keys.from_text(item.id)])
            raise
    return refused

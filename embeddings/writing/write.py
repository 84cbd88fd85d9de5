"""What writes to a collection: in the order read, embed, write, look again."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from ..errors import InvalidQueryError, ModelMismatchError
from ..models.base import (
    BATCH_SIZE,
    at_most_own,
    batches,
    check_batch_size,
    check_content,
    kinds,
    prefixed,
)
from ..models.stop import not_called
from ..searching.conditions import check_prefix, checked_where, items_starting_with, where_condition
from ..tables.records import now
from ..values import checked_content, load_metadata
from ..vectors import as_vector
from ..work.reference import retried
from . import apply, loaded, parts, plan, rows
from .calls import Answer, Calls, ask, calls_at_once, check_on_error, in_order
from .items import (
    Extra,
    Prepared,
    checked_extra,
    checked_item,
    checked_items,
    hashes_of,
    item_metadata,
    vector_row,
)
from .progress import end, length_of, teller
from .report import Report
from .resolve import Resolution, stored_vectors, texts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement

    from ..keys import Key
    from ..models.base import Content
    from ..searching.conditions import CheckedWhere, Where
    from ..sessions.runtime import Begun
    from ..values import Metadata
    from ..vectors import Float32
    from ..work.operation import Work
    from ..work.reference import Reference
    from .calls import OnError
    from .items import Item
    from .plan import Plan
    from .progress import Progress

LOG = logging.getLogger("embeddings")


def embed(
    collection: Reference[Any],
    id: Key,
    value: Content | Prepared,
    metadata: Metadata | None,
    store: bool,
    *,
    force: bool,
    extra: Extra | None = None,
) -> None:
    """Embed a value and store its vector. See `Collection.embed`."""
    content = value.content if isinstance(value, Prepared) else value
    item = checked_item(collection, id, content, metadata, store)
    own = checked_extra(collection.records, extra)
    vectors: dict[Content, Float32] = {}
    if isinstance(value, Prepared):
        with collection.work() as work:
            row = collection.find(work)
            model_id = collection.model_id_of(row)
            is_its = value.model_id == model_id
            if not is_its and value.model_id not in collection.models_beside(work):
                raise ModelMismatchError(collection.name, model_id, value.model_id)
        if is_its:  # else another model took over meanwhile, which is called
            label = f"prepared vector of {item.id!r}"
            given = value.chunks or {value.content: value.vector}
            vectors = {text: as_vector(vector, label=label) for text, vector in given.items()}
    _embed(collection, item, vectors, force=force, extra=own)


def embed_multi(
    collection: Reference[Any],
    entries: Iterable[tuple[Any, ...]],
    store: bool,
    batch_size: int,
    *,
    has_metadata: bool,
    force: bool,
    extra: Extra | None,
    concurrency: int | None,
    progress: Progress,
    on_error: OnError,
) -> Report:
    """Embed and store values, a batch at a time. See `Collection.embed_multi`."""
    check_batch_size(batch_size)
    began, skips = perf_counter(), check_on_error(on_error)
    total, length = length_of(entries), 3 if has_metadata else 2
    tell = teller(progress, total)
    columns, model = checked_extra(collection.records, extra), collection.read_model()
    runtime = collection.sessions.runtime
    with runtime.pool(calls_at_once(model, concurrency)) as pool:
        calls = Calls(model, runtime, pool, skips=skips, size=batch_size)
        bulk = _Bulk(collection, calls, tell, force=force, extra=columns)
        size = at_most_own(model, batch_size)
        report = in_order(
            checked_items(collection, entries, size, store, length, length),
            bulk.begin,
            bulk.finish,
            calls.ahead,
        )
    end(progress, total)
    return replace(report, seconds=perf_counter() - began)


@dataclass(eq=False)
class _Flight:
    """A batch between its plan and its rows."""

    items: list[Item]
    ids: set[str]
    planned: Plan[Any] | None = None
    call: Begun[Answer] | None = None
    borrowed: dict[bytes, Plan[Any]] = field(default_factory=dict)
    """Contents that the model is called with for a batch before this one."""

    def is_over(self) -> bool:
        """Return whether nothing is to be waited for."""
        return self.call is None or self.call.is_over()


class _Bulk:
    """One `embed_multi` in progress.

    Args:
        collection: Where to.
        calls: Of its model.
        tell: Is told how many items are done.
        force: Call the model even for vectors that are there.
        extra: Values of a host's own columns, for new rows.
    """

    def __init__(
        self,
        collection: Reference[Any],
        calls: Calls,
        tell: Callable[[int], None],
        *,
        force: bool,
        extra: Mapping[str, Any],
    ) -> None:
        self._collection, self._calls, self._tell, self._force = collection, calls, tell, force
        self._extra = extra
        self._flying: list[_Flight] = []
        self._done = 0

    def begin(self, items: list[Item]) -> _Flight:
        """Look up what is there, and begin to call the model for the rest."""
        flight = _Flight(items, {item.id for item in items})
        # Where a batch before this one writes the same rows, they are looked at afterwards.
        if all(flight.ids.isdisjoint(other.ids) for other in self._flying):
            self._plan(flight, self._flying)
        self._flying.append(flight)
        return flight

    def _plan(self, flight: _Flight, earlier: Sequence[_Flight]) -> Plan[Any]:
        planned = plan.make(
            self._collection,
            flight.items,
            force=self._force,
            skips=self._calls.skips,
            extra=self._extra,
        )
        contents = dict(planned.missing)
        for other in earlier if not self._force else ():
            if other.planned is not None:
                for key in contents.keys() & other.planned.missing.keys():
                    flight.borrowed[key] = other.planned
                    del contents[key]
        if contents:
            flight.call = self._calls.begin(contents)
        flight.planned = planned
        return planned

    def finish(self, flight: _Flight) -> Report:
        """Wait for the model, and write; return what was done."""
        began = perf_counter()
        self._flying.remove(flight)
        planned = flight.planned or self._plan(flight, ())
        answer = flight.call.result() if flight.call is not None else Answer()
        for key, other in flight.borrowed.items():
            if key in other.vectors:
                answer.vectors[key] = other.vectors[key]
            elif key in other.refused:
                answer.refused[key] = other.refused[key]
            else:
                raise not_called(planned.model.model_id)
        flight.borrowed = {}
        report = _taken(self._collection, planned, answer, skips=self._calls.skips)
        self._done += len(flight.items)
        self._tell(self._done)
        return replace(report, seconds=perf_counter() - began)


def _embed(
    collection: Reference[Any],
    item: Item,
    prepared: Mapping[Content, Float32],
    *,
    force: bool,
    extra: Mapping[str, Any],
) -> Report:
    planned = plan.make(collection, [item], prepared, force=force, extra=extra)
    answer = Answer()
    if planned.missing:
        answer = ask(planned.model, planned.runtime, planned.missing, skips=False)
    is_settled = collection.sessions.is_one_snapshot
    return _taken(collection, planned, answer, is_settled=is_settled)


def _taken(
    collection: Reference[Any],
    planned: Plan[Any],
    answer: Answer,
    *,
    skips: bool = False,
    is_settled: bool = False,
) -> Report:
    """Take up what the model made, and write; return what was done."""
    report = planned.take(answer)
    if planned.refused:
        report += Report(skipped=planned.without_refused())
    if planned.new_ids or planned.written_ids or planned.has_new_words:
        return report + apply.write(collection, planned, skips=skips, is_settled=is_settled)
    report += Report(unchanged=len(planned.unchanged_ids))
    apply.log_batch(planned, report)
    return report


def prepare(collection: Reference[Any], value: Content) -> Prepared:
    """Return a value with its vector, to be stored later. See `Collection.prepare`."""
    content = checked_content(value)
    with collection.look() as work:
        row = collection.find(work)
        model = collection.model_of(row)
        check_content(model, content)
        texts = parts.texts_of(parts.chunks_for(collection, row), content)
        hashes = {text: hashes_of(collection, prefixed(model, text)) for text in texts}
        wanted = {key: content_hash for content_hash, key in hashes.values()}
        known = {} if row is None else stored_vectors(work, kinds(model), wanted)
    missing = [text for text, (_, key) in hashes.items() if key not in known]
    for batch in batches(missing, at_most_own(model, BATCH_SIZE)):
        made = collection.embed(model, batch)
        known |= {hashes[text][1]: vector for text, vector in zip(batch, made, strict=True)}
    vectors = {text: known[key] for text, (_, key) in hashes.items()}
    of_chunks = {} if texts == [content] else vectors
    return Prepared(content, vectors[texts[0]], model.model_id, of_chunks)


def embed_query(collection: Reference[Any], value: Content) -> Float32:
    """Return the vector of a value to search for. See `Collection.embed_query`."""
    content = checked_content(value)
    model = collection.known_model()
    check_content(model, content)
    return collection.embed(model, [content], "query")[0]


def store_vectors(
    collection: Reference[Any],
    entries: Iterable[tuple[Any, ...]],
    batch_size: int,
    extra: Extra | None,
) -> Report:
    """Store vectors that were made elsewhere. See `Collection.store_vectors`."""
    check_batch_size(batch_size)
    own = checked_extra(collection.records, extra)
    start, written = perf_counter(), 0
    checked = (vector_row(collection, entry, at) for at, entry in enumerate(entries))
    for batch in batches(checked, batch_size):
        began = perf_counter()
        by_id = {row["id"]: row for row in batch}
        _store(collection, [by_id[id] for id in sorted(by_id)], own)
        written += len(by_id)
        took = (perf_counter() - began) * 1000
        LOG.debug("batch in %r: %d vectors stored, %.1f ms", collection.name, len(batch), took)
    return Report(reused=written, seconds=perf_counter() - start)


@retried
def _store(
    collection: Reference[Any], given: list[dict[str, Any]], extra: Mapping[str, Any]
) -> None:
    with collection.work(write=True) as work:
        work.extra = extra
        parts.refuse_parts(collection, collection.find_or_create(work))
        rows.write(work, Resolution(given, texts=texts_of(given)))


@retried
def set_metadata(collection: Reference[Any], id: Key, metadata: Metadata | None) -> None:
    """Replace the metadata of an item. See `Collection.set_metadata`."""
    text, keys = collection.id_of(id), collection.keys
    # A copy, which the record of a session may keep.
    copy = None if metadata is None else load_metadata(item_metadata(keys, text, metadata))
    entity = collection.records.embedding
    statement = update(entity).values({entity.metadata_: copy, entity.updated: now()})
    with collection.work(write=True) as work:
        row = collection.existing_to_write(work)
        if row.chunks is not None:
            work.database.keep_items(work, [text])
        if not work.changed(statement.where(entity.collection_id == row.id, work.is_of(text))):
            raise collection.id_not_found(text)


def delete_items(
    collection: Reference[Any],
    ids: Iterable[Key] | None,
    prefix: str | None,
    where: Where | None,
) -> int:
    """Delete items and return how many there were. See `Collection.delete_items`."""
    if isinstance(ids, str | bytes):
        raise InvalidQueryError("ids must be an iterable of ids, not a single one")
    texts = None if ids is None else collection.ids_of(ids, "ids")
    if prefix is not None:
        check_prefix(prefix)
    condition = None if where is None else checked_where(collection.records, where)
    if texts is None and not prefix and not condition:  # an empty dict picks nothing
        raise InvalidQueryError("give ids, prefix= or where=; delete() deletes the collection")
    return _delete(collection, texts, condition, prefix)


@retried
def _delete(
    collection: Reference[Any],
    ids: list[str] | None,
    where: CheckedWhere | None,
    prefix: str | None,
) -> int:
    columns = collection.records.embeddings.c
    with collection.work(write=True) as work:
        row = collection.find_to_write(work)
        if row is None:
            return 0
        conditions = [columns.collection_id == row.id]
        if prefix:
            conditions += items_starting_with(work, prefix)
        if ids is not None:
            conditions.append(work.database.is_one_of(work.item_id, ids))
        if where:
            conditions.append(where_condition(work, where))
        if row.chunks is not None:
            return _delete_chunks(work, conditions)
        count = work.database.delete_rows(work, conditions)
        loaded.refresh(work)
        return count


def _delete_chunks(work: Work, conditions: list[ColumnElement[bool]]) -> int:
    """Delete the items of which a chunk meets the conditions, and return how many there were."""
    columns = work.records.embeddings.c
    items = sorted({*work.run(select(work.item_id).where(*conditions)).scalars()} - {None})
    work.database.keep_items(work, items)
    is_theirs = work.database.is_one_of(work.item_id, items)
    work.database.delete_rows(work, [columns.collection_id == work.row.id, is_theirs])
    loaded.refresh(work)
    return len(items)

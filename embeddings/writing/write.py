"""What writes to a collection: in the order read, embed, write, look again."""

from __future__ import annotations

import logging
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sqlalchemy import update

from ..errors import InvalidQueryError, ModelMismatchError
from ..models.base import batches, check_batch_size, check_content, kinds, prefixed
from ..searching.query import checked_where, starts_with, where_condition
from ..tables.records import now
from ..values import checked_content, load_metadata
from ..vectors import as_vector
from . import loaded, plan, rows
from .items import Prepared, checked_item, item_metadata, key_of, vector_row
from .report import Report
from .resolve import Resolution, stored_vectors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement

    from ..keys import Key
    from ..models.base import Content
    from ..searching.query import Where
    from ..values import Metadata
    from ..vectors import Float32
    from ..work import Reference
    from .items import Item

LOG = logging.getLogger("embeddings")


def embed(
    collection: Reference[Any],
    id: Key,
    value: Content | Prepared,
    metadata: Metadata | None,
    store: bool,
    *,
    force: bool,
) -> None:
    """Embed a value and store its vector. See `Collection.embed`."""
    content = value.content if isinstance(value, Prepared) else value
    item = checked_item(collection, id, content, metadata, store)
    vector: Float32 | None = None
    if isinstance(value, Prepared):
        with collection.work() as work:
            model_id = collection.model_id_of(collection.find(work))
        if value.model_id != model_id:
            raise ModelMismatchError(collection.name, model_id, value.model_id)
        vector = as_vector(value.vector, label=f"prepared vector of {item.id!r}")
    _embed(collection, [item], vector, force=force)


def embed_multi(
    collection: Reference[Any],
    entries: Iterable[tuple[Key, Content, Metadata | None]],
    store: bool,
    batch_size: int,
    *,
    force: bool,
) -> Report:
    """Embed and store values, a batch at a time. See `Collection.embed_multi`."""
    check_batch_size(batch_size)
    own = getattr(collection.read_model(), "batch_size", None)
    items = (
        checked_item(collection, id, value, metadata, store, position)
        for position, (id, value, metadata) in enumerate(entries)
    )
    report = Report()
    for batch in batches(items, min(batch_size, own or batch_size)):
        report += _embed(collection, batch, None, force=force)
    return report


def _embed(
    collection: Reference[Any],
    items: list[Item],
    prepared: Float32 | None,
    *,
    force: bool,
) -> Report:
    began = perf_counter()
    planned = plan.make(collection, items, prepared, force=force)
    report = Report(unchanged=len(planned.unchanged))
    if planned.new_ids or planned.written_ids or planned.has_new_words:
        requests = bool(planned.missing)
        if planned.missing:
            planned.call(planned.missing)
            planned.missing = {}
        report = plan.write(collection, planned) + Report(requests=requests)
    else:
        plan.log_batch(planned, report)
    return replace(report, seconds=perf_counter() - began)


def prepare(collection: Reference[Any], value: Content) -> Prepared:
    """Return a value with its vector, to be stored later. See `Collection.prepare`."""
    content = checked_content(value)
    with collection.look() as work:
        row = collection.find(work)
        model = collection.model_of(row)
        check_content(model, content)
        key = key_of(collection, prefixed(model, content))
        known = {} if row is None else stored_vectors(work, kinds(model), {key})
    vector = known[key] if key in known else collection.embed(model, [content])[0]
    return Prepared(content, vector, model.model_id)


def embed_query(collection: Reference[Any], value: Content) -> Float32:
    """Return the vector of a value to search for. See `Collection.embed_query`."""
    content = checked_content(value)
    model = collection.known_model()
    check_content(model, content)
    return collection.embed(model, [content], "query")[0]


def store_vectors(
    collection: Reference[Any], entries: Iterable[tuple[Any, ...]], batch_size: int
) -> Report:
    """Store vectors that were made elsewhere. See `Collection.store_vectors`."""
    check_batch_size(batch_size)
    start, written = perf_counter(), 0
    checked = (vector_row(collection, entry, at) for at, entry in enumerate(entries))
    for batch in batches(checked, batch_size):
        began = perf_counter()
        by_id = {row["id"]: row for row in batch}
        with collection.work(write=True) as work:
            collection.find_or_create(work)
            texts = {
                id: (row["content"], row["content_hash"])
                for id, row in by_id.items()
                if row["content"] is not None
            }
            rows.write(work, Resolution([by_id[id] for id in sorted(by_id)], texts=texts))
        written += len(by_id)
        took = (perf_counter() - began) * 1000
        LOG.debug("batch in %r: %d vectors stored, %.1f ms", collection.name, len(batch), took)
    return Report(reused=written, seconds=perf_counter() - start)


def set_metadata(collection: Reference[Any], id: Key, metadata: Metadata | None) -> None:
    """Replace the metadata of an item. See `Collection.set_metadata`."""
    text = collection.id_of(id)
    # A copy, which the record of a session may keep.
    copy = None if metadata is None else load_metadata(item_metadata(text, metadata))
    entity = collection.records.embedding
    statement = update(entity).values({entity.metadata_: copy, entity.updated: now()})
    with collection.work(write=True) as work:
        row = collection.existing(work)
        if not work.changed(statement.where(entity.collection_id == row.id, entity.id == text)):
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
    id = collection.records.embeddings.c.id
    conditions: list[ColumnElement[bool]] = []
    if prefix is not None and prefix != "":
        conditions.append(starts_with(id, prefix))
    condition = None if where is None else checked_where(collection.records, where)
    if texts is None and not conditions and not condition:  # an empty dict picks nothing
        raise InvalidQueryError("give ids, prefix= or where=; delete() deletes the collection")
    with collection.work(write=True) as work:
        row = collection.find(work)
        if row is None:
            return 0
        if texts is not None:
            conditions.append(work.database.is_one_of(id, texts))
        if condition:
            conditions.append(where_condition(work, condition))
        conditions.append(collection.records.embeddings.c.collection_id == row.id)
        count = work.database.delete_rows(work, conditions)
        loaded.refresh(work)
        return count

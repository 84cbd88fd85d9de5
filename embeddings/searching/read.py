"""What is read without a search: one record, all of them, ids, names."""

from __future__ import annotations

import functools
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import bindparam, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import attributes, joinedload, make_transient_to_detached

from ..keys import AFTER_MARK, CHUNK_MARK, chunk_id, chunk_owner, split_chunk_id
from ..sessions import bind_for_reading
from ..tables.beside import stands_beside
from ..tables.ours import are_missing, explain
from ..tables.records import remember_key
from ..values import NotJSON
from ..vectors import ITEM_BYTES
from ..work.operation import Work
from ..work.reference import retried
from .conditions import items_starting_with
from .entries import Chunk
from .query import check_query, several
from .scan import warn_of, warn_of_metadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import ColumnElement, ScalarSelect, Select
    from sqlalchemy.orm import InstrumentedAttribute

    from ..keys import K, Key
    from ..sessions import DatabaseLike
    from ..tables.records import EmbeddingRecord, Records
    from ..vectors import Float32
    from ..work.reference import Reference
    from .conditions import Where

PAGE = 500  # records or rows held at a time while iterating
VALUES_PER_PIECE = 1_000  # values of a vector that are copied while an id is looked at


@retried
def count(collection: Reference[Any], *, chunks: bool = False) -> int:
    """Return the number of items, or of chunks. See `Collection.count`."""
    with collection.work() as work:
        row = collection.find(work)
        if row is None:
            return 0
        if row.chunks is None or chunks:
            counted = work.read(_count(collection.records), {"collection": row.id})
        else:
            entity = collection.records.embedding
            of_items = entity.collection_id == row.id, work.is_item
            counted = work.run(select(func.count()).select_from(entity).where(*of_items))
        return int(counted.scalar_one())


@functools.cache
def _count(records: Records) -> Select[Any]:
    entity = records.embedding
    rows = select(func.count()).select_from(entity)
    return rows.where(entity.collection_id == bindparam("collection"))


@retried
def get(collection: Reference[Any], id: Key) -> EmbeddingRecord | None:
    """Return an item's record, or None. See `Collection.get`."""
    text = collection.id_of(id)
    entity = collection.records.embedding
    with collection.work() as work:
        row = collection.find(work)
        if row is None:
            return None
        if row.chunks is not None:
            return next(iter(_items(collection, work, entity.id == chunk_id(text, 0))), None)
        statement = (
            select(entity)
            .options(joinedload(entity.collection))
            .where(entity.collection_id == row.id, entity.id == text)
        )
        record: EmbeddingRecord | None = work.run(statement).scalar()
        return record and _with_key(collection, record)


def _with_key(collection: Reference[Any], record: EmbeddingRecord) -> EmbeddingRecord:
    remember_key(record, collection.keys.from_text(record.id))
    if isinstance(record.metadata_, NotJSON):
        warn_of_metadata([record.id])
        attributes.set_committed_value(record, "metadata_", None)
    return record


def count_of_chunks(work: Work, item: ColumnElement[str]) -> ScalarSelect[int]:
    """Return the SQL of the number of rows of an item, by its stored id."""
    rows = work.records.embeddings.alias()
    count = select(func.count()).select_from(rows)
    return count.where(
        rows.c.collection_id == work.row.id,
        rows.c.id >= item.concat(CHUNK_MARK),
        rows.c.id < item.concat(AFTER_MARK),
        work.database.item_of(rows.c.id) == item,
    ).scalar_subquery()


def _items(
    collection: Reference[Any], work: Work, condition: ColumnElement[bool], most: int | None = None
) -> list[EmbeddingRecord]:
    """Return detached records of items that have chunks, in the order of their first chunks.

    Args:
        collection: Whose items.
        work: In whose transaction.
        condition: About the rows of first chunks.
        most: How many at most.
    """
    entity, parts = collection.records.embedding, work.database.parts(work)
    names = [attribute.key for attribute in entity.__mapper__.column_attrs]
    conditions = [entity.collection_id == work.row.id, work.is_item, condition]
    if most is not None:
        conditions.append(is_among_first(most, entity.id, conditions))
    statement = (
        select(
            *(getattr(entity, name) for name in names),
            parts.c.item_hash,
            parts.c.item_content,
            parts.c.item_chunks,
        )
        .select_from(entity)
        .outerjoin(parts, parts.c.id == entity.id)
        .where(*conditions)
        .order_by(entity.id)
        .limit(most)
    )
    rows = work.run(statement).all()
    owner = work.run(
        select(collection.records.collection).where(collection.records.collection.id == work.row.id)
    ).scalar()
    made: list[EmbeddingRecord] = []
    for *values, item_hash, content, chunks in rows:
        record: EmbeddingRecord = entity.__mapper__.class_manager.new_instance()
        stored = dict(zip(names, values, strict=True))
        stored["id"] = chunk_owner(stored["id"])
        if stored["content_blob"] is None:
            stored["content_hash"] = item_hash or stored["content_hash"]
        if chunks != 1:
            stored["embedding"] = None
        if chunks != 1 or content is not None:
            stored["content"] = content
        for name, value in (*stored.items(), ("collection", owner)):
            attributes.set_committed_value(record, name, value)
        make_transient_to_detached(record)
        made.append(_with_key(collection, record))
    return made


@retried
def get_chunks(collection: Reference[Any], id: Key) -> list[Chunk]:
    """Return the chunks of an item. See `Collection.get_chunks`."""
    text = collection.id_of(id)
    entity = collection.records.embedding
    with collection.work() as work:
        row = collection.find(work)
        if row is None:
            return []
        of_item = entity.collection_id == row.id, work.is_of(text)
        if row.chunks is None:
            contents = work.run(select(entity.content).where(*of_item)).scalars()
            return [
                Chunk(0, content and 0, content and len(content), content) for content in contents
            ]
        parts = work.database.parts(work)
        statement = (
            select(entity.id, parts.c.start, parts.c.end, entity.content)
            .select_from(entity)
            .outerjoin(parts, parts.c.id == entity.id)
            .where(*of_item)
        )
        found = [(split_chunk_id(id)[1], *rest) for id, *rest in work.run(statement)]
    return [Chunk(*values) for values in sorted(found, key=lambda values: values[0])]


def warm(collection: Reference[Any]) -> None:
    """Load what searches keep in memory. See `Collection.warm`."""
    with collection.work() as work:
        if collection.find(work) is not None:
            work.database.warm(work)
    if collection.sessions.owns_transactions:
        collection.database.keep_index(collection)


@retried
def contains(collection: Reference[Any], id: object) -> bool:
    """Return whether there is an item of this id."""
    text = collection.id_of(id)
    with collection.work() as work:
        row = collection.find(work)
        if row is None:
            return False
        if row.chunks is not None:
            text = chunk_id(text, 0)
        given = {"collection": row.id, "id_sought": text}
        return work.read(_has_id(collection.records), given).first() is not None


@functools.cache
def _has_id(records: Records) -> Select[Any]:
    entity = records.embedding
    is_it = entity.id == bindparam("id_sought")
    return select(entity.id).where(entity.collection_id == bindparam("collection"), is_it)


def pages(collection: Reference[Any]) -> Iterator[EmbeddingRecord]:
    """Yield every record, in the order of the stored ids, a page at a time."""
    last: str | None = None
    while records := page_after(collection, last):
        yield from records
        if len(records) < PAGE:
            return
        last = records[-1].id


@retried
def page_after(collection: Reference[Any], last: str | None) -> list[EmbeddingRecord]:
    """Return the first 500 records in the order of the stored ids, or those after an id.

    Args:
        collection: Whose records.
        last: A stored id; the page before this one ended with it.
    """
    entity = collection.records.embedding
    with collection.work() as work:
        row = collection.find(work)
        if row is None:
            return []
        if row.chunks is not None and last is not None:
            last = chunk_id(last, 0)
        is_next = entity.id.is_not(None) if last is None else entity.id > last
        if row.chunks is not None:
            return _items(collection, work, is_next, PAGE)
        conditions = [entity.collection_id == row.id, is_next]
        page = (
            select(entity)
            .options(joinedload(entity.collection))
            .where(*conditions, is_among_first(PAGE, entity.id, conditions))
            .order_by(entity.id)
            .limit(PAGE)
        )
        return [_with_key(collection, record) for record in work.run(page).scalars()]


def is_among_first(
    number: int,
    id: ColumnElement[str] | InstrumentedAttribute[str],
    conditions: Sequence[ColumnElement[bool]],
) -> ColumnElement[bool]:
    """Return the condition that a row is one of the first, by id, of those that meet conditions.

    It goes with a LIMIT where vectors are selected, too: PostgreSQL may sort all rows for the first
    few, and would fetch the vector of each before.

    Args:
        number: How many.
        id: The column.
        conditions: About the same rows. They hold besides.
    """
    first = select(id.label("id")).where(*conditions).order_by(id).limit(number).subquery()
    return id <= select(func.max(first.c.id)).scalar_subquery()


@retried
def ids(collection: Reference[K], prefix: str | None) -> list[K]:
    """Return the ids, in the order in which they are stored. See `Collection.ids`."""
    columns = collection.records.embeddings.c
    with collection.work() as work:
        row = collection.find(work)
        if row is None:
            return []
        # Columns of the table are read in a tenth of the time that the entity takes.
        seen = (work.visible(),) if work.has_listeners else ()
        statement = select(work.item_id).where(
            columns.collection_id == row.id, columns.id.is_not(None), work.is_item, *seen
        )
        if prefix is not None and prefix != "":
            statement = statement.where(*items_starting_with(work, prefix))
        stored: list[str] = []
        for part in work.run(statement.order_by(columns.id)).scalars().partitions(PAGE):
            stored += part
            work.runtime.give_way()
        return work.runtime.compute(lambda: collection.keys.from_texts(stored), len(stored))


def names(db: DatabaseLike, records: Records, only: str | None = None) -> list[str]:
    """Return the names of a database's collections, sorted; none without the tables.

    Without what stands beside one: see `tables.beside`.

    Args:
        db: Whatever a collection can be opened on. Nothing is created or migrated.
        records: The mapped classes.
        only: Look for this name alone, which may be one of these.
    """
    sessions = bind_for_reading(db, records)
    if sessions is None:
        return []
    try:
        with sessions.session(write=False) as session:
            work = Work(session, records)
            try:
                if are_missing(work):
                    return []
                name = records.collection.name
                statement = select(name).order_by(name)
                if only is not None:
                    return list(work.run(statement.where(name == only)).scalars())
                found = work.run(statement.where(name.is_not(None))).scalars()
                return [each for each in found if not stands_beside(each)]
            except DBAPIError as error:
                explain(error, work)
                raise
    finally:
        sessions.close()


def get_many(collection: Reference[Any], keys: Iterable[Key]) -> list[EmbeddingRecord | None]:
    """Return the records of some items, None where one is missing. See `Collection.get_many`."""
    return _of_ids(collection, collection.ids_of(several(keys, "ids"), "ids"))


@retried
def _of_ids(collection: Reference[Any], texts: list[str]) -> list[EmbeddingRecord | None]:
    entity = collection.records.embedding
    with collection.work() as work:
        row = collection.find(work)
        if row is None or not texts:
            return [None] * len(texts)
        if row.chunks is not None:
            firsts = [chunk_id(text, 0) for text in texts]
            is_first = work.database.is_one_of(collection.records.embeddings.c.id, {*firsts})
            items = {item.id: item for item in _items(collection, work, is_first)}
            return [items.get(text) for text in texts]
        is_asked_for = work.database.is_one_of(collection.records.embeddings.c.id, {*texts})
        statement = (
            select(entity)
            .options(joinedload(entity.collection))
            .where(entity.collection_id == row.id, is_asked_for)
        )
        found = work.run(statement).scalars()
        records = {record.id: _with_key(collection, record) for record in found}
    return [records.get(text) for text in texts]


@retried
def vectors(
    collection: Reference[K], prefix: str | None, where: Where | None
) -> tuple[list[K], Float32]:
    """Return the ids and the vectors of items as one matrix. See `Collection.vectors`."""
    query = check_query(collection, prefix=prefix, where=where)
    columns = collection.records.embeddings.c
    with collection.work() as work:
        row = collection.find(work)
        if row is None or row.vector_bytes is None:
            return [], np.empty((0, 0), np.float32)
        dimensions = row.vector_bytes // ITEM_BYTES
        stored = work.database.vector_as_bytes(columns.embedding)
        statement = (
            select(work.item_id, stored)
            .where(columns.collection_id == row.id, work.database.has_id(columns.id))
            .where(*query.as_seen(work).conditions(work))
            .order_by(columns.id)
        )
        ids: list[str] = []
        blobs: list[Any] = []
        # A part at a time: the garbage collector looks again and again at rows that stay.
        for part in work.run(statement).partitions(PAGE):
            ids += [row[0] for row in part]
            blobs += [row[1] for row in part]
            work.runtime.give_way()

        def decoded() -> tuple[list[str], list[K], Float32]:
            matrix, is_whole = work.database.as_matrix(blobs, dimensions)
            if is_whole.all():
                return [], collection.keys.from_texts(ids), matrix
            keys = collection.keys.from_texts([*compress(ids, is_whole)])
            return [*compress(ids, ~is_whole)], keys, matrix

        pieces = len(ids) * max(1, dimensions // VALUES_PER_PIECE)
        left_out, keys, matrix = work.runtime.compute(decoded, pieces)
    if left_out:
        warn_of(left_out, dimensions)
    return keys, matrix

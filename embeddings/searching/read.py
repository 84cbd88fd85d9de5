"""What is read without a search: one record, all of them, ids, names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import attributes, joinedload

from ..sessions import bind_for_reading
from ..tables.beside import stands_beside
from ..tables.ours import are_missing, explained
from ..tables.records import remember_key
from ..values import NotJSON
from ..vectors import ITEM_BYTES
from ..work import Work, retried
from .query import check_query, several, starts_with
from .scan import warn_of, warn_of_metadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..keys import K, Key
    from ..sessions import DatabaseLike
    from ..tables.records import EmbeddingRecord, Records
    from ..vectors import Float32
    from ..work import Reference
    from .query import Where

PAGE = 500  # records held at a time while iterating


@retried
def count(collection: Reference[Any]) -> int:
    """Return the number of items. See `Collection.count`."""
    entity = collection.records.embedding
    with collection.work() as work:
        row = collection.find(work)
        if row is None:
            return 0
        rows = select(func.count()).select_from(entity)
        statement = rows.where(entity.collection_id == row.id)
        return int(work.run(statement).scalar_one())


@retried
def get(collection: Reference[Any], id: Key) -> EmbeddingRecord | None:
    """Return an item's record, or None. See `Collection.get`."""
    text = collection.id_of(id)
    entity = collection.records.embedding
    with collection.work() as work:
        row = collection.find(work)
        if row is None:
            return None
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


def warm(collection: Reference[Any]) -> None:
    """Load what searches keep in memory. See `Collection.warm`."""
    with collection.work() as work:
        if collection.find(work) is not None:
            work.database.warm(work)


@retried
def contains(collection: Reference[Any], id: object) -> bool:
    """Return whether there is an item of this id."""
    text = collection.id_of(id)
    entity = collection.records.embedding
    with collection.work() as work:
        row = collection.find(work)
        if row is None:
            return False
        statement = select(entity.id).where(entity.collection_id == row.id, entity.id == text)
        return work.run(statement).first() is not None


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
        is_next = entity.id.is_not(None) if last is None else entity.id > last
        page = (
            select(entity)
            .options(joinedload(entity.collection))
            .where(entity.collection_id == row.id, is_next)
            .order_by(entity.id)
            .limit(PAGE)
        )
        return [_with_key(collection, record) for record in work.run(page).scalars()]


@retried
def ids(collection: Reference[K], prefix: str | None) -> list[K]:
    """Return the ids, in the order in which they are stored. See `Collection.ids`."""
    entity = collection.records.embedding
    with collection.work() as work:
        row = collection.find(work)
        if row is None:
            return []
        statement = select(entity.id).where(entity.collection_id == row.id, entity.id.is_not(None))
        if prefix is not None and prefix != "":
            statement = statement.where(starts_with(collection.records.embeddings.c.id, prefix))
        stored = work.run(statement.order_by(entity.id)).scalars()
        return [collection.keys.from_text(id) for id in stored]


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
            with explained(work):
                if are_missing(work):
                    return []
                name = records.collection.name
                statement = select(name).order_by(name)
                if only is not None:
                    return list(work.run(statement.where(name == only)).scalars())
                found = list(work.run(statement.where(name.is_not(None))).scalars())
                known = {*found}
                return [each for each in found if not stands_beside(each, known)]
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
            select(columns.id, stored)
            .where(columns.collection_id == row.id, work.database.has_id(columns.id))
            .where(*query.as_seen(work).conditions(work))
            .order_by(columns.id)
        )
        pairs = work.run(statement).all()
        matrix, is_whole = work.database.as_matrix([blob for _, blob in pairs], dimensions)
    if not is_whole.all():
        corrupt = [id for (id, _), whole in zip(pairs, is_whole, strict=True) if not whole]
        warn_of(corrupt, dimensions)
        pairs = [pair for pair, whole in zip(pairs, is_whole, strict=True) if whole]
    return [collection.keys.from_text(id) for id, _ in pairs], matrix

"""Rows written in one order past the ORM, whose loaded records are then brought up to date."""

from __future__ import annotations

import functools
import itertools
import operator
from typing import TYPE_CHECKING, Any

from sqlalchemy import Executable, bindparam, func, select, update
from sqlalchemy.orm import attributes, joinedload

from ..databases.postgresql.drivers import metadata_writer, vector_writer
from ..dialects import insert_into
from ..errors import InvalidVectorError
from ..sql import compiled, connection_of, is_one_of, run, schema_map_of
from ..tables.columns import JSONText
from ..tables.records import Records, now
from ..vectors import ITEM_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Dialect
    from sqlalchemy.orm import Session

    from ..sql import Found
    from .resolve import Resolution


def write(session: Session, records: Records, found: Found, resolution: Resolution) -> None:
    """Write the rows and changes, in the order of their ids, within the session's transaction.

    One order for all writers: those who lock rows in different orders wait for each other forever.
    Records of these rows that the session has loaded are brought up to date.

    Raises:
        InvalidVectorError: A vector is of another length than those of the collection.
    """
    everything = resolution.rows + resolution.changes
    _check_dimensions(found, everything)
    connection = connection_of(session, records)
    steps = [("row", row) for row in resolution.rows]
    steps += [
        ("change" if change["embedding"] is None else "vector", change)
        for change in resolution.changes
    ]
    steps.sort(key=lambda step: step[1]["id"])
    for kind, group in itertools.groupby(steps, operator.itemgetter(0)):
        rows = [row for _, row in group]
        if kind == "row":
            _upsert(connection, records, found.id, rows)
        else:
            _change(connection, records, found.id, rows, has_vector=kind == "vector")
    refresh(session, records, found.id, [row["id"] for row in everything])


def _check_dimensions(found: Found, rows: Sequence[dict[str, Any]]) -> None:
    lengths = {row["embedding"].size for row in rows if row["embedding"] is not None}
    if not lengths:
        return
    expected = min(lengths) if found.size is None else found.size // ITEM_BYTES
    if unexpected := lengths - {expected}:
        raise InvalidVectorError(
            f"vectors of {min(unexpected)} dimensions do not fit in a collection whose "
            f"vectors have {expected}. Nothing of this batch was written"
        )


def _upsert(
    connection: Connection, records: Records, collection_id: int, rows: Sequence[dict[str, Any]]
) -> None:
    """Write the rows as the driver takes them.

    SQLAlchemy's own processing of parameters, a row at a time, costs as much as the insert.
    """
    schema_map = tuple(schema_map_of(connection).items())
    sql, names = _upsert_sql(records, connection.dialect, schema_map)
    updated, as_sent, as_json = now(), vector_writer(connection), metadata_writer(connection)
    values = [
        (
            collection_id,
            row["id"],
            as_sent(row["embedding"]),
            row["content"],
            row["content_blob"],
            row["content_hash"],
            as_json(row["metadata"]),
            updated,
        )
        for row in rows
    ]
    if connection.dialect.positional:
        connection.exec_driver_sql(sql, values)
    else:
        connection.exec_driver_sql(sql, [dict(zip(names, row, strict=True)) for row in values])


@functools.lru_cache(maxsize=64)
def _upsert_sql(
    records: Records, dialect: Dialect, schema_map: tuple[tuple[str | None, str], ...]
) -> tuple[str, list[str]]:
    """Return the statement, and its parameters in the order of the table's columns."""
    table = records.embeddings
    statement = insert_into(table, dialect)
    upsert = statement.on_conflict_do_update(
        index_elements=table.primary_key,
        set_={
            column.name: statement.excluded[column.name]
            for column in table.c
            if not column.primary_key
        },
    )
    return str(compiled(upsert, dialect, schema_map)), [column.name for column in table.c]


def _change(
    connection: Connection,
    records: Records,
    collection_id: int,
    changes: Sequence[dict[str, Any]],
    *,
    has_vector: bool,
) -> None:
    common = {"in_collection_id": collection_id, "new_updated": now()}
    connection.execute(
        _update(records, has_vector),
        [common | {f"new_{name}": value for name, value in change.items()} for change in changes],
    )


@functools.cache
def _update(records: Records, has_vector: bool) -> Executable:
    columns = records.embeddings.c
    changing = [columns.content, columns.content_blob, columns.metadata]
    if has_vector:  # naming the column is a change of the vector, to the triggers
        changing.append(columns.embedding)
    return (
        update(records.embeddings)
        .where(
            columns.collection_id == bindparam("in_collection_id"),
            columns.id == bindparam("new_id"),
            # Else another writer has replaced the row meanwhile, and has the last word.
            columns.content_hash == bindparam("new_content_hash"),
        )
        .values(
            {
                column: func.coalesce(
                    bindparam(
                        f"new_{column.name}",
                        type_=JSONText() if column is columns.metadata else column.type,
                    ),
                    column,
                )
                for column in changing
            }
            | {columns.updated: bindparam("new_updated")}
        )
    )


def refresh(
    session: Session, records: Records, collection_id: int, ids: Sequence[str] = ()
) -> None:
    """Bring what the session has loaded up to date with what was written or deleted past it.

    Values are set and not expired: under asyncio an attribute that has to be read is an error.

    Args:
        session: In whose transaction that was.
        records: The mapped classes.
        collection_id: The collection.
        ids: Of the rows that were written.
    """
    key = records.collection.__mapper__.identity_key_from_primary_key((collection_id,))
    collection = session.identity_map.get(key)
    members = None if collection is None else attributes.instance_dict(collection).get("embeddings")
    if members is not None:
        members = list(members)
    _refresh_records(session, records, collection_id, ids)
    if members is not None:
        _refresh_list(session, records, collection, members, ids)


def _refresh_records(
    session: Session, records: Records, collection_id: int, ids: Sequence[str]
) -> None:
    entity = records.embedding
    key_of = entity.__mapper__.identity_key_from_primary_key
    loaded = [
        record
        for id in (ids if len(session.identity_map) else ())
        if (record := session.identity_map.get(key_of((collection_id, id))))
    ]
    if not loaded:
        return
    statement = (
        select(entity)
        .where(
            entity.collection_id == collection_id,
            is_one_of(records.embeddings.c.id, [record.id for record in loaded]),
        )
        .execution_options(populate_existing=True)
    )
    if not session._flushing:  # else changes of the collection may still be on their way
        statement = statement.options(joinedload(entity.collection))
    run(session, records, statement).all()
    # As the ORM's bulk update does: else the records keep the change when a savepoint goes.
    session._register_altered([attributes.instance_state(record) for record in loaded])


def _refresh_list(
    session: Session, records: Records, collection: Any, members: list[Any], ids: Sequence[str]
) -> None:
    entity = records.embedding
    members = [record for record in members if record in session]
    if new := {*ids} - {record.id for record in members}:
        statement = (
            select(entity)
            .where(
                entity.collection_id == collection.id,
                is_one_of(records.embeddings.c.id, sorted(new)),
            )
            .order_by(entity.id)
        )
        members += run(session, records, statement).scalars()
    attributes.set_committed_value(collection, "embeddings", members)
    session._register_altered([attributes.instance_state(collection)])

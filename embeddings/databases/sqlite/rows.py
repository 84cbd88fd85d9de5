"""Rows of the two tables as SQLite takes them: many at once, by statements that are kept."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Integer,
    String,
    Text,
    Uuid,
    and_,
    bindparam,
    cast,
    collate,
    func,
    literal,
    literal_column,
    select,
    true,
    type_coerce,
)
from sqlalchemy.dialects import sqlite

from ...tables.ours import schema_map_of
from ...tables.records import COLUMNS
from ...vectors import as_stored
from ...work.looking import known_rows, unknown_hashes
from ..base import HASHES_AT_ONCE, by_hash, has_vector_bytes, rows_of
from ..inserts import Insert, insert_of, own_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement, Dialect, FromClause, Select

    from ...tables.records import Records
    from ...work.operation import Work
    from ..base import Database


def as_json(values: Iterable[Any]) -> str:
    """Return any number of values as one parameter."""
    return json.dumps(list(values))


def is_one_of(id: ColumnElement[str], ids: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return the condition that an id is among those of a parameter of JSON."""
    return id.in_(select(func.json_each(ids).table_valued("value").c.value))


def insert_collection(work: Work, name: str, model_id: str, highest_id: int) -> None:
    """Insert a collection's row, unless another writer did meanwhile.

    Its id is above every one that embeddings and side tables carry, even orphans: SQLite gives the
    id of a deleted collection again, and a new one must inherit nothing.

    Args:
        work: Which writes.
        name: The collection's.
        model_id: That of its model.
        highest_id: Of side tables.
    """
    collections, embeddings = work.records.collections, work.records.embeddings
    unused = 1 + func.max(
        func.coalesce(select(func.max(collections.c.id)).scalar_subquery(), 0),
        func.coalesce(select(func.max(embeddings.c.collection_id)).scalar_subquery(), 0),
        literal(highest_id),
    )
    new = select(literal(name), literal(model_id), unused).where(true())
    work.run(
        sqlite.insert(collections)
        .from_select(["name", "model", "id"], new)
        .on_conflict_do_nothing(index_elements=["name"])
    )


def is_key(
    id: ColumnElement[str], key: ColumnElement[Any], table: FromClause
) -> ColumnElement[bool] | None:
    """Return the condition that an id is one of the host's keys, for a few ids.

    It is in the type of the keys: their index is asked for each id. `Database.is_among` reads all
    keys first.

    Returns:
        None for keys of a type that ids are not compared in.
    """
    if isinstance(key.type, Integer):
        number = cast(id, BigInteger)
        # SQLite makes a number of any text.
        found = and_(key == number, cast(number, Text) == id)
    elif isinstance(key.type, String | Uuid):
        # The host's column may have a collation for which more is equal.
        found = type_coerce(key, Text) == collate(id, "BINARY")
    else:
        return None
    return select(literal_column("1")).where(found).correlate(table).exists()


def stored_rows(work: Work, ids: list[str]) -> Iterable[Any]:
    """Return the rows of `Database.stored_rows`."""
    if (known := known_rows(work, ids)) is not None:
        return known
    parameters = {"collection_id": work.row.id, "ids": json.dumps(ids)}
    return work.run_kept(_rows_of_ids(work.database, work.records), parameters)


@functools.cache
def _rows_of_ids(database: Database, records: Records) -> Select[Any]:
    return rows_of(
        database, records, is_one_of(records.embeddings.c.id, bindparam("ids", type_=Text))
    )


def same_content(work: Work, hashes: list[bytes]) -> Iterable[Any]:
    """Return the rows of `Database.same_content`."""
    hashes = unknown_hashes(work, hashes)
    common = {"collection_id": work.row.id, "vector_bytes": work.row.vector_bytes}
    for start in range(0, len(hashes), HASHES_AT_ONCE):
        some = hashes[start : start + HASHES_AT_ONCE]
        # Rounded up to a power of two, so that a few kept statements do for any number of hashes.
        places = 1 << (len(some) - 1).bit_length()
        padded = some + some[-1:] * (places - len(some))
        parameters = common | {f"hash_{at}": found for at, found in enumerate(padded)}
        yield from work.run_kept(_by_hashes(work.database, work.records, places), parameters)


@functools.cache
def _by_hashes(database: Database, records: Records, places: int) -> Select[Any]:
    content_hash = records.embeddings.c.content_hash
    has_hash = content_hash.in_([bindparam(f"hash_{at}") for at in range(places)])
    return by_hash(database, records, and_(has_vector_bytes(database, records), has_hash))


def write(work: Work, rows: Sequence[dict[str, Any]], updated: int) -> None:
    """Write the rows of `Database.write_rows` as the driver takes them.

    SQLAlchemy's own processing of parameters, a row at a time, costs as much as the insert.
    """
    connection, collection_id = work.connection, work.row.id
    schema_map = tuple(schema_map_of(connection).items())
    statement = _upsert(work.records, connection.dialect, schema_map, tuple(work.extra))
    values = [
        (
            collection_id,
            row["id"],
            as_stored(row["embedding"]),
            row["content"],
            row["content_blob"],
            row["content_hash"],
            row["metadata"],
            row.get("updated", updated),
        )
        for row in rows
    ]
    statement.run(connection, values, work.extra)


@functools.lru_cache(maxsize=64)
def _upsert(
    records: Records,
    dialect: Dialect,
    schema_map: tuple[tuple[str | None, str], ...],
    extra: tuple[str, ...],
) -> Insert:
    """Return the statement. A host's own columns of rows that are there are left alone."""
    table = records.embeddings
    statement = sqlite.insert(table).values(own_values(table, extra))
    upsert = statement.on_conflict_do_update(
        index_elements=table.primary_key,
        set_={name: statement.excluded[name] for name in COLUMNS if not table.c[name].primary_key},
    )
    return insert_of(upsert, dialect, schema_map, [table.c[name] for name in extra])

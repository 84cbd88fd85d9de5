"""Rows of the two tables as PostgreSQL takes them: locked in one order, many at once."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ARRAY,
    Column,
    Executable,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    and_,
    bindparam,
    case,
    cast,
    false,
    func,
    literal,
    literal_column,
    select,
)
from sqlalchemy.dialects import postgresql

from ...tables.ours import schema_map_of
from ...tables.records import COLUMNS
from ...work.looking import known_rows, unknown_hashes
from ..base import by_hash, has_vector_bytes, rows_of
from ..inserts import Insert, insert_of
from . import further, words
from .conditions import is_hashed
from .copy import COPIED_FROM, LOOKED_FOR_FROM, copy
from .drivers import sender
from .servers import is_spread, is_there, settle_copy
from .types import PGVector, Values, as_jsonb

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence, Sized

    from sqlalchemy import ColumnElement, Dialect, Select
    from sqlalchemy.types import TypeEngine

    from ...tables.records import Records
    from ...work.operation import Work
    from ..base import Database

MANY = 100
"""Values, from which it pays to hash them; that takes 0.1 ms for a thousand."""
AT_ONCE = 1 << 20
"""Bytes, about, in one statement: the server is at one while the next is made."""
_AS_THEY_ARE = ("id", "content", "content_blob", "content_hash")
_TYPES: dict[str, TypeEngine[Any]] = {
    "id": Text(),
    "embedding": PGVector(),
    "content": Text(),
    "content_blob": LargeBinary(),
    "content_hash": LargeBinary(),
    "metadata": Text(),  # which is cast to JSONB, for which hosts have codecs
    "updated": Integer(),
}


def are_many(values: Sized) -> bool:
    """Return whether it pays to hash so many values."""
    return len(values) >= MANY


def is_one_of(
    column: ColumnElement[Any], values: ColumnElement[Any], *, are_many: bool = False
) -> ColumnElement[bool]:
    """Return the condition that an id, or a hash, is among `Values`, or in an array.

    A plan that a connection keeps is for any array. If it was made while the table was nearly
    empty, it reads the whole table later, too, and compares each row with each of the values. Those
    of many are hashed as well, which the planner does within a CASE, and asks first as it is cheap.

    Args:
        column: The id or the hash.
        values: An array, or what becomes one.
        are_many: Whether there may be: see `are_many`.
    """
    array = cast(values, ARRAY(LargeBinary if isinstance(column.type, LargeBinary) else Text))
    # In a group: SQLAlchemy 2.0 negates it to `id != ANY(ids)` else, which is another condition.
    is_one = (column == func.any(array)).self_group()
    if not are_many:
        return is_one
    return and_(is_one, is_hashed(column, array))


def keep_collection(work: Work, name: str) -> bool:
    """Keep a collection from being deleted, and nobody else from writing: `lock_to_write`."""
    return work.run_kept(_keep(work.records), {"name": name}).first() is not None


@functools.cache
def _keep(records: Records) -> Executable:
    columns = records.collections.c
    statement = select(columns.id).where(columns.name == bindparam("name"))
    return statement.with_for_update(read=True, key_share=True)


def insert_collection(work: Work, name: str, model_id: str) -> None:
    """Insert a collection's row, unless another writer did meanwhile."""
    new = select(literal(name), literal(model_id))
    work.run(
        postgresql.insert(work.records.collections)
        .from_select(["name", "model"], new)
        .on_conflict_do_nothing(index_elements=["name"])
    )


def lock_collection(work: Work) -> None:
    """Wait for those who write to the collection, and keep others out.

    A new row's foreign key holds the collection, which could not be deleted otherwise.
    """
    id = work.records.collections.c.id
    work.run(select(id).where(id == work.row.id).with_for_update())


def vector_bytes_of(work: Work, collection_id: int) -> int | None:
    """Return the bytes of a vector in a collection; None if it has none."""
    statement = _bytes_in_collection(work.database, work.records)
    row = work.run_kept(statement, {"collection_id": collection_id}).first()
    return None if row is None else row[0]


@functools.cache
def _bytes_in_collection(database: Database, records: Records) -> Executable:
    return bytes_of_one(database, records, bindparam("collection_id", type_=Integer))


def bytes_of_one(
    database: Database, records: Records, collection_id: ColumnElement[int]
) -> Select[Any]:
    """Return the SELECT of the bytes of a vector in a collection.

    They are asked of the row that was found: a plan that sorts all rows first, as one does that was
    made while the table was empty, would fetch each vector.
    """
    columns = records.embeddings.c
    one = (
        select(columns.embedding)
        .where(columns.collection_id == collection_id, columns.embedding.is_not(None))
        .order_by(columns.id)
        .limit(literal_column("1"))
        .correlate(records.collections)
        .subquery()
    )
    return select(database.vector_bytes(one.c.embedding))


def stored_rows(work: Work, ids: list[str], hashes: Collection[bytes] | None) -> Iterable[Any]:
    """Return the rows of `Database.stored_rows`."""
    if (known := known_rows(work, ids)) is not None:
        return known
    parameters: dict[str, Any] = {"collection_id": work.row.id, "ids": ids}
    if hashes is not None:
        parameters["hashes"] = list(hashes)
    statement = _rows_of_ids(
        work.database, work.records, are_many=are_many(ids), has_hashes=hashes is not None
    )
    return work.run(statement, parameters)


@functools.cache
def _rows_of_ids(
    database: Database, records: Records, *, are_many: bool, has_hashes: bool
) -> Select[Any]:
    columns = records.embeddings.c
    is_one = is_one_of(columns.id, bindparam("ids", type_=Values()), are_many=are_many)
    is_measured = None
    if has_hashes:  # to know the length of a vector is to fetch the whole of it
        hashes = cast(bindparam("hashes", type_=Values()), ARRAY(LargeBinary))
        is_measured = (
            is_hashed(columns.content_hash, hashes)
            if are_many
            else columns.content_hash == func.any(hashes)
        )
    return rows_of(database, records, is_one, is_measured)


def same_content(work: Work, hashes: list[bytes]) -> Iterable[Any]:
    """Return the rows of `Database.same_content`."""
    hashes = unknown_hashes(work, hashes)
    if not hashes:
        return ()
    parameters = {
        "collection_id": work.row.id,
        "vector_bytes": work.row.vector_bytes,
        "hashes": hashes,
    }
    has_citus = is_there(work.connection)
    statement = _by_hashes(
        work.database, work.records, is_routed=has_citus, are_many=are_many(hashes)
    )
    return work.run(statement, parameters)


@functools.cache
def _by_hashes(
    database: Database, records: Records, *, is_routed: bool, are_many: bool
) -> Select[Any]:
    columns = records.embeddings.c
    # An array: PostgreSQL parses and plans it ten times faster than as many parameters.
    hashes = bindparam("hashes", type_=Values())
    has_hash = is_one_of(columns.content_hash, hashes, are_many=are_many)
    # In a CASE: else it may be asked first, which fetches each vector of the collection.
    is_same = and_(has_hash, case((has_hash, has_vector_bytes(database, records)), else_=false()))
    # By the column itself Citus knows the server; else it asks all of them.
    collection_id = columns.collection_id if is_routed else None
    return by_hash(database, records, is_same, collection_id)


def write(
    work: Work, rows: Sequence[dict[str, Any]], updated: int, there: Collection[str] | None
) -> None:
    """Write the rows of `Database.write_rows`."""
    if not (
        _can_be_copied(work, rows) and _are_new(work, rows, there) and _copied(work, rows, updated)
    ):
        _write(work, rows, updated, replaces=True)


def add(work: Work, rows: Sequence[dict[str, Any]], updated: int) -> bool:
    """Write the rows of `Database.add_rows`."""
    if _can_be_copied(work, rows) and _copied(work, rows, updated):
        return False
    return _write(work, rows, updated, replaces=False) != len(rows)


def _copied(work: Work, rows: Sequence[dict[str, Any]], updated: int) -> bool:
    """Copy rows, and return whether that was done."""
    if not copy(work, rows, updated):
        return False
    settle_copy(work)
    return True


def _can_be_copied(work: Work, rows: Sequence[dict[str, Any]]) -> bool:
    """Return whether rows that are new may go by COPY, which is within a savepoint.

    They are many, and a host's own columns get no values from here: given ones, or defaults in
    Python.
    """
    if len(rows) < COPIED_FROM or work.extra:
        return False
    own = (column for column in work.records.embeddings.columns if column.name not in COLUMNS)
    return all(column.default is None for column in own) and not (
        work.database.commits_each_statement(work.connection)
    )


def _are_new(work: Work, rows: Sequence[dict[str, Any]], there: Collection[str] | None) -> bool:
    if there is not None:
        return all(row["id"] not in there for row in rows)
    if len(rows) < LOOKED_FOR_FROM:
        return False
    columns = work.records.embeddings.c
    ids = [row["id"] for row in rows]
    stored = select(columns.id).where(
        columns.collection_id == work.row.id,
        work.database.is_one_of(columns.id, ids),
    )
    return work.run(stored.limit(1)).first() is None


def _write(work: Work, rows: Sequence[dict[str, Any]], updated: int, *, replaces: bool) -> int:
    """Write rows by an INSERT of arrays, and return how many; not every driver can tell.

    SQLAlchemy's own processing of parameters, a row at a time, costs as much as the insert, and a
    statement for each row half of it.
    """
    connection = work.connection
    schema_map = tuple(schema_map_of(connection).items())
    names = further.columns_of(work)
    statement = _insert(
        work.records,
        connection.dialect,
        schema_map,
        tuple(work.extra),
        replaces=replaces,
        names=names,
    )
    send = sender(connection)
    values: list[tuple[Any, ...]] = []
    for piece in _pieces(rows, AT_ONCE if not statement.defaults else 0):
        columns = [[row[name] for row in piece] for name in _AS_THEY_ARE]
        columns.append([row["metadata"] and as_jsonb(row["metadata"]) for row in piece])
        columns.append([row.get("updated", updated) for row in piece])
        if names:
            found = (further.values_of(work, row, words.as_tsvector) for row in piece)
            columns += map(list, zip(*found, strict=True))
        ids, *others = map(send.values, columns)
        vectors = send.vectors([row["embedding"] for row in piece])
        values.append((work.row.id, ids, vectors, *others))
    with send.within():
        return statement.run(connection, values, work.extra)


def _pieces(rows: Sequence[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    """Yield rows in order, at least one at a time, and no more after so many bytes, about."""
    piece: list[dict[str, Any]] = []
    room = size
    for row in rows:
        piece.append(row)
        room -= row["embedding"].nbytes
        room -= sum(len(row[name] or "") for name in ("content", "content_blob", "metadata"))
        if room < 0:
            yield piece
            piece, room = [], size
    if piece:
        yield piece


@functools.lru_cache(maxsize=64)
def _insert(
    records: Records,
    dialect: Dialect,
    schema_map: tuple[tuple[str | None, str], ...],
    extra: tuple[str, ...],
    *,
    replaces: bool,
    names: tuple[str, ...],
) -> Insert:
    """Return the statement. A host's own columns of rows that are there are left alone.

    So are the words of a row that is written without any: if they are those of another content,
    they count for nothing.
    """
    columns = (*COLUMNS, *names)
    types = _TYPES | {name: further.TYPES[name] for name in names}
    table = records.embeddings
    if names:
        table = table.to_metadata(MetaData())
        for name in names:
            table.append_column(Column(name, further.TYPES[name]))
    arrays = (cast(bindparam(name), ARRAY(kind)) for name, kind in types.items())
    given = func.unnest(*arrays).table_valued(*types, name="given").render_derived()
    values: dict[str, Any] = {
        name: bindparam(name, type_=table.c[name].type) for name in ("collection_id", *extra)
    }
    values |= {name: given.c[name] for name in types}
    values["metadata"] = cast(given.c.metadata, postgresql.JSONB)
    if words.WORDS in names:
        values[words.WORDS] = cast(given.c[words.WORDS], postgresql.TSVECTOR)
    # In the order of the arrays, which is that of all writers.
    statement = postgresql.insert(table).from_select([*values], select(*values.values()))
    replaced: dict[str, ColumnElement[Any]] = {
        name: statement.excluded[name] for name in columns if not table.c[name].primary_key
    }
    replaced |= {
        name: func.coalesce(statement.excluded[name], table.c[name])
        for name in (words.WORDS, words.WORDS_OF)
        if name in names
    }
    statement = (
        statement.on_conflict_do_update(index_elements=table.primary_key, set_=replaced)
        if replaces
        else statement.on_conflict_do_nothing(index_elements=table.primary_key)
    )
    return insert_of(statement, dialect, schema_map, [table.c[name] for name in extra], columns)


def lock_rows(work: Work, conditions: Sequence[ColumnElement[bool]]) -> list[str]:
    """Lock rows in the order of all writers, and return their ids.

    A DELETE locks them in any order, and may then wait for a writer that waits for it.
    """
    columns = work.records.embeddings.c
    rows = select(columns.id).where(*conditions).order_by(columns.id)
    if not is_spread(work.connection):
        rows = rows.with_for_update()
    return list(work.run(rows).scalars())

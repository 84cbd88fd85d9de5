"""What the matrix asks of the database. Each statement sees one snapshot, and says which.

The first row of each answer is the position of the snapshot in the change log.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    BLOB,
    ColumnElement,
    CompoundSelect,
    Integer,
    MetaData,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    exists,
    func,
    literal_column,
    null,
    select,
    type_coerce,
    union_all,
)
from sqlalchemy import Column as SQLColumn
from sqlalchemy.types import NullType

from ...changelog import trigger_names
from ...sql import compiled, connection_of, run, schema_map_of
from .state import Mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sqlalchemy import Dialect, FromClause
    from sqlalchemy.orm import Session

    from ...records import Records

MOST_CHANGES = 64  # rows of the log that the answer to a search brings along
CHUNK_ROWS = 256
WIDTH = 5  # columns of a statement's parts, beside the one that tells the part


class Position(NamedTuple):
    """Where in its history a session sees the collection."""

    is_logged: bool
    """Whether every write is logged: our triggers stand, on the table that the session means."""
    lineage: bytes | None
    """What the database has for its name."""
    mark: Mark | None
    """The newest row of the log for this collection."""
    has_base: bool
    """Whether it holds the row of the log that was asked about."""


class Answer(NamedTuple):
    """What one statement returned, all of one snapshot."""

    position: Position
    rows: list[tuple[str, Any, Any, Any]]
    """(id, embedding, content, metadata), as stored, of what meets the conditions."""
    changes: list[tuple[str | None, Any, bool]]
    """(id, embedding, is there) of what was written after the base."""


class _Tables(NamedTuple):
    log: Table
    objects: FromClause
    shadows: FromClause


@functools.cache
def _tables(records: Records) -> _Tables:
    metadata, schema = MetaData(), records.embeddings.schema

    def objects(schema: str | None) -> Table:
        names = ("type", "name", "tbl_name")
        columns = [SQLColumn(name, Text) for name in names]
        return Table("sqlite_master", metadata, *columns, schema=schema)

    log = Table(
        records.log,
        metadata,
        SQLColumn("seq", Integer),
        SQLColumn("collection_id", Integer),
        SQLColumn("id", Text),
        SQLColumn("token", BLOB),
        schema=schema,
    )
    return _Tables(log, objects(schema).alias("ours"), objects("temp").alias("theirs"))


def _raw(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return type_coerce(column, NullType)


def _constant(value: str | int) -> ColumnElement[Any]:
    quoted = "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)
    return literal_column(quoted)


@functools.cache
def _is_logged(records: Records) -> ColumnElement[bool]:
    tables = _tables(records)
    ours = [_constant(name) for name in (records.embeddings.name, records.log)]
    names = [_constant(name) for name in trigger_names(records)]
    objects, shadows = tables.objects.c, tables.shadows.c
    triggers = select(func.count()).where(
        objects.type == _constant("trigger"), objects.name.in_(names), objects.tbl_name.in_(ours)
    )
    stand = triggers.scalar_subquery() == _constant(len(names))
    # A temporary table of the name goes first, and has no log.
    shadowed = exists(select(_constant(1)).where(shadows.name.in_(ours)))
    return stand if records.embeddings.schema else and_(stand, ~shadowed)


@functools.cache
def _position(records: Records) -> Select[Any]:
    log = _tables(records).log.c
    ours = log.collection_id == bindparam("of")
    seq = select(func.max(log.seq)).where(ours).scalar_subquery()
    token = select(log.token).where(log.seq == seq).scalar_subquery()
    lineage = select(log.token).where(log.seq == _constant(0)).scalar_subquery()
    is_base = and_(ours, log.seq == bindparam("seq"), log.token == bindparam("token"))
    has_base = exists(select(_constant(1)).where(is_base))
    return _selected(0, *map(_raw, (seq, token, lineage, has_base, _is_logged(records))))


def _selected(kind: int, *columns: ColumnElement[Any]) -> Select[Any]:
    """Return a SELECT of as many columns as every part of a statement has."""
    return select(_constant(kind), *columns, *[null()] * (WIDTH - len(columns)))


def _changed(records: Records) -> FromClause:
    log = _tables(records).log.c
    ids = select(log.id).where(log.collection_id == bindparam("of"), log.seq > bindparam("seq"))
    return ids.distinct().limit(bindparam("most")).offset(_constant(0)).subquery("changed")


@functools.cache
def _changes(records: Records) -> Select[Any]:
    columns, changed = records.embeddings.c, _changed(records)
    is_row = and_(columns.collection_id == bindparam("of"), columns.id == changed.c.id)
    is_there = _raw(columns.id.is_not(None))
    changes = _selected(2, changed.c.id, _raw(columns.embedding), is_there)
    return changes.select_from(changed.outerjoin(records.embeddings, is_row))


def _answer(
    records: Records, conditions: Sequence[ColumnElement[bool]] = ()
) -> CompoundSelect[Any]:
    columns = records.embeddings.c
    given = func.json_each(bindparam("ids", type_=Text)).table_valued("value")
    wanted = union_all(select(given.c.value), select(_changed(records).c.id))
    rows = _selected(
        1, columns.id, *map(_raw, (columns.embedding, columns.content, columns.metadata))
    ).where(columns.collection_id == bindparam("of"), columns.id.in_(wanted), *conditions)
    return union_all(_position(records), rows, _changes(records))


@functools.lru_cache(maxsize=64)
def _answer_sql(
    records: Records, dialect: Dialect, schema_map: tuple[tuple[str | None, str], ...]
) -> tuple[str, list[str]]:
    """Return the statement without conditions, and the names of its parameters in order.

    To have SQLAlchemy look up so large a statement takes as long as to execute it.
    """
    sql = compiled(_answer(records), dialect, schema_map)
    return str(sql), list(getattr(sql, "positiontup", None) or ())


def answer(
    session: Session,
    records: Records,
    of: int,
    base: Mark,
    ids: Iterable[str],
    conditions: Sequence[ColumnElement[bool]] = (),
) -> Answer:
    """Return the rows of the candidates, and whether the base they were chosen from holds.

    Args:
        session: What it sees.
        records: The mapped classes.
        of: The collection's id.
        base: The mark of the state in which the candidates were found.
        ids: The candidates.
        conditions: Only those that meet them.
    """
    parameters = _at(of, base) | {"most": MOST_CHANGES + 1, "ids": json.dumps(list(ids))}
    if conditions:
        rows = run(session, records, _answer(records, conditions), parameters).all()
    else:
        connection = connection_of(session, records)
        schema_map = tuple(schema_map_of(connection).items())
        sql, names = _answer_sql(records, connection.dialect, schema_map)
        rows = connection.exec_driver_sql(sql, tuple(parameters[name] for name in names)).all()
    return Answer(
        _as_position(rows[0]),
        [(row[1], row[2], row[3], row[4]) for row in rows if row[0] == 1],
        [(row[1], row[2], bool(row[3])) for row in rows if row[0] == 2],
    )


def position(session: Session, records: Records, of: int, base: Mark | None = None) -> Position:
    """Return where the session is; also for a database that never had a log.

    Args:
        session: What it sees.
        records: The mapped classes.
        of: The collection's id.
        base: The mark to look for.
    """
    # The log is not named before it is known to be there.
    if not run(session, records, select(_is_logged(records))).scalar_one():
        return Position(False, None, None, False)
    rows = run(session, records, _position(records), _at(of, base))
    return _as_position(rows.one())


def known(session: Session, records: Records, of: int, marks: Iterable[Mark]) -> set[Mark]:
    """Return those of the marks that the session's log holds."""
    log = _tables(records).log.c
    statement = select(log.seq, log.token).where(
        log.collection_id == of, log.seq.in_([mark.seq for mark in marks])
    )
    return {Mark(*row) for row in run(session, records, statement)} & set(marks)


def count(session: Session, records: Records, of: int) -> int:
    """Return the number of rows of the collection."""
    statement = select(func.count()).where(records.embeddings.c.collection_id == of)
    return int(run(session, records, statement).scalar_one())


def meeting(
    session: Session,
    records: Records,
    of: int,
    base: Mark,
    conditions: Sequence[ColumnElement[bool]],
) -> tuple[Position, set[str]]:
    """Return where the session is, and the ids that meet the conditions there."""
    columns = records.embeddings.c
    # Not "id IS NOT NULL": SQLite would seek by that, and not by the ids of a condition.
    ids = _selected(1, columns.id).where(columns.collection_id == of, *conditions)
    rows = run(session, records, union_all(_position(records), ids), _at(of, base)).all()
    return _as_position(rows[0]), {row[1] for row in rows[1:]} - {None}


def load(
    session: Session, records: Records, of: int, since: Mark | None
) -> Iterator[list[tuple[str | None, Any, bool]]]:
    """Yield all rows of the collection, or what was written after a mark, in parts.

    What else is written on the same connection meanwhile may be among them or not.

    Yields:
        Lists of (id, embedding, is there).
    """
    columns = records.embeddings.c
    statement: Select[Any]
    if since is None:
        statement = select(columns.id, _raw(columns.embedding), _constant(1)).where(
            columns.collection_id == bindparam("of"), columns.id.is_not(None)
        )
    else:
        changes = _changes(records).subquery().c
        statement = select(changes[1], changes[2], changes[3])
    parameters = _at(of, since) | {"most": -1}
    options = {"yield_per": CHUNK_ROWS}
    result = run(session, records, statement.execution_options(**options), parameters)
    for part in result.partitions():
        yield [(id, blob, bool(is_there)) for id, blob, is_there in part]


@functools.lru_cache(maxsize=64)
def decoders(
    records: Records, dialect: Dialect
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return what makes of a stored content and of stored metadata what their columns hold."""
    columns = records.embeddings.c
    content, metadata = (
        column.type.dialect_impl(dialect).result_processor(dialect, None) or _unchanged
        for column in (columns.content, columns.metadata)
    )
    return content, metadata


def _unchanged(value: Any) -> Any:
    return value


def _at(of: int, base: Mark | None) -> dict[str, Any]:
    seq, token = (0, b"") if base is None else base
    return {"of": of, "seq": seq, "token": token}


def _as_position(row: Any) -> Position:
    _, seq, token, lineage, has_base, is_logged = row
    mark = None if seq is None else Mark(seq, token)
    return Position(bool(is_logged), lineage, mark, bool(has_base))

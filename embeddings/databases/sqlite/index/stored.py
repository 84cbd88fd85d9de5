"""An index packed in the database: one table for each, whose name tells its method.

The row with part 0 has the place in the change log up to which the others are complete. Each of the
others is a segment, with a bitmap of those of its rows that are out of date. So a process that
begins reads a fraction of what the vectors take, and little is written anew when rows change.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sqlalchemy.exc import OperationalError

from ..changelog import log_name, schema_of, within
from ..matrix.state import Mark, State
from ..transactions import sqlite_transaction
from .names import is_table, prefix, table_name
from .segments import CodedSegment, Ids, no_radii

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ....tables.records import Records
    from ....work.operation import Work
    from .method import Method

SIZE = "length(ids) + length(ends) + length(codes)"
COLUMNS = "part, seq, token, facts, ids, ends, codes, dead"
NO_TABLE = "no such table"
"""In what SQLite says where somebody has dropped the change log, or the index."""


class Head(NamedTuple):
    """What the database keeps of an index.

    Attributes:
        seq: Of the row of the change log up to which it is complete; None while it is empty.
        token: Of the same.
        rows: How many rows are in it.
        dimensions: Of their vectors; None while it is empty.
        bytes: What it takes.
        is_complete: Whether no part is missing, or of another size.
    """

    seq: int | None
    token: bytes | None
    rows: int
    dimensions: int | None
    bytes: int
    is_complete: bool


def _table(work: Work) -> str:
    name = table_name(work.records, work.row.id, work.row.index_method or "")
    return f'{within(schema_of(work.connection, work.records))}"{name}"'


def _log(work: Work) -> str:
    return f'{within(schema_of(work.connection, work.records))}"{log_name(work.records)}"'


def _is_held(work: Work, seq: str, token: str) -> str:
    return (
        f"EXISTS (SELECT 1 FROM {_log(work)} AS held WHERE held.seq = {seq} "
        f"AND held.token = {token} AND held.collection_id = {work.row.id:d})"
    )


def create(work: Work) -> None:
    """Make the table of the index that the collection's row names, unless it is there."""
    with sqlite_transaction(work.connection):
        work.connection.exec_driver_sql(
            f"CREATE TABLE IF NOT EXISTS {_table(work)} (part INTEGER PRIMARY KEY, seq INTEGER, "
            "token BLOB, facts TEXT, ids BLOB, ends BLOB, codes BLOB, dead BLOB)"
        )


def drop(work: Work) -> None:
    """Drop the table of the index, if the collection's row names one, which it does not then."""
    if work.row.index_method is not None:
        with sqlite_transaction(work.connection):
            work.connection.exec_driver_sql(f"DROP TABLE IF EXISTS {_table(work)}")
        work.row = work.row._replace(index_method=None)


def drop_all(connection: Connection, records: Records) -> None:
    """Drop the tables of all indexes."""
    inside = within(schema_of(connection, records))
    names = connection.exec_driver_sql(
        f"SELECT name FROM {inside}sqlite_master WHERE type = 'table' AND substr(name, 1, ?) = ?",
        (len(prefix(records)), prefix(records)),
    ).scalars()
    for name in names.all():
        if is_table(name, records):
            connection.exec_driver_sql(f'DROP TABLE IF EXISTS {inside}"{name}"')


def head(work: Work) -> Head:
    """Return what the database keeps of the index that the collection's row names."""
    seq, token, facts, size = work.connection.exec_driver_sql(
        f"SELECT head.seq, head.token, head.facts, ({_size(work)}) "
        f"FROM (SELECT 1) LEFT JOIN {_table(work)} AS head ON head.part = 0"
    ).one()
    try:
        known = json.loads(facts or "{}")
        rows, dimensions = known.get("rows", 0), known.get("dimensions")
    except (ValueError, AttributeError):  # what somebody else has written there
        seq, token, rows, dimensions = None, None, 0, None
    return Head(seq, token, rows, dimensions, size, seq is None or _is_complete(facts, size))


def _size(work: Work) -> str:
    """Return the SELECT of the bytes of all parts, of which SQLite reads no more than the sizes."""
    return f"SELECT CAST(total({SIZE} + coalesce(length(dead), 0)) AS INTEGER) FROM {_table(work)}"


def _is_complete(facts: Any, size: int) -> bool:
    try:
        known = json.loads(facts)
        # Before, nothing told of the bytes.
        return "rows" in known and known.get("bytes", size) == size
    except (ValueError, TypeError, AttributeError):
        return False


def behind(work: Work) -> int | None:
    """Return how many rows the log has after the place up to which the index is complete.

    None where a part is missing, or that place is not in the log any more, or there is no log.
    """
    try:
        row = work.connection.exec_driver_sql(
            f"SELECT (SELECT max(seq) FROM {_log(work)}) - head.seq, head.facts, ({_size(work)}) "
            f"FROM {_table(work)} AS head "
            f"WHERE head.part = 0 AND {_is_held(work, 'head.seq', 'head.token')}"
        ).first()
    except OperationalError as error:
        if NO_TABLE in str(error.orig):
            return None
        raise
    return int(row[0]) if row is not None and _is_complete(*row[1:]) else None


def save(work: Work, state: State, dimensions: int) -> None:
    """Write a state, as far as the table differs from it.

    Args:
        work: In a transaction that keeps other writers out, and sees what the state has.
        state: Of segments of codes.
        dimensions: Of the vectors.
    """
    connection, table = work.connection, _table(work)
    rows = connection.exec_driver_sql(
        f"SELECT part, dead, {SIZE} AS size FROM {table} WHERE part > 0"
    )
    there: dict[int, Any] = {row.part: row for row in rows}
    kept: dict[int, CodedSegment] = {}
    for start, segment in zip(state.starts, state.segments, strict=False):
        assert isinstance(segment, CodedSegment)  # noqa: S101  of an index
        kept[segment.key] = segment
        is_dead = state.radii[start : start + len(segment)] == np.inf
        dead = np.packbits(is_dead).tobytes() if is_dead.any() else None
        row = there.get(segment.key)
        if row is None or row.size != _bytes(segment):
            connection.exec_driver_sql(
                f"INSERT OR REPLACE INTO {table} ({COLUMNS}) VALUES (?, NULL, NULL, ?, ?, ?, ?, ?)",
                (segment.key, *_packed(segment), dead),
            )
        elif row.dead != dead:
            connection.exec_driver_sql(
                f"UPDATE {table} SET dead = ? WHERE part = ?", (dead, segment.key)
            )
    if gone := [(part,) for part in there if part not in kept]:
        connection.exec_driver_sql(f"DELETE FROM {table} WHERE part = ?", gone)
    facts = {
        "dimensions": dimensions,
        "rows": state.rows,
        "bytes": connection.exec_driver_sql(_size(work)).scalar_one(),
        "invalid": sorted(state.invalid),
    }
    connection.exec_driver_sql(
        f"INSERT OR REPLACE INTO {table} (part, seq, token, facts) VALUES (0, ?, ?, ?)",
        (*state.mark, json.dumps(facts)),
    )


def _bytes(segment: CodedSegment) -> int:
    """Return the bytes of ids, ends and codes, as they are stored."""
    return len(segment.ids.text) + segment.ids.ends.nbytes + segment.codes.nbytes


def _packed(segment: CodedSegment) -> tuple[str, bytes, bytes, bytes]:
    """Return facts, ids, ends and codes, as they are stored."""
    text, ends, codes = segment.ids.text, segment.ids.ends, segment.codes
    little = codes.astype(codes.dtype.newbyteorder("<"), copy=False)
    facts = {"dtype": little.dtype.str, "shape": codes.shape}
    return json.dumps(facts), text, ends.astype("<u4").tobytes(), little.tobytes()


def rows_kept(work: Work) -> int | None:
    """Return how many rows `load` would give; None if what is kept is of no use."""
    found = head(work)
    return None if found.seq is None or behind(work) is None else found.rows


def load(work: Work, method: Method, dimensions: int) -> State | None:
    """Return the state that is kept, if the change log tells what was written since.

    All comes of one statement, and so of one snapshot.
    """
    table = _table(work)
    try:
        rows = work.connection.exec_driver_sql(
            f"SELECT {COLUMNS} FROM {table} WHERE EXISTS (SELECT 1 FROM {table} AS head "
            f"WHERE head.part = 0 AND {_is_held(work, 'head.seq', 'head.token')}) ORDER BY part"
        ).all()
    except OperationalError as error:
        if NO_TABLE in str(error.orig):  # dropped meanwhile
            return None
        raise
    try:
        return _state(rows, method, dimensions)
    except (ValueError, TypeError, KeyError, IndexError):  # what somebody else has written there
        return None


def _state(rows: list[Any] | Any, method: Method, dimensions: int) -> State | None:
    if not rows or rows[0].part != 0:
        return None
    facts = json.loads(rows[0].facts)
    if facts["dimensions"] != dimensions:
        return None
    parts = []
    for row in rows[1:]:
        segment = _unpacked(row, method)
        is_dead = np.zeros(len(segment), bool)
        if row.dead is not None:
            if len(row.dead) != -(-len(segment) // 8):
                raise ValueError("the bitmap is of another number of rows")
            is_dead = np.unpackbits(np.frombuffer(row.dead, np.uint8), count=len(segment)) > 0
        parts.append((segment, is_dead))
    parts.sort(key=lambda part: -len(part[0]))  # so that small ones are neighbours, to be joined
    mark = Mark(rows[0].seq, rows[0].token)
    state = State.of(mark, [segment for segment, _ in parts], facts["invalid"])  # type: ignore[misc]
    if parts:
        dead = np.concatenate([is_dead for _, is_dead in parts])
        state = replace(state, radii=np.where(dead, np.float32(np.inf), np.float32(0.0)))
    return state if state.rows == facts["rows"] else None


def _unpacked(row: Any, method: Method) -> CodedSegment:
    facts = json.loads(row.facts)
    codes = np.frombuffer(row.codes, facts["dtype"]).reshape(facts["shape"])
    ids = Ids(row.ids, np.frombuffer(row.ends, "<u4").astype(np.uint32, copy=False))
    if len(ids) != codes.shape[-1] or int(ids.ends[-1]) != len(row.ids):
        raise ValueError("ids and codes differ in number")
    return CodedSegment(ids, codes, no_radii(len(ids)), method, row.part)

"""What the matrix asks of the database. Each statement sees one snapshot, and says which.

The first row of each answer is the position of the snapshot in the change log.
"""

from __future__ import annotations

import functools
import json
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    BLOB,
    BindParameter,
    ColumnElement,
    CompoundSelect,
    Integer,
    MetaData,
    Row,
    Select,
    Subquery,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
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

from ...quoting import literal
from .. import parts
from ..changelog import log_name, trigger_names
from ..index.names import method_of
from ..rows import is_key
from .state import Mark

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from sqlalchemy import FromClause, Result

    from ....searching.query import Query
    from ....tables.records import Records
    from ....work.operation import Work
    from ....work.row import CollectionRow

MOST_CHANGES = 64  # changed rows that the answer to a search brings along
CHUNK_ROWS = 256  # rows fetched at a time while a state is built
COLUMNS = ("part", "id", "embedding", "content", "metadata", "is_there", "last")
"""The names of the columns of each part of a statement; in the first they stand for others."""


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
    has_collection: bool
    """Whether the collection's row is the one that was asked about, and its index."""


class Change(NamedTuple):
    """What was written after the base."""

    row: Row[Any]
    """With the id also where it was deleted."""
    is_there: bool


class Answer:
    """What one statement returns, all of one snapshot.

    Attributes:
        position: Of the snapshot in the log.
        changes: What was written after the base, or one more than `MOST_CHANGES` of it.
    """

    def __init__(self, result: Result[Any], first: int) -> None:
        self._result = result
        first = max(first, 1)  # the changes come first: one more row tells whether there are any
        head, *rows = result.fetchmany(1 + first)
        self.position = _as_position(head)
        self.changes: list[Change] = []
        while rows and rows[-1][0] == 1:
            self.changes += map(_as_change, rows)
            rows = [*result.fetchmany(first)]
        self.changes += [_as_change(row) for row in rows if row[0] == 1]
        self._waiting = [row for row in rows if row[0] == 2]

    def rows(self, count: int) -> list[Row[Any]]:
        """Read on, and return the rows of the next `count` candidates, in their order.

        Each has `id`, `embedding`, `content` and `metadata`, as stored. The id is None where the
        candidate is not there, or does not meet the conditions.
        """
        rows = self._waiting[:count]
        del self._waiting[:count]
        if missing := count - len(rows):
            rows += self._result.fetchmany(missing)
        return rows


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
        log_name(records),
        metadata,
        SQLColumn("seq", Integer),
        SQLColumn("collection_id", Integer),
        SQLColumn("id", Text),
        SQLColumn("token", BLOB),
        schema=schema,
    )
    return _Tables(log, objects(schema).alias("ours"), objects("temp").alias("theirs"))


def _given(name: str, type_: Any = None) -> BindParameter[Any]:
    """Return a parameter under a name that no parameter of a host's condition has."""
    return bindparam(f"embeddings_{name}", type_=type_)


def _values(**values: Any) -> dict[str, Any]:
    """Return the values of such parameters."""
    return {f"embeddings_{name}": value for name, value in values.items()}


def _raw(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return type_coerce(column, NullType)


def _constant(value: str | int) -> ColumnElement[Any]:
    return literal_column(literal(value) if isinstance(value, str) else str(value))


@functools.cache
def _is_logged(records: Records) -> ColumnElement[bool]:
    tables = _tables(records)
    ours = [_constant(name) for name in (records.embeddings.name, log_name(records))]
    names = [_constant(name) for name in trigger_names(records)]
    objects, shadows = tables.objects.c, tables.shadows.c
    triggers = select(func.count()).where(
        objects.type == _constant("trigger"), objects.name.in_(names), objects.tbl_name.in_(ours)
    )
    stand = triggers.scalar_subquery() == _constant(len(names))
    # A temporary table of the same name hides ours, and has no log.
    shadowed = exists(select(_constant(1)).where(shadows.name.in_(ours)))
    return stand if records.embeddings.schema else and_(stand, ~shadowed)


def _number_of_tables(records: Records) -> ColumnElement[int]:
    """Return the SQL of 1 if the collection's rows are chunks, and 0 if they are items.

    How they are cut makes no difference to a search.
    """
    objects = _tables(records).objects.c
    named = _constant(parts.prefix(records)).concat(_given("of"))
    found = select(func.count()).where(
        objects.type == _constant("table"), objects.name == named, _has_its_own(records)
    )
    return found.scalar_subquery()


def _has_its_own(records: Records) -> ColumnElement[bool]:
    """Return the condition that side tables are not those of a deleted collection: `leftover`."""
    log = _tables(records).log.c
    noted = log.collection_id == _constant(0).op("-")(_given("of"))
    return ~exists(select(_constant(1)).where(noted))


@functools.cache
def _position(records: Records) -> Select[Any]:
    log = _tables(records).log.c
    ours = log.collection_id == _given("of")
    seq = select(func.max(log.seq)).where(ours).scalar_subquery()
    token = select(log.token).where(log.seq == seq).scalar_subquery()
    lineage = select(log.token).where(log.seq == _constant(0)).scalar_subquery()
    is_base = and_(ours, log.seq == _given("seq"), log.token == _given("token"))
    row = records.collections.c
    is_this_row = and_(
        row.id == _given("of"),
        row.name == _given("name"),
        row.model.is_not_distinct_from(_given("model")),
        _number_of_tables(records) == _given("tables_of_chunks"),
        case((_has_its_own(records), method_of(records, _given("of")))).is_not_distinct_from(
            _given("index")
        ),
    )
    has_base, has_collection = (
        exists(select(_constant(1)).where(condition)) for condition in (is_base, is_this_row)
    )
    columns = (seq, token, lineage, has_base, has_collection, _is_logged(records))
    return _selected(0, *map(_raw, columns))


def _selected(kind: int, *columns: ColumnElement[Any]) -> Select[Any]:
    """Return a SELECT of as many columns as every part of a statement has."""
    every = [_constant(kind), *columns, *[null()] * len(COLUMNS)]
    return select(*[column.label(name) for column, name in zip(every, COLUMNS, strict=False)])


def _changed(records: Records) -> FromClause:
    log = _tables(records).log.c
    ids = select(log.id).where(log.collection_id == _given("of"), log.seq > _given("seq"))
    return ids.distinct().limit(_given("most")).offset(_constant(0)).subquery("changed")


@functools.cache
def _changes(records: Records) -> Select[Any]:
    changed, row = _changed(records), _rows(records)
    stored = (row.c.embedding, row.c.content, row.c.metadata)
    changes = _selected(1, changed.c.id, *map(_raw, (*stored, row.c.id.is_not(None))))
    return changes.select_from(changed.outerjoin(row, row.c.id == changed.c.id))


def _whole(records: Records, conditions: Sequence[ColumnElement[bool]] = ()) -> CompoundSelect[Any]:
    given = func.json_each(_given("ids", Text)).table_valued("value")
    row = _rows(records, conditions)
    stored = (row.c.id, row.c.embedding, row.c.content, row.c.metadata)
    candidates = _selected(2, *map(_raw, stored))
    return union_all(
        _position(records),
        _changes(records),
        # The outer join keeps the order of the ids: reading can end where the rest is too far.
        candidates.select_from(given.outerjoin(row, row.c.id == given.c.value)),
    )


@functools.cache
def _unfiltered(records: Records) -> CompoundSelect[Any]:
    return _whole(records)


def _rows(records: Records, conditions: Sequence[ColumnElement[bool]] = ()) -> Subquery:
    """Return the collection's rows, alone: a host's condition may name a column without a table."""
    columns = records.embeddings.c
    statement = select(columns.id, columns.embedding, columns.content, columns.metadata)
    return statement.where(columns.collection_id == _given("of"), *conditions).subquery()


@contextmanager
def answer(
    work: Work,
    base: Mark,
    ids: Sequence[str],
    first: int,
    conditions: Sequence[ColumnElement[bool]] = (),
) -> Iterator[Answer]:
    """Yield the rows of the candidates, and whether the base they were chosen from holds.

    Args:
        work: What its session sees, of its collection.
        base: The mark of the state in which the candidates were found.
        ids: The candidates.
        first: How many of them will be read in any case.
        conditions: Only candidates that meet them; the changes are all there.
    """
    parameters = _at(work.row, base) | _values(most=MOST_CHANGES + 1, ids=json.dumps(ids))
    if conditions:
        result = work.run(_whole(work.records, conditions), parameters)
    else:
        result = work.run_kept(_unfiltered(work.records), parameters)
    # A statement that is half read would keep its snapshot, and writers from committing.
    with closing(result):
        yield Answer(result, first)


def position(work: Work, base: Mark | None = None) -> Position:
    """Return where the session is; also for a database that never had a log.

    Args:
        work: What its session sees, of its collection.
        base: The mark to look for.
    """
    # A statement that names the log fails where there is none: the triggers are looked for first.
    if not work.run(select(_is_logged(work.records))).scalar_one():
        return Position(False, None, None, False, False)
    rows = work.run(_position(work.records), _at(work.row, base))
    return _as_position(rows.one())


def held_marks(work: Work, marks: Iterable[Mark]) -> set[Mark]:
    """Return those of the marks that are in the log, as the session sees it."""
    log = _tables(work.records).log.c
    statement = select(log.seq, log.token).where(
        log.collection_id == work.row.id, log.seq.in_([mark.seq for mark in marks])
    )
    return {Mark(*row) for row in work.run(statement)} & set(marks)


def count(work: Work) -> int:
    """Return the number of rows of the collection."""
    statement = select(func.count()).where(work.records.embeddings.c.collection_id == work.row.id)
    return int(work.run(statement).scalar_one())


def is_among_only(query: Query) -> bool:
    """Return whether a SELECT of the host's is the only filter, whose keys can be read alone."""
    return isinstance(query.among, Subquery) and query.where is None


def filters_of_few(work: Work, query: Query) -> list[ColumnElement[bool]]:
    """Return the filters of a query, as they are best where few rows are looked at."""
    if isinstance(query.among, Subquery):
        condition = is_key(work.item_id, query.among.c[0], work.records.embeddings)
        if condition is not None:
            return [*replace(query, among=None).filters(work), condition]
    return query.filters(work)


def ids_matching(
    work: Work,
    query: Query,
    conditions: Sequence[ColumnElement[bool]],
    most: int | None = None,
) -> set[str] | None:
    """Return the ids that meet the filters of a query. Those of a host's keys may have no row.

    Args:
        work: What its session sees, of its collection.
        query: Whose filters.
        conditions: These, as SQL.
        most: Return None in place of the ids if there are more.
    """
    columns = work.records.embeddings.c
    if isinstance(query.among, Subquery) and is_among_only(query) and work.row.chunks is None:
        ids = select(work.database.key_as_text(query.among.c[0]).label("id"))
    else:
        # No "id IS NOT NULL": SQLite would seek by it in place of the ids of a condition.
        ids = select(columns.id).where(columns.collection_id == work.row.id, *conditions)
    id = ids.limit(None if most is None else literal_column(str(most + 1))).subquery().c.id
    # One value of JSON: to fetch many rows takes longer than to find them.
    found = select(func.count(), _raw(func.json_group_array(cast(id, Text))))
    number, json_ids = work.run(found).one()
    if most is not None and number > most:
        return None
    return work.runtime.compute(lambda: set(json.loads(json_ids)) - {None}, number)


def load(work: Work, since: Mark | None) -> Generator[list[tuple[str | None, Any, bool]]]:
    """Yield all rows of the collection, or what was written after a mark, in parts.

    What else is written on the same connection meanwhile may be among them or not.

    Yields:
        Lists of (id, embedding, is there).
    """
    columns = work.records.embeddings.c
    statement: Select[Any]
    if since is None:
        statement = select(columns.id, _raw(columns.embedding), _constant(1)).where(
            columns.collection_id == _given("of"), columns.id.is_not(None)
        )
    else:
        changes = _changes(work.records).subquery().c
        statement = select(changes[1], changes[2], changes[5])
    parameters = _at(work.row, since) | _values(most=-1)
    options = {"yield_per": CHUNK_ROWS}
    result = work.run(statement.execution_options(**options), parameters)
    with closing(result):
        for part in result.partitions():
            yield [(id, blob, bool(is_there)) for id, blob, is_there in part]


def _at(row: CollectionRow, base: Mark | None) -> dict[str, Any]:
    seq, token = (0, b"") if base is None else base
    return _values(
        of=row.id,
        name=row.name,
        model=row.model_id,
        tables_of_chunks=int(row.chunks is not None),
        index=row.index_method,
        seq=seq,
        token=token,
    )


def _as_change(row: Any) -> Change:
    return Change(row, bool(row.is_there))


def _as_position(row: Any) -> Position:
    _, seq, token, lineage, has_base, has_collection, is_logged = row
    mark = None if seq is None else Mark(seq, token)
    return Position(bool(is_logged), lineage, mark, bool(has_base), bool(has_collection))

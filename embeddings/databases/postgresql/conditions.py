"""Conditions as SQL of PostgreSQL's: `where`, `prefix`, and the host's keys in the host's type."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    CTE,
    Column,
    ColumnElement,
    Select,
    Subquery,
    bindparam,
    case,
    exists,
    false,
    func,
    literal_column,
    select,
    true,
)

from ...internals import may_be_joined
from ...searching.query import MAX_LIMIT
from .keys import id_as_key, kind_of

if TYPE_CHECKING:
    from sqlalchemy import CompoundSelect
    from sqlalchemy.types import TypeEngine

    from ...searching.query import Query
    from ...tables.records import Records
    from ...work.operation import Work
    from ..base import Database


FEW_KEYS = 2_500  # keys of the host's whose rows are


def is_of(records: Records, collection_id: int) -> ColumnElement[bool]:
    """Return the condition that a row is of a collection."""
    # PostgreSQL takes a partial index only if it can prove that it covers the query.
    return records.embeddings.c.collection_id == constant(collection_id)


def limit(number: int) -> ColumnElement[int]:
    """Return the SQL of a number of rows."""
    # Of a parameter a plan for any number is made, in which an index does not pay.
    return constant(min(number, MAX_LIMIT))


def constant(value: Any, type_: TypeEngine[Any] | None = None) -> ColumnElement[Any]:
    """Return a value that PostgreSQL sees in the text of the statement.

    SQLAlchemy puts it in when it executes: what it has compiled serves all values.
    """
    return bindparam(None, value, type_, unique=True, literal_execute=True)


class Among(NamedTuple):
    """The rows of keys that the host selects.

    Attributes:
        is_chosen: The condition, in the type of the keys, whose index serves it.
        are_few: Whether the host selects so few keys that their rows are read.
        is_one_of_few: The condition about one row, by the first few keys.
    """

    is_chosen: ColumnElement[bool]
    are_few: ColumnElement[bool]
    is_one_of_few: ColumnElement[bool]


class Filters(NamedTuple):
    """The conditions of a query.

    Attributes:
        rows: About rows of the collection.
        keys: The SELECT of the host's keys, of a type that ids are compared in.
    """

    rows: tuple[ColumnElement[bool], ...] = ()
    keys: Subquery | None = None

    def all(self, database: Database, id: ColumnElement[str]) -> tuple[ColumnElement[bool], ...]:
        """Return all of it, as is best where very many rows are looked at.

        All keys are read, and hashed; or the rows of few by the index of the column of ids.
        """
        if self.keys is None:
            return self.rows
        if not isinstance(id, Column):
            return self.hashed(database, id)
        return (*self.rows, database.is_among(id, self.keys.c[0]))

    def hashed(self, database: Database, id: ColumnElement[str]) -> tuple[ColumnElement[bool], ...]:
        """Return all of it, as is best where other conditions find the rows.

        The planner may take these for one row, and would compare each with all keys.
        """
        if self.keys is None:
            return self.rows
        keys = select(database.key_as_text(self.keys.c[0])).scalar_subquery()
        return (*self.rows, is_hashed(id, func.array(keys)))

    def ways(
        self, database: Database, is_ours: ColumnElement[bool], id: ColumnElement[str]
    ) -> list[tuple[ColumnElement[bool], ...]]:
        """Return the conditions of the SELECTs that together find the rows, each row once.

        Where other conditions find rows, too, and keys may be so few that theirs are found sooner:
        of two SELECTs one reads nothing then.
        """
        if self.keys is None or not isinstance(id, Column):
            return [(is_ours, *self.hashed(database, id))]
        among = among_of(database, is_ours, id, self.keys)
        return [
            (is_ours, *self.rows, among.is_one_of_few, among.are_few),
            (is_ours, *self.hashed(database, id), ~among.are_few),
        ]


def filters_of(work: Work, query: Query) -> Filters:
    """Return the conditions of a query."""
    keys = query.among
    if isinstance(keys, Subquery) and kind_of(keys.c[0].type) is not None:
        return Filters(tuple(replace(query, among=None).conditions(work)), keys)
    return Filters(tuple(query.conditions(work)))


def among_of(
    database: Database, is_ours: ColumnElement[bool], id: ColumnElement[str], keys: Subquery
) -> Among:
    """Return the conditions about the keys of `Filters`."""
    key = keys.c[0]
    as_key = id_as_key(id, is_ours, key.type)
    few = once(select(key.label("key")).limit(limit(FEW_KEYS + 1)))
    number = once(select(func.count().label("keys")).select_from(few)).c["keys"]
    ids = select(database.key_as_text(few.c.key)).scalar_subquery()
    return Among(
        _is_chosen(as_key, keys),
        select(number).scalar_subquery() <= literal_column(str(FEW_KEYS)),
        id == func.any(func.array(ids)),
    )


def _is_chosen(as_key: ColumnElement[Any], keys: Subquery) -> ColumnElement[bool]:
    """Return the condition that a candidate is one of the keys.

    PostgreSQL looks it up in the host's index where it can join the host's table. Else it would
    compare each candidate with all keys; within a CASE, which it does not make a join of, it has
    them hashed, or where they are very many looks for the one.
    """
    key = keys.c[0]
    if may_be_joined(keys.element):
        return as_key.in_(select(key))
    return case((exists().where(key == as_key), true()))


def is_hashed(column: ColumnElement[Any], array: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return the condition that a value is in an array, which PostgreSQL hashes.

    Of a CASE the planner makes no join, and by an array it expects few values, however many there
    are: it hashes them whatever it knows about the tables.
    """
    return case((column.in_(select(func.unnest(array))), true()), else_=false())


def once(statement: Select[Any] | CompoundSelect[Any]) -> CTE:
    """Return the statement as one that is executed once, however often it is read."""
    named = statement.cte()
    made = named.prefix_with("MATERIALIZED")
    # SQLAlchemy names a CTE by the address of the object that `prefix_with` copies. That object
    # stays, so that no other CTE comes to have its address.
    vars(made)["named"] = named
    return made

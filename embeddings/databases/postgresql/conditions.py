"""Conditions as SQL of PostgreSQL's: `where`, `prefix`, and the host's keys in the host's type."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import CTE, ColumnElement, Select, Subquery, bindparam, func, literal_column, select

from ...searching.query import MAX_LIMIT
from .keys import id_as_key

if TYPE_CHECKING:
    from sqlalchemy import CompoundSelect, Dialect
    from sqlalchemy.types import TypeEngine

    from ...searching.query import Query
    from ...tables.records import Records
    from ...work.operation import Work
    from ..base import Database


FEW_KEYS = 2_500  # keys of the host's whose rows are
HOST = "embeddings_among"  # the host's SELECT in a statement that is kept


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
        are_chosen: The same for very many rows: all keys are read, and hashed.
        are_few: Whether the host selects so few keys that their rows are read.
        is_one_of_few: The condition about one row, by the first few keys.
    """

    is_chosen: ColumnElement[bool]
    are_chosen: ColumnElement[bool]
    are_few: ColumnElement[bool]
    is_one_of_few: ColumnElement[bool]


class Filters(NamedTuple):
    """The conditions of a query: about rows of the collection, and about the host's keys."""

    rows: tuple[ColumnElement[bool], ...] = ()
    among: Among | None = None

    @property
    def all(self) -> tuple[ColumnElement[bool], ...]:
        """All of it, as is best where very many rows are looked at."""
        return self.rows if self.among is None else (*self.rows, self.among.are_chosen)


def filters_of(work: Work, query: Query) -> Filters:
    """Return the conditions of a query."""
    if isinstance(query.among, Subquery):
        of = (work.database, work.records, work.row.id)
        among = among_of(*of, work.item_id, query.among.c[0], work.dialect)
        if among is not None:
            return Filters(tuple(replace(query, among=None).conditions(work)), among)
    return Filters(tuple(query.conditions(work)))


def among_of(
    database: Database,
    records: Records,
    collection_id: int,
    id: ColumnElement[str],
    key: ColumnElement[Any],
    dialect: Dialect,
) -> Among | None:
    """Return the conditions, or None for keys of a type that ids are not compared in."""
    as_key = id_as_key(id, is_of(records, collection_id), key.type, dialect)
    if as_key is None:
        return None
    few = once(select(key.label("key")).limit(limit(FEW_KEYS + 1)))
    number = once(select(func.count().label("keys")).select_from(few)).c["keys"]
    ids = select(database.key_as_text(few.c.key)).scalar_subquery()
    return Among(
        as_key.in_(select(key)),
        database.is_among(id, key),
        select(number).scalar_subquery() <= literal_column(str(FEW_KEYS)),
        id == func.any(func.array(ids)),
    )


def once(statement: Select[Any] | CompoundSelect[Any]) -> CTE:
    """Return the statement as one that is executed once, however often it is read."""
    named = statement.cte()
    made = named.prefix_with("MATERIALIZED")
    # SQLAlchemy names a CTE by the address of the object that `prefix_with` copies. That object
    # stays, so that no other CTE comes to have its address.
    vars(made)["named"] = named
    return made

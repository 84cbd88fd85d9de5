"""What a search is asked for, as SQL conditions, and what it gives back."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Float,
    Subquery,
    and_,
    false,
    func,
    null,
    select,
    true,
    type_coerce,
)
from sqlalchemy.sql.expression import SelectBase

from ..errors import InvalidQueryError
from ..keys import K, Keys
from ..sql import is_one_of, metadata_is, starts_with

if TYPE_CHECKING:
    from ..tables.columns import Metadata
    from ..tables.records import Records

Where: TypeAlias = "ColumnElement[bool] | Mapping[str, str | int | float | bool | None]"
Among: TypeAlias = "SelectBase | Iterable[Any]"


@dataclass
class Entry(Generic[K]):
    """A search result.

    Attributes:
        id: The item's id, in the type of the collection's keys.
        score: Cosine similarity to what was searched for, -1 to 1, higher is nearer.
        content: The text, if it was stored.
        metadata: The metadata, if there is any.
    """

    id: K
    score: float
    content: str | None = None
    metadata: Metadata | None = None


class Entries(list[Entry[K]]):
    """Search results, best first: a list that knows how it was made.

    Attributes:
        exact: Whether these are the best for certain. False if they come from an index.
    """

    def __init__(self, entries: Iterable[Entry[K]] = (), *, exact: bool = True) -> None:
        super().__init__(entries)
        self.exact = exact


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """What a strategy finds."""

    id: str
    score: float
    content: str | None
    metadata: Metadata | None


@dataclass(frozen=True, slots=True)
class Ranking:
    """The rows that a strategy finds, best first, and whether they are the best for certain."""

    rows: list[ScoredRow]
    exact: bool = True


@dataclass(frozen=True)
class Query:
    """The checked arguments of a search, without the vector.

    All conditions hold before the best are taken, so that a result is never short.
    """

    number: int
    offset: int
    min_score: float | None
    exact: bool | None
    prefix: str | None
    """None if any id will do."""
    skip_id: str | None
    filters: tuple[ColumnElement[bool], ...]
    """`where` and `among`, which only the database can tell."""
    conditions: tuple[ColumnElement[bool], ...]
    """All of it as SQL: prefix, id and filters."""

    @property
    def depth(self) -> int:
        """How many of the best have to be known."""
        return self.number + self.offset


class NotConfirmed(Exception):  # noqa: N818  no error: it ends an attempt
    """The collection's row was a guess, and may be another."""


def check_query(
    records: Records,
    keys: Keys[Any],
    *,
    number: int = 10,
    offset: int = 0,
    min_score: float | None = None,
    prefix: str | None = None,
    where: Where | None = None,
    among: Among | None = None,
    exact: bool | None = None,
    skip_id: str | None = None,
) -> Query:
    """Return the query for a collection's arguments.

    Args:
        records: The mapped classes.
        keys: The type of the host's keys.
        number: The most results; zero or more.
        offset: How many of the best to leave out before these.
        min_score: Leave out what scores less.
        prefix: Only ids that begin with it, literally and in the same case.
        where: A SQL expression over the records, or metadata that rows must have.
        among: Only these ids: a SELECT of the host's keys, or keys.
        exact: Whether to use no index.
        skip_id: Not this stored id.

    Raises:
        InvalidQueryError: An argument means nothing.
    """
    for name, value in (("number", number), ("offset", offset)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise InvalidQueryError(f"{name} must be a whole number, zero or more, not {value!r}")
    if min_score is not None and not (
        isinstance(min_score, int | float)
        and not isinstance(min_score, bool)
        and abs(min_score) <= sys.float_info.max
    ):
        raise InvalidQueryError(f"min_score must be a finite number, not {min_score!r}")
    if exact is not None and not isinstance(exact, bool):
        raise InvalidQueryError(f"exact must be True, False or None, not {exact!r}")
    columns = records.embeddings.c
    filters: list[ColumnElement[bool]] = []
    if where is not None:
        filters.append(where_condition(records, where))
    if among is not None:
        filters.append(_among_condition(columns.id, keys, among))
    conditions = list(filters)
    if prefix is not None and prefix != "":
        conditions.append(starts_with(columns.id, prefix))
    if skip_id is not None:
        conditions.append(columns.id != skip_id)
    return Query(
        number,
        offset,
        min_score,
        exact,
        prefix or None,
        skip_id,
        tuple(filters),
        tuple(conditions),
    )


def where_condition(records: Records, where: object) -> ColumnElement[bool]:
    """Return `where=` as one condition over the table of embeddings.

    Raises:
        InvalidQueryError: It is neither an expression nor a dict of scalars, or is about another
            table, which would multiply the rows.
    """
    if isinstance(where, Mapping):
        return and_(true(), *(metadata_is(records, *pair) for pair in where.items()))
    condition = where.__clause_element__() if hasattr(where, "__clause_element__") else where
    if not isinstance(condition, ColumnElement):
        raise InvalidQueryError(
            f"where must be a SQL expression or a dict of metadata, not {type(where).__name__}"
        )
    strangers = {
        str(getattr(table, "name", table))
        for table in select(records.embeddings.c.id).where(condition).get_final_froms()
        if table is not records.embeddings
    }
    if strangers:
        raise InvalidQueryError(
            f"where is about {', '.join(sorted(strangers))}; to search among the rows of another "
            "table, pass among= a SELECT of its keys"
        )
    return condition


def _among_condition(id: ColumnElement[str], keys: Keys[Any], among: Among) -> ColumnElement[bool]:
    if isinstance(among, SelectBase):
        chosen = among.subquery()
        if len(chosen.c) != 1:
            raise InvalidQueryError(
                f"among must select the keys and nothing else, not {len(chosen.c)} columns"
            )
        return id.in_(select(keys.as_text(chosen.c[0])))
    if isinstance(among, str | bytes) or not isinstance(among, Iterable):
        raise InvalidQueryError(
            f"among must be a SELECT of keys or an iterable of them, not {type(among).__name__}"
        )
    return is_one_of(id, [keys.to_text(key) for key in among])


def no_matches(keys: Keys[Any]) -> Subquery:
    """Return a selectable with the columns `id` and `score`, and no rows."""
    columns = (null().cast(keys.sql_type).label("id"), null().cast(Float).label("score"))
    return select(*columns).where(false()).subquery()


def as_matches(keys: Keys[Any], rows: Iterable[ScoredRow]) -> Subquery:
    """Return scored rows as a selectable with the columns `id`, in the host's type, and `score`."""
    best = list(rows)
    for scored in best:
        keys.from_text(scored.id)  # the database would make something of any text
    pairs = json.dumps([[scored.id, scored.score] for scored in best])
    row = func.json_each(pairs).table_valued("value")
    id = func.json_extract(row.c.value, "$[0]")
    key = func.cast(id, keys.sql_type) if keys.python_type is int else id
    return select(
        type_coerce(key, keys.sql_type).label("id"),
        type_coerce(func.json_extract(row.c.value, "$[1]"), Float).label("score"),
    ).subquery()

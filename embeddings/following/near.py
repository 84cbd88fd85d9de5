"""Instances of a declared collection's class that are nearest, by a SELECT of the host's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from sqlalchemy import ColumnElement, Select, exists, inspect, select

from ..errors import DoesNotExist, InvalidItemError, InvalidQueryError
from ..internals import grouped_by, has_limit, has_order, locks_every_table
from ..searching.conditions import checked_where
from ..searching.filters import fields_of
from ..tables.pending import pending_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Row, Subquery

    from ..collection import Collection
    from ..searching.conditions import Where
    from ..searching.query import Filters
    from .source import ModelCollection

M = TypeVar("M")
Nearest: TypeAlias = "Row[M, float, *tuple[Any, ...]]"
"""An instance and its score; of a search by words as well, its rank after them."""
Stale = Literal["include", "exclude"]


def nearest(
    declared: ModelCollection[M],
    docs: Collection[Any],
    rows: Select[*tuple[Any, ...]] | None,
    pending: Stale,
    filters: Filters,
    find: Callable[..., Subquery],
) -> list[Nearest[M]]:
    """Return the rows that a search finds, with their scores, best first; equal scores by key.

    A search by words as well has a rank after the score, by which they are in order.

    Args:
        declared: Whose condition all rows meet.
        docs: Its collection.
        rows: The SELECT of instances; None for all.
        pending: Whether rows whose vector is not up to date are found by the one that they had.
        filters: Of the search.
        find: The search, which takes these and returns a selectable.
    """
    statement = _checked(declared, rows)
    if (condition := declared.condition) is not None:
        statement = statement.where(condition)
    if pending == "exclude":
        statement = statement.where(_is_settled(declared, docs))
    elif pending != "include":
        raise InvalidQueryError(f"pending must be 'include' or 'exclude', not {pending!r}")
    _check_fields(declared, filters.get("where"))
    if "among" in filters:
        raise InvalidQueryError("among= is not for this search: rows=, its SELECT, says which rows")
    among = statement.with_only_columns(declared.key, maintain_column_froms=True)
    try:
        found = find(**filters, among=among)
    except DoesNotExist:
        return []
    columns = [column for column in found.c if column is not found.c.id]
    by_rank = found.c.get("rank")
    order = (found.c.score.desc(), declared.key) if by_rank is None else (by_rank,)
    ranked = statement.add_columns(*columns).where(declared.key == found.c.id).order_by(*order)
    if grouped_by(statement) is not None:  # an instance has one score and one rank
        ranked = ranked.group_by(*columns)
    with docs.reference.work() as work:  # an instance is there once, also by a join to many
        return list(work.session.execute(ranked).unique().all())


def key_of_instance(declared: ModelCollection[M], instance: object) -> Any:
    """Return the key of an instance that was stored.

    Raises:
        TypeError: It is not of the class.
        InvalidItemError: It has no key yet.
    """
    if not isinstance(instance, declared.source):
        kind = declared.source.__name__
        raise TypeError(f"related() takes an instance of {kind}, not {type(instance).__name__}")
    state = inspect(instance)
    key = state.identity[0] if state.identity else getattr(instance, declared.key.key)
    if key is None:
        raise InvalidItemError(
            f"This {declared.source.__name__} has no {declared.key.key} yet: add it to the "
            "session and flush"
        )
    return key


def _checked(declared: ModelCollection[Any], rows: object) -> Select[Any]:
    cls = declared.source
    if rows is None:
        return select(cls)
    if not isinstance(rows, Select):
        raise TypeError(
            f"The rows must be a SELECT of {cls.__name__}, such as select({cls.__name__}), not "
            f"{type(rows).__name__}"
        )
    first = next(iter(rows.column_descriptions), None)
    if first is None or first.get("expr") is not cls:
        raise InvalidQueryError(
            f"The SELECT must be of {cls.__name__} itself, as in select({cls.__name__}).where(...)"
        )
    if has_limit(rows):
        raise InvalidQueryError("The SELECT has a LIMIT or OFFSET: give number= and offset= here")
    if has_order(rows):
        raise InvalidQueryError(
            "The SELECT has an ORDER BY, and what is nearest comes first here: leave it out, and "
            "sort what is returned"
        )
    grouped = grouped_by(rows)
    if grouped is not None and grouped.isdisjoint(declared.key.expression.base_columns):
        raise InvalidQueryError(
            f"What the SELECT groups has to be one row of {cls.__name__} each: "
            f"group_by({cls.__name__}.{declared.key.key}), or count in a subquery"
        )
    if locks_every_table(rows):
        raise InvalidQueryError(
            "The SELECT has with_for_update(), which would lock the vectors as well, where "
            f"PostgreSQL can: give it of={cls.__name__}"
        )
    return rows


def _check_fields(declared: ModelCollection[Any], where: Where | None) -> None:
    """Do nothing if all metadata of `where` are those that the declaration keeps.

    Raises:
        InvalidQueryError: It keeps no such field: the search would find nothing.
    """
    if where is None:
        return
    names = [column.key for column in declared.metadata]
    for condition in checked_where(declared.records, where):
        unknown = set() if isinstance(condition, ColumnElement) else fields_of(condition)
        if unknown := unknown.difference(names):
            raise InvalidQueryError(
                f"where: {min(unknown)!r} is none of the metadata that the declaration of "
                f"{declared.name!r} names: {', '.join(map(repr, names)) or 'none'}. Put a "
                "condition on a column into the SELECT. Metadata that you wrote yourself are "
                "searched by collection(session).similar()"
            )


def _is_settled(declared: ModelCollection[Any], docs: Collection[Any]) -> ColumnElement[bool]:
    """Return the condition that nothing is pending of a row."""
    columns = pending_table(declared.records).c
    id = docs.reference.database.key_as_text(declared.key.expression)
    return ~exists().where(columns.collection == declared.name, columns.id == id)

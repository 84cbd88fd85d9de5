"""Filters of metadata: a dict with operators, checked, and then as SQL of the database."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import Boolean, ColumnElement, and_, case, false, or_, true, type_coerce
from sqlalchemy.sql.expression import Grouping

from ..errors import InvalidQueryError
from ..values import as_json, check_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..work.operation import Work

MOST_CONDITIONS, MOST_NESTED = 5_000, 50
"""Of one `where=`. SQLite takes more, and a time that grows with the square of their number."""
WIDEST = 12
"""Conditions in one chain of AND or OR."""
ORDER = ("$gt", "$gte", "$lt", "$lte")
OPERATORS = ("$eq", "$ne", *ORDER, "$in", "$nin", "$contains", "$exists", "$not")
"""What can stand for the value of a field."""
JUNCTIONS = ("$and", "$or", "$not")
"""What can stand for a field."""
OPPOSITES = {"$ne": "$eq", "$nin": "$in"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What one field of the metadata has to be. It is false where the field is missing.

    Attributes:
        path: The names of the objects that lead to the field, and its own.
        operator: `$eq`, `$gt`, `$gte`, `$lt`, `$lte`, `$in`, `$contains` or `$exists`, which is
            about True only.
        value: A string, a finite number of at most 64 bits, a bool or None; a string or a number
            for those of order; a tuple of scalars for `$in`.
    """

    path: tuple[str, ...]
    operator: str
    value: Any


@dataclass(frozen=True, slots=True)
class Junction:
    """Conditions together: `$and`, `$or`, or `$not` of a single one."""

    operator: str
    parts: tuple[Condition, ...]


Condition: TypeAlias = "Comparison | Junction"


def check_size(where: object) -> None:
    """Do nothing if no more conditions are in `where=`, and none is deeper, than databases take.

    Raises:
        InvalidQueryError: There are, or it is.
    """
    conditions, left = 0, [(where, 0)]
    while left:
        given, depth = left.pop()
        if isinstance(given, list | tuple):
            left += [(part, depth) for part in given if isinstance(part, Mapping)]
        elif isinstance(given, Mapping):
            if depth > MOST_NESTED:
                raise InvalidQueryError(
                    f"where has dicts within dicts more than {MOST_NESTED} deep"
                )
            inner = [value for value in given.values() if isinstance(value, Mapping)]
            lists = [given[name] for name in ("$and", "$or") if name in given]
            conditions += len(given) - len(inner) - len(lists)
            left += [(value, depth + 1) for value in (*inner, *lists)]
        if conditions > MOST_CONDITIONS:
            raise InvalidQueryError(
                f"where has more than {MOST_CONDITIONS:,} conditions: $in takes any number of "
                "values of a field, and among= of ids"
            )


def checked_filter(given: Mapping[Any, Any], place: str = "where") -> tuple[Condition, ...]:
    """Return the conditions of a dict of metadata, which all have to hold.

    Args:
        given: Fields and what they have to be, and `$and`, `$or` and `$not`.
        place: What an error calls it.

    Raises:
        InvalidQueryError: Something in it means nothing. The message names the place.
    """
    return tuple(_condition(key, value, place) for key, value in given.items())


def fields_of(condition: Condition) -> set[str]:
    """Return the names of the fields that a condition is about, of an object within by its own."""
    if isinstance(condition, Comparison):
        return {condition.path[0]}
    return {name for part in condition.parts for name in fields_of(part)}


def _condition(key: object, value: object, place: str) -> Condition:
    if not isinstance(key, str):
        raise InvalidQueryError(f"{place}: metadata has strings as keys, not {key!r}")
    check_text(key, place, error=InvalidQueryError)
    if key.startswith("$"):
        return _junction(key, value, place)
    path, place = _path(key), f"{place}: {key!r}"
    if not isinstance(value, Mapping):
        return Comparison(path, "$eq", _scalar(value, place))
    return _all(_operators(path, value, place))


def _all(parts: tuple[Condition, ...]) -> Condition:
    return parts[0] if len(parts) == 1 else Junction("$and", parts)


def _junction(operator: str, value: object, place: str) -> Condition:
    if operator not in JUNCTIONS:
        close = get_close_matches(operator, JUNCTIONS, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(JUNCTIONS)}."
        if operator in OPERATORS:
            hint = f"it belongs to a field, as in {{'year': {{{operator!r}: ...}}}}."
        raise InvalidQueryError(
            f"{place}: there is no operator {operator!r} here: {hint} A field of this name is "
            f"written {chr(92) + operator!r}"
        )
    place = f"{place}: {operator}"
    if operator == "$not":
        return Junction("$not", (_all(_whole(value, place)),))
    if not isinstance(value, list | tuple) or not value:
        raise InvalidQueryError(f"{place} takes a list of dicts, one or more, not {_shown(value)}")
    return Junction(
        operator, tuple(_all(_whole(part, f"{place}[{at}]")) for at, part in enumerate(value))
    )


def _whole(given: object, place: str) -> tuple[Condition, ...]:
    if not isinstance(given, Mapping) or not given:
        raise InvalidQueryError(f"{place} takes a dict with something in it, not {_shown(given)}")
    return checked_filter(given, place)


def _operators(
    path: tuple[str, ...], given: Mapping[Any, Any], place: str
) -> tuple[Condition, ...]:
    for operator in given:
        if operator not in OPERATORS:
            close = get_close_matches(str(operator), OPERATORS, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(OPERATORS)}."
            raise InvalidQueryError(
                f"{place} is compared with a dict, in which {operator!r} is no operator: {hint} "
                "To look into an object, write its fields with dots: 'address.city'"
            )
    if not given:
        raise InvalidQueryError(
            f"{place} is compared with an empty dict; use an operator, such as $exists"
        )
    return tuple(_comparison(path, key, value, place) for key, value in given.items())


def _comparison(path: tuple[str, ...], operator: str, value: object, place: str) -> Condition:
    if operator == "$not":
        if not isinstance(value, Mapping):
            raise InvalidQueryError(f"{place}: $not takes a dict of operators, not {_shown(value)}")
        return Junction("$not", (_all(_operators(path, value, f"{place}: $not")),))
    if operator == "$exists":
        if not isinstance(value, bool):
            raise InvalidQueryError(f"{place}: $exists takes True or False, not {_shown(value)}")
        there = Comparison(path, "$exists", True)
        return there if value else Junction("$not", (there,))
    place = f"{place}: {operator}"
    if operator in OPPOSITES:
        return Junction("$not", (_same(path, OPPOSITES[operator], value, place),))
    return _same(path, operator, value, place)


def _same(path: tuple[str, ...], operator: str, value: object, place: str) -> Comparison:
    """Return what `$eq`, `$in`, `$contains` or an operator of order says, checked."""
    if operator == "$in":
        if not isinstance(value, list | tuple | set | frozenset):
            raise InvalidQueryError(f"{place} takes a list of values, not {_shown(value)}")
        return Comparison(path, "$in", tuple(_scalar(inner, place) for inner in value))
    scalar = _scalar(value, place)
    if operator in ORDER and (scalar is None or isinstance(scalar, bool)):
        raise InvalidQueryError(f"{place} takes a number, a string or a date, not {scalar}")
    return Comparison(path, operator, scalar)


def _scalar(given: object, place: str) -> Any:
    value = as_json(given)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InvalidQueryError(f"{place} is compared with an integer of over 64 bits")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidQueryError(f"{place} is compared with {value}, which JSON cannot hold")
    elif isinstance(value, str):
        check_text(value, place, error=InvalidQueryError)
    else:
        hint = ": $in takes several, and $contains looks into a list" if _is_several(value) else ""
        raise InvalidQueryError(
            f"{place} is compared with {_shown(value)}; use a string, a number, a bool, a date or "
            f"None{hint}"
        )
    return value


def _is_several(value: object) -> bool:
    return isinstance(value, list | tuple | set | frozenset)


def _shown(value: object) -> str:
    """Return what an error says of a value: its type, for it may be anybody's secret."""
    if isinstance(value, Mapping | list | tuple) and not value:
        return f"an empty {type(value).__name__}"
    return f"a {type(value).__name__}"


_PART = re.compile(r"\\[\\.$]|\.|[^.\\]+|\\")


def _path(field: str) -> tuple[str, ...]:
    """Return the names in a field's path: a dot stands between two, unless a backslash precedes.

    A backslash takes the meaning of a dot, a dollar and a backslash away; before anything else it
    means itself.
    """
    names = [""]
    for part in _PART.findall(field):
        if part == ".":
            names.append("")
        else:
            names[-1] += part[1:] if len(part) == 2 and part[0] == "\\" else part
    return tuple(names)


def as_sql(work: Work, condition: Condition, *, is_not: bool = False) -> ColumnElement[bool]:
    """Return a condition over the table of embeddings, or its opposite. NULL stands for false."""
    if isinstance(condition, Comparison):
        is_so = work.database.metadata_is(work.records.embeddings.c.metadata, condition)
        # In a CASE each database evaluates a condition from left to right, as far as it has to.
        return case((is_so, false()), else_=true()) if is_not else is_so
    if condition.operator == "$not":
        return as_sql(work, condition.parts[0], is_not=not is_not)
    parts = sorted(condition.parts, key=_depth, reverse=True)
    operator = and_ if (condition.operator == "$and") is not is_not else or_
    return _joined(operator, [as_sql(work, part, is_not=is_not) for part in parts])


def _depth(condition: Condition) -> int:
    if isinstance(condition, Comparison):
        return 0
    return 1 + max(map(_depth, condition.parts))


def _joined(
    operator: Callable[..., ColumnElement[bool]], parts: list[ColumnElement[bool]]
) -> ColumnElement[bool]:
    """Return conditions together, many of them in groups, and in groups of groups.

    SQLite takes expressions that are 1,000 deep, and a chain is as deep as it is long. Its parser
    holds the fewest things open where the deepest part is the first one.
    """
    while len(parts) > WIDEST:
        first, *others = parts
        groups = (others[at : at + WIDEST] for at in range(0, len(others), WIDEST))
        # Of a group as it is, SQLAlchemy would make a part of the chain around it.
        grouped = [type_coerce(Grouping(operator(*group)), Boolean) for group in groups]
        parts = [first, *grouped]
    return operator(*parts)

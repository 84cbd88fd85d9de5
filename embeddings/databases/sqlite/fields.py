"""Fields of the metadata in JSON, by json_extract where an index of the host's can serve it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Integer,
    Text,
    and_,
    case,
    exists,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    type_coerce,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...searching.filters import Comparison

SIMPLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")
"""A name that stands in a JSON path, and in JSON, as it is."""
ORDER = {"$gt": "__gt__", "$gte": "__ge__", "$lt": "__lt__", "$lte": "__le__"}
NUMBER, STRING = ("integer", "real"), ("text",)


class Field(NamedTuple):
    """A field of the metadata.

    Attributes:
        kind: SQLite's name of its type.
        value: Its value: of an array or an object the JSON.
        where: From a condition on these to one on the row.
    """

    kind: ColumnElement[Any]
    value: ColumnElement[Any]
    where: Callable[[ColumnElement[bool]], ColumnElement[bool]]


def condition(metadata: ColumnElement[Any], comparison: Comparison) -> ColumnElement[bool]:
    """Return the condition of `Database.metadata_is`."""
    path, operator, value = comparison.path, comparison.operator, comparison.value
    is_simple = all(SIMPLE.fullmatch(name) for name in path)
    field = (_by_path if is_simple else _by_members)(type_coerce(metadata, Text), path)
    if operator == "$exists":
        return field.where(field.kind.is_not(None))
    if operator == "$in":
        return field.where(_is_one_of(field, value))
    if operator == "$contains":
        member = _members(case((_is_kind(field.kind, "array"), field.value)))
        is_equal = _is_equal(Field(member.type, member.value, lambda condition: condition), value)
        return field.where(exists(select(1).select_from(member.type.table).where(is_equal)))
    if operator == "$eq":
        return field.where(_is_equal(field, value))
    is_so = getattr(field.value, ORDER[operator])(literal(value))
    return field.where(and_(is_so, _is_kind(field.kind, *_kinds_of(value))))


def _kinds_of(value: object) -> tuple[str, ...]:
    if value is None:
        return ("null",)
    if isinstance(value, bool):
        return ("true" if value else "false",)
    return STRING if isinstance(value, str) else NUMBER


def _is_equal(field: Field, value: object) -> ColumnElement[bool]:
    is_kind = _is_kind(field.kind, *_kinds_of(value))
    if value is None or isinstance(value, bool):
        return is_kind
    return and_(field.value == literal(value), is_kind)


def _is_one_of(field: Field, values: tuple[Any, ...]) -> ColumnElement[bool]:
    conditions = []
    for kinds in dict.fromkeys(map(_kinds_of, values)):
        is_kind = _is_kind(field.kind, *kinds)
        if kinds in {NUMBER, STRING}:  # the values travel as one parameter
            alike = json.dumps([value for value in values if _kinds_of(value) == kinds])
            members = func.json_each(alike).table_valued("value")
            is_kind = and_(field.value.in_(select(members.c.value)), is_kind)
        conditions.append(is_kind)
    return or_(*conditions) if conditions else false()


def _by_path(metadata: ColumnElement[Any], path: tuple[str, ...]) -> Field:
    # In the text of the statement: SQLite finds an index on an expression without parameters.
    place: ColumnElement[str] = literal_column(f"'$.{'.'.join(path)}'")
    kind, value = func.json_type(metadata, place), func.json_extract(metadata, place)
    return Field(kind, value, lambda condition: and_(is_json(metadata), condition))


def _by_members(metadata: ColumnElement[Any], path: tuple[str, ...]) -> Field:
    """Return the field by json_each, which takes any name: a JSON path does not."""
    member = _members(case((is_json(metadata), metadata)))
    conditions = [member.key == path[0]]
    for name in path[1:]:
        member = _members(case((_is_kind(member.type, "object"), member.value)))
        conditions.append(member.key == name)
    return Field(
        member.type,
        member.value,
        lambda condition: exists(select(1).where(*conditions, condition)),
    )


def is_json(metadata: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return the condition that functions of JSON take the metadata; with others they fail."""
    return func.json_valid(metadata, type_=Integer) == literal_column("1")


def _is_kind(kind: ColumnElement[Any], *names: str) -> ColumnElement[bool]:
    # In the text: a statement takes 32,766 parameters, which are for what is compared.
    return kind.in_([literal_column(f"'{name}'") for name in names])


def _members(json: ColumnElement[Any]) -> Any:
    return func.json_each(json).table_valued("key", "value", "type", joins_implicitly=True).c

"""Fields of the metadata in JSONB, compared so that an index of the host's can serve."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, ColumnElement, Text, and_, cast, collate, func, literal, type_coerce
from sqlalchemy.types import Boolean

from .types import PGJSON, as_jsonb

if TYPE_CHECKING:
    from ...searching.filters import Comparison

ORDER = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


def condition(metadata: ColumnElement[Any], comparison: Comparison) -> ColumnElement[bool]:
    """Return the condition of `Database.metadata_is`.

    Equality and `$contains` are containment, which a GIN index serves. The others are about the
    field itself, `metadata -> 'name'`, which a B-tree index serves.
    """
    path, operator, value = comparison.path, comparison.operator, comparison.value
    if operator in {"$eq", "$contains"}:
        return _contains(metadata, path, [value] if operator == "$contains" else value)
    field = _field(metadata, path)
    if operator == "$exists":
        return field.is_not(None)
    if operator == "$in":
        values = literal([as_jsonb(json.dumps(inner)) for inner in value], ARRAY(Text))
        return field == func.any(cast(cast(values, ARRAY(Text)), ARRAY(PGJSON)))
    kind = func.jsonb_typeof(field)
    if isinstance(value, str):
        # JSONB compares strings in the collation of the database.
        text = collate(_field(metadata, path, as_text=True), "C")
        return and_(text.op(ORDER[operator], is_comparison=True)(value), kind == "string")
    number = literal(as_jsonb(json.dumps(value)), PGJSON)
    return and_(field.op(ORDER[operator], is_comparison=True)(number), kind == "number")


def _contains(
    metadata: ColumnElement[Any], path: tuple[str, ...], value: object
) -> ColumnElement[bool]:
    for name in reversed(path):
        value = {name: value}
    parameter = literal(as_jsonb(json.dumps(value)), PGJSON)
    return type_coerce(metadata, PGJSON).op("@>", return_type=Boolean())(parameter)


def _field(
    metadata: ColumnElement[Any], path: tuple[str, ...], *, as_text: bool = False
) -> ColumnElement[Any]:
    """Return the SQL of a field: NULL where it is missing, or the path leads through a list."""
    field: ColumnElement[Any] = type_coerce(metadata, PGJSON)
    for name in path[:-1]:
        field = field.op("->", return_type=PGJSON())(_name(name))
    arrow, type_ = ("->>", Text()) if as_text else ("->", PGJSON())
    return field.op(arrow, return_type=type_)(_name(path[-1]))


def _name(name: str) -> ColumnElement[str]:
    # In the text of the statement: an index on the field is found for any plan.
    return literal(name, Text(), literal_execute=True)

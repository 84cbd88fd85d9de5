"""Which rows a search is about: `where`, `among` and `prefix`, checked and as SQL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import (
    CTE,
    BinaryExpression,
    BindParameter,
    Boolean,
    Column,
    ColumnElement,
    Date,
    DateTime,
    Integer,
    Numeric,
    Row,
    ScalarSelect,
    String,
    Subquery,
    TextClause,
    Time,
    TypeDecorator,
    Values,
    and_,
    select,
    true,
    type_coerce,
)
from sqlalchemy.orm import Query as LegacyQuery
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import ExpressionClauseList
from sqlalchemy.sql.expression import ClauseElement, SelectBase

from ..errors import InvalidQueryError
from ..keys import CHUNK_MARK
from ..tables.columns import JSONObject
from ..values import check_text
from .filters import Condition, Junction, as_sql, check_size, checked_filter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import FromClause

    from ..tables.records import Records
    from ..work.operation import Work
    from ..work.reference import Reference

Where: TypeAlias = (
    "ColumnElement[bool] | Mapping[str, Any] | Sequence[ColumnElement[bool] | Mapping[str, Any]]"
)
Among: TypeAlias = "SelectBase | ScalarSelect[Any] | Subquery | CTE | Values | Iterable[Any]"
CheckedWhere: TypeAlias = tuple[ColumnElement[bool] | Condition, ...]
"""All of it has to hold."""
COMPARISONS = {
    *(operators.eq, operators.ne, operators.lt, operators.le, operators.gt, operators.ge),
    *(operators.between_op, operators.not_between_op, operators.in_op, operators.not_in_op),
}
SCALARS = {str, int, float, bool}
JSON_PARTS = {operators.json_getitem_op, operators.json_path_getitem_op}


def checked_where(records: Records, where: object) -> CheckedWhere:
    """Return the conditions of `where=`, which all have to hold.

    Raises:
        InvalidQueryError: It is neither an expression nor a dict of metadata, nor a list of these,
            or is about another table, which would multiply the rows.
    """
    check_size(where)
    if isinstance(where, Mapping):
        return checked_filter(where)
    if isinstance(where, list | tuple) and where:
        parts = (_checked_part(records, part, f"where[{at}]") for at, part in enumerate(where))
        return tuple(condition for part in parts for condition in part)
    shown = "an empty list" if isinstance(where, list | tuple) else type(where).__name__
    return (_checked_expression(records, where, shown),)


def _checked_part(records: Records, part: object, place: str) -> CheckedWhere:
    if isinstance(part, Mapping):
        return checked_filter(part, place)
    return (_checked_expression(records, part, f"{type(part).__name__} in {place}"),)


def _checked_expression(records: Records, given: Any, shown: str) -> ColumnElement[bool]:
    ours = records.embeddings
    condition = given.__clause_element__() if hasattr(given, "__clause_element__") else given
    if isinstance(condition, TextClause):
        raise InvalidQueryError(
            "where is a text(), which does not say what table it is about: use columns of "
            "EmbeddingRecord, or literal_column()"
        )
    if not isinstance(condition, ColumnElement):
        raise InvalidQueryError(
            "where must be a dict of metadata, a SQL expression, or a list of these, not " + shown
        )
    if _is_a_value(condition):
        raise InvalidQueryError(
            "where is a value and no condition: compare it with something, or, if it is a bool of "
            "the metadata, write .as_boolean() after it"
        )
    strangers = _strangers(records, condition)
    if aliases := [table for table in strangers if getattr(table, "element", None) is ours]:
        condition = _of_the_table(condition, aliases, ours)
        strangers = _strangers(records, condition)
    if strangers:
        names = sorted(str(getattr(table, "name", table)) for table in strangers)
        raise InvalidQueryError(
            f"where is about {', '.join(names)}, and takes conditions about the embeddings: to "
            "search among the rows of another table, pass among= a SELECT of its keys, or put the "
            "condition into the SELECT that nearest() and related() take"
        )
    for part in visitors.iterate(condition):
        if isinstance(part, BinaryExpression) and part.operator in COMPARISONS:
            _check_types(records, part.left, part.right)
            _check_types(records, part.right, part.left)
    return condition


def _check_types(records: Records, field: ClauseElement, other: ClauseElement) -> None:
    """Refuse what SQLite answers wrongly, and PostgreSQL with an error of its own.

    Args:
        records: Of whose columns one may be compared.
        field: One side of the comparison.
        other: The other: values, or anything else, which is not looked into.
    """
    if isinstance(other, BindParameter):
        values: list[BindParameter[Any]] = [other]
    else:  # of BETWEEN
        clauses = other.clauses if isinstance(other, ExpressionClauseList) else ()
        values = [each for each in clauses if isinstance(each, BindParameter)]
    if not values or not isinstance(field, ColumnElement):
        return
    ours = records.embeddings.columns
    if not any(isinstance(c, Column) and ours.contains_column(c) for c in visitors.iterate(field)):
        return
    if isinstance(field.type, Integer | Numeric | String) and any(
        isinstance(value.type, DateTime | Date | Time) for value in values
    ):
        raise InvalidQueryError(
            f"where compares {getattr(field, 'name', 'a field')}, which is of the type "
            f"{type(field.type).__name__}, with a moment. EmbeddingRecord.updated is in seconds: "
            "compare it with moment.timestamp(). A moment of the metadata is the text of "
            "isoformat(): where= as a dict compares it so"
        )
    given = {type(one) for each in values for one in (each.value, *_members(each.value))}
    is_part = getattr(field, "operator", None) in JSON_PARTS
    if is_part and isinstance(field.type, JSONObject) and given & SCALARS:
        raise InvalidQueryError(
            "where compares a field of the metadata, which has no type: write .as_string(), "
            ".as_integer(), .as_float() or .as_boolean() after it, or use a dict, such as "
            'where={"tag": "pet"}'
        )


def _members(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()


def _is_a_value(expression: ColumnElement[Any]) -> bool:
    """Return whether it is a column or a part of one, of which SQLite makes true or false too."""
    kind = expression.type.impl if isinstance(expression.type, TypeDecorator) else expression.type
    is_part = getattr(expression, "operator", None) in JSON_PARTS
    return (isinstance(expression, Column) or is_part) and not isinstance(kind, Boolean)


def _strangers(records: Records, condition: ColumnElement[Any]) -> list[FromClause]:
    """Return what a condition about rows of embeddings brings into its statement besides."""
    froms = select(records.embeddings.c.id).where(condition).get_final_froms()
    return [table for table in froms if table is not records.embeddings]


def _of_the_table(
    condition: ColumnElement[Any], aliases: Sequence[FromClause], table: FromClause
) -> ColumnElement[Any]:
    """Return a condition about `aliased(EmbeddingRecord)` as one about the table itself."""

    def replaced(element: Any, **_: Any) -> ColumnElement[Any] | None:
        return table.c[element.name] if getattr(element, "table", None) in aliases else None

    about_the_table: ColumnElement[Any] = visitors.replacement_traverse(condition, {}, replaced)
    return about_the_table


def where_condition(work: Work, where: CheckedWhere) -> ColumnElement[bool]:
    """Return what `checked_where` returned as one condition over the table of embeddings."""
    expressions = [part for part in where if isinstance(part, ColumnElement)]
    filters = tuple(part for part in where if not isinstance(part, ColumnElement))
    of_metadata = [as_sql(work, Junction("$and", filters))] if filters else []
    return and_(true(), *expressions, *of_metadata)


def checked_among(
    collection: Reference[Any], among: Among, name: str = "among"
) -> Subquery | tuple[str, ...]:
    """Return a SELECT with one column of keys, or checked stored ids."""
    if isinstance(among, ScalarSelect):
        among = among.element
    if isinstance(among, Values) and hasattr(among, "cte"):  # SQLite takes it in no other place
        among = among.cte()
    if isinstance(among, Subquery | CTE | Values):
        among = select(among)
    if isinstance(among, SelectBase):
        chosen = among.subquery()
        if len(chosen.c) != 1:
            raise InvalidQueryError(
                f"{name} must select the keys and nothing else, not {len(chosen.c)} columns"
            )
        column = chosen.c[0]
        if isinstance(column.type, TypeDecorator):
            dialect = collection.sessions.dialect(collection.records)
            key = type_coerce(column, column.type.type_engine(dialect))
            chosen = select(key.label("key")).subquery()
            column = chosen.c[0]
        if not collection.keys.takes(column.type):
            raise InvalidQueryError(
                f"{name} selects {column.name!r}, which is {type(column.type).__name__}; the keys "
                f"of this collection are {collection.keys.python_type.__name__}"
            )
        return chosen
    if isinstance(among, LegacyQuery):
        raise InvalidQueryError(
            "among must be a SELECT of keys, not a Query: pass its statement, query.statement"
        )
    if isinstance(among, str | bytes) or not isinstance(among, Iterable):
        raise InvalidQueryError(
            f"among must be a SELECT of keys or an iterable of them, not {type(among).__name__}"
        )
    given = list(among)
    if any(issubclass(kind, Row) for kind in {*map(type, given)}):
        raise InvalidQueryError(
            "among must be keys, not rows: pass the SELECT itself, or what scalars() returns"
        )
    compute = collection.sessions.runtime.compute
    return compute(lambda: tuple(collection.ids_of(given, "among")), len(given))


def check_prefix(prefix: object) -> str:
    """Return a beginning of ids, or raise InvalidQueryError."""
    if not isinstance(prefix, str):
        raise InvalidQueryError(f"prefix must be a string, not {type(prefix).__name__}")
    check_text(prefix, "prefix", error=InvalidQueryError)
    return prefix


def starts_with(id: ColumnElement[str], prefix: object) -> ColumnElement[bool]:
    """Return the condition that an id begins with the prefix, as a range that an index serves."""
    prefix = check_prefix(prefix)
    last = prefix.rstrip("\U0010ffff")
    if not last:
        return id >= prefix
    following = ord(last[-1]) + 1
    if 0xD800 <= following <= 0xDFFF:  # the surrogates, which no text holds
        following = 0xE000
    return and_(id >= prefix, id < last[:-1] + chr(following))


def items_starting_with(work: Work, prefix: str) -> list[ColumnElement[bool]]:
    """Return the conditions that the stored id of a row's item begins with the prefix."""
    conditions = [starts_with(work.records.embeddings.c.id, prefix)]
    if work.row.chunks is not None and CHUNK_MARK in prefix:  # which may be that of a chunk
        conditions.append(starts_with(work.item_id, prefix))
    return conditions

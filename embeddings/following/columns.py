"""What of a mapped class a declaration may name: its key, its columns, and conditions on them.

A condition is evaluated by a trigger, over the columns of one row alone. What a trigger cannot
evaluate so is refused here, when it is declared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, ColumnElement, String, Table, and_, inspect
from sqlalchemy.exc import ArgumentError, NoInspectionAvailable
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import ColumnProperty, Mapper, QueryableAttribute
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import ScalarSelect, SelectBase

from .. import databases

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.sql.compiler import SQLCompiler

NODES = {
    "and_", "binary", "bindparam", "case", "cast", "clauselist", "collation", "column",
    "expression_clauselist", "extract", "false", "function", "grouping", "json_path", "label",
    "null", "true", "tuple", "type_coerce", "typeclause", "unary",
}  # fmt: skip
"""What a condition may be made of, by SQLAlchemy's names."""
FUNCTIONS = {
    "abs", "ceil", "char_length", "character_length", "coalesce", "concat", "floor", "greatest",
    "least", "left", "length", "lower", "ltrim", "mod", "nullif", "octet_length", "replace",
    "right", "round", "rtrim", "sign", "strpos", "substr", "substring", "trim", "upper",
}  # fmt: skip
"""Functions of the row's values alone, which are there whoever writes."""
OPERATORS = {"@>", "<@", "?", "?|", "?&", "->", "->>", "#>", "#>>", "||", "&&"}
"""Operators on JSON and arrays that SQLAlchemy has no name for. Others a database may lack."""


BETWEEN = "\n\n"
"""What stands between the texts of two columns."""


class JoinedTexts(FunctionElement[str]):
    """The texts of columns, joined by blank lines, without what is empty, in SQL."""

    inherit_cache = True
    type = String()


@compiles(JoinedTexts)
def _compiled(element: JoinedTexts, compiler: SQLCompiler, **options: Any) -> str:
    database = databases.of(compiler.dialect)
    return compiler.process(database.joined_texts([*element.clauses], BETWEEN), **options)


_OF_TEXT = (
    ". Where the text is made of other things, give a function of an instance: text=function, "
    "columns=[what it reads]"
)
NO_COLUMN = {
    "text": _OF_TEXT,
    "columns": _OF_TEXT,
    "metadata": (
        ", and metadata takes columns alone. Search among rows by what is computed from them or "
        "related to them with a SELECT, nearest(..., rows), or by a condition in where="
    ),
}
"""What to say of an attribute that is no column, by the argument that names it."""


def mapper_of(source: object) -> Mapper[Any]:
    """Return the mapper of a mapped class.

    Raises:
        TypeError: It is something else, or is not mapped to tables.
    """
    try:
        mapper = inspect(source)
    except NoInspectionAvailable:
        mapper = None
    if not isinstance(mapper, Mapper) or not isinstance(source, type):
        raise TypeError(f"The first argument must be a mapped class, not {source!r}")
    if not isinstance(mapper.local_table, Table):
        raise TypeError(f"{source.__name__} is not mapped to a table, and so has no triggers")
    return mapper


def key_of(mapper: Mapper[Any]) -> QueryableAttribute[Any]:
    """Return the attribute of the primary key.

    Raises:
        ValueError: It has several columns.
    """
    if len(mapper.primary_key) != 1:
        names = ", ".join(column.name for column in mapper.primary_key)
        raise ValueError(
            f"{mapper.class_.__name__} has a primary key of several columns ({names}), and an item "
            "has one id: give the class a column of its own that is the key"
        )
    name = mapper.get_property_by_column(mapper.primary_key[0]).key
    attribute: QueryableAttribute[Any] = getattr(mapper.class_, name)
    return attribute


def attributes_of(
    mapper: Mapper[Any], named: Iterable[object], what: str
) -> tuple[QueryableAttribute[Any], ...]:
    """Return the attributes that were named, each checked.

    Args:
        mapper: Of the class.
        named: Attributes of the class, or their names.
        what: Of which argument they are.

    Raises:
        TypeError: One is no attribute that is a column.
        ValueError: The class has no such attribute, or it is a column of another table.
    """
    if isinstance(named, str) or not isinstance(named, list | tuple):
        shown = str(named) if isinstance(named, QueryableAttribute) else repr(named)
        is_one = isinstance(named, str | QueryableAttribute)
        advice = f": write {what}=[{shown}]" if is_one else ""
        raise TypeError(f"{what} must be a list of columns, not {shown}{advice}")
    return tuple(_attribute(mapper, each, f"{what}[{at}]") for at, each in enumerate(named))


def _attribute(mapper: Mapper[Any], named: object, what: str) -> QueryableAttribute[Any]:
    cls = mapper.class_.__name__
    key = named if isinstance(named, str) else getattr(named, "key", None)
    if not isinstance(key, str):
        raise TypeError(f"{what} must be a column of {cls}, such as {cls}.title, not {named!r}")
    owner = getattr(named, "parent", mapper)
    if owner is not mapper and not (isinstance(owner, Mapper) and mapper.isa(owner)):
        raise ValueError(
            f"{what}: {named} is not of {cls}. A trigger sees the columns of one row: text of "
            "another table has to be copied into a column of this one"
        )
    if key not in mapper.all_orm_descriptors:
        known = ", ".join(sorted(attribute.key for attribute in mapper.column_attrs))
        raise ValueError(f"{what}: {cls} has no attribute {key!r}; its columns are {known}")
    column = column_of(mapper, key)
    if column is None:
        raise TypeError(f"{what}: {cls}.{key} is not a column{NO_COLUMN[what.partition('[')[0]]}")
    attribute: QueryableAttribute[Any] = getattr(mapper.class_, key)
    return attribute


def column_of(mapper: Mapper[Any], key: str) -> Column[Any] | None:
    """Return the column in which an attribute is stored; None if it is in none."""
    prop = mapper.get_property(key) if mapper.has_property(key) else None
    if not isinstance(prop, ColumnProperty):
        return None
    column = next((each for each in prop.columns if each.table is mapper.local_table), None)
    column = prop.columns[0] if column is None else column
    return column if isinstance(column, Column) and column.table in mapper.tables else None


def checked_condition(mapper: Mapper[Any], where: Any) -> ColumnElement[bool]:
    """Return a condition that a trigger can evaluate.

    Raises:
        TypeError: It is no SQL expression.
        ValueError: A trigger cannot evaluate it. The message says what of it.
    """
    try:
        is_function = callable(where) and not hasattr(where, "__clause_element__")
        condition = None if is_function else and_(where)  # else SQLAlchemy would call it
    except ArgumentError:
        condition = None
    if condition is None:
        raise TypeError(
            f"where must be an expression of the columns of {mapper.class_.__name__}, such as "
            f"{mapper.class_.__name__}.published, not {where!r}"
        )
    for element in visitors.iterate(condition):
        if reason := _unfit(mapper, element):
            raise ValueError(
                f"where: {reason}. A trigger evaluates the condition over the columns of one row"
            )
    return condition


def columns_in(expression: ColumnElement[Any]) -> set[Column[Any]]:
    """Return the columns that an expression reads."""
    return {each for each in visitors.iterate(expression) if isinstance(each, Column)}


def _unfit(mapper: Mapper[Any], element: Any) -> str | None:
    """Return why a part of a condition cannot be in a trigger; None if it can."""
    kind = element.__visit_name__
    reason = None
    if isinstance(element, FunctionElement):
        name = getattr(element, "name", kind)
        if str(name).lower() not in FUNCTIONS:
            reason = f"the function {name}() may depend on more than the row, or may not be there"
    elif isinstance(element, SelectBase | ScalarSelect):
        reason = f"it has a subquery: {_shown(element)}"
    elif kind not in NODES:
        reason = f"it has a {kind.replace('_', ' ')}: {_shown(element)}"
    elif kind == "column":
        table = getattr(element, "table", None)
        if getattr(element, "is_literal", False) or table is None:
            reason = f"{_shown(element)} is text, whose columns are not known: use the attributes"
        elif not isinstance(element, Column) or table not in mapper.tables:
            reason = f"{_shown(element)} is a column of another table"
    elif kind == "bindparam" and (element.required or element.callable is not None):
        reason = f"the parameter {element.key!r} has no value"
    else:
        operator = getattr(element, "operator", None)
        if isinstance(operator, operators.custom_op) and operator.opstring not in OPERATORS:
            reason = f"the operator {operator.opstring} may not be there"
    return reason


def _shown(element: object) -> str:
    text = " ".join(str(element).split())
    return text if len(text) <= 80 else f"{text[:80]}..."  # characters

"""SQL that depends on how a database stores rows: every expression of which it matters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Executable,
    Select,
    Text,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal,
    select,
    true,
    type_coerce,
)
from sqlalchemy.types import LargeBinary

from .errors import InvalidQueryError
from .records import Records, check_text
from .vectors import ITEM_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Result, ScalarSelect, Table
    from sqlalchemy.dialects.sqlite import Insert
    from sqlalchemy.orm import Session

SUPPORTED = ("sqlite",)
SAMPLE = 16  # rows that tell the dimensions of a collection


def run(
    session: Session, records: Records, statement: Executable, parameters: Any = None
) -> Result[*tuple[Any, ...]]:
    """Execute the statement on the bind of the session that has the embeddings."""
    return session.execute(
        statement, parameters, bind_arguments={"mapper": records.embedding.__mapper__}
    )


def changed(
    session: Session, records: Records, statement: Executable, parameters: Any = None
) -> int:
    """Execute an UPDATE or a DELETE and return the number of rows."""
    result = run(session, records, statement, parameters)
    return int(result.rowcount)  # type: ignore[attr-defined]


def insert_into(table: Table) -> Insert:
    """Return an INSERT that knows ON CONFLICT."""
    from sqlalchemy.dialects import sqlite  # here: an application may use another database

    return sqlite.insert(table)


def vector_size(records: Records) -> ColumnElement[int | None]:
    """Return the SQL of a stored vector's length in bytes; NULL for what are no bytes."""
    column = type_coerce(records.embeddings.c.embedding, LargeBinary)
    return case((func.typeof(column) == "blob", func.length(column)))


def stored_size(records: Records) -> ScalarSelect[int | None]:
    """Return the SQL of the bytes of a vector in the collection that the outer query is about.

    It is the commonest length among a few rows: a single one may be corrupt.
    """
    columns, size = records.embeddings.c, vector_size(records)
    sample = (
        select(size.label("size"))
        .where(columns.collection_id == records.collections.c.id, size > 0, size % ITEM_BYTES == 0)
        .limit(SAMPLE)
        .correlate(records.collections)
        .subquery()
    )
    return (
        select(sample.c.size)
        .group_by(sample.c.size)
        .order_by(func.count().desc(), sample.c.size.desc())
        .limit(1)
        .scalar_subquery()
    )


def is_one_of(id: ColumnElement[str], ids: Iterable[str]) -> ColumnElement[bool]:
    """Return the condition that an id is one of any number, which travel as one parameter."""
    return id.in_(_members(literal(as_members(ids))))


def is_one_of_parameter(id: ColumnElement[str], name: str) -> ColumnElement[bool]:
    """Return the same for a parameter of that name, to be given the value of `as_members`."""
    return id.in_(_members(bindparam(name, type_=Text)))


def as_members(ids: Iterable[str]) -> str:
    """Return ids as the value of one parameter."""
    return json.dumps(list(ids))


def _members(parameter: ColumnElement[str]) -> Select[tuple[str]]:
    return select(func.json_each(parameter).table_valued("value").c.value)


def starts_with(id: ColumnElement[str], prefix: object) -> ColumnElement[bool]:
    """Return the condition that an id begins with the prefix, as a range that an index serves."""
    if not isinstance(prefix, str):
        raise InvalidQueryError(f"prefix must be a string, not {type(prefix).__name__}")
    check_text(prefix, "prefix")
    last = prefix.rstrip("\U0010ffff")
    if not last:
        return id >= prefix
    following = ord(last[-1]) + 1
    if 0xD800 <= following <= 0xDFFF:  # surrogates are no characters
        following = 0xE000
    return and_(id >= prefix, id < last[:-1] + chr(following))


def metadata_is(records: Records, key: object, value: object) -> ColumnElement[bool]:
    """Return the condition that the metadata has this key with this value.

    Raises:
        InvalidQueryError: The key is no string, or the value no scalar.
    """
    if not isinstance(key, str):
        raise InvalidQueryError(f"where: metadata has strings as keys, not {key!r}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidQueryError(f"where: {key!r} is compared with an integer of over 64 bits")
    for part in (key, value):
        if isinstance(part, str):
            check_text(part, "where")
    if value is not None and not isinstance(value, str | int | float):
        raise InvalidQueryError(
            f"where: {key!r} is compared with a {type(value).__name__}; use a string, a number, "
            "a bool or None, or pass an expression"
        )
    # json_each takes any key, with dots and quotes in it, as a parameter; a JSON path does not.
    member = func.json_each(type_coerce(records.embeddings.c.metadata, Text)).table_valued(
        "key", "value", "type", joins_implicitly=True
    )
    equals: ColumnElement[bool]
    if value is None:
        types, equals = ["null"], true()
    elif isinstance(value, bool):
        types, equals = ["true" if value else "false"], true()
    else:
        types = ["text"] if isinstance(value, str) else ["integer", "real"]
        equals = member.c.value == literal(value)
    return exists(
        select(1).select_from(member).where(member.c.key == key, member.c.type.in_(types), equals)
    )

"""Rows of the host's compared with embeddings, and kept from others, within PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    DateTime,
    LargeBinary,
    Numeric,
    Text,
    TypeDecorator,
    Uuid,
    and_,
    case,
    cast,
    func,
    literal,
    select,
    text,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB

from ...tables.ours import schema_map_of
from . import citus
from .keys import LARGEST, LEAST
from .servers import is_spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Column, ColumnElement

    from ...keys import Keys
    from ...work.operation import Work

DIGITS = "0123456789"
LONG = 19  # digits with which a number may be no BIGINT
NO_MICROSECONDS = ".000000"
ISO_IN_UTC = 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'
MOMENT = "200ms"  # far below deadlock_timeout, which is a second


def text_hash(text: ColumnElement[str]) -> ColumnElement[bytes]:
    """Return the SQL of the MD5 of a text's UTF-8."""
    digest = func.md5(func.convert_to(text, "UTF8"))
    return func.decode(digest, "hex", type_=LargeBinary)


def has_metadata(
    stored: ColumnElement[Any], given: ColumnElement[Any] | dict[str, ColumnElement[Any]]
) -> ColumnElement[bool]:
    """Return the condition of `Database.has_metadata`."""
    stored = type_coerce(stored, JSONB)
    if not isinstance(given, dict):
        return stored == cast(given, JSONB)
    parts: list[Any] = []
    for name, column in given.items():
        parts += [literal(name, Text, literal_execute=True), _in_utc(column)]
    return stored == func.jsonb_build_object(*parts, type_=JSONB)


def _in_utc(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the SQL of a column, and of a TIMESTAMPTZ the text that `values.as_json` has.

    The server's own JSON of it depends on the session's TimeZone.
    """
    kind = column.type.impl_instance if isinstance(column.type, TypeDecorator) else column.type
    if not (isinstance(kind, DateTime) and kind.timezone):
        return column
    written = func.to_char(func.timezone("UTC", column), ISO_IN_UTC)
    return func.replace(written, NO_MICROSECONDS, "", type_=Text)


def sought_key(
    id: ColumnElement[str], keys: Keys[Any], key: ColumnElement[Any]
) -> ColumnElement[Any]:
    """Return the SQL of `Database.sought_key`."""
    if keys.python_type is int:  # whatever the width of the column, whose index serves this
        # A regular expression would take as long as all the rest.
        is_number = and_(func.rtrim(id, DIGITS).in_(["", "-"]), id.not_in(["", "-"]))
        number, fits = cast(id, BigInteger), cast(id, Numeric).between(LEAST, LARGEST)
        # In two steps: the parts of an AND are evaluated in any order.
        return case((is_number, case((func.length(id) < LONG, number), else_=case((fits, number)))))
    if isinstance(keys.sql_type, Uuid):
        return case((id.regexp_match("^[0-9a-f]{32}$"), key))
    return key


def can_keep_keys(work: Work, key: Column[Any]) -> bool:
    """Return whether the key is of a table, whose rows the role may lock: no view's.

    Citus locks no rows of several servers. Nor are there triggers on such a table: what is deleted
    is found by the next `sync`.
    """
    table, quote = key.table, work.dialect.identifier_preparer.quote
    schema = schema_map_of(work.connection).get(table.schema, table.schema)
    name = ".".join(quote(part) for part in (schema, table.name) if part)
    statement = text(
        "SELECT relkind IN ('r', 'p') AND has_any_column_privilege(oid, 'UPDATE') "
        "FROM pg_class WHERE oid = to_regclass(:name)"
    )
    if not work.run(statement, {"name": name}).scalar():
        return False
    return citus.keeping_of(work.connection, name) != "distributed"


def keep_keys(work: Work, key: Column[Any], keys: list[Any]) -> Iterable[Any]:
    """Return what FOR KEY SHARE SKIP LOCKED gets of some keys."""
    rows = select(key).where(key.in_(keys)).order_by(key)
    return work.run(rows.with_for_update(read=True, key_share=True, skip_locked=True)).scalars()


def free_rows(work: Work, ids: Sequence[str]) -> set[str]:
    """Return the ids of rows that FOR UPDATE SKIP LOCKED gets, and those that have no row."""
    columns = work.records.embeddings.c
    rows = select(columns.id).where(
        columns.collection_id == work.row.id, work.database.is_one_of(columns.id, ids)
    )
    if is_spread(work.connection):
        return {*ids}
    locked = rows.order_by(columns.id).with_for_update(skip_locked=True)
    free = {*work.run(locked).scalars()}
    return free | ({*ids} - {*work.run(rows).scalars()})


def wait_briefly(work: Work) -> None:
    """Set how long the transaction waits for a lock."""
    work.run(text(f"SET LOCAL lock_timeout = '{MOMENT}'"))

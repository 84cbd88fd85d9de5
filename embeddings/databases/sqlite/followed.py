"""Rows of the host's compared with embeddings, within SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    LargeBinary,
    Text,
    TypeDecorator,
    and_,
    case,
    cast,
    collate,
    column,
    false,
    func,
    literal,
    select,
    table,
    type_coerce,
)
from sqlalchemy.types import NullType

from .fields import is_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import ColumnElement, Dialect

    from ...models.base import Content
    from ...work.operation import Work

HASH = "embeddings_hash"
ENCODING = select(column("encoding")).select_from(table("pragma_encoding")).scalar_subquery()


def text_hash(
    work: Work, text: ColumnElement[str], content_hash: Callable[[Content], bytes]
) -> ColumnElement[bytes]:
    """Return the SQL of a text's hash, by a function of Python's that the connection gets."""
    driver: Any = work.connection.connection.dbapi_connection
    driver.create_function(HASH, 1, content_hash, deterministic=True)
    return getattr(func, HASH)(text, type_=LargeBinary)  # type: ignore[no-any-return]


def has_metadata(
    stored: ColumnElement[Any], given: ColumnElement[Any] | dict[str, ColumnElement[Any]]
) -> ColumnElement[bool]:
    """Return the condition of `Database.has_metadata`."""
    stored = type_coerce(stored, Text)
    if not isinstance(given, dict):
        return stored == type_coerce(given, Text)
    if any('"' in name or "\\" in name for name in given):  # what a path of JSON cannot say
        return false()
    paths = [f'$."{name}"' for name in given]
    same: list[ColumnElement[bool]] = [func.json_remove(stored, *paths) == "{}"]  # no other
    for path, given_ in zip(paths, given.values(), strict=True):
        value = func.json_extract(stored, path)
        # The host's column may have a collation for which more is equal.
        is_same = collate(value, "BINARY").is_not_distinct_from(type_coerce(given_, Text))
        same += [func.json_type(stored, path).is_not(None), is_same]
    return case((is_json(stored), and_(*same)), else_=false())


class AnyText(TypeDecorator[str]):
    """The bytes of a text, which SQLite does not check, with what is no UTF-8 escaped."""

    impl = NullType
    cache_ok = True

    def process_result_value(self, value: object, dialect: Dialect) -> str | None:
        """Return the text."""
        if isinstance(value, bytes):
            return value.decode(errors="surrogateescape")
        return None if value is None else str(value)


def any_text(written: ColumnElement[Any]) -> ColumnElement[str]:
    """Return the SQL of `Database.any_text`."""
    is_utf8 = ENCODING == "UTF-8"  # else the bytes are those of UTF-16
    return type_coerce(case((is_utf8, cast(written, LargeBinary)), else_=written), AnyText)


def written_key(key: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the SQL of `Database.written_key`: what the driver has of it."""
    return type_coerce(key, NullType())


def is_written(key: ColumnElement[Any], id: str) -> ColumnElement[bool]:
    """Return the condition of `Database.is_written`; an index serves it where the id is a text."""
    try:
        id.encode()
    except UnicodeEncodeError:
        written = literal(id.encode(errors="surrogateescape"), LargeBinary)
        return cast(key, Text) == cast(written, Text)
    return written_key(key) == literal(id, NullType())

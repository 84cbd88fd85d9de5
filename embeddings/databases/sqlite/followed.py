"""Rows of the host's compared with embeddings, within SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import LargeBinary, Text, and_, case, collate, false, func, type_coerce

from .fields import is_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import ColumnElement

    from ...models.base import Content
    from ...work.operation import Work

HASH = "embeddings_hash"


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
    for path, column in zip(paths, given.values(), strict=True):
        value = func.json_extract(stored, path)
        # The host's column may have a collation for which more is equal.
        is_same = collate(value, "BINARY").is_not_distinct_from(type_coerce(column, Text))
        same += [func.json_type(stored, path).is_not(None), is_same]
    return case((is_json(stored), and_(*same)), else_=false())

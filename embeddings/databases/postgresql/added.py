"""Columns of ours beside the documented ones: of embeddings, and settings of collections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Text, func, literal_column

if TYPE_CHECKING:
    from ...tables.records import Records


def setting(records: Records, column: str) -> ColumnElement[str | None]:
    """Return the SQL of a setting of the outer query's collection; NULL without the column."""
    row = func.to_jsonb(records.collections.table_valued())
    value: ColumnElement[Any] = row.op("->>", return_type=Text())(literal_column(f"'{column}'"))
    return value

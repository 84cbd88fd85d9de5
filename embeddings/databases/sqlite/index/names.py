"""Which collections have an index: it is told by the name of a table, of any database."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..catalog import objects_of, told_by_name

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

    from ....tables.records import Records

METHOD = "[a-z][a-z0-9]*"
"""A regular expression of the names of methods."""


def prefix(records: Records) -> str:
    """Return what the names of the tables of all indexes begin with."""
    return f"{records.embeddings.name}_index_"


def table_name(records: Records, collection_id: int, method: str) -> str:
    """Return the name of the table of a collection's index."""
    return f"{prefix(records)}{collection_id}_{method}"


def is_table(name: str, records: Records) -> bool:
    """Return whether a table is one of an index."""
    return re.fullmatch(rf"{re.escape(prefix(records))}\d+_{METHOD}", name) is not None


def method_of(records: Records, collection_id: ColumnElement[Any]) -> ColumnElement[str | None]:
    """Return the SQL of the method of a collection's index; NULL if there is none."""
    objects = objects_of(records, "index_tables")
    return told_by_name(records, objects, prefix(records), collection_id)

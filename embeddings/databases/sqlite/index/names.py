"""Which collections have an index: it is told by the name of a table, of any database."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, ColumnElement, MetaData, Table, Text, func, literal_column, select

if TYPE_CHECKING:
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
    """Return the SQL of the method of a collection's index; NULL if there is none.

    The catalog has it, and so no statement fails where there was never an index.
    """
    objects = Table(
        "sqlite_master",
        MetaData(),
        *(Column(name, Text) for name in ("type", "name")),
        schema=records.embeddings.schema,
    ).alias("index_tables")
    before = (
        literal_column(f"'{prefix(records)}'").concat(collection_id).concat(literal_column("'_'"))
    )
    length = func.length(before)
    return (
        select(func.substr(objects.c.name, length + literal_column("1")))
        .where(
            objects.c.type == literal_column("'table'"),
            func.substr(objects.c.name, literal_column("1"), length) == before,
        )
        .correlate(records.collections)
        .scalar_subquery()
    )

"""What is of ours beside the documented columns: which of it is there, and settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, ColumnElement, Text, bindparam, func, literal_column, text

from .names import names_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ...tables.records import Records


def setting(records: Records, column: str) -> ColumnElement[str | None]:
    """Return the SQL of a setting of the outer query's collection; NULL without the column."""
    row = func.to_jsonb(records.collections.table_valued())
    value: ColumnElement[Any] = row.op("->>", return_type=Text())(literal_column(f"'{column}'"))
    return value


def names_on(connection: Connection, *tables: str) -> set[str]:
    """Return the names of the columns and indexes of tables.

    Args:
        connection: To the database.
        tables: Their names as SQL. Nothing is returned of one that is not there.
    """
    given = "(SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) AS given (name))"
    statement = text(
        "SELECT attname FROM pg_catalog.pg_attribute "
        f"WHERE attrelid IN {given} AND attnum > 0 AND NOT attisdropped "
        "UNION ALL SELECT relname FROM pg_catalog.pg_class JOIN pg_catalog.pg_index "
        f"ON indexrelid = oid WHERE indrelid IN {given}"
    ).bindparams(bindparam("tables", type_=ARRAY(Text)))
    return {*connection.scalars(statement, {"tables": [*tables]})}


def names_on_both(connection: Connection, records: Records) -> set[str]:
    """Return the same of the tables of collections and of embeddings."""
    tables = names_of(connection, records)
    return names_on(connection, tables.collections, tables.embeddings)


def lost(connection: Connection, records: Records, names: set[str]) -> list[str]:
    """Return which columns and indexes of the two tables, of those with some names, are missing."""
    return sorted(names - names_on_both(connection, records))

"""SQLite's catalog, which tells of a collection by the names of its side tables.

So no statement fails where there was never such a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Column,
    ColumnElement,
    MetaData,
    Table,
    Text,
    and_,
    func,
    literal_column,
    select,
)

if TYPE_CHECKING:
    from sqlalchemy import FromClause

    from ...tables.records import Records


def objects_of(records: Records, name: str) -> FromClause:
    """Return the catalog of the schema that the tables are in, under a name for the statement."""
    columns = (Column(column, Text) for column in ("type", "name", "sql"))
    return Table("sqlite_master", MetaData(), *columns, schema=records.embeddings.schema).alias(
        name
    )


def begins_with(objects: FromClause, prefix: str) -> ColumnElement[bool]:
    """Return the condition that a table's name begins with a prefix of ours, which ends with "_".

    It is to be the first one: constants are compared in no time, and every operation asks this of
    all that there is in the database.
    """
    name = objects.c.name
    after = prefix[:-1] + chr(ord("_") + 1)
    return and_(name >= literal_column(f"'{prefix}'"), name < literal_column(f"'{after}'"))


def told_by_name(
    records: Records,
    objects: FromClause,
    prefix: str,
    collection_id: ColumnElement[Any],
    *conditions: ColumnElement[bool],
) -> ColumnElement[str | None]:
    """Return the SQL of what the name of a collection's side table ends with; NULL without one.

    Args:
        records: Whose table of collections the outer query reads.
        objects: From `objects_of`.
        prefix: What stands before the collection's id and "_".
        collection_id: The collection's.
        conditions: That the table meets, besides.
    """
    before = literal_column(f"'{prefix}'").concat(collection_id).concat(literal_column("'_'"))
    length = func.length(before)
    return (
        select(func.substr(objects.c.name, length + literal_column("1")))
        .where(
            begins_with(objects, prefix),
            objects.c.type == literal_column("'table'"),
            func.substr(objects.c.name, literal_column("1"), length) == before,
            *conditions,
        )
        .correlate(records.collections)
        .scalar_subquery()
    )

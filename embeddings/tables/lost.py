"""What others have removed from our tables and from beside them: it is told, and made again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, inspect, select
from sqlalchemy.schema import CreateIndex

from .. import databases
from ..databases.additions import ADDITIONS
from ..errors import SchemaError
from .records import RECORDS

if TYPE_CHECKING:
    from sqlalchemy import Connection, Index

    from .records import Records

INDEXES: tuple[Index, ...] = (*RECORDS.collections.indexes, *RECORDS.embeddings.indexes)
"""Of the documented tables, before a host adds its own to them."""


def lost(connection: Connection, records: Records = RECORDS) -> list[str]:
    """Return what is missing of what `migrate` made, or `install`; only reads.

    Args:
        connection: To a database that has the two tables, up to date.
        records: Which tables. Indexes of those of `make_records` are their owner's, whose
            autogenerate tells of them.
    """
    database = databases.of(connection.dialect)
    told = (database.addition(name).missing(connection, records) for name in ADDITIONS)
    indexes = (f"the index {index.name} is missing" for index in _lost_indexes(connection, records))
    return [*filter(None, told), *indexes]


def make_again(connection: Connection, records: Records = RECORDS) -> None:
    """Make it again, in the connection's transaction; what is there stays as it is.

    Raises:
        SchemaError: Two collections have one name, which the index would not allow.
    """
    database = databases.of(connection.dialect)
    for name in ADDITIONS:
        if database.addition(name).missing(connection, records):
            database.addition(name).install(connection, records)
    for index in _lost_indexes(connection, records):
        if index.unique:
            _check_names(connection, records)
        connection.execute(CreateIndex(index, if_not_exists=True))


def _check_names(connection: Connection, records: Records) -> None:
    name = records.collections.c.name
    twice = connection.scalars(select(name).group_by(name).having(func.count(name) > 1))
    if names := sorted(twice):
        raise SchemaError(
            f"The unique index of the names of collections was lost, and several have the name "
            f"{', '.join(map(repr, names))}. Rename or delete all but one of each. Nothing was "
            "changed"
        )


def _lost_indexes(connection: Connection, records: Records) -> list[Index]:
    if records.embeddings.fullname != RECORDS.embeddings.fullname:
        return []
    database = databases.of(connection.dialect)
    there = database.index_names(connection, records)
    lost = [index for index in INDEXES if index.name not in there]
    if not lost:
        return []
    # Others may have made it under another name, before we took the tables over.
    inspector = inspect(connection)
    indexed = {
        tuple((table.name, column) for column in each["column_names"])
        for table in (records.collections, records.embeddings)
        if inspector.has_table(table.name, table.schema)
        for each in inspector.get_indexes(table.name, table.schema)
    }
    return [
        index
        for index in lost
        if tuple((column.table.name, column.name) for column in index.columns) not in indexed
    ]

"""What is kept of chunks on SQLite: a table for each collection that has some, and its triggers.

That there is such a table says that the collection's texts are cut, and a default in it how: so one
statement tells, also in a file that has none. When a row is deleted or replaced, by whatever
program, a trigger takes away what is kept of it.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    func,
    literal_column,
    select,
)

from ..quoting import literal, quoted
from .catalog import begins_with, objects_of
from .changelog import schema_of, within
from .transactions import sqlite_transaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Subquery

    from ...tables.records import Records
    from ...work.operation import Work

TRIGGERS = ("insert", "update", "delete")
DEFAULT = "setting TEXT DEFAULT "


def prefix(records: Records) -> str:
    """Return what the names of these tables begin with."""
    return f"{records.embeddings.name}_chunks_"


def is_table(name: str, records: Records) -> bool:
    """Return whether a table is one of these."""
    return re.fullmatch(re.escape(prefix(records)) + r"\d+", name) is not None


def setting_of(records: Records) -> ColumnElement[str | None]:
    """Return the SQL of `Database.chunk_setting`: the default of a column that nothing fills."""
    objects = objects_of(records, "chunk_tables")
    name = literal_column(f"'{prefix(records)}'").concat(records.collections.c.id)
    # It is the last of the table's columns, written between quotes, where its own are doubled.
    before: ColumnElement[str] = literal_column(f"'{DEFAULT}'")
    start = func.instr(objects.c.sql, before, type_=Integer) + func.length(before, type_=Integer)
    length = func.length(objects.c.sql, type_=Integer) - start - literal_column("2")
    written = func.substr(objects.c.sql, start + literal_column("1"), length)
    one: ColumnElement[str] = literal_column("''''")
    two: ColumnElement[str] = literal_column("''''''")
    return (
        select(func.replace(written, two, one, type_=Text))
        .where(
            begins_with(objects, prefix(records)),
            objects.c.type == literal_column("'table'"),
            objects.c.name == name,
        )
        .correlate(records.collections)
        .scalar_subquery()
    )


class _Names:
    """The names of a collection's table and triggers, as SQL."""

    def __init__(self, records: Records, collection_id: int, schema: str | None) -> None:
        self.base = f"{prefix(records)}{collection_id}"
        self.inside = within(schema)
        self.table = f"{self.inside}{quoted(self.base)}"
        self.embeddings = quoted(records.embeddings.name)
        self.collection_id = collection_id

    def trigger(self, name: str) -> str:
        return f'{self.inside}"{self.base}_{name}"'


def _names(work: Work) -> _Names:
    return _Names(work.records, work.row.id, schema_of(work.connection, work.records))


def set_setting(work: Work, setting: str | None) -> None:
    """Make the table and its triggers with a setting, in place of those that are there."""
    names = _names(work)
    statements = [f"DROP TRIGGER IF EXISTS {names.trigger(name)}" for name in TRIGGERS]
    statements.append(f"DROP TABLE IF EXISTS {names.table}")
    if setting is not None:
        statements += [
            f"CREATE TABLE {names.table} (id TEXT PRIMARY KEY, start INTEGER, "
            f'"end" INTEGER, item_hash BLOB, item_content TEXT, item_chunks INTEGER, '
            f"{DEFAULT}{literal(setting)})",
            *_triggers(names),
        ]
    with sqlite_transaction(work.connection):
        for statement in statements:
            work.connection.exec_driver_sql(statement)


def _triggers(names: _Names) -> list[str]:
    own, embeddings = names.collection_id, names.embeddings
    old, new = f"OLD.collection_id = {own}", f"NEW.collection_id = {own}"
    is_other = (
        "OLD.id IS NOT NEW.id OR OLD.collection_id IS NOT NEW.collection_id "
        "OR OLD.content_hash IS NOT NEW.content_hash"
    )

    def forget(row: str) -> str:
        return f"DELETE FROM {quoted(names.base)} WHERE id = {row}.id"

    return [
        f"CREATE TRIGGER {names.trigger('insert')} AFTER INSERT ON {embeddings} "
        f"WHEN {new} BEGIN {forget('NEW')}; END",
        f"CREATE TRIGGER {names.trigger('update')} "
        f"AFTER UPDATE OF collection_id, id, content_hash ON {embeddings} "
        f"WHEN ({old} OR {new}) AND ({is_other}) BEGIN "
        f"{forget('OLD')} AND {old}; {forget('NEW')} AND {new}; END",
        f"CREATE TRIGGER {names.trigger('delete')} AFTER DELETE ON {embeddings} "
        f"WHEN {old} BEGIN {forget('OLD')}; END",
    ]


def uninstall(connection: Connection, records: Records) -> None:
    """Drop all these tables and their triggers."""
    inside = within(schema_of(connection, records))
    found = connection.exec_driver_sql(
        f"SELECT type, name, tbl_name FROM {inside}sqlite_master "
        "WHERE type IN ('table', 'trigger') AND substr(name, 1, ?) = ? ORDER BY type DESC",
        (len(prefix(records)), prefix(records)),
    ).all()
    for kind, name, _ in found:  # the triggers first
        if kind == "trigger" or is_table(name, records):
            connection.exec_driver_sql(f"DROP {kind.upper()} IF EXISTS {inside}{quoted(name)}")


@functools.lru_cache(maxsize=1024)
def table_of(records: Records, collection_id: int) -> Table:
    """Return the table of a collection: one object, for which statements are compiled once."""
    return Table(
        f"{prefix(records)}{collection_id}",
        MetaData(),
        Column("id", Text),
        Column("start", Integer),
        Column("end", Integer),
        Column("item_hash", LargeBinary),
        Column("item_content", Text),
        Column("item_chunks", Integer),
        schema=records.embeddings.schema,
    )


def parts(work: Work) -> Subquery:
    """Return the columns of `Database.parts`."""
    return select(table_of(work.records, work.row.id)).subquery()


def put(work: Work, given: Sequence[tuple[Any, ...]]) -> None:
    """Write the values of `Database.put_parts`."""
    work.connection.exec_driver_sql(
        f"INSERT OR REPLACE INTO {_names(work).table} "
        '(id, start, "end", item_hash, item_content, item_chunks) VALUES (?, ?, ?, ?, ?, ?)',
        list(given),
    )

"""The rows that are pending, on SQLite: the table, and the trigger that removes vectors at once.

The triggers on a host's tables name this table only. What names `embeddings` is the one trigger
here, which is dropped wherever `embeddings` is rebuilt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.engine.mock import MockConnection

from ...following.literals import FOLLOWS
from ...tables.pending import DISPLACED, REMOVED, pending_name
from ..quoting import quoted
from .changelog import names_on, schema_of, within
from .parts import prefix as chunks_prefix
from .transactions import sqlite_transaction

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ...tables.records import Records


def install(connection: Connection, records: Records) -> None:
    """Create the table, and its trigger where a host's table is followed.

    What is there is kept or made anew.
    """
    if isinstance(connection, MockConnection):
        for statement in script(records, records.embeddings.schema):
            connection.execute(text(statement))
        return
    schema = schema_of(connection, records)
    with sqlite_transaction(connection):
        for statement in script(records, schema):
            connection.exec_driver_sql(statement)
        if triggers_of_hosts(connection, records):
            for statement in trigger_script(records, schema):
                connection.exec_driver_sql(statement)


def missing(connection: Connection, records: Records) -> str | None:
    """Return what of it others have removed, or None."""
    table, needed = pending_name(records), _names_beside(records)
    found = names_on(connection, schema_of(connection, records), table)
    if table not in found:
        return f"the table {table} is missing"
    if triggers_of_hosts(connection, records):
        needed.append(f"{table}_removed")
    lost = [name for name in needed if name not in found]
    return f"beside {table} are missing: {', '.join(lost)}" if lost else None


def _names_beside(records: Records) -> list[str]:
    table = pending_name(records)
    return [f"idx_{table}_id", f"idx_{table}_displaced", f"{table}_newest"]


def script(records: Records, schema: str | None = None) -> list[str]:
    """Return the SQL of the table, in that schema, an attached database."""
    inside, table = within(schema), pending_name(records)
    return [
        f'CREATE TABLE IF NOT EXISTS {inside}"{table}" ('
        "seq INTEGER PRIMARY KEY, collection TEXT NOT NULL, id TEXT NOT NULL, "
        "change TEXT NOT NULL, "
        "since INTEGER NOT NULL DEFAULT (CAST(strftime('%s', 'now') AS INTEGER)), "
        "claimed_until INTEGER, claimed_by TEXT, attempts INTEGER NOT NULL DEFAULT 0, error TEXT)",
        f'CREATE INDEX IF NOT EXISTS {inside}"idx_{table}_id" ON "{table}" (collection, id)',
        f'CREATE INDEX IF NOT EXISTS {inside}"idx_{table}_displaced" ON "{table}" (collection) '
        f"WHERE change = '{DISPLACED}'",
        # A number that was seen is never that of another change: where the newest row is taken
        # off, a row of no collection keeps its number. AUTOINCREMENT takes a third of the time
        # that a host's UPDATE takes besides.
        f'DROP TRIGGER IF EXISTS {inside}"{table}_newest"',
        f'CREATE TRIGGER {inside}"{table}_newest" AFTER DELETE ON "{table}" '
        f'WHEN NOT EXISTS (SELECT 1 FROM "{table}" WHERE seq > OLD.seq) BEGIN '
        f"DELETE FROM \"{table}\" WHERE collection = ''; "
        f'INSERT INTO "{table}" (seq, collection, id, change, since) '
        "VALUES (OLD.seq, '', '', '', 0); END",
    ]


def trigger_script(records: Records, schema: str | None = None) -> list[str]:
    """Return the SQL of the trigger that removes vectors.

    It is made with the first table that is followed: SQLite renames no table in a file where a
    trigger names one that is not there, as `embeddings` while it is rebuilt.
    """
    inside, table = within(schema), pending_name(records)
    embeddings, chunks = quoted(records.embeddings.name), chunks_prefix(records)
    its = f"(SELECT id FROM {quoted(records.collections.name)} WHERE name = NEW.collection)"
    return [
        f'DROP TRIGGER IF EXISTS {inside}"{table}_removed"',
        f'CREATE TRIGGER {inside}"{table}_removed" AFTER INSERT ON "{table}" '
        f"WHEN NEW.change = '{REMOVED}' BEGIN "
        f"DELETE FROM {embeddings} WHERE id = NEW.id AND collection_id = {its}; "
        # The chunks of an item, in a collection that has some.
        f"DELETE FROM {embeddings} WHERE id >= NEW.id || '#' AND id < NEW.id || '$' "
        f"AND collection_id = {its} AND rtrim(id, '0123456789') = NEW.id || '#' "
        f"AND EXISTS (SELECT 1 FROM sqlite_master WHERE name = '{chunks}' || {its}); END",
    ]


def uninstall(connection: Connection, records: Records) -> None:
    """Drop the table, its trigger, and the triggers of hosts' tables, which could not write."""
    if isinstance(connection, MockConnection):
        for statement in script_down(records, records.embeddings.schema):
            connection.execute(text(statement))
        return
    schema = schema_of(connection, records)
    for name in triggers_of_hosts(connection, records):
        connection.exec_driver_sql(f"DROP TRIGGER {within(schema)}{quoted(name)}")
    for statement in script_down(records, schema):
        connection.exec_driver_sql(statement)


def triggers_of_hosts(connection: Connection, records: Records) -> list[str]:
    """Return the names of the triggers that append to the table."""
    found = connection.exec_driver_sql(
        f"SELECT name FROM {within(schema_of(connection, records))}sqlite_master "
        "WHERE type = 'trigger' AND substr(name, 1, ?) = ? AND instr(sql, ?)",
        (len(FOLLOWS), FOLLOWS, f'INTO "{pending_name(records)}"'),
    )
    return [name for (name,) in found]


def script_down(records: Records, schema: str | None = None) -> list[str]:
    """Return the SQL that undoes that of `script`."""
    inside, table = within(schema), pending_name(records)
    return [
        f'DROP TRIGGER IF EXISTS {inside}"{table}_newest"',
        f'DROP TRIGGER IF EXISTS {inside}"{table}_removed"',
        f'DROP TABLE IF EXISTS {inside}"{table}"',
    ]

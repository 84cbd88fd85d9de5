"""The change log of SQLite, and the triggers that fill it.

Triggers append one row to the log for every embedding that anybody writes, whatever program it is,
so that whatever is derived from the embeddings can tell whether it is up to date.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.engine.mock import MockConnection

from ...errors import SchemaError
from ...tables.ours import schema_map_of
from ..quoting import quoted
from . import llm
from .transactions import sqlite_transaction

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ...tables.records import Records

TRIGGERS = ("insert", "insert_rowid", "update", "update_rowid", "delete", "prune")
LOG_ROWS, PRUNE_EVERY = 65_536, 1_024


def log_name(records: Records) -> str:
    """Return the name of the change log."""
    return f"{records.embeddings.name}_log"


def install(connection: Connection, records: Records) -> None:
    """Create the change log and its triggers. What is there is kept or made anew."""
    if isinstance(connection, MockConnection):  # of a script, not of a database
        for statement in side_tables(records, records.embeddings.schema):
            connection.execute(text(statement))
        return
    schema = schema_of(connection, records)
    with sqlite_transaction(connection):
        check_log(connection, records)
        ours = {*trigger_names(records), *_names_on_collections(records)}
        for name, table in connection.exec_driver_sql(
            f"SELECT name, tbl_name FROM {within(schema)}sqlite_master WHERE type = 'trigger'"
        ):
            if name in ours and table not in _tables(records):
                raise SchemaError(
                    f"The table {table!r} has a trigger called {name!r}, a name that this library "
                    "needs. Nothing was changed"
                )
        for statement in side_tables(records, schema):
            connection.exec_driver_sql(statement)


def missing(connection: Connection, records: Records) -> str | None:
    """Return what of the change log others have removed, or None."""
    schema, name = schema_of(connection, records), log_name(records)
    inside = within(schema)
    if not _has_log(connection, records):
        return f"the change log {name} is missing"
    found = names_on(connection, schema, *_tables(records))
    if lost := sorted({*trigger_names(records), *_names_on_collections(records)} - found):
        return f"triggers of the change log are missing ({', '.join(lost)})"
    if (index := _index_name(records)) not in found:
        return f"the index {index} is missing"
    begin = connection.exec_driver_sql(f"SELECT 1 FROM {inside}{quoted(name)} WHERE seq = 0")
    return None if begin.first() else f"the change log {name} was emptied"


def names_on(connection: Connection, schema: str | None, *tables: str) -> set[str]:
    """Return the names of the tables that are there, of their indexes and of their triggers.

    Args:
        connection: To the database.
        schema: An attached database; None for the main one.
        tables: Their names.
    """
    found = connection.exec_driver_sql(
        f"SELECT name FROM {within(schema)}sqlite_master "
        f"WHERE tbl_name IN ({', '.join('?' * len(tables))})",
        tables,
    )
    return {*found.scalars()}


def check_log(connection: Connection, records: Records) -> None:
    """Do nothing if the name of the change log is free, or taken by a change log.

    Raises:
        SchemaError: Somebody else has a table of this name.
    """
    if _has_log(connection, records) is False:
        raise SchemaError(
            f"This database has a table {log_name(records)!r}, a name that this library needs for "
            "its change log. Nothing was changed"
        )


def _has_log(connection: Connection, records: Records) -> bool | None:
    """Return whether the table of that name is a change log; None if there is no such table."""
    sql = _sql_of(connection, records, log_name(records))
    return None if sql is None else "randomblob(16)" in sql


def _sql_of(connection: Connection, records: Records, table: str) -> str | None:
    inside = within(schema_of(connection, records))
    query = f"SELECT sql FROM {inside}sqlite_master WHERE type = 'table' AND name = ?"
    row = connection.exec_driver_sql(query, (table,)).first()
    return None if row is None else str(row[0])


def trigger_names(records: Records) -> list[str]:
    """Return the names of the triggers that fill and prune the change log."""
    return [f"{log_name(records)}_{name}" for name in TRIGGERS]


def _names_on_collections(records: Records) -> list[str]:
    """Return the names of the triggers that note deleted collections; searches do without them."""
    return [f"{log_name(records)}_{name}" for name in ("deleted", "restored")]


def _tables(records: Records) -> tuple[str, ...]:
    """Return the names of the tables that the triggers stand on."""
    return records.collections.name, records.embeddings.name, log_name(records)


def _index_name(records: Records) -> str:
    return f"idx_{log_name(records)}_collection"


def side_tables(records: Records, schema: str | None = None) -> list[str]:
    """Return the SQL that `install` runs for tables in that schema, an attached database."""
    return [*llm.upgrade_sql(records), *_change_log(records, within(schema))]


def schema_of(connection: Connection, records: Records) -> str | None:
    """Return the attached database that has the tables; None for the main one."""
    schema = records.embeddings.schema
    return schema_map_of(connection).get(schema, schema)


def within(schema: str | None) -> str:
    """Return what a name in that schema begins with."""
    return f"{quoted(schema)}." if schema else ""


def _change_log(records: Records, schema: str) -> list[str]:
    """Return the SQL of the log (seq, collection_id, id, token) and of its triggers.

    A row of the log says: at this point this id changed. Its token is random, so that a row that
    was rolled back never comes back as the same: whoever remembers (seq, token) can tell whether
    the log still holds that very row. The row with seq 0 names the database as a whole.
    """
    collections = quoted(records.collections.name)
    log, embeddings = log_name(records), quoted(records.embeddings.name)
    append = f'INSERT INTO "{log}" (collection_id, id)'

    def trigger(name: str, when: str, *rows: str) -> list[str]:
        body = " ".join(f"{append} {row};" for row in rows)
        return [
            f'DROP TRIGGER IF EXISTS {schema}"{log}_{name}"',
            f'CREATE TRIGGER {schema}"{log}_{name}" {when} BEGIN {body} END',
        ]

    old, new = "VALUES (OLD.collection_id, OLD.id)", "VALUES (NEW.collection_id, NEW.id)"
    moved = "(OLD.collection_id IS NOT NEW.collection_id OR OLD.id IS NOT NEW.id)"
    displaced = f"SELECT collection_id, id FROM {embeddings} WHERE rowid = NEW.rowid"
    return [
        f'CREATE TABLE IF NOT EXISTS {schema}"{log}" (seq INTEGER PRIMARY KEY, '
        "collection_id INTEGER, id TEXT, token BLOB NOT NULL DEFAULT (randomblob(16)))",
        f'CREATE INDEX IF NOT EXISTS {schema}"{_index_name(records)}" '
        f'ON "{log}" (collection_id, seq)',
        *trigger("insert", f"AFTER INSERT ON {embeddings}", new),
        # REPLACE fires no delete trigger. What it replaces has the key of the new row, except
        # where the statement names a rowid: then it is the row of that rowid as well.
        *trigger("insert_rowid", f"BEFORE INSERT ON {embeddings}", displaced),
        *trigger(
            "update_rowid",
            f"BEFORE UPDATE ON {embeddings} WHEN OLD.rowid <> NEW.rowid",
            displaced,
        ),
        # A change of content or metadata alone leaves the vectors as they are.
        *trigger(
            "update",
            f"AFTER UPDATE OF collection_id, id, embedding ON {embeddings} "
            f"WHEN {moved} OR OLD.embedding IS NOT NEW.embedding",
            new,
            f"SELECT OLD.collection_id, OLD.id WHERE {moved}",
        ),
        *trigger("delete", f"AFTER DELETE ON {embeddings}", old),
        # Its id below zero, which pruning keeps: see `leftover`. One that is replaced, or restored,
        # comes back under its name. No other table is named, which a host may make anew.
        *trigger("deleted", f"AFTER DELETE ON {collections}", "VALUES (-OLD.id, OLD.name)"),
        f'DROP TRIGGER IF EXISTS {schema}"{log}_restored"',
        f'CREATE TRIGGER {schema}"{log}_restored" AFTER INSERT ON {collections} BEGIN '
        f'DELETE FROM "{log}" WHERE collection_id = -NEW.id AND id IS NEW.name; END',
        # Whoever writes keeps the log short. The newest row of each collection stays.
        f'DROP TRIGGER IF EXISTS {schema}"{log}_prune"',
        f'CREATE TRIGGER {schema}"{log}_prune" AFTER INSERT ON "{log}" '
        f"WHEN NEW.seq % {PRUNE_EVERY} = 0 BEGIN "
        f'DELETE FROM "{log}" WHERE seq > 0 AND seq <= NEW.seq - {LOG_ROWS} AND EXISTS '
        f'(SELECT 1 FROM "{log}" AS newer WHERE newer.collection_id IS "{log}".collection_id '
        f'AND newer.seq > "{log}".seq); END',
        f'INSERT INTO {schema}"{log}" (seq) VALUES (0) ON CONFLICT DO NOTHING',
        # Whatever was written while there were no triggers is a change, too; so is a deletion of
        # all that a collection had.
        f'INSERT INTO {schema}"{log}" (collection_id) '
        f"SELECT collection_id FROM {schema}{embeddings} "
        f'UNION SELECT collection_id FROM {schema}"{log}" WHERE seq > 0',
    ]


def uninstall(connection: Connection, records: Records) -> None:
    """Remove what `install` made."""
    if isinstance(connection, MockConnection):
        for statement in side_tables_down(records, records.embeddings.schema):
            connection.execute(text(statement))
        return
    statements = []
    if _has_log(connection, records) is not False:  # else the table is somebody else's
        statements += _change_log_down(records, within(schema_of(connection, records)))
    if _sql_of(connection, records, llm.TABLE) is not None:
        statements += llm.downgrade_sql(records)
    for statement in statements:
        connection.exec_driver_sql(statement)
    if statements and _sql_of(connection, records, llm.TABLE) is not None:
        llm.drop_if_empty(connection, records)


def side_tables_down(records: Records, schema: str | None = None) -> list[str]:
    """Return the SQL that undoes that of `side_tables`."""
    return [*_change_log_down(records, within(schema)), *llm.downgrade_sql(records)]


def _change_log_down(records: Records, schema: str) -> list[str]:
    names = (*trigger_names(records), *_names_on_collections(records))
    triggers = [f'DROP TRIGGER IF EXISTS {schema}"{name}"' for name in names]
    return [*triggers, f'DROP TABLE IF EXISTS {schema}"{log_name(records)}"']

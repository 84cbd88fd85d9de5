"""What the program `llm` expects in its files: the rows that tell how far its migrations are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...tables.records import RECORDS

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ...tables.records import Records

TABLE = "_sqlite_migrations"
MIGRATIONS = (
    "m001_create_tables",
    "m002_foreign_key",
    "m003_add_updated",
    "m004_store_content_hash",
    "m005_add_content_blob",
)


def _is_documented(records: Records) -> bool:
    return records.embeddings.fullname == RECORDS.embeddings.fullname


def upgrade_sql(records: Records) -> list[str]:
    """Return the SQL that tells `llm` which of its migrations these tables amount to."""
    if not _is_documented(records):
        return []
    table = f'"{TABLE}"'
    names = ", ".join(f"('{name}')" for name in MIGRATIONS)
    return [
        f'CREATE TABLE IF NOT EXISTS {table} ("id" INTEGER PRIMARY KEY, '
        '"migration_set" TEXT, "name" TEXT, "applied_at" TEXT)',
        f'CREATE UNIQUE INDEX IF NOT EXISTS "idx_{TABLE}_migration_set_name" '
        f'ON {table} ("migration_set", "name")',
        f"INSERT INTO {table} (migration_set, name, applied_at) "
        f"SELECT 'llm.embeddings', column1, strftime('%Y-%m-%d %H:%M:%S+00:00', 'now') "
        f"FROM (VALUES {names}) WHERE column1 NOT IN "
        f"(SELECT name FROM {table} WHERE migration_set = 'llm.embeddings')",
    ]


def downgrade_sql(records: Records) -> list[str]:
    """Return the SQL that takes that back."""
    if not _is_documented(records):
        return []
    return [f"DELETE FROM {TABLE} WHERE migration_set = 'llm.embeddings'"]


def drop_if_empty(connection: Connection, records: Records) -> None:
    """Drop the table, which is there, unless other migrations of `llm` are in it."""
    if not _is_documented(records):
        return
    if connection.exec_driver_sql(f'SELECT 1 FROM "{TABLE}" LIMIT 1').first() is None:
        connection.exec_driver_sql(f'DROP TABLE "{TABLE}"')

"""The tables: creating and migrating them, adopting `llm`'s, keeping a host's autogenerate clean.

Beside the two documented tables SQLite has a change log. Triggers append one row for every
embedding that anybody writes, whatever program it is, so that whatever is derived from the
embeddings can tell whether it is up to date.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, MetaData, Table, event, func, inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import DropTable

from .errors import SchemaError
from .records import RECORDS, Base, Records
from .sql import connection_of, dialect_of, schema_map_of
from .transactions import commits_each_statement, owned_transaction, sqlite_transaction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import Session

VERSION_TABLE = "embeddings_alembic_version"
LLM_MIGRATIONS_TABLE = "_sqlite_migrations"
LLM_MIGRATIONS = (
    "m001_create_tables",
    "m002_foreign_key",
    "m003_add_updated",
    "m004_store_content_hash",
    "m005_add_content_blob",
)
TABLES = frozenset(
    {
        RECORDS.collections.name,
        RECORDS.embeddings.name,
        RECORDS.log,
        VERSION_TABLE,
        LLM_MIGRATIONS_TABLE,
    }
)
TRIGGERS = ("insert", "insert_rowid", "update", "update_rowid", "delete", "prune")
LOG_ROWS, PRUNE_EVERY = 65_536, 1_024

# Columns without which a table of that name is not ours: llm's first version had these.
_REQUIRED = {
    RECORDS.collections.name: {"id", "name", "model"},
    RECORDS.embeddings.name: {"collection_id", "id", "embedding", "content", "metadata"},
}

ADVISORY_LOCK = int.from_bytes(b"embeddin")
# https://www.postgresql.org/docs/current/errcodes-appendix.html
UNDEFINED_TABLE, INSUFFICIENT_PRIVILEGE = "42P01", "42501"

_alembic_lock = threading.RLock()


def migrate(bind: Engine | Connection, revision: str = "head") -> None:
    """Create the tables, or bring them up to date; also those that `llm` made, keeping every row.

    Safe to call at every start and from several processes at once: one does the work, the others
    wait. On an engine the work is one transaction, and a failure leaves nothing. On a connection
    it joins the caller's transaction, which it neither commits nor rolls back.

    On PostgreSQL the tables come into the schema that `schema_translate_map` names for None, or
    into the first of the search path; the extension `vector` is created where it is missing.

    Args:
        bind: The database.
        revision: An Alembic revision of this library; the newest by default.

    Raises:
        SchemaError: A table called `collections` or `embeddings` is there and is not one of ours,
            or there is no pgvector. Nothing was changed.
    """
    if isinstance(bind, Engine):
        with owned_transaction(bind, write=False) as connection:
            if is_migrated(connection, revision):
                return
        # Another process may be ahead: what it commits has to be seen once it lets us in.
        sees_others = "READ COMMITTED" if bind.dialect.name == "postgresql" else None
        with owned_transaction(bind, write=True, isolation_level=sees_others) as connection:
            migrate(connection, revision)
        return
    if not isinstance(bind, Connection):
        raise TypeError(f"migrate() takes an Engine or a Connection, not {type(bind).__name__}")
    if not bind.in_transaction():
        bind.begin()
    if is_migrated(bind, revision):
        return
    with sqlite_transaction(bind):
        if bind.dialect.name == "postgresql":
            if commits_each_statement(bind):
                raise SchemaError(
                    "This connection commits every statement (AUTOCOMMIT), and a migration is one "
                    "transaction: pass the engine"
                )
            bind.execute(select(func.pg_advisory_xact_lock(ADVISORY_LOCK)))
            with bind.begin_nested():  # a failure leaves the caller's transaction usable
                _run_alembic(bind, revision)
        else:
            _run_alembic(bind, revision)


def is_migrated(connection: Connection, revision: str = "head") -> bool:
    """Return whether the tables are at a revision already; only reads, and so waits for nobody."""
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    options = {"version_table": VERSION_TABLE, "version_table_schema": schema_of(connection)}
    context = MigrationContext.configure(connection, opts=options)
    wanted = ScriptDirectory(str(migrations_dir())).get_revisions(revision)
    return set(context.get_current_heads()) == {script.revision for script in wanted}


def _run_alembic(connection: Connection, revision: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    config.attributes["connection"] = connection
    with _alembic_globals():
        command.upgrade(config, revision)


@contextmanager
def _alembic_globals() -> Iterator[None]:
    """Keep Alembic's environment, which it holds in module globals, to this thread and this call.

    Without it threads that migrate cross each other, and a call from within a host's own
    revision leaves the host without its context.
    """
    from alembic import context, op

    with _alembic_lock:
        modules: tuple[Any, ...] = (op, context)
        saved = [dict(vars(module)) for module in modules]
        try:
            yield
        finally:
            for module, before in zip(modules, saved, strict=True):
                for name in vars(module).keys() - before.keys():
                    delattr(module, name)
                vars(module).update(before)


def migrations_dir() -> Path:
    """Return the folder of the Alembic environment: inside a wheel, or beside the package."""
    package = Path(__file__).resolve().parent
    candidates = (package / "migrations", package.parent / "migrations")
    for folder in candidates:
        if (folder / "env.py").is_file():
            return folder
    raise SchemaError(f"The migrations of this library are in neither of {candidates}")


def schema_of(connection: Connection) -> str | None:
    """Return the schema into which the connection puts a table that names none; None on SQLite."""
    schema = schema_map_of(connection).get(None)
    if schema is None and connection.dialect.name == "postgresql":
        schema = connection.scalar(select(func.current_schema()))
    return schema


def create_extension(connection: Connection) -> None:
    """Create pgvector's extension in a PostgreSQL database that lacks it; elsewhere do nothing.

    Raises:
        SchemaError: The server has no pgvector, or the role may not create it. Says whom to ask
            for what.
    """
    if connection.dialect.name != "postgresql":
        return
    database = connection.scalar(text("SELECT current_database()"))
    there = connection.scalar(
        text("SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'vector'")
    )
    if there is not None:
        if connection.scalar(text("SELECT to_regtype('vector')")) is None:
            raise SchemaError(
                f"pgvector is in the schema {there} of the database {database!r}, which is not on "
                "the search_path of this connection: add it"
            )
        return
    if not connection.scalar(text("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'")):
        raise SchemaError(
            "This PostgreSQL server has no pgvector. Ask its administrator to install it "
            "(https://github.com/pgvector/pgvector#installation), and then to run, in the database "
            f"{database!r}: CREATE EXTENSION vector"
        )
    # The first schema of the search path may be one tenant's only.
    is_shared = connection.scalar(text("SELECT 'public' = ANY (current_schemas(false))"))
    try:
        with connection.begin_nested():
            connection.execute(
                text(f"CREATE EXTENSION IF NOT EXISTS vector{' SCHEMA public' * bool(is_shared)}")
            )
    except DBAPIError as error:
        if sqlstate(error) != INSUFFICIENT_PRIVILEGE:
            raise
        raise SchemaError(
            "This role may not create the extension pgvector. Ask the administrator to run, in "
            f"the database {database!r}: CREATE EXTENSION vector"
        ) from None


def check_adoptable(connection: Connection) -> None:
    """Do nothing if the database has neither of our two tables, or both, of whatever age.

    Raises:
        SchemaError: One is missing, or lacks columns: then it is somebody else's.
    """
    inspector, schema = inspect(connection), schema_of(connection)
    present = {name for name in _REQUIRED if inspector.has_table(name, schema)}
    for name in sorted(present):
        columns = inspector.get_columns(name, schema)
        lacking = _REQUIRED[name] - {column["name"] for column in columns}
        if lacking or present != _REQUIRED.keys():
            reason = (
                f"lacks the columns {sorted(lacking)}" if lacking else "stands without its partner"
            )
            raise SchemaError(
                f"This database has a table {name!r} that is not of this library: it {reason}. "
                "Nothing was changed"
            )


def install(connection: Connection, records: Records = RECORDS) -> None:
    """Create the change log and its triggers beside the tables, on SQLite; elsewhere do nothing.

    Can be repeated: what is there is kept or made anew. Runs in the connection's transaction.
    `migrate` and `create_all` do this by themselves.
    """
    if connection.dialect.name != "sqlite":
        return
    with sqlite_transaction(connection):
        ours = trigger_names(records)
        for name, table in connection.exec_driver_sql(
            "SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'"
        ):
            if name in ours and table not in {records.embeddings.name, records.log}:
                raise SchemaError(
                    f"The table {table!r} has a trigger called {name!r}, a name that this library "
                    "needs. Nothing was changed"
                )
        for statement in side_tables(records):
            connection.exec_driver_sql(statement)


def trigger_names(records: Records) -> list[str]:
    """Return the names of the triggers that fill and prune the change log."""
    return [f"{records.log}_{name}" for name in TRIGGERS]


def side_tables(records: Records = RECORDS) -> list[str]:
    """Return the SQL that `install` runs."""
    return [*_llm_migrations(records), *_change_log(records)]


def _change_log(records: Records) -> list[str]:
    """Return the SQL of the log (seq, collection_id, id, token) and of its triggers.

    A row of the log says: at this point this id changed. Its token is random, so that a row that
    was rolled back never comes back as the same: whoever remembers (seq, token) can tell whether
    the log still holds that very row. The row with seq 0 names the database as a whole.
    """
    table, log = records.embeddings, records.log
    embeddings = f'"{table.name}"'
    schema = f'"{table.schema}".' if table.schema else ""
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
        f'CREATE INDEX IF NOT EXISTS {schema}"idx_{log}_collection" '
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


def _is_documented(records: Records) -> bool:
    return records.embeddings.fullname == RECORDS.embeddings.fullname


def _llm_migrations(records: Records) -> list[str]:
    """Return the SQL that tells `llm` which of its migrations these tables amount to."""
    if not _is_documented(records):
        return []
    table = f'"{LLM_MIGRATIONS_TABLE}"'
    names = ", ".join(f"('{name}')" for name in LLM_MIGRATIONS)
    return [
        f'CREATE TABLE IF NOT EXISTS {table} ("id" INTEGER PRIMARY KEY, '
        '"migration_set" TEXT, "name" TEXT, "applied_at" TEXT)',
        f'CREATE UNIQUE INDEX IF NOT EXISTS "idx_{LLM_MIGRATIONS_TABLE}_migration_set_name" '
        f'ON {table} ("migration_set", "name")',
        f"INSERT INTO {table} (migration_set, name, applied_at) "
        f"SELECT 'llm.embeddings', column1, strftime('%Y-%m-%d %H:%M:%S+00:00', 'now') "
        f"FROM (VALUES {names}) WHERE column1 NOT IN "
        f"(SELECT name FROM {table} WHERE migration_set = 'llm.embeddings')",
    ]


def missing_tables(session: Session, records: Records) -> bool:
    """Return whether one of the two tables is absent."""
    connection = connection_of(session, records)
    translated = schema_map_of(connection)
    inspector = inspect(connection)
    return not all(
        inspector.has_table(table.name, translated.get(table.schema, table.schema))
        for table in (records.collections, records.embeddings)
    )


def sqlstate(error: DBAPIError) -> str | None:
    """Return PostgreSQL's code for an error, whatever the driver."""
    code: str | None = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    return code


def lacks_tables(error: DBAPIError, session: Session, records: Records) -> bool:
    """Return whether an error is for want of one of the two tables."""
    if dialect_of(session, records).name == "postgresql":  # where nothing can be asked any more
        return sqlstate(error) == UNDEFINED_TABLE
    return missing_tables(session, records)


def uninstall(connection: Connection, records: Records = RECORDS) -> None:
    """Remove what `install` made, on SQLite; for a table of embeddings that is going, too."""
    if connection.dialect.name == "sqlite":
        for statement in side_tables_down(records):
            connection.exec_driver_sql(statement)


def side_tables_down(records: Records = RECORDS) -> list[str]:
    """Return the SQL that `uninstall` runs."""
    statements = [f'DROP TRIGGER IF EXISTS "{name}"' for name in trigger_names(records)]
    statements.append(f'DROP TABLE IF EXISTS "{records.log}"')
    if _is_documented(records):
        statements.append(
            f"DELETE FROM {LLM_MIGRATIONS_TABLE} WHERE migration_set = 'llm.embeddings'"
        )
    return statements


def _before_create_all(_target: MetaData, connection: Connection, **_: Any) -> None:
    check_adoptable(connection)  # create_all would skip a table of somebody else's
    create_extension(connection)


def _after_create(_target: Table, connection: Connection, **_: Any) -> None:
    install(connection)


def _after_drop(_target: Table, connection: Connection, **_: Any) -> None:
    uninstall(connection)
    connection.execute(DropTable(Table(VERSION_TABLE, MetaData()), if_exists=True))


event.listen(Base.metadata, "before_create", _before_create_all)
event.listen(RECORDS.embeddings, "after_create", _after_create)
event.listen(RECORDS.embeddings, "after_drop", _after_drop)

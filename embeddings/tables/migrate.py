"""Migrations: the tables brought up to date or taken back, by an Alembic environment of our own."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from functools import cache
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy import Column, Connection, Engine, MetaData, String, Table, inspect, select
from sqlalchemy.engine.mock import MockConnection
from sqlalchemy.exc import DBAPIError

from .. import databases
from ..errors import SchemaError
from ..forks import Lock, importing
from ..sessions import is_asynchronous
from ..sessions.own import owned_transaction
from .lost import lost, make_again
from .ours import VERSION_TABLE, are_complete, check_adoptable, schema_found, schema_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy.orm import Session

LOG = logging.getLogger("embeddings")
_alembic_lock = Lock()


def migrate(bind: Engine | Connection | None, revision: str = "head") -> None:
    """Create the tables, or bring them up to date; also those that `llm` made, keeping every row.

    What others have removed is made again: an index, a table beside them, or triggers that a tool
    lost when it rebuilt a table.

    Safe to call at every start and from several processes at once: one does the work, the others
    wait. On an engine the work is one transaction, and a failure leaves nothing. On a connection
    it joins the caller's transaction, which it neither commits nor rolls back.

    In a script (`alembic upgrade --sql`, `flask db upgrade --sql`) there is no connection: within a
    host's revision `migrate(op.get_bind())` then writes the SQL into the host's script.

    On PostgreSQL the tables come into the schema that `schema_translate_map` names for None, or
    into the first of the search path; the extension `vector` is created where it is missing.

    Args:
        bind: The database; None in a script.
        revision: An Alembic revision of this library; the newest by default. In a script that
            begins after the tables were made, from where to where: "emb_0001:head".

    Raises:
        SchemaError: A table called `collections` or `embeddings` is there and is not one of ours,
            or there is no pgvector. Nothing was changed.
    """
    if _is_script(bind) and (script := _script_of_host()):
        _write_script(script, revision, upgrades=True)
        return
    revision = revision.rpartition(":")[2]
    if isinstance(bind, Engine):
        with owned_transaction(bind, write=False) as connection:
            if is_migrated(connection, revision) and not lost_of(connection):
                return
        with _migration(bind) as connection:
            migrate(connection, revision)
        return
    connection = _checked(bind, "migrate")
    if not connection.in_transaction():
        connection.begin()
    if not is_migrated(connection, revision):
        _run_alembic(connection, lambda command, config: command.upgrade(config, revision))
    if lost_of(connection):
        _make_again(connection)


def lost_of(connection: Connection) -> list[str]:
    """Return what others have removed from tables of the newest revision; only reads."""
    return lost(connection) if is_migrated(connection) else []


def _make_again(connection: Connection) -> None:
    with _changes_of_schema(connection):
        check_adoptable(connection)  # before anything is written
        if not are_complete(connection):
            raise SchemaError(
                "The tables of the embeddings are not in this database any more, and "
                f"{VERSION_TABLE!r} says that they are: drop that table, too, and migrate again"
            )
        if told := lost_of(connection):
            make_again(connection)
            LOG.info("made again: %s", "; ".join(told))


def downgrade(
    bind: Engine | Connection | None,
    revision: str = "base",
    *,
    drop_rows: bool = False,
    remedy: str | None = None,
) -> None:
    """Take the tables back to an older revision; "base" removes them.

    Transactions are as with `migrate`, and so are scripts, which drop whatever is there.

    Args:
        bind: The database; None in a script.
        revision: An Alembic revision of this library.
        drop_rows: Go on even if collections or embeddings are lost. Within a host's revision
            `alembic -x drop=yes downgrade` or `flask db downgrade -x drop=yes` say so, too.
        remedy: What an error about rows that would be lost says that one can do.

    Raises:
        SchemaError: Rows would be lost. Nothing was changed.
    """
    if _is_script(bind) and (script := _script_of_host()):
        _write_script(script, revision, upgrades=False)
        return
    if isinstance(bind, Engine):
        with _migration(bind) as connection:
            downgrade(connection, revision, drop_rows=drop_rows, remedy=remedy)
        return
    connection = _checked(bind, "downgrade")
    if not connection.in_transaction():
        connection.begin()
    _run_alembic(
        connection,
        lambda command, config: command.downgrade(config, revision),
        drop_rows=drop_rows or _host_says_drop(),
        **({} if remedy is None else {"remedy": remedy}),
    )


def script(dialect_name: str, start: str, end: str) -> str:
    """Return the SQL from one revision to another, as Alembic writes it; nothing is connected.

    Args:
        dialect_name: SQLAlchemy's name of the database.
        start: A revision, or "base".
        end: A later one, or an earlier one.
    """
    written = StringIO()
    command, config = _alembic(output_buffer=written)
    config.attributes["dialect_name"] = dialect_name
    later = {found.revision for found in _revisions().iterate_revisions(end, "base")}
    run = command.upgrade if start == "base" or start in later else command.downgrade
    with _alembic_globals(), _quiet_alembic():
        run(config, f"{start}:{end}", sql=True)
    return written.getvalue()


def _host_says_drop() -> bool:
    """Return whether `-x drop=yes` was given to the Alembic of the host, whose revision calls."""
    with importing():
        from alembic import context
    try:
        return context.get_x_argument(as_dictionary=True).get("drop") == "yes"
    except (NameError, AttributeError):  # not within Alembic; without a command's options
        return False


def _is_script(bind: object) -> bool:
    """Return whether this is what `op.get_bind()` gives where there is no database."""
    return bind is None or isinstance(bind, MockConnection)


def _script_of_host() -> MigrationContext | None:
    """Return the context of a host's Alembic that writes a script, and whose revision calls."""
    with importing():
        from alembic import op
    try:
        context = op.get_context()
    except (NameError, AttributeError):  # not within Alembic
        return None
    return context if context.as_sql else None


_in_scripts: WeakKeyDictionary[MigrationContext, str] = WeakKeyDictionary()
"""The revision that each script has brought the tables to."""


def _write_script(script: MigrationContext, revision: str, *, upgrades: bool) -> None:
    """Write our SQL into a host's script."""
    start, _, end = revision.rpartition(":")
    start = start or _in_scripts.get(script, "base" if upgrades else "head")
    wanted = {found.revision for found in _revisions().get_revisions(end)}
    if wanted != {found.revision for found in _revisions().get_revisions(start)}:
        command, config = _alembic(output_buffer=script.impl.output_buffer)
        config.attributes["dialect_name"] = script.dialect.name
        run = command.upgrade if upgrades else command.downgrade
        with _alembic_globals():
            run(config, f"{start}:{end}", sql=True)
    _in_scripts[script] = end


def _checked(bind: object, function: str) -> Connection:
    if is_asynchronous(bind):
        raise TypeError(
            f"{function}() works synchronously, and this is an {type(bind).__name__}. Run it on a "
            "connection of the AsyncEngine: async with engine.begin() as connection: "
            f"await connection.run_sync(embeddings.{function})"
        )
    if not isinstance(bind, Connection):
        raise TypeError(
            f"{function}() takes an Engine or a Connection, not {type(bind).__name__}. (What "
            "op.get_bind() gives in a script, --sql, is for a revision of your own)"
        )
    return bind


def _migration(engine: Engine) -> AbstractContextManager[Connection]:
    """Return a transaction of our own for a migration."""
    level = databases.of(engine.dialect).migration_isolation_level()
    return owned_transaction(engine, write=True, isolation_level=level)


def bring_up_to_date(session: Callable[..., AbstractContextManager[Session]]) -> None:
    """Migrate a database that we opened, in sessions that it gives, if it needs that.

    One that can only be read stays as it is.
    """
    with session(write=False) as reading:
        connection = reading.connection()
        database = databases.of(connection.dialect)
        is_current = is_migrated(connection)
        is_complete = is_current and not lost_of(connection)
    if is_complete:
        return
    try:
        with session(write=True) as writing:
            migrate(writing.connection())
    except SchemaError:  # of what was lost, which `status` tells, and the rest can be used
        if not is_current:
            raise
    except DBAPIError as error:
        if not database.refuses_writing(error):
            raise


def is_migrated(connection: Connection, revision: str = "head") -> bool:
    """Return whether the tables are at a revision already; only reads, and so waits for nobody.

    For a role that may not read the revision, they are if they have everything.
    """
    wanted = _revisions().get_revisions(revision)
    return _current(connection, schema_of(connection)) == {script.revision for script in wanted}


def current_revision(connection: Connection) -> str | None:
    """Return the revision of the tables found; None where `migrate` never ran. Only reads."""
    return next(iter(_current(connection, schema_found(connection, VERSION_TABLE))), None)


def head_revision() -> str:
    """Return the newest revision that this library knows."""
    return str(_revisions().get_current_head())


def _current(connection: Connection, schema: str | None) -> set[str]:
    if not databases.of(connection.dialect).may_read(connection, VERSION_TABLE, schema):
        if are_complete(connection):
            return {head_revision()}
        raise SchemaError(
            f"This role may not read the table {VERSION_TABLE!r}, and the tables of the embeddings "
            "are not complete: migrate as the role that owns them"
        )
    # Alembic's own way would write two lines to the log at each start of an application.
    if not inspect(connection).has_table(VERSION_TABLE, schema):
        return set()
    table = Table(VERSION_TABLE, MetaData(), Column("version_num", String), schema=schema)
    return set(connection.scalars(select(table.c.version_num)))


@cache
def _revisions() -> ScriptDirectory:
    with importing(), _quiet_alembic():  # which tells of its plugins when it is imported
        from alembic.script import ScriptDirectory

        return ScriptDirectory(str(migrations_dir()))


def _run_alembic(
    connection: Connection, run: Callable[[Any, Config], None], **attributes: Any
) -> None:
    """Run a command of Alembic in the connection's transaction, while no other process does."""
    command, config = _alembic()
    config.attributes.update(attributes, connection=connection)
    with _changes_of_schema(connection):
        before = _shown(connection)
        with _alembic_globals(), _quiet_alembic():
            run(command, config)
        LOG.info("the tables were migrated from %s to %s", before, _shown(connection))


@contextmanager
def _changes_of_schema(connection: Connection) -> Iterator[None]:
    """Keep other processes from migrating; a failure leaves nothing, and the transaction usable."""
    database = databases.of(connection.dialect)
    with database.schema_change(connection):
        database.lock_migrations(connection)
        with connection.begin_nested():
            yield


def _shown(connection: Connection) -> str:
    return next(iter(_current(connection, schema_of(connection))), "nothing")


@contextmanager
def _quiet_alembic() -> Iterator[None]:
    """Keep Alembic from telling of what it does for us; of a migration one line of ours tells."""
    thread = threading.get_ident()

    def is_told(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno >= logging.WARNING

    loggers = [logging.getLogger(f"alembic.runtime.{name}") for name in ("migration", "plugins")]
    for logger in loggers:
        logger.addFilter(is_told)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_told)


def _alembic(**options: Any) -> tuple[Any, Config]:
    """Return Alembic's commands, and its configuration for our environment."""
    with importing():
        from alembic import command
        from alembic.config import Config

    config = Config(**options)
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    return command, config


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
    package = Path(__file__).resolve().parent.parent
    candidates = (package / "migrations", package.parent / "migrations")
    for folder in candidates:
        if (folder / "env.py").is_file():
            return folder
    raise SchemaError(f"The migrations of this library are in neither of {candidates}")

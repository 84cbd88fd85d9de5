"""Migrations: the tables brought up to date or taken back, by an Alembic environment of our own."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, Connection, Engine, MetaData, String, Table, inspect, select

from .. import databases
from ..errors import SchemaError
from ..sessions.own import owned_transaction
from .ours import VERSION_TABLE, schema_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from sqlalchemy.orm import Session

LOG = logging.getLogger("embeddings")
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
        with _migration(bind) as connection:
            migrate(connection, revision)
        return
    _check_bind(bind, "migrate")
    if not bind.in_transaction():
        bind.begin()
    if not is_migrated(bind, revision):
        _run_alembic(bind, lambda command, config: command.upgrade(config, revision))


def downgrade(
    bind: Engine | Connection, revision: str = "base", *, drop_rows: bool = False
) -> None:
    """Take the tables back to an older revision; "base" removes them.

    Transactions are as with `migrate`.

    Args:
        bind: The database.
        revision: An Alembic revision of this library.
        drop_rows: Go on even if collections or embeddings are lost.

    Raises:
        SchemaError: Rows would be lost. Nothing was changed.
    """
    if isinstance(bind, Engine):
        with _migration(bind) as connection:
            downgrade(connection, revision, drop_rows=drop_rows)
        return
    _check_bind(bind, "downgrade")
    if not bind.in_transaction():
        bind.begin()
    _run_alembic(
        bind, lambda command, config: command.downgrade(config, revision), drop_rows=drop_rows
    )


def _check_bind(bind: object, function: str) -> None:
    if not isinstance(bind, Connection):
        raise TypeError(
            f"{function}() takes an Engine or a Connection, not {type(bind).__name__}. There is no "
            "connection in a script of a migration (--sql): print this library's own, as the "
            "README says"
        )


def _migration(engine: Engine) -> AbstractContextManager[Connection]:
    """Return a transaction of our own for a migration."""
    level = databases.of(engine.dialect).migration_isolation_level()
    return owned_transaction(engine, write=True, isolation_level=level)


def bring_up_to_date(session: Callable[..., AbstractContextManager[Session]]) -> None:
    """Migrate a database that we opened, in sessions that it gives, if it needs that."""
    with session(write=False) as reading:
        is_complete = is_migrated(reading.connection())
    if not is_complete:
        with session(write=True) as writing:
            migrate(writing.connection())


def is_migrated(connection: Connection, revision: str = "head") -> bool:
    """Return whether the tables are at a revision already; only reads, and so waits for nobody."""
    wanted = _revisions().get_revisions(revision)
    return _current(connection) == {script.revision for script in wanted}


def current_revision(connection: Connection) -> str | None:
    """Return the revision of the tables; None where `migrate` never ran. Only reads."""
    return next(iter(_current(connection)), None)


def head_revision() -> str:
    """Return the newest revision that this library knows."""
    return str(_revisions().get_current_head())


def _current(connection: Connection) -> set[str]:
    # Alembic's own way would write two lines to the log at each start of an application.
    schema = schema_of(connection)
    if not inspect(connection).has_table(VERSION_TABLE, schema):
        return set()
    table = Table(VERSION_TABLE, MetaData(), Column("version_num", String), schema=schema)
    return set(connection.scalars(select(table.c.version_num)))


def _revisions() -> ScriptDirectory:
    with _quiet_alembic():  # which tells of its plugins when it is imported
        from alembic.script import ScriptDirectory

        return ScriptDirectory(str(migrations_dir()))


def _run_alembic(
    connection: Connection, run: Callable[[Any, Config], None], **attributes: Any
) -> None:
    """Run a command of Alembic in the connection's transaction, while no other process does."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    config.attributes.update(attributes, connection=connection)
    database = databases.of(connection.dialect)
    with database.schema_change(connection):
        database.lock_migrations(connection)
        # A failure leaves nothing, and the caller's transaction usable.
        before = _shown(connection)
        with connection.begin_nested(), _alembic_globals(), _quiet_alembic():
            run(command, config)
        LOG.info("the tables were migrated from %s to %s", before, _shown(connection))


def _shown(connection: Connection) -> str:
    return current_revision(connection) or "nothing"


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

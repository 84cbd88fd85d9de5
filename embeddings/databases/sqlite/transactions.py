"""Transactions on SQLite, which Python's driver puts off, and engines that are opened here."""

from __future__ import annotations

import sqlite3
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event
from sqlalchemy.pool import StaticPool

from ...errors import MissingExtraError
from ...internals import isolation_level_of_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import URL, Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

BUSY_TIMEOUT = 60.0  # seconds to wait for another writer
WAL_ATTEMPTS = 25
MAPPED_BYTES = 2**30


@contextmanager
def sqlite_transaction(connection: Connection) -> Iterator[None]:
    """Run the block in a real transaction: the caller's, which stays open.

    Where the caller's connection commits every statement at once, there is none, and the block
    gets one of its own.
    """
    began = begin_sqlite(connection, write=True)
    alone = began and commits_each_statement(connection)
    try:
        yield
    except BaseException:
        if alone:
            connection.exec_driver_sql("ROLLBACK")
        raise
    if alone:
        connection.exec_driver_sql("COMMIT")


def begin_sqlite(connection: Connection, *, write: bool, fresh: bool = False) -> bool:
    """Begin a real transaction on SQLite, where Python's driver puts it off to the first change.

    Without it a change of the schema is committed at once, statement by statement. Where one is
    open already, nothing happens.

    Args:
        connection: In a transaction as SQLAlchemy sees it, which commits or rolls back this one.
        write: Take the write lock at once.
        fresh: Nothing was done in the transaction yet, so that it may be begun anew for writing.

    Returns:
        Whether it was begun here.
    """
    if _driver_connection(connection).in_transaction:
        if not (write and fresh):
            return False
        connection.exec_driver_sql("COMMIT")  # empty: a host's engine begins by an event
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
    return True


def configure_sqlite(engine: Engine | AsyncEngine, *, immediate: bool = False) -> None:
    """Give a host's SQLite engine real transactions, from their first statement to their end.

    Python's driver begins one only at the first INSERT, UPDATE or DELETE. Until then two reads of
    one session can differ, a savepoint is committed when it is released, and changes of the schema
    are committed at once. With this each transaction is one snapshot, and a rollback undoes all.
    Elsewhere than on SQLite nothing happens.

    Args:
        engine: Call this once, where the engine is made.
        immediate: Take the write lock at the beginning of each transaction. Transactions that read
            before they write need that where several run at once: SQLite refuses with "database is
            locked" whoever wants to write after somebody else has.

    Source: https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#serializable-isolation-savepoints-transactional-ddl
    """
    synchronous: Any = getattr(engine, "sync_engine", engine)
    if not isinstance(synchronous, Engine):
        raise TypeError(
            f"configure_sqlite() takes an Engine or an AsyncEngine, not {type(engine).__name__}"
        )
    if synchronous.dialect.name != "sqlite":
        return
    of_the_engine = isolation_level_of_engine(synchronous.dialect)

    @event.listens_for(synchronous, "begin")
    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("isolation_level", of_the_engine) == "AUTOCOMMIT":
            return
        if not _driver_connection(connection).in_transaction:
            # Set anew each time: the pool sets it back.
            _adapted_connection(connection).isolation_level = None
            begin_sqlite(connection, write=immediate)

    @event.listens_for(synchronous, "checkin")
    def checkin(adapted: Any, _: object) -> None:
        # As in `owned_transaction`: a COMMIT that failed may have left it open.
        if adapted is not None and getattr(adapted, "driver_connection", adapted).in_transaction:
            adapted.rollback()


def commits_each_statement(connection: Connection) -> bool:
    """Return whether there are no transactions on the connection: AUTOCOMMIT, to SQLAlchemy."""
    return _driver_connection(connection).isolation_level is None


def _driver_connection(connection: Connection) -> Any:
    return connection.connection.driver_connection


def _adapted_connection(connection: Connection) -> Any:
    """Return the driver's connection, or SQLAlchemy's adapter of one that is asynchronous."""
    return connection.connection.dbapi_connection


def with_driver(url: URL, *, asynchronous: bool) -> URL:
    """Return the URL with a driver that is asynchronous, where it names none and that is asked for.

    Raises:
        MissingExtraError: It is not installed.
    """
    if not asynchronous or url.drivername != "sqlite":
        return url
    if not find_spec("aiosqlite"):
        raise MissingExtraError("aiosqlite", "async")
    return url.set(drivername="sqlite+aiosqlite")


def new_engine(url: URL, create: Callable[..., Engine]) -> Engine:
    """Return an engine of our own, set up for what we do with it; nothing is connected yet."""
    if url.database in {None, "", ":memory:"}:
        return create(
            url,
            hide_parameters=True,
            poolclass=StaticPool,
            connect_args={"check_same_thread": False},
        )
    engine = create(url, hide_parameters=True, connect_args={"timeout": BUSY_TIMEOUT})
    event.listen(engine, "connect", _map_into_memory)
    return engine


def _map_into_memory(driver: Any, _: object) -> None:
    driver.execute(f"PRAGMA mmap_size = {MAPPED_BYTES}")  # halves the time of a scan


def use_write_ahead_log(engine: Engine) -> bool:
    """Let readers and a writer work side by side, and return whether they can.

    The file keeps the setting. SQLite does not let those wait who ask for it at the same time, and
    refuses while a reader is at work. Without it all works as well, with more waiting.
    """
    if isinstance(engine.pool, StaticPool):  # in memory, on the one connection of all threads
        return False
    pooled = engine.raw_connection()
    cursor = pooled.cursor()
    cursor.execute("PRAGMA busy_timeout = 0")
    try:
        for _ in range(WAL_ATTEMPTS):
            try:
                cursor.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError:
                time.sleep(0.02)
            else:
                row = cursor.fetchone()
                return row is not None and row[0] == "wal"
        return False
    finally:
        cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT * 1000)}")
        cursor.close()
        pooled.close()


def main_file(driver: sqlite3.Connection) -> str | None:
    """Return the file that the connection has open; None in memory."""
    cursor = driver.cursor()
    cursor.row_factory = None
    for _, name, file in cursor.execute("PRAGMA database_list"):
        if name == "main" and file:
            return str(file)
    return None


def is_missing_file(url: URL) -> bool:
    """Return whether the URL leads to a file that is not there."""
    return not Path(url.database or "").is_file()

"""Transactions on SQLite, which Python's driver puts off to the first change."""

from __future__ import annotations

import re
import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from sqlalchemy import Engine, delete, event, false

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Dialect, Table
    from sqlalchemy.ext.asyncio import AsyncEngine

BUSY_TIMEOUT = 60.0  # seconds to wait for another writer
DRIVERS_TIMEOUT = 5  # seconds, where nobody says anything else
WAL_ATTEMPTS = 25

_configured: WeakSet[Dialect] = WeakSet()
_PREPARED = "embeddings.is_prepared"
_CHANGES = frozenset({"INSERT", "UPDATE", "DELETE", "REPLACE", "CREATE", "ALTER", "DROP"}) | {
    "REINDEX",
    "ANALYZE",
    "SAVEPOINT",
}
_COMMENT = r"--[^\n]*|/\*.*?\*/"
_FIRST_WORD = re.compile(rf"(?:\s|;|{_COMMENT})*(\w+)", re.DOTALL)
# What is quoted is one part, and so are comments: no parenthesis or word in them counts.
_PARTS = re.compile(rf"""{_COMMENT}|'[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*\]|[()]|\w+""", re.DOTALL)


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


def take_write_lock(connection: Connection, table: Table) -> None:
    """Take the write lock, in a transaction that may have been begun, and without a change.

    Where the connection commits every statement at once nothing happens.
    """
    if _driver_connection(connection).in_transaction:
        connection.execute(delete(table).where(false()))
    elif not commits_each_statement(connection):
        begin_sqlite(connection, write=True)


def configure_sqlite(engine: Engine | AsyncEngine, *, snapshot: bool = False) -> None:
    """Make a host's SQLite engine work for requests that read, change and commit at the same time.

    - The file is switched to write-ahead logging (WAL), which it keeps: readers and a writer do
      not wait for each other.
    - Writers wait for each other, up to 60 seconds in place of the driver's 5. Another `timeout`
      that the engine was made with stays.
    - Each read sees what is committed when it begins, as under READ COMMITTED. The first change of
      a transaction, of rows or of the schema, or its first savepoint, begins with the write lock:
      nothing that it reads from then on changes before it ends, and a rollback undoes it all.

    Connections in AUTOCOMMIT have no transactions, as before. Elsewhere than on SQLite nothing
    happens.

    Args:
        engine: Call this once, where the engine is made.
        snapshot: Every transaction sees one snapshot, from its first statement to its end. SQLite
            then refuses, with "database is locked", whoever reads first and wants to write after
            somebody else has: roll back and try again.

    Source: https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#sqlite-transactions,
        https://sqlite.org/isolation.html
    """
    synchronous: Any = getattr(engine, "sync_engine", engine)
    if not isinstance(synchronous, Engine):
        raise TypeError(
            f"configure_sqlite() takes an Engine or an AsyncEngine, not {type(engine).__name__}"
        )
    if synchronous.dialect.name != "sqlite" or is_configured(synchronous.dialect):
        return
    _configured.add(synchronous.dialect)

    @event.listens_for(synchronous, "begin")
    def begin(connection: Connection) -> None:
        if _driver_connection(connection).in_transaction:
            return
        _prepare(connection)
        if snapshot and not commits_each_statement(connection):
            begin_sqlite(connection, write=False)

    @event.listens_for(synchronous, "before_cursor_execute")
    def before_cursor_execute(connection: Connection, _: object, sql: str, *__: object) -> None:
        if (
            is_change(sql)
            and not _driver_connection(connection).in_transaction
            and not commits_each_statement(connection)
        ):
            begin_sqlite(connection, write=True)

    @event.listens_for(synchronous, "checkin")
    def checkin(adapted: Any, _: object) -> None:
        # As in `owned_transaction`: a COMMIT that failed may have left it open.
        if adapted is not None and getattr(adapted, "driver_connection", adapted).in_transaction:
            adapted.rollback()


def is_configured(dialect: Dialect) -> bool:
    """Return whether `configure_sqlite` was called for the engine of a dialect."""
    return dialect in _configured


def _prepare(connection: Connection) -> None:
    """Set the pragmas once for each of the driver's connections, whenever it was opened."""
    if connection.info.setdefault(_PREPARED, False):
        return
    connection.info[_PREPARED] = True
    cursor: Any = connection.connection.cursor()
    try:
        if pragma(cursor, "busy_timeout") == DRIVERS_TIMEOUT * 1000:
            pragma(cursor, f"busy_timeout = {int(BUSY_TIMEOUT * 1000)}")
        switch_to_wal(cursor)
    finally:
        cursor.close()


def is_change(sql: str) -> bool:
    """Return whether a statement changes rows or the schema, or is a savepoint."""
    found = _FIRST_WORD.match(sql)
    word = found[1].upper() if found else ""
    return word in _CHANGES or (word == "WITH" and _main_word(sql) in _CHANGES)


def _main_word(sql: str) -> str | None:
    """Return the verb of a statement that begins with WITH: the first one outside parentheses."""
    depth = 0
    for part in _PARTS.finditer(sql):
        text = part[0].upper()
        depth += (text == "(") - (text == ")")
        if depth == 0 and (text in _CHANGES or text in {"SELECT", "VALUES"}):
            return text
    return None


def commits_each_statement(connection: Connection) -> bool:
    """Return whether there are no transactions on the connection: AUTOCOMMIT, to SQLAlchemy."""
    return _driver_connection(connection).isolation_level is None


def _driver_connection(connection: Connection) -> Any:
    return connection.connection.driver_connection


def switch_to_wal(cursor: Any) -> bool:
    """Switch the database to write-ahead logging, and return whether it has that now.

    SQLite refuses while somebody else is at work in the file, and does not let those wait who ask
    for it at the same time. Without it all works as well, with more waiting.
    """
    timeout = pragma(cursor, "busy_timeout")
    pragma(cursor, "busy_timeout = 0")
    try:
        for _ in range(WAL_ATTEMPTS):
            try:
                return bool(pragma(cursor, "journal_mode = WAL") == "wal")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in {
                    sqlite3.SQLITE_BUSY,
                    sqlite3.SQLITE_LOCKED,
                }:
                    return False
                time.sleep(0.02)
        return False
    finally:
        pragma(cursor, f"busy_timeout = {timeout}")


def pragma(cursor: Any, text: str) -> Any:
    """Execute a pragma and return its first value; None if it gives none."""
    cursor.execute(f"PRAGMA {text}")
    row = cursor.fetchone()
    return None if row is None else row[0]

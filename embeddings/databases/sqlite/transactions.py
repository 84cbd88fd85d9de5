"""Transactions of this library's own: short, and on SQLite begun for writing at once."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from ...errors import BindingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine


@contextmanager
def owned_transaction(
    engine: Engine, *, write: bool, isolation_level: str | None = None
) -> Iterator[Connection]:
    """Yield a connection in a transaction of its own; commit at the end, roll back on an error.

    On SQLite a transaction for writing takes the write lock at once (BEGIN IMMEDIATE): one that
    reads first and then wants to write is refused while another writer is at work, however long
    it would have waited. One for reading sees a single snapshot.

    On PostgreSQL it has the engine's isolation level unless another is given; on an engine that
    commits every statement, the database's default.

    Raises:
        BindingError: The engine has one connection only, and somebody's transaction is open on it.
    """
    _refuse_a_shared_transaction(engine)
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql" and commits_each_statement(connection):
            isolation_level = isolation_level or "READ COMMITTED"
        if isolation_level:
            connection.execution_options(isolation_level=isolation_level)
        transaction = connection.begin()
        try:
            begin_sqlite(connection, write=write, fresh=True)
            yield connection
            transaction.commit()
        except BaseException:
            transaction.rollback()
            # A COMMIT that failed leaves the driver inside the transaction, and SQLAlchemy
            # believes that it has ended: the connection's next user would make it durable.
            if getattr(_driver_connection(connection), "in_transaction", False):
                _adapted_connection(connection).rollback()
            raise


@contextmanager
def sqlite_transaction(connection: Connection) -> Iterator[None]:
    """Run the block, on SQLite, in a real transaction: the caller's, which stays open.

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

    Without it a change of the schema is committed at once, statement by statement. Elsewhere, and
    where one is open already, nothing happens.

    Args:
        connection: In a transaction as SQLAlchemy sees it, which commits or rolls back this one.
        write: Take the write lock at once.
        fresh: Nothing was done in the transaction yet, so that it may be begun anew for writing.

    Returns:
        Whether it was begun here.
    """
    if connection.dialect.name != "sqlite":
        return False
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
    of_the_engine = getattr(synchronous.dialect, "_on_connect_isolation_level", None)

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
    driver = _driver_connection(connection)
    if connection.dialect.name == "sqlite":
        return driver.isolation_level is None
    return bool(getattr(_adapted_connection(connection), "autocommit", False))


def _driver_connection(connection: Connection) -> Any:
    return connection.connection.driver_connection


def _adapted_connection(connection: Connection) -> Any:
    """Return the driver's connection, or SQLAlchemy's adapter of one that is asynchronous."""
    return connection.connection.dbapi_connection


def _refuse_a_shared_transaction(engine: Engine) -> None:
    # Only looked at: checking the connection out, and so in again, would roll it back.
    pool = engine.pool
    if isinstance(pool, StaticPool):
        driver = pool.connection.driver_connection
    elif isinstance(pool, SingletonThreadPool):
        held = getattr(pool._conn, "current", lambda: None)()
        driver = held.driver_connection if held else None
    else:
        return
    if getattr(driver, "in_transaction", False):
        raise BindingError(
            "This engine has one connection, and a transaction is open on it: committing here "
            "would commit that too. Pass the session or the connection that holds the transaction"
        )

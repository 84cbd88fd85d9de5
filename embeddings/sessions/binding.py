"""From what a collection is given as its database to sessions, and who owns their transactions.

A session or a connection is the caller's, and so is its transaction: nothing here ends it. From an
engine, a path or a URL come short transactions of this library's own.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import StaticPool

from ..databases.sqlite.transactions import owned_transaction
from ..errors import BindingError
from ..tables.migrate import is_migrated, migrate
from ..tables.records import RECORDS, Records
from .open import is_missing_file, main_file, open_engine, use_write_ahead_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Database: TypeAlias = Any
"""Session, scoped_session, Connection, Engine, sessionmaker, path, URL, sqlite_utils.Database."""

_writers: weakref.WeakKeyDictionary[Engine, AbstractContextManager[Any]] = (
    weakref.WeakKeyDictionary()
)


class Binding(Protocol):
    """How a collection reaches its database."""

    eager: bool
    """Whether the database was opened for the collection, which is then created at once."""
    is_exclusive: bool
    """Whether on SQLite a session for writing keeps other writers out from its beginning."""
    engine: Engine | None
    """The engine, where the transactions on it are this library's own; else None."""

    def session(self, *, write: bool) -> AbstractContextManager[Session]:
        """Return a context with a session in a transaction, which ends with it if it is ours."""
        ...

    def close(self) -> None:
        """Close what was opened here; nothing that was handed in."""
        ...


class HostSession:
    """The caller's session: its transaction, its pending rows, its identity map."""

    eager = False
    is_exclusive = False
    engine: Engine | None = None

    def __init__(self, session: Session | scoped_session[Any]) -> None:
        self._session = session

    def current(self) -> Session:
        """Return the session of this moment."""
        return self._session() if isinstance(self._session, scoped_session) else self._session

    @contextmanager
    def session(self, *, write: bool) -> Iterator[Session]:
        """Yield the session, flushed before a write, and before a read if it does so by itself."""
        session = self.current()
        # Within a flush, from a listener to its events, there is nothing left to flush.
        if (write or session.autoflush) and not session._flushing:
            session.flush()
        yield session

    def close(self) -> None:
        """Do nothing."""


class HostConnection:
    """The caller's connection and the transaction on it."""

    eager = False
    is_exclusive = False
    engine: Engine | None = None

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @contextmanager
    def session(self, *, write: bool) -> Iterator[Session]:
        """Yield a session that leaves the connection's transaction alone."""
        if not self._connection.in_transaction():
            self._connection.begin()  # as its first statement would; else the session would own it
        with Session(self._connection, join_transaction_mode="rollback_only") as session:
            yield session

    def close(self) -> None:
        """Do nothing."""


class OwnTransactions:
    """An engine: every step is a transaction of ours."""

    is_exclusive = True

    def __init__(
        self,
        engine: Engine,
        make_session: sessionmaker[Any] | None = None,
        *,
        opened: bool = False,
        turn: AbstractContextManager[Any] | None = None,
        writers: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.engine: Engine | None = engine
        self._engine = engine
        self.eager = opened
        self._make_session = make_session or sessionmaker()
        # A database in memory that we opened is one connection, which threads take in turn.
        shared = opened and isinstance(engine.pool, StaticPool)
        self._turn = turn or (threading.RLock() if shared else nullcontext())
        # SQLite lets writers poll, and the unlucky starve: those of one engine queue here.
        self._writers = writers or _writers.setdefault(engine, threading.RLock())
        self._close = weakref.finalize(self, engine.dispose) if opened else None
        self._has_own_file = opened and not shared and engine.dialect.name == "sqlite"

    @contextmanager
    def session(self, *, write: bool) -> Iterator[Session]:
        """Yield a session in a transaction that is committed at the end."""
        if write and self._has_own_file:
            use_write_ahead_log(self._engine)
            self._has_own_file = False
        queues = write and self._engine.dialect.name == "sqlite"
        with (
            self._turn,
            self._writers if queues else nullcontext(),
            owned_transaction(self._engine, write=write) as connection,
            self._make_session(
                bind=connection, binds={}, join_transaction_mode="rollback_only"
            ) as session,
        ):
            if not session.in_transaction():
                session.begin()  # for a sessionmaker with autobegin=False
            yield session
            session.flush()

    def close(self) -> None:
        """Close the database, if it was opened here."""
        if self._close:
            self._close()


class SqliteUtils:
    """A `sqlite_utils.Database`: its transaction while it is in one, and else the file behind it.

    The file is opened once more, so that threads can use the collection and writers wait for each
    other. A database in memory has only the one connection, and that is used.
    """

    eager = True
    is_exclusive = False
    engine: Engine | None = None

    def __init__(self, database: Any) -> None:
        self._driver: sqlite3.Connection = database.conn
        self._lent = create_engine(
            "sqlite://",
            creator=lambda: Lent(self._driver),
            poolclass=StaticPool,
            hide_parameters=True,
        )
        self._file = main_file(self._driver)
        self._lock = threading.Lock()
        self._own: OwnTransactions | None = None
        self._can_write = False

    @contextmanager
    def session(self, *, write: bool) -> Iterator[Session]:
        """Yield a session on the database's own connection, or on the file behind it."""
        if not self._driver.in_transaction and (own := self._opened(write=write)):
            with own.session(write=write) as session:
                yield session
            return
        ours = not self._driver.in_transaction
        with Session(self._lent) as session:
            if ours:
                self._driver.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield session
                session.flush()
            except BaseException:
                if ours:
                    self._driver.rollback()
                raise
            if ours:
                self._driver.commit()

    def _opened(self, *, write: bool) -> OwnTransactions | None:
        with self._lock:  # put off until no transaction of the owner's is in the way
            if self._own is None and self._file:
                self._own = OwnTransactions(open_engine(self._file), opened=True)
            # A cursor of the owner's, half read, would keep a second connection from writing.
            if write and self._own and not self._can_write:
                self._can_write = use_write_ahead_log(self._own._engine)
            return self._own if self._can_write or not write else None

    def close(self) -> None:
        """Close the second connection; the database's own stays open."""
        if self._own:
            self._own.close()


class Lent:
    """A driver connection whose transaction SQLAlchemy can neither end nor reset."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def cursor(self, *args: Any) -> Any:
        """Return a cursor of the driver's own kind."""
        cursor = self._driver.cursor(*args)
        cursor.row_factory = None  # the owner's may make anything of a row
        return cursor

    def commit(self) -> None:
        """Do nothing."""

    def rollback(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def create_function(self, *args: Any, **options: Any) -> None:
        """Do nothing: SQLAlchemy would put its own REGEXP in the place of the owner's."""


def bind(database: Database, records: Records) -> Binding:
    """Return how to reach the database that a collection was given; one that we open is migrated.

    Raises:
        BindingError: It is asynchronous, or not of a supported kind.
        TypeError: It is not a database at all.
    """
    binding = _bind(database, records)
    if binding.eager and records is RECORDS:  # others are their host's to create
        bring_up_to_date(binding.session)
    return binding


def bring_up_to_date(session: Callable[..., AbstractContextManager[Session]]) -> None:
    """Migrate a database that we opened, in sessions of its binding, if it needs that."""
    with session(write=False) as reading:
        complete = is_migrated(reading.connection())
    if not complete:
        with session(write=True) as writing:
            migrate(writing.connection())


def bind_for_reading(database: Database, records: Records) -> Binding | None:
    """Return the same, creating and migrating nothing; None for a file that is not there."""
    return None if is_missing_file(database) else _bind(database, records)


def _bind(database: Database, records: Records) -> Binding:
    if isinstance(database, HostSession | OwnTransactions):  # for asyncio, made elsewhere
        return database
    if isinstance(database, Session | scoped_session):
        return HostSession(database)
    if isinstance(database, Connection):
        return HostConnection(database)
    if isinstance(database, Engine):
        return OwnTransactions(database)
    if isinstance(database, sessionmaker):
        with database() as session:
            return OwnTransactions(engine_of(session, records), database)
    if isinstance(getattr(database, "conn", None), sqlite3.Connection):
        return SqliteUtils(database)
    if database is None or isinstance(database, str | os.PathLike):
        return OwnTransactions(open_engine(database), opened=True)
    if any(kind.__module__.startswith("sqlalchemy.ext.asyncio") for kind in type(database).__mro__):
        raise BindingError(
            f"A Collection works synchronously and cannot use an {type(database).__name__}: "
            "use AsyncCollection"
        )
    raise TypeError(
        "db must be a Session, scoped_session, Connection, Engine, sessionmaker, path, URL or "
        f"sqlite_utils.Database, not {type(database).__name__}"
    )


def engine_of(session: Session, records: Records) -> Engine:
    """Return the engine of a sessionmaker, by one of its sessions, that has the embeddings.

    Raises:
        BindingError: There is none, or the sessions go by more than their binds.
    """
    if type(session).get_bind is not Session.get_bind:
        raise BindingError(
            "The sessions of this sessionmaker choose their engine by themselves; pass a session "
            "of it, or the engine that has the embeddings"
        )
    try:
        bind = session.get_bind(records.embedding.__mapper__)
    except UnboundExecutionError:
        bind = None
    if not isinstance(bind, Engine):
        raise BindingError("This sessionmaker is not bound to an engine; pass a session of it")
    return bind

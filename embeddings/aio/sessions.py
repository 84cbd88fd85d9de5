"""From what an AsyncCollection is given as its database to what of SQLAlchemy's is within it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, finalize

from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import StaticPool

from ..dialects import with_driver
from ..errors import BindingError, MissingExtraError
from ..sessions.binding import HostSession, OwnTransactions, bring_up_to_date, engine_of
from ..sessions.open import new_engine, url_of
from ..sql import dialect_of
from ..tables.records import RECORDS, Records
from .greenlets import Turn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Engine

    from ..sessions.binding import Database

_writers: WeakKeyDictionary[Engine, Turn] = WeakKeyDictionary()
_migrating = Turn()
"""Alembic's lock keeps threads apart, not tasks."""


class _Scoped(HostSession):
    """The session of whoever asks, from an `async_scoped_session`."""

    def __init__(self, sessions: async_scoped_session[Any]) -> None:
        self._sessions = sessions

    def current(self) -> Session:
        """Return the session of this moment."""
        session: Session = self._sessions().sync_session
        return session


class Opened(OwnTransactions):
    """A database that we open, which its first use brings up to date."""

    def __init__(self, database: str | os.PathLike[str] | None, *, migrates: bool) -> None:
        engine = new_engine(_asynchronous(url_of(database)), _create)
        super().__init__(engine, opened=True, turn=_turn(engine), writers=Turn())
        self.eager = False  # for a constructor cannot wait
        self._is_current = not migrates
        # Garbage cannot wait either: drivers close what they find unused, and warn.
        self._close = finalize(self, engine.dispose, close=False)

    @contextmanager
    def session(self, *, write: bool) -> Iterator[Session]:
        """Yield a session in a transaction that is committed at the end."""
        if not self._is_current:
            with _migrating:
                bring_up_to_date(super().session)
                self._is_current = True
        with super().session(write=write) as session:
            yield session

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()


def synchronous(db: Any, records: Records, *, migrates: bool = True) -> Database:
    """Return what of SQLAlchemy's is within an asynchronous object, for use in a greenlet.

    Args:
        db: The asynchronous object.
        records: The mapped classes. Those of a host are the host's to create.
        migrates: Whether the first use of a database that we open brings it up to date.

    Raises:
        BindingError: It is not asynchronous, or not of a supported kind.
    """
    if db is None or isinstance(db, str | os.PathLike):
        return Opened(db, migrates=migrates and records is RECORDS)
    if isinstance(db, async_scoped_session):
        return _Scoped(db)
    if isinstance(db, AsyncSession):
        return db.sync_session
    if isinstance(db, AsyncEngine):
        return _own_transactions(db.sync_engine, sessionmaker())
    if isinstance(db, async_sessionmaker):
        engine = engine_of(db().sync_session, records)
        kept = {name: db.kw[name] for name in db.kw.keys() - {"bind", "binds"}}
        kind = kept.pop("sync_session_class", Session)
        return _own_transactions(engine, sessionmaker(class_=kind, **kept))
    if isinstance(db, AsyncConnection) and db.sync_connection is not None:
        return db.sync_connection
    raise BindingError(
        "An AsyncCollection is opened on an AsyncSession, async_scoped_session, started "
        "AsyncConnection, AsyncEngine, async_sessionmaker bound to one, path or URL, not on "
        f"{type(db).__name__}. For what is not asynchronous there is Collection"
    )


def is_sqlite(db: Database, records: Records) -> bool:
    """Return whether that leads to SQLite."""
    if isinstance(db, HostSession):
        db = db.current()
    if isinstance(db, OwnTransactions):
        db = db.engine
    dialect = dialect_of(db, records) if isinstance(db, Session) else db.dialect
    return bool(dialect.name == "sqlite")


def _own_transactions(engine: Engine, make_session: sessionmaker[Any]) -> OwnTransactions:
    writers = _writers.setdefault(engine, Turn())
    return OwnTransactions(engine, make_session, turn=_turn(engine), writers=writers)


def _turn(engine: Engine) -> Turn | None:
    return Turn() if isinstance(engine.pool, StaticPool) else None


def _asynchronous(url: URL) -> URL:
    if url.drivername == "sqlite":
        if not find_spec("aiosqlite"):
            raise MissingExtraError("aiosqlite", "async")
        return url.set(drivername="sqlite+aiosqlite")
    return with_driver(url, "psycopg", "asyncpg")


def _create(url: URL, **options: Any) -> Engine:
    try:
        return create_async_engine(url, **options).sync_engine
    except InvalidRequestError:
        raise BindingError(
            f"The driver {url.get_driver_name()} is not asynchronous: use Collection, or a URL "
            "with another driver"
        ) from None

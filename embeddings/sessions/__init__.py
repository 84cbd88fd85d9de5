"""From what a collection is given as its database to sessions, and who owns their transactions.

A session or a connection is the caller's, and so is its transaction: nothing here ends it. From an
engine, a path or a URL come short transactions of this library's own.
"""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from sqlalchemy import URL, Connection, Engine
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from ..errors import BindingError
from .base import Sessions
from .host import HostConnection, HostSession
from .open import Address, is_missing_file, open_engine
from .own import OwnTransactions
from .sqlite_utils import SqliteUtils

__all__ = [
    "DatabaseLike",
    "bind",
    "bind_for_reading",
    "engine_of",
    "is_asynchronous",
    "is_missing_file",
]

if TYPE_CHECKING:
    from ..tables.records import Records


class SqliteUtilsDatabase(Protocol):
    """A `sqlite_utils.Database`, as far as a type checker is to know."""

    @property
    def conn(self) -> Any:
        """Its connection."""


DatabaseLike: TypeAlias = (
    Session
    | scoped_session[Any]
    | Connection
    | Engine
    | sessionmaker[Any]
    | Address
    | SqliteUtilsDatabase
    | Sessions
    | None
)
"""Session, scoped_session, Connection, Engine, sessionmaker, path, URL, sqlite_utils.Database."""


def bind(db: DatabaseLike, records: Records) -> Sessions:
    """Return how to reach the database that a collection was given. Nothing is created there.

    Raises:
        BindingError: It is asynchronous, or not of a supported kind.
        TypeError: It is not a database at all.
    """
    if isinstance(db, Sessions):  # made elsewhere: for asyncio, for Django
        return db
    if isinstance(db, Session | scoped_session):
        return HostSession(db)
    if isinstance(db, Connection):
        return HostConnection(db)
    if isinstance(db, Engine):
        return OwnTransactions(db)
    if isinstance(db, sessionmaker):
        with db() as session:
            return OwnTransactions(engine_of(session, records), db, chooser=session)
    if isinstance(driver := getattr(db, "conn", None), sqlite3.Connection):
        return SqliteUtils(driver)
    if db is None or isinstance(db, str | os.PathLike | URL):
        return OwnTransactions(open_engine(db), opened=True)
    if is_asynchronous(db):
        raise BindingError(
            f"A Collection works synchronously and cannot use an {type(db).__name__}: "
            "use AsyncCollection"
        )
    # Flask-SQLAlchemy's object is one
    has_session = isinstance(getattr(db, "session", None), Session | scoped_session)
    raise TypeError(
        "db must be a Session, scoped_session, Connection, Engine, sessionmaker, path, URL or "
        f"sqlite_utils.Database, not {type(db).__name__}"
        f"{': pass its session' if has_session else ''}"
    )


def is_asynchronous(db: object) -> bool:
    """Return whether this is a session, connection or engine of SQLAlchemy's asyncio."""
    return any(kind.__module__.startswith("sqlalchemy.ext.asyncio") for kind in type(db).__mro__)


def bind_for_reading(db: DatabaseLike, records: Records) -> Sessions | None:
    """Return the same; None for a file that is not there."""
    return None if is_missing_file(db) else bind(db, records)


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

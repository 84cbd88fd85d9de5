"""The caller's session, connection or driver's connection, whose transaction nothing here ends."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session, scoped_session

from ..internals import is_flushing
from .base import Sessions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Dialect

    from ..tables.records import Records


class HostSession(Sessions):
    """The caller's session: its transaction, its pending rows, its identity map."""

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
        if (write or session.autoflush) and not is_flushing(session):
            session.flush()
        yield session

    def dialect(self, records: Records) -> Dialect:
        """Return the dialect of the session's bind that has the tables."""
        return dialect_of(self.current(), records)


class HostConnection(Sessions):
    """The caller's connection and the transaction on it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @contextmanager
    def session(self, *, write: bool) -> Iterator[Session]:
        """Yield a session that leaves the connection's transaction alone."""
        if not self._connection.in_transaction():
            self._connection.begin()  # as its first statement would; else the session would own it
        with Session(self._connection, join_transaction_mode="rollback_only") as session:
            yield session

    def dialect(self, records: Records) -> Dialect:
        """Return the connection's dialect."""
        return self._connection.dialect


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


def dialect_of(session: Session, records: Records) -> Dialect:
    """Return the dialect of the bind of a session that has the embeddings."""
    return session.get_bind(records.embedding.__mapper__).dialect

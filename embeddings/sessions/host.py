"""The caller's session, connection or driver's connection, whose transaction nothing here ends."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from ..internals import has_connection, is_flushing
from .base import Sessions, transaction_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection
    from sqlalchemy.orm import Mapper, SessionTransaction

    from ..tables.records import Records


class HostSession(Sessions):
    """The caller's session: its transaction, its pending rows, its identity map."""

    def __init__(self, session: Session | scoped_session[Any]) -> None:
        self._session = session

    def current(self) -> Session:
        """Return the session of this moment."""
        return self._session() if isinstance(self._session, scoped_session) else self._session

    def transaction(self) -> SessionTransaction | None:
        """Return that of the session."""
        return transaction_of(self.current())

    @contextmanager
    def session(self, *, write: bool) -> Iterator[Session]:
        """Yield the session, flushed before a write, and before a read if it does so by itself."""
        session = self.current()
        # Within a flush, from a listener to its events, there is nothing left to flush.
        if (write or session.autoflush) and not is_flushing(session):
            session.flush()
        yield session

    @contextmanager
    def look(self, records: Records) -> Iterator[tuple[Session, bool]]:
        """Yield a session on a short connection, unless the caller's own has one already.

        The caller's own is also needed where it holds changes of the tables that are not flushed,
        and where the engine has one connection only.
        """
        session, bind = self.current(), self.bind(records)
        if (
            has_connection(session)
            or is_flushing(session)
            or _has_changes(session, records)
            or not isinstance(bind, Engine)
            or isinstance(bind.pool, StaticPool | SingletonThreadPool)
        ):
            with self.session(write=False) as own:
                yield own, False
            return
        with bind.connect() as connection, Session(connection) as short:
            yield short, True

    def bind(self, records: Records) -> Engine | Connection:
        """Return the session's bind that has the tables."""
        return self.current().get_bind(records.embedding.__mapper__)

    def bind_of(self, mapper: Mapper[Any], records: Records) -> Engine | Connection | None:
        """Return the session's bind for the class, unless a host's chooses for each statement."""
        session = self.current()
        chooses = type(session).get_bind is not Session.get_bind
        return None if chooses else session.get_bind(mapper)


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

    def bind(self, records: Records) -> Engine | Connection:
        """Return the connection."""
        return self._connection


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

    def create_function(self, name: str, *args: Any, **options: Any) -> None:
        """Add one of ours. SQLAlchemy would put its own REGEXP in the place of the owner's."""
        if name.startswith("embeddings_"):
            self._driver.create_function(name, *args, **options)


def _has_changes(session: Session, records: Records) -> bool:
    ours = (records.collection, records.embedding)
    pending = (*session.new, *session.dirty, *session.deleted)
    return session.autoflush and any(isinstance(instance, ours) for instance in pending)

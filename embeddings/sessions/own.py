"""Transactions of this library's own, on an engine: short, and one for each step."""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from .. import databases
from ..errors import BindingError
from ..forks import Lock
from ..internals import connection_of_thread
from .base import Sessions, hinted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine
    from sqlalchemy.orm import Mapper, Session

    from ..databases.base import Database
    from ..tables.records import Records

NO_TURN = nullcontext()
_turns: weakref.WeakKeyDictionary[Engine, AbstractContextManager[Any]] = weakref.WeakKeyDictionary()


class OwnTransactions(Sessions):
    """An engine: every step is a transaction of ours."""

    closes_when_lost = True
    """Whether what was opened is closed when it is garbage, and not only let go of."""

    def __init__(
        self,
        engine: Engine,
        make_session: sessionmaker[Any] | None = None,
        *,
        opened: bool = False,
        turn: AbstractContextManager[Any] | None = None,
        chooser: Session | None = None,
    ) -> None:
        self._chooser = chooser  # of the host's, which is asked for its binds alone
        self.engine: Engine | None = engine
        self._engine = engine
        self.eager = opened
        self._make_session = make_session or sessionmaker()
        # Where writers poll for one lock, the unlucky starve: those of one engine queue here. And
        # where an engine is one connection, as in memory, whoever reads takes turns as well.
        self._turn = turn or _turns.setdefault(engine, Lock())
        self._is_shared = isinstance(engine.pool, StaticPool)
        self._close = (
            weakref.finalize(self, engine.dispose, close=self.closes_when_lost) if opened else None
        )
        self._was_opened = self._was_written = not opened

    @property
    def is_exclusive(self) -> bool:
        """True: a transaction that writes begins with the lock."""
        return True

    @contextmanager
    def session(self, *, write: bool) -> Iterator[Session]:
        """Yield a session in a transaction that is committed at the end."""
        with (
            self._turns(write=write),
            owned_transaction(self._engine, write=write) as connection,
            self._make_session(
                bind=connection, binds={}, join_transaction_mode="rollback_only"
            ) as session,
        ):
            if not session.in_transaction():
                session.begin()  # for a sessionmaker with autobegin=False
            yield session
            session.flush()

    @contextmanager
    def look(self, records: Records) -> Iterator[tuple[Session, bool]]:
        """Yield a session in a transaction of its own."""
        with self.session(write=False) as session:
            yield session, True

    def bind(self, records: Records) -> Engine:
        """Return the engine."""
        return self._engine

    def bind_of(self, mapper: Mapper[Any], records: Records) -> Engine | Connection:
        """Return the bind that sessions of the host's sessionmaker have for the class."""
        return self._engine if self._chooser is None else self._chooser.get_bind(mapper)

    def _turns(self, *, write: bool) -> AbstractContextManager[Any]:
        """Return what a step holds from before its transaction until after it."""
        if self._was_opened and (self._was_written or not write):
            return self._turn_to(write=write)
        return self._first_turn(write=write)

    def _turn_to(self, *, write: bool) -> AbstractContextManager[Any]:
        if self._is_shared:
            return self._turn
        database = databases.of(self._engine.dialect)
        return database.writing_turn(self._turn) if write else NO_TURN

    @contextmanager
    def _first_turn(self, *, write: bool) -> Iterator[None]:
        database = databases.of(self._engine.dialect)
        with (
            NO_TURN if self._was_opened else self._opening(database),
            self._turn_to(write=write),
            self._before_first_write(database) if write and not self._was_written else NO_TURN,
        ):
            yield

    @contextmanager
    def _opening(self, database: Database) -> Iterator[None]:
        """Run the block, and say why a database cannot be opened."""
        try:
            yield
        except DBAPIError as error:
            if reason := database.why_not_open(error):
                raise BindingError(reason) from error
            raise
        self._was_opened = True

    @contextmanager
    def _before_first_write(self, database: Database) -> Iterator[None]:
        database.before_first_write(self._engine)
        self._was_written = True
        yield

    def is_missing(self) -> bool:
        """Return whether this was opened on a file that is not there."""
        return self.eager and databases.of(self._engine.dialect).is_missing(self._engine.url)

    def close(self) -> None:
        """Close the database, if it was opened here."""
        if self._close:
            self._close()


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
    database = databases.of(engine.dialect)
    with hinted(engine.dialect), engine.connect() as connection:
        isolation_level = isolation_level or database.own_isolation_level(connection)
        if isolation_level:
            connection.execution_options(isolation_level=isolation_level)
        transaction = connection.begin()
        try:
            database.begin(connection, write=write, fresh=True)
            yield connection
            transaction.commit()
        except BaseException:
            transaction.rollback()
            # A COMMIT that failed leaves the driver inside the transaction, and SQLAlchemy
            # believes that it has ended: the connection's next user would make it durable.
            if getattr(connection.connection.driver_connection, "in_transaction", False):
                connection.connection.dbapi_connection.rollback()  # type: ignore[union-attr]
            raise


def _refuse_a_shared_transaction(engine: Engine) -> None:
    # Only looked at: checking the connection out, and so in again, would roll it back.
    pool = engine.pool
    if isinstance(pool, StaticPool):
        driver = pool.connection.driver_connection
    elif isinstance(pool, SingletonThreadPool):
        held = connection_of_thread(pool)
        driver = held.driver_connection if held else None
    else:
        return
    if getattr(driver, "in_transaction", False):
        raise BindingError(
            "This engine has one connection, and a transaction is open on it: committing here "
            "would commit that too. Pass the session or the connection that holds the transaction"
        )

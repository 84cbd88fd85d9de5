"""From what an AsyncCollection is given as its database to what of SQLAlchemy's is within it."""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import URL
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

from .. import databases
from ..errors import BindingError, ModelError
from ..models.base import call_async, can_be_awaited, checked_vectors, embed_checked
from ..models.spans import traced
from ..models.usage import Usage, counted
from ..sessions import engine_of
from ..sessions.base import Sessions
from ..sessions.host import HostConnection, HostSession
from ..sessions.open import Address, url_of
from ..sessions.own import OwnTransactions
from ..sessions.runtime import Begun, Pool, Runtime, in_thread
from ..tables.migrate import bring_up_to_date
from ..tables.records import RECORDS, Records
from .greenlets import Turn, checkpoint, spawn, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection, Engine
    from sqlalchemy.orm import Mapper, SessionTransaction

    from ..models.base import Content, Role, SupportsEmbedding
    from ..vectors import Float32

T = TypeVar("T")
FEW_PIECES = 4_000  # which are computed within the event loop: some milliseconds
_turns: WeakKeyDictionary[Engine, Turn] = WeakKeyDictionary()
_computing = Turn()
_migrating = Turn()
"""Alembic's lock keeps threads apart, not tasks."""


class EventLoop(Runtime):
    """Waits by giving way to the event loop, in a greenlet."""

    holds_thread = False

    def counted_call(
        self, model: SupportsEmbedding, items: list[Any], role: Role, usage: Usage
    ) -> list[Float32]:
        """Return the vectors of items: awaited if the model can be, else made in a thread."""
        return wait_for(_embed, model, items, role, usage)

    def pool(self, at_once: int) -> Pool:
        """Return what does so many pieces of work at a time, each in a task."""
        return Pool() if at_once == 1 else _Tasks(at_once)

    def pause(self, seconds: float) -> None:
        """Wait so long."""
        wait_for(asyncio.sleep, seconds)

    def wait(self, done: Future[None], seconds: float) -> None:
        """Wait until somebody else is done, in this event loop or in another thread."""
        wait_for(asyncio.wait, [asyncio.wrap_future(done)], timeout=seconds)

    def give_way(self) -> None:
        """Let the event loop run what is ready; a cancellation takes effect here."""
        wait_for(asyncio.sleep, 0)

    def compute(self, work: Callable[[], T], pieces: int) -> T:
        """Return what a function computes: in a thread, where it would hold the event loop."""
        if pieces < FEW_PIECES:
            return work()
        return wait_for(asyncio.wrap_future, in_thread(work))

    def turn(self) -> AbstractContextManager[None]:
        """Return a block that one task has at a time; the loop comes round between two."""
        return _computing.until_the_next_round()

    def checkpoint(self) -> None:
        """Let a cancellation take effect that came during a statement."""
        checkpoint()

    def with_reports(
        self,
        work: Callable[[], object],
        report: Callable[[], object],
        seconds: float,
        stop: Callable[[], object] = lambda: None,
    ) -> None:
        """Do the work, which is cancelled if a report raises; see `Runtime.with_reports`."""
        working = asyncio.ensure_future(spawn(work, finishes_statements=lambda: False))
        try:
            while wait_for(asyncio.wait, [working], timeout=seconds)[1]:
                report()
            working.result()
        finally:
            if working.cancel():
                wait_for(asyncio.wait, [working])


class _Tasks(Pool):
    """Does pieces of work side by side, each in a task of the event loop.

    Args:
        at_once: The most at a time.
    """

    def __init__(self, at_once: int) -> None:
        self.ahead = at_once
        self._turns = asyncio.Semaphore(at_once)
        self._going_on: set[asyncio.Task[Any]] = set()

    def __exit__(self, *_: object) -> None:
        """Cancel what is going on, and wait for its end."""
        for task in self._going_on:
            task.cancel()
        if self._going_on:
            wait_for(asyncio.wait, {*self._going_on})

    def begin(self, work: Callable[[], T]) -> Begun[T]:
        """Begin a piece of work as soon as few enough are going on."""
        task = asyncio.ensure_future(self._do(work))
        self._going_on.add(task)
        task.add_done_callback(self._end)

        def result() -> T:
            if not task.done():
                wait_for(asyncio.wait, [task])
            return task.result()

        return Begun(result, task.done)

    async def _do(self, work: Callable[[], T]) -> T:
        async with self._turns:
            return await spawn(work, finishes_statements=lambda: False)

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._going_on.discard(task)
        if not task.cancelled():
            task.exception()  # else asyncio tells of one that nobody asked for


async def _embed(
    model: SupportsEmbedding, items: list[Content], role: Role, usage: Usage
) -> list[Float32]:
    with traced(model, len(items), usage) as note, counted(usage):
        if can_be_awaited(model, role):
            answer = await call_async(model, items, role)
            vectors = await asyncio.to_thread(checked_vectors, model, items, answer)
        else:
            vectors = await asyncio.to_thread(_in_a_thread, model, items, role)
        note(vectors)
    return vectors


def _in_a_thread(model: SupportsEmbedding, items: list[Content], role: Role) -> list[Float32]:
    try:
        return embed_checked(model, items, role)
    except StopIteration as error:  # which would never reach the one who waits
        raise ModelError(f"Model {model.model_id!r} raised StopIteration") from error


class AwaitedSessions(Sessions):
    """Sessions whose users run in a greenlet, and are cancelled between their statements.

    Args:
        sessions: What is within the asynchronous object.
        was_opened: Whether the database was opened for the collection.
    """

    runtime = EventLoop()

    def __init__(self, sessions: Sessions, *, was_opened: bool = False) -> None:
        self._sessions = sessions
        self.was_opened = was_opened
        self.engine = sessions.engine

    @property
    def is_exclusive(self) -> bool:
        """Whether those within are."""
        return self._sessions.is_exclusive

    @contextmanager
    def session(self, *, write: bool) -> Iterator[Session]:
        """Yield a session. A cancellation takes effect before it, and before its end."""
        checkpoint()
        with self._sessions.session(write=write) as session:
            yield session
            checkpoint()  # before the commit, so that a batch is there or not

    @contextmanager
    def look(self, records: Records) -> Iterator[tuple[Session, bool]]:
        """Yield a session to read in before a model is called."""
        checkpoint()
        with self._sessions.look(records) as found:
            yield found

    def transaction(self) -> SessionTransaction | None:
        """Return the caller's transaction."""
        return self._sessions.transaction()

    def bind(self, records: Records) -> Engine | Connection:
        """Return the engine or connection."""
        return self._sessions.bind(records)

    def bind_of(self, mapper: Mapper[Any], records: Records) -> Engine | Connection | None:
        """Return the bind for a class of the host's."""
        return self._sessions.bind_of(mapper, records)

    def finishes_statements(self, records: Records) -> bool:
        """Return whether a statement in progress is let finish when the task is cancelled."""
        return databases.of(self.dialect(records)).finishes_statements

    def close(self) -> None:
        """Close what was opened here."""
        self._sessions.close()


class _Scoped(HostSession):
    """The session of whoever asks, from an `async_scoped_session`."""

    def __init__(self, sessions: async_scoped_session[Any]) -> None:
        self._sessions = sessions

    def current(self) -> Session:
        """Return the session of this moment."""
        session: Session = self._sessions().sync_session
        return session


class _Opened(OwnTransactions):
    """A database that we open, which its first use brings up to date."""

    closes_when_lost = False  # garbage cannot wait: drivers close what they find unused, and warn

    def __init__(self, database: Address | None, *, migrates: bool) -> None:
        given = url_of(database)
        kind = databases.of_url(given)
        engine = kind.new_engine(kind.url(given, asynchronous=True), _create)
        super().__init__(engine, opened=True, turn=Turn())
        self._is_current = not migrates

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


AsyncDatabaseLike: TypeAlias = (
    AsyncSession
    | async_scoped_session[Any]
    | AsyncConnection
    | AsyncEngine
    | async_sessionmaker[Any]
    | Address
    | None
)
"""The asynchronous kin of what a `Collection` takes; a path or a URL."""


def awaited(db: AsyncDatabaseLike, records: Records, *, migrates: bool = True) -> AwaitedSessions:
    """Return how to reach the database of an asynchronous object, in a greenlet.

    Args:
        db: The asynchronous object.
        records: The mapped classes. Those of a host are the host's to create.
        migrates: Whether the first use of a database that we open brings it up to date.

    Raises:
        BindingError: It is not asynchronous, or not of a supported kind.
    """
    if db is None or isinstance(db, str | os.PathLike | URL):
        opened = _Opened(db, migrates=migrates and records is RECORDS)
        return AwaitedSessions(opened, was_opened=True)
    return AwaitedSessions(_within(db, records))


def _within(db: AsyncDatabaseLike, records: Records) -> Sessions:
    if isinstance(db, async_scoped_session):
        return _Scoped(db)
    if isinstance(db, AsyncSession):
        return HostSession(db.sync_session)
    if isinstance(db, AsyncEngine):
        return _own_transactions(db.sync_engine, sessionmaker())
    if isinstance(db, async_sessionmaker):
        chooser = db().sync_session
        engine = engine_of(chooser, records)
        kept = {name: db.kw[name] for name in db.kw.keys() - {"bind", "binds"}}
        kind = kept.pop("sync_session_class", Session)
        return _own_transactions(engine, sessionmaker(class_=kind, **kept), chooser)
    if isinstance(db, AsyncConnection) and db.sync_connection is not None:
        return HostConnection(db.sync_connection)
    raise BindingError(
        "An AsyncCollection is opened on an AsyncSession, async_scoped_session, started "
        "AsyncConnection, AsyncEngine, async_sessionmaker bound to one, path or URL, not on "
        f"{type(db).__name__}. For what is not asynchronous there is Collection"
    )


def _own_transactions(
    engine: Engine, make_session: sessionmaker[Any], chooser: Session | None = None
) -> OwnTransactions:
    turn = _turns.setdefault(engine, Turn())
    return OwnTransactions(engine, make_session, turn=turn, chooser=chooser)


def _create(url: URL, **options: Any) -> Engine:
    try:
        return create_async_engine(url, **options).sync_engine
    except InvalidRequestError:
        raise BindingError(
            f"The driver {url.get_driver_name()} is not asynchronous: use Collection, or a URL "
            "with another driver"
        ) from None

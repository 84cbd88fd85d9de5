"""What is written synchronously, run in an event loop: in greenlets, as SQLAlchemy's asyncio does.

On PostgreSQL a task that is cancelled ends the statement that it waits for at once. On SQLite a
statement cannot be ended: closing its connection meanwhile would leave the file locked. There
it is let finish, and the task is cancelled at the next `checkpoint`, with its connection whole.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from sqlalchemy.util import await_only

from ..errors import MissingExtraError
from ..models.loops import ByLoop

try:
    from greenlet import getcurrent, greenlet
except ImportError:
    raise MissingExtraError("greenlet", "async") from None

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

P = ParamSpec("P")
T = TypeVar("T")


class _Work(greenlet):  # type: ignore[misc]
    """A synchronous function that waits by handing an awaitable to the event loop."""

    __sqlalchemy_greenlet_provider__ = True  # so `await_only` knows it
    cancelled: asyncio.CancelledError | None = None
    """A cancellation that has not taken effect yet."""


class _Interruptible:
    """Something to wait for that may be cancelled at once, as it is no statement."""

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        self.awaitable = awaitable


async def spawn(work: Callable[[], T], *, finishes_statements: Callable[[], bool]) -> T:
    """Run a function in a greenlet, and return its result.

    Args:
        work: Waits by `wait_for`, and by whatever of SQLAlchemy's is asynchronous inside.
        finishes_statements: Tells, once there is something to wait for, whether a statement is to
            be let finish when the task is cancelled.
    """
    running = _Work(work, getcurrent())
    running.gr_context = getcurrent().gr_context
    try:
        result = await _run(running, finishes_statements)
    except Exception as error:
        if running.cancelled is not None:
            raise running.cancelled from error
        raise
    if running.cancelled is not None:
        raise running.cancelled
    return result  # type: ignore[no-any-return]


async def _run(running: _Work, finishes_statements: Callable[[], bool]) -> Any:
    cancellations = _cancellations()
    outcome: Any = running.switch()
    while not running.dead:
        try:
            if isinstance(outcome, _Interruptible):
                value = await outcome.awaitable
            elif finishes_statements():
                value = await _finished(running, outcome)
            else:
                value = await _interrupted(outcome, cancellations)
        except BaseException as error:  # noqa: BLE001  it is raised where the work waits
            outcome = running.throw(error)
        else:
            outcome = running.switch(value)
    return outcome


def _cancellations() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


async def _interrupted(statement: Awaitable[Any], cancellations: int) -> Any:
    """Return the result of a statement, which a cancellation ends.

    An error that the driver makes of the cancellation becomes that again: only then does
    SQLAlchemy give the connection up, too. psycopg 3.3.9 fails in an assertion of its own when it
    is cancelled as it begins an `executemany`, and leaves the connection in pipeline mode.

    Args:
        statement: What the driver does.
        cancellations: How often the task had been cancelled before all this.
    """
    try:
        return await statement
    except Exception as error:
        # A time-out of the driver's own is a cancellation as well, but one that it takes back.
        if _cancellations() > cancellations:
            context = error.__context__
            while context is not None:
                if isinstance(context, asyncio.CancelledError):
                    raise asyncio.CancelledError(*context.args) from error
                context = context.__context__
        raise


async def _finished(running: _Work, statement: Awaitable[Any]) -> Any:
    """Return the result of a statement, and keep a cancellation in mind meanwhile."""
    task = asyncio.ensure_future(statement)
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            running.cancelled = error
    return task.result()


def checkpoint() -> None:
    """Let a cancellation take effect that came while a statement was to be finished."""
    running = getcurrent()
    if isinstance(running, _Work) and running.cancelled is not None:
        error, running.cancelled = running.cancelled, None
        raise error


def wait_for(work: Callable[P, Awaitable[T]], *args: P.args, **options: P.kwargs) -> T:
    """Return the result of what is no statement: cancelled, it ends at once."""
    checkpoint()
    result: T = await_only(_Interruptible(work(*args, **options)))  # type: ignore[arg-type]
    return result


class Turn:
    """Lets the tasks that share something take turns, in whatever event loop they run."""

    def __init__(self) -> None:
        self._locks: ByLoop[asyncio.Lock] = ByLoop()

    def _lock(self) -> asyncio.Lock:
        return self._locks.get(asyncio.Lock)

    @contextmanager
    def until_the_next_round(self) -> Iterator[None]:
        """Wait for the turn, and have it until the event loop comes round after the block."""
        lock = self._lock()
        wait_for(lock.acquire)
        try:
            yield
        finally:
            asyncio.get_running_loop().call_soon(lock.release)

    def __enter__(self) -> None:
        wait_for(self._lock().acquire)

    def __exit__(self, *_: object) -> None:
        self._lock().release()

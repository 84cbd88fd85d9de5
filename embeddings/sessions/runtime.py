"""How what takes long is waited for: in a thread by blocking. `aio` has that for event loops."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..models.base import EmbeddingModel, embed_checked
from ..models.queries import QUERIES
from ..models.spans import traced
from ..models.usage import Usage, counted

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Self

    from ..models.base import Role, SupportsEmbedding
    from ..vectors import Float32

T = TypeVar("T")
FORGETTING = 100_000  # microseconds: what keeps vectors may have to ask a file


@dataclass
class Begun(Generic[T]):
    """Work that has begun.

    Attributes:
        result: Waits for its end, and returns its result.
        is_over: Tells whether `result` need not wait.
    """

    result: Callable[[], T]
    is_over: Callable[[], bool]


class Pool:
    """Does pieces of work in the order in which they are begun: here when the result is asked for.

    At the end of the block none is going on that can be ended.
    """

    ahead = 1
    """The most pieces that it makes sense to have begun, their results not taken yet: more would
    be lost at once if the program ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Begin nothing any more."""

    def begin(self, work: Callable[[], T]) -> Begun[T]:
        """Begin a piece of work as soon as few enough are going on."""
        return Begun(work, lambda: True)


def in_thread(work: Callable[[], T]) -> Future[T]:
    """Begin a piece of work in a thread of its own, with the values of this one's context."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # from here on nobody can cancel it
    piece = partial(copy_context().run, _do, work, future)
    # A program that is interrupted does not wait for its end: a daemon.
    Thread(target=piece, name="embeddings", daemon=True).start()
    return future


class Threads(Pool):
    """Does pieces of work side by side, in threads.

    Args:
        at_once: The most at a time.
    """

    def __init__(self, at_once: int) -> None:
        self.ahead = at_once
        self._at_once = at_once
        self._threads = 0
        self._waiting: SimpleQueue[Callable[[], object] | None] = SimpleQueue()

    def __exit__(self, *_: object) -> None:
        """End the threads, each after what it is at."""
        with suppress(Empty):
            while True:
                self._waiting.get_nowait()
        for _thread in range(self._threads):
            self._waiting.put(None)

    def begin(self, work: Callable[[], T]) -> Begun[T]:
        """Begin a piece of work as soon as few enough are going on."""
        future: Future[T] = Future()
        self._waiting.put(partial(copy_context().run, _do, work, future))
        if self._threads < self._at_once:
            self._threads += 1
            # A program that is interrupted does not wait for a service: a daemon.
            Thread(target=self._work, name="embeddings", daemon=True).start()
        return Begun(future.result, future.done)

    def _work(self) -> None:
        while (piece := self._waiting.get()) is not None:
            piece()


def _do(work: Callable[[], T], future: Future[T]) -> None:
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001  it is raised where the result is asked for
        future.set_exception(error)
    else:
        future.set_result(result)


class Runtime:
    """Waits by blocking the thread."""

    holds_thread: bool = True
    """Whether nothing else goes on in the thread that waits."""

    def embed(
        self, model: SupportsEmbedding, items: list[Any], role: Role = "document"
    ) -> list[Float32]:
        """Return the vectors of items, checked; those of queries are kept."""
        if role == "document":
            return self.counted_call(model, items, role, Usage())
        known = QUERIES.get(model, items)
        missing = [item for item in dict.fromkeys(items) if item not in known]
        if missing:
            made = self.counted_call(model, missing, role, Usage())
            new = dict(zip(missing, made, strict=True))
            QUERIES.keep(model, new)
            known |= new
        return [known[item].copy() for item in items]

    def counted_call(
        self, model: SupportsEmbedding, items: list[Any], role: Role, usage: Usage
    ) -> list[Float32]:
        """Return the vectors of items: the one place where a collection calls a model.

        Args:
            model: The model.
            items: Without the prefix of their role.
            role: What they are embedded for.
            usage: What the call takes is added to it.
        """
        with traced(model, len(items), usage) as note, counted(usage):
            vectors = embed_checked(model, items, role)
            note(vectors)
        return vectors

    def forget(self, model: SupportsEmbedding, items: list[Any], role: Role) -> None:
        """Let nobody keep the vectors that a model made of items: they do not fit."""
        if role == "query":
            QUERIES.forget(model, items)
        if isinstance(model, EmbeddingModel):
            self.compute(partial(model.forget, items, role), FORGETTING)

    def pool(self, at_once: int) -> Pool:
        """Return what does so many pieces of work at a time."""
        return Pool() if at_once == 1 else Threads(at_once)

    def pause(self, seconds: float) -> None:
        """Wait so long."""
        time.sleep(seconds)

    def wait(self, done: Future[None], seconds: float) -> None:
        """Wait until somebody else is done, at most so long."""
        wait([done], timeout=seconds)

    def give_way(self) -> None:
        """Let others have their turn between two pieces of work of some milliseconds each."""

    def compute(self, work: Callable[[], T], pieces: int) -> T:
        """Return what a function computes, which asks nothing of a database.

        Args:
            work: The function.
            pieces: How many ids, rows or the like it goes through; each takes about a microsecond.
        """
        return work()

    def turn(self) -> AbstractContextManager[None]:
        """Return a block in which no other computes that would hold the same thread."""
        return nullcontext()

    def checkpoint(self) -> None:
        """Let a cancellation take effect, where what waits can be cancelled."""

    def with_reports(
        self,
        work: Callable[[], object],
        report: Callable[[], object],
        seconds: float,
        stop: Callable[[], object] = lambda: None,
    ) -> None:
        """Do the work, and report every so many seconds meanwhile.

        Args:
            work: What is done.
            report: What is called meanwhile. If it raises, or Ctrl-C comes, that is raised as soon
                as the work has ended.
            seconds: Between two reports.
            stop: Lets the work end early then, where it cannot be cancelled.
        """
        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(copy_context().run, work)
            try:
                while wait([working], timeout=seconds).not_done:
                    report()
            except BaseException:
                stop()
                raise
            working.result()


BLOCKING = Runtime()

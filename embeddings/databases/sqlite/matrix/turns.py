"""Who reads the rows of a collection: one search at a time, while the others wait for it.

Threads that read the same rows at once take each other the interpreter's lock for each row: two
scans take four times as long as one. A search that waits holds nothing that the reader needs: the
reader has its connection already. A turn is no lock. It ends with its reader, also by an exception
or an interrupt, and is taken from a reader that has stopped.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ....forks import renew_in_children

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from ....sessions.runtime import Runtime

LOOK_SECONDS = 1.0  # between two looks at what the reader has done meanwhile
MOST_IDLE_LOOKS = 5  # looks without progress, after which the turn is taken from the reader


class Reader:
    """A search whose turn it is.

    Attributes:
        done: Ends with the turn.
        parts: How many parts of the rows were read: its progress.
        waiting: How many searches have come to wait for it.
        loads: Whether what it reads will be in memory for others.
    """

    def __init__(self, runtime: Runtime, *, loads: bool = False) -> None:
        self.done: Future[None] = Future()
        self.parts = 0
        self.waiting = 0
        self.loads = loads
        self._runtime = runtime
        self._thread = threading.get_ident()

    def has_read(self) -> None:
        """Count a part; a cancellation of the search takes effect here."""
        self.parts += 1
        self._runtime.checkpoint()

    def blocks(self, runtime: Runtime) -> bool:
        """Return whether it cannot go on while somebody waits here in this way."""
        return runtime.holds_thread and self._thread == threading.get_ident()


_readers: dict[Hashable, Reader] = {}


class _InChildren:
    def after_fork(self) -> None:
        """Leave the parent's readers to the parent."""
        _readers.clear()


_in_children = _InChildren()
renew_in_children(_in_children)


@contextmanager
def turn(key: Hashable, runtime: Runtime, *, loads: bool = False) -> Iterator[Reader | None]:
    """Yield a reader, until whose end no other reads; None if another reads already.

    Args:
        key: Of the collection.
        runtime: How the search waits.
        loads: Whether what is read will be in memory for others.
    """
    me = Reader(runtime, loads=loads)
    try:
        # One call of C, which nothing can come between.
        yield me if _readers.setdefault(key, me) is me else None
    finally:
        try:
            _end(key, me)
        finally:
            _end(key, me)  # for an interrupt that came within
        # Where an interrupt prevents this, those who wait find out at their next look.
        me.done.set_result(None)


def _end(key: Hashable, reader: Reader) -> None:
    if _readers.get(key) is reader:
        del _readers[key]


def is_read(key: Hashable) -> bool:
    """Return whether somebody reads the rows of a collection now."""
    return key in _readers


def is_loaded(key: Hashable) -> bool:
    """Return whether somebody reads the rows of a collection into memory now."""
    reader = _readers.get(key)
    return reader is not None and reader.loads


def wait(key: Hashable, runtime: Runtime) -> bool:
    """Wait until the reader of now, if there is one, has ended or stopped.

    Args:
        key: Of the collection.
        runtime: How to wait.

    Returns:
        False if the reader cannot go on before the caller does: it is further up in this thread.
    """
    reader = _readers.get(key)
    if reader is None:
        return True
    if reader.blocks(runtime):
        return False
    reader.waiting += 1
    parts, idle = reader.parts, 0
    while _readers.get(key) is reader:
        runtime.wait(reader.done, LOOK_SECONDS)
        idle = idle + 1 if reader.parts == parts else 0
        parts = reader.parts
        if idle == MOST_IDLE_LOOKS and _readers.get(key) is reader:
            del _readers[key]
    return True

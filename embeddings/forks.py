"""Locks that a forked child has anew: of those who held them only one thread lives on there.

A process may fork at any moment: under gunicorn with a thread that warms up, in Celery, by
`multiprocessing`. What another thread held then would be held forever in the child. So every lock
of this library is a `Lock` of this module. Python's own lock of a module that is being imported is
held forever, too: what this library imports late, it imports within `importing`.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

IMPORT_TIMEOUT = 10.0  # seconds that a fork waits for an import, which may be waiting for it


class Renewable(Protocol):
    """What a forked child has to set right."""

    def after_fork(self) -> None:
        """Let go of what other threads of the parent held. No other thread runs."""


_renewable: WeakSet[Renewable] = WeakSet()


def renew_in_children(renewable: Renewable) -> None:
    """Have `after_fork` called in each forked child, as long as the object is alive there."""
    _renewable.add(renewable)


class Lock:
    """A reentrant lock, which is free in a forked child, whoever held it in the parent."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        renew_in_children(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        try:  # noqa: SIM105  suppress() takes longer than all the rest
            self._lock.release()
        except RuntimeError:  # the process forked within the block, and this is the child
            pass

    def after_fork(self) -> None:
        """Be free."""
        self._lock = threading.RLock()


class _Imports:
    """Imports in progress, of any number of threads, which may be within each other."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._waits = False

    @contextmanager
    def importing(self) -> Iterator[None]:
        lock = self._lock
        with lock:
            yield

    def before_fork(self) -> None:
        self._waits = self._lock.acquire(timeout=IMPORT_TIMEOUT)

    def in_parent(self) -> None:
        if self._waits:
            self._lock.release()

    def in_child(self) -> None:
        self._lock = threading.RLock()


_imports = _Imports()


def importing() -> AbstractContextManager[None]:
    """Return a context for an import: another thread's fork waits until it is done."""
    return _imports.importing()


def _after_fork() -> None:
    _imports.in_child()
    for renewable in list(_renewable):
        renewable.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_imports.before_fork,
        after_in_parent=_imports.in_parent,
        after_in_child=_after_fork,
    )

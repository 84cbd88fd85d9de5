"""Calls that are to end: what was sent is waited for, for it is paid, and nothing more is sent."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

from ..errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator


def not_called(model_id: str) -> ModelError:
    """Return that a call was not begun. Whoever takes them in order meets the failure first."""
    return ModelError(f"Model {model_id!r} was not called: a call before it failed")


class Stop:
    """Tells a call of a model, in whatever thread or task, that a call before it has failed."""

    def __init__(self) -> None:
        self._said: Future[None] = Future()

    def say(self) -> None:
        """Tell it."""
        with suppress(InvalidStateError):  # it was told already
            self._said.set_result(None)

    @property
    def is_said(self) -> bool:
        """Whether it was told."""
        return self._said.done()

    def pause(self, seconds: float) -> None:
        """Wait so long, or until it is told."""
        wait([self._said], timeout=seconds)

    async def apause(self, seconds: float) -> None:
        """Wait so long, or until it is told."""
        await asyncio.wait([asyncio.wrap_future(self._said)], timeout=seconds)


_current: ContextVar[Stop | None] = ContextVar("embeddings_stop", default=None)


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Yield what ends the pauses of the block, one call of a model."""
    stop = Stop()
    token = _current.set(stop)
    try:
        yield stop
    finally:
        _current.reset(token)


def is_stopped() -> bool:
    """Return whether the call in progress is to send nothing more."""
    stop = _current.get()
    return stop is not None and stop.is_said


def pause(seconds: float) -> None:
    """Wait so long, or until the call in progress is stopped."""
    stop = _current.get()
    if stop is None or seconds <= 0:
        time.sleep(max(seconds, 0))
    else:
        stop.pause(seconds)


async def apause(seconds: float) -> None:
    """Wait so long, or until the call in progress is stopped."""
    stop = _current.get()
    if stop is None or seconds <= 0:
        await asyncio.sleep(seconds)
    else:
        await stop.apause(seconds)

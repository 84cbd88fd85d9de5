"""What is kept for each event loop, and let go of with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class ByLoop(Generic[T]):
    """Keeps a value for each event loop.

    What belongs to a loop, as its locks and generators do, often holds the loop: so a closed one
    is let go of when another one asks, and not by the garbage collector alone.
    """

    def __init__(self) -> None:
        self._values: WeakKeyDictionary[asyncio.AbstractEventLoop, T] = WeakKeyDictionary()

    def get(self, make: Callable[[], T]) -> T:
        """Return the value of the running loop, which is made if there is none."""
        loop = asyncio.get_running_loop()
        value = self._values.get(loop)
        if value is None:
            for reference in self._values.keyrefs():
                other = reference()
                if other is not None and other.is_closed():
                    self._values.pop(other, None)
            value = self._values.setdefault(loop, make())
        return value

    def pop(self) -> T | None:
        """Return the value of the running loop, if there is one, and keep it no longer."""
        return self._values.pop(asyncio.get_running_loop(), None)

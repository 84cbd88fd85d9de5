"""The states in memory: one home for all of this process, within a number of bytes."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from .state import bytes_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from ....sql import Found
    from ....tables.records import Records
    from .state import State

    Latest: TypeAlias = dict[tuple[Records, str], tuple["Key", Found]]

BUDGET = 256 * 2**20
KEPT = 2  # states of a collection: sessions may see it before and after a write
BUILT_AT = 2  # the search that builds: a program that searches once is served sooner by a scan
SLOT_BYTES = 1024
MOST_NAMES = 10_000  # of collections, for each engine


class Key(NamedTuple):
    """What a state is of."""

    lineage: bytes
    """The database: a random name that it carries, so that no path can be mistaken for it."""
    collection_id: int
    dimensions: int


@dataclass(eq=False)
class Slot:
    """The states of one collection."""

    searches: int = 0
    builder: object = None
    """Whose turn it is to build; None if it is nobody's."""
    _kept: tuple[tuple[State, ...], int] = (), SLOT_BYTES

    @property
    def states(self) -> tuple[State, ...]:
        """What is kept, the latest used first."""
        return self._kept[0]

    @property
    def nbytes(self) -> int:
        """The memory of the states, which share most of it."""
        return self._kept[1]

    def keep(self, *states: State) -> None:
        """Keep these states, and no others."""
        self._kept = states, SLOT_BYTES + bytes_of(*states)


class Cache:
    """Slots by key, the least recently used first, in no more than a number of bytes.

    Whatever it gives may be out of date for the session that asks: each state says to which point
    of the log it belongs, and the session's own log tells whether that holds.

    Args:
        budget: Bytes.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self._budget = budget
        self._slots: OrderedDict[Key, Slot] = OrderedDict()
        self._latest: WeakKeyDictionary[Engine, Latest] = WeakKeyDictionary()
        self._lock = threading.Lock()

    @property
    def budget(self) -> int:
        """The most bytes that all states together take."""
        return self._budget

    @budget.setter
    def budget(self, budget: int) -> None:
        with self._lock:
            self._budget = budget
            self._evict(0)

    @property
    def nbytes(self) -> int:
        """The bytes that they take."""
        return sum(slot.nbytes for slot in self._slots.values())

    def guess(
        self, engine: Engine, records: Records, found: Found, dimensions: int
    ) -> tuple[Key, State] | None:
        """Return the state that the latest search of this name through this engine used."""
        with self._lock:
            key, _ = self._latest.get(engine, {}).get((records, found.name), (None, None))
            if key is None or key[1:] != (found.id, dimensions):
                return None
            slot = self._slots.get(key)
            if slot is None or not slot.states:
                return None
            self._slots.move_to_end(key)
            return key, slot.states[0]

    def found(self, engine: Engine, records: Records, name: str) -> Found | None:
        """Return the row that the latest search of this name through this engine had, uncertain."""
        with self._lock:
            _, found = self._latest.get(engine, {}).get((records, name), (None, None))
            return found and found._replace(is_certain=False)

    def mistrust(self, engine: Engine, records: Records, found: Found) -> None:
        """Have `found` and `guess` return None for this name, until `slot` is told of it anew."""
        with self._lock:
            self._latest.get(engine, {}).pop((records, found.name), None)

    def slot(self, engine: Engine, records: Records, found: Found, key: Key) -> Slot:
        """Return the slot of a key, which this engine's searches of the name are about now."""
        with self._lock:
            latest = self._latest.setdefault(engine, {})
            latest.pop((records, found.name), None)
            if len(latest) >= MOST_NAMES:
                del latest[next(iter(latest))]
            latest[records, found.name] = key, found
            slot = self._slots.setdefault(key, Slot())
            self._slots.move_to_end(key)
            self._evict(0)
            return slot

    def put(self, key: Key, state: State) -> None:
        """Keep a state, as the one used latest."""
        with self._lock:
            slot = self._slots.get(key)
            if slot is None:
                return  # evicted meanwhile
            others = [other for other in slot.states if other.mark != state.mark]
            slot.keep(state, *others[: KEPT - 1])
            self._slots.move_to_end(key)
            self._evict(0)

    def forget(self, key: Key) -> None:
        """Let go of the states of a key."""
        with self._lock:
            if slot := self._slots.get(key):
                slot.keep()

    def make_room(self, key: Key, nbytes: int) -> bool:
        """Let go of as much as stands in the way of so many bytes; return whether they fit."""
        with self._lock:
            if nbytes > self._budget:
                return False
            if key in self._slots:
                self._slots.move_to_end(key)
            self._evict(nbytes)
            return True

    @contextmanager
    def turn(self, slot: Slot) -> Iterator[bool]:
        """Yield whether this thread is the one to build."""
        me = object()
        try:
            with self._lock:
                slot.builder = slot.builder or me
            yield slot.builder is me
        finally:
            # Unlike a lock, this leaves no moment in which an interrupt would keep the turn.
            if slot.builder is me:
                slot.builder = None

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._slots.clear()
            self._latest.clear()

    def _evict(self, coming: int) -> None:
        left = self.nbytes + coming
        while self._slots and left > self._budget:
            _, slot = self._slots.popitem(last=False)
            left -= slot.nbytes

    def _after_fork(self) -> None:
        """Let go of what other threads of the parent held."""
        self._lock = threading.Lock()
        for slot in self._slots.values():
            slot.builder = None


CACHE = Cache()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CACHE._after_fork)

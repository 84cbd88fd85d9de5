"""The states in memory: one home for all of this process, within a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from ....forks import Lock
from .state import bytes_of

if TYPE_CHECKING:
    from collections.abc import Hashable

    from sqlalchemy import Engine

    from ....work.operation import Work
    from .state import State

EXACT = "matrix"  # the name of the kind of states whose searches are exact
BUDGET = 256 * 2**20  # bytes
KEPT = 2  # states of a collection: one session may see it before a write, another after
BUILT_AT = 2  # the search of a process that builds: a program that searches once only scans
SLOT_BYTES = 1024  # of an empty slot, in the budget
MOST_COLLECTIONS = 10_000  # whose key is remembered for each engine


class Key(NamedTuple):
    """What a state is of."""

    lineage: bytes
    """The database: a random name that it carries, so that no path can be mistaken for it."""
    collection_id: int
    dimensions: int
    kind: str = EXACT
    """The name of what its rows are packed as: see `kinds`."""


@dataclass(eq=False)
class Slot:
    """The states of one collection."""

    searches: int = 0
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
        self._latest: WeakKeyDictionary[Engine, dict[Any, Key]] = WeakKeyDictionary()
        self._warned: dict[Hashable, object] = {}
        self._lock = Lock()

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

    def latest(self, work: Work, kind: str = EXACT) -> tuple[Key, State] | None:
        """Return the state that the latest search of this collection through the engine used."""
        with self._lock:
            key = self._latest.get(work.engine, {}).get(_collection_of(work, kind))
            slot = None if key is None else self._slots.get(key)
            if key is None or slot is None or not slot.states:
                return None
            self._slots.move_to_end(key)
            return key, slot.states[0]

    def forget_latest(self, work: Work, kind: str = EXACT) -> None:
        """Have `latest` return None for this collection, until `slot` is told of it anew."""
        with self._lock:
            self._latest.get(work.engine, {}).pop(_collection_of(work, kind), None)

    def slot(self, work: Work, key: Key) -> Slot:
        """Return the slot of a key, which this engine's searches of the collection use now."""
        with self._lock:
            latest = self._latest.setdefault(work.engine, {})
            collection = _collection_of(work, key.kind)
            latest.pop(collection, None)
            if len(latest) >= MOST_COLLECTIONS:
                del latest[next(iter(latest))]
            latest[collection] = key
            slot = self._slots.setdefault(key, Slot())
            self._slots.move_to_end(key)
            self._evict(0)
            return slot

    def reading_key(self, work: Work, kind: str = EXACT) -> Hashable:
        """Return by what the readers of a collection know that it is the same one."""
        with self._lock:
            collection = _collection_of(work, kind)
            return self._latest.get(work.engine, {}).get(collection) or (work.engine, collection)

    def warns_first(self, key: Hashable) -> bool:
        """Return whether nobody was warned yet that the rows of a key do not fit."""
        me = object()
        return self._warned.setdefault(key, me) is me

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

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._slots.clear()
            self._latest.clear()
            self._warned.clear()

    def _evict(self, coming: int) -> None:
        left = self.nbytes + coming
        while self._slots and left > self._budget:
            _, slot = self._slots.popitem(last=False)
            left -= slot.nbytes


def _collection_of(work: Work, kind: str) -> tuple[Any, ...]:
    return work.records, work.row.name, work.row.id, work.row.vector_bytes, kind


CACHE = Cache()

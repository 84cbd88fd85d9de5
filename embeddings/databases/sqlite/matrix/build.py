"""Bringing what is in memory to where a session is: from nothing, or by what was written since."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from . import statements
from .cache import BUILT_AT, CACHE, SLOT_BYTES, Key, Slot
from .segments import Packer
from .state import State, expected_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

    from ....sql import Found
    from ....tables.records import Records
    from .state import Mark
    from .statements import Position

REBUILT_SHARE = 8  # more changes than one row in so many: reading all of them takes no longer


class MustScan(Exception):  # noqa: N818  no error: it ends an attempt
    """Only a scan can tell; the text says why."""


class Place(NamedTuple):
    """Which rows, as which session sees them."""

    session: Session
    records: Records
    found: Found
    dimensions: int
    engine: Engine

    @classmethod
    def at(cls, session: Session, records: Records, found: Found, dimensions: int) -> Place:
        """Return the place of a collection in a session."""
        return cls(session, records, found, dimensions, _engine_of(session, records))

    def guess(self) -> tuple[Key, State] | None:
        """Return the state that was used last, which may be another session's."""
        return CACHE.guess(self.engine, self.records, self.found, self.dimensions)

    def mistrust(self) -> None:
        """Have nothing guessed for the name until it is known anew."""
        CACHE.mistrust(self.engine, self.records, self.found)

    def position(self, base: Mark | None = None) -> Position:
        """Return where the session is."""
        return statements.position(self.session, self.records, self.found, base)


def remembered(session: Session, records: Records, name: str) -> Found | None:
    """Return the row that the latest search of the name through this engine had, uncertain."""
    return CACHE.found(_engine_of(session, records), records, name)


def _engine_of(session: Session, records: Records) -> Engine:
    return session.get_bind(records.embedding.__mapper__).engine


def catch_up(place: Place) -> tuple[Key, State]:
    """Return the state of where the session is now, and keep it. Reads only.

    Raises:
        MustScan: There is none, and this is not the thread or the time to build it.
    """
    position = logged(place.position())
    key = Key(position.lineage, place.found.id, place.dimensions)  # type: ignore[arg-type]
    slot = CACHE.slot(place.engine, place.records, place.found, key)
    with CACHE.turn(slot) as is_mine:
        if not is_mine:
            raise MustScan("another thread is building the matrix")
        base = base_of(place, slot)
        if base is not None and base.mark == position.mark:
            CACHE.put(key, base)
            return key, base
        if base is None:
            slot.searches += 1
            if slot.searches < BUILT_AT:
                raise MustScan("the next search builds the matrix")
        state = (base and _updated(place, key, base)) or _built(place, key)
        CACHE.put(key, state)
        return key, state


def logged(position: Position) -> Position:
    """Return the position, if the log tells of all writes.

    Raises:
        MustScan: It does not.
    """
    if not position.is_logged or position.lineage is None:
        raise MustScan("the triggers of the change log are missing: call embeddings.install")
    if position.mark is None:
        raise MustScan("the change log knows nothing of the collection: call embeddings.install")
    return position


def needed(place: Place) -> int:
    """Return about how many bytes a state takes.

    Raises:
        MustScan: More than all states may take.
    """
    rows = statements.count(place.session, place.records, place.found)
    size = SLOT_BYTES + expected_bytes(rows, place.dimensions)
    if size > CACHE.budget:
        raise MustScan(f"{rows} rows need {size} bytes in memory, and {CACHE.budget} are allowed")
    return size


def base_of(place: Place, slot: Slot) -> State | None:
    """Return the newest of the states that are part of the session's history."""
    states = {state.mark: state for state in slot.states}
    marks = statements.known(place.session, place.records, place.found, states) if states else ()
    return states[max(marks)] if marks else None


def _updated(place: Place, key: Key, base: State) -> State | None:
    """Return the base with what was written since; None if building anew is better."""
    before = place.position(base.mark)
    packer = Packer(place.dimensions)
    changed: set[str] = set()
    for part in statements.load(place.session, place.records, place.found, base.mark):
        for id, _, _ in part:
            if not isinstance(id, str):
                return None
            changed.add(id)
        if len(changed) * REBUILT_SHARE > len(base.radii) and len(changed) > 1000:
            return None
        packer.add((id, blob) for id, blob, is_there in part if is_there)  # type: ignore[misc]
    mark = _same(before, place.position(base.mark), key)
    if not before.has_base:
        return None
    return base.patched(mark, changed, packer.segments(), packer.odd)


def _built(place: Place, key: Key) -> State:
    CACHE.forget(key)  # before there is twice as much
    if not CACHE.make_room(key, needed(place)):
        raise MustScan("the matrix does not fit into memory")
    before = place.position()
    packer = Packer(place.dimensions)
    for part in statements.load(place.session, place.records, place.found, None):
        packer.add(_texts(part))
    return State.of(_same(before, place.position(), key), packer.segments(), packer.odd)


def _texts(part: Iterable[tuple[Any, Any, bool]]) -> Iterable[tuple[str, Any]]:
    for id, blob, _ in part:
        if not isinstance(id, str):
            raise MustScan(f"the id {id!r} is no text")
        yield id, blob


def _same(before: Position, after: Position, key: Key) -> Mark:
    """Return the mark of what was read in between, if nothing was written meanwhile.

    Raises:
        MustScan: Something was; the next search tries again.
    """
    if before != after or logged(after).lineage != key.lineage or after.mark is None:
        raise MustScan("rows were written while the matrix was built")
    return after.mark

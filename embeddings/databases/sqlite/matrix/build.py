"""Bringing what is in memory to where a session is: from nothing, or by what was written since."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ....vectors import ITEM_BYTES
from ....work import ROWS
from . import statements
from .cache import BUILT_AT, CACHE, SLOT_BYTES, Key, Slot
from .segments import Packer
from .state import State, bytes_of, expected_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ....work import Work
    from .state import Mark
    from .statements import Position

LOG = logging.getLogger("embeddings")
REBUILT_SHARE = 8  # where more than one in this many rows changed, all are read anew
FEWEST_REBUILT = 1000  # changed rows, up to which a state is patched all the same


class MustScan(Exception):  # noqa: N818  no error: it ends an attempt
    """The rows have to be scanned; the message says why."""


def dimensions_of(work: Work) -> int:
    """Return the dimensions of the collection's vectors."""
    return (work.row.vector_bytes or 0) // ITEM_BYTES


def forget(work: Work) -> None:
    """Forget the collection's row and its latest state until they are known anew."""
    ROWS.forget(work.bind, work.records, work.row.name)
    CACHE.forget_latest(work)


def catch_up(work: Work) -> tuple[Key, State]:
    """Return the state of where the session is now, and keep it. Reads only.

    Raises:
        MustScan: There is none, and this is not the thread or the time to build it.
    """
    position = checked_position(statements.position(work))
    key = Key(position.lineage, work.row.id, dimensions_of(work))  # type: ignore[arg-type]
    ROWS.put(work.bind, work.records, work.row, committed=False)
    slot = CACHE.slot(work, key)
    with CACHE.turn(slot) as is_mine:
        if not is_mine:
            raise MustScan("another thread is building the matrix")
        base = base_of(work, slot)
        if base is not None and base.mark == position.mark:
            CACHE.put(key, base)
            return key, base
        if base is None:
            slot.searches += 1
            if slot.searches < BUILT_AT:
                raise MustScan("the next search builds the matrix")
        state = (base and _updated(work, key, base)) or _built(work, key)
        CACHE.put(key, state)
        return key, state


def checked_position(position: Position) -> Position:
    """Return the position, if the log tells of all writes.

    Raises:
        MustScan: It does not.
    """
    if not position.is_logged or position.lineage is None:
        raise MustScan("the triggers of the change log are missing: call embeddings.install")
    if position.mark is None:
        raise MustScan("the change log knows nothing of the collection: call embeddings.install")
    return position


def needed_bytes(work: Work) -> int:
    """Return about how many bytes a state takes.

    Raises:
        MustScan: More than all states may take.
    """
    rows = statements.count(work)
    nbytes = SLOT_BYTES + expected_bytes(rows, dimensions_of(work))
    if nbytes > CACHE.budget:
        raise MustScan(f"{rows} rows need {nbytes} bytes in memory, and {CACHE.budget} are allowed")
    return nbytes


def base_of(work: Work, slot: Slot) -> State | None:
    """Return the newest of the states that are part of the session's history."""
    states = {state.mark: state for state in slot.states}
    marks = statements.held_marks(work, states) if states else ()
    return states[max(marks)] if marks else None


def _updated(work: Work, key: Key, base: State) -> State | None:
    """Return the base with what was written since; None if building anew is better."""
    before = statements.position(work, base.mark)
    packer = Packer(dimensions_of(work))
    changed: set[str] = set()
    for part in statements.load(work, base.mark):
        for id, _, _ in part:
            if not isinstance(id, str):
                return None
            changed.add(id)
        if len(changed) * REBUILT_SHARE > len(base.radii) and len(changed) > FEWEST_REBUILT:
            return None
        packer.add((id, blob) for id, blob, is_there in part if is_there)  # type: ignore[misc]
    mark = _mark_if_unchanged(before, statements.position(work, base.mark), key)
    if not before.has_base:
        return None
    return base.patched(mark, changed, packer.segments(), packer.invalid)


def _built(work: Work, key: Key) -> State:
    CACHE.forget(key)  # the old state first: the two together would take twice the memory
    if not CACHE.make_room(key, needed_bytes(work)):
        raise MustScan("the matrix does not fit into memory")
    before, began = statements.position(work), perf_counter()
    packer = Packer(dimensions_of(work))
    for part in statements.load(work, None):
        packer.add(_texts(part))
    mark = _mark_if_unchanged(before, statements.position(work), key)
    state = State.of(mark, packer.segments(), packer.invalid)
    facts = state.rows, bytes_of(state), (perf_counter() - began) * 1000
    LOG.info("matrix of %r built: %d rows, %d bytes, %.0f ms", work.row.name, *facts)
    return state


def _texts(part: Iterable[tuple[Any, Any, bool]]) -> Iterable[tuple[str, Any]]:
    for id, blob, _ in part:
        if not isinstance(id, str):
            raise MustScan(f"the id {id!r} is no text")
        yield id, blob


def _mark_if_unchanged(before: Position, after: Position, key: Key) -> Mark:
    """Return the mark of what was read in between, if nothing was written meanwhile.

    Raises:
        MustScan: Something was; the next search tries again.
    """
    if before != after or checked_position(after).lineage != key.lineage or after.mark is None:
        raise MustScan("rows were written while the matrix was built")
    return after.mark

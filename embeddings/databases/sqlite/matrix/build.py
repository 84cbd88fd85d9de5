"""Bringing what is in memory to where a session is: from nothing, or by what was written since."""

from __future__ import annotations

import logging
import warnings
from contextlib import closing
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ....errors import MemoryBudgetWarning
from ....vectors import ITEM_BYTES
from ....work.row import ROWS
from . import statements
from .cache import BUILT_AT, CACHE, SLOT_BYTES, Key, Slot
from .kinds import MATRIX, Kind
from .segments import row_bytes
from .state import State, bytes_of
from .turns import turn, wait

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ....work.operation import Work
    from .state import Mark
    from .statements import Position
    from .turns import Reader

LOG = logging.getLogger("embeddings")
REBUILT_SHARE = 8  # where more than one in this many rows changed, all are read anew
MOVED_ROWS = 8  # rows in memory that are moved for each that is written, or fewer
FEWEST_REBUILT = 1000  # changed rows, up to which a state is patched all the same


class MustScan(Exception):  # noqa: N818  no error: it ends an attempt
    """The rows have to be scanned; the message says why."""


class NotYet(MustScan):
    """The next search builds the matrix; this one only if others are ahead of it."""


class NotKept(MustScan):
    """The rows are not kept in memory, whatever is searched for."""


class TooLarge(NotKept):
    """The rows need more memory than all collections may take together."""

    def __init__(self, rows: int, nbytes: int) -> None:
        super().__init__(
            f"{rows} rows need {nbytes} bytes in memory, and {CACHE.budget} are allowed"
        )
        self.enough = (nbytes // 2**20 + 2) * 2**20
        """A budget in which the rows fit, for some time."""


def warn_of_budget(work: Work, reason: TooLarge, kind: Kind = MATRIX) -> None:
    """Warn once for a collection that its rows do not fit; never where nothing is to be kept."""
    if CACHE.budget and CACHE.warns_first(CACHE.reading_key(work, kind.name)):
        other = ". Or have an index, which takes a fraction of it: create_index()"
        warnings.warn(
            f"Each search of the collection {work.row.name!r} reads every row: {reason}. If the "
            f"machine has as much, call embeddings.set_memory_budget({reason.enough}) or more "
            f"when the program starts{other if kind.is_exact else ''}",
            MemoryBudgetWarning,
            stacklevel=3,
        )


def dimensions_of(work: Work) -> int:
    """Return the dimensions of the collection's vectors."""
    return (work.row.vector_bytes or 0) // ITEM_BYTES


def forget(work: Work, kind: Kind = MATRIX) -> None:
    """Forget the collection's row and its latest state until they are known anew."""
    ROWS.forget(work.bind, work.records, work.row.name)
    CACHE.forget_latest(work, kind.name)


def key_of(work: Work, position: Position, kind: Kind) -> Key:
    """Return what states of this kind of the collection are kept under.

    Args:
        work: Of the collection.
        position: A checked one.
        kind: What rows are packed as.
    """
    return Key(position.lineage or b"", work.row.id, dimensions_of(work), kind.name)


def catch_up(
    work: Work, kind: Kind = MATRIX, position: Position | None = None, *, at_once: bool = False
) -> tuple[Key, State]:
    """Return a state to search from, of where the session is now or of shortly before.

    If another search builds it already, this one waits for it.

    Args:
        work: What its session sees is loaded. Nothing is written.
        kind: What rows are packed as.
        position: Where the session was a moment ago, checked; it is asked for if that is not known.
        at_once: Whether the first call of a process builds, too.

    Raises:
        MustScan: There is none, and this is not the search to build it.
    """
    while True:
        if position is None:
            position = checked_position(statements.position(work))
        key = key_of(work, position, kind)
        ROWS.put(work, work.row)
        slot = CACHE.slot(work, key)
        states = slot.states
        if (state := _state_at(position, states)) is not None:
            CACHE.put(key, state)
            return key, state
        # Nothing is asked before the turn is taken: of many that come at once, one asks.
        with turn(key, work.runtime, loads=True) as reader:
            if reader is not None and slot.states is states:
                base = base_of(work, slot)
                state = _brought_up(work, kind, key, base, reader, at_once=at_once)
                CACHE.put(key, state)
                work.runtime.give_way()
                return key, state
        if reader is None and (state := _awaited(work, key, slot, position)) is not None:
            return key, state
        position = None


def _state_at(position: Position, states: Iterable[State]) -> State | None:
    """Return the state whose mark is the newest row of the log that a session has seen."""
    return next((state for state in states if state.mark == position.mark), None)


def _awaited(work: Work, key: Key, slot: Slot, position: Position) -> State | None:
    """Wait for the reader of a collection, and return what the session can use of what it built.

    Raises:
        MustScan: The reader waits for this search, or built of another moment than the session's.
    """
    states = slot.states
    if not wait(key, work.runtime):
        raise MustScan("the search that builds the matrix waits for this one")
    if not slot.states or slot.states is states:
        return None
    if (state := _state_at(position, slot.states)) is not None:
        return state
    base = base_of(work, slot)
    if base is None:
        raise MustScan("the rows in memory are of another moment")
    return None if base in states else base


def _brought_up(
    work: Work, kind: Kind, key: Key, base: State | None, reader: Reader, *, at_once: bool
) -> State:
    if base is None:
        base = kind.stored(work)
    if base is not None and (state := _updated(work, kind, key, base, reader)) is not None:
        return state
    nbytes = needed_bytes(work, kind)
    if base is None:
        slot = CACHE.slot(work, key)
        slot.searches += 1
        if slot.searches < BUILT_AT and not at_once and not kind.builds_at_once:
            raise NotYet("the next search builds the matrix")
    return _built(work, kind, key, nbytes, reader)


def checked_position(position: Position) -> Position:
    """Return the position, if the log tells of all writes.

    Raises:
        NotKept: It does not.
    """
    if not position.is_logged:
        raise NotKept("the change log or its triggers are missing: call embeddings.install")
    if position.lineage is None:
        raise NotKept("the change log was emptied: call embeddings.install")
    if position.mark is None:
        raise NotKept("the change log knows nothing of the collection: call embeddings.install")
    return position


def needed_bytes(work: Work, kind: Kind = MATRIX, rows: int | None = None) -> int:
    """Return about how many bytes a state takes.

    Args:
        work: Of the collection.
        kind: What rows are packed as.
        rows: How many there are; they are counted if that is not known.

    Raises:
        TooLarge: More than all states may take.
    """
    rows = statements.count(work) if rows is None else rows
    nbytes = SLOT_BYTES + kind.expected_bytes(rows, dimensions_of(work))
    if nbytes > CACHE.budget:
        raise TooLarge(rows, nbytes)
    return nbytes


def base_of(work: Work, slot: Slot) -> State | None:
    """Return the newest of the states that are part of the session's history."""
    states = {state.mark: state for state in slot.states}
    marks = statements.held_marks(work, states) if states else ()
    return states[max(marks)] if marks else None


def _updated(work: Work, kind: Kind, key: Key, base: State, reader: Reader) -> State | None:
    """Return the base with what was written since; None if building anew is better."""
    before = statements.position(work, base.mark)
    packer = kind.packer(dimensions_of(work))
    changed: set[str] = set()
    with closing(statements.load(work, base.mark)) as parts:
        for part in parts:
            for id, _, _ in part:
                if not isinstance(id, str):
                    return None
                changed.add(id)
            if len(changed) * REBUILT_SHARE > len(base.radii) and len(changed) > FEWEST_REBUILT:
                return None
            packer.add((id, blob) for id, blob, is_there in part if is_there)  # type: ignore[misc]
            reader.has_read()
    mark = _mark_if_unchanged(before, statements.position(work, base.mark), key)
    if not before.has_base:
        return None

    def patched() -> State:
        return base.patched(mark, changed, packer.segments(), packer.invalid)

    return work.runtime.compute(patched, len(changed) * MOVED_ROWS)


def _built(work: Work, kind: Kind, key: Key, nbytes: int, reader: Reader) -> State:
    CACHE.forget(key)  # the old state first: the two together would take twice the memory
    if not CACHE.make_room(key, nbytes):
        raise MustScan("the matrix does not fit into memory")
    before, began = statements.position(work), perf_counter()
    packer = kind.packer(dimensions_of(work))
    with closing(statements.load(work, None)) as parts:
        for part in parts:
            packer.add(_texts(part))
            reader.has_read()
    mark = _mark_if_unchanged(before, statements.position(work), key)

    def made() -> State:
        return State.of(mark, packer.segments(), packer.invalid)

    state = work.runtime.compute(made, nbytes // row_bytes(dimensions_of(work)))
    facts = state.rows, bytes_of(state), (perf_counter() - began) * 1000
    LOG.info("%s of %r built: %d rows, %d bytes, %.0f ms", kind, work.row.name, *facts)
    return state


def _texts(part: Iterable[tuple[Any, Any, bool]]) -> Iterable[tuple[str, Any]]:
    for id, blob, _ in part:
        if not isinstance(id, str):
            raise NotKept(f"the id {id!r} is no text")
        yield id, blob


def _mark_if_unchanged(before: Position, after: Position, key: Key) -> Mark:
    """Return the mark of what was read in between, if nothing was written meanwhile.

    Raises:
        MustScan: Something was; the next search tries again.
    """
    if before != after or checked_position(after).lineage != key.lineage or after.mark is None:
        raise MustScan("rows were written while the matrix was built")
    return after.mark

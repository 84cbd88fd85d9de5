"""The search: screen in memory, score exactly from the database, and prove that it was current.

Nothing is asked before the screening. One statement then returns the candidates' rows together
with the position of the session in the change log, and so tells, of one snapshot, whether the
candidates were chosen from the rows that this session sees. Where they were not, what was written
since is taken into account; where that is much, or this is another history, the state in memory is
brought up to date or built anew; and where that cannot be, the rows are scanned.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING

from sqlalchemy.exc import OperationalError

from ...sql import dialect_of
from ...vectors import ITEM_BYTES
from ..query import Ranking, ScoredRow
from ..scan import scan
from . import statements
from .build import MustScan, Place, catch_up, logged
from .cache import CACHE, Key
from .finalists import Finalists
from .kernel import MOST_DIMENSIONS
from .rows import Packer
from .screen import Probes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy.orm import Session

    from ...records import Records
    from ...sql import Found
    from ...vectors import Float64
    from ..query import Query
    from .state import Mark, State
    from .statements import Answer

ATTEMPTS = 5
MOST_ODD = 100  # rows that cannot be compared, and that a warning has to name
WIDE = 2**22  # estimates that are held at a time
FETCHED, SHARE = 500, 8  # candidates that are fetched at most: so many, or one row in so many
TRIED = (128, 2048)  # how many of the best to try a filter on before asking for all that it keeps


def from_memory(
    session: Session, records: Records, found: Found, vector: Float64, query: Query
) -> Ranking:
    """Return the rows nearest to the vector, exactly as `scan` does, from what is in memory."""
    return many_from_memory(session, records, found, [vector], query)[0]


def many_from_memory(
    session: Session, records: Records, found: Found, vectors: Sequence[Float64], query: Query
) -> list[Ranking]:
    """Return the rows nearest to each of the vectors; the rows in memory are read once for all.

    Args:
        session: What it sees is searched. Nothing is written.
        records: The mapped classes.
        found: The collection whose rows they are.
        vectors: Each of shape (dimensions,), from `as_query`.
        query: How many, and under which conditions.

    Raises:
        InvalidVectorError: A vector has another length than those of the collection.

    Warns:
        CorruptVectorWarning: Rows whose vector cannot be compared were left out.
    """
    results: list[Ranking] = []
    while rest := vectors[len(results) :]:
        place = Place.at(session, records, found, rest[0].size)
        guess = place.guess()
        most = max(1, WIDE // (1 + len(guess[1].radii))) if guess else 1
        block = list(takewhile(lambda vector: vector.size == rest[0].size, rest[:most]))
        probes = Probes(block)
        for number, vector in enumerate(block):
            try:
                ranking = Ranking(_search(place, found, probes, number, query))
            except MustScan:
                ranking = scan(session, records, found, vector, query)
            results.append(ranking)
    return results


def _search(
    place: Place, found: Found, probes: Probes, number: int, query: Query
) -> list[ScoredRow]:
    """Return the best rows.

    Raises:
        MustScan: Only a scan can tell.
    """
    if not query.depth or found.size != place.dimensions * ITEM_BYTES:
        raise MustScan("there is nothing to compare with")
    if place.dimensions > MOST_DIMENSIONS:
        raise MustScan(f"vectors of over {MOST_DIMENSIONS} dimensions are not kept in memory")
    for _ in range(ATTEMPTS):
        key, state = place.guess() or catch_up(place)
        rows = _attempt(place, key, state, probes, number, query)
        if rows is not None:
            return rows
    raise MustScan("rows were written faster than they could be compared")


def _attempt(
    place: Place, key: Key, state: State, probes: Probes, number: int, query: Query
) -> list[ScoredRow] | None:
    """Return the best rows, or None where the session sees others than those of the state."""
    if len(state.odd) > MOST_ODD:
        raise MustScan(f"{len(state.odd)} rows hold no vector that can be compared")
    vector = probes.vectors[number]
    for view, depth, is_last in _views(place, state, query):
        chosen = probes.candidates(number, view, depth, query.min_score)
        if len(chosen.ids) > max(FETCHED, state.rows // SHARE):
            if is_last:
                raise MustScan("most of the rows may be among the best")
            continue
        first = chosen.likely(query.depth)
        finalists = Finalists(vector, query, may_be_gone=not is_last)
        with _asked(place, state, [*view.odd, *chosen.ids], len(view.odd) + first, query) as answer:
            holds = _holds(key, answer)
            agrees = holds and finalists.read(answer, len(view.odd), chosen, first)
        if not holds:
            catch_up(place)
            return None
        if not agrees:
            if not query.filters:
                CACHE.forget(key)  # somebody wrote past the log
            return None
        if answer.changes:
            CACHE.put(key, _with_changes(place, state, answer))
            if query.filters and is_last:
                return None  # other rows may meet the conditions now
        if finalists.are_best(chosen.floor):
            finalists.warn()
            return _decoded(place, finalists)
        if answer.changes:
            return None
    return None


def _views(place: Place, state: State, query: Query) -> Iterator[tuple[State, int, bool]]:
    """Yield rows to choose from, how many of the best to choose, and whether that is the last try.

    What a filter keeps only the database can tell. Where it keeps much, it is enough to ask about
    some of the best; else for everything that it keeps.
    """
    view = state if query.prefix is None else state.starting_with(query.prefix)
    if query.skip_id is not None:
        view = view.without([query.skip_id])
    if not query.filters:
        yield view, query.depth, True
        return
    for depth in TRIED:
        if query.depth <= depth // 2 and depth * 32 <= view.rows:
            yield view, depth, False
    position, ids = statements.meeting(
        place.session, place.records, place.of, state.mark, query.filters
    )
    if position.mark == state.mark and position.has_base:
        yield view.only(ids), query.depth, True
    else:  # what has a filter must not wait for a search without one
        catch_up(place)


@contextmanager
def _asked(
    place: Place, state: State, ids: list[str], first: int, query: Query
) -> Iterator[Answer]:
    try:
        with statements.answer(
            place.session, place.records, place.of, state.mark, ids, first, query.filters
        ) as answer:
            yield answer
    except OperationalError:
        logged(place.position())  # the log itself may be gone
        raise


def _holds(key: Key, answer: Answer) -> bool:
    """Return whether the state, with the changes of the answer, is what the session sees.

    Raises:
        MustScan: Nobody can tell.
    """
    position, changes = logged(answer.position), answer.changes
    return (
        position.has_base
        and position.lineage == key.lineage
        and len(changes) <= statements.MOST_CHANGES
        and all(change.row.id is not None for change in changes)
    )


def _with_changes(place: Place, state: State, answer: Answer) -> State:
    rows = [change.row for change in answer.changes if change.is_there]
    packer = Packer(place.dimensions)
    packer.add((row.id, row.embedding) for row in rows)
    changed = {change.row.id for change in answer.changes}
    mark: Mark = answer.position.mark  # type: ignore[assignment]  # a position that holds has one
    return state.patched(mark, changed, packer.segments(), packer.odd)


def _decoded(place: Place, finalists: Finalists) -> list[ScoredRow]:
    dialect = dialect_of(place.session, place.records)
    as_content, as_metadata = statements.decoders(place.records, dialect)
    return [
        ScoredRow(row.id, score, as_content(row.content), as_metadata(row.metadata))
        for row, score in finalists.ranked()
    ]

"""The search: screen in memory, score exactly from the database, and prove that it was current.

Nothing is asked before the screening. One statement then returns the candidates' rows together
with the position of the session in the change log, and so tells, of one snapshot, whether the
candidates were chosen from the rows that this session sees. Where they were not, what was written
since is taken into account; where that is much, or this is another history, the state in memory is
brought up to date or built anew; and where that cannot be, the rows are scanned.

The collection's row may be a guess, too: then the statement tells whether it holds, and if it does
not, the caller is to read it and to search again.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING

from sqlalchemy.exc import OperationalError

from ....searching.query import NotConfirmed, Ranking, ScoredRow
from ....searching.scan import are_vectors, scan
from ....sql import dialect_of
from ....vectors import ITEM_BYTES
from . import statements
from .build import MustScan, Place, catch_up, logged
from .cache import CACHE, Key
from .candidates import Probes
from .kernel import MOST_DIMENSIONS
from .rescore import Finalists
from .segments import Packer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy.orm import Session

    from ....searching.query import Query
    from ....sql import Found
    from ....tables.records import Records
    from ....vectors import Float64
    from .state import Mark, State
    from .statements import Answer, Position

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
        NotConfirmed: The collection's row was a guess, and does not hold.

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
                ranking = Ranking(_search(place, probes, number, query))
            except MustScan:
                if not found.is_certain:
                    raise NotConfirmed from None
                ranking = scan(session, records, found, vector, query)
            results.append(ranking)
    return results


def _search(place: Place, probes: Probes, number: int, query: Query) -> list[ScoredRow]:
    """Return the best rows.

    Raises:
        MustScan: Only a scan can tell.
    """
    if not query.depth or place.found.size != place.dimensions * ITEM_BYTES:
        raise MustScan("there is nothing to compare with")
    if place.dimensions > MOST_DIMENSIONS:
        raise MustScan(f"vectors of over {MOST_DIMENSIONS} dimensions are not kept in memory")
    for _ in range(ATTEMPTS):
        key, state = _base(place)
        rows = _attempt(place, key, state, probes, number, query)
        if rows is not None:
            return rows
    raise MustScan("rows were written faster than they could be compared")


def _base(place: Place) -> tuple[Key, State]:
    """Return a state to begin with.

    Raises:
        MustScan: There is none, or none that goes with a guess of the collection's row: with odd
            rows, the collection may have vectors of another length by now.
    """
    guess = place.guess()
    if place.found.is_certain:
        return guess or catch_up(place)
    if guess is None or guess[1].odd:
        raise MustScan("the collection's row is not known for certain")
    return guess


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
            holds = _holds(place, key, answer)
            agrees = holds and finalists.read(answer, len(view.odd), chosen, first)
        if not holds:
            if not place.found.is_certain and not answer.position.has_collection:
                place.mistrust()
                raise MustScan("the name is another collection's, or nobody's")
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
    with _log_may_be_gone(place):
        position, ids = statements.meeting(
            place.session, place.records, place.found, state.mark, query.filters
        )
    if position.mark == state.mark and position.has_base:
        yield view.only(ids), query.depth, True
    else:  # what has a filter must not wait for a search without one
        catch_up(place)


@contextmanager
def _asked(
    place: Place, state: State, ids: list[str], first: int, query: Query
) -> Iterator[Answer]:
    with (
        _log_may_be_gone(place),
        statements.answer(
            place.session, place.records, place.found, state.mark, ids, first, query.filters
        ) as answer,
    ):
        yield answer


@contextmanager
def _log_may_be_gone(place: Place) -> Iterator[None]:
    """Raise MustScan where a statement in the block fails for want of the log."""
    try:
        yield
    except OperationalError as error:
        if "no such" in str(error.orig):  # not for a lock, which would be waited for again
            _logged(place, place.position())
        raise


def _logged(place: Place, position: Position) -> Position:
    """Return the position as `logged` does; where it raises, no guess is made the next time."""
    try:
        return logged(position)
    except MustScan:
        place.mistrust()
        raise


def _holds(place: Place, key: Key, answer: Answer) -> bool:
    """Return whether the state, with the changes of the answer, is what the session sees.

    Raises:
        MustScan: Nobody can tell.
    """
    position, changes = _logged(place, answer.position), answer.changes
    return (
        position.has_base
        and position.lineage == key.lineage
        and len(changes) <= statements.MOST_CHANGES
        and all(change.row.id is not None for change in changes)
        and (place.found.is_certain or _is_confirmed(place, answer))
    )


def _is_confirmed(place: Place, answer: Answer) -> bool:
    """Return whether the collection's row, which was a guess, would be found just so.

    The statement has compared its name and its model. Its vectors had one length, or `_base` would
    have refused the state, and have it still if those written since do.
    """
    written = [change.row.embedding for change in answer.changes if change.is_there]
    have_it = not written or are_vectors(written, place.dimensions * ITEM_BYTES)
    return answer.position.has_collection and have_it


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

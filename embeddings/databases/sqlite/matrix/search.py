"""The search: screen in memory, score exactly from the database, and prove that it was current.

Nothing is asked before the screening. One statement then returns the candidates' rows together
with the position of the session in the change log, and so tells, of one snapshot, whether the
candidates were chosen from the rows that this session sees. Where they were not, what was written
since is taken into account; where that is much, or this is another history, the state in memory is
brought up to date or built anew; and where that cannot be, the rows are scanned.

The collection's row may be a remembered one, too: then the statement tells whether it holds, and if
it does not, the caller is to read it and to search again.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING

from sqlalchemy import Subquery, func, literal_column, select
from sqlalchemy.exc import OperationalError

from ....searching.entries import NotConfirmed, Ranking, ScoredRow
from ....searching.scan import are_vectors, decoders, scan_multi
from ....vectors import ITEM_BYTES
from ...status import Searched
from . import statements
from .build import (
    MustScan,
    NotKept,
    NotYet,
    TooLarge,
    catch_up,
    checked_position,
    dimensions_of,
    forget,
    warn_of_budget,
)
from .cache import CACHE, Key
from .kinds import MATRIX
from .rescore import Rescored
from .turns import is_loaded, is_read, turn, wait

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import ColumnElement

    from ....searching.query import Query
    from ....vectors import Float64
    from ....work.operation import Work
    from .kinds import Chooser, Kind
    from .state import Mark, State
    from .statements import Answer, Position
    from .turns import Reader

ATTEMPTS = 5  # at a search from memory, before the rows are scanned
MOST_INVALID = 100  # rows that cannot be compared: each search reads them, to warn of them
FIRST_PARTS = 16  # of a scan, after which it ends even if others wait for it
ESTIMATES_PER_BLOCK = 2**22  # rows times queries whose products are held at a time
FETCHED_ROWS = 500  # candidates that are always few enough to be fetched
FETCHED_SHARE = 8  # one in this many rows of the collection is few enough, too
BYTES_PER_PIECE = 8_000  # of memory that are compared with a query in a microsecond
ROWS_PER_PIECE = 8  # in memory, of which it is looked up in a microsecond whether they are meant
FEW_KEYS = 1_000  # of the host's, for whose rows alone nothing is loaded
KEYS_SHARE = 48  # the host's keys are read at once if they are one in this many rows, or fewer


def search(work: Work, vector: Float64, query: Query, kind: Kind = MATRIX) -> Ranking:
    """Return the rows nearest to the vector, from what is in memory; by default as `scan` does."""
    return search_multi(work, [vector], query, kind)[0]


def search_multi(
    work: Work, vectors: Sequence[Float64], query: Query, kind: Kind = MATRIX
) -> list[Ranking]:
    """Return the rows nearest to each of the vectors; the rows in memory are read once for all.

    Args:
        work: What its session sees is searched. Nothing is written.
        vectors: Each of shape (dimensions,), from `as_query`.
        query: How many, and under which conditions.
        kind: What the rows in memory are packed as.

    Raises:
        InvalidVectorError: A vector has another length than those of the collection.
        NotConfirmed: The collection's row was remembered, and does not hold.

    Warns:
        CorruptVectorWarning: Rows whose vector cannot be compared were left out.
        MemoryBudgetWarning: The rows do not fit into memory; once for a collection.
    """
    results: list[Ranking] = []
    if _has_few_keys(work, query, kind):
        return scan_multi(work, list(vectors), query)
    filters = statements.filters_of_few(work, query)
    while rest := vectors[len(results) :]:
        block = _first_of(rest, work, kind)
        probes = kind.probes(block)
        for query_index in range(len(block)):
            ranking = _ranking(work, kind, probes, query_index, query, filters)
            if isinstance(ranking, NotKept):
                left = vectors[len(results) :]
                return results + _scanned(work, kind, left, query, str(ranking))
            results.append(ranking)
    return results


def _first_of(vectors: Sequence[Float64], work: Work, kind: Kind) -> list[Float64]:
    """Return the first vectors: of one length, as many as are compared with the rows at once."""
    latest = CACHE.latest(work, kind.name) if len(vectors) > 1 else None
    most = max(1, ESTIMATES_PER_BLOCK // (1 + len(latest[1].radii))) if latest else 1
    return list(takewhile(lambda vector: vector.size == vectors[0].size, vectors[:most]))


def _has_few_keys(work: Work, query: Query, kind: Kind) -> bool:
    """Return whether nothing is in memory, and the host selects few keys."""
    if not isinstance(query.among, Subquery) or CACHE.latest(work, kind.name) is not None:
        return False
    few = select(literal_column("1")).select_from(query.among).limit(FEW_KEYS + 1).subquery()
    return int(work.run(select(func.count()).select_from(few)).scalar_one()) <= FEW_KEYS


def _ranking(
    work: Work,
    kind: Kind,
    probes: Chooser,
    query_index: int,
    query: Query,
    filters: Sequence[ColumnElement[bool]],
) -> Ranking | NotKept:
    """Return the best rows, or why all searches have to scan.

    Raises:
        NotConfirmed: The collection's row was remembered, and does not hold.
    """
    is_first, why = True, ""
    while True:
        try:
            rows = _search(work, kind, probes, query_index, query, filters)
            return Ranking(rows, kind.is_exact)
        except MustScan as reason:
            if not work.row.is_certain:
                raise NotConfirmed from None
            why = str(reason)
            if isinstance(reason, TooLarge):
                warn_of_budget(work, reason, kind)
            if isinstance(reason, NotKept):
                return reason
            is_first = is_first and isinstance(reason, NotYet)
        if not is_first:
            vectors = probes.vectors[query_index : query_index + 1]
            return _scanned(work, kind, vectors, query, why)[0]
        is_first = False
        key = CACHE.reading_key(work, kind.name)
        if is_read(key):  # perhaps by a search that loads them
            wait(key, work.runtime)
            continue
        with suppress(_GivesWay):
            vectors = probes.vectors[query_index : query_index + 1]
            return _scanned(work, kind, vectors, query, why, gives_way=True)[0]


class _GivesWay(Exception):  # noqa: N818  no error: it ends a scan
    """Other searches have come, for which it pays to load the rows."""


def _scanned(
    work: Work,
    kind: Kind,
    vectors: Sequence[Float64] | Float64,
    query: Query,
    reason: str,
    *,
    gives_way: bool = False,
) -> list[Ranking]:
    """Return what a scan finds, when nobody else reads the collection's rows.

    Raises:
        _GivesWay: It was to give way, and others came soon after its beginning.
    """
    key = CACHE.reading_key(work, kind.name)
    while True:
        with turn(key, work.runtime) as reader:
            if reader is not None:

                def has_read(reader: Reader = reader) -> None:
                    reader.has_read()
                    if gives_way and reader.waiting and reader.parts <= FIRST_PARTS:
                        raise _GivesWay

                return scan_multi(work, list(vectors), query, reason, has_read)
        if not wait(key, work.runtime):
            return scan_multi(work, list(vectors), query, reason)


def _search(
    work: Work,
    kind: Kind,
    probes: Chooser,
    query_index: int,
    query: Query,
    filters: Sequence[ColumnElement[bool]],
) -> list[ScoredRow]:
    """Return the best rows.

    Raises:
        MustScan: Only a scan can tell.
    """
    dimensions = probes.vectors[query_index].size
    if not query.depth or work.row.vector_bytes != dimensions * ITEM_BYTES:
        raise MustScan("there is nothing to compare with")
    if dimensions > kind.most_dimensions:
        raise NotKept(f"vectors of over {kind.most_dimensions} dimensions are not kept in memory")
    for attempt in range(ATTEMPTS):
        key, state = _base(work, kind)
        waits = attempt == 0
        rows = _attempt(work, kind, key, state, probes, query_index, query, filters, waits=waits)
        if rows is not None:
            return rows
    raise MustScan("rows were written faster than they could be compared")


def _base(work: Work, kind: Kind) -> tuple[Key, State]:
    """Return a state to begin with.

    Raises:
        MustScan: There is none, or none that goes with a guess of the collection's row: with
            invalid rows, the collection may have vectors of another length by now.
    """
    latest = CACHE.latest(work, kind.name)
    if work.row.is_certain:
        return latest or catch_up(work, kind)
    if latest is None or latest[1].invalid:
        raise MustScan("the collection's row is not known for certain")
    return latest


def _attempt(
    work: Work,
    kind: Kind,
    key: Key,
    state: State,
    probes: Chooser,
    query_index: int,
    query: Query,
    filters: Sequence[ColumnElement[bool]],
    *,
    waits: bool,
) -> list[ScoredRow] | None:
    """Return the best rows, or None where the session sees others than those of the state.

    Whoever loads has seen that the state is out of date: to compare with it would be for nothing.
    It is waited for, if so asked.
    """
    if len(state.invalid) > MOST_INVALID:
        raise MustScan(f"{len(state.invalid)} rows hold no vector that can be compared")
    vector = probes.vectors[query_index]
    for view, depth, is_last in _views(work, kind, state, query, filters):
        most = max(FETCHED_ROWS, state.rows // FETCHED_SHARE)
        if query.min_score is None and is_last and min(depth, view.rows) > most:
            raise MustScan("most of the rows are wanted")
        wanted = None if is_last else query.depth
        choose = partial(probes.candidates, query_index, view, depth, query.min_score, wanted)
        read = sum(segment.nbytes for segment in view.segments) * len(probes.vectors)
        with work.runtime.turn():
            chosen = None
            if not waits or not is_loaded(key):
                chosen = work.runtime.compute(choose, read // BYTES_PER_PIECE)
        if chosen is None:
            wait(key, work.runtime)
            return None
        if len(chosen.ids) > most:
            if is_last:
                raise MustScan("most of the rows may be among the best")
            continue
        first = chosen.first_reads(query.depth)
        rescored = Rescored(vector, query, may_be_gone=not is_last)
        with _asked(
            work, kind, state, [*view.invalid, *chosen.ids], len(view.invalid) + first, filters
        ) as answer:
            holds = _holds(work, kind, key, answer)
            agrees = holds and rescored.read(answer, len(view.invalid), chosen, first)
        if not holds:
            if not work.row.is_certain and not answer.position.has_collection:
                forget(work, kind)
                raise MustScan("the name is another collection's, or nobody's")
            catch_up(work, kind, answer.position)
            return None
        if not agrees:
            if not filters:
                CACHE.forget(key)  # somebody wrote past the log
            return None
        if answer.changes:
            CACHE.put(key, _with_changes(work, kind, state, answer))
            if filters:
                return None  # other rows may meet the conditions now
        if rescored.are_best(chosen.floor):
            rescored.warn()
            work.searched = Searched(kind.name, state.rows, rescored.count)
            return _decoded(work, rescored)
        if answer.changes:
            return None
    return None


def _views(
    work: Work, kind: Kind, state: State, query: Query, filters: Sequence[ColumnElement[bool]]
) -> Iterator[tuple[State, int, bool]]:
    """Yield rows to choose from, how many of the best to choose, and whether that is the last try.

    What a filter keeps only the database can tell. Where it keeps much, it is enough to ask about
    some of the best; else for everything that it keeps.
    """
    view = state if query.prefix is None else kind.starting_with(state, query.prefix)
    if query.skip_id is not None:
        view = view.without([query.skip_id])
    if not filters:
        yield view, query.depth, True
        return
    among_only = statements.is_among_only(query)
    ids = None
    if among_only:
        most = max(FEW_KEYS, view.rows // KEYS_SHARE)
        ids = statements.ids_matching(work, query, filters, most)
    if ids is None:
        for depth in kind.trial_rows[:1] if among_only else kind.trial_rows:
            if query.depth <= depth // 2 and depth * kind.trial_share <= view.rows:
                yield view, depth, False
        ids = statements.ids_matching(work, query, filters)
    assert ids is not None  # noqa: S101  of any number
    found = ids
    pieces = len(ids) + len(view.radii) // ROWS_PER_PIECE
    yield work.runtime.compute(lambda: kind.only(view, found), pieces), query.depth, True


@contextmanager
def _asked(
    work: Work,
    kind: Kind,
    state: State,
    ids: list[str],
    first: int,
    filters: Sequence[ColumnElement[bool]],
) -> Iterator[Answer]:
    with (
        _log_may_be_gone(work, kind),
        statements.answer(work, state.mark, ids, first, filters) as answer,
    ):
        yield answer


@contextmanager
def _log_may_be_gone(work: Work, kind: Kind) -> Iterator[None]:
    """Raise MustScan where a statement in the block fails for want of the log."""
    try:
        yield
    except OperationalError as error:
        if "no such" in str(error.orig):  # not for a lock, which would be waited for again
            _checked_position(work, kind, statements.position(work))
        raise


def _checked_position(work: Work, kind: Kind, position: Position) -> Position:
    """Return what `checked_position` does; where it raises, no guess is made the next time."""
    try:
        return checked_position(position)
    except MustScan:
        forget(work, kind)
        raise


def _holds(work: Work, kind: Kind, key: Key, answer: Answer) -> bool:
    """Return whether the state, with the changes of the answer, is what the session sees.

    Raises:
        MustScan: Nobody can tell.
    """
    position, changes = _checked_position(work, kind, answer.position), answer.changes
    return (
        position.has_base
        and position.lineage == key.lineage
        and len(changes) <= statements.MOST_CHANGES
        and all(change.row.id is not None for change in changes)
        and (work.row.is_certain or _is_confirmed(work, answer))
    )


def _is_confirmed(work: Work, answer: Answer) -> bool:
    """Return whether the collection's row, which was a guess, would be found just so.

    The statement has compared its name and its model. Its vectors had one length, or `_base` would
    have refused the state, and have it still if those written since do.
    """
    written = [change.row.embedding for change in answer.changes if change.is_there]
    have_it = not written or are_vectors(written, dimensions_of(work) * ITEM_BYTES)
    return answer.position.has_collection and have_it


def _with_changes(work: Work, kind: Kind, state: State, answer: Answer) -> State:
    rows = [change.row for change in answer.changes if change.is_there]
    packer = kind.packer(dimensions_of(work))
    packer.add((row.id, row.embedding) for row in rows)
    changed = {change.row.id for change in answer.changes}
    mark: Mark = answer.position.mark  # type: ignore[assignment]  # a position that holds has one
    return state.patched(mark, changed, packer.segments(), packer.invalid)


def _decoded(work: Work, rescored: Rescored) -> list[ScoredRow]:
    as_content, as_metadata = decoders(work.records, work.dialect)
    return [
        ScoredRow(id, score, as_content(content), as_metadata(metadata))
        for (_, id, _, content, metadata, *_), score in rescored.ranked()
    ]

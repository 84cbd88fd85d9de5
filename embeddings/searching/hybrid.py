"""Search by meaning and by words: two rankings made one.

The rankings are fused by the ranks alone, for their scores are on different scales.
Source: Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion outperforms Condorcet and individual
Rank Learning Methods", SIGIR 2009; k = 60 is theirs.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from ..keys import chunk_owner
from ..vectors import cosine_scores
from . import grouping
from .entries import Ranking, ScoredRow
from .words import Term, no_index, terms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..vectors import Float64
    from ..work.operation import Work
    from .query import Query

K = 60  # of the fusion: the larger, the less the first few ranks stand out
MOST = 2**63 - 1  # that databases and Python count up to
POOL = 100  # of the best of each ranking that are fused first


def pools(query: Query) -> list[int]:
    """Return how many of the best of each ranking are fused: first, then twice as many, and so on.

    What is in neither ranking's first 100 comes after all that is in one of them, and by its ranks
    up to 200; and so on. So a place does not depend on how many are asked for, and pages fit.
    """
    sizes = [POOL]
    while sizes[-1] < min(query.depth, MOST):
        sizes.append(min(2 * sizes[-1], MOST))
    return sizes


def pool(query: Query) -> int:
    """Return how many of the best of each ranking are looked at."""
    return pools(query)[-1]


def sought_terms(work: Work, query: Query) -> list[Term]:
    """Return the words that are looked for in the text index.

    Raises:
        IndexingError: There is none.
    """
    words = query.words
    assert words is not None  # noqa: S101  the caller's condition
    if work.row.language is None:
        raise no_index(work.row.name)
    return terms(words.text or "", work.row.language)


def search(work: Work, vector: Float64, query: Query) -> Ranking:
    """Return the best by both rankings; the scores are cosine similarities. Reads only.

    Args:
        work: What its session sees is searched.
        vector: Shape (dimensions,), from `as_query`.
        query: With `words`.

    Raises:
        IndexingError: There is no text index.
    """
    words = query.words
    assert words is not None  # noqa: S101  the caller's condition
    most = pool(query)
    meaning = replace(query, number=most, offset=0, words=None)
    has_chunks = work.row.chunks is not None
    nearest = grouping.search if has_chunks else work.database.search
    ranking = nearest(work, vector, meaning) if words.weights[0] else Ranking([])
    near = [*ranking.rows]
    finding = _found_items if has_chunks else _found
    found = list(islice(finding(work, vector, meaning, query), most)) if words.weights[1] else []
    rows = {row.id: row for row in (*found, *near)}
    ranks: dict[str, list[int | None]] = {id: [None, None] for id in rows}
    for at, ranked in enumerate((near, found)):
        for rank, row in enumerate(ranked, 1):
            ranks[row.id][at] = rank
    blocks: dict[str, int] = {}
    sizes = pools(query)
    for id, both in ranks.items():
        block = blocks[id] = next(n for n in sizes if any(rank and rank <= n for rank in both))
        both[:] = [rank if rank and rank <= block else None for rank in both]

    def fused(id: str) -> float:
        pairs = zip(words.weights, ranks[id], strict=True)
        return sum(weight / (K + rank) for weight, rank in pairs if rank is not None)

    best = sorted(rows, key=lambda each: (blocks[each], -fused(each), each))
    return Ranking(
        [
            rows[id]._replace(ranks=(ranks[id][0], ranks[id][1]))
            for id in best[query.offset : query.depth]
        ],
        ranking.exact,
    )


def _found(work: Work, vector: Float64, meaning: Query, query: Query) -> Iterator[ScoredRow]:
    """Yield the rows that the words find, in the order of their ranking, with their scores."""
    for ids in _parts(work, meaning, query):
        rows = _rows(work, vector, meaning, ids)
        for id in ids:
            row = rows.get(id)
            if row is not None and (query.min_score is None or row.score >= query.min_score):
                yield row


def _found_items(work: Work, vector: Float64, meaning: Query, query: Query) -> Iterator[ScoredRow]:
    """Yield the items that the words find, by the first of their chunks that is found.

    Where the host ranks items, each is there by its nearest chunk.
    """
    words, vectors, seen = query.words, [vector, *query.also], set[str]()
    by_item = words is not None and words.ranking is not None
    of = work.item_id if by_item else work.records.embeddings.c.id
    for ids in _parts(work, meaning, query):
        is_found = work.database.is_one_of(of, ids)
        rows = grouping.read_chunks(work, vectors, is_found, *meaning.conditions(work))
        if by_item:
            rows = {chunk_owner(r.id): r for r in grouping.best_of_items(rows.values())}
        for id in ids:
            row = rows.get(id)
            if row is None or (query.min_score is not None and row.score < query.min_score):
                continue
            item = grouping.as_item(row)
            if item.id not in seen:
                seen.add(item.id)
                yield item


def _parts(work: Work, meaning: Query, query: Query) -> Iterator[list[str]]:
    """Yield the ids that the words find, some at a time, in the order of their ranking."""
    words = query.words
    assert words is not None  # noqa: S101  the caller's condition
    if words.ranking is None:
        is_bounded = query.min_score is None and work.row.chunks is None
        most = pool(query) if is_bounded else None
        ids = work.database.ids_with_words(work, sought_terms(work, query), meaning, most)
    else:
        key = work.database.key_as_text(words.ranking.c[0])
        ids = list(dict.fromkeys(work.run(select(key)).scalars()))
    size = pool(query)
    while ids:
        yield ids[:size]
        ids, size = ids[size:], size * 4


def _rows(work: Work, vector: Float64, query: Query, ids: list[str]) -> dict[str, ScoredRow]:
    """Return those of some rows that meet the conditions, scored."""
    columns = work.records.embeddings.c
    stored = work.database.vector_as_bytes(columns.embedding)
    statement = select(columns.id, stored, columns.content, columns.metadata).where(
        columns.collection_id == work.row.id,
        *query.conditions(work),
        work.database.is_one_of(columns.id, ids),
    )
    read: list[Any] = list(work.run(statement))
    matrix, is_whole = work.database.as_matrix([row[1] for row in read], vector.size)
    whole = [row for row, is_one in zip(read, is_whole.tolist(), strict=True) if is_one]
    scores = cosine_scores(matrix, vector).tolist()
    return {
        row[0]: ScoredRow(row[0], score, row[2], row[3])
        for row, score in zip(whole, scores, strict=True)
        if score == score  # no NaN
    }

"""Search in a collection with chunks: each item once, by its best chunk.

The rows are searched as those of any collection, deeper and deeper, until there are as many items
as are wanted and no further row can be among them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from ..keys import CHUNK_MARK, chunk_owner, split_chunk_id
from ..vectors import cosine_scores
from .conditions import items_starting_with
from .entries import Chunk, Ranking, ScoredRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement

    from ..vectors import Float64
    from ..work.operation import Work
    from .query import Query

ROWS_FOR_EACH = 4  # chunks that are looked at at first, for each item that is wanted
DEEPER = 8  # times as many are looked at next
ATTEMPTS = 3


def search(work: Work, vector: Float64, query: Query) -> Ranking:
    """Return the items nearest to the vector, best first, ties by id. Reads only.

    Args:
        work: What its session sees is searched.
        vector: Shape (dimensions,), from `as_query`.
        query: How many items, and under which conditions; of several vectors the nearest counts.
    """
    return search_multi(work, [vector], query)[0]


def search_multi(work: Work, vectors: Sequence[Float64], query: Query) -> list[Ranking]:
    """Return for each of the vectors what `search` returns."""
    return _rankings(work, [[vector, *query.also] for vector in vectors], query)


def _rankings(work: Work, sought: Sequence[list[Float64]], query: Query) -> list[Ranking]:
    """Return the items nearest to one of the vectors, for each list of vectors."""
    if not query.depth or not sought:
        return [Ranking([]) for _ in sought]
    rows = as_rows(work, query)
    # Two statements may see two snapshots; so what the second one reads has to agree.
    for attempt in range(ATTEMPTS):
        found = [_nearest(work, vectors, rows, query) for vectors in sought]
        rankings: list[Ranking] = []
        agree = True
        for vectors, (best, exact) in zip(sought, found, strict=True):
            ids = [row.id for row in best]
            is_one = work.database.is_one_of(work.records.embeddings.c.id, ids)
            read = read_chunks(work, vectors, is_one) if ids else {}
            agree &= all(row.id in read and read[row.id].score == row.score for row in best)
            rankings.append(Ranking([as_item(read[r.id]) for r in best if r.id in read], exact))
        if agree or attempt == ATTEMPTS - 1:
            break
    return rankings


def as_rows(work: Work, query: Query) -> Query:
    """Return a query about items as one about the rows of their chunks, of all items."""
    rows = replace(query, skip_id=None, offset=0, words=None, also=())
    if query.prefix is None or CHUNK_MARK not in query.prefix:
        return rows  # the ids of chunks begin as those of their items
    conditions = items_starting_with(work, query.prefix)
    return replace(rows, prefix=None, where=(*conditions, *(query.where or ())))


def _nearest(
    work: Work, vectors: Sequence[Float64], rows: Query, query: Query
) -> tuple[list[ScoredRow], bool]:
    """Return the best chunk of each of the best items, and whether these are so for certain."""
    depth = query.depth * ROWS_FOR_EACH
    while True:
        rankings = work.database.search_multi(work, vectors, replace(rows, number=depth))
        found = [[*ranking.rows] for ranking in rankings]
        best = best_of_items(row for ranked in found for row in ranked)
        best = [row for row in best if chunk_owner(row.id) != query.skip_id]
        lasts = [ranked[-1].score for ranked in found if len(ranked) >= depth]
        # A chunk that was not found scores no more than the last that was.
        is_enough = not lasts or (
            len(best) >= query.depth and best[query.depth - 1].score > max(lasts)
        )
        if is_enough:
            exact = all(ranking.exact for ranking in rankings)
            return best[query.offset : query.depth], exact
        depth *= DEEPER


def best_of_items(rows: Iterable[ScoredRow]) -> list[ScoredRow]:
    """Return the best chunk of each item, best first, ties by the item's id."""
    best: dict[str, tuple[float, int, ScoredRow]] = {}
    for row in rows:
        item, number = split_chunk_id(row.id)
        before = best.get(item)
        if before is None or (-row.score, number) < before[:2]:
            best[item] = -row.score, number, row
    ordered = sorted(best.items(), key=lambda pair: (pair[1][0], pair[0]))
    return [row for _, (_, _, row) in ordered]


def as_item(row: ScoredRow) -> ScoredRow:
    """Return the row of a chunk as that of its item."""
    return row._replace(id=chunk_owner(row.id))


def read_chunks(
    work: Work, vectors: Sequence[Float64], *conditions: ColumnElement[bool]
) -> dict[str, ScoredRow]:
    """Return rows of chunks by their ids, scored, with the contents of their items.

    Args:
        work: Of a collection with chunks.
        vectors: The score is that of the nearest.
        *conditions: About the rows.
    """
    columns, database = work.records.embeddings.c, work.database
    parts, firsts = database.parts(work), database.parts(work).alias("firsts")
    is_first = database.item_of(columns.id).concat(f"{CHUNK_MARK}0")
    statement = (
        select(
            columns.id,
            database.vector_as_bytes(columns.embedding),
            columns.content,
            columns.metadata,
            parts.c.start,
            parts.c.end,
            firsts.c.item_content,
            firsts.c.item_chunks,
        )
        .select_from(
            work.records.embeddings.outerjoin(parts, parts.c.id == columns.id).outerjoin(
                firsts, firsts.c.id == is_first
            )
        )
        .where(columns.collection_id == work.row.id, *conditions)
    )
    read: list[Any] = list(work.run(statement))
    matrix, is_whole = database.as_matrix([row[1] for row in read], vectors[0].size)
    whole = [row for row, is_one in zip(read, is_whole.tolist(), strict=True) if is_one]
    scores = [cosine_scores(matrix, vector).tolist() for vector in vectors]
    found: dict[str, ScoredRow] = {}
    for at, (id, _, text, metadata, start, end, content, chunks) in enumerate(whole):
        score = max(each[at] for each in scores)
        chunk = Chunk(split_chunk_id(id)[1], start, end, text)
        whole_text = content if content is not None or chunks != 1 else text
        found[id] = ScoredRow(id, score, whole_text, metadata, None, chunk)
    return {id: row for id, row in found.items() if row.score == row.score}  # no NaN

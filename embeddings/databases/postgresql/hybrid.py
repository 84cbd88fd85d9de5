"""Search by meaning and by words in one statement: see `searching.hybrid`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Float,
    Integer,
    Select,
    case,
    func,
    literal_column,
    select,
    true,
    type_coerce,
)

from ...searching.entries import Ranking
from ...searching.hybrid import K, pools, sought_terms
from ...searching.query import MAX_LIMIT
from ...searching.scan import check_dimensions
from ..status import Searched
from . import search as nearest
from . import words
from .conditions import filters_of, is_of, limit, once
from .distances import as_sent, least_distance
from .types import PGVector

if TYPE_CHECKING:
    from sqlalchemy import Subquery

    from ...keys import Keys
    from ...searching.query import Query
    from ...vectors import Float64
    from ...work.operation import Work


def search(work: Work, vector: Float64, query: Query) -> Ranking:
    """Return the best by both rankings. Arguments as in `search.search`; the query has `words`.

    Raises:
        IndexingError: There is no text index.
    """
    check_dimensions(work, vector.size)
    if not query.depth:
        return Ranking([])
    filters = filters_of(work, query)
    by_index = nearest.uses_index(work, query, filters)
    best = statement(work, vector.size, nearest.sought_of(query), query, by_index=by_index)
    rows = work.run(best, nearest.values_of(work, vector, query)).all()
    if not rows and not work.row.has_index:
        nearest.check_stored_dimensions(work, vector.size)
    is_exact = all(row.is_exact for row in rows)
    work.searched = Searched("database" if is_exact else "index")
    best_rows = [
        nearest.scored_row(row, (row.near, row.found), has_chunk=work.row.chunks is not None)
        for row in rows
    ]
    return Ranking(best_rows, is_exact)


def matches(work: Work, keys: Keys[Any], vector: Float64, query: Query) -> Subquery:
    """Return the search as a selectable with the columns `id`, `score` and `rank`."""
    check_dimensions(work, vector.size)
    work.searched = Searched("database", reason="as a part of your statement")
    if not work.row.has_index:
        nearest.check_stored_dimensions(work, vector.size)
    filters = filters_of(work, query)
    by_index = nearest.uses_index(work, query, filters)
    sought = [as_sent(each) for each in (vector, *query.also)]
    best = statement(work, vector.size, sought, query, by_index=by_index).subquery().c
    id = work.database.key_from_text(best.id, keys)
    return select(id.label("id"), best.score, best.rank).subquery()


def statement(
    work: Work,
    dimensions: int,
    sought: list[ColumnElement[Any]],
    query: Query,
    *,
    by_index: bool,
) -> Select[Any]:
    """Return the SELECT of the best: id, score, content, metadata, is_exact, near, found, rank.

    In a collection with chunks, with what `search.with_parts` has besides.

    Args:
        work: Of the collection.
        dimensions: Of the vectors.
        sought: The parameters of the vectors, of which the nearest counts.
        query: With `words`.
        by_index: Whether the vectors are searched by the index.
    """
    asked = query.words
    assert asked is not None  # noqa: S101  the caller's condition
    records, most = work.records, pools(query)[-1]
    columns = records.embeddings.c
    meaning = replace(query, number=most, offset=0, words=None)
    filters = filters_of(work, meaning)
    of_collection = is_of(records, work.row.id)
    has_chunks, of = work.row.chunks is not None, nearest.asked(work, dimensions, meaning).search()
    best_near = nearest.made(of._replace(is_bare=True), *sought, filters=filters, by_index=by_index)
    near = best_near.subquery("nearest").c
    near_cte = once(
        select(
            near.id,
            (near.chunk_id if has_chunks else near.id).label("row_id"),
            near.is_exact,
            func.row_number().over(order_by=(near.score.desc(), near.id)).label("rank"),
        ).where(true() if asked.weights[0] else literal_column("false"))
    )
    vector = type_coerce(columns.embedding, PGVector)
    apart = least_distance(vector, sought, dimensions)
    score: ColumnElement[float] = literal_column("1.0", Float) - apart
    further: ColumnElement[Any] = true() if query.min_score is None else score >= query.min_score
    found: Select[Any]
    if asked.ranking is not None:
        key = work.database.key_as_text(asked.ranking.c[0])
        compared = (work.item_id, apart) if has_chunks else (columns.id, columns.id)
        conditions = (of_collection, *filters.hashed(work.database, work.item_id))
        found = words.ranked_by_host(
            records, conditions, key, asked.ranking, further, most, compared=compared
        )
    else:
        terms = sought_terms(work, query) if asked.weights[1] else []
        number = MAX_LIMIT if has_chunks else most
        ways = filters.ways(work.database, of_collection, work.item_id)
        found = words.ranked(records, ways, terms, further, number) if terms else _none(work)
        if has_chunks:
            found = _first_of_items(work, found, most)
    if not asked.weights[1]:
        found = _none(work)
    found_cte = once(found)

    first = func.least(near_cte.c.rank, found_cte.c.rank)  # of those that are there
    *sizes, last = (literal_column(str(size), BigInteger) for size in pools(query))
    block: ColumnElement[int] = (
        case(*[(first <= n, n) for n in sizes], else_=last) if sizes else last
    )
    ranks = [case((of.c.rank <= block, of.c.rank)) for of in (near_cte, found_cte)]
    zero = literal_column("0.0", Float)
    weights = [literal_column(repr(weight), Float) for weight in asked.weights]
    fused: ColumnElement[Any] = sum(
        (
            func.coalesce(weight / (K + rank), zero)
            for weight, rank in zip(weights, ranks, strict=True)
        ),
        start=zero,
    )
    id = func.coalesce(near_cte.c.id, found_cte.c.id).label("id")
    best = (
        select(
            id,
            func.coalesce(near_cte.c.row_id, found_cte.c.row_id).label("row_id"),
            near_cte.c.is_exact,
            ranks[0].label("near"),
            ranks[1].label("found"),
            func.row_number()
            .over(order_by=(*([block] if sizes else []), fused.desc(), id))
            .label("rank"),
        )
        .select_from(near_cte.outerjoin(found_cte, near_cte.c.id == found_cte.c.id, full=True))
        .order_by(literal_column("rank"))
        .limit(limit(query.number))
        .offset(limit(query.offset))
        .cte()
    )
    others = (
        func.coalesce(best.c.is_exact, true()),
        *(type_coerce(rank, Integer) for rank in (best.c.near, best.c.found, best.c.rank)),
    )
    if has_chunks:
        items = nearest.with_parts(of, best.c.row_id, best.c.id, score, *others)
        return items.order_by(best.c.rank)
    return (
        select(
            columns.id,
            score.label("score"),
            columns.content,
            columns.metadata,
            *(each.label(name) for each, name in zip(others, nearest.OTHERS, strict=True)),
        )
        .join(best, best.c.id == columns.id)
        .where(of_collection)
        .order_by(best.c.rank)
    )


def _none(work: Work) -> Select[Any]:
    id = work.records.embeddings.c.id
    rank = literal_column("1", Integer).label("rank")
    rows = select(id, id.label("row_id"), rank)
    return rows.where(is_of(work.records, work.row.id), literal_column("false"))


def _first_of_items(work: Work, found: Select[Any], most: int) -> Select[Any]:
    """Return the SELECT of items of chunks that were found, each by the first of them."""
    row = found.subquery().c
    item = work.database.item_of(row.id).label("item")
    place = func.row_number().over(partition_by=item, order_by=row.rank).label("place")
    each = select(row.row_id, item, row.rank, place).subquery().c
    return (
        select(
            each.item.label("id"),
            each.row_id,
            func.row_number().over(order_by=each.rank).label("rank"),
        )
        .where(each.place == literal_column("1"))
        .order_by(each.rank)
        .limit(literal_column(str(most)))
    )

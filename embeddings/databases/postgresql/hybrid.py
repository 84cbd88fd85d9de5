"""Search by meaning and by words in one statement: see `searching.hybrid`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

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

from ...internals import Postponed
from ...searching.entries import Ranking
from ...searching.hybrid import K, pools, sought_terms
from ...searching.query import MAX_LIMIT
from ...searching.scan import check_dimensions
from ..status import Searched
from . import search as nearest
from . import words
from .conditions import Filters, filters_of, limit, once
from .distances import as_sent, least_distance
from .types import PGVector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Executable, Subquery

    from ...keys import Keys
    from ...searching.query import Query
    from ...tables.records import Records
    from ...vectors import Float64
    from ...work.operation import Work
    from ..base import Database


def search(work: Work, vector: Float64, query: Query) -> Ranking:
    """Return the best by both rankings. Arguments as in `search.search`; the query has `words`.

    Raises:
        IndexingError: There is no text index.
    """
    check_dimensions(work, vector.size)
    if not query.depth:
        return Ranking([])
    given, parts = _parts(work, vector.size, nearest.sought_of(query), query)
    best: Executable = Postponed(_statement, given, parts)
    if work.has_listeners:  # they are shown a SELECT
        best = _statement(given, parts)
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
    sought = [as_sent(each) for each in (vector, *query.also)]
    best = _statement(*_parts(work, vector.size, sought, query)).subquery().c
    id = work.database.key_from_text(best.id, keys)
    return select(id.label("id"), best.score, best.rank).subquery()


class Given(NamedTuple):
    """What the text of a statement depends on, besides the SQL that is in it."""

    database: Database
    records: Records
    dimensions: int
    has_chunks: bool
    by_index: bool
    """Whether the vectors are searched by the index."""
    weights: tuple[float, float]
    pools: tuple[int, ...]


def _parts(
    work: Work, dimensions: int, sought: list[ColumnElement[Any]], query: Query
) -> tuple[Given, Sequence[Sequence[Any]]]:
    """Return what `_statement` takes.

    Args:
        work: Of the collection.
        dimensions: Of the vectors.
        sought: The parameters of the vectors, of which the nearest counts.
        query: With `words`.
    """
    asked = query.words
    assert asked is not None  # noqa: S101  the caller's condition
    sizes = tuple(pools(query))
    meaning = replace(query, number=sizes[-1], offset=0, words=None)
    filters = filters_of(work, meaning)
    of = nearest.asked(work, dimensions, meaning)
    is_by_text = asked.ranking is None and asked.weights[1]
    terms = sought_terms(work, query) if is_by_text else []
    by_index = nearest.uses_index(work, query, filters)
    return Given(*of[:4], by_index, asked.weights, sizes), (
        (work.records.embeddings,),  # by which a session may know its bind
        tuple(number for number in of.numbers() if number is not None),
        (limit(query.number), limit(query.offset)),
        tuple(sought),
        filters.rows,
        () if filters.keys is None else (filters.keys,),
        () if asked.ranking is None else (asked.ranking,),
        words.queries(terms),
    )


def _statement(given: Any, parts: Sequence[Sequence[Any]]) -> Select[Any]:
    """Return the SELECT of the best: id, score, content, metadata, is_exact, near, found, rank.

    In a collection with chunks, with what `search.with_parts` has besides.
    """
    database, records, dimensions, has_chunks, by_index, weights, sizes = given
    _, numbers, (number, offset), sought, rows, keys, ranking, terms = parts
    of = nearest.Search(database, records, dimensions, has_chunks, nearest.Numbers(*numbers))
    filters = Filters(tuple(rows), *keys)
    columns, most = records.embeddings.c, sizes[-1]
    best_near = nearest.made(of._replace(is_bare=True), *sought, filters=filters, by_index=by_index)
    near = best_near.subquery("nearest").c
    near_cte = once(
        select(
            near.id,
            (near.chunk_id if has_chunks else near.id).label("row_id"),
            near.is_exact,
            func.row_number().over(order_by=(near.score.desc(), near.id)).label("rank"),
        ).where(true() if weights[0] else literal_column("false"))
    )
    vector = type_coerce(columns.embedding, PGVector)
    apart = least_distance(vector, sought, dimensions)
    score: ColumnElement[float] = literal_column("1.0", Float) - apart
    least = of.numbers.min_score
    further: ColumnElement[Any] = true() if least is None else score >= least
    found = _none(of)
    if ranking and weights[1]:
        key = database.key_as_text(ranking[0].c[0])
        compared = (of.item_id, apart) if has_chunks else (columns.id, columns.id)
        conditions = (of.is_ours, *filters.hashed(database, of.item_id))
        found = words.ranked_by_host(
            records, conditions, key, ranking[0], further, most, compared=compared
        )
    elif terms:
        ways = filters.ways(database, of.is_ours, of.item_id)
        found = words.ranked(records, ways, terms, further, MAX_LIMIT if has_chunks else most)
        if has_chunks:
            found = _first_of_items(database, found, most)
    found_cte = once(found)

    first = func.least(near_cte.c.rank, found_cte.c.rank)  # of those that are there
    *others, last = (literal_column(str(size), BigInteger) for size in sizes)
    block: ColumnElement[int] = (
        case(*[(first <= n, n) for n in others], else_=last) if others else last
    )
    ranks = [case((of.c.rank <= block, of.c.rank)) for of in (near_cte, found_cte)]
    zero = literal_column("0.0", Float)
    fused: ColumnElement[Any] = sum(
        (
            func.coalesce(literal_column(repr(weight), Float) / (K + rank), zero)
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
            .over(order_by=(*([block] if others else []), fused.desc(), id))
            .label("rank"),
        )
        .select_from(near_cte.outerjoin(found_cte, near_cte.c.id == found_cte.c.id, full=True))
        .order_by(literal_column("rank"))
        .limit(number)
        .offset(offset)
        .cte()
    )
    further_columns = (
        func.coalesce(best.c.is_exact, true()),
        *(type_coerce(rank, Integer) for rank in (best.c.near, best.c.found, best.c.rank)),
    )
    if has_chunks:
        items = nearest.with_parts(of, best.c.row_id, best.c.id, score, *further_columns)
        return items.order_by(best.c.rank)
    return (
        select(
            columns.id,
            score.label("score"),
            columns.content,
            columns.metadata,
            *(each.label(name) for each, name in zip(further_columns, nearest.OTHERS, strict=True)),
        )
        .join(best, best.c.id == columns.id)
        .where(of.is_ours)
        .order_by(best.c.rank)
    )


def _none(of: nearest.Search) -> Select[Any]:
    id = of.records.embeddings.c.id
    rank = literal_column("1", Integer).label("rank")
    return select(id, id.label("row_id"), rank).where(of.is_ours, literal_column("false"))


def _first_of_items(database: Database, found: Select[Any], most: int) -> Select[Any]:
    """Return the SELECT of items of chunks that were found, each by the first of them."""
    row = found.subquery().c
    item = database.item_of(row.id).label("item")
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

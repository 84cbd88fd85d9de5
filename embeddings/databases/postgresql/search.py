"""Search in PostgreSQL by pgvector's operator: exact, or from the collection's HNSW index."""

from __future__ import annotations

import functools
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    Boolean,
    ClauseElement,
    ColumnElement,
    Executable,
    Float,
    Integer,
    Select,
    Subquery,
    Text,
    bindparam,
    case,
    func,
    literal,
    literal_column,
    select,
    true,
    type_coerce,
)
from sqlalchemy.ext.compiler import compiles

from ...searching.query import Query, Ranking, ScoredRow
from ...searching.scan import check_dimensions
from ...vectors import ITEM_BYTES
from ..status import Searched
from .drivers import vector_writer
from .index import distance
from .types import PGJSON, PGVector, as_jsonb, to_pgvector_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.sql.compiler import SQLCompiler

    from ...keys import Keys
    from ...tables.records import Records
    from ...values import Metadata
    from ...vectors import Float64
    from ...work import Work

LARGEST = 2**63 - 1  # number that LIMIT and OFFSET take
MAX_CANDIDATES = 20_000  # that an index scan looks at, by pgvector's hnsw.max_scan_tuples
EF_SEARCH, MAX_EF_SEARCH = 200, 1_000  # candidates of an index scan; pgvector's own default is 40
STORED_APART = 1_900  # bytes of a vector from which PostgreSQL keeps it in another table (TOAST)
SPARE, SPARE_FILTERED = 2, 10  # candidates that are scored exactly, for each result wanted
SOUGHT: ColumnElement[Any] = bindparam("sought", type_=PGVector())
FEW = 10_000  # rows that are read sooner than found in a graph of more


def search(work: Work, vector: Float64, query: Query) -> Ranking:
    """Return the rows nearest to the vector, best first, ties by id. Reads only.

    An index of the collection is used unless the query asks for exact results, or it yields fewer
    than asked for. It finds candidates; the scores are those of the stored vectors.

    Args:
        work: What its session sees is searched.
        vector: Shape (dimensions,), from `as_query`.
        query: How many, and under which conditions.

    Raises:
        InvalidVectorError: The vector has another length than those of the collection.
    """
    check_dimensions(work, vector.size)
    if not query.depth:
        return Ranking([])
    conditions = query.conditions(work)
    reason = None
    send = vector_writer(work.connection)
    sought = {"sought": send(vector.astype("f4"))}
    settings = work.row.search_settings
    if settings is not None and _may_use_index(work, query, conditions):
        parameters = _parameters(settings, query)
        statement = _built(_nearly_and_settings, work, vector.size, query, conditions)
        nearest = work.run(statement, sought | parameters).all()
        if not nearest:
            work.run(select(*_END), parameters)
        # Fewer candidates than wanted: the index has given up, or does not hold all that match.
        elif nearest[0].candidates == _candidates(query):
            best = [ScoredRow(*row[:4]) for row in nearest[query.offset :]]
            least = -2.0 if query.min_score is None else query.min_score
            work.searched = Searched("index", candidates=_candidates(query))
            return Ranking([row for row in best if row.score >= least], exact=False)
        reason = "the index gave fewer candidates than wanted"
    work.searched = Searched("database", reason=reason)
    statement = _built(_exactly, work, vector.size, query, conditions)
    return Ranking([ScoredRow(*row) for row in work.run(statement, sought)])


def _built(
    make: Callable[..., Select[Any]],
    work: Work,
    dimensions: int,
    query: Query,
    conditions: Sequence[ColumnElement[bool]],
) -> Select[Any]:
    """Return the statement for the parameter `sought`, kept for the next time where it is plain."""
    if conditions:
        return make(work.records, work.row.id, SOUGHT, dimensions, query, conditions)
    return _kept(make, work.records, work.row.id, dimensions, query)


@functools.lru_cache(maxsize=256)
def _kept(
    make: Callable[..., Select[Any]],
    records: Records,
    collection_id: int,
    dimensions: int,
    query: Query,
) -> Select[Any]:
    return make(records, collection_id, SOUGHT, dimensions, query, ())


def matches(work: Work, keys: Keys[Any], vector: Float64, query: Query) -> Subquery:
    """Return the search as a selectable with the columns `id` and `score`, for the host to join.

    It is exact unless the query says `exact=False`; then an index of the collection serves it,
    under the host's own `hnsw.ef_search`, which also limits how many there can be.
    """
    check_dimensions(work, vector.size)
    work.searched = Searched("database", reason="as a part of your statement")
    sought = bindparam(None, vector.astype("f4"), _Sent())
    has_index = work.row.search_settings is not None
    make = _nearly if query.exact is False and has_index else _exactly
    conditions = query.conditions(work)
    best = make(work.records, work.row.id, sought, vector.size, query, conditions).subquery()
    id = work.database.key_from_text(best.c.id, keys)
    statement = select(id.label("id"), best.c.score)
    if make is _nearly:
        statement = statement.order_by(best.c.score.desc(), best.c.id).offset(query.offset)
        if query.min_score is not None:
            statement = statement.where(best.c.score >= query.min_score)
    return statement.subquery()


def contains(metadata: ColumnElement[Any], value: Metadata) -> ColumnElement[bool]:
    """Return the condition that JSONB contains a value."""
    parameter = literal(as_jsonb(json.dumps(value)), PGJSON)
    return type_coerce(metadata, PGJSON).op("@>", return_type=Boolean())(parameter)


class _Sent(PGVector):
    """A float32 array as a parameter: in text, because the host executes the statement."""

    cache_ok = True

    def bind_processor(self, dialect: Any) -> Any:
        """Return what makes the array a text."""
        return to_pgvector_text


def _of(records: Records, collection_id: int) -> ColumnElement[bool]:
    # A literal: PostgreSQL takes a partial index only if it can prove that it covers the query.
    return records.embeddings.c.collection_id == literal_column(str(collection_id))


def _limit(number: int) -> ColumnElement[int]:
    # A literal, or a plan for any number is made, in which an index does not pay.
    return literal_column(str(min(number, LARGEST)))


def _cosine_distance(
    vector: ColumnElement[Any], sought: ColumnElement[Any], dimensions: int
) -> ColumnElement[float]:
    """Return the SQL of 1 - cosine; 1 for a zero vector, NULL for one of other dimensions."""
    # pgvector sums squares in single precision, which lose their meaning far from 1.
    squared = -vector.op("<#>", return_type=Float)(vector)
    apart = case(
        (
            squared.between(literal_column("1e-30"), literal_column("1e30")),
            vector.op("<=>")(sought),
        ),
        else_=func.l2_normalize(vector).op("<=>")(sought),
    )
    return case(
        # It raises on vectors of different dimensions.
        (
            func.vector_dims(vector) == literal_column(str(dimensions)),
            func.coalesce(func.nullif(apart, literal_column("'NaN'::float8")), literal_column("1")),
        )
    )


def _exactly(
    records: Records,
    collection_id: int,
    sought: ColumnElement[Any],
    dimensions: int,
    query: Query,
    conditions: Sequence[ColumnElement[bool]],
) -> Select[Any]:
    rows = _rows_of(records, collection_id, dimensions, conditions)
    apart = _cosine_distance(rows.embedding, sought, dimensions).label("distance")
    best = (
        rows.select.add_columns(apart)
        .order_by(apart, rows.id)
        .limit(_limit(query.number))
        .offset(_limit(query.offset))
        .subquery()
    )
    return _scored(best, best.c.distance, query.min_score)


class _Rows(NamedTuple):
    """The rows to score: a SELECT of id, content and metadata, and expressions for it."""

    select: Select[Any]
    id: ColumnElement[str]
    embedding: ColumnElement[Any]


def _rows_of(
    records: Records,
    collection_id: int,
    dimensions: int,
    conditions: Sequence[ColumnElement[bool]],
) -> _Rows:
    columns = records.embeddings.c
    vector = type_coerce(columns.embedding, PGVector)
    rows = select(columns.id, columns.content, columns.metadata).where(
        _of(records, collection_id), *conditions
    )
    if dimensions * ITEM_BYTES < STORED_APART:
        return _Rows(rows, columns.id, vector)
    # Fetched once, by pgvector's cast to any number of dimensions, and not by each function that
    # it is given to. OFFSET 0 keeps the planner from merging the two again.
    any_number, explicit = literal_column("-1", Integer), literal_column("true", Boolean)
    fetched = func.vector(vector, any_number, explicit, type_=PGVector()).label("embedding")
    inner = rows.add_columns(fetched).offset(_limit(0)).subquery()
    outer = select(inner.c.id, inner.c.content, inner.c.metadata)
    return _Rows(outer, inner.c.id, inner.c.embedding)


def _may_use_index(work: Work, query: Query, conditions: Sequence[ColumnElement[bool]]) -> bool:
    """Return whether an index could pay: not if exactness is asked for, or few rows match.

    A graph is walked from neighbour to neighbour, and the few that a filter lets through are far
    apart in it: reading them all is faster, and exact. How many there are is PostgreSQL's estimate.
    """
    if query.exact is True or _candidates(query) > MAX_CANDIDATES:
        return False
    if not conditions:
        return True
    id = work.records.embeddings.c.id
    matching = select(id).where(_of(work.records, work.row.id), *conditions)
    plan: str = work.run(Explain(matching)).scalars().all()[0]
    return int(re.findall(r"rows=(\d+)", plan)[0]) > FEW


class Explain(Executable, ClauseElement):
    """EXPLAIN of a statement: its plan, a line a row."""

    inherit_cache = False

    def __init__(self, statement: Select[Any]) -> None:
        self.statement = statement


@compiles(Explain, "postgresql")
def _explain(element: Explain, compiler: SQLCompiler, **options: Any) -> str:
    return f"EXPLAIN {compiler.process(element.statement, **options)}"


def _candidates(query: Query) -> int:
    return (SPARE_FILTERED if query.has_conditions else SPARE) * query.depth


def _nearly(
    records: Records,
    collection_id: int,
    sought: ColumnElement[Any],
    dimensions: int,
    query: Query,
    conditions: Sequence[ColumnElement[bool]],
) -> Select[Any]:
    columns = records.embeddings.c
    vector = type_coerce(columns.embedding, PGVector)
    nearest = (
        select(columns.id, columns.content, columns.metadata, vector.label("embedding"))
        .where(_of(records, collection_id), *conditions)
        .order_by(distance(vector, sought, dimensions))
        .limit(_limit(_candidates(query)))
        .subquery()
    )
    apart = _cosine_distance(nearest.c.embedding, sought, dimensions).label("distance")
    count = func.count().over().label("candidates")
    best = (
        select(nearest.c.id, nearest.c.content, nearest.c.metadata, apart, count)
        .order_by(apart, nearest.c.id)
        .limit(_limit(query.depth))
        .subquery()
    )
    return _scored(best, best.c.distance, None).add_columns(best.c.candidates)


def _scored(best: Subquery, apart: ColumnElement[float], min_score: float | None) -> Select[Any]:
    score: ColumnElement[float] = literal_column("1.0", Float) - apart
    statement = (
        select(best.c.id, score.label("score"), best.c.content, best.c.metadata)
        .where(apart.is_not(None))
        .order_by(apart, best.c.id)
    )
    return statement if min_score is None else statement.where(score >= min_score)


# The settings of a search by the index. They are put back: the transaction may be the host's.
_SETTINGS = ("ef_search", "iterative_scan")
_BEGIN = tuple(
    select(func.set_config(f"hnsw.{name}", bindparam(f"new_{name}", type_=Text), true()))
    .scalar_subquery()
    .is_not(None)
    for name in _SETTINGS
)
_END = tuple(
    func.set_config(f"hnsw.{name}", bindparam(f"old_{name}", type_=Text), true())
    for name in _SETTINGS
)


def _parameters(settings: str, query: Query) -> dict[str, str | None]:
    candidates = min(MAX_EF_SEARCH, max(EF_SEARCH, _candidates(query)))
    old = [value or None for value in settings.split("|")]
    return {
        "new_ef_search": str(candidates),
        "new_iterative_scan": "relaxed_order",
        **{f"old_{name}": value for name, value in zip(_SETTINGS, old, strict=True)},
    }


def _nearly_and_settings(
    records: Records,
    collection_id: int,
    sought: ColumnElement[Any],
    dimensions: int,
    query: Query,
    conditions: Sequence[ColumnElement[bool]],
) -> Select[Any]:
    # A condition about no column is looked at before the index is read; and it has been read when
    # the first row comes out of the sorted subquery.
    all_of_it = (*conditions, *_BEGIN)
    statement = _nearly(records, collection_id, sought, dimensions, query, all_of_it)
    return statement.add_columns(*_END)

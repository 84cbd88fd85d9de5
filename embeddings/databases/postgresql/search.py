"""Search in PostgreSQL by pgvector's operator: exact, or from the collection's HNSW index."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    CTE,
    Boolean,
    ClauseElement,
    ColumnElement,
    CompoundSelect,
    Executable,
    Float,
    Integer,
    Select,
    Subquery,
    Text,
    and_,
    bindparam,
    case,
    column,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    type_coerce,
    union_all,
)
from sqlalchemy.ext.compiler import compiles

from ...internals import Postponed
from ...keys import chunk_id, split_chunk_id
from ...searching.entries import Chunk, NotConfirmed, Ranking, Ranks, ScoredRow
from ...searching.scan import check_dimensions
from ...values import load_metadata
from ...vectors import ITEM_BYTES
from ..status import Searched
from . import parts
from .conditions import (
    FEW_KEYS,
    Filters,
    among_of,
    constant,
    filters_of,
    is_of,
    limit,
    once,
)
from .distances import as_sent, least_distance
from .drivers import vector_writer
from .index import Sized, distance, has_dimensions
from .rows import is_one_of, vector_bytes_of
from .types import PGVector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.sql.compiler import SQLCompiler

    from ...keys import Keys
    from ...searching.query import Query
    from ...tables.records import Records
    from ...values import Metadata
    from ...vectors import Float64
    from ...work.operation import Work
    from ..base import Database

MAX_CANDIDATES = 20_000  # that an index scan looks at, by pgvector's hnsw.max_scan_tuples
EF_SEARCH, MAX_EF_SEARCH = 200, 1_000  # candidates of an index scan; pgvector's own default is 40
STORED_APART = 1_900  # bytes of a vector from which PostgreSQL keeps it in another table (TOAST)
SPARE, SPARE_FILTERED = 2, 10  # candidates that are scored exactly, for each result wanted
SPARE_CHUNKS, FEWEST_CHUNKS = 20, 500  # the same where the results are items, by their best chunks
SPARE_SIGNS = 20  # where the index has the signs alone
SOUGHT: ColumnElement[Any] = bindparam("sought", type_=PGVector(), required=False)
FEW = 10_000  # rows, by PostgreSQL's estimate, that are read sooner than found in a graph of more


class Found(NamedTuple):
    """A row that a statement returns."""

    id: str
    score: float
    content: str | None
    metadata: Metadata | None
    is_exact: bool


class Numbers(NamedTuple):
    """The numbers in a statement, as SQL that is the same for all numbers."""

    collection_id: ColumnElement[int]
    number: ColumnElement[int]
    offset: ColumnElement[int]
    depth: ColumnElement[int]
    candidates: ColumnElement[int]
    """How many rows an index is to find, whose exact scores are then compared."""
    ef_search: ColumnElement[str]
    min_score: ColumnElement[float] | None = None


class Asked(NamedTuple):
    """What is asked for, besides the vector and the conditions."""

    database: Database
    records: Records
    dimensions: int
    chunks: bool
    """Whether the rows are chunks, of which the best of each item counts."""
    collection_id: int
    number: int
    offset: int
    min_score: float | None
    candidates: int

    def numbers(self) -> Numbers:
        """Return its numbers, as constants of the text."""
        return Numbers(
            constant(self.collection_id),
            limit(self.number),
            limit(self.offset),
            limit(self.number + self.offset),
            constant(self.candidates),
            constant(str(min(MAX_EF_SEARCH, max(EF_SEARCH, self.candidates))), Text()),
            *(() if self.min_score is None else (literal(self.min_score, Float),)),
        )

    def search(self) -> Search:
        """Return what a statement is made of."""
        return Search(*self[:4], self.numbers())


class Search(NamedTuple):
    """What a statement is made of, besides the vector and the conditions: see `Asked`."""

    database: Database
    records: Records
    dimensions: int
    chunks: bool
    numbers: Numbers
    is_bare: bool = False
    """Whether of chunks no more is wanted than what they are and how near."""

    @property
    def item_id(self) -> ColumnElement[str]:
        """The SQL of the stored id of a row's item."""
        id = self.records.embeddings.c.id
        return self.database.item_of(id) if self.chunks else id

    @property
    def is_ours(self) -> ColumnElement[bool]:
        """The condition that a row is of the collection."""
        return self.records.embeddings.c.collection_id == self.numbers.collection_id


def search(work: Work, vector: Float64, query: Query) -> Ranking:
    """Return the rows nearest to the vector, best first, ties by id. Reads only.

    An index of the collection is used unless the query asks for exact results, few rows match, or
    it yields fewer than asked for. It finds candidates; the scores are those of the stored vectors.

    Args:
        work: What its session sees is searched.
        vector: Shape (dimensions,), from `as_query`.
        query: How many, and under which conditions.

    Raises:
        InvalidVectorError: The vector has another length than those of the collection.
        NotConfirmed: The collection's row was remembered, and nothing was found with it.
    """
    if not work.row.is_certain and vector.size * ITEM_BYTES != work.row.vector_bytes:
        raise NotConfirmed
    check_dimensions(work, vector.size)
    if not query.depth:
        return Ranking([])
    values = values_of(work, vector, query)
    if query.skip_id is not None:
        values["skip_id"] = query.skip_id
    if not work.row.is_certain:
        row = work.row
        values |= {"called": row.name, "model_id": row.model_id, "cut_as": row.chunks}
    rows = _rows_found(work, vector.size, query, values)
    if not rows and not work.row.is_certain:
        raise NotConfirmed
    if not rows and not work.row.has_index:
        check_stored_dimensions(work, vector.size)
    is_exact = not rows or rows[0].is_exact
    work.searched = (
        Searched("database") if is_exact else Searched("index", candidates=_candidates(work, query))
    )
    return Ranking(
        [scored_row(row, has_chunk=work.row.chunks is not None) for row in rows], is_exact
    )


def values_of(work: Work, vector: Float64, query: Query) -> dict[str, Any]:
    """Return the values of the parameters of vectors."""
    send = vector_writer(work.connection)
    also = {also_name(at): send(other.astype("f4")) for at, other in enumerate(query.also)}
    return also | {"sought": send(vector.astype("f4"))}


def sought_of(query: Query) -> list[ColumnElement[Any]]:
    """Return the parameters of the vectors that a query is about."""
    also = (bindparam(also_name(at), type_=PGVector()) for at in range(len(query.also)))
    return [SOUGHT, *also]


def also_name(at: int) -> str:
    """Return the name of the parameter of a further vector."""
    return f"also_{at}"


def scored_row(row: Any, ranks: Ranks | None = None, *, has_chunk: bool) -> ScoredRow:
    """Return what a row of a statement says."""
    chunk = None
    if has_chunk:
        number = split_chunk_id(row.chunk_id)[1]
        chunk = Chunk(number, row.start, row.end, row.chunk_text)
    return ScoredRow(row.id, row.score, row.content, row.metadata, ranks, chunk)


def _rows_found(work: Work, dimensions: int, query: Query, values: dict[str, Any]) -> Sequence[Any]:
    """Return (id, score, content, metadata, is_exact) of the best rows.

    To put a statement together takes longer than all else that is done here, and to have SQLAlchemy
    prepare it takes longer than to execute it: both are kept if they can be.
    """
    search = asked(work, dimensions, query)
    statement: Executable
    if query.where is None and query.prefix is None and query.among is None and not query.also:
        statement = _kept(search, _may_use_index(work, query), _always(work, query))
        if not work.has_listeners and not search.chunks:
            found: Sequence[Any] = work.run_kept(statement, values).all()
            return [
                Found(id, score, content, metadata and load_metadata(metadata), is_exact)
                for id, score, content, metadata, is_exact in found
            ]
    else:
        statement = _with_conditions(work, search, query)
        if work.has_listeners:  # they are shown a SELECT
            statement = statement.whole
    return work.run(statement, values).all()


def matches(work: Work, keys: Keys[Any], vector: Float64, query: Query) -> Subquery:
    """Return the search as a selectable with the columns `id` and `score`, for the host to join.

    It uses an index where `search` would, and with `exact=False` also where that may not pay.
    """
    if not work.row.is_certain:
        raise NotConfirmed  # when the host executes it, it is too late to look again
    check_dimensions(work, vector.size)
    work.searched = Searched("database", reason="as a part of your statement")
    if not work.row.has_index:
        check_stored_dimensions(work, vector.size)
    sought = [as_sent(each) for each in (vector, *query.also)]
    filters = filters_of(work, query)
    by_index = uses_index(work, query, filters)
    search = asked(work, vector.size, query)
    return _postponed(search, sought, filters, by_index=by_index, keys=keys).subquery()


def check_stored_dimensions(work: Work, dimensions: int) -> None:
    """Do nothing if the rows of a collection without an index have vectors of these dimensions."""
    work.row = work.row._replace(vector_bytes=vector_bytes_of(work, work.row.id))
    check_dimensions(work, dimensions)


def asked(work: Work, dimensions: int, query: Query) -> Asked:
    """Return what a query asks for."""
    of = (work.database, work.records, dimensions, work.row.chunks is not None, work.row.id)
    return Asked(*of, query.number, query.offset, query.min_score, _candidates(work, query))


def _with_conditions(work: Work, search: Asked, query: Query) -> Postponed:
    """Return the statement of a query with conditions, for the parameters of `_always`."""
    filters = filters_of(work, query)
    by_index = _may_use_index(work, query) and _pays(work, query, filters)
    if not work.row.is_certain:
        filters = filters._replace(rows=(*filters.rows, _is_confirmed(search.search())))
    return _postponed(search, sought_of(query), filters, by_index=by_index)


ID = column("id", Text)


def _postponed(
    asked: Asked,
    sought: Sequence[ColumnElement[Any]],
    filters: Filters,
    *,
    by_index: bool,
    keys: Keys[Any] | None = None,
) -> Postponed:
    """Return what `made` does, put together only where SQLAlchemy has no text of it yet.

    With the type of the host's keys it is of the columns id and score.
    """
    id = None if keys is None else asked.database.key_from_text(ID, keys)
    return Postponed(
        _of_parts,
        (*asked[:4], by_index),
        (
            (asked.records.embeddings,),  # by which a session may know its bind
            tuple(number for number in asked.numbers() if number is not None),
            tuple(sought),
            filters.rows,
            () if filters.keys is None else (filters.keys,),
            () if id is None else (id,),
        ),
        () if id is None else (column("id", id.type), column("score", Float)),
    )


def _of_parts(given: tuple[Any, ...], parts: Sequence[Sequence[Any]]) -> Select[Any]:
    database, records, dimensions, chunks, by_index = given
    _, numbers, sought, rows, keys, id = parts
    search = Search(database, records, dimensions, chunks, Numbers(*numbers))
    statement = made(search, *sought, filters=Filters(tuple(rows), *keys), by_index=by_index)
    if not id:
        return statement
    best = statement.subquery()
    return select(id[0].label("id"), best.c.score).select_from(best)


class Always(NamedTuple):
    """Conditions of a statement that is kept.

    Attributes:
        skips: But the item of the parameter `skip_id`.
        confirms: Only if the collection's row is that of the parameters `called` and `model_id`.
    """

    skips: bool
    confirms: bool

    def of(self, search: Search) -> tuple[ColumnElement[bool], ...]:
        """Return them."""
        skip_id = bindparam("skip_id", type_=Text, required=False)
        skipped = (search.item_id != skip_id,) if self.skips else ()
        return (*skipped, _is_confirmed(search)) if self.confirms else skipped


def _always(work: Work, query: Query) -> Always:
    return Always(query.skip_id is not None, not work.row.is_certain)


def _is_confirmed(search: Search) -> ColumnElement[bool]:
    """Return the condition that the collection's row, which was remembered, is there.

    It is about no row of embeddings: PostgreSQL evaluates it once, before it reads any.
    """
    columns = search.records.collections.c
    row = select(true()).where(
        columns.id == search.numbers.collection_id,
        columns.name == bindparam("called", type_=Text, required=False),
        columns.model == bindparam("model_id", type_=Text, required=False),
        parts.setting_of(search.records).is_not_distinct_from(
            bindparam("cut_as", type_=Text, required=False)
        ),
    )
    return type_coerce(row.scalar_subquery(), Boolean)


@functools.lru_cache(maxsize=256)
def _kept(asked: Asked, by_index: bool, always: Always) -> Select[Any]:
    search = asked.search()
    return made(search, SOUGHT, filters=Filters(always.of(search)), by_index=by_index)


def made(
    search: Search, *sought: ColumnElement[Any], filters: Filters, by_index: bool
) -> Select[Any]:
    """Return the SELECT of id, score, content, metadata and is_exact, best first.

    In a collection with chunks the id is the item's, and chunk_id, start, end and chunk_text are of
    its best chunk. Of several vectors the nearest counts; no index finds that.
    """
    if by_index and len(sought) == 1:
        return _by_index(search, sought[0], filters)
    conditions = filters.all(search.database, search.item_id)
    return _best(search, sought, _rows(search, *conditions), true())


def _may_use_index(work: Work, query: Query) -> bool:
    """Return whether there is an index, and the query can be answered from it."""
    if not work.row.has_index or query.exact is True or _candidates(work, query) > MAX_CANDIDATES:
        return False
    return not isinstance(query.among, tuple) or len(query.among) > FEW_KEYS


def uses_index(work: Work, query: Query, filters: Filters) -> bool:
    """Return whether a part of a host's statement uses the index."""
    return _may_use_index(work, query) and (query.exact is False or _pays(work, query, filters))


def _pays(work: Work, query: Query, filters: Filters) -> bool:
    """Return whether many rows match, by PostgreSQL's estimate.

    A graph is walked from neighbour to neighbour, and the few that a filter lets through are far
    apart in it: reading them all is faster, and exact. How many keys the host selects, the
    statement itself finds out.
    """
    if not filters.rows or not (query.has_filters or query.prefix):
        return True
    id = work.records.embeddings.c.id
    matching = select(id).where(is_of(work.records, work.row.id), *filters.rows)
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


def _candidates(work: Work, query: Query) -> int:
    if work.row.chunks is not None:
        return max(FEWEST_CHUNKS, SPARE_CHUNKS * query.depth)
    spare = SPARE_FILTERED if query.has_conditions else SPARE
    if Sized((work.row.vector_bytes or 0) // ITEM_BYTES).name == "bit":
        spare = SPARE_SIGNS
    return spare * query.depth


def _rows(search: Search, *conditions: ColumnElement[bool]) -> Select[Any]:
    columns = search.records.embeddings.c
    vector = type_coerce(columns.embedding, PGVector).label("embedding")
    return select(columns.id, columns.content, columns.metadata, vector).where(
        search.is_ours, *conditions
    )


def _best(
    search: Search,
    sought: Sequence[ColumnElement[Any]],
    rows: Select[Any] | CompoundSelect[Any],
    is_exact: ColumnElement[bool],
) -> Select[Any]:
    """Return the best of some rows by their exact scores."""
    row = rows.subquery().c
    if search.dimensions * ITEM_BYTES >= STORED_APART:
        # Fetched once, by pgvector's cast to any number of dimensions, and not by each function
        # that it is given to. OFFSET 0 keeps the planner from merging the two again.
        any_number, explicit = literal_column("-1", Integer), literal_column("true", Boolean)
        fetched = func.vector(row.embedding, any_number, explicit, type_=PGVector())
        inner = select(row.id, row.content, row.metadata, fetched.label("embedding"))
        row = inner.offset(limit(0)).subquery().c
    apart = least_distance(row.embedding, sought, search.dimensions).label("distance")
    if search.chunks:
        return _best_chunks(search, row.id, apart, is_exact)
    best = (
        select(row.id, row.content, row.metadata, apart)
        .order_by(apart, row.id)
        .limit(search.numbers.number)
        .offset(search.numbers.offset)
        .subquery()
        .c
    )
    score: ColumnElement[float] = literal_column("1.0", Float) - best.distance
    statement = (
        select(best.id, score.label("score"), best.content, best.metadata)
        .add_columns(is_exact.label("is_exact"))
        .where(best.distance.is_not(None))
        .order_by(best.distance, best.id)
    )
    least = search.numbers.min_score
    return statement if least is None else statement.where(score >= least)


def _best_chunks(
    search: Search,
    id: ColumnElement[str],
    apart: ColumnElement[float],
    is_exact: ColumnElement[bool],
) -> Select[Any]:
    """Return the best items by the best chunk of each, of rows of chunks.

    Args:
        search: How many.
        id: Of the rows.
        apart: Their distance.
        is_exact: Whether they are the best for certain.
    """
    item = search.database.item_of(id)
    row = select(id.label("id"), item.label("item"), apart).subquery().c
    order = (row.distance, func.length(row.id), row.id)
    place = func.row_number().over(partition_by=row.item, order_by=order).label("place")
    each = select(row.id, row.item, row.distance, place).subquery().c
    best = (
        select(each.id, each.item, each.distance)
        .where(each.place == literal_column("1"))
        .order_by(each.distance, each.item)
        .limit(search.numbers.number)
        .offset(search.numbers.offset)
        .cte()
    )
    distance = best.c.distance
    score: ColumnElement[float] = literal_column("1.0", Float) - distance
    if search.is_bare:
        statement = select(
            best.c.item.label("id"),
            score.label("score"),
            is_exact.label("is_exact"),
            best.c.id.label("chunk_id"),
        )
    else:
        statement = with_parts(search, best.c.id, best.c.item, score, is_exact)
    statement = statement.where(distance.is_not(None)).order_by(distance, best.c.item)
    least = search.numbers.min_score
    return statement if least is None else statement.where(score >= least)


OTHERS = ("is_exact", "near", "found", "rank")
"""Columns that a statement may have besides."""


def with_parts(
    search: Search,
    id: ColumnElement[str],
    item: ColumnElement[str],
    score: ColumnElement[float],
    *others: ColumnElement[Any],
) -> Select[Any]:
    """Return the SELECT of items with their best chunks.

    Args:
        search: Of the collection.
        id: Of the chunks, from a CTE.
        item: Of the items, from the same.
        score: Their scores.
        others: Further columns, of `OTHERS`.
    """
    row, columns = search.records.embeddings, search.records.embeddings.c
    first_id = item.concat(literal_column(f"'{chunk_id('', 0)}'"))

    def of_these(ids: ColumnElement[str]) -> ColumnElement[bool]:
        # The planner may take the collection for one row, and read all of it for each of these.
        these = func.array(select(ids).scalar_subquery())
        return and_(search.is_ours, is_one_of(columns.id, these, are_many=True))

    part = parts.parts_of(search.records, of_these(id))
    whole = parts.parts_of(search.records, of_these(first_id))
    # Found by themselves: Citus joins no rows of several servers to others of the same table.
    first = (
        select(whole.c.id, whole.c.item_content, whole.c.item_chunks).offset(limit(0)).subquery()
    )
    one: ColumnElement[int] = literal_column("1", Integer)
    content = case(
        (first.c.item_chunks == one, func.coalesce(first.c.item_content, columns.content)),
        else_=first.c.item_content,
    )
    return (
        select(
            item.label("id"),
            score.label("score"),
            content.label("content"),
            columns.metadata,
            *(each.label(name) for each, name in zip(others, OTHERS, strict=False)),
            id.label("chunk_id"),
            part.c.start,
            part.c.end,
            columns.content.label("chunk_text"),
        )
        .join(row, columns.id == id)
        .outerjoin(part, part.c.id == columns.id)
        .outerjoin(first, first.c.id == first_id)
        .where(of_these(id))
    )


def _by_index(search: Search, sought: ColumnElement[Any], filters: Filters) -> Select[Any]:
    """Return the search by the index, or by reading where that is faster or the index falls short.

    One of the parts yields rows. Conditions about no column tell which: they are evaluated before
    a part is read, and a part for which they are false is not read.
    """
    wanted, id = search.numbers.candidates, search.item_id
    among = None
    if filters.keys is not None:
        among = among_of(search.database, search.is_ours, id, filters.keys)
    old, new = _settings(search.numbers.ef_search)
    vector = type_coerce(search.records.embeddings.c.embedding, PGVector)
    fits = has_dimensions(vector, search.dimensions)
    conditions = (fits, *filters.rows, select(new.c.are_set).scalar_subquery())
    if among is not None:
        conditions = (*conditions, among.is_chosen, ~among.are_few)
    nearest = _rows(search, *conditions).order_by(distance(vector, sought, search.dimensions))
    near = once(nearest.limit(wanted))
    after = _after(search, near, old)
    is_short = select(after.c.found).scalar_subquery() < wanted
    if search.chunks:
        are_few = select(after.c["items"]).scalar_subquery() < search.numbers.depth
        is_short = or_(is_short, are_few)
    found = select(near).where(~is_short)
    if among is None:
        everything = _rows(search, *filters.rows, is_short)
        return _best(search, [sought], union_all(found, everything), is_short)
    few = _rows(search, *filters.rows, among.is_one_of_few, among.are_few)
    all_of_it = filters.all(search.database, id)
    everything = _rows(search, *all_of_it, ~among.are_few, is_short)
    is_exact = or_(among.are_few, is_short)
    return _best(search, [sought], union_all(found, few, everything), is_exact)


# The settings of a search by the index. They are put back: the transaction may be the host's.
SETTINGS = ("ef_search", "iterative_scan")


def _settings(ef_search: ColumnElement[str]) -> tuple[CTE, CTE]:
    """Return what the settings are, and what sets them once that is known."""
    values = (ef_search, constant("relaxed_order", Text()))
    settings = (func.current_setting(_setting(name), true()) for name in SETTINGS)
    old = once(
        select(
            *(
                func.nullif(setting, literal_column("''")).label(name)
                for setting, name in zip(settings, SETTINGS, strict=True)
            )
        )
    )
    are_set = and_(
        *(
            func.set_config(_setting(name), value, true()).is_not(None)
            for name, value in zip(SETTINGS, values, strict=True)
        )
    )
    return old, once(select(are_set.label("are_set")).select_from(old))


def _after(search: Search, near: CTE, old: CTE) -> CTE:
    """Return the number of rows found, which is known when the index has been read to the end.

    Where they are chunks, with the number of their items.
    """
    put_back = (
        func.set_config(_setting(name), select(old.c[name]).scalar_subquery(), true())
        for name in SETTINGS
    )
    found: list[ColumnElement[Any]] = [func.count().label("found")]
    if search.chunks:
        item = search.database.item_of(near.c.id)
        found.append(func.count(item.distinct()).label("items"))
    return once(select(*found, *put_back).select_from(near))


def _setting(name: str) -> ColumnElement[str]:
    return literal_column(f"'hnsw.{name}'", Text)

"""Searches by a value, by a stored item and by vectors; each yields entries or a selectable."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import TypeDecorator, select, type_coerce

from ..errors import InvalidItemError, InvalidQueryError, InvalidVectorError
from ..models.base import check_content
from ..values import NotJSON, checked_content
from ..vectors import as_query
from ..work.reference import retried
from . import grouping, hybrid
from .entries import CHUNK, RANKS, Entries, Entry, NotConfirmed
from .query import several
from .scan import warn_of_metadata
from .words import no_index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeAlias

    from sqlalchemy import Subquery

    from ..keys import K
    from ..models.base import Content
    from ..vectors import Float64, VectorLike
    from ..work.operation import Work
    from ..work.reference import Reference
    from ..work.row import CollectionRow
    from .entries import Ranking
    from .query import Query

    Form: TypeAlias = Callable[["Work", Float64, Query], "T"]

T = TypeVar("T")
LOG = logging.getLogger("embeddings")


def by_value(
    collection: Reference[Any], value: Content, query: Query, form: Form[T], nothing: T
) -> T:
    """Return what is nearest to a value, in a form; `nothing` without a call of the model.

    A text of blanks, and one whose vector is all zeros, is near to nothing.

    Args:
        collection: Whose items are searched.
        value: Text or bytes.
        query: How many, and under which conditions.
        form: `entries` or `selectable`.
        nothing: What is returned if there is nothing to compare with.

    Raises:
        InvalidQueryError: The value is empty.
    """
    content = sought(value)
    query = query.about(content)
    if not query.depth or _is_blank(content):
        return nothing

    def answer(work: Work, vectors: list[Float64]) -> T:
        return _search(form, work, vectors[0], query) if vectors[0].any() else nothing

    return _asked(collection, [content], query, answer, nothing)


def by_values(
    collection: Reference[K], values: Iterable[Content], query: Query
) -> list[Entries[K]]:
    """Return for each of some values the entries nearest to it. The model is called once."""
    contents = [_sought(value, at) for at, value in enumerate(several(values, "values"))]
    queries = [query.about(content) for content in contents]
    asked = [at for at, content in enumerate(contents) if not _is_blank(content)]
    if not asked or not query.depth:
        return [Entries[Any]() for _ in contents]

    def answer(work: Work, vectors: list[Float64]) -> list[Entries[Any]]:
        found = [Entries[Any]() for _ in contents]
        near = [(at, vector) for at, vector in zip(asked, vectors, strict=True) if vector.any()]
        if query.words is not None:
            for at, vector in near:
                found[at] = _search(entries, work, vector, queries[at])
            return found
        rankings = _search_multi(work, [vector for _, vector in near], query)
        for (at, _), ranking in zip(near, rankings, strict=True):
            found[at] = _entries_of(ranking, query)
        return found

    nothing = [Entries[Any]() for _ in contents]
    return _asked(collection, [contents[at] for at in asked], query, answer, nothing)


@retried
def _asked(
    collection: Reference[Any],
    contents: list[Content],
    query: Query,
    answer: Callable[[Work, list[Float64]], T],
    nothing: T,
) -> T:
    """Return the answer to contents, with no connection of ours out while the model runs.

    Which model to call is known by the row that was read last, or read on a short connection. The
    search confirms it; else the contents are put to the right model, and searched for again.
    """
    row = None if query.needs_text_index else collection.last_known()
    if row is None or row.vector_bytes is None:
        with collection.look() as work:
            row = collection.find(work)
            if row is None or _is_empty(work):
                return nothing
            if query.needs_text_index and row.language is None:
                raise no_index(row.name)
    while True:
        model = collection.model_of(row)
        for content in contents:
            check_content(model, content)
        vectors = [as_query(vector) for vector in collection.embed(model, contents, "query")]
        try:
            with collection.work() as work:
                # A filter that fails must not hide what has become of the collection.
                if _is_confirmed(query) and _is_same(collection.remembered(work), row):
                    with suppress(NotConfirmed):
                        return answer(work, vectors)
                current = collection.find(work, to_search=True)
                if current is None:
                    collection.forget()
                    return nothing
                if _is_same(current, row):
                    try:
                        found = answer(work, vectors)
                    except InvalidVectorError:
                        if work.row.id == current.id:
                            raise
                    else:
                        if work.row.id == current.id:
                            return found
                    # Another took over its name between two statements.
                    current = collection.find(work, to_search=True)
                    if current is None:
                        return nothing
        except InvalidVectorError:  # a service that was wrong for once may be right again
            collection.sessions.runtime.forget(model, contents, "query")
            raise
        collection.forget()
        row = current


def _is_confirmed(query: Query) -> bool:
    """Return whether the statement that searches confirms a row that is remembered."""
    return not query.has_filters and query.words is None


def _is_same(current: CollectionRow | None, row: CollectionRow) -> bool:
    """Return whether the vectors of a question to the model of one row suit the other."""
    return current is not None and current.model_id == row.model_id


def sought(value: Content) -> Content:
    """Return a content that can be searched for.

    Raises:
        InvalidQueryError: It is empty.
    """
    content = checked_content(value)
    if not content:
        raise InvalidQueryError("there is nothing to search for: the query is empty")
    return content


def _sought(value: Content, position: int) -> Content:
    try:
        return sought(value)
    except (InvalidItemError, InvalidQueryError) as error:
        raise type(error)(f"values[{position}]: {error}") from None


def _is_blank(content: Content) -> bool:
    return isinstance(content, str) and not content.strip()


def _is_empty(work: Work) -> bool:
    if work.row.vector_bytes is not None:
        return False
    statement = select(1).where(work.records.embeddings.c.collection_id == work.row.id)
    return work.run(statement.limit(1)).first() is None


@retried
def by_id(collection: Reference[Any], id: str, query: Query, form: Form[T], nothing: T) -> T:
    """Return what is nearest to the item of a stored id, in a form.

    Nothing is near to a vector that is all zeros.

    Raises:
        DoesNotExist: There is no such item.
        InvalidVectorError: It has no vector.
    """
    entity = collection.records.embedding
    with collection.work() as work:
        row = collection.find(work, to_search=True)
        if row is None:
            raise collection.id_not_found(id)
        statement = select(entity.embedding).where(entity.collection_id == row.id, work.is_of(id))
        if row.chunks is not None:
            statement = statement.order_by(entity.id)
        stored = work.run(statement).all()
        if not stored:
            raise collection.id_not_found(id)
        if any(row.embedding is None for row in stored):
            raise InvalidVectorError(f"the stored vector of {id!r} is missing")
        vectors = [as_query(row.embedding) for row in stored]
        vectors = [vector for vector in vectors if vector.any()]
        if not vectors:
            return nothing
        vector, *others = vectors
        return _search(form, work, vector, replace(query, also=tuple(others)))


@retried
def by_vector(
    collection: Reference[Any], vector: Float64, query: Query, form: Form[T], nothing: T
) -> T:
    """Return what is nearest to a vector, in a form. Arguments as in `by_value`."""
    with collection.work() as work:
        # A filter that fails must not hide what has become of the collection.
        if _is_confirmed(query) and collection.remembered(work) is not None:
            with suppress(NotConfirmed):
                return _search(form, work, vector, query)
        if collection.find(work, to_search=True) is None:
            return nothing
        return _search(form, work, vector, query)


def _search(form: Form[T], work: Work, vector: Float64, query: Query) -> T:
    """Return what is nearest, and write a line about the search to the log at DEBUG."""
    query = query.as_seen(work)
    if not LOG.isEnabledFor(logging.DEBUG):
        return form(work, vector, query)
    began = perf_counter()
    found = form(work, vector, query)
    _log(work, began, "search")
    return found


def _search_multi(work: Work, vectors: list[Float64], query: Query) -> list[Ranking]:
    """Return what is nearest to each vector, with such a line for all of them."""
    query = query.as_seen(work)
    began = perf_counter()
    rankings = _searched_by(work)(work, vectors, query) if vectors else []
    if LOG.isEnabledFor(logging.DEBUG):
        _log(work, began, f"{len(vectors)} searches")
    return rankings


def _log(work: Work, began: float, what: str) -> None:
    took = (perf_counter() - began) * 1000
    how = work.searched or work.database.name
    LOG.debug("%s in %r: %s, %.2f ms", what, work.row.name, how, took)


@retried
def by_vectors(
    collection: Reference[K], vectors: Iterable[VectorLike], query: Query
) -> list[Entries[K]]:
    """Return for each of some vectors the entries nearest to it."""
    queries = [as_query(vector, f"vectors[{at}]") for at, vector in enumerate(vectors)]
    with collection.work() as work:
        if collection.find(work, to_search=True) is None or not queries:
            return [Entries[Any]() for _ in queries]
        if query.words is not None:
            return [_search(entries, work, vector, query) for vector in queries]
        rankings = _search_multi(work, queries, query)
    return [_entries_of(ranking, query) for ranking in rankings]


def entries(work: Work, vector: Float64, query: Query) -> Entries[Any]:
    """Return the best as a list."""
    return _entries_of(_ranking(work, vector, query), query)


def _ranking(work: Work, vector: Float64, query: Query) -> Ranking:
    if query.words is None or work.database.fuses_words:
        return _searched_by(work)(work, [vector], query)[0]
    return hybrid.search(work, vector, query)


def _searched_by(work: Work) -> Callable[[Work, Sequence[Float64], Query], list[Ranking]]:
    """Return what searches for vectors, and gives each item once."""
    if work.row.chunks is None or work.database.groups_chunks:
        return work.database.search_multi
    return grouping.search_multi


def selectable(work: Work, vector: Float64, query: Query) -> Subquery:
    """Return the best as a selectable with the columns `id` and `score`, and `rank` with words."""
    keys = query.keys
    is_grouped = work.row.chunks is None or work.database.groups_chunks
    if is_grouped and (query.words is None or work.database.fuses_words):
        found = work.database.matches(work, keys.on(work.dialect), vector, query)
    else:
        rows = [*_ranking(work, vector, query).rows]
        offset = None if query.words is None else query.offset
        found = work.database.as_selectable(keys.on(work.dialect), rows, offset)
    if not isinstance(keys.sql_type, TypeDecorator):
        return found
    id, *others = found.c
    return select(type_coerce(id, keys.sql_type).label("id"), *others).subquery()


def _entries_of(ranking: Ranking, query: Query) -> Entries[Any]:
    from_text = query.keys.from_text
    found, unreadable = [], []
    for id, score, content, metadata, ranks, chunk in ranking.rows:
        entry = Entry(from_text(id), score, content, metadata)
        if type(metadata) is NotJSON:
            unreadable.append(id)
            entry.metadata = None
        if query.words is not None:
            vars(entry)[RANKS] = ranks
        if chunk is not None:
            vars(entry)[CHUNK] = chunk
        found.append(entry)
    if unreadable:
        warn_of_metadata(unreadable)
    return Entries(found, exact=ranking.exact)

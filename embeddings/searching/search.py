"""Searches by a value, by a stored item and by vectors; each yields entries or a selectable."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import select

from ..errors import DoesNotExist, InvalidQueryError, InvalidVectorError
from ..models.base import check_content
from ..values import checked_content
from ..vectors import as_query
from .query import Entries, Entry, NotConfirmed

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from sqlalchemy import Subquery

    from ..keys import K
    from ..models.base import Content
    from ..vectors import Float64, VectorLike
    from ..work import Reference, Work
    from .query import Query, Ranking

    Form: TypeAlias = Callable[["Work", Float64, Query], "T"]

T = TypeVar("T")


def by_value(
    collection: Reference[Any], value: Content, query: Query, form: Form[T], nothing: T
) -> T:
    """Return what is nearest to a value, in a form; `nothing` without a call of the model.

    Args:
        collection: Whose items are searched.
        value: Text or bytes.
        query: How many, and under which conditions.
        form: `entries` or `selectable`.
        nothing: What is returned if there is nothing to compare with.
    """
    content = checked_content(value)
    if not query.depth:
        return nothing
    with collection.work() as work:
        row = collection.find(work)
        if row is None or _is_empty(work):
            return nothing
        model = collection.model_of(row)
    check_content(model, content)
    vector = as_query(collection.embed(model, [content])[0])
    return by_vector(collection, vector, query, form, nothing)


def _is_empty(work: Work) -> bool:
    if work.row.vector_bytes is not None:
        return False
    statement = select(1).where(work.records.embeddings.c.collection_id == work.row.id)
    return work.run(statement.limit(1)).first() is None


def by_id(collection: Reference[Any], id: str, query: Query, form: Form[T]) -> T:
    """Return what is nearest to the item of a stored id, in a form.

    Raises:
        DoesNotExist: There is no such item.
        InvalidVectorError: It has no vector.
    """
    columns = collection.records.embeddings.c
    with collection.work() as work:
        row = collection.find(work)
        if row is None:
            raise DoesNotExist("ID not found")
        statement = select(columns.embedding).where(
            columns.collection_id == row.id, columns.id == id
        )
        stored = work.run(statement).first()
        if stored is None:
            raise DoesNotExist("ID not found")
        if stored.embedding is None:
            raise InvalidVectorError(f"the stored vector of {id!r} is missing")
        return form(work, as_query(stored.embedding), query)


def by_vector(
    collection: Reference[Any], vector: Float64, query: Query, form: Form[T], nothing: T
) -> T:
    """Return what is nearest to a vector, in a form. Arguments as in `by_value`."""
    with collection.work() as work:
        # A filter that fails must not hide what has become of the collection.
        if not query.has_filters and collection.remembered(work) is not None:
            with suppress(NotConfirmed):
                return form(work, vector, query)
        if collection.find(work) is None:
            return nothing
        return form(work, vector, query)


def by_values(
    collection: Reference[K], values: Iterable[Content], query: Query
) -> list[Entries[K]]:
    """Return for each of some values the entries nearest to it. The model is called once."""
    contents = [checked_content(value) for value in several(values, "values")]
    nothing = [Entries[Any]() for _ in contents]
    if not contents or not query.depth:
        return nothing
    with collection.work() as work:
        row = collection.find(work)
        if row is None or _is_empty(work):
            return nothing
        model = collection.model_of(row)
    for content in contents:
        check_content(model, content)
    return by_vectors(collection, collection.embed(model, contents), query)


def by_vectors(
    collection: Reference[K], vectors: Iterable[VectorLike], query: Query
) -> list[Entries[K]]:
    """Return for each of some vectors the entries nearest to it."""
    queries = [as_query(vector) for vector in vectors]
    with collection.work() as work:
        if collection.find(work) is None or not queries:
            return [Entries[Any]() for _ in queries]
        rankings = work.database.search_multi(work, queries, query)
    return [_entries_of(ranking, query) for ranking in rankings]


def entries(work: Work, vector: Float64, query: Query) -> Entries[Any]:
    """Return the best as a list."""
    return _entries_of(work.database.search(work, vector, query), query)


def selectable(work: Work, vector: Float64, query: Query) -> Subquery:
    """Return the best as a selectable with the columns `id` and `score`."""
    return work.database.matches(work, query.keys, vector, query)


def _entries_of(ranking: Ranking, query: Query) -> Entries[Any]:
    from_text = query.keys.from_text
    found = [
        Entry(from_text(id), score, content, metadata)
        for id, score, content, metadata in ranking.rows
    ]
    return Entries(found, exact=ranking.exact)


def several(values: Iterable[Any], what: str) -> list[Any]:
    """Return the values as a list, refusing a single one.

    Raises:
        InvalidQueryError: It is one value, or none that can be gone through.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidQueryError(f"{what} must be an iterable, not {type(values).__name__}")
    return list(values)

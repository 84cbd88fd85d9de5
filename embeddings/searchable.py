"""The searches of a collection: each as a list of entries, and as a selectable."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, TypeVar, Unpack

from sqlalchemy import select

from .errors import InvalidQueryError, InvalidVectorError, ModelMismatchError
from .keys import K
from .models.base import check_content
from .searching import MANY_STRATEGIES, REMEMBERED, SELECTABLES, STATUS, STRATEGIES
from .searching.query import (
    Among,
    Entries,
    Entry,
    NotConfirmed,
    Where,
    check_query,
    no_matches,
)
from .searching.status import Status
from .sql import dialect_of, run
from .target import Target
from .vectors import as_query
from .writing.items import checked_content

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Subquery
    from sqlalchemy.orm import Session

    from .keys import Key
    from .models.base import Content
    from .searching.query import Query, Ranking
    from .sql import Found
    from .vectors import Float64, VectorLike

    T = TypeVar("T")
    Answer: TypeAlias = Callable[[Session, Found, Float64, Query], T]


class Filters(TypedDict, total=False):
    """What every search takes besides. All of it holds before the best are taken."""

    offset: int
    """How many of the best to leave out before these; 0 by default."""
    min_score: float | None
    """Leave out what scores less."""
    where: Where | None
    """A SQL expression over `EmbeddingRecord`, or a dict of metadata that items must have."""
    among: Among | None
    """Only these: a SELECT of your keys, or keys."""
    exact: bool | None
    """True: use no index. False, for `matches*`: use one. Else `similar*` uses one if it is there,
    and `matches*` does not."""


class Searchable(Target[K]):
    """Everything about a collection that finds items by their vectors."""

    def similar(
        self,
        value: Content,
        number: int = 10,
        prefix: str | None = None,
        **filters: Unpack[Filters],
    ) -> Entries[K]:
        """Return the items nearest in meaning to the value, best first, ties by id.

        The model is not called if there is nothing to compare with.

        Args:
            value: Text or bytes.
            number: The most results.
            prefix: Only ids that begin with it, literally and in the same case.
            **filters: See `Filters`.

        Raises:
            InvalidItemError: The model does not take such a value.
            InvalidQueryError: An argument means nothing.
        """
        query = self._query(number, prefix, filters)
        return self._by_value(value, query, self._entries, Entries[K]())

    def similar_by_id(
        self,
        id: Key,
        number: int = 10,
        prefix: str | None = None,
        **filters: Unpack[Filters],
    ) -> Entries[K]:
        """Return the items nearest to a stored one, without that one. Arguments as in `similar`.

        Raises:
            DoesNotExist: There is no item of this id.
            InvalidVectorError: Its stored vector is corrupt.
        """
        text = self._keys.to_text(id)
        query = self._query(number, prefix, filters, skip_id=text)
        return self._by_id(text, query, self._entries)

    def similar_by_vector(
        self,
        vector: VectorLike,
        number: int = 10,
        skip_id: Key | None = None,
        prefix: str | None = None,
        **filters: Unpack[Filters],
    ) -> Entries[K]:
        """Return the items nearest to a vector. No model is called. Arguments as in `similar`.

        Args:
            vector: Shape (dimensions,), any numbers; its length does not matter.
            number: The most results.
            skip_id: An id to leave out.
            prefix: Only ids that begin with it.
            **filters: See `Filters`.

        Raises:
            InvalidVectorError: The vector is not finite, or has other dimensions than the
                collection's.
        """
        query = self._query(number, prefix, filters, skip_id=self._text_or_none(skip_id))
        return self._by_vector(as_query(vector), query, self._entries, Entries[K]())

    def similar_multi(
        self,
        values: Iterable[Content],
        number: int = 10,
        prefix: str | None = None,
        **filters: Unpack[Filters],
    ) -> list[Entries[K]]:
        """Return for each of the values what `similar` returns for it.

        The model is called for all at once, and on SQLite the rows in memory are read once for all.

        Args:
            values: Texts or bytes.
            number: The most results for each.
            prefix: Only ids that begin with it.
            **filters: See `Filters`.

        Raises:
            InvalidItemError: The model does not take such a value.
            InvalidQueryError: An argument means nothing.
        """
        contents = [checked_content(value) for value in _several(values, "values")]
        query = self._query(number, prefix, filters)
        nothing = [Entries[K]() for _ in contents]
        if not contents or not query.depth:
            return nothing
        with self._session() as session:
            found = self._find(session)
            if found is None or self._is_empty(session, found):
                return nothing
            model = self._model_of(found)
        for content in contents:
            check_content(model, content)
        return self._for_each(self._vectors(model, contents), query)

    def similar_multi_by_vector(
        self,
        vectors: Iterable[VectorLike],
        number: int = 10,
        prefix: str | None = None,
        **filters: Unpack[Filters],
    ) -> list[Entries[K]]:
        """Return for each of the vectors what `similar_by_vector` returns. No model is called.

        Args:
            vectors: Each of shape (dimensions,).
            number: The most results for each.
            prefix: Only ids that begin with it.
            **filters: See `Filters`.

        Raises:
            InvalidVectorError: A vector is not finite, or has other dimensions than the
                collection's.
        """
        query = self._query(number, prefix, filters)
        return self._for_each(_several(vectors, "vectors"), query)

    def matches(
        self,
        value: Content,
        number: int = 10,
        prefix: str | None = None,
        **filters: Unpack[Filters],
    ) -> Subquery:
        """Return what `similar` finds as a selectable with the columns `id` and `score`.

        Join it to your own table, in one statement:

            found = articles.matches("how to sleep better")
            select(Article).join(found, found.c.id == Article.id).order_by(found.c.score.desc())

        `id` is in the type of the collection's keys. On SQLite the search takes place now; on
        PostgreSQL it is a part of your statement, and exact unless `exact=False` is given.
        """
        query = self._query(number, prefix, filters)
        return self._by_value(value, query, self._selectable, no_matches(self._keys))

    def matches_by_id(
        self,
        id: Key,
        number: int = 10,
        prefix: str | None = None,
        **filters: Unpack[Filters],
    ) -> Subquery:
        """Return what `similar_by_id` finds as a selectable, as `matches` does."""
        text = self._keys.to_text(id)
        query = self._query(number, prefix, filters, skip_id=text)
        return self._by_id(text, query, self._selectable)

    def matches_by_vector(
        self,
        vector: VectorLike,
        number: int = 10,
        skip_id: Key | None = None,
        prefix: str | None = None,
        **filters: Unpack[Filters],
    ) -> Subquery:
        """Return what `similar_by_vector` finds as a selectable, as `matches` does."""
        query = self._query(number, prefix, filters, skip_id=self._text_or_none(skip_id))
        return self._by_vector(as_query(vector), query, self._selectable, no_matches(self._keys))

    def status(self) -> Status:
        """Return how the next search will go about it, and what is kept in memory for it."""
        with self._session() as session:
            inspect = STATUS.get(dialect_of(session, self._records).name)
            found = self._find(session)
            return inspect(session, self._records, found) if inspect else Status("database")

    def _query(
        self, number: int, prefix: str | None, filters: Filters, skip_id: str | None = None
    ) -> Query:
        return check_query(
            self._records, self._keys, number=number, prefix=prefix, skip_id=skip_id, **filters
        )

    # What is searched for

    def _by_value(self, value: Content, query: Query, answer: Answer[T], nothing: T) -> T:
        content = checked_content(value)
        if not query.depth:
            return nothing
        with self._session() as session:
            found = self._find(session)
            if found is None or self._is_empty(session, found):
                return nothing
            model = self._model_of(found)
        check_content(model, content)
        vector = as_query(self._vectors(model, [content])[0])
        return self._by_vector(vector, query, answer, nothing)

    def _is_empty(self, session: Session, found: Found) -> bool:
        if found.size is not None:
            return False
        statement = select(1).where(self._records.embeddings.c.collection_id == found.id)
        return run(session, self._records, statement.limit(1)).first() is None

    def _by_id(self, id: str, query: Query, answer: Answer[T]) -> T:
        columns = self._records.embeddings.c
        with self._session() as session:
            found = self._find(session)
            if found is None:
                raise self.DoesNotExist("ID not found")
            statement = select(columns.embedding).where(
                columns.collection_id == found.id, columns.id == id
            )
            row = run(session, self._records, statement).first()
            if row is None:
                raise self.DoesNotExist("ID not found")
            if row.embedding is None:
                raise InvalidVectorError(f"the stored vector of {id!r} is missing")
            return answer(session, found, as_query(row.embedding), query)

    def _by_vector(self, vector: Float64, query: Query, answer: Answer[T], nothing: T) -> T:
        with self._session() as session:
            # A filter that fails must not hide what has become of the collection.
            found = None if query.filters else self._remembered(session)
            if found is not None:
                with suppress(NotConfirmed):
                    return answer(session, found, vector, query)
            found = self._find(session)
            return nothing if found is None else answer(session, found, vector, query)

    def _remembered(self, session: Session) -> Found | None:
        """Return what `_find` would in all likelihood, without a statement, or None."""
        remember = REMEMBERED.get(dialect_of(session, self._records).name)
        found = remember(session, self._records, self._name) if remember else None
        if found is None or self._renamed:
            return None
        try:
            self._model_id_of(found)
        except ModelMismatchError:
            return None
        return found

    # In which form it is answered

    def _entries(self, session: Session, found: Found, vector: Float64, query: Query) -> Entries[K]:
        strategy = STRATEGIES[dialect_of(session, self._records).name]
        return self._as_entries(strategy(session, self._records, found, vector, query))

    def _as_entries(self, ranking: Ranking) -> Entries[K]:
        entries = (
            Entry(self._keys.from_text(row.id), row.score, row.content, row.metadata)
            for row in ranking.rows
        )
        return Entries(entries, exact=ranking.exact)

    def _selectable(
        self, session: Session, found: Found, vector: Float64, query: Query
    ) -> Subquery:
        selectable = SELECTABLES[dialect_of(session, self._records).name]
        return selectable(session, self._records, self._keys, found, vector, query)

    def _for_each(self, vectors: Iterable[VectorLike], query: Query) -> list[Entries[K]]:
        queries = [as_query(vector) for vector in vectors]
        with self._session() as session:
            found = self._find(session)
            if found is None or not queries:
                return [Entries[K]() for _ in queries]
            many = MANY_STRATEGIES.get(dialect_of(session, self._records).name)
            if many is None:
                return [self._entries(session, found, vector, query) for vector in queries]
            rankings = many(session, self._records, found, queries, query)
        return [self._as_entries(ranking) for ranking in rankings]


def _several(values: Iterable[Any], what: str) -> list[Any]:
    """Return the values as a list, refusing a single one."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidQueryError(f"{what} must be an iterable, not {type(values).__name__}")
    return list(values)

"""Exact search by reading the rows: in any session of any database, in constant memory."""

from __future__ import annotations

import warnings
from contextlib import closing
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import ColumnElement, func, select, type_coerce
from sqlalchemy.types import NullType

from ..databases.status import Searched
from ..errors import CorruptMetadataWarning, CorruptVectorWarning, InvalidVectorError
from ..vectors import ITEM_BYTES, TopK, are_contenders, cosine_scores
from .entries import Ranking, ScoredRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Dialect

    from ..tables.records import Records
    from ..vectors import Float32, Float64
    from ..work.operation import Work
    from .query import Query

CHUNK_BYTES = 400_000  # vectors read and scored at a time; more would leave the processor's cache
NAMED = 5  # corrupt rows that a warning names
ATTEMPTS = 3
FEWEST_AT_ONCE = 1000  # results wanted, up to which they are always read by their ids
WANTED_SHARE = 4  # where one in this many rows is wanted, all are read with what they store


def scan(work: Work, vector: Float64, query: Query, reason: str | None = None) -> Ranking:
    """Return the rows nearest to the vector, best first, ties by id. Reads only.

    Args:
        work: What its session sees is searched.
        vector: Shape (dimensions,), from `as_query`.
        query: How many, and under which conditions.
        reason: Why by a scan, for the log.

    Raises:
        InvalidVectorError: The vector has another length than those of the collection.

    Warns:
        CorruptVectorWarning: Rows whose vector cannot be compared were left out.
    """
    return scan_multi(work, [vector], query, reason)[0]


def scan_multi(
    work: Work,
    vectors: Sequence[Float64],
    query: Query,
    reason: str | None = None,
    has_read: Callable[[], object] = lambda: None,
) -> list[Ranking]:
    """Return for each of the vectors what `scan` returns; the rows are read once for all.

    Args:
        work: What its session sees is searched.
        vectors: Each of shape (dimensions,), from `as_query`.
        query: How many, and under which conditions.
        reason: Why by a scan, for the log.
        has_read: Called after each part of the rows.
    """
    for vector in vectors:
        check_dimensions(work, vector.size)
    if not query.depth:
        return [Ranking([]) for _ in vectors]
    columns = work.records.embeddings.c
    conditions = (columns.collection_id == work.row.id, *query.conditions(work))
    rankings: list[Ranking] = []
    while rest := vectors[len(rankings) :]:
        alike = list(takewhile(lambda vector: vector.size == rest[0].size, rest))
        reading = _Reading(work, conditions, query, has_read)
        rankings += reading.rankings(np.array(alike))
        work.searched = Searched("scan", reading.rows, reading.candidates, reason)
    return rankings


class _Reading:
    """The rows of a scan.

    Args:
        work: What its session sees is read.
        conditions: Which rows.
        query: How many.
        has_read: Called after each part of the rows.
    """

    def __init__(
        self,
        work: Work,
        conditions: Sequence[ColumnElement[bool]],
        query: Query,
        has_read: Callable[[], object],
    ) -> None:
        self._work = work
        self._conditions = conditions
        self._query = query
        self._has_read = has_read
        self._corrupt: list[Any] = []
        self.rows = self.candidates = 0

    def rankings(self, vectors: Float64) -> list[Ranking]:
        """Return the best rows for each of the vectors, shape (vectors, dimensions)."""
        if self._most_are_wanted():
            return self._by_one_statement(vectors)
        results: dict[int, Ranking] = {}
        # Outside a real transaction (Python's driver begins none to read) the two statements see
        # two snapshots; so what the second one reads is scored again, and has to agree.
        for attempt in range(ATTEMPTS):
            left = [at for at in range(len(vectors)) if at not in results]
            for at, ranked in zip(left, self._rank(vectors[left]), strict=True):
                read = self._read(vectors[at], [id for id, _ in ranked])
                agrees = all(id in read and read[id].score == score for id, score in ranked)
                if agrees or attempt == ATTEMPTS - 1:
                    rows = [read[id] for id, _ in ranked if id in read]
                    results[at] = Ranking(sorted(rows, key=lambda row: (-row.score, row.id)))
            if len(results) == len(vectors):
                break
        return [results[at] for at in range(len(vectors))]

    def _most_are_wanted(self) -> bool:
        """Return whether it takes longer to read the best by their ids than all at once."""
        if self._query.number < FEWEST_AT_ONCE:
            return False
        statement = select(func.count()).select_from(self._work.records.embeddings)
        rows = self._work.run(statement.where(*self._conditions)).scalar_one()
        return self._query.number * WANTED_SHARE >= int(rows)

    def _rank(self, vectors: Float64) -> list[list[tuple[str, float]]]:
        bests = [TopK(self._query.depth, self._query.min_score) for _ in vectors]
        for ids, matrix, _ in self._parts(vectors.shape[1]):
            self._score(bests, ids, matrix, vectors)
        return [[*best.result(self._query.offset)] for best in bests]

    def _by_one_statement(self, vectors: Float64) -> list[Ranking]:
        columns = self._work.records.embeddings.c
        stored = [type_coerce(column, NullType) for column in (columns.content, columns.metadata)]
        bests = [TopK(self._query.depth, self._query.min_score) for _ in vectors]
        for ids, matrix, others in self._parts(vectors.shape[1], *stored):
            self._score(bests, ids, matrix, vectors, *others)
        as_content, as_metadata = decoders(self._work.records, self._work.dialect)
        return [
            Ranking(
                ScoredRow(id, score, as_content(content), as_metadata(metadata))
                for id, score, content, metadata in best.result(self._query.offset)
            )
            for best in bests
        ]

    def _parts(
        self, dimensions: int, *more: ColumnElement[Any]
    ) -> Iterator[tuple[Sequence[str], Float32, Sequence[Sequence[Any]]]]:
        """Yield ids, vectors, and further columns of some rows at a time; warn of corrupt ones."""
        columns = self._work.records.embeddings.c
        vector_bytes = dimensions * ITEM_BYTES
        self._corrupt = []
        # The documented schema allows NULL.
        statement = select(
            columns.id, self._work.database.vector_as_bytes(columns.embedding), *more
        ).where(*self._conditions, self._work.database.has_id(columns.id))
        chunk = max(1, CHUNK_BYTES // vector_bytes)
        rows = self._work.run(statement.execution_options(yield_per=chunk))
        with closing(rows):
            for part in rows.partitions(chunk):
                self.rows += len(part)
                ids, blobs, *others = zip(*part, strict=True)
                if not are_vectors(blobs, vector_bytes):
                    self._corrupt += [
                        row[0] for row in part if not are_vectors((row[1],), vector_bytes)
                    ]
                    part = [row for row in part if are_vectors((row[1],), vector_bytes)]
                    if not part:
                        continue
                    ids, blobs, *others = zip(*part, strict=True)
                matrix = np.frombuffer(b"".join(blobs), "<f4").reshape(len(ids), -1)
                yield ids, matrix, others
                self._has_read()
        if self._corrupt:
            warn_of(self._corrupt, dimensions)

    def _score(
        self,
        bests: Sequence[TopK],
        ids: Sequence[str],
        matrix: Float32,
        vectors: Float64,
        *others: Sequence[Any],
    ) -> None:
        """Take rows in among the best for each of the vectors, with what they store besides."""
        floors = np.array([best.floor for best in bests])
        for at, is_near in enumerate(are_contenders(matrix, vectors, floors)):
            near = np.flatnonzero(is_near)
            if not near.size:
                continue
            self.candidates += near.size
            close, stored = matrix, [ids, *others]
            if near.size < len(ids):
                close, stored = matrix[near], [[of[row] for row in near.tolist()] for of in stored]
            scores = cosine_scores(close, vectors[at])
            corrupt = np.isnan(scores)
            if at == 0 and corrupt.any():
                self._corrupt += [stored[0][row] for row in np.flatnonzero(corrupt).tolist()]
            bests[at].add(stored[0], scores, *stored[1:])

    def _read(self, vector: Float64, ids: list[str]) -> dict[str, ScoredRow]:
        if not ids:
            return {}
        columns = self._work.records.embeddings.c
        statement = select(
            columns.id,
            self._work.database.vector_as_bytes(columns.embedding),
            columns.content,
            columns.metadata,
        ).where(*self._conditions, self._work.database.is_one_of(columns.id, ids))
        vector_bytes = vector.size * ITEM_BYTES
        rows = [row for row in self._work.run(statement) if are_vectors((row[1],), vector_bytes)]
        matrix = np.frombuffer(b"".join(row[1] for row in rows), "<f4")
        scores = cosine_scores(matrix.reshape(len(rows), vector.size), vector).tolist()
        return {
            row[0]: ScoredRow(row[0], score, row[2], row[3])
            for row, score in zip(rows, scores, strict=True)
            if score == score  # no NaN
        }


@lru_cache(maxsize=64)
def decoders(
    records: Records, dialect: Dialect
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return what makes of a stored content and of stored metadata what their columns hold."""
    columns = records.embeddings.c
    content, metadata = (
        column.type.dialect_impl(dialect).result_processor(dialect, None) or _unchanged
        for column in (columns.content, columns.metadata)
    )
    return content, metadata


def _unchanged(value: Any) -> Any:
    return value


def warn_of(corrupt: Sequence[Any], dimensions: int) -> None:
    """Warn of rows, by their ids, that a search had to leave out."""
    warnings.warn(
        f"Left out of the search, because the stored vector is not {dimensions} finite "
        f"float32 values: {_named(corrupt)}. Embed them again with force=True, or delete them",
        CorruptVectorWarning,
        stacklevel=3,
    )


def warn_of_metadata(ids: Sequence[str]) -> None:
    """Warn of items, by their ids, whose stored metadata is not JSON."""
    warnings.warn(
        f"The stored metadata is not JSON, and taken for none: {_named(ids)}. Replace it with "
        "set_metadata",
        CorruptMetadataWarning,
        stacklevel=3,
    )


def _named(ids: Sequence[Any]) -> str:
    named = ", ".join(map(repr, sorted(map(str, ids))[:NAMED]))
    return named + (f" and {len(ids) - NAMED} more" if len(ids) > NAMED else "")


def are_vectors(blobs: Sequence[Any], vector_bytes: int) -> bool:
    """Return whether all are stored vectors of this length."""
    return {*map(type, blobs)} == {bytes} and {*map(len, blobs)} == {vector_bytes}


def check_dimensions(work: Work, dimensions: int) -> None:
    """Do nothing if the collection has vectors of these dimensions, or none at all.

    Raises:
        InvalidVectorError: All that were looked at have others.
    """
    vector_bytes = work.row.vector_bytes
    if vector_bytes is None or vector_bytes == dimensions * ITEM_BYTES:
        return
    # The few rows that were looked at may be the odd ones out.
    columns = work.records.embeddings.c
    of_these = select(1).where(
        columns.collection_id == work.row.id,
        work.database.vector_bytes(columns.embedding) == dimensions * ITEM_BYTES,
    )
    if work.run(of_these.limit(1)).first() is None:
        raise InvalidVectorError(
            f"the query vector has {dimensions} dimensions, and those of the collection "
            f"{vector_bytes // ITEM_BYTES}"
        )

"""Exact search by reading the rows: in any session of any database, in constant memory."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import ColumnElement, select

from ..databases.status import Searched
from ..errors import CorruptVectorWarning, InvalidVectorError
from ..vectors import ITEM_BYTES, Float64, TopK, contenders, cosine_scores
from .query import Query, Ranking, ScoredRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..work import Work

CHUNK_BYTES = 400_000  # vectors read and scored at a time; more would leave the processor's cache
NAMED = 5  # corrupt rows that a warning names
ATTEMPTS = 3


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
    check_dimensions(work, vector.size)
    if not query.depth:
        return Ranking([])
    columns = work.records.embeddings.c
    conditions = (columns.collection_id == work.row.id, *query.conditions(work))
    # Outside a real transaction (Python's driver begins none to read) the two statements see two
    # snapshots; so what the second one reads is scored again, and has to agree.
    for attempt in range(ATTEMPTS):
        ranked = _rank(work, conditions, vector, query, reason)
        read = _read(work, conditions, vector, [id for id, _ in ranked])
        agrees = all(id in read and read[id].score == score for id, score in ranked)
        if agrees or attempt == ATTEMPTS - 1:
            break
    rows = [read[id] for id, _ in ranked if id in read]
    return Ranking(sorted(rows, key=lambda row: (-row.score, row.id)))


def _rank(
    work: Work,
    conditions: Sequence[ColumnElement[bool]],
    vector: Float64,
    query: Query,
    reason: str | None,
) -> list[tuple[str, float]]:
    columns = work.records.embeddings.c
    size = vector.size * ITEM_BYTES
    # The documented schema allows NULL.
    statement = select(columns.id, work.database.vector_as_bytes(columns.embedding)).where(
        *conditions, work.database.has_id(columns.id)
    )
    chunk = max(1, CHUNK_BYTES // size)
    best = TopK(query.depth, query.min_score)
    corrupt: list[Any] = []
    count = candidates = 0
    rows = work.run(statement.execution_options(yield_per=chunk))
    for part in rows.partitions(chunk):
        count += len(part)
        ids, blobs = zip(*part, strict=True)
        if not are_vectors(blobs, size):
            corrupt += [id for id, blob in part if not are_vectors((blob,), size)]
            part = [row for row in part if are_vectors(row[1:], size)]
            if not part:
                continue
            ids, blobs = zip(*part, strict=True)
        matrix = np.frombuffer(b"".join(blobs), "<f4").reshape(len(ids), -1)
        near = contenders(matrix, vector, best.floor)
        if not near.size:
            continue
        candidates += near.size
        near_ids = [ids[i] for i in near.tolist()]
        scores = cosine_scores(matrix[near], vector)
        if np.isnan(scores).any():
            corrupt += [near_ids[i] for i in np.flatnonzero(np.isnan(scores)).tolist()]
        best.add(near_ids, scores)
    work.searched = Searched("scan", count, candidates, reason)
    if corrupt:
        warn_of(corrupt, vector.size)
    return best.result()[query.offset :]


def warn_of(corrupt: Sequence[Any], dimensions: int) -> None:
    """Warn of rows, by their ids, that a search had to leave out."""
    named = ", ".join(map(repr, sorted(map(str, corrupt))[:NAMED]))
    more = f" and {len(corrupt) - NAMED} more" if len(corrupt) > NAMED else ""
    warnings.warn(
        f"Left out of the search, because the stored vector is not {dimensions} finite "
        f"float32 values: {named}{more}. Embed them again with force=True, or delete them",
        CorruptVectorWarning,
        stacklevel=3,
    )


def are_vectors(blobs: Sequence[Any], size: int) -> bool:
    """Return whether all are stored vectors of so many bytes."""
    return {*map(type, blobs)} == {bytes} and {*map(len, blobs)} == {size}


def _read(
    work: Work,
    conditions: Sequence[ColumnElement[bool]],
    vector: Float64,
    ids: list[str],
) -> dict[str, ScoredRow]:
    if not ids:
        return {}
    columns = work.records.embeddings.c
    statement = select(
        columns.id,
        columns.content,
        columns.metadata,
        work.database.vector_as_bytes(columns.embedding),
    ).where(*conditions, work.database.is_one_of(columns.id, ids))
    size = vector.size * ITEM_BYTES
    found = {}
    for id, content, metadata, blob in work.run(statement):
        if are_vectors((blob,), size):
            score = cosine_scores(np.frombuffer(blob, "<f4")[np.newaxis], vector)[0]
            if not np.isnan(score):
                found[id] = ScoredRow(id, float(score), content, metadata)
    return found


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

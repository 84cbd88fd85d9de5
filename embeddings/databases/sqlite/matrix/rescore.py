"""The candidates' own rows, read from the database and scored exactly."""

from __future__ import annotations

from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np

from ....searching.scan import are_vectors, warn_of
from ....vectors import ITEM_BYTES, TopK, cosine_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Row

    from ....searching.query import Query
    from ....vectors import Float64
    from .kinds import Chosen
    from .statements import Answer

RESCORE_BATCH = 64  # candidates read per fetch after the first, at least
LEFT_SHARE = 2  # one in so many of those that may still be among the best is read per fetch


class Rescored:
    """The best of the rows that were read.

    Args:
        vector: What is searched for.
        query: How many, and under which conditions.
        may_be_gone: Whether some of the candidates may not meet the conditions.
    """

    def __init__(self, vector: Float64, query: Query, *, may_be_gone: bool) -> None:
        self._vector = vector
        self._query = query
        self._may_be_gone = may_be_gone
        self._best = TopK(query.depth, query.min_score)
        self._rows: dict[str, Row[Any]] = {}
        self._corrupt: list[str] = []

    def read(self, answer: Answer, invalid: int, chosen: Chosen, first: int) -> bool:
        """Read until no other can be among the best; return whether the rows agree with the state.

        Args:
            answer: At its beginning.
            invalid: How many rows that cannot be compared come first.
            chosen: The candidates, which follow.
            first: How many of them to read before the rest is compared with the best.
        """
        changed = {change.row.id for change in answer.changes}
        others = [change.row for change in answer.changes if change.is_there]
        others += [row for row in answer.rows(invalid) if row.id not in changed]
        if others:
            self._score([row for row in others if self._matches_arguments(row)])
        at, until, batch_size = 0, len(chosen.ids), first
        while at < until:
            asked = chosen.ids[at : min(at + batch_size, until)]
            rows = answer.rows(len(asked))
            places: Sequence[int] = range(at, at + len(asked))
            gone = 0
            if changed or [row.id for row in rows] != asked:
                same = [n for n, id in enumerate(asked) if id not in changed]
                there = [n for n in same if rows[n].id == asked[n]]
                gone = 0 if self._may_be_gone else len(same) - len(there)
                rows, places = [rows[n] for n in there], [at + n for n in there]
            if not chosen.agree(places, self._score(rows), gone):
                return False
            at += len(asked)
            self._best.cut()
            until = chosen.reaching(self._best.floor)
            # Before as many are found as are wanted, nothing tells how many more that will take.
            more = at if until == len(chosen.ids) else (until - at) // LEFT_SHARE
            batch_size = max(RESCORE_BATCH, more)
        return True

    @property
    def count(self) -> int:
        """How many rows were scored."""
        return len(self._rows)

    def are_best(self, floor: float) -> bool:
        """Return whether they are the best of all, where all others score less than the floor."""
        self._best.cut()
        return floor <= self._best.floor

    def ranked(self) -> list[tuple[Sequence[Any], float]]:
        """Return the rows that are the answer, with their scores."""
        return [(self._rows[id], score) for id, score in self._best.result(self._query.offset)]

    def warn(self) -> None:
        """Warn of the rows that cannot be compared, if there are any."""
        if self._corrupt:
            warn_of(self._corrupt, self._vector.size)

    def _score(self, rows: Sequence[Row[Any]]) -> Float64:
        """Score rows, keep the best, and return the scores; NaN where a row cannot be compared."""
        if not rows:
            return np.empty(0)
        vector_bytes = self._vector.size * ITEM_BYTES
        _, ids, blobs, *_ = zip(*rows, strict=True)
        if are_vectors(blobs, vector_bytes):
            scores = self._cosine_scores(blobs)
        else:
            fit = [are_vectors((blob,), vector_bytes) for blob in blobs]
            scores = np.full(len(rows), np.nan)
            scores[fit] = self._cosine_scores([*compress(blobs, fit)])
        self._best.add(ids, scores)
        self._rows |= zip(ids, rows, strict=True)
        self._corrupt += [ids[at] for at in np.flatnonzero(np.isnan(scores)).tolist()]
        return scores

    def _cosine_scores(self, blobs: Sequence[bytes]) -> Float64:
        stored = np.frombuffer(b"".join(blobs), "<f4").reshape(len(blobs), self._vector.size)
        return cosine_scores(stored, self._vector)

    def _matches_arguments(self, row: Row[Any]) -> bool:
        """Return whether the row meets `prefix` and `skip_id`, which chose the candidates too."""
        prefix, skip_id = self._query.prefix, self._query.skip_id
        return (
            row.id is not None
            and row.id != skip_id
            and (prefix is None or row.id.startswith(prefix))
        )

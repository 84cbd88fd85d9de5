"""The rows that a method finds, read until no other is likely to be among the best."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....vectors import Float64
    from ..matrix.state import State
    from .method import Found, Method
    from .segments import Ids

COUNT = 2_000  # rows that the method is asked for
COUNT_PER_RESULT = 100
COUNT_PER_TRIAL = 4  # for each row that a filter is tried on
FEW_ROWS = 400  # where no more rows count, all are read; of others, no more for ten results
READS_PER_RESULT = 40
FIRST_READS = LEARNT_FROM = 64
FETCHED_SHARE = 8  # no more than one in so many rows is read
DEVIATIONS = 3.0  # of the error of estimates, by which a row that is left out may exceed its own
FILTERED_DEVIATIONS = 4.0  # the same under a filter: the best are further away, and closer together
FILTERED_SHARE = 0.75  # where fewer rows of a state count, a filter is why: few rows are dead


class Estimated:
    """Rows of a state that may be among the best, the most promising first. See `Chosen`.

    How far exact scores are off the estimates is learnt from the rows that are read: the latest
    tell what to expect of the next. Until there are enough of them, reading goes on.

    Args:
        ids: Theirs.
        estimates: Of their scores, descending; None if all are to be read.
        most: How many to read at most; more only if the rows are to be read all.
        may_go_on: Whether there are other rows beyond these, to be looked at if need be.
        deviations: Of the error of estimates, by which a row may exceed its own.
    """

    def __init__(
        self,
        ids: list[str],
        estimates: Float64 | None,
        most: int,
        *,
        may_go_on: bool,
        deviations: float = DEVIATIONS,
    ) -> None:
        self.ids = ids
        self._estimates = estimates
        self._ascending = None if estimates is None else -estimates
        self._most = most
        self._may_go_on = may_go_on
        self._deviations = deviations
        self._read = 0
        self._off = np.empty(0)  # the latest scores, less their estimates
        self._slack = np.inf  # how far a score is at most above its estimate, in all likelihood

    @property
    def floor(self) -> float:
        """Every other row probably scores less; minus infinity where no other is looked for."""
        if not self._may_go_on or self._estimates is None or self._read >= self._most:
            return -np.inf
        return float(self._estimates[-1] + self._slack)

    def reaching(self, score: float) -> int:
        """Return how many candidates, from the first on, may reach a score."""
        if self._ascending is None:
            return len(self.ids)
        if self._read >= self._most:
            return 0
        return int(np.searchsorted(self._ascending, self._slack - score, side="right"))

    def first_reads(self, depth: int) -> int:
        """Return how many candidates to read first."""
        few = self._estimates is None
        return len(self.ids) if few else min(len(self.ids), max(FIRST_READS, 2 * depth))

    def agree(self, positions: Sequence[int], scores: Float64, gone: int) -> bool:
        """Return whether none is gone, and learn from the scores."""
        self._read += len(positions)
        if self._estimates is not None:
            off = scores - self._estimates[np.asarray(positions, np.intp)]
            self._off = np.concatenate([self._off, off[np.isfinite(off)]])[-LEARNT_FROM:]
            if len(self._off) == LEARNT_FROM:
                self._slack = float(self._off.mean() + self._deviations * self._off.std())
        return not gone


def _ids(state: State, positions: npt.NDArray[np.intp]) -> list[str]:
    """Return the ids at positions. Thousands are decoded at each search."""
    order = np.argsort(positions)
    bounds = np.searchsorted(positions[order], state.starts).tolist()
    encoded = [b""] * len(positions)
    for n, segment in enumerate(state.segments):
        chosen = order[bounds[n] : bounds[n + 1]]
        if len(chosen):
            kept: Ids = segment.ids  # type: ignore[assignment]
            rows = positions[chosen] - state.starts[n]
            starts, ends = kept.ends[rows].tolist(), kept.ends[rows + 1].tolist()
            text = kept.text
            for at, start, end in zip(chosen.tolist(), starts, ends, strict=True):
                encoded[at] = text[start:end]
    ids = b"\0".join(encoded).decode().split("\0")
    # No id of ours has a NUL; those of other programs may.
    return ids if len(ids) == len(encoded) else [id.decode() for id in encoded]


class CodedProbes:
    """Some queries, made ready. See `Chooser`.

    Args:
        vectors: Each of shape (dimensions,), from `as_query`.
        method: Finds rows by their codes.
    """

    def __init__(self, vectors: Sequence[Float64], method: Method) -> None:
        self.vectors = np.array(vectors)
        self._method = method

    def candidates(
        self,
        query_index: int,
        state: State,
        depth: int,
        min_score: float | None = None,
        wanted: int | None = None,
    ) -> Estimated:
        """Return rows that are probably the nearest to one of the queries.

        Args:
            query_index: Which of the queries.
            state: Whose rows.
            depth: How many of the best to find, or to try a filter on.
            min_score: What a row that is found has to reach.
            wanted: How many results are wanted, where `depth` is what a filter is tried on.
        """
        most = max(FEW_ROWS, READS_PER_RESULT * (wanted or depth))
        if state.rows <= most:
            alive = np.flatnonzero(state.radii < np.inf)
            return Estimated(state.ids(alive.tolist()), None, most, may_go_on=False)
        most = min(most, max(FEW_ROWS, state.rows // FETCHED_SHARE))
        first = most if wanted is None else depth
        count = max(COUNT, COUNT_PER_RESULT * depth) if wanted is None else COUNT_PER_TRIAL * depth
        codes = [segment.codes for segment in state.segments]
        mask = None if state.excluded is None else state.radii < np.inf
        query = self.vectors[query_index].astype(np.float32)
        found: Found = self._method.candidates(codes, query, mask, count)
        ids = _ids(state, found.positions[:first])
        estimates = np.asarray(found.scores[:first], np.float64)
        is_filtered = wanted is not None or state.rows < FILTERED_SHARE * len(state.radii)
        deviations = FILTERED_DEVIATIONS if is_filtered else DEVIATIONS
        may_go_on = wanted is not None
        return Estimated(ids, estimates, most, may_go_on=may_go_on, deviations=deviations)

"""Which rows may be among the best: by int8 products and a bound on their error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .kernel import inner_products, rounding
from .segments import LEVELS, Segment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from ....vectors import Float32, Float64
    from .kernel import Int8
    from .state import State

SECOND_PASS_BYTES = 2**21  # codes gathered at a time for the products with the second digits
MOST_FOLDED_ROWS = 64  # rows of which `_best` keeps the best only
COLUMNS_PER_RESULT = 8  # such bests that `_best` looks at for each result wanted
ESTIMATE_ERROR = 0.03  # share of its bounds' width that a score is rarely off their middle
SMALLEST_VALUE = 1e-30  # below, a value is taken for zero: float32 hardly holds less
FLOAT32_SLACK = 1e-6  # covers the rounding of a few float32 operations on numbers up to 1


@dataclass(frozen=True)
class Candidates:
    """Rows of a state that may be among the best, the most promising first.

    Attributes:
        ids: Theirs.
        lower: float64, shape (candidates,): each one's score is at least this,
        upper: and at most this; descending.
        floor: Every other row scores less; minus infinity if there is no other.
    """

    ids: list[str]
    lower: Float64
    upper: Float64
    floor: float

    def reaching(self, score: float) -> int:
        """Return how many candidates, from the first on, may reach a score."""
        return int(np.searchsorted(-self.upper, -score, side="right"))

    def first_reads(self, depth: int) -> int:
        """Return how many candidates to read first, so that these probably hold the best.

        The middle of the bounds estimates the score, and is much closer to it than they are. This
        number affects the time of a search, never its result.
        """
        if depth >= len(self.ids):
            return len(self.ids)
        estimates, width = (self.lower + self.upper) / 2, self.upper[0] - self.lower[0]
        kth = np.partition(estimates, len(estimates) - depth)[len(estimates) - depth]
        return self.reaching(float(kth - ESTIMATE_ERROR * width))

    def agree(self, positions: Sequence[int], scores: Float64, gone: int) -> bool:
        """Return whether the rows that were read can be those of the state.

        Args:
            positions: Where they stand among the candidates.
            scores: Their exact scores.
            gone: How many more should be there.
        """
        at = np.asarray(positions, np.intp)
        return not gone and bool(((scores >= self.lower[at]) & (scores <= self.upper[at])).all())


class Probes:
    """Some queries, made ready, with what was computed for them.

    A query is kept in two digits of int8: v = s p + t q + f, of which the rest f is tiny. All rows
    are compared with the first digit alone, and with both those that this leaves in question.
    Products are kept for each segment, so that a state that shares segments with an earlier one
    costs only the rest.

    Args:
        vectors: Each of shape (dimensions,), from `as_query`.
    """

    def __init__(self, vectors: Sequence[Float64]) -> None:
        self.vectors = np.array(vectors)
        self._first = _QuantisedQueries.of(self.vectors)
        self._second = _QuantisedQueries.of(self._first.rests)
        self._rounding = rounding(self.vectors.shape[1]) + FLOAT32_SLACK
        self._products: dict[Segment, Float32] = {}
        self._latest: tuple[tuple[Segment, ...], Float32] | None = None

    def candidates(
        self,
        query_index: int,
        state: State,
        depth: int,
        min_score: float | None = None,
        wanted: int | None = None,
    ) -> Candidates:
        """Return all rows that may be among the best for one of the queries.

        Args:
            query_index: Which of the queries.
            state: Whose rows.
            depth: How many of the best to find.
            min_score: Leave out what scores less.
            wanted: How many results are wanted, where `depth` is what a filter is tried on.
        """
        products = self._inner_products(state.segments)[query_index]
        scale, rest = self._first.scale_and_rest(query_index)
        estimates = products * state.scales  # of a query that is not scaled yet: one pass less
        if state.excluded is not None:
            estimates[state.excluded] = -np.inf
        # One margin serves all but the excluded rows: a pass over the rows is the cost.
        margin = state.common_radius * (1.0 + rest) + rest + self._rounding
        least = -np.inf if min_score is None else float(np.clip(min_score, -2.0, 2.0))
        floor = max(scale * _best(estimates, depth) - margin, least)
        near = np.flatnonzero(estimates >= (floor - margin) / scale)
        if state.excluded is not None:
            near = near[state.radii[near] <= state.common_radius]
            outliers = state.outliers
            upper = products[outliers] * state.scales[outliers] * np.float32(scale)
            upper += state.radii[outliers] * np.float32(1.0 + rest) + np.float32(
                rest + self._rounding
            )
            near = np.sort(np.concatenate([near, outliers[upper >= floor]]))
        return self._closer(query_index, state, near, depth, floor)

    def _inner_products(self, segments: tuple[Segment, ...]) -> Float32:
        """Return the products with the first digits, float32, shape (queries, rows)."""
        if self._latest is not None and self._latest[0] == segments:
            return self._latest[1]
        total = sum(map(len, segments))
        known = self._products
        products = np.empty((len(self.vectors), total), np.float32)
        self._products = {}
        start = 0
        for segment in segments:
            part = products[:, start : start + len(segment)]
            if segment in known:
                part[:] = known[segment]
            else:
                inner_products(self._first.codes, segment.codes, part)
            self._products[segment] = part
            start += len(segment)
        self._latest = segments, products
        return products

    def _closer(
        self,
        query_index: int,
        state: State,
        near: npt.NDArray[np.intp],
        depth: int,
        floor: float,
    ) -> Candidates:
        """Narrow the candidates down by both digits."""
        more = np.empty((1, len(near)), np.float32)
        step = max(1, SECOND_PASS_BYTES // self.vectors.shape[1])
        for start in range(0, len(near), step):
            part = slice(start, start + step)
            digits = self._second.codes[query_index : query_index + 1]
            inner_products(digits, state.codes(near[part]), more[:, part])
        products = self._inner_products(state.segments)[query_index]
        scale, _ = self._first.scale_and_rest(query_index)
        fine, rest = self._second.scale_and_rest(query_index)
        estimates = products[near] * np.float32(scale) + more[0] * np.float32(fine)
        estimates *= state.scales[near]
        margins = state.radii[near] * np.float32(1.0 + rest) + np.float32(rest + self._rounding)
        lower, upper = estimates - margins, estimates + margins
        closer = max(_best(lower, depth), floor)
        left = np.flatnonzero(upper >= closer)
        left = left[np.argsort(-upper[left], kind="stable")]
        return Candidates(
            state.ids(near[left].tolist()),
            lower[left].astype(np.float64),
            upper[left].astype(np.float64),
            -np.inf if len(left) == state.rows else closer,
        )


@dataclass(frozen=True)
class _QuantisedQueries:
    """Vectors rounded to int8 with a scale each, and the rest that rounding leaves.

    Attributes:
        codes: int8, shape (vectors, dimensions), from -127 to 127.
        scales: float64, shape (vectors,).
        rests: float64, shape (vectors, dimensions): the vectors less their rounded form.
        lengths: float64, shape (vectors,): the lengths of the rests.
    """

    codes: Int8
    scales: Float64
    rests: Float64
    lengths: Float64

    @classmethod
    def of(cls, vectors: Float64) -> Self:
        """Return vectors quantised, shape (vectors, dimensions)."""
        largest = np.abs(vectors).max(axis=1)
        scales = np.where(largest < SMALLEST_VALUE, 1.0, largest / LEVELS)
        codes = np.rint(vectors / scales[:, np.newaxis])
        rests = vectors - codes * scales[:, np.newaxis]
        lengths = np.sqrt(np.einsum("ij,ij->i", rests, rests))
        return cls(codes.astype(np.int8), scales, rests, lengths)

    def scale_and_rest(self, query_index: int) -> tuple[float, float]:
        """Return the scale of one vector, and the length of its rest."""
        return float(self.scales[query_index]), float(self.lengths[query_index])


def _best(scores: Float32, depth: int) -> float:
    """Return a score that the best `depth` of these reach; minus infinity if there are fewer."""
    if depth > len(scores):
        return -np.inf
    fold = min(len(scores) // (COLUMNS_PER_RESULT * depth), MOST_FOLDED_ROWS)
    if fold > 1:
        # Only the best of each `fold` rows is kept. The kth of these bests is never above the kth
        # of all rows, and seldom much below. A partition of fewer values is faster.
        columns = len(scores) // fold
        scores = scores[: columns * fold].reshape(fold, columns).max(axis=0)
    return float(np.partition(scores, len(scores) - depth)[len(scores) - depth])

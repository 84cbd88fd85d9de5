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

CLOSER_BYTES = 2**21  # codes that are gathered at a time
FOLDED, COLUMNS = 64, 8  # rows of which only the best counts, and how many such for each result
OFF = 0.03  # of the width of its bounds, a score is rarely further off the middle
NOTHING = 1e-30  # so little is left to the rest, because a float32 hardly holds less
TINY = 1e-6  # covers what float32 rounds in sums and products of a few numbers up to 1


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
        """Return how many of them, from the first on, may score so much."""
        return int(np.searchsorted(-self.upper, -score, side="right"))

    def likely(self, depth: int) -> int:
        """Return how many, from the first on, have to be read to tell the best, in all likelihood.

        The estimates are in the middle of the bounds, and much nearer to the scores than these. It
        is a guess, and nothing but time rests on it.
        """
        if depth >= len(self.ids):
            return len(self.ids)
        estimates, width = (self.lower + self.upper) / 2, self.upper[0] - self.lower[0]
        kth = np.partition(estimates, len(estimates) - depth)[len(estimates) - depth]
        return self.reaching(float(kth - OFF * width))

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
        self._first = _Digit.of(self.vectors)
        self._second = _Digit.of(self._first.rests)
        self._rounding = rounding(self.vectors.shape[1]) + TINY
        self._products: dict[Segment, Float32] = {}
        self._latest: tuple[tuple[Segment, ...], Float32] | None = None

    def candidates(
        self, number: int, state: State, depth: int, min_score: float | None = None
    ) -> Candidates:
        """Return all rows that may be among the best for one of the queries.

        Args:
            number: Of the query.
            state: Whose rows.
            depth: How many of the best to find.
            min_score: Leave out what scores less.
        """
        products = self._inner_products(state.segments)[number]
        scale, rest = self._first.scale_and_rest(number)
        estimates = products * state.scales  # of a query that is not scaled yet: one pass less
        if state.aside is not None:
            estimates[state.aside] = -np.inf
        # One margin for all rows but those aside: a pass over the rows takes as long as all else.
        margin = state.reach * (1.0 + rest) + rest + self._rounding
        least = -np.inf if min_score is None else float(np.clip(min_score, -2.0, 2.0))
        floor = max(scale * _best(estimates, depth) - margin, least)
        near = np.flatnonzero(estimates >= (floor - margin) / scale)
        if state.aside is not None:
            near = near[state.radii[near] <= state.reach]
            wide = state.wide
            upper = products[wide] * state.scales[wide] * np.float32(scale)
            upper += state.radii[wide] * np.float32(1.0 + rest) + np.float32(rest + self._rounding)
            near = np.sort(np.concatenate([near, wide[upper >= floor]]))
        return self._closer(number, state, near, depth, floor)

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
        number: int,
        state: State,
        near: npt.NDArray[np.intp],
        depth: int,
        floor: float,
    ) -> Candidates:
        """Narrow the candidates down by both digits."""
        more = np.empty((1, len(near)), np.float32)
        step = max(1, CLOSER_BYTES // self.vectors.shape[1])
        for start in range(0, len(near), step):
            part = slice(start, start + step)
            digits = self._second.codes[number : number + 1]
            inner_products(digits, state.codes(near[part]), more[:, part])
        products = self._inner_products(state.segments)[number]
        scale, _ = self._first.scale_and_rest(number)
        fine, rest = self._second.scale_and_rest(number)
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
class _Digit:
    """Vectors as whole numbers and a scale each, and what that leaves.

    Attributes:
        codes: int8, shape (vectors, dimensions), from -127 to 127.
        scales: float64, shape (vectors,).
        rests: float64, shape (vectors, dimensions): what is left of the vectors.
        lengths: float64, shape (vectors,): those of the rests.
    """

    codes: Int8
    scales: Float64
    rests: Float64
    lengths: Float64

    @classmethod
    def of(cls, vectors: Float64) -> Self:
        """Return the digits of vectors, shape (vectors, dimensions)."""
        largest = np.abs(vectors).max(axis=1)
        scales = np.where(largest < NOTHING, 1.0, largest / LEVELS)
        codes = np.rint(vectors / scales[:, np.newaxis])
        rests = vectors - codes * scales[:, np.newaxis]
        lengths = np.sqrt(np.einsum("ij,ij->i", rests, rests))
        return cls(codes.astype(np.int8), scales, rests, lengths)

    def scale_and_rest(self, number: int) -> tuple[float, float]:
        """Return the scale of one vector, and the length of its rest."""
        return float(self.scales[number]), float(self.lengths[number])


def _best(scores: Float32, depth: int) -> float:
    """Return a score that the best `depth` of these reach; minus infinity if there are fewer."""
    if depth > len(scores):
        return -np.inf
    fold = min(len(scores) // (COLUMNS * depth), FOLDED)
    if fold > 1:
        # The best of every so many rows: the kth of these is no higher than the kth of all, hardly
        # lower, and quicker to find.
        columns = len(scores) // fold
        scores = scores[: columns * fold].reshape(fold, columns).max(axis=0)
    return float(np.partition(scores, len(scores) - depth)[len(scores) - depth])

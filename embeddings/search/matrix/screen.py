"""Which rows may be among the best: by int8 products and a bound on their error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .kernel import inner_products, rounding
from .rows import LEVELS, Segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...vectors import Float32, Float64
    from .kernel import Int8
    from .state import State

LOOKED_AT = 2**21  # values that the second look widens to float32 at a time
FOLDED = 64
TINY = 1e-6  # covers what float32 rounds in sums and products of a few numbers up to 1


@dataclass(frozen=True)
class Candidates:
    """Rows of a state that may be among the best.

    Attributes:
        ids: Theirs.
        lower: float64, shape (candidates,): each one's score is at least this,
        upper: and at most this.
        floor: Every other row scores less; minus infinity if there is no other.
    """

    ids: list[str]
    lower: Float64
    upper: Float64
    floor: float

    def agree(self, scores: dict[str, float], *, all_there: bool) -> bool:
        """Return whether exact scores are within the bounds.

        Args:
            scores: By id; of some of the candidates, and perhaps of others.
            all_there: Whether every candidate has to have one.
        """
        absent = float("nan")  # is neither within bounds nor out of them
        bounds = zip(self.ids, self.lower.tolist(), self.upper.tolist(), strict=True)
        if all_there:
            return all(low <= scores.get(id, absent) <= high for id, low, high in bounds)
        return not any(
            scores.get(id, absent) < low or scores.get(id, absent) > high
            for id, low, high in bounds
        )


class Probes:
    """Some queries, made ready, with what was computed for them.

    Products are kept for each segment, so that a state that shares segments with an earlier one
    costs only the rest.

    Args:
        vectors: Each of shape (dimensions,), from `as_query`.
    """

    def __init__(self, vectors: Sequence[Float64]) -> None:
        self.vectors = np.stack(vectors)
        largest = np.abs(self.vectors).max(axis=1)
        self._scales = largest / LEVELS
        steps = np.where(largest == 0.0, 1.0, self._scales)
        codes = np.rint(self.vectors / steps[:, np.newaxis])
        self._codes: Int8 = codes.astype(np.int8)
        rest = self.vectors - codes * self._scales[:, np.newaxis]
        self._rests = np.sqrt(np.einsum("ij,ij->i", rest, rest))
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
        rest = float(self._rests[number])
        estimates = self._inner_products(state.segments)[number] * (
            state.scales * np.float32(self._scales[number])
        )
        margins = state.radii * np.float32(1.0 + rest)
        margins += np.float32(rest + self._rounding)
        floor = _floor(estimates - margins, depth, min_score)
        estimates += margins
        near = np.flatnonzero((estimates >= floor) & (margins < np.inf))
        return self._closer(number, state, near, depth, floor, min_score)

    def _inner_products(self, segments: tuple[Segment, ...]) -> Float32:
        """Return the products of codes, float32, shape (queries, rows)."""
        if self._latest is not None and self._latest[0] == segments:
            return self._latest[1]
        total = sum(map(len, segments))
        known = self._products
        products = np.empty((len(self._codes), total), np.float32)
        self._products = {}
        start = 0
        for segment in segments:
            part = products[:, start : start + len(segment)]
            if segment in known:
                part[:] = known[segment]
            else:
                inner_products(self._codes, segment.codes, part)
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
        min_score: float | None,
    ) -> Candidates:
        """Narrow the candidates down by products of the query itself with their codes."""
        vector = self.vectors[number].astype(np.float32)
        estimates = np.empty(len(near), np.float32)
        bounds = np.searchsorted(near, state.starts)
        step = max(1, LOOKED_AT // len(vector))
        for segment, first, low, high in zip(
            state.segments, state.starts, bounds, bounds[1:], strict=False
        ):
            for start in range(low, high, step):
                stop = min(start + step, high)
                codes = segment.codes[near[start:stop] - first].astype(np.float32)
                with np.errstate(invalid="ignore"):  # which some BLAS raise beyond the ends
                    estimates[start:stop] = codes @ vector
        estimates *= state.scales[near]
        margins = state.radii[near] + np.float32(self._rounding)
        upper = estimates + margins
        closer = _floor(estimates - margins, depth, min_score)
        left = np.flatnonzero(upper >= closer)
        is_everything = len(left) == state.rows
        return Candidates(
            state.ids(near[left].tolist()),
            (estimates - margins)[left].astype(np.float64),
            upper[left].astype(np.float64),
            -np.inf if is_everything else max(floor, closer),
        )


def _floor(lower: Float32, depth: int, min_score: float | None) -> float:
    """Return a score that the best `depth` rows reach, and that a row has to reach with them."""
    least = -np.inf if min_score is None else float(np.clip(min_score, -2.0, 2.0))
    if depth > len(lower):
        return least
    columns = len(lower) // FOLDED
    if columns > 4 * depth:
        # The best of every so many rows: the kth of these is no higher than the kth of all, hardly
        # lower, and quicker to find.
        lower = lower[: columns * FOLDED].reshape(FOLDED, columns).max(axis=0)
    kth = float(np.partition(lower, len(lower) - depth)[len(lower) - depth])
    return max(kth, least)

"""What one collection's rows are at one point of the change log, in memory."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ....vectors import ITEM_BYTES
from .segments import IdTable, Segment, row_bytes

if TYPE_CHECKING:
    from collections.abc import Collection as Ids
    from collections.abc import Iterable, Sequence
    from typing import Self

    from ....vectors import Float32
    from .kernel import Int8

DEAD_SHARE = 8  # a segment is rewritten when one in this many of its rows is dead
OUTLIER_FACTOR = 1.5  # a radius above this many times the median is an outlier's
OUTLIER_SHARE = 8  # common_radius is found anew when one in this many rows is an outlier
SEGMENTS_COMPACTED = 2  # wasteful segments rewritten after one write: a bound on its memory
MOST_LOOKUPS = 2_000  # of an id in a segment; more take longer than to go through all hashes
COPIED_SHARE = 16  # one in so many rows is few enough to be copied for a search
JOINED_BYTES = 2 * ITEM_BYTES  # of a row: scale and radius, joined over all segments


class Mark(NamedTuple):
    """A row of the change log: in a database that holds it, all that came before is the same."""

    seq: int
    token: bytes


@dataclass(frozen=True, eq=False)
class State:
    """The rows up to a mark; never changed, and shared by all that search.

    Attributes:
        mark: The newest row of the log, for this collection, that is taken into account.
        segments: The rows, and among them dead ones, which are out of date.
        radii: float32, shape (rows,): those of the segments; infinite for a dead row.
        common_radius: A bound on the radii of nearly all rows. Rows above it are outliers, with a
            bound each. Dead rows and outliers are excluded from the common bound.
        invalid: The ids of rows whose vector cannot be compared.
    """

    mark: Mark
    segments: tuple[Segment, ...]
    radii: Float32
    common_radius: float
    invalid: frozenset[str]

    @classmethod
    def of(cls, mark: Mark, segments: Sequence[Segment], invalid: Iterable[str] = ()) -> Self:
        """Return the state of these segments, without dead rows."""
        radii = _joined([segment.radii for segment in segments])
        return cls(mark, tuple(segments), radii, _common_radius(radii), frozenset(invalid))

    @cached_property
    def starts(self) -> list[int]:
        """Where each segment's rows begin among all, and at the end their number."""
        return list(accumulate(map(len, self.segments), initial=0))

    @cached_property
    def scales(self) -> Float32:
        """float32, shape (rows,)."""
        return _joined([segment.scales for segment in self.segments])

    @cached_property
    def excluded(self) -> npt.NDArray[np.bool_] | None:
        """Which rows are dead or outliers, shape (rows,); None if none is."""
        is_excluded = self.radii > self.common_radius
        return is_excluded if is_excluded.any() else None

    @cached_property
    def outliers(self) -> npt.NDArray[np.intp]:
        """Where the outliers stand."""
        if self.excluded is None:
            return np.empty(0, np.intp)
        positions = np.flatnonzero(self.excluded)
        return positions[self.radii[positions] < np.inf]

    @cached_property
    def rows(self) -> int:
        """The number of rows that count."""
        return int(np.count_nonzero(self.radii < np.inf))

    def positions(self, ids: Ids[str]) -> list[int]:
        """Return where those of the ids stand that are there, dead or alive."""
        has_hashes = bool(self.segments) and isinstance(self.segments[0], Segment)  # an index: none
        if has_hashes and len(ids) * len(self.segments) > MOST_LOOKUPS:
            sought = {*ids}
            table = IdTable(sought)
            return [
                start + at
                for start, segment in zip(self.starts, self.segments, strict=False)
                for at in segment.positions(table).tolist()
                if segment.ids[at] in sought
            ]
        return [
            start + at
            for id in ids
            for start, segment in zip(self.starts, self.segments, strict=False)
            if (at := segment.position(id)) is not None
        ]

    def ids(self, positions: Iterable[int]) -> list[str]:
        """Return the ids at positions."""
        starts, segments = self.starts, self.segments
        return [
            segments[at].ids[position - starts[at]]
            for position in positions
            for at in [bisect_right(starts, position) - 1]
        ]

    def codes(self, positions: npt.NDArray[np.intp]) -> Int8:
        """Return the codes at positions, which ascend: int8, shape (positions, dimensions)."""
        bounds = np.searchsorted(positions, self.starts).tolist()
        return np.concatenate(
            [
                segment.codes[positions[low:high] - first]
                for segment, first, low, high in zip(
                    self.segments, self.starts, bounds, bounds[1:], strict=False
                )
                if low < high
            ]
        )

    def without(self, ids: Ids[str]) -> State:
        """Return the state in which these do not count."""
        return self._with_dead(self.positions(ids))

    def only(self, ids: set[str]) -> State:
        """Return the state in which no others than these count, of which there may be any number.

        Few rows are copied, so that only they are compared.
        """
        table = IdTable(ids)
        kept = [segment.positions(table) for segment in self.segments]
        starts = zip(self.starts, kept, strict=False)
        at = np.concatenate([[], *(start + part for start, part in starts)]).astype(np.intp)
        if len(at) * COPIED_SHARE > len(self.radii):
            radii = np.full_like(self.radii, np.inf)
            radii[at] = self.radii[at]
            return replace(self, radii=radii)
        pairs = zip(self.segments, kept, strict=True)
        segments = tuple(segment.at(part) for segment, part in pairs if len(part))
        return replace(self, segments=segments, radii=self.radii[at])

    def starting_with(self, prefix: str) -> State:
        """Return the state of the ids that begin so."""
        segments = [segment.starting_with(prefix) for segment in self.segments]
        radii = [
            self.radii[start + low : start + low + len(part)]
            for start, segment, part in zip(self.starts, self.segments, segments, strict=False)
            for low in ([segment.position(part.ids[0]) or 0] if part.ids else [0])
        ]
        invalid = frozenset(id for id in self.invalid if id.startswith(prefix))
        return replace(self, segments=tuple(segments), radii=_joined(radii), invalid=invalid)

    def patched(
        self, mark: Mark, changed: Ids[str], segments: Sequence[Segment], invalid: Iterable[str]
    ) -> State:
        """Return the state after some rows were written.

        Args:
            mark: The newest row of the log by then.
            changed: All ids that were written, or deleted.
            segments: Those of them that are there.
            invalid: Those that are there and cannot be compared.
        """
        old = self.without(changed)
        radii = _joined([old.radii, *(segment.radii for segment in segments)])
        rest = (old.invalid - set(changed)) | set(invalid)
        return State(mark, (*old.segments, *segments), radii, self.common_radius, rest).tidied()

    def _with_dead(self, positions: Sequence[int]) -> State:
        if not positions:
            return self
        radii = self.radii.copy()
        radii[positions] = np.inf
        return replace(self, radii=radii)

    def tidied(self) -> State:
        """Return the same with few small segments, and not many dead rows.

        A write costs little: neighbours are put together only where that doubles the smaller, so
        that each row moves a few times in its life.
        """
        parts = [
            _Part(segment, self.radii[start : start + len(segment)])
            for start, segment in zip(self.starts, self.segments, strict=False)
        ]
        wasteful = [at for at, part in enumerate(parts) if part.dead * DEAD_SHARE > len(part.radii)]
        wasteful.sort(key=lambda at: -parts[at].dead)
        for at in wasteful[:SEGMENTS_COMPACTED]:
            parts[at] = _Part.of(parts[at : at + 1])
        most = self.segments[0].most_rows if self.segments else 0
        at = len(parts) - 1
        while at > 0:
            left, right = (len(part.radii) - part.dead for part in parts[at - 1 : at + 1])
            if left <= 2 * right and left + right <= most:
                parts[at - 1 : at + 1] = [_Part.of(parts[at - 1 : at + 1])]
            at -= 1
        segments = tuple(part.segment for part in parts)
        tidy = replace(self, segments=segments, radii=_joined([part.radii for part in parts]))
        if len(tidy.outliers) * OUTLIER_SHARE > tidy.rows:
            return replace(tidy, common_radius=_common_radius(tidy.radii))
        return tidy


class _Part:
    """A segment with its radii in a state."""

    def __init__(self, segment: Segment, radii: Float32) -> None:
        self.segment, self.radii = segment, radii
        self.dead = len(radii) - int(np.count_nonzero(radii < np.inf))

    @classmethod
    def of(cls, parts: Sequence[_Part]) -> Self:
        """Return the rows of some parts that are not dead, as one."""
        chosen = [(part.segment, np.flatnonzero(part.radii < np.inf)) for part in parts]
        segment = parts[0].segment.gathered(chosen)
        return cls(segment, segment.radii)


def bytes_of(*states: State) -> int:
    """Return the memory that states take together; segments that they share count once."""
    segments = {segment for state in states for segment in state.segments}
    joined = JOINED_BYTES * sum(len(state.radii) for state in states)
    return joined + sum(segment.nbytes for segment in segments)


def expected_bytes(rows: int, dimensions: int) -> int:
    """Return what `bytes_of` will be of a state that is yet to be loaded."""
    return rows * (row_bytes(dimensions) + JOINED_BYTES)


def _common_radius(radii: Float32) -> float:
    """Return what all but few of the finite radii are at most, however many rows are zeros."""
    finite = radii[(radii > 0.0) & (radii < np.inf)]
    if not len(finite):
        return 0.0
    middle = len(finite) // 2
    median = np.partition(finite, middle)[middle]  # np.median imports numpy.ma: 40 ms
    return float(min(finite.max(), OUTLIER_FACTOR * median))


def _joined(arrays: Sequence[Float32]) -> Float32:
    return np.concatenate(arrays) if arrays else np.empty(0, np.float32)

"""Rows in memory: int8 with a scale each, and how far from the row that can be.

A row of unit length u is kept as s c + e: whole numbers c from -127 to 127, a scale s, and of the
rest e only a bound r >= |e| on its length. A query of unit length is t p + f likewise. Then

    |q.u - t s p.c| <= |t p| |e| + |f| |u| <= (1 + |f|) r + |f|

by Cauchy and Schwarz, so that the product of whole numbers tells within which interval the cosine
lies.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ....vectors import ITEM_BYTES
from .kernel import rounding

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from typing import Self

    from ....vectors import Float32
    from .kernel import Int8

Hashes: TypeAlias = npt.NDArray[np.int64]

SEGMENT_BYTES = 6 * 2**20  # of codes in a segment, at most
SEGMENT_ROWS = 2**13  # in a segment, at most: few segments, each rewritten in milliseconds
ID_BYTES = 80  # of a short id as a Python string, with its place in a tuple
HASH_BYTES = 8
LEVELS = 127
TABLE_FACTOR = 64  # places of a table for each id that is sought
TABLE_PLACES = 2**22  # in a table, at most


@dataclass(frozen=True, eq=False, slots=True)
class Segment:
    """Some rows, never changed.

    Attributes:
        ids: Ascending.
        codes: int8, shape (rows, dimensions).
        scales: float32, shape (rows,); 0 for a row of zeros.
        radii: float32, shape (rows,): the bound on what the codes leave out of a unit row.
        hashes: int64, shape (rows,): of the ids.
    """

    ids: tuple[str, ...]
    codes: Int8
    scales: Float32
    radii: Float32
    hashes: Hashes

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        return len(self) * row_bytes(self.codes.shape[1])

    @property
    def most_rows(self) -> int:
        """How many rows a segment has at most, or hardly more."""
        return segment_rows(self.codes.shape[1])

    def position(self, id: str) -> int | None:
        """Return where the id stands, if it does."""
        at = bisect_left(self.ids, id)
        return at if at < len(self.ids) and self.ids[at] == id else None

    def positions(self, ids: IdTable) -> npt.NDArray[np.intp]:
        """Return where those of the ids stand that are there, ascending."""
        return ids.positions(self.hashes)

    def starting_with(self, prefix: str) -> Segment:
        """Return the rows whose id begins so; their codes are not copied."""
        return self.between(*self.range_of(prefix))

    def range_of(self, prefix: str) -> tuple[int, int]:
        """Return from where to where the ids stand that begin so."""
        low = bisect_left(self.ids, prefix)
        return low, bisect_right(self.ids, prefix, lo=low, key=lambda text: text[: len(prefix)])

    def at(self, positions: npt.NDArray[np.intp]) -> Segment:
        """Return a copy of the rows at positions, which ascend."""
        return Segment(
            tuple([self.ids[at] for at in positions.tolist()]),
            self.codes[positions],
            self.scales[positions],
            self.radii[positions],
            self.hashes[positions],
        )

    def between(self, low: int, high: int) -> Segment:
        """Return the rows from one position up to another; their codes are not copied."""
        return Segment(
            self.ids[low:high],
            self.codes[low:high],
            self.scales[low:high],
            self.radii[low:high],
            self.hashes[low:high],
        )

    @classmethod
    def packed(cls, ids: Sequence[str], matrix: Float32) -> Self:
        """Return the segment of some rows; the radius of one that is not finite is not either.

        Args:
            ids: Theirs, ascending.
            matrix: Shape (rows, dimensions).
        """
        return cls(tuple(ids), *quantised(matrix), hashes(ids))

    def gathered(self, parts: Sequence[tuple[Self, Any]]) -> Self:
        """Return one segment of the rows at the given positions of each, in the order of the ids.

        Args:
            parts: Segments of this kind, and for each an array of positions.
        """
        ids: list[str] = []
        taken = []  # slices of what is taken whole: nothing is copied twice
        for part, chosen in parts:
            is_whole = len(chosen) == len(part)
            ids += part.ids if is_whole else [part.ids[at] for at in chosen.tolist()]
            taken.append((part, slice(None) if is_whole else chosen))
        arrays = []
        for name in ("codes", "scales", "radii", "hashes"):
            pieces = [getattr(part, name)[chosen] for part, chosen in taken]
            arrays.append(np.concatenate(pieces) if len(pieces) > 1 else pieces[0])
        in_order = sorted(ids)
        if in_order != ids:
            order = np.array(sorted(range(len(ids)), key=ids.__getitem__))
            ids, arrays = in_order, [array[order] for array in arrays]
        return type(self)(tuple(ids), *arrays)


class IdTable:
    """A set of ids, of any size, that is looked for by hashes of 64 bits.

    To go to the strings would take longer than all else. A row that is taken for another, which
    nobody will see, does not meet the condition when it is read.

    Args:
        ids: The set.
    """

    def __init__(self, ids: set[str]) -> None:
        self._hashes = np.sort(hashes(ids))
        places = min(1 << (TABLE_FACTOR * len(ids)).bit_length(), TABLE_PLACES)
        self._mask = np.int64(places - 1)
        self._is_there = np.zeros(places, bool)
        self._is_there[self._hashes & self._mask] = True

    def positions(self, hashes: Hashes) -> npt.NDArray[np.intp]:
        """Return where the hashes stand that are of the ids, ascending."""
        if not len(self._hashes):
            return np.empty(0, np.intp)
        near = np.flatnonzero(self._is_there[hashes & self._mask])
        sought = hashes[near]
        places = np.searchsorted(self._hashes, sought).clip(max=len(self._hashes) - 1)
        found: npt.NDArray[np.intp] = near[self._hashes[places] == sought]
        return found


def hashes(ids: Collection[str]) -> Hashes:
    """Return the hashes of ids, int64, shape (ids,)."""
    return np.fromiter(map(hash, ids), np.int64, len(ids))


def row_bytes(dimensions: int) -> int:
    """Return the memory of a row in a segment: codes, scale, radius, id and its hash."""
    return dimensions + 2 * ITEM_BYTES + HASH_BYTES + ID_BYTES


def segment_rows(dimensions: int) -> int:
    """Return how many rows a segment has at most, or hardly more."""
    return max(1, min(SEGMENT_ROWS, SEGMENT_BYTES // dimensions))


class Packer:
    """Makes segments of stored rows, in memory of about one segment more than they take.

    Args:
        dimensions: Of the vectors; rows of other lengths are invalid.
        pack: Makes a segment of ids and vectors, as `Segment.packed`.
    """

    def __init__(
        self, dimensions: int, pack: Callable[[Sequence[str], Float32], Any] = Segment.packed
    ) -> None:
        self._dimensions = dimensions
        self._pack = pack
        self._parts: list[Any] = []
        self._waiting = 0
        self._segments: list[Any] = []
        self.invalid: list[str] = []
        """The ids of rows that hold no finite vector of this length."""

    def add(self, rows: Iterable[tuple[str, Any]]) -> None:
        """Take in ids with what is stored as their embeddings: some dozens at a time."""
        vector_bytes = self._dimensions * ITEM_BYTES
        rows = list(rows)
        fit = [row for row in rows if type(row[1]) is bytes and len(row[1]) == vector_bytes]
        if len(fit) < len(rows):
            chosen = {id for id, _ in fit}
            self.invalid += [id for id, _ in rows if id not in chosen]
        if not fit:
            return
        ids, blobs = zip(*fit, strict=True)
        matrix = np.frombuffer(b"".join(blobs), "<f4").reshape(len(ids), -1)
        part = self._pack(ids, matrix)
        finite = np.isfinite(part.radii)
        if not finite.all():
            self.invalid += [ids[at] for at in np.flatnonzero(~finite).tolist()]
            part = part.gathered([(part, np.flatnonzero(finite))])
        self._parts.append(part)
        self._waiting += len(part)
        if self._waiting >= part.most_rows:
            self._close()

    def segments(self) -> list[Any]:
        """Return what was made of all the rows."""
        self._close()
        return self._segments

    def _close(self) -> None:
        if self._waiting:
            parts = [(part, np.arange(len(part))) for part in self._parts]
            self._segments.append(parts[0][0].gathered(parts))
        self._parts, self._waiting = [], 0


def quantised(matrix: Float32) -> tuple[Int8, Float32, Float32]:
    """Return codes, scales and radii of the rows, made one unit long.

    A row of zeros has codes, scale and radius 0; one that is not finite has no finite radius.

    Args:
        matrix: Shape (rows, dimensions).
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
        units = (matrix / norms[:, np.newaxis]).astype(np.float32)
        units[norms == 0.0] = 0.0
        scales = np.abs(units).max(axis=1) / np.float32(LEVELS)
        codes = np.rint(units / scales[:, np.newaxis])
        codes[scales == 0.0] = 0.0
        units -= codes * scales[:, np.newaxis]
        # What is added covers the float32 roundings above.
        radii = np.sqrt(np.einsum("ij,ij->i", units, units)) * np.float32(
            1.0 + rounding(matrix.shape[1])
        ) + np.float32(1e-6)
        radii[scales == 0.0] = 0.0
        return codes.astype(np.int8), scales, radii

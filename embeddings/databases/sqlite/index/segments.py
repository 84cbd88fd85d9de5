"""Rows in memory as codes of a method, with ids in one piece of memory."""

from __future__ import annotations

import itertools
import secrets
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from ....vectors import ITEM_BYTES
from ..matrix.segments import Packer

if TYPE_CHECKING:
    from typing import Self

    from ....vectors import Float32
    from .method import Codes, Method

SEGMENT_ROWS = 2**15 - 2**8  # at most, or hardly more
SEGMENT_BYTES = 6 * 2**20  # of codes in a segment, at most


class Ids(Sequence[str]):
    """Ids, ascending, in one piece of memory: UTF-8, which has the order of the code points.

    Args:
        text: All of them, one after the other.
        ends: uint32, shape (ids + 1,): where each ends, after the place where the first begins.
    """

    __slots__ = ("ends", "places", "text")

    def __init__(self, text: bytes, ends: npt.NDArray[np.uint32]) -> None:
        self.text, self.ends = text, ends
        # Of it one is read in a fraction of the time.
        self.places = memoryview(ends)  # type: ignore[arg-type]

    @classmethod
    def of(cls, encoded: Sequence[bytes]) -> Self:
        """Return ids that are encoded already."""
        ends = np.zeros(len(encoded) + 1, np.uint32)
        np.cumsum([*map(len, encoded)], out=ends[1:])
        return cls(b"".join(encoded), ends)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def encoded(self, position: int) -> bytes:
        """Return one of them as it is kept."""
        return self.text[self.places[position] : self.places[position + 1]]

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> Ids: ...
    def __getitem__(self, position: int | slice) -> str | Ids:
        if isinstance(position, slice):
            low, high, _ = position.indices(len(self))
            return Ids(self.text, self.ends[low : max(low, high) + 1])
        if position < 0:
            raise IndexError(position)
        return self.text[self.places[position] : self.places[position + 1]].decode()

    def __iter__(self) -> Iterator[str]:
        ends, text = self.ends.tolist(), self.text
        return (text[a:b].decode() for a, b in itertools.pairwise(ends))

    @property
    def nbytes(self) -> int:
        """The memory that they take."""
        return int(self.ends[-1] - self.ends[0]) + self.ends.nbytes


@dataclass(frozen=True, eq=False, slots=True)
class CodedSegment:
    """Some rows, never changed. It has what `State` needs of a segment.

    Attributes:
        ids: Ascending.
        codes: What the method made of them.
        radii: float32, shape (rows,): zeros; infinite for a vector that is not finite.
        method: The method.
        key: A random number, by which the database keeps it.
    """

    ids: Ids
    codes: Codes
    radii: Float32
    method: Method
    key: int = field(default_factory=lambda: secrets.randbits(62) + 1)

    @classmethod
    def packed(cls, ids: Sequence[str], matrix: Float32, method: Method) -> Self:
        """Return the segment of some rows. Arguments as in `Segment.packed`."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            norms = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
            units = (matrix / norms[:, np.newaxis]).astype(np.float32)
        units[norms == 0.0] = 0.0
        finite = np.isfinite(norms)
        units[~finite] = 0.0
        radii = np.where(finite, np.float32(0.0), np.float32(np.inf))
        return cls(Ids.of([id.encode() for id in ids]), method.encode(units), radii, method)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        return self.codes.nbytes + self.ids.nbytes

    @property
    def most_rows(self) -> int:
        """How many rows a segment has at most, or hardly more."""
        row_bytes = max(1, self.codes.nbytes // max(1, len(self)))
        return max(1, min(SEGMENT_ROWS, SEGMENT_BYTES // row_bytes))

    def position(self, id: str) -> int | None:
        """Return where the id stands, if it does."""
        at = bisect_left(self.ids, id)
        return at if at < len(self.ids) and self.ids[at] == id else None

    def range_of(self, prefix: str) -> tuple[int, int]:
        """Return from where to where the ids stand that begin so."""
        low = bisect_left(self.ids, prefix)
        return low, bisect_right(self.ids, prefix, lo=low, key=lambda text: text[: len(prefix)])

    def gathered(self, parts: Sequence[tuple[CodedSegment, Any]]) -> CodedSegment:
        """Return one segment of some rows. See `Segment.gathered`."""
        ids = [part.ids.encoded(at) for part, chosen in parts for at in chosen.tolist()]
        pieces = [np.take(part.codes, chosen, axis=-1) for part, chosen in parts]
        codes = np.concatenate(pieces, axis=-1) if len(pieces) > 1 else pieces[0]
        order = sorted(range(len(ids)), key=ids.__getitem__)
        if order != list(range(len(ids))):
            ids = [ids[at] for at in order]
            codes = np.take(codes, order, axis=-1)
        return CodedSegment(Ids.of(ids), codes, no_radii(len(ids)), self.method)


def no_radii(rows: int) -> Float32:
    """Return zeros, shape (rows,), which take no memory."""
    return np.broadcast_to(np.float32(0.0), rows)


class CodedPacker(Packer):
    """Makes segments of codes."""

    def __init__(self, dimensions: int, method: Method) -> None:
        super().__init__(dimensions, lambda ids, matrix: CodedSegment.packed(ids, matrix, method))


def row_bytes(dimensions: int, id_bytes: int = 40) -> int:
    """Return the memory of a row, for a method that takes a bit for each dimension."""
    return -(-dimensions // 64) * 8 + id_bytes + 2 * ITEM_BYTES

"""Sign bits: of each value of a vector whether it is above zero, one bit.

Rows are chosen by the Hamming distance of their bits to those of the query, which takes one pass
over the bits, and put in order by the product of the query's values with the bits as signs.

Source: Charikar, "Similarity estimation techniques from rounding algorithms", STOC 2002, for the
distance; Gao and Long, "RaBitQ", SIGMOD 2024, for the product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .method import Codes, Found, Method

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....vectors import Float32

CHUNK_ROWS = 2**15  # whose distances are computed at a time: what that takes stays in the cache
WORD_BITS = 64
PLANES_PER_BYTE = 3  # words whose differing bits a byte can count
CUT_FACTOR = 2  # the nearest are chosen anew when there are so many times too many
SPARSE_SHARE = 32  # where only one in this many rows counts, these are compared alone
FARTHEST = np.iinfo(np.uint16).max  # the distance of a row that does not count
SIGNS = np.ascontiguousarray(
    np.unpackbits(np.arange(256, dtype=np.uint8)[np.newaxis], axis=0, bitorder="little")
    * np.float32(2.0)
    - np.float32(1.0)
)
"""The signs that each byte stands for, float32, shape (8, 256)."""


class Bits(Method):
    """One bit a dimension. Codes are uint64, (words, rows): a plane for each 64 dimensions."""

    name = "bits"

    def encode(self, rows: Float32) -> Codes:
        """Return the signs, packed."""
        packed = np.packbits(rows > 0, axis=1, bitorder="little")
        words = -(-rows.shape[1] // WORD_BITS)
        padded = np.zeros((len(rows), words * 8), np.uint8)
        padded[:, : packed.shape[1]] = packed
        return np.ascontiguousarray(padded.view("<u8").T)

    def candidates(
        self,
        codes: Sequence[Codes],
        query: Float32,
        mask: npt.NDArray[np.bool_] | None,
        count: int,
    ) -> Found:
        """Return the rows with the nearest bits, and a few more with equal distances."""
        if mask is not None and np.count_nonzero(mask) * SPARSE_SHARE < len(mask):
            positions = np.flatnonzero(mask)
            return _ordered(positions, _products(_gathered(codes, positions), query))
        words = self.encode(query[np.newaxis])[:, 0]
        near = _Nearest(count)
        start = 0
        for planes in codes:
            rows = planes.shape[1]
            for first in range(0, rows, CHUNK_ROWS):
                part = planes[:, first : first + CHUNK_ROWS]
                distances = _distances(part, words)
                if mask is not None:
                    at = start + first
                    distances[~mask[at : at + part.shape[1]]] = FARTHEST
                near.add(start + first, distances)
            start += rows
        positions = near.positions()
        return _ordered(positions, _products(_gathered(codes, positions), query))


def _ordered(positions: npt.NDArray[np.intp], scores: Float32) -> Found:
    order = np.argsort(-scores, kind="stable")
    return Found(positions[order], scores[order])


class _Nearest:
    """The nearest of a stream of rows."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._positions: list[npt.NDArray[np.intp]] = []
        self._distances: list[npt.NDArray[np.uint16]] = []
        self._size = 0
        self._limit = FARTHEST  # what is as far is not among the nearest

    def add(self, start: int, distances: npt.NDArray[np.uint16]) -> None:
        limit = self._limit
        if limit == FARTHEST and len(distances) > CUT_FACTOR * self._count:
            limit = _limit(distances, self._count)
        near = np.flatnonzero(distances < limit)
        self._positions.append(near + start)
        self._distances.append(distances[near])
        self._size += len(near)
        if self._size > CUT_FACTOR * self._count:
            self._cut()

    def positions(self) -> npt.NDArray[np.intp]:
        if self._size > self._count:
            self._cut()
        return np.concatenate(self._positions) if self._positions else np.empty(0, np.intp)

    def _cut(self) -> None:
        positions, distances = np.concatenate(self._positions), np.concatenate(self._distances)
        self._limit = min(self._limit, _limit(distances, self._count))
        near = distances < self._limit
        self._positions, self._distances = [positions[near]], [distances[near]]
        self._size = len(self._distances[0])


def _limit(distances: npt.NDArray[np.uint16], count: int) -> int:
    """Return a distance below which there are `count` rows, or a few more; or all that count."""
    numbers = np.bincount(distances)
    return min(int(np.searchsorted(np.cumsum(numbers), count)) + 1, FARTHEST)


def _distances(planes: Codes, words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint16]:
    """Return the Hamming distance of each row, shape (rows,)."""
    rows = planes.shape[1]
    total = np.zeros(rows, np.uint16)
    differing = np.empty(rows, np.uint64)
    bits, some = np.empty(rows, np.uint8), np.empty(rows, np.uint8)
    for first in range(0, len(planes), PLANES_PER_BYTE):
        for at, plane in enumerate(planes[first : first + PLANES_PER_BYTE]):
            np.bitwise_xor(plane, words[first + at], out=differing)
            np.bitwise_count(differing, out=bits if at else some)
            if at:
                some += bits
        total += some
    return total


def _gathered(codes: Sequence[Codes], positions: npt.NDArray[np.intp]) -> npt.NDArray[np.uint8]:
    """Return the bits of rows, whose positions ascend, shape (rows, bytes)."""
    starts = np.cumsum([0, *(planes.shape[1] for planes in codes)])
    bounds = np.searchsorted(positions, starts).tolist()
    parts = [
        np.take(planes, positions[low:high] - first, axis=1)
        for planes, first, low, high in zip(
            codes, starts.tolist(), bounds, bounds[1:], strict=False
        )
        if low < high
    ]
    if not parts:
        return np.empty((0, 0), np.uint8)
    return np.ascontiguousarray(np.concatenate(parts, axis=1).T).view(np.uint8)


def _products(bits: npt.NDArray[np.uint8], query: Float32) -> Float32:
    """Return the product of the query with each row of signs, float32, shape (rows,).

    It is looked up a byte at a time.
    """
    if not len(bits):
        return np.empty(0, np.float32)
    padded = np.zeros(bits.shape[1] * 8, np.float32)
    padded[: query.size] = query / np.float32(np.sqrt(query.size))
    table = padded.reshape(-1, 8) @ SIGNS
    places = bits + np.arange(0, table.size, 256)
    # To wrap around costs less than to look whether all are in range, which they are.
    products: Float32 = table.take(places, mode="wrap") @ np.ones(bits.shape[1], np.float32)
    return products

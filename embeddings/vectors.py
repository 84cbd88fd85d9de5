"""Vectors: bytes and float32, cosine similarity, the best k. NumPy and nothing else."""

from __future__ import annotations

import array
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .errors import InvalidVectorError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Float32: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]
VectorLike: TypeAlias = "Iterable[float] | npt.NDArray[Any]"

_WIRE = np.dtype("<f4")
ITEM_BYTES = _WIRE.itemsize


def as_vector(values: VectorLike, *, label: str = "vector") -> Float32:
    """Return the values as a finite float32 array of shape (dimensions,).

    Args:
        values: A NumPy array, a list or any iterable of numbers.
        label: What the vector is called in an error.

    Raises:
        InvalidVectorError: It is empty, not one-dimensional, holds something that is not a
            number, or a value that float32 cannot hold (NaN, infinity, overflow).
    """
    return _narrow(_wide(values, label), label)


def as_vectors(values: Sequence[VectorLike], *, label: str = "") -> list[Float32]:
    """Return each of the values as `as_vector` does.

    Args:
        values: Any number of vectors, of any lengths.
        label: What they are called in an error, after their number.

    Raises:
        InvalidVectorError: As `as_vector`, of the first; `positions` tells which ones are unfit,
            and `made` has the others.
    """
    matrix = _as_matrix(values)
    if matrix is not None:
        return list(matrix)
    vectors: dict[int, Float32] = {}
    errors: dict[int, InvalidVectorError] = {}
    for position, row in enumerate(values):
        try:
            vectors[position] = as_vector(row, label=f"vector {position} {label}")
        except InvalidVectorError as error:
            errors[position] = error
    if errors:
        first = next(iter(errors.values()))
        first.positions, first.made = tuple(errors), vectors
        raise first
    return list(vectors.values())


def _as_matrix(values: Sequence[VectorLike]) -> Float32 | None:
    """Return a copy with the vectors as its rows, if they are finite float32 of one length.

    To look at one row after the other takes several times longer.
    """
    rows: Any = values
    if {type(row) for row in rows} != {np.ndarray}:
        return None
    if len({(row.dtype, row.shape) for row in rows}) > 1 or rows[0].dtype != np.float32:
        return None
    # A copy: a model may hand out one piece of memory again and again.
    matrix: Float32 = np.array(rows)
    is_fine = matrix.ndim == 2 and matrix.size > 0 and np.isfinite(matrix).all()
    return matrix if is_fine else None


def as_query(values: VectorLike, label: str = "query vector") -> Float64:
    """Return the values as a float64 array of shape (dimensions,) and length 1, or all zeros.

    Args:
        values: As in `as_vector`.
        label: What the vector is called in an error.

    Raises:
        InvalidVectorError: As `as_vector`, except that float64's range is allowed.
    """
    with np.errstate(over="ignore"):
        vector = _wide(values, label).astype(np.float64)
    if not np.isfinite(vector).all():
        raise InvalidVectorError(f"{label}: holds NaN or infinity")
    largest = np.abs(vector).max()
    if largest == 0.0:
        return vector
    vector /= largest  # so that neither tiny nor huge values leave the range when squared
    return np.asarray(vector / np.sqrt(vector @ vector))


def _wide(values: VectorLike, label: str) -> npt.NDArray[Any]:
    if isinstance(values, np.ndarray):
        numbers: npt.NDArray[Any] = values
        if numbers.dtype.kind not in "fiu" or hasattr(numbers, "mask"):
            raise InvalidVectorError(f"{label}: {type(numbers).__name__} of {numbers.dtype}")
        if numbers.dtype == np.uint8:
            raise InvalidVectorError(
                f"{label}: uint8 are codes and not values. Unpack bits with "
                "np.unpackbits(codes) * 2.0 - 1, and take the offset from others: "
                "codes.astype(np.float32) - 128"
            )
    elif isinstance(values, str | bytes | bytearray):
        raise InvalidVectorError(f"{label}: expected numbers, got {type(values).__name__}")
    else:
        try:
            # array.array refuses strings and None, which NumPy would convert, and is faster.
            numbers = np.frombuffer(array.array("d", values), np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidVectorError(f"{label}: expected numbers: {error}") from None
    if numbers.ndim != 1:
        raise InvalidVectorError(f"{label}: expected one dimension, got shape {numbers.shape}")
    if not numbers.size:
        raise InvalidVectorError(f"{label}: is empty")
    return numbers


def _narrow(numbers: npt.NDArray[Any], label: str) -> Float32:
    vector = numbers
    if numbers.dtype != np.float32:
        with np.errstate(over="ignore"):
            vector = numbers.astype(np.float32)
    if not np.isfinite(vector).all():
        position = int(np.flatnonzero(~np.isfinite(vector))[0])
        raise InvalidVectorError(
            f"{label}: value {float(numbers[position])!r} at position {position} "
            "is not a finite float32"
        )
    return vector


def encode(values: VectorLike) -> bytes:
    """Return the vector as stored: little-endian float32, four bytes a value.

    Source: the byte format of `llm`, `struct.pack("<" + "f" * n, *values)`.

    >>> encode([1.0, -2.0]).hex()
    '0000803f000000c0'

    Raises:
        InvalidVectorError: As `as_vector`.
    """
    return as_stored(as_vector(values)).tobytes()


def as_stored(vector: Float32) -> Float32:
    """Return an array whose memory is `encode(vector)`, for a driver that takes any buffer."""
    return np.ascontiguousarray(vector, _WIRE)


def decode(data: bytes) -> tuple[float, ...]:
    """Return the values of a stored vector as a tuple of Python floats.

    >>> decode(encode([1.0, -2.0]))
    (1.0, -2.0)

    Raises:
        InvalidVectorError: The length is not a positive multiple of four.
    """
    return tuple(decode_array(data).tolist())


def decode_array(data: bytes) -> Float32:
    """Return the values of a stored vector as a read-only float32 array.

    Raises:
        InvalidVectorError: The length is not a positive multiple of four.
    """
    if not isinstance(data, bytes) or not data or len(data) % ITEM_BYTES:
        size = f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
        raise InvalidVectorError(
            f"a stored vector is corrupt: {size}, not a positive multiple of {ITEM_BYTES} bytes"
        )
    return np.frombuffer(data, _WIRE).astype(np.float32, copy=False)


def cosine_similarity(a: VectorLike, b: VectorLike) -> float:
    """Return the cosine of the angle between two vectors, -1 to 1; 0.0 if either is all zeros.

    >>> cosine_similarity([1, 0], [2, 0])
    1.0

    Raises:
        InvalidVectorError: As `as_vector`, or the lengths differ.
    """
    left, right = as_query(a), as_query(b)
    if left.size != right.size:
        raise InvalidVectorError(f"vectors of {left.size} and {right.size} dimensions")
    return float(cosine_scores(left[np.newaxis], right)[0])


def cosine_scores(matrix: npt.NDArray[Any], query: Float64) -> Float64:
    """Return the cosine similarity of every row to the query, float64, -1 to 1.

    A row of zeros scores 0.0. A row that holds NaN or infinity scores NaN.
    Equal rows score equally wherever they stand: einsum adds up each row in the same order,
    which a matrix product does not promise.

    Args:
        matrix: Shape (rows, dimensions), float32 or float64.
        query: Shape (dimensions,), from `as_query`.
    """
    rows = np.ascontiguousarray(matrix, dtype=np.float64)
    if len(rows) == 1:  # einsum adds up a long row alone otherwise than among others
        return cosine_scores(np.repeat(rows, 2, axis=0), query)[:1]
    with np.errstate(invalid="ignore", divide="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        scores = np.einsum("ij,j->i", rows, query) / norms
    scores[norms == 0.0] = 0.0
    clipped: Float64 = np.clip(scores, -1.0, 1.0)
    return clipped


def are_contenders(matrix: Float32, queries: Float64, floors: Float64) -> npt.NDArray[np.bool_]:
    """Return which rows may score a floor or more: all that do, and few others.

    A look in float32, which takes a fraction of the time of `cosine_scores`. Every row is among
    them whose numbers leave the range in which the bound holds, and every one that is not finite.

    Source: the bound on a sum of n rounded products, |error| <= n u / (1 - n u) * sum |products|
    with u = 2**-24 (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), taken
    twice: for the product and for the norm, with room for the roundings around them.

    Args:
        matrix: Shape (rows, dimensions).
        queries: Shape (queries, dimensions), each from `as_query`.
        floors: The score to reach for each query.

    Returns:
        Shape (queries, rows).
    """
    if (floors <= -1.0).all():
        return np.ones((len(queries), len(matrix)), bool)
    margin = 2.0 * (queries.shape[1] + 16) * 2.0**-24
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        squares = np.einsum("ij,ij->i", matrix, matrix)
        scores = (queries.astype(np.float32) @ matrix.T) / np.sqrt(squares)
        is_in_range = (squares > 1e-20) & (squares < 1e30)
        is_below = (scores < (floors - margin)[:, np.newaxis]) & is_in_range
    is_below[floors <= -1.0] = False
    contenders: npt.NDArray[np.bool_] = ~is_below
    return contenders


class TopK:
    """The best k of a stream of scored ids: highest score first, ties by id. Memory: O(k).

    Args:
        k: How many.
        min_score: Leave out what scores less.
    """

    def __init__(self, k: int, min_score: float | None = None) -> None:
        self._k = k
        # (-score, id, whatever goes with it), at most 2 k of them or so.
        self._best: list[tuple[float, str, *tuple[Any, ...]]] = []
        self.floor = -np.inf if min_score is None else min_score
        """The score below which nothing is among the best any more."""

    def add(self, ids: Sequence[str], scores: Float64, *others: Sequence[Any]) -> None:
        """Take in more ids with their scores; a score of NaN is never among the best.

        Args:
            ids: Each is given once.
            scores: Of each id.
            *others: What else goes with each id; it is not compared.
        """
        near = np.flatnonzero(scores >= self.floor)
        places = near.tolist()
        picked = [[of[at] for at in places] for of in (ids, *others)]
        self._best += zip((-scores[near]).tolist(), *picked, strict=True)
        if len(self._best) > 2 * self._k + 64:
            self.cut()

    def cut(self) -> None:
        """Forget all but the best k, and find out the floor."""
        self._best.sort()
        del self._best[self._k :]
        if self._k and len(self._best) == self._k:
            self.floor = -self._best[-1][0]

    def result(self, offset: int = 0) -> Iterator[tuple[str, float, *tuple[Any, ...]]]:
        """Yield (id, score, whatever goes with it) of the best k, in order, from an offset on."""
        self.cut()
        for best in self._best[offset:]:
            yield best[1], -best[0], *best[2:]

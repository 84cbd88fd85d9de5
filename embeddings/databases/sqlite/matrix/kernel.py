"""Inner products of int8 rows: by simsimd where it is installed, else by NumPy, which is slower."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ....vectors import Float32

Int8: TypeAlias = npt.NDArray[np.int8]

MOST_DIMENSIONS = 2**16
"""Above, sums of products of values up to 127 would come near what int32 holds."""

BLOCK_VALUES = 2**18  # int8 values that NumPy widens at a time: they stay in the cache


def inner_products(queries: Int8, codes: Int8, out: Float32) -> None:
    """Write the inner product of each query with each row into `out`. Releases the GIL.

    The error is below `rounding(dimensions)` times the product of the two lengths.

    Args:
        queries: Shape (queries, dimensions), values from -127 to 127.
        codes: Shape (rows, dimensions), the same.
        out: Shape (queries, rows), written.
    """
    if not len(codes):
        return
    if simsimd := _simsimd():
        # Copied, and not passed as `out=`: simsimd 6 then returns None without counting the
        # reference. Python 3.11 aborts when the reference count of None reaches zero.
        out[:] = simsimd.cdist(queries, codes, metric="dot", out_dtype="float32")
        return
    widened = queries.astype(np.float32)
    step = max(1, BLOCK_VALUES // codes.shape[1])
    for start in range(0, len(codes), step):
        block = codes[start : start + step].astype(np.float32)
        np.matmul(widened, block.T, out=out[:, start : start + step])


def rounding(dimensions: int) -> float:
    """Return a bound on the error of a float32 inner product of lengths up to 1 and 1.6.

    A unit vector rounded to int8 can be as long as 1.6. The bound has a margin of nearly two.

    Source: |error| <= n u / (1 - n u) * sum |products| with u = 2**-24 (Higham, Accuracy and
    Stability of Numerical Algorithms, section 3.1), and sum |products| at most the lengths'
    product.
    """
    return 3.0 * (dimensions + 16) * 2.0**-24


@functools.cache
def _simsimd() -> Any:
    try:
        import simsimd
    except ImportError:
        return None
    return simsimd

"""The port for indexes: how vectors become codes, and which codes are near to a vector.

A method from outside is named by an entry point of the group `embeddings.indexes`, which leads to a
subclass of `Method`. What is written, deleted and rolled back, filters, and exact scores are not
its business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....vectors import Float32

Codes: TypeAlias = npt.NDArray[Any]
"""Codes of some rows. The last axis is the rows; the others are the method's."""


class Found(NamedTuple):
    """Rows that may be the nearest."""

    positions: npt.NDArray[np.intp]
    """Where they stand among all rows, the most promising first."""
    scores: Float32
    """What their cosine similarity is estimated to be, descending. Only differences count."""


class Method(ABC):
    """A way to find rows that are near. There is one object for each."""

    name: ClassVar[str]
    """Lower-case letters and digits."""

    @abstractmethod
    def encode(self, rows: Float32) -> Codes:
        """Return the codes of rows. Equal rows have equal codes, whatever else is encoded.

        Args:
            rows: Shape (rows, dimensions), each of length 1 or all zeros.
        """

    @abstractmethod
    def candidates(
        self,
        codes: Sequence[Codes],
        query: Float32,
        mask: npt.NDArray[np.bool_] | None,
        count: int,
    ) -> Found:
        """Return about as many rows as are asked for, which are probably the nearest.

        Args:
            codes: Of the segments, one after the other. Each is the same object in every search
                until it is replaced, and is never changed.
            query: Shape (dimensions,), of length 1.
            mask: Which rows count, shape (rows,), over all segments; None if all do.
            count: How many rows, at least, if so many count.
        """

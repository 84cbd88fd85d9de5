"""What tells the matrix to keep and search the codes of an index."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..matrix.build import dimensions_of, needed_bytes
from ..matrix.kinds import MATRIX, Kind
from ..matrix.state import JOINED_BYTES
from . import stored
from .chosen import CodedProbes
from .registry import method_of
from .segments import CodedPacker, row_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....searching.query import Query
    from ....vectors import Float64
    from ....work.operation import Work
    from ..matrix.state import State
    from .method import Method

SOUGHT_SHARE = 40  # looking one id up takes as long as going through this many


class CodedKind(Kind):
    """The codes of a method; the best rows are found in all likelihood."""

    is_exact = False
    builds_at_once = True  # which takes hardly longer than to scan
    trial_rows = (1_000, 4_000)
    trial_share = 4

    def __init__(self, method: Method) -> None:
        self.name = method.name
        self.method = method

    def packer(self, dimensions: int) -> CodedPacker:
        """Return what makes segments of codes."""
        return CodedPacker(dimensions, self.method)

    def probes(self, vectors: Sequence[Float64]) -> CodedProbes:
        """Return what chooses rows by the method."""
        return CodedProbes(vectors, self.method)

    def starting_with(self, state: State, prefix: str) -> State:
        """Return the state of the ids that begin so. The codes stay what they are to the method."""
        radii = np.full_like(state.radii, np.inf)
        for start, segment in zip(state.starts, state.segments, strict=False):
            low, high = segment.range_of(prefix)
            chosen = slice(start + low, start + high)
            radii[chosen] = state.radii[chosen]
        invalid = frozenset(id for id in state.invalid if id.startswith(prefix))
        return replace(state, radii=radii, invalid=invalid)

    def only(self, state: State, ids: set[str]) -> State:
        """Return the state in which no others count. There are no hashes: memory is what counts."""
        if len(ids) * len(state.segments) * SOUGHT_SHARE < len(state.radii):
            alive: Any = state.positions(ids)
        else:
            every = (id in ids for segment in state.segments for id in segment.ids)
            alive = np.fromiter(every, bool, len(state.radii))
        radii = np.full_like(state.radii, np.inf)
        radii[alive] = state.radii[alive]
        return replace(state, radii=radii)

    def stored(self, work: Work) -> State | None:
        """Return what the table of the index has."""
        if work.row.index_method != self.name:  # it is being made
            return None
        rows = stored.rows_kept(work)
        if rows is None:
            return None
        needed_bytes(work, self, rows)
        return stored.load(work, self.method, dimensions_of(work))

    def expected_bytes(self, rows: int, dimensions: int) -> int:
        """Return about what rows take."""
        return rows * (row_bytes(dimensions) + JOINED_BYTES)


@functools.cache
def kind_of(method: Method) -> CodedKind:
    """Return the kind of a method: one object for each."""
    return CodedKind(method)


def kind_of_row(work: Work) -> Kind:
    """Return the kind of the collection's index; that of exact searches where there is none."""
    method = None if work.row.index_method is None else method_of(work.row.index_method)
    return MATRIX if method is None else kind_of(method)


def kind_to_search(work: Work, query: Query) -> Kind:
    """Return the kind by which a query is answered."""
    return MATRIX if query.exact is True else kind_of_row(work)

"""What rows in memory are packed as, and how the best are chosen among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from .cache import EXACT
from .candidates import Probes
from .kernel import MOST_DIMENSIONS
from .segments import Packer
from .state import expected_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....vectors import Float64
    from ....work.operation import Work
    from .state import State


class Chosen(Protocol):
    """Rows of a state that may be among the best, the most promising first. See `Candidates`."""

    @property
    def ids(self) -> list[str]:
        """Theirs."""

    @property
    def floor(self) -> float:
        """Every other row scores less; minus infinity if there is no other that counts."""

    def reaching(self, score: float) -> int:
        """Return how many candidates, from the first on, may reach a score."""

    def first_reads(self, depth: int) -> int:
        """Return how many candidates to read first."""

    def agree(self, positions: Sequence[int], scores: Float64, gone: int) -> bool:
        """Return whether the rows that were read can be those of the state."""


class Chooser(Protocol):
    """Some queries, made ready. See `Probes`."""

    vectors: Float64

    def candidates(
        self,
        query_index: int,
        state: State,
        depth: int,
        min_score: float | None = None,
        wanted: int | None = None,
    ) -> Chosen:
        """Return the rows that may be among the best for one of the queries."""


class Kind:
    """int8 rows with a proven bound, for exact searches."""

    name: str = EXACT
    is_exact: bool = True
    """Whether the rows that are found are the best for certain."""
    builds_at_once: bool = False
    """Whether the first search of a process builds."""
    most_dimensions: int = MOST_DIMENSIONS
    trial_rows: tuple[int, ...] = (256, 2048)
    """How many of the best rows a filter is tried on, before all ids are asked that it keeps."""
    trial_share: int = 32
    """A trial is made among so many times more rows at least."""

    def packer(self, dimensions: int) -> Packer:
        """Return what makes segments."""
        return Packer(dimensions)

    def probes(self, vectors: Sequence[Float64]) -> Chooser:
        """Return what chooses rows."""
        return Probes(vectors)

    def starting_with(self, state: State, prefix: str) -> State:
        """Return the state of the ids that begin so."""
        return state.starting_with(prefix)

    def only(self, state: State, ids: set[str]) -> State:
        """Return the state in which no others than these count."""
        return state.only(ids)

    def expected_bytes(self, rows: int, dimensions: int) -> int:
        """Return the memory of a state that is yet to be loaded."""
        return expected_bytes(rows, dimensions)

    def stored(self, work: Work) -> State | None:
        """Return the state that the database keeps packed, if it is of the session's history."""
        return None

    def __repr__(self) -> str:
        return self.name


MATRIX: Any = Kind()

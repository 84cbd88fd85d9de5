"""What a database tells of its searches: how one went, how the next one will, and its index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Status:
    """How the next search of a collection will go about it.

    Attributes:
        strategy: `"matrix"`: from memory, scored exactly from the database; `"scan"`: by reading
            every row; `"database"`: exactly, by the database itself; `"index"`: by an index.
        reason: Why not from memory or by an index; None if it is.
        rows: The rows in memory; where the database searches, those of the collection.
        bytes: The memory that they take, of this process; where an index serves, its size on disk.
        budget: The bytes that all collections of this process may take together.
        index: The index of the collection; None if there is none.
    """

    strategy: Literal["matrix", "scan", "database", "index"]
    reason: str | None = None
    rows: int = 0
    bytes: int = 0
    budget: int = 0
    index: IndexInfo | None = None


class Searched(NamedTuple):
    """How a search went about it, for the log.

    Attributes:
        strategy: As in `Status`.
        rows: The rows that were looked at, where it is known.
        candidates: Those of them that were scored exactly, where it is known.
        reason: Why not by another strategy.
    """

    strategy: str
    rows: int | None = None
    candidates: int | None = None
    reason: str | None = None

    def __str__(self) -> str:
        facts = [self.strategy if self.reason is None else f"{self.strategy} ({self.reason})"]
        if self.rows is not None:
            facts.append(f"{self.rows} rows")
        if self.candidates is not None:
            facts.append(f"{self.candidates} candidates")
        return ", ".join(facts)


@dataclass(frozen=True)
class IndexInfo:
    """What an index on a collection is.

    Attributes:
        name: Its name in the database.
        method: `"hnsw"` on PostgreSQL; `"bits"`, or one from a package, on SQLite.
        options: Of the method. Of HNSW: `type` (`vector`, or `halfvec` above 2,000 dimensions),
            `m` (connections of each node) and `ef_construction` (candidates that the build looked
            at for each node).
        dimensions: Of the vectors in it; None while it has none.
        rows: The rows in it when the database was last told; None where it does not tell.
        bytes: Its size in the database.
        is_valid: Whether searches use it. A concurrent build that failed leaves one that is not,
            and so is one whose method is not installed.
    """

    name: str
    method: str
    options: Mapping[str, Any]
    dimensions: int | None
    rows: int | None
    bytes: int
    is_valid: bool

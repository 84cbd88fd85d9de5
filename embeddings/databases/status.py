"""What a database tells of its searches: how one went, how the next one will, and its index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NOT_LOADED = "nothing is in memory yet: the second search of a process loads it"
"""Why a search scans where all that is missing is that the process has not searched before."""


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
        warning: What makes statements slow, and what to do about it; None if nothing does.
    """

    strategy: Literal["matrix", "scan", "database", "index"]
    reason: str | None = None
    rows: int = 0
    bytes: int = 0
    budget: int = 0
    index: IndexInfo | None = None
    warning: str | None = None


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
        method: How it finds: `"hnsw"` on PostgreSQL; `"bits"`, or that of a package, on SQLite.
        options: As it was built; on PostgreSQL `m`, `ef_construction`, and the `type` of what it
            holds: `vector`, above 2,000 dimensions `halfvec`, above 4,000 `bit`.
        rows: Of the collection; on SQLite those that the database keeps packed.
        dimensions: Of the vectors in it; None as long as there are none, on SQLite.
        bytes: Its size in the database.
        is_valid: Whether searches use it; a concurrent build that failed leaves one that is not,
            and so is one for other dimensions than the vectors have, which holds none of them, and
            one whose method is not installed.
    """

    method: str
    options: Mapping[str, Any]
    rows: int
    dimensions: int | None
    bytes: int
    is_valid: bool


@dataclass(frozen=True)
class IndexRequest:
    """What `Collection.create_index` was asked for; what is None the database chooses.

    Attributes:
        method: As in `IndexInfo`.
        dimensions: Of vectors that are yet to come.
        m: See `Collection.create_index`, as for the others.
        ef_construction: Likewise.
        maintenance_work_mem: Likewise.
        progress: Likewise.
    """

    method: str | None = None
    dimensions: int | None = None
    m: int | None = None
    ef_construction: int | None = None
    maintenance_work_mem: str | None = None
    progress: Callable[[int, int], object] | None = None

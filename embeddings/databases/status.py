"""What a database tells of its searches: how the next one will go about it, and its index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Status:
    """How the next search of a collection will go about it.

    Attributes:
        strategy: `"matrix"`: from memory, scored exactly from the database; `"scan"`: by reading
            every row; `"database"`: by the database itself.
        reason: Why not from memory; None if it is.
        rows: The rows in memory.
        bytes: The memory that they take, of this process.
        budget: The bytes that all collections of this process may take together.
    """

    strategy: Literal["matrix", "scan", "database"]
    reason: str | None = None
    rows: int = 0
    bytes: int = 0
    budget: int = 0


@dataclass(frozen=True)
class IndexInfo:
    """What an index on a collection is.

    Attributes:
        name: Its name in the database.
        is_valid: Whether searches use it; a concurrent build that failed leaves one that is not.
        type: `vector`, or `halfvec` above 2,000 dimensions.
        dimensions: Of the vectors in it.
        m: Connections of each node.
        ef_construction: Candidates that the build looked at for each node.
        bytes: Its size on disk.
    """

    name: str
    is_valid: bool
    type: str
    dimensions: int
    m: int
    ef_construction: int
    bytes: int

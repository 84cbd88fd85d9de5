"""How a collection is searched."""

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

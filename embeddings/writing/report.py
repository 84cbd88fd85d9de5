"""What a bulk operation did."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import add
from typing import Any

CHANGED = "changed since it was planned"
DELETED = "deleted since it was planned"
BUSY = "another writer is at it"
"""Why an item is skipped."""


@dataclass(frozen=True)
class Report:
    """What a bulk operation did. Two of them add up, as those of batches do.

    Attributes:
        embedded: Items whose vector the model made.
        reused: Items written without the model: with a vector that was there, or that was given.
        unchanged: Items that were there already, just as they are to be.
        removed: Items that were deleted.
        skipped: Items that were left alone: pairs of the id and the reason.
        stale: Ids whose vector is not that of the row any more, from an audit.
        missing: Ids that have no vector, from an audit; or no content to make one of.
        orphaned: Ids whose row is gone, from an audit.
        pending: Items that are still to be done.
        requests: To the service, those that failed included; calls of a model that is none.
        tokens: What the service counted for them; 0 where it does not say.
        seconds: How long it took.
    """

    embedded: int = 0
    reused: int = 0
    unchanged: int = 0
    removed: int = 0
    skipped: tuple[tuple[Any, str], ...] = ()
    stale: tuple[Any, ...] = ()
    missing: tuple[Any, ...] = ()
    orphaned: tuple[Any, ...] = ()
    pending: int = 0
    requests: int = 0
    tokens: int = 0
    seconds: float = field(default=0.0, compare=False)

    def __add__(self, other: Report) -> Report:
        """Return what both did."""
        if not isinstance(other, Report):
            return NotImplemented
        # Both have all attributes in the order of the class.
        return Report(*map(add, vars(self).values(), vars(other).values()))

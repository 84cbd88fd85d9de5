"""What is in memory, and how much may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....errors import InvalidQueryError
from ....work.row import ROWS
from ...status import NOT_LOADED, Status
from . import statements
from .build import (
    MustScan,
    TooLarge,
    base_of,
    catch_up,
    checked_position,
    key_of,
    needed_bytes,
    warn_of_budget,
)
from .cache import CACHE
from .kinds import MATRIX, Kind
from .state import bytes_of

if TYPE_CHECKING:
    from ....work.operation import Work
    from ....work.row import CollectionRow


def memory_status(work: Work, row: CollectionRow | None) -> Status:
    """Return how the next search in this session will go about it. Reads only."""
    if row is None or row.vector_bytes is None:
        return Status("scan", "there is nothing to search", budget=CACHE.budget)
    try:
        position = checked_position(statements.position(work))
        key = key_of(work, position, MATRIX)
        ROWS.put(work, row)
        base = base_of(work, CACHE.slot(work, key))
        if base is None:
            needed_bytes(work)
            raise MustScan(NOT_LOADED)
    except MustScan as reason:
        return Status("scan", str(reason), budget=CACHE.budget)
    return Status("matrix", None, base.rows, bytes_of(base), CACHE.budget)


def warm(work: Work, kind: Kind = MATRIX) -> None:
    """Load the collection's rows, if there are any and they fit; else the next search says why."""
    if work.row.vector_bytes is not None:
        try:
            catch_up(work, kind, at_once=True)
        except TooLarge as reason:
            warn_of_budget(work, reason, kind)
        except MustScan:
            pass  # the status tells why


def set_memory_budget(nbytes: int) -> None:
    """Set how much memory the searches of this process may keep rows in; 256 MB by default.

    A collection that does not fit is scanned: exact as well, in constant memory, and slower. Which
    collection was not searched for the longest time is let go of first.

    Args:
        nbytes: Bytes, for all collections of all databases together; 0 keeps nothing.

    Raises:
        InvalidQueryError: It is no whole number, zero or more.
    """
    if not isinstance(nbytes, int) or isinstance(nbytes, bool) or nbytes < 0:
        raise InvalidQueryError(f"the budget must be a number of bytes, not {nbytes!r}")
    CACHE.budget = nbytes

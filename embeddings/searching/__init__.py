"""Search: what to look for, and one callable a strategy that finds the best, by dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..databases.postgresql import search as pgvector
from ..databases.sqlite.matrix import from_memory, many_from_memory, memory_status, remembered
from ..sql import dialect_of
from .query import as_matches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Subquery
    from sqlalchemy.orm import Session

    from ..keys import Keys
    from ..sql import Found
    from ..tables.records import Records
    from ..vectors import Float64
    from .query import Query, Ranking
    from .status import Status

    Strategy = Callable[[Session, Records, Found, Float64, Query], Ranking]
    ManyStrategy = Callable[[Session, Records, Found, Sequence[Float64], Query], list[Ranking]]
    Inspection = Callable[[Session, Records, Found | None], Status]
    Memory = Callable[[Session, Records, str], Found | None]
    Selectable = Callable[[Session, Records, Keys[Any], Found, Float64, Query], Subquery]


def _computed(
    session: Session,
    records: Records,
    keys: Keys[Any],
    found: Found,
    vector: Float64,
    query: Query,
) -> Subquery:
    strategy = STRATEGIES[dialect_of(session, records).name]
    return as_matches(keys, strategy(session, records, found, vector, query).rows)


STRATEGIES: dict[str, Strategy] = {"sqlite": from_memory, "postgresql": pgvector.search}
"""How the best are found."""
SELECTABLES: dict[str, Selectable] = {"sqlite": _computed, "postgresql": pgvector.matches}
"""How they become a part of a host's statement."""
MANY_STRATEGIES: dict[str, ManyStrategy] = {"sqlite": many_from_memory}
"""How the best for many vectors are found, where that is less work than one after the other."""
REMEMBERED: dict[str, Memory] = {"sqlite": remembered}
"""What the collection's row may be: a search that takes it has it confirmed by the database."""
STATUS: dict[str, Inspection] = {"sqlite": memory_status}
"""What can be told of it."""

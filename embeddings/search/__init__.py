"""Search: what to look for, and one callable a strategy that finds the best, by dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import pgvector
from .query import as_matches
from .scan import scan

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Subquery
    from sqlalchemy.orm import Session

    from ..keys import Keys
    from ..records import Records
    from ..target import Found
    from ..vectors import Float64
    from .query import Query, Ranking

    Strategy = Callable[[Session, Records, Found, Float64, Query], Ranking]
    Selectable = Callable[[Session, Records, Keys[Any], Found, Float64, Query], Subquery]


def _computed(
    session: Session,
    records: Records,
    keys: Keys[Any],
    found: Found,
    vector: Float64,
    query: Query,
) -> Subquery:
    strategy = STRATEGIES[session.get_bind(records.embedding.__mapper__).dialect.name]
    return as_matches(keys, strategy(session, records, found, vector, query).rows)


STRATEGIES: dict[str, Strategy] = {"sqlite": scan, "postgresql": pgvector.search}
"""How the best are found."""
SELECTABLES: dict[str, Selectable] = {"sqlite": _computed, "postgresql": pgvector.matches}
"""How they become a part of a host's statement."""

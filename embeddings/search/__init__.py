"""Search: what to look for, and one callable a strategy that finds the best, by dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .scan import scan

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from ..records import Records
    from ..target import Found
    from ..vectors import Float64
    from .query import Query, ScoredRow

    Strategy = Callable[[Session, Records, Found, Float64, Query], list[ScoredRow]]

STRATEGIES: dict[str, Strategy] = {"sqlite": scan}

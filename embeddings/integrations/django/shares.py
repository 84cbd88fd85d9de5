"""How deep to look in a whole collection for the best instances of a queryset, if at all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ...forks import Lock

if TYPE_CHECKING:
    from collections.abc import Hashable

MOST_SPARE = 250  # candidates beyond those wanted; past that the keys of a queryset are read sooner
SPARE = 8  # candidates more, where nothing is known of a queryset, than twice those wanted
DEVIATIONS = 2.5  # for which there are candidates, of how many a queryset keeps
MOST_SEARCHES = 50  # without a trial, after which a queryset is tried again
MOST_KNOWN = 1_000  # querysets


class _Known(NamedTuple):
    """What trials have shown of a queryset, each weighing half of the next.

    Attributes:
        kept: Candidates that it kept.
        tried: Candidates.
        searches: Without a trial since then.
    """

    kept: float = 0.0
    tried: float = 0.0
    searches: int = 0

    @property
    def share(self) -> float:
        """How many of the candidates it keeps, above 0 and below 1."""
        return (self.kept + 0.5) / (self.tried + 1)


class Shares:
    """What trials have shown of querysets. A queryset is known by its SQL, best by that and values.

    It is but a hint: what is found does not depend on it.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, _Known] = {}
        self._lock = Lock()

    def candidates(self, names: tuple[Hashable, ...], wanted: int) -> int:
        """Return of how many of the best it should be asked whether they are in a queryset.

        Args:
            names: Of the queryset, the most precise first; none of one with every row.
            wanted: How many of them have to be.

        Returns:
            0 if its keys are read sooner.
        """
        if not names:
            return wanted
        name, known = self._of(names)
        if known is None:
            found = 2 * wanted + SPARE
        else:
            share = known.share
            spread = DEVIATIONS * math.sqrt(wanted * (1 - share))
            found = math.ceil((wanted + spread) / share)
        if found - wanted <= MOST_SPARE:
            return _rounded(found)
        if known is not None:
            self._put(name, known._replace(searches=known.searches + 1))
        return 0

    def note(self, names: tuple[Hashable, ...], kept: int, tried: int) -> None:
        """Take note of a trial."""
        for name in names:
            known = self._known.get(name, _Known())
            self._put(name, _Known(known.kept / 2 + kept, known.tried / 2 + tried))

    def _of(self, names: tuple[Hashable, ...]) -> tuple[Hashable, _Known | None]:
        for name in names:
            known = self._known.get(name)
            if known is not None and known.searches < MOST_SEARCHES:
                return name, known
        return None, None

    def _put(self, name: Hashable, known: _Known) -> None:
        with self._lock:
            self._known.pop(name, None)
            if len(self._known) >= MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[name] = known


def _rounded(number: int) -> int:
    """Return the next of 1, 2, 3, 4, 6, 8, 12, 16, 24: PostgreSQL has a statement for each."""
    power = 1 << (number - 1).bit_length()
    return max(power * 3 // 4, 1) if power * 3 // 4 >= number else power

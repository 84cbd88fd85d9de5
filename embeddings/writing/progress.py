"""How far a bulk operation is: to a function of the caller's, or as a bar on standard error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    Progress: TypeAlias = Callable[[int, int | None], object] | bool | None

WIDTH = 30  # characters of the bar


def length_of(entries: object) -> int | None:
    """Return how many there are, or None of a generator."""
    try:
        return len(entries)  # type: ignore[arg-type]
    except TypeError:
        return None


def told(progress: Callable[..., object] | bool | None) -> Callable[..., object] | None:
    """Return a function of the items done and the items in all, or None where nobody is told.

    Raises:
        TypeError: It can be neither called nor drawn.
    """
    if progress is True:
        return _draw
    if progress is None or progress is False:
        return None
    if not callable(progress):
        raise TypeError(
            "progress= takes a function of (done, total or None), or True for a bar, not "
            f"{type(progress).__name__}"
        )
    return progress


def teller(progress: Progress, total: int | None) -> Callable[[int], None]:
    """Return a function that is to be called with the number of items done, in all.

    Args:
        progress: A function of the items done and the items in all; True draws a bar.
        total: The number of items, if it is known.

    Raises:
        TypeError: It can be neither called nor drawn.
    """
    tell = told(progress)

    def done_by_now(done: int) -> None:
        if tell is not None:
            tell(done, total)

    return done_by_now


def end(progress: Progress, total: int | None) -> None:
    """End the line of a bar that did not know how many there are."""
    if progress is True and total is None:
        sys.stderr.write("\n")


def _draw(done: int, total: int | None) -> None:
    line = f"{done:,}" if total is None else f"{done:,} of {total:,}"
    if total:
        full = WIDTH * min(done, total) // total
        line = f"[{'#' * full}{'.' * (WIDTH - full)}] {line}"
    end = "\n" if done == total else ""
    sys.stderr.write(f"\r{line}{end}")
    sys.stderr.flush()

"""The names under which a collection's vectors of another model stand beside it.

They are rows of the table of collections like any other, and can be opened by their names: to look
at what is being built, or at what was there before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

NEXT, PREVIOUS, SWITCHING = " [next]", " [previous]", " [switching]"
"""What is appended to the name: what is built, what `back` goes back to, and within a switch."""


def names_beside(name: str) -> tuple[str, str]:
    """Return the names of what may stand beside a collection."""
    return name + NEXT, name + PREVIOUS


def stands_beside(name: str, names: Collection[str]) -> bool:
    """Return whether a name is of what stands beside another collection, which is there."""
    return any(
        name.endswith(suffix) and name.removesuffix(suffix) in names for suffix in (NEXT, PREVIOUS)
    )

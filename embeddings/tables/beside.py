"""The names under which a collection's vectors of another model stand beside it.

They are rows of the table of collections like any other, and can be opened by their names: to look
at what is being built, or at what was there before.
"""

from __future__ import annotations

NEXT, PREVIOUS, SWITCHING = " [next]", " [previous]", " [switching]"
"""What is appended to the name: what is built, what `back` goes back to, and within a switch."""


def names_beside(name: str) -> tuple[str, str]:
    """Return the names of what may stand beside a collection."""
    return name + NEXT, name + PREVIOUS


def stands_beside(name: str) -> bool:
    """Return whether a name is one of what stands beside a collection."""
    return name.endswith((NEXT, PREVIOUS))

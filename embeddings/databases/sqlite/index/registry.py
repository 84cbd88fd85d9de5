"""Which methods there are: built in, or from a package, by an entry point."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from ....errors import InvalidQueryError
from .bits import Bits
from .names import METHOD

if TYPE_CHECKING:
    from .method import Method

ENTRY_POINTS = "embeddings.indexes"


def method_of(name: str) -> Method | None:
    """Return the method of a name, or None if it is not installed."""
    return methods().get(name)


def checked_method(name: object) -> Method:
    """Return the method of a name.

    Raises:
        InvalidQueryError: There is none.
    """
    method = method_of(name) if isinstance(name, str) else None
    if method is None:
        raise InvalidQueryError(
            f"There is no index method {name!r}; there are {', '.join(sorted(methods()))}"
        )
    return method


@functools.cache
def methods() -> dict[str, Method]:
    """Return all methods by their names."""
    from importlib.metadata import entry_points

    methods: dict[str, Method] = {Bits.name: Bits()}
    for entry_point in entry_points(group=ENTRY_POINTS):
        method: Method = entry_point.load()()
        if not re.fullmatch(METHOD, method.name):
            raise InvalidQueryError(
                f"The index method {method.name!r}, of {entry_point.value}, must have a name of "
                "lower-case letters and digits"
            )
        methods[method.name] = method
    return methods

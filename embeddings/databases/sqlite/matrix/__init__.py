"""Exact search from memory on SQLite, never stale.

In the order of the work:

- `rows` packs stored vectors into int8 with a bound on the error,
- `state` holds the rows of a collection as of one row of the change log,
- `cache` keeps states within a number of bytes, `build` makes them,
- `kernel` and `screen` choose the rows that may be among the best,
- `statements` ask the database for these rows and for the session's place in the log,
- `finalists` scores the rows exactly, and reads no more of them than that takes,
- `strategy` puts it together, and `inspect` tells of it.
"""

from .build import remembered
from .memory import memory_status, set_memory_budget
from .search import from_memory, many_from_memory

__all__ = [
    "from_memory",
    "many_from_memory",
    "memory_status",
    "remembered",
    "set_memory_budget",
]

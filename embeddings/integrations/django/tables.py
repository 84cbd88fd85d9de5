"""Which tables a project has: the documented ones, or those of EMBEDDINGS["TABLE_PREFIX"]."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from sqlalchemy.orm import DeclarativeBase

from ...tables.custom import make_records
from ...tables.records import RECORDS
from .conf import table_prefix

if TYPE_CHECKING:
    from ...tables.records import Records


def records() -> Records:
    """Return the tables of the project.

    A `Collection` on `session()` takes them as `records=records()`, where they have a prefix.
    """
    prefix = table_prefix()
    return _with_prefix(prefix) if prefix else RECORDS


@functools.cache
def _with_prefix(prefix: str) -> Records:
    class Base(DeclarativeBase):
        """Of the tables of a prefix."""

    return make_records(Base, prefix=prefix)

"""What a database has beside the documented tables: made by one revision each, and taken away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from ..tables.records import Records

AdditionName: TypeAlias = Literal["log", "pending", "words", "chunks"]
ADDITIONS: tuple[AdditionName, ...] = get_args(AdditionName)
"""In the order in which they are made: what follows whose rows were written, the rows of hosts that
are pending, text indexes, collections with chunks."""


def _nothing(connection: Connection, records: Records) -> None:
    pass


def _not_missing(connection: Connection, records: Records) -> str | None:
    return None


def _no_sql(records: Records) -> list[str]:
    return []


class Addition(NamedTuple):
    """Something beside the tables.

    Attributes:
        install: Makes it, or makes it anew; it may be there.
        uninstall: Removes it, and all that names it, if it is there.
        script: Returns the SQL of `install`, for a script.
        script_down: Returns that of `uninstall`.
        missing: Returns what of it others have removed, or None; only reads.
    """

    install: Callable[[Connection, Records], None] = _nothing
    uninstall: Callable[[Connection, Records], None] = _nothing
    script: Callable[[Records], list[str]] = _no_sql
    script_down: Callable[[Records], list[str]] = _no_sql
    missing: Callable[[Connection, Records], str | None] = _not_missing

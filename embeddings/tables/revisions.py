"""What our own revisions do: they add to the documented tables what a database has beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from .. import databases
from .records import RECORDS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

    from ..databases.additions import AdditionName


def add(op: ModuleType, name: AdditionName) -> None:
    """Make it; of a script, print its SQL.

    Args:
        op: Alembic's, in a revision.
        name: Of the addition.
    """
    addition = databases.of(op.get_context().dialect).addition(name)
    if op.get_context().as_sql:
        _print(op, addition.script(RECORDS))
    else:
        addition.install(op.get_bind(), RECORDS)


def take_away(op: ModuleType, name: AdditionName) -> None:
    """Remove it; of a script, print the SQL. Arguments as in `add`."""
    addition = databases.of(op.get_context().dialect).addition(name)
    if op.get_context().as_sql:
        _print(op, addition.script_down(RECORDS))
    else:
        addition.uninstall(op.get_bind(), RECORDS)


def _print(op: ModuleType, statements: Iterable[str]) -> None:
    for statement in statements:
        op.execute(text(statement.replace(":", "\\:")))

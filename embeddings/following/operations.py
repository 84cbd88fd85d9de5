"""Alembic operations that follow a host's tables, and the plugin by which Alembic knows them all.

Before its version 1.18 it knows them where the host's `env.py` has imported
`embeddings.include_object`.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from alembic.operations import MigrateOperation, Operations

from .. import databases
from ..tables.operations import write
from ..writing import operations as _of_text_indexes  # noqa: F401 - registers them
from . import triggers
from .literals import Follow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class RowsOp(MigrateOperation):
    """What is done to the triggers by which a collection follows the rows of one table."""

    name: ClassVar[str]

    def __init__(self, given: Follow) -> None:
        self.given = given

    @classmethod
    def of_rows(
        cls,
        operations: Operations,
        table: str,
        *,
        key: str,
        columns: Sequence[str],
        collection: str,
        where: str | None = None,
        schema: str | None = None,
        embeddings: str = "embeddings",
        unique: Sequence[Sequence[str]] = (),
    ) -> None:
        """Make the triggers by which a collection follows the rows of one table, or drop them.

        `follow_rows` makes them, and `unfollow_rows` drops what it made of the same arguments.

        Args:
            operations: Alembic's.
            table: The name of the table.
            key: The column of its primary key.
            columns: All that text, metadata and condition read.
            collection: The name of the collection.
            where: SQL over `columns`: the rows that are in the collection.
            schema: Of the table.
            embeddings: The table of embeddings, with its schema if it has one: one of
                `make_records`.
            unique: Columns that are unique together, each as a list. SQLite is asked for them, but
                in a script.
        """
        # As they are given: `Follow` refuses a text in place of names, and makes tuples of them.
        given: Any = (table, key, columns, collection, where, schema, embeddings, unique)
        operations.invoke(cls(Follow(*given)))

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` shows."""
        return self.name, self.given.table, self.given.collection


@Operations.register_operation("follow_rows", "of_rows")
class FollowRowsOp(RowsOp):
    """Make the triggers by which a collection follows the rows of one table."""

    name = "follow_rows"

    def reverse(self) -> UnfollowRowsOp:
        """Return the operation that takes it back."""
        return UnfollowRowsOp(self.given)


@Operations.register_operation("unfollow_rows", "of_rows")
class UnfollowRowsOp(RowsOp):
    """Drop the triggers by which a collection follows the rows of one table."""

    name = "unfollow_rows"

    def reverse(self) -> FollowRowsOp:
        """Return the operation that takes it back."""
        return FollowRowsOp(self.given)


@Operations.implementation_for(FollowRowsOp)
def _follow(operations: Operations, operation: FollowRowsOp) -> None:
    context = operations.get_context()
    if context.as_sql:
        write(operations, databases.of(context.dialect).follow_script(operation.given))
    else:
        triggers.follow(operations.get_bind(), operation.given)


@Operations.implementation_for(UnfollowRowsOp)
def _unfollow(operations: Operations, operation: UnfollowRowsOp) -> None:
    context = operations.get_context()
    if context.as_sql:
        write(operations, databases.of(context.dialect).unfollow_script(operation.given))
    else:
        triggers.unfollow(operations.get_bind(), operation.given)


class _Plugin(ModuleType):
    """What Alembic loads by its entry point: the operations are known by the import of this file.

    A module, which Alembic 1.18 and 1.19 take from a list of modules.
    """

    def setup(self, _: object) -> None:
        """Do nothing more: Alembic calls it."""

    def __iter__(self) -> Iterator[ModuleType]:
        yield self


plugin = _Plugin("embeddings")

"""Alembic operations that make and drop the text indexes of collections.

How Alembic knows them is told in `following.operations`.
"""

from __future__ import annotations

import logging
from typing import Any

from alembic.operations import MigrateOperation, Operations

from .. import databases
from ..searching.words import checked_language
from ..tables.indexing import TextIndex
from ..tables.operations import write
from . import text_index

LOG = logging.getLogger("embeddings")


@Operations.register_operation("create_text_index")
class CreateTextIndexOp(MigrateOperation):
    """Make the text index of a collection."""

    def __init__(self, given: TextIndex) -> None:
        self.given = given

    @classmethod
    def create_text_index(
        cls, operations: Operations, collection: str, language: str = "english", **options: Any
    ) -> None:
        """Make the text index of a collection, and fill it, within the transaction.

        If there is one in this language, what it lacks is put in. A script for PostgreSQL makes it
        too, for texts that are yet to come, and warns where items are there already. In one for
        SQLite, where the name of its table has the collection's number, stands a remark alone.

        Args:
            operations: Alembic's.
            collection: The name of the collection.
            language: As `Collection.create_text_index` takes it.
            options: `model`, the id of the model by which the collection is created if it is not
                there; `embeddings`, the table of embeddings, with its schema if it has one: one of
                `make_records`.

        Raises:
            IndexingError: There is one in another language.
            DoesNotExist: There is no such collection, and no model was given.
            InvalidQueryError: There is no such language.
        """
        operations.invoke(cls(TextIndex(collection, checked_language(language), **options)))

    def reverse(self) -> DropTextIndexOp:
        """Return the operation that takes it back."""
        return DropTextIndexOp(self.given)


@Operations.register_operation("drop_text_index")
class DropTextIndexOp(MigrateOperation):
    """Drop the text index of a collection."""

    def __init__(self, given: TextIndex) -> None:
        self.given = given

    @classmethod
    def drop_text_index(
        cls, operations: Operations, collection: str, language: str = "english", **options: Any
    ) -> None:
        """Drop the text index that `create_text_index` made of the same arguments, if it is there.

        With `model`, by which the collection was created, one that is empty goes too, unless it
        has an index of vectors. In a script for SQLite a remark stands alone.
        """
        operations.invoke(cls(TextIndex(collection, checked_language(language), **options)))

    def reverse(self) -> CreateTextIndexOp:
        """Return the operation that takes it back."""
        return CreateTextIndexOp(self.given)


@Operations.implementation_for(CreateTextIndexOp)
def _create(operations: Operations, operation: CreateTextIndexOp) -> None:
    context, given = operations.get_context(), operation.given
    if context.as_sql:
        _write(operations, given, databases.of(context.dialect).text_index_script(given))
    else:
        text_index.create_by_name(operations.get_bind(), given)


@Operations.implementation_for(DropTextIndexOp)
def _drop(operations: Operations, operation: DropTextIndexOp) -> None:
    context, given = operations.get_context(), operation.given
    if context.as_sql:
        _write(operations, given, databases.of(context.dialect).text_index_script_down(given))
    else:
        text_index.drop_by_name(operations.get_bind(), given)


def _write(operations: Operations, given: TextIndex, statements: list[str] | None) -> None:
    if statements is not None:
        write(operations, statements)
        return
    told = text_index.not_in_script(given)
    LOG.warning("%s", told)
    operations.get_context().impl.static_output(f"-- {told}")

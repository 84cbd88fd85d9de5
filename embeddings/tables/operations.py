"""Alembic operations that make and drop the indexes of collections.

How Alembic knows them is told in `following.operations`.
"""

from __future__ import annotations

from typing import Any

from alembic.operations import MigrateOperation, Operations

from .. import databases
from .indexing import EmbeddingIndex, drop, make


@Operations.register_operation("create_embedding_index")
class CreateEmbeddingIndexOp(MigrateOperation):
    """Make the index of a collection."""

    def __init__(self, given: EmbeddingIndex) -> None:
        self.given = given

    @classmethod
    def create_embedding_index(
        cls, operations: Operations, collection: str, *, dimensions: int, **options: Any
    ) -> None:
        """Make the index of a collection, within the transaction; on SQLite nothing is made.

        What is there already stays as it is. While rows are indexed, others cannot write: where
        there are many, call `Collection.create_index` on the engine instead.

        Args:
            operations: Alembic's.
            collection: The name of the collection.
            dimensions: Of vectors that are yet to come. Where there are vectors, the index is for
                theirs, and a warning in the log names both numbers: a revision may be older than a
                change of the model.
            options: `model`, the id of the model by which the collection is created if it is not
                there; `m` and `ef_construction`, as in `Collection.create_index`; `embeddings`, the
                table of embeddings, with its schema if it has one: one of `make_records`.
        """
        operations.invoke(cls(EmbeddingIndex(collection, dimensions, **options)))

    def reverse(self) -> DropEmbeddingIndexOp:
        """Return the operation that takes it back."""
        return DropEmbeddingIndexOp(self.given)


@Operations.register_operation("drop_embedding_index")
class DropEmbeddingIndexOp(MigrateOperation):
    """Drop the index of a collection."""

    def __init__(self, given: EmbeddingIndex) -> None:
        self.given = given

    @classmethod
    def drop_embedding_index(
        cls, operations: Operations, collection: str, *, dimensions: int, **options: Any
    ) -> None:
        """Drop the index that `create_embedding_index` made of the same arguments.

        With `model`, by which the collection was created, an empty one goes too, unless it has a
        text index.
        """
        operations.invoke(cls(EmbeddingIndex(collection, dimensions, **options)))

    def reverse(self) -> CreateEmbeddingIndexOp:
        """Return the operation that takes it back."""
        return CreateEmbeddingIndexOp(self.given)


@Operations.implementation_for(CreateEmbeddingIndexOp)
def _create(operations: Operations, operation: CreateEmbeddingIndexOp) -> None:
    context = operations.get_context()
    if context.as_sql:
        database = databases.of(context.dialect)
        write(operations, database.index_script(operation.given, None))
    else:
        make(operations.get_bind(), operation.given)


@Operations.implementation_for(DropEmbeddingIndexOp)
def _drop(operations: Operations, operation: DropEmbeddingIndexOp) -> None:
    context = operations.get_context()
    if context.as_sql:
        database = databases.of(context.dialect)
        write(operations, database.index_script_down(operation.given, None))
    else:
        drop(operations.get_bind(), operation.given)


def write(operations: Operations, statements: list[str]) -> None:
    """Write statements into a script as they are."""
    impl = operations.get_context().impl
    for statement in statements:
        impl.static_output(f"{statement}{impl.command_terminator}")

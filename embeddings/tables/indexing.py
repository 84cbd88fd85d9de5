"""The indexes of one collection, as a revision has them: names and numbers, nothing mapped."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .. import databases
from .custom import named
from .records import RECORDS

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from .records import Records


@dataclass(frozen=True)
class _OfCollection:
    """An index of one collection.

    Attributes:
        collection: The name of the collection.
        model: The id of its embedding model, by which it is created if it is not there.
        embeddings: The full name of the table of embeddings.
    """

    collection: str
    model: str | None = field(default=None, kw_only=True)
    embeddings: str = field(default=RECORDS.embeddings.fullname, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.collection, str) or not self.collection:
            raise TypeError(f"collection must be a name, not {self.collection!r}")

    @property
    def records(self) -> Records:
        """The records whose table it is of."""
        return named(self.embeddings)


@dataclass(frozen=True)
class EmbeddingIndex(_OfCollection):
    """The index of a collection's vectors. A database makes SQL of it: `index_script`.

    Attributes:
        dimensions: Of its vectors, where there are none yet.
        m: As `Collection.create_index` takes it.
        ef_construction: Likewise.
    """

    dimensions: int
    m: int | None = field(default=None, kw_only=True)
    ef_construction: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class TextIndex(_OfCollection):
    """The text index of a collection.

    Attributes:
        language: One of those that `Collection.create_text_index` takes.
    """

    language: str


def make(connection: Connection, given: EmbeddingIndex) -> None:
    """Make an index in the connection's transaction; what is there stays as it is."""
    _run(connection, databases.of(connection.dialect).index_script(given, connection))


def drop(connection: Connection, given: EmbeddingIndex) -> None:
    """Drop an index in the connection's transaction, if it is there."""
    _run(connection, databases.of(connection.dialect).index_script_down(given, connection))


def _run(connection: Connection, statements: list[str]) -> None:
    for statement in statements:  # no percent sign or colon in them is a parameter
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})

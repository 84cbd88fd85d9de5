"""The indexes of one collection, as a revision has them: names and numbers, nothing mapped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import databases
from .custom import named
from .records import RECORDS

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from .records import Records


@dataclass(frozen=True)
class EmbeddingIndex:
    """The index of one collection. A database makes SQL of it: `index_script`.

    Attributes:
        collection: The name of the collection.
        dimensions: Of its vectors, where there are none yet.
        model: The id of its embedding model, by which it is created if it is not there.
        m: As `Collection.create_index` takes it.
        ef_construction: Likewise.
        embeddings: The full name of the table of embeddings.
    """

    collection: str
    dimensions: int
    model: str | None = None
    m: int | None = None
    ef_construction: int | None = None
    embeddings: str = RECORDS.embeddings.fullname

    def __post_init__(self) -> None:
        _check_name(self.collection)

    @property
    def records(self) -> Records:
        """The records whose table it is of."""
        return named(self.embeddings)


@dataclass(frozen=True)
class TextIndex:
    """The text index of one collection.

    Attributes:
        collection: The name of the collection.
        language: One of those that `Collection.create_text_index` takes.
        model: The id of its embedding model, by which it is created if it is not there.
        embeddings: The full name of the table of embeddings.
    """

    collection: str
    language: str
    model: str | None = None
    embeddings: str = RECORDS.embeddings.fullname

    def __post_init__(self) -> None:
        _check_name(self.collection)

    @property
    def records(self) -> Records:
        """The records whose table it is of."""
        return named(self.embeddings)


def _check_name(collection: object) -> None:
    if not isinstance(collection, str) or not collection:
        raise TypeError(f"collection must be a name, not {collection!r}")


def make(connection: Connection, given: EmbeddingIndex) -> None:
    """Make an index in the connection's transaction; what is there stays as it is."""
    _run(connection, databases.of(connection.dialect).index_script(given, connection))


def drop(connection: Connection, given: EmbeddingIndex) -> None:
    """Drop an index in the connection's transaction, if it is there."""
    _run(connection, databases.of(connection.dialect).index_script_down(given, connection))


def _run(connection: Connection, statements: list[str]) -> None:
    for statement in statements:  # no percent sign or colon in them is a parameter
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})

"""SQL about a collection that is found by its name when it is run, as a revision names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...models import registry
from ..quoting import literal

if TYPE_CHECKING:
    from ...tables.indexing import EmbeddingIndex, TextIndex
    from .names import Names

DO = "$embeddings_do$"


def creating(given: EmbeddingIndex | TextIndex, names: Names) -> list[str]:
    """Return the SQL that creates the collection if it is not there, and its model is given."""
    if given.model is None:
        return []
    name, model = literal(given.collection), literal(registry.canonical_id(given.model))
    return [
        f"INSERT INTO {names.collections} (name, model) VALUES ({name}, {model}) "
        "ON CONFLICT (name) DO NOTHING"
    ]


def deleting_empty(names: Names, condition: str) -> str:
    """Return the statement of a block that deletes the collection `of_collection` if it is empty.

    Its first writer waits for the lock, or is waited for. A host's rows may refer to it.

    Args:
        names: Of the tables.
        condition: About the row of the collection, in SQL.
    """
    return (
        f"PERFORM 1 FROM {names.embeddings} WHERE collection_id = of_collection LIMIT 1; "
        f"IF NOT FOUND THEN BEGIN DELETE FROM {names.collections} AS collection "
        f"WHERE id = of_collection AND {condition}; "
        "EXCEPTION WHEN foreign_key_violation THEN NULL; END; END IF; "
    )

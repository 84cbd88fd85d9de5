"""The names of our tables, as SQL, and the numbers of our locks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...tables.ours import schema_map_of
from ...tables.pending import pending_name
from ..quoting import quoted

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ...tables.records import Records

MIGRATION_LOCK = int.from_bytes(b"embeddin")
"""Advisory; one migration at a time in a database."""
BUILD_LOCK = MIGRATION_LOCK + 1
"""Advisory; one build of an index at a time in a database."""


@dataclass(frozen=True)
class Names:
    """The names of the tables of records in one schema.

    Attributes:
        records: Which tables.
        schema: The name of the schema; None where the search path decides.
    """

    records: Records
    schema: str | None

    @property
    def inside(self) -> str:
        """The schema with its dot, or nothing."""
        return f"{quoted(self.schema)}." if self.schema else ""

    @property
    def embeddings(self) -> str:
        """The table of embeddings."""
        return self.inside + quoted(self.records.embeddings.name)

    @property
    def collections(self) -> str:
        """The table of collections."""
        return self.inside + quoted(self.records.collections.name)

    @property
    def pending(self) -> str:
        """The table of rows that are pending."""
        return self.inside + quoted(pending_name(self.records))


def names_of(connection: Connection | None, records: Records) -> Names:
    """Return the names by which a connection, or a script, reads and writes the tables."""
    schema = records.embeddings.schema
    if connection is not None:
        schema = schema_map_of(connection).get(schema, schema)
    return Names(records, schema)

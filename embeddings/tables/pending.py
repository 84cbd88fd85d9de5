"""The rows that are pending: one is appended for each change of a row that a collection follows.

The table stands beside those of the embeddings, under their prefix and in their schema. Triggers on
a host's tables append to it and touch nothing else. Its database makes it: `Database.additions`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text, insert

from .columns import BinaryText

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection

    from .records import Records

WRITTEN, REMOVED, DISPLACED = "written", "removed", "displaced"
"""What happened to a row: it is to be embedded; its vector is gone; it may have been replaced."""


def pending_name(records: Records) -> str:
    """Return the name of the table beside these."""
    return f"{records.embeddings.name}_pending"


@functools.cache
def pending_table(records: Records) -> Table:
    """Return the table, which no metadata of a host's holds, for statements about its rows."""
    return Table(
        pending_name(records),
        MetaData(),
        # Grows with each row, and never comes again, also after the newest row was deleted.
        Column("seq", BigInteger, primary_key=True),
        Column("collection", BinaryText, nullable=False),  # its name
        Column("id", BinaryText, nullable=False),  # the stored id
        Column("change", Text, nullable=False),  # WRITTEN, REMOVED or DISPLACED
        Column("since", Integer, nullable=False),  # seconds since 1970, UTC
        Column("claimed_until", Integer),  # seconds since 1970, UTC; NULL if it never was
        Column("claimed_by", Text),  # what a refresher calls itself
        Column("attempts", Integer, nullable=False),  # that failed; below 0 with all others
        Column("error", Text),  # of the latest attempt
        schema=records.embeddings.schema,
    )


def note_written(
    connection: Connection, records: Records, collection: str, ids: Collection[str]
) -> None:
    """Note in the connection's transaction that rows of a host's may have changed.

    Args:
        connection: On the database of the tables.
        records: The mapped classes.
        collection: The name of the collection that follows the rows.
        ids: Under which their items are stored.
    """
    if ids:
        change = {"collection": collection, "change": WRITTEN}
        rows = [change | {"id": id} for id in sorted(ids)]
        connection.execute(insert(pending_table(records)), rows)

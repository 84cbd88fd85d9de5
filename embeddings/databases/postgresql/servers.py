"""Whether Citus has the rows on several servers, and what writing them takes then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text, update

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ...work.operation import Work

SEQUENTIAL = "sequential"
"""How Citus is to change rows on several servers, for collections that are spread over them."""
ONE_BY_ONE = f"SET LOCAL citus.multi_shard_modify_mode TO '{SEQUENTIAL}'"
"""Lets a transaction change several tables on several servers."""
BY_THIS_CONNECTION = "SET LOCAL citus.enable_local_execution TO on"
"""Lets a transaction change tables of this server without a connection of Citus's own."""
NO_COLLECTION = 0  # ids of collections begin with 1
_HAS_CITUS = "embeddings: the database has Citus"
_SPREAD = "embeddings: rows of a collection are on several servers"


def is_there(connection: Connection) -> bool:
    """Return whether the database has Citus. It is asked once a connection."""
    if _HAS_CITUS not in connection.info:
        table = connection.scalar(text("SELECT to_regclass('pg_catalog.pg_dist_partition')"))
        connection.info[_HAS_CITUS] = table is not None
    return bool(connection.info[_HAS_CITUS])


def is_spread(connection: Connection) -> bool:
    """Return whether Citus has the rows of a collection on several servers: it locks none there.

    `citus.distribute` by item makes it the database's setting. It is read once a connection.
    """
    if _SPREAD not in connection.info:
        mode = text("SELECT current_setting('citus.multi_shard_modify_mode', true)")
        connection.info[_SPREAD] = connection.scalar(mode) == SEQUENTIAL
    return bool(connection.info[_SPREAD])


def settle_copy(work: Work) -> None:
    """Let rows that were copied in this transaction be committed on all servers or on none.

    After a SELECT of the same rows Citus takes what a COPY has written for read only: a server that
    fails at the COMMIT loses it, and nobody is told. An UPDATE, which finds no row, makes it a
    write, which is prepared before it is committed.
    """
    if not is_there(work.connection):
        return
    columns = work.records.embeddings.c
    none = (
        [columns.collection_id == NO_COLLECTION]  # on every server
        if is_spread(work.connection)
        else [columns.collection_id == work.row.id, columns.id == ""]
    )
    work.run(update(work.records.embeddings).where(*none).values(updated=columns.updated))

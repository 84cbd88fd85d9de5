"""The tables on several servers, by Citus: by collection or by item, and back on one.

`collections` becomes a table that every server has a copy of. `embeddings` is parted by the
collection, which is one server's then, or by the item, so that all servers have a share of each.
Rows that are pending stay with the coordinator, where the host's triggers note them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import text

from ...errors import SchemaError
from ...tables.records import RECORDS
from ..quoting import literal, quoted
from .names import names_of
from .servers import BY_THIS_CONNECTION, ONE_BY_ONE, SEQUENTIAL, is_spread, is_there

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ...tables.records import Records

BY = {"collection": "collection_id", "item": "id"}
"""Ways to distribute, and the columns that tell the server."""
OLDEST = 11  # of Citus, whose workers know the tables
# To reach other servers in a transaction that has read a table which each of them has.
_ALWAYS = {"citus.enable_local_execution": "off"}
SETTINGS = {
    "collection": _ALWAYS,
    "item": {
        **_ALWAYS,
        # To change rows of several servers and those of `collections` in one transaction.
        "citus.multi_shard_modify_mode": SEQUENTIAL,
        # What a search by an index sets for itself reaches no server but one.
        "hnsw.ef_search": "200",
        "hnsw.iterative_scan": "relaxed_order",
    },
}
"""Of the database on every server, by the way to distribute."""


def distribute(
    connection: Connection,
    by: Literal["collection", "item"] = "collection",
    records: Records = RECORDS,
) -> None:
    """Distribute the tables, with the rows that are in them, in the connection's transaction.

    Where they are distributed so already, nothing happens. Settings of the database are changed on
    every server, outside the transaction, and are those of connections made afterwards: let all
    applications connect anew.

    Args:
        connection: To the coordinator, by a role that owns the tables and the database.
        by: `"collection"` for many of them, each on one server; `"item"` for few large ones.
        records: Which tables.

    Raises:
        ValueError: `by` is something else.
        SchemaError: Citus is not there or too old, there are no other servers, the tables are
            missing, distributed in another way, or have what Citus does not distribute.
    """
    if by not in BY:
        raise ValueError(f"by must be 'collection' or 'item', not {by!r}")
    _check_citus(connection)
    there = distributed_by(connection, records)
    if there == by:
        return
    if there is not None:
        raise SchemaError(
            f"{records.embeddings.fullname} is distributed by {there}: bring it back first, by "
            "undistribute() or distribute --undo"
        )
    _check_tables(connection, records)
    names = names_of(connection, records)
    collections, embeddings = names.collections, names.embeddings
    _prepare(connection)
    connection.execute(text("SELECT create_reference_table(:table)"), {"table": collections})
    connection.execute(
        text("SELECT create_distributed_table(:table, :column, colocate_with => 'none')"),
        {"table": embeddings, "column": BY[by]},
    )
    connection.execute(
        text("SELECT truncate_local_data_after_distributing_table(:table)"), {"table": embeddings}
    )
    _set_everywhere(connection, SETTINGS[by])


def undistribute(connection: Connection, records: Records = RECORDS) -> None:
    """Bring the tables back to the coordinator, with their rows, in the connection's transaction.

    The settings that `distribute` made are reset. Where they are not distributed, nothing happens.

    Raises:
        SchemaError: Citus is not there.
    """
    _check_citus(connection, needs_servers=False)
    by = distributed_by(connection, records)
    if by is None:
        return
    _prepare(connection)
    connection.execute(
        text("SELECT undistribute_table(:table, cascade_via_foreign_keys => true)"),
        {"table": names_of(connection, records).embeddings},
    )
    _set_everywhere(connection, dict.fromkeys(SETTINGS[by]))


def distributed_by(connection: Connection, records: Records = RECORDS) -> str | None:
    """Return `"collection"` or `"item"`; None where the table is not distributed."""
    column = connection.scalar(
        text(
            "SELECT column_to_column_name(logicalrelid, partkey) FROM pg_dist_partition "
            "WHERE logicalrelid = to_regclass(:table) AND partmethod = 'h'"
        ),
        {"table": names_of(connection, records).embeddings},
    )
    return next((by for by, name in BY.items() if name == column), None)


def prepare_migration(connection: Connection) -> None:
    """Let both tables be changed in this transaction, where they are distributed."""
    if is_there(connection):
        is_spread(connection)  # it is told by the setting, before that is changed
        connection.exec_driver_sql(ONE_BY_ONE)


def keeping_of(connection: Connection, table: str) -> str | None:
    """Return how Citus keeps a host's table.

    Args:
        connection: To the coordinator.
        table: Its name as SQL.

    Returns:
        `"distributed"`: other servers have its rows; `"reference"`: each has all of them;
        `"local"`: the coordinator has them, and Citus knows it; None: it does not.
    """
    if not is_there(connection):
        return None
    kept = connection.execute(
        text(
            "SELECT CASE WHEN repmodel = 't' THEN 'reference' "
            "WHEN partkey IS NOT NULL OR colocationid <> 0 THEN 'distributed' ELSE 'local' END "
            "FROM pg_catalog.pg_dist_partition WHERE logicalrelid = to_regclass(:table)"
        ),
        {"table": table},
    )
    found = kept.scalar()
    return None if found is None else str(found)


def prepare_triggers(connection: Connection, table: str) -> None:
    """Let triggers be made on a host's table in this transaction.

    Raises:
        SchemaError: Citus has its rows on other servers, where they would run.
    """
    kept = keeping_of(connection, table)
    if kept == "local":  # else Citus makes them by a connection of its own
        connection.exec_driver_sql(BY_THIS_CONNECTION)
    elif kept is not None:
        raise SchemaError(not_followed(table, kept))


def not_followed(table: str, kept: str) -> str:
    """Return why no triggers are made on a table, and what to do."""
    return (
        f"triggers on {table}, a {kept} table of Citus, would run on other servers and not reach "
        "the pending rows on the coordinator: make none, and call sync() regularly, or bring it "
        "back by undistribute_table() first"
    )


def _check_citus(connection: Connection, *, needs_servers: bool = True) -> None:
    version = connection.scalar(text("SELECT extversion FROM pg_extension WHERE extname = 'citus'"))
    if version is None:
        raise SchemaError(
            "Citus is not in this database: run CREATE EXTENSION citus in it, on every server"
        )
    if int(str(version).split(".")[0].split("-")[0]) < OLDEST:
        raise SchemaError(f"Citus {version} is too old: {OLDEST} is needed, or a newer one")
    if needs_servers and not connection.scalar(
        text("SELECT count(*) FROM pg_dist_node WHERE groupid <> 0 AND isactive")
    ):
        raise SchemaError(
            "There are no other servers: SELECT citus_add_node('host', 5432) adds one"
        )


def _check_tables(connection: Connection, records: Records) -> None:
    names = names_of(connection, records)
    collections, embeddings = names.collections, names.embeddings
    tables = {"collections": collections, "embeddings": embeddings}
    kinds = text("SELECT relkind FROM pg_class WHERE oid = to_regclass(:table)")
    for table in (collections, embeddings):
        kind = connection.scalar(kinds, {"table": table})
        if kind is None:
            raise SchemaError(f"There is no table {table}: call embeddings.migrate(engine) first")
        if str(kind) != "r":
            raise SchemaError(f"{table} is partitioned: Citus parts it by itself, make it whole")
    others = connection.scalars(
        text(
            "SELECT CAST(conrelid AS regclass) FROM pg_constraint WHERE contype = 'f' AND "
            "(confrelid = to_regclass(:embeddings) OR (confrelid = to_regclass(:collections) "
            "AND conrelid <> to_regclass(:embeddings)))"
        ),
        tables,
    ).all()
    if others:
        raise SchemaError(
            f"{', '.join(map(str, others))} has a foreign key to {collections} or {embeddings}, "
            "which a table on one server cannot have: drop it first"
        )
    triggers = connection.scalars(
        text(
            "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND "
            "tgrelid IN (to_regclass(:collections), to_regclass(:embeddings))"
        ),
        tables,
    ).all()
    if triggers:
        raise SchemaError(
            f"The triggers {', '.join(map(str, triggers))} are on {collections} or {embeddings}, "
            "which Citus does not distribute: drop them first"
        )


def _prepare(connection: Connection) -> None:
    """Let tables be moved in this transaction, whatever a distribution has set before."""
    connection.exec_driver_sql(ONE_BY_ONE)
    connection.exec_driver_sql(BY_THIS_CONNECTION)


def _set_everywhere(connection: Connection, settings: dict[str, Any]) -> None:
    """Change settings of the database on every server; None resets one."""
    database = quoted(str(connection.scalar(text("SELECT current_database()"))))
    changes = [
        f"ALTER DATABASE {database} "
        + (f"RESET {name}" if value is None else f"SET {name} = {literal(value)}")
        for name, value in settings.items()
    ]
    # pgvector is loaded by its first use, and PostgreSQL takes its settings from then on.
    block = "".join(f"EXECUTE {literal(change)}; " for change in changes)
    command = (
        "DO $embeddings_do$ BEGIN SET LOCAL citus.enable_ddl_propagation TO off; "
        f"PERFORM CAST('[1]' AS vector); {block}END $embeddings_do$"
    )
    for success, told in connection.execute(
        text("SELECT success, result FROM run_command_on_all_nodes(:command)"),
        {"command": command},
    ).all():
        if not success:
            raise SchemaError(f"A server refused settings of the database: {told}")

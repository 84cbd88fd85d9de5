"""The rows that are pending, on PostgreSQL: the table, and the function that removes vectors.

The functions that follow a host's tables name this table and this function only. What names
`embeddings` is the function, which our own migrations may replace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.engine.mock import MockConnection

from ...errors import SchemaError
from ...following.literals import FOLLOWS
from ...tables.ours import schema_found, schema_of
from ...tables.pending import REMOVED, pending_name
from ..quoting import quoted
from . import added
from .names import Names, names_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from ...tables.records import Records

CHUNK_SETTING = "chunk_setting"
"""The column of collections that says that there are chunks: see `parts`."""
DEFINER = "LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
SCHEMA = "{the schema of the embeddings}"
"""Stands in statements for the schema, quoted; in no condition of a host's."""


def schema_of_pending(connection: Connection, records: Records) -> str:
    """Return the schema of the table that the connection finds, anywhere on its search path."""
    return str(schema_found(connection, pending_name(records), records.embeddings.schema))


def schema_that_has(table: str) -> str:
    """Return the SQL of the schema of a table; of the first on the search path if it is nowhere.

    Args:
        table: SQL of its name.
    """
    return (
        "coalesce((SELECT n.nspname FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c "
        f"ON c.relnamespace = n.oid WHERE c.oid = to_regclass({table})), current_schema())"
    )


def run(connection: Connection, statements: list[str]) -> None:
    """Execute statements as they are: no percent sign or colon in them is a parameter."""
    for statement in statements:
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def carry_out(
    connection: Connection,
    records: Records,
    script: Callable[[Records, str | None], list[str]],
    *,
    removes: bool = False,
) -> None:
    """Execute a script for the schema of the tables; where there is no database, print it.

    Args:
        connection: To the database.
        records: The mapped classes.
        script: What makes the statements.
        removes: Whether the tables are those that the connection finds, and not where it makes new
            ones.
    """
    if isinstance(connection, MockConnection):
        for statement in script(records, records.embeddings.schema):
            connection.execute(text(statement.replace(":", "\\:")))
        return
    if removes:
        schema: str | None = schema_of_pending(connection, records)
    else:
        schema = schema_of(connection, records.embeddings.schema)
    run(connection, script(records, schema))


def in_schema(statement: str, schema: str | None, otherwise: str = "current_schema()") -> str:
    """Return a statement with its `SCHEMA` filled in; where it is not known, when it is run.

    Args:
        statement: What has `SCHEMA` in it.
        schema: Its name; None if it is not known.
        otherwise: SQL of the name.
    """
    if schema is not None:
        return statement.replace(SCHEMA, quoted(schema))
    return (
        "DO $embeddings_do$ BEGIN EXECUTE replace($embeddings_sql$"
        f"{statement}$embeddings_sql$, '{SCHEMA}', "
        f"""'"' || replace({otherwise}, '"', '""') || '"'); """
        "END $embeddings_do$"
    )


def install(connection: Connection, records: Records) -> None:
    """Create the table and its function. What is there is kept or made anew."""
    carry_out(connection, records, script)


def missing(connection: Connection, records: Records) -> str | None:
    """Return what of it others have removed, or None."""
    table = pending_name(records)
    there = added.names_on(connection, names_of(connection, records).pending)
    if not there:
        return f"the table {table} is missing"
    schema = schema_of_pending(connection, records)
    function = in_schema(f"{removal_of(records)}(text, text[])", schema)
    # Some roles may not read the catalog of functions.
    is_there = text("SELECT to_regprocedure(:function) IS NOT NULL")
    if connection.scalar(is_there, {"function": function}):
        there.add(f"{table}_removed")
    lost = [name for name in (f"idx_{table}_id", f"{table}_removed") if name not in there]
    return f"beside {table} are missing: {', '.join(lost)}" if lost else None


def script(records: Records, schema: str | None = None) -> list[str]:
    """Return the SQL of `install` for tables in that schema; None for the current one."""
    table = pending_name(records)
    statements = (
        f'CREATE TABLE IF NOT EXISTS {SCHEMA}."{table}" ('
        "seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
        'collection TEXT COLLATE "C" NOT NULL, id TEXT COLLATE "C" NOT NULL, '
        "change TEXT NOT NULL, "
        "since INTEGER NOT NULL DEFAULT CAST(extract(epoch FROM clock_timestamp()) AS INTEGER), "
        "claimed_until INTEGER, claimed_by TEXT, attempts INTEGER NOT NULL DEFAULT 0, error TEXT)",
        f'CREATE INDEX IF NOT EXISTS "idx_{table}_id" ON {SCHEMA}."{table}" (collection, id)',
    )
    return [
        *(in_schema(statement, schema) for statement in statements),
        *_removal_script(records, schema),
    ]


def _removal_script(records: Records, schema: str | None = None) -> list[str]:
    """Return the SQL of the function that removes vectors."""
    table = pending_name(records)
    embeddings, collections = (
        f"{SCHEMA}.{quoted(each.name)}" for each in (records.embeddings, records.collections)
    )
    function = removal_of(records)
    is_it = "collection_id = of_collection AND id = of_item"
    remove = (
        "IF has_chunks THEN "
        # Whoever writes an item locks its first chunk first. Its other rows are waited for.
        f"PERFORM 1 FROM {embeddings} WHERE collection_id = of_collection "
        "AND id = of_item || '#0' FOR UPDATE SKIP LOCKED; "
        f"IF FOUND THEN DELETE FROM {embeddings} WHERE collection_id = of_collection "
        "AND id >= of_item || '#' AND id < of_item || '$' "
        "AND rtrim(id, '0123456789') = of_item || '#'; END IF; "
        "ELSE "
        f"PERFORM 1 FROM {embeddings} WHERE {is_it} FOR UPDATE SKIP LOCKED; "
        f"IF FOUND THEN DELETE FROM {embeddings} WHERE {is_it}; END IF; "
        "END IF; "
    )
    statements = (
        # No trigger on the table: its condition would be evaluated for every other row as well.
        f"CREATE OR REPLACE FUNCTION {function}(of_name text, of_ids text[]) RETURNS void "
        f"{DEFINER} AS $removed$ "
        "DECLARE of_collection integer; has_chunks boolean; of_item text; "
        "BEGIN "
        f'INSERT INTO {SCHEMA}."{table}" (collection, id, change) '
        f"SELECT of_name, gone, '{REMOVED}' FROM unnest(of_ids) AS gone; "
        # Dropped without `uninstall`: the host's own rows can be deleted all the same.
        f"IF to_regclass('{embeddings}') IS NULL THEN RETURN; END IF; "
        # The column is not there before a later revision.
        f"SELECT c.id, to_jsonb(c) ->> '{CHUNK_SETTING}' IS NOT NULL INTO of_collection, "
        f"has_chunks FROM {collections} c WHERE c.name = of_name; "
        # A refresher has the row: it finds that another change has come, and leaves it pending.
        "IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN "
        f"FOREACH of_item IN ARRAY of_ids LOOP BEGIN {remove}"
        "EXCEPTION WHEN serialization_failure OR deadlock_detected THEN NULL; END; END LOOP; "
        "ELSE "
        f"FOREACH of_item IN ARRAY of_ids LOOP {remove}END LOOP; "
        "END IF; END $removed$",
        # Only who made it may call it, and the functions that follow a host's tables.
        f"REVOKE ALL ON FUNCTION {function}(text, text[]) FROM PUBLIC",
    )
    return [in_schema(statement, schema) for statement in statements]


def removal_of(records: Records) -> str:
    """Return the name of the function that notes rows as removed, and removes their vectors.

    It takes the name of a collection, and ids.
    """
    return f'{SCHEMA}."{pending_name(records)}_removed"'


def check_may_append(connection: Connection, records: Records, schema: str) -> None:
    """Do nothing if what the role makes may note changes, and remove vectors.

    Raises:
        SchemaError: It may not, and every write of the host's would fail. Says what to grant.
    """
    table = Names(records, schema).pending
    function = in_schema(f"{removal_of(records)}(text, text[])", schema)
    role, *may = connection.execute(
        text(
            "SELECT current_user, has_table_privilege(to_regclass(:table), 'INSERT'), "
            "has_function_privilege(to_regprocedure(:function), 'EXECUTE')"
        ),
        {"table": table, "function": function},
    ).one()
    if False in may:
        raise SchemaError(
            f"Triggers write with the rights of the role that makes them, and the role {role!r} "
            f"may not write to {table}. Let the owner of that table make them, or run: GRANT "
            f"INSERT ON {table} TO {quoted(role)}; GRANT EXECUTE ON FUNCTION {function} TO "
            f"{quoted(role)}"
        )


def uninstall(connection: Connection, records: Records) -> None:
    """Drop the table, its function, and what follows hosts' tables, which could not write."""
    if not isinstance(connection, MockConnection):
        functions = functions_of_hosts(connection, records)
        run(connection, [f"DROP FUNCTION {function} CASCADE" for function in functions])
    carry_out(connection, records, script_down, removes=True)


def functions_of_hosts(connection: Connection, records: Records) -> list[str]:
    """Return the functions that append to the table, as SQL."""
    found = connection.execute(
        text(
            "SELECT CAST(p.oid AS regprocedure) FROM pg_catalog.pg_proc p "
            "JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace "
            "WHERE n.nspname = :schema AND starts_with(p.proname, :follows) "
            "AND position(:table IN p.prosrc) > 0"
        ),
        {
            "schema": schema_of_pending(connection, records),
            "follows": FOLLOWS,
            "table": f'."{pending_name(records)}"',
        },
    )
    return list(found.scalars())


def script_down(records: Records, schema: str | None = None) -> list[str]:
    """Return the SQL that undoes that of `script`."""
    names = Names(records, schema)
    return [
        f"DROP TABLE IF EXISTS {names.pending}",
        f'DROP FUNCTION IF EXISTS {names.inside}"{pending_name(records)}_removed"(text, text[])',
    ]

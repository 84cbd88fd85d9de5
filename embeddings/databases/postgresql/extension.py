"""pgvector's extension in a database, and what PostgreSQL's errors say."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ...driver_errors import of_driver, sqlstate
from ...errors import SchemaError

if TYPE_CHECKING:
    from sqlalchemy import Connection

INSUFFICIENT_PRIVILEGE = "42501"
READS_ALONE = {INSUFFICIENT_PRIVILEGE, "25006"}  # a transaction, or a standby, that is read only
CONNECTION_EXCEPTIONS = "08"  # of whose class
TRY_AGAIN = frozenset({"40001", "40P01"})
"""serialization_failure, deadlock_detected."""
ENDED_BY_OTHERS = TRY_AGAIN | {"55P03"}
"""Those, and lock_not_available."""
NO_CONNECTIONS = frozenset({"53300", "57P01", "57P02", "57P03"})
"""too_many_connections, admin_shutdown, crash_shutdown, cannot_connect_now."""


def create(connection: Connection) -> None:
    """Create pgvector's extension in a database that lacks it.

    Raises:
        SchemaError: The server has no pgvector, or the role may not create it. Says whom to ask
            for what.
    """
    database = connection.scalar(text("SELECT current_database()"))
    there = connection.scalar(
        text("SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'vector'")
    )
    if there is not None:
        if connection.scalar(text("SELECT to_regtype('vector')")) is None:
            raise SchemaError(
                f"pgvector is in the schema {there} of the database {database!r}, which is not on "
                "the search_path of this connection: add it"
            )
        return
    if not connection.scalar(text("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'")):
        raise SchemaError(
            "This PostgreSQL server has no pgvector. Ask its administrator to install it "
            "(https://github.com/pgvector/pgvector#installation), and then to run, in the database "
            f"{database!r}: CREATE EXTENSION vector"
        )
    # The first schema of the search path may be one tenant's only.
    is_shared = connection.scalar(text("SELECT 'public' = ANY (current_schemas(false))"))
    schema = " SCHEMA public" if is_shared else ""
    if not is_shared:
        first = connection.scalar(text("SELECT current_schema()"))
        warnings.warn(
            f"pgvector's extension goes into the schema {first!r}, the first of the search_path, "
            "which has no public. A database has the extension once: every other connection that "
            f"uses it needs {first!r} on its search_path. If that schema is one tenant's, create "
            "the extension before, in a schema for all: CREATE EXTENSION vector SCHEMA shared",
            stacklevel=2,
        )
    try:
        with connection.begin_nested():
            connection.execute(text(f"CREATE EXTENSION IF NOT EXISTS vector{schema}"))
    except DBAPIError as error:
        if sqlstate(error) != INSUFFICIENT_PRIVILEGE:
            raise
        raise SchemaError(
            "This role may not create the extension pgvector. Ask the administrator to run, in "
            f"the database {database!r}: CREATE EXTENSION vector"
        ) from None


def may_read(connection: Connection, table: str, schema: str | None) -> bool:
    """Return what `Database.may_read` does."""
    allowed = text(
        "SELECT has_table_privilege(c.oid, 'SELECT') FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relname = :table AND n.nspname = :schema"
    )
    return connection.scalar(allowed, {"table": table, "schema": schema}) is not False


def refuses_connections(error: Exception) -> bool:
    """Return whether an error is that of connecting, or the server ends the connection."""
    code = sqlstate(error)
    if code is None:  # no server was reached, in time, or a pool of the driver's has nothing left
        return "OperationalError" in {each.__name__ for each in type(of_driver(error)).__mro__}
    return code in NO_CONNECTIONS or code.startswith(CONNECTION_EXCEPTIONS)

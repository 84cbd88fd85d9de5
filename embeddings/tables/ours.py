"""The tables in a database: which they are, whether they are ours, what creating them takes."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, MetaData, Table, event, func, inspect, select, text
from sqlalchemy.exc import (
    DBAPIError,
    InvalidRequestError,
    NoSuchTableError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.orm import relationship
from sqlalchemy.schema import DropTable

from ..databases.sqlite.changelog import LLM_MIGRATIONS_TABLE, check_log, install, uninstall
from ..errors import SchemaError
from ..sql import MAX_NAME_BYTES, connection_of, dialect_of, schema_map_of
from .records import RECORDS, CollectionColumns, EmbeddingColumns, Records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy.orm import Session

VERSION_TABLE = "embeddings_alembic_version"
# Columns without which a table of a documented name is not ours: llm's first version had these.
_FIRST = {
    "collections": {"id", "name", "model"},
    "embeddings": {"collection_id", "id", "embedding", "content", "metadata"},
}

# https://www.postgresql.org/docs/current/errcodes-appendix.html
UNDEFINED_TABLE, UNDEFINED_COLUMN, INSUFFICIENT_PRIVILEGE = "42P01", "42703", "42501"


def schema_of(connection: Connection) -> str | None:
    """Return the schema into which the connection puts a table that names none; None on SQLite."""
    schema = schema_map_of(connection).get(None)
    if schema is None and connection.dialect.name == "postgresql":
        schema = connection.scalar(select(func.current_schema()))
    return schema


def create_extension(connection: Connection) -> None:
    """Create pgvector's extension in a PostgreSQL database that lacks it; elsewhere do nothing.

    Raises:
        SchemaError: The server has no pgvector, or the role may not create it. Says whom to ask
            for what.
    """
    if connection.dialect.name != "postgresql":
        return
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
    try:
        with connection.begin_nested():
            connection.execute(
                text(f"CREATE EXTENSION IF NOT EXISTS vector{' SCHEMA public' * bool(is_shared)}")
            )
    except DBAPIError as error:
        if sqlstate(error) != INSUFFICIENT_PRIVILEGE:
            raise
        raise SchemaError(
            "This role may not create the extension pgvector. Ask the administrator to run, in "
            f"the database {database!r}: CREATE EXTENSION vector"
        ) from None


def check_adoptable(connection: Connection, records: Records = RECORDS) -> None:
    """Do nothing if what the database has of the two tables, of whatever age, is ours.

    Raises:
        SchemaError: A table lacks columns, or stands without the other one that `migrate` would
            have made with it: then it is somebody else's. Or the name of the change log is taken.
    """
    lacking = _lacking(connection, records)
    reason = _foreign(lacking, records)
    if reason is None and records is RECORDS and list(lacking.values()).count(None) == 1:
        name = next(name for name, columns in lacking.items() if columns is not None)
        reason = _is_foreign(name, "stands without its partner")
    if reason:
        raise SchemaError(f"{reason}. Nothing was changed")
    check_log(connection, records)


def _lacking(connection: Connection, records: Records) -> dict[str, set[str] | None]:
    """Return which columns each table lacks; None if it is not there."""
    inspector, schema_map = inspect(connection), schema_map_of(connection)
    lacking: dict[str, set[str] | None] = {}
    for table in (records.collections, records.embeddings):
        schema = schema_map.get(table.schema, table.schema) or schema_of(connection)
        try:
            columns = {column["name"] for column in inspector.get_columns(table.name, schema)}
        except NoSuchTableError:
            lacking[table.name] = None
        else:
            lacking[table.name] = {column.name for column in table.columns} - columns
    return lacking


def _foreign(lacking: dict[str, set[str] | None], records: Records) -> str | None:
    for name, columns in lacking.items():
        essential = _FIRST[name] if records is RECORDS else columns
        if columns and essential and (missed := columns & essential):
            return _is_foreign(name, f"lacks the columns {sorted(missed)}")
    return None


def _is_foreign(name: str, reason: str) -> str:
    return (
        f"This database has a table {name!r} that is not of this library: it {reason}. Leave it, "
        "and give ours other names: embeddings.make_records(Base, prefix=...)"
    )


def missing_tables(session: Session, records: Records) -> bool:
    """Return whether one of the two tables is absent."""
    return None in _lacking(connection_of(session, records), records).values()


def sqlstate(error: DBAPIError) -> str | None:
    """Return PostgreSQL's code for an error, whatever the driver."""
    code: str | None = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    return code


@contextmanager
def explained(session: Session, records: Records) -> Iterator[None]:
    """Run the block, and say what to do about errors that come of the tables.

    Raises:
        SchemaError: They are missing, or somebody else's.
    """
    try:
        yield
    except (OperationalError, ProgrammingError) as error:
        if reason := _reason(error, session, records):
            raise SchemaError(reason) from None
        raise


def _reason(error: DBAPIError, session: Session, records: Records) -> str | None:
    message = str(error.orig)
    if dialect_of(session, records).name == "postgresql":  # where nothing can be asked any more
        tables = (records.collections.name, records.embeddings.name)
        named = [name for name in tables if re.search(rf"(?<!\w){name}(?!\w)", message)]
        if named and sqlstate(error) == UNDEFINED_COLUMN:
            return _is_foreign(named[0], "lacks columns")
        is_missing = bool(named) and sqlstate(error) == UNDEFINED_TABLE
        return _are_missing(records) if is_missing else None
    if "no such" not in message and "has no column" not in message:
        return None
    lacking = _lacking(connection_of(session, records), records)
    is_incomplete = None in lacking.values() or any(lacking.values())
    return _foreign(lacking, records) or (_are_missing(records) if is_incomplete else None)


def _are_missing(records: Records) -> str:
    if records is RECORDS:
        return (
            "The tables of the embeddings are not in this database, or are of an older version. "
            "Create them, or bring them up to date, with embeddings.migrate(engine)"
        )
    return (
        f"The tables {records.collections.fullname!r} and {records.embeddings.fullname!r} are not "
        "in this database. Create them with a migration of your own, or with create_all() of "
        "their metadata"
    )


def make_records(base: Any, *, prefix: str = "", schema: str | None = None) -> Records:
    """Return the two tables, mapped in your own declarative base, under names of your choosing.

    Pass them to every collection that lives in them: `Collection(..., records=records)`. The
    classes have what `CollectionRecord` and `EmbeddingRecord` have. They are `records.collection`
    and `records.embedding`; a foreign key to an embedding's collection is
    `ForeignKey(records.collection.id)`.

    The tables are yours: `create_all` makes them, or your own migrations do, where
    `install(op.get_bind(), records)` follows their creation. `migrate` has nothing to do with them.

    The classes do not inherit from the base, and so not its columns and its constructor. A session
    with several binds names them: `binds={records.collection: engine, records.embedding: engine}`.

    Args:
        base: A declarative base, or a class such as Flask-SQLAlchemy's `db.Model`.
        prefix: Of the names: "search_" makes `search_collections` and `search_embeddings`.
        schema: The schema of the tables; by default that of the base's `MetaData`.

    Raises:
        TypeError: The prefix is no string.
        ValueError: It is too long, or no beginning of a name.
        sqlalchemy.exc.InvalidRequestError: The base has a table of such a name.
    """
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a string, not {type(prefix).__name__}")
    if prefix and not prefix.isidentifier():
        raise ValueError(f"prefix must be letters, digits and underscores, not {prefix!r}")
    if len(f"idx_{prefix}embeddings_content_hash".encode()) > MAX_NAME_BYTES:
        raise ValueError(f"the prefix {prefix!r} is too long: names have up to 63 bytes")
    schema = schema or base.metadata.schema
    for table in (f"{prefix}collections", f"{prefix}embeddings"):
        if (f"{schema}.{table}" if schema else table) in base.metadata.tables:
            raise InvalidRequestError(f"This base has a table {table!r} already: give a prefix")
    within = f"{schema}__" if schema else ""

    def mapped(kind: str, columns: type[Any], **attributes: Any) -> Any:
        # In the base's registry and metadata, without its own columns and its constructor.
        attributes |= {
            "__tablename__": f"{prefix}{kind.lower()}s",
            "__schema__": schema,
            "__module__": base.__module__,
            "metadata": base.metadata,
        }
        cls = base.registry.mapped(type(f"{within}{prefix}{kind}Record", (columns,), attributes))
        for column in cls.__table__.primary_key:  # nullable in the documented schema only
            column.nullable = False
        return cls

    collection = mapped("Collection", CollectionColumns)
    embedding = mapped("Embedding", EmbeddingColumns, __collection__=collection)
    both_ways = relationship(embedding, back_populates="collection", cascade="all, delete-orphan")
    collection.__mapper__.add_property("embeddings", both_ways)
    records = Records(collection, embedding)
    watch(records)
    return records


def watch(records: Records) -> None:
    """Let `create_all` and `drop_all` of the tables' metadata see to what stands beside them."""
    ours = {records.collections, records.embeddings}

    def before_create(
        _: MetaData, connection: Connection, *, tables: Iterable[Table], **options: Any
    ) -> None:
        asked = options["_ddl_runner"].tables
        if asked is None or not ours.isdisjoint(asked):
            check_adoptable(connection, records)  # create_all would skip somebody else's
        if records.embeddings in tables:
            create_extension(connection)

    def after_create(_: Table, connection: Connection, **__: Any) -> None:
        install(connection, records)

    def after_drop(_: Table, connection: Connection, **__: Any) -> None:
        uninstall(connection, records)
        if records is RECORDS:
            connection.execute(DropTable(Table(VERSION_TABLE, MetaData()), if_exists=True))

    event.listen(records.embeddings.metadata, "before_create", before_create)
    event.listen(records.embeddings, "after_create", after_create)
    event.listen(records.embeddings, "after_drop", after_drop)
    KNOWN.append(records)


def side_table_names() -> set[str]:
    """Return the names of the tables that no metadata holds, of all records that were made."""
    return {VERSION_TABLE, LLM_MIGRATIONS_TABLE, *(records.log for records in KNOWN)}


KNOWN: list[Records] = []
watch(RECORDS)

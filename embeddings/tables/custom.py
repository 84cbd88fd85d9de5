"""The two tables under a host's names and in its metadata, and what goes with creating them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Inspector, MetaData, Table, event, inspect
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import DeclarativeBase, relationship
from sqlalchemy.schema import DropTable

from .. import databases
from ..internals import registry_of, tables_to_create
from .ours import VERSION_TABLE, check_adoptable, schema_map_of
from .records import RECORDS, CollectionColumns, EmbeddingColumns, Records

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_NAME_BYTES = 63  # of a name in PostgreSQL, the shortest of all supported databases
KNOWN: list[Records] = []
"""All records that were made in this process."""


def install(connection: Connection, records: Records = RECORDS) -> None:
    """Create what stands beside the tables: pending rows, on SQLite the change log.

    And on PostgreSQL the columns of text indexes.

    Can be repeated: what is there is kept or made anew. Runs in the connection's transaction.
    `migrate` and `create_all` do this by themselves; a migration of your own, which creates the
    tables of `make_records` or rebuilds them, calls it afterwards.
    """
    database = databases.of(connection.dialect)
    database.install(connection, records)
    database.install_pending(connection, records)
    database.install_words(connection, records)


def uninstall(connection: Connection, records: Records = RECORDS) -> None:
    """Remove what `install` made, and the triggers on tables that collections follow.

    `downgrade` and `drop_all` do this by themselves; the downgrade of a migration of your own calls
    it before or after it drops the tables. Runs in the connection's transaction.
    """
    database = databases.of(connection.dialect)
    database.uninstall_words(connection, records)
    database.uninstall_pending(connection, records)
    database.uninstall(connection, records)


def make_records(
    base: Any,
    *,
    prefix: str = "",
    schema: str | None = None,
    collection_mixin: type[Any] | None = None,
    embedding_mixin: type[Any] | None = None,
) -> Records:
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
        base: A declarative base, or a class such as Flask-SQLAlchemy's `db.Model` or `SQLModel`.
        prefix: Of the names: "search_" makes `search_collections` and `search_embeddings`.
        schema: The schema of the tables; by default that of the base's `MetaData`.
        collection_mixin: A class with columns of your own for the collections.
        embedding_mixin: A class with columns of your own for the embeddings, such as a tenant or
            an owner. What a collection writes leaves them alone in rows that are there, and fills
            them by their defaults in new ones.

    Raises:
        TypeError: The prefix is no string, or a mixin no class.
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
    for name, mixin in (
        ("collection_mixin", collection_mixin),
        ("embedding_mixin", embedding_mixin),
    ):
        if mixin is not None and not isinstance(mixin, type):
            raise TypeError(f"{name} must be a class with mapped columns, not {mixin!r}")
    records = _records(base, prefix, schema, collection_mixin, embedding_mixin)
    watch(records)
    return records


def _records(
    base: Any,
    prefix: str,
    schema: str | None,
    collection_mixin: type[Any] | None = None,
    embedding_mixin: type[Any] | None = None,
) -> Records:
    within = f"{schema}__" if schema else ""

    def mapped(kind: str, columns: type[Any], mixin: type[Any] | None, **attributes: Any) -> Any:
        # In the base's registry and metadata, without its own columns and its constructor.
        attributes |= {
            "__tablename__": f"{prefix}{kind.lower()}s",
            "__schema__": schema,
            "__module__": base.__module__,
            "metadata": base.metadata,
        }
        bases = (columns,) if mixin is None else (columns, mixin)
        kind_name = f"{within}{prefix}{kind}Record"
        cls = registry_of(base).mapped(type(kind_name, bases, attributes))
        for column in cls.__table__.primary_key:  # nullable in the documented schema only
            column.nullable = False
        return cls

    collection = mapped("Collection", CollectionColumns, collection_mixin)
    embedding = mapped("Embedding", EmbeddingColumns, embedding_mixin, __collection__=collection)
    both_ways = relationship(embedding, back_populates="collection", cascade="all, delete-orphan")
    collection.__mapper__.add_property("embeddings", both_ways)
    return Records(collection, embedding)


def found(connection: Connection) -> list[Records]:
    """Return the records whose tables are in a database, the documented ones first.

    Those of `make_records` too, whether or not this process made them: in the schemas that are
    known, and in that in which the connection puts a table.
    """
    inspector, schema_map = inspect(connection), schema_map_of(connection)
    schemas = inspector.get_schema_names()
    names: dict[str | None, set[str]] = {}

    def are_there(records: Records) -> bool:
        schema = schema_map.get(records.embeddings.schema, records.embeddings.schema)
        if schema not in names:
            is_there = schema is None or schema in schemas
            names[schema] = {*inspector.get_table_names(schema=schema)} if is_there else set()
        return {records.collections.name, records.embeddings.name} <= names[schema]

    there = {records.embeddings.fullname: records for records in KNOWN if are_there(records)}
    default = schema_map.get(None)
    names.setdefault(default, {*inspector.get_table_names(schema=default)})
    for name in sorted(names[default]):
        prefix = name.removesuffix(COLLECTIONS)
        if name.endswith(COLLECTIONS) and prefix and f"{prefix}{EMBEDDINGS}" not in there:
            there |= _unknown(inspector, default, prefix, names[default])
    return list(there.values())


COLLECTIONS, EMBEDDINGS = "collections", "embeddings"
_made: dict[str, Records] = {}
"""Those that were found in databases, by prefix."""


def _unknown(
    inspector: Inspector, schema: str | None, prefix: str, names: set[str]
) -> dict[str, Records]:
    """Return the records of a prefix, if the tables are of that kind."""
    name = f"{prefix}{EMBEDDINGS}"
    if name not in names or not prefix.isidentifier():
        return {}
    for table in RECORDS.embeddings, RECORDS.collections:
        columns = {column["name"] for column in inspector.get_columns(prefix + table.name, schema)}
        if not {column.name for column in table.columns} <= columns:
            return {}
    if prefix not in _made:

        class Found(DeclarativeBase):
            """Of tables that another process declares."""

        _made[prefix] = _records(Found, prefix, None)
    return {name: _made[prefix]}


def watch(records: Records) -> None:
    """Let `create_all` and `drop_all` of the tables' metadata see to what stands beside them."""
    ours = {records.collections, records.embeddings}

    def before_create(
        _: MetaData, connection: Connection, *, tables: Iterable[Table], **options: Any
    ) -> None:
        asked = tables_to_create(options)
        if asked is None or not ours.isdisjoint(asked):
            check_adoptable(connection, records)  # create_all would skip somebody else's
        if records.embeddings in tables:
            databases.of(connection.dialect).before_create(connection)

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


watch(RECORDS)

"""The two tables under a host's names and in its metadata, and what goes with creating them."""

from __future__ import annotations

import copyreg
import importlib
from pickle import UnpicklingError
from types import FunctionType
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, Inspector, MetaData, Table, delete, event, inspect
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import registry, relationship
from sqlalchemy.schema import DropTable

from .. import databases
from ..databases.additions import ADDITIONS
from ..internals import calling_module, registry_of, tables_to_create
from ..sessions.own import owned_transaction
from .ours import VERSION_TABLE, check_adoptable, schema_found, schema_map_of
from .records import RECORDS, CollectionColumns, EmbeddingColumns, Records

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_NAME_BYTES = 63  # of a name in PostgreSQL, the shortest of all supported databases
KNOWN: list[Records] = []
"""All records that were made in this process."""


def install(connection: Connection | Engine, records: Records = RECORDS) -> None:
    """Create what stands beside the tables: pending rows, on SQLite the change log.

    And on PostgreSQL the columns of text indexes and chunks.

    Can be repeated: what is there is kept or made anew. Runs in the connection's transaction; on an
    engine in one of its own.
    `migrate` and `create_all` do this by themselves; a migration of your own, which creates the
    tables of `make_records` or rebuilds them, calls it afterwards.
    """
    if isinstance(connection, Engine):
        with owned_transaction(connection, write=True) as own:
            install(own, records)
        return
    database = databases.of(connection.dialect)
    for name in ADDITIONS:
        database.addition(name).install(connection, records)


def uninstall(connection: Connection, records: Records = RECORDS) -> None:
    """Remove what `install` made, and the triggers on tables that collections follow.

    `downgrade` and `drop_all` do this by themselves; the downgrade of a migration of your own calls
    it before or after it drops the tables. Runs in the connection's transaction.
    """
    database = databases.of(connection.dialect)
    for name in reversed(ADDITIONS):
        database.addition(name).uninstall(connection, records)


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

    The classes have the base's methods and properties, those of `AsyncAttrs` too, but not its
    columns and its constructor. Their objects can be pickled; a process that loads them makes the
    records in the same module. They are final: what you would put into a subclass goes into a
    mixin. A session with several binds names them:
    `binds={records.collection: engine, records.embedding: engine}`.

    Args:
        base: A declarative base, or a class such as Flask-SQLAlchemy's `db.Model` or `SQLModel`; a
            `registry`, or a `MetaData`.
        prefix: Of the names: "search_" makes `search_collections` and `search_embeddings`.
        schema: The schema of the tables; by default that of the base's `MetaData`.
        collection_mixin: A class with columns of your own for the collections.
        embedding_mixin: A class with columns of your own for the embeddings, such as a tenant or
            an owner. What a collection writes leaves them alone in rows that are there, and fills
            them by their defaults in new ones.

    Raises:
        TypeError: The base or the prefix is of another kind, or a mixin no class.
        ValueError: It is too long, or no beginning of a name.
        sqlalchemy.exc.InvalidRequestError: The base has a table of such a name.
    """
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a string, not {type(prefix).__name__}")
    if prefix and not prefix.isidentifier():
        raise ValueError(f"prefix must be letters, digits and underscores, not {prefix!r}")
    if len(f"idx_{prefix}embeddings_content_hash".encode()) > MAX_NAME_BYTES:
        raise ValueError(f"the prefix {prefix!r} is too long: names have up to 63 bytes")
    module, (given, metadata) = calling_module(), _declared(base)
    schema = schema or metadata.schema
    for table in (f"{prefix}collections", f"{prefix}embeddings"):
        if (f"{schema}.{table}" if schema else table) in metadata.tables:
            raise InvalidRequestError(f"This base has a table {table!r} already: give a prefix")
    for name, mixin in (
        ("collection_mixin", collection_mixin),
        ("embedding_mixin", embedding_mixin),
    ):
        if mixin is not None and not isinstance(mixin, type):
            raise TypeError(f"{name} must be a class with mapped columns, not {mixin!r}")
    helpers = _helpers(base) if isinstance(base, type) else None
    records = _records(
        given, metadata, module, prefix, schema, collection_mixin, embedding_mixin, helpers
    )
    watch(records)
    return records


def _declared(base: Any) -> tuple[registry, MetaData]:
    """Return the registry and the tables of whatever classes can be mapped in."""
    if isinstance(base, MetaData):
        return registry(metadata=base), base
    found = base if isinstance(base, registry) else registry_of(base)
    if found is None:
        kind = base.__name__ if isinstance(base, type) else type(base).__name__
        raise TypeError(f"base must be a declarative base, a registry or a MetaData, not {kind}")
    return found, base.metadata  # which a class may have of its own


def _helpers(base: type[Any]) -> type[Any]:
    """Return a class with what a base gives beside columns: methods and properties."""
    kinds = (FunctionType, property, classmethod, staticmethod)
    given = {
        name: value
        for cls in reversed(base.__mro__)
        if cls.__module__.partition(".")[0] not in {"pydantic", "sqlmodel"}
        and not cls.__module__.startswith("sqlalchemy.orm")
        for name, value in vars(cls).items()
        if isinstance(value, kinds) and not name.startswith("_")
    }
    return type(base.__name__, (), given)


class MadeKind(type):
    """The kind of the classes that `make_records` makes, which are pickled by their tables."""


def made(module: str, table: str) -> type[Any]:
    """Return the class of a table of `make_records`, for a pickled object.

    Raises:
        UnpicklingError: In this process the module has made none of this table.
    """
    importlib.import_module(module)
    for records in reversed(KNOWN):
        for cls in (records.collection, records.embedding):
            if cls.__module__ == module and cls.__table__.fullname == table:  # type: ignore[attr-defined]
                return cls
    raise UnpicklingError(
        f"In this process {module} has not called make_records for the table {table!r}"
    )


def _reduced(cls: Any) -> tuple[Any, ...]:
    return made, (cls.__module__, cls.__table__.fullname)


copyreg.pickle(MadeKind, _reduced)


def _records(
    given: registry,
    metadata: MetaData,
    module: str,
    prefix: str,
    schema: str | None = None,
    collection_mixin: type[Any] | None = None,
    embedding_mixin: type[Any] | None = None,
    helpers: type[Any] | None = None,
) -> Records:
    within = f"{schema}__" if schema else ""

    def mapped(kind: str, columns: type[Any], mixin: type[Any] | None, **attributes: Any) -> Any:
        # In the base's registry and metadata, without its own columns and its constructor.
        attributes |= {
            "__tablename__": f"{prefix}{kind.lower()}s",
            "__schema__": schema,
            "__module__": module,
            "metadata": metadata,
        }
        bases = tuple(cls for cls in (columns, mixin, helpers) if cls is not None)
        kind_name = f"{within}{prefix}{kind}Record"
        unmapped: Any = MadeKind(kind_name, bases, attributes)
        cls: Any = given.mapped(unmapped)
        for column in cls.__table__.primary_key:  # nullable in the documented schema only
            column.nullable = False
        return cls

    collection = mapped("Collection", CollectionColumns, collection_mixin)
    embedding = mapped("Embedding", EmbeddingColumns, embedding_mixin, __collection__=collection)
    both_ways = relationship(
        embedding, back_populates="collection", cascade="all, delete-orphan", passive_deletes=True
    )
    collection.__mapper__.add_property("embeddings", both_ways)
    return Records(collection, embedding)


def found(connection: Connection) -> list[Records]:
    """Return the records whose tables are in a database, the documented ones first.

    Those of `make_records` too, whether or not this process made them: where the connection finds
    the tables that are known, and any others in the schema in which it makes tables.
    """
    databases.of(connection.dialect).know_types()
    inspector, schema_map = inspect(connection), schema_map_of(connection)
    schemas = inspector.get_schema_names()
    names: dict[str | None, set[str]] = {}

    def are_there(records: Records) -> bool:
        table = records.embeddings
        schema = schema_found(connection, table.name, table.schema)
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
_made: dict[tuple[str, str | None], Records] = {}
"""Those that were found in databases, or named in revisions, by prefix and schema."""


def named(embeddings: str) -> Records:
    """Return the records whose table of embeddings has this name.

    Args:
        embeddings: The full name, with the schema if it has one: "app.search_embeddings".

    Raises:
        ValueError: No such table can be one of embeddings.
    """
    for records in KNOWN:
        if records.embeddings.fullname == embeddings:
            return records
    schema, _, name = embeddings.rpartition(".")
    prefix = name.removesuffix(EMBEDDINGS)
    if not name.endswith(EMBEDDINGS) or (prefix and not prefix.isidentifier()):
        raise ValueError(
            f"{embeddings!r} is no table of embeddings: its name is that prefix= of make_records "
            "makes, such as 'search_embeddings'"
        )
    return _made_by(prefix, schema or None)


def _made_by(prefix: str, schema: str | None) -> Records:
    if (prefix, schema) not in _made:
        _made[prefix, schema] = _records(registry(), MetaData(), __name__, prefix, schema)
    return _made[prefix, schema]


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
    return {name: _made_by(prefix, None)}


def watch(records: Records) -> None:
    """Let `create_all`, `drop_all` and deletions of collections see to what goes with them."""
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

    def before_delete(_: Any, connection: Connection, collection: Any) -> None:
        # Of a collection's record, whose embeddings the session has not loaded.
        columns = records.embeddings.c
        connection.execute(delete(records.embeddings).where(columns.collection_id == collection.id))

    event.listen(records.collection, "before_delete", before_delete)
    event.listen(records.embeddings.metadata, "before_create", before_create)
    event.listen(records.embeddings, "after_create", after_create)
    event.listen(records.embeddings, "after_drop", after_drop)
    KNOWN.append(records)


watch(RECORDS)

"""What a host's Alembic needs to know, so that its autogenerate leaves these tables alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sqlalchemy import Column

from .. import databases
from .columns import BinaryText, JSONObject, Vector
from .custom import KNOWN
from .ours import VERSION_TABLE
from .records import RECORDS, Base

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from sqlalchemy.sql.schema import SchemaItem

# Reflection warns of types that it does not know.
for _database in databases.every():
    _database.know_types()


def include_object(
    obj: SchemaItem, name: str | None, type_: str, reflected: bool, compare_to: SchemaItem | None
) -> bool:
    """Keep this library's tables out of a host's Alembic autogenerate.

    Pass it to the `context.configure()` of the host's `env.py`, or to Flask-Migrate's `Migrate`.
    A table of the same name in the host's own metadata is still compared.
    """
    if type_ == "column" and isinstance(obj, Column):
        # Nullable in the documented schema of SQLite, which no other database can have.
        return not (obj.primary_key and obj.table.metadata is Base.metadata)
    if not reflected or compare_to is not None:
        return True
    supported = databases.every()
    if type_ == "index":  # of a collection, by `create_index`
        return not any(
            database.is_own_index(name or "", records)
            for database in supported
            for records in KNOWN
        )
    if type_ != "table":
        return True
    side_tables = (database.side_tables(records) for database in supported for records in KNOWN)
    return name not in {
        RECORDS.collections.name,
        RECORDS.embeddings.name,
        VERSION_TABLE,
    }.union(*side_tables)


def render_item(type_: str, obj: object, context: AutogenContext) -> str | Literal[False]:
    """Write the column types of `make_records` into a host's revisions, with their import.

    Pass it to the `context.configure()` of the host's `env.py`, or to Flask-Migrate's `Migrate`.
    """
    if type_ == "type" and isinstance(obj, Vector | JSONObject | BinaryText):
        context.imports.add("import embeddings")
        return f"embeddings.{obj!r}"
    return False

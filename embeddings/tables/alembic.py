"""What a host's Alembic needs to know, so that its autogenerate leaves these tables alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sqlalchemy import Column, Table

from .. import databases
from .columns import BinaryText, JSONObject, Vector
from .custom import KNOWN
from .ours import VERSION_TABLE
from .records import RECORDS, Base, Records

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
    if type_ == "column" and isinstance(obj, Column) and not reflected:
        # Nullable in the documented schema of SQLite, which no other database can have.
        return not (obj.primary_key and obj.table.metadata is Base.metadata)
    if not reflected or compare_to is not None:
        return True
    supported = databases.every()
    if type_ == "column":  # of a text index
        tables = {table.name for records in KNOWN for table in _tables(records)}
        table = getattr(getattr(obj, "table", None), "name", None)
        return table not in tables or not any(
            database.is_own_column(name or "") for database in supported
        )
    if type_ == "index":  # of a collection, by `create_index`
        return not any(
            database.is_own_index(name or "", records)
            for database in supported
            for records in KNOWN
        )
    if type_ != "table":
        return True
    if name in {RECORDS.collections.name, RECORDS.embeddings.name, VERSION_TABLE}:
        return False
    return not any(
        database.is_side_table(name or "", records) for database in supported for records in KNOWN
    )


def _tables(records: Records) -> tuple[Table, Table]:
    return records.collections, records.embeddings


def render_item(type_: str, obj: object, context: AutogenContext) -> str | Literal[False]:
    """Write the column types of `make_records` into a host's revisions, with their import.

    Pass it to the `context.configure()` of the host's `env.py`, or to Flask-Migrate's `Migrate`.
    """
    if type_ == "type" and isinstance(obj, Vector | JSONObject | BinaryText):
        context.imports.add("import embeddings")
        return f"embeddings.{obj!r}"
    return False

"""What a host's Alembic needs to know, so that its autogenerate leaves these tables alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Column
from sqlalchemy.dialects.postgresql import base

from .records import Base, PGVector
from .schema import TABLES

if TYPE_CHECKING:
    from sqlalchemy.sql.schema import SchemaItem

# Reflection warns of types that it does not know. A host may have told it another one.
base.ischema_names.setdefault("vector", PGVector)


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
    ours = type_ == "table" and reflected and compare_to is None and name in TABLES
    return not ours

"""What a host's Alembic needs to know, so that its autogenerate leaves these tables alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from sqlalchemy import Column
from sqlalchemy.dialects.postgresql import base

from ..sql import index_prefix
from .columns import JSONObject, PGVector, Vector
from .ours import KNOWN, side_table_names
from .records import RECORDS, Base

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
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
    if not reflected or compare_to is not None:
        return True
    if type_ == "index":  # of a collection, by `create_index`
        return re.fullmatch(rf"({'|'.join(map(index_prefix, KNOWN))})\d+_hnsw", name or "") is None
    if type_ != "table":
        return True
    return name not in {
        RECORDS.collections.name,
        RECORDS.embeddings.name,
        *side_table_names(),
    }


def render_item(type_: str, obj: object, context: AutogenContext) -> str | Literal[False]:
    """Write the column types of `make_records` into a host's revisions, with their import.

    Pass it to the `context.configure()` of the host's `env.py`, or to Flask-Migrate's `Migrate`.
    """
    if type_ == "type" and isinstance(obj, Vector | JSONObject):
        context.imports.add("import embeddings")
        return f"embeddings.{obj!r}"
    return False

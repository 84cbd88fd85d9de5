"""HNSW indexes of pgvector on PostgreSQL: one for each collection that asks for one.

An index covers one collection, because dimensions differ between collections: it is partial, over
the vectors cast to the collection's dimensions. A query uses it if it says the same to the letter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, cast, func, select, text
from sqlalchemy.types import UserDefinedType

from ...dialects import identifier
from ...errors import IndexingError
from ...sql import index_prefix, schema_map_of
from ...vectors import ITEM_BYTES

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ...sql import Found
    from ...tables.records import Records

OLDEST_PGVECTOR = (0, 8, 0)  # the first with iterative scans, without which filters starve
MAX_VECTOR, MAX_HALFVEC = 2_000, 4_000  # dimensions that HNSW takes


class Sized(UserDefinedType[Any]):
    """pgvector's `vector(n)` or `halfvec(n)`, for an index over n dimensions."""

    cache_ok = True

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions

    @property
    def name(self) -> str:
        """The type's name: half precision where an index takes no other."""
        return "vector" if self.dimensions <= MAX_VECTOR else "halfvec"

    def get_col_spec(self, **_: Any) -> str:
        """Return the type with its dimensions."""
        return f"{self.name.upper()}({self.dimensions})"


@dataclass(frozen=True)
class IndexInfo:
    """What an index on a collection is.

    Attributes:
        name: Its name in the database.
        is_valid: Whether searches use it; a concurrent build that failed leaves one that is not.
        type: `vector`, or `halfvec` above 2,000 dimensions.
        dimensions: Of the vectors in it.
        m: Connections of each node.
        ef_construction: Candidates that the build looked at for each node.
        bytes: Its size on disk.
    """

    name: str
    is_valid: bool
    type: str
    dimensions: int
    m: int
    ef_construction: int
    bytes: int


def index_name(records: Records, collection_id: int) -> str:
    """Return the name of the index of a collection."""
    return f"{index_prefix(records)}{collection_id}_hnsw"


def table_name(connection: Connection, records: Records) -> str:
    """Return the name of the table of embeddings, quoted, as the connection sees it."""
    schema = schema_map_of(connection).get(records.embeddings.schema, records.embeddings.schema)
    return ".".join(identifier(part) for part in (schema, records.embeddings.name) if part)


def distance(vector: ColumnElement[Any], query: ColumnElement[Any], size: int) -> Any:
    """Return the expression that an index for vectors of that many dimensions serves."""
    sized = Sized(size)
    if sized.name == "vector":
        return cast(vector, sized).op("<=>")(query)
    # Of length 1, so that half precision has room for the values.
    return cast(func.l2_normalize(vector), sized).op("<=>")(cast(query, sized))


def create_sql(
    connection: Connection,
    records: Records,
    found: Found,
    *,
    m: int,
    ef_construction: int,
    concurrently: bool,
) -> str:
    """Return the CREATE INDEX for a collection that has vectors."""
    sized = Sized((found.size or 0) // ITEM_BYTES)
    vector = "embedding" if sized.name == "vector" else "l2_normalize(embedding)"
    return (
        f"CREATE INDEX {'CONCURRENTLY ' * concurrently}"
        f"{identifier(index_name(records, found.id))} ON {table_name(connection, records)} "
        f"USING hnsw (({vector}::{sized.get_col_spec()}) {sized.name}_cosine_ops) "
        f"WITH (m = {m:d}, ef_construction = {ef_construction:d}) "
        f"WHERE collection_id = {found.id:d}"
    )


def check_possible(connection: Connection, found: Found) -> None:
    """Do nothing if the collection can have an index.

    Raises:
        IndexingError: It is empty, its vectors have too many dimensions, or pgvector is too old.
    """
    if found.size is None:
        raise IndexingError(
            "An index is for vectors of known dimensions, and the collection is empty"
        )
    dimensions = found.size // ITEM_BYTES
    if dimensions > MAX_HALFVEC:
        raise IndexingError(
            f"pgvector indexes up to {MAX_HALFVEC} dimensions, and the collection's vectors have "
            f"{dimensions}"
        )
    version = str(
        connection.scalar(text("SELECT extversion FROM pg_extension WHERE extname = 'vector'"))
    )
    if tuple(map(int, re.findall(r"\d+", version))) < OLDEST_PGVECTOR:
        oldest = ".".join(map(str, OLDEST_PGVECTOR))
        raise IndexingError(
            f"Indexes need pgvector {oldest}, and the database has {version}. Install a newer one "
            "on the server and run: ALTER EXTENSION vector UPDATE"
        )


def index_info(connection: Connection, records: Records, collection_id: int) -> IndexInfo | None:
    """Return what the index of a collection is, or None."""
    row = connection.execute(
        text(
            "SELECT c.relname, i.indisvalid, format_type(a.atttypid, a.atttypmod), c.reloptions, "
            f"pg_relation_size(c.oid) {OF_COLLECTION} "
            "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = 1"
        ),
        parameters(connection, records, collection_id),
    ).first()
    if row is None:
        return None
    relname, is_valid, type_name, reloptions, size = row
    kind, dimensions = re.findall(r"(\w+)\((\d+)\)", type_name)[0]
    options = dict(option.split("=") for option in reloptions or ())
    return IndexInfo(
        relname,
        is_valid,
        kind,
        int(dimensions),
        int(options.get("m", 16)),
        int(options.get("ef_construction", 64)),
        int(size),
    )


OF_COLLECTION = (
    "FROM pg_index i JOIN pg_class c "
    "ON c.oid = i.indexrelid AND c.relname = :name AND i.indrelid = to_regclass(:table)"
)
"""The SQL that finds the index of a collection; see `parameters`."""


def parameters(connection: Connection, records: Records, collection_id: int) -> dict[str, str]:
    """Return the parameters of `OF_COLLECTION`."""
    return {
        "name": index_name(records, collection_id),
        "table": table_name(connection, records),
    }


def existing_info(connection: Connection, records: Records, collection_id: int) -> IndexInfo:
    """Return what the index of a collection is.

    Raises:
        IndexingError: It was dropped just now.
    """
    info = index_info(connection, records, collection_id)
    if info is None:
        raise IndexingError("The index that was built has been dropped meanwhile")
    return info


def drop(
    connection: Connection, records: Records, collection_id: int, *, concurrently: bool = False
) -> bool:
    """Drop the index of a collection, and return whether there was one."""
    name = connection.scalar(
        text(f"SELECT c.oid::regclass::text {OF_COLLECTION}"),
        parameters(connection, records, collection_id),
    )
    if name is None:
        return False
    connection.execute(text(f"DROP INDEX {'CONCURRENTLY ' * concurrently}{name}"))
    return True


def count(connection: Connection, records: Records, collection_id: int) -> int:
    """Return the rows of a collection."""
    columns = records.embeddings.c
    statement = select(func.count()).where(columns.collection_id == collection_id)
    return int(connection.scalar(statement) or 0)


def rows_done(connection: Connection, process_id: int) -> int:
    """Return how many rows the build by another server process has put into its index."""
    done = text("SELECT tuples_done FROM pg_stat_progress_create_index WHERE pid = :pid")
    return int(connection.scalar(done, {"pid": process_id}) or 0)

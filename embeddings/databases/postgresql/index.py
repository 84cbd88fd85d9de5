"""HNSW indexes of pgvector on PostgreSQL: what they are called and over, and what is there.

An index covers one collection, because dimensions differ between collections: it is partial, over
the vectors cast to the collection's dimensions. A query uses it if it says the same to the letter.
`build` makes and drops them.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import re
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Executable,
    Text,
    bindparam,
    case,
    cast,
    column,
    func,
    literal,
    literal_column,
    or_,
    select,
    table,
    text,
    true,
)
from sqlalchemy.types import UserDefinedType

from ...tables.custom import MAX_NAME_BYTES
from ...vectors import ITEM_BYTES
from ...work.row import ROWS, CollectionRow
from ..status import IndexInfo
from .names import names_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ...tables.records import Records
    from ...work.operation import Work
    from ..base import Database

METHOD = "hnsw"
MAX_VECTOR, MAX_HALFVEC = 2_000, 4_000  # dimensions that HNSW takes
SAMPLE = 16  # rows that are looked at to tell the dimensions of a collection
MANY = 200  # indexes of a table, from which on all statements about it take noticeably longer
MANY_REMEDY = (
    "every statement about the table is planned with all of them. Drop those of small collections, "
    "or part the table by hash of collection_id, with the indexes on its parts: see the page "
    "'PostgreSQL' of the documentation"
)

LOG = logging.getLogger("embeddings")


class Sized(UserDefinedType[Any]):
    """What an index over n dimensions holds: pgvector's `vector(n)` or `halfvec(n)`, or `bit(n)`.

    Half precision above 2,000 dimensions, and above 4,000 the signs, as HNSW takes no others.
    """

    cache_ok = True

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions

    @property
    def shown(self) -> str:
        """The dimensions, as SQL has them."""
        return str(self.dimensions)

    @property
    def name(self) -> str:
        """The type's name."""
        if self.dimensions <= MAX_VECTOR:
            return "vector"
        return "halfvec" if self.dimensions <= MAX_HALFVEC else "bit"

    @property
    def sql(self) -> str:
        """What the index is over, with the class of operators."""
        made, operators = {
            "vector": ("embedding", "vector_cosine_ops"),
            # Of length 1, so that half precision has room for the values.
            "halfvec": ("l2_normalize(embedding)", "halfvec_cosine_ops"),
            "bit": ("binary_quantize(embedding)", "bit_hamming_ops"),
        }[self.name]
        return f"({made}::{self.get_col_spec()}) {operators}"

    def get_col_spec(self, **_: Any) -> str:
        """Return the type with its dimensions."""
        return f"{self.name.upper()}({self.shown})"


def distance(vector: ColumnElement[Any], query: ColumnElement[Any], size: int) -> Any:
    """Return the expression that an index for vectors of that many dimensions serves."""
    sized = Sized(size)
    if sized.name == "vector":
        return cast(vector, sized).op("<=>")(query)
    if sized.name == "halfvec":
        return cast(func.l2_normalize(vector), sized).op("<=>")(cast(query, sized))
    signs = func.binary_quantize
    return cast(signs(vector), sized).op("<~>")(cast(signs(query), sized))


def has_dimensions(vector: ColumnElement[Any], size: int) -> ColumnElement[bool]:
    """Return the condition about a row that an index for so many dimensions has.

    It keeps those of others from the cast, which raises: also rows that are deleted already, and
    that a build within a transaction meets. To the letter that of `restriction`.
    """
    # A comparison by itself PostgreSQL takes for one that a row in 200 meets.
    fits = func.vector_dims(vector) == literal_column(str(size))
    return case((fits, true()))


def restriction(collection_id: object, size: object) -> str:
    """Return the condition of an index."""
    return (
        f"collection_id = {collection_id} "
        f"AND CASE WHEN vector_dims(embedding) = {size} THEN true END"
    )


def prefix(records: Records) -> str:
    """Return how the names of the HNSW indexes begin; the collection's id and `_hnsw` follow."""
    table = records.embeddings.name
    if len(table.encode()) > MAX_NAME_BYTES - len("idx__") - len("_2147483647_hnsw"):
        table = hashlib.sha256(table.encode()).hexdigest()[:16]
    return f"idx_{table}_"


def row_to_search(work: Work, called: str) -> CollectionRow | None:
    """Return the row of a collection with the length of the vectors in its valid index.

    The rows are not looked at: no statement names them and the system catalog together.
    """
    parameters = {"name": called, "table": names_of(work.connection, work.records).embeddings}
    row = work.run_kept(_with_index(work.database, work.records), parameters).first()
    if row is None:
        return None
    found = CollectionRow(
        row.id,
        row.name,
        row.model,
        row.vector_bytes,
        row.vector_bytes is not None,
        language=row.language,
        chunks=row.chunks,
    )
    if found.has_index:
        ROWS.put(work, found)
    return found


@functools.cache
def _with_index(database: Database, records: Records) -> Executable:
    collections, language = records.collections, database.text_language(records)
    chunks = database.chunk_setting(records)
    index = table("pg_index", *map(column, ("indexrelid", "indrelid", "indisvalid")))
    relation = table("pg_class", column("oid"), column("relname"))
    attribute = table("pg_attribute", *map(column, ("attrelid", "attnum", "atttypmod")))
    inherits = table("pg_inherits", column("inhrelid"), column("inhparent"))
    ours = func.to_regclass(bindparam("table", type_=Text))
    parts = select(inherits.c.inhrelid).where(inherits.c.inhparent == ours)
    # PostgreSQL keeps the dimensions of vector(n), halfvec(n) and bit(n) in the type's modifier.
    vector_bytes = (
        select(attribute.c.atttypmod * literal_column(str(ITEM_BYTES)))
        .select_from(
            index.join(relation, relation.c.oid == index.c.indexrelid).join(
                attribute, attribute.c.attrelid == index.c.indexrelid
            )
        )
        .where(
            relation.c.relname == func.concat(prefix(records), collections.c.id, literal("_hnsw")),
            or_(index.c.indrelid == ours, index.c.indrelid.in_(parts)),
            index.c.indisvalid,
            attribute.c.attnum == literal_column("1"),
        )
        .correlate(collections)
        .scalar_subquery()
    )
    return select(
        collections.c.id,
        collections.c.name,
        collections.c.model,
        vector_bytes.label("vector_bytes"),
        language.label("language"),
        chunks.label("chunks"),
    ).where(collections.c.name == bindparam("name"))


def index_name(records: Records, collection_id: int) -> str:
    """Return the name of the index of a collection."""
    return f"{prefix(records)}{collection_id}_hnsw"


OF_TABLE = (
    "FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid AND (i.indrelid = to_regclass(:table) "
    "OR i.indrelid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass(:table)))"
)
"""The SQL that finds the indexes of the table, and of its parts if it is partitioned."""
OF_COLLECTION = f"{OF_TABLE} AND c.relname = :name"
"""The SQL that finds the index of a collection; see `parameters`."""


def index_info(connection: Connection, records: Records, collection_id: int) -> IndexInfo | None:
    """Return what the index of a collection is, or None. Warns of very many of them."""
    row = connection.execute(
        text(
            "SELECT i.indisvalid, format_type(a.atttypid, a.atttypmod), c.reloptions, "
            f"pg_relation_size(c.oid) {OF_COLLECTION} "
            "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = 1"
        ),
        parameters(connection, records, collection_id),
    ).first()
    if row is None:
        return None
    is_valid, type_name, reloptions, size = row
    kind, dimensions = re.findall(r"(\w+)\((\d+)\)", type_name)[0]
    given = dict(option.split("=") for option in reloptions or ())
    options = {
        "m": int(given.get("m", 16)),
        "ef_construction": int(given.get("ef_construction", 64)),
        "type": kind,
    }
    if _has_none(connection, records, collection_id, int(dimensions)):
        return IndexInfo(METHOD, options, 0, int(dimensions), int(size), is_valid=False)
    rows = count(connection, records, collection_id)
    return IndexInfo(METHOD, options, rows, int(dimensions), int(size), is_valid)


def _has_none(
    connection: Connection, records: Records, collection_id: int, dimensions: int
) -> bool:
    """Return whether a collection has vectors, and a few of them are all of other dimensions."""
    columns = records.embeddings.c
    sample = (  # of which alone the dimensions are asked: see `rows.bytes_of_one`
        select(columns.embedding)
        .where(columns.collection_id == collection_id, columns.embedding.is_not(None))
        .order_by(columns.id)
        .limit(SAMPLE)
        .subquery()
    )
    has = func.vector_dims(sample.c.embedding) == dimensions
    return connection.scalar(select(func.bool_or(has))) is False


def parameters(connection: Connection, records: Records, collection_id: int) -> dict[str, str]:
    """Return the parameters of `OF_COLLECTION`."""
    return {
        "name": index_name(records, collection_id),
        "table": names_of(connection, records).embeddings,
    }


def how_many(connection: Connection, records: Records) -> int:
    """Return how many HNSW indexes the table of embeddings has, or the part of it with most."""
    most = text(
        f"SELECT count(*) {OF_TABLE} AND c.relname LIKE :names "
        "GROUP BY i.indrelid ORDER BY count(*) DESC LIMIT 1"
    )
    names = prefix(records).replace("_", "\\_") + "%\\_hnsw"
    found = {"table": names_of(connection, records).embeddings, "names": names}
    return int(connection.scalar(most, found) or 0)


def too_many(connection: Connection, records: Records) -> str | None:
    """Return what to do about very many indexes, which is logged as a warning; None of fewer."""
    number = how_many(connection, records)
    if number < MANY:
        return None
    told = f"{records.embeddings.name} has {number} HNSW indexes: {MANY_REMEDY}"
    LOG.warning("%s", told)
    return told


def drop(
    connection: Connection, records: Records, collection_id: int, *, concurrently: bool = False
) -> bool:
    """Drop the index of a collection, and return whether there was one."""
    name = name_of(connection, records, collection_id)
    if name is None:
        return False
    connection.execute(text(f"DROP INDEX {_concurrently(concurrently)}{name}"))
    return True


def name_of(connection: Connection, records: Records, collection_id: int) -> str | None:
    """Return the name of the index that a collection has, quoted, or None."""
    name: str | None = connection.scalar(
        text(f"SELECT c.oid::regclass::text {OF_COLLECTION}"),
        parameters(connection, records, collection_id),
    )
    return name


def place_of(connection: Connection, records: Records, collection_id: int) -> str:
    """Return the table that has the rows of a collection, quoted: a part of a partitioned one."""
    whole = names_of(connection, records).embeddings
    parts = connection.execute(
        text(
            "SELECT inhrelid::regclass::text, pg_get_partition_constraintdef(inhrelid) "
            "FROM pg_inherits WHERE inhparent = to_regclass(:table)"
        ),
        {"table": whole},
    ).all()
    for part, condition in parts:
        one = f"SELECT 1 FROM (SELECT {collection_id:d} AS collection_id) AS row WHERE {condition}"
        if connection.exec_driver_sql(one.replace("%", "%%")).first() is not None:
            return str(part)
    return whole


def count(connection: Connection, records: Records, collection_id: int) -> int:
    """Return the rows of a collection."""
    columns = records.embeddings.c
    statement = select(func.count()).where(columns.collection_id == collection_id)
    return int(connection.scalar(statement) or 0)


def _concurrently(concurrently: bool) -> str:
    return "CONCURRENTLY " if concurrently else ""

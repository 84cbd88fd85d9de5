"""HNSW indexes of pgvector on PostgreSQL: one for each collection that asks for one.

An index covers one collection, because dimensions differ between collections: it is partial, over
the vectors cast to the collection's dimensions. A query uses it if it says the same to the letter.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import re
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Executable,
    Text,
    bindparam,
    cast,
    column,
    func,
    literal,
    literal_column,
    select,
    table,
    text,
)
from sqlalchemy.types import UserDefinedType

from ...errors import BindingError, IndexingError, InvalidQueryError
from ...tables.custom import MAX_NAME_BYTES
from ...tables.ours import schema_map_of
from ...vectors import ITEM_BYTES
from ...work import CollectionRow
from ..quoting import quoted
from ..status import IndexInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Engine

    from ...tables.records import Records
    from ...work import Reference, Work
    from ..base import Database

BUILD_LOCK = int.from_bytes(b"embeddin") + 1  # advisory; one build at a time in a database
POLL = 0.5  # seconds between two looks at a build
CONNECTIONS, CANDIDATES = (2, 100), (4, 1_000)  # of a graph, as pgvector takes them
OLDEST_PGVECTOR = (0, 8, 0)  # the first with iterative scans, without which filters starve
MAX_VECTOR, MAX_HALFVEC = 2_000, 4_000  # dimensions that HNSW takes


LOG = logging.getLogger("embeddings")


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
    parameters = {"name": called, "table": table_name(work.connection, work.records)}
    row = work.run_kept(_with_index(work.database, work.records), parameters).first()
    if row is None:
        return None
    return CollectionRow(
        row.id,
        row.name,
        row.model,
        row.vector_bytes,
        row.vector_bytes is not None,
        language=row.language,
    )


@functools.cache
def _with_index(database: Database, records: Records) -> Executable:
    collections, language = records.collections, database.text_language(records)
    index = table("pg_index", *map(column, ("indexrelid", "indrelid", "indisvalid")))
    relation = table("pg_class", column("oid"), column("relname"))
    attribute = table("pg_attribute", *map(column, ("attrelid", "attnum", "atttypmod")))
    # pgvector keeps the dimensions of vector(n) and halfvec(n) in the modifier of the type.
    vector_bytes = (
        select(attribute.c.atttypmod * literal_column(str(ITEM_BYTES)))
        .select_from(
            index.join(relation, relation.c.oid == index.c.indexrelid).join(
                attribute, attribute.c.attrelid == index.c.indexrelid
            )
        )
        .where(
            relation.c.relname == func.concat(prefix(records), collections.c.id, literal("_hnsw")),
            index.c.indrelid == func.to_regclass(bindparam("table", type_=Text)),
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
    ).where(collections.c.name == bindparam("name"))


def index_name(records: Records, collection_id: int) -> str:
    """Return the name of the index of a collection."""
    return f"{prefix(records)}{collection_id}_hnsw"


def table_name(connection: Connection, records: Records) -> str:
    """Return the name of the table of embeddings, quoted, as the connection sees it."""
    schema = schema_map_of(connection).get(records.embeddings.schema, records.embeddings.schema)
    return ".".join(quoted(part) for part in (schema, records.embeddings.name) if part)


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
    row: CollectionRow,
    *,
    m: int,
    ef_construction: int,
    concurrently: bool,
) -> str:
    """Return the CREATE INDEX for a collection that has vectors."""
    sized = Sized((row.vector_bytes or 0) // ITEM_BYTES)
    vector = "embedding" if sized.name == "vector" else "l2_normalize(embedding)"
    return (
        f"CREATE INDEX {_concurrently(concurrently)}"
        f"{quoted(index_name(records, row.id))} ON {table_name(connection, records)} "
        f"USING hnsw (({vector}::{sized.get_col_spec()}) {sized.name}_cosine_ops) "
        f"WITH (m = {m:d}, ef_construction = {ef_construction:d}) "
        f"WHERE collection_id = {row.id:d}"
    )


def check_possible(connection: Connection, row: CollectionRow) -> None:
    """Do nothing if the collection can have an index.

    Raises:
        IndexingError: It is empty, its vectors have too many dimensions, or pgvector is too old.
    """
    if row.vector_bytes is None:
        raise IndexingError(
            "An index is for vectors of known dimensions, and the collection is empty"
        )
    dimensions = row.vector_bytes // ITEM_BYTES
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
    of_hnsw = {
        "type": kind,
        "m": int(options.get("m", 16)),
        "ef_construction": int(options.get("ef_construction", 64)),
    }
    return IndexInfo(relname, "hnsw", of_hnsw, int(dimensions), None, int(size), is_valid)


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
    connection.execute(text(f"DROP INDEX {_concurrently(concurrently)}{name}"))
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


def _concurrently(concurrently: bool) -> str:
    return "CONCURRENTLY " if concurrently else ""


# What a collection's index is asked for


def create(
    collection: Reference[Any],
    *,
    m: int,
    ef_construction: int,
    maintenance_work_mem: str | None,
    progress: Callable[[int, int], object] | None,
) -> IndexInfo:
    """Build an index of a collection, and return what it is. See `Collection.create_index`."""
    _check_options(m, ef_construction)
    began = perf_counter()
    engine = collection.sessions.engine
    if progress is not None and engine is None:
        raise BindingError(
            "progress= needs a second connection, and a collection on a session has one only: "
            "open the collection on the engine"
        )
    records = collection.records
    with collection.work(write=True) as work:
        connection, row = work.connection, collection.existing(work)
        info = index_info(connection, records, row.id)
        if info is not None and info.is_valid:
            has = info.options
            if (has["m"], has["ef_construction"]) != (m, ef_construction):
                raise IndexingError(
                    f"{collection.name!r} has an index with m={has['m']}, "
                    f"ef_construction={has['ef_construction']}. Call drop_index() first"
                )
            return info
        check_possible(connection, row)
        total = 0 if progress is None else count(connection, records, row.id)
        sql = create_sql(
            connection,
            records,
            row,
            m=m,
            ef_construction=ef_construction,
            concurrently=engine is not None,
        )
        if engine is None:
            drop(connection, records, row.id)
            with _memory(connection, maintenance_work_mem, local=True):
                connection.execute(text(sql))
    if engine is not None:
        with _alone(collection, engine) as connection:
            info = index_info(connection, records, row.id)
            if info is None or not info.is_valid:  # else somebody was faster
                drop(connection, records, row.id, concurrently=True)
                try:
                    with _memory(connection, maintenance_work_mem, local=False):
                        _build(collection, engine, connection, sql, progress, total)
                except Exception:
                    drop(connection, records, row.id, concurrently=True)
                    raise
    with collection.work() as work:
        row = collection.existing(work)
        info = existing_info(work.connection, records, row.id)
    took = perf_counter() - began
    LOG.info("index of %r built: %s, %d bytes, %.1f s", row.name, info.name, info.bytes, took)
    return info


def drop_of(collection: Reference[Any]) -> bool:
    """Drop the index of a collection, and return whether there was one."""
    engine = collection.sessions.engine
    with collection.work(write=True) as work:
        row = collection.existing(work)
        if engine is None:
            return drop(work.connection, collection.records, row.id)
    with _alone(collection, engine) as connection:
        return drop(connection, collection.records, row.id, concurrently=True)


def drop_left(collection: Reference[Any], row: CollectionRow) -> None:
    """Drop the index that a deleted collection left, on an engine."""
    if engine := collection.sessions.engine:
        with _alone(collection, engine) as connection:
            drop(connection, collection.records, row.id, concurrently=True)


@contextmanager
def _alone(collection: Reference[Any], engine: Engine) -> Iterator[Connection]:
    """Yield a connection without transactions when no other builds or drops.

    Two builds would each wait for the other's snapshot; so does a statement that waits for a
    lock.
    """
    lock = {"lock": BUILD_LOCK}
    with _autocommit(engine) as connection:
        while not connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), lock):
            collection.sessions.runtime.pause(POLL / 5)
        try:
            yield connection
        finally:
            if not connection.invalidated:  # else the server has let go with the connection
                connection.execute(text("SELECT pg_advisory_unlock(:lock)"), lock)


def _build(
    collection: Reference[Any],
    engine: Engine,
    connection: Connection,
    sql: str,
    progress: Callable[[int, int], object] | None,
    total: int,
) -> None:
    if progress is None:
        connection.execute(text(sql))
        return
    process_id = int(connection.scalar(text("SELECT pg_backend_pid()")) or 0)
    with _autocommit(engine) as observer:
        collection.sessions.runtime.with_reports(
            lambda: connection.execute(text(sql)),
            lambda: progress(min(rows_done(observer, process_id), total), total),
            POLL,
        )
    progress(total, total)


def check_method(method: str | None) -> None:
    """Do nothing if a method of `create_index` is one that there is."""
    if method not in {None, "hnsw"}:
        raise InvalidQueryError(f"There is no index method {method!r} on PostgreSQL; it is 'hnsw'")


def _check_options(m: int, ef_construction: int) -> None:
    for name, value, (least, most) in (
        ("m", m, CONNECTIONS),
        ("ef_construction", ef_construction, CANDIDATES),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InvalidQueryError(
                f"{name} must be an integer of {least} to {most}, not {value!r}"
            )
    if ef_construction < 2 * m:
        raise InvalidQueryError(f"ef_construction must be at least 2 * m = {2 * m}")


@contextmanager
def _autocommit(engine: Engine) -> Iterator[Connection]:
    """Yield a connection without transactions, as CONCURRENTLY wants it."""
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        try:
            yield connection
        finally:
            connection.rollback()  # one that fails in close() would keep it from the pool


@contextmanager
def _memory(connection: Connection, amount: str | None, *, local: bool) -> Iterator[None]:
    if amount is None:
        yield
        return
    setting = text("SELECT set_config('maintenance_work_mem', :amount, :local)")
    before = connection.scalar(text("SELECT current_setting('maintenance_work_mem')"))
    connection.execute(setting, {"amount": amount, "local": local})
    try:
        yield
    except BaseException:
        # A transaction that failed has put it back, and so has a connection that is gone.
        if not local and not connection.invalidated:
            connection.execute(setting, {"amount": before, "local": local})
        raise
    connection.execute(setting, {"amount": before, "local": local})

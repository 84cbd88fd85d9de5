"""HNSW indexes made and dropped: within a transaction, or while others read and write."""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, text

from ...errors import BindingError, IndexingError, InvalidQueryError
from ...vectors import ITEM_BYTES
from ..quoting import literal, quoted
from ..status import IndexRequest
from .index import (
    MAX_HALFVEC,
    MAX_VECTOR,
    METHOD,
    SAMPLE,
    Sized,
    count,
    drop,
    index_info,
    index_name,
    name_of,
    place_of,
    prefix,
    restriction,
    too_many,
)
from .named import DO, creating, deleting_empty
from .names import BUILD_LOCK, Names, names_of
from .search import FEW
from .words import LANGUAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Engine

    from ...tables.indexing import EmbeddingIndex
    from ...work.operation import Work
    from ...work.reference import Reference
    from ...work.row import CollectionRow
    from ..status import IndexInfo

POLL = 0.5  # seconds between two looks at a build
POOLED = (
    "the statements of one connection reach several of the server's, as through PgBouncer with "
    "pool_mode = transaction. Others wait until it closes that one: make and drop indexes through "
    "an engine that leads to the server itself"
)
CONNECTIONS, CANDIDATES = (2, 100), (4, 1_000)  # of a graph, as pgvector takes them
OLDEST_PGVECTOR = (0, 8, 0)  # the first with iterative scans, without which filters starve
MAX_DIMENSIONS = 16_000  # of a vector of pgvector's
M, EF_CONSTRUCTION = 16, 128  # unless told otherwise

LOG = logging.getLogger("embeddings")


def create(collection: Reference[Any], asked: IndexRequest) -> IndexInfo:
    """Build an index of a collection, and return what it is. See `Collection.create_index`."""
    m, ef_construction = checked_options(asked)
    began = perf_counter()
    engine = collection.sessions.engine
    if asked.progress is not None and engine is None:
        raise BindingError(
            "progress= needs a second connection, and a collection on a session has one only: "
            "open the collection on the engine"
        )
    records = collection.records
    with collection.work(write=True) as work:
        connection, row = work.connection, _row(collection, work, asked)
        info = index_info(connection, records, row.id)
        dimensions = _dimensions(collection, row, asked, info)
        if info is not None and info.is_valid:
            _check_same(collection, info, dimensions, m, ef_construction)
            return info
        check_possible(connection)
        total = 0 if asked.progress is None else count(connection, records, row.id)
        sql = create_sql(
            index_name(records, row.id),
            place_of(connection, records, row.id),
            row.id,
            Sized(dimensions),
            m=m,
            ef_construction=ef_construction,
            concurrently=engine is not None,
        )
        if engine is None:
            drop(connection, records, row.id)
            with _memory(connection, asked.maintenance_work_mem, local=True):
                connection.execute(text(sql))
    if engine is not None:
        with _alone(collection, engine) as connection:
            info = index_info(connection, records, row.id)
            if info is not None and info.is_valid:  # somebody was faster
                _check_same(collection, info, dimensions, m, ef_construction)
            else:
                its_id = records.collections.c.id
                if connection.scalar(select(its_id).where(its_id == row.id)) is None:
                    raise collection.does_not_exist()  # deleted while another build went on
                drop(connection, records, row.id, concurrently=True)
                told = "building the index of %r waits for the transactions that are open by now"
                LOG.info(told, row.name)
                try:
                    with _memory(connection, asked.maintenance_work_mem, local=False):
                        _build(collection, engine, connection, sql, asked.progress, total)
                except Exception:
                    # Without its connection the next call drops it: status tells until then.
                    if not connection.invalidated:
                        drop(connection, records, row.id, concurrently=True)
                    raise
    collection.forget()
    with collection.work() as work:
        row = collection.existing(work)
        info = index_info(work.connection, records, row.id)
        if info is None:
            raise IndexingError("The index that was built has been dropped meanwhile")
        too_many(work.connection, records)
    took, of = perf_counter() - began, (row.name, METHOD, info.rows, info.bytes)
    LOG.info("index of %r built: %s, %d rows, %d bytes, %.1f s", *of, took)
    if info.rows <= FEW:
        told = "to read the %d rows of %r is as fast as its index, up to about %d rows"
        LOG.info(told, info.rows, row.name, FEW)
    return info


def drop_of(collection: Reference[Any]) -> bool:
    """Drop the index of a collection, and return whether there was one."""
    engine = collection.sessions.engine
    collection.forget()
    with collection.work(write=True) as work:
        row = collection.existing(work)
        if engine is None:
            return drop(work.connection, collection.records, row.id)
    with _alone(collection, engine) as connection:
        return drop(connection, collection.records, row.id, concurrently=True)


def drop_left(collection: Reference[Any], row: CollectionRow) -> None:
    """Drop the index that a deleted collection left, on an engine, if it had one."""
    engine = collection.sessions.engine
    if engine is None:
        return
    with _autocommit(engine) as connection:
        is_there = name_of(connection, collection.records, row.id) is not None
    if is_there:
        with _alone(collection, engine) as connection:
            drop(connection, collection.records, row.id, concurrently=True)


# What is asked for


def checked_options(asked: IndexRequest) -> tuple[int, int]:
    """Return `m` and `ef_construction`.

    Raises:
        InvalidQueryError: An option means nothing.
        IndexingError: Such indexes are not made on PostgreSQL.
    """
    if asked.method not in {None, METHOD}:
        raise IndexingError(
            f"There are no indexes by {asked.method!r} on PostgreSQL: method={METHOD!r}, or none"
        )
    m = M if asked.m is None else asked.m
    ef_construction = EF_CONSTRUCTION if asked.ef_construction is None else asked.ef_construction
    dimensions = 1 if asked.dimensions is None else asked.dimensions
    for name, value, (least, most) in (
        ("m", m, CONNECTIONS),
        ("ef_construction", ef_construction, CANDIDATES),
        ("dimensions", dimensions, (1, MAX_DIMENSIONS)),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InvalidQueryError(
                f"{name} must be an integer of {least} to {most}, not {value!r}"
            )
    if ef_construction < 2 * m:
        raise InvalidQueryError(f"ef_construction must be at least 2 * m = {2 * m}")
    return m, ef_construction


def _row(collection: Reference[Any], work: Work, asked: IndexRequest) -> CollectionRow:
    """Return the collection's row, which is created where the dimensions are given."""
    if asked.dimensions is None:
        return collection.existing(work)
    return collection.find(work) or collection.find_or_create(work)


def _dimensions(
    collection: Reference[Any], row: CollectionRow, asked: IndexRequest, info: IndexInfo | None
) -> int:
    stored = row.vector_bytes and row.vector_bytes // ITEM_BYTES
    if stored and asked.dimensions not in {None, stored}:
        raise IndexingError(
            f"The vectors of {collection.name!r} have {stored} dimensions, and dimensions= is "
            f"{asked.dimensions}"
        )
    dimensions = stored or asked.dimensions or (None if info is None else info.dimensions)
    if dimensions is None:
        raise IndexingError(
            f"An index is for vectors of known dimensions, and {collection.name!r} is empty: "
            "pass dimensions="
        )
    return dimensions


def _check_same(
    collection: Reference[Any], info: IndexInfo, dimensions: int, m: int, ef_construction: int
) -> None:
    there = (info.dimensions, info.options["m"], info.options["ef_construction"])
    if there != (dimensions, m, ef_construction):
        raise IndexingError(
            f"{collection.name!r} has an index for {there[0]} dimensions with m={there[1]}, "
            f"ef_construction={there[2]}. Call drop_index() first"
        )


def check_possible(connection: Connection) -> None:
    """Do nothing if there can be indexes.

    Raises:
        IndexingError: pgvector is too old.
    """
    version = str(
        connection.scalar(text("SELECT extversion FROM pg_extension WHERE extname = 'vector'"))
    )
    if tuple(map(int, re.findall(r"\d+", version))) < OLDEST_PGVECTOR:
        oldest = ".".join(map(str, OLDEST_PGVECTOR))
        raise IndexingError(
            f"Indexes need pgvector {oldest}, and the database has {version}. Install a newer one "
            "on the server and run: ALTER EXTENSION vector UPDATE"
        )


def create_sql(
    name: str,
    table: str,
    collection_id: object,
    sized: Sized,
    *,
    m: int,
    ef_construction: int,
    concurrently: bool = False,
) -> str:
    """Return the CREATE INDEX of a collection. The name is not quoted yet, and the table is."""
    return (
        f"CREATE INDEX {'CONCURRENTLY ' if concurrently else ''}{quoted(name)} ON {table} "
        f"USING hnsw ({sized.sql}) "
        f"WITH (m = {m:d}, ef_construction = {ef_construction:d}) "
        f"WHERE {restriction(collection_id, sized.shown)}"
    )


# By its name alone, as a revision does


class _AnySize(Sized):
    """A kind of index, whose dimensions the block of a script puts in when it is run."""

    @property
    def shown(self) -> str:
        return "{dimensions}"


def script(given: EmbeddingIndex, connection: Connection | None) -> list[str]:
    """Return the SQL that makes an index, and the collection if its model is given.

    It is for the dimensions of the vectors where there are any: a revision may be older than
    these.
    """
    asked = IndexRequest(None, given.dimensions, given.m, given.ef_construction)
    m, ef_construction = checked_options(asked)
    names = names_of(connection, given.records)
    by_kind = [
        literal(
            create_sql(
                f"{prefix(given.records)}{{id}}_hnsw",
                "{table}",
                "{id}",
                _AnySize(dimensions),
                m=m,
                ef_construction=ef_construction,
            ).replace("CREATE INDEX", "CREATE INDEX IF NOT EXISTS")
        )
        for dimensions in (MAX_VECTOR, MAX_HALFVEC, MAX_DIMENSIONS)
    ]
    if connection is not None:
        _tell_of_dimensions(given, connection)
    name = literal(given.collection)
    missing = f"Collection {given.collection!r} does not exist: pass model= to create it"
    block = (
        f"DO {DO} DECLARE of_collection integer; place text := {literal(names.embeddings)}; "
        "part record; is_there boolean; stored integer; "
        f"given integer := {given.dimensions:d}; BEGIN "
        f"SELECT id INTO of_collection FROM {names.collections} WHERE name = {name}; "
        "IF of_collection IS NULL THEN RAISE EXCEPTION USING MESSAGE = "
        f"{literal(missing)}; END IF; "
        "FOR part IN SELECT CAST(inhrelid AS regclass) AS name, "
        "pg_get_partition_constraintdef(inhrelid) AS condition "
        "FROM pg_inherits WHERE inhparent = to_regclass(place) LOOP "
        "EXECUTE format('SELECT EXISTS (SELECT FROM (SELECT %s AS collection_id) AS row "
        "WHERE %s)', of_collection, part.condition) INTO is_there; "
        "IF is_there THEN place := part.name; EXIT; END IF; END LOOP; "
        f"{_stored(names, 'of_collection')} INTO stored; "
        f"IF stored <> given THEN RAISE WARNING USING MESSAGE = format({literal(OTHER)}, "
        f"{name}, given, stored); END IF; stored := coalesce(stored, given); "
        f"EXECUTE replace(replace(replace(CASE WHEN stored <= {MAX_VECTOR} THEN {by_kind[0]} "
        f"WHEN stored <= {MAX_HALFVEC} THEN {by_kind[1]} ELSE {by_kind[2]} END, "
        "'{id}', CAST(of_collection AS text)), '{dimensions}', CAST(stored AS text)), "
        f"'{{table}}', place); END {DO}"
    )
    return [*creating(given, names), block]


OTHER = (
    "The index of %s is asked for with %s dimensions, and its vectors have %s: it is made for "
    "these. dimensions= is for a collection without vectors"
)


def _stored(names: Names, collection_id: str) -> str:
    """Return the SELECT of the dimensions that a collection's vectors have; NULL without any."""
    return (
        "SELECT mode() WITHIN GROUP (ORDER BY vector_dims(embedding)) FROM "
        f"(SELECT embedding FROM {names.embeddings} WHERE collection_id = "
        f"{collection_id} AND embedding IS NOT NULL ORDER BY id LIMIT {SAMPLE}) AS sample"
    )


def _tell_of_dimensions(given: EmbeddingIndex, connection: Connection) -> None:
    """Log it where the vectors have other dimensions than the index is asked for with."""
    collections = given.records.collections.c
    its_id = connection.scalar(select(collections.id).where(collections.name == given.collection))
    if its_id is None:
        return
    names = names_of(connection, given.records)
    stored = connection.exec_driver_sql(_stored(names, f"{its_id:d}")).scalar()
    if stored not in {None, given.dimensions}:
        LOG.warning(OTHER, repr(given.collection), given.dimensions, stored)


def script_down(given: EmbeddingIndex, connection: Connection | None) -> list[str]:
    """Return the SQL that drops an index, and an empty collection if its model is given."""
    names = names_of(connection, given.records)
    index = f"{names.inside}{quoted(f'{prefix(given.records)}{{id}}_hnsw')}"
    name = literal(given.collection)
    # Without failing where the column is not there yet.
    of_empty = deleting_empty(names, f"to_jsonb(collection) ->> '{LANGUAGE}' IS NULL")
    return [
        f"DO {DO} DECLARE of_collection integer; BEGIN "
        f"SELECT id INTO of_collection FROM {names.collections} WHERE name = {name} FOR UPDATE; "
        f"EXECUTE replace({literal(f'DROP INDEX IF EXISTS {index}')}, '{{id}}', "
        "CAST(coalesce(of_collection, 0) AS text)); "
        f"{'' if given.model is None else of_empty}END {DO}"
    ]


# How it is built


@contextmanager
def _alone(collection: Reference[Any], engine: Engine) -> Iterator[Connection]:
    """Yield a connection without transactions when no other builds or drops.

    Two builds would each wait for the other's snapshot; so does a statement that waits for a
    lock.
    """
    lock, take = {"lock": BUILD_LOCK}, text("SELECT pg_try_advisory_lock(:lock)")
    with _autocommit(engine) as connection:
        is_taken = connection.scalar(take, lock)
        if not is_taken:
            LOG.info("the index of %r waits for another build in this database", collection.name)
        while not is_taken:
            collection.sessions.runtime.pause(POLL / 5)
            is_taken = connection.scalar(take, lock)
        try:
            yield connection
        finally:
            # A connection that is gone has let go.
            if not connection.invalidated and not connection.scalar(
                text("SELECT pg_advisory_unlock(:lock)"), lock
            ):
                LOG.warning("the lock of index builds is still held: %s", POOLED)


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
    most = 0

    def report() -> None:
        nonlocal most
        # PostgreSQL counts anew in each phase of a build.
        most = max(most, min(_rows_done(observer, process_id), total))
        progress(most, total)

    with _autocommit(engine) as observer:
        collection.sessions.runtime.with_reports(
            lambda: connection.execute(text(sql)),
            report,
            POLL,
            lambda: observer.execute(text("SELECT pg_cancel_backend(:pid)"), {"pid": process_id}),
        )
    progress(total, total)


def _rows_done(connection: Connection, process_id: int) -> int:
    """Return how many rows the build by another server process has put into its index."""
    done = text("SELECT tuples_done FROM pg_stat_progress_create_index WHERE pid = :pid")
    return int(connection.scalar(done, {"pid": process_id}) or 0)


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

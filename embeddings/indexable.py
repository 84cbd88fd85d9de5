"""The index of a collection, on PostgreSQL: create, drop, look at."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import text

from .databases.postgresql import index as hnsw
from .errors import BindingError, IndexingError, InvalidQueryError
from .keys import K
from .sql import connection_of, dialect_of
from .tables.migrate import ADVISORY_LOCK
from .target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Engine
    from sqlalchemy.orm import Session

    from .databases.postgresql.index import IndexInfo
    from .sql import Found

POLL = 0.5  # seconds between two looks at a build
CONNECTIONS, CANDIDATES = (2, 100), (4, 1_000)  # what pgvector takes


class Indexable(Target[K]):
    """What makes the searches of a large collection on PostgreSQL fast, and approximate."""

    def create_index(
        self,
        *,
        m: int = 16,
        ef_construction: int = 128,
        maintenance_work_mem: str | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> IndexInfo:
        """Build an HNSW index of this collection, and return what it is.

        `similar*` uses it from then on, if PostgreSQL thinks that it pays. If there is such an
        index already, nothing happens. What a build that failed has left is built anew.

        On an engine it is built concurrently: others read and write meanwhile. On a session or a
        connection it is a part of the transaction, and keeps writers out until its end.

        Args:
            m: Connections of each node, 2 to 100; more make it larger and more accurate.
            ef_construction: Candidates looked at for each node, at least 2 * m and at most 1000;
                more make the build slower and the index more accurate.
            maintenance_work_mem: Memory for this build, such as "1GB"; a build that fits into it
                is many times faster.
            progress: Called twice a second with the rows done and the rows in all. On an engine
                only, as it looks from a second connection.

        Raises:
            DoesNotExist: The collection does not exist.
            IndexingError: The database is not PostgreSQL, the collection is empty, there is an
                index with other options, or the vectors have too many dimensions.
            BindingError: `progress` was given, and the collection is on a session.
            InvalidQueryError: An option means nothing.
        """
        _check_options(m, ef_construction)
        engine = self._binding.engine
        if progress is not None and engine is None:
            raise BindingError(
                "progress= needs a second connection, and a collection on a session has one only: "
                "open the collection on the engine"
            )
        with self._indexed(write=True) as (connection, found):
            info = hnsw.index_info(connection, self._records, found.id)
            if info is not None and info.is_valid:
                if (info.m, info.ef_construction) != (m, ef_construction):
                    raise IndexingError(
                        f"{self._name!r} has an index with m={info.m}, "
                        f"ef_construction={info.ef_construction}. Call drop_index() first"
                    )
                return info
            hnsw.check_possible(connection, found)
            total = 0 if progress is None else hnsw.count(connection, self._records, found.id)
            sql = hnsw.create_sql(
                connection,
                self._records,
                found,
                m=m,
                ef_construction=ef_construction,
                concurrently=engine is not None,
            )
            if engine is None:
                hnsw.drop(connection, self._records, found.id)
                with _memory(connection, maintenance_work_mem, local=True):
                    connection.execute(text(sql))
        if engine is not None:
            with self._alone(engine) as connection:
                info = hnsw.index_info(connection, self._records, found.id)
                if info is None or not info.is_valid:  # else somebody was faster
                    hnsw.drop(connection, self._records, found.id, concurrently=True)
                    try:
                        with _memory(connection, maintenance_work_mem, local=False):
                            self._build(engine, connection, sql, progress, total)
                    except Exception:
                        hnsw.drop(connection, self._records, found.id, concurrently=True)
                        raise
        with self._indexed(write=False) as (connection, found):
            return hnsw.existing_info(connection, self._records, found.id)

    def drop_index(self) -> bool:
        """Drop the index, and return whether there was one. `similar*` is exact from then on.

        On an engine it is dropped concurrently; on a session within its transaction, where it
        keeps others out until the end.
        """
        with self._indexed(write=True) as (connection, found):
            engine = self._binding.engine
            if engine is None:
                return hnsw.drop(connection, self._records, found.id)
        with self._alone(engine) as connection:
            return hnsw.drop(connection, self._records, found.id, concurrently=True)

    def index_info(self) -> IndexInfo | None:
        """Return what the index is, or None if there is none, as everywhere but on PostgreSQL."""
        with self._session() as session:
            found = self._find(session)
            if found is None or not self._has_indexes(session):
                return None
            connection = connection_of(session, self._records)
            return hnsw.index_info(connection, self._records, found.id)

    def _drop_index_of(self, session: Session, found: Found) -> None:
        """Drop the index of a collection that is being deleted, on a session."""
        if self._has_indexes(session) and self._binding.engine is None:
            hnsw.drop(connection_of(session, self._records), self._records, found.id)

    def _drop_index_left(self, found: Found) -> None:
        """Drop the index that a deleted collection left, on an engine."""
        if (engine := self._binding.engine) and engine.dialect.name == "postgresql":
            with self._alone(engine) as connection:
                hnsw.drop(connection, self._records, found.id, concurrently=True)

    def _has_indexes(self, session: Session) -> bool:
        return dialect_of(session, self._records).name == "postgresql"

    @contextmanager
    def _indexed(self, *, write: bool) -> Iterator[tuple[Connection, Found]]:
        with self._session(write=write) as session:
            if not self._has_indexes(session):
                name = dialect_of(session, self._records).name
                raise IndexingError(
                    f"There are no indexes on {name}, where every search is exact; they are for "
                    "PostgreSQL"
                )
            yield connection_of(session, self._records), self._existing(session)

    @contextmanager
    def _alone(self, engine: Engine) -> Iterator[Connection]:
        """Yield such a connection when no other builds or drops.

        Two builds would each wait for the other's snapshot; so does a statement that waits for a
        lock.
        """
        lock = {"lock": ADVISORY_LOCK + 1}
        with _autocommit(engine) as connection:
            while not connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), lock):
                self._pause(POLL / 5)
            try:
                yield connection
            finally:
                if not connection.invalidated:  # else the server has let go with the connection
                    connection.execute(text("SELECT pg_advisory_unlock(:lock)"), lock)

    def _build(
        self,
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
            self._with_reports(
                lambda: connection.execute(text(sql)),
                lambda: progress(min(hnsw.rows_done(observer, process_id), total), total),
            )
        progress(total, total)

    def _pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def _with_reports(self, work: Callable[[], object], report: Callable[[], object]) -> None:
        """Do the work, and report meanwhile."""
        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(work)
            while wait([working], timeout=POLL).not_done:
                report()
            working.result()


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

"""What tests know of the databases that the fixture `db` gives: how to get at their rows."""

from __future__ import annotations

import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier, Thread
from time import sleep
from typing import TYPE_CHECKING, Any

import pytest
import sqlite_utils
from sqlalchemy import URL, Connection, Dialect, Engine, Executable, create_engine, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool, StaticPool

import embeddings
from embeddings.databases.postgresql import citus
from embeddings.databases.sqlite.transactions import is_configured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

on_a_session = pytest.mark.parametrize("db", ["session"], indirect=True)
"""For what does not depend on the database."""
WAYS = os.environ.get("EMBEDDINGS_WAYS", "some")
SQLITE: tuple[str, ...] = ("session", "engine", "async_aiosqlite_session")
POSTGRESQL: tuple[str, ...] = ("postgresql_session", "postgresql_engine", "async_asyncpg_engine")
if WAYS == "all":
    SQLITE += ("connection", "path", "memory", "sqlite_utils", "sqlite_utils_memory",
               "async_aiosqlite_engine")  # fmt: skip
    POSTGRESQL += ("postgresql_connection", "postgresql_url", "psycopg2_engine",
                   "async_asyncpg_session", "async_psycopg_session",
                   "async_psycopg_engine")  # fmt: skip
"""The ways to reach a database over which the contract suite runs: six, or all eighteen.

Each database, both faces, transactions of the caller's and of ours are among the six. What another
way does differently is in `sessions`, and all of them run with EMBEDDINGS_WAYS=all.

A scoped_session and a sessionmaker differ from a session and an engine in how a Session is made:
`contract/test_items_and_collections.py` has them where that matters, `sessions/test_sessions.py`
shows the rest.
"""
on_sqlite = pytest.mark.parametrize("db", SQLITE, indirect=True)
"""For what other databases do not have: the docstring says why."""
on_postgresql = pytest.mark.parametrize("db", POSTGRESQL, indirect=True)
"""For what SQLite does not have: the docstring says why."""
on_each_driver = pytest.mark.parametrize(
    "db", ["session", "path", "postgresql_session", "psycopg2_engine"], indirect=True
)
"""For many values, of which each takes its time, through each driver and both transactions."""
on_both = pytest.mark.parametrize("db", ["session", "postgresql_session"], indirect=True)
"""For what depends on the database, but not on the way to reach it."""


def wait_until(is_so: Callable[[], Any], thread: Thread) -> None:
    """Wait for what a thread brings about, for as long as it runs."""
    while not is_so():
        assert thread.is_alive()
        sleep(0.01)


def examples(usual: int) -> int:
    """Return how many examples Hypothesis tries, for which `make long` takes its time."""
    return usual * int(os.environ.get("EMBEDDINGS_EXAMPLES", "1"))


PATIENT = {"timeout": 60.0}
"""For `connect_args` on SQLite, where others write: a wait depends on how busy the machine is."""


CITUS_URL = os.environ.get("EMBEDDINGS_CITUS_URL")
"""Of a database on a coordinator, with other servers: what runs on PostgreSQL then runs there.

It is a database for tests alone, whose tables are dropped.
"""
CITUS_BY: Any = os.environ.get("EMBEDDINGS_CITUS_BY", "collection")
"""How the tables are distributed there: by collection or by item."""


def not_on_citus(reason: str) -> pytest.MarkDecorator:
    """Leave a test out on a coordinator, which does otherwise; docs/citus.md says what differs."""
    return pytest.mark.skipif(CITUS_URL is not None, reason=reason)


@contextmanager
def on_citus(url: str, by: Any) -> Iterator[URL]:
    """Yield the URL of the coordinator's database, with the tables new and distributed."""
    engine = create_engine(url, poolclass=NullPool)
    drop = (
        "DROP TABLE IF EXISTS embeddings, embeddings_pending, embeddings_alembic_version CASCADE",
        "DROP TABLE IF EXISTS collections CASCADE",
        "DROP FUNCTION IF EXISTS embeddings_pending_removed CASCADE",
    )

    def remove() -> None:
        with engine.begin() as connection:
            citus.undistribute(connection)
        for statement in drop:
            with engine.begin() as connection:
                connection.execute(text(statement))

    remove()
    embeddings.migrate(engine)
    with engine.begin() as connection:
        citus.distribute(connection, by)
    yield engine.url
    remove()


_prepared: dict[str, tuple[Dialect, Any]] = {}


def prepared(engine: Engine) -> Engine:
    """Return a new engine on SQLite that finds the statements compiled for those before it.

    SQLAlchemy keeps them by the dialect object, of which it makes one for each engine: a third of
    the time of a quick test was that of compiling. One that a test has configured is given up, and
    one that has never connected, of which it does not know the server's version.
    """
    kept = _prepared.get(engine.driver)
    if kept is None or is_configured(kept[0]) or kept[0].server_version_info is None:
        _prepared[engine.driver] = (engine.dialect, engine._compiled_cache)
    else:
        engine.dialect, engine._compiled_cache = kept
    return engine


def is_url(db: Any) -> bool:
    """Return whether it is the URL of a database."""
    return isinstance(db, str)


def is_postgresql(db: Any) -> bool:
    """Return whether it is a way to reach PostgreSQL."""
    if is_url(db):
        return bool(db.startswith("postgresql"))
    if isinstance(db, sessionmaker):
        return is_postgresql(db.kw["bind"])
    if isinstance(db, Session | scoped_session):
        return db.get_bind().dialect.name == "postgresql"
    return isinstance(db, Engine | Connection) and db.dialect.name == "postgresql"


def is_opened_by_the_collection(db: Any) -> bool:
    """Return whether a collection opens this by itself, and so creates its row at once."""
    return is_url(db) or isinstance(db, Path | sqlite_utils.Database)


@contextmanager
def connection_to(db: Any) -> Iterator[Connection]:
    """Yield a connection to the database, in the host's transaction where there is one."""
    if isinstance(db, Session | scoped_session):
        yield db.connection()
    elif isinstance(db, Connection):
        yield db
    elif isinstance(db, sessionmaker):
        with db.kw["bind"].begin() as connection:
            yield connection
    elif isinstance(db, Engine):
        with db.begin() as connection:
            yield connection
    else:
        if isinstance(db, sqlite_utils.Database):
            # The pool never closes it.
            engine = create_engine("sqlite://", creator=lambda: db.conn, poolclass=StaticPool)
        else:
            engine = create_engine(db if is_url(db) else f"sqlite:///{db}", poolclass=NullPool)
        with engine.begin() as connection:
            yield connection


def rows_of(db: Any, statement: str | Executable) -> list[Any]:
    """Execute a statement past the library, where the embeddings are, and return its rows."""
    with connection_to(db) as connection:
        return list(
            connection.execute(text(statement) if isinstance(statement, str) else statement)
        )


@contextmanager
def new_database(
    server: URL, name: str | None = None, template: str = "template1"
) -> Iterator[URL]:
    """Yield the URL of a new database on the server, which ends with the block.

    It is empty, or a copy of another one that nobody is connected to.
    """
    name = name or f"test_{uuid.uuid4().hex}"
    administrator = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with administrator.connect() as connection:
        # A third of the time of writing each page of the template to the log.
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy"))
    try:
        yield server.set(database=name)
    finally:
        with administrator.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


def file_with_tables(folder: Path, dialect: str = "sqlite") -> Path:
    """Return a new file with the tables, to be copied: migrating one for every test takes long."""
    path = folder / "app.db"
    engine = create_engine(f"{dialect}:///{path}")
    embeddings.migrate(engine)
    engine.dispose()
    return path


@contextmanager
def empty_database(kind: str, folder: Path, server: URL) -> Iterator[str]:
    """Yield the URL of a new database without any table: in a folder, or on the server."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'app.db'}"
        return
    with new_database(server) as url:
        yield url.render_as_string(hide_password=False)


def in_threads(work: Callable[[int], None], count: int = 8) -> None:
    """Run the work in threads that begin at once, and raise what one of them raised."""
    barrier = Barrier(count)

    def begin(number: int) -> None:
        barrier.wait()
        work(number)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(begin, range(count)))

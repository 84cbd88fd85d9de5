"""The ways to reach a database, over which the contract suite runs, and what tests share."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import sqlite_utils
from _pytest.runner import runtestprotocol
from sqlalchemy import URL, Engine, Table, create_engine, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import StaticPool

import embeddings
from embeddings import Collection
from embeddings.testing import DeterministicModel
from embeddings.work.row import ROWS
from tests import asynchronous
from tests.provider import Server, forget_openai, model_of, running
from tests.reaching import (
    CITUS_BY,
    CITUS_URL,
    PATIENT,
    POSTGRESQL,
    SQLITE,
    connection_to,
    examples,
    file_with_tables,
    is_postgresql,
    new_database,
    on_citus,
    prepared,
)

if TYPE_CHECKING:
    from pathlib import Path

    from embeddings.models.openai import OpenAIEmbeddingModel

pytest_plugins = ["embeddings.testing"]

# A busy machine makes no example wrong.
hypothesis.settings.register_profile("suite", deadline=None, max_examples=examples(20))
hypothesis.settings.load_profile("suite")

# Deleting takes a fifth of the time of TRUNCATE, but without vacuum the dead rows stay.
EMPTY = text("""DO $$
DECLARE name text;
BEGIN
    FOR name IN
        SELECT relname FROM pg_class
        WHERE pg_table_is_visible(oid) AND relname LIKE 'idx_embeddings_%_hnsw'
    LOOP
        EXECUTE 'DROP INDEX ' || name;
    END LOOP;
    IF pg_table_size('embeddings') > 2000000 THEN
        TRUNCATE collections, embeddings, embeddings_pending;
    ELSE
        DELETE FROM embeddings;
        DELETE FROM collections;
        DELETE FROM embeddings_pending;
    END IF;
END $$""")

Open = Callable[..., Collection[Any]]
"""Open a collection by its name in the one database of the test; takes Collection's keywords."""


def pytest_configure(config: pytest.Config) -> None:
    """Close the event loop of the tests at their end."""
    config.add_cleanup(asynchronous.LOOP.close)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Measure coverage, which takes long, of the first case of each test on each database alone.

    Of the contract, which is the same on both, of that on PostgreSQL: SQLite's own parts have
    their tests in its folder.
    """
    first: dict[tuple[str, bool], pytest.Item] = {}
    for item in items:
        name, _, values = item.nodeid.partition("[")
        first.setdefault((name, "postgresql" in values or "asyncpg" in values), item)
    measured = {
        item
        for (name, on_postgresql), item in first.items()
        if on_postgresql or not (name.startswith("tests/contract/") and (name, True) in first)
    }
    for item in items:
        if item not in measured:
            item.add_marker(pytest.mark.no_cover)


def pytest_collection_finish() -> None:
    """Let the collections of garbage pass over what was imported, which is never garbage."""
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Let them pass over what outlives the tests of a file as well."""
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test of the asynchronous face within the event loop."""
    callspec = getattr(item, "callspec", None)
    if callspec is None or callspec.params.get("db") not in asynchronous.KINDS:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    asynchronous.in_the_loop(lambda: runtestprotocol(item, nextitem=nextitem))
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.fixture
def model() -> DeterministicModel:
    """A model that keeps account of its calls."""
    return DeterministicModel()


@pytest.fixture
def own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the machine's own settings of services out of the environment."""
    forget_openai(monkeypatch)


@pytest.fixture
def service(own_settings: None) -> Iterator[Server]:
    """A service on this machine, of its own for the test."""
    with running() as server:
        yield server


@pytest.fixture
def open_model(service: Server) -> Callable[..., OpenAIEmbeddingModel]:
    """Make a model that talks to it, and tries once unless told otherwise."""
    return partial(model_of, service)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the tables, to be copied."""
    return file_with_tables(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def server() -> URL:
    """The URL of the server's own database, in which databases can be created."""
    return make_url(os.environ["POSTGRESQL_URL"])


@pytest.fixture(scope="session")
def postgresql_url(server: URL) -> Iterator[URL]:
    """A database of this test process, with the tables; or that of a coordinator of Citus."""
    if CITUS_URL is not None:
        with on_citus(CITUS_URL, CITUS_BY) as coordinator:
            yield coordinator
        return
    with new_database(server) as url:
        engine = create_engine(url)
        embeddings.migrate(engine)
        engine.dispose()
        yield url


@pytest.fixture(scope="session")
def postgresql_template(server: URL) -> Iterator[str]:
    """The name of a database with the tables, to be copied."""
    with new_database(server) as url:
        engine = create_engine(url)
        embeddings.migrate(engine)
        engine.dispose()
        yield str(url.database)


@pytest.fixture(params=["sqlite", "postgresql"])
def own_database(
    request: pytest.FixtureRequest, tmp_path: Path, migrated: Path, server: URL
) -> Iterator[str]:
    """The URL of a database with the tables that is the test's own, in a file and on the server."""
    if request.param == "sqlite":
        yield f"sqlite:///{shutil.copy(migrated, tmp_path / 'app.db')}"
        return
    template = request.getfixturevalue("postgresql_template")
    with new_database(server, template=template) as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def postgresql_engines(postgresql_url: URL) -> Iterator[Callable[[str], Engine]]:
    """Engines on that database by driver, with their pools: connecting takes long."""
    engines: dict[str, Engine] = {}

    def engine(driver: str) -> Engine:
        if driver not in engines:
            url = postgresql_url.set(drivername=f"postgresql+{driver}")
            engines[driver] = create_engine(url)
        return engines[driver]

    yield engine
    for engine_ in engines.values():
        engine_.dispose()


@pytest.fixture(scope="session")
def asynchronous_engines(postgresql_url: URL) -> Iterator[Callable[[str], Engine]]:
    """The same for asynchronous drivers, as what of them is synchronous."""
    engines: dict[str, Engine] = {}

    def engine(driver: str) -> Engine:
        if driver not in engines:
            url = postgresql_url.set(drivername=asynchronous.DRIVERS[driver])
            engines[driver] = create_async_engine(url).sync_engine
        return engines[driver]

    yield engine
    for engine_ in engines.values():
        asynchronous.in_the_loop(engine_.dispose)


@pytest.fixture
def empty_postgresql(postgresql_engines: Callable[[str], Engine]) -> Callable[[str], Engine]:
    """The same, with empty tables, whose ids go on.

    CREATE INDEX also reads rows that were just deleted while any transaction is open that could
    still see them: they must not be those of a collection of the same id.
    """
    with postgresql_engines("psycopg").begin() as connection:
        if CITUS_URL is not None:  # this is about the rows of all servers
            connection.execute(text("SET LOCAL citus.multi_shard_modify_mode TO 'sequential'"))
        connection.execute(EMPTY)
    ROWS.clear()  # the engines outlive what is in the tables
    return postgresql_engines


@pytest.fixture
def postgresql_engine(empty_postgresql: Callable[[str], Engine]) -> Engine:
    """An engine on a PostgreSQL database with empty tables, by psycopg."""
    return empty_postgresql("psycopg")


@pytest.fixture
def engine(tmp_path: Path, migrated: Path) -> Iterator[Engine]:
    """An engine on a new SQLite file with the tables."""
    path = shutil.copy(migrated, tmp_path / "app.db")
    engine = prepared(create_engine(f"sqlite:///{path}", connect_args=PATIENT))
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    """A host's session."""
    with Session(engine) as session:
        yield session


@pytest.fixture(params=SQLITE + POSTGRESQL)
def db(request: pytest.FixtureRequest, tmp_path: Path, migrated: Path) -> Iterator[Any]:
    """A database with the tables, as each of the kinds of thing that a collection takes."""
    kind = request.param
    path = tmp_path / "app.db"
    if kind == "path":
        yield path
    elif kind == "postgresql_url":
        yield request.getfixturevalue("postgresql_engine").url.render_as_string(hide_password=False)
    elif kind == "sqlite_utils":
        database = sqlite_utils.Database(path)
        yield database
        database.close()
    elif kind == "sqlite_utils_memory":
        database = sqlite_utils.Database(memory=True)
        yield database
        database.close()
    elif kind == "memory":
        # What Collection opens by itself; shared by the test's collections through the engine.
        memory = create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        embeddings.migrate(memory)
        yield memory
        memory.dispose()
    elif kind in asynchronous.KINDS:
        _, driver, way = kind.split("_")
        if driver == "aiosqlite":
            file = shutil.copy(migrated, path)
            engine = prepared(create_async_engine(f"sqlite+aiosqlite:///{file}").sync_engine)
        else:
            request.getfixturevalue("empty_postgresql")
            engine = request.getfixturevalue("asynchronous_engines")(driver)
        with reached(engine, way) as database:
            yield database
        if driver == "aiosqlite":
            engine.dispose()
    elif kind.startswith(("postgresql_", "psycopg2_")):
        driver, _, way = kind.partition("_")
        engines = request.getfixturevalue("empty_postgresql")
        with reached(engines("psycopg" if driver == "postgresql" else driver), way) as database:
            yield database
    else:
        engine = prepared(create_engine(f"sqlite:///{shutil.copy(migrated, path)}"))
        with reached(engine, kind) as database:
            yield database
        engine.dispose()


@contextlib.contextmanager
def reached(engine: Engine, way: str) -> Iterator[Any]:
    """An engine's database as each of the kinds of thing that a host has."""
    if engine.dialect.is_async and way == "session":
        with asynchronous.session_on(engine) as session:
            yield session
    elif way == "engine":
        yield engine
    elif way == "sessionmaker":
        yield sessionmaker(engine)
    elif way == "session":
        with Session(engine) as session:
            yield session
    elif way == "scoped_session":
        registry = scoped_session(sessionmaker(engine))
        yield registry
        registry.remove()
    else:
        with engine.connect() as connection:
            yield connection


@pytest.fixture
def host_tables(db: Any) -> Iterator[Callable[..., None]]:
    """Create tables of a host's where the embeddings are; they are dropped after the test."""
    created: list[Table] = []

    def create(*tables: Table) -> None:
        with connection_to(db) as connection:
            for table in tables:
                table.create(connection)
        created.extend(tables)

    yield create
    # What is on SQLite goes with its file.
    if created and is_postgresql(db):
        if hasattr(db, "rollback"):
            db.rollback()
        with connection_to(db) as connection:
            for table in reversed(created):
                table.drop(connection, checkfirst=True)
            connection.commit()


@pytest.fixture
def opened(db: Any, model: DeterministicModel) -> Iterator[Open]:
    """Open collections in the test's database, with the test's model unless told otherwise."""
    collections: list[Collection[Any]] = []

    def open_collection(name: str = "docs", **options: Any) -> Any:
        if not options.keys() & {"model", "model_id"}:
            options["model"] = model
        awaitable = asynchronous.face_of(db)
        collection: Any = (
            asynchronous.Awaited(name, awaitable, **options)
            if awaitable
            else Collection(name, db, **options)
        )
        collections.append(collection)
        return collection

    yield open_collection
    for collection in collections:
        collection.close()


@pytest.fixture
def docs(opened: Open) -> Collection[str]:
    """A new collection called docs."""
    return opened()

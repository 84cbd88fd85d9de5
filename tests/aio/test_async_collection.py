"""Hosts on asyncio: the same collection, awaited, on a loop that goes on meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import itertools
import math
import os
import shutil
import threading
import time
import traceback
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pytest
import sqlite_utils
from sqlalchemy import Engine, Subquery, create_engine, event, func, select, text
from sqlalchemy.exc import PendingRollbackError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    scoped_session,
    selectinload,
    sessionmaker,
)
from sqlalchemy.util import await_only

import embeddings
from embeddings import (
    AsyncCollection,
    BindingError,
    Collection,
    CollectionRecord,
    DoesNotExist,
    EmbeddingModel,
    EmbeddingRecord,
    IndexInfo,
    InvalidItemError,
    InvalidVectorError,
    ModelError,
    Prepared,
    SchemaError,
)
from embeddings.aio.greenlets import Turn, spawn, wait_for
from embeddings.aio.sessions import EventLoop
from embeddings.databases.sqlite.matrix.cache import CACHE
from embeddings.testing import DeterministicModel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence

SQLITE, POSTGRESQL = "aiosqlite", ("asyncpg", "psycopg")
WAYS = ("session", "scoped_session", "connection", "engine", "sessionmaker")
TEXTS = {
    "1": "a hound sleeps",
    "2": "a hound eats",
    "3": "two cats sleep",
    "4": "the stock market fell",
}
PATIENCE = 60.0  # seconds after which a test that waits has failed
ALL = os.environ.get("EMBEDDINGS_FAULTS") == "all"


class HostBase(DeclarativeBase):
    """The declarative base of a host."""


class Article(HostBase):
    """A table of a host's."""

    __tablename__ = "async_articles"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


# Reaching a database


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Return a test that runs in an event loop of its own."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(asyncio.wait_for(test(**fixtures), 5 * PATIENCE))

    return run


@pytest.fixture
def file(tmp_path: Path, migrated: Path) -> Path:
    """A SQLite file with the tables."""
    return Path(shutil.copy(migrated, tmp_path / "app.db"))


@pytest.fixture
def sqlite_url(file: Path) -> str:
    """The asynchronous URL of a new SQLite file with the tables."""
    return f"sqlite+aiosqlite:///{file}"


@pytest.fixture(params=[SQLITE, *POSTGRESQL])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of a database with empty tables, by each of the asynchronous drivers."""
    if request.param == SQLITE:
        return str(request.getfixturevalue("sqlite_url"))
    request.getfixturevalue("empty_postgresql")
    postgresql = request.getfixturevalue("postgresql_url")
    return str(
        postgresql.set(drivername=f"postgresql+{request.param}").render_as_string(
            hide_password=False
        )
    )


on_postgresql = pytest.mark.parametrize("url", POSTGRESQL, indirect=True)
"""For what SQLite does not have: the docstring says why."""


each_way = pytest.mark.parametrize(
    ("url", "way"),
    [
        *((SQLITE, way) for way in WAYS),
        *(
            (driver, way)
            for turn, driver in enumerate(POSTGRESQL)
            for number, way in enumerate(("session", "engine"))
            if ALL or number == turn % 2
        ),
    ],
    indirect=["url"],
)
"""How a session comes to be does not depend on the database: `make long` has all pairs."""


@pytest.fixture
def plain_postgresql_url(empty_postgresql: Any, postgresql_url: Any) -> str:
    """The URL of the PostgreSQL database, with empty tables, that names no driver."""
    url = postgresql_url.set(drivername="postgresql")
    return str(url.render_as_string(hide_password=False))


@pytest.fixture
def plain(url: str, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A synchronous engine on the same database, to look at what is there."""
    if not is_sqlite(url):
        yield request.getfixturevalue("postgresql_engine")
        return
    engine = create_engine(url.replace("+aiosqlite", ""))
    yield engine
    engine.dispose()


@pytest.fixture
def articles(plain: Engine) -> Iterator[type[Article]]:
    """The host's table, in the same database."""
    HostBase.metadata.create_all(plain)
    yield Article
    HostBase.metadata.drop_all(plain)


def is_sqlite(url: str) -> bool:
    """Return whether the URL is one of SQLite."""
    return url.startswith("sqlite")


@contextlib.asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[AsyncEngine]:
    """Yield an engine that is disposed of at the end, when nothing may be checked out."""
    if is_sqlite(url) and "poolclass" not in options:
        options.setdefault("connect_args", {"timeout": PATIENCE})
    engine = create_async_engine(url, **options)
    try:
        yield engine
        assert checked_out(engine) == 0
    finally:
        await engine.dispose()


def checked_out(engine: AsyncEngine) -> int:
    """Return how many connections of the engine are in use."""
    pool: Any = engine.pool
    return int(pool.checkedout()) if hasattr(pool, "checkedout") else 0


@contextlib.asynccontextmanager
async def reached(engine: AsyncEngine, way: str) -> AsyncIterator[Any]:
    """Yield an engine's database as each of the kinds of thing that a host has."""
    if way == "engine":
        yield engine
    elif way == "sessionmaker":
        yield async_sessionmaker(engine)
    elif way == "session":
        async with AsyncSession(engine) as session:
            yield session
    elif way == "scoped_session":
        registry = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
        try:
            yield registry
        finally:
            await registry.remove()
    else:
        async with engine.connect() as connection:
            yield connection


async def rows_of(db: Any, statement: Any) -> list[Any]:
    """Return a statement's rows, in the host's transaction where there is one."""
    if isinstance(db, AsyncSession | async_scoped_session | AsyncConnection):
        return list(await db.execute(statement))
    engine = db if isinstance(db, AsyncEngine) else db.kw["bind"]
    async with engine.connect() as connection:
        return list(await connection.execute(statement))


def stored(plain: Engine) -> list[str]:
    """Return the ids of all rows that are committed, in order."""
    with plain.connect() as connection:
        return list(connection.scalars(select(EmbeddingRecord.id).order_by(EmbeddingRecord.id)))


async def assert_quiet(plain: Engine, engine: AsyncEngine) -> None:
    """Assert that no connection is in use, and that no transaction is open in the database."""
    assert checked_out(engine) == 0
    if plain.dialect.name == "sqlite":
        with plain.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {1000 * PATIENCE:.0f}")
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # waits for nobody, or forever
            connection.exec_driver_sql("ROLLBACK")
        return
    others = text(
        "SELECT state, query FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid() AND state <> 'idle' AND backend_type = 'client backend'"
    )
    until = time.monotonic() + PATIENCE
    while True:
        with plain.connect() as connection:
            busy = list(connection.execute(others))
        if not busy or time.monotonic() > until:
            break
        await asyncio.sleep(0.02)  # the server hears of a cancelled statement a little later
    assert busy == []


# Models


class AwaitedModel(DeterministicModel):
    """A model that is awaited, and may not be called otherwise."""

    def __init__(self, model_id: str = "deterministic") -> None:
        super().__init__(model_id)
        self.awaited: list[list[Any]] = []

    def embed_batch(self, items: Sequence[Any]) -> list[Any]:
        raise AssertionError("called instead of awaited")

    async def aembed_batch(self, items: Sequence[Any]) -> list[Any]:
        self.awaited.append(list(items))
        await asyncio.sleep(0)
        return super().embed_batch(items)


class AnyAnswer(EmbeddingModel):
    """A model that answers what it is told to, awaited or not."""

    model_id = "any"

    def __init__(self, answer: Callable[[Sequence[Any]], Any]) -> None:
        self.answer = answer

    def embed_batch(self, items: Sequence[Any]) -> Any:
        return self.answer(items)


class AnyAwaitedAnswer(AnyAnswer):
    """The same, awaited."""

    async def aembed_batch(self, items: Sequence[Any]) -> Any:
        return self.answer(items)


class SlowModel(DeterministicModel):
    """A model that blocks its thread, as a local model does."""

    def embed_batch(self, items: Sequence[Any]) -> list[Any]:
        time.sleep(0.3)
        return super().embed_batch(items)


class StuckModel(DeterministicModel):
    """A model that is in the middle of a call, in a thread, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.started, self.let_go = threading.Event(), threading.Event()

    def embed_batch(self, items: Sequence[Any]) -> list[Any]:
        self.started.set()
        self.let_go.wait(PATIENCE)
        return super().embed_batch(items)


class StuckAwaitedModel(StuckModel):
    """The same, awaited."""

    async def aembed_batch(self, items: Sequence[Any]) -> list[Any]:
        self.started.set()
        while not self.let_go.is_set():
            await asyncio.sleep(0.01)
        return DeterministicModel.embed_batch(self, items)


# The same names

PUBLIC = sorted(name for name in dir(Collection) if not name.startswith("_"))


def parameters_of(owner: type, name: str) -> list[tuple[str, Any, Any]]:
    """Return name, kind and default of the parameters of a method, without self."""
    has_self = inspect.isfunction(inspect.getattr_static(owner, name))
    parameters = inspect.signature(getattr(owner, name)).parameters.values()
    return [(one.name, one.kind, one.default) for one in parameters][has_self:]


def test_everything_public_of_a_collection_is_there_with_the_same_parameters():
    """What can be called on a Collection can be called on an AsyncCollection."""
    for name in PUBLIC:
        assert hasattr(AsyncCollection, name), name
        called = getattr(Collection, name)
        if callable(called) and not isinstance(called, type):
            assert parameters_of(AsyncCollection, name) == parameters_of(Collection, name), name


def test_the_constructor_takes_what_that_of_a_collection_takes():
    """Everything that can be given, with the same defaults."""
    parameters = [
        [(one.name, one.kind, one.default) for one in inspect.signature(kind).parameters.values()]
        for kind in (AsyncCollection, Collection)
    ]
    assert parameters[0] == parameters[1]


def test_methods_are_coroutine_functions_that_know_their_documentation():
    """Frameworks ask whether a function is to be awaited; readers ask for its docstring."""
    for name in ("embed", "similar", "count", "create_index", "exists", "names"):
        assert inspect.iscoroutinefunction(getattr(AsyncCollection, name)), name
        assert inspect.getdoc(getattr(AsyncCollection, name)), name


def test_nothing_is_touched_before_the_first_operation(tmp_path):
    """Constructing one on an engine whose file does not exist does not create it."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'none.db'}")
    docs: AsyncCollection[Any] = AsyncCollection("docs", engine, model=DeterministicModel())
    assert (repr(docs), docs.name) == ("<AsyncCollection 'docs'>", "docs")
    assert bool(docs)
    assert list(tmp_path.iterdir()) == []


# What it can be given


@pytest.mark.parametrize("kind", ["session", "scoped_session", "connection", "engine",
                                  "sessionmaker", "subclass"])  # fmt: skip
@asynchronous
async def test_a_collection_refuses_what_is_asynchronous_and_names_the_other(sqlite_url, kind):
    """The error says what to use instead, whatever class the host has made of it."""

    class HostSession(AsyncSession):
        """A host's own."""

    async with connected(sqlite_url) as engine, engine.connect() as connection:
        registry = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
        kinds: dict[str, Any] = {
            "session": AsyncSession(engine),
            "scoped_session": registry,
            "connection": connection,
            "engine": engine,
            "sessionmaker": async_sessionmaker(engine),
            "subclass": HostSession(engine),
        }
        db = kinds[kind]
        with pytest.raises(BindingError, match="AsyncCollection"):
            Collection("docs", db, model=DeterministicModel())
        with pytest.raises(BindingError, match="AsyncCollection"):
            Collection.exists(db, "docs")
        with pytest.raises(BindingError, match="AsyncCollection"):
            Collection.names(db)


@pytest.mark.parametrize(
    "url", ["sqlite+aiosqlite:///{file}", "postgresql+asyncpg://nobody@localhost:1/none"]
)
def test_a_collection_refuses_the_url_of_an_asynchronous_driver(file, url):
    """It would open an engine that only a greenlet can use. psycopg works in both ways."""
    with pytest.raises(BindingError, match="AsyncCollection"):
        Collection("docs", url.format(file=file), model=DeterministicModel())


@pytest.mark.parametrize(
    "kind",
    ["session", "scoped_session", "connection", "engine", "sessionmaker", "url", "sqlite_utils",
     "number"],
)  # fmt: skip
@asynchronous
async def test_an_async_collection_refuses_what_is_not_asynchronous(file, engine, session, kind):
    """The error names Collection, at construction."""
    database = sqlite_utils.Database(memory=True)
    with engine.connect() as connection:
        db: Any = {
            "session": session,
            "scoped_session": scoped_session(sessionmaker(engine)),
            "connection": connection,
            "engine": engine,
            "sessionmaker": sessionmaker(engine),
            "url": f"sqlite+pysqlite:///{file}",
            "sqlite_utils": database,
            "number": 42,
        }[kind]
        with pytest.raises(BindingError, match=r"\bCollection\b"):
            AsyncCollection("docs", db, model=DeterministicModel())
        with pytest.raises(BindingError, match=r"\bCollection\b"):
            await AsyncCollection.exists(db, "docs")
        with pytest.raises(BindingError, match=r"\bCollection\b"):
            await AsyncCollection.names(db)
    database.close()


def test_an_async_sessionmaker_without_an_engine():
    """The error says what to pass instead."""
    with pytest.raises(BindingError, match="not bound to an engine; pass a session"):
        AsyncCollection("docs", async_sessionmaker(), model=DeterministicModel())


@asynchronous
async def test_missing_tables_give_an_error_that_names_migrate(tmp_path):
    """On an engine nothing is created."""
    async with connected(f"sqlite+aiosqlite:///{tmp_path / 'new.db'}") as engine:
        docs: AsyncCollection[Any] = AsyncCollection("docs", engine, model=DeterministicModel())
        with pytest.raises(SchemaError, match="migrate"):
            await docs.count()
        assert await AsyncCollection.names(engine) == []
        async with engine.begin() as connection:
            await connection.run_sync(embeddings.migrate)
        assert await docs.count() == 0


@asynchronous
async def test_a_scoped_session_is_that_of_the_task_that_uses_the_collection(url, plain):
    """As on a scoped_session, one collection serves all tasks, each in its own transaction."""
    async with connected(url) as engine:
        registry = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
        docs: AsyncCollection[Any] = AsyncCollection("docs", registry, model=DeterministicModel())

        async def request(id: str, *, commit: bool) -> None:
            try:
                await docs.embed(id, TEXTS[id])
                assert await docs.contains(id)
                assert await rows_of(registry, select(EmbeddingRecord.id)) == [(id,)]
                await (registry.commit() if commit else registry.rollback())
            finally:
                await registry.remove()

        try:
            await asyncio.create_task(request("1", commit=False))
            await asyncio.create_task(request("2", commit=True))
        finally:
            await registry.remove()
    assert stored(plain) == ["2"]


def test_a_collection_on_a_scoped_session_is_constructed_outside_of_the_loop(sqlite_url):
    """A module-level collection, as a module-level scoped session, needs no running loop."""
    engine = create_async_engine(sqlite_url)
    registry = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
    docs: AsyncCollection[Any] = AsyncCollection("docs", registry, model=DeterministicModel())

    async def main() -> int:
        try:
            return await docs.count()
        finally:
            await registry.remove()
            await engine.dispose()

    assert asyncio.run(main()) == 0


@asynchronous
async def test_collections_take_turns_on_one_connection():
    """In memory, as in a host's tests, each task may have a collection of its own."""
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(embeddings.migrate)

    async def use(number: int) -> None:
        docs: AsyncCollection[Any] = AsyncCollection("docs", engine, model=DeterministicModel())
        for step in range(5):
            await docs.embed(f"{number}-{step}", f"text {number} {step}")
            assert await docs.similar("text")

    await asyncio.gather(*map(use, range(8)))
    docs: AsyncCollection[Any] = AsyncCollection("docs", engine, model=DeterministicModel())
    assert await docs.count() == 40
    await engine.dispose()


def test_what_is_lost_is_let_go_of_once(file):
    """A collection on a path that is garbage, of which nobody can be awaited any more."""
    disposed: list[Engine] = []

    async def main() -> None:
        docs: AsyncCollection[Any] = AsyncCollection("docs", file, model=DeterministicModel())
        await docs.embed("1", "text")
        await docs.close()

    note = disposed.append
    event.listen(Engine, "engine_disposed", note)
    try:
        asyncio.run(main())
        gc.collect()
    finally:
        event.remove(Engine, "engine_disposed", note)
    assert len(disposed) == 2  # by close(), and by the collector


def test_closed_event_loops_are_let_go_of():
    """Of loops in which tasks waited for each other's turn the last one is left."""
    turn = Turn()
    loops: weakref.WeakSet[Any] = weakref.WeakSet()

    def use() -> None:
        with turn:
            wait_for(asyncio.sleep, 0)

    async def main() -> None:
        loops.add(asyncio.get_running_loop())
        await asyncio.gather(*(spawn(use, finishes_statements=lambda: False) for _ in range(3)))

    for _ in range(4):
        asyncio.run(main())
    gc.collect()
    assert len(loops) <= 1


@asynchronous
async def test_sessions_are_those_that_the_sessionmaker_makes(sqlite_url):
    """A host's session class, with its events and options, is used as by a Collection."""

    class Audited(Session):
        """A host's own, which keeps account."""

        made: int = 0

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            Audited.made += 1

    async with connected(sqlite_url) as engine:
        make = async_sessionmaker(engine, sync_session_class=Audited)
        docs: AsyncCollection[Any] = AsyncCollection("docs", make, model=DeterministicModel())
        await docs.embed("1", TEXTS["1"])
        assert Audited.made > 0


# What it opens by itself


@pytest.fixture(params=["path", "text", "sqlite", "aiosqlite", "memory", "postgresql", *POSTGRESQL])
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A database as one names it, that is still without tables or empty."""
    path = tmp_path / "own ö.db"
    if request.param in {"postgresql", *POSTGRESQL}:
        request.getfixturevalue("empty_postgresql")
        names = {"postgresql": "postgresql", **{name: f"postgresql+{name}" for name in POSTGRESQL}}
        url = request.getfixturevalue("postgresql_url").set(drivername=names[request.param])
        return url.render_as_string(hide_password=False)
    return {
        "path": path,
        "text": str(path),
        "sqlite": f"sqlite:///{path}",
        "aiosqlite": f"sqlite+aiosqlite:///{path}",
        "memory": None,
    }[request.param]


@asynchronous
async def test_a_path_or_a_url_is_opened_and_migrated_by_the_first_use(own):
    """As by a Collection, which finds the same in it; the constructor touches nothing."""
    docs: AsyncCollection[Any] = AsyncCollection("docs", own, model=DeterministicModel())
    assert own is None or await AsyncCollection.names(own) == []
    await use(docs)
    await docs.close()
    if own is not None:
        assert await AsyncCollection.exists(own, "other") is True
        assert await AsyncCollection.names(own) == ["other"]
        synchronous = str(own).replace("+aiosqlite", "").replace("+asyncpg", "")
        with Collection("other", synchronous) as same:
            assert same.ids() == ["1", "2", "3", "4"]


@asynchronous
async def test_async_with_opens_and_closes(own):
    """The collection is there at once, as with a Collection, and can be opened again."""
    for count in (0, 1):
        async with AsyncCollection[Any]("docs", own, model=DeterministicModel()) as docs:
            assert isinstance(await docs.id, int)
            assert await docs.count() == (0 if own is None else count)
            await docs.embed("1", TEXTS["1"])


@asynchronous
async def test_what_is_handed_in_is_not_closed(sqlite_url):
    """A session or an engine stays as it is."""
    async with connected(sqlite_url) as engine, AsyncSession(engine) as session:
        async with AsyncCollection[Any]("docs", session, model=DeterministicModel()) as docs:
            await docs.embed("1", TEXTS["1"])
        assert session.in_transaction()
        assert await docs.count() == 1


@asynchronous
async def test_nothing_is_created_by_looking(tmp_path):
    """Neither by constructing a collection nor by asking for names."""
    path = tmp_path / "none.db"
    docs: AsyncCollection[Any] = AsyncCollection("docs", path, model=DeterministicModel())
    assert docs.name == "docs"
    for db in (path, str(path), f"sqlite:///{path}", f"sqlite+aiosqlite:///{path}"):
        assert await AsyncCollection.names(db) == []
        assert await AsyncCollection.exists(db, "docs") is False
    assert list(tmp_path.iterdir()) == []


@asynchronous
async def test_tasks_that_open_databases_at_once_do_not_cross(tmp_path, plain_postgresql_url):
    """Alembic keeps what it does in module globals, which its lock keeps to a thread only."""
    databases = [*(tmp_path / f"{number}.db" for number in range(4)), plain_postgresql_url]
    collections = [
        AsyncCollection[Any](f"docs{turn}", db, model=AwaitedModel())
        for db in databases
        for turn in range(2)
    ]
    await asyncio.gather(*(docs.embed("1", "x") for docs in collections for _ in range(2)))
    for docs in collections:
        assert await docs.ids() == ["1"]
        await docs.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite+pysqlite:///x.db", "pysqlite is not asynchronous: use Collection"),
        ("postgresql+psycopg2://u:hunter2@h/d", "psycopg2 is not asynchronous: use Collection"),
        ("://hunter2", "This URL cannot be read; for a file use a path"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_at_once(url, message):
    """With what to do, and without the password."""
    with pytest.raises(BindingError, match=message) as raised:
        AsyncCollection("docs", url, model=DeterministicModel())
    assert "hunter2" not in str(raised.value)


@asynchronous
async def test_one_that_was_not_created_leaves_the_file_to_others(tmp_path):
    """With create=False the first operation says what is missing; the file is unlocked."""
    path = tmp_path / "app.db"
    async with AsyncCollection[Any]("docs", path, model=DeterministicModel()) as docs:
        await docs.embed("1", "x")
    missing: AsyncCollection[Any] = AsyncCollection("other", path, create=False)
    with pytest.raises(DoesNotExist):
        await missing.count()
    with Collection("docs", path) as same:
        same.store_vectors([("2", [1.0] * 256)])
        assert same.ids() == ["1", "2"]
    await missing.close()


# Every method, with the results of the synchronous collection

STEPS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("id", (), {}),
    ("model_id", (), {}),
    ("model", (), {}),
    ("count", (), {}),
    ("ids", (), {}),
    ("similar", ("hound",), {}),
    ("matches", ("hound",), {}),
    ("similar_by_id", ("1",), {}),
    ("create_index", (), {}),
    ("rename", ("other",), {}),
    ("embed", ("1", TEXTS["1"]), {"metadata": {"n": 1}, "store": True}),
    ("embed", ("1", TEXTS["1"]), {"metadata": {"n": 2}}),
    ("embed", ("\N{SNOWMAN} ö", "snow"), {"force": True}),
    ("embed", ("", "no id"), {}),
    ("embed", ("x", 3), {}),
    ("embed_multi", (list(TEXTS.items()),), {"store": True, "batch_size": 2}),
    ("embed_multi", ([("x", "y")],), {"batch_size": 0}),
    ("embed_multi_with_metadata", ([("5", "a stock of hounds", {"m": [1, None]})],), {}),
    ("prepare", ("a hound",), {}),
    ("embed_query", ("a hound",), {}),
    ("store_vectors", ([("6", [1.0] * 256, {"v": True}, "ones"), ("7", range(256))],), {}),
    ("store_vectors", ([("8", [1.0, 2.0])],), {}),
    ("set_metadata", ("7", {"k": "ü"}), {}),
    ("set_metadata", ("nobody", {}), {}),
    ("id", (), {}),
    ("count", (), {}),
    ("contains", ("1",), {}),
    ("contains", ("nobody",), {}),
    ("get", ("1",), {}),
    ("get", ("7",), {}),
    ("get", ("nobody",), {}),
    ("ids", (), {}),
    ("ids", (), {"prefix": "\N{SNOWMAN}"}),
    ("similar", ("a hound",), {"number": 3}),
    ("similar", ("a hound",), {"where": {"n": 2}}),
    ("similar", ("a hound",), {"among": ["3", "4"], "offset": 1}),
    ("similar", ("a hound",), {"number": -1}),
    ("similar_by_id", ("1",), {"min_score": 0.1}),
    ("similar_by_vector", ([1.0] * 256,), {"skip_id": "6"}),
    ("similar_by_vector", ([1.0],), {}),
    ("matches", ("a hound",), {"number": 3}),
    ("matches_by_id", ("1",), {"number": 3}),
    ("matches_by_vector", ([1.0] * 256,), {"number": 3}),
    ("index_info", (), {}),
    ("create_index", (), {"m": 8, "ef_construction": 32}),
    ("index_info", (), {}),
    ("similar", ("a hound",), {"number": 3}),
    ("drop_index", (), {}),
    ("drop_index", (), {}),
    ("delete_items", (["1", "nobody"],), {}),
    ("delete_items", (), {}),
    ("count", (), {}),
    ("rename", ("renamed",), {}),
    ("delete", (), {}),
    ("count", (), {}),
    ("embed", ("1", TEXTS["1"]), {}),
]


def comparable(result: Any) -> Any:
    """Return a result as a value that is equal if nothing but the collection differs."""
    if isinstance(result, list):
        return [comparable(member) for member in result]
    if isinstance(result, EmbeddingRecord):
        vector = result.embedding.tolist()
        return (result.id, vector, result.content, result.content_hash, result.metadata_)
    if isinstance(result, EmbeddingModel):
        return (type(result), result.model_id)
    if isinstance(result, Prepared):
        return (result.content, result.vector.tolist(), result.model_id)
    if isinstance(result, IndexInfo):
        return (result.method, result.options, result.rows, result.dimensions, result.is_valid)
    if isinstance(result, np.ndarray):
        return (result.dtype, result.tolist())
    if isinstance(result, BaseException):
        return (type(result), str(result))
    return result


EXPECTED: dict[str, list[Any]] = {}
"""What each step gives on a Collection, on each database."""


def synchronous_results(engine: Engine, name: str) -> list[Any]:
    """Return what each step gives on a Collection."""
    docs = Collection(name, engine, model=DeterministicModel())
    results: list[Any] = []
    for step, args, options in STEPS:
        result: Any
        try:
            if step in {"id", "model_id"}:
                result = getattr(docs, step)
            elif step == "contains":
                result = args[0] in docs
            else:
                result = getattr(docs, step)(*args, **options)
            if step == "id":
                result = type(result)
            if isinstance(result, Subquery):
                with engine.connect() as connection:
                    result = sorted(map(tuple, connection.execute(select(result))))
            result = comparable(result)
        except Exception as error:  # noqa: BLE001  which is a result as well
            result = comparable(error)
        results.append((step, args, result))
    return results


async def awaited_results(db: Any, name: str) -> list[Any]:
    """Return what each step gives on an AsyncCollection."""
    docs: Any = AsyncCollection(name, db, model=DeterministicModel())
    results: list[Any] = []
    for step, args, options in STEPS:
        result: Any
        try:
            result = getattr(docs, step)
            if not inspect.isawaitable(result):
                result = result(*args, **options)
            result = await result
            if step == "id":
                result = type(result)
            if isinstance(result, Subquery):
                result = sorted(map(tuple, await rows_of(db, select(result))))
            result = comparable(result)
        except Exception as error:  # noqa: BLE001
            result = comparable(error)
        results.append((step, args, result))
    return results


@each_way
@asynchronous
async def test_every_method_gives_what_the_synchronous_collection_gives(url, plain, way):
    """The same steps on the same database, one after the other, with the same results."""
    expected = EXPECTED.get(plain.dialect.name)
    if expected is None:
        expected = EXPECTED[plain.dialect.name] = synchronous_results(plain, "docs")
        with plain.begin() as connection:
            connection.execute(text("DELETE FROM embeddings"))
            connection.execute(text("DELETE FROM collections"))
    async with connected(url) as engine, reached(engine, way) as db:
        for (step, args, result), wanted in zip(
            await awaited_results(db, "docs"), expected, strict=True
        ):
            assert (step, args, result) == wanted


@asynchronous
async def test_exists_and_names_say_what_is_there(url):
    """Both are static: they are given the database."""
    async with connected(url) as engine:
        for name in ("b", "a"):
            docs: AsyncCollection[Any] = AsyncCollection(name, engine, model=DeterministicModel())
            await docs.embed("1", "x")
        for way in WAYS:
            async with reached(engine, way) as db:
                assert await AsyncCollection.names(db) == ["a", "b"]
                assert await AsyncCollection.exists(db, "a") is True
                assert await AsyncCollection.exists(db, "c") is False


@pytest.mark.parametrize("way", ["session", "engine"])
@asynchronous
async def test_iteration_yields_every_record_in_order_a_page_at_a_time(url, way):
    """1,200 records are three pages; records of a session are its own."""
    model = DeterministicModel()
    async with connected(url) as engine, reached(engine, way) as db:
        docs: AsyncCollection[Any] = AsyncCollection("docs", db, model=model)
        assert [record async for record in docs] == []
        entries = [(f"{number:04}", [number + 1.0, 1.0]) for number in range(1_200)]
        await docs.store_vectors(entries, batch_size=400)
        seen = [
            (record.id, record.embedding.tolist(), record.collection.name) async for record in docs
        ]
        assert seen == [(id, vector, "docs") for id, vector in entries]
        async for record in docs:
            assert record.id == "0000"
            break
        assert model.calls == []


@asynchronous
async def test_items_can_be_written_during_an_iteration(url):
    """No statement is half read between two records."""
    async with connected(url, pool_size=1, max_overflow=0) as engine:
        docs: AsyncCollection[Any] = AsyncCollection("docs", engine, model=DeterministicModel())
        await docs.store_vectors([(f"{number:04}", [1.0]) for number in range(600)])
        async for record in docs:
            if record.id.endswith("00"):
                await docs.set_metadata(record.id, {"seen": True})
        found = [record.id async for record in docs if record.metadata_]
        assert found == ["0000", "0100", "0200", "0300", "0400", "0500"]


@pytest.mark.parametrize("key", [int, Article.id])
@asynchronous
async def test_keys_are_those_of_the_host(url, key):
    """Integers come back as integers."""
    async with connected(url) as engine:
        docs: AsyncCollection[Any] = AsyncCollection(
            "docs", engine, model=DeterministicModel(), key=key
        )
        await docs.embed_multi([(int(id), value) for id, value in TEXTS.items()])
        assert await docs.ids() == [1, 2, 3, 4]
        assert [entry.id for entry in await docs.similar_by_id(1, 1)] == [2]


@asynchronous
async def test_create_false_and_deleted_collections_do_not_exist(url):
    """The error is the documented one, with its name on the class."""
    async with connected(url) as engine:
        docs: AsyncCollection[Any] = AsyncCollection(
            "docs", engine, model=DeterministicModel(), create=False
        )
        with pytest.raises(DoesNotExist):
            await docs.count()
        made: AsyncCollection[Any] = AsyncCollection("docs", engine, model=DeterministicModel())
        await made.embed("1", "x")
        assert await docs.count() == 1
        with pytest.raises(AsyncCollection.DoesNotExist):  # type: ignore[attr-defined, unused-ignore]
            await docs.similar_by_id("2")


# The host's transaction


@pytest.mark.parametrize("way", ["session", "scoped_session", "connection"])
@asynchronous
async def test_what_is_written_is_the_callers_to_commit_or_roll_back(url, plain, way):
    """Nothing is durable before the commit, and nothing is left after a rollback."""
    async with connected(url) as engine, reached(engine, way) as db:
        docs: AsyncCollection[Any] = AsyncCollection("docs", db, model=DeterministicModel())
        await docs.embed_multi(TEXTS.items())
        assert await docs.count() == 4
        assert stored(plain) == []
        await db.rollback()
        assert await docs.count() == 0
        with pytest.raises(DoesNotExist):
            await docs.id
        await docs.embed("1", TEXTS["1"])
        await db.commit()
        await docs.embed("2", TEXTS["2"])
        await db.rollback()
        assert await docs.ids() == ["1"]
    assert stored(plain) == ["1"]


@asynchronous
async def test_a_block_of_the_sessions_begin_commits_or_rolls_back_both_sides(url, plain, articles):
    """The vectors are there if the rows are that they describe."""
    async with connected(url) as engine:
        make = async_sessionmaker(engine)
        async with make.begin() as session:
            docs: AsyncCollection[Any] = AsyncCollection(
                "docs", session, model=DeterministicModel(), key=articles.id
            )
            session.add(articles(id=1, title=TEXTS["1"]))
            await docs.embed(1, TEXTS["1"])
        with contextlib.suppress(ZeroDivisionError):
            async with make.begin() as session:
                docs = AsyncCollection("docs", session, model=DeterministicModel(), key=int)
                session.add(articles(id=2, title=TEXTS["2"]))
                await docs.embed(2, TEXTS["2"])
                _ = 1 / 0
        async with make() as session:
            assert list(await session.scalars(select(articles.id))) == [1]
    assert stored(plain) == ["1"]


@pytest.mark.parametrize("way", ["session", "connection"])
@asynchronous
async def test_a_savepoint_takes_back_what_was_written_in_it(url, plain, way):
    """What was written before it and after it stays."""
    async with connected(url) as engine, reached(engine, way) as db:
        docs: AsyncCollection[Any] = AsyncCollection("docs", db, model=DeterministicModel())
        await docs.embed("1", TEXTS["1"], {"n": 1})
        savepoint = await db.begin_nested()
        await docs.embed("2", TEXTS["2"])
        await docs.set_metadata("1", {"n": 2})
        await savepoint.rollback()
        assert await docs.ids() == ["1"]
        async with db.begin_nested():
            await docs.embed("3", TEXTS["3"])
        record = await docs.get("1")
        assert record is not None
        assert record.metadata_ == {"n": 1}
        await db.commit()
    assert stored(plain) == ["1", "3"]


@asynchronous
async def test_a_collection_that_is_made_in_a_savepoint_goes_with_it(url, plain):
    """Nothing of the row is remembered."""
    async with connected(url) as engine, AsyncSession(engine) as session:
        docs: AsyncCollection[Any] = AsyncCollection("docs", session, model=DeterministicModel())
        await session.execute(select(CollectionRecord))
        if is_sqlite(url):  # whose driver would begin no transaction before a savepoint
            await session.execute(text("DELETE FROM collections"))
        savepoint = await session.begin_nested()
        await docs.embed("1", TEXTS["1"])
        await savepoint.rollback()
        assert await docs.count() == 0
        await docs.embed("2", TEXTS["2"])
        await session.commit()
    assert stored(plain) == ["2"]


@pytest.mark.parametrize("autoflush", [True, False])
@asynchronous
async def test_pending_rows_are_seen_as_by_the_session(url, autoflush):
    """Reading flushes if the session does, writing always."""
    async with connected(url) as engine, AsyncSession(engine, autoflush=autoflush) as session:
        docs: AsyncCollection[Any] = AsyncCollection("docs", session, model=DeterministicModel())
        await docs.embed("1", TEXTS["1"])
        session.add(
            EmbeddingRecord(id="2", embedding=np.ones(256, "f4"), collection_id=await docs.id)
        )
        assert await docs.count() == (2 if autoflush else 1)
        await docs.embed("3", TEXTS["3"])
        assert await docs.ids() == ["1", "2", "3"]
        record = await docs.get("2")
        await session.delete(record)
        await session.flush()
        assert await docs.ids() == ["1", "3"]


@pytest.mark.parametrize("expire_on_commit", [True, False])
@asynchronous
async def test_loaded_records_are_not_stale_after_a_write_and_read_without_io(
    url, expire_on_commit
):
    """An attribute that had to be read again would be an error under asyncio."""
    async with (
        connected(url) as engine,
        AsyncSession(engine, expire_on_commit=expire_on_commit) as session,
    ):
        model = DeterministicModel()
        docs: AsyncCollection[Any] = AsyncCollection("docs", session, model=model)
        await docs.embed_multi_with_metadata([("1", "a", {"n": 1}), ("2", "b", None)], store=True)
        record = await docs.get("1")
        assert record is not None
        for content, metadata in (("before the commit", {"n": 2}), ("after it", {"n": 3})):
            await docs.embed("1", content, metadata, store=True)
            assert (record.content, record.metadata_) == (content, metadata)
            assert record.embedding.tolist() == model.embed(content)
            assert isinstance(record.updated, int)
            assert (record.collection.name, record.collection_id) == ("docs", await docs.id)
            await session.commit()
        await docs.set_metadata("1", {"n": 4})
        await docs.embed("2", "b", store=True)
        again = await docs.get("1")
        assert again is record
        assert record.metadata_ == {"n": 4}
        await docs.store_vectors([("1", [0.5] * 256, {"n": 5}, "text")])
        assert (record.content, record.metadata_) == ("text", {"n": 5})
        assert record.embedding.tolist() == [0.5] * 256
        await docs.delete_items(["1"])
        assert await docs.get("1") is None
        assert record not in session


@asynchronous
async def test_a_loaded_list_of_embeddings_is_never_stale(url):
    """A write expires it, and where it is read anew, whole records are in it."""
    async with connected(url) as engine, AsyncSession(engine) as session:
        docs: AsyncCollection[Any] = AsyncCollection("docs", session, model=DeterministicModel())
        await docs.embed("1", TEXTS["1"])
        statement = select(CollectionRecord).options(selectinload(CollectionRecord.embeddings))
        collection = (await session.scalars(statement)).one()

        async def listed() -> dict[str, str | None]:
            if "embeddings" not in vars(collection):
                await session.refresh(collection, ["embeddings"])
            assert all(record.collection is collection for record in collection.embeddings)
            return {record.id: record.content for record in collection.embeddings}

        assert await listed() == {"1": None}
        await docs.embed_multi([("1", "other"), ("2", "two"), ("3", "three")], store=True)
        assert await listed() == {"1": "other", "2": "two", "3": "three"}
        await docs.store_vectors([("4", [1.0] * 256, None, "four")])
        await docs.delete_items(["1", "3"])
        assert await listed() == {"2": "two", "4": "four"}
        await docs.set_metadata("2", {"n": 1})
        await docs.rename("renamed")
        assert (collection.name, len(await listed())) == ("renamed", 2)
        savepoint = await session.begin_nested()
        await docs.embed("5", "five", store=True)
        assert await listed() == {"2": "two", "4": "four", "5": "five"}
        await savepoint.rollback()  # after which SQLAlchemy itself expires what it had changed
        assert await listed() == {"2": "two", "4": "four"}
        await session.commit()


@pytest.mark.parametrize("way", ["engine", "sessionmaker"])
@asynchronous
async def test_records_of_an_engine_are_detached_and_whole(url, way):
    """All their attributes read without a database."""
    async with connected(url) as engine, reached(engine, way) as db:
        docs: AsyncCollection[Any] = AsyncCollection("docs", db, model=DeterministicModel())
        await docs.embed("1", TEXTS["1"], {"n": 1}, store=True)
        record = await docs.get("1")
    assert record is not None
    assert comparable(record)[2:] == (
        TEXTS["1"],
        Collection.content_hash(TEXTS["1"]),
        {"n": 1},
    )
    assert (record.collection.name, record.collection.model) == ("docs", "deterministic")


@each_way
@asynchronous
async def test_matches_joins_the_hosts_table_in_one_statement(url, articles, way):
    """The keys are those of the table; the host awaits its own statement."""
    async with connected(url) as engine:
        async with AsyncSession(engine) as session:
            session.add_all([articles(id=int(id), title=title) for id, title in TEXTS.items()])
            await session.commit()
        async with reached(engine, way) as db:
            docs: AsyncCollection[Any] = AsyncCollection(
                "docs", db, model=DeterministicModel(), key=articles.id
            )
            await docs.embed_multi([(int(id), title) for id, title in TEXTS.items()])
            found = await docs.matches("a hound", 2, among=select(articles.id))
            joined = (
                select(articles.title)
                .join(found, found.c.id == articles.id)
                .order_by(found.c.score.desc(), articles.id)
            )
            assert [row[0] for row in await rows_of(db, joined)] == [
                TEXTS[str(entry.id)] for entry in await docs.similar("a hound", 2)
            ]
            nearest = await docs.matches_by_id(1, 1)
            assert [row.id for row in await rows_of(db, select(nearest))] == [2]


async def use(docs: AsyncCollection[Any]) -> None:
    """Do something of everything."""
    await docs.embed_multi(TEXTS.items(), batch_size=3, store=True)
    await docs.embed("1", "another", {"n": 1})
    await docs.embed("2", await docs.prepare("prepared"))
    await docs.store_vectors([("5", [1.0] * 256)])
    await docs.set_metadata("5", {"n": 2})
    assert [record.id async for record in docs] == ["1", "2", "3", "4", "5"]
    assert len(await docs.similar("a hound", 2)) == 2
    await docs.matches_by_vector([1.0] * 256)
    assert await docs.delete_items(where={"n": 2}) == 1
    assert await docs.index_info() is None
    await docs.rename("other")
    assert await docs.model_id == "deterministic"


@each_way
@asynchronous
async def test_there_is_no_second_connection(url, way):
    """Everything works on a pool of one."""
    options: dict[str, Any] = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 1}
    async with connected(url, **options) as engine, reached(engine, way) as db:
        docs: AsyncCollection[Any] = AsyncCollection("docs", db, model=DeterministicModel())
        await use(docs)
        if not is_sqlite(url):
            await docs.create_index()
            assert (await docs.similar("a hound", 2)).exact is False
            assert await docs.drop_index() is True
        await docs.delete()


@pytest.mark.parametrize("way", ["engine", "sessionmaker"])
@asynchronous
async def test_no_connection_is_held_while_a_model_runs(url, way):
    """Neither while it runs in a thread nor while it is awaited."""

    class Watching(DeterministicModel):
        """A model that looks at the pool."""

        def embed_batch(self, items: Sequence[Any]) -> list[Any]:
            held.append(checked_out(engine))
            return super().embed_batch(items)

    class WatchingAwaited(Watching):
        """The same, awaited."""

        async def aembed_batch(self, items: Sequence[Any]) -> list[Any]:
            await asyncio.sleep(0)
            return self.embed_batch(items)

    held: list[int] = []
    async with connected(url) as engine, reached(engine, way) as db:
        for model in (Watching(), WatchingAwaited()):
            docs: AsyncCollection[Any] = AsyncCollection("docs", db, model=model)
            await use(docs)
            await docs.embed_query("x")
            await docs.delete()
            assert len(model.calls) > 4
    assert set(held) == {0}


@asynchronous
async def test_embed_query_touches_no_database(tmp_path):
    """A session can call the model first, and open its transaction afterwards."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'none.db'}"
    async with connected(url) as engine, AsyncSession(engine) as session:
        docs: AsyncCollection[Any] = AsyncCollection("docs", session, model=DeterministicModel())
        assert (await docs.embed_query("x")).tolist() == DeterministicModel().embed("x")
        assert not session.in_transaction()
    assert list(tmp_path.iterdir()) == []


@asynchronous
async def test_prepare_leaves_the_session_alone(url):
    """What it looks up, it looks up on a short connection."""
    async with connected(url) as engine, AsyncSession(engine) as session:
        docs: AsyncCollection[Any] = AsyncCollection("docs", session, model=DeterministicModel())
        assert (await docs.prepare("x")).vector.tolist() == DeterministicModel().embed("x")
        assert not session.in_transaction()


@asynchronous
async def test_one_collection_on_an_engine_serves_30_tasks_at_once(url, plain):
    """Their writes are all there, and each sees its own."""
    async with connected(url) as engine:
        docs: AsyncCollection[Any] = AsyncCollection("docs", engine, model=AwaitedModel())

        async def work(number: int) -> None:
            id = f"{number:02}"
            await docs.embed(id, f"word{number}", {"n": number}, store=True)
            (best,) = await docs.similar(f"word{number}", 1)
            assert (best.id, best.metadata) == (id, {"n": number})
            await docs.embed_multi([("common", "x"), (f"{id}b", "y")])
            await docs.delete_items([f"{id}b"])

        await asyncio.gather(*map(work, range(30)))
        await assert_quiet(plain, engine)
        assert await docs.ids() == [*(f"{number:02}" for number in range(30)), "common"]


@asynchronous
async def test_tasks_take_turns_on_a_database_in_memory():
    """Its one connection is shared safely, or refused: no task ends another's transaction."""
    async with connected("sqlite+aiosqlite://") as engine:
        async with engine.begin() as connection:
            await connection.run_sync(embeddings.migrate)
        docs: AsyncCollection[Any] = AsyncCollection("docs", engine, model=AwaitedModel())
        outcomes = await asyncio.gather(
            *(docs.embed(f"{number:02}", f"word{number}") for number in range(30)),
            return_exceptions=True,
        )
        unexpected = {
            repr(outcome)
            for outcome in outcomes
            if outcome is not None and not isinstance(outcome, BindingError)
        }
        assert unexpected == set()
        written = [f"{n:02}" for n, outcome in enumerate(outcomes) if outcome is None]
        assert await docs.ids() == written


# Models


@pytest.mark.parametrize("way", ["session", "engine"])
@asynchronous
async def test_a_model_that_can_be_awaited_is(url, way):
    """With the batches in which it would be called."""
    model = AwaitedModel()
    async with connected(url) as engine, reached(engine, way) as db:
        docs: AsyncCollection[Any] = AsyncCollection("docs", db, model=model)
        await docs.embed_multi(TEXTS.items(), batch_size=3)
        await docs.similar("a hound")
        await docs.prepare("x")
        await docs.embed_multi(TEXTS.items())
    texts = list(TEXTS.values())
    assert model.awaited == [texts[:3], texts[3:], ["a hound"], ["x"]]


@asynchronous
async def test_a_model_runs_in_the_context_of_its_caller_in_another_thread(sqlite_url):
    """A model that looks for a request's variables finds them."""

    class Looking(DeterministicModel):
        """A model that tells where it is."""

        def embed_batch(self, items: Sequence[Any]) -> list[Any]:
            seen.append((threading.current_thread() is threading.main_thread(), tenant.get()))
            return super().embed_batch(items)

    import contextvars

    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")
    seen: list[tuple[bool, str]] = []
    async with connected(sqlite_url) as engine:
        docs: AsyncCollection[Any] = AsyncCollection("docs", engine, model=Looking())
        tenant.set("acme")
        await docs.embed("1", "x")
    assert seen == [(False, "acme")]


WRONG: dict[str, Callable[[Sequence[Any]], Any]] = {
    "too few": lambda items: [[1.0, 2.0]] * (len(items) - 1),
    "too many": lambda items: [[1.0, 2.0]] * (len(items) + 1),
    "not a number": lambda items: [[float("nan"), 1.0]] * len(items),
    "infinite": lambda items: [[float("inf"), 1.0]] * len(items),
    "no list": lambda items: 42,
    "none": lambda items: None,
    "lengths": lambda items: [[1.0] * (number + 1) for number in range(len(items))],
    "no numbers": lambda items: ["text"] * len(items),
    "empty": lambda items: [[]] * len(items),
    "raises": lambda items: {"a": 1}["key"],
    "stops": lambda items: next(iter(())),
}


@pytest.mark.parametrize("model", [AnyAnswer, AnyAwaitedAnswer])
@asynchronous
async def test_faults_of_models_are_the_same_errors(sqlite_url, engine, model, subtests):
    """Nothing is written, and the collection is usable afterwards."""
    for fault in WRONG:
        with subtests.test(ascii(fault)[:60]):
            with pytest.raises(BaseException) as expected:  # noqa: PT011  whatever it is
                Collection("docs", engine, model=AnyAnswer(WRONG[fault])).embed_multi(TEXTS.items())
            async with connected(sqlite_url) as async_engine, AsyncSession(async_engine) as session:
                for db in (async_engine, session):
                    docs: AsyncCollection[Any] = AsyncCollection(
                        "docs", db, model=model(WRONG[fault])
                    )
                    with pytest.raises((type(expected.value), RuntimeError)) as raised:
                        await docs.embed_multi(TEXTS.items())
                    if fault != "stops":  # StopIteration cannot leave a coroutine
                        assert (raised.type, str(raised.value)) == (
                            expected.type,
                            str(expected.value),
                        )
                    assert await docs.count() == 0
                good: AsyncCollection[Any] = AsyncCollection(
                    "docs", session, model=AnyAnswer(lambda items: [[1.0]])
                )
                await good.embed("1", "x")
                assert await good.count() == 1


def test_the_faults_are_those_that_a_model_can_have():
    """The errors that the faults above give are this library's where it can tell."""
    kinds = {"too few": ModelError, "no list": ModelError, "none": ModelError,
             "lengths": ModelError, "not a number": InvalidVectorError,
             "no numbers": InvalidVectorError, "empty": InvalidVectorError}  # fmt: skip
    for fault, kind in kinds.items():
        with pytest.raises(kind):
            list(AnyAnswer(WRONG[fault]).embed_multi(["a", "b"]))


@asynchronous
async def test_what_cannot_be_stored_is_refused_before_the_model_is_awaited(sqlite_url):
    """Nothing is spent."""
    model = AwaitedModel()
    async with connected(sqlite_url) as engine:
        docs: AsyncCollection[Any] = AsyncCollection("docs", engine, model=model)
        for id, content, metadata in (("", "x", None), ("1", "\0", None), ("1", "x", {"n": {1}})):
            with pytest.raises(InvalidItemError):
                await docs.embed(id, content, metadata)
    assert model.awaited == []


# The loop goes on


class Pulse:
    """Measures the longest time in which the event loop did not come round.

    And of that what it computed: on a busy machine a loop waits for others, too.
    """

    longest = 0.0
    computed = 0.0
    duration = 0.0
    beats = 0

    async def __aenter__(self) -> Self:
        self._began = time.perf_counter()
        self._task = asyncio.create_task(self._beat())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.duration = time.perf_counter() - self._began
        await asyncio.sleep(0.002)  # the beat that a stall has put off
        self._task.cancel()

    async def _beat(self) -> None:
        last, last_computed = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(0.001)
            now, computed = time.perf_counter(), time.thread_time()
            self.longest, last = max(self.longest, now - last), now
            self.computed = max(self.computed, computed - last_computed)
            last_computed = computed
            self.beats += 1


STALL = 0.020  # seconds


async def assert_goes_on(what: str, operation: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Assert that the loop comes round during an operation; on a busy machine, in one of five."""
    stalls = []
    for _ in range(5):
        async with Pulse() as pulse:
            await operation()
        stall = (
            f"{what}: {1000 * pulse.duration:.0f} ms, longest stall {1000 * pulse.longest:.1f} ms, "
            f"of which {1000 * pulse.computed:.1f} ms computing"
        )
        print(stall)  # noqa: T201  what is measured is told
        stalls.append(stall)
        waits = pulse.longest > max(3 * STALL, pulse.duration / 3)
        if pulse.computed <= STALL and not waits:
            return
    raise AssertionError(f"it holds the event loop: {stalls}")


@asynchronous
async def test_the_loop_goes_on_while_a_model_runs(sqlite_url):
    """A model that blocks does so in a thread."""
    async with connected(sqlite_url) as engine:
        docs: AsyncCollection[Any] = AsyncCollection("docs", engine, model=SlowModel())
        await docs.embed("1", "first")
        await assert_goes_on("a model's call", lambda: docs.prepare("x"))
        await assert_goes_on("embed", lambda: docs.embed("1", "x", force=True))
        await assert_goes_on("similar", lambda: docs.similar("x"))


@pytest.mark.parametrize("url", [SQLITE], indirect=True)
@asynchronous
async def test_the_loop_goes_on_during_every_kind_of_search(url, plain):
    """20,000 vectors of 384 dimensions: PostgreSQL compares them itself."""
    random = np.random.default_rng(1)
    vectors = random.standard_normal((20_000, 384), np.float32)
    others: Collection[str] = Collection("docs", plain, model=DeterministicModel())
    others.store_vectors(
        ((str(number), vector) for number, vector in enumerate(vectors)), batch_size=5_000
    )
    query = vectors[0].copy()
    async with connected(url) as engine:
        docs: AsyncCollection[Any] = AsyncCollection("docs", engine)

        async def search() -> None:
            assert (await docs.similar_by_vector(query))[0].id == "0"

        async def catch_up() -> None:
            first = next(moments)
            changed = ((str(at), vectors[at + first]) for at in range(2_000))
            await asyncio.to_thread(others.store_vectors, changed, batch_size=2_000)
            await docs.similar_by_vector(query)

        async def scan() -> None:
            CACHE.clear()
            await search()
            assert (await docs.status()).bytes == 0

        async def build() -> None:
            await scan()
            await search()
            assert (await docs.status()).rows == 20_000

        await assert_goes_on("a scan", scan)
        await assert_goes_on("a scan and the building of a matrix", build)
        await assert_goes_on("a search in memory", search)

        moments = itertools.count(1)
        keys = [str(number) for number in range(20_000)]
        half = EmbeddingRecord.id < "5"
        queries = vectors[:20]
        await assert_goes_on("many queries", lambda: docs.similar_multi_by_vector(queries))
        await assert_goes_on("among=", lambda: docs.similar_by_vector(query, among=keys))
        await assert_goes_on("where=", lambda: docs.similar_by_vector(query, where=half))
        await assert_goes_on("ids", docs.ids)
        await assert_goes_on("vectors", docs.vectors)
        await assert_goes_on("catching up", catch_up)


@asynchronous
async def test_a_task_that_computes_is_cancelled_at_once():
    """What it computes comes to its end in its thread, for nobody."""
    has_begun, may_end, ends = threading.Event(), threading.Event(), []

    def work() -> None:
        ends.append(threading.current_thread())
        has_begun.set()
        may_end.wait(60)

    def compute() -> None:
        EventLoop().compute(work, 10**6)

    task = asyncio.create_task(spawn(compute, finishes_statements=lambda: False))
    await happens(has_begun.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ends[0].is_alive()
    may_end.set()
    await asyncio.to_thread(ends[0].join)  # an error in a thread would fail the test


@on_postgresql
@asynchronous
async def test_the_loop_goes_on_during_the_build_of_an_index(url, plain):
    """Which is on the server; SQLite has none."""
    random = np.random.default_rng(1)
    vectors = random.standard_normal((3_000, 64), np.float32)
    Collection("docs", plain, model=DeterministicModel()).store_vectors(
        ((str(number), vector) for number, vector in enumerate(vectors)), batch_size=1_000
    )
    async with connected(url) as engine:
        docs: AsyncCollection[Any] = AsyncCollection("docs", engine)
        try:
            await assert_goes_on("a build", docs.create_index)
        finally:
            await docs.drop_index()
        assert await docs.index_info() is None


@contextlib.contextmanager
def held_up(plain: Engine) -> Iterator[Callable[[], None]]:
    """Keep builds of indexes from ending until the function is called."""
    with plain.connect() as connection:
        connection.execute(text("LOCK TABLE embeddings IN ROW EXCLUSIVE MODE"))
        yield connection.rollback


def a_build_is_held_up(plain: Engine) -> bool:
    """Return whether one has begun, and waits."""
    builds = text(
        "SELECT count(*) FROM pg_stat_progress_create_index "
        "WHERE datname = current_database() AND phase LIKE 'waiting%'"
    )
    with plain.connect() as connection:
        return bool(connection.scalar(builds))


@on_postgresql
@asynchronous
async def test_the_progress_of_a_build_is_reported_while_the_loop_goes_on(url, plain):
    """From a second connection, which there is on an engine only; no thread is needed."""
    async with connected(url) as engine:
        docs: AsyncCollection[Any] = AsyncCollection("docs", engine, model=DeterministicModel())
        await docs.embed_multi(TEXTS.items())
        reports: list[tuple[int, int]] = []
        with held_up(plain) as let_go:

            def progress(done: int, total: int) -> None:
                reports.append((done, total))
                let_go()

            async with Pulse() as pulse:
                info = await docs.create_index(progress=progress)
        assert (info.is_valid, len(reports) >= 2, reports[-1]) == (True, True, (4, 4))
        assert pulse.longest < pulse.duration / 2
        await docs.drop_index()
        async with AsyncSession(engine) as session:
            joined: AsyncCollection[Any] = AsyncCollection("docs", session)
            with pytest.raises(BindingError, match="open the collection on the engine"):
                await joined.create_index(progress=progress)


@on_postgresql
@pytest.mark.parametrize("progress", [None, lambda *_: None])
@asynchronous
async def test_a_build_is_cancelled(url, plain, progress):
    """What it leaves behind keeps nobody out, and is built anew."""
    async with connected(url) as engine:
        docs: AsyncCollection[Any] = AsyncCollection("docs", engine, model=DeterministicModel())
        await docs.embed_multi(TEXTS.items())
        with held_up(plain):
            task = asyncio.create_task(docs.create_index(progress=progress))
            await happens(lambda: a_build_is_held_up(plain))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await assert_quiet(plain, engine)
        assert len(await docs.similar("a hound")) == 4
        assert (await docs.create_index()).is_valid
        assert await docs.drop_index() is True


@on_postgresql
@asynchronous
async def test_two_builds_at_once_take_turns_and_block_nobody(url, plain):
    """The second one waits for the first, without holding the loop."""
    async with connected(url) as engine:
        docs = [
            AsyncCollection[Any](name, engine, model=DeterministicModel()) for name in ("a", "b")
        ]
        for one in docs:
            await one.embed_multi(TEXTS.items())
        with held_up(plain) as let_go:
            tasks = [asyncio.create_task(one.create_index()) for one in docs]
            await happens(lambda: a_build_is_held_up(plain))
            async with Pulse() as pulse:
                await happens(lambda: pulse.beats > 30)
            assert not any(task.done() for task in tasks)
            let_go()
            assert all(info.is_valid for info in await asyncio.gather(*tasks))
        for one in docs:
            await one.drop_index()


# Cancellation


async def happens(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        await asyncio.sleep(0.005)


async def within(timeout: asyncio.Timeout, work: Coroutine[Any, Any, Any]) -> Any:
    """Wait for what has to end in a time; which is up when the test says so."""
    async with timeout:
        return await work


@pytest.mark.parametrize("make_model", [StuckModel, StuckAwaitedModel])
@pytest.mark.parametrize("way", ["session", "engine"])
@asynchronous
async def test_a_task_is_cancelled_during_a_call_of_the_model(url, plain, way, make_model):
    """At once; the session keeps what was written before, and can be used on."""
    stuck = make_model()
    async with connected(url) as engine:
        async with reached(engine, way) as db:
            docs: AsyncCollection[Any] = AsyncCollection("docs", db, model=DeterministicModel())
            await docs.embed("1", TEXTS["1"])
            other: AsyncCollection[Any] = AsyncCollection("docs", db, model=stuck)
            task = asyncio.create_task(other.embed_multi(TEXTS.items()))
            await happens(stuck.started.is_set)
            assert checked_out(engine) == (1 if way == "session" else 0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            stuck.let_go.set()
            assert await docs.ids() == ["1"]
            await docs.embed("2", TEXTS["2"])
            if way == "session":
                await db.rollback()
                assert await docs.count() == 0
                await docs.embed("3", TEXTS["3"])
                await db.commit()
        await assert_quiet(plain, engine)
    assert stored(plain) == (["3"] if way == "session" else ["1", "2"])


@pytest.mark.parametrize("way", ["session", "engine"])
@asynchronous
async def test_a_timeout_in_a_call_of_the_model_leaves_nothing_half_written(url, plain, way):
    """asyncio.timeout gives its TimeoutError."""
    stuck = StuckAwaitedModel()
    async with connected(url) as engine:
        async with reached(engine, way) as db:
            docs: AsyncCollection[Any] = AsyncCollection("docs", db, model=stuck)
            timeout = asyncio.timeout(None)
            task = asyncio.create_task(within(timeout, docs.embed_multi(TEXTS.items())))
            await happens(stuck.started.is_set)
            timeout.reschedule(0)
            with pytest.raises(TimeoutError):
                await task
            stuck.let_go.set()
            if way == "session":
                await db.rollback()
            assert await docs.count() == 0
            await docs.embed("1", TEXTS["1"])
            if way == "session":
                await db.commit()
        await assert_quiet(plain, engine)
    assert stored(plain) == ["1"]


@contextlib.contextmanager
def locked(plain: Engine) -> Iterator[None]:
    """Keep writers out of the tables, and on PostgreSQL readers too."""
    with plain.connect() as connection:
        if plain.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("LOCK TABLE embeddings, collections IN ACCESS EXCLUSIVE MODE"))
        yield
        connection.rollback()


def waits_for_a_lock(plain: Engine, engine: AsyncEngine) -> Callable[[], bool]:
    """Return what tells whether a write of the engine's, of those to come, has to wait."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    writes: list[str] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def executes(*given: Any) -> None:
        if given[2].startswith(("INSERT", "UPDATE", "DELETE", "BEGIN IMMEDIATE")):
            writes.append(given[2])

    def waits() -> bool:
        if plain.dialect.name == "sqlite":
            return bool(writes)
        with plain.connect() as connection:
            return bool(connection.scalar(waiting))

    return waits


@on_postgresql
@pytest.mark.parametrize(
    ("operation", "how"),
    [
        (operation, how)
        for operation in ("embed", "store_vectors", "delete_items")
        for how in ("cancel", "timeout")
        if ALL or how == "cancel" or operation == "embed"
    ],
)
@pytest.mark.parametrize("way", ["session", "engine"])
@asynchronous
async def test_a_task_is_cancelled_while_a_statement_waits_for_a_lock(
    url, plain, way, operation, how
):
    """The session is usable after its rollback; nothing of the operation comes later.

    In aiosqlite's thread SQLite itself waits, and cannot be interrupted.
    """
    async with connected(url) as engine:
        async with reached(engine, way) as db:
            docs: AsyncCollection[Any] = AsyncCollection("docs", db, model=DeterministicModel())
            await docs.embed("1", TEXTS["1"])
            if way == "session":
                await db.commit()

            async def act() -> Any:
                if operation == "embed":
                    return await docs.embed("2", TEXTS["2"])
                if operation == "store_vectors":
                    return await docs.store_vectors([("2", [1.0] * 256)])
                return await docs.delete_items(["1"])

            with locked(plain):
                waits = waits_for_a_lock(plain, engine)
                timeout = asyncio.timeout(None)
                task = asyncio.create_task(within(timeout, act()))
                await happens(waits)
                if how == "timeout":
                    timeout.reschedule(0)
                else:
                    task.cancel()
                done, _ = await asyncio.wait([task], timeout=PATIENCE)
                assert done
            with pytest.raises(TimeoutError if how == "timeout" else asyncio.CancelledError):
                await task
            if way == "session":
                await db.rollback()
            assert await docs.ids() == ["1"]
            await docs.embed("3", TEXTS["3"])
            if way == "session":
                await db.commit()
        await assert_quiet(plain, engine)
    assert stored(plain) == ["1", "3"]


@asynchronous
async def test_a_session_after_a_cancelled_statement(url, plain):
    """It says that it has to be rolled back; on SQLite, where statements finish, it goes on.

    On PostgreSQL its connection is gone, and with it what was not committed.
    """
    async with connected(url) as engine, AsyncSession(engine) as session:
        docs: AsyncCollection[Any] = AsyncCollection("docs", session, model=DeterministicModel())
        await docs.embed("1", TEXTS["1"])
        await session.commit()
        with locked(plain):
            waits = waits_for_a_lock(plain, engine)
            task = asyncio.create_task(docs.embed("2", TEXTS["2"]))
            await happens(waits)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=0.3 if is_sqlite(url) else PATIENCE)
            assert bool(done) != is_sqlite(url)
        with pytest.raises(asyncio.CancelledError):
            await task
        if is_sqlite(url):
            assert await docs.ids() in (["1"], ["1", "2"])
        else:
            with pytest.raises(PendingRollbackError):
                await docs.count()
        await session.rollback()
        assert await docs.ids() == ["1"]


BATCH = 3
ITEMS = [(f"{number:02}", f"text {number}") for number in range(3 * BATCH)]


STEP = 1 if ALL else 5
"""Of how many statements one is cancelled, another one with each driver; `make long` does each."""


class Interruptions:
    """Cancels the current task at the n-th event of an engine's; and perhaps once more.

    Cancelling takes effect where the task waits next: within that very statement.
    """

    def __init__(self, engine: AsyncEngine, *, twice: bool) -> None:
        self.n, self.seen, self.twice = 0, 0, twice
        self.task: asyncio.Task[Any] | None = None
        for name in ("before_cursor_execute", "commit", "begin"):
            event.listen(engine.sync_engine, name, self._at)
        if twice:
            event.listen(engine.sync_engine, "rollback", self._again)
            event.listen(engine.sync_engine.pool, "reset", self._again)

    def arm(self, n: int, task: asyncio.Task[Any]) -> None:
        """Cancel the task at its n-th event."""
        self.n, self.seen, self.task = n, 0, task

    @property
    def was_reached(self) -> bool:
        """Whether there was an n-th event, and disarm."""
        self.task = None
        return self.seen >= self.n

    def _at(self, *_: Any) -> None:
        if self.task is not None:
            self.seen += 1
            if self.seen == self.n:
                self.task.cancel()

    def _again(self, *_: Any) -> None:
        if self.task is not None and self.seen >= self.n:
            self.task.cancel()


@pytest.fixture
def pace(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float | None:
    """After how long without waiting psycopg gives way to the event loop, where it is used.

    Never, as on a fast machine, or whenever it can, as on one that is busy: since psycopg 3.3.9 it
    can be cancelled there, too.
    """
    pace: float | None = request.param
    if pace is not None:
        monkeypatch.setattr("psycopg.waiting.MAX_BUSY_TIME", pace, raising=False)
    return pace


PACES = [(SQLITE, None), ("asyncpg", None), ("psycopg", math.inf), ("psycopg", 0.0)]


def at_any_pace(*times: int) -> pytest.MarkDecorator:
    """Cancel once or twice with each driver, or in both ways with `make long`; give the first n."""
    return pytest.mark.parametrize(
        ("url", "pace", "twice", "first"),
        [
            (*pace, time == 2, 1 + turn % STEP)
            for turn, (pace, usual) in enumerate(zip(PACES, times, strict=True))
            for time in ((1, 2) if ALL else (usual,))
        ],
        indirect=["url", "pace"],
    )


@at_any_pace(2, 1, 2, 1)
@asynchronous
async def test_a_bulk_write_on_an_engine_is_cancelled_at_every_statement(
    url, pace, plain, twice, first
):
    """Each batch is there as a whole or not at all, and the engine can be used on."""
    async with connected(url) as engine:
        interruptions = Interruptions(engine, twice=twice)
        for n in itertools.count(first, STEP):
            docs: AsyncCollection[Any] = AsyncCollection(f"docs{n}", engine, model=AwaitedModel())
            task = asyncio.create_task(docs.embed_multi(ITEMS, batch_size=BATCH, store=True))
            interruptions.arm(n, task)
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            reached_it = interruptions.was_reached
            ids = await docs.ids()
            assert ids == [id for id, _ in ITEMS[: len(ids)]]
            assert len(ids) % BATCH == 0, f"cancelled at {n}"
            assert checked_out(engine) == 0, f"cancelled at {n}"
            if not isinstance(outcome, BaseException):
                assert len(ids) == outcome.embedded == len(ITEMS)
            elif not isinstance(outcome, asyncio.CancelledError):
                raise outcome
            if not reached_it:
                break
            await docs.embed_multi(ITEMS)
            assert await docs.count() == len(ITEMS)
        assert interruptions.seen > 12
        await assert_quiet(plain, engine)


@at_any_pace(1, 2, 1, 2)
@asynchronous
async def test_work_on_a_session_is_cancelled_at_every_statement(
    url, pace, plain, articles, twice, first
):
    """After the rollback nothing is left, and the session can be used on."""
    model = AwaitedModel()
    async with connected(url, pool_size=1, max_overflow=0) as engine:
        interruptions = Interruptions(engine, twice=twice)
        async with AsyncSession(engine) as session:
            docs: AsyncCollection[Any] = AsyncCollection("docs", session, model=model, key=str)
            for n in itertools.count(first, STEP):

                async def work() -> None:
                    session.add(articles(id=1, title="x"))
                    await docs.embed_multi(ITEMS, batch_size=BATCH)
                    await docs.similar("text 1")
                    await docs.set_metadata("00", {"n": 1})
                    await docs.delete_items(["01"])

                task = asyncio.create_task(work())
                interruptions.arm(n, task)
                (outcome,) = await asyncio.gather(task, return_exceptions=True)
                reached_it = interruptions.was_reached
                if outcome is not None and not isinstance(outcome, asyncio.CancelledError):
                    raise outcome
                assert (outcome is None) == (not reached_it), n
                await session.rollback()
                assert await docs.count() == 0, f"cancelled at {n}"
                assert await session.scalar(select(func.count()).select_from(articles)) == 0
                assert stored(plain) == []
                if not reached_it:
                    break
            assert interruptions.seen > 12
            await docs.embed("1", "x")
            await session.commit()
        await assert_quiet(plain, engine)
    assert stored(plain) == ["1"]


@pytest.mark.parametrize("way", ["session", "engine"])
@pytest.mark.parametrize(("url", "pace"), [("psycopg", 0.0)], indirect=True)
@asynchronous
async def test_a_task_is_cancelled_as_psycopg_begins_a_pipeline(url, pace, plain, way):
    """It ends so, and the connection, which psycopg may leave in pipeline mode, is not used on.

    In psycopg 3.3.9 `AsyncPipeline.__aenter__` can be cancelled after it has entered the pipeline.
    Then nothing leaves it, and `AsyncConnection._pipeline_nolock` fails in its own
    `assert pipeline.level == 0`: that is what the cancellation comes from here.
    """
    large = [(str(n), f"{n} {'x' * 700_000}") for n in range(1, 4)]  # for more than one statement
    async with connected(url, pool_size=1, max_overflow=0) as engine:
        async with reached(engine, way) as db:
            docs: AsyncCollection[Any] = AsyncCollection("docs", db, model=AwaitedModel())
            await docs.embed("0", "x")
            if way == "session":
                await db.commit()

            async def work() -> None:
                await docs.set_metadata("0", {"n": 1})
                await docs.embed_multi(large, store=True)

            @event.listens_for(engine.sync_engine, "before_cursor_execute")
            def cancel(*given: Any) -> None:
                if given[-1] and not task.cancelling():  # executemany
                    task.cancel()

            task = asyncio.create_task(work())
            with pytest.raises(asyncio.CancelledError) as raised:
                await task
            cause = raised.value.__cause__
            assert cause is None or "psycopg" in traceback.extract_tb(cause.__traceback__)[-1][0]
            if way == "session":
                await db.rollback()
            assert await docs.ids() == ["0"]
            if way == "session":
                await db.commit()
        async with engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            assert driver.pgconn.pipeline_status == 0
        await assert_quiet(plain, engine)
    with plain.connect() as connection:
        rows = connection.execute(select(EmbeddingRecord.id, EmbeddingRecord.metadata_)).all()
    assert rows == [("0", None if way == "session" else {"n": 1})]


async def spawned(statement: Coroutine[Any, Any, Any]) -> Any:
    """Wait for a statement where a driver does: within what is written synchronously."""
    return await spawn(lambda: await_only(statement), finishes_statements=lambda: False)


@pytest.mark.parametrize("at_once", [True, False])
@asynchronous
async def test_what_a_driver_makes_of_a_cancellation_is_one(at_once):
    """Its own error is the cause; a task group or a time-out knows the cancellation only."""

    async def statement() -> None:
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            try:
                raise AssertionError("the driver's")
            except AssertionError as error:
                raise OSError("somebody else's") from error

    timeout = asyncio.timeout(0 if at_once else 0.01)
    with pytest.raises(TimeoutError) as raised:
        await within(timeout, spawned(statement()))
    cancelled = raised.value.__cause__
    assert isinstance(cancelled, asyncio.CancelledError)
    assert isinstance(cancelled.__cause__, OSError)


@asynchronous
async def test_an_error_of_a_driver_that_nobody_cancelled_stays():
    """Its own time-out, and what fails where a cancellation is dealt with."""

    async def slow() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(PATIENCE)

    async def wrong() -> None:
        raise ZeroDivisionError

    async def work() -> None:
        with pytest.raises(TimeoutError):
            await spawned(slow())
        with pytest.raises(ZeroDivisionError):
            await spawned(wrong())

    async def cancelled() -> None:
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            await work()
            raise

    await work()
    task = asyncio.create_task(cancelled())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


@asynchronous
async def test_a_group_whose_member_fails_leaves_no_connection_behind(url, plain):
    """The others are cancelled wherever they are, a hundred times over."""
    async with connected(url, pool_size=3, max_overflow=0) as engine:
        docs: AsyncCollection[Any] = AsyncCollection("docs", engine, model=AwaitedModel())
        await docs.embed("0", "x")

        async def fail(after: float) -> None:
            await asyncio.sleep(after)
            raise ZeroDivisionError

        for round_ in range(0, 20, 1 if ALL else 2):
            with contextlib.suppress(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    for number in range(5):
                        items = [(f"{round_}/{number}/{i}", "x") for i in range(2)]
                        group.create_task(docs.embed_multi(items))
                    group.create_task(fail(round_ / 2_000))
            assert checked_out(engine) == 0
        by_task: dict[str, int] = {}
        for id in await docs.ids():
            key = id.rpartition("/")[0]
            by_task[key] = by_task.get(key, 0) + 1
        by_task.pop("", None)
        assert set(by_task.values()) <= {2}
        await assert_quiet(plain, engine)

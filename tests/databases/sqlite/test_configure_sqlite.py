"""Real transactions for a host's SQLite engine, and the truth without them."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, create_engine, event, func, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.pool import NullPool, StaticPool

import embeddings
from embeddings import (
    AsyncCollection,
    BindingError,
    Collection,
    EmbeddingRecord,
    SchemaError,
    configure_sqlite,
    make_records,
    migrate,
)
from embeddings.testing import DeterministicModel
from tests.host_tables import Article, HostBase, Shelf
from tests.reaching import in_threads, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def path(engine: Engine) -> Path:
    """The file of the database, with the host's tables, where readers and writers do not meet."""
    HostBase.metadata.create_all(engine)
    path = Path(str(engine.url.database))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    engine.dispose()
    return path


@pytest.fixture(params=[False, True], ids=["read committed", "snapshot"])
def snapshot(request: pytest.FixtureRequest) -> bool:
    """Whether transactions see one snapshot."""
    return bool(request.param)


@pytest.fixture
def configured(path: Path, engine: Engine, snapshot: bool) -> Engine:
    """The host's engine, configured."""
    configure_sqlite(engine, snapshot=snapshot)
    return engine


def committed(path: Path, sql: str = "SELECT id FROM embeddings ORDER BY id") -> list[Any]:
    """Return what another process sees."""
    with closing(sqlite3.connect(path, timeout=0)) as connection:
        return connection.execute(sql).fetchall()


def write(path: Path, *statements: str) -> None:
    """Commit statements, as another process does."""
    with closing(sqlite3.connect(path, timeout=0)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


TITLES = "SELECT title FROM articles ORDER BY id"
NEW = "INSERT INTO articles VALUES (9, 'new')"


# Savepoints, snapshots, changes of the schema


def test_a_savepoint_as_the_first_statement_is_rolled_back(configured: Engine, path: Path):
    """SAVEPOINT, RELEASE and then a rollback of all leave nothing."""
    with Session(configured) as session:
        docs = Collection("docs", session, model=DeterministicModel())
        with session.begin_nested():
            session.add(Article(id=1, title="one"))
            docs.embed("1", "one")
        session.rollback()
        assert docs.count() == 0

        assert session.scalar(select(func.count()).select_from(Article)) == 0
        with session.begin_nested():
            docs.embed("2", "two")
        assert committed(path) == []
        session.rollback()
    assert (committed(path), committed(path, TITLES)) == ([], [])


def test_a_savepoint_alone_is_rolled_back(configured: Engine, path: Path):
    """What was done in it goes, what was done before it stays."""
    with Session(configured) as session:
        docs = Collection("docs", session, model=DeterministicModel())
        docs.embed("1", "one")
        with pytest.raises(RuntimeError, match="no"), session.begin_nested():  # noqa: PT012
            docs.embed("2", "two")
            raise RuntimeError("no")
        session.commit()
    assert committed(path) == [("1",)]


@pytest.mark.parametrize("first", ["a read", "a savepoint", "a search", "nothing but BEGIN"])
def test_the_reads_of_a_session_are_one_snapshot(first: str, engine: Engine, path: Path):
    """What another process commits is seen with the next transaction, and not in this one."""
    configure_sqlite(engine, snapshot=True)
    with Session(engine) as session:
        docs = Collection("docs", session, model=DeterministicModel())
        docs.embed("1", "one hound")
        session.commit()
        session.execute(text("SELECT 1 FROM articles"))
        if first == "a savepoint":
            session.begin_nested().commit()
        elif first == "a search":
            docs.similar("one hound")
        before = session.execute(text(TITLES)).all()
        write(path, NEW, "UPDATE embeddings SET id = '2'")

        assert session.execute(text(TITLES)).all() == before
        assert (docs.ids(), [e.id for e in docs.similar("one hound")]) == (["1"], ["1"])
        session.rollback()
        assert session.execute(text(TITLES)).all() == [*before, ("new",)]
        assert (docs.ids(), [e.id for e in docs.similar("one hound")]) == (["2"], ["2"])


def test_a_read_sees_what_is_committed(engine: Engine, path: Path):
    """Before the first change each does, and so does a search; after it nobody else writes."""
    configure_sqlite(engine)
    with Session(engine) as session:
        docs = Collection("docs", session, model=DeterministicModel())
        docs.embed("1", "one hound")
        session.commit()
        assert session.execute(text(TITLES)).all() == []
        assert [entry.id for entry in docs.similar("one hound")] == ["1"]
        write(path, NEW, "UPDATE embeddings SET id = '2'")

        assert session.execute(text(TITLES)).all() == [("new",)]
        assert [entry.id for entry in docs.similar("one hound")] == ["2"]
        session.execute(text("UPDATE articles SET title = 'changed' WHERE id = 1"))
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            write(path, "DELETE FROM articles")
        docs.embed("3", "three")
        session.rollback()
        assert (session.execute(text(TITLES)).all(), docs.ids()) == ([("new",)], ["2"])


CHANGES = (
    "INSERT INTO articles VALUES (1, 'one')",
    "  -- a comment\n /* and (another */ REPLACE INTO articles VALUES (1, 'one')",
    "UPDATE articles SET title = 'one'",
    "delete from articles",
    "WITH new (id, title) AS MATERIALIZED (SELECT 1, ')') INSERT INTO articles SELECT * FROM new",
    "CREATE TABLE more (x)",
    "ALTER TABLE articles ADD COLUMN more TEXT",
    "DROP TABLE shelves",
    "SAVEPOINT here",
    "REINDEX articles",
    "ANALYZE articles",
)
READS = (
    "SELECT replace('a', 'b', 'c')",
    "WITH found AS (SELECT id FROM articles) SELECT 'INSERT' FROM found",
    'WITH "INSERT" AS (SELECT 1) VALUES (1)',
    "VALUES (1)",
    "PRAGMA user_version",
    "EXPLAIN DELETE FROM articles",
)


@pytest.mark.parametrize("raw", [False, True], ids=["text", "driver's"])
@pytest.mark.parametrize("sql", CHANGES + READS)
def test_the_first_change_takes_the_write_lock(sql: str, raw: bool, engine: Engine, path: Path):
    """Whatever it is, and however it is executed; a read takes no lock and begins nothing."""
    configure_sqlite(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql(TITLES).all()
        result = connection.exec_driver_sql(sql) if raw else connection.execute(text(sql))
        driver: Any = connection.connection.driver_connection
        assert driver.in_transaction == (sql in CHANGES)
        result.close()
        if sql in CHANGES:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                write(path, NEW)
        else:
            write(path, NEW)
        connection.rollback()
        assert not driver.in_transaction
    assert committed(path, TITLES) == ([] if sql in CHANGES else [("new",)])
    assert committed(path, "SELECT 1 FROM sqlite_master WHERE name = 'more'") == []


def test_vacuum_is_let_through(engine: Engine, path: Path):
    """It is a statement that SQLite takes only outside a transaction."""
    configure_sqlite(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("VACUUM")


def test_the_pragmas(engine: Engine, path: Path):
    """WAL, also of a connection that was in the pool before; a time-out that was given stays."""
    write(path, "PRAGMA journal_mode = DELETE")
    given = create_engine(engine.url, connect_args={"timeout": 2})
    for one in (engine, given):
        assert rows_of(one, "PRAGMA journal_mode")
        configure_sqlite(one)
    assert rows_of(engine, "PRAGMA busy_timeout") == [(60_000,)]
    assert rows_of(given, "PRAGMA busy_timeout") == [(2_000,)]
    assert committed(path, "PRAGMA journal_mode") == [("wal",)]
    given.dispose()


def test_a_file_that_is_being_read_keeps_its_journal(engine: Engine, path: Path):
    """The switch to WAL is left for another time, and everything works."""
    write(path, "PRAGMA journal_mode = DELETE")
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute(TITLES).fetchall()
        configure_sqlite(engine)
        assert rows_of(engine, TITLES) == []
    assert committed(path, "PRAGMA journal_mode") == [("delete",)]


def test_changes_of_the_schema_are_rolled_back(configured: Engine, path: Path):
    """DDL is a part of the transaction, before and after other statements."""
    names = "SELECT name FROM sqlite_master ORDER BY 1"
    before = committed(path, names)
    with configured.connect() as connection:
        connection.execute(text("CREATE TABLE first (x)"))
        connection.execute(text(NEW))
        connection.execute(text("ALTER TABLE articles ADD COLUMN extra TEXT"))
        connection.execute(text("DROP TABLE shelves"))
        connection.rollback()

    assert (committed(path, names), committed(path, TITLES)) == (before, [])
    assert "extra" not in {column["name"] for column in inspect(configured).get_columns("articles")}


def test_create_all_that_fails_leaves_nothing(configured: Engine, path: Path):
    """Half a schema is rolled back: here the change log has no room."""

    class Base(DeclarativeBase):
        pass

    make_records(Base, prefix="search_")
    write(path, "CREATE VIEW search_embeddings_log AS SELECT 1 AS one")
    before = committed(path, "SELECT name FROM sqlite_master")

    with pytest.raises((DBAPIError, SchemaError)):
        Base.metadata.create_all(configured)

    assert committed(path, "SELECT name FROM sqlite_master") == before


# A COMMIT that failed


def by_foreign_key(session: Session, path: Path) -> None:
    """Commit what a deferred foreign key forbids."""
    session.execute(text("PRAGMA foreign_keys"))
    session.add(Shelf(id=1, collection_id=12345))
    with pytest.raises(IntegrityError):
        session.commit()


def test_a_commit_that_violates_a_foreign_key_is_not_made_durable(
    engine: Engine, path: Path, snapshot: bool
):
    """The next user of the pooled connection does not commit what failed."""
    event.listen(engine, "connect", lambda driver, _: driver.execute("PRAGMA foreign_keys = ON"))
    configure_sqlite(engine, snapshot=snapshot)
    with Session(engine) as session:
        by_foreign_key(session, path)
    with Session(engine) as session:
        session.add(Article(id=1, title="one"))
        session.commit()
        Collection("docs", session, model=DeterministicModel()).embed("1", "one")
        session.commit()

    assert committed(path, "SELECT * FROM shelves") == []
    assert (committed(path), committed(path, TITLES)) == ([("1",)], [("one",)])


@pytest.mark.parametrize("reset", ["rollback", None])
@pytest.mark.parametrize("kind", ["session", "connection"])
def test_a_commit_that_is_locked_out_is_not_made_durable(
    kind: str, reset: Any, tmp_path: Path, migrated: Path
):
    """With a rollback journal a reader keeps a COMMIT out; the row is gone, and stays so.

    It also keeps the file from being switched to write-ahead logging.
    """
    path = tmp_path / "journal.db"
    path.write_bytes(migrated.read_bytes())
    write(path, "PRAGMA journal_mode = DELETE")
    host = create_engine(f"sqlite:///{path}")
    HostBase.metadata.create_all(host)
    host.dispose()
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": 0},
        pool_size=1,
        max_overflow=0,
        pool_reset_on_return=reset,
    )
    configure_sqlite(engine)
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM articles").fetchall()
        if kind == "session":
            with Session(engine) as session:
                docs = Collection("docs", session, model=DeterministicModel())
                docs.embed("lost", "lost")
                with pytest.raises(OperationalError, match="locked"):
                    session.commit()
        else:
            with engine.connect() as connection:
                connection.execute(text(NEW))
                with pytest.raises(OperationalError, match="locked"):
                    connection.commit()
        reader.rollback()

    with Session(engine) as session:
        session.add(Article(id=1, title="one"))
        session.commit()
    engine.dispose()

    assert (committed(path), committed(path, TITLES)) == ([], [("one",)])


# Threads


def test_transactions_that_read_and_then_write_take_turns(engine: Engine, path: Path):
    """Nobody is told that the database is locked, and what is read after a savepoint holds."""
    configure_sqlite(engine)
    with Session(engine) as session:
        session.add_all([Article(id=1, title="0"), Article(id=2, title="0")])
        session.commit()

    def work(_: int) -> None:
        for _ in range(25):
            with Session(engine) as session:
                session.get_one(Article, 1).title += "."
                session.commit()
                with session.begin_nested():  # takes the write lock
                    article = session.get_one(Article, 2)
                    article.title = str(int(article.title) + 1)
                session.commit()

    in_threads(work)

    assert committed(path, TITLES)[1] == ("200",)


def test_collections_in_transactions_that_read_and_then_write(engine: Engine, path: Path):
    """On sessions of such an engine threads search and then write, and all arrives.

    Each kind of write reads what it needs under the write lock.
    """
    configure_sqlite(engine)

    def work(thread: int) -> None:
        for i in range(5):
            with Session(engine) as session:
                docs = Collection("docs", session, model=DeterministicModel())
                docs.similar("text")
                docs.embed(f"{thread}-{i}", f"text {thread} {i}")
                session.commit()
                docs.similar("text")
                docs.set_metadata(f"{thread}-{i}", {"thread": thread})
                session.commit()
                docs.similar("text")
                assert docs.delete_items([f"{thread}-{i - 1}"]) == (i > 0)
                session.commit()
                docs.similar("text")
                docs.store_vectors([(f"{thread}-own", DeterministicModel().embed("own"))])
                session.commit()

    in_threads(work)

    left = [f"{thread}-{end}" for thread in range(8) for end in ("4", "own")]
    assert committed(path) == [(id,) for id in sorted(left)]


def test_collections_on_the_engine_itself(configured: Engine, path: Path):
    """An engine's own short transactions take turns, however the host's are begun."""

    def work(thread: int) -> None:
        docs = Collection("docs", configured, model=DeterministicModel())
        for i in range(5):
            docs.embed(f"{thread}-{i}", f"text{thread}x{i}")
            assert docs.similar(f"text{thread}x{i}", number=1)[0].id == f"{thread}-{i}"

    in_threads(work)

    assert len(committed(path)) == 40


# Whatever the engine is


def test_calling_it_twice_is_calling_it_once(configured: Engine, snapshot: bool, path: Path):
    """A second call does no harm."""
    configure_sqlite(configured, snapshot=snapshot)
    begun: list[str] = []
    event.listen(
        configured, "before_cursor_execute", lambda *given: begun.append(given[2].split()[0])
    )
    with Session(configured) as session:
        with session.begin_nested():
            session.add(Article(id=1, title="one"))
        session.rollback()
        session.add(Article(id=2, title="two"))
        session.commit()

    assert begun.count("BEGIN") == 2
    assert committed(path, TITLES) == [("two",)]


def autocommit_of_the_connection(path: Path) -> Any:
    engine = create_engine(f"sqlite:///{path}")
    configure_sqlite(engine)
    return engine, engine.connect().execution_options(isolation_level="AUTOCOMMIT")


def autocommit_of_options(path: Path) -> Any:
    engine = create_engine(f"sqlite:///{path}")
    configure_sqlite(engine)
    return engine, engine.execution_options(isolation_level="AUTOCOMMIT").connect()


def autocommit_of_the_engine(path: Path) -> Any:
    engine = create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT")
    configure_sqlite(engine)
    return engine, engine.connect()


def autocommit_of_creation_options(path: Path) -> Any:
    engine = create_engine(f"sqlite:///{path}", execution_options={"isolation_level": "AUTOCOMMIT"})
    configure_sqlite(engine)
    return engine, engine.connect()


@pytest.mark.parametrize(
    "way",
    [
        autocommit_of_the_connection,
        autocommit_of_options,
        autocommit_of_the_engine,
        autocommit_of_creation_options,
    ],
)
def test_autocommit_stays_autocommit(way: Callable[[Path], Any], path: Path):
    """Where the host asks for no transactions, every statement is durable at once."""
    engine, connection = way(path)
    with connection:
        connection.execute(text(NEW))
        assert committed(path, TITLES) == [("new",)]
        connection.execute(text("CREATE TABLE more (x)"))
        connection.rollback()
    engine.dispose()

    assert committed(path, TITLES) == [("new",)]
    assert committed(path, "SELECT * FROM more") == []


def test_transactions_after_autocommit_on_the_same_connection(path: Path):
    """A pooled connection that was used without transactions has them again, and again not."""
    engine = create_engine(f"sqlite:///{path}", pool_size=1, max_overflow=0)
    configure_sqlite(engine)
    for number in range(2):
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"INSERT INTO articles VALUES ({number}, 'kept')"))
        with Session(engine) as session:
            with session.begin_nested():
                session.add(Article(id=10 + number, title="lost"))
            session.rollback()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        migrate(connection)
    engine.dispose()

    assert committed(path, TITLES) == [("kept",), ("kept",)]


def test_a_pool_that_keeps_nothing(path: Path):
    """With NullPool each connection is set up anew."""
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    configure_sqlite(engine)
    for _ in range(2):
        with Session(engine) as session:
            with session.begin_nested():
                session.add(Article(id=1, title="one"))
            session.rollback()
    Collection("docs", engine, model=DeterministicModel()).embed("1", "one")

    assert (committed(path), committed(path, TITLES)) == ([("1",)], [])


@pytest.fixture(params=["static", "default"])
def memory(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A database in memory, configured: one connection, at least for one thread."""
    options: dict[str, Any] = {
        "static": {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}},
        "default": {},
    }[request.param]
    engine = create_engine("sqlite://", **options)
    configure_sqlite(engine)
    migrate(engine)
    HostBase.metadata.create_all(engine)
    yield engine
    engine.dispose()


def test_a_database_in_memory(memory: Engine):
    """Sessions and collections on its one connection follow each other, and roll back whole."""
    on_engine = Collection("docs", memory, model=DeterministicModel())
    on_engine.embed("1", "one")
    with Session(memory) as session:
        docs = Collection("docs", session, model=DeterministicModel())
        with session.begin_nested():
            docs.embed("2", "two")
            session.add(Article(id=1, title="one"))
        with pytest.raises(BindingError, match="Pass the session"):
            on_engine.embed("3", "three")
        assert docs.ids() == ["1", "2"]
        session.rollback()
    on_engine.embed("3", "three")

    assert on_engine.ids() == ["1", "3"]
    assert rows_of(memory, "SELECT * FROM articles") == []


@pytest.mark.parametrize("way", ["async engine", "its synchronous engine"])
def test_an_asynchronous_engine(way: str, path: Path):
    """With aiosqlite transactions are as real."""

    async def main() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        configure_sqlite(engine if way == "async engine" else engine.sync_engine, snapshot=True)
        async with AsyncSession(engine) as session:
            docs = AsyncCollection("docs", session, model=DeterministicModel())
            async with session.begin_nested():
                session.add(Article(id=1, title="one"))
                await docs.embed("1", "one")
            await session.rollback()
            await docs.embed("2", "two")
            await session.commit()
            before = await docs.ids()
            write(path, "UPDATE embeddings SET id = '3'")
            assert await docs.ids() == before
            assert [entry.id for entry in await docs.similar("two")] == ["2"]
            await session.rollback()
            assert await docs.ids() == ["3"]
            await session.execute(text("CREATE TABLE more (x)"))
            await session.rollback()
        on_engine = AsyncCollection("docs", engine, model=DeterministicModel())
        await asyncio.gather(*(on_engine.embed(f"t{i}", f"text {i}") for i in range(10)))
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(text(NEW))
        await engine.dispose()

    asyncio.run(main())

    assert len(committed(path)) == 11
    assert committed(path, TITLES) == [("new",)]
    assert committed(path, "SELECT name FROM sqlite_master WHERE name = 'more'") == []


def test_an_asynchronous_engine_without_snapshots(path: Path):
    """Reads see what is committed, and writers who have read wait for each other."""

    async def main() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
        configure_sqlite(engine)
        async with AsyncSession(engine) as session:
            assert (await session.execute(text(TITLES))).all() == []
            write(path, NEW)
            assert (await session.execute(text(TITLES))).all() == [("new",)]
            async with session.begin_nested():
                session.add(Article(id=1, title="one"))
            await session.rollback()

        async def work(number: int) -> None:
            for i in range(5):
                async with AsyncSession(engine) as session:
                    docs = AsyncCollection("docs", session, model=DeterministicModel())
                    await docs.similar("text")
                    (await session.get_one(Article, 9)).title += "."
                    await docs.embed(f"{number}-{i}", f"text {number} {i}")
                    await session.commit()

        await asyncio.gather(*map(work, range(8)))
        await engine.dispose()

    asyncio.run(main())

    assert len(committed(path)) == 40
    assert len(committed(path, TITLES)) == 1


def test_an_asynchronous_commit_that_fails_is_not_made_durable(path: Path):
    """The next user of the pooled connection does not commit what failed."""

    async def main() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}", pool_size=1, max_overflow=0)
        event.listen(
            engine.sync_engine,
            "connect",
            lambda driver, _: driver.cursor().execute("PRAGMA foreign_keys = ON"),
        )
        configure_sqlite(engine)
        async with AsyncSession(engine) as session:
            session.add(Shelf(id=1, collection_id=12345))
            with pytest.raises(IntegrityError):
                await session.commit()
        async with AsyncSession(engine) as session:
            session.add(Article(id=1, title="one"))
            await session.commit()
        await engine.dispose()

    asyncio.run(main())

    assert committed(path, "SELECT * FROM shelves") == []
    assert committed(path, TITLES) == [("one",)]


def test_postgresql_is_left_alone(postgresql_engine: Engine):
    """An engine on another database is as it was."""
    other = create_engine(postgresql_engine.url)
    configure_sqlite(other, snapshot=True)
    statements: list[str] = []
    event.listen(other, "before_cursor_execute", lambda *given: statements.append(given[2]))
    with Session(other) as session:
        with session.begin_nested():
            Collection("docs", session, model=DeterministicModel()).embed("1", "one")
        session.rollback()
        assert Collection.names(session) == []
    other.dispose()

    assert not [sql for sql in statements if sql.startswith(("BEGIN", "COMMIT"))]


@pytest.mark.parametrize("kind", ["session", "connection", "sessionmaker", "url", "nothing"])
def test_what_is_no_engine(kind: str, engine: Engine):
    """It is refused with an error of its own, as by `migrate`."""
    with engine.connect() as connection, Session(engine) as session:
        others: dict[str, Any] = {
            "session": session,
            "connection": connection,
            "sessionmaker": sessionmaker(engine),
            "url": str(engine.url),
            "nothing": None,
        }
        with pytest.raises(TypeError, match="configure_sqlite"):
            configure_sqlite(others[kind])


def test_migrating_by_a_configured_engine(tmp_path: Path, snapshot: bool):
    """The tables come, a failure leaves nothing, and the caller's rollback takes them back."""
    path = tmp_path / "new.db"
    engine = create_engine(f"sqlite:///{path}")
    configure_sqlite(engine, snapshot=snapshot)
    names = "SELECT name FROM sqlite_master"
    write(path, "CREATE VIEW embeddings_log AS SELECT 1 AS one")
    with pytest.raises((DBAPIError, SchemaError)):
        migrate(engine)
    assert committed(path, names) == [("embeddings_log",)]
    write(path, "DROP VIEW embeddings_log")

    with engine.connect() as connection:
        migrate(connection)
        connection.execute(text("CREATE TABLE host (x)"))
        connection.rollback()
    assert committed(path, names) == []
    in_threads(lambda _: migrate(engine), 4)
    in_threads(lambda _: migrate(engine), 2)
    docs = Collection("docs", engine, model=DeterministicModel())
    docs.embed("1", "one")
    for _ in range(3):
        docs.similar("one")
    assert docs.status().strategy == "matrix"
    with pytest.raises(SchemaError):
        embeddings.downgrade(engine)
    assert docs.status().strategy == "matrix"
    embeddings.downgrade(engine, drop_rows=True)
    engine.dispose()

    assert not {"embeddings", "collections"} & {name for (name,) in committed(path, names)}


# Without it the library still tells the truth


HISTORY = (
    "INSERT INTO embeddings (collection_id, id, embedding) SELECT 1, 'new', embedding "
    "FROM embeddings WHERE id = '1'",
    "DELETE FROM embeddings WHERE id = '2'",
    "UPDATE embeddings SET id = 'renamed' WHERE id = '3'",
    "UPDATE embeddings SET collection_id = 77 WHERE id = '4'",
    "DELETE FROM embeddings",
)


@pytest.mark.parametrize("kind", ["plain", "configured", "snapshot"])
def test_a_search_returns_what_the_session_sees(kind: str, engine: Engine, path: Path):
    """Whatever is committed beside a session's transaction, a search and a SELECT agree."""
    if kind != "plain":
        configure_sqlite(engine, snapshot=kind == "snapshot")
    with Session(engine) as session:
        docs = Collection("docs", session, model=DeterministicModel())
        docs.embed_multi([(str(i), f"text {i}") for i in range(20)])
        session.commit()
        for statement in HISTORY:
            expected = visible(docs, session)
            assert docs.status().strategy in {"scan", "matrix"}
            write(path, statement)
            if kind == "snapshot":
                assert visible(docs, session) == expected
            visible(docs, session)
            session.begin_nested()
            visible(docs, session)
            if kind != "snapshot":  # one that is no longer the newest cannot be written to
                docs.embed("own", "text of its own")
                assert "own" in visible(docs, session)
            session.rollback()
            assert "own" not in visible(docs, session)
        session.rollback()


def visible(docs: Collection[Any], session: Session) -> set[str]:
    """Return the ids of a search, which are those of the collection that a SELECT sees."""
    seen = set(
        session.scalars(select(EmbeddingRecord.id).where(EmbeddingRecord.collection_id == docs.id))
    )
    assert {entry.id for entry in docs.similar("text", number=100)} == seen
    return seen


@pytest.mark.parametrize("real", [False, True], ids=["plain", "configured"])
def test_a_search_returns_whole_rows_while_others_write(real: bool, engine: Engine, path: Path):
    """Beside a writer each result is a row that was there: its content fits its id."""
    if real:
        configure_sqlite(engine)
    writer = Collection("docs", engine, model=DeterministicModel())
    writer.embed_multi([(str(i), f"text {i} of 0") for i in range(30)], store=True)
    done = threading.Event()

    def search() -> None:
        with Session(engine) as session:
            docs = Collection("docs", session, model=DeterministicModel())
            while not done.is_set():
                for entry in docs.similar("text", number=30):
                    assert str(entry.content).startswith(f"text {entry.id} of ")
                session.rollback()

    def work(thread: int) -> None:
        if thread:
            return search()
        try:
            for round_ in range(1, 6):
                for i in range(0, 30, 3):
                    writer.embed(str(i), f"text {i} of {round_}", store=True)
        finally:
            done.set()
        return None

    in_threads(work, 3)

    assert writer.count() == 30

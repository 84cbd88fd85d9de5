"""HNSW indexes on PostgreSQL: how they come and go, and what a search with one answers."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from threading import Event
from time import sleep
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from sqlalchemy import (
    BigInteger,
    Engine,
    Integer,
    String,
    Text,
    cast,
    create_engine,
    event,
    func,
    insert,
    literal,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import NullPool, QueuePool

import embeddings
from embeddings import (
    BindingError,
    Collection,
    DoesNotExist,
    EmbeddingRecord,
    EmbeddingsError,
    Entries,
    IndexInfo,
    IndexingError,
    InvalidQueryError,
    InvalidVectorError,
)
from embeddings.databases.postgresql import build as pgvector_build
from embeddings.databases.postgresql import index as pgvector_index
from embeddings.databases.postgresql import search as pgvector
from embeddings.databases.postgresql.conditions import once
from embeddings.overview import overview
from embeddings.testing import DeterministicModel
from tests.reaching import WAYS, new_database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import URL, Connection

    from embeddings.vectors import Float32

ROWS, CLUSTERS, DIMENSIONS = 4_000, 50, 48
FORCED = ("SET LOCAL enable_seqscan = off", "SET LOCAL enable_sort = off")
"""Makes an index pay for few rows and under any filter."""
SETTINGS = ("hnsw.ef_search", "hnsw.iterative_scan")


def drop_all(engine: Engine) -> None:
    """Drop the indexes of all collections, and rows deleted by others, which a build may see."""
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE collections, embeddings RESTART IDENTITY"))
        for name in connection.scalars(
            text(
                "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_am a ON a.oid = c.relam "
                "WHERE a.amname = 'hnsw'"
            )
        ).all():
            connection.execute(text(f"DROP INDEX {name}"))


@pytest.fixture
def host(postgresql_engine: Engine) -> Engine:
    """A host's engine on a database with empty tables and without an index."""
    drop_all(postgresql_engine)
    return postgresql_engine


@pytest.fixture
def pool(host: Engine) -> Iterator[Engine]:
    """An engine on the same database with a pool of two connections, which both can be held."""
    engine = create_engine(host.url, pool_size=2, max_overflow=0)
    yield engine
    engine.dispose()


def memory(pool: Engine) -> set[str | None]:
    """Return the memory for builds that the pool's connections have."""
    with pool.connect() as one, pool.connect() as other:
        return {setting(connection, "maintenance_work_mem") for connection in (one, other)}


def stored(
    db: Engine | Session | Connection | sessionmaker[Session],
    vectors: Any,
    name: str = "docs",
) -> Collection[str]:
    """Return a collection with these vectors under the ids 00000, 00001 and so on."""
    docs = Collection(name, db, model_id="a model")
    docs.store_vectors((f"{i:05d}", vector) for i, vector in enumerate(vectors))
    return docs


def some(count: int = 20, dimensions: int = 8, seed: int = 0) -> Float32:
    """Return random vectors, shape (count, dimensions)."""
    return np.random.default_rng(seed).standard_normal((count, dimensions)).astype("f4")


def clustered(count: int, seed: int, dimensions: int = DIMENSIONS) -> Float32:
    """Return vectors near to common centres, as texts about some subjects are."""
    centres = np.random.default_rng(1).standard_normal((CLUSTERS, dimensions))
    chance = np.random.default_rng(seed)
    chosen = centres[chance.integers(0, CLUSTERS, count)]
    return (chosen + 0.7 * chance.standard_normal((count, dimensions))).astype("f4")


def name_of(docs: Collection[Any]) -> str:
    """Return what the index of a collection is called in the database."""
    return f"idx_embeddings_{docs.id}_hnsw"


def indexes(engine: Engine) -> list[tuple[str, str]]:
    """Return the schemas and names of all HNSW indexes."""
    with engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT c.relnamespace::regnamespace::text, c.relname FROM pg_class c "
                "JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'hnsw' ORDER BY 1, 2"
            )
        )
        return [(schema, name) for schema, name in rows]


def setting(db: Session | Connection, name: str) -> str | None:
    value: str | None = db.scalar(text(f"SELECT current_setting('{name}', true)"))
    return value


@contextmanager
def counted(engine: Engine) -> Iterator[Session]:
    """Yield a session whose scans of indexes are counted from now on."""
    with ExitStack() as stack:  # whichever of the pool's connections the session will have
        idle = engine.pool.checkedin() if isinstance(engine.pool, QueuePool) else 0
        for connection in [stack.enter_context(engine.connect()) for _ in range(idle)]:
            connection.execute(text("SELECT pg_stat_force_next_flush()"))
            connection.commit()
    with Session(engine) as session:
        yield session


@contextmanager
def forced(engine: Engine) -> Iterator[Session]:
    """Yield a session in which an index is used wherever it can be."""
    with counted(engine) as session:
        for statement in FORCED:
            session.execute(text(statement))
        yield session


def scans(session: Session, docs: Collection[Any]) -> int:
    """Return how often the transaction of a counted session has read the collection's index."""
    info = docs.index_info()
    assert info is not None
    count = text("SELECT coalesce(pg_stat_get_xact_numscans(to_regclass(:name)), 0)")
    return int(session.scalar(count, {"name": name_of(docs)}) or 0)


@contextmanager
def statements(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    """Yield the list of what is sent to the server in the block, with parameters."""
    seen: list[tuple[str, Any]] = []

    def note(*args: Any) -> None:
        seen.append((args[2], args[3]))

    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


def plan(session: Session, statement: str, parameters: Any) -> str:
    """Return PostgreSQL's plan for a statement as it was sent."""
    rows = session.connection().exec_driver_sql(f"EXPLAIN {statement}", parameters)
    return "\n".join(line for (line,) in rows)


def ids(entries: Entries[Any]) -> list[Any]:
    return [entry.id for entry in entries]


def recall(found: list[Entries[str]], right: list[Entries[str]]) -> float:
    shares = [
        len({*ids(a)} & {*ids(b)}) / len(b) for a, b in zip(found, right, strict=True) if len(b)
    ]
    return sum(shares) / len(shares)


# Create, drop, look at


@pytest.mark.parametrize("kind", ["engine", "sessionmaker", "session", "connection"])
def test_create_and_drop(host: Engine, kind: str):
    """An index is made, described and dropped through whatever the collection is bound to."""
    vectors = some()
    with Session(host) as session, host.connect() as connection:
        db: Any = {
            "engine": host,
            "sessionmaker": sessionmaker(host),
            "session": session,
            "connection": connection,
        }[kind]
        docs = stored(db, vectors)
        assert docs.index_info() is None

        info = docs.create_index()

        options = {"m": 16, "ef_construction": 128, "type": "vector"}
        assert info == IndexInfo("hnsw", options, 20, 8, info.bytes, True)
        assert info.bytes > 0
        assert docs.index_info() == info
        assert docs.drop_index() is True
        assert docs.index_info() is None
        assert docs.drop_index() is False


def test_options_of_the_build(host: Engine):
    """The options of the build are those of the index."""
    info = stored(host, some()).create_index(m=4, ef_construction=32)

    assert (info.options["m"], info.options["ef_construction"]) == (4, 32)


@pytest.mark.parametrize(
    ("dimensions", "type"),
    [(1, "vector"), (2000, "vector"), (2001, "halfvec"), (4000, "halfvec"), (4001, "bit")],
)
def test_type_of_the_index(host: Engine, dimensions: int, type: str):
    """Above 2,000 dimensions the index holds half precision, above 4,000 the signs."""
    info = stored(host, some(3, dimensions)).create_index()

    assert (info.options["type"], info.dimensions, info.is_valid) == (type, dimensions, True)


def test_on_a_session_it_is_part_of_the_transaction(host: Engine):
    """Rolled back, the index is gone; committed, it is there."""
    stored(host, some())
    with Session(host) as session:
        docs = Collection("docs", session)
        assert docs.create_index().is_valid
        session.rollback()
        assert docs.index_info() is None
        docs.create_index()
        session.commit()
        docs.drop_index()
        session.rollback()
        assert docs.index_info() is not None

    assert len(indexes(host)) == 1


def test_within_a_savepoint(host: Engine):
    """An index of a savepoint that is rolled back is gone; the rest of the transaction stays."""
    with Session(host) as session:
        docs = stored(session, some())
        savepoint = session.begin_nested()
        docs.create_index()
        savepoint.rollback()
        assert docs.index_info() is None
        session.commit()

    assert Collection("docs", host).count() == 20


def waits(engine: Engine) -> None:
    """Wait until a concurrent build has begun, and waits for other transactions."""
    phase = text(
        "SELECT count(*) FROM pg_stat_progress_create_index "
        "WHERE datname = current_database() AND phase LIKE 'waiting%'"
    )
    for _ in range(6_000):
        with engine.connect() as connection:
            if connection.scalar(phase):
                return
        sleep(0.01)
    raise AssertionError("no build is waiting")


def test_others_work_while_it_is_built_on_an_engine(host: Engine):
    """While a build goes on, others write and search; what they write is in the index."""
    vectors = some(30)
    docs = stored(host, vectors[:20])
    calls: list[tuple[int, int]] = []
    called = Event()

    def progress(done: int, total: int) -> None:
        calls.append((done, total))
        called.set()

    with ThreadPoolExecutor(1) as pool:
        with Session(host) as blocker:
            stored(blocker, vectors[:2], "others")
            build = pool.submit(docs.create_index, progress=progress)
            waits(host)
            docs.store_vectors((f"{i:05d}", vectors[i]) for i in range(20, 30))
            assert ids(docs.similar_by_vector(vectors[25], 1)) == ["00025"]
            assert docs.delete_items(["00000"]) == 1
            assert called.wait(60)
            assert not build.done()
            blocker.commit()
        assert build.result(60).is_valid

    assert calls[-1] == (20, 20)
    assert all(0 <= done <= total == 20 for done, total in calls)
    with forced(host) as session:
        for i in range(1, 30):
            found = Collection("docs", session).similar_by_vector(vectors[i], 1)
            assert ids(found) == [f"{i:05d}"]
            assert not found.exact


def at_once(host: Engine, names: list[str]) -> list[IndexInfo]:
    """Begin a build for each of the names while another transaction keeps them from ending."""
    with ThreadPoolExecutor(len(names)) as pool:
        with Session(host) as blocker:
            stored(blocker, some(2), "blocker")
            builds = [pool.submit(Collection(name, host).create_index) for name in names]
            waits(host)
            sleep(0.3)  # for the second one, which need not come this far
            blocker.commit()
        return [build.result(60) for build in builds]


def test_two_builds_for_one_collection_at_once(host: Engine):
    """Two who build the same index at once both get it."""
    stored(host, some())

    first, second = at_once(host, ["docs", "docs"])

    assert first == second
    assert first.is_valid


def test_a_build_with_other_options_at_once(host: Engine):
    """Who comes second is told that the index is another, as who comes later is."""
    docs = stored(host, some())
    with ThreadPoolExecutor(2) as pool:
        with Session(host) as blocker:
            stored(blocker, some(2), "blocker")
            first = pool.submit(docs.create_index, ef_construction=40)
            waits(host)
            second = pool.submit(Collection("docs", host).create_index, ef_construction=50)
            sleep(0.3)  # for the second one, which need not come this far
            blocker.commit()
        assert first.result(60).options["ef_construction"] == 40
        with pytest.raises(IndexingError, match="ef_construction=40"):
            second.result(60)


def test_who_waits_for_a_build_says_so(host: Engine, caplog: pytest.LogCaptureFixture):
    """And a collection that has no index is deleted meanwhile, and gets none afterwards."""
    caplog.set_level("INFO", "embeddings")
    docs = stored(host, some())
    without = stored(host, some(), "without")
    with ThreadPoolExecutor(3) as pool:
        with Session(host) as blocker:
            stored(blocker, some(2), "blocker")
            building = pool.submit(docs.create_index)
            waits(host)
            late = pool.submit(Collection("without", host).create_index)
            while "'without' waits for another build" not in caplog.text:
                sleep(0.01)
            name = name_of(without)
            pool.submit(without.delete).result(30)
            blocker.commit()
        assert building.result(60).is_valid
        with pytest.raises(DoesNotExist, match="'without'"):
            late.result(60)
    with host.connect() as connection:
        assert connection.scalar(text("SELECT to_regclass(:name)"), {"name": name}) is None


def test_a_build_that_waits_for_a_snapshot_says_so(host: Engine, caplog: pytest.LogCaptureFixture):
    """An idle transaction that has looked at anything holds it up, also within `reembed`."""
    caplog.set_level("INFO", "embeddings")
    docs = stored(host, some())
    other = DeterministicModel("other")
    told = "building the index of %r waits for the transactions that are open by now"

    def holds_up(build: Callable[[], Any], name: str) -> None:
        caplog.clear()
        snapshot = host.connect().execution_options(isolation_level="REPEATABLE READ")
        with ThreadPoolExecutor(1) as pool, snapshot as idle:
            idle.execute(text("SELECT count(*) FROM embeddings"))
            building = pool.submit(build)
            waits(host)
            assert [record.getMessage() for record in caplog.records][-1] == told % name
            idle.rollback()
            building.result(60)

    holds_up(docs.create_index, "docs")
    holds_up(lambda: docs.reembed(other, lambda ids: dict.fromkeys(ids, "a text")), "docs [next]")


def test_a_lock_that_another_connection_of_the_server_has(
    pool: Engine, caplog: pytest.LogCaptureFixture
):
    """A pooler of transactions is told of: who builds next would wait for a reason unknown."""
    docs = stored(pool, some())

    def lose(_connection: Any, cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if "pg_advisory_unlock" in statement:
            cursor.execute("SELECT pg_advisory_unlock_all()")

    event.listen(pool, "before_cursor_execute", lose)
    assert docs.create_index().is_valid
    event.remove(pool, "before_cursor_execute", lose)
    assert "still held" in caplog.text
    assert "PgBouncer" in caplog.text


def test_two_builds_for_two_collections_at_once(host: Engine):
    """Two who build indexes of different collections at once both get theirs."""
    stored(host, some())
    stored(host, some(20, 5), "others")

    infos = at_once(host, ["docs", "others"])

    assert [(info.dimensions, info.is_valid) for info in infos] == [(8, True), (5, True)]


@pytest.mark.parametrize("bound", ["engine", "session"])
def test_repeated_create_does_nothing(host: Engine, bound: str):
    """Where there is such an index already, it is returned as it is."""
    with Session(host) as session:
        docs = stored(host if bound == "engine" else session, some())
        first = docs.create_index()
        oid = text("SELECT to_regclass(:name)::oid::bigint")
        db = host.connect() if bound == "engine" else session.connection()
        before = db.scalar(oid, {"name": name_of(docs)})

        with statements(host) as sent:
            assert docs.create_index() == first

        assert db.scalar(oid, {"name": name_of(docs)}) == before
        assert not any("CREATE INDEX" in sql or "DROP INDEX" in sql for sql, _ in sent)
        if bound == "engine":
            db.close()


@pytest.mark.parametrize("options", [{"m": 8}, {"ef_construction": 64}])
@pytest.mark.parametrize("bound", ["engine", "session"])
def test_other_options_are_refused(host: Engine, bound: str, options: dict[str, Any]):
    """An index with other options stays, and the error says what it has and what to do."""
    with Session(host) as session:
        docs = stored(host if bound == "engine" else session, some())
        info = docs.create_index()

        with pytest.raises(IndexingError, match=r"m=16, ef_construction=128.*drop_index\(\)"):
            docs.create_index(**options)

        assert docs.index_info() == info


@pytest.mark.parametrize("bound", ["engine", "session"])
def test_an_invalid_index_is_built_anew(host: Engine, bound: str):
    """What a concurrent build that failed has left serves no search, and is replaced."""
    vectors = some()
    docs = stored(host, vectors)
    docs.create_index()
    name = name_of(docs)
    with host.begin() as connection:
        left = {"name": name}
        invalid = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass(:name)"
        connection.execute(text(invalid), left)
    info = docs.index_info()
    assert info is not None
    assert not info.is_valid
    assert docs.similar_by_vector(vectors[3], 5).exact

    with Session(host) as session:
        again = docs if bound == "engine" else Collection("docs", session)
        # Its options are no reason to refuse others.
        info = again.create_index(m=4, ef_construction=16)
        session.commit()

    assert (info.is_valid, info.options["m"], info.options["ef_construction"]) == (True, 4, 16)
    assert docs.index_info() == info


def in_the_way(docs: Collection[Any]) -> None:
    """Let a build of the collection's index fail: a table has its name."""
    with Session(docs.reference.sessions.bind(docs.reference.records)) as session:
        session.execute(text(f"CREATE TABLE {name_of(docs)} (id integer)"))
        session.commit()


@pytest.mark.parametrize("bound", ["engine", "session"])
def test_a_build_that_fails_leaves_nothing(host: Engine, bound: str):
    """What was in the way is no obstacle any more once it is gone."""
    docs = stored(host, some())
    in_the_way(docs)
    with Session(host) as session:
        own = docs if bound == "engine" else Collection("docs", session)
        with pytest.raises(DBAPIError, match="already exists"), session.begin_nested():
            own.create_index()
        assert own.index_info() is None
        assert own.count() == 20

    with host.begin() as connection:
        connection.execute(text(f"DROP TABLE {name_of(docs)}"))
    assert docs.create_index(m=4, ef_construction=16).is_valid


def test_a_build_that_fails_on_an_engine_puts_the_memory_back(pool: Engine):
    """The connection of a failed build goes back to the pool with the settings that it had."""
    docs = stored(pool, some())
    in_the_way(docs)

    with pytest.raises(DBAPIError, match="already exists"):
        docs.create_index(maintenance_work_mem="77MB")

    assert memory(pool) == {"64MB"}
    with pool.begin() as connection:
        connection.execute(text(f"DROP TABLE {name_of(docs)}"))


@pytest.mark.parametrize("with_progress", [False, True])
def test_a_build_whose_connection_is_lost(host: Engine, pool: Engine, with_progress: bool):
    """The error is the server's, and the next call builds what it left behind anew."""
    docs = stored(pool, some())
    progress = (lambda *_: None) if with_progress else None
    end = text(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_progress_create_index "
        "WHERE datname = current_database()"
    )
    with ThreadPoolExecutor(1) as threads, Session(host) as blocker:
        stored(blocker, some(2), "others")
        building = threads.submit(docs.create_index, maintenance_work_mem="77MB", progress=progress)
        waits(host)
        with host.connect() as connection:
            connection.execute(end)
        with pytest.raises(OperationalError, match="terminating connection"):
            building.result(60)
        blocker.rollback()

    info = docs.index_info()
    assert info is None or not info.is_valid
    assert docs.create_index().is_valid
    assert memory(pool) == {"64MB"}


@pytest.mark.parametrize("bound", ["engine", "session"])
def test_rows_of_other_dimensions_are_not_in_the_index(host: Engine, bound: str):
    """What others wrote, and what is deleted but seen by a transaction, is no obstacle."""
    vectors = some()
    docs = stored(host, vectors)
    odd = text("UPDATE embeddings SET embedding = '[1,2]' WHERE id IN ('00007', '00008')")
    with host.begin() as connection:
        connection.execute(odd)
    with host.connect() as other, Session(host) as session:
        other.execute(text("SELECT count(*) FROM embeddings"))  # it sees them until its end
        docs.delete_items(["00007"])
        own = docs if bound == "engine" else Collection("docs", session)
        if bound == "session":
            own.delete_items(["00008"])
        else:
            other.rollback()  # a concurrent build waits for every transaction
        assert own.create_index().is_valid
        session.commit()

    with forced(host) as session:
        found = Collection("docs", session).similar_by_vector(vectors[7], 3)
        assert not found.exact
        assert not {"00007", "00008"} & {*ids(found)}


def test_progress_that_raises(pool: Engine):
    """An error of the callback comes out, and the connection's settings are put back."""
    docs = stored(pool, some())

    def progress(done: int, total: int) -> None:
        raise ZeroDivisionError(done, total)

    with pytest.raises(ZeroDivisionError):
        docs.create_index(maintenance_work_mem="77MB", progress=progress)

    assert memory(pool) == {"64MB"}
    assert docs.create_index().is_valid


def test_a_build_is_stopped_with_its_progress(host: Engine, pool: Engine):
    """By Ctrl-C, say: the server builds on no longer, and the next call builds anew."""
    docs = stored(pool, some())

    def progress(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as threads, Session(host) as blocker:
        stored(blocker, some(2), "others")  # the build does not end before this
        building = threads.submit(docs.create_index, progress=progress)
        with pytest.raises(KeyboardInterrupt):
            building.result(30)
        with host.connect() as connection:
            builds = text(
                "SELECT count(*) FROM pg_stat_progress_create_index "
                "WHERE datname = current_database()"
            )
            assert connection.scalar(builds) == 0
        blocker.rollback()
    assert docs.create_index().is_valid


def test_progress_is_a_function_or_a_bar(host: Engine, capsys: pytest.CaptureFixture[str]):
    """As everywhere; anything else is refused before a build begins."""
    docs = stored(host, some())
    with statements(host) as sent, pytest.raises(TypeError, match="progress= takes a function"):
        docs.create_index(progress="bar")  # type: ignore[arg-type]
    assert sent == []
    assert docs.create_index(progress=True).is_valid
    assert capsys.readouterr().err.endswith("] 20 of 20\n")


def test_progress_never_falls(host: Engine, monkeypatch: pytest.MonkeyPatch):
    """Not either while a build that has all rows waits for those who began before it."""
    monkeypatch.setattr(pgvector_build, "POLL", 0.001)
    docs = stored(host, some(1_000, 48))
    phase = text("SELECT phase FROM pg_stat_progress_create_index")
    calls: list[int] = []
    with ExitStack() as stack, host.connect() as other:
        older = stack.enter_context(
            other.execution_options(isolation_level="REPEATABLE READ").begin()
        )
        other.execute(text("SELECT 1"))  # its snapshot is older than the index

        def progress(done: int, total: int) -> None:
            calls.append(done)
            with host.connect() as connection:
                if older.is_active and connection.scalar(phase) == "waiting for old snapshots":
                    older.rollback()

        docs.create_index(progress=progress)

    assert calls == sorted(calls)
    assert calls[-1] == 1_000


@pytest.mark.parametrize("set_by", ["nobody", "SET", "SET LOCAL"])
def test_memory_on_a_session_is_put_back(host: Engine, set_by: str):
    """After a build the session has the memory that its host had set."""
    with host.connect() as connection, Session(connection) as session:
        docs = stored(session, some())
        if set_by != "nobody":
            session.execute(text(f"{set_by} maintenance_work_mem = '33MB'"))
        with statements(host) as sent:
            docs.create_index(maintenance_work_mem="77MB")
        within = setting(session, "maintenance_work_mem")
        session.commit()
        after = setting(session, "maintenance_work_mem")
        session.execute(text("RESET maintenance_work_mem"))
        session.commit()

    assert any("77MB" in str(parameters) for _, parameters in sent)
    assert within == ("64MB" if set_by == "nobody" else "33MB")
    assert after == ("33MB" if set_by == "SET" else "64MB")


@pytest.mark.parametrize("with_progress", [False, True])
def test_memory_on_an_engine_is_put_back(pool: Engine, with_progress: bool):
    """After a build the pool's connections have the memory that they had."""
    docs = stored(pool, some())

    docs.create_index(
        maintenance_work_mem="77MB", progress=(lambda *_: None) if with_progress else None
    )

    assert memory(pool) == {"64MB"}


# What is refused


def test_options_that_mean_nothing(host: Engine, subtests: pytest.Subtests):
    """Options out of pgvector's range are refused before the database is asked."""
    options: Any
    for options in [
        {"m": 1},
        {"m": 101},
        {"m": 16.0},
        {"m": "16"},
        {"m": True},
        {"ef_construction": 3},
        {"ef_construction": 1001},
        {"ef_construction": "128; DROP TABLE embeddings"},
        {"m": 65},
        {"dimensions": 0},
        {"dimensions": 16_001},
        {"dimensions": "8"},
        {"m": 16, "ef_construction": 31},
    ]:
        with subtests.test(ascii(options)[:60]):
            docs = stored(host, some())

            with statements(host) as sent, pytest.raises(InvalidQueryError):
                docs.create_index(**options)

            assert sent == []
            assert docs.index_info() is None


def test_a_method_that_there_is_none_of(host: Engine):
    """The error names the one that there is."""
    docs = stored(host, some())
    with pytest.raises(IndexingError, match="'bits' on PostgreSQL: method='hnsw'"):
        docs.create_index(method="bits")
    assert docs.create_index(method="hnsw").method == "hnsw"


@pytest.mark.parametrize("amount", ["plenty", "-1MB", "", 5])
@pytest.mark.parametrize("bound", ["engine", "session"])
def test_memory_that_means_nothing(host: Engine, bound: str, amount: Any):
    """An amount of memory that PostgreSQL does not take is an error, and nothing is built."""
    docs = stored(host, some())
    with Session(host) as session:
        refused = docs if bound == "engine" else Collection("docs", session)
        with pytest.raises((DBAPIError, InvalidQueryError)):
            refused.create_index(maintenance_work_mem=amount)

    assert docs.index_info() is None
    assert docs.create_index().is_valid


@pytest.mark.parametrize("bound", ["engine", "session"])
def test_an_empty_collection(host: Engine, bound: str):
    """It has no dimensions to be indexed by unless they are given, as a migration does."""
    with Session(host) as session:
        docs = stored(host if bound == "engine" else session, some(1))
        docs.delete_items(["00000"])

        with pytest.raises(IndexingError, match="'docs' is empty: pass dimensions="):
            docs.create_index()
        assert docs.index_info() is None
        assert docs.drop_index() is False

        info = docs.create_index(dimensions=8)
        assert (info.rows, info.dimensions, info.is_valid) == (0, 8, True)
        assert docs.create_index(dimensions=8) == docs.create_index(dimensions=8)
        with pytest.raises(IndexingError, match=r"for 8 dimensions.*drop_index\(\)"):
            docs.create_index(dimensions=9)
        with pytest.raises(EmbeddingsError, match="8"):
            docs.store_vectors([("odd", [1.0, 2.0])])
        docs.store_vectors([("a", some(1)[0])])
        with pytest.raises(IndexingError, match=r"8 dimensions, and dimensions= is 9"):
            docs.create_index(dimensions=9)
        assert ids(docs.similar_by_vector(some(1)[0])) == ["a"]


@pytest.mark.parametrize("bound", ["engine", "session"])
def test_an_index_before_the_collection(host: Engine, bound: str):
    """With dimensions the collection is created, by the model that it was given."""
    with Session(host) as session:
        docs = Collection("docs", host if bound == "engine" else session, model_id="a model")

        assert docs.create_index(dimensions=8).is_valid

        assert (docs.count(), docs.model_id) == (0, "a model")
        docs.store_vectors([("a", some(1)[0])])


def test_a_small_collection_is_told_of_in_the_log(host: Engine, caplog: pytest.LogCaptureFixture):
    """Its index is built as any other, and a line says that reading is as fast."""
    caplog.set_level("INFO", "embeddings")
    stored(host, some()).create_index()

    assert [record.getMessage() for record in caplog.records][-1] == (
        "to read the 20 rows of 'docs' is as fast as its index, up to about 10000 rows"
    )


def test_very_many_indexes_are_told_of(
    host: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """From about 200 on, of which three are made here, with what to do about it."""
    monkeypatch.setattr(pgvector_index, "MANY", 3)
    many = [Collection(f"docs {n}", host, model_id="a model") for n in range(3)]
    for docs in many[:2]:
        docs.create_index(dimensions=8)
    assert docs.status().warning is None
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    many[2].create_index(dimensions=8)

    warning = many[0].status().warning
    assert warning is not None
    assert re.match("embeddings has 3 HNSW indexes: .* part the table by hash", warning)
    many[0].index_info()
    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert {*warnings} == {warning}
    assert warning in str(overview(host))


@pytest.mark.parametrize("bound", ["engine", "session"])
def test_a_missing_collection(host: Engine, bound: str):
    """There is no index of what does not exist, and none is created for it."""
    with Session(host) as session:
        docs = Collection("docs", host if bound == "engine" else session, model_id="a model")

        with pytest.raises(DoesNotExist, match="'docs'"):
            docs.create_index()
        with pytest.raises(DoesNotExist, match="'docs'"):
            docs.drop_index()

        assert docs.index_info() is None
    assert Collection.names(host) == []


def test_index_info_of_a_missing_collection_that_is_not_to_be_created(host: Engine):
    """With create=False the collection has to be there."""
    with pytest.raises(DoesNotExist, match="'docs'"):
        Collection("docs", host, create=False).index_info()


def test_over_four_thousand_dimensions(host: Engine):
    """An index of the signs finds candidates, whose scores are those of the stored vectors."""
    vectors = clustered(300, 5, 4096)
    docs = stored(host, vectors)
    assert docs.create_index().options["type"] == "bit"

    queries = clustered(10, 6, 4096)
    with forced(host) as session:
        own = Collection("docs", session)
        found = [own.similar_by_vector(query) for query in queries]
        assert scans(session, own) == len(queries)
        right = [own.similar_by_vector(query, exact=True) for query in queries]
        assert not any(entries.exact for entries in found)
        assert recall(found, right) >= 0.97
        scores = {entry.id: entry.score for entry in right[0]}
        assert [entry.score for entry in found[0]] == pytest.approx(
            [scores.get(entry.id, entry.score) for entry in found[0]], abs=1e-6
        )


def test_progress_needs_an_engine(host: Engine):
    """On a session there is no second connection to look from."""
    with Session(host) as session:
        docs = stored(session, some())

        with pytest.raises(BindingError, match="engine"):
            docs.create_index(progress=print)

        assert docs.index_info() is None


# What a search with an index does

Docs = Collection[str]


@pytest.fixture(scope="module")
def large(server: URL) -> Iterator[Engine]:
    """A database with an index on the clustered rows of docs; for reading only."""
    with new_database(server) as url:
        engine = create_engine(url)
        embeddings.migrate(engine)
        docs = Collection("docs", engine, model_id="a model")
        chance = np.random.default_rng(3)
        numbers = chance.permutation(ROWS).tolist()
        docs.store_vectors(
            (
                (f"{i:05d}", vector, {"percent": n % 100, "mille": n % 1000, "ten": n < 10})
                for i, (n, vector) in enumerate(zip(numbers, clustered(ROWS, 2), strict=True))
            ),
            batch_size=1000,
        )
        stored(engine, some(300, 5), "others").create_index()
        docs.create_index()
        with engine.begin() as connection:
            connection.execute(text("ANALYZE embeddings"))
        yield engine
        engine.dispose()


QUERIES = clustered(25, 4)


def test_the_statement_of_a_search_uses_the_index(large: Engine):
    """PostgreSQL's plan for the very statement that a search sends scans the index."""
    with forced(large) as session:
        docs = Collection("docs", session)
        with statements(large) as sent:
            assert not docs.similar_by_vector(QUERIES[0]).exact
        [search] = [pair for pair in sent if "<=>" in pair[0]]

        info = docs.index_info()
        assert info is not None
        assert f"Index Scan using {name_of(docs)}" in plan(session, *search)


@pytest.mark.parametrize("mode", ["auto", "force_generic_plan", "force_custom_plan"])
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_prepared_statement_uses_the_index(large: Engine, driver: str, mode: str):
    """The twelfth search on a connection uses the index as the first one did."""
    engine = create_engine(large.url.set(drivername=f"postgresql+{driver}"), poolclass=NullPool)
    with forced(engine) as session:
        session.execute(text(f"SET LOCAL plan_cache_mode = {mode}"))
        docs = Collection("docs", session)
        for count, query in enumerate(QUERIES[:12], start=1):
            found = docs.similar_by_vector(query)
            assert (len(found), found.exact) == (10, False)
            assert scans(session, docs) == count
        prepared = session.execute(
            text(
                "SELECT generic_plans > 0, custom_plans > 0 FROM pg_prepared_statements "
                "WHERE statement LIKE '%<=>%'"
            )
        ).all()

    plans = {
        "auto": (True, True),
        "force_generic_plan": (True, False),
        "force_custom_plan": (False, True),
    }
    if driver == "psycopg":
        assert [tuple(row) for row in prepared] == [plans[mode]]


def test_exact_uses_no_index(large: Engine):
    """With exact=True the index is not looked at, and the answer says that it is exact."""
    with forced(large) as session:
        docs = Collection("docs", session)
        for query in QUERIES:
            assert docs.similar_by_vector(query, exact=True).exact
        assert docs.similar_by_id("00001", exact=True).exact

        assert scans(session, docs) == 0


def test_without_an_index_every_answer_is_exact(host: Engine):
    """Without an index `exact` is True, whatever was asked for."""
    vectors = some()
    docs = stored(host, vectors)

    for exact in (None, False, True):
        found = docs.similar_by_vector(vectors[4], 5, exact=exact)
        assert (found[0].id, len(found), found.exact) == ("00004", 5, True)


@pytest.mark.parametrize("exact", [None, False])
def test_an_answer_that_may_be_of_the_index_is_not_exact(large: Engine, exact: bool | None):
    """Where an index may have served, `exact` is False; after a fall back it is True."""
    docs = Collection("docs", large)

    assert not docs.similar_by_vector(QUERIES[0], exact=exact).exact
    assert docs.similar_by_vector(QUERIES[0], exact=exact, where={"mille": 3}).exact
    assert docs.similar_by_vector(QUERIES[0], 0, exact=exact).exact
    assert docs.similar_by_vector(QUERIES[0], ROWS + 1, exact=exact).exact


def test_entries_keep_what_they_were(large: Engine):
    """An answer is a list of entries with ids, scores and metadata as stored."""
    docs = Collection("docs", large)
    record = docs.get("00123")
    assert record is not None

    found = docs.similar_by_vector(record.embedding, 3)

    assert isinstance(found, list)
    assert (found[0].id, found[0].metadata, found[0].content) == ("00123", record.metadata_, None)
    assert found[0].score == pytest.approx(1.0, abs=1e-5)
    scores = [entry.score for entry in found]
    assert scores == sorted(scores, reverse=True)


def test_recall_by_default(large: Engine):
    """At least 99 of 100 of the ten best are found."""
    with forced(large) as session:
        docs = Collection("docs", session)
        found = [docs.similar_by_vector(query) for query in QUERIES]
        assert scans(session, docs) == len(QUERIES)
        right = [docs.similar_by_vector(query, exact=True) for query in QUERIES]

    assert not any(entries.exact for entries in found)
    assert recall(found, right) >= 0.99


FILTERS: dict[str, Callable[[Docs], dict[str, Any]]] = {
    "where a dict": lambda _: {"where": {"percent": 7}},
    "where an expression": lambda _: {"where": func.right(EmbeddingRecord.id, 2) == "07"},
    "among keys": lambda docs: {"among": docs.ids()[::100]},
    "among a SELECT": lambda docs: {
        "among": select(EmbeddingRecord.id).where(
            EmbeddingRecord.collection_id == docs.id, EmbeddingRecord.id.like("%07")
        )
    },
    "prefix": lambda _: {"prefix": "0123"},
}


@pytest.mark.parametrize("few", [0, pgvector.FEW], ids=["by the index", "by reading"])
@pytest.mark.parametrize("kind", FILTERS)
def test_recall_under_a_filter(large: Engine, kind: str, few: int, monkeypatch: pytest.MonkeyPatch):
    """At least 99 of 100 of the ten best of one row in a hundred are found."""
    monkeypatch.setattr(pgvector, "FEW", few)
    with forced(large) as session:
        docs = Collection("docs", session)
        filters = FILTERS[kind](docs)
        queries = QUERIES[:5] if few else QUERIES
        found = [docs.similar_by_vector(query, **filters) for query in queries]
        right = [docs.similar_by_vector(query, exact=True, **filters) for query in queries]
        scanned = scans(session, docs)

    assert {len(entries) for entries in [*found, *right]} == {10}
    assert recall(found, right) >= 0.99
    if few:
        assert all(entries.exact for entries in found)
    else:
        assert scanned or kind in {"among keys", "among a SELECT", "prefix"}


NUMBERS = [
    # filters, number, offset, the number of results
    ({"where": {"percent": 7}}, 10, 0, 10),
    ({"where": {"percent": 7}}, 40, 0, 40),
    ({"where": {"percent": 7}}, 41, 0, 40),
    ({"where": {"percent": 7}}, 10, 35, 5),
    ({"where": {"mille": 7}}, 10, 0, 4),
    ({"where": {"mille": 7}}, 4, 0, 4),
    ({"where": {"mille": 7}}, 1, 3, 1),
    ({"where": {"ten": True}}, 10, 0, 10),
    ({"where": {"ten": True}}, 11, 0, 10),
    ({"where": {"percent": 100}}, 10, 0, 0),
    ({"prefix": "0123"}, 10, 0, 10),
    ({"prefix": "01234"}, 10, 0, 1),
    ({"among": [f"{i:05d}" for i in range(0, ROWS, 100)]}, 40, 0, 40),
    ({"among": [f"{i:05d}" for i in range(0, ROWS, 400)]}, 10, 0, 10),
    ({}, 10, 250, 10),
    ({}, 10, 1_500, 10),
    ({}, 1_500, 0, 1_500),
    ({}, ROWS, 0, ROWS),
    ({}, 10, ROWS - 5, 5),
    ({}, 10, ROWS, 0),
    ({"min_score": -1.0}, 1_200, 0, 1_200),
]


def test_never_fewer_than_there_are(large: Engine, subtests: pytest.Subtests):
    """A search returns `number` rows while enough of them match, however rare they are."""
    filters: Any
    number: Any
    offset: Any
    count: Any
    for filters, number, offset, count in NUMBERS:
        with subtests.test(ascii(filters)[:60]):
            with forced(large) as session:
                docs = Collection("docs", session)
                found = docs.similar_by_vector(QUERIES[1], number, offset=offset, **filters)
                right = docs.similar_by_vector(
                    QUERIES[1], number, offset=offset, exact=True, **filters
                )

            assert len(found) == len(right) == count
            assert len({*ids(found)}) == count
            if found.exact:
                assert ids(found) == ids(right)
            else:
                assert recall([found], [right]) >= 0.9


def test_min_score_of_an_index(large: Engine):
    """What scores less is left out, and all that is left scores as much."""
    with forced(large) as session:
        docs = Collection("docs", session)
        best = docs.similar_by_vector(QUERIES[2], 20, exact=True)
        floor = (best[4].score + best[5].score) / 2

        found = docs.similar_by_vector(QUERIES[2], 20, min_score=floor)

    assert ids(found) == ids(best)[:5]


@pytest.mark.parametrize("bound", ["engine", "session"])
def test_zero_vectors(host: Engine, bound: str):
    """Zero vectors, which an index leaves out, are found where they belong, with score 0."""
    vectors = np.abs(some(50))
    vectors[10:40] = 0
    docs = stored(host, vectors)
    docs.create_index()

    with forced(host) as session:
        used = docs if bound == "engine" else Collection("docs", session)
        for number in (10, 20, 21, 50):
            found = used.similar_by_vector(vectors[0], number)
            right = used.similar_by_vector(vectors[0], number, exact=True)
            assert [e.score for e in found] == [e.score for e in right]
            assert len({*ids(found)}) == number
        assert [entry.score for entry in found[20:]] == [0.0] * 30
        nothing = used.similar_by_vector(np.zeros(8), 15)
        assert (len(nothing), {entry.score for entry in nothing}) == (15, {0.0})


def test_only_zero_vectors(host: Engine):
    """An index without a single entry hides no row."""
    docs = stored(host, np.zeros((5, 8)))
    docs.create_index()

    assert ids(docs.similar_by_vector(np.ones(8), 3)) == ["00000", "00001", "00002"]


# Half precision


def test_candidates_of_half_precision_are_scored_exactly(host: Engine):
    """Above 2,000 dimensions scores and order are those of the stored vectors."""
    vectors = clustered(120, 5, 2100)
    # So near to each other that half precision cannot tell them apart.
    vectors[1:14] = vectors[0] * (1 + 3e-4 * some(13, 2100))
    docs = stored(host, vectors)
    assert docs.create_index().options["type"] == "halfvec"

    with forced(host) as session:
        own = Collection("docs", session)
        for query in (vectors[0], vectors[60], clustered(1, 6, 2100)[0]):
            found = own.similar_by_vector(query)
            right = own.similar_by_vector(query, exact=True)
            assert not found.exact
            assert ids(found) == ids(right)
            assert [entry.score for entry in found] == pytest.approx(
                [entry.score for entry in right], abs=1e-6
            )
        assert scans(session, own) == 3


@pytest.mark.parametrize("scale", [1e6, 1e-9], ids=["large", "tiny"])
def test_length_of_vectors_of_half_precision(host: Engine, scale: float):
    """Cosine similarity is of directions: values that half precision cannot hold do not matter."""
    vectors = clustered(60, 5, 2100)
    vectors[::2] *= scale
    docs = stored(host, vectors)

    assert docs.create_index().is_valid

    with forced(host) as session:
        own = Collection("docs", session)
        for query in vectors[:6]:
            found = own.similar_by_vector(query, 10)
            right = own.similar_by_vector(query, 10, exact=True)
            assert recall([found], [right]) >= 0.99


# The host's settings


@contextmanager
def fresh(engine: Engine) -> Iterator[Session]:
    """Yield a session on one new connection, which has not loaded pgvector yet."""
    own = create_engine(engine.url, poolclass=NullPool)
    with own.connect() as connection, Session(connection) as session:
        yield session


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize(
    ("commands", "within", "after"),
    [
        ([], ("40", "off"), ("40", "off")),
        (
            ["SET hnsw.ef_search = 77", "SET hnsw.iterative_scan = strict_order", "COMMIT"],
            ("77", "strict_order"),
            ("77", "strict_order"),
        ),
        (
            ["SET hnsw.ef_search = 77", "SET hnsw.iterative_scan = strict_order"],
            ("77", "strict_order"),
            ("77", "strict_order"),
        ),
        (
            ["SET LOCAL hnsw.ef_search = 77", "SET LOCAL hnsw.iterative_scan = strict_order"],
            ("77", "strict_order"),
            ("40", "off"),
        ),
        (
            ["SET hnsw.ef_search = 55", "COMMIT", "SET LOCAL hnsw.ef_search = 77"],
            ("77", "off"),
            ("55", "off"),
        ),
    ],
    ids=["nothing", "SET", "SET, not committed", "SET LOCAL", "both"],
)
def test_settings_are_as_found_after_a_search(
    large: Engine, commands: list[str], within: Any, after: Any, loaded: bool
):
    """Each search of a session leaves its settings as the host has set them, or not."""
    with fresh(large) as session:
        if loaded:
            session.execute(text("SELECT '[1]'::vector <=> '[1]'"))
        for command in commands:
            if command == "COMMIT":
                session.commit()
            else:
                session.execute(text(command))
        docs = Collection("docs", session)
        for options in ({}, {"where": {"mille": 1}}, {"number": 1500}, {"number": 0}):
            docs.similar_by_vector(QUERIES[0], **options)
            if "number" not in options or loaded:
                assert tuple(setting(session, name) for name in SETTINGS) == within
        docs.similar_by_id("00001")
        assert tuple(setting(session, name) for name in SETTINGS) == within
        session.commit()
        assert tuple(setting(session, name) for name in SETTINGS) == after


def test_a_setting_survives_a_rollback_after_a_search(large: Engine):
    """A rollback gives the session the settings that it had before the transaction."""
    with fresh(large) as session:
        session.execute(text("SET hnsw.ef_search = 77"))
        session.commit()
        Collection("docs", session).similar_by_vector(QUERIES[0])
        session.rollback()

        assert setting(session, "hnsw.ef_search") == "77"


@pytest.mark.parametrize("savepoint", [False, True])
def test_settings_are_as_found_after_a_search_that_fails(large: Engine, savepoint: bool):
    """A search that times out changes no setting, as the host's rollback shows."""
    slow = cast(func.pg_sleep(0.2), Text) == literal("")
    timeout = text("SET LOCAL statement_timeout = '400ms'")
    with fresh(large) as session:
        session.execute(text("SET hnsw.ef_search = 77"))
        session.execute(text("SET hnsw.iterative_scan = strict_order"))
        session.commit()
        docs = Collection("docs", session)
        if savepoint:
            session.execute(text("SET LOCAL hnsw.ef_search = 66"))
            inner = session.begin_nested()
            session.execute(timeout)
            with pytest.raises(OperationalError, match="timeout"):
                docs.similar_by_vector(QUERIES[0], where=slow)
            inner.rollback()
        else:
            session.execute(timeout)
            with pytest.raises(OperationalError, match="timeout"):
                docs.similar_by_vector(QUERIES[0], where=slow)
            session.rollback()

        expected = ("66" if savepoint else "77", "strict_order")
        assert tuple(setting(session, name) for name in SETTINGS) == expected
        assert len(docs.similar_by_vector(QUERIES[0])) == 10
        assert tuple(setting(session, name) for name in SETTINGS) == expected


def test_an_engine_keeps_its_settings(pool: Engine):
    """The connections of an engine have their own settings after a search."""
    vectors = some()
    docs = stored(pool, vectors)
    docs.create_index()
    with pool.connect() as one, pool.connect() as other:
        for connection in (one, other):
            connection.execute(text("SET hnsw.ef_search = 77"))
            connection.commit()

    assert len(docs.similar_by_vector(vectors[0])) == 10

    with pool.connect() as one, pool.connect() as other:
        assert {setting(one, "hnsw.ef_search"), setting(other, "hnsw.ef_search")} == {"77"}


def test_a_connection_that_commits_each_statement(large: Engine):
    """Where there are no transactions the search is as good, and leaves no setting behind."""
    engine = create_engine(large.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        docs = Collection("docs", connection)
        found = [docs.similar_by_vector(query) for query in QUERIES]
        right = [docs.similar_by_vector(query, exact=True) for query in QUERIES]
        after = tuple(setting(connection, name) for name in SETTINGS)

    assert recall(found, right) >= 0.99
    assert after == ("40", "off")


def test_in_a_transaction_that_only_reads(large: Engine):
    """An index serves a transaction that must not write."""
    with forced(large) as session:
        session.execute(text("SET TRANSACTION READ ONLY"))
        docs = Collection("docs", session)

        assert len(docs.similar_by_vector(QUERIES[0])) == 10
        assert scans(session, docs) == 1


# Collections side by side


def test_collections_of_different_dimensions(large: Engine):
    """Each collection is searched in an index of its own."""
    with forced(large) as session:
        docs, others = Collection("docs", session), Collection("others", session)

        docs.similar_by_vector(QUERIES[0])
        assert (scans(session, docs), scans(session, others)) == (1, 0)
        found = others.similar_by_vector(some(300, 5)[17], 3)
        assert (scans(session, docs), scans(session, others)) == (1, 1)

    assert (found[0].id, found.exact) == ("00017", False)
    assert len(indexes(large)) == 2


def test_an_index_keeps_other_collections_free(host: Engine):
    """A collection of other dimensions is written and searched beside an indexed one."""
    stored(host, some()).create_index()

    others = stored(host, some(20, 3), "others")

    found = others.similar_by_vector(some(20, 3)[9], 2)
    assert (found[0].id, found.exact) == ("00009", True)


def test_schema_translate_map(host: Engine, worker_id: str):
    """An index is made, used and dropped in the schema that the host's engine names."""
    names = [f"tenant_{worker_id}_{i}" for i in range(2)]
    with host.begin() as connection:
        for name in names:
            connection.execute(text(f"CREATE SCHEMA {name}"))
    try:
        engines = [host.execution_options(schema_translate_map={None: name}) for name in names]
        for engine in engines:
            embeddings.migrate(engine)
        one, two = (stored(engine, some()) for engine in engines)
        assert one.id == two.id

        one.create_index()

        assert indexes(host) == [(names[0], name_of(one))]
        assert two.index_info() is None
        assert two.similar_by_vector(some()[3], 1).exact
        with forced(engines[0]) as session:
            own = Collection("docs", session)
            found = own.similar_by_vector(some()[3], 2)
            assert (found[0].id, found.exact) == ("00003", False)
            count = text("SELECT pg_stat_get_xact_numscans(to_regclass(:name))")
            assert session.scalar(count, {"name": f"{names[0]}.{name_of(one)}"}) == 1
        two.create_index()
        assert one.drop_index()
        assert indexes(host) == [(names[1], name_of(one))]
        two.delete()
        assert indexes(host) == []
    finally:
        with host.begin() as connection:
            for name in names:
                connection.execute(text(f"DROP SCHEMA {name} CASCADE"))


def test_search_path(host: Engine, worker_id: str):
    """The index of a table of the same name, further down the search path, is another's."""
    name = f"path_{worker_id}"
    theirs = stored(host, some())
    info = theirs.create_index()
    with host.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {name}"))
    path = f"-c search_path={name},public"
    engine = create_engine(host.url, connect_args={"options": path}, poolclass=NullPool)
    try:
        with host.begin() as connection:
            embeddings.migrate(
                connection.execution_options(schema_translate_map={None: name}),
            )
        ours = stored(engine, some())
        assert ours.id == theirs.id

        assert ours.index_info() is None
        assert ours.drop_index() is False
        assert ours.similar_by_vector(some()[0], 1).exact
        assert ours.create_index().is_valid
        assert indexes(host) == [(name, name_of(theirs)), ("public", name_of(theirs))]
        ours.delete()
        assert indexes(host) == [("public", name_of(theirs))]
        assert theirs.index_info() == info
    finally:
        with host.begin() as connection:
            connection.execute(text(f"DROP SCHEMA {name} CASCADE"))


# The rows change


def test_what_is_written_after_the_build_is_seen(host: Engine):
    """Rows that are added, changed and deleted are found as they are now."""
    vectors = some(60)
    docs = stored(host, vectors[:40])
    docs.create_index()

    docs.store_vectors([("new", vectors[50]), ("00003", vectors[51])])
    docs.delete_items(["00004"])

    with forced(host) as session:
        own = Collection("docs", session)
        assert own.similar_by_vector(vectors[50], 1)[0].id == "new"
        assert own.similar_by_vector(vectors[51], 1)[0].id == "00003"
        assert own.similar_by_vector(vectors[3], 40)[0].score < 0.999
        found = own.similar_by_vector(vectors[4], 39)
        assert (len(found), "00004" in ids(found)) == (39, False)
        # And within the transaction, before anybody else sees it.
        own.store_vectors([("mine", vectors[55])])
        assert own.similar_by_vector(vectors[55], 1)[0].id == "mine"
        assert scans(session, own) > 0
        session.rollback()
    assert docs.similar_by_vector(vectors[55], 1)[0].id != "mine"


def test_vectors_that_are_embedded_again(host: Engine):
    """A model that has changed replaces every vector, and the index has the new ones."""

    class Model(DeterministicModel):
        version = 1

        def embed_batch(self, items: Any) -> Any:
            return super().embed_batch([f"version {self.version} of {item}" for item in items])

    model = Model()
    docs = Collection("docs", host, model=model)
    texts = [(f"{i:05d}", f"word{i} word{i % 7}") for i in range(60)]
    docs.embed_multi(texts, store=True)
    docs.create_index()
    model.version = 2

    docs.embed_multi(texts, store=True, force=True)

    assert Collection("docs", host).index_info() == replace(
        docs.create_index(),
        bytes=docs.create_index().bytes,
    )
    with forced(host) as session:
        own = Collection("docs", session, model=model)
        for id, value in texts[::7]:
            found = own.similar(value, 5)
            assert not found.exact
            assert found[0].id == id
            assert found[0].score == pytest.approx(1.0, abs=1e-5)
            assert recall([found], [own.similar(value, 5, exact=True)]) == 1.0
        assert scans(session, own) == len(texts[::7])


def test_a_collection_that_was_emptied_has_an_index_still(host: Engine):
    """An index that is left takes no vectors of other dimensions, until it is dropped."""
    docs = stored(host, some())
    docs.create_index()
    docs.delete_items(docs.ids())
    rows = [("a", [1.0, 2.0, 3.0]), ("b", [3.0, 2.0, 1.0])]

    with pytest.raises(InvalidVectorError, match="3 dimensions do not fit"):
        docs.store_vectors(rows)

    assert docs.drop_index()
    docs.store_vectors(rows)
    assert ids(docs.similar_by_vector([1.0, 2.0, 3.0], 1)) == ["a"]


@pytest.mark.parametrize("bound", ["engine", "session"])
def test_deleting_the_collection_drops_its_index(host: Engine, bound: str):
    """With the collection its index goes, and no other."""
    docs = stored(host, some())
    docs.create_index()
    others = stored(host, some(20, 3), "others")
    others.create_index()
    with Session(host) as session:
        gone = docs if bound == "engine" else Collection("docs", session)
        gone.delete()
        session.commit()

    assert indexes(host) == [("public", f"idx_embeddings_{others.id}_hnsw")]
    again = stored(host, some(5, 4))
    assert again.index_info() is None
    assert len(again.similar_by_vector(some(5, 4)[0], 5)) == 5


def test_deleting_that_is_rolled_back_keeps_the_index(host: Engine):
    """The index comes back with the collection."""
    info = stored(host, some()).create_index()
    with Session(host) as session:
        docs = Collection("docs", session)
        docs.delete()
        session.rollback()

    assert Collection("docs", host).index_info() == info


def test_collections_with_indexes_are_deleted_at_once(host: Engine):
    """Those who delete different collections at the same time do not stand in each other's way."""
    names = [f"c{i}" for i in range(6)]
    for name in names:
        stored(host, some(), name).create_index()

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: Collection(name, host).delete(), names))

    assert Collection.names(host) == []
    assert indexes(host) == []


@pytest.mark.parametrize("bound", ["engine", "session"])
def test_words_go_with_the_rows_of_a_deleted_collection(host: Engine, bound: str):
    """No row is written anew to be deleted then, which would put it into the index once more."""
    docs = Collection("docs", host, model=DeterministicModel())
    docs.embed_multi([("a", "a happy hound")], store=True)
    docs.create_index()
    docs.create_text_index()
    with Session(host) as session, statements(host) as sent:
        (docs if bound == "engine" else Collection("docs", session)).delete()
        session.commit()

    assert not [sql for sql, _ in sent if sql.startswith("UPDATE")]
    assert indexes(host) == []
    again = Collection("docs", host, model=DeterministicModel())
    again.embed("a", "a happy hound", store=True)
    assert again.create_text_index() == 0
    assert ids(again.similar("hound", words=True)) == ["a"]


def test_renaming_keeps_the_index(host: Engine):
    """An index belongs to the collection, whatever its name."""
    docs = stored(host, some())
    info = docs.create_index()

    docs.rename("papers")

    assert docs.index_info() == info
    assert Collection("papers", host).index_info() == info
    with forced(host) as session:
        papers = Collection("papers", session)
        assert not papers.similar_by_vector(some()[0], 3).exact
        assert scans(session, papers) == 1


# As a part of the host's statement


def test_matches_is_exact(large: Engine):
    """Asked for, a selectable is exact and uses no index."""
    with forced(large) as session:
        docs = Collection("docs", session)
        found = docs.matches_by_vector(QUERIES[0], exact=True)
        rows = session.execute(select(found).order_by(found.c.score.desc(), found.c.id)).all()
        right = docs.similar_by_vector(QUERIES[0], exact=True)

        assert [row.id for row in rows] == ids(right)
        assert scans(session, docs) == 0
    assert "AS VECTOR(" not in str(found.compile(dialect=large.dialect))


@pytest.mark.parametrize("exact", [None, False])
@pytest.mark.parametrize("number", [1, 10, 20, 300])
def test_matches_from_the_index(large: Engine, number: int, exact: bool | None):
    """Unless exactness is asked for the host's statement scans the index, and is complete."""
    with forced(large) as session:
        docs = Collection("docs", session)
        found = docs.matches_by_vector(QUERIES[0], number, exact=exact)
        with statements(large) as sent:
            rows = session.execute(select(found).order_by(found.c.score.desc())).all()
        assert scans(session, docs) == 1
        assert "Index Scan using idx_embeddings_1_hnsw" in plan(session, *sent[0])
        right = docs.similar_by_vector(QUERIES[0], number, exact=True)

    rendered = {"render_postcompile": True}
    sql = str(found.compile(dialect=large.dialect, compile_kwargs=rendered))
    assert f"CAST(embeddings.embedding AS VECTOR({DIMENSIONS}))" in sql
    assert "embeddings.collection_id = 1" in sql
    assert len(rows) == number
    scores = {entry.id: entry.score for entry in right}
    assert [row.score for row in rows if row.id in scores] == pytest.approx(
        [scores[row.id] for row in rows if row.id in scores], abs=1e-6
    )


def test_matches_from_the_index_with_offset_and_min_score(large: Engine):
    """Offset and minimum hold in the selectable, too."""
    with forced(large) as session:
        session.execute(text("SET LOCAL hnsw.ef_search = 400"))
        docs = Collection("docs", session)
        right = docs.similar_by_vector(QUERIES[3], 12, exact=True)
        floor = (right[8].score + right[9].score) / 2

        found = docs.matches_by_vector(QUERIES[3], 10, offset=2, min_score=floor, exact=False)
        rows = session.execute(select(found).order_by(found.c.score.desc(), found.c.id)).all()
        assert scans(session, docs) == 1

    assert [row.id for row in rows] == ids(right)[2:9]


def test_matches_without_exactness_and_without_an_index(host: Engine):
    """Where there is no index, rows of other dimensions are left out all the same."""
    vectors = some(20)
    docs = stored(host, vectors)
    with host.begin() as connection:
        connection.execute(text("UPDATE embeddings SET embedding = '[1,2,3]' WHERE id = '00007'"))
    found = docs.matches_by_vector(vectors[4], 5, exact=False)

    with host.connect() as connection:
        rows = connection.execute(select(found).order_by(found.c.score.desc())).all()

    assert [row.id for row in rows] == ids(docs.similar_by_vector(vectors[4], 5))
    assert "00007" not in [row.id for row in rows]


# Among the host's rows


class Host(DeclarativeBase):
    """The host's own tables."""


class Product(Host):
    """A row with a key of each kind, each with a unique index."""

    __tablename__ = "products"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    number: Mapped[int] = mapped_column(Integer, unique=True)
    uid: Mapped[UUID] = mapped_column(unique=True)
    code: Mapped[str] = mapped_column(String(60), unique=True)
    percent: Mapped[int]


PRODUCTS = 6_000
KEYS = {
    "bigint": (Product.id, "products_pkey"),
    "int": (Product.number, "products_number_key"),
    "uuid": (Product.uid, "products_uid_key"),
    "text": (Product.code, "products_code_key"),
}
on_each_key = pytest.mark.parametrize("kind", KEYS)


@pytest.fixture(scope="module")
def shop(server: URL) -> Iterator[Engine]:
    """A database with products, a collection with an index for each kind of key, and one more.

    The ids of that one are written as no key is. For reading only.
    """
    with new_database(server) as url:
        engine = create_engine(url)
        embeddings.migrate(engine)
        Host.metadata.create_all(engine)
        chance = np.random.default_rng(6)
        numbers = chance.permutation(PRODUCTS).tolist()
        products = [
            {
                "id": (-1) ** n * (2**40 + n),
                "number": n,
                "uid": UUID(int=n * 2**90 + 5),
                "code": f"Product {n}, größer",
                "percent": chance.integers(0, 100).item(),
            }
            for n in numbers
        ]
        with engine.begin() as connection:
            connection.execute(insert(Product), products)
        stored(engine, some(50, 5), "others")
        for kind, (key, _) in KEYS.items():
            docs: Collection[Any] = Collection(kind, engine, model_id="a model", key=key)
            pairs = zip(products, clustered(PRODUCTS, 7), strict=True)
            docs.store_vectors(((product[key.key], v) for product, v in pairs), batch_size=2_000)
            docs.create_index(m=8, ef_construction=64)
        with engine.begin() as connection:
            connection.execute(text("ANALYZE"))
        yield engine
        engine.dispose()


AMONG: dict[str, Callable[[Any], Any]] = {
    "every row": select,
    "nine in ten": lambda key: select(key).where(Product.percent < 90),
    "half": lambda key: select(key).where(Product.percent < 50),
    "few": lambda key: select(key).where(Product.percent < 5),
    "ten": lambda key: select(key).where(Product.number.between(11, 20)),
    "none": lambda key: select(key).where(Product.percent > 1_000),
    "distinct": lambda key: select(key).where(Product.percent < 60).distinct(),
    "a part": lambda key: select(key).order_by(Product.number).limit(3_500),
    "two": lambda key: select(key).where(Product.percent < 30).union(
        select(key).where(Product.percent > 50)
    ),
    "both": lambda key: select(key).where(Product.percent < 70).intersect(
        select(key).where(Product.percent > 20)
    ),
    "without": lambda key: select(key).except_(select(key).where(Product.percent > 50)),
    "grouped": lambda key: select(key).where(Product.percent < 60).group_by(key),
    "named": lambda key: select(select(key).where(Product.percent < 50).cte("named").c[0]),
    "text": lambda key: text(
        f"SELECT {key.key} FROM products WHERE percent <> 7"
    ).columns(key),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "chosen"),
    [
        *(("bigint", chosen) for chosen in AMONG),
        *((kind, chosen) for kind in ("int", "uuid", "text") for chosen in ("half", "ten")),
    ],
)
def test_among_the_hosts_rows(shop: Engine, kind: str, chosen: str):
    """Recall is at least .98, no result is short, and few matching rows are compared exactly."""
    key, _ = KEYS[kind]
    with Session(shop) as session:
        docs: Collection[Any] = Collection(kind, session, key=key)
        among = AMONG[chosen](key)
        some_ = QUERIES[: 15 if WAYS == "all" else 10]
        found = [docs.similar_by_vector(query, among=among) for query in some_]
        right = [docs.similar_by_vector(query, among=among, exact=True) for query in some_]

    assert [len(entries) for entries in found] == [len(entries) for entries in right]
    assert {len(entries) for entries in right} == {0 if chosen == "none" else 10}
    assert {type(entry.id) for entries in found for entry in entries} <= {key.type.python_type}
    if chosen in {"few", "ten", "none"}:
        assert all(entries.exact for entries in found)
        assert found == right
    else:
        assert recall(found, right) >= 0.98


@on_each_key
@pytest.mark.parametrize("form", ["similar", "matches"])
def test_the_index_and_the_hosts_key_serve_a_search_among_rows(shop: Engine, kind: str, form: str):
    """PostgreSQL's plan walks the graph, and looks each row's key up in the host's own index."""
    key, index = KEYS[kind]
    with forced(shop) as session:
        for setting_ in ("hashjoin", "mergejoin", "material"):
            session.execute(text(f"SET LOCAL enable_{setting_} = off"))
        docs: Collection[Any] = Collection(kind, session, key=key)
        info = docs.index_info()
        assert info is not None
        among = select(key).where(Product.percent < 50)
        with statements(shop) as sent:
            if form == "similar":
                assert not docs.similar_by_vector(QUERIES[0], among=among).exact
            else:
                found = docs.matches_by_vector(QUERIES[0], among=among)
                assert len(session.execute(select(found)).all()) == 10
        assert scans(session, docs) == 1
        made = plan(session, *next(pair for pair in sent if "<=>" in pair[0]))

    walk = made[made.index(f"Index Scan using {name_of(docs)}") :]
    lookup = rf"using {index} on products.*?Index Cond: \(\(?{key.key}\)?[^=]* = CASE"
    assert re.search(lookup, walk, re.DOTALL), made


@on_each_key
@pytest.mark.parametrize("chosen", ["distinct", "a part", "two", "both", "without", "named"])
def test_no_candidate_is_compared_with_all_keys(shop: Engine, kind: str, chosen: str):
    """What PostgreSQL cannot make a lookup of is hashed: else each candidate costs a pass of it."""
    key, _ = KEYS[kind]
    with Session(shop) as session:
        docs: Collection[Any] = Collection(kind, session, key=key)
        with statements(shop) as sent:
            docs.similar_by_vector(QUERIES[0], among=AMONG[chosen](key))
        made = plan(session, *next(pair for pair in sent if "<=>" in pair[0]))
    walk = made[made.index(f"Index Scan using {name_of(docs)}") :]
    walk = walk[: walk.index("CTE anon")]
    assert "hashed SubPlan" in walk
    assert "Join Filter" not in made


ODD = ["x", "", "007", "1.0", "+1", "9" * 19, "9" * 400, "-0", " 1", "1e3", "\u0661", "ab" * 16]


@on_each_key
def test_ids_that_are_written_as_no_key_is(shop: Engine, kind: str):
    """Rows whose ids cannot be cast are no error, in this collection or another."""
    key, _ = KEYS[kind]
    with Session(shop) as session:
        docs: Collection[Any] = Collection(kind, session, key=key)
        row = "INSERT INTO embeddings (collection_id, id, embedding) VALUES (:of, :id, :vector)"
        query = QUERIES[0]
        vector = f"[{','.join(map(str, query.tolist()))}]"
        session.execute(text(row), [{"of": docs.id, "id": odd, "vector": vector} for odd in ODD])
        for scan in ("off", "on"):
            session.execute(text(f"SET LOCAL enable_indexscan = {scan}"))
            for among in (select(key), select(key).where(Product.percent < 2)):
                found = docs.similar_by_vector(query, among=among)
                right = docs.similar_by_vector(query, among=among, exact=True)
                assert len(found) == 10
                assert recall([found], [right]) >= 0.9
                matches = docs.matches_by_vector(query, among=among)
                assert len(session.execute(select(matches)).all()) == 10
        session.rollback()


def test_an_id_that_two_kinds_of_keys_share(shop: Engine):
    """Integers of a host choose among ids of text, which hold other texts, too."""
    with Session(shop) as session:
        docs = Collection("int", session)  # its keys were written as integers
        docs.store_vectors([("a word", QUERIES[0])])
        among = select(Product.number).where(Product.number.in_([5, 7]))
        assert {*ids(docs.similar_by_vector(QUERIES[0], among=among))} == {"5", "7"}
        assert len(docs.similar_by_vector(QUERIES[0], among=select(Product.number))) == 10
        session.rollback()


def test_rows_without_an_embedding_and_embeddings_without_a_row(shop: Engine):
    """A host's SELECT of every row removes orphans, and keys that are not embedded are none."""
    with Session(shop) as session:
        docs: Collection[int] = Collection("bigint", session, key=Product.id)
        docs.store_vectors([(n, QUERIES[0] + n * 1e-3) for n in range(20)])
        session.execute(insert(Product), [
            {"id": 2**50 + n, "number": 10**6 + n, "uid": uuid4(), "code": f"new {n}",
             "percent": 77} for n in range(3_000)
        ])  # fmt: skip
        assert {*ids(docs.similar_by_vector(QUERIES[0]))} <= {*range(20)}
        everything = docs.similar_by_vector(QUERIES[0], among=select(Product.id))
        assert not {*ids(everything)} & {*range(20)}
        assert len(everything) == 10
        new = docs.similar_by_vector(QUERIES[0], 100, among=select(Product.id).where(
            Product.percent == 77))  # fmt: skip
        right = docs.similar_by_vector(QUERIES[0], 100, exact=True, among=select(
            Product.id).where(Product.percent == 77))  # fmt: skip
        assert (new, new.exact) == (right, True)
        session.rollback()


def test_matches_are_never_fewer_than_there_are(large: Engine, subtests: pytest.Subtests):
    """Also with exact=False a selectable is complete, under any settings of the host's."""
    filters: Any
    number: Any
    offset: Any
    count: Any
    for filters, number, offset, count in NUMBERS:
        with subtests.test(ascii(filters)[:60]):
            with forced(large) as session:
                session.execute(text("SET LOCAL hnsw.ef_search = 1"))
                docs = Collection("docs", session)
                found = docs.matches_by_vector(
                    QUERIES[1], number, offset=offset, exact=False, **filters
                )
                rows = session.execute(select(found)).all()
                right = docs.similar_by_vector(
                    QUERIES[1], number, offset=offset, exact=True, **filters
                )
                assert setting(session, "hnsw.ef_search") == "1"

            assert len(rows) == len({row.id for row in rows}) == len(right) == count
            if count:
                assert len({row.id for row in rows} & {*ids(right)}) / count >= 0.9


def test_several_matches_in_one_statement(large: Engine):
    """Searches by the index do not disturb each other, nor the host's settings."""
    with forced(large) as session:
        session.execute(text("SET LOCAL hnsw.ef_search = 77"))
        docs = Collection("docs", session)
        some_, others = (
            docs.matches_by_vector(query, among=of_docs(docs)) for query in QUERIES[:2]
        )
        both = select(some_.c.id, some_.c.score).union_all(select(others.c.id, others.c.score))
        rows = session.execute(both).all()
        assert scans(session, docs) == 2
        right = [docs.similar_by_vector(query, exact=True) for query in QUERIES[:2]]
        assert setting(session, "hnsw.ef_search") == "77"
        again = some_.alias()
        twice = select(some_.c.id).join(again, again.c.id == some_.c.id)
        assert len(session.execute(twice).all()) == 10

    assert len(rows) == 20
    assert len({row.id for row in rows} & {*ids(right[0]), *ids(right[1])}) >= 19


def test_a_name_that_sqlalchemy_makes_is_of_one_cte_only():
    """It is an address, which stays taken for as long as the CTE lives."""
    statements = [select(literal(n)) for n in range(1_000)]
    kept = [once(statement) for statement in statements]
    assert len({cte.name for cte in kept}) == len(kept)


def of_docs(docs: Docs) -> Any:
    """Return a SELECT of all ids of a collection."""
    return select(EmbeddingRecord.id).where(EmbeddingRecord.collection_id == docs.id)


@pytest.mark.parametrize("options", [{}, {"exact": False}, {"where": {"percent": 7}}])
def test_matches_leave_the_settings_of_a_new_connection(large: Engine, options: dict[str, Any]):
    """The host's statement sets nothing that stays, be it the first one that loads pgvector."""
    with fresh(large) as session:
        docs = Collection("docs", session)
        found = docs.matches_by_vector(QUERIES[0], **options)
        assert len(session.execute(select(found)).all()) == 10
        assert tuple(setting(session, name) for name in SETTINGS) == ("40", "off")
        session.execute(text("SET LOCAL hnsw.ef_search = 66"))
        session.execute(text("SET LOCAL hnsw.iterative_scan = strict_order"))
        assert len(session.execute(select(found).limit(1)).all()) == 1
        within = tuple(setting(session, name) for name in SETTINGS)
        session.commit()
        after = tuple(setting(session, name) for name in SETTINGS)

    assert (within, after) == (("66", "strict_order"), ("40", "off"))


@pytest.mark.parametrize("change", ["model", "name", "deleted", "index", "dimensions"])
def test_a_search_confirms_what_is_remembered(host: Engine, change: str):
    """Whatever others have made of a collection meanwhile, the search tells as it is now."""
    docs = stored(host, some())
    docs.create_index()
    assert ids(docs.similar_by_vector(some()[3], 1)) == ["00003"]
    assert ids(docs.similar_by_vector(some()[3], 1)) == ["00003"]

    query, other = some()[3], create_engine(host.url)
    theirs = Collection("docs", other)
    if change == "model":
        with other.begin() as connection:
            connection.execute(text("UPDATE collections SET model = 'another model'"))
        with pytest.raises(EmbeddingsError, match="another model"):
            docs.similar_by_vector(query, 1)
    elif change == "name":
        theirs.rename("papers")
        stored(other, some(5, 3))
        assert ids(docs.similar_by_vector(some(5, 3)[4], 1)) == ["00004"]
    elif change == "deleted":
        theirs.delete()
        assert ids(docs.similar_by_vector(query, 1)) == []
        stored(other, -some())
        found = docs.similar_by_vector(-query, 1)
        assert (ids(found), found.exact, round(found[0].score, 5)) == (["00003"], True, 1.0)
    elif change == "index":
        theirs.drop_index()
        assert ids(docs.similar_by_vector(query, 1)) == ["00003"]
    else:
        theirs.drop_index()
        theirs.delete_items([f"{n:05d}" for n in range(20)])
        stored(other, some(5, 3))
        assert ids(docs.similar_by_vector(some(5, 3)[4], 1)) == ["00004"]
        with pytest.raises(InvalidVectorError):
            docs.similar_by_vector(query, 1)
    other.dispose()


class Fixed(DeterministicModel):
    """A model of the vectors that are searched here."""

    def __init__(self) -> None:
        super().__init__("a model")

    def embed_batch(self, items: Any) -> list[Float32]:
        return [QUERIES[0] for _ in items]


def test_what_is_asked_of_the_server(large: Engine):
    """A search by the index is one statement, and none about the rows names the catalog."""
    with forced(large) as session:
        docs = Collection("docs", session, model=Fixed())
        docs.similar_by_vector(QUERIES[0])
        with statements(large) as sent:
            assert len(docs.similar_by_vector(QUERIES[0])) == 10
            assert len(docs.similar_by_vector(QUERIES[0], exact=True)) == 10
            assert len(sent) == 2
            # The transaction has read before which model it is.
            docs.similar("a question")
            assert len(sent) == 3
            among = of_docs(docs)
            before = len(sent)
            assert len(docs.similar_by_vector(QUERIES[0], among=among)) == 10
            assert len(sent) == before + 2  # a filter that fails must not hide the collection
            docs.similar_by_id("00001")
            docs.similar_by_vector(QUERIES[0], where={"percent": 7}, exact=False)
            session.execute(select(docs.matches_by_vector(QUERIES[0])))
            docs.count()
            docs.similar_multi_by_vector(QUERIES[:2])
            docs.store_vectors([("new", QUERIES[0])])
            docs.delete_items(["new"])
        session.rollback()
        docs.similar("a question")
        session.rollback()
        with statements(large) as alone:
            docs.similar("a question")
            assert len(alone) == 1

    about_rows = [sql for sql, _ in sent if re.search(r"\bembeddings\b", sql)]
    assert not [sql for sql in about_rows if re.search(r"\bpg_|to_reg", sql)]

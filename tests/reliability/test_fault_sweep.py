"""Every database call of every method fails once: nothing leaks, nothing is half done.

The calls are those of SQLAlchemy's dialect to the driver: connect, execute, commit, roll back. The
n-th one fails, for every n, until a method needs fewer; before that call takes place, or after it,
as when the answer is lost.

`make long` lets each call of each method fail in each way on each database, in the caller's
transaction and in our own. Here every seventh call fails, from another one on in each test of a
method, so that between the databases and the faults most of its calls do; and what a fault can
leave half done, a method that writes in transactions of our own, has its answers lost as well.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, create_engine, delete, event, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from embeddings import Collection, CollectionRecord, EmbeddingRecord
from embeddings.searching.read import page_after
from embeddings.testing import DeterministicModel
from tests.asynchronous import DRIVERS, Awaited, face_of, in_the_loop, session_on

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

CALLS = ("connect", "do_execute", "do_executemany", "do_execute_no_params", "do_commit",
         "do_rollback")  # fmt: skip
MOST_CALLS = 100
PATIENCE = 60.0  # seconds after which a test that waits has failed
BUSY = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
)
ALL = os.environ.get("EMBEDDINGS_FAULTS") == "all"
STEP = 1 if ALL else 7
SIX = [(f"{number:02}", f"text {number}") for number in range(6)]
ITEMS = SIX if ALL else SIX[:4]
VECTOR = [1.0] * 256


def plan_embed_apply(docs: Any) -> None:
    """Write by a plan."""
    plan = docs.plan(ITEMS, store=True)
    plan.embed()
    docs.apply(plan)


WRITES: dict[str, Callable[[Any], Any]] = {
    "embed": lambda docs: docs.embed("new", "a cat", {"n": 1}, store=True),
    "embed another content": lambda docs: docs.embed("a", "a cat", store=True),
    "embed other metadata": lambda docs: docs.embed("a", "a hound", {"n": 2}),
    "embed what was prepared": lambda docs: docs.embed("new", docs.prepare("a cat")),
    "embed_multi": lambda docs: docs.embed_multi(ITEMS, store=True, batch_size=2),
    "embed_multi_with_metadata": lambda docs: docs.embed_multi_with_metadata(
        [(id, content, {"n": 3}) for id, content in ITEMS], batch_size=len(ITEMS) // 2
    ),
    "store_vectors": lambda docs: docs.store_vectors(
        [(id, VECTOR, None, content) for id, content in ITEMS], batch_size=len(ITEMS) // 2
    ),
    "apply": plan_embed_apply,
    "set_metadata": lambda docs: docs.set_metadata("a", {"n": 4}),
    "delete_items": lambda docs: docs.delete_items(["a", "b"]),
    "delete_items by metadata": lambda docs: docs.delete_items(where={"n": 1}),
    "create_text_index": lambda docs: docs.create_text_index("simple"),
    "drop_text_index": lambda docs: docs.drop_text_index(),
    "rename": lambda docs: docs.rename("other"),
    "delete": lambda docs: docs.delete(),
}
READS: dict[str, Callable[[Any], Any]] = {
    "id": lambda docs: docs.id,
    "model_id": lambda docs: docs.model_id,
    "model": lambda docs: docs.model(),
    "count": lambda docs: docs.count(),
    "len": len,
    "in": lambda docs: "a" in docs,
    "iter": list,
    "get": lambda docs: docs.get("a"),
    "get_many": lambda docs: docs.get_many(["a", "b"]),
    "get_chunks": lambda docs: docs.get_chunks("a"),
    "vectors": lambda docs: docs.vectors(),
    "ids": lambda docs: docs.ids(),
    "page_after": lambda docs: page_after(docs.reference, "a"),
    "plan": lambda docs: docs.plan(ITEMS),
    "prepare": lambda docs: docs.prepare("a cat"),
    "embed_query": lambda docs: docs.embed_query("a cat"),
    "similar": lambda docs: docs.similar("a cat"),
    "similar where": lambda docs: docs.similar("a cat", where={"n": 1}),
    "similar_by_id": lambda docs: docs.similar_by_id("a"),
    "similar_by_vector": lambda docs: docs.similar_by_vector(VECTOR),
    "similar_multi": lambda docs: docs.similar_multi(["a cat", "a dog"]),
    "similar_multi_by_vector": lambda docs: docs.similar_multi_by_vector([VECTOR]),
    "matches": lambda docs: docs.matches("a cat"),
    "matches_by_id": lambda docs: docs.matches_by_id("a"),
    "matches_by_vector": lambda docs: docs.matches_by_vector(VECTOR),
    "status": lambda docs: docs.status(),
    "warm": lambda docs: docs.warm(),
    "index_info": lambda docs: docs.index_info(),
}
OPTIONS: dict[str, Any] = {"sqlite": {}, "postgresql": {"maintenance_work_mem": "64MB"}}
INDEXES: dict[str, Callable[[Any], Any]] = {
    "create_index": lambda docs: docs.create_index(**OPTIONS[docs.reference.database.name]),
    "drop_index": lambda docs: docs.drop_index(),
}
METHODS = WRITES | READS
WITHOUT_A_DATABASE = {"DoesNotExist", "close", "content_hash", "name"}
OF_THE_DATABASE = {"exists", "names"}
OF_TWO_PLACES = {"sync", "copy_to", "reembed", "back", "drop_previous"}
"""These read one place and write another by what is swept here, and resume: see their own tests."""
AWAITED = ("embed_multi", "delete", "similar")


def test_every_public_method_is_swept():
    """A new one has to be added here."""
    public = {name for name in dir(Collection) if not name.startswith("_")}
    named = {name.split()[0] for name in METHODS | INDEXES}
    assert public - named == WITHOUT_A_DATABASE | OF_THE_DATABASE | OF_TWO_PLACES


class Faults:
    """Lets the n-th call to the driver fail, once."""

    def __init__(self, engine: Engine) -> None:
        self.error: BaseException | None = None
        self.is_done, self.n, self.seen = False, 0, 0
        self.after_commit: Callable[[], object] = lambda: None
        for name in CALLS:
            call = getattr(engine.dialect, name)
            setattr(engine.dialect, name, functools.partial(self._call, name, call))

    def arm(self, n: int, error: BaseException, *, is_done: bool) -> None:
        """Let the n-th call from now on raise, when it is done or instead."""
        self.n, self.seen, self.error, self.is_done = n, 0, error, is_done

    def disarm(self) -> bool:
        """Return whether there was an n-th call."""
        self.error = None
        return self.seen >= self.n

    def _call(self, name: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        self.seen += 1
        error = self.error if self.seen == self.n else None
        if error is not None and not self.is_done:
            raise error
        result = call(*args, **options)
        if error is not None and name != "connect":  # whose result would be lost, and leak
            raise error
        if name == "do_commit":
            self.after_commit()
        return result


State = tuple[Any, ...]


class Bench:
    """A database with three items, seen from outside by an engine of its own."""

    def __init__(self, plain: Engine, engine: Engine, *, is_session: bool) -> None:
        self.plain, self.engine, self.is_session = plain, engine, is_session
        self.is_async = engine.dialect.is_async
        self.turn = (plain.dialect.name == "postgresql") + 2 * is_session
        docs = Collection("docs", plain, model=DeterministicModel())
        docs.embed_multi_with_metadata(
            [("a", "a hound", {"n": 1}), ("b", "two cats", None), ("c", "the sea", {"n": 1})],
            store=True,
        )
        self.tables: list[Any] = [CollectionRecord.__table__, EmbeddingRecord.__table__]
        with plain.connect() as connection:
            self._rows = [
                [row._asdict() for row in connection.execute(select(table))]
                for table in self.tables
            ]
            connection.rollback()
        with engine.connect():  # what a dialect asks once
            pass
        self.faults = Faults(engine)

    def reset(self) -> None:
        """Put the three items back, and let the next call open a connection."""
        self.engine.dispose()
        with self.plain.begin() as connection:
            for table in reversed(self.tables):
                connection.execute(delete(table))
            for table, rows in zip(self.tables, self._rows, strict=True):
                connection.execute(insert(table), rows)

    def state(self) -> State:
        """Return what is committed, but for the times of changes."""
        collections, embeddings = (table.c for table in self.tables)
        with self.plain.connect() as connection:
            return (
                *map(tuple, connection.execute(select(collections.name, collections.model))),
                *(
                    (id, vector.tobytes(), *rest)
                    for id, vector, *rest in connection.execute(
                        select(
                            embeddings.id,
                            embeddings.embedding,
                            embeddings.content,
                            embeddings.content_hash,
                            embeddings.metadata,
                        ).order_by(embeddings.id)
                    )
                ),
            )

    def session(self) -> Session:
        """Return a host's session; of an AsyncSession, what is synchronous."""
        return session_on(self.engine) if self.is_async else Session(self.engine)

    def collection(self, session: Session | None) -> Any:
        """Return the collection on the session or the engine, awaited where that is needed."""
        db = session or self.engine
        if not self.is_async:
            return Collection("docs", db, model=DeterministicModel())
        return Awaited("docs", face_of(db), model=DeterministicModel())

    def assert_quiet(self) -> None:
        """Assert that no connection is in use, and no transaction open."""
        assert self.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        if self.plain.dialect.name == "sqlite":
            with self.plain.connect() as connection:
                connection.exec_driver_sql(f"PRAGMA busy_timeout = {1000 * PATIENCE:.0f}")
                connection.exec_driver_sql("BEGIN EXCLUSIVE")
            return
        busy = text(BUSY)
        until = time.monotonic() + PATIENCE
        while True:
            with self.plain.connect() as connection:
                count = connection.scalar(busy)
            if not count or time.monotonic() > until:
                break
            time.sleep(0.005)  # the server hears a little later of a connection that was closed
        assert count == 0


def states_of(bench: Bench, method: Callable[[Any], Any]) -> tuple[list[State], int]:
    """Return what is committed before the method, after each of its commits, and at its end.

    And how many calls the method makes.
    """
    bench.reset()
    states = [bench.state()]
    session = bench.session() if bench.is_session else None
    bench.faults.after_commit = lambda: states.append(bench.state())
    bench.faults.seen = 0
    try:
        method(bench.collection(session))
    finally:
        bench.faults.after_commit = lambda: None
        calls = bench.faults.seen
    if session is not None:
        session.commit()
        session.close()
    return [*states, bench.state()], calls


def sweep(
    bench: Bench,
    method: Callable[[Any], Any],
    error: BaseException,
    is_done: bool,
    turn: int,
) -> int:
    """Let each call of the method fail, or every seventh, and return how many calls there are."""
    states, calls = states_of(bench, method)
    expected = (DBAPIError, type(error)) if isinstance(error, Exception) else type(error)
    first = 1 + turn % max(1, min(STEP, calls))  # at least one call fails
    for n in range(first, MOST_CALLS, STEP):
        bench.reset()
        session = bench.session() if bench.is_session else None
        docs = bench.collection(session)
        bench.faults.arm(n, error, is_done=is_done)
        try:
            method(docs)
        except expected:
            raised = True
        else:
            raised = False
        reached = bench.faults.disarm()
        seen = bench.faults.seen
        assert not raised or reached
        if session is not None:
            session.rollback()
            assert bench.state() == states[0], n
        bench.assert_quiet()
        assert bench.state() in states, n
        if session is not None or bench.state() != states[-1]:
            method(docs)
            if session is not None:
                session.commit()
        assert bench.state() == states[-1], n
        if session is not None:
            session.close()
        bench.assert_quiet()
        if not reached:
            return seen
    raise AssertionError("it never ended")


@pytest.fixture(params=["session", "engine"])
def way(request: pytest.FixtureRequest) -> str:
    """Whose the transaction is."""
    return str(request.param)


FAULTS = {
    "instead": ("error", False),
    "when it is done": ("error", True),
    "interrupted": ("interrupt", False),
}
# The host ends a session's transaction whatever went wrong in it, and how a method is written
# decides which of an engine's transactions an interrupt ends.
SHORT = {
    "session": {"embed_multi": [*FAULTS]},
    "engine": {"embed_multi": [*FAULTS], "apply": [*FAULTS], "create_text_index": [*FAULTS]},
}


def faults_of(way: str, name: str) -> list[str]:
    """Return the faults of a method that writes."""
    usual = ["instead"] if way == "session" else ["instead", "when it is done"]
    return [*FAULTS] if ALL else SHORT[way].get(name, usual)


@pytest.fixture(params=["sqlite", "postgresql"])
def bench(request: pytest.FixtureRequest, way: str, tmp_path: Path, engine: Engine) -> Any:
    """A database, reached synchronously."""
    plain, url = engine, f"sqlite:///{tmp_path / 'app.db'}"
    if request.param == "postgresql":
        plain = request.getfixturevalue("postgresql_engine")
        url = plain.url.render_as_string(hide_password=False)
    # A COMMIT that fails leaves SQLite within the transaction, which has to be ended without the
    # help of the pool. PostgreSQL has always ended it.
    helps = request.param == "postgresql" or way == "session"
    faulty = create_engine(url, pool_reset_on_return="rollback" if helps else None)
    for one in (plain, faulty):
        if one.dialect.name == "sqlite":  # no power is lost here
            event.listen(one, "connect", lambda driver, _: driver.execute("PRAGMA synchronous=OFF"))
    yield Bench(plain, faulty, is_session=way == "session")
    faulty.dispose()


def error_of(bench: Bench, kind: str) -> BaseException:
    """Return what a call raises."""
    if kind == "interrupt":
        return KeyboardInterrupt()
    dbapi: Any = bench.engine.dialect.dbapi
    error: BaseException = dbapi.OperationalError("disk I/O error")
    return error


@pytest.mark.parametrize(
    ("way", "name", "fault"),
    [
        (way, name, fault)
        for way in ("session", "engine")
        for name in WRITES
        for fault in faults_of(way, name)
    ],
    indirect=["way"],
)
def test_each_call_of_a_method_that_writes_fails(bench, name, fault):
    """Afterwards the data is as before or after, per batch on an engine, and it can go on."""
    kind, is_done = FAULTS[fault]
    turn = [*WRITES].index(name) + 2 * is_done + bench.turn
    assert sweep(bench, WRITES[name], error_of(bench, kind), is_done, turn) >= 3


@pytest.mark.parametrize(
    ("bench", "way"),
    [("sqlite", "engine"), ("postgresql", "session")]
    + [("sqlite", "session"), ("postgresql", "engine")] * ALL,
    indirect=True,
)
@pytest.mark.parametrize("name", READS)
def test_each_call_of_a_method_that_reads_fails(bench, name):
    """Afterwards nothing is open, and it can go on."""
    turn = [*READS].index(name) + 2 * bench.turn
    count = sweep(bench, READS[name], error_of(bench, "error"), is_done=False, turn=turn)
    assert count >= (0 if name in {"prepare", "embed_query"} else 2)


@pytest.mark.parametrize("name", sorted(OF_THE_DATABASE))
def test_each_call_of_a_question_to_the_database_fails(bench, name):
    """`exists` and `names` are given the database itself."""

    def ask(docs: Any) -> None:
        db = getattr(docs.reference.sessions, "_session", bench.engine)
        Collection.names(db) if name == "names" else Collection.exists(db, "docs")

    assert sweep(bench, ask, error_of(bench, "error"), is_done=False, turn=bench.turn) >= 2


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", INDEXES)
def test_each_call_of_building_and_dropping_an_index_fails(bench, name, fault):
    """The collection can be used, and the index be built and dropped, whatever was left."""
    kind, is_done = FAULTS[fault]
    other = Collection("docs", bench.plain)

    def prepared(docs: Any) -> None:
        INDEXES[name](docs)

    try:
        turn = [*FAULTS].index(fault) + bench.turn
        assert sweep(bench, prepared, error_of(bench, kind), is_done, turn) >= 3
        assert (other.create_index()).is_valid
        assert len(other.similar_by_vector(VECTOR)) == 3
    finally:
        assert other.drop_index() is True
    assert other.index_info() is None


class Failing(DeterministicModel):
    """A model that raises at its second call."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error: BaseException | None = error

    def embed_batch(self, items: Sequence[Any]) -> list[Any]:
        if self.calls and self.error is not None:
            error, self.error = self.error, None
            raise error
        return super().embed_batch(items)


@pytest.mark.parametrize("error", [ZeroDivisionError("fault"), KeyboardInterrupt()])
def test_the_model_fails_in_the_second_of_three_batches(bench, error):
    """On an engine the first one is there; on a session the host decides."""
    states, _ = states_of(bench, lambda docs: docs.embed_multi(SIX, store=True, batch_size=2))
    bench.reset()
    session = bench.session() if bench.is_session else None
    docs = Collection("docs", session or bench.engine, model=Failing(error))
    with pytest.raises(type(error)):
        docs.embed_multi(SIX, store=True, batch_size=2)
    if session is None:
        bench.assert_quiet()
        first = [row[0] for row in bench.state()[1:]]
        assert first == ["00", "01", "a", "b", "c"]
        docs.embed_multi(SIX, store=True, batch_size=2)
    else:
        assert docs.ids() == ["00", "01", "a", "b", "c"]
        session.rollback()
        assert bench.state() == states[0]
        docs.embed_multi(SIX, store=True, batch_size=2)
        session.commit()
        session.close()
    assert bench.state() == states[-1]
    bench.assert_quiet()


# asyncio


@pytest.mark.parametrize(
    ("way", "name", "kind"),
    [
        (way, name, kind)
        for way in ("session", "engine")
        for name in AWAITED
        for kind in ("error", "cancelled")
        if ALL or (way == "engine" and kind == "cancelled") or name == "embed_multi"
    ],
)
@pytest.mark.parametrize("driver", DRIVERS)
def test_each_call_of_an_awaited_method_fails(driver, way, name, kind, tmp_path, engine, request):
    """A representative few, on each driver; those of `Collection` are what they run."""

    def work() -> None:
        plain, url = engine, f"sqlite+aiosqlite:///{tmp_path / 'app.db'}"
        if driver != "aiosqlite":
            plain = request.getfixturevalue("postgresql_engine")
            url = plain.url.set(drivername=DRIVERS[driver]).render_as_string(hide_password=False)
        faulty = create_async_engine(url).sync_engine
        bench = Bench(plain, faulty, is_session=way == "session")
        error = asyncio.CancelledError() if kind == "cancelled" else error_of(bench, kind)
        try:
            turn = [*DRIVERS].index(driver) + 2 * (kind == "cancelled") + (way == "engine")
            assert sweep(bench, METHODS[name], error, is_done=False, turn=turn) >= 2
        finally:
            faulty.dispose()

    in_the_loop(work)

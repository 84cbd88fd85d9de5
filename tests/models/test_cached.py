"""`embeddings.cached`: vectors that are paid once, whatever becomes of the rows."""

from __future__ import annotations

import asyncio
import math
import os
import sqlite3
import struct
import textwrap
import threading
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

import embeddings
from embeddings import (
    AsyncCollection,
    BindingError,
    Collection,
    InvalidVectorError,
    RefusedError,
    UnavailableError,
    cached,
)
from embeddings.models import cached as module
from embeddings.testing import DeterministicModel
from tests.forked import MODELS, python
from tests.provider import vector_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

ROOT = Path(embeddings.__file__).parents[1]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "paid.db"


def test_a_rollback_costs_nothing(session: Session, file: Path):
    """The vectors are there, and not in the caller's transaction."""
    model = DeterministicModel()
    docs = Collection("docs", session, model=cached(model, file))
    docs.embed_multi([("a", "one"), ("b", "two")])
    session.rollback()
    assert docs.count() == 0
    docs.embed_multi([("a", "one"), ("b", "two"), ("c", "three")])
    assert model.calls == [["one", "two"], ["three"]]
    assert docs.count() == 3


def test_a_deleted_collection_costs_nothing(session: Session, file: Path):
    """Nor does another collection, or another model object of the same id."""
    Collection("docs", session, model=cached(DeterministicModel(), file)).embed("a", "one")
    Collection("docs", session).delete()
    other = DeterministicModel()
    docs = Collection("others", session, model=cached(other, file))
    docs.embed("b", "one")
    assert other.calls == []
    assert docs.model_id == "deterministic"
    record = docs.get("b")
    assert record is not None
    assert record.embedding.tolist() == DeterministicModel().embed("one")


def test_a_crash_costs_nothing(service, file: Path, tmp_path: Path):
    """What was paid for is in the file when the process dies before its commit."""
    code = f"""
        import os
        import embeddings
        from sqlalchemy import create_engine
        from sqlalchemy.orm import Session

        engine = create_engine("sqlite:///{tmp_path / "app.db"}")
        embeddings.migrate(engine)
        model = embeddings.models.openai.OpenAIEmbeddingModel(
            "toy", base_url="{service.base_url}", api_key="x"
        )
        docs = embeddings.Collection(
            "docs", Session(engine), model=embeddings.cached(model, "{file}")
        )
        docs.embed_multi([("a", "one"), ("b", "two")])
        os._exit(3)
    """
    for _ in range(2):
        done = python("-c", textwrap.dedent(code), modules=MODELS)
        assert done.returncode == 3, done.stderr
    assert len(service.requests) == 1


@pytest.fixture
def connected() -> Iterator[Callable[..., Engine]]:
    """Yield what makes an engine on a server's database, which has no table of ours at first."""
    engines: list[Engine] = []

    def connect(**options: Any) -> Engine:
        engines.append(create_engine(os.environ["POSTGRESQL_URL"], **options))
        return engines[-1]

    def drop() -> None:
        with connect().begin() as connection:
            connection.execute(text("DROP TABLE IF EXISTS embeddings_paid"))

    drop()
    yield connect
    for engine in engines:
        engine.dispose()
    drop()
    engines[-1].dispose()


def test_on_a_server(connected: Callable[..., Engine]):
    """An engine will do."""
    engine = connected()
    model = DeterministicModel()
    assert cached(model, engine).embed("one") == cached(model, engine).embed("one")
    assert model.calls == [["one"]]


def test_where_no_table_may_be_made(connected: Callable[..., Engine], caplog):
    """One that is there is read; what cannot be written costs no answer."""
    cached(DeterministicModel(), connected()).embed("one")
    replica = connected(connect_args={"options": "-c default_transaction_read_only=on"})
    model = DeterministicModel()
    kept = cached(model, replica)
    assert kept.embed("one") == DeterministicModel().embed("one")
    assert model.calls == []
    assert kept.embed("two") == DeterministicModel().embed("two")
    assert "not kept" in caplog.text


def test_another_transaction_comes_between(connected: Callable[..., Engine], caplog):
    """What was paid for is kept all the same, on an engine whose transactions are serializable."""
    engine = connected(isolation_level="SERIALIZABLE")
    other = connected(isolation_level="SERIALIZABLE")
    model = DeterministicModel()
    cached(model, engine).embed("one")

    once = iter(["three"])

    def come_between(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("INSERT INTO embeddings_paid"):
            for content in once:
                cached(DeterministicModel(), other).embed(content)

    event.listen(engine, "after_cursor_execute", come_between)
    cached(model, engine).embed("two")
    assert not caplog.records
    cached(model, engine).embed_batch(["one", "two", "three"])
    assert model.calls == [["one"], ["two"]]


def test_a_pool_that_is_used_up_costs_no_answer(connected: Callable[..., Engine], caplog):
    """What was paid for while others took the last connection is returned."""
    engine = connected(pool_size=1, max_overflow=0, pool_timeout=0.1)

    class Meanwhile(DeterministicModel):
        def embed_batch(self, items: Sequence[Any]) -> list[Any]:
            taken.enter_context(engine.connect())
            return super().embed_batch(items)

    with ExitStack() as taken:
        assert cached(Meanwhile(), engine).embed("one") == DeterministicModel().embed("one")
    assert "not kept: TimeoutError" in caplog.text


class Roles(DeterministicModel):
    """A model with other vectors for queries, and a setting."""

    document_prefix = "passage: "

    def __init__(self, dimensions: int | None = None) -> None:
        super().__init__(supports_binary=True)
        self.dimensions = dimensions
        self.queries: list[list[Any]] = []

    def embed_queries(self, items: Sequence[Any]) -> list[Any]:
        self.queries.append(list(items))
        return [[1.0] * 256 for _ in items]


def test_role_dimensions_and_kind_keep_vectors_apart(session: Session, file: Path):
    """As the prefix does."""
    model = Roles()
    docs = Collection("docs", session, model=cached(model, file))
    docs.embed("a", "one")
    docs.embed("b", b"one")
    assert docs.embed_query("one").tolist() == [1.0] * 256
    assert model.calls == [["passage: one"], [b"one"]]
    assert model.queries == [["one"]]

    other = Roles(dimensions=64)
    cached(other, file).embed("one")
    assert other.calls == [["passage: one"]]
    again = Roles()
    cached(again, file).embed("one")
    assert cached(again, file).embed_queries(["one"])[0].tolist() == [1.0] * 256
    assert again.calls == again.queries == []


def test_awaited(service, open_model, file: Path):
    """The model is awaited, and asked once."""
    model = open_model(query_prefix="query: ")

    async def main() -> list[float]:
        async with AsyncCollection[Any]("docs", model=cached(model, file)) as docs:
            await docs.embed_multi([("a", "one"), ("b", "two")])
            await docs.similar("one")
            record = await docs.get("a")
            assert record is not None
            values: list[float] = record.embedding.tolist()
            return values

    for _ in range(2):
        assert asyncio.run(main()) == vector_of("one")
    assert [request.body["input"] for request in service.requests] == [
        ["one", "two"],
        ["query: one"],
    ]


def test_a_task_that_is_cancelled_loses_nothing(file: Path):
    """A thread in which a model answers goes on, and what it was paid for is kept."""
    began, may_end = threading.Event(), threading.Event()

    class Slow(DeterministicModel):
        def embed_batch(self, items: Sequence[Any]) -> list[Any]:
            began.set()
            may_end.wait(30)
            return super().embed_batch(items)

    async def main() -> None:
        task = asyncio.create_task(cached(Slow(), file).aembed_batch(["one"]))
        await asyncio.to_thread(began.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_end.set()

    asyncio.run(main())  # which waits for its threads
    model = DeterministicModel()
    assert cached(model, file).embed("one") == DeterministicModel().embed("one")
    assert model.calls == []


def test_nothing_is_written_within_the_event_loop(file: Path):
    """Not what came before a refusal either: a write may wait for other processes."""

    class Refusing(DeterministicModel):
        async def aembed_batch(self, items: Sequence[Any]) -> list[Any]:
            error = RefusedError("the second one is refused")
            error.made, error.positions = {0: self.embed_batch(items[:1])[0]}, (1,)
            raise error

    engine, writers = create_engine(f"sqlite:///{file}"), set()

    @event.listens_for(engine, "commit")
    def commit(connection: object) -> None:
        writers.add(threading.get_ident())

    async def main() -> None:
        with pytest.raises(RefusedError) as raised:
            await cached(Refusing(), engine).aembed_batch(["one", "two"])
        assert (list(raised.value.made), raised.value.positions) == ([0], (1,))

    asyncio.run(main())
    assert writers
    assert threading.get_ident() not in writers
    model = DeterministicModel()
    cached(model, engine).embed("one")
    assert model.calls == []
    engine.dispose()


def test_a_use_that_cannot_be_noted_costs_no_answer(file: Path, caplog):
    """As where others have taken the last connection since the vectors were read."""
    engine = create_engine(f"sqlite:///{file}")
    kept = cached(DeterministicModel(), engine)
    vector = kept.embed("one")
    with engine.begin() as connection:
        connection.execute(text("UPDATE embeddings_paid SET used = 0"))
    checkouts: list[object] = []

    @event.listens_for(engine, "checkout")
    def checkout(*given: object) -> None:
        checkouts.append(given)
        if len(checkouts) == 2:
            raise PoolTimeoutError("QueuePool limit reached")

    with caplog.at_level("DEBUG", "embeddings"):
        assert kept.embed("one") == vector
    assert "not noted: TimeoutError" in caplog.text
    engine.dispose()


def test_it_is_bounded(file: Path):
    """The vectors that were used least lately go."""
    model = DeterministicModel()
    kept = cached(model, file, max_bytes=20_000)  # 256 dimensions have 1 kB
    for number in range(100):
        kept.embed(f"text {number}")
    connection = sqlite3.connect(file)
    count, size = connection.execute("SELECT count(*), sum(bytes) FROM embeddings_paid").fetchone()
    connection.close()
    assert 10 < count <= 20
    assert size <= 20_000


def test_contents_are_not_in_the_file(file: Path):
    """Only their hashes."""
    cached(DeterministicModel(), file).embed("a secret text")
    assert b"secret" not in file.read_bytes()


def test_an_unfit_vector_is_not_kept(session: Session, file: Path):
    """The model is asked again."""

    class Unfit(DeterministicModel):
        def embed_batch(self, items: Sequence[Any]) -> list[Any]:
            made = super().embed_batch(items)
            return [[float("nan")]] if len(self.calls) == 1 else made

    model = Unfit()
    docs = Collection("docs", session, model=cached(model, file))
    with pytest.raises(InvalidVectorError):
        docs.embed("a", "one")
    docs.embed("a", "one")
    assert len(model.calls) == 2


def test_processes_share_it(file: Path):
    """Several that write the same at once all succeed, and each vector is there once."""
    code = f"""
        import embeddings
        from embeddings.testing import DeterministicModel
        from tests.forked import together

        def work(_, begin):
            model = embeddings.cached(DeterministicModel(), "{file}")
            begin()
            for number in range(30):
                model.embed(f"text {{number}}")

        together(3, work)
    """
    done = python("-c", textwrap.dedent(code))
    assert done.returncode == 0, done.stderr
    connection = sqlite3.connect(file)
    assert connection.execute("SELECT count(*) FROM embeddings_paid").fetchone() == (30,)
    connection.close()


@pytest.mark.parametrize(
    "damaged",
    [b"", b"abc", bytes(1024 + 2), bytes(512), struct.pack("<256f", math.nan, *[1.0] * 255)],
    ids=["empty", "no floats", "cut off", "another length", "NaN"],
)
def test_a_damaged_row(file: Path, damaged: bytes, caplog: pytest.LogCaptureFixture):
    """It counts as not there, and is replaced; that is told once, without contents."""
    model = DeterministicModel()
    kept = cached(model, file)
    right = kept.embed_batch(["one", "two", "three"])
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE embeddings_paid SET vector = ? WHERE rowid < 3", (damaged,))
    connection.close()
    again = kept.embed_batch(["one", "two", "three"])
    assert np.array_equal(again, right)
    assert len(model.calls) == 2
    assert np.array_equal(kept.embed_batch(["one", "two", "three"]), right)
    assert len(model.calls) == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages == ["2 of the paid vectors are damaged, and are paid again"]


def test_what_came_beside_what_is_not_finite_is_kept(file: Path):
    """It was paid for; and the error tells of all items that were given."""

    class Odd(DeterministicModel):
        def embed_batch(self, items: Any) -> Any:
            made = super().embed_batch(items)
            return [
                vector * float("nan") if "odd" in item else vector
                for item, vector in zip(items, made, strict=True)
            ]

    model = Odd()
    kept = cached(model, file)
    kept.embed_batch(["a"])
    with pytest.raises(InvalidVectorError) as raised:
        kept.embed_batch(["odd", "a", "b"])
    assert (sorted(raised.value.made), raised.value.positions) == ([1, 2], (0,))
    kept.embed_batch(["a", "b"])
    assert model.calls == [["a"], ["odd", "b"]]


def test_a_file_that_is_deleted_is_made_anew(file: Path):
    """Also while a process has used it: whoever needs the room need not stop anything."""
    model = DeterministicModel()
    kept = cached(model, file)
    for _ in range(2):
        assert kept.embed("one") == kept.embed("one") == DeterministicModel().embed("one")
        file.unlink()
    assert model.calls == [["one"]] * 2


def test_an_error_tells_whose_database_it_is_about(file: Path):
    """Which is not that of the collection, and no model is paid."""
    file.write_bytes(b"no database" * 100)
    model = DeterministicModel()
    with pytest.raises(DatabaseError) as raised:
        cached(model, file).embed("one")
    assert "cached()" in "".join(raised.value.__notes__)
    assert model.calls == []


@pytest.mark.parametrize("is_known", [False, True], ids=["first", "again"])
def test_a_file_that_is_locked(file: Path, is_known: bool, monkeypatch: pytest.MonkeyPatch):
    """One statement waits for it, half of what the documentation says; the error says what is."""
    model = DeterministicModel()
    cached(DeterministicModel(), file).embed("one")
    kept = cached(model, file)
    if is_known:
        kept.embed("one")
    waited: list[float] = []

    opened: Any = sqlite3.connect

    def connect(*arguments: Any, timeout: float, **options: Any) -> Any:
        waited.append(timeout)
        return opened(*arguments, timeout=0, **options)

    monkeypatch.setattr(sqlite3.dbapi2, "connect", connect)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(UnavailableError) as raised:
        kept.embed("two")
    [seconds] = waited
    assert 0 < seconds <= module.WAIT / 2
    other.execute("ROLLBACK")
    other.execute("BEGIN IMMEDIATE")  # which lets others read
    assert kept.embed("two") == DeterministicModel().embed("two")
    other.close()
    told = str(raised.value)
    assert raised.value.is_retryable
    assert "paid.db" in told
    assert "lock" in told
    assert "no model was called" in told
    assert "can be written" not in told
    assert "PRAGMA" not in "".join(traceback.format_exception(raised.value))
    assert model.calls == [["two"]]


def test_all_waits_of_a_call_are_one(file: Path, monkeypatch: pytest.MonkeyPatch):
    """However many statements wait for others in turn; the next call has as long again."""
    kept = cached(DeterministicModel(), file)
    kept.embed("one")
    seconds = 0.0
    waited: list[float] = []

    opened: Any = sqlite3.connect

    def connect(*arguments: Any, timeout: float, **options: Any) -> Any:
        nonlocal seconds
        waited.append(2 * timeout)  # to write, and to commit
        seconds += 2 * timeout
        return opened(*arguments, timeout=timeout, **options)

    monkeypatch.setattr(module, "monotonic", lambda: seconds)
    monkeypatch.setattr(sqlite3.dbapi2, "connect", connect)
    for item in ("two", "three"):
        kept.embed(item)
        before, *after = waited
        assert (before, sum(after)) == (module.WAIT, module.WAIT)
        waited.clear()
    assert 2 * module.WAIT < 30  # after which a server ends a worker, which called the model too


def test_a_cache_that_cannot_be_written_costs_no_answer(file: Path, caplog):
    """What was paid for is returned, and a line of the log says why it was not kept."""
    model = DeterministicModel()
    kept = cached(model, file)
    kept.embed("one")
    connection = sqlite3.connect(file)
    connection.execute(
        "CREATE TRIGGER full BEFORE INSERT ON embeddings_paid BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    connection.commit()
    connection.close()
    assert kept.embed("two") == DeterministicModel().embed("two")
    assert "not kept" in caplog.text


def test_an_engine_with_one_connection_is_refused():
    """It would write in the caller's transaction."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with pytest.raises(BindingError, match="path of a file"):
        cached(DeterministicModel(), engine)
    engine.dispose()


def test_arguments_that_mean_nothing(file: Path):
    """Are refused."""
    wrong: Any
    for wrong in (0, -1, "1 GB", True):
        with pytest.raises(ValueError, match="max_bytes"):
            cached(DeterministicModel(), file, max_bytes=wrong)
    for wrong in ("sqlite:///paid.db", "postgresql://me:secret@host/paid"):
        with pytest.raises(ValueError, match=r"of a URL the engine: create_engine\(url\)$"):
            cached(DeterministicModel(), wrong)
    for wrong in ("", ":memory:"):
        with pytest.raises(ValueError, match=r"the path of a file, which '.*' is not"):
            cached(DeterministicModel(), wrong)
    for wrong in (None, 5, create_async_engine("sqlite+aiosqlite:///paid.db")):
        with pytest.raises(TypeError, match=r"Engine, as create_engine\(\) makes it, not"):
            cached(DeterministicModel(), wrong)
    with pytest.raises(TypeError, match="model="):
        cached("3-small", file)  # type: ignore[arg-type]
    assert not file.exists()

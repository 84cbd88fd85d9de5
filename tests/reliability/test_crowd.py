"""Many searches at once beside a writer: one reads the rows, and the others wait for it."""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
import sqlite3
import threading
from collections import Counter
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import embeddings
from embeddings import Collection
from embeddings.aio import AsyncCollection
from embeddings.databases.sqlite.matrix import build, statements, turns
from embeddings.databases.sqlite.matrix.cache import CACHE
from embeddings.databases.sqlite.matrix.candidates import Probes
from embeddings.searching import scan as scanning
from embeddings.searching.scan import scan
from embeddings.vectors import as_query
from embeddings.work.row import ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

SIZE = 8
ROWS_STORED = 1500
SET = "UPDATE embeddings SET embedding = ? WHERE collection_id = 1 AND id = ?"


@pytest.fixture(autouse=True)
def _cold() -> Iterator[None]:
    budget = CACHE.budget
    CACHE.clear()
    ROWS.clear()
    yield
    CACHE.budget = budget
    CACHE.clear()


@pytest.fixture(scope="module")
def stored(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the rows, to be copied: writing them for every test takes long."""
    path = tmp_path_factory.mktemp("stored") / "app.db"
    engine = create_engine(f"sqlite:///{shutil.copy(migrated, path)}")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    Collection("docs", engine, model_id="m").store_vectors(
        (f"{at:04}", v, {"at": at}) for at, v in enumerate(vectors(ROWS_STORED))
    )
    engine.dispose()
    return path


@pytest.fixture
def docs(engine: Engine, stored: Path) -> Collection[str]:
    shutil.copy(stored, str(engine.url.database))
    return Collection("docs", engine, model_id="m")


def vectors(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((count, SIZE), np.float32)


def write_elsewhere(engine: Engine, count: int, seed: int = 3) -> None:
    with closing(sqlite3.connect(str(engine.url.database), timeout=60)) as connection, connection:
        pairs = ((v.tobytes(), f"{at:04}") for at, v in enumerate(vectors(count, seed)))
        connection.executemany(SET, pairs)


def scanned(docs: Collection[Any], query: Any, **options: Any) -> list[tuple[Any, float]]:
    number = options.pop("number", 10)
    with docs.reference.work() as work:
        docs.reference.existing(work)
        asked = docs._query("similar", number, None, options)  # type: ignore[arg-type]
        rows = scan(work, as_query(query), asked).rows
    return [(row.id, row.score) for row in rows]


def found(entries: Any) -> list[tuple[Any, float]]:
    return [(entry.id, entry.score) for entry in entries]


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count how often the rows are read, by whom, and how many read at the same time."""
    counts: Counter[str] = Counter()
    now = 0

    def counting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def count(*arguments: Any, **options: Any) -> Any:
            nonlocal now
            counts[name] += 1
            now += 1
            counts["at once"] = max(counts["at once"], now)
            try:
                yield from real(*arguments, **options)
            finally:
                now -= 1

        return count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statements, "load", counting("loads", statements.load))
        reading = scanning._Reading
        patch.setattr(reading, "_parts", counting("scans", reading._parts))
        yield counts


def in_threads(count: int, act: Callable[[int], Any]) -> list[Any]:
    """Do something in so many threads at once, and return the results."""
    results: dict[int, Any] = {}
    start = threading.Barrier(count)

    def work(at: int) -> None:
        start.wait()
        try:
            results[at] = act(at)
        except BaseException as error:  # noqa: BLE001  it is compared in the test's own thread
            results[at] = error

    threads = [threading.Thread(target=work, args=(at,)) for at in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[at] for at in range(count)]


def search_in(engine: Engine, at: int) -> list[tuple[Any, float]]:
    with Session(engine) as session:
        return found(Collection("docs", session).similar_by_vector(vectors(16, 7)[at]))


# One reads, the others wait


@pytest.mark.parametrize("written", [1, 100, 1000])
def test_one_catches_up_and_the_others_wait(written: int, docs: Collection[str], engine: Engine):
    """Sixteen searches after a write: none of them scans, and few read what was written."""
    docs.warm()
    write_elsewhere(engine, written)
    expected = [scanned(docs, query) for query in vectors(16, 7)]
    with counted() as counts:
        assert in_threads(16, lambda at: search_in(engine, at)) == expected
    assert counts["scans"] == 0
    assert counts["loads"] <= 1 + (written > 1000)
    assert counts["at once"] <= 1


def test_a_cold_process_loads_once(docs: Collection[str], engine: Engine):
    """Of sixteen first searches one scans at most, one loads, and no two read at once."""
    expected = [scanned(docs, query) for query in vectors(16, 7)]
    with counted() as counts:
        assert in_threads(16, lambda at: search_in(engine, at)) == expected
    assert counts["loads"] == 1
    assert counts["scans"] <= 1
    assert counts["at once"] == 1


def test_scans_take_turns(docs: Collection[str], engine: Engine):
    """Without memory every search reads all rows, one after the other."""
    CACHE.budget = 0
    expected = [scanned(docs, query) for query in vectors(8, 7)]
    with counted() as counts:
        assert in_threads(8, lambda at: search_in(engine, at)) == expected
    assert counts == {"scans": 8, "at once": 1}


def test_sixteen_searchers_beside_a_writer(docs: Collection[str], engine: Engine):
    """Every answer is that of a scan of the same snapshot, whoever builds."""
    docs.warm()
    stop = threading.Event()

    def write() -> None:
        seed = 0
        while not stop.is_set():
            write_elsewhere(engine, 200, seed)
            seed += 1

    def search(at: int) -> int:
        wrong = 0
        with Session(engine) as session:
            docs = Collection("docs", session)
            for query in vectors(3, at):
                session.execute(text("BEGIN"))  # one snapshot for both
                wrong += found(docs.similar_by_vector(query)) != scanned(docs, query)
                session.rollback()
        return wrong

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert in_threads(16, search) == [0] * 16
    finally:
        stop.set()
        writer.join()


def test_a_snapshot_from_before_the_build_is_scanned(docs: Collection[str], engine: Engine):
    """A search that waited for a matrix of a later moment gives what its own session sees."""
    with Session(engine) as session:
        session.execute(text("BEGIN"))
        early = Collection("docs", session)
        assert early.count() == ROWS_STORED
        before = scanned(early, vectors(1, 7)[0])
        docs.warm()
        write_elsewhere(engine, 300)
        docs.warm()
        assert found(early.similar_by_vector(vectors(1, 7)[0])) == before
        session.rollback()


# A builder that does not finish


class DiedError(Exception):
    """What ends a builder in a test."""


def held(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException] | None = None
) -> tuple[threading.Event, threading.Event]:
    """Have the first load stop after its first part, and then go on or raise.

    Returns:
        What tells that it has stopped, and what ends that.
    """
    has_begun, may_go_on = threading.Event(), threading.Event()
    real = statements.load

    def load(*arguments: Any) -> Iterator[Any]:
        is_first = not has_begun.is_set()
        for part in real(*arguments):
            yield part
            if is_first:
                is_first = False
                has_begun.set()
                assert may_go_on.wait(60)
                if error:
                    raise error

    monkeypatch.setattr(statements, "load", load)
    return has_begun, may_go_on


@pytest.mark.parametrize("error", [DiedError, KeyboardInterrupt, asyncio.CancelledError])
def test_a_builder_that_dies_releases_its_turn(
    error: type[BaseException],
    docs: Collection[str],
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
):
    """Of those who waited for it one builds in its place."""
    has_begun, may_go_on = held(monkeypatch, error)
    results: list[Any] = []

    def build_and_die() -> None:
        with suppress(error):
            docs.warm()

    builder = threading.Thread(target=build_and_die)
    builder.start()
    assert has_begun.wait(60)
    waiting = [
        threading.Thread(target=lambda at=at: results.append((at, search_in(engine, at))))
        for at in range(4)
    ]
    for thread in waiting:
        thread.start()
    may_go_on.set()
    for thread in [builder, *waiting]:
        thread.join()
    assert dict(results) == {at: scanned(docs, vectors(16, 7)[at]) for at in range(4)}
    assert docs.status().strategy == "matrix"
    assert not turns._readers


def test_a_turn_is_taken_from_a_reader_that_stopped(
    docs: Collection[str], engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """A builder that makes no progress holds nobody up for ever, and does no harm when it ends."""
    monkeypatch.setattr(turns, "LOOK_SECONDS", 0.01)
    has_begun, may_go_on = held(monkeypatch)
    builder = threading.Thread(target=docs.warm)
    builder.start()
    assert has_begun.wait(60)
    assert search_in(engine, 0) == scanned(docs, vectors(16, 7)[0])
    may_go_on.set()
    builder.join()
    assert search_in(engine, 1) == scanned(docs, vectors(16, 7)[1])
    assert not turns._readers


def test_a_search_within_the_build_does_not_wait_for_it(docs: Collection[str], engine: Engine):
    """A host's listener to statements may search, in the thread that builds."""
    answers: list[Any] = []

    def search(_connection: object, _cursor: object, sql: str, *_: object) -> None:
        if "ORDER BY" not in sql and not answers and turns._readers:
            answers.append(None)
            answers[0] = search_in(engine, 0)

    event.listen(engine, "before_cursor_execute", search)
    docs.warm()
    event.remove(engine, "before_cursor_execute", search)
    assert answers == [scanned(docs, vectors(16, 7)[0])]


def test_who_waits_has_one_connection(docs: Collection[str], engine: Engine):
    """The builder needs no second one: a pool with a connection for each search is enough."""
    engine.dispose()
    narrow = create_engine(engine.url, pool_size=4, max_overflow=0, pool_timeout=30)
    assert in_threads(4, lambda at: search_in(narrow, at)) == [
        scanned(docs, query) for query in vectors(16, 7)[:4]
    ]
    narrow.dispose()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_does_not_wait_for_its_parents_builder(
    docs: Collection[str], engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """What the parent's other threads read is no matter of the child's."""
    has_begun, may_go_on = held(monkeypatch)
    builder = threading.Thread(target=docs.warm)
    builder.start()
    assert has_begun.wait(60)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_search_in_child, args=(str(engine.url), results))
    child.start()
    assert results.get(timeout=60) == [id for id, _ in scanned(docs, vectors(16, 7)[0])]
    child.join()
    may_go_on.set()
    builder.join()


def _search_in_child(url: str, results: Any) -> None:
    assert not turns._readers
    results.put([id for id, _ in search_in(create_engine(url), 0)])


# asyncio


def run_awaited(engine: Engine, act: Callable[[Any], Any]) -> Any:
    async def run() -> Any:
        awaited = create_async_engine(engine.url.set(drivername="sqlite+aiosqlite"), pool_size=20)
        try:
            return await act(awaited)
        finally:
            await awaited.dispose()

    return asyncio.run(run())


async def search_awaited(awaited: Any, at: int) -> list[tuple[Any, float]]:
    async with AsyncSession(awaited) as session:
        docs = AsyncCollection("docs", session)
        return found(await docs.similar_by_vector(vectors(16, 7)[at]))


@pytest.mark.parametrize("written", [None, 100, 1000])
def test_tasks_wait_for_one(written: int | None, docs: Collection[str], engine: Engine):
    """In one event loop as in threads."""
    if written is not None:
        docs.warm()
        write_elsewhere(engine, written)

    async def search_all(awaited: Any) -> Any:
        return await asyncio.gather(*(search_awaited(awaited, at) for at in range(16)))

    expected = [scanned(docs, query) for query in vectors(16, 7)]
    with counted() as counts:
        assert run_awaited(engine, search_all) == expected
    assert counts["loads"] == 1
    assert counts["scans"] <= (written is None)
    assert counts["at once"] == 1


def test_who_waits_asks_only_for_its_answer(docs: Collection[str], engine: Engine):
    """Of sixteen searches one asks where the log is; all find out by a statement, and ask again."""
    asked: list[str] = []

    async def search_all(awaited: Any) -> Any:
        for at in range(3):
            await search_awaited(awaited, at)
        write_elsewhere(engine, 1000)
        event.listen(
            awaited.sync_engine, "before_cursor_execute", lambda *given: asked.append(given[2])
        )
        return await asyncio.gather(*(search_awaited(awaited, at) for at in range(16)))

    with counted() as counts:
        answers = run_awaited(engine, search_all)
    assert answers == [scanned(docs, query) for query in vectors(16, 7)]
    assert counts["loads"] == 2
    assert len(asked) <= 2 * 16 + 6  # the one: where the log is, three times at most, and the rows


def test_the_loop_comes_round_between_two_searches(
    docs: Collection[str], engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """Searches that begin together do not compute one after the other while all else stands."""
    rounds = 0
    computed: list[int] = []
    real = Probes.candidates

    def candidates(*arguments: Any) -> Any:
        computed.append(rounds)
        return real(*arguments)

    monkeypatch.setattr(Probes, "candidates", candidates)

    async def search_all(awaited: Any) -> Any:
        async def count() -> None:
            nonlocal rounds
            while True:
                rounds += 1
                await asyncio.sleep(0)

        for at in range(3):
            await search_awaited(awaited, at)
        computed.clear()
        counting = asyncio.create_task(count())
        found = await asyncio.gather(*(search_awaited(awaited, at) for at in range(16)))
        counting.cancel()
        return found

    assert run_awaited(engine, search_all) == [scanned(docs, query) for query in vectors(16, 7)]
    assert len(computed) == len(set(computed)) == 16


def test_the_loop_goes_on_while_tasks_wait(
    docs: Collection[str], engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """While a thread builds, tasks that wait for it let others run; one of them is cancelled."""
    has_begun, may_go_on = held(monkeypatch)
    builder = threading.Thread(target=docs.warm)
    builder.start()
    assert has_begun.wait(60)

    async def act(awaited: Any) -> Any:
        tasks = [asyncio.create_task(search_awaited(awaited, at)) for at in range(3)]
        while len(waiting) < 3:
            await asyncio.sleep(0.001)
        for _ in range(100):  # all while the builder stands still
            await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        assert not tasks[1].done()
        may_go_on.set()
        return await asyncio.gather(*tasks[1:])

    waiting: list[Any] = []
    real = turns.wait

    def wait(*arguments: Any) -> bool:
        waiting.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(build, "wait", wait)
    answers = run_awaited(engine, act)
    builder.join()
    assert answers == [scanned(docs, query) for query in vectors(16, 7)[1:3]]
    assert not turns._readers


def test_a_task_that_builds_is_cancelled(
    docs: Collection[str], engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """Between two parts of the rows; another task builds then."""
    monkeypatch.setattr(statements, "CHUNK_ROWS", 10)
    parts = []

    async def act(awaited: Any) -> Any:
        async def warm() -> None:
            async with AsyncSession(awaited) as session:
                await AsyncCollection("docs", session).warm()

        real = turns.Reader.has_read

        def has_read(reader: turns.Reader) -> None:
            parts.append(reader)
            if len(parts) == 5:
                builder.cancel()
            real(reader)

        monkeypatch.setattr(turns.Reader, "has_read", has_read)
        builder = asyncio.create_task(warm())
        other = asyncio.create_task(search_awaited(awaited, 0))
        with pytest.raises(asyncio.CancelledError):
            await builder
        return await other

    assert run_awaited(engine, act) == scanned(docs, vectors(16, 7)[0])
    assert parts.count(parts[0]) < 10
    assert not turns._readers


# Warming up, and what does not fit


def test_the_first_search_after_warm_reads_no_rows(docs: Collection[str], engine: Engine):
    """Whoever warmed it, another object and another session find it."""
    docs.warm()
    assert docs.status().rows == ROWS_STORED
    with counted() as counts:
        assert search_in(engine, 0)
    assert not counts


def test_warm_of_nothing(engine: Engine):
    """Neither a collection that does not exist nor an empty one is an error."""
    empty = Collection("empty", engine, model_id="m")
    empty.warm()
    empty.store_vectors([("a", [1.0] * SIZE)])
    empty.delete_items(["a"])
    empty.warm()
    assert empty.similar_by_vector([1.0] * SIZE) == []


def test_what_does_not_fit_is_warned_of_once(docs: Collection[str], engine: Engine):
    """With the call that mends it; neither by the status nor where nothing is to be kept."""
    CACHE.budget = 0
    search_in(engine, 0)
    CACHE.budget = 20_000
    docs.status()
    with pytest.warns(embeddings.MemoryBudgetWarning, match="'docs'") as warned:
        search_in(engine, 0)
    for _ in range(3):
        search_in(engine, 0)
        docs.warm()
    needed = int(str(warned[0].message).split("set_memory_budget(")[1].split(")")[0])
    embeddings.set_memory_budget(needed)
    docs.warm()
    assert docs.status().strategy == "matrix"


def test_warm_warns_as_a_search_does(docs: Collection[str]):
    """A program finds out when it starts."""
    CACHE.budget = 20_000
    with pytest.warns(embeddings.MemoryBudgetWarning):
        docs.warm()


def test_many_queries_over_the_budget_read_the_rows_once(docs: Collection[str]):
    """Each gets its own answer all the same."""
    CACHE.budget = 0
    queries = vectors(20, 7)
    expected = [scanned(docs, query, number=4) for query in queries]
    with counted() as counts:
        answers = docs.similar_multi_by_vector(queries, number=4)
    assert [found(entries) for entries in answers] == expected
    assert counts == {"scans": 1, "at once": 1}


@pytest.mark.parametrize("budget", [0, None])
@pytest.mark.parametrize(
    ("number", "offset"),
    [(ROWS_STORED, 0), (10**6, 0), (10, ROWS_STORED - 5), (1200, 100), (700, 3), (10**18, 10**18)],
)
def test_any_number_and_offset(
    number: int, offset: int, budget: int | None, docs: Collection[str], engine: Engine
):
    """What NumPy makes of all rows, whether they are read by their ids or all at once."""
    if budget is not None:
        CACHE.budget = budget
    else:
        docs.warm()
    query = vectors(1, 9)[0]
    stored = vectors(ROWS_STORED).astype(float)
    scores = stored @ query / np.linalg.norm(stored, axis=1) / np.linalg.norm(query)
    best = np.argsort(-scores)[offset : offset + number]
    for entries in (
        docs.similar_by_vector(query, number, offset=offset),
        docs.similar_multi_by_vector([query, query], number, offset=offset)[1],
    ):
        assert [entry.id for entry in entries] == [f"{at:04}" for at in best.tolist()]
        assert [entry.metadata for entry in entries] == [{"at": at} for at in best.tolist()]
        assert np.allclose([entry.score for entry in entries], scores[best])


def _share_of(path: str, results: Any, is_read: Any) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with counted() as counts:
        search_in(engine, 0)
    results.put(dict(counts))
    is_read.wait(60)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_share_what_their_parent_loaded(docs: Collection[str], engine: Engine):
    """A fork after `warm` reads no rows again: what is in memory belongs to the database."""
    docs.warm()
    engine.dispose()
    context = multiprocessing.get_context("fork")
    results, is_read = context.Queue(), context.Event()
    path = str(engine.url.database)
    workers = [context.Process(target=_share_of, args=(path, results, is_read)) for _ in range(4)]
    for worker in workers:
        worker.start()
    # Another engine: the second search of it finds the matrix by the database's own name.
    assert [results.get(timeout=60).get("loads", 0) for _ in workers] == [0] * 4
    is_read.set()
    for worker in workers:
        worker.join()

"""Many searches at once beside a writer: the slowest of them against the same work in turn.

    python -m benchmarks.crowd [--rows 200000] [--dimensions 384] [--rounds 3] [--most 32]

The slowest of k searches at once is divided by what it takes to bring one search's matrix up to
date, alone, plus k warm searches, one after the other. Without memory it is divided by k scans,
one after the other. In threads each search has a Session; under asyncio, an AsyncSession. The
second ratio is that of the processor's time, which other work on the machine hardly changes.

At the end, the memory (PSS) of four workers forked after `warm()`, divided by that of one.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import AsyncAdaptedQueuePool, QueuePool

import embeddings
from embeddings import Collection
from embeddings.aio import AsyncCollection
from embeddings.databases.sqlite.matrix.cache import CACHE
from embeddings.work.row import ROWS

if TYPE_CHECKING:
    from collections.abc import Callable

AT_ONCE = (1, 2, 4, 8, 16, 32)
WRITTEN = (1, 100, 1_000, 10_000)

WRITER = """
import sqlite3, sys, numpy as np
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
rows, dimensions, seed = map(int, sys.argv[2:])
generator = np.random.default_rng(seed)
for line in sys.stdin:
    count = int(line)
    ids = generator.choice(rows, count, replace=False)
    vectors = generator.standard_normal((count, dimensions), np.float32)
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(
        "UPDATE embeddings SET embedding = ? WHERE collection_id = 1 AND id = ?",
        [(v.tobytes(), f"{i:06}") for i, v in zip(ids.tolist(), vectors)])
    connection.execute("COMMIT")
    print("done", flush=True)
"""


class Taken(NamedTuple):
    """What some searches took.

    Attributes:
        slowest: Seconds from their common start to the end of the slowest.
        processor: Seconds of the processor for all of them.
    """

    slowest: float
    processor: float


class Crowd:
    """A collection in a file, and ways to search it many times at once."""

    def __init__(self, folder: str, rows: int, dimensions: int) -> None:
        self.rows, self.dimensions = rows, dimensions
        path = Path(folder) / "crowd.db"
        generator = np.random.default_rng(0)
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        options: dict[str, Any] = {"pool_size": 40}
        self.engine = create_engine(f"sqlite:///{path}", poolclass=QueuePool, **options)
        self.awaited = create_async_engine(
            f"sqlite+aiosqlite:///{path}", poolclass=AsyncAdaptedQueuePool, **options
        )
        embeddings.migrate(self.engine)
        with Session(self.engine) as session:
            vectors = generator.standard_normal((rows, dimensions), np.float32)
            pairs = ((f"{at:06}", vector) for at, vector in enumerate(vectors))
            Collection("docs", session, model_id="fake").store_vectors(pairs, batch_size=1000)
            session.commit()
        self.queries = generator.standard_normal((64, dimensions), np.float32)
        self.writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(rows), str(dimensions), "1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def write(self, count: int) -> None:
        """Have another process write so many rows."""
        assert self.writer.stdin
        assert self.writer.stdout
        self.writer.stdin.write(f"{count}\n")
        self.writer.stdin.flush()
        self.writer.stdout.readline()

    def in_threads(self, count: int) -> Taken:
        """Search so often at once."""
        begun: list[tuple[float, float]] = []
        # Before any of them goes on: else one may have searched before the clock is read.
        ready = threading.Barrier(count, action=lambda: begun.append(_clocks()))
        taken: list[float] = []

        def search(at: int) -> None:
            with Session(self.engine) as session:
                session.connection()
                ready.wait()
                Collection("docs", session).similar_by_vector(self.queries[at])
                taken.append(time.perf_counter())

        threads = [threading.Thread(target=search, args=(at,)) for at in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        start, used = begun[0]
        return Taken(max(taken) - start, time.process_time() - used)

    def in_tasks(self, count: int) -> Taken:
        """Search so often at once, in one event loop."""

        async def search(
            at: int, ready: asyncio.Barrier, may_begin: asyncio.Event, taken: list[float]
        ) -> None:
            async with AsyncSession(self.awaited) as session:
                await session.connection()
                await ready.wait()
                await may_begin.wait()
                await AsyncCollection("docs", session).similar_by_vector(self.queries[at])
                taken.append(time.perf_counter())

        async def search_all() -> Taken:
            ready, may_begin = asyncio.Barrier(count + 1), asyncio.Event()
            taken: list[float] = []
            tasks = [
                asyncio.create_task(search(at, ready, may_begin, taken)) for at in range(count)
            ]
            await ready.wait()  # the last to come goes on at once
            start, used = _clocks()
            may_begin.set()
            await asyncio.gather(*tasks)
            used = time.process_time() - used
            await self.awaited.dispose()
            return Taken(max(taken) - start, used)

        return asyncio.run(search_all())


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def forget() -> None:
    """Make this process a cold one."""
    CACHE.clear()
    ROWS.clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=int, default=AT_ONCE[-1])
    parser.add_argument("--workers", nargs=2, type=int, default=(100_000, 1536))
    parser.add_argument("--only-workers", action="store_true")
    options = parser.parse_args()
    if options.only_workers:
        workers(*options.workers)
        return
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {options.rounds} rounds")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        crowd = Crowd(folder, options.rows, options.dimensions)
        for way, search in (("threads", crowd.in_threads), ("asyncio", crowd.in_tasks)):
            _compare(crowd, way, search, options.rounds, options.most)
        assert crowd.writer.stdin
        crowd.writer.stdin.close()
        crowd.writer.wait()
    workers(*options.workers)


def _compare(
    crowd: Crowd, way: str, search: Callable[[int], Taken], rounds: int, most: int
) -> None:
    counts = [count for count in AT_ONCE if count <= most]

    def written(count: int) -> Callable[[], None]:
        def prepare() -> None:
            search(1)
            search(1)
            crowd.write(count)

        return prepare

    def alone(prepare: Callable[[], None]) -> Taken:
        prepare()
        if prepare is forget:
            search(1)  # the second search of a process builds
        return search(1)

    def median_of(count: int) -> Taken:
        taken = [search(1) for _ in range(count)]
        return Taken(*(statistics.median(seconds) for seconds in zip(*taken, strict=True)))

    events = {"a cold process": forget} | {
        f"{count:,} rows were written": written(count) for count in WRITTEN if count < crowd.rows
    }
    for event, prepare in events.items():
        for count in counts:
            ratios, slowest = [], []
            for _ in range(rounds):
                first, one = alone(prepare), median_of(9)
                prepare()
                taken = search(count)
                slowest.append(taken.slowest)
                ratios.append(
                    Taken(*(k / (a + count * w) for k, a, w in zip(taken, first, one, strict=True)))
                )
            _print(f"{way}, {event}, {count} at once", ratios, slowest, "1.5")
    budget = CACHE.budget
    CACHE.budget = 0
    for count in counts[1:]:
        ratios, slowest = [], []
        for _ in range(rounds):
            forget()
            one, taken = median_of(3), search(count)
            slowest.append(taken.slowest)
            ratios.append(Taken(*(k / (count * w) for k, w in zip(taken, one, strict=True))))
        _print(f"{way}, without memory, {count} at once", ratios, slowest, "1.2")
    CACHE.budget = budget


def _print(name: str, ratios: list[Taken], slowest: list[float], target: str) -> None:
    walls, processors = (sorted(each) for each in zip(*ratios, strict=True))
    print(
        f"{name:46} {statistics.median(walls):6.2f}  ({walls[0]:.2f} to {walls[-1]:.2f})"
        f"   processor {statistics.median(processors):6.2f}"
        f"   slowest {statistics.median(slowest) * 1000:9.1f} ms   to reach: {target}",
        flush=True,
    )


def _pss() -> int:
    """Return the bytes of this process, of shared pages its share."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _work(url: str, queries: Any, results: Any, all_ready: Any, may_end: Any) -> None:
    engine = create_engine(url)
    with Session(engine) as session:
        docs = Collection("docs", session)
        for query in queries:
            docs.similar_by_vector(query)
        all_ready.wait()  # a page that several have is counted among them
        results.put(_pss())
        may_end.wait()


def workers(rows: int, dimensions: int) -> None:
    """Print the memory of four workers forked after `warm()`, as a ratio to that of one."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        crowd = Crowd(folder, rows, dimensions)
        assert crowd.writer.stdin
        crowd.writer.stdin.close()
        crowd.writer.wait()
        docs = Collection("docs", crowd.engine)
        context = multiprocessing.get_context("fork")

        def measured(count: int) -> int:
            results, all_ready, may_end = (
                context.Queue(),
                context.Barrier(count),
                context.Barrier(count + 1),
            )
            given = (str(crowd.engine.url), crowd.queries, results, all_ready, may_end)
            forked = [context.Process(target=_work, args=given) for _ in range(count)]
            for process in forked:
                process.start()
            total = int(sum(results.get() for _ in forked)) + _pss()
            may_end.wait()
            for process in forked:
                process.join()
            return total

        docs.warm()
        assert docs.status().strategy == "matrix"
        crowd.engine.dispose()
        gc.freeze()
        one, four = measured(1), measured(4)
        print(
            f"{rows:,} x {dimensions}, four workers and their parent / one worker and its parent: "
            f"{four / one:.2f} ({four >> 20} MB against {one >> 20} MB)   to reach: 1.5",
            flush=True,
        )


if __name__ == "__main__":
    main()

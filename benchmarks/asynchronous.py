"""Bulk writes by asyncpg against psycopg, on one server, in alternation; and the event loop's lag.

    python -m tests.server python -m benchmarks.asynchronous [--rows 5000] [--rounds 5]

The ratio is a median of paired rounds. The lag is the most by which a task that sleeps for a
millisecond woke up late while the rows were written; the stretch is the most CPU time between two
of its turns, which other programs on the machine do not change.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time

import numpy as np
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

import embeddings
from embeddings import AsyncCollection

DIMENSIONS = 1536
DRIVERS = ("psycopg", "asyncpg")


async def pulse(late: list[float], stretches: list[float]) -> None:
    """Note by how much the loop was late, and the CPU time of its thread, until cancelled."""
    while True:
        began, used = time.perf_counter(), time.thread_time()
        await asyncio.sleep(0.001)
        late.append(time.perf_counter() - began - 0.001)
        stretches.append(time.thread_time() - used)


async def measure(urls: dict[str, str], rows: int, rounds: int) -> None:
    """Print the figures."""
    engines = {driver: create_async_engine(url) for driver, url in urls.items()}
    matrix = np.random.default_rng(0).standard_normal((rows, DIMENSIONS)).astype(np.float32)
    entries = [(f"{number:06}", vector) for number, vector in enumerate(matrix)]
    times: dict[str, list[float]] = {driver: [] for driver in urls}
    lags: dict[str, list[float]] = {driver: [] for driver in urls}
    longest: dict[str, list[float]] = {driver: [] for driver in urls}
    for _ in range(rounds):
        for driver, engine in engines.items():
            async with engine.begin() as connection:
                await connection.execute(text("TRUNCATE collections, embeddings RESTART IDENTITY"))
            docs = AsyncCollection[str]("docs", engine, model_id="none")
            late: list[float] = []
            stretches: list[float] = []
            pulsing = asyncio.create_task(pulse(late, stretches))
            await asyncio.sleep(0.01)
            began = time.perf_counter()
            await docs.store_vectors(entries)
            times[driver].append(time.perf_counter() - began)
            pulsing.cancel()
            lags[driver].append(max(late))
            longest[driver].append(max(stretches))
    for driver in urls:
        print(
            f"{driver:8} {statistics.median(times[driver]):.2f} s for {rows:,} x {DIMENSIONS}, "
            f"lag at most {1000 * statistics.median(lags[driver]):.1f} ms, "
            f"stretch {1000 * statistics.median(longest[driver]):.1f} ms"
        )
    pairs = zip(times["asyncpg"], times["psycopg"], strict=True)
    print(f"asyncpg / psycopg: {statistics.median(one / other for one, other in pairs):.2f}")
    for engine in engines.values():
        await engine.dispose()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    url = make_url(os.environ["POSTGRESQL_URL"])
    engine = create_engine(url.set(drivername="postgresql+psycopg"))
    embeddings.migrate(engine)
    engine.dispose()
    urls = {
        driver: url.set(drivername=f"postgresql+{driver}").render_as_string(hide_password=False)
        for driver in DRIVERS
    }
    asyncio.run(measure(urls, options.rows, options.rounds))


if __name__ == "__main__":
    main()

"""Draws the time of a search over the number of rows, for all contestants.

    python -m benchmarks.latency [--rows 1000 10000 ...] [--output benchmarks/latency.svg]

Vectors of 384 dimensions, one thread, ten results. A contestant that takes too long to search, or
to be filled, at some size is not asked for more rows.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from sqlalchemy.orm import Session

import embeddings
from benchmarks.contestants import (
    QUERIES,
    Data,
    chroma_search,
    faiss_search,
    llm_search,
    per_query,
    vec0_search,
    warmed,
)
from embeddings import Collection

if TYPE_CHECKING:
    from collections.abc import Callable

DIMENSIONS = 384
ROUNDS = 5
SLOW, SLOW_TO_FILL = 0.5, 10.0  # seconds; ten times the rows would take ten times as long
THIS, SCAN = "this library", "this library, reading every row"
PEERS = {
    "FAISS IndexFlatIP": faiss_search,
    "Chroma, approximate": chroma_search,
    "sqlite-vec vec0": vec0_search,
    "llm": llm_search,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    sizes = [1_000, 10_000, 100_000, 1_000_000]
    parser.add_argument("--rows", type=int, nargs="+", default=sizes)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/latency.svg"))
    options = parser.parse_args()
    points: dict[str, list[tuple[int, float]]] = {}
    too_slow: set[str] = set()
    for rows in sorted(options.rows):
        data = Data(rows, DIMENSIONS)
        for name, taken in measured(data, too_slow):
            points.setdefault(name, []).append((rows, taken))
            print(f"{data}, {name:34} {taken * 1000:10.2f} ms", flush=True)
    draw(points, options.output)


def measured(data: Data, too_slow: set[str]) -> list[tuple[str, float]]:
    """Return the median seconds of a search by name, and add to the names of the slow ones."""
    results = []
    with Session(data.engine) as session:
        docs = Collection("docs", session)
        for name, budget in ((SCAN, 0), (THIS, 2 * data.rows * DIMENSIONS)):
            if name in too_slow:
                continue
            embeddings.set_memory_budget(budget)
            if name == THIS:
                warmed(docs, data)
            results.append((name, timed(name, data, docs.similar_by_vector, too_slow)))
    for name, make in PEERS.items():
        if name in too_slow:
            continue
        start = time.perf_counter()
        search = make(data)
        if time.perf_counter() - start > SLOW_TO_FILL:
            too_slow.add(name)
        results.append((name, timed(name, data, search, too_slow)))
        del search
        gc.collect()
    return results


def timed(name: str, data: Data, search: Callable[[Any], object], too_slow: set[str]) -> float:
    first = per_query(data, search, 1)
    if first > SLOW:
        too_slow.add(name)
        return first
    count = QUERIES if first < SLOW / 10 else 2
    return statistics.median(per_query(data, search, count) for _ in range(ROUNDS))


def draw(points: dict[str, list[tuple[int, float]]], output: Path) -> None:
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "latency", "font.size": 10})
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for name, line in points.items():
        is_ours = name == THIS
        axes.loglog(
            [rows for rows, _ in line],
            [taken * 1000 for _, taken in line],
            marker="o",
            markersize=4,
            linewidth=2.5 if is_ours else 1.2,
            linestyle="--" if name == SCAN else "-",
            color="black" if name in {THIS, SCAN} else None,
            label=name,
        )
    axes.set_xlabel(f"rows of {DIMENSIONS} dimensions")
    axes.set_ylabel("milliseconds a search, one thread")
    axes.grid(visible=True, which="major", linewidth=0.4)
    axes.legend(frameon=False, fontsize=9)
    figure.patch.set_facecolor("white")  # readable on a dark page, too
    figure.savefig(output, metadata={"Date": None})


if __name__ == "__main__":
    main()

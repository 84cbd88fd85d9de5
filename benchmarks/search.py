"""Searches of SQLite against other ways to do the same, all measured in this one run.

    python -m benchmarks.search [--rounds 7] [--quick]

One thread; each figure is a median of paired rounds: this library's whole call through an open
Session, ten entries back, divided by the peer's time in the same round.
"""

from __future__ import annotations

import argparse
import ast
import gc
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

import embeddings
from benchmarks.contestants import (
    FOLDER,
    QUERIES,
    Data,
    chroma_search,
    faiss_search,
    llm_search,
    per_query,
    vec0_search,
    warmed,
)
from benchmarks.measure import ratio, seconds
from embeddings import Collection, EmbeddingRecord
from embeddings.databases.sqlite.matrix import candidates as screen
from embeddings.databases.sqlite.matrix import rescore, statements
from embeddings.searching.conditions import checked_where, where_condition
from embeddings.work.operation import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for line in sys.stdin:
    id, vector = line.split()
    connection.execute("UPDATE embeddings SET embedding = ? WHERE collection_id = 1 AND id = ?",
                       (bytes.fromhex(vector), id))
    print("done", flush=True)
"""


def reader(data: Data) -> Callable[[], object]:
    """Return what reads as many bytes as the int8 matrix has, once."""
    words = np.ones(data.rows * data.dimensions // 8, np.int64)
    return lambda: np.bitwise_or.reduce(words)


def bandwidth(data: Data) -> float:
    """Return the seconds in which this machine reads the int8 matrix once."""
    read = reader(data)
    return min(seconds(read) for _ in range(9))


def breakdown(docs: Collection[str], data: Data) -> None:
    """Print of what a warm search consists."""
    spent: dict[str, float] = {}

    def timed(module: Any, name: str, label: str) -> Callable[[], None]:
        real = getattr(module, name)

        def call(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return real(*arguments, **options)
            finally:
                spent[label] = spent.get(label, 0.0) + time.perf_counter() - start

        setattr(module, name, call)
        return lambda: setattr(module, name, real)

    undo = [
        timed(screen, "inner_products", "int8 products"),
        timed(screen.Probes, "candidates", "choice of candidates"),
        timed(Work, "run_kept", "the statement"),
        timed(statements, "Answer", "its rows"),
        timed(rescore.Rescored, "read", "exact scores"),
    ]
    total = per_query(data, docs.similar_by_vector)
    for restore in undo:
        restore()
    spent["choice of candidates"] -= spent["int8 products"]
    spent["the rest"] = total * QUERIES - sum(spent.values())
    parts = ", ".join(f"{label} {taken / QUERIES * 1000:.2f}" for label, taken in spent.items())
    once = bandwidth(data)
    print(f"    of {total * 1000:.2f} ms: {parts}")
    print(
        f"{f'{data}, warm / reading the int8 matrix once from memory':66} {total / once:8.4f}"
        f"   {once * 1000:.2f} ms, {data.rows * data.dimensions / once / 1e9:.0f} GB/s",
        flush=True,
    )


def compare(data: Data, peers: dict[str, tuple[Any, str, int]], rounds: int) -> None:
    with Session(data.engine) as session:
        docs = Collection("docs", session)
        warmed(docs, data)
        for name, (make, target, count) in peers.items():
            search = make(data)
            ratio(
                f"{data}, warm / {name}",
                lambda: per_query(data, docs.similar_by_vector),
                lambda search=search, count=count: per_query(data, search, count),  # type: ignore[misc]
                rounds if count == QUERIES else 3,
                target,
            )
            del search
            gc.collect()
        breakdown(docs, data)


def real_texts(rounds: int) -> None:
    """Docstrings of the standard library, embedded by the local model."""
    texts: set[str] = set()
    for path in Path(sysconfig.get_path("stdlib")).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (
                doc := ast.get_docstring(node)
            ):
                texts.add(f"{node.name}: {doc}")
    model = embeddings.get_embedding_model("local")
    data = object.__new__(Data)
    data.matrix = np.array(list(model.embed_multi(sorted(texts))), np.float32)
    data.rows, data.dimensions = data.matrix.shape
    data.queries = data.matrix[:: data.rows // QUERIES][:QUERIES] + np.float32(0.01)
    data.ids = [str(at) for at in range(data.rows)]
    data.path = Path(FOLDER.name) / "real.db"
    data.engine = create_engine(f"sqlite:///{data.path}")
    data._write()
    print("docstrings of the standard library, embedded by the local model:")
    compare(data, {"FAISS IndexFlatIP": (faiss_search, "-", QUERIES)}, rounds)


def after_a_write(data: Data, rounds: int) -> None:
    """The first search after one row was written, by this process and by another."""
    connection = sqlite3.connect(data.path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    other = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(data.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdin
    assert other.stdout
    generator = np.random.default_rng(5)
    with Session(data.engine) as session:
        docs = Collection("docs", session)
        warmed(docs, data)

        def here() -> None:
            with Session(data.engine) as writing:
                vector = generator.standard_normal(data.dimensions, np.float32)
                id = data.ids[generator.integers(data.rows)]
                Collection("docs", writing).store_vectors([(id, vector)])
                writing.commit()

        def elsewhere() -> None:
            vector = generator.standard_normal(data.dimensions, np.float32)
            id = data.ids[generator.integers(data.rows)]
            other.stdin.write(f"{id} {vector.tobytes().hex()}\n")  # type: ignore[union-attr]
            other.stdin.flush()  # type: ignore[union-attr]
            other.stdout.readline()  # type: ignore[union-attr]

        def first(write: Callable[[], None]) -> float:
            taken = 0.0
            for query in data.queries:
                write()
                start = time.perf_counter()
                docs.similar_by_vector(query)
                taken += time.perf_counter() - start
            return taken / QUERIES

        for name, write in (("this process", here), ("another process", elsewhere)):
            ratio(
                f"{data}, first after a write by {name} / warm",
                lambda write=write: first(write),  # type: ignore[misc]
                lambda: per_query(data, docs.similar_by_vector),
                rounds,
                "1.5",
            )
    other.stdin.close()
    other.wait()
    connection.close()


def filters(data: Data, rounds: int) -> None:
    where = {"part": 7}
    columns = EmbeddingRecord.__table__.c
    with Session(data.engine) as session:
        docs = Collection("docs", session)
        warmed(docs, data)
        ratio(
            f"{data}, prefix that keeps 1 % / warm",
            lambda: per_query(data, lambda q: docs.similar_by_vector(q, prefix="07-")),
            lambda: per_query(data, docs.similar_by_vector),
            rounds,
            "0.5",
        )
        with docs.reference.work() as work:
            has_part = where_condition(work, checked_where(work.records, where))
        ids = select(columns.id).where(columns.collection_id == docs.id, has_part)
        ratio(
            f"{data}, where that keeps 1 % / SELECT id",
            lambda: per_query(data, lambda q: docs.similar_by_vector(q, where=where), 3),
            lambda: per_query(data, lambda _: session.execute(ids).all(), 3),
            rounds,
            "1.3",
        )
        half = EmbeddingRecord.id >= "50"
        ratio(
            f"{data}, where that keeps half / warm",
            lambda: per_query(data, lambda q: docs.similar_by_vector(q, where=half)),
            lambda: per_query(data, docs.similar_by_vector),
            rounds,
            "-",
        )
        ratio(
            f"{data}, similar_multi of {QUERIES} / one after the other",
            lambda: per_query(data, lambda _: docs.similar_multi_by_vector(data.queries), 1),
            lambda: QUERIES * per_query(data, docs.similar_by_vector),
            rounds,
            "-",
        )


def many(data: Data, rounds: int) -> None:
    """As many results as one likes, against reading all rows and ranking them with NumPy.

    The peer gives the same: ids, scores, contents and metadata of the part that is asked for.
    """
    connection = sqlite3.connect(data.path)
    query = data.queries[0]

    def read_and_rank(number: int, offset: int) -> list[Any]:
        rows = connection.execute(
            "SELECT id, embedding, content, metadata FROM embeddings WHERE collection_id = 1"
        ).fetchall()
        matrix = np.frombuffer(b"".join(row[1] for row in rows), np.float32)
        matrix = matrix.reshape(len(rows), -1)
        scores = matrix @ query / np.linalg.norm(matrix, axis=1) / np.linalg.norm(query)
        best = np.argsort(-scores, kind="stable")[offset : offset + number].tolist()
        return [
            (rows[at][0], float(scores[at]), rows[at][2], json.loads(rows[at][3])) for at in best
        ]

    shares = [(data.rows, 0), (data.rows // 2, 0), (data.rows // 10, 0), (10, data.rows * 9 // 10)]
    with Session(data.engine) as session:
        docs = Collection("docs", session)
        warmed(docs, data)
        for number, offset in shares:
            ratio(
                f"{data}, number={number}, offset={offset} / reading and ranking all",
                lambda n=number, o=offset: seconds(  # type: ignore[misc]
                    lambda: docs.similar_by_vector(query, n, offset=o)
                ),
                lambda n=number, o=offset: seconds(lambda: read_and_rank(n, o)),  # type: ignore[misc]
                rounds,
                "2",
            )
    connection.close()


def threads(data: Data, rounds: int) -> None:
    read = reader(data)

    def search_all() -> Iterator[None]:
        with Session(data.engine) as session:
            docs = Collection("docs", session)
            docs.similar_by_vector(data.queries[0])
            yield
            for query in data.queries:
                docs.similar_by_vector(query)

    def read_all() -> Iterator[None]:
        yield
        for _ in data.queries:
            read()

    def throughput(count: int, work: Callable[[], Iterator[None]]) -> float:
        ready = threading.Barrier(count + 1)

        def run() -> None:
            for _ in work():
                ready.wait()

        running = [threading.Thread(target=run) for _ in range(count)]
        for thread in running:
            thread.start()
        ready.wait()
        start = time.perf_counter()
        for thread in running:
            thread.join()
        return count / (time.perf_counter() - start)

    for name, work, target in (
        ("throughput of 4 threads / of one", search_all, "1.4 or more, on 2 cores"),
        ("the same, of reading as many bytes from memory", read_all, "-"),
    ):
        ratios = sorted(throughput(4, work) / throughput(1, work) for _ in range(rounds))
        print(
            f"{f'{data}, {name}':66} {statistics.median(ratios):8.4f}  "
            f"({ratios[0]:.4f} to {ratios[-1]:.4f})   to reach: {target}",
            flush=True,
        )


def memory(path: str, rows: int, dimensions: int) -> None:
    """Print the memory of searching, as a share of the float32 matrix; in a process of its own."""

    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    engine = create_engine(f"sqlite:///{path}")
    generator = np.random.default_rng(1)
    query = generator.standard_normal(dimensions, np.float32)
    with Session(engine) as session:
        docs = Collection("docs", session)
        docs.count()
        before = resident()
        highest, done = 0, threading.Event()

        def watch() -> None:
            nonlocal highest
            while not done.wait(0.002):
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                highest = max(highest, pages * os.sysconf("SC_PAGESIZE"))

        for _ in range(3):
            docs.similar_by_vector(query)
        steady = resident() - before
        watcher = threading.Thread(target=watch)
        watcher.start()
        for _ in range(60):  # three rows of ten are written anew
            ids = generator.integers(0, rows, rows // 200)
            docs.store_vectors(
                (
                    (f"{at % 100:02}-{at}", generator.standard_normal(dimensions, np.float32))
                    for at in ids
                ),
            )
            session.commit()
            docs.similar_by_vector(query)
        done.set()
        watcher.join()
    whole = rows * dimensions * 4
    print(f"{steady / whole:.4f} {(highest - before) / whole:.4f}")


def print_memory(data: Data) -> None:
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.search",
            "--memory",
            str(data.path),
            str(data.rows),
            str(data.dimensions),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    steady, highest = result.stdout.split()
    print(f"{f'{data}, memory / the float32 matrix':66} {steady}   to reach: 0.30")
    print(f"{f'{data}, highest memory while rows are written / it':66} {highest}   to reach: 0.40")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small collections only")
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        path, rows, dimensions = options.memory
        memory(path, int(rows), int(dimensions))
        return
    print(
        f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}, "
        f"NumPy {np.__version__}, median of {options.rounds} paired rounds\n"
    )
    rounds, scale = options.rounds, 20 if options.quick else 1

    data = Data(10_000 // scale, 1536)
    flat, chroma = "FAISS IndexFlatIP, one thread", "Chroma, approximate"
    compare(
        data,
        {
            flat: (faiss_search, "0.5", QUERIES),
            chroma: (chroma_search, "0.5", QUERIES),
            "llm": (llm_search, "0.001", 1),
        },
        rounds,
    )
    data = Data(100_000 // scale, 384)
    compare(
        data,
        {
            flat: (faiss_search, "0.5", QUERIES),
            chroma: (chroma_search, "1.2", QUERIES),
            "sqlite-vec vec0": (vec0_search, "0.1", QUERIES),
        },
        rounds,
    )
    filters(data, rounds)
    many(data, rounds)
    after_a_write(data, rounds)
    real_texts(rounds)
    embeddings.set_memory_budget(512 * 2**20)
    data = Data(100_000 // scale, 1536)
    compare(data, {flat: (faiss_search, "0.4", QUERIES)}, rounds)
    threads(data, rounds)
    print_memory(data)


if __name__ == "__main__":
    main()

"""The index on SQLite beside FAISS and Chroma, all measured in this one run.

    python -m benchmarks.index [--rounds 7] [--rows 100000] [--dimensions 384] [--slow]
        [--clusters 200] [--no-filters] [--texts N]

One thread; each ratio is a median of paired rounds: this library's whole call through an open
Session, ten entries back, divided by the peer's time in the same round. `--rows 1000000` takes half
an hour and 6 GB of disk. The vectors are at random in so many clusters: the fewer, the more rows
are about equally near, which is hard for an index. `--slow` adds those that take minutes to build.
`--texts 100000` searches paragraphs of the documentation that is installed with Python's packages,
by the local model.
"""

from __future__ import annotations

import argparse
import gc
import re
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

import embeddings
from benchmarks.contestants import (
    CLUSTERS,
    FOLDER,
    QUERIES,
    Data,
    chroma_search,
    faiss_search,
    per_query,
)
from benchmarks.measure import ratio, seconds
from embeddings import Collection
from embeddings.databases.sqlite.matrix.cache import CACHE

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT = {"50 %": 50, "10 %": 10, "5 %": 5, "1 %": 1}  # by the metadata `part`, of 0 to 99
HELD_OUT = 200  # texts that are searched for and not stored


def unit(matrix: Any) -> Any:
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def best(data: Data, below: int = 100) -> list[set[str]]:
    """Return the ids of the ten nearest to each query, of the parts below a number."""
    scores = unit(data.queries) @ unit(data.matrix).T
    scores[:, np.arange(data.rows) % 100 >= below] = -2.0
    nearest = np.argpartition(-scores, 10, axis=1)[:, :10]
    return [{data.ids[at] for at in row} for row in nearest.tolist()]


def recall(data: Data, right: list[set[str]], search: Callable[[Any], set[str]]) -> float:
    found = [search(query) for query in data.queries]
    return float(np.mean([len(a & b) / 10 for a, b in zip(found, right, strict=True)]))


def hnsw_search(data: Data) -> Callable[[Any], object]:
    index = faiss.IndexHNSWFlat(data.dimensions, 32, faiss.METRIC_INNER_PRODUCT)
    took = seconds(lambda: index.add(unit(data.matrix)))
    index.hnsw.efSearch = 256
    print(f"    FAISS HNSW is built in {took:.0f} s")
    return lambda query: index.search(query[np.newaxis] / np.linalg.norm(query), 10)[1][0]


def measure(data: Data, rounds: int, *, slow: bool, filters: bool) -> None:
    whole = data.rows * data.dimensions * 4
    docs = Collection("docs", data.engine)
    reading = seconds(lambda: docs.similar_by_vector(data.queries[0], exact=True))
    building = seconds(docs.create_index)
    print(f"{data}, building / reading all rows: {building / reading:.2f}, {building:.1f} s")
    info = docs.index_info()
    assert info is not None
    print(f"{data}, in the database / the float32 matrix: {info.bytes / whole:.4f}")
    print(f"{data}, in memory / the float32 matrix: {docs.status().bytes / whole:.4f}")

    def cold() -> float:
        CACHE.clear()
        return seconds(lambda: docs.similar_by_vector(data.queries[0]))

    ratio(
        f"{data}, first search of a process / by reading the rows",
        cold,
        lambda: seconds(lambda: docs.similar_by_vector(data.queries[0], exact=True)),
        3,
        "0.1",
    )
    with Session(data.engine) as session:
        docs = Collection("docs", session)

        def ours(query: Any, **options: Any) -> set[str]:
            return {entry.id for entry in docs.similar_by_vector(query, 10, **options)}

        print(f"{data}, recall@10: {recall(data, best(data), ours):.4f}")
        peers: dict[str, Callable[[Data], Callable[[Any], Any]]] = {"FAISS flat": faiss_search}
        if slow:
            peers |= {"FAISS HNSW, M = 32, ef 256": hnsw_search, "Chroma": chroma_search}
        for name, make in peers.items():
            search = make(data)
            ratio(
                f"{data}, warm / {name}",
                lambda: per_query(data, ours),
                lambda search=search: per_query(data, search),  # type: ignore[misc]
                rounds,
                {"FAISS flat": "0.35; 1M 0.2; texts 0.5", "Chroma": "1.0"}.get(name, "-"),
            )
            if "HNSW" in name:

                def theirs(query: Any, search: Any = search) -> set[str]:
                    return {data.ids[at] for at in search(query)}

                print(f"    recall@10 of {name}: {recall(data, best(data), theirs):.4f}")
            del search
            gc.collect()
        for name, below in KEPT.items() if filters else ():
            where = {"part": {"$lt": below}}
            found = recall(data, best(data, below), lambda q, w=where: ours(q, where=w))  # type: ignore[misc]
            print(f"{data}, recall@10 under a filter that keeps {name}: {found:.4f}")
            ratio(
                f"{data}, under a filter that keeps {name} / warm",
                lambda where=where: per_query(data, lambda q: ours(q, where=where), 5),  # type: ignore[misc]
                lambda: per_query(data, ours),
                3,
                "-",
            )

        def after_a_write() -> float:
            taken = 0.0
            for query in data.queries:
                with Session(data.engine) as writing:
                    Collection("docs", writing).store_vectors([(data.ids[0], data.matrix[0])])
                    writing.commit()
                start = time.perf_counter()
                ours(query)
                taken += time.perf_counter() - start
            return taken / QUERIES

        ratio(
            f"{data}, first after a write / warm",
            after_a_write,
            lambda: per_query(data, ours),
            min(rounds, 5),
            "1.5",
        )


def texts(count: int) -> Data:
    """Return the vectors of paragraphs, and of others to search for."""
    found: set[str] = set()
    for name in ("stdlib", "purelib"):
        for path in sorted(Path(sysconfig.get_path(name)).rglob("*.py")):
            for text in re.findall(r'"""(.*?)"""', path.read_text(errors="ignore"), re.DOTALL):
                for paragraph in text.split("\n\n"):
                    line = " ".join(paragraph.split())
                    if 40 <= len(line) <= 600:
                        found.add(line)
    chosen = sorted(found)
    np.random.default_rng(0).shuffle(chosen)
    chosen = chosen[: count + HELD_OUT]
    model = embeddings.get_embedding_model("local")
    matrix = np.array(list(model.embed_multi(chosen)), np.float32)
    data = object.__new__(Data)
    data.queries, data.matrix = matrix[:HELD_OUT], matrix[HELD_OUT:]
    data.rows, data.dimensions = data.matrix.shape
    data.ids = [f"{at % 100:02}-{at}" for at in range(data.rows)]
    data.path = Path(FOLDER.name) / "texts.db"
    data.engine = create_engine(f"sqlite:///{data.path}")
    data._write()
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--clusters", type=int, default=CLUSTERS)
    parser.add_argument("--slow", action="store_true", help="also what takes minutes to build")
    parser.add_argument("--no-filters", action="store_true", help="their SQL reads all rows")
    parser.add_argument("--texts", type=int, default=0, help="real texts, of the local model")
    options = parser.parse_args()
    print(f"NumPy {np.__version__}, median of {options.rounds} paired rounds\n")
    made = options.rows, options.dimensions, options.clusters
    data = texts(options.texts) if options.texts else Data(*made)
    if options.texts:
        print("paragraphs of documentation, embedded by the local model, others searched for:")
    measure(data, options.rounds, slow=options.slow, filters=not options.no_filters)


if __name__ == "__main__":
    main()

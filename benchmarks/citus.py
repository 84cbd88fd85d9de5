"""Ratios of Citus to one PostgreSQL server, by collection and by item, in alternation.

    EMBEDDINGS_CITUS_URL=postgresql+psycopg://… python -m tests.server python -m benchmarks.citus

Every figure is a median of paired rounds: the time on the cluster divided by that on the server of
the tests. The database on the coordinator is one for tests alone, whose tables are dropped.
"""

from __future__ import annotations

import argparse
import os
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

import embeddings
from benchmarks.measure import FakeModel, seconds
from tests.reaching import on_citus

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    Vectors = np.ndarray[Any, np.dtype[np.float32]]

DIMENSIONS, CLUSTERS, SPREAD = 384, 1_000, 0.7
QUERIES, NUMBER = 30, 10
FEW = 100  # keys that a search is among


def vectors_of(rows: int) -> tuple[Vectors, Vectors]:
    """Return vectors in clusters, and queries of the same kind."""
    chance = np.random.default_rng(0)
    centres = chance.standard_normal((CLUSTERS, DIMENSIONS)).astype("f4")

    def some(count: int) -> Vectors:
        noise = chance.standard_normal((count, DIMENSIONS)).astype("f4")
        return centres[chance.integers(0, CLUSTERS, count)] + np.float32(SPREAD) * noise

    return some(rows), some(QUERIES)


def paired(
    name: str, rounds: int, on_server: Callable[[], Any], on_cluster: Callable[[], Any], per: int
) -> None:
    pairs = [(seconds(on_server), seconds(on_cluster)) for _ in range(rounds)]
    ratios = sorted(cluster / server for server, cluster in pairs)
    server, cluster = (1e3 * median(each) / per for each in zip(*pairs, strict=True))
    print(
        f"{name:34} {server:9.3f} ms {cluster:9.3f} ms   x{median(ratios):.2f} "
        f"({ratios[0]:.2f}-{ratios[-1]:.2f})",
        flush=True,
    )


def ingest(engines: tuple[Engine, Engine], rows: int, rounds: int, vectors: Vectors) -> None:
    texts = [f"text {number}" for number in range(rows)]
    model = FakeModel(dict(zip(texts, vectors, strict=False)))
    count = 0

    def written(engine: Engine, how: str) -> Callable[[], None]:
        def work() -> None:
            nonlocal count
            count += 1
            docs = embeddings.Collection(f"new {count}", engine, model=model)
            if how == "store":
                docs.store_vectors(zip(texts, vectors, strict=False))
            else:
                docs.embed_multi(zip(texts, texts, strict=True), store=True)

        return work

    server, cluster = engines
    for how, name in (("embed", "embed_multi, a row"), ("store", "store_vectors, a row")):
        paired(name, rounds, written(server, how), written(cluster, how), rows)
    for engine in engines:
        for name in embeddings.Collection.names(engine):
            embeddings.Collection(name, engine).delete()


def search(engines: tuple[Engine, Engine], rows: int, rounds: int) -> None:
    vectors, queries = vectors_of(rows)
    items = [(f"{n:07d}", vector, {"n": n}) for n, vector in enumerate(vectors)]
    keys = [f"{n:07d}" for n in range(0, rows, max(1, rows // FEW))]
    docs = [embeddings.Collection("docs", engine, model_id="a model") for engine in engines]
    for each in docs:
        each.store_vectors(items)
        taken = seconds(each.create_index)
        print(f"index of {rows:,} rows in {taken:.1f} s", flush=True)
    for engine in engines:
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text("ANALYZE embeddings"))
    ways: dict[str, dict[str, Any]] = {
        "search, exact": {"exact": True},
        "search, by the index": {},
        "the same, where= keeps 1 in 20": {"where": {"n": {"$lt": rows // 20}}},
        f"the same, among= {len(keys)} keys": {"among": keys},
    }
    found: dict[tuple[str, int], list[list[str]]] = {}

    def asked(engine: Engine, name: str, place: int) -> Callable[[], None]:
        def work() -> None:
            with Session(engine) as session:
                inside = embeddings.Collection("docs", session, model_id="a model")
                found[name, place] = [
                    [entry.id for entry in inside.similar_by_vector(query, NUMBER, **ways[name])]
                    for query in queries
                ]

        return work

    for name, filters in ways.items():
        works = [asked(engine, name, place) for place, engine in enumerate(engines)]
        for work in works:
            work()
        paired(name, rounds, works[0], works[1], QUERIES)
        with Session(engines[0]) as session:
            exactly = embeddings.Collection("docs", session, model_id="a model")
            right = [
                {e.id for e in exactly.similar_by_vector(q, NUMBER, **{**filters, "exact": True})}
                for q in queries
            ]
        for place, where in enumerate(("server", "cluster")):
            got = found[name, place]
            hits = sum(len(a & {*b}) for a, b in zip(right, got, strict=True))
            short = sum(len(each) < NUMBER for each in got)
            recall = hits / sum(map(len, right))
            print(f"    {where}: recall@{NUMBER} {recall:.3f}, short {short} of {QUERIES}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--new-rows", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--by", default="collection,item")
    given = parser.parse_args()
    server = create_engine(os.environ["POSTGRESQL_URL"])
    for by in given.by.split(","):
        embeddings.migrate(server)
        with on_citus(os.environ["EMBEDDINGS_CITUS_URL"], by) as url:
            cluster = create_engine(url)
            print(f"By {by}: one server, the cluster, ratio. Load {os.getloadavg()}", flush=True)
            new = vectors_of(given.new_rows)[0]
            ingest((server, cluster), given.new_rows, given.rounds, new)
            search((server, cluster), given.rows, given.rounds)
            cluster.dispose()
        embeddings.Collection("docs", server).delete()


if __name__ == "__main__":
    main()

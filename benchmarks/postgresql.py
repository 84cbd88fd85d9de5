"""Ratios against raw psycopg and `langchain-postgres`, on one server, in alternation.

    python -m tests.server python -m benchmarks.postgresql [--rows 100000] [--rounds 7]

Every figure is a median of paired rounds: this library's time divided by the peer's. The server is
the one of the tests.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
from pgvector.psycopg import register_vector
from psycopg.types.json import Jsonb
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.orm import Session

import embeddings
from benchmarks.measure import FakeModel, ratio, seconds
from embeddings.databases.postgresql.search import EF_SEARCH

if TYPE_CHECKING:
    from collections.abc import Callable

BULK_DIMENSIONS, BULK_BATCH = 1536, 1_000
DIMENSIONS, CLUSTERS, SPREAD = 384, 1_000, 0.7
TEXT = "A sentence of about the length that people store, with its number at the end: "
COPY = (
    "COPY embeddings (collection_id, id, embedding, content, content_blob, content_hash, metadata, "
    "updated) FROM STDIN (FORMAT BINARY)"
)
COLUMNS = ("int4", "text", "vector", "text", "bytea", "bytea", "jsonb", "int4")
QUERIES = 100


class Bench:
    """The server, and the two ways to it."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url)
        embeddings.migrate(self.engine)
        parts = make_url(url)
        self.dsn = f"host={parts.query['host']} user={parts.username} dbname={parts.database}"
        self.raw = psycopg.connect(self.dsn)
        register_vector(self.raw)
        self.url = parts.render_as_string(hide_password=False)

    def empty(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(text("TRUNCATE collections, embeddings RESTART IDENTITY"))
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("CHECKPOINT"))


def bulk(bench: Bench, number_of_rows: int, rounds: int) -> None:
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((number_of_rows, BULK_DIMENSIONS)).astype(np.float32)
    texts = [f"{TEXT}{number}" for number in range(number_of_rows)]
    former = [f"{TEXT}{number} before" for number in range(number_of_rows)]
    ids = [f"doc-{number:06d}" for number in range(number_of_rows)]
    metadata = [{"number": number} for number in range(number_of_rows)]
    model = FakeModel(dict(zip([*texts, *former], [*matrix, *-matrix], strict=True)))
    hashes = [hashlib.md5(text.encode(), usedforsecurity=False).digest() for text in texts]

    def write(texts: list[str]) -> None:
        entries = list(zip(ids, texts, metadata, strict=True))
        with Session(bench.engine) as session:
            docs = embeddings.Collection("docs", session, model=model)
            docs.embed_multi_with_metadata(entries, store=True, batch_size=BULK_BATCH)
            session.commit()

    def ours() -> float:
        bench.empty()
        return seconds(lambda: write(texts))

    def replaced() -> float:
        bench.empty()
        write(former)
        return seconds(lambda: write(texts))

    def copy() -> float:
        bench.empty()
        embeddings.Collection("docs", bench.engine, model=model)

        def work() -> None:
            cursor = bench.raw.cursor()
            cursor.execute("INSERT INTO collections (id, name, model) VALUES (1, 'docs', 'fake')")
            for start in range(0, number_of_rows, BULK_BATCH):
                with cursor.copy(COPY) as rows:
                    rows.set_types(COLUMNS)
                    for i in range(number_of_rows)[start : start + BULK_BATCH]:
                        rows.write_row(
                            (1, ids[i], matrix[i], texts[i], None, hashes[i], Jsonb(metadata[i]), 0)
                        )
            bench.raw.commit()

        return seconds(work)

    name = f"embed_multi_with_metadata, {number_of_rows} x {BULK_DIMENSIONS}"
    ratio(f"{name} / raw COPY into the same table", ours, copy, rounds, "1.2")
    ratio(f"{name}, each row replaced / the same", replaced, copy, rounds, "1.6")

    if find_spec("langchain_postgres") is None:
        print("langchain-postgres is not installed")
        return
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_postgres import PGEngine, PGVectorStore

    lists = matrix.tolist()
    peer = PGEngine.from_connection_string(bench.url)
    no_model = DeterministicFakeEmbedding(size=BULK_DIMENSIONS)  # never called

    def langchain() -> float:
        peer.init_vectorstore_table("langchain", BULK_DIMENSIONS, overwrite_existing=True)
        store = PGVectorStore.create_sync(peer, no_model, "langchain")

        def work() -> None:
            for start in range(0, number_of_rows, BULK_BATCH):
                part = slice(start, start + BULK_BATCH)
                ids_ = [f"00000000-0000-0000-0000-{n:012d}" for n in range(number_of_rows)[part]]
                store.add_embeddings(texts[part], lists[part], metadata[part], ids_)

        return seconds(work)

    ratio(f"{name} / langchain-postgres", ours, langchain, min(rounds, 3), "0.5")
    store = PGVectorStore.create_sync(peer, no_model, "langchain")
    with Session(bench.engine) as session:
        docs = embeddings.Collection("docs", session, model=model)
        query = matrix[7] + matrix[8]
        as_list = query.tolist()
        ratio(
            f"similar_by_vector, {number_of_rows} x {BULK_DIMENSIONS}, exact / langchain-postgres",
            lambda: seconds(lambda: docs.similar_by_vector(query, 10)),
            lambda: seconds(lambda: store.similarity_search_with_score_by_vector(as_list, 10)),
            rounds,
            "0.5",
        )


def search(bench: Bench, rows: int, rounds: int) -> None:
    generator = np.random.default_rng(1)
    centres = generator.standard_normal((CLUSTERS, DIMENSIONS))

    def clustered(number: int) -> Any:
        noise = SPREAD * generator.standard_normal((number, DIMENSIONS))
        return (centres[generator.integers(0, CLUSTERS, number)] + noise).astype(np.float32)

    matrix, queries = clustered(rows), clustered(QUERIES)
    bench.empty()
    docs = embeddings.Collection("docs", bench.engine, model=FakeModel({}))
    docs.store_vectors(
        ((f"doc-{i:06d}", matrix[i], {"group": i % 100}) for i in range(rows)), batch_size=1_000
    )
    with bench.engine.begin() as connection:
        connection.execute(text("ANALYZE embeddings"))

    def raw_statement(order: str, where: str = "") -> str:
        return (
            "SELECT id, content, metadata, 1 - (embedding <=> %(query)s) FROM embeddings "
            f"WHERE collection_id = {docs.id} {where} ORDER BY {order} <=> %(query)s LIMIT 10"
        )

    def raw_search(statement: str) -> Callable[[Any], object]:
        return lambda query: bench.raw.execute(statement, {"query": query}).fetchall()

    def each(search: Callable[[Any], object]) -> Callable[[], float]:
        return lambda: seconds(lambda: [search(query) for query in queries[:10]])

    with Session(bench.engine) as session:
        inside = embeddings.Collection("docs", session, model=FakeModel({}))
        name = f"similar_by_vector, {rows} x {DIMENSIONS}"
        ratio(
            f"{name}, exact / raw psycopg",
            each(inside.similar_by_vector),
            each(raw_search(raw_statement("embedding"))),
            rounds,
            "1.1",
        )
    bench.raw.commit()  # a concurrent build waits for every open transaction
    start = time.perf_counter()
    info = docs.create_index(maintenance_work_mem="1GB")
    built = time.perf_counter() - start
    print(f"{'build of the index':66} {built:.0f} s, {info.bytes / 2**20:.0f} MB")
    bench.raw.execute(f"SET hnsw.ef_search = {EF_SEARCH}")
    # With the condition of the index, or it is not used.
    has_dimensions = f"AND CASE WHEN vector_dims(embedding) = {DIMENSIONS} THEN true END"
    by_index = raw_statement(f"embedding::vector({DIMENSIONS})", has_dimensions)
    plan = bench.raw.execute(f"EXPLAIN {by_index}", {"query": queries[0]}).fetchall()
    assert rows < 10_000 or "hnsw" in str(plan), plan  # few rows are read sooner
    bench.raw.commit()
    with Session(bench.engine) as session:
        inside = embeddings.Collection("docs", session, model=FakeModel({}))
        ratio(
            f"{name}, HNSW / raw psycopg",
            each(inside.similar_by_vector),
            each(raw_search(by_index)),
            rounds,
            "1.3",
        )
        for label, where in (("", None), (", under a 1 % filter", {"group": 7})):
            hits = 0
            for query in queries:
                exact = inside.similar_by_vector(query, 10, exact=True, where=where)
                found = inside.similar_by_vector(query, 10, where=where)
                hits += len({entry.id for entry in exact} & {entry.id for entry in found})
            print(f"{'recall@10' + label:66} {hits / 10 / QUERIES:8.4f}   to reach: 0.99")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--bulk-rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=["bulk", "search"])
    options = parser.parse_args()
    bench = Bench(os.environ["POSTGRESQL_URL"])
    version = bench.raw.execute(
        "SELECT current_setting('server_version'), extversion FROM "
        "pg_extension WHERE extname = 'vector'"
    ).fetchone()
    print(f"PostgreSQL and pgvector {version}, median of {options.rounds} paired rounds\n")
    if options.only != "search":
        bulk(bench, options.bulk_rows, options.rounds)
    if options.only != "bulk":
        search(bench, options.rows, options.rounds)


if __name__ == "__main__":
    main()

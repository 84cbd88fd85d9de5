"""Collections of vectors in files, and the ways to search them, each in one thread."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw
import chromadb
import faiss
import llm
import numpy as np
import sqlite_utils
import sqlite_vec
from chromadb.config import Settings
from llm.models import EmbeddingModel as LLMEmbeddingModel
from sqlalchemy import create_engine

import embeddings
from embeddings import Collection

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

CLUSTERS = 200
QUERIES = 20  # a round of the fast ones
FOLDER = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)


class Data:
    """Clustered vectors in a file, and what to search for."""

    def __init__(self, rows: int, dimensions: int, clusters: int = CLUSTERS) -> None:
        generator = np.random.default_rng(0)
        centres = generator.standard_normal((clusters, dimensions), np.float32)
        self.rows, self.dimensions = rows, dimensions
        self.matrix = generator.standard_normal((rows, dimensions), np.float32)
        self.matrix += centres[generator.integers(0, clusters, rows)]
        noise = generator.standard_normal((QUERIES, dimensions), np.float32)
        self.queries = centres[:QUERIES] + noise
        self.ids = [f"{at % 100:02}-{at}" for at in range(rows)]
        self.path = Path(FOLDER.name) / f"{rows}x{dimensions}.db"
        self.engine: Engine = create_engine(f"sqlite:///{self.path}")
        if not self.path.exists():
            self._write()

    def _write(self) -> None:
        embeddings.migrate(self.engine)
        with self.engine.begin() as connection:
            Collection("docs", connection, model_id="fake").store_vectors(
                (
                    (id, row, {"part": at % 100}, f"The text with the number {at}")
                    for at, (id, row) in enumerate(zip(self.ids, self.matrix, strict=True))
                ),
                batch_size=1000,
            )

    def __str__(self) -> str:
        return f"{self.rows:,} x {self.dimensions}"


def per_query(data: Data, search: Callable[[Any], object], count: int = QUERIES) -> float:
    """Return the mean seconds of a search, over some queries."""
    start = time.perf_counter()
    for query in data.queries[:count]:
        search(query)
    return (time.perf_counter() - start) / count


def faiss_search(data: Data) -> Callable[[Any], object]:
    faiss.omp_set_num_threads(1)
    unit = data.matrix / np.linalg.norm(data.matrix, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(data.dimensions)
    index.add(unit)
    return lambda query: index.search(query[np.newaxis] / np.linalg.norm(query), 10)


def chroma_search(data: Data) -> Callable[[Any], object]:
    client = chromadb.PersistentClient(
        str(Path(FOLDER.name) / f"chroma{data.rows}x{data.dimensions}"),
        Settings(anonymized_telemetry=False),
    )
    docs = client.create_collection("docs", metadata={"hnsw:space": "cosine"})
    for start in range(0, data.rows, 5000):
        part = slice(start, start + 5000)
        docs.add(
            ids=data.ids[part],
            embeddings=data.matrix[part],
            documents=[f"The text of {id}" for id in data.ids[part]],
            metadatas=[{"part": int(id[:2])} for id in data.ids[part]],
        )
    return lambda query: docs.query(query_embeddings=query[np.newaxis], n_results=10)


class FakeLLMModel(LLMEmbeddingModel):
    model_id = "fake"

    def embed_batch(self, items: Any, *, key: Any = None) -> Any:
        raise NotImplementedError


def llm_search(data: Data) -> Callable[[Any], object]:
    docs = llm.Collection("docs", sqlite_utils.Database(str(data.path)), model=FakeLLMModel())
    return lambda query: docs.similar_by_vector(query.tolist())


def vec0_search(data: Data) -> Callable[[Any], object]:
    connection = apsw.Connection(str(Path(FOLDER.name) / f"vec{data.rows}x{data.dimensions}.db"))
    connection.enable_load_extension(True)
    connection.load_extension(sqlite_vec.loadable_path())
    connection.execute(
        "CREATE VIRTUAL TABLE docs USING vec0("
        f"embedding float[{data.dimensions}] distance_metric=cosine)"
    )
    with connection:
        connection.executemany(
            "INSERT INTO docs (rowid, embedding) VALUES (?, ?)",
            ((at, row.tobytes()) for at, row in enumerate(data.matrix)),
        )
    sql = "SELECT rowid, distance FROM docs WHERE embedding MATCH ? AND k = 10"
    return lambda query: connection.execute(sql, (query.tobytes(),)).fetchall()


def warmed(docs: Collection[str], data: Data) -> None:
    for query in data.queries[:3]:
        docs.similar_by_vector(query)
    assert docs.status().strategy == "matrix", docs.status()

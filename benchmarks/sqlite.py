"""Ratios against `llm` and raw `sqlite3`, all measured in this one run, in alternation.

    python benchmarks/sqlite.py [--rows 10000] [--dimensions 1536] [--rounds 5]

Every figure is a median of paired rounds: this library's time divided by the peer's.
"""

from __future__ import annotations

import argparse
import hashlib
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llm
import numpy as np
import sqlite_utils

import embeddings

BATCH = 100
TEXT = "A sentence of about the length that people store, with its number at the end: "


class FakeModel(embeddings.EmbeddingModel):
    """Hands out vectors that were made beforehand, as NumPy rows or as lists of floats."""

    model_id = "fake"

    def __init__(self, vectors: dict[str, Any]) -> None:
        self._vectors = vectors

    def embed_batch(self, items: Sequence[str | bytes]) -> list[Any]:
        return [self._vectors[item] for item in items]  # type: ignore[index]


class FakeLLMModel(llm.EmbeddingModel):
    model_id = "fake"

    def __init__(self, vectors: dict[str, Any]) -> None:
        self._vectors = vectors

    def embed_batch(self, items: Any, *, key: Any = None) -> Any:
        return [self._vectors[item] for item in items]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(
    name: str, ours: Callable[[], float], theirs: Callable[[], float], rounds: int, target: str
) -> None:
    """Print the ratio of two pieces of work that return the seconds they took."""
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    ratios = sorted(a / b for a, b in pairs)
    print(
        f"{name:58} {statistics.median(ratios):8.4f}  ({ratios[0]:.4f} to {ratios[-1]:.4f})"
        f"   {statistics.median(a for a, _ in pairs) * 1000:8.1f} ms against"
        f" {statistics.median(b for _, b in pairs) * 1000:8.1f} ms   to reach: {target}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--dimensions", type=int, default=1536)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((options.rows, options.dimensions)).astype(np.float32)
    texts = [f"{TEXT}{number}" for number in range(options.rows)]
    entries = [(f"doc-{number}", text) for number, text in enumerate(texts)]
    arrays = FakeModel(dict(zip(texts, matrix, strict=True)))
    as_lists = dict(zip(texts, matrix.tolist(), strict=True))
    lists, llm_lists = FakeModel(as_lists), FakeLLMModel(as_lists)
    raw_rows = [
        (1, id, matrix[number].tobytes(), text, hashlib.md5(text.encode()).digest(), 0)
        for number, (id, text) in enumerate(entries)
    ]

    with tempfile.TemporaryDirectory() as folder:
        made = 0

        def path() -> str:
            nonlocal made
            made += 1
            return str(Path(folder) / f"{made}.db")

        def bulk(model: FakeModel) -> float:
            with embeddings.Collection("docs", path(), model=model) as docs:
                return seconds(lambda: docs.embed_multi(entries, store=True, batch_size=BATCH))

        def bulk_llm() -> float:
            docs = llm.Collection("docs", sqlite_utils.Database(path()), model=llm_lists)
            return seconds(lambda: docs.embed_multi(entries, store=True, batch_size=BATCH))

        def bulk_raw() -> float:
            connection = sqlite3.connect(path())
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(
                "CREATE TABLE embeddings (collection_id INTEGER, id TEXT, embedding BLOB, "
                "content TEXT, content_blob BLOB, content_hash BLOB, metadata TEXT, "
                "updated INTEGER, PRIMARY KEY (collection_id, id));"
                "CREATE INDEX by_hash ON embeddings (content_hash)"
            )

            def insert() -> None:
                for start in range(0, len(raw_rows), BATCH):
                    connection.executemany(
                        "INSERT INTO embeddings (collection_id, id, embedding, content, "
                        "content_hash, updated) VALUES (?, ?, ?, ?, ?, ?)",
                        raw_rows[start : start + BATCH],
                    )
                    connection.commit()

            taken = seconds(insert)
            connection.close()
            return taken

        print(f"Python {sys.version.split()[0]}, SQLite {sqlite3.sqlite_version}, ", end="")
        print(f"{options.rows} x {options.dimensions}, median of {options.rounds} paired rounds\n")
        print(f"{'':58} {'ratio':>8}")

        shared = path()
        docs = embeddings.Collection("docs", shared, model=arrays)
        docs.embed_multi(entries, store=True)
        peer = llm.Collection("docs", sqlite_utils.Database(shared), model=llm_lists)
        query = generator.standard_normal(options.dimensions).tolist()
        assert [entry.id for entry in docs.similar_by_vector(query)] == [
            entry.id for entry in peer.similar_by_vector(query)
        ]
        ratio(
            "similar_by_vector against llm, same file",
            lambda: seconds(lambda: docs.similar_by_vector(query)),
            lambda: seconds(lambda: peer.similar_by_vector(query)),
            options.rounds,
            "0.04",
        )
        docs.close()
        for name, model, target in (
            ("NumPy rows", arrays, "1.5"),
            ("lists of floats", lists, "2.5"),
        ):
            ratio(
                f"embed_multi of {name} against raw sqlite3",
                lambda model=model: bulk(model),  # type: ignore[misc]
                bulk_raw,
                options.rounds,
                target,
            )
        ratio(
            "embed_multi of lists against llm",
            lambda: bulk(lists),
            bulk_llm,
            options.rounds,
            "-",
        )
        ratio(
            "embed_multi of what is there already, against the first time",
            lambda: embed_again(shared, arrays, entries),
            lambda: bulk(arrays),
            options.rounds,
            "-",
        )


def embed_again(path: str, model: FakeModel, entries: list[tuple[str, str]]) -> float:
    with embeddings.Collection("docs", path, model=model) as docs:
        return seconds(lambda: docs.embed_multi(entries, store=True, batch_size=BATCH))


if __name__ == "__main__":
    main()

"""Ratios against `llm` and raw `sqlite3`, all measured in this one run, in alternation.

    python -m benchmarks.sqlite [--rows 10000] [--dimensions 1536] [--rounds 5]

Every figure is a median of paired rounds: this library's time divided by the peer's.
"""

from __future__ import annotations

import argparse
import hashlib
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

import llm
import numpy as np
import sqlite_utils
from llm.models import EmbeddingModel as LLMEmbeddingModel

import embeddings
from benchmarks.measure import FakeModel, ratio, seconds
from embeddings.databases.sqlite.changelog import TRIGGERS

BATCH = 100
TEXT = "A sentence of about the length that people store, with its number at the end: "


class FakeLLMModel(LLMEmbeddingModel):
    model_id = "fake"

    def __init__(self, vectors: dict[str, Any]) -> None:
        self._vectors = vectors

    def embed_batch(self, items: Any, *, key: Any = None) -> Any:
        return [self._vectors[item] for item in items]


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
    raw_rows = [
        (
            1,
            id,
            matrix[number].tobytes(),
            text,
            hashlib.md5(text.encode(), usedforsecurity=False).digest(),
            0,
        )
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

        def bulk_llm(model: FakeLLMModel) -> float:
            docs = llm.Collection("docs", sqlite_utils.Database(path()), model=model)
            return seconds(lambda: docs.embed_multi(entries, store=True, batch_size=BATCH))

        def bulk_raw(triggers: bool) -> float:
            file = path()
            embeddings.Collection("docs", file, model=arrays).close()
            connection = sqlite3.connect(file)
            for name in () if triggers else TRIGGERS:
                connection.execute(f"DROP TRIGGER embeddings_log_{name}")

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

        def against_raw(name: str, model: FakeModel, target: str) -> None:
            for tables, triggers in (("the same tables", True), ("them without triggers", False)):
                ratio(
                    f"embed_multi of {name} / raw sqlite3 into {tables}",
                    lambda: bulk(model),
                    lambda triggers=triggers: bulk_raw(triggers),  # type: ignore[misc]
                    options.rounds,
                    target,
                )

        against_raw("NumPy rows", arrays, "1.5")
        as_lists = dict(zip(texts, matrix.tolist(), strict=True))
        lists, llm_lists = FakeModel(as_lists), FakeLLMModel(as_lists)
        against_raw("lists", lists, "2.5")
        ratio(
            "embed_multi of lists / llm",
            lambda: bulk(lists),
            lambda: bulk_llm(llm_lists),
            options.rounds,
            "-",
        )

        shared = path()
        docs = embeddings.Collection("docs", shared, model=arrays)
        docs.embed_multi(entries, store=True)
        peer = llm.Collection("docs", sqlite_utils.Database(shared), model=llm_lists)
        query = generator.standard_normal(options.dimensions).tolist()
        assert [entry.id for entry in docs.similar_by_vector(query)] == [
            entry.id for entry in peer.similar_by_vector(query)
        ]
        embeddings.set_memory_budget(0)  # else the second search would be from memory
        ratio(
            "similar_by_vector by reading / llm, on the same file",
            lambda: seconds(lambda: docs.similar_by_vector(query)),
            lambda: seconds(lambda: peer.similar_by_vector(query)),
            options.rounds,
            "0.04",
        )
        docs.close()
        ratio(
            "embed_multi of what is there already / the first time",
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

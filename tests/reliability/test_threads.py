"""Threads that share one SQLite file, each in short transactions of a collection on an engine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine

from embeddings import Collection
from embeddings.testing import DeterministicModel
from tests.reaching import PATIENT, in_threads

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

THREADS = 16
TRANSACTIONS = int(os.environ.get("EMBEDDINGS_TRANSACTIONS", "480"))
ROUND = 6  # transactions of one round


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_short_transactions_of_16_threads(journal: str, engine: Engine, tmp_path: Path):
    """None is "locked", on a host's engine: each waits, and gets its turn."""
    with engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA journal_mode = {journal}")
    engine.dispose()
    shared = create_engine(f"sqlite:///{tmp_path / 'app.db'}", connect_args=PATIENT)
    docs: Collection[Any] = Collection("docs", shared, model=DeterministicModel())
    rounds = TRANSACTIONS // THREADS // ROUND
    docs.store_vectors([("first", [1.0] * 256)])

    def work(thread: int) -> None:
        for number in range(rounds):
            id = f"{thread:02}-{number}"
            docs.store_vectors([(id, [thread, number, 1.0] + [0.0] * 253)])
            docs.set_metadata(id, {"n": number})
            assert id in docs
            record = docs.get(id)
            assert record is not None
            assert record.metadata_ == {"n": number}
            docs.store_vectors([("shared", [1.0] * 256), (f"{id}b", [1.0] * 256)])
            assert docs.delete_items([f"{id}b"]) == 1

    in_threads(work, THREADS)
    assert docs.count() == 2 + THREADS * rounds
    shared.dispose()

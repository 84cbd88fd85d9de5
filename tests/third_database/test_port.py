"""A database of one's own is one class; one that nobody registered is refused."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import Session

import embeddings
from embeddings import BindingError, Collection, EmbeddingRecord, IndexingError
from embeddings.databases.base import Database
from embeddings.databases.sqlite import SQLite
from embeddings.testing import DeterministicModel
from tests.third_database.dialect import Third

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = [("hound", "a happy hound"), ("cat", "a dissatisfied cat"), ("bird", "a small bird")]


def test_it_implements_the_port_and_nothing_else():
    """It inherits from no other database, and overrides what has no default."""
    assert Third.__mro__[1] is Database
    assert not issubclass(Third, SQLite)
    assert {name for name in vars(Third) if not name.startswith("_")} == {
        "name", "search", "metadata_is",
    }  # fmt: skip


def test_a_collection_on_an_engine(third_engine: Engine):
    """Each batch is a transaction; what is written is found, replaced and deleted."""
    docs = Collection("docs", third_engine, model=DeterministicModel())
    docs.embed_multi(TEXTS, store=True)
    docs.embed("cat", "a contented cat", {"legs": 4}, store=True)

    assert docs.count() == 3
    assert docs.similar("contented")[0].id == "cat"
    assert [entry.id for entry in docs.similar("animal", where={"legs": 4})] == ["cat"]
    assert docs.delete_items(["bird"]) == 1
    assert docs.status().strategy == "scan"
    docs.delete()
    assert Collection.names(third_engine) == []


def test_matches_join_to_a_hosts_statement(third_engine: Engine):
    """The default of the port is SQL that every database knows."""
    with Session(third_engine) as session:
        docs = Collection("docs", session, model=DeterministicModel())
        docs.embed_multi(TEXTS)
        found = docs.matches("a happy hound", 2)
        statement = select(EmbeddingRecord.id, found.c.score).join(
            found, found.c.id == EmbeddingRecord.id
        )
        scores: dict[str, float] = {row.id: row.score for row in session.execute(statement)}

    assert scores["hound"] == pytest.approx(1.0)
    assert len(scores) == 2


def test_there_are_no_indexes(third_engine: Engine):
    """It says so, and where there are."""
    docs = Collection("docs", third_engine, model=DeterministicModel())
    docs.embed_multi(TEXTS)

    with pytest.raises(IndexingError, match="no indexes on third"):
        docs.create_index()
    assert docs.index_info() is None


REFUSED = "unknown is not supported; use postgresql, sqlite or third"


def test_an_unknown_database_is_refused_at_the_first_use(tmp_path: Path):
    """On an engine and a session, by the first operation; a URL when it is opened."""
    engine = create_engine(f"unknown:///{tmp_path / 'app.db'}")
    model = DeterministicModel()
    with pytest.raises(BindingError, match=REFUSED):
        Collection("docs", engine, model=model).embed("a", "text")
    with Session(engine) as session, pytest.raises(BindingError, match=REFUSED):
        Collection("docs", session, model=model).similar("text")
    with pytest.raises(BindingError, match=REFUSED):
        Collection("docs", f"unknown:///{tmp_path / 'app.db'}", model=model)
    with pytest.raises(BindingError, match=REFUSED):
        embeddings.migrate(engine)
    with pytest.raises(BindingError, match=REFUSED):
        embeddings.Base.metadata.create_all(engine)
    assert not model.calls
    engine.dispose()


def test_so_is_one_that_is_asynchronous():
    """The address is refused before anything is connected."""

    async def use() -> None:
        async with embeddings.AsyncCollection("docs", "unknown://", model=DeterministicModel()):
            pass

    with pytest.raises(BindingError, match=REFUSED):
        asyncio.run(use())

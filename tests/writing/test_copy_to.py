"""A collection copied into another database, and back: nothing is paid for again."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sqlalchemy import create_engine, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

import embeddings
from embeddings import (
    AsyncCollection,
    Collection,
    DoesNotExist,
    InvalidItemError,
    ModelMismatchError,
    Report,
)
from embeddings.testing import DeterministicModel
from tests.asynchronous import in_the_loop
from tests.reaching import PATIENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Engine]:
    """Another SQLite file with the tables."""
    engine = create_engine(f"sqlite:///{tmp_path / 'elsewhere.db'}", connect_args=PATIENT)
    embeddings.migrate(engine)
    yield engine
    engine.dispose()


def entries(count: int) -> list[tuple[str, Any, dict[str, Any] | None]]:
    return [
        (
            f"{n:03}",
            f"text {n} ü" if n % 3 else f"bytes {n}".encode(),
            {"some": [1.5, 1e22, None, "ü"], "n": n} if n % 2 else None,
        )
        for n in range(count)
    ]


def state(docs: Collection[Any]) -> list[Any]:
    """Return all that is stored of a collection."""
    return [
        (
            record.id,
            record.embedding.tolist(),
            record.content,
            record.content_blob,
            record.content_hash,
            record.metadata_,
            record.updated,
        )
        for record in docs
    ]


def test_there_and_back(
    engine: Engine, postgresql_engine: Engine, elsewhere: Engine, model: DeterministicModel
):
    """All that is stored is the same, and a backfill finds everything unchanged."""
    model.supports_binary = True
    docs = Collection("docs", engine, model=model)
    docs.embed_multi_with_metadata(entries(560), store=True)
    docs.embed_multi((id, f"not stored {id}") for id in ("x", "y"))
    docs.store_vectors([("theirs", np.ones(256, np.float32), {"a": True})])
    with engine.begin() as connection:  # written at different times, one at an unknown one
        connection.execute(text("UPDATE embeddings SET updated = 1000 + rowid"))
        connection.execute(text("UPDATE embeddings SET updated = NULL WHERE id = 'x'"))
    before, calls = state(docs), len(model.calls)

    there = Collection("there", postgresql_engine, model=model)
    told: list[tuple[int, int | None]] = []
    report = docs.copy_to(there, progress=lambda *both: told.append(both))
    assert report == Report(reused=563)
    assert told == [(500, 563), (563, 563)]
    back = Collection("back", elsewhere)
    assert there.copy_to(back) == Report(reused=563)
    for copied in (there, back):
        assert state(copied) == before
        assert copied.model_id == model.model_id
        backfill = Collection(copied.name, copied.reference.sessions, model=model)
        assert backfill.embed_multi_with_metadata(entries(560), store=True).unchanged == 560
        texts = Collection(copied.name, copied.reference.sessions, model=DeterministicModel())
        assert texts.embed_multi([("x", "not stored x"), ("y", "not stored y")]).unchanged == 2
    assert len(model.calls) == calls
    assert back.similar_by_id("001", number=563) == docs.similar_by_id("001", number=563)


def test_a_second_copy_goes_on_where_the_first_one_stopped(
    engine: Engine, postgresql_engine: Engine, model: DeterministicModel
):
    """What is there is left alone; what changed meanwhile is written."""
    docs = Collection("docs", engine, model=model)
    docs.embed_multi((f"{n:03}", f"text {n}") for n in range(30))
    there = Collection("docs", postgresql_engine, model=model)

    class StopHereError(Exception):
        pass

    def stop(done: int, total: int | None) -> None:
        if done == 20:
            raise StopHereError

    with pytest.raises(StopHereError):
        docs.copy_to(there, 10, progress=stop)
    assert there.count() == 20
    docs.embed("003", "another text")
    docs.set_metadata("004", {"new": 1})
    there.embed("own", "a text of its own")
    report = docs.copy_to(there, 10)
    assert (report.reused, report.unchanged) == (12, 18)
    assert there.ids() == [*docs.ids(), "own"]
    assert state(docs) == state(there)[:-1]


def test_vectors_that_were_stored_are_compared(
    engine: Engine, postgresql_engine: Engine, elsewhere: Engine
):
    """Where no content tells whether a row is the same, its vector does."""
    docs = Collection("docs", engine, model_id="their-model")
    vectors = np.random.default_rng(0).normal(size=(600, 3)).astype(np.float32)
    docs.store_vectors((f"{n:03}", vector, {"n": n}) for n, vector in enumerate(vectors))
    there = Collection("there", postgresql_engine, model_id="their-model")
    back = Collection("back", elsewhere, model_id="their-model")
    for source, copied in ((docs, there), (there, back)):
        assert source.copy_to(copied) == Report(reused=600)
        assert source.copy_to(copied) == Report(unchanged=600)
        tables = copied.reference.records.embeddings
        with copied.reference.work(write=True) as work:
            work.run(update(tables).where(tables.c.id == "001").values(updated=1))
        copied.set_metadata("002", {"n": 1})
        copied.store_vectors([("003", [1.0, 2.0, 3.0], {"n": 3})])
        copied.delete_items(["004"])
        copied.store_vectors([("005", vectors[5], {"n": 5}, "a content")])
        report = source.copy_to(copied)
        assert (report.reused, report.unchanged) == (5, 595)
        assert state(source) == state(copied)


def test_the_words_of_what_is_copied(
    engine: Engine, postgresql_engine: Engine, model: DeterministicModel
):
    """A text index of the other collection gets those of stored texts, on either database.

    And of the others with the texts, which cost nothing.
    """
    docs = Collection("docs", engine, model=model)
    docs.embed_multi([("a", "a happy hound"), ("b", "a dissatisfied cat")], store=True)
    docs.embed("c", "a cat that is not stored")
    there = Collection("there", postgresql_engine, model=model)
    there.create_text_index()
    docs.copy_to(there)
    back = Collection("back", engine, model=model)
    back.create_text_index()
    there.copy_to(back)
    for copied in (there, back):
        found = copied.similar("anything", words="cat", weights=(0, 1))
        assert [entry.id for entry in found] == ["b"]
        calls = len(model.calls)
        assert copied.embed_multi([("c", "a cat that is not stored")]).unchanged == 1
        assert len(model.calls) == calls
        found = copied.similar("anything", words="cat", weights=(0, 1))
        assert {entry.id for entry in found} == {"b", "c"}


def test_in_the_callers_transaction(
    engine: Engine, session: Any, postgresql_engine: Engine, model: DeterministicModel
):
    """To a session nothing is committed."""
    there = Collection("docs", postgresql_engine, model=model)
    there.embed_multi([("a", "hound"), ("b", "cat")], store=True)
    docs = Collection("copy", session)
    assert there.copy_to(docs).reused == 2
    assert [record.content for record in docs] == ["hound", "cat"]
    session.rollback()
    assert not Collection.exists(engine, "copy")


def test_what_cannot_be_copied(
    engine: Engine, postgresql_engine: Engine, elsewhere: Engine, model: DeterministicModel
):
    """Corrupt vectors, and what another program wrote, are named; a wrong target is refused."""
    docs = Collection("docs", engine, model=model)
    there = Collection("docs", postgresql_engine)
    with pytest.raises(DoesNotExist):
        docs.copy_to(there)
    says = r"takes a collection, Collection\(name, database\), not str"
    with pytest.raises(TypeError, match=says):
        docs.copy_to("archive.db")  # type: ignore[arg-type]
    docs.embed_multi(((str(n), f"text {n}") for n in range(6)), store=True)
    with engine.begin() as connection:
        for change in (
            "embedding = x'00' WHERE id = '1'",
            "embedding = NULL WHERE id = '2'",
            "embedding = :nan WHERE id = '3'",
            "content = 'nul' || char(0) WHERE id = '4'",
        ):
            nan = np.full(256, np.nan, "<f4").tobytes() if ":nan" in change else None
            connection.execute(text(f"UPDATE embeddings SET {change}"), {"nan": nan} if nan else {})
    wrong: dict[str, Any]
    for wrong in ({"batch_size": 0}, {"progress": "bar"}):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            docs.copy_to(there, **wrong)
    assert not Collection.exists(postgresql_engine, "docs")
    report = docs.copy_to(there)
    assert report.reused == 2
    assert [id for id, _ in report.skipped] == ["1", "2", "3", "4"]
    assert {why for _, why in report.skipped[:3]} == {"its stored vector is corrupt"}
    assert there.ids() == ["0", "5"]

    with pytest.raises(ValueError, match="cannot be copied to itself"):
        docs.copy_to(Collection("docs", engine))
    other = Collection("other", elsewhere, model=DeterministicModel("another"))
    with pytest.raises(ModelMismatchError):
        docs.copy_to(other)
    other.embed("a", "hound")
    with pytest.raises(ModelMismatchError):
        docs.copy_to(Collection("other", elsewhere))
    keyed: Collection[Any] = Collection("keyed", elsewhere, key=uuid.UUID)
    with pytest.raises(InvalidItemError):
        docs.copy_to(keyed)
    assert Collection("empty", engine, model=model).count() == 0


def test_awaited(
    engine: Engine, asynchronous_engines: Callable[[str], Engine], postgresql_engine: Engine
):
    """From one driver to another, in one event loop."""
    Collection("docs", engine, model=DeterministicModel()).embed_multi(
        [("a", "hound"), ("b", "cat")], store=True
    )
    path = f"sqlite+aiosqlite:///{engine.url.database}"

    async def main() -> Report:
        target = AsyncEngine(asynchronous_engines("asyncpg"))
        async with AsyncCollection("docs", path) as docs:
            return await docs.copy_to(AsyncCollection("there", target), progress=None)

    from sqlalchemy.util import await_only

    assert in_the_loop(lambda: await_only(main())).reused == 2
    assert Collection("there", postgresql_engine).ids() == ["a", "b"]

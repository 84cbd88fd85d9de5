"""Side tables of collections that another program has deleted: no other collection has them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import llm
import pytest
import sqlite_utils
from sqlalchemy import create_engine, select, text
from sqlalchemy.orm import Session

from embeddings import Chunks, Collection, EmbeddingRecord, IndexingError, migrate
from embeddings.overview import overview
from embeddings.testing import DeterministicModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

LONG = "A long text about many things, which is cut into several chunks. " * 5
IDS = ["1", "issue#7", "x"]
MODEL = DeterministicModel()
DELETED = "DELETE FROM embeddings; DELETE FROM collections"


class OfLlm(llm.EmbeddingModel):  # type: ignore[misc,name-defined]
    """The same model, as `llm` calls it."""

    model_id = MODEL.model_id

    def embed_batch(self, items: Any) -> Iterator[list[float]]:
        return (list(MODEL.embed(item)) for item in items)


def of_llm(path: Path, name: str) -> Any:
    return llm.Collection(name, sqlite_utils.Database(path), model=OfLlm())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a collection that has everything beside it."""
    path = tmp_path / "app.db"
    engine = create_engine(f"sqlite:///{path}")
    migrate(engine)
    notes = Collection("notes", engine, model=MODEL, chunks=Chunks(size=40))
    notes.embed("a", LONG, store=True)
    notes.create_text_index("german")
    notes.create_index()
    engine.dispose()
    return path


@pytest.fixture
def engine(path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{path}")
    yield engine
    engine.dispose()


def run(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(sql)


def beside(path: Path) -> list[str]:
    """Return the names of what belongs to one collection, and of no part of it."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(
            "SELECT name FROM sqlite_master WHERE name GLOB 'embeddings_*_[0-9]' "
            "OR name GLOB 'embeddings_index_[0-9]_*' ORDER BY name"
        )
        return [name for (name,) in found]


BESIDE = ["embeddings_chunks_1", "embeddings_index_1_bits", "embeddings_words_1"]


def is_plain(collection: Collection[str]) -> None:
    """Check a collection of the three items of `IDS`, which has nothing beside it."""
    assert collection.id == 1
    assert (collection.count(), [*collection.ids()]) == (3, IDS)
    assert {entry.id for entry in collection.similar("text x")} == {*IDS}
    assert collection.index_info() is None
    assert collection.status().strategy != "index"
    with pytest.raises(IndexingError, match="no text index"):
        collection.similar("text", words=True)


def test_llm_makes_one_with_the_id(path: Path, engine: Engine):
    name = "issues"
    of_llm(path, "notes").delete()
    theirs = of_llm(path, name)
    assert theirs.id == 1
    for id in IDS:
        theirs.embed(id, f"text {id}", store=True)

    other = create_engine(f"sqlite:///{path}")
    for each in (engine, other):
        is_plain(Collection(name, each, model=MODEL))

    collection = Collection(name, engine, model=MODEL)
    collection.embed("y", "text y", store=True)
    assert (beside(path), collection.count()) == (BESIDE, 4)

    collection.create_text_index("english")
    assert beside(path) == ["embeddings_words_1"]
    assert len(collection.similar("text", words=True)) == 4
    collection.create_index()
    for each in (engine, other):
        again = Collection(name, each, model=MODEL)
        info = again.index_info()
        assert info is not None
        assert (info.rows, again.count(), again.status().strategy) == (4, 4, "index")
    other.dispose()


MAKES: dict[str, Callable[[Collection[str]], object]] = {
    "a text index": lambda collection: collection.create_text_index("english"),
    "an index": lambda collection: collection.create_index(),
    "chunks": lambda collection: collection.embed("z", LONG, store=True),
}


@pytest.mark.parametrize("made", [*MAKES])
def test_what_is_made_takes_the_place_of_all_that_is_left(path: Path, engine: Engine, made: str):
    of_llm(path, "notes").delete()
    of_llm(path, "issues")
    chunks = Chunks(size=50) if made == "chunks" else None
    issues = Collection("issues", engine, model=MODEL, chunks=chunks)
    if made == "an index":
        issues.embed("z", "a text", store=True)
    MAKES[made](issues)
    assert len(beside(path)) == 1
    again = Collection("issues", engine, model=MODEL)
    assert again.count() == (0 if made == "a text index" else 1)


@pytest.mark.parametrize("is_noted", [True, False])
def test_the_next_one_of_ours_inherits_nothing(path: Path, engine: Engine, is_noted: bool):
    if not is_noted:  # a file from before deletions were noted
        run(path, "DROP TRIGGER embeddings_log_deleted")
    run(path, DELETED)
    issues = Collection("issues", engine, model=MODEL)
    for id in IDS:
        issues.embed(id, f"text {id}", store=True)
    assert beside(path) == []
    is_plain(issues)
    issues.create_text_index("english")
    assert len(issues.similar("text", words=True)) == 3


def test_what_cannot_be_dropped_is_not_inherited(path: Path, engine: Engine):
    """SQLite drops no table on a connection on which something is being read."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE host (n)")
        connection.executemany("INSERT INTO host VALUES (?)", [(n,) for n in range(100)])
    run(path, DELETED)
    with Session(engine) as session:
        reading = session.execute(text("SELECT n FROM host"), execution_options={"yield_per": 1})
        next(reading)
        issues = Collection("issues", session, model=MODEL)
        issues.embed("x", "text x", store=True)
        assert (issues.id, [*issues.ids()], issues.index_info()) == (2, ["x"], None)
        assert len(reading.all()) == 99
        session.commit()
    assert beside(path) == BESIDE
    Collection("other", engine, model=MODEL).embed("x", "text x")
    assert beside(path) == []


def test_rows_that_are_left_keep_what_they_need(path: Path, engine: Engine):
    """Where nobody noted the deletion, the collection's row may come back."""
    run(path, "DROP TRIGGER embeddings_log_deleted")
    run(path, "CREATE TABLE kept AS SELECT * FROM collections; DELETE FROM collections")
    issues = Collection("issues", engine, model=MODEL)
    issues.embed("x", "text x")
    assert (issues.id, beside(path)) == (2, BESIDE)
    run(path, "INSERT INTO collections SELECT * FROM kept")
    notes = Collection("notes", engine, model=MODEL)
    assert (notes.count(), [*notes.ids()]) == (1, ["a"])


STAYS = {
    "renamed": "UPDATE collections SET name = 'issues'",
    "replaced": "REPLACE INTO collections SELECT id, 'issues', model FROM collections",
    "rolled back": "BEGIN; DELETE FROM collections; ROLLBACK; "
    "UPDATE collections SET name = 'issues'",
}


@pytest.mark.parametrize("change", [*STAYS])
def test_a_collection_that_stays_keeps_all(path: Path, engine: Engine, change: str):
    run(path, STAYS[change])
    issues = Collection("issues", engine, model=MODEL)
    assert (issues.count(), [*issues.ids()]) == (1, ["a"])
    info = issues.index_info()
    assert info is not None
    assert [entry.id for entry in issues.similar("chunks", words=True)] == ["a"]
    issues.embed("b", LONG, store=True)
    assert (issues.count(), beside(path)) == (2, BESIDE)


def test_the_note_outlives_the_log(path: Path, engine: Engine):
    run(path, DELETED)
    run(path, "INSERT INTO embeddings_log (seq, collection_id) VALUES (1024000, 9)")
    theirs = of_llm(path, "issues")
    for id in IDS:
        theirs.embed(id, f"text {id}", store=True)
    with engine.connect() as connection:
        old = connection.execute(
            text("SELECT collection_id FROM embeddings_log WHERE seq BETWEEN 1 AND 1000000")
        ).scalars()
        assert {*old} == {1, -1}
    is_plain(Collection("issues", engine, model=MODEL))


def test_an_older_file_notes_deletions_once_it_is_migrated(path: Path, engine: Engine):
    run(path, "DROP TRIGGER embeddings_log_deleted")
    assert Collection("notes", engine, model=MODEL).status().strategy == "index"  # as before
    with engine.connect() as connection:
        assert "embeddings_log_deleted" in str(overview(connection).lost)
    migrate(engine)
    of_llm(path, "notes").delete()
    theirs = of_llm(path, "issues")
    for id in IDS:
        theirs.embed(id, f"text {id}", store=True)
    is_plain(Collection("issues", engine, model=MODEL))


def test_deleted_by_us_and_made_again(path: Path, engine: Engine):
    Collection("notes", engine, model=MODEL).delete()
    assert beside(path) == []
    for name in ("one", "two"):
        notes = Collection(name, engine, model=MODEL, chunks=Chunks(size=40))
        notes.embed("a", LONG, store=True)
        notes.create_index()
        notes.create_text_index("german")
        again = Collection(name, engine, model=MODEL)
        assert (again.count(), [*again.ids()], again.index_info() is None) == (1, ["a"], False)
        assert [entry.id for entry in again.similar("chunks", words=True)] == ["a"]
        with Session(engine) as session:
            assert len(session.scalars(select(EmbeddingRecord.id)).all()) > 3
        again.delete()


@pytest.mark.parametrize("way", ["replaced", "deleted and restored"])
def test_a_row_that_comes_back_keeps_what_stands_beside_it(path: Path, engine: Engine, way: str):
    """As sqlite-utils replaces one, whose connections fire triggers for it: its items stay."""
    table: Any = sqlite_utils.Database(path)["collections"]
    row = next(iter(table.rows))
    if way == "replaced":
        table.insert(row, replace=True)
    else:
        table.delete(row["id"])
        table.insert(row)
    other = Collection("other", engine, model=MODEL)
    other.embed("z", "a text")
    notes = Collection("notes", engine, model=MODEL, chunks=Chunks(size=40))
    assert (notes.count(), notes.ids()) == (1, ["a"])
    assert notes.similar(LONG, words=True)[0].id == "a"
    assert notes.index_info() is not None

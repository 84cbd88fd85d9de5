"""Every example of the documentation of `llm`'s Python API, with `embeddings` in place of `llm`.

The code is written as there, so that who comes from `llm` changes one import.
"""

# ruff: noqa: T201, PTH123

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import sqlite_utils

import embeddings
from embeddings import Collection
from embeddings.testing import DeterministicModel

if TYPE_CHECKING:
    from pathlib import Path

ModelOf = Callable[[str], DeterministicModel]
ADA = "text-embedding-ada-002"
TEXTS = {"hound": "my happy hound", "cat": "my dissatisfied cat"}


@pytest.fixture(autouse=True)
def ada(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deterministic_models: ModelOf
) -> DeterministicModel:
    """An empty folder to work in, and a model without a network in place of OpenAI's."""
    monkeypatch.chdir(tmp_path)
    return deterministic_models(ADA)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite_utils.Database]:
    """The documentation's file."""
    database = sqlite_utils.Database("my-embeddings.db")
    yield database
    database.close()


@pytest.fixture
def collection(db: sqlite_utils.Database) -> Iterator[Collection[str]]:
    """The documentation's collection."""
    with embeddings.Collection("entries", db, model_id="ada-002") as collection:
        yield collection


@pytest.fixture
def entries(collection: Collection[str]) -> Collection[str]:
    """The collection with a few more animals than the page has."""
    collection.embed_multi_with_metadata(
        [
            ("hound", "my happy hound", {"name": "Hound"}),
            ("cat", "my dissatisfied cat", {"name": "Cat"}),
            *((f"eel{i}", f"eel number {i}", None) for i in range(12)),
        ],
        store=True,
    )
    return collection


# Using embeddings from Python


def test_a_model_is_loaded_by_id_or_alias(ada: DeterministicModel):
    """`get_embedding_model` takes either, and gives the same model."""
    embedding_model = embeddings.get_embedding_model("ada-002")

    assert embedding_model is ada
    assert embedding_model.model_id == ADA
    assert embeddings.get_embedding_model(ADA) is embedding_model


def test_embed_returns_a_list_of_floats():
    """`.embed()` gives a Python list of floating point numbers."""
    embedding_model: Any = embeddings.get_embedding_model("ada-002")

    vector = embedding_model.embed("my happy hound")

    assert type(vector) is list
    assert {type(value) for value in vector} == {float}


@pytest.mark.parametrize("supports_binary", [False, True])
def test_supports_binary_tells_whether_bytes_can_be_embedded(
    tmp_path: Path, ada: DeterministicModel, supports_binary: bool
):
    """What is guarded by the property works, and is not reached where it would not."""
    (tmp_path / "my-image.jpg").write_bytes(b"\xff\xd8\xff\x00")
    ada.supports_binary = supports_binary
    embedding_model: Any = embeddings.get_embedding_model("ada-002")
    vector = None

    if embedding_model.supports_binary:
        with open("my-image.jpg", "rb") as file:
            vector = embedding_model.embed(file.read())

    assert (vector is not None) is supports_binary
    assert embedding_model.supports_text is True


def test_embed_multi_yields_a_vector_for_each_string(ada: DeterministicModel):
    """`.embed_multi()` is a generator of one vector per string, from a single batch."""
    embedding_model: Any = embeddings.get_embedding_model("ada-002")

    vectors = list(embedding_model.embed_multi(["my happy hound", "my dissatisfied cat"]))

    assert ada.calls == [["my happy hound", "my dissatisfied cat"]]
    assert vectors == [ada.embed("my happy hound"), ada.embed("my dissatisfied cat")]
    generator = embedding_model.embed_multi(["a"])
    assert inspect.isgenerator(generator)
    assert len(ada.calls) == 3  # nothing is embedded before somebody iterates


@pytest.mark.parametrize(
    ("of_model", "options", "sizes"),
    [
        (None, {}, [50]),
        (30, {}, [30, 20]),
        (None, {"batch_size": 20}, [20, 20, 10]),
        (30, {"batch_size": 20}, [20, 20, 10]),
        (10, {"batch_size": 20}, [20, 20, 10]),
    ],
)
def test_embed_multi_works_in_batches(
    ada: DeterministicModel, of_model: int | None, options: dict[str, int], sizes: list[int]
):
    """All at once, or as many as the model prefers, or as `batch_size=` says."""
    lines_from_file = [f"line {i}" for i in range(50)]
    ada.batch_size = of_model
    embedding_model: Any = embeddings.get_embedding_model("ada-002")

    vectors = list(embedding_model.embed_multi(lines_from_file, **options))

    assert len(vectors) == 50
    assert [len(call) for call in ada.calls] == sizes


# Working with collections


def test_the_ways_to_open_a_collection():
    """In memory, in a file by model id, and in the same file by model."""
    # This collection will use an in-memory database that will be
    # discarded when the Python process exits
    collection = embeddings.Collection("entries", model_id="ada-002")

    assert (collection.name, collection.model_id, collection.count()) == ("entries", ADA, 0)
    collection.close()

    # Or you can persist the database to disk like this:
    db = sqlite_utils.Database("my-embeddings.db")
    collection = embeddings.Collection("entries", db, model_id="ada-002")

    assert [*db["collections"].rows] == [{"id": collection.id, "name": "entries", "model": ADA}]
    collection.close()

    # You can pass a model directly using model= instead of model_id=
    embedding_model = embeddings.get_embedding_model("ada-002")
    collection = embeddings.Collection("entries", db, model=embedding_model)

    assert collection.model() is embedding_model
    assert db["collections"].count == 1
    collection.close()
    db.close()


def test_an_existing_collection_needs_no_model(db: sqlite_utils.Database):
    """The model ID is read from the collections table."""
    embeddings.Collection("entries", db, model_id="ada-002").close()

    with embeddings.Collection("entries", db) as collection:
        assert collection.model_id == ADA
        collection.embed("hound", "my happy hound")
        assert [entry.id for entry in collection.similar("hound")] == ["hound"]


def test_embed_stores_the_vector_under_the_key(
    db: sqlite_utils.Database, collection: Collection[str], ada: DeterministicModel
):
    """The embedding, without the text and without metadata."""
    collection.embed("hound", "my happy hound")

    [row] = db["embeddings"].rows
    assert (row["id"], row["content"], row["metadata"]) == ("hound", None, None)
    assert embeddings.decode(row["embedding"]) == tuple(ada.embed("my happy hound"))


def test_embed_stores_metadata_and_content(db: sqlite_utils.Database, collection: Collection[str]):
    """The dictionary as JSON in the metadata column, the text in the content column."""
    collection.embed("hound", "my happy hound", metadata={"name": "Hound"}, store=True)

    [row] = db["embeddings"].rows
    assert row["content"] == "my happy hound"
    assert row["metadata"] == json.dumps({"name": "Hound"})


# Storing embeddings in bulk


def test_embed_multi_stores_many_items(
    db: sqlite_utils.Database, collection: Collection[str], ada: DeterministicModel
):
    """Several items in one call of the model."""
    collection.embed_multi(
        [
            ("hound", "my happy hound"),
            ("cat", "my dissatisfied cat"),
        ],
        # Add this to store the strings in the content column:
        store=True,
    )

    assert {row["id"]: row["content"] for row in db["embeddings"].rows} == TEXTS
    assert len(ada.calls) == 1


def test_embed_multi_with_metadata_stores_metadata_of_each(
    db: sqlite_utils.Database, collection: Collection[str]
):
    """A third member of each tuple is its metadata."""
    collection.embed_multi_with_metadata(
        [
            ("hound", "my happy hound", {"name": "Hound"}),
            ("cat", "my dissatisfied cat", {"name": "Cat"}),
        ],
        # This can also take the store=True argument:
        store=True,
    )

    assert {row["id"]: row["content"] for row in db["embeddings"].rows} == TEXTS
    assert {row["id"]: json.loads(row["metadata"]) for row in db["embeddings"].rows} == {
        "hound": {"name": "Hound"},
        "cat": {"name": "Cat"},
    }


def test_batch_size_is_adjusted_for_large_collections(
    tmp_path: Path, collection: Collection[str], ada: DeterministicModel
):
    """A generator over a file's lines, numbered, is read and embedded ten at a time."""
    (tmp_path / "lines.txt").write_text("".join(f"line {i}\n" for i in range(25)))

    with open("lines.txt") as lines_in_file:
        collection.embed_multi(
            ((i, line) for i, line in enumerate(lines_in_file)),
            batch_size=10,
        )

    assert [len(call) for call in ada.calls] == [10, 10, 5]
    assert collection.count() == 25
    assert set(collection.ids()) == {str(i) for i in range(25)}


@pytest.mark.parametrize(("of_model", "sizes"), [(None, [100, 20]), (50, [50, 50, 20])])
def test_batches_are_of_100_unless_the_model_wants_less(
    collection: Collection[str],
    ada: DeterministicModel,
    of_model: int | None,
    sizes: list[int],
):
    """The default holds unless the embedding model itself defines a lower batch size."""
    ada.batch_size = of_model

    collection.embed_multi((i, f"line {i}") for i in range(120))

    assert [len(call) for call in ada.calls] == sizes


# Collection class reference


def test_the_class_reference(db: sqlite_utils.Database, entries: Collection[str]):
    """Each property and method that the page lists is what it says."""
    assert entries.id == next(iter(db["collections"].rows))["id"]
    assert entries.name == "entries"
    assert entries.model_id == ADA
    assert isinstance(entries.model(), embeddings.EmbeddingModel)
    assert entries.count() == 14
    entries.delete()
    assert db["collections"].count == db["embeddings"].count == 0


def test_exists_tells_whether_there_is_a_collection(
    db: sqlite_utils.Database, entries: Collection[str], capsys: pytest.CaptureFixture[str]
):
    """It returns a boolean, and prints what the page prints."""
    if Collection.exists(db, "entries"):
        print("The entries collection exists")

    assert capsys.readouterr().out == "The entries collection exists\n"
    assert Collection.exists(db, "entries") is True
    assert Collection.exists(db, "others") is False


# Retrieving similar items


def test_similar_returns_entries(entries: Collection[str], capsys: pytest.CaptureFixture[str]):
    """The nearest items first, each with its score; ten of them."""
    for entry in entries.similar("hound"):
        print(entry.id, entry.score)

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 10
    assert lines[0][0] == "hound"
    scores = [float(score) for _, score in lines]
    assert scores == sorted(scores, reverse=True)


def test_an_entry_has_the_four_properties(entries: Collection[str]):
    """Id, score, content and metadata; the last two None where they were not stored."""
    entries.embed("bare", "a text of its own")

    hound = entries.similar("my happy hound", number=1)[0]
    bare = entries.similar("a text of its own", number=1)[0]

    assert (hound.id, hound.content, hound.metadata) == (
        "hound",
        "my happy hound",
        {"name": "Hound"},
    )
    assert hound.score == pytest.approx(1.0)
    assert (bare.id, bare.content, bare.metadata) == ("bare", None, None)


def test_number_changes_how_many_there_are(
    entries: Collection[str], capsys: pytest.CaptureFixture[str]
):
    """The five best are the first five of the ten best."""
    for entry in entries.similar("hound", number=5):
        print(entry.id, entry.score)

    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"{entry.id} {entry.score}" for entry in entries.similar("hound")[:5]]


def test_similar_by_id_excludes_the_item_itself(
    entries: Collection[str], ada: DeterministicModel, capsys: pytest.CaptureFixture[str]
):
    """It is based on the vector that has been stored: no model is called."""
    ada.calls.clear()

    for entry in entries.similar_by_id("cat"):
        print(entry.id, entry.score)

    ids = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert len(ids) == 10
    assert ids[0] == "hound"  # they share a word
    assert "cat" not in ids
    assert ada.calls == []


def test_similar_by_vector_may_skip_an_item(entries: Collection[str], ada: DeterministicModel):
    """The class reference's third search, optionally without the item of an id."""
    vector = ada.embed("my happy hound")

    assert entries.similar_by_vector(vector, number=1)[0].id == "hound"
    assert entries.similar_by_vector(vector, number=1, skip_id="hound")[0].id == "cat"


# SQL schema


def test_the_schema_is_the_documented_one(db: sqlite_utils.Database, collection: Collection[str]):
    """Both tables have the columns, keys and the reference of the page, in its order."""
    tables: dict[str, Any] = {name: db[name] for name in ("collections", "embeddings")}
    columns = {
        name: [(column.name, column.type) for column in table.columns]
        for name, table in tables.items()
    }
    assert columns == {
        "collections": [("id", "INTEGER"), ("name", "TEXT"), ("model", "TEXT")],
        "embeddings": [
            ("collection_id", "INTEGER"),
            ("id", "TEXT"),
            ("embedding", "BLOB"),
            ("content", "TEXT"),
            ("content_blob", "BLOB"),
            ("content_hash", "BLOB"),
            ("metadata", "TEXT"),
            ("updated", "INTEGER"),
        ],
    }
    assert tables["collections"].pks == ["id"]
    assert tables["embeddings"].pks == ["collection_id", "id"]
    [key] = tables["embeddings"].foreign_keys
    assert (key.column, key.other_table, key.other_column) == (
        "collection_id",
        "collections",
        "id",
    )

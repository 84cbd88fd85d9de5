"""Each method of the documented class: its arguments, what it stores, returns and refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlite_utils
from sqlalchemy import Engine, create_engine, event, select, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import StaticPool

import embeddings
from embeddings import (
    Collection,
    CollectionRecord,
    DoesNotExist,
    EmbeddingRecord,
    Entry,
    ModelRequiredError,
    SchemaError,
    UnknownModelError,
    cosine_similarity,
)
from embeddings.testing import DeterministicModel
from tests.reaching import is_opened_by_the_collection, is_postgresql, on_sqlite, rows_of

Open = Callable[..., Collection[Any]]
ModelOf = Callable[[str], DeterministicModel]

PETS = [("hound", "my happy hound"), ("cat", "my dissatisfied cat"), ("eel", "an old eel")]


@pytest.fixture
def pets(docs: Collection[str]) -> Collection[str]:
    """The documentation's animals, with their texts."""
    docs.embed_multi(PETS, store=True)
    return docs


# The signatures

SIGNATURES = {
    "__init__": "name, db=None, *, model=None, model_id=None, create=True",
    "model": "",
    "count": "",
    "embed": "id, value, metadata=None, store=False",
    "embed_multi": "entries, store=False, batch_size=100",
    "embed_multi_with_metadata": "entries, store=False, batch_size=100",
    "similar": "value, number=10, prefix=None",
    "similar_by_id": "id, number=10, prefix=None",
    "similar_by_vector": "vector, number=10, skip_id=None, prefix=None",
    "delete": "",
    "exists": "db, name",
    "content_hash": "input",
}


def test_a_method_takes_the_documented_arguments(subtests: pytest.Subtests):
    """Names, order and defaults are the documented ones; what is added goes by keyword only."""
    for method in SIGNATURES:
        with subtests.test(ascii(method)[:60]):
            parameters = list(inspect.signature(getattr(Collection, method)).parameters.values())
            bare = [
                p.replace(annotation=inspect.Parameter.empty)
                for p in parameters
                if p.name != "self"
            ]
            documented = [name for name in SIGNATURES[method].split(", ") if name]
            own = [p for p in bare if p.name in {name.split("=")[0] for name in documented}]
            kinds = {p.kind for p in bare if p not in own}
            signature = str(inspect.Signature(own))
            assert signature == f"({SIGNATURES[method]})"
            assert kinds <= {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}


@pytest.mark.parametrize("name", ["id", "name", "model_id"])
def test_the_properties_are_properties(name: str):
    """`id`, `name` and `model_id` are read without a call and cannot be set."""
    found = getattr(Collection, name)
    assert isinstance(found, property)
    assert found.fset is None


# id, name, model_id, model(), count()


def test_id_is_the_integer_of_the_row(db: Any, pets: Collection[str]):
    """The id is that of the collection's row, an int."""
    assert rows_of(db, "SELECT id, name, model FROM collections") == [
        (pets.id, "docs", "deterministic")
    ]
    assert type(pets.id) is int


def test_collections_have_ids_of_their_own(opened: Open):
    """Two collections of one database differ in id and share no item."""
    one, two = opened("one"), opened("two")
    one.embed("a", "hello")
    two.embed("b", "hello")
    assert one.id != two.id
    assert (one.ids(), two.ids()) == (["a"], ["b"])


def test_name_is_the_name_it_was_given(opened: Open, db: Any):
    """Any string that is not empty names a collection, and only that one."""
    names = ["docs", "Docs", "ünï 文書 🐕", "a'b\"c;--", "%_", " "]
    for name in names:
        collection = opened(name)
        collection.embed(name, "hello")
        assert collection.name == name
        assert collection.ids() == [name]
        assert Collection.exists(db, name)
        assert not Collection.exists(db, name + "x")
    assert Collection.names(db) == sorted(names)


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", None, 1, b"docs"])
def test_a_name_that_cannot_be_stored_is_refused(
    engine: Engine, tmp_path: Path, model: DeterministicModel, name: Any
):
    """An empty name, NUL, a lone surrogate or something that is no string is an error at once."""
    for db in (engine, tmp_path / "new.db", None):
        with pytest.raises(ValueError, match="name"):
            Collection(name, db, model=model)
    assert not (tmp_path / "new.db").exists()


def test_model_id_and_model_are_those_of_the_collection(
    pets: Collection[str], model: DeterministicModel
):
    """`model_id` is the model's id and `model()` the very object that was given."""
    assert pets.model_id == "deterministic"
    assert pets.model() is model


def test_model_is_found_by_the_stored_model_id(
    opened: Open, db: Any, deterministic_models: ModelOf
):
    """An existing collection needs no model: its row names it."""
    opened(model_id="3-small").embed("a", "hello")
    again = opened(model=None, model_id=None)
    assert again.model_id == "text-embedding-3-small"
    assert again.model() is deterministic_models("text-embedding-3-small")
    assert [entry.id for entry in again.similar("hello")] == ["a"]


def test_count_is_the_number_of_items(opened: Open):
    """`count()` is an int, of this collection's items only; a replaced item counts once."""
    docs, other = opened(), opened("other")
    other.embed("x", "hello")
    assert docs.count() == len(docs) == 0
    docs.embed_multi(PETS)
    docs.embed("cat", "my other cat")
    assert docs.count() == len(docs) == 3
    assert type(docs.count()) is int


def test_an_empty_collection_is_true(docs: Collection[str]):
    """`if collection:` asks whether there is one, not whether it has items."""
    assert bool(docs) is True
    assert len(docs) == 0


def test_repr_names_the_collection(docs: Collection[str]):
    """`repr` shows the name, without a look at the database."""
    assert repr(docs) == "<Collection 'docs'>"


# embed and the row it stores


METADATA = {"name": "Hünd", "tags": ["a", None, 1.5, True], "deep": {"x": {}}}


def test_embed_stores_the_documented_row(db: Any, docs: Collection[str]):
    """A row has the float32 vector, the text, the MD5, the metadata and the time."""
    before = int(time.time())
    returned = docs.embed("hound", "my happy hünd", METADATA, True)
    assert returned is None
    after = int(time.time())
    [row] = rows_of(db, select(EmbeddingRecord.__table__))
    stored = dict(zip(EmbeddingRecord.__table__.c.keys(), row, strict=True))
    assert before <= stored.pop("updated") <= after
    assert stored.pop("embedding").tolist() == DeterministicModel().embed("my happy hünd")
    assert stored == {
        "collection_id": docs.id,
        "id": "hound",
        "content": "my happy hünd",
        "content_blob": None,
        "content_hash": hashlib.md5("my happy hünd".encode(), usedforsecurity=False).digest(),
        "metadata": METADATA,
    }


def test_a_row_has_the_documented_types(db: Any, opened: Open):
    """The database's own types are those of the schema, and no text stands for a number."""
    docs = opened(model=DeterministicModel(supports_binary=True))
    docs.embed("hound", b"my happy hound", {"name": "Hound"}, True)
    docs.embed("cat", "my dissatisfied cat", None, True)
    name = "pg_typeof({})::text" if is_postgresql(db) else "typeof({})"
    columns = ["collection_id", "id", "embedding", "content_hash", "updated"]
    types = ", ".join(map(name.format, columns))
    assert set(rows_of(db, f"SELECT {types} FROM embeddings")) == {
        ("integer", "text", "vector", "bytea", "integer")
        if is_postgresql(db)
        else ("integer", "text", "blob", "blob", "integer")
    }
    types = ", ".join(map(name.format, ["content_blob", "metadata"]))
    assert rows_of(db, f"SELECT {types} FROM embeddings WHERE id = 'hound'") == [
        ("bytea", "jsonb") if is_postgresql(db) else ("blob", "text")
    ]
    assert rows_of(db, f"SELECT {name.format('content')} FROM embeddings WHERE id = 'cat'") == [
        ("text",)
    ]


@on_sqlite
def test_a_row_has_the_documented_bytes(db: Any, docs: Collection[str]):
    """The vector is little-endian float32 and the metadata json.dumps of it.

    On SQLite only: there other programs read the file; on PostgreSQL both have types.
    """
    docs.embed("hound", "my happy hünd", METADATA)
    vector = DeterministicModel().embed("my happy hünd")
    assert rows_of(db, "SELECT embedding, metadata FROM embeddings") == [
        (struct.pack("<" + "f" * len(vector), *vector), json.dumps(METADATA))
    ]


def test_embed_stores_neither_content_nor_metadata_unless_told(db: Any, docs: Collection[str]):
    """Without `store=True` and `metadata=` these columns are NULL."""
    docs.embed("hound", "my happy hound")
    assert rows_of(db, "SELECT content, content_blob, metadata FROM embeddings") == [
        (None, None, None)
    ]


def test_bytes_are_stored_as_a_blob(db: Any, opened: Open):
    """With `store=True` bytes go to `content_blob`, and an entry's `content` is the text only."""
    docs = opened(model=DeterministicModel(supports_binary=True))
    docs.embed("image", b"\x00\xff jpeg", store=True)
    columns = (EmbeddingRecord.content, EmbeddingRecord.content_blob)
    assert rows_of(db, select(*columns)) == [(None, b"\x00\xff jpeg")]
    assert docs.similar(b"jpeg")[0].content is None


def test_an_integer_id_is_stored_as_its_string(db: Any, docs: Collection[str]):
    """Integers are accepted as ids wherever an id is, and come back as strings."""
    docs.embed(1, "one")
    docs.embed_multi([(2, "two"), (-3, "three")])
    assert rows_of(db, "SELECT id FROM embeddings ORDER BY id") == [("-3",), ("1",), ("2",)]
    assert [entry.id for entry in docs.similar("two", number=1)] == ["2"]
    assert {entry.id for entry in docs.similar_by_id(1)} == {"2", "-3"}
    assert {entry.id for entry in docs.similar_by_vector([1.0] * 256, skip_id=2)} == {"1", "-3"}


IDS = ["ü", "u\u0308", "Ü", "文書", "🐕", "a", "A", "a ", " a", "'; DROP TABLE embeddings; --"]
IDS += ['"', "\\", "\\u0061", "\uffff", "\U0010ffff", " ", "\x01", "\x7f", "null", "x" * 1024]


def test_any_text_is_an_id(docs: Collection[str]):
    """Ids are compared character by character: nothing is normalised, trimmed or escaped."""
    docs.embed_multi([(id, f"number{n}") for n, id in enumerate(IDS)], store=True)
    assert docs.ids() == sorted(IDS)
    for n, id in enumerate(IDS):
        assert [entry.id for entry in docs.similar(f"number{n}", number=1)] == [id]
        assert {entry.id for entry in docs.similar_by_id(id, 100)} == {*IDS} - {id}
        assert id in docs


def test_content_comes_back_as_it_was(docs: Collection[str]):
    """Stored text is what was passed, to the character."""
    contents = ["", " ", "a\nb\r\n", "ünï 🐕", "x" * 100_000, "\uffff", "u\u0308", "'\"\\"]
    docs.embed_multi(enumerate(contents), store=True)
    found = {entry.id: entry.content for entry in docs.similar("x")}
    assert found == {str(i): content for i, content in enumerate(contents)}


def test_a_subclass_may_override_content_hash(engine: Engine, model: DeterministicModel):
    """`content_hash` is a static method, and what it returns is stored and recognised."""

    class CaseBlind(Collection[str]):
        @staticmethod
        def content_hash(input: str | bytes) -> bytes:
            return Collection.content_hash(input.lower())

    docs = CaseBlind("docs", engine, model=model)
    docs.embed_multi([("a", "Hello"), ("b", "HELLO")])
    docs.embed("c", "hello")
    assert model.calls == [["Hello"]]
    expected = hashlib.md5(b"hello", usedforsecurity=False).digest()
    assert rows_of(engine, "SELECT DISTINCT content_hash FROM embeddings") == [(expected,)]


def test_content_hash_is_the_md5_of_the_bytes():
    """The hash is the 16 bytes of MD5 over UTF-8 or the bytes themselves."""
    expected = hashlib.md5("ü".encode(), usedforsecurity=False).digest()
    assert Collection.content_hash("ü") == Collection.content_hash("ü".encode()) == expected


# embed_multi and embed_multi_with_metadata


def test_embed_multi_stores_every_pair(docs: Collection[str], model: DeterministicModel):
    """Each pair becomes an item; the call says so and takes one call of the model."""
    assert docs.embed_multi(PETS).embedded == 3
    assert docs.ids() == ["cat", "eel", "hound"]
    assert [entry.content for entry in docs.similar("hound")] == [None] * 3
    assert [sorted(call) for call in model.calls] == [sorted(text for _, text in PETS), ["hound"]]


def test_embed_multi_stores_contents_on_request(docs: Collection[str]):
    """With `store=True`, second positionally, the texts are kept."""
    docs.embed_multi(PETS, True)
    assert {entry.id: entry.content for entry in docs.similar("x")} == dict(PETS)


def test_embed_multi_with_metadata_stores_each_dict(docs: Collection[str]):
    """Each triple's dict is its item's metadata; None is none."""
    docs.embed_multi_with_metadata(
        [("hound", "my happy hound", {"name": "Hound"}), ("cat", "my cat", None)], store=True
    )
    found = {entry.id: (entry.content, entry.metadata) for entry in docs.similar("x")}
    assert found == {"hound": ("my happy hound", {"name": "Hound"}), "cat": ("my cat", None)}


def test_no_entries_are_no_call_of_the_model(docs: Collection[str], model: DeterministicModel):
    """An empty iterable is fine and does nothing."""
    docs.embed_multi([])
    docs.embed_multi_with_metadata(iter(()))
    assert (docs.count(), model.calls) == (0, [])


@pytest.mark.parametrize("method", ["embed_multi", "embed_multi_with_metadata"])
def test_a_generator_is_read_a_batch_at_a_time(
    docs: Collection[str], model: DeterministicModel, method: str
):
    """What is next is read only when what was read has been stored."""
    seen: list[tuple[int, int, int]] = []

    def entries() -> Iterator[Any]:
        for i in range(5):
            seen.append((i, len(model.calls), docs.count()))
            yield (i, f"text {i}", None)[: 3 if method.endswith("metadata") else 2]

    getattr(docs, method)(entries(), batch_size=2)
    assert seen == [(0, 0, 0), (1, 0, 0), (2, 1, 2), (3, 1, 2), (4, 2, 4)]
    assert docs.count() == 5


def test_what_came_before_an_error_in_the_generator_is_stored(
    docs: Collection[str], model: DeterministicModel
):
    """The generator's own exception comes through, and whole batches before it stay."""

    def entries() -> Iterator[tuple[int, str]]:
        yield from ((i, f"text {i}") for i in range(3))
        raise LookupError("the source is gone")

    with pytest.raises(LookupError, match="the source is gone"):
        docs.embed_multi(entries(), batch_size=2)
    assert docs.ids() == ["0", "1"]
    assert model.calls == [["text 0", "text 1"]]


@pytest.mark.parametrize(
    ("batch_size", "of_model", "calls"),
    [
        (None, None, [100, 100, 50]),
        (None, 120, [100, 100, 50]),
        (None, 80, [80, 80, 80, 10]),
        (None, 0, [100, 100, 50]),
        (90, None, [90, 90, 70]),
        (90, 60, [60, 60, 60, 60, 10]),
        (60, 90, [60, 60, 60, 60, 10]),
        (1000, None, [250]),
        (1000, 200, [200, 50]),
    ],
)
def test_the_smaller_batch_size_goes_first(
    engine: Engine,
    model: DeterministicModel,
    batch_size: int | None,
    of_model: int | None,
    calls: list[int],
):
    """The model is given `min(batch_size, model.batch_size or batch_size)` texts at once."""
    model.batch_size = of_model
    docs = Collection("docs", engine, model=model)
    options: dict[str, Any] = {} if batch_size is None else {"batch_size": batch_size}
    docs.embed_multi(((i, f"text {i}") for i in range(250)), **options)
    assert [len(call) for call in model.calls] == calls


# Entries


def test_an_entry_is_a_mutable_dataclass_of_four_fields():
    """Callers use `dataclasses.asdict`, set attributes and construct entries themselves."""
    assert [field.name for field in dataclasses.fields(Entry)] == [
        "id",
        "score",
        "content",
        "metadata",
    ]
    entry = Entry("hound", 0.5)
    assert dataclasses.asdict(entry) == {
        "id": "hound",
        "score": 0.5,
        "content": None,
        "metadata": None,
    }
    entry.content = "changed"
    assert entry == Entry("hound", 0.5, "changed", None)


def test_an_entry_has_the_types_of_the_documentation(docs: Collection[str]):
    """Id a str, score a Python float, content a str or None, metadata a dict or None."""
    docs.embed("a", "one", store=True, metadata={"x": 1})
    docs.embed("b", "one two")
    first, second = docs.similar("one")
    assert [type(v) for v in dataclasses.astuple(first)] == [str, float, str, dict]
    assert [type(v) for v in dataclasses.astuple(second)] == [str, float, type(None), type(None)]
    assert dataclasses.asdict(first) == {
        "id": "a",
        "score": pytest.approx(1.0),
        "content": "one",
        "metadata": {"x": 1},
    }


# similar, similar_by_id, similar_by_vector


def test_similar_is_the_nearest_first(pets: Collection[str], model: DeterministicModel):
    """The score is the cosine similarity, highest first."""
    vector = model.embed("happy cat")
    expected = sorted(
        ((cosine_similarity(vector, model.embed(content)), id) for id, content in PETS),
        reverse=True,
    )
    found = pets.similar("happy cat")
    assert [entry.id for entry in found] == [id for _, id in expected]
    assert [entry.score for entry in found] == pytest.approx([score for score, _ in expected])


def test_similar_calls_the_model_once_with_the_value(
    pets: Collection[str], model: DeterministicModel
):
    """A search costs one call for one text."""
    model.calls.clear()
    pets.similar("dog")
    assert model.calls == [["dog"]]


def test_ten_results_unless_told_otherwise(docs: Collection[str]):
    """`number` is 10 by default in each search; more than there are gives all."""
    docs.embed_multi((f"{i:02}", f"word{i}") for i in range(12))
    vector = [1.0] * 256
    assert len(docs.similar("x")) == len(docs.similar_by_vector(vector)) == 10
    assert len(docs.similar_by_id("00")) == 10
    assert len(docs.similar("x", 3)) == len(docs.similar_by_vector(vector, 3)) == 3
    assert len(docs.similar_by_id("00", 3)) == 3
    assert docs.similar("x", number=0) == []
    assert len(docs.similar("x", number=1000)) == 12
    assert len(docs.similar_by_id("00", number=1000)) == 11


def test_equal_scores_are_in_the_order_of_ids(docs: Collection[str]):
    """Ties break by id, whatever the order of writing."""
    docs.embed_multi((id, "the same") for id in ["b", "ü", "B", "10", "9", "a"])
    found = docs.similar("the same")
    assert [entry.id for entry in found] == ["10", "9", "B", "a", "b", "ü"]
    assert len({entry.score for entry in found}) == 1


def test_similar_by_id_leaves_the_item_itself_out(pets: Collection[str], model: DeterministicModel):
    """It uses the stored vector: no model is called."""
    model.calls.clear()
    found = pets.similar_by_id("cat")
    assert {entry.id for entry in found} == {"hound", "eel"}
    expected = cosine_similarity(model.embed(PETS[1][1]), model.embed(PETS[0][1]))
    assert dataclasses.astuple(found[0]) == (
        "hound",
        pytest.approx(expected),
        "my happy hound",
        None,
    )
    assert len(model.calls) == 2


def test_similar_by_id_of_an_unknown_id_does_not_exist(pets: Collection[str]):
    """The message is that of the contract, and the class is Collection.DoesNotExist."""
    with pytest.raises(Collection.DoesNotExist, match=r"^ID not found: "):
        pets.similar_by_id("bird")


def test_similar_by_vector_calls_no_model_and_may_skip_an_id(
    pets: Collection[str], model: DeterministicModel
):
    """`skip_id`, third positionally, is left out before the best are counted."""
    vector = model.embed("my happy hound")
    model.calls.clear()
    assert pets.similar_by_vector(vector, 1)[0].id == "hound"
    assert pets.similar_by_vector(vector, 1, "hound")[0].id == "cat"
    assert len(pets.similar_by_vector(vector, skip_id="unknown")) == 3
    assert model.calls == []


def test_prefix_limits_every_search(docs: Collection[str], model: DeterministicModel):
    """Only ids with the prefix compete, so that a result is not short."""
    docs.embed_multi([("a/1", "one"), ("a/2", "two"), ("b/1", "one two"), ("b/2", "three")])
    vector = model.embed("one two")
    assert [e.id for e in docs.similar("one two", 1, "a/")] == ["a/1"]
    assert [e.id for e in docs.similar_by_id("a/1", 10, "b/")] == ["b/1", "b/2"]
    assert [e.id for e in docs.similar_by_vector(vector, 10, None, "b/")] == ["b/1", "b/2"]
    assert docs.similar("one", prefix="c") == []
    assert len(docs.similar("one", prefix="")) == 4


def test_a_search_sees_this_collection_only(opened: Open):
    """Items of another collection are never among the results."""
    one, two = opened("one"), opened("two")
    one.embed("a", "hello")
    two.embed_multi([("b", "hello"), ("c", "hello")])
    assert [entry.id for entry in one.similar("hello")] == ["a"]
    assert one.similar_by_id("a") == []
    with pytest.raises(DoesNotExist):
        one.similar_by_id("b")


# delete, exists, DoesNotExist


def test_delete_removes_the_collection_and_its_items(opened: Open, db: Any):
    """No row of it stays, and other collections are left alone."""
    docs, other = opened(), opened("other")
    docs.embed_multi(PETS)
    other.embed("a", "hello")
    assert docs.delete() is None  # type: ignore[func-returns-value]
    assert not Collection.exists(db, "docs")
    assert rows_of(db, "SELECT name FROM collections") == [("other",)]
    assert rows_of(db, "SELECT id FROM embeddings") == [("a",)]


def test_exists_tells_whether_there_is_one_of_this_name(db: Any, opened: Open):
    """It is a class method that returns a bool and creates nothing."""
    assert Collection.exists(db, "docs") is False
    opened().embed("a", "hello")
    assert Collection.exists(db, "docs") is True
    assert Collection.exists(db, "DOCS") is False
    assert Collection.exists(db, "d%") is False
    assert Collection.names(db) == ["docs"]


def test_exists_takes_any_string_for_a_name(db: Any, docs: Collection[str]):
    """A name that could not be stored does not exist."""
    assert Collection.exists(db, "") is False


@pytest.fixture(
    params=["session", "connection", "engine", "sessionmaker", "path", "sqlite_utils", "memory"]
)
def bare(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A database without the tables."""
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as driver:
        driver.execute("CREATE TABLE articles (id INTEGER PRIMARY KEY)")
    engine = create_engine(f"sqlite:///{path}")
    if request.param == "session":
        with Session(engine) as session:
            yield session
    elif request.param == "connection":
        with engine.connect() as connection:
            yield connection
    elif request.param == "sqlite_utils":
        database = sqlite_utils.Database(path)
        yield database
        database.close()
    elif request.param == "memory":
        database = sqlite_utils.Database(memory=True)
        yield database
        database.close()
    else:
        yield {"engine": engine, "sessionmaker": sessionmaker(engine), "path": path}[request.param]
    engine.dispose()


def test_nothing_exists_without_the_tables(bare: Any):
    """A database without the tables has no collection, and is not given any."""
    before = rows_of(bare, "SELECT name FROM sqlite_master")
    assert Collection.exists(bare, "docs") is False
    assert Collection.names(bare) == []
    assert rows_of(bare, "SELECT name FROM sqlite_master") == before


@pytest.mark.parametrize("as_type", [str, Path, "sqlite:///{}".format])
def test_exists_creates_no_missing_file(tmp_path: Path, as_type: Callable[[Path], Any]):
    """A path of no file has no collections, and stays a path of no file."""
    path = tmp_path / "missing.db"
    assert Collection.exists(as_type(path), "docs") is False
    assert Collection.names(as_type(path)) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("open_file", [str, sqlite_utils.Database], ids=["path", "sqlite_utils"])
def test_exists_changes_nothing_in_a_file(tmp_path: Path, open_file: Callable[[Path], Any]):
    """To ask is not to write: somebody else's file is the same, byte by byte, afterwards."""
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as driver:
        driver.execute("CREATE TABLE articles (id INTEGER PRIMARY KEY)")
    before = path.read_bytes()
    db = open_file(path)
    assert Collection.exists(db, "docs") is False
    if isinstance(db, sqlite_utils.Database):
        db.close()
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["other.db"]


def test_exists_in_nothing_is_false():
    """Without a database there is a new, empty one in memory."""
    assert Collection.exists(None, "docs") is False


def test_does_not_exist_is_an_exception_of_the_class():
    """`Collection.DoesNotExist` is what callers catch."""
    assert Collection.DoesNotExist is DoesNotExist
    assert issubclass(DoesNotExist, Exception)


# At once, or at the first write


def test_what_a_collection_opens_it_creates_at_once(db: Any, opened: Open):
    """A path or a sqlite_utils database has the row right after the constructor, else none yet."""
    docs = opened()
    expected = [("docs", "deterministic")] if is_opened_by_the_collection(db) else []
    assert rows_of(db, "SELECT name, model FROM collections") == expected
    assert Collection.exists(db, "docs") is is_opened_by_the_collection(db)
    docs.embed("a", "hello")
    assert rows_of(db, "SELECT name, model FROM collections") == [("docs", "deterministic")]


def test_without_a_database_there_is_one_in_memory(model: DeterministicModel):
    """`Collection(name, model=...)` works at once, and two of them share nothing."""
    with Collection("docs", model=model) as one, Collection("docs", model=model) as two:
        assert (one.id, one.count(), two.count()) == (1, 0, 0)
        one.embed("a", "hello")
        assert (one.count(), two.count()) == (1, 0)


@pytest.mark.parametrize("as_type", [str, Path, "sqlite:///{}".format])
def test_a_path_is_created_migrated_and_kept(
    tmp_path: Path, model: DeterministicModel, as_type: Callable[[Path], Any]
):
    """A file that is not there is made; opened again, the collection is as it was."""
    path = tmp_path / "my embeddings.db"
    with Collection("docs", as_type(path), model=model) as docs:
        docs.embed("a", "hello", store=True)
        first = docs.id
    with Collection("docs", as_type(path), model=model) as again:
        assert again.id == first
        assert [entry.content for entry in again.similar("hello")] == ["hello"]


def test_a_sqlite_utils_database_is_migrated_at_once(tmp_path: Path, model: DeterministicModel):
    """The owner's own connection sees tables and collection after the constructor."""
    database = sqlite_utils.Database(tmp_path / "app.db")
    docs = Collection("docs", database, model=model)
    assert {"collections", "embeddings"} <= set(database.table_names())
    assert [row["name"] for row in database["collections"].rows] == ["docs"]
    docs.close()
    assert database.execute("SELECT 1").fetchone() == (1,)
    database.close()


@pytest.fixture
def untouched(engine: Engine) -> Iterator[list[str]]:
    """Every connect, checkout and statement of the engine from now on."""
    engine.dispose()
    seen: list[str] = []

    def record(what: str) -> Callable[..., None]:
        return lambda *_: seen.append(what)

    listeners = {name: record(name) for name in ("connect", "checkout", "begin", "commit")}
    for name, listener in listeners.items():
        event.listen(engine, name, listener)
    yield seen
    for name, listener in listeners.items():
        event.remove(engine, name, listener)


@pytest.mark.parametrize("bind", [Session, lambda e: scoped_session(sessionmaker(e)), sessionmaker])
@pytest.mark.parametrize("options", [{}, {"create": False}, {"model_id": "nobody-knows"}])
def test_a_constructor_on_a_session_touches_no_database(
    engine: Engine,
    untouched: list[str],
    bind: Callable[[Engine], Any],
    options: dict[str, Any],
):
    """On a session no connection is taken before the first operation."""
    bound = bind(engine)
    Collection("docs", bound, **options)
    assert untouched == []
    if hasattr(bound, "in_transaction"):
        assert not bound.in_transaction()


@pytest.mark.parametrize("options", [{}, {"create": False}, {"model_id": "nobody-knows"}])
def test_a_constructor_on_an_engine_touches_no_database(
    engine: Engine, untouched: list[str], options: dict[str, Any]
):
    """On an engine no connection is taken before the first operation."""
    docs = Collection("docs", engine, **options)
    assert docs.name == "docs"
    repr(docs)
    docs.close()
    assert untouched == []


def test_a_constructor_on_a_connection_runs_no_statement(engine: Engine):
    """On a connection no transaction begins before the first operation."""
    with engine.connect() as connection:
        Collection("docs", connection)
        assert not connection.in_transaction()


def test_before_the_row_exists_reading_finds_nothing(
    db: Any, opened: Open, model: DeterministicModel
):
    """Nothing is created and no model called by looking."""
    docs = opened()
    assert docs.count() == 0
    assert docs.similar("hello") == []
    assert docs.similar_by_vector([1.0, 2.0]) == []
    assert docs.ids() == []
    assert list(docs) == []
    assert docs.get("a") is None
    assert "a" not in docs
    assert docs.delete_items(["a"]) == 0
    assert docs.model_id == "deterministic"
    assert docs.model() is model
    with pytest.raises(DoesNotExist, match=r"^ID not found: "):
        docs.similar_by_id("a")
    assert Collection.exists(db, "docs") is is_opened_by_the_collection(db)
    assert model.calls == []


def test_before_the_row_exists_it_has_no_id(db: Any, opened: Open):
    """`id`, `delete()` and `rename()` need the row, which is there where it was made at once."""
    docs = opened()
    if is_opened_by_the_collection(db):
        assert docs.id == rows_of(db, "SELECT id FROM collections")[0].id
        return
    for operation in (lambda: docs.id, docs.delete, lambda: docs.rename("other")):
        with pytest.raises(DoesNotExist, match=r"^Collection 'docs' does not exist$"):
            operation()


def test_an_empty_collection_is_searched_without_the_model(
    docs: Collection[str], model: DeterministicModel
):
    """With the row, but without an item, there is nothing to compare with either."""
    docs.embed("a", "hello")
    docs.delete_items(["a"])
    model.calls.clear()
    assert docs.similar("hello") == []
    assert docs.similar_by_vector([1.0]) == []
    assert model.calls == []


# create=False


def test_create_false_refuses_to_make_a_collection(
    db: Any, opened: Open, model: DeterministicModel
):
    """It does not exist, says every operation, or the constructor where that looks at once."""
    operations: list[Callable[[Collection[Any]], object]] = [
        lambda docs: docs.id,
        lambda docs: docs.count(),
        lambda docs: docs.model_id,
        lambda docs: docs.embed("a", "hello"),
        lambda docs: docs.embed_multi([("a", "hello")]),
        lambda docs: docs.embed_multi_with_metadata([("a", "hello", None)]),
        lambda docs: docs.store_vectors([("a", [1.0])]),
        lambda docs: docs.similar("hello"),
        lambda docs: docs.similar_by_id("a"),
        lambda docs: docs.similar_by_vector([1.0]),
        lambda docs: docs.delete(),
    ]
    for operation in operations:
        with pytest.raises(DoesNotExist, match=r"^Collection 'docs' does not exist$"):
            operation(opened(create=False))
    if isinstance(db, Path):
        assert not db.exists()
    else:
        assert rows_of(db, "SELECT count(*) FROM collections") == [(0,)]
    assert model.calls == []


def test_create_false_opens_a_collection_that_is_there(opened: Open):
    """An existing collection is read and written as usual."""
    opened().embed("a", "hello")
    docs = opened(create=False)
    docs.embed("b", "world")
    assert docs.ids() == ["a", "b"]


# The model


def test_model_id_wins_over_model(db: Any, opened: Open, deterministic_models: ModelOf):
    """If both are given, `model_id` is what is stored and called."""
    other = DeterministicModel("other")
    docs = opened(model=other, model_id="3-large")
    docs.embed("a", "hello")
    assert rows_of(db, "SELECT model FROM collections") == [("text-embedding-3-large",)]
    assert deterministic_models("text-embedding-3-large").calls == [["hello"]]
    assert other.calls == []


ALIASES = {
    "ada": "text-embedding-ada-002",
    "ada-002": "text-embedding-ada-002",
    "3-small": "text-embedding-3-small",
    "3-large": "text-embedding-3-large",
    "3-small-512": "text-embedding-3-small-512",
    "3-large-256": "text-embedding-3-large-256",
    "3-large-1024": "text-embedding-3-large-1024",
}


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_stored_as_the_canonical_id(
    engine: Engine, deterministic_models: ModelOf, alias: str
):
    """The row never holds an alias, and the collection opens by alias and by id alike."""
    docs = Collection("docs", engine, model_id=alias)
    assert docs.model_id == ALIASES[alias]
    docs.embed("a", "hello")
    assert rows_of(engine, "SELECT model FROM collections") == [(ALIASES[alias],)]
    for name in (alias, ALIASES[alias]):
        assert Collection("docs", engine, model_id=name).count() == 1


def test_an_alias_needs_no_call_of_the_model(db: Any, opened: Open):
    """To create, name and look at a collection the real model is not needed."""
    docs = opened(model_id="ada-002")
    assert docs.model_id == "text-embedding-ada-002"
    assert docs.count() == 0
    if is_opened_by_the_collection(db):
        assert rows_of(db, "SELECT model FROM collections") == [("text-embedding-ada-002",)]


def test_a_new_collection_needs_a_model(db: Any, opened: Open, monkeypatch: pytest.MonkeyPatch):
    """Neither of the two, and no default: the contract's message, and nothing is created."""
    monkeypatch.delenv("EMBEDDINGS_MODEL", raising=False)
    message = "^Either model= or model_id= must be provided when creating a new collection$"
    for operation in (
        lambda: opened(model=None).embed("a", "hello"),
        lambda: opened(model=None).embed_multi([("a", "hello")]),
        lambda: opened(model=None).model_id,
        lambda: opened(model=None).model(),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            operation()
        assert type(caught.value) is ModelRequiredError
    assert rows_of(db, "SELECT count(*) FROM collections") == [(0,)]


def test_a_new_collection_takes_the_applications_default(
    db: Any, opened: Open, monkeypatch: pytest.MonkeyPatch, deterministic_models: ModelOf
):
    """The environment names the model of new collections, by id or alias."""
    monkeypatch.setenv("EMBEDDINGS_MODEL", "3-small")
    docs = opened(model=None)
    docs.embed("a", "hello")
    assert rows_of(db, "SELECT model FROM collections") == [("text-embedding-3-small",)]


def test_an_unknown_model_is_a_key_error(db: Any, opened: Open):
    """The message is that of the contract; nothing is stored."""
    with pytest.raises(KeyError) as caught:
        opened(model_id="nobody-knows").embed("a", "hello")
    assert type(caught.value) is UnknownModelError
    assert str(caught.value) == "Unknown model: nobody-knows"
    assert rows_of(db, "SELECT count(*) FROM collections") == [(0,)]


@pytest.mark.parametrize("model_class", [DeterministicModel, "ada-002", object()])
def test_model_takes_a_model_object_only(engine: Engine, model_class: Any):
    """A class, a name or any other object for `model=` is an error at once."""
    with pytest.raises(TypeError, match="model"):
        Collection("docs", engine, model=model_class)


@pytest.mark.parametrize(
    ("value", "text", "binary", "message"),
    [
        (b"a", True, False, "This model does not support binary data, only text strings"),
        ("a", False, True, "This model does not support text strings, only binary data"),
    ],
)
def test_content_of_the_wrong_kind_is_a_value_error(
    engine: Engine,
    model: DeterministicModel,
    value: Any,
    text: bool,
    binary: bool,
    message: str,
):
    """The messages are those of the contract; of an item, behind its id."""
    docs = Collection("docs", engine, model=model)
    model.supports_text, model.supports_binary = True, True
    docs.embed("seed", "seed")
    model.supports_text, model.supports_binary = text, binary
    model.calls.clear()
    for operation in (
        lambda: docs.embed("a", value),
        lambda: docs.embed_multi([("a", value)]),
        lambda: docs.embed_multi_with_metadata([("a", value, None)]),
        lambda: docs.similar(value),
        lambda: docs.prepare(value),
        lambda: model.embed(value),
        lambda: list(model.embed_multi([value])),
    ):
        with pytest.raises(ValueError, match=f"{message}$"):
            operation()
    assert (model.calls, docs.ids()) == ([], ["seed"])


# Missing tables

OPERATIONS: dict[str, Callable[[Collection[Any]], object]] = {
    "id": lambda docs: docs.id,
    "model_id": lambda docs: docs.model_id,
    "model": lambda docs: docs.model(),
    "count": lambda docs: docs.count(),
    "embed": lambda docs: docs.embed("a", "hello"),
    "embed_multi": lambda docs: docs.embed_multi([("a", "hello")]),
    "embed_multi_with_metadata": lambda docs: docs.embed_multi_with_metadata([("a", "x", {})]),
    "store_vectors": lambda docs: docs.store_vectors([("a", [1.0])]),
    "similar": lambda docs: docs.similar("hello"),
    "similar_by_id": lambda docs: docs.similar_by_id("a"),
    "similar_by_vector": lambda docs: docs.similar_by_vector([1.0]),
    "set_metadata": lambda docs: docs.set_metadata("a", None),
    "delete_items": lambda docs: docs.delete_items(["a"]),
    "rename": lambda docs: docs.rename("other"),
    "delete": lambda docs: docs.delete(),
    "get": lambda docs: docs.get("a"),
    "contains": lambda docs: "a" in docs,
    "iterate": lambda docs: list(docs),
    "ids": lambda docs: docs.ids(),
}


def test_missing_tables_are_an_error_that_names_migrate(
    tmp_path: Path, model: DeterministicModel, subtests: pytest.Subtests
):
    """On a session and on an engine nothing is migrated, the message says what to do."""
    for operation in OPERATIONS:
        with subtests.test(ascii(operation)[:60]):
            engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}")
            with engine.connect() as connection, Session(engine) as session:
                for db in (engine, sessionmaker(engine), session, connection):
                    docs = Collection("docs", db, model=model)
                    with pytest.raises(SchemaError, match=r"migrate"):
                        OPERATIONS[operation](docs)
                    session.rollback()  # it may have taken the write lock
                assert rows_of(connection, "SELECT name FROM sqlite_master") == []
            assert model.calls == []
            engine.dispose()


def test_a_session_goes_on_after_missing_tables(tmp_path: Path, model: DeterministicModel):
    """The error leaves the session usable: migrate its connection, and the call succeeds."""
    engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    with Session(engine) as session:
        docs = Collection("docs", session, model=model)
        with pytest.raises(SchemaError):
            docs.count()
        embeddings.migrate(session.connection())
        docs.embed("a", "hello")
        session.commit()
    assert Collection("docs", engine).ids() == ["a"]
    engine.dispose()


# Whose transaction


def test_a_hosts_session_is_neither_committed_nor_closed(
    engine: Engine, session: Session, model: DeterministicModel
):
    """Rolled back, nothing of it was there; pending rows of the host are seen."""
    record = CollectionRecord(name="docs", model="deterministic")
    record.embeddings.append(
        EmbeddingRecord(id="pending", embedding=model.embed("pending"), content="pending")
    )
    session.add(record)
    docs = Collection("docs", session, model=model)
    assert docs.count() == 1
    docs.embed("a", "hello")
    assert [entry.id for entry in docs.similar("pending", number=1)] == ["pending"]
    docs.close()
    assert session.in_transaction()
    session.rollback()
    assert rows_of(engine, "SELECT count(*) FROM collections") == [(0,)]


def test_nothing_outlives_a_rollback(session: Session, model: DeterministicModel):
    """After a rollback the same object creates its collection anew."""
    docs = Collection("docs", session, model=model)
    docs.embed("a", "hello")
    session.rollback()
    assert docs.count() == 0
    with pytest.raises(DoesNotExist):
        _ = docs.id
    docs.embed("b", "hello")
    session.commit()
    assert docs.ids() == ["b"]


@pytest.mark.parametrize("method", ["embed", "embed_multi", "embed_multi_with_metadata"])
def test_a_deletion_that_was_rolled_back_is_forgotten(
    session: Session, model: DeterministicModel, method: str
):
    """The object that deleted its collection writes again when the deletion is undone."""
    docs = Collection("docs", session, model=model)
    docs.embed("a", "hello")
    session.commit()
    docs.delete()
    session.rollback()
    arguments = {
        "embed": ("b", "world"),
        "embed_multi": ([("b", "world")],),
        "embed_multi_with_metadata": ([("b", "world", None)],),
    }
    getattr(docs, method)(*arguments[method])
    assert docs.ids() == ["a", "b"]


def test_an_engine_commits_each_batch(engine: Engine, model: DeterministicModel):
    """What was paid for is there for everybody as soon as its batch is done."""
    seen: list[list[str]] = []

    def entries() -> Iterator[tuple[int, str]]:
        for i in range(4):
            with Session(engine) as reader:
                seen.append(Collection("docs", reader, model=model).ids())
            yield i, f"text {i}"

    Collection("docs", engine, model=model).embed_multi(entries(), batch_size=2)
    assert seen == [[], [], ["0", "1"], ["0", "1"]]


def test_an_engine_with_one_connection_in_use_says_what_to_pass(model: DeterministicModel):
    """Inside somebody's transaction on the only connection, the error names the session."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    embeddings.migrate(engine)
    with Session(engine) as session:
        session.execute(text("INSERT INTO collections (name, model) VALUES ('x', 'y')"))
        with pytest.raises(embeddings.BindingError, match="session"):
            Collection("docs", engine, model=model).count()
        assert Collection("docs", session, model=model).count() == 0
        session.rollback()
    assert Collection("docs", engine, model=model).count() == 0
    engine.dispose()


@pytest.mark.parametrize("db", [1, object(), [], {"path": "x"}, sqlite3, 3.5, True])
def test_something_else_than_a_database_is_a_type_error(db: Any, model: DeterministicModel):
    """The message names what can be passed."""
    with pytest.raises(TypeError, match="Session, scoped_session, Connection, Engine"):
        Collection("docs", db, model=model)

"""Items read, asked for and deleted; vectors stored; collections renamed, named and deleted."""

from __future__ import annotations

import math
import re
import sqlite3
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sqlite_utils
from sqlalchemy import Engine, create_engine, func, inspect, select, text
from sqlalchemy.orm import Session, object_session

from embeddings import (
    Collection,
    CollectionRecord,
    DoesNotExist,
    EmbeddingModel,
    EmbeddingRecord,
    EmbeddingsError,
    InvalidItemError,
    InvalidQueryError,
    InvalidVectorError,
    ModelMismatchError,
    ModelRequiredError,
    Prepared,
    UnknownModelError,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    Open = Callable[..., Collection[str]]


def shown(value: object) -> str:
    """Return an id for a parameter that is the same in every process."""
    return re.sub(r"0x[0-9a-f]+|[0-9]{12,}", "...", ascii(value))[:60]


class PlainModel(EmbeddingModel):
    """A model whose texts are their vectors, written out, and which counts its calls."""

    def __init__(self, model_id: str = "plain") -> None:
        self.model_id = model_id
        self.calls = 0

    def embed_batch(self, items: Sequence[str | bytes]) -> list[list[float]]:
        """Return the numbers in each text."""
        self.calls += 1
        return [[float(word) for word in item.split()] for item in items]


NOBODY = "acme/embed-9000"
"""The id of a model that is nowhere to be had."""

on_a_session = pytest.mark.parametrize("db", ["session"], indirect=True)
"""For what does not depend on the database."""
in_transactions = pytest.mark.parametrize(
    "db",
    ["session", "scoped_session", "connection", "async_aiosqlite_session", "async_asyncpg_session"],
    indirect=True,
)
"""Only where the transaction is the host's."""
opens_at_once = pytest.mark.parametrize(
    "db", ["path", "sqlite_utils", "sqlite_utils_memory"], indirect=True
)
opens_when_used = pytest.mark.parametrize(
    "db",
    ["session", "scoped_session", "connection", "engine", "sessionmaker", "memory",
     "async_aiosqlite_session", "async_asyncpg_engine"],
    indirect=True,
)  # fmt: skip


@pytest.fixture
def plain() -> PlainModel:
    """A model that reads vectors from texts."""
    return PlainModel()


@pytest.fixture
def docs(opened: Open, plain: PlainModel) -> Collection[str]:
    """An empty collection of that model."""
    return opened(model=plain)


@pytest.fixture
def pets(docs: Collection[str], plain: PlainModel) -> Collection[str]:
    """A collection of three, with content and metadata."""
    docs.embed("hound", "1 0", {"legs": 4}, store=True)
    docs.embed("cat", "0 1", {"legs": 4, "purrs": True})
    docs.embed("bird", "1 1", {"legs": 2})
    plain.calls = 0
    return docs


@pytest.fixture
def one(session: Session, plain: PlainModel) -> Collection[str]:
    """A collection on a session, for what does not depend on the database."""
    return Collection("docs", session, model=plain)


def contents_of(docs: Collection[Any]) -> dict[Any, Any]:
    """Return vector, content and metadata by id."""
    return {
        record.id: (record.embedding.tolist(), record.content, record.metadata_) for record in docs
    }


PETS = {
    "bird": ([1.0, 1.0], None, {"legs": 2}),
    "cat": ([0.0, 1.0], None, {"legs": 4, "purrs": True}),
    "hound": ([1.0, 0.0], "1 0", {"legs": 4}),
}


class TestGet:
    """A record by its id."""

    def test_the_record_has_everything_that_is_stored(self, pets):
        """Vector, content, metadata, time and collection are there, also after the session."""
        record = pets.get("hound")
        assert type(record) is EmbeddingRecord
        assert (record.id, record.content, record.metadata_) == ("hound", "1 0", {"legs": 4})
        assert record.embedding.tolist() == [1.0, 0.0]
        assert record.embedding.dtype == np.float32
        assert record.content_blob is None
        assert record.content_hash == Collection.content_hash("1 0")
        assert isinstance(record.updated, int)
        assert record.collection_id == pets.id
        assert (record.collection.name, record.collection.model) == ("docs", "plain")

    def test_what_is_not_there_is_none(self, pets):
        """So is anything in a collection that does not exist yet."""
        assert pets.get("horse") is None
        assert pets.get("Hound") is None
        assert pets.get("hound ") is None

    def test_nothing_is_in_a_new_collection(self, docs):
        """Asking for a record does not create the collection."""
        assert docs.get("hound") is None
        assert "hound" not in docs
        assert docs.ids() == []
        assert [*docs] == []
        assert len(docs) == 0

    def test_on_a_session_it_is_an_object_of_the_session(self, session, one):
        """It is the one in the identity map, and changes to it are the session's."""
        one.embed("hound", "1 0")
        record = one.get("hound")
        assert record is not None
        assert object_session(record) is session
        assert one.get("hound") is record
        record.metadata_ = {"changed": True}
        assert one.similar("1 0")[0].metadata == {"changed": True}

    def test_on_an_engine_it_is_detached_with_its_collection(self, engine, plain):
        """It can be used, and put into a session of the host."""
        docs = Collection("docs", engine, model=plain)
        docs.embed("hound", "1 0")
        record = docs.get("hound")
        assert record is not None
        assert object_session(record) is None
        assert record.collection.name == "docs"
        with Session(engine) as session:
            session.add(record)
            record.content = "changed"
            session.commit()
        assert contents_of(docs) == {"hound": ([1.0, 0.0], "changed", None)}

    @on_a_session
    def test_another_collection_has_other_items(self, opened, plain, pets):
        """An id is one within its collection."""
        other = opened("other", model=plain)
        other.embed("hound", "0 5")
        assert other.get("hound").embedding.tolist() == [0.0, 5.0]
        assert pets.get("hound").embedding.tolist() == [1.0, 0.0]
        assert other.get("cat") is None
        assert "cat" not in other
        assert other.ids() == ["hound"]


class TestIterating:
    """All records, in the order of their ids."""

    def test_records_come_in_the_order_of_ids(self, pets):
        """Whatever the order in which they were written."""
        assert contents_of(pets) == PETS
        assert [record.id for record in pets] == ["bird", "cat", "hound"]
        assert [record.collection.name for record in pets] == ["docs"] * 3

    @pytest.mark.parametrize("count", [499, 500, 501, 1000, 1234])
    def test_more_than_a_page(self, one, count):
        """No record is left out or repeated where a page ends."""
        ids = [f"{n * 7919 % count:05}" for n in range(count)]
        one.store_vectors(((id, [1, int(id)]) for id in ids), batch_size=500)
        assert [record.id for record in one] == sorted(ids)
        assert len(one) == count

    def test_more_than_a_page_everywhere(self, docs):
        """Pages work on every database, at ids beyond ASCII too."""
        ids = [f"{prefix}{n}" for n in range(201) for prefix in ("a", "é", "\U0010ffff")]
        docs.store_vectors(((id, [1, 0]) for id in ids), batch_size=1000)
        assert [record.id for record in docs] == sorted(ids)
        assert docs.ids() == sorted(ids)

    @on_a_session
    def test_two_iterations_at_once(self, pets):
        """Each has a position of its own."""
        assert [(a.id, b.id) for a, b in zip(pets, pets, strict=True)] == [
            (id, id) for id in sorted(PETS)
        ]

    def test_writing_while_iterating(self, pets):
        """Items can be deleted and changed on the way."""
        seen = []
        for record in pets:
            seen.append(record.id)
            pets.delete_items([record.id])
        assert seen == ["bird", "cat", "hound"]
        assert len(pets) == 0

    def test_deleting_over_several_pages(self, one):
        """A page goes on after the last id, whether that is still there or not."""
        one.store_vectors(((f"{n:04}", [1, 0]) for n in range(1100)), batch_size=1100)
        seen = []
        for record in one:
            seen.append(record.id)
            if len(seen) % 100 == 0:
                one.delete_items(seen)
        assert len({*seen}) == len(seen) == 1100
        assert len(one) == 0


class TestMembership:
    """in, len and bool."""

    def test_in_len_and_bool(self, docs):
        """A collection is true even when it is empty."""
        assert (len(docs), docs.count(), bool(docs)) == (0, 0, True)
        docs.embed("a", "1 0")
        assert (len(docs), docs.count(), bool(docs)) == (1, 1, True)
        assert "a" in docs
        assert "A" not in docs
        assert "a'" not in docs
        assert "%" not in docs

    @on_a_session
    def test_ids_have_a_literal_prefix(self, docs):
        """Wildcards and case mean themselves; the order is that of the code points."""
        ids = ["a%b", "a_b", "aXb", "Ab", "b", "é", "😀", "\U0010ffff", "\ud7ff", "\ue000"]
        docs.store_vectors((id, [1, 0]) for id in ids)
        assert docs.ids() == sorted(ids)
        for prefix in ["a", "A", "a_", "a%", "%", "", "é", "\U0010ffff", "\ud7ff", "x", "aX"]:
            expected = sorted(id for id in ids if id.startswith(prefix))
            assert docs.ids(prefix=prefix) == docs.ids(prefix) == expected

    @pytest.mark.parametrize("prefix", [0, 5, b"", b"a", [], False, "a\0", "\ud800"], ids=shown)
    def test_a_prefix_that_is_no_text_is_refused(self, one, prefix):
        """A mistake does not list everything."""
        one.embed("a", "1 0")
        with pytest.raises((InvalidQueryError, InvalidItemError), match="prefix"):
            one.ids(prefix=prefix)

    def test_a_row_without_an_id_is_not_listed(self, session, one):
        """The documented schema allows NULL as an id, which is not the string None."""
        one.embed("a", "1 0")
        session.execute(
            text("INSERT INTO embeddings (collection_id, embedding) VALUES (:of, :vector)"),
            {"of": one.id, "vector": encode([1, 0])},
        )
        assert one.ids() == ["a"]
        assert [record.id for record in one] == ["a"]


class TestDeleteItems:
    """Items go by id, by prefix and by what a condition picks."""

    def test_by_ids(self, pets):
        """The count is that of the items that were there."""
        assert pets.delete_items(["hound", "horse", "hound", "HOUND"]) == 1
        assert pets.ids() == ["bird", "cat"]
        assert pets.delete_items(ids=(id for id in ("bird", "cat"))) == 2
        assert pets.ids() == []
        assert pets.delete_items({"bird"}) == 0

    @on_a_session
    def test_none_of_them_is_none(self, pets):
        """An empty list deletes nothing."""
        assert pets.delete_items([]) == 0
        assert pets.delete_items(ids=[], prefix="h", where={"legs": 4}) == 0
        assert len(pets) == 3

    @on_a_session
    def test_by_prefix(self, docs):
        """The prefix is literal and case-sensitive."""
        docs.store_vectors((id, [1, 0]) for id in ("a%1", "a%2", "ab", "A%1", "a_"))
        assert docs.delete_items(prefix="a%") == 2
        assert docs.ids() == ["A%1", "a_", "ab"]
        assert docs.delete_items(prefix="a_") == 1
        assert docs.delete_items(prefix="nothing") == 0
        assert docs.ids() == ["A%1", "ab"]

    def test_by_metadata_and_by_expression(self, pets):
        """A dict and an expression over the records pick as they do in a search."""
        assert pets.delete_items(where={"legs": 4, "purrs": True}) == 1
        assert pets.delete_items(where=EmbeddingRecord.content == "1 0") == 1
        assert pets.delete_items(where=EmbeddingRecord.__table__.c.id == "cat") == 0
        assert pets.ids() == ["bird"]

    @on_a_session
    def test_all_that_is_given_has_to_hold(self, pets):
        """ids, prefix and where are one condition."""
        assert pets.delete_items(["hound", "bird"], prefix="b", where={"legs": 4}) == 0
        assert pets.delete_items(["hound", "cat"], prefix="h") == 1
        assert pets.delete_items(["cat", "bird"], where={"legs": 2}) == 1
        assert pets.ids() == ["cat"]

    @on_a_session
    def test_a_hundred_thousand_ids(self, pets):
        """There is no limit on their number."""
        ids = [f"no such id {n}" for n in range(100_000)]
        assert pets.delete_items([*ids, "cat"]) == 1

    @on_a_session
    def test_other_collections_keep_theirs(self, opened, plain, pets):
        """The same ids elsewhere stay."""
        other = opened("other", model=plain)
        other.store_vectors((id, [1, 0], {"legs": 4}) for id in PETS)
        assert pets.delete_items([*PETS], prefix="", where={}) == 3
        assert other.ids() == sorted(PETS)

    @pytest.mark.parametrize(
        "options",
        [{}, {"ids": None}, {"ids": None, "prefix": None, "where": None}, {"prefix": ""},
         {"where": {}}],
        ids=shown,
    )  # fmt: skip
    def test_nothing_given_is_an_error(self, one, options):
        """A condition that holds for everything is not how to delete everything."""
        one.embed("a", "1 0")
        with pytest.raises(InvalidQueryError, match=r"delete\(\)"):
            one.delete_items(**options)
        assert one.ids() == ["a"]

    def test_what_means_nothing_is_refused(self, one, subtests):
        """A single id as a string, above all, is not taken for many of one letter."""
        options: Any
        for options in [
            {"ids": "a"},
            {"ids": b"a"},
            {"ids": [None]},
            {"ids": [True]},
            {"ids": [["a"]]},
            {"ids": [""]},
            {"prefix": 5},
            {"prefix": b"a"},
            {"prefix": "\ud800"},
            {"where": "id = 'a'"},
            {"where": True},
            {"where": {"a": ["b"]}},
            {"where": CollectionRecord.name == "docs"},
        ]:
            with subtests.test(ascii(options)[:60]):
                one.embed("a", "1 0")
                with pytest.raises((InvalidQueryError, InvalidItemError)):
                    one.delete_items(**options)
                assert one.ids() == ["a"]

    def test_a_collection_that_does_not_exist_has_none(self, opened, plain):
        """Nothing is deleted, and nothing created where the collection is lazy."""
        docs = opened("new", model=plain)
        assert docs.delete_items(["a"]) == 0
        assert docs.delete_items(prefix="a", where={"a": 1}) == 0

    @in_transactions
    def test_a_rollback_brings_them_back(self, db, pets):
        """The deletion is part of the host's transaction."""
        db.commit()
        assert pets.delete_items(["hound"]) == 1
        assert pets.ids() == ["bird", "cat"]
        db.rollback()
        assert contents_of(pets) == PETS

    def test_loaded_objects_are_gone_from_the_session(self, session, one):
        """A record that was deleted is no longer an object of the session."""
        one.store_vectors([("a", [1, 0], {"n": 1}), ("b", [0, 1])])
        records = {record.id: record for record in one}
        one.delete_items(["a"], where={"n": 1})
        assert inspect(records["a"]).deleted
        assert records["b"] in session
        assert one.get("a") is None
        session.commit()
        assert inspect(records["a"]).detached

    def test_pending_objects_are_deleted_too(self, session, one):
        """What the host has added is flushed first."""
        one.embed("a", "1 0")
        session.add(EmbeddingRecord(id="b", embedding=[1, 0], collection_id=one.id))
        assert one.delete_items(["b"]) == 1
        session.commit()
        assert one.ids() == ["a"]


class TestSetMetadata:
    """Metadata is replaced without a model."""

    def test_it_is_replaced_as_a_whole(self, pets, plain):
        """Everything else about the row stays."""
        pets.set_metadata("hound", {"name": "Hound", "nested": {"é": [1, None, 0.5]}})
        pets.set_metadata("cat", None)
        pets.set_metadata("bird", {})
        assert contents_of(pets) == {
            "hound": ([1.0, 0.0], "1 0", {"name": "Hound", "nested": {"é": [1, None, 0.5]}}),
            "cat": ([0.0, 1.0], None, None),
            "bird": ([1.0, 1.0], None, {}),
        }
        assert plain.calls == 0
        pets.embed("hound", "1 0")
        assert plain.calls == 0

    def test_an_id_that_is_not_there_is_an_error(self, docs):
        """Also in a collection that does not exist yet; nothing is created."""
        with pytest.raises(DoesNotExist):
            docs.set_metadata("a", {"b": 1})
        docs.embed("a", "1 0")
        with pytest.raises(Collection.DoesNotExist, match=r"^ID not found: "):
            docs.set_metadata("A", {"b": 1})
        assert docs.get("a").metadata_ is None

    def test_what_is_not_json_is_refused(self, one, subtests):
        """The row stays as it is."""
        for metadata in [
            [],
            "a",
            5,
            {1: 2},
            {"a": math.nan},
            {"a": {"b": [math.inf]}},
            {"a": b"b"},
            {"a": {1}},
            {"a": "\0"},
            {"\ud800": 1},
            {"a": object()},
        ]:
            with subtests.test(ascii(metadata)[:60]):
                one.embed("a", "1 0", {"old": True})
                with pytest.raises(InvalidItemError, match="metadata"):
                    one.set_metadata("a", metadata)
                assert one.get("a").metadata_ == {"old": True}

    def test_loaded_objects_are_up_to_date(self, session, one):
        """A record in the identity map has the new metadata, and the old after a rollback."""
        one.embed("a", "1 0", {"old": True})
        session.commit()
        record = one.get("a")
        one.set_metadata("a", {"new": True})
        assert record.metadata_ == {"new": True}
        session.rollback()
        assert record.metadata_ == {"old": True}

    @in_transactions
    def test_a_rollback_brings_it_back(self, db, pets):
        """The change is part of the host's transaction."""
        db.commit()
        pets.set_metadata("hound", None)
        db.rollback()
        assert contents_of(pets) == PETS


class TestRename:
    """A collection gets another name."""

    def test_the_contents_come_along(self, db, opened, plain, pets):
        """The object goes on under the new name, and nothing is left under the old one."""
        id = pets.id
        pets.rename("animals")
        assert (pets.name, pets.id, repr(pets)) == ("animals", id, "<Collection 'animals'>")
        assert contents_of(pets) == PETS
        pets.embed("fish", "2 1")
        assert [entry.id for entry in pets.similar("2 1", 1)] == ["fish"]
        assert opened("animals", model=plain).count() == 4
        assert (Collection.exists(db, "docs"), Collection.exists(db, "animals")) == (False, True)

    def test_the_old_name_is_free_again(self, opened, plain, pets):
        """A new collection of that name is empty, and has another id."""
        pets.rename("animals")
        again = opened("docs", model=plain)
        again.embed("a", "0 1")
        assert again.ids() == ["a"]
        assert again.id != pets.id
        assert contents_of(pets) == PETS

    def test_a_name_that_is_taken_is_refused(self, db, opened, plain, pets):
        """Both stay as they were; the own name is no other."""
        other = opened("other", model=plain)
        other.embed("a", "1 0")
        with pytest.raises(ValueError, match="'other' already exists"):
            pets.rename("other")
        pets.rename("docs")
        assert (pets.name, contents_of(pets)) == ("docs", PETS)
        assert other.ids() == ["a"]
        assert Collection.names(db) == ["docs", "other"]

    @on_a_session
    def test_case_and_wildcards_tell_names_apart(self, opened, plain, pets):
        """A name is literal."""
        for name in ("DOCS", "d_cs", "%", "docs ", "'; --", "é", "e\u0301"):
            pets.rename(name)
            assert pets.name == name
            assert opened(name, model=plain).count() == 3

    @pytest.mark.parametrize("name", ["", None, 5, b"docs", "a\0", "\ud800"], ids=shown)
    def test_what_is_no_name_is_refused(self, one, name):
        """Names are strings that a database can store."""
        one.embed("a", "1 0")
        with pytest.raises(InvalidItemError, match=r"[Nn]ame"):
            one.rename(name)
        assert (one.name, one.count()) == ("docs", 1)

    def test_what_does_not_exist_cannot_be_renamed(self, session, one):
        """A lazy collection has no row before the first write."""
        with pytest.raises(DoesNotExist, match="'docs' does not exist"):
            one.rename("other")
        one.embed("a", "1 0")
        assert Collection.names(session) == ["docs"]

    @in_transactions
    def test_a_rollback_brings_the_old_name_back(self, db, opened, plain, pets):
        """The object works under its old name again, for reading and for writing."""
        db.commit()
        pets.rename("animals")
        assert pets.count() == 3
        db.rollback()
        assert contents_of(pets) == PETS
        pets.embed("fish", "2 1")
        assert pets.name == "docs"
        assert Collection.names(db) == ["docs"]
        assert opened("docs", model=plain).count() == 4

    @in_transactions
    @pytest.mark.parametrize("write", [False, True])
    def test_a_rollback_takes_several_names_back(self, db, pets, write):
        """However often it was renamed in the transaction."""
        db.commit()
        pets.rename("animals")
        pets.rename("beasts")
        pets.rename("creatures")
        db.rollback()
        if write:
            pets.embed("hound", "1 0")
        assert contents_of(pets) == PETS
        assert pets.name == "docs"
        assert Collection.names(db) == ["docs"]

    @in_transactions
    def test_a_name_that_was_rolled_back_may_be_somebody_elses(self, db, opened, plain, pets):
        """A new collection of that name is not taken for the one that never got it."""
        db.commit()
        pets.rename("animals")
        db.rollback()
        opened("animals", model=plain).embed("zebra", "3 4")
        assert contents_of(pets) == PETS

    def test_back_to_a_savepoint(self, session, one):
        """The end of a savepoint is the end of what was renamed in it."""
        one.embed("a", "1 0")
        one.rename("first")
        savepoint = session.begin_nested()
        one.rename("second")
        assert one.ids() == ["a"]
        savepoint.rollback()
        assert one.ids() == ["a"]
        assert Collection.names(session) == ["first"]
        session.rollback()
        assert Collection.names(session) == []
        one.embed("b", "1 0")
        assert one.ids() == ["b"]

    def test_loaded_objects_are_up_to_date(self, session, one):
        """The row of the collection in the identity map has the new name."""
        one.embed("a", "1 0")
        record = session.scalars(select(CollectionRecord)).one()
        one.rename("other")
        assert record.name == "other"


class TestNames:
    """Which collections there are."""

    def test_names_are_sorted(self, db, opened, plain):
        """Collection.names and Collection.exists look into any database."""
        for name in ("b", "a'b", "é", "B", "a"):
            opened(name, model=plain).embed("x", "1 0")
        assert Collection.names(db) == sorted(["b", "a'b", "é", "B", "a"])
        assert Collection.exists(db, "a'b")
        for name in ("A", "%", "", "a' OR '1'='1", "x"):
            assert not Collection.exists(db, name)

    def test_there_are_none_in_a_new_database(self, db):
        """The tables, if there are any, are empty."""
        assert Collection.names(db) == []
        assert not Collection.exists(db, "docs")

    def test_a_file_that_is_not_there_is_not_created(self, tmp_path):
        """Looking for collections leaves nothing behind."""
        for db in (tmp_path / "no.db", str(tmp_path / "no.db"), f"sqlite:///{tmp_path}/no.db"):
            assert Collection.names(db) == []
            assert not Collection.exists(db, "docs")
        assert [*tmp_path.iterdir()] == []

    def test_a_database_without_our_tables_is_left_as_it_is(self, tmp_path):
        """Nothing is migrated by looking."""
        path = tmp_path / "other.db"
        with sqlite3.connect(path) as driver:
            driver.execute("CREATE TABLE others (id INTEGER)")
        driver.close()
        before = path.read_bytes()
        assert Collection.names(path) == []
        assert Collection.names(sqlite_utils.Database(path)) == []
        engine = create_engine(f"sqlite:///{path}")
        assert Collection.names(engine) == []
        engine.dispose()
        assert path.read_bytes() == before


GIVEN: list[tuple[Any, ...]] = [
    ("list", [1, 2.5, -3]),
    ("tuple", (1.0, 2.0, 3.0), {"a": 1}),
    ("array", np.array([1, 2, 3], np.float32), None),
    ("double", np.array([0.1, 0.2, 0.3]), {"é": ["b", None]}, "the text"),
    ("integers", np.array([1, 2, 3]), None, None),
    ("strided", np.arange(6, dtype=np.float32)[::2], None, ""),
    ("generator", (x / 2 for x in range(3)), {}, "naïve 日本 😀"),
    ["entry as a list", [0, 0, 0]],  # type: ignore[list-item]
]
KEPT = {
    "list": ([1.0, 2.5, -3.0], None, None),
    "tuple": ([1.0, 2.0, 3.0], None, {"a": 1}),
    "array": ([1.0, 2.0, 3.0], None, None),
    "double": (np.array([0.1, 0.2, 0.3], np.float32).tolist(), "the text", {"é": ["b", None]}),
    "integers": ([1.0, 2.0, 3.0], None, None),
    "strided": ([0.0, 2.0, 4.0], "", None),
    "generator": ([0.0, 0.5, 1.0], "naïve 日本 😀", {}),
    "entry as a list": ([0.0, 0.0, 0.0], None, None),
}


class TestStoreVectors:
    """Vectors that were made elsewhere."""

    def test_tuples_of_two_three_and_four(self, docs, plain):
        """Vectors of every form, with metadata and content or without; no model is called."""
        docs.store_vectors(
            (id, (x / 2 for x in range(3)), *rest) if id == "generator" else (id, vector, *rest)
            for id, vector, *rest in GIVEN
        )
        assert contents_of(docs) == KEPT
        assert plain.calls == 0
        record = docs.get("double")
        assert record.content_hash == Collection.content_hash("the text")
        assert record.updated > 0
        assert docs.get("list").content_hash is None

    @on_a_session
    def test_they_are_found_like_any_other(self, docs):
        """Searches by vector, by id and by text find them, with content and metadata."""
        docs.store_vectors([("a", [1, 0], {"n": 1}, "one"), ("b", [1, 1])])
        assert [entry.id for entry in docs.similar_by_vector([1, 0])] == ["a", "b"]
        assert [entry.id for entry in docs.similar_by_id("b")] == ["a"]
        entry = docs.similar("1 0")[0]
        assert (entry.id, entry.score, entry.content, entry.metadata) == (
            "a",
            1.0,
            "one",
            {"n": 1},
        )

    @pytest.mark.parametrize("batch_size", [1000, 5000, 7000])
    def test_a_generator_of_five_thousand(self, one, batch_size):
        """Entries are read as they are written."""
        vectors = np.arange(10_000, dtype=np.float32).reshape(5000, 2)
        one.store_vectors(((n, vector) for n, vector in enumerate(vectors)), batch_size=batch_size)
        assert one.count() == 5000
        assert one.get("4999").embedding.tolist() == [9998.0, 9999.0]

    def test_a_generator_of_five_thousand_everywhere(self, docs):
        """Several batches on every database."""
        docs.store_vectors(((n, [n, 1]) for n in range(5000)), batch_size=2000)
        assert docs.count() == 5000
        assert {int(id) for id in docs.ids()} == {*range(5000)}

    @on_a_session
    def test_rows_are_replaced_as_a_whole(self, pets):
        """Metadata and content of the row that was there are gone."""
        pets.store_vectors([("hound", [5, 5])])
        assert contents_of(pets) == PETS | {"hound": ([5.0, 5.0], None, None)}

    @on_a_session
    def test_the_last_of_one_id_in_a_batch_wins(self, docs):
        """As a whole, too, and whether in one batch or in two."""
        entries: list[tuple[Any, ...]] = [
            ("a", [1, 0], {"n": 1}, "first"),
            ("b", [2, 0]),
            ("a", [3, 0]),
            (7, [4, 0]),
            ("7", [5, 0]),
        ]
        for batch_size in (100, 2, 1):
            docs.store_vectors(entries, batch_size)
            assert contents_of(docs) == {
                "a": ([3.0, 0.0], None, None),
                "b": ([2.0, 0.0], None, None),
                "7": ([5.0, 0.0], None, None),
            }

    @on_a_session
    def test_embedding_the_same_content_reuses_the_vector(self, docs, plain):
        """A content that was stored with its vector needs no model."""
        docs.store_vectors([("a", [9, 9], None, "1 0")])
        docs.embed("a", "1 0")
        docs.embed("b", "1 0")
        assert plain.calls == 0
        assert docs.get("b").embedding.tolist() == [9.0, 9.0]

    @on_a_session
    def test_nothing_to_store_stores_nothing(self, docs):
        """An empty iterable is no error."""
        docs.store_vectors([])
        docs.store_vectors(iter(()))
        assert docs.count() == 0

    def test_what_cannot_be_stored_is_refused_with_its_batch(self, one, subtests):
        """Nothing of the batch is written, before or after the bad one."""
        for entry, error in [
            (("b", [1, 2, 3]), InvalidVectorError),
            (("b", [1]), InvalidVectorError),
            (("b", []), InvalidVectorError),
            (("b", [1, math.nan]), InvalidVectorError),
            (("b", [1, math.inf]), InvalidVectorError),
            (("b", [1, 1e39]), InvalidVectorError),
            (("b", [[1, 2]]), InvalidVectorError),
            (("b", np.ones((1, 2))), InvalidVectorError),
            (("b", "1 0"), InvalidVectorError),
            (("b", b"\0" * 8), InvalidVectorError),
            (("b", ["1", "0"]), InvalidVectorError),
            (("b", None), InvalidVectorError),
            (("b", 5), InvalidVectorError),
            (("", [1, 2]), InvalidItemError),
            ((None, [1, 2]), InvalidItemError),
            ((True, [1, 2]), InvalidItemError),
            (("b\0", [1, 2]), InvalidItemError),
            (("\ud800", [1, 2]), InvalidItemError),
            (("b" * 1025, [1, 2]), InvalidItemError),
            (("b", [1, 2], "metadata"), InvalidItemError),
            (("b", [1, 2], {"a": math.nan}), InvalidItemError),
            (("b", [1, 2], {1: 2}), InvalidItemError),
            (("b", [1, 2], None, b"content"), InvalidItemError),
            (("b", [1, 2], None, 5), InvalidItemError),
            (("b", [1, 2], None, "a\0"), InvalidItemError),
            (("b", [1, 2], None, "\udfff"), InvalidItemError),
            (("b",), InvalidItemError),
            (("b", [1, 2], None, "c", "d"), InvalidItemError),
            ("ab", InvalidItemError),
            ({"b": [1, 2]}, InvalidItemError),
            (None, InvalidItemError),
            (5, InvalidItemError),
        ]:
            with subtests.test(ascii(entry)[:60]):
                one.store_vectors([("a", [1, 0])])
                with pytest.raises(error):
                    one.store_vectors([("aa", [0, 1]), entry, ("z", [0, 1])])
                assert contents_of(one) == {"a": ([1.0, 0.0], None, None)}

    def test_the_first_vectors_have_to_fit_each_other(self, docs):
        """Different lengths in the first batch of all leave nothing."""
        with pytest.raises(InvalidVectorError, match="dimensions"):
            docs.store_vectors([("a", [1, 0]), ("b", [1, 0, 0])])
        assert docs.count() == 0
        docs.store_vectors([("a", [1, 0, 0, 0])])
        with pytest.raises(InvalidVectorError, match=r"2 .* 4"):
            docs.store_vectors([("b", [1, 0])])
        assert docs.ids() == ["a"]

    @pytest.mark.parametrize("batch_size", [0, -1, 1.5, "10", None, True])
    def test_the_batch_size_is_a_positive_integer(self, one, batch_size):
        """Anything else is refused before anything is read."""
        entries = iter([("a", [1, 0])])
        with pytest.raises(ValueError, match="batch_size"):
            one.store_vectors(entries, batch_size)
        assert next(entries) == ("a", [1, 0])

    def test_the_error_names_the_item(self, one):
        """Which of many it was is in the message."""
        with pytest.raises(InvalidVectorError, match="'the odd one'"):
            one.store_vectors([("a", [1, 0]), ("the odd one", [1, math.nan])])

    def test_a_buffer_that_is_used_again_may_be_stored_from(self, one):
        """Each vector is kept as it was when it was handed over."""
        buffer = np.zeros(2, np.float32)

        def entries() -> Iterator[tuple[str, Any]]:
            for n in range(5):
                buffer[:] = (n, 1)
                yield str(n), buffer

        one.store_vectors(entries())
        assert {id: vector for id, (vector, *_) in contents_of(one).items()} == {
            str(n): [float(n), 1.0] for n in range(5)
        }

    @in_transactions
    def test_a_rollback_takes_them_back(self, db, pets):
        """They are part of the host's transaction."""
        db.commit()
        pets.store_vectors([("hound", [5, 5]), ("fish", [1, 2])])
        db.rollback()
        assert contents_of(pets) == PETS

    def test_bytes_are_those_of_the_documented_format(self, engine, plain):
        """What lies in the file is little-endian float32."""
        docs = Collection("docs", engine, model=plain)
        docs.store_vectors([("a", np.array([1.5, -2.0], ">f8"))])
        with engine.connect() as connection:
            stored = connection.execute(text("SELECT embedding FROM embeddings")).scalar_one()
        assert stored == struct.pack("<2f", 1.5, -2.0)


class TestModelsThatNobodyCanCall:
    """A collection may carry the id of a model that is not to be had."""

    def test_vectors_are_stored_and_found_by_vector_and_by_id(self, opened):
        """No model is needed for what is there already."""
        docs = opened(model_id=NOBODY)
        docs.store_vectors([("a", [1, 0]), ("b", [1, 1])])
        assert docs.model_id == NOBODY
        assert [entry.id for entry in docs.similar_by_vector([1, 0])] == ["a", "b"]
        assert [entry.id for entry in docs.similar_by_id("a")] == ["b"]
        docs.set_metadata("a", {"n": 1})
        assert docs.delete_items(where={"n": 1}) == 1
        assert len(docs) == 1

    @on_a_session
    def test_the_collection_keeps_the_id(self, opened):
        """It can be opened with that id again, and not with another model."""
        opened(model_id=NOBODY).store_vectors([("a", [1, 0])])
        assert opened(model_id=NOBODY).count() == 1
        with pytest.raises(ModelMismatchError, match=f"'{NOBODY}'"):
            opened(model=PlainModel()).embed("b", "1 0")
        assert opened(model_id=NOBODY).ids() == ["a"]

    def test_embedding_is_an_error_and_creates_nothing(self, db, opened):
        """UnknownModelError tells the id, and no collection is left behind."""
        docs = opened(model_id=NOBODY)
        for operation in (
            lambda: docs.embed("a", "1 0"),
            lambda: docs.embed_multi([("a", "1 0")]),
            lambda: docs.embed_multi_with_metadata([("a", "1 0", {})]),
            lambda: docs.prepare("1 0"),
            lambda: docs.embed_query("1 0"),
            docs.model,
        ):
            with pytest.raises(UnknownModelError, match=f"Unknown model: {NOBODY}"):
                operation()
        assert Collection.names(db) == []

    @on_a_session
    def test_searching_by_text_is_an_error_once_there_is_something(self, opened):
        """An empty collection has no use for its model."""
        docs = opened(model_id=NOBODY)
        assert docs.similar("1 0") == []
        docs.store_vectors([("a", [1, 0])])
        with pytest.raises(UnknownModelError, match=NOBODY):
            docs.similar("1 0")
        with pytest.raises(UnknownModelError, match=NOBODY):
            docs.embed("b", "1 0")
        assert docs.ids() == ["a"]


class TestPrepare:
    """The model is called where no transaction waits for it."""

    @pytest.fixture
    def nowhere(self, tmp_path: Path) -> Engine:
        """An engine that cannot connect."""
        return create_engine(f"sqlite:///{tmp_path}/no/such/folder/app.db")

    def test_a_query_touches_no_database(self, nowhere, plain):
        """With the model given, embed_query works without any connection."""
        docs = Collection("docs", nowhere, model=plain)
        assert docs.embed_query("3 4").tolist() == [3.0, 4.0]
        assert docs.embed_query("3 4").dtype == np.float32

    def test_nor_with_a_model_id(self, nowhere, deterministic_models):
        """The id of a model is enough."""
        docs = Collection("docs", nowhere, model_id="some model")
        assert docs.embed_query("hound").shape == (256,)
        assert deterministic_models("some model").calls == [["hound"]]

    def test_what_is_refused_touches_no_database(self, nowhere, plain):
        """A content that cannot be embedded is an error first of all."""
        nothing: Any = None
        with pytest.raises(InvalidItemError):
            Collection("docs", nowhere, model=plain).prepare(nothing)

    def test_the_transaction_begins_afterwards(self, engine, plain):
        """What prepare looks up, it looks up on a short connection."""
        with Session(engine) as session:
            docs = Collection("docs", session, model=plain)
            prepared = docs.prepare("1 2")
            assert type(prepared) is Prepared
            assert repr(prepared) == "Prepared(model_id='plain')"
            assert (prepared.content, prepared.model_id) == ("1 2", "plain")
            assert prepared.vector.tolist() == [1.0, 2.0]
            docs.embed_query("1 0")
            assert not session.in_transaction()
        assert plain.calls == 2

    def test_what_was_prepared_is_embedded_without_the_model(self, docs, plain):
        """The content, the vector and everything else come to be as by embed."""
        prepared = docs.prepare("1 0")
        assert plain.calls == 1
        docs.embed("a", prepared, {"n": 1}, store=True)
        docs.embed("b", prepared)
        assert plain.calls == 1
        assert contents_of(docs) == {
            "a": ([1.0, 0.0], "1 0", {"n": 1}),
            "b": ([1.0, 0.0], None, None),
        }
        docs.embed("a", "1 0")
        assert plain.calls == 1

    @on_a_session
    def test_it_replaces_what_was_there(self, pets, plain):
        """Another content replaces the row as a whole."""
        pets.embed("hound", pets.prepare("5 5"))
        assert contents_of(pets) == PETS | {"hound": ([5.0, 5.0], None, None)}

    @on_a_session
    def test_a_query_finds_what_the_text_finds(self, pets):
        """embed_query and similar_by_vector are similar in two steps."""
        vector = pets.embed_query("1 0.2")
        assert pets.similar_by_vector(vector) == pets.similar("1 0.2")

    @on_a_session
    def test_another_models_vector_is_refused(self, opened, pets):
        """A prepared content knows which model made it."""
        other = opened("other", model=PlainModel("other"))
        with pytest.raises(ModelMismatchError, match=r"'plain'.*'other'"):
            pets.embed("hound", other.prepare("5 5"))
        assert contents_of(pets) == PETS

    @on_a_session
    def test_a_vector_of_another_length_is_refused(self, pets):
        """It is checked as every vector is."""
        with pytest.raises(InvalidVectorError, match="dimensions"):
            pets.embed("fish", pets.prepare("1 2 3"))
        assert contents_of(pets) == PETS

    def test_without_a_model_the_collection_is_asked(self, pets, opened, deterministic_models):
        """The stored model is used where none was given."""
        docs = opened("docs", model_id=None)
        assert docs.prepare("hound").model_id == "plain"
        assert deterministic_models("plain").calls == [["hound"]]


WRITES: dict[str, Callable[[Collection[str]], object]] = {
    "embed": lambda docs: docs.embed("x", "1 0"),
    "embed prepared": lambda docs: docs.embed("x", docs.prepare("1 0")),
    "embed_multi": lambda docs: docs.embed_multi([("x", "1 0")]),
    "with_metadata": lambda docs: docs.embed_multi_with_metadata([("x", "1 0", None)]),
    "store_vectors": lambda docs: docs.store_vectors([("x", [1, 0])]),
}


class TestDelete:
    """After delete() the object refuses to write."""

    def test_everything_is_gone(self, db, opened, plain, pets):
        """The collection and its items, and no other collection's."""
        other = opened("other", model=plain)
        other.embed("hound", "1 0")
        pets.delete()
        assert Collection.names(db) == ["other"]
        assert other.ids() == ["hound"]

    @pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
    def test_the_object_refuses_to_write(self, session, one, write):
        """It does not create the collection again, and leaves no orphans."""
        one.embed("a", "1 0")
        one.delete()
        with pytest.raises(DoesNotExist, match="'docs' does not exist"):
            write(one)
        assert Collection.names(session) == []
        assert session.scalar(select(func.count()).select_from(EmbeddingRecord)) == 0

    def test_so_it_does_everywhere(self, db, pets):
        """On every database, and for every operation that needs the collection."""
        pets.delete()
        for operation in (
            *(lambda write=write: write(pets) for write in WRITES.values()),
            pets.delete,
            lambda: pets.id,
            lambda: pets.rename("other"),
            lambda: pets.set_metadata("hound", {}),
            lambda: pets.similar_by_id("hound"),
        ):
            with pytest.raises(DoesNotExist):
                operation()
        assert (pets.count(), pets.ids(), [*pets], pets.get("hound")) == (0, [], [], None)
        assert pets.similar("1 0") == []
        assert Collection.names(db) == []

    def test_a_new_object_begins_anew(self, opened, plain, pets):
        """Nothing is inherited, and the new one may be of another model."""
        pets.delete()
        docs = opened("docs", model=PlainModel("other"))
        assert docs.count() == 0
        docs.embed("a", "1 2 3")
        assert contents_of(docs) == {"a": ([1.0, 2.0, 3.0], None, None)}

    @in_transactions
    @pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
    def test_after_a_rollback_it_works_again(self, db, pets, write):
        """A deletion that was rolled back did not happen."""
        db.commit()
        pets.delete()
        assert pets.count() == 0
        db.rollback()
        assert contents_of(pets) == PETS
        write(pets)
        assert pets.ids() == ["bird", "cat", "hound", "x"]
        pets.delete()
        assert Collection.names(db) == []

    def test_back_to_a_savepoint(self, session, one):
        """The end of a savepoint is enough."""
        one.embed("a", "1 0")
        savepoint = session.begin_nested()
        one.delete()
        savepoint.rollback()
        one.embed_multi([("b", "0 1")])
        assert one.ids() == ["a", "b"]

    def test_what_does_not_exist_cannot_be_deleted(self, session, one):
        """A lazy collection that was never written to."""
        with pytest.raises(DoesNotExist, match="'docs' does not exist"):
            one.delete()
        one.embed("a", "1 0")
        assert one.ids() == ["a"]

    def test_loaded_objects_are_gone_from_the_session(self, session, one):
        """Records that the host had loaded are not written again."""
        one.embed("a", "1 0")
        record = one.get("a")
        one.delete()
        assert inspect(record).deleted
        session.commit()
        assert session.scalars(select(EmbeddingRecord)).all() == []


class TestCreateFalse:
    """With create=False a collection is never created."""

    @opens_when_used
    def test_a_missing_one_is_an_error_at_first_use(self, db, opened, plain):
        """Every operation says so; the constructor is lazy."""
        docs = opened("missing", model=plain, create=False)
        for operation in (
            *(lambda write=write: write(docs) for write in WRITES.values()),
            docs.count,
            docs.ids,
            docs.delete,
            lambda: [*docs],
            lambda: "a" in docs,
            lambda: docs.get("a"),
            lambda: docs.id,
            lambda: docs.similar("1 0"),
            lambda: docs.similar_by_vector([1, 0]),
            lambda: docs.matches("1 0"),
            lambda: docs.similar_by_id("a"),
            lambda: docs.delete_items(["a"]),
            lambda: docs.set_metadata("a", {}),
            lambda: docs.rename("other"),
        ):
            with pytest.raises(DoesNotExist, match="Collection 'missing' does not exist"):
                operation()
        assert Collection.names(db) == []

    @opens_at_once
    def test_a_missing_one_is_an_error_at_once(self, db, opened, plain):
        """Where the collection opens the database, the constructor raises."""
        with pytest.raises(DoesNotExist, match="Collection 'missing' does not exist"):
            opened("missing", model=plain, create=False)
        assert Collection.names(db) == []

    @on_a_session
    def test_one_that_exists_works_as_ever(self, opened, pets):
        """Its stored model and its items are there, to read and to write."""
        docs = opened("docs", model=PlainModel(), create=False)
        assert contents_of(docs) == PETS
        docs.embed("fish", "2 1")
        assert pets.count() == 4

    def test_a_new_one_without_a_model_is_an_error(self, session):
        """Where nothing says which model it is to have."""
        docs = Collection("docs", session)
        for operation in (
            lambda: docs.embed("a", "1 0"),
            lambda: docs.store_vectors([("a", [1, 0])]),
            lambda: docs.model_id,
        ):
            with pytest.raises(ModelRequiredError, match="Either model= or model_id="):
                operation()
        assert docs.similar("1 0") == []
        assert Collection.names(session) == []


class TestClosing:
    """close(), and the end of a with."""

    def test_a_with_gives_the_collection(self, docs):
        """The block has the collection itself, and errors come through."""
        with docs as inner:
            assert inner is docs
            inner.embed("a", "1 0")
            assert inner.count() == 1
        with pytest.raises(EmbeddingsError, match="given"), docs:
            raise EmbeddingsError("given")

    @on_a_session
    def test_closing_twice_is_once(self, docs):
        """There is nothing left to close."""
        docs.embed("a", "1 0")
        docs.close()
        docs.close()

    @in_transactions
    def test_the_hosts_session_stays_open(self, db, pets):
        """What was handed in is left alone, with its transaction."""
        pets.close()
        assert db.execute(select(func.count()).select_from(EmbeddingRecord)).scalar_one() == 3
        assert contents_of(pets) == PETS
        db.rollback()
        assert pets.count() == 0

    @opens_when_used
    def test_the_hosts_database_stays_open(self, db, opened, plain, pets):
        """Another collection on it goes on, and so does this one."""
        pets.close()
        assert pets.count() == 3
        assert opened("docs", model=plain).count() == 3

    @pytest.mark.parametrize("db", ["sqlite_utils", "sqlite_utils_memory"], indirect=True)
    def test_a_sqlite_utils_database_stays_open(self, db, pets):
        """Only what the collection opened is closed."""
        pets.close()
        assert db["embeddings"].count == 3

    def test_a_file_is_whole_after_closing(self, tmp_path, plain):
        """Nothing beside the file itself is left, and it can be opened again."""
        path = tmp_path / "own.db"
        with Collection("docs", path, model=plain) as docs:
            docs.embed("a", "1 0")
        assert [file.name for file in tmp_path.iterdir()] == ["own.db"]
        moved = path.rename(tmp_path / "moved.db")
        with Collection("docs", str(moved), model=plain) as docs:
            assert docs.ids() == ["a"]

    def test_an_error_in_the_block_closes_the_file_too(self, tmp_path, plain):
        """What was written before it stays."""
        path = tmp_path / "own.db"

        def fail() -> None:
            with Collection("docs", path, model=plain) as docs:
                docs.embed("a", "1 0")
                raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            fail()
        assert [file.name for file in tmp_path.iterdir()] == ["own.db"]
        with Collection("docs", path, model=plain) as docs:
            assert docs.ids() == ["a"]

"""Errors that one can act on: each says what was wrong with which item, and what to do."""

from __future__ import annotations

import pickle
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Uuid,
    func,
    literal,
    literal_column,
    select,
)

from embeddings import (
    Chunks,
    Collection,
    DoesNotExist,
    EmbeddingModel,
    EmbeddingRecord,
    InvalidItemError,
    InvalidQueryError,
    InvalidVectorError,
)
from tests.reaching import is_postgresql, on_a_session, on_both

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session
    from sqlalchemy.sql import Select

    from embeddings.testing import DeterministicModel
    from tests.conftest import Open


CONTENT = "a content that no error shows"
KEYS: dict[Any, list[Any]] = {
    int: [-5, 0, 2**40],
    uuid.UUID: [uuid.UUID(int=1), uuid.UUID(int=2)],
    str: ["a", "b"],
}
HOST = Table(
    "errors_host",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("title", String),
    Column("key", Uuid),
)


class Vectors(EmbeddingModel):
    """A model whose texts are their vectors, written out; "zero" stands for zeros."""

    model_id = "vectors"

    def __init__(self) -> None:
        self.calls: list[list[Any]] = []

    def embed_batch(self, items: Any) -> list[list[float]]:
        self.calls.append(list(items))
        return [
            [0.0, 0.0] if item == "zero" else [float(number) for number in item.split()]
            for item in items
        ]


# The item that an error is about


WRONG: dict[str, Any] = {
    "content": ("the id", None, None),
    "NUL": ("the id", f"{CONTENT}\0", None),
    "bytes": ("the id", CONTENT.encode(), None),
    "metadata": ("the id", CONTENT, {"x": {1, 2}}),
}


@on_a_session
@pytest.mark.parametrize("wrong", WRONG)
def test_an_error_about_an_item_names_its_id(
    docs: Collection[str], model: DeterministicModel, wrong: str
):
    """In every way to write it, whatever is wrong; and no content is shown."""
    entry = WRONG[wrong]
    many = [("fine", "fine", None), entry]
    ways: list[Callable[[], object]] = [
        lambda: docs.embed(*entry),
        lambda: docs.embed_multi_with_metadata(many),
        lambda: docs.plan(many),
    ]
    if wrong != "metadata":
        ways.append(lambda: docs.embed_multi([two[:2] for two in many]))
        ways.append(lambda: docs.store_vectors([("the id", [1.0], None, entry[1] or 7)]))
    else:
        ways.append(lambda: docs.store_vectors([("the id", [1.0], entry[2])]))
        ways.append(lambda: docs.set_metadata("the id", entry[2]))
    for way in ways:
        with pytest.raises(InvalidItemError, match=r"item 'the id': ") as raised:
            way()
        assert CONTENT not in str(raised.value)
        assert raised.value.ids == ("the id",)
    assert (model.calls, docs.count()) == ([], 0)


@on_both
def test_an_error_about_an_item_has_its_id_in_the_type_of_the_keys(opened: Open):
    """Whatever is wrong with it: the content, the metadata, how it is cut into chunks."""

    def split(text: str) -> Any:
        return {"none": (), "text": text, "what": 7}.get(text, [(0, len(text))])

    docs = opened(key=int, chunks=Chunks(splitter=split))
    wrong = [("a\0b", {}), ("text", {"x": {1}}), ("none", None), ("text", None), ("what", None)]
    for content, metadata in wrong:
        with pytest.raises(InvalidItemError, match=r"^item '7': ") as raised:
            docs.embed_multi_with_metadata([(1, "fine", None), (7, content, metadata)])
        assert raised.value.ids == (7,)
    assert docs.count() == 0


@on_a_session
def test_a_function_of_chunks_that_raises_says_for_which_item(opened: Open):
    """Its error passes, with a note."""

    def length(text: str) -> int:
        return len(text) if text != "what" else 1 // 0

    docs = opened(chunks=Chunks(length=length))
    with pytest.raises(ZeroDivisionError) as raised:
        docs.embed_multi([("a", "fine"), ("b", "what")])
    assert raised.value.__notes__ == ["It was raised for the id 'b'"]


@on_a_session
@pytest.mark.parametrize("id", ["", None, 1.5, b"a", "\0", "x" * 2000, True, np.bool_(True)])
def test_an_error_about_an_id_names_the_position(
    docs: Collection[str], model: DeterministicModel, id: Any
):
    """Where there is no id to name."""
    entries: Any = [("fine", "fine"), (id, "a hound")]
    ways: dict[str, Callable[[], object]] = {
        "entries": lambda: docs.embed_multi(entries),
        "entries ": lambda: docs.embed_multi_with_metadata([(*entry, None) for entry in entries]),
        "entries  ": lambda: docs.plan(entries),
        "entries   ": lambda: docs.store_vectors([("fine", [1.0]), (id, [1.0])]),
        "ids": lambda: docs.delete_items(["fine", id]),
        "among": lambda: docs.similar("a hound", among=["fine", id]),
    }
    for what, way in ways.items():
        with pytest.raises(InvalidItemError, match=rf"^{what.strip()}\[1\]: "):
            way()
    assert (model.calls, docs.count()) == ([], 0)


@on_a_session
def test_one_wrong_item_among_thousands_is_named(docs: Collection[str], opened: Open):
    """In whichever batch it is; the batches before it are stored, of its own nothing is."""
    wrong: list[tuple[Any, Any, str]] = [
        ("the id", "a\0b", "item 'the id': "),
        ("the id", "a\ud800b", "item 'the id': "),
        ("the id", 7, "item 'the id': "),
        ("", "a hound", r"entries\[230\]: "),
        ("\0", "a hound", r"entries\[230\]: "),
        ("x" * 2000, "a hound", r"entries\[230\]: "),
    ]
    for id, content, says in wrong:
        many: list[Any] = [(f"{n:03}", f"text {n} ü") for n in range(250)]
        many[230] = (id, content)
        with pytest.raises(InvalidItemError, match=f"^{says}"):
            docs.embed_multi(many)
        assert docs.count() == 200
    numbers = opened("numbers", key=int)
    keys: list[Any] = [2**63, -(2**63) - 1, "7", True, None]
    for key in keys:
        with pytest.raises(InvalidItemError, match=r"^entries\[230\]: "):
            numbers.embed_multi([*enumerate("ab" * 115), (key, "a hound")])
        assert numbers.count() == 200


@on_a_session
def test_an_entry_of_another_shape_is_named_by_its_position(docs: Collection[str]):
    """There is no telling which part would be the id."""
    for way in (docs.embed_multi, docs.embed_multi_with_metadata, docs.store_vectors, docs.plan):
        entries: Any = [("a", [1.0], None) if "meta" in way.__name__ else ("a", [1.0]), ("b",)]
        if way != docs.store_vectors:
            entries[0] = ("a", "a hound", *entries[0][2:])
        with pytest.raises(InvalidItemError, match=r"^entries\[1\]: "):
            way(entries)


@on_a_session
def test_what_was_passed_as_an_id_by_mistake_is_not_shown_in_full(opened: Open):
    """A content in the place of an id, or an object whose repr may hold one."""

    class Article:
        def __repr__(self) -> str:
            return CONTENT

    docs = opened("numbers", key=int)
    ids: list[Any] = [f"{'x' * 80}{CONTENT}", Article(), [CONTENT]]
    for id in ids:
        with pytest.raises(InvalidItemError, match="ids of this collection are int") as raised:
            docs.embed(id, "a hound")
        assert CONTENT not in str(raised.value)


@on_both
def test_an_error_about_a_vector_names_the_item(opened: Open):
    """Also where others of the batch need no vector, and so the model's own count is another."""
    docs = opened(model=Vectors())
    docs.embed_multi([("a", "1 0"), ("b", "0 1")])
    with pytest.raises(InvalidVectorError, match=r"\[id 'd'\]"):
        docs.embed_multi([("a", "1 0"), ("c", "1 1"), ("d", "nan 1")])
    with pytest.raises(InvalidVectorError, match=r"item 'e': .*3 dimensions"):
        docs.embed("e", "1 2 3")
    with pytest.raises(InvalidVectorError, match=r"item 'f': .*3 dimensions"):
        docs.store_vectors([("e", [1, 2]), ("f", [1, 2, 3])])
    plan = docs.plan([("a", "1 0"), ("g", "inf 1")])
    with pytest.raises(InvalidVectorError, match=r"\[id 'g'\]"):
        plan.embed()
    assert docs.ids() == ["a", "b"]


@on_both
def test_items_without_a_finite_vector_are_skipped(opened: Open):
    """Of a call that has others, which are not asked for again; on demand."""
    model = Vectors()
    docs = opened(model=model)
    entries = [("a", "1 0"), ("b", "nan 1"), ("c", "0 1"), ("d", "1 inf")]
    report = docs.embed_multi(entries, on_error="skip")
    assert (report.embedded, report.requests, len(model.calls)) == (2, 1, 1)
    reasons = {id: why for id, why in report.skipped if "no vector of finite numbers" in why}
    assert (sorted(reasons), docs.ids()) == (["b", "d"], ["a", "c"])
    plan = docs.plan([("a", "1 0"), ("e", "nan 1"), ("f", "1 1")])
    report = plan.embed(on_error="skip")
    assert (report.embedded, report.requests, len(model.calls)) == (1, 1, 2)
    assert [id for id, _ in report.skipped] == ["e"]
    with pytest.raises(TypeError, match=r"apply\(\) takes a plan.*not NoneType"):
        docs.apply(None)  # type: ignore[arg-type]
    docs.apply(plan)
    assert docs.ids() == ["a", "c", "f"]
    report = docs.embed_multi([("g", "nan 2"), ("h", "2 2")], batch_size=1, on_error="skip")
    assert (report.embedded, [id for id, _ in report.skipped]) == (1, ["g"])
    with pytest.raises(InvalidVectorError, match=r"\[ids 'i', 'j'\]"):
        docs.embed_multi([("i", "nan 3"), ("j", "nan 4")], on_error="skip")


@on_a_session
def test_what_the_model_itself_refuses_names_the_item(opened: Open):
    """OpenAI's do not embed the empty text, and say so before anything is sent."""
    docs = opened(model_id="text-embedding-3-small")
    with pytest.raises(InvalidItemError, match=r"is empty.*\[id 'b'\]"):
        docs.embed_multi([("a", "a hound"), ("b", "")])


@on_both
def test_an_id_that_is_not_there_is_named_with_its_collection(opened: Open):
    """In the type of the collection's keys, before and after the first write."""
    docs = opened()
    numbers = opened("numbers", key=int)
    ways: list[Callable[[Any, Any], object]] = [
        lambda docs, key: docs.similar_by_id(key),
        lambda docs, key: docs.matches_by_id(key),
    ]
    for attempt in range(2):
        for way in ways:
            with pytest.raises(DoesNotExist, match=r"^ID not found: 'x' in collection 'docs'$"):
                way(docs, "x")
            with pytest.raises(DoesNotExist, match=r"^ID not found: 7 in collection 'numbers'$"):
                way(numbers, 7)
        if not attempt:
            docs.embed("a", "a hound")
            numbers.embed(1, "a hound")
            ways.append(lambda docs, key: docs.set_metadata(key, {}))


# NumPy's scalars


INTEGERS = [np.int64(7), np.uint8(7), np.int16(7)]


@on_both
@pytest.mark.parametrize("id", INTEGERS, ids=repr)
def test_numpys_integers_are_ids(opened: Open, id: Any):
    """As Python's are, for collections of integers and of text."""
    for key, expected in ((int, 7), (str, "7")):
        docs: Any = opened(key.__name__, key=key)
        docs.embed(id, "a hound")
        docs.store_vectors([(np.int32(8), [1.0] * 256)])
        assert docs.ids()[0] == expected
        assert type(docs.ids()[0]) is key
        assert id in docs
        assert docs.get(id).id == "7"
        assert [entry.id for entry in docs.similar("hound", among=[id])] == [expected]
        assert [len(docs.similar_by_id(id)), docs.delete_items([id])] == [1, 1]


@on_a_session
@pytest.mark.parametrize("id", [np.float64(7), np.float32(7), np.bool_(True), np.array([7])])
def test_what_python_has_no_ids_of_is_refused_of_numpy_too(opened: Open, id: Any):
    """Floats and bools are no ids."""
    for key in (int, str, uuid.UUID):
        with pytest.raises(InvalidItemError, match="ids of this collection"):
            opened(key.__name__, key=key).embed(id, "a hound")


@on_both
def test_numpys_scalars_in_metadata_are_pythons(docs: Collection[str]):
    """They are stored, come back and are compared as integers, floats and bools."""
    metadata: dict[str, Any] = {
        "year": np.int64(2022),
        "share": np.float32(0.5),
        "half": np.float16(1.5),
        "double": np.float64(2.5),
        "is_new": np.bool_(True),
        "deep": [{"n": np.uint8(1)}, (np.float32(-1),)],
    }
    docs.embed("a", "a hound", metadata)
    expected = {
        "year": 2022, "share": 0.5, "half": 1.5, "double": 2.5, "is_new": True,
        "deep": [{"n": 1}, [-1.0]],
    }  # fmt: skip
    where: list[Any] = [
        {"year": np.int64(2022), "is_new": np.bool_(True)},
        {"share": np.float32(0.25)},
        {"n": np.int64(1)},
    ]
    found = docs.similar("hound", where=where[0])
    assert [entry.metadata for entry in found] == [expected]
    assert type(expected["is_new"]) is type(found[0].metadata["is_new"])  # type: ignore[index]
    assert docs.similar("hound", where=where[1]) == []
    docs.set_metadata("a", {"n": np.int64(1)})
    assert docs.delete_items(where=where[2]) == 1


@on_a_session
@pytest.mark.parametrize(
    "value", [np.float32("nan"), np.float64("inf"), np.longdouble("1e4000"), np.complex64(1)]
)
def test_what_json_does_not_hold_is_refused_of_numpy_too(docs: Collection[str], value: Any):
    """By the item's id."""
    with pytest.raises(InvalidItemError, match=r"item 'a': metadata\['x'\]"):
        docs.embed("a", "a hound", {"x": value})


@on_a_session
def test_numpys_scalars_as_numbers_of_a_search(docs: Collection[str]):
    """A quantile of scores is one."""
    docs.embed_multi([("a", "a hound"), ("b", "a cat")])
    found = docs.similar("a hound", np.int64(1), min_score=np.float32(0.5), offset=np.int8(0))  # type: ignore[arg-type]
    assert [entry.id for entry in found] == ["a"]
    number: Any = np.float64(1)
    with pytest.raises(InvalidQueryError, match="number must be a whole number"):
        docs.similar("a hound", number)


# Arguments that cannot be meant


@on_a_session
@pytest.mark.parametrize("key", [str, int, uuid.UUID])
def test_among_a_query_says_to_pass_its_statement(db: Session, opened: Open, key: Any):
    """The legacy Query gives rows, not keys; its statement is a SELECT."""
    docs = opened(key=key)
    for given in (db.query(EmbeddingRecord.id), db.query(EmbeddingRecord)):
        with pytest.raises(InvalidQueryError, match=r"Query: pass its statement, query\.statement"):
            docs.similar("a hound", among=given)
    docs = opened("texts")
    docs.embed("a", "a hound")
    statement: Any = db.query(EmbeddingRecord.id).statement
    assert [entry.id for entry in docs.similar("hound", among=statement)] == ["a"]


@on_a_session
def test_among_rows_says_to_pass_the_select_or_scalars(db: Session, docs: Collection[str]):
    """What execute returns are rows."""
    docs.embed("a", "a hound")
    statement = select(EmbeddingRecord.id)
    for rows in (db.execute(statement), db.execute(statement).all()):
        with pytest.raises(InvalidQueryError, match=r"not rows: pass the SELECT.*scalars\(\)"):
            docs.similar("hound", among=rows)
    assert len(docs.similar("hound", among=db.scalars(statement))) == 1


UNFIT: dict[Any, tuple[Select[Any], ...]] = {
    int: (select(HOST.c.title), select(HOST.c.key), select(literal(1.5)), select(func.now())),
    uuid.UUID: (select(HOST.c.title), select(HOST.c.id)),
    str: (select(literal(True)), select(literal(1.5)), select(func.now())),
}
FIT: dict[Any, tuple[Any, ...]] = {
    int: (
        select(HOST.c.id),
        select(func.max(HOST.c.id)),
        select(literal_column("1").label("n")),
    ),
    uuid.UUID: (select(HOST.c.key),),
    str: (select(HOST.c.title), select(HOST.c.id), select(HOST.c.key)),
}


@on_both
@pytest.mark.parametrize("key", UNFIT)
def test_among_a_column_of_another_type_is_refused(
    opened: Open, model: DeterministicModel, host_tables: Any, key: Any
):
    """It would find nothing, in silence. A column whose type is not known may fit."""
    host_tables(HOST)
    docs = opened(key=key)
    docs.embed(KEYS[key][0], "x")
    model.calls.clear()
    for among in UNFIT[key]:
        with pytest.raises(InvalidQueryError, match=rf"among selects .* are {key.__name__}$"):
            docs.similar("a hound", among=among)
        with pytest.raises(InvalidQueryError, match="among selects"):
            docs.matches("a hound", among=among)
    assert model.calls == []
    for among in FIT[key]:
        assert len(docs.similar("x", among=among)) <= 1


@on_both
def test_a_name_that_no_index_holds_is_refused(db: Any, opened: Open, docs: Collection[str]):
    """PostgreSQL would raise an error of its own, in the middle of a write."""
    docs.embed("a", "a hound")
    for name in ("x" * 2**20, "ü" * 513):
        with pytest.raises(InvalidItemError, match=r"name .* is over 1024 bytes"):
            opened(name)
        with pytest.raises(InvalidItemError, match=r"name .* is over 1024 bytes"):
            docs.rename(name)
        assert not Collection.exists(db, name)
    opened("y" * 1024).embed("a", "a hound")
    docs.rename("z" * 1024)
    assert docs.count() == 1


RANGES = [(SmallInteger(), 15), (Integer(), 31), (BigInteger(), 63)]


@on_both
@pytest.mark.parametrize(("sql_type", "bits"), RANGES, ids=str)
def test_an_id_beyond_the_range_of_the_column_is_refused(
    db: Any, opened: Open, sql_type: Any, bits: int
):
    """By the type of the column. On SQLite every integer has 64 bits."""
    column: Any = Column("id", sql_type)
    docs = opened(key=column)
    most = 63 if not is_postgresql(db) else bits
    for id in (2**most - 1, -(2**most)):
        docs.embed(id, "a hound")
        assert [entry.id for entry in docs.similar("hound", among=[id])] == [id]
    for id in (2**most, -(2**most) - 1, 10**30):
        ways: tuple[Callable[[int], object], ...] = (
            lambda key: docs.embed(key, "a hound"),
            docs.get,
            lambda key: docs.similar("a hound", among=[key]),
            lambda key: docs.delete_items([key]),
        )
        for way in ways:
            with pytest.raises(InvalidItemError, match=rf"id {id} is beyond"):
                way(id)
    assert docs.count() == 2


@on_both
def test_integers_without_a_column_have_64_bits(opened: Open):
    """`key=int` says nothing of a column."""
    docs = opened(key=int)
    docs.embed(2**63 - 1, "a hound")
    assert [entry.id for entry in docs.similar("hound")] == [2**63 - 1]
    with pytest.raises(InvalidItemError, match="beyond 64 bits"):
        docs.embed(2**63, "a hound")


# Keywords


SEARCHES: dict[str, Callable[..., object]] = {
    "similar": lambda docs, **options: docs.similar("a", **options),
    "similar_by_id": lambda docs, **options: docs.similar_by_id("a", **options),
    "similar_by_vector": lambda docs, **options: docs.similar_by_vector([1.0], **options),
    "similar_multi": lambda docs, **options: docs.similar_multi(["a"], **options),
    "similar_multi_by_vector": lambda docs, **options: docs.similar_multi_by_vector(
        [[1.0]], **options
    ),
    "matches": lambda docs, **options: docs.matches("a", **options),
    "matches_by_id": lambda docs, **options: docs.matches_by_id("a", **options),
    "matches_by_vector": lambda docs, **options: docs.matches_by_vector([1.0], **options),
}
WORDS = {
    "limit": "use number=",
    "top_k": "use number=",
    "offest": "use offset=",
    "threshold": "use min_score=",
    "filter": "use where=",
    "ids": "use among=",
    "xyz": "it takes number, prefix, offset, min_score, where, among, words, weights, exact",
}


@pytest.mark.parametrize("db", ["session", "async_aiosqlite_session"], indirect=True)
def test_a_wrong_keyword_names_the_method_and_the_right_word(
    docs: Collection[str], model: DeterministicModel, subtests: pytest.Subtests
):
    """The method that was called, and not one behind it."""
    for method in SEARCHES:
        with subtests.test(ascii(method)[:60]):
            for word, right in WORDS.items():
                with pytest.raises(TypeError, match=rf"^{method}\(\) .*'{word}': {right}$"):
                    SEARCHES[method](docs, **{word: 5})
            assert model.calls == []


# Queries that ask for nothing


@on_both
@pytest.mark.parametrize("value", ["", b""])
def test_an_empty_query_is_refused(docs: Collection[str], model: DeterministicModel, value: Any):
    """Before anything is paid, in every way to search, whether there are rows or not."""
    ways: tuple[Callable[[], object], ...] = (
        lambda: docs.similar(value),
        lambda: docs.similar(value, 0),
        lambda: docs.similar_multi(["a hound", value]),
        lambda: docs.matches(value),
        lambda: docs.embed_query(value),
    )
    for _ in range(2):
        for way in ways:
            with pytest.raises(InvalidQueryError, match="query is empty"):
                way()
        assert model.calls == []
        docs.store_vectors([("a", [1.0] * 256)])
    with pytest.raises(InvalidQueryError, match=r"values\[1\]: "):
        docs.similar_multi(["a hound", value])


@on_both
def test_a_query_of_blanks_finds_nothing(db: Any, opened: Open):
    """It is no error, and nothing is paid for it."""
    docs = opened(model=(model := Vectors()))
    docs.embed_multi([("a", "1 0"), ("b", "0 1")])
    model.calls.clear()
    for blanks in (" ", "\n\t ", "\u3000"):
        assert docs.similar(blanks) == []
        assert docs.similar(blanks, offset=1, min_score=-1.0) == []
        selected = select(func.count()).select_from(docs.matches(blanks))
        assert asked(db, selected) == 0
        assert docs.similar_multi([blanks]) == [[]]
    assert model.calls == []
    found = docs.similar_multi([" ", "1 0", "\n", "0 1"], 1)
    assert [[entry.id for entry in entries] for entries in found] == [[], ["a"], [], ["b"]]
    assert model.calls == [["1 0", "0 1"]]


@on_both
def test_a_query_whose_vector_is_zero_finds_nothing(db: Any, opened: Open):
    """Never a ranking of zeros, but by similar_by_vector, which was asked for it."""
    docs = opened(model=Vectors())
    docs.embed_multi([("a", "1 0"), ("b", "0 1"), ("z", "zero")])
    assert docs.similar("zero") == []
    assert docs.similar_by_id("z") == []
    for selectable in (docs.matches("zero"), docs.matches_by_id("z")):
        assert asked(db, select(func.count()).select_from(selectable)) == 0
    found = docs.similar_multi(["zero", "1 0", "zero"], 1)
    assert [[entry.id for entry in entries] for entries in found] == [[], ["a"], []]
    by_vector = docs.similar_by_vector([0.0, 0.0])
    assert [(entry.id, entry.score) for entry in by_vector] == [("a", 0.0), ("b", 0.0), ("z", 0.0)]
    assert [entry.score for entry in docs.similar("1 0")] == [1.0, 0.0, 0.0]


def asked(db: Session, statement: Any) -> Any:
    """Return what a statement of the host's gives."""
    return db.scalar(statement)


# The key of a record


@pytest.fixture(params=KEYS, ids=lambda key: key.__name__)
def keyed(request: pytest.FixtureRequest, opened: Open) -> tuple[Any, list[Any]]:
    """A collection with a row for each of some keys."""
    docs = opened(key=request.param)
    docs.embed_multi([(key, f"hound {key}") for key in KEYS[request.param]])
    return docs, KEYS[request.param]


def test_the_key_of_a_record_is_in_the_type_of_the_host(keyed: Any):
    """By get and by iteration, as in the entries; its id stays the stored text."""
    docs, keys = keyed
    found = [*docs]
    assert {record.key for record in found} == {*keys} == {e.id for e in docs.similar("hound")}
    assert {type(record.key) for record in found} == {type(keys[0])}
    for key in keys:
        record = docs.get(key)
        assert (record.key, type(record.id)) == (key, str)
        record = pickle.loads(pickle.dumps(record))  # noqa: S301
        assert (record.key, type(record.id)) == (key, str)


@on_both
def test_the_key_of_a_record_that_came_another_way_is_its_id(db: Session, opened: Open):
    """Nothing is written for it, and what was loaded by a collection keeps it."""
    docs = opened(key=int)
    docs.embed(5, "a hound")
    [record] = db.scalars(select(EmbeddingRecord))
    assert record.key == "5"
    found = docs.get(5)
    assert found is record
    assert record.key == 5
    assert not db.dirty
    db.expire(record)
    assert (record.key, record.id) == (5, "5")
    assert EmbeddingRecord(id="7", embedding=[1.0]).key == "7"


@pytest.mark.parametrize("store", [500, 0, "no", None])
def test_store_is_true_or_false(opened: Open, model: DeterministicModel, store: Any):
    """What is meant as the size of a batch would store what was to be embedded only."""
    docs = opened(model=model)
    for write in (
        lambda: docs.embed("a", "text", store=store),
        lambda: docs.embed_multi([("a", "text")], store),
        lambda: docs.embed_multi_with_metadata([("a", "text", {})], store),
        lambda: docs.plan([("a", "text")], store=store),
    ):
        with pytest.raises(TypeError, match="store must be True or False, not"):
            write()
    assert (docs.count(), model.calls) == (0, [])


def test_what_has_a_session_is_to_be_asked_for_it(session: Session):
    """As Flask-SQLAlchemy's object has."""
    extension: Any = type("SQLAlchemy", (), {"session": session})()
    with pytest.raises(TypeError, match=r"not SQLAlchemy: pass its session$"):
        Collection("docs", extension)

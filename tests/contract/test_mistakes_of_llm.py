"""What `llm` gets wrong, done right: texts, prefixes, vectors, models, threads, transactions."""

from __future__ import annotations

import json
import math
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sqlite_utils
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import sessionmaker

import embeddings
from embeddings import (
    Collection,
    DoesNotExist,
    EmbeddingModel,
    InvalidItemError,
    InvalidQueryError,
    InvalidVectorError,
    ModelError,
    ModelMismatchError,
)
from embeddings.testing import DeterministicModel
from tests.reaching import PATIENT

if TYPE_CHECKING:
    from pathlib import Path

Open = Callable[..., Collection[Any]]


class Scripted(EmbeddingModel):
    """A model that answers each batch as it is told."""

    model_id = "scripted"
    supports_binary = True

    def __init__(self, answer: Callable[[Sequence[Any]], Any]) -> None:
        self.answer = answer
        self.calls: list[list[Any]] = []

    def embed_batch(self, items: Sequence[Any]) -> Any:
        self.calls.append(list(items))
        return self.answer(items)


def contents(docs: Collection[Any]) -> dict[str, str | bytes | None]:
    """What is stored of each item, by id."""
    return {
        record.id: record.content if record.content_blob is None else record.content_blob
        for record in docs
    }


def vectors(docs: Collection[Any]) -> dict[str, list[float]]:
    """The vector of each item, by id."""
    return {record.id: list(map(float, record.embedding)) for record in docs}


# 1: the same text under another id


def test_the_same_text_under_two_ids_is_two_items(docs: Collection[str], model: DeterministicModel):
    """Both rows are stored; the vector is made once."""
    docs.embed("a", "hello", store=True)
    docs.embed("b", "hello", store=True)
    docs.embed_multi([("c", "hello"), ("d", "hello")], store=True)
    assert contents(docs) == dict.fromkeys("abcd", "hello")
    assert vectors(docs) == dict.fromkeys("abcd", model.embed("hello"))
    assert model.calls == [["hello"], ["hello"]]  # the second by the line before


# 2, 3: another text under the same id


def test_an_id_takes_the_text_of_another_id(docs: Collection[str], model: DeterministicModel):
    """A text that another id has already still replaces what this id had."""
    docs.embed_multi([("A", "one"), ("B", "two")], store=True)
    docs.embed("A", "two", store=True)
    assert contents(docs) == {"A": "two", "B": "two"}
    assert model.calls == [["one", "two"]]


def test_every_row_of_a_batch_becomes_what_was_passed(
    docs: Collection[str], model: DeterministicModel
):
    """A text that one item of the batch gives up is another item's new one."""
    docs.embed("A", "old", store=True)
    docs.embed_multi([("A", "new"), ("B", "old")], store=True)
    assert contents(docs) == {"A": "new", "B": "old"}
    assert vectors(docs) == {"A": model.embed("new"), "B": model.embed("old")}
    assert model.calls[:2] == [["old"], ["new"]]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_texts_can_be_exchanged(engine: Engine, model: DeterministicModel, batch_size: int):
    """Three ids whose texts go round in a circle, in batches of any size."""
    docs = Collection("docs", engine, model=model)
    docs.embed_multi([("a", "one"), ("b", "two"), ("c", "three")], store=True)
    circle = [("a", "two"), ("b", "three"), ("c", "one")]
    docs.embed_multi(circle, store=True, batch_size=batch_size)
    assert contents(docs) == dict(circle)
    assert vectors(docs) == {id: model.embed(content) for id, content in circle}


# 4: the same text, with something new about it


def test_new_metadata_of_the_same_text_is_stored(docs: Collection[str], model: DeterministicModel):
    """The row is updated, and the model is not called."""
    docs.embed("a", "hello")
    docs.embed("a", "hello", metadata={"n": 1})
    assert docs.similar_by_vector(model.embed("hello"))[0].metadata == {"n": 1}
    docs.embed_multi_with_metadata([("a", "hello", {"n": 2})])
    found = docs.similar_by_vector(model.embed("hello"))[0]
    assert (found.content, found.metadata) == (None, {"n": 2})
    assert model.calls == [["hello"]] * 3  # the last two by the searches here


def test_a_text_can_be_stored_later(docs: Collection[str], model: DeterministicModel):
    """`store=True` adds the text to the row, and the model is not called."""
    docs.embed_multi([("a", "hello"), ("b", "world")])
    docs.embed("a", "hello", store=True)
    docs.embed_multi([("b", "world")], store=True)
    assert contents(docs) == {"a": "hello", "b": "world"}
    assert model.calls == [["hello", "world"]]


# 5: the same text twice in a batch


def test_a_text_that_is_twice_in_a_batch_is_embedded_once(
    docs: Collection[str], model: DeterministicModel
):
    """The model is given each different text once."""
    docs.embed_multi([("a", "x"), ("b", "y"), ("c", "x"), ("d", "x")], store=True)
    assert [sorted(map(str, call)) for call in model.calls] == [["x", "y"]]
    assert contents(docs) == {"a": "x", "b": "y", "c": "x", "d": "x"}


# 6: text and bytes


def by_kind(items: Sequence[Any]) -> list[list[float]]:
    """Text is [1, n], bytes are [-1, n]."""
    return [[1.0 if isinstance(item, str) else -1.0, float(len(item))] for item in items]


@pytest.mark.parametrize("store", [True, False])
def test_text_and_bytes_of_equal_bytes_are_two_contents(opened: Open, store: bool):
    """Neither takes the vector of the other, in one batch or in two calls, stored or not."""
    entries: list[tuple[str, str | bytes]] = [("text", "abc"), ("bytes", b"abc")]
    together, apart = (opened(name, model=Scripted(by_kind)) for name in ("together", "apart"))
    together.embed_multi(entries, store=store)
    for id, value in entries:
        apart.embed(id, value, store=store)
    for docs in (together, apart):
        assert vectors(docs) == {"text": [1.0, 3.0], "bytes": [-1.0, 3.0]}
        assert contents(docs) == (dict(entries) if store else {"text": None, "bytes": None})
        assert len({record.content_hash for record in docs}) == (1 if store else 2)


@pytest.mark.parametrize("store", [True, False])
def test_text_and_bytes_replace_each_other_under_one_id(opened: Open, store: bool):
    """The later one is what the row holds, in the column that is its own."""
    docs = opened(model=Scripted(by_kind))
    values: list[str | bytes] = ["abc", b"abc", "abc"]
    for value in values:
        docs.embed("a", value, store=store)
        assert vectors(docs) == {"a": by_kind([value])[0]}
        assert contents(docs) == {"a": value if store else None}
        record = docs.get("a")
        assert record is not None
        assert None in (record.content, record.content_blob)


# 7: prefixes


def test_a_prefix_is_literal_and_case_sensitive(
    engine: Engine, model: DeterministicModel, subtests: pytest.Subtests
):
    """No character of it is a wildcard, whatever it means to LIKE or GLOB."""
    for prefix, found in [
        ("a_", ["a_1"]),
        ("a%", ["a%1"]),
        ("%", ["%"]),
        ("_", []),
        ("a*", ["a*1"]),
        ("a?", []),
        ("[a]", ["[a]1"]),
        ("a", ["a%1", "a*1", "a\\_1", "a_1", "ab1"]),
        ("A", ["A_1"]),
        ("a\\", ["a\\_1"]),
        ("a'", []),
        ("é", ["é1"]),
        ("É", ["É1"]),
        ("e", ["e\u03011"]),
        ("文", ["文書"]),
        ("\U0010ffff", ["\U0010ffff1"]),
        ("\ud7ff", ["\ud7ff1"]),
        ("a_1", ["a_1"]),
        ("a_11", []),
    ]:
        with subtests.test(ascii(prefix)[:60]):
            docs = Collection("docs", engine, model=model)
            ids = ["a_1", "ab1", "a%1", "A_1", "a*1", "[a]1", "a\\_1", "%", "é1", "É1", "e\u03011"]
            ids += ["文書", "\U0010ffff1", "\ud7ff1", "\ue0001"]
            docs.embed_multi((id, "the same") for id in ids)
            assert [entry.id for entry in docs.similar("the same", 100, prefix)] == found
            assert docs.ids(prefix) == found


def test_a_prefix_is_no_pattern_wherever_the_database_is(docs: Collection[str]):
    """The same on every way to reach a database."""
    docs.embed_multi((id, "the same") for id in ["a_1", "ab1", "A_1", "a%1"])
    assert [entry.id for entry in docs.similar("the same", prefix="a_")] == ["a_1"]
    assert [entry.id for entry in docs.similar("the same", prefix="a%")] == ["a%1"]
    assert [entry.id for entry in docs.similar("the same", prefix="A")] == ["A_1"]


@pytest.mark.parametrize("prefix", [1, b"a", ["a"], "a\0", "\ud800"])
def test_a_prefix_that_no_id_can_have_is_refused(
    engine: Engine, model: DeterministicModel, prefix: Any
):
    """A prefix of another type, or one that could not be stored, is an error and no result."""
    docs = Collection("docs", engine, model=model)
    docs.embed("a", "hello")
    with pytest.raises(ValueError, match="prefix"):
        docs.similar("hello", prefix=prefix)


# 8: zero vectors


def test_a_zero_vector_scores_zero(opened: Open):
    """A stored zero vector is no error, nor is a query of zeros, which finds nothing."""
    docs = opened(model=Scripted(lambda items: [[float(len(item)), 0.0] for item in items]))
    docs.embed_multi([("zero", ""), ("one", "x")])
    docs.store_vectors([("against", [-1.0, 0.0])])
    expected = [("one", 1.0), ("zero", 0.0), ("against", -1.0)]
    assert [(entry.id, entry.score) for entry in docs.similar("x")] == expected
    zeros = [("against", 0.0), ("one", 0.0), ("zero", 0.0)]
    assert [(e.id, e.score) for e in docs.similar_by_vector([0, 0])] == zeros
    assert docs.similar_by_id("zero") == []
    assert [str(entry.score) for entry in docs.similar_by_vector([0, 0])] == ["0.0"] * 3


# 9: wrong dimensions


def test_a_vector_of_other_dimensions_is_not_written(opened: Open):
    """The error tells both lengths, and nothing of the batch is there."""
    docs = opened(model=Scripted(lambda items: [[1.0] * len(items[0])] * len(items)))
    docs.embed("a", "xyz")
    writes: tuple[Callable[[], object], ...] = (
        lambda: docs.embed("b", "wxyz"),
        lambda: docs.embed("a", "wxyz"),
        lambda: docs.embed_multi([("b", "vw"), ("c", "xy")]),
        lambda: docs.embed("a", "xyz!", force=True),
        lambda: docs.store_vectors([("b", [1.0, 2.0, 3.0]), ("c", [1.0])]),
    )
    for write in writes:
        with pytest.raises(InvalidVectorError, match=r"dimensions.* 3"):
            write()
    assert vectors(docs) == {"a": [1.0, 1.0, 1.0]}


def test_a_query_of_other_dimensions_is_refused(docs: Collection[str], subtests: pytest.Subtests):
    """The error tells both lengths, also for a multiple of the collection's."""
    for length in [1, 2, 4, 6]:
        with subtests.test(ascii(length)[:60]):
            docs.store_vectors([("a", [1.0, 2.0, 3.0])])
            with pytest.raises(InvalidVectorError, match=rf"{length} dimensions.* 3"):
                docs.similar_by_vector([1.0] * length)


def test_a_model_that_changed_its_dimensions_is_refused_by_searches(opened: Open):
    """A model that answers a search with another length gets an error, not wrong scores."""
    docs = opened(model=Scripted(lambda items: [[1.0] * len(item) for item in items]))
    docs.embed("a", "xyz")
    with pytest.raises(InvalidVectorError, match=r"2 dimensions.* 3"):
        docs.similar("xy")


# 10: not finite


def ending_with(vector: Any) -> Callable[[Sequence[Any]], list[Any]]:
    return lambda items: [[1.0, 2.0]] * (len(items) - 1) + [vector]


def test_a_vector_that_is_not_of_finite_numbers_is_refused(
    engine: Engine, subtests: pytest.Subtests
):
    """From a model, from elsewhere or as a query; nothing of the batch is written."""
    bad: Any
    for bad in [
        [1.0, math.nan],
        [math.inf, 1.0],
        [1.0, -math.inf],
        [1.0, 1e39],
        np.array([1.0, np.nan], np.float32),
        np.array([np.inf, 1.0], np.float64),
        [],
        [[1.0, 2.0]],
        ["1.0", "2.0"],
        [None, 1.0],
        "12",
        b"12345678",
        None,
        3.5,
        np.array([1j, 2j]),
        np.array([True, False]),
        np.array(["1", "2"]),
        np.ones((1, 2), np.float32),
    ]:
        with subtests.test(ascii(bad)[:60]):
            docs = Collection(
                "docs", engine, model=Scripted(lambda items: [[1.0, 2.0]] * len(items))
            )
            docs.embed("fine", "fine")
            model = Scripted(ending_with(bad))
            broken = Collection("docs", engine, model=model)
            with pytest.raises(InvalidVectorError):
                broken.embed("a", "one")
            with pytest.raises(InvalidVectorError):
                broken.embed_multi([("a", "one"), ("b", "two")])
            with pytest.raises(InvalidVectorError):
                broken.similar("one")
            with pytest.raises(InvalidVectorError):
                broken.prepare("one")
            with pytest.raises(InvalidVectorError):
                docs.store_vectors([("a", [1.0, 2.0]), ("b", bad)])
            if not isinstance(bad, list) or 1e39 not in bad:  # a query need not fit in float32
                with pytest.raises(InvalidVectorError):
                    docs.similar_by_vector(bad)
            assert vectors(docs) == {"fine": [1.0, 2.0]}


def test_nan_is_refused_wherever_the_database_is(opened: Open):
    """Nothing is stored, and the collection goes on."""
    docs = opened(model=Scripted(lambda items: [[float(item), 1.0] for item in items]))
    docs.embed("a", "1")
    with pytest.raises(InvalidVectorError, match="finite"):
        docs.embed_multi([("b", "2"), ("c", "nan")])
    docs.embed("d", "3")
    assert vectors(docs) == {"a": [1.0, 1.0], "d": [3.0, 1.0]}


def test_large_and_small_numbers_are_finite(engine: Engine):
    """Values at the ends of float32 are stored and found; their squares need not fit."""
    huge = [np.array([3e38, 1e30], np.float32), np.array([1e-38, -1e-45], np.float32)]
    docs = Collection("docs", engine, model=Scripted(lambda items: [huge[int(i)] for i in items]))
    docs.embed_multi([("a", "0"), ("b", "1")])
    assert [entry.id for entry in docs.similar("0")] == ["a", "b"]
    assert [entry.score for entry in docs.similar_by_id("b")] == pytest.approx([1.0])


def test_a_stored_vector_that_is_not_finite_is_not_reused(
    engine: Engine, model: DeterministicModel
):
    """What another program wrote is not spread to further rows: the text is embedded."""
    docs = Collection("docs", engine, model=model)
    docs.embed_multi([("a", "hello"), ("b", "world")])
    nan = np.full(256, np.nan, "<f4").tobytes()
    with engine.begin() as connection:
        connection.execute(text("UPDATE embeddings SET embedding = :v WHERE id = 'a'"), {"v": nan})
    docs.embed("c", "hello")
    record = docs.get("c")
    assert record is not None
    assert record.embedding.tolist() == DeterministicModel().embed("hello")


# 11: another model


def test_a_collection_opened_with_another_model_is_an_error(
    opened: Open, model: DeterministicModel
):
    """By object or by id, the message names both, nothing is called and nothing changes."""
    docs = opened()
    docs.embed("a", "hello", store=True)
    other = DeterministicModel("other")
    ways: tuple[dict[str, Any], ...] = (
        {"model": other},
        {"model_id": "nobody-knows"},
        {"model_id": "ada-002"},
    )
    operations: tuple[Callable[[Collection[Any]], object], ...] = (
        lambda docs: docs.count(),
        lambda docs: docs.id,
        lambda docs: docs.model_id,
        lambda docs: docs.model(),
        lambda docs: docs.embed("a", "other"),
        lambda docs: docs.embed_multi([("b", "other")]),
        lambda docs: docs.store_vectors([("b", [1.0] * 256)]),
        lambda docs: docs.similar("hello"),
        lambda docs: docs.similar_by_id("a"),
        lambda docs: docs.similar_by_vector([1.0] * 256),
        lambda docs: docs.delete(),
    )
    for options in ways:
        given = {"ada-002": "text-embedding-ada-002"}.get(
            options.get("model_id", "other"), options.get("model_id", "other")
        )
        for operation in operations:
            with pytest.raises(ModelMismatchError, match=f"'deterministic'.*'{given}'") as caught:
                operation(opened(**options))
            error = caught.value
            assert (error.collection, error.stored, error.given) == ("docs", "deterministic", given)
    assert (other.calls, model.calls) == ([], [["hello"]])
    assert contents(docs) == {"a": "hello"}


def test_a_collection_opened_by_alias_is_the_same_model(opened: Open, deterministic_models: object):
    """An alias of the stored id is no other model."""
    opened(model_id="text-embedding-ada-002").embed("a", "hello")
    assert opened(model_id="ada").count() == opened(model_id="ada-002").count() == 1


# 12: the wrong number of vectors


@pytest.mark.parametrize("difference", [-1, 1])
def test_too_few_or_too_many_vectors_are_an_error(opened: Open, difference: int):
    """The message tells both numbers; nothing of that batch is written, and what was is kept."""
    counts = iter([0, difference])
    model = Scripted(lambda items: [[1.0, 2.0]] * (len(items) + next(counts)))
    docs = opened(model=model)
    with pytest.raises(ModelError, match=rf"'scripted' returned {2 + difference} vectors for 2"):
        docs.embed_multi([(id, id) for id in "abcd"], batch_size=2)
    assert docs.ids() == ["a", "b"]


@pytest.mark.parametrize("answer", [None, 1, [[1.0], [1.0, 2.0]], {"a": [1.0], "b": [2.0]}])
def test_an_answer_that_is_not_a_vector_each_is_an_error_of_ours(engine: Engine, answer: Any):
    """Whatever a model returns, the error is one of this library and nothing is written."""
    docs = Collection("docs", engine, model=Scripted(lambda _: answer))
    with pytest.raises((ModelError, InvalidVectorError)):
        docs.embed_multi([("a", "one"), ("b", "two")])
    assert docs.count() == 0


@pytest.mark.parametrize(
    "answer",
    [
        lambda items: ([float(i), 1.0] for i, _ in enumerate(items)),
        lambda items: tuple((i, 1) for i, _ in enumerate(items)),
        lambda items: np.array([[i, 1.0] for i, _ in enumerate(items)], np.float64),
        lambda items: map(np.asarray, [[i, 1.0] for i, _ in enumerate(items)]),
        lambda items: [np.array([i, 1], np.int64) for i, _ in enumerate(items)],
        lambda items: [np.array([i, 9, 1, 9], np.float32)[::2] for i, _ in enumerate(items)],
        lambda items: np.array([[i, 1.0] for i, _ in enumerate(items)], ">f4"),
        lambda items: [iter([i, 1.0]) for i, _ in enumerate(items)],
    ],
)
def test_vectors_come_in_any_form(engine: Engine, answer: Callable[[Sequence[Any]], Any]):
    """Generators, tuples, arrays of any layout and order of bytes: each text has its own vector."""
    docs = Collection("docs", engine, model=Scripted(answer))
    docs.embed_multi([(id, id) for id in "abc"])
    assert vectors(docs) == {"a": [0.0, 1.0], "b": [1.0, 1.0], "c": [2.0, 1.0]}


def test_an_exception_of_the_model_comes_through(opened: Open):
    """It is the model's own, the batch is not written, and the collection goes on."""

    def answer(items: Sequence[Any]) -> Any:
        if "bad" in items:
            raise ConnectionError("the service is gone")
        return [[1.0]] * len(items)

    docs = opened(model=Scripted(answer))
    with pytest.raises(ConnectionError, match="the service is gone"):
        docs.embed_multi([(v, v) for v in ("a", "b", "c", "bad", "e", "f")], batch_size=2)
    docs.embed("g", "g")
    assert docs.ids() == ["a", "b", "g"]


# 13: metadata that is not JSON

HUGE = {"x": 10**5000}  # which cannot be shown


def test_metadata_that_is_not_json_is_refused_before_the_call(
    engine: Engine, model: DeterministicModel, subtests: pytest.Subtests
):
    """Nothing is spent and nothing written, for the item itself and for those in its batch."""
    metadata: Any
    for metadata in [
        {"x": {1, 2}},
        {"x": b"bytes"},
        {"x": object()},
        {"x": [1, {"y": math.nan}]},
        {"x": -math.inf},
        {1: "x"},
        {None: "x"},
        {("a", "b"): 1},
        {"x": {2.5: 1}},
        {"x": "a\0b"},
        {"a\0b": 1},
        {"x": ["\ud800"]},
        {"\udfff": 1},
        HUGE,
        {"x": 1j},
        {"x": np.zeros(2)},
        [1, 2],
        "text",
        1,
        True,
        b"{}",
    ]:
        with subtests.test("huge" if metadata is HUGE else ascii(metadata)):
            docs = Collection("docs", engine, model=model)
            with pytest.raises(InvalidItemError):
                docs.embed("a", "hello", metadata=metadata)
            with pytest.raises(InvalidItemError):
                docs.embed_multi_with_metadata([("b", "fine", {}), ("a", "hello", metadata)])
            with pytest.raises(InvalidItemError):
                docs.store_vectors([("a", [1.0], metadata)])
            with pytest.raises(InvalidItemError):
                docs.set_metadata("a", metadata)
            assert (model.calls, Collection.exists(engine, "docs")) == ([], False)


def test_metadata_that_contains_itself_is_refused_before_the_call(
    docs: Collection[str], model: DeterministicModel
):
    """A circle through a dict or a list ends with an error, not with the stack."""
    circle: dict[str, Any] = {}
    circle["x"] = circle
    ring: list[Any] = []
    ring.append(ring)
    for metadata in (circle, {"x": ring}):
        with pytest.raises(InvalidItemError, match="contains itself"):
            docs.embed("a", "hello", metadata=metadata)
    assert (model.calls, docs.count()) == ([], 0)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"": ""},
        {"ü": "🐕", "\uffff": "\x01\x7f"},
        {"n": 2**70, "m": -1, "f": 1e308, "t": True, "z": 0.0},
        {"deep": [[[{"x": [None]}]]]},
        {"a": {"a.b": 1, '"': 2, "$": 3, "'": 4}},
    ],
)
def test_any_json_comes_back_as_it_was(engine: Engine, metadata: dict[str, Any]):
    """Metadata is what was passed, in the order and with the types of it."""
    docs = Collection("docs", engine, model=DeterministicModel())
    docs.embed("a", "hello", metadata=metadata)
    found = docs.similar("hello")[0].metadata
    assert json.dumps(found) == json.dumps(metadata)


# 14: batch sizes


@pytest.mark.parametrize("batch_size", [0, -1, None, "10", 1.5, True, math.inf])
def test_a_batch_size_that_is_no_positive_integer_is_refused(
    engine: Engine, model: DeterministicModel, batch_size: Any
):
    """No silent no-op: an error, before anything is read from the generator."""
    docs = Collection("docs", engine, model=model)
    for method in (docs.embed_multi, docs.embed_multi_with_metadata, docs.store_vectors):
        entries: Any = iter([("a", "hello")])
        with pytest.raises(ValueError, match="batch_size must be a positive integer"):
            method(entries, batch_size=batch_size)
        assert list(entries) == [("a", "hello")]
    assert model.calls == []


def test_a_batch_size_of_zero_is_refused_wherever_the_database_is(docs: Collection[str]):
    """The same on every way to reach a database."""
    with pytest.raises(ValueError, match="batch_size"):
        docs.embed_multi([("a", "hello")], batch_size=0)
    assert docs.count() == 0


def test_a_batch_of_40_000_is_written(engine: Engine):
    """One call of the model, however few variables a statement of the database may have."""
    number = 40_000

    @event.listens_for(engine, "connect")
    def limit(driver: sqlite3.Connection, _: object) -> None:  # as without an option of the build
        driver.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766)

    def answer(items: Sequence[str]) -> Any:
        numbers = np.array([int(item) for item in items], np.float32)
        return np.stack([numbers, np.ones_like(numbers)], axis=1)

    model = Scripted(answer)
    model.supports_binary = False
    docs = Collection("docs", engine, model=model)
    docs.embed("first", "0")
    docs.embed_multi(((i, str(i)) for i in range(number)), batch_size=number)
    assert [len(call) for call in model.calls] == [1, number - 1]
    assert docs.count() == number + 1
    record = docs.get(number - 1)
    assert record is not None
    assert record.embedding.tolist() == [number - 1, 1.0]


# 15: the number of results


@pytest.mark.parametrize(
    "number", [-1, -(10**20), None, "5", "1; DROP TABLE embeddings", 2.0, True, [1], math.nan]
)
def test_a_number_that_is_no_count_is_refused(
    engine: Engine, model: DeterministicModel, number: Any
):
    """-1 is not "all" and a string is not SQL; the model is not called."""
    docs = Collection("docs", engine, model=model)
    docs.embed("a", "hello")
    model.calls.clear()
    for search in (
        lambda: docs.similar("hello", number),
        lambda: docs.similar("hello", number=number),
        lambda: docs.similar_by_id("a", number),
        lambda: docs.similar_by_vector([1.0] * 256, number),
        lambda: docs.matches("hello", number),
        lambda: docs.similar("hello", offset=number),
    ):
        with pytest.raises(InvalidQueryError, match=r"number|offset"):
            search()
    assert (model.calls, docs.count()) == ([], 1)


def test_a_negative_number_is_refused_wherever_the_database_is(docs: Collection[str]):
    """The same on every way to reach a database, also while the collection is empty."""
    with pytest.raises(ValueError, match="number"):
        docs.similar("hello", number=-1)
    docs.embed("a", "hello")
    with pytest.raises(ValueError, match="number"):
        docs.similar("hello", number=-1)


@pytest.mark.parametrize("number", [2**31, 2**63, 10**30])
def test_any_large_number_gives_everything(engine: Engine, number: int):
    """A count above what a database holds in an integer is no error."""
    docs = Collection("docs", engine, model=DeterministicModel())
    docs.embed_multi([("a", "one"), ("b", "two")])
    assert len(docs.similar("one", number)) == 2
    assert docs.similar("one", number, offset=number) == []


# 17: after delete()


def test_a_deleted_collection_refuses_to_be_written(
    opened: Open, db: Any, model: DeterministicModel
):
    """The object neither writes orphans nor creates the collection again, nor calls the model."""
    docs = opened()
    docs.embed("a", "hello")
    docs.delete()
    model.calls.clear()
    for write in (
        lambda: docs.embed("b", "world"),
        lambda: docs.embed_multi([("b", "world")]),
        lambda: docs.embed_multi_with_metadata([("b", "world", None)]),
        lambda: docs.store_vectors([("b", [1.0])]),
        lambda: docs.set_metadata("a", {}),
        lambda: docs.rename("other"),
        lambda: docs.delete(),
        lambda: docs.id,
    ):
        with pytest.raises(DoesNotExist, match=r"^Collection 'docs' does not exist$"):
            write()
    assert model.calls == []
    assert (docs.count(), docs.ids(), docs.similar("hello")) == (0, [], [])
    assert Collection.names(db) == []


def test_a_new_collection_inherits_nothing(opened: Open):
    """Neither one of another name, which may take the id, nor one of the same name."""
    docs = opened()
    docs.embed("a", "hello")
    docs.delete()
    other, again = opened("other"), opened("docs")
    for collection in (other, again):
        assert (collection.count(), collection.ids()) == (0, [])
        collection.embed("b", "hello")
        assert collection.ids() == ["b"]


def test_a_new_collection_takes_over_no_orphans(engine: Engine, model: DeterministicModel):
    """Rows that another program left without a collection stay nobody's."""
    vector = embeddings.encode([1.0] * 256)
    with engine.begin() as connection:
        for collection_id in (1, 2, 7):
            connection.execute(
                text("INSERT INTO embeddings (collection_id, id, embedding) VALUES (:c, 'x', :v)"),
                {"c": collection_id, "v": vector},
            )
    for name in ("docs", "other"):
        docs = Collection(name, engine, model=model)
        docs.embed("a", "hello")
        assert docs.id > 7
        assert docs.ids() == ["a"]


# 18: threads


@pytest.fixture(params=["engine", "sessionmaker", "path", "memory", "sqlite_utils"])
def shared(
    request: pytest.FixtureRequest, tmp_path: Path, model: DeterministicModel
) -> Iterator[Collection[str]]:
    """A collection that is not on one session or connection of its caller."""
    path = tmp_path / "app.db"
    engine = create_engine(f"sqlite:///{path}", connect_args=PATIENT)
    embeddings.migrate(engine)
    database = sqlite_utils.Database(path)
    ways: dict[str, Any] = {
        "engine": engine,
        "sessionmaker": sessionmaker(engine),
        "path": path,
        "memory": None,
        "sqlite_utils": database,
    }
    with Collection("docs", ways[request.param], model=model) as collection:
        yield collection
    database.close()
    engine.dispose()


def test_threads_share_a_collection(shared: Collection[str]):
    """One object, many threads: every write is there, every search is right, nothing is raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(6)

    def work(number: int) -> None:
        try:
            start.wait()
            for i in range(5):
                shared.embed(f"{number}-{i}", f"thread{number} item{i}", store=True)
                best = shared.similar(f"thread{number} item{i}", number=1)[0]
                assert best.content == f"thread{number} item{i}"
            shared.embed_multi(((f"{number}-x{i}", f"more{i}") for i in range(10)), batch_size=3)
        except BaseException as error:  # noqa: BLE001  the test's own thread shows it
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert shared.count() == 6 * 15


def test_a_collection_may_be_used_in_another_thread_than_it_was_made(shared: Collection[str]):
    """Constructed here, filled there, searched here."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            shared.embed("a", "hello")
        except BaseException as error:  # noqa: BLE001  the test's own thread shows it
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
    assert [entry.id for entry in shared.similar("hello")] == ["a"]


# 19: the caller's transaction


class Host:
    """Somebody's transaction, with a row of his own in it, on each of what can carry one."""

    def __init__(self, db: Any) -> None:
        self.db = db
        self.is_driver = isinstance(db, sqlite_utils.Database)

    def run(self, sql: str) -> Any:
        if self.is_driver:
            return self.db.conn.execute(sql)
        return self.db.execute(text(sql))

    def rollback(self) -> None:
        (self.db.conn if self.is_driver else self.db).rollback()

    def commit(self) -> None:
        (self.db.conn if self.is_driver else self.db).commit()


joined = pytest.mark.parametrize(
    "db",
    ["session", "scoped_session", "connection", "sqlite_utils", "sqlite_utils_memory",
     "async_aiosqlite_session"],
    indirect=True,
)  # fmt: skip


@pytest.fixture
def host(db: Any) -> Host:
    """The host's transaction; its table is there, and its first row uncommitted."""
    host = Host(db)
    host.run("CREATE TABLE articles (title TEXT)")
    host.commit()
    return host


@joined
def test_a_rollback_of_the_caller_takes_everything_with_it(host: Host, opened: Open):
    """Rows of the host and embeddings go together, whatever was called in between."""
    docs = opened()
    docs.embed("kept", "kept", metadata={"n": 1})
    host.commit()
    if host.is_driver:
        host.run("BEGIN")
    host.run("INSERT INTO articles VALUES ('mine')")
    docs.embed("a", "hello", store=True)
    docs.embed_multi(((i, f"text {i}") for i in range(5)), batch_size=2)
    docs.set_metadata("kept", {"n": 2})
    opened("other").embed("x", "hello")
    assert docs.count() == 7
    assert len(docs.similar("hello")) == 7
    docs.delete_items(["kept"])
    assert host.run("SELECT count(*) FROM articles").fetchone()[0] == 1
    host.rollback()
    assert host.run("SELECT count(*) FROM articles").fetchone()[0] == 0
    assert host.run("SELECT id, metadata FROM embeddings").fetchall() == [("kept", '{"n": 1}')]
    assert host.run("SELECT name FROM collections").fetchall() == [("docs",)]


@joined
def test_a_commit_of_the_caller_keeps_everything(host: Host, opened: Open, tmp_path: Path):
    """And nothing is there for others before it."""
    docs = opened()
    docs.embed("first", "first")
    host.commit()
    if host.is_driver:
        host.run("BEGIN")
    host.run("INSERT INTO articles VALUES ('mine')")
    docs.embed("a", "hello")
    assert on_disk(tmp_path / "app.db") in (None, ["first"])
    host.commit()
    assert host.run("SELECT title FROM articles").fetchall() == [("mine",)]
    assert docs.ids() == ["a", "first"]
    assert on_disk(tmp_path / "app.db") in (None, ["a", "first"])


def on_disk(path: Path) -> list[str] | None:
    """The ids that another connection sees in the file; None if there is no file."""
    if not path.exists():
        return None
    with closing(sqlite3.connect(path)) as connection:
        return [id for (id,) in connection.execute("SELECT id FROM embeddings ORDER BY id")]


@joined
def test_an_error_leaves_the_callers_transaction_as_it_was(host: Host, opened: Open):
    """What the host did before stays, and the host decides what becomes of it."""
    docs = opened(model=Scripted(lambda items: [[1.0]] * (len(items) - ("bad" in items))))
    docs.embed("first", "first")
    host.commit()
    if host.is_driver:
        host.run("BEGIN")
    host.run("INSERT INTO articles VALUES ('mine')")
    with pytest.raises(ModelError):
        docs.embed("a", "bad")
    with pytest.raises(InvalidItemError):
        docs.embed("", "hello")
    with pytest.raises(DoesNotExist):
        docs.similar_by_id("nothing")
    docs.embed("b", "fine")
    host.commit()
    assert host.run("SELECT title FROM articles").fetchall() == [("mine",)]
    assert docs.ids() == ["b", "first"]


# 20: integer ids


def test_integer_ids_are_recognised_the_next_time(docs: Collection[str], model: DeterministicModel):
    """A second run over the same numbered lines calls no model."""
    lines = [f"line {i}" for i in range(7)]
    docs.embed_multi(enumerate(lines), store=True)
    assert len(model.calls) == 1
    docs.embed_multi(enumerate(lines), store=True, batch_size=3)
    docs.embed(3, "line 3")
    docs.embed("3", "line 3")
    assert len(model.calls) == 1
    assert contents(docs) == {str(i): line for i, line in enumerate(lines)}


def test_an_integer_and_its_string_are_one_id(docs: Collection[str]):
    """Also within one batch, where the last one wins."""
    docs.embed_multi([(1, "one"), ("1", "uno")], store=True)
    assert contents(docs) == {"1": "uno"}
    docs.embed(1, "un", store=True)
    assert contents(docs) == {"1": "un"}

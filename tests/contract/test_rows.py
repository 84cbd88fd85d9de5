"""What `embed*` does with a row: in examples, and against a dict that follows the same rules."""

from __future__ import annotations

import functools
import itertools
import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from embeddings import (
    Collection,
    DoesNotExist,
    EmbeddingModel,
    InvalidItemError,
    InvalidVectorError,
    ModelError,
    ModelMismatchError,
    Prepared,
)
from embeddings.testing import DeterministicModel
from tests.reaching import examples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Metadata = dict[str, Any] | None
Triple = tuple[Any, Any, Metadata]


@pytest.fixture(params=["engine", "session"])
def bound(request: pytest.FixtureRequest) -> Any:
    """The two ways to own a transaction: the library's and the caller's."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def docs(bound: Any, model: DeterministicModel) -> Collection[str]:
    """A new collection on an engine or on a session."""
    return Collection("docs", bound, model=model)


def stored(docs: Collection[Any]) -> dict[str, tuple[Any, Metadata]]:
    """Content and metadata of each item, by id."""
    return {
        record.id: (
            record.content if record.content_blob is None else record.content_blob,
            record.metadata_,
        )
        for record in docs
    }


def vector_of(docs: Collection[Any], id: str) -> list[float]:
    """The vector of an item."""
    record = docs.get(id)
    assert record is not None
    return list(map(float, record.embedding))


def updated(docs: Collection[Any], id: str) -> int | None:
    """When the row was last written."""
    record = docs.get(id)
    assert record is not None
    return record.updated


def execute(bound: Any, sql: str, **parameters: Any) -> None:
    """Change rows past the library, as another program would."""
    if isinstance(bound, Session):
        bound.execute(text(sql), parameters)
        bound.expire_all()
    else:
        with bound.begin() as connection:
            connection.execute(text(sql), parameters)


# The same id with the same content


def test_the_same_again_changes_nothing(
    bound: Any, docs: Collection[str], model: DeterministicModel
):
    """The model is not called, and not even the time of the row moves."""
    docs.embed("a", "hello", metadata={"n": 1}, store=True)
    execute(bound, "UPDATE embeddings SET updated = 1")
    docs.embed("a", "hello")
    docs.embed("a", "hello", metadata={"n": 1}, store=True)
    docs.embed_multi([("a", "hello")])
    docs.embed_multi_with_metadata([("a", "hello", None), ("a", "hello", {"n": 1})])
    assert updated(docs, "a") == 1
    assert stored(docs) == {"a": ("hello", {"n": 1})}
    assert model.calls == [["hello"]]


def test_metadata_that_is_given_replaces_that_of_the_row(
    bound: Any, docs: Collection[str], model: DeterministicModel
):
    """As a whole, it is not merged; the row counts as written, the content stays stored."""
    docs.embed("a", "hello", metadata={"n": 1, "m": 2}, store=True)
    execute(bound, "UPDATE embeddings SET updated = 1")
    docs.embed("a", "hello", metadata={"n": 3})
    assert stored(docs) == {"a": ("hello", {"n": 3})}
    assert updated(docs, "a") != 1
    assert model.calls == [["hello"]]


def test_metadata_that_python_calls_equal_is_still_replaced(
    docs: Collection[str], subtests: pytest.Subtests
):
    """What is stored is the JSON that was given last, to the letter."""
    before: Any
    after: Any
    for before, after in [
        ({"n": 1}, {"n": True}),
        ({"n": 1}, {"n": 1.0}),
        ({"n": 0}, {"n": False}),
        ({"n": None}, {}),
        ({}, {"n": None}),
        ({"n": [1, 2]}, {"n": [2, 1]}),
    ]:
        with subtests.test(ascii(before)[:60]):
            docs.embed("a", "hello", metadata=before)
            docs.embed("a", "hello", metadata=after)
            assert json.dumps(stored(docs)["a"][1]) == json.dumps(after)


def test_the_order_of_keys_is_no_change(bound: Any, docs: Collection[str]):
    """JSON's objects have none, and PostgreSQL's JSONB keeps none."""
    docs.embed("a", "hello", metadata={"name": 1, "b": {"two": 2, "c": 3}}, store=True)
    execute(bound, "UPDATE embeddings SET updated = 1")
    docs.embed("a", "hello", metadata={"b": {"c": 3, "two": 2}, "name": 1})
    report = docs.embed_multi_with_metadata([("a", "hello", {"b": {"two": 2, "c": 3}, "name": 1})])
    assert (report.unchanged, updated(docs, "a")) == (1, 1)


def test_empty_metadata_is_metadata(docs: Collection[str]):
    """`{}` is given, so it replaces; None is not given, so it leaves the row as it was."""
    docs.embed("a", "hello", metadata={"n": 1})
    docs.embed("a", "hello", metadata={})
    assert stored(docs) == {"a": (None, {})}
    docs.embed("a", "hello", metadata=None)
    assert stored(docs) == {"a": (None, {})}


@pytest.mark.parametrize("found", ['{"n": NaN}', "[1]", '"text"', '{"n": Infinity}'])
def test_metadata_that_another_program_wrote_can_be_replaced(
    bound: Any, docs: Collection[str], found: str
):
    """What could not be written here does not keep the row from being written."""
    docs.embed("a", "hello", metadata={"n": 1})
    execute(bound, "UPDATE embeddings SET metadata = :found", found=found)
    docs.embed("a", "hello")
    docs.embed("a", "hello", metadata={"n": 2})
    assert stored(docs) == {"a": (None, {"n": 2})}


def test_content_is_stored_later_and_never_taken_away(
    docs: Collection[str], model: DeterministicModel
):
    """`store=True` adds it; `store=False`, the default, leaves it."""
    docs.embed("a", "hello", metadata={"n": 1})
    assert stored(docs) == {"a": (None, {"n": 1})}
    docs.embed("a", "hello", store=True)
    assert stored(docs) == {"a": ("hello", {"n": 1})}
    docs.embed("a", "hello", store=False)
    docs.embed_multi([("a", "hello")], store=False)
    assert stored(docs) == {"a": ("hello", {"n": 1})}
    assert model.calls == [["hello"]]


@pytest.mark.parametrize("bad", [b"", b"\x00\x00\x80", b"\x00\x00\x80\x3f", None])
def test_a_row_without_a_vector_of_the_right_length_is_embedded(
    bound: Any, docs: Collection[str], model: DeterministicModel, bad: bytes | None
):
    """A stored vector that is missing, cut short or of other dimensions is made anew."""
    docs.embed("good", "good")
    docs.embed("zzz", "hello", metadata={"n": 1}, store=True)
    execute(bound, "UPDATE embeddings SET embedding = :bad WHERE id = 'zzz'", bad=bad)
    docs.embed("zzz", "hello")
    assert model.calls == [["good"], ["hello"], ["hello"]]
    assert vector_of(docs, "zzz") == model.embed("hello")
    assert stored(docs)["zzz"] == ("hello", {"n": 1})


# force=True


def test_force_embeds_again_and_keeps_the_rest(bound: Any):
    """A new vector in the same row; metadata and content stay, unless given."""
    model = Counting()
    docs = Collection("docs", bound, model=model)
    docs.embed("a", "one", metadata={"n": 1}, store=True)
    docs.embed("a", "one", force=True)
    assert model.calls == [["one"], ["one"]]
    assert vector_of(docs, "a")[1] == 2.0
    assert stored(docs) == {"a": ("one", {"n": 1})}
    docs.embed("a", "one", {"n": 2}, force=True)
    docs.embed_multi([("a", "one")], force=True)
    docs.embed_multi_with_metadata([("a", "one", None)], force=True)
    assert vector_of(docs, "a")[1] == 5.0
    assert stored(docs) == {"a": ("one", {"n": 2})}


def test_force_embeds_what_another_row_has(bound: Any):
    """A stored vector is not reused, and only the row that was asked for changes."""
    model = Counting()
    docs = Collection("docs", bound, model=model)
    docs.embed("a", "one")
    docs.embed("b", "one", force=True)
    assert (vector_of(docs, "a")[1], vector_of(docs, "b")[1]) == (1.0, 2.0)


def test_force_embeds_a_content_once_a_batch(bound: Any):
    """Twice the same content is forced once."""
    model = Counting()
    docs = Collection("docs", bound, model=model)
    docs.embed_multi([("a", "one"), ("b", "one"), ("a", "one")], force=True)
    assert model.calls == [["one"]]


# The same content under another id; other content


def test_the_vector_of_a_content_is_reused_under_another_id(bound: Any):
    """Byte by byte the same vector, and a row of its own with what was given for it."""
    model = Counting()
    docs = Collection("docs", bound, model=model)
    docs.embed("a", "one", metadata={"n": 1}, store=True)
    docs.embed("b", "one")
    docs.embed_multi_with_metadata([("c", "one", {"n": 3}), ("d", "two", None)], store=True)
    assert model.calls == [["one"], ["two"]]
    assert [vector_of(docs, id)[1] for id in "abcd"] == [1.0, 1.0, 1.0, 2.0]
    assert stored(docs) == {
        "a": ("one", {"n": 1}),
        "b": (None, None),
        "c": ("one", {"n": 3}),
        "d": ("two", None),
    }


def test_a_vector_is_reused_within_the_collection_only(bound: Any, model: DeterministicModel):
    """Another collection, even of the same model, gives no vector away."""
    Collection("one", bound, model=model).embed("a", "hello")
    Collection("two", bound, model=model).embed("a", "hello")
    assert model.calls == [["hello"], ["hello"]]


def test_other_content_replaces_the_row_as_a_whole(docs: Collection[str]):
    """Metadata and stored content of the old one go with it."""
    docs.embed("a", "old", metadata={"n": 1}, store=True)
    docs.embed("a", "new")
    assert stored(docs) == {"a": (None, None)}
    docs.embed("a", "newer", metadata={"n": 2}, store=True)
    assert stored(docs) == {"a": ("newer", {"n": 2})}


@pytest.mark.parametrize("content", ["Hello", "hello ", "", "hello\n", "hellö", "hello\u0301"])
def test_content_is_the_same_to_the_character_only(
    docs: Collection[str], model: DeterministicModel, content: str
):
    """Neither case nor space nor accents are overlooked."""
    docs.embed("a", "hello", store=True)
    docs.embed("a", content, store=True)
    assert stored(docs) == {"a": (content, None)}
    assert model.calls == [["hello"], [content]]


# One id several times in a call

ONE_ID: dict[str, list[Triple]] = {
    "other content": [("a", "one", {"n": 1}), ("a", "two", None)],
    "and back": [("a", "one", {"n": 1}), ("a", "two", {"n": 2}), ("a", "one", None)],
    "metadata first": [("a", "one", {"n": 1}), ("a", "one", None)],
    "metadata last": [("a", "one", None), ("a", "one", {"n": 1})],
    "metadata twice": [("a", "one", {"n": 1}), ("a", "one", {"m": 2})],
    "what is there": [("a", "there", None), ("a", "one", None)],
    "what was there": [("a", "one", {"n": 1}), ("a", "there", None)],
    "there, away, back": [("a", "there", {"n": 1}), ("a", "x", None), ("a", "there", None)],
    "another's": [("a", "other", None), ("b", "one", None), ("a", "one", {"n": 1})],
    "exchanged": [("a", "other", None), ("b", "there", None), ("a", "other", {"n": 1})],
}


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("case", ONE_ID)
def test_the_last_of_several_with_one_id_wins(
    engine: Engine, model: DeterministicModel, case: str, store: bool
):
    """The outcome is that of one item after another, wherever a batch ends."""
    outcomes = []
    for batch_size in (None, 1, 2, 100):
        docs = Collection(f"by {batch_size}", engine, model=model)
        docs.embed_multi_with_metadata(
            [("a", "there", {"was": 1}), ("b", "other", {"was": 2})], store=True
        )
        if batch_size:
            docs.embed_multi_with_metadata(ONE_ID[case], store, batch_size)
        else:
            for id, content, metadata in ONE_ID[case]:
                docs.embed(id, content, metadata, store)
        outcomes.append({id: (*row, vector_of(docs, id)) for id, row in stored(docs).items()})
    assert outcomes == outcomes[:1] * 4


def test_content_that_loses_within_its_batch_is_not_embedded(
    docs: Collection[str], model: DeterministicModel
):
    """Nobody pays for a vector that is replaced before it is written."""
    docs.embed_multi([("a", "one"), ("a", "two"), ("b", "three"), ("a", "four")])
    assert [sorted(map(str, call)) for call in model.calls] == [["four", "three"]]


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize(("first", "second"), [("abc", b"abc"), (b"abc", "abc")])
def test_text_and_bytes_with_one_id_are_as_one_after_another(
    bound: Any, first: Any, second: Any, batch_size: int
):
    """Also where the row does not say which of the two it was made of."""
    docs = Collection("docs", bound, model=Kinds())
    docs.embed_multi_with_metadata(
        [("a", first, {"n": 1}), ("a", second, None)], batch_size=batch_size
    )
    apart = Collection("apart", bound, model=Kinds())
    apart.embed("a", first, {"n": 1})
    apart.embed("a", second)
    assert stored(docs) == stored(apart)
    assert vector_of(docs, "a") == vector_of(apart, "a") == Kinds().embed(second)


@pytest.mark.parametrize(("first", "second"), [("abc", b"abc"), (b"abc", "abc")])
def test_such_a_batch_is_written_as_a_whole_or_not_at_all(bound: Any, first: Any, second: Any):
    """If the model fails at the second of the two, nothing of the batch is written."""

    def answer(items: Sequence[Any]) -> Any:
        return [[1.0, 2.0]] * (len(items) - (second in items))

    model = Answering(answer)
    model.supports_binary = True
    docs = Collection("docs", bound, model=model)
    with pytest.raises(ModelError):
        docs.embed_multi([("x", "fine"), ("a", first), ("a", second)])
    assert docs.ids() == []


# Text and bytes of equal bytes


class Kinds(EmbeddingModel):
    """Takes both, and tells them apart: text is [1, ...], bytes are [-1, ...]."""

    model_id = "kinds"
    supports_binary = True

    def __init__(self) -> None:
        self.calls: list[list[Any]] = []

    def embed_batch(self, items: Sequence[Any]) -> list[list[float]]:
        self.calls.append(list(items))
        return [[1.0 if isinstance(item, str) else -1.0, len(item) + 1.0] for item in items]


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("value", ["abc", b"abc"])
def test_nothing_is_paid_twice_to_a_model_that_takes_both(bound: Any, value: Any, store: bool):
    """Stored or not, a row is recognised: the hash of bytes is that of no text."""
    model = Kinds()
    docs = Collection("docs", bound, model=model)
    docs.embed("a", value, {"n": 1}, store)
    docs.embed("a", value)
    docs.embed_multi([("b", value), ("c", value)])
    docs.embed("c", value, store=True)
    docs.embed_multi([("c", value), ("d", value)])
    assert model.calls == [[value]]
    kept = value if store else None
    assert stored(docs) == {
        "a": (kept, {"n": 1}),
        "b": (None, None),
        "c": (value, None),
        "d": (None, None),
    }


@pytest.mark.parametrize(("first", "second"), [("abc", b"abc"), (b"abc", "abc")])
def test_a_row_that_says_what_it_was_is_recognised(bound: Any, first: Any, second: Any):
    """With its content stored, the same kind is reused, and the other is another content."""
    model = Kinds()
    docs = Collection("docs", bound, model=model)
    docs.embed("a", first, {"n": 1}, store=True)
    docs.embed("a", first)
    docs.embed("b", first, store=True)
    assert model.calls == [[first]]
    docs.embed("b", second, store=True)
    assert model.calls == [[first], [second]]
    assert stored(docs) == {"a": (first, {"n": 1}), "b": (second, None)}
    docs.embed("a", second)
    assert model.calls == [[first], [second]]
    assert stored(docs)["a"] == (None, None)
    assert vector_of(docs, "a") == Kinds().embed(second)


@pytest.mark.parametrize(("first", "second"), [("abc", b"abc"), (b"abc", "abc")])
def test_a_row_without_its_content_becomes_the_one_that_is_stored(
    bound: Any, first: Any, second: Any
):
    """The other kind is another content, also where the row holds none."""
    model = Kinds()
    docs = Collection("docs", bound, model=model)
    docs.embed("a", first)
    docs.embed("a", second, store=True)
    assert stored(docs) == {"a": (second, None)}
    assert vector_of(docs, "a") == Kinds().embed(second)


@pytest.mark.parametrize("value", ["abc", b"abc"])
def test_a_model_that_takes_one_kind_leaves_no_doubt(bound: Any, value: Any):
    """Where the model takes only one of the two, no content is needed to know which it was."""
    model = Kinds()
    model.supports_text, model.supports_binary = isinstance(value, str), isinstance(value, bytes)
    docs = Collection("docs", bound, model=model)
    docs.embed("a", value)
    docs.embed("a", value)
    docs.embed("b", value, store=True)
    docs.embed("a", value, store=True)
    assert model.calls == [[value]]
    assert stored(docs) == {"a": (value, None), "b": (value, None)}


# Refused before the model is called


class Unexpected:
    """Neither text nor bytes."""


LONG = {
    "1,025 letters": "x" * 1025,
    "257 characters of four bytes": "🐕" * 257,
    "a million letters": "x" * 1_000_000,
}
REFUSED_IDS = {
    "empty": "",
    "NUL": "a\0b",
    "only NUL": "\0",
    "a lone high surrogate": "a\ud800",
    "a lone low surrogate": "\udc00",
    "surrogates in the wrong order": "\udc00\ud800",
    "None": None,
    "bool": True,
    "float": 1.0,
    "bytes": b"a",
    "tuple": ("a",),
    "object": Unexpected(),
    "an integer of 5,000 digits": 10**5000,
    **LONG,
}
REFUSED_CONTENTS = {
    "NUL": "a\0b",
    "a lone surrogate": "\ud83d dog",
    "None": None,
    "int": 1,
    "list": ["hello"],
    "dict": {"text": "hello"},
    "bytearray": bytearray(b"hello"),
    "memoryview": memoryview(b"hello"),
    "object": Unexpected(),
    "bytes for a model of text": b"hello",
}
REFUSED_METADATA = {
    "a list": [1],
    "a string": "{}",
    "NaN": {"x": math.nan},
    "infinity within": {"x": [{"y": math.inf}]},
    "bytes": {"x": b""},
    "a set": {"x": {1}},
    "an object": {"x": Unexpected()},
    "an integer as key": {1: "x"},
    "a key of None within": {"x": {None: 1}},
    "NUL": {"x": "\0"},
    "NUL in a key": {"\0": 1},
    "a lone surrogate": {"x": "\ud800"},
    "a lone surrogate in a key": {"x": {"\udfff": 1}},
}
REFUSED: dict[str, tuple[Any, Any, Any]] = {
    **{f"id: {name}": (id, "hello", None) for name, id in REFUSED_IDS.items()},
    **{f"content: {name}": ("a", value, None) for name, value in REFUSED_CONTENTS.items()},
    **{f"metadata: {name}": ("a", "hello", value) for name, value in REFUSED_METADATA.items()},
}


def test_what_cannot_be_stored_is_refused_before_the_call(
    engine: Engine, model: DeterministicModel, subtests: pytest.Subtests
):
    """Alone or in a batch: InvalidItemError, no call of the model, nothing of the batch written."""
    for case in REFUSED:
        with subtests.test(ascii(case)[:60]):
            id, content, metadata = REFUSED[case]
            docs = Collection("docs", engine, model=model)
            with pytest.raises(InvalidItemError):
                docs.embed(id, content, metadata)
            with pytest.raises(InvalidItemError):
                docs.embed_multi_with_metadata([("fine", "fine", None), (id, content, metadata)])
            if metadata is None:
                with pytest.raises(InvalidItemError):
                    docs.embed_multi([(id, content), ("fine", "fine")])
            assert (model.calls, Collection.exists(engine, "docs")) == ([], False)


@pytest.mark.parametrize("case", ["id: NUL", "content: dict", "metadata: NaN"])
def test_whole_batches_before_one_that_is_refused_are_written(
    engine: Engine, model: DeterministicModel, case: str
):
    """What was paid for stays; what shares the batch with a bad item is neither paid nor there."""
    docs = Collection("docs", engine, model=model)
    entries = [("1", "one", None), ("2", "two", None), ("3", "three", None), REFUSED[case]]
    with pytest.raises(InvalidItemError):
        docs.embed_multi_with_metadata([*entries, ("4", "four", None)], batch_size=2)
    assert docs.ids() == ["1", "2"]
    assert model.calls == [["one", "two"]]


def test_an_error_names_what_was_refused(docs: Collection[str]):
    """The message tells the place: the id, the type, the way to the value in the metadata."""
    cases: list[tuple[str, Triple]] = [
        (r"'a\\x00b'.*NUL", ("a\0b", "x", None)),
        (r"The content.*NUL", ("a", "x\0", None)),
        (r"metadata\['x'\]\[1\]\['y'\].*nan", ("a", "x", {"x": [0, {"y": math.nan}]})),
        (r"set", ("a", {"x"}, None)),
        (r"key 1", ("a", "x", {1: 2})),  # type: ignore[dict-item]
    ]
    for match, arguments in cases:
        with pytest.raises(InvalidItemError, match=match):
            docs.embed(*arguments)


@pytest.mark.parametrize("id", ["x" * 1024, "ü" * 512, "🐕" * 256, 10**1000])
def test_an_id_may_have_1024_bytes(docs: Collection[str], id: Any):
    """Of UTF-8, which is what every database's index can hold."""
    docs.embed(id, "hello")
    assert docs.ids() == [str(id)]


def test_an_entry_of_another_shape_than_a_pair_is_refused(
    docs: Collection[str], model: DeterministicModel, subtests: pytest.Subtests
):
    """A string of two letters is no pair either."""
    entry: Any
    for entry in [
        (),
        ("a",),
        ("a", "hello", None),
        ("a", "hello", {}, 1),
        "ab",
        b"ab",
        None,
        1,
        {"id": "a", "value": "hello"},
        {"a": 1, "b": 2},
        {"a"},
        iter(["a", "hello"]),
    ]:
        with subtests.test(ascii(entry)[:60]):
            with pytest.raises(InvalidItemError, match="each entry must be a tuple of 2") as raised:
                docs.embed_multi([("fine", "fine"), entry])
            is_triple = isinstance(entry, tuple) and len(entry) == 3
            assert ("embed_multi_with_metadata()" in str(raised.value)) is is_triple
            assert ("items()" in str(raised.value)) is isinstance(entry, str)
            assert (model.calls, docs.count()) == ([], 0)


def test_an_entry_of_another_shape_than_a_triple_is_refused(
    docs: Collection[str], model: DeterministicModel, subtests: pytest.Subtests
):
    """Metadata that is missing is not taken for None."""
    entry: Any
    for entry in [(), ("a", "hello"), ("a", "hello", {}, 1), "abc", None, {"a": 1, "b": 2, "c": 3}]:
        with subtests.test(ascii(entry)[:60]):
            with pytest.raises(InvalidItemError, match="each entry must be a tuple of 3"):
                docs.embed_multi_with_metadata([("fine", "fine", None), entry])
            assert (model.calls, docs.count()) == ([], 0)


@pytest.mark.parametrize("entries", [None, 1, object()])
def test_entries_that_cannot_be_iterated_are_a_type_error(docs: Collection[str], entries: Any):
    """As everywhere in Python."""
    with pytest.raises(TypeError):
        docs.embed_multi(entries)


def test_entries_may_be_lists_and_come_from_anything_that_is_iterable(docs: Collection[str]):
    """Rows of a CSV reader, items of a dict, an iterator."""
    docs.embed_multi([["a", "one"], ["b", "two"]])  # type: ignore[list-item]
    docs.embed_multi({"c": "three", "d": "four"}.items())
    docs.embed_multi(iter([("e", "five")]))
    docs.embed_multi_with_metadata([["f", "six", {"n": 6}]])  # type: ignore[list-item]
    assert docs.ids() == ["a", "b", "c", "d", "e", "f"]


def test_metadata_is_that_of_the_moment_in_which_an_item_was_read(docs: Collection[str]):
    """A generator may fill one dict again and again, and each row has its own values."""

    def entries() -> Iterator[Triple]:
        metadata: dict[str, Any] = {}
        for i in range(3):
            metadata["n"] = i
            yield i, f"text {i}", metadata

    docs.embed_multi_with_metadata(entries())
    assert {id: metadata for id, (_, metadata) in stored(docs).items()} == {
        "0": {"n": 0},
        "1": {"n": 1},
        "2": {"n": 2},
    }


# Checked before it is written


class Answering(EmbeddingModel):
    """Gives the same answer to everything, whole or cut to the number of items."""

    model_id = "answering"

    def __init__(self, answer: Callable[[Sequence[Any]], Any]) -> None:
        self.answer = answer
        self.calls: list[list[Any]] = []

    def embed_batch(self, items: Sequence[Any]) -> Any:
        assert type(items) is list
        self.calls.append(list(items))
        return self.answer(items)


ANSWERS: dict[str, Callable[[Sequence[Any]], Any]] = {
    "too few": lambda items: [[1.0, 2.0]] * (len(items) - 1),
    "too many": lambda items: [[1.0, 2.0]] * (len(items) + 1),
    "none": lambda _: [],
    "NaN in the last": lambda items: [[1.0, 2.0]] * (len(items) - 1) + [[math.nan, 1.0]],
    "infinity in an array": lambda items: np.full((len(items), 2), np.inf, np.float32),
    "too large for float32": lambda items: [[1e300, 1.0]] * len(items),
    "one longer": lambda items: [[1.0, 2.0]] * (len(items) - 1) + [[1.0, 2.0, 3.0]],
    "all longer": lambda items: [[1.0, 2.0, 3.0]] * len(items),
    "all shorter": lambda items: [[1.0]] * len(items),
    "empty": lambda items: [[]] * len(items),
    "text": lambda items: ["12"] * len(items),
}


def test_a_bad_vector_keeps_its_whole_batch_from_being_written(
    bound: Any, subtests: pytest.Subtests
):
    """Count, numbers, finiteness and dimensions are checked first, and every row stays."""
    for answer in ANSWERS:
        with subtests.test(ascii(answer)[:60]):
            docs = Collection(
                "docs", bound, model=Answering(lambda items: [[1.0, 2.0]] * len(items))
            )
            docs.embed("a", "there", metadata={"n": 1}, store=True)
            broken = Collection("docs", bound, model=Answering(ANSWERS[answer]))
            with pytest.raises((ModelError, InvalidVectorError)):
                broken.embed_multi_with_metadata(
                    [("a", "there", {"n": 2}), ("b", "new", None), ("c", "newer", None)], store=True
                )
            with pytest.raises((ModelError, InvalidVectorError)):
                broken.embed("a", "other")
            assert stored(docs) == {"a": ("there", {"n": 1})}


def test_vectors_belong_to_their_items_in_order(bound: Any):
    """Whatever order the items are written in."""
    model = Answering(lambda items: [[float(item), 1.0] for item in items])
    docs = Collection("docs", bound, model=model)
    docs.embed_multi([("c", "3"), ("a", "1"), ("b", "2"), ("d", "1")], store=True)
    assert {id: vector_of(docs, id)[0] for id in "abcd"} == {
        "a": 1.0,
        "b": 2.0,
        "c": 3.0,
        "d": 1.0,
    }


def test_the_first_batch_settles_the_dimensions(bound: Any):
    """A model that changes its mind between two batches is an error in the second."""
    lengths = itertools.count(2)
    model = Answering(lambda items: [[1.0] * length for length in [next(lengths)] for _ in items])
    docs = Collection("docs", bound, model=model)
    with pytest.raises(InvalidVectorError, match=r"3 dimensions.* 2"):
        docs.embed_multi([("a", "one"), ("b", "two"), ("c", "three")], batch_size=2)
    assert docs.ids() == ["a", "b"]


# Other writers, while the model runs


def test_a_vector_that_vanishes_while_the_model_runs_is_made(engine: Engine):
    """What was to be reused is looked for again under the write lock."""

    def answer(items: Sequence[Any]) -> Any:
        Collection("docs", engine).delete_items(["a"])
        return [[float(CONTENTS.index(item)), 1.0] for item in items]

    docs = Collection("docs", engine, model=Answering(answer))
    docs.embed("a", "one")
    docs.store_vectors([("other", [5.0, 5.0])])
    docs.embed_multi([("b", "one"), ("c", "two")])
    assert docs.ids() == ["b", "c", "other"]
    assert (vector_of(docs, "b"), vector_of(docs, "c")) == ([0.0, 1.0], [1.0, 1.0])


def test_a_row_that_another_writer_changes_meanwhile_becomes_what_was_passed(engine: Engine):
    """The later of two writers wins, as a whole; nothing of the earlier one stays."""

    def answer(items: Sequence[Any]) -> Any:
        if items == ["slow"]:
            Collection("docs", engine, model=quick).embed("a", "quick", {"n": 1}, store=True)
        return [[float(len(item)), 1.0] for item in items]

    quick = Answering(lambda items: [[9.0, 9.0]] * len(items))
    docs = Collection("docs", engine, model=Answering(answer))
    docs.embed("a", "first", {"n": 0}, store=True)
    docs.embed("a", "slow")
    assert stored(docs) == {"a": (None, None)}
    assert vector_of(docs, "a") == [4.0, 1.0]


def test_a_collection_that_another_model_makes_meanwhile_is_not_mixed(engine: Engine):
    """The first to write decides on the model; the other one gets an error."""

    def answer(items: Sequence[Any]) -> Any:
        Collection("docs", engine, model=DeterministicModel("quicker")).embed("x", "x")
        return [[1.0] * 256] * len(items)

    docs = Collection("docs", engine, model=Answering(answer))
    with pytest.raises(ModelMismatchError, match=r"'quicker'.*'answering'"):
        docs.embed("a", "one")
    assert Collection("docs", engine).ids() == ["x"]


# prepare, and embed(id, prepared)


def test_what_was_prepared_is_written_without_the_model(
    docs: Collection[str], model: DeterministicModel
):
    """One call, by `prepare`; the row is as if `embed` had made it."""
    prepared = docs.prepare("hello")
    assert (prepared.content, prepared.model_id) == ("hello", "deterministic")
    assert prepared.vector.tolist() == DeterministicModel().embed("hello")
    docs.embed("a", prepared, metadata={"n": 1}, store=True)
    docs.embed("b", prepared)
    assert model.calls == [["hello"]]
    assert stored(docs) == {"a": ("hello", {"n": 1}), "b": (None, None)}
    docs.embed("c", "hello")
    docs.embed("a", "hello")
    assert model.calls == [["hello"]]
    assert [entry.id for entry in docs.similar_by_vector(prepared.vector)] == ["a", "b", "c"]


def test_to_prepare_no_database_is_needed(model: DeterministicModel, engine: Engine):
    """A session is not touched, and so holds no transaction while the model runs."""
    with Session(engine) as session:
        docs = Collection("docs", session, model=model)
        prepared = docs.prepare("hello")
        vector = docs.embed_query("hello")
        assert not session.in_transaction()
        docs.embed("a", prepared)
        assert docs.similar_by_vector(vector)[0].id == "a"
        session.commit()


def test_what_was_prepared_for_another_model_is_refused(
    docs: Collection[str], bound: Any, model: DeterministicModel
):
    """The error names both; nothing is written, also where the collection does not exist yet."""
    other = Collection("other", bound, model=DeterministicModel("other")).prepare("hello")
    with pytest.raises(ModelMismatchError, match=r"'deterministic'.*'other'"):
        docs.embed("a", other)
    assert not Collection.exists(bound, "docs")
    docs.embed("b", "world")
    with pytest.raises(ModelMismatchError, match=r"'deterministic'.*'other'"):
        docs.embed("a", other)
    with pytest.raises(ModelMismatchError):
        docs.embed("b", other, force=True)
    assert docs.ids() == ["b"]


def test_what_was_prepared_replaces_and_reuses_as_embed_does(bound: Any):
    """The row's rules are the same; `force=True` writes the prepared vector."""
    model = Counting()
    docs = Collection("docs", bound, model=model)
    docs.embed("a", "one", metadata={"n": 1}, store=True)
    docs.embed("a", docs.prepare("one"))
    assert stored(docs) == {"a": ("one", {"n": 1})}
    assert vector_of(docs, "a")[1] == 1.0
    assert len(model.calls) == 1
    two = docs.prepare("two")
    docs.embed("b", "two")
    assert (vector_of(docs, "b")[1], len(model.calls)) == (3.0, 3)
    docs.embed("b", two)
    assert vector_of(docs, "b")[1] == 3.0
    docs.embed("b", two, force=True)
    assert vector_of(docs, "b")[1] == 2.0
    docs.embed("a", docs.prepare("two"))
    assert stored(docs)["a"] == (None, None)
    assert len(model.calls) == 3


def test_what_cannot_be_embedded_cannot_be_prepared(
    docs: Collection[str], model: DeterministicModel, subtests: pytest.Subtests
):
    """It is refused before the call, as by `embed`."""
    content: Any
    for content in ["a\0b", "\ud800", 1, None, b"bytes"]:
        with subtests.test(ascii(content)[:60]):
            with pytest.raises(InvalidItemError):
                docs.prepare(content)
            with pytest.raises(InvalidItemError):
                docs.embed_query(content)
            assert model.calls == []


VECTORS: dict[str, Any] = {
    "NaN": np.full(256, np.nan, np.float32),
    "infinity": np.full(256, np.inf, np.float32),
    "too large for float32": np.full(256, 1e300),
    "two dimensions": np.ones((1, 256), np.float32),
    "empty": np.ones(0, np.float32),
    "strings": np.full(256, "1"),
    "a list with NaN": [math.nan] * 256,
    "none": None,
}


def test_a_prepared_vector_is_checked_as_any_other(
    docs: Collection[str], model: DeterministicModel, subtests: pytest.Subtests
):
    """Prepared is a public class, and its vector may come from anywhere."""
    for vector in VECTORS:
        with subtests.test(ascii(vector)[:60]):
            with pytest.raises(InvalidVectorError):
                docs.embed("a", Prepared("hello", VECTORS[vector], "deterministic"))
            assert (docs.count(), model.calls) == (0, [])


def test_a_prepared_vector_may_be_of_any_numbers(docs: Collection[str]):
    """Of a list or of float64, as from a queue or a file, it is stored as float32."""
    docs.embed("a", Prepared("one", [1.0] * 256, "deterministic"))  # type: ignore[arg-type]
    docs.embed("b", Prepared("two", np.ones(256), "deterministic"))  # type: ignore[arg-type]
    assert vector_of(docs, "a") == vector_of(docs, "b") == [1.0] * 256


def test_a_prepared_vector_of_other_dimensions_is_refused(
    docs: Collection[str], model: DeterministicModel
):
    """As from the model, and the row stays."""
    docs.embed("a", "hello")
    short = Prepared("world", np.ones(3, np.float32), "deterministic")
    with pytest.raises(InvalidVectorError, match=r"3 dimensions.* 256"):
        docs.embed("a", short)
    assert vector_of(docs, "a") == model.embed("hello")


def test_what_was_prepared_outlives_the_next_call_of_the_model(bound: Any):
    """A model that writes every answer into the same memory does not change earlier ones."""
    memory = np.zeros((1, 2), np.float32)

    def answer(items: Sequence[Any]) -> Any:
        memory[:] = len(items[0])
        return memory

    docs = Collection("docs", bound, model=Answering(answer))
    first, second = docs.prepare("x"), docs.prepare("xyz")
    assert (first.vector.tolist(), second.vector.tolist()) == ([1.0, 1.0], [3.0, 3.0])


# Against a dict that follows the rules


CONTENTS = ["one", "two", "Ünï 🐕"]


class Counting(EmbeddingModel):
    """The vector tells which content it is of, and which call of the model made it."""

    model_id = "counting"

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def embed_batch(self, items: Sequence[Any]) -> list[list[float]]:
        self.calls.append(list(items))
        return [[CONTENTS.index(item) + 1.0, float(len(self.calls))] for item in items]


@dataclass(frozen=True)
class Row:
    """What a row is to hold, and the vectors that it may: any one that the content had."""

    content: str
    metadata: str | None
    is_stored: bool
    vectors: frozenset[tuple[float, ...]] = frozenset()


IDS: st.SearchStrategy[str | int] = st.sampled_from(["a", "ü", 1, "1"])
CONTENT = st.sampled_from(CONTENTS)
METADATA: st.SearchStrategy[Metadata] = st.sampled_from(
    [None, None, {}, {"n": 1}, {"n": True}, {"x": [None, "ü"], "n": {}}]
)
ITEM = st.tuples(IDS, CONTENT, METADATA)
OF_ONE_ID = st.tuples(IDS, st.lists(st.tuples(CONTENT, METADATA), min_size=2, max_size=3)).map(
    lambda drawn: [(drawn[0], *item) for item in drawn[1]]
)


def as_json(metadata: Metadata) -> str | None:
    return None if metadata is None else json.dumps(metadata)


class Rows(RuleBasedStateMachine):
    """Random writes to a collection and to a dict that follows DESIGN's rules, compared.

    On a session there are commits and rollbacks besides, and every record that was ever read
    is held, so that it is compared, too.
    """

    numbers = itertools.count()

    def __init__(self, engine: Engine, *, on_session: bool) -> None:
        super().__init__()
        self.session = Session(engine) if on_session else None
        self.model = Counting()
        self.name = f"rows {next(self.numbers)}"
        self.bound: Any = self.session or engine
        self.docs = Collection(self.name, self.bound, model=self.model)
        self.rows: dict[str, Row] = {}
        self.committed: dict[str, Row] = {}
        self.held: list[Any] = []

    @initialize(size=st.sampled_from([None, None, 1, 2]))
    def start(self, size: int | None) -> None:
        self.model.batch_size = size

    def follow(self, items: Sequence[Triple], store: bool, force: bool, call: int) -> list[str]:
        """Apply a batch to the dict by the rules; return what the model is to be given for it."""
        before = dict(self.rows)
        known: dict[str, frozenset[tuple[float, ...]]] = {}
        for row in before.values():
            known[row.content] = known.get(row.content, frozenset()) | row.vectors
        replaced: set[str] = set()
        for key, content, metadata in items:
            old = self.rows.get(str(key))
            if old is not None and old.content == content:
                text = old.metadata if metadata is None else as_json(metadata)
                self.rows[str(key)] = replace(old, metadata=text, is_stored=old.is_stored or store)
            else:
                replaced.add(str(key))
                self.rows[str(key)] = Row(content, as_json(metadata), store)
        touched = {str(key) for key, _, _ in items}
        wanted = {self.rows[id].content for id in touched} - (set() if force else known.keys())
        for id in touched:
            row = self.rows[id]
            if row.content in wanted:
                made: tuple[float, ...] = (CONTENTS.index(row.content) + 1.0, float(call))
                vectors = frozenset({made})
            else:
                vectors = known[row.content] if id in replaced else before[id].vectors
            self.rows[id] = replace(row, vectors=vectors)
        return sorted(wanted)

    def compare(
        self,
        items: Sequence[Triple],
        batch_size: int,
        store: bool,
        force: bool,
        write: Callable[[], object],
    ) -> None:
        """Write, follow batch by batch, and compare what the model was given."""
        done = len(self.model.calls)
        write()
        size = min(batch_size, self.model.batch_size or batch_size)
        given: list[list[str]] = []
        for start in range(0, len(items), size):
            batch = items[start : start + size]
            wanted = self.follow(batch, store, force, done + len(given) + 1)
            given += [wanted] if wanted else []
        assert [sorted(call) for call in self.model.calls[done:]] == given

    @rule(id=IDS, content=CONTENT, metadata=METADATA, store=st.booleans(), force=st.booleans())
    def embed_one(
        self, id: Any, content: str, metadata: Metadata, store: bool, force: bool
    ) -> None:
        self.compare(
            [(id, content, metadata)],
            1,
            store,
            force,
            lambda: self.docs.embed(id, content, metadata, store, force=force),
        )

    @rule(
        items=st.lists(ITEM, max_size=6) | OF_ONE_ID,
        batch_size=st.sampled_from([1, 2, 3, 100]),
        store=st.booleans(),
        force=st.booleans(),
        by_generator=st.booleans(),
    )
    def embed_many(
        self,
        items: list[tuple[Any, str, Metadata]],
        batch_size: int,
        store: bool,
        force: bool,
        by_generator: bool,
    ) -> None:
        entries: Iterable[Any] = iter(items) if by_generator else items
        self.compare(
            items,
            batch_size,
            store,
            force,
            lambda: self.docs.embed_multi_with_metadata(entries, store, batch_size, force=force),
        )

    @rule(ids=st.lists(IDS, max_size=3))
    def delete(self, ids: list[Any]) -> None:
        gone = {str(id) for id in ids} & self.rows.keys()
        assert self.docs.delete_items(ids) == len(gone)
        for id in gone:
            del self.rows[id]

    @rule(id=IDS, metadata=METADATA)
    def set_metadata(self, id: Any, metadata: Metadata) -> None:
        text = str(id)
        if text in self.rows:
            self.docs.set_metadata(id, metadata)
            self.rows[text] = replace(self.rows[text], metadata=as_json(metadata))
        else:
            with pytest.raises(DoesNotExist):
                self.docs.set_metadata(id, metadata)

    @rule(content=CONTENT, id=IDS, metadata=METADATA, force=st.booleans())
    def embed_prepared(self, content: str, id: Any, metadata: Metadata, force: bool) -> None:
        """One call by `prepare` and none by `embed`; where no vector stays, it is the new one."""
        prepared = self.docs.prepare(content)
        made = frozenset({tuple(map(float, prepared.vector))})
        done = len(self.model.calls)
        self.docs.embed(id, prepared, metadata, force=force)
        assert len(self.model.calls) == done
        before = self.rows.get(str(id))
        stays = before is not None and before.content == content and not force
        self.follow([(id, content, metadata)], False, force, done)
        if not stays:
            row = self.rows[str(id)]
            self.rows[str(id)] = replace(row, vectors=made)

    @rule(
        bad=st.sampled_from(
            [("", "one", None), ("a", "\0", None), ("a", "one", {"x": math.nan}), ("a",)]
        ),
        items=st.lists(ITEM, max_size=3),
    )
    def be_refused(self, bad: Any, items: list[Any]) -> None:
        done = len(self.model.calls)
        own = self.model.batch_size
        self.model.batch_size = None
        with pytest.raises(InvalidItemError):
            self.docs.embed_multi_with_metadata([*items, bad])
        self.model.batch_size = own
        assert len(self.model.calls) == done

    @rule()
    def open_anew(self) -> None:
        self.docs = Collection(self.name, self.bound, model=self.model)

    @precondition(lambda self: self.session is not None)
    @rule()
    def commit(self) -> None:
        assert self.session is not None
        self.session.commit()
        self.committed = dict(self.rows)

    @precondition(lambda self: self.session is not None)
    @rule()
    def roll_back(self) -> None:
        assert self.session is not None
        self.session.rollback()
        self.rows = dict(self.committed)

    @invariant()
    def look(self) -> None:
        records = list(self.docs)
        self.held += records
        assert self.docs.count() == len(self.rows)
        assert [record.id for record in records] == sorted(self.rows)
        for record in records:
            row = self.rows[record.id]
            vector = tuple(map(float, record.embedding))
            assert vector in row.vectors
            self.rows[record.id] = replace(row, vectors=frozenset({vector}))
            assert record.content == (row.content if row.is_stored else None)
            assert as_json(record.metadata_) == row.metadata
            assert record.content_hash == self.docs.content_hash(row.content)

    def teardown(self) -> None:
        if self.session is not None:
            self.session.close()


@pytest.mark.parametrize("on_session", [False, True], ids=["engine", "session"])
def test_any_sequence_of_writes_leaves_the_rows_that_the_rules_say(
    engine: Engine, on_session: bool
):
    """Rows, vectors and what the model was given are those of the dict, after every step."""
    make: Any = functools.partial(Rows, engine, on_session=on_session)
    run_state_machine_as_test(
        make,
        settings=settings(
            max_examples=examples(10),
            stateful_step_count=15,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# Text and bytes, against a dict

KIND_ITEM = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(["x", b"x", "xyz", b"xyz"]),
)
KIND_CALLS = st.lists(
    st.tuples(
        st.lists(KIND_ITEM, min_size=1, max_size=4, unique_by=lambda item: item[0]),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture
def names() -> Iterator[str]:
    """Names of collections that are not there yet."""
    return (f"kinds {number}" for number in itertools.count())


@settings(
    max_examples=examples(10),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(calls=KIND_CALLS)
def test_any_mixture_of_text_and_bytes_keeps_them_apart(
    bound: Any, names: Iterator[str], calls: list[tuple[list[tuple[str, Any]], bool]]
):
    """The vector is that of the last value, in its kind, and what is there is reused."""
    model = Kinds()
    docs = Collection(next(names), bound, model=model)
    rows: dict[str, tuple[Any, bool]] = {}
    for entries, store in calls:
        known = {value for value, _ in rows.values()}
        done = len(model.calls)
        docs.embed_multi(entries, store)
        given_now = [item for call in model.calls[done:] for item in call]
        assert sorted(map(repr, given_now)) == sorted(
            map(repr, {value for _, value in entries} - known)
        )
        for id, value in entries:
            before, was_stored = rows.get(id, (None, False))
            rows[id] = (value, store or (was_stored and before == value))
        assert stored(docs) == {
            id: (value if is_stored else None, None) for id, (value, is_stored) in rows.items()
        }
        for id, (value, _) in rows.items():
            assert vector_of(docs, id) == Kinds().embed(value)

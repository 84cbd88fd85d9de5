"""EmbeddingModel, the protocol that a collection asks for, and llm's models in a collection."""

from __future__ import annotations

import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from embeddings import (
    Collection,
    EmbeddingModel,
    EmbeddingsError,
    InvalidItemError,
    InvalidVectorError,
    ModelError,
    ModelMismatchError,
    SupportsEmbedding,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sqlalchemy.orm import Session

BINARY_REFUSED = "This model does not support binary data, only text strings"
TEXT_REFUSED = "This model does not support text strings, only binary data"
BAD_BATCH_SIZES = (0, -1, True, False, 1.0, 2.5, "2", float("nan"))


class Length(EmbeddingModel):
    """A model whose vectors hold each item's length, and which remembers what it was given."""

    model_id = "length"

    def __init__(self) -> None:
        self.given: list[Any] = []

    def embed_batch(self, items: Any) -> Iterable[Any]:
        self.given.append(items)
        return [[len(item), 1] for item in items]


class Scripted(EmbeddingModel):
    """A model that answers with what the test says."""

    model_id = "scripted"

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.answer = answer

    def embed_batch(self, items: Any) -> Any:
        return self.answer(items)


class Source:
    """An iterator that counts how many items were taken from it."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = iter(items)
        self.taken = 0

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> Any:
        item = next(self.items)
        self.taken += 1
        return item


@pytest.fixture
def length() -> Length:
    """A model that remembers what it was given."""
    return Length()


# What comes back


def test_embed_and_embed_multi_return_lists_of_python_floats(subtests):
    """Whatever kind of numbers the model returns, a vector is a list of Python floats."""
    for answer in [
        lambda items: [[1, 2] for _ in items],
        lambda items: [(1.0, 2.0) for _ in items],
        lambda items: ([1.0, 2.0] for _ in items),
        lambda items: ((x for x in (1, 2)) for _ in items),
        lambda items: [range(1, 3) for _ in items],
        lambda items: np.array([[1, 2]] * len(items)),
        lambda items: np.array([[1, 2]] * len(items), "f8"),
        lambda items: np.array([[1, 2]] * len(items), "f4"),
        lambda items: np.array([[1, 2]] * len(items), ">f4"),
        lambda items: np.array([[1, 2]] * len(items), "f2"),
        lambda items: np.array([[1, 9, 2]] * len(items), "f4")[:, ::2],
        lambda items: [np.array([1, 2], "f4") for _ in items],
        lambda items: [np.array([1, 2], "f4"), [1, 2]][: len(items)],
    ]:
        with subtests.test(ascii(answer)[:60]):
            model = Scripted(answer)
            vectors = [model.embed("a"), *model.embed_multi(["a", "b"])]
            assert vectors == [[1.0, 2.0]] * 3
            assert {type(vector) for vector in vectors} == {list}
            assert {type(value) for vector in vectors for value in vector} == {float}


def test_vectors_come_in_the_order_of_the_items(length):
    """The nth vector is that of the nth item, whatever the batches."""
    words = ["a", "bbbb", "cc", "", "ddd"]
    assert list(length.embed_multi(words, batch_size=2)) == [[len(word), 1] for word in words]


def test_the_same_item_twice_is_two_vectors(length):
    """Nothing is merged at the level of the model."""
    assert list(length.embed_multi(["a", "a"])) == [[1.0, 1.0], [1.0, 1.0]]
    assert length.given == [["a", "a"]]


# How embed_batch is called


def test_embed_passes_a_list_of_one(length):
    """A single item arrives as a list."""
    length.embed("hound")
    assert length.given == [["hound"]]
    assert type(length.given[0]) is list


@pytest.mark.parametrize("batch_size", [None, 1, 2, 100])
def test_embed_batch_is_always_given_a_list(length, batch_size):
    """A generator of items reaches the model as lists, even without a batch size."""
    list(length.embed_multi((word for word in ["a", "b", "c"]), batch_size=batch_size))
    assert {type(items) for items in length.given} == {list}


def test_by_default_everything_is_one_batch(length):
    """Without a batch size of the model's or the caller's there is one call."""
    list(length.embed_multi(str(n) for n in range(1_000)))
    assert [len(items) for items in length.given] == [1_000]


def test_the_models_batch_size_is_used(length):
    """A model's own batch size cuts the items, the last batch being what is left."""
    length.batch_size = 2
    list(length.embed_multi("abcde"))
    assert length.given == [["a", "b"], ["c", "d"], ["e"]]


@pytest.mark.parametrize(("given", "sizes"), [(1, [1] * 5), (4, [4, 1]), (5, [5]), (99, [5])])
def test_batch_size_overrides_the_models(length, given, sizes):
    """The caller's batch size wins over the model's, be it smaller or larger."""
    length.batch_size = 2
    list(length.embed_multi("abcde", batch_size=given))
    assert [len(items) for items in length.given] == sizes


@pytest.mark.parametrize("batch_size", [None, 2])
def test_no_items_are_no_call(length, batch_size):
    """Nothing in, nothing out, and the model is left alone."""
    assert list(length.embed_multi([], batch_size=batch_size)) == []
    assert length.given == []


def test_embed_multi_is_a_lazy_generator(length):
    """Nothing is read and nothing is called before the first vector is asked for."""
    source = Source("abc")
    vectors = length.embed_multi(source, batch_size=2)
    assert isinstance(vectors, types.GeneratorType)
    assert (source.taken, length.given) == (0, [])


def test_embed_multi_reads_a_batch_at_a_time(length):
    """The source is read only as far as the batch goes whose vectors are being yielded."""
    source = Source("abcde")
    vectors = length.embed_multi(source, batch_size=2)
    taken = [source.taken for _ in vectors]
    assert taken == [2, 2, 4, 4, 5]


def test_embed_multi_takes_an_endless_source(length):
    """A source that never ends can be embedded as far as one likes."""
    source = Source(iter(lambda: "again", None))
    vectors = length.embed_multi(source, batch_size=3)
    assert [next(vectors) for _ in range(4)] == [[5.0, 1.0]] * 4
    assert source.taken == 6


def test_an_embed_batch_that_consumes_its_list_is_served():
    """The list belongs to the model, which may pop the items off it."""

    def pop(items: list[str]) -> Iterator[list[float]]:
        while items:
            yield [float(len(items.pop(0))), 1.0]

    model = Scripted(pop)
    assert model.embed("hound") == [5.0, 1.0]
    assert list(model.embed_multi(["a", "bb"])) == [[1.0, 1.0], [2.0, 1.0]]


# Batch sizes that mean nothing


@pytest.mark.parametrize("items", [["a"], []])
def test_a_batch_size_that_means_nothing_is_refused_on_iteration(length, items, subtests):
    """Zero, negatives, booleans and floats are refused, with the value in the message."""
    for bad in BAD_BATCH_SIZES:
        with subtests.test(ascii(bad)[:60]):
            vectors = length.embed_multi(items, batch_size=bad)
            with pytest.raises(ValueError, match="batch_size must be a positive integer") as raised:
                next(vectors)
            assert repr(bad) in str(raised.value)
            assert length.given == []


@pytest.mark.parametrize("bad", BAD_BATCH_SIZES)
def test_a_models_own_batch_size_that_means_nothing_is_refused(length, bad):
    """A model that announces such a batch size is refused as well."""
    length.batch_size = bad
    with pytest.raises(ValueError, match="batch_size must be a positive integer"):
        list(length.embed_multi(["a"]))


# What a model takes


def test_by_default_a_model_takes_text_alone(length):
    """Bytes are refused with the documented message."""
    assert (length.supports_text, length.supports_binary) == (True, False)
    with pytest.raises(InvalidItemError) as raised:
        length.embed(b"\x89PNG")
    assert str(raised.value) == BINARY_REFUSED
    assert length.given == []


def test_a_binary_model_refuses_text(length):
    """Text is refused with the documented message, bytes are embedded."""
    length.supports_text, length.supports_binary = False, True
    with pytest.raises(InvalidItemError) as raised:
        length.embed("text")
    assert str(raised.value) == TEXT_REFUSED
    assert length.embed(b"1234") == [4.0, 1.0]


def test_a_model_may_take_both_in_one_batch(length):
    """Text and bytes go to the model side by side."""
    length.supports_binary = True
    assert list(length.embed_multi(["a", b"bb"])) == [[1.0, 1.0], [2.0, 1.0]]
    assert length.given == [["a", b"bb"]]


def test_a_model_that_takes_nothing_refuses_everything(length):
    """Without text and bytes there is nothing to embed."""
    length.supports_text = False
    for item in ("text", b"bytes"):
        with pytest.raises(InvalidItemError):
            length.embed(item)


@pytest.mark.parametrize("refused", [None, 1, ["a"], bytearray(b"a"), memoryview(b"a"), Path("a")])
def test_what_is_neither_text_nor_bytes_is_refused(length, refused):
    """An item of another type is refused with its type, and never reaches the model."""
    length.supports_binary = True
    for attempt in (lambda: length.embed(refused), lambda: list(length.embed_multi([refused]))):
        with pytest.raises(InvalidItemError, match=type(refused).__name__):
            attempt()
    assert length.given == []


def test_a_refusal_is_a_value_error(length):
    """Callers may catch the built-in that the documented API raises."""
    with pytest.raises(ValueError, match="binary data"):
        length.embed(b"bytes")


def test_items_are_looked_at_on_iteration(length):
    """A bad item is no error until the generator gets to its batch."""
    vectors = length.embed_multi(["a", "b", b"c"], batch_size=2)
    assert [next(vectors), next(vectors)] == [[1.0, 1.0], [1.0, 1.0]]
    with pytest.raises(InvalidItemError) as raised:
        next(vectors)
    assert str(raised.value) == BINARY_REFUSED


def test_a_bad_item_keeps_its_whole_batch_from_the_model(length):
    """No call is spent on a batch that cannot be embedded as a whole."""
    with pytest.raises(InvalidItemError):
        list(length.embed_multi(["a", b"b"]))
    assert length.given == []


# Answers that are wrong


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_vectors_is_refused(count):
    """Too few and too many vectors are an error that names the model and both numbers."""
    model = Scripted(lambda _: [[1.0, 2.0]] * count)
    with pytest.raises(ModelError) as raised:
        list(model.embed_multi(["a", "b"]))
    assert str(raised.value) == f"Model 'scripted' returned {count} vectors for 2 items"


@pytest.mark.parametrize("count", [0, 2])
def test_embed_refuses_what_is_not_one_vector(count):
    """A single item has a single vector."""
    with pytest.raises(ModelError, match=f"returned {count} vectors for 1 items"):
        Scripted(lambda _: [[1.0]] * count).embed("a")


def test_vectors_of_different_lengths_in_a_batch_are_refused():
    """The error names the model and the lengths."""
    model = Scripted(lambda _: [[1.0, 2.0], [1.0, 2.0, 3.0]])
    with pytest.raises(ModelError, match=r"'scripted' .*different lengths.*: 2, 3"):
        list(model.embed_multi(["a", "b"]))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(None, id="None"),
        pytest.param(7, id="number"),
        pytest.param(np.array(1.0), id="0d-array"),
    ],
)
def test_an_answer_that_is_no_collection_of_vectors_is_the_models_error(answer):
    """An embed_batch that forgot to return its vectors is named as the culprit."""
    with pytest.raises(ModelError, match="scripted"):
        Scripted(lambda _: answer).embed("a")


def ending_with(vector: Any) -> Callable[[Sequence[Any]], list[Any]]:
    return lambda items: [[1.0, 2.0], vector][-len(items) :]


def test_a_vector_that_is_none_is_refused(subtests):
    """What is no row of finite numbers is refused; the error tells which it is, and whose."""
    vector: Any
    for vector in [
        [1.0, float("nan")],
        [1.0, float("inf")],
        [1.0, float("-inf")],
        np.array([1.0, np.nan], "f4"),
        np.array([1.0, np.inf], "f4"),
        [1.0, 1e39],
        [1.0, 10**400],
        [],
        np.array([], "f4"),
        None,
        1.0,
        "12",
        b"1234",
        ["1", "2"],
        [1.0, None],
        [[1.0, 2.0]],
        np.array([[1.0, 2.0]]),
        np.array([1 + 2j]),
        np.array(["1"]),
        np.array([None]),
        {"values": [1.0]},
    ]:
        with subtests.test(ascii(vector)[:60]):
            model = Scripted(ending_with(vector))
            with pytest.raises(InvalidVectorError, match=r"vector 0 .*'scripted'"):
                model.embed("a")
            with pytest.raises(InvalidVectorError, match=r"vector 1 .*'scripted'"):
                list(model.embed_multi(["a", "b"]))


def test_no_content_is_in_the_errors_of_a_bad_answer():
    """What was to be embedded may be a secret."""
    for answer in ([], [[float("nan")]] * 2, [[1.0], [1.0, 2.0]], [["x"]] * 2):
        with pytest.raises(EmbeddingsError) as raised:
            list(Scripted(lambda _, a=answer: a).embed_multi(["secret", "secret"]))  # type: ignore[misc]
        assert "secret" not in str(raised.value)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyError("x"), TypeError("y")])
def test_what_a_model_raises_passes_through(error):
    """An exception of embed_batch is the caller's to see, the same object."""

    def fail(_: Any) -> Any:
        raise error

    def fail_late(_: Any) -> Any:
        yield [1.0]
        raise error

    for answer in (fail, fail_late):
        with pytest.raises(type(error)) as raised:
            Scripted(answer).embed("a")
        assert raised.value is error


def test_the_batches_before_a_failure_are_yielded():
    """A generator that fails in its second batch has given the vectors of the first."""
    model = Scripted(lambda items: [[1.0]] * (1 if items == ["a"] else 0))
    vectors = model.embed_multi("ab", batch_size=1)
    assert next(vectors) == [1.0]
    with pytest.raises(ModelError):
        next(vectors)


# The class itself


def test_embed_batch_is_abstract():
    """A model without embed_batch cannot be made."""

    class Nothing(EmbeddingModel):
        model_id = "nothing"

    with pytest.raises(TypeError, match="embed_batch"):
        Nothing()  # type: ignore[abstract]


def test_repr_names_the_model(length):
    """A model shows its class and its id."""
    assert repr(length) == "<Length 'length'>"


def test_a_model_without_an_id_is_refused_for_that(session):
    """A subclass that forgot its model_id is told so by the collection."""

    class Forgetful(EmbeddingModel):
        def embed_batch(self, items: Any) -> Any:
            return [[1.0] for _ in items]

    with pytest.raises(TypeError, match="model= takes a model object"):
        Collection("docs", session, model=Forgetful())


def test_a_model_class_in_place_of_an_object_is_refused(session):
    """A class is not a model, even where it has a model_id and an embed_batch."""
    with pytest.raises(TypeError, match=r"model object, .* not the class Length: make one of it"):
        Collection("docs", session, model=Length)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"model object, .* not str; for a name use model_id="):
        Collection("docs", session, model="length")  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [None, "", 5, b"x"])
def test_a_model_whose_id_is_no_name_is_refused(session, length, bad, monkeypatch):
    """A model_id is a string and not empty, and the application's default does not replace it."""
    monkeypatch.setenv("EMBEDDINGS_MODEL", "local")
    length.model_id = bad
    with pytest.raises((TypeError, ValueError)):
        Collection("docs", session, model=length).embed("a", "text")
    assert Collection.names(session) == []


# Models in a collection


class Duck:
    """Only what the protocol asks for."""

    model_id = "duck"

    def embed_batch(self, items: list[Any], /) -> list[list[float]]:
        assert type(items) is list
        return [[float(len(item)), 1.0] for item in items]


def test_any_object_with_an_id_and_embed_batch_works_in_a_collection(session):
    """A model need not derive from anything."""
    docs = Collection("docs", session, model=Duck())
    docs.embed_multi([("a", "one"), ("b", "three")])
    assert docs.model_id == "duck"
    assert [entry.id for entry in docs.similar("five!")] == ["b", "a"]
    assert docs.prepare("one").vector.tolist() == [3.0, 1.0]


@pytest.mark.parametrize(
    ("candidate", "is_one"),
    [
        pytest.param(Duck(), True, id="duck"),
        pytest.param(Length(), True, id="subclass"),
        pytest.param(types.SimpleNamespace(model_id="x", embed_batch=list), True, id="namespace"),
        pytest.param(types.SimpleNamespace(model_id="x"), False, id="no-embed_batch"),
        pytest.param(types.SimpleNamespace(embed_batch=list), False, id="no-model_id"),
        pytest.param("length", False, id="name"),
        pytest.param(None, False, id="None"),
    ],
)
def test_the_protocol_can_be_asked_for(candidate, is_one):
    """An isinstance() tells whether an object has what a collection needs."""
    assert isinstance(candidate, SupportsEmbedding) is is_one


def test_the_optional_attributes_of_an_object_count(session):
    """batch_size and supports_binary are looked at where an object has them."""

    class Picky(Duck):
        batch_size = 2
        supports_text = False
        supports_binary = True
        sizes: list[int]

        def embed_batch(self, items: list[Any], /) -> list[list[float]]:
            self.sizes.append(len(items))
            return super().embed_batch(items)

    model = Picky()
    model.sizes = []
    docs = Collection("docs", session, model=model)
    docs.embed_multi([(str(n), bytes(n + 1)) for n in range(5)])
    assert model.sizes == [2, 2, 1]
    with pytest.raises(InvalidItemError) as raised:
        docs.embed("text", "text")
    assert str(raised.value) == f"item 'text': {TEXT_REFUSED}"


def test_an_embed_multi_of_an_objects_own_does_not_matter(session):
    """The protocol asks for embed_batch, so another method may have any signature."""

    class Own(Duck):
        def embed_multi(self, texts: list[str]) -> list[list[float]]:
            raise AssertionError(texts)

    docs = Collection("docs", session, model=Own())
    docs.embed("a", "one")
    assert docs.ids() == ["a"]


def test_an_object_keeps_its_own_id_though_it_is_an_alias_of_another_model(session):
    """Aliases are for names: a collection remembers the id of the object it was given."""

    class Mine(Duck):
        model_id = "local"

    docs = Collection("docs", session, model=Mine())
    docs.embed("a", "one")
    assert docs.model_id == "local"


def test_an_object_gets_nowhere_by_an_alias_of_its_name(session):
    """Its vectors do not mix with those of the model for which its id is an alias."""

    class Mine(Duck):
        model_id = "local"

    Collection("docs", session, model_id="local").store_vectors([("a", [1.0, 0.0])])
    with pytest.raises(ModelMismatchError):
        Collection("docs", session, model=Mine()).embed("b", "one")
    assert Collection("docs", session).ids() == ["a"]


@pytest.mark.parametrize("name", ["length", b"length", 5, object()])
def test_a_name_in_place_of_a_model_is_refused(session, name):
    """model= takes objects; the error says where names go."""
    with pytest.raises(TypeError, match="model_id="):
        Collection("docs", session, model=name)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(lambda items: [[1.0, 2.0]] * (len(items) - 1), ModelError, id="too-few"),
        pytest.param(lambda items: [[1.0, 2.0]] * (len(items) + 1), ModelError, id="too-many"),
        pytest.param(
            lambda items: [[1.0] * (n + 1) for n in range(len(items))], ModelError, id="lengths"
        ),
        pytest.param(lambda items: [[float("nan")]] * len(items), InvalidVectorError, id="nan"),
        pytest.param(lambda items: [[]] * len(items), InvalidVectorError, id="empty"),
        pytest.param(lambda _: None, ModelError, id="none"),
    ],
)
def test_nothing_of_a_wrong_answer_is_stored(session, answer, error):
    """A batch that the model got wrong leaves no row, and no collection."""
    docs = Collection("docs", session, model=Scripted(answer))
    with pytest.raises(error):
        docs.embed_multi([("a", "one"), ("b", "two")])
    assert Collection.names(session) == []


def test_an_exception_of_the_model_passes_through_a_collection(session):
    """The collection neither wraps nor swallows it, and goes on working."""
    error = RuntimeError("out of memory")

    def fail_once(items: list[str]) -> list[list[float]]:
        nonlocal error
        if failures.pop():
            raise error
        return [[1.0, 2.0]] * len(items)

    failures = [False, True]
    docs = Collection("docs", session, model=Scripted(fail_once))
    with pytest.raises(RuntimeError) as raised:
        docs.embed("a", "one")
    assert raised.value is error
    docs.embed("a", "one")
    assert docs.ids() == ["a"]


def test_a_model_may_use_one_buffer_for_all_its_answers(session):
    """What was prepared stays as it was when the model overwrites its own memory."""
    buffer = np.zeros((1, 2), np.float32)

    def fill(items: list[str]) -> Any:
        buffer[:] = [[len(items[0]), 1.0]]
        return buffer

    docs = Collection("docs", session, model=Scripted(fill))
    first, second = docs.prepare("one"), docs.prepare("three")
    assert (first.vector.tolist(), second.vector.tolist()) == ([3.0, 1.0], [5.0, 1.0])


# llm's models

llm = pytest.importorskip("llm", reason="llm is an optional neighbour")


class LlmModel(llm.EmbeddingModel):  # type: ignore[misc, name-defined]
    """As llm's documentation shows."""

    model_id = "llm-plain"

    def embed_batch(self, items: Iterable[Any]) -> Iterator[list[float]]:
        return ([float(len(item)), 1.0] for item in items)


class LlmModelWithKey(llm.EmbeddingModel):  # type: ignore[misc, name-defined]
    """As a plugin of a paid service: it asks llm for its key."""

    model_id = "llm-with-key"
    needs_key = "toy"
    key_env_var = "TOY_KEY"
    batch_size = 2

    def __init__(self) -> None:
        self.used: list[tuple[int, str | None]] = []

    def embed_batch(self, items: Iterable[Any]) -> Iterator[list[float]]:
        items = list(items)
        self.used.append((len(items), self.get_key()))
        yield from ([float(len(item)), 1.0] for item in items)


class LlmModelTakingKey(LlmModelWithKey):
    """As newer plugins: the key comes as an argument."""

    model_id = "llm-taking-key"

    def embed_batch(self, items: Iterable[Any], *, key: str | None = None) -> Iterator[list[float]]:
        items = list(items)
        self.used.append((len(items), key))
        return iter([[float(len(item)), 1.0] for item in items])


@pytest.fixture
def no_llm_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of llm's own with no keys in it, and none in the environment."""
    folder = tmp_path / "llm"
    folder.mkdir()
    monkeypatch.setenv("LLM_USER_PATH", str(folder))
    monkeypatch.delenv("TOY_KEY", raising=False)
    return folder


def test_a_model_of_llm_works_in_a_collection(session):
    """The base class of llm is as good as this library's."""
    model = LlmModel()
    docs = Collection("docs", session, model=model)
    docs.embed_multi([("a", "one"), ("b", "three")])
    docs.embed("c", "seventh")
    assert docs.model_id == "llm-plain"
    assert docs.model() is model
    assert [entry.id for entry in docs.similar("sevens!", number=1)] == ["c"]


def test_a_model_of_llm_refuses_bytes_with_the_same_message(session):
    """The check comes before llm's own, and is the same, behind the item's id."""
    docs = Collection("docs", session, model=LlmModel())
    with pytest.raises(InvalidItemError) as raised:
        docs.embed("a", b"bytes")
    assert str(raised.value) == f"item 'a': {BINARY_REFUSED}"


@pytest.mark.parametrize("kind", [LlmModelWithKey, LlmModelTakingKey])
def test_a_model_of_llm_finds_its_key_in_the_environment(session, kind, no_llm_keys, monkeypatch):
    """key_env_var of the model is looked at, once a batch, and batch_size holds."""
    monkeypatch.setenv("TOY_KEY", "from-environment")
    model = kind()
    docs = Collection("docs", session, model=model)
    docs.embed_multi([(str(n), "x" * (n + 1)) for n in range(3)])
    docs.similar("xxxx")
    assert model.used == [(2, "from-environment"), (1, "from-environment"), (1, "from-environment")]


@pytest.mark.parametrize("kind", [LlmModelWithKey, LlmModelTakingKey])
def test_a_model_of_llm_finds_its_key_in_llms_own_file(session, kind, no_llm_keys):
    """A key that `llm keys set` stored is used."""
    (no_llm_keys / "keys.json").write_text('{"toy": "from-file"}')
    model = kind()
    Collection("docs", session, model=model).embed("a", "one")
    assert model.used == [(1, "from-file")]


@pytest.mark.parametrize("kind", [LlmModelWithKey, LlmModelTakingKey])
def test_a_model_of_llm_uses_the_key_it_was_given(session, kind, no_llm_keys, monkeypatch):
    """A key set on the object goes before all others."""
    monkeypatch.setenv("TOY_KEY", "from-environment")
    model = kind()
    model.key = "from-object"
    Collection("docs", session, model=model).embed("a", "one")
    assert model.used == [(1, "from-object")]


@pytest.mark.parametrize("kind", [LlmModelWithKey, LlmModelTakingKey])
def test_a_model_of_llm_without_its_key_says_so(session: Session, kind: Any, no_llm_keys: Path):
    """The exception of llm passes through, and nothing is stored."""
    model = kind()
    with pytest.raises(llm.NeedsKeyException, match="TOY_KEY"):
        Collection("docs", session, model=model).embed("a", "one")
    assert model.used == []
    assert Collection.names(session) == []

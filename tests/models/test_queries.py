"""Queries: their own prefix or method, and vectors that are paid once."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from embeddings import AsyncCollection, Collection, EmbeddingModel, InvalidVectorError, cached
from embeddings.models.queries import QueryVectors
from embeddings.testing import DeterministicModel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sqlalchemy.orm import Session

TEXTS = {"a": "the hound", "b": "the cat"}


class Prefixed(DeterministicModel):
    """A model that wants other words for queries."""

    query_prefix = "query: "
    document_prefix = "passage: "


class OwnQueries(DeterministicModel):
    """A model that has a method for queries."""

    document_prefix = "passage: "

    def __init__(self) -> None:
        super().__init__()
        self.queries: list[list[Any]] = []

    def embed_queries(self, items: Sequence[Any]) -> list[Any]:
        self.queries.append(list(items))
        return super().embed_batch(items)


SEARCHES = {
    "similar": lambda docs: docs.similar("hound"),
    "similar_multi": lambda docs: docs.similar_multi(["hound"]),
    "matches": lambda docs: docs.matches("hound"),
    "embed_query": lambda docs: docs.embed_query("hound"),
}


def of(docs: Collection[Any], name: str) -> Any:
    if name == "similar_multi" and not hasattr(docs, "similar_multi"):
        pytest.skip("there is none")
    return SEARCHES[name](docs)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_is_a_query(session: Session, name: str):
    """What is searched for has the prefix of queries."""
    model = Prefixed()
    docs = Collection("docs", session, model=model)
    docs.embed("a", TEXTS["a"])
    del model.calls[:]
    of(docs, name)
    assert model.calls == [["query: hound"]]


@pytest.mark.parametrize("name", SEARCHES)
def test_a_method_for_queries_is_called(session: Session, name: str):
    """With the query as it is."""
    model = OwnQueries()
    docs = Collection("docs", session, model=model)
    docs.embed("a", TEXTS["a"])
    of(docs, name)
    assert model.queries == [["hound"]]


def test_what_is_stored_is_a_document(session: Session):
    """By every way to write, and the content is stored as it was given."""
    model = Prefixed()
    docs = Collection("docs", session, model=model)
    docs.embed("a", "one", store=True)
    docs.embed_multi([("b", "two")])
    docs.embed("c", docs.prepare("three"))
    plan = docs.plan([("d", "four")])
    assert plan.contents == ["passage: four"]
    plan.embed()
    docs.apply(plan)
    assert model.calls == [[f"passage: {word}"] for word in ("one", "two", "three", "four")]
    record = docs.get("a")
    assert record is not None
    assert record.content == "one"


def test_the_hash_is_of_what_the_model_was_given(session: Session):
    """With the prefix of documents: another prefix is another content."""
    docs = Collection("docs", session, model=Prefixed())
    docs.embed("a", "one")
    record = docs.get("a")
    assert record is not None
    expected = hashlib.md5(b"passage: one", usedforsecurity=False).digest()
    assert record.content_hash == expected

    again = Prefixed()
    Collection("docs", session, model=again).embed("a", "one")
    assert again.calls == []
    other = DeterministicModel()
    Collection("docs", session, model=other).embed("a", "one")
    assert other.calls == [["one"]]


def test_a_prepared_text_is_recognised(session: Session):
    """The model is not called again for it."""
    model = Prefixed()
    docs = Collection("docs", session, model=model)
    docs.embed("a", docs.prepare("one"))
    docs.embed("a", "one")
    docs.embed("b", "one")
    assert model.calls == [["passage: one"]]


def test_bytes_have_no_prefix(session: Session):
    """Only texts do."""
    model = Prefixed(supports_binary=True)
    docs = Collection("docs", session, model=model)
    docs.embed("a", b"bytes")
    assert model.calls == [[b"bytes"]]


def test_a_model_by_itself_embeds_documents():
    """So that its vectors are those that a collection stores."""
    model = Prefixed()
    model.embed("one")
    list(model.embed_multi(["two"]))
    assert model.calls == [["passage: one"], ["passage: two"]]


@pytest.mark.parametrize("kind", [Prefixed, OwnQueries])
def test_the_same_when_awaited(kind: type[Any]):
    """Documents and queries keep their words."""
    model = kind()

    async def main() -> None:
        async with AsyncCollection[Any]("docs", model=model) as docs:
            await docs.embed("a", "one")
            await docs.similar("hound")

    asyncio.run(main())
    assert model.calls[0] == ["passage: one"]
    assert model.calls[1:] == ([["query: hound"]] if kind is Prefixed else [["hound"]])


def write_and_ask(model: EmbeddingModel, *, is_async: bool) -> None:
    """Embed "one", and search for "hound"."""

    async def main() -> None:
        async with AsyncCollection[Any]("docs", model=model) as docs:
            await docs.embed("a", "one")
            await docs.similar("hound")

    if is_async:
        asyncio.run(main())
    else:
        docs = Collection("docs", model=model)
        docs.embed("a", "one")
        docs.similar("hound")


@pytest.mark.parametrize("is_async", [False, True])
def test_prefixes_and_fields_of_a_services_model(service, open_model, is_async: bool):
    """They are arguments; queries may have other fields in the request too."""
    model = open_model(
        query_prefix="query: ",
        document_prefix="passage: ",
        extra_body={"input_type": "passage"},
        query_extra_body={"input_type": "query"},
    )

    write_and_ask(model, is_async=is_async)
    sent = [(r.body["input"], r.body["input_type"]) for r in service.requests]
    assert sent == [(["passage: one"], "passage"), (["query: hound"], "query")]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_subclass_that_overrides_one_method_is_asked(is_async: bool):
    """What it inherits beside that does not go before it."""

    class Inherited(OwnQueries):
        async def aembed_batch(self, items: Sequence[Any]) -> list[Any]:
            raise AssertionError

        async def aembed_queries(self, items: Sequence[Any]) -> list[Any]:
            raise AssertionError

    class Overridden(Inherited):
        query_prefix = "query: "

        def embed_batch(self, items: Sequence[Any]) -> list[Any]:
            return super().embed_batch(items)

    model = Overridden()

    write_and_ask(model, is_async=is_async)
    assert model.calls == [["passage: one"], ["query: hound"]]
    assert model.queries == []


# Paid once


class Counting(EmbeddingModel):
    """A model that counts its calls."""

    model_id = "counting"

    def __init__(self) -> None:
        self.calls: list[list[Any]] = []

    def embed_batch(self, items: Sequence[Any]) -> list[list[float]]:
        self.calls.append(list(items))
        return [[float(len(item)), 1.0] for item in items]


def test_page_2_of_a_search_costs_nothing(session: Session):
    """The vector of a query is kept with the model object."""
    model = Counting()
    docs = Collection("docs", session, model=model)
    docs.embed_multi(TEXTS.items())
    del model.calls[:]
    first = docs.similar("hound", number=1)
    second = docs.similar("hound", number=1, offset=1)
    assert {first[0].id, second[0].id} == {"a", "b"}
    Collection("docs", session, model=model).embed_query("hound")
    assert model.calls == [["hound"]]


def test_a_kept_vector_is_not_the_callers_to_change(session: Session):
    """Each gets a copy."""
    docs = Collection("docs", session, model=Counting())
    docs.embed_query("hound")[:] = 0
    docs.embed_query("hound")[:] = 0
    assert docs.embed_query("hound").tolist() == [5.0, 1.0]


def test_what_is_stored_is_not_kept(session: Session):
    """The database has it; and a document may have another vector than a query."""
    model = Counting()
    docs = Collection("docs", session, model=model)
    docs.embed("a", "hound")
    docs.embed_query("hound")
    docs.embed("b", "hound", force=True)
    assert model.calls == [["hound"]] * 3


def test_another_model_object_has_its_own(session: Session):
    """Also one of the same id."""
    one, other = Counting(), Counting()
    Collection("docs", session, model=one).embed_query("hound")
    Collection("docs", session, model=other).embed_query("hound")
    assert len(one.calls) == len(other.calls) == 1


def test_the_latest_thousand_are_kept(session: Session):
    """Those that were used least lately go."""
    model = Counting()
    docs = Collection("docs", session, model=model)
    for number in range(1000):
        docs.embed_query(f"query {number}")
    docs.embed_query("query 0")
    docs.embed_query("one more")
    del model.calls[:]
    docs.embed_query("query 0")
    docs.embed_query("query 1")
    assert model.calls == [["query 1"]]


def test_how_many_are_kept_is_the_models_to_say(session: Session):
    """0 for none."""

    class Forgetful(Counting):
        query_cache = 0

    model = Forgetful()
    docs = Collection("docs", session, model=model)
    docs.embed_query("hound")
    docs.embed_query("hound")
    assert len(model.calls) == 2


def test_a_failure_is_not_kept(session: Session):
    """The next one asks again."""

    class Failing(Counting):
        def embed_batch(self, items: Sequence[Any]) -> list[list[float]]:
            super().embed_batch(items)
            if len(self.calls) == 1:
                raise OSError("no network")
            return [[1.0] for _ in items]

    docs = Collection("docs", session, model=Failing())
    with pytest.raises(OSError, match="no network"):
        docs.embed_query("hound")
    assert docs.embed_query("hound").tolist() == [1.0]


def test_a_model_that_cannot_be_kept_is_asked_each_time():
    """One without weak references, or without a hash."""

    class Slotted:
        __slots__ = ()
        model_id = "slotted"

        def embed_batch(self, items: list[Any]) -> list[list[float]]:
            return [[1.0] for _ in items]

    kept, model = QueryVectors(), Slotted()
    kept.keep(model, {})
    assert kept.get(model, ["hound"]) == {}


class Unsteady(Prefixed):
    """A model whose service answers with vectors of another length for a while."""

    is_wrong = False

    def embed_batch(self, items: Sequence[Any]) -> list[Any]:
        made = super().embed_batch(items)
        return [vector[:3] for vector in made] if self.is_wrong else made


@pytest.mark.parametrize("name", ["similar", "similar_multi"])
@pytest.mark.parametrize("is_cached", [False, True], ids=["plain", "cached"])
def test_a_vector_of_another_length_is_not_kept(
    session: Session, tmp_path: Path, name: str, is_cached: bool
):
    """When the service is right again, so are the same question and the same text."""
    model = Unsteady()
    docs = Collection(
        "docs", session, model=cached(model, tmp_path / "paid.db") if is_cached else model
    )
    docs.embed("a", "the hound")
    model.is_wrong = True
    with pytest.raises(InvalidVectorError):
        of(docs, name)
    with pytest.raises(InvalidVectorError):
        docs.embed("b", "the cat")
    model.is_wrong = False
    assert of(docs, name)
    docs.embed("b", "the cat")
    assert docs.count() == 2

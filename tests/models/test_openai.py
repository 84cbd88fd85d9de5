"""OpenAI's models, against a real HTTP server on this machine that answers as each test says."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import json
import logging
import os
import socket
import textwrap
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import embeddings
from embeddings import (
    AsyncCollection,
    Collection,
    EmbeddingsError,
    InvalidItemError,
    InvalidVectorError,
    MissingExtraError,
    ModelError,
)
from embeddings.models.openai import OpenAIEmbeddingModel
from tests.forked import MODELS, python
from tests.provider import (
    KEY,
    SECRETS,
    Answer,
    answered,
    body,
    changed,
    cut_short,
    embedding,
    entries,
    error,
    hang_up,
    index,
    keep_waiting,
    packed,
    reset,
    right,
    shown,
    vector_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

pytest.importorskip("openai", reason="the extra is not installed")
pytestmark = pytest.mark.once

ROOT = Path(embeddings.__file__).parents[1]
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def docs(session: Session, open_model: Callable[..., Any]) -> Collection[str]:
    """A collection of the service's model, with nothing in it."""
    return Collection("docs", session, model=open_model())


def stored(docs: Collection[str]) -> dict[str, list[float]]:
    """Return every vector of a collection by its id."""
    return {record.id: record.embedding.tolist() for record in docs}


def fresh(code: str, *folders: Path, **environment: str) -> Any:
    """Run code in a new interpreter, and return the JSON of its `result`."""
    source = ["from embeddings import *", textwrap.dedent(code)]
    source += ["import json", "print(json.dumps(result))"]
    done = python(
        "-c",
        "\n".join(source),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*folders, ROOT]))} | environment,
        modules=() if folders else MODELS,  # which stands in one of the folders, too
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# The request


def test_a_request_is_what_the_service_expects(service, open_model):
    """One POST to /embeddings under the base URL, with the key, the model and the texts."""
    open_model("text-embedding-3-small").embed("my happy hound")
    request = service.requests.pop()
    assert service.requests == []
    assert request[:3] == ("POST", "/v1/embeddings", f"Bearer {KEY}")
    assert request.body == {
        "model": "text-embedding-3-small",
        "input": ["my happy hound"],
        "encoding_format": "base64",
    }


def test_api_name_and_dimensions_are_sent(service, open_model):
    """The service is asked for its own name of the model and for a number of dimensions."""
    model = open_model("mine", api_name="text-embedding-3-large", dimensions=4)
    assert model.model_id == "mine"
    model.embed("hound")
    assert service.requests[0].body["model"] == "text-embedding-3-large"
    assert service.requests[0].body["dimensions"] == 4


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_base_url_may_end_in_a_slash(service, open_model, slash):
    """The path is the same with it and without."""
    open_model(base_url=service.base_url + slash).embed("hound")
    assert service.requests[0].path == "/v1/embeddings"


def test_each_built_in_model_asks_for_its_dimensions(service):
    """Only the sized models send dimensions, under the name of the model that they shorten."""
    names = ["ada", "3-small", "3-large", "3-small-512", "3-large-256", "3-large-1024"]
    fresh(
        f"result = [get_embedding_model(name).embed('hound') for name in {names}]",
        OPENAI_API_KEY=KEY,
        OPENAI_BASE_URL=service.base_url,
    )
    sent = [(request.body["model"], request.body.get("dimensions")) for request in service.requests]
    assert sent == [
        ("text-embedding-ada-002", None),
        ("text-embedding-3-small", None),
        ("text-embedding-3-large", None),
        ("text-embedding-3-small", 512),
        ("text-embedding-3-large", 256),
        ("text-embedding-3-large", 1024),
    ]
    assert {"dimensions" in request.body for request in service.requests[:3]} == {False}


def test_texts_are_sent_as_they_are(service, open_model):
    """Neither line ends nor other scripts nor blanks are changed."""
    texts = ["a\nb\r\n", " ", "Grüße, 世界 🎉", "\x00", '"\\']
    open_model().embed_batch(texts)
    assert service.requests[0].body["input"] == texts


def test_through_a_collection_a_request_holds_100_texts(service, docs):
    """250 new texts are three requests."""
    docs.embed_multi((str(number), f"text {number}") for number in range(250))
    assert [len(request.body["input"]) for request in service.requests] == [100, 100, 50]
    assert docs.count() == 250


@pytest.mark.parametrize("batch_size", [2, 300])
def test_batch_size_is_the_most_texts_in_a_request(service, session, open_model, batch_size):
    """The model's own batch size is the limit, of embed_multi and of a collection."""
    texts = [f"text {number}" for number in range(5)]
    model = open_model(batch_size=batch_size)
    assert list(model.embed_multi(texts)) == [vector_of(text) for text in texts]
    Collection("docs", session, model=model).embed_multi(enumerate(texts), batch_size=300)
    sizes = [2, 2, 1] if batch_size == 2 else [5]
    assert [len(request.body["input"]) for request in service.requests] == sizes * 2


# The answer


def test_vectors_packed_in_base64_are_unpacked(docs, open_model):
    """The floats are those that were packed, also in the database."""
    assert open_model().embed("hound") == vector_of("hound")
    docs.embed("a", "hound")
    assert stored(docs) == {"a": vector_of("hound")}


def test_vectors_as_numbers_are_taken(service, open_model):
    """A service that does not know base64 answers with lists of numbers."""
    service.script = [changed(lambda data: [e | {"embedding": [1, 2.5, -3]} for e in data])]
    assert list(open_model().embed_multi(["a", "b"])) == [[1.0, 2.5, -3.0]] * 2


def test_an_answer_out_of_order_is_put_in_order(service, docs):
    """Vectors go by their number, not by their place."""
    service.script = [changed(lambda data: data[::-1]), changed(lambda data: data[2:] + data[:2])]
    texts = {"a": "one", "b": "three", "c": "fifteen"}
    docs.embed_multi(list(texts.items()))
    assert stored(docs) == {id: vector_of(text) for id, text in texts.items()}
    assert list(docs.model().embed_multi(["xx", "y", "zzz"])) == [
        vector_of(text) for text in ("xx", "y", "zzz")
    ]


def test_unknown_fields_do_not_matter(service, open_model):
    """A compatible service may leave out usage and add fields of its own."""
    service.script = [
        lambda handler, request: handler.send(
            json.dumps({"data": [e | {"x": 1} for e in entries(request)], "took": 3}).encode()
        )
    ]
    assert open_model().embed("hound") == vector_of("hound")


def test_threads_may_share_a_model(service, open_model):
    """Every thread gets the vector of its own text."""
    model = open_model()
    texts = [f"{'x' * n}" for n in range(1, 41)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(model.embed, texts)) == [vector_of(text) for text in texts]


def test_a_model_that_nobody_uses_any_more_closes_its_connections(service, open_model):
    """A connection that the service keeps open is closed with the model."""
    service.keeps_alive = True
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        open_model().embed("hound")
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.parametrize("called_before", [False, True])
def test_a_fork_while_another_thread_connects(service, monkeypatch, called_before):
    """The child waits for no thread of the parent, and opens a connection of its own."""
    service.keeps_alive = True
    connections: list[Any] = []

    def verify_request(_: Any, address: Any) -> bool:
        connections.append(address)
        return True

    monkeypatch.setattr(service, "verify_request", verify_request)
    code = f"""
        import os, signal, threading

        import openai
        from embeddings.models.openai import OpenAIEmbeddingModel

        model, connecting = OpenAIEmbeddingModel("toy"), OpenAIEmbeddingModel("toy")
        entered, parent, client = threading.Event(), os.getpid(), openai.OpenAI

        def slow(**options):
            if os.getpid() == parent and threading.current_thread() is not threading.main_thread():
                entered.set()
                threading.Event().wait()
            return client(**options)

        openai.OpenAI = slow
        if {called_before}:
            model.embed("hound")
        threading.Thread(target=connecting.embed, args=["hound"], daemon=True).start()
        entered.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            status = 1
            try:
                expected = {vector_of("cat")}
                assert model.embed("cat") == connecting.embed("cat") == expected
                status = 0
            finally:
                os._exit(status)
        result = [os.waitpid(child, 0)[1], model.embed("hound")]
    """
    made = fresh(code, OPENAI_API_KEY=KEY, OPENAI_BASE_URL=service.base_url)
    assert made == [0, vector_of("hound")]
    assert len(connections) == 3


# asyncio


def test_the_requests_of_a_model_that_is_awaited(service, open_model):
    """They are those of the other face, in the model's batches."""
    model = open_model(batch_size=2, api_name="toy-1", dimensions=4)

    async def main() -> list[Any]:
        async with AsyncCollection[Any]("docs", model=model) as docs:
            await docs.embed_multi([(str(n), f"text {n}") for n in range(5)], batch_size=3)
            found = [(record.id, record.embedding.tolist()) async for record in docs]
            assert await docs.similar("text 1", number=1)
            return found

    assert asyncio.run(main()) == [(str(n), vector_of(f"text {n}")) for n in range(5)]
    bodies = [request.body for request in service.requests]
    assert [body["input"] for body in bodies] == [
        ["text 0", "text 1"], ["text 2", "text 3"], ["text 4"], ["text 1"]
    ]  # fmt: skip
    assert {body["dimensions"] for body in bodies} == {4}
    assert service.requests[0].authorization == f"Bearer {KEY}"


@pytest.mark.parametrize("is_closed", [True, False])
def test_connections_of_an_event_loop_are_closed_with_it(service, open_model, is_closed):
    """By `aclose`, or by the end of the loop; another loop opens its own."""
    service.keeps_alive = True
    model = open_model()

    async def main() -> None:
        for text in ("hound", "cats"):
            (vector,) = await model.aembed_batch([text])
            assert list(vector) == vector_of(text)
            if is_closed:
                await model.aclose()
        if is_closed:
            await model.aclose()  # nothing is open

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            asyncio.run(main())
            gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_closed_event_loops_are_let_go_of(service, open_model):
    """Of many loops, one for each request of an application, the last one's client is left."""
    service.keeps_alive = True
    model = open_model()
    loops: weakref.WeakSet[Any] = weakref.WeakSet()

    async def main() -> None:
        loops.add(asyncio.get_running_loop())
        await model.aembed_batch(["hound"])

    for _ in range(4):
        asyncio.run(main())
    gc.collect()
    assert len(loops) <= 1


@pytest.mark.parametrize("is_session", [True, False])
def test_a_call_that_is_cancelled_leaves_nothing(service, open_model, tmp_path, is_session):
    """The service is not waited for; the collection, its session and the model go on."""
    model = open_model(batch_size=2)
    items = [(str(number), f"text {number}") for number in range(4)]

    async def main() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'app.db'}")
        async with engine.begin() as connection:
            await connection.run_sync(embeddings.migrate)
        async with AsyncSession(engine) as session:
            docs: AsyncCollection[Any] = AsyncCollection(
                "docs", session if is_session else engine, model=model
            )
            service.script = [right, keep_waiting]
            task = asyncio.create_task(docs.embed_multi(items))
            while len(service.requests) < 2:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await docs.ids() == ["0", "1"]
            await session.rollback()
            await docs.embed_multi(items)
            await session.commit()
            assert await docs.ids() == ["0", "1", "2", "3"]
        await engine.dispose()

    asyncio.run(main())


@pytest.mark.parametrize(
    "name", ["401", "short-list", "hang-up", "html", "code-that-repeats-a-text"]
)
def test_a_fault_of_the_service_is_the_same_error_when_awaited(service, open_model, name):
    """With the same words, which show no secret."""
    model = open_model()

    async def main() -> str:
        with pytest.raises(ModelError) as raised:
            await model.aembed_batch(list(SECRETS))
        assert [secret for secret in (KEY, *SECRETS) if secret in shown(raised.value)] == []
        return str(raised.value)

    service.script = [MODEL_FAULTS[name]] * 50
    awaited = asyncio.run(main())
    service.script = [MODEL_FAULTS[name]] * 50
    with pytest.raises(ModelError) as called:
        model.embed_batch(list(SECRETS))
    assert awaited == str(called.value)


# Key and address


def test_key_and_address_come_from_the_environment(service, monkeypatch):
    """They are looked at when the model is first called, not when it is made."""
    model = OpenAIEmbeddingModel("toy", max_retries=0)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-environment")
    monkeypatch.setenv("OPENAI_BASE_URL", service.base_url)
    assert model.embed("hound") == vector_of("hound")
    assert service.requests[0].authorization == "Bearer sk-from-environment"


def test_arguments_go_before_the_environment(service, open_model, monkeypatch):
    """What the application says wins."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-environment")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/nobody")
    open_model().embed("hound")
    assert service.requests[0].authorization == f"Bearer {KEY}"


@pytest.mark.parametrize("key", [None, ""])
def test_a_missing_key_says_what_to_set(service, session, open_model, monkeypatch, key):
    """Without a key, or with an empty one, nothing is requested and nothing stored."""
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    docs = Collection("docs", session, model=open_model(api_key=None))
    with pytest.raises(ModelError, match=r"'toy'.*OPENAI_API_KEY.*api_key="):
        docs.embed("a", "hound")
    assert service.requests == []
    assert Collection.names(session) == []


def test_a_key_that_was_missing_may_be_set_later(open_model, monkeypatch):
    """The failure is not remembered."""
    model = open_model(api_key=None)
    with pytest.raises(ModelError):
        model.embed("hound")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert model.embed("hound") == vector_of("hound")


def test_a_refused_key_says_what_to_set(service, open_model):
    """The service's 401 comes with the advice too."""
    service.script = [error(401, "invalid_api_key")]
    with pytest.raises(ModelError, match=r"HTTP 401.*OPENAI_API_KEY"):
        open_model().embed("hound")


@pytest.mark.parametrize("key", [KEY + "\n", f"{KEY} ü", f"{KEY}\r\nX-Evil: 1"])
def test_a_key_that_cannot_be_sent_is_not_shown(service, open_model, key):
    """A key read from a file with its line end, say, is refused without repeating it."""
    with pytest.raises(ModelError) as raised:
        open_model(api_key=key).embed("hound")
    assert KEY not in shown(raised.value)
    assert service.requests == []


@pytest.mark.parametrize(
    "base_url",
    ["http://127.0.0.1:port/v1", "http://[::1/v1", "127.0.0.1/v1", "ftp://127.0.0.1/v1", "\x00"],
)
def test_a_malformed_address_is_the_models_error(open_model, base_url):
    """A mistyped base URL is no other exception than a service that fails."""
    with pytest.raises(ModelError, match="'toy'"):
        open_model(base_url=base_url).embed("hound")


def test_nobody_at_the_address_is_the_models_error(open_model):
    """A refused connection is no other exception than a service that fails."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(ModelError, match=r"'toy'.*APIConnectionError"):
            open_model(base_url=address).embed("hound")


# What is refused before any request


@pytest.mark.parametrize("texts", [[""], ["a", "", "b"], ["a", "b", ""]])
def test_an_empty_text_is_refused_before_any_request(service, docs, texts):
    """The service would refuse the whole batch; the error tells which text it is."""
    with pytest.raises(InvalidItemError, match=f"{texts.index('')}.*is empty.*'toy'"):
        list(docs.model().embed_multi(texts))
    with pytest.raises(InvalidItemError, match=r"is empty.*'toy'.*id 'the empty one'") as raised:
        docs.embed_multi((text or "the empty one", text) for text in texts)
    assert raised.value.ids == ("the empty one",)
    assert service.requests == []
    assert docs.count() == 0


def test_bytes_are_refused_before_any_request(service, docs):
    """The models take text alone."""
    with pytest.raises(InvalidItemError, match="does not support binary data"):
        docs.embed("a", b"bytes")
    assert service.requests == []


# Trying again


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(error(500), id="500"),
        pytest.param(error(503), id="503"),
        pytest.param(error(429, "rate_limit_exceeded"), id="429"),
        pytest.param(error(429, "rate_limit_exceeded", retry_after_ms="1"), id="429-retry-after"),
        pytest.param(reset, id="reset"),
        pytest.param(hang_up, id="hang-up"),
    ],
)
def test_a_passing_failure_is_tried_again(service, session, open_model, failure):
    """One failure and then success is a success, of one row."""
    service.script = [failure]
    docs = Collection("docs", session, model=open_model(max_retries=1))
    docs.embed("a", "hound")
    assert len(service.requests) == 2
    assert stored(docs) == {"a": vector_of("hound")}


@pytest.mark.parametrize("retries", [0, 1])
def test_retries_come_to_an_end(service, open_model, retries):
    """A failure that stays is an error after as many requests as were allowed."""
    service.script = [error(500, retry_after_ms="1")] * 5
    with pytest.raises(ModelError, match="HTTP 500"):
        open_model(max_retries=retries).embed("hound")
    assert len(service.requests) == 1 + retries


def test_an_exhausted_quota_is_not_tried_again(service, open_model):
    """It cannot pass, so there is exactly one request, and the error names the quota."""
    service.script = [error(429, "insufficient_quota", retry_after_ms="1")] * 3
    with pytest.raises(ModelError, match=r"HTTP 429.*insufficient_quota"):
        open_model(max_retries=2).embed("hound")
    assert len(service.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_lasting_failure_is_not_tried_again(service, open_model, status):
    """What the service refuses for good is asked for once."""
    service.script = [error(status)] * 3
    with pytest.raises(ModelError, match=f"HTTP {status}"):
        open_model(max_retries=2).embed("hound")
    assert len(service.requests) == 1


# Faults of the service

MODEL_FAULTS: dict[str, Answer] = {
    "short-list": changed(lambda data: data[:1]),
    "long-list": changed(lambda data: [*data, data[1] | {"index": 2}]),
    "long-list-with-a-duplicate": changed(lambda data: [*data, data[1]]),
    "empty-list": changed(lambda data: []),
    "duplicated-index": index(1, of=0),
    "index-out-of-range": index(2),
    "negative-index": index(-1),
    "index-null": index(None),
    "index-as-a-word": index("one"),
    "index-as-a-fraction": index(1.0),
    "index-as-a-truth": index(True),
    "index-as-list": index([1]),
    "index-that-repeats-a-text": index(SECRETS[0]),
    "no-index": changed(lambda data: data[1].pop("index") and None),
    "no-data": body({"object": "list", "model": "toy"}),
    "data-null": body(answered(None)),
    "data-of-nulls": changed(lambda data: [None, None]),
    "data-a-number": body(answered(7)),
    "data-a-text": body(answered(SECRETS[0])),
    "data-a-dict": body(answered({"0": [1.0]})),
    "embedding-of-garbage": embedding("not base64! " + SECRETS[0]),
    "embedding-of-wrong-length": embedding(base64.b64encode(b"12345").decode()),
    "embedding-of-cut-base64": embedding(packed(1.0, 2.0, 3.0, 4.0)[:-3]),
    "truncated-json": body(b'{"data": [{"index": 0, "embedding": [0.1, 0.'),
    "half-an-answer": cut_short,
    "html": body(b"<html><body>Bad gateway</body></html>", kind="text/html"),
    "html-called-json": body(b"<html><body>Bad gateway</body></html>"),
    "json-list": body([1, 2]),
    "json-text": body("nothing"),
    "json-null": body(None),
    "deep-json": body(b'{"data": ' + b"[" * 100_000),
    "empty-answer": body(b""),
    "error-called-success": body({"error": {"message": KEY, "code": "oops"}}),
    "invalid-utf-8": body(b'{"data": "\xff\xfe"}'),
    "not-gzip": body(b"not gzip at all", content_encoding="gzip"),
    "endless-redirect": body(b"", 307, location="/v1/embeddings"),
    "400": error(400),
    "401": error(401, "invalid_api_key"),
    "403": error(403),
    "404": error(404, "model_not_found"),
    "413": body(b"<html>too large</html>", 413, kind="text/html"),
    "429-quota": error(429, "insufficient_quota"),
    "429-rate": error(429, "rate_limit_exceeded"),
    "500": error(500),
    "503": body(b"unavailable", 503, kind="text/plain"),
    "code-that-repeats-a-text": error(400, SECRETS[0]),
    "code-that-repeats-the-key": error(401, KEY),
    "code-a-number": error(400, 7),
    "code-a-list": error(400, [SECRETS[0]]),
    "code-a-dict": error(400, {KEY: SECRETS[0]}),
    "error-a-text": body({"error": KEY}, 400),
    "error-a-list": body([{"error": {"message": KEY, "code": SECRETS[0]}}], 400),
    "error-not-gzip": body(b"insufficient_quota", 429, content_encoding="gzip"),
    "hang-up": hang_up,
    "reset": reset,
    "time-out": keep_waiting,
}
VECTOR_FAULTS: dict[str, Answer] = {
    "embedding-null": embedding(None),
    "embedding-a-number": embedding(1.5),
    "embedding-a-dict": embedding({"0": 1.0}),
    "embedding-of-texts": embedding([SECRETS[0]] * 4),
    "embedding-of-nulls": embedding([None] * 4),
    "embedding-of-lists": embedding([[1.0, 2.0, 3.0, 4.0]]),
    "embedding-of-huge-integers": embedding([10**400] * 4),
    "empty-embedding": embedding([]),
    "empty-base64": embedding(""),
    "nan-in-base64": embedding(packed(1.0, NAN, 2.0, 3.0)),
    "infinity-in-base64": embedding(packed(1.0, INF, 2.0, 3.0)),
    "nan-in-json": embedding([1.0, NAN, 2.0, 3.0]),
    "more-than-float32": embedding([1.0, 1e300, 2.0, 3.0]),
    "mixed-lengths": embedding(packed(1.0, 2.0, 3.0)),
    "wrong-dimensions": changed(
        lambda data: [e | {"embedding": packed(1.0, 2.0, 3.0)} for e in data]
    ),
}
FAULTS = [pytest.param(answer, ModelError, id=name) for name, answer in MODEL_FAULTS.items()] + [
    pytest.param(answer, (InvalidVectorError, ModelError), id=name)
    for name, answer in VECTOR_FAULTS.items()
]


@pytest.mark.parametrize(("fault", "expected"), FAULTS)
def test_a_fault_of_the_service_is_typed_stores_nothing_and_shows_no_secret(
    service, session, open_model, caplog, fault, expected
):
    """Whatever the service answers, the collection is as before and works afterwards."""
    caplog.set_level(logging.DEBUG)
    model = open_model(timeout=2.0 if fault is keep_waiting else 10.0)
    docs = Collection("docs", session, model=model)
    docs.embed("before", "a text from before")
    before = stored(docs)
    service.script = [fault] * 50  # each half of a refused batch is refused too
    with pytest.raises(EmbeddingsError) as raised:
        docs.embed_multi([("a", SECRETS[0]), ("b", SECRETS[1])])
    assert isinstance(raised.value, expected)
    assert stored(docs) == before
    told = shown(raised.value)
    assert [secret for secret in (KEY, *SECRETS) if secret in told] == []
    assert KEY not in caplog.text
    assert KEY not in repr(model)

    service.script = []
    docs.embed_multi([("a", SECRETS[0]), ("b", SECRETS[1])])
    assert stored(docs) == before | {"a": vector_of(SECRETS[0]), "b": vector_of(SECRETS[1])}
    assert docs.similar("a text from before", number=1)[0].id == "before"


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", ""])
def test_an_answer_of_the_wrong_content_type_is_right_or_refused(service, docs, kind):
    """The right vectors under a wrong name are taken as they are, or not at all."""
    service.script = [
        lambda handler, request: handler.send(
            json.dumps(answered(entries(request))).encode(), kind=kind
        )
    ]
    with contextlib.suppress(ModelError):
        docs.embed("a", "hound")
    assert stored(docs) in ({}, {"a": vector_of("hound")})


def test_a_first_batch_with_a_fault_creates_no_collection(service, session, docs):
    """Nothing is left of a collection whose first answer was wrong."""
    service.script = [MODEL_FAULTS["short-list"]]
    with pytest.raises(ModelError, match=r"'toy' answered 2 texts with 1 vectors"):
        docs.embed_multi([("a", "one"), ("b", "two")])
    assert Collection.names(session) == []


def test_the_batches_before_a_fault_stay(service, engine, open_model):
    """On an engine, what was paid for is kept, and a second run asks for the rest alone."""
    service.script = [right, right, error(400), error(400)]
    docs = Collection("docs", engine, model=open_model(batch_size=2))
    items = [(str(number), f"text {number}") for number in range(6)]
    with pytest.raises(ModelError):
        docs.embed_multi(items)
    assert docs.ids() == ["0", "1", "2", "3"]
    del service.requests[:]
    docs.embed_multi(items)
    assert [request.body["input"] for request in service.requests] == [["text 4", "text 5"]]


def test_a_search_with_a_fault_is_typed(service, docs):
    """A query's text is as secret as a content, and the search works afterwards."""
    docs.embed("a", "hound")
    nothing = changed(lambda data: [e | {"embedding": None} for e in data])
    service.script = [error(500), nothing, changed(lambda data: [])]
    for _ in range(3):
        with pytest.raises(EmbeddingsError) as raised:
            docs.similar(SECRETS[0])
        assert SECRETS[0] not in shown(raised.value)
    assert [entry.id for entry in docs.similar("hound")] == ["a"]


# Secrets


def test_the_key_is_in_no_log_and_no_repr(service, docs, caplog):
    """Neither the model, nor its collection, nor any log of a success shows the key."""
    caplog.set_level(logging.DEBUG)
    docs.embed("a", "hound")
    assert KEY not in caplog.text + repr(docs.model()) + repr(docs)
    assert service.requests[0].authorization == f"Bearer {KEY}"


def test_the_key_is_not_stored(docs, session):
    """Not a byte of it gets into the database."""
    docs.embed("a", "hound", store=True)
    session.commit()
    lines = session.connection().connection.driver_connection.iterdump()
    dump = "".join(lines)
    assert "hound" in dump
    assert KEY not in dump


# The extras that are not installed


@pytest.mark.parametrize(("package", "name"), [("openai", "ada"), ("wordllama", "local")])
def test_a_package_that_is_not_installed_is_named_with_its_extra(tmp_path, package, name):
    """The model is known without its package; calling it says what to install."""
    (tmp_path / f"{package}.py").write_text(f"raise ImportError('No module named {package}')")
    extra = "openai" if package == "openai" else "local"
    code = f"""
        model = get_embedding_model({name!r})
        docs = Collection("docs", model=model)
        result = []
        for call in (lambda: model.embed("hound"), lambda: docs.embed("a", "hound")):
            try:
                call()
            except MissingExtraError as error:
                result.append([str(error), error.extra, isinstance(error, ImportError)])
        result.append(docs.count())
    """
    first, second, count = fresh(code, tmp_path, OPENAI_API_KEY=KEY)
    assert first == second
    assert f"pip install 'sqlalchemy-embeddings[{extra}]'" in first[0]
    assert package in first[0]
    assert first[1:] == [extra, True]
    assert count == 0


def test_the_error_of_a_missing_extra_names_it():
    """It is an ImportError with the extra as an attribute."""
    error = MissingExtraError("openai", "openai")
    assert isinstance(error, ImportError)
    assert error.extra == "openai"

"""What becomes of a service's misbehaviour: the right answer, or an error that can be acted on."""

from __future__ import annotations

import asyncio
import email.utils
import functools
import json
import logging
import pickle
import time
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from embeddings import (
    AnswerError,
    AuthenticationError,
    Collection,
    EmbeddingsError,
    InvalidItemError,
    InvalidQueryError,
    InvalidVectorError,
    ModelError,
    QuotaError,
    RateLimitError,
    RefusedError,
    TooLongError,
    UnavailableError,
)
from embeddings.models.failures import retry_after, without
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
    packed,
    reset,
    right,
    shown,
    vector_of,
)

if TYPE_CHECKING:
    from tests.provider import Handler, Request

pytestmark = pytest.mark.once

NAN = float("nan")
ITEMS = [("a", SECRETS[0]), ("b", SECRETS[1])]
RIGHT = {id: vector_of(text) for id, text in ITEMS}


def http_date(seconds: float) -> str:
    """Return the date so many seconds from now."""
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


@functools.cache
def bomb() -> bytes:
    """Return 50 MB of spaces, packed."""
    packer = zlib.compressobj(wbits=31)
    return b"".join(packer.compress(b" " * 1_000_000) for _ in range(50)) + packer.flush()


def gzip_bomb(handler: Handler, request: Request) -> None:
    """Answer with 50 MB of spaces in 50 kB."""
    handler.send(bomb(), content_encoding="gzip")


def slow_body(handler: Handler, request: Request) -> None:
    """Send an answer a byte at a time, until nobody listens or the test is over."""
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", "1000000")
    handler.end_headers()
    while not handler.server.released.wait(0.02):
        handler.wfile.write(b" ")
        handler.wfile.flush()
    handler.close_connection = True


def stored(docs: Collection[Any]) -> dict[str, list[float]]:
    return {record.id: record.embedding.tolist() for record in docs}


# Passing: once, and then the service answers as it should.

PASSING: dict[str, Answer] = {
    "429": error(429),
    "429-seconds": error(429, retry_after="1"),
    "429-milliseconds": error(429, retry_after_ms="20"),
    "429-past-date": error(429, retry_after=http_date(-3600)),
    "429-a-word": error(429, retry_after="soon"),
    "429-negative": error(429, retry_after="-5"),
    "429-not-a-number": error(429, retry_after="nan"),
    "408": error(408, retry_after_ms="1"),
    "500": error(500, retry_after_ms="1"),
    "502-html": body(b"<html>Bad gateway</html>", 502, kind="text/html", retry_after_ms="1"),
    "503": error(503, retry_after_ms="1"),
    "reset": reset,
    "hang-up": hang_up,
    "half-an-answer": cut_short,
    "truncated-json": body(b'{"data": [{"index": 0, "embedding": [0.1, 0.'),
    "html": body(b"<html>Please log in</html>", kind="text/html"),
    "empty-answer": body(b""),
    "too-few": changed(lambda data: data[:1]),
    "too-many": changed(lambda data: [*data, data[1] | {"index": 2}]),
    "duplicated-index": index(1, of=0),
    "null-data": body(answered(None)),
    "gzip-bomb": gzip_bomb,
    "not-gzip": body(b"no gzip", content_encoding="gzip"),
    "error-in-a-success": body({"error": {"message": "overloaded", "code": 529}}),
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", PASSING)
def test_a_passing_misbehaviour_ends_in_the_right_answer(service, session, open_model, name):
    """It is asked once more, and that is all."""
    service.script = [PASSING[name]]
    docs = Collection("docs", session, model=open_model(max_retries=1))
    docs.embed_multi(ITEMS)
    assert stored(docs) == RIGHT
    assert len(service.requests) == 2


# Lasting: each request is answered like this. The third is the number of requests: one where
# nothing is gained by another.

ONE, TRIES, HALVES = 1, 2, 3
LASTING: dict[str, tuple[Answer, type[EmbeddingsError], int]] = {
    "429": (error(429, "rate_limit_exceeded", retry_after_ms="1"), RateLimitError, TRIES),
    "429-for-an-hour": (error(429, retry_after="3600"), RateLimitError, ONE),
    "429-for-ever": (error(429, retry_after="1e300"), RateLimitError, ONE),
    "429-in-a-century": (error(429, retry_after=http_date(3e9)), RateLimitError, ONE),
    "quota": (error(429, "insufficient_quota", retry_after_ms="1"), QuotaError, ONE),
    "payment-required": (error(402), QuotaError, ONE),
    "bad-key": (error(401, "invalid_api_key"), AuthenticationError, ONE),
    "forbidden": (error(403), AuthenticationError, ONE),
    "not-found": (error(404, "model_not_found"), RefusedError, ONE),
    "wrong-method": (error(405), RefusedError, ONE),
    "bad-request": (error(400), RefusedError, HALVES),
    "unprocessable": (error(422), RefusedError, HALVES),
    "too-large": (body(b"<html>too large</html>", 413, kind="text/html"), TooLongError, HALVES),
    "redirect": (body(b"", 302, location="/elsewhere"), RefusedError, ONE),
    "500": (error(500, retry_after_ms="1"), UnavailableError, TRIES),
    "html": (body(b"<html>Please log in</html>", kind="text/html"), AnswerError, TRIES),
    "too-few": (changed(lambda data: data[:1]), AnswerError, TRIES),
    "gzip-bomb": (gzip_bomb, AnswerError, TRIES),
    "slow-body": (slow_body, UnavailableError, ONE),
    "nan": (embedding(packed(1.0, NAN, 2.0, 3.0)), InvalidVectorError, ONE),
    "null": (embedding(None), InvalidVectorError, ONE),
    "no-numbers": (embedding(["one", "two", "three", "four"]), InvalidVectorError, ONE),
    "empty-vector": (embedding([]), InvalidVectorError, ONE),
    "mixed-lengths": (embedding(packed(1.0, 2.0)), ModelError, ONE),
    "wrong-dimensions": (
        changed(lambda data: [e | {"embedding": packed(1.0, 2.0)} for e in data]),
        InvalidVectorError,
        ONE,
    ),
}


@pytest.mark.parametrize("name", LASTING)
def test_a_lasting_misbehaviour_is_a_typed_error(service, session, open_model, caplog, name):
    """It names the items, shows no secret, stores nothing, and is over with its cause."""
    caplog.set_level(logging.DEBUG)
    answer, expected, requests = LASTING[name]
    deadline = 0.3 if name == "slow-body" else 30.0
    docs = Collection("docs", session, model=open_model(max_retries=1, deadline=deadline))
    docs.embed("before", "a text from before")
    before = stored(docs)
    del service.requests[:]

    service.usual = answer
    with pytest.raises(expected) as raised:
        docs.embed_multi(ITEMS)
    posts = [request for request in service.requests if request.method == "POST"]
    assert len(posts) <= requests
    if requests != HALVES:
        assert len(posts) == requests
    # One item is named where it is one, else all of them.
    assert set(raised.value.ids) <= {"a", "b"}
    if name != "wrong-dimensions":
        assert raised.value.ids
    assert [secret for secret in (KEY, *SECRETS) if secret in shown(raised.value)] == []
    assert [secret for secret in (KEY, *SECRETS) if secret in caplog.text] == []
    assert stored(docs) == before

    service.usual = right
    docs.embed_multi(ITEMS)
    assert stored(docs) == before | RIGHT


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("asked", ["86401", "1e9", "1e300", "inf", "a century"])
def test_no_pause_is_for_ever(service, open_model, asked, awaited):
    """Also with no deadline the error comes at once, and says in few words how long to wait."""
    service.usual = error(429, retry_after=http_date(3e9) if asked == "a century" else asked)
    model = open_model(max_retries=1, deadline=None)

    async def ask() -> object:
        return await model.aembed_batch(["x"]) if awaited else model.embed("x")

    with pytest.raises(RateLimitError) as raised:
        asyncio.run(ask())
    assert raised.value.retry_after
    assert raised.value.retry_after > 86_400
    assert len(str(raised.value)) < 150
    assert len(service.requests) == 1


def test_which_errors_are_worth_another_try():
    """`is_retryable` says whether the same call may succeed later."""
    kinds = {
        AnswerError: True,
        AuthenticationError: False,
        ModelError: False,
        QuotaError: False,
        RateLimitError: True,
        RefusedError: False,
        TooLongError: False,
        UnavailableError: True,
    }
    assert {kind: kind("x").is_retryable for kind in kinds} == kinds
    assert all(issubclass(kind, ModelError) for kind in kinds)


def test_an_error_says_its_status_its_reason_and_how_long_to_wait(service, open_model):
    """As attributes, which survive pickling."""
    service.script = [
        body({"error": {"message": "slow down", "code": "x"}}, 429, retry_after="3600"),
        body({"error": {"message": "The model `toy` does not exist"}}, 404),
    ]
    with pytest.raises(RateLimitError) as limited:
        open_model().embed("hound")
    assert (limited.value.status, limited.value.retry_after) == (429, 3600.0)
    with pytest.raises(RefusedError) as refused:
        open_model().embed("hound")
    assert refused.value.status == 404
    assert refused.value.reason == "The model `toy` does not exist"
    again = pickle.loads(pickle.dumps(refused.value))  # noqa: S301
    assert (again.status, again.reason, str(again)) == (404, refused.value.reason, str(again))


# The item that is refused by itself


def refusing(*words: str, status: int = 400, message: str = "policy violation") -> Answer:
    """Return a service that refuses a request with one of these words in it."""

    def answer(handler: Handler, request: Request) -> None:
        if any(word in text for text in request.body["input"] for word in words):
            handler.send(json.dumps({"error": {"message": message}}).encode(), status)
        else:
            right(handler, request)

    return answer


@pytest.mark.parametrize("place", [0, 1, 537, 999])
def test_one_poisonous_item_among_a_thousand_is_named(service, engine, open_model, place):
    """Its batch is halved until it is alone; the batches before it are stored."""
    service.usual = refusing("poison")
    docs = Collection("docs", engine, model=open_model())
    items = [(f"i{number:03}", f"text {number}") for number in range(1000)]
    items[place] = (f"i{place:03}", "poison")
    with pytest.raises(RefusedError, match=rf"policy violation \[id 'i{place:03}'\]") as raised:
        docs.embed_multi(items)
    assert raised.value.ids == (f"i{place:03}",)
    assert raised.value.status == 400
    assert docs.count() == place // 100 * 100
    # Every text was embedded at most once, and refusals are few.
    embedded = [
        text
        for request in service.requests
        if "poison" not in request.body["input"]
        for text in request.body["input"]
    ]
    assert len(embedded) == len(set(embedded))
    refused = [request for request in service.requests if "poison" in request.body["input"]]
    assert len(refused) <= 8


def test_an_id_is_in_the_type_of_the_keys(service, session, open_model):
    """As everywhere."""
    service.usual = refusing("poison")
    docs = Collection("docs", session, model=open_model(), key=int)
    with pytest.raises(RefusedError) as raised:
        docs.embed_multi([(7, "text"), (8, "poison")])
    assert raised.value.ids == (8,)


def test_every_id_of_a_content_is_named(service, session, open_model):
    """Two items may have the same text."""
    service.usual = refusing("poison")
    docs = Collection("docs", session, model=open_model())
    with pytest.raises(RefusedError) as raised:
        docs.embed_multi([("a", "poison"), ("b", "text"), ("c", "poison")])
    assert raised.value.ids == ("a", "c")


def test_what_every_request_suffers_from_is_no_items_fault(service, session, open_model):
    """A service that takes nothing is not asked for each item, and all items are concerned."""
    service.usual = body({"error": {"message": "dimensions are not supported"}}, 400)
    docs = Collection("docs", session, model=open_model(dimensions=4))
    with pytest.raises(RefusedError, match="dimensions are not supported") as raised:
        docs.embed_multi((str(number), f"text {number}") for number in range(100))
    assert len(raised.value.ids) == 100
    assert "and 95 more" in str(raised.value)
    assert len(service.requests) <= 15


def test_a_parameter_that_is_refused_is_not_looked_for_in_the_items(service, session, open_model):
    """The service says which one it is."""
    message = {"message": "not supported", "param": "dimensions"}
    service.usual = body({"error": message}, 400)
    docs = Collection("docs", session, model=open_model(dimensions=4))
    with pytest.raises(RefusedError):
        docs.embed_multi((str(number), f"text {number}") for number in range(100))
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (413, "batch size 100 > maximum allowed batch size 32"),
        (400, "Requested 400000 tokens, max 300000 tokens per request"),
        (429, "Request too large for toy on tokens per min (TPM): Limit 40, Requested 100."),
    ],
)
def test_a_request_refused_for_its_size_is_halved(service, session, open_model, status, message):
    """It is never repeated as it is, and all is stored."""

    def at_most_32(handler: Handler, request: Request) -> None:
        if len(request.body["input"]) > 32:
            handler.send(json.dumps({"error": {"message": message}}).encode(), status)
        else:
            right(handler, request)

    service.usual = at_most_32
    docs = Collection("docs", session, model=open_model())
    docs.embed_multi((str(number), f"text {number}") for number in range(100))
    sizes = [len(request.body["input"]) for request in service.requests]
    assert sorted(size for size in sizes if size <= 32) == [25, 25, 25, 25]
    assert sorted(size for size in sizes if size > 32) == [50, 50, 100]
    assert docs.count() == 100


def test_an_outage_while_the_item_is_looked_for_is_an_outage(service, session, open_model):
    """It is not taken for a refusal."""
    service.script = [error(400)]
    service.usual = error(500)
    docs = Collection("docs", session, model=open_model())
    with pytest.raises(UnavailableError) as raised:
        docs.embed_multi(ITEMS)
    assert raised.value.ids == ("a", "b")


def test_a_plan_keeps_what_was_embedded_before_a_refusal(service, session, open_model):
    """And names the item."""
    service.usual = refusing("poison")
    docs = Collection("docs", session, model=open_model())
    plan = docs.plan([("a", "one"), ("b", "two"), ("c", "poison")])
    with pytest.raises(RefusedError) as raised:
        plan.embed(batch_size=2)
    assert raised.value.ids == ("c",)
    assert plan.contents == ["poison"]


def test_an_unfit_vector_names_its_item(service, session, open_model):
    """By the id, not by its place in the request."""
    service.script = [embedding(packed(1.0, NAN, 2.0, 3.0))]
    docs = Collection("docs", session, model=open_model())
    with pytest.raises(InvalidVectorError, match=r"not a finite.*\[id 'b'\]") as raised:
        docs.embed_multi(ITEMS)
    assert raised.value.ids == ("b",)


def test_an_empty_text_is_refused_by_its_id(service, session, open_model):
    """Before anything is sent, also where it is the last of many, and for a query."""
    docs = Collection("docs", session, model=open_model())
    items = [(f"i{number}", f"text {number}") for number in range(99)]
    with pytest.raises(InvalidItemError, match=r"is empty.*'toy' refuses \[id 'last'\]"):
        docs.embed_multi([*items, ("last", "")])
    with pytest.raises(InvalidItemError, match="is empty"):
        docs.plan([*items, ("last", "")])
    assert service.requests == []
    docs.embed("a", "text")
    with pytest.raises(InvalidQueryError, match="is empty"):
        docs.similar("")
    assert len(service.requests) == 1


def test_many_items_through_a_service_that_fails_now_and_then(service, engine, open_model):
    """All are stored, with the requests that are needed and the retries."""
    count = 0

    def sometimes(handler: Handler, request: Request) -> None:
        nonlocal count
        count += 1
        answer = error(503, retry_after_ms="1") if count % 10 == 0 else right
        answer(handler, request)

    service.usual = sometimes
    docs = Collection("docs", engine, model=open_model(max_retries=3))
    docs.embed_multi((f"i{number}", f"text {number}") for number in range(2000))
    assert docs.count() == 2000
    assert len(service.requests) == 22


@pytest.mark.parametrize("address", ["localhost:11434/v1", "127.0.0.1/v1", "/v1", "htp://a/v1"])
def test_an_address_that_is_none_says_what_one_begins_with(open_model, address):
    """And is not tried again."""
    with pytest.raises(ModelError, match=r"base_url= .* begins with http:// or https://") as raised:
        open_model(base_url=address, max_retries=3).embed("text")
    assert not raised.value.is_retryable


# The service's own words


def test_contents_and_keys_are_taken_out_of_a_reason(subtests):
    """What is left can be acted on."""
    for said, told in [
        (
            "This model's maximum context length is 8192 tokens, however you requested 10021.",
            "This model's maximum context length is 8192 tokens, however you requested 10021.",
        ),
        ("Invalid input: my happy hound", "Invalid input: …"),
        ("Invalid input: 'my hap", "Invalid input: '…"),
        ("Invalid: MY HAPPY", "Invalid: …"),
        (r"Invalid input: Gr\u00fc\u00dfe", "Invalid input: …"),
        (f"Incorrect API key provided: {KEY}", "Incorrect API key provided: …"),
        ("Invalid input: my%20happy%20hound", "Invalid input: …"),
        ("Invalid input: Gr%C3%BC%C3%9Fe, 100%", "Invalid input: …, 100%"),
        ("Incorrect API key provided: sk-ca***4f1d8e.", "Incorrect API key provided: …"),
        ("Authorization: Bearer abc.def", "Authorization: …"),
        ("see https://user:pass@internal/x?key=1 for it", "see … for it"),
        ("request 4f1d8e0a9b8c7d6e5f4a3b2c failed", "request … failed"),
        ("number 4111111111111111", "number …"),
        ("x" * 30 + " two\n lines", "x" * 30 + " two lines"),
    ]:
        with subtests.test(ascii(said)[:60]):
            contents = ["my happy hound", "Grüße aus der card 4111111111111111"]
            assert without(said, contents, [KEY]) == told


@pytest.mark.parametrize("from_environment", [True, False])
def test_a_key_in_the_address_is_taken_out_of_a_reason(
    service, open_model, monkeypatch, from_environment
):
    """However short it is."""
    address = service.base_url + "?key=hush-hush&api-version=v1"
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    service.script = [body({"error": {"message": "the key hush-hush is not ours"}}, 400)]
    model = open_model(base_url=None if from_environment else address)
    with pytest.raises(RefusedError, match="the key … is not ours") as raised:
        model.embed("hound")
    assert "hush-hush" not in shown(raised.value)


def test_a_reason_is_short(service, open_model):
    """A service may answer with pages."""
    service.script = [body({"error": {"message": "too many words " * 1000}}, 400)]
    with pytest.raises(RefusedError) as raised:
        open_model().embed("hound")
    assert len(raised.value.reason or "") <= 200


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("2", 2.0), ("0", None), ("-1", None), ("soon", None), ("nan", None), ("", None)],
)
def test_retry_after_in_seconds(value, seconds):
    """What has no meaning is no time."""
    assert retry_after({"retry-after": value}) == seconds


def test_retry_after_as_a_date_and_in_milliseconds():
    """The date is on the service's clock, the milliseconds go first."""
    in_an_hour = retry_after({"retry-after": http_date(3600)})
    assert in_an_hour is not None
    assert 3000 < in_an_hour <= 3600
    assert retry_after({"retry-after": http_date(-3600)}) is None
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert retry_after({}) is None


@pytest.mark.parametrize(
    "said",
    [
        "input must have less than 512 tokens",  # SiliconFlow
        "the input length exceeds the context length",  # Ollama
        "Requested tokens (5000) exceed context window of 2048",  # llama-cpp-python
        "This model's maximum context length is 8192 tokens, however you requested 9000 tokens",
    ],
)
def test_what_services_say_of_a_text_that_is_too_long(service, open_model, said):
    """It has a class of its own."""
    service.script = [body({"error": {"message": said}}, 400)]
    with pytest.raises(TooLongError) as raised:
        open_model().embed("hound")
    assert raised.value.positions == (0,)


def test_entries_of_the_loopback_service_are_right(service, open_model):
    """What the tests above compare with."""
    open_model().embed_batch(["one", "two"])
    assert [entry["index"] for entry in entries(service.requests[0])] == [0, 1]

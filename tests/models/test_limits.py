"""What is sent at once, how long a text may be, how often and how long a service is asked."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sys
import time
from typing import TYPE_CHECKING

import pytest

from embeddings import Collection, QuotaError, RateLimitError, TooLongError, UnavailableError
from embeddings.models import limits
from embeddings.models.limits import Pace, Tokens, pause_after, requests
from embeddings.models.openai import OpenAIEmbeddingModel
from tests.provider import SECRETS, error, right, vector_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.provider import Handler, Request

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def _without_a_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look for tiktoken's vocabulary in a folder that is empty."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "vocabulary"))
    limits.vocabulary.cache_clear()
    yield
    limits.vocabulary.cache_clear()


# Requests


@pytest.mark.parametrize(
    ("counts", "texts", "tokens", "expected"),
    [
        ([], 2, 10, []),
        ([1, 1, 1], 2, 10, [[0, 1], [2]]),
        ([5, 5, 5], None, 10, [[0, 1], [2]]),
        ([5, 6, 5], None, 10, [[0], [1], [2]]),
        ([50, 1, 1], None, 10, [[0], [1, 2]]),
        ([1, 1, 50], None, 10, [[0, 1], [2]]),
        ([1] * 5, None, None, [[0, 1, 2, 3, 4]]),
    ],
)
def test_texts_are_dealt_out_by_count_and_by_tokens(counts, texts, tokens, expected):
    """In order; a text that is more than a request holds goes alone."""
    assert [list(part) for part in requests(counts, texts, tokens)] == expected


def test_a_request_has_at_most_300_000_tokens(service, session, open_model):
    """A byte may be a token: 100 texts of 8,000 bytes are three requests, of what fits."""
    docs = Collection("docs", session, model=open_model())
    docs.embed_multi((str(number), f"{number:04}" + "x" * 7996) for number in range(100))
    assert [len(request.body["input"]) for request in service.requests] == [37, 37, 26]
    assert docs.count() == 100


def test_the_limits_are_the_models(service, open_model):
    """They can be set, and taken away."""
    texts = ["x" * 40] * 4
    open_model(max_request_tokens=100).embed_batch(texts)
    open_model(max_request_tokens=None).embed_batch(texts)
    assert [len(request.body["input"]) for request in service.requests] == [2, 2, 4]


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 0},
        {"max_tokens": 1.5},
        {"max_request_tokens": -1},
        {"too_long": "cut"},
        {"requests_per_minute": 0},
        {"tokens_per_minute": -1},
    ],
)
def test_a_limit_that_means_nothing_is_refused(options):
    """When the model is made."""
    with pytest.raises(ValueError, match=next(iter(options))):
        OpenAIEmbeddingModel("toy", **options)


# Tokens


def test_bytes_bound_tokens_without_a_vocabulary():
    """A token has at least one byte of UTF-8; of OpenAI's none has more than 128."""
    tokens = Tokens("text-embedding-3-small")
    assert tokens.most("Grüße 🎉") == len("Grüße 🎉".encode())
    assert tokens.least("x" * 1280) == 10
    assert Tokens("nomic").least("x" * 1280) == 0


def test_a_vocabulary_that_is_not_here_is_not_downloaded(monkeypatch):
    """Not even tiktoken is imported."""
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    assert Tokens("text-embedding-3-small").most("hound") == 5


def test_a_vocabulary_that_is_not_whole_is_not_used(tmp_path, monkeypatch):
    """Tiktoken would delete it and download another."""
    folder = tmp_path / "vocabulary"
    folder.mkdir()
    name = hashlib.sha1(limits.VOCABULARY_URL.encode()).hexdigest()  # noqa: S324
    (folder / name).write_bytes(b"IQ== 0\n")
    assert Tokens("text-embedding-3-small").most("hound") == 5
    assert (folder / name).exists()


@pytest.fixture
def _with_a_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary of single bytes and of "hound", in the place where tiktoken keeps OpenAI's."""
    tiktoken = pytest.importorskip("tiktoken")
    lines = [
        base64.b64encode(piece).decode() + f" {rank}"
        for rank, piece in enumerate(
            [*(bytes([byte]) for byte in range(256)), b"ho", b"un", b"und", b"hound"]
        )
    ]
    content = "\n".join(lines).encode()
    folder = tmp_path / "vocabulary"
    folder.mkdir()
    name = hashlib.sha1(limits.VOCABULARY_URL.encode()).hexdigest()  # noqa: S324
    (folder / name).write_bytes(content)
    monkeypatch.setattr(limits, "VOCABULARY_SHA256", hashlib.sha256(content).hexdigest())
    ranks = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in lines}
    small = tiktoken.Encoding(
        name="small", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={}
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda _: small)


@pytest.mark.usefixtures("_with_a_vocabulary")
def test_tokens_are_counted_where_the_vocabulary_is(service, open_model):
    """For OpenAI's own models; of another service's the vocabulary is unknown."""
    tokens = Tokens("text-embedding-3-small")
    assert tokens.most("hound") == tokens.least("hound") == 1
    assert tokens.most("hound xy") == 4
    assert Tokens("nomic").most("hound") == 5


@pytest.mark.usefixtures("_with_a_vocabulary")
def test_a_text_that_is_certainly_too_long_is_refused_before_anything_is_sent(
    service, session, open_model
):
    """By its id."""
    model = open_model("text-embedding-3-small", max_tokens=5)
    docs = Collection("docs", session, model=model)
    with pytest.raises(TooLongError, match=r"5 tokens.*truncate.*\[id 'b'\]") as raised:
        docs.embed_multi([("a", "hound " * 2), ("b", "hound " * 4)])
    assert raised.value.ids == ("b",)
    assert service.requests == []
    with pytest.raises(TooLongError) as raised:
        model.embed_batch(["hound", "hound " * 4])
    assert raised.value.positions == (1,)


@pytest.mark.usefixtures("_with_a_vocabulary")
def test_a_text_is_truncated_to_its_tokens(service, open_model):
    """As much is sent as the model takes."""
    model = open_model("text-embedding-3-small", max_tokens=4, too_long="truncate")
    model.embed_batch(["hound hound", "hound " * 4])
    assert service.requests[0].body["input"] == ["hound hound", "hound hound "]


def test_a_text_of_a_megabyte_is_refused_without_a_vocabulary(service, open_model):
    """It has more than 8,192 tokens, however it is cut into them."""
    with pytest.raises(TooLongError, match="8192 tokens"):
        open_model("text-embedding-3-small").embed("x" * 1_100_000)
    assert service.requests == []


def test_what_is_not_certainly_too_long_is_for_the_service_to_say(service, open_model):
    """An estimate refuses nothing."""
    open_model("text-embedding-3-small").embed("x" * 100_000)
    open_model("nomic").embed("x" * 2_000_000)
    assert len(service.requests) == 2


def test_truncated_texts_are_accepted_by_the_service_at_last(service, session, open_model):
    """Those that it refuses are shortened until it takes them; the others are as they are."""

    def at_most_2_000(handler: Handler, request: Request) -> None:
        if any(len(text.encode()) > 2_000 for text in request.body["input"]):
            said = {"message": "maximum context length is 1000 tokens", "code": None}
            handler.send(json.dumps({"error": said}).encode(), 400)
        else:
            right(handler, request)

    service.usual = at_most_2_000
    docs = Collection("docs", session, model=open_model(too_long="truncate", max_tokens=1000))
    texts = {"a": "short", "b": "ü" * 5_000, "c": "also short"}
    docs.embed_multi(list(texts.items()))
    lengths = {record.id: int(record.embedding[0]) for record in docs}
    assert lengths["a"] == 5
    assert lengths["c"] == 10
    assert 500 <= lengths["b"] <= 1_000
    # The hash is that of the whole text: nothing is asked for again.
    before = len(service.requests)
    docs.embed_multi(list(texts.items()))
    assert len(service.requests) == before


def test_a_model_that_takes_less_than_it_says_is_told_where_to_say_so(service, open_model):
    """A text is not cut below its max_tokens in bytes."""
    said = {"message": "maximum context length is 512 tokens", "code": None}
    service.usual = lambda handler, _: handler.send(json.dumps({"error": said}).encode(), 400)
    with pytest.raises(
        TooLongError, match=r"is 512 tokens\. .*max_tokens=8192: set what"
    ) as raised:
        open_model(too_long="truncate").embed("x" * 20_000)
    assert raised.value.reason == said["message"]
    with pytest.raises(TooLongError, match=r"is 512 tokens$"):
        open_model().embed("x" * 20_000)


# How often


def test_requests_are_spread_over_a_minute():
    """A thousand a minute are one in 60 ms; the first begins at once."""
    pace = Pace(1000, None)
    waits = [pace.wait_for(5) for _ in range(4)]
    assert waits[0] == 0.0
    passed = [wait - 0.06 * number for number, wait in enumerate(waits)]
    assert all(-60 < early <= 0.0001 for early in passed)
    assert waits == sorted(waits)


def test_tokens_are_spread_over_a_minute():
    """After a request of 6,000 tokens of 60,000 a minute, the next waits for 6 seconds."""
    pace = Pace(None, 60_000)
    assert pace.wait_for(6_000) == 0.0
    assert pace.wait_for(1) <= 6.0
    assert pace.wait_for(1) > 0.0
    assert Pace(None, None).wait_for(10**9) == 0.0


@pytest.mark.parametrize("is_async", [False, True])
def test_a_service_is_not_asked_more_often_than_is_allowed(service, open_model, is_async):
    """Between two requests lies the time that is theirs."""
    began: list[float] = []

    def noting(handler: Handler, request: Request) -> None:
        began.append(time.monotonic())
        right(handler, request)

    service.usual = noting
    model = open_model(requests_per_minute=300, tokens_per_minute=10**6, batch_size=1)
    if is_async:
        asyncio.run(model.aembed_batch(["a", "b", "c"]))
    else:
        model.embed_batch(["a", "b", "c"])
    # A request on its way may be late by itself, so only the whole is compared.
    assert began[-1] - began[0] > 0.2


# How long


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed(service, open_model, form):
    """The service is not asked again before the time that it names."""
    from email.utils import formatdate

    value = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    service.script = [error(429, retry_after=value)]
    began = time.monotonic()
    assert open_model(max_retries=1).embed("hound") == vector_of("hound")
    assert time.monotonic() - began > (0.9 if form == "seconds" else 0.5)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_pause_that_ends_after_the_deadline_is_not_begun(service, open_model, is_async):
    """The error says how long the service wanted to be left alone."""
    service.usual = error(429, retry_after="30")
    model = open_model(max_retries=9, deadline=20.0)

    async def ask() -> None:
        if is_async:
            await model.aembed_batch(["hound"])
        else:
            model.embed("hound")

    with pytest.raises(RateLimitError, match="to be asked again in 30 s") as raised:
        asyncio.run(ask())
    assert raised.value.retry_after == 30.0
    assert len(service.requests) == 1


def test_tries_end_at_the_deadline(service, open_model):
    """However many are left."""
    service.usual = error(500)
    with pytest.raises(UnavailableError):
        open_model(max_retries=1000, deadline=1.0).embed("hound")
    assert 1 <= len(service.requests) <= 4


def test_a_try_that_failed_is_a_line_in_the_log(service, open_model, caplog):
    """What failed and how long the pause is, on the library's own logger, and no content."""
    caplog.set_level("INFO", logger="embeddings")
    service.script = [error(503, retry_after_ms="1")]
    open_model(max_retries=1).embed(SECRETS[0])
    (record,) = [record for record in caplog.records if record.name == "embeddings"]
    assert "HTTP 503" in record.getMessage()
    assert "asked again in 0.0 s" in record.getMessage()
    assert SECRETS[0] not in caplog.text


def test_pauses_grow_and_are_random():
    """They double from half a second, and lie between the half and the whole."""
    for number in range(8):
        whole = min(0.5 * 2**number, limits.LONGEST_PAUSE)
        pauses = {pause_after(UnavailableError("busy"), number) for _ in range(20)}
        assert len(pauses) > 1
        assert all(pause is not None and whole / 2 <= pause <= whole for pause in pauses)
    assert pause_after(RateLimitError("slow", retry_after=7.0), 3) == 7.0
    assert pause_after(QuotaError("nothing left"), 0) is None
    assert pause_after(ValueError(), 0) is None


@pytest.mark.parametrize(
    ("answer", "name"),
    [(error(429, "insufficient_quota"), "quota"), (error(401, "invalid_api_key"), "key")],
)
def test_after_an_exhausted_quota_or_a_bad_key_no_request_begins(
    service, engine, open_model, answer, name
):
    """Neither a retry, nor a half, nor the next batch."""
    service.script = [right]
    service.usual = answer
    docs = Collection("docs", engine, model=open_model(max_retries=5, batch_size=10))
    with pytest.raises(Exception, match="HTTP 4"):
        docs.embed_multi((str(number), f"text {number}") for number in range(100))
    assert len(service.requests) == 2
    assert docs.count() == 10

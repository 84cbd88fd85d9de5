"""Services that speak OpenAI's protocol: what they send and take less than OpenAI does."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import openai
import pytest

from embeddings import (
    AnswerError,
    AuthenticationError,
    Collection,
    ModelError,
    RateLimitError,
    TooLongError,
)
from embeddings.models.openai import OpenAIEmbeddingModel
from tests.provider import (
    KEY,
    Answer,
    answered,
    body,
    changed,
    entries,
    right,
    vector_of,
)

if TYPE_CHECKING:
    from tests.provider import Handler, Request

pytestmark = pytest.mark.once

TEXTS = ["one", "three", "fifteen"]
VECTORS = [vector_of(text) for text in TEXTS]


def floats(request: Request) -> list[dict[str, Any]]:
    """Return right entries as numbers in JSON."""
    return [
        entry | {"embedding": vector_of(text)}
        for entry, text in zip(entries(request), request.body["input"], strict=True)
    ]


def send(handler: Handler, content: object, status: int = 200) -> None:
    """Answer with JSON."""
    handler.send(json.dumps(content).encode(), status)


# The order


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(changed(lambda data: data[::-1]), id="permutation"),
        pytest.param(changed(lambda data: [e.pop("index") for e in data] and data), id="absent"),
        pytest.param(changed(lambda data: [e | {"index": 0} for e in data]), id="always 0"),
        pytest.param(changed(lambda data: [e | {"index": None} for e in data]), id="null"),
        pytest.param(
            changed(lambda data: [e | {"index": str(e["index"])} for e in data[::-1]]), id="strings"
        ),
        pytest.param(
            changed(lambda data: (data[0].pop("index"), data)[1]), id="the number 0 left out"
        ),
        pytest.param(
            changed(lambda data: (data[0].pop("index"), data[::-1])[1]),
            id="the number 0 left out, in another order",
        ),
    ],
)
def test_index_means_what_it_can_only_mean(service, open_model, answer: Answer):
    """Each text gets its own vector."""
    service.script = [answer]
    assert list(open_model().embed_multi(TEXTS)) == VECTORS
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    "numbers",
    [
        [0, 0, 1],
        [1, 2, 3],
        [0, 1, None],
        [None, None, 2],
        [0, 1, "two"],
        [0, 1, 2.0],
        [0, 1, True],
        [0, 1, -1],
        ["0", "0", "1"],
    ],
)
def test_any_other_index_is_an_error(service, open_model, numbers):
    """Nothing is guessed."""
    service.script = [
        changed(
            lambda data: [e | {"index": number} for e, number in zip(data, numbers, strict=True)]
        )
    ]
    with pytest.raises(AnswerError, match="'toy' answered 3 texts with 3 vectors"):
        open_model().embed_batch(TEXTS)


# base64


REFUSALS_OF_BASE64 = {
    # LiteLLM, litellm/utils.py: UnsupportedParamsError of get_optional_params_embeddings.
    "litellm": (
        400,
        {
            "error": {
                "message": "litellm.UnsupportedParamsError: Setting {'encoding_format': 'base64'}"
                " is not supported by toy. To drop it from the call, set"
                " `litellm.drop_params = True`.",
                "type": "None",
                "param": None,
                "code": "400",
            }
        },
    ),
    # As FastAPI answers where a pydantic model forbids other fields.
    "fastapi": (
        422,
        {
            "detail": [
                {
                    "type": "extra_forbidden",
                    "loc": ["body", "encoding_format"],
                    "msg": "Extra inputs are not permitted: encoding_format",
                    "input": "base64",
                }
            ]
        },
    ),
    "by parameter": (400, {"error": {"message": "Not here", "param": "encoding_format"}}),
    "server error": (500, {"error": {"message": "base64 encoding is not implemented"}}),
}


@pytest.mark.parametrize("name", REFUSALS_OF_BASE64)
def test_a_service_without_base64_is_asked_for_floats_once(service, open_model, name):
    """It is asked again without the parameter, and the model remembers that."""
    status, refusal = REFUSALS_OF_BASE64[name]

    def usual(handler: Handler, request: Request) -> None:
        if "encoding_format" in request.body:
            send(handler, refusal, status)
        else:
            send(handler, answered(floats(request)))

    service.usual = usual
    model = open_model()
    assert list(model.embed_multi(TEXTS)) == VECTORS
    assert list(model.embed_multi(TEXTS)) == VECTORS
    sent = [request.body.get("encoding_format") for request in service.requests]
    assert sent == ["base64", None, None]


def test_a_service_that_goes_on_about_base64_is_an_error(service, open_model):
    """It is asked twice and no more."""
    service.usual = body({"error": {"message": "base64!"}}, 400)
    with pytest.raises(ModelError, match="base64"):
        open_model().embed("hound")
    assert len(service.requests) == 2


# An error in a 200


@pytest.mark.parametrize(
    ("content", "expected", "told"),
    [
        # OpenRouter, docs "Errors": the code is the HTTP status.
        ({"error": {"code": 429, "message": "Rate limited"}}, RateLimitError, "HTTP 429"),
        ({"error": {"message": "upstream timed out", "code": "oops"}}, AnswerError, "upstream"),
        ({"error": "model is loading"}, AnswerError, "model is loading"),
        ([{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}], RateLimitError, "HTTP 429"),
        ({"code": 20015, "message": "The parameter is invalid", "data": None}, AnswerError, "par"),
    ],
)
def test_an_error_in_a_success_is_an_error(service, open_model, content, expected, told):
    """With the service's own words."""
    service.script = [body(content)]
    with pytest.raises(expected, match=told):
        open_model().embed("hound")


# What goes with every request


def test_headers_parameters_and_fields_go_with_every_request(service, open_model):
    """And so does the organization."""
    model = open_model(
        organization="org-1",
        default_headers={"X-Team": "search"},
        default_query={"api-version": "2026-01-01"},
        extra_body={"truncate": True},
    )
    model.embed("hound")
    (request,) = service.requests
    assert request.path == "/v1/embeddings?api-version=2026-01-01"
    assert request.headers["openai-organization"] == "org-1"
    assert request.headers["x-team"] == "search"
    assert request.body["truncate"] is True
    assert request.body["input"] == ["hound"]


@pytest.mark.parametrize("from_environment", [True, False])
def test_an_address_may_have_a_query_string(service, open_model, monkeypatch, from_environment):
    """It stands behind the path of each request."""
    address = service.base_url + "?api-version=preview&x=1"
    if from_environment:
        monkeypatch.setenv("OPENAI_BASE_URL", address)
        model = open_model(base_url=None)
    else:
        model = open_model(base_url=address)
    model.embed("hound")
    assert service.requests[0].path == "/v1/embeddings?api-version=preview&x=1"


def test_a_client_of_ones_own_is_used(service):
    """With its key, its address and its connections; tries are counted by the model."""
    client = openai.OpenAI(api_key=KEY, base_url=service.base_url, max_retries=5)
    model = OpenAIEmbeddingModel("toy", client=client, max_retries=0)
    assert model.embed("hound") == vector_of("hound")
    (vector,) = asyncio.run(model.aembed_batch(["cat"]))
    assert list(vector) == vector_of("cat")
    service.script = [body({"error": {"message": "busy"}}, 503)]
    with pytest.raises(ModelError, match="HTTP 503"):
        model.embed("hound")
    assert {request.authorization for request in service.requests} == {f"Bearer {KEY}"}
    assert len(service.requests) == 3


def test_an_asynchronous_client_of_ones_own(service):
    """It can be awaited, and not called."""

    async def main() -> list[float]:
        async with openai.AsyncOpenAI(api_key=KEY, base_url=service.base_url) as client:
            model = OpenAIEmbeddingModel("toy", client=client)
            (vector,) = await model.aembed_batch(["cat"])
            with pytest.raises(ModelError, match=r"asynchronous client=.*AsyncCollection"):
                model.embed("cat")
            return [*vector]

    assert asyncio.run(main()) == vector_of("cat")


def test_what_to_do_about_the_key_of_a_client_of_ones_own(service):
    """Neither the variable of the environment nor an argument of the model would set it."""
    client = openai.AzureOpenAI(api_key=KEY, azure_endpoint=service.base_url, api_version="1")
    model = OpenAIEmbeddingModel("toy", client=client)
    service.script = [body({"error": {"message": "Access denied"}}, 401)]
    with pytest.raises(AuthenticationError, match="client that was passed") as raised:
        model.embed("hound")
    assert "OPENAI_API_KEY" not in str(raised.value)


def test_a_client_has_its_own_key_and_address():
    """What it has cannot be given twice."""
    client = openai.OpenAI(api_key=KEY)
    with pytest.raises(ValueError, match="its own base_url"):
        OpenAIEmbeddingModel("toy", client=client, base_url="http://127.0.0.1/v1")


# Five services: see docs/providers.md


def ollama(handler: Handler, request: Request) -> None:
    """Answer as Ollama does.

    Source: ollama/ollama, openai/openai.go (ToEmbeddingList, NewError), 2026: base64 or floats,
    `index` as a number; a text over the context is refused with status 400 and this sentence.
    """
    if any(len(text) > 50 for text in request.body["input"]):
        message = "the input length exceeds the context length"
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
        send(handler, {"error": error}, 400)
    elif request.body.get("encoding_format") == "base64":
        right(handler, request)
    else:
        send(handler, answered(floats(request)))


def vllm(handler: Handler, request: Request) -> None:
    """Answer as vLLM does.

    Source: vllm-project/vllm, vllm/entrypoints/openai/engine/protocol.py (ErrorInfo: code is a
    number, param may be null), and the sentence of its input check, 2026.
    """
    if any(len(text) > 50 for text in request.body["input"]):
        message = (
            "This model's maximum context length is 50 tokens. However, your request has 60 input "
            "tokens. Please reduce the length of the input messages."
        )
        error = {"message": message, "type": "BadRequestError", "param": None, "code": 400}
        send(handler, {"error": error}, 400)
    else:
        data = answered(entries(request))
        send(handler, data | {"id": "embd-1", "created": 1, "usage": {"prompt_tokens": 1}})


def llama_cpp(handler: Handler, request: Request) -> None:
    """Answer as llama.cpp's server does.

    Source: ggml-org/llama.cpp, tools/server (format_embeddings_response_oaicompat: the vector
    stands before the index; "input is too large to process" is sent with status 500), 2026.
    """
    if any(len(text) > 50 for text in request.body["input"]):
        message = "input is too large to process. increase the physical batch size"
        send(handler, {"error": {"code": 500, "message": message, "type": "server_error"}}, 500)
    else:
        data = [
            {k: entry[k] for k in ("embedding", "index", "object")} | {"encoding_format": "base64"}
            for entry in entries(request)
        ]
        send(handler, answered(data))


def gemini(handler: Handler, request: Request) -> None:
    """Answer as Gemini's OpenAI-compatible endpoint does.

    Source: samfoy/pi-session-search issue 13, which shows its answer: `index` is left out where it
    is 0, as protocol buffers leave out defaults; errors come in a list of one.
    """
    if any(len(text) > 50 for text in request.body["input"]):
        message = "The input token count exceeds the maximum number of tokens allowed"
        error = {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}
        send(handler, [{"error": error}], 400)
    else:
        data = floats(request)
        del data[0]["index"]
        send(handler, answered(data))


def azure(handler: Handler, request: Request) -> None:
    """Answer as Azure does under `/openai/v1`.

    Source: openai/openai-python, src/openai/lib/azure.py (the header `api-key`, the parameter
    `api-version`), and OpenAI's own shapes.
    """
    if request.headers.get("api-key") != KEY or "api-version=" not in request.path:
        send(handler, {"error": {"code": "401", "message": "Access denied"}}, 401)
    elif any(len(text) > 50 for text in request.body["input"]):
        message = (
            "This model's maximum context length is 8192 tokens, however you requested 9000 tokens "
            "(9000 in your prompt; 0 for the completion). Please reduce your prompt; or completion"
            " length."
        )
        error = {
            "message": message,
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }
        send(handler, {"error": error}, 400)
    else:
        right(handler, request)


SERVICES: dict[str, tuple[Answer, dict[str, Any]]] = {
    "ollama": (ollama, {}),
    "vllm": (vllm, {}),
    "llama.cpp": (llama_cpp, {}),
    "gemini": (gemini, {}),
    "azure": (azure, {"default_headers": {"api-key": KEY}, "default_query": {"api-version": "v1"}}),
}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_stores_and_finds(service, session, open_model, name):
    """Each text gets its vector, and a search finds it."""
    service.usual, options = SERVICES[name]
    docs = Collection("docs", session, model=open_model(**options))
    docs.embed_multi([(text, text) for text in TEXTS])
    assert {r.id: r.embedding.tolist() for r in docs} == dict(zip(TEXTS, VECTORS, strict=True))
    assert docs.similar("three", number=1)[0].id == "three"


@pytest.mark.parametrize("name", SERVICES)
def test_a_text_that_a_service_finds_too_long_is_named(service, session, open_model, name):
    """The others are not at fault, and the reason is the service's."""
    service.usual, options = SERVICES[name]
    docs = Collection("docs", session, model=open_model(**options))
    items = [(str(number), f"text {number}") for number in range(9)]
    items[5] = ("5", "secretive " * 6)
    with pytest.raises(TooLongError) as raised:
        docs.embed_multi(items)
    assert raised.value.ids == ("5",)
    assert "secretive" not in str(raised.value)
    assert raised.value.reason
    assert docs.count() == 0


@pytest.mark.parametrize("name", SERVICES)
def test_a_text_that_a_service_finds_too_long_is_truncated(service, open_model, name):
    """If the model says so, as much is embedded as the service takes."""
    service.usual, options = SERVICES[name]
    model = open_model(too_long="truncate", max_tokens=10, **options)
    long = "ab" * 30
    vectors = list(model.embed_multi(["one", long, "three"]))
    sent = [len(text) for request in service.requests for text in request.body["input"]]
    assert vectors[0] == vector_of("one")
    assert vectors[2] == vector_of("three")
    assert vectors[1][0] in sent
    assert 10 <= vectors[1][0] <= 50

"""OpenAI's embedding models, and services that speak its protocol. Extra: `openai`."""

from __future__ import annotations

import asyncio
import json
import os
import weakref
from collections.abc import Mapping
from contextlib import suppress
from inspect import signature
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl

from ..errors import (
    AnswerError,
    InvalidItemError,
    MissingExtraError,
    ModelError,
    TooLongError,
    UnavailableError,
)
from ..forks import Lock, importing, renew_in_children
from .answers import largest, tokens_in, vectors_in
from .base import Content, EmbeddingModel, Role, Setting, SupportsEmbedding, check_positive
from .conversation import Learnt, Limits, TooLong, requests_for
from .failures import Failure, Teller
from .limits import Deadline, Pace, Tokens, check_number, tries
from .loops import ByLoop
from .stop import apause, is_stopped, not_called, pause
from .usage import count

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    import openai

    from ..vectors import VectorLike

SETTINGS: tuple[Setting, ...] = (
    Setting("OPENAI_API_KEY", "api_key"),
    Setting("OPENAI_BASE_URL", "base_url"),
)

# model_id, the service's name of the model, dimensions to ask for, aliases
MODELS: tuple[tuple[str, str, int | None, tuple[str, ...]], ...] = (
    ("text-embedding-ada-002", "text-embedding-ada-002", None, ("ada", "ada-002")),
    ("text-embedding-3-small", "text-embedding-3-small", None, ("3-small",)),
    ("text-embedding-3-large", "text-embedding-3-large", None, ("3-large",)),
    ("text-embedding-3-small-512", "text-embedding-3-small", 512, ("3-small-512",)),
    ("text-embedding-3-large-256", "text-embedding-3-large", 256, ("3-large-256",)),
    ("text-embedding-3-large-1024", "text-embedding-3-large", 1024, ("3-large-1024",)),
)


class OpenAIEmbeddingModel(EmbeddingModel):
    """A model behind OpenAI's `/embeddings`, at OpenAI or at a service that imitates it.

    The key and the address come from the arguments or, when the model is first called, from
    OPENAI_API_KEY and OPENAI_BASE_URL. Rate limits, server errors, broken connections and answers
    that are no vectors are tried again; an exhausted quota or a key that is not taken is not. A
    forked child process opens connections of its own.

    Args:
        model_id: The name under which collections remember the model.
        api_name: What the service calls it; `model_id` by default.
        dimensions: The number of dimensions to ask the service for; None for its own.
        api_key: Instead of OPENAI_API_KEY.
        base_url: Instead of OPENAI_BASE_URL. A query string in it goes with every request.
        organization: Instead of OPENAI_ORG_ID.
        default_headers: To send with every request.
        default_query: Parameters to add to the address of every request.
        extra_body: Fields to add to every request.
        query_extra_body: Instead of `extra_body`, to requests for queries.
        client: An `openai.OpenAI`, `AsyncOpenAI` or one of Azure's, which has its own key, address,
            headers and connections. An asynchronous one can only be awaited.
        query_prefix: Put before each query.
        document_prefix: Put before each text that is stored, as part of its hash.
        batch_size: The most texts in one request; OpenAI takes 2,048.
        concurrency: The most requests at a time, of one `embed_multi`.
        max_tokens: The most tokens of one text; None for any number.
        max_request_tokens: The most tokens of all texts of a request; None for any number. They
            are counted by tiktoken where its vocabulary is on this machine; else by bytes of
            UTF-8, of which a token has one or more.
        too_long: What becomes of a text that has more than `max_tokens`. "error" raises
            `TooLongError`, before anything is sent where that is certain. "truncate" embeds as
            much of its beginning as the service takes.
        requests_per_minute: The most, spread evenly; None for any number.
        tokens_per_minute: The most, spread evenly; None for any number.
        max_retries: How often a failed request is sent again.
        timeout: Seconds to wait for an answer to begin, and between its parts.
        deadline: Seconds for a request with all its retries; None for any time, but no pause of
            more than a day.

    Raises:
        TypeError, ValueError: An argument is none that it can be, or `client` is given together
            with what it has.
    """

    provider = "openai"
    """Whose protocol it is, as OpenTelemetry calls it."""

    def __init__(
        self,
        model_id: str,
        *,
        api_name: str | None = None,
        dimensions: int | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        organization: str | None = None,
        default_headers: Mapping[str, str] | None = None,
        default_query: Mapping[str, object] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        query_extra_body: Mapping[str, Any] | None = None,
        client: openai.OpenAI | openai.AsyncOpenAI | None = None,
        query_prefix: str = "",
        document_prefix: str = "",
        batch_size: int = 100,
        concurrency: int = 4,
        max_tokens: int | None = 8192,
        max_request_tokens: int | None = 300_000,
        too_long: TooLong = "error",
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_retries: int = 6,
        timeout: float = 60.0,
        deadline: float | None = 120.0,
    ) -> None:
        self.model_id = model_id
        self.api_name = api_name or model_id
        self.dimensions = dimensions
        self.query_prefix, self.document_prefix = query_prefix, document_prefix
        self.batch_size = check_positive("batch_size", batch_size)
        self.concurrency = check_positive("concurrency", concurrency)
        for name, text in (("query_prefix", query_prefix), ("document_prefix", document_prefix)):
            if not isinstance(text, str):
                raise TypeError(f"{name} must be a str, not {type(text).__name__}")
        for name, given_text in (
            ("api_name", api_name),
            ("api_key", api_key),
            ("base_url", base_url),
            ("organization", organization),
        ):
            if not isinstance(given_text, str | None):
                raise TypeError(f"{name} must be a str, not {type(given_text).__name__}")
        if client is not None and not hasattr(client, "with_options"):
            raise TypeError(
                "client must be a client of the openai package, such as openai.OpenAI(), not "
                + type(client).__name__
            )
        if not isinstance(max_retries, int) or max_retries < 0:
            raise ValueError(f"max_retries must be 0 or a positive integer, not {max_retries!r}")
        if dimensions is not None:
            check_positive("dimensions", dimensions)
        check_number("timeout", timeout)
        if deadline is not None:
            check_number("deadline", deadline)
        for name, fields in (
            ("default_headers", default_headers),
            ("default_query", default_query),
            ("extra_body", extra_body),
            ("query_extra_body", query_extra_body),
        ):
            if fields is not None and not isinstance(fields, Mapping):
                raise TypeError(f"{name} must be a dict, not {type(fields).__name__}")
        if too_long not in {"error", "truncate"}:
            raise ValueError(f'too_long must be "error" or "truncate", not {too_long!r}')
        for name, limit in (("max_tokens", max_tokens), ("max_request_tokens", max_request_tokens)):
            if limit is not None and (not isinstance(limit, int) or limit < 1):
                raise ValueError(f"{name} must be a positive integer or None, not {limit!r}")
        given = {
            "api_key": api_key,
            "base_url": base_url,
            "organization": organization,
            "default_headers": default_headers,
            "default_query": default_query,
        }
        self._settings: dict[str, Any] = {
            name: value for name, value in given.items() if value is not None
        }
        if client is not None and self._settings:
            raise ValueError(f"client= has its own {', '.join(self._settings)}: give one or other")
        self._bodies = {
            "document": dict(extra_body or {}),
            "query": dict((query_extra_body or extra_body) or {}),
        }
        self._limits = Limits(
            Tokens(self.api_name), batch_size, max_request_tokens, max_tokens, too_long
        )
        self._learnt = Learnt()
        self._pace = Pace(requests_per_minute, tokens_per_minute)
        self._tries = max_retries + 1
        self._timeout, self._deadline = timeout, deadline
        self._given = client
        self._client: openai.OpenAI | None = None
        # A connection belongs to the event loop in which it was opened.
        self._async_clients: ByLoop[AsyncGenerator[openai.AsyncOpenAI]] = ByLoop()
        self._lock = Lock()
        renew_in_children(self)

    # Embedding

    def embed_batch(self, items: Sequence[Content]) -> list[VectorLike]:
        """Return one vector for each text, in order, from as few requests as the limits allow.

        Raises:
            MissingExtraError: The `openai` package is not installed.
            InvalidItemError: A text is empty, which the service refuses.
            TooLongError: A text has too many tokens.
            ModelError: A request failed, or an answer was not one vector for each text.
        """
        return self._embed(items, "document")

    async def aembed_batch(self, items: Sequence[Content]) -> list[VectorLike]:
        """Return the same, without a thread.

        Connections are kept for the event loop, until `aclose` or the end of `asyncio.run`.

        Raises:
            MissingExtraError, InvalidItemError, ModelError: As `embed_batch`.
        """
        return await self._aembed(items, "document")

    def embed_queries(self, items: Sequence[Content]) -> list[VectorLike]:
        """Return one vector for each text to search for; `query_prefix` is added here."""
        return self._embed([self.query_prefix + str(item) for item in items], "query")

    async def aembed_queries(self, items: Sequence[Content]) -> list[VectorLike]:
        """Return the same, without a thread."""
        return await self._aembed([self.query_prefix + str(item) for item in items], "query")

    def estimate_tokens(self, item: Content) -> int:
        """Return about how many tokens a text has: exactly for OpenAI's where tiktoken is ready."""
        return self._limits.tokens.estimated(self._limits.shortened(str(item)))

    def check_item(self, item: Content) -> None:
        """Do nothing if the service may take a text.

        Raises:
            InvalidItemError: It is empty.
            TooLongError: It is certain that it has too many tokens.
        """
        if not item:
            raise InvalidItemError(f"The content is empty, which {self.model_id!r} refuses")
        self._check_length(self.document_prefix + str(item))

    def _check_length(self, text: str) -> None:
        if self._limits.too_long == "error" and self._limits.is_too_long(text):
            raise TooLongError(
                f"A text of {len(text)} characters has more than the "
                f"{self._limits.tokens_in_text} tokens that {self.model_id!r} takes. Shorten it, "
                'or give the model too_long="truncate"'
            )

    def _checked(self, items: Sequence[Content]) -> list[str]:
        for position, item in enumerate(items):
            if not item:
                refusal = InvalidItemError(
                    f"Item {position} of the batch is empty, which {self.model_id!r} refuses"
                )
                refusal.positions = (position,)
                raise refusal
            try:
                self._check_length(str(item))
            except TooLongError as error:
                error.positions = (position,)
                raise
        return [str(item) for item in items]

    def _embed(self, items: Sequence[Content], role: Role) -> list[VectorLike]:
        texts = self._checked(items)
        client = self._connect()
        requests = requests_for(texts, self._limits, self._learnt)
        try:
            request = next(requests)
            while True:
                request = requests.send(self._outcome(client, request, role))
        except StopIteration as end:
            vectors: list[VectorLike] = end.value
        return vectors

    async def _aembed(self, items: Sequence[Content], role: Role) -> list[VectorLike]:
        if self._given is not None and not _is_async(self._given):
            return await asyncio.to_thread(self._embed, items, role)
        texts = self._checked(items)
        client = await self._connect_async()
        requests = requests_for(texts, self._limits, self._learnt)
        try:
            request = next(requests)
            while True:
                request = requests.send(await self._aoutcome(client, request, role))
        except StopIteration as end:
            vectors: list[VectorLike] = end.value
        return vectors

    # One request, with its tries

    def _outcome(
        self, client: openai.OpenAI, texts: list[str], role: Role
    ) -> list[VectorLike] | Failure:
        deadline, failure = Deadline(self._deadline), None
        with suppress(ModelError):
            for attempt in tries(self._tries, deadline, awaited=False):
                with attempt:
                    wait = self._pace.wait_for(self._tokens_of(texts))
                    pause(wait)
                    deadline.extend(wait)
                    outcome = self._stopped(failure) or self._ask(client, texts, role, deadline)
                    if not isinstance(outcome, Failure):
                        return outcome
                    failure = outcome
                    raise failure.error
        return cast("Failure", failure)

    async def _aoutcome(
        self, client: openai.AsyncOpenAI, texts: list[str], role: Role
    ) -> list[VectorLike] | Failure:
        deadline, failure = Deadline(self._deadline), None
        with suppress(ModelError):
            async for attempt in tries(self._tries, deadline, awaited=True):
                with attempt:
                    wait = self._pace.wait_for(self._tokens_of(texts))
                    await apause(wait)
                    deadline.extend(wait)
                    outcome = self._stopped(failure) or await self._aask(
                        client, texts, role, deadline
                    )
                    if not isinstance(outcome, Failure):
                        return outcome
                    failure = outcome
                    raise failure.error
        return cast("Failure", failure)

    def _stopped(self, failure: Failure | None) -> Failure | None:
        """Return what comes of a request that is not to be sent any more; None if it is."""
        return (failure or Failure(not_called(self.model_id))) if is_stopped() else None

    def _ask(
        self, client: openai.OpenAI, texts: list[str], role: Role, deadline: Deadline
    ) -> list[VectorLike] | Failure:
        # The original error holds the key in its request's headers. So it is raised nowhere, nor
        # is anything raised while it is handled, which Python would remember as the context.
        body = _Body(self.model_id, len(texts), deadline)
        count(requests=1)
        try:
            with client.embeddings.with_streaming_response.create(
                **self._request(texts, role, deadline)
            ) as response:
                for chunk in response.iter_bytes():
                    body.add(chunk)
        except Exception as error:  # noqa: BLE001  a malformed answer can surface as anything
            return self._teller().of_exception(error, texts)
        return self._read(body, texts)

    async def _aask(
        self, client: openai.AsyncOpenAI, texts: list[str], role: Role, deadline: Deadline
    ) -> list[VectorLike] | Failure:
        body = _Body(self.model_id, len(texts), deadline)
        count(requests=1)
        try:
            async with client.embeddings.with_streaming_response.create(
                **self._request(texts, role, deadline)
            ) as response:
                async for chunk in response.iter_bytes():
                    body.add(chunk)
        except Exception as error:  # noqa: BLE001
            return self._teller().of_exception(error, texts)
        return self._read(body, texts)

    def _request(self, texts: list[str], role: Role, deadline: Deadline) -> dict[str, Any]:
        # The package looks at each text of input=, which takes as long as all the rest of it.
        extra: dict[str, Any] = {"input": texts, **self._bodies[role]}
        if not self._learnt.takes_base64:
            extra["encoding_format"] = _package().Omit()
        request: dict[str, Any] = {
            "model": self.api_name,
            "input": (),
            "encoding_format": "base64",
            "extra_body": extra,
            "timeout": max(deadline.left(self._timeout), 0.001),
        }
        if self.dimensions is not None:
            request["dimensions"] = self.dimensions
        return request

    def _read(self, body: _Body, texts: list[str]) -> list[VectorLike] | Failure:
        try:
            answer = json.loads(body.content())
            failure = self._teller().of_answer(answer, texts)
            if failure is not None:
                return failure
            vectors = vectors_in(answer, len(texts), self.model_id)
        except AnswerError as error:
            return Failure(error)
        except Exception as error:  # noqa: BLE001  no JSON, or nested too deeply
            return self._teller().unreadable(error)
        count(tokens=tokens_in(answer))
        return vectors

    def _tokens_of(self, texts: list[str]) -> int:
        return sum(map(self._limits.tokens.most, texts)) if self._pace.counts_tokens else 0

    def _teller(self) -> Teller:
        client = self._given or self._client
        settings = self._settings
        values: list[object] = [
            settings.get("api_key"),
            getattr(client, "api_key", None),
            os.environ.get("OPENAI_API_KEY"),
            *settings.get("default_headers", {}).values(),
            *self._address()[1].values(),
            *self._bodies["document"].values(),
            *self._bodies["query"].values(),
        ]
        secrets = tuple(value for value in values if isinstance(value, str) and len(value) > 3)
        return Teller(self.model_id, secrets, has_own_client=self._given is not None)

    # Connections

    def _address(self) -> tuple[str, dict[str, object]]:
        """Return the address, and the parameters of every request: of its query string, too."""
        given = self._settings.get("base_url") or os.environ.get("OPENAI_BASE_URL") or ""
        address, _, query = given.partition("?")
        return address, {**dict(parse_qsl(query)), **self._settings.get("default_query", {})}

    def _options(self, make_http_client: Callable[..., Any]) -> dict[str, Any]:
        """Return what a client is made with."""
        options = dict(self._settings)
        address, query = self._address()
        if address:
            options["base_url"] = address
        if query:
            options["default_query"] = query
        # Tries are counted here, and not in the client as well. A redirect is not followed: it
        # would take the texts to another address, or turn the request into another one.
        http_client = make_http_client(follow_redirects=False)
        return options | {"max_retries": 0, "timeout": self._timeout, "http_client": http_client}

    def _connect(self) -> openai.OpenAI:
        package = _package()
        if self._given is not None:
            if _is_async(self._given):
                raise ModelError(
                    f"Model {self.model_id!r} has an asynchronous client=, which can only be "
                    "awaited: use AsyncCollection, or give it an openai.OpenAI"
                )
            return cast("openai.OpenAI", self._given.with_options(max_retries=0))
        failure = None
        with self._lock:
            if self._client is None:
                try:
                    self._client = package.OpenAI(**self._options(package.DefaultHttpxClient))
                except Exception as error:  # noqa: BLE001  no key, or a malformed address
                    failure = self._teller().of_exception(error, ())
                else:
                    weakref.finalize(self, _close, self._client, os.getpid())
            client = self._client
        if failure is not None:
            raise failure.error
        return cast("openai.OpenAI", client)

    async def _connect_async(self) -> openai.AsyncOpenAI:
        package = _package()
        if self._given is not None:
            return cast("openai.AsyncOpenAI", self._given.with_options(max_retries=0))

        def make() -> AsyncGenerator[openai.AsyncOpenAI]:
            options = self._options(package.DefaultAsyncHttpxClient)
            return _until_loop_ends(package.AsyncOpenAI(**options))

        failure = None
        with self._lock:
            try:
                generator = self._async_clients.get(make)
            except Exception as error:  # noqa: BLE001
                failure = self._teller().of_exception(error, ())
        if failure is not None:
            raise failure.error
        return await generator.asend(None)

    async def aclose(self) -> None:
        """Close the connections of this event loop; the next call opens others."""
        with self._lock:
            generator = self._async_clients.pop()
        if generator is not None:
            await generator.aclose()

    def after_fork(self) -> None:
        """Open connections anew; called by itself in a forked child process.

        The parent goes on using the connections that the child inherited.
        """
        self._client = None


class _Body:
    """The parts of an answer, as far as it is not larger and slower than vectors can be."""

    def __init__(self, model_id: str, count: int, deadline: Deadline) -> None:
        self._name = f"Model {model_id!r}"
        self._largest, self._deadline = largest(count), deadline
        self._chunks: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> None:
        """Add a part."""
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > self._largest:
            raise AnswerError(f"{self._name}: the answer is larger than {self._largest} bytes")
        if self._deadline.left(1.0) <= 0:
            raise UnavailableError(f"{self._name}: the answer was not complete at the deadline")

    def content(self) -> bytes:
        """Return the whole."""
        return b"".join(self._chunks)


def _is_async(client: Any) -> bool:
    return isinstance(client, _package().AsyncOpenAI)


def _close(client: openai.OpenAI, pid: int) -> None:
    """Close the client in the process that opened it, and in no child of that."""
    if os.getpid() == pid:
        client.close()


async def _until_loop_ends(client: openai.AsyncOpenAI) -> AsyncGenerator[openai.AsyncOpenAI]:
    """Yield the client; an event loop that shuts down closes its generators, and so the client."""
    try:
        while True:
            yield client
    finally:
        await client.close()


def _package() -> Any:
    try:
        with importing():
            import openai
    except ImportError:
        raise MissingExtraError("openai", "openai") from None
    return openai


def from_options(model_id: str, options: Mapping[str, Any]) -> OpenAIEmbeddingModel:
    """Return a model as an application's configuration describes it.

    Args:
        model_id: Its id.
        options: The keyword arguments of `OpenAIEmbeddingModel`.

    Raises:
        TypeError, ValueError: There is no such argument, or it is none that it can be. The message
            shows no value that could be a key.
    """
    known = signature(OpenAIEmbeddingModel).parameters.keys() - {"model_id"}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise TypeError(
            f"the model {model_id!r} has no setting {', '.join(map(repr, unknown))}; there are "
            + ", ".join(sorted(known))
        )
    try:
        return OpenAIEmbeddingModel(model_id, **options)
    except (TypeError, ValueError) as error:
        raise type(error)(f"the model {model_id!r}: {error}") from None


def register(
    add: Callable[[SupportsEmbedding, tuple[str, ...]], None],
    *,
    api_key: str | None = None,
    base_url: str | None = None,
) -> None:
    """Add the six models; the `openai` package is imported by their first call."""
    for model_id, api_name, dimensions, aliases in MODELS:
        model = OpenAIEmbeddingModel(
            model_id,
            api_name=api_name,
            dimensions=dimensions,
            api_key=api_key,
            base_url=base_url,
        )
        add(model, aliases)

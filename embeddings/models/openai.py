"""OpenAI's embedding models, and services that speak its protocol. Extra: `openai`."""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InvalidItemError, MissingExtraError, ModelError
from .base import Content, EmbeddingModel, Setting, SupportsEmbedding

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

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

# The error codes that a message of ours shows. A service could echo the request in any other.
SHOWN_CODES = {
    "context_length_exceeded",
    "insufficient_quota",
    "invalid_api_key",
    "model_not_found",
    "rate_limit_exceeded",
    "unsupported_country_region_territory",
}


class OpenAIEmbeddingModel(EmbeddingModel):
    """A model behind OpenAI's `/embeddings`.

    The key and the address come from the arguments or, when the model is first called, from
    OPENAI_API_KEY and OPENAI_BASE_URL. Rate limits, server errors and broken connections are
    tried again by the `openai` package; an exhausted quota is not. A forked child process opens
    connections of its own.

    Args:
        model_id: The name under which collections remember the model.
        api_name: What the service calls it; `model_id` by default.
        dimensions: The number of dimensions to ask the service for; None for its own.
        api_key: Instead of OPENAI_API_KEY.
        base_url: Instead of OPENAI_BASE_URL, for example of a compatible service.
        batch_size: The most texts in one request; the service takes 2,048.
        max_retries: How often a failed request is sent again.
        timeout: Seconds to wait for an answer.
    """

    def __init__(
        self,
        model_id: str,
        *,
        api_name: str | None = None,
        dimensions: int | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        batch_size: int = 100,
        max_retries: int = 2,
        timeout: float = 60.0,
    ) -> None:
        self.model_id = model_id
        self.api_name = api_name or model_id
        self.dimensions = dimensions
        self.batch_size = batch_size
        self._options = {
            "api_key": api_key,
            "base_url": base_url,
            "max_retries": max_retries,
            "timeout": timeout,
        }
        self._client: openai.OpenAI | None = None
        # A connection belongs to the event loop in which it was opened.
        self._async_clients: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, AsyncGenerator[openai.AsyncOpenAI]
        ] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        _INSTANCES.add(self)

    def embed_batch(self, items: Sequence[Content]) -> list[VectorLike]:
        """Return one vector for each text, in order, from one request.

        Raises:
            MissingExtraError: The `openai` package is not installed.
            InvalidItemError: A text is empty, which the service refuses.
            ModelError: The request failed, or the answer was not one vector for each text.
        """
        request = self._request(items)
        client = self._connect()
        with self._failures():
            response = client.embeddings.create(**request, encoding_format="base64")
            return self._in_order(response.data, len(items))

    async def aembed_batch(self, items: Sequence[Content]) -> list[VectorLike]:
        """Return the same, without a thread.

        Connections are kept for the event loop, until `aclose` or the end of `asyncio.run`.

        Raises:
            MissingExtraError, InvalidItemError, ModelError: As `embed_batch`.
        """
        request = self._request(items)
        client = await self._connect_async()
        with self._failures():
            response = await client.embeddings.create(**request, encoding_format="base64")
            return self._in_order(response.data, len(items))

    def after_fork(self) -> None:
        """Renew the lock and open connections anew; called by itself in a forked child process.

        The parent goes on using the connections that the child inherited.
        """
        self._lock = threading.Lock()
        self._client = None

    def _request(self, items: Sequence[Content]) -> dict[str, Any]:
        for position, item in enumerate(items):
            if not item:
                raise InvalidItemError(
                    f"Item {position} of the batch is empty, which {self.model_id!r} refuses",
                    position,
                )
        request: dict[str, Any] = {"model": self.api_name, "input": list(items)}
        if self.dimensions is not None:
            request["dimensions"] = self.dimensions
        return request

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except ModelError:
            raise
        except Exception as error:  # noqa: BLE001  a malformed answer can surface as anything
            # `from None`, because the original error holds the request's headers with the key.
            raise ModelError(self._describe(error)) from None

    def _in_order(self, data: Any, count: int) -> list[VectorLike]:
        embeddings = {item.index: item.embedding for item in data}
        if len(data) != count or embeddings.keys() != set(range(count)):
            raise ModelError(
                f"Model {self.model_id!r} answered {count} texts with {len(data)} vectors, "
                f"numbered {sorted(embeddings)[:10]}"
            )
        return [_values(embeddings[index]) for index in range(count)]

    def _describe(self, error: Exception) -> str:
        status = getattr(error, "status_code", None)
        code = getattr(error, "code", None)
        details = [type(error).__name__]
        if status is not None:
            details.append(f"HTTP {status}")
        if isinstance(code, str) and code in SHOWN_CODES:
            details.append(code)
        hint = ""
        if status == 401 or (status is None and type(error).__name__ == "OpenAIError"):
            hint = ". Set OPENAI_API_KEY or pass api_key="
        return f"Model {self.model_id!r}: the service failed ({', '.join(details)}){hint}"

    def _connect(self) -> openai.OpenAI:
        openai = _package()
        with self._lock:
            if self._client is None:
                with self._failures():  # there is no key, or the address is malformed
                    self._client = openai.OpenAI(
                        **self._options,
                        http_client=openai.DefaultHttpxClient(
                            event_hooks={"response": [_refuse_retry_of_exhausted_quota]}
                        ),
                    )
                weakref.finalize(self, _close, self._client, os.getpid())
            return self._client

    async def aclose(self) -> None:
        """Close the connections of this event loop; the next call opens others."""
        with self._lock:
            generator = self._async_clients.pop(asyncio.get_running_loop(), None)
        if generator is not None:
            await generator.aclose()

    async def _connect_async(self) -> openai.AsyncOpenAI:
        openai = _package()
        loop = asyncio.get_running_loop()
        with self._lock:
            generator = self._async_clients.get(loop)
            if generator is None:
                with self._failures():
                    client = openai.AsyncOpenAI(
                        **self._options,
                        http_client=openai.DefaultAsyncHttpxClient(
                            event_hooks={"response": [_arefuse_retry_of_exhausted_quota]}
                        ),
                    )
                generator = self._async_clients[loop] = _until_loop_ends(client)
        return await generator.asend(None)


# Every model of this class that is alive: a forked child renews their locks.
_INSTANCES: weakref.WeakSet[OpenAIEmbeddingModel] = weakref.WeakSet()


def _after_fork() -> None:
    for model in _INSTANCES:
        model.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


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
        import openai
    except ImportError:
        raise MissingExtraError("openai", "openai") from None
    return openai


def _values(embedding: Any) -> VectorLike:
    if isinstance(embedding, str):  # a service that does not know base64 answers with numbers
        try:
            return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
        except (binascii.Error, ValueError):
            raise ModelError("the service answered with a malformed vector") from None
    return embedding  # type: ignore[no-any-return]


def _refuse_retry_of_exhausted_quota(response: Any) -> None:
    if response.status_code == 429 and b"insufficient_quota" in response.read():
        response.headers["x-should-retry"] = "false"  # a header that the openai package obeys


async def _arefuse_retry_of_exhausted_quota(response: Any) -> None:
    if response.status_code == 429 and b"insufficient_quota" in await response.aread():
        response.headers["x-should-retry"] = "false"


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

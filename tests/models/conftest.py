"""A service on this machine, and models that talk to it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from embeddings.models.openai import OpenAIEmbeddingModel
from tests.provider import KEY, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def _clear_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("OPENAI_") or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)


@pytest.fixture
def server() -> Iterator[Server]:
    """A service of its own for the test."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def open_model(server: Server) -> Callable[..., OpenAIEmbeddingModel]:
    """Make a model that talks to the server, and tries once unless told otherwise."""

    def open_model(model_id: str = "toy", **options: Any) -> OpenAIEmbeddingModel:
        chosen: dict[str, Any] = {"api_key": KEY, "base_url": server.base_url, "timeout": 10.0}
        return OpenAIEmbeddingModel(model_id, **({"max_retries": 0} | chosen | options))

    return open_model

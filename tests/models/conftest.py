"""A service on this machine, and models that talk to it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.provider import Server, forget_openai, model_of, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embeddings.models.openai import OpenAIEmbeddingModel


@pytest.fixture(autouse=True)
def _clear_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_openai(monkeypatch)


@pytest.fixture
def server() -> Iterator[Server]:
    """A service of its own for the test."""
    with running() as server:
        yield server


@pytest.fixture
def open_model(server: Server) -> Callable[..., OpenAIEmbeddingModel]:
    """Make a model that talks to it, and tries once unless told otherwise."""
    return partial(model_of, server)

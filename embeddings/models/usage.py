"""What the call of a model took: requests to its service, and tokens as the service counts them."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Usage:
    """What was counted while a model was called.

    Attributes:
        requests: To the service, those that failed included; 1 of a model that counts none.
        tokens: As the service counts them; 0 where it does not say.
    """

    requests: int = 0
    tokens: int = 0
    is_counted: bool = False
    """Whether the model counts by itself."""


_current: ContextVar[Usage | None] = ContextVar("embeddings_usage", default=None)


def count(requests: int = 0, tokens: int = 0) -> None:
    """Add to what the call in progress took. A model calls it, once a request."""
    usage = _current.get()
    if usage is not None:
        usage.is_counted = True
        usage.requests += requests
        usage.tokens += tokens


@contextmanager
def counted(usage: Usage) -> Iterator[None]:
    """Count what the block takes, one call of a model."""
    token = _current.set(usage)
    try:
        yield
    finally:
        _current.reset(token)
        if not usage.is_counted:
            usage.requests += 1

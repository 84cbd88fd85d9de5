"""Spans of OpenTelemetry, one for each call of a model, where its API is installed."""

from __future__ import annotations

import functools
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from ..forks import importing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from ..vectors import Float32
    from .base import SupportsEmbedding
    from .usage import Usage


def traced(
    model: SupportsEmbedding, count: int, usage: Usage
) -> AbstractContextManager[Callable[[Sequence[Float32]], None]]:
    """Return a block in a span, which is told the vectors. It holds no content and no message.

    Source: OpenTelemetry's semantic conventions for generative AI, embeddings.

    Args:
        model: What is called.
        count: The number of items.
        usage: What the call takes, complete when the block ends.
    """
    trace = _trace()
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return NOT_TRACED  # nobody has set a provider, so nothing would be recorded
    return _span(trace, model, count, usage)


def _note_nothing(vectors: Sequence[Float32]) -> None:
    pass


NOT_TRACED = nullcontext(_note_nothing)


@contextmanager
def _span(
    trace: Any, model: SupportsEmbedding, count: int, usage: Usage
) -> Iterator[Callable[[Sequence[Float32]], None]]:
    name = getattr(model, "api_name", model.model_id)
    provider = getattr(model, "provider", None)
    attributes = {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": provider or type(model).__module__.partition(".")[0],
        "gen_ai.request.model": name,
        "embeddings.batch.size": count,
    }
    with trace.get_tracer("embeddings").start_as_current_span(
        f"embeddings {name}",
        kind=trace.SpanKind.CLIENT if provider else trace.SpanKind.INTERNAL,
        attributes=attributes,
        record_exception=False,  # the message of another model's may hold contents
        set_status_on_exception=False,
    ) as span:

        def note(vectors: Sequence[Float32]) -> None:
            if vectors:
                span.set_attribute("gen_ai.embeddings.dimension.count", vectors[0].size)

        try:
            yield note
        except BaseException as error:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(trace.StatusCode.ERROR)
            raise
        finally:
            if usage.tokens:
                span.set_attribute("gen_ai.usage.input_tokens", usage.tokens)


@functools.cache
def _trace() -> Any:
    try:
        with importing():
            from opentelemetry import trace
    except ImportError:
        return None
    return trace

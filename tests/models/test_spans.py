"""What a tracer is told of calls of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from embeddings import cached
from embeddings.errors import EmbeddingsError
from embeddings.testing import DeterministicModel
from tests.provider import KEY, SECRETS, error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Open

sdk = pytest.importorskip("opentelemetry.sdk.trace")
pytestmark = pytest.mark.once


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What is exported, of a provider that is the test's alone."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


@pytest.mark.parametrize("db", ["session", "async_aiosqlite_session"], indirect=True)
def test_a_call_is_a_span(opened: Open, spans, service, open_model, tmp_path):
    """As the conventions for generative AI have it, within the host's own."""
    from opentelemetry.trace import get_tracer

    model = cached(open_model("mine", api_name="toy", batch_size=2), tmp_path / "paid.db")
    docs = opened(model=model)
    with get_tracer("a host").start_as_current_span("import") as parent:
        docs.embed_multi([(str(n), f"{SECRETS[0]} {n}") for n in range(3)], concurrency=2)
    docs.similar(SECRETS[1])
    *batches, own, query = sorted(spans.get_finished_spans(), key=lambda span: span.end_time)
    assert own.name == "import"
    assert {span.parent.span_id for span in batches} == {parent.get_span_context().span_id}
    assert {span.attributes["embeddings.batch.size"] for span in batches} == {1, 2}
    for span in (*batches, query):
        assert (span.name, span.kind.name) == ("embeddings toy", "CLIENT")
        assert dict(span.attributes) | {"embeddings.batch.size": 0} == {
            "gen_ai.operation.name": "embeddings",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "toy",
            "gen_ai.usage.input_tokens": 1,
            "gen_ai.embeddings.dimension.count": 4,
            "embeddings.batch.size": 0,
        }
        assert span.end_time >= span.start_time


def test_a_failure_is_told_without_its_words(spans, service, open_model, session):
    """Neither keys nor contents."""
    from embeddings import Collection

    service.usual = error(401, "invalid_api_key")
    with pytest.raises(EmbeddingsError):
        Collection("docs", session, model=open_model()).embed("a", SECRETS[0])
    Collection("other", session, model=DeterministicModel()).embed("a", SECRETS[0])
    failed, local = spans.get_finished_spans()
    assert failed.attributes["error.type"] == "AuthenticationError"
    assert failed.status.status_code.name == "ERROR"
    assert not failed.events
    shown = failed.to_json() + local.to_json()
    assert not any(secret in shown for secret in (KEY, *SECRETS))
    assert (local.kind.name, local.attributes["gen_ai.provider.name"]) == ("INTERNAL", "embeddings")

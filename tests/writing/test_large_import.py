"""Many items through a service of whose requests 2 % fail: all are stored, in constant memory."""

from __future__ import annotations

import gc
import importlib
import itertools
import os
import threading
import tracemalloc
from typing import TYPE_CHECKING

from embeddings import Collection
from tests.provider import cut_short, error, hang_up, reset, right, vector_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

    from embeddings.models.openai import OpenAIEmbeddingModel
    from tests.provider import Handler, Request, Server

ITEMS = int(os.environ.get("EMBEDDINGS_ITEMS", "1000"))
BATCH = max(ITEMS // 1000, 10)
EVERY = 50  # one request in so many fails
FAILURES = (
    error(429, "rate_limit_exceeded", retry_after="0.05"),
    error(503),
    reset,
    error(429, None, retry_after_ms="20"),
    cut_short,
    error(500),
    hang_up,
)
MORE = min(500 * ITEMS, 2_000_000)  # bytes by which what is held may grow after a fifth of the way


def text_of(number: int) -> str:
    """Return a text, of which four fifths of all are more than `MORE`."""
    return f"text {number} {'of many ' * 75}"


def test_two_of_a_hundred_requests_fail(
    engine: Engine, service: Server, open_model: Callable[..., OpenAIEmbeddingModel]
):
    """No more requests than are needed and the repeated ones; nothing is asked for twice."""
    numbers, failures, lock = itertools.count(1), itertools.cycle(FAILURES), threading.Lock()
    answered = failed = 0

    def answer(handler: Handler, request: Request) -> None:
        nonlocal answered, failed
        with lock:
            fails = next(numbers) % EVERY == 0
            answered, failed = answered + (not fails), failed + fails
            service.requests.clear()  # else they are what grows
        (next(failures) if fails else right)(handler, request)

    def entries() -> Iterator[tuple[str, str]]:
        return ((f"{n:07}", text_of(n)) for n in range(ITEMS))

    held: list[int] = []

    def progress(done: int, total: int | None) -> None:
        assert total is None
        if done >= ITEMS // 5 * (len(held) + 1):
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])

    service.usual, service.keeps_alive = answer, True
    docs = Collection("docs", engine, model=open_model(concurrency=8, max_retries=6))
    importlib.import_module("openai")  # which takes long where memory is traced
    tracemalloc.start()
    try:
        report = docs.embed_multi(entries(), batch_size=BATCH, store=True, progress=progress)
    finally:
        tracemalloc.stop()
    needed = -(-ITEMS // BATCH)
    assert (report.embedded, docs.count(), report.skipped) == (ITEMS, ITEMS, ())
    assert (answered, report.requests) == (needed, needed + failed)
    assert failed >= needed // EVERY > 0
    assert len(held) == 5
    assert max(held[1:]) < held[0] + MORE
    for number in (0, ITEMS // 2, ITEMS - 1):
        record = docs.get(f"{number:07}")
        assert record is not None
        assert record.content == text_of(number)
        assert record.embedding.tolist() == vector_of(text_of(number))
    assert docs.embed_multi(itertools.islice(entries(), 100)).unchanged == 100

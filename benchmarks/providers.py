"""Embedding through a service, against the ideal: as fast as its latency and the rows allow.

    python -m tests.server python -m benchmarks.providers [--items 10000] [--at-once 8] [--rounds 3]

The service is a process of its own that answers each request after 100 ms. The ideal is the number
of requests, divided by those in flight and rounded up, times the latency, plus the time that
`store_vectors` takes for the same rows in the same round. What the library costs beside the service
is CPU time an item, with a model that costs nothing, less that of `store_vectors`.

The peers do the same work through the same service: `llm` into an SQLite file, and
`langchain-openai` with `langchain-postgres` into a table of the same server, where they are
installed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import create_engine, make_url
from sqlalchemy.ext.asyncio import create_async_engine

import embeddings
from benchmarks.measure import FakeModel, ratio
from embeddings import AsyncCollection, Collection
from embeddings.models.openai import OpenAIEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LATENCY = 0.1  # seconds
BATCH = 100
DIMENSIONS = 384


class Service(BaseHTTPRequestHandler):
    """Answers after the latency, with vectors that were packed beforehand."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    packed = tuple(
        base64.b64encode(row.tobytes()).decode()
        for row in np.random.default_rng(0).standard_normal((997, DIMENSIONS)).astype("<f4")
    )

    def do_POST(self) -> None:
        arrived = time.perf_counter()
        texts = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
        data = [
            {"object": "embedding", "index": at, "embedding": self.packed[hash(text) % 997]}
            for at, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": 5 * len(texts), "total_tokens": 5 * len(texts)}
        body = json.dumps({"object": "list", "data": data, "usage": usage}).encode()
        time.sleep(max(LATENCY - (time.perf_counter() - arrived), 0))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def serve() -> None:
    """Be the service, and say where."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()


class Rows:
    """The items of one round, in collections that are new each time."""

    def __init__(self, items: int) -> None:
        self.texts = [f"text {number} about one thing or another" for number in range(items)]
        matrix = np.random.default_rng(1).standard_normal((items, DIMENSIONS)).astype(np.float32)
        self.vectors = list(matrix)
        self._names = map(str, itertools.count())
        self.free = FakeModel(dict(zip(self.texts, self.vectors, strict=True)))

    def name(self) -> str:
        return next(self._names)

    def entries(self) -> Iterator[tuple[str, str]]:
        return ((f"{number:06}", text) for number, text in enumerate(self.texts))

    def stored(self) -> Iterator[tuple[str, Any]]:
        return ((f"{number:06}", vector) for number, vector in enumerate(self.vectors))


def compare(
    what: str,
    embed: Callable[[], float],
    store: Callable[[], float],
    options: argparse.Namespace,
) -> None:
    """Print the ratio of embedding to the ideal."""
    rounds = math.ceil(math.ceil(options.items / BATCH) / options.at_once)
    ratio(
        f"{what}: {options.items:,} x {DIMENSIONS}, {options.at_once} in flight / ideal",
        embed,
        lambda: rounds * LATENCY + store(),
        options.rounds,
        "1.15",
    )


def embedding(engine: Any, model: Any, rows: Rows, at_once: int) -> Callable[[], float]:
    """Return what embeds all items into a new collection, and tells how long it took."""

    def embed() -> float:
        docs = Collection(rows.name(), engine, model=model)
        began = time.perf_counter()
        docs.embed_multi(rows.entries(), batch_size=BATCH, concurrency=at_once)
        taken = time.perf_counter() - began
        docs.delete()
        return taken

    return embed


def synchronous(
    what: str, engine: Any, model: Any, rows: Rows, options: argparse.Namespace
) -> None:
    """Measure on an engine."""

    def store() -> float:
        docs = Collection(rows.name(), engine, model_id="none")
        began = time.perf_counter()
        docs.store_vectors(rows.stored(), batch_size=BATCH)
        taken = time.perf_counter() - began
        docs.delete()
        return taken

    compare(what, embedding(engine, model, rows, options.at_once), store, options)


def against_llm(
    engine: Any, model: Any, address: str, rows: Rows, options: argparse.Namespace
) -> None:
    """Print the ratio to `llm`, through its own model of OpenAI's."""
    if find_spec("llm") is None:
        print("llm is not installed")
        return
    import llm
    import sqlite_utils

    os.environ |= {"OPENAI_BASE_URL": address, "OPENAI_API_KEY": "unused"}
    theirs: Any = llm.get_embedding_model("3-small")  # type: ignore[no-untyped-call]

    def embed() -> float:
        with tempfile.TemporaryDirectory() as folder:
            database = sqlite_utils.Database(Path(folder, "llm.db"))
            docs = llm.Collection("docs", database, model=theirs)
            began = time.perf_counter()
            docs.embed_multi(rows.entries(), batch_size=BATCH)
            taken = time.perf_counter() - began
            database.close()
        return taken

    ours = embedding(engine, model, rows, options.at_once)
    ratio(f"SQLite: {options.items:,} x {DIMENSIONS} / llm", ours, embed, options.rounds, "1")


def against_langchain(
    engine: Any, model: Any, address: str, rows: Rows, options: argparse.Namespace
) -> None:
    """Print the ratio to `langchain-openai` with `langchain-postgres`."""
    if find_spec("langchain_openai") is None or find_spec("langchain_postgres") is None:
        print("langchain-openai or langchain-postgres is not installed")
        return
    from langchain_openai import OpenAIEmbeddings
    from langchain_postgres import PGEngine, PGVectorStore
    from pydantic import SecretStr

    # Its own counting of tokens would fetch a vocabulary.
    theirs = OpenAIEmbeddings(
        model="service",
        base_url=address,
        api_key=SecretStr("unused"),
        chunk_size=BATCH,
        check_embedding_ctx_length=False,
    )
    peer = PGEngine.from_connection_string(engine.url.render_as_string(hide_password=False))
    ids = [str(uuid.UUID(int=number)) for number in range(options.items)]

    def embed() -> float:
        peer.init_vectorstore_table("langchain", DIMENSIONS, overwrite_existing=True)
        store = PGVectorStore.create_sync(peer, theirs, "langchain")
        began = time.perf_counter()
        for start in range(0, options.items, BATCH):
            part = slice(start, start + BATCH)
            store.add_texts(rows.texts[part], ids=ids[part])
        return time.perf_counter() - began

    ours = embedding(engine, model, rows, options.at_once)
    ratio(
        f"psycopg: {options.items:,} x {DIMENSIONS} / langchain", ours, embed, options.rounds, "1"
    )


def cost(engine: Any, rows: Rows, rounds: int) -> None:
    """Print what the library costs an item beside the model and the rows, in CPU time."""
    differences = []
    for _ in range(rounds):
        one = Collection(rows.name(), engine, model=rows.free)
        other = Collection(rows.name(), engine, model_id="none")
        began = time.process_time()
        one.embed_multi(rows.entries(), batch_size=BATCH)
        between = time.process_time()
        other.store_vectors(rows.stored(), batch_size=BATCH)
        ended = time.process_time()
        differences.append((between - began - (ended - between)) / len(rows.texts) * 1e6)
        one.delete()  # else the next round finds the same contents in it, and passes over each
        other.delete()
    print(
        f"{'SQLite: more than store_vectors, CPU time an item':66} "
        f"{statistics.median(differences):8.1f} µs  ({min(differences):.1f} to "
        f"{max(differences):.1f})   to reach: 20 µs",
        flush=True,
    )


def asynchronous(what: str, url: Any, model: Any, rows: Rows, options: argparse.Namespace) -> None:
    """Measure on an asynchronous engine."""
    with asyncio.Runner() as loop:
        engine = create_async_engine(url)

        async def embed() -> float:
            docs = AsyncCollection[str](rows.name(), engine, model=model)
            began = time.perf_counter()
            await docs.embed_multi(rows.entries(), batch_size=BATCH, concurrency=options.at_once)
            taken = time.perf_counter() - began
            await docs.delete()
            return taken

        async def store() -> float:
            docs = AsyncCollection[str](rows.name(), engine, model_id="none")
            began = time.perf_counter()
            await docs.store_vectors(rows.stored(), batch_size=BATCH)
            taken = time.perf_counter() - began
            await docs.delete()
            return taken

        compare(what, lambda: loop.run(embed()), lambda: loop.run(store()), options)
        loop.run(engine.dispose())


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", action="store_true")
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.providers", "--serve"], stdout=subprocess.PIPE, text=True
    ) as service:
        assert service.stdout is not None
        port = service.stdout.readline().strip()
        address = f"http://127.0.0.1:{port}/v1"
        model = OpenAIEmbeddingModel("service", api_key="unused", base_url=address, max_tokens=None)
        model.embed("warm up")
        rows = Rows(options.items)
        try:
            with tempfile.TemporaryDirectory() as folder:
                engine = create_engine(f"sqlite:///{Path(folder, 'bench.db')}")
                embeddings.migrate(engine)
                Collection(rows.name(), engine, model=rows.free).embed("warm", rows.texts[0])
                synchronous("SQLite", engine, model, rows, options)
                cost(engine, rows, options.rounds)
                against_llm(engine, model, address, rows, options)
                engine.dispose()
            if "POSTGRESQL_URL" in os.environ:
                url = make_url(os.environ["POSTGRESQL_URL"])
                engine = create_engine(url)
                embeddings.migrate(engine)
                synchronous("psycopg", engine, model, rows, options)
                against_langchain(engine, model, address, rows, options)
                engine.dispose()
                awaited = url.set(drivername="postgresql+asyncpg")
                asynchronous("asyncpg", awaited, model, rows, options)
        finally:
            service.terminate()


if __name__ == "__main__":
    main()

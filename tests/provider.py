"""A service that speaks OpenAI's protocol, on this machine, and its ways to misbehave."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import threading
import traceback
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from embeddings.models.openai import OpenAIEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

KEY = "sk-canary-4f1d8e"
SECRETS = ("alpha secret", "beta secret")

Answer = Any
"""A callable that is given the handler and the request, and answers."""


class Request(NamedTuple):
    """What the server was sent."""

    method: str
    path: str
    authorization: str | None
    body: dict[str, Any]
    headers: dict[str, str]


class Server(ThreadingHTTPServer):
    """Gives the answers of `script` in turn, and afterwards the usual ones, which are right."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Answer] = []
        self.usual: Answer = right
        self.requests: list[Request] = []
        self.released = threading.Event()
        self.keeps_alive = False
        self.base_url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away."""


class Handler(BaseHTTPRequestHandler):
    """One request to the server."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        size = int(self.headers["content-length"])
        request = Request(
            self.command,
            self.path,
            self.headers["authorization"],
            json.loads(self.rfile.read(size)),
            {name.lower(): value for name, value in self.headers.items()},
        )
        self.server.requests.append(request)
        answer = self.server.script.pop(0) if self.server.script else self.server.usual
        answer(self, request)

    def send(
        self, body: bytes, status: int = 200, kind: str = "application/json", **headers: str
    ) -> None:
        self.send_response(status)
        headers |= {"content-type": kind, "content-length": str(len(body))}
        if not self.server.keeps_alive:
            headers["connection"] = "close"
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def running() -> Iterator[Server]:
    """Yield a server that answers until the end of the block."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def forget_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the machine's own settings of services out of the environment.

    No certificate is looked up either: to read those of the machine takes a third of the time of a
    test, for each client anew, and the service on this machine has none.
    """
    for name in list(os.environ):
        if name.upper().startswith("OPENAI_") or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(Path(__file__).with_name("no certificates")))


def model_of(server: Server, model_id: str = "toy", **options: Any) -> OpenAIEmbeddingModel:
    """Return a model that talks to a server: one request at a time, tried once, by default."""
    usual = {"max_retries": 0, "concurrency": 1, "timeout": 10.0}
    address = {"api_key": KEY, "base_url": server.base_url}
    return OpenAIEmbeddingModel(model_id, **(usual | address | options))


def vector_of(text: str) -> list[float]:
    """Return what the service makes of a text, exact in float32."""
    return [float(len(text)), float(ord(text[0])), 1.0, 0.5]


def packed(*values: float) -> str:
    """Return the values as the service packs them."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def entries(request: Request) -> list[dict[str, Any]]:
    """Return the right entries for a request."""
    return [
        {"object": "embedding", "index": index, "embedding": packed(*vector_of(text))}
        for index, text in enumerate(request.body["input"])
    ]


def answered(data: object) -> dict[str, Any]:
    """Return a whole answer with this data."""
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return {"object": "list", "model": "toy", "data": data, "usage": usage}


def right(handler: Handler, request: Request) -> None:
    """Answer as the service does."""
    handler.send(json.dumps(answered(entries(request))).encode())


def changed(change: Callable[[list[dict[str, Any]]], object]) -> Answer:
    """Return an answer whose data was changed: what `change` returns, or did to the list."""

    def answer(handler: Handler, request: Request) -> None:
        data = entries(request)
        result = change(data)
        handler.send(json.dumps(answered(data if result is None else result)).encode())

    return answer


def embedding(value: object) -> Answer:
    """Return an answer whose second vector is this."""
    return changed(lambda data: data[1].update(embedding=value))


def index(value: object, of: int = 1) -> Answer:
    """Return an answer of whose vectors one, the second by default, has this number."""
    return changed(lambda data: data[of].update(index=value))


def body(content: object, status: int = 200, **options: str) -> Answer:
    """Return an answer of this body, as it is or as JSON."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return lambda handler, request: handler.send(data, status, **options)


def error(status: int, code: object = None, **headers: str) -> Answer:
    """Return an error as the service words it; the message repeats the key and a content."""
    message = f"Incorrect API key provided: {KEY}. In: {SECRETS[0]}"
    return body(
        {"error": {"message": message, "type": code, "code": code, "param": None}},
        status,
        **headers,
    )


def cut_short(handler: Handler, request: Request) -> None:
    """Announce a whole answer, send half of it and close."""
    data = json.dumps(answered(entries(request))).encode()
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data[: len(data) // 2])
    handler.close_connection = True


def hang_up(handler: Handler, request: Request) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True


def reset(handler: Handler, request: Request) -> None:
    """Reset the connection."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.shutdown(socket.SHUT_RD)
    handler.close_connection = True


def keep_waiting(handler: Handler, request: Request) -> None:
    """Give no answer until the test is over."""
    handler.server.released.wait(30)
    handler.close_connection = True


def shown(raised: BaseException) -> str:
    """Return all that a log, a terminal or a debugger would show of an exception."""
    parts: list[str] = []
    seen: list[BaseException | None] = [None]
    waiting: list[BaseException | None] = [raised]
    while waiting:
        one = waiting.pop()
        if one in seen or one is None:
            continue
        seen.append(one)
        parts += [str(one), repr(one), repr(one.args), repr(one.__dict__)]
        parts += traceback.format_exception(one)
        waiting += [one.__context__, one.__cause__]
    return "".join(parts)

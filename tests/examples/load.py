"""Load on the examples: requests that read, and requests that read, change, embed and commit."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from tests.examples.serving import LONG, SECONDS_TO_START, copied, run, served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

WORKERS = os.environ.get("EMBEDDINGS_PROCESSES", "2")
JSON = {"Content-Type": "application/json"}
TOKEN = "a" * 32
# Its processes are forks of the first one; as it comes, each of them imports everything anew.
UVICORN = """
import multiprocessing
from uvicorn import _subprocess
from uvicorn.main import main
_subprocess.spawn = multiprocessing.get_context("fork")
main()
"""
FORM = {
    "Content-Type": "application/x-www-form-urlencoded",
    # What Django wants with a form, and nobody else looks at.
    "Cookie": f"csrftoken={TOKEN}",
    "X-CSRFToken": TOKEN,
}


class Client:
    """One connection to a server, kept open until the end of a `with`."""

    def __init__(self, address: str) -> None:
        self._connection = HTTPConnection(urlsplit(address).netloc, timeout=120)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(
        self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Return the status and the text of the answer."""
        self._connection.request(method, path, body, headers or {})
        answer = self._connection.getresponse()
        return answer.status, answer.read().decode()


def wait_for(address: str) -> None:
    """Return when the first of the server's processes listens, which may be after it says where."""
    end = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            with Client(address) as client:
                client.ask("GET", "/")
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


@dataclass(frozen=True)
class Example:
    """An example under a server of some processes, on a SQLite file of its own.

    Attributes:
        name: Its folder.
        commands: What is run before the server starts.
        server: The server.
        environment: For all of them.
        search: The path that searches.
        edit: The method and the path that change what has an id.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    server: tuple[str, ...]
    environment: dict[str, str]
    search: str
    edit: tuple[str, str]

    @contextmanager
    def served(self, folder: Path) -> Iterator[str]:
        """Yield the address."""
        here = copied(self.name, folder)
        for command in self.commands:
            run(*command, folder=here, **self.environment)
        with served(*self.server, folder=here, **self.environment) as address:
            wait_for(address)
            if self.name == "fastapi_app":
                with Client(address) as client:
                    for number in range(12):
                        note = {"title": f"Note {number}", "text": f"{number} loaves of bread"}
                        client.ask("POST", "/notes", json.dumps(note), JSON)
            yield address

    def ids(self, address: str) -> list[int]:
        """Return the ids of what there is."""
        with Client(address) as client:
            _, answer = client.ask("GET", self.search)
        found = re.findall(r'(?:/\w+/|"id":)(\d+)', answer)
        return sorted(map(int, set(found)))

    def read(self, client: Client) -> bool:
        """Search once, and return whether that went well."""
        return client.ask("GET", self.search)[0] == 200

    def change(self, client: Client, id: int, text: str) -> bool:
        """Change something once, and return whether that went well."""
        method, path = self.edit
        if method == "PUT":
            body, headers = json.dumps({"title": f"Number {id}", "text": text}), JSON
        else:
            named = {"title": f"Article {id}", "subject": f"Ticket {id}"}
            form = {**named, "text": text, "question": text, "published": "on"}
            body, headers = urlencode(form), FORM
        status, _ = client.ask(method, path.format(id), body, headers)
        return status in {200, 302}


EXAMPLES = (
    Example(
        "flask_app",
        (("flask", "db", "upgrade"), ("flask", "seed")),
        ("gunicorn", "app:create_app()", "--workers", WORKERS, "--bind", "127.0.0.1:0"),
        {},
        "/kitchen/?q=bread",
        ("POST", "/kitchen/{}/edit"),
    ),
    Example(
        "fastapi_app",
        (),
        (
            *(("uvicorn",) if LONG else ("-c", UVICORN)),
            *("main:app", "--workers", WORKERS, "--port", "0", "--no-access-log"),
        ),
        {},
        "/notes/search?q=bread",
        ("PUT", "/notes/{}"),
    ),
    Example(
        "django_app",
        (("manage", "migrate"), ("manage", "seed")),
        (
            *("gunicorn", "django.core.wsgi:get_wsgi_application()"),
            *("--workers", WORKERS, "--bind", "127.0.0.1:0"),
        ),
        {
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "SECRET_KEY": "of this load",
            "ALLOWED_HOSTS": "127.0.0.1",
        },
        "/bakery/?q=money+back",
        ("POST", "/bakery/{}/edit"),
    ),
)


def failed_edits(example: Example, address: str, *, writers: int, edits: int) -> tuple[int, int]:
    """Return how many changes and how many searches beside them failed.

    Args:
        example: What is served.
        address: Where.
        writers: Clients that change things at the same time.
        edits: Changes that each makes.
    """
    ids = example.ids(address)
    done = threading.Event()

    def write(number: int) -> int:
        with Client(address) as client:
            return sum(
                not example.change(client, ids[(number + at) % len(ids)], f"text {number} of {at}")
                for at in range(edits)
            )

    def read(_: int) -> int:
        failed = 0
        with Client(address) as client:
            while not done.is_set():
                failed += not example.read(client)
        return failed

    with ThreadPoolExecutor(writers + 2) as pool:
        reading = pool.map(read, range(2))
        try:
            failed = sum(pool.map(write, range(writers)))
        finally:
            done.set()
        return failed, sum(reading)


def searches(
    example: Example, address: str, *, readers: int, seconds: float, edits_a_second: float
) -> float:
    """Return how many searches a second are answered, beside one writer or, at 0, none."""
    ids = example.ids(address)
    end = time.monotonic() + seconds

    def read(_: int) -> int:
        number = 0
        with Client(address) as client:
            while time.monotonic() < end:
                assert example.read(client)
                number += 1
        return number

    def write() -> None:
        at = 0
        with Client(address) as client:
            while edits_a_second and time.monotonic() < end:
                assert example.change(client, ids[at % len(ids)], f"text {at}")
                at += 1
                time.sleep(1 / edits_a_second)

    with ThreadPoolExecutor(readers + 1) as pool:
        writing = pool.submit(write)
        number = sum(pool.map(read, range(readers)))
        writing.result()
    return number / seconds

"""The example for FastAPI: its own tests, and its server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests.examples.serving import PATIENCE, copied, run_its_tests, served, usually_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example."""
    return copied("fastapi_app", tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="module")
def url(empty_database: str) -> str:
    """The URL of an empty database, for asyncio."""
    return empty_database.replace("sqlite:", "sqlite+aiosqlite:")


@pytest.fixture(scope="module")
def site(folder: Path, url: str) -> Iterator[str]:
    """The address of the application under uvicorn, which creates its tables as it starts."""
    command = ("uvicorn", "main:app", "--port", "0")
    with served(*command, folder=folder, DATABASE_URL=url) as address:
        yield address


@usually_on("sqlite")
def test_its_own_tests_pass(folder: Path, url: str):
    """On either database; warnings are errors."""
    output = run_its_tests(folder, url)
    assert " passed" in output


def test_it_is_used_over_http(site: str):
    """Write, search, see more like this, fail half-way, delete."""
    bread = {"title": "Sourdough", "text": "Feed the starter, and bake a loaf of bread."}
    train = {"title": "Night trains 🚆", "text": "Sleep in a bunk, and wake up abroad."}
    with httpx.Client(base_url=site, timeout=PATIENCE) as client:

        def titles(path: str, **query: str) -> list[str]:
            return [note["title"] for note in client.get(path, params=query).json()]

        written = [client.post("/notes", json=note) for note in (bread, train)]
        assert [answer.status_code for answer in written] == [201, 201]
        assert titles("/notes/search", q="travelling by rail")[0] == "Night trains 🚆"
        id = written[0].json()["id"]
        assert titles(f"/notes/{id}/similar") == ["Night trains 🚆"]

        refused = client.post("/notes/import", json=[{"title": "Rye", "text": "rye"}, bread])
        assert refused.status_code == 409
        assert set(titles("/notes/search", q="rye")) == {"Sourdough", "Night trains 🚆"}

        assert client.delete(f"/notes/{id}").status_code == 204
        assert titles("/notes/search", q="bread") == ["Night trains 🚆"]

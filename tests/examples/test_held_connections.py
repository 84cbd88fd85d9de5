"""The examples for Flask and FastAPI, in this process: what is checked out while the model runs."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

import httpx

from embeddings.models.registry import substitute_models
from embeddings.testing import DeterministicModel
from tests.examples.serving import copied, run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import ModuleType

    import pytest

    from embeddings.models.base import Content

NEW = {"title": "Bread", "text": "flour and water"}
CHANGED = {"title": "Ferries", "text": "waves and a deck chair"}


class Watching(DeterministicModel):
    """Notes at each call how many connections of a pool are checked out."""

    def __init__(self, checked_out: Callable[[], int]) -> None:
        super().__init__()
        self.checked_out = checked_out
        self.seen: list[int] = []

    def embed_batch(self, items: Sequence[Content]) -> list[Any]:
        self.seen.append(self.checked_out())
        return super().embed_batch(items)


def loaded(file: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a file of an example."""
    name = f"example_{file.parent.name}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_flask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writing, editing, importing, searching: none, each time."""
    folder = copied("flask_app", tmp_path)
    example = loaded(folder / "app.py", monkeypatch)
    url = f"sqlite:///{tmp_path / 'app.db'}"
    # Not in this process, whose loggers its env.py would disable for all later tests.
    run("flask", "db", "upgrade", folder=folder, FLASK_SQLALCHEMY_DATABASE_URI=url)
    app = example.create_app({"SQLALCHEMY_DATABASE_URI": url})
    with app.app_context():
        engine = example.db.engine
    model = Watching(engine.pool.checkedout)
    with substitute_models(lambda _id, _given: model):
        client = app.test_client()
        form = {"published": "on"}
        assert client.post("/ours/write", data=NEW | form).status_code == 302
        assert client.post("/ours/1/edit", data=CHANGED | form).status_code == 302
        assert client.post("/ours/import", json=[NEW]).status_code == 201
        assert client.get("/ours/?q=deck+chair").status_code == 200
    engine.dispose()
    assert model.seen == [0, 0, 0, 0]


def test_fastapi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same of an API."""
    monkeypatch.setenv("DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path / 'app.db'}")
    example = loaded(copied("fastapi_app", tmp_path) / "main.py", monkeypatch)
    model = Watching(example.engine.pool.checkedout)

    async def use() -> None:
        async with example.app.router.lifespan_context(example.app):
            transport = httpx.ASGITransport(example.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                assert (await client.post("/notes", json=NEW)).status_code == 201
                assert (await client.put("/notes/1", json=CHANGED)).status_code == 200
                assert (await client.post("/notes/import", json=[NEW])).status_code == 201
                assert (await client.get("/notes/search?q=deck")).status_code == 200

    with substitute_models(lambda _id, _given: model):
        asyncio.run(use())
    assert model.seen == [0, 0, 0, 0]

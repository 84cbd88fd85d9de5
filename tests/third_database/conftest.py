"""The contract suite's core over a database that implements the port and nothing more."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

from tests.reaching import file_with_tables
from tests.third_database.dialect import Third

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def third_migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the tables of a third database, to be copied."""
    return file_with_tables(tmp_path_factory.mktemp("third"), Third.name)


@pytest.fixture
def third_engine(tmp_path: Path, third_migrated: Path) -> Iterator[Engine]:
    """An engine on a third database with the tables."""
    path = shutil.copy(third_migrated, tmp_path / "app.db")
    engine = create_engine(f"{Third.name}:///{path}")
    yield engine
    engine.dispose()


@pytest.fixture(params=["third"])
def db(third_engine: Engine) -> Iterator[Any]:
    """A host's session on it."""
    with Session(third_engine) as session:
        yield session


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not about the fixture `db`, or is about one of the other databases."""
    others = {item for item in items if "test_third_" in item.path.name and not _is_ours(item)}
    config.hook.pytest_deselected(items=list(others))
    items[:] = [item for item in items if item not in others]


def _is_ours(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("db") == "third"

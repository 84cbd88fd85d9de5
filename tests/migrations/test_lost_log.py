"""What other tools take away from beside the tables is told, and made again."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

import embeddings
from embeddings import Collection
from embeddings.cli import embeddings as program
from embeddings.testing import DeterministicModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXTS = [("a", "a happy hound"), ("b", "a dissatisfied cat")]
LOSSES = {
    "triggers": "DROP TRIGGER embeddings_log_insert; DROP TRIGGER embeddings_log_update",
    "log": "DROP TABLE embeddings_log",
    "rows": "DELETE FROM embeddings_log",
}
TOLD = {"triggers": "triggers of the change log", "log": "is missing", "rows": "was emptied"}


def by_engine(call: Callable[[Any], Any]) -> Callable[[Path], None]:
    def repair(path: Path) -> None:
        engine = create_engine(f"sqlite:///{path}")
        call(engine)
        engine.dispose()

    return repair


def by_opening(path: Path) -> None:
    Collection("docs", path, model=DeterministicModel()).close()


def by_program(path: Path) -> None:
    assert run(path, "migrate").exit_code == 0


def run(path: Path, *arguments: str) -> Any:
    return CliRunner().invoke(program, ["--database", str(path), *arguments])


REPAIRS = {
    "migrate": by_engine(embeddings.migrate),
    "install": by_engine(embeddings.install),
    "a path": by_opening,
    "the program": by_program,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a collection."""
    path = tmp_path / "app.db"
    with Collection("docs", path, model=DeterministicModel()) as docs:
        docs.embed_multi(TEXTS)
    return path


def lose(path: Path, what: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(LOSSES[what])
    connection.close()


@pytest.mark.parametrize("repair", REPAIRS)
@pytest.mark.parametrize("what", LOSSES)
def test_it_is_told_and_made_again(path: Path, what: str, repair: str):
    """By whatever brings tables up to date; searches are from memory then."""
    assert run(path, "status").exit_code == 0
    lose(path, what)
    told = run(path, "status")
    assert told.exit_code == 1
    assert TOLD[what] in told.output

    REPAIRS[repair](path)
    told = run(path, "status")
    assert (told.exit_code, "up to date" in told.output) == (0, True)
    with Collection("docs", path, model=DeterministicModel()) as docs:
        docs.warm()
        assert docs.status().strategy == "matrix"
        docs.embed("c", "a third")
        assert docs.similar("a third", 1)[0].id == "c"


def test_a_write_without_the_log_says_what_to_do(path: Path):
    """It fails, for `llm` too; the remedy is in the error, and in the documentation by its text."""
    engine = create_engine(f"sqlite:///{path}")
    lose(path, "log")
    docs = Collection("docs", engine, model=DeterministicModel())
    with pytest.raises(OperationalError, match=r"no such table: main\.embeddings_log") as raised:
        docs.embed("c", "a third")
    assert "embeddings.migrate(engine)" in raised.value.__notes__[0]
    engine.dispose()

"""The logger `embeddings`: what a search, a batch, a build and a migration write to it."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, select
from sqlalchemy.orm import Session, scoped_session

import embeddings
from embeddings import Collection, EmbeddingRecord
from embeddings.databases.sqlite.matrix.cache import CACHE
from embeddings.tables.migrate import head_revision
from embeddings.testing import DeterministicModel
from tests.forked import python
from tests.reaching import on_both, on_postgresql

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT = "a content that no log shows"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What is written to the log, at every level."""
    CACHE.clear()
    caplog.set_level(logging.DEBUG, "embeddings")
    yield caplog
    CACHE.clear()


def lines(log: pytest.LogCaptureFixture, level: int) -> list[str]:
    """Return the lines of a level since the last look, and that all are of the one logger."""
    assert {record.name for record in log.records} <= {"embeddings"}
    found = [record.getMessage() for record in log.records if record.levelno == level]
    assert CONTENT not in log.text
    return found


def shapes(found: list[str]) -> list[str]:
    """Return lines with times left out."""
    return [re.sub(r"[\d.]+ (ms|s)$", r"_ \1", line) for line in found]


@on_both
def test_each_batch_is_one_line(db: Any, model: DeterministicModel, log: Any):
    """How many items there were, and which of them the model was called for; no contents."""
    docs = Collection("docs", db, model=model)
    log.clear()
    docs.embed_multi(((str(n), f"{CONTENT} {n}") for n in range(5)), batch_size=2)
    docs.embed_multi([("0", f"{CONTENT} 0"), ("x", f"{CONTENT} 1"), ("y", CONTENT)])
    docs.embed("z", CONTENT, {"secret": CONTENT}, store=True)
    docs.store_vectors([("v", [1.0] * 256, None, CONTENT)])
    tail = "written without, {} unchanged, 0 skipped, _ ms"
    assert shapes(lines(log, logging.DEBUG)) == [
        f"batch in 'docs': 2 items, 2 embedded by 'deterministic', 0 {tail.format(0)}",
        f"batch in 'docs': 2 items, 2 embedded by 'deterministic', 0 {tail.format(0)}",
        f"batch in 'docs': 1 items, 1 embedded by 'deterministic', 0 {tail.format(0)}",
        f"batch in 'docs': 3 items, 1 embedded by 'deterministic', 1 {tail.format(1)}",
        f"batch in 'docs': 1 items, 0 embedded by 'deterministic', 1 {tail.format(0)}",
        "batch in 'docs': 1 vectors stored, _ ms",
    ]


@on_both
def test_a_plan_tells_of_each_call_of_the_model(db: Any, model: DeterministicModel, log: Any):
    """And of the batch that was written."""
    docs = Collection("docs", db, model=model)
    plan = docs.plan([(str(n), f"{CONTENT} {n}") for n in range(3)])
    log.clear()
    plan.embed(batch_size=2)
    docs.apply(plan)
    assert shapes(lines(log, logging.DEBUG)) == [
        "batch for 'docs': 2 embedded, _ ms",
        "batch for 'docs': 1 embedded, _ ms",
        "batch in 'docs': 3 items, 3 embedded by 'deterministic', 0 written without, 0 unchanged, "
        "0 skipped, _ ms",
    ]


def test_each_search_is_one_line(engine: Engine, model: DeterministicModel, log: Any):
    """Strategy, rows, candidates and time; and the build in between is one at INFO."""
    docs = Collection("docs", engine, model=model)
    docs.embed_multi([(str(n), f"{CONTENT} {n}") for n in range(30)])
    log.clear()
    for _ in range(3):
        docs.similar(CONTENT, 3)
    docs.similar_by_id("1", 3)
    docs.similar_multi([CONTENT, "other"], 3)
    docs.matches(CONTENT, 3)
    found = [re.sub(r"\d+ candidates", "_ candidates", line) for line in lines(log, logging.DEBUG)]
    reason = "the next search builds the matrix"
    matrix = "search in 'docs': matrix, 30 rows, _ candidates, _ ms"
    assert shapes(found) == [
        f"search in 'docs': scan ({reason}), 30 rows, _ candidates, _ ms",
        *[matrix] * 3,
        "2 searches in 'docs': matrix, 30 rows, _ candidates, _ ms",
        matrix,
    ]
    [built] = lines(log, logging.INFO)
    assert re.fullmatch(r"matrix of 'docs' built: 30 rows, \d+ bytes, \d+ ms", built)


@on_postgresql
def test_each_search_of_postgresql_is_one_line(db: Any, opened: Any, log: Any):
    """By the database, by an index, or as a part of the host's statement."""
    docs = opened("docs", model=DeterministicModel())
    docs.embed_multi([(str(n), f"{CONTENT} {n}") for n in range(30)])
    log.clear()
    docs.similar(CONTENT, 3)
    docs.matches(CONTENT, 3)
    docs.create_index()
    docs.similar(CONTENT, 3)
    assert shapes(lines(log, logging.DEBUG)) == [
        "search in 'docs': database, _ ms",
        "search in 'docs': database (as a part of your statement), _ ms",
        "search in 'docs': index, 6 candidates, _ ms",
    ]
    *begun, built, small = lines(log, logging.INFO)
    waits = "building the index of 'docs' waits for the transactions that are open by now"
    of_the_host = isinstance(db, Connection | Session | scoped_session)
    assert begun == ([] if of_the_host else [waits])
    assert re.fullmatch(r"index of 'docs' built: hnsw, 30 rows, \d+ bytes, .* s", built)
    assert "30 rows of 'docs' is as fast" in small


def test_a_second_call_of_the_model_is_a_warning(
    engine: Engine, model: DeterministicModel, log: Any
):
    """It costs the user: another writer was faster, while the model ran for something else."""
    docs = Collection("docs", engine, model=model)
    docs.embed("a", CONTENT)
    log.clear()
    embed_batch = model.embed_batch

    def beside_a_writer(items: Any) -> Any:
        docs.delete_items(["a"])
        return embed_batch(items)

    model.embed_batch = beside_a_writer  # type: ignore[method-assign]
    docs.embed_multi([("a", CONTENT), ("b", "something new")])
    assert lines(log, logging.WARNING) == [
        "others changed rows of 'docs' meanwhile: the model is called again for 1 items"
    ]


def test_a_call_of_the_model_that_took_over_is_a_warning(
    engine: Engine, model: DeterministicModel, log: Any
):
    """Where it is called: not for what it has embedded already."""
    docs = Collection("docs", engine, model=model)
    docs.embed("z", "something else", store=True)
    planned = [docs.plan([("a", CONTENT)]), docs.plan([("b", "something new")])]
    for plan in planned:
        plan.embed()
    docs.embed("a", CONTENT, store=True)
    docs.reembed(DeterministicModel("large"))
    log.clear()
    for plan in planned:
        docs.apply(plan)
    assert lines(log, logging.WARNING) == [
        "another model took over 'docs' meanwhile: it is called for 1 items"
    ]


def test_the_code_of_the_page_about_the_log_runs():
    """As it stands there, in a process of its own."""
    page = (Path(embeddings.__file__).parents[1] / "docs" / "logging.md").read_text()
    [block] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert python("-c", block).returncode == 0


def test_nothing_is_written_where_nobody_listens(
    engine: Engine, model: DeterministicModel, caplog: pytest.LogCaptureFixture
):
    """At WARNING, which is the default, an ordinary day is silent."""
    caplog.set_level(logging.WARNING)
    docs = Collection("docs", engine, model=model)
    docs.embed_multi([(str(n), f"{CONTENT} {n}") for n in range(3)])
    for _ in range(3):
        docs.similar(CONTENT)
    assert caplog.records == []


START = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(name)s %(message)s")
from sqlalchemy import create_engine
import embeddings
engine = create_engine(f"sqlite:///{sys.argv[1]}")
embeddings.migrate(engine)
embeddings.Collection("docs", sys.argv[1], model_id="3-small").close()
embeddings.downgrade(engine) if "down" in sys.argv else None
"""


def test_a_start_without_a_migration_is_silent(tmp_path: Path):
    """Neither we nor Alembic tell of what was not done; a migration is one line."""

    def start(*arguments: str) -> list[str]:
        done = python("-c", START, tmp_path / "app.db", *arguments)
        assert done.returncode == 0
        return [line for line in done.stderr.splitlines() if "alembic" in line or " embedd" in line]

    head = head_revision()
    assert start() == [f"INFO embeddings the tables were migrated from nothing to {head}"]
    assert start() == []


def test_a_hosts_own_alembic_goes_on_telling(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Only our own migration is quiet, and only while it runs."""
    from alembic.migration import MigrationContext

    caplog.set_level(logging.INFO)
    engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    embeddings.migrate(engine)
    embeddings.downgrade(engine)
    assert {record.name for record in caplog.records} == {"embeddings"}
    assert len(caplog.records) == 2
    with engine.connect() as connection:
        MigrationContext.configure(connection)
        connection.execute(select(1))
    assert "alembic.runtime.migration" in {record.name for record in caplog.records}
    assert not logging.getLogger("alembic.runtime.migration").filters
    engine.dispose()
    assert EmbeddingRecord.__tablename__ == "embeddings"

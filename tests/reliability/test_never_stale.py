"""A search from memory gives what a scan in the same session gives, whatever was written by whom.

`make long` tells many more of the random histories.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from embeddings.databases.sqlite import changelog
from embeddings.databases.sqlite.index import chosen
from embeddings.databases.sqlite.matrix import build, statements
from embeddings.databases.sqlite.matrix import candidates as screen
from embeddings.databases.sqlite.matrix import search as strategy
from tests.reliability.history import RENAMES, SQL, History, template

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = int(os.environ.get("EMBEDDINGS_HISTORIES", "20"))
EXAMPLES_OF_FAULTS = 300  # at most: the first that shows ends it


@pytest.fixture(autouse=True)
def _from_the_first_search_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "BUILT_AT", 1)


def tell(
    folder: Path,
    examples: int,
    *,
    sql: tuple[str, ...] = SQL,
    filters: bool = True,
    indexed: bool = False,
    deterministic: bool = False,
) -> None:
    """Run histories from a new file."""

    class Here(History):
        pass

    Here.template, Here.sql = template(folder, indexed=indexed), sql
    Here.filters, Here.indexed = filters, indexed
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            database=None,
            derandomize=deterministic,
            print_blob=False,
            phases=[Phase.generate] if deterministic else [Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture(params=[False, True], ids=["matrix", "index"])
def indexed(request: pytest.FixtureRequest) -> bool:
    """Whether the collection has an index, which finds so few rows exactly."""
    return bool(request.param)


def test_random_histories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indexed: bool):
    """In every history every answer is that of a scan, and most come from memory."""
    counts = {"memory": 0, "scan": 0}
    search = strategy._search

    def counted(*arguments):
        try:
            rows = search(*arguments)
        except build.MustScan:
            counts["scan"] += arguments[0].row.is_certain  # a guess is only put right
            raise
        counts["memory"] += 1
        return rows

    monkeypatch.setattr(strategy, "_search", counted)
    tell(tmp_path, EXAMPLES // (3 if indexed else 1), sql=SQL + RENAMES, indexed=indexed)

    assert counts["memory"] > 4 * counts["scan"]


# Faults, each seeded on purpose: the histories have to show it.


@pytest.fixture
def _one_line_of_defence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the second one, the look at the bounds, which makes up for most of the faults."""
    monkeypatch.setattr(screen.Candidates, "agree", lambda *_, **__: True)
    monkeypatch.setattr(chosen.Estimated, "agree", lambda *_, **__: True)


def assert_shown(folder: Path, indexed: bool, sql: tuple[str, ...] = SQL) -> None:
    with pytest.raises(AssertionError):
        tell(
            folder,
            EXAMPLES_OF_FAULTS,
            sql=sql,
            filters=False,
            indexed=indexed,
            deterministic=True,
        )


ALWAYS_ZERO = "coalesce(zeroblob(16), randomblob(16))"  # by the second part a log is known as ours


@pytest.mark.usefixtures("_one_line_of_defence")
def test_a_counter_instead_of_a_token_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indexed: bool
):
    """A number that comes back after a rollback does not tell what is behind it."""
    side_tables = changelog.side_tables
    monkeypatch.setattr(
        changelog,
        "side_tables",
        lambda *a: [sql.replace("randomblob(16)", ALWAYS_ZERO) for sql in side_tables(*a)],
    )

    class Here(History):
        pass

    Here.template = template(tmp_path, indexed=indexed)
    history = Here()
    nobody = {"looked_for": None, "number": 1, "prefix": None, "lookers": 0}
    try:  # the shortest of the histories that show it
        history.store(0, ["z"], 6, **nobody | {"lookers": 1})
        history.end(0, "ROLLBACK", **nobody)
        with pytest.raises(AssertionError):
            history.store(1, ["d"], 2, **nobody | {"lookers": 2})
    finally:
        history.teardown()


SHOWN_BY = {
    "insert": "INSERT",
    # A row of another collection takes a rowid: else the log tells of the collection all the same.
    "insert_rowid": "SELECT rowid, 2",
    "update": "UPDATE",
    "delete": "DELETE FROM embeddings WHERE",
    "update_rowid": "SET rowid",
}


@pytest.mark.usefixtures("_one_line_of_defence")
@pytest.mark.parametrize(
    ("name", "indexed"),
    # An index has so few rows read all: only one that it does not know of is not found.
    [*((name, False) for name in SHOWN_BY), ("insert", True)],
)
def test_a_missing_trigger_is_shown(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indexed: bool
):
    """Without it some kind of statement goes unnoticed."""
    side_tables, names = changelog.side_tables, changelog.trigger_names
    created = f'CREATE TRIGGER "embeddings_log_{name}"'
    monkeypatch.setattr(
        changelog,
        "side_tables",
        lambda *a: [sql for sql in side_tables(*a) if created not in sql],
    )
    monkeypatch.setattr(
        statements, "trigger_names", lambda *a: [n for n in names(*a) if not n.endswith(f"_{name}")]
    )
    kept = (statements._is_logged, statements._position, statements._unfiltered)
    for function in kept:
        function.cache_clear()
    try:
        assert_shown(tmp_path, indexed, tuple(sql for sql in SQL if SHOWN_BY[name] in sql))
    finally:
        for function in kept:
            function.cache_clear()


@pytest.mark.usefixtures("_one_line_of_defence")
def test_an_overlay_shown_to_another_session_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indexed: bool
):
    """What one session wrote and did not commit is not in the history of another."""
    as_position = statements._as_position
    monkeypatch.setattr(
        statements, "_as_position", lambda row: as_position(row)._replace(has_base=True)
    )
    assert_shown(tmp_path, indexed)


def test_a_collection_that_is_not_confirmed_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The name may have gone to another collection since the row was read."""
    monkeypatch.setattr(strategy, "_is_confirmed", lambda *_: True)
    assert_shown(tmp_path, False, SQL + RENAMES)

"""A search from memory gives what a scan in the same session gives, whatever was written by whom.

`make long` tells many more of the random histories, and lets them find each seeded fault.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from embeddings.databases.sqlite import changelog
from embeddings.databases.sqlite.index import chosen
from embeddings.databases.sqlite.matrix import build, statements
from embeddings.databases.sqlite.matrix import candidates as screen
from embeddings.databases.sqlite.matrix import search as strategy
from tests.reliability.history import BLOBS, RENAMES, SQL, History, template

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = int(os.environ.get("EMBEDDINGS_HISTORIES", "6"))
LONG = "EMBEDDINGS_HISTORIES" in os.environ
EXAMPLES_OF_FAULTS = 300  # at most: the first that shows it ends it


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
            report_multiple_bugs=False,  # the first answer that differs ends it
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


# Faults, each seeded on purpose: a history has to show it, which is right without the fault.


def _look(lookers: int = 0, number: int = 1, **look: Any) -> dict[str, Any]:
    return {"looked_for": None, "prefix": None, "lookers": lookers, "number": number} | look


Step = tuple[Any, ...]
"""A method of History, its arguments, and who looks for what afterwards: a bit for each session."""
BY_OTHERS = 3
UPDATE, REPLACE, MOVE = (
    next(sql for sql in SQL if part in sql)
    for part in ("SET embedding = :v WHERE collection_id", "SELECT rowid, 2", "SET rowid")
)
TRIGGERS: dict[str, list[Step]] = {
    "insert": [
        ("execute", BY_OTHERS, UPDATE, "a", "", BLOBS[2], _look(1)),
        ("execute", BY_OTHERS, SQL[0], "z", "", BLOBS[2], _look(1, number=2)),
    ],
    # A row of another collection takes a rowid: else the log tells of the collection all the same.
    "insert_rowid": [
        ("execute", 2, REPLACE, "b1", "b", BLOBS[3], _look(4, looked_for=4)),
        ("store", 2, ["z", "z", "c"], 2, _look(7, number=2, looked_for=5, prefix="b")),
    ],
    "update": [
        ("execute", BY_OTHERS, UPDATE, "a1", "", BLOBS[2], _look(1)),
        ("execute", BY_OTHERS, UPDATE, "a", "", BLOBS[2], _look(1)),
    ],
    "delete": [("delete", 0, "a", _look(5, looked_for=5))],
    "update_rowid": [
        ("execute", 2, MOVE, "b1", "", BLOBS[3], _look(4, looked_for=4)),
        ("delete", 0, "a1", _look(2, number=4, looked_for=0)),
    ],
}
OF_A_TOKEN: list[Step] = [
    ("store", 0, ["z"], 6, _look(1)),
    ("end", 0, "ROLLBACK", _look()),
    ("store", 1, ["d"], 2, _look(2)),
]
OF_AN_OVERLAY: list[Step] = [
    ("delete", 2, "b", _look()),
    ("delete", 0, "é", _look(6, prefix="a")),
    ("execute", 0, SQL[0], "c", "", BLOBS[4], _look(6, number=2, looked_for=0, prefix="b")),
]
OF_A_NAME: list[Step] = [
    ("end", 1, "COMMIT", _look(2)),
    ("execute", BY_OTHERS, RENAMES[0], "", "", BLOBS[0], _look()),
    ("execute", BY_OTHERS, RENAMES[1], "", "", BLOBS[0], _look(2)),
]


def follow(folder: Path, steps: list[Step], *, indexed: bool, shown: bool) -> None:
    """Take the steps from a new file, of which the last one shows the fault, if any does."""
    folder.mkdir()

    class Here(History):
        pass

    Here.template, Here.filters = template(folder, indexed=indexed), False
    history = Here()

    def take(name: str, *arguments: Any) -> None:
        getattr(history, name)(*arguments[:-1], **arguments[-1])

    try:
        for step in steps[:-1]:
            take(*step)
        if shown:
            with pytest.raises(AssertionError):
                take(*steps[-1])
        else:
            take(*steps[-1])
    finally:
        history.teardown()


Check = Callable[..., None]


@pytest.fixture
def one_line_of_defence(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Leave out the second one, the look at the bounds, which makes up for most of the faults."""

    def leave_out() -> None:
        monkeypatch.setattr(screen.Candidates, "agree", lambda *_, **__: True)
        monkeypatch.setattr(chosen.Estimated, "agree", lambda *_, **__: True)

    return leave_out


@pytest.fixture
def is_shown(tmp_path: Path, indexed: bool) -> Check:
    """Seed a fault, and assert that a history shows it; in `make long` random ones find it, too."""

    def check(seed: Callable[[], None], steps: list[Step], sql: tuple[str, ...] = SQL) -> None:
        follow(tmp_path / "right", steps, indexed=indexed, shown=False)
        seed()
        follow(tmp_path / "wrong", steps, indexed=indexed, shown=True)
        if LONG:
            with pytest.raises(AssertionError):
                tell(
                    tmp_path,
                    EXAMPLES_OF_FAULTS,
                    sql=sql,
                    filters=False,
                    indexed=indexed,
                    deterministic=True,
                )

    return check


ALWAYS_ZERO = "coalesce(zeroblob(16), randomblob(16))"  # by the second part a log is known as ours


def test_a_counter_instead_of_a_token_is_shown(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    one_line_of_defence: Callable[[], None],
    indexed: bool,
):
    """A number that comes back after a rollback does not tell what is behind it."""
    follow(tmp_path / "right", OF_A_TOKEN, indexed=indexed, shown=False)
    one_line_of_defence()
    side_tables = changelog.side_tables
    monkeypatch.setattr(
        changelog,
        "side_tables",
        lambda *a: [sql.replace("randomblob(16)", ALWAYS_ZERO) for sql in side_tables(*a)],
    )
    follow(tmp_path / "wrong", OF_A_TOKEN, indexed=indexed, shown=True)


SHOWN_BY = {
    "insert": "INSERT",
    "insert_rowid": "SELECT rowid, 2",
    "update": "UPDATE",
    "delete": "DELETE FROM embeddings WHERE",
    "update_rowid": "SET rowid",
}


@pytest.mark.parametrize(
    ("name", "indexed"),
    # An index has so few rows read all: only one that it does not know of is not found.
    [*((name, False) for name in TRIGGERS), ("insert", True)],
    indirect=["indexed"],
)
def test_a_missing_trigger_is_shown(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    one_line_of_defence: Callable[[], None],
    is_shown: Check,
):
    """Without it some kind of statement goes unnoticed."""
    side_tables, names = changelog.side_tables, changelog.trigger_names
    created = f'CREATE TRIGGER "embeddings_log_{name}"'
    kept = (statements._is_logged, statements._position, statements._unfiltered)

    def seed() -> None:
        one_line_of_defence()
        monkeypatch.setattr(
            changelog,
            "side_tables",
            lambda *a: [sql for sql in side_tables(*a) if created not in sql],
        )
        monkeypatch.setattr(
            statements,
            "trigger_names",
            lambda *a: [n for n in names(*a) if not n.endswith(f"_{name}")],
        )
        for function in kept:
            function.cache_clear()

    try:
        is_shown(seed, TRIGGERS[name], tuple(sql for sql in SQL if SHOWN_BY[name] in sql))
    finally:
        for function in kept:
            function.cache_clear()


def test_an_overlay_shown_to_another_session_is_shown(
    monkeypatch: pytest.MonkeyPatch, one_line_of_defence: Callable[[], None], is_shown: Check
):
    """What one session wrote and did not commit is not in the history of another."""
    as_position = statements._as_position

    def seed() -> None:
        one_line_of_defence()
        monkeypatch.setattr(
            statements, "_as_position", lambda row: as_position(row)._replace(has_base=True)
        )

    is_shown(seed, OF_AN_OVERLAY)


@pytest.mark.parametrize("indexed", [False], indirect=True, ids=["matrix"])
def test_a_collection_that_is_not_confirmed_is_shown(
    monkeypatch: pytest.MonkeyPatch, is_shown: Check
):
    """The name may have gone to another collection since the row was read."""

    def seed() -> None:
        monkeypatch.setattr(strategy, "_is_confirmed", lambda *_: True)

    is_shown(seed, OF_A_NAME, SQL + RENAMES)

"""Searches from memory give what a scan gives, whatever happens to the file and around it."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections import OrderedDict
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import sqlite_utils
from sqlalchemy import (
    bindparam,
    column,
    create_engine,
    event,
    func,
    literal_column,
    select,
    table,
    text,
)
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import embeddings
from embeddings import Collection, EmbeddingRecord, set_memory_budget
from embeddings.databases.sqlite import changelog
from embeddings.databases.sqlite.matrix import build, kernel, statements, turns
from embeddings.databases.sqlite.matrix import candidates as screen
from embeddings.databases.sqlite.matrix import search as strategy
from embeddings.databases.sqlite.matrix.cache import CACHE
from embeddings.searching.scan import scan
from embeddings.sessions.runtime import BLOCKING
from embeddings.tables.columns import JSONObject, Vector
from embeddings.tables.records import RECORDS
from embeddings.vectors import as_query
from embeddings.work.operation import Work
from embeddings.work.row import ROWS
from tests.reaching import PATIENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

    from sqlalchemy import Engine

    from embeddings.databases.sqlite.matrix.state import Mark

SIZE = 8


class Theirs(DeclarativeBase):
    """A host's own tables."""


class Group(Theirs):
    __tablename__ = "their_groups"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    model: Mapped[str]


class Vectors(Theirs):
    __tablename__ = "their_vectors"
    collection_id: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    embedding: Mapped[Any] = mapped_column(Vector)
    content: Mapped[str | None]
    content_blob: Mapped[bytes | None]
    content_hash: Mapped[bytes | None]
    metadata_: Mapped[Any] = mapped_column("metadata", JSONObject, nullable=True)
    updated: Mapped[int | None]


SEARCHES = int(os.environ.get("EMBEDDINGS_SEARCHES", "30"))
INTERRUPTED = int(os.environ.get("EMBEDDINGS_INTERRUPTED", "53"))
"""Of how many moments one is interrupted; 1 for each of them."""
LONG = "EMBEDDINGS_SEARCHES" in os.environ


@pytest.fixture(autouse=True)
def _from_the_first_search_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(build, "BUILT_AT", 1)
    CACHE.clear()
    budget = CACHE.budget
    yield
    CACHE.budget = budget
    CACHE.clear()


def vectors(count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((count, SIZE), np.float32)


def filled(db: Any, count: int = 300, name: str = "docs") -> Collection[str]:
    docs = Collection(name, db, model_id="m")
    docs.store_vectors(
        (f"{at % 10}-{at}", vector, {"part": at % 10}) for at, vector in enumerate(vectors(count))
    )
    return docs


def scanned(docs: Collection[Any], query: Any, **options: Any) -> list[tuple[Any, float]]:
    number, prefix = options.pop("number", 10), options.pop("prefix", None)
    skip_id = options.pop("skip_id", None)
    with docs.reference.work() as work:
        docs.reference.existing(work)
        asked = docs._query("similar", number, prefix, options, skip_id)  # type: ignore[arg-type]
        rows = scan(work, as_query(query), asked).rows
    return [(row.id, row.score) for row in rows]


def searched(docs: Collection[Any], query: Any, **options: Any) -> list[tuple[Any, float]]:
    return [(e.id, e.score) for e in docs.similar_by_vector(query, **options)]


@contextmanager
def from_memory() -> Iterator[None]:
    """Fail if a search in the block is not answered from memory."""

    def refuse(*_: object) -> None:
        raise AssertionError("scanned")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strategy, "scan_multi", refuse)
        yield


def assert_right(docs: Collection[Any], seed: int = 7, **options: Any) -> None:
    for query in vectors(3, seed):
        with from_memory():
            found = searched(docs, query, **options)
        assert found == scanned(docs, query, **options)


@contextmanager
def remembered(engine: Engine, name: str = "docs") -> Iterator[Work]:
    """Yield work with what the next search through the engine takes for the collection's row."""
    with Session(engine) as session:
        work = Work(session, RECORDS)
        row = ROWS.get(engine, RECORDS, name)
        if row is not None:
            work.row = row
        yield work


def guessed(engine: Engine, name: str = "docs") -> Any:
    """Return what the next search through the engine will take for the collection's row."""
    return ROWS.get(engine, RECORDS, name)


def file_of(engine: Engine) -> str:
    return str(engine.url.database)


def write_elsewhere(path: str, sql: str, *values: Any) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql, values)


def write_ahead(engine: Engine) -> None:
    """Let readers and a writer work side by side."""
    with closing(sqlite3.connect(file_of(engine))) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


SET = "UPDATE embeddings SET embedding = ? WHERE collection_id = 1 AND id = ?"


# The collection's row, which a search guesses


def statements_of(engine: Engine, act: Callable[[], object]) -> int:
    """Return how many statements the action takes."""
    seen: list[str] = []

    def see(_connection: object, _cursor: object, sql: str, *_: object) -> None:
        seen.append(sql)

    event.listen(engine, "before_cursor_execute", see)
    try:
        act()
    finally:
        event.remove(engine, "before_cursor_execute", see)
    return len(seen)


@pytest.mark.parametrize("options", [{}, {"prefix": "3"}, {"skip_id": "3-3"}, {"min_score": 0.1}])
def test_a_search_is_one_statement(options: dict[str, Any], engine: Engine):
    """It tells whether the collection is the one that was meant, too; a new object asks no more."""
    docs = filled(engine)
    searched(docs, vectors(1)[0])
    write_elsewhere(file_of(engine), SET, vectors(1, 5).tobytes(), "3-3")
    with Session(engine) as session:
        session.connection()
        again = Collection("docs", session, model_id="m")
        assert statements_of(engine, lambda: searched(again, vectors(1)[0], **options)) == 1


@pytest.mark.parametrize("value", ["'another'", "NULL"])
def test_a_search_is_one_statement_again(value: str, engine: Engine):
    """A guess that did not hold is corrected at once, and not tried again."""
    docs, query = filled(engine), vectors(1)[0]
    searched(docs, query)
    write_elsewhere(file_of(engine), f"UPDATE collections SET model = {value}")
    with Session(engine) as session:
        again = Collection("docs", session)
        counts = [statements_of(engine, lambda: searched(again, query)) for _ in range(3)]
    # That of the guess, the row, two to find out which state holds, and that of the answer.
    assert counts == [5, 1, 1]


AFTERWARDS = {
    "renamed": ["UPDATE collections SET name = 'other'"],
    "deleted": ["DELETE FROM embeddings", "DELETE FROM collections"],
    "only the row deleted": ["DELETE FROM collections"],
    "of another model": ["UPDATE collections SET model = 'another'"],
    "of another id": [
        "UPDATE collections SET id = 5",
        "UPDATE embeddings SET collection_id = 5",
    ],
    "another's name": [
        "UPDATE collections SET name = 'other'",
        "INSERT INTO collections (name, model) VALUES ('docs', 'm')",
        f"INSERT INTO embeddings (collection_id, id, embedding) VALUES (2, 'x', x'{'01' * 32}')",
    ],
    "of other dimensions": ["UPDATE embeddings SET embedding = x'0000803f'"],
    "partly of other dimensions": [
        "UPDATE embeddings SET embedding = x'0000803f' WHERE id IN ('0-0', '5-5')"
    ],
    "without rows": ["DELETE FROM embeddings"],
}


@pytest.mark.parametrize(("rows", "number"), [(10, 1000), (300, 3)])
@pytest.mark.parametrize("change", AFTERWARDS)
def test_what_is_guessed_is_confirmed(change: str, rows: int, number: int, engine: Engine):
    """Whatever became of the collection's row, a search does what one without memory does."""

    def outcome(session: Session, model_id: str | None) -> object:
        docs = Collection("docs", session, create=False, model_id=model_id)
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                entries = docs.similar_by_vector(vectors(1)[0], number)
        except (embeddings.EmbeddingsError, LookupError) as error:
            return type(error), str(error)
        return [(e.id, e.score) for e in entries], [str(w.message) for w in warned]

    def check(session: Session) -> None:
        for model_id in ("m", None, "another"):
            as_it_is = outcome(session, model_id)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(CACHE, "_slots", OrderedDict())
                patch.setattr(CACHE, "_latest", WeakKeyDictionary())
                assert as_it_is == outcome(session, model_id)

    searched(filled(engine, rows), vectors(1)[0])
    assert guessed(engine) is not None
    for end in (Session.rollback, Session.commit):
        with Session(engine) as session:
            for sql in AFTERWARDS[change]:
                session.execute(text(sql))
            check(session)
            with Session(engine) as other:
                check(other)
            end(session)
            check(session)
            with Session(engine) as other:
                check(other)


def test_odd_rows_may_come_to_be_all_that_there_are(engine: Engine):
    """Then a query of the former length is refused, as without memory."""
    docs = filled(engine, 10)
    searched(docs, vectors(1)[0])
    write_elsewhere(file_of(engine), "UPDATE embeddings SET embedding = x'0000803f' WHERE id < '4'")
    for _ in range(2):
        with pytest.warns(embeddings.CorruptVectorWarning):
            searched(docs, vectors(1)[0])
    write_elsewhere(file_of(engine), "DELETE FROM embeddings WHERE id >= '4'")
    with pytest.raises(embeddings.InvalidVectorError, match="8 dimensions, and those"):
        searched(docs, vectors(1)[0])


def test_rows_without_an_id_count_for_nothing(engine: Engine):
    """SQLite lets others write them: neither a search nor the length of a query is about them."""
    docs = filled(engine, 20)
    null = "INSERT INTO embeddings (collection_id, id, embedding) VALUES (1, NULL, x'0000803f')"
    for _ in range(5):
        write_elsewhere(file_of(engine), null)
    assert_right(docs)
    write_elsewhere(file_of(engine), "DELETE FROM embeddings WHERE id IS NOT NULL")
    for _ in range(2):
        assert searched(docs, vectors(1)[0]) == []
        CACHE.clear()


def test_a_filter_that_fails_hides_nothing(engine: Engine):
    """What became of the collection is found out first."""
    docs = filled(engine)
    wrong = func.no_such_function(EmbeddingRecord.id) > 0
    searched(docs, vectors(1)[0])
    with pytest.raises(OperationalError, match="no_such_function"):
        searched(docs, vectors(1)[0], where=wrong)
    write_elsewhere(file_of(engine), "UPDATE collections SET name = 'other'")
    with pytest.raises(embeddings.DoesNotExist):
        searched(Collection("docs", engine, create=False), vectors(1)[0], where=wrong)


def test_a_lock_is_waited_for_once(tmp_path: Path, migrated: Path):
    """A statement that found the file locked is not followed by others that would wait again."""
    path = shutil.copy(migrated, tmp_path / "app.db")
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})
    docs = filled(engine)
    searched(docs, vectors(1)[0])
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")

        def search() -> None:
            with pytest.raises(OperationalError, match="locked"):
                searched(docs, vectors(1)[0])

        with Session(engine) as session:
            docs = Collection("docs", session)
            assert statements_of(engine, search) == 1
    engine.dispose()


GONE = {
    "the triggers": "DROP TRIGGER embeddings_log_insert",
    "the log": "DROP TABLE embeddings_log",
}


@pytest.mark.parametrize("options", [{}, {"where": {"part": 3}}], ids=["all", "filtered"])
@pytest.mark.parametrize("gone", GONE)
def test_without_a_log_nothing_is_guessed_again_and_again(
    gone: str, options: dict[str, Any], engine: Engine
):
    """The next search asks no more than the first search of a process."""
    docs, query = filled(engine), vectors(1)[0]
    searched(docs, query, **options)
    with engine.begin() as connection:
        for name in changelog.trigger_names(RECORDS) if gone == "the log" else ():
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        connection.exec_driver_sql(GONE[gone])
    assert searched(docs, query, **options) == scanned(docs, query, **options)
    again = statements_of(engine, lambda: searched(docs, query, **options))
    CACHE.clear()
    assert again <= statements_of(engine, lambda: searched(docs, query, **options))


def test_a_renaming_that_was_rolled_back(engine: Engine):
    """The object means the row that it had renamed, and not another that took the name since."""
    filled(engine)
    with Session(engine) as session:
        docs = Collection("docs", session)
        docs.rename("theirs")
        session.rollback()
        theirs = Collection("theirs", engine, model_id="m")
        theirs.store_vectors([("x", vectors(1)[0])])
        for _ in range(2):
            assert [id for id, _ in searched(theirs, vectors(1)[0])] == ["x"]
        assert guessed(engine, "theirs") is not None
        assert len(searched(docs, vectors(1)[0])) == 10


def test_many_names(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """An engine with very many collections does not keep all their names."""
    monkeypatch.setattr("embeddings.work.row.MOST_NAMES", 3)
    monkeypatch.setattr("embeddings.databases.sqlite.matrix.cache.MOST_COLLECTIONS", 3)
    collections = [filled(engine, 20, f"docs-{at}") for at in range(7)]
    for docs in collections * 2:
        assert_right(docs)
    assert sum(guessed(engine, f"docs-{at}") is not None for at in range(7)) <= 3


# What a search takes


TAKEN: list[dict[str, Any]] = [
    {},
    {"number": 1},
    {"number": 25, "offset": 20},
    {"min_score": 0.5, "number": 1000},
    {"prefix": "7"},
    {"prefix": "7-1", "number": 100},
    {"prefix": "nothing"},
    {"skip_id": "3-3"},
    {"where": {"part": 3}},
    {"where": {"part": 3}, "prefix": "3-2", "skip_id": "3-23"},
    {"where": {"part": 99}},
    {"where": EmbeddingRecord.id != "0-0"},
    {"where": EmbeddingRecord.id == "5-5"},
    {"among": ["1-1", "2-2", "0-3000", "nothing"]},
    {"among": select(EmbeddingRecord.id).where(EmbeddingRecord.id > "8"), "min_score": 0.1},
]


@pytest.mark.parametrize("has_simsimd", [True, False])
def test_everything_that_a_scan_takes(
    has_simsimd: bool, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """Filters hold before the best are taken, with either kind of arithmetic."""
    if not has_simsimd:
        monkeypatch.setattr(kernel, "_simsimd", lambda: None)
    docs = filled(engine, 6000 if LONG else 5100)
    for options in TAKEN if LONG or has_simsimd else TAKEN[::3]:
        assert_right(docs, **options)
        CACHE.clear()


@pytest.mark.parametrize("options", [{}, {"where": {"part": 3}}, {"prefix": "3", "offset": 2}])
def test_a_selectable_comes_from_memory(options: dict[str, Any], engine: Engine):
    """`matches*` find what `similar*` do, and no rows are read besides."""
    docs = filled(engine)
    query = vectors(1, 7)[0]
    searched(docs, query)
    with from_memory():
        found = docs.matches_by_vector(query, number=4, **options)
    best = select(found.c.id, found.c.score).order_by(found.c.score.desc(), found.c.id)
    with Session(engine) as session:
        rows = [(id, score) for id, score in session.execute(best)]
    assert rows == scanned(docs, query, number=4, **options)


def test_products_leave_none_alone():
    """Python 3.11 counts the references to None, and dies at zero."""
    codes, out = np.ones((3, SIZE), np.int8), np.empty((1, 3), np.float32)
    before = sys.getrefcount(None)
    for _ in range(1000):
        kernel.inner_products(codes[:1], codes, out)
    assert out.tolist() == [[8.0, 8.0, 8.0]]
    assert sys.getrefcount(None) > before - 500


def test_many_queries_in_one_pass(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """Each gets its own answer; a model is called once for all."""
    docs = filled(engine)
    queries = vectors(40, 3)
    expected = [scanned(docs, query, number=4) for query in queries]
    searched(docs, queries[0])
    calls = []

    def products(*arguments: Any) -> None:
        calls.append(len(arguments[0]))
        kernel.inner_products(*arguments)

    monkeypatch.setattr(screen, "inner_products", products)

    with from_memory():
        found = docs.similar_multi_by_vector(queries, number=4)

    assert [[(e.id, e.score) for e in entries] for entries in found] == expected
    assert [count for count in calls if count > 1] == [len(queries)]
    assert docs.similar_multi_by_vector([]) == []
    for wrong in ("text", 3):
        with pytest.raises(embeddings.InvalidQueryError, match="iterable"):
            docs.similar_multi_by_vector(wrong)  # type: ignore[arg-type]


def test_similar_multi_is_similar_of_each(engine: Engine, model: Any):
    """With one call of the model for all texts."""
    docs = Collection("texts", engine, model=model)
    assert docs.similar_multi(["a dog", "a cat"]) == [[], []]
    docs.embed_multi([("a", "a happy dog"), ("b", "a lazy cat"), ("c", "a tax report")])
    expected = [docs.similar("a dog", 2), docs.similar("a cat", 2)]
    calls = len(model.calls)

    assert docs.similar_multi(["a dog", "a cat"], 2) == expected
    assert len(model.calls) == calls + 1


def test_rows_that_are_alike_and_zeros(engine: Engine):
    """Ties break by id, however many there are; a zero vector scores 0."""
    docs = filled(engine, 100)
    docs.store_vectors((f"same-{at}", [1.0] * SIZE) for at in range(300))
    docs.store_vectors((f"zero-{at}", [0.0] * SIZE) for at in range(50))
    for query in ([1.0] * SIZE, [-1.0] * SIZE, [0.0] * SIZE):
        for number in (1, 10, 1000):
            assert searched(docs, query, number=number) == scanned(docs, query, number=number)


@pytest.mark.parametrize("factor", [1e-38, 1e-20, 1e18, 1e38])
def test_vectors_of_any_length(factor: float, engine: Engine):
    """Neither tiny nor huge values leave the range in which the bound holds."""
    docs = Collection("docs", engine, model_id="m")
    docs.store_vectors((str(at), v * factor) for at, v in enumerate(vectors(200).clip(-3, 3)))
    assert_right(docs)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
def test_rows_that_int8_holds_badly(share: float, engine: Engine):
    """A few values far above the others leave a wide bound to a row, and right answers to all."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((600, 64), np.float32)
    rows[generator.random(600) < share, :2] *= 300
    docs = Collection("docs", engine, model_id="m")
    docs.store_vectors((f"{at % 10}-{at}", row) for at, row in enumerate(rows))
    many = rows[: 9 if LONG else 3]
    for query in (*many, np.eye(64)[0], [1.0] + [5e-324] * 63, [1.0] * 63 + [1e9]):
        for options in ({}, {"prefix": "3"}, {"number": 200}, {"min_score": 0.2}):
            searched(docs, query)
            assert searched(docs, query, **options) == scanned(docs, query, **options)
    docs.store_vectors((f"{at % 10}-{at}", rows[-at]) for at in range(300))
    for query in rows[::60]:
        assert searched(docs, query) == scanned(docs, query)


def test_odd_rows_are_warned_of(engine: Engine):
    """A row that cannot be compared is left out, with the warning that a scan gives."""
    docs = filled(engine)
    write_elsewhere(file_of(engine), SET, b"odd", "3-3")
    for at in range(2):
        with pytest.warns(embeddings.CorruptVectorWarning, match="'3-3'"), from_memory():
            searched(docs, vectors(1)[0])
        write_elsewhere(file_of(engine), SET, np.full(SIZE, np.nan, "f4").tobytes(), f"{at}-{at}")
    with from_memory():
        searched(docs, vectors(1)[0], prefix="4")  # without a warning: none of them is meant


CONDITIONS: dict[str, Any] = {
    **{
        f"a parameter {name}": func.length(EmbeddingRecord.id) > bindparam(name, 3)
        for name in ("of", "seq", "token", "ids", "most", "called", "size")
    },
    "a column without a table": column("id") > "5",
    "a column in text": literal_column("id > '5'"),
    "rowid": literal_column("rowid") > 50,
    "a name of json_each": func.json_extract(column("metadata"), "$.part") == 3,
    "a subquery": EmbeddingRecord.id.in_(
        select(EmbeddingRecord.id).where(EmbeddingRecord.id > "5").limit(50)
    ),
}


def test_names_in_conditions(engine: Engine, subtests: pytest.Subtests):
    """Neither parameters nor columns of a host's condition are mistaken for those of a search."""
    docs = filled(engine)
    searched(docs, vectors(1)[0])
    for label, where in CONDITIONS.items():
        with subtests.test(label):
            assert_right(docs, where=where)


def test_filtered_searches_take_in_what_was_written(engine: Engine):
    """Not only those without a filter bring the matrix up to date."""
    docs = filled(engine)
    searched(docs, vectors(1)[0])
    write_elsewhere(file_of(engine), SET, vectors(1, 5)[0].tobytes(), "3-3")
    assert_right(docs, where={"part": 3})


def test_a_flag_that_moves_between_two_statements(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """At every moment one row has it, and that one is found, although nothing of it is logged."""
    monkeypatch.setattr(strategy, "FEW_KEYS", 0)
    write_ahead(engine)
    docs = filled(engine)
    engine_of_host = sqlite3.connect(file_of(engine), isolation_level=None)
    engine_of_host.execute("CREATE TABLE pages AS SELECT '1-1' AS id, 1 AS is_shown")
    engine_of_host.execute("INSERT INTO pages VALUES ('2-2', 0)")
    pages = table("pages", column("id"), column("is_shown"))
    shown = select(pages.c.id).where(pages.c.is_shown)
    moves: list[int] = []

    def move(_connection: object, _cursor: object, sql: str, *_: object) -> None:
        if moves and "json_each" in sql:
            moves.pop()
            engine_of_host.execute("UPDATE pages SET is_shown = NOT is_shown")

    event.listen(engine, "before_cursor_execute", move)
    with closing(engine_of_host), Session(engine) as session:
        docs = Collection("docs", session)
        for expected in ("2-2", "1-1"):
            searched(docs, vectors(1)[0])
            moves.append(1)
            with from_memory():
                found = searched(docs, vectors(1)[0], among=shown)
            assert [id for id, _ in found] == [expected]
            assert not moves


# What happens to the file


@pytest.mark.parametrize("way", ["drop", "transform"])
def test_without_triggers_it_scans(way: str, engine: Engine):
    """Dropped or lost with a rebuilt table: the answers are right, and the status says why."""
    docs = filled(engine)
    assert_right(docs)
    assert docs.status().strategy == "matrix"
    assert docs.status().rows == 300
    if way == "drop":
        write_elsewhere(file_of(engine), "DROP TRIGGER embeddings_log_update")
    else:
        database = sqlite_utils.Database(file_of(engine))
        database["embeddings"].transform(types={"updated": str})  # type: ignore[union-attr]
        database.close()
    query = vectors(1, 5)[0]
    write_elsewhere(file_of(engine), SET, query.tobytes(), "3-3")

    assert searched(docs, query) == scanned(docs, query)
    assert searched(docs, query)[0][0] == "3-3"
    assert docs.status().strategy == "scan"
    assert "embeddings.install" in str(docs.status().reason)

    with engine.begin() as connection:
        embeddings.install(connection)
    assert_right(docs)


def test_a_table_emptied_without_triggers_is_empty(engine: Engine):
    """Installing again makes everything that was known before worthless."""
    docs = filled(engine)
    assert_right(docs)
    with engine.begin() as connection:
        for name in changelog.trigger_names(RECORDS):
            connection.execute(text(f"DROP TRIGGER {name}"))
        connection.execute(text("DELETE FROM embeddings"))
        embeddings.install(connection)
    assert searched(docs, vectors(1)[0]) == []


def test_without_the_log_it_scans(engine: Engine):
    """A database of `llm` that nobody migrated has none."""
    docs = filled(engine)
    assert_right(docs)
    with engine.begin() as connection:
        for name in changelog.trigger_names(RECORDS):
            connection.execute(text(f"DROP TRIGGER {name}"))
        connection.execute(text("DROP TABLE embeddings_log"))
    query = vectors(1)[0]
    assert searched(docs, query) == scanned(docs, query)
    assert docs.status().strategy == "scan"


def test_another_file_at_the_same_path(engine: Engine, tmp_path: Path, migrated: Path):
    """A path is no identity, nor is an engine."""
    docs = filled(engine)
    assert_right(docs)
    other = tmp_path / "other.db"
    shutil.copy(migrated, other)
    replacement = create_engine(f"sqlite:///{other}")
    Collection("docs", replacement, model_id="m").store_vectors([("only", [1.0] * SIZE)])
    replacement.dispose()
    engine.dispose()
    shutil.move(other, file_of(engine))

    assert [id for id, _ in searched(docs, [1.0] * SIZE)] == ["only"]
    assert [id for id, _ in searched(docs, [1.0] * SIZE)] == ["only"]


def test_a_copy_that_went_another_way(engine: Engine, tmp_path: Path):
    """Two files that share a past do not share what came later."""
    docs = filled(engine)
    assert_right(docs)
    copy = create_engine(f"sqlite:///{shutil.copy(file_of(engine), tmp_path / 'copy.db')}")
    theirs = Collection("docs", copy)
    query = vectors(1, 9)[0]
    docs.store_vectors([("ours", query)])
    theirs.store_vectors([("theirs", query)])
    for _ in range(2):
        assert_right(docs)
        assert_right(theirs)
        assert searched(docs, query)[0][0] == "ours"
        assert searched(theirs, query)[0][0] == "theirs"
    copy.dispose()


def test_vacuum(engine: Engine):
    """Numbers of rows change; nothing depends on them."""
    docs = filled(engine)
    docs.delete_items(prefix="3-")
    assert_right(docs)
    with closing(sqlite3.connect(file_of(engine))) as connection:
        connection.execute("VACUUM")
    assert_right(docs)


def test_attached_databases(engine: Engine, tmp_path: Path, migrated: Path):
    """Each schema has its own log, and a translated name leads to the right one."""
    other = shutil.copy(migrated, tmp_path / "other.db")
    ours = filled(engine)

    @event.listens_for(engine, "connect")
    def attach(driver: Any, _: object) -> None:
        driver.execute(f"ATTACH '{other}' AS tenant")

    engine.dispose()
    tenant = engine.execution_options(schema_translate_map={None: "tenant"})
    theirs = filled(tenant, 50)
    for _ in range(2):
        assert_right(ours)
        assert_right(theirs)
    assert theirs.status().rows == 50
    write_elsewhere(str(other), SET, vectors(1, 7)[0].tobytes(), "3-3")
    assert_right(theirs)
    assert_right(ours)


def test_a_temporary_table_in_front(engine: Engine):
    """SQLite takes a temporary table of the name; so does the search."""
    with Session(engine) as session:
        docs = filled(session)
        session.commit()
        assert_right(docs)
        session.execute(text("CREATE TEMP TABLE embeddings AS SELECT * FROM embeddings LIMIT 5"))
        for query in vectors(2):
            assert searched(docs, query) == scanned(docs, query)
        assert docs.status().strategy == "scan"


def test_engine_dispose(engine: Engine):
    """What is in memory belongs to the database, not to a connection."""
    docs = filled(engine)
    assert_right(docs)
    engine.dispose()
    assert_right(docs)


def test_tables_of_other_names(engine: Engine):
    """A log goes with each pair of tables."""
    theirs = embeddings.Records(Group, Vectors)  # type: ignore[arg-type]
    Theirs.metadata.create_all(engine)
    with engine.begin() as connection:
        embeddings.install(connection, theirs)
    docs = Collection("docs", engine, model_id="m", records=theirs)
    docs.store_vectors((str(at), vector) for at, vector in enumerate(vectors(100)))
    filled(engine)
    assert_right(docs)
    assert docs.status().rows == 100


# What happens around the search


def test_a_search_never_writes(engine: Engine):
    """Nor does it commit, roll back or open a second connection."""
    with Session(engine) as session:
        docs = filled(session)
        session.commit()
        seen: list[str] = []
        event.listen(
            engine, "before_cursor_execute", lambda _c, _k, sql, *_: seen.append(sql.split()[0])
        )
        for name in ("commit", "rollback", "connect"):
            event.listen(engine, name, lambda *_, name=name: seen.append(name))
        driver = session.connection().connection.driver_connection
        assert driver is not None
        changes = driver.total_changes
        for query in vectors(3):
            docs.similar_by_vector(query, where={"part": 3})
            docs.similar_by_vector(query)
            docs.status()
        assert driver.total_changes == changes
        assert set(seen) == {"SELECT"}


def test_uncommitted_rows_are_seen_by_their_session_only(engine: Engine):
    """And are gone after a rollback; savepoints likewise."""
    filled(engine)
    query = vectors(1, 5)[0]
    with Session(engine) as writer, Session(engine) as reader:
        ours, theirs = Collection("docs", writer), Collection("docs", reader)
        assert_right(ours)
        for step in range(3):
            ours.store_vectors([(f"new-{step}", query)])
            nested = writer.begin_nested()
            ours.store_vectors([("a-new-one", query)])
            assert searched(ours, query)[0][0] == "a-new-one"
            assert_right(theirs)
            assert searched(theirs, query)[0][0] not in {"a-new-one", f"new-{step}"}
            nested.rollback()
            assert searched(ours, query)[0][0] == f"new-{step}"
            assert_right(ours)
            writer.rollback()
            assert_right(ours)


def test_much_is_written(engine: Engine):
    """By the thousand, in every order: what is in memory is tidied up, and stays right."""
    size = 3000 if LONG else 1500
    docs = filled(engine, size)
    generator = np.random.default_rng(3)
    assert_right(docs)
    for step in range(30 if LONG else 12):
        ids = generator.integers(0, size * 4 // 3, int(generator.integers(1, size // 6)))
        new = vectors(len(ids), step)
        docs.store_vectors((f"{at % 10}-{at}", v) for at, v in zip(ids, new, strict=True))
        docs.delete_items([f"{at % 10}-{at}" for at in generator.integers(0, size * 4 // 3, 50)])
        assert_right(docs, step)
    with remembered(engine) as work:
        state = CACHE.latest(work)[1]  # type: ignore[index]
    assert state.rows == docs.count()
    assert len(state.radii) < 1.2 * state.rows
    assert len(state.segments) < 20


def test_emptied_and_filled_again(engine: Engine):
    """What was written is seen also where nothing of what is in memory can be among the best."""
    docs = filled(engine, 2)
    assert_right(docs, prefix="0")
    docs.delete_items(["0-0"])
    assert_right(docs, prefix="0")
    docs.store_vectors([("0-0", vectors(1, 5)[0])])
    assert_right(docs, prefix="0")
    assert_right(docs, skip_id="1-1")


def test_few_rows_are_read(engine: Engine):
    """Of the candidates only those are read that may be among the best, given what was read."""
    generator = np.random.default_rng(0)
    centre, query = generator.standard_normal((2, 1024), np.float32)
    rows = centre + generator.standard_normal((2000, 1024), np.float32)
    docs = Collection("docs", engine, model_id="m")
    docs.store_vectors((str(at), row) for at, row in enumerate(rows))
    query += centre
    counts = {"candidates": 0, "read": 0}
    candidates, rows_of = screen.Probes.candidates, statements.Answer.rows

    def chosen(*arguments: Any) -> Any:
        found = candidates(*arguments)
        counts["candidates"] += len(found.ids)
        return found

    def read(*arguments: Any) -> Any:
        found = rows_of(*arguments)
        counts["read"] += len(found)
        return found

    searched(docs, query)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(screen.Probes, "candidates", chosen)
        patch.setattr(statements.Answer, "rows", read)
        with from_memory():
            found = searched(docs, query)

    assert found == scanned(docs, query)
    assert 10 <= counts["read"] < 0.75 * counts["candidates"]


def test_a_pruned_log(engine: Engine):
    """Whoever has been away for too long loads anew."""
    docs = filled(engine)
    assert_right(docs)
    docs.store_vectors([("new", vectors(1)[0])])
    write_elsewhere(
        file_of(engine),
        "DELETE FROM embeddings_log WHERE seq > 0 AND seq < (SELECT max(seq) FROM embeddings_log)",
    )
    assert_right(docs)


def test_in_memory():
    """A database in memory is searched from memory, and threads share it."""
    docs = filled(None)
    assert_right(docs)
    docs.store_vectors([("new", vectors(1)[0])])
    assert_right(docs)
    docs.close()


def test_many_collections(engine: Engine):
    """Each has its own rows."""
    collections = [filled(engine, 20 + at, f"docs-{at}") for at in range(12)]
    for docs in collections * 2:
        assert_right(docs)
    assert [docs.status().rows for docs in collections] == [20 + at for at in range(12)]


@pytest.mark.parametrize("missing", [1, 500])
def test_a_budget_that_is_a_little_too_small(missing: int, engine: Engine):
    """What does not fit is not loaded, again and again, to be let go of at once."""
    docs = filled(engine, 2000)
    searched(docs, vectors(1)[0])
    set_memory_budget(CACHE.nbytes)
    with from_memory():
        searched(docs, vectors(1)[0])
    CACHE.clear()
    set_memory_budget(CACHE.budget - missing)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statements, "load", lambda *_: pytest.fail("loaded"))
        with pytest.warns(embeddings.MemoryBudgetWarning):
            searched(docs, vectors(1)[0])
        for _ in range(2):
            searched(docs, vectors(1)[0])
    assert "bytes in memory" in str(docs.status().reason)


def test_the_budget(engine: Engine):
    """What was not searched for longest goes first; what cannot fit is scanned."""
    first, second = filled(engine, 500, "first"), filled(engine, 500, "second")
    assert_right(first)
    size = CACHE.nbytes
    assert 0 < size <= first.status().budget
    set_memory_budget(size * 3 // 2)
    assert_right(second)
    assert first.status().strategy == "scan"
    assert second.status().strategy == "matrix"
    assert CACHE.nbytes <= size * 3 // 2
    set_memory_budget(1000)
    query = vectors(1)[0]
    with pytest.warns(embeddings.MemoryBudgetWarning, match="'second'.*set_memory_budget"):
        assert searched(second, query) == scanned(second, query)
    assert searched(second, query) == scanned(second, query)
    assert CACHE.nbytes <= 1000
    assert "1000" in str(second.status().reason)
    for wrong in (-1, 1.5, "1", None, True):
        with pytest.raises(embeddings.InvalidQueryError, match="budget"):
            set_memory_budget(wrong)  # type: ignore[arg-type]


def test_the_first_search_scans(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """A program that searches once does not pay for loading; the second search loads."""
    monkeypatch.setattr(build, "BUILT_AT", 2)
    docs = filled(engine)
    assert "second search" in str(docs.status().reason)
    searched(docs, vectors(1)[0])
    assert docs.status().strategy == "scan"
    searched(docs, vectors(1)[0])
    assert docs.status().strategy == "matrix"


def test_the_status_of_nothing(engine: Engine):
    """Neither a collection that does not exist nor an empty one is an error."""
    assert Collection("nothing", engine, model_id="m").status().strategy == "scan"


def test_threads(engine: Engine):
    """Threads search and write side by side: one loads while the others scan."""
    write_ahead(engine)
    filled(engine, 2000 if LONG else 1000)
    failures: list[BaseException] = []
    start = threading.Barrier(6)

    def work(seed: int) -> None:
        try:
            start.wait()
            with Session(engine) as session:
                docs = Collection("docs", session)
                for at, query in enumerate(vectors(20 if LONG else 8, seed)):
                    if seed < 2:
                        docs.store_vectors([(f"{seed}-{at}", query)])
                        session.commit()
                    session.execute(text("BEGIN"))  # one snapshot for both
                    assert searched(docs, query) == scanned(docs, query)
                    session.rollback()
        except BaseException as error:  # noqa: BLE001  it is raised in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def _in_the_child(path: str, results: Any) -> None:
    engine = create_engine(f"sqlite:///{path}", connect_args=PATIENT)
    docs = Collection("docs", engine)
    docs.store_vectors([("child", vectors(1, 11)[0])])
    assert_right(docs)
    results.put([id for id, _ in searched(docs, vectors(1, 11)[0])][:1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_another_thread_builds(engine: Engine):
    """The child waits for no thread of the parent, and what it has inherited stays right."""
    docs = filled(engine)
    assert_right(docs)
    engine.dispose()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    with remembered(engine) as work:
        key = CACHE.latest(work)[0]  # type: ignore[index]
    with turns.turn(key, BLOCKING), CACHE._lock:
        child = context.Process(target=_in_the_child, args=(file_of(engine), results))
        child.start()
    assert results.get(timeout=60) == ["child"]
    child.join()
    assert searched(docs, vectors(1, 11)[0])[0][0] == "child"
    assert_right(docs)


WRITER = """
import sqlite3, sys, numpy as np
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
generator = np.random.default_rng(1)
print("ready", flush=True)
while True:
    vector = generator.standard_normal(8).astype("f4").tobytes()
    at = int(generator.integers(0, 300))
    kind = generator.integers(0, 4)
    if kind:
        connection.execute("INSERT OR REPLACE INTO embeddings (collection_id, id, embedding) "
                           "VALUES (1, ?, ?)", (f"{at % 10}-{at}", vector))
    else:
        connection.execute("DELETE FROM embeddings WHERE collection_id = 1 AND id = ?",
                           (f"{at % 10}-{at}",))
"""


def test_a_second_process_writes_at_full_speed(engine: Engine):
    """Every answer is that of a scan of the same snapshot."""
    path = file_of(engine)
    write_ahead(engine)
    filled(engine)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE)
    assert writer.stdout
    writer.stdout.readline()
    wrong = 0
    try:
        with Session(engine) as session:
            docs = Collection("docs", session)
            for number in range(SEARCHES):
                query = vectors(1, number)[0]
                if number % 2:
                    searched(docs, query)  # what follows has to do with several snapshots
                session.execute(text("BEGIN"))
                wrong += searched(docs, query) != scanned(docs, query)
                session.rollback()
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    assert wrong == 0


# The moments in between


def moments(engine: Engine, at: int, state: str) -> tuple[Any, list[Any]]:
    """Return what was found while another process wrote, and what there was before and after."""
    path = file_of(engine)
    query = vectors(1, 5)[0]
    docs = Collection("docs", engine)
    before = scanned(docs, query, number=3)
    nearest = vectors(300)[int(before[0][0].split("-")[1])]
    if state == "known":
        searched(docs, query)
    count = 0

    def write(*_: object) -> None:
        nonlocal count
        count += 1
        if count == at + 1:
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute(SET, (query.tobytes(), "3-3"))  # becomes the best
                moved = nearest + np.float32(1e-3)  # and what was the best hardly changes
                connection.execute(SET, (moved.tobytes(), before[0][0]))

    # A host's Session begins no transaction to read: each statement is a snapshot of its own.
    with Session(engine) as session:
        event.listen(engine, "before_cursor_execute", write)
        try:
            found = searched(Collection("docs", session), query, number=3)
        finally:
            event.remove(engine, "before_cursor_execute", write)
    return found, [before, scanned(docs, query, number=3)]


@pytest.mark.parametrize("at", range(10))
@pytest.mark.parametrize("state", ["unknown", "known"])
def test_a_write_between_two_statements(at: int, state: str, engine: Engine):
    """The answer is that of one moment, wherever in the search the write falls."""
    write_ahead(engine)
    filled(engine)
    found, possible = moments(engine, at, state)
    assert found in possible


def test_position_and_rows_by_two_statements_are_shown(
    tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch
):
    """A fault seeded on purpose: with the position of one snapshot, and the rows of another."""
    real = statements.answer

    @contextmanager
    def by_two(work: Work, base: Mark, ids: Any, *rest: Any) -> Iterator[statements.Answer]:
        with real(work, base, [], *rest) as answer:
            pass
        rows = work.connection.exec_driver_sql(
            "SELECT 2, e.id, e.embedding, e.content, e.metadata FROM json_each(?) LEFT JOIN "
            "embeddings e ON collection_id = ? AND e.id = value",
            (json.dumps(ids), work.row.id),
        )
        answer._waiting = [*rows]
        yield answer

    monkeypatch.setattr(statements, "answer", by_two)
    shown = []
    for at in range(5):
        engine = create_engine(f"sqlite:///{shutil.copy(migrated, tmp_path / f'{at}.db')}")
        write_ahead(engine)
        filled(engine)
        found, possible = moments(engine, at, "known")
        shown.append(found not in possible)
        engine.dispose()
    assert any(shown)


class Interrupter:
    """Raises KeyboardInterrupt at the nth moment within the matrix, where Python heeds Ctrl-C.

    It does so where a function begins, and where one of C's has ended.

    Args:
        at: Which; none if there are fewer.
    """

    def __init__(self, at: int) -> None:
        self._at = at
        self.count = 0

    def __enter__(self) -> Self:
        sys.setprofile(self._step)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _step(self, frame: FrameType, event: str, _: object) -> None:
        is_ours = f"{os.sep}matrix{os.sep}" in frame.f_code.co_filename
        if is_ours and event in {"call", "c_return"}:
            self.count += 1
            if self.count == self._at:
                sys.setprofile(None)
                raise KeyboardInterrupt


# Where an abandoned generator is closed, Python tells of an exception, and goes on.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("known", [False, True], ids=["unknown", "known"])
def test_an_interrupt_anywhere(known: bool, engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """Wherever it falls, what is left in memory is right, and the next search is from memory."""
    monkeypatch.setattr(statements, "CHUNK_ROWS", 100)
    monkeypatch.setattr(statements, "MOST_CHANGES", 1)
    with Session(engine) as session:
        docs = filled(session)
        session.commit()

        def prepare(at: int) -> None:
            session.rollback()
            CACHE.clear()
            if known:
                searched(docs, vectors(1)[0])
                docs.store_vectors(zip(["0-0", "a", "b"], vectors(3, at), strict=True))

        query = vectors(1, 7)[0]
        prepare(0)
        with Interrupter(0) as every:
            searched(docs, query)
        assert every.count > 200
        for at in range(1 + known * (INTERRUPTED // 2), every.count + 1, INTERRUPTED):
            prepare(at)
            with suppress(KeyboardInterrupt), Interrupter(at):
                searched(docs, query)
            with from_memory():
                found = searched(docs, query, number=3)
            assert found == scanned(docs, query, number=3)


def during_the_load(monkeypatch: pytest.MonkeyPatch, at: int, write: Callable[[], None]) -> None:
    """Let something be written before the nth part of a load, or after the last."""
    real = statements.load

    def load(*arguments: Any) -> Iterator[Any]:
        number = 0
        for part in real(*arguments):
            if number == at:
                write()
            number += 1
            yield part
        if at >= number:
            write()

    monkeypatch.setattr(statements, "CHUNK_ROWS", 100)
    monkeypatch.setattr(statements, "load", load)


@pytest.mark.parametrize("is_ours", [True, False], ids=["same connection", "another"])
@pytest.mark.parametrize("at", range(5))
def test_a_write_during_the_load(
    at: int, is_ours: bool, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """Whether or not the load has passed the row by then, what comes of it is right."""
    assert not _stale_after_a_write_during_the_load(at, is_ours, engine, monkeypatch)


@pytest.mark.parametrize("is_ours", [True, False], ids=["same connection", "another"])
def test_not_reading_the_head_again_is_shown(
    is_ours: bool, engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    """A fault seeded on purpose: with the head that was read after the load, and not before."""
    monkeypatch.setattr(build, "_mark_if_unchanged", lambda before, after, _: after.mark)
    stale = _stale_after_a_write_during_the_load(2, is_ours, engine, monkeypatch)
    assert stale


def _stale_after_a_write_during_the_load(
    at: int, is_ours: bool, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> bool:
    write_ahead(engine)
    filled(engine)
    query = vectors(1, 5)[0]
    with Session(engine) as session:
        docs = Collection("docs", session)

        def write() -> None:
            if is_ours:
                driver: Any = session.connection().connection.driver_connection
                driver.execute(SET, (query.tobytes(), "0-0"))
            else:
                write_elsewhere(file_of(engine), SET, query.tobytes(), "0-0")

        during_the_load(monkeypatch, at, write)
        searched(docs, query)
        stale = False
        for _ in range(3):
            stale |= searched(docs, query) != scanned(docs, query)
            stale |= searched(docs, query, number=1) != scanned(docs, query, number=1)
        return stale


def test_a_filter_that_keeps_half_reads_few_rows(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """It is tried on the best; of these no more are read than it takes to find ten that meet it."""
    docs = filled(engine, 9_000)
    searched(docs, vectors(1)[0])
    docs.warm()
    asked: list[int] = []
    real = statements.Answer.rows

    def rows(answer: statements.Answer, count: int) -> Any:
        asked.append(count)
        return real(answer, count)

    monkeypatch.setattr(statements.Answer, "rows", rows)
    half = EmbeddingRecord.id < "5"
    for query in vectors(5, 7):
        asked.clear()
        with from_memory():
            found = searched(docs, query, where=half)
        assert found == scanned(docs, query, where=half)
        assert sum(asked) <= 128

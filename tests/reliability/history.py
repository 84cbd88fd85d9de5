"""Histories of one file: three sessions and a writer of raw SQL, at random.

After each step some of the sessions search, chosen at random: a search heals a cache, so that
faults hide where all do. Each answer has to be that of a scan in the same session.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis.stateful import RuleBasedStateMachine, rule
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

import embeddings
from embeddings import Collection, DoesNotExist, EmbeddingRecord, IndexingError
from embeddings.databases.sqlite.matrix.cache import CACHE
from embeddings.searching.scan import warn_of
from embeddings.vectors import as_query, cosine_scores

IDS = ("a", "a1", "b", "b1", "c", "d", "é", "z")
VECTORS = np.array(
    [
        [1, 0, 0, 0],
        [2, 0, 0, 0],
        [0, 1, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [0, 0, 0, 0],
        [-1, 0, 0, 1],
        [3, 2, 1, 0],
    ],
    np.float32,
)
BLOBS = [vector.tobytes() for vector in VECTORS] + [
    b"odd",
    np.full(4, np.nan, np.float32).tobytes(),
]

# What an application may execute. :v is a stored vector, :a and :b are ids.
SQL = (
    "INSERT OR REPLACE INTO embeddings (collection_id, id, embedding) VALUES (1, :a, :v)",
    "INSERT OR IGNORE INTO embeddings (collection_id, id, embedding) VALUES (2, :a, :v)",
    "INSERT INTO embeddings (collection_id, id, embedding) VALUES (1, :a, :v) "
    "ON CONFLICT DO UPDATE SET embedding = excluded.embedding",
    "UPDATE embeddings SET embedding = :v WHERE collection_id = 1 AND id = :a",
    "UPDATE embeddings SET embedding = :v WHERE id >= :a",
    "UPDATE OR REPLACE embeddings SET id = :b WHERE collection_id = 1 AND id = :a",
    "UPDATE OR REPLACE embeddings SET collection_id = 3 - collection_id WHERE id = :a",
    "DELETE FROM embeddings WHERE collection_id = 1 AND id = :a",
    "DELETE FROM embeddings WHERE id >= :a",
    "REPLACE INTO embeddings (rowid, collection_id, id, embedding) "
    "SELECT rowid, 1, :b, :v FROM embeddings WHERE id = :a",
    "REPLACE INTO embeddings (rowid, collection_id, id, embedding) "
    "SELECT rowid, 2, :b, :v FROM embeddings WHERE collection_id = 1 AND id = :a",
    "UPDATE OR REPLACE embeddings SET rowid = coalesce((SELECT rowid FROM embeddings "
    "WHERE collection_id = 1 AND id > :a LIMIT 1), rowid) WHERE collection_id = 1 AND id = :a",
    "DELETE FROM embeddings_log WHERE seq > 0 AND seq < (SELECT max(seq) FROM embeddings_log)"
    " AND collection_id = 1 AND seq NOT IN "
    "(SELECT max(seq) FROM embeddings_log GROUP BY collection_id)",
)
# The name goes to another collection, or to none until somebody stores something under it.
RENAMES = tuple(
    f"UPDATE OR IGNORE collections SET name = CASE name WHEN 'docs' THEN '{other}' ELSE 'docs' END"
    f" WHERE id = {id}"
    for id, other in ((1, "other"), (2, "more"))
)
POINTS = ("COMMIT", "COMMIT", "ROLLBACK", "ROLLBACK", "SAVEPOINT", "ROLLBACK TO", "RELEASE")

who = st.integers(0, 2)
outsider = st.integers(0, 3)  # 3 is the writer of raw SQL
some_id = st.sampled_from(IDS)
looks: dict[str, Any] = {
    "lookers": st.integers(0, 7),  # one bit for each session
    # None: what was written last, which faults keep from being found.
    "looked_for": st.sampled_from([*[None] * 8, *range(len(VECTORS))]),
    "number": st.sampled_from([1, 1, 1, 2, 4]),
    "prefix": st.sampled_from([None, None, None, "a", "b"]),
}


def template(folder: Path, *, indexed: bool = False) -> Path:
    """Return a new file with the tables, a few rows and the write-ahead log, and an index."""
    path = folder / "template.db"
    engine = create_engine(f"sqlite:///{path}")
    embeddings.migrate(engine)
    docs = Collection("docs", engine, model_id="m")
    # What is written later is nearer to a query than these, which are not near to each other.
    first = np.random.default_rng(0).standard_normal((5, VECTORS.shape[1]))
    docs.store_vectors(zip(IDS[:5], first, strict=True))
    Collection("more", engine, model_id="m").store_vectors([("a", VECTORS[3])])
    if indexed:
        with suppress(IndexingError):  # where a trigger is missing on purpose
            docs.create_index()
    engine.dispose()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    return path


class History(RuleBasedStateMachine):
    """One history; a subclass says which file it begins with, and what happens in it."""

    template: Path
    sql: tuple[str, ...] = SQL
    filters: bool = True
    """Whether the searches for two have a `where`."""
    indexed: bool = False
    """Whether an index comes and goes."""

    def __init__(self) -> None:
        super().__init__()
        CACHE.clear()
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        path = Path(self._folder.name) / "app.db"
        shutil.copy(self.template, path)
        # The driver begins a transaction with the first change; in the other engine, with the
        # first statement, so that a session stays in its snapshot.
        self._engines = [_engine(path), _engine(path, begins=True)]
        self._sessions = [Session(self._engines[number == 2]) for number in range(3)]
        self._docs = [Collection("docs", session, model_id="m") for session in self._sessions]
        self._latest = VECTORS[0]
        self._points: list[list[Any]] = [[], [], []]
        self._outside = sqlite3.connect(path, timeout=0, isolation_level=None)
        self._outside.execute("PRAGMA synchronous = OFF")

    def teardown(self) -> None:
        for session in self._sessions:
            session.close()
        for engine in self._engines:
            engine.dispose()
        self._outside.close()
        self._folder.cleanup()

    @rule(at=who, ids=st.lists(some_id, min_size=1, max_size=3),
          v=st.integers(0, len(VECTORS) - 1), **looks)  # fmt: skip
    def store(self, at: int, ids: list[str], v: int, **look: Any) -> None:
        self._latest = VECTORS[v]
        self._try(at, lambda: self._docs[at].store_vectors([(id, VECTORS[v]) for id in ids]))
        self._look(**look)

    @rule(at=who, id=some_id, **looks)
    def delete(self, at: int, id: str, **look: Any) -> None:
        self._try(at, lambda: self._docs[at].delete_items([id]))
        self._look(**look)

    @rule(
        at=outsider,
        sql=st.runner().flatmap(lambda self: st.sampled_from(self.sql)),
        a=some_id,
        b=some_id,
        v=st.sampled_from(BLOBS[:-2] * 3 + BLOBS),
        **looks,
    )
    def execute(self, at: int, sql: str, a: str, b: str, v: bytes, **look: Any) -> None:
        values = {
            name: value for name, value in (("a", a), ("b", b), ("v", v)) if f":{name}" in sql
        }
        if v in BLOBS[:-2]:
            self._latest = VECTORS[BLOBS.index(v)]
        if at == 3:
            self._try(at, lambda: self._outside.execute(sql, values))
        else:
            self._try(at, lambda: self._sessions[at].execute(text(sql), values))
        self._look(**look)

    @rule(at=who, point=st.sampled_from(POINTS), **looks)
    def end(self, at: int, point: str, **look: Any) -> None:
        session, points = self._sessions[at], self._points[at]
        if point == "SAVEPOINT":
            # Without a change before it, the driver would begin no transaction around it.
            if session.connection().connection.driver_connection.in_transaction:  # type: ignore[union-attr]
                points.append(session.begin_nested())
        elif point in {"COMMIT", "ROLLBACK"}:
            finish = session.commit if point == "COMMIT" else session.rollback
            self._try(at, finish)
            points.clear()
        elif points:
            savepoint = points.pop()
            self._try(at, savepoint.commit if point == "RELEASE" else savepoint.rollback)
        self._look(**look)

    @rule(at=who, makes=st.sampled_from([True, True, True, False]), **looks)
    def index(self, at: int, makes: bool, **look: Any) -> None:
        if self.indexed:
            docs = self._docs[at]
            self._try(at, docs.create_index if makes else docs.drop_index)
        self._look(**look)

    def _try(self, at: int, work: Any) -> None:
        try:
            work()
        except (DoesNotExist, IndexingError):  # of a name that is nobody's, or without the log
            pass
        except (OperationalError, sqlite3.OperationalError) as error:
            if "locked" not in str(error):
                raise
            if at < 3:  # another writer is at work: give up
                self._sessions[at].rollback()
                self._points[at].clear()

    def _look(self, lookers: int, looked_for: int | None, number: int, prefix: str | None) -> None:
        from_id = "a1" if self.filters and number == 2 else None
        vector = self._latest if looked_for is None else VECTORS[looked_for]
        for at in range(3):
            if lookers >> at & 1:
                seen = _searched(self._docs[at], vector, number, prefix, from_id)
                right = _scanned(self._docs[at], vector, number, prefix, from_id)
                assert seen == right


def _engine(path: Path, *, begins: bool = False) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})

    @event.listens_for(engine, "connect")
    def connect(driver: Any, _: object) -> None:
        driver.execute("PRAGMA synchronous = OFF")
        if begins:
            driver.isolation_level = None

    if begins:

        @event.listens_for(engine, "begin")
        def begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN")

    return engine


def _searched(
    docs: Collection[Any], vector: Any, number: int, prefix: str | None, from_id: str | None
) -> Any:
    where = None if from_id is None else EmbeddingRecord.id >= from_id
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found = docs.similar_by_vector(vector, number, prefix=prefix, where=where)
    return [(e.id, e.score) for e in found], [str(warning.message) for warning in warned]


def _scanned(
    docs: Collection[Any], vector: Any, number: int, prefix: str | None, from_id: str | None
) -> Any:
    """Return the same by the shortest way: all rows as they are now, scored and sorted."""
    with docs.reference.work() as work:
        rows = work.connection.exec_driver_sql(
            "SELECT id, embedding FROM embeddings "
            "WHERE collection_id = (SELECT id FROM collections WHERE name = 'docs')"
        )
        found = {
            id: blob for id, blob in rows if id.startswith(prefix or "") and id >= (from_id or "")
        }
    odd = [id for id, blob in found.items() if len(blob) != VECTORS[0].nbytes or blob == BLOBS[-1]]
    right = {id: np.frombuffer(blob, "<f4") for id, blob in found.items() if id not in odd}
    stored = np.array(list(right.values()), np.float32).reshape(len(right), VECTORS.shape[1])
    scores = cosine_scores(stored, as_query(vector)).tolist()
    best = sorted(zip(right, scores, strict=True), key=lambda pair: (-pair[1], pair[0]))[:number]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        if odd:
            warn_of(odd, vector.size)
    return best, [str(warning.message) for warning in warned]

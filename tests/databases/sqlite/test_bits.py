"""An index on SQLite: the best in all likelihood, never stale, kept in the database."""

from __future__ import annotations

import ast
import gc
import sqlite3
import sysconfig
import warnings
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

import embeddings
from embeddings import (
    Chunks,
    Collection,
    DoesNotExist,
    EmbeddingRecord,
    IndexInfo,
    IndexingError,
    InvalidQueryError,
)
from embeddings.cli import embeddings as program
from embeddings.databases.sqlite.changelog import trigger_names
from embeddings.databases.sqlite.index import chosen, commands, registry
from embeddings.databases.sqlite.index.method import Found, Method
from embeddings.databases.sqlite.matrix import statements
from embeddings.databases.sqlite.matrix.cache import CACHE
from embeddings.databases.sqlite.matrix.state import bytes_of
from embeddings.tables.records import RECORDS
from embeddings.testing import DeterministicModel
from embeddings.vectors import as_query, cosine_scores
from tests.reaching import examples, is_opened_by_the_collection, on_a_session, on_sqlite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


SIZE = 64
IDS = 40  # bytes of an id in the figure of the memory


@pytest.fixture(autouse=True)
def _nothing_in_memory() -> Iterator[None]:
    CACHE.clear()
    budget = CACHE.budget
    yield
    CACHE.budget = budget
    CACHE.clear()


@pytest.fixture
def _few_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the index choose among hundreds of rows, as it does among many thousands."""
    monkeypatch.setattr(chosen, "FEW_ROWS", 60)
    monkeypatch.setattr(chosen, "READS_PER_RESULT", 20)


class Halves(Method):
    """Half floats, compared one and all."""

    name = "halves"

    def encode(self, rows: Any) -> Any:
        return np.ascontiguousarray(rows.astype(np.float16).T)

    def candidates(self, codes: Sequence[Any], query: Any, mask: Any, count: int) -> Found:
        scores = np.concatenate([query @ part.astype(np.float32) for part in codes])
        if mask is not None:
            scores[~mask] = -np.inf
        order = np.argsort(-scores, kind="stable")[:count]
        order = order[scores[order] > -np.inf]
        return Found(order, scores[order])


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install a package with that method."""
    info = tmp_path / "toy_index-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-index\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[embeddings.indexes]\ntoy = {__name__}:Halves\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry.methods.cache_clear()
    yield
    registry.methods.cache_clear()


@pytest.fixture(params=["bits", "halves"])
def method(request: pytest.FixtureRequest) -> str:
    """Return a method: ours, and one of a package, to which nothing else is to differ."""
    if request.param == "halves":
        request.getfixturevalue("toy")
    return str(request.param)


@pytest.fixture(scope="module")
def docstrings() -> Any:
    """Vectors of the docstrings of the standard library, or a part, by the local model."""
    texts = set()
    files = "[a-h]*.py" if examples(1) == 1 else "*.py"
    # CPython 3.11 fails if the garbage collector runs something that parses meanwhile, such as the
    # traceback of a connection that cannot be ended.
    gc.disable()
    try:
        paths = Path(sysconfig.get_path("stdlib")).glob(files)
        trees = [ast.parse(path.read_bytes()) for path in paths]
    finally:
        gc.enable()
    for node in chain.from_iterable(map(ast.walk, trees)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (doc := ast.get_docstring(node)):
            texts.add(f"{node.name}: {doc}")
    model = embeddings.get_embedding_model("local")
    return np.array(list(model.embed_multi(sorted(texts))), np.float32)


def vectors(count: int, seed: int = 0, size: int = SIZE) -> Any:
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((40, size), np.float32)
    noise = generator.standard_normal((count, size), np.float32)
    return noise + centres[generator.integers(0, 40, count)]


def filled(db: Any, count: int = 600) -> Collection[str]:
    docs = Collection("docs", db, model_id="m")
    docs.store_vectors(
        (
            (f"{at % 10}-{at}", vector, {"part": at % 20}, f"word{at % 3}")
            for at, vector in enumerate(vectors(count))
        ),
    )
    return docs


def hits(docs: Collection[str], seed: int = 1, **options: Any) -> float:
    """Return the share of the best that searches find, and look at what they find."""
    found, best = 0, 0
    for query in vectors(10, seed):
        near = docs.similar_by_vector(query, **options)
        right = docs.similar_by_vector(query, exact=True, **options)
        assert right.exact
        assert not near.exact
        assert len(near) == len(right)
        scores = {entry.id: entry.score for entry in right}
        assert [e.score for e in near] == sorted((e.score for e in near), reverse=True)
        assert all(scores.get(e.id, e.score) == e.score for e in near)
        found += len(scores.keys() & {e.id for e in near})
        best += len(right)
    return found / best


# Made and dropped


@on_sqlite
def test_made_used_and_dropped(db: Any, model: DeterministicModel):
    """Searches say that they use it, and what they find has exact scores."""
    docs = Collection("docs", db, model=model)
    if not is_opened_by_the_collection(db):
        with pytest.raises(DoesNotExist):
            docs.create_index()
    docs.embed_multi([("a", "a hound"), ("b", "two cats"), ("c", "the sea")], store=True)
    assert docs.index_info() is None
    assert docs.similar("a hound").exact

    info = docs.create_index()

    assert info == IndexInfo("bits", {}, 3, 256, info.bytes, True)
    assert info.bytes > 0
    assert docs.index_info() == info == docs.status().index
    assert docs.status().strategy == "index"
    found = docs.similar("a hound")
    assert [(e.id, e.content) for e in found[:1]] == [("a", "a hound")]
    assert not found.exact
    assert docs.similar("a hound", exact=True).exact
    assert [found[0].id, *found] == ["a", *docs.similar("a hound", exact=True)]
    assert not docs.similar_multi(["a hound"])[0].exact
    assert docs.drop_index() is True
    assert docs.drop_index() is False
    assert docs.index_info() is None
    assert docs.similar("a hound").exact


def test_what_is_refused(engine: Engine, model: DeterministicModel):
    """Nothing is made, and the message says what there is."""
    docs = Collection("docs", engine, model=model)
    docs.embed("a", "a hound")
    with pytest.raises(InvalidQueryError, match=r"no index method 'hnsw'; there are bits"):
        docs.create_index(method="hnsw")
    with pytest.raises(InvalidQueryError, match="m is an option of HNSW"):
        docs.create_index(m=4)
    CACHE.budget = 2_000
    docs.store_vectors((str(at), vector) for at, vector in enumerate(vectors(20, size=256)))
    with pytest.raises(IndexingError, match=r"21 rows need \d+ bytes in memory"):
        docs.create_index()
    assert docs.index_info() is None


def test_before_there_are_vectors(engine: Engine):
    """It takes in what comes."""
    docs = Collection("docs", engine, model_id="m")
    info = docs.create_index(dimensions=SIZE)
    assert (info.rows, info.dimensions, info.is_valid) == (0, None, True)
    assert docs.status().strategy == "scan"
    docs.store_vectors((str(at), vector) for at, vector in enumerate(vectors(100)))
    assert hits(docs) == 1.0
    assert docs.create_index().rows == 100


@on_a_session
def test_it_is_a_part_of_the_transaction(db: Session, method: str):
    """Rolled back, it is gone; a savepoint takes the drop back."""
    docs = filled(db, 100)
    db.commit()
    docs.create_index(method=method)
    assert not docs.similar_by_vector(vectors(1)[0]).exact
    db.rollback()
    assert docs.index_info() is None
    assert docs.similar_by_vector(vectors(1)[0]).exact
    docs.create_index(method=method)
    db.commit()
    savepoint = db.begin_nested()
    docs.drop_index()
    assert docs.similar_by_vector(vectors(1)[0]).exact
    savepoint.rollback()
    assert not docs.similar_by_vector(vectors(1)[0]).exact


def test_others_learn_of_it(tmp_path: Path):
    """A process that has searched already uses it from its next search on, and stops then."""
    one, other = (create_engine(f"sqlite:///{tmp_path / 'app.db'}") for _ in range(2))
    embeddings.migrate(one)
    docs, theirs = filled(one, 100), Collection("docs", other, model_id="m")
    query = vectors(1)[0]
    for _ in range(3):
        assert theirs.similar_by_vector(query).exact
    docs.create_index()
    assert not theirs.similar_by_vector(query).exact
    docs.drop_index()
    assert theirs.similar_by_vector(query).exact
    one.dispose()
    other.dispose()


def test_a_deleted_collection_takes_it_along(engine: Engine):
    """And what stands beside the tables is known to be ours."""
    docs = filled(engine, 50)
    docs.create_index()
    database, records = docs.reference.database, docs.reference.records
    with engine.connect() as connection:
        tables = connection.exec_driver_sql(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '%index%'"
        ).scalars()
        names = tables.all()
    assert [database.is_side_table(name, records) for name in names] == [True]
    assert not database.is_side_table("embeddings_index_of_mine", records)
    docs.delete()
    with engine.connect() as connection:
        assert not connection.exec_driver_sql(
            "SELECT 1 FROM sqlite_master WHERE name LIKE 'embeddings_index%'"
        ).all()


def test_a_downgrade_takes_it_along(engine: Engine):
    """Nothing of it is left."""
    filled(engine, 50).create_index()
    embeddings.downgrade(engine, drop_rows=True)
    with engine.connect() as connection:
        assert not connection.exec_driver_sql(
            "SELECT 1 FROM sqlite_master WHERE name LIKE 'embeddings%' AND name NOT LIKE '%version'"
        ).all()


# What is found


@pytest.mark.once
@pytest.mark.usefixtures("_few_are_few")
def test_nearly_all_of_the_best_are_found(engine: Engine, method: str):
    """Of more rows than are read, with every condition, whether it keeps much or little."""
    docs = filled(engine, 3_000)
    docs.create_index(method=method)
    assert hits(docs) >= 0.98
    assert hits(docs, number=3, offset=2) >= 0.95
    assert hits(docs, number=50) >= 0.98
    assert hits(docs, min_score=0.4) >= 0.98
    assert hits(docs, prefix="3") >= 0.98
    assert hits(docs, prefix="3-1") >= 0.98
    assert hits(docs, where={"part": {"$lt": 10}}) >= 0.98
    assert hits(docs, where={"part": 3}) >= 0.98
    assert hits(docs, where=EmbeddingRecord.id > "5") >= 0.98
    assert hits(docs, among=[f"{at % 10}-{at}" for at in range(0, 3_000, 7)]) >= 0.98
    assert hits(docs, among=[f"{at % 10}-{at}" for at in range(5)]) == 1.0


@pytest.mark.usefixtures("_few_are_few")
@on_a_session
def test_selectables_words_and_several_at_once(db: Session, method: str):
    """They find what `similar_by_vector` finds."""
    docs = filled(db)
    docs.create_index(method=method)
    docs.create_text_index()
    queries = vectors(3, 7)
    near = [docs.similar_by_vector(query) for query in queries]
    assert docs.similar_multi_by_vector(queries) == near
    assert not any(found.exact for found in docs.similar_multi_by_vector(queries))
    matches = docs.matches_by_vector(queries[0])
    assert [tuple(row) for row in db.execute(matches.select())] == [
        (entry.id, entry.score) for entry in near[0]
    ]
    fused = docs.similar_by_vector(queries[0], words="word1")
    assert {entry.ranks is not None for entry in fused} == {True}
    assert [e.id for e in docs.similar_by_id("0-0", 5)] == [
        e.id for e in docs.similar_by_id("0-0", 5, exact=True)
    ]


def test_items_of_chunks(engine: Engine, model: DeterministicModel):
    """Are found once each, as without the index."""
    docs = Collection("docs", engine, model=model, chunks=Chunks(size=60))
    texts = {
        f"{at}": f"about word{at}. " * 10 + f"And then of word{at + 1}. " * 5 for at in range(9)
    }
    docs.embed_multi(texts.items(), store=True)
    right = docs.similar("word3 and word4")
    docs.create_index()
    found = docs.similar("word3 and word4")
    assert (right.exact, found.exact) == (True, False)
    assert found == right
    assert found[0].chunk is not None


def test_another_model_takes_the_index_along(engine: Engine, model: DeterministicModel):
    """What is made beside has one as well, which is used after the switch."""
    docs = Collection("docs", engine, model=model)
    docs.embed_multi([("a", "a hound"), ("b", "two cats")], store=True)
    docs.create_index()
    docs.reembed(DeterministicModel("other"))
    docs = Collection("docs", engine, model=DeterministicModel("other"))
    assert docs.similar("a hound", 1)[0].id == "a"
    assert not docs.similar("a hound", 1).exact
    assert docs.index_info() is not None


@pytest.mark.once
def test_recall_on_real_texts(engine: Engine, docstrings: Any):
    """Held out texts find 99 in a hundred of their nearest; 0.07 of the vectors' memory is used."""
    matrix = docstrings
    step = max(80, 400 // examples(1))
    queries, stored = matrix[::step], np.delete(matrix, slice(None, None, step), axis=0)
    part = np.arange(len(stored)) % 100
    docs = Collection("docs", engine, model_id="m")
    docs.store_vectors(
        (f"{at:0{IDS}}", vector, {"part": at % 100}) for at, vector in enumerate(stored)
    )
    docs.create_index()
    for below in (100, 50, 10, 5, 1):
        where, right = {"part": {"$lt": below}}, 0
        kept = np.flatnonzero(part < below)
        for query in queries:
            found = docs.similar_by_vector(query, where=where if below < 100 else None)
            assert not found.exact
            scores = cosine_scores(stored[kept], as_query(query))
            best = kept[np.argsort(-scores, kind="stable")[:10]]
            right += len({int(entry.id) for entry in found} & {*best.tolist()})
        assert right >= 0.99 * 10 * len(queries), below


def test_memory_is_a_fraction_of_the_vectors(engine: Engine):
    """At 384 dimensions 0.07 of them, ids of 40 bytes included."""
    docs = Collection("docs", engine, model_id="m")
    matrix = np.random.default_rng(0).standard_normal((2_000, 384), np.float32)
    docs.store_vectors((f"{at:0{IDS}}", vector) for at, vector in enumerate(matrix))
    info = docs.create_index()
    assert docs.status().bytes <= 0.07 * matrix.nbytes
    assert info.bytes <= 0.07 * matrix.nbytes
    with docs.reference.work() as work:
        docs.reference.existing(work)
        latest = CACHE.latest(work, "bits")
        assert latest is not None
        state = latest[1]
    segments: Any = state.segments
    held = sum(each.codes.nbytes + each.ids.ends.nbytes + len(each.ids.text) for each in segments)
    assert held + state.radii.nbytes <= bytes_of(state)


# Kept in the database


def from_the_rows(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list that has something of each time that all rows, or those written, are read."""
    reads: list[object] = []
    load = statements.load

    def noted(work: Any, since: Any) -> Any:
        reads.append("all" if since is None else "since")
        return load(work, since)

    monkeypatch.setattr(statements, "load", noted)
    return reads


@pytest.mark.usefixtures("_few_are_few")
def test_a_fresh_process_does_not_read_the_rows(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, method: str
):
    """It takes what the database has, and what was written since from the change log."""
    docs = filled(engine)
    docs.create_index(method=method)
    with Session(engine) as session:
        Collection("docs", session).delete_items(["0-0"])
        Collection("docs", session).store_vectors([("new", vectors(1)[0]), ("1-1", vectors(1)[0])])
        session.commit()
    CACHE.clear()
    reads = from_the_rows(monkeypatch)
    assert docs.status().reason is None
    found = docs.similar_by_vector(vectors(1)[0], 3)
    assert [entry.id for entry in found[:2]] == ["1-1", "new"]
    assert not found.exact
    assert "all" not in reads
    assert docs.create_index(method=method).rows == 600
    CACHE.clear()
    assert hits(docs) >= 0.97
    assert "all" not in reads[: reads.index("all")] if "all" in reads else True


@pytest.mark.usefixtures("_few_are_few")
def test_only_what_changed_is_written(engine: Engine):
    """Segments stay as they are; rows that are out of date are marked."""
    docs = filled(engine)
    docs.create_index()

    def parts() -> dict[int, Any]:
        with engine.connect() as connection:
            rows = connection.exec_driver_sql(
                f"SELECT part, length(codes) AS codes, dead FROM embeddings_index_{docs.id}_bits "
                "WHERE part > 0"
            )
            return {row.part: (row.codes, row.dead) for row in rows}

    before = parts()
    docs.store_vectors([("new", vectors(1)[0])])
    docs.delete_items(["0-0"])
    docs.create_index()
    after = parts()
    assert before.keys() <= after.keys()
    assert all(before[part][0] == after[part][0] for part in before)
    assert any(after[part][1] is not None for part in before)
    CACHE.clear()
    assert docs.similar_by_vector(vectors(1)[0], 1)[0].id == "new"
    assert "0-0" not in {e.id for e in docs.similar_by_vector(vectors(1)[0], 600)}


def lose_the_log(engine: Engine) -> None:
    """Take away all of the log but its newest row, as many writes do."""
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "DELETE FROM embeddings_log WHERE seq > 0 "
            "AND seq < (SELECT max(seq) FROM embeddings_log)"
        )


@pytest.mark.usefixtures("_few_are_few")
@pytest.mark.parametrize(
    "made_anew",
    [
        lambda docs: docs.warm(),
        lambda docs: docs.store_vectors([("new", vectors(1)[0])]),
        lambda docs: docs.create_index(),
    ],
    ids=["warm", "write", "create_index"],
)
def test_where_the_log_does_not_reach_back(engine: Engine, made_anew: Callable[[Any], object]):
    """The status says so; searches are right, and on an engine three calls make it anew."""
    docs = filled(engine)
    docs.create_index()
    with Session(engine) as session:
        Collection("docs", session).store_vectors([("new", vectors(1)[0])])
        session.commit()
    lose_the_log(engine)
    CACHE.clear()

    assert docs.status().strategy == "index"
    assert "the change log does not reach back" in str(docs.status().reason)
    assert docs.similar_by_vector(vectors(1)[0], 1)[0].id == "new"
    with Session(engine) as session:
        Collection("docs", session).warm()  # which writes nothing on a session
        Collection("docs", session).store_vectors([("new", vectors(1)[0])])  # nor does this
        session.commit()
    assert docs.status().reason is not None

    made_anew(docs)

    assert docs.status().reason is None
    assert docs.index_info().rows == 601  # type: ignore[union-attr]
    CACHE.clear()
    assert docs.similar_by_vector(vectors(1)[0], 1)[0].id == "new"


def test_bulk_writes_keep_it_up(engine: Engine, monkeypatch: pytest.MonkeyPatch, method: str):
    """Those in transactions of our own, once it is behind by much."""
    monkeypatch.setattr(commands, "MOST_BEHIND", 100)
    docs = filled(engine)
    docs.create_index(method=method)
    docs.store_vectors((f"a{at}", vector) for at, vector in enumerate(vectors(90)))
    assert docs.index_info().rows == 600  # type: ignore[union-attr]
    docs.store_vectors((f"b{at}", vector) for at, vector in enumerate(vectors(90)))
    assert docs.index_info().rows == 780  # type: ignore[union-attr]
    docs.delete_items(prefix="a")
    docs.delete_items(prefix="b")
    assert docs.index_info().rows == 600  # type: ignore[union-attr]


@pytest.mark.usefixtures("_few_are_few")
@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE {} SET codes = x'00' WHERE part > 0",
        "UPDATE {} SET ids = x'ff' WHERE part > 0",
        "UPDATE {} SET facts = 'none'",
        "DELETE FROM {} WHERE part = 0",
        "UPDATE {} SET facts = '{{}}' WHERE part = 0",
    ],
)
def test_what_somebody_else_wrote_there(engine: Engine, damage: str):
    """It is made anew, and the search is right."""
    docs = filled(engine)
    docs.create_index()
    with engine.begin() as connection:
        connection.exec_driver_sql(damage.format(f"embeddings_index_{docs.id}_bits"))
    CACHE.clear()
    assert hits(docs) >= 0.97
    docs.status()
    docs.warm()
    assert docs.create_index().rows == 600
    CACHE.clear()
    assert docs.status().reason is None


def in_parts(engine: Engine) -> Collection[str]:
    """Return a collection whose index has several parts in the database."""
    docs = filled(engine)
    docs.create_index()
    docs.store_vectors((f"new{at}", vector) for at, vector in enumerate(vectors(100, seed=5)))
    docs.delete_items(["0-0", "1-1"])
    assert docs.create_index().rows == 698
    return docs


LARGEST = "WHERE part = (SELECT part FROM {} ORDER BY length(ends) DESC LIMIT 1)"
SMALLEST = "WHERE part = (SELECT part FROM {} WHERE part > 0 ORDER BY length(ends) LIMIT 1)"
DAMAGES = {
    "the largest part": f"DELETE FROM {{}} {LARGEST}",
    "the smallest part": f"DELETE FROM {{}} {SMALLEST}",
    "all parts": "DELETE FROM {} WHERE part > 0",
    "codes": f"UPDATE {{}} SET codes = substr(codes, 9) {LARGEST}",
    "what is out of date": "UPDATE {} SET dead = NULL",
}
MAKING_ANEW: dict[str, Callable[[Any], object]] = {
    "warm": lambda docs: docs.warm(),
    "write": lambda docs: docs.store_vectors([("new1", vectors(1)[0])]),
    "create_index": lambda docs: docs.create_index(),
    "drop and create": lambda docs: docs.drop_index() and docs.create_index(),
}


def damaged(engine: Engine, docs: Collection[str], lost: str) -> None:
    with engine.begin() as connection:
        table = f"embeddings_index_{docs.id}_bits"
        done = connection.exec_driver_sql(DAMAGES[lost].replace("{}", table))
        assert done.rowcount > 0


@pytest.mark.usefixtures("_few_are_few")
@pytest.mark.parametrize("made_anew", [*MAKING_ANEW])
@pytest.mark.parametrize("lost", [*DAMAGES])
@pytest.mark.parametrize("searches_before", [False, True])
def test_what_is_lost_is_made_anew(
    engine: Engine, lost: str, made_anew: str, searches_before: bool
):
    docs = in_parts(engine)
    given = vectors(600)
    damaged(engine, docs, lost)
    CACHE.clear()
    assert "lacks a part" in str(docs.status().reason)
    if searches_before:
        assert all(docs.similar_by_vector(each, 1) for each in given[:3])
        assert docs.status().rows == 698
        assert "lacks a part" in str(docs.status().reason)
    MAKING_ANEW[made_anew](docs)
    assert docs.status().reason is None
    assert docs.index_info().rows == 698  # type: ignore[union-attr]
    CACHE.clear()
    found = [docs.similar_by_vector(given[at], 1)[0].id for at in range(2, 600)]
    assert found == [f"{at % 10}-{at}" for at in range(2, 600)]
    assert docs.status().rows == 698


@pytest.mark.usefixtures("_few_are_few")
@pytest.mark.parametrize("lost", [*DAMAGES])
def test_what_is_lost_comes_from_memory(engine: Engine, lost: str, monkeypatch: pytest.MonkeyPatch):
    """A process that has all of it writes what is missing."""
    docs = in_parts(engine)
    damaged(engine, docs, lost)
    reads = from_the_rows(monkeypatch)
    docs.warm()
    CACHE.clear()
    assert docs.status().reason is None
    docs.warm()
    assert docs.status().rows == 698
    assert "all" not in reads
    assert docs.similar_by_vector(vectors(600)[2], 1)[0].id == "2-2"


def test_an_index_of_before_is_loaded_and_checked(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    """The number of its rows is all that it tells."""
    docs = in_parts(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE embeddings_index_{docs.id}_bits "
            "SET facts = json_remove(facts, '$.bytes') WHERE part = 0"
        )
    CACHE.clear()
    reads = from_the_rows(monkeypatch)
    docs.warm()
    assert "all" not in reads
    damaged(engine, docs, "the smallest part")
    CACHE.clear()
    docs.warm()
    assert "all" in reads
    assert (docs.status().rows, docs.create_index().rows) == (698, 698)
    CACHE.clear()
    reads.clear()
    docs.warm()
    assert (docs.status().rows, "all" in reads) == (698, False)


def test_an_index_that_is_dropped_is_gone_from_memory(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
):
    docs = in_parts(engine)
    reads = from_the_rows(monkeypatch)
    assert docs.create_index().rows == 698
    assert "all" not in reads
    docs.drop_index()
    assert docs.create_index().rows == 698
    assert "all" in reads


def test_a_file_that_can_only_be_read(tmp_path: Path):
    """It is searched by what it has."""
    path = tmp_path / "app.db"
    with Collection("docs", path, model_id="m") as docs:
        docs.store_vectors((str(at), vector) for at, vector in enumerate(vectors(200)))
        docs.create_index()
        docs.store_vectors([("new", vectors(1)[0])])
    CACHE.clear()
    with Collection("docs", f"sqlite:///file:{path}?mode=ro&uri=true", model_id="m") as docs:
        docs.warm()
        assert docs.similar_by_vector(vectors(1)[0], 2)[0].id == "new"
        assert docs.status().strategy == "index"


def test_a_file_of_another_program(tmp_path: Path):
    """Without the change log there can be no index."""
    path = tmp_path / "llm.db"
    with Collection("docs", path, model_id="m") as docs:
        docs.store_vectors([("a", vectors(1)[0])])
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE embeddings_log")
    connection.commit()
    connection.close()
    engine = create_engine(f"sqlite:///{path}")
    with Session(engine) as session, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(IndexingError, match="the change log or its triggers are missing"):
            Collection("docs", session).create_index()
        session.commit()
    assert Collection("docs", engine).similar_by_vector(vectors(1)[0]).exact
    engine.dispose()


@pytest.mark.parametrize("lost", ["the log", "the log and its triggers"])
def test_an_index_whose_change_log_is_lost(tmp_path: Path, lost: str):
    """Searches are exact, and everything that tells of the index says why."""
    path = tmp_path / "app.db"
    engine = create_engine(f"sqlite:///{path}")
    embeddings.migrate(engine)
    docs = Collection("docs", engine, model_id="m")
    docs.store_vectors((str(at), vector) for at, vector in enumerate(vectors(200)))
    docs.create_index()
    with engine.begin() as connection:
        if "triggers" in lost:
            for name in trigger_names(RECORDS):
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
        connection.exec_driver_sql("DROP TABLE embeddings_log")
    assert docs.similar_by_vector(vectors(1)[0]).exact
    docs.warm()
    status, info = docs.status(), docs.index_info()
    assert (status.strategy, status.index) == ("scan", info)
    assert status.reason == "the change log or its triggers are missing: call embeddings.install"
    assert info is not None
    assert (info.method, info.rows) == ("bits", 200)
    if "triggers" in lost:  # else every write fails
        docs.store_vectors([("new", vectors(1)[0])])
        assert docs.similar_by_vector(vectors(1)[0], 1)[0].id == "new"
    engine.dispose()
    for command in (["status"], ["show", "docs"]):
        told = CliRunner().invoke(program, ["--database", str(path), *command])
        assert "the change log or its triggers are missing" in told.output

    embeddings.migrate(engine)
    docs.warm()
    assert docs.status().strategy == "index"
    engine.dispose()


# Methods from outside


@pytest.mark.usefixtures("_few_are_few")
@pytest.mark.usefixtures("toy")
def test_a_method_from_outside(engine: Engine):
    """It is named, used, kept, and told from ours."""
    docs = filled(engine)
    info = docs.create_index(method="halves")
    assert (info.method, info.is_valid) == ("halves", True)
    assert hits(docs) == 1.0
    assert hits(docs, where={"part": 3}) == 1.0
    assert hits(docs, prefix="3") == 1.0
    docs.store_vectors([("new", vectors(1)[0])])
    docs.delete_items(["0-0"])
    CACHE.clear()
    assert docs.similar_by_vector(vectors(1)[0], 1)[0].id == "new"
    assert hits(docs) == 1.0
    with pytest.raises(IndexingError, match=r"has an index by the method 'halves'. Call drop_ind"):
        docs.create_index(method="bits")
    docs.drop_index()
    assert docs.create_index(method="bits").method == "bits"


def test_a_method_that_is_not_installed(engine: Engine, request: pytest.FixtureRequest):
    """Searches are exact then, and the status says why."""
    request.getfixturevalue("toy")
    docs = filled(engine)
    docs.create_index(method="halves")
    registry.methods.cache_clear()
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    monkeypatch.undo()
    registry.methods.cache_clear()
    assert docs.similar_by_vector(vectors(1)[0]).exact
    status = docs.status()
    assert status.reason == "the method 'halves' of the index is not installed"
    assert status.index is not None
    assert not status.index.is_valid

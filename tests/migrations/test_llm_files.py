"""Files are interchangeable with those of `llm`, of any age: either program goes on with them."""

from __future__ import annotations

import dataclasses
import json
import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import llm
import pytest
import sqlite_utils
from llm.embeddings_migrations import embeddings_migrations
from llm.models import EmbeddingModel as LLMModel
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

import embeddings
from embeddings import Base, Collection, SchemaError, decode, encode
from embeddings.testing import DeterministicModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    Way = Callable[[Path], None]


class Words(LLMModel):
    """A model of `llm` that keeps account of its calls."""

    model_id = "words"
    supports_binary = True

    def __init__(self) -> None:
        self.calls: list[list[str | bytes]] = []

    def embed_batch(
        self, items: Iterable[str | bytes], *, key: str | None = None
    ) -> Iterator[list[float]]:
        items = list(items)
        if items:  # llm asks for nothing where there is nothing to do
            self.calls.append(items)
        for vector in DeterministicModel().embed_batch(items):
            yield vector.tolist()


def vector_of(text: str) -> bytes:
    return encode(DeterministicModel().embed(text))


@pytest.fixture(autouse=True)
def _llm_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))


@pytest.fixture
def words() -> Words:
    """The model of both programs."""
    return Words()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a file may be."""
    return tmp_path / "embeddings.db"


def opened(path: Path) -> closing[Any]:
    """Open a file as users of `llm` do, and close it at the end of a block."""
    return closing(sqlite_utils.Database(path))


def query(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def execute(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def columns(path: Path, table: str = "embeddings") -> str:
    return ", ".join(row[1] for row in query(path, f"PRAGMA table_info({table})"))


# What makes our tables, or adopts those of `llm`


def by_migrate(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    embeddings.migrate(engine)
    engine.dispose()


def by_migrate_in_a_transaction(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with Session(engine) as session:
        embeddings.migrate(session.connection())
        session.commit()
    engine.dispose()


def by_create_all(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    engine.dispose()


def by_path(path: Path) -> None:
    Collection("another", path, model=Words()).close()


def by_sqlite_utils(path: Path) -> None:
    with opened(path) as database:
        Collection("another", database, model=Words()).close()


ADOPTERS = (by_migrate, by_migrate_in_a_transaction, by_path, by_sqlite_utils)


# Old files

LEVELS = (
    "m001_create_tables",
    "m002_foreign_key",
    "m003_add_updated",
    "m004_store_content_hash",
    "m005_add_content_blob",
)

BRACKETS = """
CREATE TABLE [_sqlite_migrations] (
   [migration_set] TEXT, [name] TEXT, [applied_at] TEXT, PRIMARY KEY ([migration_set], [name])
);
CREATE TABLE [collections] ([id] INTEGER PRIMARY KEY, [name] TEXT, [model] TEXT);
CREATE UNIQUE INDEX [idx_collections_name] ON [collections] ([name]);
"""
BRACKETS_M003 = f"""{BRACKETS}
CREATE TABLE "embeddings" (
   [collection_id] INTEGER REFERENCES [collections]([id]), [id] TEXT, [embedding] BLOB,
   [content] TEXT, [metadata] TEXT, [updated] INTEGER, PRIMARY KEY ([collection_id], [id])
);
"""
BRACKETS_M004 = f"""{BRACKETS}
CREATE TABLE "embeddings" (
   [collection_id] INTEGER REFERENCES [collections]([id]), [id] TEXT, [embedding] BLOB,
   [content] TEXT, [content_hash] BLOB, [metadata] TEXT, [updated] INTEGER,
   PRIMARY KEY ([collection_id], [id])
);
CREATE INDEX [idx_embeddings_content_hash] ON [embeddings] ([content_hash]);
"""

TEXTS = {"hound": "my happy hound", "ünï 🐕": "ein Hund, très heureux 🐕", "empty": ""}


def fill(path: Path) -> None:
    """Insert rows with contents, with metadata and with neither, as far as there are columns."""
    with opened(path) as database:
        database["collections"].insert({"id": 7, "name": "docs", "model": "words"})
        rows: list[dict[str, Any]] = [
            {"id": id, "content": text, "metadata": json.dumps({"n": n}) if n else None}
            for n, (id, text) in enumerate(TEXTS.items())
        ]
        rows += [
            {"id": "bare", "content": None, "metadata": None},
            {"id": "labelled", "content": None, "metadata": '{"name": "Hound", "ü": [1, null]}'},
        ]
        known = {column.name for column in database["embeddings"].columns}
        for row in rows:
            text = row["id"] if row["content"] is None else row["content"]
            row |= {"collection_id": 7, "embedding": vector_of(text)}
            if "updated" in known:
                row["updated"] = 1_700_000_000
            if "content_hash" in known:
                row["content_hash"] = Collection.content_hash(text)
        database["embeddings"].insert_all(rows)


def by_migrations_up_to(level: str) -> Way:
    following = dict(zip(LEVELS, [*LEVELS[1:], None], strict=True))

    def make(path: Path) -> None:
        # Filled before m004, which makes up a hash for rows that have no content.
        filled_at = min(level, LEVELS[2])
        with opened(path) as database:
            embeddings_migrations.apply(database, stop_before=following[filled_at])
        fill(path)
        with opened(path) as database:
            embeddings_migrations.apply(database, stop_before=following[level])

    make.__name__ = level
    return make


def by_brackets_m003(path: Path) -> None:
    execute(path, BRACKETS_M003)
    record(path, LEVELS[:3])
    fill(path)


def by_brackets_m004(path: Path) -> None:
    execute(path, BRACKETS_M004)
    record(path, LEVELS[:4])
    fill(path)


def record(path: Path, names: tuple[str, ...]) -> None:
    with opened(path) as database:
        database["_sqlite_migrations"].insert_all(
            {"migration_set": "llm.embeddings", "name": name, "applied_at": "2023-09-01 12:00:00"}
            for name in names
        )


OLD: list[Way] = [*map(by_migrations_up_to, LEVELS), by_brackets_m003, by_brackets_m004]


def name_of(way: Way) -> str:
    return way.__name__


@pytest.mark.parametrize("adopt", ADOPTERS, ids=name_of)
@pytest.mark.parametrize("make", OLD, ids=name_of)
def test_an_old_file_is_adopted_and_llm_goes_on_with_it(
    make: Way, adopt: Way, path: Path, words: Words
):
    """Every row stays as it is; `llm` finds all, embeds nothing twice, and writes."""
    make(path)
    had = columns(path)
    rows = query(path, f"SELECT rowid, {had} FROM embeddings ORDER BY rowid")
    collections = query(path, "SELECT * FROM collections")
    assert len(rows) == 5

    adopt(path)

    assert query(path, f"SELECT rowid, {had} FROM embeddings ORDER BY rowid") == rows
    assert query(path, "SELECT * FROM collections WHERE name = 'docs'") == collections
    assert {*columns(path).split(", ")} == {
        "collection_id",
        "id",
        "embedding",
        "content",
        "content_blob",
        "content_hash",
        "metadata",
        "updated",
    }
    assert query(path, "PRAGMA integrity_check") == [("ok",)]

    with opened(path) as database:
        docs = llm.Collection("docs", database, model=words)
        assert (docs.id, docs.count()) == (7, 5)
        docs.embed("hound", "my happy hound")
        docs.embed_multi(TEXTS.items())
        assert words.calls == []
        docs.embed("new", b"bytes", {"n": 9}, store=True)
        assert [entry.id for entry in docs.similar("my happy hound", number=1)] == ["hound"]

    with Collection("docs", path, model=words) as ours:
        record = ours.get("new")
        assert record is not None
        assert (record.content_blob, record.metadata_) == (b"bytes", {"n": 9})


@pytest.mark.parametrize("make", OLD, ids=name_of)
def test_an_old_file_has_all_indexes_afterwards(make: Way, path: Path):
    """Names stay unique and hashes are indexed, once each."""
    make(path)
    by_migrate(path)

    sql = "SELECT name FROM sqlite_schema WHERE type = 'index' AND name LIKE 'idx%' ORDER BY name"
    indexes = [name for (name,) in query(path, sql)]
    assert [name for name in indexes if not re.search("log|migrations|pending", name)] == [
        "idx_collections_name",
        "idx_embeddings_content_hash",
    ]


@pytest.mark.parametrize("make", OLD, ids=name_of)
def test_the_texts_of_an_old_file_are_not_embedded_again(make: Way, path: Path, words: Words):
    """Embedding what a row holds as its content calls no model, under its own or another id."""
    make(path)
    with Collection("docs", path, model=words) as docs:
        before = query(path, "SELECT id, embedding, content, metadata FROM embeddings")
        docs.embed_multi(TEXTS.items())
        for id, text in TEXTS.items():
            docs.embed(id, text)
        assert query(path, "SELECT id, embedding, content, metadata FROM embeddings") == before
        docs.embed("copy", TEXTS["hound"])

    assert words.calls == []
    copied = query(path, "SELECT embedding FROM embeddings WHERE id = 'copy'")
    assert copied == [(vector_of(TEXTS["hound"]),)]


@pytest.mark.parametrize("make", OLD[:4], ids=name_of)
def test_rows_without_a_content_or_its_hash_are_embedded_again(make: Way, path: Path, words: Words):
    """Where nothing tells what a row was made of, its text is embedded and the row replaced."""
    make(path)
    with Collection("docs", path, model=words) as docs:
        docs.embed("bare", "bare", store=True)
        docs.embed("bare", "bare", store=True)

        assert words.calls == [["bare"]]
        assert docs.count() == 5


@pytest.mark.parametrize("make", OLD, ids=name_of)
def test_an_old_file_can_be_read_and_searched(make: Way, path: Path, words: Words):
    """Records, contents, metadata and scores of an old file come out as they went in."""
    make(path)
    with Collection("docs", path, model=words) as docs:
        assert docs.id == 7
        assert sorted(docs.ids()) == sorted([*TEXTS, "bare", "labelled"])
        labelled = docs.get("labelled")
        assert labelled is not None
        assert labelled.metadata_ == {"name": "Hound", "ü": [1, None]}
        best = docs.similar("my happy hound", number=1)[0]
        assert (best.id, best.content, best.metadata) == ("hound", "my happy hound", None)
        assert best.score == pytest.approx(1.0)
        assert docs.similar("my happy hound", where={"n": 1})[0].id == "ünï 🐕"


def test_what_else_is_in_an_old_file_stays(path: Path):
    """Other tables, and the migrations of others, are left alone."""
    by_brackets_m004(path)
    execute(
        path,
        """
        CREATE TABLE [_llm_migrations] ([name] TEXT, [applied_at] TEXT);
        CREATE TABLE [responses] ([id] TEXT PRIMARY KEY, [prompt] TEXT);
        INSERT INTO responses VALUES ('1', 'hello');
        INSERT INTO _sqlite_migrations VALUES ('other', 'm001_create_tables', 'then');
        """,
    )
    by_migrate(path)

    assert query(path, "SELECT * FROM responses") == [("1", "hello")]
    assert query(path, "SELECT sql FROM sqlite_schema WHERE name = '_llm_migrations'") == [
        ("CREATE TABLE [_llm_migrations] ([name] TEXT, [applied_at] TEXT)",)
    ]
    recorded = query(path, "SELECT migration_set, name FROM _sqlite_migrations ORDER BY 1, 2")
    expected = [("llm.embeddings", name) for name in LEVELS]
    assert recorded == [*expected, ("other", "m001_create_tables")]


def test_thousands_of_contents_get_their_hash(path: Path):
    """Every content of a file without hashes is hashed, however many there are."""
    by_brackets_m003(path)
    with opened(path) as database:
        database["embeddings"].insert_all(
            {"collection_id": 7, "id": f"id-{n}", "embedding": b"", "content": f"text {n}"}
            for n in range(2500)
        )

    by_migrate(path)

    rows = query(path, "SELECT content, content_hash FROM embeddings WHERE content IS NOT NULL")
    assert len(rows) == 2500 + len(TEXTS)
    assert all(hash == Collection.content_hash(content) for content, hash in rows)


STRANGE = {
    "bytes": "x'00ff'",
    "text that is not UTF-8": "CAST(x'ff' AS TEXT)",
    "text with NUL": "CAST(x'610062' AS TEXT)",
}


@pytest.mark.parametrize("content", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("make", [by_brackets_m003, by_brackets_m004], ids=name_of)
def test_a_strange_content_is_no_obstacle(make: Way, content: str, path: Path):
    """A file in which some content is not proper text is adopted, and the row stays as it is."""
    make(path)
    execute(path, f"UPDATE embeddings SET content = {content} WHERE id = 'bare'")
    sql = "SELECT typeof(content), hex(content), hex(embedding) FROM embeddings WHERE id = 'bare'"
    before = query(path, sql)

    by_migrate(path)

    assert query(path, sql) == before


def test_adopting_twice_changes_nothing(path: Path):
    """A second migration of an adopted file leaves it as it is."""
    by_brackets_m003(path)
    by_migrate(path)
    before = dump(path)

    by_migrate(path)

    assert dump(path) == before


def test_a_rollback_leaves_an_old_file_as_it_was(path: Path):
    """Adopting a file on a connection is undone by the caller's rollback, to the last row."""
    by_brackets_m003(path)
    before = dump(path)
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        embeddings.migrate(connection)
        connection.rollback()
    engine.dispose()

    assert dump(path) == before


HALVES = {
    "collections": """CREATE TABLE "collections" ("id" INTEGER PRIMARY KEY, "name" TEXT,
        "model" TEXT)""",
    "embeddings": """CREATE TABLE "embeddings" ("collection_id" INTEGER, "id" TEXT,
        "embedding" BLOB, "content" TEXT, "metadata" TEXT, PRIMARY KEY ("collection_id","id"))""",
}


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("adopt", ADOPTERS, ids=name_of)
def test_a_file_with_one_of_the_two_tables_is_refused(adopt: Way, half: str, path: Path):
    """One table without the other is nobody's file: an error, and nothing is changed."""
    execute(path, HALVES[half])
    before = dump(path)

    with pytest.raises(SchemaError, match=half):
        adopt(path)

    assert dump(path) == before


def test_a_refused_sqlite_utils_database_is_in_no_transaction(path: Path):
    """After a refusal the database that was handed in works, and holds no lock."""
    execute(path, HALVES["collections"])
    with opened(path) as database:
        with pytest.raises(SchemaError):
            Collection("docs", database, model=Words())
        assert not database.conn.in_transaction
        database["mine"].insert({"n": 1})

    assert query(path, "SELECT * FROM mine") == [(1,)]


# New files


@pytest.mark.parametrize("make", [*ADOPTERS, by_create_all], ids=name_of)
def test_llm_uses_a_file_of_ours(make: Way, path: Path, words: Words):
    """`llm` opens a file that we made, writes and reads there, and its migrations do nothing."""
    make(path)
    schema = query(path, "SELECT * FROM sqlite_schema ORDER BY name")
    with opened(path) as database:
        docs = llm.Collection("docs", database, model=words)
        docs.embed("hound", "my happy hound", {"n": 1}, store=True)
        docs.embed_multi([("cat", "my cat"), ("fox", "a fox")])
        [best] = docs.similar("happy hound", number=1)
        assert (best.id, best.content, best.metadata) == ("hound", "my happy hound", {"n": 1})
        assert docs.count() == 3

    assert query(path, "SELECT * FROM sqlite_schema ORDER BY name") == schema


@pytest.mark.parametrize("make", [*ADOPTERS, by_create_all], ids=name_of)
def test_llm_reads_what_we_wrote(make: Way, path: Path, words: Words):
    """`llm` finds our rows with content, bytes and metadata, and embeds none of them again."""
    make(path)
    engine = create_engine(f"sqlite:///{path}")
    ours = Collection("docs", engine, model=words)
    ours.embed("hound", "my happy hound", {"name": "Hound", "ü": None}, store=True)
    ours.embed("photo", b"\x00\xff", store=True)
    ours.embed_multi([(1, "one"), (2, "two")])
    engine.dispose()
    words.calls.clear()

    with opened(path) as database:
        docs = llm.Collection("docs", database, model=words)
        docs.embed("again", "my happy hound")
        docs.embed_multi([("1", "one"), ("2", "two"), ("photo", b"\x00\xff")])
        assert words.calls == []
        assert docs.count() == 4
        [best] = docs.similar_by_vector(list(decode(vector_of("my happy hound"))), number=1)
        assert dataclasses.asdict(best) == {
            "id": "hound",
            "score": pytest.approx(1.0),
            "content": "my happy hound",
            "metadata": {"name": "Hound", "ü": None},
        }


def test_rows_are_byte_for_byte_those_of_llm(tmp_path: Path, words: Words):
    """The same items make the same rows in both programs."""
    items: list[tuple[str, str | bytes, dict[str, Any] | None]] = [
        ("hound", "my happy hound", {"name": "Hound", "ü": [1, 2.5, None, True, {"a": "é"}]}),
        ("ünï", "très 🐕", None),
        ("photo", b"\x00\xff", None),
    ]
    for store in (True, False):
        with opened(tmp_path / f"llm-{store}.db") as database:
            theirs = llm.Collection("docs", database, model=words)
            theirs.embed_multi_with_metadata(items, store=store)
        with Collection("docs", tmp_path / f"ours-{store}.db", model=words) as ours:
            ours.embed_multi_with_metadata(items, store=store)

        # Bytes that are not stored have a hash of our own, which tells them from a text.
        hashed = "content_hash" if store else "CASE id WHEN 'photo' THEN 0 ELSE content_hash END"
        sql = (
            f"SELECT collection_id, id, embedding, content, content_blob, {hashed}, metadata, "
            "typeof(updated) FROM embeddings ORDER BY id"
        )
        assert query(tmp_path / f"ours-{store}.db", sql) == query(tmp_path / f"llm-{store}.db", sql)


def test_we_read_what_llm_wrote(path: Path, words: Words):
    """A file of the installed `llm` opens without a model, and nothing in it is embedded again."""
    with opened(path) as database:
        theirs = llm.Collection("docs", database, model=words)
        theirs.embed("hound", "my happy hound", {"n": 1}, store=True)
        theirs.embed("photo", b"\x00\xff", store=True)
        theirs.embed("cat", "my cat")
    rows = query(path, "SELECT * FROM embeddings")
    words.calls.clear()

    with Collection("docs", path, model=words) as ours:
        assert ours.model_id == "words"
        ours.embed("hound", "my happy hound")
        ours.embed("photo", b"\x00\xff")
        assert words.calls == []
        assert query(path, "SELECT * FROM embeddings") == rows
        assert [entry.id for entry in ours.similar_by_id("hound", number=1)] == ["cat"]


@pytest.mark.parametrize("takes_text", [True, False])
@pytest.mark.parametrize("store", [True, False])
def test_bytes_that_llm_hashed_are_recognised(
    path: Path, words: Words, store: bool, takes_text: bool
):
    """Where they are stored, or where the model takes nothing else; their vector is reused, too."""
    with opened(path) as database:
        theirs = llm.Collection("docs", database, model=words)
        theirs.embed("photo", b"abc", store=store)
    words.calls.clear()
    words.supports_text = takes_text

    with Collection("docs", path, model=words) as ours:
        ours.embed_multi([("photo", b"abc"), ("copy", b"abc")])
        assert words.calls == ([] if store or not takes_text else [[b"abc"]])
        if takes_text:
            words.calls.clear()
            ours.embed("text", "abc")
            assert words.calls == [["abc"]]
        assert [record.content_blob for record in ours][:2] == [None, b"abc" if store else None]


def scores(entries: Iterable[Any]) -> dict[str, float]:
    return {entry.id: entry.score for entry in entries}


@pytest.mark.parametrize("kind", ["path", "engine", "sqlite_utils", "the same sqlite_utils"])
def test_both_programs_take_turns_on_one_file(kind: str, path: Path, words: Words):
    """While both write in turn, each finds what the other wrote, with the same scores."""
    engine = create_engine(f"sqlite:///{path}")
    embeddings.migrate(engine)
    with opened(path) as database, opened(path) as other:
        theirs = llm.Collection("docs", database, model=words)
        db = {"path": path, "engine": engine, "sqlite_utils": other}.get(kind, database)
        ours = Collection("docs", db, model=words)
        expected: set[str] = set()
        for turn in range(5):
            ours.embed(f"ours-{turn}", f"we write of hounds, turn {turn}", {"turn": turn})
            theirs.embed(f"theirs-{turn}", f"they write of cats, turn {turn}", store=True)
            ours.embed_multi([(f"more-{turn}-{i}", f"text {turn} {i}") for i in range(3)])
            theirs.embed_multi([(f"most-{turn}-{i}", f"sentence {turn} {i}") for i in range(3)])
            if turn:
                ours.delete_items([f"theirs-{turn - 1}"])
                database["embeddings"].delete((theirs.id, f"ours-{turn - 1}"))
                expected -= {f"theirs-{turn - 1}", f"ours-{turn - 1}"}
            expected |= {f"ours-{turn}", f"theirs-{turn}"}
            expected |= {f"{kind}-{turn}-{i}" for kind in ("more", "most") for i in range(3)}

            assert set(ours.ids()) == expected
            assert theirs.count() == ours.count() == len(expected)
            found = scores(ours.similar("hounds write sentence text", number=100))
            assert found == pytest.approx(
                scores(theirs.similar("hounds write sentence text", number=100)), abs=1e-6
            )
            assert found.keys() == expected
            near = scores(ours.similar_by_id(f"ours-{turn}", number=100, prefix="m"))
            assert near == pytest.approx(
                scores(theirs.similar_by_id(f"ours-{turn}", number=100, prefix="m")), abs=1e-6
            )
        ours.close()
    engine.dispose()

"""The change log: whoever writes an embedding, and however, the log says which one changed."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llm
import pytest
import sqlite_utils
from llm.models import EmbeddingModel as LLMModel
from sqlalchemy import Connection, Engine, create_engine, delete, insert, text, update
from sqlalchemy.dialects.sqlite import insert as upsert

import embeddings
from embeddings import Base, Collection, CollectionRecord, EmbeddingRecord
from embeddings.databases.sqlite.changelog import LOG_ROWS, PRUNE_EVERY
from embeddings.testing import DeterministicModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy.orm import Session

Changed = list[tuple[int | None, str | None]]

ONE, OTHER = "x'0000803f'", "x'00000040'"
COLUMNS = "collection_id, id, embedding"


class Words(LLMModel):
    """A model of `llm`."""

    model_id = "words"

    def embed_batch(
        self, items: Iterable[str | bytes], *, key: str | None = None
    ) -> Iterator[list[float]]:
        for vector in DeterministicModel().embed_batch(list(items)):
            yield vector.tolist()


@pytest.fixture(autouse=True)
def _llm_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))


@pytest.fixture
def path(engine: Engine) -> Path:
    """The file, with the items a, b and c in collection 1 and d in collection 2."""
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO collections VALUES (1, 'docs', 'words')"))
        connection.execute(text("INSERT INTO collections VALUES (2, 'more', 'words')"))
        connection.execute(
            text(f"""
                INSERT INTO embeddings ({COLUMNS}, content, metadata) VALUES
                (1, 'a', {ONE}, 'A', '{{"n": 1}}'), (1, 'b', {ONE}, 'B', NULL),
                (1, 'c', {ONE}, NULL, NULL), (2, 'd', {ONE}, NULL, NULL)
            """)
        )
    return Path(str(engine.url.database))


def query(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def head(path: Path) -> int:
    [(seq,)] = query(path, "SELECT max(seq) FROM embeddings_log")
    return int(seq)


@contextmanager
def watched(path: Path) -> Iterator[Changed]:
    """Yield a list that holds, after the block, what the log says was changed in it, sorted.

    Without the collections that were deleted.
    """
    before = head(path)
    changed: Changed = []
    yield changed
    are_rows = f"seq > {before} AND coalesce(collection_id, 0) >= 0"
    rows = query(path, f"SELECT collection_id, id FROM embeddings_log WHERE {are_rows}")
    changed += sorted(rows)


# By SQL

SQL: dict[str, tuple[str, Changed]] = {
    "insert": (f"INSERT INTO embeddings ({COLUMNS}) VALUES (1, 'e', {ONE})", [(1, "e")]),
    "insert of several": (
        f"INSERT INTO embeddings ({COLUMNS}) VALUES (1, 'f', {ONE}), (2, 'e', {ONE})",
        [(1, "f"), (2, "e")],
    ),
    "insert by select": (
        f"INSERT INTO embeddings ({COLUMNS}) SELECT 2, id, embedding FROM embeddings "
        "WHERE collection_id = 1",
        [(2, "a"), (2, "b"), (2, "c")],
    ),
    "replace": (
        f"INSERT OR REPLACE INTO embeddings ({COLUMNS}) VALUES (1, 'a', {OTHER})",
        [(1, "a")],
    ),
    "replace of several": (
        f"REPLACE INTO embeddings ({COLUMNS}) VALUES (1, 'a', {OTHER}), (1, 'e', {ONE})",
        [(1, "a"), (1, "e")],
    ),
    "insert or ignore of what is there": (
        f"INSERT OR IGNORE INTO embeddings ({COLUMNS}) VALUES (1, 'a', {OTHER})",
        [],
    ),
    "insert or ignore of what is not there": (
        f"INSERT OR IGNORE INTO embeddings ({COLUMNS}) VALUES (1, 'e', {OTHER})",
        [(1, "e")],
    ),
    "upsert of what is there": (
        f"INSERT INTO embeddings ({COLUMNS}) VALUES (1, 'a', {OTHER}) "
        "ON CONFLICT DO UPDATE SET embedding = excluded.embedding",
        [(1, "a")],
    ),
    "upsert of what is not there": (
        f"INSERT INTO embeddings ({COLUMNS}) VALUES (1, 'e', {OTHER}) "
        "ON CONFLICT DO UPDATE SET embedding = excluded.embedding",
        [(1, "e")],
    ),
    "upsert that does nothing": (
        f"INSERT INTO embeddings ({COLUMNS}) VALUES (1, 'a', {OTHER}) ON CONFLICT DO NOTHING",
        [],
    ),
    "update of a vector": (
        f"UPDATE embeddings SET embedding = {OTHER} WHERE id = 'a'",
        [(1, "a")],
    ),
    "update of all vectors": (
        f"UPDATE embeddings SET embedding = {OTHER}",
        [(1, "a"), (1, "b"), (1, "c"), (2, "d")],
    ),
    "update of an id": (
        "UPDATE embeddings SET id = 'z' WHERE id = 'a'",
        [(1, "a"), (1, "z")],
    ),
    "update of a collection": (
        "UPDATE embeddings SET collection_id = 2 WHERE id = 'a'",
        [(1, "a"), (2, "a")],
    ),
    "update that takes another's id": (
        "UPDATE OR REPLACE embeddings SET id = 'b' WHERE id = 'a'",
        [(1, "a"), (1, "b")],
    ),
    "update of a vector to NULL": (
        "UPDATE embeddings SET embedding = NULL WHERE id = 'a'",
        [(1, "a")],
    ),
    "update of nothing": (f"UPDATE embeddings SET embedding = {OTHER} WHERE id = 'x'", []),
    "update of content": ("UPDATE embeddings SET content = 'changed'", []),
    "update of metadata": ("UPDATE embeddings SET metadata = '{}', updated = 1", []),
    "update of hash and blob": (
        "UPDATE embeddings SET content_hash = x'00', content_blob = x'00'",
        [],
    ),
    "delete": ("DELETE FROM embeddings WHERE id IN ('a', 'd')", [(1, "a"), (2, "d")]),
    "delete of everything": (
        "DELETE FROM embeddings",
        [(1, "a"), (1, "b"), (1, "c"), (2, "d")],
    ),
    "delete of nothing": ("DELETE FROM embeddings WHERE id = 'x'", []),
    "replace by the rowid of another": (
        f"REPLACE INTO embeddings (rowid, {COLUMNS}) "
        f"SELECT rowid, 1, 'e', {ONE} FROM embeddings WHERE id = 'a'",
        [(1, "a"), (1, "e")],
    ),
    "replace by key and the rowid of another": (
        f"REPLACE INTO embeddings (rowid, {COLUMNS}) "
        f"SELECT rowid, 1, 'b', {OTHER} FROM embeddings WHERE id = 'a'",
        [(1, "a"), (1, "b")],
    ),
    "update that takes another's rowid": (
        "UPDATE OR REPLACE embeddings SET rowid = "
        "(SELECT rowid FROM embeddings WHERE id = 'b') WHERE id = 'a'",
        [(1, "b")],
    ),
    "update that takes another's rowid by its short name": (
        "UPDATE OR REPLACE embeddings SET oid = "
        "(SELECT rowid FROM embeddings WHERE id = 'b') WHERE id = 'a'",
        [(1, "b")],
    ),
    "a rename": ("UPDATE collections SET name = 'other' WHERE id = 1", []),
}


def copies(path: Path) -> Iterator[tuple[str, str, Changed, Path]]:
    """Yield each statement with what it changes, and a copy of the file for it."""
    for number, (name, (sql, expected)) in enumerate(SQL.items()):
        yield name, sql, expected, Path(shutil.copy(path, path.with_name(f"{number}.db")))


def test_sql_of_any_kind(path: Path, subtests: pytest.Subtests):
    """The log has one row for each id whose vector a statement changed, and none besides."""
    for name, sql, expected, copy in copies(path):
        with subtests.test(name):
            with watched(copy) as changed, closing(sqlite3.connect(copy)) as connection:
                connection.execute(sql)
                connection.commit()
            assert changed == expected


def test_sql_through_an_attached_file(
    path: Path, migrated: Path, tmp_path: Path, subtests: pytest.Subtests
):
    """Whoever attaches the file to another one and writes there is in the log all the same."""
    other = Path(shutil.copy(migrated, tmp_path / "other.db"))
    for name, sql, expected, copy in copies(path):
        there = re.sub(r"(INTO|FROM|UPDATE|REPLACE) (embeddings|collections)", r"\1 app.\2", sql)
        with subtests.test(name):
            with watched(copy) as changed, closing(sqlite3.connect(other)) as connection:
                connection.execute("ATTACH ? AS app", [str(copy)])
                connection.execute(there)
                connection.commit()
            assert changed == expected
            assert query(other, "SELECT seq FROM embeddings_log") == [(0,)]


def test_sql_with_recursive_triggers(path: Path, subtests: pytest.Subtests):
    """With recursive triggers, which also fire for what is replaced, the same ids are in it."""
    for name, sql, expected, copy in copies(path):
        with subtests.test(name):
            with watched(copy) as changed, closing(sqlite3.connect(copy)) as connection:
                connection.execute("PRAGMA recursive_triggers = ON")
                connection.execute(sql)
                connection.commit()
            assert sorted({*changed}) == expected


def test_a_write_of_the_same_vector_is_no_change(path: Path):
    """An update that leaves the vector as it was, as an upsert of metadata does, is not logged."""
    with watched(path) as changed, closing(sqlite3.connect(path)) as connection:
        connection.execute(f"UPDATE embeddings SET embedding = {ONE}, metadata = '{{}}'")
        connection.commit()

    assert changed == []


# By the library and the ORM


def item(id: str, collection_id: int = 1, **columns: Any) -> EmbeddingRecord:
    return EmbeddingRecord(id=id, embedding=[2.0], collection_id=collection_id, **columns)


def add(session: Session) -> None:
    session.add_all([item("e"), item("f", 2)])


def change(session: Session) -> None:
    record = session.get_one(EmbeddingRecord, (1, "a"))
    record.embedding = [3.0]  # type: ignore[assignment]


def change_metadata(session: Session) -> None:
    record = session.get_one(EmbeddingRecord, (1, "a"))
    record.metadata_, record.content = {"n": 2}, "changed"


def change_id(session: Session) -> None:
    session.get_one(EmbeddingRecord, (1, "a")).id = "z"


def move(session: Session) -> None:
    record = session.get_one(EmbeddingRecord, (1, "a"))
    record.collection = session.get_one(CollectionRecord, 2)


def delete_record(session: Session) -> None:
    session.delete(session.get_one(EmbeddingRecord, (1, "a")))


def delete_collection(session: Session) -> None:
    session.delete(session.get_one(CollectionRecord, 1))


def merge(session: Session) -> None:
    session.merge(item("a"))


def bulk_insert(session: Session) -> None:
    row = {"collection_id": 1, "embedding": [2.0]}
    session.execute(insert(EmbeddingRecord), [row | {"id": "e"}, row | {"id": "f"}])


def bulk_save(session: Session) -> None:
    session.bulk_save_objects([item("e"), item("f")])


def bulk_upsert(session: Session) -> None:
    statement = upsert(EmbeddingRecord).values(
        [{"collection_id": 1, "id": id, "embedding": [2.0]} for id in ("a", "e")]
    )
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["collection_id", "id"],
            set_={"embedding": statement.excluded.embedding},
        )
    )


def bulk_update(session: Session) -> None:
    session.execute(
        update(EmbeddingRecord).where(EmbeddingRecord.collection_id == 1).values(embedding=[2.0])
    )


def bulk_update_by_key(session: Session) -> None:
    session.execute(
        update(EmbeddingRecord),
        [{"collection_id": 1, "id": id, "embedding": [2.0]} for id in ("a", "b")],
    )


def bulk_update_of_metadata(session: Session) -> None:
    session.execute(update(EmbeddingRecord).values(metadata_={}))


def bulk_delete(session: Session) -> None:
    session.execute(delete(EmbeddingRecord).where(EmbeddingRecord.id.in_(["b", "d"])))


ORM: dict[str, tuple[Callable[[Session], None], Changed]] = {
    "add": (add, [(1, "e"), (2, "f")]),
    "change": (change, [(1, "a")]),
    "change of metadata": (change_metadata, []),
    "change of an id": (change_id, [(1, "a"), (1, "z")]),
    "move": (move, [(1, "a"), (2, "a")]),
    "delete": (delete_record, [(1, "a")]),
    "delete of a collection": (delete_collection, [(1, "a"), (1, "b"), (1, "c")]),
    "merge": (merge, [(1, "a")]),
    "bulk insert": (bulk_insert, [(1, "e"), (1, "f")]),
    "bulk save": (bulk_save, [(1, "e"), (1, "f")]),
    "bulk upsert": (bulk_upsert, [(1, "a"), (1, "e")]),
    "bulk update": (bulk_update, [(1, "a"), (1, "b"), (1, "c")]),
    "bulk update by key": (bulk_update_by_key, [(1, "a"), (1, "b")]),
    "bulk update of metadata": (bulk_update_of_metadata, []),
    "bulk delete": (bulk_delete, [(1, "b"), (2, "d")]),
}


@pytest.mark.parametrize(("write", "expected"), ORM.values(), ids=ORM)
def test_the_orm(write: Callable[[Session], None], expected: Changed, path: Path, session: Session):
    """What the unit of work or a bulk statement changes is in the log, once for each id."""
    with watched(path) as changed:
        write(session)
        session.commit()

    assert changed == expected


LIBRARY: dict[str, tuple[Callable[[Collection[str]], Any], Changed]] = {
    "embed": (lambda docs: docs.embed("new", "a cat"), [(3, "new")]),
    "embed another text": (lambda docs: docs.embed("hound", "a cat"), [(3, "hound")]),
    "embed the same text": (lambda docs: docs.embed("hound", "a hound"), []),
    "embed the same text with metadata": (
        lambda docs: docs.embed("hound", "a hound", {"n": 1}),
        [],
    ),
    "embed the same text, to store it": (
        lambda docs: docs.embed("hound", "a hound", store=True),
        [],
    ),
    "embed several": (
        lambda docs: docs.embed_multi([("hound", "a cat"), ("one", "one"), ("two", "two")]),
        [(3, "hound"), (3, "one"), (3, "two")],
    ),
    "store vectors": (
        lambda docs: docs.store_vectors([("hound", [1.0] * 256), ("one", [1.0] * 256)]),
        [(3, "hound"), (3, "one")],
    ),
    "set metadata": (lambda docs: docs.set_metadata("hound", {"n": 1}), []),
    "delete items": (lambda docs: docs.delete_items(["hound"]), [(3, "hound")]),
    "delete": (lambda docs: docs.delete(), [(3, "fox"), (3, "hound")]),
    "rename": (lambda docs: docs.rename("other"), []),
    "search": (lambda docs: docs.similar("hound"), []),
}


@pytest.mark.parametrize(
    ("kind", "write", "expected"),
    [
        *(("session", *case) for case in LIBRARY.values()),
        *((kind, *case) for kind in ("engine", "path") for case in [*LIBRARY.values()][:2]),
    ],
)
def test_the_library(
    write: Callable[[Collection[str]], Any],
    expected: Changed,
    kind: str,
    path: Path,
    engine: Engine,
    session: Session,
    model: DeterministicModel,
):
    """What a collection writes is in the log, once for each id whose vector it changed."""
    kinds: dict[str, Any] = {"session": session, "engine": engine, "path": path}
    with Collection("pets", kinds[kind], model=model) as docs:
        docs.embed_multi([("hound", "a hound"), ("fox", "a fox")])
        session.commit()
        with watched(path) as changed:
            write(docs)
            session.commit()

    assert changed == expected


# By other programs


def test_llm(path: Path):
    """What `llm` writes is in the log."""
    with closing(sqlite_utils.Database(path)) as database:
        pets = llm.Collection("pets", database, model=Words())
        with watched(path) as changed:
            pets.embed("hound", "a hound")
            pets.embed_multi([("fox", "a fox"), ("cat", "a cat")], store=True)
        assert sorted({*changed}) == [(3, "cat"), (3, "fox"), (3, "hound")]

        with watched(path) as changed:
            pets.delete()  # type: ignore[no-untyped-call]
        assert sorted({*changed}) == [(3, "cat"), (3, "fox"), (3, "hound")]


def test_sqlite_utils(path: Path):
    """What sqlite-utils inserts, upserts and deletes is in the log."""
    row = {"collection_id": 1, "embedding": b"\0\0\0\x40"}
    with closing(sqlite_utils.Database(path)) as database:
        table: Any = database["embeddings"]
        with watched(path) as changed:
            table.insert(row | {"id": "e"})
            table.upsert(row | {"id": "a"}, pk=("collection_id", "id"))
            table.insert(row | {"id": "b"}, replace=True)
            table.insert(row | {"id": "c"}, ignore=True)
            table.delete((2, "d"))
    assert sorted({*changed}) == [(1, "a"), (1, "b"), (1, "e"), (2, "d")]


# Transactions


def tokens(connection: Connection) -> dict[int, bytes]:
    rows = connection.execute(text("SELECT seq, token FROM embeddings_log"))
    return {row.seq: row.token for row in rows}


def write(connection: Connection, id: str) -> None:
    connection.execute(
        text(f"INSERT INTO embeddings ({COLUMNS}) VALUES (1, :id, {ONE})"), {"id": id}
    )


@pytest.mark.parametrize("savepoint", [True, False])
def test_what_is_rolled_back_never_comes_back_with_its_token(
    engine: Engine, path: Path, savepoint: bool
):
    """After a rollback the same change gets the same number again, and another token."""
    with engine.connect() as connection:
        connection.begin()
        write(connection, "first")
        before = tokens(connection)
        inner = connection.begin_nested() if savepoint else None
        write(connection, "second")
        once = tokens(connection)
        if inner:
            inner.rollback()
            assert tokens(connection) == before
        else:
            connection.rollback()
            connection.begin()
            write(connection, "first")
            before = tokens(connection)
        write(connection, "second")
        again = tokens(connection)

    assert once.keys() == again.keys()
    assert once[max(once)] != again[max(again)]
    assert {seq: token for seq, token in again.items() if seq in before} == before


def test_a_statement_that_fails_leaves_no_row(engine: Engine, path: Path):
    """What a failing statement changed before it failed is not in the log."""
    before = head(path)
    with closing(sqlite3.connect(path)) as connection:
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(
                f"INSERT INTO embeddings ({COLUMNS}) VALUES (1, 'e', {ONE}), (1, 'a', {ONE})"
            )
        connection.commit()

    assert head(path) == before


def test_every_token_is_another(path: Path):
    """Thousands of changes in one statement have as many tokens of 16 bytes."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) "
            f"INSERT INTO embeddings ({COLUMNS}) SELECT 1, i, {ONE} FROM n"
        )
        connection.execute("DELETE FROM embeddings")
        connection.commit()

    [(count, distinct, shortest, longest)] = query(
        path,
        "SELECT count(*), count(DISTINCT token), min(length(token)), max(length(token)) "
        "FROM embeddings_log",
    )
    assert count == distinct > 6000
    assert (shortest, longest) == (16, 16)


# Installing


def objects(path: Path) -> list[Any]:
    """Return the log and what belongs to it, as SQL."""
    return query(
        path,
        "SELECT type, name, tbl_name, sql FROM sqlite_schema "
        "WHERE name LIKE '%embeddings\\_log%' ESCAPE '\\' ORDER BY name",
    )


def test_the_row_of_the_database(engine: Engine):
    """A new log has one row, of number 0, whose token names the database as a whole."""
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT seq, collection_id, id FROM embeddings_log"))
        assert rows.all() == [(0, None, None)]


def test_two_databases_have_two_names(engine: Engine, tmp_path: Path):
    """The token of row 0 is another in every database."""
    other = create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    embeddings.migrate(other)
    with engine.connect() as one, other.connect() as two:
        assert tokens(one)[0] != tokens(two)[0]
    other.dispose()


def test_create_all_and_migrate_make_the_same_log(engine: Engine, path: Path, tmp_path: Path):
    """Table, index and triggers are the same SQL, whoever makes them."""
    other = create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    Base.metadata.create_all(other)
    other.dispose()

    assert objects(tmp_path / "other.db") == objects(path)
    assert [kind for kind, *_ in objects(path)].count("trigger") > 0


def test_installing_again_adds_a_token_for_each_collection(engine: Engine, path: Path):
    """A second install keeps the log and adds one row for every collection that has items."""
    schema, before = objects(path), query(path, "SELECT * FROM embeddings_log ORDER BY seq")

    with engine.begin() as connection:
        embeddings.install(connection)

    after = query(path, "SELECT * FROM embeddings_log ORDER BY seq")
    assert after[: len(before)] == before
    assert sorted(row[1:3] for row in after[len(before) :]) == [(1, None), (2, None)]
    assert objects(path) == schema


def test_installing_restores_triggers(engine: Engine, path: Path):
    """Dropped triggers are there again after an install, and do their work."""
    schema = objects(path)
    with engine.begin() as connection:
        for kind, name, *_ in schema:
            if kind == "trigger":
                connection.execute(text(f"DROP TRIGGER {name}"))
        embeddings.install(connection)

    assert objects(path) == schema
    with watched(path) as changed, engine.begin() as connection:
        write(connection, "e")
    assert changed == [(1, "e")]


def test_installing_is_the_callers_to_commit(engine: Engine, path: Path):
    """An install joins the caller's transaction and goes with it."""
    with engine.connect() as connection:
        connection.execute(text("DROP TRIGGER embeddings_log_insert"))
        connection.commit()
        before, rows = objects(path), query(path, "SELECT * FROM embeddings_log")
        embeddings.install(connection)
        connection.rollback()

    assert objects(path) == before
    assert query(path, "SELECT * FROM embeddings_log") == rows


def test_installing_after_the_table_was_made_anew(engine: Engine, path: Path):
    """A table that sqlite-utils transformed has no triggers until the next install."""
    schema = objects(path)
    rows = query(path, "SELECT * FROM embeddings")
    with closing(sqlite_utils.Database(path)) as database:
        table: Any = database["embeddings"]
        table.transform(column_order=["id", "collection_id"])
        table.transform(
            column_order=[
                "collection_id",
                "id",
                "embedding",
                "content",
                "content_blob",
                "content_hash",
                "metadata",
                "updated",
            ]
        )
    left = {name for kind, name, *_ in objects(path) if kind == "trigger"}
    # One is on the log itself, and one on the other table.
    assert left == {"embeddings_log_prune", "embeddings_log_deleted", "embeddings_log_restored"}

    with watched(path) as changed, engine.begin() as connection:
        embeddings.install(connection)

    assert changed == [(1, None), (2, None)]
    assert objects(path) == schema
    assert query(path, "SELECT * FROM embeddings") == rows
    with watched(path) as changed, engine.begin() as connection:
        write(connection, "e")
    assert changed == [(1, "e")]


def test_migrating_a_file_that_has_rows(tmp_path: Path):
    """A log made for tables that hold rows has one row for each of their collections."""
    path = tmp_path / "llm.db"
    with closing(sqlite_utils.Database(path)) as database:
        llm.Collection("one", database, model=Words()).embed("a", "text")
        llm.Collection("two", database, model=Words()).embed("a", "text")
        llm.Collection("empty", database, model=Words())
    engine = create_engine(f"sqlite:///{path}")
    embeddings.migrate(engine)
    engine.dispose()

    log = query(path, "SELECT collection_id, id FROM embeddings_log ORDER BY seq")
    assert log == [(None, None), (1, None), (2, None)]


def test_the_log_stays_short_whoever_writes(path: Path):
    """Of many changes the newest are kept, and of a quiet collection its newest."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE embeddings SET embedding = x'00000000' WHERE collection_id = 2")
        quiet = "SELECT max(seq) FROM embeddings_log WHERE collection_id = 2"
        newest_of_the_quiet = connection.execute(quiet).fetchone()
        for _ in range(30):
            connection.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) "
                "INSERT OR REPLACE INTO embeddings (collection_id, id, embedding) "
                "SELECT 1, 'busy-' || i, randomblob(4) FROM n"
            )
        connection.commit()
        rows, newest = connection.execute(
            "SELECT count(*), max(seq) FROM embeddings_log"
        ).fetchone()
        assert newest > 90_000
        assert LOG_ROWS <= rows <= LOG_ROWS + PRUNE_EVERY + 10
        assert connection.execute(quiet).fetchone() == newest_of_the_quiet
        assert connection.execute("SELECT seq FROM embeddings_log WHERE seq = 0").fetchone()

"""Files of SQLite as they are found: read-only, addressed in every way, locked, or none at all."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import sqlite_utils
from sqlalchemy import create_engine, event, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from embeddings import (
    BindingError,
    Collection,
    DoesNotExist,
    configure_sqlite,
    migrate,
)
from embeddings.overview import overview
from embeddings.testing import DeterministicModel
from embeddings.vectors import encode
from tests.forked import python
from tests.host_tables import Article, HostBase
from tests.reaching import rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

TABLES_OF_LLM = """
CREATE TABLE [collections] ([id] INTEGER PRIMARY KEY, [name] TEXT, [model] TEXT);
CREATE UNIQUE INDEX [idx_collections_name] ON [collections] ([name]);
CREATE TABLE "embeddings" ([collection_id] INTEGER REFERENCES [collections]([id]), [id] TEXT,
    [embedding] BLOB, [content] TEXT, [content_blob] BLOB, [content_hash] BLOB, [metadata] TEXT,
    [updated] INTEGER, PRIMARY KEY ([collection_id], [id]));
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file as `llm` leaves it, in a folder whose name has a space: two items, not migrated."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    model = DeterministicModel()
    with closing(sqlite3.connect(folder / "llm.db")) as connection:
        connection.executescript(TABLES_OF_LLM)
        connection.execute("INSERT INTO collections VALUES (1, 'docs', ?)", (model.model_id,))
        for id, content in (("1", "one hound"), ("2", "two cats")):
            values = (id, encode(model.embed(content)), content)
            connection.execute(
                "INSERT INTO embeddings (collection_id, id, embedding, content) "
                "VALUES (1, ?, ?, ?)",
                values,
            )
        connection.commit()
    return folder / "llm.db"


def state(file: Path) -> Any:
    """Return what a write would change: the bytes of the file, and what stands beside it."""
    return file.read_bytes(), sorted(path.name for path in file.parent.iterdir())


ADDRESSES = (
    "sqlite:///file:{quoted}?mode=ro&uri=true",
    "sqlite:///file:{quoted}?mode=ro",
    "sqlite:///file://{quoted}?immutable=1&uri=true",
    "sqlite:///file:{quoted}?mode=ro&cache=shared&uri=true",
    "sqlite:///{file}?mode=ro",
    "file:{quoted}?mode=ro",
    "file:{quoted}?immutable=1",
)


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_what_is_opened_for_reading_is_read_as_it_is(address: str, journal: str, file: Path):
    """In every spelling of its address the file tells the truth, and nothing is written to it."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
    db = address.format(quoted=quote(str(file)), file=file)
    before = file.read_bytes()

    assert (Collection.names(db), Collection.exists(db, "docs")) == (["docs"], True)
    [found] = overview(db).collections
    assert (found.name, found.rows) == ("docs", 2)
    with Collection("docs", db, model=DeterministicModel()) as docs:
        assert [entry.id for entry in docs.similar("one hound")] == ["1", "2"]
        assert (docs.count(), docs.status().strategy) == (2, "scan")
        with pytest.raises(OperationalError, match="readonly") as caught:
            docs.store_vectors([("3", DeterministicModel().embed("three"))])
    assert "can only be read" in caught.value.__notes__[0]
    assert file.read_bytes() == before


def test_a_connection_of_sqlite_utils_for_reading(file: Path):
    """The file behind it is not written to by another connection."""
    before = state(file)
    driver = sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)
    with Collection("docs", sqlite_utils.Database(driver), model=DeterministicModel()) as docs:
        assert [entry.id for entry in docs.similar("one hound")] == ["1", "2"]
        with pytest.raises(OperationalError, match="readonly"):
            docs.store_vectors([("3", DeterministicModel().embed("three"))])
    driver.close()
    assert state(file) == before


WITHOUT_RIGHTS = """
import os, sys, warnings
import alembic.migration, alembic.script
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError
from embeddings import Collection
from embeddings.overview import overview
from embeddings.testing import DeterministicModel
from embeddings.tables.migrate import head_revision
path = sys.argv[1]
Collection("warm", model=DeterministicModel()).similar("x")
head_revision()
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
assert Collection.names(path) == ["docs"], Collection.names(path)
assert overview(path).collections[0].rows == 2
with Collection("docs", path, model=DeterministicModel()) as docs:
    assert [entry.id for entry in docs.similar("one hound")] == ["1", "2"]
with open(path, "rb") as file:
    has_wal = file.read(20)[18] == 2
own = create_engine(f"sqlite:///{path}")  # no parameter is added to a host's
try:
    docs = Collection("docs", own, model=DeterministicModel())
    assert [entry.id for entry in docs.similar("one hound")] == ["1", "2"]
    assert not has_wal
except OperationalError as error:
    assert has_wal
    assert "immutable=1&uri=true" in error.__notes__[0], error.__notes__
immutable = create_engine(f"sqlite:///file:{path}?immutable=1&uri=true")
docs = Collection("docs", immutable, model=DeterministicModel())
assert [entry.id for entry in docs.similar("one hound")] == ["1", "2"]
"""


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_a_folder_without_the_right_to_write(journal: str, file: Path):
    """With write-ahead logging SQLite itself opens nothing there; who made the engine is told."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
    with TemporaryDirectory() as name:  # the folders of pytest are for their owner alone
        copy = Path(shutil.copy(file, name))
        before = state(copy)
        copy.chmod(0o444)
        copy.parent.chmod(0o555)
        done = python("-c", WITHOUT_RIGHTS, copy)
        copy.parent.chmod(0o755)

        assert (done.returncode, done.stderr) == (0, "")
        assert state(copy) == before


@pytest.mark.parametrize("kind", ["path", "url", "sqlite_utils"])
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_file_of_somebody_else_keeps_its_journal(journal: str, kind: str, file: Path):
    """Opened and written to, it is migrated and nothing else."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
    database = sqlite_utils.Database(file)
    kinds: dict[str, Any] = {
        "path": file,
        "url": f"sqlite:///{file}",
        "sqlite_utils": database,
    }
    with Collection("docs", kinds[kind], model=DeterministicModel()) as docs:
        docs.embed("3", "three birds")
        assert docs.count() == 3
    database.close()
    assert rows_of(f"sqlite:///{file}", "PRAGMA journal_mode") == [(journal,)]


@pytest.mark.parametrize("kind", ["path", "sqlite_utils"])
def test_a_new_file_has_write_ahead_logging(kind: str, tmp_path: Path):
    """So that readers and a writer do not wait for each other."""
    database = sqlite_utils.Database(tmp_path / "new.db")
    db = tmp_path / "new.db" if kind == "path" else database
    Collection("docs", db, model=DeterministicModel()).close()
    database.close()
    assert rows_of(f"sqlite:///{tmp_path}/new.db", "PRAGMA journal_mode") == [("wal",)]


def test_a_shared_cache_in_memory():
    """It is there as long as somebody has it open, and nobody takes it for a missing file."""
    url = "sqlite:///file:shared-by-a-test?mode=memory&cache=shared&uri=true"
    assert Collection.names(url) == []
    with Collection("docs", url, model=DeterministicModel()) as docs:
        docs.embed("1", "one")
        assert Collection.names(url) == ["docs"]
        with Collection("docs", url, model=DeterministicModel()) as again:
            assert [entry.id for entry in again.similar("one")] == ["1"]


def test_a_mistyped_path_leaves_no_file(tmp_path: Path):
    """With create=False nothing is made."""
    for db in (tmp_path / "no.db", f"sqlite:///{tmp_path}/no.db", f"file:{tmp_path}/no.db"):
        with pytest.raises(DoesNotExist):
            Collection("docs", db, create=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["csv", "no folder", "folder", "tilde"])
def test_what_is_no_database(kind: str, tmp_path: Path):
    """The error says what is wrong, and there is nothing new."""
    (tmp_path / "table.csv").write_text("id,title\n" * 1000)
    kinds: dict[str, tuple[str | Path, str]] = {
        "csv": (tmp_path / "table.csv", "not a SQLite database"),
        "no folder": (tmp_path / "nowhere" / "app.db", "folder of the database is not there"),
        "folder": (tmp_path, "is a folder"),
        "tilde": ("~/nowhere/app.db", "expanduser"),
    }
    path, words = kinds[kind]
    with pytest.raises(BindingError, match=words):
        Collection("docs", path, model=DeterministicModel())
    if kind != "no folder":
        with pytest.raises(BindingError, match=words):
            Collection.names(path)
        with pytest.raises(BindingError, match=words):
            overview(path)
    assert [found.name for found in tmp_path.iterdir()] == ["table.csv"]


def test_a_locked_file(file: Path):
    """The error says so after the time-out of the URL, which nothing of ours makes longer."""
    url = f"sqlite:///{file}?timeout=0.1"
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for use in (lambda: Collection("docs", url), lambda: Collection.names(url)):
            with pytest.raises(BindingError, match="locked by another program"):
                use()
    with Collection("docs", url, model=DeterministicModel()) as docs:
        docs.embed("3", "three")
        engine = docs.reference.sessions.engine
        assert engine is not None
        assert rows_of(engine, "PRAGMA busy_timeout") == [(100,)]


# Reading on one connection, and writing on another


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Engine]:
    """A host's engine on a new file with 300 articles; it waits for a tenth of a second."""
    engine = create_engine(f"sqlite:///{tmp_path}/host.db", connect_args={"timeout": 0.1})
    HostBase.metadata.create_all(engine)
    migrate(engine)
    with Session(engine) as session:
        session.add_all(Article(id=id, title=f"title {id}") for id in range(300))
        session.commit()
    yield engine
    engine.dispose()


def titles(session: Session) -> Iterator[Any]:
    """Yield the rows as they are read."""
    rows = session.execute(select(Article.id, Article.title).execution_options(yield_per=10))
    yield from map(tuple, rows)


def test_rows_that_are_read_while_they_are_embedded(host: Engine):
    """On a configured engine they are read by a session, and embedded by the engine."""
    configure_sqlite(host)
    with Session(host) as session:
        docs = Collection("articles", host, model=DeterministicModel(), key=Article.id)
        docs.embed_multi(titles(session), batch_size=50)
    assert docs.count() == 300


def test_without_it_the_error_says_what_to_do(host: Engine):
    """It is SQLAlchemy's, with a note."""
    docs = Collection("articles", host, model=DeterministicModel(), key=Article.id)
    with Session(host) as session, pytest.raises(OperationalError, match="locked") as caught:
        docs.embed_multi(titles(session), batch_size=50)
    [note] = caught.value.__notes__
    assert "configure_sqlite(engine)" in note
    assert "pass the session that reads" in note


def test_by_the_session_that_reads(host: Engine):
    """What the error proposes works."""
    with Session(host) as session:
        docs = Collection("articles", session, model=DeterministicModel(), key=Article.id)
        docs.embed_multi(titles(session), batch_size=50)
        session.commit()
        assert docs.count() == 300


def test_a_stale_snapshot_is_called_so(host: Engine):
    """The note tells it from a lock that was waited for."""
    configure_sqlite(host, snapshot=True)
    other = create_engine(host.url)
    with Session(host) as session:
        docs = Collection("articles", session, model=DeterministicModel(), key=Article.id)
        docs.count()
        with other.begin() as connection:
            connection.execute(text("DELETE FROM articles"))
        with pytest.raises(OperationalError, match="locked") as caught:
            docs.embed(1, "one")
    other.dispose()
    assert "another writer has committed since" in caught.value.__notes__[0]
    assert "configure_sqlite" not in caught.value.__notes__[0]


def test_each_write_takes_the_lock_before_it_reads(host: Engine):
    """On a session nothing that is about to be written was read without the lock."""
    configure_sqlite(host)
    statements: list[str] = []
    with Session(host) as session:
        docs = Collection("articles", session, model=DeterministicModel(), key=Article.id)
        docs.embed_multi([(1, "one"), (2, "two")])
        prepared = docs.prepare("three")
        plan = docs.plan([(4, "four")])
        plan.embed()
        session.commit()
        event.listen(host, "before_cursor_execute", lambda *given: statements.append(given[2]))
        for write in (
            lambda: docs.store_vectors([(3, prepared.vector)]),
            lambda: docs.set_metadata(1, {"n": 1}),
            lambda: docs.delete_items([2]),
            lambda: docs.apply(plan),
            lambda: docs.rename("other"),
            lambda: docs.delete(),
        ):
            statements.clear()
            write()
            assert statements[0] == "BEGIN IMMEDIATE"
            session.commit()


def test_a_disk_that_is_full(tmp_path: Path):
    """The error says that earlier batches stay, and the next call goes on from there."""
    engine = create_engine(f"sqlite:///{tmp_path / 'full.db'}")
    migrate(engine)
    docs = Collection("docs", engine, model=DeterministicModel())
    docs.embed("first", "one hound")
    full = create_engine(engine.url)

    @event.listens_for(full, "connect")
    def limit(driver: Any, _: object) -> None:
        pages = driver.execute("PRAGMA page_count").fetchone()[0]
        driver.execute(f"PRAGMA max_page_count = {pages + 40}")

    entries = [(str(n), f"text {n} " * 20) for n in range(200)]
    with pytest.raises(OperationalError, match="full") as caught:
        Collection("docs", full, model=DeterministicModel()).embed_multi(entries, batch_size=20)
    assert "make room, and call again" in caught.value.__notes__[0]
    there = docs.count() - 1
    assert there >= 20
    assert docs.embed_multi(entries).unchanged == there

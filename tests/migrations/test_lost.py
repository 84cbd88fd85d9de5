"""What other tools take away from beside the tables is told, and made again."""

from __future__ import annotations

import sqlite3
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, declarative_base, mapped_column

import embeddings
from embeddings import Collection, ModelCollection, SchemaError
from embeddings.cli import embeddings as program
from embeddings.overview import overview
from embeddings.testing import DeterministicModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXTS = [("a", "a happy hound"), ("b", "a dissatisfied cat")]
LOSSES = {
    "triggers": "DROP TRIGGER embeddings_log_insert; DROP TRIGGER embeddings_log_update",
    "log": "DROP TABLE embeddings_log",
    "rows": "DELETE FROM embeddings_log",
    "the log's index": "DROP INDEX idx_embeddings_log_collection",
    "pending rows": "DROP TABLE embeddings_pending",
    "their index": "DROP INDEX idx_embeddings_pending_id",
    "their triggers": "DROP TRIGGER embeddings_pending_newest; "
    "DROP TRIGGER embeddings_pending_removed",
    "all indexes": "DROP INDEX idx_collections_name; DROP INDEX idx_embeddings_content_hash",
}
TOLD = {
    "triggers": "triggers of the change log are missing (embeddings_log_insert, embeddings_log_up",
    "log": "the change log embeddings_log is missing",
    "rows": "the change log embeddings_log was emptied",
    "the log's index": "the index idx_embeddings_log_collection is missing",
    "pending rows": "the table embeddings_pending is missing",
    "their index": "beside embeddings_pending are missing: idx_embeddings_pending_id",
    "their triggers": "beside embeddings_pending are missing: embeddings_pending_newest, "
    "embeddings_pending_removed",
    "all indexes": "the index idx_collections_name is missing: migrate.\n"
    "Not whole: the index idx_embeddings_content_hash is missing: migrate.",
}


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


class Base(DeclarativeBase):
    """The host's own table."""


class Article(Base):
    __tablename__ = "articles"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


ARTICLES = ModelCollection(
    Article, name="articles", text=[Article.title], model=DeterministicModel()
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a collection, and one that follows rows."""
    path = tmp_path / "app.db"
    with Collection("docs", path, model=DeterministicModel()) as docs:
        docs.embed_multi(TEXTS)
    engine = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    ARTICLES.install(engine)
    write(engine, Article(id=1, title="a happy hound"), Article(id=2, title="a cat"))
    ARTICLES.refresh(engine)
    engine.dispose()
    return path


def write(engine: Engine, *articles: Article) -> None:
    with Session(engine) as session:
        session.add_all(articles)
        session.commit()


def lose(path: Path, what: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(LOSSES[what])
    connection.close()


def objects(path: Path) -> set[tuple[str, ...]]:
    """Return all that the file's catalog has."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    connection.close()
    return {*rows}


@pytest.mark.parametrize(
    ("what", "repair"),
    # The indexes are of the tables, which `install` does not make.
    [pair for pair in product(LOSSES, REPAIRS) if pair != ("all indexes", "install")],
)
def test_it_is_told_and_made_again(path: Path, what: str, repair: str):
    """By whatever brings tables up to date; all works then as it did before."""
    assert run(path, "status").exit_code == 0
    whole = objects(path)
    lose(path, what)
    told = run(path, "status")
    assert told.exit_code == 1
    assert TOLD[what] in told.output

    REPAIRS[repair](path)
    told = run(path, "status")
    assert (told.exit_code, "up to date" in told.output) == (0, True)
    assert objects(path) == whole
    with Collection("docs", path, model=DeterministicModel()) as docs:
        docs.warm()
        assert docs.status().strategy == "matrix"
        docs.embed("c", "a third")
        assert docs.similar("a third", 1)[0].id == "c"
    with Collection("more", path, model=DeterministicModel()) as more:
        more.embed("a", "of a new collection")
    engine = create_engine(f"sqlite:///{path}")
    write(engine, Article(id=3, title="a third"))
    assert ARTICLES.refresh(engine).embedded == 1
    with Session(engine) as session:
        session.delete(session.get_one(Article, 2))
        session.commit()
    assert sorted(ARTICLES.collection(engine).ids()) == [1, 3]
    engine.dispose()


def test_a_write_without_the_log_says_what_to_do(path: Path):
    """It fails, for `llm` too; the remedy is in the error, and in the documentation by its text."""
    engine = create_engine(f"sqlite:///{path}")
    lose(path, "log")
    docs = Collection("docs", engine, model=DeterministicModel())
    with pytest.raises(OperationalError, match=r"no such table: main\.embeddings_log") as raised:
        docs.embed("c", "a third")
    assert "embeddings.migrate(engine)" in raised.value.__notes__[0]
    engine.dispose()


def test_a_connection_that_was_refused(path: Path):
    """It learns from what it reads next, not from another write, that the table is there again."""
    insert = "INSERT INTO articles (title) VALUES ('a third')"
    lose(path, "pending rows")
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.OperationalError, match=r"no such table: main\.embeddings_pending"):
        connection.execute(insert)
    by_program(path)
    connection.execute("SELECT count(*) FROM articles").fetchall()
    connection.execute(insert)
    connection.close()


def test_a_table_of_somebody_else_is_left_alone(path: Path):
    """The name is taken: nothing is made."""
    lose(path, "pending rows")
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE embeddings_pending (message TEXT)")
    connection.close()
    before = objects(path)
    engine = create_engine(f"sqlite:///{path}")
    with pytest.raises(SchemaError, match="has a table 'embeddings_pending', a name that this"):
        embeddings.migrate(engine)
    assert objects(path) == before
    engine.dispose()


def test_an_index_of_another_name(path: Path):
    """It does as well: tables that were taken over have those that they had."""
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "DROP INDEX idx_collections_name; CREATE INDEX by_name ON collections (name)"
        )
    engine = create_engine(f"sqlite:///{path}")
    assert overview(engine).lost == ()
    engine.dispose()


def test_tables_that_are_gone(path: Path):
    """What says that they are there has to go as well, and an error says so."""
    with sqlite3.connect(path) as connection:
        connection.executescript("DROP TABLE embeddings; DROP TABLE collections")
    engine = create_engine(f"sqlite:///{path}")
    with pytest.raises(SchemaError, match="drop that table, too"):
        embeddings.migrate(engine)
    engine.dispose()


def test_collections_of_one_name_are_in_the_way(path: Path):
    """Where the unique index was lost they may have come; what to do is told, nothing changed."""
    lose(path, "all indexes")
    connection = sqlite3.connect(path)
    connection.executescript("INSERT INTO collections (name, model) VALUES ('docs', 'other')")
    connection.close()
    before = objects(path)
    engine = create_engine(f"sqlite:///{path}")
    with pytest.raises(SchemaError, match=r"'docs'\. Rename or delete all but one of each"):
        embeddings.migrate(engine)
    assert objects(path) == before
    engine.dispose()
    with Collection("docs", path, model=DeterministicModel()) as docs:  # all else goes on
        assert docs.similar(TEXTS[0][1])


def test_tables_of_make_records(tmp_path: Path):
    """What stands beside them `install` makes again, as the status says."""
    engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    base = declarative_base()
    records = embeddings.make_records(base, prefix="search_")
    base.metadata.create_all(engine)
    whole = objects(tmp_path / "app.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE search_embeddings_pending")
    told = run(tmp_path / "app.db", "status")
    assert told.exit_code == 1
    assert (
        "the table search_embeddings_pending is missing: "
        "call embeddings.install(engine, records)" in told.output
    )
    embeddings.install(engine, records)
    assert run(tmp_path / "app.db", "status").exit_code == 0
    assert objects(tmp_path / "app.db") == whole
    engine.dispose()


ON_POSTGRESQL = {
    "pending rows": ("DROP TABLE embeddings_pending", "the table embeddings_pending is missing"),
    "their index": (
        "DROP INDEX idx_embeddings_pending_id",
        "beside embeddings_pending are missing: idx_embeddings_pending_id",
    ),
    "what removes vectors": (
        "DROP FUNCTION embeddings_pending_removed(text, text[])",
        "beside embeddings_pending are missing: embeddings_pending_removed",
    ),
    "the words": (
        "ALTER TABLE embeddings DROP COLUMN search_words",
        "for text indexes are missing: idx_embeddings_words, search_words",
    ),
    "the index of words": (
        "DROP INDEX idx_embeddings_words",
        "for text indexes are missing: idx_embeddings_words",
    ),
    "the chunks": (
        "ALTER TABLE embeddings DROP COLUMN item_hash; "
        "ALTER TABLE collections DROP COLUMN chunk_setting",
        "for chunks are missing: chunk_setting, item_hash",
    ),
    "an index": (
        "DROP INDEX idx_collections_name",
        "the index idx_collections_name is missing",
    ),
}


@pytest.mark.parametrize("what", ON_POSTGRESQL)
def test_it_is_told_and_made_again_on_postgresql(postgresql_engine: Engine, what: str):
    """As on SQLite; the triggers of hosts' tables append to what was made again."""
    engine, (statement, told) = postgresql_engine, ON_POSTGRESQL[what]
    Base.metadata.create_all(engine)
    try:
        ARTICLES.install(engine)
        write(engine, Article(id=1, title="a happy hound"), Article(id=2, title="a cat"))
        ARTICLES.refresh(engine)
        with engine.begin() as connection:
            connection.exec_driver_sql(statement)
        assert overview(engine).lost == (f"{told}: migrate",)
        assert not overview(engine).is_current
        embeddings.migrate(engine)
        assert overview(engine).is_current
        write(engine, Article(id=3, title="a third"))
        assert ARTICLES.refresh(engine).embedded == 1
        with Session(engine) as session:
            session.delete(session.get_one(Article, 2))
            session.commit()
        assert sorted(ARTICLES.collection(engine).ids()) == [1, 3]
        Collection("new", engine, model=DeterministicModel()).embed("a", "a text")
    finally:
        ARTICLES.uninstall(engine)
        Base.metadata.drop_all(engine)

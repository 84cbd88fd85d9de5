"""`op.create_text_index`: literal, reversible, and in scripts where there is SQL for it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, Engine, MetaData, create_engine, text
from sqlalchemy.exc import DBAPIError

import embeddings
from embeddings import Collection, DoesNotExist, IndexingError, InvalidQueryError, make_records
from embeddings.testing import DeterministicModel
from embeddings.writing.operations import CreateTextIndexOp, DropTextIndexOp

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "it's 100% :x"
MODEL = {"model": "deterministic"}


@pytest.fixture
def database(own_database: str) -> Iterator[Engine]:
    """A database of its own on each, with our tables."""
    engine = create_engine(own_database)
    yield engine
    engine.dispose()


def op_of(connection: Connection) -> Any:
    # By which versions of Alembic before 1.18 know the operations.
    include = {"include_object": embeddings.include_object}
    return Operations(MigrationContext.configure(connection, opts=include))


def docs_of(database: Engine | Connection, **options: Any) -> Collection[str]:
    return Collection(NAME, database, model=DeterministicModel(), **options)


def by_words(docs: Collection[str], word: str) -> list[str]:
    return [entry.id for entry in docs.similar(word, words=True, weights=(0, 1))]


def script_of(database: Engine, name: str, *arguments: Any, **options: Any) -> str:
    buffer = io.StringIO()
    context = MigrationContext.configure(
        dialect=database.dialect, opts={"as_sql": True, "output_buffer": buffer}
    )
    getattr(Operations(context), name)(*arguments, **options)
    return buffer.getvalue()


def test_before_the_first_item_and_back(database: Engine):
    """The collection is made with its index, and goes with it while it is empty; repeatedly."""
    for _ in range(2):
        for _ in range(2):
            with database.begin() as connection:
                op_of(connection).create_text_index(NAME, "simple", **MODEL)
        docs = docs_of(database)
        assert (docs.count(), docs.model_id) == (0, "deterministic")
        for _ in range(2):
            with database.begin() as connection:
                op_of(connection).drop_text_index(NAME, "simple", **MODEL)
        assert Collection.names(database) == []


def test_of_items_that_are_there(database: Engine):
    """Their stored texts are put in, whatever model the collection has by now; they stay."""
    docs = docs_of(database)
    docs.embed("e-1042", "the error E_1042", store=True)
    with database.begin() as connection:
        op_of(connection).create_text_index(NAME, model="a former one")
    assert by_words(docs, "E_1042") == ["e-1042"]
    with database.begin() as connection:
        op_of(connection).drop_text_index(NAME, model="a former one")
    assert docs.ids() == ["e-1042"]
    with pytest.raises(IndexingError, match="create_text_index"):
        by_words(docs, "E_1042")


def test_rolled_back_with_the_revision(database: Engine):
    """It is a part of the transaction."""
    with database.connect() as connection:
        op_of(connection).create_text_index(NAME, **MODEL)
        connection.rollback()
    assert Collection.names(database) == []


def test_tables_of_make_records(database: Engine):
    """They are named by `embeddings=`."""
    metadata = MetaData()
    records = make_records(metadata, prefix="op_text_")
    metadata.create_all(database)
    with database.begin() as connection:
        op_of(connection).create_text_index(NAME, **MODEL, embeddings="op_text_embeddings")
    docs = docs_of(database, records=records)
    docs.embed("a", "a happy hound")
    assert by_words(docs, "hound") == ["a"]
    with database.begin() as connection:
        op_of(connection).drop_text_index(NAME, **MODEL, embeddings="op_text_embeddings")
    assert docs.ids() == ["a"]


@pytest.mark.parametrize("own_database", ["postgresql"], indirect=True)
def test_a_collection_that_something_else_has_made_stays(database: Engine):
    """The index of vectors, or rows of a host's that refer to it; and so it is the other way."""
    index = {"dimensions": 3, **MODEL}
    with database.begin() as connection:
        op = op_of(connection)
        op.create_embedding_index(NAME, **index)
        op.create_text_index(NAME, **MODEL)
        op.drop_embedding_index(NAME, **index)
        assert Collection.exists(connection, NAME)
        op.create_embedding_index(NAME, **index)
        op.drop_text_index(NAME, **MODEL)
        assert docs_of(connection).index_info() is not None
        connection.execute(text("CREATE TABLE shelves (id integer REFERENCES collections)"))
        connection.execute(text("INSERT INTO shelves SELECT id FROM collections"))
        op.create_text_index(NAME, **MODEL)
        op.drop_embedding_index(NAME, **index)
        op.drop_text_index(NAME, **MODEL)
        assert Collection.exists(connection, NAME)


def test_a_script(database: Engine, caplog: pytest.LogCaptureFixture):
    """On PostgreSQL it makes the index of what comes later; on SQLite a remark says that it cannot.

    Words are made by this library: of items that are there it warns.
    """
    made = script_of(database, "create_text_index", NAME, **MODEL)
    dropped = script_of(database, "drop_text_index", NAME, **MODEL)
    if database.dialect.name == "sqlite":
        for script in made, dropped:
            assert script.startswith("-- ")
            assert NAME in script
        assert "is not in this script" in caplog.text
        return

    def run(script: str) -> list[str]:
        notices: list[str] = []
        with database.begin() as connection:
            driver: Any = connection.connection.driver_connection
            driver.add_notice_handler(lambda notice: notices.append(notice.message_primary))
            driver.execute(script)
        return notices

    docs = docs_of(database)
    assert [run(made), run(made)] == [[], []]
    docs.embed("a", "a happy hound", store=True)
    assert by_words(docs, "hound") == ["a"]
    assert run(dropped) == []
    docs.embed("b", "a cat", store=True)
    [told] = run(made)
    assert "create_text_index()" in told
    assert docs.create_text_index() == 0
    assert by_words(docs, "cat") == ["b"]
    with pytest.raises(DBAPIError, match="another language"):
        run_plain(database, script_of(database, "create_text_index", NAME, "cjk"))
    docs.delete_items(["a", "b"])
    run(dropped)
    assert Collection.names(database) == []
    with pytest.raises(DBAPIError, match="pass model= to create it"):
        run_plain(database, script_of(database, "create_text_index", NAME))


def run_plain(database: Engine, script: str) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql(script, execution_options={"no_parameters": True})


def test_what_is_refused(database: Engine):
    """Another language than the index has, none that there is, a collection that is not there."""
    with database.begin() as connection:
        op = op_of(connection)
        with pytest.raises(DoesNotExist, match="pass model= to create it"):
            op.create_text_index(NAME)
        with pytest.raises(InvalidQueryError, match="'latin'"):
            op.create_text_index(NAME, "latin", **MODEL)
        with pytest.raises(TypeError, match="collection"):
            op.create_text_index(None)
        op.create_text_index(NAME, **MODEL)
        with pytest.raises(IndexingError, match=r"'english'.*drop_text_index\(\)"):
            op.create_text_index(NAME, "cjk", **MODEL)


def test_each_is_the_reverse_of_the_other():
    """As Alembic asks them."""
    made = CreateTextIndexOp(object())  # type: ignore[arg-type]
    dropped = made.reverse()
    assert isinstance(dropped, DropTextIndexOp)
    assert isinstance(dropped.reverse(), CreateTextIndexOp)
    assert dropped.reverse().given is made.given

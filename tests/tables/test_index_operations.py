"""`op.create_embedding_index` and Django's operation: literal, reversible, and in scripts."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, Engine, create_engine, insert, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import embeddings
from embeddings import (
    Chunks,
    ChunksMismatchError,
    Collection,
    IndexInfo,
    ModelCollection,
    databases,
)
from embeddings.commands import status
from embeddings.following.commands import check
from embeddings.tables.indexing import EmbeddingIndex
from embeddings.testing import DeterministicModel

if TYPE_CHECKING:
    from collections.abc import Iterator


NAME = "it's 100% :x"
ARGUMENTS: dict[str, Any] = {"dimensions": 3, "model": "a model", "m": 4, "ef_construction": 16}


@pytest.fixture
def database(own_database: str) -> Iterator[Engine]:
    """A database of its own on each, with our tables."""
    engine = create_engine(own_database)
    yield engine
    engine.dispose()


def op_of(connection: Connection, **options: Any) -> Any:
    include = {"include_object": embeddings.include_object}
    return Operations(MigrationContext.configure(connection, opts=include | options))


def info_of(engine: Engine) -> IndexInfo | None:
    return Collection(NAME, engine).index_info()


def test_alembic_and_back(database: Engine):
    """The collection and its index are made; its reverse drops the index, and can be repeated."""
    for _ in range(2):
        with database.begin() as connection:
            op_of(connection).create_embedding_index(NAME, **ARGUMENTS)
        if database.dialect.name == "sqlite":  # where there is none, nothing is made
            assert info_of(database) is None
        else:
            info = info_of(database)
            assert info is not None
            assert (info.rows, info.dimensions, info.options["m"]) == (0, 3, 4)
            assert Collection(NAME, database).create_index(m=4, ef_construction=16) == info
    for _ in range(2):
        with database.begin() as connection:
            op_of(connection).drop_embedding_index(NAME, **ARGUMENTS)
        assert info_of(database) is None


@pytest.mark.parametrize("own_database", ["postgresql"], indirect=True)
def test_which_collection_goes_with_its_index(database: Engine):
    """One that is empty, if its model is given, unless a host's rows refer to it."""

    def is_left(**arguments: Any) -> bool:
        with database.begin() as connection:
            op_of(connection).create_embedding_index(NAME, **ARGUMENTS)
            op_of(connection).drop_embedding_index(NAME, **ARGUMENTS | arguments)
            assert info_of(connection) is None  # type: ignore[arg-type]
        return Collection.exists(database, NAME)

    assert not is_left()
    assert is_left(model=None)
    docs = Collection(NAME, database)
    docs.store_vectors([("a", [1.0, 0.0, 0.0])])
    assert is_left()
    docs.delete_items(["a"])
    with database.begin() as connection:
        connection.execute(text("CREATE TABLE shelves (id integer REFERENCES collections)"))
        connection.execute(text("INSERT INTO shelves SELECT id FROM collections"))
    assert is_left()


def test_rolled_back_with_the_revision(database: Engine):
    """It is a part of the transaction."""
    with database.connect() as connection:
        op_of(connection).create_embedding_index(NAME, **ARGUMENTS)
        connection.rollback()
    assert info_of(database) is None


def test_a_script(database: Engine):
    """`--sql` writes what finds the collection's id when it is run."""
    scripts = []
    for name in ("create_embedding_index", "drop_embedding_index"):
        buffer = io.StringIO()
        context = MigrationContext.configure(
            dialect=database.dialect, opts={"as_sql": True, "output_buffer": buffer}
        )
        getattr(Operations(context), name)(NAME, **ARGUMENTS)
        scripts.append(buffer.getvalue())
    if database.dialect.name == "sqlite":
        assert scripts == ["", ""]
        return
    for script, is_there in zip(scripts, (True, False), strict=True):
        with database.begin() as connection:
            connection.connection.cursor().execute(script)
        assert (info_of(database) is not None) == is_there


@pytest.mark.parametrize("own_database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("stored", [2, 2_001, 4_001])
@pytest.mark.parametrize("by", ["revision", "script"])
def test_dimensions_of_vectors_that_are_there(
    by: str, stored: int, database: Engine, caplog: pytest.LogCaptureFixture
):
    """The index is for these, whatever the revision says: a deployment does not fail of it."""
    docs = Collection(NAME, database, model_id="a model")
    docs.store_vectors([("a", [1.0] * stored), ("b", [2.0] * stored)])
    with database.begin() as connection:
        if by == "script":
            script = databases.of(database.dialect).index_script(
                EmbeddingIndex(NAME, **ARGUMENTS), None
            )
            for statement in script:
                connection.connection.cursor().execute(statement)
        else:
            op_of(connection).create_embedding_index(NAME, **ARGUMENTS)

    info = docs.index_info()
    assert info is not None
    assert (info.rows, info.dimensions, info.is_valid) == (2, stored, True)
    told = [each.message for each in caplog.records if each.levelname == "WARNING"]
    if by != "script":
        assert [f" 3 dimensions, and its vectors have {stored}" in one for one in told] == [True]
    assert docs.create_index(m=4, ef_construction=16) == info


@pytest.mark.parametrize("own_database", ["postgresql"], indirect=True)
def test_an_index_of_other_dimensions_holds_nothing(database: Engine):
    """As one by hand: it says so, and `create_index` builds it anew."""
    with database.begin() as connection:
        op_of(connection).create_embedding_index(NAME, **ARGUMENTS)
        connection.execute(
            text(
                "INSERT INTO embeddings (collection_id, id, embedding) "
                "SELECT id, 'a', '[1,0]' FROM collections"
            )
        )
    docs = Collection(NAME, database, model_id="a model")

    info, status = docs.index_info(), docs.status()
    assert info is not None
    assert (info.rows, info.dimensions, info.is_valid) == (0, 3, False)
    assert (status.strategy, status.index) == ("database", info)
    assert "is for 3 dimensions, and the vectors have 2: create_index()" in str(status.reason)

    info = docs.create_index()
    assert (info.rows, info.dimensions, info.is_valid) == (1, 2, True)
    assert docs.status().strategy == "index"


def test_a_collection_that_is_not_there(database: Engine):
    """Without the model it is not created, and the error says so; where there is none to drop."""
    with database.begin() as connection:
        op_of(connection).drop_embedding_index("nothing", dimensions=3)
    if database.dialect.name == "postgresql":
        does_not_exist = pytest.raises(DBAPIError, match="'nothing' does not exist: pass model=")
        with does_not_exist, database.begin() as connection:
            op_of(connection).create_embedding_index("nothing", dimensions=3)


def test_the_first_write_says_how_texts_are_cut(database: Engine):
    """The collection of a revision has no setting of chunks of its own, whoever fills it.

    That of a declaration is its setting, and is so again when all items are deleted; one with
    items has a setting, and `check` and `status` say where the declaration's is another.
    """

    class Base(DeclarativeBase):
        pass

    class Page(Base):
        __tablename__ = "op_pages"
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[str]

    def declared(size: int) -> ModelCollection[Page]:
        chunks = Chunks(size=size)
        return ModelCollection(Page, text=[Page.body], name=NAME, model=model, chunks=chunks)

    model = DeterministicModel()
    body = "One sentence of some words. " * 20
    with database.begin() as connection:
        Base.metadata.create_all(connection)
        op_of(connection).create_embedding_index(NAME, **ARGUMENTS | {"dimensions": 256})
        pages, larger = declared(100), declared(200)
        pages.install(connection)
        connection.execute(insert(Page).values(id=1, body=body))
    assert "has no chunks" not in check(database, [pages])[0]

    plan = larger.collection(database).plan([(2, body)])
    plan.embed()
    assert pages.refresh(database).embedded == 1
    with pytest.raises(ChunksMismatchError, match="given Chunks"):
        larger.collection(database).apply(plan)

    docs = pages.collection(database)
    assert docs.count(chunks=True) == len(Chunks(size=100).spans(body))
    said = r"has Chunks\(size=100\), .* says Chunks\(size=200\)"
    assert re.search(said, check(database, [larger])[0])
    assert re.search(said, status(database, declared=[larger]).text)
    with pytest.raises(ChunksMismatchError, match="delete its items"):
        larger.collection(database).embed(2, body)
    docs.delete_items(docs.ids())
    assert larger.sync(database).embedded == 1
    assert docs.count(chunks=True) == len(Chunks(size=200).spans(body))


@pytest.mark.parametrize("own_database", ["postgresql"], indirect=True)
def test_a_part_of_a_partitioned_table(database: Engine):
    """The index is made on the part that has the collection's rows."""
    parts = 4
    with database.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE embeddings RENAME TO whole")
        connection.exec_driver_sql(
            "CREATE TABLE embeddings (LIKE whole, PRIMARY KEY (collection_id, id)) "
            "PARTITION BY HASH (collection_id)"
        )
        for n in range(parts):
            connection.exec_driver_sql(
                f"CREATE TABLE part_{n} PARTITION OF embeddings "
                f"FOR VALUES WITH (MODULUS {parts}, REMAINDER {n})"
            )
        op_of(connection).create_embedding_index(NAME, **ARGUMENTS)
        by_revision = info_of(connection)  # type: ignore[arg-type]
        where = text("SELECT tablename FROM pg_indexes WHERE indexname LIKE 'idx_embeddings_1_%'")
        part = connection.scalar(where)
        op_of(connection).drop_embedding_index(NAME, **ARGUMENTS | {"model": None})
        docs = Collection(NAME, connection)
        assert docs.create_index(dimensions=3, m=4, ef_construction=16) == by_revision
        assert connection.scalar(where) == part
        docs.store_vectors([("a", [1.0, 0.0, 0.0]), ("b", [0.0, 1.0, 0.0])])
        has = text(f"SELECT count(*) FROM {part}")
        assert connection.scalar(has) == 2
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        found = docs.similar_by_vector([1.0, 0.1, 0.0], 1)
        assert [entry.id for entry in found] == ["a"]

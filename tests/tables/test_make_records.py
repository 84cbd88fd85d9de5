"""The two tables in the host's own base, under names of its choosing: every operation is there."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from sqlalchemy import (
    BigInteger,
    Engine,
    ForeignKey,
    MetaData,
    String,
    create_engine,
    event,
    inspect,
    literal,
    select,
    text,
    union_all,
)
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncAttrs, AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    DeclarativeBaseNoMeta,
    Mapped,
    MappedAsDataclass,
    Session,
    configure_mappers,
    declarative_base,
    declared_attr,
    mapped_column,
    registry,
    relationship,
)
from sqlalchemy.schema import CreateIndex, CreateTable

import embeddings
from embeddings import (
    AsyncCollection,
    Collection,
    CollectionRecord,
    EmbeddingRecord,
    InvalidQueryError,
    MissingWordsWarning,
    ModelCollection,
    Records,
    SchemaError,
    make_records,
)
from embeddings.searching.read import page_after
from embeddings.tables.records import RECORDS
from embeddings.testing import DeterministicModel
from tests.reaching import new_database, rows_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TEXTS = [("1", "a hound sleeps"), ("2", "a hound eats"), ("3", "two cats sleep")]
LONGEST = "p" * (63 - len("idx_embeddings_content_hash"))


def new_host() -> tuple[Any, Any]:
    """Return a declarative base of a host's, and a class to which embeddings are joined."""

    class Base(DeclarativeBase):
        pass

    class Article(Base):
        __tablename__ = "host_articles"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]

    return Base, Article


def new_base() -> Any:
    """Return a declarative base of a host's, with one table."""
    return new_host()[0]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Engine:
    """A database with this library's own tables, empty."""
    name = "engine" if request.param == "sqlite" else "postgresql_engine"
    engine: Engine = request.getfixturevalue(name)
    return engine


@pytest.fixture
def tenant(database: Engine, tmp_path: Path) -> Iterator[str]:
    """A schema beside the default one; on SQLite an attached database."""
    if database.dialect.name == "sqlite":

        @event.listens_for(database, "connect")
        def attach(driver: Any, _: object) -> None:
            driver.execute("ATTACH DATABASE ? AS tenant", [str(tmp_path / "tenant.db")])

        yield "tenant"
        return
    with database.begin() as connection:
        connection.execute(text("CREATE SCHEMA tenant"))
    yield "tenant"
    with database.begin() as connection:
        connection.execute(text("DROP SCHEMA tenant CASCADE"))


Make = Callable[..., Records]


@pytest.fixture
def make(database: Engine) -> Iterator[Make]:
    """Make records in a host's base, and create all its tables; they are dropped at the end."""
    created: list[tuple[Any, Engine]] = []

    def make(base: Any = None, on: Engine = database, **options: Any) -> Records:
        base = base or new_base()
        records = make_records(base, **options)
        created.append((base, on))
        base.metadata.create_all(on)
        return records

    yield make
    for base, engine in created:
        base.metadata.drop_all(engine)


def open_docs(db: Any, records: Records, name: str = "docs", **options: Any) -> Collection[Any]:
    """Return a collection with the three texts."""
    docs = Collection(name, db, model=DeterministicModel(), records=records, **options)
    docs.embed_multi(TEXTS, store=True)
    return docs


def everything_in(engine: Engine) -> list[Any]:
    """Return all that a database's catalog tells of what the host can see."""
    if engine.dialect.name == "sqlite":
        return rows_of(engine, "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2")
    return rows_of(
        engine,
        "SELECT relnamespace::regnamespace::text, relname, relkind FROM pg_class "
        "WHERE relnamespace::regnamespace::text !~ '^(pg_|information)' ORDER BY 1, 2, 3",
    )


# Every operation


def shown(record: Any) -> Any:
    """Return what a record holds, to be compared with one of another class."""
    return record and (record.id, record.embedding.tolist(), record.content, record.metadata_)


def rows_by(db: Any, selectable: Any) -> list[Any]:
    """Return the rows of what `matches` gave, with two digits of the score."""
    statement = select(selectable.c.id, selectable.c.score).order_by(selectable.c.id)
    return [(id, round(score, 2)) for id, score in rows_of(db, statement)]


def planned(docs: Collection[Any]) -> Any:
    plan = docs.plan([("4", "a stock falls", {"n": 4}), ("1", "a hound sleeps")], store=True)
    before = (plan.new, plan.reusable, plan.unchanged, plan.contents)
    plan.embed()
    docs.apply(plan)
    return before, docs.ids()


def found(entries: Any) -> list[Any]:
    return [(entry.id, round(entry.score, 2), entry.content, entry.metadata) for entry in entries]


def is_gone(docs: Collection[Any]) -> bool:
    try:
        return not docs.id
    except docs.DoesNotExist:
        return True


def renamed(docs: Collection[Any], db: Any, records: Records) -> Any:
    docs.rename("other")
    return Collection.names(db, records=records), docs.name, docs.count()


def deleted(docs: Collection[Any], db: Any, records: Records) -> Any:
    docs.delete()
    return Collection.names(db, records=records)


VECTOR = DeterministicModel().embed("a hound")

# In this order, each on what the ones before it left; (docs, database, records) -> a value.
OPERATIONS: dict[str, Callable[[Collection[Any], Any, Records], Any]] = {
    "count": lambda docs, _db, _: (docs.count(), len(docs), bool(docs)),
    "embed": lambda docs, _db, _: docs.embed(1, "a hound sleeps", {"n": 1}, store=True),
    "embed_multi": lambda docs, _db, _: docs.embed_multi(TEXTS, batch_size=2),
    "embed_multi_with_metadata": lambda docs, _db, _: docs.embed_multi_with_metadata(
        [("2", "a hound eats", {"n": 2, "tag": "dog"}), ("5", "a cow", None)], store=True
    ),
    "plan": lambda docs, _db, _: planned(docs),
    "apply": lambda docs, _db, _: docs.apply(docs.plan([("1", "a hound sleeps")])),
    "prepare": lambda docs, _db, _: docs.embed("6", docs.prepare("a pig"), {"n": 6}),
    "embed_query": lambda docs, _db, _: docs.embed_query("a hound").tolist(),
    "store_vectors": lambda docs, _db, _: docs.store_vectors(
        [("7", VECTOR), ("8", VECTOR, {"n": 8}, "given")]
    ),
    "set_metadata": lambda docs, _db, _: docs.set_metadata("3", {"n": 3}),
    "id": lambda docs, _db, _: isinstance(docs.id, int),
    "name": lambda docs, _db, _: docs.name,
    "model_id": lambda docs, _db, _: docs.model_id,
    "model": lambda docs, _db, _: docs.model().model_id,
    "content_hash": lambda docs, _db, _: docs.content_hash("a"),
    "get": lambda docs, _db, _: [shown(docs.get(id)) for id in ("1", "2", "8", "nothing")],
    "ids": lambda docs, _db, _: (docs.ids(), docs.ids(prefix="1"), "1" in docs, "x" in docs),
    "page_after": lambda docs, _db, _: [record.id for record in page_after(docs.reference, "3")],
    "get_many": lambda docs, _db, _: [
        record and shown(record) for record in docs.get_many(["3", "nothing", "1"])
    ],
    "vectors": lambda docs, _db, _: (docs.vectors()[0], docs.vectors(prefix="1")[1].tolist()),
    "warm": lambda docs, _db, _: docs.warm(),
    "iteration": lambda docs, _db, _: [shown(record) for record in docs],
    "similar": lambda docs, _db, records: [
        found(docs.similar("a hound")),
        found(docs.similar("a hound", 1, "1", min_score=0.1)),
        found(docs.similar("a hound", where={"tag": "dog"})),
        found(docs.similar("a hound", where=records.embedding.content == "given")),
        found(docs.similar("a hound", among=["1", "3"], offset=1)),
    ],
    "similar_by_id": lambda docs, _db, _: found(docs.similar_by_id("1")),
    "similar_by_vector": lambda docs, _db, _: found(docs.similar_by_vector(VECTOR, number=2)),
    "similar_multi": lambda docs, _db, _: [found(f) for f in docs.similar_multi(["a cat", "cow"])],
    "similar_multi_by_vector": lambda docs, _db, _: [
        found(f) for f in docs.similar_multi_by_vector([VECTOR])
    ],
    "status": lambda docs, _db, _: (docs.status().strategy, docs.status().reason),
    "matches": lambda docs, db, _: rows_by(db, docs.matches("a hound", 3)),
    "matches_by_id": lambda docs, db, _: rows_by(db, docs.matches_by_id("1", 3)),
    "matches_by_vector": lambda docs, db, _: rows_by(db, docs.matches_by_vector(VECTOR, 3)),
    "create_index": lambda docs, db, _: on_postgresql(db, lambda: docs.create_index().options),
    "index_info": lambda docs, db, _: on_postgresql(db, lambda: bool(docs.index_info())),
    "a search by the index": lambda docs, _db, _: [entry.id for entry in docs.similar("a hound")],
    "drop_index": lambda docs, db, _: on_postgresql(db, docs.drop_index),
    "sync": lambda docs, _db, _: audited(docs),
    "copy_to": lambda docs, db, records: copied(docs, db, records),
    "get_chunks": lambda docs, _db, _: [(each.number, each.text) for each in docs.get_chunks("1")],
    "reembed": lambda docs, _db, _: reembedded(docs),
    "back": lambda docs, _db, _: (docs.back(), docs.model_id),
    "drop_previous": lambda docs, _db, _: (docs.drop_previous(), docs.ids()),
    "create_text_index": lambda docs, _db, _: with_words(docs),
    "drop_text_index": lambda docs, _db, _: (docs.drop_text_index(), docs.drop_text_index()),
    "delete_items": lambda docs, _db, records: [
        docs.delete_items(["1", "nothing"]),
        docs.delete_items(prefix="2"),
        docs.delete_items(where=records.embedding.content == "given"),
        docs.ids(),
    ],
    "names": lambda _docs, db, records: Collection.names(db, records=records),
    "exists": lambda _docs, db, records: Collection.exists(db, "docs", records=records),
    "rename": renamed,
    "delete": deleted,
    "DoesNotExist": lambda docs, _db, _: is_gone(docs),
    "close": lambda docs, _db, _: docs.close(),
}


def audited(docs: Collection[Any]) -> Any:
    """Return what a dry run of `sync` tells of a source of two rows."""
    rows = [
        select(literal(id).label("id"), literal(content).label("text"))
        for id, content in (("1", "another text"), ("new", "a new one"))
    ]
    source = union_all(*rows).subquery()
    found = docs.sync(select(source.c.id, source.c.text), dry_run=True)
    return found.stale, found.missing, found.orphaned


def copied(docs: Collection[Any], db: Any, records: Records) -> Any:
    """Copy the collection beside itself, and return what came of that."""
    other = Collection("copy", db, model=docs.model(), records=records)
    outcome = docs.copy_to(other).reused, other.ids()
    other.delete()
    return outcome


def reembedded(docs: Collection[Any]) -> Any:
    """Embed all again by another model, and return what that says and finds."""

    def contents(ids: list[str]) -> dict[str, str]:
        return {id: f"text {id}" for id in ids}

    report = docs.reembed(DeterministicModel("another"), contents)
    return report.embedded, docs.model_id, [entry.id for entry in docs.similar("a hound")]


def with_words(docs: Collection[Any]) -> Any:
    """Make a text index, fill it, and return what it finds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MissingWordsWarning)
        missing = docs.create_text_index()
    docs.embed("zebra", "a striped zebra")
    words = [entry.id for entry in docs.similar("anything", words="striped", weights=(0, 1))]
    return missing, words, docs.delete_items(["zebra"])


EXPECTED: dict[tuple[str, str], dict[str, Any]] = {}
"""What the operations give on our own tables, by the database and the way to reach it."""


def on_postgresql(db: Any, operation: Callable[[], Any]) -> Any:
    """Return what an operation returns that SQLite does not have, and there nothing."""
    engine = db.get_bind() if isinstance(db, Session) else db
    return operation() if engine.dialect.name == "postgresql" else None


def outcome(db: Any, records: Records) -> dict[str, Any]:
    docs = open_docs(db, records)
    return {name: operation(docs, db, records) for name, operation in OPERATIONS.items()}


def test_the_operations_are_all_that_there_are():
    """Nothing public of a collection is left out of what these tests compare."""
    public = {name for name in dir(Collection) if not name.startswith("_")}

    assert public <= OPERATIONS.keys()


LAYOUTS: dict[str, dict[str, Any]] = {
    "prefix": {"prefix": "search_"},
    "schema": {"schema": "tenant"},
    "prefix and schema": {"prefix": "search_", "schema": "tenant"},
    "a prefix to be quoted": {"prefix": "Überschrift_"},
    "the longest prefix": {"prefix": LONGEST},
}
in_each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


TOLD = ("schema", "a prefix to be quoted", "the longest prefix")


@pytest.mark.parametrize(
    ("layout", "way"),
    [*((LAYOUTS[name], "session") for name in TOLD), (LAYOUTS["prefix and schema"], "engine")],
    ids=[*(f"{name}-session" for name in TOLD), "prefix and schema-engine"],
)
def test_every_operation_gives_what_it_gives_on_our_own_tables(
    layout: dict[str, Any], way: str, database: Engine, tenant: str, make: Make
):
    """Whatever the tables are called, the results are the same, and our own stay empty."""
    records = make(**layout)

    def run(records: Records) -> dict[str, Any]:
        if way == "engine":
            return outcome(database, records)
        with Session(database) as session:
            result = outcome(session, records)
            session.rollback()
            return result

    expected = EXPECTED.setdefault((database.dialect.name, way), {})
    if not expected:
        expected |= run(RECORDS)
    assert run(records) == expected

    if database.dialect.name == "sqlite":
        assert expected["status"] == ("matrix", None)
    assert Collection.names(database) == []
    assert rows_of(database, select(EmbeddingRecord.id)) == []


def test_the_schema_may_be_the_one_of_the_bases_metadata(database: Engine, tenant: str, make: Make):
    """Without schema= the tables are where the host's other ones are."""

    class Base(DeclarativeBase):
        metadata = MetaData(schema="tenant")

    records = make(Base)

    assert records.embeddings.fullname == "tenant.embeddings"
    with Session(database) as session:
        assert open_docs(session, records).similar("a hound eats", number=1)[0].id == "2"
        assert rows_of(session, "SELECT id FROM tenant.embeddings ORDER BY 1") == [
            *(("1",), ("2",), ("3",))
        ]


def test_the_schema_may_be_translated(database: Engine, tenant: str, make: Make):
    """A schema_translate_map puts the tables where the host's engine says."""
    # A cache of its own: SQLAlchemy cannot use statements of one map with another kind of map.
    engine = database.execution_options(
        schema_translate_map={"somewhere": "tenant"}, compiled_cache={}
    )
    expected = outcome(database, RECORDS)

    records = make(prefix="search_", schema="somewhere", on=engine)

    assert outcome(engine, records) == expected
    assert inspect(database).has_table("search_embeddings", "tenant")


def test_a_copy_to_another_tenant(database: Engine, tenant: str, make: Make):
    """Two connections of one engine may have two schemas; on the same one it is no copy."""
    records = make(prefix="t_", schema="tenant")
    default = {"sqlite": "main", "postgresql": "public"}[database.dialect.name]
    options = {"schema_translate_map": {"tenant": default}, "compiled_cache": {}}
    records.collections.metadata.create_all(database.execution_options(**options))
    try:
        docs = open_docs(database, records)
        with database.connect() as connection, database.connect() as same:
            connection.execution_options(**options)
            there = Collection("docs", connection, records=records)
            assert docs.copy_to(there).reused == 3
            assert there.ids() == docs.ids()
            connection.commit()
            with pytest.raises(ValueError, match="cannot be copied to itself"):
                docs.copy_to(Collection("docs", same, records=records))
    finally:
        records.collections.metadata.drop_all(database.execution_options(**options))


def test_a_translated_schema_for_each_tenant(database: Engine, tenant: str, make: Make):
    """One pair of classes serves several schemas, each of which has its own collections."""
    records = make(prefix="t_", schema="tenant")
    default = {"sqlite": "main", "postgresql": "public"}[database.dialect.name]
    other = database.execution_options(schema_translate_map={"tenant": default}, compiled_cache={})
    records.collections.metadata.create_all(other)
    try:
        open_docs(database, records)
        assert Collection.names(other, records=records) == []
        docs = open_docs(other, records, "elsewhere")
        docs.delete_items(["1"])
        for _ in range(2):
            assert docs.similar("a hound", number=1)[0].id == "2"
        assert Collection.names(database, records=records) == ["docs"]
        assert Collection.names(other, records=records) == ["elsewhere"]
    finally:
        records.collections.metadata.drop_all(other)


# Two sets in one database


def test_two_sets_share_nothing(database: Engine, make: Make):
    """Each set has its own collections of the same name, in one session and one transaction."""
    base = new_base()
    first = make_records(base, prefix="first_")
    second = make(base, prefix="second_")
    with Session(database) as session:
        one = open_docs(session, first)
        two = Collection("docs", session, model=DeterministicModel("other"), records=second)
        two.embed("1", "a stock falls", store=True)
        ours = Collection("docs", session, model=DeterministicModel("third"))
        ours.embed("9", "a tree", store=True)

        for _ in range(3):
            assert [entry.id for entry in one.similar("a hound sleeps", number=1)] == ["1"]
            assert [entry.content for entry in two.similar("hound")] == ["a stock falls"]
            assert [entry.content for entry in ours.similar("hound")] == ["a tree"]
        two.delete()
        session.commit()

        assert (one.ids(), ours.ids()) == (["1", "2", "3"], ["9"])
        assert Collection.names(session, records=second) == []


def test_the_matrix_of_one_set_is_not_that_of_the_other(engine: Engine):
    """On SQLite collections with equal ids and names in two sets are searched side by side."""
    base = new_base()
    sets = [make_records(base, prefix=f"{name}_") for name in ("a", "b")]
    base.metadata.create_all(engine)
    collections = [Collection("docs", engine, model=DeterministicModel(), records=r) for r in sets]
    for number, docs in enumerate(collections):
        docs.embed_multi([(f"{number}-{i}", f"text {i}") for i in range(20)])
    assert collections[0].id == collections[1].id

    for _ in range(3):
        for number, docs in enumerate(collections):
            assert [entry.id for entry in docs.similar("text 7", 1)] == [f"{number}-7"]
            assert docs.status().strategy in {"scan", "matrix"}
    collections[0].embed("0-7", "something else")

    assert [docs.similar("text 7", 1)[0].score < 0.99 for docs in collections] == [True, False]
    assert [docs.status().strategy for docs in collections] == ["matrix", "matrix"]


def test_the_change_log_of_each_set_is_its_own(engine: Engine, make: Make, database: Engine):
    """On SQLite a write is noted in the log of its own set alone."""
    if database.dialect.name != "sqlite":
        return
    records = make(prefix="search_")

    def logged(name: str) -> list[Any]:
        return rows_of(engine, f"SELECT seq, collection_id, id FROM {name} WHERE seq > 0")

    open_docs(engine, records)
    assert [id for _, _, id in logged("search_embeddings_log")] == ["1", "2", "3"]
    assert logged("embeddings_log") == []

    Collection("docs", engine, model=DeterministicModel()).embed("x", "a tree")
    assert [id for _, _, id in logged("embeddings_log")] == ["x"]
    assert [id for _, _, id in logged("search_embeddings_log")] == ["1", "2", "3"]
    tokens = "SELECT token FROM {} WHERE seq = 0"
    assert rows_of(engine, tokens.format("embeddings_log")) != rows_of(
        engine, tokens.format("search_embeddings_log")
    )


def test_a_where_about_the_other_set_is_refused(database: Engine, make: Make):
    """An expression over a class of another set is no condition on this one's rows."""
    docs = open_docs(database, make(prefix="search_"))

    with pytest.raises(InvalidQueryError, match="another table"):
        docs.similar("a hound", where=EmbeddingRecord.id == "1")
    with pytest.raises(InvalidQueryError, match="another table"):
        docs.delete_items(where=EmbeddingRecord.id == "1")
    assert docs.count() == 3


# Beside the host's own


@pytest.mark.parametrize("way", ["engine", "session", "path"])
def test_a_host_that_owns_a_table_collections(way: str, tmp_path: Path):
    """A host's own `collections` and `embeddings` stay as they are, whatever reaches the file."""

    class Base(DeclarativeBase):
        pass

    class Own(Base):
        __tablename__ = "collections"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]

    records = make_records(Base, prefix="search_")
    path = tmp_path / "app.db"
    engine = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Own(id=1, title="autumn"))
        session.commit()

        docs = open_docs({"engine": engine, "session": session, "path": path}[way], records)
        assert docs.similar("a hound eats", number=1)[0].id == "2"
        docs.close()
        session.commit()

        assert session.scalars(select(Own.title)).all() == ["autumn"]
    assert set(inspect(engine).get_table_names()) == {
        *("collections", "search_collections", "search_embeddings"),
        *("search_embeddings_log", "search_embeddings_pending"),
    }
    engine.dispose()


def test_a_path_with_records_gets_no_other_tables(tmp_path: Path):
    """`migrate` has nothing to do with tables of a host's own, so opening makes none of ours."""
    base = new_base()
    records = make_records(base, prefix="search_")
    engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    base.metadata.create_all(engine)
    before = everything_in(engine)

    with Collection("docs", tmp_path / "app.db", model=DeterministicModel(), records=records):
        pass

    assert everything_in(engine) == before
    assert Collection.names(tmp_path / "app.db", records=records) == ["docs"]
    engine.dispose()


@pytest.mark.parametrize("prefix", ["search_", "Other_"])
def test_a_foreign_key_of_the_hosts_and_a_relationship(prefix: str, database: Engine, make: Make):
    """A host's table refers to a collection; the ORM and SQL go both ways."""

    class Base(DeclarativeBase):
        pass

    records = make_records(Base, prefix=prefix)

    class Shelf(Base):
        __tablename__ = "host_shelves"
        id: Mapped[int] = mapped_column(primary_key=True)
        collection_id: Mapped[int] = mapped_column(ForeignKey(records.collection.id))
        collection: Mapped[Any] = relationship(records.collection)

    Base.metadata.create_all(database)
    try:
        with Session(database) as session:
            docs = open_docs(session, records)
            shelf = Shelf(id=1, collection_id=docs.id)
            session.add(shelf)
            session.flush()
            assert shelf.collection.name == "docs"
            assert [record.id for record in shelf.collection.embeddings] == ["1", "2", "3"]
            record = docs.get("1")
            assert record is not None
            assert record.collection is shelf.collection

            entity = records.embedding
            there = select(entity.id).join(records.collection).join(Shelf).order_by(entity.id)
            assert session.scalars(there).all() == ["1", "2", "3"]
            back = select(Shelf.id).join(records.collection).join(entity).where(entity.id == "2")
            assert session.scalars(back).all() == [1]
            session.rollback()
            assert session.scalars(back).all() == []
    finally:
        Base.metadata.drop_all(database)


def test_matches_joins_the_hosts_table(database: Engine, make: Make):
    """Keys come in the host's type, in a join and in `among`."""
    base, article = new_host()
    records = make(base, prefix="search_")
    with Session(database) as session:
        session.add_all(article(id=int(id), title=title) for id, title in TEXTS)
        session.flush()
        docs = Collection(
            "articles", session, model=DeterministicModel(), key=article.id, records=records
        )
        docs.embed_multi([(int(id), title) for id, title in TEXTS])

        best = docs.matches("a hound", 2, among=select(article.id).where(article.id > 1))
        joined = select(article.title).join(best, best.c.id == article.id)
        assert sorted(session.scalars(joined)) == ["a hound eats", "two cats sleep"]
        assert [entry.id for entry in docs.similar("two cats sleep", number=1)] == [3]
        session.rollback()


def test_records_are_rows_of_the_hosts_session(database: Engine, make: Make):
    """Objects of the two classes are added, changed and deleted beside the repository."""
    records = make(prefix="search_")
    with Session(database) as session:
        docs = open_docs(session, records)
        session.add(records.embedding(id="4", embedding=VECTOR, collection_id=docs.id))
        assert "4" in docs
        record = docs.get("1")
        assert record is session.get(records.embedding, (docs.id, "1"))
        docs.embed("1", "a stock falls", store=True)
        assert record is not None
        assert record.content == "a stock falls"
        session.delete(record)
        assert docs.ids() == ["2", "3", "4"]
        collection = session.get(records.collection, docs.id)
        assert collection is not None
        assert [one.id for one in collection.embeddings] == ["2", "3", "4"]
        session.delete(collection)
        assert not Collection.exists(session, "docs", records=records)
        assert session.scalars(select(records.embedding)).all() == []


def test_the_constructors_refuse_what_is_no_column(make: Make):
    """`metadata=` would be lost silently: it is an error, as on our own classes."""
    records = make_records(new_base(), prefix="search_")

    with pytest.raises(TypeError, match="metadata"):
        records.embedding(id="a", embedding=[1.0], metadata={"n": 1})  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="title"):
        records.collection(name="a", model="m", title="x")  # type: ignore[call-arg]
    assert records.embedding(id="a", embedding=[1.0], metadata_={"n": 1}).metadata_ == {"n": 1}


# Whatever the base is


def plain() -> Any:
    class Base(DeclarativeBase):
        pass

    return Base


def with_columns() -> Any:
    class Base(DeclarativeBase):
        id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
        created_by: Mapped[str] = mapped_column(String(10), nullable=False)

    return Base


def with_constructor() -> Any:
    class Base(DeclarativeBase):
        def __init__(self, title: str) -> None:
            raise AssertionError(title)

    return Base


def with_names_of_its_own() -> Any:
    class Base(DeclarativeBase):
        @declared_attr.directive
        @classmethod
        def __tablename__(cls) -> str:
            return cls.__name__.lower()

        __table_args__: Any = {"comment": "the host's"}  # noqa: RUF012
        __mapper_args__: Any = {"eager_defaults": True}  # noqa: RUF012

    return Base


def with_naming_convention() -> Any:
    class Base(DeclarativeBase):
        metadata = MetaData(
            naming_convention={
                "ix": "ix_%(column_0_label)s",
                "uq": "uq_%(table_name)s_%(column_0_name)s",
                "ck": "ck_%(table_name)s_%(constraint_name)s",
                "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
                "pk": "pk_%(table_name)s",
            }
        )

    return Base


def with_types() -> Any:
    class Base(DeclarativeBase):
        type_annotation_map: ClassVar[Any] = {str: String(2), int: BigInteger, bytes: String(3)}

    return Base


def of_dataclasses() -> Any:
    class Base(MappedAsDataclass, DeclarativeBase, kw_only=True):
        pass

    return Base


def without_metaclass() -> Any:
    class Base(DeclarativeBaseNoMeta):
        pass

    return Base


def for_asyncio() -> Any:
    class Base(AsyncAttrs, DeclarativeBase):
        pass

    return Base


def abstract() -> Any:
    class Base(DeclarativeBase):
        pass

    class Abstract(Base):
        __abstract__ = True
        owner: Mapped[str]

    return Abstract


BASES: Sequence[Callable[[], Any]] = (
    plain,
    with_columns,
    with_constructor,
    with_names_of_its_own,
    with_naming_convention,
    with_types,
    of_dataclasses,
    without_metaclass,
    for_asyncio,
    abstract,
    declarative_base,
    lambda: registry().generate_base(),
)


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.__name__)
def test_the_tables_are_the_same_in_every_kind_of_base(
    base: Callable[[], Any], database: Engine, make: Make
):
    """What the host's base adds to its own classes is not added to these."""
    records = make(base(), prefix="search_")

    for table, ours in (
        (records.collections, CollectionRecord.__table__),
        (records.embeddings, EmbeddingRecord.__table__),
    ):
        assert [(column.name, repr(column.type)) for column in table.c] == [
            (column.name, repr(column.type)) for column in ours.c
        ]
        assert {index.name for index in table.indexes} == {
            str(index.name).replace("idx_", "idx_search_")
            for index in ours.indexes  # type: ignore[attr-defined]
        }
    with Session(database) as session:
        docs = open_docs(session, records)
        record = docs.get("1")
        assert record is not None
        assert record.collection.name == "docs"
        assert docs.similar("a hound eats", number=1)[0].id == "2"


def flask(bind: str | None, url: Any) -> tuple[Any, Any, Any]:
    """Return an application, its `db`, and the base that makes tables of a bind."""
    flask = pytest.importorskip("flask")
    flask_sqlalchemy = pytest.importorskip("flask_sqlalchemy")

    class Base(DeclarativeBase):
        pass

    app = flask.Flask("host")
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://" if bind else url
    if bind:
        app.config["SQLALCHEMY_BINDS"] = {bind: url}
    db = flask_sqlalchemy.SQLAlchemy(app, model_class=Base)
    if bind is None:
        return app, db, db.Model
    return app, db, type("Bound", (db.Model,), {"__abstract__": True, "__bind_key__": bind})


@pytest.mark.parametrize("bind", [None, "vectors"])
def test_the_models_of_flask_sqlalchemy(bind: str | None, database: Engine):
    """`db.Model` is a base like any other, of the default bind or of another one."""
    url = database.url.render_as_string(hide_password=False)
    app, db, base = flask(bind, url)
    records = make_records(base, prefix="flask_")
    with app.app_context():
        db.create_all()
        try:
            docs = open_docs(db.session, records)
            db.session.commit()
            docs.embed("4", "gone")
            db.session.rollback()
            assert docs.ids() == ["1", "2", "3"]
            for _ in range(3):
                assert docs.similar("a hound eats", number=1)[0].id == "2"
            assert Collection.names(database, records=records) == ["docs"]
            if bind:
                with pytest.raises(SchemaError, match="flask_embeddings"):
                    Collection("docs", db.engine, records=records).count()
        finally:
            db.session.remove()
            db.drop_all()
            for engine in db.engines.values():
                engine.dispose()


# With asyncio

DRIVERS = ("aiosqlite", "asyncpg", "psycopg")


@pytest.mark.parametrize("way", ["session", "engine"])
@pytest.mark.parametrize("driver", DRIVERS)
def test_with_asyncio(driver: str, way: str, request: pytest.FixtureRequest):
    """An AsyncCollection works on such tables by every driver."""
    name = "engine" if driver == "aiosqlite" else "postgresql_engine"
    plain: Engine = request.getfixturevalue(name)
    base = new_base()
    records = make_records(base, prefix="search_")

    async def main() -> None:
        backend = plain.dialect.name
        engine = create_async_engine(plain.url.set(drivername=f"{backend}+{driver}"))
        try:
            async with engine.begin() as connection:
                await connection.run_sync(base.metadata.create_all)
            async with AsyncSession(engine) as session:
                db: Any = session if way == "session" else engine
                docs = AsyncCollection("docs", db, model=DeterministicModel(), records=records)
                plan = await docs.plan(TEXTS, store=True)
                await plan.embed()
                await docs.apply(plan)
                for _ in range(3):
                    assert [e.id for e in await docs.similar("a hound eats", number=1)] == ["2"]
                assert [record.id async for record in docs] == ["1", "2", "3"]
                assert await AsyncCollection.names(db, records=records) == ["docs"]
                assert await AsyncCollection.names(db) == []
                await session.rollback()
                assert await docs.count() == (0 if way == "session" else 3)
        finally:
            async with engine.begin() as connection:
                await connection.run_sync(base.metadata.drop_all)
            await engine.dispose()

    asyncio.run(main())


# Names that do not do


def test_a_prefix_that_is_no_beginning_of_a_name(subtests: pytest.Subtests):
    """Such a prefix is refused, and shown."""
    for prefix in [
        "1st_",
        "a-b",
        "a b",
        'a"b',
        "a.b",
        "tenant.search_",
        "a;--",
        "\0",
        "é\u0301-",
        " ",
    ]:
        with subtests.test(ascii(prefix)[:60]):
            base = new_base()
            with pytest.raises(ValueError, match="prefix") as caught:
                make_records(base, prefix=prefix)
            assert repr(prefix) in str(caught.value)
            assert set(base.metadata.tables) == {"host_articles"}


@pytest.mark.parametrize("prefix", [None, 7, b"search_"])
def test_a_prefix_that_is_no_string(prefix: Any):
    """A prefix of another type is refused, and not written into the names."""
    base = new_base()
    with pytest.raises((TypeError, ValueError), match="prefix"):
        make_records(base, prefix=prefix)
    assert set(base.metadata.tables) == {"host_articles"}


@pytest.mark.parametrize("prefix", [LONGEST + "p", "é" * (len(LONGEST) // 2 + 1)])
def test_a_prefix_that_is_too_long(prefix: str):
    """The names that the library gives fit into PostgreSQL's 63 bytes, or the prefix is refused."""
    with pytest.raises(ValueError, match="63 bytes"):
        make_records(new_base(), prefix=prefix)


def test_the_same_names_twice():
    """A second set of the same names in one base is refused, and the first is unharmed."""
    base = new_base()
    records = make_records(base, prefix="search_")

    with pytest.raises(InvalidRequestError, match="search_collections"):
        make_records(base, prefix="search_")

    configure_mappers()
    engine = create_engine("sqlite://")
    base.metadata.create_all(engine)
    with Session(engine) as session:
        assert open_docs(session, records).similar("a hound eats", number=1)[0].id == "2"
    engine.dispose()


def test_a_host_that_has_a_table_of_the_name_in_its_metadata():
    """Records without a prefix, in a metadata that has `collections`, are refused."""

    class Base(DeclarativeBase):
        pass

    class Own(Base):
        __tablename__ = "collections"
        id: Mapped[int] = mapped_column(primary_key=True)

    with pytest.raises(InvalidRequestError, match="collections"):
        make_records(Base)
    assert set(Base.metadata.tables) == {"collections"}
    configure_mappers()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"prefix": "a_b_"}, {"prefix": "a__b_"}),
        ({"prefix": "docsone_"}, {"prefix": "docsOne_"}),
        ({"schema": "a", "prefix": "b_"}, {"schema": "a_b"}),
    ],
    ids=str,
)
def test_different_tables_have_different_classes(one: dict[str, Any], other: dict[str, Any]):
    """Sets whose names differ a little are made without a warning of SQLAlchemy's."""
    base = new_base()
    make_records(base, **one)
    make_records(base, **other)

    assert len(base.metadata.tables) == 5
    assert len({mapper.class_.__name__ for mapper in base.registry.mappers}) == len(
        base.registry.mappers
    )


# Tables that are missing, or somebody else's


USES: dict[str, Callable[[Collection[Any]], Any]] = {
    "count": lambda docs: docs.count(),
    "embed": lambda docs: docs.embed("a", "text"),
    "store_vectors": lambda docs: docs.store_vectors([("a", [1.0])]),
    "plan": lambda docs: docs.plan([("a", "text")]),
    "similar": lambda docs: docs.similar("text"),
    "status": lambda docs: docs.status(),
    "get": lambda docs: docs.get("a"),
    "ids": lambda docs: docs.ids(),
}


@pytest.mark.parametrize("way", ["engine", "session"])
def test_missing_tables(way: str, database: Engine, subtests: pytest.Subtests):
    """The error names both tables and how they come into being; `migrate` would not help."""
    records = make_records(new_base(), prefix="absent_")
    for name, use in USES.items():
        with subtests.test(name):
            with Session(database) as session:
                db = database if way == "engine" else session
                docs = Collection("docs", db, model=DeterministicModel(), records=records)
                with pytest.raises(SchemaError) as caught:
                    use(docs)
            message = str(caught.value)
            assert "absent_collections" in message
            assert "absent_embeddings" in message
            assert "create_all" in message
            assert "embeddings.migrate" not in message
            assert caught.value.__cause__ is None
    assert Collection.names(database, records=records) == []
    assert not Collection.exists(database, "docs", records=records)


LACKING = {
    "collections": (
        "CREATE TABLE search_collections (id INTEGER PRIMARY KEY, title TEXT)",
        "CREATE TABLE search_embeddings (collection_id INTEGER, id TEXT, embedding {vector}, "
        "content TEXT, content_blob {bytes}, content_hash {bytes}, metadata {json}, "
        "updated INTEGER, PRIMARY KEY (collection_id, id))",
    ),
    "embeddings": (
        "CREATE TABLE search_collections (id INTEGER PRIMARY KEY, name TEXT UNIQUE, model TEXT)",
        "CREATE TABLE search_embeddings (id INTEGER PRIMARY KEY, body TEXT)",
    ),
}


@pytest.fixture(params=LACKING)
def foreign(request: pytest.FixtureRequest, database: Engine) -> Iterator[str]:
    """Two tables of somebody else's, of which one has our name and other columns."""
    types = {"vector": "BLOB", "bytes": "BLOB", "json": "TEXT"}
    if database.dialect.name == "postgresql":
        types = {"vector": "VECTOR", "bytes": "BYTEA", "json": "JSONB"}
    with database.begin() as connection:
        for statement in LACKING[request.param]:
            connection.execute(text(statement.format(**types)))
    yield f"search_{request.param}"
    with database.begin() as connection:
        for name in LACKING:
            connection.execute(text(f"DROP TABLE IF EXISTS search_{name}"))


def test_using_a_foreign_table(database: Engine, foreign: str, subtests: pytest.Subtests):
    """The error names the table that is not ours, and what to do; nothing is written into it."""
    records = make_records(new_base(), prefix="search_")
    for name in ("count", "embed", "store_vectors", "get", "similar"):
        with subtests.test(name), Session(database) as session:
            docs = Collection("docs", session, model=DeterministicModel(), records=records)
            with pytest.raises(SchemaError, match=f"{foreign}.*not of this library.*prefix"):
                USES[name](docs)


@pytest.mark.parametrize("column", ["content", "metadata", "content_hash"])
def test_using_tables_that_lack_one_column(column: str, database: Engine):
    """A table that has most of the columns is somebody else's, too; a write says so."""
    records = make_records(new_base(), prefix="search_")
    with database.begin() as connection:
        for table in (records.collections, records.embeddings):
            connection.execute(CreateTable(table))
            for index in table.indexes:
                connection.execute(CreateIndex(index))
        connection.execute(text("DROP INDEX idx_search_embeddings_content_hash"))
        connection.execute(text(f"ALTER TABLE search_embeddings DROP COLUMN {column}"))
    try:
        with Session(database) as session:
            docs = Collection("docs", session, model=DeterministicModel(), records=records)
            with pytest.raises(SchemaError, match="search_embeddings"):
                docs.embed("a", "text", {"n": 1}, store=True)
    finally:
        with database.begin() as connection:
            connection.execute(text("DROP TABLE search_embeddings"))
            connection.execute(text("DROP TABLE search_collections"))


def test_asking_a_foreign_table_for_names(database: Engine, foreign: str):
    """`names` and `exists` are errors, too, or find nothing; no error of the driver's comes."""
    records = make_records(new_base(), prefix="search_")
    for ask in (
        lambda: Collection.names(database, records=records),
        lambda: Collection.exists(database, "docs", records=records),
    ):
        try:
            assert not ask()
        except SchemaError as error:
            assert foreign in str(error)  # noqa: PT017  either way will do


def test_create_all_does_not_share_a_foreign_table(database: Engine, foreign: str):
    """create_all, which would skip it silently, refuses, and creates nothing of the host's."""
    base = new_base()
    make_records(base, prefix="search_")
    before = everything_in(database)

    with pytest.raises(SchemaError, match=f"{foreign}.*Nothing was changed"):
        base.metadata.create_all(database)

    assert everything_in(database) == before


def test_create_all_of_a_table_alone_does_not_care(database: Engine, foreign: str):
    """What was not asked for is not checked: a host creates one of its other tables."""
    base = new_base()
    make_records(base, prefix="search_")
    article = base.metadata.tables["host_articles"]
    try:
        base.metadata.create_all(database, tables=[article])
        assert inspect(database).has_table("host_articles")
    finally:
        article.drop(database, checkfirst=True)


def test_create_all_goes_on_where_it_was_interrupted(database: Engine):
    """One of the two tables, just as it is made here, is not somebody else's."""
    base = new_base()
    records = make_records(base, prefix="search_")
    records.collections.create(database)
    try:
        base.metadata.create_all(database)
        assert open_docs(database, records).count() == 3
    finally:
        base.metadata.drop_all(database)


def test_a_hosts_table_with_the_name_of_the_log(engine: Engine):
    """On SQLite it is not taken for the change log, and never dropped."""
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE search_embeddings_log (message TEXT)"))
        connection.execute(text("INSERT INTO search_embeddings_log VALUES ('precious')"))
    base = new_base()
    make_records(base, prefix="search_")

    with pytest.raises(SchemaError, match="search_embeddings_log"):
        base.metadata.create_all(engine)
    base.metadata.drop_all(engine)

    assert rows_of(engine, "SELECT * FROM search_embeddings_log") == [("precious",)]


# Creating and dropping


@in_each_layout
def test_drop_all_leaves_nothing_behind(layout: dict[str, Any], database: Engine, tenant: str):
    """Tables, indexes, triggers and log go; what else is there stays; both can be repeated."""
    base = new_base()
    records = make_records(base, **layout)
    before = everything_in(database)
    for _ in range(2):
        base.metadata.create_all(database)
        base.metadata.create_all(database)
        open_docs(database, records)
        if database.dialect.name == "postgresql":
            open_docs(database, records).create_index()
        base.metadata.drop_all(database)
        base.metadata.drop_all(database)

        assert everything_in(database) == before
        if database.dialect.name == "sqlite":
            assert rows_of(database, "SELECT * FROM tenant.sqlite_master") == []


def test_drop_all_of_tables_that_a_migration_made(tmp_path: Path):
    """Tables of the documented names that were never installed can be dropped."""
    engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    base = new_base()
    records = make_records(base)
    with engine.begin() as connection:
        for table in (records.collections, records.embeddings):
            connection.execute(CreateTable(table))

    base.metadata.drop_all(engine)

    assert everything_in(engine) == []
    engine.dispose()


def test_creating_the_two_tables_one_by_one(engine: Engine):
    """`Table.create` installs the log as well."""
    records = make_records(new_base(), prefix="search_")
    records.collections.create(engine)
    records.embeddings.create(engine)
    docs = open_docs(engine, records)

    for _ in range(3):
        docs.similar("a hound")
    assert docs.status().strategy == "matrix"


def test_a_migration_of_the_hosts_own_installs_the_log(engine: Engine):
    """Tables that others made are searched by reading, and from memory once it is installed."""
    records = make_records(new_base(), prefix="search_")
    with engine.begin() as connection:
        for table in (records.collections, records.embeddings):
            connection.execute(CreateTable(table))
            for index in table.indexes:
                connection.execute(CreateIndex(index))
    docs = open_docs(engine, records)
    for _ in range(3):
        assert docs.similar("a hound eats", number=1)[0].id == "2"
    assert docs.status().strategy == "scan"
    assert docs.status().reason is not None

    for _ in range(2):
        with engine.begin() as connection:
            embeddings.install(connection, records)
    for _ in range(3):
        assert docs.similar("a hound eats", number=1)[0].id == "2"
    assert docs.status().strategy == "matrix"


def test_install_is_undone_with_the_callers_transaction(engine: Engine):
    """A rollback takes the log and the triggers back."""
    records = make_records(new_base(), prefix="search_")
    with engine.begin() as connection:
        for table in (records.collections, records.embeddings):
            connection.execute(CreateTable(table))
    before = everything_in(engine)
    with engine.connect() as connection:
        embeddings.install(connection, records)
        assert inspect(connection).has_table("search_embeddings_log")
        connection.rollback()

    assert everything_in(engine) == before


def test_install_before_the_tables_says_what_is_missing(engine: Engine):
    """In the wrong place of a migration it is an error that leaves nothing."""
    records = make_records(new_base(), prefix="search_")
    before = everything_in(engine)

    with pytest.raises(Exception, match="search_embeddings"), engine.begin() as connection:
        embeddings.install(connection, records)

    assert everything_in(engine) == before


def test_following_before_install_says_what_is_missing(database: Engine):
    """Where a migration of the host's own has made the two tables alone."""
    base = new_base()
    records = make_records(base, prefix="search_")

    class Note(base):  # type: ignore[misc,valid-type]
        __tablename__ = "host_notes"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]

    base.metadata.create_all(database)
    with database.begin() as connection:
        embeddings.uninstall(connection, records)
    model = DeterministicModel()
    notes = ModelCollection(Note, text=[Note.title], name="notes", records=records, model=model)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: notes.pending(database),
        lambda: notes.refresh(database),
    )
    for call in calls:
        with pytest.raises(SchemaError, match=r"'search_embeddings_pending'.* embeddings\.install"):
            call()
    base.metadata.drop_all(database)


def test_install_on_postgresql(postgresql_engine: Engine):
    """There is no log where there is no matrix, and the rows that are pending are in both."""
    base = new_base()
    records = make_records(base, prefix="search_")
    before = everything_in(postgresql_engine)
    base.metadata.create_all(postgresql_engine)
    made = everything_in(postgresql_engine)
    with postgresql_engine.begin() as connection:
        embeddings.uninstall(connection, records)
        embeddings.uninstall(connection, records)
        assert not inspect(connection).has_table("search_embeddings_pending")
        embeddings.install(connection, records)
        embeddings.install(connection, records)
        assert inspect(connection).has_table("search_embeddings_pending")

    assert everything_in(postgresql_engine) == made
    base.metadata.drop_all(postgresql_engine)
    assert everything_in(postgresql_engine) == before


def test_create_all_makes_the_extension(server: Any):
    """On a new PostgreSQL database the host's create_all is all that it takes."""
    with new_database(server) as url:
        engine = create_engine(url)
        base = new_base()
        records = make_records(base)
        base.metadata.create_all(engine)
        assert open_docs(engine, records).similar("a hound eats", number=1)[0].id == "2"
        assert set(inspect(engine).get_table_names()) == {
            *("collections", "embeddings", "embeddings_pending", "host_articles")
        }
        engine.dispose()

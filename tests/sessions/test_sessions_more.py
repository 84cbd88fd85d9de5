"""Sessions of every making: several binds, other classes, connections with a transaction."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import URL, Engine, create_engine, delete, make_url, select, text, update
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from embeddings import (
    AsyncCollection,
    Base,
    BindingError,
    Collection,
    CollectionRecord,
    EmbeddingRecord,
    ModelCollection,
    cached,
    configure_sqlite,
    make_records,
)
from embeddings.commands import status
from embeddings.sessions.open import url_of
from embeddings.testing import DeterministicModel
from tests.host_tables import Article, HostBase
from tests.reaching import rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


class Routing(Session):
    """A session that chooses its engine by itself, as those of Flask-SQLAlchemy do."""

    def get_bind(self, *given: Any, **options: Any) -> Any:
        return super().get_bind(*given, **options)


@pytest.fixture
def other(tmp_path: Path, migrated: Path) -> Iterator[Engine]:
    """Another database with the tables."""
    engine = create_engine(f"sqlite:///{shutil.copy(migrated, tmp_path / 'other.db')}")
    yield engine
    engine.dispose()


def test_an_object_of_a_url(own_database: str):
    """It is as good as its text, and nothing of it is lost, such as a password."""
    url = make_url(own_database)
    assert not Collection.exists(url, "docs")
    docs = Collection("docs", url, model=DeterministicModel())
    docs.embed("a", "a hound")
    assert Collection.names(url) == ["docs"]
    assert status(url).is_good
    used = docs.reference.sessions.bind(docs.reference.records)
    assert used.engine.url.password == url.password
    docs.close()

    async def awaited() -> list[str]:
        async with AsyncCollection("docs", url, model=DeterministicModel()) as docs:
            return await docs.ids()

    assert asyncio.run(awaited()) == ["a"]
    secret = URL.create("postgresql", "me", "s%@ c/et", "localhost", database="app")
    assert url_of(secret).password == secret.password
    with pytest.raises(TypeError, match="a session, a connection or an engine, not URL"):
        ModelCollection(Article, text=[Article.title], name="a").pending(url)
    with pytest.raises(ValueError, match="create_engine"):
        cached(DeterministicModel(), url)  # type: ignore[arg-type]


# Sessionmakers with several binds

BINDS: dict[str, Callable[[Engine, Engine], dict[str, Any]]] = {
    "base": lambda here, there: {"binds": {HostBase: here, Base: there}},
    "classes": lambda here, there: {
        "bind": here,
        "binds": {EmbeddingRecord: there, CollectionRecord: there},
    },
    "tables": lambda here, there: {
        "bind": here,
        "binds": {EmbeddingRecord.__table__: there, CollectionRecord.__table__: there},
    },
}


@pytest.mark.parametrize("binds", BINDS.values(), ids=BINDS)
def test_a_sessionmaker_with_several_binds(binds: Any, engine: Engine, other: Engine):
    """Of its engines the one is used that has our records."""
    docs = Collection("docs", sessionmaker(**binds(engine, other)), model=DeterministicModel())
    docs.embed_multi([("a", "one hound"), ("b", "two cats")], batch_size=1)
    docs.set_metadata("a", {"n": 1})
    for _ in range(3):
        assert [entry.id for entry in docs.similar("one hound", number=1)] == ["a"]

    assert (Collection.names(engine), Collection.names(other)) == ([], ["docs"])
    assert Collection("docs", other).ids() == ["a", "b"]


def test_a_sessionmaker_with_binds_for_two_sets(engine: Engine, other: Engine):
    """Each set of records has an engine of its own."""

    class OwnBase(DeclarativeBase):
        pass

    records = make_records(OwnBase, prefix="search_")
    OwnBase.metadata.create_all(engine)
    own: dict[Any, Engine] = {records.collection: engine, records.embedding: engine}
    sessions = sessionmaker(binds=own | {Base: other})
    Collection("theirs", sessions, model=DeterministicModel(), records=records).embed("a", "text")
    Collection("ours", sessions, model=DeterministicModel()).embed("b", "text")

    assert Collection.names(engine, records=records) == ["theirs"]
    assert (Collection.names(engine), Collection.names(other)) == ([], ["ours"])
    assert Collection.names(sessions, records=records) == ["theirs"]
    assert Collection.names(sessions) == ["ours"]


def test_a_sessionmaker_without_a_bind_for_our_records(engine: Engine):
    """It is refused, with what to pass instead."""
    with pytest.raises(BindingError, match="pass a session"):
        Collection("docs", sessionmaker(binds={HostBase: engine}), model=DeterministicModel())


def test_a_sessionmaker_bound_to_a_connection(engine: Engine):
    """Its transaction is somebody's: it is refused, with what to pass instead."""
    with engine.connect() as connection, pytest.raises(BindingError, match="pass a session"):
        Collection("docs", sessionmaker(connection), model=DeterministicModel())


@pytest.mark.parametrize("name", ["open", "names", "exists"])
def test_a_sessionmaker_whose_sessions_choose_their_engine(name: str, engine: Engine):
    """Its transactions cannot be ours: it is refused with a message that says what to pass."""
    sessions = sessionmaker(engine, class_=Routing)
    calls: dict[str, Callable[[], Any]] = {
        "open": lambda: Collection("docs", sessions, model=DeterministicModel()),
        "names": lambda: Collection.names(sessions),
        "exists": lambda: Collection.exists(sessions, "docs"),
    }
    with pytest.raises(BindingError, match=r"choose their engine.*pass a session"):
        calls[name]()


def test_what_the_message_says_works(engine: Engine):
    """A session of such a class is as good as any."""
    with Routing(engine) as session:
        docs = Collection("docs", session, model=DeterministicModel())
        docs.embed("a", "one hound")
        session.commit()
    assert Collection("docs", engine).ids() == ["a"]


def test_an_async_sessionmaker_with_several_binds(engine: Engine, other: Engine):
    """With asyncio, too, the engine is used that has our records, or none is."""

    async def main() -> None:
        here, there = (
            create_async_engine(one.url.set(drivername="sqlite+aiosqlite"))
            for one in (engine, other)
        )
        sessions = async_sessionmaker(here, binds={Base: there})
        async with sessions() as session:
            docs = AsyncCollection("docs", session, model=DeterministicModel())
            await docs.embed("a", "one hound")
            await session.commit()
        try:
            on_engine = AsyncCollection("docs", sessions, model=DeterministicModel())
            await on_engine.embed("b", "two cats")
        except BindingError as error:
            assert "session" in str(error)  # noqa: PT017  either way will do
        await here.dispose()
        await there.dispose()

    asyncio.run(main())

    assert (Collection.names(engine), Collection.names(other)) == ([], ["docs"])


def test_an_async_sessionmaker_whose_sessions_choose_their_engine(engine: Engine):
    """It is refused as it is without asyncio."""

    async def main() -> None:
        aio = create_async_engine(engine.url.set(drivername="sqlite+aiosqlite"))
        sessions = async_sessionmaker(aio, sync_session_class=Routing)
        with pytest.raises(BindingError, match="choose their engine"):
            AsyncCollection("docs", sessions, model=DeterministicModel())
        await aio.dispose()

    asyncio.run(main())


@pytest.mark.parametrize("bound", ["the records", "the records, and another engine for the rest"])
def test_a_session_bound_by_records_in_the_hosts_base(bound: str, engine: Engine, other: Engine):
    """They do not inherit from the base, and have binds of their own."""

    class OwnBase(DeclarativeBase):
        pass

    records = make_records(OwnBase, prefix="search_")
    OwnBase.metadata.create_all(engine)
    bind = None if bound == "the records" else other
    binds: Any = {records.collection: engine, records.embedding: engine}
    with Session(bind, binds=binds) as session:
        docs = Collection("docs", session, model=DeterministicModel(), records=records)
        docs.embed("a", "one hound")
        session.commit()

    assert Collection.names(engine, records=records) == ["docs"]


# A session on a connection in a transaction

MODES = ("conditional_savepoint", "rollback_only", "control_fully", "create_savepoint")


@pytest.mark.parametrize("nested", [False, True], ids=["", "in a savepoint"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
def test_a_session_on_a_connection(end: str, mode: Any, nested: bool, engine: Engine):
    """However the session joins the transaction, ours and the host's rows have the same fate."""
    configure_sqlite(engine)
    HostBase.metadata.create_all(engine)
    with engine.connect() as connection:
        outer = connection.begin()
        connection.execute(text("INSERT INTO articles VALUES (1, 'before')"))
        Collection("docs", connection, model=DeterministicModel()).embed("1", "before")
        if nested:
            connection.begin_nested()
        session = Session(connection, join_transaction_mode=mode)
        docs = Collection("docs", session, model=DeterministicModel())
        with session.begin_nested():
            docs.embed("2", "in a savepoint")
            session.add(Article(id=2, title="in a savepoint"))
        docs.embed("3", "in the session")
        session.add(Article(id=3, title="in the session"))
        session.flush()
        assert docs.ids() == ["1", "2", "3"]
        assert session.in_transaction()
        getattr(session, end)()
        session.close()

        within = [str(id) for (id,) in connection.execute(text("SELECT id FROM articles"))]
        ids = connection.scalars(select(EmbeddingRecord.id).order_by(EmbeddingRecord.id)).all()
        assert ids == within
        if outer.is_active:
            outer.commit()
        else:
            connection.commit()

    rows = [str(id) for (id,) in rows_of(engine, "SELECT id FROM articles ORDER BY 1")]
    assert rows == [id for (id,) in rows_of(engine, "SELECT id FROM embeddings ORDER BY 1")]
    if mode == "create_savepoint":
        assert rows == (["1", "2", "3"] if end == "commit" else ["1"])


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_ended_by_the_collection(mode: Any, engine: Engine):
    """Between the caller's own calls the connection's transaction stays as it is."""
    configure_sqlite(engine)
    with engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode=mode) as session:
            docs = Collection("docs", session, model=DeterministicModel())
            docs.embed_multi([("a", "one"), ("b", "two")], batch_size=1)
            plan = docs.plan([("c", "three")])
            plan.embed()
            docs.apply(plan)
            docs.similar("one")
            docs.rename("other")
            assert docs.delete_items(["a"]) == 1
            assert outer.is_active
            assert connection.in_transaction()
            assert rows_of(connection, "SELECT id FROM embeddings ORDER BY 1") == [("b",), ("c",)]
            docs.delete()
            assert outer.is_active
        if outer.is_active:
            outer.rollback()
    assert rows_of(engine, "SELECT * FROM collections") == []


# The ORM's bulk statements beside the repository


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Engine:
    """Each of the two databases."""
    name = "engine" if request.param == "sqlite" else "postgresql_engine"
    engine: Engine = request.getfixturevalue(name)
    return engine


@pytest.fixture
def docs(database: Engine, model: DeterministicModel) -> Iterator[Collection[str]]:
    """A collection on a session with three items, in memory already where there is a matrix."""
    with Session(database) as session:
        docs = Collection("docs", session, model=model)
        docs.embed_multi([(id, f"text {id}") for id in "abc"], store=True)
        session.commit()
        for _ in range(3):
            docs.similar("text")
        yield docs


def session_of(docs: Collection[str]) -> Session:
    record = docs.get("c")
    assert record is not None
    session = Session.object_session(record)
    assert session is not None
    return session


def found(docs: Collection[str], text: str = "text") -> list[str]:
    return sorted(entry.id for entry in docs.similar(text))


@pytest.mark.parametrize("synchronize", ["auto", "evaluate", "fetch", False])
def test_a_bulk_update(synchronize: Any, docs: Collection[str]):
    """What an ORM UPDATE changes is searched, loaded and embedded as it is then."""
    session = session_of(docs)
    record = docs.get("a")
    assert record is not None
    vector = DeterministicModel().embed("something else")
    statement = update(EmbeddingRecord).where(EmbeddingRecord.id == "a")
    session.execute(
        statement.values(embedding=vector, content="something else", content_hash=None),
        execution_options={"synchronize_session": synchronize},
    )

    assert docs.similar("something else", number=1)[0].id == "a"
    docs.embed("a", "again", store=True)
    assert record.content == "again"
    session.rollback()
    assert docs.similar("something else", number=1)[0].score < 0.9
    assert docs.similar("text a", number=1)[0].id == "a"


@pytest.mark.parametrize("synchronize", ["auto", "evaluate", "fetch", False])
def test_a_bulk_delete(synchronize: Any, docs: Collection[str], model: DeterministicModel):
    """What an ORM DELETE removes is not found, and embedded again when it comes back."""
    session = session_of(docs)
    model.calls.clear()
    session.execute(
        delete(EmbeddingRecord).where(EmbeddingRecord.id.in_(["a", "b"])),
        execution_options={"synchronize_session": synchronize},
    )
    assert (docs.ids(), found(docs)) == (["c"], ["c"])

    docs.embed("a", "text a", store=True)
    assert model.calls == [["text"], ["text a"]]
    record = docs.get("a")
    assert record is not None
    assert (record.content, found(docs)) == ("text a", ["a", "c"])
    session.rollback()
    assert (docs.ids(), found(docs)) == (["a", "b", "c"], ["a", "b", "c"])


def test_bulk_inserts(docs: Collection[str]):
    """Rows that the ORM inserts in bulk are items, and an upsert of theirs goes on."""
    session = session_of(docs)
    rows = [
        {"collection_id": docs.id, "id": id, "embedding": DeterministicModel().embed(id)}
        for id in ("x", "y")
    ]
    session.execute(EmbeddingRecord.__table__.insert(), rows)  # type: ignore[attr-defined]
    assert found(docs, "x") == ["a", "b", "c", "x", "y"]
    session.bulk_save_objects(
        [EmbeddingRecord(id="z", embedding=[1.0] * 256, collection_id=docs.id)]
    )
    session.merge(EmbeddingRecord(id="x", embedding=[2.0] * 256, collection_id=docs.id))
    docs.embed("z", "text z", store=True)
    docs.set_metadata("y", {"n": 1})

    assert docs.ids() == ["a", "b", "c", "x", "y", "z"]
    assert docs.similar("text z", number=1)[0].id == "z"
    assert docs.similar_by_vector([1.0] * 256, number=1)[0].id == "x"
    session.rollback()
    assert docs.ids() == ["a", "b", "c"]


def test_a_bulk_update_of_the_collection(docs: Collection[str]):
    """Another name by an ORM UPDATE is another collection."""
    session = session_of(docs)
    session.execute(update(CollectionRecord).values(name="renamed"))

    assert Collection.names(session) == ["renamed"]
    assert docs.count() == 0
    assert Collection("renamed", session, model=DeterministicModel()).count() == 3
    session.rollback()
    assert docs.count() == 3


# Engines, while a model runs


class Looking(DeterministicModel):
    """A model that looks at the pool from inside its call."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
        self.checked_out: list[int] = []

    def embed_batch(self, items: Sequence[Any]) -> Any:
        pool: Any = self.engine.pool
        self.checked_out.append(pool.checkedout())
        return super().embed_batch(items)


ITEMS = [(f"{i}", f"item {i}") for i in range(4)]
CALLS: dict[str, tuple[int, Callable[[Collection[str]], Any]]] = {
    "embed": (1, lambda docs: docs.embed("x", "new")),
    "embed with force": (1, lambda docs: docs.embed("a", "text a", force=True)),
    "embed_multi": (2, lambda docs: docs.embed_multi(ITEMS, batch_size=2)),
    "embed_multi_with_metadata": (
        2,
        lambda docs: docs.embed_multi_with_metadata(
            [(id, content, {"n": 1}) for id, content in ITEMS], batch_size=2
        ),
    ),
    "similar": (1, lambda docs: docs.similar("text", where={"n": 1})),
    "similar_multi": (1, lambda docs: docs.similar_multi(["text", "new"])),
    "matches": (1, lambda docs: docs.matches("text")),
    "prepare": (1, lambda docs: docs.embed("x", docs.prepare("new"))),
    "embed_query": (1, lambda docs: docs.similar_by_vector(docs.embed_query("new"))),
}


@pytest.mark.parametrize("way", ["engine", "sessionmaker", "several binds"])
@pytest.mark.parametrize(("calls", "operation"), CALLS.values(), ids=CALLS)
def test_no_connection_is_held_while_the_model_runs(
    calls: int, operation: Any, way: str, docs: Collection[str], database: Engine
):
    """From inside each call of the model no connection of the pool is in use but the test's."""
    session_of(docs).rollback()
    model = Looking(database)
    kinds: dict[str, Any] = {
        "engine": database,
        "sessionmaker": sessionmaker(database),
        "several binds": sessionmaker(binds={Base: database}),
    }
    before: int = database.pool.checkedout()  # type: ignore[attr-defined]

    operation(Collection("docs", kinds[way], model=model))

    assert model.checked_out == [before] * calls
    assert database.pool.checkedout() == before  # type: ignore[attr-defined]

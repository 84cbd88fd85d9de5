"""Hosts on PostgreSQL: nothing goes around their session, its transaction, or its rights."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import numpy as np
import psycopg
import psycopg.types.json
import pytest
from sqlalchemy import (
    URL,
    BigInteger,
    Connection,
    Engine,
    Select,
    String,
    Text,
    bindparam,
    column,
    create_engine,
    event,
    func,
    select,
    text,
)
from sqlalchemy.exc import (
    IntegrityError,
    InternalError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import embeddings
from embeddings import (
    Chunks,
    ChunksMismatchError,
    Collection,
    CollectionRecord,
    DoesNotExist,
    EmbeddingRecord,
    InvalidVectorError,
    SchemaError,
)
from embeddings.tables.indexing import EmbeddingIndex, drop, make
from embeddings.testing import DeterministicModel

DRIVERS = ("psycopg", "psycopg2")
TEXTS = {
    "1": "a hound sleeps",
    "2": "a hound eats",
    "3": "two cats sleep",
    "4": "the stock market fell",
}

Search = Callable[[Collection[Any]], Any]


class HostBase(DeclarativeBase):
    """The declarative base of a host."""


class Article(HostBase):
    """A table of a host's, with integers as keys."""

    __tablename__ = "articles"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    is_public: Mapped[bool] = mapped_column(default=True)


class Event(HostBase):
    """One with integers beyond 32 bits."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)


class Document(HostBase):
    """One with UUIDs."""

    __tablename__ = "documents"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)


class Page(HostBase):
    """One with strings."""

    __tablename__ = "pages"
    id: Mapped[str] = mapped_column(String(50), primary_key=True)


class Entry(HostBase):
    """One with strings of a collation of their own."""

    __tablename__ = "entries"
    id: Mapped[str] = mapped_column(String(50, collation="pg_c_utf8"), primary_key=True)


@pytest.fixture(scope="module")
def _host_tables(postgresql_url: URL) -> Iterator[None]:
    engine = create_engine(postgresql_url)
    HostBase.metadata.create_all(engine)
    yield
    HostBase.metadata.drop_all(engine)
    engine.dispose()


@pytest.fixture
def host(_host_tables: None, postgresql_engine: Engine) -> Engine:
    """The host's engine, all tables empty."""
    names = ", ".join(HostBase.metadata.tables)
    with postgresql_engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {names}"))
    return postgresql_engine


@pytest.fixture
def session(host: Engine) -> Iterator[Session]:
    """A host's session."""
    with Session(host) as session:
        yield session


@pytest.fixture
def docs(session: Session, model: DeterministicModel) -> Collection[int]:
    """A collection on the host's session, with articles and items that are committed."""
    docs = Collection("docs", session, model=model, key=Article.id)
    session.add_all([Article(id=int(id), title=title) for id, title in TEXTS.items()])
    docs.embed_multi_with_metadata(
        [(int(id), title, {"n": int(id), "odd": id in "13"}) for id, title in TEXTS.items()],
        store=True,
    )
    session.commit()
    model.calls.clear()
    return docs


@contextmanager
def connected(url: URL | str, **options: Any) -> Iterator[Engine]:
    """Yield an engine that is disposed of at the end."""
    engine = create_engine(url, **options)
    try:
        yield engine
    finally:
        engine.dispose()


def committed(host: Engine) -> dict[str, str | None]:
    """Return the contents by id, as another transaction sees them."""
    with Session(host) as other:
        columns = select(EmbeddingRecord.id, EmbeddingRecord.content)
        return {id: content for id, content in other.execute(columns)}  # noqa: C416


@contextmanager
def single(host: Engine, **options: Any) -> Iterator[Engine]:
    """Yield an engine that has one connection, and fails at once if asked for another."""
    with connected(host.url, pool_size=1, max_overflow=0, pool_timeout=0.1, **options) as engine:
        yield engine


SEARCHES: dict[str, Search] = {
    "similar": lambda docs: [entry.id for entry in docs.similar("a hound sleeps", 2)],
    "similar_by_id": lambda docs: [entry.id for entry in docs.similar_by_id(1, 1)],
    "similar_by_vector": lambda docs: [
        entry.id for entry in docs.similar_by_vector(docs.embed_query("a hound sleeps"), 2)
    ],
    "where": lambda docs: [entry.id for entry in docs.similar("hound", where={"odd": True})],
    "prefix": lambda docs: [entry.id for entry in docs.similar("hound", prefix="4")],
    "among": lambda docs: [
        entry.id
        for entry in docs.similar("a hound", among=select(Article.id).where(Article.id > 2))
    ],
    "among keys": lambda docs: [entry.id for entry in docs.similar("a hound", among=[2, 4])],
    "offset": lambda docs: [entry.id for entry in docs.similar("a hound sleeps", 1, offset=1)],
    "min_score": lambda docs: [entry.id for entry in docs.similar("a hound eats", min_score=0.9)],
}
READS: dict[str, Search] = {
    "count": lambda docs: docs.count(),
    "ids": lambda docs: docs.ids(),
    "ids by prefix": lambda docs: docs.ids(prefix="2"),
    "get": lambda docs: getattr(docs.get(1), "metadata_", None),
    "in": lambda docs: 1 in docs,
    "iterate": lambda docs: [record.id for record in docs],
    "id": lambda docs: docs.id,
    "model_id": lambda docs: docs.model_id,
}
EVERYTHING = SEARCHES | READS
FOUND = {
    "similar": [1, 2],
    "similar_by_id": [2],
    "similar_by_vector": [1, 2],
    "where": [1, 3],
    "prefix": [4],
    "among": [3, 4],
    "among keys": [2, 4],
    "offset": [2],
    "min_score": [2],
    "count": 4,
    "ids": [1, 2, 3, 4],
    "ids by prefix": [2],
    "get": {"n": 1, "odd": True},
    "in": True,
    "iterate": ["1", "2", "3", "4"],
    "model_id": "deterministic",
}


# One transaction


def test_the_rows_of_both_are_committed_together(session: Session, docs: Collection[int]):
    """Host rows and vectors become visible to others at one commit."""
    session.add(Article(id=5, title="new"))
    docs.embed(5, "new", store=True)
    assert "5" not in committed(session.get_bind().engine)
    session.commit()

    assert committed(session.get_bind().engine)["5"] == "new"
    assert session.get(Article, 5) is not None


def test_the_rows_of_both_are_rolled_back_together(
    host: Engine, session: Session, docs: Collection[int]
):
    """A rollback takes back both, and the collection goes on with what was there."""
    session.add(Article(id=5, title="new"))
    docs.embed(5, "new", store=True)
    docs.delete_items([1])
    docs.set_metadata(2, {"changed": True})
    session.rollback()

    assert committed(host) == TEXTS
    assert docs.count() == 4
    record = docs.get(2)
    assert record is not None
    assert record.metadata_ == {"n": 2, "odd": False}


def test_a_savepoint_takes_back_what_was_written_in_it(
    host: Engine, session: Session, docs: Collection[int]
):
    """What was written before and after a savepoint stays, and nothing else."""
    docs.embed(5, "before", store=True)
    with session.begin_nested() as savepoint:
        session.add(Article(id=6, title="within"))
        docs.embed(6, "within", store=True)
        savepoint.rollback()
    docs.embed(7, "after", store=True)
    session.commit()

    assert committed(host) == TEXTS | {"5": "before", "7": "after"}
    assert session.get(Article, 6) is None


def test_a_first_write_that_is_rolled_back_leaves_nothing(host: Engine, model: DeterministicModel):
    """Neither the collection nor its vectors are there, and the next write creates it again."""
    with Session(host) as session:
        docs = Collection("docs", session, model=model)
        docs.embed("a", "one hound")
        session.rollback()
        assert docs.count() == 0
        assert Collection.names(session) == []
        docs.embed("b", "two hounds", store=True)
        session.commit()

    assert committed(host) == {"b": "two hounds"}


def test_an_error_of_the_hosts_rolls_both_back(
    host: Engine, session: Session, docs: Collection[int]
):
    """If the host's own rows cannot be written, the vectors are not there either."""
    docs.embed(5, "new")
    session.add(Article(id=1, title="twice"))
    with pytest.raises(IntegrityError):
        session.commit()
    session.rollback()

    assert committed(host) == TEXTS
    assert SEARCHES["similar"](docs) == [1, 2]


def test_an_error_of_ours_leaves_the_transaction_usable(session: Session, docs: Collection[int]):
    """After a refusal the host's statements still work, which a failed one would prevent."""
    docs.embed(5, "new")
    for refused in (
        lambda: docs.similar_by_vector([1.0, 2.0]),
        lambda: docs.store_vectors([(6, [1.0, 2.0])]),
        lambda: docs.similar_by_id(99),
        lambda: docs.set_metadata(99, {}),
    ):
        with pytest.raises((DoesNotExist, InvalidVectorError)):
            refused()
    session.commit()

    assert 5 in docs


@pytest.mark.parametrize("autoflush", [True, False])
def test_pending_rows_are_seen(host: Engine, docs: Collection[int], autoflush: bool):
    """A search sees what is pending where the session would, and a write always flushes."""
    with Session(host, autoflush=autoflush) as session:
        docs = Collection("docs", session, model=DeterministicModel(), key=Article.id)
        collection = session.scalars(select(CollectionRecord)).one()
        vector = docs.embed_query("a hound dreams")
        session.add(EmbeddingRecord(id="9", embedding=vector, collection=collection))
        session.add(Article(id=9, title="pending"))
        among = select(Article.id).where(Article.title == "pending")

        assert [entry.id for entry in docs.similar("a hound dreams", among=among)] == (
            [9] if autoflush else []
        )
        docs.embed(10, "more")
        assert [entry.id for entry in docs.similar("a hound dreams", 1)] == [9]


def test_loaded_records_are_not_stale(session: Session, docs: Collection[int]):
    """A record that the session has loaded shows what was written past it, and not after it."""
    record = docs.get(1)
    assert record is not None
    before = record.embedding.tolist()

    docs.embed(1, "now something else", {"new": 1}, store=True)
    assert record.content == "now something else"
    assert record.metadata_ == {"new": 1}
    assert record.embedding.tolist() != before

    session.rollback()
    assert record.content == TEXTS["1"]
    assert record.embedding.tolist() == before


def test_a_record_of_the_hosts_own_making(session: Session, docs: Collection[int]):
    """A vector that a host puts into a record is stored to the bit, and searched."""
    collection = session.scalars(select(CollectionRecord)).one()
    vector = np.random.default_rng(1).normal(size=256).astype("f4")
    session.add(EmbeddingRecord(id="9", embedding=vector, collection=collection, metadata_={}))
    session.commit()

    record = docs.get(9)
    assert record is not None
    assert record.embedding.tobytes() == vector.tobytes()
    assert record.metadata_ == {}
    assert docs.similar_by_vector(vector, 1)[0].id == 9


# One connection


def work(docs: Collection[Any], session: Session) -> None:
    docs.embed_multi([(n, f"text {n}") for n in range(10, 13)])
    docs.store_vectors([(13, np.ones(256))])
    docs.set_metadata(10, {"a": 1})
    docs.similar("text")
    docs.similar_by_id(10)
    session.execute(select(docs.matches("text"))).all()
    docs.delete_items([11])
    docs.rename("renamed")
    assert Collection.exists(session, "renamed")
    assert docs.ids() == [10, 12, 13]
    docs.delete()


def test_a_session_needs_no_second_connection(host: Engine):
    """Everything works on a pool of one connection, which the session holds."""
    with single(host) as engine, Session(engine) as session:
        work(Collection("docs", session, model=DeterministicModel(), key=int), session)
        assert Collection.names(session) == []


def test_a_connection_needs_no_second_one(host: Engine):
    """The same holds for a connection."""
    with single(host) as engine, engine.connect() as connection, Session(connection) as session:
        docs = Collection("docs", connection, model=DeterministicModel(), key=int)
        work(docs, session)
        assert Collection.names(connection) == []


@pytest.mark.parametrize("make", [lambda engine: engine, sessionmaker])
def test_an_engine_needs_one_connection_and_holds_none_meanwhile(
    host: Engine, make: Callable[[Engine], Any]
):
    """While a model runs no connection is checked out, for writes and for searches."""
    with single(host) as engine:
        seen: list[int] = []

        class Watching(DeterministicModel):
            def embed_batch(self, items: Sequence[Any]) -> list[Any]:
                seen.append(engine.pool.checkedout())  # type: ignore[attr-defined]
                return super().embed_batch(items)

        docs = Collection("docs", make(engine), model=Watching(), key=int)
        docs.embed_multi([(n, f"text {n}") for n in range(5)], batch_size=2)
        docs.embed(1, "again")
        docs.similar("text")
        docs.matches("text")
        docs.prepare("text")

        assert seen == [0] * 7
        assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_a_session_survives_the_model(host: Engine):
    """A collection on a session leaves the session's transaction open while the model runs."""
    with Session(host) as session:
        inside: list[bool] = []

        class Watching(DeterministicModel):
            def embed_batch(self, items: Sequence[Any]) -> list[Any]:
                inside.append(session.in_transaction())
                return super().embed_batch(items)

        Collection("docs", session, model=Watching()).embed("a", "one")
        assert inside == [True]


def test_each_batch_on_an_engine_is_durable(host: Engine):
    """If the model fails in a later batch, the earlier ones stay."""

    class Failing(DeterministicModel):
        def embed_batch(self, items: Sequence[Any]) -> list[Any]:
            if "bad" in items:
                raise ValueError("no")
            return super().embed_batch(items)

    docs = Collection("docs", host, model=Failing())
    with pytest.raises(ValueError, match="no"):
        docs.embed_multi([("a", "one"), ("b", "two"), ("c", "bad")], store=True, batch_size=2)

    assert committed(host) == {"a": "one", "b": "two"}


def test_an_engine_that_commits_every_statement(host: Engine):
    """There a write is a transaction nonetheless."""
    autocommit = host.execution_options(isolation_level="AUTOCOMMIT")
    docs = Collection("docs", autocommit, model=DeterministicModel())
    docs.embed_multi([("a", "one hound"), ("b", "two cats")], store=True)
    with pytest.raises(InvalidVectorError):
        docs.store_vectors([("c", np.ones(256)), ("d", np.ones(3))])

    assert committed(host) == {"a": "one hound", "b": "two cats"}
    assert [entry.id for entry in docs.similar("hound", 1)] == ["a"]


# Rights and limits


@pytest.fixture
def tenant(docs: Collection[int], host: Engine, worker_id: str) -> Iterator[Engine]:
    """An engine of a role that the policies let see only what is its own.

    It sees the collection docs with the items 1 and 3, and may write the items 1 to 6.
    """
    Collection("secret", host, model=DeterministicModel()).embed("a", "a hound sleeps")
    role = f"tenant_{worker_id}_{uuid.uuid4().hex}"
    tables = "collections", "embeddings"
    with host.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN")
        connection.exec_driver_sql(f"GRANT ALL ON collections, embeddings, articles TO {role}")
        connection.exec_driver_sql(f"GRANT ALL ON SEQUENCE collections_id_seq TO {role}")
        for table in tables:
            connection.exec_driver_sql(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        connection.exec_driver_sql(
            f"CREATE POLICY mine ON collections TO {role} USING (name = 'docs')"
        )
        connection.exec_driver_sql(
            f"CREATE POLICY mine ON embeddings TO {role} USING (id IN ('1', '3', '5')) "
            "WITH CHECK (id IN ('1', '3', '5'))"
        )
    with connected(host.url.set(username=role)) as engine:
        yield engine
    with host.begin() as connection:
        for table in tables:
            connection.exec_driver_sql(f"DROP POLICY mine ON {table}")
            connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
        connection.exec_driver_sql(f"DROP OWNED BY {role}")
        connection.exec_driver_sql(f"DROP ROLE {role}")


def test_row_level_security_limits_every_search(tenant: Engine):
    """A role finds, counts and lists what its policies let it see."""
    with Session(tenant) as session:
        docs = Collection("docs", session, model=DeterministicModel(), key=Article.id)

        assert [entry.id for entry in docs.similar("a hound sleeps")] == [1, 3]
        assert [entry.id for entry in docs.similar_by_id(1)] == [3]
        assert [entry.id for entry in docs.similar("hound", among=[1, 2])] == [1]
        assert [entry.id for entry in docs.similar("hound", prefix="2")] == []
        found = docs.matches("a hound sleeps")
        assert set(session.scalars(select(found.c.id))) == {1, 3}
        assert docs.count() == 2
        assert docs.ids() == [1, 3]
        assert docs.get(2) is None
        assert 2 not in docs
        assert [record.id for record in docs] == ["1", "3"]


def test_row_level_security_hides_ids(tenant: Engine):
    """What a role cannot see does not exist."""
    docs = Collection("docs", tenant, model=DeterministicModel(), key=int)
    for hidden in (
        lambda: docs.similar_by_id(2),
        lambda: docs.matches_by_id(2),
        lambda: docs.set_metadata(2, {}),
    ):
        with pytest.raises(DoesNotExist):
            hidden()
    assert docs.delete_items([2]) == 0


def test_row_level_security_hides_collections(tenant: Engine):
    """A collection that a role cannot see does not exist for it."""
    assert Collection.names(tenant) == ["docs"]
    assert not Collection.exists(tenant, "secret")
    assert Collection("secret", tenant, model=DeterministicModel()).similar("hound") == []


def test_row_level_security_lets_write_what_is_ones_own(tenant: Engine, host: Engine):
    """A role writes what its policies allow."""
    docs = Collection("docs", tenant, model=DeterministicModel(), key=int)
    docs.embed(1, "another text", store=True)
    docs.embed(5, "a new one", store=True)

    assert docs.ids() == [1, 3, 5]
    assert committed(host)["1"] == "another text"
    assert committed(host)["2"] == TEXTS["2"]


@pytest.mark.parametrize("id", [2, 6], ids=["somebody's", "new"])
def test_row_level_security_refuses_writes(tenant: Engine, host: Engine, id: int):
    """A write against the policy is the database's own error, and changes nothing."""
    before = committed(host)
    docs = Collection("docs", tenant, model=DeterministicModel(), key=int)

    with pytest.raises(ProgrammingError, match="row-level security"):
        docs.embed(id, "mine now", store=True)

    assert committed(host) == before


def test_row_level_security_refuses_collections(tenant: Engine, host: Engine):
    """So is a new collection, or one of a name that is taken unseen."""
    for name in ("secret", "new"):
        docs = Collection(name, tenant, model=DeterministicModel())
        with pytest.raises((ProgrammingError, DoesNotExist)):
            docs.embed("a", "mine now")

    assert Collection.names(host) == ["docs", "secret"]


@pytest.mark.parametrize("way", ["engine", "session"])
def test_reading_from_a_replica(
    host: Engine, docs: Collection[int], way: str, subtests: pytest.Subtests
):
    """Every search and read works where nothing may be written."""
    options = {"connect_args": {"options": "-c default_transaction_read_only=on"}}
    with single(host, **options) as replica, Session(replica) as session:
        bind = replica if way == "engine" else session
        there = Collection("docs", bind, model=DeterministicModel(), key=Article.id)

        for name, read in EVERYTHING.items():
            with subtests.test(name):
                assert read(there) == FOUND.get(name, docs.id)


def test_a_selectable_on_a_replica(host: Engine, docs: Collection[int]):
    """A join of the host's works there, too, and a write is the database's error."""
    options = {"connect_args": {"options": "-c default_transaction_read_only=on"}}
    with single(host, **options) as replica, Session(replica) as session:
        there = Collection("docs", session, model=DeterministicModel(), key=Article.id)
        found = there.matches("a hound sleeps", 2)
        joined = select(Article.title).join(found, found.c.id == Article.id)
        assert set(session.scalars(joined)) == {TEXTS["1"], TEXTS["2"]}

        with pytest.raises(InternalError, match="read-only"):
            there.embed(9, "new")
        session.rollback()
        assert there.count() == 4


@pytest.mark.parametrize("way", ["engine", "session"])
def test_the_hosts_statement_timeout_is_respected(host: Engine, docs: Collection[int], way: str):
    """A search that takes too long ends with the database's error; after it all works again."""
    options = {"connect_args": {"options": "-c statement_timeout=1s"}}
    with single(host, **options) as engine, Session(engine) as session:
        bind = engine if way == "engine" else session
        there = Collection("docs", bind, model=DeterministicModel(), key=int)
        with pytest.raises(OperationalError, match="statement timeout"):
            there.similar("a hound", where=func.pg_sleep(60).cast(Text).is_not(None))
        session.rollback()

        assert SEARCHES["similar"](there) == [1, 2]


@pytest.mark.parametrize("way", ["engine", "session"])
def test_the_hosts_lock_timeout_is_respected(host: Engine, docs: Collection[int], way: str):
    """A write that waits too long ends with the database's error; after it all works again."""
    options = {"connect_args": {"options": "-c lock_timeout=100ms"}}
    with single(host, **options) as engine, Session(engine) as session, Session(host) as other:
        bind = engine if way == "engine" else session
        there = Collection("docs", bind, model=DeterministicModel(), key=int)
        Collection("docs", other, model=DeterministicModel(), key=int).embed(1, "in the way")

        with pytest.raises(OperationalError, match="lock timeout"):
            there.embed(1, "another text")
        session.rollback()
        assert SEARCHES["similar"](there) == [1, 2]
        there.embed(2, "another row is free")


# Joins


KEYS: dict[str, tuple[type[Any], Callable[[int], Any]]] = {
    "Integer": (Article, lambda n: n),
    "BigInteger": (Event, lambda n: 2**40 + n),
    "UUID": (Document, lambda n: uuid.UUID(int=n + 2**100)),
    "String": (Page, lambda n: f"page/{n}"),
    "String of a collation": (Entry, lambda n: f"Éntry {n}"),
}


@pytest.mark.parametrize(("entity", "key"), KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("driver", DRIVERS)
def test_joining_the_hosts_tables_needs_no_cast(
    host: Engine,
    empty_postgresql: Callable[[str], Engine],
    driver: str,
    entity: Any,
    key: Callable[[int], Any],
):
    """Whatever the type of the host's keys, they are joined, returned and chosen among as such."""
    with Session(empty_postgresql(driver)) as session:
        docs = Collection("docs", session, model=DeterministicModel(), key=entity.id)
        keys = [key(int(id)) for id in TEXTS]
        rows = [entity(id=k, title="t") if entity is Article else entity(id=k) for k in keys]
        session.add_all(rows)
        docs.embed_multi(zip(keys, TEXTS.values(), strict=True))

        assert [entry.id for entry in docs.similar("a hound sleeps", 2)] == keys[:2]
        found = docs.matches("a hound sleeps", 2)
        joined = (
            select(entity.id, found.c.id, found.c.score)
            .join(found, found.c.id == entity.id)
            .order_by(found.c.score.desc())
        )
        result = session.execute(joined).all()
        assert [(mine, theirs) for mine, theirs, _ in result] == [(k, k) for k in keys[:2]]
        assert result[0].score == pytest.approx(1, abs=1e-5)
        outer = select(entity.id).where(entity.id.not_in(select(found.c.id))).order_by(entity.id)
        assert session.scalars(outer).all() == keys[2:]

        chosen = select(entity.id).where(entity.id.in_(keys[1:3]))
        assert [entry.id for entry in docs.similar("a hound sleeps", among=chosen)] == keys[1:3]
        assert [entry.id for entry in docs.similar("hound", among=keys[3:])] == keys[3:]
        found = docs.matches_by_id(keys[0], among=chosen)
        assert set(session.scalars(select(found.c.id))) == set(keys[1:3])


def explain(session: Session, statement: Select[Any], *settings: str) -> str:
    """Return the plan of a statement, as PostgreSQL makes it for these very parameters."""
    connection = session.connection()
    compiled = statement.compile(connection, compile_kwargs={"render_postcompile": True})
    processors = compiled._bind_processors
    for setting in settings:
        session.execute(text(f"SET LOCAL {setting}"))
    parameters = {
        name: processor(value) if callable(processor := processors.get(name)) else value
        for name, value in compiled.params.items()
    }
    rows = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {compiled}", parameters)
    plan = rows.scalar_one()
    return json.dumps(plan[0] if isinstance(plan, list) else plan, indent=1)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


@pytest.mark.parametrize(("entity", "key"), KEYS.values(), ids=KEYS)
def test_a_join_is_planned_as_a_whole(
    session: Session, host: Engine, entity: Any, key: Callable[[int], Any]
):
    """One plan holds the search and the join, which the host's primary key can serve."""
    docs = Collection("docs", session, model=DeterministicModel(), key=entity.id)
    keys = [key(n) for n in range(200)]
    rows = [
        {"id": k, "title": "t", "is_public": True} if entity is Article else {"id": k} for k in keys
    ]
    session.execute(entity.__table__.insert(), rows)
    vectors = np.random.default_rng(1).normal(size=(200, 8))
    docs.store_vectors(zip(keys, vectors, strict=True))
    session.execute(text(f"ANALYZE {entity.__tablename__}, embeddings"))

    found = docs.matches_by_vector(vectors[0], 5)
    statement = select(entity.id, found.c.score).join(found, found.c.id == entity.id)
    few_rows = ("enable_seqscan = off", "enable_hashjoin = off", "enable_mergejoin = off")
    plan = json.loads(explain(session, statement, *few_rows))["Plan"]

    indexes = {node["Index Name"] for node in nodes(plan) if "Index Cond" in node}
    relations = {node["Relation Name"] for node in nodes(plan) if "Relation Name" in node}
    assert f"{entity.__tablename__}_pkey" in indexes
    assert relations == {entity.__tablename__, "embeddings"}
    best = session.execute(statement.order_by(found.c.score.desc())).first()
    assert best is not None
    assert best.id == keys[0]


def test_a_selectable_asks_nothing_when_it_is_made(
    session: Session, docs: Collection[int], host: Engine
):
    """The search takes place in the host's statement, which sees what was written since."""
    vector = docs.embed_query("a hound dreams")
    found = docs.matches_by_vector(vector, 1)
    docs.embed(9, "a hound dreams")

    assert session.scalars(select(found.c.id)).all() == [9]


def test_a_selectable_can_be_used_twice_in_one_statement(session: Session, docs: Collection[int]):
    """Two searches, and one of them twice, go into one statement of the host's."""
    hounds, cats = docs.matches("a hound sleeps", 3), docs.matches("two cats sleep", 2)
    both = select(hounds.c.id).join(cats, cats.c.id == hounds.c.id)
    again = hounds.alias()
    twice = select(func.count()).select_from(hounds).join(again, again.c.id == hounds.c.id)

    assert set(session.scalars(both)) <= {1, 2, 3, 4}
    assert session.scalar(twice) == 3


@pytest.mark.parametrize("has_index", [False, True], ids=["exact", "by the index"])
def test_a_search_is_compiled_once(session: Session, docs: Collection[int], has_index: bool):
    """Its text is the same for other words, numbers, keys and collections of the same kind."""
    other = Collection("other", session, model=DeterministicModel(), key=Article.id)
    other.embed_multi((int(id), title[::-1]) for id, title in TEXTS.items() if id != "2")
    for each in (docs, other):
        if has_index:
            each.create_index()
    session.commit()
    cache: dict[Any, Any] = {}
    session.connection(execution_options={"compiled_cache": cache})
    sleeps, cats = (docs.embed_query(text) for text in ("a hound sleeps", "two cats sleep"))

    def found(docs: Collection[int], vector: Any, number: int, least: int, low: float) -> list[int]:
        def among() -> Select[Any]:  # which SQLAlchemy changes when it is compiled
            return select(Article.id).where(Article.id >= least)

        best = docs.matches_by_vector(vector, number, among=among(), min_score=low)
        similar = docs.similar_by_vector(vector, number, among=among(), min_score=low)
        rows = session.execute(select(best.c.id, best.c.score).order_by(best.c.score.desc()))
        ids = [entry.id for entry in similar]
        assert [(id, entry.score) for id, entry in zip(ids, similar, strict=True)] == rows.all()
        return ids

    assert found(docs, sleeps, 2, 1, -1) == [1, 2]
    compiled = len(cache)
    assert found(docs, cats, 1, 1, -1) == [3]
    assert found(docs, sleeps, 1, 2, -1) == [2]
    assert found(docs, sleeps, 4, 1, 0.99) == [1]
    assert set(found(other, sleeps, 3, 1, -1)) == {1, 3, 4}
    assert len(cache) == compiled


@pytest.mark.parametrize("has_index", [False, True], ids=["exact", "by the index"])
def test_parameters_of_the_hosts_in_a_selectable(
    session: Session, docs: Collection[int], has_index: bool
):
    """They have the values of each execution, and those of a copy of the statement."""
    if has_index:
        docs.create_index()
    among = select(Article.id).where(Article.id >= bindparam("least"))
    found = docs.matches_by_vector(docs.embed_query("a hound sleeps"), among=among)
    statement = select(found.c.id).order_by(found.c.score.desc())

    for least, right in ((1, 1), (2, 2), (3, 3), (1, 1)):
        assert session.scalars(statement.limit(1), {"least": least}).all() == [right]
        assert session.scalars(statement.limit(1).params(least=least)).all() == [right]
    both = select(Article.id).where(Article.id.in_(select(found.c.id)), Article.id < 4)
    assert session.scalars(both.params(least=3)).all() == [3]


def test_a_selectable_names_its_table(host: Engine, docs: Collection[int]):
    """A session that knows its bind by the tables finds it."""
    with Session(binds={EmbeddingRecord: host, CollectionRecord: host}) as session:
        there = Collection("docs", session, model=DeterministicModel(), key=Article.id)
        assert session.scalars(select(there.matches("a hound sleeps", 1).c.id)).all() == [1]


def test_a_selectable_reads_the_collections_row_once(host: Engine, docs: Collection[int]):
    """What is known of the row when it is made is read by two statements."""
    sent: list[str] = []
    event.listen(host, "before_cursor_execute", lambda *given: sent.append(given[2]))
    vector = docs.embed_query("a hound sleeps")
    docs.matches_by_vector(vector, 1)
    assert sum("FROM collections" in " ".join(sql.split()) for sql in sent) == 1
    assert len(sent) == 2


def test_a_prefix_is_served_by_the_primary_key(session: Session, docs: Collection[int]):
    """A prefix becomes a range of the index on the id."""
    pages = Collection("pages", session, model=DeterministicModel())
    pages.store_vectors([(f"page/{n}", np.ones(3) * n) for n in range(300)])
    found = pages.matches_by_vector([1.0, 2.0, 3.0], prefix="page/7")

    plan = json.loads(explain(session, select(found), "enable_seqscan = off"))["Plan"]

    conditions = [
        node["Index Cond"]
        for node in nodes(plan)
        if node.get("Index Name") == "embeddings_pkey" and "Index Cond" in node
    ]
    assert len(conditions) == 1
    assert "id >= 'page/7'" in conditions[0]
    assert "id < 'page/8'" in conditions[0]
    assert pages.ids(prefix="page/7") == ["page/7", *(f"page/7{n}" for n in range(10))]


# Addresses


def address(url: URL, scheme: str) -> str:
    return url.set(drivername=scheme).render_as_string(hide_password=False)


@pytest.mark.parametrize(
    "scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"]
)
def test_a_collection_on_a_url(host: Engine, scheme: str):
    """Every scheme in use opens the database, `postgres` included."""
    url = address(host.url, scheme)
    with Collection("docs", url, model=DeterministicModel()) as docs:
        docs.embed_multi([("a", "one hound"), ("b", "two cats")], store=True)
        assert [entry.id for entry in docs.similar("hound", 1)] == ["a"]
    assert Collection.names(url) == ["docs"]
    assert Collection.exists(url, "docs")
    assert committed(host) == {"a": "one hound", "b": "two cats"}


PASSWORD = "hunter2-secret"  # noqa: S105


@pytest.mark.parametrize("scheme", ["postgres", "postgresql+psycopg", "postgresql+psycopg2"])
@pytest.mark.parametrize(
    "use",
    [
        lambda url: Collection("docs", url, model=DeterministicModel()),
        lambda url: Collection.names(url),
    ],
    ids=["open", "names"],
)
def test_a_password_is_in_no_error(host: Engine, scheme: str, use: Callable[[str], Any]):
    """An error about a database that is not there tells its name, and no password."""
    url = address(host.url.set(password=PASSWORD, database="nowhere"), scheme)
    with pytest.raises(OperationalError) as caught:
        use(url)

    shown = f"{caught.value!r} {caught.value}"
    assert "nowhere" in shown
    assert PASSWORD not in shown


@pytest.mark.parametrize("scheme", ["oracle", "postgresql+nothing"])
def test_a_password_is_in_no_error_about_the_scheme(scheme: str):
    """Nor is there one in an error about a scheme that is not known."""
    with pytest.raises(Exception, match=r"(?i)oracle|nothing") as caught:
        Collection("docs", f"{scheme}://me:{PASSWORD}@localhost/db", model=DeterministicModel())

    assert PASSWORD not in f"{caught.value!r} {caught.value}"


def test_a_password_is_not_in_what_is_shown(host: Engine):
    """A collection shows its name; its database stays to itself."""
    url = address(host.url.set(password=PASSWORD), "postgresql+psycopg")
    with Collection("docs", url, model=DeterministicModel()) as docs:
        docs.embed("a", "one hound")
        shown = f"{docs!r} {docs} {docs.reference.sessions!r} {docs.get('a')!r}"

    assert PASSWORD not in shown


def test_contents_are_in_no_error_on_a_url(host: Engine):
    """On an engine of our own an error of the database does not show what was being written."""
    with host.begin() as connection:
        connection.execute(text("ALTER TABLE embeddings ADD CONSTRAINT no CHECK (id <> 'a')"))
    try:
        url = address(host.url, "postgresql+psycopg")
        with (
            Collection("docs", url, model=DeterministicModel()) as docs,
            pytest.raises(IntegrityError) as caught,
        ):
            docs.embed("a", "the private text", store=True)
    finally:
        with host.begin() as connection:
            connection.execute(text("ALTER TABLE embeddings DROP CONSTRAINT no"))

    assert "the private text" not in str(caught.value).split("DETAIL")[0]
    assert caught.value.hide_parameters


# JSON codecs of the host's


def wrapped(value: Any) -> str:
    return json.dumps({"wrapped": value}, default=str)


def unwrapped(value: str) -> Any:
    return json.loads(value, parse_float=Decimal)["wrapped"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_metadata_where_the_host_has_codecs_of_its_own(host: Engine, driver: str):
    """The host's json_serializer and json_deserializer are for the host's columns."""
    options = {"json_serializer": wrapped, "json_deserializer": unwrapped}
    metadata = {"price": 1.5, "é": ["ü", None, {"n": 1}], "flag": True}
    url = host.url.set(drivername=f"postgresql+{driver}")
    with connected(url, **options) as engine, Session(engine) as session:
        docs = Collection("docs", session, model=DeterministicModel())
        docs.embed("a", "one hound", metadata, store=True)
        session.commit()
        assert docs.similar("hound")[0].metadata == metadata
        record = docs.get("a")
        assert record is not None
        assert record.metadata_ == metadata
        assert type(record.metadata_["price"]) is float
        assert len(docs.similar("hound", where={"price": 1.5, "flag": True})) == 1
        docs.set_metadata("a", {"n": 2})
        session.commit()
    with host.connect() as connection:
        stored = connection.execute(text("SELECT metadata ->> 'n' FROM embeddings")).scalar_one()
    assert stored == "2"


def test_metadata_where_the_connection_has_codecs_of_its_own(host: Engine):
    """The set_json_loads and set_json_dumps of psycopg change nothing for us."""

    def refuse(_: Any) -> Any:
        raise AssertionError("this is for the host's columns")

    with connected(host.url) as engine:

        @event.listens_for(engine, "connect")
        def connect(driver: psycopg.Connection[Any], _: object) -> None:
            psycopg.types.json.set_json_loads(refuse, driver)
            psycopg.types.json.set_json_dumps(refuse, driver)

        with Session(engine) as session:
            docs = Collection("docs", session, model=DeterministicModel())
            docs.embed("a", "one hound", {"price": 1.5}, store=True)
            docs.set_metadata("a", {"price": 2.5})
            assert docs.similar("hound", where={"price": 2.5})[0].metadata == {"price": 2.5}
            assert [record.metadata_ for record in docs] == [{"price": 2.5}]


@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "never prepared"])
def test_the_tenth_execution_gives_the_same_answer(
    host: Engine, docs: Collection[int], prepared: bool, subtests: pytest.Subtests
):
    """Statements that the driver has prepared meanwhile find what they found before."""
    options = {"connect_args": {"prepare_threshold": 1 if prepared else None}}
    with single(host, **options) as engine, Session(engine) as session:
        there = Collection("docs", session, model=DeterministicModel(), key=Article.id)

        for name, search in SEARCHES.items():
            with subtests.test(name):
                assert [search(there) for _ in range(10)] == [FOUND[name]] * 10


def test_the_tenth_execution_of_a_host(host: Engine, docs: Collection[int]):
    """So it is for a host's statement, and for writes in between."""
    with single(host, connect_args={"prepare_threshold": 1}) as engine, Session(engine) as session:
        there = Collection("docs", session, model=DeterministicModel(), key=Article.id)
        for n in range(10, 20):
            found = there.matches("a hound sleeps", 2)
            assert set(session.scalars(select(found.c.id))) == {1, 2}
            there.embed(n, f"number {n}", {"n": n}, store=True)
            there.set_metadata(n, {"n": -n})
            assert there.similar(f"number {n}", 1)[0].metadata == {"n": -n}
        session.commit()
        assert there.count() == 14


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_condition_on_a_column_that_is_not_there(host: Engine, driver: str):
    """The error is PostgreSQL's: our tables are named in the statement, and have all they need."""
    with connected(host.url.set(drivername=f"postgresql+{driver}")) as engine:
        docs = Collection("docs", engine, model=DeterministicModel(), chunks=Chunks(size=20))
        docs.embed("a", "one hound")
        with pytest.raises(ProgrammingError, match='column "lang" does not exist'):
            docs.similar("hound", where=column("lang") == "en")
        with engine.connect() as connection:
            connection.execute(text("ALTER TABLE embeddings DROP chunk_of CASCADE"))
            with pytest.raises(SchemaError, match=r"older version.*migrate"):
                Collection("docs", connection, model=DeterministicModel()).similar("hound")
            connection.rollback()


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_text_index_of_what_is_stored(host: Engine, driver: str):
    """The hashes of contents are bytes by every driver."""
    with connected(host.url.set(drivername=f"postgresql+{driver}")) as engine:
        docs = Collection("docs", engine, model=DeterministicModel())
        docs.embed("a", "one hound", store=True)
        assert docs.create_text_index("english") == 0
        assert docs.similar("dog", words="hounds")[0].ranks == (1, 1)


def test_tables_further_down_the_search_path(host: Engine, worker_id: str):
    """What is written goes where it is read from: settings of a collection, too."""
    first = f"first_{worker_id}"
    with single(host, connect_args={"options": f"-c search_path={first},public"}) as engine:
        try:
            with engine.begin() as connection:
                connection.execute(text(f"CREATE SCHEMA {first}"))
            docs = Collection("docs", engine, model=DeterministicModel(), chunks=Chunks(size=20))
            docs.embed_multi([("1", "a hound and " * 5)], store=True)
            docs.create_text_index("english")
            assert [entry.id for entry in docs.similar("dog", words="hounds")] == ["1"]
        finally:
            with host.begin() as connection:
                connection.execute(text(f"DROP SCHEMA IF EXISTS {first}"))


def test_a_pool_that_changes_its_search_path(host: Engine):
    """A tenant's schema that a host sets for a transaction holds for prepared statements, too."""
    model = DeterministicModel()
    with single(host, connect_args={"prepare_threshold": 0}) as engine:
        try:
            for tenant in ("red", "blue"):
                with engine.begin() as connection:
                    connection.execute(text(f"CREATE SCHEMA {tenant}"))
                embeddings.migrate(engine.execution_options(schema_translate_map={None: tenant}))
            for tenant in ("red", "blue") * 3:
                with Session(engine) as session:
                    session.execute(text(f"SET LOCAL search_path = {tenant}, public"))
                    docs = Collection("docs", session, model=model)
                    docs.embed(tenant, "a hound")
                    assert [entry.id for entry in docs.similar("hound")] == [tenant]
                    session.commit()
        finally:
            with engine.begin() as connection:
                connection.execute(text("DROP SCHEMA IF EXISTS red, blue CASCADE"))


# Two sessions


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """A thread for what has to wait."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def wait_for_a_lock(host: Engine, future: Future[Any] | None = None) -> None:
    """Return when somebody waits for a lock of somebody else; fail if nobody does."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    for _ in range(6_000):
        with host.connect() as connection:
            if connection.scalar(waiting):
                return
        if future is not None and future.done():
            break
        time.sleep(0.01)
    raise AssertionError(f"nobody waits for a lock: {future}")


def collection(session: Session | Connection, **options: Any) -> Collection[Any]:
    return Collection("docs", session, **{"model": DeterministicModel(), "key": int, **options})


def test_the_last_writer_of_a_row_wins(
    host: Engine, docs: Collection[int], session: Session, pool: ThreadPoolExecutor
):
    """The second writer of an id waits for the first, and its row is whole."""

    def second() -> None:
        with Session(host) as other:
            collection(other).embed(1, "the second text", {"by": 2}, store=True)
            other.commit()

    docs.embed(1, "the first text", {"by": 1}, store=True)
    future = pool.submit(second)
    wait_for_a_lock(host, future)
    session.commit()
    future.result()

    session.expire_all()
    record = docs.get(1)
    assert record is not None
    assert record.content == "the second text"
    assert record.metadata_ == {"by": 2}
    assert record.content_hash == Collection.content_hash("the second text")
    vector = DeterministicModel().embed_batch(["the second text"])[0]
    assert record.embedding.tobytes() == vector.tobytes()


def test_a_change_of_a_row_that_was_replaced_meanwhile(
    host: Engine, docs: Collection[int], session: Session, pool: ThreadPoolExecutor
):
    """Metadata for the old text do not land on the new one; the row is whole."""

    def second() -> None:
        with Session(host) as other:
            collection(other).embed(1, TEXTS["1"], {"by": 2})
            other.commit()

    docs.embed(1, "the first text", {"by": 1}, store=True)
    future = pool.submit(second)
    wait_for_a_lock(host, future)
    session.commit()
    future.result()

    with Session(host) as other:
        record = collection(other).get(1)
        assert record is not None
        whole = [
            ("the first text", {"by": 1}),
            (TEXTS["1"], {"by": 2}),
            (None, {"by": 2}),
        ]
        assert (record.content, record.metadata_) in whole
        text_of = TEXTS["1"] if record.metadata_ == {"by": 2} else "the first text"
        assert record.content_hash == Collection.content_hash(text_of)
        vector = DeterministicModel().embed_batch([text_of])[0]
        assert record.embedding.tobytes() == vector.tobytes()


def test_many_writers_of_the_same_rows_leave_whole_rows(host: Engine):
    """Threads that write the same ids in any order do not deadlock, nor tear a row."""
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        docs = collection(host)  # type: ignore[arg-type]
        order = random.Random(number)  # noqa: S311
        barrier.wait()
        for turn in range(5):
            ids = order.sample(range(20), 15)
            docs.embed_multi_with_metadata(
                [(id, f"text {number} {turn} {id}", {"by": number}) for id in ids], store=True
            )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))

    with Session(host) as session:
        records = session.scalars(select(EmbeddingRecord)).all()
        assert len(records) == 20
        for record in records:
            assert record.content is not None
            assert record.metadata_ == {"by": int(record.content.split()[1])}
            assert record.content_hash == Collection.content_hash(record.content)
            vector = DeterministicModel().embed_batch([record.content])[0]
            assert record.embedding.tobytes() == vector.tobytes()


@pytest.mark.parametrize("exists", [True, False], ids=["empty", "new"])
def test_the_first_vector_settles_the_dimensions(
    host: Engine, session: Session, pool: ThreadPoolExecutor, exists: bool
):
    """Of two first writers with different dimensions the second is refused."""
    if exists:
        docs = collection(session)
        docs.store_vectors([(1, [1.0])])
        docs.delete_items([1])
        session.commit()

    def second() -> None:
        with Session(host) as other:
            collection(other).store_vectors([(2, [1.0, 2.0, 3.0])])
            other.commit()

    collection(session).store_vectors([(1, [1.0, 2.0])])
    future = pool.submit(second)
    wait_for_a_lock(host, future)
    session.commit()
    with pytest.raises(InvalidVectorError, match=r"3 dimensions.*have 2"):
        future.result()

    assert set(committed(host)) == {"1"}


def test_the_first_vector_that_is_rolled_back_settles_nothing(
    host: Engine, session: Session, pool: ThreadPoolExecutor
):
    """If the first writer rolls back, the second one's dimensions are those."""

    def second() -> None:
        with Session(host) as other:
            collection(other).store_vectors([(2, [1.0, 2.0, 3.0])])
            other.commit()

    collection(session).store_vectors([(1, [1.0, 2.0])])
    future = pool.submit(second)
    wait_for_a_lock(host, future)
    session.rollback()
    future.result()

    assert set(committed(host)) == {"2"}


def test_two_sessions_create_one_collection(
    host: Engine, session: Session, pool: ThreadPoolExecutor
):
    """The second waits for the first, and both write to the one collection."""

    def second() -> None:
        with Session(host) as other:
            collection(other).embed(2, "two")
            other.commit()

    collection(session).embed(1, "one")
    future = pool.submit(second)
    wait_for_a_lock(host, future)
    session.commit()
    future.result()

    with Session(host) as other:
        assert other.scalars(select(CollectionRecord.name)).all() == ["docs"]
        assert collection(other).ids() == [1, 2]


def test_a_second_creator_leaves_how_the_first_one_cuts_texts(
    host: Engine, session: Session, pool: ThreadPoolExecutor
):
    """Whoever creates a collection second, with no setting, does not take away the first one's."""
    text = "One sentence of some words. " * 20
    chunks = Chunks(size=100)
    Collection("docs", session, model=DeterministicModel(), chunks=chunks).embed("a", text)
    plain = Collection("docs", host, model=DeterministicModel())
    future = pool.submit(plain.embed, "b", "two")
    wait_for_a_lock(host, future)
    session.commit()
    with pytest.raises(ChunksMismatchError, match="cut in another way by now"):
        future.result()

    plain.embed("b", text)
    assert plain.ids() == ["a", "b"]
    assert plain.count(chunks=True) == 2 * len(chunks.spans(text))


@pytest.mark.parametrize("has_index", [False, True])
def test_the_first_writer_says_how_texts_are_cut(
    has_index: bool, host: Engine, session: Session, pool: ThreadPoolExecutor
):
    """The second one's other setting is refused, and nothing of it is written."""
    text = "One sentence of some words. " * 20
    model = DeterministicModel()
    Collection("docs", host, model=model).create_index(dimensions=256)
    if not has_index:
        Collection("docs", host).drop_index()
    first, second = (
        Collection("docs", bind, model=model, chunks=Chunks(size=size))
        for bind, size in ((session, 100), (host, 200))
    )
    first.embed("a", text)
    future = pool.submit(second.embed, "b", text)
    wait_for_a_lock(host, future)
    session.commit()
    with pytest.raises(ChunksMismatchError, match=r"has Chunks\(size=100\).*given.*size=200"):
        future.result()

    docs = Collection("docs", host, model=model)
    assert docs.ids() == ["a"]
    docs.embed("b", text)
    assert docs.count(chunks=True) == 2 * len(Chunks(size=100).spans(text))


def test_an_index_is_dropped_beside_the_first_writer(
    host: Engine, session: Session, pool: ThreadPoolExecutor
):
    """Whoever drops it waits, and leaves the collection, which is not empty by then."""
    given = EmbeddingIndex("docs", 256, model="deterministic")
    with host.begin() as connection:
        make(connection, given)

    def dropped() -> None:
        with host.begin() as connection:
            drop(connection, given)

    docs = Collection("docs", session, model=DeterministicModel())
    docs.embed("a", "one")
    future = pool.submit(dropped)
    wait_for_a_lock(host, future)
    session.commit()
    future.result()

    assert docs.ids() == ["a"]
    assert docs.index_info() is None


def test_writers_of_a_collection_with_vectors_wait_for_nobody(
    host: Engine, docs: Collection[int], session: Session
):
    """Different rows are written side by side."""
    docs.embed(10, "ten")
    with Session(host) as other:
        other.execute(text("SET LOCAL lock_timeout = '300ms'"))
        collection(other).embed(11, "eleven")
        other.commit()
    session.commit()

    assert docs.ids() == [1, 10, 11, 2, 3, 4]


def test_a_collection_deleted_while_another_writes(
    host: Engine, docs: Collection[int], session: Session, pool: ThreadPoolExecutor
):
    """Whoever comes second is told; no row is left without its collection."""

    def second() -> None:
        with Session(host) as other:
            collection(other).embed(9, "nine")
            other.commit()

    docs.delete()
    future = pool.submit(second)
    wait_for_a_lock(host, future)
    session.commit()
    error = future.exception()

    assert error is None or isinstance(error, DoesNotExist | IntegrityError)
    with Session(host) as other:
        orphans = select(func.count()).where(
            EmbeddingRecord.collection_id.not_in(select(CollectionRecord.id))
        )
        assert other.scalar(orphans) == 0
        assert collection(other).ids() == ([9] if error is None else [])


def test_a_write_to_a_collection_that_is_then_deleted(
    host: Engine, docs: Collection[int], session: Session, pool: ThreadPoolExecutor
):
    """A deletion that waits for a writer either takes the new row too, or fails and says so."""

    def second() -> None:
        with Session(host) as other:
            collection(other).delete()
            other.commit()

    docs.embed(9, "nine")
    future = pool.submit(second)
    wait_for_a_lock(host, future)
    session.commit()
    error = future.exception()

    assert error is None
    with Session(host) as other:
        assert other.scalar(select(func.count()).select_from(EmbeddingRecord)) == 0
        assert Collection.names(other) == []


# Other isolation levels


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_host_of_another_isolation_level(host: Engine, level: str):
    """Everything works there, on a session and on an engine."""
    engine = host.execution_options(isolation_level=level)
    with Session(engine) as session:
        work(collection(session), session)
        session.commit()
    docs = Collection("more", engine, model=DeterministicModel())
    docs.embed_multi([("a", "one hound"), ("b", "two cats")])
    assert [entry.id for entry in docs.similar("hound", 1)] == ["a"]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_serialization_errors_pass_through(host: Engine, docs: Collection[int], level: str):
    """A row that changed since the snapshot is the database's error, for the host to try again."""
    with Session(host.execution_options(isolation_level=level)) as session:
        mine = collection(session)
        assert mine.count() == 4
        with Session(host) as other:
            collection(other).embed(1, "theirs", store=True)
            other.commit()

        with pytest.raises(OperationalError) as caught:
            mine.embed(1, "mine", store=True)
        assert getattr(caught.value.orig, "sqlstate", None) == "40001"
        session.rollback()
        mine.embed(1, "mine", store=True)
        session.commit()

    assert committed(host)["1"] == "mine"


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_snapshot_is_searched_as_it_was(host: Engine, docs: Collection[int], level: str):
    """What others commit after the snapshot is not found, nor is what they delete missing."""
    with Session(host.execution_options(isolation_level=level)) as session:
        mine = collection(session)
        assert mine.count() == 4
        with Session(host) as other:
            collection(other).embed(9, "a hound sleeps")
            collection(other).delete_items([2])
            other.commit()

        assert [entry.id for entry in mine.similar("a hound sleeps", 2)] == [1, 2]
        session.rollback()
        assert [entry.id for entry in mine.similar("a hound sleeps", 2)] == [1, 9]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_collection_created_after_the_snapshot(host: Engine, level: str):
    """There the first write is the database's error, and after a rollback it works."""
    with Session(host.execution_options(isolation_level=level)) as session:
        mine = collection(session)
        assert mine.count() == 0
        with Session(host) as other:
            collection(other).embed(1, "theirs", store=True)
            other.commit()

        with pytest.raises(OperationalError) as caught:
            mine.embed(2, "mine", store=True)
        assert getattr(caught.value.orig, "sqlstate", None) == "40001"
        session.rollback()
        mine.embed(2, "mine", store=True)
        session.commit()

    assert committed(host) == {"1": "theirs", "2": "mine"}

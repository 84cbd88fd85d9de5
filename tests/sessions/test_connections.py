"""No connection is held while a model runs: a pool of five serves any number of slow questions.

The model of these tests answers nobody before all have asked. If one of the requests held a
connection meanwhile, the others would wait for the pool until its time-out, and fail.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from flask import Flask, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import QueuePool, StaticPool

import embeddings
from embeddings import (
    AsyncCollection,
    Collection,
    CollectionRecord,
    EmbeddingRecord,
    ModelMismatchError,
    register_embedding_model,
)
from embeddings.databases.sqlite.matrix.cache import CACHE
from embeddings.testing import DeterministicModel
from embeddings.work.row import ROWS
from tests import asynchronous
from tests.reaching import empty_database

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sqlalchemy import URL

REQUESTS, POOL = 20, 5
PATIENCE = 300.0  # seconds, so long that only a deadlock reaches them
TEXTS = [("hound", "a happy hound"), ("cat", "a dissatisfied cat")]
QUEUE = {
    "poolclass": QueuePool, "pool_size": POOL, "max_overflow": 0, "pool_timeout": PATIENCE,
}  # fmt: skip


class Host(DeclarativeBase):
    """A host's tables."""


class Note(Host):
    """One of them."""

    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)


class Together(DeterministicModel):
    """A model whose calls wait for each other, in threads."""

    def __init__(self, model_id: str = "together") -> None:
        super().__init__(model_id)
        self.barrier: threading.Barrier | None = None

    def embed_batch(self, items: Sequence[Any]) -> Any:
        if self.barrier is not None:
            self.barrier.wait(PATIENCE)
        return super().embed_batch(items)


@pytest.fixture
def together() -> Together:
    """Such a model, known by its id."""
    model = Together(f"together-{threading.get_ident()}")
    ROWS.clear()
    register_embedding_model(model)
    return model


@pytest.fixture
def url(own_database: str) -> str:
    """A new database with the tables, set up for many requests."""
    engine = create_engine(own_database)
    embeddings.configure_sqlite(engine)
    engine.connect().close()
    engine.dispose()
    CACHE.clear()  # to whose states copies of one file are one database
    return own_database


def at_once(work: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(REQUESTS) as pool:
        return list(pool.map(work, range(REQUESTS)))


def filled(engine: Engine, model: Together) -> None:
    Collection("docs", engine, model=model).embed_multi(TEXTS, store=True)
    ROWS.clear()
    model.barrier = threading.Barrier(REQUESTS)


USES: dict[str, Callable[[Collection[str]], Any]] = {
    "similar": lambda docs: [entry.id for entry in docs.similar("a hound", 1)],
    "similar_multi": lambda docs: [found[0].id for found in docs.similar_multi(["a hound"])],
    "filtered": lambda docs: [entry.id for entry in docs.similar("hound", prefix="h")],
    "embed_query": lambda docs: [
        entry.id for entry in docs.similar_by_vector(docs.embed_query("a hound"), 1)
    ],
}


@pytest.mark.parametrize(
    ("given", "use"),
    [
        *(("nothing", use) for use in USES.values()),
        ("model", USES["similar"]),
        ("model_id", USES["similar"]),
    ],
)
def test_questions_on_sessions(
    use: Callable[[Collection[str]], Any], given: str, url: str, together: Together
):
    """Whatever is known of the model beforehand."""
    engine = create_engine(url, **QUEUE)
    filled(engine, together)
    known = {"model": together, "model_id": together.model_id}
    options: dict[str, Any] = {given: known[given]} if given in known else {}

    def ask(_: int) -> Any:
        with Session(engine) as session:
            return use(Collection("docs", session, **options))

    assert at_once(ask) == [["hound"]] * REQUESTS
    assert at_once(ask) == [["hound"]] * REQUESTS  # what is remembered serves, too
    engine.dispose()


def test_values_that_are_prepared(url: str, together: Together):
    """The model runs before the transaction, and what has a vector needs no model."""
    engine = create_engine(url, **QUEUE)
    filled(engine, together)

    def write(number: int) -> None:
        with Session(engine) as session:
            docs = Collection("docs", session)
            prepared = docs.prepare(f"text {number}")
            docs.embed(str(number), prepared)
            session.commit()

    at_once(write)
    together.barrier = None
    calls = len(together.calls)
    with Session(engine) as session:
        docs = Collection("docs", session)
        docs.embed("again", docs.prepare("text 7"))
        session.commit()
        assert docs.count() == REQUESTS + len(TEXTS) + 1
    assert len(together.calls) == calls
    engine.dispose()


def test_pending_objects_keep_no_connection(url: str, together: Together):
    """An object that was added, and not flushed, is flushed after the model has answered."""
    engine = create_engine(url, **QUEUE)
    Host.metadata.create_all(engine)
    filled(engine, together)

    def ask(number: int) -> Any:
        with Session(engine) as session:
            session.add(Note(id=number))
            found = [entry.id for entry in Collection("docs", session).similar("a hound", 1)]
            assert session.get(Note, number) in session  # flushed, as before every statement
            assert not session.new
            return found

    assert at_once(ask) == [["hound"]] * REQUESTS
    engine.dispose()


def test_pending_records_of_the_collection_are_found(url: str):
    """They are no reason for less: then the session's own connection is used."""
    model = DeterministicModel("m")
    engine = create_engine(url, **QUEUE)
    with Session(engine) as session:
        record = CollectionRecord(name="docs", model="m")
        vector = model.embed("a happy hound")
        session.add(EmbeddingRecord(id="hound", embedding=vector, collection=record))
        docs = Collection("docs", session, model=model)
        assert [entry.id for entry in docs.similar("hound")] == ["hound"]
    engine.dispose()


def test_a_question_before_there_is_a_collection_calls_no_model(url: str, together: Together):
    """Nor after a rollback has taken it away: what is remembered was committed."""
    engine = create_engine(url, **QUEUE)
    with Session(engine) as session:
        docs = Collection("docs", session, model=together)
        assert docs.similar("a hound") == []
        assert not together.calls
        docs.embed_multi(TEXTS)
        assert len(docs.similar("a hound")) == 2
        session.rollback()
        calls = len(together.calls)
        assert docs.similar("a hound") == []
        assert len(together.calls) == calls
        savepoint = session.begin_nested()
        docs.embed_multi(TEXTS)
        assert len(docs.similar("a hound")) == 2
        savepoint.rollback()
        calls = len(together.calls)
        assert docs.similar("a hound") == []
        assert len(together.calls) == calls
    engine.dispose()


def test_a_transaction_looks_once_which_model_to_ask(url: str):
    """The second question in it is searched for at once, also where nothing was committed."""
    engine = create_engine(url, **QUEUE)
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    with Session(engine) as session:
        docs = Collection("docs", session, model=DeterministicModel())
        docs.embed_multi(TEXTS)
        counts = []
        for question in ("a hound", "a cat", "a dog"):
            docs.similar_by_id("hound")  # what it loads is loaded
            statements.clear()
            assert len(docs.similar(question)) == 2
            counts.append(len(statements))
        assert counts[1] == counts[2] < counts[0]
        savepoint = session.begin_nested()
        docs.rename("others")
        savepoint.rollback()
        assert len(docs.similar("a happy hound")) == 2
    engine.dispose()


def test_another_model_is_noticed_once(url: str):
    """A question that went to the model of before is put again to the right one."""
    first, second = DeterministicModel("first"), DeterministicModel("second")
    register_embedding_model(first)
    register_embedding_model(second)
    engine = create_engine(url, **QUEUE)
    Collection("docs", engine, model=first).embed_multi(TEXTS)

    def ask() -> str:
        with Session(engine) as session:
            return Collection("docs", session).similar("a happy hound", 1)[0].id

    ask()
    with engine.begin() as connection:
        connection.execute(text("UPDATE collections SET model = 'second'"))
    first.calls.clear()
    assert [ask(), ask(), ask()] == ["hound"] * 3
    assert len(first.calls) <= 1
    assert len(second.calls) == 3
    with Session(engine) as session, pytest.raises(ModelMismatchError):
        Collection("docs", session, model=first).similar("a hound")
    engine.dispose()


def test_the_default_model_is_asked_nothing_in_place_of_the_collections(url: str):
    """It is for new collections only."""
    its_own, default = DeterministicModel("its-own"), DeterministicModel("default")
    register_embedding_model(its_own)
    engine = create_engine(url, **QUEUE)
    Collection("docs", engine, model=its_own).embed_multi(TEXTS)
    ROWS.clear()
    embeddings.set_default_model(default)
    try:
        with Session(engine) as session:
            assert Collection("docs", session).similar("a happy hound", 1)[0].id == "hound"
    finally:
        embeddings.set_default_model(None)
    assert not default.calls
    engine.dispose()


def test_an_engine_with_one_connection_checks_nothing_else_out():
    """A database in memory is its one connection."""
    model = DeterministicModel("m")
    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    embeddings.migrate(engine)
    with Session(engine) as session:
        docs = Collection("docs", session, model=model)
        docs.embed_multi(TEXTS)
        session.commit()
        checked_out: list[object] = []
        event.listen(engine, "checkout", lambda *given: checked_out.append(given[0]))
        assert docs.similar("a happy hound", 1)[0].id == "hound"
        assert len(checked_out) == 1
    engine.dispose()


# In the frameworks, as their pages in the documentation show it


def test_flask(url: str, together: Together, tmp_path: Path):
    """Views that search, and that prepare before they write."""
    app = Flask("pool", root_path=str(tmp_path), instance_path=str(tmp_path))
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = QUEUE
    db = SQLAlchemy(app)
    docs = Collection("docs", db.session)

    @app.get("/")
    def search() -> list[str]:
        return [entry.id for entry in docs.similar(request.args["q"], 1)]

    @app.post("/<id>")
    def write(id: str) -> tuple[str, int]:
        prepared = docs.prepare(request.form["text"])
        docs.embed(id, prepared)
        db.session.commit()
        return "", 201

    with app.app_context():
        filled(db.engine, together)

    def ask(_: int) -> Any:
        return app.test_client().get("/", query_string={"q": "a hound"}).json

    def post(number: int) -> int:
        data = {"text": f"text {number}"}
        return app.test_client().post(f"/{number}", data=data).status_code

    assert at_once(ask) == [["hound"]] * REQUESTS
    assert at_once(post) == [201] * REQUESTS
    with app.app_context():
        db.engine.dispose()


class TogetherInALoop(DeterministicModel):
    """A model whose calls wait for each other, in the event loop."""

    waiting, all_are_there = 0, asyncio.Event()

    async def aembed_batch(self, items: Sequence[Any]) -> Any:
        self.waiting += 1
        if self.waiting == REQUESTS:
            self.all_are_there.set()
        await asyncio.wait_for(self.all_are_there.wait(), PATIENCE)
        return self.embed_batch(items)


@pytest.mark.parametrize("driver", sorted(asynchronous.DRIVERS))
def test_fastapi(driver: str, tmp_path: Path, server: URL):
    """An endpoint that searches in the request's session."""
    kind = "sqlite" if driver == "aiosqlite" else "postgresql"
    with empty_database(kind, tmp_path, server) as url:
        synchronous = create_engine(url)
        embeddings.migrate(synchronous)
        model = DeterministicModel("in-a-loop")
        Collection("docs", synchronous, model=model).embed_multi(TEXTS)
        synchronous.dispose()
        drivername = asynchronous.DRIVERS.get(driver, "sqlite+aiosqlite")
        asyncio.run(_ask_at_once(synchronous.url.set(drivername=drivername)))


async def _ask_at_once(url: URL) -> None:
    options = {name: value for name, value in QUEUE.items() if name != "poolclass"}
    engine = create_async_engine(url, **options)
    sessions = async_sessionmaker(engine)
    app = FastAPI()
    model = TogetherInALoop("in-a-loop")
    model.all_are_there = asyncio.Event()
    register_embedding_model(model)

    async def get_session() -> Any:
        async with sessions() as session:
            yield session

    @app.get("/")
    async def search(q: str, session: Any = Depends(get_session)) -> list[str]:  # noqa: B008
        docs = AsyncCollection("docs", session)
        return [entry.id for entry in await docs.similar(q, 1)]

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", timeout=PATIENCE
    ) as client:
        asked = [client.get("/", params={"q": "a hound"}) for _ in range(REQUESTS)]
        answers = await asyncio.gather(*asked)
    await engine.dispose()
    assert [answer.json() for answer in answers] == [["hound"]] * REQUESTS

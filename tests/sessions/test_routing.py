"""Sessions that choose their bind by the statement, and transactions that are tried again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Delete, Engine, Update, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from embeddings import AsyncCollection, Collection, EmbeddingRecord, configure_sqlite
from embeddings.testing import DeterministicModel
from tests.reaching import is_postgresql, on_both

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TEXTS = [("a", "a happy hound"), ("b", "a dissatisfied cat"), ("c", "a third")]


@pytest.fixture
def binds(db: Session) -> Iterator[dict[str, Engine]]:
    """A leader, and a follower that refuses to write."""
    engine = db.get_bind()
    assert isinstance(engine, Engine)
    if is_postgresql(db):
        options = {"options": "-c default_transaction_read_only=on"}
        follower = create_engine(engine.url, connect_args=options)
    else:
        configure_sqlite(engine)
        follower = create_engine(f"sqlite:///file:{engine.url.database}?mode=ro&uri=true")
    yield {"leader": engine, "follower": follower}
    follower.dispose()


@on_both
def test_a_reader_and_a_writer(db: Session, binds: dict[str, Engine]):
    """By the recipe of SQLAlchemy's documentation: an operation that writes goes to one bind."""
    read: list[str] = []
    event.listen(binds["follower"], "before_cursor_execute", lambda *found: read.append(found[2]))

    class RoutingSession(Session):
        def get_bind(self, mapper: Any = None, clause: Any = None) -> Engine:  # type: ignore[override]
            writes = self._flushing or isinstance(clause, Update | Delete)
            return binds["leader" if writes else "follower"]

    with RoutingSession() as session:
        docs = Collection("docs", session, model=DeterministicModel())
        docs.embed_multi(TEXTS)
        docs.embed("a", "a happy hound", {"n": 1})
        session.commit()
        read.clear()
        assert docs.count() == len(docs.ids()) == len(docs.similar("hound")) == len(TEXTS)
        assert read

        record = docs.get("a")
        assert record is not None
        read.clear()
        docs.set_metadata("a", {"n": 2})
        docs.store_vectors([("d", [1.0] * 256)])
        assert docs.delete_items(["b"]) == 1
        docs.rename("papers")
        assert read == []
        session.commit()
        assert record.metadata_ == {"n": 2}
        plan = docs.plan([("e", "a fifth")])
        plan.embed()
        docs.apply(plan)
        session.add(EmbeddingRecord(id="f", embedding=[1.0] * 256, collection_id=docs.id))
        session.commit()
        assert docs.ids() == ["a", "c", "d", "e", "f"]
        read.clear()
        docs.delete()
        session.commit()
        assert read == []
        assert type(session).get_bind is session.get_bind.__func__  # type: ignore[attr-defined]


@pytest.fixture
def between(postgresql_engine: Engine) -> Iterator[Callable[[Engine, int], list[str]]]:
    """Let another writer come between the snapshot of a transaction and its writing, some times."""
    others = create_engine(postgresql_engine.url)

    def interfere(engine: Engine, times: int) -> list[str]:
        met: list[str] = []

        def write(*found: Any) -> None:
            statement = found[2]
            if statement.endswith("FOR UPDATE") or statement.startswith(
                ("INSERT INTO embeddings", "UPDATE embeddings")
            ):
                met.append(statement.split()[0])
                if len(met) <= times:
                    with others.begin() as connection:
                        connection.execute(text("UPDATE embeddings SET updated = updated + 1"))

        event.listen(engine, "before_cursor_execute", write)
        return met

    yield interfere
    others.dispose()


WRITES: dict[str, Callable[[Any], Any]] = {
    "embed": lambda docs: docs.embed("a", "another text"),
    "store_vectors": lambda docs: docs.store_vectors([("a", [1.0] * 256)]),
    "set_metadata": lambda docs: docs.set_metadata("a", {"n": 1}),
    "delete_items": lambda docs: docs.delete_items(iter(["a"])),
    "delete": lambda docs: docs.delete(),
}


@pytest.mark.parametrize("name", WRITES)
def test_own_transactions_are_tried_again(
    postgresql_engine: Engine, between: Callable[[Engine, int], list[str]], name: str
):
    """A few times where they cannot be serialized; PostgreSQL alone asks for it."""
    engine = create_engine(postgresql_engine.url, isolation_level="REPEATABLE READ")
    model = DeterministicModel()
    docs = Collection("docs", engine, model=model)
    docs.embed_multi(TEXTS)
    calls = len(model.calls)

    met = between(engine, 2)
    WRITES[name](docs)
    assert len(met) >= 3
    assert len(model.calls) == calls + (name == "embed")
    engine.dispose()


def test_not_forever_and_not_a_callers(
    postgresql_engine: Engine, between: Callable[[Engine, int], list[str]]
):
    """After some times the error passes; from a session it does at once."""
    engine = create_engine(postgresql_engine.url, isolation_level="REPEATABLE READ")
    docs = Collection("docs", engine, model=DeterministicModel())
    docs.embed_multi(TEXTS)

    met = between(engine, 1000)
    with pytest.raises(DBAPIError, match="could not serialize"):
        docs.set_metadata("a", {"n": 1})
    assert 3 <= len(met) <= 10

    met.clear()
    with Session(engine) as session, pytest.raises(DBAPIError, match="could not serialize"):
        Collection("docs", session, model=DeterministicModel()).set_metadata("a", {"n": 1})
    assert len(met) == 1
    engine.dispose()


def test_awaited(postgresql_engine: Engine, between: Callable[[Engine, int], list[str]]):
    """As well, with pauses that let others run."""

    async def write() -> list[str]:
        url = make_url(postgresql_engine.url).set(drivername="postgresql+asyncpg")
        engine = create_async_engine(url, isolation_level="REPEATABLE READ")
        docs = AsyncCollection("docs", engine, model=DeterministicModel())
        await docs.embed_multi(TEXTS)
        met = between(engine.sync_engine, 1)
        await docs.set_metadata("a", {"n": 1})
        await engine.dispose()
        return met

    assert len(asyncio.run(write())) == 2

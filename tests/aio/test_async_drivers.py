"""What asynchronous drivers and models are given: streams, vectors in binary, own methods."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sqlalchemy import Integer, String, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import embeddings
from embeddings import AsyncCollection, Collection, EmbeddingModel, SchemaError
from embeddings.testing import DeterministicModel
from tests.aio.test_async_collection import (
    asynchronous,
    connected,
    file,
    plain,
    plain_postgresql_url,
    sqlite_url,
    url,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sqlalchemy import Engine

__all__ = ["file", "plain", "plain_postgresql_url", "sqlite_url", "url"]


class HostBase(DeclarativeBase):
    pass


class Note(HostBase):
    __tablename__ = "notes_to_stream"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    title: Mapped[str] = mapped_column(String)


@pytest.fixture
def notes(plain: Engine) -> Any:
    """The host's table with rows."""
    HostBase.metadata.drop_all(plain)
    HostBase.metadata.create_all(plain)
    with Session(plain) as session:
        session.add_all(Note(id=number, title=f"note {number}") for number in range(250))
        session.commit()
    yield Note
    HostBase.metadata.drop_all(plain)


@pytest.mark.parametrize("is_awaited", [True, False])
@asynchronous
async def test_what_a_session_streams_is_embedded_in_that_session(url, notes, is_awaited):
    """Rows are read a batch at a time, in the transaction that writes."""
    async with connected(url) as engine, AsyncSession(engine) as session:
        docs = AsyncCollection("notes", session, model=DeterministicModel(), key=Note.id)
        stream: Any = session.stream(select(Note.id, Note.title).order_by(Note.id))
        report = await docs.embed_multi(await stream if is_awaited else stream, store=True)
        await session.commit()
        assert (report.embedded, report.requests) == (250, 3)
        assert (await docs.similar("note 77", number=1))[0].id == 77


async def generated(entries: list[Any]) -> AsyncIterator[Any]:
    for entry in entries:
        yield entry


@asynchronous
async def test_every_method_that_writes_many_takes_what_is_asynchronous(url):
    """A generator of the host's, on an engine: a batch is a transaction."""
    async with connected(url) as engine:
        docs = AsyncCollection("docs", engine, model=DeterministicModel())
        await docs.embed_multi(generated([("a", "one"), ("b", "two")]), batch_size=1)
        await docs.embed_multi_with_metadata(generated([("a", "one", {"n": 1})]))
        plan = await docs.plan(generated([("c", "three"), ("d", "four", {"n": 2})]))
        await plan.embed()
        await docs.apply(plan)
        await docs.store_vectors(generated([("e", DeterministicModel().embed("five"))]))
        assert await docs.ids() == ["a", "b", "c", "d", "e"]
        assert (await docs.similar("five", number=1))[0].id == "e"


@asynchronous
async def test_an_error_of_the_hosts_iterator_is_the_hosts(sqlite_url):
    """What was read before is written."""

    async def failing() -> AsyncIterator[Any]:
        yield "a", "one"
        yield "b", "two"
        raise LookupError("of the host")

    async with connected(sqlite_url) as engine:
        docs = AsyncCollection("docs", engine, model=DeterministicModel())
        with pytest.raises(LookupError, match="of the host"):
            await docs.embed_multi(failing(), batch_size=1)
        assert await docs.ids() == ["a", "b"]


def test_a_row_of_a_result_is_an_entry(plain: Engine, notes: Any):
    """The synchronous face takes rows, too."""
    with Session(plain) as session:
        docs = Collection("notes", session, model=DeterministicModel(), key=Note.id)
        docs.embed_multi(session.execute(select(Note.id, Note.title).limit(3)))
        assert docs.ids() == [0, 1, 2]


# Vectors in binary


@pytest.fixture
def asyncpg_url(postgresql_engine: Engine, postgresql_url: Any) -> str:
    return str(
        postgresql_url.set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)
    )


VECTORS = np.array(
    [[1e-40, -1.5, 3.4e38], [0.1, 1 / 3, -0.0], [np.finfo("f4").max, np.finfo("f4").tiny, 7e-45]],
    dtype=np.float32,
)


async def codec_of(connection: AsyncConnection) -> Any:
    """Return what the host gets for a vector, and whether it may send a text for one."""
    value = await connection.scalar(text("SELECT '[1,2,3]'::vector"))
    sent = await connection.scalar(
        text("SELECT CAST(:v AS vector)::text"), {"v": value if isinstance(value, str) else [1, 2]}
    )
    return type(value), sent


@pytest.mark.parametrize("cache", [100, 0])
@asynchronous
async def test_vectors_are_the_same_and_the_hosts_connection_is_as_before(asyncpg_url, cache):
    """To the bit; a vector is text to the host before and after, also without kept statements."""
    options = {"prepared_statement_cache_size": cache, "statement_cache_size": cache}
    async with connected(asyncpg_url, connect_args=options) as engine:
        async with engine.begin() as connection:
            before = await codec_of(connection)
            docs = AsyncCollection("docs", connection, model_id="none")
            for _ in range(3):
                await docs.store_vectors([(str(n), vector) for n, vector in enumerate(VECTORS)])
                assert await codec_of(connection) == before == (str, "[1,2,3]")
            stored = {record.id: record.embedding.tobytes() async for record in docs}
        assert stored == {str(n): vector.tobytes() for n, vector in enumerate(VECTORS)}


@asynchronous
async def test_a_codec_of_the_hosts_stays_and_is_no_obstacle(asyncpg_url):
    """As `pgvector.asyncpg.register_vector` makes it, before or after our first write."""
    from pgvector.asyncpg import register_vector

    async with connected(asyncpg_url) as engine, engine.connect() as connection:
        docs = AsyncCollection("docs", connection, model_id="none")
        raw = await connection.get_raw_connection()
        await register_vector(raw.driver_connection)
        before = await codec_of(connection)
        for _ in range(2):
            await docs.store_vectors([(str(n), vector) for n, vector in enumerate(VECTORS)])
            assert await codec_of(connection) == before
        stored = {record.id: record.embedding.tobytes() async for record in docs}
        assert stored == {str(n): vector.tobytes() for n, vector in enumerate(VECTORS)}
        await connection.rollback()


# Models


class Awaited(EmbeddingModel):
    """A model of a library's, which can be awaited."""

    model_id = "awaited"

    def __init__(self) -> None:
        self.calls: list[str] = []

    def embed_batch(self, items: Any) -> Any:
        self.calls.append("base")
        return [[1.0, 0.0] for _ in items]

    async def aembed_batch(self, items: Any) -> Any:
        self.calls.append("base, awaited")
        return [[1.0, 0.0] for _ in items]


class Overridden(Awaited):
    def embed_batch(self, items: Any) -> Any:
        self.calls.append("own")
        return [[0.0, 1.0] for _ in items]


class BothOverridden(Overridden):
    async def aembed_batch(self, items: Any) -> Any:
        self.calls.append("own, awaited")
        return [[0.0, 1.0] for _ in items]


class Wrapper:
    """Passes on what it does not have itself."""

    model_id = "awaited"

    def __init__(self, model: Awaited) -> None:
        self.model = model

    def embed_batch(self, items: Any) -> Any:
        self.model.calls.append("wrapper")
        return self.model.embed_batch(items)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["model"], name)


@pytest.mark.parametrize(
    ("model", "calls"),
    [
        (Awaited(), ["base, awaited"]),
        (Overridden(), ["own"]),
        (BothOverridden(), ["own, awaited"]),
        (Wrapper(Awaited()), ["wrapper", "base"]),
    ],
    ids=["neither overridden", "embed_batch overridden", "both", "wrapper"],
)
@asynchronous
async def test_an_overridden_embed_batch_is_not_passed_by(sqlite_url, model, calls):
    """The newer of the two methods is called."""
    async with connected(sqlite_url) as engine:
        docs: Any = AsyncCollection("docs", engine, model=model)
        await docs.embed("a", "text")
    assert model.calls == calls


# Errors


@pytest.mark.parametrize("function", [embeddings.migrate, embeddings.downgrade])
@asynchronous
async def test_migrations_of_an_asynchronous_engine_say_run_sync(url, function):
    """The error is what to write, and that works."""
    async with connected(url) as engine:
        for bind in (engine, engine.connect()):
            with pytest.raises(TypeError, match=r"run_sync\(embeddings\.") as caught:
                function(bind)
        assert function.__name__ in str(caught.value)
        assert "engine.begin()" in str(caught.value)
        async with engine.begin() as connection:
            await connection.run_sync(embeddings.migrate)


@asynchronous
async def test_a_migration_in_autocommit_says_how(asyncpg_url, postgresql_engine):
    """On an AsyncEngine that commits every statement; a collection on it works."""
    engine: AsyncEngine = create_async_engine(asyncpg_url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        with pytest.raises(SchemaError, match=r"(?s)AUTOCOMMIT.*READ COMMITTED.*run_sync"):
            await connection.run_sync(embeddings.downgrade)
    async with engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
        await connection.run_sync(embeddings.migrate)
    docs = AsyncCollection("docs", engine, model=DeterministicModel())
    await docs.embed_multi([("a", "one"), ("b", "two")])
    assert await docs.ids() == ["a", "b"]
    await engine.dispose()


@asynchronous
async def test_missing_tables_say_run_sync(tmp_path: Path):
    """In the words of the one who reads it."""
    async with connected(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}") as engine:
        docs = AsyncCollection("docs", engine, model=DeterministicModel())
        with pytest.raises(SchemaError, match=r"run_sync\(embeddings\.migrate\)"):
            await docs.embed("a", "text")


def test_a_collection_is_not_pickled_and_says_what_to_send(tmp_path: Path, engine: Engine):
    """Of either face, by pickle and by copy."""
    asynchronous_engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'b.db'}")
    collections = (
        Collection("docs", engine),
        Collection("docs", tmp_path / "c.db", model=DeterministicModel()),
        AsyncCollection("docs", asynchronous_engine),
    )
    for docs in collections:
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match=r"'docs' cannot be pickled.*\(name, engine\)"):
                attempt(docs)

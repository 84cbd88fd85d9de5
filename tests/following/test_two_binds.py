"""Sessions whose binds have the rows and the vectors in two databases, or in one by two engines."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, create_engine, insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from embeddings import (
    BindingError,
    CollectionRecord,
    EmbeddingRecord,
    ModelCollection,
)
from embeddings.testing import DeterministicModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

APART = "'bound_notes' in another database than 'embeddings'.*one engine.*make_records"


class Base(DeclarativeBase):
    """The host's."""


class Note(Base):
    """What is followed."""

    __tablename__ = "bound_notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    words: Mapped[str]


NOTES = ModelCollection(Note, text=[Note.words], name="notes", model=DeterministicModel())

CALLS: dict[str, Callable[[Any], object]] = {
    "install": NOTES.install,
    "uninstall": NOTES.uninstall,
    "trigger_problems": NOTES.trigger_problems,
    "sync": NOTES.sync,
    "audit": lambda db: NOTES.sync(db, dry_run=True),
    "refresh": NOTES.refresh,
    "refresh of keys": lambda db: NOTES.refresh(db, keys=[1]),
    "reembed": lambda db: NOTES.reembed(db, DeterministicModel("other")),
    "nearest": lambda db: NOTES.nearest(db, "one"),
    "related": lambda db: NOTES.related(db, Note(id=1)),
}


def binds(rows: Any, vectors: Any) -> dict[str, Any]:
    return {"binds": {Base: rows, EmbeddingRecord: vectors, CollectionRecord: vectors}}


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Engine]:
    """A database of the host's, without tables of ours."""
    engine = create_engine(f"sqlite:///{tmp_path / 'rows.db'}")
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("vectors", ["engine", "postgresql_engine"])
def test_two_databases(
    request: pytest.FixtureRequest, vectors: str, call: Callable[[Any], object], rows: Engine
):
    """It is said before anything is connected, with what to do."""
    given = binds(rows, request.getfixturevalue(vectors))
    with Session(**given) as session:
        with pytest.raises(BindingError, match=APART):
            call(session)
        assert not session.in_transaction()
    with pytest.raises(BindingError, match=APART):
        call(sessionmaker(**given))


def test_two_databases_awaited(engine: Engine, rows: Engine):
    """Likewise."""

    async def told() -> None:
        there = [
            create_async_engine(each.url.set(drivername="sqlite+aiosqlite"))
            for each in (rows, engine)
        ]
        given = binds(*there)
        async with AsyncSession(**given) as session:
            for call in (NOTES.async_, NOTES.arefresh, lambda db: NOTES.anearest(db, "one")):
                for database in (session, async_sessionmaker(**given)):
                    with pytest.raises(BindingError, match=APART):
                        await call(database)
        for each in there:
            await each.dispose()

    asyncio.run(told())


def test_one_database_by_two_engines(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Under another name of the file, by a URI, or on a connection: it is the same."""
    Base.metadata.create_all(engine)
    NOTES.install(engine)
    with engine.begin() as connection:
        connection.execute(insert(Note), [{"words": "one"}, {"words": "two"}])
    NOTES.sync(engine)
    monkeypatch.chdir(tmp_path)
    for url in (
        f"sqlite:///{tmp_path}/app.db",
        "sqlite:///app.db",
        "sqlite:///file:app.db?mode=ro&uri=true",
    ):
        other = create_engine(url)
        with Session(**binds(other, engine)) as session:
            assert NOTES.trigger_problems(session) == []
            assert NOTES.nearest(session, "one")[0].Note.words == "one"
        assert NOTES.sync(sessionmaker(**binds(other, engine))).unchanged == 2
        other.dispose()
    with engine.connect() as connection, Session(**binds(connection, connection)) as session:
        assert NOTES.refresh(session, keys=[1]).unchanged == 1


def test_one_database_of_a_server_by_two_engines(postgresql_engine: Engine):
    """A pooler's address is another, and its database the same."""
    other = create_engine(postgresql_engine.url)
    with Session(**binds(other, postgresql_engine)) as session:
        assert NOTES.trigger_problems(session) == ["the triggers on 'bound_notes' are missing"]
    elsewhere = create_engine(postgresql_engine.url.set(database="another"))
    session = Session(**binds(elsewhere, postgresql_engine))
    with session, pytest.raises(BindingError, match=APART):
        NOTES.nearest(session, "one")
    other.dispose()


def test_a_session_that_chooses_for_each_statement(engine: Engine, tmp_path: Path):
    """Its binds are copies of one database, of which each question may have another."""
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(Note), [{"words": "one"}, {"words": "two"}])
    NOTES.sync(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("VACUUM INTO ?", (str(tmp_path / "copy.db"),))
    copy = create_engine(f"sqlite:///{tmp_path / 'copy.db'}")
    chosen = itertools.cycle((engine, copy))

    class Routed(Session):
        def get_bind(self, *_: Any, **__: Any) -> Engine:
            return next(chosen)

    for _ in range(4):
        with Routed() as session:
            assert NOTES.nearest(session, "one")[0].Note.words == "one"
    copy.dispose()

"""No log and no exception shows contents, metadata, vectors or passwords, whatever goes wrong.

An id is named where an error is about that very item. What SQLAlchemy's errors show on a host's own
engine is the host's: `hide_parameters=True` hides it, as on the engines that we open.
"""

from __future__ import annotations

import logging
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from embeddings import AsyncCollection, Collection, CorruptVectorWarning, EmbeddingsError
from embeddings.models.base import EmbeddingModel
from tests.asynchronous import Awaited, in_the_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

CONTENT, META, NUMBER, PASSWORD = "SECRET-content", "SECRET-metadata", 0.8675309, "SECRET-password"
SECRETS = (CONTENT, META, str(NUMBER), PASSWORD)
ITEMS = [("a", CONTENT, {"m": META}), ("b", CONTENT + "2", {"m": META})]
DRIVERS = {
    "sqlite": ("sqlite+pysqlite", False),
    "aiosqlite": ("sqlite+aiosqlite", True),
    "psycopg": ("postgresql+psycopg", False),
    "async psycopg": ("postgresql+psycopg", True),
    "asyncpg": ("postgresql+asyncpg", True),
}


class Secretive(EmbeddingModel):
    """A model whose vectors can be recognised, and that can answer wrongly."""

    model_id = "secretive"
    dimensions = 2

    def embed_batch(self, items: Any) -> list[list[float]]:
        return [[NUMBER] * self.dimensions for _ in items]


def shown(error: BaseException) -> str:
    """Return all that a log or a terminal would show of an exception and of what led to it."""
    return "".join([str(error), repr(error), *traceback.format_exception(error)])


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """Return what was logged, but by aiosqlite, which logs every call with its arguments."""
    return "".join(record.getMessage() for record in caplog.records if record.name != "aiosqlite")


class Scene:
    """A collection, and a connection beside it to provoke errors with."""

    def __init__(self, docs: Any, model: Secretive, outside: Engine) -> None:
        self.docs, self.model, self.outside = docs, model, outside
        self.is_sqlite = outside.dialect.name == "sqlite"

    def write(self) -> None:
        """Write two items with everything that is secret."""
        self.docs.embed_multi_with_metadata(ITEMS, store=True)

    def change(self, sql: str) -> None:
        """Change something past the library."""
        with self.outside.begin() as connection:
            connection.execute(text(sql))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep writers out."""
        with self.outside.connect() as connection:
            connection.execute(
                text(
                    "BEGIN IMMEDIATE"
                    if self.is_sqlite
                    else "LOCK TABLE embeddings, collections IN ACCESS EXCLUSIVE MODE"
                )
            )
            yield
            connection.rollback()


def refused_by_the_database(scene: Scene) -> None:
    """A host's constraint, in a trigger."""
    if scene.is_sqlite:
        scene.change(
            "CREATE TRIGGER refuse BEFORE INSERT ON embeddings "
            "BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
    else:
        scene.change(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql "
            "AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$"
        )
        scene.change(
            "CREATE TRIGGER refuse BEFORE INSERT ON embeddings "
            "FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    try:
        scene.write()
    finally:
        scene.change("DROP TRIGGER refuse" + " ON embeddings" * (not scene.is_sqlite))
        if not scene.is_sqlite:
            scene.change("DROP FUNCTION refuse")


def locked_out(scene: Scene) -> None:
    """Another writer takes longer than one is prepared to wait."""
    with scene.locked():
        scene.write()


def without_a_table(scene: Scene) -> None:
    """Somebody took it away."""
    scene.change("ALTER TABLE embeddings RENAME TO gone")
    try:
        scene.write()
    finally:
        scene.change("ALTER TABLE gone RENAME TO embeddings")


def of_other_dimensions(scene: Scene) -> None:
    """A model changed its mind."""
    scene.write()
    scene.model.dimensions = 3
    scene.docs.embed("c", CONTENT + "3", {"m": META}, store=True)


def with_a_bad_vector(scene: Scene) -> None:
    """What comes from elsewhere is checked."""
    scene.docs.store_vectors([("c", [NUMBER, float("nan")], {"m": META}, CONTENT)])


def with_a_bad_content(scene: Scene) -> None:
    """A NUL in a text."""
    scene.docs.embed("c", f"{CONTENT}\0", {"m": META})


def with_bad_metadata(scene: Scene) -> None:
    """No JSON."""
    scene.docs.embed("c", CONTENT, {"m": [META, {META}]})


def with_a_query_of_other_dimensions(scene: Scene) -> None:
    """The vector of another model."""
    scene.write()
    scene.docs.similar_by_vector([NUMBER] * 3)


PROVOKED: list[Callable[[Scene], None]] = [
    refused_by_the_database, locked_out, without_a_table, of_other_dimensions, with_a_bad_vector,
    with_a_bad_content, with_bad_metadata, with_a_query_of_other_dimensions,
]  # fmt: skip


@pytest.fixture
def url(driver: str, engine: Engine, request: pytest.FixtureRequest) -> str:
    """A database with a password in its URL, that waits a moment for locks."""
    name, _ = DRIVERS[driver]
    if "sqlite" in name:
        return f"{name}:///{engine.url.database}"
    server = request.getfixturevalue("postgresql_engine").url
    located = server.set(drivername=name, username="postgres", password=PASSWORD)
    return str(located.render_as_string(hide_password=False))


@pytest.mark.parametrize("provoke", PROVOKED, ids=lambda provoke: provoke.__name__)
@pytest.mark.parametrize("owner", ["ours", "host"])
@pytest.mark.parametrize("driver", DRIVERS)
def test_an_error_shows_no_secret(driver, owner, provoke, url, engine, request, caplog):
    """Neither on an engine that we open, nor on a host's that hides its parameters."""
    _, is_async = DRIVERS[driver]
    is_sqlite = "sqlite" in driver
    outside = engine if is_sqlite else request.getfixturevalue("postgresql_engine")
    model = Secretive()

    def work() -> Exception:
        db: Any = url
        if owner == "host":
            options: dict[str, Any] = {"hide_parameters": True}
            if is_sqlite:
                options["connect_args"] = {"timeout": 0.05}
            db = (create_async_engine if is_async else create_engine)(url, **options)
        if not is_sqlite:  # for connections that are still to be made
            db_name = outside.url.database
            with outside.begin() as connection:
                connection.execute(text(f"ALTER DATABASE {db_name} SET lock_timeout = '100ms'"))
        docs: Any = (Awaited if is_async else Collection)("docs", db, model=model)
        scene = Scene(docs, model, outside)
        docs.count()
        try:
            with pytest.raises((EmbeddingsError, DBAPIError)) as raised:
                provoke(scene)
        finally:
            if not is_sqlite:
                scene.change(f"ALTER DATABASE {db_name} RESET lock_timeout")
            docs.close()
            if owner == "host":
                getattr(db, "sync_engine", db).dispose()
        return raised.value

    if owner == "ours" and is_sqlite and provoke is locked_out:
        pytest.skip("an engine of ours waits for a minute")
    caplog.set_level(logging.DEBUG)
    error = in_the_loop(work) if is_async else work()
    assert [secret for secret in SECRETS if secret in shown(error) + logged(caplog)] == []


def test_a_corrupt_row_is_warned_of_by_its_id(engine, caplog):
    """And by nothing else of it."""
    caplog.set_level(logging.DEBUG)
    docs = Collection("docs", engine, model=Secretive())
    docs.embed_multi_with_metadata(ITEMS, store=True)
    with engine.begin() as connection:
        connection.execute(text("UPDATE embeddings SET embedding = x'00' WHERE id = 'b'"))
    with pytest.warns(CorruptVectorWarning, match="'b'") as caught:
        docs.similar_by_vector([NUMBER, 1.0])
    told = "".join(str(warning.message) for warning in caught) + logged(caplog)
    assert [secret for secret in SECRETS if secret in told] == []


@pytest.mark.parametrize(
    "url",
    ["postgresql+psycopg://user:SECRET-password@127.0.0.1:1/none",
     "postgresql+psycopg2://user:SECRET-password@127.0.0.1:1/none",
     "postgresql+asyncpg://user:SECRET-password@127.0.0.1:1/none",
     "postgresql+nothing://user:SECRET-password@127.0.0.1:1/none",
     "mysql://user:SECRET-password@127.0.0.1:1/none",
     "oracle+oracledb://user:SECRET-password@127.0.0.1:1/none",
     "postgresql://user:SECRET-password@127.0.0.1:port/none",
     "SECRET-password://", "://user:SECRET-password@host"],
)  # fmt: skip
@pytest.mark.parametrize("face", [Collection, AsyncCollection])
def test_a_url_that_leads_nowhere_shows_no_password(url, face, caplog):
    """Whoever refuses it."""
    caplog.set_level(logging.DEBUG)

    def work() -> None:
        with (Awaited if face is AsyncCollection else Collection)("docs", url, model=Secretive()):
            pass

    with pytest.raises(Exception) as raised:  # noqa: PT011  SQLAlchemy's, the driver's or ours
        in_the_loop(work) if face is AsyncCollection else work()
    assert PASSWORD not in str(raised.value) + repr(raised.value) + logged(caplog)
    trace = traceback.format_exception(raised.value)
    assert PASSWORD not in "".join(trace).replace(url, "")


def test_a_hosts_engine_shows_what_it_is_asked_to(engine):
    """SQLAlchemy's errors pass unchanged: on a plain engine they quote parameters in brief."""
    docs = Collection("docs", engine, model=Secretive())
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TRIGGER refuse BEFORE INSERT ON embeddings "
                "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
        )
    with pytest.raises(DBAPIError) as raised:
        docs.embed("a", CONTENT, store=True)
    assert CONTENT in str(raised.value)
    assert raised.value.hide_parameters is False

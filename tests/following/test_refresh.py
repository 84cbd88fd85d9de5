"""`ModelCollection.refresh` and `sync`: what is pending is embedded, by any number of workers."""

from __future__ import annotations

import asyncio
import errno
import itertools
import re
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import (
    URL,
    Engine,
    ForeignKey,
    String,
    create_engine,
    delete,
    event,
    func,
    insert,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import CITEXT
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from sqlalchemy.pool import NullPool

from embeddings import (
    Collection,
    InvalidItemError,
    InvalidQueryError,
    MissingWordsWarning,
    ModelCollection,
    RefusedError,
    Report,
    UnavailableError,
    databases,
    migrate,
)
from embeddings.driver_errors import sqlstate
from embeddings.following import pending, refresh
from embeddings.following.pending import Pending
from embeddings.tables.pending import pending_table
from embeddings.tables.records import RECORDS, now
from embeddings.testing import DeterministicModel
from tests.reaching import new_database, wait_until
from tests.server import controlled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PENDING = pending_table(RECORDS)


class Base(DeclarativeBase):
    """The host's."""


class Note(Base):
    """What is followed."""

    __tablename__ = "refreshed_notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None]
    body: Mapped[str | None]
    lang: Mapped[str | None]
    published: Mapped[bool] = mapped_column(default=True)


class Model(DeterministicModel):
    """A model during whose calls something may happen."""

    def __init__(self) -> None:
        super().__init__()
        self.happens: Callable[[list[Any]], None] = lambda _: None

    def embed_batch(self, items: Any) -> Any:
        self.happens(list(items))
        return super().embed_batch(items)


@pytest.fixture
def model() -> Model:
    """The collection's."""
    return Model()


@pytest.fixture
def notes(model: Model) -> ModelCollection[Note]:
    """A declared collection."""
    return ModelCollection(
        Note,
        text=[Note.title, Note.body],
        metadata=[Note.lang],
        where=Note.published,
        name="notes",
        model=model,
    )


@pytest.fixture(params=["engine", "postgresql_engine"])
def own(request: pytest.FixtureRequest, notes: ModelCollection[Note]) -> Iterator[Engine]:
    """An engine on each database, with eight notes that came before the triggers."""
    engine: Engine = request.getfixturevalue(request.param)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        rows = [{"id": n, "title": f"title {n}", "body": f"body {n}"} for n in range(1, 9)]
        connection.execute(insert(Note), rows)
    notes.install(engine)
    yield engine
    notes.uninstall(engine)
    Base.metadata.drop_all(engine)


def change(engine: Engine, *statements: Any) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(statement)


def count(engine: Engine, *conditions: Any) -> int:
    with engine.connect() as connection:
        return len(
            connection.execute(
                select(PENDING.c.seq).where(PENDING.c.collection == "notes", *conditions)
            ).all()
        )


def is_right(notes: ModelCollection[Note], engine: Engine) -> bool:
    """Return whether nothing is stale, missing or orphaned, and nothing is pending."""
    audit = notes.sync(engine, dry_run=True)
    return (audit.stale, audit.missing, audit.orphaned) == ((), (), ()) and count(engine) == 0


def test_a_text_index_that_was_made_later(notes: ModelCollection[Note], own: Engine, model: Model):
    """`sync` puts in the words of rows that are as they were, and calls no model for it."""
    notes.sync(own)
    docs = notes.collection(own)
    with pytest.warns(MissingWordsWarning):
        assert docs.create_text_index() == 8
    model.calls.clear()
    report = notes.sync(own)
    assert (report.unchanged, report.embedded, report.reused) == (8, 0, 0)
    assert model.calls == []
    assert [entry.id for entry in docs.similar("x", words="7", weights=(0, 1))] == [7]


def test_triggers_that_are_missing_are_warned_of(
    notes: ModelCollection[Note], own: Engine, caplog: pytest.LogCaptureFixture
):
    """Once for each call, since nothing is pending then; not for a request's own keys."""
    notes.refresh(own)
    assert caplog.messages == []
    notes.uninstall(own)
    change(own, update(Note).where(Note.id == 1).values(title="edited"))
    assert notes.refresh(own, keys=[1]).embedded == 1
    assert caplog.messages == []
    assert notes.refresh(own).embedded == 0
    asyncio.run(_refreshed(notes, own))
    with Session(own) as session:
        notes.refresh(session)
    assert len(caplog.messages) == 3
    for told in caplog.messages:
        assert told.startswith("refresh of 'notes' may not see all changes: ")
        assert {"missing", "install", "sync"} <= {*re.findall(r"\w+", told)}


async def _refreshed(notes: ModelCollection[Note], own: Engine) -> None:
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
    engine = create_async_engine(own.url.set(drivername=drivers[own.dialect.name]))
    try:
        await notes.arefresh(engine)
    finally:
        await engine.dispose()


def test_what_changes_is_embedded(notes: ModelCollection[Note], own: Engine, model: Model):
    """The first fill by `sync`; then whatever changes, whoever changes it, by `refresh`."""
    assert notes.sync(own).embedded == 8
    assert notes.refresh(own) == Report()
    change(
        own,
        update(Note).where(Note.id == 1).values(title="edited"),
        update(Note).where(Note.id == 2).values(lang="de"),
        update(Note).where(Note.id == 3).values(published=False),
        update(Note).where(Note.id == 4).values(title="", body=None),
        delete(Note).where(Note.id == 5),
        insert(Note).values(id=9, title="new", body="one", published=True),
        insert(Note).values(id=10, title="hidden", body="one", published=False),
        update(Note).where(Note.id == 6).values(id=60),
        text("UPDATE refreshed_notes SET body = 'raw' WHERE id = 7"),
    )
    model.calls.clear()
    told: list[tuple[int, int | None]] = []
    report = notes.refresh(own, progress=lambda done, total: told.append((done, total)))
    assert (report.embedded, report.pending, report.skipped) == (4, 0, ())
    texts = ["edited\n\nbody 1", "new\n\none", "title 6\n\nbody 6", "title 7\n\nraw"]
    assert sorted(model.calls[0]) == texts
    assert told
    assert is_right(notes, own)
    docs = notes.collection(own)
    assert sorted(docs.ids()) == [1, 2, 7, 8, 9, 60]
    record = docs.get(2)
    assert record is not None
    assert record.metadata_ == {"lang": "de"}
    assert notes.refresh(own) == Report()


def test_a_function_makes_the_text(own: Engine, model: Model, notes: ModelCollection[Note]):
    """The same, where Python makes the texts; a function that fails puts its row off."""

    def shout(note: Note) -> str | None:
        if note.title == "bad":
            raise ZeroDivisionError(note.body)
        return note.title and note.title.upper()

    loud = ModelCollection(
        Note, text=shout, columns=[Note.title], metadata=[Note.lang], name="notes", model=model
    )
    assert loud.sync(own).embedded == 8
    assert loud.sync(own) == Report(unchanged=8)
    change(
        own,
        update(Note).where(Note.id == 1).values(title=None),
        update(Note).where(Note.id == 2).values(title="bad"),
        update(Note).where(Note.id == 3).values(title="good"),
    )
    with pytest.raises(ZeroDivisionError) as failed:
        loud.sync(own, dry_run=True)
    assert failed.value.__notes__ == ["It was raised by text= for the row 2"]
    report = loud.refresh(own)
    assert (report.embedded, report.removed, report.pending) == (1, 1, 1)
    line = shout.__code__.co_firstlineno + 2
    assert report.skipped == ((2, f"ZeroDivisionError at test_refresh.py:{line}"),)
    assert "title" not in str(loud.pending(own).failing)
    change(own, update(Note).where(Note.id == 2).values(title="better"))
    assert loud.refresh(own).embedded == 1
    assert is_right(loud, own)


class Shelf(Base):
    __tablename__ = "shelves"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    books: Mapped[list[Book]] = relationship(lazy="joined", back_populates="shelf")


class Book(Base):
    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    shelf_id: Mapped[int] = mapped_column(ForeignKey(Shelf.id))
    title: Mapped[str]
    shelf: Mapped[Shelf] = relationship(back_populates="books")


def test_a_relation_that_the_class_loads_by_a_join(own: Engine, model: Model):
    """An instance is there once, with all of them."""
    shelves = ModelCollection(
        Shelf,
        text=lambda shelf: ", ".join([shelf.title, *(book.title for book in shelf.books)]),
        columns=[Shelf.title],
        store=True,
        name="shelves",
        model=model,
    )
    shelves.install(own)
    change(
        own,
        insert(Shelf).values([{"id": n, "title": f"shelf {n}"} for n in range(1, 4)]),
        insert(Book).values(
            [{"id": 10 * n + k, "shelf_id": n, "title": f"{n}.{k}"} for n in (1, 2) for k in (1, 2)]
        ),
    )
    assert shelves.sync(own).embedded == 3
    assert shelves.refresh(own).embedded == 0
    assert shelves.sync(own).unchanged == 3
    contents = {record.key: record.content for record in shelves.collection(own)}
    assert contents == {1: "shelf 1, 1.1, 1.2", 2: "shelf 2, 2.1, 2.2", 3: "shelf 3"}
    shelves.uninstall(own)


def test_what_the_function_changes_is_not_stored(own: Engine, model: Model):
    """Not of an instance whose relation it reads then, for which a session would flush."""

    def tidied(book: Book) -> str:
        book.title = book.title.strip()
        return f"{book.title} on {book.shelf.title}"

    books = ModelCollection(Book, text=tidied, columns=[Book.title], name="books", model=model)
    books.install(own)
    change(own, insert(Shelf).values(id=1, title="shelf"))
    change(own, insert(Book).values([{"id": n, "shelf_id": 1, "title": " t "} for n in (1, 2)]))
    with Session(own) as session:
        assert books.sync(session, dry_run=True).missing == (1, 2)
        assert books.sync(session).embedded == 2
        session.commit()
    change(own, update(Book).values(title=" u "))
    assert books.sync(own, dry_run=True).stale == (1, 2)
    assert books.refresh(own).embedded == 2
    assert books.sync(own) == Report(unchanged=2)
    with Session(own) as session:
        assert {*session.scalars(select(Book.title))} == {" u "}
    books.uninstall(own)


def test_instances_are_compared_by_their_texts(own: Engine, model: Model):
    """Each row is read once; what differs in text or metadata, is new or has none is found."""

    def shout(note: Note) -> str | None:
        return note.title and note.title.upper()

    loud = ModelCollection(
        Note, text=shout, columns=[Note.title], metadata=[Note.lang], name="notes", model=model
    )
    loud.sync(own)
    read: list[str] = []

    @event.listens_for(own, "before_cursor_execute")
    def note(_: Any, __: Any, sql: str, *___: Any) -> None:
        if "SELECT" in sql and "refreshed_notes.title" in sql:
            read.append(sql)

    assert loud.sync(own) == Report(unchanged=8)
    event.remove(own, "before_cursor_execute", note)
    assert len(read) == 1
    change(
        own,
        update(Note).where(Note.id == 1).values(title=None),
        update(Note).where(Note.id == 2).values(lang="de"),
        update(Note).where(Note.id == 3).values(title="good"),
        delete(Note).where(Note.id == 4),
        insert(Note).values(id=9, title="new"),
    )
    loud.collection(own).set_metadata(5, {"lang": None, "more": 1})
    audit = loud.sync(own, dry_run=True)
    assert (audit.stale, audit.missing, audit.orphaned) == ((2, 3, 5), (9,), (1,))
    assert audit.unchanged == 3
    assert loud.sync(own, prune=False).embedded == 2
    assert loud.sync(own, dry_run=True) == Report(unchanged=7, orphaned=(1,))
    assert loud.sync(own).removed == 1
    change(own, update(Note).values(title=None))
    with pytest.raises(InvalidQueryError, match="has no rows"):
        loud.sync(own)
    assert loud.sync(own, allow_empty=True).removed == 7


def test_what_changes_meanwhile(notes: ModelCollection[Note], own: Engine, model: Model):
    """It is given back and taken again at once; what is deleted meanwhile does not come back."""
    notes.sync(own)
    change(own, update(Note).values(body="second"))

    def happens(items: list[Any]) -> None:
        model.happens = lambda _: None
        with Session(own) as session:
            session.execute(update(Note).where(Note.id == 1).values(body="third"))
            session.execute(delete(Note).where(Note.id == 2))
            session.execute(update(Note).where(Note.id == 3).values(published=False))
            session.commit()
            session.execute(update(Note).where(Note.id == 4).values(body="third"))
            notes.collection(session).embed(4, "title 4\n\nthird", {"lang": None})
            session.commit()

    model.happens = happens
    report = notes.refresh(own)
    assert (report.pending, report.skipped) == (0, ())
    assert is_right(notes, own)
    assert sorted(notes.collection(own).ids()) == [1, 4, 5, 6, 7, 8]
    assert any("title 1\n\nthird" in call for call in model.calls)


def test_refreshers_share_the_work(
    notes: ModelCollection[Note],
    own: Engine,
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
):
    """What one has claimed another leaves alone, unless the first is gone for longer than a lease.

    The claim of one that is still at work is renewed.
    """
    change(own, update(Note).values(body="second"))
    gone = Pending(notes.collection(own).reference)
    assert len(gone.claim(3, None, ())) == 3
    report = notes.refresh(own)
    assert (report.embedded, report.pending) == (5, 3)

    moment = now()
    monkeypatch.setattr(pending, "now", lambda: moment)
    monkeypatch.setattr(refresh, "LEASE", 0.03)  # to be renewed every 10 milliseconds
    moment += pending.LEASE + 1
    held = threading.Event()

    def happens(items: list[Any]) -> None:
        nonlocal moment
        moment += pending.LEASE + 1  # more than the lease has gone by
        while not count(own, PENDING.c.claimed_until >= moment):
            assert not held.wait(0.01)
        assert notes.refresh(own) == Report(pending=3)

    model.happens = happens
    assert notes.refresh(own).embedded == 3
    assert is_right(notes, own)


def test_a_claim_by_a_clock_that_was_ahead(
    notes: ModelCollection[Note], own: Engine, monkeypatch: pytest.MonkeyPatch
):
    """No claim holds for a day: that of a process that was killed then is taken over at once."""
    change(own, update(Note).values(body="second"))
    with monkeypatch.context() as ahead:
        ahead.setattr(pending, "now", lambda: now() + 86_400)
        assert len(Pending(notes.collection(own).reference).claim(3, None, ())) == 3
    report = notes.refresh(own)
    assert (report.embedded, report.pending) == (8, 0)
    assert is_right(notes, own)


def test_a_row_that_cannot_be_embedded(
    notes: ModelCollection[Note],
    own: Engine,
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
):
    """It is tried five times, with growing pauses, and then when it changes; others go on."""
    moment = now()
    monkeypatch.setattr(pending, "now", lambda: moment)

    def happens(items: list[Any]) -> None:
        for position, item in enumerate(items):
            if "poison" in item:
                error = RefusedError("The service does not take it", reason="no poison")
                error.positions = (position,)
                raise error

    model.happens = happens
    change(own, update(Note).where(Note.id == 1).values(body="poison"))
    change(own, update(Note).where(Note.id == 2).values(body="sound"))
    report = notes.refresh(own)
    assert (report.embedded, report.pending, report.skipped) == (1, 1, ((1, "no poison"),))
    pauses = []
    for _ in range(4):
        assert notes.refresh(own) == Report(pending=1)
        before = moment
        while not (again := notes.refresh(own)).skipped:
            assert again == Report(pending=1)
            moment += 30
        pauses.append(moment - before)
    assert pauses == sorted(pauses)
    (failing,) = notes.pending(own).failing
    assert failing == (1, 5, "no poison", True)
    moment += 1_000_000
    assert notes.refresh(own) == Report(pending=1)

    change(own, update(Note).where(Note.id == 1).values(body="more poison"))
    for attempt in range(1, 6):
        assert notes.refresh(own).skipped == ((1, "no poison"),)
        assert notes.pending(own).failing == ((1, attempt, "no poison", attempt == 5),)
        moment += max(pending.PAUSES) + 1
    assert notes.refresh(own) == Report(pending=1)
    change(own, update(Note).where(Note.id == 1).values(body="sound"))
    assert notes.refresh(own).embedded == 1
    assert notes.pending(own) == (0, None, ())

    change(own, update(Note).where(Note.id == 1).values(body="poison"))
    with pytest.raises(RefusedError):
        notes.refresh(own, on_error="raise")
    assert len(notes.pending(own).failing) == 1


def test_a_service_that_fails(notes: ModelCollection[Note], own: Engine, model: Model):
    """It puts nothing off: what was claimed is given back, and what was embedded stays."""
    change(own, update(Note).values(body="second"))

    def happens(items: list[Any]) -> None:
        if "title 5\n\nsecond" in items:
            raise UnavailableError("no answer")

    model.happens = happens
    with pytest.raises(UnavailableError):
        notes.refresh(own, batch_size=2)
    assert notes.collection(own).count() == 4
    assert count(own, PENDING.c.claimed_by.is_not(None)) == 0
    model.happens = lambda _: None
    model.calls.clear()
    assert notes.refresh(own, batch_size=2, concurrency=4).embedded == 4
    assert sorted(map(len, model.calls)) == [2, 2]


class AnsweredError(OSError):
    """What clients raise that have got an answer, such as of the status 400."""

    response = "400 Bad Request"


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        OSError(errno.EHOSTUNREACH, "no route"),
        OSError("an image that is cut off"),
        FileNotFoundError(2, "No such file", "title 5"),
        AnsweredError(),
    ],
    ids=str,
)
def test_a_model_of_ones_own_that_fails(
    notes: ModelCollection[Note], own: Engine, model: Model, error: OSError
):
    """It is called once where no service is reached; others may be about one item."""
    tried: list[list[Any]] = []

    def happens(items: list[Any]) -> None:
        if "title 5\n\nsecond" in items:
            tried.append(items)
            raise error

    model.happens = happens
    change(own, update(Note).values(body="second"))
    kind = type(error)
    if kind in {FileNotFoundError, AnsweredError} or error.args == ("an image that is cut off",):
        line = happens.__code__.co_firstlineno + 3
        told = f"{kind.__name__} at test_refresh.py:{line}"
        assert notes.sync(own, on_error="skip").skipped == ((5, told),)
        assert notes.refresh(own).skipped == ((5, told),)
        return
    for call in (notes.refresh, notes.sync):
        with pytest.raises(kind):
            call(own, on_error="skip")
    assert len(tried) == 2
    assert count(own) == 8


@pytest.mark.parametrize("kind", ["NOCASE", "citext"])
def test_keys_that_are_compared_without_case(
    request: pytest.FixtureRequest, model: Model, kind: str
):
    """A row is known by its key as it is written, and by no other."""

    class Local(DeclarativeBase):
        """Of this kind of key alone."""

    sql_type = CITEXT() if kind == "citext" else String(collation="NOCASE")

    class Word(Local):
        __tablename__ = "words_without_case"
        word: Mapped[str] = mapped_column(sql_type, primary_key=True)
        text: Mapped[str]

    own: Engine = request.getfixturevalue("postgresql_engine" if kind == "citext" else "engine")
    if kind == "citext":
        change(own, text("CREATE EXTENSION IF NOT EXISTS citext"))
    words = ModelCollection(Word, text=[Word.text], name="words", model=model)
    Local.metadata.create_all(own)
    words.install(own)
    try:
        change(own, insert(Word).values(word="abc", text="first"))
        words.collection(own).embed("ABC", "another")
        assert words.refresh(own, keys=["ABC", "Abc"]).removed == 1
        assert words.refresh(own).embedded == 1
        assert {*words.collection(own).ids()} == {"abc"}
        change(own, update(Word).values(word="ABC"), update(Word).values(text="second"))
        assert words.refresh(own, keys=["abc"]).pending == 1
        assert words.refresh(own).embedded == 1
        assert words.sync(own, dry_run=True) == Report(unchanged=1)
        assert {*words.collection(own).ids()} == {"ABC"}
    finally:
        words.uninstall(own)
        Local.metadata.drop_all(own)


def test_some_of_it(notes: ModelCollection[Note], own: Engine):
    """`limit` and `keys`; on a session within its transaction."""
    change(own, update(Note).values(body="second"))
    report = notes.refresh(own, limit=3)
    assert (report.embedded, report.pending) == (3, 5)
    report = notes.refresh(own, keys=[7, 8, 99])
    assert (report.embedded, report.pending) == (2, 3)
    with Session(own) as session:
        note = session.get(Note, 8)
        assert note is not None
        note.body = "third"
        assert notes.refresh(session, keys=[8]).embedded == 1
        assert notes.collection(session).similar("third", number=1)[0].id == 8
        session.rollback()
        assert notes.sync(session, dry_run=True).stale == ()
        note = session.get(Note, 8)
        assert note is not None
        note.body = "fourth"
        assert notes.refresh(session).embedded == 4
        session.commit()
    assert is_right(notes, own)
    with pytest.raises(InvalidItemError, match="are int"):
        notes.refresh(own, keys=["a"])
    with Session(own) as session, pytest.raises(InvalidItemError, match="give it an engine"):
        notes.refresh(session, forever=True)


def test_for_ever(notes: ModelCollection[Note], own: Engine, monkeypatch: pytest.MonkeyPatch):
    """It looks until it is told to stop."""
    monkeypatch.setattr(refresh, "POLL", 0.01)
    stop = threading.Event()
    reports: list[Report] = []
    thread = threading.Thread(
        target=lambda: reports.append(notes.refresh(own, forever=True, stop=stop))
    )
    thread.start()
    for number in range(1, 4):
        change(own, update(Note).where(Note.id == number).values(body="second"))
        wait_until(lambda: not count(own), thread)
    stop.set()
    thread.join()
    assert reports[0].embedded == 3


@pytest.mark.parametrize("driver", ["aiosqlite", "asyncpg"])
def test_awaited(request: pytest.FixtureRequest, driver: str, notes: ModelCollection[Note]):
    """The same on asynchronous engines and sessions."""
    fixture = "engine" if driver == "aiosqlite" else "postgresql_engine"
    own: Engine = request.getfixturevalue(fixture)
    Base.metadata.create_all(own)
    notes.install(own)
    change(own, insert(Note).values([{"id": n, "title": f"n {n}"} for n in (1, 2, 3)]))

    async def run() -> None:
        url = own.url.set(drivername=f"{own.dialect.name}+{driver}")
        engine = create_async_engine(url)
        assert (await notes.async_(engine, dry_run=True)).missing == (1, 2, 3)
        assert (await notes.apending(engine)).items == 3
        stop = asyncio.Event()
        task = asyncio.create_task(notes.arefresh(engine, forever=True, stop=stop))
        while (await notes.apending(engine)).items:
            await asyncio.sleep(0.01)
        stop.set()
        assert (await task).embedded == 3
        assert await notes.async_(engine) == Report(unchanged=3)
        await engine.dispose()

    try:
        asyncio.run(run())
        assert is_right(notes, own)
    finally:
        notes.uninstall(own)
        Base.metadata.drop_all(own)


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_cancelled_at_any_commit_nothing_stays_claimed(
    driver: str, postgresql_engine: Engine, notes: ModelCollection[Note]
):
    """The server may have committed a claim of which the client was not told any more."""
    own = postgresql_engine
    Base.metadata.create_all(own)
    notes.install(own)
    change(own, insert(Note).values([{"id": n, "title": f"n {n}"} for n in range(1, 9)]))
    cancelled = 0

    async def run(at: int) -> None:
        engine = create_async_engine(own.url.set(drivername=f"postgresql+{driver}"))
        task = asyncio.create_task(notes.arefresh(engine, batch_size=2))
        commits = itertools.count(1)

        def note(_: Any) -> None:
            if next(commits) == at:
                task.cancel()

        event.listen(engine.sync_engine, "commit", note)
        try:
            await task
        finally:
            await engine.dispose()

    for at in range(1, 20):
        try:
            asyncio.run(run(at))
        except asyncio.CancelledError:
            cancelled += 1
        claimed = select(func.count()).where(PENDING.c.claimed_by.is_not(None))
        with own.connect() as connection:
            assert connection.scalar(claimed) == 0, at
    assert cancelled > 2
    notes.uninstall(own)
    Base.metadata.drop_all(own)


@pytest.fixture(scope="module")
def restarted() -> Iterator[tuple[str, Callable[..., None]]]:
    """The URL of a server that tests may stop and start, and what runs its programs."""
    with controlled() as server:
        yield server


@pytest.mark.parametrize("begun", ["before", "meanwhile"])
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_for_ever_outlives_the_server(
    driver: str,
    begun: str,
    restarted: tuple[str, Callable[..., None]],
    notes: ModelCollection[Note],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """It waits while the server is away, from its beginning on, and goes on when that is back."""
    monkeypatch.setattr(refresh, "POLL", 0.01)
    stop = threading.Event()
    reports: list[Report] = []
    server, run = restarted
    with new_database(make_url(server)) as url:
        own = create_engine(url, poolclass=NullPool)
        migrate(own)
        Base.metadata.create_all(own)
        notes.install(own)
        change(own, insert(Note).values(id=1, title="first"))

        async def awaited() -> Report:
            engine = create_async_engine(own.url.set(drivername="postgresql+asyncpg"))
            report = await notes.arefresh(engine, forever=True, stop=stop)
            await engine.dispose()
            return report

        def work() -> None:
            if driver == "asyncpg":
                reports.append(asyncio.run(awaited()))
            else:
                engine = create_engine(url)
                reports.append(notes.refresh(engine, forever=True, stop=stop))
                engine.dispose()

        thread = threading.Thread(target=work)
        if begun == "before":
            thread.start()
            wait_until(lambda: not count(own), thread)
        run("pg_ctl", "stop", "-w", "-m", "immediate")
        if begun == "meanwhile":
            thread.start()
        wait_until(lambda: caplog.messages, thread)
        run("pg_ctl", "start", "-w")
        change(own, insert(Note).values(id=2, title="second"))
        wait_until(lambda: not count(own), thread)
        stop.set()
        thread.join()
        assert reports[0].embedded == 2
        assert is_right(notes, own)
    assert all(
        message.startswith("refresh of 'notes' waits for the database: ")
        for message in caplog.messages
    )


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "asyncpg"])
def test_a_server_that_hangs_up_is_away(driver: str):
    """So is one that is being stopped, with whoever connects just then."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            connection, _ = listening.accept()
            connection.recv(8)  # whether it speaks TLS
            connection.send(b"N")
            connection.recv(1)
            # No time for what was not sent: it is reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        url = URL.create(f"postgresql+{driver}", "me", host="127.0.0.1", database="none")
        url = url.set(port=listening.getsockname()[1])

        async def awaited() -> None:
            await create_async_engine(url).connect()

        def connect() -> None:
            asyncio.run(awaited()) if driver == "asyncpg" else create_engine(url).connect()

        with pytest.raises(Exception) as raised:  # noqa: PT011  of each driver's own kind
            connect()
        thread.join()
    assert databases.of(create_engine(url).dialect).is_away(raised.value)


def test_for_ever_ends_with_an_error_of_the_models_own(
    notes: ModelCollection[Note], own: Engine, model: Model
):
    """The system's error is not taken for that of a database that is away."""

    def fail(_: Any) -> None:
        raise ConnectionRefusedError("of the model")

    model.happens = fail
    change(own, update(Note).values(body="second"))
    with pytest.raises(ConnectionRefusedError, match="of the model"):
        notes.refresh(own, forever=True)


@pytest.mark.parametrize(("journal", "lock"), [("WAL", "IMMEDIATE"), ("DELETE", "EXCLUSIVE")])
def test_for_ever_outlives_who_keeps_the_file_locked(
    journal: str,
    lock: str,
    engine: Engine,
    notes: ModelCollection[Note],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """On SQLite it waits for another program longer than its connection does."""
    monkeypatch.setattr(refresh, "POLL", 0.01)
    Base.metadata.create_all(engine)
    notes.install(engine)
    own = create_engine(engine.url, connect_args={"timeout": 0.01})
    stop = threading.Event()
    engine.dispose()
    with engine.connect() as other:
        other.exec_driver_sql(f"PRAGMA journal_mode = {journal}")
        other.exec_driver_sql("BEGIN IMMEDIATE")
        other.execute(insert(Note).values(id=1, title="first"))
        other.commit()
        other.exec_driver_sql(f"BEGIN {lock}")
        options = {"forever": True, "stop": stop}
        thread = threading.Thread(target=notes.refresh, args=(own,), kwargs=options)
        thread.start()
        wait_until(lambda: caplog.messages, thread)
        other.rollback()
    wait_until(lambda: not count(engine), thread)
    stop.set()
    thread.join()
    assert is_right(notes, engine)
    assert {*caplog.messages} == {"refresh of 'notes' waits for the database: OperationalError"}
    own.dispose()
    notes.uninstall(engine)
    Base.metadata.drop_all(engine)


def test_nobody_is_waited_for(postgresql_engine: Engine, notes: ModelCollection[Note]):
    """A row that an open transaction deletes, and a vector that it writes, are left to it.

    PostgreSQL only: on SQLite there is one writer at a time.
    """
    own = postgresql_engine
    Base.metadata.create_all(own)
    notes.install(own)
    try:
        change(own, insert(Note).values([{"id": n, "title": f"n {n}"} for n in (1, 2, 3)]))
        notes.refresh(own)
        change(own, update(Note).values(body="second"))
        with Session(own) as session:
            session.execute(delete(Note).where(Note.id == 1))
            session.execute(update(Note).where(Note.id == 2).values(body="third"))
            notes.collection(session).embed(2, "n 2\n\nthird")
            report = notes.refresh(own)
            assert (report.embedded, report.pending) == (1, 2)
            assert sorted(id for id, _ in report.skipped) == [1, 2]
            session.commit()
        notes.refresh(own)
        assert is_right(notes, own)
        assert sorted(Collection("notes", own, key=int).ids()) == [2, 3]
    finally:
        notes.uninstall(own)
        Base.metadata.drop_all(own)


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ({"body": "second"}, {"keys": [1]}),
        ({"published": False}, {"keys": [1]}),
        ({"body": "second"}, {}),
        ({"body": "second"}, None),
    ],
)
def test_a_transaction_of_the_callers_that_has_failed(
    postgresql_engine: Engine,
    notes: ModelCollection[Note],
    values: dict[str, Any],
    options: dict[str, Any] | None,
):
    """The error arrives with its code, by which a host knows that it may begin again.

    PostgreSQL only: on SQLite there is one writer at a time.
    """
    own = postgresql_engine
    Base.metadata.create_all(own)
    notes.install(own)
    try:
        change(own, insert(Note).values([{"id": n, "title": f"n {n}"} for n in (1, 2)]))
        notes.refresh(own)
        change(own, update(Note).where(Note.id == 1).values(values))
        with Session(own) as session:
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            assert notes.pending(session).items == 1
            notes.refresh(own)
            with pytest.raises(DBAPIError) as raised:
                notes.sync(session) if options is None else notes.refresh(session, **options)
            assert sqlstate(raised.value) == "40001"
        assert is_right(notes, own)
    finally:
        notes.uninstall(own)
        Base.metadata.drop_all(own)


def test_a_single_key_is_refused(own: Engine, notes: ModelCollection[Note]):
    """With words that say what is wanted."""
    for key in (1, "12"):
        with pytest.raises(InvalidQueryError, match="keys must be an iterable, not"):
            notes.refresh(own, keys=key)  # type: ignore[arg-type]


def test_arguments_that_mean_nothing(own: Engine, notes: ModelCollection[Note], model: Model):
    """They are refused before anything is claimed."""
    change(own, update(Note).values(body="second"))
    for limit in (-1, 0, True, 2.5):
        with pytest.raises(ValueError, match="limit must be a positive integer"):
            notes.refresh(own, limit=limit)  # type: ignore[arg-type]
    others: dict[str, Any] = {
        "limit": 1,
        "progress": True,
        "forever": True,
        "stop": threading.Event(),
    }
    for name, value in others.items():
        with pytest.raises(InvalidQueryError, match=f"goes without {name}="):
            notes.refresh(own, keys=[1], **{name: value})
    assert model.calls == []
    assert count(own) == 8


def test_a_limit_counts_rows_that_are_gone(own: Engine, notes: ModelCollection[Note]):
    """Also those that never had a vector."""
    change(own, update(Note).values(body="second"), delete(Note))
    assert notes.refresh(own, limit=3) == Report(pending=5)
    assert notes.refresh(own, limit=3, batch_size=2) == Report(pending=2)
    assert notes.refresh(own) == Report()


def test_a_backlog_is_not_sorted_for_each_claim(own: Engine, notes: ModelCollection[Note]):
    """The primary key serves a claim, and each statement about what was claimed."""
    for number in range(10):
        change(own, update(Note).values(body=f"body {number}"))
    asked: list[tuple[str, Any]] = []

    @event.listens_for(own, "before_cursor_execute")
    def note(_: Any, __: Any, sql: str, parameters: Any, *___: Any) -> None:
        if "embeddings_pending.seq" in sql:
            asked.append((sql, parameters))

    assert notes.refresh(own, limit=3, batch_size=3).embedded == 3
    event.remove(own, "before_cursor_execute", note)
    explain = "EXPLAIN QUERY PLAN" if own.dialect.name == "sqlite" else "EXPLAIN"
    with own.begin() as connection:
        if own.dialect.name == "postgresql":  # with eighty rows it would read them all
            connection.execute(text("SET LOCAL enable_seqscan = off"))
            connection.execute(text("SET LOCAL enable_bitmapscan = off"))
        claims = [
            "\n".join(str(row[-1]) for row in connection.exec_driver_sql(f"{explain} {sql}", given))
            for sql, given in asked
            if "ORDER BY" in sql or "seq IN" in sql
        ]
    assert len(claims) >= 4
    for plan in claims:
        assert "USING INTEGER PRIMARY KEY" in plan or "embeddings_pending_pkey" in plan, plan
    assert not [plan for plan in claims if "anti join" in plan.lower()]


def test_what_was_freed_is_claimed_though_later_rows_were(
    own: Engine, notes: ModelCollection[Note]
):
    """A refresher that goes on in the order of the changes comes back to what others let go."""
    change(own, update(Note).where(Note.id < 5).values(body="second"))
    reference = notes.collection(own).reference
    gone, other = Pending(reference), Pending(reference)
    held = gone.claim(2, None, ())
    assert sorted(held) == ["1", "2"]
    taken = other.claim(1, None, ())
    assert sorted(taken) == ["3"]
    gone.give_back(held)
    assert sorted(other.claim(1, None, ())) == ["4"]
    assert sorted(other.claim(3, None, ())) == ["1", "2"]
    assert other.claim(3, None, ()) == {}
    other.give_back(taken)
    assert sorted(other.claim(3, None, ())) == ["3"]


def test_a_claim_counts_items(own: Engine, notes: ModelCollection[Note]):
    """However often each has changed."""
    change(own, *[update(Note).where(Note.id == 1).values(body=f"{n}") for n in range(5)])
    change(own, update(Note).where(Note.id == 2).values(body="second"))
    refresher = Pending(notes.collection(own).reference)
    held = refresher.claim(2, None, ())
    assert [(id, len(held[id])) for id in sorted(held)] == [("1", 5), ("2", 1)]
    change(own, update(Note).where(Note.id == 1).values(body="sixth"))
    other = Pending(notes.collection(own).reference)
    assert other.claim(2, None, ()) == {}
    refresher.give_back(held)
    assert len(other.claim(1, None, ())["1"]) == 6


def test_many_are_put_off_at_once(own: Engine, notes: ModelCollection[Note]):
    """How often they were tried is read by one statement, of each from its latest change."""
    notes.sync(own)
    change(own, update(Note).values(title="edited"))
    worker = Pending(notes.collection(own).reference)
    noted = worker.claim(8, None, ())
    worker.put_off(noted, dict.fromkeys(["1", "2"], "one"))
    change(own, update(Note).where(Note.id == 2).values(title="once more"))
    change(own, update(PENDING).values(claimed_until=None))
    noted = worker.claim(8, None, ())
    assert len(noted) == 8
    asked: list[str] = []

    def note(*given: Any) -> None:
        asked.append(given[2])

    event.listen(own, "before_cursor_execute", note)
    worker.put_off(noted, {id: f"of {id}" for id in noted})
    event.remove(own, "before_cursor_execute", note)
    assert len([each for each in asked if each.startswith("SELECT")]) == 1
    tried = {each.id: (each.attempts, each.error) for each in notes.pending(own).failing}
    assert tried == {n: (2 if n == 1 else 1, f"of {n}") for n in range(1, 9)}


def test_what_another_refresher_begins_to_claim(
    postgresql_engine: Engine, notes: ModelCollection[Note]
):
    """An item of several changes, of which it has locked the oldest, is left to it."""
    Base.metadata.create_all(postgresql_engine)
    engine = create_engine(
        postgresql_engine.url, connect_args={"options": "-c lock_timeout=2s"}, poolclass=NullPool
    )
    notes.install(engine)
    try:
        change(engine, insert(Note).values([{"id": 1, "title": "1"}, {"id": 2, "title": "2"}]))
        change(engine, update(Note).values(body="second"))
        oldest = select(PENDING.c.seq).where(PENDING.c.id == "1").order_by(PENDING.c.seq).limit(1)
        refresher = Pending(notes.collection(engine).reference)
        with engine.begin() as other:
            other.execute(oldest.with_for_update()).one()
            assert sorted(refresher.claim(3, None, ())) == ["2"]
        assert len(refresher.claim(3, None, ())["1"]) == 2
    finally:
        notes.uninstall(engine)
        Base.metadata.drop_all(engine)


def test_cancelled_while_nothing_is_claimed(
    notes: ModelCollection[Note], caplog: pytest.LogCaptureFixture, tmp_path: Path
):
    """A database that is away is not asked to take back what it never gave."""
    tries: list[Any] = []

    async def run() -> None:
        url = f"postgresql+asyncpg://nobody@/nothing?host={tmp_path}"
        engine = create_async_engine(url)
        event.listen(engine.sync_engine, "do_connect", lambda *given: tries.append(given))
        task = asyncio.create_task(notes.arefresh(engine, forever=True))
        while not caplog.messages:
            await asyncio.sleep(0.01)
        before = len(tries)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(tries) == before
        await engine.dispose()

    asyncio.run(run())

"""A row whose key cannot be an id, or that cannot be read, is one row: the others go on."""

from __future__ import annotations

import datetime as dt  # noqa: TC003  what is mapped is looked up
import re
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import JSON, Engine, delete, event, insert, select, text, update
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    ORMExecuteState,
    Session,
    mapped_column,
    with_loader_criteria,
)

from embeddings import (
    Chunks,
    Collection,
    InvalidItemError,
    InvalidVectorError,
    ModelCollection,
    Report,
)
from embeddings.commands import status
from embeddings.following import commands, pending
from embeddings.following import sync as syncing
from embeddings.models.registry import substitute_models
from embeddings.overview import overview
from embeddings.tables.pending import pending_table
from embeddings.tables.records import RECORDS, now
from embeddings.testing import DeterministicModel
from tests.reaching import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = "/" + "x" * 1024
PENDING = pending_table(RECORDS)


class Base(DeclarativeBase):
    """The host's."""


class Page(Base):
    """Has a text as its key."""

    __tablename__ = "unusable_pages"
    path: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str | None]


class Visit(Base):
    """Has columns whose values a driver or a type decodes."""

    __tablename__ = "unusable_visits"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    day: Mapped[dt.date | None]
    moment: Mapped[dt.datetime | None]
    more: Mapped[Any] = mapped_column(JSON, nullable=True)


class Token(Base):
    """Has a UUID as its key."""

    __tablename__ = "unusable_tokens"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    title: Mapped[str]


class Model(DeterministicModel):
    """A model that fails of one text, with an error of its own."""

    def embed_batch(self, items: Any) -> Any:
        if any("poison" in item for item in items):
            raise ZeroDivisionError
        return super().embed_batch(items)


@pytest.fixture(params=["engine", "postgresql_engine"])
def own(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine on each database with the tables."""
    engine: Engine = request.getfixturevalue(request.param)
    Base.metadata.create_all(engine)
    yield engine
    Base.metadata.drop_all(engine)


@pytest.fixture
def lite(engine: Engine) -> Engine:
    """An engine on SQLite with the tables."""
    Base.metadata.create_all(engine)
    return engine


@pytest.fixture(params=["columns", "function"])
def declare(request: pytest.FixtureRequest) -> Iterator[Any]:
    """What declares a collection of titles, made of columns or of instances, and installs it."""
    installed = []

    def declared(engine: Engine, source: Any, **options: Any) -> ModelCollection[Any]:
        given: dict[str, Any] = {"text": [source.title]}
        if request.param == "function":
            given = {"text": lambda row: row.title, "columns": [source.title]}
        options = given | {"name": source.__tablename__, "model": Model()} | options
        rows: ModelCollection[Any] = ModelCollection(source, **options)
        rows.install(engine)
        installed.append((rows, engine))
        return rows

    yield declared
    for rows, engine in installed:
        rows.uninstall(engine)


of_the_model = pytest.mark.parametrize(
    ("own", "declare"),
    [("engine", "columns"), ("postgresql_engine", "function")],
    indirect=True,
)
"""For what happens when the texts are there, however they were made."""
by_a_function_of_its_own = pytest.mark.parametrize("declare", ["function"], indirect=True)


def change(engine: Engine, *statements: Any) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement) if isinstance(statement, str) else statement)


def skipped(report: Report) -> list[Any]:
    """Return the ids that a report names, sorted."""
    return sorted((id for id, _ in report.skipped), key=str)


def at(function: Any, lines: int) -> str:
    """Return what is told of where a function raised, so many lines after its first one."""
    return f"at test_unusable_rows.py:{function.__code__.co_firstlineno + lines}"


def is_over(rows: ModelCollection[Any], engine: Engine) -> bool:
    """Return whether nothing is pending, nor differs, nor is left."""
    audit = rows.sync(engine, dry_run=True)
    return (
        rows.pending(engine) == (0, None, ())
        and (audit.stale, audit.missing, audit.orphaned, audit.skipped) == ((), (), (), ())
        and rows.sync(engine) == Report(unchanged=rows.collection(engine).count())
    )


def test_keys_that_can_be_no_ids(own: Engine, declare: Any, monkeypatch: pytest.MonkeyPatch):
    """They are put off and parked, each by itself; `sync` names them; once gone all is well."""
    moment = now()
    monkeypatch.setattr(pending, "now", lambda: moment)
    pages = declare(own, Page)
    rows = [{"path": path, "title": f"page {path[:9]}"} for path in ("", LONG, "/a", "/b")]
    change(own, insert(Page).values(rows))
    report = pages.refresh(own)
    assert (report.embedded, report.pending, skipped(report)) == (2, 2, ["", LONG])
    with Session(own) as session:
        assert [pages.related(session, session.get_one(Page, path)) for path in ("", LONG)] == [
            [],
            [],
        ]
    change(own, update(Page).where(Page.path == "").values(path="/c"))
    change(own, update(Page).where(Page.path == "/a").values(path=""))
    report = pages.refresh(own)
    assert (report.embedded, report.removed, report.pending) == (1, 0, 2)
    assert skipped(report) == [""]
    assert sorted(pages.collection(own).ids()) == ["/b", "/c"]
    for _ in range(4):  # the row of "" was another one before: it is counted anew
        moment += 10_000
        assert skipped(pages.refresh(own)) == ["", LONG]
    moment += 10_000
    assert pages.refresh(own) == Report(pending=2)
    state = pages.pending(own)
    assert sorted(each.id for each in state.failing) == ["", LONG]
    assert all(each.is_parked for each in state.failing)
    errors = {each.id: each.error for each in state.failing}
    assert "empty" in errors[""]
    assert "1024 bytes" in errors[LONG]

    with pytest.raises(InvalidItemError) as raised:
        pages.sync(own)
    assert raised.value.__notes__ == ["It was raised for the row ''"]
    report = pages.sync(own, on_error="skip")
    assert (report.unchanged, report.embedded, skipped(report)) == (2, 0, ["", LONG])
    audit = pages.sync(own, dry_run=True, on_error="skip")
    assert (audit.missing, audit.stale, skipped(audit)) == ((), (), ["", LONG])
    told, is_good = commands.check(own, [pages])
    assert not is_good
    assert "'' was left: " in told
    change(own, delete(Page).where(Page.path.in_(["", LONG])))
    assert pages.refresh(own) == Report(removed=0)
    assert is_over(pages, own)


UNREADABLE = {
    "postgresql": [
        "UPDATE unusable_visits SET day = 'infinity' WHERE id = 2",
        "UPDATE unusable_visits SET day = '0044-03-15 BC' WHERE id = 5",
        "UPDATE unusable_visits SET moment = 'infinity' WHERE id = 7",
    ],
    "sqlite": [
        "UPDATE unusable_visits SET more = 'not json' WHERE id = 2",
        "UPDATE unusable_visits SET day = 'garbage' WHERE id = 5",
        "UPDATE unusable_visits SET day = '' WHERE id = 7",
    ],
}
BAD = [2, 5, 7]


@pytest.mark.parametrize("size", [64, 2])
def test_values_that_nobody_can_decode(
    own: Engine, declare: Any, monkeypatch: pytest.MonkeyPatch, size: int
):
    """The rows are found among those of a batch, of which the driver or a type raises."""
    monkeypatch.setattr(syncing, "PAGE", 3)
    named = [Visit.day, Visit.moment, Visit.more]
    visits = declare(own, Visit, metadata=named)
    rows = [{"id": n, "title": f"visit {n}", "more": {"n": n}} for n in range(1, 9)]
    change(own, insert(Visit).values(rows), *UNREADABLE[own.dialect.name])
    report = visits.refresh(own, batch_size=size)
    assert (report.embedded, report.pending, skipped(report)) == (5, 3, BAD)
    assert all("cannot be read" in each.error for each in visits.pending(own).failing)
    with pytest.raises(InvalidItemError, match="cannot be read") as raised:
        visits.sync(own)
    assert raised.value.__cause__ is not None
    assert raised.value.__notes__ == ["It was raised for the row 2"]
    report = visits.sync(own, batch_size=size, on_error="skip")
    assert (report.unchanged, report.embedded, skipped(report)) == (5, 0, BAD)
    audit = visits.sync(own, dry_run=True, on_error="skip")
    assert (audit.missing, audit.stale, skipped(audit)) == ((), (), BAD)
    change(own, "UPDATE unusable_visits SET day = NULL, moment = NULL, more = NULL")
    assert visits.refresh(own).embedded == 3
    assert is_over(visits, own)

    change(own, *UNREADABLE[own.dialect.name], delete(Visit).where(Visit.id == 2))
    with Session(own) as session, pytest.raises((ValueError, DBAPIError)):
        visits.refresh(session)
    report = visits.refresh(own)
    assert (report.embedded, report.pending, skipped(report)) == (0, 2, BAD[1:])
    assert sorted(visits.collection(own).ids()) == [1, 3, 4, 5, 6, 7, 8]


def test_a_statement_that_fails_is_of_no_row(own: Engine, declare: Any):
    """A column that is gone puts nothing off."""
    visits = declare(own, Visit, metadata=[Visit.more])
    change(own, insert(Visit).values([{"id": n, "title": f"visit {n}"} for n in (1, 2, 3)]))
    visits.uninstall(own)
    change(own, "ALTER TABLE unusable_visits DROP COLUMN more")
    with pytest.raises((OperationalError, ProgrammingError), match="more"):
        visits.refresh(own)
    with pytest.raises((OperationalError, ProgrammingError), match="more"):
        visits.sync(own, on_error="skip")
    assert visits.pending(own).items == 3
    assert visits.pending(own).failing == ()


def test_texts_that_are_no_utf8(lite: Engine, declare: Any):
    """As text and as bytes. SQLite only: PostgreSQL has none."""
    pages = declare(lite, Page)
    change(
        lite,
        insert(Page).values([{"path": p, "title": f"page {p}"} for p in "abcd"]),
        "UPDATE unusable_pages SET title = x'ff00' WHERE path = 'b'",
        "UPDATE unusable_pages SET title = CAST(x'ff41' AS TEXT) WHERE path = 'c'",
    )
    report = pages.refresh(lite)
    assert (report.embedded, report.pending, skipped(report)) == (2, 2, ["b", "c"])
    report = pages.sync(lite, on_error="skip")
    assert (report.unchanged, skipped(report)) == (2, ["b", "c"])
    change(lite, "UPDATE unusable_pages SET title = 'good ' || path")
    assert pages.refresh(lite).embedded == 4
    assert is_over(pages, lite)


@pytest.mark.parametrize("key", ["x'ff00'", "CAST(x'ff41' AS TEXT)", "CAST(x'610062' AS TEXT)"])
def test_keys_that_are_no_utf8(lite: Engine, declare: Any, key: str):
    """As bytes and as text; and one with a NUL. SQLite only: PostgreSQL has none."""
    pages = declare(lite, Page)
    change(
        lite,
        insert(Page).values([{"path": p, "title": f"page {p}"} for p in "ab"]),
        f"INSERT INTO unusable_pages VALUES ({key}, 'title')",
    )
    report = pages.refresh(lite)
    assert (report.embedded, report.pending, len(report.skipped)) == (2, 1, 1)
    (failing,) = pages.pending(lite).failing
    assert "UTF-8" in failing.error or "NUL" in failing.error
    assert repr(failing.id).isascii()
    report = pages.sync(lite, on_error="skip")
    assert (report.unchanged, skipped(report)) == (2, [failing.id])
    assert skipped(pages.sync(lite, dry_run=True, on_error="skip")) == [failing.id]
    change(lite, "UPDATE unusable_pages SET title = 'more'")
    assert pages.refresh(lite).pending == 1
    change(lite, "DELETE FROM unusable_pages WHERE path NOT IN ('a', 'b')")
    assert pages.refresh(lite).pending == 0
    assert is_over(pages, lite)


def test_uuids_that_are_written_in_another_way(
    lite: Engine, declare: Any, monkeypatch: pytest.MonkeyPatch
):
    """Such a row SQLAlchemy does not find: every report says so. SQLite only."""
    monkeypatch.setattr(syncing, "PAGE", 2)
    tokens = declare(lite, Token)
    good = sorted(uuid.UUID(int=n << 120 | 0xABC) for n in (1, 80, 160, 171, 200, 240))
    odd = [
        str(uuid.UUID(int=0xAB << 120)),
        uuid.UUID(int=0xAC << 120 | 0xE).hex.upper(),
        "none",
        "g" * 32,
    ]
    change(lite, insert(Token).values([{"id": id, "title": f"token {id}"} for id in good]))
    for id in odd:
        change(lite, f"INSERT INTO unusable_tokens VALUES ('{id}', 'odd')")
    report = tokens.refresh(lite)
    assert (report.embedded, report.pending, skipped(report)) == (6, 4, sorted(odd))
    assert "32 hexadecimal digits" in dict(report.skipped)[odd[0]]
    assert [each.id for each in tokens.pending(lite).failing] == odd
    report = tokens.sync(lite, on_error="skip")
    assert (report.unchanged, report.embedded, skipped(report)) == (6, 0, sorted(odd))
    audit = tokens.sync(lite, dry_run=True, on_error="skip")
    assert (audit.unchanged, audit.missing, skipped(audit)) == (6, (), sorted(odd))
    with pytest.raises(InvalidItemError, match="32 hexadecimal digits"):
        tokens.sync(lite)
    change(lite, "DELETE FROM unusable_tokens WHERE title = 'odd'")
    assert tokens.refresh(lite).pending == 0
    assert is_over(tokens, lite)


def test_sync_of_what_the_model_does_not_take(own: Engine, declare: Any):
    """With "raise" the error says which row; with "skip" the others are embedded."""
    visits = declare(own, Visit)
    rows = [{"id": n, "title": f"visit {n}"} for n in range(1, 9)]
    change(
        own, insert(Visit).values(rows), update(Visit).where(Visit.id == 3).values(title="poison")
    )
    with pytest.raises(ZeroDivisionError) as raised:
        visits.sync(own, batch_size=1)
    assert raised.value.__notes__ == ["It was raised for the id 3"]
    with pytest.raises(ZeroDivisionError) as raised:
        visits.sync(own)
    assert raised.value.__notes__ == ["It was raised for the ids 3, 4, 5, 6, 7 and 1 more"]
    report = visits.sync(own, on_error="skip")
    told = f"ZeroDivisionError {at(Model.embed_batch, 2)}"
    assert (report.embedded + report.unchanged, report.skipped) == (7, ((3, told),))
    assert sorted(visits.collection(own).ids()) == [1, 2, 4, 5, 6, 7, 8]
    with pytest.raises(ValueError, match="on_error must be"):
        visits.sync(own, on_error="ignore")


def split(text: str) -> list[tuple[int, int]]:
    """Yield nothing for one text, and raise for another."""
    if "crash" in text:
        raise ZeroDivisionError
    return [] if "nothing" in text else [(0, len(text))]


def test_texts_that_a_splitter_does_not_cut(
    own: Engine, declare: Any, monkeypatch: pytest.MonkeyPatch
):
    """Such a row is put off by itself, whether the splitter yields nothing or raises."""
    monkeypatch.setattr(syncing, "PAGE", 3)
    visits = declare(own, Visit, metadata=[Visit.more], chunks=Chunks(splitter=split))
    rows = [{"id": n, "title": f"visit {n}", "more": {}} for n in range(1, 9)]
    change(own, insert(Visit).values(rows))
    assert visits.refresh(own).embedded == 8
    change(
        own,
        update(Visit).where(Visit.id == 2).values(title="nothing"),
        update(Visit).where(Visit.id == 5).values(title="crash"),
        update(Visit).where(Visit.id == 6).values(title="another one"),
    )
    report = visits.refresh(own)
    assert (report.embedded, report.pending, skipped(report)) == (1, 2, [2, 5])
    errors = {each.id: each.error for each in visits.pending(own).failing}
    assert "yields no chunk" in errors[2]
    assert errors[5] == f"ZeroDivisionError {at(split, 3)}"
    with pytest.raises(InvalidItemError, match="yields no chunk") as raised:
        visits.sync(own, dry_run=True)
    assert raised.value.ids == (2,)
    audit = visits.sync(own, dry_run=True, on_error="skip")
    assert (audit.unchanged, audit.stale, skipped(audit)) == (6, (), [2, 5])
    report = visits.sync(own, on_error="skip")
    assert (report.unchanged, report.embedded, skipped(report)) == (6, 0, [2, 5])

    change(own, *UNREADABLE[own.dialect.name][:1])  # rows are compared apart then
    assert skipped(visits.sync(own, on_error="skip")) == [2, 5]
    change(own, "UPDATE unusable_visits SET more = NULL, day = NULL, title = 'good'")
    assert visits.refresh(own).pending == 0
    assert is_over(visits, own)


def test_any_select_has_the_same(own: Engine):
    """`Collection.sync` skips and names, too."""
    docs = Collection("docs", own, model=Model(), key=Page.path)
    change(own, insert(Page).values([{"path": p, "title": f"page {p[:9]}"} for p in ("/a", LONG)]))
    change(own, insert(Page).values([{"path": "/p", "title": "poison"}]))
    statement = select(Page.path, Page.title)
    with pytest.raises(InvalidItemError, match="1024 bytes"):
        docs.sync(statement)
    report = docs.sync(statement, on_error="skip")
    assert (report.embedded, skipped(report)) == (1, ["/p", LONG])


@of_the_model
def test_rows_that_fail_together(own: Engine, declare: Any, monkeypatch: pytest.MonkeyPatch):
    """When they are tried again without others they are put off; if all fail that is raised."""
    moment = now()
    monkeypatch.setattr(pending, "now", lambda: moment)
    visits = declare(own, Visit)
    rows = [{"id": n, "title": "poison" if n < 3 else f"visit {n}"} for n in range(1, 9)]
    change(own, insert(Visit).values(rows))
    for attempts in range(1, 6):
        assert skipped(visits.refresh(own)) == [1, 2]
        assert [each.attempts for each in visits.pending(own).failing] == [attempts, attempts]
        moment += 10_000
    assert visits.refresh(own) == Report(pending=2)
    assert skipped(visits.sync(own, on_error="skip")) == [1, 2]
    change(own, delete(Visit))
    visits.refresh(own)
    change(own, insert(Visit).values(rows[:2]))
    for attempts in range(1, 7):  # the last one is more than it takes to park a row
        with pytest.raises(ZeroDivisionError):
            visits.refresh(own)
        failing = visits.pending(own).failing
        assert [(each.attempts, each.is_parked) for each in failing] == [(attempts, False)] * 2
        assert visits.refresh(own) == Report(pending=2)
        moment += 10_000
    with pytest.raises(ZeroDivisionError):
        visits.sync(own, on_error="skip")


def test_a_row_that_is_given_up_is_told_once(
    own: Engine, declare: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A worker's log has one line for it, when it is parked; `status` has how many there are."""
    moment = now()
    monkeypatch.setattr(pending, "now", lambda: moment)
    pages = declare(own, Page)
    odd = "a\nb" + 300 * "x"
    rows = [("/a", "page"), (odd, "poison"), ("/b", "poison"), ("/c", "sound")]
    change(own, insert(Page).values([{"path": path, "title": title} for path, title in rows]))
    for _ in range(5):
        assert caplog.messages == []
        assert len(skipped(pages.refresh(own))) == 2
        moment += 10_000
    assert len(caplog.messages) == 2
    for told in caplog.messages:
        assert re.fullmatch(
            r"refresh of '\w+' gives up '.+ after 5 attempts, until it changes: "
            r"ZeroDivisionError at \w+\.py:\d+",
            told,
        )
        assert "poison" not in told
        assert len(told) < 400
    for _ in range(2):  # by its key it is tried again
        assert skipped(pages.refresh(own, keys=["/b"])) == ["/b"]
        assert pages.refresh(own).skipped == ()
    assert len(caplog.messages) == 2

    change(own, update(Page).where(Page.path == "/b").values(title="more poison"))
    change(own, update(Page).where(Page.path == "/c").values(title="sounder"))
    [followed] = overview(own, [pages]).followed
    assert (followed.pending, followed.failing, followed.parked) == (3, 2, 2)
    pages.refresh(own)
    [followed] = overview(own, [pages]).followed
    assert (followed.pending, followed.failing, followed.parked) == (2, 2, 1)
    assert followed.failing == len(pages.pending(own).failing)
    assert "  2 (2 failing, 1 parked)  in place" in status(own, declared=[pages]).text
    change(own, delete(Page))
    pages.refresh(own)
    assert "  0  in place" in status(own, declared=[pages]).text


@of_the_model
def test_rows_without_a_finite_vector(own: Engine, declare: Any):
    """They are put off, and those beside them are not paid twice."""

    class NaN(DeterministicModel):
        def embed_batch(self, items: Any) -> Any:
            made = super().embed_batch(items)
            return [
                vector * float("nan") if item == "poison" else vector
                for item, vector in zip(items, made, strict=True)
            ]

    model = NaN()
    visits = declare(own, Visit, model=model)
    rows = [{"id": n, "title": "poison" if n == 3 else f"visit {n}"} for n in range(1, 9)]
    change(own, insert(Visit).values(rows))
    report = visits.refresh(own)
    assert (report.embedded, report.pending, skipped(report)) == (7, 1, [3])
    assert (report.requests, len(model.calls)) == (1, 1)
    [failing] = visits.pending(own).failing
    assert (failing.attempts, "finite" in failing.error) == (1, True)
    assert skipped(visits.sync(own, on_error="skip")) == [3]
    change(own, insert(Visit).values({"id": 9, "title": "poison"}))
    with pytest.raises(InvalidVectorError):
        visits.refresh(own, on_error="raise", forever=True)


def failing_card(page: Any) -> str:
    """Return the text of a page, if it has a title and a body."""
    return str(page.title.split(":")[1])


@by_a_function_of_its_own
def test_many_rows_whose_text_cannot_be_made(own: Engine, declare: Any):
    """More than a claim has: those behind them are embedded, and each is put off."""
    pages = declare(own, Page, text=failing_card, columns=[Page.title])
    rows = [{"path": f"{n:03}", "title": "none" if n < 150 else f"a: {n}"} for n in range(152)]
    change(own, insert(Page).values(rows))
    report = pages.refresh(own)
    assert (report.embedded, report.pending, len(report.skipped)) == (2, 150, 150)
    assert pages.refresh(own) == Report(pending=150)
    assert len(pages.sync(own, on_error="skip").skipped) == 150


@by_a_function_of_its_own
def test_where_a_text_could_not_be_made(own: Engine, declare: Any):
    """By file and line, without what was in it."""
    pages = declare(own, Page, text=failing_card, columns=[Page.title])
    change(own, insert(Page).values([{"path": "/a", "title": "secret"}]))
    told = f"IndexError {at(failing_card, 2)}"
    assert pages.refresh(own).skipped == (("/a", told),)
    [failing] = pages.pending(own).failing
    assert failing.error == told
    change(own, insert(Page).values([{"path": "/b", "title": "a: b"}]))
    assert pages.sync(own, on_error="skip").skipped == (("/a", told),)


@of_the_model
@pytest.mark.parametrize("wrong", ["exception", "length"])
def test_a_worker_whose_model_takes_nothing(own: Engine, declare: Any, wrong: str):
    """It waits, and warns; when the model is mended, the worker goes on, and nothing is parked."""
    is_broken = False

    class Broken(DeterministicModel):
        def embed_batch(self, items: Any) -> Any:
            if is_broken and wrong == "exception":
                raise ZeroDivisionError
            made = super().embed_batch(items)
            return [vector[:3] for vector in made] if is_broken else made

    model = Broken()
    visits = declare(own, Visit, model=model)
    change(own, insert(Visit).values({"id": 8, "title": "the first"}))
    visits.refresh(own)
    is_broken = True
    change(own, insert(Visit).values([{"id": n, "title": f"visit {n}"} for n in range(1, 4)]))
    stop, reports = threading.Event(), list[Report]()
    worker = threading.Thread(
        target=lambda: reports.append(visits.refresh(own, forever=True, stop=stop))
    )
    worker.start()
    try:
        if wrong == "exception":
            wait_until(lambda: len(visits.pending(own).failing) == 3, worker)
        else:
            wait_until(lambda: len(model.calls) > 2, worker)
        is_broken = False
        change(own, insert(Visit).values({"id": 9, "title": "another"}))
        wait_until(lambda: 9 in visits.collection(own), worker)
    finally:
        stop.set()
        worker.join()
    assert [report.embedded for report in reports] == [1 if wrong == "exception" else 4]
    assert not any(each.is_parked for each in visits.pending(own).failing)


def test_rows_that_a_listener_of_the_hosts_hides(own: Engine, declare: Any):
    """For a tenant, or where they are deleted softly: they are not gone, and keep their vectors."""
    visits = declare(own, Visit)
    change(own, insert(Visit).values([{"id": n, "title": f"visit {n}"} for n in range(1, 5)]))

    def hide(state: ORMExecuteState) -> None:
        if state.is_select:
            state.statement = state.statement.options(with_loader_criteria(Visit, Visit.id < 3))

    event.listen(Session, "do_orm_execute", hide)
    try:
        assert visits.refresh(own).embedded == 4
        change(own, update(Visit).values(title=Visit.title + " again"))
        assert visits.refresh(own).embedded == 4
        change(own, update(Visit).where(Visit.id == 4).values(title="once more"))
        with Session(own) as session, session.begin():
            assert session.scalars(select(Visit.id)).all() == [1, 2]
            assert visits.refresh(session, keys=[4]).embedded == 1
        assert visits.sync(own, dry_run=True) == Report(unchanged=4)
        assert visits.sync(own) == Report(unchanged=4)
        docs = Collection("selected", own, key=int, model=Model())
        assert docs.sync(select(Visit.id, Visit.title)).embedded == 4
    finally:
        event.remove(Session, "do_orm_execute", hide)


def test_another_model_is_not_kept_from_taking_over(own: Engine, declare: Any):
    """By a row that cannot be embedded, which is named."""
    pages = declare(own, Page)
    change(own, insert(Page).values([{"path": p, "title": f"page {p}"} for p in ("", "/a", "/b")]))
    pages.refresh(own)
    known: dict[str, Any] = {name: DeterministicModel(name) for name in ("other", "deterministic")}
    with substitute_models(lambda model_id, given: known.get(model_id) or given):  # type: ignore[arg-type,return-value]
        report = pages.reembed(own, "other")
        assert (report.embedded, skipped(report)) == (2, [""])
        assert pages.collection(own).model_id == "other"


def test_integers_beyond_their_column(lite: Engine, declare: Any):
    """SQLite stores them, and so they are embedded."""
    visits = declare(lite, Visit)
    change(lite, insert(Visit).values([{"id": n, "title": f"visit {n}"} for n in (1, 1 << 40)]))
    assert visits.refresh(lite).embedded == 2
    assert sorted(visits.collection(lite).ids()) == [1, 1 << 40]
    assert is_over(visits, lite)


@of_the_model
def test_a_model_that_has_no_finite_vector_at_all(own: Engine, declare: Any):
    """It is called once for all, not for each row; no row is parked for it."""

    class NaN(DeterministicModel):
        def embed_batch(self, items: Any) -> Any:
            return [vector * float("nan") for vector in super().embed_batch(items)]

    model = NaN()
    visits = declare(own, Visit, model=model)
    change(own, insert(Visit).values([{"id": n, "title": f"visit {n}"} for n in range(1, 9)]))
    for tried in range(1, 7):  # more often than it takes to park a row
        with pytest.raises(InvalidVectorError):
            visits.refresh(own)
        assert len(model.calls) == tried
        change(own, update(PENDING).values(claimed_until=None))
    assert not any(each.is_parked for each in visits.pending(own).failing)

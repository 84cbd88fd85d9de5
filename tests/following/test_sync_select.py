"""`Collection.sync`: every row of any SELECT compared with the collection."""

from __future__ import annotations

import asyncio
import enum
import uuid
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    Enum,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    Time,
    Uuid,
    create_engine,
    delete,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session

from embeddings import (
    AsyncCollection,
    Collection,
    InvalidItemError,
    InvalidQueryError,
    ModelCollection,
    Report,
)
from embeddings.following import sync as module
from embeddings.following.bring import read_rows
from embeddings.testing import DeterministicModel
from tests.reaching import connection_to, on_both

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

    from tests.conftest import Open

NOTES = Table(
    "sync_notes",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("body", String),
    Column("lang", String),
    Column("rank", Double),
    Column("published", Boolean),
    Column("more", JSON),
)
TEXTS = select(NOTES.c.id, NOTES.c.body)
NAMED = select(NOTES.c.id, NOTES.c.body, NOTES.c.lang, NOTES.c.rank, NOTES.c.published)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a few rows take several pages."""
    monkeypatch.setattr(module, "PAGE", 3)


@pytest.fixture
def change(db: Any, host_tables: Callable[..., None]) -> Callable[..., None]:
    """Execute statements on the host's table, which is there with seven rows."""
    host_tables(NOTES)

    def execute(*statements: Any) -> None:
        with connection_to(db) as connection:
            for statement in statements:
                connection.execute(statement)

    execute(
        insert(NOTES).values(
            [
                {
                    "id": number,
                    "body": f"note {number} \N{SNOWMAN}",
                    "lang": "dé" if number % 2 else None,
                    "rank": number / 10,
                    "published": number > 3,
                    "more": {"n": number, "tags": ["a"]},
                }
                for number in (1, 2, 3, 9, 10, 11, 100)
            ]
        )
    )
    return execute


def metadata_of(docs: Collection[Any], id: int) -> Any:
    """Return an item's metadata."""
    record = docs.get(id)
    assert record is not None
    return record.metadata_


def texts_of(docs: Collection[Any]) -> dict[Any, Any]:
    """Return which text each item has the hash of, among those of the tests."""
    known = {Collection.content_hash(text): text for text in ALL_TEXTS}
    return {record.key: known.get(record.content_hash or b"") for record in docs}


ALL_TEXTS = [f"note {n} \N{SNOWMAN}" for n in (1, 2, 3, 9, 10, 11, 100)] + ["edited", "twelve"]


def test_the_collection_becomes_what_the_select_says(
    opened: Open, change: Callable[..., None], model: DeterministicModel
):
    """New rows are embedded, changed ones anew, what is gone goes; the second time nothing is done.

    Over every way to reach a database, awaited or not.
    """
    docs = opened(key=int)
    audit = docs.sync(TEXTS, dry_run=True)
    assert sorted(audit.missing) == [1, 2, 3, 9, 10, 11, 100]
    assert model.calls == []

    seen: list[tuple[int, int | None]] = []
    report = docs.sync(TEXTS, progress=lambda done, total: seen.append((done, total)))
    assert (report.embedded, report.unchanged, report.removed, report.skipped) == (7, 0, 0, ())
    assert seen == [(3, 7), (6, 7), (7, 7)]
    assert docs.sync(TEXTS) == Report(unchanged=7)

    change(
        update(NOTES).where(NOTES.c.id == 9).values(body="edited"),
        update(NOTES).where(NOTES.c.id == 10).values(body=""),
        update(NOTES).where(NOTES.c.id == 11).values(body=None),
        delete(NOTES).where(NOTES.c.id == 100),
        insert(NOTES).values(id=12, body="twelve"),
    )
    audit = docs.sync(TEXTS, dry_run=True)
    assert (audit.stale, audit.missing, sorted(audit.orphaned)) == ((9,), (12,), [10, 11, 100])
    assert audit.unchanged == 3
    assert docs.count() == 7
    kept = docs.sync(TEXTS, prune=False)
    assert (kept.embedded, kept.removed, docs.count()) == (2, 0, 8)
    assert docs.sync(TEXTS).removed == 3
    assert texts_of(docs) == {n: ALL_TEXTS[n - 1] for n in (1, 2, 3)} | {9: "edited", 12: "twelve"}
    assert docs.sync(TEXTS, dry_run=True) == Report(unchanged=5)


@on_both
def test_metadata(opened: Open, change: Callable[..., None], model: DeterministicModel):
    """Further columns are metadata under their names; one column of JSON objects is the metadata.

    A change of them takes no call of the model, and what is equal is not touched.
    """
    docs = opened(key=int)
    docs.sync(NAMED)
    calls = len(model.calls)
    assert metadata_of(docs, 1) == {"lang": "dé", "rank": 0.1, "published": False}
    assert metadata_of(docs, 10) == {"lang": None, "rank": 1.0, "published": True}
    assert docs.sync(NAMED, dry_run=True) == Report(unchanged=7)

    change(update(NOTES).where(NOTES.c.id == 1).values(lang="DÉ"))
    change(update(NOTES).where(NOTES.c.id == 10).values(published=None))
    assert docs.sync(NAMED, dry_run=True).stale == (1, 10)
    assert docs.sync(NAMED).reused == 2
    assert metadata_of(docs, 10)["published"] is None
    docs.set_metadata(2, {"lang": None, "rank": 0.2, "published": False, "own": 1})
    assert docs.sync(NAMED, dry_run=True).stale == (2,)

    objects = select(NOTES.c.id, NOTES.c.body, NOTES.c.more)
    assert docs.sync(objects).reused == 7
    assert metadata_of(docs, 100) == {"n": 100, "tags": ["a"]}
    change(update(NOTES).where(NOTES.c.id == 3).values(more={"n": 3}))
    assert docs.sync(objects, dry_run=True).stale == (3,)
    docs.sync(objects)
    assert docs.sync(objects, dry_run=True) == Report(unchanged=7)
    assert docs.sync(TEXTS, dry_run=True) == Report(unchanged=7)  # says nothing of metadata
    assert len(model.calls) == calls


@on_both
def test_the_prefix_of_documents_counts(opened: Open, change: Callable[..., None]):
    """What the model is given is what is compared."""
    docs = opened(key=int)
    docs.sync(TEXTS)
    prefixed = DeterministicModel()
    prefixed.document_prefix = "passage: "
    assert len(opened(key=NOTES.c.id, model=prefixed).sync(TEXTS, dry_run=True).stale) == 7
    again = opened(key=NOTES.c.id, model=prefixed)
    assert again.sync(TEXTS).embedded == 7
    assert again.sync(TEXTS) == Report(unchanged=7)


@on_both
def test_a_hash_of_ones_own(db: Any, model: DeterministicModel, change: Callable[..., None]):
    """Where the database cannot compute the hash it is compared all the same."""

    class Folded(Collection[int]):
        @staticmethod
        def content_hash(input: Any) -> bytes:
            return Collection.content_hash(input.casefold())

    docs = Folded("docs", db, model=model, key=int)
    assert docs.sync(TEXTS).embedded == 7
    change(update(NOTES).where(NOTES.c.id == 1).values(body="NOTE 1 \N{SNOWMAN}"))
    change(update(NOTES).where(NOTES.c.id == 2).values(body="edited"))
    assert docs.sync(TEXTS, dry_run=True).stale == (2,)


@on_both
def test_any_select(opened: Open, change: Callable[..., None]):
    """Of joins, groups and unions; in an order of its own, with a limit."""
    docs = opened(key=int)
    grouped = select(func.min(NOTES.c.id).label("id"), func.max(NOTES.c.body).label("body"))
    grouped = grouped.group_by(NOTES.c.published)
    assert docs.sync(grouped).embedded == 2
    assert docs.sync(grouped.having(func.count() > 0)).unchanged == 2
    assert docs.sync(TEXTS.where(NOTES.c.id.in_([1, 9])).with_for_update()).skipped == ()
    assert sorted(docs.ids()) == [1, 9]
    assert docs.sync(TEXTS.order_by(NOTES.c.id.desc()).limit(4)).removed == 1
    assert sorted(docs.ids()) == [9, 10, 11, 100]
    other = NOTES.alias()
    joined = select(NOTES.c.id, other.c.body).join(other, other.c.id == NOTES.c.id + 1)
    docs.sync(joined.order_by(other.c.body))
    assert sorted(docs.ids()) == [1, 2, 9, 10]
    union = TEXTS.where(NOTES.c.id < 3).union_all(TEXTS.where(NOTES.c.id > 50))
    docs.sync(union)
    assert sorted(docs.ids()) == [1, 2, 100]
    twice = TEXTS.union_all(select(NOTES.c.id, NOTES.c.lang).where(NOTES.c.id == 3))
    with pytest.raises(InvalidItemError, match="more than one row of the key 3"):
        docs.sync(twice)


POSTS = Table(
    "sync_posts", NOTES.metadata, Column("nr", Integer, primary_key=True), Column("t", Text)
)


@on_both
def test_a_union_of_tables(
    db: Any, opened: Open, change: Callable[..., None], host_tables: Callable[..., None]
):
    """The rows of each table are items, as a whole or selected from."""
    host_tables(POSTS)
    change(insert(POSTS).values([{"nr": n, "t": f"post {n}"} for n in (50, 51)]))
    union = TEXTS.where(NOTES.c.id < 3).union_all(select(POSTS.c.nr, POSTS.c.t))
    docs = opened(key=int)
    report = docs.sync(union)
    assert (report.embedded, report.skipped) == (4, ())
    selected = union.subquery()
    change(update(POSTS).values(t="edited"), update(NOTES).values(body="edited"))
    report = docs.sync(select(selected.c.id, selected.c.body))
    assert (report.embedded + report.reused, report.skipped) == (4, ())
    assert texts_of(docs) == dict.fromkeys((1, 2, 50, 51), "edited")


@on_both
@pytest.mark.parametrize("kind", ["uuid", "text", "uuid as text", "integer"])
def test_keys(db: Any, opened: Open, host_tables: Callable[..., None], kind: str):
    """UUIDs and strings are compared in their own type; ids of other kinds are orphans."""
    types: dict[str, Any] = {
        "text": String(40),
        "uuid": Uuid(),
        "uuid as text": Uuid(as_uuid=False),
        "integer": BigInteger(),
    }
    table = Table(
        "sync_keys",
        MetaData(),
        Column("key", types[kind], primary_key=True),
        Column("body", String),
    )
    host_tables(table)
    keys: list[Any] = [uuid.UUID(int=number << 96) for number in (1, 5, 1 << 30, 77, 2)]
    if kind == "text":
        keys = ["a", "B", "b", "é", "1"]
    elif kind == "uuid as text":
        keys = [str(key) for key in keys]
    elif kind == "integer":
        keys = [-(2**63), 2**63 - 1, -7, 10**17, 0]
    with connection_to(db) as connection:
        connection.execute(insert(table), [{"key": key, "body": f"text {key}"} for key in keys])
    docs = opened(key=table.c.key)
    statement = select(table.c.key, table.c.body)
    assert docs.sync(statement).embedded == 5
    assert {*docs.ids()} == {*keys}
    assert docs.sync(statement) == Report(unchanged=5)
    assert docs.sync(statement, dry_run=True) == Report(unchanged=5)
    opened(key=str).embed("no key of it", "what it is")
    with connection_to(db) as connection:
        connection.execute(delete(table).where(table.c.key == keys[2]))
    if kind == "text":
        assert {*docs.sync(statement, dry_run=True).orphaned} == {keys[2], "no key of it"}
    assert docs.sync(statement).removed == 2
    assert {*docs.ids()} == {*keys} - {keys[2]}


@on_both
def test_what_is_refused(opened: Open, change: Callable[..., None]):
    """An empty source beside a filled collection, and what is no SELECT of key and text."""
    docs = opened(key=int)
    docs.sync(TEXTS)
    nothing = TEXTS.where(NOTES.c.id < 0)
    with pytest.raises(InvalidQueryError, match=r"'docs' has 7, which sync\(\) would remove"):
        docs.sync(nothing)
    assert docs.count() == 7
    assert len(docs.sync(nothing, dry_run=True).orphaned) == 7
    assert docs.sync(nothing, prune=False) == Report()
    assert docs.sync(nothing, allow_empty=True).removed == 7
    assert docs.sync(nothing) == Report()
    wrong: list[tuple[Any, str]] = [
        (select(NOTES.c.id), "this one has 1 column"),
        ([(1, "one")], "not list"),
        (select(NOTES.c.id, NOTES.c.rank), "'rank' is of the type Double"),
        (select(NOTES.c.body, NOTES.c.body.label("b")), "of this collection are int"),
    ]
    for statement, reason in wrong:
        with pytest.raises(InvalidQueryError, match=reason):
            docs.sync(statement)
    with pytest.raises(ValueError, match="batch_size"):
        docs.sync(TEXTS, batch_size=0)


@pytest.fixture(params=["engine", "postgresql_engine"])
def own(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine on each database, with the host's table."""
    engine: Engine = request.getfixturevalue(request.param)
    NOTES.create(engine)
    with engine.begin() as connection:
        rows = [{"id": number, "body": f"note {number}"} for number in range(1, 9)]
        connection.execute(insert(NOTES), rows)
    yield engine
    NOTES.drop(engine)


class Meanwhile(DeterministicModel):
    """A model during whose calls something happens."""

    def __init__(self, happens: Callable[[list[Any]], None]) -> None:
        super().__init__()
        self.happens = happens

    def embed_batch(self, items: Any) -> Any:
        self.happens(list(items))
        return super().embed_batch(items)


def test_others_write_meanwhile(own: Engine):
    """What changes while the model runs is embedded anew; what is deleted does not come back.

    No transaction is open then, and so on SQLite nobody is kept from writing.
    """
    checked_out: list[int] = []

    def happens(items: list[Any]) -> None:
        checked_out.append(own.pool.checkedout())  # type: ignore[attr-defined]
        with own.begin() as connection:
            if "note 2" in items:
                connection.execute(update(NOTES).where(NOTES.c.id == 2).values(body="edited"))
                connection.execute(delete(NOTES).where(NOTES.c.id == 3))
            if "note 5" in items:
                connection.execute(update(NOTES).where(NOTES.c.id == 5).values(body="at the end"))

    docs = Collection("docs", own, model=Meanwhile(happens), key=int)
    report = docs.sync(TEXTS, batch_size=4)
    assert {*checked_out} == {0}
    assert report.skipped == ()
    assert docs.sync(TEXTS, dry_run=True) == Report(unchanged=7)
    assert sorted(docs.ids()) == [1, 2, 4, 5, 6, 7, 8]


def test_it_goes_on_where_it_stopped(own: Engine):
    """What was embedded before the interruption is not embedded again."""

    def happens(items: list[Any]) -> None:
        if "note 7" in items:
            raise KeyboardInterrupt

    model = Meanwhile(happens)
    docs = Collection("docs", own, model=model, key=int)
    with pytest.raises(KeyboardInterrupt):
        docs.sync(TEXTS, batch_size=2)
    assert docs.count() == 6
    model.happens = lambda _: None
    assert docs.sync(TEXTS, batch_size=2).embedded == 2


def test_a_row_that_another_transaction_holds_is_left_to_it(postgresql_engine: Engine):
    """Nobody is waited for, and an uncommitted deletion leaves no vector behind.

    PostgreSQL only: on SQLite there is one writer at a time.
    """
    NOTES.create(postgresql_engine)
    try:
        docs = Collection("docs", postgresql_engine, model=DeterministicModel(), key=int)
        with postgresql_engine.begin() as connection:
            connection.execute(insert(NOTES), [{"id": n, "body": f"note {n}"} for n in (1, 2, 3)])
        with Session(postgresql_engine) as session:
            session.execute(delete(NOTES).where(NOTES.c.id == 2))
            report = docs.sync(TEXTS)
            assert [id for id, _ in report.skipped] == [2]
            assert report.embedded == 2
            session.commit()
        assert docs.sync(TEXTS, dry_run=True) == Report(unchanged=2)
        with Session(postgresql_engine) as session:  # its own vector, not committed yet
            session.execute(update(NOTES).where(NOTES.c.id == 1).values(body="edited"))
            Collection("docs", session, model=DeterministicModel(), key=int).embed(1, "edited")
            assert docs.sync(TEXTS, dry_run=True) == Report(unchanged=2)
            session.commit()
        assert docs.sync(TEXTS, dry_run=True) == Report(unchanged=2)
    finally:
        NOTES.drop(postgresql_engine)


def test_rows_on_other_servers(own: Engine, monkeypatch: pytest.MonkeyPatch):
    """Where no statement may compare them with embeddings, it is done in Python, and as well."""
    docs = Collection("docs", own, model=DeterministicModel(), key=int)
    monkeypatch.setattr(type(docs.reference.database), "compares_rows", lambda *_: False)
    together: list[str] = []

    @event.listens_for(own, "before_cursor_execute")
    def before(_: Any, __: Any, sql: str, *___: Any) -> None:
        if "sync_notes" in sql and "embeddings" in sql:
            together.append(sql)

    try:
        assert docs.sync(TEXTS).embedded == 8
        with own.begin() as connection:
            connection.execute(update(NOTES).where(NOTES.c.id == 5).values(body="edited"))
            connection.execute(delete(NOTES).where(NOTES.c.id.in_([1, 7])))
        audit = docs.sync(TEXTS, dry_run=True)
        assert (audit.stale, audit.missing, sorted(audit.orphaned)) == ((5,), (), [1, 7])
        report = docs.sync(TEXTS)
        assert (report.embedded, report.removed, report.unchanged) == (1, 2, 5)
        assert docs.sync(TEXTS) == Report(unchanged=6)
    finally:
        event.remove(own, "before_cursor_execute", before)
    assert together == []


def test_it_asks_by_keys_and_holds_little(own: Engine, monkeypatch: pytest.MonkeyPatch):
    """A pass over rows that are as they are fetches none of their texts."""
    docs = Collection("docs", own, model=DeterministicModel(), key=int)
    docs.sync(TEXTS)
    fetched: list[Any] = []

    @event.listens_for(own, "after_cursor_execute")
    def after(_: Any, cursor: Any, sql: str, *__: Any) -> None:
        if "body" in sql and "OFFSET" not in sql and "count(" not in sql:
            fetched.append(cursor.fetchall())

    docs.sync(TEXTS)
    event.remove(own, "after_cursor_execute", after)  # the engine is other tests', too
    assert fetched
    assert not any(fetched)


class Colour(enum.Enum):
    """Whose name is stored."""

    RED = "r"
    BLUE = "b"


class Level(enum.IntEnum):
    """Whose members are numbers."""

    LOW = 1
    HIGH = 2


class Shape(enum.StrEnum):
    """Whose members are strings."""

    ROUND = "round one"
    FLAT = "flat one"


KINDS = Table(
    "sync_kinds",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("body", String),
    Column("moment", DateTime(timezone=True)),
    Column("local", DateTime),
    Column("owner", Uuid),
    Column("price", Numeric(10, 2)),
    Column("colour", Enum(Colour)),
    Column("level", Enum(Level)),
    Column("shape", Enum(Shape)),
    Column("at", Time),
)
OF_KINDS = select(
    KINDS.c.id, KINDS.c.body, *[column for column in KINDS.c if column.key not in {"id", "body"}]
)


class Base(DeclarativeBase):
    """The host's."""


class Thing(Base):
    """A row of that table."""

    __table__ = KINDS


def body_of(thing: Any) -> str:
    return str(thing.body)


NIGHT = datetime(2026, 7, 1, 23, 30, tzinfo=UTC)
MOMENTS = [NIGHT, NIGHT + timedelta(microseconds=500_000), NIGHT + timedelta(hours=12), None]


@pytest.fixture(params=["engine", "postgresql_engine"])
def of_kinds(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine on each database, with a table of a host's that has columns of many types."""
    engine: Engine = request.getfixturevalue(request.param)
    KINDS.create(engine)
    with engine.begin() as connection:
        for number, moment in enumerate(MOMENTS):
            connection.execute(
                insert(KINDS).values(
                    id=number,
                    body=f"kind {number}",
                    moment=moment,
                    local=moment and moment.replace(tzinfo=None),
                    owner=moment and uuid.UUID(int=number),
                    price=moment and Decimal(number) / 4,
                    colour=moment and [*Colour][number % 2],
                    level=moment and [*Level][number % 2],
                    shape=moment and [*Shape][number % 2],
                    at=moment and time(10 + number, 0, 0, number),
                )
            )
    yield engine
    KINDS.drop(engine)


def test_metadata_of_each_type_are_found_by_their_values(of_kinds: Engine):
    """As what each is stored, on each database; and that is equal to the row the next time."""
    docs = Collection("docs", of_kinds, model=DeterministicModel(), key=int)
    docs.sync(OF_KINDS)
    assert metadata_of(docs, 1) == {
        "moment": "2026-07-01T23:30:00.500000+00:00",
        "local": "2026-07-01T23:30:00.500000",
        "owner": "00000000-0000-0000-0000-000000000001",
        "price": 0.25,
        "colour": "BLUE",
        "level": 2,
        "shape": "flat one",
        "at": "11:00:00.000001",
    }
    assert {*metadata_of(docs, 3).values()} == {None}
    things = ModelCollection(
        Thing,
        text=body_of,
        columns=["body"],
        metadata=[*metadata_of(docs, 1)],
        name="things",
        model=DeterministicModel(),
    )
    things.sync(of_kinds)
    for number in range(len(MOMENTS)):
        assert metadata_of(things.collection(of_kinds), number) == metadata_of(docs, number)
    vienna = timezone(timedelta(hours=2))
    wanted: list[tuple[dict[str, Any], list[int]]] = [
        ({"moment": NIGHT.astimezone(vienna)}, [0]),
        ({"moment": {"$gt": NIGHT.astimezone(vienna)}}, [1, 2]),
        ({"moment": {"$gte": NIGHT, "$lt": datetime(2026, 7, 2, tzinfo=UTC)}}, [0, 1]),
        ({"moment": {"$in": [MOMENTS[2]]}}, [2]),
        ({"local": {"$gt": NIGHT.replace(tzinfo=None)}}, [1, 2]),
        ({"owner": uuid.UUID(int=2)}, [2]),
        ({"price": Decimal("0.25")}, [1]),
        ({"price": {"$gte": Decimal("0.25")}}, [1, 2]),
        ({"colour": Colour.RED}, [0, 2]),
        ({"colour": {"$in": [Colour.BLUE]}}, [1]),
        ({"level": {"$gte": Level.HIGH}}, [1]),
        ({"shape": Shape.ROUND}, [0, 2]),
        ({"at": {"$gt": time(11)}}, [1, 2]),
    ]
    for where, ids in wanted:
        assert sorted(found.id for found in docs.similar("kind", where=where)) == ids, where
    assert docs.sync(OF_KINDS, dry_run=True) == Report(unchanged=4)
    with of_kinds.begin() as connection:
        changed = {"moment": NIGHT + timedelta(hours=1), "level": Level.LOW, "shape": Shape.ROUND}
        connection.execute(update(KINDS).where(KINDS.c.id == 1).values(changed))
    assert docs.sync(OF_KINDS, dry_run=True).stale == (1,)


@pytest.mark.parametrize("of_kinds", ["postgresql_engine"], indirect=True)
def test_a_datetime_is_the_same_in_each_time_zone_of_the_session(
    of_kinds: Engine, monkeypatch: pytest.MonkeyPatch
):
    """Whoever syncs, in whatever zone and by whatever driver, finds unchanged what another wrote.

    PostgreSQL finds that by itself, without the rows.
    """
    zones = ["UTC", "Europe/Vienna", "America/New_York"]
    model, url, read = DeterministicModel(), of_kinds.url, list[Any]()
    statement = select(
        *[OF_KINDS.selected_columns[name] for name in ("id", "body", "moment", "level", "shape")]
    )

    def reading(*asked: Any) -> Any:
        read.append(asked)
        return read_rows(*asked)

    monkeypatch.setattr(module, "read_rows", reading)

    async def by_asyncpg(zone: str) -> tuple[Report, Report]:
        settings = {"server_settings": {"timezone": zone}}
        engine = create_async_engine(
            url.set(drivername="postgresql+asyncpg"), connect_args=settings
        )
        docs = AsyncCollection("docs", engine, model=model, key=int)
        done = await docs.sync(statement, dry_run=True), await docs.sync(statement)
        await engine.dispose()
        return done

    def by_psycopg(zone: str) -> tuple[Report, Report]:
        engine = create_engine(url, connect_args={"options": f"-c timezone={zone}"})
        docs = Collection("docs", engine, model=model, key=int)
        done = docs.sync(statement, dry_run=True), docs.sync(statement)
        engine.dispose()
        return done

    docs = Collection("docs", of_kinds, model=model, key=int)
    for writer in zones[1:]:
        docs.delete_items(where={"moment": {"$exists": True}})
        assert by_psycopg(writer)[1].embedded == 4
        assert metadata_of(docs, 0)["moment"] == "2026-07-01T23:30:00+00:00"
        read.clear()
        for zone in zones:
            assert by_psycopg(zone) == (Report(unchanged=4), Report(unchanged=4))
            assert asyncio.run(by_asyncpg(zone)) == (Report(unchanged=4), Report(unchanged=4))
        assert read == []
    docs.set_metadata(0, metadata_of(docs, 0) | {"moment": "2026-07-02T01:30:00+02:00"})
    assert by_psycopg("Europe/Vienna")[0].stale == (0,)

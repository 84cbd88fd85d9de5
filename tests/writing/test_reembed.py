"""`reembed`, `back` and `drop_previous`: another model takes over, and nobody notices."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from sqlalchemy import (
    JSON,
    Text,
    TypeDecorator,
    delete,
    event,
    insert,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import embeddings
from embeddings import (
    AsyncCollection,
    Chunks,
    Collection,
    DoesNotExist,
    EmbeddingRecord,
    InvalidItemError,
    InvalidQueryError,
    ModelMismatchError,
    UnknownModelError,
)
from embeddings.models.registry import substitute_models
from embeddings.testing import DeterministicModel
from embeddings.writing import beside, reembed
from tests.forked import python
from tests.reaching import connection_to, in_threads, is_postgresql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from embeddings.models.base import Content
    from embeddings.vectors import Float32

on_engines = pytest.mark.parametrize("db", ["engine", "postgresql_engine"], indirect=True)


class Narrow(DeterministicModel):
    """A model of 64 dimensions, which tells before it answers."""

    def __init__(self, model_id: str, prefix: str = "") -> None:
        super().__init__(model_id)
        self.document_prefix = prefix
        self.before: Callable[[], object] = lambda: None

    def embed_batch(self, items: Sequence[Content]) -> list[Float32]:
        """Return the first 64 values."""
        self.before()
        return [vector[:64] for vector in super().embed_batch(items)]


by_both_hashes = pytest.mark.parametrize("large", ["", "passage: "], indirect=True)
"""With a model whose texts have the hashes that they had, and with another."""


@pytest.fixture
def large(request: pytest.FixtureRequest) -> Iterator[Narrow]:
    """The other model, which the registry knows, as it does `deterministic`."""
    model = Narrow("large", getattr(request, "param", ""))
    old = DeterministicModel()
    known = {"large": model, "deterministic": old}
    with substitute_models(lambda model_id, given: known.get(model_id, given)):  # type: ignore[arg-type,return-value]
        yield model


def state(docs: Collection[Any]) -> dict[Any, Any]:
    """Return what is stored, with the lengths of the vectors."""
    return {
        record.key: (record.content, record.metadata_, len(record.embedding)) for record in docs
    }


def count(model: DeterministicModel) -> int:
    return sum(map(len, model.calls))


TEXTS = [(f"{n:02}", f"text number {n}", {"n": n}) for n in range(25)]


@on_engines
def test_another_model_takes_over(docs: Collection[Any], db: Any, large: Narrow):
    """All items, their contents and metadata; indexes are there, each text was paid once."""
    docs.embed_multi_with_metadata(TEXTS, store=True)
    docs.embed("copy", "text number 1", store=True)
    docs.create_text_index("german")
    options: dict[str, Any] = {"m": 4, "ef_construction": 20} if is_postgresql(db) else {}
    docs.create_index(**options)
    before, updated = state(docs), [record.updated for record in docs]
    told: list[tuple[int, int | None]] = []
    report = docs.reembed(
        "large", batch_size=10, progress=lambda done, total: told.append((done, total))
    )
    assert (report.embedded, report.reused, report.skipped, report.missing) == (25, 1, (), ())
    assert told[-1] == (26, 26)
    assert count(large) == 25
    assert docs.model_id == "large"
    assert state(docs) == {key: (*row[:2], 64) for key, row in before.items()}
    assert [record.updated for record in docs] == updated
    assert docs.similar("text number 3", number=1)[0].id == "03"
    assert docs.similar("number 3", words=True, weights=(0, 1), number=30)[0].id == "03"
    index = docs.index_info()
    assert index is not None
    assert (index.is_valid, index.dimensions) == (True, 64)
    assert index.options.items() >= options.items()
    assert docs.reembed("large").embedded == 0
    assert Collection.names(db) == ["docs"]
    assert Collection("docs [previous]", db).model_id == "deterministic"


@by_both_hashes
@on_engines
def test_what_changes_meanwhile_is_in_both(docs: Collection[Any], db: Any, large: Narrow):
    """Written, replaced, described, deleted, deleted and written again, while the model runs."""
    docs.embed_multi_with_metadata(TEXTS, store=True)
    steps: Iterator[Callable[[], object]] = iter(
        [
            lambda: docs.embed("00", "another text", store=True),
            lambda: docs.embed("new", "a new text", {"is": "new"}, store=True),
            lambda: docs.set_metadata("03", {"n": "three"}),
            lambda: docs.set_metadata("04", None),
            lambda: docs.delete_items(["05", "24"]),
            lambda: docs.embed("05", "text number 5", store=True),
            lambda: docs.embed("01", "text for a moment", store=True),
            lambda: docs.embed("01", "text number 1", {"n": 1}, store=True),
        ]
    )
    large.before = lambda: next(steps, lambda: None)()
    docs.reembed("large", batch_size=5, concurrency=1)
    expected: dict[str, Any] = {key: (text, metadata, 64) for key, text, metadata in TEXTS}
    expected |= {
        "00": ("another text", None, 64),
        "new": ("a new text", {"is": "new"}, 64),
        "03": (expected["03"][0], {"n": "three"}, 64),
        "04": (expected["04"][0], None, 64),
        "05": ("text number 5", None, 64),
    }
    del expected["24"]
    assert next(steps, None) is None
    assert state(docs) == expected
    for key, (content, _, _) in expected.items():
        assert docs.similar(large.document_prefix + content, number=1)[0].id == key
    assert all(record.updated and record.updated > 1_700_000_000 for record in docs)


@on_engines
def test_either_name_goes_on(opened: Any, db: Any, large: Narrow):
    """Applications that name the old model or the new one search and write at every moment."""
    docs = Collection("docs", db, model=DeterministicModel())
    docs.embed_multi((key, content) for key, content, _ in TEXTS)
    with pytest.raises(ModelMismatchError):
        Collection("docs", db, model_id="large").similar("text")
    old, new = (
        Collection("docs", db, model_id="deterministic"),
        Collection("docs", db, model_id="large"),
    )
    none = Collection("docs", db)
    everybody = [docs, old, new, none]

    def work(turn: str) -> None:
        for at, each in enumerate(everybody):
            key = f"{turn}{at}"
            each.embed(key, f"zebra {turn} {at}", store=True)
            assert key in {entry.id for entry in each.similar(f"zebra {turn} {at}", number=30)}
            plan = each.plan([(key, f"lion {turn} {at}")], store=True)
            plan.embed()
            assert each.apply(plan).embedded == 1
            assert each.count() == none.count()

    turns = iter(["during"])
    large.before = lambda: [work(turn) for turn in turns]  # type: ignore[func-returns-value]
    texts = {key: content for key, content, _ in TEXTS}
    docs.reembed(large, lambda ids: [(id, texts[id]) for id in ids])
    assert {each.model_id for each in everybody} == {"large"}
    work("after")
    planned = old.plan([("planned", "a giraffe")])
    planned.embed()
    prepared = none.prepare("a hippo")
    assert old.back().embedded == 4
    assert {each.model_id for each in everybody} == {"deterministic"}
    work("back")
    assert old.apply(planned).embedded == 1
    none.embed("prepared", prepared)
    assert docs.similar("giraffe", number=1)[0].id == "planned"
    assert docs.similar("a hippo", number=1)[0].id == "prepared"
    assert docs.count() == 25 + 3 * 4 + 2
    assert docs.drop_previous()
    assert not docs.drop_previous()
    with pytest.raises(ModelMismatchError):
        new.similar("text")
    with pytest.raises(DoesNotExist, match="no vectors of a model before"):
        docs.back()
    everybody.remove(new)
    work("dropped")


@by_both_hashes
@on_engines
def test_contents_that_are_not_stored(docs: Collection[Any], db: Any, large: Narrow):
    """Who lacks one is named before anything is spent; a function supplies it."""
    docs.embed("stored", "a stored text", store=True)
    docs.embed("kept", "text elsewhere")
    docs.embed("lost", "nobody has this")
    docs.store_vectors([("vector", np.ones(256, np.float32))])
    with pytest.raises(
        InvalidItemError, match=r"3 items .* contents=.*'kept', 'lost', 'vector'"
    ) as e:
        docs.reembed("large")
    assert e.value.ids == ("kept", "lost", "vector")
    assert not large.calls

    def contents(ids: list[str]) -> dict[str, str | None]:
        assert ids == ["kept", "lost", "vector"] or "stored" not in ids
        return {"kept": "text elsewhere", "lost": None, "vector": "a text of a vector"}

    with pytest.raises(InvalidItemError, match=r"1 items .*'lost'"):
        docs.reembed("large", contents)
    assert docs.model_id == "deterministic"
    assert count(large) == 3
    report = docs.reembed("large", contents, on_error="skip")
    assert (report.embedded, report.reused, report.missing) == (0, 3, ("lost",))
    assert docs.ids() == ["kept", "stored", "vector"]
    assert count(large) == 3
    assert state(docs)["kept"] == (None, None, 64)
    # Going back needs the content of nothing that did not change.
    docs.embed("kept", "text that is new", store=True)
    assert docs.back().embedded == 1
    assert docs.ids() == ["kept", "stored", "vector"]
    assert docs.similar("text that is new", number=1)[0].id == "kept"


@pytest.mark.parametrize("db", ["session", "postgresql_session"], indirect=True)
def test_on_a_session_it_is_a_part_of_the_transaction(
    docs: Collection[Any], db: Any, large: Narrow
):
    """Rolled back, all is as it was, also in the same objects; committed, it is there."""
    docs.embed_multi(((key, content) for key, content, _ in TEXTS), store=True)
    db.commit()
    docs.reembed("large")
    assert docs.model_id == "large"
    assert len(db.scalars(select(EmbeddingRecord.collection_id).distinct()).all()) == 2
    db.rollback()
    assert docs.model_id == "deterministic"
    assert docs.similar("text number 3", number=1)[0].id == "03"
    with connection_to(db) as connection:
        assert connection.scalar(text("SELECT count(*) FROM collections")) == 1
    docs.reembed("large")
    docs.drop_previous()
    db.commit()
    assert docs.similar("text number 3", number=1)[0].id == "03"
    assert docs.model_id == "large"


@on_engines
def test_what_stands_beside(docs: Collection[Any], db: Any, large: Narrow):
    """One at a time; it is renamed and deleted with its collection, and can be looked at."""
    with pytest.raises(DoesNotExist):
        docs.reembed("large")
    docs.embed("a", "a text", store=True)
    with pytest.raises(UnknownModelError):
        docs.reembed("no such model")
    wrong: dict[str, Any]
    for wrong in (
        {"contents": ["a text"]},
        {"concurrency": 0},
        {"batch_size": 0},
        {"progress": "bar"},
        {"on_error": "leave"},
    ):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            docs.reembed("large", **wrong)
    assert not Collection.exists(db, "docs [next]")
    large.before = lambda: pytest.fail("stop")
    with pytest.raises(pytest.fail.Exception):
        docs.reembed(large)
    assert Collection("docs [next]", db, create=False).model_id == "large"
    with pytest.raises(ModelMismatchError, match=r"being made.*'large'.*delete 'docs \[next\]' f"):
        docs.reembed(Narrow("third"))
    large.before = lambda: None
    docs.reembed(large)
    with pytest.raises(ModelMismatchError, match=r"'deterministic'.*drop_previous\(\)"):
        docs.reembed(Narrow("third"))
    with pytest.raises(InvalidQueryError, match=r"'docs \[previous\]' is what stands beside"):
        Collection("docs [previous]", db).reembed(Narrow("third"))
    assert docs.reembed("deterministic").embedded == 0  # as back() does
    assert docs.model_id == "deterministic"
    docs.rename("papers")
    assert Collection.names(db) == ["papers"]
    assert docs.back().unchanged == 1
    assert docs.model_id == "large"
    assert Collection.exists(db, "papers [previous]")
    docs.delete()
    assert not Collection.exists(db, "papers [previous]")
    with connection_to(db) as connection:
        assert connection.scalar(text("SELECT count(*) FROM embeddings")) == 0


@on_engines
def test_two_at_once(docs: Collection[Any], db: Any, large: Narrow):
    """Two processes, and a writer beside them: both end well, and nothing is lost."""
    docs.embed_multi(((key, content) for key, content, _ in TEXTS), store=True)

    def write() -> None:
        for number in range(20):
            Collection("docs", db).embed(f"new {number}", f"new text {number}", store=True)
            Collection("docs", db).delete_items([f"{number:02}"])

    def embed() -> None:
        Collection("docs", db).reembed("large", batch_size=3)

    works = [write, embed, embed]
    in_threads(lambda at: works[at](), len(works))
    assert docs.model_id == "large"
    expected = [f"new {number}" for number in range(20)] + [key for key, _, _ in TEXTS[20:]]
    assert docs.ids() == sorted(expected)
    assert {len(record.embedding) for record in docs} == {64}
    assert Collection.names(db) == ["docs"]


@on_engines
def test_a_writer_as_quick_as_a_look_at_all_rows(docs: Collection[Any], db: Any, large: Narrow):
    """What others write after all rows were compared is brought over without comparing all again.

    In a large collection somebody writes each time that takes.
    """
    docs.embed_multi(((key, content) for key, content, _ in TEXTS), store=True)
    compared, numbers = [False], iter(range(1_000))

    def note(*args: Any) -> None:
        statement = " ".join(args[2].split())
        is_page = statement.startswith("SELECT embeddings.id, embeddings.content_hash")
        compared[0] |= is_page and "ORDER BY embeddings.id LIMIT" in statement

    def write(done: int, total: int | None) -> None:
        if compared[0]:
            docs.embed("03", f"another text {next(numbers)}", store=True)
            compared[0] = False

    event.listen(db, "before_cursor_execute", note)
    docs.reembed("large", batch_size=len(TEXTS), progress=write)
    event.remove(db, "before_cursor_execute", note)

    assert docs.model_id == "large"
    assert next(numbers) == 1
    assert state(docs)["03"][0] == "another text 0"
    assert docs.similar("another text 0", number=1)[0].id == "03"


@on_engines
def test_killed_in_the_middle(docs: Collection[Any], db: Any, large: Narrow):
    """What was written stays, and is not paid for again."""
    docs.embed_multi(((key, content) for key, content, _ in TEXTS), store=True)
    script = """
import os, sys
from sqlalchemy import create_engine
from embeddings import Collection
from embeddings.testing import DeterministicModel

class Killed(DeterministicModel):
    def embed_batch(self, items):
        if len(self.calls) == 2:
            os._exit(9)
        return [vector[:64] for vector in super().embed_batch(items)]

Collection("docs", create_engine(sys.argv[1])).reembed(Killed("large"), batch_size=5, concurrency=1)
"""
    url = db.url.render_as_string(hide_password=False)
    assert python("-c", script, url).returncode == 9
    assert docs.model_id == "deterministic"
    assert docs.similar("text number 3", number=1)[0].id == "03"
    assert docs.reembed(large, batch_size=5).embedded == 15
    assert count(large) == 15
    assert docs.ids() == [key for key, _, _ in TEXTS]


@pytest.mark.parametrize("db", ["engine", "postgresql_engine"], indirect=True)
def test_columns_of_the_hosts_own(db: Any, large: Narrow):
    """Their values are those of the old rows, also where they change while it is at work."""

    class Base(DeclarativeBase):
        pass

    class Owned:
        owner: Mapped[str]

    class Topic:
        topic: Mapped[str | None]

    records = embeddings.make_records(
        Base, prefix="own", collection_mixin=Topic, embedding_mixin=Owned
    )
    Base.metadata.create_all(db)
    try:
        docs = Collection("docs", db, model=DeterministicModel(), records=records)
        docs.embed_multi([("a", "one"), ("b", "two")], store=True, extra={"owner": "me"})
        docs.embed("c", "three", store=True, extra={"owner": "you"})
        own = records.embeddings
        with db.begin() as connection:
            connection.execute(update(records.collections).values(topic="animals"))

        def change() -> None:
            with db.begin() as connection:
                connection.execute(update(own).where(own.c.id == "a").values(owner="them"))

        large.before = change
        docs.reembed("large")
        docs.drop_previous()
        with db.connect() as connection:
            rows = connection.execute(select(own.c.id, own.c.owner).order_by(own.c.id))
            assert rows.all() == [("a", "them"), ("b", "me"), ("c", "you")]
            assert connection.scalar(select(records.collections.c.topic)) == "animals"
    finally:
        Base.metadata.drop_all(db)


@pytest.mark.parametrize("db", ["engine", "postgresql_engine"], indirect=True)
def test_columns_of_lists_of_the_hosts_own(db: Any, large: Narrow):
    """What Python cannot hash goes along, too, and contents may be supplied as a bytearray."""

    class Base(DeclarativeBase):
        pass

    class Tagged:
        tags: Mapped[list[str] | None] = mapped_column(JSON)

    records = embeddings.make_records(Base, prefix="tagged", embedding_mixin=Tagged)
    Base.metadata.create_all(db)
    try:
        docs = Collection("docs", db, model=DeterministicModel(), records=records)
        given = {"a": ["x", "y"], "b": ["x", "y"], "c": [], "d": ["z"]}
        for id, tags in given.items():
            docs.embed(id, f"text {id}", extra={"tags": tags})
        large.supports_binary = True
        report = docs.reembed(
            "large", contents=lambda ids: {id: bytearray(f"text {id}".encode()) for id in ids}
        )
        assert report.embedded == 4
        docs.drop_previous()
        own = records.embeddings
        with db.connect() as connection:
            assert dict(connection.execute(select(own.c.id, own.c.tags)).all()) == given
    finally:
        Base.metadata.drop_all(db)


class Owner(NamedTuple):
    """Is shown without its key."""

    key: str

    def __repr__(self) -> str:
        return "Owner()"


class OwnerType(TypeDecorator[Owner]):
    """Stores the key."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return value.key

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return Owner(value)


@on_engines
def test_columns_of_the_hosts_own_that_look_alike(
    db: Any, large: Narrow, monkeypatch: pytest.MonkeyPatch
):
    """Each row keeps its own value from the first, whatever `repr` shows of it."""
    monkeypatch.setattr(reembed, "MOST_PASSES", 1)

    class Base(DeclarativeBase):
        pass

    class Owned:
        owner: Mapped[Owner] = mapped_column(OwnerType)

    records = embeddings.make_records(Base, prefix="alike", embedding_mixin=Owned)
    Base.metadata.create_all(db)
    try:
        docs = Collection("docs", db, model=DeterministicModel(), records=records)
        given = {"a": Owner("me"), "b": Owner("you"), "c": Owner("me")}
        for id, owner in given.items():
            docs.embed(id, f"text {id}", store=True, extra={"owner": owner})
        assert docs.reembed("large").embedded == 3
        docs.drop_previous()
        own = records.embeddings
        with db.connect() as connection:
            assert dict(connection.execute(select(own.c.id, own.c.owner)).all()) == given
    finally:
        Base.metadata.drop_all(db)


@on_engines
def test_the_switch_asks_what_is_unlike(opened: Any, large: Narrow):
    """The database names each row that somebody has changed on either side, and no other."""
    docs = opened()
    ids = [f"id {number}" for number in range(9)]
    entries = ((id, f"text of {id}", {"at": 1}) for id in ids)
    docs.embed_multi_with_metadata(entries, store=True)
    new = beside.begin(docs.reference, large)
    assert new is not None
    columns = docs.reference.records.embeddings.c
    changes: list[Any] = [
        {"content_hash": b"0" * 16},
        {"content_hash": None},
        {"metadata": {"at": 2}},
        {"metadata": None},
        {"content": None},
        {"updated": 1},
    ]
    with docs.reference.work(write=True) as work:
        one, two = docs.reference.existing(work).id, new.other.row_of(work).id
        table = columns.id.table
        names = [column.name for column in table.columns if column.name != "collection_id"]
        rows = select(literal(two), *(table.c[name] for name in names)).where(
            columns.collection_id == one
        )
        work.run(insert(table).from_select(["collection_id", *names], rows))
        assert beside.unlike(work, (one, two)) == []
        for number, (id, values) in enumerate(zip(ids, changes, strict=False)):
            where = columns.collection_id == (one, two)[number % 2], columns.id == id
            work.run(update(table).where(*where).values(values))
        for number, id in enumerate(ids[7:]):
            where = columns.collection_id == (one, two)[number % 2], columns.id == id
            work.run(delete(table).where(*where))
        assert sorted(beside.unlike(work, (one, two))) == ids[:6] + ids[7:]
        assert sorted(beside.unlike(work, (one, two), but=("updated",))) == ids[:5] + ids[7:]


@on_engines
def test_chunks(opened: Any, db: Any, large: Narrow):
    """Texts are cut as they were; long ones that become short leave nothing behind."""
    docs = opened(chunks=Chunks(size=40))
    sentences = ["The first sentence is here.", "A second one follows it.", "The third is last."]
    docs.embed("long", " ".join(sentences), {"a": 1}, store=True)
    docs.embed("shorter", " ".join(sentences), store=True)
    docs.embed_multi([("one#1", "A short text."), ("gone", " ".join(sentences))], store=True)
    steps: Iterator[Callable[[], object]] = iter(
        [
            lambda: docs.embed("shorter", sentences[1], store=True),
            lambda: docs.embed("one#1", " ".join(sentences[1:]), store=True),
            lambda: docs.delete_items(["gone"]),
        ]
    )
    large.before = lambda: [step() for step in steps]
    docs.reembed("large", batch_size=2)
    assert next(steps, None) is None
    assert docs.ids() == ["long", "one#1", "shorter"]
    assert docs.similar("the third is last", number=1)[0].chunk is not None
    rows = "SELECT e.id FROM embeddings e JOIN collections c ON c.id = e.collection_id WHERE"
    with connection_to(db) as connection:
        made = connection.scalars(text(f"{rows} c.name = 'docs' ORDER BY e.id")).all()
        before = connection.scalars(text(f"{rows} c.name <> 'docs' ORDER BY e.id")).all()
    assert made == before
    assert len(made) == 6
    docs.embed("long", sentences[0], store=True)
    docs.back()
    assert [entry.id for entry in docs.similar(sentences[0], number=1)] == ["long"]
    assert docs.count() == 3


def test_awaited(tmp_path: Path, large: Narrow):
    """The same, awaited; contents may come from an asynchronous function."""

    async def contents(ids: list[str]) -> dict[str, str]:
        return {id: f"text {id}" for id in ids}

    async def run() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}")
        async with engine.begin() as connection:
            await connection.run_sync(embeddings.migrate)
        docs = AsyncCollection("docs", engine, model_id="deterministic")
        await docs.embed_multi((id, f"text {id}") for id in "abc")
        assert (await docs.reembed("large", contents)).embedded == 3
        assert await docs.model_id == "large"
        assert not await AsyncCollection.exists(engine, "docs [next]")
        assert (await docs.back(contents)).unchanged == 3
        assert await docs.drop_previous()
        assert not await AsyncCollection.exists(engine, "docs [previous]")
        await engine.dispose()

    asyncio.run(run())

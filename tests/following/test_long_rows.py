"""Rows with long texts are followed: their items have chunks."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, delete, event, insert, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from embeddings import Chunks, ChunksMismatchError, ModelCollection
from embeddings.commands import status
from embeddings.following.commands import check
from embeddings.testing import DeterministicModel

if TYPE_CHECKING:
    from collections.abc import Iterator


class Base(DeclarativeBase):
    """The host's."""


class Essay(Base):
    """What is followed."""

    __tablename__ = "followed_essays"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]
    lang: Mapped[str | None]


def long_text(seed: int, paragraphs: int = 12) -> str:
    rng = random.Random(seed)  # noqa: S311  no secret
    return "\n\n".join(
        " ".join(f"word{rng.randrange(9999)}" for _ in range(rng.randint(8, 25))) + "."
        for _ in range(paragraphs)
    )


@pytest.fixture
def model() -> DeterministicModel:
    """The collection's."""
    return DeterministicModel()


@pytest.fixture
def essays(model: DeterministicModel) -> ModelCollection[Essay]:
    """A declared collection."""
    return ModelCollection(
        Essay,
        text=[Essay.body],
        metadata=[Essay.lang],
        name="essays",
        model=model,
        chunks=Chunks(size=200),
    )


@pytest.fixture(params=["engine", "postgresql_engine"])
def own(request: pytest.FixtureRequest, essays: ModelCollection[Essay]) -> Iterator[Engine]:
    """An engine on each database, with essays, whose table is followed."""
    engine: Engine = request.getfixturevalue(request.param)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(
            insert(Essay), [{"id": n, "body": long_text(n), "lang": "en"} for n in range(1, 13)]
        )
    essays.install(engine)
    yield engine
    essays.uninstall(engine)
    Base.metadata.drop_all(engine)


@pytest.fixture
def unfollowed(postgresql_engine: Engine) -> Iterator[Engine]:
    """An engine on PostgreSQL, with three essays, whose table has no triggers."""
    Base.metadata.create_all(postgresql_engine)
    with postgresql_engine.begin() as connection:
        connection.execute(insert(Essay), [{"id": n, "body": long_text(n)} for n in (1, 2, 3)])
    yield postgresql_engine
    Base.metadata.drop_all(postgresql_engine)


def test_sync_compares_whole_texts(own, essays, model):
    """All rows are embedded once; then only what differs, also where others took a chunk away."""
    assert essays.sync(own).embedded == 12
    docs = essays.collection(own)
    assert docs.count() == 12
    assert docs.count(chunks=True) > 50
    model.calls.clear()
    report = essays.sync(own)
    assert (report.unchanged, report.embedded, report.reused, report.removed) == (12, 0, 0, 0)
    assert model.calls == []
    with own.begin() as connection:
        connection.execute(
            update(Essay).where(Essay.id == 3).values(body=long_text(3) + "\n\nOne more.")
        )
        connection.execute(update(Essay).where(Essay.id == 4).values(lang="de"))
        connection.execute(delete(Essay).where(Essay.id == 5))
        connection.execute(text("DELETE FROM embeddings WHERE id = '6#2'"))
    audit = essays.sync(own, dry_run=True)
    assert (sorted(audit.stale), audit.missing, audit.orphaned) == ([3, 4, 6], (), ())
    report = essays.sync(own)
    assert report.embedded + report.reused == 3
    assert sum(map(len, model.calls)) <= 3
    assert docs.get(4).metadata_ == {"lang": "de"}
    assert essays.sync(own).unchanged == 11


def test_changes_are_brought_in(own, essays, model):
    """An edit embeds what is new, a deleted row takes all its chunks along at once."""
    essays.sync(own)
    docs = essays.collection(own)
    essays.refresh(own)
    model.calls.clear()
    with own.begin() as connection:
        connection.execute(
            update(Essay).where(Essay.id == 3).values(body=long_text(3) + "\n\nWhales sing.")
        )
        connection.execute(insert(Essay).values(id=20, body=long_text(20), lang="en"))
        connection.execute(delete(Essay).where(Essay.id == 1))
    assert 1 not in docs.ids()
    assert 12 in docs.ids()
    with own.connect() as connection:
        left = connection.execute(text("SELECT id FROM embeddings")).scalars().all()
    assert not [id for id in left if id.startswith("1#")]
    assert essays.pending(own).items == 3
    report = essays.refresh(own)
    assert report.embedded == 2
    assert essays.pending(own).items == 0
    found = docs.similar("Whales sing.", 1)[0]
    assert (found.id, found.chunk.number) == (3, len(docs.get_chunks(3)) - 1)
    with own.begin() as connection:
        connection.execute(update(Essay).where(Essay.id == 2).values(body=""))
    essays.refresh(own)
    assert 2 not in docs.ids()
    assert docs.count() == 11
    assert essays.sync(own).unchanged == 11


def test_rows_that_another_program_has_spoilt_go_with_their_items(own, essays):
    """Whether an item's first row is missing, or is not as it was written."""
    essays.sync(own)
    docs = essays.collection(own)
    essays.uninstall(own)
    with own.begin() as connection:
        connection.execute(text("DELETE FROM embeddings WHERE id = '2#0'"))
        connection.execute(text("UPDATE embeddings SET content_hash = NULL WHERE id = '1#0'"))
        connection.execute(delete(Essay).where(Essay.id <= 2))
    assert sorted(essays.sync(own, dry_run=True).orphaned) == [1, 2]
    assert essays.sync(own).removed == 2
    with own.connect() as connection:
        left = connection.execute(text("SELECT id FROM embeddings")).scalars().all()
    assert left
    assert not [id for id in left if id.startswith(("1#", "2#"))]
    assert sorted(docs.ids()) == [*range(3, 13)]
    assert essays.sync(own, dry_run=True).unchanged == 10


@pytest.mark.parametrize("ends", [False, True], ids=["on and on", "for a moment"])
def test_what_cannot_be_removed_is_told(unfollowed, essays, ends):
    """If another writer is at it, also when it is tried once more.

    PostgreSQL only: on SQLite there is one writer at a time.
    """
    own = unfollowed
    essays.sync(own)
    with own.begin() as connection:
        connection.execute(delete(Essay).where(Essay.id < 3))
    with Session(own) as session:
        essays.collection(session).embed(1, long_text(4))

        @event.listens_for(own, "after_cursor_execute")
        def release(_: Any, __: Any, sql: str, *___: Any) -> None:
            if ends and "pg_try_advisory" in sql:
                session.commit()

        report = essays.sync(own)
        event.remove(own, "after_cursor_execute", release)
        if ends:
            assert (report.removed, report.skipped) == (2, ())
        else:
            assert (report.removed, [id for id, _ in report.skipped]) == (1, [1])
            session.commit()
            assert essays.sync(own).removed == 1
    assert essays.sync(own, dry_run=True).unchanged == 1


@pytest.mark.parametrize("id", [1, 9])
def test_nobody_is_waited_for(unfollowed, essays, id):
    """An item, or a new one, that another writes in an open transaction is left to it.

    PostgreSQL only: on SQLite there is one writer at a time.
    """
    own = unfollowed
    essays.sync(own)
    with own.begin() as connection:
        connection.execute(insert(Essay).values(id=9, body=long_text(9)))
        connection.execute(update(Essay).values(body=Essay.body + "\n\nMore."))
    with Session(own) as session:
        essays.collection(session).embed(id, long_text(4))
        report = essays.sync(own)
        assert (report.embedded, [id for id, _ in report.skipped]) == (3, [id])
        session.commit()
    assert essays.sync(own).embedded == 1
    assert essays.sync(own, dry_run=True).unchanged == 4


def test_instances_are_found_once(own, essays):
    """By their best chunks, among rows of the host's own choice."""
    essays.sync(own)
    question = long_text(7).split("\n\n")[5]
    with Session(own) as session:
        rows = essays.nearest(session, question, number=12)
        assert rows[0].Essay.id == 7
        assert len({row.Essay.id for row in rows}) == len(rows) == 12
        few = essays.nearest(session, question, select(Essay).where(Essay.id > 8), number=3)
        assert len(few) == 3
        related = essays.related(session, session.get(Essay, 7), number=20)
        assert len(related) == 11
        assert 7 not in {row.Essay.id for row in related}


def test_another_setting(own: Engine, essays: ModelCollection[Essay], model: DeterministicModel):
    """It is searched as it is, and embeds nothing until its items are deleted; `check` says so."""
    essays.sync(own)
    smaller = ModelCollection(
        Essay, text=[Essay.body], name="essays", model=model, chunks=Chunks(size=100)
    )
    body = long_text(1)
    with Session(own) as session:
        found = [one.nearest(session, body) for one in (essays, smaller)]
        assert found[0]
        assert found[0] == found[1]
    said = r"essays has Chunks\(size=200\), .* says Chunks\(size=100\)\. .*delete_items\(ids\(\)\)"
    lines, is_good = check(own, [smaller])
    assert re.search(said, lines)
    assert not is_good
    assert re.search(said, status(own, declared=[smaller]).text)
    assert "has Chunks" not in check(own, [essays])[0] + status(own, declared=[essays]).text
    docs = smaller.collection(own)
    before = docs.count(chunks=True)
    for change in (smaller.sync, smaller.refresh):
        with pytest.raises(ChunksMismatchError, match="delete its items"):
            change(own)
    docs.delete_items(docs.ids())
    assert smaller.sync(own).embedded
    assert docs.count(chunks=True) > before
    assert "has Chunks" not in check(own, [smaller])[0]

"""A collection that follows rows gets another name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, insert, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from embeddings import Collection, ModelCollection
from embeddings.commands import status
from embeddings.testing import DeterministicModel
from tests.following.test_operations import generated, run
from tests.reaching import is_postgresql

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Each database, with rows under the collection "old"."""
    engine = request.getfixturevalue("engine" if request.param == "sqlite" else "postgresql_engine")
    notes = declared("old")
    notes.source.metadata.create_all(engine)
    with engine.begin() as connection:
        rows = [{"id": id, "words": str(id)} for id in (1, 2, 3)]
        connection.execute(insert(notes.source), rows)
    notes.install(engine)
    notes.sync(engine)
    yield engine
    if is_postgresql(engine):
        for name in ("old", "new"):
            declared(name).uninstall(engine)
        notes.source.metadata.drop_all(engine)


def declared(*names: str) -> Any:
    """Return declarations of a program that knows no other, the last one of which is meant."""

    class Base(DeclarativeBase):
        pass

    class Note(Base):
        __tablename__ = "called_notes"
        id: Mapped[int] = mapped_column(primary_key=True)
        words: Mapped[str]

    for name in names:
        found = ModelCollection(Note, text=[Note.words], name=name, model=DeterministicModel())
    return found


def test_it_is_renamed(database: Engine, caplog: pytest.LogCaptureFixture):
    """The former triggers are dropped, the vectors stay, and none is made anew."""
    old, new = declared("old"), declared("new")
    old.uninstall(database)
    old.collection(database).rename("new")
    assert not caplog.messages
    with database.begin() as connection:
        connection.execute(update(new.source).where(new.source.id == 1).values(words="x"))
    new.install(database)
    report = new.sync(database)
    assert (report.embedded, report.unchanged) == (1, 2)
    assert new.trigger_problems(database) == []
    assert Collection.names(database) == ["new"]


def test_triggers_that_are_left(database: Engine, caplog: pytest.LogCaptureFixture):
    """`rename` says so in the log, and `status` to a program that does not declare them."""
    declared("old").collection(database).rename("new")
    [message] = caplog.messages
    assert "'old' is called 'new' now" in message
    new = declared("new")
    new.install(database)
    assert new.sync(database).unchanged == 3
    caplog.clear()
    new.refresh(database)
    assert not caplog.messages  # it sees all that is its own
    assert new.trigger_problems(database) == []
    assert "not declared here" not in status(database).text  # nothing is
    shown = status(database, declared=[new])
    assert shown.is_good  # another program may declare it
    assert re.search(
        r"^old +called_notes +\d+ +in place, but not declared here$", shown.text, re.MULTILINE
    )
    assert re.search(r"^new +called_notes +\d+ +in place$", shown.text, re.MULTILINE)
    declared("old").uninstall(database)
    assert "not declared here" not in status(database, declared=[new]).text


def test_autogenerate(database: Engine):
    """It unfollows under the former name, and follows under the new one."""
    new = declared("new")
    with database.begin() as connection:
        source, _ = generated(connection, new.source)
        assert source.index("op.unfollow_rows") < source.index("op.follow_rows")
        Collection("old", connection).rename("new")
        run(connection, source)
        assert new.trigger_problems(connection) == []
        assert new.sync(connection).unchanged == 3

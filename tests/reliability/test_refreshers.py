"""Hosts that write in random order beside refreshers: nobody fails, and the end is right."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, create_engine, delete, insert, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from embeddings import ModelCollection
from embeddings.testing import DeterministicModel
from tests.reaching import in_threads, is_postgresql

if TYPE_CHECKING:
    from collections.abc import Iterator

WRITES = 25  # transactions of each host
ROWS = 40  # of each host: two that change the same row wait for each other, which is their affair


class Base(DeclarativeBase):
    """The host's."""


class Note(Base):
    """What is followed."""

    __tablename__ = "crowded_notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]
    owner: Mapped[int]


@pytest.fixture(
    params=["sqlite", "READ COMMITTED", "REPEATABLE READ"],
)
def crowded(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine for hosts, with the host's table, followed."""
    if request.param == "sqlite":
        engine: Engine = request.getfixturevalue("engine")
    else:
        url = request.getfixturevalue("postgresql_engine").url
        engine = create_engine(url, isolation_level=request.param, pool_size=8)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        rows = [
            {"id": 1000 * owner + number, "body": f"first {number}", "owner": owner}
            for owner in (1, 2)
            for number in range(ROWS)
        ]
        connection.execute(insert(Note), rows)
    yield engine
    with engine.begin() as connection:
        notes_of(DeterministicModel()).uninstall(connection)
    Base.metadata.drop_all(engine)
    engine.dispose()


def notes_of(model: DeterministicModel) -> ModelCollection[Note]:
    return ModelCollection(Note, text=[Note.body], name="crowded", model=model)


def write(session: Session, owner: int, chance: random.Random) -> None:
    """Change some rows of an owner, in random order."""
    ids = [1000 * owner + number for number in range(ROWS)]
    for id in chance.sample(ids, 6):
        kind = chance.random()
        if kind < 0.6:
            body = f"changed {chance.random()}"
            session.execute(update(Note).where(Note.id == id).values(body=body))
        elif kind < 0.8:
            session.execute(delete(Note).where(Note.id == id))
        elif session.get(Note, id) is None:
            session.add(Note(id=id, body=f"new {chance.random()}", owner=owner))
            session.flush()


def test_hosts_beside_refreshers(crowded: Engine):
    """No deadlock, no failed transaction of a host, no vector of another text than its row's."""
    notes = notes_of(DeterministicModel())
    notes.install(crowded)
    notes.sync(crowded)
    stop = threading.Event()
    hosts_left = [2]

    def work(number: int) -> None:
        chance = random.Random(number)  # noqa: S311
        if number < 2:
            try:
                for _ in range(WRITES):
                    with Session(crowded) as session:
                        if not is_postgresql(crowded):
                            session.execute(text("BEGIN IMMEDIATE"))
                        write(session, number + 1, chance)
                        if chance.random() < 0.2:
                            session.rollback()
                        session.commit()
            finally:
                hosts_left[0] -= 1
                if not hosts_left[0]:
                    stop.set()
        else:
            while not stop.is_set():
                notes.refresh(crowded, batch_size=10, stop=stop)

    in_threads(work, 4)
    report = notes.refresh(crowded)
    assert (report.pending, report.skipped) == (0, ())
    audit: Any = notes.sync(crowded, dry_run=True)
    assert (audit.stale, audit.missing, audit.orphaned) == ((), (), ())
    with Session(crowded) as session:
        assert notes.collection(crowded).count() == len(session.scalars(select(Note.id)).all())

"""Plans for tables of which PostgreSQL has no statistics: no table is read once for each row."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import URL, Engine, Uuid, create_engine, event, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from embeddings import Chunks, ModelCollection
from embeddings.following.pending import Pending
from embeddings.testing import DeterministicModel
from tests.reaching import new_database

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTES = 300
ROWS = re.compile(r"rows=(\d+)(?:\.\d+)? loops=(\d+)")
REMOVED = re.compile(r"Rows Removed by .*: (\d+)")


class Base(DeclarativeBase):
    """The host's table."""


class Note(Base):
    """A note of a tenant's."""

    __tablename__ = "unknown_notes"
    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    body: Mapped[str]
    tenant: Mapped[int]


@pytest.fixture
def engine(server: URL, postgresql_template: str) -> Iterator[Engine]:
    """An engine on a database of its own, which nobody has analysed."""
    with new_database(server, template=postgresql_template) as url:
        engine = create_engine(url)
        yield filled(engine)
        engine.dispose()


def filled(engine: Engine) -> Engine:
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all(
            Note(id=uuid.UUID(int=n + 1), body=body(n), tenant=n % 2) for n in range(NOTES)
        )
    return engine


def body(n: int) -> str:
    return "\n\n".join(f"tax report {n} of part {part} in some more words" for part in range(4))


def rows_read(engine: Engine, search: Any, *, known_by: str = "MATERIALIZED") -> int:
    """Return the most rows that a node of the plan of a search yields, or leaves out.

    Args:
        engine: On the database.
        search: What is called with a session.
        known_by: What is in the statement that is meant, the last such one.
    """
    seen: list[tuple[str, Any]] = []

    def note(*args: Any) -> None:
        if "embedding" in args[2] and known_by in args[2]:
            seen.append((args[2], args[3]))

    event.listen(engine, "before_cursor_execute", note)
    with Session(engine) as session:
        search(session)
    event.remove(engine, "before_cursor_execute", note)
    (statement, parameters) = seen[-1]
    with engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE) {statement}", parameters)
        lines = [*plan.scalars()]
    read = (int(rows) * int(loops) for line in lines for rows, loops in ROWS.findall(line))
    return max(*read, *(int(rows) for line in lines for rows in REMOVED.findall(line)))


@pytest.mark.parametrize("chunks", [None, Chunks(size=60)], ids=["whole", "chunks"])
@pytest.mark.parametrize("known", ["nothing", "host", "another collection"])
def test_each_table_is_read_about_once(engine: Engine, chunks: Chunks | None, known: str):
    """However few rows the planner expects of a collection or of the host's table."""

    def collection(name: str) -> ModelCollection[Note]:
        return ModelCollection(
            Note, text=[Note.body], name=name, model=DeterministicModel(), chunks=chunks
        )

    notes = collection("notes")
    if known == "another collection":
        collection("other").sync(engine)
    if known != "nothing":
        with engine.begin() as connection:
            connection.execute(text(f"ANALYZE {Note.__tablename__}"))
            if known != "host":
                connection.execute(text("ANALYZE embeddings"))
    notes.collection(engine).create_text_index()
    notes.sync(engine)
    stored = len(notes.collection(engine))
    for rows in (None, select(Note).where(Note.tenant == 1)):

        def search(session: Session, rows: Any = rows) -> Any:
            found = notes.nearest(session, "tax report", rows, number=5, words=True)
            assert len(found) == 5

        assert rows_read(engine, search) < 20 * max(stored, NOTES), (known, rows)


def test_few_rows_are_read_by_their_keys(engine: Engine):
    """A word that all texts have is looked for in the rows of the host's SELECT alone."""
    notes = ModelCollection(Note, text=[Note.body], name="notes", model=DeterministicModel())
    notes.collection(engine).create_text_index()
    notes.sync(engine)
    with engine.begin() as connection:
        connection.execute(text("ANALYZE"))
    few = select(Note).where(Note.id.in_([uuid.UUID(int=n + 1) for n in range(5)]))

    def search(session: Session) -> None:
        docs = notes.collection(session)
        among = few.with_only_columns(Note.id)
        assert len(docs.similar("tax report", 10, words=True, weights=(0, 1), among=among)) == 5

    assert rows_read(engine, search) < NOTES // 10


def test_a_backlog_is_not_sorted_for_each_claim(engine: Engine):
    """Though nothing was pending whenever PostgreSQL looked."""
    notes = ModelCollection(Note, text=[Note.body], name="notes", model=DeterministicModel())
    reference = notes.collection(engine).reference
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE embeddings_pending"))
        connection.execute(
            text(
                "INSERT INTO embeddings_pending (collection, id, change) "
                "SELECT 'notes', number, 'written' FROM generate_series(1, 10000) AS number"
            )
        )

    def claim(_: Session) -> None:
        assert len(Pending(reference).claim(100, 10_000, ())) == 100

    assert rows_read(engine, claim, known_by="ORDER BY embeddings_pending.seq") < 1_000

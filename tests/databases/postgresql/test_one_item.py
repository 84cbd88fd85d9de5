"""What one item costs on PostgreSQL: each statement is a round trip to the server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.orm import Session

from embeddings import Chunks, Collection
from embeddings.testing import DeterministicModel
from tests.contract.test_plan import until_somebody_waits
from tests.distributed import recorded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

HAS_CITUS = "embeddings: the database has Citus"


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """Yield what is sent in the block."""
    sent: list[str] = []

    def note(*arguments: Any) -> None:
        sent.append(arguments[2])

    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


def collection(session: Session) -> Collection[str]:
    return Collection("docs", session, model=DeterministicModel())


@pytest.mark.parametrize(
    ("text", "count"),
    [("a new text", 4), ("the text", 1), ("the text of another", 6)],
    ids=["new", "unchanged", "there under another id"],
)
def test_statements_of_an_edit(postgresql_engine: Engine, text: str, count: int):
    """All that is there of an item is read by one, before the model is called and after."""
    with Session(postgresql_engine) as session:
        docs = collection(session)
        docs.embed_multi([("a", "the text"), ("b", "the text of another")])
        # What a connection is asked once, it has been asked by now.
        with statements(postgresql_engine) as sent:
            docs.embed("a", text)
    assert len(sent) == count, sent


def test_rows_are_read_apart_where_there_is_citus(postgresql_engine: Engine):
    """It refuses a statement about both tables, which may be on different servers."""

    def note(_: Any, record: Any) -> None:
        record.info[HAS_CITUS] = True

    own = create_engine(postgresql_engine.url)
    event.listen(own, "connect", note)
    with recorded(has_citus=True) as refused, Session(own) as session:
        docs = collection(session)
        for text in ("the text", "the text", "a new text"):
            docs.embed("a", text, {"n": 1}, store=True)
            docs.embed("b", text)
        assert [entry.id for entry in docs.similar("a new text", 2)] == ["a", "b"]
        session.commit()
    own.dispose()
    assert refused == []


def test_chunks_that_another_writes_meanwhile(postgresql_engine: Engine):
    """What is read before it waits for the item's lock is not what it goes by."""

    def opened(db: Any) -> Collection[str]:
        return Collection("docs", db, model=DeterministicModel(), chunks=Chunks(size=20))

    opened(postgresql_engine).embed("other", "something else")
    with Session(postgresql_engine) as session, ThreadPoolExecutor(1) as pool:
        opened(session).embed("a", "one passage of it.\n\nanother one of it.\n\nthe last one.")
        waiting = pool.submit(opened(postgresql_engine).embed, "a", "short")
        until_somebody_waits(postgresql_engine)
        session.commit()
        waiting.result()
    docs = opened(postgresql_engine)
    assert [chunk.end for chunk in docs.get_chunks("a")] == [5]
    assert docs.count(chunks=True) == 2

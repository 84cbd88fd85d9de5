"""A host's conditions for every SELECT hold for every read of a collection, on both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.orm import Session, with_loader_criteria

from embeddings import Collection, CollectionRecord, DoesNotExist, EmbeddingRecord
from embeddings.testing import DeterministicModel
from tests.reaching import is_postgresql, on_both

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import ORMExecuteState

ITEMS = [(f"{number:03}", f"text {number}") for number in range(400)]
HIDDEN = "007"


def by_option(state: ORMExecuteState) -> None:
    """As SQLAlchemy's documentation has it for soft deletes and tenants."""
    if state.is_select and not state.is_column_load and not state.is_relationship_load:
        state.statement = state.statement.options(
            with_loader_criteria(EmbeddingRecord, EmbeddingRecord.id != HIDDEN)
        )


def by_lambda(state: ORMExecuteState) -> None:
    """As there, too, with a class of a mixin's kind."""
    if state.is_select:
        criterion = with_loader_criteria(
            EmbeddingRecord, lambda cls: cls.id != HIDDEN, include_aliases=True
        )
        state.statement = state.statement.options(criterion)


READS: dict[str, Callable[[Collection[str], Session], Any]] = {
    "get": lambda docs, _: docs.get(HIDDEN),
    "get_many": lambda docs, _: docs.get_many([HIDDEN])[0],
    "in": lambda docs, _: HIDDEN in docs,
    "ids": lambda docs, _: HIDDEN in docs.ids(),
    "count": lambda docs, _: docs.count() == len(ITEMS),
    "len": lambda docs, _: len(docs) == len(ITEMS),
    "iteration": lambda docs, _: HIDDEN in {record.id for record in docs},
    "vectors": lambda docs, _: HIDDEN in docs.vectors()[0],
    "similar": lambda docs, _: HIDDEN in found(docs.similar("text 7", 3)),
    "a filter": lambda docs, _: (
        HIDDEN in found(docs.similar("text 7", 3, where=EmbeddingRecord.id < "100"))
    ),
    "a prefix": lambda docs, _: HIDDEN in found(docs.similar("text 7", 3, prefix="00")),
    "keys": lambda docs, _: HIDDEN in found(docs.similar("text 7", 3, among=[HIDDEN, "008"])),
    "all": lambda docs, _: HIDDEN in found(docs.similar("text 7", len(ITEMS))),
    "similar_multi": lambda docs, _: HIDDEN in found(docs.similar_multi(["text 7", "x"])[0]),
    "by a vector": lambda docs, _: HIDDEN in found(docs.similar_by_vector(vector("text 7"), 3)),
    "by an id": lambda docs, _: HIDDEN in found(docs.similar_by_id("008", len(ITEMS))),
    "matches": lambda docs, session: (
        HIDDEN in session.scalars(select(docs.matches("text 7", 3).c.id)).all()
    ),
}


def found(entries: Any) -> list[str]:
    return [entry.id for entry in entries]


def vector(text: str) -> Any:
    return DeterministicModel().embed(text)


@on_both
@pytest.mark.parametrize("listener", [by_option, by_lambda])
def test_every_read(db: Session, listener: Callable[[ORMExecuteState], None]):
    """None shows the row, and without the listener each does: also with what is in memory."""
    docs = Collection("docs", db, model=DeterministicModel())
    docs.embed_multi(ITEMS)
    docs.similar("text 7")
    assert {name: bool(read(docs, db)) for name, read in READS.items()} == dict.fromkeys(
        READS, True
    )

    db.expunge_all()
    event.listen(db, "do_orm_execute", listener)
    try:
        assert {name: bool(read(docs, db)) for name, read in READS.items()} == dict.fromkeys(
            READS, False
        )
        with pytest.raises(DoesNotExist, match=HIDDEN):
            docs.similar_by_id(HIDDEN)
        assert docs.count() == len(docs.ids()) == len(docs.vectors()[0]) == len(ITEMS) - 1
        assert len(docs.similar("text 7", len(ITEMS))) == len(ITEMS) - 1
        docs.embed("new", "text 7")  # what writes sees every row
        docs.embed(HIDDEN, "text 7")
        assert docs.similar("text 7", 1)[0].id == "new"
    finally:
        event.remove(db, "do_orm_execute", listener)
    assert found(docs.similar("text 7", 2)) == [HIDDEN, "new"]


@on_both
def test_a_hidden_collection(db: Session):
    """It is as one that is not there."""
    docs = Collection("docs", db, model=DeterministicModel())
    docs.embed_multi(ITEMS[:9])

    def hide(state: ORMExecuteState) -> None:
        hidden = with_loader_criteria(CollectionRecord, CollectionRecord.name != "docs")
        state.statement = state.statement.options(hidden)

    event.listen(db, "do_orm_execute", hide)
    assert (docs.count(), docs.similar("text 7"), docs.ids()) == (0, [], [])
    assert Collection.names(db) == []
    with pytest.raises(DoesNotExist):
        _ = docs.id


@on_both
def test_sessions_without_listeners_search_by_one_statement(db: Session):
    """On SQLite the one that confirms what is in memory; and what was listened to is forgotten."""
    docs = Collection("docs", db, model=DeterministicModel())
    docs.embed_multi(ITEMS)
    docs.similar_by_vector(vector("text 7"))
    event.listen(db, "do_orm_execute", by_option)
    docs.similar_by_vector(vector("text 7"))
    event.remove(db, "do_orm_execute", by_option)

    statements: list[str] = []
    connection = db.connection()
    event.listen(connection, "before_cursor_execute", lambda *found: statements.append(found[2]))
    docs.similar_by_vector(vector("text 7"))
    assert len(statements) == (2 if is_postgresql(db) else 1)

"""PostgreSQL fetches the vectors of the rows that are asked for, whatever it plans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from embeddings import Chunks, Collection
from embeddings.searching.read import PAGE
from tests.databases.postgresql.test_postgresql_copy import Wide

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

ITEMS = 2 * PAGE
PIECES = 4  # of a `Wide` vector, in the other table
CHUNKS = pytest.mark.parametrize("chunks", [None, Chunks(size=60)], ids=["whole", "chunks"])
FETCHED = text(
    "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_xact_all_tables WHERE relid = "
    "(SELECT reltoastrelid FROM pg_class WHERE oid = 'embeddings'::regclass)"
)


def filled(engine: Engine, items: int = ITEMS, **options: Any) -> None:
    docs = Collection("docs", engine, model=Wide(), **options)
    docs.embed_multi(((f"{n:05}", f"text {n}") for n in range(items)), batch_size=500)


def pieces_fetched(session: Session, act: Callable[[], object]) -> int:
    """Return how many pieces of vectors are fetched meanwhile."""
    before = session.scalar(FETCHED)
    act()
    return int(session.scalar(FETCHED) - before)


def sort_all(session: Session) -> None:
    """Have it sort rows, as plans do that were made when a table was nearly empty."""
    for way in ("indexscan", "indexonlyscan", "bitmapscan"):
        session.execute(text(f"SET LOCAL enable_{way} = off"))


@CHUNKS
def test_a_page_fetches_its_vectors(postgresql_engine: Engine, chunks: Chunks | None):
    filled(postgresql_engine, chunks=chunks)
    with Session(postgresql_engine) as session:
        docs = Collection("docs", session, model=Wide())
        sort_all(session)
        fetched = pieces_fetched(session, lambda: next(iter(docs)))
    # The first is the row by which the dimensions are known.
    assert fetched == (PAGE + 1) * PIECES


@CHUNKS
def test_a_copy_fetches_each_vector_once(postgresql_engine: Engine, chunks: Chunks | None):
    filled(postgresql_engine, chunks=chunks)
    with Session(postgresql_engine) as session:
        docs = Collection("docs", session, model=Wide())
        other = Collection("other", session, model=Wide())
        sort_all(session)
        fetched = pieces_fetched(session, lambda: docs.copy_to(other, ITEMS // 10))
        assert other.count() == ITEMS
    assert ITEMS * PIECES <= fetched < (ITEMS + PAGE) * PIECES


def test_an_index_is_compared_with_a_sample(postgresql_engine: Engine):
    filled(postgresql_engine, 100)
    Collection("docs", postgresql_engine).create_index()
    with Session(postgresql_engine) as session:
        docs = Collection("docs", session)
        sort_all(session)
        fetched = pieces_fetched(session, lambda: docs.index_info())
    assert 0 < fetched < 50 * PIECES

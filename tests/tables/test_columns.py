"""The column types in statements of a host's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, func, select, text
from sqlalchemy.exc import CompileError
from sqlalchemy.orm import Session

import embeddings
from embeddings import Collection, EmbeddingRecord
from embeddings.testing import DeterministicModel

if TYPE_CHECKING:
    from collections.abc import Iterator

METADATA: dict[str, dict[str, Any] | None] = {
    "a": {"year": 2020, "tag": "red"},
    "b": {"year": 2023, "author": {"name": "é"}},
    "c": {"tag": "blue", "year": None},
    "d": None,
}


@pytest.fixture(params=["sqlite", "postgresql"])
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """A session on each database, with some items."""
    name = {"sqlite": "engine", "postgresql": "postgresql_engine"}[request.param]
    with Session(request.getfixturevalue(name)) as session:
        docs = Collection("docs", session, model=DeterministicModel())
        docs.embed_multi_with_metadata([(id, f"text {id}", METADATA[id]) for id in METADATA])
        yield session


def test_a_path_into_metadata_is_an_expression(session: Session):
    """As with SQLAlchemy's own JSON, in a host's statement."""
    metadata = EmbeddingRecord.metadata_
    ids = select(EmbeddingRecord.id).order_by(EmbeddingRecord.id)

    assert session.scalars(ids.where(metadata["year"].as_integer() >= 2022)).all() == ["b"]
    assert session.scalars(ids.where(metadata["tag"].as_string() == "red")).all() == ["a"]
    path = metadata[("author", "name")].as_string()
    assert session.scalars(ids.where(path == "é")).all() == ["b"]
    tags = select(metadata["tag"].as_string()).order_by(EmbeddingRecord.id)
    assert session.scalars(tags).all() == ["red", None, "blue", None]
    everything = select(metadata).order_by(EmbeddingRecord.id)
    assert session.scalars(everything).all() == [*METADATA.values()]


def test_such_an_expression_is_a_filter_of_a_search(session: Session):
    """`where=` takes it."""
    docs = Collection("docs", session, model=DeterministicModel())
    year = EmbeddingRecord.metadata_["year"].as_integer()

    assert [entry.id for entry in docs.similar("text", where=year >= 2022)] == ["b"]
    assert docs.delete_items(where=year == 2020) == 1
    assert docs.ids() == ["b", "c", "d"]


def test_none_is_no_metadata(session: Session):
    """It is SQL's NULL, written by the ORM as by a collection."""
    record = session.scalars(select(EmbeddingRecord).where(EmbeddingRecord.id == "a")).one()
    record.metadata_ = None
    session.flush()

    without = select(func.count()).where(EmbeddingRecord.metadata_.is_(None))
    assert session.scalar(without) == 2


def test_the_stored_text_is_what_the_ecosystem_writes():
    """Whatever serializer a host's engine has."""
    engine = create_engine("sqlite://", json_serializer=lambda _: "another")
    embeddings.migrate(engine)
    with Session(engine) as session:
        docs = Collection("docs", session, model=DeterministicModel())
        docs.embed("a", "text", {"b": 1, "a": "é"})
        record = docs.get("a")
        assert record is not None
        record.metadata_ = {"z": [1.0, None], "a": "é"}
        session.flush()
        stored = session.execute(text("SELECT metadata FROM embeddings")).scalar_one()
    assert stored == '{"z": [1.0, null], "a": "\\u00e9"}'
    engine.dispose()


def test_cosine_similarity_is_an_expression(request: pytest.FixtureRequest):
    """On PostgreSQL it orders, filters and is selected, without a top k."""
    model = DeterministicModel()
    vector = model.embed("text b")
    score = EmbeddingRecord.embedding.cosine_similarity(vector)
    with Session(request.getfixturevalue("postgresql_engine")) as session:
        docs = Collection("docs", session, model=model)
        docs.embed_multi([(id, f"text {id}") for id in METADATA])
        found = session.execute(
            select(EmbeddingRecord.id, score).where(score > 0.2).order_by(score.desc())
        ).all()
        expected = [(entry.id, entry.score) for entry in docs.similar("text b", min_score=0.2)]
    assert found[0].id == "b"
    assert {id: pytest.approx(value) for id, value in expected} == dict(found)


def test_cosine_similarity_on_sqlite_says_what_to_use(engine: Any):
    """There it cannot be computed by the database."""
    score = EmbeddingRecord.embedding.cosine_similarity([1.0, 0.0])
    with Session(engine) as session, pytest.raises(CompileError, match="matches"):
        session.scalars(select(score)).all()

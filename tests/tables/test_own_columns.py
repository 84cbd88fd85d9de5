"""Columns of a host's own beside this library's: left alone, filled by their defaults."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import (
    JSON,
    DateTime,
    Engine,
    ForeignKey,
    Uuid,
    create_engine,
    func,
    select,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from embeddings import Collection, InvalidItemError, Records, make_records
from embeddings.testing import DeterministicModel
from tests.reaching import empty_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import URL

TEXTS = [("a", "a happy hound"), ("b", "a dissatisfied cat")]


class Host(DeclarativeBase):
    """A host's base."""


class Owner(Host):
    """Whom an embedding belongs to."""

    __tablename__ = "owners"
    id: Mapped[int] = mapped_column(primary_key=True)


class OfAnOwner:
    """A host's columns of an embedding."""

    tenant: Mapped[str] = mapped_column(default="nobody")
    token: Mapped[uuid.UUID] = mapped_column(Uuid, default=uuid.uuid4)
    tags: Mapped[list[str] | None] = mapped_column(JSON)
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("owners.id"))
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.current_timestamp()
    )
    seen_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), default=lambda: datetime.now(UTC)
    )


class OfATenant:
    """A host's column of a collection."""

    plan: Mapped[str] = mapped_column(default="free")


RECORDS = make_records(Host, prefix="own_", embedding_mixin=OfAnOwner, collection_mixin=OfATenant)


@pytest.fixture(params=["sqlite", "psycopg", "psycopg2"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, server: URL) -> Iterator[Engine]:
    """An engine on a new database with such tables."""
    kind = "sqlite" if request.param == "sqlite" else "postgresql"
    with empty_database(kind, tmp_path, server) as url:
        if kind == "postgresql":
            url = url.replace("+psycopg:", f"+{request.param}:")
        engine = create_engine(url)
        Host.metadata.create_all(engine)
        yield engine
        engine.dispose()


def opened(db: Any, records: Records = RECORDS) -> Collection[str]:
    return Collection("docs", db, model=DeterministicModel(), records=records)


def own(engine: Engine, id: str) -> Any:
    with Session(engine) as session:
        record: Any = session.scalars(
            select(RECORDS.embedding).where(RECORDS.embedding.id == id)
        ).one()
        return record.tenant, record.token, record.created_at, record.tags, record.owner_id


def test_new_rows_have_the_defaults(engine: Engine):
    """Python's, anew for each row, and the server's."""
    opened(engine).embed_multi(TEXTS)
    (tenant, token, created_at, tags, owner), other = own(engine, "a"), own(engine, "b")

    assert (tenant, tags, owner) == ("nobody", None, None)
    assert isinstance(token, uuid.UUID)
    assert token != other[1]
    assert isinstance(created_at, datetime)
    with Session(engine) as session:
        assert session.scalars(select(RECORDS.collection)).one().plan == "free"  # type: ignore[attr-defined]


def test_what_is_there_is_left_alone(engine: Engine):
    """By everything that writes: other contents, the same, vectors, metadata, plans."""
    docs = opened(engine)
    docs.embed_multi(TEXTS)
    entity: Any = RECORDS.embedding
    with Session(engine) as session:
        session.add(Owner(id=7))
        session.flush()
        record = session.scalars(select(entity).where(entity.id == "a")).one()
        record.tenant, record.tags, record.owner_id = "acme", ["x"], 7
        session.commit()
    before = own(engine, "a")
    assert (before[0], before[3], before[4]) == ("acme", ["x"], 7)

    docs.embed("a", "something else", {"n": 1}, store=True)
    assert own(engine, "a") == before
    docs.embed("a", "something else", {"n": 2})
    docs.set_metadata("a", {"n": 3})
    docs.store_vectors([("a", [1.0] * 256), ("c", [2.0] * 256)])
    plan = docs.plan([("a", "a third text")], force=True)
    plan.embed()
    docs.apply(plan)
    with Session(engine) as session:
        opened(session).embed("a", "a fourth text")
        session.commit()
    assert own(engine, "a") == before
    assert own(engine, "c")[0] == "nobody"


def test_values_of_the_call(engine: Engine):
    """By name or attribute, for new rows alone; processed by the column's type."""
    docs = opened(engine)
    entity: Any = RECORDS.embedding
    token = uuid.uuid4()
    with Session(engine) as session:
        session.add(Owner(id=7))
        session.commit()
    docs.embed("a", "a hound", extra={"tenant": "acme", entity.tags: ["x"], "owner_id": 7})
    (tenant, _, created_at, tags, owner) = own(engine, "a")
    assert (tenant, tags, owner) == ("acme", ["x"], 7)
    assert isinstance(created_at, datetime)

    docs.embed("a", "another hound", extra={"tenant": "other"})
    assert own(engine, "a")[0] == "acme"
    docs.embed_multi([("a", "a"), ("b", "b")], extra={entity.tenant: "acme", "token": token})
    docs.embed_multi_with_metadata([("c", "c", {"n": 1})], extra={"tenant": "acme"})
    docs.store_vectors([("d", [1.0] * 256)], extra={"tenant": "acme"})
    plan = docs.plan([("e", "e")], extra={"tenant": "acme"})
    plan.embed()
    docs.apply(plan)
    with Session(engine) as session:
        opened(session).embed("f", "f", extra={"tenant": "acme"})
        session.commit()
    assert [own(engine, id)[0] for id in docs.ids()] == ["acme"] * 6
    assert own(engine, "b")[1] == token
    assert own(engine, "c")[1] != own(engine, "d")[1]

    for wrong in ("content", "nothing", entity.id):
        with pytest.raises(InvalidItemError, match="is no column of your own of own_embeddings"):
            docs.embed("z", "z", extra={wrong: 1})
    assert "z" not in docs


def test_they_are_filters(engine: Engine):
    """Of searches and of what is deleted."""
    docs = opened(engine)
    docs.embed_multi(TEXTS)
    entity: Any = RECORDS.embedding
    with engine.begin() as connection:
        connection.execute(text("UPDATE own_embeddings SET tenant = 'acme' WHERE id = 'b'"))

    assert [entry.id for entry in docs.similar("hound", where=entity.tenant == "acme")] == ["b"]
    assert docs.delete_items(where=entity.tenant == "nobody") == 1
    assert docs.ids() == ["b"]


def test_the_constructor_takes_them(engine: Engine):
    """A record that the host makes, and a mistake."""
    kinds: Any = RECORDS
    with Session(engine) as session:
        collection = kinds.collection(name="docs", model="m", plan="paid")
        record = kinds.embedding(id="x", embedding=[1.0, 2.0], collection=collection, tenant="acme")
        session.add(record)
        session.commit()
        assert (record.tenant, record.collection.plan) == ("acme", "paid")
    with pytest.raises(TypeError, match="'tenants' is an invalid keyword"):
        kinds.embedding(id="x", embedding=[1.0], tenants="acme")


def test_they_are_in_the_tables_metadata():
    """So autogenerate sees them."""
    assert {"tenant", "token", "owner_id", "created_at"} <= {*RECORDS.embeddings.c.keys()}
    assert "plan" in RECORDS.collections.c


def test_a_column_that_the_database_alone_knows(engine: Engine):
    """With a default of the server's it holds as well."""
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE own_embeddings ADD note TEXT DEFAULT 'new'"))
    docs = opened(engine)
    docs.embed_multi(TEXTS)
    with engine.begin() as connection:
        connection.execute(text("UPDATE own_embeddings SET note = 'old' WHERE id = 'a'"))
    docs.embed("a", "something else")
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT id, note FROM own_embeddings")).all()
    notes = {row.id: row.note for row in rows}
    assert notes == {"a": "old", "b": "new"}


def test_what_is_no_mixin_is_refused():
    """An object is a mistake."""
    with pytest.raises(TypeError, match="embedding_mixin must be a class"):
        make_records(Host, prefix="other_", embedding_mixin=OfAnOwner())  # type: ignore[arg-type]

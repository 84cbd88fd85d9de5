"""What SQLAlchemy's users pass and do with SQL: forms of keys and conditions, literals, caches."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import (
    CHAR,
    Engine,
    Integer,
    Uuid,
    column,
    create_engine,
    exists,
    literal_column,
    select,
    text,
    values,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column
from sqlalchemy.types import TypeDecorator

from embeddings import Collection, EmbeddingRecord, InvalidItemError, InvalidQueryError
from embeddings.testing import DeterministicModel
from tests.reaching import is_postgresql, on_both

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Dialect

MOST_ENTRIES = 30  # of the host's compiled cache for all that a collection does


class Guid(TypeDecorator[uuid.UUID]):
    """A UUID on every database, as SQLAlchemy's documentation has it."""

    impl = CHAR(32)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        return dialect.type_descriptor(Uuid() if dialect.name == "postgresql" else CHAR(32))

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else value.hex

    def process_result_value(self, value: Any, dialect: Dialect) -> uuid.UUID | None:
        return value if value is None or isinstance(value, uuid.UUID) else uuid.UUID(value)


class UserId(int):
    """A host's own kind of number."""


class Number(TypeDecorator[UserId]):
    """Its type in SQL."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> int | None:
        return None if value is None else int(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> UserId | None:
        return None if value is None else UserId(value)


class Base(DeclarativeBase):
    """A host's base."""


class Person(Base):
    """A host's rows by their UUID."""

    __tablename__ = "expressions_people"
    id: Mapped[uuid.UUID] = mapped_column(Guid, primary_key=True)
    number: Mapped[int]


class User(Base):
    """And by a kind of number."""

    __tablename__ = "expressions_users"
    id: Mapped[UserId] = mapped_column(Number, primary_key=True)
    number: Mapped[int]


@on_both
@pytest.mark.parametrize(
    ("entity", "key"), [(Person, lambda n: uuid.UUID(int=n)), (User, lambda n: UserId(n))]
)
def test_keys_of_a_hosts_own_type(
    db: Session, host_tables: Callable[..., None], entity: Any, key: Callable[[int], Any]
):
    """A TypeDecorator's values go in and come out, and its columns are joined without a cast."""
    host_tables(entity.__table__)
    db.add_all(entity(id=key(number), number=number) for number in range(1, 6))
    docs = Collection("docs", db, model=DeterministicModel(), key=entity.id)
    docs.embed_multi((key(number), f"text {number}") for number in range(1, 9))

    assert docs.ids() == [key(number) for number in range(1, 9)]
    record = docs.get(key(2))
    assert record is not None
    assert (record.key, type(record.key)) == (key(2), type(key(2)))
    few = select(entity.id).where(entity.number < 3)
    for among in (few, few.subquery(), few.cte(), [key(1), key(2)]):
        hits = docs.similar("text 1", among=among)
        assert {hit.id for hit in hits} == {key(1), key(2)}
        assert type(hits[0].id) is type(key(1))
    one = select(entity.id).where(entity.number == 2).scalar_subquery()
    assert [hit.id for hit in docs.similar("text 1", among=one)] == [key(2)]
    found = docs.matches("text 3", 1)
    joined = select(entity.number, found.c.id).join(found, found.c.id == entity.id)
    assert db.execute(joined).all() == [(3, key(3))]
    with pytest.raises(InvalidItemError, match="takes no"):
        docs.get(object())  # type: ignore[arg-type]


@on_both
def test_values_and_aliases(db: Session):
    """VALUES among the keys; a condition about an alias of the records, alone or beside them."""
    docs = Collection("docs", db, model=DeterministicModel(), key=int)
    docs.embed_multi((number, f"text {number}") for number in range(1, 9))
    few = values(column("id", Integer), name="few").data([(2,), (3,)])
    assert {hit.id for hit in docs.similar("text 1", among=few)} == {2, 3}

    other = aliased(EmbeddingRecord)
    assert [hit.id for hit in docs.similar("text 1", 1, where=other.id == "4")] == [4]
    later = exists().where(other.id > EmbeddingRecord.id, other.id == "5")
    hits = docs.similar("text 1", where=later & (EmbeddingRecord.id > "2"))
    assert {hit.id for hit in hits} == {3, 4}
    with pytest.raises(InvalidQueryError, match=r"about expressions_users.*nearest\(\)"):
        docs.similar("text 1", where=User.number == 1)


@on_both
def test_literal_binds(db: Session):
    """A search is a whole statement in text, as for a view or EXPLAIN."""
    docs = Collection("docs", db, model=DeterministicModel())
    docs.embed("it's 100%", "text", {"kind": "it's 100%"})
    docs.embed("other", "text")
    found = docs.matches("text", where={"kind": "it's 100%"})
    statement = select(found.c.id).compile(
        dialect=db.get_bind().dialect, compile_kwargs={"literal_binds": True}
    )
    sql = str(statement) % () if is_postgresql(db) else str(statement)
    escaped = sql.replace(":", "\\:")
    assert db.execute(text(escaped)).all() == [("it's 100%",)]
    if is_postgresql(db):
        near = EmbeddingRecord.embedding.cosine_similarity([1.0] * 256)
        compiled = select(near, literal_column("1")).compile(
            dialect=db.get_bind().dialect, compile_kwargs={"literal_binds": True}
        )
        assert "1,1,1" in str(compiled)


@on_both
def test_the_hosts_compiled_cache(db: Session):
    """How many, from where, of which collection: none of it makes an entry of its own."""
    engine = db.get_bind()
    assert isinstance(engine, Engine)
    size: Any = None
    fresh = create_engine(engine.url)
    with Session(fresh) as session:
        vector = DeterministicModel().embed("text")
        for round in (2, 3, 4, 5, 6, 9, 17, 39):
            docs = Collection(f"docs {round}", session, model=DeterministicModel())
            docs.embed_multi((str(number), f"text {number}") for number in range(round))
            docs.similar("text", round, offset=round // 2)
            docs.similar("text", round, where={"n": round}, prefix=str(round))
            docs.similar("text", round, among=[str(number) for number in range(round)])
            session.execute(select(docs.matches_by_vector(vector, round, offset=1)))
            docs.get_many([str(number) for number in range(round)])
            assert docs.count() == len(docs.ids()) == len(docs.vectors()[0]) == round
            docs.delete_items([str(number) for number in range(1, round)])
            if round == 5:
                size = len(fresh._compiled_cache or ())
        assert size <= MOST_ENTRIES
        assert len(fresh._compiled_cache or ()) == size
        session.rollback()
    fresh.dispose()

"""What `make_records` maps is the host's: pickled, helped by its base, selected, deleted."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, MetaData, event, func, select
from sqlalchemy.ext.asyncio import AsyncAttrs
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, registry

import embeddings
from embeddings import Collection, CollectionRecord, EmbeddingRecord, Records, make_records
from embeddings.testing import DeterministicModel
from tests.forked import python
from tests.reaching import connection_to, on_both

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXTS = [("a", "a happy hound"), ("b", "a dissatisfied cat")]


class Helpers:
    """What a host has for all its classes."""

    @property
    def label(self) -> str:
        """A helper."""
        return f"{type(self).__name__}!"


class Base(AsyncAttrs, Helpers, DeclarativeBase):
    """A host's base, with columns that are not for us."""

    made_at: Mapped[int | None] = mapped_column(default=None)

    @classmethod
    def plural(cls) -> str:
        """Another one."""
        return f"{cls.__name__}s"


RECORDS = make_records(Base, prefix="mapped_")


@pytest.fixture
def session(db: Any) -> Iterator[Session]:
    """A session with such tables."""
    with connection_to(db) as connection:
        Base.metadata.create_all(connection)
    db.commit()
    yield db
    db.rollback()
    with connection_to(db) as connection:
        Base.metadata.drop_all(connection)
    db.commit()


def opened(session: Session) -> Collection[str]:
    docs = Collection("docs", session, model=DeterministicModel(), records=RECORDS)
    docs.embed_multi(TEXTS)
    return docs


@on_both
def test_records_are_pickled(session: Session):
    """With their values, their state and their key; and so are the classes."""
    record = opened(session).get("a")
    assert record is not None

    copy = pickle.loads(pickle.dumps(record))  # noqa: S301
    assert type(copy) is RECORDS.embedding
    assert (copy.id, copy.key, copy.collection.name) == ("a", "a", "docs")
    assert (copy.embedding == record.embedding).all()
    session.expunge_all()
    assert session.merge(copy, load=False).id == "a"
    assert pickle.loads(pickle.dumps(RECORDS.collection)) is RECORDS.collection  # noqa: S301


def test_another_process_that_has_not_made_them_says_so(tmp_path: Path):
    """And one that has made them, by importing the module, reads them."""
    (tmp_path / "tables.py").write_text(
        "from sqlalchemy import MetaData\n"
        "from embeddings import make_records\n"
        "def make(): return make_records(MetaData(), prefix='p_')\n"
        "import sys\n"
        "if 'late' not in sys.argv: records = make()\n"
    )

    environment = os.environ | {"PYTHONPATH": str(Path(embeddings.__file__).parents[1])}

    def run(code: str, *arguments: str) -> str:
        done = python("-c", code, *arguments, cwd=tmp_path, env=environment)
        return (done.stdout + done.stderr).strip()

    write = (
        "import pickle, tables\n"
        "record = tables.records.embedding(id='x', embedding=[1.0, 2.0])\n"
        "open('x.pickle', 'wb').write(pickle.dumps(record))"
    )
    read = "import pickle; print(pickle.load(open('x.pickle', 'rb')).id)"
    assert run(write) == ""
    assert run(read) == "x"
    assert "tables has not called make_records for the table 'p_embeddings'" in run(read, "late")


def test_they_have_what_the_base_gives():
    """Methods and properties, those of AsyncAttrs too; but not its columns."""
    record: Any = RECORDS.embedding(id="x", embedding=[1.0])
    assert record.label == "mapped_EmbeddingRecord!"
    assert record.plural() == "mapped_EmbeddingRecords"
    assert record.awaitable_attrs is not None
    assert "made_at" not in RECORDS.embeddings.c
    assert RECORDS.embedding.__module__ == RECORDS.collection.__module__ == __name__


def test_isinstance_is_what_the_types_say():
    """Their records are a kind of the public classes."""
    record = RECORDS.embedding(id="x", embedding=[1.0])
    collection = RECORDS.collection(name="x", model="m")
    assert isinstance(record, EmbeddingRecord)
    assert isinstance(collection, CollectionRecord)
    assert not isinstance(record, CollectionRecord)
    assert not isinstance(EmbeddingRecord(id="x", embedding=[1.0]), RECORDS.embedding)


@pytest.mark.parametrize("cls", [EmbeddingRecord, CollectionRecord, *vars(RECORDS).values()])
def test_a_subclass_is_refused(cls: Any):
    """With what to do instead."""
    with pytest.raises(TypeError, match=r"is mapped, and a subclass .* make_records\(\)"):

        class Mine(cls):  # type: ignore[misc]
            pass


@pytest.mark.parametrize("base", [MetaData(), registry(), MetaData(schema="host")])
def test_other_bases(base: Any, tmp_path: Path):
    """A MetaData and a registry are as good as a declarative base."""
    records = make_records(base)
    metadata = base if isinstance(base, MetaData) else base.metadata
    assert records.embeddings.metadata is metadata
    assert records.embeddings.schema == metadata.schema


def test_what_is_no_base_is_refused():
    """A class without a registry, or an object."""
    for base in (Helpers, 5):
        with pytest.raises(TypeError, match="base must be a declarative base, a registry"):
            make_records(base)


@on_both
@pytest.mark.parametrize("of", ["host", "ours"])
def test_deleting_a_collections_record_loads_no_embeddings(
    db: Any, of: str, request: pytest.FixtureRequest
):
    """They go by one statement, but for those that are in its list already."""
    records = RECORDS if of == "host" else Records(CollectionRecord, EmbeddingRecord)
    session: Session = request.getfixturevalue("session") if of == "host" else db
    docs = Collection("docs", session, model=DeterministicModel(), records=records)
    docs.embed_multi(TEXTS)
    Collection("others", session, model=DeterministicModel(), records=records).embed_multi(TEXTS)
    session.expunge_all()
    record = session.scalars(
        select(records.collection).where(records.collection.name == "docs")
    ).one()
    statements: list[str] = []
    engine = session.get_bind()
    assert isinstance(engine, Engine)

    def note(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(engine, "before_cursor_execute", note)
    session.delete(record)
    session.flush()
    event.remove(engine, "before_cursor_execute", note)

    assert [statement.split()[0] for statement in statements] == ["DELETE", "DELETE"]
    left = select(func.count()).select_from(records.embedding)
    assert session.scalar(left) == len(TEXTS)

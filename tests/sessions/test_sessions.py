"""Whose transaction it is: on a session or a connection the caller's, on an engine our own."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlite_utils
from sqlalchemy import (
    Connection,
    Engine,
    create_engine,
    event,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import (
    IntegrityError,
    OperationalError,
    PendingRollbackError,
    UnboundExecutionError,
)
from sqlalchemy.orm import (
    Session,
    scoped_session,
    sessionmaker,
)
from sqlalchemy.orm.exc import ObjectDeletedError
from sqlalchemy.pool import StaticPool

import embeddings
from embeddings import (
    Base,
    BindingError,
    Collection,
    CollectionRecord,
    DoesNotExist,
    EmbeddingRecord,
    InvalidItemError,
    InvalidVectorError,
)
from embeddings.testing import DeterministicModel
from tests.forked import python
from tests.host_tables import Article, HostBase, Shelf
from tests.reaching import in_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Operation = Callable[[Collection[str]], Any]


@pytest.fixture(autouse=True)
def _host_tables(engine: Engine) -> None:
    HostBase.metadata.create_all(engine)


@pytest.fixture
def path(engine: Engine) -> Path:
    """The file."""
    return Path(str(engine.url.database))


@pytest.fixture
def docs(session: Session, model: DeterministicModel) -> Collection[str]:
    """A collection on the host's session, with two items that are committed."""
    docs = Collection("docs", session, model=model)
    docs.embed("a", "one hound", {"n": 1}, store=True)
    docs.embed("b", "two cats")
    session.commit()
    model.calls.clear()
    return docs


@pytest.fixture
def collection(docs: Collection[str], session: Session) -> CollectionRecord:
    """The collection's record, loaded in the host's session."""
    return session.scalars(select(CollectionRecord)).one()


@pytest.fixture
def record(docs: Collection[str], collection: CollectionRecord) -> EmbeddingRecord:
    """The record of the item a, loaded in the host's session."""
    record = docs.get("a")
    assert record is not None
    assert record.content == "one hound"
    return record


def begin_really(engine: Engine) -> None:
    """Set an engine up for SQLite's own transactions, as SQLAlchemy's documentation does."""

    @event.listens_for(engine, "connect")
    def connect(driver: Any, _: object) -> None:
        driver.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")


@pytest.fixture(params=["plain", "real"])
def kind_of_transactions(request: pytest.FixtureRequest, engine: Engine) -> str:
    """Transactions as the driver begins them, and as a host sets them up for savepoints."""
    if request.param == "real":
        engine.dispose()
        begin_really(engine)
    return str(request.param)


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def committed(path: Path) -> dict[str, str | None]:
    """Return what another connection sees: ids and contents."""
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT id, content FROM embeddings"))


@contextmanager
def counted(engine: Engine, session: Session | None = None) -> Iterator[Counter[str]]:
    """Count, within the block, what happens to connections and transactions."""
    happened: Counter[str] = Counter()
    targets: list[tuple[Any, str]] = [
        (engine, name)
        for name in ("checkout", "checkin", "begin", "commit", "rollback", "savepoint")
    ]
    if session is not None:
        names = ("after_commit", "after_soft_rollback", "after_transaction_end", "after_begin")
        targets += [(session, name) for name in names]

    def count(name: str) -> Callable[..., None]:
        return lambda *_, **__: happened.update([name])

    listeners = [(target, name, count(name)) for target, name in targets]
    for listener in listeners:
        event.listen(*listener)
    yield happened
    for listener in listeners:
        event.remove(*listener)


WRITES: dict[str, Operation] = {
    "embed": lambda docs: docs.embed("c", "three foxes", {"n": 3}, store=True),
    "embed another text": lambda docs: docs.embed("a", "three foxes"),
    "embed the same text": lambda docs: docs.embed("b", "two cats", {"n": 2}, store=True),
    "embed the text of another": lambda docs: docs.embed("b", "one hound"),
    "embed prepared": lambda docs: docs.embed("c", docs.prepare("three foxes")),
    "embed_multi": lambda docs: docs.embed_multi([("c", "3"), ("d", "4"), ("e", "5")], False, 2),
    "embed_multi_with_metadata": lambda docs: docs.embed_multi_with_metadata(
        [("a", "one hound", {"n": 0}), ("c", "3", {"n": 3})], store=True
    ),
    "store_vectors": lambda docs: docs.store_vectors([("a", [1] * 256), ("c", [2] * 256)]),
    "set_metadata": lambda docs: docs.set_metadata("a", {"m": 1}),
    "delete_items": lambda docs: docs.delete_items(["a", "x"]),
    "delete_items by prefix": lambda docs: docs.delete_items(prefix="a"),
    "delete_items by metadata": lambda docs: docs.delete_items(where={"n": 1}),
    "rename": lambda docs: docs.rename("papers"),
    "delete": lambda docs: docs.delete(),
}
READS: dict[str, Operation] = {
    "similar": lambda docs: docs.similar("hound"),
    "similar_by_id": lambda docs: docs.similar_by_id("a"),
    "similar_by_vector": lambda docs: docs.similar_by_vector([1] * 256),
    "matches": lambda docs: docs.matches("hound"),
    "embed of what is there": lambda docs: docs.embed("a", "one hound"),
    "prepare": lambda docs: docs.prepare("hound"),
    "embed_query": lambda docs: docs.embed_query("hound"),
    "count": lambda docs: docs.count(),
    "ids": lambda docs: docs.ids(),
    "get": lambda docs: docs.get("a"),
    "contains": lambda docs: "a" in docs,
    "iteration": lambda docs: list(docs),
    "id": lambda docs: docs.id,
    "model_id": lambda docs: docs.model_id,
    "model": lambda docs: docs.model(),
}
ALL = WRITES | READS


def cases(operations: dict[str, Operation]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("operation", operations.values(), ids=operations)


# 1. The caller's session


def test_nothing_happens_to_the_callers_transaction(
    docs: Collection[str], session: Session, engine: Engine, subtests: pytest.Subtests
):
    """Within a session's transaction nothing is begun, ended, checked out or closed."""
    for name, operation in ALL.items():
        with subtests.test(name):
            session.add(Article(title="before"))
            session.flush()
            transaction = session.get_transaction()

            with counted(engine, session) as happened:
                operation(docs)

            assert happened == {}
            assert session.get_transaction() is transaction
            assert session.in_transaction()
            assert not session.in_nested_transaction()
            session.rollback()


def test_the_first_statement_begins_the_sessions_transaction(
    docs: Collection[str], session: Session, engine: Engine, subtests: pytest.Subtests
):
    """A session that is in no transaction begins one, on one connection, and stays in it.

    What is looked up before the model is called, is on a connection that is back by then.
    """
    for name, operation in ALL.items():
        with subtests.test(name):
            assert not session.in_transaction()

            with counted(engine, session) as happened:
                operation(docs)
                looked_up = Counter({"checkout": 1, "begin": 1, "rollback": 1, "checkin": 1})
                own = Counter(["checkout", "begin", "after_begin"])
                assert happened - own - looked_up == {}
                assert happened["checkout"] - happened["checkin"] == int(session.in_transaction())
            session.rollback()


def test_a_rollback_leaves_nothing(
    kind_of_transactions: str,
    docs: Collection[str],
    session: Session,
    path: Path,
    subtests: pytest.Subtests,
):
    """Whatever was written, a rollback of the session restores the file, to the last row."""
    before = dump(path)
    for name, operation in WRITES.items():
        with subtests.test(name):
            operation(docs)
            session.rollback()

            assert dump(path) == before
            assert docs.ids() == ["a", "b"]
            assert docs.name == "docs"


@cases(WRITES)
def test_nothing_is_committed_before_the_caller_does(
    operation: Operation,
    kind_of_transactions: str,
    docs: Collection[str],
    session: Session,
    path: Path,
):
    """Another connection sees a write when the session commits, and no sooner."""
    before = dump(path)

    operation(docs)
    assert dump(path) == before

    session.commit()
    assert dump(path) != before


def test_the_rows_of_both_go_together(docs: Collection[str], session: Session, path: Path):
    """A host's rows and their vectors are committed and rolled back as one."""
    session.add(Article(id=7, title="a fox"))
    docs.embed(7, "a fox", store=True)
    session.rollback()
    assert session.get(Article, 7) is None
    assert "7" not in docs

    session.add(Article(id=7, title="a fox"))
    docs.embed(7, "a fox", store=True)
    session.commit()
    assert committed(path)["7"] == "a fox"


def test_constructing_a_collection_touches_no_database(engine: Engine, model: DeterministicModel):
    """A collection on a session, a registry, an engine or a maker is made without a connection."""
    with counted(engine) as happened, Session(engine) as session:
        for db in (session, scoped_session(sessionmaker(engine)), engine, sessionmaker(engine)):
            with Collection("docs", db, model=model):
                pass
        assert not session.in_transaction()

    assert happened == {}


def test_closing_a_collection_leaves_the_session_alone(docs: Collection[str], session: Session):
    """What was handed in is never closed: the session keeps its objects and its transaction."""
    record = docs.get("a")
    with docs:
        docs.embed("c", "three foxes")

    assert record in session
    assert session.in_transaction()
    assert docs.count() == 3


def test_nothing_is_remembered_beyond_a_rollback(
    session: Session, engine: Engine, model: DeterministicModel
):
    """A collection that was rolled back is gone, its id may be another's, and it comes again."""
    docs = Collection("docs", session, model=model)
    docs.embed("a", "one hound")
    assert docs.id == 1
    session.rollback()

    assert docs.count() == 0
    assert docs.similar("hound") == []
    with pytest.raises(DoesNotExist):
        _ = docs.id
    others = Collection("others", session, model=model)
    others.embed("x", "of another")
    docs.embed("b", "two cats")

    assert (others.ids(), docs.ids()) == (["x"], ["b"])
    assert others.id != docs.id


def test_a_renaming_or_deletion_that_is_rolled_back_is_forgotten(
    docs: Collection[str], session: Session
):
    """After a rollback the object has its former name again, and writes to its collection."""
    docs.rename("papers")
    assert (docs.name, docs.count()) == ("papers", 2)
    session.rollback()
    assert docs.count() == 2
    docs.delete()
    session.rollback()

    docs.embed("c", "three foxes")

    assert docs.ids() == ["a", "b", "c"]
    assert Collection.names(session) == ["docs"]


def test_a_session_that_must_be_rolled_back_says_so(docs: Collection[str], session: Session):
    """After a failed flush SQLAlchemy's own error comes through, and a rollback helps."""
    session.add_all([Article(id=1, title="one"), Article(id=1, title="one")])
    with pytest.raises(IntegrityError):
        session.flush()
    with pytest.raises(PendingRollbackError):
        docs.count()

    session.rollback()
    assert docs.count() == 2


def test_an_error_of_ours_leaves_the_transaction_usable(
    docs: Collection[str], session: Session, path: Path
):
    """After an item or a vector was refused, what was written before can be committed."""
    docs.embed("c", "three foxes", store=True)
    with pytest.raises(InvalidItemError):
        docs.embed("d", "NUL \0")
    with pytest.raises(InvalidVectorError):
        docs.store_vectors([("d", [1.0] * 256), ("e", [1.0] * 3)])
    session.add(Article(id=1, title="a fox"))
    session.commit()

    assert committed(path) == {"a": "one hound", "b": None, "c": "three foxes"}
    assert session.get(Article, 1) is not None


def test_a_flush_that_fails_costs_nothing(
    docs: Collection[str], session: Session, model: DeterministicModel
):
    """Pending rows of the host that cannot be written are an error before the model is called."""
    session.add(Article(id=1, title=None))

    with pytest.raises(IntegrityError):
        docs.embed("c", "three foxes")
    assert model.calls == []


# Pending rows


def pending(collection: CollectionRecord) -> EmbeddingRecord:
    return EmbeddingRecord(id="c", embedding=[1.0] * 256, collection=collection, metadata_={"n": 3})


SEEN: dict[str, tuple[Operation, Any, Any]] = {
    "count": (lambda docs: docs.count(), 2, 3),
    "ids": (lambda docs: docs.ids(), ["a", "b"], ["a", "b", "c"]),
    "contains": (lambda docs: "c" in docs, False, True),
    "get": (lambda docs: docs.get("c") is not None, False, True),
    "iteration": (lambda docs: len(list(docs)), 2, 3),
    "similar": (lambda docs: len(docs.similar("hound")), 2, 3),
    "similar_by_id": (lambda docs: len(docs.similar_by_id("a")), 1, 2),
    "by metadata": (lambda docs: len(docs.similar("hound", where={"n": 3})), 0, 1),
}


@pytest.mark.parametrize(("read", "without", "with_it"), SEEN.values(), ids=SEEN)
def test_pending_rows_are_seen(
    read: Operation,
    without: Any,
    with_it: Any,
    docs: Collection[str],
    collection: CollectionRecord,
    session: Session,
):
    """A record that was added and not flushed is found by every read, unless autoflush is off."""
    with session.no_autoflush:
        session.add(pending(collection))
        assert read(docs) == without
        assert session.new

    assert read(docs) == with_it
    assert not session.new


def test_a_pending_collection_is_seen(session: Session, model: DeterministicModel):
    """A collection's record that was added to the session is the collection."""
    record = CollectionRecord(name="docs", model="deterministic", id=42)
    session.add(record)
    docs = Collection("docs", session, create=False, model=model)

    assert docs.id == 42
    docs.embed("a", "one hound")
    assert session.scalars(select(EmbeddingRecord.collection_id)).all() == [42]


@pytest.mark.parametrize("name", ["embed", "store_vectors", "set_metadata", "delete_items"])
def test_a_write_flushes_even_without_autoflush(
    name: str, engine: Engine, docs: Collection[str], model: DeterministicModel
):
    """On a session without autoflush a write comes after what was added before it."""
    with Session(engine, autoflush=False) as session:
        own = Collection("docs", session, model=model)
        collection = session.scalars(select(CollectionRecord)).one()
        session.add(pending(collection))
        changed = session.get_one(EmbeddingRecord, (collection.id, "b"))
        changed.content = "changed"

        WRITES[name](own)

        assert not session.new
        assert not session.dirty
        assert session.scalar(text("SELECT content FROM embeddings WHERE id = 'b'")) == "changed"


# Savepoints


def test_a_savepoint_takes_back_what_was_written_in_it(
    kind_of_transactions: str, docs: Collection[str], session: Session, subtests: pytest.Subtests
):
    """A savepoint that is rolled back leaves what was written before it, and the rest goes on."""
    for name, operation in WRITES.items():
        with subtests.test(name):
            docs.embed("before", "the savepoint")
            before = session.execute(text("SELECT * FROM embeddings ORDER BY id")).all()
            with session.begin_nested() as savepoint:
                operation(docs)
                savepoint.rollback()

            assert session.execute(text("SELECT * FROM embeddings ORDER BY id")).all() == before
            docs.embed("after", "the savepoint")
            assert docs.ids() == ["a", "after", "b", "before"]
            session.rollback()


def test_nested_savepoints(kind_of_transactions: str, docs: Collection[str], session: Session):
    """Of savepoints in savepoints, exactly those that were released stay."""
    docs.embed("0", "outermost")
    with session.begin_nested():
        docs.embed("1", "released")
        with session.begin_nested() as inner:
            docs.embed("2", "rolled back")
            with session.begin_nested():
                docs.embed("3", "released within")
            inner.rollback()
        with session.begin_nested():
            docs.embed("4", "released, too")
    session.commit()

    assert docs.ids() == ["0", "1", "4", "a", "b"]


def test_a_savepoint_as_the_first_statement(engine: Engine, path: Path, model: DeterministicModel):
    """With real transactions a released savepoint goes with the session's rollback."""
    engine.dispose()
    begin_really(engine)
    before = dump(path)
    with Session(engine) as session:
        docs = Collection("docs", session, model=model)
        with session.begin_nested():
            docs.embed("a", "one hound")
        assert docs.count() == 1
        session.rollback()

    assert dump(path) == before


def test_a_collection_made_in_a_savepoint_goes_with_it(
    kind_of_transactions: str, session: Session, model: DeterministicModel
):
    """The first write may be in a savepoint: rolled back, the collection does not exist."""
    docs = Collection("docs", session, model=model)
    session.add(Article(id=1, title="before"))
    session.flush()
    with session.begin_nested() as savepoint:
        docs.embed("a", "one hound")
        savepoint.rollback()

    assert not Collection.exists(session, "docs")
    docs.embed("b", "two cats")
    session.commit()
    assert docs.ids() == ["b"]


# Objects in the session


def values(record: EmbeddingRecord) -> tuple[Any, ...]:
    """Return what a record holds without asking the database."""
    state = inspect(record)
    assert state.expired_attributes == set()
    assert not state.modified
    loaded = state.dict
    names = ("content", "content_blob", "content_hash", "metadata_")
    return (loaded["embedding"].tobytes(), *(loaded[name] for name in names))


def stored(session: Session, id: str) -> tuple[Any, ...]:
    columns = EmbeddingRecord.__table__.c
    row = session.execute(select(*columns).where(columns.id == id)).one()
    return (row.embedding.tobytes(), *row[3:7])


CHANGES: dict[str, Operation] = {
    "embed another text": lambda docs: docs.embed("a", "three foxes"),
    "embed another text, stored": lambda docs: docs.embed("a", "3", {"n": 3}, store=True),
    "embed with metadata": lambda docs: docs.embed("a", "one hound", {"n": 2}),
    "embed by force": lambda docs: docs.embed("a", "one hound", force=True),
    "embed the text of another": lambda docs: docs.embed("a", "two cats"),
    "embed_multi": lambda docs: docs.embed_multi([("a", "3"), ("b", "4"), ("a", "5")]),
    "store_vectors": lambda docs: docs.store_vectors([("a", [1] * 256, {"n": 0}, "text")]),
    "set_metadata": lambda docs: docs.set_metadata("a", {"m": 1}),
    "set no metadata": lambda docs: docs.set_metadata("a", None),
    "nothing": lambda docs: docs.embed("a", "one hound"),
}


@cases(CHANGES)
def test_loaded_records_are_not_stale(
    operation: Operation, docs: Collection[str], record: EmbeddingRecord, session: Session
):
    """A record that the session has loaded holds what was written, and asks no database for it."""
    operation(docs)

    assert values(record) == stored(session, "a")
    assert docs.get("a") is record
    assert not session.dirty


@cases(CHANGES)
def test_the_loaded_collection_of_a_record_stays_loaded(
    operation: Operation,
    docs: Collection[str],
    collection: CollectionRecord,
    record: EmbeddingRecord,
):
    """A record's collection is not read again after a write, which under async is an error."""
    assert inspect(record).dict["collection"] is collection

    operation(docs)

    assert inspect(record).dict["collection"] is collection


@pytest.mark.parametrize("ends_by", ["savepoint", "transaction"])
def test_loaded_records_are_right_after_a_rollback(
    ends_by: str,
    kind_of_transactions: str,
    docs: Collection[str],
    session: Session,
    subtests: pytest.Subtests,
):
    """After the rollback of a savepoint or of all, a record holds again what it held before."""
    for name, operation in CHANGES.items():
        with subtests.test(name):
            record = docs.get("a")
            assert record is not None
            session.add(Article(id=1, title="before"))
            session.flush()
            before = (record.embedding.tobytes(), record.content, record.metadata_, record.updated)
            if ends_by == "savepoint":
                with session.begin_nested() as savepoint:
                    operation(docs)
                    savepoint.rollback()
            else:
                operation(docs)
                session.rollback()

            now = (record.embedding.tobytes(), record.content, record.metadata_, record.updated)
            assert now == before
            assert docs.get("a") is record
            session.rollback()


@cases(CHANGES)
def test_objects_that_outlive_a_commit_are_not_stale(
    operation: Operation, engine: Engine, docs: Collection[str], model: DeterministicModel
):
    """With expire_on_commit=False a record of an earlier transaction holds what was written."""
    with Session(engine, expire_on_commit=False) as session:
        own = Collection("docs", session, model=model)
        record = own.get("a")
        session.commit()
        operation(own)
        session.commit()

        assert record is not None
        assert values(record) == stored(session, "a")


def test_records_expired_by_a_commit_are_read_again(
    docs: Collection[str], record: EmbeddingRecord, session: Session
):
    """A record that a commit expired holds what was written since."""
    session.commit()
    docs.embed("a", "three foxes", store=True)

    assert record.content == "three foxes"


@pytest.mark.parametrize("name", ["delete_items", "delete_items by prefix", "delete"])
@pytest.mark.parametrize("ends_by", ["savepoint", "transaction"])
def test_deleted_records_leave_the_session_and_come_back(
    name: str,
    ends_by: str,
    docs: Collection[str],
    record: EmbeddingRecord,
    session: Session,
):
    """A record that was deleted is not in the session, and is again after a rollback."""
    session.add(Article(id=1, title="before"))
    session.flush()
    savepoint = session.begin_nested() if ends_by == "savepoint" else None

    WRITES[name](docs)
    assert record not in session
    (savepoint or session).rollback()

    assert record in session
    assert record.content == "one hound"
    assert docs.get("a") is record


def test_the_record_of_a_deleted_or_renamed_collection(
    docs: Collection[str], collection: CollectionRecord, session: Session
):
    """The collection's record has the new name, and leaves the session when it is deleted."""
    docs.rename("papers")
    assert inspect(collection).dict["name"] == "papers"

    docs.delete()
    assert collection not in session


def test_a_record_of_a_first_write_that_was_rolled_back(
    session: Session, model: DeterministicModel
):
    """A record whose row was rolled back is gone, as any object of the session would be."""
    docs = Collection("docs", session, model=model)
    docs.embed("a", "one hound")
    record = docs.get("a")
    session.rollback()

    assert docs.get("a") is None
    with pytest.raises(ObjectDeletedError):
        _ = record.content  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "write",
    [
        lambda docs, metadata: docs.set_metadata("a", metadata),
        lambda docs, metadata: docs.embed("a", "one hound", metadata),
        lambda docs, metadata: docs.embed("a", "three foxes", metadata),
        lambda docs, metadata: docs.store_vectors([("a", [1] * 256, metadata)]),
    ],
    ids=["set_metadata", "embed the same", "embed another", "store_vectors"],
)
def test_the_callers_metadata_is_not_the_records(
    write: Callable[[Collection[str], Any], Any], docs: Collection[str], record: EmbeddingRecord
):
    """Changing a dict after it was passed changes no record."""
    metadata = {"n": 2}
    write(docs, metadata)
    metadata["n"] = 3

    assert record.metadata_ == {"n": 2}


# Records and the repository


def test_adding_and_deleting_records(
    docs: Collection[str], collection: CollectionRecord, session: Session
):
    """Records may be added and deleted beside the repository, which sees it at once."""
    added = EmbeddingRecord(id="c", embedding=[1.0] * 256, collection=collection)
    session.add(added)
    collection.embeddings.append(EmbeddingRecord(id="d", embedding=[2.0] * 256))
    session.add(
        EmbeddingRecord(id="e", embedding=[3.0] * 256, collection_id=collection.id, updated=1)
    )
    assert docs.ids() == ["a", "b", "c", "d", "e"]

    session.delete(added)
    assert docs.ids() == ["a", "b", "d", "e"]
    docs.embed("c", "three foxes", store=True)
    assert docs.similar("three foxes", number=1)[0].id == "c"


def test_a_record_that_was_added_can_be_embedded(
    docs: Collection[str], collection: CollectionRecord, session: Session
):
    """A row without a hash is replaced by an embed under its id, in the same object."""
    added = EmbeddingRecord(id="c", embedding=[1.0] * 256, collection=collection)
    session.add(added)

    docs.embed("c", "three foxes", {"n": 3}, store=True)

    assert (added.content, added.metadata_) == ("three foxes", {"n": 3})
    assert values(added) == stored(session, "c")


def test_a_record_deleted_and_embedded_again(
    docs: Collection[str], record: EmbeddingRecord, session: Session
):
    """An id whose record was deleted, flushed or not, can be embedded in the same transaction."""
    session.delete(record)
    docs.embed("a", "three foxes", store=True)

    again = docs.get("a")
    assert again is not None
    assert again.content == "three foxes"
    session.commit()
    assert docs.ids() == ["a", "b"]


def test_the_relationship_goes_both_ways(
    docs: Collection[str], collection: CollectionRecord, record: EmbeddingRecord
):
    """A record knows its collection, and the collection its records."""
    assert record.collection is collection
    assert {other.id for other in collection.embeddings} == {"a", "b"}
    assert record in collection.embeddings


@pytest.mark.parametrize("name", ["embed", "embed_multi", "store_vectors", "delete_items"])
def test_a_loaded_relationship_is_not_stale(
    name: str, docs: Collection[str], collection: CollectionRecord, session: Session
):
    """The embeddings of a collection's record are those of the collection, loaded before or not."""
    assert len(collection.embeddings) == 2

    WRITES[name](docs)

    assert {record.id for record in collection.embeddings} == {*docs.ids()}


@pytest.mark.parametrize("name", ["embed", "embed_multi", "store_vectors", "delete_items"])
def test_deleting_the_record_of_a_collection_leaves_no_orphans(
    name: str, docs: Collection[str], collection: CollectionRecord, session: Session
):
    """With the collection's record go all of its embeddings, whoever wrote them."""
    assert len(collection.embeddings) == 2
    WRITES[name](docs)

    session.delete(collection)
    session.commit()

    assert session.scalar(select(func.count()).select_from(EmbeddingRecord)) == 0


def test_deleting_a_new_record_of_a_collection_leaves_no_orphans(
    session: Session, model: DeterministicModel
):
    """A collection's record that was added and deleted in one transaction leaves nothing."""
    record = CollectionRecord(name="docs", model="deterministic")
    session.add(record)
    Collection("docs", session, model=model).embed("a", "one hound")

    session.delete(record)
    session.commit()

    assert session.scalar(select(func.count()).select_from(EmbeddingRecord)) == 0


def test_metadata_is_not_a_keyword_of_the_record():
    """Declarative reserves the name: the record takes metadata_, and metadata is a TypeError."""
    with pytest.raises(TypeError, match="metadata"):
        EmbeddingRecord(id="a", embedding=[1.0], metadata={"n": 1})  # type: ignore[call-arg]


# From within events of the session


@pytest.mark.parametrize("is_loaded", [True, False])
@pytest.mark.parametrize(
    "name", ["before_flush", "after_flush", "after_flush_postexec", "before_commit"]
)
def test_embedding_from_a_listener(
    name: str,
    is_loaded: bool,
    docs: Collection[str],
    session: Session,
    path: Path,
):
    """A listener to the session's events may embed, and it is committed with what it listens to."""
    record = docs.get("a") if is_loaded else None
    assert record is None or record.content == "one hound"
    happened: list[str] = []

    def embed(*_: object) -> None:
        if not happened:
            happened.append(name)
            docs.embed("a", "three foxes", store=True)
            docs.embed_multi([("c", "four fish")], store=True)
            docs.set_metadata("b", {"n": 2})

    event.listen(session, name, embed)
    session.add(Article(id=1, title="three foxes"))
    session.commit()

    assert happened == [name]
    assert committed(path) == {"a": "three foxes", "b": None, "c": "four fish"}
    assert record is None or record.content == "three foxes"


@pytest.mark.parametrize("name", ["before_flush", "after_flush"])
def test_what_a_listener_embedded_goes_with_its_savepoint(
    name: str, docs: Collection[str], record: EmbeddingRecord, session: Session
):
    """A record that a listener's embed changed is right again after the savepoint's rollback."""
    with session.begin_nested() as savepoint:
        event.listen(session, name, lambda *_: docs.embed("a", "three foxes", store=True))
        session.add(Article(id=1, title="three foxes"))
        session.flush()
        assert record.content == "three foxes"
        savepoint.rollback()

    assert record.content == "one hound"


def test_a_listener_leaves_the_hosts_pending_changes_alone(
    docs: Collection[str],
    collection: CollectionRecord,
    record: EmbeddingRecord,
    session: Session,
):
    """What the host changed in other objects is still written after an embed within the flush."""
    assert record.collection is collection
    event.listen(session, "before_flush", lambda *_: docs.embed("a", "three foxes"))
    collection.name = "papers"
    session.commit()

    assert Collection.names(session) == ["papers"]


def test_embedding_from_a_mappers_event(
    docs: Collection[str], session: Session, model: DeterministicModel, path: Path
):
    """A mapper's event hands out the connection of the flush, on which a collection works."""

    def embed(_: object, connection: Connection, article: Article) -> None:
        Collection("docs", connection, model=model).embed(article.id, article.title, store=True)

    event.listen(Article, "after_insert", embed)
    try:
        session.add_all([Article(id=1, title="three foxes"), Article(id=2, title="four fish")])
        session.flush()
        assert docs.ids() == ["1", "2", "a", "b"]
        session.rollback()
        assert docs.ids() == ["a", "b"]
        session.add(Article(id=3, title="five"))
        session.commit()
    finally:
        event.remove(Article, "after_insert", embed)

    assert committed(path) == {"a": "one hound", "b": None, "3": "five"}


# Connections


@pytest.mark.parametrize("begun", [True, False])
def test_nothing_happens_to_the_callers_connection(
    begun: bool,
    engine: Engine,
    docs: Collection[str],
    model: DeterministicModel,
    path: Path,
    subtests: pytest.Subtests,
):
    """On a connection nothing is committed or closed: the caller's rollback undoes everything."""
    before = dump(path)
    for name, operation in ALL.items():
        with subtests.test(name):
            with engine.connect() as connection:
                own = Collection("docs", connection, model=model)
                if begun:
                    connection.execute(text("INSERT INTO articles VALUES (1, 'before')"))
                with counted(engine) as happened:
                    operation(own)
                assert happened - Counter([] if begun else ["begin"]) == {}
                assert not connection.closed
                connection.rollback()
                assert own.ids() == ["a", "b"]

            assert dump(path) == before


def test_the_caller_commits_the_connection(
    engine: Engine, docs: Collection[str], model: DeterministicModel, path: Path
):
    """What was written on a connection is there when the caller commits, and not before."""
    with engine.connect() as connection:
        own = Collection("docs", connection, model=model)
        own.embed("c", "three foxes", store=True)
        assert connection.in_transaction()
        assert "c" not in committed(path)
        connection.commit()
        assert "c" in committed(path)
        own.embed("d", "four")

    assert "d" not in committed(path)


def test_a_connection_in_a_with_block(
    engine: Engine, docs: Collection[str], model: DeterministicModel, path: Path
):
    """`engine.begin()` commits what was written in it, and on an error nothing of it."""
    with engine.begin() as connection:
        Collection("docs", connection, model=model).embed("c", "three foxes", store=True)
    with suppress(ZeroDivisionError), engine.begin() as connection:
        Collection("docs", connection, model=model).embed("d", "four fish", store=True)
        _ = 1 / 0

    assert committed(path) == {"a": "one hound", "b": None, "c": "three foxes"}


def test_savepoints_of_a_connection(
    kind_of_transactions: str, engine: Engine, docs: Collection[str], model: DeterministicModel
):
    """A connection's savepoints hold for what was written in them."""
    with engine.connect() as connection:
        own = Collection("docs", connection, model=model)
        own.embed("c", "three foxes")
        with connection.begin_nested() as savepoint:
            own.embed("d", "four fish")
            savepoint.rollback()
        with connection.begin_nested():
            own.embed("e", "five birds")
        assert own.ids() == ["a", "b", "c", "e"]
        connection.commit()

    assert docs.ids() == ["a", "b", "c", "e"]


def test_a_connection_in_autocommit_mode(
    engine: Engine, docs: Collection[str], model: DeterministicModel, path: Path
):
    """Where every statement commits itself, what was written is there at once."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        own = Collection("docs", connection, model=model)
        own.embed("c", "three foxes", store=True)
        own.delete_items(["b"])

    assert committed(path) == {"a": "one hound", "c": "three foxes"}


# Several binds, several threads


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Engine]:
    """Another database with the tables."""
    engine = create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    embeddings.migrate(engine)
    yield engine
    engine.dispose()


@pytest.mark.parametrize(
    ("by", "operation"),
    [*(("base", operation) for operation in WRITES.values()), ("records", WRITES["embed_multi"])],
    ids=[*WRITES, "by the records"],
)
def test_a_session_with_two_binds(
    operation: Operation, by: str, engine: Engine, other: Engine, model: DeterministicModel
):
    """Where the session has a bind of its own for our records, every statement goes there."""
    ours: dict[Any, Any] = (
        {Base: other} if by == "base" else {EmbeddingRecord: other, CollectionRecord: other}
    )
    with Session(engine, binds=ours) as session:
        docs = Collection("docs", session, model=model)
        docs.embed("a", "one hound", {"n": 1}, store=True)
        docs.embed("b", "two cats")
        session.add(Article(id=1, title="a hound"))
        session.commit()
        with counted(engine) as here:
            operation(docs)
            session.commit()
        assert here == {}
        assert session.get(Article, 1) is not None

    assert Collection.names(engine) == []
    assert (docs.name in Collection.names(other)) is (operation is not WRITES["delete"])


def test_the_two_binds_of_a_session_are_rolled_back_together(
    engine: Engine, other: Engine, model: DeterministicModel
):
    """A session's rollback holds for both of its databases."""
    with Session(binds={Base: other, HostBase: engine}) as session:
        docs = Collection("docs", session, model=model)
        session.add(Article(id=1, title="a hound"))
        docs.embed(1, "a hound")
        session.rollback()
        assert session.get(Article, 1) is None
        assert docs.count() == 0


def test_a_session_that_has_no_bind_for_our_records(engine: Engine, model: DeterministicModel):
    """Without a bind SQLAlchemy's own error comes through."""
    with Session(binds={HostBase: engine}) as session, pytest.raises(UnboundExecutionError):
        Collection("docs", session, model=model).count()


def test_a_session_of_one_connection(engine: Engine, docs: Collection[str], path: Path):
    """A session that was given a connection, as in tests of a host, leaves the transaction open."""
    engine.dispose()
    begin_really(engine)
    before = dump(path)
    with engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            own = Collection("docs", session, model=DeterministicModel())
            own.embed("c", "three foxes")
            session.commit()
            own.embed("d", "four fish")
            session.rollback()
            assert own.ids() == ["a", "b", "c"]
        assert outer.is_active
        outer.rollback()

    assert dump(path) == before


def test_a_registry_gives_each_thread_its_session(engine: Engine, model: DeterministicModel):
    """On a scoped_session each thread sees its own transaction, and what others committed."""
    registry = scoped_session(sessionmaker(engine))
    docs = Collection("docs", registry, model=model)
    docs.embed("a", "one hound")
    registry.commit()
    docs.embed("b", "two cats")
    seen = []

    def look() -> None:
        seen.append(docs.ids())
        registry.remove()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(look).result()
        registry.commit()
        pool.submit(look).result()

    assert seen == [["a"], ["a", "b"]]
    registry.remove()


def test_a_removed_session_of_a_registry_is_not_used_again(
    engine: Engine, model: DeterministicModel
):
    """After registry.remove() the collection works on the next session."""
    registry = scoped_session(sessionmaker(engine))
    docs = Collection("docs", registry, model=model)
    docs.embed("a", "one hound")
    registry.remove()

    assert docs.count() == 0
    docs.embed("b", "two cats")
    registry.commit()
    registry.remove()
    assert docs.ids() == ["b"]
    registry.remove()


# 2. Engines: transactions of our own


class Curious(DeterministicModel):
    """A model that looks, while it runs, at the database of its collection."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
        self.checked_out: list[int] = []
        self.committed: list[int] = []

    def embed_batch(self, items: Any) -> Any:
        self.checked_out.append(self.engine.pool.checkedout())  # type: ignore[attr-defined]
        path = str(self.engine.url.database)
        with closing(sqlite3.connect(path, timeout=0)) as connection:
            connection.execute("BEGIN EXCLUSIVE")  # nobody reads or writes
            [(count,)] = connection.execute("SELECT count(*) FROM embeddings")
            self.committed.append(count)
            connection.rollback()
        return super().embed_batch(items)


CALLS: dict[str, Operation] = {
    "embed": lambda docs: docs.embed("c", "three foxes"),
    "embed_multi": lambda docs: docs.embed_multi([(f"{i}", f"text {i}") for i in range(5)]),
    "similar": lambda docs: docs.similar("hound"),
    "matches": lambda docs: docs.matches("hound"),
    "prepare": lambda docs: docs.prepare("hound"),
    "embed_query": lambda docs: docs.embed_query("hound"),
}


@pytest.mark.parametrize("kind", ["engine", "sessionmaker", "path", "sqlite_utils"])
@cases(CALLS)
def test_no_transaction_is_open_while_the_model_runs(
    operation: Operation, kind: str, engine: Engine, path: Path, docs: Collection[str]
):
    """While the model runs, no connection is checked out and the file is not locked."""
    with closing(sqlite_utils.Database(path)) as database:
        kinds: dict[str, Any] = {
            "engine": engine,
            "sessionmaker": sessionmaker(engine),
            "path": path,
            "sqlite_utils": database,
        }
        model = Curious(engine)
        with Collection("docs", kinds[kind], model=model) as own:
            operation(own)

    assert model.checked_out == [0]


@pytest.mark.parametrize("kind", ["engine", "sessionmaker", "path"])
def test_each_batch_is_durable_before_the_next_is_embedded(kind: str, engine: Engine, path: Path):
    """When the model is called for a batch, the batches before it are committed."""
    model = Curious(engine)
    kinds: dict[str, Any] = {
        "engine": engine,
        "sessionmaker": sessionmaker(engine),
        "path": path,
    }
    with Collection("docs", kinds[kind], model=model) as docs:
        docs.embed_multi(((f"{i}", f"text {i}") for i in range(10)), batch_size=3)

    assert model.committed == [0, 3, 6, 9]


class Failing(DeterministicModel):
    """A model that fails at its third call."""

    def embed_batch(self, items: Any) -> Any:
        if len(self.calls) == 2:
            raise RuntimeError("the service is down")
        return super().embed_batch(items)


@pytest.mark.parametrize("fault", ["the model", "an item", "the entries"])
def test_an_error_keeps_the_batches_before_it(fault: str, engine: Engine, path: Path):
    """On an engine an error in the third batch leaves the first two, whole and durable."""

    def entries() -> Iterator[tuple[str, str]]:
        for i in range(9):
            if i == 7 and fault == "the entries":
                raise RuntimeError("no more")
            yield f"{i}", "NUL \0" if i == 7 and fault == "an item" else f"text {i}"

    model = Failing() if fault == "the model" else DeterministicModel()
    docs = Collection("docs", engine, model=model)

    with pytest.raises((RuntimeError, InvalidItemError)):
        docs.embed_multi(entries(), batch_size=3)

    assert sorted(committed(path)) == [f"{i}" for i in range(6)]


def test_an_error_on_a_session_keeps_nothing_after_the_rollback(session: Session, path: Path):
    """On a session the batches before an error are the caller's to commit or to roll back."""
    docs = Collection("docs", session, model=Failing())
    with pytest.raises(RuntimeError, match="service is down"):
        docs.embed_multi(((f"{i}", f"text {i}") for i in range(9)), batch_size=3)

    assert docs.count() == 6
    session.rollback()
    assert committed(path) == {}


@pytest.mark.parametrize(
    "options",
    [{}, {"autoflush": False}, {"expire_on_commit": False}, {"autobegin": False}],
    ids=str,
)
def test_a_sessionmaker(options: dict[str, Any], engine: Engine, path: Path):
    """A sessionmaker's engine is used as an engine is, whatever its options are."""
    docs = Collection("docs", sessionmaker(engine, **options), model=DeterministicModel())
    for operation in ALL.values():
        if not Collection.exists(engine, "docs"):
            docs = Collection("docs", sessionmaker(engine, **options), model=DeterministicModel())
        docs.embed("a", "one hound", {"n": 1}, store=True)
        docs.embed("b", "two cats")
        with counted(engine) as happened:
            operation(docs)
        assert happened["checkout"] == happened["checkin"]
        assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_a_sessionmaker_without_an_engine():
    """A sessionmaker that is not bound is refused, with what to pass instead."""
    with pytest.raises(BindingError, match="pass a session"):
        Collection("docs", sessionmaker(), model=DeterministicModel())


def test_records_from_an_engine_are_detached_and_complete(engine: Engine, docs: Collection[str]):
    """Without a session a record can be read after its transaction, with its collection."""
    record = Collection("docs", engine).get("a")

    assert record is not None
    assert inspect(record).detached
    assert (record.content, record.metadata_, record.collection.name) == (
        "one hound",
        {"n": 1},
        "docs",
    )


# One connection for everybody


@pytest.fixture(params=["static", "default"])
def memory(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A database in memory: an engine that has, at least for one thread, a single connection."""
    options: dict[str, Any] = {
        "static": {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}},
        "default": {},
    }[request.param]
    engine = create_engine("sqlite://", **options)
    embeddings.migrate(engine)
    HostBase.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("real", [True, False], ids=["real", "plain"])
def test_somebodys_transaction_on_the_one_connection_is_unharmed(real: bool, memory: Engine):
    """While the engine's one connection is in a transaction, we say so, and leave it alone."""
    if real:
        raw: Any = memory.raw_connection()
        raw.driver_connection.isolation_level = None
        raw.close()

        @event.listens_for(memory, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN")

    docs = Collection("docs", memory, model=DeterministicModel())
    docs.embed("a", "one hound", {"n": 1})
    with Session(memory) as session:
        session.add(Article(id=1, title="uncommitted"))
        session.flush()
        for name in ALL.keys() - {"prepare", "embed_query"}:
            with pytest.raises(BindingError, match=r"(?i)pass the session"):
                ALL[name](docs)
            assert session.get(Article, 1, populate_existing=True) is not None
        assert session.in_transaction()
        session.add(Article(id=2, title="uncommitted, too"))
        session.commit()
        assert session.scalars(select(Article.id)).all() == [1, 2]
        session.rollback()

    assert docs.ids() == ["a"]


def test_what_the_message_says_works(memory: Engine):
    """Passed the session, as the message says, a collection joins its transaction."""
    with Session(memory) as session:
        session.add(Article(id=1, title="uncommitted"))
        session.flush()
        docs = Collection("docs", session, model=DeterministicModel())
        docs.embed("a", "one hound")
        session.rollback()
        assert docs.count() == 0


def test_a_database_of_our_own_in_memory_is_shared_by_threads():
    """Without a database a collection has one in memory, which every thread sees."""
    docs = Collection("docs", model=DeterministicModel())
    thread = threading.Thread(target=docs.embed, args=("a", "one hound"))
    thread.start()
    thread.join()

    assert docs.ids() == ["a"]
    docs.close()


@pytest.mark.parametrize("is_one", [True, False], ids=["one-collection", "several"])
def test_threads_take_turns_on_a_hosts_one_connection(is_one: bool):
    """In memory, as in a host's tests, eight threads read and write: none meets the others."""
    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    embeddings.migrate(engine)
    shared = Collection("docs", engine, model=DeterministicModel())

    def use(number: int) -> None:
        docs = shared if is_one else Collection("docs", engine, model=DeterministicModel())
        for step in range(10):
            docs.embed(f"{number}-{step}", f"text {number} {step}")
            assert docs.similar("text")
            assert f"{number}-{step}" in docs

    in_threads(use)
    assert shared.count() == 80
    engine.dispose()


# Asynchronous databases


@pytest.fixture
def aio() -> Any:
    """SQLAlchemy's asynchronous face, where what it needs is installed."""
    pytest.importorskip("greenlet")
    pytest.importorskip("aiosqlite")
    return pytest.importorskip("sqlalchemy.ext.asyncio")


@pytest.mark.parametrize(
    "name",
    [
        "AsyncEngine",
        "AsyncConnection",
        "AsyncSession",
        "async_sessionmaker",
        "async_scoped_session",
    ],
)
def test_an_asynchronous_database_is_refused(name: str, aio: Any):
    """An asynchronous database is an error that names what takes one."""
    engine = aio.create_async_engine("sqlite+aiosqlite://")
    maker = aio.async_sessionmaker(engine)
    databases = {
        "AsyncEngine": engine,
        "AsyncConnection": engine.connect(),
        "AsyncSession": maker(),
        "async_sessionmaker": maker,
        "async_scoped_session": aio.async_scoped_session(maker, scopefunc=int),
    }

    with pytest.raises(BindingError, match=f"{name}.*AsyncCollection"):
        Collection("docs", databases[name], model=DeterministicModel())
    with pytest.raises(BindingError, match=f"{name}.*AsyncCollection"):
        Collection.exists(databases[name], "docs")


def test_the_synchronous_session_of_an_asynchronous_one(tmp_path: Path, aio: Any):
    """In run_sync everything works, and no object is left that would have to be read again."""
    model = DeterministicModel()

    async def main() -> None:
        engine = aio.create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'async.db'}")
        async with engine.begin() as connection:
            await connection.run_sync(embeddings.migrate)
            await connection.run_sync(embeddings.migrate)
        async with aio.AsyncSession(engine, expire_on_commit=False) as session:

            async def do(operation: Callable[[Collection[str]], Any]) -> Any:
                return await session.run_sync(
                    lambda sync: operation(Collection("docs", sync, model=model))
                )

            await do(lambda docs: docs.embed("a", "one hound", store=True))
            await session.rollback()
            assert await do(lambda docs: docs.count()) == 0
            await do(lambda docs: docs.embed("a", "one hound", {"n": 1}, store=True))
            await session.commit()
            record = await do(lambda docs: docs.get("a"))
            for operation in CHANGES.values():
                await do(operation)
                expected = await session.run_sync(stored, "a")
                assert values(record) == expected
                assert record.updated is not None
            await session.commit()
            assert len(await do(lambda docs: docs.similar("hound"))) == 2
        await engine.dispose()

    asyncio.run(main())


def test_migrating_an_asynchronous_database_is_one_transaction(tmp_path: Path, aio: Any):
    """On an asynchronous connection a rollback leaves none of the tables."""

    async def main() -> Any:
        engine = aio.create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'async.db'}")
        async with engine.connect() as connection:
            await connection.run_sync(embeddings.migrate)
            await connection.rollback()
            names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        await engine.dispose()
        return names

    assert asyncio.run(main()) == []


# Failed commits


@pytest.fixture
def narrow(path: Path) -> Iterator[Engine]:
    """A host's engine with one connection, foreign keys, and no patience."""
    engine = create_engine(
        f"sqlite:///{path}", pool_size=1, max_overflow=0, connect_args={"timeout": 0}
    )

    @event.listens_for(engine, "connect")
    def connect(driver: Any, _: object) -> None:
        driver.execute("PRAGMA foreign_keys = ON")

    yield engine
    engine.dispose()


@pytest.mark.parametrize("real", [True, False], ids=["real", "plain"])
def test_a_commit_that_violates_a_foreign_key_does_not_become_durable(
    real: bool, narrow: Engine, docs: Collection[str], path: Path
):
    """A deletion whose commit fails is undone; the next user of the connection commits nothing."""
    if real:
        begin_really(narrow)
    with Session(narrow) as session:
        session.add(Shelf(id=1, collection_id=docs.id))
        session.commit()
    before = dump(path)
    own = Collection("docs", narrow, model=DeterministicModel())

    with pytest.raises(IntegrityError, match="FOREIGN KEY"):
        own.delete()

    with narrow.begin() as connection:
        connection.execute(text("SELECT 1"))
    assert dump(path) == before
    assert own.ids() == ["a", "b"]
    own.embed("c", "three foxes")
    assert own.ids() == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["embed", "set_metadata", "delete_items", "delete", "rename"])
def test_a_commit_that_is_locked_out_does_not_become_durable(
    name: str, narrow: Engine, docs: Collection[str], session: Session, path: Path
):
    """A write whose commit found a reader is undone, and can be done again afterwards."""
    session.add_all([Article(id=1, title="one"), Article(id=2, title="two")])
    session.commit()
    session.close()
    before = dump(path)
    own = Collection("docs", narrow, model=DeterministicModel())
    with closing(sqlite3.connect(path)) as reader:
        cursor = reader.execute("SELECT * FROM articles")
        cursor.fetchone()  # holds a lock until it is at the end
        with pytest.raises(OperationalError, match="locked"):
            WRITES[name](own)
        cursor.close()

    with narrow.begin() as connection:
        connection.execute(text("SELECT 1"))
    assert dump(path) == before
    assert (own.name, own.ids()) == ("docs", ["a", "b"])
    WRITES[name](own)
    assert dump(path) != before


def test_migrating_again_waits_for_nobody(narrow: Engine, session: Session, path: Path):
    """A start of the application while another process reads does not fail, however long it is."""
    session.add_all([Article(id=1, title="one"), Article(id=2, title="two")])
    session.commit()
    with closing(sqlite3.connect(path)) as reader:
        cursor = reader.execute("SELECT * FROM articles")
        cursor.fetchone()
        embeddings.migrate(narrow)
        cursor.close()


# 3. sqlite_utils


@pytest.fixture(params=["file", "memory"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sqlite_utils.Database]:
    """A database of sqlite-utils."""
    database = (
        sqlite_utils.Database(tmp_path / "utils.db")
        if request.param == "file"
        else sqlite_utils.Database(memory=True)
    )
    yield database
    database.close()


def count(database: sqlite_utils.Database, table: str = "embeddings") -> int:
    return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def is_in_the_file(tmp_path: Path) -> int:
    """Return what another connection counts; 0 where there is no file."""
    if not (tmp_path / "utils.db").exists():
        return 0
    with closing(sqlite3.connect(tmp_path / "utils.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM embeddings").fetchone()[0])


def test_a_sqlite_utils_transaction_is_joined(database: sqlite_utils.Database, tmp_path: Path):
    """What is written after db.begin() is seen there alone, and goes with its rollback."""
    docs = Collection("docs", database, model=DeterministicModel())
    table: Any = database["articles"]
    table.create({"id": int})
    database.begin()
    table.insert({"id": 1})
    docs.embed("a", "one hound")
    docs.embed_multi([(f"{i}", f"text {i}") for i in range(10)], batch_size=3)
    docs.set_metadata("a", {"n": 1})
    docs.delete_items(["0"])
    assert database.conn.in_transaction
    assert count(database) == docs.count() == 10
    assert is_in_the_file(tmp_path) == 0
    database.rollback()

    assert (count(database), count(database, "articles")) == (0, 0)
    assert docs.count() == 0
    docs.close()


def test_a_sqlite_utils_transaction_is_the_owners_to_commit(
    database: sqlite_utils.Database, tmp_path: Path
):
    """What was written in an atomic block is there after it."""
    docs = Collection("docs", database, model=DeterministicModel())
    with database.atomic():
        docs.embed("a", "one hound")
        with suppress(ZeroDivisionError), database.atomic():
            docs.embed("b", "two cats")
            _ = 1 / 0
        with database.atomic():
            docs.embed("c", "three foxes")
        assert database.conn.in_transaction
        assert docs.ids() == ["a", "c"]

    assert not database.conn.in_transaction
    assert docs.ids() == ["a", "c"]
    docs.close()


def test_an_error_in_an_atomic_block_leaves_nothing(database: sqlite_utils.Database):
    """With the error that ends an atomic block everything goes that was written in it."""
    docs = Collection("docs", database, model=DeterministicModel())
    with suppress(InvalidItemError), database.atomic():
        docs.embed("a", "one hound")
        docs.embed("b", "NUL \0")

    assert count(database) == 0
    docs.embed("c", "three foxes")
    assert docs.ids() == ["c"]
    docs.close()


def test_a_collection_opened_within_a_transaction(database: sqlite_utils.Database, tmp_path: Path):
    """Even the tables that opening a collection makes go with the owner's rollback."""
    database.begin()
    docs = Collection("docs", database, model=DeterministicModel())
    docs.embed("a", "one hound")
    assert docs.count() == 1
    database.rollback()

    assert database.table_names() == []
    docs.close()
    with database.atomic():
        docs = Collection("docs", database, model=DeterministicModel())
        docs.embed("a", "one hound")
    assert docs.ids() == ["a"]
    docs.close()


def test_outside_a_transaction_every_write_is_durable(
    database: sqlite_utils.Database, tmp_path: Path
):
    """Without an open transaction each write is committed at once."""
    docs = Collection("docs", database, model=DeterministicModel())
    docs.embed("a", "one hound")

    assert not database.conn.in_transaction
    assert count(database) == 1
    if (tmp_path / "utils.db").exists():
        assert is_in_the_file(tmp_path) == 1
    docs.close()


def test_read_cursors_stay_open_while_we_write(database: sqlite_utils.Database):
    """Rows of a table can be embedded while they are being read."""
    table: Any = database["articles"]
    table.insert_all({"id": i, "title": f"title {i}"} for i in range(300))
    docs = Collection("docs", database, model=DeterministicModel())
    for row in table.rows:
        docs.embed(row["id"], row["title"])

    assert docs.count() == 300
    with database.atomic():
        for row in table.rows:
            docs.embed(row["id"], f"new {row['title']}")
    assert docs.count() == 300
    docs.close()


WITHIN_A_LOOP = """
import sys

import sqlite_utils

from embeddings import Collection
from embeddings.testing import DeterministicModel

database = sqlite_utils.Database(sys.argv[1])
database["articles"].insert_all({"id": i, "title": f"title {i}"} for i in range(300))
for row in database["articles"].rows:
    with Collection("docs", database, model=DeterministicModel()) as docs:
        docs.embed(row["id"], row["title"])
    if row["id"] == 1:
        break
print(docs.count())
"""


def output(script: str, path: Path) -> str:
    """Run a script on a file and return what it prints; fail if it waits for ever."""
    process = python("-c", script, path)
    assert process.stderr == ""
    return process.stdout


def test_a_collection_opened_while_a_cursor_is_open(tmp_path: Path):
    """A collection may be opened while its database is being read, without waiting for the end."""
    assert output(WITHIN_A_LOOP, tmp_path / "utils.db") == "2\n"


WITH_A_READER = """
import sqlite3
import sys

from embeddings import Collection
from embeddings.testing import DeterministicModel

reader = sqlite3.connect(sys.argv[1])
cursor = reader.execute("SELECT * FROM articles")
cursor.fetchone()
with Collection("docs", sys.argv[1], model=DeterministicModel()) as docs:
    print(*docs.ids())
"""


def test_a_file_can_be_opened_while_somebody_reads_it(
    docs: Collection[str], session: Session, path: Path
):
    """A reader that stays where it is keeps nobody from opening a file that is complete."""
    session.add_all(Article(title=f"title {i}") for i in range(300))
    session.commit()

    assert output(WITH_A_READER, path) == "a b\n"


@pytest.mark.parametrize(
    "factory",
    [sqlite3.Row, lambda cursor, row: {c[0]: v for c, v in zip(cursor.description, row)}],  # noqa: B905
    ids=["Row", "dict"],
)
@pytest.mark.parametrize("in_transaction", [True, False])
def test_the_owners_row_factory_is_no_obstacle(
    factory: Any, in_transaction: bool, database: sqlite_utils.Database
):
    """Whatever the owner's connection makes of rows, a collection works, and leaves it so."""
    docs = Collection("docs", database, model=DeterministicModel())
    database.conn.row_factory = factory
    if in_transaction:
        database.begin()
    docs.embed("a", "one hound", {"n": 1}, store=True)

    assert docs.similar("one hound")[0].metadata == {"n": 1}
    assert database.conn.row_factory is factory
    docs.close()


def test_the_owners_functions_stay(database: sqlite_utils.Database):
    """SQL functions that the owner registered are not replaced, REGEXP included."""
    database.conn.create_function("regexp", 2, lambda pattern, value: 42)
    docs = Collection("docs", database, model=DeterministicModel())
    with database.atomic():
        docs.embed("a", "one hound")
    docs.embed("b", "two cats")

    assert database.execute("SELECT 'a' REGEXP 'b'").fetchone()[0] == 42
    docs.close()


def test_a_sqlite_utils_commit_that_is_locked_out_is_undone(tmp_path: Path):
    """A write whose commit found a reader is undone; what is written later is durable."""
    database = sqlite_utils.Database(tmp_path / "utils.db")
    table: Any = database["articles"]
    table.insert_all({"id": i, "title": "a title" * 100} for i in range(300))
    database.conn.execute("PRAGMA busy_timeout = 0")
    docs = Collection("docs", database, model=DeterministicModel())
    with closing(sqlite3.connect(tmp_path / "utils.db")) as reader:
        reader.execute("PRAGMA busy_timeout = 0")
        reader.execute("PRAGMA journal_mode = DELETE")
        docs.embed("a", "one hound")
        cursor = reader.execute("SELECT * FROM articles")
        cursor.fetchone()  # holds a lock until it is at the end
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            docs.embed("b", "two cats")
        assert not database.conn.in_transaction
        cursor.close()
        docs.embed("c", "three foxes")

    assert docs.ids() == ["a", "c"]
    docs.close()
    database.close()
    assert is_in_the_file(tmp_path) == 2


def test_closing_leaves_the_owners_database_open(database: sqlite_utils.Database):
    """Closing a collection does not close the database that it was given."""
    docs = Collection("docs", database, model=DeterministicModel())
    docs.embed("a", "one hound")
    docs.close()

    assert count(database) == 1


# 4. Before there is a row


@pytest.mark.parametrize("kind", ["session", "engine", "connection"])
def test_reading_creates_nothing(
    kind: str, engine: Engine, session: Session, model: DeterministicModel, path: Path
):
    """Before the first write a collection is empty, has no id, and no model is called."""
    before = dump(path)
    with engine.connect() as connection:
        kinds: dict[str, Any] = {
            "session": session,
            "engine": engine,
            "connection": connection,
        }
        docs = Collection("docs", kinds[kind], model=model)
        assert (docs.count(), docs.ids(), docs.get("a"), list(docs)) == (0, [], None, [])
        assert docs.similar("hound") == []
        assert docs.similar_by_vector([1.0]) == []
        assert docs.delete_items(["a"]) == 0
        with pytest.raises(DoesNotExist):
            _ = docs.id
        with pytest.raises(DoesNotExist):
            docs.similar_by_id("a")
        connection.commit()
    session.commit()

    assert model.calls == []
    assert dump(path) == before


# 6. Orders


def test_the_rows_of_a_batch_are_written_in_the_order_of_their_ids(
    engine: Engine, path: Path, model: DeterministicModel
):
    """However entries come, a batch is written sorted, so that writers cannot block each other."""
    docs = Collection("docs", engine, model=model)
    docs.embed_multi([("c", "3"), ("a", "1"), ("b", "2"), ("é", "4"), ("B", "5")])
    docs.store_vectors([("z", [1] * 256), ("y", [2] * 256)])

    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT id FROM embeddings_log WHERE id IS NOT NULL ORDER BY seq")
        assert [id for (id,) in rows] == ["B", "a", "b", "c", "é", "y", "z"]


def test_two_sessions_create_the_collection_in_turn(
    engine: Engine, model: DeterministicModel, path: Path
):
    """A collection that another writer created meanwhile is used, not created twice."""
    with Session(engine) as one, Session(engine) as two:
        first = Collection("docs", one, model=model)
        second = Collection("docs", two, model=model)
        assert (first.count(), second.count()) == (0, 0)
        first.embed("a", "one hound")
        one.commit()
        second.embed("b", "two cats")
        two.commit()
        assert first.ids() == second.ids() == ["a", "b"]

    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM collections").fetchone() == (1,)

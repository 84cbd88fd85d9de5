"""Many new rows go by COPY on PostgreSQL, and are what they would be by INSERT."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from embeddings import Collection, make_records
from embeddings.databases.postgresql.types import as_array
from embeddings.testing import DeterministicModel
from tests.reaching import on_postgresql, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Engine

    from tests.conftest import Open

STORED = (
    "SELECT id, embedding::text, content, content_blob, content_hash, metadata::text "
    "FROM embeddings WHERE collection_id = (SELECT id FROM collections WHERE name = '{}') "
    "ORDER BY id"
)


class Base(DeclarativeBase):
    """A host's."""


class OfATenant:
    """A host's column without a default: COPY would leave it empty."""

    tenant: Mapped[str | None] = mapped_column()


class Wide(DeterministicModel):
    """Its vectors are so long that PostgreSQL stores them apart from their rows."""

    def embed_batch(self, items: Sequence[Any]) -> list[Any]:
        return [np.tile(vector, 6) for vector in super().embed_batch(items)]


RECORDS = make_records(Base, prefix="copied_", embedding_mixin=OfATenant)
INSERTED = 50  # rows of a batch that are inserted, and not copied


def rows(number: int) -> list[tuple[Any, ...]]:
    """Rows of every making: odd ids and texts, bytes, nothing, numbers that JSONB changes."""
    model = DeterministicModel()
    contents = ["", "two\nlines\t\\N\\.", "Zürich \U0001f43e", None, "plain"]
    metadata = [{"n": 1e22}, {"ü": [None, True, 1.5, "\\u0041"]}, None, {}]
    return [
        (
            f"é {n}",
            next(iter(model.embed_batch([f"text {n}"]))),
            metadata[n % 4],
            contents[n % 5],
        )
        for n in range(number)
    ]


@pytest.fixture
def inserted(postgresql_engine: Engine) -> Iterator[list[str]]:
    """The INSERTs into `embeddings` on the engine, as far as they are seen."""
    statements: list[str] = []

    def note(*arguments: Any) -> None:
        if arguments[2].startswith("INSERT INTO embeddings"):
            statements.append(arguments[2])

    event.listen(postgresql_engine, "before_cursor_execute", note)
    yield statements
    event.remove(postgresql_engine, "before_cursor_execute", note)


@on_postgresql
def test_what_is_copied_is_what_is_inserted(opened: Open, db: Any):
    """Byte for byte, by every driver, on a session and on an engine."""
    opened("inserted").store_vectors(rows(600), batch_size=INSERTED)
    opened("copied").store_vectors(rows(600), batch_size=600)
    stored = rows_of(db, STORED.format("copied"))
    assert len(stored) == 600
    assert stored == rows_of(db, STORED.format("inserted"))


@on_postgresql
def test_texts_and_bytes_are_copied_and_then_found(opened: Open):
    """`embed_multi` knows which rows are new; a second time nothing is to be done."""
    model = DeterministicModel()
    model.supports_binary = True
    docs = opened(model=model)
    items: list[Any] = [(f"{n:03}", f"text {n}") for n in range(249)]
    items.append(("bytes", b"\x00\xff"))
    docs.embed_multi(items, store=True, batch_size=250)
    assert docs.count() == 250
    assert docs.get("bytes").content_blob == b"\x00\xff"  # type: ignore[union-attr]
    assert docs.similar("text 7", number=1)[0].id == "007"
    docs.embed_multi([*items, ("new", "another")], batch_size=300)
    assert docs.count() == 251
    assert len([text for call in model.calls for text in call]) == 252  # and the question


def test_they_are_copied(postgresql_engine: Engine, inserted: list[str]):
    """No INSERT is sent for many new rows; one is for few, and for rows that are there."""
    docs = Collection("docs", postgresql_engine, model_id="local")
    docs.store_vectors(rows(600), batch_size=600)
    assert not inserted
    docs.store_vectors(rows(600), batch_size=600)
    assert inserted


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_what_is_looked_for_is_read_once(postgresql_engine: Engine, driver: str):
    """Many ids, and many hashes, are an array before rows are read, in a table of any statistics.

    If the array were made of its text in the condition, it would be made for each row.
    """
    plans: list[str] = []

    def explain(*arguments: Any) -> None:
        connection, cursor, sql, parameters = arguments[:4]
        if "any(" in sql and not sql.startswith("EXPLAIN"):
            cursor.execute("SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off")
            found = connection.exec_driver_sql(f"EXPLAIN {sql}", parameters).scalars()
            plans.append("\n".join(found))

    engine = create_engine(postgresql_engine.url.set(drivername=f"postgresql+{driver}"))
    docs = Collection("docs", engine, model=DeterministicModel())
    docs.embed("a", "hound")
    event.listen(engine, "before_cursor_execute", explain)
    docs.embed_multi([("b", "hound"), ("c", "it's a cat, 100 %")])
    docs.get_many(["a", "it's", "50 %"])
    docs.similar("hound", among=["a", "b"])
    docs.delete_items(["a", "b"])
    engine.dispose()
    looked_for = [each for plan in plans for each in re.findall(r"(?<== ANY ).*", plan)]
    assert {"text", "bytea"} == {each.split("::")[-1].partition("[")[0] for each in looked_for}
    assert len(looked_for) >= 6
    for array in looked_for:
        assert re.match(r"\('\{.*\}'::(text|bytea)\[\]\)", array)


def test_a_plan_that_was_made_while_the_table_was_empty(postgresql_engine: Engine):
    """It reads the whole table later, but looks each row up, and compares it with no list."""
    plans: list[str] = []

    def explain(*arguments: Any) -> None:
        connection, _, sql, parameters = arguments[:4]
        if "any(" in sql and not sql.startswith("EXPLAIN"):
            numbers = {name: f"${number}" for number, name in enumerate(parameters, 1)}
            found = connection.exec_driver_sql(
                f"EXPLAIN (GENERIC_PLAN) {sql % numbers}".replace("%", "%%")
            )
            plans.append("\n".join(found.scalars()))

    docs = Collection("docs", postgresql_engine, model=DeterministicModel())
    docs.create_text_index()
    docs.embed("a", "hound")
    docs.delete_items(["a"])
    with postgresql_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE embeddings"))
    event.listen(postgresql_engine, "before_cursor_execute", explain)
    docs.embed_multi(((str(number), f"text {number}") for number in range(600)), batch_size=300)
    event.remove(postgresql_engine, "before_cursor_execute", explain)
    assert all("hashed SubPlan" in plan for plan in plans)
    conditions = [line for plan in plans for line in re.findall(r"Filter: .*= ANY.*", plan)]
    assert conditions
    for condition in conditions:
        assert condition.find("hashed SubPlan") < condition.find("= ANY")


@pytest.mark.parametrize("number", [20, 120])
def test_vectors_that_are_replaced_are_not_read(postgresql_engine: Engine, number: int):
    """Only that of a row of the same content is: to know that its length is right."""
    fetched = text(
        "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_xact_all_tables WHERE relid = "
        "(SELECT reltoastrelid FROM pg_class WHERE oid = 'embeddings'::regclass)"
    )
    ids = [f"{n:03}" for n in range(number)]
    model = Wide()
    Collection("docs", postgresql_engine, model=model).embed_multi((id, f"{id} old") for id in ids)
    for content, is_read in (("new", False), ("old", True)):
        with Session(postgresql_engine) as session:
            docs = Collection("docs", session, model=model)
            before = session.scalar(fetched)
            plan = docs.plan((id, f"{id} {content}") for id in ids)
            assert len(plan.new) == (0 if is_read else number)
            # Each look at the collection's row fetches one, for the dimensions.
            assert (session.scalar(fetched) - before >= number * 4) is is_read


def test_another_writer_has_one_of_the_ids(postgresql_engine: Engine, inserted: list[str]):
    """It is waited for, and then its row is replaced: the last write wins."""
    docs = Collection("docs", postgresql_engine, model_id="local")
    mine = rows(600)
    docs.store_vectors([("first", mine[0][1])])  # the collection, and its dimensions
    with ThreadPoolExecutor(1) as pool, postgresql_engine.connect() as other:
        other.execute(
            text(
                "INSERT INTO embeddings (collection_id, id, embedding, content) "
                "SELECT collection_id, 'é 7', embedding, 'of the other' FROM embeddings"
            )
        )
        writing = pool.submit(docs.store_vectors, mine, 600)
        with postgresql_engine.connect() as watching:
            blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            while not watching.scalar(text(blocked)) and not writing.done():
                watching.rollback()
        other.commit()
        writing.result()
    assert docs.count() == 601
    assert docs.get("é 7").content == mine[7][3]  # type: ignore[union-attr]
    # The collection's first row, the other writer's, and those that could not be copied.
    assert len(inserted) == 3


def test_values_of_a_hosts_own_columns(postgresql_engine: Engine):
    """However many rows there are, and whatever writes them."""
    Base.metadata.create_all(postgresql_engine)
    try:
        docs = Collection("docs", postgresql_engine, model=DeterministicModel(), records=RECORDS)
        docs.store_vectors(rows(600), batch_size=600, extra={"tenant": "a"})
        texts = [(f"{n}", f"text {n}") for n in range(600)]
        docs.embed_multi(texts, batch_size=600, extra={"tenant": "b"})
        plan = docs.plan([(f"p{n}", f"text {n}") for n in range(300)], extra={"tenant": "c"})
        docs.apply(plan)
        with postgresql_engine.connect() as connection:
            counted = "SELECT tenant, count(*) FROM copied_embeddings GROUP BY 1 ORDER BY 1"
            found = [tuple(row) for row in connection.execute(text(counted))]
        assert found == [("a", 600), ("b", 600), ("c", 300)]
    finally:
        Base.metadata.drop_all(postgresql_engine)


def test_a_connection_that_commits_each_statement(postgresql_engine: Engine, inserted: list[str]):
    """There is no savepoint in AUTOCOMMIT, and so no COPY."""
    with postgresql_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        docs = Collection("docs", connection, model_id="local")
        docs.store_vectors(rows(600), batch_size=600)
    assert docs.name in Collection.names(postgresql_engine)
    assert inserted


def test_a_table_that_takes_no_copy(postgresql_engine: Engine, inserted: list[str]):
    """Row-level security, for one, refuses COPY; INSERT does as the policy says."""
    docs = Collection("docs", postgresql_engine, model_id="local")
    with postgresql_engine.begin() as connection:
        connection.execute(text("ALTER TABLE embeddings ENABLE ROW LEVEL SECURITY"))
        connection.execute(text("CREATE ROLE no_copy"))
        connection.execute(text("GRANT ALL ON collections, embeddings TO no_copy"))
        connection.execute(text("GRANT ALL ON SEQUENCE collections_id_seq TO no_copy"))
        connection.execute(text("CREATE POLICY p ON embeddings TO no_copy USING (id <> 'secret')"))
    try:
        with postgresql_engine.begin() as connection:
            connection.execute(text("SET LOCAL ROLE no_copy"))
            Collection("docs", connection, model_id="local").store_vectors(rows(600), 600)
    finally:
        with postgresql_engine.begin() as connection:
            connection.execute(text("DROP POLICY p ON embeddings"))
            connection.execute(text("ALTER TABLE embeddings DISABLE ROW LEVEL SECURITY"))
            connection.execute(text("DROP OWNED BY no_copy"))
            connection.execute(text("DROP ROLE no_copy"))
    assert docs.count() == 600
    assert inserted


@on_postgresql
def test_ids_of_every_making_travel_in_one_parameter(opened: Open, model: DeterministicModel):
    """Quotes, braces, backslashes and the word NULL mean nothing in it, and hashes neither."""
    ids = ['"', "\\", '\\"', "NULL", "{a,b}", "a,b", " ", "é\n'", "\\x41"]
    docs = opened(model=model)
    docs.embed_multi([(id, f"text of {id}") for id in ids])
    docs.embed_multi([(f"{id}!", f"text of {id}") for id in ids])
    assert docs.embed_multi([(id, f"text of {id}") for id in ids]).unchanged == len(ids)
    assert [len(call) for call in model.calls] == [len(ids)]
    assert [record.id for record in docs.get_many(ids) if record] == ids
    assert docs.delete_items(ids) == len(ids)
    assert docs.ids() == sorted(f"{id}!" for id in ids)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_rows_of_several_statements_are_replaced_in_order(postgresql_engine: Engine, driver: str):
    """More than a megabyte, new ids among them."""
    texts = {f"{n:02}": f"{n} " + '"\\é' * 20_000 for n in range(30)}
    engine = create_engine(postgresql_engine.url.set(drivername=f"postgresql+{driver}"))
    docs = Collection("docs", engine, model=DeterministicModel())
    docs.embed_multi([(id, "as it was") for id in texts if int(id) % 3], store=True)
    docs.embed_multi(texts.items(), store=True)
    assert {record.id: record.content for record in docs} == texts
    made = DeterministicModel().embed(texts["07"])
    record = docs.get("07")
    assert record is not None
    assert record.embedding.tolist() == made
    engine.dispose()


def test_the_text_of_an_array():
    """Values that are looked at one by one, and those that are not."""
    assert as_array(["a", ""]) == '{"a",""}'
    assert as_array(["a", 'b"', "c\\"]) == r'{"a","b\"","c\\"}'
    assert as_array([b"a\0", b""]) == r'{"\\x6100","\\x"}'
    assert as_array([None, b"a", 1, "x"]) == r'{NULL,"\\x61",1,"x"}'
    assert as_array([]) == "{}"


def test_a_row_is_written_once_with_its_words(postgresql_engine: Engine):
    """A second version of it would be put into each index once more, and into that of vectors."""
    docs = Collection("docs", postgresql_engine, model=DeterministicModel())
    docs.create_text_index()
    docs.embed_multi([(str(n), f"old {n}") for n in range(5)])
    written: list[str] = []

    def note(*arguments: Any) -> None:
        if re.match("(INSERT INTO|UPDATE) embeddings", arguments[2]):
            written.append(arguments[2])

    event.listen(postgresql_engine, "before_cursor_execute", note)
    docs.embed_multi([(str(n), f"new {n}") for n in range(5)])
    event.remove(postgresql_engine, "before_cursor_execute", note)
    assert len(written) == 1
    assert [entry.id for entry in docs.similar("new 3", words=True, weights=(0, 1), number=1)] == [
        "3"
    ]
    assert docs.similar("old", words=True, weights=(0, 1)) == []


def test_words_stay_where_the_same_content_comes_without_its_text(postgresql_engine: Engine):
    """A vector from elsewhere, of a content whose text is not at hand."""
    docs = Collection("docs", postgresql_engine, model=DeterministicModel())
    docs.create_text_index()
    docs.embed("a", "needle")
    other = Collection("other", postgresql_engine, model=DeterministicModel())
    other.embed("a", "needle", metadata={"n": 1})
    assert other.copy_to(docs).reused == 1
    assert [record.metadata_ for record in docs] == [{"n": 1}]
    assert [entry.id for entry in docs.similar("needle", words=True, weights=(0, 1))] == ["a"]

"""The tables on several servers: what is checked before, and, where there is Citus, all of it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, create_engine, delete, event, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

from embeddings import Collection, EmbeddingRecord, ModelCollection, SchemaError, migrate
from embeddings.cli import embeddings as program
from embeddings.databases.postgresql import citus
from embeddings.tables.migrate import downgrade, is_migrated
from embeddings.testing import DeterministicModel
from tests.reaching import CITUS_URL, on_citus

if TYPE_CHECKING:
    from collections.abc import Iterator


class Base(DeclarativeBase):
    """The host's."""


class Note(Base):
    """What a collection follows."""

    __tablename__ = "citus_notes"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    title: Mapped[str]
    lang: Mapped[str | None]
    published: Mapped[bool] = mapped_column(default=True)


KEPT = {
    "local": None,
    "known": "SELECT citus_add_local_table_to_metadata('citus_notes')",
    "reference": "SELECT create_reference_table('citus_notes')",
    "distributed": "SELECT create_distributed_table('citus_notes', 'id')",
}
"""How the host's table is kept, and the SQL for it."""
on_real_citus = pytest.mark.skipif(CITUS_URL is None, reason="EMBEDDINGS_CITUS_URL names none")


def test_without_citus(postgresql_engine: Engine, engine: Engine):
    """The error says what is missing, and nothing is changed; on SQLite that there is no such."""
    with postgresql_engine.connect() as connection:
        if connection.scalar(text("SELECT 1 FROM pg_extension WHERE extname = 'citus'")):
            return
        with pytest.raises(ValueError, match="'collection' or 'item', not 'id'"):
            citus.distribute(connection, by="id")  # type: ignore[arg-type]
        for change in (citus.distribute, citus.undistribute):
            with pytest.raises(SchemaError, match="CREATE EXTENSION citus"):
                change(connection)
    for url, told in ((postgresql_engine.url, "CREATE EXTENSION citus"), (engine.url, "on sqlite")):
        database = url.render_as_string(hide_password=False)
        for arguments in (["--by", "item"], ["--undo"]):
            result = CliRunner().invoke(program, ["--database", database, "distribute", *arguments])
            assert result.exit_code == 1
            assert told in result.output


@contextmanager
def distributed(by: Any) -> Iterator[Engine]:
    assert CITUS_URL is not None
    with on_citus(CITUS_URL, by) as url:
        engine = create_engine(url, poolclass=NullPool)
        yield engine
        engine.dispose()


@on_real_citus
@pytest.mark.parametrize("by", ["collection", "item"])
def test_rows_stay_there_and_back(by: Any):
    """Distributed with rows and an index in them, twice, and brought back."""
    with distributed(by) as engine:
        with engine.begin() as connection:
            citus.undistribute(connection)
        docs = Collection("docs", engine, model=DeterministicModel())
        docs.embed_multi((f"{n:03d}", f"text {n}") for n in range(300))
        docs.create_index()
        right = [entry.id for entry in docs.similar("text 7", exact=True)]
        for _ in range(2):
            with engine.begin() as connection:
                citus.distribute(connection, by)
                assert citus.distributed_by(connection) == by
        other = "item" if by == "collection" else "collection"
        with engine.begin() as connection, pytest.raises(SchemaError, match="undistribute"):
            citus.distribute(connection, other)  # type: ignore[arg-type]
        assert docs.count() == 300
        assert [entry.id for entry in docs.similar("text 7")] == right
        with engine.begin() as connection:
            citus.undistribute(connection)
            assert citus.distributed_by(connection) is None
        assert docs.count() == 300
        assert [entry.id for entry in docs.similar("text 7")] == right


@on_real_citus
@pytest.mark.parametrize("by", ["collection", "item"])
def test_what_a_collection_does(by: Any):
    """Writes, searches, filters, words, deletes and renames, all from one piece."""
    with distributed(by) as engine:
        model = DeterministicModel()
        docs = Collection("docs", engine, model=model)
        texts = {f"{n:03d}": f"text number {n}" for n in range(700)}
        assert docs.embed_multi(texts.items(), store=True).embedded == 700
        assert docs.embed_multi(texts.items()).unchanged == 700
        changed = ((id, f"{text}!") for id, text in texts.items())
        assert docs.embed_multi(changed, store=True).embedded == 700
        docs.create_index()
        vector = model.embed_batch(["text number 12!"])[0]
        with Session(engine) as session:
            inside = Collection("docs", session, model=model)
            right = inside.similar_by_vector(vector, 20, exact=True)
            found = inside.similar_by_vector(vector, 20)
            assert np.isin([each.id for each in found], [each.id for each in right]).mean() >= 0.9
            assert len(inside.similar_by_vector(vector, 20, where=EmbeddingRecord.id > "690")) == 9
            assert len(inside.similar_by_vector(vector, 20, among=["001", "002", "x"])) == 2
            assert len(session.execute(inside.matches_by_vector(vector, 5).select()).all()) == 5
            inside.embed_multi((f"rolled back {n}", f"{n}") for n in range(200))
            session.rollback()
        assert docs.count() == 700
        docs.create_text_index()
        assert docs.similar("number 12", words=True)[0].ranks is not None
        assert docs.delete_items(prefix="00") == 10
        assert docs.delete_items([f"{n:03d}" for n in range(5, 15)]) == 5
        copy = Collection("copy", engine, model=model)
        assert docs.copy_to(copy).reused == 685
        docs.rename("papers")
        docs.drop_text_index()
        docs.delete()
        assert (Collection.names(engine), copy.count()) == (["copy"], 685)


@on_real_citus
@pytest.mark.parametrize("by", ["collection", "item"])
def test_settings_of_a_search_by_the_index_reach_the_servers(by: Any):
    """As many candidates are looked at there, so that recall is what it is on one."""
    with distributed(by) as engine:
        chance = np.random.default_rng(0)
        vectors = chance.standard_normal((3_000, 32)).astype("f4")
        docs = Collection("docs", engine, model_id="a model")
        docs.store_vectors((f"{n:04d}", vector) for n, vector in enumerate(vectors))
        docs.create_index(m=4, ef_construction=16)
        hits = 0
        for query in chance.standard_normal((20, 32)):
            right = {each.id for each in docs.similar_by_vector(query, exact=True)}
            found = docs.similar_by_vector(query)
            assert not found.exact
            hits += len(right & {each.id for each in found})
        assert hits / 200 >= 0.85  # with pgvector's own 40 candidates it is 0.6


@on_real_citus
@pytest.mark.parametrize("by", ["collection", "item"])
def test_rows_are_followed(by: Any):
    """However the host's table is kept `sync` and `refresh` bring in what differs.

    Triggers are made on what stays on the coordinator; of the rest it is said that `sync` is for
    it, and nothing is made.
    """
    model = DeterministicModel()
    notes = ModelCollection(
        Note,
        text=[Note.title],
        metadata=[Note.lang],
        where=Note.published,
        name="notes",
        model=model,
    )

    def change(engine: Engine, first: int) -> None:
        with engine.begin() as connection:
            connection.execute(update(Note).where(Note.id == first).values(title=f"new {first}"))
            connection.execute(update(Note).where(Note.id == first + 1).values(lang="fr"))
            connection.execute(update(Note).where(Note.id == first + 2).values(published=False))
            connection.execute(delete(Note).where(Note.id == first + 3))
            connection.execute(insert(Note), [{"id": first + 100, "title": f"added {first}"}])

    def found(report: Any) -> Any:
        return report.stale, report.missing, tuple(sorted(report.orphaned))

    with distributed(by) as engine:
        for kept, statement in KEPT.items():
            Base.metadata.drop_all(engine)
            Base.metadata.create_all(engine)
            with engine.begin() as connection:
                connection.execute(text(statement or "SELECT 1"))
            with engine.begin() as connection:
                rows = [{"id": n, "title": f"title {n}"} for n in range(1, 60)]
                connection.execute(insert(Note), rows)
            assert notes.sync(engine).embedded == 59
            change(engine, 1)
            assert found(notes.sync(engine, dry_run=True)) == ((1, 2), (101,), (3, 4))
            report = notes.refresh(engine, keys=[1, 2, 3])
            assert (report.embedded, report.reused, report.removed) == (1, 1, 1)
            report = notes.sync(engine)
            assert (report.embedded, report.removed) == (1, 1)
            assert found(notes.sync(engine, dry_run=True)) == ((), (), ())
            with Session(engine) as session:
                session.add(Note(id=500, title="within a transaction"))
                assert notes.sync(session).embedded == 1
                session.rollback()
            if kept in {"local", "known"}:
                notes.install(engine)
                change(engine, 11)
                assert notes.trigger_problems(engine) == []
                report = notes.refresh(engine)
                assert (report.embedded, report.pending) == (2, 0)
            else:
                with pytest.raises(SchemaError, match=f"a {kept} table of Citus.*sync()"):
                    notes.install(engine)
                [problem] = notes.trigger_problems(engine)
                assert "sync()" in problem
                change(engine, 11)
                assert notes.sync(engine).embedded == 2
            assert found(notes.sync(engine, dry_run=True)) == ((), (), ())
            with Session(engine) as session:
                chosen = select(Note).where(Note.id > 20)
                nearest = notes.nearest(session, "added 11", chosen, number=2)
                assert nearest[0][0].id == 111
            notes.uninstall(engine)
            notes.collection(engine).delete()
            Base.metadata.drop_all(engine)


END = text(
    "SELECT run_command_on_workers($$SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE datname = current_database() AND application_name LIKE 'citus_internal%' "
    "AND pid <> pg_backend_pid()$$)"
)


@on_real_citus
@pytest.mark.parametrize("by", ["collection", "item"])
def test_a_server_that_fails_in_a_batch(by: Any):
    """The error passes through; a batch is there or not, and a second run does the rest."""
    with (
        distributed(by) as engine,
        create_engine(engine.url, poolclass=NullPool).connect() as other,
    ):
        model = DeterministicModel()
        docs = Collection("docs", engine, model=model)
        docs.embed("first", "a text")
        texts = [(f"{n:04d}", f"text {n}") for n in range(1_000)]
        is_over: list[bool] = []

        @event.listens_for(engine, "commit")
        def on_commit(_: Any) -> None:
            if len(model.calls) >= 5 and not is_over:  # the first text, and four batches
                other.execute(END)

        with pytest.raises(DBAPIError):
            docs.embed_multi(texts, batch_size=100)
        is_over.append(True)
        there = docs.count() - 1
        assert 0 < there < 1_000
        assert there % 100 == 0
        report = docs.embed_multi(texts, batch_size=100)
        assert (report.unchanged, report.embedded) == (there, 1_000 - there)
        assert docs.count() == 1_001


@on_real_citus
def test_both_ways_and_migrations_on_one_connection():
    """Settings of the way before do not matter; both tables are changed where they are."""
    with distributed("collection") as engine, engine.connect() as connection:
        for by in ("item", "collection"):
            with connection.begin():
                citus.undistribute(connection)
            with connection.begin():
                citus.distribute(connection, by)
        with connection.begin():
            downgrade(connection, "emb_0004")
            assert not is_migrated(connection)
            migrate(connection)
            assert is_migrated(connection)
        docs = Collection("docs", engine, model=DeterministicModel())
        docs.embed_multi([("a", "a text")])
        assert docs.delete_items(["a"]) == 1


@on_real_citus
def test_the_tables_are_checked_before():
    """What Citus does not distribute is named, and nothing is done."""
    with distributed("collection") as engine, engine.connect() as connection:
        citus.undistribute(connection)
        connection.execute(text("CREATE TABLE theirs (id int REFERENCES collections (id))"))
        with pytest.raises(SchemaError, match="theirs has a foreign key"):
            citus.distribute(connection)
        connection.rollback()
        assert citus.distributed_by(connection) == "collection"

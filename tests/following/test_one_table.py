"""Declarations of one name on several tables, of which the triggers follow one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, ForeignKey, create_engine, event, insert, inspect, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import embeddings
from embeddings import ModelCollection, SchemaError
from embeddings.following.commands import check
from embeddings.testing import DeterministicModel
from tests.reaching import is_postgresql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REFUSED = (
    "'notes' follows the rows of 'one_notes', so it cannot have those of 'one_memos'"
    ".*another name.*uninstall"
)
OTHER_MODEL = DeterministicModel("other")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Each database, without the host's tables at the beginning and at the end."""
    engine = request.getfixturevalue("engine" if request.param == "sqlite" else "postgresql_engine")
    yield engine
    if is_postgresql(engine):
        clear(engine)


def clear(engine: Engine) -> None:
    declared("one_notes").uninstall(engine)
    with engine.begin() as connection:
        if "one_notes" in inspect(connection).get_view_names():
            connection.execute(text("DROP VIEW one_notes"))
        connection.execute(text("DROP TABLE IF EXISTS one_notes, one_memos, one_parts CASCADE"))


def declared(table: str, schema: str | None = None) -> ModelCollection[Any]:
    """Return a declaration of a program that knows no other."""

    class Base(DeclarativeBase):
        pass

    class Note(Base):
        __tablename__ = table
        __table_args__ = {"schema": schema}  # noqa: RUF012
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        words: Mapped[str]

    return ModelCollection(Note, text=[Note.words], name="notes", model=DeterministicModel())


def fill(engine: Engine, notes: ModelCollection[Any], *words: str) -> None:
    with engine.begin() as connection:
        notes.source.metadata.create_all(connection)
        rows = [{"id": id, "words": each} for id, each in enumerate(words, 1)]
        connection.execute(insert(notes.source), rows)


def vectors(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        found = connection.execute(text("SELECT id, embedding FROM embeddings ORDER BY id"))
        return [
            (id, bytes(vector) if isinstance(vector, bytes) else vector) for id, vector in found
        ]


WRITES: dict[str, Callable[[ModelCollection[Any], Any], object]] = {
    "sync": lambda notes, db: notes.sync(db),
    "refresh": lambda notes, db: notes.refresh(db),
    "of keys": lambda notes, db: notes.refresh(db, keys=[1]),
    "reembed": lambda notes, db: notes.reembed(db, OTHER_MODEL),
    "back": lambda notes, db: notes.back(db),
    "drop_previous": lambda notes, db: notes.drop_previous(db),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_declaration_on_another_table(
    database: Engine, write: Callable[[ModelCollection[Any], Any], object]
):
    """What is of the followed table is neither replaced nor removed, and no model is called."""
    first, second = declared("one_notes"), declared("one_memos")
    fill(database, first, "secret 1", "secret 2")
    fill(database, second, "public 1")
    first.install(database)
    assert first.sync(database).embedded == 2
    before, calls = vectors(database), len(OTHER_MODEL.calls)
    with pytest.raises(SchemaError, match=REFUSED):
        write(second, database)
    with Session(database) as session, pytest.raises(SchemaError, match=REFUSED):
        write(second, session)
    assert vectors(database) == before
    assert not second.model.calls  # type: ignore[union-attr]
    assert len(OTHER_MODEL.calls) == calls
    shown, is_good = check(database, [second])
    assert not is_good
    assert "the table 'one_notes' is followed, which is not declared" in shown
    assert first.sync(database).unchanged == 2

    second.uninstall(database)  # it takes the place of the other
    assert second.sync(database).removed == 1


def test_awaited(engine: Engine):
    """Likewise."""
    first, second = declared("one_notes"), declared("one_memos")
    fill(engine, first, "secret 1")
    fill(engine, second, "public 1")
    first.install(engine)

    async def told() -> None:
        there = create_async_engine(engine.url.set(drivername="sqlite+aiosqlite"))
        for write in (second.async_, second.arefresh):
            with pytest.raises(SchemaError, match=REFUSED):
                await write(there)
        with pytest.raises(SchemaError, match=REFUSED):
            await second.arefresh(there, keys=[1])
        await there.dispose()

    asyncio.run(told())


@pytest.mark.parametrize("view", [False, True], ids=["", "a view of its old name"])
def test_a_table_that_was_renamed(database: Engine, *, view: bool):
    """Its triggers went with it, and name it as it was called: nothing is refused."""
    first, renamed = declared("one_notes"), declared("one_memos")
    fill(database, first, "one", "two")
    first.install(database)
    first.sync(database)
    with database.begin() as connection:
        connection.execute(text("ALTER TABLE one_notes RENAME TO one_memos"))
        if view:
            connection.execute(text("CREATE VIEW one_notes AS SELECT * FROM one_memos"))
    assert renamed.sync(database).unchanged == 2
    assert renamed.refresh(database, keys=[1]).unchanged == 1
    renamed.refresh(database)
    renamed.install(database)
    assert renamed.trigger_problems(database) == []


def test_tables_of_one_class(database: Engine):
    """Of joined tables, those whose columns the text was made of once are followed still."""

    class Base(DeclarativeBase):
        pass

    class Note(Base):
        __tablename__ = "one_notes"
        id: Mapped[int] = mapped_column(primary_key=True)
        words: Mapped[str]

    class Part(Note):
        __tablename__ = "one_parts"
        id: Mapped[int] = mapped_column(ForeignKey(Note.id), primary_key=True)
        heading: Mapped[str]

    model = DeterministicModel()
    parts = ModelCollection(Part, text=[Note.words], name="notes", model=model)
    with database.begin() as connection:
        Base.metadata.create_all(connection)
    parts.install(database)
    with Session(database) as session:
        session.add(Part(id=1, words="one", heading="first"))
        session.commit()
    parts = ModelCollection(Part, text=[Part.heading], name="notes", model=model)
    assert parts.sync(database).embedded == 1
    assert parts.refresh(database, keys=[1]).unchanged == 1


def test_partitions(postgresql_engine: Engine):
    """The table is the one that is partitioned; one of its partitions has not all of its rows."""
    engine = postgresql_engine
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE one_notes (id int PRIMARY KEY, words text) PARTITION BY LIST (id);"
                "CREATE TABLE one_memos PARTITION OF one_notes FOR VALUES IN (1);"
                "CREATE TABLE one_parts PARTITION OF one_notes DEFAULT"
            )
        )
    try:
        notes, part = declared("one_notes"), declared("one_memos")
        notes.install(engine)
        fill(engine, notes, "one", "two")
        assert notes.sync(engine).embedded == 2
        assert notes.refresh(engine, keys=[1]).unchanged == 1
        notes.refresh(engine)
        with pytest.raises(SchemaError, match=REFUSED):
            part.sync(engine)
    finally:
        clear(engine)


def test_one_table_by_two_names_of_its_schema(postgresql_engine: Engine):
    """Whether a declaration names the schema or the search path has it, it is the same table."""
    engine = postgresql_engine
    first, second = declared("one_notes"), declared("one_notes", "public")
    fill(engine, first, "one")
    try:
        first.install(engine)
        assert first.sync(engine).embedded == 1
        assert second.sync(engine).unchanged == 1
        second.install(engine)
        assert first.refresh(engine, keys=[1]).unchanged == 1
    finally:
        clear(engine)


def test_schemas_of_tenants(postgresql_engine: Engine):
    """Each has tables of its own, ours too, by a schema map; the declaration names no schema."""
    engine, notes = postgresql_engine, declared("one_notes")
    tenants = [
        engine.execution_options(schema_translate_map={None: schema}) for schema in ("one", "two")
    ]
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA one; CREATE SCHEMA two"))
    try:
        for tenant in tenants:
            embeddings.migrate(tenant)
            fill(tenant, notes, "one", "two")
        for tenant in tenants:
            notes.install(tenant)
            assert notes.trigger_problems(tenant) == []
        for tenant in tenants:
            assert notes.sync(tenant).embedded == 2
            assert notes.refresh(tenant, keys=[1]).unchanged == 1
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP SCHEMA one CASCADE; DROP SCHEMA two CASCADE"))


@pytest.fixture
def reader(postgresql_engine: Engine) -> Iterator[Engine]:
    """A role that may do all to the tables in the schema public, and nothing elsewhere."""
    engine = postgresql_engine
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE ROLE one_reader LOGIN PASSWORD 'reader'; CREATE SCHEMA elsewhere; "
                "GRANT ALL ON ALL TABLES IN SCHEMA public TO one_reader; "
                "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO one_reader; "
                "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO one_reader"
            )
        )
    role = create_engine(engine.url)

    @event.listens_for(role, "connect")
    def become(raw: Any, _: object) -> None:
        raw.execute("SET SESSION AUTHORIZATION one_reader")
        raw.commit()

    yield role
    role.dispose()
    clear(engine)
    with engine.begin() as connection:
        connection.execute(
            text(
                "GRANT SELECT ON pg_proc TO PUBLIC; DROP SCHEMA elsewhere CASCADE; "
                "DROP OWNED BY one_reader; DROP ROLE one_reader"
            )
        )


def test_a_role_that_may_not_read_the_catalog(postgresql_engine: Engine, reader: Engine):
    """It is told nothing of triggers, and everything else goes on."""
    notes = declared("one_notes")
    fill(postgresql_engine, notes, "one", "two")
    notes.install(postgresql_engine)
    with postgresql_engine.begin() as connection:
        connection.execute(text("REVOKE SELECT ON pg_proc FROM PUBLIC"))
    embeddings.migrate(reader)
    assert notes.sync(reader).embedded == 2
    assert notes.refresh(reader, keys=[1]).unchanged == 1
    with Session(reader) as session:
        assert notes.refresh(session, keys=[1]).unchanged == 1
        session.commit()
    assert notes.refresh(reader).pending == 0
    [told] = notes.trigger_problems(reader)
    assert "without SELECT on pg_proc" in told


def test_a_role_that_may_not_use_the_other_schema(postgresql_engine: Engine, reader: Engine):
    """It is refused as any other: what the triggers are on is seen in the catalog."""
    first, second = declared("one_notes", "elsewhere"), declared("one_memos")
    fill(postgresql_engine, first, "secret 1")
    fill(postgresql_engine, second, "public 1")
    first.install(postgresql_engine)
    with pytest.raises(SchemaError, match=REFUSED):
        second.sync(reader)


def test_one_table_in_another_case(engine: Engine):
    """SQLite takes names for the same in any case, and "main" for the schema of who names none."""
    notes = declared("one_notes")
    fill(engine, notes, "one")
    notes.install(engine)
    assert notes.sync(engine).embedded == 1
    for again in (declared("ONE_Notes"), declared("one_notes", "main")):
        assert again.sync(engine).unchanged == 1
        assert again.refresh(engine, keys=[1]).unchanged == 1

"""`op.follow_rows`: from literals, with its reverse, in scripts, and by autogenerate."""

from __future__ import annotations

import io
import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata, produce_migrations, render_python_code
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import (
    Connection,
    Engine,
    Index,
    String,
    UniqueConstraint,
    and_,
    create_engine,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import embeddings
from embeddings import ModelCollection, Report, SchemaError
from embeddings.following.triggers import as_sql, follows_of
from embeddings.testing import DeterministicModel
from tests.reaching import empty_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from alembic.operations.ops import MigrationScript
    from sqlalchemy import URL, Dialect
    from sqlalchemy.types import TypeEngine


@pytest.fixture
def database(own_database: str) -> Iterator[Engine]:
    """A database of its own on each, with our tables."""
    engine = create_engine(own_database)
    yield engine
    engine.dispose()


def hosts(**options: Any) -> tuple[type[DeclarativeBase], type[Any]]:
    class Base(DeclarativeBase):
        pass

    class Article(Base):
        __tablename__ = "op_articles"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]
        body: Mapped[str | None]
        slug: Mapped[str | None] = mapped_column(unique=True)
        published: Mapped[bool] = mapped_column(default=True)

    return Base, Article


def context_of(connection: Connection, **options: Any) -> MigrationContext:
    return MigrationContext.configure(
        connection,
        opts={"include_object": embeddings.include_object, **options},
    )


def generated(connection: Connection, base: Any, **options: Any) -> tuple[str, MigrationScript]:
    script = produce_migrations(context_of(connection, **options), base.metadata)
    assert script.upgrade_ops is not None
    batch = bool(options.get("render_as_batch"))
    return render_python_code(script.upgrade_ops, render_as_batch=batch), script


def run(connection: Connection, source: str) -> None:
    """Execute the body of a revision."""
    code = "\n".join(line.strip() for line in source.splitlines() if "op.create_table" not in line)
    exec(code, {"op": Operations(context_of(connection)), "sa": sqlalchemy})  # noqa: S102


def pending(connection: Connection) -> list[tuple[str, str]]:
    rows = connection.execute(text("SELECT id, change FROM embeddings_pending ORDER BY seq"))
    return [(id, change) for id, change in rows]


WRITES = "INSERT INTO op_articles (id, title, published) VALUES ({}, 'one', true)"


def test_by_hand_and_back(database: Engine):
    """From literals; its reverse, by the same arguments; what is there is made anew."""
    base, _ = hosts()
    arguments: Any = {
        "key": "id",
        "columns": ["title", "body", "published"],
        "where": "published AND title <> '100% :x'",
        "collection": "articles",
    }
    with database.begin() as connection:
        base.metadata.create_all(connection)
        op: Any = Operations(context_of(connection))
        op.follow_rows("op_articles", **arguments)
        op.follow_rows("op_articles", **arguments)
        connection.execute(text(WRITES.format(1)))
        connection.execute(text("UPDATE op_articles SET title = '100% \\:x'"))
        assert pending(connection) == [("1", "written"), ("1", "removed")]
        op.unfollow_rows("op_articles", **arguments)
        connection.execute(text(WRITES.format(2)))
        assert len(pending(connection)) == 2


@pytest.mark.parametrize("given", [{"columns": "title"}, {"unique": ["slug"]}, {"unique": "slug"}])
def test_one_name_where_several_are_expected(given: dict[str, Any], database: Engine):
    """It is refused, and not read as the names of its letters."""
    arguments = {"key": "id", "columns": ["title"], "collection": "articles", **given}
    with database.connect() as connection:
        op: Any = Operations(context_of(connection))
        with pytest.raises(TypeError, match=next(iter(given))):
            op.follow_rows("op_articles", **arguments)


def test_a_collection_follows_the_rows_of_one_table(database: Engine):
    """Another table is refused, whoever asks, and what is there goes on; joined tables are one."""

    def of_table(name: str) -> ModelCollection[Any]:
        class Base(DeclarativeBase):
            pass

        class Note(Base):
            __tablename__ = name
            id: Mapped[int] = mapped_column(primary_key=True)
            words: Mapped[str]

        with database.begin() as connection:
            Base.metadata.create_all(connection)
        return ModelCollection(Note, text=[Note.words], name="notes")

    first, second = of_table("op_notes"), of_table("op_memos")
    first.install(database)
    error = (
        "'notes' follows the rows of 'op_notes', .* those of 'op_memos'.*another name.*uninstall"
    )
    with pytest.raises(SchemaError, match=error):
        second.install(database)
    literals: Any = {"key": "id", "columns": ["words"], "collection": "notes"}
    with database.connect() as connection:
        op: Any = Operations(context_of(connection))
        with pytest.raises(SchemaError, match=error):
            op.follow_rows("op_memos", **literals)
    with database.connect() as connection:
        op = Operations(context_of(connection))
        connection.execute(
            text("CREATE TABLE op_more (id int PRIMARY KEY REFERENCES op_notes (id), words text)")
        )
        op.follow_rows("op_more", **literals)
    assert first.trigger_problems(database) == []
    second.uninstall(database)
    second.install(database)
    assert second.trigger_problems(database) == []
    with database.begin() as connection:
        connection.execute(text("ALTER TABLE op_memos RENAME TO op_former"))
    first.install(database)


def test_autogenerate(database: Engine):
    """It writes what is declared, after the tables; and then nothing more; and what has changed.

    `alembic check` says so. A declaration that is gone, or triggers that differ, are written too.
    """
    base, article = hosts()
    where = article.published
    ModelCollection(article, text=[article.title], where=where, name="articles")
    literals = "'op_articles', key='id', columns={}, collection='articles', where='published'"
    unique = ", unique=[('slug',)]"
    with database.begin() as connection:
        source, script = generated(connection, base)
        assert source.index("create_table") < source.index("follow_rows")
        follow = f"op.follow_rows({literals.format(['title', 'published'])}{unique})"
        assert follow in source
        assert script.downgrade_ops is not None
        assert type(script.downgrade_ops.ops[0]).__name__ == "UnfollowRowsOp"
        base.metadata.create_all(connection)
        run(connection, follow)
        assert compare_metadata(context_of(connection), base.metadata) == []

        ModelCollection(article, text=[article.title, article.body], where=where, name="articles")
        source, _ = generated(connection, base)
        lines = [line.strip() for line in source.splitlines() if "follow_rows" in line]
        columns = ["title", "body", "published"]
        assert lines == [
            f"op.unfollow_rows({literals.format(['title', 'published'])}{unique})",
            f"op.follow_rows({literals.format(columns)}{unique})",
        ]
        run(connection, "\n".join(lines))
        assert compare_metadata(context_of(connection), base.metadata) == []
        nothing, _ = hosts()
        [difference] = compare_metadata(context_of(connection), nothing.metadata)
        assert difference == ("unfollow_rows", "op_articles", "articles")


def test_autogenerate_of_another_unique_key(database: Engine):
    """Up it names those that are declared by then, down those that were there."""
    base, article = hosts()
    with database.begin() as connection:
        base.metadata.create_all(connection)
        ModelCollection(article, text=[article.title], name="articles").install(connection)
        base, article = hosts()
        table = article.__table__
        [slug] = [each for each in table.constraints if isinstance(each, UniqueConstraint)]
        table.constraints.remove(slug)
        table.append_constraint(UniqueConstraint("title", "body", name="both"))
        Index("by_slug", table.c.slug, table.c.published, unique=True)
        ModelCollection(article, text=[article.title, article.body], name="articles")
        source, script = generated(connection, base)
        assert script.downgrade_ops is not None
        down = render_python_code(script.downgrade_ops)
        former, later = "unique=[('slug',)])", "unique=[('slug', 'published'), ('title', 'body')])"
        for body, unfollowed, followed in ((source, former, later), (down, later, former)):
            lines = [line for line in body.splitlines() if "follow_rows" in line]
            assert ["unfollow_rows" in line for line in lines] == [True, False]
            assert lines[0].endswith(unfollowed)
            assert lines[1].endswith(followed)


def test_a_new_declaration_makes_nothing_pending(database: Engine):
    """Triggers are made anew, and what the rows are to be by now is found by `sync`."""
    base, article = hosts()
    base.metadata.create_all(database)
    given: Any = {"name": "articles", "model": DeterministicModel()}
    old = ModelCollection(article, text=[article.title], **given)
    old.install(database)
    with database.begin() as connection:
        connection.execute(text("INSERT INTO op_articles VALUES (1, 'one', 'first', 's', true)"))
    assert old.refresh(database).embedded == 1
    new = ModelCollection(article, text=[article.title, article.body], **given)
    new.install(database)
    assert new.refresh(database) == Report()
    assert new.sync(database, dry_run=True).stale == (1,)
    assert new.sync(database).embedded == 1


def test_a_condition_on_booleans_is_the_same_on_every_database():
    """So a revision that was written on SQLite runs on PostgreSQL, and nothing differs there."""
    _, article = hosts()
    published = article.__table__.c.published
    for condition, expected in (
        (and_(published), "published"),
        (~published, "NOT published"),
        (published.is_(True), "published IS true"),
        (published == False, "published = false"),  # noqa: E712
    ):
        for kind in (sqlite.dialect, postgresql.dialect):
            dialect: Dialect = kind()
            assert as_sql(condition, dialect) == expected


def test_batch_mode_makes_the_triggers_anew(tmp_path: Path):
    """A table that SQLite makes anew loses its triggers: the same revision has them again."""
    engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    embeddings.migrate(engine)
    base, article = hosts()
    with engine.begin() as connection:
        base.metadata.create_all(connection)
        declared = ModelCollection(article, text=[article.title], name="articles")
        declared.install(connection)
        connection.execute(text("ALTER TABLE op_articles ADD COLUMN old TEXT"))
        source, script = generated(connection, base, render_as_batch=True)
        names = ["unfollow_rows", "batch_alter_table", "follow_rows"]
        places = [source.index(f"op.{name}") for name in names]
        assert places == sorted(places)
        op = Operations(context_of(connection))
        assert script.upgrade_ops is not None
        for operation in script.upgrade_ops.ops:
            for each in getattr(operation, "ops", [operation]):
                if each is operation:
                    op.invoke(each)
                    continue
                with op.batch_alter_table("op_articles", recreate="always") as batch:
                    batch.drop_column("old")
        assert declared.trigger_problems(connection) == []
    engine.dispose()


def test_another_type_of_a_counted_column(server: URL, tmp_path: Path):
    """PostgreSQL refuses it under triggers that name the column: they are dropped and made anew.

    The revision goes both ways. Other columns leave the triggers alone.
    """

    def typed(**types: TypeEngine[Any]) -> tuple[Any, ModelCollection[Any]]:
        class Base(DeclarativeBase):
            pass

        class Article(Base):
            __tablename__ = "op_articles"
            id: Mapped[str] = mapped_column(types.get("id", String(8)), primary_key=True)
            title: Mapped[str]
            lang: Mapped[str] = mapped_column(types.get("lang", String(8)))
            note: Mapped[str | None] = mapped_column(types.get("note", String(8)))

        columns: Any = {"text": [Article.title], "metadata": [Article.lang]}
        return Base, ModelCollection(Article, **columns, name="articles")

    around = ["unfollow_rows", "alter_column", "follow_rows"]
    with empty_database("postgresql", tmp_path, server) as url:
        engine = create_engine(url)
        embeddings.migrate(engine)
        with engine.begin() as connection:
            base, declared = typed()
            base.metadata.create_all(connection)
            declared.install(connection)
            types: Any
            for types, expected in (
                ({"lang": String(16)}, around),
                ({"id": String(16)}, around),
                ({"note": String(16)}, ["alter_column"]),
            ):
                base, declared = typed(**types)
                source, script = generated(connection, base)
                assert re.findall(r"op\.(\w+)", source) == expected
                assert script.downgrade_ops is not None
                for body in (source, render_python_code(script.downgrade_ops)):
                    run(connection, body)
                    assert declared.trigger_problems(connection) == []
        engine.dispose()


@pytest.mark.parametrize("name", ["sqlite", "postgresql"])
def test_a_script(name: str, tmp_path: Path, server: URL):
    """Offline the SQL is printed, and what it makes is what a connection makes."""
    base, article = hosts()
    where = article.title != "100% :x"
    declared = ModelCollection(article, text=[article.title], where=where, name="articles")
    with empty_database(name, tmp_path, server) as url:
        engine = create_engine(url)
        embeddings.migrate(engine)
        base.metadata.create_all(engine)
        [given] = follows_of(declared, engine.dialect)
        scripts = []
        for operation in ("follow_rows", "unfollow_rows"):
            buffer = io.StringIO()
            context = MigrationContext.configure(
                dialect_name=name, opts={"as_sql": True, "output_buffer": buffer}
            )
            values = dict(given.values)
            getattr(Operations(context), operation)(values.pop("table"), **values)
            scripts.append(buffer.getvalue())

        def executed(script: str) -> None:
            if name == "sqlite":
                with closing(sqlite3.connect(str(engine.url.database))) as connection:
                    connection.executescript(script)
                return
            with engine.begin() as connection:
                connection.exec_driver_sql(script, execution_options={"no_parameters": True})

        for _ in range(2):
            executed(scripts[0])
            assert declared.trigger_problems(engine) == []
            executed(scripts[1])
            assert declared.trigger_problems(engine) != []
        engine.dispose()

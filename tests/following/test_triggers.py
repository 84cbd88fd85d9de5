"""What triggers note of a change, whoever makes it; and what they cannot be made of."""

from __future__ import annotations

import json
import re
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    event,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

import embeddings
from embeddings import ModelCollection, SchemaError, databases
from embeddings.commands import status
from embeddings.databases.postgresql import PostgreSQL
from embeddings.databases.postgresql.pending import run
from embeddings.following import triggers
from embeddings.following.literals import Follow
from embeddings.overview import overview
from embeddings.tables.pending import pending_table
from embeddings.tables.records import RECORDS
from embeddings.testing import DeterministicModel
from tests.reaching import examples, is_postgresql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PENDING = pending_table(RECORDS)


class Base(DeclarativeBase):
    """The host's."""


class Author(Base):
    """Whose articles go with it."""

    __tablename__ = "noted_authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Article(Base):
    """What is followed."""

    __tablename__ = "noted_articles"
    __table_args__ = (Index("noted_lower", text("lower(code)"), unique=True),)
    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str | None] = mapped_column(unique=True)
    code: Mapped[str | None]
    title: Mapped[str] = mapped_column(String(collation=None))
    body: Mapped[str | None]
    lang: Mapped[str | None]
    published: Mapped[bool] = mapped_column(default=True)
    views: Mapped[int] = mapped_column(default=0)
    author_id: Mapped[int | None] = mapped_column(ForeignKey(Author.id, ondelete="CASCADE"))


class Chapter(Article):
    """Of joined inheritance, in a table of its own."""

    __tablename__ = "noted_chapters"
    id: Mapped[int] = mapped_column(ForeignKey(Article.id, ondelete="CASCADE"), primary_key=True)
    heading: Mapped[str]


class Animal(Base):
    """Of single inheritance."""

    __tablename__ = "noted_animals"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}  # noqa: RUF012
    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    words: Mapped[str]


class Dog(Animal):
    """In the table of the animals."""

    __mapper_args__ = {"polymorphic_identity": "dog"}  # noqa: RUF012


class Token(Base):
    """With a key that is a UUID."""

    __tablename__ = "noted_tokens"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    words: Mapped[str]


ARTICLE: Any = Article.__table__
ARTICLES: ModelCollection[Article] = ModelCollection(
    Article,
    text=[Article.title, Article.body],
    metadata=[Article.lang],
    where=Article.published,
    name="it's 100% :articles",
)
DOGS = ModelCollection(Dog, text=[Dog.words], name="dogs")
TOKENS = ModelCollection(Token, text=[Token.words], name="tokens")
CHAPTERS = ModelCollection(
    Chapter, text=[Chapter.heading, Article.title], where=Article.lang == "en", name="chapters"
)
ALL = (ARTICLES, DOGS, TOKENS, CHAPTERS)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """The host's tables beside ours, on each database, followed by nothing yet."""
    is_sqlite = request.param == "sqlite"
    engine = request.getfixturevalue("engine" if is_sqlite else "postgresql_engine")
    if is_sqlite:
        event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA foreign_keys = ON"))
    Base.metadata.create_all(engine)
    yield engine
    if not is_sqlite:
        for declared in ALL:
            declared.uninstall(engine)
        Base.metadata.drop_all(engine)


def settle(connection: Connection, declared: ModelCollection[Any]) -> None:
    """Embed what the rows say, with nothing pending."""
    docs = declared.collection(connection)
    docs.delete_items(docs.ids())
    rows = connection.execute(declared.rows()).all()
    docs.embed_multi_with_metadata(map(declared.item_of, rows))
    connection.execute(PENDING.delete())


def noted(connection: Connection, declared: ModelCollection[Any]) -> dict[str, str]:
    """Return the latest change of each id, and forget them."""
    rows = select(PENDING.c.id, PENDING.c.change).where(PENDING.c.collection == declared.name)
    changes = {id: change for id, change in connection.execute(rows.order_by(PENDING.c.seq))}  # noqa: C416
    connection.execute(PENDING.delete().where(PENDING.c.collection == declared.name))
    return changes


def model_of(declared: ModelCollection[Any]) -> ModelCollection[Any]:
    object.__setattr__(declared, "model", DeterministicModel())
    return declared


@pytest.fixture(autouse=True)
def models() -> None:
    """A model for each."""
    for declared in ALL:
        model_of(declared)


def article(id: int, **values: Any) -> dict[str, Any]:
    return {"id": id, "title": f"t{id}", "published": True, "views": 0, **values}


def test_what_is_noted(database: Engine):
    """Of each kind of change, by the ORM, in bulk, raw: what counts, and where a value changed.

    A row that is gone, or that the condition no longer holds for, takes its vector at once.
    """
    ARTICLES.install(database)
    with Session(database) as session:
        connection = session.connection()

        def changes(sql: Any) -> dict[str, str]:
            session.execute(text(sql) if isinstance(sql, str) else sql)
            return noted(connection, ARTICLES)

        session.add_all([Article(id=1, title="one"), Article(id=2, title="two", published=False)])
        session.flush()
        assert noted(connection, ARTICLES) == {"1": "written"}
        settle(connection, ARTICLES)
        docs = ARTICLES.collection(session)

        assert changes("UPDATE noted_articles SET views = views + 1") == {}
        assert changes("UPDATE noted_articles SET title = title, views = 2") == {}
        assert changes("UPDATE noted_articles SET title = upper(title)") == {"1": "written"}
        assert changes("UPDATE noted_articles SET lang = 'en'") == {"1": "written"}
        assert changes(update(Article).values(body=Article.title)) == {"1": "written"}
        session.get_one(Article, 1).body = "changed"
        session.flush()
        assert noted(connection, ARTICLES) == {"1": "written"}
        assert docs.ids() == [1]
        flip = update(Article).values(published=~Article.published)
        assert changes(flip) == {"1": "removed", "2": "written"}
        assert docs.ids() == []
        assert changes("UPDATE noted_articles SET title = 'x' WHERE id = 1") == {}
        assert changes("DELETE FROM noted_articles WHERE id = 1") == {}
        settle(connection, ARTICLES)
        assert docs.ids() == [2]
        assert changes("UPDATE noted_articles SET id = 7") == {"2": "removed", "7": "written"}
        assert docs.ids() == []
        settle(connection, ARTICLES)
        connection.execute(insert(ARTICLE), [article(id) for id in (8, 9)])
        assert noted(connection, ARTICLES) == {"8": "written", "9": "written"}
        upsert = (
            "INSERT INTO noted_articles (id, title, published, views) VALUES (7, 'u', {}, 0) "
            "ON CONFLICT (id) DO {}"
        )
        assert changes(upsert.format("true", "UPDATE SET title = excluded.title")) == {
            "7": "written"
        }
        changed = changes(upsert.format("true", "NOTHING"))
        assert changed == ({} if is_postgresql(database) else {"7": "displaced"})
        assert docs.ids() == [7]
        assert changes("DELETE FROM noted_articles") == dict.fromkeys("789", "removed")
        assert docs.ids() == []


def test_cascades(database: Engine):
    """What a foreign key deletes is noted as well."""
    ARTICLES.install(database)
    with Session(database) as session:
        session.add(Author(id=1, name="a"))
        session.flush()
        session.add(Article(id=1, title="one", author_id=1))
        session.flush()
        settle(session.connection(), ARTICLES)
        session.execute(text("DELETE FROM noted_authors"))
        assert noted(session.connection(), ARTICLES) == {"1": "removed"}
        assert ARTICLES.collection(session).ids() == []


def test_rolled_back(database: Engine):
    """A change that never was is not noted, nor is that of a savepoint."""
    ARTICLES.install(database)
    with database.connect() as connection:
        connection.execute(insert(ARTICLE), article(1))
        nested = connection.begin_nested()
        connection.execute(insert(ARTICLE), article(2))
        nested.rollback()
        assert noted(connection, ARTICLES) == {"1": "written"}


def test_keys_of_other_types(database: Engine):
    """A UUID is noted as its hexadecimal digits, a text as it is: as the collection stores them."""
    DOGS.install(database)
    TOKENS.install(database)
    key = uuid.uuid4()
    with Session(database) as session:
        session.add_all([Dog(id="a-b c", words="wow"), Animal(id="cat", words="meow")])
        session.add(Token(id=key, words="secret"))
        session.flush()
        connection = session.connection()
        assert noted(connection, DOGS) == {"a-b c": "written"}
        assert noted(connection, TOKENS) == {key.hex: "written"}
        for declared in (DOGS, TOKENS):
            settle(connection, declared)
            session.execute(delete(declared.source))
            assert declared.collection(session).ids() == []
            assert len(noted(connection, declared)) == 1


def test_joined_inheritance(database: Engine):
    """Each table has triggers on those of the columns that it has."""
    CHAPTERS.install(database)
    assert CHAPTERS.trigger_problems(database) == []
    with Session(database) as session:
        connection = session.connection()
        session.add(Chapter(id=1, title="one", heading="first", lang="en"))
        session.add(Article(id=2, title="two", lang="en"))
        session.flush()
        assert noted(connection, CHAPTERS)["1"] == "written"
        settle(connection, CHAPTERS)
        for statement, change in {
            "UPDATE noted_articles SET title = 'x' WHERE id = 1": {"1": "written"},
            "UPDATE noted_chapters SET heading = 'x'": {"1": "written"},
            "UPDATE noted_articles SET body = 'x'": {},
            "UPDATE noted_articles SET lang = 'de' WHERE id = 1": {"1": "removed"},
        }.items():
            session.execute(text(statement))
            assert noted(connection, CHAPTERS) == change
        assert CHAPTERS.collection(session).ids() == []


# REPLACE, which SQLite alone has

SLUGS = st.sampled_from(["a", "b", "A", None])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["INSERT OR REPLACE", "INSERT OR IGNORE", "INSERT", "UPDATE OR REPLACE",
                         "UPDATE OR IGNORE", "DELETE", "settle"]),
        st.integers(1, 4), SLUGS, SLUGS, st.booleans(), st.sampled_from("xy"),
    ),
    max_size=12,
)  # fmt: skip


@settings(
    max_examples=examples(20),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)
@given(steps=STEPS)
def test_rows_that_replace_displaces(engine: Engine, steps: list[tuple[Any, ...]]):
    """By whatever unique column: their vectors are gone at once, and what is left is pending.

    IGNORE loses nothing: whatever was noted before it stays noted.
    """
    with engine.begin() as connection:
        Base.metadata.create_all(connection)
        connection.execute(ARTICLE.delete())
        ARTICLES.install(connection)
        settle(connection, ARTICLES)
        docs = ARTICLES.collection(connection)

        def items() -> dict[str, Any]:
            rows = connection.execute(ARTICLES.rows()).all()
            return {str(key): (words, facts) for key, words, facts in map(ARTICLES.item_of, rows)}

        before, dirty = items(), set[str]()
        for verb, id, slug, code, published, title in steps:
            if verb == "settle":
                settle(connection, ARTICLES)
                before, dirty = items(), set()
                continue
            values = article(id, slug=slug, code=code, published=published, title=title)
            what = {
                "INSERT": f"{verb} INTO noted_articles (id, slug, code, published, title, views)"
                " VALUES (:id, :slug, :code, :published, :title, 0)",
                "UPDATE": f"{verb} noted_articles SET id = :id, slug = :slug, code = :code, "
                "published = :published WHERE title = :title",
                "DELETE": "DELETE FROM noted_articles WHERE id = :id",
            }[verb.split()[0]]
            try:
                connection.exec_driver_sql(what, values)
            except IntegrityError:
                continue
            pending = {*connection.scalars(select(PENDING.c.id))}
            after = items()
            dirty |= {id for id in before | after if before.get(id) != after.get(id)}
            assert dirty <= pending
            assert {*map(str, docs.ids())} <= after.keys()


def test_a_replace_of_another_rows_slug(engine: Engine):
    """The row that had it is gone, and so is its vector; an index of an expression counts too."""
    Base.metadata.create_all(engine)
    ARTICLES.install(engine)
    with engine.begin() as connection:
        for row in (article(1, slug="a"), article(2, code="Code"), article(3)):
            connection.execute(insert(ARTICLE), row)
        settle(connection, ARTICLES)
        for values in ("(4, 'a', NULL, 't', 1, 0)", "(5, NULL, 'cODE', 't', 1, 0)"):
            connection.exec_driver_sql(
                "INSERT OR REPLACE INTO noted_articles (id, slug, code, title, published, views)"
                f" VALUES {values}"
            )
        assert ARTICLES.collection(connection).ids() == [3]
        assert noted(connection, ARTICLES) == {
            "1": "removed", "2": "removed", "4": "written", "5": "written",
        }  # fmt: skip
        assert ARTICLES.trigger_problems(connection) == []


def test_another_file(engine: Engine, tmp_path: Any):
    """A trigger cannot reach another attached file: refused, and nothing fails to be written."""

    class Other(DeclarativeBase):
        pass

    class Note(Other):
        __tablename__ = "notes"
        __table_args__ = {"schema": "other"}  # noqa: RUF012
        id: Mapped[int] = mapped_column(primary_key=True)
        words: Mapped[str]

    with engine.begin() as connection:
        connection.exec_driver_sql(f"ATTACH '{tmp_path / 'other.db'}' AS other")
        Other.metadata.create_all(connection)
        with pytest.raises(SchemaError, match="is in 'other', and 'embeddings' in 'main'"):
            ModelCollection(Note, text=[Note.words], name="notes").install(connection)
        connection.execute(insert(Note), {"id": 1, "words": "x"})


def test_collations_do_not_hide_a_change(engine: Engine):
    """In a column where Cat and cat are the same, a change from one to the other is noted."""
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE noted_tokens (id CHAR(32) PRIMARY KEY, words TEXT COLLATE NOCASE)"
        )
        TOKENS.install(connection)
        connection.exec_driver_sql("INSERT INTO noted_tokens VALUES ('0f', 'Cat')")
        noted(connection, TOKENS)
        connection.exec_driver_sql("UPDATE noted_tokens SET words = 'cat'")
        assert noted(connection, TOKENS) == {"0f": "written"}


# What is wrong with triggers


def test_problems(database: Engine):
    """Missing, disabled, differing, and what makes them right: `install`, which can be repeated."""
    [missing] = ARTICLES.trigger_problems(database)
    assert missing == "the triggers on 'noted_articles' are missing"
    ARTICLES.install(database)
    ARTICLES.install(database)
    assert ARTICLES.trigger_problems(database) == []
    other = ModelCollection(Article, text=[Article.title], name=ARTICLES.name)
    assert other.trigger_problems(database) != []
    postgresql = is_postgresql(database)
    on = " ON noted_articles" if postgresql else ""
    with database.begin() as connection:
        names = connection.scalars(
            text(
                "SELECT tgname FROM pg_trigger WHERE tgname LIKE 'embeddings_follow_%delete'"
                if postgresql
                else "SELECT name FROM sqlite_master WHERE name LIKE 'embeddings_follow_%delete'"
            )
        )
        name = names.one()
        connection.execute(text(f'DROP TRIGGER "{name}"{on}'))
    [problem] = ARTICLES.trigger_problems(database)
    assert f"{name}" in problem
    assert "is missing" in problem
    if postgresql:
        ARTICLES.install(database)
        with database.begin() as connection:
            connection.execute(text("ALTER TABLE noted_articles DISABLE TRIGGER USER"))
        assert all("is disabled" in each for each in ARTICLES.trigger_problems(database))
    ARTICLES.install(database)
    assert ARTICLES.trigger_problems(database) == []
    ARTICLES.uninstall(database)
    ARTICLES.uninstall(database)
    assert ARTICLES.trigger_problems(database) == [missing]


def test_status(database: Engine):
    """It names each table that is followed, what is pending, and what to do about triggers."""
    assert "followed" not in status(database).text
    ARTICLES.install(database)
    TOKENS.install(database)
    with database.begin() as connection:
        connection.execute(insert(ARTICLE), article(1))
        connection.execute(update(ARTICLE).values(title="again"))
    found = overview(database)
    assert [(one.table, one.pending, one.problems) for one in found.followed] == [
        ("noted_articles", 1, ()),
        ("noted_tokens", 0, ()),
    ]
    shown = status(database, declared=[ARTICLES, DOGS])
    assert not shown.is_good
    lines = [re.split(" {2,}", line) for line in shown.text.splitlines()]
    assert lines[-6:-2] == [
        ["followed", "table", "pending", "triggers"],
        [ARTICLES.name, "noted_articles", "1", "in place"],
        ["dogs", "noted_animals", "0", "the triggers on 'noted_animals' are missing"],
        ["tokens", "noted_tokens", "0", "in place, but not declared here"],
    ]
    assert "op.follow_rows" in shown.text
    assert json.loads(status(database, as_json=True).text)["followed"][0]["pending"] == 1
    assert status(database, declared=[ARTICLES]).is_good


def test_tables_that_are_not_there(database: Engine):
    """Refused with what is to be done, and the host's table can be written."""

    class Other(DeclarativeBase):
        pass

    records = embeddings.make_records(Other, prefix="not_there_")
    elsewhere = ModelCollection(Article, text=["title"], name="articles", records=records)
    with pytest.raises(SchemaError, match=r"'not_there_embeddings_pending'.*install\("):
        elsewhere.install(database)
    Base.metadata.drop_all(database)
    with pytest.raises(SchemaError, match="no table 'noted_articles'"):
        ARTICLES.install(database)


def test_a_condition_that_this_database_cannot_hold(engine: Engine):
    """What is a function of each connection on SQLite is refused when it is installed."""
    Base.metadata.create_all(engine)
    declared = ModelCollection(
        Article, text=["title"], name="articles", where=Article.title.regexp_match("^a")
    )
    with pytest.raises(ValueError, match="REGEXP is a function of each connection"):
        declared.install(engine)


def test_after_a_downgrade_the_host_writes(database: Engine):
    """Going back removes what names our tables, and `migrate` does not bring it back by itself."""
    ARTICLES.install(database)
    embeddings.downgrade(database, "emb_0002")
    try:
        with database.begin() as connection:
            connection.execute(insert(ARTICLE), article(1))
            connection.execute(ARTICLE.delete())
    finally:
        embeddings.migrate(database)
    assert ARTICLES.trigger_problems(database) != []


# PostgreSQL


def test_truncate_and_copy(postgresql_engine: Engine):
    """TRUNCATE, of a table that refers to it too, takes all vectors; COPY is noted."""
    engine = postgresql_engine
    Base.metadata.create_all(engine)
    try:
        ARTICLES.install(engine)
        with engine.begin() as connection:
            cursor: Any = connection.connection.cursor()
            columns = "id, title, published, views"
            with cursor.copy(f"COPY noted_articles ({columns}) FROM STDIN") as copy:
                copy.write("1\tone\ttrue\t0\n2\ttwo\tfalse\t0\n")
            assert noted(connection, ARTICLES) == {"1": "written"}
            settle(connection, ARTICLES)
            connection.execute(text("TRUNCATE noted_authors CASCADE"))
            assert noted(connection, ARTICLES) == {"1": "removed"}
            assert ARTICLES.collection(connection).ids() == []
    finally:
        ARTICLES.uninstall(engine)
        Base.metadata.drop_all(engine)


def test_partitions(postgresql_engine: Engine):
    """What is written past the parent is noted, a row that moves, and TRUNCATE of one partition."""
    engine = postgresql_engine
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE noted_tokens (id UUID, words TEXT) PARTITION BY LIST (words);"
                "CREATE TABLE noted_tokens_a PARTITION OF noted_tokens FOR VALUES IN ('a');"
                "CREATE TABLE noted_tokens_b PARTITION OF noted_tokens DEFAULT"
            )
        )
    a, b = uuid.UUID(int=1), uuid.UUID(int=2)
    try:
        TOKENS.install(engine)
        assert TOKENS.trigger_problems(engine) == []
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO noted_tokens_a VALUES (:a, 'a')"), {"a": a})
            connection.execute(text("INSERT INTO noted_tokens VALUES (:b, 'b')"), {"b": b})
            assert noted(connection, TOKENS) == {a.hex: "written", b.hex: "written"}
            settle(connection, TOKENS)
            connection.execute(text("UPDATE noted_tokens SET words = 'c' WHERE id = :a"), {"a": a})
            assert noted(connection, TOKENS) == {a.hex: "written"}
            settle(connection, TOKENS)
            connection.execute(text("TRUNCATE noted_tokens_a"))
            assert noted(connection, TOKENS) == {}
            connection.execute(text("TRUNCATE noted_tokens"))
            assert noted(connection, TOKENS) == {a.hex: "removed", b.hex: "removed"}
            assert TOKENS.collection(connection).ids() == []
            connection.execute(
                text("CREATE TABLE noted_tokens_n PARTITION OF noted_tokens FOR VALUES IN ('n')")
            )
            [problem] = TOKENS.trigger_problems(connection)
            assert "truncate on noted_tokens_n is missing" in problem
    finally:
        TOKENS.uninstall(engine)
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE noted_tokens"))


def test_a_role_with_rights_on_its_own_table_alone(postgresql_engine: Engine):
    """Under row-level security, with temporary tables of our names, it writes, and is followed."""
    engine = postgresql_engine
    Base.metadata.create_all(engine)
    try:
        ARTICLES.install(engine)
        with engine.begin() as connection:
            connection.execute(
                text(
                    "CREATE ROLE follower; GRANT INSERT, UPDATE, DELETE, SELECT, TRUNCATE "
                    "ON noted_articles TO follower; "
                    "ALTER TABLE noted_articles ENABLE ROW LEVEL SECURITY; "
                    "CREATE POLICY own ON noted_articles TO follower USING (id < 10)"
                )
            )
        with engine.connect() as connection:
            connection.execute(text("SET ROLE follower"))
            connection.execute(text("CREATE TEMP TABLE embeddings_pending (collection text)"))
            connection.execute(text("CREATE TEMP TABLE embeddings (id text)"))
            connection.execute(insert(ARTICLE), [article(1), article(2)])
            connection.execute(text("UPDATE noted_articles SET title = 'x' WHERE id = 1"))
            connection.execute(text("DELETE FROM noted_articles WHERE id = 2"))
            with pytest.raises(DBAPIError, match="row-level security"), connection.begin_nested():
                connection.execute(insert(ARTICLE), article(11))
            connection.execute(text("RESET ROLE; DROP TABLE embeddings_pending, embeddings"))
            assert noted(connection, ARTICLES) == {"1": "written", "2": "removed"}
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP OWNED BY follower; DROP ROLE follower"))
        ARTICLES.uninstall(engine)
        Base.metadata.drop_all(engine)


def test_repeatable_read(postgresql_engine: Engine):
    """A vector that was written meanwhile fails no host: the row is noted all the same."""
    engine = postgresql_engine
    Base.metadata.create_all(engine)
    try:
        ARTICLES.install(engine)
        with engine.begin() as connection:
            connection.execute(insert(ARTICLE), [article(1), article(2)])
            settle(connection, ARTICLES)
        host = engine.connect().execution_options(isolation_level="REPEATABLE READ")
        with host, engine.connect() as refresher:
            host.execute(select(Article.id)).all()
            ids = ["UPDATE embeddings SET updated = 1 WHERE id = '1'"]
            refresher.execute(text(ids[0]))
            refresher.commit()
            refresher.execute(text("UPDATE embeddings SET updated = 1 WHERE id = '2'"))
            host.execute(text("DELETE FROM noted_articles"))
            host.commit()
            refresher.commit()
            assert noted(refresher, ARTICLES) == {"1": "removed", "2": "removed"}
    finally:
        ARTICLES.uninstall(engine)
        Base.metadata.drop_all(engine)


def test_schemas(postgresql_engine: Engine):
    """A table in a schema, followed by tables of `make_records` in another one."""

    class Other(DeclarativeBase):
        pass

    class Note(Other):
        __tablename__ = "notes"
        __table_args__ = {"schema": "Of Notes"}  # noqa: RUF012
        id: Mapped[int] = mapped_column(primary_key=True)
        words: Mapped[str]

    records = embeddings.make_records(Other, prefix="search_", schema="Of Search")
    notes = ModelCollection(
        Note, text=[Note.words], name="notes", records=records, model=DeterministicModel()
    )
    engine = postgresql_engine
    with engine.begin() as connection:
        connection.execute(text('CREATE SCHEMA "Of Notes"; CREATE SCHEMA "Of Search"'))
    try:
        Other.metadata.create_all(engine)
        notes.install(engine)
        assert notes.trigger_problems(engine) == []
        pending = pending_table(records)
        with engine.begin() as connection:
            connection.execute(insert(Note), {"id": 1, "words": "x"})
            assert connection.scalars(select(pending.c.id)).all() == ["1"]
            notes.collection(connection).embed(1, "x")
            connection.execute(delete(Note))
            assert notes.collection(connection).ids() == []
        Other.metadata.tables["Of Search.search_embeddings"].drop(engine)
        with engine.begin() as connection:
            connection.execute(insert(Note), {"id": 1, "words": "x"})
    finally:
        with engine.begin() as connection:
            connection.execute(
                text('DROP SCHEMA "Of Notes" CASCADE; DROP SCHEMA "Of Search" CASCADE')
            )


def test_tables_further_down_the_search_path(postgresql_engine: Engine):
    """The triggers append to the pending rows that the connection reads, whatever comes before."""
    Base.metadata.create_all(postgresql_engine)
    path = {"options": "-c search_path=noted_first,public"}
    engine = create_engine(postgresql_engine.url, connect_args=path, poolclass=NullPool)
    [given] = triggers.follows_of(ARTICLES, engine.dialect)
    script = PostgreSQL().follow_script(given)
    try:
        with engine.begin() as connection:
            connection.execute(text("CREATE SCHEMA noted_first"))
        ways: list[Callable[[Connection], None]] = [
            ARTICLES.install,
            lambda connection: run(connection, script),
        ]
        for make in ways:
            with engine.begin() as connection:
                make(connection)
                assert ARTICLES.trigger_problems(connection) == []
                connection.execute(insert(ARTICLE), article(1))
                assert noted(connection, ARTICLES) == {"1": "written"}
                connection.execute(delete(Article))
                assert noted(connection, ARTICLES) == {"1": "removed"}
                ARTICLES.uninstall(connection)
                assert ARTICLES.trigger_problems(connection) != []
    finally:
        with postgresql_engine.begin() as connection:
            connection.execute(text("DROP SCHEMA noted_first"))
        Base.metadata.drop_all(postgresql_engine)


def test_what_is_told_and_dropped_further_down_the_search_path(postgresql_engine: Engine):
    """Status reads the tables that the connection finds, and `uninstall` drops what is of these."""
    Base.metadata.create_all(postgresql_engine)
    path = {"options": "-c search_path=noted_first,public"}
    engine = create_engine(postgresql_engine.url, connect_args=path, poolclass=NullPool)
    try:
        with engine.connect() as connection:
            connection.execute(text("CREATE SCHEMA noted_first"))
            ARTICLES.install(connection)
            connection.execute(insert(ARTICLE), article(1))
            told = overview(connection, [ARTICLES])
            assert (told.is_current, told.revision) == (True, told.head)
            assert [(one.pending, one.problems) for one in told.followed] == [(1, ())]
            embeddings.uninstall(connection)
            assert PostgreSQL().follows(connection, RECORDS) == []
            inspector = inspect(connection)
            assert not inspector.has_table(PENDING.name)
            assert {each["name"] for each in inspector.get_columns("embeddings")} == {
                each.name for each in RECORDS.embeddings.columns
            }
            connection.execute(insert(ARTICLE), article(2))
    finally:
        Base.metadata.drop_all(postgresql_engine)


def test_a_role_that_may_not_write_what_is_pending(postgresql_engine: Engine):
    """It is told what to grant, before the host's writes fail; with that it makes the triggers."""
    engine = postgresql_engine
    with engine.begin() as connection:
        connection.execute(
            text("CREATE ROLE noted_maker; GRANT CREATE ON SCHEMA public TO noted_maker")
        )
        connection.execute(text("SET LOCAL ROLE noted_maker"))
        Base.metadata.create_all(connection)
    try:
        with engine.connect() as connection:
            connection.execute(text("SET LOCAL ROLE noted_maker"))
            with pytest.raises(SchemaError, match=r"role 'noted_maker'.*: GRANT INSERT") as error:
                ARTICLES.install(connection)
            [grants] = re.findall("GRANT.*", str(error.value))
            connection.execute(text("RESET ROLE"))
            for grant in grants.split("; "):
                connection.execute(text("SET LOCAL ROLE noted_maker"))
                with pytest.raises(SchemaError):
                    ARTICLES.install(connection)
                connection.execute(text(f"RESET ROLE; {grant}"))
            connection.execute(text("SET LOCAL ROLE noted_maker"))
            ARTICLES.install(connection)
            connection.execute(insert(ARTICLE), article(1))
            connection.execute(delete(Article))
            connection.execute(text("RESET ROLE"))
            assert noted(connection, ARTICLES) == {"1": "removed"}
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP OWNED BY noted_maker; DROP ROLE noted_maker"))


def test_a_condition_is_left_as_it_is(postgresql_engine: Engine):
    """Whatever its literals look like, also like what our own statements are filled in by."""
    followed = Follow("odd", "id", ("body",), "odd", where="body <> '{schema}'")
    with postgresql_engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE odd (id int PRIMARY KEY, body text)")
        triggers.follow(connection, followed)
        connection.exec_driver_sql("INSERT INTO odd VALUES (1, '{schema}'), (2, '\"public\"')")
        noted = "SELECT id FROM embeddings_pending WHERE collection = 'odd'"
        assert connection.exec_driver_sql(noted).scalars().all() == ["2"]
        connection.rollback()


@pytest.mark.parametrize("name", ["a/*b", "a*/b", "/*/", "*/*", "} */ {x}", "t{x}", 'a"$1'])
def test_odd_names(name: str, database: Engine):
    """Of a table, its columns and a collection, and values of a condition."""
    followed = Follow(name, name, (f"{name}c",), name, where=f"""'x' <> '{name}'""")
    schema = MetaData()
    table = Table(
        name, schema, Column(name, Integer, primary_key=True), Column(f"{name}c", String, key="c")
    )
    with database.connect() as connection:
        schema.create_all(connection)
        triggers.follow(connection, followed)
        assert triggers.as_made(connection, followed) == []
        made = databases.of(connection.dialect).follows(connection, RECORDS)
        assert made == [followed]
        connection.execute(table.insert().values({name: 1, "c": "y"}))
        assert connection.execute(select(PENDING.c.collection, PENDING.c.id)).all() == [(name, "1")]
        connection.rollback()


def test_a_renamed_column(database: Engine):
    """Of the key, the condition or the text: told by `status`, with or without a declaration.

    Columns that the condition does not read can be renamed, and every write goes on.
    """
    ARTICLES.install(database)
    with database.begin() as connection:
        connection.execute(text("ALTER TABLE noted_articles RENAME COLUMN body TO words"))
        connection.execute(text("INSERT INTO noted_articles VALUES (1, 's', 'c', 't', 'w', 'en',"
                                " true, 0, NULL)"))  # fmt: skip
        connection.execute(text("UPDATE noted_articles SET words = 'x'"))
        assert noted(connection, ARTICLES) == {"1": "written"}
        for name in ("title", "published", "id"):
            connection.execute(text(f"ALTER TABLE noted_articles RENAME {name} TO a_{name}"))
        for told in (
            "; ".join(ARTICLES.trigger_problems(connection)),
            "; ".join(overview(connection).followed[0].problems),
        ):
            assert re.findall(r"no column '(\w+)' any more", told) == [
                "body", "id", "published", "title",
            ]  # fmt: skip
            assert "op.follow_rows" in told
        connection.rollback()


def test_who_may_remove_vectors(postgresql_engine: Engine):
    """Only the functions of triggers, not whoever may connect."""
    engine = postgresql_engine
    Base.metadata.create_all(engine)
    try:
        with engine.begin() as connection:
            name = "embeddings_pending_removed(text, text[])"
            may = text(f"SELECT has_function_privilege('public', '{name}', 'EXECUTE')")
            assert not connection.scalar(may)
            ARTICLES.install(connection)
            connection.execute(insert(ARTICLE), [article(id) for id in range(1, 6)])
            settle(connection, ARTICLES)
            connection.execute(delete(Article).where(Article.id > 1))
            assert noted(connection, ARTICLES) == dict.fromkeys("2345", "removed")
            assert ARTICLES.collection(connection).ids() == [1]
            assert not connection.scalar(may)
    finally:
        ARTICLES.uninstall(engine)
        Base.metadata.drop_all(engine)


def test_who_may_use_the_functions(postgresql_engine: Engine):
    """Nobody but who made them, and the owner of the table, who makes partitions of it."""
    engine = postgresql_engine
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE ROLE noted_stranger; CREATE ROLE noted_owner; "
                "GRANT CREATE ON SCHEMA public TO noted_owner; "
                "CREATE TABLE noted_tokens (id UUID, words TEXT) PARTITION BY LIST (words); "
                "ALTER TABLE noted_tokens OWNER TO noted_owner"
            )
        )
    try:
        TOKENS.install(engine)
        assert TOKENS.trigger_problems(engine) == []
        function = "SELECT oid::regprocedure::text FROM pg_proc WHERE proname LIKE '%follow_tok%'"
        with engine.begin() as connection:
            name = connection.scalar(text(function))
            misuse = text(
                "CREATE TEMP TABLE mine (id uuid, words text); CREATE TRIGGER mine "
                f"AFTER DELETE ON mine FOR EACH ROW EXECUTE FUNCTION {name}"
            )
            connection.execute(text("SET LOCAL ROLE noted_stranger"))
            with pytest.raises(DBAPIError, match="permission denied"), connection.begin_nested():
                connection.execute(misuse)
            connection.execute(text("SET LOCAL ROLE noted_owner"))
            connection.execute(
                text("CREATE TABLE noted_tokens_a PARTITION OF noted_tokens FOR VALUES IN ('a')")
            )
            a = uuid.UUID(int=1)
            connection.execute(text("INSERT INTO noted_tokens VALUES (:a, 'a')"), {"a": a})
            connection.execute(text("RESET ROLE; DROP TABLE noted_tokens_a"))
            assert noted(connection, TOKENS) == {a.hex: "written"}
            connection.execute(text(f"GRANT EXECUTE ON FUNCTION {name} TO PUBLIC"))
            [problem] = TOKENS.trigger_problems(connection)
            assert "anybody" in problem
        TOKENS.install(engine)
        assert TOKENS.trigger_problems(engine) == []
    finally:
        TOKENS.uninstall(engine)
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE noted_tokens; DROP OWNED BY noted_owner"))
            connection.execute(text("DROP ROLE noted_stranger; DROP ROLE noted_owner"))

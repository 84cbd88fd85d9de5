"""What hosts type: downgrades, scripts, roles with few rights, SQLModel, tenants, the overview."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from click.testing import CliRunner
from sqlalchemy import Engine, MetaData, NullPool, create_engine, inspect, text
from sqlalchemy.orm import DeclarativeBase, Session
from sqlmodel import Field, SQLModel

import embeddings
from embeddings import Collection, SchemaError, make_records
from embeddings.cli import embeddings as program
from embeddings.overview import overview
from embeddings.testing import DeterministicModel
from tests import forked
from tests.forked import python
from tests.migrations.test_host_projects import (
    Host,
    add_articles,
    backend,
    database,
    host,
    on_postgresql,
    url,
    works,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import URL

__all__ = ["backend", "database", "host", "url"]

MIGRATE = "embeddings.migrate(op.get_bind())"
DOWNGRADE = "embeddings.downgrade(op.get_bind())"
HOSTS_OWN = {"alembic_version", "articles", "sqlite_sequence"}


@pytest.fixture
def revised(host: Host) -> Host:
    """A host whose second revision makes our tables, and takes them back."""
    add_articles(host.metadata)
    host.write("one", 'op.create_table("articles", sa.Column("id", sa.Integer, primary_key=True))')
    host.write("two", MIGRATE, DOWNGRADE, after="one")
    return host


# Downgrades


def test_after_a_downgrade_nothing_of_ours_is_left(revised: Host):
    """A host without `include_object`, as one that removed the library, has nothing to drop."""
    revised.upgrade()
    revised.downgrade("one")
    assert revised.tables() <= HOSTS_OWN
    revised.config.attributes["options"] = {"include_object": lambda *_: True}
    (revised.folder / "versions" / "two.py").unlink()
    revised.check()
    revised.config.attributes["options"] = {}
    revised.write("two", MIGRATE, DOWNGRADE, after="one")
    revised.upgrade()
    works(revised.engine)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_what_llm_has_of_its_own_stays(host: Host):
    """Its table of migrations holds those of its other tables."""
    embeddings.migrate(host.engine)
    with host.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO _sqlite_migrations (migration_set, name) VALUES ('llm', 'm001')")
        )
    embeddings.downgrade(host.engine)
    with host.engine.connect() as connection:
        rows = connection.execute(text("SELECT migration_set, name FROM _sqlite_migrations")).all()
    assert rows == [("llm", "m001")]
    assert host.tables() == {"_sqlite_migrations"}


def test_a_hosts_downgrade_with_rows_says_what_to_type_and_that_works(revised: Host):
    """`alembic -x drop=yes downgrade` reaches our revisions through the host's."""
    revised.upgrade()
    works(revised.engine)
    with pytest.raises(SchemaError, match=r"alembic -x drop=yes downgrade.*flask db downgrade -x"):
        revised.downgrade("one")
    assert "embeddings" in revised.tables()

    revised.config.cmd_opts = Namespace(x=["drop=yes"])
    revised.downgrade("one")
    assert revised.tables() <= HOSTS_OWN


FLASK = """
import os

import flask, flask_migrate, flask_sqlalchemy
import embeddings
from embeddings.integrations.flask import Embeddings

app = flask.Flask("host")
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["HOST_URL"]
db = flask_sqlalchemy.SQLAlchemy(app)
flask_migrate.Migrate(
    app, db, include_object=embeddings.include_object, render_item=embeddings.render_item)
Embeddings(app)
"""


# Each command as `flask` runs it, without importing the application anew for each.
TYPED = """
import json, sys

from app import app

results = []
for command in sys.argv[1:]:
    result = app.test_cli_runner().invoke(args=command.split())
    results.append((result.exit_code, result.output + str(result.exception)))
print(json.dumps(results))
"""


def test_flask_db(url: URL, tmp_path: Path):
    """`flask db upgrade --sql`, `downgrade --sql` and `downgrade -x drop=yes` as one types them."""
    (tmp_path / "app.py").write_text(FLASK)
    (tmp_path / "typed.py").write_text(TYPED)

    def flask(*commands: str) -> list[Any]:
        done = python(
            *("typed.py", *commands),
            cwd=tmp_path,
            env=os.environ | {"HOST_URL": url.render_as_string(hide_password=False)},
            modules=forked.FLASK,
        )
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    assert [code for code, _ in flask("db init", "db revision -m embeddings")] == [0, 0]
    (path,) = (tmp_path / "migrations" / "versions").glob("*.py")
    code = path.read_text().replace("import sqlalchemy as sa", "import embeddings")
    upgrade, downgrade = code.split("def downgrade():")
    path.write_text(
        upgrade.replace("    pass", f"    {MIGRATE}")
        + "def downgrade():"
        + downgrade.replace("    pass", f"    {DOWNGRADE}")
    )
    (code, script), done = flask("db upgrade --sql", "db upgrade")
    assert (code, done[0]) == (0, 0), (script, done)
    assert "CREATE TABLE embeddings" in script
    engine = create_engine(url, poolclass=NullPool)
    works(engine)
    (refused, said), (code, script), done = flask(
        "db downgrade", "db downgrade --sql head:base", "db downgrade -x drop=yes"
    )
    assert (refused, code, done[0]) == (1, 0, 0), (said, script, done)
    assert "flask db downgrade -x drop=yes" in said
    assert "DROP TABLE embeddings" in script
    assert inspect(engine).get_table_names() in ([], ["alembic_version"])


# Scripts


def execute(engine: Engine, script: str) -> None:
    """Execute a script as the database's own program does."""
    if engine.dialect.name == "sqlite":
        connection: Any = engine.raw_connection()
        connection.driver_connection.executescript(script)
    else:
        connection = engine.raw_connection()
        connection.driver_connection.execute(script)
        connection.driver_connection.commit()
    connection.close()


def test_a_script_of_the_hosts_has_our_tables(revised: Host):
    """Executed, it makes a database in which everything works, and that is up to date."""
    script = revised.script()
    assert script.index("CREATE TABLE articles") < script.index("CREATE TABLE embeddings")
    execute(revised.engine, script)

    assert revised.tables() >= {"articles", "collections", "embeddings"}
    embeddings.migrate(revised.engine)
    revised.check()
    works(revised.engine)


def test_a_script_of_several_revisions_has_each_step_once(host: Host):
    """The second one goes on from where the first one came to; one that begins later says so."""
    host.write("one", 'embeddings.migrate(op.get_bind(), "emb_0001")')
    host.write("two", MIGRATE, after="one")
    host.write("three", MIGRATE, after="two")
    script = host.script()
    assert script.count("CREATE TABLE embeddings ") == 1
    execute(host.engine, script)
    works(host.engine)

    host.write("two", 'embeddings.migrate(op.get_bind(), "emb_0001:head")', after="one")
    host.output.truncate(0)
    command.upgrade(host.config, "one:two", sql=True)
    script = host.output.getvalue()
    assert "CREATE TABLE embeddings " not in script
    assert "emb_0005" in script
    host.upgrade()  # with a connection the beginning is not needed


def test_a_script_that_goes_back(revised: Host):
    """Executed, it leaves nothing of ours but an empty table of llm's on SQLite."""
    revised.upgrade()
    command.downgrade(revised.config, "two:one", sql=True)
    execute(revised.engine, revised.output.getvalue())
    assert revised.tables() <= HOSTS_OWN | {"_sqlite_migrations"}


@pytest.mark.parametrize("function", [embeddings.migrate, embeddings.downgrade])
def test_none_is_a_database_only_within_a_script(function: Any):
    """The error says where None is right."""
    with pytest.raises(TypeError, match=r"--sql"):
        function(None)


# Roles


@pytest.fixture
def role(url: URL) -> Iterator[str]:
    """A role that may use two tables, and nothing else."""
    owner = create_engine(url, poolclass=NullPool)
    embeddings.migrate(owner)
    name = "only_tables"
    with owner.begin() as connection:
        connection.execute(text(f"CREATE ROLE {name} LOGIN"))
        connection.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
        connection.execute(text(f"GRANT USAGE ON SCHEMA public TO {name}"))
        rights = "SELECT, INSERT, UPDATE, DELETE"
        connection.execute(text(f"GRANT {rights} ON collections, embeddings TO {name}"))
        connection.execute(text(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {name}"))
    yield name
    with owner.begin() as connection:
        connection.execute(text(f"DROP OWNED BY {name}"))
        connection.execute(text(f"DROP ROLE {name}"))


@on_postgresql
@pytest.mark.parametrize("reads_version", [True, False])
def test_a_role_with_rights_on_the_tables_only(reads_version: bool, role: str, url: URL):
    """Up-to-date tables need no rights to be migrated; others are an error that says who may."""
    owner = create_engine(url, poolclass=NullPool)
    if reads_version:
        with owner.begin() as connection:
            connection.execute(text(f"GRANT SELECT ON embeddings_alembic_version TO {role}"))
    engine = create_engine(url.set(username=role), poolclass=NullPool)
    embeddings.migrate(engine)
    with engine.begin() as connection:
        embeddings.migrate(connection)
        assert connection.scalar(text("SELECT current_user")) == role
    works(engine)
    assert overview(engine).is_current
    with Collection("docs", url.set(username=role).render_as_string(False)) as docs:
        assert docs.count() == 2
    if not reads_version:
        with owner.begin() as connection:
            connection.execute(text("ALTER TABLE embeddings DROP COLUMN updated"))
        with pytest.raises(SchemaError, match="as the role that owns them"):
            embeddings.migrate(engine)


# Tenants


@on_postgresql
@pytest.mark.filterwarnings("error")
def test_the_extension_does_not_go_to_the_first_tenant_in_silence(url: URL):
    """It goes to public where that is on the path; else `migrate` warns and says the remedy."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA tenant_1; CREATE SCHEMA tenant_2"))
    where = "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'"

    def tenant(path: str) -> Engine:
        options = {"options": f"-csearch_path={path}"}
        return create_engine(url, poolclass=NullPool, connect_args=options)

    embeddings.migrate(engine.execution_options(schema_translate_map={None: "tenant_1"}))
    embeddings.migrate(tenant("tenant_2,public"))
    with engine.begin() as connection:
        assert connection.scalar(text(where)) == "public"
        connection.execute(text("DROP EXTENSION vector CASCADE"))
        connection.execute(text("DROP SCHEMA tenant_1 CASCADE; DROP SCHEMA tenant_2 CASCADE"))
        connection.execute(text("CREATE SCHEMA tenant_1"))

    with pytest.warns(UserWarning, match=r"'tenant_1'.*search_path.*CREATE EXTENSION vector"):
        embeddings.migrate(tenant("tenant_1"))
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA tenant_1 CASCADE"))


# SQLModel


class Thing(SQLModel, table=True):
    """A host's table, in the metadata of SQLModel."""

    __tablename__ = "sqlmodel_things"

    id: int | None = Field(default=None, primary_key=True)
    name: str


RECORDS = make_records(SQLModel, prefix="sqlmodel_")


def test_sqlmodel(url: URL):
    """Its metadata has the tables; they join with its models, and a session of it is one."""
    from sqlmodel import Session as SQLModelSession
    from sqlmodel import select

    engine = create_engine(url, poolclass=NullPool)
    assert {"sqlmodel_collections", "sqlmodel_embeddings"} <= SQLModel.metadata.tables.keys()
    SQLModel.metadata.create_all(engine)
    with SQLModelSession(engine) as session:
        session.add_all([Thing(id=1, name="a hound"), Thing(id=2, name="a cat")])
        column: Any = Thing.__table__.c.id  # type: ignore[attr-defined]
        docs: Collection[Any] = Collection(
            "docs", session, model=DeterministicModel(), key=column, records=RECORDS
        )
        docs.embed_multi([(1, "a hound"), (2, "a cat")])
        found = docs.matches("a hound", number=1)
        rows = session.exec(select(Thing.name).join(found, found.c.id == column)).all()
        assert rows == ["a hound"]
        session.commit()
    SQLModel.metadata.drop_all(engine)


# The overview


def test_tables_of_make_records_are_in_every_command(url: URL):
    """Beside ours or alone, whether or not the process has declared them."""

    class Base(DeclarativeBase):
        metadata = MetaData()

    records = make_records(Base, prefix="shop_")
    engine = create_engine(url, poolclass=NullPool)
    Base.metadata.create_all(engine)
    works(engine, records)
    alone = overview(engine)
    assert alone.is_current
    assert [(one.name, one.table, one.rows) for one in alone.collections] == [
        ("docs", "shop_embeddings", 2)
    ]
    assert "shop_embeddings" in str(alone)

    embeddings.migrate(engine)
    Collection("ours", engine, model=DeterministicModel()).embed("1", "a hound")
    with Session(engine) as session:
        both = overview(session)
    assert {(one.name, one.table) for one in both.collections} == {
        ("docs", "shop_embeddings"),
        ("ours", "embeddings"),
    }
    address = url.render_as_string(hide_password=False)
    run = CliRunner().invoke(program, ["--database", address, "status"])
    assert (run.exit_code, "shop_embeddings" in run.output) == (0, True)
    assert {"docs", "ours"} <= {*run.output.replace(":", " ").split()}

    elsewhere = python("-m", "embeddings", "--database", address, "status")
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert "shop_embeddings" in elsewhere.stdout


def test_a_hosts_own_collections_do_not_hide_them(url: URL):
    """Where the documented names are somebody else's, those of `make_records` are shown."""

    class Base(DeclarativeBase):
        metadata = MetaData()

    records = make_records(Base, prefix="mine_")
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE collections (id INTEGER, title TEXT)"))
    Base.metadata.create_all(engine)
    works(engine, records)
    found = overview(engine)
    assert [one.table for one in found.collections] == ["mine_embeddings"]
    assert found.is_current

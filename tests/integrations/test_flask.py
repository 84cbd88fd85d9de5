"""In a Flask application: its session, its settings, its commands, its migrations, its threads."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from flask import Flask, request
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import create_engine, inspect, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from werkzeug.serving import make_server

import embeddings
from embeddings import (
    Base,
    Collection,
    ModelError,
    ModelRequiredError,
    UnknownModelError,
    get_embedding_model,
    get_embedding_models,
)
from embeddings.integrations.flask import Embeddings
from embeddings.models.registry import Settings, use_settings
from embeddings.tables.migrate import head_revision
from embeddings.testing import DeterministicModel
from tests.forked import FLASK, python
from tests.reaching import empty_database, in_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result
    from sqlalchemy import URL

REPOSITORY = Path(__file__).parents[2]
OURS = {"collections", "embeddings", "embeddings_alembic_version", "embeddings_pending"}


class HostBase(DeclarativeBase):
    """The declarative base of a host."""


db = SQLAlchemy(model_class=HostBase)


class Article(HostBase):
    """A table of a host's."""

    __tablename__ = "articles"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


articles = Collection("articles", db.session, key=Article.id)
"""Opened once, with no application at hand."""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path, server: URL) -> Iterator[str]:
    """The URL of an empty database."""
    with empty_database(request.param, tmp_path, server) as url:
        yield url


def application(url: str, **config: object) -> Flask:
    """Return an application on a database."""
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    if url.startswith("sqlite"):
        app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"connect_args": {"timeout": 60}}
    app.config |= config
    db.init_app(app)
    Embeddings(app)
    return app


def dispose(app: Flask) -> None:
    """Close the connections of an application."""
    with app.app_context():
        for engine in db.engines.values():
            engine.dispose()


@pytest.fixture
def app(url: str, model: DeterministicModel) -> Iterator[Flask]:
    """A migrated application that writes and searches articles."""
    app = application(url, EMBEDDINGS_MODEL=model)
    with app.app_context():
        HostBase.metadata.create_all(db.engine)
        embeddings.migrate(db.engine)

    @app.post("/")
    def write() -> dict[str, int]:
        article = Article(title=request.form["title"])
        db.session.add(article)
        db.session.flush()
        articles.embed(article.id, article.title)
        if "fail" in request.form:
            raise RuntimeError("half-way")
        if "forget" not in request.form:
            db.session.commit()
        return {"id": article.id}

    @app.get("/")
    def search() -> list[str]:
        found = articles.matches(request.args["q"])
        statement = select(Article.title).join(found, found.c.id == Article.id)
        return list(db.session.scalars(statement.order_by(found.c.score.desc(), Article.id)))

    yield app
    dispose(app)


def stored(app: Flask) -> tuple[int, int]:
    """Return how many articles and how many vectors are committed."""
    with app.app_context():
        return db.session.query(Article).count(), articles.count()


def run(app: Flask, *arguments: str) -> Result:
    """Run `flask embeddings ...`."""
    return app.test_cli_runner().invoke(args=["embeddings", *arguments])


# The session


def test_a_view_writes_and_another_one_searches(app: Flask):
    """Each request has a session of its own, and the collection is in it."""
    client = app.test_client()
    for title in ("a happy hound", "a tax report"):
        assert client.post("/", data={"title": title}).status_code == 200
    assert client.get("/?q=the tax").json == ["a tax report", "a happy hound"]
    assert stored(app) == (2, 2)


@pytest.mark.parametrize("way", ["fail", "forget"])
def test_a_view_that_does_not_commit_leaves_nothing(app: Flask, way: str):
    """An exception, or a commit that was forgotten: both sides go with the request."""
    client = app.test_client()
    status = client.post("/", data={"title": "a hound", way: "1"}).status_code
    assert status == (500 if way == "fail" else 200)
    assert stored(app) == (0, 0)
    assert client.get("/?q=a hound").json == []


def test_a_request_returns_its_connection(app: Flask):
    """The collection outlives the request, and holds nothing of it."""
    client = app.test_client()
    for _ in range(3):
        client.post("/", data={"title": "a hound"})
        client.get("/?q=a hound")
    with app.app_context():
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_threads_of_the_real_server(app: Flask):
    """Eight clients write and search at the same time: all that was written is found."""

    def visit(number: int) -> None:
        with httpx.Client(base_url=address, timeout=60) as client:
            for step in range(4):
                title = f"article{number}step{step}"
                assert client.post("/", data={"title": title}).status_code == 200
                assert client.get("/", params={"q": title}).json()[0] == title

    with served(app) as address:
        in_threads(visit)
    assert stored(app) == (32, 32)


@contextmanager
def served(app: Flask) -> Iterator[str]:
    """Yield the address of an application under Werkzeug's server, with a thread a request."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# The settings


class Named(DeterministicModel):
    """A model of an application's own."""


def test_each_application_has_its_own_model(tmp_path: Path):
    """Of two in one process, in whatever order they are asked; outside of them there is none."""
    first, second = (
        application(f"sqlite:///{tmp_path / name}.db", EMBEDDINGS_MODEL=Named(name))
        for name in ("shop", "blog")
    )
    for app, name in ((first, "shop"), (second, "blog"), (first, "shop")):
        with app.app_context():
            embeddings.migrate(db.engine)
            assert articles.model_id == name
            assert isinstance(articles.model(), Named)
            assert name in [model.model_id for model in get_embedding_models()]
    with first.app_context(), second.app_context():
        assert articles.model_id == "blog"
    with pytest.raises(UnknownModelError):
        get_embedding_model("shop")
    dispose(first)
    dispose(second)


def test_an_applications_default_is_for_new_collections_only(tmp_path: Path):
    """What is there keeps its model; the default of the process is for those without one."""
    url = f"sqlite:///{tmp_path / 'app.db'}"
    before = application(url, EMBEDDINGS_MODEL="local-64")
    with before.app_context():
        embeddings.migrate(db.engine)
        articles.embed(1, "a hound")
        db.session.commit()
    dispose(before)
    after = application(url, EMBEDDINGS_MODEL="local-128")
    with after.app_context():
        assert articles.model_id == "wordllama-l2_supercat-64"
        assert Collection("new", db.session).model_id == "wordllama-l2_supercat-128"
    without = application(url)
    with without.app_context(), pytest.raises(ModelRequiredError):
        _ = Collection("new", db.session).model_id
    dispose(after)
    dispose(without)


def test_each_application_has_its_own_key(tmp_path: Path):
    """And its own service; the key is in no error."""
    service, keys = Flask("service"), []

    @service.post("/v1/embeddings")
    def embed() -> Any:
        keys.append(request.headers["Authorization"])
        if len(keys) > 2:
            return {"error": {"message": request.headers["Authorization"]}}, 401
        return {"data": [{"index": 0, "object": "embedding", "embedding": [1.0, 2.0]}]}

    with served(service) as address:
        apps = [
            application(
                f"sqlite:///{tmp_path / key}.db",
                EMBEDDINGS_MODEL="3-small",
                OPENAI_API_KEY=key,
                OPENAI_BASE_URL=f"{address}/v1",
            )
            for key in ("key-one", "key-two")
        ]
        for app in apps:
            with app.app_context():
                assert get_embedding_model("3-small").embed("a hound") == [1.0, 2.0]
        with apps[0].app_context(), pytest.raises(ModelError) as raised:
            get_embedding_model("text-embedding-3-small").embed("a hound")
    assert keys == ["Bearer key-one", "Bearer key-two", "Bearer key-one"]
    assert "key-one" not in repr(raised.value)
    assert "key-one" not in str(raised.value)


def test_beside_another_framework(tmp_path: Path):
    """Its settings hold outside of the applications, and theirs within them."""
    theirs = Settings(None, {"theirs": Named("theirs")})
    use_settings("theirs", lambda: theirs)
    app = application(f"sqlite:///{tmp_path / 'app.db'}", EMBEDDINGS_MODEL=Named("ours"))
    try:
        with app.app_context():
            assert get_embedding_model("ours").model_id == "ours"
        assert get_embedding_model("theirs").model_id == "theirs"
    finally:
        use_settings("theirs", lambda: None)


@pytest.mark.parametrize("model", [7, DeterministicModel, object()])
def test_a_default_that_is_no_model_is_refused_at_once(model: object):
    """When the application is made, and not when it first writes."""
    app = Flask(__name__)
    app.config["EMBEDDINGS_MODEL"] = model
    with pytest.raises(TypeError, match="model"):
        Embeddings(app)


# The commands


def test_the_commands_work_on_the_applications_database(url: str, model: DeterministicModel):
    """In the application's context: status exits with 1 before migrate, and with 0 after it."""
    app = application(url, EMBEDDINGS_MODEL=model)
    before = run(app, "status")
    assert before.output.startswith("No schema: migrate to ")
    assert before.exit_code == 1
    assert run(app, "migrate").output == f"The schema is at {head_revision()}.\n"
    with app.app_context():
        articles.embed(1, "a hound")
        db.session.commit()
    after = run(app, "status", "--json")
    assert [row["rows"] for row in json.loads(after.output)["collections"]] == [1]
    assert after.exit_code == 0
    assert "articles" in run(app, "status").output
    dispose(app)


def test_search_and_show_ask_the_applications_own_model(url: str, model: DeterministicModel):
    """Which is in its configuration, and known nowhere else; exit 1 for what is not there."""
    app = application(url, EMBEDDINGS_MODEL=model)
    run(app, "migrate")
    with app.app_context():
        articles.embed(1, "a hound", store=True)
        db.session.commit()
    model.calls.clear()
    found = run(app, "search", "articles", "a hound")
    assert (found.output, found.exit_code) == ("1.0000  1  a hound\n", 0)
    assert model.calls == [["a hound"]]
    assert json.loads(run(app, "show", "articles", "1", "--json").output)["content"] == "a hound"
    assert json.loads(run(app, "show", "articles", "--json").output)["rows"] == 1
    missing = run(app, "show", "articles", "2")
    assert missing.output == "Error: ID not found: '2' in collection 'articles'\n"
    assert missing.exit_code == 1
    dispose(app)


def test_a_table_of_the_hosts_in_the_way_is_left_alone(url: str):
    """Where the host owns a table `collections` in the same schema: one line, exit 1."""
    app = application(url)
    with app.app_context():
        table = "CREATE TABLE collections (id INTEGER PRIMARY KEY, label TEXT)"
        with db.engine.begin() as connection:
            connection.exec_driver_sql(table)
        result = run(app, "migrate")
        assert result.output.startswith("Error: This database has a table 'collections' that is ")
        assert (result.exit_code, result.output.count("\n")) == (1, 1)
        assert inspect(db.engine).get_table_names() == ["collections"]
    dispose(app)


def test_without_flask_sqlalchemy_the_commands_say_what_to_use():
    """One line, exit 1."""
    app = Flask(__name__)
    Embeddings().init_app(app)
    result = run(app, "status")
    assert result.output.startswith("Error: This application has no Flask-SQLAlchemy. ")
    assert result.exit_code == 1


# Another bind


@pytest.fixture
def bind_key() -> Iterator[str]:
    """The key of a bind, which is forgotten after the test."""
    yield "vectors"
    Base.metadata.info.pop("bind_key", None)


def test_the_tables_can_be_in_another_bind(
    url: str, bind_key: str, tmp_path: Path, model: DeterministicModel
):
    """There and nowhere else; the commands look there; a rollback takes back both."""
    other = f"sqlite:///{tmp_path / 'vectors.db'}"
    app = application(url, SQLALCHEMY_BINDS={bind_key: other}, EMBEDDINGS_MODEL=model)
    Embeddings(app, bind_key=bind_key)
    assert run(app, "migrate").exit_code == 0
    with app.app_context():
        HostBase.metadata.create_all(db.engine)
        assert inspect(db.engine).get_table_names() == ["articles"]
        assert {*inspect(db.engines[bind_key]).get_table_names()} >= OURS
        for end in (db.session.rollback, db.session.commit):
            article = Article(title="a hound")
            db.session.add(article)
            db.session.flush()
            articles.embed(article.id, article.title)
            end()
    assert stored(app) == (1, 1)
    assert "articles" in run(app, "status").output
    dispose(app)


def test_a_bind_that_is_not_there_is_named(tmp_path: Path, bind_key: str):
    """By the command, in one line."""
    app = application(f"sqlite:///{tmp_path / 'app.db'}")
    Embeddings(app, bind_key=bind_key)
    result = run(app, "status")
    assert result.output == "Error: SQLALCHEMY_BINDS has no bind 'vectors'\n"
    dispose(app)


# The host's migrations, by Flask-Migrate. In a process of their own: it sets up the logging.

PROJECT = """
import json, os, sys

from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import inspect, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import embeddings
from embeddings.integrations.flask import Embeddings
from embeddings.tables.records import RECORDS
from embeddings.testing import DeterministicModel

way, url, other = sys.argv[1:]

class Base(DeclarativeBase):
    pass

app = Flask("project")
app.config["SQLALCHEMY_DATABASE_URI"] = url
app.config["SQLALCHEMY_BINDS"] = {"vectors": other}
app.config["EMBEDDINGS_MODEL"] = DeterministicModel()
db = SQLAlchemy(app, model_class=Base)

class Article(Base):
    __tablename__ = "articles"
    id: Mapped[int] = mapped_column(primary_key=True)

options = {"include_object": embeddings.include_object}
records = RECORDS
if way != "default":
    class Shelf(Base):
        __tablename__ = "collections"
        id: Mapped[int] = mapped_column(primary_key=True)
        label: Mapped[str]
if way == "prefix":
    records = embeddings.make_records(db.Model, prefix="search_")
    options["render_item"] = embeddings.render_item

Migrate(app, db, **options)
Embeddings(app, bind_key="vectors" if way == "bind" else None)

def flask(*arguments):
    result = app.test_cli_runner().invoke(args=arguments)
    assert result.exit_code == 0, result

flask("db", "init")
if way == "prefix" and url.startswith("postgresql"):
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(text("CREATE EXTENSION vector"))
for _ in range(2):
    if way != "prefix":
        flask("embeddings", "migrate")
    flask("db", "migrate")  # writes a revision only where something is to be changed
    flask("db", "upgrade")
    if way == "prefix":
        with app.app_context(), db.engine.begin() as connection:
            embeddings.install(connection, records)
with app.app_context():
    docs = embeddings.Collection("docs", db.session, records=records)
    docs.embed("a", "a hound")
    assert [entry.id for entry in docs.similar("a hound")] == ["a"]
    db.session.commit()
    engines = [db.engine, db.engines["vectors"]]
    tables = [sorted(inspect(engine).get_table_names()) for engine in engines]
revisions = [name for name in os.listdir("migrations/versions") if name.endswith(".py")]
print(json.dumps([len(revisions), *tables]))
"""


@pytest.mark.parametrize(
    ("url", "way"),
    [
        *(("sqlite", way) for way in ("default", "bind", "prefix")),
        *(("postgresql", way) for way in ("default", "prefix")),
    ],
    indirect=["url"],
)
def test_flask_migrate_finds_nothing_to_change(url: str, way: str, tmp_path: Path):
    """After the host's tables were created, once; also where the host owns a `collections`.

    Then ours are in another bind, or under other names and the host's to migrate.
    """
    done = python(
        *("-c", PROJECT, way, url, f"sqlite:///{tmp_path / 'vectors.db'}"),
        cwd=tmp_path,
        modules=FLASK,
    )
    assert done.returncode == 0, done.stderr
    revisions, main, vectors = json.loads(done.stdout)
    assert revisions == 1
    sqlite_only = {"embeddings_log", "search_embeddings_log", "_sqlite_migrations"}
    hosts = {"alembic_version", "articles"}
    if way == "default":
        assert set(main) - sqlite_only == hosts | OURS
    elif way == "bind":
        assert set(main) == hosts | {"collections"}
        assert set(vectors) - sqlite_only == OURS
    else:
        own = {"collections", "search_collections", "search_embeddings"}
        own.add("search_embeddings_pending")
        assert set(main) - sqlite_only == hosts | own
    settings = {"search_language", "chunk_setting"}
    columns = {column["name"] for column in columns_of(url, "collections")} - settings
    assert columns == ({"id", "name", "model"} if way == "default" else {"id", "label"})


def columns_of(url: str, table: str) -> Any:
    """Return the columns of a table."""
    engine = create_engine(url)
    found = inspect(engine).get_columns(table)
    engine.dispose()
    return found


@pytest.mark.parametrize("has_migrate", [False, True])
def test_where_the_tables_are_missing(url: str, model: DeterministicModel, *, has_migrate: bool):
    """The error says what a user of Flask types."""
    app = application(url, EMBEDDINGS_MODEL=model)
    if has_migrate:
        Migrate(app, db)
    with app.app_context(), pytest.raises(embeddings.SchemaError) as raised:
        articles.embed(1, "a text")
    assert "flask embeddings migrate" in str(raised.value)
    assert ("flask db upgrade" in str(raised.value)) == has_migrate
    dispose(app)
    engine = create_engine(url)
    with pytest.raises(embeddings.SchemaError, match=r"with embeddings\.migrate\(engine\)$"):
        Collection("articles", engine, model=model).embed("a", "a text")
    engine.dispose()

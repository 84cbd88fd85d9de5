"""The program `embeddings`, and the overview that it prints."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, MetaData, create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import embeddings
from embeddings import Chunks, Collection, ModelCollection, Status, make_records
from embeddings.cli import embeddings as program
from embeddings.overview import CollectionOverview, Overview, overview
from embeddings.tables.custom import KNOWN
from embeddings.tables.migrate import head_revision
from tests.forked import python
from tests.reaching import on_both, on_postgresql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

    from embeddings.tables.records import Records
    from embeddings.testing import DeterministicModel

REPOSITORY = Path(__file__).parents[1]
HEAD = head_revision()


def run(*arguments: object, **environment: str) -> Result:
    """Run the program; an exception other than its own exit fails the test."""
    result = CliRunner(env=environment).invoke(program, [*map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of a migrated database without collections."""
    name = "engine" if request.param == "sqlite" else "postgresql_engine"
    url: str = request.getfixturevalue(name).url.render_as_string(hide_password=False)
    return url


@pytest.fixture
def filled(url: str, model: DeterministicModel) -> str:
    """The same with two collections, one of them empty."""
    with Collection("docs", url, model=model) as docs:
        docs.embed_multi([("a", "a hound"), ("ü", "a cat")])
    Collection("empty", url, model=model).close()
    return url


# The commands


@pytest.mark.parametrize("command", sorted(program.commands))
def test_help_needs_no_database(command: str):
    """All else says where it is named."""
    assert "Usage:" in run(command, "--help", EMBEDDINGS_DATABASE_URL="").stdout
    refused = run("status", EMBEDDINGS_DATABASE_URL="")
    assert refused.exit_code == 2
    assert "Give --database URL before the command" in refused.output


def test_errors_say_what_to_type_in_a_shell(tmp_path: Path):
    """Not what to call in Python."""
    path = tmp_path / "a file.db"
    create_engine(f"sqlite:///{path}").connect().close()
    path.touch()
    failed = run("--database", path, "search", "docs", "hound")
    assert f"embeddings --database '{path}' migrate" in failed.output
    with pytest.raises(embeddings.SchemaError, match=r"embeddings\.migrate\(engine\)"):
        Collection("docs", create_engine(f"sqlite:///{path}")).count()
    assert run("--database", path, "migrate").exit_code == 0
    failed = run("--database", path, "reembed", "nosuch")
    assert "Collection 'nosuch' does not exist" in failed.output
    failed = run("--database", path, "check")
    assert "--from MODULE:NAME" in failed.output


def test_status_shows_every_collection(filled: str):
    """Model, dimensions, rows and how it is searched, under the schema's revision; exit 0."""
    result = run("--database", filled, "status")
    lines = [re.split(r" {2,}", line) for line in result.stdout.splitlines()]
    search = (
        [
            "database: there is no index: create_index() makes one",
            "database: there is no index: create_index() makes one",
        ]
        if filled.startswith("postgresql")
        else [
            "matrix",  # nothing of it is in the memory of this program, whose business that is
            "scan: there is nothing to search",
        ]
    )
    assert lines == [
        [f"Schema {HEAD}, up to date."],
        [""],
        ["collection", "model", "dimensions", "rows", "search"],
        ["docs", "deterministic", "256", "2", search[0]],
        ["empty", "deterministic", "-", "0", search[1]],
    ]
    assert result.exit_code == 0


def test_status_as_json_has_the_same_facts(filled: str):
    """For scripts."""
    result = run("--database", filled, "status", "--json")
    found = json.loads(result.stdout)
    assert (found["revision"], found["head"]) == (HEAD, HEAD)
    assert [(row["name"], row["dimensions"], row["rows"]) for row in found["collections"]] == [
        ("docs", 256, 2),
        ("empty", None, 0),
    ]


def test_the_database_can_be_named_by_the_environment(filled: str):
    """In EMBEDDINGS_DATABASE_URL, as for Alembic."""
    assert "docs" in run("status", EMBEDDINGS_DATABASE_URL=filled).stdout


def test_the_commands_are_those_of_every_way_to_run_them():
    """What was `collections` is part of `status`."""
    reading = {"migrate", "status", "search", "show"}
    assert set(program.commands) == reading | {"check", "sync", "refresh", "reembed", "distribute"}


@pytest.fixture
def stored(url: str, deterministic_models: object) -> str:
    """A collection of a model that the program can find, with contents and metadata."""
    with Collection("docs", url, model_id="3-small") as docs:
        docs.embed("a/1", "a hound in the snow", {"year": 2022}, store=True)
        docs.embed("a/2", f"a cat\nand {'many words ' * 20}", store=True)
        docs.embed("b/1", "quarterly tax report")
    return url


def test_search_prints_score_id_and_content(stored: str):
    """Best first, each in one line, a long content shortened."""
    result = run("--database", stored, "search", "docs", "a hound in the snow")
    lines = [re.split(r" {2,}", line) for line in result.stdout.splitlines()]
    assert lines[0] == ["1.0000", "a/1", "a hound in the snow"]
    [cat] = [line for line in lines if line[1] == "a/2"]
    assert cat[2].startswith("a cat and many words")
    assert cat[2].endswith("...")
    assert len(cat[2]) < 70
    assert {line[1].strip() for line in lines} == {"a/1", "a/2", "b/1"}
    assert result.exit_code == 0


def test_search_as_json_has_the_entries(stored: str):
    """As `similar` gives them."""
    result = run("--database", stored, "search", "docs", "a hound in the snow", "-n", 1, "--json")
    assert json.loads(result.stdout) == [
        {
            "id": "a/1",
            "score": pytest.approx(1.0),
            "content": "a hound in the snow",
            "metadata": {"year": 2022},
        }
    ]
    few = run("--database", stored, "search", "docs", "hound", "--prefix", "b/", "--json")
    assert [entry["id"] for entry in json.loads(few.stdout)] == ["b/1"]


def test_search_as_json_has_the_chunk(url: str, deterministic_models: object):
    """By which an item was found, where there are chunks."""
    content = "One sentence of some words. " * 10
    with Collection("docs", url, model_id="3-small", chunks=Chunks(size=100)) as docs:
        docs.embed("long", content, store=True)
    result = run("--database", url, "search", "docs", "some words", "--json")
    [entry] = json.loads(result.stdout)
    chunk = entry.pop("chunk")
    assert entry.keys() == {"id", "score", "content", "metadata"}
    assert (entry["id"], entry["content"]) == ("long", content)
    assert chunk["text"] == content[chunk["start"] : chunk["end"]]
    assert chunk["number"] in range(10)


def test_search_that_finds_nothing_exits_with_1(stored: str):
    """So that a pipeline can tell; the output is no error."""
    nothing = run("--database", stored, "search", "docs", "hound", "--prefix", "c/")
    assert (nothing.stdout, nothing.exit_code) == ("Nothing was found.\n", 1)
    as_json = run("--database", stored, "search", "docs", "hound", "--prefix", "c/", "--json")
    assert (as_json.stdout, as_json.exit_code) == ("[]\n", 1)


def test_show_a_collection(stored: str):
    """Its model, rows and how it is searched."""
    result = run("--database", stored, "show", "docs")
    facts = dict(re.split(r" {2,}", line, maxsplit=1) for line in result.stdout.splitlines())
    assert (facts["name"], facts["rows"]) == ("docs", "3")
    assert facts["model"] == "text-embedding-3-small"
    assert facts["strategy"] == ("database" if stored.startswith("postgresql") else "matrix")
    assert not {"rows_in_memory", "bytes"} & facts.keys()  # of a program that ends now
    as_json = json.loads(run("--database", stored, "show", "docs", "--json").stdout)
    assert (as_json["items"], as_json["rows"], as_json["index"]) == (3, 3, None)
    assert (as_json["chunks"], as_json["text_index"]) == (None, None)
    assert result.exit_code == 0


def test_show_a_collection_with_chunks(url: str, model: DeterministicModel):
    """How its texts are cut, how many chunks that makes, and the language of its text index."""
    with Collection("long", url, model=model, chunks=Chunks(size=20, overlap=5)) as docs:
        docs.create_text_index("simple")
        docs.embed_multi([("a", "a happy hound in the snow, and no cat"), ("b", "a cat")])
        rows = docs.count(chunks=True)
    shown = json.loads(run("--database", url, "show", "long", "--json").stdout)
    assert (shown["items"], shown["rows"]) == (2, rows)
    assert (shown["chunks"], shown["text_index"]) == ("Chunks(size=20, overlap=5)", "simple")
    item = json.loads(run("--database", url, "show", "long", "a", "--json").stdout)
    assert (item["chunks"], item["dimensions"]) == (rows - 1, None)


def test_show_an_item(stored: str):
    """Its content, metadata and vector's length, and when it was written."""
    result = run("--database", stored, "show", "docs", "a/1", "--json")
    found = json.loads(result.stdout)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]+\+00:00", found.pop("updated"))
    assert found == {
        "id": "a/1",
        "chunks": 1,
        "dimensions": 256,
        "metadata": {"year": 2022},
        "content": "a hound in the snow",
        "content_bytes": None,
    }
    lines = run("--database", stored, "show", "docs", "b/1").stdout.splitlines()
    assert lines[0].split() == ["id", "b/1"]
    assert ["content", "-"] in [line.split() for line in lines]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "nothing", "hound"], "Collection 'nothing' does not exist"),
        (["search", "docs", ""], "there is nothing to search for: the query is empty"),
        (["search", "docs", "hound", "-n", -1], "number must be a whole number"),
        (["show", "nothing"], "Collection 'nothing' does not exist"),
        (["show", "docs", "none"], "ID not found: 'none' in collection 'docs'"),
    ],
)
def test_what_cannot_be_found_or_meant_is_one_line(stored: str, arguments: Any, message: str):
    """It exits with 1."""
    result = run("--database", stored, *arguments)
    assert result.stderr.startswith(f"Error: {message}")
    assert (result.stderr.count("\n"), result.stdout, result.exit_code) == (1, "", 1)


def test_a_model_that_cannot_be_had_is_one_line(filled: str):
    """The collection's own model is asked, and no other."""
    result = run("--database", filled, "search", "docs", "hound")
    assert result.stderr == "Error: Unknown model: deterministic\n"
    assert result.exit_code == 1


@contextmanager
def own_tables(url: str, base: type[DeclarativeBase], prefix: str) -> Iterator[Records]:
    """Tables of a prefix, which are dropped and forgotten afterwards."""
    records, engine = make_records(base, prefix=prefix), create_engine(url)
    base.metadata.create_all(engine)
    try:
        yield records
    finally:
        base.metadata.drop_all(engine)
        engine.dispose()
        if records in KNOWN:
            KNOWN.remove(records)


@contextmanager
def in_tables_of(url: str, prefix: str, name: str, text: str) -> Iterator[None]:
    """A collection in tables of a prefix, of which this process does not know."""

    class Base(DeclarativeBase):
        """Of an application."""

    with own_tables(url, Base, prefix) as records:
        engine = create_engine(url)
        Collection(name, engine, model_id="3-small", records=records).embed("a", text, store=True)
        engine.dispose()
        KNOWN.remove(records)
        yield


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    engine = request.getfixturevalue("empty_postgresql")("psycopg")
    url: str = engine.url.render_as_string(hide_password=False)
    return url


def test_the_commands_find_a_collection_in_the_hosts_own_tables(
    empty_url: str, deterministic_models: object
):
    """By its name, where there are no others, and where there are."""
    with in_tables_of(empty_url, "search_", "notes", "a hound"):
        for _ in range(2):
            found = run("--database", empty_url, "search", "notes", "a hound")
            assert re.split(r" {2,}", found.stdout.strip()) == ["1.0000", "a", "a hound"]
            assert "text-embedding-3-small" in run("--database", empty_url, "show", "notes").stdout
            missing = run("--database", empty_url, "show", "nothing")
            assert missing.stderr == "Error: Collection 'nothing' does not exist\n"
            run("--database", empty_url, "migrate")
        changed = run("--database", empty_url, "reembed", "notes", "3-large")
        assert changed.stdout == "notes: 1 embedded\n"
        assert "text-embedding-3-large" in run("--database", empty_url, "show", "notes").stdout


def test_a_name_in_two_tables(stored: str):
    """Has to be told apart, by what status shows."""
    with in_tables_of(stored, "search_", "docs", "another hound"):
        assert "search_embeddings" in run("--database", stored, "status").stdout
        for command in (
            ["search", "docs", "hound"],
            ["show", "docs"],
            ["reembed", "docs", "3-large"],
        ):
            result = run("--database", stored, *command)
            assert result.stderr == (
                "Error: Several tables have a collection 'docs': name one of them by --table, "
                "embeddings or search_embeddings\n"
            )
            nothing = run("--database", stored, *command, "--table", "search")
            assert nothing.stderr == "Error: There is no collection 'docs' in a table 'search'\n"
        for table, content in (("embeddings", "a hound"), ("search_embeddings", "another hound")):
            shown = run("--database", stored, "show", "docs", "a", "--table", table)
            assert (content in shown.stdout) is (table == "search_embeddings")
            found = run("--database", stored, "search", "docs", content, "-n", 1, "--table", table)
            assert content in found.stdout
        changed = run(
            "--database", stored, "reembed", "docs", "3-large", "--table", "search_embeddings"
        )
        assert changed.stdout == "docs: 1 embedded\n"
        ours = run("--database", stored, "show", "docs", "--table", "embeddings")
        assert "text-embedding-3-small" in ours.stdout


def test_a_declared_collection_is_where_its_declaration_says(
    stored: str, monkeypatch: pytest.MonkeyPatch
):
    """Also where other tables have one of its name."""

    class Base(DeclarativeBase):
        """Of an application."""

    class Note(Base):
        """A row to follow."""

        __tablename__ = "notes_of_declared"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str]

    with own_tables(stored, Base, "declared_") as records:
        docs = ModelCollection(
            Note, text=[Note.title], name="docs", model_id="3-small", store=True, records=records
        )
        engine = create_engine(stored)
        with Session(engine) as session:
            session.add(Note(title="a declared hound"))
            session.commit()
        docs.sync(engine)
        engine.dispose()
        module = ModuleType("declares_docs")
        module.docs = docs  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        declared = ("--database", stored, "--from", "declares_docs:docs")
        assert "a declared hound" in run(*declared, "search", "docs", "hound").stdout
        assert re.search(r"^items +1$", run(*declared, "show", "docs").stdout, re.MULTILINE)
        assert run(*declared, "reembed", "docs", "3-large").stdout == "docs: 1 embedded\n"
        ours = run(*declared, "show", "docs", "--table", "embeddings")
        assert re.search(r"^items +3$", ours.stdout, re.MULTILINE)


@pytest.mark.parametrize("command", [["search", "docs", "hound"], ["show", "docs"]])
def test_looking_changes_nothing(tmp_path: Path, model: DeterministicModel, command: list[str]):
    """No file is created, and none is migrated."""
    missing, old = tmp_path / "mistyped.db", tmp_path / "old.db"
    result = run("--database", missing, *command)
    assert result.stderr.startswith("Error: Collection 'docs' does not exist: there is no such")
    assert not missing.exists()
    engine = create_engine(f"sqlite:///{old}")
    embeddings.migrate(engine, "emb_0001")
    Collection("docs", engine, model=model)
    engine.dispose()
    run("--database", old, *command)
    before = run("--database", old, "status")
    assert before.stdout.startswith("Schema emb_0001, but")


def test_migrate_brings_an_old_schema_up_to_date(tmp_path: Path, model: DeterministicModel):
    """Status exits with 1 before and with 0 after it, and shows the collections in both cases."""
    path = tmp_path / "app.db"
    engine = create_engine(f"sqlite:///{path}")
    embeddings.migrate(engine, "emb_0001")
    Collection("docs", engine, model=model).embed("a", "a hound")
    engine.dispose()

    before = run("--database", path, "status")
    assert before.stdout.startswith(f"Schema emb_0001, but this library's is {HEAD}: migrate.\n")
    assert before.exit_code == 1
    migrating = run("--database", path, "migrate")
    assert (migrating.stdout, migrating.exit_code) == (f"The schema is at {HEAD}.\n", 0)
    after = run("--database", path, "status")
    assert after.exit_code == 0
    assert "docs" in before.stdout
    assert "docs" in after.stdout


def test_status_of_a_database_without_the_tables(tmp_path: Path):
    """It exits with 1 and changes nothing."""
    path = tmp_path / "app.db"
    path.touch()
    result = run("--database", path, "status")
    assert result.stdout == f"No schema: migrate to {HEAD}.\nNo collections.\n"
    assert result.exit_code == 1
    assert path.read_bytes() == b""


def test_a_file_that_is_not_there_is_not_created_by_looking(tmp_path: Path):
    """A mistyped path stays without a file; status says so, and does not advise to make one."""
    path = tmp_path / "mistyped.db"
    for options in ([], ["--json"]):
        result = run("--database", path, "status", *options)
        assert result.stderr == "Error: The database does not exist: there is no such file\n"
        assert (result.stdout, result.exit_code) == ("", 1)
    assert not path.exists()


# Errors


@pytest.mark.parametrize("command", ["migrate", "status", "show docs"])
@pytest.mark.parametrize(
    ("database", "message"),
    [
        ("postgresql+psycopg://me:s3cret@127.0.0.1:1/db", "connection failed: "),
        ("postgresql+psycopg://me:odd@s3cret@127.0.0.1:1/db", "This URL has two @: "),
        ("postgresql+psycopg://me:s3cret@host:s3cret/db", "This URL cannot be read; "),
        ("postgresql+psycopg://me:s3cret@127.0.0.1:1/db?odd=1", "invalid connection option "),
        (
            "postgresql+asyncpg://me:s3cret@127.0.0.1:1/db",
            "The driver asyncpg is asynchronous: use the same URL with a synchronous one, as "
            "postgresql+psycopg://...",
        ),
        (
            "sqlite+aiosqlite://",
            "The driver aiosqlite is asynchronous: use the same URL with a synchronous one, as "
            "sqlite:///...",
        ),
        ("nonsense://me:s3cret@host/db", "Can't load plugin: sqlalchemy.dialects:nonsense"),
    ],
)
def test_an_error_is_one_line_without_the_password(command: str, database: str, message: str):
    """It exits with 1; there is no traceback."""
    result = run("--database", database, *command.split())
    assert result.stderr.startswith(f"Error: {message}")
    assert result.stderr.count("\n") == 1
    assert "s3cret" not in result.output
    assert result.exit_code == 1


@pytest.mark.parametrize("command", ["migrate", "status"])
def test_tables_of_somebody_else_are_left_alone(command: str, tmp_path: Path):
    """The library's own error, in one line, also where the program has records of that name."""

    class Base(DeclarativeBase):
        """Of an application that has these tables elsewhere."""

    embeddings.make_records(Base)
    path = tmp_path / "app.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        for name in ("collections", "embeddings"):
            connection.execute(text(f"CREATE TABLE {name} (name)"))
    engine.dispose()
    result = run("--database", path, command)
    assert result.stderr.startswith("Error: This database has a table 'collections' that is not ")
    assert (result.stderr.count("\n"), result.exit_code) == (1, 1)


def test_no_database_is_an_error_of_usage():
    """It names the option and the variable."""
    result = run("status", EMBEDDINGS_DATABASE_URL="")
    assert "--database" in result.stderr
    assert "EMBEDDINGS_DATABASE_URL" in result.stderr
    assert result.exit_code == 2


def test_without_click_the_program_names_the_extra(tmp_path: Path):
    """One line, exit 1."""
    (tmp_path / "click.py").write_text("raise ImportError")
    done = python(
        *("-m", "embeddings", "status"),
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])},
    )
    assert done.stderr.startswith("Error: This needs the package 'click'. Install it with: ")
    assert "sqlalchemy-embeddings[cli]" in done.stderr
    assert (done.stderr.count("\n"), done.returncode) == (1, 1)


@pytest.mark.once
def test_the_commands_of_the_documentation_work(tmp_path: Path):
    """The installed program runs them as they stand there."""
    page = (REPOSITORY / "docs" / "command-line.md").read_text()
    commands = "".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))
    Collection("docs", tmp_path / "app.db", model_id="local").close()
    programs = Path(sys.executable).parent
    done = subprocess.run(
        [shutil.which("sh") or "sh", "-e", "-c", commands],
        env=os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Schema {HEAD}, up to date." in done.stdout


WITHOUT_ALEMBIC = """
import sys
from sqlalchemy import create_engine
from embeddings.overview import overview
assert overview(create_engine(sys.argv[1])).is_current
assert "embeddings.tables.alembic" not in sys.modules
"""


@pytest.mark.parametrize("prefix", ["", "nowhere_declared_"])
def test_status_knows_the_type_of_vectors(prefix: str, postgresql_engine: Engine):
    """SQLAlchemy, which does not, warns of it where nothing else has loaded Alembic's room."""
    metadata = MetaData()
    if prefix:
        make_records(metadata, prefix=prefix)
        metadata.create_all(postgresql_engine)
    url = postgresql_engine.url.render_as_string(hide_password=False)
    done = subprocess.run(
        [sys.executable, "-W", "error:Did not recognize type", "-c", WITHOUT_ALEMBIC, url],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    metadata.drop_all(postgresql_engine)
    assert (done.returncode, done.stderr) == (0, "")


# The overview


@on_both
def test_an_overview_reads_within_the_callers_transaction(db: Any, model: DeterministicModel):
    """It sees what is not committed, and ends nothing."""
    Collection("docs", db, model=model).embed("a", "a hound")
    transaction = db.get_transaction()
    found = overview(db)
    assert (found.is_current, [row.rows for row in found.collections]) == (True, [1])
    assert db.get_transaction() is transaction
    db.rollback()
    assert overview(db).collections == ()


def test_an_overview_tells_what_is_in_memory(engine: Engine, model: DeterministicModel):
    """After two searches of the process the rows are there."""
    docs = Collection("docs", engine, model=model)
    docs.embed("a", "a hound")
    for _ in range(2):
        docs.similar("hound")
    assert overview(engine) == Overview(
        HEAD,
        HEAD,
        (CollectionOverview("docs", "deterministic", 256, 1, "matrix", None),),
        ("embeddings",),
    )


@on_postgresql
def test_an_overview_tells_of_the_index(db: Any, model: DeterministicModel):
    """On PostgreSQL, where there are indexes."""
    docs = Collection("docs", db, model=model)
    docs.embed("a", "a hound")
    docs.create_index()
    assert [row.strategy for row in overview(db).collections] == ["index"]
    info = docs.index_info()
    assert info is not None
    assert docs.status() == Status("index", None, 1, info.bytes, index=info)
    docs.drop_index()
    status = docs.status()
    assert (status.strategy, status.rows, status.index) == ("database", 1, None)
    assert status.reason == "there is no index: create_index() makes one"


def test_an_overview_of_one_schema_among_several(postgresql_engine: Engine):
    """Of PostgreSQL's: the one that the engine's connections translate to, without our tables."""
    # SQLAlchemy keeps statements for an engine, and those of other maps do not fit.
    engine = create_engine(postgresql_engine.url)
    with engine.connect() as connection:
        connection.execute(text("CREATE SCHEMA other"))
        connection.execution_options(schema_translate_map={None: "other"})
        assert overview(connection) == Overview(None, HEAD, ())
    engine.dispose()

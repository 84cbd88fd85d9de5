"""The program `embeddings`, and the overview that it prints."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, create_engine, text

import embeddings
from embeddings import Collection
from embeddings.cli import embeddings as program
from embeddings.overview import CollectionOverview, Overview, overview
from embeddings.tables.migrate import head_revision
from tests.databases import on_both, on_postgresql

if TYPE_CHECKING:
    from click.testing import Result

    from embeddings.testing import DeterministicModel

REPOSITORY = Path(__file__).parents[2]
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


def test_status_shows_every_collection(filled: str):
    """Model, dimensions, rows and how it is searched, under the schema's revision; exit 0."""
    result = run("--database", filled, "status")
    lines = [re.split(r" {2,}", line) for line in result.stdout.splitlines()]
    search = (
        ["database", "database"]
        if filled.startswith("postgresql")
        else [
            "scan: nothing is in memory yet: the second search of a process loads it",
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
    assert run("collections", EMBEDDINGS_DATABASE_URL=filled).stdout == "docs\nempty\n"


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
    """A mistyped path stays without a file, and status exits with 1."""
    path = tmp_path / "mistyped.db"
    assert run("--database", path, "status").exit_code == 1
    assert run("--database", path, "collections").stdout == ""
    assert not path.exists()


# Errors


@pytest.mark.parametrize("command", ["migrate", "status", "collections"])
@pytest.mark.parametrize(
    ("database", "message"),
    [
        ("postgresql+psycopg://me:s3cret@127.0.0.1:1/db", "connection failed: "),
        ("postgresql+psycopg://me:odd@s3cret@127.0.0.1:1/db", "This URL has two @: "),
        ("postgresql+psycopg://me:s3cret@host:s3cret/db", "This URL cannot be read; "),
        ("postgresql+psycopg://me:s3cret@127.0.0.1:1/db?odd=1", "invalid connection option "),
        ("nonsense://me:s3cret@host/db", "Can't load plugin: sqlalchemy.dialects:nonsense"),
    ],
)
def test_an_error_is_one_line_without_the_password(command: str, database: str, message: str):
    """It exits with 1; there is no traceback."""
    result = run("--database", database, command)
    assert result.stderr.startswith(f"Error: {message}")
    assert result.stderr.count("\n") == 1
    assert "s3cret" not in result.output
    assert result.exit_code == 1


@pytest.mark.parametrize("command", ["migrate", "status"])
def test_tables_of_somebody_else_are_left_alone(command: str, tmp_path: Path):
    """The library's own error, in one line."""
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
    done = subprocess.run(
        [sys.executable, "-m", "embeddings", "status"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.startswith("Error: This needs the package 'click'. Install it with: ")
    assert "sqlalchemy-embeddings[cli]" in done.stderr
    assert (done.stderr.count("\n"), done.returncode) == (1, 1)


def test_the_commands_of_the_readme_work(tmp_path: Path):
    """The installed program runs them as they stand there."""
    section = (REPOSITORY / "README.md").read_text().partition("## On the command line\n")[2]
    commands = section.partition("```sh\n")[2].partition("```")[0]
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


def test_an_overview_of_one_schema_among_several(postgresql_engine: Engine):
    """Of PostgreSQL's: the one that the engine's connections translate to, without our tables."""
    # SQLAlchemy keeps statements for an engine, and those of other maps do not fit.
    engine = create_engine(postgresql_engine.url)
    with engine.connect() as connection:
        connection.execute(text("CREATE SCHEMA other"))
        connection.execution_options(schema_translate_map={None: "other"})
        assert overview(connection) == Overview(None, HEAD, ())
    engine.dispose()

"""`check`, `sync` and `refresh`: `embeddings --from module:name`, and `flask embeddings`."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text

from embeddings import Collection
from embeddings.cli import embeddings as program
from embeddings.cli import shown_url
from embeddings.integrations.flask import Embeddings
from embeddings.models.registry import substitute_models
from embeddings.testing import DeterministicModel
from tests.forked import WAIT, started

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result
    from sqlalchemy import Engine

MODULE = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from embeddings import ModelCollection
from embeddings.testing import DeterministicModel


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str | None]


class Model(DeterministicModel):
    def embed_batch(self, items):
        if "bad" in items:
            raise ValueError("a content")
        return super().embed_batch(items)


notes = ModelCollection(Note, text=[Note.body], name="notes", model=Model())
both = [notes, ModelCollection(Note, text=[Note.body], name="others", model=Model())]
"""


@pytest.fixture
def engine_of_notes(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The database of an application whose module declares collections, without triggers."""
    (tmp_path / "notes_app.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "notes_app", raising=False)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)"))
        connection.execute(text("INSERT INTO notes (body) VALUES ('one'), ('two'), ('three')"))
    return engine


def run(engine: Engine, *arguments: str, place: str = "notes_app:notes") -> Result:
    """Run the program; an exception other than its own exit fails the test."""
    database = engine.url.render_as_string(hide_password=False)
    given = ["--database", database, "--from", place, *arguments]
    result = CliRunner().invoke(program, given)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def typed(engine: Engine) -> str:
    """Return what `run` types before the name of a command."""
    return f"embeddings --database {engine.url} --from notes_app:notes"


def execute(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement))


def test_check_sync_refresh(engine_of_notes: Engine):
    """`check` ends with 1 where anything differs, or a trigger does, and says what."""
    engine = engine_of_notes
    result = run(engine, "check")
    assert result.exit_code == 1
    assert "notes: 0 stale, 3 missing, 0 orphaned, 0 pending" in result.stdout
    assert "  missing: 1, 2, 3" in result.stdout
    assert "  triggers: " in result.stdout
    result = run(engine, "status")
    assert result.exit_code == 1
    assert "the triggers on 'notes' are missing" in result.stdout

    result = run(engine, "sync")
    assert (result.exit_code, result.stdout) == (0, "notes: 3 embedded\n")
    import notes_app  # type: ignore[import-not-found]

    notes_app.notes.install(engine)
    result = run(engine, "check")
    assert (result.exit_code, result.stdout) == (
        0,
        "notes: 0 stale, 0 missing, 0 orphaned, 0 pending\n",
    )

    assert run(engine, "status").exit_code == 0

    execute(engine, "UPDATE notes SET body = 'edited' WHERE id = 1")
    execute(engine, "DELETE FROM notes WHERE id = 2")
    result = run(engine, "check")
    assert result.exit_code == 1
    assert "1 stale, 0 missing, 0 orphaned, 2 pending" in result.stdout
    result = run(engine, "refresh")
    assert (result.exit_code, result.stdout) == (0, "notes: 1 embedded\n")
    assert run(engine, "refresh", "notes").stdout == "notes: nothing to do\n"
    assert run(engine, "check").exit_code == 0

    execute(engine, "UPDATE notes SET body = 'bad' WHERE id = 1")
    result = run(engine, "refresh")
    assert (result.exit_code, result.stdout) == (
        1,
        "notes: 1 skipped, 1 pending\n  1 was left: ValueError at notes_app.py:21\n",
    )
    result = run(engine, "check")
    assert "1 cannot be embedded (1 attempts): ValueError at notes_app.py:21" in result.stdout
    assert "a content" not in result.output
    notes_app.notes.uninstall(engine)
    execute(engine, "DELETE FROM notes")
    result = run(engine, "sync")
    assert result.exit_code == 1
    assert "allow_empty" in result.output
    assert run(engine, "sync", "--no-prune").exit_code == 0
    assert run(engine, "sync", "--allow-empty").exit_code == 0


def test_where_collections_come_from(engine_of_notes: Engine):
    """One of a module, a list, or all of it; and what is wrong is said in a line."""
    engine = engine_of_notes
    assert run(engine, "sync", place="notes_app").stdout.startswith("notes: 3 embedded")
    result = run(engine, "sync", "others", place="notes_app:both")
    assert result.stdout == "others: 3 embedded\n"
    assert len(run(engine, "refresh", place="notes_app:both").stdout.splitlines()) == 2
    for place, reason in (
        ("notes_app:Note", "no ModelCollection at 'notes_app:Note'"),
        ("notes_app:missing", "no ModelCollection at 'notes_app:missing'"),
        ("no_such_module:notes", "No module named 'no_such_module'"),
    ):
        result = run(engine, "check", place=place)
        assert (result.exit_code, reason in result.output) == (1, True)
    result = run(engine, "check", "unknown")
    assert "No collection 'unknown' is declared; there are ['notes']" in result.output


@pytest.mark.parametrize(
    "command", [["check"], ["sync"], ["refresh"], ["reembed", "notes", "deterministic"]]
)
@pytest.mark.usefixtures("engine_of_notes")
def test_a_file_that_is_not_there_is_not_created(tmp_path: Path, command: list[str]):
    """As by the commands that look: a path that was mistyped is an error that says so."""
    for database in (str(tmp_path / "mistyped.db"), f"sqlite:///{tmp_path / 'mistyped.db'}"):
        result = CliRunner().invoke(
            program, ["--database", database, "--from", "notes_app:notes", *command]
        )
        assert result.exit_code == 1
        assert result.output == "Error: Collection 'notes' does not exist: there is no such file\n"
    assert not (tmp_path / "mistyped.db").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_ends_by_a_signal(engine_of_notes: Engine, tmp_path: Path, number: signal.Signals):
    """`refresh --forever` embeds what becomes pending, and ends with 0 after its batch."""
    engine = engine_of_notes
    run(engine, "sync")
    import notes_app

    notes_app.notes.install(engine)
    out, err = tmp_path / "out", tmp_path / "err"
    with started(
        *("-m", "embeddings", "--database", str(engine.url)),
        *("--from", "notes_app:notes", "refresh", "--forever"),
        stdout=out,
        stderr=err,
        env={"PYTHONPATH": ":".join(sys.path)},
    ) as worker:
        execute(engine, "UPDATE notes SET body = 'edited'")
        pending = "SELECT count(*) FROM embeddings_pending WHERE collection = 'notes'"
        while True:
            with engine.connect() as connection:
                if connection.scalar(text(pending)) == 0:
                    break
            assert worker.wait(0.01) is None
        worker.send(number)
        code = worker.wait(WAIT)
    assert (code, out.read_text(), err.read_text()) == (0, "notes: 3 embedded\n", "")


def test_flask(engine_of_notes: Engine):
    """`Embeddings(app, collections=[...])`: the same commands on the application's database."""
    import notes_app

    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = str(engine_of_notes.url)
    SQLAlchemy(app)
    Embeddings(app, collections=[notes_app.notes])
    runner = app.test_cli_runner()

    def flask(*arguments: str) -> Any:
        return runner.invoke(args=["embeddings", *arguments])

    assert flask("check").exit_code == 1
    assert flask("sync").output == "notes: 3 embedded\n"
    assert flask("refresh").output == "notes: nothing to do\n"
    notes_app.notes.install(engine_of_notes)
    assert flask("check").exit_code == 0
    bare = Flask(__name__)
    bare.config["SQLALCHEMY_DATABASE_URI"] = str(engine_of_notes.url)
    SQLAlchemy(bare)
    Embeddings(bare)
    result = bare.test_cli_runner().invoke(args=["embeddings", "check"])
    assert (result.exit_code, "no collection that follows" in result.output) == (1, True)


def test_another_model(engine_of_notes: Engine, monkeypatch: pytest.MonkeyPatch):
    """`status` and `check` say which collection has another model, and `reembed` changes it."""
    engine = engine_of_notes
    known = {name: DeterministicModel(name) for name in ("deterministic", "larger")}
    with substitute_models(lambda model_id, given: known.get(model_id) or given):  # type: ignore[arg-type,return-value]
        run(engine, "sync")
        import notes_app

        notes_app.notes.install(engine)
        Collection("docs", engine, model_id="deterministic").embed("a", "a text", store=True)
        assert "reembed" not in run(engine, "status").stdout
        monkeypatch.setenv("EMBEDDINGS_MODEL", "larger")
        result = run(engine, "status")
        assert result.exit_code == 0
        assert (
            "docs has the model 'deterministic', and its declaration or the settings say 'larger'. "
            f"To embed it anew: {typed(engine)} reembed docs larger\n"
        ) in result.stdout
        assert "notes has the model" not in result.stdout
        assert json.loads(run(engine, "status", "--json").stdout)["collections"][0]["wanted"]
        assert run(engine, "reembed", "docs").stdout == "docs: 1 embedded\n"
        assert "reembed" not in run(engine, "status").stdout
        result = run(engine, "reembed", "docs")
        assert (result.exit_code, "name the one that it is to have" in result.output) == (1, True)

        assert run(engine, "reembed", "notes", "larger").stdout == "notes: 3 embedded\n"
        result = run(engine, "check")
        assert result.exit_code == 1
        assert f"{typed(engine)} reembed notes deterministic\nnotes: 0 stale" in result.stdout
        assert run(engine, "reembed", "notes", "--back").stdout == "notes: 3 unchanged\n"
        assert run(engine, "check").exit_code == 0
        assert "are deleted" in run(engine, "reembed", "notes", "--drop-previous").stdout
        assert run(engine, "reembed", "notes", "--drop-previous").stdout == (
            "notes: nothing to drop\n"
        )
        assert run(engine, "reembed", "missing", "larger").exit_code == 1
        Collection("notes", engine).reembed("larger", lambda ids: dict.fromkeys(ids, "a text"))
        Collection("notes", engine).drop_previous()
        result = run(engine, "check")
        assert result.exit_code == 1
        assert result.stdout.endswith(f"{typed(engine)} reembed notes deterministic\n")

        monkeypatch.delenv("EMBEDDINGS_MODEL")
        app = Flask(__name__)
        app.config["SQLALCHEMY_DATABASE_URI"] = str(engine.url)
        app.config["EMBEDDINGS_MODEL"] = "deterministic"
        SQLAlchemy(app)
        Embeddings(app)
        result = app.test_cli_runner().invoke(args=["embeddings", "status"])
        assert "embeddings reembed docs deterministic" in result.output


def test_what_is_to_be_typed_works(engine_of_notes: Engine, monkeypatch: pytest.MonkeyPatch):
    """The hint names what was typed, without a password, or says what is lacking for the texts."""
    engine = engine_of_notes
    url = str(engine.url)
    known = {name: DeterministicModel(name) for name in ("deterministic", "larger")}
    with substitute_models(lambda model_id, given: known.get(model_id) or given):  # type: ignore[arg-type,return-value]
        run(engine, "sync")
        import notes_app

        notes_app.notes.install(engine)
        Collection("notes", engine).reembed("larger", lambda ids: dict.fromkeys(ids, "a text"))
        for options, environment in (
            (["--database", url], {}),
            ([], {"EMBEDDINGS_DATABASE_URL": url}),
        ):
            options = [*options, "--from", "notes_app:notes"]
            result = CliRunner(env=environment).invoke(program, [*options, "check"])
            [hint] = re.findall("To embed it anew: (embeddings .*)", result.output)
            assert hint == shlex.join(["embeddings", *options, "reembed", "notes", "deterministic"])
        [*_, hint] = hint.partition(" ")
        result = CliRunner(env={"EMBEDDINGS_DATABASE_URL": url}).invoke(program, shlex.split(hint))
        assert result.exit_code == 0

        monkeypatch.setenv("EMBEDDINGS_MODEL", "larger")
        result = CliRunner().invoke(program, ["--database", url, "status"])
        assert (
            "Its texts are those of rows: name its declaration, as by --from MODULE:NAME. To embed "
            f"it anew: embeddings --database {url} reembed notes larger\n"
        ) in result.output
        run(engine, "reembed", "notes", "--drop-previous")
        result = CliRunner().invoke(program, ["--database", url, "reembed", "notes", "larger"])
        assert result.exit_code == 1
        assert result.stderr == (
            "Error: 3 items of 'notes' have no stored content to embed. If it follows rows, these "
            "have the texts: name its declaration, on the command line by --from MODULE:NAME, in "
            "Python by ModelCollection.reembed(). Else give contents=, a function that returns the "
            "contents of ids, or leave them out with on_error=\"skip\" [ids '1', '2', '3']\n"
        )


@pytest.mark.parametrize(
    ("database", "shown"),
    [
        ("app.db", "app.db"),
        ("sqlite:///my app.db", "'sqlite:///my app.db'"),
        ("postgresql+psycopg://me@host/db?sslmode=require", None),
        ("postgresql+psycopg://me:s3cret@host/db", "'postgresql+psycopg://me:***@host/db'"),
        ("postgresql://host/db?user=me&password=s3cret", "'postgresql://host/db?user=me'"),
    ],
)
def test_a_hint_has_no_password(database: str, shown: str | None):
    """It has the URL as it was typed, if that has none."""
    assert shlex.quote(shown_url(database)) == (shown or shlex.quote(database))

"""What is shipped: a wheel that holds the migrations, and migrates without the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import alembic
import pytest

pytestmark = pytest.mark.once

REPOSITORY = Path(__file__).parents[2]


def run(*command: str | Path, **environment: str) -> str:
    process = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy of the repository."""
    copy = tmp_path_factory.mktemp("build") / "repository"
    ignored = shutil.ignore_patterns(".git", ".*_cache", "__pycache__", "*.db", "*.db-*", ".venv*")
    shutil.copytree(REPOSITORY, copy, ignore=ignored)
    output = copy.parent / "dist"
    run(
        *(sys.executable, "-m", "build", "--wheel", "--no-isolation"),
        *("--outdir", str(output), str(copy)),
    )
    [wheel] = output.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for packages, whose name is not a simple one, with the wheel in it."""
    folder = tmp_path_factory.mktemp("site") / "50% of ünï packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def test_the_wheel_holds_the_whole_package(wheel: Path):
    """Every module of the package is in the wheel, and the mark that it is typed."""
    package = REPOSITORY / "embeddings"
    expected = {f"embeddings/{file.relative_to(package)}" for file in package.rglob("*.py")}

    assert names(wheel) >= {*expected, "embeddings/py.typed"}


def test_the_wheel_holds_the_migrations(wheel: Path):
    """The environment of Alembic and every revision are in the package."""
    folder = REPOSITORY / "migrations"
    expected = {
        f"embeddings/migrations/{file.relative_to(folder)}" for file in folder.rglob("*.py")
    }

    assert "embeddings/migrations/env.py" in expected
    assert names(wheel) >= expected


def test_the_wheel_holds_the_licence(wheel: Path):
    """The licence is part of the metadata."""
    [licence] = [name for name in names(wheel) if name.endswith("/licenses/LICENSE")]
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(licence) == (REPOSITORY / "LICENSE").read_bytes()


def test_the_wheel_holds_nothing_else(wheel: Path):
    """There are no tests, no examples and no caches in the wheel, and no second top level."""
    assert {name.split("/")[0].split("-")[0] for name in names(wheel)} == {
        "embeddings",
        "sqlalchemy_embeddings",
    }
    parts = {part for name in names(wheel) for part in name.split("/")}
    assert not parts & {"tests", "conftest.py", "benchmarks", "examples", "__pycache__"}


SCRIPT = """
import sys
from pathlib import Path

import sqlalchemy

import embeddings
from embeddings.testing import DeterministicModel

site, path = map(Path, sys.argv[1:])
assert Path(embeddings.__file__).is_relative_to(site), embeddings.__file__
engine = sqlalchemy.create_engine(f"sqlite:///{path}")
embeddings.migrate(engine)
docs = embeddings.Collection("docs", engine, model=DeterministicModel())
docs.embed("hound", "my happy hound")
print(*(entry.id for entry in docs.similar("a hound")))
print(*sorted(sqlalchemy.inspect(engine).get_table_names()))
"""


def test_an_installed_wheel_migrates_a_database(site: Path, tmp_path: Path):
    """The wheel alone, unpacked, makes the tables and works on them."""
    path = tmp_path / "app.db"
    environment = {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}

    output = run(sys.executable, "-W", "error", "-c", SCRIPT, site, path, **environment)

    assert output.splitlines() == [
        "hound",
        "_sqlite_migrations collections embeddings embeddings_alembic_version embeddings_log "
        "embeddings_pending",
    ]


def test_the_command_works_on_an_installed_wheel(site: Path, tmp_path: Path):
    """Where an application points the `alembic` command at the installed folder, it migrates."""
    configuration = tmp_path / "alembic.ini"
    folder = str(site / "embeddings" / "migrations").replace("%", "%%")
    configuration.write_text(f"[alembic]\nscript_location = {folder}\n", encoding="utf-8")
    environment = {
        "PYTHONPATH": str(site),
        "EMBEDDINGS_DATABASE_URL": f"sqlite:///{tmp_path / 'app.db'}",
        "PYTHONUTF8": "1",
    }
    of_host = (sys.executable, "-m", "alembic", "-c", configuration)

    run(*of_host, "upgrade", "head", **environment)

    assert "emb_0005 (head)" in run(*of_host, "current", **environment)


REVISION = """
from alembic import op

revision, down_revision = "one", None
arguments = {"key": "id", "columns": ["body"], "collection": "notes"}


def upgrade():
    import embeddings

    embeddings.migrate(op.get_bind())
    op.execute("CREATE TABLE notes (id integer PRIMARY KEY, body text)")
    op.follow_rows("notes", **arguments)
    op.create_embedding_index("notes", dimensions=3, model="local")


def downgrade():
    op.drop_embedding_index("notes", dimensions=3, model="local")
    op.unfollow_rows("notes", **arguments)
"""


@pytest.mark.skipif(not hasattr(alembic, "plugins"), reason="Alembic 1.18 is the first with them")
@pytest.mark.parametrize(
    "url", ["sqlite+aiosqlite:///{}/app.db", "postgresql+asyncpg://nowhere/none"]
)
def test_the_operations_are_there_as_it_is_installed(site: Path, tmp_path: Path, url: str):
    """With what `alembic init -t async` makes, which names nothing of ours, in scripts and not."""
    environment = {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1", "PYTHONUTF8": "1"}
    of_host = (sys.executable, "-W", "error", "-m", "alembic", "-c", tmp_path / "alembic.ini")
    run(*of_host, "init", "-t", "async", tmp_path / "host", **environment)
    configuration = (tmp_path / "alembic.ini").read_text()
    configuration = re.sub(
        "(?m)^sqlalchemy.url = .*", f"sqlalchemy.url = {url.format(tmp_path)}", configuration
    )
    (tmp_path / "alembic.ini").write_text(configuration)
    (tmp_path / "host" / "versions" / "one.py").write_text(REVISION)

    script = run(*of_host, "upgrade", "head", "--sql", **environment)
    back = run(*of_host, "downgrade", "one:base", "--sql", **environment)

    assert "CREATE TRIGGER" in script
    assert "DROP FUNCTION" in back or "DROP TRIGGER" in back
    if "sqlite" in url:
        for command in ("upgrade", "head"), ("downgrade", "base"):
            run(*of_host, *command, **environment)

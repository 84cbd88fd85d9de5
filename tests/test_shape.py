"""The shape of the house: what differs between databases has one place, and so has each idea."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import embeddings

pytestmark = pytest.mark.once

PACKAGE = Path(embeddings.__file__).parent
NAMES = ("sqlite", "postgresql", "postgres", "mysql", "mariadb", "oracle", "mssql")
# What only one database understands.
SQL = re.compile(
    r"PRAGMA|sqlite_master|json_each|json_extract|typeof|randomblob|BEGIN IMMEDIATE|"
    r"pg_[a-z]+|current_schema|vector_dims|set_config|ON CONFLICT|on_conflict"
)
DECIDING_CALLS = {"with_variant", "compiles", "named", "execute_if", "startswith"}
OF_A_DATABASE = ("databases/", "integrations/django/database.py", "migrations/")


def modules() -> list[Path]:
    return [
        path
        for path in sorted(PACKAGE.rglob("*.py"))
        if not path.relative_to(PACKAGE).as_posix().startswith(OF_A_DATABASE)
    ]


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def strings(node: ast.AST) -> set[str]:
    return {
        inner.value
        for inner in ast.walk(node)
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str)
    }


def decisions(path: Path) -> list[str]:
    """Return where a module decides by the name of a database."""
    return [
        f"{path.name}:{node.lineno}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.expr) and _names_one(node)
    ]


def _names_one(node: ast.expr) -> bool:
    parts: list[ast.expr] = []
    if isinstance(node, ast.Compare):
        parts = [node]
    elif isinstance(node, ast.Dict):
        parts = [key for key in node.keys if key is not None]
    elif isinstance(node, ast.Call):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        parts = list(node.args) if name in DECIDING_CALLS else []
    return any(strings(part) & {*NAMES} for part in parts)


def sql_of_one_database(path: Path) -> set[str]:
    """Return what in a module only one database understands."""
    tree = ast.parse(path.read_text())
    docstrings = {
        ast.get_docstring(node, clean=False)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    }
    texts = {text for text in strings(tree) - docstrings if SQL.search(text)}
    functions = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and SQL.fullmatch(node.attr)
    }
    dialects = {
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and "dialects" in node.module
    }
    return texts | functions | dialects


def test_no_decision_about_a_database_outside_its_folder():
    """No comparison of a dialect's name, no dict by dialect, no variant by dialect."""
    assert {place(path): made for path in modules() if (made := decisions(path))} == {}


def test_no_sql_of_one_database_outside_its_folder():
    """Neither as text, nor as a function of SQLAlchemy's `func`, nor as an import of a dialect."""
    assert {place(path): sql for path in modules() if (sql := sql_of_one_database(path))} == {}


def test_a_decision_is_seen(tmp_path: Path):
    """What the tests above look for is found where it is."""
    for number, code in enumerate(
        (
            'if dialect.name == "sqlite": pass',
            'STRATEGIES = {"postgresql": 1}',
            'Text().with_variant(Text("C"), "postgresql")',
            'if dialect.name in {"sqlite"}: pass',
        )
    ):
        path = tmp_path / f"{number}.py"
        path.write_text(code)
        assert decisions(path) == [f"{number}.py:1"]
    path = tmp_path / "sql.py"
    path.write_text('run("PRAGMA x")\nfunc.typeof(1)\nfrom sqlalchemy.dialects.sqlite import JSON')
    assert sql_of_one_database(path) == {"PRAGMA x", "typeof", "sqlalchemy.dialects.sqlite"}


def test_few_modules_at_the_top():
    """What is more has a room."""
    assert len(list(PACKAGE.glob("*.py"))) <= 14


ROOMS = {
    "aio", "databases", "following", "integrations", "models", "searching", "sessions", "tables",
    "work", "writing",
}  # fmt: skip


def test_the_rooms_are_those_of_the_page_about_the_architecture():
    """Each folder is in ARCHITECTURE.md, and each that it names is there."""
    page = (PACKAGE.parent / "ARCHITECTURE.md").read_text()
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert rooms == ROOMS
    assert {*re.findall(r"^  (\w+)/ ", page, re.MULTILINE)} == rooms

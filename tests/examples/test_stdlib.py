"""The example that `make demo` runs, the benchmark, and what the README says one can type."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests import forked
from tests.examples.serving import LONG

REPOSITORY = Path(__file__).parents[2]
IMPORTED = (
    *("rich.console", "rich.progress", "rich.table", *forked.LOCAL),
    *("llm", "pgvector.psycopg", "sqlite_utils"),
)

# Of the standard library, unless at length: what answers, and hundreds of texts beside it.
PART = """
import runpy, sys
sys.stdlib_module_names &= set(
    "argparse array ast base64 bisect calendar collections copy csv datetime decimal difflib dis"
    " email enum fractions functools glob hashlib heapq html inspect itertools json logging math"
    " operator os pathlib pickle pprint queue random re secrets shutil socket statistics string"
    " subprocess tarfile tempfile textwrap threading time typing uuid zipfile".split()
)
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def run(*arguments: str | Path, folder: Path) -> str:
    """Run the example in a folder and return what it prints; its warnings are errors."""
    example = REPOSITORY / "examples" / "stdlib.py"
    program = (example,) if LONG else ("-c", PART, example)
    done = forked.python(*program, *arguments, cwd=folder, modules=IMPORTED)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def changes(file: Path) -> int:
    """Return how many rows the change log of a file has."""
    with closing(sqlite3.connect(file)) as connection:
        return int(connection.execute("SELECT count(*) FROM embeddings_log").fetchone()[0])


@pytest.mark.once
def test_it_embeds_the_standard_library_once_and_answers(tmp_path: Path):
    """Many texts, three answers by default; a second run writes nothing."""
    first = run(folder=tmp_path)
    found = re.search(r"([\d,]+) docstrings in stdlib.db", first)
    assert found is not None
    assert int(found[1].replace(",", "")) > (5000 if LONG else 1000)
    assert first.count("first line") == 3
    assert "statistics.median" in first

    before = changes(tmp_path / "stdlib.db")
    question = 'what\'s "the middle value" of some numbers?'
    second = run(question, folder=tmp_path)
    assert "statistics.median" in second
    assert second.count("first line") == 1
    assert changes(tmp_path / "stdlib.db") == before
    for question in ("copytree", "copy a folder with everything in it"):
        assert "shutil.copytree" in run(question, folder=tmp_path)


BENCHMARKS = {
    "sqlite": (["--rows=300", "--dimensions=8", "--rounds=1"], 7),
    "postgresql": (["--rows=300", "--bulk-rows=50", "--rounds=1"], 4),
}


@pytest.mark.once
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_prints_its_ratios(name: str):
    """On few rows, so that it does not rot between the times that somebody runs it."""
    options, ratios = BENCHMARKS[name]
    program = ("-m", f"benchmarks.{name}", *options)
    done = forked.python(*program, cwd=REPOSITORY, modules=IMPORTED)
    assert done.returncode == 0, done.stderr
    # Where langchain-postgres is installed there are two more.
    assert done.stdout.count(" ms against ") in {ratios, ratios + 2}


def test_the_commands_of_the_readme_are_there():
    """Every target of make, every extra and every file that the README names exists."""
    readme = (REPOSITORY / "README.md").read_text()
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)|`make (\w+)", readme, re.MULTILINE):
        assert f"\n{''.join(target)}: " in makefile
    project = (REPOSITORY / "pyproject.toml").read_text()
    for extra in re.findall(r"-e '\.\[(\w+)\]'", readme):
        assert f"\n{extra} = [" in project
    for path in re.findall(r"\]\(([\w./-]+)\)", readme):
        assert (REPOSITORY / path).is_file()

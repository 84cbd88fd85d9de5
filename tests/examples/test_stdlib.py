"""The example that `make demo` runs, the benchmark, and what the README says one can type."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def run(*command: str | Path, folder: Path) -> str:
    """Run Python in a folder and return what it prints; its warnings are errors."""
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def changes(file: Path) -> int:
    """Return how many rows the change log of a file has."""
    with closing(sqlite3.connect(file)) as connection:
        return int(connection.execute("SELECT count(*) FROM embeddings_log").fetchone()[0])


def test_it_embeds_the_standard_library_once_and_answers(tmp_path: Path):
    """Several thousand texts, three answers by default; a second run writes nothing."""
    example = REPOSITORY / "examples" / "stdlib.py"
    first = run(example, folder=tmp_path)
    found = re.search(r"([\d,]+) docstrings in stdlib.db", first)
    assert found is not None
    assert int(found[1].replace(",", "")) > 5000
    assert first.count("first line") == 3
    assert "statistics.median" in first

    before = changes(tmp_path / "stdlib.db")
    question = 'what\'s "the middle value" of some numbers?'
    second = run(example, question, folder=tmp_path)
    assert "statistics.median" in second
    assert second.count("first line") == 1
    assert changes(tmp_path / "stdlib.db") == before
    for question in ("copytree", "copy a folder with everything in it"):
        assert "shutil.copytree" in run(example, question, folder=tmp_path)


BENCHMARKS = {
    "sqlite": (["--rows=300", "--dimensions=8", "--rounds=1"], 7),
    "postgresql": (["--rows=300", "--bulk-rows=50", "--rounds=1"], 3),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_prints_its_ratios(name: str):
    """On few rows, so that it does not rot between the times that somebody runs it."""
    options, ratios = BENCHMARKS[name]
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
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

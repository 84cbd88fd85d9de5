"""Let mypy and pyright, both strict, check a user's program, and find the mistakes of another.

basedpyright is pyright as pip installs it, without Node.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

FOLDER = Path(__file__).parent
PROGRAMS = ("right.py", "wrong.py")
# What basedpyright has beyond pyright's strict mode stays off.
STRICT = {"typeCheckingMode": "strict", "pythonVersion": "3.11", "include": [str(FOLDER)]}


def by_mypy() -> set[tuple[str, int]]:
    """Return the files and lines in which mypy finds something."""
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-error-summary",
        "--hide-error-context",
    ]
    programs = [str(FOLDER / program) for program in PROGRAMS]
    done = subprocess.run([*command, *programs], capture_output=True, text=True, check=False)
    found = re.findall(r"^(.+?):(\d+): error", done.stdout, re.MULTILINE)
    return {(Path(file).name, int(line)) for file, line in found}


def by_pyright() -> set[tuple[str, int]]:
    """Return those of pyright."""
    with TemporaryDirectory() as folder:
        project = Path(folder) / "pyrightconfig.json"
        root = [str(FOLDER.parents[1])]
        project.write_text(json.dumps(STRICT | {"extraPaths": root}))
        command = [sys.executable, "-m", "basedpyright", "--outputjson", "-p", str(project)]
        command += ["--pythonpath", sys.executable]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {
        (Path(one["file"]).name, one["range"]["start"]["line"] + 1)
        for one in json.loads(done.stdout)["generalDiagnostics"]
        if one["severity"] == "error" and Path(one["file"]).name in PROGRAMS
    }


def main() -> int:
    """Print where what was found is not what is marked, and return 1 if there is such a line."""
    lines = {
        (program, at): line
        for program in PROGRAMS
        for at, line in enumerate((FOLDER / program).read_text().splitlines(), 1)
    }
    marked = {place for place, line in lines.items() if line.endswith("# wrong")}
    status = 0
    with ThreadPoolExecutor() as pool:  # each is a process of its own, on a core of its own
        checkers = {"mypy": pool.submit(by_mypy), "pyright": pool.submit(by_pyright)}
    for name, checker in checkers.items():
        found = checker.result()
        for place in sorted(found ^ marked):
            what = "found" if place in found else "missed"
            print(f"{name} {what} {place[0]}:{place[1]}: {lines[place].strip()}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())

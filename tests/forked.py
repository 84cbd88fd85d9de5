"""Run Python as a program without importing the package anew: each run is a fork of a server's.

The server is a new interpreter that has imported some modules and has done nothing else. What a
program finds differs from a new interpreter in that, and in its end: threads are waited for, what
is registered for the exit runs, and the globals go, but the interpreter is not taken apart, which
would copy all the memory of the server's. `test_package.py` and whoever asks what an import does
start interpreters of their own.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess, Popen, TimeoutExpired
from typing import IO, TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROOT = Path(__file__).parents[1]
# Few sets of modules, as each takes a server. Of the local model's package, which sets up logging
# when it is imported, what it imports.
LOCAL = ("pydantic", "requests", "safetensors.numpy", "tokenizers")
MODELS = ("llm.default_plugins.openai_models", "openai", "pytest", "tenacity", *LOCAL)
"""Of a program that calls models, or that tests one that does; looking up a name imports llm's."""
MIGRATIONS = (
    "alembic.autogenerate",
    "alembic.command",
    "alembic.config",
    "embeddings.testing",
    "sqlalchemy.dialects.postgresql.psycopg",
    "psycopg",
)
DJANGO = (
    "django.contrib.admin",
    "django.contrib.admindocs.utils",
    "django.contrib.postgres.fields",
    "django.core.management.commands.runserver",
    "django.core.management.commands.test",
    "django.db.backends.postgresql.base",
    "django.db.backends.sqlite3.base",
    "django.template.backends.django",
    "embeddings.integrations.django",
    "rest_framework.fields",
    "rest_framework.utils.formatting",
    *LOCAL,
)
"""What of Django's can be imported without settings."""
FLASK = (
    "alembic.autogenerate",
    "embeddings.integrations.flask",
    "flask_migrate",
    "flask_sqlalchemy",
    "psycopg",
    "sqlalchemy.dialects.postgresql",
    *LOCAL,
)
FASTAPI = ("fastapi", "fastapi.testclient", "uvicorn.main", "sqlmodel", "embeddings.aio", *LOCAL)
WAIT = 300.0  # seconds after which a program has failed, on a busy machine too

SERVER = """
import importlib, json, os, runpy, signal, sys, types, warnings

modules = sys.argv[1:]
while modules is not None:
    for name in modules:
        importlib.import_module(name)
    exec("from embeddings import *", {})  # the package imports what is public at its first use
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for a program
    for line in sys.stdin:
        asked = json.loads(line)
        if not os.fork():
            break
    else:
        sys.exit()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    modules = asked.get("modules")  # of a server that has imported more
    if modules is not None:
        for number, (name, flag) in enumerate(((asked["ask"], "r"), (asked["answers"], "w"))):
            with open(name, flag) as file:
                os.dup2(file.fileno(), number)
pid = os.fork()
if pid:
    print(pid, flush=True)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with open(asked["ended"], "w") as ended:
        ended.write(str(code))
    os._exit(0)

for number, name in enumerate((os.devnull, asked["stdout"], asked["stderr"])):
    file = os.open(name, os.O_RDWR | os.O_APPEND)
    os.dup2(file, number)
    os.close(file)
sys.stdout.reconfigure(line_buffering=True)
os.environ.clear()
os.environ.update(asked["env"])
os.chdir(asked["cwd"])
first, *arguments = asked["arguments"]
if first == "-W":
    warnings.simplefilter(arguments.pop(0))
    first, *arguments = arguments
found = list(filter(None, asked["env"].get("PYTHONPATH", "").split(os.pathsep)))
sys.argv = [first, *(arguments[1:] if first in {"-c", "-m"} else arguments)]

import atexit, gc, threading

gc.freeze()  # else a collection writes to all the memory that is shared with the server
code = 0
try:
    if first == "-m":
        sys.path[:1] = [os.getcwd(), *found]
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.path[:1] = ["", *found]
        kept, main = sys.modules["__main__"], types.ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(compile(arguments[0], "<string>", "exec"), vars(main))
    else:
        sys.path[:1] = [os.path.dirname(os.path.abspath(first)), *found]
        runpy.run_path(first, run_name="__main__")
except SystemExit as ended:
    code = ended.code
except Exception:
    sys.excepthook(*sys.exc_info())
    code = 1
if code is not None and not isinstance(code, int):
    print(code, file=sys.stderr)
    code = 1
threading._shutdown()
atexit._run_exitfuncs()
if first == "-c":
    vars(main).clear()
    gc.collect()
for stream in (sys.stdout, sys.stderr):
    stream.flush()
os._exit((code or 0) & 0xFF)
"""


class _Server:
    """An interpreter that has imported some modules, and ends when nothing more is asked of it."""

    def __init__(self, ask: IO[str], answers: IO[str]) -> None:
        self._ask, self._answers = ask, answers
        atexit.register(self.end)

    def end(self) -> None:
        """Let it end."""
        self._ask.close()
        self._answers.read()
        self._answers.close()

    def ask(self, asked: dict[str, Any]) -> None:
        """Ask for a program, or for another server."""
        self._ask.write(json.dumps(asked) + "\n")
        self._ask.flush()

    def start(self, asked: dict[str, Any]) -> int:
        """Start a program, and return the id of its process."""
        self.ask(asked)
        return int(self._answers.readline())


@cache
def _package() -> _Server:
    """Return a server that has imported the package."""
    process = Popen(
        [sys.executable, "-c", SERVER, "embeddings"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    atexit.register(process.wait)
    return _Server(process.stdin, process.stdout)


@cache
def _server(*modules: str) -> _Server:
    """Return a fork of that one which has imported some modules more: most of them need it."""
    if not modules:
        return _package()
    with tempfile.TemporaryDirectory() as folder:
        ask, answers = Path(folder, "ask"), Path(folder, "answers")
        os.mkfifo(ask)
        os.mkfifo(answers)
        _package().ask({"modules": modules, "ask": str(ask), "answers": str(answers)})
        return _Server(ask.open("w"), answers.open())


class Program:
    """A program that runs.

    Attributes:
        pid: The id of its process.
    """

    def __init__(self, pid: int, ended: int) -> None:
        self.pid = pid
        self._ended = ended
        self._code: int | None = None

    def wait(self, timeout: float) -> int | None:
        """Return its exit code, or None if it is still running after some seconds."""
        if self._code is None and select.select([self._ended], [], [], timeout)[0]:
            self._code = int(os.read(self._ended, 16))
        return self._code

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it is known to have ended."""
        if self.wait(0) is None:
            os.kill(self.pid, number)


@contextmanager
def started(
    *arguments: str | Path,
    stdout: Path,
    stderr: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    modules: tuple[str, ...] = (),
) -> Iterator[Program]:
    """Start Python as a program, of which nothing is left when the block ends.

    Args:
        arguments: Those of `python`: perhaps `-W error`; then `-c` and code, `-m` and a module, or
            a file; then those of the program.
        stdout: The file in which is what it prints.
        stderr: The file for its errors; may be the same.
        env: Its whole environment, of which PYTHONPATH is heeded. That of this process by default.
        cwd: Its folder.
        modules: What else than the package it may have imported before it begins.
    """
    with tempfile.TemporaryDirectory() as folder:
        fifo = Path(folder, "ended")
        os.mkfifo(fifo)
        ended = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        asked = {
            "arguments": [str(argument) for argument in arguments],
            "env": dict(os.environ if env is None else env),
            "cwd": str(cwd or Path.cwd()),
            "ended": str(fifo),
        }
        for name, file in (("stdout", stdout), ("stderr", stderr)):
            file.write_bytes(b"")
            asked[name] = str(file.absolute())
        program = Program(_server(*modules).start(asked), ended)
        try:
            yield program
        finally:
            program.send(signal.SIGKILL)
            program.wait(WAIT)
            os.close(ended)


def python(*arguments: str | Path, timeout: float = WAIT, **options: Any) -> CompletedProcess[str]:
    """Return what a program printed and its exit code, as `subprocess.run` does of an interpreter.

    Args:
        arguments: As those of `started`.
        timeout: Seconds.
        options: `env`, `cwd` and `modules` of `started`.

    Raises:
        TimeoutExpired: It took longer, and was killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
        with started(*arguments, stdout=stdout, stderr=stderr, **options) as program:
            code = program.wait(timeout)
        given = [str(argument) for argument in arguments]
        if code is None:
            raise TimeoutExpired(given, timeout)
        return CompletedProcess(given, code, stdout.read_text(), stderr.read_text())


def together(count: int, work: Callable[[int, Callable[[], None]], None]) -> NoReturn:
    """Fork this program, let the forks work at the same time, and end when they have.

    Args:
        count: How many forks.
        work: What each of them does. It is given its number and what it calls when it is ready,
            which returns when all are.
    """
    ready, go = os.pipe(), os.pipe()

    def begin() -> None:
        os.write(ready[1], b"r")
        os.read(go[0], 1)

    children = []
    for number in range(count):
        children.append(os.fork())
        if not children[-1]:
            os.close(ready[0])
            work(number, begin)
            sys.exit()
    os.close(ready[1])
    for _ in children:
        os.read(ready[0], 1)  # or the end, of those that failed
    os.write(go[1], b"g" * count)
    codes = [os.waitpid(child, 0)[1] for child in children]
    sys.exit(any(codes))

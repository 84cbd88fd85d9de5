"""The PostgreSQL server of the tests; and the code of the documentation and docstrings as tests.

Each page runs by itself, in an empty folder, with an empty database and the real models.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

import embeddings
from tests.server import postgresql

if TYPE_CHECKING:
    from collections.abc import Generator


MEMORY = Path("/dev/shm")  # noqa: S108
LEAST_MEMORY = 4 * 2**30  # bytes that have to be free there


def keep_files_in_memory() -> None:
    """Let the tests and their server write where nothing waits for a disk, if there is a place."""
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK):
        return
    may_execute = not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    if may_execute and shutil.disk_usage(MEMORY).free > LEAST_MEMORY:
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None  # what was chosen before


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """Have one process more than processors: each waits for its servers and processes at times."""
    return (yield) + 1


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Start the PostgreSQL server of the run, once for all its processes, until its end."""
    keep_files_in_memory()
    if "POSTGRESQL_URL" not in os.environ:
        stack = contextlib.ExitStack()
        os.environ["POSTGRESQL_URL"] = stack.enter_context(postgresql())
        stack.callback(os.environ.pop, "POSTGRESQL_URL")
        config.add_cleanup(stack.close)


PAGE = "page"  # the name of the module that the code of a page is in
MEMORY_BUDGET = 256 * 2**20  # bytes, as by default


def enter_an_empty_folder(namespace: dict[str, Any]) -> None:
    """Let the examples write their files where they are swept up."""
    namespace["_folder"] = TemporaryDirectory(ignore_cleanup_errors=True)
    namespace["_home"] = Path.cwd()
    namespace["_aliases"] = embeddings.get_aliases().keys()
    os.chdir(namespace["_folder"].name)
    # As in a file there: Flask asks where the module of an application is.
    sys.modules[PAGE] = module = ModuleType(PAGE)
    module.__file__ = str(Path(f"{PAGE}.py").resolve())
    namespace["__name__"] = PAGE
    administrator = create_engine(os.environ["POSTGRESQL_URL"], isolation_level="AUTOCOMMIT")
    database = f"examples_{os.getpid()}"
    with administrator.connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)"))
        connection.execute(text(f"CREATE DATABASE {database}"))
    administrator.dispose()
    url = administrator.url.set(database=database)
    os.environ["DATABASE_URL"] = url.render_as_string(hide_password=False)


def leave_it(namespace: dict[str, Any]) -> None:
    """Go back, closing what the examples left open and taking back what they set."""
    os.chdir(namespace["_home"])
    del sys.modules[PAGE]
    for value in list(namespace.values()):
        closed = value.sync_engine if isinstance(value, AsyncEngine) else value
        for name in ("close", "dispose"):
            if hasattr(type(closed), name):
                getattr(closed, name)()
    namespace["_folder"].cleanup()
    embeddings.set_default_model(None)
    embeddings.set_memory_budget(MEMORY_BUDGET)
    for alias in embeddings.get_aliases().keys() - namespace["_aliases"]:
        embeddings.remove_alias(alias)
    del os.environ["DATABASE_URL"]


pytest_collect_file = (
    Sybil(
        parsers=[PythonCodeBlockParser(), SkipParser()],
        patterns=["README.md", "docs/*.md"],
        setup=enter_an_empty_folder,
        teardown=leave_it,
    )
    + Sybil(parsers=[DocTestParser()], pattern="embeddings/**/*.py")
).pytest()

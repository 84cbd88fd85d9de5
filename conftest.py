"""The PostgreSQL server of the tests; and the code of the README and of the docstrings as tests.

That code runs in an empty folder, with the real models.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, text
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

import embeddings
from tests.server import postgresql

if TYPE_CHECKING:
    import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Start the PostgreSQL server of the run, once for all its processes, until its end."""
    if "POSTGRESQL_URL" not in os.environ:
        stack = contextlib.ExitStack()
        os.environ["POSTGRESQL_URL"] = stack.enter_context(postgresql())
        stack.callback(os.environ.pop, "POSTGRESQL_URL")
        config.add_cleanup(stack.close)


def enter_an_empty_folder(namespace: dict[str, Any]) -> None:
    """Let the examples write their files where they are swept up."""
    namespace["_folder"] = TemporaryDirectory(ignore_cleanup_errors=True)
    namespace["_home"] = Path.cwd()
    os.chdir(namespace["_folder"].name)
    # As in a file there: Flask asks where the module of an application is.
    sys.modules["readme"] = module = ModuleType("readme")
    module.__file__ = str(Path("readme.py").resolve())
    namespace["__name__"] = "readme"
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
    del sys.modules["readme"]
    for value in list(namespace.values()):
        for name in ("close", "dispose"):
            if hasattr(type(value), name):
                getattr(value, name)()
    namespace["_folder"].cleanup()
    embeddings.set_default_model(None)
    del os.environ["DATABASE_URL"]


pytest_collect_file = (
    Sybil(
        parsers=[PythonCodeBlockParser(), SkipParser()],
        pattern="README.md",
        setup=enter_an_empty_folder,
        teardown=leave_it,
    )
    + Sybil(parsers=[DocTestParser()], pattern="embeddings/**/*.py")
).pytest()

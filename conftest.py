"""Runs the code of the README and of the docstrings, in an empty folder, with the real models."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from sqlalchemy import create_engine, text
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

import embeddings


def enter_an_empty_folder(namespace: dict[str, Any]) -> None:
    """Let the examples write their files where they are swept up."""
    namespace["_folder"] = TemporaryDirectory(ignore_cleanup_errors=True)
    namespace["_home"] = Path.cwd()
    os.chdir(namespace["_folder"].name)
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
    for value in list(namespace.values()):
        for name in ("close", "dispose"):
            if hasattr(value, name) and not isinstance(value, type | ModuleType):
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

"""Runs the code of the README and of the docstrings, in an empty folder, with the real models."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

import embeddings


def enter_an_empty_folder(namespace: dict[str, Any]) -> None:
    """Let the examples write their files where they are swept up."""
    namespace["_folder"] = TemporaryDirectory(ignore_cleanup_errors=True)
    namespace["_home"] = Path.cwd()
    os.chdir(namespace["_folder"].name)


def leave_it(namespace: dict[str, Any]) -> None:
    """Go back, closing what the examples left open and taking back what they set."""
    os.chdir(namespace["_home"])
    for value in list(namespace.values()):
        for name in ("close", "dispose"):
            if hasattr(value, name) and not isinstance(value, type):
                getattr(value, name)()
    namespace["_folder"].cleanup()
    embeddings.set_default_model(None)


pytest_collect_file = (
    Sybil(
        parsers=[PythonCodeBlockParser(), SkipParser()],
        pattern="README.md",
        setup=enter_an_empty_folder,
        teardown=leave_it,
    )
    + Sybil(parsers=[DocTestParser()], pattern="embeddings/**/*.py")
).pytest()

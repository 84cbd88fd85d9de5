"""Run an example as its reader would: its tests, its commands, and its own server."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from selenium.common import WebDriverException
from selenium.webdriver.support.wait import WebDriverWait

from tests import forked
from tests.reaching import WAYS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium import webdriver
    from selenium.webdriver.remote.webelement import WebElement

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = forked.WAIT  # seconds for a start or an answer, on a busy machine too
LONG = WAYS == "all"  # as `make long` runs the examples
ADDRESS = r"(?:running on|server at|listening at:) (http://[\d.]+:\d+)"


def usually_on(kind: str) -> pytest.MarkDecorator:
    """For what is shown on one database, where the other has a neighbour; on both at length."""
    kinds = ["sqlite", "postgresql"] if LONG else [kind]
    return pytest.mark.parametrize("empty_database", kinds, indirect=True)


def run_its_tests(folder: Path, url: str) -> str:
    """Run the tests of an example on a database, warnings being errors; return what is printed."""
    return run(
        *("pytest", "-q", "-p", "no:cacheprovider", "-p", "anyio.pytest_plugin", "-W", "error"),
        *("-W", "ignore:Module already imported"),  # as all programs here have some
        folder=folder,
        TEST_DATABASE_URL=url,
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
    )


def copied(name: str, folder: Path) -> Path:
    """Copy an example to where nothing else is, and return its folder."""
    ignored = shutil.ignore_patterns("__pycache__", "instance", "*.db")
    return shutil.copytree(EXAMPLES / name, folder / name, ignore=ignored)


def modules(folder: Path) -> tuple[str, ...]:
    """Return what a program in the folder of an example may have imported before it begins."""
    frameworks = {"django_app": forked.DJANGO, "fastapi_app": forked.FASTAPI}
    return frameworks.get(folder.name, forked.FLASK)


def run(*command: str, folder: Path, **environment: str) -> str:
    """Run a module of Python as a program in the folder of an example; return what it prints."""
    return python("-m", *command, folder=folder, **environment)


def python(*arguments: str, folder: Path, **environment: str) -> str:
    """Run Python in the folder of an example, and return what it prints."""
    done = forked.python(
        *arguments, cwd=folder, env=os.environ | environment, modules=modules(folder)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def served(*command: str, folder: Path, **environment: str) -> Iterator[str]:
    """Run a server, a module of Python on a port of its choosing, and yield its address.

    It is told so by the server's own output, and ends with the block.
    """
    log = folder / "server.log"
    with forked.started(
        *("-m", *command),
        stdout=log,
        stderr=log,
        env=os.environ | environment,
        cwd=folder,
        modules=modules(folder),
    ) as server:
        try:
            yield _address(server, log)
        finally:
            server.send(signal.SIGTERM)  # so that it ends the processes that it has started
            server.wait(PATIENCE)


def _address(server: forked.Program, log: Path) -> str:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.wait(0.05) is None:
        found = re.search(ADDRESS, log.read_text(), re.IGNORECASE)
        if found:
            return found[1]
    raise RuntimeError(f"The server did not start: {log.read_text()}")


def follow(browser: webdriver.Chrome, element: WebElement) -> None:
    """Click, and wait for the page to which it leads."""

    def is_there(browser: webdriver.Chrome) -> bool:
        state = browser.execute_script("return document.readyState")
        return browser.current_url != before and state == "complete"

    before = browser.current_url
    element.click()
    WebDriverWait(browser, PATIENCE, ignored_exceptions=[WebDriverException]).until(is_there)

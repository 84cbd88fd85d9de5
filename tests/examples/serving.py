"""Run an example as its reader would: its tests, its commands, and its own server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from selenium.common import WebDriverException
from selenium.webdriver.support.wait import WebDriverWait

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium import webdriver
    from selenium.webdriver.remote.webelement import WebElement

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS_TO_START = 60
ADDRESS = r"(?:running on|server at|listening at:) (http://[\d.]+:\d+)"


def copied(name: str, folder: Path) -> Path:
    """Copy an example to where nothing else is, and return its folder."""
    ignored = shutil.ignore_patterns("__pycache__", "instance", "*.db")
    return shutil.copytree(EXAMPLES / name, folder / name, ignore=ignored)


def run(*command: str, folder: Path, **environment: str) -> str:
    """Run a module of Python as a program in a folder, and return what it prints."""
    return python("-m", *command, folder=folder, **environment)


def python(*arguments: str, folder: Path, **environment: str) -> str:
    """Run Python in a folder, and return what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def served(*command: str, folder: Path, **environment: str) -> Iterator[str]:
    """Run a server, a module of Python on a port of its choosing, and yield its address.

    It is told so by the server's own output, and ends with the block.
    """
    log = folder / "server.log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=os.environ | environment | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            yield _address(process, log)
        finally:
            process.terminate()  # so that it ends the processes that it has started
            try:
                process.wait(SECONDS_TO_START)
            finally:
                process.kill()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end and process.poll() is None:
        found = re.search(ADDRESS, log.read_text(), re.IGNORECASE)
        if found:
            return found[1]
        time.sleep(0.05)
    raise RuntimeError(f"The server did not start: {log.read_text()}")


def follow(browser: webdriver.Chrome, element: WebElement) -> None:
    """Click, and wait for the page to which it leads."""

    def is_there(browser: webdriver.Chrome) -> bool:
        state = browser.execute_script("return document.readyState")
        return browser.current_url != before and state == "complete"

    before = browser.current_url
    element.click()
    WebDriverWait(browser, 60, ignored_exceptions=[WebDriverException]).until(is_there)

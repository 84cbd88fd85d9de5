"""Databases that are opened here: by a path, by a URL, or in memory, with settings of our own."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import StaticPool

from ..dialects import with_driver
from ..errors import BindingError

if TYPE_CHECKING:
    from collections.abc import Callable

BUSY_TIMEOUT = 60.0  # seconds to wait for another writer
WAL_ATTEMPTS = 25
MAPPED_BYTES = 2**30


def url_of(database: str | os.PathLike[str] | None) -> URL:
    """Return the URL of what may be one, or a path, or None for a database in memory."""
    if isinstance(database, str) and "://" in database:
        try:
            url = make_url(database)
        except (ArgumentError, ValueError):
            raise BindingError("This URL cannot be read; for a file use a path") from None
        if "@" in (url.host or ""):  # drivers would show it in their errors
            raise BindingError("This URL has two @: write one in a password as %40")
        return url
    path = ":memory:" if database is None else os.fspath(database)
    return URL.create("sqlite", database=path)


def open_engine(database: str | os.PathLike[str] | None) -> Engine:
    """Return an engine on a path, a URL or, for None, memory; with our settings on SQLite.

    Raises:
        BindingError: The URL cannot be read, or its driver is asynchronous.
    """
    url = with_driver(url_of(database), "psycopg", "psycopg2")
    if url.get_dialect().is_async:
        raise BindingError(
            f"The driver {url.get_driver_name()} is asynchronous: use AsyncCollection"
        )
    return new_engine(url, create_engine)


def new_engine(url: URL, create: Callable[..., Engine]) -> Engine:
    """Return an engine of our own, set up for what we do with it; nothing is connected yet."""
    if url.get_backend_name() != "sqlite":
        return create(url, hide_parameters=True)
    if url.database in {None, "", ":memory:"}:
        return create(
            url,
            hide_parameters=True,
            poolclass=StaticPool,
            connect_args={"check_same_thread": False},
        )
    engine = create(url, hide_parameters=True, connect_args={"timeout": BUSY_TIMEOUT})
    event.listen(engine, "connect", _map_into_memory)
    return engine


def _map_into_memory(driver: Any, _: object) -> None:
    driver.execute(f"PRAGMA mmap_size = {MAPPED_BYTES}")  # halves the time of a scan


def use_write_ahead_log(engine: Engine) -> bool:
    """Let readers and a writer work side by side, and return whether they can.

    The file keeps the setting. SQLite does not let those wait who ask for it at the same time, and
    refuses while a reader is at work. Without it all works as well, with more waiting.
    """
    pooled = engine.raw_connection()
    cursor = pooled.cursor()
    cursor.execute("PRAGMA busy_timeout = 0")
    try:
        for _ in range(WAL_ATTEMPTS):
            try:
                cursor.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError:
                time.sleep(0.02)
            else:
                row = cursor.fetchone()
                return row is not None and row[0] == "wal"
        return False
    finally:
        cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT * 1000)}")
        cursor.close()
        pooled.close()


def main_file(driver: sqlite3.Connection) -> str | None:
    """Return the file that the connection has open; None in memory."""
    cursor = driver.cursor()
    cursor.row_factory = None
    for _, name, file in cursor.execute("PRAGMA database_list"):
        if name == "main" and file:
            return str(file)
    return None


def is_missing_file(database: object) -> bool:
    """Return whether this is the path or the URL of a SQLite file that is not there."""
    if not isinstance(database, str | os.PathLike):
        return False
    url = url_of(database)
    return url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file()

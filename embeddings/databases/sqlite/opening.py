"""Databases that are opened here: one reading of an address, and what stands in the way of it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from sqlalchemy import event
from sqlalchemy.pool import StaticPool

from ...errors import BindingError, MissingExtraError
from .transactions import BUSY_TIMEOUT, pragma, switch_to_wal

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sqlalchemy import URL, Engine

MAPPED_BYTES = 2**30
PARAMETERS_OF_URIS = frozenset({"mode", "cache", "immutable", "nolock", "psow", "vfs", "modeof"})


@dataclass(frozen=True)
class Address:
    """Where a URL leads.

    Attributes:
        url: The URL as the driver is to be given it: with `uri=true` where it is one of SQLite's.
        file: The file; None in memory.
        is_one_connection: Whether it is to be had by one connection: one that is opened again
            would be another database in memory, or take no turns where a cache is shared.
        is_read_only: Whether the URL says so.
    """

    url: URL
    file: Path | None
    is_one_connection: bool
    is_read_only: bool


def read_address(url: URL) -> Address:
    """Return where a URL leads.

    Parameters of SQLite's own URIs, such as `mode=ro`, make it one, with or without `file:` and
    `uri=true`.

    Source: https://sqlite.org/uri.html
    """
    database, query = url.database or ":memory:", dict(url.query)
    if not database.startswith("file:") and not PARAMETERS_OF_URIS & query.keys():
        in_memory = database == ":memory:"
        return Address(url, None if in_memory else Path(database), in_memory, is_read_only=False)
    if not database.startswith("file:"):
        database = f"file:{quote(database)}"
    url = url.set(database=database, query=query | {"uri": "true"})
    path, _, parameters = database.removeprefix("file:").partition("?")
    query |= dict(parameter.partition("=")[::2] for parameter in parameters.split("&"))
    if path.startswith("//"):
        path = "/" + path[2:].partition("/")[2]  # without the host, which is this one
    path = unquote(path)
    in_memory = path in {"", ":memory:"} or "memory" in {query.get("mode"), query.get("vfs")}
    in_memory = in_memory or query.get("vfs") == "memdb"
    return Address(
        url,
        None if in_memory else Path(path),
        is_one_connection=in_memory or query.get("cache") == "shared",
        is_read_only=query.get("mode") == "ro" or query.get("immutable") not in {None, "0"},
    )


def with_driver(url: URL, *, asynchronous: bool) -> URL:
    """Return the URL with a driver that is asynchronous, where it names none and that is asked for.

    Raises:
        MissingExtraError: It is not installed.
    """
    if not asynchronous or url.drivername != "sqlite":
        return url
    if not find_spec("aiosqlite"):
        raise MissingExtraError("aiosqlite", "async")
    return url.set(drivername="sqlite+aiosqlite")


def is_missing(url: URL) -> bool:
    """Return whether the URL leads to a file that is not there.

    Raises:
        BindingError: It begins with a tilde, and so leads elsewhere than it seems to.
    """
    file = read_address(url).file
    if file is None or file.exists():
        return False
    if len(file.parts) > 1 and file.parts[0].startswith("~"):
        raise BindingError(
            f"There is no folder {file.parts[0]!r} here. Python leaves a tilde as it is; for the "
            "home folder pass Path(...).expanduser()"
        )
    return True


def new_engine(url: URL, create: Callable[..., Engine]) -> Engine:
    """Return an engine of our own, set up for what we do with it; nothing is written yet.

    Raises:
        BindingError: There cannot be such a file, or it cannot be read.
    """
    address = read_address(url)
    _check_file(address, url)
    options: dict[str, Any] = {"hide_parameters": True}
    if address.is_one_connection:
        options |= {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
    elif "timeout" not in url.query:
        options["connect_args"] = {"timeout": BUSY_TIMEOUT}
    engine = create(_that_opens(address), **options)
    if address.file:
        event.listen(engine, "connect", _map_into_memory)
    return engine


def _check_file(address: Address, url: URL) -> None:
    file = address.file
    if file is None:
        return
    if is_missing(url):
        if not file.parent.is_dir():
            raise BindingError(f"The folder of the database is not there: {file.parent}")
    elif file.is_dir():
        raise BindingError(f"This is a folder, not the file of a database: {file}")
    elif not os.access(file, os.R_OK):
        raise BindingError(f"The file of the database cannot be read with your rights: {file}")


def _that_opens(address: Address) -> URL:
    """Return the URL, as `immutable` where SQLite could not open the file otherwise.

    To read a file with write-ahead logging SQLite makes two files beside it. Where it may not, and
    they are not there, nobody has the file open for writing.
    """
    url, file = address.url, address.file
    if file is None or not file.exists() or os.access(file.parent, os.W_OK):
        return url
    if Path(f"{file}-wal").exists():
        return url
    absolute = f"file:{quote(str(file.absolute()))}"
    try:
        with closing(sqlite3.connect(f"{absolute}?mode=ro", uri=True)) as connection:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
            query = dict(url.query) | {"immutable": "1", "uri": "true"}
            return url.set(database=absolute, query=query)
    except sqlite3.DatabaseError:
        pass  # the first statement says what is wrong
    return url


def _map_into_memory(driver: Any, _: object) -> None:
    driver.execute(f"PRAGMA mmap_size = {MAPPED_BYTES}")  # halves the time of a scan


def use_write_ahead_log(engine: Engine) -> bool:
    """Switch a file that is new to write-ahead logging, and return whether the file has that.

    A file that somebody else made keeps its journal: whoever copies that one file would lose what
    is in the log beside it.
    """
    if isinstance(engine.pool, StaticPool):
        return False
    pooled = engine.raw_connection()
    cursor = pooled.cursor()
    try:
        if pragma(cursor, "page_count") == 0:
            return switch_to_wal(cursor)
        return bool(pragma(cursor, "journal_mode") == "wal")
    finally:
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


def can_write(driver: sqlite3.Connection) -> bool:
    """Return whether a connection, which is in no transaction, can write; nothing is changed.

    SQLite does not tell before somebody tries: a number of the file's header is set to what it is,
    and rolled back.
    """
    if not is_of_this_thread(driver):
        return True
    cursor = driver.cursor()
    cursor.row_factory = None
    try:
        cursor.execute("BEGIN")
        pragma(cursor, f"user_version = {pragma(cursor, 'user_version')}")
    except sqlite3.OperationalError as error:
        return error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY
    finally:
        if driver.in_transaction:
            driver.rollback()
    return True


def is_of_this_thread(driver: sqlite3.Connection) -> bool:
    """Return whether the driver lets this thread use a connection."""
    try:
        driver.cursor().close()
    except sqlite3.ProgrammingError:
        return False
    return True

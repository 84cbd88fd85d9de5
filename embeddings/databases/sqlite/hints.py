"""What to do about errors of SQLite's whose cause is known, by its result codes.

Source: https://sqlite.org/rescode.html
"""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING

from ...driver_errors import of_driver
from .transactions import is_configured

if TYPE_CHECKING:
    from sqlalchemy import Dialect
    from sqlalchemy.exc import DBAPIError

CONFIGURE = (
    "Call embeddings.configure_sqlite(engine) where the engine is made: writers then wait for "
    "each other, and with write-ahead logging (WAL) not for readers"
)
FOLDER_CODES = {sqlite3.SQLITE_READONLY_DIRECTORY, sqlite3.SQLITE_READONLY_CANTINIT}
READ_ONLY = (
    "The database can only be read: by the rights of its file or folder, or because it was opened "
    "with mode=ro or immutable=1"
)
READ_ONLY_FOLDER = (
    "SQLite may not write to the folder of this file. One with write-ahead logging (WAL) needs two "
    "more beside it, -wal and -shm, also to be read: give write access to the folder; or, while "
    "nobody writes to the file, open it as sqlite:///file:/path/to/it.db?immutable=1&uri=true"
)
OF_THE_SYSTEM = {
    sqlite3.SQLITE_FULL: (
        "There is no room on the disk, or the file may not become larger. What was committed "
        "stays, on an engine each batch before this one: make room, and call again. What is there "
        "already calls no model"
    ),
    sqlite3.SQLITE_IOERR: (
        "The system could not read or write the file, or one of -wal and -shm beside it: look at "
        "the disk, its room and the limits of this process. What was committed stays"
    ),
    sqlite3.SQLITE_CANTOPEN: (
        f"SQLite cannot open the file, or one of -wal and -shm beside it. {READ_ONLY_FOLDER}"
    ),
}
LOST_LOG = (
    "Somebody has dropped the change log of the embeddings, into which triggers write, also for "
    "other programs. embeddings.migrate(engine), or `embeddings migrate`, makes it anew; for "
    "tables of make_records it is embeddings.install(engine, records)"
)


def primary_code(error: Exception) -> int | None:
    """Return the result code of an error, without what extends it; None if it has none."""
    code: int | None = getattr(of_driver(error), "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def hint(error: DBAPIError, dialect: Dialect) -> str | None:
    """Return what to do about an error; None if that is not known."""
    code = primary_code(error)
    if code == sqlite3.SQLITE_BUSY:
        return _of_busy(error, dialect)
    if code == sqlite3.SQLITE_LOCKED:
        return (
            "Connections that share a cache (cache=shared) do not wait for each other: leave it "
            "out, or pass the session that reads to the collection that writes"
        )
    if code in OF_THE_SYSTEM:
        return OF_THE_SYSTEM[code]
    if getattr(of_driver(error), "sqlite_errorcode", None) in FOLDER_CODES:
        return READ_ONLY_FOLDER
    if code == sqlite3.SQLITE_READONLY:
        return READ_ONLY
    if re.search(r"no such table: (\w+\.)?\w*embeddings_log", str(error.orig)):
        return LOST_LOG
    return None


def _of_busy(error: DBAPIError, dialect: Dialect) -> str:
    is_stale = getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY_SNAPSHOT
    if is_stale:
        reason = (
            "This transaction has read, or a SELECT of it is half read, and another writer has "
            "committed since: SQLite lets only those write who see the newest state. Read to the "
            "end (.all()) before the first change; else roll back and try again"
        )
    else:
        reason = (
            "Somebody else kept the database locked for as long as this connection waits. While "
            "rows are read on one connection and written on another, pass the session that reads "
            "to the collection that writes"
        )
    return f"{reason}. {CONFIGURE}" if not is_configured(dialect) else reason


def why_not_open(error: DBAPIError) -> str | None:
    """Return why a database cannot be opened at all; None where the error tells something else."""
    code = primary_code(error)
    if code == sqlite3.SQLITE_NOTADB:
        return "This file is not a SQLite database"
    if code == sqlite3.SQLITE_CANTOPEN:
        return "SQLite cannot open this file; look at its rights and at those of its folder"
    if code == sqlite3.SQLITE_BUSY:
        return (
            "This database is locked by another program, and stayed so for as long as this "
            "connection waits. Try again when that is done with it"
        )
    return None

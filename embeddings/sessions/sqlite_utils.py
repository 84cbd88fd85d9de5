"""A `sqlite_utils.Database`, which is one connection of Python's own driver."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from .. import databases
from ..forks import Lock
from .base import Sessions
from .host import Lent
from .open import open_engine
from .own import OwnTransactions

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from ..tables.records import Records


class SqliteUtils(Sessions):
    """A `sqlite_utils.Database`: its transaction while it is in one, and else the file behind it.

    The file is opened once more, so that threads can use the collection and writers wait for each
    other. The database's own connection is used where that one could not write: in memory, where
    the database was opened for reading, and where the file has no write-ahead log, for a cursor
    of the owner's that is half read would keep it out.
    """

    eager = True

    def __init__(self, driver: sqlite3.Connection) -> None:
        self._driver = driver
        self._lent = create_engine(
            databases.url_of_file(None),
            creator=lambda: Lent(self._driver),
            poolclass=StaticPool,
            hide_parameters=True,
        )
        self._database = databases.of(self._lent.dialect)
        self._file = self._database.file_of(driver)
        self._lock = Lock()
        self._own: tuple[OwnTransactions, Engine] | None = None
        self._writes_beside: bool | None = None  # not known before the first write

    @contextmanager
    def session(self, *, write: bool) -> Iterator[Session]:
        """Yield a session on the database's own connection, or on the file behind it."""
        if not self._driver.in_transaction and (own := self._opened(write=write)):
            with own.session(write=write) as session:
                yield session
            return
        ours = not self._driver.in_transaction
        with Session(self._lent) as session:
            if ours:
                self._database.begin(session.connection(), write=write)
            try:
                yield session
                session.flush()
                if ours:
                    self._driver.commit()
            except BaseException:
                if ours:  # also after a COMMIT that failed, which leaves the driver inside it
                    self._driver.rollback()
                raise

    def _opened(self, *, write: bool) -> OwnTransactions | None:
        with self._lock:  # put off until no transaction of the owner's is in the way
            if self._own is None and self._file:
                engine = open_engine(self._file)
                self._own = OwnTransactions(engine, opened=True), engine
            if self._own is None:
                return None
            own, engine = self._own
            if write and self._writes_beside is None:
                self._writes_beside = self._database.can_write(
                    self._driver
                ) and self._database.before_first_write(engine)
            if write and not self._writes_beside and self._database.is_of_this_thread(self._driver):
                return None
            return own

    def bind(self, records: Records) -> Engine:
        """Return an engine on the database's own connection."""
        return self._lent

    def close(self) -> None:
        """Close the second connection; the database's own stays open."""
        if self._own:
            self._own[0].close()

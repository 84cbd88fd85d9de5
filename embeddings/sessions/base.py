"""How a collection reaches its database, whatever it was given."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from .. import databases
from .runtime import BLOCKING, Runtime

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection, Dialect, Engine
    from sqlalchemy.orm import Session, SessionTransaction

    from ..tables.records import Records


class Sessions:
    """Where a collection gets its sessions from, and who ends their transactions."""

    eager: bool = False
    """Whether the database was opened for the collection, which is then created at once."""
    engine: Engine | None = None
    """The engine, where the transactions on it are this library's own; else None."""
    runtime: Runtime = BLOCKING
    """How its users wait."""

    @property
    def owns_transactions(self) -> bool:
        """Whether each step is a transaction of its own, and none is the caller's."""
        return self.engine is not None

    @property
    def is_exclusive(self) -> bool:
        """Whether a session for writing keeps other writers out from its beginning.

        That is where they take turns.
        """
        return False

    @property
    def is_one_snapshot(self) -> bool:
        """Whether steps at once one after the other see the same rows, but for what they write."""
        return False

    def transaction(self) -> SessionTransaction | None:
        """Return the caller's transaction, or savepoint, in which the next step will be.

        It is None where each step has one of its own, and where none has begun.
        """
        return None

    def session(self, *, write: bool) -> AbstractContextManager[Session]:
        """Return a context with a session in a transaction, which ends with it if it is ours."""
        raise NotImplementedError

    @contextmanager
    def look(self, records: Records) -> Iterator[tuple[Session, bool]]:
        """Yield a session to read in before a model is called, and whether it reads anew.

        What the caller has not checked out of a pool is not checked out afterwards. A session that
        reads anew sees what is committed, and nothing else.
        """
        with self.session(write=False) as session:
            yield session, False

    def bind(self, records: Records) -> Engine | Connection:
        """Return the engine or connection that has the tables; nothing is connected."""
        raise NotImplementedError

    def dialect(self, records: Records) -> Dialect:
        """Return the dialect of the database that has the tables; nothing is connected."""
        return self.bind(records).dialect

    def drop_broken(self) -> None:
        """Let go of a connection that has failed, where no pool does."""

    def rest(self) -> None:
        """Give back a connection that is kept between two steps, if others wait for it."""

    def close(self) -> None:
        """Close what was opened here; nothing that was handed in."""

    def is_missing(self) -> bool:
        """Return whether this was opened on a file that is not there."""
        return False


def transaction_of(session: Session) -> SessionTransaction | None:
    """Return the innermost transaction of a session: that of a savepoint, or its own."""
    return session.get_nested_transaction() or session.get_transaction()


@contextmanager
def hinted(dialect: Dialect) -> Iterator[None]:
    """Run the block, and add to an error of the driver's what to do about it, where we know."""
    try:
        yield
    except DBAPIError as error:
        add_hint(error, dialect)
        raise


def add_hint(error: DBAPIError, dialect: Dialect) -> None:
    """Add to an error of the driver's what to do about it, where we know and it does not say so."""
    hint = databases.of(dialect).hint(error, dialect)
    if hint and hint not in getattr(error, "__notes__", ()):
        error.add_note(hint)

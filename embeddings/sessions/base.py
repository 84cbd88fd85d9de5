"""How a collection reaches its database, whatever it was given."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError, UnboundExecutionError

from .. import databases
from ..errors import BindingError
from .runtime import BLOCKING, Runtime

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection, Dialect, Engine
    from sqlalchemy.orm import Mapper, Session, SessionTransaction

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

    def bind_of(self, mapper: Mapper[Any], records: Records) -> Engine | Connection | None:
        """Return the one that a host's session has for a class of the host's; None if unknown.

        Where there is no such session, that is the one that has the tables.
        """
        return self.bind(records)

    def check_has(self, mapper: Mapper[Any], records: Records) -> None:
        """Do nothing if rows of a host's are in the database of the tables, or that is unknown.

        Nothing is connected: what counts is where the binds of a session lead.

        Raises:
            BindingError: They are in another one.
        """
        try:
            rows = self.bind_of(mapper, records)
            ours = rows and self.bind(records)
        except UnboundExecutionError:  # as the first statement says
            return
        if rows is None or ours is None:
            return
        if rows.engine is not ours.engine and _are_apart(rows.engine, ours.engine):
            raise BindingError(
                f"The session's binds have {mapper.local_table.description!r} in another database "
                f"than {records.embeddings.name!r}. Rows that are followed, and rows among which "
                "is searched, have to be in that of the vectors: bind both to one engine, or give "
                "the rows' database tables of its own by embeddings.make_records(Base) and records="
            )

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


def _are_apart(one: Engine, other: Engine) -> bool:
    if one.dialect.name != other.dialect.name:
        return True
    return databases.of(one.dialect).are_apart(one.url, other.url)


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

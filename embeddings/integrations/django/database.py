"""A SQLAlchemy session on Django's own connection, inside Django's own transaction."""

from __future__ import annotations

import functools
import re
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.models import F
from sqlalchemy import (
    ColumnClause,
    Engine,
    TextualSelect,
    bindparam,
    create_engine,
    delete,
    text,
)
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool
from sqlalchemy.types import NullType

from ...errors import BindingError, MissingExtraError
from ...sessions.base import Sessions
from ...sessions.host import Lent
from ...tables.ours import are_missing
from ...tables.records import RECORDS, Records
from ...work import Work
from .internals import with_parameters_written_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import QuerySet

# By Django's name for a kind of database: a URL that connects to nothing, and options.
ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "sqlite": ("sqlite://", {}),
    "postgresql": ("postgresql+psycopg://", {"use_native_hstore": False}),
}


@contextmanager
def session(using: str | None = None) -> Iterator[Session]:
    """A block of `transaction.atomic(using=using)` with a SQLAlchemy session in it.

    The session works on Django's connection of this thread. Each sees what the other has not yet
    committed, and both are committed or rolled back together, by Django: at the end of the
    outermost `atomic()`, of the request under ATOMIC_REQUESTS, of the `TestCase`.

    What the session holds is flushed at the end of the block. `session.commit()` only flushes;
    `session.rollback()` does what `transaction.set_rollback(True)` does: the whole block is undone
    at its end, on both sides, and nothing can be asked in it any more. To undo a part, nest another
    such block or `atomic()`.

    Args:
        using: The alias of the database; Django's default by default.

    Raises:
        BindingError: The database is neither SQLite nor PostgreSQL.
        MissingExtraError: PostgreSQL is reached by psycopg2: install psycopg 3.
    """
    alias = using or DEFAULT_DB_ALIAS
    session = _session_on(alias)
    with transaction.atomic(using=alias), session:
        yield session
        session.commit()


class DjangoTransactions(Sessions):
    """For a `Collection`: Django's transaction where one is open, else a short one for each step.

    So no transaction is open while a model runs, unless the caller has opened it.
    """

    def __init__(self, alias: str) -> None:
        self._alias = alias

    @contextmanager
    def session(self, *, write: bool) -> Iterator[Session]:
        """Yield a session on Django's connection; what fails in writing leaves no trace."""
        session = _session_on(self._alias)
        is_open = connections[self._alias].in_atomic_block
        with (
            nullcontext() if is_open and not write else transaction.atomic(using=self._alias),
            session,
        ):
            yield session
            session.flush()

    def bind(self, records: Records) -> Engine:
        """Return the engine of the alias, which borrows Django's connection."""
        return _engine(self._alias)


def empty_after_flush(*, using: str, plan: object = None, **_: Any) -> None:
    """Empty the tables after `flush`, and so after each `TransactionTestCase`.

    Django empties the tables of Django models only. It then sends the signal that it also sends
    after `migrate`, which has a plan.
    """
    if plan is not None:
        return
    with session(using) as lent:
        if not are_missing(Work(lent, RECORDS)):
            lent.execute(delete(RECORDS.embedding))
            lent.execute(delete(RECORDS.collection))


class _DjangoSession(Session):
    """A session in a transaction that Django ends."""

    def rollback(self) -> None:
        super().rollback()
        transaction.set_rollback(True, using=self.info["alias"])


def _session_on(alias: str) -> Session:
    # The objects are of use after the block, as Django's are.
    return _DjangoSession(_engine(alias), expire_on_commit=False, info={"alias": alias})


@functools.cache
def _engine(alias: str) -> Engine:
    """Return the engine of an alias. It holds no connection: each session borrows Django's."""
    vendor = connections[alias].vendor
    if vendor not in ENGINES:
        raise BindingError(
            f"The database {alias!r} is {vendor}, which is not supported; use sqlite or postgresql"
        )
    url, options = ENGINES[vendor]
    try:
        return create_engine(
            url,
            creator=lambda: _Lent(connections[alias]),
            poolclass=NullPool,
            pool_reset_on_return=None,
            hide_parameters=True,
            **options,
        )
    except ModuleNotFoundError:
        raise MissingExtraError("psycopg", "postgresql") from None


class _Lent(Lent):
    """The driver's connection behind one of Django's."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        # Connects, or refuses to, as Django's own queries do.
        with connection.cursor() as cursor:
            super().__init__(cursor.connection)
        self._connection = connection

    def cursor(self, *args: Any) -> Any:
        self._connection.validate_no_broken_transaction()
        if self._connection.vendor == "postgresql" and not args:
            # Not Django's, which writes parameters into the SQL, where binary ones cannot be.
            from psycopg import Cursor

            return Cursor(self._driver)
        return super().cursor(*args)

    def add_notice_handler(self, *args: Any) -> None:
        pass


def keys_of(queryset: QuerySet[Any], key: ColumnClause[Any]) -> TextualSelect:
    """Return the queryset as a SELECT of its keys, under the name and in the type of a column.

    As SQL and not as the keys themselves: of 100,000 rows these take longer to fetch and to send
    than the search takes. On SQLite it is Django's SQL with its parameters. On PostgreSQL it is
    the text that Django itself would send, parameters written into it.
    """
    query = queryset.values(**{key.name: F("pk")}).query
    query.clear_ordering(force=False)
    connection = connections[queryset.db]
    sql, parameters = query.get_compiler(queryset.db).as_sql()
    is_postgresql = connection.vendor == "postgresql"
    if is_postgresql:
        sql, parameters = with_parameters_written_in(connection, sql, parameters), ()
    # In text() a colon begins a parameter.
    sql = sql.replace(":", r"\:")
    if not is_postgresql:
        names = (f":{key.name}_{number}" for number in range(len(parameters)))
        sql = re.sub("%([s%])", lambda found: next(names) if found[1] == "s" else "%", sql)
    values = (
        bindparam(f"{key.name}_{number}", value, NullType())
        for number, value in enumerate(parameters)
    )
    return text(sql).bindparams(*values).columns(key)

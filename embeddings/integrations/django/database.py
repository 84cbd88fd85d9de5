"""A SQLAlchemy session on Django's own connection, inside Django's own transaction."""

from __future__ import annotations

import functools
import json
import re
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn

from django.db import DEFAULT_DB_ALIAS, Error, connections, router, transaction
from django.db.models import F
from sqlalchemy import (
    ColumnClause,
    Connection,
    Engine,
    TextualSelect,
    bindparam,
    create_engine,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool
from sqlalchemy.types import NullType

from ...errors import BindingError, MissingExtraError
from ...searching.query import MAX_LIMIT
from ...sessions.base import Sessions
from ...sessions.host import Lent
from ...tables.ours import ADVICE, Advice, are_missing
from ...work.operation import Work
from .conf import TABLE_PREFIX, app_label
from .internals import with_parameters_written_in
from .tables import records

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from typing import Self

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import QuerySet

    from ...collection import Collection
    from ...tables.records import Records

# By Django's name for a kind of database: a URL that connects to nothing, and options.
ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "sqlite": ("sqlite://", {}),
    "postgresql": ("postgresql+psycopg://", {"use_native_hstore": False}),
}

KEPT = "embeddings_connection"
"""The attribute of Django's connection that has a session on it, while nobody uses that."""

OWN = "embeddings_transaction"
"""The attribute that it has while its outermost `atomic()` is this library's own."""

OTHER_NAMES = f'EMBEDDINGS = {{"{TABLE_PREFIX}": "search_"}} in the settings'


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
    session = _session_on(_engine(alias), alias)
    with transaction.atomic(using=alias), session:
        yield session
        session.commit()


class DjangoTransactions(Sessions):
    """For a `Collection`: Django's transaction where one is open, else a short one for each step.

    So no transaction is open while a model runs, unless the caller has opened it.
    """

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._held: Session | None = None

    @property
    def is_exclusive(self) -> bool:
        """Whether a transaction keeps other writers out from its beginning."""
        return takes_turns(self._alias) and not begins_late(self._alias)

    @property
    def owns_transactions(self) -> bool:
        """Whether no `atomic()` is open but one of a step of this library's own."""
        if self._held is not None:
            return False
        connection = connections[self._alias]
        return OWN in vars(connection) or not connection.in_atomic_block

    @property
    def is_one_snapshot(self) -> bool:
        """Whether an `atomic()` is open, on a database where those who write take turns."""
        if self._held is not None:
            return True
        return not self.owns_transactions and takes_turns(self._alias)

    def session(self, *, write: bool) -> AbstractContextManager[Session]:
        """Return a block with a session on Django's connection.

        What fails in writing leaves no trace. What only reads begins no transaction: with SQLite's
        `transaction_mode` it would wait for those who write.
        """
        return self._anew(write=write) if self._held is None else nullcontext(self._held)

    @contextmanager
    def _anew(self, *, write: bool) -> Iterator[Session]:
        atomic = _atomic(self._alias) if write else nullcontext()
        with atomic, _step(self._alias) as session:
            yield session
            session.flush()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the steps of one operation, if they see one snapshot, share a session.

        There is no savepoint: after an error of the database nothing can be asked before the end of
        the caller's block, as after one of `Model.save`. Nobody else may use the collection
        meanwhile.
        """
        if not self.is_one_snapshot:
            yield
            return
        with _step(self._alias) as self._held:
            try:
                yield
            except DBAPIError:
                self._held.rollback()
                raise
            finally:
                self._held = None

    @contextmanager
    def look(self, records: Records) -> Iterator[tuple[Session, bool]]:
        """Yield a session to read in, which outside `atomic()` sees what is committed."""
        with self.session(write=False) as session:
            yield session, not connections[self._alias].in_atomic_block

    def drop_broken(self) -> None:
        """Let go of Django's connection as Django does between two requests."""
        connections[self._alias].close_if_unusable_or_obsolete()

    def rest(self) -> None:
        """Give Django's connection back to its pool, where it has one."""
        connection = connections[self._alias]
        if connection.settings_dict["OPTIONS"].get("pool") and not connection.in_atomic_block:
            connection.close()

    def bind(self, records: Records) -> Engine:
        """Return the engine of the alias, which borrows Django's connection."""
        return _engine(self._alias)


@contextmanager
def _atomic(alias: str) -> Iterator[None]:
    """A block of `atomic()`, which is noted at the connection where it is the outermost."""
    attributes = vars(connections[alias])
    is_outermost = not connections[alias].in_atomic_block
    with transaction.atomic(using=alias):
        if is_outermost:
            attributes[OWN] = True
        try:
            yield
        finally:
            if is_outermost:
                attributes.pop(OWN, None)


def has_no_tables(alias: str) -> bool:
    """Return whether a database has no tables of this app."""
    with session(alias) as lent:
        return are_missing(Work(lent, records()))


class _DjangoSession(Session):
    """A session in a transaction that Django ends."""

    def rollback(self) -> None:
        super().rollback()
        transaction.set_rollback(True, using=self.info["alias"])


def _session_on(bind: Engine | Connection, alias: str) -> Session:
    # The objects are of use after the block, as Django's are.
    return _DjangoSession(bind, expire_on_commit=False, info={"alias": alias})


@contextmanager
def _step(alias: str) -> Iterator[Session]:
    """Yield a session for a step of this library's own.

    It is kept with Django's connection, empty, and with it a connection of SQLAlchemy's, which sees
    one transaction without an end: to make and to begin them anew takes longer than most
    statements. Who asks within a step gets another one, and one in which something failed is not
    kept.
    """
    connections[alias].close_if_health_check_failed()  # as Django does before a statement
    attributes = vars(connections[alias])
    session: Session | None = attributes.pop(KEPT, None)
    if session is None or not _is_current(session):
        session = _session_on(_engine(alias).connect(), alias)
    try:
        yield session
    except BaseException:
        session.close()
        raise
    session.expunge_all()
    attributes[KEPT] = session


def _is_current(session: Session) -> bool:
    """Return whether a session is on the driver's connection that Django's has now."""
    connection: Any = session.bind
    return not connection.invalidated and connection.connection.dbapi_connection.is_current


def remedy(alias: str) -> str:
    """Return what a Django user does where the tables are missing."""
    label, database = app_label(), f" --database={alias}" * (alias != DEFAULT_DB_ALIAS)
    if router.allow_migrate(alias, label):
        return f"manage.py migrate{database}"
    return (
        f"manage.py migrate{database}, once a router lets them into {alias!r}: allow_migrate("
        f"{alias!r}, {label!r}) has to be True or None. Now it is False"
    )


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
            execution_options={
                ADVICE: Advice(
                    functools.partial(remedy, alias),
                    OTHER_NAMES,
                    unfollow="UnfollowRows in a migration",
                    follow_anew="UnfollowRows and FollowRows in a migration",
                    default_model='EMBEDDINGS = {"MODEL": ...} in the settings',
                )
            },
            **options,
        )
    except ModuleNotFoundError:
        raise MissingExtraError("psycopg", "postgresql") from None


class _Lent(Lent):
    """The driver's connection behind one of Django's."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        connection.ensure_connection()
        super().__init__(connection.connection)
        self._connection = connection

    @property
    def is_current(self) -> bool:
        """Whether Django has not connected anew since."""
        return self._driver is self._connection.connection

    def cursor(self, *args: Any) -> Any:
        self._connection.validate_no_broken_transaction()
        if self._connection.vendor == "postgresql" and not args:
            # Not Django's, which writes parameters into the SQL, where binary ones cannot be.
            from psycopg import Cursor

            return _Cursor(Cursor(self._driver), self._connection)
        return _Cursor(super().cursor(*args), self._connection)

    def add_notice_handler(self, *args: Any) -> None:
        pass


class _Cursor:
    """The driver's cursor, whose statements go past whatever watches those of Django.

    So they are in `connection.queries`, are counted by `assertNumQueries`, and pass the wrappers of
    `execute_wrapper`. Their parameters, which may be texts of the application, are not shown.
    """

    def __init__(self, cursor: Any, connection: BaseDatabaseWrapper) -> None:
        self._cursor = cursor
        self._sent = _Sent(cursor)
        connection.validate_thread_sharing()
        # As `connection.cursor()` does with a cursor that it makes.
        is_noted = connection.queries_logged
        watch: Any = connection.make_debug_cursor if is_noted else connection.make_cursor
        self._watched = watch(self._sent)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, sql: str, *parameters: Any) -> Any:
        self._sent.parameters = parameters
        try:
            self._watched.execute(sql)
        except Error as error:
            _raise_drivers(error)

    def executemany(self, sql: str, parameters: Any) -> Any:
        try:
            self._watched.executemany(sql, parameters)
        except Error as error:
            _raise_drivers(error)

    def copy(self, sql: Any) -> Any:
        return self._watched.copy(sql)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cursor.close()


class _Sent:
    """The cursor as Django's own sees it: a statement brings its parameters along."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self.parameters: tuple[Any, ...] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, sql: str) -> Any:
        return self._cursor.execute(sql, *self.parameters)


def _raise_drivers(error: Error) -> NoReturn:
    """Raise an error of the driver's as it was, where Django has wrapped it."""
    if error.__cause__ is None:
        raise error
    raise error.__cause__ from None


def keys_as_sql(
    queryset: QuerySet[Any], name: str, *, in_order: bool = False
) -> tuple[str, tuple[Any, ...]]:
    """Return Django's SQL, and its parameters, of a queryset's keys under a name. It locks no rows.

    Args:
        queryset: Of instances.
        name: Of the column.
        in_order: Whether the order of the queryset matters.

    Raises:
        EmptyResultSet: Django knows that there are no rows.
    """
    query = queryset.values(**{name: F("pk")}).query
    if not in_order:
        query.clear_ordering(force=False)
    elif not query.is_sliced:
        query.set_limits(high=MAX_LIMIT)
    query.select_for_update = False
    sql, parameters = query.get_compiler(queryset.db).as_sql()
    return sql, tuple(parameters)


def keys_of(
    alias: str, sql: str, parameters: tuple[Any, ...], key: ColumnClause[Any]
) -> TextualSelect:
    """Return what `keys_as_sql` returned under the name of a column as a SELECT, in its type.

    As SQL and not as the keys themselves: of 100,000 rows these take longer to fetch and to send
    than the search takes. On SQLite it is Django's SQL with its parameters. On PostgreSQL it is
    the text that Django itself would send, parameters written into it.

    Args:
        alias: Of the database.
        sql: Django's.
        parameters: Those of the SQL.
        key: The column.
    """
    connection = connections[alias]
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


def is_supported(alias: str) -> bool:
    """Return whether embeddings can be in a database; it is not connected to."""
    return connections[alias].vendor in ENGINES


def before_tables(alias: str) -> list[str]:
    """Return the SQL of what has to be there before the tables."""
    is_postgresql = connections[alias].vendor == "postgresql"
    return ["CREATE EXTENSION IF NOT EXISTS vector"] if is_postgresql else []


def begins_late(alias: str) -> bool:
    """Return whether a transaction takes the lock to write when it first writes, and fails then.

    So does SQLite's, if another writer has committed since the transaction's first SELECT.
    """
    mode = str(connections[alias].settings_dict["OPTIONS"].get("transaction_mode", ""))
    return takes_turns(alias) and mode.upper() not in {"IMMEDIATE", "EXCLUSIVE"}


def takes_turns(alias: str) -> bool:
    """Return whether those who write wait for each other, whatever they write."""
    return bool(connections[alias].vendor == "sqlite")


def is_fastest_whole(collection: Collection[Any], alias: str) -> bool:
    """Return whether a search in the whole collection takes less time than one among keys.

    Without an index PostgreSQL reads every row for either.

    Args:
        collection: In the database.
        alias: Of the database.
    """
    if connections[alias].vendor == "sqlite":
        return True
    row = collection.reference.last_known()
    return row is not None and row.has_index


def is_one_of(
    connection: BaseDatabaseWrapper, key: str, kind: str, keys: list[Any]
) -> tuple[str, Any]:
    """Return the SQL of "a key is one of these", and its one parameter.

    Args:
        connection: Of which database.
        key: The SQL of the key.
        kind: The type of its column.
        keys: As the database has them.
    """
    if connection.vendor == "sqlite":
        return f"{key} IN (SELECT value FROM json_each(%s))", json.dumps(keys)
    return f"{key} = ANY(%s::{kind}[])", keys


def value_under(connection: BaseDatabaseWrapper, key: str, kind: str) -> str:
    """Return the SQL of the number that a parameter, an object of JSON, has under a key.

    Args:
        connection: Of which database.
        key: The SQL of the key.
        kind: The SQL type of the number, which SQLite finds by itself.
    """
    if connection.vendor == "sqlite":
        # LIMIT keeps SQLite from reading the JSON for each row: it makes an index of it, once.
        pairs = "(SELECT key, value FROM json_each(%s) LIMIT -1)"
        return f"(SELECT found.value FROM {pairs} AS found WHERE found.key = CAST({key} AS TEXT))"
    return f"(%s::jsonb ->> ({key})::text)::{kind}"

"""What SQLAlchemy keeps to itself and this library needs, in one place, each with its reason.

Checked with SQLAlchemy 2.0.31 and 2.1.9.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from sqlalchemy import CTE, CompoundSelect, Select, null
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import attributes
from sqlalchemy.sql import visitors
from sqlalchemy.sql.selectable import TextualSelect
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.types import NULLTYPE
from sqlalchemy.util import HasMemoized

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sqlalchemy import (
        ClauseElement,
        ColumnElement,
        Connection,
        CursorResult,
        FromClause,
        GenerativeSelect,
        SelectBase,
        Table,
    )
    from sqlalchemy.orm import Session
    from sqlalchemy.pool import SingletonThreadPool
    from sqlalchemy.sql.compiler import SQLCompiler


class _Unheard:
    """A session's events without that of statements, which `Session.execute` asks it for.

    No option of a statement keeps class-level listeners from it.
    """

    do_orm_execute = ()

    def __init__(self, events: Any) -> None:
        self._events = events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._events, name)


def unheard(session: Session) -> Session:
    """Return a session whose SELECT listeners to `do_orm_execute` do not change."""
    vars(session)["dispatch"] = _Unheard(session.dispatch)
    return session


def is_flushing(session: Session) -> bool:
    """Return whether this is within a flush, where another flush is an error.

    Listeners to the session's events use collections, and there is no public way to ask.
    """
    return session._flushing


def has_connection(session: Session) -> bool:
    """Return whether the session has a connection checked out of a pool.

    A session begins a transaction when an object is added, and takes a connection only later; its
    public `in_transaction` tells of the first.
    """
    transaction = session._transaction
    while transaction is not None:
        if transaction._connections:
            return True
        transaction = transaction._parent
    return False


def has_listeners(session: Session) -> bool:
    """Return whether somebody listens to the session's `do_orm_execute`.

    There a host puts conditions to every SELECT, and there is no public way to ask.
    """
    return bool(session.dispatch.do_orm_execute)


def will_expire_on_rollback(session: Session, objects: Iterable[object]) -> None:
    """Have a rollback, of a savepoint too, take back what was loaded into objects past a flush.

    The ORM's own bulk UPDATE does so; else they would keep values of rows that are gone.
    """
    states = [attributes.instance_state(instance) for instance in objects]
    session._register_altered(states)


def connection_of_thread(pool: SingletonThreadPool) -> Any:
    """Return this thread's connection in the pool, or None, without checking it out.

    To check it out, and so in again, would roll its transaction back.
    """
    return getattr(pool._conn, "current", lambda: None)()


def registry_of(base: Any) -> Any:
    """Return the registry of a declarative base, or None.

    SQLModel has it under a name of SQLAlchemy's own, because a model may have a field `registry`.
    """
    return getattr(base, "registry", None) or getattr(base, "_sa_registry", None)


def as_driver_has(select: SQLCompiler) -> SQLCompiler:
    """Return a compiled SELECT whose values go in and come out as the driver has them.

    Args:
        select: Compiled with `render_postcompile`: values that are to be part of the text are so
            for good, and no parameters any more.
    """
    select._result_columns = [column._replace(type=NULLTYPE) for column in select._result_columns]
    vars(select)["_bind_processors"] = {}
    written = select.literal_execute_params
    select.bind_names = {
        bind: name for bind, name in select.bind_names.items() if bind not in written
    }
    select.literal_execute_params, select._render_postcompile = frozenset(), False
    return select


def execute_compiled(
    connection: Connection, select: SQLCompiler, parameters: Mapping[str, Any]
) -> CursorResult[Any]:
    """Execute a SELECT that was compiled once.

    The public ways take longer for what they do around it than the database for a few rows:
    `execute` to find a large statement in its cache, `exec_driver_sql` to describe the columns of
    the result, which a compiled statement keeps. Of SQLAlchemy's events those about cursors fire.
    """
    dialect, given = connection.dialect, [parameters]
    return connection._execute_context(
        dialect,
        dialect.execution_ctx_cls._init_compiled,
        select,
        given,
        connection.get_execution_options(),
        select,
        given,
        select.statement,
        None,
    )


def calling_module() -> str:
    """Return the name of the module that called the function that calls this."""
    return str(sys._getframe(2).f_globals["__name__"])


def tables_to_create(options: Mapping[str, Any]) -> Iterable[Table] | None:
    """Return the tables that `create_all` was asked for, from its event; None for all.

    The event's own list lacks those that are there already.
    """
    tables: Iterable[Table] | None = options["_ddl_runner"].tables
    return tables


def has_limit(statement: GenerativeSelect) -> bool:
    """Return whether a SELECT has LIMIT, OFFSET or FETCH, to which its order matters.

    PostgreSQL sorts all rows of a subquery with an order, for each page that is taken of it.
    """
    return statement._has_row_limiting_clause


def may_be_joined(statement: FromClause | SelectBase) -> bool:
    """Return whether a subquery gives the rows of its tables as they are, but for conditions.

    PostgreSQL makes a join of `IN` such a subquery. What is SQL by hand may be one.
    """
    if any(isinstance(part, CTE) for part in visitors.iterate(statement)):
        return False
    if isinstance(statement, Select):
        return not (
            statement._has_row_limiting_clause or statement._distinct or statement._group_by_clauses
        )
    return not isinstance(statement, CompoundSelect)


def has_order(statement: GenerativeSelect) -> bool:
    """Return whether a SELECT has an ORDER BY, for which nothing public asks."""
    return bool(statement._order_by_clauses)


def grouped_by(statement: Select[Any]) -> set[ColumnElement[Any]] | None:
    """Return the columns of tables that a SELECT groups by; None without GROUP BY and HAVING."""
    if not (statement._group_by_clauses or statement._having_criteria):
        return None
    return {
        column
        for clause in statement._group_by_clauses
        for column in getattr(clause, "base_columns", ())
    }


def locks_every_table(statement: Select[Any]) -> bool:
    """Return whether a SELECT has FOR UPDATE or FOR SHARE that names no table."""
    lock = statement._for_update_arg
    return lock is not None and not lock.of


class Postponed(TextualSelect):
    """A SELECT that is put together when it is compiled, and not where SQLAlchemy has its text.

    To put a large one together, and to look it up in the cache of compiled statements by all that
    is in it, takes longer than to execute it. This one is looked up by what it is made of, and
    there is no public way to say so.

    Args:
        make: Makes the SELECT of what follows, and of nothing else.
        given: Values that its text depends on.
        parts: SQL that it contains, with the values that its text does not depend on.
        columns: What it selects, for those who select from it.
    """

    _traverse_internals = [  # noqa: RUF012
        ("make", InternalTraversal.dp_plain_obj),
        ("given", InternalTraversal.dp_plain_obj),
        ("parts", InternalTraversal.dp_clauseelement_tuples),
        *TextualSelect._traverse_internals[2:],  # but what it selects, and by what text
    ]
    is_text = _is_textual = False

    def __init__(
        self,
        make: Callable[[tuple[Any, ...], Sequence[Sequence[Any]]], Select[Any]],
        given: tuple[Any, ...],
        parts: Sequence[Sequence[ClauseElement]],
        columns: Sequence[ColumnElement[Any]] = (),
    ) -> None:
        super().__init__(null(), list(columns))  # type: ignore[arg-type]
        self.make, self.given, self.parts = make, given, parts
        # As a SELECT has it: a session is told which mapped class the statement is about.
        attributes_of = (part._propagate_attrs for several in parts for part in several)
        self._propagate_attrs = next(filter(None, attributes_of), self._propagate_attrs)

    @HasMemoized.memoized_attribute
    def whole(self) -> Select[Any]:
        """The SELECT, the same each time: its CTEs are told apart by their addresses."""
        return self.make(self.given, self.parts)


@compiles(Postponed)
def _put_together(element: Postponed, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.whole, **options)

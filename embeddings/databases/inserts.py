"""INSERT as drivers take it: this library's columns, and a host's own by their defaults."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import bindparam

from ..tables.records import COLUMNS
from ..work.operation import compiled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqlalchemy import Column, ColumnElement, Connection, Dialect, Executable, Table


class Insert(NamedTuple):
    """A statement, and what its parameters are beside the values of `COLUMNS`."""

    sql: str
    names: tuple[str, ...]
    """All parameters, in the statement's order where it has one."""
    is_positional: bool
    defaults: tuple[tuple[str, Callable[[], Any]], ...]
    """A host's own columns that have a default in Python."""
    given: tuple[tuple[str, Callable[[Any], Any]], ...]
    """A host's own columns whose values are given, and what makes them what the driver takes."""
    columns: tuple[str, ...] = COLUMNS
    """Whose values rows have."""

    def run(
        self, connection: Connection, rows: list[tuple[Any, ...]], extra: Mapping[str, Any]
    ) -> int:
        """Execute it for rows, and return how many were written; not every driver can tell.

        Args:
            connection: Whose dialect the statement was made for.
            rows: Values of the columns, as the driver takes them.
            extra: Values of a host's own columns, by their names.
        """
        parameters: Any = rows
        if not self.is_positional or self.names != self.columns:
            given = {name: as_sent(extra[name]) for name, as_sent in self.given}
            parameters = [self._by_name(row, given) for row in parameters]
        return connection.exec_driver_sql(self.sql, parameters).rowcount

    def _by_name(self, row: tuple[Any, ...], given: dict[str, Any]) -> Any:
        values = dict(zip(self.columns, row, strict=True)) | given
        values |= {name: default() for name, default in self.defaults}
        return tuple(values[name] for name in self.names) if self.is_positional else values


def own_values(table: Table, extra: Iterable[str]) -> dict[str, ColumnElement[Any]]:
    """Return a parameter for each of `COLUMNS`, by its name: the values of an INSERT.

    Args:
        table: Of embeddings.
        extra: Names of a host's own columns whose values are given.
    """
    return {name: bindparam(name, type_=table.c[name].type) for name in (*COLUMNS, *extra)}


def insert_of(
    statement: Executable,
    dialect: Dialect,
    schema_map: tuple[tuple[str | None, str], ...],
    extra: Iterable[Column[Any]],
    columns: tuple[str, ...] = COLUMNS,
) -> Insert:
    """Return an INSERT of `own_values`, ready to be executed many times.

    Args:
        statement: The INSERT.
        dialect: Of the connection.
        schema_map: Which schemas it puts in the place of others.
        extra: A host's own columns whose values are given.
        columns: Whose values rows have.
    """
    made = compiled(statement, dialect, schema_map)
    by_host = tuple((column.key, _default_of(column, dialect)) for column in made.insert_prefetch)
    names = getattr(made, "positiontup", None) or [*columns, *(name for name, _ in by_host)]
    given = tuple((column.name, _as_sent(column, dialect)) for column in extra)
    return Insert(str(made), tuple(names), bool(dialect.positional), by_host, given, columns)


def _as_sent(column: Column[Any], dialect: Dialect) -> Callable[[Any], Any]:
    return column.type.dialect_impl(dialect).bind_processor(dialect) or _unchanged


def _unchanged(value: Any) -> Any:
    return value


def _default_of(column: Column[Any], dialect: Dialect) -> Callable[[], Any]:
    default: Any = column.default
    processor = column.type.dialect_impl(dialect).bind_processor(dialect)
    make: Any = functools.partial(default.arg, None) if default.is_callable else lambda: default.arg
    return make if processor is None else lambda: processor(make())

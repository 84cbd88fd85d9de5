"""How databases differ: which are supported, and expressions that each writes its own way."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType

from .errors import MissingExtraError

if TYPE_CHECKING:
    from sqlalchemy import URL, ColumnElement, Dialect, Table
    from sqlalchemy.dialects.postgresql import Insert as PostgreSQLInsert
    from sqlalchemy.dialects.sqlite import Insert as SQLiteInsert
    from sqlalchemy.sql.compiler import SQLCompiler
    from sqlalchemy.sql.operators import OperatorType
    from sqlalchemy.types import TypeEngine

SUPPORTED = ("sqlite", "postgresql")


class PerDialect(FunctionElement[Any]):
    """An expression with one text for SQLite and another for PostgreSQL.

    Which it is shows only when a statement is compiled, so that statements are built without a
    connection, and cached.
    """

    inherit_cache = True

    def __init__(
        self,
        *,
        sqlite: ColumnElement[Any],
        postgresql: ColumnElement[Any],
        type_: TypeEngine[Any] | None = None,
    ) -> None:
        self.type = type_ or NullType()
        super().__init__(sqlite, postgresql)

    def self_group(self, against: OperatorType | None = None) -> Any:
        """Return the expression as it is: it comes with its parentheses.

        Else a condition would be compared with 1 on SQLite, which then uses no index for it.
        """
        return self


@compiles(PerDialect, "sqlite")
def _on_sqlite(element: PerDialect, compiler: SQLCompiler, **options: Any) -> str:
    return _in_parentheses(element, compiler, 0, options)


@compiles(PerDialect, "postgresql")
def _on_postgresql(element: PerDialect, compiler: SQLCompiler, **options: Any) -> str:
    return _in_parentheses(element, compiler, 1, options)


def _in_parentheses(
    element: PerDialect, compiler: SQLCompiler, position: int, options: dict[str, Any]
) -> str:
    return f"({compiler.process(list(element.clauses)[position], **options)})"


def insert_into(table: Table, dialect: Dialect) -> SQLiteInsert | PostgreSQLInsert:
    """Return the dialect's INSERT that knows ON CONFLICT."""
    # Imported here: an application may use one of the two only.
    if dialect.name == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table)


def is_psycopg(dialect: Dialect) -> bool:
    """Return whether the driver is psycopg 3, which sends parameters in binary."""
    return dialect.driver.startswith("psycopg") and dialect.driver != "psycopg2"


def identifier(name: str) -> str:
    """Return a name as SQL, whatever is in it."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def with_driver(url: URL, *drivers: str) -> URL:
    """Return a URL of PostgreSQL that names no driver with the first of those installed."""
    if url.drivername not in {"postgres", "postgresql"}:
        return url.set(drivername=url.drivername.replace("postgres+", "postgresql+", 1))
    for driver in drivers:
        if find_spec(driver):
            return url.set(drivername=f"postgresql+{driver}")
    raise MissingExtraError("psycopg", "postgresql")

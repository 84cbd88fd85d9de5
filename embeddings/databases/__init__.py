"""What each database does its own way: the port, and one folder a database that implements it.

`of` is the only place where the name of a dialect decides anything.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from sqlalchemy import URL

from ..errors import BindingError
from ..forks import importing
from .base import Database

if TYPE_CHECKING:
    from sqlalchemy import Dialect

BUILT_IN = ("sqlite", "postgresql")
"""The databases of this library: each is a module of this package with a `DATABASE` in it."""

# SQLAlchemy prints statements by a dialect called "default", which no database has.
_known: dict[str, Database] = {"default": Database()}


def register(database: Database) -> None:
    """Make a database known under the name of its dialect, in place of any of that name."""
    _known[database.name] = database


def named(name: str) -> Database:
    """Return the database of a dialect's name.

    Raises:
        BindingError: It is not supported. The message says which are.
    """
    if name not in _known and name in BUILT_IN:
        with importing():
            module = importlib.import_module(f".{name}", __name__)
        register(module.DATABASE)
    if name not in _known:
        supported = sorted({*BUILT_IN, *_known} - {"default"})
        raise BindingError(
            f"{name} is not supported; use {', '.join(supported[:-1])} or {supported[-1]}"
        )
    return _known[name]


def of(dialect: Dialect) -> Database:
    """Return the database that a dialect speaks to. Raises as `named`."""
    return _known.get(dialect.name) or named(dialect.name)


def of_url(url: URL) -> Database:
    """Return the database that a URL leads to.

    Raises:
        BindingError: As `named`.
        sqlalchemy.exc.NoSuchModuleError: SQLAlchemy does not know it either.
    """
    name = url.get_backend_name()
    if name == "postgres":  # as some services still write it
        return named("postgresql")
    return named(name) if name in _known or name in BUILT_IN else of(url.get_dialect()())


def every() -> list[Database]:
    """Return every supported database."""
    for name in BUILT_IN:
        named(name)
    return [database for name, database in _known.items() if name != "default"]


def url_of_file(path: str | None) -> URL:
    """Return the URL of what a path or a URI (`file:...`) leads to; of no file for None."""
    if path is None or not path.startswith("file:"):
        return URL.create("sqlite", database=path)
    database, _, parameters = path.partition("#")[0].partition("?")
    return URL.create("sqlite", database=database, query=dict(parse_qsl(parameters)))

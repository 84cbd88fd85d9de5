"""Databases that are opened here: by a path, by a URL, or in memory, with settings of our own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from sqlalchemy import URL, create_engine, make_url
from sqlalchemy.exc import ArgumentError

from .. import databases
from ..errors import BindingError

if TYPE_CHECKING:
    from sqlalchemy import Engine


Address: TypeAlias = str | os.PathLike[str] | URL
"""A path, or a URL, as text or SQLAlchemy's object of it, which hides its password as text."""


def url_of(database: Address | None) -> URL:
    """Return the URL of what may be one, or a path, or None for a database in memory."""
    if isinstance(database, os.PathLike):
        return databases.url_of_file(os.fspath(database) or ":memory:")
    if not isinstance(database, URL):
        if not database or "://" not in database or database.startswith("file:"):
            return databases.url_of_file(database or ":memory:")
        try:
            database = make_url(database)
        except (ArgumentError, ValueError):
            raise BindingError("This URL cannot be read; for a file use a path") from None
    if "@" in (database.host or ""):  # drivers would show it in their errors
        raise BindingError("This URL has two @: write one in a password as %40")
    return database


def open_engine(database: Address | None) -> Engine:
    """Return an engine on a path, a URL or, for None, memory; with our settings on SQLite.

    Raises:
        BindingError: The URL cannot be read, its database is not supported, or its driver is
            asynchronous.
    """
    given = url_of(database)
    kind = databases.of_url(given)
    url = kind.url(given, asynchronous=False)
    if url.get_dialect().is_async:
        other = kind.url(url.set(drivername=url.get_backend_name()), asynchronous=False)
        raise BindingError(
            f"The driver {url.get_driver_name()} is asynchronous: use the same URL with a "
            f"synchronous one, as {other.drivername}:{'//' if url.host else '///'}...; or, in a "
            "program that awaits, AsyncCollection"
        )
    return kind.new_engine(url, create_engine)


def is_missing_file(database: object) -> bool:
    """Return whether this is the path or the URL of a database's file that is not there."""
    if not isinstance(database, str | os.PathLike | URL):
        return False
    url = url_of(database)
    return databases.of_url(url).is_missing(url)

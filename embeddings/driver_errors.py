"""What the drivers' errors tell, whoever has wrapped them."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError


def of_driver(error: Exception) -> BaseException:
    """Return the driver's error behind one that SQLAlchemy or Django has made of it."""
    behind = error.orig if isinstance(error, DBAPIError) else error.__cause__
    return behind or error


def sqlstate(error: Exception) -> str | None:
    """Return the SQL standard's code for an error, whatever the driver; None if it gives none."""
    for raised in (error, of_driver(error)):  # asyncpg's own has the system's as its cause
        code: str | None = getattr(raised, "sqlstate", None) or getattr(raised, "pgcode", None)
        if code is not None:
            return code
    return None

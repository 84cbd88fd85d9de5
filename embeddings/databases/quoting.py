"""Names and texts as SQL, for statements that no expression of SQLAlchemy's makes."""

from __future__ import annotations


def quoted(name: str) -> str:
    """Return a name as SQL, whatever is in it."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def literal(value: str) -> str:
    """Return a text as SQL, whatever is in it."""
    escaped = value.replace("'", "''")
    return f"'{escaped}'"

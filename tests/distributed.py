"""What Citus would refuse, told from the text of a statement: a check that needs no Citus.

Where `embeddings` is distributed, every statement about it has `collection_id = ...` at its top
level, touches no system catalog, and joins the other tables of ours by `collection_id` and `id`
alone. Statements of a host's own, and those that change the schema, are not looked at.
"""

from __future__ import annotations

import re
import traceback
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event

import embeddings

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = str(Path(embeddings.__file__).parent)
TABLE = r'"?embeddings"?(?![\w"])'
FROM = re.compile(rf"\b(?:FROM|JOIN|UPDATE|INTO|COPY)\s+(?:\"?\w+\"?\.)?{TABLE}", re.IGNORECASE)
IS_OURS = re.compile(r"collection_id\b(?:\s*\+\s*(?:\d+|[%$:]\S+))?\s*=\s*(?![\w\"]+\.\w)")
CATALOG = re.compile(r"\bpg_(?:class|index|attribute|inherits|namespace|constraint)\b|tableoid")
CORRELATED = re.compile(
    r"collection_id\s*=\s*\"?collections\b|collections\"?\.\"?id\"?\s*=\s*\S*collection_id"
)
ROW = re.compile(r"SELECT collections\.id, collections\.name, collections\.model, \(SELECT")
"""What is read by several statements where there is Citus."""
LOOKED_AT = re.compile(r"^\s*(?:WITH|SELECT|INSERT|UPDATE|DELETE|COPY)\b", re.IGNORECASE)


@lru_cache(1000)
def problem(sql: str) -> str | None:
    """Return what Citus would refuse of a statement, or None."""
    if not LOOKED_AT.match(sql) or not FROM.search(sql):
        return None
    if found := CATALOG.search(sql):
        return f"it names embeddings and the system catalog ({found[0]}) together"
    if CORRELATED.search(sql):
        return "it relates rows of embeddings to those of collections"
    if re.match(r"\s*(?:INSERT|COPY)\b", sql, re.IGNORECASE):
        return None  # the value of collection_id is that of each row
    for each in FROM.finditer(sql):
        if not IS_OURS.search(_scope(sql, each.start())):
            return "embeddings is read without collection_id = ... beside it"
    return None


def _scope(sql: str, place: int) -> str:
    """Return the SELECT, UPDATE or DELETE that a place is in, without its subqueries."""
    depth, start = 0, place
    while start > 0 and depth >= 0:
        start -= 1
        depth += {")": 1, "(": -1}.get(sql[start], 0)
    depth, end, own = 0, start + (depth < 0), []
    while end < len(sql) and depth >= 0:
        letter = sql[end]
        depth += {"(": 1, ")": -1}.get(letter, 0)
        own.append(letter)
        end += 1
    return "".join(own)


@contextmanager
def recorded(*, has_citus: bool = False) -> Iterator[list[str]]:
    """Yield what this library sends to PostgreSQL in the block and Citus would refuse.

    Args:
        has_citus: Whether the library believes that it is there.
    """
    refused: list[str] = []

    def note(_: Any, __: Any, sql: str, *rest: Any) -> None:
        if ROW.match(sql) and not has_citus:
            return
        if rest[1].dialect.name == "postgresql" and (why := problem(sql)) and _is_ours():
            refused.append(f"{why}: {' '.join(sql.split())[:500]}")

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield refused
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def _is_ours() -> bool:
    """Return whether the innermost frame outside SQLAlchemy is one of the library's."""
    for frame in reversed(traceback.extract_stack()):
        if "/sqlalchemy/" not in frame.filename and frame.filename != __file__:
            return frame.filename.startswith(PACKAGE)
    return False

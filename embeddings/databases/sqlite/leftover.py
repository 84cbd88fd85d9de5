"""What other programs leave beside a collection that they delete, whose id SQLite gives again.

The change log has the id of each collection that was deleted, below zero. As long as it is there,
side tables of that id are none of the collection that has the id now. Where one of the same name
comes with the id, it is taken for the same: it may have been replaced, or restored.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy.exc import OperationalError

from ..quoting import quoted
from . import parts, words
from .changelog import log_name, schema_of, within
from .index import names
from .rows import as_json
from .transactions import sqlite_transaction

if TYPE_CHECKING:
    from ...work.operation import Work
    from ...work.row import CollectionRow


class _Object(NamedTuple):
    """A side table of a collection, or a trigger of one."""

    type: str
    name: str
    collection_id: int


def without(work: Work, row: CollectionRow) -> CollectionRow:
    """Return the row of a collection without what a former one of its id has left."""
    has_any = not (row.language is row.chunks is row.index_method is None)
    if has_any and row.id in _deleted(work):
        return row._replace(language=None, chunks=None, index_method=None)
    return row


def remove(work: Work) -> None:
    """Drop the side tables of collections that were deleted.

    Where that was not noted, rows of the id may still need them, and they are kept for those.
    """
    records, inside = work.records, _inside(work)
    beside, deleted = _beside(work), _deleted(work)
    gone = work.connection.exec_driver_sql(
        "SELECT value FROM json_each(?) WHERE value NOT IN "
        f"(SELECT id FROM {inside}{quoted(records.collections.name)}) AND NOT EXISTS (SELECT 1 "
        f"FROM {inside}{quoted(records.embeddings.name)} WHERE collection_id = value)",
        (as_json({each.collection_id for each in beside}),),
    )
    left = deleted.union(gone.scalars())
    statements = [
        f"DROP {each.type.upper()} IF EXISTS {inside}{quoted(each.name)}"
        for each in beside
        if each.collection_id in left
    ]
    if deleted:
        statements.append(f"DELETE FROM {_log(work)} WHERE collection_id < 0")
    if statements:
        with sqlite_transaction(work.connection):
            for statement in statements:
                work.connection.exec_driver_sql(statement)


def highest_id(work: Work) -> int:
    """Return the highest id that side tables have; 0 where there are none."""
    return max((each.collection_id for each in _beside(work)), default=0)


def _beside(work: Work) -> list[_Object]:
    """Return what stands beside collections, in the order in which it can be dropped."""
    kinds = parts, words, names
    stems = "|".join(re.escape(kind.prefix(work.records)) for kind in kinds)
    found = work.connection.exec_driver_sql(
        f"SELECT type, name FROM {_inside(work)}sqlite_master "
        "WHERE type IN ('table', 'trigger') AND substr(name, 1, ?) = ? "
        # What FTS5 made itself goes with its virtual table.
        "ORDER BY type DESC, sql LIKE 'CREATE VIRTUAL%' DESC",
        (len(work.records.embeddings.name) + 1, f"{work.records.embeddings.name}_"),
    )
    beside = []
    for type, name in found:
        if match := re.match(rf"(?:{stems})(\d+)(_(?:insert|update|delete)$)?", name):
            is_table = any(kind.is_table(name, work.records) for kind in kinds)
            if match[2] if type == "trigger" else is_table:
                beside.append(_Object(type, name, int(match[1])))
    return beside


def _deleted(work: Work) -> set[int]:
    """Return the ids of collections of which the log says that they were deleted."""
    try:
        found = work.connection.exec_driver_sql(
            f"SELECT DISTINCT -collection_id FROM {_log(work)} WHERE collection_id < 0"
        )
    except OperationalError as error:
        if "no such table" in str(error.orig):
            return set()
        raise
    return {*found.scalars()}


def _inside(work: Work) -> str:
    return within(schema_of(work.connection, work.records))


def _log(work: Work) -> str:
    return f"{_inside(work)}{quoted(log_name(work.records))}"

"""Rows written in one order past the ORM, whose loaded records are then brought up to date."""

from __future__ import annotations

import functools
import itertools
import operator
from typing import TYPE_CHECKING, Any

from sqlalchemy import Executable, bindparam, func, update

from ..errors import InvalidVectorError
from ..tables.columns import JSONText
from ..tables.records import Records, now
from ..vectors import ITEM_BYTES
from . import loaded

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ..work.operation import Work
    from ..work.row import CollectionRow
    from .resolve import Resolution


def write(work: Work, resolution: Resolution, new: Collection[str] = ()) -> bool:
    """Write the rows and changes, in the order of their ids, within the session's transaction.

    One order for all writers: those who lock rows in different orders wait for each other forever.
    Records of these rows that the session has loaded are brought up to date.

    Args:
        work: Of the collection.
        resolution: What is to be written.
        new: Ids of rows that are not there. If another writer is faster, its rows are left alone.

    Returns:
        Whether another writer may have been faster.

    Raises:
        InvalidVectorError: A vector is of another length than those of the collection.
    """
    everything = resolution.rows + resolution.changes
    _check_dimensions(work.row, everything)
    steps = [("new" if row["id"] in new else "row", row) for row in resolution.rows]
    steps += [
        ("change" if change["embedding"] is None else "vector", change)
        for change in resolution.changes
    ]
    work.texts = resolution.texts
    steps.sort(key=lambda step: step[1]["id"])
    is_in_doubt = False
    for kind, group in itertools.groupby(steps, operator.itemgetter(0)):
        rows = [row for _, row in group]
        if kind == "new":
            is_in_doubt |= work.database.add_rows(work, rows, now())
        elif kind == "row":
            work.database.write_rows(work, rows, now(), resolution.there)
        else:
            _change(work, rows, has_vector=kind == "vector")
    if work.row.language is not None and resolution.texts:
        work.database.put_words(work, resolution.texts, work.row.language)
    loaded.refresh(work, [row["id"] for row in everything])
    return is_in_doubt


def _check_dimensions(collection: CollectionRow, rows: Sequence[dict[str, Any]]) -> None:
    sizes = {row["id"]: row["embedding"].size for row in rows if row["embedding"] is not None}
    if not sizes:
        return
    stored = collection.vector_bytes
    expected = min(sizes.values()) if stored is None else stored // ITEM_BYTES
    for id, size in sizes.items():
        if size != expected:
            raise InvalidVectorError(
                f"item {id!r}: vectors of {size} dimensions do not fit in a collection whose "
                f"vectors have {expected}. Nothing of this batch was written"
            )


def _change(work: Work, changes: Sequence[dict[str, Any]], *, has_vector: bool) -> None:
    common = {"in_collection_id": work.row.id, "new_updated": now()}
    work.connection.execute(
        _update(work.records, has_vector),
        [common | {f"new_{name}": value for name, value in change.items()} for change in changes],
    )


@functools.cache
def _update(records: Records, has_vector: bool) -> Executable:
    columns = records.embeddings.c
    changing = [columns.content, columns.content_blob, columns.metadata]
    if has_vector:  # naming the column is a change of the vector, to the triggers
        changing.append(columns.embedding)
    return (
        update(records.embeddings)
        .where(
            columns.collection_id == bindparam("in_collection_id"),
            columns.id == bindparam("new_id"),
            # Else another writer has replaced the row meanwhile, and has the last word.
            columns.content_hash == bindparam("new_content_hash"),
        )
        .values(
            {
                column: func.coalesce(
                    bindparam(
                        f"new_{column.name}",
                        type_=JSONText() if column is columns.metadata else column.type,
                    ),
                    column,
                )
                for column in changing
            }
            | {columns.updated: bindparam("new_updated")}
        )
    )

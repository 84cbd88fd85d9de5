"""What an operation on one item looks at: the collection's row, the item's own, and its content.

One statement reads them all. Each further one is a round trip to the server, or the preparation of
a statement, which takes longer than to execute it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import and_, bindparam, literal_column, select

from ..databases.base import stored_columns
from .row import ROW_COLUMNS, row_by_name, row_of

if TYPE_CHECKING:
    from sqlalchemy import Select

    from ..databases.base import Database
    from ..tables.records import Records
    from ..writing.items import Item
    from .operation import Work
    from .row import CollectionRow


class Looked(NamedTuple):
    """What was read of an item, together with the collection's row."""

    collection_id: int
    rows: list[Any]
    """What `Database.stored_rows` returns for its id."""
    has_content: bool
    """Whether some row has a hash of its content: else `Database.same_content` returns none."""


def row_with_item(work: Work, name: str, item: Item) -> CollectionRow | None:
    """Return a collection's row by its name, and note what there is of an item."""
    parameters = {"name": name, "item": item.id, "hash": item.content_hash, "key": item.key}
    found = work.run_kept(_row_with_item(work.database, work.records), parameters).first()
    if found is None:
        return None
    row, stored = row_of(found[:ROW_COLUMNS]), found[ROW_COLUMNS:-1]
    work.looked = Looked(row.id, [] if stored[0] is None else [stored], bool(found[-1]))
    return row


@functools.cache
def _row_with_item(database: Database, records: Records) -> Select[Any]:
    collections, embeddings = records.collections, records.embeddings
    is_item = and_(
        embeddings.c.collection_id == collections.c.id, embeddings.c.id == bindparam("item")
    )
    same = embeddings.alias("same")
    has_content = (
        select(literal_column("1"))
        .where(
            same.c.content_hash.in_([bindparam("hash"), bindparam("key")]),
            same.c.collection_id + literal_column("0") == collections.c.id,  # as in `by_hash`
        )
        .correlate(collections)
        .exists()
    )
    row = row_by_name(database, records, with_vector_bytes=True)
    all_ = row.add_columns(*stored_columns(database, records), has_content)
    return all_.select_from(collections.outerjoin(embeddings, is_item))


def known_rows(work: Work, ids: list[str]) -> list[Any] | None:
    """Return the rows of `Database.stored_rows`, if they were read with the collection's row."""
    item, looked = work.item, work.looked
    if not item or not looked or ids != [item.id] or looked.collection_id != work.row.id:
        return None
    return looked.rows


def unknown_hashes(work: Work, hashes: list[bytes]) -> list[bytes]:
    """Return the hashes of which it is not known already that no row has them."""
    item, looked = work.item, work.looked
    if item and looked and not looked.has_content and looked.collection_id == work.row.id:
        return [hash for hash in hashes if hash not in {item.content_hash, item.key}]
    return hashes

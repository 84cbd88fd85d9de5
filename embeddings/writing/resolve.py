"""The SQL half of `embed`: which items need the model, and the rows to write.

The order is always read, embed, write. `resolve` reads; it is asked again under the write
lock, just before `write`, because another writer may have been there while the model ran.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sqlalchemy import select

from .items import key_of_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from ..models.base import Kind
    from ..vectors import Float32
    from ..work.operation import Work
    from .items import Item


def is_same_json(text: str | None, stored: str | None) -> bool:
    """Return whether JSON says the same as what is stored, in whatever order objects have it."""
    if text is None or stored is None or text == stored:
        return text == stored
    # As text: to Python 1, 1.0 and True are equal.
    try:
        one, other = (json.dumps(json.loads(found), sort_keys=True) for found in (text, stored))
    except ValueError:  # what another program has stored is not JSON
        return False
    return one == other


class StoredRow(NamedTuple):
    """What is known of a row without reading its vector: the columns of `Database.stored_rows`."""

    id: str
    content_hash: bytes | None
    is_text: bool
    """Whether its content is stored, and is text."""
    is_binary: bool
    """Whether its content is stored, and is bytes."""
    metadata: str | None
    """As JSON text."""
    vector_bytes: int | None
    """None, too, of a row that is of another content than was looked for."""
    updated: int | None
    """Seconds since 1970."""


@dataclass
class Resolution:
    """What is to be done for some items, given the rows that are there and the vectors at hand."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """Rows to write as a whole."""
    changes: list[dict[str, Any]] = field(default_factory=list)
    """Changes to rows that stay; a value of None leaves the column as it is."""
    there: Collection[str] | None = None
    """The ids of rows that are there; None if nobody looked."""
    unchanged: set[str] = field(default_factory=set)
    """Ids of rows that are there already, just as they are to be."""
    missing: list[Item] = field(default_factory=list)
    """Items whose content has to be embedded first, each content once."""
    texts: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """The texts of all these items, by their ids, with their hashes: for a text index."""
    vectors: dict[bytes, Float32] = field(default_factory=dict)
    """The vectors at hand, with those that the collection has."""


def texts_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, bytes]]:
    """Return the stored texts of whole rows, as `Resolution.texts` has them."""
    return {
        row["id"]: (row["content"], row["content_hash"])
        for row in rows
        if row["content"] is not None
    }


def resolve(
    work: Work,
    items: Sequence[Item],
    stored: Mapping[str, StoredRow] | None,
    vectors: Mapping[bytes, Float32],
    kinds: Sequence[Kind],
    *,
    force: bool = False,
) -> Resolution:
    """Return what is to be done for the items. Reads only.

    Args:
        work: In the transaction whose rows count.
        items: From `fold`.
        stored: The rows that are there, from `stored_rows`; None if the collection has no row yet.
        vectors: What the model made of these items by now, by their keys.
        kinds: What the model takes.
        force: Leave no vector in place, and reuse none that is stored.
    """
    resolution = Resolution(there=(stored or {}).keys(), vectors=dict(vectors))
    vector_bytes = None if stored is None else work.row.vector_bytes
    rest: list[tuple[Item, StoredRow | None]] = []
    for item in items:
        row = stored.get(item.id) if stored else None
        if row is not None and not _is_same(item, row, kinds):
            row = None
        if row is None or force or vector_bytes is None or row.vector_bytes != vector_bytes:
            rest.append((item, row))
        elif (change := _change(item, row, None)) is None:
            resolution.unchanged.add(item.id)
        else:
            resolution.changes.append(change)
    at_hand = resolution.vectors
    if stored is not None and not force:
        wanted = {item.key: item.content_hash for item, _ in rest if item.key not in at_hand}
        at_hand |= stored_vectors(work, kinds, wanted)
    missing: dict[bytes, Item] = {}
    for item, row in rest:
        vector = at_hand.get(item.key)
        if vector is None:
            missing.setdefault(item.key, item)
        elif row is None:
            resolution.rows.append(_row(item, vector))
        elif (change := _change(item, row, vector)) is not None:
            resolution.changes.append(change)
    resolution.missing = list(missing.values())
    if work.has_row and work.row.language is not None:
        resolution.texts = {
            item.id: (item.content, item.content_hash)
            for item in items
            if isinstance(item.content, str)
        }
    return resolution


def _is_same(item: Item, row: StoredRow, kinds: Sequence[Kind]) -> bool:
    """Return whether a row is of the item's content."""
    if item.anew:
        return False
    if isinstance(item.content, str):
        return row.content_hash == item.content_hash and not row.is_binary
    return row.content_hash == item.key or (
        row.content_hash == item.content_hash and (bool(row.is_binary) or _takes_bytes_only(kinds))
    )


def _takes_bytes_only(kinds: Sequence[Kind]) -> bool:
    """Return whether a row with a hash of `llm`'s and without its content is of bytes."""
    return "text" not in kinds


def _row(item: Item, vector: Float32 | None) -> dict[str, Any]:
    text = item.content if item.store and isinstance(item.content, str) else None
    blob = item.content if item.store and isinstance(item.content, bytes) else None
    updated = {} if item.updated is None else {"updated": item.updated}
    return {
        "id": item.id,
        "embedding": vector,
        "content": text,
        "content_blob": blob,
        # A row with its bytes says what it is of. Others have a hash that no text has.
        "content_hash": item.content_hash if item.store else item.key,
        "metadata": item.metadata,
        **updated,
    }


def _change(item: Item, row: StoredRow, vector: Float32 | None) -> dict[str, Any] | None:
    """Return what a row that stays has to get, or None."""
    metadata = item.metadata
    if metadata is not None and is_same_json(metadata, row.metadata):
        metadata = None
    is_stored_now = item.store and not (row.is_text or row.is_binary)
    if vector is None and metadata is None and not is_stored_now:
        return None
    change = _row(item, vector) | {"content_hash": row.content_hash, "metadata": metadata}
    return change if is_stored_now else change | {"content": None, "content_blob": None}


def stored_rows(work: Work, items: Sequence[Item]) -> dict[str, StoredRow]:
    """Return the rows that are there for items, by their ids. Reads only."""
    hashes = {kept for item in items for kept in (item.content_hash, item.key)}
    rows = work.database.stored_rows(work, [item.id for item in items], hashes)
    return {row.id: row for row in map(StoredRow._make, rows)}


def stored_vectors(
    work: Work, kinds: Sequence[Kind], wanted: Mapping[bytes, bytes]
) -> dict[bytes, Float32]:
    """Return the vectors that some row of the collection already has for contents, by their keys.

    Args:
        work: Of the collection.
        kinds: What the model takes.
        wanted: The keys of the contents, each with the hash that `llm` has.
    """
    if work.row.vector_bytes is None or not wanted:
        return {}
    keys: dict[str, bytes] = {}
    hashes = sorted({*wanted, *wanted.values()})
    for found, is_text, is_binary, id in work.database.same_content(work, hashes):
        # A text is known by its hash, bytes by one of their own or by that of `llm`.
        if found in wanted and not (is_binary and wanted[found] == found):
            keys[id] = found
        elif is_binary or (_takes_bytes_only(kinds) and not is_text):
            key = key_of_bytes(found)
            if key in wanted:
                keys[id] = key
    if not keys:
        return {}
    columns = work.records.embeddings.c
    vectors = select(columns.id, columns.embedding).where(
        columns.collection_id == work.row.id, work.database.is_one_of(columns.id, keys)
    )
    return {keys[id]: vector for id, vector in work.run(vectors) if np.isfinite(vector).all()}

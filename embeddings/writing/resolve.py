"""The SQL half of `embed`: which items need the model, and the rows to write.

The order is always read, embed, write. `resolve` reads; it is asked again under the write
lock, just before `write`, because another writer may have been there while the model ran.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import select

from ..models.base import Kind, batches

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..vectors import Float32
    from ..work import Work
    from .items import ContentKey, Item

HASHES_AT_ONCE = 500  # in one statement, far below the parameters that any database takes


def is_same_json(text: str, stored: str | None, *, keeps_order: bool) -> bool:
    """Return whether JSON says the same as what is stored."""
    if stored is None:
        return False
    # As text: to Python 1, 1.0 and True are equal.
    try:
        one, other = (
            json.dumps(json.loads(found), sort_keys=not keeps_order) for found in (text, stored)
        )
    except ValueError:  # what another program has stored is not JSON
        return False
    return one == other


@dataclass(frozen=True, slots=True)
class StoredRow:
    """What is known of a row without reading its vector."""

    content_hash: bytes | None
    kind: Kind | None
    """None where the row does not say whether it was text or bytes."""
    is_stored: bool
    metadata: str | None
    """As JSON text."""
    has_vector: bool
    """Whether its vector has the collection's length."""
    updated: int | None
    """Seconds since 1970."""


@dataclass
class Resolution:
    """What is to be done for some items, given the rows that are there and the vectors at hand."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """Rows to write as a whole."""
    changes: list[dict[str, Any]] = field(default_factory=list)
    """Changes to rows that stay; a value of None leaves the column as it is."""
    unchanged: set[str] = field(default_factory=set)
    """Ids of rows that are there already, just as they are to be."""
    missing: list[Item] = field(default_factory=list)
    """Items whose content has to be embedded first, each content once."""
    texts: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """The texts of all these items, by their ids, with their hashes: for a text index."""
    vectors: dict[ContentKey, Float32] = field(default_factory=dict)
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
    vectors: Mapping[ContentKey, Float32],
    kinds: Sequence[Kind],
    *,
    force: bool = False,
) -> Resolution:
    """Return what is to be done for the items. Reads only.

    Args:
        work: In the transaction whose rows count.
        items: From `fold`.
        stored: The rows that are there, from `stored_rows`; None if the collection has no row yet.
        vectors: What the model made of these items by now.
        kinds: What the model takes: tells what a row that does not hold its content was made of.
        force: Leave no vector in place, and reuse none that is stored.
    """
    exists = stored is not None
    stored = stored or {}
    # The rows that stay, and among them those whose vector stays too.
    same = {item.id for item in items if item.id in stored and _is_same(item, stored[item.id])}
    settled = {
        item.id
        for item in items
        if item.id in same
        and not force
        and stored[item.id].kind == item.key[1]
        and stored[item.id].has_vector
    }
    at_hand = dict(vectors)
    if exists and not force:
        wanted = {item.key for item in items if item.id not in settled} - at_hand.keys()
        at_hand |= stored_vectors(work, kinds, wanted)

    texts = {i.id: (i.content, i.key[0]) for i in items if isinstance(i.content, str)}
    resolution = Resolution(vectors=at_hand, texts=texts)
    missing: dict[ContentKey, Item] = {}
    for item in items:
        vector = None if item.id in settled else at_hand.get(item.key)
        if vector is None and item.id not in settled:
            missing.setdefault(item.key, item)
        elif item.id in same:
            change = _change(work, item, stored[item.id], vector)
            if change is not None:
                resolution.changes.append(change)
            else:
                resolution.unchanged.add(item.id)
        else:
            resolution.rows.append(_row(item, vector))
    resolution.missing = list(missing.values())
    return resolution


def _is_same(item: Item, row: StoredRow) -> bool:
    return not item.anew and row.content_hash == item.key[0] and row.kind in {None, item.key[1]}


def _row(item: Item, vector: Float32 | None) -> dict[str, Any]:
    text = item.content if item.store and isinstance(item.content, str) else None
    blob = item.content if item.store and isinstance(item.content, bytes) else None
    updated = {} if item.updated is None else {"updated": item.updated}
    return {
        "id": item.id,
        "embedding": vector,
        "content": text,
        "content_blob": blob,
        "content_hash": item.key[0],
        "metadata": item.metadata,
        **updated,
    }


def _change(
    work: Work, item: Item, row: StoredRow, vector: Float32 | None
) -> dict[str, Any] | None:
    """Return what a row that stays has to get, or None."""
    change = _row(item, vector)
    if row.is_stored:
        change["content"] = change["content_blob"] = None
    keeps_order = work.database.keeps_order_of_json
    if item.metadata is not None and is_same_json(
        item.metadata, row.metadata, keeps_order=keeps_order
    ):
        change["metadata"] = None
    is_needed = any(
        value is not None for name, value in change.items() if name not in {"id", "content_hash"}
    )
    return change if is_needed else None


def stored_rows(work: Work, items: Sequence[Item], kinds: Sequence[Kind]) -> dict[str, StoredRow]:
    """Return the rows that are there for items, by their ids. Reads only."""
    expected = work.row.vector_bytes
    return {
        id: StoredRow(
            content_hash,
            _kind(is_text, is_binary, kinds),
            bool(is_text or is_binary),
            metadata,
            expected is not None and vector_bytes == expected,
            updated,
        )
        for id, content_hash, is_text, is_binary, metadata, vector_bytes, updated in (
            work.database.stored_rows(work, [item.id for item in items])
        )
    }


def _kind(is_text: bool, is_binary: bool, kinds: Sequence[Kind]) -> Kind | None:
    if is_text or is_binary:
        return "text" if is_text else "binary"
    return kinds[0] if len(kinds) == 1 else None


def stored_vectors(
    work: Work, kinds: Sequence[Kind], wanted: set[ContentKey]
) -> dict[ContentKey, Float32]:
    """Return the vectors that some row of the collection already has for these contents."""
    if work.row.vector_bytes is None or not wanted:
        return {}
    keys: dict[str, ContentKey] = {}
    for hashes in batches(sorted({content_hash for content_hash, _ in wanted}), HASHES_AT_ONCE):
        for content_hash, is_text, is_binary, id in work.database.same_content(work, hashes):
            kind = _kind(is_text, is_binary, kinds)
            if kind is not None and (content_hash, kind) in wanted:
                keys[id] = (content_hash, kind)
    if not keys:
        return {}
    columns = work.records.embeddings.c
    vectors = select(columns.id, columns.embedding).where(
        columns.collection_id == work.row.id, work.database.is_one_of(columns.id, keys)
    )
    return {keys[id]: vector for id, vector in work.run(vectors) if np.isfinite(vector).all()}

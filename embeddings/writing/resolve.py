"""The SQL half of `embed`: which items need the model, and the rows to write.

The order is always read, embed, write. `resolve` reads; it is asked again under the write
lock, just before `write`, because another writer may have been there while the model ran.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import ARRAY, LargeBinary, Text, bindparam, cast, func, select

from ..models.base import Kind, batches
from ..sql import (
    dialect_of,
    is_one_of,
    is_one_of_parameter,
    run,
    run_kept,
    vector_size,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement, Result, Select
    from sqlalchemy.orm import Session

    from ..sql import Found
    from ..tables.records import Records
    from ..vectors import Float32
    from .items import ContentKey, Item

IN_LIMIT = 500  # values in one IN, far below what any database takes


def _is_same_json(text: str, stored: str | None, *, keeps_order: bool) -> bool:
    if stored is None:
        return False
    # As text: to Python 1, 1.0 and True are equal.
    one, other = (
        json.dumps(json.loads(json_text), sort_keys=not keeps_order) for json_text in (text, stored)
    )
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


@dataclass
class Resolution:
    """What is to be done for some items, given the rows that are there and the vectors at hand."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """Rows to write as a whole."""
    changes: list[dict[str, Any]] = field(default_factory=list)
    """Changes to rows that stay; a value of None leaves the column as it is."""
    missing: list[Item] = field(default_factory=list)
    """Items whose content has to be embedded first, each content once."""
    vectors: dict[ContentKey, Float32] = field(default_factory=dict)
    """The vectors at hand, with those that the collection has."""


def resolve(
    session: Session,
    records: Records,
    found: Found | None,
    items: Sequence[Item],
    vectors: Mapping[ContentKey, Float32],
    kinds: Sequence[Kind],
    *,
    force: bool = False,
) -> Resolution:
    """Return what is to be done for the items. Reads only.

    Args:
        session: In the transaction whose rows count.
        records: The mapped classes.
        found: The collection; None if it does not exist yet.
        items: From `fold`.
        vectors: What the model made of these items by now.
        kinds: What the model takes: tells what a row that does not hold its content was made of.
        force: Leave no vector in place, and reuse none that is stored.
    """
    stored = _stored_rows(session, records, found, kinds, items)
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
    if not force:
        wanted = {item.key for item in items if item.id not in settled} - at_hand.keys()
        at_hand |= _stored_vectors(session, records, found, kinds, wanted)

    resolution = Resolution(vectors=at_hand)
    keeps_order = dialect_of(session, records).name == "sqlite"  # that of the keys in JSON
    missing: dict[ContentKey, Item] = {}
    for item in items:
        vector = None if item.id in settled else at_hand.get(item.key)
        if vector is None and item.id not in settled:
            missing.setdefault(item.key, item)
        elif item.id in same:
            row = stored[item.id]
            resolution.changes += _changes(item, row, vector, keeps_order=keeps_order)
        else:
            resolution.rows.append(_row(item, vector))
    resolution.missing = list(missing.values())
    return resolution


def _is_same(item: Item, row: StoredRow) -> bool:
    return not item.anew and row.content_hash == item.key[0] and row.kind in {None, item.key[1]}


def _row(item: Item, vector: Float32 | None) -> dict[str, Any]:
    text = item.content if item.store and isinstance(item.content, str) else None
    blob = item.content if item.store and isinstance(item.content, bytes) else None
    return {
        "id": item.id,
        "embedding": vector,
        "content": text,
        "content_blob": blob,
        "content_hash": item.key[0],
        "metadata": item.metadata,
    }


def _changes(
    item: Item, row: StoredRow, vector: Float32 | None, *, keeps_order: bool
) -> list[dict[str, Any]]:
    change = _row(item, vector)
    if row.is_stored:
        change["content"] = change["content_blob"] = None
    if item.metadata is not None and _is_same_json(
        item.metadata, row.metadata, keeps_order=keeps_order
    ):
        change["metadata"] = None
    is_needed = any(
        value is not None for name, value in change.items() if name not in {"id", "content_hash"}
    )
    return [change] * is_needed


def _stored_rows(
    session: Session,
    records: Records,
    found: Found | None,
    kinds: Sequence[Kind],
    items: Sequence[Item],
) -> dict[str, StoredRow]:
    if found is None:
        return {}
    ids = [item.id for item in items]
    if dialect_of(session, records).name == "sqlite":
        parameters = {"of": found.id, "ids": json.dumps(ids)}
        rows: Iterable[Any] = run_kept(session, records, _rows_of_ids(records), parameters)
    else:
        rows = run(session, records, _rows_of_ids(records), {"of": found.id, "ids": ids})
    return {
        id: StoredRow(
            content_hash,
            _kind(is_text, is_binary, kinds),
            bool(is_text or is_binary),
            metadata,
            found.size is not None and size == found.size,
        )
        for id, content_hash, is_text, is_binary, metadata, size in rows
    }


@functools.cache
def _rows_of_ids(records: Records) -> Select[Any]:
    columns = records.embeddings.c
    return select(
        columns.id,
        columns.content_hash,
        columns.content.is_not(None),
        columns.content_blob.is_not(None),
        cast(columns.metadata, Text),
        vector_size(records),
    ).where(columns.collection_id == bindparam("of"), is_one_of_parameter(columns.id, "ids"))


def _kind(is_text: bool, is_binary: bool, kinds: Sequence[Kind]) -> Kind | None:
    if is_text or is_binary:
        return "text" if is_text else "binary"
    return kinds[0] if len(kinds) == 1 else None


def _stored_vectors(
    session: Session,
    records: Records,
    found: Found | None,
    kinds: Sequence[Kind],
    wanted: set[ContentKey],
) -> dict[ContentKey, Float32]:
    """Return the vectors that some row of the collection already has for these contents."""
    if found is None or found.size is None or not wanted:
        return {}
    keys: dict[str, ContentKey] = {}
    for hashes in batches(sorted({content_hash for content_hash, _ in wanted}), IN_LIMIT):
        for content_hash, is_text, is_binary, id in _examples(session, records, found, hashes):
            kind = _kind(is_text, is_binary, kinds)
            if kind is not None and (content_hash, kind) in wanted:
                keys[id] = (content_hash, kind)
    if not keys:
        return {}
    columns = records.embeddings.c
    vectors = select(columns.id, columns.embedding).where(
        columns.collection_id == found.id, is_one_of(columns.id, keys)
    )
    return {
        keys[id]: vector
        for id, vector in run(session, records, vectors)
        if np.isfinite(vector).all()
    }


def _examples(
    session: Session, records: Records, found: Found, hashes: list[bytes]
) -> Result[*tuple[Any, ...]]:
    """Return (hash, is text, is binary, id) of one row for each content, by hashes of contents."""
    parameters: dict[str, Any] = {"of": found.id, "size": found.size}
    if dialect_of(session, records).name == "postgresql":
        return run(session, records, _by_hash(records, None), parameters | {"hashes": hashes})
    # Some are asked for twice, so that a few statements do for any number.
    places = 1 << (len(hashes) - 1).bit_length()
    padded = hashes + hashes[-1:] * (places - len(hashes))
    parameters |= {f"hash_{at}": content_hash for at, content_hash in enumerate(padded)}
    return run_kept(session, records, _by_hash(records, places), parameters)


@functools.cache
def _by_hash(records: Records, places: int | None) -> Select[Any]:
    """Return the SELECT for so many hashes, or for an array of them.

    An array is what PostgreSQL parses and plans ten times faster, and SQLite has none.
    """
    columns = records.embeddings.c
    has_hash: ColumnElement[bool]
    if places is None:
        has_hash = columns.content_hash == func.any(bindparam("hashes", type_=ARRAY(LargeBinary)))
    else:
        has_hash = columns.content_hash.in_([bindparam(f"hash_{at}") for at in range(places)])
    flags = (columns.content.is_not(None), columns.content_blob.is_not(None))
    return (
        select(columns.content_hash, *flags, func.min(columns.id))
        .where(
            # "+ 0" keeps the planner from reading the whole collection instead of its hashes.
            columns.collection_id + 0 == bindparam("of"),
            vector_size(records) == bindparam("size"),
            has_hash,
        )
        .group_by(columns.content_hash, *flags)
    )

"""The SQL half of `embed`: which items need the model, and the rows to write.

The order is always read, embed, write. `resolve` reads; it is asked again under the write
lock, just before `write`, because another writer may have been there while the model ran.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import Executable, bindparam, func, select, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import attributes

from .errors import InvalidVectorError
from .model import Kind, batches
from .records import Metadata, Records, dump_metadata, now
from .sql import run, stored_size, vector_size
from .vectors import ITEM_BYTES, Float32

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.orm import Session

    from .items import ContentKey, Item

IN_LIMIT = 500  # values in one IN, far below what any database takes


@dataclass(frozen=True, slots=True)
class StoredRow:
    """What is known of a row without reading its vector."""

    content_hash: bytes | None
    kind: Kind | None
    """None where the row does not say whether it was text or bytes."""
    is_stored: bool
    metadata: Metadata | None
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

    @property
    def is_empty(self) -> bool:
        """Whether every row is already as it should be."""
        return not (self.rows or self.changes or self.missing)


def resolve(
    session: Session,
    records: Records,
    collection_id: int | None,
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
        collection_id: None if the collection does not exist yet.
        items: From `fold`.
        vectors: What the model made of these items by now.
        kinds: What the model takes: tells what a row that does not hold its content was made of.
        force: Leave no vector in place, and reuse none that is stored.
    """
    size = None if collection_id is None else stored_size(session, records, collection_id)
    stored = _stored_rows(session, records, collection_id, size, kinds, items)
    # The rows that stay, and among them those whose vector stays too.
    same = {item.id for item in items if _is_same(item, stored.get(item.id))}
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
        at_hand |= _stored_vectors(session, records, collection_id, size, kinds, wanted)

    resolution = Resolution()
    missing: dict[ContentKey, Item] = {}
    for item in items:
        vector = None if item.id in settled else at_hand.get(item.key)
        if vector is None and item.id not in settled:
            missing.setdefault(item.key, item)
        elif item.id in same:
            resolution.changes += _changes(item, stored[item.id], vector)
        else:
            resolution.rows.append(_row(item, vector))
    resolution.missing = list(missing.values())
    return resolution


def _is_same(item: Item, row: StoredRow | None) -> bool:
    return (
        row is not None
        and not item.anew
        and row.content_hash == item.content_hash
        and row.kind in {None, item.key[1]}
    )


def _row(item: Item, vector: Float32 | None) -> dict[str, Any]:
    text = item.content if item.store and isinstance(item.content, str) else None
    blob = item.content if item.store and isinstance(item.content, bytes) else None
    return {
        "id": item.id,
        "embedding": vector,
        "content": text,
        "content_blob": blob,
        "content_hash": item.content_hash,
        "metadata": item.metadata,
    }


def _changes(item: Item, row: StoredRow, vector: Float32 | None) -> list[dict[str, Any]]:
    change = _row(item, vector)
    if row.is_stored:
        change["content"] = change["content_blob"] = None
    # As text: to Python 1, 1.0 and True are equal.
    if (
        item.metadata is not None
        and row.metadata is not None
        and dump_metadata(item.metadata) == dump_metadata(row.metadata)
    ):
        change["metadata"] = None
    del change["content_hash"]
    is_needed = any(value is not None for name, value in change.items() if name != "id")
    return [change] * is_needed


def _stored_rows(
    session: Session,
    records: Records,
    collection_id: int | None,
    size: int | None,
    kinds: Sequence[Kind],
    items: Sequence[Item],
) -> dict[str, StoredRow]:
    if collection_id is None:
        return {}
    columns = records.embeddings.c
    query = select(
        columns.id,
        columns.content_hash,
        columns.content.is_not(None),
        columns.content_blob.is_not(None),
        columns.metadata,
        vector_size(records),
    ).where(columns.collection_id == collection_id)
    found = {}
    for part in batches((item.id for item in items), IN_LIMIT):
        for id, content_hash, is_text, is_binary, metadata, row_size in run(
            session, records, query.where(columns.id.in_(part))
        ):
            found[id] = StoredRow(
                content_hash,
                _kind(is_text, is_binary, kinds),
                is_text or is_binary,
                metadata,
                size is not None and row_size == size,
            )
    return found


def _kind(is_text: bool, is_binary: bool, kinds: Sequence[Kind]) -> Kind | None:
    if is_text or is_binary:
        return "text" if is_text else "binary"
    return kinds[0] if len(kinds) == 1 else None


def _stored_vectors(
    session: Session,
    records: Records,
    collection_id: int | None,
    size: int | None,
    kinds: Sequence[Kind],
    wanted: set[ContentKey],
) -> dict[ContentKey, Float32]:
    """Return the vectors that some row of the collection already has for these contents."""
    if collection_id is None or size is None or not wanted:
        return {}
    columns = records.embeddings.c
    flags = (columns.content.is_not(None), columns.content_blob.is_not(None))
    examples = (
        select(columns.content_hash, *flags, func.min(columns.id))
        .where(columns.collection_id == collection_id, vector_size(records) == size)
        .group_by(columns.content_hash, *flags)
    )
    ids: dict[str, ContentKey] = {}
    hashes = sorted({content_hash for content_hash, _ in wanted})
    for some in batches(hashes, IN_LIMIT):
        statement = examples.where(columns.content_hash.in_(some))
        for content_hash, is_text, is_binary, id in run(session, records, statement):
            kind = _kind(is_text, is_binary, kinds)
            if kind is not None and (content_hash, kind) in wanted:
                ids[id] = (content_hash, kind)
    vectors = {}
    query = select(columns.id, columns.embedding).where(columns.collection_id == collection_id)
    for part in batches(ids, IN_LIMIT):
        for id, vector in run(session, records, query.where(columns.id.in_(part))):
            vectors[ids[id]] = vector
    return vectors


def write(session: Session, records: Records, collection_id: int, resolution: Resolution) -> None:
    """Write the rows and changes, in the order of their ids, within the session's transaction.

    Records of these rows that the session has loaded are brought up to date.

    Raises:
        InvalidVectorError: A vector is of another length than those of the collection.
    """
    everything = resolution.rows + resolution.changes
    _check_sizes(session, records, collection_id, everything)
    common = {"in_collection": collection_id, "now": now()}
    if resolution.rows:
        connection = session.connection({"mapper": records.embedding.__mapper__})
        connection.execute(
            _upsert(records),
            [
                {**row, "collection_id": collection_id, "updated": common["now"]}
                for row in resolution.rows
            ],
        )
    if resolution.changes:
        connection = session.connection({"mapper": records.embedding.__mapper__})
        connection.execute(
            _update(records),
            [
                {**common, **{f"new_{name}": value for name, value in change.items()}}
                for change in resolution.changes
            ],
        )
    _refresh(session, records, collection_id, [row["id"] for row in everything])


def _check_sizes(
    session: Session, records: Records, collection_id: int, rows: Sequence[dict[str, Any]]
) -> None:
    lengths = {row["embedding"].size for row in rows if row["embedding"] is not None}
    if not lengths:
        return
    size = stored_size(session, records, collection_id)
    expected = min(lengths) if size is None else size // ITEM_BYTES
    if unexpected := lengths - {expected}:
        raise InvalidVectorError(
            f"vectors of {min(unexpected)} dimensions do not fit in a collection whose "
            f"vectors have {expected}. Nothing of this batch was written"
        )


def _upsert(records: Records) -> Executable:
    table = records.embeddings
    statement = sqlite.insert(table)
    values = {
        column.name: statement.excluded[column.name] for column in table.c if not column.primary_key
    }
    return statement.on_conflict_do_update(index_elements=table.primary_key, set_=values)


def _update(records: Records) -> Executable:
    columns = records.embeddings.c
    return (
        update(records.embeddings)
        .where(
            columns.collection_id == bindparam("in_collection"), columns.id == bindparam("new_id")
        )
        .values(
            {
                column: func.coalesce(bindparam(f"new_{column.name}", type_=column.type), column)
                for column in (
                    columns.embedding,
                    columns.content,
                    columns.content_blob,
                    columns.metadata,
                )
            }
            | {columns.updated: bindparam("now")}
        )
    )


def _refresh(session: Session, records: Records, collection_id: int, ids: Sequence[str]) -> None:
    """Bring the records that the session has loaded up to date with what was written past it."""
    entity = records.embedding
    key_of = entity.__mapper__.identity_key_from_primary_key
    loaded = [
        record
        for id in (ids if len(session.identity_map) else ())
        if (record := session.identity_map.get(key_of((collection_id, id))))
    ]
    if not loaded:
        return
    for part in batches((record.id for record in loaded), IN_LIMIT):
        statement = (
            select(entity)
            .where(entity.collection_id == collection_id, entity.id.in_(part))
            .execution_options(populate_existing=True)
        )
        run(session, records, statement).all()
    # The unit of work has to know of the change, or the records keep it when a savepoint goes.
    for record in loaded:
        attributes.flag_modified(record, "updated")
    session.flush()

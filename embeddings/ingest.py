"""The SQL half of `embed`: which items need the model, and the rows to write.

The order is always read, embed, write. `resolve` reads; it is asked again under the write
lock, just before `write`, because another writer may have been there while the model ran.
"""

from __future__ import annotations

import functools
import itertools
import json
import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import ARRAY, Executable, LargeBinary, bindparam, func, select, update
from sqlalchemy.orm import attributes, joinedload

from .dialects import insert_into
from .errors import InvalidVectorError
from .model import Kind, batches
from .records import JSONText, Metadata, Records, now
from .sql import (
    compiled,
    connection_of,
    dialect_of,
    is_one_of,
    is_one_of_parameter,
    run,
    schema_map_of,
    vector_size,
)
from .vectors import ITEM_BYTES, Float32
from .wire import metadata_writer, vector_writer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Dialect
    from sqlalchemy.orm import Session

    from .items import ContentKey, Item
    from .target import Found

IN_LIMIT = 500  # values in one IN, far below what any database takes


def _is_same_json(text: str, stored: Metadata | None, *, keeps_order: bool) -> bool:
    # As text: to Python 1, 1.0 and True are equal.
    if stored is None or keeps_order:
        return stored is not None and text == json.dumps(stored)
    return json.dumps(json.loads(text), sort_keys=True) == json.dumps(stored, sort_keys=True)


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


def _is_same(item: Item, row: StoredRow | None) -> bool:
    return (
        row is not None
        and not item.anew
        and row.content_hash == item.key[0]
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
    rows = run(session, records, _rows_of_ids(records), {"of": found.id, "ids": ids})
    return {
        id: StoredRow(
            content_hash,
            _kind(is_text, is_binary, kinds),
            is_text or is_binary,
            metadata,
            found.size is not None and size == found.size,
        )
        for id, content_hash, is_text, is_binary, metadata, size in rows
    }


@functools.cache
def _rows_of_ids(records: Records) -> Executable:
    columns = records.embeddings.c
    return select(
        columns.id,
        columns.content_hash,
        columns.content.is_not(None),
        columns.content_blob.is_not(None),
        columns.metadata,
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
    statement = _examples(records, dialect_of(session, records).name)
    for hashes in batches(sorted({content_hash for content_hash, _ in wanted}), IN_LIMIT):
        parameters = {"of": found.id, "size": found.size, "hashes": hashes}
        rows = run(session, records, statement, parameters)
        for content_hash, is_text, is_binary, id in rows:
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


@functools.cache
def _examples(records: Records, dialect: str) -> Executable:
    """Return the SELECT of one row for each content, by the hashes of contents."""
    columns = records.embeddings.c
    has_hash: ColumnElement[bool] = columns.content_hash.in_(bindparam("hashes", expanding=True))
    if dialect == "postgresql":  # where one array is parsed and planned ten times faster
        hashes = bindparam("hashes", type_=ARRAY(LargeBinary))
        has_hash = columns.content_hash == func.any(hashes)
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


def write(session: Session, records: Records, found: Found, resolution: Resolution) -> None:
    """Write the rows and changes, in the order of their ids, within the session's transaction.

    One order for all writers: those who lock rows in different orders wait for each other forever.
    Records of these rows that the session has loaded are brought up to date.

    Raises:
        InvalidVectorError: A vector is of another length than those of the collection.
    """
    everything = resolution.rows + resolution.changes
    _check_dimensions(found, everything)
    connection = connection_of(session, records)
    steps = [("row", row) for row in resolution.rows]
    steps += [
        ("change" if change["embedding"] is None else "vector", change)
        for change in resolution.changes
    ]
    steps.sort(key=lambda step: step[1]["id"])
    for kind, group in itertools.groupby(steps, operator.itemgetter(0)):
        rows = [row for _, row in group]
        if kind == "row":
            _upsert(connection, records, found.id, rows)
        else:
            _change(connection, records, found.id, rows, has_vector=kind == "vector")
    refresh(session, records, found.id, [row["id"] for row in everything])


def _check_dimensions(found: Found, rows: Sequence[dict[str, Any]]) -> None:
    lengths = {row["embedding"].size for row in rows if row["embedding"] is not None}
    if not lengths:
        return
    expected = min(lengths) if found.size is None else found.size // ITEM_BYTES
    if unexpected := lengths - {expected}:
        raise InvalidVectorError(
            f"vectors of {min(unexpected)} dimensions do not fit in a collection whose "
            f"vectors have {expected}. Nothing of this batch was written"
        )


def _upsert(
    connection: Connection, records: Records, collection_id: int, rows: Sequence[dict[str, Any]]
) -> None:
    """Write the rows as the driver takes them.

    SQLAlchemy's own processing of parameters, a row at a time, costs as much as the insert.
    """
    schema_map = tuple(schema_map_of(connection).items())
    sql, names = _upsert_sql(records, connection.dialect, schema_map)
    updated, as_sent, as_json = now(), vector_writer(connection), metadata_writer(connection)
    values = [
        (
            collection_id,
            row["id"],
            as_sent(row["embedding"]),
            row["content"],
            row["content_blob"],
            row["content_hash"],
            as_json(row["metadata"]),
            updated,
        )
        for row in rows
    ]
    if connection.dialect.positional:
        connection.exec_driver_sql(sql, values)
    else:
        connection.exec_driver_sql(sql, [dict(zip(names, row, strict=True)) for row in values])


@functools.lru_cache(maxsize=64)
def _upsert_sql(
    records: Records, dialect: Dialect, schema_map: tuple[tuple[str | None, str], ...]
) -> tuple[str, list[str]]:
    """Return the statement, and its parameters in the order of the table's columns."""
    table = records.embeddings
    statement = insert_into(table, dialect)
    upsert = statement.on_conflict_do_update(
        index_elements=table.primary_key,
        set_={
            column.name: statement.excluded[column.name]
            for column in table.c
            if not column.primary_key
        },
    )
    return str(compiled(upsert, dialect, schema_map)), [column.name for column in table.c]


def _change(
    connection: Connection,
    records: Records,
    collection_id: int,
    changes: Sequence[dict[str, Any]],
    *,
    has_vector: bool,
) -> None:
    common = {"in_collection_id": collection_id, "new_updated": now()}
    connection.execute(
        _update(records, has_vector),
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


def refresh(
    session: Session, records: Records, collection_id: int, ids: Sequence[str] = ()
) -> None:
    """Bring what the session has loaded up to date with what was written or deleted past it.

    Values are set and not expired: under asyncio an attribute that has to be read is an error.

    Args:
        session: In whose transaction that was.
        records: The mapped classes.
        collection_id: The collection.
        ids: Of the rows that were written.
    """
    key = records.collection.__mapper__.identity_key_from_primary_key((collection_id,))
    collection = session.identity_map.get(key)
    members = None if collection is None else attributes.instance_dict(collection).get("embeddings")
    if members is not None:
        members = list(members)
    _refresh_records(session, records, collection_id, ids)
    if members is not None:
        _refresh_list(session, records, collection, members, ids)


def _refresh_records(
    session: Session, records: Records, collection_id: int, ids: Sequence[str]
) -> None:
    entity = records.embedding
    key_of = entity.__mapper__.identity_key_from_primary_key
    loaded = [
        record
        for id in (ids if len(session.identity_map) else ())
        if (record := session.identity_map.get(key_of((collection_id, id))))
    ]
    if not loaded:
        return
    statement = (
        select(entity)
        .where(
            entity.collection_id == collection_id,
            is_one_of(records.embeddings.c.id, [record.id for record in loaded]),
        )
        .execution_options(populate_existing=True)
    )
    if not session._flushing:  # else changes of the collection may still be on their way
        statement = statement.options(joinedload(entity.collection))
    run(session, records, statement).all()
    # As the ORM's bulk update does: else the records keep the change when a savepoint goes.
    session._register_altered([attributes.instance_state(record) for record in loaded])


def _refresh_list(
    session: Session, records: Records, collection: Any, members: list[Any], ids: Sequence[str]
) -> None:
    entity = records.embedding
    members = [record for record in members if record in session]
    if new := {*ids} - {record.id for record in members}:
        statement = (
            select(entity)
            .where(
                entity.collection_id == collection.id,
                is_one_of(records.embeddings.c.id, sorted(new)),
            )
            .order_by(entity.id)
        )
        members += run(session, records, statement).scalars()
    attributes.set_committed_value(collection, "embeddings", members)
    session._register_altered([attributes.instance_state(collection)])

"""What is kept of chunks on PostgreSQL: columns beside each vector, and one of the collection.

With them stands the hash of the chunk that they are of: where another program has replaced the row,
they are not taken for those of the new content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Integer,
    LargeBinary,
    Text,
    bindparam,
    literal_column,
    select,
    text,
)

from . import added, pending
from .names import Names, names_of
from .pending import CHUNK_SETTING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Subquery
    from sqlalchemy.types import TypeEngine

    from ...tables.records import Records
    from ...work.operation import Work

START, END, PART_OF, ITEM_HASH, ITEM_CONTENT, ITEM_CHUNKS = COLUMNS = (
    "chunk_start", "chunk_end", "chunk_of", "item_hash", "item_content", "item_chunks",
)  # fmt: skip
"""Of embeddings: characters, the hash of the chunk's content; of the item's first chunk the hash of
its text, the text where it is stored and is not a chunk itself, and the number of chunks."""
TYPES = ("integer", "integer", "bytea", "bytea", 'text COLLATE "C"', "integer")
SETTING = CHUNK_SETTING
"""Of collections."""


def install(connection: Connection, records: Records) -> None:
    """Add the columns. What is there is kept; what removes vectors at once is made anew."""
    pending.install(connection, records)
    pending.carry_out(connection, records, columns_script)


def missing(connection: Connection, records: Records) -> str | None:
    """Return which columns others have removed, or None."""
    lost = added.lost(connection, records, {*COLUMNS, SETTING})
    return f"for chunks are missing: {', '.join(lost)}" if lost else None


def script(records: Records, schema: str | None = None) -> list[str]:
    """Return the SQL of `install`, for tables in that schema."""
    return [*columns_script(records, schema), *pending.script(records, schema)]


def columns_script(records: Records, schema: str | None = None) -> list[str]:
    """Return the SQL that adds the columns, for tables in that schema."""
    names = Names(records, schema)
    columns = ", ".join(
        f"ADD COLUMN IF NOT EXISTS {name} {kind}" for name, kind in zip(COLUMNS, TYPES, strict=True)
    )
    return [
        f"ALTER TABLE {names.embeddings} {columns}",
        f"ALTER TABLE {names.collections} ADD COLUMN IF NOT EXISTS {SETTING} text",
    ]


def script_down(records: Records, schema: str | None = None) -> list[str]:
    """Return the SQL that undoes that of `script`. The tables may be gone."""
    names = Names(records, schema)
    columns = ", ".join(f"DROP COLUMN IF EXISTS {name}" for name in COLUMNS)
    return [
        f"ALTER TABLE IF EXISTS {names.embeddings} {columns}",
        f"ALTER TABLE IF EXISTS {names.collections} DROP COLUMN IF EXISTS {SETTING}",
    ]


def uninstall(connection: Connection, records: Records) -> None:
    """Drop the columns, if they are there."""
    pending.carry_out(connection, records, script_down, removes=True)


def setting_of(records: Records) -> ColumnElement[str | None]:
    """Return the SQL of `Database.chunk_setting`; NULL without the column."""
    return added.setting(records, SETTING)


def set_setting(work: Work, setting: str | None) -> None:
    """Keep how the texts of the collection are cut."""
    collections = names_of(work.connection, work.records).collections
    work.connection.execute(
        text(f"UPDATE {collections} SET {SETTING} = :setting WHERE id = :id"),
        {"setting": setting, "id": work.row.id},
    )


def parts(work: Work) -> Subquery:
    """Return the columns of `Database.parts`."""
    return parts_of(work.records, work.records.embeddings.c.collection_id == work.row.id)


def parts_of(records: Records, is_ours: ColumnElement[bool]) -> Subquery:
    """Return them for rows that meet the condition that they are of a collection."""
    columns = records.embeddings.c
    part_of = literal_column(PART_OF, LargeBinary)
    return (
        select(
            columns.id,
            literal_column(START, Integer).label("start"),
            literal_column(END, Integer).label("end"),
            literal_column(ITEM_HASH, LargeBinary).label("item_hash"),
            literal_column(ITEM_CONTENT, Text).label("item_content"),
            literal_column(ITEM_CHUNKS, Integer).label("item_chunks"),
        )
        .where(is_ours, part_of == columns.content_hash)
        .subquery()
    )


COLUMN_TYPES: dict[str, type[TypeEngine[Any]]] = dict(
    zip(COLUMNS, (Integer, Integer, LargeBinary, LargeBinary, Text, Integer), strict=True)
)


def columns_of(work: Work) -> tuple[str, ...]:
    """Return the columns that rows are written with."""
    return COLUMNS if work.parts else ()


def values_of(work: Work, row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the values of the columns for a row that is about to be written."""
    part = work.parts.get(row["id"])
    if part is None:
        return (None,) * len(COLUMNS)
    start, end, *of_item = part
    return start, end, row["content_hash"], *of_item


def put(work: Work, given: Sequence[tuple[Any, ...]]) -> None:
    """Write the values of `Database.put_parts` where they were not written with the row."""
    given = [each for each in given if each[0] not in work.parts]
    if not given:
        return
    arrays: tuple[tuple[str, type[TypeEngine[Any]]], ...] = (
        ("ids", Text),
        ("starts", Integer),
        ("ends", Integer),
        ("hashes", LargeBinary),
        ("contents", Text),
        ("counts", Integer),
    )
    statement = text(
        f"UPDATE {names_of(work.connection, work.records).embeddings} e "
        f"SET {START} = given.starts, {END} = given.ends, {PART_OF} = e.content_hash, "
        f"{ITEM_HASH} = given.hashes, {ITEM_CONTENT} = given.contents, "
        f"{ITEM_CHUNKS} = given.counts "
        "FROM unnest(CAST(:ids AS text[]), CAST(:starts AS integer[]), CAST(:ends AS integer[]), "
        "CAST(:hashes AS bytea[]), CAST(:contents AS text[]), CAST(:counts AS integer[])) "
        "AS given (ids, starts, ends, hashes, contents, counts) "
        "WHERE e.collection_id = :collection AND e.id = given.ids"
    ).bindparams(*(bindparam(name, type_=ARRAY(kind)) for name, kind in arrays))
    values = dict(
        zip((name for name, _ in arrays), map(list, zip(*given, strict=True)), strict=True)
    )
    work.connection.execute(statement, values | {"collection": work.row.id})


LOCKS = 64
"""That writers to a collection share: the table of locks has room for some thousands."""


def keep_items(work: Work, ids: Sequence[str]) -> None:
    """Take advisory locks until the transaction ends, in one order."""
    statement = text(
        "SELECT pg_advisory_xact_lock(:collection, bucket) FROM ("
        f"SELECT DISTINCT hashtext(id) & {LOCKS - 1} AS bucket "
        "FROM unnest(CAST(:ids AS text[])) AS given (id) ORDER BY 1) AS buckets"
    ).bindparams(bindparam("ids", type_=ARRAY(Text)))
    work.connection.execute(statement, {"collection": work.row.id, "ids": list(ids)})


def free_items(work: Work, ids: Sequence[str]) -> set[str]:
    """Return the items whose advisory locks are to be had: one that is held is had again."""
    statement = text(
        "SELECT id FROM unnest(CAST(:ids AS text[])) AS given (id) "
        f"WHERE pg_try_advisory_xact_lock(:collection, hashtext(id) & {LOCKS - 1})"
    ).bindparams(bindparam("ids", type_=ARRAY(Text)))
    free = work.connection.execute(statement, {"collection": work.row.id, "ids": list(ids)})
    return {*free.scalars()}

"""New rows by COPY in binary, the fastest way in, by every driver that is supported."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

from ...tables.records import COLUMNS
from ..quoting import quoted
from . import further, words
from .drivers import is_psycopg
from .names import names_of
from .types import as_jsonb, to_pgvector_fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection

    from ...work.operation import Work

COPIED_FROM = 100
"""Rows. Below, the round trips for a savepoint cost more than COPY saves."""
LOOKED_FOR_FROM = 500
"""Rows. From here on it costs little to ask whether they are new, where that is not known."""
ROWS_AT_ONCE = 32
"""Rows that are encoded and sent together."""

# Source: "Binary Format" of COPY in PostgreSQL's manual: a signature, flags and the length of an
# extension; a row is the number of its fields and each field's length and bytes; -1 ends it all.
_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_END = struct.pack(">h", -1)
_NULL = struct.pack(">i", -1)
_JSONB_VERSION = b"\x01"
_ROW = struct.Struct(">hii")
_INTEGER = struct.Struct(">ii")
_LENGTH = struct.Struct(">i")


class _NotCopied(Exception):  # noqa: N818  no error: it ends an attempt
    """The server refused a COPY: another writer has one of the ids, or the table takes none."""


def copy(work: Work, rows: Sequence[dict[str, Any]], updated: int) -> bool:
    """Write rows that are not there, and return whether that was done.

    Nothing is written if another writer has put one of them there meanwhile, or if the table takes
    no COPY, as with row-level security: an INSERT tells. It is within a savepoint.
    """
    connection = work.connection
    columns = (*COLUMNS, *further.columns_of(work))
    data = _encoded(work, rows, updated, columns)
    try:
        with connection.begin_nested():
            _send(connection, work, columns, data)
    except _NotCopied:
        return False
    return True


def _send(
    connection: Connection, work: Work, names: tuple[str, ...], data: Iterator[bytes]
) -> None:
    table = names_of(connection, work.records)
    columns = ", ".join(map(quoted, names))
    sql = f"COPY {table.embeddings} ({columns}) FROM STDIN WITH (FORMAT binary, ENCODING 'UTF8')"
    pooled = connection.connection
    driver: Any = pooled.driver_connection
    adapted: Any = pooled.dbapi_connection
    if connection.dialect.driver == "asyncpg":
        from asyncpg import PostgresError

        try:
            adapted.run_async(
                lambda driver: driver.copy_to_table(
                    work.records.embeddings.name,
                    source=io.BytesIO(b"".join(data)),
                    columns=names,
                    schema_name=table.schema,
                    format="binary",
                    encoding="UTF8",
                )
            )
        except PostgresError as error:
            raise _NotCopied from error
        return
    try:
        if not is_psycopg(connection.dialect):
            with driver.cursor() as cursor:
                cursor.copy_expert(sql, io.BytesIO(b"".join(data)))
        elif connection.dialect.is_async:
            adapted.run_async(lambda driver: _copy_awaited(driver, sql, data))
        else:
            with driver.cursor() as cursor, cursor.copy(sql) as receiver:
                for piece in data:  # the server is at one while the next is made
                    receiver.write(piece)
    except connection.dialect.loaded_dbapi.DatabaseError as error:
        raise _NotCopied from error


async def _copy_awaited(driver: Any, sql: str, data: Iterator[bytes]) -> None:
    async with driver.cursor() as cursor, cursor.copy(sql) as receiver:
        for piece in data:
            await receiver.write(piece)


def _encoded(
    work: Work, rows: Sequence[dict[str, Any]], updated: int, columns: Sequence[str]
) -> Iterator[bytes]:
    """Yield rows in the binary format of COPY."""
    head, has_further = _ROW.pack(len(columns), 4, work.row.id), len(columns) > len(COLUMNS)
    yield _HEADER
    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = rows[start : start + ROWS_AT_ONCE]
        vectors = memoryview(to_pgvector_fields([row["embedding"] for row in some]))
        size = len(vectors) // len(some)
        pieces: list[bytes | memoryview] = []
        for at, row in enumerate(some):
            metadata = row["metadata"]
            pieces += (
                head,
                _field(row["id"]),
                vectors[at * size : (at + 1) * size],
                _field(row["content"]),
                _field(row["content_blob"]),
                _field(row["content_hash"]),
                _field(metadata and _JSONB_VERSION + as_jsonb(metadata).encode()),
                _field(row.get("updated", updated)),
            )
            if has_further:
                pieces += map(_field, further.values_of(work, row, words.as_binary))
        yield b"".join(pieces)
    yield _END


def _field(value: str | bytes | int | None) -> bytes:
    """Return a value, preceded by the number of its bytes."""
    if value is None:
        return _NULL
    if isinstance(value, int):
        return _INTEGER.pack(4, value)
    data = value.encode() if isinstance(value, str) else value
    return _LENGTH.pack(len(data)) + data

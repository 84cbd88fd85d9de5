"""How vectors and metadata travel to a driver, past SQLAlchemy's own processing of parameters."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from ...dialects import is_psycopg
from ...tables.columns import as_jsonb
from ...vectors import Float32, as_stored, to_pgvector, to_pgvector_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection


def metadata_writer(connection: Connection) -> Callable[[str | None], str | None]:
    """Return what turns the JSON text of metadata into a parameter for the connection."""
    if connection.dialect.name == "sqlite":
        return lambda text: text
    return lambda text: text and as_jsonb(text)


class Packed:
    """A vector in pgvector's binary format."""

    __slots__ = ("data",)

    def __init__(self, vector: Float32) -> None:
        self.data = to_pgvector(vector)


def vector_writer(connection: Connection) -> Callable[[Float32], Any]:
    """Return what turns a vector into a parameter for the connection's driver.

    Text is over ten times slower than binary, and binary needs an adapter: on psycopg one for a
    class of this library's own, which changes nothing for the host.
    """
    if connection.dialect.name == "sqlite":
        return as_stored
    if is_psycopg(connection.dialect):
        driver: Any = connection.connection.driver_connection
        driver.adapters.register_dumper(Packed, _dumper())
        return Packed
    return to_pgvector_text


@functools.cache
def _dumper() -> type[Any]:
    from psycopg.adapt import Dumper
    from psycopg.pq import Format

    class PackedDumper(Dumper):
        """Hands the bytes over; the type, which has no fixed oid, is that of the SQL's CAST."""

        format = Format.BINARY

        def dump(self, obj: Packed) -> bytes:
            return obj.data

    return PackedDumper

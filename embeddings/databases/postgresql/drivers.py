"""How vectors and metadata travel to a driver, past SQLAlchemy's own processing of parameters."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from ...forks import importing
from .types import to_pgvector, to_pgvector_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Dialect

    from ...vectors import Float32


def is_psycopg(dialect: Dialect) -> bool:
    """Return whether the driver is psycopg 3, which sends parameters in binary."""
    return dialect.driver.startswith("psycopg") and dialect.driver != "psycopg2"


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
    if is_psycopg(connection.dialect):
        driver: Any = connection.connection.driver_connection
        driver.adapters.register_dumper(Packed, _dumper())
        return Packed
    return to_pgvector_text


@functools.cache
def _dumper() -> type[Any]:
    with importing():
        from psycopg.adapt import Dumper
        from psycopg.pq import Format

    class PackedDumper(Dumper):
        """Hands the bytes over; the type, which has no fixed oid, is that of the SQL's CAST."""

        format = Format.BINARY

        def dump(self, obj: Packed) -> bytes:
            return obj.data

    return PackedDumper

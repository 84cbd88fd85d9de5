"""How vectors and metadata travel to a driver, past SQLAlchemy's own processing of parameters."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from ...forks import importing
from .types import to_pgvector, to_pgvector_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


class Sender(NamedTuple):
    """How a connection's driver is sent vectors."""

    as_sent: Callable[[Float32], Any]
    """Returns the parameter."""
    is_array: bool = False
    """Whether the parameter is an array of reals, which an INSERT casts to a vector."""
    within: Callable[[], AbstractContextManager[None]] = nullcontext
    """Returns the context in which the statement is executed."""


def vector_writer(connection: Connection) -> Callable[[Float32], Any]:
    """Return what turns a single vector into a parameter for the connection's driver.

    On psycopg binary needs an adapter, and that is one for a class of this library's own, which
    changes nothing for the host.
    """
    if is_psycopg(connection.dialect):
        driver: Any = connection.connection.driver_connection
        driver.adapters.register_dumper(Packed, _dumper())
        return Packed
    return to_pgvector_text


def sender(connection: Connection) -> Sender:
    """Return how rows with vectors are sent: in binary by the drivers that can.

    Text is over ten times slower. On asyncpg an adapter is for a type, and so it is there during
    the statement only; where the host has one of its own, that stays.
    """
    if connection.dialect.driver != "asyncpg":
        return Sender(vector_writer(connection))
    driver: Any = connection.connection.driver_connection
    if _OID not in connection.info:
        adapted: Any = connection.connection.dbapi_connection
        connection.info[_OID] = adapted.run_async(_oid_without_codec)
    oid = connection.info[_OID]
    if oid is None:
        return Sender(_as_list, is_array=True)
    return Sender(to_pgvector, within=lambda: _binary_codec(driver, oid))


_OID = "embeddings: oid of vector"


def _as_list(vector: Float32) -> list[float]:
    values: list[float] = vector.tolist()
    return values


async def _oid_without_codec(driver: Any) -> int | None:
    """Return the oid of pgvector's type; None where the host has a codec for it.

    asyncpg does not tell of codecs. Without one it gives a vector as text, and takes no list.
    """
    from asyncpg import DataError

    if not isinstance(await driver.fetchval("SELECT '[1]'::vector"), str):
        return None
    try:
        await driver.fetchval("SELECT $1::vector IS NULL", [1.0])
    except DataError:
        oid: int = await driver.fetchval("SELECT 'vector'::regtype::oid")
        return oid
    return None


@contextmanager
def _binary_codec(driver: Any, oid: int) -> Iterator[None]:
    """Let asyncpg take bytes for vectors in statements that are prepared within the block.

    What `set_type_codec` does, which would also ask the server twice and forget all statements.
    """
    settings = driver._protocol.get_settings()
    settings.add_python_codec(oid, "vector", "", [], "scalar", bytes, bytes, "binary")
    try:
        yield
    finally:
        settings.remove_python_codec(oid, "vector", "")


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

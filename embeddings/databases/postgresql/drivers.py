"""How vectors and metadata travel to a driver, past SQLAlchemy's own processing of parameters."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import text

from ...forks import importing
from .types import as_array, to_pgvector, to_pgvector_array, to_pgvector_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Connection, Dialect

    from ...vectors import Float32


def is_psycopg(dialect: Dialect) -> bool:
    """Return whether the driver is psycopg 3, which sends parameters in binary."""
    return dialect.driver.startswith("psycopg") and dialect.driver != "psycopg2"


class Packed:
    """A vector, or an array of them, in binary."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class Sender(NamedTuple):
    """How a connection's driver is sent many values as one parameter, an array."""

    vectors: Callable[[Sequence[Float32]], Any]
    """Returns the parameter of vectors of one length."""
    values: Callable[[Sequence[str | bytes | int | None]], Any] = as_array
    """Returns that of values of another type."""
    within: Callable[[], AbstractContextManager[None]] = nullcontext
    """Returns the context in which the statement is executed."""


def vector_writer(connection: Connection) -> Callable[[Float32], Any]:
    """Return what turns a single vector into a parameter for the connection's driver."""
    if is_psycopg(connection.dialect):
        _take_packed(connection)
        return lambda vector: Packed(to_pgvector(vector))
    return to_pgvector_text


def sender(connection: Connection) -> Sender:
    """Return how rows with vectors are sent: in binary by the drivers that can.

    Text is over ten times slower. On asyncpg an adapter is for a type, and there is one for arrays
    of vectors during the statement only: hosts have theirs for vectors.
    """
    if is_psycopg(connection.dialect):
        _take_packed(connection)
        oid = _oid(connection, "vector")
        return Sender(lambda vectors: Packed(to_pgvector_array(vectors, oid)))
    if connection.dialect.driver != "asyncpg":
        return Sender(lambda vectors: as_array(map(to_pgvector_text, vectors)))
    driver: Any = connection.connection.driver_connection
    oid, of_array = _oid(connection, "vector"), _oid(connection, "vector[]")
    return Sender(
        lambda vectors: to_pgvector_array(vectors, oid),
        values=list,
        within=lambda: _binary_codec(driver, of_array),
    )


def _oid(connection: Connection, name: str) -> int:
    """Return the oid of a type in the database. It is asked once a connection."""
    key = f"embeddings: oid of {name}"
    if key not in connection.info:
        connection.info[key] = connection.scalar(text(f"SELECT CAST('{name}' AS regtype)::oid"))
    oid: int = connection.info[key]
    return oid


@contextmanager
def _binary_codec(driver: Any, oid: int) -> Iterator[None]:
    """Let asyncpg take bytes for a type in statements that are prepared within the block.

    What `set_type_codec` does, which takes no arrays, and would also ask the server twice and
    forget all statements.
    """
    settings = driver._protocol.get_settings()
    settings.add_python_codec(oid, "_vector", "", [], "scalar", bytes, bytes, "binary")
    try:
        yield
    finally:
        settings.remove_python_codec(oid, "_vector", "")


def _take_packed(connection: Connection) -> None:
    """Let psycopg take what is packed.

    That is by an adapter for a class of this library's own, which changes nothing for the host.
    """
    driver: Any = connection.connection.driver_connection
    driver.adapters.register_dumper(Packed, _dumper())


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

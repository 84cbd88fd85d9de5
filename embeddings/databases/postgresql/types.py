"""pgvector's and PostgreSQL's types, without adapters on the host's connections."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import String, Text, cast, func, type_coerce
from sqlalchemy.types import UserDefinedType

from ...vectors import Float32, VectorLike, as_vector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy import ColumnElement, Dialect
    from sqlalchemy.sql.elements import BindParameter


class PGVector(UserDefinedType[Any]):
    """pgvector's type without fixed dimensions: sent as text, read as the bytes of `vector_send`.

    That needs no adapter on the host's connections, and works with every driver.
    """

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Return the name of the type."""
        return "VECTOR"

    def bind_expression(self, bindvalue: BindParameter[Any]) -> ColumnElement[Any]:
        """Return the parameter cast to a vector: to PostgreSQL it is of no type before."""
        return cast(bindvalue, self)

    def literal_processor(self, dialect: Dialect) -> Callable[[Any], str]:
        """Return what writes a vector into a statement, for `literal_binds`."""
        return lambda value: f"'{value if isinstance(value, str) else to_pgvector_text(value)}'"

    def column_expression(self, colexpr: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the vector's bytes."""
        return func.vector_send(colexpr, type_=colexpr.type)


class PGJSON(UserDefinedType[Any]):
    """JSONB, sent and read as text: drivers and hosts register JSON codecs of their own."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Return the name of the type."""
        return "JSONB"

    def bind_expression(self, bindvalue: BindParameter[Any]) -> ColumnElement[Any]:
        """Return the parameter cast to JSONB."""
        return cast(bindvalue, self)

    def literal_processor(self, dialect: Dialect) -> Callable[[Any], str] | None:
        """Return what writes the text into a statement, for `literal_binds`."""
        return String().dialect_impl(dialect).literal_processor(dialect)

    def column_expression(self, colexpr: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the text."""
        return type_coerce(cast(colexpr, Text), colexpr.type)


class Values(UserDefinedType[Any]):
    """A parameter of many texts, or of many bytes, to be cast to an array.

    It has no type of its own in the statement: PostgreSQL makes it an array once. Of a parameter of
    type text it would make one for each row that it reads. psycopg is given the array's text: it
    takes 85 µs for each hash of a list, and 5 µs for each id.
    """

    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any] | None:
        """Return what makes the text of the array; asyncpg, which knows its type, takes a list."""
        return None if dialect.driver == "asyncpg" else as_array

    def literal_processor(self, dialect: Dialect) -> Callable[[Any], str]:
        """Return what writes the array into a statement, for `literal_binds`."""
        quoted: Any = String().dialect_impl(dialect).literal_processor(dialect)
        return lambda values: quoted(as_array(values))


def as_array(values: Iterable[str | bytes | int | None]) -> str:
    """Return the text of an array, each value quoted: those that need no look at each, at once."""
    quoted: list[Any] = list(values)
    types = {*map(type, quoted)}
    if types == {bytes}:
        text = '","'.join([f"\\\\x{value.hex()}" for value in quoted])
        return f'{{"{text}"}}'
    if types == {str}:
        text = '","'.join(quoted)
        if "\\" not in text and text.count('"') == 2 * (len(quoted) - 1):
            return f'{{"{text}"}}'
    return f"{{{','.join(map(_quoted, quoted))}}}"


def _quoted(value: str | bytes | int | None) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes):
        return f'"\\\\x{value.hex()}"'
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def to_pgvector(vector: Float32) -> bytes:
    """Return a vector as pgvector takes it in binary.

    Source: `vector_recv` in pgvector: the dimensions and an unused field as int16, then float4,
    all big-endian.
    """
    return struct.pack(">HH", vector.size, 0) + vector.astype(">f4").tobytes()


def to_pgvector_fields(vectors: Sequence[Float32]) -> bytes:
    """Return vectors of one length, at least one, each as `to_pgvector` does, made at once.

    Each is preceded by the number of its bytes as int32, as in an array and in COPY.
    """
    dimensions = vectors[0].size
    fields = np.empty(
        len(vectors),
        [("bytes", ">i4"), ("size", ">u2"), ("unused", ">u2"), ("values", ">f4", (dimensions,))],
    )
    fields["bytes"], fields["size"], fields["unused"] = 4 + 4 * dimensions, dimensions, 0
    fields["values"] = vectors
    return fields.tobytes()


def to_pgvector_array(vectors: Sequence[Float32], oid: int) -> bytes:
    """Return vectors of one length, at least one, as an array of pgvector's type in binary.

    Source: `array_recv` in PostgreSQL: the number of dimensions, whether there are NULLs, the
    elements' type, how many they are and where they begin, all int32; then the elements.

    Args:
        vectors: The elements.
        oid: Of the type in this database.
    """
    return struct.pack(">iiIii", 1, 0, oid, len(vectors), 1) + to_pgvector_fields(vectors)


def to_pgvector_text(values: VectorLike) -> str:
    """Return a vector as pgvector takes it in text. Nine digits are enough for any float32."""
    vector = as_vector(values)
    return f"[{','.join(['%.9g'] * vector.size) % tuple(vector.tolist())}]"


def from_pgvector(data: bytes) -> Float32:
    """Return the read-only array in what `vector_send` returns: see `to_pgvector`."""
    vector = np.frombuffer(data, ">f4", offset=4).astype(np.float32)
    vector.flags.writeable = False
    return vector


_STRING_OR_LARGE_FLOAT = re.compile(r'"(?:\\.|[^"\\])*"|-?\d+(?:\.\d+)?e\+\d+')


def as_jsonb(text: str) -> str:
    """Return JSON text from which JSONB makes the same numbers.

    It writes a number with an exponent out, and a whole one would come back as an integer.
    """
    if "e+" not in text:
        return text
    return _STRING_OR_LARGE_FLOAT.sub(
        lambda found: found[0] if found[0][0] == '"' else f"{float(found[0]):.1f}", text
    )

"""The column types, and what is checked of text and JSON before it is stored.

On SQLite a vector is a BLOB and metadata a TEXT, as `llm` has them. On PostgreSQL the vectors are
pgvector's, and the metadata is JSONB.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import LargeBinary, Text, cast, func, type_coerce
from sqlalchemy.types import TypeDecorator, UserDefinedType

from ..errors import InvalidItemError
from ..vectors import Float32, VectorLike, decode_array, encode, from_pgvector, to_pgvector_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import ColumnElement, Dialect
    from sqlalchemy.sql.elements import BindParameter
    from sqlalchemy.types import TypeEngine

Metadata: TypeAlias = dict[str, Any]


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

    def column_expression(self, colexpr: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the text."""
        return type_coerce(cast(colexpr, Text), colexpr.type)


class Vector(TypeDecorator[Float32]):
    """A float32 array of shape (dimensions,).

    On SQLite it is a BLOB of little-endian float32, on PostgreSQL a `vector`.
    """

    impl = LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the column's type on a database."""
        is_postgresql = dialect.name == "postgresql"
        return dialect.type_descriptor(PGVector() if is_postgresql else LargeBinary())

    def process_bind_param(self, value: VectorLike | None, dialect: Dialect) -> bytes | str | None:
        """Return the vector as the database takes it, refusing values that are not finite."""
        if value is None:
            return None
        return to_pgvector_text(value) if dialect.name == "postgresql" else encode(value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> Float32 | None:
        """Return a read-only array."""
        if value is None:
            return None
        return from_pgvector(value) if dialect.name == "postgresql" else decode_array(value)

    def compare_values(self, x: Any, y: Any) -> bool:
        """Return whether two vectors are equal as stored."""
        return x is y or (x is not None and y is not None and encode(x) == encode(y))


class JSONObject(TypeDecorator[Metadata]):
    """A dict of JSON; on SQLite a TEXT, on PostgreSQL a JSONB. None is SQL's NULL."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the column's type on a database."""
        is_postgresql = dialect.name == "postgresql"
        return dialect.type_descriptor(PGJSON() if is_postgresql else Text())

    def process_bind_param(self, value: Mapping[str, Any] | None, dialect: Dialect) -> str | None:
        """Return the JSON text, refusing what is not JSON."""
        if value is None:
            return None
        text = dump_metadata(value)
        return as_jsonb(text) if dialect.name == "postgresql" else text

    def process_result_value(self, value: str | None, dialect: Dialect) -> Metadata | None:
        """Return the dict."""
        return None if value is None else load_metadata(value)


class JSONText(TypeDecorator[str]):
    """A parameter that is the JSON text of metadata already."""

    impl = Text
    cache_ok = True
    load_dialect_impl = JSONObject.load_dialect_impl

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return the text as the database takes it."""
        return as_jsonb(value) if value and dialect.name == "postgresql" else value


def dump_metadata(metadata: Mapping[str, Any]) -> str:
    """Return the JSON text under which the metadata is stored.

    Raises:
        InvalidItemError: It is not a dict of JSON values with strings as keys, or holds NaN,
            infinity, NUL or a lone surrogate. The message names the place.
    """
    if not isinstance(metadata, dict):
        raise InvalidItemError(f"metadata must be a dict, not {type(metadata).__name__}")
    try:
        _check_json(metadata, "metadata")
        return json.dumps(metadata, allow_nan=False)
    except RecursionError:
        raise InvalidItemError("metadata is nested too deeply, or contains itself") from None
    except ValueError as error:
        if isinstance(error, InvalidItemError):
            raise
        raise InvalidItemError("metadata holds an integer with too many digits") from None


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


def load_metadata(text: str) -> Metadata:
    """Return the metadata of a stored JSON text."""
    loaded: Metadata = json.loads(text)
    return loaded


def check_text(text: str, what: str, shown: str = "") -> None:
    """Do nothing if every database can store the text.

    Args:
        text: The text.
        what: What an error calls it.
        shown: What an error shows of it.

    Raises:
        InvalidItemError: It holds NUL or a lone surrogate.
    """
    if "\0" not in text and text.isascii():
        return
    name = f"{what} {shown[:80]!r}" if shown else what
    if "\0" in text:
        raise InvalidItemError(f"{name} contains a NUL character, which databases cannot store")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidItemError(
            f"{name} contains a lone surrogate at position {error.start}, which is not text"
        ) from None


def _check_json(value: object, place: str) -> None:
    if isinstance(value, str):
        check_text(value, place)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise InvalidItemError(f"{place} has the key {key!r}; keys in JSON are strings")
            check_text(key, f"a key of {place}")
            _check_json(inner, f"{place}[{key!r}]")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            _check_json(inner, f"{place}[{number}]")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidItemError(f"{place} is {value}, which JSON cannot hold")
    elif value is not None and not isinstance(value, int):
        raise InvalidItemError(f"{place} is of type {type(value).__name__}, which JSON cannot hold")


# In the order of code points, as SQLite and Python have it, and served by the primary key.
BinaryText = Text().with_variant(Text(collation="C"), "postgresql")

"""The mapped rows: a collection, an embedding in it, and the column types that carry them.

On SQLite the tables are, to the letter, those that `llm` documents, so that either program reads
the other's files. Anything extra lives in side tables (see `schema`). On PostgreSQL the vectors are
pgvector's, and the metadata is JSONB.
"""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from sqlalchemy import ForeignKey, Index, Integer, LargeBinary, Text, cast, func, type_coerce
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column, relationship
from sqlalchemy.types import TypeDecorator, UserDefinedType

from .errors import InvalidItemError
from .vectors import Float32, VectorLike, decode_array, encode, from_pgvector, to_pgvector_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import ColumnElement, Dialect, Table
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


def now() -> int:
    """Return the time as rows hold it: seconds since 1970, UTC."""
    return int(time.time())


class Base(DeclarativeBase):
    """The declarative base, and so the MetaData, of the tables in this library's own names."""


# In the order of code points, as SQLite and Python have it, and served by the primary key.
BinaryText = Text().with_variant(Text(collation="C"), "postgresql")


class CollectionColumns:
    """The columns of a collection, for a mapped class in whatever base."""

    __tablename__: str
    __schema__: ClassVar[str | None] = None

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[Any, ...]:
        name = Index(f"idx_{cls.__tablename__}_name", "name", unique=True)
        return (name, {"schema": cls.__schema__})

    # No column is NOT NULL: the documented schema has none.
    id: Mapped[int] = mapped_column(Integer, primary_key=True, nullable=True)
    name: Mapped[str] = mapped_column(BinaryText, nullable=True)
    """Unique in the database."""
    model: Mapped[str] = mapped_column(Text, nullable=True)
    """The id of the embedding model, never an alias."""

    def __init__(
        self, *, name: str, model: str, id: int | None = None, embeddings: list[Any] | None = None
    ) -> None:
        self.name, self.model = name, model
        if embeddings:
            self.embeddings = embeddings
        if id is not None:
            self.id = id

    if TYPE_CHECKING:
        embeddings: Mapped[list[EmbeddingRecord]]
        """All of them: for a large collection, query the embeddings instead."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


class EmbeddingColumns:
    """The columns of an embedding, for a mapped class in whatever base."""

    __tablename__: str
    __schema__: ClassVar[str | None] = None
    __collection__: ClassVar[type[CollectionRecord]]
    """The mapped class of its collections."""

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[Any, ...]:
        content_hash = Index(f"idx_{cls.__tablename__}_content_hash", "content_hash")
        return (content_hash, {"schema": cls.__schema__})

    @declared_attr
    @classmethod
    def collection_id(cls) -> Mapped[int]:
        """The id of the collection."""
        key = ForeignKey(cls.__collection__.id)
        return mapped_column(Integer, key, primary_key=True, nullable=True, sort_order=-1)

    id: Mapped[str] = mapped_column(BinaryText, primary_key=True, nullable=True)
    embedding: Mapped[Float32] = mapped_column(Vector, nullable=True)
    """float32, shape (dimensions,), read-only when loaded."""
    content: Mapped[str | None] = mapped_column(Text)
    """The text, if it was stored."""
    content_blob: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The bytes, if they were stored."""
    content_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    """MD5 of the content's UTF-8 or of its bytes; tells whether an item has to be embedded."""
    metadata_: Mapped[Metadata | None] = mapped_column("metadata", JSONObject)
    updated: Mapped[int | None] = mapped_column(Integer, default=now)
    """When the row was last written: seconds since 1970, UTC."""

    @declared_attr
    @classmethod
    def collection(cls) -> Mapped[CollectionRecord]:
        """The collection."""
        return relationship(cls.__collection__, back_populates="embeddings")

    # Declarative's own constructor would take metadata=, and store nothing.
    def __init__(
        self,
        *,
        id: str,
        embedding: VectorLike,
        collection: CollectionRecord | None = None,
        collection_id: int | None = None,
        content: str | None = None,
        content_blob: bytes | None = None,
        content_hash: bytes | None = None,
        metadata_: Metadata | None = None,
        updated: int | None = None,
    ) -> None:
        self.id, self.embedding = id, embedding  # type: ignore[assignment]
        self.content, self.content_blob, self.content_hash = content, content_blob, content_hash
        self.metadata_ = metadata_
        self.updated = now() if updated is None else updated
        if collection is not None:
            self.collection = collection
        if collection_id is not None:
            self.collection_id = collection_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id!r}>"


class CollectionRecord(CollectionColumns, Base):
    """A row of `collections`: a named group of embeddings that one model made."""

    __tablename__ = "collections"

    embeddings: Mapped[list[EmbeddingRecord]] = relationship(
        back_populates="collection", cascade="all, delete-orphan"
    )
    """All of them: for a large collection, query `EmbeddingRecord` instead."""


class EmbeddingRecord(EmbeddingColumns, Base):
    """A row of `embeddings`: the vector of one item, with its content and metadata if stored."""

    __tablename__ = "embeddings"
    __collection__ = CollectionRecord


@dataclass(frozen=True)
class Records:
    """The pair of mapped classes that a collection works on."""

    collection: type[CollectionRecord]
    embedding: type[EmbeddingRecord]

    @property
    def collections(self) -> Table:
        """The table of collections."""
        return self.collection.__table__  # type: ignore[return-value]

    @property
    def embeddings(self) -> Table:
        """The table of embeddings."""
        return self.embedding.__table__  # type: ignore[return-value]

    @property
    def log(self) -> str:
        """The name of the change log, a side table on SQLite."""
        return f"{self.embeddings.name}_log"


RECORDS = Records(CollectionRecord, EmbeddingRecord)

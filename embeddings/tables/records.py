"""The mapped rows: a collection, and an embedding in it.

On SQLite the tables are, to the letter, those that `llm` documents, so that either program reads
the other's files. Anything extra lives in side tables (see `databases`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from sqlalchemy import ForeignKey, Index, Integer, LargeBinary, Text, inspect
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    declared_attr,
    mapped_column,
    relationship,
)
from sqlalchemy.orm.decl_api import DeclarativeAttributeIntercept

from ..values import Metadata  # noqa: TC001  SQLAlchemy reads the annotations
from ..vectors import Float32, VectorLike  # noqa: TC001  SQLAlchemy reads the annotations
from .columns import BinaryText, JSONObject, Vector

if TYPE_CHECKING:
    from sqlalchemy import Table


F = TypeVar("F", bound=Callable[..., None])
COLUMNS = (
    "collection_id",
    "id",
    "embedding",
    "content",
    "content_blob",
    "content_hash",
    "metadata",
    "updated",
)
"""The columns of an embedding that are this library's. A host may have others beside them."""
SHOWN = 60  # characters of its content that a record shows of itself
KEY = "_key_of_host"
"""Where a record holds its key, if a collection has told it. No column: nothing is written."""


def now() -> int:
    """Return the time as rows hold it: seconds since 1970, UTC."""
    return int(time.time())


def _with_own_columns(init: F) -> F:
    """Let a constructor take what else the class has mapped: a host's own columns."""
    parameters = signature(init).parameters

    @wraps(init)
    def constructor(self: object, **values: Any) -> None:
        mapped = inspect(type(self)).all_orm_descriptors
        for name in values.keys() - parameters.keys():
            if name not in mapped:
                kind = type(self).__name__
                raise TypeError(f"{name!r} is an invalid keyword argument for {kind}")
            setattr(self, name, values.pop(name))
        init(self, **values)

    return cast("F", constructor)


class RecordKind(DeclarativeAttributeIntercept):
    """The kind of the public classes: what `make_records` maps is an instance of them, too."""

    def __instancecheck__(self, instance: Any) -> bool:
        """Return whether it has what the class has, in whatever base it is mapped."""
        columns = vars(self).get("__columns__")
        return isinstance(instance, columns) if columns else super().__instancecheck__(instance)


class Base(DeclarativeBase, metaclass=RecordKind):
    """The declarative base, and so the MetaData, of the tables in this library's own names."""


def refuse_subclass(cls: type[Any]) -> None:
    """Do nothing unless the class inherits from a mapped one of this library's.

    Raises:
        TypeError: It does.
    """
    for base in cls.__mro__[1:]:
        if "__mapper__" in vars(base) and issubclass(base, CollectionColumns | EmbeddingColumns):
            raise TypeError(
                f"{base.__name__} is mapped, and a subclass could not be selected. Give what it "
                "is to have to make_records(), as embedding_mixin= or collection_mixin="
            )


class CollectionColumns:
    """The columns of a collection, for a mapped class in whatever base."""

    __tablename__: str
    __schema__: ClassVar[str | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        refuse_subclass(cls)
        super().__init_subclass__(**options)

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

    @_with_own_columns
    def __init__(
        self,
        *,
        name: str,
        model: str,
        id: int | None = None,
        embeddings: list[Any] | None = None,
    ) -> None:
        self.name, self.model = name, model
        if embeddings:
            self.embeddings = embeddings
        if id is not None:
            self.id = id

    if TYPE_CHECKING:
        embeddings: Mapped[list[EmbeddingRecord]]
        """All of them: for a large collection, query the embeddings instead. A write through a
        `Collection` expires the list."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


class EmbeddingColumns:
    """The columns of an embedding, for a mapped class in whatever base."""

    __tablename__: str
    __schema__: ClassVar[str | None] = None
    __collection__: ClassVar[type[CollectionRecord]]
    """The mapped class of its collections."""

    def __init_subclass__(cls, **options: Any) -> None:
        refuse_subclass(cls)
        super().__init_subclass__(**options)

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
    @_with_own_columns
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

    @property
    def key(self) -> Any:
        """The id in the type of the host's keys, if `Collection(..., key=)` loaded the record.

        So do `get` and iteration. It is remembered with the object, also where that is pickled.
        Of a record that came another way it is the stored text, `id`.
        """
        return vars(self).get(KEY, self.id)

    def __repr__(self) -> str:
        content = vars(self).get("content")  # nothing is loaded for it
        if content is None:
            return f"<{type(self).__name__} {self.id!r}>"
        beginning = " ".join(str(content[: SHOWN + 1]).split())
        if len(content) > SHOWN:
            beginning = beginning[: SHOWN - 1] + "…"
        return f"<{type(self).__name__} {self.id!r}: {beginning}>"


def remember_key(record: EmbeddingColumns, key: object) -> None:
    """Let a record that was loaded have this key."""
    vars(record)[KEY] = key


class CollectionRecord(CollectionColumns, Base):
    """A row of `collections`: a named group of embeddings that one model made."""

    __tablename__ = "collections"
    __columns__ = CollectionColumns

    embeddings: Mapped[list[EmbeddingRecord]] = relationship(
        back_populates="collection", cascade="all, delete-orphan", passive_deletes=True
    )
    """All of them: for a large collection, query `EmbeddingRecord` instead."""


class EmbeddingRecord(EmbeddingColumns, Base):
    """A row of `embeddings`: the vector of one item, with its content and metadata if stored."""

    __tablename__ = "embeddings"
    __columns__ = EmbeddingColumns
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


RECORDS = Records(CollectionRecord, EmbeddingRecord)

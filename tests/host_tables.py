"""Tables of a host's, beside which the embeddings live."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from embeddings import CollectionRecord


class HostBase(DeclarativeBase):
    """The declarative base of a host."""


class Article(HostBase):
    """A table of a host's."""

    __tablename__ = "articles"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


class Shelf(HostBase):
    """A table of a host's that refers to a collection, which is checked at the commit."""

    __tablename__ = "shelves"
    id: Mapped[int] = mapped_column(primary_key=True)
    collection_id: Mapped[int] = mapped_column(
        ForeignKey(CollectionRecord.id, deferrable=True, initially="DEFERRED")
    )

"""What goes in: one item to embed, checked before any model is called."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from sqlalchemy import Row

from ..errors import InvalidItemError
from ..models.base import Content, Kind
from ..tables.records import COLUMNS
from ..values import checked_content, dump_metadata
from ..vectors import as_vector

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy.orm import QueryableAttribute

    from ..keys import Key
    from ..tables.records import Records
    from ..values import Metadata
    from ..vectors import Float32
    from ..work import Reference

Extra: TypeAlias = "Mapping[str | QueryableAttribute[Any], Any]"
"""Values of a host's own columns, for rows that are new."""
ContentKey: TypeAlias = tuple[bytes, Kind]
"""What a vector is looked up by: the content's hash, and whether it is text or bytes."""


@dataclass(frozen=True)
class Prepared:
    """A content with its vector, made without a database; for `Collection.embed`.

    Attributes:
        content: What was embedded.
        vector: float32, shape (dimensions,).
        model_id: The model that made the vector.
    """

    content: Content
    vector: Float32
    model_id: str


class Item(NamedTuple):
    """One thing to embed, checked."""

    id: str
    content: Content
    key: ContentKey
    """What the item's vector is looked up by."""
    metadata: str | None = None
    """As JSON text, of the moment in which the item was read."""
    store: bool = False
    anew: bool = False
    """The row is replaced as a whole: an earlier item of the same batch did so, or it is a copy."""
    updated: int | None = None
    """When the row is said to be written; None for now. Of what is copied `anew`."""


def fold(items: Iterable[Item]) -> list[list[Item]]:
    """Return one item for each id, sorted by id, with the effect of all of them in turn.

    So the outcome does not depend on where a batch ends. It is several lists, to be written one
    after the other, where text and bytes that are equal as bytes follow each other under one id:
    what comes of that depends on the row between them. There is always a first list.
    """
    lists: list[dict[str, Item]] = [{}]
    for item in items:
        before = lists[-1].get(item.id)
        if before is None:
            lists[-1][item.id] = item
        elif before.key == item.key:
            metadata = before.metadata if item.metadata is None else item.metadata
            store = before.store or item.store
            lists[-1][item.id] = before._replace(metadata=metadata, store=store)
        elif before.key[0] == item.key[0]:
            lists.append({item.id: item})
        else:
            lists[-1][item.id] = item._replace(anew=True)
    return [[folded[id] for id in sorted(folded)] for folded in lists]


def unpacked(entry: object, least: int, most: int, position: int) -> tuple[Any, ...]:
    """Return an entry of a length between the two, or raise InvalidItemError."""
    if not isinstance(entry, tuple | list | Row) or not least <= len(entry) <= most:
        shape = f"{least}" if least == most else f"{least} to {most}"
        raise InvalidItemError(
            f"entries[{position}]: each entry must be a tuple of {shape}, (id, value, ...), "
            f"not {type(entry).__name__}"
            + (f" of {len(entry)}" if isinstance(entry, tuple | list | Row) else "")
        )
    return tuple(entry)


def content_hash(content: Content) -> bytes:
    """Return what equal contents are recognised by: 16 bytes of MD5, as `llm` stores them."""
    data = content.encode() if isinstance(content, str) else content
    return hashlib.md5(data, usedforsecurity=False).digest()


def checked_item(
    collection: Reference[Any],
    id: Key,
    value: object,
    metadata: Metadata | None,
    store: bool,
    position: int | None = None,
) -> Item:
    """Return an item of a collection.

    Raises:
        InvalidItemError: It cannot be stored. The message names its id, or its position if that is
            what is wrong.
    """
    text = collection.id_of(id, "entries", position)
    content = item_content(text, value)
    described = None if metadata is None else item_metadata(text, metadata)
    return Item(text, content, key_of(collection, content), described, bool(store))


def checked_extra(records: Records, extra: Extra | None) -> dict[str, Any]:
    """Return values of a host's own columns by the names that the table has for them.

    Raises:
        InvalidItemError: A column is not the host's.
    """
    columns = records.embedding.__mapper__.columns
    checked = {}
    for column, value in (extra or {}).items():
        name = column if isinstance(column, str) else column.key
        if name not in columns or columns[name].name in COLUMNS:
            raise InvalidItemError(
                f"extra: {name!r} is no column of your own of {records.embeddings.name}: "
                "make_records(embedding_mixin=) adds some"
            )
        checked[columns[name].name] = value
    return checked


def key_of(collection: Reference[Any], content: Content) -> ContentKey:
    """Return what the vector of a content is looked up by."""
    kind: Kind = "text" if isinstance(content, str) else "binary"
    return collection.content_hash(content), kind


def item_content(id: str, value: object) -> Content:
    """Return an item's content as `checked_content` does; an error names the item."""
    try:
        return checked_content(value)
    except InvalidItemError as error:
        raise of_item(id, error) from None


def item_metadata(id: str, metadata: Metadata) -> str:
    """Return an item's metadata as `dump_metadata` does; an error names the item."""
    try:
        return dump_metadata(metadata)
    except InvalidItemError as error:
        raise of_item(id, error) from None


def of_item(id: str, error: InvalidItemError) -> InvalidItemError:
    """Return an error that says about which item it is."""
    return InvalidItemError(f"item {id!r}: {error}")


def vector_row(collection: Reference[Any], entry: object, position: int) -> dict[str, Any]:
    """Return a row whose vector was made elsewhere, by the columns of the table.

    Args:
        collection: Where it is to be stored.
        entry: (id, vector), (id, vector, metadata) or (id, vector, metadata, content).
        position: Of the entry, from 0.

    Raises:
        InvalidItemError: The id, the metadata or the content cannot be stored.
        InvalidVectorError: The vector is not finite.
    """
    id, vector, metadata, content = (*unpacked(entry, 2, 4, position), None, None)[:4]
    text = collection.id_of(id, "entries", position)
    if content is not None and not isinstance(item_content(text, content), str):
        raise InvalidItemError(
            f"item {text!r}: the content of a vector from elsewhere must be a str"
        )
    return {
        "id": text,
        # A copy: a generator may hand out one piece of memory again and again.
        "embedding": as_vector(vector, label=f"vector of {text!r}").copy(),
        "content": content,
        "content_blob": None,
        "content_hash": None if content is None else collection.content_hash(content),
        "metadata": None if metadata is None else item_metadata(text, metadata),
    }

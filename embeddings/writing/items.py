"""What goes in: one item to embed, checked before any model is called."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from sqlalchemy import Row

from ..errors import InvalidItemError
from ..models.base import batches
from ..tables.records import COLUMNS
from ..values import checked_content, dump_metadata, is_storable, plain_json
from ..vectors import as_vector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sqlalchemy.orm import QueryableAttribute

    from ..keys import Key, Keys
    from ..models.base import Content
    from ..tables.records import Records
    from ..values import Metadata
    from ..vectors import Float32
    from ..work.reference import Reference

Extra: TypeAlias = "Mapping[str | QueryableAttribute[Any], Any]"
"""Values of a host's own columns, for rows that are new."""
ENTRY = (tuple, list, Row)
MD5 = hashlib.md5(usedforsecurity=False)
"""Of nothing: to copy it takes less time than to make one."""


@dataclass(frozen=True)
class Prepared:
    """A content with its vector, made without a database; for `Collection.embed`.

    Attributes:
        content: What was embedded.
        vector: float32, shape (dimensions,). Of a text of several chunks that of the first.
        model_id: The model that made the vector.
        chunks: In a collection with chunks the vectors of such a text, by the chunks' texts.
    """

    content: Content = field(repr=False)
    vector: Float32 = field(repr=False)
    model_id: str
    chunks: Mapping[Content, Float32] = field(default_factory=dict, repr=False)


class Part(NamedTuple):
    """What a chunk is of its item. What is about the item is with its first chunk only."""

    item: str
    """The item's stored id."""
    number: int
    start: int | None
    """Where it begins in the item's text, in characters; None of bytes."""
    end: int | None
    item_hash: bytes | None
    item_content: str | None
    """The item's text, if it is to be stored and is not a chunk itself."""
    item_chunks: int | None


class Item(NamedTuple):
    """One thing to embed, checked: an item, or a chunk of one."""

    id: str
    content: Content
    content_hash: bytes
    """As `llm` has it: it does not tell text from bytes."""
    key: bytes
    """What the item's vector is looked up by: see `hashes_of`."""
    metadata: str | None = None
    """As JSON text, of the moment in which the item was read."""
    store: bool = False
    anew: bool = False
    """The row is replaced as a whole: an earlier item of the same batch did so, or it is a copy."""
    updated: int | None = None
    """When the row is said to be written; None for now. Of what is copied `anew`."""
    part: Part | None = None
    """What it is of its item, where it is a chunk."""

    @property
    def owner(self) -> str:
        """The stored id of the item."""
        return self.id if self.part is None else self.part.item


def fold(items: Iterable[Item]) -> list[Item]:
    """Return one item for each id, sorted by id, with the effect of all of them in turn.

    So the outcome does not depend on where a batch ends.
    """
    folded: dict[str, Item] = {}
    for item in items:
        before = folded.get(item.id)
        if before is None:
            folded[item.id] = item
        elif before.key == item.key:
            metadata = before.metadata if item.metadata is None else item.metadata
            folded[item.id] = before._replace(metadata=metadata, store=before.store or item.store)
        else:
            folded[item.id] = item._replace(anew=True)
    return [folded[id] for id in sorted(folded)]


def unpacked(entry: object, least: int, most: int, position: int) -> tuple[Any, ...]:
    """Return an entry of a length between the two, or raise InvalidItemError."""
    if isinstance(entry, ENTRY) and least <= len(entry) <= most:
        return tuple(entry)
    shape = f"{least}" if least == most else f"{least} to {most}"
    given, advice = type(entry).__name__, ""
    if isinstance(entry, ENTRY):
        given += f" of {len(entry)}"
        if (most, len(entry)) == (2, 3):
            advice = ". For (id, value, metadata) there is embed_multi_with_metadata()"
    elif isinstance(entry, str):
        advice = ". Of a dict of texts by their ids, pass its items()"
    raise InvalidItemError(
        f"entries[{position}]: each entry must be a tuple of {shape}, (id, value, ...), "
        f"not {given}{advice}"
    )


def content_hash(content: Content) -> bytes:
    """Return what equal contents are recognised by: 16 bytes of MD5, as `llm` stores them."""
    hashed = MD5.copy()
    hashed.update(content.encode() if isinstance(content, str) else content)
    return hashed.digest()


def key_of_bytes(content_hash: bytes) -> bytes:
    """Return what the vector of bytes is looked up by: no text has it, for a text has no NUL."""
    return hashlib.md5(b"\0" + content_hash, usedforsecurity=False).digest()


def hashes_of(collection: Reference[Any], content: Content) -> tuple[bytes, bytes]:
    """Return the hash of a content as `llm` has it, and what its vector is looked up by."""
    hashed = collection.content_hash(content)
    return hashed, hashed if isinstance(content, str) else key_of_bytes(hashed)


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
    check_store(store)
    text = collection.id_of(id, "entries", position)
    try:
        content = checked_content(value)
        described = None if metadata is None else dump_metadata(metadata)
    except InvalidItemError as error:
        raise of_item(collection.keys, text, error) from None
    return Item(text, content, *hashes_of(collection, content), described, store)


def check_store(store: object) -> None:
    """Do nothing if it is True or False: what is meant as a batch size stores no contents.

    Raises:
        TypeError: It is not.
    """
    if not isinstance(store, bool):
        raise TypeError(
            f"store must be True or False, not {type(store).__name__}; see also batch_size="
        )


def checked_items(
    collection: Reference[Any],
    entries: Iterable[Any],
    size: int,
    store: bool,
    least: int,
    most: int,
) -> Iterator[list[Item]]:
    """Yield the items of (id, value) or (id, value, metadata) tuples, a batch at a time.

    Args:
        collection: Whose items they are to be.
        entries: The tuples.
        size: The most in a batch.
        store: Whether contents are stored as well.
        least: The shortest length of a tuple.
        most: The longest.

    Raises:
        InvalidItemError: One is none. The message names its position, or its id.
    """
    check_store(store)
    read = (
        _as_read(collection, entry, store, least, most, position)
        for position, entry in enumerate(entries)
    )
    start = 0
    for batch in batches(read, size):
        yield _items_of(collection, batch, store, start)
        start += len(batch)


def _as_read(
    collection: Reference[Any], entry: object, store: bool, least: int, most: int, position: int
) -> Item | tuple[Any, str, str | None]:
    """Return an entry in the state in which it is read, for what is in it may be changed later.

    A usual one becomes its id, its text and its metadata as JSON, of which only that is checked.
    """
    if type(entry) is tuple and least <= len(entry) <= most and type(entry[1]) is str:
        metadata = entry[2] if len(entry) == 3 else None
        described = plain_json(metadata) if type(metadata) is dict else None
        if metadata is None or described is not None:
            return entry[0], entry[1], described
    id, value, metadata = (*unpacked(entry, least, most, position), None)[:3]
    return checked_item(collection, id, value, metadata, store, position)


def _items_of(
    collection: Reference[Any],
    batch: list[Item | tuple[Any, str, str | None]],
    store: bool,
    start: int,
) -> list[Item]:
    """Return the items of a batch: usual entries all at once, which takes less time.

    Args:
        collection: Whose items they are to be.
        batch: From `_as_read`.
        store: Whether contents are stored as well.
        start: The position of the first.
    """
    if {*map(type, batch)} == {tuple}:
        keys, texts, described = zip(*batch, strict=True)
        if is_storable("".join(texts)):
            ids = collection.ids_of(keys, "entries", start)
            hashes = list(map(collection.content_hash, texts))
            return list(map(Item, ids, texts, hashes, hashes, described, repeat(store)))
    items = []
    for position, read in enumerate(batch, start):
        if not isinstance(read, Item):
            id, text, metadata = read
            read = checked_item(collection, id, text, None, store, position)
            read = read._replace(metadata=metadata)
        items.append(read)
    return items


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


def item_content(keys: Keys[Any], id: str, value: object) -> Content:
    """Return an item's content as `checked_content` does; an error names the item."""
    try:
        return checked_content(value)
    except InvalidItemError as error:
        raise of_item(keys, id, error) from None


def item_metadata(keys: Keys[Any], id: str, metadata: Metadata) -> str:
    """Return an item's metadata as `dump_metadata` does; an error names the item."""
    try:
        return dump_metadata(metadata)
    except InvalidItemError as error:
        raise of_item(keys, id, error) from None


def of_item(keys: Keys[Any], id: str, error: InvalidItemError | str) -> InvalidItemError:
    """Return an error that says about which item it is, in its message and by its `ids`."""
    named = InvalidItemError(f"item {id!r}: {error}")
    named.ids = (keys.key_noted(id),)
    return named


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
    text, keys = collection.id_of(id, "entries", position), collection.keys
    if content is not None and not isinstance(item_content(keys, text, content), str):
        raise of_item(keys, text, "the content of a vector from elsewhere must be a str")
    return {
        "id": text,
        # A copy: a generator may hand out one piece of memory again and again.
        "embedding": as_vector(vector, label=f"vector of {text!r}").copy(),
        "content": content,
        "content_blob": None,
        "content_hash": None if content is None else collection.content_hash(content),
        "metadata": None if metadata is None else item_metadata(keys, text, metadata),
    }

"""What goes in: one item to embed, checked before any model is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ..errors import InvalidItemError
from ..models.base import Content, Kind
from ..tables.columns import check_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..vectors import Float32

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
    """An earlier item of the same batch already replaced the row, as a whole."""


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


def checked_name(name: object) -> str:
    """Return the name of a collection, or raise InvalidItemError."""
    if not isinstance(name, str) or not name:
        raise InvalidItemError(f"The name of a collection must be a string and not empty: {name!r}")
    check_text(name, "The name", name)
    return name


def checked_content(value: object) -> Content:
    """Return a content that can be stored, or raise InvalidItemError."""
    if not isinstance(value, str | bytes):
        raise InvalidItemError(f"Content must be str or bytes, not {type(value).__name__}")
    if isinstance(value, str):
        check_text(value, "The content")
    return value


def unpacked(entry: object, least: int, most: int) -> tuple[Any, ...]:
    """Return an entry of a length between the two, or raise InvalidItemError."""
    if not isinstance(entry, tuple | list) or not least <= len(entry) <= most:
        shape = f"{least}" if least == most else f"{least} to {most}"
        raise InvalidItemError(
            f"each entry must be a tuple of {shape}, (id, value, ...), "
            f"not {type(entry).__name__}"
            + (f" of {len(entry)}" if isinstance(entry, tuple | list) else "")
        )
    return tuple(entry)

"""What a search returns: entries, and on the way to them scored rows in a ranking."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeAlias

from ..keys import K

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..values import Metadata


SHOWN = 200  # characters of a content in a notebook's table
Ranks: TypeAlias = tuple[int | None, int | None]


@dataclass(frozen=True)
class Chunk:
    """A part of an item's text.

    Attributes:
        number: Of the chunk in its item, from 0.
        start: Where it begins in the item's text, in characters; None if that is not known.
        end: Where it ends.
        text: The chunk's text, if it was stored.
    """

    number: int
    start: int | None
    end: int | None
    text: str | None = None


@dataclass
class Entry(Generic[K]):
    """A search result.

    Attributes:
        id: The item's id, in the type of the collection's keys.
        score: Cosine similarity to what was searched for, -1 to 1, higher is nearer.
        content: The text, if it was stored.
        metadata: The metadata, if there is any.
    """

    id: K
    score: float
    content: str | None = None
    metadata: Metadata | None = None

    @property
    def ranks(self) -> Ranks | None:
        """The item's ranks by meaning and by words, from 1, of a search that has `words`.

        A rank is None where the item is not among the first of that ranking.
        """
        return vars(self).get(RANKS)

    @property
    def chunk(self) -> Chunk | None:
        """The chunk by which the item was found, in a collection that has chunks."""
        return vars(self).get(CHUNK)


RANKS, CHUNK = "_ranks", "_chunk"
"""Where an entry holds these. No fields: an entry is equal to one that has none."""


class Entries(list[Entry[K]]):
    """Search results, best first: a list that knows how it was made.

    Attributes:
        exact: Whether these are the best for certain. False if they come from an index.
    """

    def __init__(self, entries: Iterable[Entry[K]] = (), *, exact: bool = True) -> None:
        super().__init__(entries)
        self.exact = exact

    def _repr_html_(self) -> str:
        """Return a table, as notebooks show it."""
        rows = "".join(
            f"<tr><td>{escape(str(one.id))}</td><td>{one.score:.4f}</td>"
            f"<td>{escape(_short(one.content))}</td><td>{escape(_short(one.metadata))}</td></tr>"
            for one in self
        )
        heading = "".join(f"<th>{name}</th>" for name in ("id", "score", "content", "metadata"))
        return f"<table><tr>{heading}</tr>{rows}</table>"


def _short(value: object) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


class ScoredRow(NamedTuple):
    """What a strategy finds."""

    id: str
    score: float
    content: str | None
    metadata: Metadata | None
    ranks: Ranks | None = None
    chunk: Chunk | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """The rows that a strategy finds, best first, and whether they are the best for certain.

    The rows are to be read once: of very many, not all need to be there at a time.
    """

    rows: Iterable[ScoredRow]
    exact: bool = True


class NotConfirmed(Exception):  # noqa: N818  no error: it ends an attempt
    """The collection's row was remembered, and may be another."""

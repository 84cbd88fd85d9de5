"""How the texts of a collection are cut into chunks, and what is kept of that."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import ChunksMismatchError, InvalidItemError, MissingExtraError
from ..values import plain
from ..work.row import shown_chunks
from .splitting import spans

Splitter: TypeAlias = Callable[[str], Iterable[tuple[int, int]]]
"""Yields where the chunks of a text begin and end, in characters."""
SIZE = 400
"""Characters. Of the sizes that were tried, the one with which short texts were found best."""
LENGTH = "len"
MARKDOWN = "markdown"


@dataclass(frozen=True)
class Chunks:
    """How the texts of a collection are cut into chunks, each with a vector of its own.

        Collection("docs", session, chunks=Chunks(size=600, overlap=100))

    A text that fits into one chunk is one. Others are cut at the ends of paragraphs, else of
    sentences, else of words. Where, depends on the text and on this alone, and a change of the text
    moves the cuts beside it only.

    Args:
        size: The most characters of a chunk, the overlap included.
        overlap: How many characters of what stands before a chunk are put before it, at most.
        length: What measures a text instead, such as the number of its tokens.
        splitter: `"markdown"` cuts by the structure of Markdown, with the extra `chunks`. Or a
            function that yields for a text where each chunk begins and ends, in characters.

    Raises:
        ValueError: The size is not positive, or the overlap is not below half of it; or the
            splitter has another name.
        TypeError: One of the functions is none, or has no name of its own: a lambda, a partial.
    """

    size: int = SIZE
    overlap: int = 0
    length: Callable[[str], int] = len
    splitter: Splitter | str | None = None

    def __post_init__(self) -> None:
        for name in ("size", "overlap"):
            number = plain(getattr(self, name))
            if not isinstance(number, int) or isinstance(number, bool):
                raise TypeError(f"{name} must be a whole number, not {type(number).__name__}")
            object.__setattr__(self, name, number)
        if self.size < 1:
            raise ValueError(f"size must be positive, not {self.size}")
        if not 0 <= self.overlap * 2 <= self.size:
            raise ValueError(
                f"overlap must be between 0 and half of the size, {self.size // 2}, not "
                f"{self.overlap}"
            )
        _check_function("length", self.length)
        if isinstance(self.splitter, str):
            if self.splitter != MARKDOWN:
                raise ValueError(
                    f"splitter must be {MARKDOWN!r} or a function, not {self.splitter!r}"
                )
        elif self.splitter is not None:
            _check_function("splitter", self.splitter)

    @property
    def setting(self) -> str:
        """What a collection keeps of it: JSON, with functions by their names."""
        splitter = self.splitter
        return json.dumps(
            {
                "size": self.size,
                "overlap": self.overlap,
                "length": LENGTH if self.length is len else _name(self.length),
                "splitter": _name(splitter) if callable(splitter) else splitter,
            }
        )

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return where each chunk of a text begins and ends, in characters; one at least.

        Raises:
            InvalidItemError: The splitter gives what are no parts of the text.
        """
        if self.splitter is None or not text.strip():
            return spans(text, self.size, self.overlap, self.length)
        if isinstance(self.splitter, str):
            return _by_markdown(self, text)
        return _checked(self.splitter(text), text)


def _check_function(name: str, given: object) -> None:
    """Do nothing if something can be called, and told from others by its name."""
    if not callable(given):
        raise TypeError(f"{name} must be a function, not {type(given).__name__}")
    if isinstance(given, functools.partial) or getattr(given, "__name__", "") == "<lambda>":
        raise TypeError(
            f"{name} must be a function that has a name, by which the collection remembers it: "
            "make it with def, and not as a lambda or a partial"
        )


def _name(function: Any) -> str:
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _checked(found: object, text: str) -> list[tuple[int, int]]:
    given: list[tuple[int, int]] = []
    if not isinstance(found, Iterable):
        raise InvalidItemError(
            f"the splitter must yield pairs (start, end), not return {type(found).__name__}"
        )
    for pair in found:
        try:
            start, end = map(int, pair)
        except (TypeError, ValueError):
            raise InvalidItemError(
                f"the splitter must yield pairs (start, end), not {type(pair).__name__}"
            ) from None
        least = given[-1][0] if given else 0
        if not least <= start < end <= len(text):
            raise InvalidItemError(
                f"the splitter yields ({start}, {end}) for chunk {len(given)} of a text of "
                f"{len(text)} characters: chunks begin one after the other and are not empty"
            )
        given.append((start, end))
    if not given:
        raise InvalidItemError("the splitter yields no chunk of the text")
    return given


def _by_markdown(chunks: Chunks, text: str) -> list[tuple[int, int]]:
    try:
        from semantic_text_splitter import MarkdownSplitter
    except ImportError:
        raise MissingExtraError("semantic-text-splitter", "chunks") from None
    if chunks.length(text) <= chunks.size:
        return [(0, len(text))]
    if chunks.length is len:
        splitter = MarkdownSplitter(chunks.size, overlap=chunks.overlap)
    else:
        splitter = MarkdownSplitter.from_callback(
            chunks.length, chunks.size, overlap=chunks.overlap
        )
    return [(start, start + len(part)) for start, part in splitter.chunk_indices(text)]


def chunks_of(setting: str, given: Chunks | None, name: str) -> Chunks:
    """Return how texts of a collection are cut, by the setting that it has.

    Args:
        setting: That of the collection.
        given: What it was opened with.
        name: The collection's name.

    Raises:
        ChunksMismatchError: It takes a function that is not at hand.
    """
    if given is not None and given.setting == setting:
        return given
    kept = json.loads(setting)
    length, splitter = kept["length"], kept["splitter"]
    for argument, function, own in (("length", length, LENGTH), ("splitter", splitter, MARKDOWN)):
        if function is not None and function != own:
            raise ChunksMismatchError(
                f"Collection {name!r} has {shown_chunks(setting)}. To write to it, open it with "
                f"these chunks= and the function {function} as {argument}="
            )
    return Chunks(kept["size"], kept["overlap"], splitter=splitter)


def checked_chunks(given: object) -> Chunks | None:
    """Return what a collection was given, or raise TypeError."""
    if given is not None and not isinstance(given, Chunks):
        raise TypeError(f"chunks must be Chunks(size=...), not {type(given).__name__}")
    return given

"""Where a text is cut: at the ends of paragraphs, else of sentences, else of words.

A text that is too long is cut in two at the strongest of these places, and so are its parts. Of
places that are equally strong it is the one of the smallest hash of what stands around it. So what
is cut far from a change does not depend on it: only the chunks beside it become others.
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

AROUND = 24  # characters on either side of a place, of which its hash is made
LEAST_SHARE = 4  # of a chunk's size: where one is too long, no part of it is smaller than this
LEAST_PARAGRAPH = 16  # of a chunk's size: a smaller paragraph is put together with its neighbour

_WIDE = "\u3002\uff01\uff1f"  # the ends of sentences that no blank follows
_CLOSING = "\"'\u201d\u2019\u00bb)\\]"
_STRONG = re.compile(rf"\n\s*|(?<=[.!?\u2026{_WIDE}{_CLOSING}])\s+|(?<=[{_WIDE}])(?=\S)")
_END_OF_SENTENCE = re.compile(rf"[.!?\u2026{_WIDE}][{_CLOSING}]*\Z")
_BLANKS = re.compile(r"\s+")


class Place(NamedTuple):
    """Where a text can be cut: between two words, whose blanks belong to neither part."""

    end: int
    start: int

    def hash_in(self, text: str) -> int:
        """Return the hash of what stands around it."""
        around = text[max(0, self.end - AROUND) : self.end] + text[self.start : self.start + AROUND]
        return zlib.crc32(around.encode())


def spans(
    text: str, size: int, overlap: int, length: Callable[[str], int]
) -> list[tuple[int, int]]:
    """Return where the chunks of a text begin and end, in characters.

    Args:
        text: The text.
        size: The most of a chunk, by `length`.
        overlap: How much of what stands before a chunk is put before it, at most.
        length: What measures a text.
    """
    if length(text) <= size:
        return [(0, len(text))]
    first, last = len(text) - len(text.lstrip()), len(text.rstrip())
    if first >= last:
        return [(0, len(text))]
    places = _places(text)
    parts = sorted(_parts(text, (first, last), places, size - overlap, length))
    if not overlap:
        return parts
    starts = sorted(place.start for of_kind in places for place in of_kind)
    lengthened = [parts[0]]
    for (before, _), (start, end) in pairwise(parts):
        lengthened.append((_overlapping(text, starts, before, start, overlap, length), end))
    return lengthened


def _places(text: str) -> tuple[list[Place], list[Place]]:
    """Return the places between paragraphs, and those between sentences or lines, in order."""
    paragraphs: list[Place] = []
    sentences: list[Place] = []
    for match in _STRONG.finditer(text):
        end, start = match.span()
        blanks = text[end:start]
        if blanks.startswith("\n"):
            end = len(text[max(0, end - AROUND) : end].rstrip()) + max(0, end - AROUND)
        elif not _END_OF_SENTENCE.search(text, max(0, end - 4), end):
            continue
        kind = paragraphs if blanks.count("\n") > 1 else sentences
        if end and start < len(text):
            kind.append(Place(end, start))
    return paragraphs, sentences


def _parts(
    text: str,
    whole: tuple[int, int],
    places: Sequence[list[Place]],
    most: int,
    length: Callable[[str], int],
) -> Iterator[tuple[int, int]]:
    """Yield the parts, none longer than `most`, in no order."""
    ends = [[place.end for place in of_kind] for of_kind in places]
    starts = [[place.start for place in of_kind] for of_kind in places]

    def strongest(start: int, end: int, room: int, kinds: int) -> Place | None:
        """Return the place to cut at, so far from both ends, of so many kinds."""
        for of_kind, its_ends, its_starts in zip(
            places[:kinds], ends[:kinds], starts[:kinds], strict=True
        ):
            low, high = bisect_left(its_ends, start + room), bisect_right(its_starts, end - room)
            if low < high:
                return min(of_kind[low:high], key=lambda place: place.hash_in(text))
        return None

    todo = [whole]
    while todo:
        start, end = todo.pop()
        size = length(text[start:end])
        fits = size <= most or end - start < 2
        share = LEAST_PARAGRAPH if fits else LEAST_SHARE
        margin = max(1, (end - start) * most // (max(size, 1) * share))
        place = strongest(start, end, margin, 1 if fits else 2)
        if place is None and fits:
            yield start, end
            continue
        place = (
            place
            or _between_words(text, start + margin, end - margin)
            or strongest(start, end, 1, 2)
            or _between_words(text, start + 1, end - 1)
            or Place((start + end) // 2, (start + end) // 2)
        )
        todo += [(start, place.end), (place.start, end)]


def _between_words(text: str, start: int, end: int) -> Place | None:
    """Return the place between two words of a part of a text, of the smallest hash."""
    places = (Place(*match.span()) for match in _BLANKS.finditer(text, start, end))
    inside = (place for place in places if start < place.end and place.start < end)
    return min(inside, key=lambda place: place.hash_in(text), default=None)


def _overlapping(
    text: str,
    starts: list[int],
    before: int,
    start: int,
    overlap: int,
    length: Callable[[str], int],
) -> int:
    """Return where a chunk begins with what it has of the one before: with a sentence, if it can.

    Args:
        text: The text.
        starts: Where sentences begin.
        before: Where the chunk before begins.
        start: Where the chunk begins without.
        overlap: The most that is put before.
        length: What measures it.
    """
    sentences = starts[bisect_right(starts, before) : bisect_left(starts, start)]
    words = [match.end() for match in _BLANKS.finditer(text, before, start)]
    for candidates in (sentences, words):
        begins = start
        for candidate in reversed(candidates):
            if length(text[candidate:start]) > overlap:
                break
            begins = candidate
        if begins < start:
            return begins
    return start

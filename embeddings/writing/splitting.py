"""Where a text is cut: at the ends of paragraphs, else of sentences, else of words.

A text that is too long is cut in two at the strongest of these places, and so are its parts. Of
places that are equally strong it is the one of the smallest hash of what stands around it. So what
is cut far from a change does not depend on it: only the chunks beside it become others.

Where a text repeats itself, hashes are equal. What stands farther around decides between those.
Where that is equal too, it is the place nearest to the middle of the part: the chunks are alike
wherever it is cut, and no part is measured more often than a few times the logarithm of the number
of chunks. The first place would leave all but one chunk to be measured again.
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

AROUND = 24  # characters on either side of a place, of which its hash is made
FAR = 256  # characters on either side of it that decide between equal hashes
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

    def hash_in(self, text: str, reach: int) -> int:
        """Return the hash of so many characters before it and after it."""
        around = text[max(0, self.end - reach) : self.end] + text[self.start : self.start + reach]
        return zlib.crc32(around.encode())


class Places:
    """The places of one kind in a text, in order, each with its hash."""

    def __init__(self, text: str, found: Iterable[Place]) -> None:
        kept = np.fromiter(
            ((*place, place.hash_in(text, AROUND)) for place in found),
            [("end", np.int64), ("start", np.int64), ("hash", np.uint64)],
        )
        self.ends, self.starts, hashes = kept["end"], kept["start"], kept["hash"]
        _, kind, times = np.unique(hashes, return_inverse=True, return_counts=True)
        self.hashes = hashes << np.uint64(32)
        for number in np.flatnonzero(times[kind] > 1):
            self.hashes[number] += np.uint64(self[number].hash_in(text, FAR))

    def __getitem__(self, number: int | np.intp) -> Place:
        return Place(int(self.ends[number]), int(self.starts[number]))

    def strongest(self, start: int, end: int, room: int) -> Place | None:
        """Return the one to cut a part of the text at, so far from both its ends."""
        low = int(np.searchsorted(self.ends, start + room))
        high = int(np.searchsorted(self.starts, end - room, "right"))
        if low >= high:
            return None
        inside = self.hashes[low:high]
        equal = low + np.flatnonzero(inside == inside.min())
        behind = np.searchsorted(self.starts[equal], (start + end) // 2)
        beside = [self[number] for number in equal[max(0, behind - 1) : behind + 1]]
        return min(beside, key=lambda place: abs(place.end + place.start - start - end))


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
    places = tuple(Places(text, of_kind) for of_kind in _places(text))
    parts = sorted(_parts(text, (first, last), places, size - overlap, length))
    if not overlap:
        return parts
    starts = sorted(start for of_kind in places for start in of_kind.starts.tolist())
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
    places: tuple[Places, ...],
    most: int,
    length: Callable[[str], int],
) -> Iterator[tuple[int, int]]:
    """Yield the parts, none longer than `most`, in no order."""
    todo: list[tuple[int, int, Places | None]] = [(*whole, None)]
    while todo:
        start, end, words = todo.pop()
        size = length(text[start:end])
        fits = size <= most or end - start < 2
        share = LEAST_PARAGRAPH if fits else LEAST_SHARE
        margin = max(1, (end - start) * most // (max(size, 1) * share))
        place = _strongest(places[:1] if fits else places, start, end, margin)
        if place is None and fits:
            yield start, end
            continue
        if place is None:
            if words is None:
                words = Places(text, _between_words(text, start, end))
            place = (
                words.strongest(start, end, margin + 1)
                or _strongest(places, start, end, 1)
                or words.strongest(start, end, 2)
                or Place((start + end) // 2, (start + end) // 2)
            )
        todo += [(start, place.end, words), (place.start, end, words)]


def _strongest(places: tuple[Places, ...], start: int, end: int, room: int) -> Place | None:
    """Return the place to cut at, of the first kind of which there is one."""
    found = (of_kind.strongest(start, end, room) for of_kind in places)
    return next((place for place in found if place is not None), None)


def _between_words(text: str, start: int, end: int) -> Iterator[Place]:
    """Yield the places between two words of a part of a text, in order."""
    places = (Place(*match.span()) for match in _BLANKS.finditer(text, start, end))
    return (place for place in places if start < place.end and place.start < end)


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

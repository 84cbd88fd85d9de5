"""Where texts are cut, and the work that it takes."""

from __future__ import annotations

import zlib
from math import log2

import pytest

from embeddings.writing.splitting import AROUND, FAR, spans

SIZE = 400


class Counted(str):
    """A text that counts the characters that are taken from it."""

    __slots__ = ("taken",)

    taken: int

    def __getitem__(self, key):
        part = super().__getitem__(key)
        self.taken += len(part)
        return part


def log(numbers) -> str:
    """Return lines that are alike around their ends, and differ between them."""
    return "".join(
        f"2026-11-30 INFO the server is alive, request {number:06d} of all, and nothing else\n"
        for number in numbers
    )


@pytest.mark.parametrize(
    "repeated",
    ["0, ", "ha ha ha ho ", "word ", "a. ", "0", "-" * 78 + "\n", "| a | 0 |\n", log([1])],
)
def test_a_text_that_repeats_itself(repeated):
    """It is measured as often as it can be halved, and no place is hashed again."""
    text = Counted(repeated * (40_000 // len(repeated)))
    text.taken = measured = 0

    def length(part: str) -> int:
        nonlocal measured
        measured += len(part)
        return len(part)

    cut = spans(text, SIZE, 0, length)
    assert measured < 2 * len(text) * log2(len(text) / SIZE)
    assert text.taken - measured < len(text.split()) * 2 * (AROUND + FAR + AROUND)
    assert all(end - start <= SIZE for start, end in cut)
    kept = "".join(str(text)[start:end] for start, end in cut)
    assert "".join(kept.split()) == "".join(text.split())
    assert len(cut) < 3 * len(text) / SIZE


@pytest.mark.parametrize("at", [10, 250, 490])
def test_one_line_more_among_lines_that_are_alike(at):
    """Only the chunks beside it become others."""
    numbers = [*range(500)]
    before, after = log(numbers), log([*numbers[:at], 777, *numbers[at:]])
    chunks = {before[start:end] for start, end in spans(before, SIZE, 0, len)}
    new = {after[start:end] for start, end in spans(after, SIZE, 0, len)} - chunks
    assert len(new) <= 5


def test_texts_are_cut_where_they_always_were():
    """Other cuts would be embedded, and paid, again."""
    words = [f"w{number * 7919 % 10007}" for number in range(6000)]
    for number in range(0, 6000, 11):
        words[number] += "."
    for number in range(0, 3000, 60):
        words[number] += "\n\n"
    text = " ".join(words[:4500]) + " " + "".join(words[4500:])
    cut = [spans(text, size, overlap, len) for size, overlap in ((400, 0), (90, 0), (300, 50))]
    assert [len(each) for each in cut] == [120, 551, 222]
    assert zlib.crc32(repr(cut).encode()) == 3258468663

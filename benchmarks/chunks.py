"""How well short texts are found that stand somewhere in long ones, by the size of chunks.

    python -m benchmarks.chunks [size ...]

A hundred short texts are each hidden at a random place in six thousand words of others: the
docstrings of the standard library. Printed is how many are at rank 1 of their questions: as items
of their own among the same paragraphs, in chunks, and in whole documents. A size is to be chosen by
the even ones, and what it gives is told by the odd ones, by which nothing was chosen: printed are
both.
"""

from __future__ import annotations

import random
import sys
from typing import Any

from embeddings import Chunks, Collection
from embeddings.writing.chunks import SIZE
from examples.stdlib import find_docstrings

from .hidden_notes import NOTES

WORDS = 6_000  # of a document
FEWEST = 15  # words of a paragraph
HALVES = ({*range(0, len(NOTES), 2)}, {*range(1, len(NOTES), 2)})


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or [SIZE]
    documents, paragraphs = hide(random.Random(7))  # noqa: S311  no secret
    own = dict(enumerate(note for note, _ in NOTES))
    others = {f"p{number}": paragraph for number, paragraph in enumerate(sorted(paragraphs))}
    alone = at_rank_1({str(id): note for id, note in own.items()} | others, None)
    print(f"items of their own among {len(others)} paragraphs: {told(alone)} at rank 1")
    for size in sizes:
        found = at_rank_1(documents, Chunks(size=size))
        shares = [len(found & half) / len(alone & half) for half in HALVES]
        print(
            f"in documents, chunks of {size}: {told(found)}; "
            f"{shares[0]:.2f} x as many to choose by, {shares[1]:.2f} x as many others",
            flush=True,
        )
    print(f"in whole documents: {told(at_rank_1(documents, None))}")


def told(found: set[int]) -> str:
    first, second = (len(found & half) for half in HALVES)
    return f"{first} of {len(HALVES[0])} to choose by, {second} of the {len(HALVES[1])} others"


def hide(rng: random.Random) -> tuple[dict[str, str], set[str]]:
    """Return the documents by the numbers of what is hidden in them, and all other paragraphs."""
    others = [text for _, (_, text) in find_docstrings() if len(text.split()) >= FEWEST]
    documents: dict[str, str] = {}
    used: set[str] = set()
    for number, (note, _) in enumerate(NOTES):
        body: list[str] = []
        while sum(len(text.split()) for text in body) < WORDS:
            body.append(rng.choice(others))
        used.update(body)
        body.insert(rng.randrange(len(body) + 1), note)
        documents[str(number)] = "\n\n".join(body)
    return documents, used


def at_rank_1(texts: dict[str, str], chunks: Chunks | None) -> set[int]:
    docs: Collection[Any] = Collection("benchmark of chunks", model_id="local", chunks=chunks)
    docs.embed_multi(texts.items())
    found = docs.similar_multi([question for _, question in NOTES], 1)
    docs.close()
    return {number for number, entries in enumerate(found) if entries[0].id == str(number)}


if __name__ == "__main__":
    main()

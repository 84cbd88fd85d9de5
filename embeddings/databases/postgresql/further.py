"""What is written in columns beside those of every row: of its chunk, and the words of its text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import LargeBinary, Text

from . import parts, words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.types import TypeEngine

    from ...work.operation import Work

TYPES: dict[str, TypeEngine[Any]] = {
    **{name: kind() for name, kind in parts.COLUMN_TYPES.items()},
    words.WORDS: Text(),  # which is cast
    words.WORDS_OF: LargeBinary(),
}


def columns_of(work: Work) -> tuple[str, ...]:
    """Return the names of the columns that rows of a collection are written with."""
    return (*parts.columns_of(work), *words.columns_of(work))


def values_of(
    work: Work, row: Mapping[str, Any], as_words: Callable[[str, str], str | bytes]
) -> tuple[Any, ...]:
    """Return the values of these columns for a row that is about to be written.

    Args:
        work: Of the collection.
        row: As it is written.
        as_words: `words.as_tsvector` or `words.as_binary`.
    """
    of_chunk = parts.values_of(work, row) if work.parts else ()
    of_text = words.values_of(work, row, as_words) if work.row.language is not None else ()
    return (*of_chunk, *of_text)

"""The text index of a collection: made, filled and dropped."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from ..errors import IndexingError, MissingWordsWarning
from ..searching.words import checked_language

if TYPE_CHECKING:
    from ..work import Reference


def create_text_index(collection: Reference[Any], language: str) -> int:
    """Make the text index of a collection. See `Collection.create_text_index`."""
    language = checked_language(language)
    with collection.work(write=True) as work:
        row = collection.find_or_create(work)
        if row.language not in {None, language}:
            raise IndexingError(
                f"{collection.name!r} has a text index in {row.language!r}. Call "
                "drop_text_index() first"
            )
        work.row = row._replace(language=language)
        work.database.create_text_index(work, language)
        missing = work.database.count_without_words(work)
    collection.forget()
    if missing:
        warnings.warn(
            f"{missing} items of {collection.name!r} have no words in the text index, because "
            "their text is not stored. Embed them again: the same text costs nothing, and puts "
            "its words in",
            MissingWordsWarning,
            stacklevel=3,
        )
    return missing


def drop_text_index(collection: Reference[Any]) -> bool:
    """Drop the text index. See `Collection.drop_text_index`."""
    with collection.work(write=True) as work:
        row = collection.existing(work)
        if row.language is None:
            return False
        work.database.drop_text_index(work, row.language)
    collection.forget()
    return True

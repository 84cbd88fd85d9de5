"""The text index of a collection: made, filled and dropped."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from ..errors import IndexingError, MissingWordsWarning
from ..searching.words import checked_language
from ..work.reference import retried

if TYPE_CHECKING:
    from ..work.reference import Reference


def create_text_index(collection: Reference[Any], language: str) -> int:
    """Make the text index of a collection. See `Collection.create_text_index`."""
    missing = make(collection, checked_language(language))
    collection.forget()
    if missing:
        which, have, them = ("item", "has", "it") if missing == 1 else ("items", "have", "them")
        warnings.warn(
            f"{missing} {which} of {collection.name!r} {have} no words in the text index, because "
            f"the text is not stored. Embed {them} again, or call sync(): the same text costs "
            "nothing, and puts its words in",
            MissingWordsWarning,
            stacklevel=3,
        )
    return missing


@retried
def make(collection: Reference[Any], language: str) -> int:
    """Make the index in a language, and return how many items have no words."""
    with collection.work(write=True) as work:
        # Two who both kept it first would wait for each other.
        if collection.find(work) is not None:
            work.database.lock_collection(work)  # those who write already put in no words
        collection.find_or_create(work)
        work.database.lock_collection(work)
        row = collection.existing(work)
        if row.language not in {None, language}:
            raise IndexingError(
                f"{collection.name!r} has a text index in {row.language!r}. Call "
                "drop_text_index() first"
            )
        work.row = row._replace(language=language)
        work.database.create_text_index(work, language)
        return work.database.count_without_words(work)


def drop_text_index(collection: Reference[Any]) -> bool:
    """Drop the text index. See `Collection.drop_text_index`."""
    was_there = _drop(collection)
    collection.forget()
    return was_there


@retried
def _drop(collection: Reference[Any]) -> bool:
    with collection.work(write=True) as work:
        if collection.find(work) is None:
            return False
        work.database.lock_collection(work)  # those who write already put words in
        language = collection.existing(work).language
        if language is None:
            return False
        work.database.drop_text_index(work, language)
        return True

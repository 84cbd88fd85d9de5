"""The text index of a collection: made, filled and dropped."""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from ..errors import DoesNotExist, IndexingError, MissingWordsWarning
from ..keys import keys_of
from ..models import registry
from ..searching.words import checked_language
from ..sessions import bind
from ..work.reference import Reference, retried
from . import whole
from .items import content_hash

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ..tables.indexing import TextIndex


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


# By its name alone, as a revision does


def create_by_name(connection: Connection, given: TextIndex) -> None:
    """Make a text index in the connection's transaction, and the collection by its model.

    Raises:
        DoesNotExist: There is no such collection, and no model was given.

        And what `Collection.create_text_index` raises and warns of.
    """
    collection = _by_name(connection, given)
    with collection.work(write=True) as work:
        if work.row_named(given.collection) is None:
            if given.model is None:
                raise DoesNotExist(f"{collection.does_not_exist()}: pass model= to create it")
            model = registry.canonical_id(given.model)
            work.database.insert_collection(work, given.collection, model)
    create_text_index(collection, given.language)


def drop_by_name(connection: Connection, given: TextIndex) -> None:
    """Drop a text index in the connection's transaction, if it is there.

    With it goes the collection if it is empty, its model is given, and it has no index of vectors.
    """
    collection = _by_name(connection, given)
    with collection.work(write=True) as work:
        if work.row_named(given.collection) is None:
            return
    drop_text_index(collection)
    if given.model is None:
        return
    with collection.work(write=True) as work:
        row = collection.existing_to_write(work)
        columns = collection.records.embeddings.c
        first = select(columns.collection_id).where(columns.collection_id == row.id).limit(1)
        if work.run(first).first() is not None or work.database.index_info(work) is not None:
            return
        # A host's rows may refer to it.
        with suppress(IntegrityError), work.connection.begin_nested():
            whole.remove(collection, work, row)


def not_in_script(given: TextIndex) -> str:
    """Return what stands in a script where no SQL can be written without the database."""
    return (
        f"The text index of {given.collection!r} is not in this script: its SQL has the number of "
        "the collection, which the database gives. Run the revision on the database"
    )


def _by_name(connection: Connection, given: TextIndex) -> Reference[str]:
    """Return the collection as it is there: with its own model, and its setting of chunks."""
    records = given.records
    sessions, keys = bind(connection, records), keys_of(str)
    return Reference(given.collection, sessions, records, keys, None, None, False, content_hash)

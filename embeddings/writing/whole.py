"""The collection as a whole: opened, renamed, deleted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete as delete_from
from sqlalchemy import update

from ..errors import InvalidItemError
from ..keys import MAX_ID_BYTES
from ..models import registry
from ..tables.beside import names_beside
from ..tables.migrate import bring_up_to_date
from ..tables.records import RECORDS
from ..values import check_text
from ..work.reference import retried

if TYPE_CHECKING:
    from ..work.operation import Work
    from ..work.reference import Reference
    from ..work.row import CollectionRow


LOG = logging.getLogger("embeddings")


def checked_name(name: object) -> str:
    """Return the name of a collection, or raise InvalidItemError."""
    if not isinstance(name, str) or not name:
        raise InvalidItemError(f"The name of a collection must be a string and not empty: {name!r}")
    check_text(name, "The name", name)
    if len(name.encode()) > MAX_ID_BYTES:
        raise InvalidItemError(
            f"The name {name[:80]!r}... is over {MAX_ID_BYTES} bytes long in UTF-8"
        )
    return name


def open_database(collection: Reference[Any]) -> None:
    """Migrate a database that was opened for a collection, and create the collection.

    Raises:
        DoesNotExist: There is no such file, and nothing is to be created.
    """
    if not collection.create and collection.sessions.is_missing():
        raise collection.does_not_exist()
    if collection.records is RECORDS:  # others are their host's to create
        bring_up_to_date(collection.sessions.session)
    create_at_once(collection)


@retried
def create_at_once(collection: Reference[Any]) -> None:
    """Create the collection, unless its model is one that nobody can call.

    Such a model may be meant, as that of vectors from elsewhere, or be mistyped: the first write
    tells.
    """
    with collection.work() as work:  # which waits for nobody
        if collection.find(work) is not None:
            return
    if collection.model is not None or registry.is_known(collection.model_id_of(None)):
        with collection.work(write=True) as work:
            collection.find_or_create(work)


def rename(collection: Reference[Any], name: str) -> None:
    """Give the collection another name. See `Collection.rename`."""
    row, is_followed = _rename(collection, checked_name(name))
    if is_followed:
        LOG.warning(
            "%r is called %r now, and triggers note changes of its rows under the former name: "
            "drop those, make others by a declaration of the new name, and sync",
            collection.name,
            name,
        )
    collection.forget()
    collection.renamed.append((collection.name, row.id))
    collection.name = name


@retried
def _rename(collection: Reference[Any], name: str) -> tuple[CollectionRow, bool]:
    """Return the row, and whether triggers follow rows under the former name."""
    entity = collection.records.collection
    with collection.work(write=True) as work:
        row = collection.existing(work)
        if name == collection.name:
            return row, False
        old, new = (row.name, *names_beside(row.name)), (name, *names_beside(name))
        for each in new:
            if work.row_named(each) is not None:
                raise ValueError(f"Collection {each!r} already exists")
        for before, after in zip(old, new, strict=True):
            work.run(update(entity).where(entity.name == before).values({entity.name: after}))
        followed = work.database.follows(work.connection, work.records)
        return row, any(each.collection == collection.name for each in followed)


def delete(collection: Reference[Any]) -> None:
    """Delete the collection and its embeddings. See `Collection.delete`."""
    rows = _delete(collection)
    for row in rows:
        collection.database.after_deletion(collection, row)
    collection.forget()
    collection.is_deleted = True


@retried
def _delete(collection: Reference[Any]) -> list[CollectionRow]:
    """Delete a collection, with what stands beside it."""
    with collection.work(write=True) as work:
        row = collection.existing(work)
        beside = [work.row_named(name) for name in names_beside(row.name)]
        rows = [row, *filter(None, beside)]
        for each in rows:
            remove(collection, work, each)
    return rows


def remove(collection: Reference[Any], work: Work, row: CollectionRow) -> None:
    """Delete one row of collections, and all that belongs to it, within a transaction."""
    embedding, entity = collection.records.embedding, collection.records.collection
    work.row = row
    work.database.lock_collection(work)
    work.database.before_deletion(collection, work)
    work.changed(delete_from(embedding).where(embedding.collection_id == row.id))
    work.changed(delete_from(entity).where(entity.id == row.id))

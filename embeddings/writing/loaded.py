"""The session's objects kept current with what was written or deleted past them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import joinedload

from ..internals import is_flushing, will_expire_on_rollback

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..work.operation import Work


def refresh(work: Work, ids: Sequence[str] = ()) -> None:
    """Bring what the session has loaded of a collection up to date.

    The values of records are set and not expired: under asyncio an attribute that has to be read is
    an error. Only the list of all records is read anew where it is asked for.

    Args:
        work: In whose transaction that was.
        ids: Of the rows that were written.
    """
    if not len(work.session.identity_map):
        return
    _refresh_records(work, ids)
    key = work.records.collection.__mapper__.identity_key_from_primary_key((work.row.id,))
    collection = work.session.identity_map.get(key)
    if collection is not None:
        work.session.expire(collection, ["embeddings"])
        will_expire_on_rollback(work.session, [collection])


def _refresh_records(work: Work, ids: Sequence[str]) -> None:
    session, entity = work.session, work.records.embedding
    key_of = entity.__mapper__.identity_key_from_primary_key
    records = [
        record for id in ids if (record := session.identity_map.get(key_of((work.row.id, id))))
    ]
    if not records:
        return
    is_loaded = work.database.is_one_of(
        work.records.embeddings.c.id, [record.id for record in records]
    )
    statement = (
        select(entity)
        .where(entity.collection_id == work.row.id, is_loaded)
        .execution_options(populate_existing=True)
    )
    if not is_flushing(session):  # else changes of the collection may still be on their way
        statement = statement.options(joinedload(entity.collection))
    work.run(statement).all()
    will_expire_on_rollback(session, records)

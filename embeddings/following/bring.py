"""Some rows of a source brought into a collection: read, embedded, and written if still so.

No order of events ends with an older text's vector in place of a newer one's, nor with one of a row
that is gone: what was read is read again in the transaction that writes, once others are kept out.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from ..models.base import kinds, prefixed
from ..writing import plan
from ..writing.calls import ask
from ..writing.items import Item, key_of
from ..writing.report import BUSY, CHANGED, Report
from ..writing.resolve import resolve, stored_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..models.base import SupportsEmbedding
    from ..work import Reference, Work
    from .rows import Rows, SourceRow


def items_of(
    collection: Reference[Any],
    model: SupportsEmbedding,
    rows: Rows,
    read: Mapping[str, SourceRow],
) -> list[Item]:
    """Return what was read of a source as items."""
    items: list[Item] = []
    for id, row in read.items():
        key = key_of(collection, prefixed(model, row.text))
        items.append(Item(id, row.text, key, row.metadata, rows.store))
    return items


def unchanged(
    collection: Reference[Any],
    work: Work,
    model: SupportsEmbedding,
    rows: Rows,
    read: Mapping[str, SourceRow],
) -> set[str]:
    """Return the ids of what was read that the collection has just as it is."""
    items = items_of(collection, model, rows, read)
    return resolve(work, items, stored_rows(work, items, kinds(model)), {}, kinds(model)).unchanged


def bring(collection: Reference[Any], rows: Rows, ids: Iterable[str]) -> Report:
    """Embed and write what of some items is new or differs, and return what was done.

    Args:
        collection: Where to.
        rows: Where from.
        ids: Of the items. One that is not there any more is no item, and not in the report.

    Returns:
        The report. In `skipped` are those that another writer was at.
    """
    began = perf_counter()
    with collection.work() as work:
        read = rows.read(work, ids)
        model = collection.model_of(collection.find(work))
    planned = plan.make(collection, items_of(collection, model, rows, read), force=False)
    report = Report(unchanged=len(planned.unchanged))
    if planned.new_ids or planned.written_ids:
        spent = Report()
        if planned.missing:
            contents = dict(planned.missing)
            spent = planned.take(ask(planned.model, planned.runtime, contents, skips=False))
        try:
            admit = partial(_still_so, collection, rows, read)
            report = plan.write(collection, planned, admit=admit) + spent
        except DBAPIError as error:
            if not collection.database.was_kept_waiting(error):
                raise
            busy = tuple((collection.keys.from_text(id), BUSY) for id in read)
            report = Report(skipped=busy) + spent
    return replace(report, seconds=perf_counter() - began)


def _still_so(
    collection: Reference[Any],
    rows: Rows,
    read: Mapping[str, SourceRow],
    work: Work,
    ids: list[str],
) -> dict[str, str]:
    """Return which items are to be left alone, and why; keep the others from other writers."""
    if collection.sessions.engine is not None:
        work.database.wait_briefly(work)
    kept = rows.keep(work, ids)
    free = kept & work.database.free_rows(work, sorted(kept))
    now = rows.read(work, free)
    reasons = dict.fromkeys({*ids} - free, BUSY)
    return reasons | {id: CHANGED for id in free if now.get(id) != read[id]}

"""A collection that follows rows embedded anew by another model, from the rows.

The new vectors are made by `sync`, beside the old ones. What may have changed since they were
compared with the rows is noted as pending, in the transaction that switches; so `refresh` finds it.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..errors import DoesNotExist
from ..keys import chunk_owner
from ..tables.pending import note_written
from ..writing import beside
from ..writing.report import Report
from . import refresh as refreshing
from . import sync as syncing
from .bring import parted

if TYPE_CHECKING:
    from ..models.base import SupportsEmbedding
    from ..work.operation import Work
    from ..work.reference import Reference
    from ..writing.beside import Pair
    from ..writing.progress import Progress
    from .rows import Rows

LOG = logging.getLogger("embeddings")
PASSES = 2  # over the rows: the second has what changed during the first, which is long
PAUSE = 0.1  # seconds before the next look, where others are in the way


def reembed(
    collection: Reference[Any],
    rows: Rows,
    model: SupportsEmbedding | str,
    *,
    batch_size: int,
    progress: Progress,
) -> Report:
    """Embed every row anew, and switch. See `ModelCollection.reembed`."""
    pair = beside.begin(collection, model)
    return Report() if pair is None else _taken_over(collection, pair, rows, batch_size, progress)


def back(collection: Reference[Any], rows: Rows, *, batch_size: int, progress: Progress) -> Report:
    """Switch back, with what changed since. See `ModelCollection.back`."""
    return _taken_over(collection, beside.previous(collection), rows, batch_size, progress)


def _taken_over(
    collection: Reference[Any], pair: Pair, rows: Rows, batch_size: int, progress: Progress
) -> Report:
    began, report = perf_counter(), Report()
    try:
        report = _filled(pair, rows, batch_size, progress)
        note = partial(_note, collection, are_hashed_alike=beside.are_hashed_alike(pair))
        while not beside.switch(pair, note):
            beside.have_same_settings(pair)
            collection.sessions.runtime.pause(PAUSE)
        LOG.info("%r is of the model %r now", collection.name, pair.model.model_id)
    except DoesNotExist:
        if not beside.has_switched(pair):
            raise
    done = refreshing.refresh(
        collection,
        rows,
        batch_size=batch_size,
        concurrency=None,
        limit=None,
        keys=None,
        progress=None,
        on_error="skip",
        forever=False,
        stop=None,
    )
    known = [key for key, _ in done.skipped]
    failed = tuple(pair for pair in report.skipped if pair[0] not in known)
    report = replace(report, skipped=failed) + replace(done, unchanged=0)
    return replace(report, seconds=perf_counter() - began)


def _filled(pair: Pair, rows: Rows, batch_size: int, progress: Progress) -> Report:
    """Make the vectors of all rows that lack them, and the indexes."""
    report = Report()
    beside.have_same_settings(pair)
    for at in range(PASSES):
        done = syncing.sync(
            pair.other,
            rows,
            prune=True,
            allow_empty=False,
            dry_run=False,
            batch_size=batch_size,
            progress=None if at else progress,
            on_error="skip",
        )
        if not at and not done.embedded + done.reused + done.unchanged:
            syncing.refuse_empty(pair.current)
        done, _ = parted(replace(done, unchanged=0 if at else done.unchanged))  # they are pending
        report = replace(report + done, skipped=done.skipped)  # those of the latest pass
        beside.have_same_settings(pair)
    return report


def _note(
    collection: Reference[Any], work: Work, ids: tuple[int, int], *, are_hashed_alike: bool
) -> bool:
    """Note as pending what the two do not have alike, and return that they can be switched."""
    if are_hashed_alike:
        rows = {*beside.unlike(work, ids, but=("updated", "own"))}
    else:
        rows = beside.all_ids(work, ids)
    has_chunks = work.row.chunks is not None
    noted = {chunk_owner(id) for id in rows} if has_chunks else rows
    note_written(work.connection, work.records, collection.name, noted)
    return True

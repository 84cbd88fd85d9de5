"""A plan, written: resolved once more, since another writer may have been there, then its rows."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InvalidItemError, InvalidVectorError, ModelMismatchError
from ..models import registry
from ..models.base import kinds
from ..tables.pending import note_written
from ..work.reference import retried
from . import parts, rows
from .calls import ask
from .items import hashes_of
from .plan import LOG, Plan, make
from .report import CHANGED, DELETED, Report
from .resolve import resolve, stored_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..keys import K
    from ..work.operation import Work
    from ..work.reference import Reference
    from .items import Item
    from .parts import Kept
    from .resolve import StoredRow


class Gate(Protocol):
    """What decides, in the transaction that writes a plan, which items are written."""

    def admit(self, work: Work, ids: list[str]) -> Mapping[str, str]:
        """Return which items are to be left alone, and why, and keep the others from others.

        Args:
            work: Of the transaction, in which nothing was read yet.
            ids: Of all items.
        """
        ...

    def settle(self, work: Work, ids: set[str]) -> None:
        """Do what belongs to the items that are in the collection as planned now."""
        ...


def apply(collection: Reference[K], plan: Plan[K]) -> Report:
    """Write what was planned, in one transaction. See `Collection.apply`."""
    if not isinstance(plan, Plan):
        raise TypeError(f"apply() takes a plan, which plan() returns, not {type(plan).__name__}")
    if plan.collection not in {collection.name, *(name for name, _ in collection.renamed)}:
        raise InvalidItemError(
            f"This plan is for the collection {plan.collection!r}, not {collection.name!r}"
        )
    if plan.contents:
        raise InvalidItemError(
            f"{len(plan.contents)} contents of this plan have no vector yet: call plan.embed()"
        )
    try:
        collection.check_model_id(plan.model_id)
    except ModelMismatchError:
        with collection.work() as work:
            row = collection.find(work)
            # Else one of the two is to take over from the other, or has.
            if row is None or plan.model_id not in collection.models_beside(work):
                raise
    return Report() if not plan.items else write(collection, plan, gives_way=True)


def log_batch(plan: Plan[Any], report: Report) -> None:
    """Write a line about a batch that was written to the log at DEBUG."""
    if LOG.isEnabledFor(logging.DEBUG):
        counts = report.embedded, report.reused, report.unchanged, len(report.skipped)
        LOG.debug(
            "batch in %r: %d items, %d embedded by %r, %d written without, %d unchanged, "
            "%d skipped, %.1f ms",
            plan.collection,
            sum(counts),
            counts[0],
            plan.model_id,
            *counts[1:],
            report.seconds * 1000,
        )


def write(
    collection: Reference[K],
    plan: Plan[K],
    *,
    gives_way: bool = False,
    skips: bool = False,
    gate: Gate | None = None,
    is_settled: bool = False,
    waits: bool = True,
) -> Report:
    """Read again and write, and return what was done.

    Args:
        collection: Where to.
        plan: What. All of it has a vector.
        gives_way: Leave rows alone that another writer changed or deleted since the plan was made.
            Else the last writer wins, and the model is called for what is missing by then.
        skips: Leave out what the model refuses by itself.
        gate: What decides, in the transaction that writes, which items are written.
        is_settled: Nothing can have changed since the plan was made: it need not be read again.
        waits: Wait for others who write to the collection. Else the gate leaves alone the items
            that others are at, and a transaction of our own is ended by what takes longer.
    """
    began, spent = perf_counter(), Report()
    while True:
        try:
            outcome = _write(
                collection, plan, gives_way=gives_way, gate=gate, is_settled=is_settled, waits=waits
            )
        except InvalidVectorError:  # a service that was wrong for once may be right again
            made = [item.content for item in plan.items if item.id in plan.new_ids]
            plan.runtime.forget(plan.model, made, "document")
            raise
        if outcome.is_switched:
            plan, outcome.missing = _anew(collection, plan, skips=skips)
        elif not outcome.missing:
            break
        if outcome.missing:
            LOG.warning(
                "another model took over %r meanwhile: it is called for %d items"
                if outcome.is_switched
                else "others changed rows of %r meanwhile: the model is called again for %d items",
                collection.name,
                len(outcome.missing),
            )
        contents = {item.key: item.content for item in outcome.missing}
        if contents:
            spent += plan.take(ask(plan.model, plan.runtime, contents, skips=skips))
        plan.new_ids |= {item.id for item in outcome.missing}
        spent += Report(skipped=plan.without_refused())
    written = plan.items_of(outcome.written) - outcome.skipped.keys()
    new, ids = plan.items_of(plan.new_ids), plan.items_of([item.id for item in plan.items])
    report = spent + Report(
        embedded=len(written & new),
        reused=len(written - new),
        unchanged=len(ids - written - outcome.skipped.keys()),
        skipped=tuple(
            (plan.keys.from_text(id), why) for id, why in sorted(outcome.skipped.items())
        ),
        seconds=perf_counter() - began,
    )
    log_batch(plan, report)
    return report


@dataclass
class _Outcome:
    """What came of one attempt to write."""

    missing: list[Item] = field(default_factory=list)
    """Items that need the model first; then nothing was written."""
    written: set[str] = field(default_factory=set)
    skipped: dict[str, str] = field(default_factory=dict)
    """By their ids the reasons."""
    is_switched: bool = False
    """Whether another model took over, which stood beside; then nothing was written."""


def _anew(collection: Reference[K], plan: Plan[K], *, skips: bool) -> tuple[Plan[K], list[Item]]:
    """Return the plan for the model that took over, and the items that it is needed for."""
    given: list[Item] = []
    left = {item.owner for item in plan.items}
    for item in plan.given:
        if item.id in left:
            hashed, key = hashes_of(collection, item.content)
            given.append(item._replace(content_hash=hashed, key=key))
    again = make(collection, given, force=plan.force, skips=skips, extra=plan.extra)
    again.stored, again.kept = plan.stored, plan.kept  # by which it gives way
    return again, [item for item in again.items if item.key in again.missing]


@retried
def _write(
    collection: Reference[K],
    plan: Plan[K],
    *,
    gives_way: bool,
    gate: Gate | None,
    is_settled: bool,
    waits: bool,
) -> _Outcome:
    """Write in one transaction, unless items need the model first."""
    outcome, accepted = _Outcome(), kinds(plan.model)
    row = plan.row
    is_settled = is_settled and row is not None and row.vector_bytes is not None
    # Others are to be kept out before what is written is read, and no sooner.
    with collection.work(write=not is_settled) as work:
        work.extra = plan.extra
        work.item = plan.items[0] if len(plan.items) == 1 else None
        if not waits and collection.sessions.owns_transactions:
            work.database.wait_briefly(work)
        if row is None or not is_settled:
            row = collection.find_or_create(work, plan.model_id)
        work.row = row
        if not registry.is_one_model(row.model_id, plan.model_id):
            if registry.canonical_id(plan.model_id) in collection.models_beside(work):
                outcome.is_switched = True
                return outcome
            raise ModelMismatchError(collection.name, row.model_id, plan.model_id)
        parts.check_chunks(work, plan.chunks)
        owners = sorted(plan.items_of([item.id for item in plan.items]))
        if plan.chunks is not None and waits:
            work.database.keep_items(work, owners)
        if gate:
            outcome.skipped |= gate.admit(work, owners)
        elif gives_way:
            work.database.keep_rows(work, [item.id for item in plan.items])
        if gate or gives_way or plan.chunks is not None:
            work.looked = None  # it was read before these were locked
        stored = plan.stored if is_settled else stored_rows(work, plan.items)
        kept = plan.kept if is_settled else parts.kept_parts(work, stored)
        left = _moved(plan, work, stored, kept, outcome) if gives_way else ()
        items = plan.items
        if left := {*left, *outcome.skipped}:
            items = [item for item in items if item.owner not in left]
        items = parts.compared(work, items, stored, kept)
        todo = resolve(work, items, stored, plan.vectors, accepted, force=plan.force)
        if todo.missing:
            outcome.missing = todo.missing
            return outcome
        new = {item.id for item in items} - stored.keys() if gives_way or gate else ()
        changed = [] if plan.chunks is None else parts.changed(items, todo, kept)
        given = parts.given_parts(changed)
        parts.before_rows(work, given, todo.rows)
        is_in_doubt = rows.write(work, todo, new)
        parts.write(work, given, kept)
        outcome.written |= {item.id for item in changed}
        if is_in_doubt:
            collection.existing(work)  # read again: it has vectors now
            again = stored_rows(work, items)
            kept = parts.kept_parts(work, again)
            doubtful = [item for item in items if item.id in new]
            _give_way(plan, work, doubtful, again, kept, outcome)
        outcome.written |= {row["id"] for row in todo.rows + todo.changes}
        if gate:
            gate.settle(work, {*owners} - outcome.skipped.keys())
        elif gives_way or collection.sessions.owns_transactions:
            _note_written(collection, work, plan.items_of(outcome.written))
    return outcome


def _note_written(collection: Reference[Any], work: Work, ids: set[str]) -> None:
    """Let `refresh` look again at followed rows that were written while nothing kept them.

    Their texts were read before the model ran. Since then they may have changed, and a refresher
    may have been there.
    """
    if not ids or not collection.is_declared:
        return
    followed = work.database.follows(work.connection, work.records)
    if any(each.collection == collection.name for each in followed):
        note_written(work.connection, work.records, collection.name, ids)


def _moved(
    plan: Plan[Any],
    work: Work,
    stored: dict[str, StoredRow],
    kept: dict[str, Kept],
    outcome: _Outcome,
) -> set[str]:
    """Return the ids of items whose rows are others than when the plan was made."""
    moved = {
        item.owner
        for item in plan.items
        if _known(stored.get(item.id)) != _known(plan.stored.get(item.id))
        or kept.get(item.id) != plan.kept.get(item.id)
    }
    items = [item for item in plan.items if item.owner in moved]
    _give_way(plan, work, items, stored, kept, outcome)
    return moved


def _known(row: StoredRow | None) -> StoredRow | None:
    """Return what is known of a row whatever was looked for."""
    return row and row._replace(vector_bytes=None)


def _give_way(
    plan: Plan[Any],
    work: Work,
    items: list[Item],
    stored: dict[str, StoredRow],
    kept: dict[str, Kept],
    outcome: _Outcome,
) -> None:
    """Skip those of the items that another writer's rows are not what was planned."""
    items = parts.compared(work, items, stored, kept)
    todo = resolve(work, items, stored, plan.vectors, kinds(plan.model))
    as_planned = todo.unchanged
    if plan.chunks is not None:
        as_planned = as_planned - {item.id for item in parts.changed(items, todo, kept)}
    there = plan.items_of(stored)
    for item in items:
        if item.id not in as_planned:
            outcome.skipped[item.owner] = CHANGED if item.owner in there else DELETED

"""Some rows of a source brought into a collection: read, embedded, and written if still so.

No order of events ends with an older text's vector in place of a newer one's, nor with one of a row
that is gone: what was read is read again in the transaction that writes, once others are kept out.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from socket import gaierror
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ..errors import (
    AuthenticationError,
    EmbeddingsError,
    InvalidItemError,
    InvalidVectorError,
    ModelError,
    QuotaError,
)
from ..models.base import at_most_own, prefixed
from ..values import is_storable
from ..writing import loaded, parts
from ..writing.apply import write
from ..writing.calls import calls_at_once
from ..writing.items import Item, hashes_of
from ..writing.plan import make
from ..writing.report import BUSY, CHANGED, DELETED, Report
from .pending import message_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from ..models.base import SupportsEmbedding
    from ..work.operation import Work
    from ..work.reference import Reference
    from ..writing.plan import Plan
    from .pending import Noted, Pending
    from .rows import Rows, SourceRow

_GIVEN_BACK = frozenset({BUSY, CHANGED, DELETED})
UNREACHABLE = frozenset({errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH})


def items_at_once(model: SupportsEmbedding, batch_size: int, concurrency: int | None = None) -> int:
    """Return how many items are embedded and written at once: as many as are in flight."""
    return at_most_own(model, batch_size) * calls_at_once(model, concurrency)


def items_of(
    collection: Reference[Any],
    model: SupportsEmbedding,
    rows: Rows,
    read: Mapping[str, SourceRow],
) -> list[Item]:
    """Return what was read of a source as items."""
    return [
        Item(
            id,
            row.text,
            *hashes_of(collection, prefixed(model, row.text)),
            row.metadata,
            rows.store,
        )
        for id, row in read.items()
    ]


def unchanged(
    collection: Reference[Any],
    work: Work,
    model: SupportsEmbedding,
    rows: Rows,
    read: Mapping[str, SourceRow],
    errors: dict[str, Exception],
) -> set[str]:
    """Return the ids of what was read that the collection has just as it is.

    Args:
        collection: Of what is compared.
        work: That reads.
        model: Of the collection.
        rows: Where from.
        read: What was read of them.
        errors: Takes why single rows cannot be items, by their ids.
    """
    items = items_of(collection, model, rows, read)
    return parts.unchanged(collection, work, model, items, errors)


def may_be_of_a_row(collection: Reference[Any], error: Exception) -> bool:
    """Return whether reading may have failed because of a row: a driver or a type raised."""
    if isinstance(error, DBAPIError):
        database = collection.database
        return not (database.is_away(error) or database.was_kept_waiting(error))
    return not isinstance(error, EmbeddingsError)


def try_none(collection: Reference[Any], rows: Rows, error: Exception) -> None:
    """Raise an error of reading rows unless it is because of one of them."""
    if not may_be_of_a_row(collection, error):
        raise error
    try:
        with collection.work() as work:
            rows.try_none(work)
    except Exception:  # noqa: BLE001  of a transaction that has failed it says less
        raise error from None


def read_rows(
    collection: Reference[Any], rows: Rows, ids: Iterable[str], errors: dict[str, Exception]
) -> dict[str, SourceRow]:
    """Return some items by their ids, those that are there, in transactions of its own.

    Args:
        collection: That is to hold them.
        rows: Where from.
        ids: Of the items.
        errors: Takes why single rows cannot be read, or be items, by their ids.
    """
    found: dict[str, SourceRow] = {}
    groups, is_tried = [sorted(ids)], False
    while groups:
        group = groups.pop()
        try:
            with collection.work() as work:
                found |= rows.read(work, group, errors)
        except Exception as error:  # noqa: BLE001  a type of a host's may raise anything
            if not is_tried:
                try_none(collection, rows, error)
                is_tried = True
            if len(group) > 1:
                groups += halves(group)
                continue
            said = message_of(error)
            errors[group[0]] = InvalidItemError(f"item {group[0]!r} cannot be read: {said}")
            errors[group[0]].__cause__ = error
    return found


@dataclass(frozen=True)
class StillSo:
    """Admits the items that are as they were read, which nobody else is changing just now.

    Attributes:
        collection: Where to.
        rows: Where from.
        read: What was read of them.
        pending: What is taken off of the items that were written; None for nothing.
        noted: Of the items, before they were read.
    """

    collection: Reference[Any]
    rows: Rows
    read: Mapping[str, SourceRow]
    pending: Pending | None = None
    noted: Noted | None = None

    def admit(self, work: Work, ids: list[str]) -> dict[str, str]:
        """Return which items are to be left alone, and why; keep the others from other writers."""
        free = self.rows.keep(work, ids)
        reasons = dict.fromkeys({*ids} - free, BUSY)
        if self.pending is not None and self.noted is not None:
            latest = self.pending.are_all(work, {id: self.noted[id] for id in free})
            reasons |= dict.fromkeys(free - latest, CHANGED)
            free = latest
        got = parts.free_items(work, free)
        reasons |= dict.fromkeys(free - got, BUSY)
        try:
            now = self.rows.read(work, got, {})
        except Exception as error:
            if isinstance(error, DBAPIError) or not may_be_of_a_row(self.collection, error):
                raise
            now = {}  # which of them it is shows when they are read again
        return reasons | {id: CHANGED for id in got if now.get(id) != self.read[id]}

    def settle(self, work: Work, ids: set[str]) -> None:
        """Take off what was noted of items that are up to date."""
        if self.pending is not None and self.noted is not None:
            self.pending.take_off(work, self.noted, ids)


def bring(
    collection: Reference[Any],
    rows: Rows,
    read: Mapping[str, SourceRow],
    embed: Callable[[Plan[Any]], Report],
    *,
    skips: bool = False,
    pending: Pending | None = None,
    noted: Noted | None = None,
) -> Report:
    """Embed and write what of some items is new or differs, and return what was done.

    Args:
        collection: Where to.
        rows: Where from.
        read: What was read of them, after what is pending was noted.
        embed: What calls the model for a plan. No transaction of ours is open then. If it fails,
            what has a vector by then is written.
        skips: Leave out what the model refuses by itself.
        pending: What is taken off of the items that are up to date then; None for nothing.
        noted: Of the items.

    Returns:
        The report. In `skipped` are those that another writer was at, see `parted`, and those that
        the model refuses.
    """
    began = perf_counter()
    with collection.work() as work:
        model = collection.model_of(collection.find(work))
    items = items_of(collection, model, rows, read)
    planned = make(collection, items, force=False, skips=skips)
    gate = StillSo(collection, rows, read, pending, noted)
    report = Report(skipped=planned.without_refused())
    if planned.missing:
        try:
            made = embed(planned)
        except Exception:
            planned.keep_embedded()
            if planned.new_ids:
                _write(collection, planned, gate, skips=skips)
            raise
        report += Report(skipped=made.skipped, requests=made.requests, tokens=made.tokens)
    if planned.new_ids or planned.written_ids or planned.has_new_words or pending is not None:
        report += _write(collection, planned, gate, skips=skips)
    else:
        report += Report(unchanged=len(planned.unchanged_ids))
    return replace(report, seconds=perf_counter() - began)


def bring_apart(
    collection: Reference[Any],
    rows: Rows,
    read: Mapping[str, SourceRow],
    embed: Callable[[Plan[Any]], Report],
    errors: dict[str, Exception],
    *,
    pending: Pending | None = None,
    noted: Noted | None = None,
) -> Report:
    """Embed and write as `bring`; what fails by itself is found, and the others go on.

    Args:
        collection: Where to.
        rows: Where from.
        read: What was read of them.
        embed: What calls the model for a plan.
        errors: Takes by their ids the errors of items that cannot be embedded.
        pending: As in `bring`.
        noted: As in `bring`.

    Raises:
        Exception: One that is about no single items, such as that the service gives no answer.
    """
    report = Report()
    groups = [dict(read)] if read else []
    while groups:
        group = groups.pop()
        try:
            report += bring(collection, rows, group, embed, pending=pending, noted=noted)
        except Exception as error:
            concerned = _concerned(collection, error, group)
            if not concerned:
                raise
            is_of_model = isinstance(error, InvalidVectorError)  # which says who is concerned
            if len(concerned) == len(group) > 1 and not is_of_model:
                # Which of them it is shows when they are apart.
                groups += [{id: group[id] for id in part} for part in halves([*group])]
                continue
            errors |= dict.fromkeys(concerned, error)
            if rest := {id: row for id, row in group.items() if id not in concerned}:
                groups.append(rest)
    return report


def is_of_all(errors: Mapping[str, Exception], ids: Collection[str]) -> bool:
    """Return whether errors are what is made of whatever is given, and not of some alone."""
    is_known = any(
        isinstance(error, EmbeddingsError) and not isinstance(error, InvalidVectorError)
        for error in errors.values()
    )
    return len(errors) == len(ids) > 1 and not is_known


def _concerned(
    collection: Reference[Any], error: Exception, group: Mapping[str, SourceRow]
) -> set[str]:
    """Return which items an error is about; none if it is about no single ones."""
    if not isinstance(error, EmbeddingsError):
        is_of_none = isinstance(error, SQLAlchemyError) or _reaches_nobody(error)
        return set() if is_of_none else {*group}
    ids = {id for key in error.ids if (id := collection.id_of(key)) in group}
    is_service = isinstance(error, ModelError) and not error.positions
    if isinstance(error, AuthenticationError | QuotaError) or is_service:
        return set()
    return ids


def _reaches_nobody(error: Exception) -> bool:
    """Return whether it is the system's, of a connection: a model of the host's own raises it."""
    if isinstance(error, ConnectionError | TimeoutError | gaierror):
        return True
    return isinstance(error, OSError) and error.errno in UNREACHABLE


def halves(ids: list[str]) -> list[list[str]]:
    """Return both halves of some ids, the first one last, from where it is taken."""
    middle = len(ids) // 2
    return [ids[middle:], ids[:middle]]


def _write(collection: Reference[Any], planned: Plan[Any], gate: StillSo, *, skips: bool) -> Report:
    """Write a plan, unless a lock is waited for too long."""
    try:
        return write(collection, planned, gate=gate, skips=skips, waits=False)
    except DBAPIError as error:
        if not was_kept_waiting(collection, error):
            raise
        left = dict.fromkeys((item.owner for item in planned.items), BUSY)
        return Report(skipped=left_alone(collection, left))


def remove(
    collection: Reference[Any],
    rows: Rows,
    ids: Iterable[str],
    *,
    pending: Pending | None = None,
    noted: Noted | None = None,
) -> Report:
    """Delete the vectors of rows that are gone, or are no items any more.

    Arguments as in `bring`, and what it returns too: in `skipped` are those that are there again,
    as changed, and those that another writer is at.
    """
    ids = {*ids}
    columns, count, left = collection.records.embeddings.c, 0, dict[str, str]()
    try:
        with collection.work(write=True) as work:
            if collection.sessions.owns_transactions:
                work.database.wait_briefly(work)
            if pending is not None and noted is not None:
                latest = pending.are_all(work, {id: noted[id] for id in ids})
                left |= dict.fromkeys(ids - latest, CHANGED)
            gone = ids - left.keys()
            has_row = collection.find_to_write(work) is not None
            strange = {id for id in gone if not is_storable(id)}  # nothing is stored under them
            if has_row:
                stored = gone - strange
                left |= dict.fromkeys(stored - parts.free_items(work, stored), BUSY)
            left |= dict.fromkeys(rows.there(work, gone - left.keys()), CHANGED)
            gone -= left.keys()
            if has_row:
                owners = parts.rows_of(work, gone - strange)
                is_gone = work.database.is_one_of(columns.id, sorted(owners))
                conditions = [columns.collection_id == work.row.id, is_gone]
                count = work.database.delete_rows(work, conditions)
                if work.row.chunks is not None:
                    count = len({*owners.values()})
                loaded.refresh(work)
            if pending is not None and noted is not None:
                pending.take_off(work, noted, gone)
    except DBAPIError as error:
        if not was_kept_waiting(collection, error):
            raise
        count, left = 0, dict.fromkeys(ids, BUSY)
    return Report(removed=count, skipped=left_alone(collection, left))


def was_kept_waiting(collection: Reference[Any], error: Exception) -> bool:
    """Return whether others were in the way of a transaction of our own: the same may work again.

    One of the caller's has failed, and is the caller's to begin again.
    """
    owns, database = collection.sessions.owns_transactions, collection.database
    return owns and isinstance(error, DBAPIError) and database.was_kept_waiting(error)


def parted(report: Report) -> tuple[Report, list[Any]]:
    """Return a report without the items that may be written the next time, and their keys."""
    others = tuple(pair for pair in report.skipped if pair[1] not in _GIVEN_BACK)
    given_back = [key for key, why in report.skipped if why in _GIVEN_BACK]
    return replace(report, skipped=others), given_back


def failed(
    collection: Reference[Any], errors: Mapping[str, Exception]
) -> tuple[tuple[Any, str], ...]:
    """Return what a report says of items that cannot be embedded."""
    key = collection.keys.key_noted
    return tuple((key(id), message_of(errors[id])) for id in sorted(errors))


def left_alone(
    collection: Reference[Any], reasons: Mapping[str, str]
) -> tuple[tuple[Any, str], ...]:
    """Return what a report says of items that were left alone, by their ids."""
    key = collection.keys.key_noted
    return tuple((key(id), reasons[id]) for id in sorted(reasons))

"""The rows that are pending: claimed by one refresher for a while, given back, taken off.

A row in the table says that a row of the host's was changed. Those of one id that are there when it
is claimed are *noted*, before the host's row is read. Only if these are still all that there are,
in the transaction that writes, is what was read the latest; then they are taken off.
"""

from __future__ import annotations

import logging
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from uuid import uuid4

from sqlalchemy import and_, case, delete, func, or_, select, true, update

from ..errors import EmbeddingsError
from ..models.base import batches
from ..tables.pending import pending_table
from ..tables.records import now
from ..values import is_storable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from sqlalchemy import ColumnElement, Select

    from ..work.operation import Work
    from ..work.reference import Reference

LOG = logging.getLogger("embeddings")
LEASE = 60  # seconds for which a claim holds, unless it is renewed
MOST_ATTEMPTS = 5  # to embed a row that fails by itself; then it is parked until it changes
PAUSES = (30, 120, 480, 1920)  # seconds before the next attempt
AT_ONCE = 500  # rows in one statement
SHOWN = 500  # characters of an error

Noted: TypeAlias = "dict[str, frozenset[int]]"
"""By stored ids, the numbers of their pending rows."""


class Failing(NamedTuple):
    """A row of the host's that cannot be embedded.

    Attributes:
        id: In the type of the collection's keys; where it is of none, as the trigger noted it.
        attempts: How often it was tried since it changed.
        error: What came of the latest attempt.
        is_parked: Whether it is tried no more before it changes.
    """

    id: Any
    attempts: int
    error: str
    is_parked: bool


class PendingState(NamedTuple):
    """What is pending of a collection.

    Attributes:
        items: Items whose vector is not up to date.
        oldest: Seconds since the oldest of these changes; None if there are none.
        failing: Of them those that could not be embedded.
    """

    items: int
    oldest: int | None
    failing: tuple[Failing, ...]


class Pending:
    """The pending rows of a collection, as one refresher sees them.

    On a database of its own transactions it claims; in a transaction of the caller's it only looks.
    """

    def __init__(self, collection: Reference[Any]) -> None:
        self._collection = collection
        self._worker = uuid4().hex
        self.claims = collection.sessions.owns_transactions
        """Whether other refreshers are kept from what this one works on."""
        self.may_hold = False
        """Whether something may be claimed, or is just being."""
        self._next = self._look_again = 0
        """Before this number nothing is claimed until the moment after which all is looked at."""

    # What there is

    def newest(self, work: Work) -> int:
        """Return the number of the latest change; 0 if none is pending."""
        columns = pending_table(work.records).c
        return int(work.run(select(func.max(columns.seq)).where(self._is_its(work))).scalar() or 0)

    def count(self, work: Work) -> int:
        """Return how many items are pending."""
        columns = pending_table(work.records).c
        count = select(func.count(func.distinct(columns.id))).where(self._is_its(work))
        return int(work.run(count).scalar_one())

    def state(self, work: Work) -> PendingState:
        """Return what is pending, for a person to look at."""
        columns = pending_table(work.records).c
        oldest = work.run(select(func.min(columns.since)).where(self._is_its(work))).scalar()
        rows = work.run(
            select(work.database.any_text(columns.id), columns.attempts, columns.error)
            .where(self._is_its(work), columns.error.is_not(None))
            .order_by(columns.seq)
        )
        latest = {id: (tried, error) for id, tried, error in rows}
        failing = [
            Failing(self._collection.keys.key_noted(id), abs(tried), error, tried >= MOST_ATTEMPTS)
            for id, (tried, error) in latest.items()
        ]
        age = None if oldest is None else max(0, now() - oldest)
        return PendingState(self.count(work), age, tuple(failing))

    def noted(self, work: Work, ids: Iterable[str]) -> Noted:
        """Return the pending rows of some ids; an id without any has none."""
        columns = pending_table(work.records).c
        found: dict[str, set[int]] = {id: set() for id in ids}
        for batch in batches(sorted(found), AT_ONCE):
            usual = [id for id in batch if is_storable(id)]
            is_one = [work.database.is_one_of(columns.id, usual)]
            is_one += [work.database.is_written(columns.id, id) for id in {*batch} - {*usual}]
            id = work.database.any_text(columns.id)
            rows = select(columns.seq, id).where(self._is_its(work), or_(*is_one))
            for seq, id in work.run(rows):
                found[id].add(seq)
        return {id: frozenset(seqs) for id, seqs in found.items()}

    # Claiming

    def claim(self, size: int, upto: int | None, without: Collection[str]) -> Noted:
        """Return the pending rows of items that nobody else works on, which are this one's now.

        Args:
            size: The most items.
            upto: Only changes up to this number; None for all.
            without: Ids that are left out.
        """
        collection = self._collection
        with collection.work() as work:  # which waits for nobody
            if work.run(self._claimable(work, upto, without).limit(1)).first() is None:
                return {}
            if not self.claims:
                return self.noted(work, self._ids(work, size, upto, without))
        self.may_hold = True
        with collection.work(write=True) as work:
            ids = self._ids(work, size, upto, without)
            noted = self.noted(work, ids)
            self._set(work, _all(noted), claimed_until=now() + LEASE, claimed_by=self._worker)
        return noted

    def claim_these(self, ids: Iterable[str]) -> Noted:
        """Return the pending rows of some ids, whoever works on them, which are this one's now."""
        self.may_hold = self.claims
        with self._collection.work(write=self.claims) as work:
            noted = self.noted(work, ids)
            if self.claims:
                self._set(work, _all(noted), claimed_until=now() + LEASE, claimed_by=self._worker)
        return noted

    def _ids(self, work: Work, size: int, upto: int | None, without: Collection[str]) -> list[str]:
        """Return the items that changed first, of those that nobody works on."""
        columns = pending_table(work.records).c
        claimable = self._claimable(work, upto, without, in_order=True)
        for _ in range(2):
            if now() >= self._look_again:
                oldest = work.run(select(func.min(columns.seq)).where(self._is_its(work))).scalar()
                self._next, self._look_again = oldest or 0, now() + LEASE
            rows = claimable.where(columns.seq >= self._next).order_by(columns.seq).limit(size)
            found = [*work.run(work.database.skipping_locked(rows))]
            if found:
                self._next = found[-1][0] + 1
                break
            self._look_again = 0
        return [id for _, id in found]

    def _claimable(
        self,
        work: Work,
        upto: int | None,
        without: Collection[str],
        *,
        in_order: bool = False,
    ) -> Select[Any]:
        """Return a SELECT of the items that nobody works on, each by its oldest row.

        Refreshers that claim at once compete for that row. If each locked another one of an item,
        they would wait for each other when they claim all its rows.

        Args:
            work: In whose transaction.
            upto: Only changes up to this number; None for all.
            without: Ids that are left out.
            in_order: The primary key is to serve it, and not the index of collections, by which all
                rows would be read and sorted for the first few. In a CASE, conditions are served by
                no index, and PostgreSQL expects that many rows meet them: it has no statistics of
                rows that it mostly saw none of.
        """
        table = pending_table(work.records)
        columns, others = table.c, table.alias("others")
        is_worked_on = and_(others.c.claimed_by.is_not(None), ~_is_over(others.c.claimed_until))
        is_older = and_(others.c.seq < columns.seq, *_may_be_tried(others.c))
        has_another = (
            select(others.c.seq)
            .where(
                others.c.collection == columns.collection,
                others.c.id == columns.id,
                or_(is_worked_on, is_older),
            )
            .offset(0)  # by which PostgreSQL asks the index for each row, and joins nothing
            .exists()
        )
        conditions: list[ColumnElement[bool]] = [self._is_its(work), *_may_be_tried(columns)]
        if upto is not None:
            conditions.append(columns.seq <= upto)
        if without:
            conditions.append(~work.database.is_one_of(columns.id, sorted(without)))
        if in_order:
            conditions = [case((and_(*conditions), true()))]
        rows = select(columns.seq, work.database.any_text(columns.id))
        return rows.where(*conditions, ~has_another)

    def renew(self) -> None:
        """Hold what is claimed for longer."""
        if not self.claims:
            return
        with self._collection.work(write=True) as work:
            until = {"claimed_until": now() + LEASE}
            table = pending_table(work.records)
            work.run(update(table).where(self._is_mine(work)).values(until))

    def give_back(self, noted: Mapping[str, frozenset[int]]) -> None:
        """Let others have at once what is left of a claim, all else of which is done."""
        if self.claims and _all(noted):
            self._look_again = 0
            with self._collection.work(write=True) as work:
                self._set(work, _all(noted), claimed_until=None, claimed_by=None)
        self.may_hold = False

    def give_all_back(self) -> None:
        """Let others have whatever is claimed, by a transaction that nobody saw end, too."""
        if not self.may_hold:
            return
        with self._collection.work(write=True) as work:
            none = {"claimed_until": None, "claimed_by": None}
            table = pending_table(work.records)
            work.run(update(table).where(self._is_mine(work)).values(none))

    def put_off(
        self,
        noted: Mapping[str, frozenset[int]],
        errors: Mapping[str, str],
        *,
        all_failed: bool = False,
    ) -> None:
        """Let items that cannot be embedded be tried after a pause; the log tells which no more.

        Args:
            noted: What was claimed.
            errors: Why, by their ids.
            all_failed: Whether none of these items is to blame. They are tried ever again, and
                their attempts are counted below zero.
        """
        if not errors:
            return
        parked: list[str] = []
        with self._collection.work(write=True) as work:
            before = self._attempts(work, [seq for id in errors for seq in noted[id]])
            for id, error in errors.items():
                # Of the latest change: those before it were tried with other texts.
                tried = min((before[seq] for seq in noted[id] if seq in before), default=0)
                attempts = 1 + max(-tried if all_failed else tried, 0)
                if attempts == MOST_ATTEMPTS and not all_failed:
                    parked.append(id)
                self._set(
                    work,
                    sorted(noted[id]),
                    attempts=-attempts if all_failed else attempts,
                    claimed_until=now() + PAUSES[min(attempts, len(PAUSES)) - 1],
                    claimed_by=None,
                    error=error[:SHOWN],
                )
        for id in sorted(parked):
            LOG.warning(
                "refresh of %r gives up %.200r after %d attempts, until it changes: %s",
                self._collection.name,
                self._collection.keys.key_noted(id),
                MOST_ATTEMPTS,
                errors[id][:SHOWN],
            )

    def _attempts(self, work: Work, seqs: list[int]) -> dict[int, int]:
        """Return the attempts of pending rows by their numbers; of those that are still there."""
        columns = pending_table(work.records).c
        found: dict[int, int] = {}
        for batch in batches(sorted(seqs), AT_ONCE):
            rows = select(columns.seq, columns.attempts).where(columns.seq.in_(batch))
            found |= {seq: attempts for seq, attempts in work.run(rows)}  # noqa: C416  a Row is no pair to mypy
        return found

    def have_failed(self, noted: Mapping[str, frozenset[int]]) -> bool:
        """Return whether one of some items failed before, when others did not."""
        columns = pending_table(self._collection.records).c
        with self._collection.work() as work:
            for batch in batches(_all(noted), AT_ONCE):
                rows = select(columns.seq).where(columns.seq.in_(batch), columns.attempts > 0)
                if work.run(rows.limit(1)).first() is not None:
                    return True
        return False

    # In the transaction that writes

    def are_all(self, work: Work, noted: Mapping[str, frozenset[int]]) -> set[str]:
        """Return the ids for which nothing else is pending than was noted, and keep the rows."""
        columns = pending_table(work.records).c
        kept: set[int] = set()
        for batch in batches(_all(noted), AT_ONCE):
            rows = select(columns.seq).where(columns.seq.in_(batch))
            locked = work.database.skipping_locked(rows.order_by(columns.seq))
            kept |= {*work.run(locked).scalars()}
        there = self.noted(work, noted)
        return {id for id, seqs in noted.items() if there[id] == seqs and seqs <= kept}

    def take_off(self, work: Work, noted: Mapping[str, frozenset[int]], ids: Iterable[str]) -> None:
        """Delete what was noted of some ids: they are up to date."""
        table = pending_table(work.records)
        for batch in batches(sorted(seq for id in ids for seq in noted[id]), AT_ONCE):
            work.run(delete(table).where(table.c.seq.in_(batch)))

    def _is_mine(self, work: Work) -> ColumnElement[bool]:
        claimed_by = pending_table(work.records).c.claimed_by
        return and_(self._is_its(work), claimed_by == self._worker)

    def _is_its(self, work: Work) -> ColumnElement[bool]:
        return pending_table(work.records).c.collection == self._collection.name

    def _set(self, work: Work, seqs: list[int], **values: Any) -> None:
        table = pending_table(work.records)
        for batch in batches(seqs, AT_ONCE):
            is_noted = table.c.seq.in_(batch)
            is_mine: ColumnElement[bool] = true()
            if values["claimed_by"] is None:
                is_mine = table.c.claimed_by == self._worker
            work.run(update(table).where(is_noted, is_mine).values(values))


def counts(work: Work) -> dict[str, tuple[int, int, int]]:
    """Return by the name of each collection its items that are pending, failing and parked."""
    columns = pending_table(work.records).c
    has_failed = columns.error.is_not(None)
    is_parked = and_(has_failed, columns.attempts >= MOST_ATTEMPTS)
    numbers = [
        func.count(func.distinct(counted))
        for counted in (
            columns.id,
            case((has_failed, columns.id)),
            case((is_parked, columns.id)),
        )
    ]
    rows = work.run(select(columns.collection, *numbers).group_by(columns.collection))
    return {name: (pending, failing, parked) for name, pending, failing, parked in rows}


def _may_be_tried(columns: Any) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that a row is neither claimed, nor put off, nor parked."""
    is_free = or_(columns.claimed_until.is_(None), _is_over(columns.claimed_until))
    return columns.attempts < MOST_ATTEMPTS, is_free


def _is_over(until: ColumnElement[int]) -> ColumnElement[bool]:
    """Return the condition that a claim or a pause is over, or of a clock that was ahead."""
    return or_(until < now(), until > now() + PAUSES[-1] + LEASE)


def message_of(error: Exception) -> str:
    """Return what may be shown of an error: of others than our own the kind and where it arose."""
    kind = type(error).__name__
    if isinstance(error, EmbeddingsError):
        return f"{kind}: {error}"
    frames = [*walk_tb(error.__traceback__)]
    if not frames:
        return kind
    frame, line = frames[-1]
    return f"{kind} at {Path(frame.f_code.co_filename).name}:{line}"


def _all(noted: Mapping[str, frozenset[int]]) -> list[int]:
    return sorted(seq for seqs in noted.values() for seq in seqs)

"""What is pending brought into a collection, batch by batch, by any number of refreshers.

For each batch: claim it, and note all pending rows of its items; then read the rows; call the model
with no transaction open; then write, in one short transaction, those for which nothing else is
pending and whose rows nobody else is changing. The others are given back.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from ..driver_errors import of_driver
from ..errors import InvalidItemError, InvalidQueryError, InvalidVectorError, ModelError
from ..models.base import batches, check_batch_size, check_positive
from ..searching.query import several
from ..writing.calls import check_on_error
from ..writing.progress import teller
from ..writing.report import Report
from .bring import (
    bring,
    bring_apart,
    failed,
    is_of_all,
    items_at_once,
    parted,
    read_rows,
    remove,
    was_kept_waiting,
)
from .pending import LEASE, PAUSES, Noted, Pending, message_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ..keys import Key
    from ..work.reference import Reference
    from ..writing.calls import OnError
    from ..writing.plan import Plan
    from ..writing.progress import Progress
    from .rows import Rows, SourceRow

LOG = logging.getLogger("embeddings")
POLL = 1.0  # seconds between two looks whether something is pending
STEP = 0.1  # seconds after which a wait looks whether it is to stop
MOST_TRIES = 6  # to write an item that others are at, before a refresh leaves it pending
SHORTEST, LONGEST = 0.05, 60.0  # seconds of a pause after which one is tried again


class Stop(Protocol):
    """What tells that a refresh is to end: `threading.Event`, `asyncio.Event`, or of one's own."""

    def is_set(self) -> bool:
        """Return whether it is."""
        ...


@dataclass
class _Refresh:
    """One refresh in progress."""

    collection: Reference[Any]
    rows: Rows
    pending: Pending
    batch_size: int
    concurrency: int | None
    raises: bool
    report: Report = field(default_factory=Report)
    tries: dict[str, int] = field(default_factory=dict)
    """How often an item was given back."""
    done: int = 0
    """Items that were brought in, taken off or put off."""
    refusal: Exception | None = None
    """What the model raised for all of a claim, of which none is tried again at once."""

    def size(self) -> int:
        """Return how many items are claimed at once."""
        return items_at_once(self.collection.read_model(), self.batch_size, self.concurrency)

    def batch(self, noted: Noted) -> set[str]:
        """Bring in what was claimed, and return the ids of what others were at, given back."""
        done: Report | None = None
        try:
            done = self._brought(noted)
        finally:
            if done is None:
                self.pending.give_back(noted)
        id_of = self.collection.keys.id_noted
        done, given_back = parted(done)
        kept = {id_of(key) for key in given_back}
        self.pending.give_back({id: noted[id] for id in kept})
        for id in kept:
            self.tries[id] = self.tries.get(id, 0) + 1
        self.done += len(noted) - len(kept)
        self.report += done
        return kept

    def _brought(self, noted: Noted) -> Report:
        collection, rows, pending = self.collection, self.rows, self.pending
        errors: dict[str, Exception] = {}
        if pending.claims:
            read = read_rows(collection, rows, noted, errors)
        else:  # in a transaction of the caller's, who is told
            with collection.work() as work:
                read = rows.read(work, noted, errors)
        report = Report()
        gone = noted.keys() - read.keys() - errors.keys()
        if gone:
            report += remove(collection, rows, gone, pending=pending, noted=noted)
        if pending.claims:
            report += bring_apart(
                collection, rows, read, self._embed, errors, pending=pending, noted=noted
            )
        elif read:
            report += bring(collection, rows, read, self._embed, pending=pending, noted=noted)
        id_of = collection.keys.id_noted
        refused, _ = parted(report)
        pending.put_off(noted, {id_of(key): why for key, why in refused.skipped})
        if errors:
            report += self._failed(noted, read, errors)
        return report

    def _embed(self, plan: Plan[Any]) -> Report:
        """Call the model, and hold the claim for as long as that takes."""
        runtime = self.collection.sessions.runtime
        on_error: OnError = "skip" if self.pending.claims and not self.raises else "raise"

        def embed() -> None:
            made.append(
                plan.embed(self.batch_size, concurrency=self.concurrency, on_error=on_error)
            )

        made: list[Report] = []
        if self.pending.claims:
            runtime.with_reports(embed, self.pending.renew, LEASE / 3)
        else:
            embed()
        return made[0]

    def _failed(
        self, noted: Noted, read: Mapping[str, SourceRow], errors: dict[str, Exception]
    ) -> Report:
        """Put off items that cannot be embedded; raise what the model makes of all it is given."""
        first = next(iter(errors.values()))
        if not self.pending.claims:
            raise first
        # Where all fail it may be the function, the model or its service, and these are mended.
        all_failed = is_of_all(errors, noted) and not self.pending.have_failed(noted)
        reasons = {id: message_of(error) for id, error in errors.items()}
        self.pending.put_off(noted, reasons, all_failed=all_failed)
        if self.raises:
            raise first
        by_model = {id: errors[id] for id in read if id in errors}
        if all_failed and is_of_all(by_model, read):
            self.refusal = first
            raise first
        return Report(skipped=failed(self.collection, errors))


def refresh(
    collection: Reference[Any],
    rows: Rows,
    *,
    batch_size: int,
    concurrency: int | None,
    limit: int | None,
    keys: Iterable[Key] | None,
    progress: Progress,
    on_error: OnError,
    forever: bool,
    stop: Stop | None,
    problems: Callable[[], list[str]] = list,
) -> Report:
    """Bring in what is pending. See `ModelCollection.refresh`; `problems` looks at the triggers."""
    check_batch_size(batch_size)
    if limit is not None:
        check_positive("limit", limit)
    if keys is not None:
        _check_alone(limit=limit, progress=progress, forever=forever, stop=stop)
    began = perf_counter()
    pending = Pending(collection)
    if forever and not pending.claims:
        raise InvalidItemError(
            "forever=True has many short transactions, and here one is open: give it an engine; in "
            "Django, call it outside atomic()"
        )
    raises = not check_on_error(on_error)
    run = _Refresh(collection, rows, pending, batch_size, concurrency, raises)
    try:
        if keys is not None:
            _these(run, collection.ids_of(several(keys, "keys"), "keys"))
        else:
            _all_pending(run, problems, limit, progress, forever=forever, stop=stop)
    except Exception:
        raise
    except BaseException:  # interrupted or cancelled, maybe while a claim was committed
        with suppress(Exception):
            pending.give_all_back()
        raise
    with collection.work() as work:
        count = pending.count(work)
    given_up = tuple(
        (collection.keys.key_noted(id), "others were changing it")
        for id, tries in run.tries.items()
        if tries >= MOST_TRIES
    )
    report = replace(run.report, skipped=run.report.skipped + given_up, pending=count)
    return replace(report, seconds=perf_counter() - began)


def _check_alone(**others: Any) -> None:
    """Do nothing if keys are given without other arguments, which are about what is pending.

    Raises:
        InvalidQueryError: One is given as well.
    """
    for name, value in others.items():
        if value is not None and value is not False:
            raise InvalidQueryError(
                f"keys= goes without {name}=: the rows of all keys are brought in, pending or not"
            )


def _these(run: _Refresh, ids: list[str]) -> None:
    """Bring in some items, pending or not."""
    for batch in batches(dict.fromkeys(ids), run.size()):
        todo, pause = {*batch}, SHORTEST
        for _ in range(MOST_TRIES):
            todo = run.batch(run.pending.claim_these(todo))
            if not todo:
                break
            run.collection.sessions.runtime.pause(pause)
            pause *= 2


def _all_pending(
    run: _Refresh,
    problems: Callable[[], list[str]],
    limit: int | None,
    progress: Progress,
    *,
    forever: bool,
    stop: Stop | None,
) -> None:
    """Bring in what was pending when this began, or, for ever, whatever is.

    It waits for others who are in the way and, for ever, for more to do, and for a service or a
    database that is not to be had, from its beginning on.
    """
    pending, collection = run.pending, run.collection
    tell = teller(progress, None)
    upto: int | None = None
    size = 0
    pause, failures = SHORTEST, 0
    while not _is_over(run, limit, stop):
        try:
            if not size:
                found = problems()
                if not forever:
                    with collection.work() as work:
                        upto = pending.newest(work)
                        tell = teller(progress, pending.count(work) if progress else None)
                size = run.size()
                _warn_of(collection.name, found)
            most = size if limit is None else min(size, limit - run.done)
            left = {id for id, tries in run.tries.items() if tries >= MOST_TRIES}
            noted = pending.claim(most, upto, left)
            kept = run.batch(noted) if noted else set()
        except Exception as error:
            failures += 1
            seconds = _seconds_after(run, error, failures, forever=forever)
            if seconds is None:
                raise
            _wait(collection, seconds, stop)
            continue
        failures = 0
        tell(run.done)
        if len(kept) < len(noted):
            pause = SHORTEST
        elif noted:
            _wait(collection, pause, stop)
            pause = min(2 * pause, LONGEST)
        elif forever:
            run.tries.clear()
            _wait(collection, POLL, stop)
            pause = SHORTEST
        else:
            return


def _warn_of(name: str, problems: list[str]) -> None:
    """Say in the log that changes may not be pending, if anything is wrong with the triggers."""
    if problems:
        LOG.warning(
            "refresh of %r may not see all changes: %s. Make the triggers by install(), or in a "
            "migration; sync() finds what was missed",
            name,
            "; ".join(problems),
        )


def _seconds_after(
    run: _Refresh, error: Exception, failures: int, *, forever: bool
) -> float | None:
    """Return how long to wait after so many failures in a row; None if it is to be raised."""
    collection = run.collection
    grown = 2.0 ** min(failures, 20)
    seconds = min(LONGEST, SHORTEST * grown)
    if was_kept_waiting(collection, error) and failures < MOST_TRIES:
        return seconds
    if not forever:
        return None
    if error is run.refusal:
        LOG.warning(
            "refresh of %r: the model takes nothing: %s", collection.name, message_of(error)
        )
        return seconds
    if isinstance(error, InvalidVectorError) and not run.raises:
        LOG.warning("refresh of %r: the vectors do not fit: %s", collection.name, message_of(error))
        return min(PAUSES[-1], POLL * grown)  # each attempt is paid
    if isinstance(error, ModelError) and error.is_retryable:
        LOG.warning("refresh of %r waits: %s", collection.name, message_of(error))
        return max(min(LONGEST, POLL * grown), error.retry_after or 0)
    if _is_away(run, error):
        kind = type(of_driver(error)).__name__
        LOG.warning("refresh of %r waits for the database: %s", collection.name, kind)
        collection.sessions.drop_broken()
        return seconds
    return None


def _is_away(run: _Refresh, error: Exception) -> bool:
    """Return whether the database is not to be had for some time."""
    collection = run.collection
    if collection.database.is_away(error):
        return True
    if not isinstance(error, OSError):
        return False
    try:  # asyncpg raises the system's error where it reaches no server; so may a model of its own
        with collection.work() as work:
            run.pending.newest(work)
    except OSError:
        return True
    return False


def _is_over(run: _Refresh, limit: int | None, stop: Stop | None) -> bool:
    return (limit is not None and run.done >= limit) or (stop is not None and stop.is_set())


def _wait(collection: Reference[Any], seconds: float, stop: Stop | None) -> None:
    """Wait so long, or until it is to stop."""
    collection.sessions.rest()
    until = perf_counter() + seconds
    while (left := until - perf_counter()) > 0 and not (stop is not None and stop.is_set()):
        collection.sessions.runtime.pause(min(left, STEP if stop is not None else left))

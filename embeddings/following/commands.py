"""What the commands do with collections that follow rows: check, sync, refresh."""

from __future__ import annotations

import importlib
import shlex
import signal
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import BindingError, DoesNotExist, ModelMismatchError
from ..work.row import shown_chunks
from .source import ModelCollection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import FrameType, ModuleType

    from ..collection import Collection
    from ..tables.records import Records
    from ..writing.calls import OnError
    from ..writing.progress import Progress
    from ..writing.report import Report
    from .pending import PendingState
    from .refresh import Stop

PROGRAM = "embeddings"
SHOWN = 5  # ids, and reasons, of a kind
NAME_IT = "name its declaration, as by --from MODULE:NAME"


class Followed(Protocol):
    """What the commands need of a collection that follows rows."""

    @property
    def name(self) -> str:
        """Unique in its tables."""

    @property
    def records(self) -> Records:
        """Which tables."""

    def sync(
        self,
        database: Any,
        /,
        *,
        prune: bool = ...,
        allow_empty: bool = ...,
        dry_run: bool = ...,
        progress: Progress = ...,
        on_error: OnError = ...,
    ) -> Report:
        """Compare every row with the collection."""

    def refresh(
        self,
        database: Any,
        /,
        *,
        limit: int | None = ...,
        progress: Progress = ...,
        forever: bool = ...,
        stop: Stop | None = ...,
    ) -> Report:
        """Embed what is pending."""

    def pending(self, database: Any, /) -> PendingState:
        """Return what is pending."""

    def collection(self, database: Any, /) -> Collection[Any]:
        """Return the collection itself."""

    def reembed(self, database: Any, model: str, /, *, progress: Progress = ...) -> Report:
        """Embed every row by another model."""

    def back(self, database: Any, /, *, progress: Progress = ...) -> Report:
        """Let it be of the model before."""

    def drop_previous(self, database: Any, /) -> bool:
        """Delete the vectors of the model before."""

    def trigger_problems(self, database: Any, /) -> list[str]:
        """Return what of the triggers is not as declared."""


def check(
    database: Any, collections: Iterable[Followed], program: str = PROGRAM
) -> tuple[str, bool]:
    """Return what differs, in lines, and whether nothing does. Reads only, and calls no model.

    Args:
        database: What the collections take as their first argument.
        collections: These.
        program: What one types before the name of a command.
    """
    lines: list[str] = []
    is_good = True
    for collection in collections:
        if models := other_model(collection, database):
            lines.append(of_another_model(collection.name, *models, program))
            is_good = False
        if settings := other_chunks(collection, database):
            lines.append(of_other_chunks(collection.name, *settings))
            is_good = False
        try:
            audit = collection.sync(database, dry_run=True, on_error="skip")
        except ModelMismatchError:  # it names a model that it cannot be read with yet
            continue
        pending = collection.pending(database)
        problems = collection.trigger_problems(database)
        found = {"stale": audit.stale, "missing": audit.missing, "orphaned": audit.orphaned}
        counts = [f"{len(ids):,} {what}" for what, ids in found.items()]
        lines.append(f"{collection.name}: {', '.join(counts)}, {pending.items:,} pending")
        lines += [f"  {what}: {_shown(ids)}" for what, ids in found.items() if ids]
        if pending.oldest is not None:
            lines.append(f"  the oldest change is {pending.oldest:,} s old")
        for failing in pending.failing[:SHOWN]:
            when = "parked" if failing.is_parked else f"{failing.attempts} attempts"
            lines.append(f"  {failing.id!r} cannot be embedded ({when}): {failing.error}")
        lines += _left(audit)
        lines += [f"  triggers: {problem}" for problem in problems]
        is_good &= not any(found.values()) and not audit.skipped and not problems
    return "\n".join(lines), is_good


def other_model(collection: Followed, database: Any) -> tuple[str, str] | None:
    """Return the model that a collection has and the one that it is to have, if they differ."""
    reference = collection.collection(database).reference
    with reference.work() as work:
        return reference.other_model(work)


def other_chunks(collection: Followed, database: Any) -> tuple[str | None, str] | None:
    """Return how a collection's texts are cut and how they are to be, if that is not the same."""
    reference = collection.collection(database).reference
    with reference.work() as work:
        return reference.other_chunks(work)


def of_other_chunks(name: str, stored: str | None, wanted: str) -> str:
    """Return what to say of a collection whose texts are cut otherwise than they are to be."""
    return (
        f"{name} has {shown_chunks(stored)}, and its declaration says {shown_chunks(wanted)}. "
        "Nothing is embedded until they agree: declare it as it was or under another name, or "
        "delete its items, by delete_items(ids()) of its collection in Python, and sync"
    )


def of_another_model(
    name: str, stored: str, wanted: str, program: str, *, is_undeclared: bool = False
) -> str:
    """Return what to say of a collection that has another model than it is to have.

    Args:
        name: Of the collection.
        stored: The id of the model that it has.
        wanted: The id of the other one.
        program: What one types before the name of a command.
        is_undeclared: Whether it follows rows, and its declaration is not known here.
    """
    lacking = f"Its texts are those of rows: {NAME_IT}. " if is_undeclared else ""
    return (
        f"{name} has the model {stored!r}, and its declaration or the settings say {wanted!r}. "
        f"{lacking}To embed it anew: {program} reembed {shlex.quote(name)} {shlex.quote(wanted)}"
    )


def sync(
    database: Any,
    collections: Iterable[Followed],
    *,
    prune: bool = True,
    allow_empty: bool = False,
    progress: Progress = None,
) -> tuple[str, bool]:
    """Bring in what differs; return what was done, and whether that is all.

    Arguments as in `check` and `ModelCollection.sync`.
    """
    lines: list[str] = []
    is_good = True
    with ended_by_signals():
        for collection in collections:
            report = collection.sync(
                database,
                prune=prune,
                allow_empty=allow_empty,
                progress=progress,
                on_error="skip",
            )
            lines.append(done(collection.name, report))
            is_good &= not report.skipped
    return "\n".join(lines), is_good


def refresh(
    database: Any,
    collections: Sequence[Followed],
    *,
    limit: int | None = None,
    forever: bool = False,
    progress: Progress = None,
) -> tuple[str, bool]:
    """Embed what is pending; return what was done, and whether no row was put off.

    Arguments as in `check` and `ModelCollection.refresh`. SIGINT (Ctrl-C) and SIGTERM end it
    after the batch that it is at.
    """
    stop = threading.Event()
    options: dict[str, Any] = {
        "limit": limit,
        "progress": progress if len(collections) == 1 else None,
        "forever": forever,
    }
    with ended_by_signals(stop):
        if forever:  # none of them ends before the others
            reports = _side_by_side(database, collections, stop, options)
        else:  # in the caller's thread, which may have a transaction of its own
            reports = [
                collection.refresh(database, stop=stop, **options) for collection in collections
            ]
    pairs = zip(collections, reports, strict=True)
    lines = [done(collection.name, report) for collection, report in pairs]
    return "\n".join(lines), not any(report.skipped for report in reports)


def _side_by_side(
    database: Any, collections: Sequence[Followed], stop: threading.Event, options: dict[str, Any]
) -> list[Report]:
    """Refresh each in a thread of its own; one that fails ends the others."""
    with ThreadPoolExecutor(len(collections) or 1) as pool:
        running = [
            # Where a framework keeps its settings.
            pool.submit(
                copy_context().run, partial(collection.refresh, database, stop=stop, **options)
            )
            for collection in collections
        ]
        try:
            wait(running, return_when=FIRST_EXCEPTION)
        finally:
            if any(each.done() and each.exception() for each in running):
                stop.set()
    return [each.result() for each in running]


@contextmanager
def ended_by_signals(stop: threading.Event | None = None) -> Iterator[None]:
    """Run the block, and let SIGINT and SIGTERM set the event; without one, interrupt the block.

    The second signal interrupts in any case. Only the main thread gets signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _: FrameType | None) -> None:
        if stop is None or stop.is_set():
            raise KeyboardInterrupt(signal.Signals(number).name)
        stop.set()

    before = {each: signal.signal(each, handle) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def chosen(collections: Sequence[Followed], names: Sequence[str]) -> list[Followed]:
    """Return the collections of some names, or all.

    Raises:
        BindingError: There are none.
        DoesNotExist: None has such a name.
    """
    if not collections:
        raise BindingError(
            "There is no collection that follows rows here: the program takes them by "
            "--from MODULE:NAME, Flask's extension by collections="
        )
    known = {collection.name for collection in collections}
    for name in names:
        if name not in known:
            raise DoesNotExist(f"No collection {name!r} is declared; there are {sorted(known)}")
    if not names:
        return list(collections)
    return [collection for name in names for collection in collections if collection.name == name]


def declared(places: Iterable[str]) -> list[ModelCollection[Any]]:
    """Return the collections at places such as `app.search:articles`, or all of a module.

    Args:
        places: `module:name`, where the name is that of a `ModelCollection` or of a list of them;
            or `module`.

    Raises:
        ImportError: There is no such module.
        BindingError: Nothing of that kind is there.
    """
    found: list[ModelCollection[Any]] = []
    for place in places:
        module_name, _, name = place.partition(":")
        module = importlib.import_module(module_name)
        given = _at(module, name) if name else [*vars(module).values()]
        each = given if isinstance(given, list | tuple) else [given]
        these = [one for one in each if isinstance(one, ModelCollection)]
        if not these:
            raise BindingError(f"There is no ModelCollection at {place!r}")
        found += [one for one in these if one not in found]
    return found


def _at(module: ModuleType, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _shown(ids: Sequence[Any]) -> str:
    shown = ", ".join(map(repr, ids[:SHOWN]))
    return shown if len(ids) <= SHOWN else f"{shown} and {len(ids) - SHOWN:,} more"


def done(name: str, report: Report) -> str:
    """Return what was done as a line, and the items that were left in lines below it."""
    counts = {
        "embedded": report.embedded,
        "reused": report.reused,
        "unchanged": report.unchanged,
        "removed": report.removed,
        "skipped": len(report.skipped),
        "pending": report.pending,
    }
    done = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return "\n".join([f"{name}: {done or 'nothing to do'}", *_left(report)])


def _left(report: Report) -> list[str]:
    """Return lines of the items that were left."""
    lines = [f"  {id!r} was left: {reason}" for id, reason in report.skipped[:SHOWN]]
    if len(report.skipped) > SHOWN:
        lines.append(f"  and {len(report.skipped) - SHOWN:,} more")
    return lines

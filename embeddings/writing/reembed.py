"""A collection embedded anew by another model, from its stored contents or those that are supplied.

The new vectors are made beside the old ones. An item's row there says when the old one was written;
so a row that changes meanwhile is known by that, and brought over again. Only within the second in
which it was written may a row change once more without showing: of rows that young what they were
is kept in memory, and those made of them say `PROVISIONAL` until all is done.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import chain
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import bindparam, select, update

from ..errors import DoesNotExist, EmbeddingsError, InvalidItemError
from ..keys import chunk_owner
from ..models.base import at_most_own, batches, check_batch_size, check_positive
from ..tables.records import now
from ..work.reference import retried
from . import beside, loaded
from .apply import write
from .calls import calls_at_once, check_on_error
from .items import Item, hashes_of, item_content
from .plan import make
from .progress import teller, told
from .report import CHANGED, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ..models.base import Content, SupportsEmbedding
    from ..work.operation import Work
    from ..work.reference import Reference
    from .beside import Pair, Source, Stamp
    from .calls import OnError
    from .plan import Plan
    from .progress import Progress

    Contents: TypeAlias = Callable[[list[Any]], Mapping[Any, Content | None] | Iterable[Any]]

LOG = logging.getLogger("embeddings")
YOUNG = 60  # seconds, far more than the clocks of two writers differ by
PROVISIONAL = 0  # seconds since 1970, as `updated` of a row whose time is not settled
MOST_PASSES = 100  # after which writers are taken to be too many
PAUSE = 0.05  # seconds before the next look, where others are in the way


def reembed(
    collection: Reference[Any],
    model: SupportsEmbedding | str,
    contents: Contents | None,
    *,
    batch_size: int,
    concurrency: int | None,
    progress: Progress,
    on_error: OnError,
) -> Report:
    """Embed everything anew, and switch. See `Collection.reembed`."""
    skips = _checked(contents, batch_size, concurrency, progress, on_error)
    pair = beside.begin(collection, model)
    if pair is None:
        return Report()
    return _brought_over(pair, contents, batch_size, concurrency, progress, skips=skips)


def back(
    collection: Reference[Any],
    contents: Contents | None,
    *,
    batch_size: int,
    concurrency: int | None,
    progress: Progress,
    on_error: OnError,
) -> Report:
    """Switch back, with what changed since. See `Collection.back`."""
    skips = _checked(contents, batch_size, concurrency, progress, on_error)
    pair = beside.previous(collection)
    return _brought_over(pair, contents, batch_size, concurrency, progress, skips=skips)


def _checked(
    contents: object,
    batch_size: int,
    concurrency: int | None,
    progress: Progress,
    on_error: OnError,
) -> bool:
    """Return whether items are left out on an error, before anything is made beside."""
    check_batch_size(batch_size)
    if concurrency is not None:
        check_positive("concurrency", concurrency)
    told(progress)
    if contents is not None and not callable(contents):
        raise TypeError(
            "contents= takes a function of a list of ids, which returns a dict of their contents, "
            f"not {type(contents).__name__}"
        )
    return check_on_error(on_error)


def _brought_over(
    pair: Pair,
    contents: Contents | None,
    batch_size: int,
    concurrency: int | None,
    progress: Progress,
    *,
    skips: bool,
) -> Report:
    began = perf_counter()
    alike, are_cut = beside.are_hashed_alike(pair), beside.are_cut(pair)
    run = _Run(pair, contents, batch_size, concurrency, skips, alike, are_cut)
    try:
        run.to_the_end(progress)
    except DoesNotExist:
        if not beside.has_switched(pair):
            raise
    return replace(run.report, seconds=perf_counter() - began)


@dataclass
class _Run:
    """One `reembed` in progress."""

    pair: Pair
    contents: Contents | None
    batch_size: int
    concurrency: int | None
    skips: bool
    are_hashed_alike: bool
    are_cut: bool
    report: Report = field(default_factory=Report)
    seen: dict[str, Stamp] = field(default_factory=dict)
    """What the rows were that were young when they were brought over."""
    left: dict[str, Stamp] = field(default_factory=dict)
    """What the rows were that are left out, on demand."""
    behind: list[str] | None = None
    """The ids of what differed when it was last looked; None before that."""

    def to_the_end(self, progress: Progress) -> None:
        """Bring over what differs, until nothing does, and switch."""
        current = self.pair.current
        total = self._look_ahead()
        tell = teller(progress, total)
        beside.have_same_settings(self.pair)
        for at in range(MOST_PASSES):
            self._pass(tell)
            beside.have_same_settings(self.pair)
            if self._looks_complete() and beside.switch(self.pair, self._is_complete):
                LOG.info("%r is of the model %r now", current.name, self.pair.model.model_id)
                _settle(current, self.seen)
                return
            LOG.debug("%r: others have written meanwhile, pass %d", current.name, at + 2)
            if not self.behind:
                current.sessions.runtime.pause(PAUSE)
        raise EmbeddingsError(
            f"Items of {current.name!r} are written faster than they can be embedded once more. "
            "What was embedded is kept: call it again when fewer are"
        )

    # What differs

    def _differs(self, id: str, row: Stamp, made: Stamp | None) -> bool:
        """Return whether a row has to be brought over, once more."""
        if self.left.get(id) == row:
            return False
        if made is None or made._replace(content_hash=None, updated=None) != row._replace(
            content_hash=None, updated=None
        ):
            return True
        # What is not stored may be supplied as another text than it was.
        is_stored = row.is_text or row.is_binary
        if self.are_hashed_alike and is_stored and row.content_hash != made.content_hash:
            return True
        if made.updated not in {None, PROVISIONAL}:
            return made.updated != row.updated
        return self.seen.get(id) != row

    def _looks_complete(self) -> bool:
        """Return what `_is_complete` does, note what is behind, and keep nobody from writing.

        Writers who were kept waiting would all come at once after it.
        """
        current, other = self.pair.current, self.pair.other
        self.behind = []
        for batch in batches(_unlike(current, other, self._but), beside.PAGE):
            self.behind += self._of_behind(_of_both(current, other, batch))
        return not self.behind

    def _is_complete(self, work: Work, ids: tuple[int, int]) -> bool:
        """Return whether no row has to be brought over: of what the database finds unlike."""
        unlike = batches(beside.unlike(work, ids, but=self._but), beside.PAGE)
        return not any(self._of_behind(beside.of_both(work, ids, batch)) for batch in unlike)

    @property
    def _but(self) -> tuple[str, ...]:
        """What the database is not to compare."""
        return () if self.are_hashed_alike else ("content_hash",)

    def _of_behind(self, found: beside.Page) -> list[str]:
        """Return the ids of rows of a page that have to be brought over, or to go."""
        return [*(found.other.keys() - found.current.keys()), *self._differing(found)]

    def _look_ahead(self) -> int:
        """Return how many items there are to bring over.

        Raises:
            InvalidItemError: Some have no content, and nothing supplies it.
        """
        items: set[str] = set()
        todo: set[str] = set()
        lacking: dict[str, None] = {}
        for found in self._compared():
            items |= {*map(self._item_of, found.current)}
            for id in self._differing(found):
                row = found.current[id]
                todo.add(self._item_of(id))
                if not (row.is_text or row.is_binary):
                    lacking[self._item_of(id)] = None
        if lacking and self.contents is None and not self.skips:
            raise self._without_content([*lacking])
        self.report += Report(unchanged=len(items - todo))
        return len(todo)

    def _item_of(self, id: str) -> str:
        """Return the stored id of the item that a row belongs to."""
        return chunk_owner(id) if self.are_cut else id

    def _differing(self, found: beside.Page) -> list[str]:
        """Return the ids of rows of a page that have to be brought over."""
        return [
            id for id, row in found.current.items() if self._differs(id, row, found.other.get(id))
        ]

    def _without_content(self, ids: list[str]) -> InvalidItemError:
        error = InvalidItemError(
            f"{len(ids)} items of {self.pair.current.name!r} have no stored content to embed. If "
            "it follows rows, these have the texts: name its declaration, on the command line by "
            "--from MODULE:NAME, in Python by ModelCollection.reembed(). Else give contents=, a "
            'function that returns the contents of ids, or leave them out with on_error="skip"'
        )
        error.add_ids(map(self.pair.current.keys.from_text, ids))
        return error

    # Brought over

    def _pass(self, tell: Callable[[int], None]) -> None:
        """Bring over what differs, and remove what is gone."""
        size = at_most_own(self.pair.model, self.batch_size) * calls_at_once(
            self.pair.model, self.concurrency
        )
        lacking: list[str] = []
        for found in self._compared():
            gone = found.other.keys() - found.current.keys()
            if gone:
                self.report += Report(removed=_remove(self.pair.other, self.pair.current, gone))
            todo = list(dict.fromkeys(map(self._item_of, self._differing(found))))
            for batch in batches(todo, size):
                lacking += self._bring(batch)
                tell(self.report.embedded + self.report.reused)
        if lacking:
            raise self._without_content(lacking)

    def _compared(self) -> Iterator[beside.Page]:
        """Yield the rows of both: all of them, or those that were behind, which takes less long."""
        current, other = self.pair.current, self.pair.other
        if self.behind is not None:
            for batch in batches(self.behind, beside.PAGE):
                yield _of_both(current, other, batch)
            return
        after: str | None = None
        while True:
            found, after = _page(current, other, after)
            yield found
            if after is None:
                return

    def _bring(self, ids: list[str]) -> list[str]:
        """Bring over some items, and return those that nobody has a content of."""
        sources = _read(self.pair.current, ids)
        contents = {id: each.content for id, each in sources.items() if each.content is not None}
        contents |= self._supplied([id for id in sources if id not in contents])
        lacking = [id for id in sources if id not in contents]
        if self.skips:
            self._leave(lacking, sources)
            self.report += Report(missing=self._keys(lacking))
            lacking = []
        items = [self._item(id, content, sources[id]) for id, content in contents.items()]
        if items:
            self._embed(items, sources)
        return lacking

    def _leave(self, ids: Iterable[str], sources: Mapping[str, Source]) -> None:
        for id in ids:
            self.left |= sources[id].rows

    def _keys(self, ids: Iterable[str]) -> tuple[Any, ...]:
        return tuple(map(self.pair.current.keys.from_text, ids))

    def _supplied(self, ids: list[str]) -> dict[str, Content]:
        """Return contents that the caller's function supplies, checked."""
        if not ids or self.contents is None:
            return {}
        current = self.pair.current
        found = dict(self.contents([*self._keys(ids)]))
        given = {current.id_of(key): content for key, content in found.items()}
        return {id: item_content(current.keys, id, given[id]) for id in ids if given.get(id)}

    def _item(self, id: str, content: Content, source: Source) -> Item:
        times = {row.updated for row in source.rows.values()}
        [updated] = times if len(times) == 1 else [None]
        if updated is None or not PROVISIONAL < updated < now() - YOUNG:
            self.seen |= source.rows
            updated = PROVISIONAL
        row = next(iter(source.rows.values()))
        hashed, key = hashes_of(self.pair.other, content)
        is_stored = row.is_text or row.is_binary
        return Item(id, content, hashed, key, row.metadata, is_stored, anew=True, updated=updated)

    def _embed(self, items: list[Item], sources: Mapping[str, Source]) -> None:
        """Call the model for items, with no transaction of ours open, and write them."""
        planned = make(self.pair.other, items, force=False, skips=self.skips)
        skipped = planned.without_refused()
        try:
            if planned.missing:
                made = planned.embed(
                    self.batch_size,
                    concurrency=self.concurrency,
                    on_error="skip" if self.skips else "raise",
                )
                skipped += made.skipped
                self.report += Report(requests=made.requests, tokens=made.tokens)
        except Exception:
            planned.keep_embedded()
            self._write(planned, sources)
            raise
        self._leave((self.pair.current.id_of(key) for key, _ in skipped), sources)
        self.report += Report(skipped=skipped)
        self._write(planned, sources)

    def _write(self, planned: Plan[Any], sources: Mapping[str, Source]) -> None:
        """Write what was planned; a host's own columns are of one value in each part."""
        pair = self.pair
        names = [column.name for column in beside.own_columns(pair.current.records.embeddings)]
        by_look: defaultdict[str, list[tuple[tuple[Any, ...], list[Item]]]] = defaultdict(list)
        for item in planned.items:
            own = next(iter(sources[item.owner].rows.values())).own
            # By look and by equality: values of JSON cannot be hashed, several may look alike, and
            # True equals 1.
            groups = by_look[repr(own)]
            same = next((items for values, items in groups if values == own), None)
            if same is None:
                groups.append((own, [item]))
            else:
                same.append(item)
        for own, items in chain.from_iterable(by_look.values()):
            extra = dict(zip(names, own, strict=True))
            one = replace(planned, items=items, extra=extra)
            written = write(pair.other, one, gate=_StillSo(pair, sources))
            self.report += replace(written, skipped=(), seconds=0.0)


@dataclass(frozen=True)
class _StillSo:
    """Admits the items whose rows are as they were read. The next pass has the others."""

    pair: Pair
    sources: Mapping[str, Source]

    def admit(self, work: Work, ids: list[str]) -> dict[str, str]:
        """Return which items have changed."""
        column = work.records.embeddings.c.id
        rows = [id for item in ids for id in self.sources[item].rows]
        current = self.pair.current.row_of(work)
        latest = beside.stamps(work, current.id, work.database.is_one_of(column, rows))
        reasons = {
            item: CHANGED
            for item in ids
            if any(latest.get(id) != row for id, row in self.sources[item].rows.items())
        }
        if beside.own_columns(work.records.embeddings):  # which a row that is there would keep
            kept = {*ids} - reasons.keys()
            self._make_room(work, [id for item in kept for id in self.sources[item].rows])
        return reasons

    def _make_room(self, work: Work, ids: Iterable[str]) -> None:
        columns = work.records.embeddings.c
        is_one = work.database.is_one_of(columns.id, sorted(ids))
        work.database.delete_rows(work, [columns.collection_id == work.row.id, is_one])
        loaded.refresh(work)

    def settle(self, work: Work, ids: set[str]) -> None:
        """Do nothing."""


@retried
def _page(
    current: Reference[Any], other: Reference[Any], after: str | None
) -> tuple[beside.Page, str | None]:
    with current.work() as work:
        return beside.page(work, _ids(work, current, other), after)


@retried
def _of_both(current: Reference[Any], other: Reference[Any], rows: list[str]) -> beside.Page:
    with current.work() as work:
        return beside.of_both(work, _ids(work, current, other), rows)


@retried
def _unlike(current: Reference[Any], other: Reference[Any], but: tuple[str, ...]) -> list[str]:
    with current.work() as work:
        return beside.unlike(work, _ids(work, current, other), but=but)


def _ids(work: Work, current: Reference[Any], other: Reference[Any]) -> tuple[int, int]:
    """Return the ids of the two collections, read now."""
    return current.existing(work).id, other.row_of(work).id


@retried
def _read(current: Reference[Any], items: list[str]) -> dict[str, Source]:
    with current.work() as work:
        current.existing(work)
        return beside.sources(work, items)


@retried
def _remove(other: Reference[Any], current: Reference[Any], ids: Iterable[str]) -> int:
    """Delete what is gone from the collection, and return how many these were."""
    columns = other.records.embeddings.c
    with other.work(write=True) as work:
        row = other.existing(work)
        is_one = work.database.is_one_of(columns.id, sorted(ids))
        there = select(columns.id).where(columns.collection_id == current.row_of(work).id, is_one)
        gone = {*ids} - {*work.run(there).scalars()}
        is_gone = work.database.is_one_of(columns.id, sorted(gone))
        count = work.database.delete_rows(work, [columns.collection_id == row.id, is_gone])
        loaded.refresh(work)
        return count


def _settle(current: Reference[Any], seen: Mapping[str, Stamp]) -> None:
    """Say of the rows that were young when they were written."""
    for batch in batches(sorted(seen), beside.PAGE):
        _settle_some(current, {id: seen[id] for id in batch})


@retried
def _settle_some(current: Reference[Any], seen: Mapping[str, Stamp]) -> None:
    columns = current.records.embeddings.c
    with current.work(write=True) as work:
        row = current.existing(work)
        statement = (
            update(current.records.embeddings)
            .where(
                columns.collection_id == row.id,
                columns.id == bindparam("of_id"),
                columns.updated == PROVISIONAL,
            )
            .values(updated=bindparam("at"))
        )
        rows = [{"of_id": id, "at": stamp.updated} for id, stamp in seen.items()]
        work.connection.execute(statement, rows)
        loaded.refresh(work, [*seen])

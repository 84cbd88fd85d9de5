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
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import bindparam, select, update

from ..errors import DoesNotExist, EmbeddingsError, InvalidItemError
from ..models.base import at_most_own, batches, check_batch_size
from ..tables.records import now
from ..work import retried
from . import beside, loaded, plan
from .calls import calls_at_once, check_on_error
from .items import Item, item_content, key_of
from .progress import teller
from .report import CHANGED, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ..models.base import Content, SupportsEmbedding
    from ..work import Reference, Work
    from .beside import Pair, Stamp
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
    check_batch_size(batch_size)
    skips = check_on_error(on_error)
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
    check_batch_size(batch_size)
    skips = check_on_error(on_error)
    pair = beside.previous(collection)
    return _brought_over(pair, contents, batch_size, concurrency, progress, skips=skips)


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
    run = _Run(pair, contents, batch_size, concurrency, skips, beside.are_hashed_alike(pair))
    try:
        run.to_the_end(progress)
    except DoesNotExist:
        with pair.current.work() as work:  # another process may have switched
            if pair.current.existing(work).model_id != pair.model.model_id:
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
    report: Report = field(default_factory=Report)
    seen: dict[str, Stamp] = field(default_factory=dict)
    """What the rows were that were young when they were brought over."""
    left: dict[str, Stamp] = field(default_factory=dict)
    """What the rows were that are left out, on demand."""

    def to_the_end(self, progress: Progress) -> None:
        """Bring over what differs, until nothing does, and switch."""
        current = self.pair.current
        total = self._look_ahead()
        tell = teller(progress, total)
        beside.have_same_settings(self.pair)
        for at in range(MOST_PASSES):
            self._pass(tell)
            beside.have_same_settings(self.pair)
            if beside.switch(self.pair, self._is_complete):
                LOG.info("%r is of the model %r now", current.name, self.pair.model.model_id)
                _settle(current, self.seen)
                return
            LOG.debug("%r: others have written meanwhile, pass %d", current.name, at + 2)
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

    def _is_complete(self, work: Work, ids: tuple[int, int]) -> bool:
        return not any(
            found.other.keys() - found.current.keys()
            or any(self._differs(id, row, found.other.get(id)) for id, row in found.current.items())
            for found in beside.pages(work, ids)
        )

    def _look_ahead(self) -> int:
        """Return how many items there are to bring over.

        Raises:
            InvalidItemError: Some have no content, and nothing supplies it.
        """
        total, same, after = 0, 0, None
        lacking: list[str] = []
        while True:
            found, after = self._page(after)
            for id, row in found.current.items():
                if not self._differs(id, row, found.other.get(id)):
                    same += 1
                    continue
                total += 1
                if not (row.is_text or row.is_binary):
                    lacking.append(id)
            if after is None:
                break
        if lacking and self.contents is None and not self.skips:
            raise self._without_content(lacking)
        self.report += Report(unchanged=same)
        return total

    def _without_content(self, ids: list[str]) -> InvalidItemError:
        error = InvalidItemError(
            f"{len(ids)} items of {self.pair.current.name!r} have no stored content to embed. Give "
            "contents=, a function that returns the contents of ids, or leave them out with "
            'on_error="skip"'
        )
        error.add_ids(map(self.pair.current.keys.from_text, ids))
        return error

    def _page(self, after: str | None) -> tuple[beside.Page, str | None]:
        return _page(self.pair.current, self.pair.other, after)

    # Brought over

    def _pass(self, tell: Callable[[int], None]) -> None:
        """Bring over what differs, and remove what is gone."""
        after: str | None = None
        size = at_most_own(self.pair.model, self.batch_size) * calls_at_once(
            self.pair.model, self.concurrency
        )
        lacking: list[str] = []
        while True:
            found, after = self._page(after)
            gone = found.other.keys() - found.current.keys()
            if gone:
                self.report += Report(removed=_remove(self.pair.other, self.pair.current, gone))
            todo = [
                id
                for id, row in found.current.items()
                if self._differs(id, row, found.other.get(id))
            ]
            for batch in batches(todo, size):
                lacking += self._bring(batch)
                tell(self.report.embedded + self.report.reused)
            if after is None:
                break
        if lacking:
            raise self._without_content(lacking)

    def _bring(self, ids: list[str]) -> list[str]:
        """Bring over some items, and return those that nobody has a content of."""
        pair = self.pair
        rows, stored = _read(pair.current, ids)
        wanted = [id for id in rows if id not in stored]
        contents = stored | self._supplied(wanted)
        lacking = [id for id in rows if id not in contents]
        if self.skips:
            self.left |= {id: rows[id] for id in lacking}
            self.report += Report(missing=self._keys(lacking))
            lacking = []
        items = [self._item(id, contents[id], row) for id, row in rows.items() if id in contents]
        if items:
            self._embed(items, rows)
        return lacking

    def _keys(self, ids: Iterable[str]) -> tuple[Any, ...]:
        return tuple(map(self.pair.current.keys.from_text, ids))

    def _supplied(self, ids: list[str]) -> dict[str, Content]:
        """Return contents that the caller's function supplies, checked."""
        if not ids or self.contents is None:
            return {}
        current = self.pair.current
        found = dict(self.contents([*self._keys(ids)]))
        given = {current.id_of(key): content for key, content in found.items()}
        return {
            id: item_content(id, given[id]) for id in ids if given.get(id) not in {None, "", b""}
        }

    def _item(self, id: str, content: Content, row: Stamp) -> Item:
        is_young = row.updated is None or not PROVISIONAL < row.updated < now() - YOUNG
        if is_young:
            self.seen[id] = row
        return Item(
            id,
            content,
            key_of(self.pair.other, content),
            row.metadata,
            store=row.is_text or row.is_binary,
            anew=True,
            updated=PROVISIONAL if is_young else row.updated,
        )

    def _embed(self, items: list[Item], rows: Mapping[str, Stamp]) -> None:
        """Call the model for items, with no transaction of ours open, and write them."""
        planned = plan.make(self.pair.other, items, force=False, skips=self.skips)
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
            self._write(planned, rows)
            raise
        refused = (self.pair.current.id_of(key) for key, _ in skipped)
        self.left |= {id: rows[id] for id in refused}
        self.report += Report(skipped=skipped)
        self._write(planned, rows)

    def _write(self, planned: Plan[Any], rows: Mapping[str, Stamp]) -> None:
        """Write what was planned; a host's own columns are of one value in each part."""
        pair, items = self.pair, [*planned.items()]
        names = [column.name for column in beside.own_columns(pair.current.records.embeddings)]
        parts: dict[tuple[Any, ...], list[Item]] = defaultdict(list)
        for item in items:
            parts[rows[item.id].own].append(item)
        for own, part in parts.items():
            extra = dict(zip(names, own, strict=True))
            one = replace(planned, lists=[part], extra=extra)
            written = plan.write(pair.other, one, gate=_StillSo(pair, rows))
            self.report += replace(written, skipped=(), seconds=0.0)


@dataclass(frozen=True)
class _StillSo:
    """Admits the items whose rows are as they were read. The next pass has the others."""

    pair: Pair
    rows: Mapping[str, Stamp]

    def admit(self, work: Work, ids: list[str]) -> dict[str, str]:
        """Return which items have changed."""
        column = work.records.embeddings.c.id
        current = self.pair.current.row_of(work)
        latest = beside.stamps(work, current.id, work.database.is_one_of(column, ids))
        reasons = {id: CHANGED for id in ids if latest.get(id) != self.rows[id]}
        if beside.own_columns(work.records.embeddings):  # which a row that is there would keep
            self._make_room(work, {*ids} - reasons.keys())
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
        return beside.page(work, (current.existing(work).id, other.row_of(work).id), after)


@retried
def _read(current: Reference[Any], ids: list[str]) -> tuple[dict[str, Stamp], dict[str, Content]]:
    """Return what rows are, and the contents that they have."""
    with current.work() as work:
        row = current.existing(work)
        is_one = work.database.is_one_of(work.records.embeddings.c.id, ids)
        found = beside.contents(work, row.id, is_one)
    rows = {id: stamp for id, (stamp, _) in found.items()}
    return rows, {id: content for id, (_, content) in found.items() if content is not None}


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

"""Every row of a source compared with a collection, and the differences brought in, or counted."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import chain
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Text, Uuid, and_, case, cast, false, func, literal, null, or_, select

from ..errors import InvalidItemError, InvalidQueryError
from ..keys import chunk_id, chunk_owner
from ..models.base import batches, check_batch_size
from ..searching import read
from ..writing import parts
from ..writing.calls import check_on_error
from ..writing.progress import teller
from ..writing.report import BUSY, Report
from ..writing.resolve import is_same_json
from .bring import (
    bring,
    bring_apart,
    failed,
    is_of_all,
    items_at_once,
    parted,
    read_rows,
    remove,
    try_none,
    unchanged,
)
from .rows import TextsInPython, in_sql

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, FromClause, Select

    from ..work.operation import Work
    from ..work.reference import Reference
    from ..writing.calls import OnError
    from ..writing.plan import Plan
    from ..writing.progress import Progress
    from .rows import Rows

LOG = logging.getLogger("embeddings")
PAGE = 10_000  # rows compared by one statement
UUID_DIGITS = 32


class Difference(NamedTuple):
    """An item that is not in the collection as its row is."""

    id: str
    is_there: bool


class Comparison:
    """One pass over all rows of a source, a page at a time, each in a transaction of its own."""

    def __init__(self, collection: Reference[Any], rows: Rows, progress: Progress) -> None:
        self._collection = collection
        self._rows = rows
        self._progress = progress
        self.seen = 0
        """Items of the source."""
        self.same = 0
        """Of them those that it has as they are."""
        self.without_text: list[str] = []
        """Rows of the source that are no items any more, where Python makes the texts."""
        self.errors: dict[str, Exception] = {}
        """Why rows cannot be read, or be items, by their ids."""

    def differences(self) -> Iterator[Difference]:
        """Yield the items that are missing, and those that may differ."""
        collection, rows = self._collection, self._rows
        after, tell = None, teller(self._progress, self._total())
        while True:
            with collection.work() as work:
                upto = rows.page_end(work, after, PAGE)
                is_usual = work.database.compares_rows(work) and not self._has_odd_keys(
                    work, after, upto
                )
            if is_usual:
                try:
                    with collection.work() as work:
                        count, found = self._page(work, after, upto)
                except Exception as error:  # noqa: BLE001  a type of a host's may raise anything
                    if not isinstance(error, InvalidItemError):
                        try_none(collection, rows, error)
                    is_usual = False
            if not is_usual:
                count, found = self._compared_apart(after, upto)
            self.seen += count
            self.same += count - len(found)
            tell(self.seen)
            yield from found
            if upto is None:
                return
            after = upto

    def _total(self) -> int | None:
        if not self._progress:
            return None
        with self._collection.work() as work:
            return self._rows.count(work)

    def _has_odd_keys(self, work: Work, after: Any, upto: Any) -> bool:
        """Return whether a page has UUIDs that are not written as SQLAlchemy writes them.

        Read as UUIDs they look like any other, unless they are none, which raises.
        """
        rows = self._rows
        written = work.database.written_key(rows.key)
        if not isinstance(rows.key.type, Uuid) or written.type is rows.key.type:
            return False
        usual = func.lower(func.replace(written, "-", ""))
        odd = rows.between(work, rows.all(literal(1)), after, upto).order_by(None)
        odd = odd.where(or_(written != usual, func.length(written) != UUID_DIGITS))
        return work.run_unheard(odd.limit(1)).first() is not None

    def _page(self, work: Work, after: Any, upto: Any) -> tuple[int, list[Difference]]:
        """Return how many items a page has, and those that differ."""
        rows, row = self._rows, self._collection.find(work)
        model = self._collection.model_of(row)
        prefix = getattr(model, "document_prefix", "")
        digest = None
        if not isinstance(rows.text, TextsInPython):
            text = literal(prefix) + rows.text if prefix else rows.text
            digest = work.database.text_hash(work, text, self._collection.content_hash)
        if digest is None:
            return self._compared_here(work, prefix, after, upto)
        count = PAGE if upto is not None else rows.count(work, after)
        if row is None:
            keys = work.run_unheard(rows.between(work, rows.all(rows.key), after, upto)).scalars()
            return count, [Difference(rows.keys.to_text(key), is_there=False) for key in keys]
        selected = rows.all(rows.key.label("key"), digest.label("digest"), *rows.columns)
        page = rows.between(work, selected, after, upto).order_by(None).subquery()
        key, hashed, *described = page.columns
        stored = self._stored(work, key, described)
        differing = (
            select(key, stored.is_there)
            .select_from(page.outerjoin(stored.tables, stored.is_its))
            .where(case((and_(*stored.same, stored.content_hash == hashed), False), else_=True))
            .order_by(key)
        )
        found = work.run_unheard(differing)
        return count, [Difference(rows.keys.to_text(key), bool(there)) for key, there in found]

    def _stored(
        self, work: Work, key: ColumnElement[Any], described: Sequence[ColumnElement[Any]]
    ) -> _Stored:
        """Return what is stored of rows, for a SELECT of them.

        Args:
            work: In whose transaction.
            key: The column of the keys in that SELECT.
            described: Those of the metadata.
        """
        database, stored, rows = work.database, work.records.embeddings.c, self._rows
        # Only of text: see `resolve`.
        is_text = stored.content_blob.is_(None)
        item = database.key_as_text(key)
        stored_id: ColumnElement[str] = item
        stored_hash: ColumnElement[Any] = stored.content_hash
        tables: FromClause = work.records.embeddings
        if work.row.chunks is not None:
            kept = database.parts(work)
            stored_id, stored_hash = item.concat(chunk_id("", 0)), kept.c.item_hash
            tables = work.records.embeddings.outerjoin(kept, kept.c.id == stored.id)
        same: list[ColumnElement[bool]] = [
            is_text if not rows.store else stored.content.is_not(None),
            database.has_length(stored.embedding, work.row.vector_bytes or 0),
        ]
        if isinstance(rows.metadata, dict):
            named = dict(zip(rows.metadata, map(in_sql, described), strict=True))
            same.append(database.has_metadata(stored.metadata, named))
        elif rows.metadata is not None:
            same.append(database.has_metadata(stored.metadata, described[0]))
        if work.row.chunks is not None:
            same.append(read.count_of_chunks(work, item) == kept.c.item_chunks)
        is_its = and_(stored.collection_id == work.row.id, stored.id == stored_id)
        return _Stored(tables, is_its, stored.id.is_not(None), stored_hash, same)

    def _compared_here(
        self, work: Work, prefix: str, after: Any, upto: Any
    ) -> tuple[int, list[Difference]]:
        """Return the same; the texts are hashed in Python, where the database cannot."""
        rows, content_hash = self._rows, self._collection.content_hash

        def beside(page: Select[Any]) -> Select[Any]:
            if not work.has_row:
                return page.add_columns(false(), null(), null())
            stored = self._stored(work, rows.key, rows.columns)
            metadata = cast(work.records.embeddings.c.metadata, Text)
            return page.outerjoin(stored.tables, stored.is_its).add_columns(
                stored.is_there,
                case((and_(*stored.same), stored.content_hash)),
                metadata if rows.metadata is None else null(),
            )

        count = 0
        differing: list[tuple[Any, bool]] = []
        for key, text, metadata, is_there, hashed, described in rows.compared(
            work, after, upto, beside
        ):
            if not text:
                if is_there:
                    self.without_text.append(rows.keys.to_text(key))
                continue
            count += 1
            try:
                is_same = hashed is not None and hashed == content_hash(prefix + text)
            except UnicodeEncodeError:  # which is said of the item when it is read
                is_same = False
            if is_same and metadata is not None:
                is_same = is_same_json(metadata, described)
            if not is_same:
                differing.append((key, is_there))
        return count, [
            Difference(rows.keys.to_text(key), there) for key, there in sorted(differing)
        ]

    def _compared_apart(self, after: Any, upto: Any) -> tuple[int, list[Difference]]:
        """Return the same, rows first, then what is stored.

        Where no statement may read both, and where one fails because of a row: which is found.
        """
        collection, rows = self._collection, self._rows
        with collection.work() as work:
            keys = rows.ids(work, after, upto)
        errors: dict[str, Exception] = {}
        found = read_rows(collection, rows, keys, errors)
        self.errors |= errors
        with collection.work() as work:
            row = collection.find(work)
            ids = [*found, *errors]
            if row is None:
                return len(ids), [Difference(id, is_there=False) for id in ids]
            model = collection.model_of(row)
            same = unchanged(collection, work, model, rows, found, {})  # told when it is brought
            there = parts.there(work, ids)
            if isinstance(rows.text, TextsInPython):
                missing = [id for id in keys if id not in found and id not in errors]
                self.without_text += sorted(parts.there(work, missing))
        return len(ids), [Difference(id, id in there) for id in ids if id not in same]


class _Stored(NamedTuple):
    """What is stored of the rows of a SELECT, which is joined with it."""

    tables: FromClause
    is_its: ColumnElement[bool]
    """The condition that what is stored is that of the row."""
    is_there: ColumnElement[bool]
    content_hash: ColumnElement[Any]
    """That is stored."""
    same: list[ColumnElement[bool]]
    """The conditions that all but the text and its hash is as it is to be."""


def sync(
    collection: Reference[Any],
    rows: Rows,
    *,
    prune: bool,
    allow_empty: bool,
    dry_run: bool,
    batch_size: int,
    progress: Progress,
    on_error: OnError,
) -> Report:
    """Bring in what differs and remove what is gone, or say what that is. See `Collection.sync`."""
    check_batch_size(batch_size)
    began, skips = perf_counter(), check_on_error(on_error)
    if dry_run:
        report = _audit(collection, rows, progress, skips=skips)
        return replace(report, seconds=perf_counter() - began)
    comparison = Comparison(collection, rows, progress)
    report, again = Report(), list[Any]()
    ids = (found.id for found in comparison.differences())
    size = items_at_once(collection.read_model(), batch_size)
    for batch in batches(ids, size):
        has_some = bool(comparison.same or report.embedded or report.reused)
        done = _brought(collection, rows, batch, batch_size, skips=skips, has_some=has_some)
        done, given_back = parted(done)
        report, again = report + done, again + given_back
        LOG.debug("sync of %r: %d rows compared", collection.name, comparison.seen)
    for batch in batches(again, size):
        report += _brought(
            collection, rows, collection.ids_of(batch, "ids"), batch_size, skips=skips
        )
    report += Report(unchanged=comparison.same)
    for lacking in _without_words(collection):
        for batch in batches(lacking, size):
            done = _brought(collection, rows, batch, batch_size, skips=True)
            report += replace(done, unchanged=0, skipped=())  # they are among those compared
    if prune and not comparison.seen and not allow_empty:
        refuse_empty(collection)
    elif prune:
        kept: list[Any] = []
        for gone in chain(batches(comparison.without_text, PAGE), _orphans(collection, rows)):
            done, others = parted(_removed(collection, rows, gone))
            report, kept = report + done, kept + others
        for batch in batches(dict.fromkeys(kept), size):
            report += _removed(collection, rows, collection.ids_of(batch, "ids"))
    return replace(report, seconds=perf_counter() - began)


def _brought(
    collection: Reference[Any],
    rows: Rows,
    ids: list[str],
    batch_size: int,
    *,
    skips: bool,
    has_some: bool = True,
) -> Report:
    def embed(plan: Plan[Any]) -> Report:
        return plan.embed(batch_size, on_error="skip" if skips else "raise")

    errors: dict[str, Exception] = {}
    read = read_rows(collection, rows, ids, errors)
    if not skips:
        _raise_first(collection, errors)
        return bring(collection, rows, read, embed)
    report = bring_apart(collection, rows, read, embed, errors)
    if not has_some and is_of_all({id: errors[id] for id in read if id in errors}, read):
        _raise_first(collection, errors)
    return report + Report(skipped=failed(collection, errors))


def _removed(collection: Reference[Any], rows: Rows, ids: list[str]) -> Report:
    """Remove items, and return what was done. Of rows that are there again nothing is said."""
    report = remove(collection, rows, ids)
    return replace(report, skipped=tuple(pair for pair in report.skipped if pair[1] == BUSY))


def _raise_first(collection: Reference[Any], errors: Mapping[str, Exception]) -> None:
    """Raise the error of the first of some items, with a note that says which it is of."""
    for id in sorted(errors):
        error = errors[id]
        if not hasattr(error, "__notes__"):
            error.add_note(f"It was raised for the row {collection.keys.key_noted(id)!r}")
        raise error


def _without_words(collection: Reference[Any]) -> Iterator[list[str]]:
    """Yield the ids that lack their words in the collection's text index, a page at a time."""
    columns = collection.records.embeddings.c
    with collection.work() as work:
        row = collection.find(work)
        if row is None or row.language is None or not work.database.count_without_words(work):
            return
    after = ""
    while True:
        with collection.work() as work:
            row = collection.existing(work)
            ids = select(columns.id).where(columns.collection_id == row.id, columns.id > after)
            page = [*work.run(ids.order_by(columns.id).limit(PAGE)).scalars()]
            if not page:
                return
            lacking = work.database.without_words(work, page)
            is_chunk = row.chunks is not None
        if lacking:
            yield sorted({chunk_owner(id) for id in lacking} if is_chunk else lacking)
        after = page[-1]


def _audit(collection: Reference[Any], rows: Rows, progress: Progress, *, skips: bool) -> Report:
    """Return which ids are stale, missing and orphaned. No model is called, nothing written."""
    comparison = Comparison(collection, rows, progress)
    stale: list[str] = []
    missing: list[str] = []
    errors = comparison.errors
    for batch in batches(comparison.differences(), PAGE):
        found = read_rows(collection, rows, {item.id for item in batch} - errors.keys(), errors)
        missing += [item.id for item in batch if not item.is_there and item.id in found]
        doubtful = [item.id for item in batch if item.is_there and item.id in found]
        if doubtful:
            found = {id: found[id] for id in doubtful}
            with collection.work() as work:
                model = collection.model_of(collection.existing(work))
                same = unchanged(collection, work, model, rows, found, errors)
            comparison.same += len(same)
            stale += [id for id in doubtful if id not in same and id not in errors]
    orphans = (id for page in _orphans(collection, rows) for id in page)
    orphaned = [*comparison.without_text, *dict.fromkeys(orphans)]
    if not skips:
        _raise_first(collection, errors)
    key = collection.keys.key_noted
    return Report(
        unchanged=comparison.same,
        skipped=failed(collection, errors),
        stale=tuple(map(key, stale)),
        missing=tuple(map(key, missing)),
        orphaned=tuple(map(key, orphaned)),
    )


def _orphans(collection: Reference[Any], rows: Rows) -> Iterator[list[str]]:
    """Yield the ids in the collection that the source has no rows of, a page at a time.

    Where first chunks are missing an item may be in two pages.
    """
    if not _may_have_orphans(collection, rows):
        return
    columns = collection.records.embeddings.c
    after: str | None = None
    has_first = True
    while True:
        with collection.work() as work:
            row = collection.find(work)
            if row is None:
                return
            if after is None:
                has_first = parts.has_first_rows(work)
            is_next = columns.id.is_not(None) if after is None else columns.id > after
            is_one = work.is_item if has_first else work.item_id.is_not(None)
            ids = select(columns.id, work.item_id.label("item"))
            ids = ids.where(columns.collection_id == row.id, is_one, is_next)
            ids = ids.order_by(columns.id)
            upto = work.run(ids.offset(PAGE - 1).limit(1)).scalar()
            page = ids.limit(PAGE).subquery()
            if not has_first:
                page = select(page.c["item"]).distinct().subquery()
            item = page.c["item"]
            if work.database.compares_rows(work):
                gone = [*work.run_unheard(select(item).where(~rows.is_row(work, item))).scalars()]
            else:
                stored = [*work.run(select(item)).scalars()]
                there = rows.there(work, stored)
                gone = [id for id in stored if id not in there]
            if not has_first:  # some may be no chunks of an item: rows of another program's
                gone = sorted({*parts.rows_of(work, gone).values()})
        if gone:
            yield gone
        if upto is None:
            return
        after = upto


def _may_have_orphans(collection: Reference[Any], rows: Rows) -> bool:
    """Return whether orphans are to be looked for, of which there are usually none."""
    with collection.work() as work:
        database, columns = work.database, work.records.embeddings.c
        can_tell = database.joins_by_hash and database.compares_rows(work)
        if collection.find(work) is None or not can_tell:
            return True
        is_row = rows.all(literal(1)).where(database.key_as_text(rows.key) == work.item_id)
        orphans = select(func.count()).where(columns.collection_id == work.row.id, ~is_row.exists())
        return bool(work.run_unheard(orphans).scalar_one())


def refuse_empty(collection: Reference[Any]) -> None:
    """Do nothing if the collection is as empty as its source.

    Raises:
        InvalidQueryError: It is not.
    """
    if count := read.count(collection):
        raise InvalidQueryError(
            f"The source has no rows, and the collection {collection.name!r} has {count}, which "
            "sync() would remove. If that is meant, give allow_empty=True, or --allow-empty; else "
            "look whether it reads the right database"
        )

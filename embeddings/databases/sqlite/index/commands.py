"""An index made, kept up to date in the database, described and dropped."""

from __future__ import annotations

import logging
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from ....errors import IndexingError, InvalidQueryError
from ....work.row import ROWS
from ...status import IndexInfo, Status
from .. import leftover
from ..matrix import statements
from ..matrix.build import MustScan, base_of, catch_up, checked_position, dimensions_of, key_of
from ..matrix.cache import CACHE
from ..matrix.state import bytes_of
from . import stored
from .bits import Bits
from .kind import kind_of
from .registry import checked_method, method_of

if TYPE_CHECKING:
    from ....work.operation import Work
    from ....work.reference import Reference
    from ....work.row import CollectionRow
    from ...status import IndexRequest
    from ..matrix.state import State
    from .kind import CodedKind

LOG = logging.getLogger("embeddings")
MOST_BEHIND = 4_096  # rows of the log; with more, a writer of ours brings the table up to date
ANEW = (
    "each process reads the rows once, until create_index(), or warm() or a write on an engine, "
    "makes it anew"
)
BEHIND = f"the change log does not reach back to where the index in the database ends: {ANEW}"
INCOMPLETE = f"the index in the database lacks a part: {ANEW}"


def create(collection: Reference[Any], asked: IndexRequest) -> IndexInfo:
    """Make the index of a collection, or bring it up to date. See `Collection.create_index`."""
    kind, began = kind_of(checked_method(asked.method or Bits.name)), perf_counter()
    for name in ("m", "ef_construction", "maintenance_work_mem"):
        if getattr(asked, name) is not None:
            raise InvalidQueryError(f"{name} is an option of HNSW, which SQLite does not have")
    find = collection.existing if asked.dimensions is None else collection.find_or_create
    if collection.sessions.owns_transactions and asked.dimensions is None:
        with collection.work() as work:  # the rows are read while others can write
            _check(find(work), kind)
            _loaded(work, kind)
    with collection.work(write=True) as work:
        row = find(work)
        _check(row, kind)
        state = _loaded(work, kind)
        work.row = row._replace(index_method=kind.name)
        leftover.remove(work)
        stored.create(work)
        if state is not None:
            stored.save(work, state, dimensions_of(work))
        found = info(work)
        assert found is not None  # noqa: S101  it was made just now
    collection.forget()
    if asked.progress is not None:
        asked.progress(found.rows, found.rows)
    facts = found.method, found.rows, found.bytes, perf_counter() - began
    LOG.info("index of %r built: %s, %d rows, %d bytes, %.1f s", row.name, *facts)
    return found


def _check(row: CollectionRow, kind: CodedKind) -> None:
    if row.index_method not in {None, kind.name}:
        raise IndexingError(
            f"{row.name!r} has an index by the method {row.index_method!r}. Call drop_index() first"
        )


def _loaded(work: Work, kind: CodedKind) -> State | None:
    """Return the index as the session sees the rows; None where there are no vectors.

    Raises:
        IndexingError: It cannot be kept.
    """
    if work.row.vector_bytes is None:
        return None
    try:
        return catch_up(work, kind, at_once=True)[1]
    except MustScan as reason:
        raise IndexingError(f"There can be no index of {work.row.name!r}: {reason}") from None


def drop(collection: Reference[Any]) -> bool:
    """Drop the index of a collection, and return whether there was one."""
    with collection.work(write=True) as work:
        row = collection.existing(work)
        _let_go(work)
        stored.drop(work)
    collection.forget()
    return row.index_method is not None


def _let_go(work: Work) -> None:
    """Forget what is in memory of the index, which another one is not to be made of."""
    method = method_of(work.row.index_method or "")
    if method is not None:
        CACHE.forget(key_of(work, statements.position(work), kind_of(method)))


def info(work: Work) -> IndexInfo | None:
    """Return what the index of a collection is, or None."""
    name = work.row.index_method
    if name is None:
        return None
    head = stored.head(work)
    is_valid = method_of(name) is not None
    return IndexInfo(name, {}, head.rows, head.dimensions, head.bytes, is_valid)


def finish_writing(work: Work) -> None:
    """Bring the table of an index up to date, before a transaction of ours commits.

    Only where it is behind by much, which takes a moment; or where the change log does not reach
    back to it any more, so that all rows are read, and every process would.
    """
    method = method_of(work.row.index_method or "")
    if method is None:
        return
    rows = stored.behind(work)
    if rows is None or rows > MOST_BEHIND:
        _save(work, kind_of(method))


def keep(collection: Reference[Any]) -> None:
    """Bring the table of an index up to date, or make it anew, in a transaction of our own.

    A collection without an index is left alone, and so is a database that can only be read.
    """
    with collection.work() as work:
        row = collection.find(work)
        method = None if row is None else method_of(row.index_method or "")
        if row is None or method is None or stored.behind(work) == 0:
            return
    try:
        with collection.work(write=True) as work:
            if collection.find(work) == row:
                _save(work, kind_of(method))
    except DBAPIError as error:
        if not collection.database.refuses_writing(error):
            raise


def _save(work: Work, kind: CodedKind) -> None:
    with suppress(IndexingError):  # the status tells why
        state = _loaded(work, kind)
        if state is not None:
            stored.save(work, state, dimensions_of(work))


def status(work: Work) -> Status:
    """Return how the next search goes about it, in a collection with an index. Reads only."""
    found, method = info(work), method_of(work.row.index_method or "")
    if method is None:
        reason = f"the method {work.row.index_method!r} of the index is not installed"
        return Status("scan", reason, budget=CACHE.budget, index=found)
    if work.row.vector_bytes is None:
        return Status("scan", "there is nothing to search", budget=CACHE.budget, index=found)
    try:
        position = checked_position(statements.position(work))
    except MustScan as problem:
        return Status("scan", str(problem), budget=CACHE.budget, index=found)
    key = key_of(work, position, kind_of(method))
    ROWS.put(work, work.row)
    base = base_of(work, CACHE.slot(work, key))
    why_anew = None if stored.rows_kept(work) is not None else _why_anew(work)
    if base is None:
        return Status("index", why_anew, budget=CACHE.budget, index=found)
    return Status("index", why_anew, base.rows, bytes_of(base), CACHE.budget, found)


def _why_anew(work: Work) -> str:
    return BEHIND if stored.head(work).is_complete else INCOMPLETE

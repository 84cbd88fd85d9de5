"""The collection's row: what of it is read, and what is remembered of it between operations."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary, ref

from sqlalchemy import (
    Executable,
    Integer,
    bindparam,
    null,
    select,
    type_coerce,
    update,
)

from ..forks import Lock
from ..sessions.base import transaction_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection, Engine, Select
    from sqlalchemy.orm import SessionTransaction

    from ..databases.base import Database
    from ..tables.records import Records
    from .operation import Work

ROW_COLUMNS = 7  # of `row_by_name`
MOST_NAMES = 10_000  # names of collections remembered for each engine


class CollectionRow(NamedTuple):
    """The collection's row."""

    id: int
    name: str
    model_id: str
    vector_bytes: int | None
    """The bytes of a vector as float32, by any row of the collection; None if it has no valid one.
    """
    has_index: bool = False
    """Whether an index can serve a search. Known of a row that was read by `row_to_search`."""
    is_certain: bool = True
    """Whether it was read in this transaction; else a search has to confirm it."""
    language: str | None = None
    """That of the collection's text index; None if it has none."""
    chunks: str | None = None
    """How its texts are cut, as JSON; None if each item is one row."""
    index_method: str | None = None
    """The method of its index, where the search keeps that in memory; None if it has none."""
    others: frozenset[str] = frozenset()
    """Its model and those of what stands beside it. Known where it was given another model."""


def shown_chunks(setting: str | None) -> str:
    """Return how texts are cut, a setting that a collection keeps, as it is written in Python."""
    if setting is None:
        return "no chunks"
    kept = json.loads(setting)
    shown = [f"size={kept['size']}"]
    if kept["overlap"]:
        shown.append(f"overlap={kept['overlap']}")
    if kept["length"] != "len":
        shown.append(f"length={kept['length']}")
    if (splitter := kept["splitter"]) is not None:
        is_function = "." in splitter
        shown.append(f"splitter={splitter if is_function else repr(splitter)}")
    return f"Chunks({', '.join(shown)})"


@functools.cache
def row_by_name(database: Database, records: Records, *, with_vector_bytes: bool) -> Select[Any]:
    """Return the SELECT of the row of the name that is bound as `name`."""
    columns = records.collections.c
    return select(
        columns.id,
        columns.name,
        columns.model,
        database.vector_bytes_of_row(records)
        if with_vector_bytes
        else type_coerce(null(), Integer),
        database.text_language(records),
        database.chunk_setting(records),
        database.index_method(records),
    ).where(columns.name == bindparam("name"))


def row_of(values: Sequence[Any]) -> CollectionRow:
    """Return the row of the values that `row_by_name` selects."""
    id, name, model_id, vector_bytes, language, chunks, index_method = values
    return CollectionRow(
        id,
        name,
        model_id,
        vector_bytes,
        language=language,
        chunks=chunks,
        index_method=index_method,
    )


@functools.cache
def touching(records: Records) -> Executable:
    """Return the UPDATE, without a change, of the row of the name that is bound as `called`."""
    columns = records.collections.c
    return (
        update(records.collections)
        .where(columns.name == bindparam("called"))
        .values(model=columns.model)
    )


class _Seen(NamedTuple):
    """A row that is remembered."""

    row: CollectionRow
    committed: bool
    """Whether it was committed when it was read."""
    transaction: Callable[[], SessionTransaction | None]
    """Returns the transaction in which it was read, as long as that is there."""


def _gone() -> None:
    """Stand for a transaction that is over."""


class RememberedRows:
    """The row that the latest operation on a name through an engine found.

    It may be out of date for whoever asks, and is to be confirmed. Keyed by the engine, its schema
    map, the tables and the name.
    """

    def __init__(self) -> None:
        self._rows: WeakKeyDictionary[Engine, dict[Any, _Seen]] = WeakKeyDictionary()
        self._lock = Lock()

    def get(self, bind: Engine | Connection, records: Records, name: str) -> CollectionRow | None:
        """Return the row of a name, uncertain, or None.

        Args:
            bind: The engine or connection that has the tables.
            records: The mapped classes.
            name: The collection's name.
        """
        seen = self._seen(bind, records, name)
        return None if seen is None else seen.row._replace(is_certain=False)

    def known(
        self,
        bind: Engine | Connection,
        records: Records,
        name: str,
        transaction: SessionTransaction | None,
    ) -> CollectionRow | None:
        """Return the same if it was committed when it was read, or read in this transaction."""
        seen = self._seen(bind, records, name)
        if seen is None or not (seen.committed or seen.transaction() is transaction is not None):
            return None
        return seen.row._replace(is_certain=False)

    def _seen(self, bind: Engine | Connection, records: Records, name: str) -> _Seen | None:
        # Without the lock: a reader finds what is there at one moment, and confirms it anyway.
        return self._rows.get(bind.engine, {}).get(memory_key(bind, records, name))

    def put(self, work: Work, row: CollectionRow, *, committed: bool = False) -> None:
        """Remember a row that was read, without what stands beside it, which no search confirms.

        Args:
            work: In which it was read.
            row: The row.
            committed: Whether only what is committed is seen there.
        """
        bind, records, row = work.bind, work.records, row._replace(others=frozenset())
        transaction = transaction_of(work.session)
        with self._lock:
            rows = self._rows.setdefault(bind.engine, {})
            key = memory_key(bind, records, row.name)
            before = rows.pop(key, None)
            if len(rows) >= MOST_NAMES:
                del rows[next(iter(rows))]
            if before is not None and before.row[:3] == row[:3]:
                # Within a transaction it is read again as it was committed, with the same model.
                committed = committed or before.committed
                if before.row.has_index and not row.has_index:
                    row = before.row  # not every reader looks for an index
            rows[key] = _Seen(row, committed, ref(transaction) if transaction else _gone)

    def forget(self, bind: Engine | Connection, records: Records, name: str) -> None:
        """Remember nothing of a name."""
        with self._lock:
            self._rows.get(bind.engine, {}).pop(memory_key(bind, records, name), None)

    def clear(self) -> None:
        """Remember nothing."""
        with self._lock:
            self._rows.clear()


def memory_key(bind: Engine | Connection, records: Records, name: str) -> tuple[Any, ...]:
    """Return what tells a collection from others of the engine: its tables, schema and name."""
    schema_map = bind.get_execution_options().get("schema_translate_map") or {}
    return (records, name, *schema_map.items())


ROWS = RememberedRows()

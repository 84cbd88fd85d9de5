"""The rows that a collection is to hold, by a SELECT: read a page at a time, looked at again, kept.

Rows are spoken of by the ids under which they are stored; in SQL they are sought by the host's own
keys, so that the host's primary key serves each statement.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Enum,
    Select,
    Table,
    Text,
    case,
    cast,
    false,
    func,
    literal,
    select,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.sql.selectable import SelectBase
from sqlalchemy.types import NullType, String, Uuid

from ..errors import InvalidItemError, InvalidQueryError
from ..internals import has_limit, unheard
from ..keys import keys_of
from ..models.base import batches
from ..tables.columns import JSONObject
from ..values import JSON_TYPES, as_json, is_storable
from ..writing.items import item_content, item_metadata, of_item

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sqlalchemy import ColumnElement, Result, Row
    from sqlalchemy.orm import QueryableAttribute

    from ..keys import Keys
    from ..values import Metadata
    from ..work.operation import Work
    from ..work.reference import Reference

KEYS_AT_ONCE = 500  # in one statement, far below the parameters that any database takes
INSTANCES_AT_ONCE = 500  # that live: of more the collector of garbage takes its time


class SourceRow(NamedTuple):
    """What a row says its item is to be."""

    text: str
    metadata: str | None
    """As JSON text; None where the source says nothing of metadata."""


class Compared(NamedTuple):
    """What is compared of a row in Python."""

    key: Any
    """The host's."""
    text: str
    metadata: str | None
    """As JSON text; None where SQL compares them, or there are none."""
    is_there: bool
    """Whether the collection has an item of the key."""
    content_hash: bytes | None
    """That is stored; None where something that SQL compares differs."""
    stored_metadata: str | None
    """As JSON text, of what is stored, where SQL does not compare it."""


@dataclass(frozen=True, eq=False)
class TextsInPython:
    """What Python makes texts of.

    Attributes:
        statement: The SELECT, of instances or of columns.
        key_of: What returns the key of a row of it.
        text_of: What returns the text of a row; it may be empty.
        item_of: What returns key, text and metadata of a row; the text may be empty.
        is_joined: Whether relations come along by a join, which repeats an instance.
    """

    statement: Select[Any]
    key_of: Callable[[Row[Any]], Any]
    text_of: Callable[[Row[Any]], str]
    item_of: Callable[[Row[Any]], tuple[Any, str, Metadata | None]]
    is_joined: bool

    def run(self, session: Session, statement: Select[Any]) -> Result[Any]:
        """Return the rows of a part of the statement."""
        found = session.execute(statement)
        return found.unique() if self.is_joined else found.yield_per(INSTANCES_AT_ONCE)


@dataclass(frozen=True, eq=False)
class Rows:
    """A SELECT of one row for each item. Rows without a text are no items.

    Attributes:
        key: The column of the keys.
        text: The column of the texts, or what Python makes them of.
        metadata: The column of the metadata, columns by their names in it, or None if there are
            none, or Python makes them.
        keys: The type of the host's keys.
        locked: The column of the host's table that the keys come from, where that is known.
        store: Whether the texts are stored.
        have_text: Whether it yields rows with a text alone, so that nobody has to look.
    """

    key: ColumnElement[Any]
    text: ColumnElement[str] | TextsInPython
    metadata: ColumnElement[Any] | dict[str, ColumnElement[Any]] | None
    keys: Keys[Any]
    locked: Column[Any] | None
    store: bool = False
    have_text: bool = False

    @property
    def columns(self) -> list[ColumnElement[Any]]:
        """The columns of the metadata."""
        if self.metadata is None:
            return []
        return [*self.metadata.values()] if isinstance(self.metadata, dict) else [self.metadata]

    def all(self, *columns: ColumnElement[Any]) -> Select[Any]:
        """Return the SELECT of some columns of all rows that may be items."""
        if isinstance(self.text, TextsInPython):
            return self.text.statement.with_only_columns(*columns, maintain_column_froms=True)
        rows = select(*columns)
        return rows if self.have_text else rows.where(self.text != "")

    def between(self, work: Work, statement: Select[Any], after: Any, upto: Any) -> Select[Any]:
        """Return a SELECT of one page, in the order of the keys.

        Args:
            work: In whose transaction.
            statement: Of all rows.
            after: The key that the page before this one ended with; None for the first page.
            upto: The last key of the page; None for the last page.
        """
        key = work.database.written_key(self.key)
        if after is not None:
            statement = statement.where(key > literal(after, key.type))
        if upto is not None:
            statement = statement.where(key <= literal(upto, key.type))
        return statement.order_by(key)

    def page_end(self, work: Work, after: Any, size: int) -> Any:
        """Return the last key of a page, as it is written; None if fewer rows are left."""
        key = work.database.written_key(self.key)
        keys = self.between(work, self.all(key), after, None)
        return work.run_unheard(keys.offset(size - 1).limit(1)).scalar()

    def count(self, work: Work, after: Any = None) -> int:
        """Return how many rows there are, or how many after a key."""
        rows = self.between(work, self.all(func.count(self.key)), after, None).order_by(None)
        return int(work.run_unheard(rows).scalar_one())

    def ids(self, work: Work, after: Any, upto: Any) -> list[str]:
        """Return the ids of a page's rows, as triggers note them: also those that are none."""
        key = work.database.any_text(self.key)
        keys = work.run_unheard(self.between(work, self.all(key), after, upto)).scalars()
        return [work.database.id_written(each, self.keys) for each in keys]

    def is_row(self, work: Work, id: ColumnElement[str]) -> ColumnElement[bool]:
        """Return the condition that a stored id is that of a row which may be an item."""
        database = work.database
        return (
            self.all(literal(1))
            .where(
                self.key == database.sought_key(id, self.keys),
                database.key_as_text(self.key) == id,
            )
            .offset(0)  # by which PostgreSQL asks the key's index for each id, and joins nothing
            .exists()
        )

    # Items

    def compared(
        self, work: Work, after: Any, upto: Any, beside: Callable[[Select[Any]], Select[Any]]
    ) -> Iterator[Compared]:
        """Yield what is compared of all rows of a page, in any order, also of those without a text.

        Args:
            work: As in `between`.
            after: Likewise.
            upto: Likewise.
            beside: Adds to a SELECT of the rows what is stored: the last three of `Compared`.
        """
        made = self.text
        if not isinstance(made, TextsInPython):
            page = self.between(work, self.all(self.key, made), after, upto).order_by(None)
            for row in work.run_unheard(beside(page)):
                yield Compared(row[0], row[1], None, *row[-3:])
            return
        with _session_to_read(work) as session:
            page = self.between(work, made.statement, after, upto).order_by(None)
            for row in made.run(session, beside(page)):
                yield Compared(made.key_of(row), made.text_of(row), None, *row[-3:])

    def read(
        self, work: Work, ids: Iterable[str], errors: dict[str, Exception]
    ) -> dict[str, SourceRow]:
        """Return some items by their ids; those that are there.

        Args:
            work: In whose transaction.
            ids: Of the items.
            errors: Takes the errors of single rows by their ids: a text cannot be made or stored,
                the key can be no id, or there are two rows of it.
        """
        ids = {*ids}
        found: dict[str, SourceRow] = {}
        failed: dict[str, Exception] = {}
        keys, strange = self._keys(work, ids)
        for batch in keys:
            found |= self._read(work, partial(self._of_keys, batch), failed)
        failed |= {id: self._no_key(id) for id in self._written(work, strange)}
        # A database may find rows of keys that are the same to it, such as in another case.
        errors |= {id: error for id, error in failed.items() if id in ids}
        return {id: row for id, row in found.items() if id in ids}

    def try_none(self, work: Work) -> None:
        """Read no row, which fails as reading any would where that is not because of the row."""
        self._read(work, lambda rows: rows.where(false()), {})

    def there(self, work: Work, ids: Iterable[str]) -> set[str]:
        """Return which of some ids are items."""
        if isinstance(self.text, TextsInPython):
            errors: dict[str, Exception] = {}
            return {*self.read(work, ids, errors), *errors}
        ids = {*ids}
        keys, strange = self._keys(work, ids)
        found = self._written(work, strange)
        for batch in keys:
            statement = self.all(self.key).where(self.key.in_(batch))
            found |= {self.keys.id_noted(key) for key in work.run_unheard(statement).scalars()}
        return found & ids

    def keep(self, work: Work, ids: Iterable[str]) -> set[str]:
        """Return which items nobody else is changing, and keep them until the transaction ends.

        They cannot be deleted then, nor get another key. Nobody is waited for.
        """
        ids = {*ids}
        if self.locked is None or not work.database.can_keep_keys(work, self.locked):
            return ids
        kept: set[str] = set()
        for batch in self._keys(work, ids)[0]:
            found = work.database.keep_keys(work, self.locked, batch)
            kept |= {self.keys.to_text(key) for key in found}
        return kept & ids

    def _read(
        self,
        work: Work,
        narrowed: Callable[[Select[Any]], Select[Any]],
        errors: dict[str, Exception],
    ) -> dict[str, SourceRow]:
        found: dict[str, SourceRow] = {}
        if not isinstance(self.text, TextsInPython):
            for row in work.run_unheard(narrowed(self.all(self.key, self.text, *self.columns))):
                self._add(found, errors, row[0], partial(self._of_columns, row))
            return found
        with _session_to_read(work) as session:
            for row in self.text.run(session, narrowed(self.text.statement)):
                key = self.text.key_of(row)
                self._add(found, errors, key, partial(self._of_python, self.text, row))
        return found

    def _add(
        self,
        found: dict[str, SourceRow],
        errors: dict[str, Exception],
        key: Any,
        make: Callable[[], SourceRow | None],
    ) -> None:
        id = self.keys.id_noted(key)
        try:
            self.keys.to_text(key)
            row = make()
            if id in found:
                raise InvalidItemError(
                    f"The SELECT has more than one row of the key {key!r}: each item is one row"
                )
        except SQLAlchemyError:
            raise
        except Exception as error:  # noqa: BLE001  a function of a host's may raise anything
            if not isinstance(error, InvalidItemError):
                error.add_note(f"It was raised by text= for the row {key!r}")
            errors[id] = error
            found.pop(id, None)
        else:
            if row is not None:
                found[id] = row

    def _of_columns(self, row: Row[Any]) -> SourceRow:
        key, text, *values = tuple(row)
        metadata: Metadata | None = None
        if isinstance(self.metadata, dict):
            named = zip(self.metadata.items(), values, strict=True)
            metadata = {name: of_column(column, value) for (name, column), value in named}
        elif self.metadata is not None:
            metadata = values[0] or {}
        return source_row(self.keys, key, text, metadata)

    def _of_python(self, made: TextsInPython, row: Row[Any]) -> SourceRow | None:
        key, text, metadata = made.item_of(row)
        return source_row(self.keys, key, text, metadata) if text else None

    def _of_keys(self, keys: list[Any], rows: Select[Any]) -> Select[Any]:
        return rows.where(self.key.in_(keys))

    def _keys(self, work: Work, ids: Iterable[str]) -> tuple[list[list[Any]], list[str]]:
        """Return the host's keys for statements, and the ids that are of no key of the column."""
        keys: list[Any] = []
        strange: list[str] = []
        for id in sorted(ids):
            try:
                id.encode()
                key = self.keys.from_text(id)
                is_key = work.database.has_wide_integers or not self.keys.exceeds_column(id)
            except (InvalidItemError, UnicodeEncodeError):
                is_key = False
            if is_key:
                keys.append(key)
            else:
                strange.append(id)
        return list(batches(keys, KEYS_AT_ONCE)), strange

    def _written(self, work: Work, ids: list[str]) -> set[str]:
        """Return which ids that are of no key are nevertheless those of rows."""
        rows, is_written = self.all(literal(1)), work.database.is_written
        return {
            id
            for id in ids
            if work.run_unheard(rows.where(is_written(self.key, id)).limit(1)).first()
        }

    def _no_key(self, id: str) -> InvalidItemError:
        """Return what is wrong with the key of a row, which was noted under an id."""
        what = f"no {self.keys.python_type.__name__}"
        if not is_storable(id):
            what = "not UTF-8"
        elif isinstance(self.keys.sql_type, Uuid):
            what = (
                "not written as SQLAlchemy writes a UUID, as 32 hexadecimal digits in lower case, "
                "and so it is not found"
            )
        return InvalidItemError(f"item {id!r}: its key is {what}")


def _session_to_read(work: Work) -> Session:
    """Return a session of its own: instances in the host's may be older than the database.

    What a function of the host's changes in them is never flushed. Listeners hide no rows, as in
    `Work.run_unheard`.
    """
    return unheard(Session(work.connection, join_transaction_mode="rollback_only", autoflush=False))


def source_row(keys: Keys[Any], key: Any, text: object, metadata: Metadata | None) -> SourceRow:
    """Return what a row says, checked.

    Raises:
        InvalidItemError: It cannot be stored.
    """
    id = keys.to_text(key)
    content = item_content(keys, id, text)
    if not isinstance(content, str):
        raise of_item(keys, id, "the content of a source must be text")
    return SourceRow(content, None if metadata is None else item_metadata(keys, id, metadata))


def of_column(column: ColumnElement[Any] | QueryableAttribute[Any], value: object) -> object:
    """Return what JSON has for what a column holds.

    SQLite keeps no zones: what a column with a zone has there is UTC, as CURRENT_TIMESTAMP is.
    """
    if type(value) in JSON_TYPES:
        return value
    if isinstance(value, datetime) and value.tzinfo is None:
        kind = column.type
        if isinstance(kind, DateTime) and kind.timezone:
            value = value.replace(tzinfo=UTC)
    return as_json(value)


def in_sql(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the SQL of what JSON has for a column, as far as the database has something else.

    It has the names of an Enum whose members are strings or numbers.
    """
    kind = column.type
    if not isinstance(kind, Enum) or kind.enum_class is None or kind.values_callable is not None:
        return column
    members = kind.enum_class.__members__
    values = {name: as_json(members[name]) for name in kind.enums if name in members}
    if all(name == value for name, value in values.items()):
        return column
    return case(values, value=cast(column, Text))


def rows_of(statement: object, collection: Reference[Any]) -> Rows:
    """Return the rows of a SELECT.

    Args:
        statement: Of key, text and, if wanted, metadata: a column of JSON objects, or columns that
            become metadata under their names.
        collection: Which is to hold them.

    Raises:
        InvalidQueryError: It is no such SELECT.
    """
    if not isinstance(statement, SelectBase):
        raise InvalidQueryError(
            "sync() takes a SELECT of key, text and, if wanted, metadata, such as "
            f"select(Article.id, Article.title), not {type(statement).__name__}"
        )
    if (count := len(list(statement.selected_columns))) < 2:
        raise InvalidQueryError(
            "sync() takes a SELECT of key, text and, if wanted, metadata; this one has "
            f"{count} column"
        )
    if isinstance(statement, Select) and not has_limit(statement):
        statement = statement.order_by(None)
    key, text, *metadata = statement.subquery().columns
    if not isinstance(text.type, String | NullType):
        raise InvalidQueryError(
            f"The second column of the SELECT is the text of an item, and {text.name!r} is of the "
            f"type {type(text.type).__name__}"
        )
    try:
        keys = keys_of(key)
    except TypeError:
        keys = collection.keys
    if not collection.keys.takes(key.type):
        raise InvalidQueryError(
            f"The ids of this collection are {collection.keys.python_type.__name__}, and "
            f"{key.name!r} is of the type {type(key.type).__name__}. Collection(..., key=) sets "
            "the type"
        )
    return Rows(key, text, _metadata(metadata), keys, host_column(key))


def _metadata(
    columns: Sequence[ColumnElement[Any]],
) -> ColumnElement[Any] | dict[str, ColumnElement[Any]] | None:
    if not columns:
        return None
    if len(columns) == 1 and isinstance(columns[0].type, JSON | JSONObject):
        return columns[0]
    return {str(column.key): column for column in columns}


def host_column(column: ColumnElement[Any]) -> Column[Any] | None:
    """Return the column of a table that a selected column is; of a UNION of tables it is none."""
    base, *others = column.base_columns
    if others or not (isinstance(base, Column) and isinstance(base.table, Table)):
        return None
    return base

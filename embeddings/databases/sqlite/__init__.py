"""SQLite: tables as `llm` documents them, a change log beside them, searches from memory.

In the order in which one meets them: `opening` a file, `transactions` begin and end, `changelog`
and `llm` stand beside the tables, `rows` are written, `matrix` is searched.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Float,
    Integer,
    LargeBinary,
    Text,
    and_,
    case,
    func,
    literal,
    select,
    type_coerce,
)
from sqlalchemy.exc import OperationalError

from ...tables.pending import pending_name
from ...vectors import ITEM_BYTES
from ..additions import Addition, AdditionName
from ..base import Database
from . import (
    changelog,
    fields,
    followed,
    hints,
    leftover,
    llm,
    opening,
    parts,
    pending,
    rows,
    transactions,
    triggers,
    words,
)
from .index import commands as indexing
from .index import names, stored
from .index.kind import kind_of_row, kind_to_search
from .matrix import memory, search

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from sqlalchemy import URL, Connection, Dialect, Engine, Subquery
    from sqlalchemy.exc import DBAPIError

    from ...following.literals import Follow
    from ...keys import Keys
    from ...models.base import Content
    from ...searching.entries import Ranking, ScoredRow
    from ...searching.filters import Comparison
    from ...searching.query import Query
    from ...searching.words import Term
    from ...tables.records import Records
    from ...vectors import Float64
    from ...work.operation import Work
    from ...work.reference import Reference
    from ...work.row import CollectionRow
    from ..status import IndexInfo, IndexRequest, Status


class SQLite(Database):
    """SQLite, by Python's own driver or aiosqlite."""

    name = "sqlite"
    finishes_statements = True  # closing a connection within one would leave the file locked
    has_wide_integers = True
    rebuilds_tables = True

    # Tables

    @property
    def additions(self) -> Mapping[AdditionName, Addition]:
        """The log with its triggers, and tables of what hosts, text indexes and chunks need."""
        return {
            "log": Addition(
                changelog.install,
                _without_log,
                changelog.side_tables,
                changelog.side_tables_down,
                changelog.missing,
            ),
            "pending": Addition(
                pending.install,
                pending.uninstall,
                pending.script,
                pending.script_down,
                pending.missing,
            ),
            "words": Addition(uninstall=words.uninstall),  # made with the first text index
            # The trigger that removes vectors at once is made anew, and knows chunks.
            "chunks": Addition(install=pending.install, uninstall=parts.uninstall),
        }

    def check_side_tables(self, connection: Connection, records: Records) -> None:
        """Refuse somebody else's table of the change log's name."""
        changelog.check_log(connection, records)

    def index_names(self, connection: Connection, records: Records) -> set[str]:
        """Read the catalog: reflection warns of a host's index of an expression."""
        tables = records.collections.name, records.embeddings.name
        return changelog.names_on(connection, changelog.schema_of(connection, records), *tables)

    def side_tables(self, records: Records) -> set[str]:
        """Return the change log, the rows that are pending, and the table of `llm`'s migrations."""
        return {changelog.log_name(records), pending_name(records), llm.TABLE}

    def is_side_table(self, name: str, records: Records) -> bool:
        """Return whether it is one of these, of a text index, of chunks or of an index."""
        its_own = (words, parts, names)
        return super().is_side_table(name, records) or any(
            each.is_table(name, records) for each in its_own
        )

    def lacking(self, error: DBAPIError, records: Records) -> dict[str, set[str] | None] | None:
        """Return nothing, or None where the error may come of the tables."""
        message = str(error.orig)
        return None if "no such" in message or "has no column" in message else {}

    # Following

    def follow(self, connection: Connection, given: Follow) -> None:
        """Make the triggers."""
        triggers.follow(connection, given)

    def unfollow(self, connection: Connection, given: Follow) -> None:
        """Drop the triggers."""
        triggers.unfollow(connection, given)

    def follow_script(self, given: Follow) -> list[str]:
        """Return the SQL of `follow`."""
        return triggers.script(given)

    def unfollow_script(self, given: Follow) -> list[str]:
        """Return the SQL of `unfollow`."""
        return triggers.script_down(given)

    def follow_problems(self, connection: Connection, given: Follow) -> list[str]:
        """Compare the catalog with what `follow` makes."""
        return triggers.problems(connection, given)

    def follows(self, connection: Connection, records: Records) -> list[Follow]:
        """Read the catalog."""
        return triggers.follows(connection, records)

    def is_one_table(self, one: tuple[str | None, str], other: tuple[str | None, str]) -> bool:
        """Compare them in any case; the schema "main" is the one of who names none."""
        (schema, table), (other_schema, other_table) = one, other
        schemas = {(each or "main").casefold() for each in (schema, other_schema)}
        return len(schemas) == 1 and table.casefold() == other_table.casefold()

    def is_followed(self, connection: Connection, given: Follow, schema: str | None) -> bool:
        """Return whether the triggers stand on the table that they were made for."""
        return triggers.is_followed(connection, given)

    # Errors

    def hint(self, error: DBAPIError, dialect: Dialect) -> str | None:
        """Return what to do about locks, and about files that can only be read."""
        return hints.hint(error, dialect)

    def why_not_open(self, error: DBAPIError) -> str | None:
        """Return why, by the result code."""
        return hints.why_not_open(error)

    def is_away(self, error: Exception) -> bool:
        """Return whether somebody kept it locked for as long as the connection waits."""
        return hints.primary_code(error) == sqlite3.SQLITE_BUSY

    def refuses_writing(self, error: DBAPIError) -> bool:
        """Return whether the file, its folder or its URL is read-only."""
        return hints.primary_code(error) == sqlite3.SQLITE_READONLY

    # Transactions

    def begin(self, connection: Connection, *, write: bool, fresh: bool = False) -> bool:
        """Begin a transaction now, for writing with the write lock."""
        return transactions.begin_sqlite(connection, write=write, fresh=fresh)

    def commits_each_statement(self, connection: Connection) -> bool:
        """Return whether the driver is in autocommit mode."""
        return transactions.commits_each_statement(connection)

    def schema_change(self, connection: Connection) -> AbstractContextManager[None]:
        """Return a context in a real transaction."""
        return transactions.sqlite_transaction(connection)

    def writing_turn(self, turn: AbstractContextManager[Any]) -> AbstractContextManager[Any]:
        """Return the turn: there is one writer at a time."""
        return turn

    # Databases that are opened here

    def url(self, url: URL, *, asynchronous: bool) -> URL:
        """Return the URL with a driver."""
        return opening.with_driver(url, asynchronous=asynchronous)

    def new_engine(self, url: URL, create: Callable[..., Engine]) -> Engine:
        """Return an engine with our pragmas."""
        return opening.new_engine(url, create)

    def are_apart(self, one: URL, other: URL) -> bool:
        """Return whether they are of different files."""
        files = [opening.read_address(url).file for url in (one, other)]
        return len({file.resolve() for file in files if file}) > 1

    def is_missing(self, url: URL) -> bool:
        """Return whether the file is not there."""
        return opening.is_missing(url)

    def file_of(self, driver: sqlite3.Connection) -> str | None:
        """Return the main database's file."""
        return opening.main_file(driver)

    def can_write(self, driver: sqlite3.Connection) -> bool:
        """Return whether it was opened for writing."""
        return opening.can_write(driver)

    def is_of_this_thread(self, driver: sqlite3.Connection) -> bool:
        """Return whether the driver admits this thread."""
        return opening.is_of_this_thread(driver)

    def before_first_write(self, engine: Engine) -> bool:
        """Switch a new file to write-ahead logging."""
        return opening.use_write_ahead_log(engine)

    # The collection's row

    def begin_writing(self, work: Work) -> None:
        """Take the write lock. Without a transaction, in AUTOCOMMIT, there is none to be kept."""
        transactions.take_write_lock(work.connection, work.records.collections)

    def lock_to_write(self, work: Work, name: str) -> bool:
        """Do nothing: `begin_writing` did, or the transaction was begun for writing."""
        return True

    def insert_collection(self, work: Work, name: str, model_id: str) -> None:
        """Insert the row under an id that no embedding and no side table carries."""
        with suppress(OperationalError):  # something is being read; there may be no FTS5 here
            leftover.remove(work)
        rows.insert_collection(work, name, model_id, leftover.highest_id(work))

    def row_named(self, work: Work, name: str) -> CollectionRow | None:
        """Return the row, without what a deleted collection of its id has left."""
        row = super().row_named(work, name)
        return None if row is None else leftover.without(work, row)

    def confirms(self, row: CollectionRow) -> bool:
        """Return True: the log tells what has become of the collection."""
        return True

    # Rows

    def vector_bytes(self, embedding: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the length of a BLOB: the column may hold anything."""
        stored = type_coerce(embedding, LargeBinary)
        size = func.length(stored, type_=Integer)
        return case((func.typeof(stored) == "blob", size))

    def is_vector(self, embedding: ColumnElement[Any]) -> ColumnElement[bool]:
        """Return the condition, which asks once of what type the value is."""
        stored = type_coerce(embedding, LargeBinary)
        size = func.length(stored, type_=Integer)
        return and_(func.typeof(stored) == "blob", size > 0, size % ITEM_BYTES == 0)

    def has_id(self, id: ColumnElement[str]) -> ColumnElement[bool]:
        """Return the condition. By "IS NOT NULL" SQLite would seek, and not by other conditions."""
        return func.typeof(id) != "null"

    def is_one_of(self, id: ColumnElement[str], ids: Iterable[str]) -> ColumnElement[bool]:
        """Return the condition; the ids travel as one parameter of JSON."""
        return rows.is_one_of(id, literal(rows.as_json(ids), Text))

    def metadata_is(
        self, metadata: ColumnElement[Any], comparison: Comparison
    ) -> ColumnElement[bool]:
        """Return the condition by SQLite's functions of JSON."""
        return fields.condition(metadata, comparison)

    def stored_rows(
        self, work: Work, ids: list[str], hashes: Collection[bytes] | None = None
    ) -> Iterable[Any]:
        """Return the rows by one kept statement; SQLite knows lengths without reading vectors."""
        return rows.stored_rows(work, ids)

    def same_content(self, work: Work, hashes: list[bytes]) -> Iterable[Any]:
        """Return the rows by one of a few kept statements."""
        return rows.same_content(work, hashes)

    def write_rows(
        self,
        work: Work,
        rows_: Sequence[dict[str, Any]],
        updated: int,
        there: Collection[str] | None = None,
    ) -> None:
        """Write by INSERT ... ON CONFLICT."""
        rows.write(work, rows_, updated)

    def delete_rows(self, work: Work, conditions: Sequence[ColumnElement[bool]]) -> int:
        """Delete rows, and their words."""
        count = super().delete_rows(work, conditions)
        if count and work.row.language is not None:
            words.clean(work, work.row.language)
        return count

    # Rows of the host's that a collection follows

    def text_hash(
        self, work: Work, text: ColumnElement[str], content_hash: Callable[[Content], bytes]
    ) -> ColumnElement[bytes]:
        """Return a function that the connection is given."""
        return followed.text_hash(work, text, content_hash)

    def has_metadata(
        self, stored: ColumnElement[Any], given: ColumnElement[Any] | dict[str, ColumnElement[Any]]
    ) -> ColumnElement[bool]:
        """Return the condition: objects as their text, named values one by one."""
        return followed.has_metadata(stored, given)

    def written_key(self, key: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the SQL of what the driver has of it: the types of a host change it in Python."""
        return followed.written_key(key)

    def id_written(self, value: Any, keys: Keys[Any]) -> str:
        """Return it, for it is read as the triggers' CAST makes it."""
        return str(value)

    def is_written(self, key: ColumnElement[Any], id: str) -> ColumnElement[bool]:
        """Return the condition."""
        return followed.is_written(key, id)

    def any_text(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the SQL of its bytes, which the type makes a text of."""
        return followed.any_text(column)

    # Searches

    def search(self, work: Work, vector: Float64, query: Query) -> Ranking:
        """Search the index or the matrix in memory, or scan."""
        return search.search(work, vector, query, kind_to_search(work, query))

    def search_multi(self, work: Work, vectors: Sequence[Float64], query: Query) -> list[Ranking]:
        """Search for all vectors at once."""
        return search.search_multi(work, vectors, query, kind_to_search(work, query))

    def as_selectable(
        self, keys: Keys[Any], rows_: Sequence[ScoredRow], offset: int | None = None
    ) -> Subquery:
        """Return the rows as one parameter of JSON."""
        for row in rows_:
            keys.from_text(row.id)  # the database would make something of any text
        number = offset or 0
        found = ([row.id, row.score, number + at] for at, row in enumerate(rows_, 1))
        one = func.json_each(rows.as_json(found)).table_valued("value").c.value
        id = func.json_extract(one, "$[0]")
        key = func.cast(id, keys.sql_type) if keys.python_type is int else id
        columns: list[ColumnElement[Any]] = [
            type_coerce(key, keys.sql_type).label("id"),
            type_coerce(func.json_extract(one, "$[1]"), Float).label("score"),
        ]
        if offset is not None:
            columns.append(type_coerce(func.json_extract(one, "$[2]"), Integer).label("rank"))
        return select(*columns).subquery()

    # Text indexes

    def text_language(self, records: Records) -> ColumnElement[str | None]:
        """Return the SQL, by the name of the index's table."""
        return words.language_of(records)

    def create_text_index(self, work: Work, language: str) -> None:
        """Make a table of FTS5, and its triggers."""
        leftover.remove(work)
        words.create(work, language)

    def drop_text_index(self, work: Work, language: str) -> None:
        """Drop them."""
        words.drop(work, language)

    def put_words(self, work: Work, texts: Mapping[str, tuple[str, bytes]], language: str) -> None:
        """Put in what is not there."""
        words.put(work, texts, language)

    def lacks_words(self, work: Work) -> ColumnElement[bool]:
        """Return the condition."""
        return words.lacks_words(work)

    def ids_with_words(
        self, work: Work, terms: list[Term], query: Query, most: int | None
    ) -> list[str]:
        """Return what FTS5 finds, by its bm25."""
        return words.ids(work, terms, query, most)

    # Chunks

    def chunk_setting(self, records: Records) -> ColumnElement[str | None]:
        """Return the SQL, by the table of the collection."""
        return parts.setting_of(records)

    def set_chunk_setting(self, work: Work, setting: str | None) -> None:
        """Make the collection's table."""
        leftover.remove(work)
        parts.set_setting(work, setting)

    def parts(self, work: Work) -> Subquery:
        """Return that table."""
        return parts.parts(work)

    def put_parts(self, work: Work, given: Sequence[tuple[Any, ...]]) -> None:
        """Write to that table."""
        parts.put(work, given)

    def warm(self, work: Work) -> None:
        """Load the index, or the matrix."""
        memory.warm(work, kind_of_row(work))

    def status(self, work: Work, row: CollectionRow | None) -> Status:
        """Return what is in memory."""
        if row is not None and row.index_method is not None:
            return indexing.status(work)
        return memory.memory_status(work, row)

    # Indexes

    def create_index(self, collection: Reference[Any], asked: IndexRequest) -> IndexInfo:
        """Keep the codes of all rows in the database."""
        return indexing.create(collection, asked)

    def drop_index(self, collection: Reference[Any]) -> bool:
        """Drop them."""
        return indexing.drop(collection)

    def index_info(self, work: Work) -> IndexInfo | None:
        """Return what is kept."""
        return indexing.info(work)

    def index_method(self, records: Records) -> ColumnElement[str | None]:
        """Return the SQL, by the name of the index's table."""
        return names.method_of(records, records.collections.c.id)

    def finish_writing(self, work: Work) -> None:
        """Bring up to date what is kept of an index that is far behind."""
        indexing.finish_writing(work)

    def keep_index(self, collection: Reference[Any]) -> None:
        """Bring up to date what is kept."""
        indexing.keep(collection)

    def before_deletion(self, collection: Reference[Any], work: Work) -> None:
        """Drop the tables beside."""
        super().before_deletion(collection, work)
        stored.drop(work)


DATABASE = SQLite()


def _without_log(connection: Connection, records: Records) -> None:
    """Remove the log, and the indexes, which need it."""
    stored.drop_all(connection, records)
    changelog.uninstall(connection, records)

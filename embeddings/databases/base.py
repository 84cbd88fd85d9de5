"""The port: what a database does its own way, with defaults in SQL that every database knows.

A database of its own is a subclass with a `name`, `search` and `metadata_is`, known by `register`.
Everything else has a default that is right, if not fast: rows are written one after the other,
whoever writes to a collection keeps the others out of it, and there is nothing beside the tables.
"""

from __future__ import annotations

import itertools
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from sqlalchemy import (
    ColumnElement,
    Float,
    Integer,
    LargeBinary,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    false,
    func,
    insert,
    inspect,
    literal,
    literal_column,
    null,
    select,
    type_coerce,
    union_all,
    update,
)
from sqlalchemy.exc import CompileError, DBAPIError
from sqlalchemy.types import NullType, String, TypeEngine, Uuid

from ..errors import IndexingError, SchemaError
from ..values import load_metadata
from ..vectors import ITEM_BYTES, Float32, VectorLike, decode_array, encode
from .additions import Addition, AdditionName
from .status import IndexInfo, IndexRequest, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from sqlalchemy import URL, Column, Connection, Dialect, Engine, ScalarSelect, Select, Subquery

    from ..following.literals import Follow
    from ..keys import Keys
    from ..models.base import Content
    from ..searching.entries import Ranking, ScoredRow
    from ..searching.filters import Comparison
    from ..searching.query import Query
    from ..searching.words import Term
    from ..tables.indexing import EmbeddingIndex, TextIndex
    from ..tables.records import Records
    from ..vectors import Float64
    from ..work.operation import Work
    from ..work.reference import Reference
    from ..work.row import CollectionRow


Bools: TypeAlias = npt.NDArray[np.bool_]
SAMPLE = 16
"""Rows that are looked at to tell the dimensions of a collection."""
HASHES_AT_ONCE = 512
"""In one statement, where each is a parameter: fewer than any database takes."""


class Database:
    """A kind of database. There is one object for each, and it holds nothing."""

    name: ClassVar[str] = "default"
    """SQLAlchemy's name of the dialect."""
    finishes_statements: ClassVar[bool] = False
    """Whether a statement that was sent is let finish when the task that waits is cancelled."""
    groups_chunks: ClassVar[bool] = False
    """Whether `search` and `matches` give each item once; else `searching.grouping` does."""
    fuses_words: ClassVar[bool] = False
    """Whether `search` and `matches` take a query with words; else `searching.hybrid` does."""
    rebuilds_tables: ClassVar[bool] = False
    """Whether Alembic's batch mode makes a table anew, which drops its triggers."""
    joins_by_hash: ClassVar[bool] = False
    """Whether a join of two whole tables takes less time than to look up each row."""
    has_wide_integers: ClassVar[bool] = False
    """Whether a column takes integers of 64 bits, whatever type of integer it is declared to be."""

    # Columns

    def text_type(self) -> TypeEngine[Any]:
        """Return the type of a text that is compared by code points."""
        return Text()

    def vector_type(self) -> TypeEngine[Any]:
        """Return the type of a vector."""
        return LargeBinary()

    def json_type(self) -> TypeEngine[Any]:
        """Return the type of metadata."""
        return Text()

    def encode_vector(self, vector: VectorLike) -> Any:
        """Return a vector as the driver takes it, checked."""
        return encode(vector)

    def decode_vector(self, stored: Any) -> Float32:
        """Return the read-only float32 array of what the driver gives."""
        return decode_array(stored)

    def encode_json(self, text: str) -> str:
        """Return JSON text as the database is to be given it."""
        return text

    # Tables

    def default_schema(self, connection: Connection) -> str | None:
        """Return the schema of a table that names none; None if that is the only one there is."""
        return None

    def schema_found(self, connection: Connection, table: str) -> str | None:
        """Return the schema in which a table that names none is found; if nowhere, the default."""
        return self.default_schema(connection)

    def may_read(self, connection: Connection, table: str, schema: str | None) -> bool:
        """Return whether the connection's role may read a table, or it is not there."""
        return True

    def before_create(self, connection: Connection) -> None:
        """Make what the tables need before they are created."""

    @property
    def additions(self) -> Mapping[AdditionName, Addition]:
        """What it has beside the tables. Without "pending" no table of a host's can be followed."""
        return {}

    def addition(self, name: AdditionName) -> Addition:
        """Return one of these, or what does nothing."""
        return self.additions.get(name, Addition())

    def follow(self, connection: Connection, given: Follow) -> None:
        """Make the triggers by which a collection follows a table, in place of those there are.

        Raises:
            SchemaError: They cannot be made on this database, or from where the table is.
            ValueError: They cannot evaluate the condition.
        """
        raise self.no_triggers()

    def unfollow(self, connection: Connection, given: Follow) -> None:
        """Drop them, if they are there."""
        raise self.no_triggers()

    def follow_script(self, given: Follow) -> list[str]:
        """Return the SQL of `follow`, for a script."""
        raise self.no_triggers()

    def unfollow_script(self, given: Follow) -> list[str]:
        """Return the SQL of `unfollow`, for a script."""
        raise self.no_triggers()

    def follow_problems(self, connection: Connection, given: Follow) -> list[str]:
        """Return what of the triggers is missing, disabled, or not as `follow` makes it."""
        return [f"no triggers are made on {self.name}"]

    def follows(self, connection: Connection, records: Records) -> list[Follow]:
        """Return what is followed beside these records, as the triggers that are there tell."""
        return []

    def is_one_table(self, one: tuple[str | None, str], other: tuple[str | None, str]) -> bool:
        """Return whether schemas and names, as the connection finds tables, are of one."""
        return one == other

    def is_followed(self, connection: Connection, given: Follow, schema: str | None) -> bool:
        """Return whether triggers that there are stand on the table that they were made for.

        They do not where that has another name by now, whatever has its name.

        Args:
            connection: To the database.
            given: What `follows` told.
            schema: In which the connection finds the table.
        """
        return False

    def no_triggers(self) -> SchemaError:
        """Return the error that says that no table can be followed."""
        return SchemaError(
            f"No table can be followed on {self.name}, for which no triggers are known; they are "
            "for SQLite and PostgreSQL"
        )

    # Side tables

    def check_side_tables(self, connection: Connection, records: Records) -> None:
        """Do nothing if the names of what stands beside the tables are free, or taken by it.

        Raises:
            SchemaError: Somebody else has a table of such a name.
        """

    def index_names(self, connection: Connection, records: Records) -> set[str]:
        """Return the names of the indexes of the two tables, and of what else is on them."""
        inspector, tables = inspect(connection), (records.collections, records.embeddings)
        found = (inspector.get_indexes(table.name, table.schema) for table in tables)
        return {str(index["name"]) for indexes in found for index in indexes}

    def side_tables(self, records: Records) -> set[str]:
        """Return the names of the tables that stand beside, which no metadata holds."""
        return set()

    def is_side_table(self, name: str, records: Records) -> bool:
        """Return whether a table of this name stands beside the tables."""
        return name in self.side_tables(records)

    def is_own_column(self, name: str) -> bool:
        """Return whether a column of the two tables is one that no metadata holds."""
        return False

    def is_own_index(self, name: str, records: Records) -> bool:
        """Return whether an index of this name is one that `create_index` makes."""
        return False

    def know_types(self) -> None:
        """Let SQLAlchemy's reflection know the types of the columns."""

    def lacking(self, error: DBAPIError, records: Records) -> dict[str, set[str] | None] | None:
        """Return what the tables lack, by the error of a statement.

        Returns:
            For each table that lacks something the names of its columns, or None if it is not
            there; empty if the error is about something else; None if the tables have to be looked
            at to tell.
        """
        return None

    # Errors

    def hint(self, error: DBAPIError, dialect: Dialect) -> str | None:
        """Return what to do about an error of the driver's; None if that is not known."""
        return None

    def why_not_open(self, error: DBAPIError) -> str | None:
        """Return why a database that we open cannot be opened; None if it is about other things."""
        return None

    def asks_to_try_again(self, error: DBAPIError) -> bool:
        """Return whether the same transaction may succeed now, because of what others have done."""
        return False

    def is_away(self, error: Exception) -> bool:
        """Return whether an error says that the database is not to be had for some time.

        It is the driver's, or that of SQLAlchemy or Django which it has become.
        """
        return isinstance(error, DBAPIError) and error.connection_invalidated

    def refuses_writing(self, error: DBAPIError) -> bool:
        """Return whether an error says that the database can only be read."""
        return False

    # Transactions

    def begin(self, connection: Connection, *, write: bool, fresh: bool = False) -> bool:
        """Begin a real transaction where the driver puts it off.

        Args:
            connection: In a transaction as SQLAlchemy sees it, which also ends this one.
            write: Keep other writers out at once, where writers take turns.
            fresh: Nothing was done in the transaction yet: it may be begun anew for writing.

        Returns:
            Whether it was begun here.
        """
        return False

    def commits_each_statement(self, connection: Connection) -> bool:
        """Return whether there are no transactions on the connection: AUTOCOMMIT, to SQLAlchemy."""
        return bool(getattr(connection.connection.dbapi_connection, "autocommit", False))

    def own_isolation_level(self, connection: Connection) -> str | None:
        """Return the isolation level of a transaction of our own; None for the connection's."""
        return None

    def migration_isolation_level(self) -> str | None:
        """Return the isolation level in which a migration sees what others commit meanwhile."""
        return None

    def schema_change(self, connection: Connection) -> AbstractContextManager[None]:
        """Return a context in which changes of the schema are part of the caller's transaction."""
        return nullcontext()

    def lock_migrations(self, connection: Connection) -> None:
        """Wait until no other process migrates, and keep others out until the transaction ends.

        Raises:
            SchemaError: The connection has no transactions.
        """

    def writing_turn(self, turn: AbstractContextManager[Any]) -> AbstractContextManager[Any]:
        """Return what a writer of ours holds from its beginning to its end.

        Args:
            turn: The turn of the writers of an engine, for a database that admits one at a time.
        """
        return nullcontext()

    def are_apart(self, one: URL, other: URL) -> bool:
        """Return whether two URLs lead to different databases for certain.

        A server may be reached by several names.
        """
        servers = [(url.host, url.port, url.query.get("host")) for url in (one, other)]
        return servers[0] == servers[1] and one.database != other.database

    # Databases that are opened here

    def url(self, url: URL, *, asynchronous: bool) -> URL:
        """Return the URL with a driver that is installed, where it names none.

        Raises:
            MissingExtraError: There is none.
        """
        return url

    def new_engine(self, url: URL, create: Callable[..., Engine]) -> Engine:
        """Return an engine of our own on a URL; nothing is connected yet."""
        return create(url, hide_parameters=True)

    def is_missing(self, url: URL) -> bool:
        """Return whether the URL leads to a file that is not there."""
        return False

    def file_of(self, driver: Any) -> str | None:
        """Return the file that a driver's connection has open; None in memory, or on a server."""
        return None

    def can_write(self, driver: Any) -> bool:
        """Return whether a driver's connection, which is in no transaction, can write."""
        return True

    def is_of_this_thread(self, driver: Any) -> bool:
        """Return whether this thread can use a driver's connection."""
        return True

    def before_first_write(self, engine: Engine) -> bool:
        """Set up a database that we opened, and return whether a second connection can write."""
        return True

    # The collection's row

    def begin_writing(self, work: Work) -> None:
        """Keep other writers out, where they take turns, before anything is read to be written.

        Called first by every operation that writes in somebody else's transaction.
        """

    def lock_to_write(self, work: Work, name: str) -> bool:
        """Keep a collection from being deleted, and other writers out as far as that takes.

        Returns:
            Whether the row that is read next is kept, and not one that is created until then.
        """
        return work.touch(name)

    def settle_dimensions(self, work: Work, collection: Reference[Any]) -> CollectionRow:
        """Return the row of a collection without vectors, whose first one settles the dimensions.

        Other writers are kept out of it from here on.
        """
        return work.row

    def insert_collection(self, work: Work, name: str, model_id: str) -> None:
        """Insert a collection's row, unless another writer did meanwhile."""
        collections = work.records.collections
        new = select(literal(name), literal(model_id)).where(
            ~exists(select(collections.c.id).where(collections.c.name == name))
        )
        work.run(insert(collections).from_select(["name", "model"], new))

    def lock_collection(self, work: Work) -> None:
        """Wait for those who write to the collection, and keep others out."""

    def row_named(self, work: Work, name: str) -> CollectionRow | None:
        """Return a collection's row by its name, read now, or None."""
        return work.read_row(name)

    def row_to_search(self, work: Work, name: str) -> CollectionRow | None:
        """Return the row of a collection that is about to be searched, read now.

        It says whether there is an index. `vector_bytes` may be None where `search` and `matches`
        find out by themselves.
        """
        return self.row_named(work, name)

    def confirms(self, row: CollectionRow) -> bool:
        """Return whether `search` takes this row, which is remembered, and confirms it."""
        return False

    # Rows

    def vector_bytes(self, embedding: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the SQL of a vector's length in bytes of float32; NULL for what is no vector."""
        return func.length(type_coerce(embedding, LargeBinary), type_=Integer)

    def vector_bytes_of_row(self, records: Records) -> ScalarSelect[int | None]:
        """Return the SQL of the bytes of a vector in the collection that the outer query is about.

        It is the commonest length among a few rows: a single one may be corrupt.
        """
        columns = records.embeddings.c
        size = self.vector_bytes(columns.embedding)
        sample = (  # not of the rows without an id, which SQLite admits, and which no search finds
            select(size.label("size"))
            .where(
                columns.collection_id == records.collections.c.id,
                columns.id.is_not(None),
                self.is_vector(columns.embedding),
            )
            .order_by(columns.id)
            .limit(literal_column(str(SAMPLE)))
            .correlate(records.collections)
            .subquery()
        )
        return (
            select(sample.c.size)
            .group_by(sample.c.size)
            .order_by(func.count().desc(), sample.c.size.desc())
            .limit(1)
            .scalar_subquery()
        )

    def is_vector(self, embedding: ColumnElement[Any]) -> ColumnElement[bool]:
        """Return the condition that the column holds something of a vector's length."""
        size = self.vector_bytes(embedding)
        return and_(size > 0, size % ITEM_BYTES == 0)

    def vector_as_bytes(self, embedding: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the SQL of a vector as bytes of little-endian float32, as they are stored."""
        return type_coerce(embedding, NullType)

    def as_matrix(self, blobs: Sequence[Any], dimensions: int) -> tuple[Float32, Bools]:
        """Return vectors as the rows of a matrix, and which of all that were given are in it.

        Args:
            blobs: What `vector_as_bytes` selects. One of another length is left out.
            dimensions: Of the collection's vectors.

        Returns:
            float32, shape (rows, dimensions), and bool, shape (blobs,).
        """
        return as_matrix(blobs, dimensions, header=0, dtype="<f4")

    def has_id(self, id: ColumnElement[str]) -> ColumnElement[bool]:
        """Return the condition that a row has an id, which does not change how it is sought."""
        return id.is_not(None)

    def is_one_of(self, id: ColumnElement[str], ids: Iterable[str]) -> ColumnElement[bool]:
        """Return the condition that an id is one of any number."""
        return id.in_(list(ids))

    def metadata_is(
        self, metadata: ColumnElement[Any], comparison: Comparison
    ) -> ColumnElement[bool]:
        """Return the condition that a field of the metadata is what the comparison says.

        Numbers, strings, bools and null are apart, and what is of another kind is not equal, less
        or greater. A path leads through objects only. Strings are compared by code points. NULL
        stands for false, and no stored value may make the statement fail.

        Args:
            metadata: The column.
            comparison: Its path, operator and value.
        """
        raise NotImplementedError

    def stored_rows(
        self, work: Work, ids: list[str], hashes: Collection[bytes] | None = None
    ) -> Iterable[Any]:
        """Return (id, hash, is text, is binary, metadata as text, vector's bytes, time) of rows.

        Args:
            work: Of the collection.
            ids: Of the rows.
            hashes: Of a row that has none of these the vector's bytes may be left out, as None.
        """
        columns = work.records.embeddings.c
        return work.run(
            rows_of(self, work.records, self.is_one_of(columns.id, ids)),
            {"collection_id": work.row.id},
        )

    def same_content(self, work: Work, hashes: list[bytes]) -> Iterable[Any]:
        """Return (hash, is text, is binary, id) of one row for each content, by hashes."""
        content_hash = work.records.embeddings.c.content_hash
        has_length = has_vector_bytes(self, work.records)
        parameters = {"collection_id": work.row.id, "vector_bytes": work.row.vector_bytes}
        for start in range(0, len(hashes), HASHES_AT_ONCE):
            is_same = and_(has_length, content_hash.in_(hashes[start : start + HASHES_AT_ONCE]))
            yield from work.run(by_hash(self, work.records, is_same), parameters)

    def write_rows(
        self,
        work: Work,
        rows: Sequence[dict[str, Any]],
        updated: int,
        there: Collection[str] | None = None,
    ) -> None:
        """Insert rows, each in place of the row that has its id.

        Args:
            work: Whose collection they are put in.
            rows: By the columns of the table, without the collection's id; vectors are float32,
                metadata is JSON text. Sorted by id. A row that is copied brings its own `updated`.
            updated: The time of the write, in seconds since 1970, UTC.
            there: The ids of rows that were there a moment ago; None if nobody looked.
        """
        table = work.records.embeddings
        is_ours = table.c.collection_id == work.row.id
        if there is None:
            ids = [row["id"] for row in rows]
            stored = select(table.c.id).where(is_ours, self.is_one_of(table.c.id, ids))
            there = {*work.run(stored).scalars()}
        new: list[dict[str, Any]] = []
        for row in rows:
            metadata = row["metadata"] and load_metadata(row["metadata"])
            values = {"updated": updated} | row | {"metadata": metadata}
            if row["id"] in there:  # a host's own columns stay as they are
                work.run(update(table).where(is_ours, table.c.id == row["id"]).values(values))
            else:
                new.append(values | {"collection_id": work.row.id, **work.extra})
        if new:
            work.connection.execute(insert(table), new)

    def add_rows(self, work: Work, rows: Sequence[dict[str, Any]], updated: int) -> bool:
        """Insert rows that were not there when they were looked for, as `write_rows`.

        Returns:
            Whether another writer may have been faster. Its rows are left alone.
        """
        self.write_rows(work, rows, updated)
        return False

    def keep_rows(self, work: Work, ids: Sequence[str]) -> None:
        """Keep others from changing the rows of these ids until the transaction ends."""

    def delete_rows(self, work: Work, conditions: Sequence[ColumnElement[bool]]) -> int:
        """Delete rows of embeddings and return how many there were."""
        return work.changed(delete(work.records.embedding).where(*conditions))

    # Rows of the host's that a collection follows

    def joined_texts(
        self, columns: Sequence[ColumnElement[Any]], between: str
    ) -> ColumnElement[str]:
        """Return the SQL of the texts of columns, joined; NULL and "" are left out."""
        joined: ColumnElement[str] = literal("")
        for column in columns:
            joined = joined + case((column != "", literal(between) + column), else_="")
        return func.substr(joined, len(between) + 1, type_=String())

    def text_hash(
        self, work: Work, text: ColumnElement[str], content_hash: Callable[[Content], bytes]
    ) -> ColumnElement[bytes] | None:
        """Return the SQL of a text's hash; None if the database cannot compute it.

        Args:
            work: In whose transaction it is to be computed.
            text: The text.
            content_hash: What computes it in Python.
        """
        return None

    def has_length(self, embedding: ColumnElement[Any], vector_bytes: int) -> ColumnElement[bool]:
        """Return the condition that a vector is of a length, as far as rows can differ in it."""
        return self.vector_bytes(embedding) == vector_bytes

    def has_metadata(
        self, stored: ColumnElement[Any], given: ColumnElement[Any] | dict[str, ColumnElement[Any]]
    ) -> ColumnElement[bool]:
        """Return a condition that holds only if stored metadata are those that a row has.

        Where it does not hold they may be the same: they are compared once more then.

        Args:
            stored: The column.
            given: A column of JSON objects, or columns by the names of their values.
        """
        return false()

    def compares_rows(self, work: Work) -> bool:
        """Return whether a statement may compare rows of the host's with embeddings."""
        return True

    def can_keep_keys(self, work: Work, key: Column[Any]) -> bool:
        """Return whether `keep_keys` keeps rows of a key's table, in this role and there."""
        return True

    def keep_keys(self, work: Work, key: Column[Any], keys: list[Any]) -> Iterable[Any]:
        """Return the keys of a table that nobody else is deleting or changing just now.

        Others are kept from it until the transaction ends. Nobody is waited for.
        """
        return work.run(select(key).where(key.in_(keys)).order_by(key)).scalars()

    def skipping_locked(self, statement: Select[Any]) -> Select[Any]:
        """Return a SELECT of the rows that nobody else has locked, which locks them.

        Where writers take turns it is the SELECT itself.
        """
        return statement

    def free_rows(self, work: Work, ids: Sequence[str]) -> set[str]:
        """Return the ids whose embeddings nobody else is writing, and keep those from others.

        An id without a row is free. Nobody is waited for.
        """
        return {*ids}

    def wait_briefly(self, work: Work) -> None:
        """Let the rest of the transaction wait for nobody longer than for a moment.

        So nobody else is ended by a deadlock with it.
        """

    def was_kept_waiting(self, error: DBAPIError) -> bool:
        """Return whether an error says that others were in the way: the same may work again."""
        return False

    # Keys

    def key_as_text(self, key: ColumnElement[Any]) -> ColumnElement[str]:
        """Return the SQL of the stored ids for a column of the host's keys."""
        if isinstance(key.type, Uuid):
            return func.replace(cast(key, Text), "-", "")
        if isinstance(key.type, String):
            return key
        return cast(key, Text)

    def is_among(self, id: ColumnElement[str], key: ColumnElement[Any]) -> ColumnElement[bool]:
        """Return the condition that a stored id is one of the host's keys.

        Args:
            id: The column of stored ids.
            key: The column of a SELECT of the host's.
        """
        return id.in_(select(self.key_as_text(key)))

    def key_from_text(self, id: ColumnElement[str], keys: Keys[Any]) -> ColumnElement[Any]:
        """Return the SQL of the host's keys for stored ids."""
        return cast(id, keys.sql_type)

    def sought_key(self, id: ColumnElement[str], keys: Keys[Any]) -> ColumnElement[Any]:
        """Return the SQL of the host's key to seek for a stored id.

        For an id that is none it gives NULL or any key: the id is compared as well.
        """
        return self.key_from_text(id, keys)

    def written_key(self, key: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the SQL of a host's key as it is written in its row, which pages are read by."""
        return key

    def id_written(self, value: Any, keys: Keys[Any]) -> str:
        """Return the id that a trigger notes for a key, by what `any_text` gives of it."""
        return keys.id_noted(value)

    def is_written(self, key: ColumnElement[Any], id: str) -> ColumnElement[bool]:
        """Return the condition that a trigger notes an id for a key, though it may be none."""
        return cast(key, Text) == id

    def any_text(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return the SQL of a text, or a host's key, that can be read whatever its bytes are.

        What is no UTF-8 is escaped by lone surrogates, as Python escapes the names of files.
        """
        return column

    # Searches

    def search(self, work: Work, vector: Float64, query: Query) -> Ranking:
        """Return the rows nearest to the vector, best first, ties by id. Reads only.

        `searching.scan` does so in any database.

        Args:
            work: What its session sees is searched.
            vector: Shape (dimensions,), from `as_query`.
            query: How many, and under which conditions.

        Raises:
            InvalidVectorError: The vector has another length than those of the collection.
            NotConfirmed: The row of the collection was remembered, and does not hold.
        """
        raise NotImplementedError

    def search_multi(self, work: Work, vectors: Sequence[Float64], query: Query) -> list[Ranking]:
        """Return for each of the vectors what `search` returns."""
        return [self.search(work, vector, query) for vector in vectors]

    def matches(self, work: Work, keys: Keys[Any], vector: Float64, query: Query) -> Subquery:
        """Return what `search` finds as a selectable with the columns `id` and `score`.

        Raises:
            NotConfirmed: As `search`.
        """
        return self.as_selectable(keys, [*self.search(work, vector, query).rows])

    def as_selectable(
        self, keys: Keys[Any], rows: Sequence[ScoredRow], offset: int | None = None
    ) -> Subquery:
        """Return rows as a selectable with the columns `id` and `score`, best first.

        Args:
            keys: The type of the ids.
            rows: What was found.
            offset: Where they were found by words too, how many were left out before these. There
                is a third column then, `rank`, from 1.
        """
        best = [
            select(
                literal(keys.from_text(row.id), keys.sql_type).label("id"),
                literal(row.score, Float).label("score"),
                *([] if offset is None else [literal(offset + at, Integer).label("rank")]),
            )
            for at, row in enumerate(rows, 1)
        ]
        if not best:
            return keys.none_found(with_rank=offset is not None)
        return union_all(*best).subquery()

    def warm(self, work: Work) -> None:
        """Load what searches of the collection keep in memory. Reads only; by default nothing."""

    def status(self, work: Work, row: CollectionRow | None) -> Status:
        """Return how the next search will go about it. Reads only."""
        return Status("scan", f"on {self.name} every search reads the rows")

    def warning(self, connection: Connection, records: Records) -> str | None:
        """Return what makes statements about the tables slow, and what to do about it; or None."""
        return None

    def cosine_similarity(
        self, vector: ColumnElement[Any], other: ColumnElement[Any]
    ) -> ColumnElement[float]:
        """Return the SQL of the cosine similarity of two vectors; NULL if their lengths differ.

        Raises:
            CompileError: The database cannot compute it. The message says what can be used.
        """
        raise CompileError(
            f"{self.name} computes no cosine similarity: search with Collection.matches(), and "
            "join what it returns"
        )

    # Several servers

    def distribute(
        self, connection: Connection, by: Literal["collection", "item"], records: Records
    ) -> None:
        """Distribute the tables over several servers, in the connection's transaction."""
        raise SchemaError(f"Tables are distributed by Citus, on PostgreSQL, and not on {self.name}")

    def undistribute(self, connection: Connection, records: Records) -> None:
        """Bring the tables back to one server, in the connection's transaction."""
        raise SchemaError(f"Tables are distributed by Citus, on PostgreSQL, and not on {self.name}")

    # Indexes

    def create_index(self, collection: Reference[Any], asked: IndexRequest) -> IndexInfo:
        """Build an index of a collection, and return what it is."""
        raise self.no_indexes()

    def index_script(self, given: EmbeddingIndex, connection: Connection | None) -> list[str]:
        """Return the SQL that makes an index, by the collection's name; where there is none, none.

        Args:
            given: The index.
            connection: Which maps schemas; None for a script.
        """
        return []

    def index_script_down(self, given: EmbeddingIndex, connection: Connection | None) -> list[str]:
        """Return the SQL that drops an index, if it is there, and the collection if it is empty.

        That one only if its model is given. Arguments as in `index_script`.
        """
        return []

    def drop_index(self, collection: Reference[Any]) -> bool:
        """Drop the index of a collection, and return whether there was one."""
        raise self.no_indexes()

    def index_info(self, work: Work) -> IndexInfo | None:
        """Return what the index of a collection is, or None."""
        return None

    def finish_writing(self, work: Work) -> None:
        """Do what is left to do before a transaction of our own, which has written, commits."""

    def keep_index(self, collection: Reference[Any]) -> None:
        """Bring up to date what the database keeps of an index, in a transaction of our own."""

    def index_method(self, records: Records) -> ColumnElement[str | None]:
        """Return the SQL of the method of the outer query's collection's index in memory, or NULL.

        It does not fail where nothing but the two tables is there.
        """
        return type_coerce(null(), Text)

    # Text indexes

    def text_language(self, records: Records) -> ColumnElement[str | None]:
        """Return the SQL of the language of the outer query's collection; NULL without an index.

        It does not fail in a database whose tables are of a revision before text indexes.
        """
        return type_coerce(null(), Text)

    def create_text_index(self, work: Work, language: str) -> None:
        """Make the text index of a collection, and put in the words of contents that are stored.

        It may be there already, in this language.
        """
        raise IndexingError(f"There are no text indexes on {self.name}")

    def drop_text_index(self, work: Work, language: str) -> None:
        """Drop the text index, which is there."""

    def text_index_script(self, given: TextIndex) -> list[str] | None:
        """Return the SQL that makes a text index, by the collection's name, without its words.

        None where no SQL can be written without the database.
        """
        return None

    def text_index_script_down(self, given: TextIndex) -> list[str] | None:
        """Return the SQL that drops one, if it is there, and the collection if it is empty.

        That one only if its model is given, and there is no index of vectors. None as above.
        """
        return None

    def put_words(self, work: Work, texts: Mapping[str, tuple[str, bytes]], language: str) -> None:
        """Put the words of items, whose rows are written, into the text index.

        Where an item has its words there already, they stay.

        Args:
            work: Of the collection.
            texts: By their ids, with the hashes that their rows have.
            language: Of the index.
        """

    def lacks_words(self, work: Work) -> ColumnElement[bool]:
        """Return the condition that a row's words are not in the text index, which is there."""
        return false()

    def without_words(self, work: Work, ids: list[str]) -> set[str]:
        """Return those of some stored ids that have no words in the text index."""
        columns = work.records.embeddings.c
        lacking = select(columns.id).where(
            columns.collection_id == work.row.id,
            self.is_one_of(columns.id, ids),
            self.lacks_words(work),
        )
        return {*work.run(lacking).scalars()}

    def count_without_words(self, work: Work) -> int:
        """Return how many items, other than bytes, have no words in the text index."""
        columns = work.records.embeddings.c
        counted = select(func.count(work.item_id.distinct())).where(
            columns.collection_id == work.row.id,
            columns.content_blob.is_(None),
            self.lacks_words(work),
        )
        return int(work.run(counted).scalar_one())

    def ids_with_words(
        self, work: Work, terms: list[Term], query: Query, most: int | None
    ) -> list[str]:
        """Return the stored ids of items with one of the terms at least, best first, ties by id.

        Args:
            work: Of a collection with a text index.
            terms: What is looked for.
            query: Whose filters they meet.
            most: How many at most.
        """
        raise IndexingError(f"There are no text indexes on {self.name}")

    # Chunks

    def chunk_setting(self, records: Records) -> ColumnElement[str | None]:
        """Return the SQL of how texts of the outer query's collection are cut, as JSON, or NULL.

        It does not fail in a database whose tables are of a revision before chunks.
        """
        return type_coerce(null(), Text)

    def set_chunk_setting(self, work: Work, setting: str | None) -> None:
        """Keep how the texts of a collection without rows are cut; None: not at all."""
        if setting is not None:
            raise SchemaError(f"There are no collections with chunks on {self.name}")

    def item_of(self, id: ColumnElement[str]) -> ColumnElement[str]:
        """Return the SQL of an item's stored id by that of a chunk: what precedes the last "#"."""
        digits: ColumnElement[str] = literal_column("'0123456789'")
        trimmed = func.rtrim(id, digits, type_=id.type)
        length = func.length(trimmed)
        item = func.substr(
            trimmed, literal_column("1"), length - literal_column("1"), type_=id.type
        )
        # Of the rows of other collections nothing is known.
        return case((length > literal_column("0"), item))

    def is_first_chunk(self, id: ColumnElement[str]) -> ColumnElement[bool]:
        """Return the condition that the stored id is that of an item's first chunk."""
        last = func.substr(id, func.length(id) - literal_column("1"), type_=id.type)
        return last == literal_column("'#0'")

    def parts(self, work: Work) -> Subquery:
        """Return what is kept of the chunks of a collection that has some.

        Its columns are `id` of the chunk's row, `start` and `end` in the item's text and, of the
        first chunk, `item_hash`, `item_content`, which is the item's text where it is stored and
        is not a chunk itself, and `item_chunks`, their number.
        """
        raise NotImplementedError

    def put_parts(self, work: Work, given: Sequence[tuple[Any, ...]]) -> None:
        """Keep that of chunks whose rows are written: tuples of these values, in this order.

        That of rows which were written as a whole is in `Work.parts` before, to be written along.
        """

    def keep_items(self, work: Work, ids: Sequence[str]) -> None:
        """Keep others from writing chunks of items, by the items' stored ids."""

    def free_items(self, work: Work, ids: Sequence[str]) -> set[str]:
        """Return the items whose chunks nobody else is writing, and keep those as `keep_items`.

        Nobody is waited for.
        """
        return {*ids}

    def before_deletion(self, collection: Reference[Any], work: Work) -> None:
        """Remove what a collection has besides its rows, before these are deleted."""
        if work.row.language is not None:
            self.drop_text_index(work, work.row.language)
        if work.row.chunks is not None:
            self.set_chunk_setting(work, None)

    def after_deletion(self, collection: Reference[Any], row: CollectionRow) -> None:
        """Remove what could not be removed within the transaction that deleted the collection."""

    def no_indexes(self) -> IndexingError:
        """Return the error that says that there are no indexes."""
        return IndexingError(
            f"There are no indexes on {self.name}, where every search is exact; they are for "
            "SQLite and PostgreSQL"
        )


def as_matrix(
    blobs: Sequence[Any], dimensions: int, *, header: int, dtype: str
) -> tuple[Float32, Bools]:
    """Return the matrix of `Database.as_matrix` of blobs with so many bytes before the values."""
    length = header + dimensions * ITEM_BYTES
    if {*map(type, blobs)} <= {bytes} and {*map(len, blobs)} <= {length}:
        is_whole = np.ones(len(blobs), bool)
    else:
        is_whole = np.array([type(blob) is bytes and len(blob) == length for blob in blobs], bool)
        blobs = [*itertools.compress(blobs, is_whole)]
    data = bytearray().join(blobs)  # unlike bytes it can be written to
    rows = np.frombuffer(data, [("header", f"V{header}"), ("values", dtype, (dimensions,))])
    return rows["values"].astype(np.float32, copy=False), is_whole


def rows_of(
    database: Database,
    records: Records,
    has_id: ColumnElement[bool],
    is_measured: ColumnElement[bool] | None = None,
) -> Select[Any]:
    """Return the SELECT of `Database.stored_rows`, with the parameter `collection_id`.

    Args:
        database: The database.
        records: The mapped classes.
        has_id: The condition that a row is one of those.
        is_measured: The condition that its vector's bytes are told; by default they are.
    """
    is_its = records.embeddings.c.collection_id == bindparam("collection_id")
    return select(*stored_columns(database, records, is_measured)).where(is_its, has_id)


def stored_columns(
    database: Database, records: Records, is_measured: ColumnElement[bool] | None = None
) -> list[ColumnElement[Any]]:
    """Return what `Database.stored_rows` selects; see `rows_of`."""
    columns = records.embeddings.c
    vector_bytes = database.vector_bytes(columns.embedding)
    if is_measured is not None:
        vector_bytes = case((is_measured, vector_bytes))
    return [
        columns.id,
        columns.content_hash,
        columns.content.is_not(None),
        columns.content_blob.is_not(None),
        cast(columns.metadata, Text),
        vector_bytes,
        columns.updated,
    ]


def by_hash(
    database: Database,
    records: Records,
    is_same: ColumnElement[bool],
    collection_id: ColumnElement[int] | None = None,
) -> Select[Any]:
    """Return the SELECT of `Database.same_content`, with the parameter `collection_id`.

    Args:
        database: The database.
        records: The mapped classes.
        is_same: The condition that a row has one of the hashes, and `has_vector_bytes`.
        collection_id: What is compared; by default what no index has, for a planner would rather
            read the whole collection than its hashes.
    """
    columns = records.embeddings.c
    if collection_id is None:
        collection_id = columns.collection_id + 0
    flags = (columns.content.is_not(None), columns.content_blob.is_not(None))
    return (
        select(columns.content_hash, *flags, func.min(columns.id))
        .where(
            collection_id == bindparam("collection_id"),
            is_same,
        )
        .group_by(columns.content_hash, *flags)
    )


def has_vector_bytes(database: Database, records: Records) -> ColumnElement[bool]:
    """Return the condition that a vector is of a length, with the parameter `vector_bytes`."""
    return database.vector_bytes(records.embeddings.c.embedding) == bindparam("vector_bytes")

"""PostgreSQL with pgvector: searched by the database itself, exact or by an index.

`types` and `drivers` carry vectors, `extension` makes pgvector's, `rows` are locked and written,
`search` and `index` find the nearest.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    LargeBinary,
    Text,
    cast,
    collate,
    delete,
    func,
    literal,
    select,
    text,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import base as dialect
from sqlalchemy.types import String, TypeEngine, Uuid

from ...driver_errors import sqlstate
from ...errors import MissingExtraError, SchemaError
from ...tables.pending import pending_name
from ...vectors import ITEM_BYTES, Float32, VectorLike
from ...writing.items import content_hash as md5
from ..additions import Addition, AdditionName
from ..base import Bools, Database, as_matrix
from ..quoting import quoted
from ..status import IndexInfo, IndexRequest, Status
from . import (
    added,
    build,
    citus,
    distances,
    extension,
    fields,
    followed,
    hybrid,
    index,
    parts,
    pending,
    rows,
    search,
    servers,
    triggers,
    words,
)
from .names import MIGRATION_LOCK
from .types import PGJSON, PGVector, Values, as_jsonb, from_pgvector, to_pgvector_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from sqlalchemy import URL, Column, ScalarSelect, Select, Subquery
    from sqlalchemy.exc import DBAPIError

    from ...following.literals import Follow
    from ...keys import Keys
    from ...models.base import Content
    from ...searching.entries import Ranking
    from ...searching.filters import Comparison
    from ...searching.query import Query
    from ...tables.indexing import EmbeddingIndex, TextIndex
    from ...tables.records import Records
    from ...vectors import Float64
    from ...work.operation import Work
    from ...work.reference import Reference
    from ...work.row import CollectionRow

# https://www.postgresql.org/docs/current/errcodes-appendix.html
UNDEFINED_TABLE, UNDEFINED_COLUMN = "42P01", "42703"


class PostgreSQL(Database):
    """PostgreSQL, by psycopg, psycopg2 or asyncpg."""

    name = "postgresql"
    fuses_words = True
    groups_chunks = True
    joins_by_hash = True

    # Columns

    def text_type(self) -> TypeEngine[Any]:
        """Return TEXT in the order of code points, served by the primary key."""
        return Text(collation="C")

    def vector_type(self) -> TypeEngine[Any]:
        """Return pgvector's type."""
        return PGVector()

    def json_type(self) -> TypeEngine[Any]:
        """Return JSONB."""
        return PGJSON()

    def encode_vector(self, vector: VectorLike) -> str:
        """Return pgvector's text."""
        return to_pgvector_text(vector)

    def decode_vector(self, stored: bytes) -> Float32:
        """Return the array of pgvector's bytes."""
        return from_pgvector(stored)

    def encode_json(self, text: str) -> str:
        """Return text from which JSONB makes the same numbers."""
        return as_jsonb(text)

    # Tables

    def default_schema(self, connection: Connection) -> str | None:
        """Return the first schema of the search path."""
        return connection.scalar(select(func.current_schema()))

    def schema_found(self, connection: Connection, table: str) -> str | None:
        """Return the first schema of the search path that has the table."""
        found = text(f"SELECT {pending.schema_that_has(':table')}")
        schema: str | None = connection.scalar(found, {"table": quoted(table)})
        return schema

    def may_read(self, connection: Connection, table: str, schema: str | None) -> bool:
        """Return whether the role may, or the table is not there."""
        return extension.may_read(connection, table, schema)

    def before_create(self, connection: Connection) -> None:
        """Create pgvector's extension."""
        extension.create(connection)

    @property
    def additions(self) -> Mapping[AdditionName, Addition]:
        """The table of rows that are pending, and columns of text indexes and of chunks."""
        return {
            "pending": Addition(
                pending.install,
                pending.uninstall,
                pending.script,
                pending.script_down,
                pending.missing,
            ),
            "words": Addition(
                words.install, words.uninstall, words.script, words.script_down, words.missing
            ),
            "chunks": Addition(
                parts.install, parts.uninstall, parts.script, parts.script_down, parts.missing
            ),
        }

    def index_names(self, connection: Connection, records: Records) -> set[str]:
        """Read the catalog."""
        return added.names_on_both(connection, records)

    def side_tables(self, records: Records) -> set[str]:
        """Return the rows that are pending."""
        return {pending_name(records)}

    def is_own_index(self, name: str, records: Records) -> bool:
        """Return whether the name is that of a collection's HNSW index, or of the text index."""
        is_hnsw = re.fullmatch(rf"{re.escape(index.prefix(records))}\d+_hnsw", name) is not None
        return is_hnsw or name == words.index_name(records)

    def is_own_column(self, name: str) -> bool:
        """Return whether the column belongs to the text index or to chunks."""
        return name in self._own_columns

    @property
    def _own_columns(self) -> set[str]:
        return {words.WORDS, words.WORDS_OF, words.LANGUAGE, parts.SETTING, *parts.COLUMNS}

    def know_types(self) -> None:
        """Let reflection know `vector`, unless the host has told it another type."""
        dialect.ischema_names.setdefault("vector", PGVector)

    def lacking(self, error: DBAPIError, records: Records) -> dict[str, set[str] | None] | None:
        """Return what the error names: after it nothing can be asked in the transaction."""
        # The lines below show the statement, in which our tables may stand for any reason.
        message, code = str(error.orig).partition("\n")[0], sqlstate(error)

        def is_named(name: str) -> bool:
            return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", message) is not None

        tables = records.collections.name, records.embeddings.name, pending_name(records)
        if code == UNDEFINED_TABLE:
            return {name: None for name in tables if is_named(name)}
        if code == UNDEFINED_COLUMN:
            if any(map(is_named, self._own_columns)):  # which an older version had not
                return {records.embeddings.name: None}
            return {name: {"a column"} for name in tables if is_named(name)}
        return {}

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

    def is_followed(self, connection: Connection, given: Follow, schema: str | None) -> bool:
        """Return whether the triggers stand on the table that they were made for."""
        return triggers.is_followed(connection, given, schema)

    # Errors

    def asks_to_try_again(self, error: DBAPIError) -> bool:
        """Return whether it could not be serialized, or was chosen to end a deadlock."""
        return sqlstate(error) in extension.TRY_AGAIN

    def refuses_writing(self, error: DBAPIError) -> bool:
        """Return whether the role may not, or the server is a standby."""
        return sqlstate(error) in extension.READS_ALONE

    def is_away(self, error: Exception) -> bool:
        """Return whether a connection was lost, or none is to be had."""
        return super().is_away(error) or extension.refuses_connections(error)

    # Transactions

    def own_isolation_level(self, connection: Connection) -> str | None:
        """Return the database's default on an engine that commits every statement."""
        return "READ COMMITTED" if self.commits_each_statement(connection) else None

    def migration_isolation_level(self) -> str | None:
        """Return READ COMMITTED: another process may be ahead, and has to be seen then."""
        return "READ COMMITTED"

    def lock_migrations(self, connection: Connection) -> None:
        """Take an advisory lock until the transaction ends."""
        if self.commits_each_statement(connection):
            remedy = "pass the engine"
            if connection.dialect.is_async:
                remedy = (
                    "async with engine.execution_options(isolation_level='READ COMMITTED').begin() "
                    "as connection: await connection.run_sync(embeddings.migrate)"
                )
            raise SchemaError(
                "This connection commits every statement (AUTOCOMMIT), and a migration is one "
                f"transaction: {remedy}"
            )
        connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        citus.prepare_migration(connection)

    # Databases that are opened here

    def url(self, url: URL, *, asynchronous: bool) -> URL:
        """Return the URL with the first driver that is installed, where it names none."""
        if url.drivername not in {"postgres", "postgresql"}:
            return url.set(drivername=url.drivername.replace("postgres+", "postgresql+", 1))
        for driver in ("psycopg", "asyncpg" if asynchronous else "psycopg2"):
            if find_spec(driver):
                return url.set(drivername=f"postgresql+{driver}")
        raise MissingExtraError("psycopg", "postgresql")

    # The collection's row

    def lock_to_write(self, work: Work, name: str) -> bool:
        """Keep the collection from being deleted, and nobody else from writing."""
        return rows.keep_collection(work, name)

    def settle_dimensions(self, work: Work, collection: Reference[Any]) -> CollectionRow:
        """Keep other writers out while the collection is empty, and read its row again."""
        work.touch(collection.name)
        row = collection.existing(work)
        if row.vector_bytes is None:
            # An index outlives the last row, and takes no others than it was made for.
            info = index.index_info(work.connection, work.records, row.id)
            if info is not None and info.dimensions is not None:
                return row._replace(vector_bytes=info.dimensions * ITEM_BYTES)
        return row

    def insert_collection(self, work: Work, name: str, model_id: str) -> None:
        """Insert by ON CONFLICT DO NOTHING."""
        rows.insert_collection(work, name, model_id)

    def lock_collection(self, work: Work) -> None:
        """Lock the row."""
        rows.lock_collection(work)

    def row_named(self, work: Work, name: str) -> CollectionRow | None:
        """Read all at once, but where the tables may be on different servers."""
        if not servers.is_there(work.connection):
            return super().row_named(work, name)
        row = work.read_row(name, with_vector_bytes=False)
        # Without a row it is asked all the same, which fails if the other table is not ours.
        vector_bytes = rows.vector_bytes_of(work, 0 if row is None else row.id)
        return None if row is None else row._replace(vector_bytes=vector_bytes)

    def row_to_search(self, work: Work, name: str) -> CollectionRow | None:
        """Return the row, read together with the collection's index instead of its rows."""
        return index.row_to_search(work, name)

    def confirms(self, row: CollectionRow) -> bool:
        """Return whether there was an index; else a search looks whether there is one now."""
        return row.has_index

    # Rows

    def vector_bytes(self, embedding: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return four bytes for each dimension."""
        return func.vector_dims(embedding, type_=Integer) * ITEM_BYTES

    def vector_bytes_of_row(self, records: Records) -> ScalarSelect[int | None]:
        """Return that of one vector: nobody can store a corrupt one."""
        return rows.bytes_of_one(self, records, records.collections.c.id).scalar_subquery()

    def is_vector(self, embedding: ColumnElement[Any]) -> ColumnElement[bool]:
        """Return the condition. To look into the vectors would fetch them all."""
        return embedding.is_not(None)

    def vector_as_bytes(self, embedding: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return what pgvector sends: see `types.to_pgvector`."""
        return func.vector_send(type_coerce(embedding, PGVector), type_=LargeBinary)

    def as_matrix(self, blobs: Sequence[Any], dimensions: int) -> tuple[Float32, Bools]:
        """Return the matrix of what pgvector sends."""
        return as_matrix([bytes(blob) for blob in blobs], dimensions, header=4, dtype=">f4")

    def is_one_of(self, id: ColumnElement[str], ids: Iterable[str]) -> ColumnElement[bool]:
        """Return the condition; the ids travel as one parameter, an array."""
        values = list(ids)
        return rows.is_one_of(id, literal(values, Values()), are_many=rows.are_many(values))

    def metadata_is(
        self, metadata: ColumnElement[Any], comparison: Comparison
    ) -> ColumnElement[bool]:
        """Return the condition by operators of JSONB, which indexes of the host's can serve."""
        return fields.condition(metadata, comparison)

    def stored_rows(
        self, work: Work, ids: list[str], hashes: Collection[bytes] | None = None
    ) -> Iterable[Any]:
        """Return the rows by one statement, which fetches no vector that is not asked for."""
        return rows.stored_rows(work, ids, hashes)

    def same_content(self, work: Work, hashes: list[bytes]) -> Iterable[Any]:
        """Return the rows by one statement."""
        return rows.same_content(work, hashes)

    def write_rows(
        self,
        work: Work,
        rows_: Sequence[dict[str, Any]],
        updated: int,
        there: Collection[str] | None = None,
    ) -> None:
        """Write by INSERT ... ON CONFLICT."""
        rows.write(work, rows_, updated, there)

    def add_rows(self, work: Work, rows_: Sequence[dict[str, Any]], updated: int) -> bool:
        """Write by INSERT ... ON CONFLICT DO NOTHING."""
        return rows.add(work, rows_, updated)

    def keep_rows(self, work: Work, ids: Sequence[str]) -> None:
        """Lock the rows."""
        columns = work.records.embeddings.c
        has_id = self.is_one_of(columns.id, ids)
        rows.lock_rows(work, [columns.collection_id == work.row.id, has_id])

    def delete_rows(self, work: Work, conditions: Sequence[ColumnElement[bool]]) -> int:
        """Lock the rows in the order of all writers, and delete those."""
        locked = self.is_one_of(work.records.embeddings.c.id, rows.lock_rows(work, conditions))
        return work.changed(delete(work.records.embedding).where(*conditions, locked))

    # Rows of the host's that a collection follows

    def joined_texts(
        self, columns: Sequence[ColumnElement[Any]], between: str
    ) -> ColumnElement[str]:
        """Return what `concat_ws` makes of them: a fifth of the time of operators."""
        given = (func.nullif(column, "") for column in columns)
        return func.concat_ws(between, *given, type_=String())

    def text_hash(
        self, work: Work, text: ColumnElement[str], content_hash: Callable[[Content], bytes]
    ) -> ColumnElement[bytes] | None:
        """Return MD5, unless the collection's hash is another."""
        return followed.text_hash(text) if content_hash is md5 else None

    def has_length(self, embedding: ColumnElement[Any], vector_bytes: int) -> ColumnElement[bool]:
        """Return that there is a vector: those of a collection are of one length."""
        return self.is_vector(embedding)

    def has_metadata(
        self, stored: ColumnElement[Any], given: ColumnElement[Any] | dict[str, ColumnElement[Any]]
    ) -> ColumnElement[bool]:
        """Return the condition, as JSONB."""
        return followed.has_metadata(stored, given)

    def compares_rows(self, work: Work) -> bool:
        """Return whether all rows are on this server, for Citus joins few of several servers."""
        return not servers.is_there(work.connection)

    def can_keep_keys(self, work: Work, key: Column[Any]) -> bool:
        """Return whether it is a table, and the role may lock its rows."""
        return followed.can_keep_keys(work, key)

    def keep_keys(self, work: Work, key: Column[Any], keys: list[Any]) -> Iterable[Any]:
        """Return what FOR KEY SHARE SKIP LOCKED gets."""
        return followed.keep_keys(work, key, keys)

    def skipping_locked(self, statement: Select[Any]) -> Select[Any]:
        """Return it with FOR UPDATE SKIP LOCKED, of the table that it is about alone."""
        return statement.with_for_update(skip_locked=True, of=statement.get_final_froms()[0])

    def free_rows(self, work: Work, ids: Sequence[str]) -> set[str]:
        """Return what FOR UPDATE SKIP LOCKED gets, and the ids without a row."""
        return followed.free_rows(work, ids)

    def wait_briefly(self, work: Work) -> None:
        """Set lock_timeout, far below the time after which PostgreSQL looks for a deadlock."""
        followed.wait_briefly(work)

    def was_kept_waiting(self, error: DBAPIError) -> bool:
        """Return whether lock_timeout, or the isolation level of an engine, ended a statement."""
        return sqlstate(error) in extension.ENDED_BY_OTHERS

    # Keys

    def key_as_text(self, key: ColumnElement[Any]) -> ColumnElement[str]:
        """Return the SQL of the stored ids."""
        if isinstance(key.type, String) and not isinstance(key.type, Uuid):
            return collate(key, "C")  # a host's column may have a collation of its own
        return super().key_as_text(key)

    def key_from_text(self, id: ColumnElement[str], keys: Keys[Any]) -> ColumnElement[Any]:
        """Return the SQL of the host's keys."""
        if keys.python_type is str and not isinstance(keys.sql_type, Uuid):
            # Else it would be compared in another collation than the host's index has.
            return type_coerce(collate(id, "default"), keys.sql_type)
        return cast(id, keys.sql_type)

    def sought_key(self, id: ColumnElement[str], keys: Keys[Any]) -> ColumnElement[Any]:
        """Return the SQL of the host's key, NULL where PostgreSQL would refuse to make one."""
        return followed.sought_key(id, keys, self.key_from_text(id, keys))

    # Searches

    def search(self, work: Work, vector: Float64, query: Query) -> Ranking:
        """Search by pgvector, and by words."""
        if query.words is not None:
            return hybrid.search(work, vector, query)
        return search.search(work, vector, query)

    def matches(self, work: Work, keys: Keys[Any], vector: Float64, query: Query) -> Subquery:
        """Return the search itself."""
        if query.words is not None:
            return hybrid.matches(work, keys, vector, query)
        return search.matches(work, keys, vector, query)

    def status(self, work: Work, row: CollectionRow | None) -> Status:
        """Return that the database searches, and by which index."""
        if row is None:
            return Status("database", "there is nothing to search")
        warning = self.warning(work.connection, work.records)
        info = index.index_info(work.connection, work.records, row.id)
        if info is None:
            rows = index.count(work.connection, work.records, row.id)
            reason = "there is no index: create_index() makes one"
            return Status("database", reason, rows, warning=warning)
        if not info.is_valid:
            name = index.index_name(work.records, row.id)
            why = "is not valid"
            if row.vector_bytes not in {None, (info.dimensions or 0) * ITEM_BYTES}:
                has = (row.vector_bytes or 0) // ITEM_BYTES
                why = f"is for {info.dimensions} dimensions, and the vectors have {has}"
            reason = f"the index {name} {why}: create_index() builds it anew"
            return Status("database", reason, info.rows, index=info, warning=warning)
        return Status("index", None, info.rows, info.bytes, index=info, warning=warning)

    def warning(self, connection: Connection, records: Records) -> str | None:
        """Return that the table has very many indexes, which is logged too."""
        return index.too_many(connection, records)

    def cosine_similarity(
        self, vector: ColumnElement[Any], other: ColumnElement[Any]
    ) -> ColumnElement[float]:
        """Return 1 minus pgvector's distance."""
        return distances.cosine_similarity(vector, other)

    # Text indexes

    def text_language(self, records: Records) -> ColumnElement[str | None]:
        """Return the SQL of a column of the collection's row."""
        return words.language_of(records)

    def create_text_index(self, work: Work, language: str) -> None:
        """Note the language, and fill the column."""
        words.create(work, language)

    def drop_text_index(self, work: Work, language: str) -> None:
        """Empty the column."""
        words.drop(work)

    def text_index_script(self, given: TextIndex) -> list[str]:
        """Return a block that notes the language."""
        return words.index_script(given)

    def text_index_script_down(self, given: TextIndex) -> list[str]:
        """Return a block that takes it, and the words, away."""
        return words.index_script_down(given)

    def put_words(self, work: Work, texts: Mapping[str, tuple[str, bytes]], language: str) -> None:
        """Update the rows."""
        words.put(work, texts, language)

    def lacks_words(self, work: Work) -> ColumnElement[bool]:
        """Return the condition."""
        return words.lacks_words()

    # Chunks

    def chunk_setting(self, records: Records) -> ColumnElement[str | None]:
        """Return the SQL of a column of the collection's row."""
        return parts.setting_of(records)

    def set_chunk_setting(self, work: Work, setting: str | None) -> None:
        """Set that column."""
        parts.set_setting(work, setting)

    def parts(self, work: Work) -> Subquery:
        """Return the columns."""
        return parts.parts(work)

    def put_parts(self, work: Work, given: Sequence[tuple[Any, ...]]) -> None:
        """Update the rows."""
        parts.put(work, given)

    def keep_items(self, work: Work, ids: Sequence[str]) -> None:
        """Take advisory locks."""
        parts.keep_items(work, ids)

    def free_items(self, work: Work, ids: Sequence[str]) -> set[str]:
        """Try to get the same locks."""
        return parts.free_items(work, ids)

    # Several servers

    def distribute(
        self, connection: Connection, by: Literal["collection", "item"], records: Records
    ) -> None:
        """Distribute the tables by Citus."""
        citus.distribute(connection, by, records)

    def undistribute(self, connection: Connection, records: Records) -> None:
        """Bring them back."""
        citus.undistribute(connection, records)

    # Indexes

    def create_index(self, collection: Reference[Any], asked: IndexRequest) -> IndexInfo:
        """Build an HNSW index."""
        return build.create(collection, asked)

    def index_script(self, given: EmbeddingIndex, connection: Connection | None) -> list[str]:
        """Return a block that finds the collection's id, and the part that has it."""
        return build.script(given, connection)

    def index_script_down(self, given: EmbeddingIndex, connection: Connection | None) -> list[str]:
        """Return a block that finds the collection's id."""
        return build.script_down(given, connection)

    def drop_index(self, collection: Reference[Any]) -> bool:
        """Drop the HNSW index."""
        return build.drop_of(collection)

    def index_info(self, work: Work) -> IndexInfo | None:
        """Look at the HNSW index, and at how many there are."""
        self.warning(work.connection, work.records)
        return index.index_info(work.connection, work.records, work.row.id)

    def before_deletion(self, collection: Reference[Any], work: Work) -> None:
        """Drop the index within the caller's transaction. Words and chunks are in the rows."""
        if collection.sessions.engine is None:
            index.drop(work.connection, work.records, work.row.id)

    def after_deletion(self, collection: Reference[Any], row: CollectionRow) -> None:
        """Drop the index concurrently, which no transaction can."""
        build.drop_left(collection, row)


DATABASE = PostgreSQL()

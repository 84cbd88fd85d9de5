"""The repository: one named collection of embeddings, and every operation on it.

Each method states its contract and calls one function of `writing`, `searching` or the database.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TypeVar, Unpack, cast

from . import errors
from .databases.status import IndexRequest
from .following import sync as syncing
from .following.rows import rows_of
from .keys import K, keys_of
from .models.base import BATCH_SIZE, check_given
from .searching import read, search
from .searching.entries import Entries
from .searching.query import Filters, check_filters, check_query, several
from .sessions import bind
from .tables.records import RECORDS, EmbeddingRecord, Records
from .vectors import as_query
from .work.reference import Reference
from .writing import beside, copying, reembed, text_index, whole, write
from .writing.apply import apply
from .writing.chunks import Chunks, checked_chunks
from .writing.copying import COPIED_AT_ONCE
from .writing.items import Prepared, checked_extra, checked_items, content_hash
from .writing.plan import make
from .writing.progress import told

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from sqlalchemy import Subquery
    from sqlalchemy.orm import QueryableAttribute
    from sqlalchemy.sql.selectable import SelectBase

    from .databases.status import IndexInfo, Status
    from .keys import Key
    from .models.base import Content, EmbeddingModel, SupportsEmbedding
    from .searching.conditions import Where
    from .searching.entries import Chunk
    from .searching.query import Query
    from .sessions import DatabaseLike
    from .values import Metadata
    from .vectors import Float32, VectorLike
    from .writing.calls import OnError
    from .writing.items import Extra
    from .writing.plan import Plan
    from .writing.progress import Progress
    from .writing.reembed import Contents
    from .writing.report import Report


F = TypeVar("F", bound=Callable[..., Any])


def refuse_pickling(collection: Any) -> NoReturn:
    """Say what to send to another process in place of a collection.

    Raises:
        TypeError: Always.
    """
    kind = type(collection).__name__
    raise TypeError(
        f"{kind} {collection.name!r} cannot be pickled or copied: it holds a connection to its "
        f"database. Send the name, and open it where it is needed: {kind}(name, engine)"
    )


def documented(**names: str) -> Callable[[F], F]:
    """Let a method take keywords by the names that `llm` documents for them, too."""

    def ours(options: dict[str, Any]) -> dict[str, Any]:
        for name, own in names.items():
            if name in options and own not in options:
                options[own] = options.pop(name)
        return options

    def named(method: F) -> F:
        @wraps(method)
        def taken(self: Any, /, *args: Any, **options: Any) -> Any:
            return method(self, *args, **ours(options))

        @wraps(method)
        async def awaited(self: Any, /, *args: Any, **options: Any) -> Any:
            return await method(self, *args, **ours(options))

        return cast("F", awaited if iscoroutinefunction(method) else taken)

    return named


class Collection(Generic[K]):
    """A named group of embeddings that one model made, stored in two tables of your database.

    On a `Session`, a `scoped_session` or a `Connection` every operation joins the caller's
    transaction: nothing here commits, rolls back or closes. Nothing is read or written before the
    first operation, and the first write creates the collection.

    On an `Engine` or a `sessionmaker` it is as lazy, and every batch is a transaction of its own,
    none of which is open while the model runs.

    On a path, a URL, a `sqlite_utils.Database` or, for a database in memory, nothing, the database
    is opened and migrated and the collection created at once. It is closed with `close()`, at the
    end of a `with`, or when the collection is garbage.

    On an engine, a path or a URL one collection serves any number of threads. On a session it is
    the session's thread that uses it, but for a `scoped_session`, which has one for each.

    Args:
        name: Unique in the database.
        db: The database, as above.
        model: A model object.
        model_id: Or the id or alias of one; wins if both are given. With neither, an existing
            collection uses the model it was made with, and a new one the application's default.
        create: Whether to create the collection if it does not exist.
        key: The type of your ids: `str`, `int`, `uuid.UUID`, or a mapped column such as
            `Article.id`. Ids are taken and returned in this type. With `str`, integers are
            accepted too and come back as strings.
        chunks: How texts are cut into chunks, each with a vector of its own: `Chunks(size=...)`.
            It is kept with the collection, which needs it no more when it is opened again. By
            default a new collection has one vector for each item.
        records: Which tables.

    Raises:
        ChunksMismatchError: The collection's texts are cut in another way than by `chunks`.
        DoesNotExist: There is no such collection, and `create` is false.
        ModelRequiredError: There is no such collection, and no model to create it with.
        ModelMismatchError: The collection holds the vectors of another model. One without rows
            takes the new model with the first write.
        SchemaError: The tables are missing: call `migrate`.

        On a session or an engine these come with the first operation.
    """

    reference: Reference[K]
    """Which collection this is, and how it is reached, for functions that work on collections."""
    DoesNotExist: ClassVar[type[errors.DoesNotExist]] = errors.DoesNotExist

    def __init__(
        self,
        name: str,
        db: DatabaseLike = None,
        *,
        model: SupportsEmbedding | None = None,
        model_id: str | None = None,
        create: bool = True,
        key: type[K] | QueryableAttribute[K] = str,  # type: ignore[assignment]  # the default of K
        chunks: Chunks | None = None,
        records: Records = RECORDS,
    ) -> None:
        check_given(model, model_id)
        self.reference = Reference(
            whole.checked_name(name),
            bind(db, records),
            records,
            keys_of(key),
            model=model if model_id is None else None,
            model_id=model_id,
            create=create,
            chunks=checked_chunks(chunks),
            # The function itself, by which a database knows what it can compute by its own means.
            content_hash=content_hash
            if self.content_hash is Collection.content_hash
            else self.content_hash,
        )
        if self.reference.sessions.eager:
            whole.open_database(self.reference)

    # What the collection is

    @property
    def name(self) -> str:
        """The name, unique in the database."""
        return self.reference.name

    @property
    def id(self) -> int:
        """The id of the collection's row.

        Raises:
            DoesNotExist: There is no row yet: the first write creates it.
        """
        with self.reference.work() as work:
            return self.reference.existing(work).id

    @property
    def model_id(self) -> str:
        """The id of the collection's model, never an alias.

        Raises:
            ModelRequiredError: The collection does not exist, and nothing says which model it is
                to have.
        """
        with self.reference.work() as work:
            return self.reference.model_id_of(self.reference.find(work))

    def model(self) -> EmbeddingModel:
        """Return the collection's model.

        Raises:
            UnknownModelError: The collection was made by a model that is not registered here.
            ModelRequiredError: As `model_id`.
        """
        return cast("EmbeddingModel", self.reference.read_model(to_write=False))

    def count(self, *, chunks: bool = False) -> int:
        """Return the number of items; 0 if the collection does not exist yet.

        Args:
            chunks: The number of chunks instead, each of which is a row.
        """
        return read.count(self.reference, chunks=chunks)

    def __len__(self) -> int:
        return self.count()

    def __bool__(self) -> bool:
        return True  # an empty collection is still one

    def __repr__(self) -> str:
        return f"<Collection {self.name!r}>"

    __reduce__ = refuse_pickling

    # The collection as a whole

    def rename(self, name: str) -> None:
        """Give the collection another name.

        Triggers that follow rows go on under the former one, which a warning in the log says: drop
        them, and make others by a declaration of the new name.

        Raises:
            DoesNotExist: The collection does not exist.
            ValueError: Another collection has the name.
        """
        whole.rename(self.reference, name)

    def delete(self) -> None:
        """Delete the collection and its embeddings. This object will not create it again.

        Raises:
            DoesNotExist: It does not exist.
        """
        whole.delete(self.reference)

    # Reading

    def get(self, id: Key) -> EmbeddingRecord | None:
        """Return an item's record, or None. Its `key` is in the type of the collection's keys.

        On a session it is an object of that session; else it is detached, with its collection. In
        a collection with chunks it is detached, and its `embedding` is None if it has several.
        """
        return read.get(self.reference, id)

    def __contains__(self, id: object) -> bool:
        return read.contains(self.reference, id)

    def __iter__(self) -> Iterator[EmbeddingRecord]:
        """Yield every record, in the order of the stored ids, a page at a time.

        Their `key` is in the type of the collection's keys.
        """
        return read.pages(self.reference)

    def ids(self, prefix: str | None = None) -> list[K]:
        """Return the ids, in the order in which they are stored.

        Args:
            prefix: Only those that begin with it, literally and in the same case.
        """
        return read.ids(self.reference, prefix)

    def get_many(self, ids: Iterable[Key]) -> list[EmbeddingRecord | None]:
        """Return the records of items in the order of their ids, None where one is missing.

        One statement, however many there are. On a session they are objects of that session; else
        they are detached, with their collection.

        Args:
            ids: In the type of the collection's keys; each may be there more than once.
        """
        return read.get_many(self.reference, ids)

    def get_chunks(self, id: Key) -> list[Chunk]:
        """Return the chunks of an item, in their order; none if there is no such item."""
        return read.get_chunks(self.reference, id)

    def vectors(
        self, *, prefix: str | None = None, where: Where | None = None
    ) -> tuple[list[K], Float32]:
        """Return the ids and the vectors of all items, or of some, in the order of stored ids.

        Args:
            prefix: Only ids that begin with it, literally and in the same case.
            where: A SQL expression or a dict of metadata, as in `similar`.

        Returns:
            The ids, and float32 of shape (items, dimensions), a copy of your own. An item with
            several chunks is there with each of them.

        Warns:
            CorruptVectorWarning: Rows whose vector is not one of the collection's were left out.
        """
        return read.vectors(self.reference, prefix, where)

    @classmethod
    def exists(cls, db: DatabaseLike, name: str, *, records: Records = RECORDS) -> bool:
        """Return whether a database has a collection of this name; False without the tables."""
        return name in read.names(db, records, name)

    @classmethod
    def names(cls, db: DatabaseLike, *, records: Records = RECORDS) -> list[str]:
        """Return the names of a database's collections, sorted; none without the tables."""
        return read.names(db, records)

    # Writing

    @documented(text="value")
    def embed(
        self,
        id: Key,
        value: Content | Prepared,
        metadata: Metadata | None = None,
        store: bool = False,
        *,
        force: bool = False,
        extra: Extra | None = None,
    ) -> None:
        """Embed the value and store its vector under the id.

        The model is called only if no row of the collection has the value's vector. The same
        value under the same id leaves the row as it is, but for metadata and content that are
        given now; another value replaces the row as a whole.

        Args:
            id: In the type of the collection's keys.
            value: Text or bytes, or what `prepare` returned, which calls no model here.
            metadata: A dict of JSON; not given, that of the same value stays.
            store: Store the value itself as well.
            force: Call the model even if the vector is there.
            extra: Values of columns of your own (`make_records`), by their names or attributes,
                for a row that is new. A row that is there keeps its own.

        Raises:
            InvalidItemError: Something cannot be stored; nothing was spent or written.
            InvalidVectorError: The model's vector has another length than the collection's.
            ModelError: The model failed; nothing was written.
            DoesNotExist: The collection was deleted, or does not exist and `create` is false.
        """
        write.embed(self.reference, id, value, metadata, store, force=force, extra=extra)

    def embed_multi(
        self,
        entries: Iterable[tuple[Key, Content]],
        store: bool = False,
        batch_size: int = BATCH_SIZE,
        *,
        force: bool = False,
        extra: Extra | None = None,
        concurrency: int | None = None,
        progress: Progress = None,
        on_error: OnError = "raise",
    ) -> Report:
        """Embed and store many values, as `embed` does each; return what was done.

        Args:
            entries: (id, value) pairs; a generator of any length, read a batch at a time.
            store: Store the values as well.
            batch_size: The most values in one call of the model; a smaller `batch_size` of the
                model goes first. On an engine each batch is a transaction: what was paid for stays.
            force: Call the model even for vectors that are there.
            extra: Values of columns of your own for new rows, as in `embed`.
            concurrency: The most calls of the model at a time, in threads; by default what the
                model says: 4 for services, 1 for others. Rows are read and written meanwhile, in
                order, in the caller's thread.
            progress: Called after each batch with the items done and the items in all, which is
                None for a generator; True draws a bar.
            on_error: With "skip" items that the model refuses by themselves, or has no finite
                vector for as it has for others, are left out, and stand in `skipped` of the report
                with the reason. Any other failure is raised.

        Raises:
            ValueError: `batch_size` or `concurrency` is not a positive integer, or `on_error`
                neither of the two.

            And what `embed` raises. The batches before the failing one are written, and those
            after it that the model was called for.
        """
        return write.embed_multi(
            self.reference,
            entries,
            store,
            batch_size,
            has_metadata=False,
            force=force,
            extra=extra,
            concurrency=concurrency,
            progress=progress,
            on_error=on_error,
        )

    def embed_multi_with_metadata(
        self,
        entries: Iterable[tuple[Key, Content, Metadata | None]],
        store: bool = False,
        batch_size: int = BATCH_SIZE,
        *,
        force: bool = False,
        extra: Extra | None = None,
        concurrency: int | None = None,
        progress: Progress = None,
        on_error: OnError = "raise",
    ) -> Report:
        """Embed and store many values with metadata, as `embed_multi`; return what was done.

        Args:
            entries: (id, value, metadata) triples; a generator of any length.
            store: Store the values as well.
            batch_size: As in `embed_multi`.
            force: Call the model even for vectors that are there.
            extra: As in `embed`.
            concurrency: As in `embed_multi`.
            progress: As in `embed_multi`.
            on_error: As in `embed_multi`.
        """
        return write.embed_multi(
            self.reference,
            entries,
            store,
            batch_size,
            has_metadata=True,
            force=force,
            extra=extra,
            concurrency=concurrency,
            progress=progress,
            on_error=on_error,
        )

    def plan(
        self,
        entries: Iterable[tuple[Any, ...]],
        store: bool = False,
        *,
        force: bool = False,
        extra: Extra | None = None,
    ) -> Plan[K]:
        """Return what writing these values takes, having read what is there: no model is called.

        On a session the transaction can be ended then, so that none is open while the model runs:

            plan = docs.plan(entries)
            session.commit()
            plan.embed()
            docs.apply(plan)
            session.commit()

        Args:
            entries: (id, value) or (id, value, metadata) tuples. All are held in memory.
            store: Store the values as well.
            force: Call the model even for vectors that are there.
            extra: Values of columns of your own for new rows, as in `embed`.

        Raises:
            InvalidItemError: Something cannot be stored.
        """
        batches = checked_items(self.reference, entries, BATCH_SIZE, store, 2, 3)
        items = [item for batch in batches for item in batch]
        own = checked_extra(self.reference.records, extra)
        return make(self.reference, items, force=force, extra=own)

    def apply(self, plan: Plan[K]) -> Report:
        """Write what was planned, in one transaction, and return what was done.

        What is there is read again; the model is not called. A row that was changed, deleted or
        written since it was planned is left as it is, unless it is what was planned anyway. Its id
        stands in `skipped` of the report.

        Raises:
            InvalidItemError: The plan is another collection's, or has contents without a vector:
                call its `embed` first. Nothing was written.
            ModelMismatchError: The collection has another model by now.
            InvalidVectorError: The vectors have another length than the collection's.
            TypeError: It is no plan.
        """
        return apply(self.reference, plan)

    def prepare(self, value: Content) -> Prepared:
        """Return a value with its vector, or those of its chunks, which `embed` is to store later.

        The model is called only for what no row of the collection has a vector of. Where a session
        has no connection out of its pool, it has none while the model runs: what is looked up is
        looked up on a short one.

        Raises:
            InvalidItemError: The value cannot be embedded.
            ModelError: The model failed.
        """
        return write.prepare(self.reference, value)

    def embed_query(self, value: Content) -> Float32:
        """Return the vector of a value to search for with `similar_by_vector`, shape (dimensions,).

        Where a session has no connection out of its pool, it has none while the model runs. No
        database is touched if the collection was given its model.

        Raises:
            InvalidQueryError: The value is empty.
        """
        return write.embed_query(self.reference, search.sought(value))

    def store_vectors(
        self,
        entries: Iterable[tuple[Any, ...]],
        batch_size: int = BATCH_SIZE,
        *,
        extra: Extra | None = None,
    ) -> Report:
        """Store vectors that were made elsewhere, and return how many (`reused`).

        No model is called, and none need be known. Rows that are there are replaced as a whole,
        also by equal ones.

        Args:
            entries: (id, vector), (id, vector, metadata) or (id, vector, metadata, content)
                tuples; a generator of any length. A vector is a NumPy array or an iterable of
                numbers; metadata may be None; a content is text, and is stored.
            batch_size: Rows written at once; on an engine, in one transaction.
            extra: Values of columns of your own for new rows, as in `embed`.

        Raises:
            InvalidItemError: An id, metadata or content cannot be stored.
            InvalidVectorError: A vector is not finite, or not of the collection's length.
        """
        return write.store_vectors(self.reference, entries, batch_size, extra)

    def sync(
        self,
        statement: SelectBase,
        *,
        prune: bool = True,
        allow_empty: bool = False,
        dry_run: bool = False,
        batch_size: int = BATCH_SIZE,
        progress: Progress = None,
        on_error: OnError = "raise",
    ) -> Report:
        """Compare every row of a SELECT with the collection, and bring in what differs.

        What is new or differs is embedded, what is gone is removed. On an engine each page that is
        compared and each batch that is written is a short transaction, and none is open while the
        model runs: one that is interrupted goes on where it stopped. Others may write meanwhile: a
        row that changes is left to them, and is in `skipped` if it still changes at the end.

            docs.sync(select(Article.id, Article.body).where(Article.published))

        Args:
            statement: A SELECT of key, text and, if wanted, metadata: a column of JSON objects, or
                columns that become metadata under their names. One row for each key; a row whose
                text is NULL or empty is no item. It is read a page at a time, by its keys.
            prune: Remove what the SELECT does not have.
            allow_empty: Whether to remove everything if the SELECT has no rows.
            dry_run: Write nothing and call no model; the report has the ids that are `stale`,
                `missing` and `orphaned`.
            batch_size: The most values in one call of the model. As many batches are written at
                once as the model takes at a time.
            progress: Called with the rows compared and the rows in all; True draws a bar.
            on_error: With "skip" rows that cannot be read, that can be no items, or that the model
                refuses by themselves are left out, and stand in `skipped`, also in a dry run.

        Raises:
            InvalidQueryError: It is no such SELECT, or it has no rows and the collection has.
            InvalidItemError: A row cannot be read, or be an item. The batches before it are
                written.
            ValueError: `on_error` is neither of the two.

            And what `embed` raises.
        """
        return syncing.sync(
            self.reference,
            rows_of(statement, self.reference),
            prune=prune,
            allow_empty=allow_empty,
            dry_run=dry_run,
            batch_size=batch_size,
            progress=progress,
            on_error=on_error,
        )

    def copy_to(
        self, other: Collection[Any], batch_size: int = COPIED_AT_ONCE, *, progress: Progress = None
    ) -> Report:
        """Copy every item to another collection, of any database, and return what was done.

        Vectors, hashes, contents, metadata and `updated` are those of this collection, so that
        nothing has to be embedded again there. The other collection is created with this one's
        model if need be; what it has under other ids stays. To copy again, or after an
        interruption, writes only what is not there yet (`reused`). No model is called. Columns of
        your own are not copied: new rows have their defaults there.

        Args:
            other: Where to. Its keys have the same text as those of this collection.
            batch_size: Rows written at once; on an engine, in one transaction.
            progress: Called after each batch with the items done and the items in all; True draws
                a bar.

        Raises:
            DoesNotExist: This collection does not exist.
            ModelMismatchError: The other has vectors of another model.
            TypeError: It is no collection.
            ValueError: It is the same collection.
        """
        theirs = copying.target(other, Collection).reference
        return copying.copy_to(self.reference, theirs, batch_size, progress)

    def set_metadata(self, id: Key, metadata: Metadata | None) -> None:
        """Replace the metadata of an item; None removes it. No model is called.

        Raises:
            DoesNotExist: There is no such item.
            InvalidItemError: The metadata is not JSON.
        """
        write.set_metadata(self.reference, id, metadata)

    def delete_items(
        self,
        ids: Iterable[Key] | None = None,
        *,
        prefix: str | None = None,
        where: Where | None = None,
    ) -> int:
        """Delete items and return how many there were. What is given has to hold all at once.

        Args:
            ids: These; ids that are not there do not matter.
            prefix: Those whose id begins with it.
            where: Those that a SQL expression or a dict of metadata picks, as in `similar`.

        Raises:
            InvalidQueryError: Nothing was given: to delete everything there is `delete()`.
        """
        return write.delete_items(self.reference, ids, prefix, where)

    @staticmethod
    def content_hash(input: Content) -> bytes:
        """Return what equal contents are recognised by: 16 bytes of MD5. Override to change it."""
        return content_hash(input)

    # Searching

    @documented(query="value")
    def similar(
        self,
        value: Content,
        number: int = 10,
        prefix: str | None = None,
        **filters: Unpack[Filters],
    ) -> Entries[K]:
        """Return the items nearest in meaning to the value, best first, ties by id.

        The model is not called if there is nothing to compare with. A text of blanks finds
        nothing, and so does one whose vector is all zeros. A session that has no connection out of
        its pool has none while the model runs, and what it holds is flushed afterwards.

        All conditions hold at once, and before the best are taken: there are `number` results if so
        many items fit.

            docs.similar("dog", number=5, offset=5, where={"tag": "pet"})

        Args:
            value: Text or bytes, not empty.
            number: The most results.
            prefix: Only ids that begin with it, literally and in the same case; no character in it
                is a wildcard.
            **filters: By name, any of these:
            offset: Leave out so many of the best: those of the pages before. 0 by default.
            min_score: Leave out what scores less; a cosine similarity, -1 to 1.
            where: Only items with this metadata: a dict of names and values, or operators such as
                `{"year": {"$gte": 2020}, "address.city": "Oslo"}`; or only rows for which a SQL
                expression over `EmbeddingRecord` (or `records.embedding`) is true, such as
                `EmbeddingRecord.updated > 1_700_000_000`; or a list of these, all of which hold.
            among: Only these items: a SELECT of their keys from your own tables, such as
                `select(Article.id).where(Article.published)`, or a list of keys; in the type of
                the collection's keys.
            words: True searches by the words of the value as well, in the collection's text
                index (`create_text_index`), a text by its words, and a SELECT of keys by the
                order that your own full-text search gives them. The two rankings are made one by
                the ranks (reciprocal rank fusion); `entry.score` stays the cosine similarity, and
                `entry.ranks` is the pair of ranks.
            weights: Of the ranking by meaning and of that by words; (1, 1) by default. With
                (0, 1) only what has one of the words is found.
            exact: True uses no index, where there is one, and so finds the best for certain. By
                default one is used if it is there. On PostgreSQL `matches*` use one only with
                False.

        Raises:
            InvalidItemError: The model does not take such a value.
            InvalidQueryError: The value is empty, or an argument means nothing.
            IndexingError: `words` was given, and there is no text index.
        """
        query = self._query("similar", number, prefix, filters)
        return search.by_value(self.reference, value, query, search.entries, Entries[K]())

    def similar_by_id(
        self,
        id: Key,
        number: int = 10,
        prefix: str | None = None,
        **filters: Unpack[Filters],
    ) -> Entries[K]:
        """Return the items nearest to a stored one, without that one. Arguments as in `similar`.

        Nothing is near to an item whose vector is all zeros.

        Raises:
            DoesNotExist: There is no item of this id.
            InvalidVectorError: Its stored vector is corrupt.
        """
        text = self.reference.id_of(id)
        query = self._query("similar_by_id", number, prefix, filters, skip_id=text, has_value=False)
        return search.by_id(self.reference, text, query, search.entries, Entries[K]())

    def similar_by_vector(
        self,
        vector: VectorLike,
        number: int = 10,
        skip_id: Key | None = None,
        prefix: str | None = None,
        **filters: Unpack[Filters],
    ) -> Entries[K]:
        """Return the items nearest to a vector. No model is called. Arguments as in `similar`.

        Args:
            vector: Shape (dimensions,), any numbers; its length does not matter. To one that is
                all zeros everything scores 0.0.
            number: The most results.
            skip_id: An id to leave out.
            prefix: Only ids that begin with it.
            **filters: As in `similar`.

        Raises:
            InvalidVectorError: The vector is not finite, or has other dimensions than the
                collection's.
        """
        query = self._query(
            "similar_by_vector",
            number,
            prefix,
            filters,
            skip_id=self._text_or_none(skip_id),
            has_value=False,
        )
        return search.by_vector(
            self.reference, as_query(vector), query, search.entries, Entries[K]()
        )

    def similar_multi(
        self,
        values: Iterable[Content],
        number: int = 10,
        prefix: str | None = None,
        **filters: Unpack[Filters],
    ) -> list[Entries[K]]:
        """Return for each of the values what `similar` returns for it.

        The model is called for all at once, and on SQLite the rows in memory are read once for all.

        Args:
            values: Texts or bytes.
            number: The most results for each.
            prefix: Only ids that begin with it.
            **filters: As in `similar`.

        Raises:
            InvalidItemError: The model does not take such a value.
            InvalidQueryError: An argument means nothing.
        """
        return search.by_values(
            self.reference, values, self._query("similar_multi", number, prefix, filters)
        )

    def similar_multi_by_vector(
        self,
        vectors: Iterable[VectorLike],
        number: int = 10,
        prefix: str | None = None,
        **filters: Unpack[Filters],
    ) -> list[Entries[K]]:
        """Return for each of the vectors what `similar_by_vector` returns. No model is called.

        Args:
            vectors: Each of shape (dimensions,).
            number: The most results for each.
            prefix: Only ids that begin with it.
            **filters: As in `similar`.

        Raises:
            InvalidVectorError: A vector is not finite, or has other dimensions than the
                collection's.
        """
        query = self._query("similar_multi_by_vector", number, prefix, filters, has_value=False)
        return search.by_vectors(self.reference, several(vectors, "vectors"), query)

    def matches(
        self,
        value: Content,
        number: int = 10,
        prefix: str | None = None,
        **filters: Unpack[Filters],
    ) -> Subquery:
        """Return what `similar` finds as a selectable with the columns `id` and `score`.

        Join it to your own table, in one statement:

            found = articles.matches("how to sleep better")
            select(Article).join(found, found.c.id == Article.id).order_by(found.c.score.desc())

        `id` is in the type of the collection's keys. On SQLite the search takes place now; on
        PostgreSQL it is a part of your statement, and exact unless `exact=False` is given. With
        `words` there is a third column, `rank`, from 1: order by that.
        """
        query = self._query("matches", number, prefix, filters)
        nothing = self._none_found(query)
        return search.by_value(self.reference, value, query, search.selectable, nothing)

    def matches_by_id(
        self,
        id: Key,
        number: int = 10,
        prefix: str | None = None,
        **filters: Unpack[Filters],
    ) -> Subquery:
        """Return what `similar_by_id` finds as a selectable, as `matches` does."""
        text = self.reference.id_of(id)
        query = self._query("matches_by_id", number, prefix, filters, skip_id=text, has_value=False)
        nothing = self._none_found(query)
        return search.by_id(self.reference, text, query, search.selectable, nothing)

    def matches_by_vector(
        self,
        vector: VectorLike,
        number: int = 10,
        skip_id: Key | None = None,
        prefix: str | None = None,
        **filters: Unpack[Filters],
    ) -> Subquery:
        """Return what `similar_by_vector` finds as a selectable, as `matches` does."""
        query = self._query(
            "matches_by_vector",
            number,
            prefix,
            filters,
            skip_id=self._text_or_none(skip_id),
            has_value=False,
        )
        nothing = self._none_found(query)
        return search.by_vector(self.reference, as_query(vector), query, search.selectable, nothing)

    def warm(self) -> None:
        """Load what searches keep in memory, so that the first one is as fast as the next.

        Call it when a program starts: before a server forks its workers, which then share the
        memory, or in each worker. On SQLite it reads every row once, or an index from where the
        database keeps it, which on an engine is brought up to date; what is written later is
        taken in by the searches. Elsewhere, and for a collection that does not exist, it does
        nothing. `status` tells what came of it.

        Warns:
            MemoryBudgetWarning: The rows do not fit into the memory allowed.
        """
        read.warm(self.reference)

    def status(self) -> Status:
        """Return how the next search will go about it, and what is kept in memory for it."""
        with self.reference.work() as work:
            return work.database.status(work, self.reference.find(work))

    def _query(
        self,
        method: str,
        number: int,
        prefix: str | None,
        filters: Filters,
        skip_id: str | None = None,
        *,
        has_value: bool = True,
    ) -> Query:
        check_filters(method, filters)
        return check_query(
            self.reference,
            number=number,
            prefix=prefix,
            skip_id=skip_id,
            has_value=has_value,
            **filters,
        )

    def _none_found(self, query: Query) -> Subquery:
        return self.reference.keys.none_found(with_rank=query.words is not None)

    def _text_or_none(self, id: Key | None) -> str | None:
        return None if id is None else self.reference.id_of(id)

    # The index of a large collection

    def create_index(
        self,
        *,
        method: str | None = None,
        dimensions: int | None = None,
        m: int | None = None,
        ef_construction: int | None = None,
        maintenance_work_mem: str | None = None,
        progress: Callable[[int, int], object] | bool | None = None,
    ) -> IndexInfo:
        """Build an index of this collection, and return what it is.

        `similar*` uses it from then on: what it finds are the best in all likelihood, with exact
        scores, and `exact` of the result is False.

        On SQLite, where `matches*` use it as well, it has a bit for each value of a vector. It is
        kept in memory and, packed, in the database; searches take in what was written since. If
        there is one already, what the database keeps is brought up to date. On an engine others
        write while the rows are read.

        On PostgreSQL it is HNSW, used if PostgreSQL thinks that it pays. If there is such an index
        already, nothing happens. What a build that failed has left is built anew, and so is an
        index for other dimensions than the vectors have. On a small collection a line of the log
        says that reading it is as fast. On an engine it is built concurrently: others read and
        write meanwhile. On a session or a connection it is a part of the transaction, and keeps
        writers out until its end.

        Args:
            method: `"bits"` on SQLite, or that of a package; `"hnsw"` on PostgreSQL. By default
                the first.
            dimensions: Of vectors that are yet to come, for a collection without any, which is
                created where need be.
            m: Connections of each node, 2 to 100; more make it larger and more accurate. 16 unless
                given. This and the next two are of HNSW; SQLite refuses them.
            ef_construction: Candidates looked at for each node, at least 2 * m and at most 1000;
                more make the build slower and the index more accurate. 128 unless given.
            maintenance_work_mem: Memory for this build, such as "1GB"; a build that fits into it
                is many times faster.
            progress: Called with the rows done and the rows in all: on SQLite when it is done; on
                PostgreSQL twice a second, on an engine only, as it looks from a second connection.
                True draws a bar.

        Raises:
            DoesNotExist: The collection does not exist, and no dimensions were given.
            IndexingError: There is an index with another method or other options; on SQLite the
                rows are more than fit into memory, or the change log is missing; on PostgreSQL the
                collection is empty and no dimensions were given.
            BindingError: `progress` was given, and the collection is on a session of PostgreSQL.
            InvalidQueryError: An option means nothing.
        """
        tell = told(progress)
        asked = IndexRequest(method, dimensions, m, ef_construction, maintenance_work_mem, tell)
        return self.reference.database.create_index(self.reference, asked)

    def drop_index(self) -> bool:
        """Drop the index, and return whether there was one. `similar*` is exact from then on.

        On SQLite it is a part of the transaction. On PostgreSQL it is dropped concurrently on an
        engine; on a session within its transaction, where it keeps others out until the end.
        """
        return self.reference.database.drop_index(self.reference)

    def index_info(self) -> IndexInfo | None:
        """Return what the index is, or None if there is none."""
        with self.reference.work() as work:
            row = self.reference.find(work)
            return None if row is None else work.database.index_info(work)

    # Another model

    def reembed(
        self,
        model: SupportsEmbedding | str,
        contents: Contents | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        concurrency: int | None = None,
        progress: Progress = None,
        on_error: OnError = "raise",
    ) -> Report:
        """Embed every item by another model, and let the collection be of that one.

        The new vectors are made beside the old ones, in a collection called "docs [next]", while
        others search and write. What they change meanwhile is brought over too, and the indexes are
        made. Then one transaction switches: the old ones are called "docs [previous]" from there
        on, for `back` and `drop_previous`. Until these are dropped, collections that are opened
        with either model go on, by the one that there is.

        On an engine each batch is a transaction, and none is open while the model runs. One that is
        interrupted goes on where it stopped. On a session all takes place in its transaction.

        Args:
            model: A model object, or the id or alias of one.
            contents: A function that takes a list of ids and returns the contents of these that it
                has: a dict, or pairs. It is called for items whose content is not stored.
            batch_size: The most values in one call of the model.
            concurrency: The most calls of the model at a time; by default what the model says.
            progress: Called with the items done and the items in all; True draws a bar.
            on_error: With "skip" items are left out that have no content (`missing` of the
                report), or that the model refuses by themselves (`skipped`).

        Raises:
            InvalidItemError: Items have no content; its `ids` name them. Without `contents` nothing
                was spent; what was embedded stays.
            ModelMismatchError: Vectors of a third model stand beside the collection.
            InvalidQueryError: It stands beside another collection itself.
            UnknownModelError: There is no such model.
            DoesNotExist: The collection does not exist.
            ModelError: The model failed.
            EmbeddingsError: Others write faster than the model embeds.
        """
        return reembed.reembed(
            self.reference,
            model,
            contents,
            batch_size=batch_size,
            concurrency=concurrency,
            progress=progress,
            on_error=on_error,
        )

    def back(
        self,
        contents: Contents | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        concurrency: int | None = None,
        progress: Progress = None,
        on_error: OnError = "raise",
    ) -> Report:
        """Let the collection be of the model that it had before `reembed`.

        What changed since then is embedded by that model first, as in `reembed`, whose arguments
        these are. The vectors that there are now stay beside it: `back` once more returns to them.

        Raises:
            DoesNotExist: The vectors of the model before are not there any more.

            And what `reembed` raises.
        """
        return reembed.back(
            self.reference,
            contents,
            batch_size=batch_size,
            concurrency=concurrency,
            progress=progress,
            on_error=on_error,
        )

    def drop_previous(self) -> bool:
        """Delete the vectors of the model before, and return whether there were any.

        From then on a collection that is opened with that model raises ModelMismatchError.
        """
        return beside.drop_previous(self.reference)

    # The words of its texts

    def create_text_index(self, language: str = "english") -> int:
        """Make an index of the words of this collection's texts, for `words=` of a search.

        It is filled as items are embedded, whether their text is stored or not, and now from the
        texts that are stored. Items that are embedded already and whose text is not stored get
        their words when the same text is embedded again, without a call of the model. Whoever
        deletes or replaces a row takes its words away. If there is such an index already, what
        it lacks is put in. It is a part of the transaction.

        Args:
            language: "english", "german", "french" or "spanish": words that say little, such as
                "the", are not looked for. "simple": all are. "cjk": for texts without blanks
                between words, each two letters are.

        Returns:
            How many items have no words yet, because their text is not at hand.

        Raises:
            IndexingError: There is one in another language.
            InvalidQueryError: There is no such language.

        Warns:
            MissingWordsWarning: Some items have no words.
        """
        return text_index.create_text_index(self.reference, language)

    def drop_text_index(self) -> bool:
        """Drop the text index, and return whether there was one.

        So a migration can take it back, whether the collection is still there or not.
        """
        return text_index.drop_text_index(self.reference)

    # The database of a collection that opened it

    def close(self) -> None:
        """Close the database, if the collection opened it; a session or an engine is left alone."""
        self.reference.sessions.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

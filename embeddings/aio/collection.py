"""The repository for asyncio: the same names, to be awaited.

There is one implementation, `Collection`. Its methods run as they are, in a greenlet in which every
statement gives way to the event loop, as SQLAlchemy's own asyncio does; models run in threads.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Awaitable, Iterable
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeAlias, TypeVar, Unpack

from ..collection import Collection, documented, refuse_pickling
from ..keys import K
from ..models.base import BATCH_SIZE
from ..searching import read
from ..sessions import is_missing_file
from ..tables.records import RECORDS, Records
from ..writing import copying, whole
from ..writing.copying import COPIED_AT_ONCE
from ..writing.plan import Plan
from .greenlets import spawn, wait_for
from .sessions import AwaitedSessions, awaited

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from typing import Self

    from sqlalchemy.orm import QueryableAttribute

    from ..keys import Key
    from ..models.base import Content, SupportsEmbedding
    from ..searching.conditions import Where
    from ..searching.entries import Entries as Found
    from ..searching.query import Filters
    from ..tables.records import EmbeddingRecord
    from ..values import Metadata
    from ..vectors import Float32, VectorLike
    from ..work.reference import Reference
    from ..writing.calls import OnError
    from ..writing.chunks import Chunks
    from ..writing.items import Extra
    from ..writing.progress import Progress
    from ..writing.reembed import Contents
    from ..writing.report import Report
    from .sessions import AsyncDatabaseLike

    AwaitedContents: TypeAlias = Callable[[list[Any]], Awaitable[Any]]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
F = TypeVar("F", bound="Callable[..., Any]")
Entries: TypeAlias = Iterable[T] | AsyncIterable[T] | Awaitable[Iterable[T] | AsyncIterable[T]]
"""What is written, also a stream of a session, awaited or not."""


async def _read(entries: Entries[T]) -> Iterable[T]:
    """Return entries to be iterated within a greenlet, which waits for those that have to be."""
    if inspect.isawaitable(entries):  # `session.stream()`
        entries = await entries
    if isinstance(entries, AsyncIterable):
        return _awaited_items(entries)
    return entries


def _awaited_items(entries: AsyncIterable[T]) -> Iterator[T]:
    iterator = aiter(entries)
    while True:
        try:
            yield wait_for(iterator.__anext__)
        except StopAsyncIteration:
            return


def _in_greenlet(contents: Contents | AwaitedContents | None) -> Contents | None:
    """Return a function that supplies contents and waits for them, where it has to."""

    def supplied(ids: list[Any]) -> Any:
        found = contents(ids)  # type: ignore[misc]
        return wait_for(lambda: found) if inspect.isawaitable(found) else found

    return supplied if callable(contents) else contents


class AsyncPlan(Plan[K]):
    """`Plan`, whose `embed` is awaited."""

    async def embed(  # type: ignore[override]
        self,
        batch_size: int = BATCH_SIZE,
        *,
        concurrency: int | None = None,
        progress: Progress = None,
        on_error: OnError = "raise",
    ) -> Report:
        """Call the model for `contents`; no database is touched. As `Plan.embed`."""
        embed = partial(
            super().embed,
            batch_size,
            concurrency=concurrency,
            progress=progress,
            on_error=on_error,
        )
        return await spawn(embed, finishes_statements=lambda: False)


async def _run(sessions: AwaitedSessions, records: Records, work: Callable[[], R]) -> R:
    return await spawn(work, finishes_statements=partial(sessions.finishes_statements, records))


def _awaited(
    method: Callable[Concatenate[Collection[K], P], R],
) -> Callable[Concatenate[AsyncCollection[K], P], Coroutine[Any, Any, R]]:
    """Return a method of `Collection` as one of `AsyncCollection`."""

    @wraps(method)
    async def asynchronous(self: AsyncCollection[Any], /, *args: P.args, **options: P.kwargs) -> R:
        return await self._run(partial(method, self._collection, *args, **options))

    return asynchronous


def _explained_by(method: Callable[..., Any]) -> Callable[[F], F]:
    """Let `help()` of a method explain its arguments as that of `Collection` does."""

    def explained(twin: F) -> F:
        twin.__doc__ = method.__doc__
        return twin

    return explained


class AsyncCollection(Generic[K]):
    """`Collection`, to be awaited: the same methods with the same arguments.

    On an `AsyncSession`, an `async_scoped_session` or an `AsyncConnection` every operation joins
    the caller's transaction; on an `AsyncEngine` or an `async_sessionmaker` each batch is a
    transaction of its own, none of which is open while the model runs. The event loop goes on
    while a model runs: in a thread, or awaited if the model has `aembed_batch`. Nothing is read or
    written before the first operation.

    On a path, a URL or, for a database in memory, nothing, the first operation or `async with`
    opens and migrates the database. Close it with `await docs.close()` or at the end of
    `async with`, in the event loop in which it was used.

    A task that is cancelled leaves whole batches. On SQLite the statement in progress is let
    finish first, which can take as long as another writer holds the lock.

    `id` and `model_id` are awaited, too: `await docs.id`. For `len(docs)` there is `count()`, and
    for `"a" in docs` `contains("a")`; `async for record in docs` reads a page at a time.

    Args:
        name: Unique in the database.
        db: The database, as above.
        model: A model object.
        model_id: Or the id or alias of one.
        create: Whether to create the collection if it does not exist.
        key: The type of your ids: `str`, `int`, `uuid.UUID`, or a mapped column.
        chunks: How texts are cut into chunks, each with a vector of its own: `Chunks(size=...)`.
        records: The mapped classes.

    Raises:
        BindingError: The database is not an asynchronous one.
    """

    DoesNotExist = Collection.DoesNotExist

    def __init__(
        self,
        name: str,
        db: AsyncDatabaseLike = None,
        *,
        model: SupportsEmbedding | None = None,
        model_id: str | None = None,
        create: bool = True,
        key: type[K] | QueryableAttribute[K] = str,  # type: ignore[assignment]  # the default of K
        chunks: Chunks | None = None,
        records: Records = RECORDS,
    ) -> None:
        self._records = records
        self._sessions = awaited(db, records)
        self._collection: Collection[K] = Collection(
            name,
            self._sessions,
            model=model,
            model_id=model_id,
            create=create,
            key=key,
            chunks=chunks,
            records=records,
        )

    async def _run(self, work: Callable[[], R]) -> R:
        return await _run(self._sessions, self._records, work)

    async def run(self, work: Callable[[Collection[K]], R]) -> R:
        """Return what a function of the `Collection` returns; its methods wait within it."""
        return await self._run(partial(work, self._collection))

    @property
    def name(self) -> str:
        """The name, unique in the database."""
        return self._collection.name

    def __repr__(self) -> str:
        return f"<AsyncCollection {self.name!r}>"

    __reduce__ = refuse_pickling

    @property
    def id(self) -> Coroutine[Any, Any, int]:
        """The id of the collection's row, to be awaited."""
        return self._run(lambda: self._collection.id)

    @property
    def model_id(self) -> Coroutine[Any, Any, str]:
        """The id of the collection's model, to be awaited."""
        return self._run(lambda: self._collection.model_id)

    model = _awaited(Collection.model)
    count = _awaited(Collection.count)
    get = _awaited(Collection.get)
    get_many = _awaited(Collection.get_many)
    get_chunks = _awaited(Collection.get_chunks)
    rename = _awaited(Collection.rename)
    delete = _awaited(Collection.delete)

    # Type checkers do not all see the type of the ids through a decorator.

    async def ids(self, prefix: str | None = None) -> list[K]:
        """Return the ids, as `Collection.ids`."""
        return await _awaited(Collection.ids)(self, prefix)

    async def vectors(
        self, *, prefix: str | None = None, where: Where | None = None
    ) -> tuple[list[K], Float32]:
        """Return the ids and the vectors, as `Collection.vectors`."""
        return await _awaited(Collection.vectors)(self, prefix=prefix, where=where)

    embed = _awaited(Collection.embed)

    async def embed_multi(
        self,
        entries: Entries[tuple[Key, Content]],
        store: bool = False,
        batch_size: int = BATCH_SIZE,
        *,
        force: bool = False,
        extra: Extra | None = None,
        concurrency: int | None = None,
        progress: Progress = None,
        on_error: OnError = "raise",
    ) -> Report:
        """Embed and store many values, as `Collection.embed_multi`.

        `entries` may be asynchronous, such as `session.stream(select(Article.id, Article.title))`.
        """
        return await _awaited(Collection.embed_multi)(
            self,
            await _read(entries),
            store,
            batch_size,
            force=force,
            extra=extra,
            concurrency=concurrency,
            progress=progress,
            on_error=on_error,
        )

    async def embed_multi_with_metadata(
        self,
        entries: Entries[tuple[Key, Content, Metadata | None]],
        store: bool = False,
        batch_size: int = BATCH_SIZE,
        *,
        force: bool = False,
        extra: Extra | None = None,
        concurrency: int | None = None,
        progress: Progress = None,
        on_error: OnError = "raise",
    ) -> Report:
        """Embed and store many values with metadata; `entries` may be asynchronous."""
        return await _awaited(Collection.embed_multi_with_metadata)(
            self,
            await _read(entries),
            store,
            batch_size,
            force=force,
            extra=extra,
            concurrency=concurrency,
            progress=progress,
            on_error=on_error,
        )

    async def apply(self, plan: Plan[K]) -> Report:
        """Write what was planned, as `Collection.apply`."""
        return await _awaited(Collection.apply)(self, plan)

    prepare = _awaited(Collection.prepare)
    embed_query = _awaited(Collection.embed_query)

    async def store_vectors(
        self,
        entries: Entries[tuple[Any, ...]],
        batch_size: int = BATCH_SIZE,
        *,
        extra: Extra | None = None,
    ) -> Report:
        """Store vectors that were made elsewhere; `entries` may be asynchronous."""
        store = _awaited(Collection.store_vectors)
        return await store(self, await _read(entries), batch_size, extra=extra)

    sync = _awaited(Collection.sync)

    async def copy_to(
        self,
        other: AsyncCollection[Any],
        batch_size: int = COPIED_AT_ONCE,
        *,
        progress: Progress = None,
    ) -> Report:
        """Copy every item to another asynchronous collection, as `Collection.copy_to`."""
        mine, theirs = self.reference, copying.target(other, AsyncCollection).reference

        def finishes_statements() -> bool:
            return any(reference.database.finishes_statements for reference in (mine, theirs))

        copy = partial(copying.copy_to, mine, theirs, batch_size, progress)
        return await spawn(copy, finishes_statements=finishes_statements)

    @property
    def reference(self) -> Reference[K]:
        """Which collection this is, and how it is reached, within a greenlet."""
        return self._collection.reference

    set_metadata = _awaited(Collection.set_metadata)
    delete_items = _awaited(Collection.delete_items)

    async def plan(
        self,
        entries: Entries[tuple[Any, ...]],
        store: bool = False,
        *,
        force: bool = False,
        extra: Extra | None = None,
    ) -> AsyncPlan[K]:
        """Return what writing these values takes, as `Collection.plan`; its `embed` is awaited.

        `entries` may be asynchronous.
        """
        make = _awaited(Collection.plan)
        plan = await make(self, await _read(entries), store, force=force, extra=extra)
        return AsyncPlan(**vars(plan))

    content_hash = staticmethod(Collection.content_hash)

    @_explained_by(Collection.similar)
    @documented(query="value")
    async def similar(
        self,
        value: Content,
        number: int = 10,
        prefix: str | None = None,
        **filters: Unpack[Filters],
    ) -> Found[K]:
        """Return the items nearest in meaning to the value, as `Collection.similar`."""
        return await _awaited(Collection.similar)(self, value, number, prefix, **filters)

    async def similar_by_id(
        self,
        id: Key,
        number: int = 10,
        prefix: str | None = None,
        **filters: Unpack[Filters],
    ) -> Found[K]:
        """Return the items nearest to a stored one, as `Collection.similar_by_id`."""
        return await _awaited(Collection.similar_by_id)(self, id, number, prefix, **filters)

    async def similar_by_vector(
        self,
        vector: VectorLike,
        number: int = 10,
        skip_id: Key | None = None,
        prefix: str | None = None,
        **filters: Unpack[Filters],
    ) -> Found[K]:
        """Return the items nearest to a vector, as `Collection.similar_by_vector`."""
        search = _awaited(Collection.similar_by_vector)
        return await search(self, vector, number, skip_id, prefix, **filters)

    async def similar_multi(
        self,
        values: Iterable[Content],
        number: int = 10,
        prefix: str | None = None,
        **filters: Unpack[Filters],
    ) -> list[Found[K]]:
        """Return for each of the values what `similar` returns for it."""
        return await _awaited(Collection.similar_multi)(self, values, number, prefix, **filters)

    async def similar_multi_by_vector(
        self,
        vectors: Iterable[VectorLike],
        number: int = 10,
        prefix: str | None = None,
        **filters: Unpack[Filters],
    ) -> list[Found[K]]:
        """Return for each of the vectors what `similar_by_vector` returns for it."""
        search = _awaited(Collection.similar_multi_by_vector)
        return await search(self, vectors, number, prefix, **filters)

    warm = _awaited(Collection.warm)
    status = _awaited(Collection.status)
    matches = _awaited(Collection.matches)
    matches_by_id = _awaited(Collection.matches_by_id)
    matches_by_vector = _awaited(Collection.matches_by_vector)

    async def reembed(
        self,
        model: SupportsEmbedding | str,
        contents: Contents | AwaitedContents | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        concurrency: int | None = None,
        progress: Progress = None,
        on_error: OnError = "raise",
    ) -> Report:
        """Embed every item by another model; `contents` may be asynchronous."""
        return await _awaited(Collection.reembed)(
            self,
            model,
            _in_greenlet(contents),
            batch_size=batch_size,
            concurrency=concurrency,
            progress=progress,
            on_error=on_error,
        )

    async def back(
        self,
        contents: Contents | AwaitedContents | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        concurrency: int | None = None,
        progress: Progress = None,
        on_error: OnError = "raise",
    ) -> Report:
        """Let the collection be of the model before; `contents` may be asynchronous."""
        return await _awaited(Collection.back)(
            self,
            _in_greenlet(contents),
            batch_size=batch_size,
            concurrency=concurrency,
            progress=progress,
            on_error=on_error,
        )

    drop_previous = _awaited(Collection.drop_previous)

    drop_index = _awaited(Collection.drop_index)
    index_info = _awaited(Collection.index_info)
    create_index = _awaited(Collection.create_index)
    create_text_index = _awaited(Collection.create_text_index)
    drop_text_index = _awaited(Collection.drop_text_index)

    async def contains(self, id: object) -> bool:
        """Return whether there is an item of this id."""
        return await _awaited(Collection.__contains__)(self, id)

    async def __aiter__(self) -> AsyncIterator[EmbeddingRecord]:
        """Yield every record, in the order of the stored ids, a page at a time."""
        last: str | None = None
        while page := await self._run(partial(read.page_after, self._collection.reference, last)):
            for record in page:
                yield record
            if len(page) < read.PAGE:
                return
            last = page[-1].id

    @staticmethod
    async def exists(db: AsyncDatabaseLike, name: str, *, records: Records = RECORDS) -> bool:
        """Return whether a database has a collection of this name; False without the tables."""
        if is_missing_file(db):
            return False
        sessions = awaited(db, records, migrates=False)
        return name in await _run(sessions, records, partial(read.names, sessions, records, name))

    @staticmethod
    async def names(db: AsyncDatabaseLike, *, records: Records = RECORDS) -> list[str]:
        """Return the names of a database's collections, sorted; none without the tables."""
        if is_missing_file(db):
            return []
        sessions = awaited(db, records, migrates=False)
        return await _run(sessions, records, partial(read.names, sessions, records))

    # The database of a collection that opened it

    async def close(self) -> None:
        """Close the database, if the collection opened it; a session or an engine is left alone."""
        await self._run(self._collection.close)

    async def __aenter__(self) -> Self:
        if self._sessions.was_opened:
            await self._run(partial(whole.create_at_once, self._collection.reference))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

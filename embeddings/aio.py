"""The repository for asyncio: the same names, on an AsyncSession or an AsyncEngine.

There is one implementation, `Collection`. Its methods run as they are, in a greenlet in which every
statement gives way to the event loop, as SQLAlchemy's own asyncio does; models run in threads.
"""

from __future__ import annotations

import asyncio
from functools import partial, wraps
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload
from weakref import WeakKeyDictionary

from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import StaticPool
from sqlalchemy.util import await_only, greenlet_spawn

from .binding import HostSession, OwnTransactions
from .collection import PAGE, Collection
from .errors import BindingError, MissingExtraError, ModelError
from .keys import K
from .model import BATCH_SIZE, checked_vectors, embed_checked
from .plan import Plan
from .records import RECORDS, Records

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable

    from sqlalchemy.orm import QueryableAttribute

    from .binding import Database
    from .model import Content, SupportsEmbedding
    from .records import EmbeddingRecord
    from .search.hnsw import IndexInfo
    from .vectors import Float32

if find_spec("greenlet") is None:
    raise MissingExtraError("greenlet", "async")

P = ParamSpec("P")
R = TypeVar("R")


class AsyncPlan(Plan[K]):
    """`Plan`, whose `embed` is awaited."""

    async def embed(self, batch_size: int = BATCH_SIZE) -> None:  # type: ignore[override]
        """Call the model for `contents`; no database is touched. As `Plan.embed`."""
        await greenlet_spawn(super().embed, batch_size)


class _Inside(Collection[K]):
    """A collection whose methods run in a greenlet, where what takes long is awaited."""

    def _vectors(self, model: SupportsEmbedding, items: list[Content]) -> list[Float32]:
        vectors: list[Float32] = await_only(_embed(model, items))
        return vectors

    def plan(
        self, entries: Iterable[tuple[Any, ...]], store: bool = False, *, force: bool = False
    ) -> AsyncPlan[K]:
        """Return what writing these values takes, as `Collection.plan`; its `embed` is awaited."""
        return AsyncPlan(**vars(super().plan(entries, store, force=force)))

    def create_index(self, **options: Any) -> IndexInfo:
        """Build the index; without a report of its progress, for which a thread would be needed."""
        if options.get("progress") is not None:
            raise BindingError("progress= is for Collection; run it in a thread")
        return super().create_index(**options)


async def _embed(model: SupportsEmbedding, items: list[Content]) -> list[Float32]:
    aembed_batch = getattr(model, "aembed_batch", None)
    if aembed_batch is None:
        return await asyncio.to_thread(_in_a_thread, model, items)
    answer = await aembed_batch(list(items))
    return await asyncio.to_thread(checked_vectors, model, items, answer)


def _in_a_thread(model: SupportsEmbedding, items: list[Content]) -> list[Float32]:
    try:
        return embed_checked(model, items)
    except StopIteration as error:  # which would never reach the one who waits
        raise ModelError(f"Model {model.model_id!r} raised StopIteration") from error


class _Scoped(HostSession):
    """The session of whoever asks, from an `async_scoped_session`."""

    def __init__(self, sessions: async_scoped_session[Any]) -> None:
        self._sessions = sessions

    def current(self) -> Session:
        """Return the session of this moment."""
        session: Session = self._sessions().sync_session
        return session


class _Turn:
    """Lets the tasks that share one connection take turns, in whatever event loop they run."""

    def __init__(self) -> None:
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = (
            WeakKeyDictionary()
        )

    def _lock(self) -> asyncio.Lock:
        return self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    def __enter__(self) -> None:
        await_only(self._lock().acquire())

    def __exit__(self, *_: object) -> None:
        self._lock().release()


def _awaited(
    method: Callable[Concatenate[Any, P], R],
) -> Callable[Concatenate[AsyncCollection[Any], P], Coroutine[Any, Any, R]]:
    """Return a method of `Collection` as one of `AsyncCollection`."""
    inside = vars(_Inside).get(method.__name__, method)

    @wraps(method)
    async def asynchronous(self: AsyncCollection[Any], /, *args: P.args, **options: P.kwargs) -> R:
        return await greenlet_spawn(partial(inside, self._collection, *args, **options))

    return asynchronous


class AsyncCollection(Generic[K]):
    """`Collection`, to be awaited: the same methods with the same arguments.

    On an `AsyncSession`, an `async_scoped_session` or an `AsyncConnection` every operation joins
    the caller's transaction; on an `AsyncEngine` or an `async_sessionmaker` each batch is a
    transaction of its own, none of which is open while the model runs. The event loop goes on
    while a model runs: in a thread, or awaited if the model has `aembed_batch`. Nothing is read or
    written before the first operation.

    `id` and `model_id` are awaited, too: `await docs.id`. For `len(docs)` there is `count()`, and
    for `"a" in docs` `contains("a")`; `async for record in docs` reads a page at a time.

    Args:
        name: Unique in the database.
        db: The database, as above.
        model: A model object.
        model_id: Or the id or alias of one.
        create: Whether to create the collection if it does not exist.
        key: The type of your ids: `str`, `int`, `uuid.UUID`, or a mapped column.
        records: The mapped classes.

    Raises:
        BindingError: The database is not an asynchronous one.
    """

    DoesNotExist = Collection.DoesNotExist

    @overload
    def __init__(
        self: AsyncCollection[str],
        name: str,
        db: Any,
        *,
        model: SupportsEmbedding | None = None,
        model_id: str | None = None,
        create: bool = True,
        records: Records = RECORDS,
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        db: Any,
        *,
        model: SupportsEmbedding | None = None,
        model_id: str | None = None,
        create: bool = True,
        key: type[K] | QueryableAttribute[K],
        records: Records = RECORDS,
    ) -> None: ...
    def __init__(
        self,
        name: str,
        db: Any,
        *,
        model: SupportsEmbedding | None = None,
        model_id: str | None = None,
        create: bool = True,
        key: Any = str,
        records: Records = RECORDS,
    ) -> None:
        self._collection: Collection[K] = _Inside(
            name,
            _synchronous(db),
            model=model,
            model_id=model_id,
            create=create,
            key=key,
            records=records,
        )

    @property
    def name(self) -> str:
        """The name, unique in the database."""
        return self._collection.name

    def __repr__(self) -> str:
        return f"<AsyncCollection {self.name!r}>"

    id = property(_awaited(Collection.id.fget))  # type: ignore[attr-defined]
    model_id = property(_awaited(Collection.model_id.fget))  # type: ignore[attr-defined]
    model = _awaited(Collection.model)
    count = _awaited(Collection.count)
    get = _awaited(Collection.get)
    ids = _awaited(Collection.ids)
    page_after = _awaited(Collection.page_after)
    rename = _awaited(Collection.rename)
    delete = _awaited(Collection.delete)

    embed = _awaited(Collection.embed)
    embed_multi = _awaited(Collection.embed_multi)
    embed_multi_with_metadata = _awaited(Collection.embed_multi_with_metadata)
    plan = _awaited(_Inside.plan)
    apply = _awaited(Collection.apply)
    prepare = _awaited(Collection.prepare)
    embed_query = _awaited(Collection.embed_query)
    store_vectors = _awaited(Collection.store_vectors)
    set_metadata = _awaited(Collection.set_metadata)
    delete_items = _awaited(Collection.delete_items)

    content_hash = staticmethod(Collection.content_hash)

    similar = _awaited(Collection.similar)
    similar_by_id = _awaited(Collection.similar_by_id)
    similar_by_vector = _awaited(Collection.similar_by_vector)
    similar_multi = _awaited(Collection.similar_multi)
    similar_multi_by_vector = _awaited(Collection.similar_multi_by_vector)
    status = _awaited(Collection.status)
    matches = _awaited(Collection.matches)
    matches_by_id = _awaited(Collection.matches_by_id)
    matches_by_vector = _awaited(Collection.matches_by_vector)

    drop_index = _awaited(Collection.drop_index)
    index_info = _awaited(Collection.index_info)
    create_index = _awaited(Collection.create_index)

    async def contains(self, id: object) -> bool:
        """Return whether there is an item of this id."""
        return await _awaited(Collection.__contains__)(self, id)

    async def __aiter__(self) -> AsyncIterator[EmbeddingRecord]:
        """Yield every record, in the order of the stored ids, a page at a time."""
        last: str | None = None
        while records := await self.page_after(last):
            for record in records:
                yield record
            if len(records) < PAGE:
                return
            last = records[-1].id

    @staticmethod
    async def exists(db: Any, name: str, *, records: Records = RECORDS) -> bool:
        """Return whether a database has a collection of this name; False without the tables."""
        return await greenlet_spawn(Collection.exists, _synchronous(db), name, records=records)

    @staticmethod
    async def names(db: Any, *, records: Records = RECORDS) -> list[str]:
        """Return the names of a database's collections, sorted; none without the tables."""
        return await greenlet_spawn(Collection.names, _synchronous(db), records=records)


def _synchronous(db: Any) -> Database:
    """Return what of SQLAlchemy's is within an asynchronous object, for use in a greenlet."""
    if isinstance(db, async_scoped_session):
        return _Scoped(db)
    if isinstance(db, AsyncSession):
        return db.sync_session
    if isinstance(db, AsyncEngine):
        return _own_transactions(db, sessionmaker())
    if isinstance(db, async_sessionmaker):
        options = dict(db.kw)
        engine, kind = options.pop("bind", None), options.pop("sync_session_class", Session)
        if isinstance(engine, AsyncEngine):
            return _own_transactions(engine, sessionmaker(class_=kind, **options))
    if isinstance(db, AsyncConnection) and db.sync_connection is not None:
        return db.sync_connection
    raise BindingError(
        "An AsyncCollection is opened on an AsyncSession, async_scoped_session, started "
        "AsyncConnection, AsyncEngine, or async_sessionmaker bound to one, not on "
        f"{type(db).__name__}. For what is not asynchronous there is Collection"
    )


def _own_transactions(engine: AsyncEngine, make_session: sessionmaker[Any]) -> OwnTransactions:
    turn = _Turn() if isinstance(engine.pool, StaticPool) else None
    return OwnTransactions(engine.sync_engine, make_session, turn=turn)

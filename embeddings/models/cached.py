"""Vectors that were paid for, kept in a file or a database of their own."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
import sqlite3
import time
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    Engine,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    create_engine,
    delete,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import NullPool, SingletonThreadPool, StaticPool

from ..driver_errors import of_driver, sqlstate
from ..errors import (
    BindingError,
    EmbeddingsError,
    InvalidVectorError,
    RefusedError,
    UnavailableError,
)
from ..forks import Lock
from ..vectors import ITEM_BYTES
from .base import (
    EmbeddingModel,
    batches,
    call_async,
    can_be_awaited,
    check_model,
    check_positive,
    checked_vectors,
    embed_checked,
    kinds,
    prefixed,
    tokens_of,
)
from .usage import Usage, count, counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection, Delete, Dialect, Update

    from ..vectors import Float32
    from .base import Content, Role, SupportsEmbedding

MAX_BYTES = 1_000_000_000
KEYS_AT_ONCE = 500  # in one statement
ROLLED_BACK = "40"  # SQL's class "transaction rollback"
DAY = 86_400  # seconds: when a vector was last used is known to the day
ROW_BYTES = 100  # beside the vector, about; the rest of `bytes` is the vector's length
TRIES = 10  # to write beside other processes
PAUSE = 0.01  # seconds, after the first try
WAIT = 10  # seconds for locks on the file, before the model is called and as long after it
NOT_YOURS = (
    "This is about the database that was given to cached(), and no model was called. Give it the "
    "path of a file that can be written, or an engine of its own"
)

log = logging.getLogger("embeddings")

_until: ContextVar[float | None] = ContextVar("embeddings.paid_until", default=None)
"""The moment to which locks are waited for, by `monotonic`."""

TABLE = Table(
    "embeddings_paid",
    MetaData(),
    Column("key", LargeBinary, primary_key=True),
    Column("vector", LargeBinary, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("used", BigInteger, nullable=False),
)
BY_USE = Index("idx_embeddings_paid_used", TABLE.c.used, TABLE.c.bytes)


def cached(
    model: SupportsEmbedding,
    path_or_engine: str | os.PathLike[str] | Engine,
    *,
    max_bytes: int = MAX_BYTES,
) -> CachedModel:
    """Return a model of the same id that asks the given one only for what it was never asked.

    What was paid for is written at once, in a transaction of its own: it survives a rollback, a
    crash, and a collection that is deleted. Processes may share it. While somebody else keeps the
    file locked a call waits up to 10 seconds before the model is called, and as long after it; if
    it cannot be read by then it raises UnavailableError. Contents are not stored, only their
    SHA-256. A row that is damaged counts as not there, and is replaced, with a warning in the
    log.

    Args:
        model: The model that is paid.
        path_or_engine: The path of an SQLite file, which is created; or an engine, on whose
            database the table `embeddings_paid` is created. On SQLite use a file of its own: an
            application that is writing to its file keeps the cache out.
        max_bytes: The most bytes of vectors to keep. Those that were used least lately go first.

    Raises:
        TypeError: `model` is no model, or the second argument neither a path nor an engine.
        ValueError: It is a URL, or the path of no file; or `max_bytes` is not positive.
        BindingError: The engine has one connection, which would be in the caller's transaction.
    """
    check_model(model)
    most = check_positive("max_bytes", max_bytes)
    return CachedModel(model, PaidVectors(path_or_engine, most))


class CachedModel(EmbeddingModel):
    """See `cached`. What the model says of itself is said here too.

    Attributes:
        model: The model that is paid.
    """

    def __init__(self, model: SupportsEmbedding, paid: PaidVectors) -> None:
        self.model = model
        self._paid = paid
        self.model_id = model.model_id
        self.batch_size = getattr(model, "batch_size", None)
        self.concurrency = getattr(model, "concurrency", 1)
        self.supports_text = "text" in kinds(model)
        self.supports_binary = "binary" in kinds(model)
        self.api_name = getattr(model, "api_name", model.model_id)
        self.provider = getattr(model, "provider", None)
        self.query_prefix = getattr(model, "query_prefix", "")
        self.document_prefix = getattr(model, "document_prefix", "")
        self.query_cache = getattr(model, "query_cache", EmbeddingModel.query_cache)

    def check_item(self, item: Content) -> None:
        """Ask the model."""
        check_item = getattr(self.model, "check_item", None)
        if check_item is not None:
            check_item(item)

    def forget(self, items: Sequence[Content], role: Role) -> None:
        """Remove what was kept of these items: to be paid again, if they are asked for."""
        self._paid.forget([self._key(item, role) for item in items])
        if isinstance(self.model, EmbeddingModel):
            self.model.forget(items, role)

    def estimate_tokens(self, item: Content) -> int:
        """Ask the model. What is kept already is counted too."""
        return tokens_of(self.model, item)

    def embed_batch(self, items: Sequence[Content]) -> list[Float32]:
        """Return one vector for each item; the model is called for those that are not there."""
        return self._embed(self._without_prefix(items), "document")

    def embed_queries(self, items: Sequence[Content]) -> list[Float32]:
        """Return the same for queries, which are kept apart from documents."""
        return self._embed(list(items), "query")

    async def aembed_batch(self, items: Sequence[Content]) -> list[Float32]:
        """Return what `embed_batch` does; the model is awaited if it can be."""
        return await self._aembed(self._without_prefix(items), "document")

    async def aembed_queries(self, items: Sequence[Content]) -> list[Float32]:
        """Return what `embed_queries` does; the model is awaited if it can be."""
        return await self._aembed(list(items), "query")

    def _without_prefix(self, items: Sequence[Content]) -> list[Content]:
        # The model's prefix is added where the model is called.
        prefix = self.document_prefix
        return [item.removeprefix(prefix) if isinstance(item, str) else item for item in items]

    def _embed(self, items: list[Content], role: Role) -> list[Float32]:
        count()
        keys = [self._key(item, role) for item in items]
        vectors = self._paid.get(keys)
        missing = self._missing(items, keys, vectors)
        if missing:
            try:
                with _paid_usage():
                    made = embed_checked(self.model, list(missing.values()), role)
            except EmbeddingsError as error:
                self._take_up(error, keys, missing, vectors)
                raise
            vectors |= self._keep(missing, made)
        return [vectors[key] for key in keys]

    async def _aembed(self, items: list[Content], role: Role) -> list[Float32]:
        if not can_be_awaited(self.model, role):
            # Whole in one thread, which goes on to keep what was paid if the task is cancelled.
            return await asyncio.to_thread(self._embed, items, role)
        count()
        keys = [self._key(item, role) for item in items]
        vectors = await asyncio.to_thread(self._paid.get, keys)
        missing = self._missing(items, keys, vectors)
        if missing:
            contents = list(missing.values())
            # Neither is given up when the task is cancelled: it was paid for.
            try:
                with _paid_usage():
                    answer = await call_async(self.model, contents, role)
                    made = checked_vectors(self.model, contents, answer)
            except EmbeddingsError as error:
                taken = asyncio.to_thread(self._take_up, error, keys, missing, vectors)
                await asyncio.shield(taken)
                raise
            vectors |= await asyncio.shield(asyncio.to_thread(self._keep, missing, made))
        return [vectors[key] for key in keys]

    def _take_up(
        self,
        error: EmbeddingsError,
        keys: list[bytes],
        missing: dict[bytes, Content],
        vectors: dict[bytes, Float32],
    ) -> None:
        """Keep what came beside a refusal, and let an error of the model tell of all of the items.

        Args:
            error: What the model raised.
            keys: Of all items.
            missing: What the model was called with.
            vectors: What was there.
        """
        order = list(missing)
        if isinstance(error, RefusedError | InvalidVectorError):
            if error.made:
                made = {order[at]: missing[order[at]] for at in error.made}
                came = checked_vectors(self.model, list(made), error.made.values())
                vectors |= self._keep(made, came)
            error.made = {at: vectors[key] for at, key in enumerate(keys) if key in vectors}
        concerned = {order[at] for at in error.positions}
        error.positions = tuple(at for at, key in enumerate(keys) if key in concerned)

    @staticmethod
    def _missing(
        items: list[Content], keys: list[bytes], vectors: dict[bytes, Float32]
    ) -> dict[bytes, Content]:
        pairs = zip(keys, items, strict=True)
        return {key: item for key, item in pairs if key not in vectors}

    def _keep(self, missing: dict[bytes, Content], made: list[Float32]) -> dict[bytes, Float32]:
        vectors = dict(zip(missing, made, strict=True))
        try:
            self._paid.keep(vectors)
        except (DBAPIError, PoolTimeoutError, UnavailableError) as error:
            # What was paid for is still of use to the caller.
            log.warning("Paid vectors were not kept: %s", _cause(error))
        return vectors

    def _key(self, item: Content, role: Role) -> bytes:
        given = prefixed(self.model, item, role)
        kind, data = ("text", given.encode()) if isinstance(given, str) else ("binary", given)
        dimensions = getattr(self.model, "dimensions", None)
        described = "\0".join([self.model_id, str(dimensions), role, kind, ""])
        return hashlib.sha256(described.encode() + data).digest()


@contextmanager
def _paid_usage() -> Iterator[None]:
    """Count what the model is paid in the block."""
    usage = Usage()
    try:
        with counted(usage):
            yield
    finally:
        count(usage.requests, usage.tokens)


def _path_of(given: object) -> str:
    """Return the path of an SQLite file, or raise TypeError or ValueError."""
    if not isinstance(given, str | os.PathLike | URL):
        raise TypeError(
            "cached() takes the path of a file or an Engine, as create_engine() makes it, not "
            f"{type(given).__name__}"
        )
    path = str(given if isinstance(given, URL) else os.fspath(given))
    if "://" in path:  # which is not shown: it may have a password
        raise ValueError("cached() takes a path, and of a URL the engine: create_engine(url)")
    if path in {"", ":memory:"}:
        raise ValueError(f"cached() takes the path of a file, which {path!r} is not")
    return path


class PaidVectors:
    """Vectors by the hash of what they were made of, on an engine.

    Args:
        path_or_engine: See `cached`.
        max_bytes: See `cached`.
    """

    def __init__(self, path_or_engine: str | os.PathLike[str] | Engine, max_bytes: int) -> None:
        if isinstance(path_or_engine, Engine):
            self._engine = path_or_engine
            if isinstance(self._engine.pool, StaticPool | SingletonThreadPool):
                raise BindingError(
                    "This engine has one connection, which is in the transaction of whoever uses "
                    "it. Give cached() the path of a file, or an engine with a pool"
                )
        else:
            # No connection outlives a call, so none is shared by a forked child.
            self._engine = create_engine(
                URL.create("sqlite", database=_path_of(path_or_engine)),
                poolclass=NullPool,
            )
            event.listen(self._engine, "do_connect", _limit_wait)
        self._max_bytes = max_bytes
        self._is_there = False
        self._lock = Lock()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Float32]:
        """Return the vectors that are there, by their key."""
        try:
            with _waits_are_one():
                try:
                    return self._read(keys)
                except DBAPIError as error:
                    if not self._is_there or _is_locked(error):
                        raise
                    self._is_there = False  # it may have been deleted, to have room
                    return self._read(keys)
        except (DBAPIError, PoolTimeoutError) as error:
            if _is_locked(error):
                raise UnavailableError(
                    f"The database that was given to cached(), {self._engine.url.database!r}, is "
                    "locked by another connection, and stayed so for as long as it is waited for; "
                    "no model was called. Try again when that is done with it"
                ) from of_driver(error)
            error.add_note(NOT_YOURS)
            raise

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, Float32]:
        self._create()
        columns, today = TABLE.c, int(time.time())
        found: dict[bytes, Float32] = {}
        stale: list[bytes] = []
        damaged: list[bytes] = []
        with self._engine.connect() as connection:
            for some in batches(list(dict.fromkeys(keys)), KEYS_AT_ONCE):
                statement = select(columns.key, columns.vector, columns.bytes, columns.used)
                for row in connection.execute(statement.where(columns.key.in_(some))):
                    key, vector = bytes(row.key), _stored_vector(row.vector, row.bytes)
                    if vector is None:
                        damaged.append(key)
                        continue
                    found[key] = vector
                    if row.used < today - DAY:
                        stale.append(key)
        if damaged:
            log.warning("%d of the paid vectors are damaged, and are paid again", len(damaged))
            self._change(delete(TABLE), damaged, "Damaged paid vectors were not removed")
        if stale:  # a day more or less does not matter
            touch = update(TABLE).values(used=today)
            self._change(touch, stale, "The use of paid vectors was not noted")
        return found

    def keep(self, vectors: dict[bytes, Float32]) -> None:
        """Write vectors, and remove those that are too many."""
        with _waits_are_one():
            self._write(vectors)

    def _write(self, vectors: dict[bytes, Float32]) -> None:
        self._create()
        for attempt in range(TRIES):
            present = self.get(list(vectors))
            rows = [
                {
                    "key": key,
                    "vector": (data := vector.astype("<f4").tobytes()),
                    "bytes": len(data) + ROW_BYTES,
                    "used": int(time.time()),
                }
                for key, vector in sorted(vectors.items())
                if key not in present
            ]
            if not rows:
                return
            try:
                with self._engine.begin() as connection:
                    connection.execute(insert(TABLE), rows)
                    self._shrink(connection)
            except DBAPIError as error:
                if attempt == TRIES - 1 or not _may_pass(error):
                    raise
                time.sleep(PAUSE * (attempt + 1) * random.uniform(0.5, 1.5))  # noqa: S311
            else:
                return

    def forget(self, keys: Sequence[bytes]) -> None:
        """Remove vectors that are of no use."""
        self._change(delete(TABLE), [*keys], "Paid vectors that do not fit were not removed")

    def _shrink(self, connection: Connection) -> None:
        columns = TABLE.c
        total = connection.execute(select(func.sum(columns.bytes))).scalar() or 0
        excess = int(total) - self._max_bytes
        if excess <= 0:
            return
        oldest = connection.execute(
            select(columns.key, columns.bytes).order_by(columns.used, columns.key)
        )
        gone: list[bytes] = []
        for key, size in oldest:
            gone.append(bytes(key))
            excess -= size
            if excess <= 0:
                break
        oldest.close()
        for some in batches(gone, KEYS_AT_ONCE):
            connection.execute(delete(TABLE).where(columns.key.in_(some)))

    def _change(self, statement: Update | Delete, keys: list[bytes], failed: str) -> None:
        """Execute a statement for the rows of keys; where that fails say so, and go on."""
        try:
            with self._engine.begin() as connection:
                for some in batches(sorted(keys), KEYS_AT_ONCE):
                    connection.execute(statement.where(TABLE.c.key.in_(some)))
        except (DBAPIError, PoolTimeoutError) as error:
            log.debug("%s: %s", failed, _cause(error))

    def _create(self) -> None:
        """Create the table unless it is there: a role that may only use it needs no other right."""
        if self._is_there:
            return
        with self._lock:
            for made in (TABLE, BY_USE):
                try:
                    self._make(made)
                except DBAPIError as error:
                    if _is_locked(error):
                        raise
                    self._make(made)  # it is there, if another process has made it at once
            self._is_there = True

    def _make(self, made: Table | Index) -> None:
        with self._engine.begin() as connection:
            made.create(connection, checkfirst=True)


def _stored_vector(data: bytes, size: int) -> Float32 | None:
    """Return the vector of a row; None if it is none, or not as long as it was.

    Args:
        data: Its column `vector`.
        size: Its column `bytes`.
    """
    if not data or len(data) + ROW_BYTES != size or len(data) % ITEM_BYTES:
        return None
    vector = np.frombuffer(data, "<f4").astype(np.float32)
    return vector if np.isfinite(vector).all() else None


@contextmanager
def _waits_are_one() -> Iterator[None]:
    """Let all that the block does, and what it is part of, wait `WAIT` seconds in all."""
    until = _until.get()
    token = _until.set(monotonic() + WAIT if until is None else until)
    try:
        yield
    finally:
        _until.reset(token)


def _limit_wait(dialect: Dialect, _: object, given: Any, options: dict[str, Any]) -> Any:
    """Connect, to wait for half of what is left: to write, and to commit beside readers."""
    until = _until.get()
    timeout = WAIT / 2 if until is None else max(0.0, until - monotonic()) / 2
    return dialect.connect(*given, **{**options, "timeout": timeout})  # threads share the options


def _is_locked(error: Exception) -> bool:
    """Return whether it is SQLite's, of a lock that another connection has held for too long."""
    code: int = getattr(of_driver(error), "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_BUSY


def _cause(error: DBAPIError | PoolTimeoutError | UnavailableError) -> str:
    """Return what kind of error it is, by its name: a message may show values."""
    return type(getattr(error, "orig", error)).__name__


def _may_pass(error: DBAPIError) -> bool:
    """Return whether another process was faster with a row, or came between."""
    return isinstance(error, IntegrityError) or (sqlstate(error) or "").startswith(ROLLED_BACK)

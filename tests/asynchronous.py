"""The asynchronous face in the shape of the synchronous one, for tests that are written once.

A test of it runs as a whole in a greenlet within an event loop, fixtures included, as SQLAlchemy's
own tests do. So what of an AsyncSession or AsyncEngine is synchronous works in it as it is, and
`Awaited` is an AsyncCollection whose methods wait.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only, greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet

from embeddings import AsyncCollection, AsyncPlan, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

DRIVERS = {
    "aiosqlite": "sqlite+aiosqlite",
    "asyncpg": "postgresql+asyncpg",
    "psycopg": "postgresql+psycopg",
}
KINDS = tuple(f"async_{driver}_{way}" for driver in DRIVERS for way in ("session", "engine"))
LOOP = asyncio.Runner()
"""The event loop of all of these tests, because pooled connections belong to one."""


def in_the_loop(work: Callable[..., Any], *args: Any) -> Any:
    """Call a function where what is asynchronous inside waits, and return its result."""
    if in_greenlet():
        return work(*args)
    return LOOP.run(greenlet_spawn(work, *args))


def session_on(engine: Engine) -> Session:
    """Return what of an AsyncSession is synchronous."""
    session = AsyncSession(AsyncEngine(engine))
    session.info["face"] = session  # which would be garbage
    return session.sync_session


def face_of(db: Any) -> AsyncSession | AsyncEngine | None:
    """Return the asynchronous object that a Session or an Engine is a part of, or None."""
    if isinstance(db, Session):
        face: AsyncSession | None = db.info.get("face")
        return face
    return AsyncEngine(db) if isinstance(db, Engine) and db.dialect.is_async else None


class AwaitedPlan(AsyncPlan[Any]):
    """An AsyncPlan as a Plan."""

    def embed(self, *args: Any, **options: Any) -> Report:  # type: ignore[override]
        return await_only(super().embed(*args, **options))


def _shaped(result: Any) -> Any:
    return AwaitedPlan(**vars(result)) if type(result) is AsyncPlan else result


class Awaited:
    """An AsyncCollection as a Collection."""

    def __init__(self, name: str, db: Any, **options: Any) -> None:
        self._awaited: AsyncCollection[Any] = AsyncCollection(name, db, **options)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._awaited, name)
        if inspect.isawaitable(value):
            return await_only(value)
        if inspect.iscoroutinefunction(value):
            return lambda *args, **options: _shaped(await_only(value(*args, **options)))
        return value

    def __len__(self) -> int:
        return int(self.count())

    def __bool__(self) -> bool:
        return bool(self._awaited)

    def __contains__(self, id: object) -> bool:
        return bool(self.contains(id))

    def __iter__(self) -> Iterator[Any]:
        records = aiter(self._awaited)
        try:
            while True:
                yield await_only(anext(records))
        except StopAsyncIteration:
            return

    def __repr__(self) -> str:
        return repr(self._awaited).replace("<Async", "<")

    def __enter__(self) -> Self:
        await_only(self._awaited.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""`ModelCollection.reembed`: another model takes over a collection that follows rows."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, delete, insert, update
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from embeddings import Collection, DoesNotExist, InvalidQueryError, ModelCollection
from embeddings.models.registry import substitute_models
from embeddings.testing import DeterministicModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from embeddings.models.base import Content
    from embeddings.vectors import Float32


class Base(DeclarativeBase):
    """The host's."""


class Page(Base):
    """What is followed."""

    __tablename__ = "reembedded_pages"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]
    lang: Mapped[str] = mapped_column(default="en")
    published: Mapped[bool] = mapped_column(default=True)


class Narrow(DeterministicModel):
    """A model of 64 dimensions, which tells before it answers."""

    before: Callable[[], object] = staticmethod(lambda: None)

    def embed_batch(self, items: Sequence[Content]) -> list[Float32]:
        """Return the first 64 values."""
        self.before()
        return [vector[:64] for vector in super().embed_batch(items)]


by_both_hashes = pytest.mark.parametrize(
    ("host", "large"),
    [("engine", ""), ("engine", "passage: "), ("postgresql_engine", "passage: ")],
    indirect=True,
)
"""With a model whose texts have the hashes that they had, and with another."""


@pytest.fixture
def large(request: pytest.FixtureRequest) -> Iterator[Narrow]:
    """The other model, which is known, as is `deterministic`."""
    model = Narrow("large")
    model.document_prefix = getattr(request, "param", "")
    known: dict[str, Any] = {"large": model, "deterministic": DeterministicModel()}
    with substitute_models(lambda model_id, given: known.get(model_id) or given):  # type: ignore[arg-type,return-value]
        yield model


@pytest.fixture(params=["engine", "postgresql_engine"])
def host(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine on each database, with twelve pages, followed and embedded."""
    engine: Engine = request.getfixturevalue(request.param)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(Page), [{"id": n, "body": f"page {n}"} for n in range(1, 13)])
    PAGES.install(engine)
    yield engine
    PAGES.uninstall(engine)
    Base.metadata.drop_all(engine)


def pages(model_id: str) -> ModelCollection[Page]:
    return ModelCollection(
        Page,
        text=[Page.body],
        metadata=[Page.lang],
        where=Page.published,
        name="pages",
        model_id=model_id,
    )


PAGES = pages("deterministic")


def change(engine: Engine, *statements: Any) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(statement)


def is_right(declared: ModelCollection[Page], engine: Engine, dimensions: int) -> bool:
    audit = declared.sync(engine, dry_run=True)
    lengths = {len(record.embedding) for record in declared.collection(engine)}
    assert (audit.stale, audit.missing, audit.orphaned) == ((), (), ())
    return declared.pending(engine).items == 0 and lengths == {dimensions}


@by_both_hashes
def test_what_changes_meanwhile_is_in_both(host: Engine, large: Narrow):
    """Changed, refreshed, changed back; deleted, new, hidden: all is right after the switch."""
    PAGES.sync(host)

    def updated(id: int, **values: Any) -> Any:
        return update(Page).where(Page.id == id).values(**values)

    steps: Iterator[Callable[[], object]] = iter(
        [
            lambda: change(
                host, updated(1, body="for a moment"), delete(Page).where(Page.id == 12)
            ),
            lambda: PAGES.refresh(host),
            lambda: change(host, updated(1, body="page 1"), updated(2, lang="de")),
            lambda: PAGES.refresh(host),
            lambda: change(host, insert(Page).values(id=20, body="a new page")),
            lambda: PAGES.refresh(host),
            lambda: change(host, updated(3, published=False)),
            lambda: change(host, updated(4, body="pending at the switch")),
        ]
    )
    large.before = lambda: next(steps, lambda: None)()
    report = PAGES.reembed(host, "large", batch_size=1)
    assert next(steps, None) is None
    assert report.pending == 0
    assert report.embedded >= 12
    new = pages("large")
    assert is_right(PAGES, host, 64)
    assert PAGES.collection(host).ids() == [1, 10, 11, 2, 20, 4, 5, 6, 7, 8, 9]
    with Session(host) as session:
        for declared in (PAGES, new):
            found = declared.nearest(session, large.document_prefix + "pending at the switch")
            assert found[0][0].id == 4
    assert PAGES.reembed(host, "large").embedded == 0

    change(host, updated(5, body="after the switch"), updated(3, published=True))
    change(host, delete(Page).where(Page.id == 6))
    assert new.refresh(host).embedded == 2
    large.calls.clear()
    report = new.back(host)
    assert report.embedded == 3
    assert not large.calls
    assert is_right(new, host, 256)
    assert new.back(host).pending == 0
    assert is_right(PAGES, host, 64)
    assert new.drop_previous(host)
    with pytest.raises(DoesNotExist):
        new.back(host)


def test_beside_writers_and_refreshers(host: Engine, large: Narrow):
    """Whoever names which model, nobody fails, and after `refresh` all is right."""
    PAGES.sync(host)
    stop, chance = threading.Event(), random.Random(7)  # noqa: S311
    failures: list[Exception] = []

    def until_stopped(work: Callable[[], object]) -> None:
        try:
            while not stop.wait(0.01):
                work()
        except Exception as error:  # noqa: BLE001  it is raised below
            failures.append(error)

    def write() -> None:
        id = chance.randrange(1, 16)
        if chance.random() < 0.3:
            change(host, delete(Page).where(Page.id == id))
        elif chance.random() < 0.7:
            change(host, update(Page).where(Page.id == id).values(body=f"body {chance.random()}"))
        else:
            change(host, delete(Page).where(Page.id == id), insert(Page).values(id=id, body="new"))

    def search() -> None:
        with Session(host) as session:
            PAGES.nearest(session, "page", number=20)

    works = (write, search, lambda: PAGES.refresh(host))
    threads = [threading.Thread(target=until_stopped, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        PAGES.reembed(host, "large", batch_size=3)
        PAGES.back(host)
        PAGES.reembed(host, "large")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    pages("large").refresh(host)
    assert is_right(PAGES, host, 64)


def test_without_rows_nothing_is_switched(host: Engine, large: Narrow):
    """As in `sync`: it may be the wrong database."""
    PAGES.sync(host)
    PAGES.uninstall(host)
    change(host, delete(Page))
    with pytest.raises(InvalidQueryError, match="has 12"):
        PAGES.reembed(host, "large")
    assert PAGES.collection(host).model_id == "deterministic"
    assert Collection.names(host) == ["pages"]


@pytest.mark.parametrize("host", ["engine"], indirect=True)
def test_awaited(host: Engine, large: Narrow):
    """The same, awaited."""
    PAGES.sync(host)

    async def run() -> None:
        engine = create_async_engine(host.url.set(drivername="sqlite+aiosqlite"))
        assert (await PAGES.areembed(engine, "large")).embedded == 12
        assert await PAGES.acollection(engine).model_id == "large"
        assert (await PAGES.aback(engine)).embedded == 0
        assert await PAGES.adrop_previous(engine)
        await engine.dispose()

    asyncio.run(run())
    assert is_right(PAGES, host, 256)

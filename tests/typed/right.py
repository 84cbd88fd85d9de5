"""A user's program: it calls everything, and strict type checkers have nothing to say.

It is checked, and not executed.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from sqlalchemy import Engine, ForeignKey, create_engine, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column
from typing_extensions import assert_type

import embeddings
from embeddings import (
    AsyncCollection,
    AsyncPlan,
    Collection,
    CollectionRecord,
    EmbeddingModel,
    EmbeddingRecord,
    Entries,
    Entry,
    Filters,
    ModelCollection,
    Plan,
    Records,
    Report,
    Status,
    make_records,
)


class Base(DeclarativeBase):
    """The program's base."""


class Article(Base):
    """The program's rows."""

    __tablename__ = "articles"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    embedding_of: Mapped[int | None] = mapped_column(ForeignKey(CollectionRecord.id))


class Document(Base):
    """Rows by UUID."""

    __tablename__ = "documents"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)


class OfATenant:
    """The program's own columns."""

    tenant: Mapped[str] = mapped_column(default="nobody")


class Letters(EmbeddingModel):
    """A model of the program's own."""

    model_id = "letters"
    supports_text = True

    def embed_batch(self, items: Sequence[str | bytes]) -> Iterator[list[float]]:
        """Yield a vector for each."""
        for item in items:
            yield [float(len(item)), 1.0]


RECORDS: Records = make_records(Base, prefix="typed_", embedding_mixin=OfATenant)


def keys(engine: Engine, session: Session) -> None:
    """The type of the keys goes through."""
    assert_type(Collection("docs", engine, model_id="local"), Collection[str])
    assert_type(Collection("docs", session, key=int), Collection[int])
    assert_type(Collection("docs", Path("docs.db"), key=Article.id), Collection[int])
    assert_type(Collection("docs", "sqlite://", key=Document.id), Collection[uuid.UUID])
    assert_type(Collection("docs", engine, records=RECORDS, key=uuid.UUID), Collection[uuid.UUID])
    assert_type(AsyncCollection("docs"), AsyncCollection[str])
    assert_type(AsyncCollection("docs", key=Article.id), AsyncCollection[int])


def writing(docs: Collection[int]) -> Report:
    """What writes."""
    docs.embed(1, "a hound", {"tag": "pet", "legs": 4}, store=True)
    docs.embed(2, b"bytes", extra={"tenant": "acme"})
    report = docs.embed_multi([(1, "a hound"), (2, "a cat")], store=True, batch_size=10)
    report += docs.embed_multi_with_metadata([(3, "a fish", None), (4, "an ant", {"legs": 6})])
    report += docs.store_vectors([(5, [1.0, 2.0]), (6, np.zeros(2), {"tag": "pet"})])
    plan = docs.plan((id, f"text {id}") for id in range(3))
    assert_type(plan, Plan[int])
    assert_type(plan.new, list[int])
    plan.embed()
    docs.apply(plan)
    docs.embed(7, docs.prepare("a text"))
    docs.set_metadata(1, None)
    assert_type(docs.delete_items([1, 2], where={"tag": "pet"}), int)
    docs.rename("papers")
    docs.delete()
    assert_type(report.embedded, int)
    return report


def reading(docs: Collection[int], session: Session) -> Status:
    """What reads."""
    assert_type(docs.ids("1"), list[int])
    ids, matrix = docs.vectors(prefix="1")
    assert_type(ids, list[int])
    assert_type(float(matrix.mean()), float)
    record = docs.get(1)
    if record is not None:
        assert_type(record.id, str)
        metadata: Mapping[str, object] | None = record.metadata_
        assert_type(record.collection.name, str)
        print(metadata)
    for each in docs.get_many([1, 2]):
        assert_type(each, EmbeddingRecord | None)
    for one in docs:
        print(one.embedding.mean())
    statement = select(RECORDS.embedding).where(RECORDS.embedding.id == "1")
    for row in session.scalars(statement):
        assert_type(row, EmbeddingRecord)
    assert_type(len(docs) + docs.count() + docs.id, int)
    assert_type(Collection.names(session), list[str])
    return docs.status() if 1 in docs else Collection("other", session).status()


async def followed(notes: ModelCollection[Article], session: Session, other: AsyncEngine) -> None:
    """What finds instances, by words as well."""
    for article, score in notes.nearest(session, "dog", select(Article).where(Article.id > 1)):
        print(article.title, score + 0.5)
    for article, score, rank in await notes.anearest(other, "dog", words=True, weights=(1, 2)):
        print(article.title, score + 0.5, rank + 1)
    report = await notes.arefresh(other, keys=[1, 2], on_error="skip")
    report += await notes.arefresh(other, forever=True, stop=asyncio.Event(), limit=5)
    report += await notes.async_(other, dry_run=True, progress=True)
    report += await notes.areembed(other, "3-large", batch_size=10)
    assert_type(report, Report)


def searching(docs: Collection[int], session: Session) -> Entry[int]:
    """What searches, with every filter."""
    vector = docs.embed_query("dog")
    filters: Filters = {"offset": 1, "min_score": 0.2, "exact": True}
    found = docs.similar("dog", number=5, prefix="1", **filters)
    assert_type(found, Entries[int])
    assert_type(found.exact, bool)
    found = docs.similar_by_vector(vector, skip_id=3, where={"tag": "pet"})
    found = docs.similar_by_id(1, where=EmbeddingRecord.updated > 1)
    found = docs.similar("dog", where=aliased(EmbeddingRecord).id == "1", among=[1, 2])
    found = docs.similar("dog", among=select(Article.id).where(Article.title == "x"))
    found = docs.similar("dog", among=select(Article.id).subquery())
    assert_type(docs.similar_multi(["dog", "cat"]), list[Entries[int]])
    assert_type(docs.similar_multi_by_vector([vector]), list[Entries[int]])
    near = docs.matches("dog", 5)
    session.execute(
        select(Article, near.c.score)
        .join(near, near.c.id == Article.id)
        .order_by(near.c.score.desc())
    )
    session.scalars(select(EmbeddingRecord).where(EmbeddingRecord.metadata_["tag"] == "pet"))
    best = found[0]
    assert_type(best.id, int)
    assert_type(best.score, float)
    assert_type(best.content, str | None)
    return best


async def awaited(engine: AsyncEngine, session: AsyncSession) -> AsyncIterator[Entry[int]]:
    """The same, awaited."""
    docs = AsyncCollection("docs", engine, key=Article.id, model=Letters())
    await docs.embed(1, "a hound", {"tag": "pet"}, store=True)
    assert_type(await docs.embed_multi([(1, "a hound")]), Report)
    stream = session.stream(select(Article.id, Article.title))
    await docs.embed_multi_with_metadata([(1, "a", None)])
    await docs.store_vectors([(1, [1.0, 2.0])])
    print(stream)
    plan = await docs.plan([(1, "a hound")])
    assert_type(plan, AsyncPlan[int])
    await plan.embed()
    await docs.apply(plan)
    assert_type(await docs.ids(), list[int])
    assert_type((await docs.vectors())[0], list[int])
    assert_type(await docs.get(1), EmbeddingRecord | None)
    assert_type(await docs.contains(1), bool)
    assert_type(await docs.count() + await docs.id, int)
    assert_type(await docs.model_id, str)
    async for record in docs:
        assert_type(record.id, str)
    assert_type(await docs.similar_multi(["a"]), list[Entries[int]])
    near = await docs.matches("a hound")
    await session.execute(select(Article).join(near, near.c.id == Article.id))
    assert_type(await docs.status(), Status)
    assert_type(await docs.delete_items([1]), int)
    found = await docs.similar("a hound", number=3, where={"tag": "pet"})
    assert_type(found, Entries[int])
    for entry in await docs.similar_by_vector([1.0, 2.0]):
        yield entry
    for entry in await docs.similar_by_id(1):
        yield entry
    await docs.close()


def around() -> None:
    """What stands around."""
    engine = create_engine("sqlite:///app.db")
    embeddings.configure_sqlite(engine)
    embeddings.migrate(engine)
    embeddings.register_embedding_model(Letters())
    embeddings.set_alias("small", "letters")
    assert_type(embeddings.encode([1.0, 2.0]), bytes)
    assert_type(embeddings.cosine_similarity([1.0], [2.0]), float)
    with Collection("docs", "app.db") as docs:
        print(docs.similar("dog")[0].content)
    print(create_async_engine("sqlite+aiosqlite://"))

"""`ModelCollection.nearest` and `related`: instances of the host's, by a SELECT of the host's."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import ForeignKey, delete, func, inspect, select, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    contains_eager,
    mapped_column,
    relationship,
    selectinload,
    with_loader_criteria,
)

from embeddings import (
    Chunks,
    EmbeddingRecord,
    InvalidItemError,
    InvalidQueryError,
    MissingWordsWarning,
    ModelCollection,
)
from embeddings.testing import DeterministicModel
from tests.reaching import on_both

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Engine


class Base(DeclarativeBase):
    """The host's."""


class Author(Base):
    """Of articles."""

    __tablename__ = "near_authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    articles: Mapped[list[Article]] = relationship(back_populates="author")


class Article(Base):
    """What is searched."""

    __tablename__ = "near_articles"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    lang: Mapped[str] = mapped_column(default="en")
    published: Mapped[bool] = mapped_column(default=True)
    author_id: Mapped[int] = mapped_column(ForeignKey(Author.id))
    author: Mapped[Author] = relationship(back_populates="articles")


TABLES: Any = (Author.__table__, Article.__table__)
MODEL = DeterministicModel()
ARTICLES = ModelCollection(
    Article,
    text=[Article.title],
    metadata=[Article.lang],
    where=Article.published,
    name="articles",
    model=MODEL,
)
LONG = ModelCollection(
    Article, text=[Article.title], name="long", model=MODEL, chunks=Chunks(size=200)
)
TITLES = ["a hound eats", "a hound sleeps", "a hound barks", "a cat sleeps", "a cat eats", "rain"]


def fill(session: Session) -> None:
    session.add_all([Author(id=1, name="Ann"), Author(id=2, name="Bob")])
    session.flush()
    session.add_all(
        [
            Article(id=n, title=title, author_id=1 + n % 2, lang="de" if n > 3 else "en")
            for n, title in enumerate(TITLES, 1)
        ]
    )
    session.flush()
    docs = ARTICLES.collection(session)
    rows = session.execute(ARTICLES.rows()).all()
    docs.embed_multi_with_metadata(map(ARTICLES.item_of, rows))


@pytest.fixture
def filled(db: Session, host_tables: Callable[..., None]) -> Session:
    """The host's rows, and the vectors of all."""
    host_tables(*TABLES)
    fill(db)
    return db


def ids(found: Sequence[Any]) -> list[int]:
    return [row.Article.id for row in found]


@on_both
def test_nearest(filled: Session):
    """As `similar` finds them, as objects of the session, with the same scores."""
    docs = ARTICLES.collection(filled)
    found = ARTICLES.nearest(filled, "a hound eats", number=4)
    entries = docs.similar("a hound eats", number=4)
    assert ids(found) == [entry.id for entry in entries]
    assert [score for _, score in found] == pytest.approx([entry.score for entry in entries])
    assert found[0].Article is filled.get(Article, 1)
    assert found[0].score == pytest.approx(1)
    rest = ARTICLES.nearest(filled, "a hound eats", number=2, offset=2)
    assert ids(rest) == ids(found)[2:]
    assert ids(ARTICLES.nearest(filled, "a hound eats", min_score=0.99)) == [1]
    germans = ARTICLES.nearest(filled, "a hound eats", where={"lang": "de"})
    assert {*ids(germans)} == {4, 5, 6}


@on_both
def test_nearest_by_words_as_well(filled: Session):
    """In the order of both rankings, with the rank after the score, which stays the similarity."""
    docs = ARTICLES.collection(filled)
    with pytest.warns(MissingWordsWarning):
        docs.create_text_index()
    docs.embed_multi((n, title) for n, title in enumerate(TITLES, 1))
    options: Any = {"words": "rain", "weights": (0.1, 1)}
    entries = docs.similar("a hound eats", number=3, **options)
    assert entries[0].id == 6
    found = ARTICLES.nearest(filled, "a hound eats", number=3, **options)
    assert ids(found) == [entry.id for entry in entries]
    assert [score for _, score, _ in found] == pytest.approx([entry.score for entry in entries])
    assert found[0]._fields == ("Article", "score", "rank")
    assert [rank for _, _, rank in found] == [1, 2, 3]
    sixth = filled.get_one(Article, 6)
    related = ARTICLES.related(filled, sixth, number=2, words="hound")
    assert [row.rank for row in related] == [1, 2]


@on_both
def test_a_select_of_the_hosts(filled: Session):
    """Its conditions, joins and options hold before the best are taken."""
    rows = (
        select(Article)
        .join(Article.author)
        .where(Author.name == "Ann", Article.lang == "en")
        .options(contains_eager(Article.author))
    )
    assert ids(ARTICLES.nearest(filled, "a hound eats", rows, number=1)) == [2]
    filled.expunge_all()
    rows = select(Article).options(selectinload(Article.author).selectinload(Author.articles))
    found = ARTICLES.nearest(filled, "a hound eats", rows, number=3)
    assert [len(article.author.articles) for article, _ in found] == [3, 3, 3]
    rows = select(Article).options(with_loader_criteria(Article, Article.lang == "de"))
    assert {*ids(ARTICLES.nearest(filled, "a hound eats", rows))} == {4, 5, 6}
    more = select(Article, Author.name).join(Article.author)
    [row] = ARTICLES.nearest(filled, "a hound eats", more, number=1)
    assert (row.Article.id, row.name) == (1, "Bob")
    other = aliased(Article)
    to_many = select(Article).join(other, other.author_id == Article.author_id)
    assert ids(ARTICLES.nearest(filled, "a hound eats", to_many, number=4)) == ids(
        ARTICLES.nearest(filled, "a hound eats", number=4)
    )
    pairs = to_many.add_columns(other.id)
    assert len(ARTICLES.nearest(filled, "a hound eats", pairs, number=4)) == 12


@on_both
def test_a_select_that_groups_or_locks(filled: Session):
    """What is grouped by instance is counted beside it; what is locked is the host's row."""
    filled.execute(update(Article).where(Article.id == 4).values(author_id=2))
    other = aliased(Article)
    of_the_author = (
        select(Article, func.count(other.id).label("others"))
        .join(other, other.author_id == Article.author_id)
        .group_by(Article.id)
    )
    found = ARTICLES.nearest(filled, "a hound eats", of_the_author, number=2)
    assert [(row.Article.id, row.others) for row in found] == [(1, 4), (5, 4)]
    few = of_the_author.having(func.count(other.id) < 3)
    assert ids(ARTICLES.nearest(filled, "a hound eats", few, pending="exclude")) == [2, 6]
    assert ids(ARTICLES.related(filled, filled.get_one(Article, 1), few)) == [2, 6]
    whole = select(Article).group_by(*inspect(Article).columns)
    assert ids(ARTICLES.nearest(filled, "a hound eats", whole, number=1)) == [1]
    with pytest.warns(MissingWordsWarning):
        ARTICLES.collection(filled).create_text_index()
    by_words = ARTICLES.nearest(filled, "a hound eats", of_the_author, number=2, words=True)
    assert [(row.Article.id, row.others, row.rank) for row in by_words] == [(1, 4, 1), (5, 4, 2)]
    to_change = select(Article).outerjoin(Article.author).with_for_update(of=Article)
    assert ids(ARTICLES.nearest(filled, "a hound eats", to_change, number=1)) == [1]
    LONG.sync(filled)
    assert ids(LONG.nearest(filled, "a hound eats", to_change, number=1)) == [1]


@on_both
def test_what_is_never_shown(filled: Session):
    """A vector whose row is gone, has no text, or does not meet the condition. Nothing is short."""
    filled.execute(delete(Article).where(Article.id == 1))
    filled.execute(update(Article).where(Article.id == 2).values(published=False))
    filled.execute(update(Article).where(Article.id == 4).values(title=""))
    assert ARTICLES.collection(filled).count() == 6
    assert len(ids(ARTICLES.nearest(filled, "a hound eats", number=3))) == 3
    assert {*ids(ARTICLES.nearest(filled, "a hound eats"))} == {3, 5, 6}
    third = filled.get_one(Article, 3)
    assert {*ids(ARTICLES.related(filled, third))} == {5, 6}


@on_both
def test_related(filled: Session):
    """To an instance, without it; empty where it has no vector, and in an empty collection."""
    first = filled.get_one(Article, 1)
    docs = ARTICLES.collection(filled)
    assert ids(ARTICLES.related(filled, first)) == [e.id for e in docs.similar_by_id(1)]
    german = select(Article).where(Article.lang == "de")
    assert {*ids(ARTICLES.related(filled, first, german))} == {4, 5, 6}
    new = Article(title="new", author_id=1)
    with pytest.raises(InvalidItemError, match="This Article has no id yet"):
        ARTICLES.related(filled, new)
    new.id = 7
    filled.add(new)
    filled.flush()
    assert ARTICLES.related(filled, new) == []
    docs.delete()
    assert ARTICLES.related(filled, first) == []
    assert ARTICLES.nearest(filled, "a hound eats") == []


@on_both
def test_rows_that_are_pending(filled: Session):
    """They are found by the vector that they had, and with "exclude" they are left out."""
    ARTICLES.install(filled)
    try:
        filled.get_one(Article, 1).title = "changed"
        filled.flush()
        assert ids(ARTICLES.nearest(filled, "a hound eats", number=1)) == [1]
        found = ids(ARTICLES.nearest(filled, "a hound eats", pending="exclude"))
        assert sorted(found) == [2, 3, 4, 5, 6]
        second = filled.get_one(Article, 2)
        assert 1 not in ids(ARTICLES.related(filled, second, pending="exclude"))
        assert 1 in ids(ARTICLES.related(filled, second))
    finally:
        ARTICLES.uninstall(filled)


@on_both
def test_what_is_refused(filled: Session):
    """Before the model is called, with what to give instead."""
    near: Any = ARTICLES.nearest
    for rows, error, match in (
        ("articles", TypeError, r"must be a SELECT of Article, such as select\(Article\)"),
        (select(Author), InvalidQueryError, "must be of Article itself"),
        (select(Article.id), InvalidQueryError, "must be of Article itself"),
        (select(aliased(Article)), InvalidQueryError, "must be of Article itself"),
        (select(Article).limit(3), InvalidQueryError, "give number= and offset="),
        (select(Article).with_for_update(), InvalidQueryError, "give it of=Article"),
        (select(Article).having(func.count() > 1), InvalidQueryError, r"group_by\(Article\.id\)"),
        (
            select(Article).group_by(Article.author_id),
            InvalidQueryError,
            r"one row of Article each: group_by\(Article\.id\)",
        ),
    ):
        calls = len(MODEL.calls)
        with pytest.raises(error, match=match):
            near(filled, "x", rows)
        assert len(MODEL.calls) == calls
        assert ids(near(filled, "a hound eats", number=1)) == [1]  # the transaction goes on
    with pytest.raises(InvalidQueryError, match="'include' or 'exclude', not 'no'"):
        near(filled, "x", pending="no")
    with pytest.raises(InvalidQueryError, match="rows=, its SELECT, says which rows"):
        near(filled, "x", among=[1])
    takes = "it takes number, rows, pending, offset, min_score, where, words, weights, exact$"
    for name, hint in (("limit", "use number=$"), ("ids", "use rows=$"), ("prefix", takes)):
        related: Any = partial(ARTICLES.related, filled, filled.get_one(Article, 1))
        for method in (partial(near, filled, "x"), related):
            with pytest.raises(TypeError, match=hint):
                method(**{name: "a"})
    for call in (
        lambda text: near(text, text),
        ARTICLES.install,
        ARTICLES.refresh,
        ARTICLES.pending,
    ):
        with pytest.raises(TypeError, match="a session, a connection or an engine, not str"):
            call("a hound eats")
    with pytest.raises(TypeError, match="takes an instance of Article, not Author"):
        ARTICLES.related(filled, Author(id=1))  # type: ignore[arg-type]


@on_both
def test_metadata_that_are_not_declared(filled: Session):
    """A typing mistake would find nothing. What was written otherwise is searched otherwise."""
    first, model = filled.get_one(Article, 1), ARTICLES.model
    calls = len(model.calls)  # type: ignore[union-attr]
    wrong: list[Any] = [
        {"langg": "en"},
        {"lang": "en", "langg.part": "en"},
        {"$or": [{"lang": "en"}, {"$not": {"langg": {"$exists": True}}}]},
        [EmbeddingRecord.id != "2", {"langg": "en"}],
    ]
    for where in wrong:
        with pytest.raises(InvalidQueryError, match=r"'langg'.*'articles'.*: 'lang'\. "):
            ARTICLES.nearest(filled, "new", where=where)
        with pytest.raises(InvalidQueryError, match=r"'langg'.*'articles'.*: 'lang'\. "):
            ARTICLES.related(filled, first, where=where)
    bare = ModelCollection(Article, text=[Article.title], name="bare", model=model)
    with pytest.raises(InvalidQueryError, match=r"'lang'.*'bare'.*: none\. "):
        bare.nearest(filled, "new", where={"lang": "en"})
    assert len(model.calls) == calls  # type: ignore[union-attr]
    docs = ARTICLES.collection(filled)
    docs.set_metadata(1, {"lang": "en", "langg": "en"})
    assert [entry.id for entry in docs.similar("a hound eats", where={"langg": "en"})] == [1]


def test_on_an_engine(engine: Engine):
    """The instances are detached, and what was loaded of them is there."""
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        fill(session)
        session.commit()
    found = ARTICLES.nearest(engine, "a hound eats", number=1)
    assert found[0].Article.title == "a hound eats"
    assert ids(ARTICLES.related(engine, found[0].Article, number=1)) != [1]


def test_awaited(engine: Engine):
    """The same, on an AsyncSession and an AsyncEngine."""
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        fill(session)
        session.commit()

    async def run() -> None:
        awaited = create_async_engine(engine.url.set(drivername="sqlite+aiosqlite"))
        async with AsyncSession(awaited) as session:
            rows = select(Article).where(Article.lang == "en")
            found = await ARTICLES.anearest(session, "a hound eats", rows, number=2)
            assert ids(found)[0] == 1
            near = await ARTICLES.arelated(session, found[0].Article, number=5)
            assert {*ids(near)} == {2, 3, 4, 5, 6}
        assert ids(await ARTICLES.anearest(awaited, "a hound eats", number=1)) == [1]
        await awaited.dispose()

    asyncio.run(run())

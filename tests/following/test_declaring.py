"""`ModelCollection`: what may be declared on a mapped class, and what the rows say then."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import enum
import functools
import inspect
import pickle
import uuid  # noqa: TC003  SQLAlchemy reads the annotations
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import (
    JSON,
    ForeignKey,
    String,
    TypeDecorator,
    bindparam,
    case,
    create_engine,
    exists,
    func,
    literal_column,
    select,
    text,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    column_property,
    mapped_column,
    relationship,
)

from embeddings import BindingError, InvalidItemError, ModelCollection, make_records
from embeddings.following.options import ReembedOptions, RefreshOptions, SyncOptions
from embeddings.testing import DeterministicModel
from tests.reaching import on_both

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy import Engine


class Base(DeclarativeBase):
    """The host's."""


class Kind(enum.Enum):
    """Of an article."""

    NEWS = "news"
    NOTE = "note"


class Reversed(TypeDecorator[str]):
    """A text that is stored otherwise than it is read."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return value and value[::-1]

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        return value and value[::-1]


class Author(Base):
    """Another table."""

    __tablename__ = "declared_authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Article(Base):
    """What is followed."""

    __tablename__ = "declared_articles"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    body: Mapped[str | None]
    lang: Mapped[str | None]
    published: Mapped[bool] = mapped_column(default=True)
    kind: Mapped[Kind] = mapped_column(default=Kind.NEWS)
    day: Mapped[dt.date | None]
    facts: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    hidden: Mapped[str | None] = mapped_column(Reversed)
    photo: Mapped[bytes | None]
    length: Mapped[dt.timedelta | None]
    author_id: Mapped[int | None] = mapped_column(ForeignKey(Author.id))
    author: Mapped[Author | None] = relationship()

    @hybrid_property
    def is_long(self) -> bool:
        return len(self.body or "") > 3

    @is_long.inplace.expression
    @classmethod
    def _is_long(cls) -> Any:
        return func.length(cls.body) > 3


Article.shouted = column_property(func.upper(Article.title))


class Chapter(Article):
    """Joined inheritance."""

    __tablename__ = "declared_chapters"
    id: Mapped[int] = mapped_column(ForeignKey(Article.id), primary_key=True)
    heading: Mapped[str]


class Pair(Base):
    """A key of two columns."""

    __tablename__ = "declared_pairs"
    one: Mapped[int] = mapped_column(primary_key=True)
    two: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


class Day(Base):
    """A key of a type that is none."""

    __tablename__ = "declared_days"
    day: Mapped[dt.date] = mapped_column(primary_key=True)
    text: Mapped[str]


async def awaited_text(article: Article) -> str:
    """No text=, which is called and not awaited."""
    return article.title


class AwaitedText:
    """The same."""

    async def __call__(self, article: Article) -> str:
        return article.title


async def texts(article: Article) -> AsyncIterator[str]:
    """Nor is this one."""
    yield article.title


def declared(source: Any = Article, **options: Any) -> ModelCollection[Any]:
    return ModelCollection(
        source, **{"text": [Article.title, Article.body], "name": "articles", **options}
    )


@on_both
def test_the_rows_that_are_items(db: Session, host_tables: Callable[..., None]):
    """Text and metadata of each row that the condition holds for and that has text; no others.

    What SQL makes of the text is what Python makes of it.
    """
    host_tables(Author.__table__, Article.__table__, Chapter.__table__)
    db.add_all(
        [
            Article(id=1, title="One", body="first", lang="en", day=dt.date(2026, 1, 2)),
            Article(id=2, title="Two", body="", kind=Kind.NOTE),
            Article(id=3, title="", body="third"),
            Article(id=4, title="", body=None),
            Article(id=5, title="Five", published=False),
            Chapter(id=6, title="Six", heading="Sixth"),
        ]
    )
    articles = declared(metadata=[Article.lang, Article.kind, Article.day], where=Article.published)
    rows = db.execute(articles.rows()).all()
    found = {key: (words, facts) for key, words, facts in map(articles.item_of, rows)}
    assert found == {
        1: ("One\n\nfirst", {"lang": "en", "kind": "NEWS", "day": "2026-01-02"}),
        2: ("Two", {"lang": None, "kind": "NOTE", "day": None}),
        3: ("third", {"lang": None, "kind": "NEWS", "day": None}),
        6: ("Six", {"lang": None, "kind": "NEWS", "day": None}),
    }
    assert articles.text_in_sql is not None
    in_sql = db.execute(articles.rows().with_only_columns(Article.id, articles.text_in_sql))
    assert {*in_sql} == {(key, words) for key, (words, _) in found.items()}
    for instance in db.scalars(select(Article).where(Article.published)):
        assert articles.text_of(instance) == found.get(instance.id, ("", None))[0]

    chapters = declared(
        Chapter, text=[Chapter.heading, Chapter.title], where=Article.published, name="chapters"
    )
    rows = db.execute(chapters.rows()).all()
    assert [chapters.item_of(row) for row in rows] == [(6, "Sixth\n\nSix", None)]


@on_both
def test_a_text_that_is_a_function(db: Session, host_tables: Callable[..., None]):
    """It is called with an instance; what is no text is refused and names the row."""
    host_tables(Author.__table__, Article.__table__)
    db.add(Article(id=1, title="One", body="first", hidden="terces"))
    articles = declared(
        text=lambda article: f"{article.title}!", columns=["title"], metadata=["hidden"]
    )
    assert articles.reads_instances
    assert articles.text_in_sql is None
    row = db.execute(articles.rows()).one()
    assert articles.item_of(row) == (1, "One!", {"hidden": "terces"})
    wrong = declared(text=lambda _: 7, columns=["title"])
    with pytest.raises(InvalidItemError, match=r"text of Article 1 must be a str or None, not int"):
        wrong.item_of(db.execute(wrong.rows()).one())
    decorated = declared(text=[Article.hidden])
    assert decorated.text_in_sql is None
    assert decorated.item_of(db.execute(decorated.rows()).one()) == (1, "terces", None)


def test_the_collection(engine: Any):
    """It has the key's type, the name, the model and the tables that were declared."""
    model = DeterministicModel()
    docs = declared(model=model).collection(engine)
    docs.embed(7, "seven")
    assert docs.ids() == [7]
    assert docs.name == "articles"
    assert docs.model() is model
    with pytest.raises(AttributeError):
        declared().name = "other"  # type: ignore[misc]
    assert repr(declared()) == "<ModelCollection 'articles' of Article>"


def test_conditions_that_a_trigger_can_hold(subtests: pytest.Subtests):
    """On columns, with values, and functions of them."""
    for where in [
        Article.published,
        ~Article.published & (Article.lang == "en"),
        Article.is_long,
        Article.shouted == "ONE",  # type: ignore[attr-defined]
        Article.kind.in_([Kind.NEWS]),
        Article.lang.in_([]),
        tuple_(Article.lang, Article.title).in_([("en", "One")]),
        Article.facts["n"].as_integer() == 3,
        Article.day > dt.date(2026, 1, 1),
        case((Article.lang.is_(None), False), else_=True),
        func.coalesce(Article.lang, "en") == "en",
        Article.title.ilike("o%"),
        Article.title.between("a", "b"),
        True,
    ]:
        with subtests.test(ascii(where)[:60]):
            assert declared(where=where).where is not None


def test_conditions_that_a_trigger_cannot_hold(subtests: pytest.Subtests):
    """They are refused, and the error says what of them."""
    for where, error in [
        (exists().where(Author.id == Article.author_id), "a subquery"),
        (Article.author.has(name="x"), "a subquery"),
        (Article.id.in_(select(Author.id)), "a subquery"),
        (select(Author.id).scalar_subquery() == 1, "a subquery"),
        (text("published"), "text"),
        (literal_column("published") == 1, "use the attributes"),
        (Author.name == "x", "column of another table"),
        (Chapter.heading == "x", "column of another table"),
        (Article.lang == bindparam("lang"), "'lang' has no value"),
        (Article.day < func.current_date(), "current_date"),
        (Article.day < func.now(), r"now\(\)"),
        (func.is_public(Article.id), "is_public"),
        (Article.title.op("~~~")("x"), "operator ~~~"),
    ]:
        with (
            subtests.test(ascii(where)[:60]),
            pytest.raises(ValueError, match=f"where: .*{error}.*A trigger evaluates"),
        ):
            declared(where=where)


def test_what_is_refused(subtests: pytest.Subtests):
    """When it is declared, with what was wrong and what to give instead."""
    options: Any
    kind: Any
    error: Any
    for options, kind, error in [
        ({"source": "articles"}, TypeError, "must be a mapped class, not 'articles'"),
        ({"source": object}, TypeError, "must be a mapped class"),
        ({"source": Pair, "text": ["text"]}, ValueError, r"several columns \(one, two\)"),
        ({"source": Day, "text": ["text"]}, TypeError, "key must be str, int, uuid.UUID"),
        ({"text": ["tilte"]}, ValueError, r"text\[0\]: Article has no attribute 'tilte'.*title"),
        ({"text": []}, ValueError, "at least one column"),
        ({"text": "title"}, TypeError, r"a list of columns, not 'title': write text=\['title'\]"),
        ({"text": Article.title}, TypeError, r"not Article.title: write text=\[Article.title\]"),
        ({"text": [Author.name]}, ValueError, r"text\[0\]: Author.name is not of Article"),
        ({"text": [Chapter.heading]}, ValueError, r"text\[0\]: Chapter.heading is not of Article"),
        ({"text": [Article.author]}, TypeError, "Article.author is not a column"),
        ({"text": ["shouted"]}, TypeError, "Article.shouted is not a column"),
        ({"text": [Article.is_long]}, TypeError, "Article.is_long is not a column"),
        ({"text": [Article.published]}, TypeError, "Article.published is no text but Boolean"),
        ({"text": [Article.kind]}, TypeError, "Article.kind is no text but Enum"),
        ({"text": [7]}, TypeError, r"text\[0\] must be a column of Article, such as Article.title"),
        *(
            ({"text": made, "columns": ["title"]}, TypeError, "text= is a function that is awaited")
            for made in (awaited_text, functools.partial(awaited_text), AwaitedText(), texts)
        ),
        ({"text": lambda _: ""}, TypeError, r"Name what the function text= reads: columns="),
        ({"columns": ["title"]}, TypeError, "columns= goes with a function"),
        ({"metadata": ["x"]}, ValueError, r"metadata\[0\]: Article has no attribute 'x'"),
        *(
            ({"metadata": [given]}, TypeError, rf"{name} is not a column, and metadata .* where=$")
            for name, given in (
                ("is_long", Article.is_long),
                ("shouted", "shouted"),
                ("author", Article.author),
            )
        ),
        ({"metadata": ["photo"]}, TypeError, r"metadata\[0\]: Article.photo .*JSON cannot hold"),
        (
            {"metadata": ["length"]},
            TypeError,
            r"Article.length is of the type Interval, which JSON cannot",
        ),
        ({"where": "published"}, TypeError, "where must be an expression"),
        ({"where": lambda _: True}, TypeError, "where must be an expression .*not <function"),
        ({"name": ""}, ValueError, "name"),
        ({"model": object()}, TypeError, "model"),
    ]:
        with subtests.test(ascii(options)[:60]), pytest.raises(kind, match=error):
            declared(options.pop("source", Article), **options)


def test_a_key_of_each_type():
    """int, str and UUID."""

    class Texts(Base):
        __tablename__ = "declared_texts"
        id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
        words: Mapped[str]

    assert declared(Texts, text=[Texts.words], name="texts").key is Texts.id


def test_one_name_for_one_table():
    """A declaration takes the place of one on the same table, and not of another table's."""

    class Other(DeclarativeBase):
        pass

    class Note(Other):
        __tablename__ = "declared_notes"
        id: Mapped[int] = mapped_column(primary_key=True)
        words: Mapped[str]

    class Memo(Other):
        __tablename__ = "declared_memos"
        id: Mapped[int] = mapped_column(primary_key=True)
        words: Mapped[str]

    declared(Note, text=[Note.words], name="notes")
    declared(Note, text=[Note.words], name="notes")
    error = "'notes' is declared on Note already, and cannot be of Memo too: .* another name"
    with pytest.raises(ValueError, match=error):
        declared(Memo, text=[Memo.words], name="notes")
    own = make_records(Other, prefix="other_")
    declared(Memo, text=[Memo.words], name="notes", records=own)
    Other.metadata.remove(Note.__table__)  # type: ignore[arg-type]
    declared(Memo, text=[Memo.words], name="notes")


def test_a_class_whose_relationships_are_not_there_yet():
    """A declaration stands beside its class, before the module has the others."""

    class Other(DeclarativeBase):
        pass

    class Early(Other):
        __tablename__ = "declared_early"
        id: Mapped[int] = mapped_column(primary_key=True)
        words: Mapped[str]
        later: Mapped[list[Any]] = relationship("Later")

    assert declared(Early, text=[Early.words]).columns[0] is Early.words


def test_a_declaration_is_not_sent():
    """To another process; it says what to do instead."""
    articles = declared()
    for send in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"'articles' cannot be pickled or copied.*Import it"):
            send(articles)


def test_the_other_kind_of_database(subtests: pytest.Subtests):
    """The error names the methods that take it."""
    articles = declared()
    # A type checker finds these.
    engine: Any = create_engine("sqlite://")
    awaited: Any = create_async_engine("sqlite+aiosqlite://")
    session: Any = Session(engine)
    awaited_session: Any = AsyncSession(awaited)
    calls: list[Callable[[], Any]] = [
        lambda: articles.refresh(awaited),
        lambda: articles.nearest(awaited_session, "text"),
        lambda: articles.collection(awaited),
    ]
    for at, call in enumerate(calls):
        with (
            subtests.test(f"awaited {at}"),
            pytest.raises(BindingError, match=r"An Async\w+ is asynchronous: await arefresh\(\)"),
        ):
            call()
    for name in ("install", "uninstall", "trigger_problems"):
        advice = (
            rf"there is no a{name}\(\): async with engine.begin\(\) as connection: "
            rf"await connection.run_sync\(articles.{name}\)"
        )
        for database in (awaited, awaited_session):
            with (
                subtests.test(f"{name} on {type(database).__name__}"),
                pytest.raises(BindingError, match=rf"An Async\w+ is asynchronous, and {advice}"),
            ):
                getattr(articles, name)(database)
    for coroutine in (articles.arefresh(engine), articles.anearest(session, "text")):
        with pytest.raises(BindingError, match=r"is not asynchronous: use refresh\(\)"):
            asyncio.run(coroutine)
    with pytest.raises(BindingError, match=r"its collection is collection\(\)"):
        articles.acollection(engine)


@pytest.mark.parametrize(
    ("options", "methods"),
    [
        (SyncOptions, ["sync"]),
        (RefreshOptions, ["refresh"]),
        (ReembedOptions, ["reembed", "back"]),
    ],
)
def test_awaited_methods_take_what_the_others_take(options: Any, methods: list[str]):
    """Name by name, in their types, which a type checker reads of the options."""
    for method in methods:
        parameters = inspect.signature(getattr(ModelCollection, method)).parameters.values()
        keywords = {one.name: one.annotation for one in parameters if one.kind is one.KEYWORD_ONLY}
        of_options = {name: each.__forward_arg__ for name, each in options.__annotations__.items()}
        assert of_options == keywords


def test_keys_of_another_type(engine: Engine):
    """The error says where the type comes from."""
    articles = declared(model=DeterministicModel())
    key: Any
    for key in ("1", Article(id=1)):
        with pytest.raises(InvalidItemError, match=r"are int, .* it is that of the primary key"):
            articles.refresh(engine, keys=[key])

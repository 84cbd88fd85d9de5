"""A collection of a Django model's instances, on SQLite and PostgreSQL."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from threading import Barrier
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sqlalchemy import event, text

from embeddings import InvalidItemError, InvalidQueryError, ModelMismatchError, RefusedError
from embeddings.integrations.django import ModelCollection, session
from embeddings.testing import DeterministicModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

on_sqlite = pytest.mark.parametrize("alias", ["default"], indirect=True)
on_postgresql = pytest.mark.parametrize("alias", ["postgresql"], indirect=True)
WRITTEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def shelf(alias: str, library: ModuleType) -> Any:
    """Articles of two authors, all embedded but one."""
    ann, bob = (library.Author.objects.using(alias).create(name=name) for name in ("Ann", "Bob"))
    objects = library.Article.objects.using(alias)
    for title, author, published in (
        ("sleep well", ann, True),
        ("sleep in a tent", bob, False),
        ("sleep on trains: 100% quiet", bob, True),
        ("cheap flights", ann, True),
        ("sleep is not embedded", ann, True),
    ):
        objects.create(title=title, author=author, published=published, written=WRITTEN)
    library.articles.embed_multi(objects.exclude(title__endswith="embedded"))
    return objects


def titles(instances: Any) -> list[str]:
    return [instance.title for instance in instances]


# Writing


def test_several_calls_of_the_model_at_a_time(
    alias: str, library: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    """As many as the model says, or the call; what it refuses by itself is skipped."""
    objects = library.Article.objects.using(alias)
    objects.bulk_create(library.Article(title=f"text {n}", written=WRITTEN) for n in range(6))
    together = Barrier(3)
    embed = type(library.model).embed_batch

    def refuse_one(model: Any, items: list[str]) -> Any:
        together.wait(30)
        if "text 3" in items:
            error = RefusedError("not this one")
            error.positions = (items.index("text 3"),)
            raise error
        return embed(model, items)

    monkeypatch.setattr(type(library.model), "embed_batch", refuse_one)
    report = library.articles.embed_multi(objects.all(), 1, concurrency=3, on_error="skip")
    (third,) = objects.filter(title="text 3")
    assert (report.embedded, report.skipped) == (5, ((third.pk, "not this one"),))


def test_an_instance_is_embedded_and_found(alias: str, library: ModuleType):
    """An unchanged text costs nothing, a new one replaces the embedding."""
    article = library.Article.objects.using(alias).create(title="my happy hound")
    for title in ("my happy hound", "my happy hound", "a purring cat"):
        article.title = title
        library.articles.embed(article)
    assert library.model.calls == [["my happy hound"], ["a purring cat"]]
    (found,) = library.articles.nearest(library.Article.objects.using(alias), "a cat")
    assert found == article
    assert 0.5 < found.score < 1
    assert library.articles.collection(alias).name == "library.article"
    assert repr(library.articles) == "<ModelCollection 'library.article'>"


def test_metadata_are_found_by_the_values_of_fields(alias: str, library: ModuleType):
    """As in any collection: an instant, whatever its zone, a decimal and a UUID."""
    rows = library.Article.objects.using(alias)
    rows.create(title="now", written=WRITTEN)
    later = rows.create(title="later", written=WRITTEN + timedelta(microseconds=5), price="2.25")
    fields = ["written", "price", "external"]
    articles = ModelCollection(
        library.Article, text="title", metadata=fields, name="described", model=library.model
    )
    articles.embed_multi(rows.all())
    collection = articles.collection(alias)
    record = collection.get(later.pk)
    assert record is not None
    assert record.metadata_ == {
        "written": "2026-01-02T03:04:05.000005+00:00",
        "price": 2.25,
        "external": str(later.external),
    }
    moment = WRITTEN.astimezone(timezone(timedelta(hours=2)))
    for where in (
        {"written": {"$gt": moment}},
        {"written": {"$ne": moment}},
        {"price": {"$gte": Decimal("2.25")}},
        {"external": later.external},
    ):
        assert [entry.id for entry in collection.similar("now", where=where)] == [later.pk], where


def test_the_embedding_is_in_the_transaction_of_the_row(alias: str, library: ModuleType):
    """Both are rolled back."""
    from django.db import transaction

    with transaction.atomic(using=alias):
        article = library.Article.objects.using(alias).create(title="my happy hound")
        library.articles.embed(article)
        assert library.articles.collection(alias).ids() == [article.pk]
        transaction.set_rollback(True, using=alias)
    assert library.articles.collection(alias).ids() == []


def test_no_transaction_is_open_while_the_model_runs(alias: str, library: ModuleType):
    """Unless the caller has opened one."""
    from django.db import connections, transaction

    library.model.look = lambda: connections[alias].in_atomic_block
    objects = library.Article.objects.using(alias)
    articles = [objects.create(title=title) for title in ("one", "two", "three", "four")]
    library.articles.embed(articles[0])
    library.articles.embed_multi(objects, batch_size=1)
    library.articles.nearest(objects, "one")
    assert library.model.seen == [False] * 5
    articles[0].title = "five"
    with transaction.atomic(using=alias):
        library.articles.embed(articles[0])
    assert library.model.seen[-1] is True


def test_operations_within_another_and_after_a_failure(alias: str, library: ModuleType):
    """Also where Django connects anew between them."""
    from django.db import connections, transaction

    objects = library.Article.objects.using(alias)
    one, two, three = (objects.create(title=title) for title in ("one", "two", "three"))
    library.articles.embed(one)
    connections[alias].close()

    def embed_another() -> None:
        library.model.look = lambda: None
        library.articles.embed(three)

    library.model.look = embed_another
    with transaction.atomic(using=alias):
        library.articles.embed(two)
    assert {*library.articles.collection(alias).ids()} == {one.pk, two.pk, three.pk}

    for instance in (one, two):
        instance.title += " again"
    library.model.look = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=alias):
        library.articles.embed(one)
    library.model.look = lambda: None
    with transaction.atomic(using=alias):
        library.articles.embed(two)
    connections[alias].close()
    (found,) = library.articles.nearest(objects, "two again", number=1)
    assert found == two


def test_prepare_is_for_before_the_transaction(alias: str, library: ModuleType):
    """An instance that is not saved yet is embedded before the transaction begins."""
    from django.db import connections, transaction

    library.model.look = lambda: connections[alias].in_atomic_block
    article = library.Article(title="my happy hound")
    prepared = library.articles.prepare(article)
    assert library.model.seen == [False]
    with transaction.atomic(using=alias):
        article.save(using=alias)
        library.articles.embed(article, prepared)
    assert library.model.calls == [["my happy hound"]]
    assert library.articles.collection(alias).ids() == [article.pk]


def test_what_was_prepared_for_another_text_is_refused(alias: str, library: ModuleType):
    """The row and its embedding would not belong together."""
    article = library.Article.objects.using(alias).create(title="my happy hound")
    prepared = library.articles.prepare(article)
    article.title = "a purring cat"
    with pytest.raises(InvalidItemError, match="not the one that was prepared"):
        library.articles.embed(article, prepared)


def test_many_are_read_and_embedded_in_batches(alias: str, library: ModuleType):
    """A queryset, a manager, a slice, a list; what is there is not embedded again."""
    objects = library.Article.objects.using(alias)
    objects.bulk_create(library.Article(title=f"article {n}") for n in range(25))
    library.articles.embed_multi(objects.all(), batch_size=10)
    assert [len(call) for call in library.model.calls] == [10, 10, 5]
    assert library.articles.collection(alias).ids() == sorted(
        objects.values_list("pk", flat=True), key=str
    )
    library.articles.embed_multi(objects.order_by("pk")[:3])
    library.articles.embed_multi(list(objects.all()))
    if alias == "default":
        library.articles.embed_multi(library.Article.objects)
    assert len(library.model.calls) == 3
    library.articles.embed_multi([])


def test_querysets_that_cannot_be_read_by_pages_as_they_are(alias: str, library: ModuleType):
    """One that was reversed, a union, one of each: every instance is embedded."""
    objects = library.Article.objects.using(alias)
    objects.bulk_create(library.Article(title=f"article {n}") for n in range(7))
    report = library.articles.embed_multi(objects.order_by("title").reverse(), batch_size=2)
    assert report.embedded == 7
    plain = objects.order_by()
    both = plain.filter(title__lte="article 3").union(plain.filter(title__gt="article 3"))
    report = library.articles.embed_multi(both, batch_size=2)
    assert report.unchanged == 7
    if alias == "postgresql":
        one_of_each = objects.order_by("title", "pk").distinct("title")
        assert library.articles.embed_multi(one_of_each, batch_size=2).unchanged == 7


def test_an_instance_that_is_not_saved(library: ModuleType, alias: str):
    """It is refused before the model is called, and so is one of another model."""
    with pytest.raises(InvalidItemError, match="save it first"):
        library.articles.embed(library.Article(title="x"))
    with pytest.raises(TypeError, match=r"of library\.Article, not of Author"):
        library.articles.embed(library.Author(name="x"))
    with pytest.raises(TypeError, match=r"of library\.Article, not of dict"):
        library.articles.embed_multi([{"title": "x"}])
    for given in (library.Article(title="x"), library.Article, None):
        with pytest.raises(TypeError, match="embed_multi takes a queryset or instances, not"):
            library.articles.embed_multi(given)
    with pytest.raises(TypeError, match=r"values\(\)"):
        library.articles.embed_multi(library.Article.objects.values("title"))
    assert library.model.calls == []


def test_each_kind_of_key(alias: str, library: ModuleType):
    """UUIDs, text, and the row of a parent; the keys come back in their type."""
    photo = library.Photo.objects.using(alias).create(caption="a sunny hill")
    country = library.Country.objects.using(alias).create(code="é:%s", name="a hilly country")
    essay = library.Essay.objects.using(alias).create(title="on hills")
    for collection, instance in (
        (library.photos, photo),
        (library.countries, country),
        (library.essays, essay),
    ):
        collection.embed(instance)
        assert collection.collection(alias).ids() == [instance.pk]
        queryset = type(instance).objects.using(alias)
        assert list(collection.nearest(queryset, "hill")) == [instance]
        assert list(collection.nearest(queryset.filter(pk=instance.pk), "hill")) == [instance]
        assert list(collection.nearest(queryset.exclude(pk=instance.pk), "hill")) == []
        assert list(collection.related(queryset, instance)) == []
        instance.delete()
        assert collection.collection(alias).ids() == []


def test_a_key_as_the_url_has_it(alias: str, library: ModuleType):
    """Django takes a UUID or a number as text, and so does this."""
    objects = library.Photo.objects.using(alias)
    objects.create(caption="a hill", id=(key := str(uuid.uuid4())))
    library.photos.embed(library.Photo(caption="a hill", id=key), using=alias)
    assert library.photos.collection(alias).ids() == [uuid.UUID(key)]


def test_a_model_that_cannot_have_a_collection(library: ModuleType):
    """A key of another type."""
    from embeddings.integrations.django import ModelCollection

    readings = ModelCollection(library.Reading, text="at")
    with pytest.raises(TypeError, match=r"library\.Reading is a DateTimeField"):
        readings.nearest(library.Reading.objects.all(), "noon")


def test_two_collections_of_a_model(shelf: Any, alias: str, library: ModuleType):
    """By their names; each is of its own embedding model."""
    from embeddings.integrations.django import ModelCollection

    by_author = ModelCollection(
        library.Article,
        name="authors",
        text=lambda article: article.author.name,
        model=DeterministicModel("other"),
    )
    by_author.embed_multi(shelf.select_related("author"))
    assert {found.author.name for found in by_author.nearest(shelf, "Bob", 2)} == {"Bob"}
    same_name = ModelCollection(library.Article, name="authors", text="title", model=library.model)
    with pytest.raises(ModelMismatchError, match="'other'"):
        same_name.embed_multi(shelf)


def test_long_texts_have_chunks(alias: str, library: ModuleType):
    """Each instance is found once, by its best chunk, and goes with all of them."""
    from embeddings import Chunks
    from embeddings.integrations.django import ModelCollection

    stories = ModelCollection(
        library.Article,
        name="stories",
        text=lambda article: article.title + "\n\n" + article.tags["body"],
        columns=["title", "tags"],
        model=library.model,
        chunks=Chunks(size=60),
    )
    body = "\n\n".join(f"My happy hound met number {number} of the cats." for number in range(9))
    manager = library.Article.objects.using(alias)
    long, short = (
        manager.create(title=title, tags={"body": text})
        for title, text in (("A long one", body), ("A short one", "Cheap flights."))
    )
    assert stories.embed_multi(manager.all()).embedded == 2
    docs = stories.collection(alias)
    assert docs.count(chunks=True) > docs.count() == 2
    assert list(stories.nearest(manager.all(), "number 7 of the cats", 2)) == [long, short]
    long.delete()
    assert docs.count() == docs.count(chunks=True) == 1


# Deleting


DELETIONS: dict[str, Callable[[Any], Any]] = {
    "Model.delete": lambda shelf: shelf.get(title="sleep well").delete(),
    "QuerySet.delete": lambda shelf: shelf.filter(author__name="Bob").delete(),
    "a cascade": lambda shelf: shelf.get(title="cheap flights").author.delete(),
    "another within it": lambda shelf: delete_with_its_neighbour(shelf, "sleep well"),
}


def delete_with_its_neighbour(shelf: Any, title: str) -> None:
    """Delete an article; a receiver of the host's deletes another one before it."""
    from django.db.models.signals import pre_delete

    def take_along(instance: Any, **_: Any) -> None:
        if instance.title == title:
            shelf.filter(title="sleep in a tent").delete()

    pre_delete.connect(take_along, sender=shelf.model)
    try:
        shelf.get(title=title).delete()
    finally:
        pre_delete.disconnect(take_along, sender=shelf.model)


@pytest.mark.parametrize("how", DELETIONS)
def test_the_embedding_is_deleted_with_its_row(
    how: str, shelf: Any, alias: str, library: ModuleType
):
    """In the same transaction: a rollback brings both back."""
    from django.db import transaction

    collection = library.articles.collection(alias)
    embedded = set(collection.ids())
    with transaction.atomic(using=alias):
        DELETIONS[how](shelf)
        left = set(shelf.values_list("pk", flat=True))
        assert embedded - left
        assert set(collection.ids()) == left & embedded
        transaction.set_rollback(True, using=alias)
    assert set(collection.ids()) == embedded
    DELETIONS[how](shelf)
    assert set(collection.ids()) == left & embedded


def test_a_deletion_that_fails_keeps_all(shelf: Any, alias: str, library: ModuleType):
    """Also where Django has announced it, and the next deletion takes only its own."""
    from django.db.models.signals import pre_delete

    def refuse(instance: Any, **_: Any) -> None:
        if instance.title == "cheap flights":
            raise RuntimeError("refused")

    collection = library.articles.collection(alias)
    embedded = len(collection.ids())
    library.Comment.objects.using(alias).create(article=shelf.get(title="sleep well"), text="x")
    with pytest.raises(Exception, match="protected"):
        shelf.all().delete()
    pre_delete.connect(refuse, sender=library.Article)
    with pytest.raises(RuntimeError):
        shelf.exclude(title="sleep well").order_by("-pk").delete()
    pre_delete.disconnect(refuse, sender=library.Article)
    assert len(collection.ids()) == embedded
    shelf.get(title="sleep in a tent").delete()
    assert len(collection.ids()) == embedded - 1


def test_many_are_deleted_in_few_statements(alias: str, library: ModuleType):
    """The number of statements does not grow with that of the rows."""
    from django.db import connections
    from sqlalchemy import event

    from embeddings.integrations.django.database import _engine

    objects = library.Article.objects.using(alias)
    objects.bulk_create(library.Article(title=f"article {n}") for n in range(60))
    library.articles.embed_multi(objects)
    statements: list[str] = []

    def note(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(_engine(alias), "before_cursor_execute", note)
    objects.all().delete()
    event.remove(_engine(alias), "before_cursor_execute", note)
    assert library.articles.collection(alias).count() == 0
    assert len(statements) < 10
    assert connections[alias].in_atomic_block is False


@pytest.mark.parametrize("code", ["", "a\0b", "x" * 1_025])
def test_a_row_whose_key_can_be_no_id(code: str, alias: str, library: ModuleType):
    """It is never embedded, which is told by its name, and it can be deleted, with others too."""
    from django.db import connections

    if code and connections[alias].vendor != "sqlite":
        pytest.skip("a column of this type takes no such text")
    countries = library.Country.objects.using(alias)
    bad, good = countries.create(code=code, name="x"), countries.create(code="good", name="x")
    with pytest.raises(InvalidItemError, match=rf"^library\.Country {re.escape(repr(code))}: "):
        library.countries.embed_multi(countries)
    library.countries.embed_multi(countries.filter(code="good"))
    assert [*library.countries.related(countries, bad)] == []
    assert [*library.countries.nearest(countries, "x")] == [good]
    bad.name = ""
    library.countries.embed(bad)
    assert library.countries.embed_multi([bad, good]).unchanged == 1
    bad.delete()
    assert library.countries.collection(alias).ids() == ["good"]
    countries.create(code=code, name="x")
    countries.all().delete()
    assert library.countries.collection(alias).ids() == []


# Searching


def test_only_what_the_queryset_has_is_found(shelf: Any, library: ModuleType):
    """Before the best are taken, so that the result is not short."""
    published = shelf.filter(published=True)
    found = library.articles.nearest(published, "sleep in a tent", number=2)
    assert set(titles(found)) == {"sleep well", "sleep on trains: 100% quiet"}
    assert found[0].score >= found[1].score
    assert titles(library.articles.nearest(shelf, "sleep in a tent", number=1)) == [
        "sleep in a tent"
    ]


FILTERS: dict[str, tuple[Callable[[Any], Any], set[str]]] = {
    "a join": (lambda s: s.filter(author__name="Bob"), {"sleep in a tent", "100%"}),
    "a percent sign": (lambda s: s.filter(title__contains="100%"), {"100%"}),
    "a colon": (lambda s: s.filter(title__contains="trains: 1"), {"100%"}),
    "a name of a parameter": (lambda s: s.filter(title__contains=":embeddings_key_0"), set()),
    "a backslash": (lambda s: s.exclude(title__contains="\\:x"), {"all"}),
    "a regular expression": (lambda s: s.filter(title__iregex=r"^CHEAP\s"), {"cheap flights"}),
    "a date": (lambda s: s.filter(written=WRITTEN, written__year=2026), {"all"}),
    "a decimal": (lambda s: s.filter(price__gt=Decimal("1.4"), price__lt=1.6), {"all"}),
    "JSON": (lambda s: s.filter(tags={}).filter(tags__a__b__isnull=True), {"all"}),
    "a UUID": (lambda s: s.exclude(external=uuid.uuid4()), {"all"}),
    "a list": (lambda s: s.filter(title__in=["cheap flights", "x"]), {"cheap flights"}),
    "an annotation": (
        lambda s: s.annotate(n=Count("comments")).filter(n__lt=1, author__name="Bob"),
        {"sleep in a tent", "100%"},
    ),
    "a subquery": (
        lambda s: s.filter(author__in=s.filter(title="cheap flights").values("author")),
        {"sleep well", "cheap flights"},
    ),
    "distinct": (lambda s: s.distinct().filter(author__name="Bob"), {"sleep in a tent", "100%"}),
    "raw SQL": (
        lambda s: s.extra(where=["title LIKE %s AND title NOT LIKE '%%:tent'"], params=["%tent"]),
        {"sleep in a tent"},
    ),
    "an order": (lambda s: s.order_by("?").filter(title="cheap flights"), {"cheap flights"}),
    "deferred": (lambda s: s.only("title").filter(title="cheap flights"), {"cheap flights"}),
    "nothing": (lambda s: s.none(), set()),
    "an empty list": (lambda s: s.filter(pk__in=[]), set()),
}


def Count(*arguments: Any) -> Any:  # noqa: N802  Django is there once a test runs
    from django.db.models import Count

    return Count(*arguments)


def test_whatever_django_can_filter(shelf: Any, library: ModuleType, subtests: pytest.Subtests):
    """Django's own SQL takes part in the search, whatever is in it."""
    for name in FILTERS:
        with subtests.test(ascii(name)[:60]):
            make, expected = FILTERS[name]
            found = library.articles.nearest(make(shelf), "sleep")
            wanted = {"sleep well", "sleep in a tent", "100%", "cheap flights"}
            got = {"100%" if "100%" in title else title for title in titles(found)}
            assert got == (wanted if expected == {"all"} else expected)
            assert len(found) == len(got)


@on_postgresql
def test_one_of_each(shelf: Any, library: ModuleType):
    """DISTINCT ON keeps its order, by which Django says which one of several it is."""
    first = shelf.order_by("author", "title").distinct("author")
    found = library.articles.nearest(first, "sleep")
    assert set(titles(found)) == {"cheap flights", "sleep in a tent"}


def test_instances_come_as_the_queryset_makes_them(shelf: Any, alias: str, library: ModuleType):
    """With `select_related`, annotations and all, in one query for the instances."""
    from django.db import connections
    from django.db.models.functions import Upper
    from django.test.utils import CaptureQueriesContext

    queryset = shelf.select_related("author").annotate(shout=Upper("title"))
    with CaptureQueriesContext(connections[alias]) as captured:
        found = library.articles.nearest(queryset, "sleep well", number=1)[0]
        assert (found.author.name, found.shout) == ("Ann", "SLEEP WELL")
    assert sum("library_author" in query["sql"] for query in captured) == 1
    assert found._state.db == alias


@on_sqlite
def test_managers_are_querysets(shelf: Any, library: ModuleType):
    """The model's own and related ones."""
    assert len(library.articles.nearest(library.Article.objects, "sleep")) == 4
    bob = library.Author.objects.get(name="Bob")
    assert len(library.articles.nearest(bob.article_set, "sleep")) == 2


def test_pages(shelf: Any, library: ModuleType):
    """By number and offset; every instance is on one of them."""
    everything = list(library.articles.nearest(shelf, "sleep on trains"))
    pages = [
        library.articles.nearest(shelf, "sleep on trains", 3, offset=offset) for offset in (0, 3, 6)
    ]
    assert [len(page) for page in pages] == [3, 1, 0]
    assert [*pages[0], *pages[1]] == everything
    least = everything[1].score - 0.001
    found = library.articles.nearest(shelf, "sleep on trains", min_score=least)
    assert list(found) == everything[:2]


def test_related(shelf: Any, library: ModuleType):
    """Without the instance itself, and without a call of the model."""
    calls = len(library.model.calls)
    tent = shelf.get(title="sleep in a tent")
    found = library.articles.related(shelf.filter(published=True), tent)
    assert set(titles(found)) == {"sleep well", "sleep on trains: 100% quiet", "cheap flights"}
    assert list(found)[-1].title == "cheap flights"
    assert list(library.articles.related(shelf.none(), tent).values("score")) == []
    not_embedded = shelf.get(title="sleep is not embedded")
    assert list(library.articles.related(shelf, not_embedded).values("score")) == []
    assert len(library.model.calls) == calls


def test_what_is_no_queryset_of_the_model(shelf: Any, library: ModuleType):
    """It is refused before the model is called, and says what to do."""
    calls = len(library.model.calls)
    with pytest.raises(InvalidQueryError, match="number= and offset="):
        library.articles.nearest(shelf.all()[:5], "sleep")
    with pytest.raises(TypeError, match="values"):
        library.articles.nearest(shelf.values("title"), "sleep")
    no_querysets: list[tuple[Any, str]] = [
        (library.Author.objects.all(), "not of library.Author"),
        (library.Article.objects.raw("SELECT 1"), "not RawQuerySet"),
        (library.Article, "such as Article.objects.all(), not Article"),
        ([], "not list"),
        (None, "not NoneType"),
    ]
    for given, says in no_querysets:
        with pytest.raises(TypeError, match=rf"a queryset of library\.Article.*{re.escape(says)}"):
            library.articles.nearest(given, "sleep")
    with pytest.raises(InvalidQueryError, match="number must be"):
        library.articles.nearest(shelf, "sleep", number=-1)
    assert len(library.model.calls) == calls


@on_sqlite
def test_the_instances_of_another_database(shelf: Any, alias: str, other: str, library: ModuleType):
    """`using` decides whose embeddings are written and searched."""
    article = library.Article.objects.using(other).create(title="sleep elsewhere")
    library.articles.embed(article)
    assert titles(library.articles.nearest(library.Article.objects.using(other), "sleep")) == [
        "sleep elsewhere"
    ]
    assert len(library.articles.nearest(shelf, "sleep")) == 4
    calls = len(library.model.calls)
    assert library.articles.prepare(article).content == "sleep elsewhere"
    assert len(library.model.calls) == calls  # it is stored where the instance is
    here = shelf.create(title="sleep here")
    report = library.articles.embed_multi([here, article])
    assert (report.embedded, report.unchanged) == (1, 1)
    assert here.pk in library.articles.collection(alias)
    assert library.articles.collection(other).ids() == [article.pk]
    library.articles.embed_multi(shelf.all(), using=other)
    assert set(library.articles.collection(other).ids()) == {
        article.pk,
        *shelf.values_list("pk", flat=True),
    }


@on_sqlite
def test_uncommitted_and_deleted_rows(shelf: Any, alias: str, library: ModuleType):
    """A search sees what the transaction sees, and never an embedding without its row."""
    from django.db import connections, transaction

    with transaction.atomic():
        new = shelf.create(title="sleep like a log")
        library.articles.embed(new)
        found = library.articles.nearest(shelf, "sleep like a log", number=1)
        assert list(found) == [new]
        with connections[alias].cursor() as cursor:  # past Django, and so past its signals
            cursor.execute("DELETE FROM library_article WHERE title = 'sleep like a log'")
        assert new not in library.articles.nearest(shelf, "sleep like a log")


@on_sqlite
def test_sqlite_reads_the_rows_that_were_found_alone(shelf: Any, library: ModuleType):
    """By the primary key, under whichever Django, and whatever filters come before and after."""
    found = library.articles.nearest(shelf.filter(title__contains="e"), "sleep", number=2)
    for queryset in (found, found.exclude(title="x"), found.values("title").order_by("title")):
        assert "SEARCH library_article USING INTEGER PRIMARY KEY" in queryset.explain()


@on_postgresql
def test_the_index_and_the_primary_key_serve_a_search(alias: str, library: ModuleType):
    """PostgreSQL walks the index, and looks each instance up by Django's primary key."""
    objects = library.Article.objects.using(alias)
    made = objects.bulk_create(
        library.Article(title=f"about {n}", published=n % 10 > 0) for n in range(3_500)
    )
    collection = library.articles.collection(alias)
    size = np.asarray(library.model.embed_batch(["a question"])[0]).size
    vectors = np.random.default_rng(1).standard_normal((len(made), size))
    keys = (article.pk for article in made)
    collection.store_vectors(zip(keys, vectors, strict=True))
    collection.create_index(m=4, ef_construction=16)
    sent: list[tuple[str, Any]] = []

    def note(*args: Any) -> None:
        sent.append((args[2], args[3]))

    with session(alias) as lent:
        for name in ("seqscan", "sort", "hashjoin", "mergejoin", "material"):
            lent.execute(text(f"SET LOCAL enable_{name} = off"))
        event.listen(lent.get_bind(), "before_cursor_execute", note)
        try:
            found = library.articles.nearest(objects.filter(published=True), "a question")
        finally:
            event.remove(lent.get_bind(), "before_cursor_execute", note)
        [search] = [pair for pair in sent if "<=>" in pair[0]]
        rows = lent.connection().exec_driver_sql(f"EXPLAIN {search[0]}", search[1])
        plan = "\n".join(line for (line,) in rows)

    assert len(found) == 10
    assert all(article.published for article in found)
    walk = plan[plan.index(f"Index Scan using idx_embeddings_{collection.id}_hnsw") :]
    lookup = r"using library_article_pkey on library_article.*?Index Cond: \(id = CASE"
    assert re.search(lookup, walk, re.DOTALL), plan
    collection.delete()

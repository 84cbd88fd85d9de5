"""What a search gives in Django is a queryset, and the declaration says what is in it."""

from __future__ import annotations

import asyncio
import math
import re
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import inspect
from sqlalchemy.exc import DBAPIError

from embeddings import (
    EmbeddingModel,
    IndexingError,
    InvalidItemError,
    InvalidQueryError,
    InvalidVectorError,
)
from embeddings.integrations.django import ModelCollection, session

if TYPE_CHECKING:
    from types import ModuleType

on_sqlite = pytest.mark.parametrize("alias", ["default"], indirect=True)
on_postgresql = pytest.mark.parametrize("alias", ["postgresql"], indirect=True)


@pytest.fixture
def shelf(alias: str, library: ModuleType) -> Any:
    """Twelve articles, ever farther from "sleep", of two authors in turn."""
    ann, bob = (library.Author.objects.using(alias).create(name=name) for name in ("Ann", "Bob"))
    objects = library.Article.objects.using(alias)
    for number in range(12):
        title = " ".join(["sleep", *(f"word{at}" for at in range(number))])
        objects.create(title=title, author=(ann, bob)[number % 2], price=number)
    library.articles.embed_multi(objects)
    return objects


def Messages(request: Any) -> Any:  # noqa: N802  Django is there once a test runs
    """Return a store of messages that a request can have."""
    from django.contrib.messages.storage.cookie import CookieStorage

    return CookieStorage(request)


def prices(instances: Any) -> list[int]:
    return [int(instance.price) for instance in instances]


def test_a_queryset_like_any_other(shelf: Any, library: ModuleType):
    """Values, slices, counts, pages, order, filters: of at most `number` instances."""
    from django.core.paginator import Paginator
    from django.db.models import Avg

    found = library.articles.nearest(shelf.select_related("author"), "sleep", number=7)
    assert prices(found) == [0, 1, 2, 3, 4, 5, 6]
    scores = [article.score for article in found]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1)
    assert list(found.values_list("score", flat=True)) == scores
    assert [row["price"] for row in found.values("title", "price")] == [0, 1, 2, 3, 4, 5, 6]
    assert prices(found[2:4]) == [2, 3]
    assert int(found[5].price) == 5
    assert (found.count(), found.exists(), len(found)) == (7, True, 7)
    assert (int(found.first().price), int(found.last().price)) == (0, 6)
    assert prices(found.reverse()) == [6, 5, 4, 3, 2, 1, 0]
    assert prices(found.order_by("-price")) == [6, 5, 4, 3, 2, 1, 0]
    assert prices(found.filter(author__name="Bob")) == [1, 3, 5]
    assert prices(found.filter(score__gte=scores[2])) == [0, 1, 2]
    first, *_, last = found
    assert found.in_bulk([first.pk, last.pk]) == {first.pk: first, last.pk: last}
    assert found.get(pk=last.pk).score == scores[-1]
    assert found.aggregate(mean=Avg("score"))["mean"] == pytest.approx(sum(scores) / 7)
    pages = Paginator(found, 3)
    assert (pages.count, pages.num_pages) == (7, 3)
    assert [prices(page) for page in pages] == [[0, 1, 2], [3, 4, 5], [6]]
    assert prices(library.articles.nearest(shelf.reverse(), "sleep", number=2)) == [0, 1]
    assert prices(shelf.filter(pk__in=found.values("pk")).order_by("price")) == prices(found)
    found.filter(price__lt=2).update(published=False)
    assert found.filter(price=2).delete()[0] == 1
    assert (shelf.filter(published=False).count(), found.all().count()) == (2, 6)


def test_what_the_queryset_computes_stays(shelf: Any, alias: str, library: ModuleType):
    """Annotations, aggregates, window functions, prefetched and deferred fields."""
    from django.db.models import Count, F, Prefetch, Window
    from django.db.models.functions import RowNumber, Upper

    comments = library.Comment.objects.using(alias)
    for article in shelf.filter(price__in=[1, 2]):
        comments.create(article=article, text="x")
        comments.create(article=article, text="y")
    queryset = shelf.annotate(
        shout=Upper("title"),
        replies=Count("comments"),
        place=Window(RowNumber(), order_by=F("price").desc()),
    )
    found = library.articles.nearest(queryset, "sleep", number=3)
    rows = [(int(a.price), a.shout[:5], a.replies, a.place) for a in found]
    assert rows == [(0, "SLEEP", 0, 12), (1, "SLEEP", 2, 11), (2, "SLEEP", 2, 10)]
    assert found.count() == 3
    assert list(found.values_list("place", flat=True)) == [12, 11, 10]

    counted = library.articles.nearest(shelf.annotate(replies=Count("comments")), "sleep", 3)
    assert list(counted.values_list("replies", flat=True)) == [0, 2, 2]
    assert prices(counted.filter(replies__gt=0)) == [1, 2]
    later = library.articles.nearest(shelf, "sleep", 3).annotate(replies=Count("comments"))
    assert [article.replies for article in later] == [0, 2, 2]
    top = queryset.filter(place__lte=3)
    assert {*prices(library.articles.nearest(top, "sleep", 10))} == {9, 10, 11}

    prefetched = shelf.prefetch_related(Prefetch("comments", comments.filter(text="x")))
    (article,) = library.articles.nearest(prefetched.only("title"), "sleep word0", 1)
    assert [comment.text for comment in article.comments.all()] == ["x"]
    assert article.get_deferred_fields() >= {"price", "tags"}
    locked = shelf.select_for_update().filter(author__name="Bob")
    with session(alias):
        assert prices(library.articles.nearest(locked, "sleep", 2)) == [1, 3]


@pytest.fixture
def manual(alias: str, library: ModuleType) -> Any:
    """Articles with codes in their titles, which a text index of the collection has."""
    objects = library.Article.objects.using(alias)
    titles = ("reset E42 the printer", "reset the printer", "paper for the printer", "E42 E42 E42")
    for price, title in enumerate(titles):
        objects.create(title=title, price=price)
    library.articles.collection(alias).create_text_index()
    library.articles.embed_multi(objects)
    return objects


def test_words_beside_the_meaning(manual: Any, alias: str, library: ModuleType):
    """A rank beside the score, which is the order; alike for a whole model and a part of it."""
    nearest, docs = library.articles.nearest, library.articles.collection(alias)
    found = nearest(manual, "reset the printer", words="E42")
    entries = docs.similar("reset the printer", words="E42")
    rows = [(article.pk, article.rank) for article in found]
    assert rows == [(entry.id, at) for at, entry in enumerate(entries, 1)]
    assert [a.score for a in found] == pytest.approx([entry.score for entry in entries])
    assert prices(found)[0] == 0
    assert list(found.values_list("rank", flat=True)) == [1, 2, 3, 4]
    assert found.filter(rank__lte=2).count() == 2
    assert [article.rank for article in found.reverse()] == [4, 3, 2, 1]
    assert prices(nearest(manual, "E42", 2, words=True, weights=(0, 1))) == [3, 0]
    paged = nearest(manual, "reset the printer", 2, offset=2, words="E42")
    assert [(article.pk, article.rank) for article in paged] == rows[2:]
    part = manual.filter(price__gte=1)
    among = docs.similar("printer", words="E42", among=[article.pk for article in part])
    assert [a.pk for a in nearest(part, "printer", words="E42")] == [one.id for one in among]
    manual.filter(price=0)._raw_delete(alias)  # past Django, and so its vector stays
    ranked = nearest(manual, "reset the printer", words="E42")
    assert [article.rank for article in ranked] == [1, 2, 3]
    assert not hasattr(nearest(manual, "printer")[0], "rank")
    assert nearest(manual, "printer", words=False).query.annotations.keys() == {"score"}

    async def work() -> list[int]:
        found = await library.articles.anearest(
            manual, "paper", 1, words=True, weights=(1, 2), rank="place"
        )
        return [article.place async for article in found]

    assert asyncio.run(work()) == [1]
    docs.drop_text_index()


def test_the_ranking_of_ones_own_search(shelf: Any, alias: str, library: ModuleType):
    """A queryset in its order, with annotations, parameters, a slice; no text index is needed."""
    from django.db.models import Case, F, IntegerField, Value, When

    nearest = library.articles.nearest
    whens = [When(title__endswith="word3", then=Value(2)), When(price=7, then=Value(1))]
    own = shelf.annotate(hits=Case(*whens, default=Value(0), output_field=IntegerField())).filter(
        hits__gt=0
    )
    only_words = {"weights": (0, 1)}
    assert prices(nearest(shelf, "sleep", words=own.order_by("-hits"), **only_words)) == [4, 7]
    assert prices(nearest(shelf, "sleep", words=own.order_by("hits"), **only_words)) == [7, 4]
    assert prices(nearest(shelf, "sleep", words=own.order_by("hits")[:1], **only_words)) == [7]
    part = shelf.filter(price__gte=6)
    found = nearest(part, "sleep", 2, words=own.order_by(F("hits").desc()))
    assert [(int(a.price), a.rank) for a in found] == [(7, 1), (6, 2)]
    assert prices(nearest(shelf, "sleep", 2, words=shelf.none().order_by("pk"))) == [0, 1]
    if alias == "postgresql":
        from django.contrib.postgres.search import SearchQuery, SearchRank, SearchVector

        hits = SearchRank(SearchVector("title"), SearchQuery("word10"))
        own = shelf.annotate(hits=hits).filter(hits__gt=0)
        assert prices(nearest(shelf, "sleep", words=own.order_by("-hits"), **only_words)) == [11]


@on_sqlite
def test_words_that_mean_nothing(shelf: Any, alias: str, other: str, library: ModuleType):
    """Each is refused before anything is spent, in Django's words."""
    from django.db.models import Value

    calls, articles = len(library.model.calls), library.articles
    wrong: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (
            shelf,
            {"words": 5},
            InvalidQueryError,
            r"queryset of library\.Article ordered best first",
        ),
        (shelf, {"words": shelf.order_by()}, InvalidQueryError, "order_by"),
        (shelf, {"words": shelf.using(other).order_by("pk")}, InvalidQueryError, "'other'"),
        (shelf, {"words": library.Game.objects.order_by("pk")}, TypeError, r"library\.Article"),
        (shelf, {"words": True, "rank": "score"}, InvalidQueryError, "both called 'score'"),
        (shelf, {"words": True, "rank": "title"}, InvalidQueryError, 'rank="place"'),
        (shelf.annotate(rank=Value(1)), {"words": True}, InvalidQueryError, 'rank="place"'),
        (shelf, {"weights": (1, 1)}, InvalidQueryError, "words="),
        (shelf, {"words": True}, IndexingError, r"collection\(\)\.create_text_index\(\).*sync"),
    ]
    for queryset, options, kind, message in wrong:
        with pytest.raises(kind, match=message):
            articles.nearest(queryset, "sleep", **options)
    assert len(library.model.calls) == calls
    (found,) = articles.nearest(shelf.annotate(rank=Value(1)), "sleep", 1)
    assert found.rank == 1


@on_sqlite
def test_the_name_of_the_score(shelf: Any, alias: str, library: ModuleType):
    """One that is taken is refused before anything is spent, and another can be given."""
    from django.db.models import Value

    calls = len(library.model.calls)
    with pytest.raises(InvalidQueryError, match=r'score="relevance"'):
        library.articles.nearest(shelf.annotate(score=Value(1)), "sleep")
    with pytest.raises(InvalidQueryError, match=r"library\.Article.*'title'"):
        library.articles.related(shelf, shelf.first(), score="title")
    with pytest.raises(InvalidQueryError, match="name of an annotation"):
        library.articles.nearest(shelf, "sleep", score="a b")
    assert len(library.model.calls) == calls
    annotated = shelf.annotate(score=Value(1))
    (found,) = library.articles.nearest(annotated, "sleep", 1, score="relevance")
    assert (found.score, found.relevance) == (1, pytest.approx(1))

    games = ModelCollection(library.Game, text=lambda game: f"game {game.pk}", model=library.model)
    game = library.Game.objects.create(score=5)
    games.embed(game)
    with pytest.raises(InvalidQueryError, match=r"library\.Game.*'score'"):
        games.nearest(library.Game.objects.all(), "game")
    (found,) = games.nearest(library.Game.objects.all(), "game", score="nearness")
    assert found.score == 5
    assert 0 < found.nearness < 1


def test_a_join_to_several_rows(shelf: Any, library: ModuleType):
    """It repeats instances, as in any queryset, and distinct() does not; number is of instances."""
    nearest = shelf.get(price=0)
    for text in "ab":
        library.Comment.objects.using(shelf.db).create(article=nearest, text=text)
    joined = shelf.filter(comments__text__in=["a", "b"])
    assert prices(library.articles.nearest(joined, "sleep", 1)) == [0, 0]
    assert prices(library.articles.nearest(joined.distinct(), "sleep", 1)) == [0]
    with pytest.raises(InvalidQueryError):
        library.articles.nearest(shelf, "")


def test_a_list_of_rest_framework_without_a_search(shelf: Any, library: ModuleType):
    """The rows have no score, by which it is no error to order; what has its name stays."""
    from types import SimpleNamespace

    from embeddings.integrations.django.rest import EmbeddingsFilter

    request = SimpleNamespace(query_params={"search": " "})
    rows = EmbeddingsFilter().filter_queryset(request, shelf.all(), None)
    for order in ("score", "-score"):
        ordered = rows.order_by(order, "pk")
        assert [*ordered] == [*shelf.order_by("pk")]
        assert not hasattr(ordered[0], "score")
    assert rows.count() == 12
    library.Game.objects.using(shelf.db).create(score=3)
    games = library.Game.objects.using(shelf.db)
    assert EmbeddingsFilter().filter_queryset(request, games.all(), None).get().score == 3


def test_the_admin_and_rest_framework_for_a_model_with_a_score(alias: str, library: ModuleType):
    """The annotation has another name. Only what is wrong with the text is said to the visitor."""
    from django.contrib.messages import get_messages
    from django.test import RequestFactory
    from rest_framework.exceptions import ValidationError

    from embeddings.integrations.django.admin import EmbeddingsAdmin
    from embeddings.integrations.django.rest import EmbeddingsFilter

    class Admin(EmbeddingsAdmin):
        embeddings = ModelCollection(
            library.Game, text=lambda game: f"game {game.score}", name="scored", model=library.model
        )
        embeddings_score = "relevance"

    class Unnamed(EmbeddingsAdmin):
        embeddings = Admin.embeddings

    games = library.Game.objects.using(alias)
    games.bulk_create(library.Game(score=score) for score in (1, 2))
    Admin.embeddings.embed_multi(games.all())
    request = RequestFactory().get("/")
    request._messages = Messages(request)
    found, _ = Admin().get_search_results(request, games.all(), "game 2")
    assert (found[0].score, round(found[0].relevance, 5), found.count()) == (2, 1, 2)
    assert not Admin().get_search_results(request, games.all(), "a\0b")[0].exists()
    (message,) = get_messages(request)
    assert "NUL" in str(message)
    with pytest.raises(InvalidQueryError, match="give the"):
        Unnamed().get_search_results(request, games.all(), "game 2")

    for view, text, error in (
        (Admin, "game 2", None),
        (Admin, "a\0b", ValidationError),
        (Unnamed, "game 2", InvalidQueryError),
    ):
        request.query_params = {"search": text}
        with pytest.raises(error) if error else nullcontext():
            found = EmbeddingsFilter().filter_queryset(request, games.all(), view)
            assert [game.score for game in found] == [2, 1]
    request.query_params = {}
    assert EmbeddingsFilter().filter_queryset(request, games.all(), Admin).order_by("relevance")


def test_the_admin_saves_a_row_whatever_the_model_raises(
    alias: str, library: ModuleType, caplog: pytest.LogCaptureFixture
):
    """A message says so, of a foreign error kind and place; what waits for the commit is done."""
    from django.contrib.messages import get_messages
    from django.db import transaction
    from django.test import RequestFactory

    from embeddings.integrations.django.admin import EmbeddingsAdmin

    class Form:
        def save_model(self, request: Any, obj: Any, form: Any, change: bool) -> None:
            obj.save(using=alias)

    class Admin(EmbeddingsAdmin, Form):
        embeddings = library.articles

    def refuse() -> None:
        raise ConnectionError("secret")

    library.model.look = refuse
    request = RequestFactory().get("/")
    request._messages = Messages(request)
    done: list[str] = []
    with transaction.atomic(using=alias):
        Admin().save_model(request, library.Article(title="Taxes"), None, change=False)
        transaction.on_commit(lambda: done.append("another"), using=alias)
    (message,) = get_messages(request)
    expected = r"is saved, but its embedding is not: ConnectionError at \w+\.py:\d+$"
    assert re.search(expected, str(message))
    assert done == ["another"]
    assert "ConnectionError" in caplog.text
    assert "secret" not in caplog.text
    assert "Taxes" not in caplog.text


@on_sqlite
def test_a_text_of_several_rows_has_their_order(alias: str, library: ModuleType):
    """By their primary key, whichever way the database gives them."""
    leaflet = library.Leaflet.objects.using(alias).create(title="Soup")
    tags = [library.Tag.objects.using(alias).create(name=name) for name in ("hot", "leaf")]
    leaflet.tags.set(tags)
    read = library.Leaflet.objects.using(alias).prefetch_related("tags").get()
    read._prefetched_objects_cache["tags"]._result_cache.reverse()
    assert library.leaflets.source.row_of(read).content == "Soup\n\nhot, leaf"


def test_a_row_that_is_gone_makes_no_result_short(shelf: Any, alias: str, library: ModuleType):
    """A vector that somebody left behind past Django is not found, and takes nobody's place."""
    from django.db import connections

    with connections[alias].cursor() as cursor:
        cursor.execute("DELETE FROM library_article WHERE price < 3")
    assert library.articles.collection(alias).count() == 12
    assert prices(library.articles.nearest(shelf, "sleep", 3)) == [3, 4, 5]
    assert prices(library.articles.nearest(shelf.filter(price__gt=3), "sleep", 3)) == [4, 5, 6]


def test_querysets_that_keep_much_or_little(alias: str, library: ModuleType):
    """They have the best of theirs. After the first search of a kind few statements do it.

    They are two, and three where SQLite reads the keys of a queryset that keeps few of the best.
    """
    from django.db import connections, transaction
    from django.test.utils import CaptureQueriesContext

    class Places(EmbeddingModel):
        """Numbers on an arc."""

        model_id = "places"

        def embed_batch(self, items: Any) -> Any:
            return [[math.cos(float(item) / 600), math.sin(float(item) / 600)] for item in items]

    objects = library.Article.objects.using(alias)
    objects.bulk_create(
        library.Article(title=place, price=place) for place in (at * 37 % 600 for at in range(600))
    )
    articles = ModelCollection(library.Article, text="title", name="places", model=Places())
    articles.embed_multi(objects)
    for _ in range(3):  # what it remembers from then on
        articles.nearest(objects.all(), "0")
    for least in (0, 80, 300, 590):
        queryset = objects.filter(price__gte=least).select_for_update()
        wanted = sorted(range(least, 600), key=lambda place: abs(place - 100.2))[:8]
        for is_known in (False, True):
            with CaptureQueriesContext(connections[alias]) as captured:
                found = articles.nearest(queryset, "100.2", 8)
            most = 3 if least >= 300 and alias == "default" else 2
            assert len(captured) <= most or not is_known, [q["sql"][:200] for q in captured]
            with transaction.atomic(using=alias):
                assert prices(found) == wanted


def test_django_sees_every_statement(shelf: Any, alias: str, library: ModuleType):
    """In `connection.queries`, by wrappers, and no more than two beside the queryset's own."""
    from django.db import connections
    from django.test.utils import CaptureQueriesContext

    connection = connections[alias]
    for _ in range(2):  # what it remembers from then on
        library.articles.nearest(shelf, "sleep")
    with CaptureQueriesContext(connection) as captured:
        found = library.articles.nearest(shelf, "sleep", 3)
        assert 1 <= len(captured) <= 2, [q["sql"][:300] for q in captured]
        assert prices(found) == [0, 1, 2]
        assert len(captured) <= 3
    assert any("embeddings" in query["sql"] for query in captured)
    first = shelf.get(price=0)
    library.articles.related(shelf, first)
    with CaptureQueriesContext(connection) as captured:
        library.articles.related(shelf, first)
    assert len(captured) <= 4  # the vector is read, too
    seen: list[tuple[str, bool]] = []

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        seen.append((sql, many))
        return execute(sql, params, many, context)

    article = library.Article.objects.using(alias).create(title="secret: 100% ?")
    with CaptureQueriesContext(connection) as captured, connection.execute_wrapper(wrapper):
        library.articles.embed(article)
    assert any("INSERT INTO embeddings" in query["sql"] for query in captured)
    assert any("INSERT INTO embeddings" in sql for sql, _ in seen)
    assert not any("secret" in query["sql"] for query in captured)


@on_sqlite
def test_nothing_is_read_twice_in_one_transaction(alias: str, library: ModuleType):
    """On SQLite nobody else writes in it: one statement reads, and one writes."""
    from django.db import connections, transaction
    from django.test.utils import CaptureQueriesContext

    article, twin = (library.Article.objects.create(title="one") for _ in range(2))
    library.articles.embed(article)
    with transaction.atomic():
        article.title = "two"
        article.save()
        with CaptureQueriesContext(connections[alias]) as captured:
            library.articles.embed(article)
        library.articles.embed(twin)
        library.articles.embed(article)
    assert [query["sql"].split()[0] for query in captured] == ["SELECT", "INSERT"]
    assert library.model.calls == [["one"], ["two"], ["one"]]
    assert library.articles.related(library.Article.objects, article).get() == twin


@on_sqlite
def test_what_fails_in_a_transaction_ends_it_as_save_does(alias: str, library: ModuleType):
    """A vector that does not fit ends nothing; after an error of the database nothing is asked."""
    from django.db import connections, transaction

    article = library.Article.objects.create(title="one")
    library.articles.embed(article)
    with transaction.atomic():
        article.title = "two"
        article.save()
        prepared = library.articles.prepare(article)
        with pytest.raises(InvalidVectorError, match="do not fit"):
            library.articles.embed(article, replace(prepared, vector=prepared.vector[:3]))
        library.articles.embed(article, prepared)
    with connections[alias].cursor() as cursor:
        cursor.execute(
            "CREATE TRIGGER refusing BEFORE INSERT ON embeddings "
            "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        )
    try:
        with transaction.atomic():
            article.title = "three"
            article.save()
            with pytest.raises(DBAPIError, match="not this one"):
                library.articles.embed(article)
            with pytest.raises(transaction.TransactionManagementError):
                article.refresh_from_db()
    finally:
        with connections[alias].cursor() as cursor:
            cursor.execute("DROP TRIGGER refusing")
    article.refresh_from_db()
    assert article.title == "two"


# The declaration


@pytest.fixture
def leaflets(alias: str, library: ModuleType) -> Any:
    """The rows of leaflets."""
    return library.Leaflet.objects.using(alias)


def test_texts_of_fields(leaflets: Any, alias: str, library: ModuleType):
    """Joined by blank lines, over relations, without what is empty; metadata is kept."""
    author = library.Author.objects.using(alias).create(name="Ann")
    full = leaflets.create(title="Tea", body="green tea", author=author, lang="de")
    full.tags.set([library.Tag.objects.using(alias).create(name=name) for name in ("hot", "leaf")])
    short = leaflets.create(title="Milk", body=None)
    library.leaflets.embed_multi(leaflets)
    (batch,) = library.model.calls  # in the order of the ids, by which 10 is before 9
    assert sorted(batch) == ["Milk", "Tea\n\ngreen tea\n\nAnn\n\nhot, leaf"]
    records = library.leaflets.collection(alias).get_many([full.pk, short.pk])
    assert [record.metadata_ for record in records] == [
        {"lang": "de", "author": author.pk, "tags__name": ["hot", "leaf"]},
        {"lang": "en", "author": None, "tags__name": []},
    ]
    short.lang = "fr"
    library.leaflets.embed(short)
    assert len(library.model.calls) == 1
    assert library.leaflets.collection(alias).get(short.pk).metadata_["lang"] == "fr"


def test_rows_that_are_not_in_the_collection(leaflets: Any, alias: str, library: ModuleType):
    """Those without text, and those for which `where` does not hold, whatever was before."""
    names = ["one", "two", "", "four"]
    one, two, empty, four = (leaflets.create(title=name, body=None) for name in names)
    leaflets.filter(pk=four.pk).update(published=False)
    report = library.leaflets.embed_multi(leaflets)
    assert (report.embedded, report.removed) == (2, 0)
    collection = library.leaflets.collection(alias)
    assert set(collection.ids()) == {one.pk, two.pk}

    leaflets.filter(pk=one.pk).update(published=False)
    assert list(library.leaflets.nearest(leaflets.all(), "one")) == [two]
    assert list(library.leaflets.related(leaflets.all(), two)) == []
    two.title = ""
    two.save()
    assert library.leaflets.prepare(two) is None
    library.leaflets.embed(two, library.leaflets.prepare(two))
    assert collection.ids() == [one.pk]
    assert library.leaflets.embed_multi(leaflets).removed == 1
    assert collection.ids() == []
    leaflets.filter(pk=four.pk).update(published=True)
    library.leaflets.embed_multi([four, empty])
    assert collection.ids() == [four.pk]
    assert library.leaflets.nearest(leaflets.filter(title="four"), "four").get() == four


def test_relations_are_read_for_a_batch_at_once(leaflets: Any, alias: str, library: ModuleType):
    """Of fifty rows as of five: no statement for each."""
    from django.db import connections
    from django.test.utils import CaptureQueriesContext

    tag = library.Tag.objects.using(alias).create(name="hot")
    counts = []
    for number in (5, 50):
        for at in range(number):
            author = library.Author.objects.using(alias).create(name=f"author {at}")
            leaflets.create(title=f"{number} {at}", author=author).tags.add(tag)
        with CaptureQueriesContext(connections[alias]) as captured:
            library.leaflets.embed_multi(leaflets.filter(title__startswith=f"{number} "))
        counts.append(len(captured))
        assert min(library.model.calls[-1]) == f"{number} 0\n\nauthor 0\n\nhot"
    assert counts[1] <= counts[0]


@on_sqlite
def test_a_bad_row_is_named(alias: str, library: ModuleType):
    """By its model, its key and the field; nothing is spent on the others."""

    def lists(_: Any) -> Any:
        return ["x"]

    articles = [library.Article.objects.create(title=title) for title in ("fine", "not\x00fine")]
    with pytest.raises(InvalidItemError, match=rf"library\.Article {articles[1].pk}, 'title'.*NUL"):
        library.articles.embed_multi(articles)
    with pytest.raises(InvalidItemError, match=r"library\.Article \d+: Content must be str"):
        ModelCollection(library.Article, text=lists, name="a").embed(articles[0])
    divided = ModelCollection(library.Article, text=lambda _: str(1 / 0), name="b")
    with pytest.raises(ZeroDivisionError) as caught:
        divided.embed(articles[0])
    assert caught.value.__notes__ == [f"In the text of library.Article {articles[0].pk}."]
    assert library.model.calls == []


def test_a_text_that_is_an_expression_yet(alias: str, library: ModuleType):
    """It is no text before the database has made one of it."""
    from django.db.models.functions import Upper

    leaflet = library.Leaflet(title=Upper("title"))
    with pytest.raises(InvalidItemError, match=r"'title' is an expression.* refresh_from_db\(\)"):
        library.leaflets.prepare(leaflet)
    leaflet = library.Leaflet.objects.using(alias).create(title="a quiet walk")
    leaflet.title = Upper("title")
    leaflet.save()
    leaflet.refresh_from_db()
    library.leaflets.embed(leaflet)
    assert library.model.calls == [["A QUIET WALK"]]


def test_deletions_through_proxies_and_children(leaflets: Any, alias: str, library: ModuleType):
    """Whatever class they are deleted by, the rows take their embeddings along."""
    for title in ("one", "two"):
        leaflets.create(title=title)
    library.leaflets.embed_multi(leaflets)
    library.OldLeaflet.objects.using(alias).get(title="one").delete()
    library.OldLeaflet.objects.using(alias).filter(title="two").delete()
    assert library.leaflets.collection(alias).ids() == []

    essays = library.Essay.objects.using(alias)
    for title in ("one", "two"):
        library.articles.embed(
            library.Article.objects.using(alias).get(pk=essays.create(title=title).pk)
        )
    library.essays.embed_multi(essays)
    essays.get(title="one").delete()
    library.Article.objects.using(alias).get(title="two").delete()
    assert library.articles.collection(alias).ids() == library.essays.collection(alias).ids() == []


def test_arguments_that_are_no_declaration(library: ModuleType):
    """They are refused where they stand."""
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        ("Leaflet", {"text": "title"}, "app_label.Model"),
        (5, {"text": "title"}, "a Django model"),
        (library.Leaflet, {"text": []}, "names no field"),
        (library.Leaflet, {"text": [5]}, "list of names"),
        (library.Leaflet, {"text": "title", "metadata": "lang"}, "metadata must be a list"),
        (library.Leaflet, {"text": "title", "where": {"published": True}}, "where must be a Q"),
        (library.Leaflet, {"text": "title", "model": "local"}, "model"),
    ]
    for model, options, message in wrong:
        with pytest.raises(TypeError, match=message):
            ModelCollection(model, **options)


# Asynchronous views


def test_awaited(alias: str, library: ModuleType):
    """Each method has its twin, and the synchronous one says so in an event loop."""
    from django.core.exceptions import SynchronousOnlyOperation

    collection, objects = library.articles, library.Article.objects.using(alias)

    async def work() -> None:
        one = await objects.acreate(title="sleep well")
        two = await objects.acreate(title="sleep in a tent")
        await collection.aembed(one, await collection.aprepare(one))
        assert (await collection.aembed_multi(objects.all())).embedded == 1
        found = await collection.anearest(objects, "sleep well", 5)
        assert [article async for article in found] == [one, two]
        assert await found.acount() == 2
        assert [a async for a in await collection.arelated(objects, one)] == [two]
        calls: list[tuple[Any, str]] = [
            (lambda: collection.nearest(objects, "sleep"), "anearest"),
            (lambda: collection.related(objects, one), "arelated"),
            (lambda: collection.embed(one), "aembed"),
            (lambda: collection.embed_multi(objects), "aembed_multi"),
            (lambda: collection.prepare(one), "aprepare"),
        ]
        for call, twin in calls:
            with pytest.raises(SynchronousOnlyOperation, match=rf"await collection\.{twin}\("):
                call()
        await one.adelete()
        await objects.all().adelete()

    asyncio.run(work())
    assert collection.collection(alias).ids() == []
    with session(alias) as lent:
        assert inspect(lent.connection()).has_table("embeddings")

"""The embeddings of a Django model's instances, for those who know no SQLAlchemy."""

from __future__ import annotations

import operator
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from django.core.exceptions import EmptyResultSet
from django.db import models, router
from django.db.models import Manager, Model, QuerySet
from django.db.models.signals import post_delete, pre_delete
from sqlalchemy import BigInteger, Text, TextualSelect, Uuid, column

from ...collection import Collection
from ...errors import InvalidItemError, InvalidQueryError
from ...models.base import BATCH_SIZE, batches
from ...writing.report import Report
from .database import DjangoTransactions, keys_of
from .internals import yields_instances

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy.types import TypeEngine

    from ...models.base import Content, SupportsEmbedding
    from ...searching.query import Entry
    from ...writing.items import Prepared

M = TypeVar("M", bound=Model)

APP_LABEL = "embeddings"
KEY = "embeddings_key"
SCORE = "score"


class ModelCollection(Generic[M]):
    """A collection with one embedding for each instance of a Django model, under its primary key.

        articles = ModelCollection(Article, text=lambda article: article.title)
        articles.embed(article)
        articles.nearest(Article.objects.filter(published=True), "how to sleep better")

    Make it once, beside the model or in a module of its own. It opens nothing, and may be used by
    every thread. The embeddings are in the database of the instances, in the same transaction;
    without one each step is a short transaction, and none is open while the embedding model runs.
    When an instance is deleted, by `Model.delete`, `QuerySet.delete` or a cascade, its embedding
    is deleted with it.

    Args:
        model: The Django model. Its primary key is an integer, a UUID or text.
        text: What to embed of an instance: a function of it, or the name of an attribute.
        name: The collection's name in the database; "app_label.modelname" by default.
        embedding_model: The embedding model's id or alias, or the model itself; by default the one
            that the collection was made with, and for a new one that of EMBEDDINGS["MODEL"].

    Raises:
        TypeError: The primary key is of another type, or the model has a field called `score`.
    """

    def __init__(
        self,
        model: type[M],
        *,
        text: Callable[[M], Content] | str,
        name: str | None = None,
        embedding_model: SupportsEmbedding | str | None = None,
    ) -> None:
        self.model = model
        self.name = name or model._meta.label_lower
        self._text = operator.attrgetter(text) if isinstance(text, str) else text
        self._key = _key_type(model)
        kind = "model_id" if isinstance(embedding_model, str) else "model"
        self._options: dict[str, Any] = {kind: embedding_model}
        if SCORE in {field.name for field in model._meta.fields}:
            raise TypeError(
                f"{model._meta.label} has a field called {SCORE!r}, and so its instances cannot "
                "carry the score of a search. Use Collection on session()"
            )
        self._leaving = threading.local()
        pre_delete.connect(self._before_deletion, sender=model)
        post_delete.connect(self._after_deletion, sender=model)

    def __repr__(self) -> str:
        return f"<ModelCollection {self.name!r}>"

    def collection(self, using: str | None = None) -> Collection[Any]:
        """Return the `Collection` behind it in a database, for what is not offered here.

        Args:
            using: The alias of the database; where the router writes the model's instances by
                default.
        """
        alias = using or router.db_for_write(self.model)
        return Collection(self.name, DjangoTransactions(alias), key=self._key, **self._options)

    # Writing

    def prepare(self, instance: M) -> Prepared:
        """Call the embedding model for an instance, saved or not, that `embed` is to store.

        Do so before a transaction, so that none is open while the embedding model runs. Where
        `embedding_model` was given to the collection, no database is touched.
        """
        return self.collection().prepare(self._text(instance))

    def embed(
        self, instance: M, prepared: Prepared | None = None, *, using: str | None = None
    ) -> None:
        """Store the embedding of an instance that is saved, in Django's transaction.

        The embedding model is called only if the text is new to the collection.

        Args:
            instance: In the database.
            prepared: From `prepare`; then the embedding model is not called here.
            using: The alias of the database; that of the instance by default.

        Raises:
            InvalidItemError: The instance has no primary key yet, or its text changed since
                `prepare`.

            And what `Collection.embed` raises.
        """
        key, content = self._key_of(instance), self._text(instance)
        if prepared is not None and prepared.content != content:
            raise InvalidItemError(
                f"item {str(key)!r}: the text of the instance is not the one that was prepared"
            )
        alias = using or router.db_for_write(self.model, instance=instance)
        self.collection(alias).embed(key, prepared or content)

    def embed_multi(
        self,
        instances: QuerySet[M] | Manager[M] | Iterable[M],
        batch_size: int = BATCH_SIZE,
        *,
        using: str | None = None,
    ) -> Report:
        """Embed many instances, and return what was done: unchanged texts cost nothing.

        Outside `atomic()` every batch is a transaction, so that what was paid for stays.

        Args:
            instances: A queryset, which is read a batch at a time, or saved instances.
            batch_size: The most instances in one call of the embedding model.
            using: The alias of the database to write to.
        """
        if isinstance(instances, Manager):
            instances = instances.all()
        if isinstance(instances, QuerySet) and not instances.query.is_sliced:
            instances = _in_pages(instances, batch_size)
        report, count = Report(), 0
        for batch in batches(instances, batch_size):
            entries = [
                (self._key_of(instance, position), self._text(instance))
                for position, instance in enumerate(batch, count)
            ]
            count += len(batch)
            alias = using or router.db_for_write(self.model, instance=batch[0])
            report += self.collection(alias).embed_multi(entries, batch_size=batch_size)
        return report

    # Searching

    def nearest(
        self,
        queryset: QuerySet[M] | Manager[M],
        text: Content,
        number: int = 10,
        *,
        offset: int = 0,
        min_score: float | None = None,
        exact: bool | None = None,
    ) -> list[M]:
        """Return the queryset's instances nearest in meaning to a text, best first.

        Each has a `score`: cosine similarity, -1 to 1. The queryset's own conditions hold before
        the best are taken, so that there are `number` of them if that many are embedded. Its
        order does not matter; its `select_related`, `only`, `annotate` and `using` do.

        Args:
            queryset: Among which instances; not sliced.
            text: What to search for.
            number: The most results.
            offset: How many of the best to leave out before these: those of the pages before.
            min_score: Leave out what scores less.
            exact: As in `Collection.similar`.

        Raises:
            TypeError: It is not a queryset of the model's instances.
            InvalidQueryError: The queryset is sliced, or an argument means nothing.
        """
        among, queryset = self._among(queryset)
        if among is None:
            return []
        entries = self.collection(queryset.db).similar(
            text, number, offset=offset, min_score=min_score, among=among, exact=exact
        )
        return _scored(queryset, entries)

    def related(
        self,
        queryset: QuerySet[M] | Manager[M],
        instance: M,
        number: int = 10,
        *,
        offset: int = 0,
        min_score: float | None = None,
        exact: bool | None = None,
    ) -> list[M]:
        """Return the queryset's instances nearest to an instance, without that one.

        No embedding model is called. Arguments as in `nearest`.

        Raises:
            DoesNotExist: The instance is not embedded.
        """
        among, queryset = self._among(queryset)
        if among is None:
            return []
        entries = self.collection(queryset.db).similar_by_id(
            self._key_of(instance),
            number,
            offset=offset,
            min_score=min_score,
            among=among,
            exact=exact,
        )
        return _scored(queryset, entries)

    # The steps of the operations above

    def _key_of(self, instance: M, position: int | None = None) -> Any:
        if not isinstance(instance, self.model):
            raise TypeError(
                f"This collection is of {self.model._meta.label}, not of {type(instance).__name__}"
            )
        if instance.pk is None:
            which = "The instance" if position is None else f"instances[{position}]"
            raise InvalidItemError(f"{which} has no primary key yet: save it first")
        return self.model._meta.pk.to_python(instance.pk)

    def _among(
        self, queryset: QuerySet[M] | Manager[M]
    ) -> tuple[TextualSelect | None, QuerySet[M]]:
        """Return the SELECT of a queryset's keys, None if Django knows it to be empty."""
        if isinstance(queryset, Manager):
            queryset = queryset.all()
        if not isinstance(queryset, QuerySet) or not issubclass(queryset.model, self.model):
            raise TypeError(
                f"Pass a queryset of {self.model._meta.label}, not {type(queryset).__name__} of "
                f"{getattr(queryset, 'model', None)}"
            )
        if queryset.query.is_sliced:
            raise InvalidQueryError("Pass number= and offset= instead of slicing the queryset")
        if not yields_instances(queryset):
            raise TypeError("Pass a queryset of instances: without values() and values_list()")
        try:
            return keys_of(queryset, self._key), queryset
        except EmptyResultSet:
            return None, queryset

    # Django announces all instances of a `delete()`, deletes the rows, and tells of each of them.
    # So their embeddings are deleted at once, and not in a statement for each.

    def _before_deletion(self, *, instance: M, using: str, **_: Any) -> None:
        vars(self._leaving).setdefault(using, set()).add(self._key_of(instance))

    def _after_deletion(self, *, using: str, **_: Any) -> None:
        keys = vars(self._leaving).pop(using, set())
        if keys and router.allow_migrate(using, APP_LABEL):
            # What was announced, and then not deleted because of an error, keeps its embedding.
            keys -= self.model._base_manager.using(using).only("pk").in_bulk(keys).keys()
            self.collection(using).delete_items(keys)


def _key_type(model: type[Model]) -> Any:
    """Return the SQLAlchemy column of a model's keys."""
    field: Any = model._meta.pk
    while field.remote_field:
        field = field.target_field
    kinds: tuple[tuple[type[models.Field[Any, Any]], TypeEngine[Any]], ...] = (
        (models.IntegerField, BigInteger()),
        (models.UUIDField, Uuid()),
        (models.CharField, Text()),
        (models.TextField, Text()),
    )
    for kind, sql_type in kinds:
        if isinstance(field, kind):
            return column(KEY, sql_type)
    raise TypeError(
        f"The primary key of {model._meta.label} is a {type(field).__name__}; a ModelCollection "
        "takes integers, UUIDs and text"
    )


def _scored(queryset: QuerySet[M], entries: Iterable[Entry[Any]]) -> list[M]:
    """Return the instances of search results, with their scores."""
    scores = {entry.id: entry.score for entry in entries}
    instances = queryset.in_bulk(list(scores))
    found = []
    for key, score in scores.items():
        if key in instances:  # else deleted a moment ago
            setattr(instances[key], SCORE, score)
            found.append(instances[key])
    return found


def _in_pages(queryset: QuerySet[M], size: int) -> Iterator[M]:
    """Yield a queryset's instances by primary key, a page at a time.

    No cursor stays open, which on SQLite would keep the batches from being written.
    """
    queryset = queryset.order_by("pk")
    page = list(queryset[:size])
    while page:
        yield from page
        page = list(queryset.filter(pk__gt=page[-1].pk)[:size])

"""The embeddings of a Django model's instances, for those who know no SQLAlchemy."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeAlias, TypeVar, Unpack
from weakref import WeakSet

from asgiref.sync import sync_to_async
from django.apps import apps
from django.core.exceptions import EmptyResultSet
from django.db import router
from django.db.models import Manager, Model, QuerySet, prefetch_related_objects
from django.db.models.signals import class_prepared, post_delete, pre_delete
from django.utils.asyncio import async_unsafe
from sqlalchemy import select

from ...collection import Collection
from ...errors import DoesNotExist, IndexingError, InvalidItemError, InvalidQueryError, SchemaError
from ...following import reembed as reembedding
from ...following import refresh as refreshing
from ...following import sync as syncing
from ...following import triggers
from ...following.pending import Pending
from ...models.base import BATCH_SIZE, batches, check_given
from ...writing import beside
from ...writing.calls import calls_at_once
from ...writing.chunks import Chunks, checked_chunks
from ...writing.report import Report
from .conf import PROGRAM, app_label
from .database import (
    DjangoTransactions,
    has_no_tables,
    is_fastest_whole,
    keys_as_sql,
    keys_of,
    session,
)
from .following import follows_of, problems, rows_of, tables_of
from .internals import yields_instances
from .ranking import check_annotation, has_windows, keys_among, ranked
from .shares import Shares
from .source import Source
from .tables import records as records_in_use

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from django.db.models import Q
    from sqlalchemy import Connection

    from ...following.literals import Follow
    from ...following.options import ReembedOptions, RefreshOptions, SyncOptions
    from ...following.pending import PendingState
    from ...following.refresh import Stop
    from ...models.base import Content, SupportsEmbedding
    from ...searching.entries import Entry
    from ...tables.records import Records
    from ...work.reference import Reference
    from ...writing.calls import OnError
    from ...writing.items import Prepared
    from ...writing.progress import Progress
    from .source import Row

M = TypeVar("M", bound=Model)
P = ParamSpec("P")
T = TypeVar("T")

Search: TypeAlias = "Callable[..., list[Entry[Any]]]"
Words: TypeAlias = "bool | str | QuerySet[Any] | None"
"""True for the words of what is searched for, others, or the ranking of a search of one's own."""

DECLARED: WeakSet[ModelCollection[Any]] = WeakSet()
"""All that this process declares."""


def synchronous(method: Callable[P, T]) -> Callable[P, T]:
    """Let a method say in an event loop what is to be awaited in its place."""
    name = method.__name__
    twin = "async_" if name == "sync" else f"a{name}"
    return async_unsafe(  # type: ignore[no-any-return]
        f"{name}() works synchronously. From an async context use: await collection.{twin}(...)"
        if name not in {"install", "uninstall", "trigger_problems"}
        else f"{name}() works synchronously. From an async context use sync_to_async"
    )(method)


class ModelCollection(Generic[M]):
    """A collection with one embedding for each instance of a Django model, under its primary key.

        articles = ModelCollection(Article, text=["title", "body"], where=Q(published=True))
        articles.embed(article)
        articles.nearest(Article.objects.filter(lang="en"), "how to sleep better")

    Make it once, beside the model or in a module of its own. It opens nothing, and may be used by
    every thread. The embeddings are in the database of the instances, in the same transaction;
    without one each step is a short transaction, and none is open while the embedding model runs.
    When an instance is deleted, by `Model.delete`, `QuerySet.delete` or a cascade, its embedding
    is deleted with it. `manage.py check` says what is wrong with a declaration.

    Args:
        source: The Django model, or "app_label.Model". Its primary key is an integer, a UUID or
            text.
        text: What to embed of an instance: the name of a field, or of several, whose texts are
            joined by blank lines, without what is None or "". A name may lead over relations:
            "category__name". Or a function of an instance. A row without text is not in the
            collection.
        columns: The fields that such a function reads, for following.
        where: Only rows for which this holds are in the collection, such as `Q(published=True)`.
        metadata: The names of fields, or paths, that are kept as metadata.
        name: The collection's name in the database; "app_label.modelname" by default.
        model: An embedding model.
        model_id: Or the id or alias of one; wins if both are given. With neither, the one that the
            collection was made with, and for a new one that of EMBEDDINGS["MODEL"].
        store: Whether the texts are stored as well.
        chunks: How texts are cut into chunks: `Chunks(size=...)`. By default they are not.
        records: Which tables; by default those of the app.

    Raises:
        TypeError: An argument is of another type.
    """

    def __init__(
        self,
        source: type[M] | str,
        /,
        *,
        text: str | Iterable[str] | Callable[[M], Content | None],
        columns: Iterable[str] = (),
        where: Q | None = None,
        metadata: Iterable[str] = (),
        name: str | None = None,
        model: SupportsEmbedding | None = None,
        model_id: str | None = None,
        store: bool = False,
        chunks: Chunks | None = None,
        records: Records | None = None,
    ) -> None:
        check_given(model, model_id)
        self.source: Source[M] = Source(source, text, where, metadata, columns)
        self.name = name or self.source.label.lower()
        self.records = records
        self.options: dict[str, Any] = {
            "model": model,
            "model_id": model_id,
            "chunks": checked_chunks(chunks),
        }
        self._store = store
        self._leaving = threading.local()
        self._shares = Shares()
        self._watch()
        DECLARED.add(self)

    def __repr__(self) -> str:
        return f"<ModelCollection {self.name!r}>"

    def collection(self, using: str | None = None) -> Collection[Any]:
        """Return the `Collection` behind it in a database, for what is not offered here.

        Args:
            using: The alias of the database; where the router writes the model's instances by
                default.
        """
        alias = using or router.db_for_write(self.source.model)
        return self._through(DjangoTransactions(alias))

    def _through(self, sessions: DjangoTransactions) -> Collection[Any]:
        collection = Collection(
            self.name,
            sessions,
            key=self.source.key,
            records=self._tables,
            **self.options,
        )
        collection.reference.is_declared = True
        return collection

    @property
    def declared_model(self) -> str | None:
        """The id or alias of its embedding model; None if it names none."""
        model, model_id = self.options["model"], self.options["model_id"]
        return model_id or (None if model is None else model.model_id)

    # Writing

    @synchronous
    def prepare(self, instance: M, *, using: str | None = None) -> Prepared | None:
        """Call the embedding model for an instance, saved or not, that `embed` is to store.

        Do so before a transaction, so that none is open while the embedding model runs. The text of
        an embedding that is stored costs nothing. It is None for an instance without text.

        Args:
            instance: Whose text is embedded.
            using: The alias of the database that `embed` will write to; that of the instance by
                default.
        """
        text = self.source.text_of(instance)
        return None if text is None else self.collection(self._alias(instance, using)).prepare(text)

    @synchronous
    def embed(
        self, instance: M, prepared: Prepared | None = None, *, using: str | None = None
    ) -> None:
        """Store the embedding of an instance that is saved, in Django's transaction.

        The embedding model is called only if the text is new to the collection. An instance without
        text, or for which `where` does not hold, has no embedding afterwards.

        Args:
            instance: In the database.
            prepared: From `prepare`; then the embedding model is not called here.
            using: The alias of the database; that of the instance by default.

        Raises:
            InvalidItemError: The instance has no primary key yet, or its text changed since
                `prepare`.

            And what `Collection.embed` raises.
        """
        row = self.source.row_of(instance)
        if prepared is not None and prepared.content != row.content:
            raise InvalidItemError(
                f"{self.source.label} {instance.pk!r}: the text of the instance is not the one "
                "that was prepared"
            )
        alias = self._alias(instance, using)
        sessions = DjangoTransactions(alias)
        collection = self._through(sessions)
        if row.content is None or row.key not in self._belonging([instance], [row], alias):
            _remove(collection, [row.key])
            return
        with sessions.held():
            collection.embed(row.key, prepared or row.content, row.metadata, self._store)

    @synchronous
    def embed_multi(
        self,
        instances: QuerySet[M] | Manager[M] | Iterable[M],
        batch_size: int = BATCH_SIZE,
        *,
        using: str | None = None,
        concurrency: int | None = None,
        on_error: OnError = "raise",
    ) -> Report:
        """Embed many instances, and return what was done: unchanged texts cost nothing.

        Outside `atomic()` every batch is a transaction, so that what was paid for stays. What the
        texts read over relations is fetched for a batch at once.

        Args:
            instances: A queryset, or saved instances. It is read a batch at a time, but at once
                where Django can take no condition more: a slice, a union, DISTINCT ON.
            batch_size: The most instances in one call of the embedding model.
            using: The alias of the database to write to; that of each instance by default.
            concurrency: The most calls of the embedding model at a time; by default what the model
                says. So many batches are read at once.
            on_error: With "skip" instances that the model refuses by themselves are left out, and
                stand in `skipped` of the report.
        """
        if isinstance(instances, Manager):
            instances = instances.all()
        if not hasattr(instances, "__iter__"):
            raise TypeError(f"embed_multi takes a queryset or instances, not {_kind(instances)}")
        if isinstance(instances, list | tuple) and not instances:
            return Report()
        model = self.collection(using or self._alias_of(instances)).reference.read_model()
        size = batch_size * calls_at_once(model, concurrency)
        if isinstance(instances, QuerySet):
            self._check_model(instances)
            query = instances.query
            if not (query.is_sliced or query.combinator or query.distinct_fields):
                instances = _in_pages(instances, size)
        report, count = Report(), 0
        for batch in batches(instances, size):
            by_alias: dict[str, list[M]] = {}
            for position, instance in enumerate(batch, count):
                self.source.key_of(instance, position)
                by_alias.setdefault(self._alias(instance, using), []).append(instance)
            count += len(batch)
            for alias, some in by_alias.items():
                prefetch_related_objects(some, *self.source.relations())
                rows = [self.source.row_of(instance) for instance in some]
                belonging = self._belonging(some, rows, alias)
                entries = [
                    (row.key, row.content, row.metadata)
                    for row in rows
                    if row.content is not None and row.key in belonging
                ]
                self.source.check_keys([key for key, _, _ in entries])
                collection = self.collection(alias)
                report += collection.embed_multi_with_metadata(
                    entries, self._store, batch_size, concurrency=concurrency, on_error=on_error
                )
                others = {row.key for row in rows} - {key for key, _, _ in entries}
                if others:
                    report += Report(removed=_remove(collection, others))
        return report

    def _alias(self, instance: M, using: str | None) -> str:
        """Return the database of an instance's embedding."""
        return using or str(router.db_for_write(self.source.model, instance=instance))

    def _alias_of(self, instances: Iterable[M]) -> str:
        """Return the database in which the collection's model can be looked up."""
        if isinstance(instances, QuerySet):
            return str(instances.db)
        first = instances[0] if isinstance(instances, list | tuple) else None
        hints = {"instance": first} if isinstance(first, Model) else {}
        return str(router.db_for_write(self.source.model, **hints))

    async def aprepare(self, instance: M, *, using: str | None = None) -> Prepared | None:
        """Do what `prepare` does, awaited."""
        return await sync_to_async(self.prepare)(instance, using=using)

    async def aembed(
        self, instance: M, prepared: Prepared | None = None, *, using: str | None = None
    ) -> None:
        """Do what `embed` does, awaited."""
        await sync_to_async(self.embed)(instance, prepared, using=using)

    async def aembed_multi(
        self,
        instances: QuerySet[M] | Manager[M] | Iterable[M],
        batch_size: int = BATCH_SIZE,
        *,
        using: str | None = None,
        concurrency: int | None = None,
        on_error: OnError = "raise",
    ) -> Report:
        """Do what `embed_multi` does, awaited."""
        return await sync_to_async(self.embed_multi)(
            instances, batch_size, using=using, concurrency=concurrency, on_error=on_error
        )

    # Searching

    @synchronous
    def nearest(
        self,
        queryset: QuerySet[M] | Manager[M],
        text: Content,
        number: int = 10,
        *,
        offset: int = 0,
        min_score: float | None = None,
        exact: bool | None = None,
        words: Words = None,
        weights: tuple[float, float] | None = None,
        score: str = "score",
        rank: str = "rank",
    ) -> QuerySet[M]:
        """Return the queryset's instances nearest in meaning to a text, best first, as a queryset.

        Each has a `score`: cosine similarity, -1 to 1. The search takes place now; what it found is
        fetched when the queryset is evaluated, and can be filtered, counted, sliced and ordered as
        any other. Its conditions hold before the best are taken, so that there are `number` of them
        if that many are embedded. What it annotates, selects and prefetches stays as it was.

        Args:
            queryset: Among which instances; not sliced.
            text: What to search for.
            number: The depth of the ranking: so many instances are found at most.
            offset: How many of the best to leave out before these: those of the pages before.
            min_score: Leave out what scores less.
            exact: As in `Collection.similar`.
            words: True searches by the words of the text as well, in the collection's text index,
                another text by its words, and a queryset of the model, ordered best first, by what
                your own full-text search finds. Then each instance has a `rank` beside its score,
                from 1, and that is the order.
            weights: Of the ranking by meaning and of that by words; (1, 1) by default.
            score: The name of the annotation.
            rank: Likewise.

        Raises:
            TypeError: It is not a queryset of the model's instances.
            InvalidQueryError: The queryset is sliced, or has something called `score` or, with
                words, `rank` already; or an argument means nothing.
            IndexingError: `words` is searched for, and there is no text index.
            SchemaError: The tables are missing.
        """
        queryset = self._checked(queryset, score)
        filters: dict[str, Any] = {"min_score": min_score, "exact": exact}
        if weights is not None:
            filters["weights"] = weights
        has_words = words is not None and words is not False
        if has_words:
            if rank == score:
                raise InvalidQueryError(f"score and rank are both called {score!r}")
            check_annotation(queryset, "rank", rank, "place")
            filters["words"] = self._words(words, queryset.db)

        def search(collection: Collection[Any], number: int, **page: Any) -> list[Entry[Any]]:
            return collection.similar(text, number, **filters, **page)

        try:
            found = self._found(queryset, search, number, offset, has_ranks=has_words)
        except IndexingError as error:
            raise IndexingError(
                f"{error}. Of a ModelCollection: collection().create_text_index(), and then "
                f"{PROGRAM} sync, which puts in the words of all rows"
            ) from None
        name = rank if has_words else None
        return ranked(queryset, self.source.key_field, found, score, name, offset)

    @synchronous
    def related(
        self,
        queryset: QuerySet[M] | Manager[M],
        instance: M,
        number: int = 10,
        *,
        offset: int = 0,
        min_score: float | None = None,
        exact: bool | None = None,
        score: str = "score",
    ) -> QuerySet[M]:
        """Return the queryset's instances nearest to an instance, without that one, as a queryset.

        No embedding model is called. It is empty if the instance has no embedding. Arguments and
        errors are as in `nearest`.
        """
        queryset = self._checked(queryset, score)
        key = self.source.key_of(instance)

        def search(collection: Collection[Any], number: int, **page: Any) -> list[Entry[Any]]:
            if not collection.reference.keys.usable([key]):
                return []
            try:
                return collection.similar_by_id(
                    key, number, min_score=min_score, exact=exact, **page
                )
            except DoesNotExist:
                return []

        found = self._found(queryset, search, number, offset)
        return ranked(queryset, self.source.key_field, found, score)

    async def anearest(
        self,
        queryset: QuerySet[M] | Manager[M],
        text: Content,
        number: int = 10,
        *,
        offset: int = 0,
        min_score: float | None = None,
        exact: bool | None = None,
        words: Words = None,
        weights: tuple[float, float] | None = None,
        score: str = "score",
        rank: str = "rank",
    ) -> QuerySet[M]:
        """Do what `nearest` does, awaited. The queryset is then read by `async for`."""
        return await sync_to_async(self.nearest)(
            queryset,
            text,
            number,
            offset=offset,
            min_score=min_score,
            exact=exact,
            words=words,
            weights=weights,
            score=score,
            rank=rank,
        )

    async def arelated(
        self,
        queryset: QuerySet[M] | Manager[M],
        instance: M,
        number: int = 10,
        *,
        offset: int = 0,
        min_score: float | None = None,
        exact: bool | None = None,
        score: str = "score",
    ) -> QuerySet[M]:
        """Do what `related` does, awaited. The queryset is then read by `async for`."""
        return await sync_to_async(self.related)(
            queryset,
            instance,
            number,
            offset=offset,
            min_score=min_score,
            exact=exact,
            score=score,
        )

    # Following the rows, whoever changes them

    @synchronous
    def install(self, *, using: str | None = None) -> None:
        """Make the triggers by which the collection follows the rows, or make them anew.

        For projects whose migrations do not: there it is the operation `FollowRows`. What was
        changed before is found by `sync`.

        Args:
            using: The alias of the database.

        Raises:
            TypeError: It is not known which columns a function of an instance reads.
            SchemaError: The tables are missing; or the collection follows another table.
        """
        alias = using or router.db_for_write(self.source.model)
        with session(alias) as lent:
            connection = lent.connection()
            self._check_is_alone(connection, triggers.all_follows(connection, self._tables))
            triggers.unfollow_all(connection, self.name, self._tables)
            for given in self._follows(alias):
                triggers.follow(connection, given)

    @synchronous
    def uninstall(self, *, using: str | None = None) -> None:
        """Drop the triggers, if they are there. Vectors and pending rows stay."""
        with session(using or router.db_for_write(self.source.model)) as lent:
            triggers.unfollow_all(lent.connection(), self.name, self._tables)

    @synchronous
    def trigger_problems(self, *, using: str | None = None) -> list[str]:
        """Return what of the triggers is missing, disabled or not as declared; only reads.

        A migration that Django does by making a table of SQLite anew drops its triggers.
        """
        alias = using or router.db_for_write(self.source.model)
        return self._look(alias, partial(self._problems, alias))

    def _look(self, alias: str, look: Callable[[Connection, list[Follow]], T]) -> T:
        """Return what a function makes of all that is followed."""
        with DjangoTransactions(alias).session(write=False) as lent:
            connection = lent.connection()
            return look(connection, triggers.all_follows(connection, self._tables))

    def _problems(self, alias: str, connection: Connection, found: list[Follow]) -> list[str]:
        try:
            wanted = self._follows(alias)
        except TypeError as error:  # what they should read is not declared
            return [str(error)]
        return problems(connection, self.source, self.name, wanted, found)

    def _check_is_alone(self, connection: Connection, found: list[Follow]) -> None:
        triggers.check_is_alone(connection, self.name, tables_of(self.source), found)

    def _to_write(self, alias: str) -> Reference[Any]:
        """Return the collection, unless triggers say that it follows another table."""
        self._look(alias, self._check_is_alone)
        return self.collection(alias).reference

    def _checked_problems(
        self, alias: str, connection: Connection, found: list[Follow]
    ) -> list[str]:
        self._check_is_alone(connection, found)
        return self._problems(alias, connection, found)

    @synchronous
    def refresh(
        self,
        *,
        using: str | None = None,
        concurrency: int | None = None,
        batch_size: int = BATCH_SIZE,
        limit: int | None = None,
        keys: Iterable[Any] | None = None,
        progress: Progress = None,
        on_error: OnError = "skip",
        forever: bool = False,
        stop: Stop | None = None,
    ) -> Report:
        """Embed what is pending, and return what was done; the report has what is still pending.

        Outside `atomic()` any number of processes may do so at once, and no transaction is open
        while the model runs. Within it, `keys=[article.pk]` brings a request's own rows up to date.

        If a model raises an exception of its own for each of several rows in a batch, the model may
        be at fault: they are tried again later, never given up, and it is raised.

        Args:
            using: The alias of the database.
            concurrency: The most calls of the model at a time; by default what the model says.
            batch_size: The most values in one call of the model.
            limit: The most items.
            keys: Only the rows of these primary keys, whether they are pending or not; without
                `limit`, `progress`, `forever` and `stop`.
            progress: Called after each batch with the items done, and those pending at first.
            on_error: With "skip" a row that fails by itself is tried again later, a few times;
                "raise" raises what it failed of. Within `atomic()` an error is always raised.
            forever: Do not return, but look every second whether something is pending. A service or
                a database that is away, and a model that takes nothing, are waited for, with a
                warning in the log.
            stop: What ends it after a batch, such as a `threading.Event`.

        Raises:
            ModelError: The model's service failed. What was claimed is given back.
            InvalidQueryError: `keys` is a single key, or goes with an argument that is for all.
            InvalidItemError: One of `keys` is of another type, or `forever` is within `atomic()`.
            ValueError: A number is not positive, or `on_error` is neither of the two.
            SchemaError: Triggers say that the collection follows another table.
            Exception: What an embedding model of your own raises for all rows of a batch. And of
                one row, with "raise" or within `atomic()`, whatever it failed of.
        """
        alias = using or router.db_for_write(self.source.model)
        return refreshing.refresh(
            self.collection(alias).reference if keys is None else self._to_write(alias),
            rows_of(self.source, alias, store=self._store),
            concurrency=concurrency,
            batch_size=batch_size,
            limit=limit,
            keys=keys,
            progress=progress,
            on_error=on_error,
            forever=forever,
            stop=stop,
            problems=partial(self._look, alias, partial(self._checked_problems, alias)),
        )

    @synchronous
    def sync(
        self,
        *,
        using: str | None = None,
        prune: bool = True,
        allow_empty: bool = False,
        dry_run: bool = False,
        batch_size: int = BATCH_SIZE,
        progress: Progress = None,
        on_error: OnError = "raise",
    ) -> Report:
        """Compare every row of the model with the collection, and bring in what differs.

        For the first fill, for what no trigger sees, such as changes of related rows, and, as a dry
        run, as an audit: `report.stale`, `.missing` and `.orphaned`.

        Args:
            using: The alias of the database.
            prune: Remove what has no row any more.
            allow_empty: Remove everything if there are no rows.
            dry_run: Change nothing, and call no model.
            batch_size: The most values in one call of the model.
            progress: Called with the rows compared and their number.
            on_error: With "skip" rows that fail by themselves are left out, and their keys stand in
                `skipped`, also in a dry run; "raise" raises what the first failed of.

        Raises:
            SchemaError: Triggers say that the collection follows another table. Not in a dry run.
        """
        alias = using or router.db_for_write(self.source.model)
        return syncing.sync(
            self.collection(alias).reference if dry_run else self._to_write(alias),
            rows_of(self.source, alias, store=self._store),
            prune=prune,
            allow_empty=allow_empty,
            dry_run=dry_run,
            batch_size=batch_size,
            progress=progress,
            on_error=on_error,
        )

    @synchronous
    def pending(self, *, using: str | None = None) -> PendingState:
        """Return how many rows are pending, since when, and which cannot be embedded and why."""
        reference = self.collection(using).reference
        with reference.work() as work:
            return Pending(reference).state(work)

    @synchronous
    def reembed(
        self,
        model: SupportsEmbedding | str,
        *,
        using: str | None = None,
        batch_size: int = BATCH_SIZE,
        progress: Progress = None,
    ) -> Report:
        """Embed every row by another embedding model, and let the collection be of that one.

        The new embeddings are made beside the old ones, while others search, write and refresh;
        then one transaction switches. It can be interrupted and called again. A declaration that
        names either model goes on, until `drop_previous`.

        Args:
            model: An embedding model that is registered, or its id or alias.
            using: The alias of the database.
            batch_size: The most values in one call of the model.
            progress: Called with the rows compared and their number.

        Raises:
            InvalidQueryError: There are no rows, and the collection has embeddings.
            ModelMismatchError: Embeddings of a third model stand beside the collection.
            UnknownModelError: There is no such model.
            DoesNotExist: The collection does not exist.
            SchemaError: Triggers say that the collection follows another table.
        """
        alias = using or router.db_for_write(self.source.model)
        return reembedding.reembed(
            self._to_write(alias),
            rows_of(self.source, alias, store=self._store),
            model,
            batch_size=batch_size,
            progress=progress,
        )

    @synchronous
    def back(
        self,
        *,
        using: str | None = None,
        batch_size: int = BATCH_SIZE,
        progress: Progress = None,
    ) -> Report:
        """Let the collection be of the embedding model that it had before `reembed`.

        What changed since then is embedded by that model first. Arguments as in `reembed`.

        Raises:
            DoesNotExist: The embeddings of the model before are not there any more.
            SchemaError: As of `reembed`.
        """
        alias = using or router.db_for_write(self.source.model)
        return reembedding.back(
            self._to_write(alias),
            rows_of(self.source, alias, store=self._store),
            batch_size=batch_size,
            progress=progress,
        )

    @synchronous
    def drop_previous(self, *, using: str | None = None) -> bool:
        """Delete the embeddings of the model before, and return whether there were any.

        Raises:
            SchemaError: As of `reembed`.
        """
        alias = using or router.db_for_write(self.source.model)
        return beside.drop_previous(self._to_write(alias))

    async def areembed(
        self,
        model: SupportsEmbedding | str,
        *,
        using: str | None = None,
        **options: Unpack[ReembedOptions],
    ) -> Report:
        """Do what `reembed` does, awaited."""
        return await sync_to_async(self.reembed)(model, using=using, **options)

    async def aback(self, *, using: str | None = None, **options: Unpack[ReembedOptions]) -> Report:
        """Do what `back` does, awaited."""
        return await sync_to_async(self.back)(using=using, **options)

    async def adrop_previous(self, *, using: str | None = None) -> bool:
        """Do what `drop_previous` does, awaited."""
        return await sync_to_async(self.drop_previous)(using=using)

    async def arefresh(
        self, *, using: str | None = None, **options: Unpack[RefreshOptions]
    ) -> Report:
        """Do what `refresh` does, awaited."""
        return await sync_to_async(self.refresh)(using=using, **options)

    async def async_(self, *, using: str | None = None, **options: Unpack[SyncOptions]) -> Report:
        """Do what `sync` does, awaited."""
        return await sync_to_async(self.sync)(using=using, **options)

    async def apending(self, *, using: str | None = None) -> PendingState:
        """Do what `pending` does, awaited."""
        return await sync_to_async(self.pending)(using=using)

    # The steps of the operations above

    @property
    def _tables(self) -> Records:
        return self.records or records_in_use()

    def _follows(self, alias: str) -> list[Follow]:
        return follows_of(self.source, self.name, self._tables, alias)

    def _belonging(self, instances: list[M], rows: list[Row], using: str) -> set[Any]:
        """Return the keys of the instances for which the condition holds."""
        if self.source.where is None:
            return {row.key for row in rows}
        return self.source.keys_that_belong(instances, using)

    def _check_model(self, queryset: Any) -> None:
        """Do nothing if it is a queryset of the model's instances.

        Raises:
            TypeError: It is something else.
        """
        label = self.source.label
        if not isinstance(queryset, QuerySet):
            raise TypeError(
                f"Pass a queryset of {label}, such as {label.rpartition('.')[2]}.objects.all(), "
                f"not {_kind(queryset)}"
            )
        if not issubclass(queryset.model, self.source.model):
            raise TypeError(f"Pass a queryset of {label}, not of {queryset.model._meta.label}")
        if not yields_instances(queryset):
            raise TypeError(
                "Pass a queryset of instances: call values() and values_list() on the result"
            )

    def _checked(self, queryset: QuerySet[M] | Manager[M], score: str) -> QuerySet[M]:
        """Return the queryset to search among, before anything is spent."""
        if isinstance(queryset, Manager):
            queryset = queryset.all()
        self._check_model(queryset)
        if queryset.query.is_sliced:
            raise InvalidQueryError("Pass number= and offset= instead of slicing the queryset")
        if queryset.query.combinator:
            raise InvalidQueryError(
                f"Django filters no {queryset.query.combinator}(): pass "
                f"{self.source.model.__name__}.objects.filter(pk__in=...) of it"
            )
        check_annotation(queryset, "score", score, "relevance")
        return queryset

    def _words(self, words: object, alias: str) -> Any:
        """Return what `Collection.similar` takes as `words`.

        Raises:
            InvalidQueryError: It means nothing.
        """
        if not isinstance(words, QuerySet):
            if words is True or isinstance(words, str):
                return words
            raise InvalidQueryError(
                f"words must be True, a text, or a queryset of {self.source.label} ordered best "
                f"first, not {type(words).__name__}"
            )
        self._check_model(words)
        if words.db != alias:
            raise InvalidQueryError(f"words= is of the database {words.db!r}, not of {alias!r}")
        if not words.ordered:
            raise InvalidQueryError("words= is a queryset without an order: best first, order_by()")
        try:
            sql = keys_as_sql(words, self.source.key.name, in_order=True)
        except EmptyResultSet:
            return select(self.collection(alias).reference.keys.none_found().c.id)
        return keys_of(alias, *sql, self.source.key)

    def _found(
        self,
        queryset: QuerySet[M],
        search: Search,
        number: int,
        offset: int,
        *,
        has_ranks: bool = False,
    ) -> list[Entry[Any]]:
        """Return what a search finds among the instances of a queryset.

        Of one that keeps most rows it is tried first whether the best of the whole collection are
        in it, which takes less time than a search among its keys. With ranks, which are those among
        the instances of the queryset, these have to be the same.
        """
        rows, collection = self._narrowed(queryset), self.collection(queryset.db)
        depth, field = _depth(number, offset), self.source.key_field
        try:
            sql, values = keys_as_sql(rows, self.source.key.name)
        except EmptyResultSet:
            return []
        is_whole = not rows.query.where and rows.model is self.source.model
        # Of DISTINCT ON a condition leaves other rows.
        can_be_tried = depth and not rows.query.distinct_fields and (is_whole or not has_ranks)
        if can_be_tried and is_fastest_whole(collection, queryset.db):
            sample = () if is_whole else (hash((sql, str(values))), hash(sql))
            if tried := self._shares.candidates(sample, depth):
                best = search(collection, tried)
                there = keys_among(rows, field, best)
                entries = [entry for entry in best if entry.id in there]
                self._shares.note(sample, len(entries), len(best))
                are_enough = len(entries) >= depth or len(best) < tried
                if are_enough and not (has_ranks and len(entries) < len(best)):
                    return entries[offset:depth]
        among = keys_of(queryset.db, sql, values, self.source.key)
        return search(collection, number, among=among, offset=offset)

    def _narrowed(self, queryset: QuerySet[M]) -> QuerySet[M]:
        """Return what of a queryset is in the collection by the condition of the declaration."""
        if self.source.where is None:
            return queryset
        if has_windows(queryset) or queryset.query.distinct_fields:  # of all its rows
            manager = self.source.model._base_manager.using(queryset.db)
            queryset = manager.filter(pk__in=queryset.values("pk"))
        return queryset.filter(self.source.where)

    # Deletion. Django announces all instances of a `delete()`, deletes the rows, and tells of each
    # of them. So their embeddings are deleted at once, and not in a statement for each.

    def _watch(self) -> None:
        """Take part in the deletion of the model's rows, also through its proxies."""
        for models in apps.all_models.values():
            for model in [*models.values()]:
                self._watch_rows_of(sender=model)
        class_prepared.connect(self._watch_rows_of)  # those that are declared later

    def _watch_rows_of(self, *, sender: type[Model], **_: Any) -> None:
        if self.source.is_of(sender):
            pre_delete.connect(self._before_deletion, sender=sender)
            post_delete.connect(self._after_deletion, sender=sender)

    def _before_deletion(self, *, instance: M, using: str, origin: object = None, **_: Any) -> None:
        key = self.source.model._meta.pk.to_python(instance.pk)
        # A receiver of the host's may delete others before these.
        vars(self._leaving).setdefault(f"{using} {id(origin)}", set()).add(key)

    def _after_deletion(self, *, using: str, origin: object = None, **_: Any) -> None:
        keys = vars(self._leaving).pop(f"{using} {id(origin)}", set())
        if not keys or not router.allow_migrate(using, app_label()):
            return
        # What was announced, and then not deleted because of an error, keeps its embedding.
        manager = self.source.model._meta.concrete_model._base_manager
        keys -= manager.using(using).only("pk").in_bulk(keys).keys()
        try:
            _remove(self.collection(using), map(self.source.stored_key, keys))
        except SchemaError:
            if not has_no_tables(using):
                raise


def _remove(collection: Collection[Any], keys: Iterable[Any]) -> int:
    """Delete the embeddings of rows, and return how many there were."""
    usable = collection.reference.keys.usable(keys)
    return collection.delete_items(usable) if usable else 0


def _depth(number: object, offset: object) -> int:
    """Return how many of the best have to be known; 0 for arguments that the search refuses."""
    are_numbers = isinstance(number, int) and isinstance(offset, int)
    return number + offset if are_numbers and number >= 0 and offset >= 0 else 0  # type: ignore[operator]


def _kind(value: object) -> str:
    """Return what a value is of, or which class it is."""
    return value.__name__ if isinstance(value, type) else type(value).__name__


def _in_pages(queryset: QuerySet[M], size: int) -> Iterator[M]:
    """Yield a queryset's instances by primary key, a page at a time.

    No cursor stays open, which on SQLite would keep the batches from being written.
    """
    queryset = queryset.order_by("pk")
    queryset.query.standard_ordering = True  # of a queryset that was reversed
    page = list(queryset[:size])
    while page:
        yield from page
        page = list(queryset.filter(pk__gt=page[-1].pk)[:size])

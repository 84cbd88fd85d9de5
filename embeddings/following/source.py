"""A collection that is declared on a mapped class, whose rows it follows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from operator import attrgetter, itemgetter
from os import PathLike
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, Unpack

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    Enum,
    String,
    and_,
    inspect,
    or_,
    select,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.types import TypeDecorator, Uuid

from ..collection import Collection
from ..errors import BindingError, InvalidItemError
from ..keys import keys_of
from ..models.base import BATCH_SIZE, check_given
from ..searching.query import Filters, check_filters
from ..sessions import bind, is_asynchronous
from ..sessions.base import hinted
from ..tables.records import RECORDS, Records
from ..values import check_is_called
from ..writing import beside
from ..writing.chunks import Chunks, checked_chunks
from ..writing.whole import checked_name
from . import near, triggers
from . import reembed as reembedding
from . import refresh as refreshing
from . import sync as syncing
from .columns import BETWEEN, JoinedTexts, attributes_of, checked_condition, key_of, mapper_of
from .pending import Pending, PendingState
from .rows import Rows, TextsInPython, host_column, of_column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Self

    from sqlalchemy import Row, Select
    from sqlalchemy.orm import Mapper, QueryableAttribute

    from ..aio.collection import AsyncCollection
    from ..aio.sessions import AsyncDatabaseLike
    from ..keys import Key
    from ..models.base import Content, SupportsEmbedding
    from ..sessions import DatabaseLike
    from ..values import Metadata
    from ..work.reference import Reference
    from ..writing.calls import OnError
    from ..writing.progress import Progress
    from ..writing.report import Report
    from .near import Nearest, Stale
    from .options import ReembedOptions, RefreshOptions, SyncOptions
    from .refresh import Stop

M = TypeVar("M")
R = TypeVar("R")


@dataclass(frozen=True, init=False, eq=False, repr=False)
class ModelCollection(Generic[M]):
    """A collection that is declared on a mapped class, whose rows it follows.

    It holds no database: every method takes one first.

        articles = ModelCollection(Article, text=[Article.title, Article.body], name="articles")

    An item of it is a row for which `where` holds and whose text is not empty; its id is the
    primary key, in its type. `install`, or `op.follow_rows` in a revision, makes the triggers by
    which it follows whatever changes the rows.

    Args:
        source: A mapped class with one column as its primary key.
        text: Columns, joined by blank lines, None and "" left out; or a function that returns the
            text of an instance, None or "" if it has none.
        columns: What such a function reads.
        metadata: Columns that are kept as metadata, under the names of the attributes.
        where: A condition on the columns; rows for which it does not hold are not in the
            collection.
        name: Unique in the database.
        model: A model object.
        model_id: Or the id or alias of one; wins if both are given.
        records: Which tables.
        store: Store the texts as well.
        chunks: How texts are cut into chunks: `Chunks(size=...)`. By default they are not.

    Raises:
        TypeError: An argument is not of its kind.
        ValueError: The class has no such column, or a key of several; or the condition is one that
            a trigger cannot evaluate; or the name is that of a declaration on another table.
    """

    source: type[M]
    text: tuple[QueryableAttribute[Any], ...] | Callable[[M], str | None]
    columns: tuple[QueryableAttribute[Any], ...]
    """All that the text is made of, in order."""
    metadata: tuple[QueryableAttribute[Any], ...]
    where: ColumnElement[bool] | None
    name: str
    model: SupportsEmbedding | None
    model_id: str | None
    records: Records
    store: bool
    chunks: Chunks | None
    key: QueryableAttribute[Any]
    """The primary key."""

    def __init__(
        self,
        source: type[M],
        /,
        *,
        text: Sequence[Any] | Callable[[M], str | None],
        columns: Sequence[Any] | None = None,
        metadata: Sequence[Any] = (),
        where: Any = None,
        name: str,
        model: SupportsEmbedding | None = None,
        model_id: str | None = None,
        records: Records = RECORDS,
        store: bool = False,
        chunks: Chunks | None = None,
    ) -> None:
        mapper = mapper_of(source)
        check_given(model, model_id)
        of_text = _columns_of_text(mapper, text, columns)
        fields = {
            "source": source,
            "text": text if callable(text) else of_text,
            "columns": of_text,
            "metadata": _columns_of_metadata(mapper, metadata),
            "where": None if where is None else checked_condition(mapper, where),
            "name": checked_name(name),
            "model": model,
            "model_id": model_id,
            "records": records,
            "store": store,
            "chunks": checked_chunks(chunks),
            "key": key_of(mapper),
        }
        keys_of(fields["key"])  # type: ignore[arg-type]
        for field, value in fields.items():
            object.__setattr__(self, field, value)
        triggers.declare(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"ModelCollection {self.name!r} cannot be pickled or copied: it is a declaration. "
            "Import it where it is needed"
        )

    def __repr__(self) -> str:
        return f"<ModelCollection {self.name!r} of {self.source.__name__}>"

    def collection(self, database: DatabaseLike) -> Collection[Any]:
        """Return the `Collection`, for everything else. Nothing is read or written.

        Args:
            database: A session, a connection or an engine.
        """
        _check_database(database)
        collection = Collection(
            self.name,
            database,
            model=self.model,
            model_id=self.model_id,
            key=self.key,
            chunks=self.chunks,
            records=self.records,
        )
        collection.reference.is_declared = True
        return collection

    @property
    def declared_model(self) -> str | None:
        """The id or alias of its model; None if it names none."""
        return self.model_id or (None if self.model is None else self.model.model_id)

    # Triggers

    def install(self, database: DatabaseLike) -> None:
        """Make the triggers by which the collection follows the rows, or make them anew.

        For those whose revisions do not: there it is `op.follow_rows`. What was changed before is
        found by `sync`. On a session or a connection it is a part of the caller's transaction.
        Where they are as declared it does nothing, so an application may call it as it starts. On
        an asynchronous engine: `await connection.run_sync(articles.install)`.

        Raises:
            SchemaError: The table or ours are not there, or in another file than ours on SQLite;
                or the collection follows the rows of another table.
            BindingError: The session's binds have the rows in another database than ours.
            ValueError: The condition cannot be evaluated by a trigger of this database.
        """
        _check_is_called_so(database, "install")
        self._on(database, write=True, function=triggers.install)

    def uninstall(self, database: DatabaseLike) -> None:
        """Drop the triggers, if they are there. Vectors and pending rows stay.

        Raises:
            BindingError: As of `install`.
        """
        _check_is_called_so(database, "uninstall")
        self._on(database, write=True, function=triggers.uninstall)

    def trigger_problems(self, database: DatabaseLike) -> list[str]:
        """Return what of the triggers is missing, disabled or not as declared; only reads.

        `install`, or a new revision, makes them as they are to be.

        Raises:
            BindingError: As of `install`.
        """
        _check_is_called_so(database, "trigger_problems")
        return self._on(database, write=False, function=triggers.problems)

    def _on(
        self, database: DatabaseLike, *, write: bool, function: Callable[[Connection, Self], R]
    ) -> R:
        _check_database(database)
        sessions = bind(database, self.records)
        sessions.check_has(self.mapper, self.records)
        with sessions.session(write=write) as session, hinted(sessions.dialect(self.records)):
            return function(session.connection({"mapper": self.mapper}), self)

    def _to_write(self, database: DatabaseLike) -> Reference[Key]:
        """Return the collection, unless triggers say that it follows another table."""
        self._on(database, write=False, function=triggers.check)
        return self.collection(database).reference

    # Bringing the collection up to date

    def sync(
        self,
        database: DatabaseLike,
        *,
        prune: bool = True,
        allow_empty: bool = False,
        dry_run: bool = False,
        batch_size: int = BATCH_SIZE,
        progress: Progress = None,
        on_error: OnError = "raise",
    ) -> Report:
        """Compare every row of the class with the collection, and bring in what differs.

        For the first fill, for what happened before there were triggers, and, as a dry run, as an
        audit. As `Collection.sync`, whose arguments these are.

        Raises:
            InvalidQueryError: The class has no rows that are items, and the collection has some.
            InvalidItemError: A row cannot be read, or be an item. The batches before it are
                written. With `on_error="skip"` it is in `skipped`.
            SchemaError: Triggers say that the collection follows another table. Not in a dry run.
            BindingError: The session's binds have the rows in another database than the vectors.
        """
        if dry_run:
            reference = self.collection(database).reference
            reference.sessions.check_has(self.mapper, self.records)
        else:
            reference = self._to_write(database)
        return syncing.sync(
            reference,
            self.source_rows(),
            prune=prune,
            allow_empty=allow_empty,
            dry_run=dry_run,
            batch_size=batch_size,
            progress=progress,
            on_error=on_error,
        )

    def refresh(
        self,
        database: DatabaseLike,
        *,
        concurrency: int | None = None,
        batch_size: int = BATCH_SIZE,
        limit: int | None = None,
        keys: Iterable[Key] | None = None,
        progress: Progress = None,
        on_error: OnError = "skip",
        forever: bool = False,
        stop: Stop | None = None,
    ) -> Report:
        """Embed what is pending, and return what was done; the report has what is still pending.

        On an engine any number of processes may do so at once. Each claims a batch, calls the model
        with no transaction open, and writes those rows for which nothing else is pending by then;
        the claim of one that is killed ends after a minute. It returns when nothing can be claimed
        of what was pending when it began.

        A row that the model refuses, that cannot be read, or whose key can be no id is tried five
        times, with growing pauses, and then no more before it changes. `pending` says which these
        are. If a model raises an exception of its own for each of several rows in a batch, the
        model may be at fault: they are put off too, but never given up, and it is raised.

        On a session it takes place in its transaction, the calls of the model too. With `keys` it
        brings a request's own rows up to date.

        Args:
            database: A session, a connection or an engine.
            concurrency: The most calls of the model at a time; by default what the model says. As
                many batches are claimed and written at once.
            batch_size: The most values in one call of the model.
            limit: The most items; those that were put off count, too.
            keys: Only the rows of these keys, whether they are pending or not; without `limit`,
                `progress`, `forever` and `stop`.
            progress: Called after each batch with the items done, and those pending at first.
            on_error: With "skip" a row that fails by itself is put off, and its id is in `skipped`;
                "raise" raises what it failed of. On a session an error is always raised.
            forever: Do not return, but look every second whether something is pending. A service or
                a database that is away, and a model that takes nothing, are waited for, with a
                warning in the log.
            stop: What ends it after a batch, such as a `threading.Event`.

        Raises:
            ModelError: The model's service failed. What was claimed is given back.
            InvalidQueryError: `keys` is a single key, or goes with an argument that is for all.
            InvalidItemError: One of `keys` is of another type, or `forever` is on a session.
            ValueError: A number is not positive, or `on_error` is neither of the two.
            SchemaError: Triggers say that the collection follows another table.
            BindingError: The session's binds have the rows in another database than the vectors.
            Exception: What a model of your own raises for all rows of a batch. And of one row, with
                "raise" or on a session, whatever it failed of.
        """
        collection = (
            self.collection(database).reference if keys is None else self._to_write(database)
        )
        return refreshing.refresh(
            collection,
            self.source_rows(),
            concurrency=concurrency,
            batch_size=batch_size,
            limit=limit,
            keys=keys,
            progress=progress,
            on_error=on_error,
            forever=forever,
            stop=stop,
            problems=partial(self._on, database, write=False, function=triggers.checked_problems),
        )

    def pending(self, database: DatabaseLike) -> PendingState:
        """Return how many rows are pending, since when, and which cannot be embedded and why."""
        reference = self.collection(database).reference
        with reference.work() as work:
            return Pending(reference).state(work)

    def reembed(
        self,
        database: DatabaseLike,
        model: SupportsEmbedding | str,
        *,
        batch_size: int = BATCH_SIZE,
        progress: Progress = None,
    ) -> Report:
        """Embed every row by another model, and let the collection be of that one.

        As `Collection.reembed`, with the texts of the rows: the new vectors are made beside the old
        ones, while others search, write and refresh. One transaction switches, and notes as pending
        what may have changed last, which is embedded then. It can be interrupted and called again.
        Rows that cannot be embedded are left out, and stand in `skipped`.

        A declaration that names either model goes on, until `drop_previous`. If it names none, it
        has the new one.

        Args:
            database: A session, a connection or an engine.
            model: A model that is registered, or its id or alias.
            batch_size: The most values in one call of the model.
            progress: Called with the rows compared and the rows in all; True draws a bar.

        Raises:
            InvalidQueryError: The class has no rows that are items, and the collection has some.
            ModelMismatchError: Vectors of a third model stand beside the collection.
            UnknownModelError: There is no such model.
            DoesNotExist: The collection does not exist.
            ModelError: The model failed.
            SchemaError: Triggers say that the collection follows another table.
            BindingError: The session's binds have the rows in another database than the vectors.
        """
        return reembedding.reembed(
            self._to_write(database),
            self.source_rows(),
            model,
            batch_size=batch_size,
            progress=progress,
        )

    def back(
        self,
        database: DatabaseLike,
        *,
        batch_size: int = BATCH_SIZE,
        progress: Progress = None,
    ) -> Report:
        """Let the collection be of the model that it had before `reembed`; arguments as there.

        What changed since then is embedded by that model first.

        Raises:
            DoesNotExist: The vectors of the model before are not there any more.

            And what `reembed` raises.
        """
        return reembedding.back(
            self._to_write(database),
            self.source_rows(),
            batch_size=batch_size,
            progress=progress,
        )

    def drop_previous(self, database: DatabaseLike) -> bool:
        """Delete the vectors of the model before, and return whether there were any.

        Raises:
            SchemaError, BindingError: As of `reembed`.
        """
        return beside.drop_previous(self._to_write(database))

    def acollection(self, database: AsyncDatabaseLike) -> AsyncCollection[Any]:
        """Return the `AsyncCollection`, for everything else. Nothing is read or written.

        Args:
            database: An asynchronous session, connection or engine.
        """
        from ..aio.collection import AsyncCollection  # greenlet is an extra

        _check_asynchronous(database)
        collection = AsyncCollection(
            self.name,
            database,
            model=self.model,
            model_id=self.model_id,
            key=self.key,
            chunks=self.chunks,
            records=self.records,
        )
        collection.reference.is_declared = True
        return collection

    async def async_(self, database: AsyncDatabaseLike, **options: Unpack[SyncOptions]) -> Report:
        """Compare every row of the class with the collection, as `sync`."""
        return await self.acollection(database).run(
            lambda docs: self.sync(docs.reference.sessions, **options)
        )

    async def arefresh(
        self, database: AsyncDatabaseLike, **options: Unpack[RefreshOptions]
    ) -> Report:
        """Embed what is pending, as `refresh`; `asyncio.Event` is a `stop`."""
        return await self.acollection(database).run(
            lambda docs: self.refresh(docs.reference.sessions, **options)
        )

    async def apending(self, database: AsyncDatabaseLike) -> PendingState:
        """Return what is pending, as `pending`."""
        return await self.acollection(database).run(
            lambda docs: self.pending(docs.reference.sessions)
        )

    async def areembed(
        self,
        database: AsyncDatabaseLike,
        model: SupportsEmbedding | str,
        **options: Unpack[ReembedOptions],
    ) -> Report:
        """Embed every row by another model, as `reembed`."""
        return await self.acollection(database).run(
            lambda docs: self.reembed(docs.reference.sessions, model, **options)
        )

    async def aback(self, database: AsyncDatabaseLike, **options: Unpack[ReembedOptions]) -> Report:
        """Let the collection be of the model before, as `back`."""
        return await self.acollection(database).run(
            lambda docs: self.back(docs.reference.sessions, **options)
        )

    async def adrop_previous(self, database: AsyncDatabaseLike) -> bool:
        """Delete the vectors of the model before, as `drop_previous`."""
        return await self.acollection(database).run(
            lambda docs: self.drop_previous(docs.reference.sessions)
        )

    # Searching

    def nearest(
        self,
        database: DatabaseLike,
        text: Content,
        rows: Select[*tuple[Any, ...]] | None = None,
        number: int = 10,
        *,
        pending: Stale = "include",
        **filters: Unpack[Filters],
    ) -> list[Nearest[M]]:
        """Return the instances nearest in meaning to a text, each with its score, best first.

            articles.nearest(session, "how to sleep", select(Article).where(Article.lang == "en"))

        Only rows that are there and meet the condition of the declaration, whatever the vectors
        say. A row that is pending is found by the vector that it had. With `words=` each has a
        `rank` after its score, from 1, by which they are in order.

        Args:
            database: A session, whose objects the instances are; with an engine they are detached.
            text: What to search for, not empty.
            rows: A SELECT of the class, with conditions, joins and options of your own; all of them
                hold before the best are taken. It has no order and no limit of its own; where it
                groups, it does so by the key; where it locks, `with_for_update(of=...)` names the
                class. By default all rows.
            number: The most results.
            pending: With "exclude" rows whose vector is not up to date are left out.
            **filters: As in `Collection.similar`, but `among`, which `rows` is.

        Raises:
            InvalidQueryError: The text is empty, or an argument means nothing, as a `where` about
                metadata that the declaration does not keep.
            BindingError: The session's binds have the rows in another database than the vectors.
        """
        return self._nearest(self.collection(database), text, rows, number, pending, filters)

    def related(
        self,
        database: DatabaseLike,
        instance: M,
        rows: Select[*tuple[Any, ...]] | None = None,
        number: int = 10,
        *,
        pending: Stale = "include",
        **filters: Unpack[Filters],
    ) -> list[Nearest[M]]:
        """Return the instances nearest to another one, without it; none if that has no vector.

        Arguments and errors as of `nearest`.
        """
        return self._related(self.collection(database), instance, rows, number, pending, filters)

    async def anearest(
        self,
        database: AsyncDatabaseLike,
        text: Content,
        rows: Select[*tuple[Any, ...]] | None = None,
        number: int = 10,
        *,
        pending: Stale = "include",
        **filters: Unpack[Filters],
    ) -> list[Nearest[M]]:
        """Return what `nearest` returns, on an asynchronous session or engine."""
        return await self.acollection(database).run(
            lambda docs: self._nearest(docs, text, rows, number, pending, filters)
        )

    async def arelated(
        self,
        database: AsyncDatabaseLike,
        instance: M,
        rows: Select[*tuple[Any, ...]] | None = None,
        number: int = 10,
        *,
        pending: Stale = "include",
        **filters: Unpack[Filters],
    ) -> list[Nearest[M]]:
        """Return what `related` returns, on an asynchronous session or engine."""
        return await self.acollection(database).run(
            lambda docs: self._related(docs, instance, rows, number, pending, filters)
        )

    def _nearest(
        self,
        docs: Collection[Any],
        text: Content,
        rows: Select[*tuple[Any, ...]] | None,
        number: int,
        pending: Stale,
        filters: Filters,
    ) -> list[Nearest[M]]:
        check_filters("nearest", filters, of_rows=True)
        docs.reference.sessions.check_has(self.mapper, self.records)
        find = partial(docs.matches, text, number)
        return near.nearest(self, docs, rows, pending, filters, find)

    def _related(
        self,
        docs: Collection[Any],
        instance: M,
        rows: Select[*tuple[Any, ...]] | None,
        number: int,
        pending: Stale,
        filters: Filters,
    ) -> list[Nearest[M]]:
        check_filters("related", filters, of_rows=True)
        docs.reference.sessions.check_has(self.mapper, self.records)
        key = near.key_of_instance(self, instance)
        if not docs.reference.keys.usable([key]):
            return []
        find = partial(docs.matches_by_id, key, number)
        return near.nearest(self, docs, rows, pending, filters, find)

    # What the rows say, for those who write

    @property
    def mapper(self) -> Mapper[M]:
        """The mapper of the class."""
        mapper: Mapper[M] = inspect(self.source)
        return mapper

    @property
    def reads_instances(self) -> bool:
        """Whether the text is a function of an instance, and so not to be had in SQL."""
        return callable(self.text)

    def rows(self) -> Select[Any]:
        """Return the SELECT of the rows that are items, in no order.

        It has (key, columns of the text, columns of the metadata); where the text is a function,
        the instance alone, also of rows without a text.
        """
        rows = select(self.source) if self.reads_instances else self._select_columns()
        return rows if (condition := self.condition) is None else rows.where(condition)

    def _select_columns(self) -> Select[Any]:
        return select(self.key, *self.columns, *self.metadata).select_from(self.source)

    def source_rows(self) -> Rows:
        """Return the rows that are items, with their texts, for those who compare and embed."""
        locked = host_column(self.key.expression)
        keys, text = keys_of(self.key), self.text_in_sql
        if text is None:
            made = TextsInPython(self.rows(), *self._readers(), self.item_of, self._is_joined)
            named: dict[str, ColumnElement[Any]] = {
                column.key: column.expression.label(f"metadata_{at}")
                for at, column in enumerate(self.metadata)
            }
            return Rows(self.key.expression, made, named or None, keys, locked, self.store)
        statement = self._select_columns().with_only_columns(
            self.key.label("key"),
            text.label("text"),
            *(column.label(f"metadata_{at}") for at, column in enumerate(self.metadata)),
        )
        if (condition := self.condition) is not None:
            statement = statement.where(condition)
        key, text, *values = statement.subquery().columns
        names = [column.key for column in self.metadata]
        metadata: dict[str, ColumnElement[Any]] = dict(zip(names, values, strict=True))
        return Rows(key, text, metadata or None, keys, locked, self.store, have_text=True)

    def _readers(self) -> tuple[Callable[[Row[Any]], Any], Callable[[Row[Any]], str]]:
        """Return what reads the key, and what reads the text, of a row of `rows`."""
        if self.reads_instances:
            key_of, text_of = attrgetter(self.key.key), self.text_of
            return lambda row: key_of(row[0]), lambda row: text_of(row[0])
        until = 1 + len(self.columns)
        return itemgetter(0), lambda row: _joined(row[1:until])

    @property
    def _is_joined(self) -> bool:
        """Whether instances are loaded with relations by a join, as the class says."""
        loaded = (
            relation.lazy
            for mapper in self.mapper.self_and_descendants
            for relation in mapper.relationships
        )
        return self.reads_instances and not {"joined", False}.isdisjoint(loaded)

    @property
    def condition(self) -> ColumnElement[bool] | None:
        """The condition that a row is an item; None if every row is, as far as SQL can tell."""
        conditions = [] if self.where is None else [self.where]
        if not self.reads_instances and not any(map(_is_decorated, self.columns)):
            conditions.append(or_(*(column != "" for column in self.columns)))
        return and_(*conditions) if conditions else None

    @property
    def text_in_sql(self) -> ColumnElement[str] | None:
        """The text of a row in SQL; None where it is a function, or a type changes the values."""
        if self.reads_instances or any(map(_is_decorated, self.columns)):
            return None
        return JoinedTexts(*self.columns)

    def item_of(self, row: Row[Any]) -> tuple[Any, str, Metadata | None]:
        """Return the key, the text and the metadata of a row of `rows`; "" if there is no text."""
        if callable(self.text):
            instance = row[0]
            values = tuple(getattr(instance, column.key) for column in self.metadata)
            return getattr(instance, self.key.key), self.text_of(instance), self._named(values)
        key, values = row[0], row[1:]
        texts, metadata = values[: len(self.columns)], values[len(self.columns) :]
        return key, _joined(texts), self._named(metadata)

    def text_of(self, instance: M) -> str:
        """Return the text of an instance; "" if there is none.

        Raises:
            InvalidItemError: The function returned something else than a text.
        """
        if not callable(self.text):
            return _joined([getattr(instance, column.key) for column in self.columns])
        text = self.text(instance)
        if text is not None and not isinstance(text, str):
            key = getattr(instance, self.key.key)
            raise InvalidItemError(
                f"The text of {self.source.__name__} {key!r} must be a str or None, not "
                f"{type(text).__name__}: text= of {self!r}"
            )
        return text or ""

    def _named(self, values: Sequence[Any]) -> Metadata | None:
        if not self.metadata:
            return None
        named = zip(self.metadata, values, strict=True)
        return {column.key: of_column(column, value) for column, value in named}


def _check_database(database: object) -> None:
    """Do nothing if it may have the rows of a class, as a session, a connection or an engine."""
    if database is None or isinstance(database, str | bytes | PathLike | URL):
        raise TypeError(
            "The first argument is the database that has the rows: a session, a connection or an "
            f"engine, not {type(database).__name__}"
        )
    if is_asynchronous(database):
        raise BindingError(
            f"An {type(database).__name__} is asynchronous: await arefresh(), anearest(), async_() "
            "and the others that begin with an a; its collection is acollection()"
        )


def _check_is_called_so(database: object, method: str) -> None:
    """Do nothing if a method that is not there to be awaited was given no asynchronous database."""
    if is_asynchronous(database):
        raise BindingError(
            f"An {type(database).__name__} is asynchronous, and there is no a{method}(): async "
            "with engine.begin() as connection: await connection.run_sync("
            f"articles.{method}), for a declaration that is called articles"
        )


def _check_asynchronous(database: object) -> None:
    """Do nothing unless it works synchronously."""
    if isinstance(database, Session | scoped_session | Connection | Engine | sessionmaker):
        raise BindingError(
            f"A database of the kind {type(database).__name__} is not asynchronous: use refresh(), "
            "nearest(), sync() and the others without an a; its collection is collection()"
        )


def _columns_of_text(
    mapper: Mapper[Any], text: object, columns: object
) -> tuple[QueryableAttribute[Any], ...]:
    if callable(text) and not hasattr(text, "__clause_element__"):
        check_is_called(text)
        if not columns:
            raise TypeError(
                "Name what the function text= reads: columns=[...]. A change of these columns is "
                "what makes the row pending"
            )
        return attributes_of(mapper, columns, "columns")  # type: ignore[arg-type]
    if columns is not None:
        raise TypeError("columns= goes with a function as text=; text=[...] names them itself")
    named = attributes_of(mapper, text, "text")  # type: ignore[arg-type]
    if not named:
        raise ValueError("text must name at least one column")
    for at, column in enumerate(named):
        kind = column.type.impl_instance if isinstance(column.type, TypeDecorator) else column.type
        if not isinstance(kind, String) or isinstance(kind, Enum | Uuid):
            raise TypeError(
                f"text[{at}]: {mapper.class_.__name__}.{column.key} is no text but "
                f"{type(column.type).__name__}. Give a function of an instance: text=function, "
                "columns=[what it reads]"
            )
    return named


def _columns_of_metadata(
    mapper: Mapper[Any], metadata: Sequence[Any]
) -> tuple[QueryableAttribute[Any], ...]:
    named = attributes_of(mapper, metadata, "metadata")
    for at, column in enumerate(named):
        if _python_type(column) in {bytes, timedelta}:
            raise TypeError(
                f"metadata[{at}]: {mapper.class_.__name__}.{column.key} is of the type "
                f"{type(column.type).__name__}, which JSON cannot hold: leave it out, or keep it "
                "as a text or a number in a column of its own"
            )
    return named


def _python_type(column: QueryableAttribute[Any]) -> type[Any] | None:
    """Return the type of a column's values, as far as that is known."""
    try:
        kind: type[Any] = column.type.python_type
    except NotImplementedError:
        return None
    return kind


def _is_decorated(column: QueryableAttribute[Any]) -> bool:
    return isinstance(column.type, TypeDecorator)


def _joined(texts: Sequence[str | None]) -> str:
    return BETWEEN.join(text for text in texts if text)

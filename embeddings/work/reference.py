"""Which collection is meant, and how it is reached.

`Reference.work` opens a `Work` for one operation.
"""

from __future__ import annotations

import functools
import random
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

from sqlalchemy import select, update
from sqlalchemy.exc import DBAPIError

from .. import databases, errors
from ..errors import InvalidItemError, ModelMismatchError, ModelRequiredError
from ..keys import K
from ..models import registry
from ..tables.beside import names_beside, stands_beside
from ..tables.ours import advice_of, explain
from .operation import Work, one_bind
from .row import ROWS, CollectionRow, shown_chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ..databases.base import Database
    from ..keys import Keys
    from ..models.base import Content, Role, SupportsEmbedding
    from ..sessions.base import Sessions
    from ..tables.records import Records
    from ..vectors import Float32
    from ..writing.chunks import Chunks


PAUSES = (0.01, 0.05, 0.2, 0.5)  # seconds before an own transaction is tried again, about
P = ParamSpec("P")
T = TypeVar("T")


def retried(
    operation: Callable[Concatenate[Reference[Any], P], T],
) -> Callable[Concatenate[Reference[Any], P], T]:
    """Let an operation in one transaction of our own be tried again, where the database asks to.

    That is where others have come between or wait for each other in a ring. In a caller's
    transaction there is more to be done again than is known here.
    """

    @functools.wraps(operation)
    def tried(collection: Reference[Any], /, *args: P.args, **options: P.kwargs) -> T:
        for pause in PAUSES if collection.sessions.owns_transactions else ():
            try:
                return operation(collection, *args, **options)
            except DBAPIError as error:
                if not collection.database.asks_to_try_again(error):
                    raise
            collection.sessions.runtime.pause(pause * random.uniform(0.5, 1.5))  # noqa: S311
        return operation(collection, *args, **options)

    return tried


@dataclass(eq=False)
class Reference(Generic[K]):
    """Which collection is meant: its name, the model that it was given, how it is reached.

    Of the row nothing is remembered here: each operation reads it in the transaction in which it
    acts, or, if it is a search, has a remembered one confirmed by the statement that answers.

    Attributes:
        name: The name.
        sessions: How its database is reached.
        records: The mapped classes.
        keys: The type of the caller's ids.
        model: The model object that it was given.
        model_id: Or the id or alias of one.
        create: Whether the collection is created if it does not exist.
        content_hash: What equal contents are recognised by.
        chunks: How its texts are to be cut.
        renamed: Former names, each with the id of the row.
        is_deleted: Whether it was deleted through this object, which never creates it again.
        brought: Model objects of `reembed`, by their ids.
        is_declared: Whether a `ModelCollection` stands behind it, whose rows triggers may follow.
    """

    name: str
    sessions: Sessions
    records: Records
    keys: Keys[K]
    model: SupportsEmbedding | None
    model_id: str | None
    create: bool
    content_hash: Callable[[Content], bytes]
    chunks: Chunks | None = None
    renamed: list[tuple[str, int]] = field(default_factory=list)
    is_deleted: bool = False
    brought: dict[str, SupportsEmbedding] = field(default_factory=dict)
    is_declared: bool = False

    @contextmanager
    def work(self, *, write: bool = False) -> Iterator[Work]:
        """Yield one operation's work; its transaction ends with it if it is this library's own."""
        with (
            self.sessions.session(write=write) as session,
            one_bind(session, self.records, write=write),
        ):
            work = Work(
                session,
                self.records,
                is_exclusive=write and self.sessions.is_exclusive,
                runtime=self.sessions.runtime,
            )
            try:
                if write and not work.is_exclusive:
                    work.database.begin_writing(work)
                yield work
                if write and work.has_row and self.sessions.owns_transactions:
                    work.database.finish_writing(work)
            except DBAPIError as error:
                explain(error, work)
                raise

    @contextmanager
    def look(self) -> Iterator[Work]:
        """Yield work to read in before a model is called.

        A session of the caller's that has no connection out has none afterwards.
        """
        with self.sessions.look(self.records) as (session, reads_anew):
            work = Work(session, self.records)
            try:
                yield work
            except DBAPIError as error:
                explain(error, work)
                raise
            if work.has_row:
                ROWS.put(work, work.row, committed=reads_anew)

    @property
    def database(self) -> Database:
        """What the database does its own way; nothing is connected."""
        return databases.of(self.sessions.dialect(self.records))

    # Ids

    def id_of(self, key: object, what: str = "", position: int | None = None) -> str:
        """Return the stored id of a key.

        Args:
            key: In the type of the collection's keys.
            what: Of which argument it is a part, for an error.
            position: Where in it, from 0.

        Raises:
            InvalidItemError: It cannot be one.
        """
        try:
            id = self.keys.to_text(key)
            if self.keys.exceeds_column(id) and not self.database.has_wide_integers:
                raise InvalidItemError(
                    f"The id {id} is beyond the range of {type(self.keys.sql_type).__name__}, the "
                    "type of the column that was given as key="
                )
        except InvalidItemError as error:
            if position is None:
                raise
            raise InvalidItemError(f"{what}[{position}]: {error}") from None
        return id

    def ids_of(self, keys: Iterable[object], what: str, start: int = 0) -> list[str]:
        """Return the stored ids of keys, of which the first stands at `start`: see `id_of`."""
        keys = list(keys)
        texts = self.keys.to_texts(keys)
        if texts is not None:
            return texts
        return [self.id_of(key, what, position) for position, key in enumerate(keys, start)]

    def id_not_found(self, id: str) -> errors.DoesNotExist:
        """Return the error that says that there is no item of this stored id."""
        key = self.keys.from_text(id)
        return errors.DoesNotExist(f"ID not found: {key!r} in collection {self.name!r}")

    # The row

    def find(self, work: Work, *, to_search: bool = False) -> CollectionRow | None:
        """Return the collection's row, read now, or None where it may be created.

        Args:
            work: Whose row it becomes.
            to_search: Read what `Database.search` needs to know: see `Database.row_to_search`.

        Raises:
            DoesNotExist: There is none, and the collection is not to be created.
            ModelMismatchError: The row is of another model than was given.
        """
        read = work.database.row_to_search if to_search else Work.row_named
        row = read(work, self.name) if work.sees_collection(self.name) else None
        if self.renamed and (row is None or row.id != self.renamed[-1][1]):
            row = self._before_renaming(work) or row
        if row is None and not self.create:
            raise self.does_not_exist()
        if row is not None:
            if self._differs(row):
                row = row._replace(others=self.models_beside(work))
            is_new_to_it = self.model_id_of(row) != row.model_id or self._takes_chunks(row)
            if is_new_to_it and to_search:
                return self.find(work)  # only a collection without vectors takes another model
            work.row = row
        return row

    def models_beside(self, work: Work) -> frozenset[str]:
        """Return the models of the collection and of what stands beside it, read now.

        Its own may be another by now than that of a row that was read before.
        """
        columns = self.records.collections.c
        names = (self.name, *names_beside(self.name))
        models = select(columns.model).where(columns.name.in_(names))
        return frozenset(map(registry.canonical_id, work.run(models).scalars()))

    def _before_renaming(self, work: Work) -> CollectionRow | None:
        """Return the row under a former name, and take that name again: it was rolled back."""
        for position, (name, id) in reversed(list(enumerate(self.renamed))):
            row = work.row_named(name)
            if row is not None and row.id == id:
                self.name = name
                del self.renamed[position:]
                return row
        return None

    def existing(self, work: Work) -> CollectionRow:
        """Return the collection's row.

        Raises:
            DoesNotExist: There is none.
        """
        row = self.find(work)
        if row is None:
            raise self.does_not_exist()
        return row

    def row_of(self, work: Work, suffix: str = "") -> CollectionRow:
        """Return the collection's row, read now, in the work of another collection.

        Args:
            work: Whose row stays.
            suffix: Of the name of what stands beside it, to have that one's row.

        Raises:
            DoesNotExist: There is none.
        """
        row = work.row_named(self.name + suffix)
        if row is None:
            raise self.does_not_exist()
        return row

    def find_to_write(self, work: Work) -> CollectionRow | None:
        """Return the row as `find` does, and keep it from being deleted until the transaction ends.

        Whoever waited for it with rows written already would wait in a ring: a deletion locks the
        collection first, then its rows.
        """
        is_kept = work.database.lock_to_write(work, self.name)
        row = self.find(work)
        if is_kept or row is None:
            return row
        # It was created since then, or is under a former name again.
        work.database.lock_to_write(work, self.name)
        return self.find(work)

    def existing_to_write(self, work: Work) -> CollectionRow:
        """Return the row as `find_to_write` does.

        Raises:
            DoesNotExist: There is none.
        """
        row = self.find_to_write(work)
        if row is None:
            raise self.does_not_exist()
        return row

    def find_or_create(self, work: Work, model_id: str | None = None) -> CollectionRow:
        """Return the row, created if need be, with that model or the collection's own.

        Other writers are kept out of an empty collection, whose first vector settles the
        dimensions of all; of others as far as the database needs it. A collection without rows
        takes another model than it was made with, and another setting of chunks.

        Raises:
            ChunksMismatchError: The collection was given another setting, and has rows.
        """
        row = self.find_to_write(work)
        if row is None:
            self.refuse_if_deleted()
            name = model_id or self.model_id_of(None)
            work.database.insert_collection(work, self.name, name)
            row = self.existing_to_write(work)  # which may be another's by now
        self.check_chunks(row)
        if row.vector_bytes is None:
            row = work.database.settle_dimensions(work, self)
            row = self._with_model(work, row, model_id or self.model_id_of(row))
            work.row = row
            # It has the dimensions of its index, or of another writer's rows, by now.
            if self.chunks is not None and self._differs_in_chunks(row):
                self._check_is_empty(work, row)
                work.database.set_chunk_setting(work, self.chunks.setting)
                row = work.row = row._replace(chunks=self.chunks.setting)
        return row

    def _with_model(self, work: Work, row: CollectionRow, model_id: str) -> CollectionRow:
        """Return the row of a collection that seems to have no embeddings, with that model."""
        if model_id == row.model_id or model_id == registry.canonical_id(row.model_id):
            return row
        if self._has_rows(work, row):  # their vectors are corrupt
            raise ModelMismatchError(self.name, row.model_id, model_id)
        entity = self.records.collection
        work.run(update(entity).where(entity.id == row.id).values({entity.model: model_id}))
        return row._replace(model_id=model_id)

    def chunk_setting_of(self, row: CollectionRow | None) -> str | None:
        """Return how texts are cut that are written to a row, or to a collection that is to be.

        Raises:
            ChunksMismatchError: The collection was given another setting, and has vectors.
        """
        if row is not None:
            self.check_chunks(row)
        if self.chunks is not None and (row is None or self._takes_chunks(row)):
            return self.chunks.setting
        return None if row is None else row.chunks

    def check_chunks(self, row: CollectionRow) -> None:
        """Do nothing if texts may be written: to read and to delete takes no setting.

        Raises:
            ChunksMismatchError: The collection was given another setting, and has vectors.
        """
        if self.has_other_chunks(row):
            raise self._other_chunks(row)

    def has_other_chunks(self, row: CollectionRow) -> bool:
        """Return whether the texts are cut in another way than was given, and there are vectors."""
        return self._differs_in_chunks(row) and row.vector_bytes is not None

    def _takes_chunks(self, row: CollectionRow) -> bool:
        """Return whether the texts of an empty collection are to be cut in another way."""
        return self._differs_in_chunks(row) and row.vector_bytes is None

    def _differs_in_chunks(self, row: CollectionRow) -> bool:
        return self.chunks is not None and self.chunks.setting != row.chunks

    def _other_chunks(self, row: CollectionRow) -> errors.ChunksMismatchError:
        given = (
            "" if self.chunks is None else f", and was given {shown_chunks(self.chunks.setting)}"
        )
        return errors.ChunksMismatchError(
            f"Collection {self.name!r} has {shown_chunks(row.chunks)}{given}. What was stored is "
            "not cut anew: give the setting that it has, or embed the texts in a new collection, "
            "or delete its items first, as by delete_items(ids())"
        )

    def take_chunks(self, work: Work, setting: str | None) -> None:
        """Let an empty collection have another setting of chunks.

        Raises:
            ChunksMismatchError: It is not empty, or was given another one.
        """
        copied = f"and what is copied to it has {shown_chunks(setting)}"
        if self.chunks is not None and self.chunks.setting != setting:
            raise errors.ChunksMismatchError(
                f"Collection {self.name!r} was given {shown_chunks(self.chunks.setting)}, "
                f"{copied}: open it without chunks="
            )
        if self._has_rows(work, work.row):
            raise errors.ChunksMismatchError(
                f"Collection {self.name!r} has {shown_chunks(work.row.chunks)}, {copied}: copy to "
                "a new collection, or delete its items first, as by delete_items(ids())"
            )
        work.database.set_chunk_setting(work, setting)
        work.row = work.row._replace(chunks=setting)

    def _check_is_empty(self, work: Work, row: CollectionRow) -> None:
        """Do nothing if a collection that seems to have no embeddings has none.

        Raises:
            ChunksMismatchError: It has some.
        """
        if self._has_rows(work, row):
            raise self._other_chunks(row)

    def _has_rows(self, work: Work, row: CollectionRow) -> bool:
        embedding = self.records.embedding
        rows = select(embedding.collection_id).where(embedding.collection_id == row.id).limit(1)
        return work.run(rows).first() is not None

    def remembered(self, work: Work) -> CollectionRow | None:
        """Return what `find` would in all likelihood, without a statement, or None."""
        if work.has_listeners:
            return None
        row = self._acceptable(ROWS.get(work.bind, self.records, self.name))
        if row is None or not work.database.confirms(row):
            return None
        work.row = row
        return row

    def last_known(self) -> CollectionRow | None:
        """Return the row that `look` found at last, unless somebody else may take it back.

        Nothing is connected.
        """
        bind, transaction = self.sessions.bind(self.records), self.sessions.transaction()
        return self._acceptable(ROWS.known(bind, self.records, self.name, transaction))

    def _acceptable(self, row: CollectionRow | None) -> CollectionRow | None:
        if row is None or self.renamed:
            return None
        try:
            self.model_id_of(row)
        except ModelMismatchError:
            return None
        return None if self._takes_chunks(row) else row

    def forget(self) -> None:
        """Remember nothing of the name: what was remembered did not hold."""
        ROWS.forget(self.sessions.bind(self.records), self.records, self.name)

    def refuse_if_deleted(self) -> None:
        """Do nothing unless the collection was deleted through this object.

        Raises:
            DoesNotExist: It was.
        """
        if self.is_deleted:
            raise self.does_not_exist()

    def does_not_exist(self) -> errors.DoesNotExist:
        """Return the error that says so."""
        return errors.DoesNotExist(f"Collection {self.name!r} does not exist")

    # The model

    def model_id_of(self, row: CollectionRow | None) -> str:
        """Return the id of the model of a row, or of a collection that is yet to be created.

        Raises:
            ModelMismatchError: The collection was given another model, and has vectors.
            ModelRequiredError: There is no row, and no model was given.
        """
        if row is not None:
            canonical = self._differs(row)
            if canonical is not None and canonical not in row.others:
                if row.vector_bytes is None:
                    return canonical
                raise ModelMismatchError(self.name, row.model_id, canonical)
            return row.model_id
        if self.model is not None:
            return self.model.model_id
        name = self.model_id or registry.default_model_name()
        if name is None:
            refusal = ModelRequiredError()
            if self.is_declared:
                default = advice_of(self.sessions.bind(self.records)).default_model
                refusal.advise(f"The declaration may name it, or for all of them {default}")
            raise refusal
        return registry.canonical_id(name)

    def _differs(self, row: CollectionRow) -> str | None:
        """Return the id of the model that was given, if it is another than the row's."""
        given = self._given_model_id()
        if given is None or given == row.model_id:
            return None
        # Aliases are for names: an object has the id that it has.
        canonical = registry.canonical_id(given) if self.model is None else given
        is_same = canonical in {row.model_id, registry.canonical_id(row.model_id)}
        return None if is_same else canonical

    def _given_model_id(self) -> str | None:
        return self.model_id or (self.model.model_id if self.model is not None else None)

    def other_model(self, work: Work) -> tuple[str, str] | None:
        """Return the model that the collection has and the one that it is to have, if they differ.

        That is the one that was given, or the application's default.
        """
        row, wanted = work.row_named(self.name), self._given_model_id()
        wanted = wanted or registry.default_model_name()
        if row is None or wanted is None or stands_beside(self.name):
            return None
        wanted = registry.canonical_id(wanted)
        is_same = wanted in {row.model_id, registry.canonical_id(row.model_id)}
        return None if is_same else (row.model_id, wanted)

    def other_chunks(self, work: Work) -> tuple[str | None, str] | None:
        """Return how the texts are cut and how they are to be, if that is not the same."""
        row = work.row_named(self.name)
        if row is None or self.chunks is None or not self.has_other_chunks(row):
            return None
        return row.chunks, self.chunks.setting

    def accept(self, row: CollectionRow) -> None:
        """Be of a row's model from now on, if another one was given."""
        if self._differs(row) is not None:
            self.model, self.model_id = None, row.model_id

    def check_model_id(self, model_id: str) -> None:
        """Do nothing unless the collection was given another model.

        Raises:
            ModelMismatchError: It was.
        """
        given = self._given_model_id()
        if given is not None and not registry.is_one_model(given, model_id):
            raise ModelMismatchError(self.name, registry.canonical_id(given), model_id)

    def model_of(self, row: CollectionRow | None) -> SupportsEmbedding:
        """Return the model of a row, or of a collection that is yet to be created.

        Raises:
            UnknownModelError: No model of its id is registered.

            And what `model_id_of` raises.
        """
        model_id = self.model_id_of(row)
        if model_id in self.brought:
            return registry.substituted(self.brought[model_id])
        if self.model is not None and (row is None or self._differs(row) not in row.others):
            return registry.substituted(self.model)
        return registry.get_embedding_model(model_id)

    def known_model(self) -> SupportsEmbedding:
        """Return the model, with nothing left checked out that was not before."""
        if self.model is not None:
            return registry.substituted(self.model)
        if self.model_id is not None:
            return registry.get_embedding_model(self.model_id)
        row = self.last_known()
        if row is None:
            with self.look() as work:
                row = self.find(work)
        return self.model_of(row)

    def read_model(self, *, to_write: bool = True) -> SupportsEmbedding:
        """Return the model, as the collection's row has it.

        Args:
            to_write: Whether it is to make vectors that are written.

        Raises:
            ChunksMismatchError: Which cannot be, because their texts are cut in another way.
        """
        with self.work() as work:
            row = self.find(work)
        if row is not None and to_write:
            self.check_chunks(row)
        return self.model_of(row)

    def embed(
        self, model: SupportsEmbedding, items: list[Any], role: Role = "document"
    ) -> list[Float32]:
        """Return the vectors of items, checked. No transaction of ours is open meanwhile."""
        return self.sessions.runtime.embed(model, items, role)

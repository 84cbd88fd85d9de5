"""The repository: one named collection of embeddings, and every operation on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast, overload

from sqlalchemy import delete, func, select, true, update
from sqlalchemy.orm import joinedload

from .indexable import Indexable
from .keys import K, keys_of
from .models import registry
from .models.base import check_model
from .searchable import Searchable
from .sessions.binding import bind, bind_for_reading
from .sql import changed, lock_collection, run, starts_with
from .tables.ours import explained, missing_tables
from .tables.records import RECORDS, EmbeddingRecord, Records
from .writable import Writable
from .writing.items import checked_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import QueryableAttribute

    from .keys import Key
    from .models.base import EmbeddingModel, SupportsEmbedding
    from .sessions.binding import Database

PAGE = 500  # records held at a time while iterating


class Collection(Writable[K], Searchable[K], Indexable[K]):
    """A named group of embeddings that one model made, stored in two tables of your database.

    On a `Session`, a `scoped_session` or a `Connection` every operation joins the caller's
    transaction: nothing here commits, rolls back or closes. Nothing is read or written before the
    first operation, and the first write creates the collection.

    On an `Engine` or a `sessionmaker` it is as lazy, and every batch is a transaction of its own,
    none of which is open while the model runs.

    On a path, a URL, a `sqlite_utils.Database` or, for a database in memory, nothing, the database
    is opened and migrated and the collection created at once. It is closed with `close()`, at the
    end of a `with`, or when the collection is garbage.

    Args:
        name: Unique in the database.
        db: The database, as above.
        model: A model object.
        model_id: Or the id or alias of one; wins if both are given. With neither, an existing
            collection uses the model it was made with, and a new one the application's default.
        create: Whether to create the collection if it does not exist.
        key: The type of your ids: `str`, `int`, `uuid.UUID`, or a mapped column such as
            `Article.id`. Ids are taken and returned in this type. With `str`, integers are
            accepted too and come back as strings.
        records: Which tables.

    Raises:
        DoesNotExist: There is no such collection, and `create` is false.
        ModelRequiredError: There is no such collection, and no model to create it with.
        ModelMismatchError: The collection holds the vectors of another model.
        SchemaError: The tables are missing: call `migrate`.

        On a session or an engine these come with the first operation.
    """

    @overload
    def __init__(
        self: Collection[str],
        name: str,
        db: Database = None,
        *,
        model: SupportsEmbedding | None = None,
        model_id: str | None = None,
        create: bool = True,
        records: Records = RECORDS,
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        db: Database = None,
        *,
        model: SupportsEmbedding | None = None,
        model_id: str | None = None,
        create: bool = True,
        key: type[K] | QueryableAttribute[K],
        records: Records = RECORDS,
    ) -> None: ...
    def __init__(
        self,
        name: str,
        db: Database = None,
        *,
        model: SupportsEmbedding | None = None,
        model_id: str | None = None,
        create: bool = True,
        key: Any = str,
        records: Records = RECORDS,
    ) -> None:
        if model is not None:
            check_model(model)
        super().__init__(
            checked_name(name),
            bind(db, records),
            model=model,
            model_id=model_id,
            create=create,
            keys=keys_of(key),
            records=records,
        )
        if self._binding.eager:
            self._create_at_once()

    def _create_at_once(self) -> None:
        with self._session(write=False) as session:  # which waits for nobody
            if self._find(session) is not None:
                return
        # A model that nobody can call may be meant, or mistyped: then the first write tells.
        if self._model is not None or registry.is_known(self._model_id_of(None)):
            with self._session(write=True) as session:
                self._find_or_create(session)

    # What the collection is

    @property
    def name(self) -> str:
        """The name, unique in the database."""
        return self._name

    @property
    def id(self) -> int:
        """The id of the collection's row.

        Raises:
            DoesNotExist: There is no row yet: the first write creates it.
        """
        with self._session() as session:
            return self._existing(session).id

    @property
    def model_id(self) -> str:
        """The id of the collection's model, never an alias.

        Raises:
            ModelRequiredError: The collection does not exist, and nothing says which model it is
                to have.
        """
        with self._session() as session:
            return self._model_id_of(self._find(session))

    def model(self) -> EmbeddingModel:
        """Return the collection's model.

        Raises:
            UnknownModelError: The collection was made by a model that is not registered here.
            ModelRequiredError: As `model_id`.
        """
        return cast("EmbeddingModel", self._read_model())

    def count(self) -> int:
        """Return the number of items; 0 if the collection does not exist yet."""
        columns = self._records.embeddings.c
        with self._session() as session:
            found = self._find(session)
            if found is None:
                return 0
            statement = select(func.count()).where(columns.collection_id == found.id)
            return int(run(session, self._records, statement).scalar_one())

    def __len__(self) -> int:
        return self.count()

    def __bool__(self) -> bool:
        return True  # an empty collection is still one

    def __repr__(self) -> str:
        return f"<Collection {self._name!r}>"

    # The collection as a whole

    def rename(self, name: str) -> None:
        """Give the collection another name.

        Raises:
            DoesNotExist: The collection does not exist.
            ValueError: Another collection has the name.
        """
        checked_name(name)
        entity = self._records.collection
        with self._session(write=True) as session:
            found = self._existing(session)
            if self._row_named(session, name) not in {None, found}:
                raise ValueError(f"Collection {name!r} already exists")
            statement = update(entity).where(entity.id == found.id).values({entity.name: name})
            run(session, self._records, statement)
        self._renamed.append((self._name, found.id))
        self._name = name

    def delete(self) -> None:
        """Delete the collection and its embeddings. This object will not create it again.

        Raises:
            DoesNotExist: It does not exist.
        """
        entity, collection = self._records.embedding, self._records.collection
        with self._session(write=True) as session:
            found = self._existing(session)
            lock_collection(session, self._records, found.id)
            items = delete(entity).where(entity.collection_id == found.id)
            changed(session, self._records, items)
            self._drop_index_of(session, found)
            itself = delete(collection).where(collection.id == found.id)
            changed(session, self._records, itself)
        self._drop_index_left(found)
        self._deleted = True

    # Reading

    def get(self, id: Key) -> EmbeddingRecord | None:
        """Return an item's record, or None.

        On a session it is an object of that session; else it is detached, with its collection.
        """
        text = self._keys.to_text(id)
        entity = self._records.embedding
        with self._session() as session:
            found = self._find(session)
            if found is None:
                return None
            statement = (
                select(entity)
                .options(joinedload(entity.collection))
                .where(entity.collection_id == found.id, entity.id == text)
            )
            record: EmbeddingRecord | None = run(session, self._records, statement).scalar()
            return record

    def __contains__(self, id: object) -> bool:
        text = self._keys.to_text(id)
        columns = self._records.embeddings.c
        with self._session() as session:
            found = self._find(session)
            if found is None:
                return False
            statement = select(columns.id).where(
                columns.collection_id == found.id, columns.id == text
            )
            return run(session, self._records, statement).first() is not None

    def __iter__(self) -> Iterator[EmbeddingRecord]:
        """Yield every record, in the order of the stored ids, a page at a time."""
        last: str | None = None
        while records := self.page_after(last):
            yield from records
            if len(records) < PAGE:
                return
            last = records[-1].id

    def page_after(self, last: str | None = None) -> list[EmbeddingRecord]:
        """Return the first 500 records in the order of the stored ids, or those after an id.

        Args:
            last: A stored id; the page before this one ended with it.
        """
        entity = self._records.embedding
        with self._session() as session:
            found = self._find(session)
            if found is None:
                return []
            is_next = entity.id.is_not(None) if last is None else entity.id > last
            page = (
                select(entity)
                .options(joinedload(entity.collection))
                .where(entity.collection_id == found.id, is_next)
                .order_by(entity.id)
                .limit(PAGE)
            )
            return list(run(session, self._records, page).scalars())

    def ids(self, prefix: str | None = None) -> list[K]:
        """Return the ids, in the order in which they are stored.

        Args:
            prefix: Only those that begin with it, literally and in the same case.
        """
        columns = self._records.embeddings.c
        with self._session() as session:
            found = self._find(session)
            if found is None:
                return []
            statement = select(columns.id).where(
                columns.collection_id == found.id, columns.id.is_not(None)
            )
            if prefix is not None and prefix != "":
                statement = statement.where(starts_with(columns.id, prefix))
            found_ids = run(session, self._records, statement.order_by(columns.id)).scalars()
            return [self._keys.from_text(id) for id in found_ids]

    @classmethod
    def exists(cls, db: Database, name: str, *, records: Records = RECORDS) -> bool:
        """Return whether a database has a collection of this name; False without the tables."""
        return bool(_names(db, records, records.collection.name == name))

    @classmethod
    def names(cls, db: Database, *, records: Records = RECORDS) -> list[str]:
        """Return the names of a database's collections, sorted; none without the tables."""
        return _names(db, records, true())

    # The database of a collection that opened it

    def close(self) -> None:
        """Close the database, if the collection opened it; a session or an engine is left alone."""
        self._binding.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _names(db: Database, records: Records, condition: ColumnElement[bool]) -> list[str]:
    binding = bind_for_reading(db, records)
    if binding is None:
        return []
    try:
        with binding.session(write=False) as session, explained(session, records):
            if missing_tables(session, records):
                return []
            name = records.collection.name
            statement = select(name).where(condition).order_by(name)
            return list(run(session, records, statement).scalars())
    finally:
        binding.close()

"""One operation on a collection: its session, its tables, its database, the collection's row.

`Reference` says which collection is meant, and how it is reached. `Reference.work` opens a `Work`,
which every function of `writing` and `searching` and every `Database` works on.
"""

from __future__ import annotations

import functools
import random
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import (
    Executable,
    Integer,
    and_,
    bindparam,
    event,
    func,
    inspect,
    literal_column,
    null,
    select,
    true,
    type_coerce,
    update,
)
from sqlalchemy.engine import IteratorResult
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from . import databases, errors
from .errors import InvalidItemError, ModelMismatchError, ModelRequiredError
from .forks import Lock
from .internals import has_listeners
from .keys import AFTER_MARK, CHUNK_MARK, K
from .models import registry
from .sessions.runtime import BLOCKING
from .tables.beside import names_beside, stands_beside
from .tables.ours import explained, schema_map_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from sqlalchemy import (
        ColumnElement,
        Connection,
        CursorResult,
        Dialect,
        Engine,
        Result,
        ScalarSelect,
    )
    from sqlalchemy.orm import ORMExecuteState

    from .databases.base import Database
    from .databases.status import Searched
    from .keys import Keys
    from .models.base import Content, Role, SupportsEmbedding
    from .sessions.base import Sessions
    from .sessions.runtime import Runtime
    from .tables.records import Records
    from .vectors import Float32
    from .writing.chunks import Chunks

ANY_BIND = nullcontext()
MOST_NAMES = 10_000  # names of collections remembered for each engine
PAUSES = (0.01, 0.05, 0.2, 0.5)  # seconds before an own transaction is tried again, about
P = ParamSpec("P")
T = TypeVar("T")


class CollectionRow(NamedTuple):
    """The collection's row."""

    id: int
    name: str
    model_id: str
    vector_bytes: int | None
    """The bytes of a vector as float32, by any row of the collection; None if it has no valid one.
    """
    has_index: bool = False
    """Whether an index can serve a search. Known of a row that was read by `row_to_search`."""
    is_certain: bool = True
    """Whether it was read in this transaction; else a search has to confirm it."""
    language: str | None = None
    """That of the collection's text index; None if it has none."""
    chunks: str | None = None
    """How its texts are cut, as JSON; None if each item is one row."""
    index_method: str | None = None
    """The method of its index, where the search keeps that in memory; None if it has none."""
    others: frozenset[str] = frozenset()
    """Its model and those of what stands beside it. Known where it was given another model."""


class Work:
    """What one operation works on. It lives as long as its session is lent to it.

    Attributes:
        session: In the transaction of the operation.
        records: The mapped classes.
        database: What the session's database does its own way.
        is_exclusive: Whether the session keeps other writers out, where they take turns.
        searched: How the latest search in it went about it; None if the database does not tell.
        runtime: How the operation waits.
        has_listeners: Whether a host may have conditions of its own for every SELECT, by
            `do_orm_execute`.
        extra: Values of a host's own columns of embeddings, for rows that are new.
        texts: Of the items that are being written, by their ids, with their hashes.
        parts: What is kept of chunks whose rows are being written, by their ids.
    """

    def __init__(
        self,
        session: Session,
        records: Records,
        *,
        is_exclusive: bool = False,
        runtime: Runtime = BLOCKING,
    ) -> None:
        self.session = session
        self.records = records
        self.dialect: Dialect = session.get_bind(records.embedding.__mapper__).dialect
        self.database: Database = databases.of(self.dialect)
        self.is_exclusive = is_exclusive
        self.searched: Searched | None = None
        self.runtime = runtime
        self.has_listeners = has_listeners(session)
        self.extra: Mapping[str, Any] = {}
        self.texts: Mapping[str, tuple[str, bytes]] = {}
        self.parts: Mapping[str, tuple[Any, ...]] = {}
        self._row: CollectionRow | None = None

    @property
    def row(self) -> CollectionRow:
        """The collection's row, as `Reference` found it for this operation."""
        if self._row is None:
            raise errors.DoesNotExist("The collection does not exist")
        return self._row

    @row.setter
    def row(self, row: CollectionRow) -> None:
        self._row = row

    @property
    def has_row(self) -> bool:
        """Whether the collection's row was found."""
        return self._row is not None

    @property
    def item_id(self) -> ColumnElement[str]:
        """The SQL of the stored id of the item that a row of embeddings is of."""
        id = self.records.embeddings.c.id
        return id if self.row.chunks is None else self.database.item_of(id)

    def is_of(self, item: str) -> ColumnElement[bool]:
        """Return the condition that a row of embeddings is of an item, by its stored id."""
        id = self.records.embeddings.c.id
        if self.row.chunks is None:
            return id == item
        return and_(id >= item + CHUNK_MARK, id < item + AFTER_MARK, self.item_id == item)

    @property
    def is_item(self) -> ColumnElement[bool]:
        """The condition that a row of embeddings stands for its item: each has one such row."""
        id = self.records.embeddings.c.id
        return true() if self.row.chunks is None else self.database.is_first_chunk(id)

    @property
    def connection(self) -> Connection:
        """The connection, in the session's transaction, of the bind that has the embeddings."""
        return self.session.connection({"mapper": self.records.embedding.__mapper__})

    @property
    def bind(self) -> Engine | Connection:
        """The session's bind that has the embeddings."""
        return self.session.get_bind(self.records.embedding.__mapper__)

    @property
    def engine(self) -> Engine:
        """The engine of that bind."""
        return self.bind.engine

    def run(self, statement: Executable, parameters: Any = None) -> Result[*tuple[Any, ...]]:
        """Execute a statement on the bind that has the embeddings."""
        return self.session.execute(
            statement, parameters, bind_arguments={"mapper": self.records.embedding.__mapper__}
        )

    def run_kept(self, statement: Executable, parameters: Mapping[str, Any]) -> CursorResult[Any]:
        """Execute a statement that is the same object each time.

        Its text is kept, and values go in and come out as the driver has them. To have SQLAlchemy
        look up and prepare a large statement takes longer than to execute it. Of SQLAlchemy's
        events only those about cursors fire.
        """
        bind_arguments = {"mapper": self.records.embedding.__mapper__, "clause": statement}
        connection = self.session.connection(bind_arguments)
        schema_map = tuple(schema_map_of(connection).items())
        sql, constants, names = _kept(statement, connection.dialect, schema_map)
        values = {**constants, **parameters}
        in_order = values if names is None else tuple([values[name] for name in names])
        return connection.exec_driver_sql(sql, in_order)

    def read(self, statement: Executable, parameters: Mapping[str, Any]) -> Result[Any]:
        """Execute a SELECT that is the same object each time, as the host's listeners want it."""
        run = self.run if self.has_listeners else self.run_kept
        return run(statement, parameters)

    def changed(self, statement: Executable, parameters: Any = None) -> int:
        """Execute an UPDATE or a DELETE and return the number of rows."""
        return int(self.run(statement, parameters).rowcount)  # type: ignore[attr-defined]

    def visible(self) -> ColumnElement[bool]:
        """Return the condition that a row of embeddings is one that the session's listeners leave.

        They are shown a SELECT of the ids, which is not executed.
        """
        entity = self.records.embedding
        shown = [select(entity.id).where(entity.collection_id == self.row.id)]

        def note(state: ORMExecuteState) -> Result[Any]:
            shown.append(state.statement)  # type: ignore[arg-type]
            return IteratorResult(SimpleResultMetaData(()), iter(()))

        event.listen(self.session, "do_orm_execute", note)
        try:
            self.run(shown[0])
        finally:
            event.remove(self.session, "do_orm_execute", note)
        return self.records.embeddings.c.id.in_(shown[-1])

    def sees_collection(self, name: str) -> bool:
        """Return whether the session's listeners, if there are any, leave the collection's row."""
        if not self.has_listeners:
            return True
        entity = self.records.collection
        return self.run(select(entity.id).where(entity.name == name)).first() is not None

    def row_named(self, name: str) -> CollectionRow | None:
        """Return the row of a collection's name, read now."""
        row = self.run_kept(_by_name(self.database, self.records), {"name": name}).first()
        if row is None:
            if not self.database.joins_tables:
                self.vector_bytes_of(0)  # fails if the other table is not ours
            return None
        settings: dict[str, Any] = dict(
            zip(("language", "chunks", "index_method"), row[4:], strict=True)
        )
        found = CollectionRow(*row[:4], **settings)
        if self.database.joins_tables:
            return found
        return found._replace(vector_bytes=self.vector_bytes_of(found.id))

    def vector_bytes_of(self, collection_id: int) -> int | None:
        """Return the bytes of a vector in a collection; None if it has no valid one."""
        statement = _vector_bytes(self.database, self.records)
        row = self.run_kept(statement, {"collection_id": collection_id}).first()
        return None if row is None else row[0]

    def touch(self, name: str) -> None:
        """Update a collection's row without a change, which keeps other writers out."""
        self.run(_touch(self.records), {"called": name})


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


def one_bind(session: Session, records: Records, *, write: bool) -> AbstractContextManager[None]:
    """Let all that an operation asks about our tables go to one bind.

    A host's `get_bind` may choose one for each statement, by what it is: for an operation that
    writes it is asked for that of an UPDATE.
    """
    if type(session).get_bind is Session.get_bind or "get_bind" in vars(session):
        return ANY_BIND
    return _bound(session, records, write=write)


@contextmanager
def _bound(session: Session, records: Records, *, write: bool) -> Iterator[None]:
    chosen = session.get_bind
    ours = {records.embedding.__mapper__, records.collection.__mapper__}
    clause = update(records.embedding) if write else select(records.embedding)
    bind = chosen(mapper=records.embedding.__mapper__, clause=clause)

    def get_bind(mapper: Any = None, *args: Any, **options: Any) -> Engine | Connection:
        is_ours = mapper is not None and inspect(mapper) in ours
        return bind if is_ours else chosen(mapper, *args, **options)

    vars(session)["get_bind"] = get_bind
    try:
        yield
    finally:
        del vars(session)["get_bind"]


def compiled(
    statement: Executable,
    dialect: Dialect,
    schema_map: Iterable[tuple[str | None, str]],
) -> Any:
    """Return a statement for the driver, for those who keep it and execute it themselves."""
    options: dict[str, Any] = {"compile_kwargs": {"render_postcompile": True}}
    if schemas := dict(schema_map):
        options |= {"schema_translate_map": schemas, "render_schema_translate": True}
    return statement.compile(dialect=dialect, **options)  # type: ignore[attr-defined]


@functools.lru_cache(maxsize=256)
def _kept(
    statement: Executable, dialect: Dialect, schema_map: tuple[tuple[str | None, str], ...]
) -> tuple[str, dict[str, Any], list[str] | None]:
    """Return the SQL, the values that it brings along, and the order of all where there is one."""
    sql = compiled(statement, dialect, schema_map)
    # None stands for a parameter without a value; a constant NULL is no parameter.
    constants = {name: value for name, value in sql.params.items() if value is not None}
    return str(sql), constants, getattr(sql, "positiontup", None)


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
            with explained(work):
                if write and not work.is_exclusive:
                    work.database.begin_writing(work)
                yield work
                if write and work.has_row and self.sessions.owns_transactions:
                    work.database.finish_writing(work)

    @contextmanager
    def look(self) -> Iterator[Work]:
        """Yield work to read in before a model is called.

        A session of the caller's that has no connection out has none afterwards.
        """
        with self.sessions.look(self.records) as (session, reads_anew):
            work = Work(session, self.records)
            with explained(work):
                yield work
                if reads_anew and work.has_row:
                    bind = self.sessions.bind(self.records)
                    ROWS.put(bind, self.records, work.row, committed=True)

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

    def ids_of(self, keys: Iterable[object], what: str) -> list[str]:
        """Return the stored ids of keys. Arguments as in `id_of`."""
        return [self.id_of(key, what, position) for position, key in enumerate(keys)]

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

    def find_or_create(self, work: Work, model_id: str | None = None) -> CollectionRow:
        """Return the row, created if need be, with that model or the collection's own.

        Other writers are kept out of an empty collection, whose first vector settles the
        dimensions of all; of others as far as the database needs it. A collection without rows
        takes another model than it was made with.
        """
        work.database.lock_to_write(work, self.name)
        row = self.find(work)
        if row is None:
            self.refuse_if_deleted()
            name = model_id or self.model_id_of(None)
            work.database.insert_collection(work, self.name, name)
            row = self.existing(work)
            if row.chunks is not None and self.chunks is None:  # of a collection that is gone
                work.database.set_chunk_setting(work, None)
                row = self.existing(work)
        if row.vector_bytes is None:
            row = work.database.settle_dimensions(work, self)
            row = self._with_model(work, row, model_id or self.model_id_of(row))
            work.row = row
            if self.chunks is not None and self._takes_chunks(row):
                self._check_is_empty(work, row)
                work.database.set_chunk_setting(work, self.chunks.setting)
                row = work.row = row._replace(chunks=self.chunks.setting)
        return row

    def _with_model(self, work: Work, row: CollectionRow, model_id: str) -> CollectionRow:
        """Return the row of a collection that seems to have no embeddings, with that model."""
        if model_id in {row.model_id, registry.canonical_id(row.model_id)}:
            return row
        if self._has_rows(work, row):  # their vectors are corrupt
            raise ModelMismatchError(self.name, row.model_id, model_id)
        entity = self.records.collection
        work.run(update(entity).where(entity.id == row.id).values({entity.model: model_id}))
        return row._replace(model_id=model_id)

    def chunk_setting_of(self, row: CollectionRow | None) -> str | None:
        """Return how texts of a row, or of a collection that is yet to be created, are cut."""
        if self.chunks is not None and (row is None or self._takes_chunks(row)):
            return self.chunks.setting
        return None if row is None else row.chunks

    def _takes_chunks(self, row: CollectionRow) -> bool:
        """Return whether the collection's texts are to be cut in another way than they are.

        Raises:
            ChunksMismatchError: And it has vectors.
        """
        if self.chunks is None or self.chunks.setting == row.chunks:
            return False
        if row.vector_bytes is None:
            return True
        raise self._other_chunks(row)

    def _other_chunks(self, row: CollectionRow) -> errors.ChunksMismatchError:
        are = "are not cut into chunks" if row.chunks is None else f"are cut by {row.chunks}"
        given = "" if self.chunks is None else f", not by {self.chunks.setting}"
        return errors.ChunksMismatchError(
            f"The texts of collection {self.name!r} {are}{given}. Open it without chunks=, or "
            "embed the texts in a new collection that has these: what was stored is not cut anew"
        )

    def take_chunks(self, work: Work, setting: str | None) -> None:
        """Let an empty collection have another setting of chunks.

        Raises:
            ChunksMismatchError: It is not empty, or was given another one.
        """
        if self.chunks is not None and self.chunks.setting != setting:
            raise self._other_chunks(work.row)
        self._check_is_empty(work, work.row)
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

    def last_committed(self) -> CollectionRow | None:
        """Return the row that `look` found at last; nothing is connected."""
        bind = self.sessions.bind(self.records)
        return self._acceptable(ROWS.get(bind, self.records, self.name, committed=True))

    def _acceptable(self, row: CollectionRow | None) -> CollectionRow | None:
        if row is None or self.renamed:
            return None
        try:
            self.model_id_of(row)
            if self._takes_chunks(row):
                return None
        except (ModelMismatchError, errors.ChunksMismatchError):
            return None
        return row

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
            raise ModelRequiredError
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
        if given is not None and registry.canonical_id(given) != registry.canonical_id(model_id):
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
        row = self.last_committed()
        if row is None:
            with self.look() as work:
                row = self.find(work)
        return self.model_of(row)

    def read_model(self) -> SupportsEmbedding:
        """Return the model, as the collection's row has it."""
        with self.work() as work:
            row = self.find(work)
        return self.model_of(row)

    def embed(
        self, model: SupportsEmbedding, items: list[Any], role: Role = "document"
    ) -> list[Float32]:
        """Return the vectors of items, checked. No transaction of ours is open meanwhile."""
        return self.sessions.runtime.embed(model, items, role)


@functools.cache
def _by_name(database: Database, records: Records) -> Executable:
    columns = records.collections.c
    return select(
        columns.id,
        columns.name,
        columns.model,
        stored_vector_bytes(database, records)
        if database.joins_tables
        else type_coerce(null(), Integer),
        database.text_language(records),
        database.chunk_setting(records),
        database.index_method(records),
    ).where(columns.name == bindparam("name"))


@functools.cache
def _vector_bytes(database: Database, records: Records) -> Executable:
    columns = records.embeddings.c
    return (
        select(database.vector_bytes(columns.embedding))
        .where(
            columns.collection_id == bindparam("collection_id"),
            database.is_vector(columns.embedding),
        )
        .order_by(columns.id)
        .limit(literal_column("1"))
    )


@functools.cache
def _touch(records: Records) -> Executable:
    columns = records.collections.c
    return (
        update(records.collections)
        .where(columns.name == bindparam("called"))
        .values(model=columns.model)
    )


@functools.cache
def stored_vector_bytes(database: Database, records: Records) -> ScalarSelect[int | None]:
    """Return the SQL of the bytes of a vector in the collection that the outer query is about.

    It is the commonest length among a few rows: a single one may be corrupt.
    """
    columns = records.embeddings.c
    size = database.vector_bytes(columns.embedding)
    sample = (  # not of the rows without an id, which SQLite admits, and which no search finds
        select(size.label("size"))
        .where(
            columns.collection_id == records.collections.c.id,
            columns.id.is_not(None),
            database.is_vector(columns.embedding),
        )
        .order_by(columns.id)
        .limit(literal_column(str(database.sample_rows)))
        .correlate(records.collections)
        .subquery()
    )
    return (
        select(sample.c.size)
        .group_by(sample.c.size)
        .order_by(func.count().desc(), sample.c.size.desc())
        .limit(1)
        .scalar_subquery()
    )


class RememberedRows:
    """The row that the latest operation on a name through an engine found.

    It may be out of date for whoever asks, and is to be confirmed. Keyed by the engine, its schema
    map, the tables and the name.
    """

    def __init__(self) -> None:
        self._rows: WeakKeyDictionary[Engine, dict[Any, tuple[CollectionRow, bool]]] = (
            WeakKeyDictionary()
        )
        self._lock = Lock()

    def get(
        self, bind: Engine | Connection, records: Records, name: str, *, committed: bool = False
    ) -> CollectionRow | None:
        """Return the row of a name, uncertain, or None.

        Args:
            bind: The engine or connection that has the tables.
            records: The mapped classes.
            name: The collection's name.
            committed: Only one that was committed when it was read.
        """
        # Without the lock: a reader finds what is there at one moment, and confirms it anyway.
        row, was_committed = self._rows.get(bind.engine, {}).get(
            _memory_key(bind, records, name), (None, False)
        )
        if row is None or (committed and not was_committed):
            return None
        return row._replace(is_certain=False)

    def put(
        self, bind: Engine | Connection, records: Records, row: CollectionRow, *, committed: bool
    ) -> None:
        """Remember a row that was read, without what stands beside it, which no search confirms."""
        row = row._replace(others=frozenset())
        with self._lock:
            rows = self._rows.setdefault(bind.engine, {})
            key = _memory_key(bind, records, row.name)
            before = rows.pop(key, None)
            if len(rows) >= MOST_NAMES:
                del rows[next(iter(rows))]
            if before is not None and before[0][:3] == row[:3]:
                # Within a transaction it is read again as it was committed, with the same model.
                committed = committed or before[1]
                if before[0].has_index and not row.has_index:
                    row = before[0]  # not every reader looks for an index
            rows[key] = row, committed

    def forget(self, bind: Engine | Connection, records: Records, name: str) -> None:
        """Remember nothing of a name."""
        with self._lock:
            self._rows.get(bind.engine, {}).pop(_memory_key(bind, records, name), None)

    def clear(self) -> None:
        """Remember nothing."""
        with self._lock:
            self._rows.clear()


def _memory_key(bind: Engine | Connection, records: Records, name: str) -> tuple[Any, ...]:
    schema_map = bind.get_execution_options().get("schema_translate_map") or {}
    return (records, name, *schema_map.items())


ROWS = RememberedRows()

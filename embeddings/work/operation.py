"""One operation on a collection: its session, its tables, its database, the collection's row.

Every function of `writing` and `searching` and every `Database` works on a `Work`.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from sqlalchemy import Executable, and_, event, inspect, select, true, update
from sqlalchemy.engine import IteratorResult
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.orm import Session

from .. import databases, errors
from ..internals import as_driver_has, execute_compiled, has_listeners
from ..keys import AFTER_MARK, CHUNK_MARK
from ..sessions.runtime import BLOCKING
from ..tables.ours import schema_map_of
from .looking import row_with_item
from .row import row_by_name, row_of, touching

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sqlalchemy import ColumnElement, Connection, CursorResult, Dialect, Engine, Result
    from sqlalchemy.orm import ORMExecuteState
    from sqlalchemy.sql.compiler import SQLCompiler

    from ..databases.base import Database
    from ..databases.status import Searched
    from ..sessions.runtime import Runtime
    from ..tables.records import Records
    from ..writing.items import Item
    from .looking import Looked
    from .row import CollectionRow

ANY_BIND = nullcontext()


class Work:
    """What one operation works on. It lives as long as its session is lent to it.

    Attributes:
        session: In the transaction of the operation.
        bind: The session's bind that has the embeddings.
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
        item: What is looked for, in an operation on one item.
        looked: What was read of it with the collection's row.
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
        self.bind: Engine | Connection = session.get_bind(records.embedding.__mapper__)
        self.dialect: Dialect = self.bind.dialect
        self.database: Database = databases.of(self.dialect)
        self.is_exclusive = is_exclusive
        self.searched: Searched | None = None
        self.runtime = runtime
        self.has_listeners = has_listeners(session)
        self.extra: Mapping[str, Any] = {}
        self.texts: Mapping[str, tuple[str, bytes]] = {}
        self.parts: Mapping[str, tuple[Any, ...]] = {}
        self.item: Item | None = None
        self.looked: Looked | None = None
        self._row: CollectionRow | None = None
        self._connection: Connection | None = None

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
        if self._connection is None:
            mapper = self.records.embedding.__mapper__
            self._connection = self.session.connection({"mapper": mapper})
        return self._connection

    @property
    def engine(self) -> Engine:
        """The engine of the bind."""
        return self.bind.engine

    def run(self, statement: Executable, parameters: Any = None) -> Result[*tuple[Any, ...]]:
        """Execute a statement on the bind that has the embeddings."""
        return self.session.execute(
            statement, parameters, bind_arguments={"mapper": self.records.embedding.__mapper__}
        )

    def run_unheard(self, statement: Executable) -> Result[*tuple[Any, ...]]:
        """Execute a statement about rows of the host's, of which its listeners hide none.

        What a listener to `do_orm_execute` adds, for a tenant or for rows that are deleted softly,
        is about what is shown, and a row that is hidden is not gone.
        """
        return self.connection.execute(statement)

    def run_kept(self, statement: Executable, parameters: Mapping[str, Any]) -> CursorResult[Any]:
        """Execute a statement that is the same object each time.

        Its text is kept, and values go in and come out as the driver has them. To have SQLAlchemy
        look up and prepare a large statement takes longer than to execute it. Of SQLAlchemy's
        events only those about cursors fire.
        """
        connection = self.connection
        schema_map = tuple(schema_map_of(connection).items())
        return execute_compiled(
            connection, _kept(statement, connection.dialect, schema_map), parameters
        )

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
        return self.database.row_named(self, name)

    def read_row(self, name: str, *, with_vector_bytes: bool = True) -> CollectionRow | None:
        """Return what one statement reads of a collection's row, for `Database.row_named`.

        Args:
            name: The collection's name.
            with_vector_bytes: Read those, too, which are in the other table; and with them what is
                there of `item`.
        """
        if self.item and with_vector_bytes:
            return row_with_item(self, name, self.item)
        statement = row_by_name(self.database, self.records, with_vector_bytes=with_vector_bytes)
        row = self.run_kept(statement, {"name": name}).first()
        return None if row is None else row_of(row)

    def touch(self, name: str) -> bool:
        """Update a collection's row without a change, which keeps other writers out.

        Returns:
            Whether there is one.
        """
        return self.changed(touching(self.records), {"called": name}) > 0


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
) -> SQLCompiler:
    """Return a SELECT compiled. None of its parameters stands for several values."""
    return as_driver_has(compiled(statement, dialect, schema_map))

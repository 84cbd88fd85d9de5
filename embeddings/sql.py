"""SQL that depends on how a database stores rows: every expression of which it matters."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Dialect,
    Executable,
    Text,
    and_,
    bindparam,
    case,
    cast,
    column,
    delete,
    exists,
    func,
    literal,
    literal_column,
    null,
    select,
    table,
    true,
    type_coerce,
)
from sqlalchemy.types import Boolean, Integer, LargeBinary, TypeDecorator

from .dialects import PerDialect, identifier
from .errors import InvalidQueryError, InvalidVectorError
from .tables.columns import PGJSON, as_jsonb, check_text
from .vectors import ITEM_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection, CursorResult, Result, ScalarSelect
    from sqlalchemy.orm import Session
    from sqlalchemy.sql.compiler import Compiled
    from sqlalchemy.types import TypeEngine

    from .tables.records import Records

MAX_NAME_BYTES = 63  # of a name in PostgreSQL
# Rows that tell the dimensions of a collection: PostgreSQL lets nobody store corrupt ones.
SAMPLE = PerDialect(sqlite=literal_column("16"), postgresql=literal_column("1"))


class Found(NamedTuple):
    """The collection's row."""

    id: int
    name: str
    model_id: str
    size: int | None
    """The bytes of a vector, by any row of the collection; None if it has no valid one."""
    index_settings: str | None
    """See `index_settings`."""
    is_certain: bool = True
    """Whether it was read in this transaction; else whoever takes it has to have it confirmed."""


class Members(TypeDecorator[list[str]]):
    """Any number of ids as one parameter: JSON on SQLite, an array on PostgreSQL."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the parameter's type on a database."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(ARRAY(Text()))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Return the value as the driver takes it."""
        return value if dialect.name == "postgresql" else json.dumps(value)


def connection_of(session: Session, records: Records) -> Connection:
    """Return the connection, in the session's transaction, of the bind that has the embeddings."""
    return session.connection({"mapper": records.embedding.__mapper__})


def schema_map_of(connection: Connection) -> dict[str | None, str]:
    """Return which schemas the connection puts in the place of others."""
    return connection.get_execution_options().get("schema_translate_map") or {}


def compiled(
    statement: Executable, dialect: Dialect, schema_map: Iterable[tuple[str | None, str]]
) -> Compiled:
    """Return a statement for the driver, for those who keep it and execute it themselves."""
    schemas = dict(schema_map)
    mapped = {"schema_translate_map": schemas, "render_schema_translate": True}
    options: dict[str, Any] = mapped if schemas else {}
    return statement.compile(dialect=dialect, **options)  # type: ignore[attr-defined, no-any-return]


def dialect_of(session: Session, records: Records) -> Dialect:
    """Return the dialect of the bind of the session that has the embeddings."""
    return session.get_bind(records.embedding.__mapper__).dialect


def run(
    session: Session, records: Records, statement: Executable, parameters: Any = None
) -> Result[*tuple[Any, ...]]:
    """Execute the statement on the bind of the session that has the embeddings."""
    return session.execute(
        statement, parameters, bind_arguments={"mapper": records.embedding.__mapper__}
    )


def run_kept(
    session: Session, records: Records, statement: Executable, parameters: Mapping[str, Any]
) -> CursorResult[Any]:
    """Execute a statement that is the same object each time, on the bind that has the embeddings.

    Its text is kept, and values go in and come out as the driver has them. To have SQLAlchemy look
    up and prepare a large statement takes longer than to execute it. Of SQLAlchemy's events only
    those about cursors fire.
    """
    bind_arguments = {"mapper": records.embedding.__mapper__, "clause": statement}
    connection = session.connection(bind_arguments)
    schema_map = tuple(schema_map_of(connection).items())
    sql, constants, names = _kept(statement, connection.dialect, schema_map)
    values = {**constants, **parameters}
    in_order = values if names is None else tuple(values[name] for name in names)
    return connection.exec_driver_sql(sql, in_order)


@functools.lru_cache(maxsize=256)
def _kept(
    statement: Executable, dialect: Dialect, schema_map: tuple[tuple[str | None, str], ...]
) -> tuple[str, dict[str, Any], list[str] | None]:
    """Return the SQL, the values that it brings along, and the order of all where there is one."""
    sql = compiled(statement, dialect, schema_map)
    # None stands for a parameter without a value; a constant NULL is no parameter.
    constants = {name: value for name, value in sql.params.items() if value is not None}
    return str(sql), constants, getattr(sql, "positiontup", None)


def changed(
    session: Session, records: Records, statement: Executable, parameters: Any = None
) -> int:
    """Execute an UPDATE or a DELETE and return the number of rows."""
    result = run(session, records, statement, parameters)
    return int(result.rowcount)  # type: ignore[attr-defined]


def lock_collection(session: Session, records: Records, collection_id: int) -> None:
    """Wait for those who write to the collection and keep others out, on PostgreSQL.

    A new row's foreign key holds the collection, which could not be deleted otherwise. On SQLite
    there is one writer anyway.
    """
    if dialect_of(session, records).name == "postgresql":
        id = records.collections.c.id
        run(session, records, select(id).where(id == collection_id).with_for_update())


def delete_rows(
    session: Session, records: Records, conditions: Sequence[ColumnElement[bool]]
) -> int:
    """Delete rows of embeddings and return how many there were.

    On PostgreSQL a DELETE locks them in any order, and may then wait for a writer that waits for
    it. So they are locked first, in the order of all writers, and only what was locked is deleted.
    """
    entity, columns = records.embedding, records.embeddings.c
    conditions = list(conditions)
    if dialect_of(session, records).name == "postgresql":
        rows = select(columns.id).where(*conditions).order_by(columns.id).with_for_update()
        conditions.append(is_one_of(columns.id, run(session, records, rows).scalars()))
    return changed(session, records, delete(entity).where(*conditions))


def vector_size(records: Records) -> ColumnElement[int | None]:
    """Return the SQL of a vector's length in bytes of float32; NULL for what is no vector."""
    column = records.embeddings.c.embedding
    stored = type_coerce(column, LargeBinary)
    return PerDialect(
        sqlite=case((func.typeof(stored) == "blob", func.length(stored))),
        postgresql=func.vector_dims(column, type_=Integer) * ITEM_BYTES,
        type_=Integer(),
    )


def stored_size(records: Records) -> ScalarSelect[int | None]:
    """Return the SQL of the bytes of a vector in the collection that the outer query is about.

    It is the commonest length among a few rows: a single one may be corrupt.
    """
    columns, size = records.embeddings.c, vector_size(records)
    # Looking into the vectors of PostgreSQL, before the few are taken, would fetch them all.
    is_vector = PerDialect(
        sqlite=and_(size > 0, size % ITEM_BYTES == 0),
        postgresql=columns.embedding.is_not(None),
        type_=Boolean(),
    )
    sample = (  # not of the rows without an id, which SQLite admits, and which no search finds
        select(size.label("size"))
        .where(
            columns.collection_id == records.collections.c.id, columns.id.is_not(None), is_vector
        )
        .order_by(columns.id)
        .limit(SAMPLE)
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


def check_dimensions(session: Session, records: Records, found: Found, dimensions: int) -> None:
    """Do nothing if the collection has vectors of these dimensions, or none at all.

    Raises:
        InvalidVectorError: All that were looked at have others.
    """
    if found.size is None or found.size == dimensions * ITEM_BYTES:
        return
    # The few rows that were looked at may be the odd ones out.
    columns = records.embeddings.c
    of_this_size = select(1).where(
        columns.collection_id == found.id,
        vector_size(records) == dimensions * ITEM_BYTES,
    )
    if run(session, records, of_this_size.limit(1)).first() is None:
        raise InvalidVectorError(
            f"the query vector has {dimensions} dimensions, and those of the collection "
            f"{found.size // ITEM_BYTES}"
        )


def index_prefix(records: Records) -> str:
    """Return how the names of the HNSW indexes begin; the collection's id and `_hnsw` follow."""
    table = records.embeddings.name
    if len(table.encode()) > MAX_NAME_BYTES - len("idx__") - len("_2147483647_hnsw"):
        table = hashlib.sha256(table.encode()).hexdigest()[:16]
    return f"idx_{table}_"


def index_settings(records: Records) -> ColumnElement[str | None]:
    """Return the SQL of pgvector's settings, if the collection of the outer query has an index.

    They are those that a search by the index changes and puts back: `hnsw.ef_search` and
    `hnsw.iterative_scan` with a bar between them. NULL without a valid index.
    """
    collections, embeddings = records.collections, records.embeddings
    index = table("pg_index", *map(column, ("indexrelid", "indrelid", "indisvalid")))
    relation = table("pg_class", column("oid"), column("relname"))
    of_the_table = (  # by any row, because a name may be another schema's
        select(literal_column(f"{identifier(embeddings.name)}.tableoid"))
        .select_from(embeddings)
        .where(embeddings.c.collection_id == collections.c.id)
        .order_by(embeddings.c.id)
        .limit(1)
        .correlate(collections)
        .scalar_subquery()
    )
    setting = (
        func.coalesce(func.current_setting(literal(f"hnsw.{name}"), true()), "")
        for name in ("ef_search", "iterative_scan")
    )
    settings = (
        select(func.concat_ws("|", *setting))
        .select_from(index.join(relation, relation.c.oid == index.c.indexrelid))
        .where(
            relation.c.relname
            == func.concat(index_prefix(records), collections.c.id, literal("_hnsw")),
            index.c.indrelid == of_the_table,
            index.c.indisvalid,
        )
        .correlate(collections)
        .scalar_subquery()
    )
    return PerDialect(sqlite=null(), postgresql=settings, type_=Text())


def is_one_of(id: ColumnElement[str], ids: Iterable[str]) -> ColumnElement[bool]:
    """Return the condition that an id is one of any number, which travel as one parameter."""
    return _is_one_of(id, literal(list(ids), Members))


def is_one_of_parameter(id: ColumnElement[str], name: str) -> ColumnElement[bool]:
    """Return the same for a parameter of that name, to be given a list."""
    return _is_one_of(id, bindparam(name, type_=Members))


def _is_one_of(id: ColumnElement[str], ids: ColumnElement[Any]) -> ColumnElement[bool]:
    return PerDialect(
        sqlite=id.in_(select(func.json_each(ids).table_valued("value").c.value)),
        postgresql=id == func.any(cast(ids, ARRAY(Text))),
        type_=Boolean(),
    )


def starts_with(id: ColumnElement[str], prefix: object) -> ColumnElement[bool]:
    """Return the condition that an id begins with the prefix, as a range that an index serves."""
    if not isinstance(prefix, str):
        raise InvalidQueryError(f"prefix must be a string, not {type(prefix).__name__}")
    check_text(prefix, "prefix")
    last = prefix.rstrip("\U0010ffff")
    if not last:
        return id >= prefix
    following = ord(last[-1]) + 1
    if 0xD800 <= following <= 0xDFFF:  # surrogates are no characters
        following = 0xE000
    return and_(id >= prefix, id < last[:-1] + chr(following))


def metadata_is(records: Records, key: object, value: object) -> ColumnElement[bool]:
    """Return the condition that the metadata has this key with this value.

    Raises:
        InvalidQueryError: The key is no string, or the value no scalar.
    """
    if not isinstance(key, str):
        raise InvalidQueryError(f"where: metadata has strings as keys, not {key!r}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidQueryError(f"where: {key!r} is compared with an integer of over 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidQueryError(f"where: {key!r} is compared with {value}, which JSON cannot hold")
    for part in (key, value):
        if isinstance(part, str):
            check_text(part, "where")
    if value is not None and not isinstance(value, str | int | float):
        raise InvalidQueryError(
            f"where: {key!r} is compared with a {type(value).__name__}; use a string, a number, "
            "a bool or None, or pass an expression"
        )
    # json_each takes any key, with dots and quotes in it, as a parameter; a JSON path does not.
    member = func.json_each(type_coerce(records.embeddings.c.metadata, Text)).table_valued(
        "key", "value", "type", joins_implicitly=True
    )
    equals: ColumnElement[bool]
    if value is None:
        types, equals = ["null"], true()
    elif isinstance(value, bool):
        types, equals = ["true" if value else "false"], true()
    else:
        types = ["text"] if isinstance(value, str) else ["integer", "real"]
        equals = member.c.value == literal(value)
    return PerDialect(
        sqlite=exists(
            select(1)
            .select_from(member)
            .where(member.c.key == key, member.c.type.in_(types), equals)
        ),
        # Contains, which an index of the host's can serve; equality of JSON minds the types.
        postgresql=type_coerce(records.embeddings.c.metadata, PGJSON).op("@>")(
            literal(as_jsonb(json.dumps({key: value})), PGJSON)
        ),
        type_=Boolean(),
    )

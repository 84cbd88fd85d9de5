"""Triggers on a host's tables: made, dropped and compared with what is declared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import (
    ColumnElement,
    False_,
    Index,
    Table,
    True_,
    UniqueConstraint,
    column,
    inspect,
    literal_column,
)
from sqlalchemy.exc import CompileError, NoSuchTableError
from sqlalchemy.schema import Column
from sqlalchemy.sql import visitors

from .. import databases
from ..errors import SchemaError
from ..tables.ours import advice_of, schema_found, schema_map_of
from ..tables.pending import pending_name
from ..tables.records import RECORDS
from .columns import column_of, columns_in
from .literals import Follow

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection, Dialect, MetaData
    from sqlalchemy.orm import Mapper

    from ..tables.records import Records
    from .source import ModelCollection


def follow(connection: Connection, given: Follow) -> None:
    """Make the triggers on one table, in the connection's transaction.

    Raises:
        SchemaError: The table, a column of it, or a table of ours is not there; or the collection
            follows the rows of another table.
        ValueError: A trigger cannot evaluate the condition.
    """
    _check_tables(connection, given)
    found = all_follows(connection, given.records)
    check_is_alone(connection, given.collection, [(given.schema, given.table)], found)
    databases.of(connection.dialect).follow(connection, given)


def unfollow(connection: Connection, given: Follow) -> None:
    """Drop the triggers on one table, in the connection's transaction, if they are there."""
    databases.of(connection.dialect).unfollow(connection, given)


def install(connection: Connection, declared: ModelCollection[Any]) -> None:
    """Make the triggers of a declaration, and drop those of one before on the same rows.

    Where all is as declared nothing is done, and no host is kept waiting.
    """
    wanted = follows_of(declared, connection.dialect)
    for given in wanted:
        _check_tables(connection, given)
    found = all_follows(connection, declared.records)
    if not differences(connection, declared.name, wanted, found):
        return
    check_is_alone(connection, declared.name, tables_of(declared), found)
    uninstall(connection, declared)
    for given in wanted:
        databases.of(connection.dialect).follow(connection, given)


def uninstall(connection: Connection, declared: ModelCollection[Any]) -> None:
    """Drop the triggers of a collection, whatever table they are on."""
    unfollow_all(connection, declared.name, declared.records)


def unfollow_all(connection: Connection, name: str, records: Records) -> None:
    """Drop the triggers of the collection of a name, whatever table they are on."""
    for given in all_follows(connection, records):
        if given.collection == name:
            unfollow(connection, given)


def all_follows(connection: Connection, records: Records) -> list[Follow]:
    """Return what is followed beside these records, by whatever collection."""
    return databases.of(connection.dialect).follows(connection, records)


def problems(connection: Connection, declared: ModelCollection[Any]) -> list[str]:
    """Return what of the triggers is not as declared."""
    found = all_follows(connection, declared.records)
    return differences(connection, declared.name, follows_of(declared, connection.dialect), found)


def check(connection: Connection, declared: ModelCollection[Any]) -> None:
    """Do nothing unless the collection follows a table whose rows are others than declared.

    Raises:
        SchemaError: It does.
    """
    found = all_follows(connection, declared.records)
    check_is_alone(connection, declared.name, tables_of(declared), found)


def checked_problems(connection: Connection, declared: ModelCollection[Any]) -> list[str]:
    """Return what of the triggers is not as declared, by one look for this and for `check`."""
    found = all_follows(connection, declared.records)
    check_is_alone(connection, declared.name, tables_of(declared), found)
    return differences(connection, declared.name, follows_of(declared, connection.dialect), found)


def differences(
    connection: Connection, name: str, wanted: list[Follow], found: list[Follow]
) -> list[str]:
    """Return what of the triggers of a collection is not as it is to be.

    Args:
        connection: To the database.
        name: Of the collection.
        wanted: What it is to follow.
        found: All that is followed beside the same records.
    """
    database = databases.of(connection.dialect)
    made = [each for each in found if each.collection == name]
    told = [what for given in made for what in renamed(connection, given)]
    told += [what for given in wanted for what in database.follow_problems(connection, given)]
    tables = {(given.schema, given.table) for given in wanted}
    return told + [
        f"the table {given.table!r} is followed, which is not declared"
        for given in made
        if (given.schema, given.table) not in tables
    ]


def as_made(connection: Connection, given: Follow) -> list[str]:
    """Return what of triggers that are there is not as they were made."""
    database = databases.of(connection.dialect)
    return renamed(connection, given) or database.follow_problems(connection, given)


def renamed(connection: Connection, given: Follow) -> list[str]:
    """Return what of a table has another name than when its triggers were made."""
    anew = advice_of(connection).follow_anew
    there = _columns(connection, given.table, given.schema)
    if there is None:
        return [
            f"there is no table {given.table!r} any more, whose rows were followed: it was dropped "
            f"or renamed. Make the triggers of the other anew: {anew}, or install()"
        ]
    return [
        f"the table {given.table!r} has no column {column!r} any more, which the triggers were "
        f"made for. Make them anew: {anew}, or install()"
        for column in sorted({given.key, *given.columns} - there)
    ]


def _columns(connection: Connection, table: str, schema: str | None) -> set[str] | None:
    """Return the names of the columns of a table; None if it is not there."""
    schema = schema_map_of(connection).get(schema, schema)
    try:
        return {each["name"] for each in inspect(connection).get_columns(table, schema)}
    except NoSuchTableError:
        return None


def _check_tables(connection: Connection, given: Follow) -> None:
    there = _columns(connection, given.table, given.schema)
    if there is None:
        raise SchemaError(f"There is no table {given.table!r} in this database to be followed")
    if lacking := {given.key, *given.columns} - there:
        raise SchemaError(
            f"The table {given.table!r} has no columns {sorted(lacking)}; it has {sorted(there)}"
        )
    records = given.records
    if _columns(connection, pending_name(records), records.embeddings.schema) is None:
        remedy = advice_of(connection).migrate()
        if records is not RECORDS:
            remedy = "embeddings.install(connection, records)"
        raise SchemaError(
            f"There is no table {pending_name(records)!r}, to which triggers append. Create it "
            f"with {remedy}"
        )


Place: TypeAlias = "tuple[str | None, str]"
"""The schema and the name of a table."""


def check_is_alone(
    connection: Connection, name: str, tables: list[Place], found: list[Follow]
) -> None:
    """Do nothing unless a collection follows a table whose rows are others.

    The tables of one class, under joined inheritance, have the same rows: the key of one refers to
    that of the other. So may the tables of another class, which cannot be told from them.

    Args:
        connection: To the database, which is asked nothing where all names are the same.
        name: Of the collection.
        tables: Whose rows are to be its items, as they are declared.
        found: All that is followed beside the same records.

    Raises:
        SchemaError: It does. What one writes would be removed by the other.
    """
    others = [
        each
        for each in found
        if each.collection == name and (each.schema, each.table) not in tables
    ]
    if not others:
        return
    database = databases.of(connection.dialect)
    places = {_place(connection, *table) for table in tables}
    roots = {_root(connection, place) for place in places}
    for other in others:
        place = _place(connection, other.schema, other.table)
        is_its = any(database.is_one_table(place, each) for each in places)
        if is_its or not database.is_followed(connection, other, place[0]):
            continue  # it is the same by other names, or has another name by now
        if _root(connection, place) not in roots:
            wanted = tables[0][1]
            raise SchemaError(
                f"The collection {name!r} follows the rows of {other.table!r}, so it cannot have "
                f"those of {wanted!r}. Give one of the two another name; or, if {wanted!r} takes "
                f"the place of {other.table!r}, drop those triggers first: uninstall() of the "
                f"declaration, or {advice_of(connection).unfollow}"
            )


def _place(connection: Connection, schema: str | None, table: str) -> Place:
    """Return where the connection finds a table, by the name of its schema."""
    return schema_found(connection, table, schema), table


def _root(connection: Connection, place: Place) -> Place:
    """Return the table that the key of a table refers to in the end; itself if to none."""
    seen: list[Place] = []
    while place not in seen:
        seen.append(place)
        schema, table = place
        inspector = inspect(connection)
        try:
            key = inspector.get_pk_constraint(table, schema)["constrained_columns"]
            keys = inspector.get_foreign_keys(table, schema)
        except NoSuchTableError:  # whoever reads it says so
            break
        for foreign in keys:
            if foreign["constrained_columns"] == key:
                to = foreign["referred_schema"], foreign["referred_table"]
                place = _place(connection, *to)
    return place


# What is declared

DECLARED = "embeddings.collections"
"""Where the metadata of a host's tables has the declarations on them, in its `info`."""


def declare(declared: ModelCollection[Any]) -> None:
    """Let Alembic's autogenerate know a declaration, in place of one of the same name and table.

    Raises:
        ValueError: One of the same name is there on another table.
    """
    table: Table = declared.mapper.local_table  # type: ignore[assignment]
    known = table.metadata.info.setdefault(DECLARED, {})
    name = declared.name, declared.records.embeddings.fullname
    other = known.get(name)
    if other is not None and _is_of_another_table(other, table):
        raise ValueError(
            f"A collection {declared.name!r} is declared on {other.source.__name__} already, and "
            f"cannot be of {declared.source.__name__} too: give one of the two another name"
        )
    known[name] = declared


def _is_of_another_table(other: ModelCollection[Any], table: Table) -> bool:
    """Return whether a declaration is on another table that its metadata still has."""
    others: Table = other.mapper.local_table  # type: ignore[assignment]
    return others.key != table.key and table.metadata.tables.get(others.key) is others


def declared_on(metadata: MetaData) -> list[ModelCollection[Any]]:
    """Return the declarations on tables of a metadata."""
    return list(metadata.info.get(DECLARED, {}).values())


def tables_of(declared: ModelCollection[Any]) -> list[Place]:
    """Return the tables whose rows a declaration has, that of its own class first."""
    mapper = declared.mapper
    tables = (mapper.local_table, *mapper.tables)
    return [(each.schema, each.name) for each in tables if isinstance(each, Table)]


def follows_of(declared: ModelCollection[Any], dialect: Dialect) -> list[Follow]:
    """Return the tables that a declaration follows, with the condition as a database writes it.

    Under joined inheritance these are several, each with those of the columns that it has.

    Raises:
        ValueError: The condition has a value that the database cannot be given in a trigger.
    """
    mapper = declared.mapper
    conditions = [each for each in (declared.where, _of_class(mapper)) if each is not None]
    counted = {
        column_of(mapper, attribute.key) for attribute in (*declared.columns, *declared.metadata)
    }
    counted |= {each for condition in conditions for each in columns_in(condition)}
    follows = []
    for table in mapper.tables:
        if not isinstance(table, Table):
            continue
        of_table = [each for each in table.columns if each in counted]
        [key] = table.primary_key
        if not of_table and table is not mapper.local_table:
            continue
        held = [each for each in conditions if columns_in(each) <= {*table.columns}]
        follows.append(
            Follow(
                table.name,
                key.name,
                tuple(each.name for each in of_table) or (key.name,),
                declared.name,
                where=_joined([as_sql(each, dialect) for each in held]),
                schema=table.schema,
                embeddings=declared.records.embeddings.fullname,
                unique=_unique(table),
            )
        )
    return follows


def _joined(conditions: list[str]) -> str | None:
    """Return the conditions as one; a single one as it is, as somebody would write it by hand."""
    if len(conditions) < 2:
        return next(iter(conditions), None)
    return " AND ".join(f"({condition})" for condition in conditions)


def _of_class(mapper: Mapper[Any]) -> ColumnElement[bool] | None:
    """Return the condition that a row is of the class, where other classes share its table."""
    if mapper.inherits is None or mapper.polymorphic_on is None:
        return None
    names = sorted((each.polymorphic_identity for each in mapper.self_and_descendants), key=str)
    return mapper.polymorphic_on.in_(names)


def _unique(table: Table) -> tuple[tuple[str, ...], ...]:
    """Return the columns of the unique keys that a table was declared with, but its primary one."""
    keys: set[tuple[str, ...]] = set()
    uniques: Iterable[Any] = (*table.constraints, *table.indexes)
    for each in uniques:
        if isinstance(each, UniqueConstraint) or (isinstance(each, Index) and each.unique):
            columns = [getattr(one, "name", None) for one in each.columns]
            if columns and all(columns):
                keys.add(tuple(map(str, columns)))
    return tuple(sorted(keys))


def as_sql(condition: ColumnElement[bool], dialect: Dialect) -> str:
    """Return a condition with its values, over the bare names of its columns.

    Booleans are written as such, also for SQLite, which SQLAlchemy writes 1 and 0 for: a revision
    that was made on one database runs on the other.

    Raises:
        ValueError: A value cannot be written in SQL.
    """
    bare = visitors.replacement_traverse(condition, {}, _bare)
    # By names: else a percent sign would be doubled, for a driver that has it for parameters.
    kind: Any = type(dialect)
    writes = kind(paramstyle="named")
    writes.supports_native_boolean = True
    try:
        compiled = bare.compile(dialect=writes, compile_kwargs={"literal_binds": True})
        return " ".join(str(compiled).splitlines())
    except (CompileError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(f"where: a value cannot be written into a trigger: {error}") from error


def _bare(element: Any, **_: Any) -> ColumnElement[Any] | None:
    if isinstance(element, True_ | False_):
        return literal_column(element.__visit_name__)
    return column(element.name, element.type) if isinstance(element, Column) else None

"""Triggers on a host's table, on SQLite: they append to the rows that are pending.

REPLACE removes rows and fires no trigger for them. So a trigger before each insert notes the rows
that have one of the new row's unique values, and one after it tells which of them are gone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy.exc import DBAPIError

from ...errors import SchemaError
from ...following.literals import FOLLOWS, Follow
from ...tables.ours import schema_map_of
from ...tables.pending import DISPLACED, REMOVED, WRITTEN, pending_name
from ..quoting import literal, quoted
from . import pending
from .changelog import schema_of, within
from .transactions import sqlite_transaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from ...tables.records import Records


class Shape(NamedTuple):
    """What of a table the triggers depend on, and what no revision names."""

    columns: tuple[str, ...]
    generated: frozenset[str]
    unique: tuple[tuple[tuple[str, str], ...], ...]
    """For each unique key its terms, (SQL, collation)."""


def follow(connection: Connection, given: Follow) -> None:
    """Make the triggers, in place of those of the same collection on the same table."""
    with sqlite_transaction(connection):
        check(connection, given)
        schema = schema_of(connection, given.records)
        statements = [
            *script_down(given, schema),
            *pending.trigger_script(given.records, schema),
            *_triggers(given, shape_of(connection, given), schema).values(),
        ]
        for statement in statements:
            connection.exec_driver_sql(statement)


def unfollow(connection: Connection, given: Follow) -> None:
    """Drop the triggers, if they are there."""
    for statement in script_down(given, schema_of(connection, given.records)):
        connection.exec_driver_sql(statement)


def script(given: Follow) -> list[str]:
    """Return the SQL of `follow`, where there is no database to ask for the table's shape."""
    keys = {(given.key,), *given.unique}
    unique = (tuple((quoted(column), "BINARY") for column in columns) for columns in keys)
    columns = dict.fromkeys((given.key, *given.columns, *(each for key in keys for each in key)))
    shape = Shape(tuple(columns), frozenset(), tuple(sorted(unique)))
    schema = given.records.embeddings.schema
    return [
        *pending.trigger_script(given.records, schema),
        *_triggers(given, shape, schema).values(),
    ]


def script_down(given: Follow, schema: str | None = None) -> list[str]:
    """Return the SQL of `unfollow`."""
    return [
        f"DROP TRIGGER IF EXISTS {within(schema)}{quoted(f'{given.stem}_{event}')}"
        for event in EVENTS
    ]


EVENTS = (
    "insert", "update", "moved", "left", "delete", "before_insert", "before_update", "after_insert",
    "after_update",
)  # fmt: skip


def check(connection: Connection, given: Follow) -> None:
    """Do nothing if a trigger can hold the condition, and reach the rows that are pending.

    Raises:
        SchemaError: The table is in another file.
        ValueError: The condition cannot be evaluated.
    """
    schema = schema_map_of(connection).get(given.schema, given.schema)
    ours = schema_of(connection, given.records)
    if (schema or "main") != (ours or "main"):
        raise SchemaError(
            f"The table {given.table!r} is in {schema or 'main'!r}, and {given.embeddings!r} in "
            f"{ours or 'main'!r}: a trigger cannot reach another attached file. Keep both in one"
        )
    if given.where is None:
        return
    if re.search(r"\bregexp\b", re.sub(r"'(?:[^']|'')*'", "", given.where), re.IGNORECASE):
        raise ValueError(
            f"where: REGEXP is a function of each connection on SQLite, and without it every write "
            f"to {given.table!r} would fail. Use like() or another comparison"
        )
    columns = ", ".join(map(quoted, given.columns))
    try:
        connection.exec_driver_sql(
            f"SELECT ({given.where}) IS TRUE FROM "
            f"(SELECT {columns} FROM {within(ours)}{quoted(given.table)}) LIMIT 1"
        ).all()
    except DBAPIError as error:
        raise ValueError(f"where: {given.where!r} cannot be evaluated: {error.orig}") from None


def shape_of(connection: Connection, given: Follow) -> Shape:
    """Return the columns of the table, and what of them is unique."""
    schema = schema_of(connection, given.records) or "main"
    columns = connection.exec_driver_sql(
        "SELECT name, hidden FROM pragma_table_xinfo(?, ?)", (given.table, schema)
    ).all()
    indexes = connection.exec_driver_sql(
        'SELECT name FROM pragma_index_list(?, ?) WHERE "unique" ORDER BY name',
        (given.table, schema),
    ).scalars()
    keys = {_terms(connection, index, schema) for index in indexes.all()}
    if not any([term for term, _ in terms] == [quoted(given.key)] for terms in keys):
        keys.add(((quoted(given.key), "BINARY"),))  # an INTEGER PRIMARY KEY has no index
    return Shape(
        tuple(name for name, _ in columns),
        frozenset(name for name, hidden in columns if hidden in {2, 3}),
        tuple(sorted(keys)),
    )


def _terms(connection: Connection, index: str, schema: str) -> tuple[tuple[str, str], ...]:
    """Return (SQL, collation) of each term of a unique index. A condition that it has is left out.

    Then rows are noted that are not displaced, which does no harm.
    """
    terms = connection.exec_driver_sql(
        "SELECT cid, name, coll FROM pragma_index_xinfo(?, ?) WHERE key ORDER BY seqno",
        (index, schema),
    ).all()
    if all(cid >= 0 for cid, _, _ in terms):
        return tuple((quoted(name), collation) for _, name, collation in terms)
    sql = connection.exec_driver_sql(
        f"SELECT sql FROM {within(schema)}sqlite_master WHERE type = 'index' AND name = ?", (index,)
    ).scalar_one()
    expressions = _split(sql)
    return tuple(
        (quoted(name) if cid >= 0 else expression, collation)
        for (cid, name, collation), expression in zip(terms, expressions, strict=True)
    )


PARTS = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\]|[(),]|[^'"`\[(),]+""")
ORDER = re.compile(r"(?i)(\s+COLLATE\s+\S+)?(\s+(ASC|DESC))?\s*$")


def _split(sql: str) -> list[str]:
    """Return the terms of CREATE INDEX ... ON table (terms), without collations and orders."""
    after = re.split(r"(?i)\bON\b", sql, maxsplit=1)[1]
    depth, terms = 0, [""]
    for part in PARTS.findall(after):
        depth += (part == "(") - (part == ")")
        if depth == 0 and part == ")":
            break
        if depth == 1 and part == ",":
            terms.append("")
        elif depth > 1 or (depth == 1 and part != "("):
            terms[-1] += part
    return [ORDER.sub("", term.strip()) for term in terms]


def problems(connection: Connection, given: Follow) -> list[str]:
    """Return what is not as `follow` would make it."""
    schema = schema_of(connection, given.records)
    expected = _triggers(given, shape_of(connection, given), schema)
    found: dict[str, str] = dict(
        connection.exec_driver_sql(
            f"SELECT name, sql FROM {within(schema)}sqlite_master WHERE type = 'trigger' "
            "AND substr(name, 1, ?) = ?",
            (len(given.stem), given.stem),
        ).all()
    )
    told = []
    for name, sql in expected.items():
        if name not in found:
            told.append(f"the trigger {name} is missing")
        elif found[name] != sql.replace(f"TRIGGER {within(schema)}", "TRIGGER ", 1):
            told.append(f"the trigger {name} differs")
    told += [f"the trigger {name} is left over" for name in found if name not in expected]
    if told and not found.keys() & expected.keys():
        return [f"the triggers on {given.table!r} are missing"]
    return told


def follows(connection: Connection, records: Records) -> list[Follow]:
    """Return what is followed, as the triggers that are there tell."""
    found = connection.exec_driver_sql(
        f"SELECT sql FROM {within(schema_of(connection, records))}sqlite_master WHERE "
        "type = 'trigger' AND substr(name, 1, ?) = ? AND instr(sql, ?) ORDER BY name",
        (len(FOLLOWS), FOLLOWS, f'INTO "{pending_name(records)}"'),
    ).scalars()
    told = (re.search(r"/\* ({.*?}) \*/", sql) for sql in found)
    kept = [Follow.from_json(match[1]) for match in told if match]
    return [each for each in kept if each is not None]


def is_followed(connection: Connection, given: Follow) -> bool:
    """Return whether the triggers stand on the table that they were made for.

    Where a table is renamed, SQLite has its triggers go with it.
    """
    schema = within(schema_of(connection, given.records))
    found = connection.exec_driver_sql(
        f"SELECT 1 FROM {schema}sqlite_master WHERE type = 'trigger' AND name = ? "
        "AND tbl_name = ? COLLATE NOCASE",
        (f"{given.stem}_update", given.table),
    )
    return found.first() is not None


def _triggers(given: Follow, shape: Shape, schema: str | None) -> dict[str, str]:
    """Return the SQL of the triggers by their names."""
    table, key = quoted(given.table), quoted(given.key)
    name, pending_ = literal(given.collection), quoted(pending_name(given.records))
    add = f"INSERT INTO {pending_} (collection, id, change)"

    def id_of(row: str) -> str:
        return f"CAST({row}{key} AS TEXT)"

    def holds(row: str) -> str:
        if given.where is None:
            return "1"
        values = ", ".join(f"{row}.{quoted(c)} AS {quoted(c)}" for c in given.columns)
        return f"(SELECT ({given.where}) IS TRUE FROM (SELECT {values}))"

    counted = dict.fromkeys(given.read)
    changed = " OR ".join(_differs(column) for column in counted)
    is_moved = _differs(given.key)
    displaced_by = [_same(terms, shape) for terms in shape.unique]
    keys = dict.fromkeys(column for terms in shape.unique for column in _plain(terms, shape))
    noted = f"collection = {name} AND change = '{DISPLACED}'"
    is_left = f"SELECT 1 FROM {table} WHERE {key} = {pending_}.id"
    if given.where is not None:
        is_left += f" AND ({given.where}) IS TRUE"
    settle = (
        f"WHEN EXISTS (SELECT 1 FROM {pending_} WHERE {noted}) BEGIN "
        f"{add} SELECT {name}, id, '{REMOVED}' FROM {pending_} WHERE {noted} "
        f"AND NOT EXISTS ({is_left}); DELETE FROM {pending_} WHERE {noted}; END"
    )
    note = f"{add} SELECT {name}, {id_of('')}, '{DISPLACED}' FROM {table} WHERE"
    of_counted = "" if shape.generated & counted.keys() else f" OF {_list(counted)}"
    of_keys = "" if shape.generated or not keys else f" OF {_list(keys)}"
    is_new_key = " OR ".join(_differs(column) for column in keys) or "1"
    comment = f"/* {given.to_json()} */"
    bodies = {
        "insert": f"AFTER INSERT ON {table} WHEN {holds('NEW')} BEGIN {comment} "
        f"{add} VALUES ({name}, {id_of('NEW.')}, '{WRITTEN}'); END",
        "update": f"AFTER UPDATE{of_counted} ON {table} WHEN ({changed}) AND {holds('NEW')} BEGIN "
        f"{add} VALUES ({name}, {id_of('NEW.')}, '{WRITTEN}'); END",
        "moved": f"AFTER UPDATE OF {key} ON {table} WHEN {is_moved} BEGIN "
        f"{add} VALUES ({name}, {id_of('OLD.')}, '{REMOVED}'); END",
        "delete": f"AFTER DELETE ON {table} WHEN {holds('OLD')} BEGIN "
        f"{add} VALUES ({name}, {id_of('OLD.')}, '{REMOVED}'); END",
        "before_insert": f"BEFORE INSERT ON {table} BEGIN "
        + " ".join(f"{note} {same};" for same in displaced_by)
        + " END",
        "before_update": f"BEFORE UPDATE{of_keys} ON {table} WHEN {is_new_key} BEGIN "
        + " ".join(f"{note} {same} AND {key} IS NOT OLD.{key};" for same in displaced_by)
        + " END",
        "after_insert": f"AFTER INSERT ON {table} {settle}",
        "after_update": f"AFTER UPDATE{of_keys} ON {table} {settle}",
    }
    if given.where is not None:
        read = dict.fromkeys(given.condition_columns or counted)
        of_read = "" if shape.generated & read.keys() else f" OF {_list(read)}"
        bodies["left"] = (
            f"AFTER UPDATE{of_read} ON {table} WHEN {holds('OLD')} AND NOT {holds('NEW')} BEGIN "
            f"{add} VALUES ({name}, {id_of('OLD.')}, '{REMOVED}'); END"
        )
    inside = within(schema)
    return {
        f"{given.stem}_{event}": f"CREATE TRIGGER {inside}{quoted(f'{given.stem}_{event}')} {body}"
        for event, body in bodies.items()
    }


def _differs(column: str) -> str:
    # A column's own collation may take other letters for the same.
    return f"OLD.{quoted(column)} IS NOT NEW.{quoted(column)} COLLATE BINARY"


def _same(terms: Sequence[tuple[str, str]], shape: Shape) -> str:
    """Return the condition that a row of the table has the values of a unique key."""
    plain = {quoted(column) for column in shape.columns}
    values = ", ".join(f"NEW.{quoted(column)} AS {quoted(column)}" for column in shape.columns)
    return " AND ".join(
        f"{term} = NEW.{term} COLLATE {quoted(collation)}"
        if term in plain
        else f"({term}) = (SELECT {term} FROM (SELECT {values})) COLLATE {quoted(collation)}"
        for term, collation in terms
    )


def _plain(terms: Sequence[tuple[str, str]], shape: Shape) -> list[str]:
    """Return the columns of a unique key; all of the table, where one is an expression."""
    by_name = {quoted(column): column for column in shape.columns}
    if all(term in by_name for term, _ in terms):
        return [by_name[term] for term, _ in terms]
    return [column for column in shape.columns if column not in shape.generated]


def _list(columns: dict[str, None]) -> str:
    return ", ".join(map(quoted, columns))

"""Triggers on a host's table, on PostgreSQL: a function of ours appends to the pending rows.

UPDATE fires for each row, by a list of columns, which costs other updates nothing. INSERT and
DELETE fire once a statement; on partitioned tables for each row, because a statement on a
partition fires no trigger of the parent's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ...following.literals import FOLLOWS, Follow
from ...tables.ours import schema_map_of
from ...tables.pending import WRITTEN, pending_name
from ..quoting import literal, quoted
from . import citus
from .names import Names
from .pending import (
    DEFINER,
    SCHEMA,
    check_may_append,
    in_schema,
    removal_of,
    run,
    schema_of_pending,
    schema_that_has,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ...tables.records import Records

AT_ONCE = 10_000  # ids of rows that are gone
ENABLED = {"O", "A"}  # of pg_trigger.tgenabled: fires in ordinary sessions, fires always


def follow(connection: Connection, given: Follow) -> None:
    """Make the function and the triggers, in place of those of the same collection and table.

    Raises:
        SchemaError: The table is on other servers, by Citus; or the role may not note its changes.
        ValueError: The condition cannot be evaluated there.
    """
    table = _table(given, schema_map_of(connection).get(given.schema, given.schema))
    citus.prepare_triggers(connection, table)
    _check(connection, given, table)
    schema = schema_of_pending(connection, given.records)
    check_may_append(connection, given.records, schema)
    has_uuid = _has_uuid(connection, given, table)
    run(
        connection,
        [*_script_down(given, schema), *_script(given, table, schema, has_uuid=has_uuid)],
    )


def unfollow(connection: Connection, given: Follow) -> None:
    """Drop the function and the triggers, if they are there."""
    run(connection, _script_down(given, schema_of_pending(connection, given.records)))


def script(given: Follow) -> list[str]:
    """Return the SQL of `follow`, for a script."""
    return _script(given, _table(given, given.schema), given.records.embeddings.schema)


def script_down(given: Follow) -> list[str]:
    """Return the SQL of `unfollow`, for a script."""
    return _script_down(given, given.records.embeddings.schema)


def _table(given: Follow, schema: str | None) -> str:
    return f"{quoted(schema)}.{quoted(given.table)}" if schema else quoted(given.table)


def _check(connection: Connection, given: Follow, table: str) -> None:
    """Do nothing if a trigger can hold the condition.

    Raises:
        ValueError: It cannot be evaluated where only PostgreSQL's own names are known.
    """
    if given.where is None:
        return
    foreign = connection.execute(
        text(
            "SELECT a.attname, t.typname FROM pg_catalog.pg_attribute a "
            "JOIN pg_catalog.pg_type t ON t.oid = a.atttypid "
            "WHERE a.attrelid = to_regclass(:table) AND a.attname = ANY (:columns) "
            "AND t.typtype = 'b' AND t.typcategory <> 'A' "
            "AND t.typnamespace <> 'pg_catalog'::regnamespace"
        ),
        {"table": table, "columns": list(given.columns)},
    )
    for column, kind in foreign.all():
        if re.search(rf"\b{re.escape(column)}\b", given.where):
            raise ValueError(
                f"where: {column!r} is of the type {kind}, whose operators are an extension's, and "
                "a trigger with a fixed search path sees PostgreSQL's own only. Compare "
                f"CAST({column} AS text), in SQLAlchemy cast({column}, Text)"
            )
    where = connection.scalar(
        text(
            "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) "
            "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.oid = to_regclass(:table)"
        ),
        {"table": table},
    )
    columns = ", ".join(map(quoted, given.columns))
    path = connection.scalar(text("SELECT current_setting('search_path')"))
    set_path = text("SELECT set_config('search_path', :path, true)")
    try:
        with connection.begin_nested():
            connection.execute(set_path, {"path": "pg_catalog, pg_temp"})
            run(
                connection,
                [
                    f"SELECT ({given.where}) IS TRUE FROM (SELECT {columns} FROM {where} LIMIT 1) "
                    "AS of_the_row"
                ],
            )
            connection.execute(set_path, {"path": path})
    except DBAPIError as error:
        raise ValueError(f"where: {given.where!r} cannot be evaluated: {error.orig}") from None


def _script(
    given: Follow, table: str, schema: str | None, *, has_uuid: bool | None = None
) -> list[str]:
    function = f"{SCHEMA}.{quoted(given.stem)}"

    def trigger(event: str, when: str, of: str, argument: str = "") -> str:
        name, call = quoted(f"{given.stem}_{event}"), f"{function}({argument})"
        return f"CREATE TRIGGER {name} {when} ON {table} {of} EXECUTE FUNCTION {call}"

    def of_updates(event: str, columns: tuple[str, ...], argument: str = "") -> str:
        when = f"AFTER UPDATE OF {', '.join(map(quoted, columns))}"
        changed = " OR ".join(map(_differs, columns))
        return trigger(event, when, f"FOR EACH ROW WHEN ({changed})", argument)

    statements = [
        f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger {DEFINER} AS $embeddings$"
        f"{_body(given, has_uuid)}$embeddings$",
        # Else whoever may connect lets it run for a table of his own, with our rights.
        f"REVOKE ALL ON FUNCTION {function}() FROM PUBLIC",
        of_updates("update", given.read),
        of_updates("moved", (given.key,), "'moved'"),
        "DO $follow$ DECLARE part regclass; BEGIN "
        # Who makes a partition later makes its triggers, and that is the owner of the table.
        f"EXECUTE {literal(f'GRANT EXECUTE ON FUNCTION {function}() TO ')} || "
        f"(SELECT relowner::regrole FROM pg_catalog.pg_class WHERE oid = {literal(table)}::regclass"
        "); IF (SELECT relkind FROM pg_catalog.pg_class "
        f"WHERE oid = {literal(table)}::regclass) = 'p' THEN "
        f"{trigger('insert', 'AFTER INSERT', 'FOR EACH ROW')}; "
        f"{trigger('delete', 'AFTER DELETE', 'FOR EACH ROW')}; "
        f"FOR part IN SELECT t.relid FROM pg_catalog.pg_partition_tree({literal(table)}) t "
        "JOIN pg_catalog.pg_class c ON c.oid = t.relid WHERE c.relkind = 'r' LOOP "
        "EXECUTE "
        + literal(f"CREATE TRIGGER {quoted(f'{given.stem}_truncate')} BEFORE TRUNCATE ON ")
        + " || part || "
        + literal(f" FOR EACH STATEMENT EXECUTE FUNCTION {function}()")
        + "; END LOOP; ELSE "
        + trigger("insert", "AFTER INSERT", "REFERENCING NEW TABLE AS added FOR EACH STATEMENT")
        + "; "
        + trigger("delete", "AFTER DELETE", "REFERENCING OLD TABLE AS gone FOR EACH STATEMENT")
        + "; "
        + trigger("truncate", "BEFORE TRUNCATE", "FOR EACH STATEMENT")
        + "; END IF; END $follow$",
    ]
    if given.where is not None:
        statements.append(of_updates("left", given.condition_columns or given.columns, "'left'"))
    theirs = schema_that_has(literal(Names(given.records, schema).pending))
    return [in_schema(statement, schema, theirs) for statement in statements]


def _differs(column: str) -> str:
    # As text, by bytes: json has no operator, and citext one that takes other letters for the same.
    name = quoted(column)
    return f'OLD.{name}::text COLLATE "C" IS DISTINCT FROM NEW.{name}::text COLLATE "C"'


def _script_down(given: Follow, schema: str | None) -> list[str]:
    names = Names(given.records, schema)
    return [f"DROP FUNCTION IF EXISTS {names.inside}{quoted(given.stem)}() CASCADE"]


def _has_uuid(connection: Connection, given: Follow, table: str) -> bool:
    """Return whether the type of the key is uuid."""
    is_uuid = text(
        "SELECT atttypid = 'pg_catalog.uuid'::regtype FROM pg_catalog.pg_attribute "
        "WHERE attrelid = to_regclass(:table) AND attname = :key"
    )
    return bool(connection.scalar(is_uuid, {"table": table, "key": given.key}))


def _body(given: Follow, has_uuid: bool | None) -> str:
    """Return what the function does, by what has happened.

    Args:
        given: What is followed.
        has_uuid: Whether the type of the key is uuid; None if that is asked when it is run.
    """
    key, name = quoted(given.key), literal(given.collection)
    add = f"INSERT INTO {SCHEMA}.{quoted(pending_name(given.records))} (collection, id, change)"

    def id_of(row: str) -> str:
        as_text = f"{row}.{key}::text"
        without = f"replace({as_text}, '-', '')"
        if has_uuid is None:
            is_uuid = f"pg_typeof({row}.{key}) = 'pg_catalog.uuid'::regtype"
            return f"CASE WHEN {is_uuid} THEN {without} ELSE {as_text} END"
        return without if has_uuid else as_text

    def holds(row: str) -> str:
        if given.where is None:
            return "true"
        read = given.condition_columns or given.columns
        values = ", ".join(f"{row}.{quoted(c)} AS {quoted(c)}" for c in read)
        return f"(SELECT ({given.where}) IS TRUE FROM (SELECT {values}) AS of_the_row)"

    def written(row: str, source: str = "") -> str:
        condition = "" if given.where is None else f" WHERE {holds(row)}"
        return f"{add} SELECT {name}, {id_of(row)}, '{WRITTEN}'{source}{condition}"

    def removed(condition: str = "true") -> str:
        return f"IF {condition} THEN PERFORM {remove}({name}, ARRAY[{id_of('OLD')}]); END IF"

    remove = removal_of(given.records)
    # An array has a size that is bounded.
    pages = (
        f"SELECT array_agg(each.id) FROM (SELECT {id_of('gone')} AS id, "
        f"(row_number() OVER ()) / {AT_ONCE} AS page FROM ",
        f" AS gone WHERE {holds('gone')}) AS each GROUP BY each.page",
    )
    remove_pages = f"LOOP PERFORM {remove}({name}, embeddings_ids); END LOOP"
    left = removed(f"{holds('OLD')} AND NOT {holds('NEW')}")
    return (
        f"/* {given.to_json()} */ DECLARE embeddings_ids text[]; BEGIN "
        # What few updates do has triggers of its own, which spares all others the question.
        f"IF TG_OP = 'UPDATE' THEN IF TG_NARGS = 0 THEN {written('NEW')}; "
        f"ELSIF TG_ARGV[0] = 'moved' THEN {removed()}; ELSE {left}; END IF; "
        "ELSIF TG_OP = 'TRUNCATE' THEN FOR embeddings_ids IN EXECUTE "
        f"{literal(pages[0])} || quote_ident(TG_TABLE_SCHEMA) || '.' || "
        f"quote_ident(TG_TABLE_NAME) || {literal(pages[1])} {remove_pages}; "
        "ELSIF TG_LEVEL = 'ROW' THEN "
        f"IF TG_OP = 'INSERT' THEN {written('NEW')}; ELSE {removed(holds('OLD'))}; END IF; "
        f"ELSIF TG_OP = 'INSERT' THEN {written('added', ' FROM added')}; "
        f"ELSE FOR embeddings_ids IN {'gone'.join(pages)} {remove_pages}; END IF; "
        "RETURN NULL; END"
    )


def _may_read(connection: Connection) -> bool:
    """Return whether the role, which may change, may read what triggers there are."""
    may = text(
        "SELECT has_table_privilege('pg_catalog.pg_proc', 'SELECT') "
        "AND has_table_privilege('pg_catalog.pg_trigger', 'SELECT')"
    )
    return bool(connection.scalar(may))


def problems(connection: Connection, given: Follow) -> list[str]:
    """Return what is not as `follow` would make it."""
    if not _may_read(connection):
        return [f"whether {given.table!r} is followed is told to no role without SELECT on pg_proc"]
    schema = schema_of_pending(connection, given.records)
    table = _table(given, schema_map_of(connection).get(given.schema, given.schema))
    if (kept := citus.keeping_of(connection, table)) not in {None, "local"}:
        return [citus.not_followed(table, str(kept))]
    made = connection.execute(
        text(
            "SELECT p.prosrc, p.prosecdef, has_function_privilege('public', p.oid, 'EXECUTE') "
            "FROM pg_catalog.pg_proc p "
            "JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace "
            "WHERE n.nspname = :schema AND p.proname = :name"
        ),
        {"schema": schema, "name": given.stem},
    ).first()
    if made is None:
        return [f"the triggers on {given.table!r} are missing"]
    told = []
    kinds = (_has_uuid(connection, given, table), None)
    body, is_definer, is_for_all = made
    if not is_definer or body not in {in_schema(_body(given, kind), schema) for kind in kinds}:
        told.append(f"the function {given.stem} differs")
    if is_for_all:
        told.append(f"anybody may let the function {given.stem} run for a table of their own")
    found = connection.execute(
        text(
            "SELECT t.tgname, t.tgenabled, c.oid::regclass::text, "
            "c.oid = to_regclass(:table) AS is_table FROM pg_catalog.pg_trigger t "
            "JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid "
            "WHERE NOT t.tgisinternal AND starts_with(t.tgname, :stem)"
        ),
        {"table": table, "stem": given.stem},
    ).all()
    parts = connection.execute(
        text(
            "SELECT c.oid::regclass::text, c.oid = to_regclass(:table) FROM pg_catalog.pg_class c "
            "WHERE c.relkind = 'r' AND (c.oid = to_regclass(:table) OR c.oid IN "
            "(SELECT relid FROM pg_catalog.pg_partition_tree(to_regclass(:table))))"
        ),
        {"table": table},
    ).all()
    there = {name for name, _, _, is_table in found if is_table}
    told += [
        f"the trigger {given.stem}_{event} on {given.table!r} is missing"
        for event in ("insert", "update", "moved", "delete", *(["left"] if given.where else []))
        if f"{given.stem}_{event}" not in there
    ]
    emptied = {relation for name, _, relation, _ in found if name == f"{given.stem}_truncate"}
    told += [
        f"the trigger {given.stem}_truncate on {relation} is missing"
        for relation, _ in parts
        if relation not in emptied
    ]
    told += [
        f"the trigger {name} on {relation} is disabled"
        for name, enabled, relation, _ in found
        if _as_text(enabled) not in ENABLED
    ]
    return told


def _as_text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value  # "char", by asyncpg


def follows(connection: Connection, records: Records) -> list[Follow]:
    """Return what is followed, as the functions that are there tell, to those who may read them."""
    if not _may_read(connection):
        return []
    given = records.embeddings.schema
    found = connection.execute(
        text(
            "SELECT p.prosrc FROM pg_catalog.pg_proc p "
            "JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace "
            f"WHERE n.nspname = coalesce(CAST(:schema AS text), {schema_that_has(':table')}) "
            "AND starts_with(p.proname, :follows) AND position('.' || :table IN p.prosrc) > 0 "
            "AND EXISTS (SELECT 1 FROM pg_catalog.pg_trigger t WHERE t.tgfoid = p.oid) "
            "ORDER BY p.proname"
        ),
        {
            "schema": schema_map_of(connection).get(given, given),
            "follows": FOLLOWS,
            "table": quoted(pending_name(records)),
        },
    ).scalars()
    told = (re.match(r"/\* ({.*?}) \*/", body) for body in found)
    kept = [Follow.from_json(match[1]) for match in told if match]
    return [each for each in kept if each is not None]


def is_followed(connection: Connection, given: Follow, schema: str | None) -> bool:
    """Return whether the triggers stand on the table that they were made for.

    It is sought by its names: to_regclass fails in a schema that the role may not use.
    """
    found = connection.execute(
        text(
            "SELECT 1 FROM pg_catalog.pg_trigger t "
            "JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid "
            "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = :schema AND c.relname = :table AND t.tgname = :name"
        ),
        {"schema": schema, "table": given.table, "name": f"{given.stem}_update"},
    )
    return found.first() is not None

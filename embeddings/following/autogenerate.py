"""Autogenerate of the operations that follow a host's tables, from declarations.

Alembic does it where the host's `env.py` has imported `embeddings.include_object`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from alembic import util
from alembic.autogenerate import comparators, renderers
from alembic.operations.ops import AlterColumnOp, DropTableOp, ModifyTableOps
from sqlalchemy import MetaData, inspect

from .. import databases
from ..tables.alembic import include_object, render_item
from ..tables.custom import KNOWN
from ..tables.records import RECORDS
from . import triggers
from .operations import FollowRowsOp, RowsOp, UnfollowRowsOp

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from alembic.operations.ops import UpgradeOps
    from sqlalchemy import Connection, Inspector

    from .literals import Follow
    from .source import ModelCollection

__all__ = ["include_object", "render_item"]


@renderers.dispatch_for(FollowRowsOp)
@renderers.dispatch_for(UnfollowRowsOp)
def _render(_: AutogenContext, operation: RowsOp) -> str:
    lists = ("columns", "unique")
    named = [
        f"{name}={[*value]!r}" if name in lists else f"{name}={value!r}"
        for name, value in operation.given.values.items()
        if name != "table"
    ]
    return f"op.{operation.name}({', '.join([repr(operation.given.table), *named])})"


# After the tables, whose creation has to come first. Before Alembic 1.18 the order is that of
# registration.
_LAST: dict[str, Any] = (
    {"priority": util.DispatchPriority.LAST} if hasattr(util, "DispatchPriority") else {}
)


@comparators.dispatch_for("schema", **_LAST)
def _compare(context: AutogenContext, upgrade: UpgradeOps, _: object) -> None:
    """Add what makes the triggers those that are declared."""
    connection, metadata = context.connection, context.metadata
    if connection is None or metadata is None:
        return
    all_metadata = [metadata] if isinstance(metadata, MetaData) else list(metadata)
    declared = [each for one in all_metadata for each in triggers.declared_on(one)]
    tables = {(table.schema, table.name) for one in all_metadata for table in one.tables.values()}
    wanted = _wanted(connection, declared, tables)
    there = _there(connection, declared, all_metadata, tables | _dropped(upgrade))
    rebuilt, retyped = _rebuilt(context, upgrade), _retyped(upgrade)

    def is_in_the_way(given: Follow) -> bool:
        table = given.schema, given.table
        return table in rebuilt or any((*table, column) in retyped for column in given.read)

    for place, given in there.items():
        is_as_wanted = place in wanted and _is_as_wanted(connection, given, wanted[place])
        if is_in_the_way(given) or not is_as_wanted:
            # `downgrade` follows again the table as it is now, in a script too.
            former = replace(given, unique=_unique(inspect(connection), given))
            upgrade.ops.insert(0, UnfollowRowsOp(former))
    for place, given in wanted.items():
        is_there = place in there and _is_as_wanted(connection, there[place], given)
        if is_in_the_way(given) or not is_there:
            upgrade.ops.append(FollowRowsOp(given))


def _unique(inspector: Inspector, given: Follow) -> tuple[tuple[str, ...], ...]:
    """Return the unique keys that a table has, as `Follow.unique`; those of expressions are not."""
    table = given.table, given.schema
    if not inspector.has_table(*table):  # it was renamed
        return ()
    found: list[Any] = [
        *inspector.get_unique_constraints(*table),
        *(each for each in inspector.get_indexes(*table) if each["unique"]),
    ]
    keys = {tuple(each["column_names"]) for each in found}
    return tuple(sorted(key for key in keys if all(key)))


Place = tuple[str | None, str, str, str]
"""Schema, table, collection and table of embeddings."""


def _place(given: Follow) -> Place:
    return given.schema, given.table, given.collection, given.embeddings


Name = tuple[str | None, str]
"""Schema and table."""


def _wanted(
    connection: Connection, declared: list[ModelCollection[Any]], tables: set[Name]
) -> dict[Place, Follow]:
    """Return what is declared on those tables: a declaration may outlive its own."""
    wanted = (given for each in declared for given in triggers.follows_of(each, connection.dialect))
    return {_place(given): given for given in wanted if (given.schema, given.table) in tables}


def _there(
    connection: Connection,
    declared: list[ModelCollection[Any]],
    all_metadata: list[MetaData],
    tables: set[Name],
) -> dict[Place, Follow]:
    """Return what is followed of those tables, also where no declaration is left."""
    database = databases.of(connection.dialect)
    records = {RECORDS, *(each.records for each in declared)}
    records |= {each for each in KNOWN if each.embeddings.metadata in all_metadata}
    found = (given for each in records for given in database.follows(connection, each))
    return {_place(given): given for given in found if (given.schema, given.table) in tables}


def _dropped(upgrade: UpgradeOps) -> set[Name]:
    """Return the tables that are dropped: their triggers' functions would stay on PostgreSQL."""
    return {(each.schema, each.table_name) for each in upgrade.ops if isinstance(each, DropTableOp)}


def _is_as_wanted(connection: Connection, there: Follow, wanted: Follow) -> bool:
    database = databases.of(connection.dialect)
    return there.to_json() == wanted.to_json() and not database.follow_problems(connection, wanted)


def _rebuilt(context: AutogenContext, upgrade: UpgradeOps) -> set[Name]:
    """Return the tables that batch mode makes anew, which drops their triggers."""
    batch = bool(context.opts and context.opts.get("render_as_batch"))
    connection = context.connection
    if connection is None or not batch or not databases.of(connection.dialect).rebuilds_tables:
        return set()
    changed = (each for each in upgrade.ops if isinstance(each, ModifyTableOps))
    return {(each.schema, each.table_name) for each in changed}


def _retyped(upgrade: UpgradeOps) -> set[tuple[str | None, str, str]]:
    """Return the columns that get another type: PostgreSQL refuses it where a trigger reads them.

    Each is (schema, table, column).
    """
    changed = (each for each in upgrade.ops if isinstance(each, ModifyTableOps))
    return {
        (each.schema, each.table_name, one.column_name)
        for each in changed
        for one in each.ops
        if isinstance(one, AlterColumnOp) and one.modify_type is not None
    }

"""The tables, made and removed by Django's migrations and by what happens around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.management.base import CommandError
from django.db import DEFAULT_DB_ALIAS, connections, router
from django.db.migrations.loader import MigrationLoader
from sqlalchemy import delete, func, inspect, select
from sqlalchemy.schema import CreateIndex, CreateTable, DDLElement

from ... import databases
from ...collection import Collection
from ...databases.additions import ADDITIONS
from ...errors import SchemaError
from ...following import triggers
from ...tables import indexing
from ...tables import migrate as alembic
from ...tables.custom import install
from ...tables.lost import lost
from ...tables.ours import are_missing
from ...tables.pending import pending_table
from ...tables.records import RECORDS
from ...work.operation import Work
from ...writing import text_index
from .conf import app_label
from .database import DjangoTransactions, before_tables, session
from .internals import is_flushing
from .tables import records

if TYPE_CHECKING:
    from django.db.migrations import Migration
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

    from ...following.literals import Follow
    from ...tables.indexing import EmbeddingIndex, TextIndex
    from ...tables.records import Records

BASE = "base"


def upgrade(alias: str, revision: str) -> None:
    """Bring the tables to a revision, in Django's transaction."""
    with session(alias) as lent:
        if records() is RECORDS:
            alembic.migrate(lent.connection(), revision)
        else:
            _make(lent.connection(), records())


def downgrade(alias: str, revision: str) -> None:
    """Take the tables back to a revision, in Django's transaction.

    Raises:
        SchemaError: Rows would be lost.
    """
    with session(alias) as lent:
        if records() is RECORDS:
            alembic.downgrade(lent.connection(), revision, remedy=_remedy(alias))
        elif revision == BASE:
            if in_the_way := _rows_in_the_way(lent, alias):
                raise SchemaError(in_the_way)
            records().collections.metadata.drop_all(lent.connection())


def script(alias: str, start: str, end: str) -> str:
    """Return the SQL from one revision to another."""
    tables = records()
    dialect = DjangoTransactions(alias).dialect(tables)
    if tables is RECORDS:
        return alembic.script(dialect.name, start, end)
    if BASE not in {start, end}:
        return "-- Nothing: the tables of a prefix are made at once."
    made, database = tables.collections.metadata.sorted_tables, databases.of(dialect)
    if end == BASE:
        statements = []
        for name in reversed(ADDITIONS):
            statements += database.addition(name).script_down(tables)
        statements += [f"DROP TABLE {table.name}" for table in reversed(made)]
    else:
        statements = before_tables(alias)
        for table in made:
            parts: list[DDLElement] = [CreateTable(table), *map(CreateIndex, table.indexes)]
            statements += [str(part.compile(dialect=dialect)).strip() for part in parts]
        for name in ADDITIONS:
            statements += database.addition(name).script(tables)
    return "\n\n".join(f"{statement};" for statement in statements)


def follow(alias: str, given: Follow) -> None:
    """Make the triggers on a table, in Django's transaction."""
    with session(alias) as lent:
        triggers.follow(lent.connection(), given)


def unfollow(alias: str, given: Follow) -> None:
    """Drop the triggers on a table, in Django's transaction."""
    with session(alias) as lent:
        triggers.unfollow(lent.connection(), given)


def follow_script(alias: str, given: Follow, *, drops: bool) -> str:
    """Return the SQL that makes the triggers on a table, or drops them."""
    database = databases.of(DjangoTransactions(alias).dialect(given.records))
    statements = database.unfollow_script(given) if drops else database.follow_script(given)
    return "\n\n".join(f"{statement};" for statement in statements)


def change_index(alias: str, given: EmbeddingIndex, *, drops: bool) -> None:
    """Make the index of a collection, or drop it, in Django's transaction."""
    with session(alias) as lent:
        change = indexing.drop if drops else indexing.make
        change(lent.connection(), given)


def index_script(alias: str, given: EmbeddingIndex, *, drops: bool) -> str:
    """Return the SQL that makes the index of a collection, or drops it."""
    database = databases.of(DjangoTransactions(alias).dialect(given.records))
    script = database.index_script_down if drops else database.index_script
    return "\n\n".join(f"{statement};" for statement in script(given, None))


def change_text_index(alias: str, given: TextIndex, *, drops: bool) -> None:
    """Make the text index of a collection, or drop it, in Django's transaction."""
    with session(alias) as lent:
        change = text_index.drop_by_name if drops else text_index.create_by_name
        change(lent.connection(), given)


def text_index_script(alias: str, given: TextIndex, *, drops: bool) -> str:
    """Return the SQL that makes the text index of a collection, or drops it; or a remark."""
    database = databases.of(DjangoTransactions(alias).dialect(given.records))
    script = database.text_index_script_down if drops else database.text_index_script
    statements = script(given)
    if statements is None:
        return f"-- {text_index.not_in_script(given)}"
    return "\n\n".join(f"{statement};" for statement in statements)


def _make(connection: Connection, tables: Records) -> None:
    """Make the tables of a prefix, and what stands beside them."""
    tables.collections.metadata.create_all(connection)
    install(connection, tables)


def _rows_in_the_way(lent: Session, alias: str) -> str | None:
    """Return what to do about rows that would be lost; None if there are none."""
    tables = records()
    if are_missing(Work(lent, tables)):
        return None
    counts = (
        lent.scalar(select(func.count()).select_from(table))
        for table in (tables.collections, tables.embeddings)
    )
    rows = sum(count or 0 for count in counts)
    if not rows:
        return None
    return (
        f"Going back would drop {rows} rows of {tables.collections.name} and "
        f"{tables.embeddings.name}. {_remedy(alias)}"
    )


def _remedy(alias: str) -> str:
    tables, database = records(), f" --database={alias}" * (alias != DEFAULT_DB_ALIAS)
    return (
        f"To lose them, type in manage.py dbshell{database}: DELETE FROM "
        f"{tables.embeddings.name}; DELETE FROM {tables.collections.name};"
    )


def before_migration(*, using: str, plan: list[tuple[Migration, bool]], **_: Any) -> None:
    """Let `migrate` do nothing of which it would record what it did not do.

    Raises:
        CommandError: The tables would be removed with rows in them; nothing is done yet.
    """
    label = app_label()
    ours = [step for step in plan if step[0].app_label == label]
    if not router.allow_migrate(using, label):
        if not _others_need(label):
            plan[:] = [step for step in plan if step not in ours]
        return
    if any(is_backwards and migration.initial for migration, is_backwards in ours):
        with session(using) as lent:
            if in_the_way := _rows_in_the_way(lent, using):
                raise CommandError(in_the_way)


def _others_need(label: str) -> bool:
    """Return whether a migration of another app depends on ours, which Django would miss."""
    migrations = MigrationLoader(None, ignore_no_migrations=True).disk_migrations
    return any(
        dependency[0] == label
        for (app, _), migration in migrations.items()
        if app != label
        for dependency in migration.dependencies
    )


def after_migration(*, using: str, plan: object = None, **_: Any) -> None:
    """Make the tables where Django has no migrations, or what was lost; empty them after `flush`.

    Django empties the tables of Django models only, by `flush` and so after each
    `TransactionTestCase`. It then sends the signal that it also sends after `migrate`, which has a
    plan. A migration may send it, too, to have permissions made.
    """
    label = app_label()
    if not router.allow_migrate(using, label):
        return
    with session(using) as lent:
        work = Work(lent, records())
        if plan is None:
            if is_flushing() and not are_missing(work):
                _empty(work)
        elif _is_in_part(work) and _are_migrated(using, label):
            upgrade(using, "head")


def _is_in_part(work: Work) -> bool:
    """Return whether tables are missing, or what others have removed from them."""
    return are_missing(work) or bool(lost(work.connection, work.records))


def _empty(work: Work) -> None:
    """Delete every collection, with what stands beside it, and all that is pending."""
    lent, tables = work.session, work.records
    for name in Collection.names(lent, records=tables):
        Collection(name, lent, records=tables).delete()
    lent.execute(delete(tables.embedding))  # of collections without a name
    lent.execute(delete(tables.collection))
    pending = pending_table(tables)
    if inspect(work.connection).has_table(pending.name, pending.schema):
        lent.execute(delete(pending))


def _are_migrated(using: str, label: str) -> bool:
    """Return whether Django takes the tables for made: by its records, or without migrations."""
    loader = MigrationLoader(connections[using], ignore_no_migrations=True)
    if label in loader.unmigrated_apps:
        return True
    return set(loader.graph.leaf_nodes(label)) <= {*loader.applied_migrations}

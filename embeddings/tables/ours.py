"""The tables in a database: are they there, are they ours, and what to do if not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError, NoSuchTableError, OperationalError, ProgrammingError

from .. import databases
from ..errors import SchemaError
from ..sessions.base import add_hint
from .pending import pending_name, pending_table
from .records import RECORDS, Records

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from ..work.operation import Work

VERSION_TABLE = "embeddings_alembic_version"
ADVICE = "embeddings_advice"
"""The execution option of an engine whose users are told other things: see `Advice`."""
# Columns without which a table of a documented name is not ours: llm's first version had these.
OLDEST_COLUMNS = {
    "collections": {"id", "name", "model"},
    "embeddings": {"collection_id", "id", "embedding", "content", "metadata"},
}


@dataclass(frozen=True)
class Advice:
    """What errors tell the users of a framework to do.

    Attributes:
        migrate: Returns what they type where the tables are missing.
        other_names: How the tables are given other names.
        unfollow: How triggers on a host's table are dropped.
        follow_anew: How they are dropped, and made for other columns.
        default_model: What says which model new collections have.
    """

    migrate: Callable[[], str]
    other_names: str
    unfollow: str = "op.unfollow_rows in a revision"
    follow_anew: str = "op.unfollow_rows and op.follow_rows in a revision"
    default_model: str = "embeddings.set_default_model, or EMBEDDINGS_MODEL"


_FRAMEWORKS: dict[str, Callable[[], str | None]] = {}


def use_words(framework: str, migrate: Callable[[], str | None]) -> None:
    """Let a framework say what users of the application at work type where the tables are missing.

    Args:
        framework: Its name. What was given before under the same name is forgotten.
        migrate: Called for every error. Returns None when no application is at work.
    """
    _FRAMEWORKS[framework] = migrate


def _migrate() -> str:
    words = (ask() for ask in _FRAMEWORKS.values())
    return next(filter(None, words), "embeddings.migrate(engine)")


OWN_WORDS = Advice(_migrate, "embeddings.make_records(Base, prefix=...)")


def advice_of(bind: Connection | Engine) -> Advice:
    """Return what to tell the users of an engine."""
    advice: Advice = bind.get_execution_options().get(ADVICE, OWN_WORDS)
    return advice


def schema_map_of(connection: Connection) -> dict[str | None, str]:
    """Return which schemas the connection puts in the place of others."""
    return connection.get_execution_options().get("schema_translate_map") or {}


def schema_of(connection: Connection, given: str | None = None) -> str | None:
    """Return the schema in which the connection makes a table.

    Args:
        connection: To the database.
        given: The schema that the table names, if it does.

    Returns:
        None on SQLite, for a table that names none.
    """
    schema = schema_map_of(connection).get(given, given)
    return schema or databases.of(connection.dialect).default_schema(connection)


def schema_found(connection: Connection, table: str, given: str | None = None) -> str | None:
    """Return the schema in which the connection finds a table, if not by the first it looks in.

    Arguments and what it returns as of `schema_of`, which it is for a table that is not there.
    """
    schema = schema_map_of(connection).get(given, given)
    return schema or databases.of(connection.dialect).schema_found(connection, table)


def check_adoptable(connection: Connection, records: Records = RECORDS) -> None:
    """Do nothing if what the database has of the two tables, of whatever age, is ours.

    Raises:
        SchemaError: A table lacks columns, or stands without the other one that `migrate` would
            have made with it: then it is somebody else's. Or the name of a side table is taken.
    """
    lacking, advice = _lacking(connection, records), advice_of(connection)
    reason = _foreign(lacking, records, advice)
    if reason is None and records is RECORDS and list(lacking.values()).count(None) == 1:
        name = next(name for name, columns in lacking.items() if columns is not None)
        reason = _is_foreign(name, "stands without its partner", advice)
    if reason:
        raise SchemaError(f"{reason}. Nothing was changed")
    databases.of(connection.dialect).check_side_tables(connection, records)
    _check_pending(connection, records)


def _check_pending(connection: Connection, records: Records) -> None:
    table = pending_table(records)
    schema = schema_of(connection, table.schema)
    try:
        columns = {column["name"] for column in inspect(connection).get_columns(table.name, schema)}
    except NoSuchTableError:
        return
    if not {column.name for column in table.columns} <= columns:
        raise SchemaError(
            f"This database has a table {table.name!r}, a name that this library needs for the "
            "rows that are pending. Nothing was changed"
        )


def _lacking(connection: Connection, records: Records) -> dict[str, set[str] | None]:
    """Return which columns each table lacks; None if it is not there."""
    databases.of(connection.dialect).know_types()
    inspector = inspect(connection)
    lacking: dict[str, set[str] | None] = {}
    for table in (records.collections, records.embeddings):
        schema = schema_of(connection, table.schema)
        try:
            columns = {column["name"] for column in inspector.get_columns(table.name, schema)}
        except NoSuchTableError:
            lacking[table.name] = None
        else:
            lacking[table.name] = {column.name for column in table.columns} - columns
    return lacking


def _foreign(lacking: dict[str, set[str] | None], records: Records, advice: Advice) -> str | None:
    for name, columns in lacking.items():
        essential = OLDEST_COLUMNS[name] if records is RECORDS else columns
        if columns and essential and (missed := columns & essential):
            return _is_foreign(name, f"lacks the columns {sorted(missed)}", advice)
    return None


def _is_foreign(name: str, reason: str, advice: Advice) -> str:
    return (
        f"This database has a table {name!r} that is not of this library: it {reason}. Leave it, "
        f"and give ours other names: {advice.other_names}"
    )


def are_missing(work: Work) -> bool:
    """Return whether one of the two tables is absent."""
    return None in _lacking(work.connection, work.records).values()


def are_complete(connection: Connection) -> bool:
    """Return whether the two tables are there with every column."""
    return not any(missing is None or missing for missing in _lacking(connection, RECORDS).values())


def explain(error: DBAPIError, work: Work) -> None:
    """Say what to do about an error that comes of the tables, or add a hint to it.

    Raises:
        SchemaError: They are missing, or somebody else's.
    """
    if isinstance(error, OperationalError | ProgrammingError) and (reason := _reason(error, work)):
        raise SchemaError(reason) from None
    add_hint(error, work.dialect)


def _reason(error: DBAPIError, work: Work) -> str | None:
    records, advice = work.records, advice_of(work.bind)
    lacking = work.database.lacking(error, records)
    if lacking is None:
        lacking = _lacking(work.connection, records)
        foreign = _foreign(lacking, records, advice)
        if pending_name(records) in str(error.orig):  # a later revision makes it
            lacking[pending_name(records)] = None
    else:
        # By the error alone, which names what the statement needed.
        foreign = next(
            (_is_foreign(name, "lacks columns", advice) for name in lacking if lacking[name]), None
        )
    is_incomplete = None in lacking.values() or any(lacking.values())
    return foreign or (_message_of_missing(work, lacking) if is_incomplete else None)


def _message_of_missing(work: Work, lacking: dict[str, set[str] | None]) -> str:
    records, advice = work.records, advice_of(work.bind)
    if records is RECORDS or advice is not OWN_WORDS:
        call = advice.migrate()
        if work.dialect.is_async:
            call = (
                "async with engine.begin() as connection: "
                "await connection.run_sync(embeddings.migrate)"
            )
        return (
            "The tables of the embeddings are not in this database, or are of an older version. "
            f"Create them, or bring them up to date, with {call}"
        )
    if [name for name, columns in lacking.items() if columns is None] == [pending_name(records)]:
        return (
            f"There is no table {pending_name(records)!r} in this database. Create it with "
            "embeddings.install(connection, records)"
        )
    return (
        f"The tables {records.collections.fullname!r} and {records.embeddings.fullname!r} are not "
        "in this database. Create them with a migration of your own, or with create_all() of "
        "their metadata"
    )

"""The command `embeddings`: create the tables of a database, and look at what is in it.

Extra: `cli`. The commands get their database from the group that they are in, so that a framework
can put them into a command of its own.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from .errors import EmbeddingsError, MissingExtraError
from .overview import overview
from .sessions.open import open_engine
from .tables.migrate import head_revision, migrate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

try:
    import click
except ImportError:
    raise MissingExtraError("click", "cli") from None

Target = Engine | str
"""An engine, or the URL or path of a database."""


@click.group()
@click.option(
    "--database",
    envvar="EMBEDDINGS_DATABASE_URL",
    show_envvar=True,
    required=True,
    metavar="URL",
    help="The database's URL, or the path of a SQLite file.",
)
@click.version_option(package_name="sqlalchemy-embeddings")
@click.pass_context
def embeddings(context: click.Context, database: str) -> None:
    """Embeddings in your database: its tables, and what is in them."""
    context.obj = database


@embeddings.command("migrate")
@click.pass_obj
def migrate_command(database: Target) -> None:
    """Create the tables, or bring them up to date."""
    with _one_line_errors(), _engine(database) as engine:
        migrate(engine)
    click.echo(f"The schema is at {head_revision()}.")


@embeddings.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def status_command(context: click.Context, as_json: bool) -> None:
    """Show the schema and every collection; exit with 1 if there is something to migrate."""
    with _one_line_errors():
        found = overview(context.obj)
    click.echo(json.dumps(asdict(found), ensure_ascii=False) if as_json else found)
    context.exit(0 if found.is_current else 1)


@embeddings.command("collections")
@click.pass_obj
def collections_command(database: Target) -> None:
    """Print the names of the collections, one a line."""
    with _one_line_errors():
        collections = overview(database).collections
    for collection in collections:
        click.echo(collection.name)


def commands_on(find_engine: Callable[[], Engine]) -> click.Group:
    """Return the commands as a group for a framework's own program, which knows the database."""

    @click.group("embeddings", commands=embeddings.commands, help=embeddings.help)
    @click.pass_context
    def group(context: click.Context) -> None:
        with _one_line_errors():
            context.obj = find_engine()

    return group


@contextmanager
def _engine(database: Target) -> Iterator[Engine]:
    if isinstance(database, Engine):
        yield database
        return
    engine = open_engine(database)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turn errors that a user can do something about into one line, which holds no URL."""
    try:
        yield
    except (EmbeddingsError, SQLAlchemyError, ImportError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise click.ClickException(" ".join(str(cause).split())) from None

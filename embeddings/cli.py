"""The command `embeddings`: create the tables of a database, and look at what is in it.

Extra: `cli`. The commands get their database from the group that they are in, so that a framework
can put them into a command of its own.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from . import commands
from .errors import EmbeddingsError, MissingExtraError
from .sessions.open import open_engine
from .tables.migrate import head_revision, migrate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

try:
    import click
except ImportError:
    raise MissingExtraError("click", "cli") from None

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

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
@json_option
@click.pass_context
def status_command(context: click.Context, as_json: bool) -> None:
    """Show the schema and every collection; exit with 1 if there is something to migrate."""
    with _one_line_errors():
        outcome = commands.status(context.obj, as_json=as_json)
    _end(context, outcome)


@embeddings.command("search")
@click.argument("collection")
@click.argument("text")
@click.option("--number", "-n", default=10, show_default=True, help="The most results.")
@click.option("--prefix", help="Only ids that begin with this.")
@json_option
@click.pass_context
def search_command(
    context: click.Context,
    collection: str,
    text: str,
    number: int,
    prefix: str | None,
    as_json: bool,
) -> None:
    """Print what COLLECTION has nearest to TEXT: score, id and content; exit with 1 if nothing."""
    with _one_line_errors():
        outcome = commands.search(
            context.obj, collection, text, number=number, prefix=prefix, as_json=as_json
        )
    _end(context, outcome)


@embeddings.command("show")
@click.argument("collection")
@click.argument("id", required=False)
@json_option
@click.pass_context
def show_command(context: click.Context, collection: str, id: str | None, as_json: bool) -> None:
    """Show COLLECTION, or the item ID in it; exit with 1 if it is not there."""
    with _one_line_errors():
        outcome = commands.show(context.obj, collection, id, as_json=as_json)
    _end(context, outcome)


def _end(context: click.Context, outcome: commands.Outcome) -> None:
    click.echo(outcome.text)
    context.exit(0 if outcome.is_good else 1)


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

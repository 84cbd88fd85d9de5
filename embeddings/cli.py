"""The command `embeddings`: create the tables of a database, and look at what is in it.

Extra: `cli`. The commands get their database from the group that they are in, so that a framework
can put them into a command of its own.
"""

from __future__ import annotations

import shlex
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from . import commands
from .errors import EmbeddingsError, MissingExtraError
from .following import commands as following
from .sessions.open import is_missing_file, open_engine, url_of
from .tables.migrate import head_revision, migrate
from .tables.ours import use_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

try:
    import click
    from click.core import ParameterSource
except ImportError:
    raise MissingExtraError("click", "cli") from None

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

table_option = click.option(
    "--table", help="Of the embeddings, where several have a collection of this name."
)

COLLECTIONS = "embeddings.collections"
"""Where a command's context has the collections that were declared."""
Target = Engine | str
"""An engine, or the URL or path of a database."""


@click.group()
@click.option(
    "--database",
    envvar="EMBEDDINGS_DATABASE_URL",
    show_envvar=True,
    metavar="URL",
    help="The database's URL, or the path of a SQLite file. Required.",
)
@click.option(
    "--from",
    "places",
    multiple=True,
    metavar="MODULE:NAME",
    help="A declared collection, a list of them, or (MODULE alone) all of a module.",
)
@click.version_option(package_name="sqlalchemy-embeddings")
@click.pass_context
def embeddings(context: click.Context, database: str | None, places: tuple[str, ...]) -> None:
    """Embeddings in your database: its tables, and what is in them."""
    context.obj = database
    if places:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
        with _one_line_errors():
            context.meta[COLLECTIONS] = following.declared(places)


@embeddings.command("migrate")
@click.pass_context
def migrate_command(context: click.Context) -> None:
    """Create the tables, or bring them up to date."""
    with _one_line_errors(), _engine(_target(context), creates=True) as engine:
        migrate(engine)
    click.echo(f"The schema is at {head_revision()}.")


@embeddings.command("status")
@json_option
@click.pass_context
def status_command(context: click.Context, as_json: bool) -> None:
    """Show the schema and every collection; exit with 1 if there is something to migrate.

    Or if triggers are not in place: as --from declares them, others as they were made.
    """
    declared = context.meta.get(COLLECTIONS, ())
    with _one_line_errors():
        outcome = commands.status(
            _target(context), as_json=as_json, declared=declared, program=_program(context)
        )
    _end(context, outcome)


@embeddings.command("search")
@click.argument("collection")
@click.argument("text")
@click.option("--number", "-n", default=10, show_default=True, help="The most results.")
@click.option("--prefix", help="Only ids that begin with this.")
@table_option
@json_option
@click.pass_context
def search_command(
    context: click.Context,
    collection: str,
    text: str,
    number: int,
    prefix: str | None,
    table: str | None,
    as_json: bool,
) -> None:
    """Print what COLLECTION has nearest to TEXT: score, id and content; exit with 1 if nothing."""
    with _one_line_errors():
        outcome = commands.search(
            _target(context),
            collection,
            text,
            number=number,
            prefix=prefix,
            as_json=as_json,
            declared=context.meta.get(COLLECTIONS, ()),
            table=table,
        )
    _end(context, outcome)


@embeddings.command("show")
@click.argument("collection")
@click.argument("id", required=False)
@table_option
@json_option
@click.pass_context
def show_command(
    context: click.Context, collection: str, id: str | None, table: str | None, as_json: bool
) -> None:
    """Show COLLECTION, or the item ID in it; exit with 1 if it is not there."""
    with _one_line_errors():
        declared = context.meta.get(COLLECTIONS, ())
        outcome = commands.show(
            _target(context), collection, id, as_json=as_json, declared=declared, table=table
        )
    _end(context, outcome)


@embeddings.command("distribute")
@click.option(
    "--by",
    type=click.Choice(["collection", "item"]),
    default="collection",
    show_default=True,
    help="Each collection on one server, or the items of each on all of them.",
)
@click.option("--undo", is_flag=True, help="Bring them back to the coordinator.")
@click.pass_context
def distribute_command(
    context: click.Context, by: Literal["collection", "item"], undo: bool
) -> None:
    """Distribute the tables over several servers, by Citus; see the page on it."""
    with _one_line_errors(), _engine(_target(context)) as engine, engine.begin() as connection:
        outcome = commands.distribute(connection, by, undo=undo)
    _end(context, outcome)


names_argument = click.argument("names", metavar="[COLLECTION]...", nargs=-1)


@embeddings.command("check")
@names_argument
@click.pass_context
def check_command(context: click.Context, names: tuple[str, ...]) -> None:
    """Say what is stale, missing or orphaned, and where triggers differ; exit with 1 if so."""
    with _one_line_errors(), _declared(context, names) as (engine, collections):
        outcome = following.check(engine, collections, _program(context))
    _end(context, commands.Outcome(*outcome))


@embeddings.command("sync")
@names_argument
@click.option("--no-prune", is_flag=True, help="Remove nothing.")
@click.option("--allow-empty", is_flag=True, help="Remove everything if there are no rows.")
@click.pass_context
def sync_command(
    context: click.Context, names: tuple[str, ...], no_prune: bool, allow_empty: bool
) -> None:
    """Compare every row, embed what differs, remove what is gone; exit with 1 if rows were left."""
    with _one_line_errors(), _declared(context, names) as (engine, collections):
        outcome = following.sync(
            engine,
            collections,
            prune=not no_prune,
            allow_empty=allow_empty,
            progress=_has_bar(),
        )
    _end(context, commands.Outcome(*outcome))


@embeddings.command("refresh")
@names_argument
@click.option("--forever", is_flag=True, help="Do not end, but look every second.")
@click.option("--limit", type=click.IntRange(1), help="The most rows of each collection.")
@click.pass_context
def refresh_command(
    context: click.Context, names: tuple[str, ...], forever: bool, limit: int | None
) -> None:
    """Embed the rows that are pending; exit with 1 if some could not be."""
    with _one_line_errors(), _declared(context, names) as (engine, collections):
        outcome = following.refresh(
            engine,
            collections,
            limit=limit,
            forever=forever,
            progress=_has_bar() and not forever,
        )
    _end(context, commands.Outcome(*outcome))


@embeddings.command("reembed")
@click.argument("collection")
@click.argument("model", required=False)
@click.option("--back", is_flag=True, help="Let it be of the model that it had before.")
@click.option("--drop-previous", is_flag=True, help="Delete the vectors of the model before.")
@table_option
@click.pass_context
def reembed_command(
    context: click.Context,
    collection: str,
    model: str | None,
    back: bool,
    drop_previous: bool,
    table: str | None,
) -> None:
    """Embed COLLECTION anew by MODEL, beside the vectors that it has, and switch to these.

    By default by the model of its declaration or of the settings. It can be interrupted, and called
    again.
    """
    with _one_line_errors(), _engine(_target(context), f"Collection {collection!r}") as engine:
        outcome = commands.reembed(
            engine,
            collection,
            model,
            declared=context.meta.get(COLLECTIONS, ()),
            table=table,
            back=back,
            drop_previous=drop_previous,
            progress=_has_bar(),
        )
    _end(context, outcome)


def _target(context: click.Context) -> Target:
    """Return the database of a command, which is asked for its help without one."""
    if context.obj is None:
        raise click.UsageError(
            "Give --database URL before the command, or set EMBEDDINGS_DATABASE_URL", context
        )
    target: Target = context.obj
    return target


def _migrate() -> str | None:
    """Return what one types where the tables are missing, if this is the program at work."""
    context = click.get_current_context(silent=True)
    if context is None or context.find_root().command is not embeddings:
        return None
    return f"{_program(context)} migrate"


use_words("program", _migrate)


def _program(context: click.Context) -> str:
    """Return what was typed before the name of the command, without a password."""
    group = context.parent or context
    options: list[str] = []
    if group.get_parameter_source("database") is ParameterSource.COMMANDLINE:
        options += ["--database", shown_url(group.params["database"])]
    for place in group.params.get("places", ()):
        options += ["--from", place]
    return " ".join([group.command_path, *map(shlex.quote, options)])


def shown_url(database: str) -> str:
    """Return what was typed as a database; a password is taken out of it."""
    if "://" not in database:
        return database
    url = url_of(database)
    if url.password is None and "password" not in url.query:
        return database
    return url.difference_update_query(["password"]).render_as_string()


@contextmanager
def _declared(
    context: click.Context, names: tuple[str, ...]
) -> Iterator[tuple[Engine, list[following.Followed]]]:
    """Yield the engine, and the declared collections of some names, or all."""
    collections = following.chosen(context.meta.get(COLLECTIONS, ()), names)
    with _engine(_target(context), f"Collection {collections[0].name!r}") as engine:
        yield engine, collections


def _has_bar() -> bool:
    return sys.stderr.isatty()


def _end(context: click.Context, outcome: commands.Outcome) -> None:
    click.echo(outcome.text)
    context.exit(0 if outcome.is_good else 1)


def commands_on(
    find_engine: Callable[[], Engine],
    find_collections: Callable[[], Sequence[following.Followed]] = tuple,
) -> click.Group:
    """Return the commands as a group for a framework's own program.

    Args:
        find_engine: Returns the engine of its database.
        find_collections: Returns the collections that it has declared.
    """

    @click.group("embeddings", commands=embeddings.commands, help=embeddings.help)
    @click.pass_context
    def group(context: click.Context) -> None:
        with _one_line_errors():
            context.obj = find_engine()
            context.meta[COLLECTIONS] = find_collections()

    return group


@contextmanager
def _engine(
    database: Target, what: str = "The database", *, creates: bool = False
) -> Iterator[Engine]:
    """Yield the engine of a database, whose file is there, or is created.

    Args:
        database: Of the command.
        what: What does not exist without the file, for an error.
        creates: Whether it may be created.
    """
    if isinstance(database, Engine):
        yield database
        return
    if not creates and is_missing_file(database):
        raise commands.no_such_file(what)
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

"""manage.py embeddings: the commands of the program `embeddings`, on Django's databases."""

from __future__ import annotations

import shlex
from argparse import SUPPRESS
from functools import partial
from typing import TYPE_CHECKING, Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS, connections, router
from sqlalchemy.exc import SQLAlchemyError

from ..... import commands
from .....errors import EmbeddingsError
from .....following import commands as following
from .....overview import Declaration
from ...checking import names_followed
from ...collection import DECLARED
from ...conf import PROGRAM, app_label
from ...database import DjangoTransactions, remedy, session
from ...following import AS_DECLARED
from ...operations import followed
from ...tables import records

if TYPE_CHECKING:
    from django.core.management.base import CommandParser

    from .....collection import Collection
    from .....following.pending import PendingState
    from .....writing.report import Report
    from ...collection import ModelCollection

REMEDY = (
    "Make the triggers in a migration: FollowRows(...), behind what changed the table. What "
    f"changed meanwhile is found by {PROGRAM} sync."
)

UNFOLLOWED = "Without triggers, and so written by embed, embed_multi and sync alone"

PRINT_JSON = ("status", "search", "show")

# Django's own options, which may also stand behind the subcommand. It reads --settings and
# --pythonpath before it reads the rest.
COMMON: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("--settings",), {}),
    (("--pythonpath",), {}),
    (("-v", "--verbosity"), {"type": int, "choices": [0, 1, 2, 3]}),
    (("--traceback",), {"action": "store_true"}),
    (("--no-color",), {"action": "store_true"}),
    (("--force-color",), {"action": "store_true"}),
    (("--skip-checks",), {"action": "store_true"}),
)


class Command(BaseCommand):
    """The command `embeddings`."""

    help = "Embeddings in the database: their tables, and what is in them."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the subcommands."""
        subcommands = parser.add_subparsers(dest="command", required=True)

        def add_own(command: CommandParser, default: str) -> None:
            command.add_argument(
                "--database",
                default=default,
                choices=tuple(connections),
                help="The alias of the database.",
            )
            command.add_argument(
                "--json",
                action="store_true",
                default=default if default == SUPPRESS else False,
                help="Print JSON.",
            )

        def add(name: str, help: str) -> CommandParser:
            command: CommandParser = subcommands.add_parser(name, help=help, description=help)
            add_own(command, SUPPRESS)
            for names, options in COMMON:
                command.add_argument(*names, default=SUPPRESS, help=SUPPRESS, **options)
            return command

        add_own(parser, DEFAULT_DB_ALIAS)
        add("migrate", "Create the tables, or bring them up to date.")
        add("status", "Show the schema and every collection; fail if there is one to migrate.")
        search = add("search", "Print what is nearest to a text; fail if that is nothing.")
        search.add_argument("collection", help="The name of the collection.")
        search.add_argument("text", help="What to search for.")
        search.add_argument("-n", "--number", type=int, default=10, help="The most results.")
        search.add_argument("--prefix", help="Only ids that begin with this.")
        for name, help in (
            ("check", "Say what is stale, missing or orphaned, and where triggers differ."),
            ("sync", "Compare every row with the collections, and bring in what differs."),
            ("refresh", "Embed the rows that are pending."),
        ):
            each = add(name, help)
            each.add_argument("names", nargs="*", metavar="COLLECTION", help="By default all.")
            if name == "sync":
                each.add_argument("--no-prune", action="store_true", help="Remove nothing.")
                each.add_argument(
                    "--allow-empty", action="store_true", help="Remove all if there are no rows."
                )
            elif name == "refresh":
                each.add_argument("--limit", type=int, help="The most items.")
                each.add_argument("--forever", action="store_true", help="Do not end.")
        reembed = add("reembed", "Embed a collection anew by another model, and switch to that.")
        reembed.add_argument("collection", help="The name of the collection.")
        reembed.add_argument("model", nargs="?", help="By default that of the settings.")
        reembed.add_argument("--back", action="store_true", help="Back to the model before.")
        reembed.add_argument(
            "--drop-previous", action="store_true", help="Delete what the model before made."
        )
        distribute = add("distribute", "Distribute the tables over several servers, by Citus.")
        distribute.add_argument(
            "--by",
            choices=["collection", "item"],
            default="collection",
            help="Each collection on one server, or the items of each on all of them.",
        )
        distribute.add_argument(
            "--undo", action="store_true", help="Bring them back to the coordinator."
        )
        show = add("show", "Show a collection, or an item in it; fail if it is not there.")
        show.add_argument("collection", help="The name of the collection.")
        show.add_argument("id", nargs="?", help="The id of the item.")
        for each in (search, reembed, show):
            each.add_argument(
                "--table", help="Of the embeddings, where several have a collection of this name."
            )

    def handle(self, *, command: str, database: str, **options: Any) -> None:
        """Do what the subcommand says."""
        as_json = options["json"]
        if as_json and command not in PRINT_JSON:
            raise CommandError(f"{command} prints no JSON: {', '.join(PRINT_JSON)} do")
        if command == "migrate":
            self._migrate(database, options["verbosity"])
            return
        db = DjangoTransactions(database)
        try:
            if command == "status":
                outcome = commands.status(
                    db,
                    as_json=as_json,
                    others=[
                        Declaration(
                            each.name,
                            each.declared_model,
                            each.options["chunks"],
                            partial(_On(each).trigger_problems, database),
                        )
                        for each in DECLARED
                    ],
                    follows=followed(database, [each.name for each in DECLARED]),
                    own=records(),
                    program=_program(database),
                    remedy=REMEDY,
                    migrate=remedy(database),
                )
                failure = outcome.failure
            elif command == "search":
                outcome = commands.search(
                    db,
                    options["collection"],
                    options["text"],
                    number=options["number"],
                    prefix=options["prefix"],
                    as_json=as_json,
                    declared=_declared(),
                    own=records(),
                    table=options["table"],
                )
                failure = "Nothing was found"
            elif command == "reembed":
                outcome = _reembed(database, options)
                failure = "Some were left out"
            elif command == "distribute":
                with session(database) as lent:
                    outcome = commands.distribute(
                        lent.connection(), options["by"], undo=options["undo"], records=records()
                    )
                failure = ""
            elif command in {"check", "sync", "refresh"}:
                outcome = _follow(command, database, options)
                failure = "Not everything is up to date"
            else:
                outcome = commands.show(
                    db,
                    options["collection"],
                    options["id"],
                    as_json=as_json,
                    declared=_declared(),
                    own=records(),
                    table=options["table"],
                )
                failure = ""
        except (EmbeddingsError, SQLAlchemyError) as error:
            raise CommandError(" ".join(str(error).split())) from None
        self.stdout.write(outcome.text)
        if not outcome.is_good:
            raise CommandError(failure)

    def _migrate(self, database: str, verbosity: int) -> None:
        if not router.allow_migrate(database, app_label()):
            raise CommandError(f"Nothing was made. Run {remedy(database)}")
        self.stdout.ending = ""  # which the other command's output has
        call_command(
            "migrate", app_label(), database=database, verbosity=verbosity, stdout=self.stdout
        )


class _On:
    """A collection as the commands of every framework know it, in which a database comes first."""

    def __init__(self, collection: ModelCollection[Any], *, is_followed: bool = True) -> None:
        self.declared, self.name = collection, collection.name
        self.is_followed = is_followed
        self.records = collection.records or records()

    def sync(self, database: str, **options: Any) -> Report:
        return self.declared.sync(using=database, **options)

    def refresh(self, database: str, **options: Any) -> Report:
        try:
            return self.declared.refresh(using=database, **options)
        finally:
            if options["forever"]:  # in a thread of its own, with a connection of its own
                connections[database].close()

    def pending(self, database: str) -> PendingState:
        return self.declared.pending(using=database)

    def collection(self, database: str) -> Collection[Any]:
        return self.declared.collection(database)

    def reembed(self, database: str, model: str, **options: Any) -> Report:
        return self.declared.reembed(model, using=database, **options)

    def back(self, database: str, **options: Any) -> Report:
        return self.declared.back(using=database, **options)

    def drop_previous(self, database: str) -> bool:
        return self.declared.drop_previous(using=database)

    def trigger_problems(self, database: str) -> list[str]:
        return self.declared.trigger_problems(using=database) if self.is_followed else []


def _declared() -> list[_On]:
    return [_On(each) for each in DECLARED]


def _reembed(database: str, options: dict[str, Any]) -> commands.Outcome:
    """Embed a collection anew, one that is declared by its rows, another by what it has stored."""
    name, table = options["collection"], options["table"]
    declared = [
        each
        for each in _declared()
        if each.name == name and table in {None, each.records.embeddings.fullname}
    ]
    return commands.reembed(
        database if declared else DjangoTransactions(database),
        name,
        options["model"],
        declared=declared,
        own=records(),
        table=table,
        back=options["back"],
        drop_previous=options["drop_previous"],
    )


def _program(database: str) -> str:
    """Return what one types before the name of a command on a database."""
    option = "" if database == DEFAULT_DB_ALIAS else f" --database {shlex.quote(database)}"
    return PROGRAM + option


def _follow(command: str, database: str, options: dict[str, Any]) -> commands.Outcome:
    """Do one of the commands about rows that are followed."""
    names = names_followed(database) if command == "check" else set[str]()
    declared = [
        _On(each, is_followed=each.name in names)
        for each in sorted(DECLARED, key=lambda collection: collection.name)
    ]
    chosen = following.chosen(declared, options["names"] or _names_in(database))
    if command == "sync":
        prune, allow_empty = not options["no_prune"], options["allow_empty"]
        done = following.sync(database, chosen, prune=prune, allow_empty=allow_empty)
        return commands.Outcome(*done)
    if command == "refresh":
        limit, forever = options["limit"], options["forever"]
        return commands.Outcome(*following.refresh(database, chosen, limit=limit, forever=forever))
    text, is_good = following.check(database, chosen, _program(database))
    others = [each.name for each in declared if each in chosen and not each.is_followed]
    if others:
        text += f"\n{UNFOLLOWED}: {', '.join(others)}"
        for each in declared:
            if each in chosen and not each.is_followed:
                told = each.declared.trigger_problems(using=database)
                text += "".join(f"\n{what}" for what in told if what.startswith(AS_DECLARED))
    return commands.Outcome(text, is_good)


def _names_in(database: str) -> list[str]:
    """Return the names of the collections whose rows a router lets into a database.

    Raises:
        CommandError: Those that there are have their rows in others.
    """
    models = {each.name: each.source.model for each in DECLARED}
    names = [name for name in models if router.allow_migrate_model(database, models[name])]
    if models and not names:
        others = sorted({router.db_for_write(model) for model in models.values()})
        options = " or ".join(f"--database {shlex.quote(alias)}" for alias in others)
        raise CommandError(f"No collection has its rows in the database {database!r}: {options}")
    return sorted(names)

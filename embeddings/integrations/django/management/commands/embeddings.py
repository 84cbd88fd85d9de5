"""manage.py embeddings: the commands of the program `embeddings`, on Django's databases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS
from sqlalchemy.exc import SQLAlchemyError

from ..... import commands
from .....errors import EmbeddingsError
from ...conf import app_label
from ...database import DjangoTransactions

if TYPE_CHECKING:
    from django.core.management.base import CommandParser


class Command(BaseCommand):
    """The command `embeddings`."""

    help = "Embeddings in the database: their tables, and what is in them."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the subcommands."""
        subcommands = parser.add_subparsers(dest="command", required=True)

        def add(name: str, help: str, *, has_json: bool = True) -> CommandParser:
            command: CommandParser = subcommands.add_parser(name, help=help)
            command.add_argument(
                "--database", default=DEFAULT_DB_ALIAS, help="The alias of the database."
            )
            if has_json:
                command.add_argument("--json", action="store_true", help="Print JSON.")
            return command

        add("migrate", "Create the tables, or bring them up to date.", has_json=False)
        add("status", "Show the schema and every collection; fail if there is one to migrate.")
        search = add("search", "Print what is nearest to a text; fail if that is nothing.")
        search.add_argument("collection", help="The name of the collection.")
        search.add_argument("text", help="What to search for.")
        search.add_argument("-n", "--number", type=int, default=10, help="The most results.")
        search.add_argument("--prefix", help="Only ids that begin with this.")
        show = add("show", "Show a collection, or an item in it; fail if it is not there.")
        show.add_argument("collection", help="The name of the collection.")
        show.add_argument("id", nargs="?", help="The id of the item.")

    def handle(self, *, command: str, database: str, **options: Any) -> None:
        """Do what the subcommand says."""
        if command == "migrate":
            verbosity = options["verbosity"]
            self.stdout.ending = ""  # which the other command's output has
            call_command(
                "migrate", app_label(), database=database, verbosity=verbosity, stdout=self.stdout
            )
            return
        db, as_json = DjangoTransactions(database), options["json"]
        try:
            if command == "status":
                outcome = commands.status(db, as_json=as_json)
                failure = "The schema is behind: run manage.py migrate embeddings"
            elif command == "search":
                outcome = commands.search(
                    db,
                    options["collection"],
                    options["text"],
                    number=options["number"],
                    prefix=options["prefix"],
                    as_json=as_json,
                )
                failure = "Nothing was found"
            else:
                outcome = commands.show(db, options["collection"], options["id"], as_json=as_json)
                failure = ""
        except (EmbeddingsError, SQLAlchemyError) as error:
            raise CommandError(" ".join(str(error).split())) from None
        self.stdout.write(outcome.text)
        if not outcome.is_good:
            raise CommandError(failure)

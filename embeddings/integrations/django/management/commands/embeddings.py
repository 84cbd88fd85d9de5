"""manage.py embeddings status: the schema, and each collection of a database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS

from .....overview import overview
from ...database import session

if TYPE_CHECKING:
    from django.core.management.base import CommandParser


class Command(BaseCommand):
    """The command `embeddings`."""

    help = "Embeddings in the database: what is in them."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the subcommands."""
        commands = parser.add_subparsers(dest="command", required=True)
        status = commands.add_parser(
            "status", help="Show the schema and every collection; fail if there is one to migrate."
        )
        status.add_argument(
            "--database", default=DEFAULT_DB_ALIAS, help="The alias of the database."
        )

    def handle(self, *, database: str, **_: Any) -> None:
        """Show the status."""
        with session(database) as lent:
            found = overview(lent)
        self.stdout.write(str(found))
        if not found.is_current:
            raise CommandError("The schema is behind: run manage.py migrate embeddings")

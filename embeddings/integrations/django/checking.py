"""What `manage.py check` says of the declarations, the databases and the tables."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from shlex import quote
from typing import TYPE_CHECKING, Any

from django.core import checks
from django.core.checks import Error, Info
from django.db import Error as DatabaseError
from django.db import connections, router
from sqlalchemy.exc import SQLAlchemyError

from ... import databases
from ...errors import EmbeddingsError
from ...models.registry import is_known
from ...tables.ours import check_adoptable
from .collection import DECLARED
from .conf import PROGRAM, app_label
from .database import DjangoTransactions, begins_late, is_supported, remedy, session
from .operations import followed
from .tables import records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from django.core.checks import CheckMessage

    from .collection import ModelCollection


def check_declarations(**_: Any) -> list[CheckMessage]:
    """Return what is wrong with the collections that are declared, and with the databases."""
    declared = sorted(DECLARED, key=lambda collection: collection.name)
    messages = [message for collection in declared for message in _messages_of(collection)]
    tables = Counter((collection.name, collection.records) for collection in declared)
    messages += [
        Error(
            f"{number} collections are called {name!r}.",
            hint="They would overwrite each other: give all but one another name=.",
            id="embeddings.E015",
        )
        for (name, _), number in tables.items()
        if number > 1
    ]
    return [*messages, *_late_databases()]


def _messages_of(collection: ModelCollection[Any]) -> Iterator[CheckMessage]:
    is_wrong = False
    for problem in collection.source.problems():
        is_wrong = is_wrong or problem.id.startswith("E")
        kind = Error if problem.id.startswith("E") else Info
        yield kind(
            f"{collection!r}: {problem.message}.",
            hint=problem.hint,
            id=f"embeddings.{problem.id}",
        )
    model_id = collection.options["model_id"]
    if model_id is not None and not is_known(model_id):
        yield Error(
            f"{collection!r}: there is no embedding model {model_id!r}.",
            id="embeddings.E014",
        )
    if is_wrong:
        return
    alias = router.db_for_write(collection.source.model)
    if not router.allow_migrate(alias, app_label()):
        yield Error(
            f"{collection!r}: {collection.source.label} is written to {alias!r}, which has no "
            "tables of embeddings.",
            hint=f"Make them by {remedy(alias)}.",
            id="embeddings.E016",
        )
    elif not is_supported(alias):
        yield Error(
            f"{collection!r}: {collection.source.label} is written to {alias!r}, which is "
            f"{connections[alias].vendor}.",
            hint="Embeddings are kept in SQLite and PostgreSQL.",
            id="embeddings.E016",
        )


def _late_databases() -> Iterator[CheckMessage]:
    for alias in connections:
        if router.allow_migrate(alias, app_label()) and begins_late(alias):
            yield checks.Warning(
                f"Transactions of the database {alias!r} that read first and then write fail with "
                '"database is locked" as soon as another one writes.',
                hint=f'Set DATABASES[{alias!r}]["OPTIONS"]["transaction_mode"] = "IMMEDIATE".',
                id="embeddings.W001",
            )


def check_tables(*, databases: Iterable[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Return what is wrong in the databases, for `check --database` and `migrate`.

    That is whose the tables are, if not ours, and which collections have another embedding model
    than they are declared with. Django 6 asks about all databases where `--tag` is given: nothing
    is said of one that cannot be reached, nor of one that cannot have embeddings.
    """
    messages: list[CheckMessage] = []
    for alias in databases or ():
        if is_supported(alias) and router.allow_migrate(alias, app_label()):
            with suppress(DatabaseError, SQLAlchemyError):
                messages += [*_of_tables(alias), *_of_models(alias)]
    return messages


def _of_tables(alias: str) -> Iterator[CheckMessage]:
    try:
        with session(alias) as lent:
            check_adoptable(lent.connection(), records())
    except EmbeddingsError as error:
        yield Error(f"The database {alias!r}: {error}.", id="embeddings.E017")


def _of_models(alias: str) -> Iterator[CheckMessage]:
    for collection in sorted(DECLARED, key=lambda collection: collection.name):
        try:
            if router.db_for_write(collection.source.model) != alias:
                continue
            reference = collection.collection(alias).reference
            with reference.work() as work:
                models = reference.other_model(work)
        except (LookupError, TypeError, EmbeddingsError):  # others tell of these
            continue
        if models is not None:
            stored, wanted = models
            typed = f"{PROGRAM} reembed {quote(collection.name)} {quote(wanted)}"
            yield checks.Warning(
                f"{collection!r} has the embedding model {stored!r}, and its declaration or the "
                f"settings say {wanted!r}.",
                hint=f"Embed it anew: {typed}",
                id="embeddings.W002",
            )


def names_followed(database: str) -> set[str]:
    """Return the names of the collections for which there are triggers, or should be."""
    found = followed(database, [each.name for each in DECLARED])
    with DjangoTransactions(database).session(write=False) as lent:
        connection = lent.connection()
        for tables in {each.records or records() for each in DECLARED}:
            found += databases.of(connection.dialect).follows(connection, tables)
    return {each.collection for each in found}


def tell_of_triggers(
    *, using: str, verbosity: int = 1, plan: object = None, stdout: Any = None, **_: Any
) -> None:
    """Say after `migrate` what of the triggers is not as declared.

    PostgreSQL drops a trigger with a column that it reads, and a table of SQLite that Django makes
    anew has none: nothing would be pending any more.
    """
    if plan is None or stdout is None or not verbosity or not is_supported(using):
        return
    if not router.allow_migrate(using, app_label()):
        return
    with suppress(DatabaseError, SQLAlchemyError, EmbeddingsError):
        names = names_followed(using)
        for collection in sorted(DECLARED, key=lambda collection: collection.name):
            is_here = router.allow_migrate_model(using, collection.source.model)
            if collection.name in names and is_here:
                for problem in collection.trigger_problems(using=using):
                    stdout.write(f"{collection.name}: {problem}")

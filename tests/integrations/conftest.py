"""Django, configured once in a test process, on databases of its own."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import make_url

from tests.reaching import empty_database, new_database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType

    from sqlalchemy import URL

TABLES = (
    *("leaflet_tags", "leaflet", "tag"),
    *("comment", "essay", "article", "author", "photo", "country", "game"),
)


@pytest.fixture(scope="session")
def django_database(server: URL) -> Iterator[URL]:
    """The database `postgresql` of Django's."""
    with new_database(server) as url:
        yield url


@pytest.fixture(scope="session")
def django_aliases(
    tmp_path_factory: pytest.TempPathFactory, django_database: URL
) -> Iterator[None]:
    """Django with `default` and `other` on SQLite and `postgresql`, without any tables."""
    import django
    from django.conf import settings
    from django.db import connections

    folder = tmp_path_factory.mktemp("django")
    databases: dict[str, dict[str, Any]] = {
        alias: {"ENGINE": "django.db.backends.sqlite3", "NAME": folder / f"{alias}.db"}
        for alias in ("default", "other")
    }
    databases["postgresql"] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": django_database.database,
        "USER": django_database.username,
        "HOST": django_database.query["host"],
    }
    databases["nothing"] = {"ENGINE": "django.db.backends.dummy"}
    settings.configure(
        DATABASES=databases,
        INSTALLED_APPS=["embeddings.integrations.django", "tests.integrations.library"],
        ROOT_URLCONF="tests.integrations.library.urls",
        ALLOWED_HOSTS=["testserver"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
        LOGGING_CONFIG=None,
        SECRET_KEY="of the tests",  # noqa: S106
    )
    django.setup()
    yield
    connections.close_all()


@pytest.fixture(scope="session")
def django_tables(django_aliases: None) -> Callable[[str], None]:
    """Migrate the database of an alias, once."""
    from django.core.management import call_command

    done = set()

    def migrate(alias: str) -> None:
        if alias not in done:
            call_command("migrate", database=alias, run_syncdb=True, verbosity=0)
            done.add(alias)

    return migrate


@pytest.fixture(params=["default", "postgresql"])
def alias(request: pytest.FixtureRequest, django_tables: Callable[[str], None]) -> Iterator[str]:
    """A database of Django's with the tables, which are emptied after the test."""
    alias: str = request.param
    django_tables(alias)
    yield alias
    empty(alias)


@pytest.fixture
def other(django_tables: Callable[[str], None]) -> Iterator[str]:
    """A second database."""
    django_tables("other")
    yield "other"
    empty("other")


def empty(alias: str) -> None:
    """Empty the tables of a database past Django, and close its connection."""
    from django.db import connections

    with connections[alias].cursor() as cursor:
        for table in (
            *(f"library_{name}" for name in TABLES),
            "embeddings",
            "embeddings_pending",
            "collections",
        ):
            cursor.execute(f"DELETE FROM {table}")
    connections[alias].close()


@pytest.fixture(params=["sqlite", "postgresql"])
def bare(
    request: pytest.FixtureRequest, django_aliases: None, tmp_path: Path, server: URL
) -> Iterator[tuple[str, Callable[..., str]]]:
    """The alias of a database without tables, and what runs a command on it."""
    from django.core.management import call_command
    from django.db import connections

    alias = f"bare_{request.param}"

    def command(*arguments: str, **options: Any) -> str:
        output = StringIO()
        if arguments[0] != "makemigrations":
            options["database"] = alias
        call_command(*arguments, stdout=output, stderr=output, no_color=True, **options)
        return output.getvalue()

    with empty_database(request.param, tmp_path, server) as url:
        like = connections["other" if request.param == "sqlite" else "postgresql"].settings_dict
        connections.settings[alias] = {**like, "NAME": make_url(url).database}
        yield alias, command
        connections[alias].close()
        del connections[alias], connections.settings[alias]


@pytest.fixture
def library(django_aliases: None) -> ModuleType:
    """The models of the app, and their collections."""
    from tests.integrations.library import models

    models.model.look = lambda: None
    models.model.calls.clear()
    models.model.seen.clear()
    return models

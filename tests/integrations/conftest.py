"""Django, configured once in a test process, on databases of its own."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import URL, create_engine, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

TABLES = (
    *("leaflet_tags", "leaflet", "tag"),
    *("comment", "essay", "article", "author", "photo", "country", "game"),
)


@pytest.fixture(scope="session")
def django_aliases(
    tmp_path_factory: pytest.TempPathFactory, server: URL, worker_id: str
) -> Iterator[None]:
    """Django with `default` and `other` on SQLite and `postgresql`, without any tables."""
    import django
    from django.conf import settings
    from django.db import connections

    name = f"django_{worker_id}"
    administrator = create_engine(server, isolation_level="AUTOCOMMIT")
    with administrator.connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        connection.execute(text(f"CREATE DATABASE {name}"))
    folder = tmp_path_factory.mktemp("django")
    databases: dict[str, dict[str, Any]] = {
        alias: {"ENGINE": "django.db.backends.sqlite3", "NAME": folder / f"{alias}.db"}
        for alias in ("default", "other")
    }
    databases["postgresql"] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": server.username,
        "HOST": server.query["host"],
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
    with administrator.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    administrator.dispose()


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
    request: pytest.FixtureRequest, django_aliases: None, tmp_path: Any
) -> Iterator[tuple[str, Callable[..., str]]]:
    """The alias of a database without tables, and what runs a command on it."""
    from django.core.management import call_command
    from django.db import connections

    is_sqlite = request.param == "sqlite"
    alias, name = f"bare_{request.param}", "bare" + tmp_path.name.replace("-", "_")[-40:]
    like = connections["other" if is_sqlite else "postgresql"].settings_dict
    if not is_sqlite:
        with connections["postgresql"].cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{name}"')
    new = {**like, "NAME": str(tmp_path / "bare.db") if is_sqlite else name}
    connections.settings[alias] = new

    def command(*arguments: str, **options: Any) -> str:
        output = StringIO()
        if arguments[0] != "makemigrations":
            options["database"] = alias
        call_command(*arguments, stdout=output, stderr=output, no_color=True, **options)
        return output.getvalue()

    yield alias, command
    connections[alias].close()
    del connections[alias], connections.settings[alias]
    if not is_sqlite:
        with connections["postgresql"].cursor() as cursor:
            cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        connections["postgresql"].close()


@pytest.fixture
def library(django_aliases: None) -> ModuleType:
    """The models of the app, and their collections."""
    from tests.integrations.library import models

    models.model.look = lambda: None
    models.model.calls.clear()
    models.model.seen.clear()
    return models

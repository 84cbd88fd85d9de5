"""Django's tables in daily life: deployed in any order, kept away by routers, under other names."""

from __future__ import annotations

import gc
import os
import re
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import embeddings
from embeddings import Collection, InvalidQueryError, SchemaError
from embeddings.integrations.django import ModelCollection, session
from embeddings.models import registry
from embeddings.tables.migrate import is_migrated
from tests.forked import DJANGO, python

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

Bare = tuple[str, "Callable[..., str]"]


class Nowhere:
    """A router."""

    def allow_migrate(self, db: str, app_label: str, **_: Any) -> bool | None:
        return False if app_label == "embeddings" else None


def settings(**values: Any) -> Any:
    from django.test import override_settings

    return override_settings(**values)


def tables(alias: str) -> set[str]:
    from django.db import connections

    return {*connections[alias].introspection.table_names()}


def test_code_is_deployed_before_the_tables(bare: Bare, library: ModuleType):
    """Rows are saved and deleted; a search says what to run, and then finds."""
    from django.db import transaction

    alias, command = bare
    command("migrate", "library", run_syncdb=True)
    objects = library.Article.objects.using(alias)
    with transaction.atomic(using=alias):
        objects.create(title="one").delete()
        objects.create(title="two")
    calls: tuple[Callable[[], Any], ...] = (
        lambda: library.articles.nearest(objects, "two"),
        lambda: library.articles.embed(objects.get()),
        lambda: library.articles.related(objects, objects.get()),
        lambda: library.articles.refresh(using=alias),
        lambda: library.articles.pending(using=alias),
        lambda: library.articles.sync(using=alias),
    )
    for call in calls:
        with pytest.raises(SchemaError, match=rf"with manage\.py migrate --database={alias}$"):
            call()
    command("migrate", "embeddings", "0002")  # of a release before rows were followed
    for call in calls[3:5]:
        with pytest.raises(SchemaError, match=rf"with manage\.py migrate --database={alias}$"):
            call()
    command("migrate", "embeddings")
    library.articles.embed(objects.get())
    assert library.articles.nearest(objects, "two").get().title == "two"
    objects.all().delete()
    assert library.articles.collection(alias).ids() == []


def test_the_app_is_not_installed(bare: Bare, library: ModuleType):
    """It is said that it has to be."""
    from django.core.exceptions import ImproperlyConfigured
    from django.test import override_settings

    alias, _ = bare
    with (
        override_settings(INSTALLED_APPS=["tests.integrations.library"]),
        pytest.raises(ImproperlyConfigured, match=r"'embeddings\.integrations\.django' in INST"),
    ):
        library.articles.collection(alias).embed(1, "text")


def test_without_migrations(bare: Bare):
    """As pytest --no-migrations does: `migrate` makes the tables all the same."""
    alias, command = bare
    with settings(MIGRATION_MODULES={"embeddings": None}):
        command("migrate", run_syncdb=True)
    with session(alias) as lent:
        assert is_migrated(lent.connection())


def test_a_router_keeps_the_tables_away(bare: Bare, library: ModuleType):
    """Nothing is made and nothing recorded; errors say what it has to admit; then they are made."""
    from django.core.management import CommandError

    alias, command = bare
    with settings(DATABASE_ROUTERS=["tests.integrations.test_django_deploying.Nowhere"]):
        command("migrate", run_syncdb=True)
        assert "embeddings" not in tables(alias)
        assert "[ ] 0001_documented_schema" in command("showmigrations", "embeddings")
        objects = library.Article.objects.using(alias)
        objects.create(title="one").delete()
        says = rf"{alias!r}: allow_migrate\({alias!r}, 'embeddings'\) has to be True"
        with pytest.raises(SchemaError, match=says):
            library.articles.nearest(objects, "one")
        with pytest.raises(CommandError, match=says):
            command("embeddings", "migrate")
    command("migrate")
    assert "embeddings" in tables(alias)
    assert "[X] 0002_change_log" in command("showmigrations", "embeddings")


def test_tables_of_somebody_else(bare: Bare, library: ModuleType):
    """They are left alone, and others can be had under a prefix."""
    from django.core import checks
    from django.core.management import CommandError
    from django.db import connections

    alias, command = bare
    with connections[alias].cursor() as cursor:
        cursor.execute("CREATE TABLE collections (stamps integer)")
    with pytest.raises(SchemaError, match=r"not of this library.*TABLE_PREFIX"):
        command("migrate", "embeddings")
    found = checks.run_checks(tags=["embeddings"], databases=[alias])
    assert "embeddings.E017" in {message.id for message in found}
    assert "[ ] 0001_documented_schema" in command("showmigrations", "embeddings")
    assert "embeddings" not in tables(alias)

    with settings(EMBEDDINGS={"TABLE_PREFIX": "search_"}):
        with pytest.raises(CommandError, match=rf"lacks: manage\.py migrate --database={alias}$"):
            command("embeddings", "status")
        command("migrate", run_syncdb=True)
        objects = library.Article.objects.using(alias)
        article = objects.create(title="two")
        library.articles.embed(article)
        assert library.articles.nearest(objects, "two").get() == article
        assert "library.article" in command("embeddings", "status")
        assert '"library.article"' in command("embeddings", "show", "library.article", "--json")
        with pytest.raises(CommandError, match="2 rows of search_collections"):
            command("migrate", "embeddings", "zero")
        objects.all().delete()
        library.articles.collection(alias).delete()
        command("migrate", "embeddings", "zero")
        assert not any(name.startswith("search_") for name in tables(alias))
    assert "collections" in tables(alias)


@pytest.mark.parametrize("prefix", ["", "search_"])
def test_the_sql_of_the_migrations(prefix: str, bare: Bare):
    """What `sqlmigrate` prints makes the tables, and on the way back removes them."""
    from django.db import connections
    from django.db.migrations.loader import MigrationLoader

    alias, command = bare

    def run(*arguments: str, **options: Any) -> None:
        sql = command("sqlmigrate", "embeddings", *arguments, **options)
        assert "CANNOT" not in sql
        connections[alias].ensure_connection()
        driver = connections[alias].connection
        if isinstance(driver, sqlite3.Connection):
            driver.executescript(sql)
        else:
            driver.cursor().execute(sql.replace("%", "%%"))

    with settings(EMBEDDINGS={"TABLE_PREFIX": prefix}):
        migrations = MigrationLoader(None, ignore_no_migrations=True).disk_migrations
        names = sorted(name for app, name in migrations if app == "embeddings")
        for name in names:
            run(name)
        command("migrate", "embeddings", fake=True)
        made = {*tables(alias)}
        assert f"{prefix}embeddings" in made
        assert "to date" in command("embeddings", "status") or prefix
        for name in reversed(names):
            run(name, backwards=True)
        assert f"{prefix}embeddings" not in tables(alias)


ELSEWHERE = """
import django, os
from django.apps import AppConfig
from django.conf import settings
from django.core.management import call_command
from embeddings.integrations.django.apps import EmbeddingsConfig

class Theirs(AppConfig):
    name, label = "theirs", "embeddings"

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}},
    INSTALLED_APPS=["theirs", "ours.Ours"],
)
django.setup()
call_command("migrate", verbosity=0)
call_command("showmigrations", "vectors")
call_command("sqlmigrate", "vectors", "0002")
call_command("embeddings", "migrate")
call_command("embeddings", "status")
"""


def test_an_app_that_has_the_label_already(tmp_path: Path):
    """Ours is given another, and all commands follow it."""
    files = {
        "theirs/__init__.py": "",
        "theirs/apps.py": "from django.apps import AppConfig\n"
        "class Theirs(AppConfig):\n    name, label = 'theirs', 'embeddings'\n",
        "ours.py": "from embeddings.integrations.django.apps import EmbeddingsConfig\n"
        "class Ours(EmbeddingsConfig):\n    label = 'vectors'\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    path = os.pathsep.join([str(tmp_path), str(Path(embeddings.__file__).parents[1])])
    done = python(
        *("-c", ELSEWHERE),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        modules=DJANGO,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[X] 0002_change_log" in done.stdout
    assert "up to date" in done.stdout


# What `manage.py check` says


def checked() -> dict[str, str]:
    """Return the messages of collections of these tests, by their ids."""
    from django.core import checks

    found = checks.run_checks(tags=["embeddings"])
    texts: dict[str, str] = {}
    for message in found:
        texts[message.id] = f"{texts.get(message.id, '')}{message.msg} {message.hint}\n"
    return texts


class Elsewhere:
    """A router for a database that is no place for embeddings."""

    def db_for_write(self, model: Any, **_: Any) -> str | None:
        return "nothing" if model.__name__ == "Game" else None


def test_databases_that_nothing_is_said_of(library: ModuleType):
    """Of another kind, or not there: no check fails of them, on Django 6 as before."""
    from django.core import checks
    from django.db import connections

    like = connections["postgresql"].settings_dict
    connections.settings["gone"] = {**like, "HOST": "/nowhere"}
    try:
        found = checks.run_checks(tags=["embeddings"], databases=["nothing", "gone"])
        assert {message.id for message in found} <= {"embeddings.I010", "embeddings.W001"}
        games = ModelCollection(library.Game, text=lambda game: str(game.pk), columns=["score"])
        with settings(DATABASE_ROUTERS=["tests.integrations.test_django_deploying.Elsewhere"]):
            says = checked()["embeddings.E016"]
        assert re.search(r"library\.Game is written to 'nothing', which is unknown.*SQLite", says)
        del games
    finally:
        connections["gone"].close()
        del connections["gone"], connections.settings["gone"]


def test_declarations_are_checked(library: ModuleType):
    """Fields and paths, conditions, models, names, keys and databases."""
    from django.db.models import Q

    before = checked()
    assert "library.Author changes no row of library.Leaflet" in before["embeddings.I010"]
    assert "IMMEDIATE" in before["embeddings.W001"]
    assert not [id for id in before if ".E" in id]
    wrong: dict[str, tuple[Any, dict[str, Any], str]] = {
        "E010": ("library.Nothing", {"text": "title"}, "library.Nothing"),
        "E011": (library.Reading, {"text": "at"}, "DateTimeField"),
        "E012": (library.Article, {"text": ["title", "author__nam"]}, "'nam'.*mean 'name'"),
        "E013": (library.Article, {"text": "title", "where": Q(tittle="x")}, "tittle"),
        "E014": (library.Article, {"text": "title", "model_id": "locl"}, "'locl'"),
        "E015": (library.Article, {"text": "title", "name": "library.leaflet"}, "2 coll"),
    }
    for id, (model, options, says) in wrong.items():
        collection = ModelCollection(model, **{"name": f"of {id}"} | options)
        found = checked()
        assert [key for key in found if ".E" in key] == [f"embeddings.{id}"], collection
        assert re.search(says, found[f"embeddings.{id}"])
        del collection
        gc.collect()
    others: dict[str, dict[str, Any]] = {
        "a relation": {"text": "author"},
        "over no relation": {"text": "title__x"},
        "a method": {"text": "delete"},
        "metadata": {"text": "title", "metadata": ["langg"]},
        "another table": {"text": "title", "where": Q(author__name="x")},
    }
    for name, options in others.items():
        collection = ModelCollection(library.Article, name=name, **options)
        assert {key for key in checked() if ".E" in key} <= {"embeddings.E012", "embeddings.E013"}
        assert any(name in message for message in checked().values())
        del collection
        gc.collect()
    with settings(DATABASE_ROUTERS=["tests.integrations.test_django_deploying.Nowhere"]):
        assert "'default', which has no tables" in checked()["embeddings.E016"]


def test_options_in_any_order(bare: Bare):
    """Django's own and ours, before the subcommand and behind it; none is passed over."""
    from django.core.management import CommandError, ManagementUtility

    alias, command = bare
    command("migrate", "embeddings")
    here = ["--database", alias]
    for arguments in (
        [*here, "status", "--json", "--settings", "x", "--no-color", "-v", "0"],
        ["--no-color", "status", "--traceback", *here, "--skip-checks", "--pythonpath=."],
        ["--json", "status", "--force-color", *here],
    ):
        parser = (
            ManagementUtility().fetch_command("embeddings").create_parser("manage.py", "embeddings")
        )
        parsed = parser.parse_args(arguments)
        assert (parsed.command, parsed.database) == ("status", alias)
    assert '"revision"' in command("embeddings", "status", "--json", "--no-color")
    with pytest.raises(CommandError, match="check prints no JSON: status, search, show do"):
        command("embeddings", "check", "--json")
    with pytest.raises(CommandError, match="invalid choice: 'nowhere'"):
        command("embeddings", "status", "--database", "nowhere")


def test_the_index_of_a_collection_by_a_migration(alias: str):
    """Forwards and back, and what `sqlmigrate` prints; on SQLite there is nothing to make."""
    from django.db import connections

    from embeddings.integrations.django.operations import CreateEmbeddingIndex

    operation = CreateEmbeddingIndex("of a migration", dimensions=3, model="a model")
    is_there = alias == "postgresql"

    def info() -> Any:
        with session(alias) as lent:
            return Collection("of a migration", lent).index_info()

    with connections[alias].schema_editor() as editor:
        operation.database_forwards("articles", editor, None, None)
    assert (info() is not None) == is_there
    with connections[alias].schema_editor() as editor:
        operation.database_backwards("articles", editor, None, None)
    assert info() is None
    with connections[alias].schema_editor(collect_sql=True) as editor:
        operation.database_forwards("articles", editor, None, None)
    assert ("CREATE INDEX" in "".join(editor.collected_sql)) == is_there
    assert "of a migration" in operation.describe()


def test_the_text_index_of_a_collection_by_a_migration(alias: str):
    """Forwards, with the words of texts that are there, and back, with the empty collection."""
    from django.db import connections, transaction

    from embeddings.integrations.django.operations import CreateTextIndex

    name = "of a migration"
    operation = CreateTextIndex(name, "german", model="local")

    def change(*, drops: bool) -> None:
        with connections[alias].schema_editor() as editor:
            go = operation.database_backwards if drops else operation.database_forwards
            go("articles", editor, None, None)

    change(drops=False)
    with session(alias) as lent:
        assert Collection(name, lent).model_id == registry.canonical_id("local")
    change(drops=True)
    with session(alias) as lent:
        assert not Collection.exists(lent, name)
    with transaction.atomic(alias), session(alias) as lent:
        Collection(name, lent, model_id="local").embed("a", "die Häuser am Ring", store=True)
    change(drops=False)
    change(drops=False)
    with session(alias) as lent:
        found = Collection(name, lent).similar("Häuser", words=True, weights=(0, 1))
        assert [entry.id for entry in found] == ["a"]
    change(drops=True)
    with session(alias) as lent, pytest.raises(embeddings.IndexingError, match="create_text_index"):
        Collection(name, lent).similar("Häuser", words=True)
    with transaction.atomic(alias), session(alias) as lent:
        Collection(name, lent).delete()
    with connections[alias].schema_editor(collect_sql=True) as editor:
        operation.database_forwards("articles", editor, None, None)
    told = "is not in this script" if alias == "default" else "search_language"
    assert told in "".join(editor.collected_sql)
    assert name in operation.describe()
    with pytest.raises(InvalidQueryError, match="klingon"):
        CreateTextIndex(name, "klingon")


@pytest.mark.parametrize("prefix", ["", "search_"])
@pytest.mark.parametrize("way", ["the command", "all apps"])
def test_what_was_lost_is_made_again(prefix: str, way: str, bare: Bare):
    """By `migrate`, which has no migration to apply; the status says so before."""
    from django.core.management import CommandError
    from django.db import connections

    from embeddings.integrations.django.database import DjangoTransactions
    from embeddings.integrations.django.tables import records
    from embeddings.overview import overview

    alias, command = bare
    with settings(EMBEDDINGS={"TABLE_PREFIX": prefix}):
        command("migrate")
        assert command("embeddings", "status")
        with connections[alias].cursor() as cursor:
            cursor.execute(f"DROP TABLE {prefix}embeddings_pending")
        with pytest.raises(CommandError, match=r"What the schema lacks: .*manage.py"):
            command("embeddings", "status")
        told = overview(DjangoTransactions(alias), own=records())
        assert told.lost == (f"the table {prefix}embeddings_pending is missing: migrate",)
        command(*{"the command": ("embeddings", "migrate"), "all apps": ("migrate",)}[way])
        assert f"{prefix}embeddings_pending" in tables(alias)
        assert command("embeddings", "status")

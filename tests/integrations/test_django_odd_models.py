"""Models of odd making, and what becomes of their triggers: each has its table in a test alone."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

from embeddings.following import triggers
from embeddings.following.literals import Follow
from embeddings.integrations.django import ModelCollection, session
from embeddings.testing import DeterministicModel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


@contextmanager
def made(alias: str, **attributes: Any) -> Iterator[Any]:
    """Yield a new Django model, whose table is there for as long."""
    from django.apps import apps
    from django.db import connections, models

    meta = type("Meta", (), {"app_label": "library", "db_table": attributes.pop("db_table", None)})
    if meta.db_table is None:  # type: ignore[attr-defined]
        del meta.db_table  # type: ignore[attr-defined]
    text = {"title": models.CharField(max_length=50), "body": models.TextField(default="")}
    members = {"__module__": __name__, "Meta": meta, **text, **attributes}
    model: Any = type("Odd", (models.Model,), members)
    with connections[alias].schema_editor() as editor:
        editor.create_model(model)
    try:
        yield model
    finally:
        with connections[alias].schema_editor() as editor:
            editor.delete_model(model)
        del apps.all_models["library"]["odd"]
        apps.clear_cache()
        gc.collect()  # declarations about it


def test_a_schema_within_the_name_of_the_table(alias: str, library: ModuleType):
    """As Django's users name one, which has none."""
    from django.db import connections

    if connections[alias].vendor != "postgresql":
        return
    with connections[alias].cursor() as cursor:
        cursor.execute('CREATE SCHEMA "the sales"')
    try:
        with made(alias, db_table='"the sales"."In Schema"') as model:
            notes = ModelCollection(model, text="title", name="in schema", model=library.model)
            notes.install(using=alias)
            assert notes.trigger_problems(using=alias) == []
            rows = model._base_manager.using(alias)
            one = rows.create(title="one")
            assert notes.refresh(using=alias).embedded == 1
            rows.create(title="two")
            assert notes.sync(using=alias).embedded == 1
            assert notes.nearest(rows.all(), "one", 1).get() == one
            one.delete()
            assert notes.collection(alias).count() == 1
            notes.uninstall(using=alias)
    finally:
        with connections[alias].cursor() as cursor:
            cursor.execute('DROP SCHEMA "the sales"')


def test_a_key_of_another_type_than_is_stored(alias: str, library: ModuleType):
    """As of hashids: a deleted row takes its vector along, with triggers and without."""
    from django.db import models

    class Code(models.IntegerField):
        def from_db_value(self, value: int, *_: Any) -> str:
            return f"h{value}"

        def to_python(self, value: Any) -> str:
            return value if str(value).startswith("h") else f"h{value}"

        def get_prep_value(self, value: Any) -> int:
            return int(str(value).removeprefix("h"))

    with made(alias, id=Code(primary_key=True)) as model:
        notes = ModelCollection(model, text="title", name="coded", model=library.model)
        rows = model._base_manager.using(alias)
        one, two = (rows.create(id=f"h{n}", title=f"number {n}") for n in (1, 2))
        notes.embed_multi(rows.all())
        assert notes.nearest(rows.all(), "number 2", 1).get() == two
        assert [each.pk for each in notes.related(rows.all(), two)] == ["h1"]
        rows.get(pk=one.pk).delete()
        assert notes.collection(alias).ids() == [2]


def test_what_dropped_a_trigger_is_told_after_migrate(alias: str, library: ModuleType):
    """PostgreSQL does it with a column, SQLite with a table that is made anew; and `check`."""
    from django.core.management import call_command
    from django.db import connections

    def run(*arguments: str) -> str:
        output = StringIO()
        call_command(*arguments, database=alias, stdout=output, no_color=True)
        return output.getvalue()

    with made(alias) as model:
        notes = ModelCollection(
            model, text=["title", "body"], name="a lost trigger", model=library.model
        )
        assert "as declared: FollowRows(" in run("embeddings", "check", "a lost trigger")
        notes.install(using=alias)
        assert "a lost trigger" not in run("migrate")
        with connections[alias].cursor() as cursor:
            cursor.execute(
                "ALTER TABLE library_odd DROP COLUMN body CASCADE"
                if connections[alias].vendor == "postgresql"
                else f"DROP TRIGGER {trigger_of_updates(alias)}"
            )
        assert "a lost trigger: " in run("migrate")
        notes.uninstall(using=alias)
        del notes


def trigger_of_updates(alias: str) -> str:
    from django.db import connections

    with connections[alias].cursor() as cursor:
        cursor.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'library_odd'"
        )
        names = [name for (name,) in cursor.fetchall() if name.endswith("_update")]
    return f'"{min(names, key=len)}"'  # and not of what is before it and after


def test_a_table_that_is_gone_is_told_as_one(alias: str):
    """And not as one that has lost each of its columns."""
    given = Follow("library_gone", "id", ("title", "body"), "of no table")
    with session(alias) as lent:
        told = triggers.as_made(lent.connection(), given)
    assert len(told) == 1
    assert "there is no table 'library_gone' any more" in told[0]


def test_an_instance_that_is_not_saved_has_no_rows_of_others(alias: str, library: ModuleType):
    """Its text may lead over relations to many all the same."""
    notes = ModelCollection(
        library.Leaflet, text=["title", "tags__name"], name="prepared", model=DeterministicModel()
    )
    unsaved = library.Leaflet(title="not saved yet")
    prepared = notes.prepare(unsaved, using=alias)
    unsaved.save(using=alias)
    notes.embed(unsaved, prepared, using=alias)
    assert notes.collection(alias).ids() == [unsaved.pk]

"""Collections that follow the rows of Django models, whoever changes them."""

from __future__ import annotations

import asyncio
import functools
import io
import shlex
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from embeddings import InvalidItemError, SchemaError
from embeddings.following import refresh
from embeddings.integrations.django import ModelCollection
from embeddings.integrations.django.operations import FollowRows, UnfollowRows
from embeddings.models.registry import substitute_models
from embeddings.testing import DeterministicModel
from tests.reaching import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from embeddings import Report


class Apart:
    """A router that has the rows of all apps but ours in one database."""

    def db_for_write(self, model: Any, **_: Any) -> str:
        return "other"

    def allow_migrate(self, db: str, app_label: str, **_: Any) -> bool:
        return db == "other" or app_label == "embeddings"


def declared(kind: str, library: ModuleType) -> ModelCollection[Any]:
    """Return a collection whose texts are made in SQL, or by Python."""
    from django.db.models import Q

    texts: dict[str, dict[str, Any]] = {
        "columns": {"text": ["title", "body"], "metadata": ["lang", "published"]},
        "relations": {"text": ["title", "body"], "metadata": ["lang", "author__name"]},
        "a function": {
            "text": lambda row: f"{row.title}\n\n{row.body}" if row.title else None,
            "columns": ["title", "body"],
        },
    }
    return ModelCollection(
        library.Leaflet,
        name=f"followed by {kind}: 100%",
        where=Q(published=True) & ~Q(lang="x%"),
        model=library.model,
        **texts[kind],
    )


@pytest.fixture(params=["columns", "relations", "a function"])
def notes(
    request: pytest.FixtureRequest, alias: str, library: ModuleType
) -> Iterator[ModelCollection[Any]]:
    collection = declared(request.param, library)
    collection.install(using=alias)
    yield collection
    collection.uninstall(using=alias)


def test_it_follows_whatever_changes_the_rows(
    notes: ModelCollection[Any], alias: str, library: ModuleType
):
    """The ORM, bulk statements and raw SQL; `sync` finds nothing left to do."""
    from django.db import connections, transaction

    rows = library.Leaflet.objects.using(alias)
    assert notes.trigger_problems(using=alias) == []
    one = rows.create(title="one", body="a")
    rows.bulk_create(library.Leaflet(title=title, body="b") for title in ("two", "three", ""))
    with transaction.atomic(using=alias):
        rows.create(title="never", body="")
        transaction.set_rollback(True, using=alias)
    assert notes.pending(using=alias).items == 4
    report = notes.refresh(using=alias)
    assert report.pending == 0
    collection = notes.collection(alias)
    assert report.embedded == collection.count() >= 3

    rows.filter(title="two").update(body="changed")
    rows.filter(title="three").update(published=False)
    with connections[alias].cursor() as cursor:
        cursor.execute("DELETE FROM library_leaflet WHERE title = 'one'")
    assert one.pk not in collection.ids()
    audit = notes.sync(using=alias, dry_run=True)
    two = rows.get(title="two")
    assert (audit.stale, audit.missing) == ((two.pk,), ())
    calls = len(library.model.calls)
    notes.refresh(using=alias)
    assert library.model.calls[calls:] == [["two\n\nchanged"]]
    assert notes.nearest(rows.all(), "two changed", 1).get() == two
    audit = notes.sync(using=alias, dry_run=True)
    assert (audit.stale, audit.missing, audit.orphaned) == ((), (), ())

    rows.filter(title="three").update(published=True)
    with transaction.atomic(using=alias):
        notes.refresh(using=alias, keys=[rows.get(title="three").pk])
        assert notes.pending(using=alias).items == 0
    two.title = "embedded by hand"
    two.save()
    notes.embed(two)
    before = len(library.model.calls)
    assert notes.sync(using=alias).embedded == 0
    asyncio.run(_awaited(notes, alias))
    assert len(library.model.calls) == before


async def _awaited(notes: ModelCollection[Any], alias: str) -> None:
    assert (await notes.arefresh(using=alias)).pending == 0
    assert (await notes.async_(using=alias, dry_run=True)).stale == ()
    assert (await notes.apending(using=alias)).items == 0


def test_a_worker_outlives_its_connection(
    alias: str,
    library: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """After an error `refresh(forever=True)` does what Django does between two requests.

    On SQLite, of which no server ends connections, it waits for who keeps the file locked, from
    its beginning on.
    """
    from django.db import connections, transaction

    monkeypatch.setattr(refresh, "POLL", 0.01)
    is_postgresql = connections[alias].vendor == "postgresql"
    notes = declared("columns", library)
    notes.install(using=alias)
    rows = library.Leaflet.objects.using(alias)
    stop = threading.Event()
    pids: list[int] = []
    reports: list[Report] = []

    def work() -> None:
        with connections[alias].cursor() as cursor:
            if is_postgresql:
                cursor.execute("SELECT pg_backend_pid()")
                pids.extend(cursor.fetchone())
            else:
                cursor.execute("PRAGMA busy_timeout = 1")
                connections[alias].transaction_mode = "IMMEDIATE"  # as OPTIONS have it
        reports.append(notes.refresh(using=alias, forever=True, stop=stop))
        connections.close_all()

    thread = threading.Thread(target=work)
    rows.create(title="before")
    with transaction.atomic(using=alias):
        rows.create(title="never")
        thread.start()
        wait_until(lambda: is_postgresql or caplog.messages, thread)
        transaction.set_rollback(True, using=alias)
    wait_until(lambda: not notes.pending(using=alias).items, thread)
    if is_postgresql:
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", pids)
            assert cursor.fetchone() == (True,)
    rows.create(title="after")
    wait_until(lambda: not notes.pending(using=alias).items, thread)
    stop.set()
    thread.join()
    assert reports[0].embedded == 2
    assert caplog.messages
    notes.uninstall(using=alias)


class Meddling(DeterministicModel):
    """Lets something happen while it is called for the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: list[Callable[[], object]] = []

    def embed_batch(self, items: Any) -> Any:
        vectors = super().embed_batch(items)
        while self.meanwhile:
            self.meanwhile.pop()()
        return vectors


def test_what_is_written_outside_of_atomic_is_looked_at_again(alias: str, library: ModuleType):
    """Another request and a worker may have been there while the model ran."""
    model = Meddling()
    notes = ModelCollection(library.Leaflet, text="title", name=f"meddled {alias}", model=model)
    notes.install(using=alias)
    rows = library.Leaflet.objects.using(alias)
    changed, deleted = rows.create(title="first"), rows.create(title="gone")

    def change() -> None:
        rows.filter(pk=changed.pk).update(title="second")
        notes.refresh(using=alias)

    def delete() -> None:
        rows.filter(pk=deleted.pk).delete()
        notes.refresh(using=alias)

    for instance, meanwhile in ((changed, change), (rows.get(title="gone"), delete)):
        model.meanwhile = [meanwhile]
        notes.embed(instance)
        assert notes.pending(using=alias).items == 1
    notes.refresh(using=alias)
    audit = notes.sync(using=alias, dry_run=True)
    assert (audit.stale, audit.missing, audit.orphaned) == ((), (), ())
    assert notes.collection(alias).count() == 1
    notes.uninstall(using=alias)


def test_a_refresh_waits_for_no_request(alias: str, library: ModuleType):
    """Rows that an open transaction has written are left pending."""
    from django.db import connections, transaction

    if connections[alias].vendor != "postgresql":
        return
    notes = declared("columns", library)
    notes.install(using=alias)
    one = library.Leaflet.objects.using(alias).create(title="one", body="a")
    is_written, may_end = threading.Event(), threading.Event()

    def request() -> None:
        with transaction.atomic(using=alias):
            notes.embed(one)
            is_written.set()
            may_end.wait(60)
        connections.close_all()

    thread = threading.Thread(target=request)
    thread.start()
    assert is_written.wait(60)
    assert notes.refresh(using=alias).pending == 1
    assert thread.is_alive()
    may_end.set()
    thread.join()
    assert notes.refresh(using=alias).pending == 0
    notes.uninstall(using=alias)


class Pool:
    """As psycopg's, without the package: how many are out, and once there is none to be had."""

    def __init__(self, connect: Any) -> None:
        self.connect, self.out, self.given = connect, 0, 0

    def open(self) -> None:
        pass

    def getconn(self) -> Any:
        self.given += 1
        if self.given == 2:
            raise PoolTimeout("couldn't get a connection")
        connection = self.connect()
        connection._pool = self
        self.out += 1
        return connection

    def putconn(self, connection: Any) -> None:
        self.out -= 1
        connection.close()


class PoolTimeout(psycopg.OperationalError):
    """As psycopg's pool has it."""


@pytest.mark.parametrize("alias", ["postgresql"], indirect=True)
def test_a_worker_leaves_the_pool_to_others(
    alias: str,
    library: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """With OPTIONS={"pool": True} it has a connection while it works, and waits for one."""
    from django.db import connections

    monkeypatch.setattr(refresh, "POLL", 0.01)
    notes = declared("columns", library)
    notes.install(using=alias)
    given = connections[alias].get_connection_params() | {"autocommit": True}
    pool = Pool(lambda: psycopg.connect(**given))
    connections[alias].close()
    stop = threading.Event()
    reports: list[Report] = []
    with monkeypatch.context() as patched:
        patched.setattr(type(connections[alias]), "pool", pool)
        patched.setitem(connections[alias].settings_dict["OPTIONS"], "pool", True)

        def work() -> None:
            reports.append(notes.refresh(using=alias, forever=True, stop=stop))
            connections.close_all()

        thread = threading.Thread(target=work)
        thread.start()
        wait_until(lambda: caplog.messages and pool.given > 3 and not pool.out, thread)
        library.Leaflet.objects.using(alias).create(title="one")
        wait_until(lambda: not notes.pending(using=alias).items, thread)
        stop.set()
        thread.join()
        connections[alias].close()
    assert caplog.messages == [f"refresh of {notes.name!r} waits for the database: PoolTimeout"]
    assert (reports[0].embedded, pool.out) == (1, 0)
    notes.uninstall(using=alias)


def test_another_model(alias: str, library: ModuleType):
    """It takes over what the rows say, and gives way again; also awaited."""
    from django.core import checks
    from django.core.management import CommandError, call_command
    from django.db import DEFAULT_DB_ALIAS

    rows = library.Leaflet.objects.using(alias)
    rows.bulk_create(library.Leaflet(title=title, body="b") for title in ("one", "two"))
    notes = declared("columns", library)
    notes.sync(using=alias)
    larger = DeterministicModel("larger")
    known = {"larger": larger, library.model.model_id: library.model}
    with substitute_models(lambda model_id, given: known.get(model_id) or given):  # type: ignore[arg-type,return-value]
        count = notes.collection(alias).count()
        assert notes.reembed("larger", using=alias).embedded == count
        assert notes.collection(alias).model_id == "larger"
        assert notes.nearest(rows.all(), "two b", 1).get().title == "two"
        typed = f"reembed {shlex.quote(notes.name)} {library.model.model_id}"
        if alias == DEFAULT_DB_ALIAS:
            told = checks.run_checks(databases=[alias])
            assert typed in "".join(each.hint or "" for each in told if each.id.endswith("W002"))
        output = io.StringIO()
        with pytest.raises(CommandError, match="Not everything"):
            call_command("embeddings", "check", notes.name, database=alias, stdout=output)
        option = "" if alias == DEFAULT_DB_ALIAS else f"--database {alias} "
        assert f"manage.py embeddings {option}{typed}" in output.getvalue()
        call_command(
            "embeddings", "reembed", notes.name, "--back", database=alias, stdout=io.StringIO()
        )
        assert notes.collection(alias).model_id == library.model.model_id
        notes.back(using=alias)

        async def awaited() -> None:
            await notes.aback(using=alias)
            await notes.areembed("larger", using=alias)
            await notes.aback(using=alias)
            assert await notes.adrop_previous(using=alias)

        asyncio.run(awaited())
        assert notes.collection(alias).model_id == library.model.model_id
        assert notes.sync(using=alias, dry_run=True).unchanged == count


def test_in_a_migration(alias: str, library: ModuleType):
    """The operation makes what `install` makes, is undone, and is written as SQL."""
    from django.db import connections

    collection = ModelCollection(library.Leaflet, text="title", name="moved", model=library.model)
    operation = FollowRows("library_leaflet", key="id", columns=["title"], collection="moved")
    missing = collection.trigger_problems(using=alias)
    declared = "FollowRows('library_leaflet', key='id', columns=('title',), collection='moved')"
    assert missing[-1] == f"as declared: {declared}"
    with connections[alias].schema_editor(collect_sql=True) as editor:
        operation.database_forwards("library", editor, None, None)
        assert "CREATE" in "".join(editor.collected_sql)
    assert collection.trigger_problems(using=alias) == missing
    with connections[alias].schema_editor() as editor:
        operation.database_forwards("library", editor, None, None)
    assert collection.trigger_problems(using=alias) == []
    library.Leaflet.objects.using(alias).create(title="one")
    assert collection.pending(using=alias).items == 1
    with connections[alias].schema_editor() as editor:
        operation.database_backwards("library", editor, None, None)
    assert collection.trigger_problems(using=alias) == missing
    assert "library_leaflet" in operation.describe()


@pytest.mark.parametrize("what", ["a new name", "the condition", "a type", "removed"])
def test_a_migration_of_a_model_that_is_followed(
    what: str, bare: tuple[str, Any], library: ModuleType
):
    """Between the two operations it may change what counts, forwards and back again."""
    from django.db import connections, migrations, models
    from django.db.migrations.state import ProjectState

    alias, command = bare
    command("migrate", "embeddings")
    old: dict[str, Any] = {
        "key": "id",
        "columns": ["title", "body", "shown"],
        "where": "shown",
        "collection": "changing",
    }
    change, new = {
        "a new name": (migrations.RenameField("note", "title", "name"), ["name", "body", "shown"]),
        "the condition": (migrations.RenameField("note", "shown", "seen"), ["title", "seen"]),
        "a type": (migrations.AlterField("note", "title", models.TextField()), ["title", "shown"]),
        "removed": (migrations.RemoveField("note", "body"), ["title", "shown"]),
    }[what]
    create = migrations.CreateModel(
        "Note",
        [
            ("id", models.BigAutoField(primary_key=True)),
            ("title", models.CharField(max_length=50)),
            ("body", models.TextField(default="")),
            ("shown", models.BooleanField(default=True)),
        ],
    )
    first, second = (migrations.Migration(name, "library") for name in ("first", "second"))
    first.operations = [create, FollowRows("library_note", **old)]
    second.operations = [
        UnfollowRows("library_note", **old),
        change,
        FollowRows("library_note", **(old | {"columns": new, "where": new[-1]})),
    ]

    def pending_after_a_row(state: ProjectState) -> int:
        note = state.apps.get_model("library", "Note")
        note.objects.using(alias).create(**{new[0] if state is changed else "title": "x"})
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT count(*) FROM embeddings_pending")
            return int(cursor.fetchone()[0])

    changed = None
    with connections[alias].schema_editor() as editor:
        made = first.apply(ProjectState(), editor)
    assert pending_after_a_row(made) == 1
    with connections[alias].schema_editor() as editor:
        changed = second.apply(made.clone(), editor)
    assert pending_after_a_row(changed) == 2
    with connections[alias].schema_editor() as editor:
        second.unapply(made.clone(), editor)
    assert pending_after_a_row(made) == 3
    assert "no more" in second.operations[0].describe()


def test_what_migrations_have_made_triggers_from(
    alias: str, library: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    """Those that a later one has dropped are missed by nobody."""
    from django.db import migrations
    from django.db.migrations.loader import MigrationLoader
    from django.test import override_settings

    from embeddings.integrations.django import operations

    given: dict[str, Any] = {"key": "id", "columns": ["title"], "collection": "moved"}
    steps = [FollowRows("a", **given), UnfollowRows("a", **given), FollowRows("b", **given)]

    class Loader(MigrationLoader):
        def load_disk(self) -> None:
            super().load_disk()
            for number, step in enumerate(steps):
                migration = migrations.Migration(f"000{number}", "made")
                migration.operations = [step]
                migration.dependencies = [("made", f"000{number - 1}")] * (number > 0)
                self.disk_migrations["made", migration.name] = migration

        def build_graph(self) -> None:
            super().build_graph()
            self.applied_migrations |= dict.fromkeys(("made", f"000{n}") for n in applied)

    monkeypatch.setattr(operations, "MigrationLoader", Loader)
    applied: list[int] = []
    for number, table in enumerate(["a", None, "b"]):
        applied.append(number)
        made = [each.table for each in operations.followed(alias, ["moved"])]
        assert made == ([] if table is None else [table])
    with override_settings(DATABASE_ROUTERS=["tests.integrations.test_django_following.Apart"]):
        assert operations.followed(alias, ["moved"]) == []
        assert len(operations.followed("other", ["moved"])) == 1


def test_a_condition_as_each_django_writes_it(alias: str, library: ModuleType):
    """Triggers that a migration made are as declared, whatever Django makes of a Q today."""
    from django.db import connections
    from django.db.models import Q

    for published, sql in ((True, ("published", "published = true")), (False, ("NOT published",))):
        collection = ModelCollection(
            library.Leaflet, text="title", where=Q(published=published), name=f"is {published}"
        )
        for where in (*sql, f'"published" = {published}'):
            operation = FollowRows(
                "library_leaflet",
                key="id",
                columns=["title", "published"],
                where=where,
                collection=collection.name,
            )
            with connections[alias].schema_editor() as editor:
                operation.database_forwards("library", editor, None, None)
            assert collection.trigger_problems(using=alias) == [], where
            with connections[alias].schema_editor() as editor:
                operation.database_backwards("library", editor, None, None)
        del collection


def test_the_commands(alias: str, library: ModuleType):
    """check, sync and refresh, and their exit codes."""
    from io import StringIO

    from django.core.management import CommandError, call_command

    collection = ModelCollection(library.Leaflet, text="title", name="ours", model=library.model)
    collection.install(using=alias)

    def run(*arguments: str) -> str:
        output = StringIO()
        call_command("embeddings", *arguments, "ours", database=alias, stdout=output)
        return output.getvalue()

    library.Leaflet.objects.using(alias).create(title="one")
    with pytest.raises(CommandError, match="Not everything is up to date"):
        run("check")
    assert "1 embedded" in run("refresh")
    assert "0 stale, 0 missing, 0 orphaned, 0 pending" in run("check")
    assert "1 unchanged" in run("sync")
    with pytest.raises(CommandError, match="No collection 'x' is declared"):
        run("check", "x")
    collection.uninstall(using=alias)


def test_the_commands_within_a_transaction(alias: str, library: ModuleType):
    """As in a `TestCase`: they see what it has written, and what they write ends with it."""
    from io import StringIO

    from django.core.management import call_command
    from django.db import transaction

    names = ("within", "within too")
    collections = [
        ModelCollection(library.Leaflet, text="title", name=name, model=library.model)
        for name in names
    ]
    for collection in collections:
        collection.install(using=alias)
    with transaction.atomic(using=alias):
        library.Leaflet.objects.using(alias).create(title="one")
        output = StringIO()
        call_command("embeddings", "refresh", *names, database=alias, stdout=output)
        assert output.getvalue() == "within: 1 embedded\nwithin too: 1 embedded\n"
        with pytest.raises(InvalidItemError, match=r"call it outside atomic\(\)"):
            collections[0].refresh(using=alias, forever=True)
        transaction.set_rollback(True, using=alias)
    for collection in collections:
        assert collection.collection(alias).count() == 0
        collection.uninstall(using=alias)


def test_the_commands_without_triggers(
    alias: str, library: ModuleType, caplog: pytest.LogCaptureFixture
):
    """Where `embed` is called in code: it is said, and is no failure; nor has it `columns`."""
    from io import StringIO

    from django.core.management import CommandError, call_command
    from django.db import connections

    collection = ModelCollection(
        library.Leaflet, text=lambda row: row.title, name="by hand", model=library.model
    )

    def run(command: str, *arguments: str) -> str:
        output = StringIO()
        call_command("embeddings", command, *arguments, database=alias, stdout=output)
        return output.getvalue()

    said = "Without triggers, and so written by embed, embed_multi and sync alone: by hand"
    leaflet = library.Leaflet.objects.using(alias).create(title="one")
    with pytest.raises(CommandError, match="Not everything is up to date"):
        run("check", "by hand")
    collection.embed(leaflet)
    assert run("check", "by hand").splitlines() == [
        "by hand: 0 stale, 0 missing, 0 orphaned, 0 pending",
        said,
    ]
    assert run("refresh", "by hand") == "by hand: nothing to do\n"
    assert "Name what the function text= of library.Leaflet reads" in caplog.messages[-1]
    given: dict[str, Any] = {"key": "id", "columns": ["title"], "collection": "by hand"}
    operation = FollowRows("library_leaflet", **given)
    with connections[alias].schema_editor() as editor:
        operation.database_forwards("library", editor, None, None)
    with pytest.raises(CommandError, match="triggers that are not in place"):
        run("status")
    with pytest.raises(CommandError, match="Not everything is up to date"):
        run("check", "by hand")
    collection.source.columns = ("title",)
    assert said not in run("check", "by hand")
    assert "in place" in run("status")
    collection.source.columns = ("title", "lang")
    with pytest.raises(CommandError, match="triggers that are not in place"):
        run("status")
    collection.uninstall(using=alias)


def test_the_commands_on_several_databases(alias: str, other: str, library: ModuleType):
    """Without names they are about the collections whose rows may be in the database."""
    from io import StringIO

    from django.core.management import CommandError, call_command
    from django.test import override_settings

    def run(database: str, *names: str) -> str:
        output = StringIO()
        call_command("embeddings", "refresh", *names, database=database, stdout=output)
        return output.getvalue()

    with override_settings(DATABASE_ROUTERS=["tests.integrations.test_django_following.Apart"]):
        with pytest.raises(CommandError, match=rf"{alias!r}: --database other$"):
            run(alias)
        assert "library.photo: nothing to do" in run(other)
        assert "library.photo: nothing to do" in run(alias, "library.photo")


def test_what_a_function_reads_has_to_be_known(alias: str, library: ModuleType):
    """Else no trigger could tell what counts."""
    collection = ModelCollection(library.Leaflet, text=lambda row: row.title, name="blind")
    with pytest.raises(TypeError, match=r"library\.Leaflet reads: columns="):
        collection.install(using=alias)
    with pytest.raises(TypeError, match="goes with a function"):
        ModelCollection(library.Leaflet, text="title", columns=["title"])


def test_a_function_that_is_awaited_is_refused(library: ModuleType):
    """When it is declared, also behind a partial."""

    async def text_of(leaflet: Any) -> str:
        return str(leaflet.title)

    text: Any  # a type checker finds these
    for text in (text_of, functools.partial(text_of)):
        with pytest.raises(TypeError, match="text= is a function that is awaited"):
            ModelCollection(library.Leaflet, text=text, columns=["title"], name="awaited")


def test_a_condition_on_the_table_of_a_parent(alias: str, library: ModuleType):
    """It holds of what is embedded, wherever its fields are stored."""
    from django.db.models import Q

    collection = ModelCollection(
        library.Essay,
        text="title",
        where=Q(published=True),
        name="by a parent",
        model=library.model,
    )
    rows = library.Essay.objects.using(alias)
    shown, hidden = (rows.create(title=f"{n}", published=n == 1) for n in (1, 2))
    collection.install(using=alias)
    collection.sync(using=alias)
    assert collection.collection(alias).ids() == [shown.pk]
    hidden.published, shown.published = True, False
    hidden.save()
    shown.save()
    collection.refresh(using=alias)
    assert collection.collection(alias).ids() == [hidden.pk]
    collection.uninstall(using=alias)


def test_a_row_that_cannot_be_read(notes: ModelCollection[Any], alias: str, library: ModuleType):
    """It is put off and named by itself, the others go on. PostgreSQL takes no such text."""
    from django.db import connections

    if connections[alias].vendor != "sqlite":
        pytest.skip("SQLite alone does not check texts")
    rows = library.Leaflet.objects.using(alias)
    good, bad = (rows.create(title=title, body="a") for title in ("good", "bad"))
    with connections[alias].cursor() as cursor:
        cursor.execute(
            "UPDATE library_leaflet SET title = CAST(x'ff41' AS TEXT) WHERE id = %s", [bad.pk]
        )
    report = notes.refresh(using=alias)
    assert (report.embedded, report.pending) == (1, 1)
    assert [id for id, _ in report.skipped] == [bad.pk]
    report = notes.sync(using=alias, on_error="skip")
    assert [id for id, _ in report.skipped] == [bad.pk]
    audit = notes.sync(using=alias, dry_run=True, on_error="skip")
    assert (audit.missing, [id for id, _ in audit.skipped]) == ((), [bad.pk])
    assert notes.collection(alias).ids() == [good.pk]
    bad.save(using=alias)
    assert notes.refresh(using=alias).embedded == 1


def test_one_name_on_two_tables(alias: str, library: ModuleType):
    """What triggers on another table follow is not replaced, not removed, and followed still."""
    notes = declared("columns", library)
    countries = ModelCollection(library.Country, text="name", name=notes.name, model=library.model)
    notes.install(using=alias)
    try:
        library.Leaflet.objects.using(alias).create(title="one", body="a")
        library.Country.objects.using(alias).create(code="1", name="one")
        assert notes.sync(using=alias).embedded == 1
        for write in (
            countries.install,
            countries.sync,
            countries.refresh,
            lambda using: countries.refresh(using=using, keys=["1"]),
            lambda using: countries.reembed(DeterministicModel("x"), using=using),
            countries.back,
            countries.drop_previous,
        ):
            with pytest.raises(SchemaError, match=r"'library_leaflet'.*'library_country'.*another"):
                write(using=alias)
        assert notes.trigger_problems(using=alias) == []
        assert notes.sync(using=alias).unchanged == 1
        assert countries.sync(using=alias, dry_run=True).missing == ("1",)
    finally:
        notes.uninstall(using=alias)

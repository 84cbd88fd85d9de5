"""Django: its transactions, migrations, settings and commands, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import threading
import unittest
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import MetaData, Table, insert, select, text
from sqlalchemy.exc import IntegrityError, StatementError

from embeddings import (
    BindingError,
    Chunks,
    Collection,
    CollectionRecord,
    IndexingError,
    ModelRequiredError,
    SchemaError,
    get_embedding_model,
    migrate,
)
from embeddings.models.registry import default_model_name
from embeddings.tables.migrate import migrations_dir
from embeddings.testing import DeterministicModel, replace_models
from tests.reaching import in_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from sqlalchemy.orm import Session

pytestmark = pytest.mark.usefixtures("library")
on_sqlite = pytest.mark.parametrize("alias", ["default"], indirect=True)
on_postgresql = pytest.mark.parametrize("alias", ["postgresql"], indirect=True)


class RefusedError(Exception):
    """What a test raises."""


@contextmanager
def failing(block: Any) -> Iterator[None]:
    """Leave a block by an error, once all is done in it."""
    with pytest.raises(RefusedError), block:  # noqa: PT012
        yield
        raise RefusedError


def session(alias: str) -> Any:
    from embeddings.integrations.django import session

    return session(using=alias)


def docs(lent: Session) -> Collection[str]:
    return Collection("docs", lent, model=DeterministicModel())


def write(alias: str, id: str = "a") -> None:
    """Write an author with Django and an embedding with the session."""
    from tests.integrations.library.models import Author

    with session(alias) as lent:
        Author.objects.using(alias).create(name=id)
        docs(lent).embed(id, id, {"n": id})


def written(alias: str) -> tuple[list[str], list[str]]:
    """Return what is there, as Django sees it and as the session does."""
    from tests.integrations.library.models import Author

    names = Author.objects.using(alias).order_by("name").values_list("name", flat=True)
    with session(alias) as lent:
        return list(names), docs(lent).ids()


def written_to_others(alias: str) -> tuple[list[str], list[str]]:
    """Return what another connection sees."""
    from django.db import connections

    seen = []

    def look() -> None:
        seen.append(written(alias))
        connections[alias].close()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return seen[0]


BOTH: Any = (["a"], ["a"])
NEITHER: Any = ([], [])


# Transactions


def test_a_block_without_a_transaction_is_one(alias: str):
    """It is committed at its end, and not before."""
    with session(alias) as lent:
        write(alias)
        assert written(alias) == BOTH
        assert docs(lent).ids() == ["a"]
        assert written_to_others(alias) == NEITHER
    assert written_to_others(alias) == BOTH


def test_an_error_in_a_block_undoes_both_sides(alias: str):
    """With a transaction around it, which goes on, and without."""
    from django.db import transaction

    with failing(session(alias)):
        write(alias)
    assert written(alias) == NEITHER
    with transaction.atomic(using=alias):
        with failing(session(alias)):
            write(alias)
        assert written(alias) == NEITHER
        write(alias)
    assert written(alias) == BOTH


def test_the_transaction_is_djangos(alias: str):
    """Whatever rolls it back takes the embeddings along; a savepoint takes its own."""
    from django.db import transaction

    with failing(transaction.atomic(using=alias)):
        write(alias)
    assert written(alias) == NEITHER
    with transaction.atomic(using=alias):
        write(alias)
        with failing(transaction.atomic(using=alias)):
            write(alias, "b")
            assert written(alias) == (["a", "b"], ["a", "b"])
        with transaction.atomic(using=alias):
            write(alias, "c")
    assert written(alias) == (["a", "c"], ["a", "c"])
    with transaction.atomic(using=alias):
        write(alias, "d")
        transaction.set_rollback(True, using=alias)
    assert written(alias) == (["a", "c"], ["a", "c"])


def test_on_commit_follows_the_commit(alias: str):
    """It is called once the embeddings are there for everybody, and not after a rollback."""
    from django.db import transaction

    seen: list[Any] = []

    def note() -> None:
        seen.append(written_to_others(alias))

    with transaction.atomic(using=alias):
        with session(alias):
            write(alias)
            transaction.on_commit(note, using=alias)
        with failing(session(alias)):
            transaction.on_commit(note, using=alias)
        assert seen == []
    assert seen == [BOTH]


def test_the_sessions_commit_commits_nothing(alias: str):
    """It flushes. What is loaded stays of use, also after the block."""
    from django.db import transaction

    with transaction.atomic(using=alias):
        with session(alias) as lent:
            record = CollectionRecord(name="docs", model="deterministic")
            lent.add(record)
            lent.commit()
        assert record.name == "docs"
        assert written_to_others(alias) == NEITHER
        transaction.set_rollback(True, using=alias)
    with session(alias) as lent:
        assert not Collection.exists(lent, "docs")


def test_what_is_pending_is_flushed_at_the_end(alias: str):
    """As at the end of `atomic()` there is nothing to call."""
    with session(alias) as lent:
        lent.add(CollectionRecord(name="docs", model="deterministic"))
    with session(alias) as lent:
        assert Collection.exists(lent, "docs")


def test_the_sessions_rollback_undoes_the_block(alias: str):
    """Both sides, at its end; until then nothing can be asked, as after Django's set_rollback."""
    from django.db import transaction
    from django.db.transaction import TransactionManagementError

    with transaction.atomic(using=alias):
        with session(alias) as lent:
            write(alias)
            lent.rollback()
            with pytest.raises(TransactionManagementError):
                written(alias)
            with pytest.raises(StatementError, match="until the end of the 'atomic' block"):
                lent.execute(text("SELECT 1"))
        assert written(alias) == NEITHER
        write(alias)
    assert written(alias) == BOTH


def test_a_savepoint_of_the_session(alias: str):
    """It undoes its part and no more."""
    with session(alias) as lent:
        write(alias)
        with pytest.raises(IntegrityError), lent.begin_nested():
            lent.execute(insert(CollectionRecord).values(name="docs", model="again"))
        nested = lent.begin_nested()
        docs(lent).embed("b", "b")
        nested.rollback()
    assert written(alias) == BOTH


def test_the_database_refuses_what_the_session_writes(alias: str):
    """The block is undone, and Django goes on in its transaction."""
    from django.db import transaction

    def fail() -> None:
        with session(alias) as lent:
            write(alias, "b")
            lent.add(CollectionRecord(name="docs", model="again"))
            lent.flush()

    with transaction.atomic(using=alias):
        write(alias)
        with pytest.raises(IntegrityError):
            fail()
        assert written(alias) == BOTH
    assert written(alias) == BOTH


def test_the_database_refuses_what_django_writes(alias: str):
    """The same the other way round."""
    from django import db

    from tests.integrations.library.models import Author

    def fail() -> None:
        with session(alias) as lent:
            docs(lent).embed("b", "b")
            taken = Author.objects.using(alias).get().pk
            Author.objects.using(alias).create(pk=taken, name="again")

    write(alias)
    with db.transaction.atomic(using=alias):
        with pytest.raises(db.IntegrityError):
            fail()
        assert written(alias) == BOTH
    assert written(alias) == BOTH


def test_a_connection_that_django_closed(alias: str):
    """The next session has Django's next one; none is kept."""
    from django.db import connections

    for id in ("a", "b"):
        write(alias, id)
        connections[alias].close()
    assert written(alias) == (["a", "b"], ["a", "b"])


def terminate(alias: str, pid: int) -> None:
    """Let the server close a connection."""
    from django.db import connections

    def by_another() -> None:
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        connections[alias].close()

    thread = threading.Thread(target=by_another)
    thread.start()
    thread.join()


@on_postgresql
def test_a_connection_that_the_server_closed(alias: str):
    """The request fails, and the next one works, as with Django alone."""
    from django.db import connections

    write(alias)
    with session(alias) as lent:
        connections[alias].ensure_connection()
        pid = lent.scalar(text("SELECT pg_backend_pid()"))
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            assert cursor.fetchone() == (pid,)
    connections[alias].connection.cursor().execute("SELECT 1")

    terminate(alias, pid)
    with pytest.raises(Exception, match=r"terminat|closed"), session(alias) as lent:
        lent.execute(text("SELECT 1"))
    connections[alias].close_if_unusable_or_obsolete()
    assert written(alias) == BOTH


@on_postgresql
def test_connections_are_checked_as_django_checks_them(
    alias: str, library: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    """With CONN_HEALTH_CHECKS a request whose first statement is ours has one that works."""
    from django.db import connections

    connection = connections[alias]
    for name, value in (("CONN_HEALTH_CHECKS", True), ("CONN_MAX_AGE", 60)):
        monkeypatch.setitem(connection.settings_dict, name, value)
    connection.close()
    collection = library.articles.collection(alias)
    assert collection.count() == 0
    terminate(alias, connection.connection.info.backend_pid)
    connection.close_if_unusable_or_obsolete()  # a request begins
    assert collection.count() == 0


def test_threads_have_their_own(alias: str):
    """Each thread works on its own connection, in its own transaction."""
    from django.db import connections

    write(alias, "first")

    def work(number: int) -> None:
        try:
            for turn in range(3):
                write(alias, f"{number}-{turn}")
        finally:
            connections[alias].close()

    in_threads(work, 4)
    assert len(written(alias)[1]) == 13


def test_it_is_no_place_for_an_event_loop(alias: str):
    """There it is refused as Django's own queries are; in `sync_to_async` it works."""
    from asgiref.sync import sync_to_async
    from django.core.exceptions import SynchronousOnlyOperation
    from django.db import connections

    async def work() -> None:
        with pytest.raises(SynchronousOnlyOperation), session(alias):
            pass
        await sync_to_async(write)(alias)
        await sync_to_async(lambda: connections[alias].close())()

    asyncio.run(work())
    assert written(alias) == BOTH


@pytest.fixture
def atomic_requests(alias: str) -> Iterator[None]:
    from django.db import connections

    connections[alias].settings_dict["ATOMIC_REQUESTS"] = True
    yield
    connections[alias].settings_dict["ATOMIC_REQUESTS"] = False


@on_sqlite
@pytest.mark.usefixtures("atomic_requests")
def test_a_view_that_fails(alias: str, library: ModuleType):
    """Under ATOMIC_REQUESTS it leaves nothing, neither rows nor embeddings."""
    from django.test import Client

    client = Client(raise_request_exception=False)
    assert client.get("/write/one").content == b"one"
    assert client.get("/write/two fail").status_code == 500
    assert library.articles.collection().count() == library.Article.objects.count() == 1


@on_sqlite
def test_an_asynchronous_view(alias: str, library: ModuleType):
    """It calls what is synchronous as Django's documentation says."""
    from django.test import AsyncClient

    async def ask() -> bytes:
        answer: bytes = (await AsyncClient().get("/async/one")).content
        return answer

    assert asyncio.run(ask()) == b"one"
    assert library.articles.collection().count() == 1


def test_several_databases_have_their_own(alias: str, other: str):
    """A rollback of one leaves the other alone."""
    from django.db import transaction

    with transaction.atomic(using=other):
        write(other)
        with failing(transaction.atomic(using=alias)):
            write(alias, "b")
    assert written(other) == BOTH
    assert written(alias) == NEITHER


def test_a_database_of_another_kind():
    """It is refused with what there is."""
    from embeddings.integrations.django.database import DjangoTransactions

    docs = Collection("docs", DjangoTransactions("nothing"), model=DeterministicModel())
    with pytest.raises(BindingError, match="'nothing' is unknown"):
        docs.count()


# Values


def test_json_and_bytes_on_djangos_connection(alias: str, library: ModuleType):
    """Django's adapters for JSON change nothing here, and stay as they are."""
    metadata = {"ä": [1, 2.5, None, {"x": "\u2603"}], "colon": ":a %s %"}
    with session(alias) as lent:
        collection = Collection("docs", lent, model=DeterministicModel(supports_binary=True))
        collection.embed("ä", b"\x00\xff", metadata, store=True)
        collection.embed_multi((str(n), f"text {n}") for n in range(150))
        article = library.Article.objects.using(alias).create(title="x", tags=metadata)
        article.refresh_from_db()
        record = collection.get("ä")
        assert record is not None
        assert record.metadata_ == article.tags == metadata
        assert record.content_blob == b"\x00\xff"
        assert collection.similar("text 7", number=1, where=None)[0].id == "7"
        assert collection.count() == 151


def test_djangos_own_tables_through_the_session(alias: str, library: ModuleType):
    """SQLAlchemy sees what is uncommitted; Django's functions of SQLite stay."""
    library.Article.objects.using(alias).create(title="Ants", published=False)
    with session(alias) as lent:
        table = Table("library_article", MetaData(), autoload_with=lent.connection())
        rows = lent.execute(select(table.c.title, table.c.published)).all()
    assert rows == [("Ants", False)]
    assert library.Article.objects.using(alias).filter(title__iregex="^a.t").exists()


# Migrations


def test_there_is_a_migration_for_each_revision(django_aliases: None):
    """In the same order, and each leads back to the one before."""
    from alembic.script import ScriptDirectory
    from django.db.migrations.loader import MigrationLoader

    loader = MigrationLoader(None, ignore_no_migrations=True)
    (leaf,) = loader.graph.leaf_nodes("embeddings")
    plan = [loader.graph.nodes[key] for key in loader.graph.forwards_plan(leaf)]
    operations = [operation for migration in plan for operation in migration.operations]
    revisions = list(ScriptDirectory(str(migrations_dir())).walk_revisions())[::-1]
    assert [(o.revision, o.down) for o in operations] == [
        (script.revision, script.down_revision or "base") for script in revisions
    ]


def test_migrate_and_back_again(bare: tuple[str, Callable[..., str]]):
    """The tables come and go with Django's own commands, but never with rows in them."""
    from django.core.management import CommandError
    from django.db import connections

    alias, command = bare
    lacks = f"What the schema lacks: manage.py migrate --database={alias}"
    with pytest.raises(CommandError, match=lacks):
        command("embeddings", "status")
    assert "0001_documented_schema... OK" in command("migrate", "embeddings")
    assert "No migrations to apply" in command("migrate", "embeddings")
    assert "No changes detected" in command("makemigrations", "embeddings", check_changes=True)
    assert "Alembic revision emb_0005" in command("migrate", "embeddings", "0001", plan=True)
    with session(alias) as lent:
        docs(lent).embed("hound", "my happy hound")
    assert command("embeddings", "status").split()[:6] == [
        *("Schema", "emb_0005,", "up", "to", "date."),
        "collection",
    ]
    says = rf"would drop 2 rows of collections and embeddings.*dbshell --database={alias}"
    with pytest.raises(CommandError, match=says):
        command("migrate", "embeddings", "zero")
    assert "up to date" in command("embeddings", "status")
    with session(alias) as lent:
        assert docs(lent).similar("hound")[0].id == "hound"
        docs(lent).delete()
    command("migrate", "embeddings", "zero")
    assert connections[alias].introspection.table_names() == ["django_migrations"]
    with (
        session(alias) as lent,
        pytest.raises(SchemaError, match=f"manage.py migrate --database={alias}"),
    ):
        docs(lent).embed("hound", "my happy hound")
    assert "0004_words... OK" in command("migrate", "embeddings")


def test_the_commands_of_every_framework(bare: tuple[str, Callable[..., str]]):
    """All that the program has; what is not there is an error, and so exits with 1."""
    from django.core.management import CommandError, CommandParser

    from embeddings.cli import embeddings as program
    from embeddings.integrations.django.management.commands.embeddings import Command

    parser = CommandParser()
    Command().add_arguments(parser)
    assert sorted(parser._subparsers._group_actions[0].choices) == sorted(program.commands)
    alias, command = bare
    assert "0001_documented_schema... OK" in command("embeddings", "migrate")
    with session(alias) as lent:
        docs(lent).embed("hound", "my happy hound", {"year": 2022}, store=True)
    facts = json.loads(command("embeddings", "status", "--json"))
    assert [row["name"] for row in facts["collections"]] == ["docs"]
    with replace_models():
        found = command("embeddings", "search", "docs", "my happy hound")
        assert found == "1.0000  hound  my happy hound\n"
        found = command("embeddings", "search", "docs", "hound", "--json", "-n", "1")
        assert [entry["id"] for entry in json.loads(found)] == ["hound"]
        with pytest.raises(CommandError, match="Nothing was found"):
            command("embeddings", "search", "docs", "hound", "--prefix", "x")
        with pytest.raises(CommandError, match="query is empty"):
            command("embeddings", "search", "docs", "")
    assert json.loads(command("embeddings", "show", "docs", "--json"))["rows"] == 1
    item = json.loads(command("embeddings", "show", "docs", "hound", "--json"))
    assert item["metadata"] == {"year": 2022}
    for missing in (["cats"], ["docs", "cat"]):
        with pytest.raises(CommandError, match=r"does not exist|ID not found: 'cat'"):
            command("embeddings", "show", *missing)
    for options in (["--by", "item"], ["--undo"]):
        with pytest.raises(CommandError, match=r"[Cc]itus"):
            command("embeddings", "distribute", *options)


def test_tables_that_are_there_already(bare: tuple[str, Callable[..., str]]):
    """What `embeddings.migrate` made is taken over, with its rows."""
    alias, command = bare
    with session(alias) as lent:
        migrate(lent.connection())
        docs(lent).embed("hound", "my happy hound")
    assert "0004_words... OK" in command("migrate", "embeddings")
    with session(alias) as lent:
        assert docs(lent).ids() == ["hound"]
    assert "up to date" in command("embeddings", "status")


# What Django's test cases leave


def run_case(case: type[unittest.TestCase]) -> None:
    """Run a test case as Django's runner does."""
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert result.testsRun == 2
    assert not [*result.errors, *result.failures], (*result.errors, *result.failures)


@pytest.mark.parametrize("kind", ["TestCase", "TransactionTestCase"])
def test_nothing_leaks_from_a_test_case(alias: str, kind: str):
    """Neither the rows nor the embeddings of one test are there in the next."""
    from django import test

    class Case(getattr(test, kind)):  # type: ignore[misc]
        databases = frozenset({alias})

        def test_one(self) -> None:
            assert written(alias) == NEITHER
            write(alias)
            assert written(alias) == BOTH

        test_two = test_one

    run_case(Case)
    assert written(alias) == NEITHER


@on_sqlite
def test_a_test_case_keeps_other_databases_out(alias: str, other: str):
    """What Django refuses in `TestCase.databases` is refused here too."""
    from django import test
    from django.test.testcases import DatabaseOperationForbidden

    class Case(test.TestCase):
        databases = frozenset({"default"})

        def test_one(self) -> None:
            with pytest.raises(DatabaseOperationForbidden):
                write("other")

        test_two = test_one

    run_case(Case)


def test_flush_empties_the_tables(alias: str):
    """They are data of the project as all other."""
    from django.core.management import call_command

    write(alias)
    call_command("flush", database=alias, interactive=False, verbosity=0)
    assert written(alias) == NEITHER
    with session(alias) as lent:
        assert Collection.names(lent) == []


def test_a_migration_that_sends_the_signal_of_migrate_empties_nothing(
    alias: str, library: ModuleType
):
    """As one does that wants permissions to be there, also where there is no other row."""
    from django.core.management import call_command
    from django.core.management.sql import emit_post_migrate_signal

    write(alias)
    emit_post_migrate_signal(0, False, alias)
    assert written(alias) == (["a"], ["a"])
    library.Author.objects.using(alias).all().delete()
    emit_post_migrate_signal(0, False, alias)
    assert written(alias) == ([], ["a"])
    call_command("flush", database=alias, interactive=False, verbosity=0)
    assert written(alias) == NEITHER


def test_nothing_that_is_followed_leaks_from_a_test_case(alias: str, library: ModuleType):
    """Neither what is pending, nor chunks, nor an index of words, is there in the next test."""
    from django import test

    from embeddings.integrations.django import ModelCollection

    notes = ModelCollection(
        library.Leaflet,
        text="title",
        name=f"notes of {alias}",
        model=library.model,
        store=True,
        chunks=Chunks(size=20),
    )
    others = ModelCollection(
        library.Photo, text="caption", name=f"others of {alias}", model=library.model
    )

    class Case(test.TransactionTestCase):
        databases = frozenset({alias})

        def test_one(self) -> None:
            assert notes.pending(using=alias).items == 0
            photo = library.Photo.objects.using(alias).create(caption="a photo of a dog")
            others.embed(photo)
            with pytest.raises(IndexingError):
                others.nearest(library.Photo.objects.using(alias), "dog", words=True)
            assert others.collection(alias).count(chunks=True) == 1
            others.collection(alias).delete()
            for title in ("a long text about dogs", "another long text"):
                leaflet = library.Leaflet.objects.using(alias).create(title=title)
            notes.embed(leaflet)
            notes.collection(alias).create_text_index()
            assert notes.pending(using=alias).items == 2
            leaflet.delete()

        test_two = test_one

    notes.install(using=alias)
    try:
        run_case(Case)
        assert notes.pending(using=alias).items == 0
    finally:
        notes.uninstall(using=alias)


# Settings


@pytest.fixture
def settings(django_aliases: None) -> Any:
    """Django's `override_settings`."""
    from django.test import override_settings

    return override_settings


def test_the_model_and_the_keys_are_settings(settings: Callable[..., Any]):
    """They hold for as long as the settings do."""
    before = default_model_name()
    given = {"MODEL": "3-small", "OPENAI_API_KEY": "sk-x", "OPENAI_BASE_URL": "http://x"}
    with settings(EMBEDDINGS=given):
        assert default_model_name() == "3-small"
        model: Any = get_embedding_model("3-small")
        assert model._settings == {"api_key": "sk-x", "base_url": "http://x"}
    assert default_model_name() == before
    again: Any = get_embedding_model("3-small")
    assert again._settings == {}


@on_sqlite
def test_no_model_is_set(alias: str, library: ModuleType, settings: Callable[..., Any]):
    """The error says where a project names one."""
    from embeddings.integrations.django import ModelCollection

    notes = ModelCollection(library.Leaflet, text="title", name="without a model")
    leaflet = library.Leaflet.objects.using(alias).create(title="one")
    said = r'EMBEDDINGS = {"MODEL": \.\.\.} in the settings'
    with settings(EMBEDDINGS={}), pytest.raises(ModelRequiredError, match=said):
        notes.embed(leaflet)


def test_a_model_of_ones_own(alias: str, library: ModuleType, settings: Callable[..., Any]):
    """The setting takes the object, which is known by its id from then on."""
    with settings(EMBEDDINGS={"MODEL": library.Unused()}):
        with session(alias) as lent:
            collection = Collection("docs", lent)
            collection.embed("a", "a")
            assert collection.model_id == "unused"
        assert get_embedding_model("unused").embed("x") == [1.0]


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        ({}, []),
        ({"MODEL": "local", "OPENAI_API_KEY": None}, []),
        ({"MODEL": DeterministicModel()}, []),
        ("local", ["embeddings.E001"]),
        ({"Model": "local", 5: 6}, ["embeddings.E002"] * 2),
        ({"OPENAI_API_KEY": ("sk-secret",)}, ["embeddings.E003"]),
        ({"MODEL": "locl"}, ["embeddings.E004"]),
        ({"MODEL": 5}, ["embeddings.E004"]),
        ({"MODEL": DeterministicModel}, ["embeddings.E004"]),
        ({"MODELS": {"nomic": {"base_url": "http://x", "api_key": "sk-secret"}}}, []),
        ({"MODELS": {"nomic": {"base_ur": "sk-secret"}}}, ["embeddings.E005"]),
        ({"MODELS": ["sk-secret"]}, ["embeddings.E005"]),
        ({"MODELS": {"local": {"api_key": "sk-secret"}}}, ["embeddings.E005"]),
        ({"MODEL": DeterministicModel("local")}, ["embeddings.E004"]),
    ],
)
def test_the_settings_are_checked(given: Any, ids: list[str], settings: Callable[..., Any]):
    """By `manage.py check`, which says what is wrong and shows no key."""
    from django.core import checks

    with settings(EMBEDDINGS=given):
        found = checks.run_checks(tags=["embeddings"])
    assert [message.id for message in found if message.level >= checks.ERROR] == ids
    assert "sk-secret" not in str(found)


def test_an_unknown_model_is_told_of_those_there_are(settings: Callable[..., Any]):
    """The hint lists them."""
    from django.core import checks

    with settings(EMBEDDINGS={"MODEL": "locl"}):
        messages = checks.run_checks(tags=["embeddings"])
    (found,) = (message for message in messages if message.id == "embeddings.E004")
    assert "'locl'" in found.msg
    assert "text-embedding-3-small" in str(found.hint)


def test_no_key_is_shown_in_an_error_page(settings: Callable[..., Any]):
    """Django hides by their names what is secret."""
    from django.views.debug import SafeExceptionReporterFilter

    with settings(EMBEDDINGS={"OPENAI_API_KEY": "sk-secret"}):
        assert "sk-secret" not in str(SafeExceptionReporterFilter().get_safe_settings())


def test_contents_are_not_shown_in_errors(alias: str):
    """SQLAlchemy would show the parameters of a statement that failed."""

    def fail() -> None:
        with session(alias) as lent:
            lent.add(CollectionRecord(id=1, name="a", model="secret"))
            lent.flush()
            lent.execute(insert(CollectionRecord).values(id=1, name="b", model="secret"))

    with pytest.raises(IntegrityError) as caught:
        fail()
    assert "secret" not in str(caught.value)

"""Many processes and threads write to PostgreSQL at once: no deadlock, nothing lost or torn."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

import embeddings
from embeddings import Collection, encode
from embeddings.testing import DeterministicModel
from tests.forked import MIGRATIONS, python
from tests.reaching import in_threads, new_database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import URL

REPOSITORY = Path(__file__).parents[2]
PROCESSES = int(os.environ.get("EMBEDDINGS_PROCESSES", "4"))
IDS = 25 * PROCESSES
"""More of both in a long run."""
BATCHES = int(os.environ.get("EMBEDDINGS_BATCHES", "8"))
"""How many batches each process writes; for a long run, set the variable to more."""
KILLS = int(os.environ.get("EMBEDDINGS_KILLS", "2"))
"""How often a writer is killed; for a long run, set the variable to more."""

LAUNCH = """
import collections
import json
import logging
import os
import random
import sys

import sqlalchemy
import sqlalchemy.dialects.postgresql.psycopg
from sqlalchemy.exc import DBAPIError

import embeddings
from embeddings import Collection, EmbeddingsError
from embeddings.testing import DeterministicModel
from tests.forked import together

logging.disable()  # psycopg logs what it raises
url, scripts = sys.argv[1], json.loads(sys.argv[2])


def begin():
    with engine.connect():
        pass
    ready()


def chosen():
    ids = [f"{i:03d}" for i in range(IDS)]
    return chance.sample(ids, chance.randint(10, 50))  # in any order


def report(**counts):
    os.write(1, (json.dumps([number, counts]) + "\\n").encode())


def work(number_, ready_):
    global number, ready, chance, model, engine, docs
    number, ready, chance, model = number_, ready_, random.Random(number_), DeterministicModel()
    engine = sqlalchemy.create_engine(url, pool_size=1, max_overflow=0, hide_parameters=True)
    docs = Collection("docs", engine, model=model)
    try:
        exec(scripts[number], globals())
    finally:
        engine.dispose()


together(len(scripts), work)
""".replace("IDS", str(IDS))


@pytest.fixture(scope="module")
def database(server: URL) -> Iterator[URL]:
    """A database with the tables for these tests alone."""
    with new_database(server) as url:
        engine = create_engine(url, poolclass=NullPool)
        with engine.begin() as connection:
            # So that a victim is found soon, and many are.
            connection.execute(
                text(f"ALTER DATABASE {url.database} SET deadlock_timeout = '100ms'")
            )
        embeddings.migrate(engine)
        yield url


@pytest.fixture
def url(database: URL) -> URL:
    """That database with empty tables, which has known no deadlock."""
    engine = create_engine(database, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE collections, embeddings, embeddings_pending"))
        connection.execute(text("SELECT pg_stat_reset()"))
    return database


@pytest.fixture
def host(url: URL) -> Iterator[Engine]:
    """An engine on that database."""
    engine = create_engine(url, pool_size=4, max_overflow=0)
    yield engine
    engine.dispose()


def query(engine: Engine, sql: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


def deadlocks(engine: Engine) -> int:
    """Return how many deadlocks PostgreSQL has resolved in the database."""
    with engine.connect() as connection:
        count = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(connection.scalar(count) or 0)


def program(url: URL, scripts: list[str]) -> list[str]:
    """Return the arguments of Python that run each script in a process, all at the same time."""
    shown = url.render_as_string(hide_password=False)
    return ["-W", "error", "-c", LAUNCH, shown, json.dumps(scripts)]


# No threads of NumPy's: a process that forks must have one only.
ENVIRONMENT = {"PYTHONPATH": str(REPOSITORY), "OPENBLAS_NUM_THREADS": "1"}


def run_together(url: URL, *scripts: str, batches: int = BATCHES) -> list[dict[str, Any]]:
    """Run the scripts in a process each, and return what each of them reports."""
    done = python(
        *program(url, [f"batches = {batches}\n{script}" for script in scripts]),
        env=os.environ | ENVIRONMENT,
        modules=MIGRATIONS,
        timeout=3_600,
    )
    assert not done.stderr, [line for line in done.stderr.splitlines() if "Error" in line]
    assert done.returncode == 0
    reports = sorted(map(json.loads, done.stdout.splitlines()))
    assert [number for number, _ in reports] == [*range(len(scripts))]
    return [counts for _, counts in reports]


def assert_sound(engine: Engine) -> None:
    """Every row has a collection, and its hash and vector are those of its content."""
    assert (
        query(
            engine,
            "SELECT e.id FROM embeddings e LEFT JOIN collections c ON c.id = e.collection_id "
            "WHERE c.id IS NULL",
        )
        == []
    )
    model = DeterministicModel()
    for name in Collection.names(engine):
        for record in Collection(name, engine):
            assert record.content is not None
            assert record.content_hash == Collection.content_hash(record.content)
            assert encode(record.embedding) == encode(model.embed(record.content))


# Processes that write the same ids

WRITES = """
begin()
for batch in range(batches):
    entries = []
    for id in chosen():
        way = "KIND"
        if way == "mixed":
            way = chance.choice(["content", "metadata", "same", "new"])
        text = f"text of {id}"
        if way == "content":
            text += f" by {number} in batch {batch}"
        if way == "new":
            id = f"{id}-{number}"
            text = f"text of {id}"
        metadata = None if way == "same" else {"by": number, "batch": batch}
        entries.append((id, text, metadata))
    docs.embed_multi_with_metadata(entries, store=True)
report(batches=batches)
"""


@pytest.mark.parametrize("kind", ["content", "metadata", "mixed"])
def test_processes_that_write_the_same_ids(url: URL, host: Engine, kind: str):
    """Overlapping batches in any order wait for each other, and none is refused or lost."""
    docs = Collection("docs", host, model=DeterministicModel())
    every = [f"{i:03d}" for i in range(IDS)]
    docs.embed_multi([(id, f"text of {id}") for id in every], store=True)
    before = deadlocks(host)

    batches = BATCHES if kind == "mixed" else BATCHES // 2

    reports = run_together(url, *[WRITES.replace("KIND", kind)] * PROCESSES, batches=batches)

    assert reports == [{"batches": batches}] * PROCESSES
    assert deadlocks(host) == before
    assert_sound(host)
    found = {record.id: record for record in docs}
    assert found.keys() >= set(every)
    assert all(str(record.content).startswith(f"text of {id}") for id, record in found.items())
    if kind == "metadata":
        assert found.keys() == set(every)
        assert {record.content for record in found.values()} == {f"text of {id}" for id in every}
    last = {record.metadata_["batch"] for record in found.values() if record.metadata_}
    assert max(last) == batches - 1


OWN = """
begin()
for batch in range(batches):
    # Ids of everyone's, and some of one's own between them.
    entries = [(id, f"text of {id} by {number} in batch {batch}") for id in chosen()]
    entries += [(f"{i:03d}-{number}-{batch}", f"own {i} of {number}") for i in range(0, 100, 25)]
    chance.shuffle(entries)
    docs.embed_multi(entries, store=True, batch_size=len(entries))
report(batches=batches)
"""


def test_nothing_of_a_new_collection_is_lost(url: URL, host: Engine):
    """Processes fill a collection that none has created: it is one, and has every row."""
    reports = run_together(url, *[OWN] * PROCESSES, batches=BATCHES // 4)

    assert reports == [{"batches": BATCHES // 4}] * PROCESSES
    assert deadlocks(host) == 0
    assert query(host, "SELECT name, model FROM collections") == [("docs", "deterministic")]
    assert_sound(host)
    own = {
        f"{i:03d}-{number}-{batch}"
        for i in range(0, 100, 25)
        for number in range(PROCESSES)
        for batch in range(BATCHES // 4)
    }
    assert own <= set(Collection("docs", host).ids())


CREATES = """
begin()
for i in range(5):
    Collection(f"docs {i}", engine, model=model).embed(f"{number}", f"text {number}", store=True)
report()
"""


def test_processes_that_create_the_same_collections(url: URL, host: Engine):
    """Processes create five collections at the same time: each is created once."""
    run_together(url, *[CREATES] * PROCESSES)

    assert deadlocks(host) == 0
    assert Collection.names(host) == sorted(f"docs {i}" for i in range(5))
    assert query(host, "SELECT DISTINCT count(*) FROM embeddings GROUP BY collection_id") == [
        (PROCESSES,)
    ]
    assert_sound(host)


OPENS = """
begin()
with Collection("docs", url, model=model) as opened:
    opened.embed(f"{number}", f"text {number}", store=True)
report()
"""


def test_processes_that_open_the_same_url(server: URL):
    """Processes open a database without tables by its URL: one migrates it."""
    with new_database(server) as url:
        engine = create_engine(url, poolclass=NullPool)
        run_together(url, *[OPENS] * 4)

        assert query(engine, "SELECT name FROM collections") == [("docs",)]
        assert query(engine, "SELECT count(*) FROM embeddings") == [(4,)]
        assert_sound(engine)


DELETES_ITEMS = """
begin()
deleted = 0
for batch in range(batches):
    deleted += docs.delete_items(chosen())
report(deleted=deleted)
"""
REPLACES = """
begin()
for batch in range(batches):
    entries = [(id, f"text of {id} by {number} in batch {batch}") for id in chosen()]
    docs.embed_multi(entries, store=True)
report()
"""
SETS_METADATA = """
begin()
for batch in range(batches):
    for id in chosen()[:20]:
        try:
            docs.set_metadata(id, {"by": number})
        except docs.DoesNotExist:
            pass
report()
"""


def test_processes_that_delete_what_others_write(url: URL, host: Engine):
    """Whoever deletes items that others write waits for them, or they for him; none is refused."""
    docs = Collection("docs", host, model=DeterministicModel())
    docs.embed_multi([(f"{i:03d}", f"text of {i:03d}") for i in range(IDS)], store=True)
    scripts = [REPLACES] * 4 + [DELETES_ITEMS] * 3 + [SETS_METADATA]

    reports = run_together(url, *scripts, batches=BATCHES // 2)

    assert deadlocks(host) == 0
    assert sum(report.get("deleted", 0) for report in reports) > 0
    assert_sound(host)


DELETES_BY_PREFIX = """
begin()
for batch in range(batches):
    if number % 2:
        docs.delete_items(where={"by": chance.randrange(len(scripts))})
    else:
        docs.delete_items(prefix=f"{chance.randrange(10):02d}")
report()
"""
DESCRIBES = """
begin()
for batch in range(batches):
    entries = [(id, f"text of {id} by {number}", {"by": number}) for id in chosen()]
    docs.embed_multi_with_metadata(entries, store=True)
report()
"""


def test_processes_that_delete_by_prefix_and_metadata(url: URL, host: Engine):
    """Deleting by prefix or by metadata takes rows in the order of those who write them."""
    Collection("docs", host, model=DeterministicModel()).embed("x", "keeps it open", store=True)

    run_together(url, *[DESCRIBES] * 4, *[DELETES_BY_PREFIX] * 4, batches=BATCHES // 2)

    assert deadlocks(host) == 0
    assert_sound(host)


SURVIVES = """
deletes = number < 2
begin()
errors = collections.Counter()
for batch in range(batches):
    docs = Collection("docs", engine, model=model)
    try:
        if deletes and batch % 4 == 3:
            docs.delete()
        else:
            docs.embed_multi([(id, f"text of {id} by {number}") for id in chosen()], store=True)
    except (DBAPIError, EmbeddingsError) as error:
        errors[type(getattr(error, "orig", error)).__name__] += 1
report(**errors)
"""


def test_processes_that_delete_and_create_the_collection(url: URL, host: Engine):
    """While some delete the whole collection, others write it anew: no row is left without one."""
    reports = run_together(url, *[SURVIVES] * PROCESSES, batches=BATCHES // 2)

    assert_sound(host)
    assert len(Collection.names(host)) <= 1
    errors = sum((Counter(report) for report in reports), Counter())
    # A writer whose collection goes away under him may learn it; nobody is shot as a victim.
    assert errors.keys() <= {"DoesNotExist", "ForeignKeyViolation"}, errors
    assert deadlocks(host) == 0


@pytest.mark.parametrize("moment", ["FOR KEY SHARE", "INSERT INTO collections"])
@pytest.mark.parametrize("operation", ["embed", "set_metadata", "delete_items"])
def test_a_collection_that_appears_meanwhile_is_kept_from_being_deleted(
    url: URL, host: Engine, operation: str, moment: str
):
    """Another creates it just after a writer looked for it, and cannot delete it under him."""
    if operation != "embed" and moment.startswith("INSERT"):
        pytest.skip("creates nothing")
    other = create_engine(url, poolclass=NullPool)
    model = DeterministicModel()
    theirs = Collection("docs", other, model=model)
    refused: list[str] = []

    def create(*arguments: Any) -> None:
        if moment in arguments[2] and "pg_catalog" not in arguments[2] and not created:
            created.append(arguments[2])
            theirs.embed_multi([("a", "text a"), ("b", "text b")], store=True)

    def try_to_lock(*arguments: Any) -> None:
        if arguments[2].startswith(("INSERT INTO embeddings", "UPDATE emb", "DELETE FROM emb")):
            with pytest.raises(OperationalError, match="lock") as caught, other.begin() as session:
                session.execute(text("SELECT id FROM collections FOR UPDATE NOWAIT"))
            refused.append(type(caught.value.orig).__name__)

    created: list[str] = []
    ours = Collection("docs", host, model=model)
    side = "before" if moment.startswith("INSERT") else "after"
    event.listen(host, f"{side}_cursor_execute", create)
    event.listen(host, "before_cursor_execute", try_to_lock)

    if operation == "embed":
        ours.embed("a", "another text", store=True)
    elif operation == "set_metadata":
        ours.set_metadata("a", {"by": "us"})
    else:
        ours.delete_items(["a"])

    assert refused
    assert set(refused) == {"LockNotAvailable"}
    assert len(created) == 1


# Killed, and cut off

BATCH = 20
KILLED = """
import time


def entries():
    for batch in range(10_000):
        for i in range(BATCH):
            yield f"ROUND-{batch}-{i}", f"text {i} of batch {batch} of ROUND"
        # Whoever asks for more is done with the batch.
        print(batch, flush=True)


begin()
docs.embed_multi(entries(), store=True, batch_size=BATCH)
""".replace("BATCH", str(BATCH))


def acknowledged_by_the_killed(url: URL, round: int, count: int) -> set[int]:
    """Kill a writer after that many batches, and return all those that it acknowledged."""
    with subprocess.Popen(
        [sys.executable, *program(url, [KILLED.replace("ROUND", str(round))])],
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(count)]
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
    assert (process.returncode, errors) == (-signal.SIGKILL, "")
    lines += output.splitlines(keepends=True)
    return {int(line) for line in lines if line.endswith("\n")}


def test_killed_again_and_again(url: URL, host: Engine):
    """Whenever a writer is killed, what it acknowledged is there, and each batch is whole."""
    chance = random.Random(7)  # noqa: S311
    for round in range(KILLS):
        acknowledged = acknowledged_by_the_killed(url, round, chance.randint(1, 40))

        wait_for_the_end_of_others(host)
        rows = query(host, f"SELECT id, content FROM embeddings WHERE id LIKE '{round}-%'")
        batches = {int(id.split("-")[1]) for id, _ in rows}
        assert acknowledged
        assert acknowledged <= batches
        assert sorted(rows) == sorted(
            (f"{round}-{batch}-{i}", f"text {i} of batch {batch} of {round}")
            for batch in batches
            for i in range(BATCH)
        )
    assert_sound(host)


def wait_for_the_end_of_others(engine: Engine) -> None:
    """Wait until the server knows that its clients are gone."""
    others = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
        "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    for _ in range(6_000):
        if not query(engine, others):
            return
        time.sleep(0.01)
    raise AssertionError("a client is still connected")


def test_after_a_kill_only_what_is_missing_is_embedded(url: URL, host: Engine):
    """The same call again calls the model for what was not committed, once each."""
    acknowledged_by_the_killed(url, 0, 5)
    wait_for_the_end_of_others(host)
    there = {id for (id,) in query(host, "SELECT id FROM embeddings")}
    wanted = [
        (f"0-{batch}-{i}", f"text {i} of batch {batch} of 0")
        for batch in range(len(there) // BATCH + 3)
        for i in range(BATCH)
    ]

    model = DeterministicModel()
    Collection("docs", host, model=model).embed_multi(wanted, store=True, batch_size=BATCH)

    embedded = [content for call in model.calls for content in call]
    assert sorted(map(str, embedded)) == sorted(c for id, c in wanted if id not in there)
    assert_sound(host)


class Interrupted(DeterministicModel):
    """A model during whose second call something happens."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__()
        self.happens = happens

    def embed_batch(self, items: Any) -> Any:
        if len(self.calls) == 1:
            self.happens()
        return super().embed_batch(items)


def terminate_others(url: URL) -> None:
    """Cut off every other connection to the database."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )


ENTRIES = [(f"{i:03d}", f"text {i}") for i in range(60)]


def test_a_connection_that_is_lost_on_an_engine(url: URL, host: Engine):
    """A lost connection is SQLAlchemy's error; what was committed stays, and a retry completes."""
    model = Interrupted(lambda: terminate_others(url))
    docs = Collection("docs", host, model=model)

    with pytest.raises(OperationalError) as caught:
        docs.embed_multi(ENTRIES, store=True, batch_size=20)

    assert caught.value.connection_invalidated
    assert docs.count() == 20
    docs.embed_multi(ENTRIES, store=True, batch_size=20)
    assert [record.content for record in docs] == [content for _, content in ENTRIES]
    assert docs.similar("text 7", 1)[0].id == "007"
    assert_sound(host)


def test_a_connection_that_is_lost_within_a_transaction_of_ours(url: URL, host: Engine):
    """Cut off between the statements of a batch, nothing of it is there; a retry completes."""
    docs = Collection("docs", host, model=DeterministicModel())
    docs.embed_multi(ENTRIES[:20], store=True)

    def cut(*arguments: Any) -> None:
        if "INSERT INTO embeddings" in arguments[2]:
            event.remove(host, "after_cursor_execute", cut)
            terminate_others(url)

    event.listen(host, "after_cursor_execute", cut)
    with pytest.raises(DBAPIError) as caught:
        docs.embed_multi(ENTRIES[20:], store=True, batch_size=20)

    assert caught.value.connection_invalidated
    assert docs.count() == 20
    docs.embed_multi(ENTRIES, store=True)
    assert docs.count() == 60
    assert_sound(host)


def test_a_connection_that_is_lost_on_a_session(url: URL, host: Engine):
    """The host's transaction is lost as a whole, and goes on after the host's own rollback."""
    with Session(host) as session:
        docs = Collection("docs", session, model=DeterministicModel())
        docs.embed_multi(ENTRIES[:20], store=True)
        terminate_others(url)

        with pytest.raises(OperationalError) as caught:
            docs.embed_multi(ENTRIES[20:], store=True)

        assert caught.value.connection_invalidated
        session.rollback()
        assert docs.count() == 0
        docs.embed_multi(ENTRIES, store=True)
        session.commit()

    assert Collection("docs", host).count() == 60


# Threads


def test_threads_share_a_collection(host: Engine):
    """Eight threads embed, search and delete through one object with four connections."""
    docs = Collection("docs", host, model=DeterministicModel())

    def work(number: int) -> None:
        for i in range(6):
            id, content = f"{number}-{i}", f"word{number} turn{i}"
            docs.embed(id, content, {"thread": number}, store=True)
            [best] = docs.similar(content, number=1)
            assert (best.id, best.content, best.metadata) == (id, content, {"thread": number})
            if i % 2:
                assert docs.delete_items([id]) == 1
                assert id not in docs
        docs.embed_multi((f"many-{number}-{i}", f"{i}") for i in range(50))

    in_threads(work)

    singles = {f"{number}-{i}" for number in range(8) for i in range(0, 6, 2)}
    many = {f"many-{number}-{i}" for number in range(8) for i in range(50)}
    assert set(docs.ids()) == singles | many
    assert deadlocks(host) == 0


def test_threads_write_the_same_ids(host: Engine):
    """Eight threads write the same ids in different orders: each row is what one of them wrote."""
    docs = Collection("docs", host, model=DeterministicModel())

    def work(number: int) -> None:
        chance = random.Random(number)  # noqa: S311
        for turn in range(5):
            ids = chance.sample(range(60), 40)
            docs.embed_multi(
                [(f"{i:02d}", f"text {i} of {number}-{turn}") for i in ids],
                store=True,
                batch_size=20,
            )

    in_threads(work)

    assert all(str(r.content).startswith(f"text {int(r.id)} of ") for r in docs)
    assert deadlocks(host) == 0
    assert_sound(host)

"""Many processes and threads write at once, and one is killed: nothing is lost, nothing is torn."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlite_utils
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import embeddings
from embeddings import Collection, encode
from embeddings.testing import DeterministicModel
from tests.forked import python, started
from tests.reaching import in_threads

if TYPE_CHECKING:
    from collections.abc import Iterator
    from subprocess import CompletedProcess

REPOSITORY = Path(__file__).parents[2]
KILLS = int(os.environ.get("EMBEDDINGS_KILLS", "2"))
"""How often a writer is killed; for a long run, set the variable to more."""
PROCESSES = int(os.environ.get("EMBEDDINGS_PROCESSES", "4"))
"""How many processes write at once; for a long run, set the variable to more."""
ITEMS = 120 if PROCESSES <= 4 else 300  # that each of them writes

OPEN = """
import sys

import sqlalchemy

import embeddings
from embeddings import Collection
from embeddings.testing import DeterministicModel


def database(kind, path):
    if kind == "engine":
        return sqlalchemy.create_engine(f"sqlite:///{path}", connect_args={"timeout": 60})
    if kind == "sqlite_utils":
        import sqlite_utils

        opened = sqlite_utils.Database(path)
        opened.conn.execute("PRAGMA busy_timeout = 60000")
        return opened
    return path
"""


def query(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def program(script: str, *arguments: object) -> list[str]:
    """Return the arguments of Python that run a script."""
    return ["-W", "error", "-c", OPEN + script, *map(str, arguments)]


OPTIONS: dict[str, Any] = {
    "env": os.environ | {"PYTHONPATH": str(REPOSITORY)},
    "modules": ("alembic.command", "embeddings.testing", "sqlite_utils"),
}


def run(script: str, *arguments: object) -> CompletedProcess[str]:
    """Run a script in a process."""
    return python(*program(script, *arguments), **OPTIONS)


def is_sound(path: Path) -> bool:
    """Return whether SQLite finds no fault, and every vector and hash is that of its content."""
    rows = query(path, "SELECT content, embedding, content_hash FROM embeddings")
    model = DeterministicModel()
    return (
        query(path, "PRAGMA integrity_check") == [("ok",)]
        and query(path, "PRAGMA foreign_key_check") == []
        and all(
            (vector, hash) == (encode(model.embed(content)), Collection.content_hash(content))
            for content, vector, hash in rows
        )
    )


# Processes

WRITER = """
from tests.forked import together

count, kinds, path, ids = int(sys.argv[1]), sys.argv[2].split(","), *sys.argv[3:]


def work(number, begin):
    kind = kinds[number % len(kinds)]
    items = [(f"{i}", f"text {i} of {number}") for i in range(ITEMS)]
    if ids == "own":
        items = [(f"{number}-{id}", text) for id, text in items]
    elif number % 2:
        items.reverse()
    begin()
    db = database(kind, path)
    if kind == "engine":
        embeddings.migrate(db)
    docs = Collection("docs", db, model=DeterministicModel())
    docs.embed_multi(items[:-50], store=True, batch_size=20)
    docs.embed_multi(items[-50:-5], store=True)
    for id, text in items[-5:]:
        docs.embed(id, text, store=True)
    assert docs.similar("text")


together(count, work)
""".replace("ITEMS", str(ITEMS))


def test_processes_that_write_into_one_new_file(tmp_path: Path):
    """Processes write many items each: all finish, and every item is there."""
    path = tmp_path / "new.db"

    ended = run(WRITER, PROCESSES, "path,sqlite_utils", path, "own")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert query(path, "SELECT id, name FROM collections") == [(1, "docs")]
    found = {(id, content) for id, content in query(path, "SELECT id, content FROM embeddings")}
    assert found == {
        (f"{number}-{i}", f"text {i} of {number}")
        for number in range(PROCESSES)
        for i in range(ITEMS)
    }
    assert is_sound(path)


def test_processes_that_write_the_same_ids(tmp_path: Path):
    """Processes write the same ids: each row is what one of them wrote."""
    path = tmp_path / "new.db"

    ended = run(WRITER, PROCESSES, "path,engine,sqlite_utils", path, "same")

    assert (ended.returncode, ended.stderr) == (0, "")
    found = dict(query(path, "SELECT id, content FROM embeddings"))
    assert found.keys() == {f"{i}" for i in range(ITEMS)}
    assert all(content.startswith(f"text {id} of ") for id, content in found.items())
    assert is_sound(path)


# Threads


@pytest.fixture(params=["path", "engine", "sessionmaker", "memory", "sqlite_utils"])
def shared(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Collection[str]]:
    """One collection for all threads, by each kind of database that threads can share."""
    path = Path(str(engine.url.database))
    database = sqlite_utils.Database(path)
    kinds: dict[str, Any] = {
        "path": path,
        "engine": engine,
        "sessionmaker": sessionmaker(engine),
        "memory": None,
        "sqlite_utils": database,
    }
    with Collection("docs", kinds[request.param], model=DeterministicModel()) as docs:
        yield docs
    database.close()


def test_threads_share_a_collection(shared: Collection[str]):
    """Eight threads embed, search and delete through one object, and each finds its own items."""

    def work(number: int) -> None:
        for i in range(4):
            id, text = f"{number}-{i}", f"word{number} turn{i}"
            shared.embed(id, text, {"thread": number}, store=True)
            [best] = shared.similar(text, number=1)
            assert (best.id, best.content) == (id, text)
            if i % 2:
                assert shared.delete_items([id]) == 1
                assert id not in shared
        shared.embed_multi((f"many-{number}-{i}", f"{i}") for i in range(20))

    in_threads(work)

    singles = {f"{number}-{i}" for number in range(8) for i in range(0, 4, 2)}
    many = {f"many-{number}-{i}" for number in range(8) for i in range(20)}
    assert set(shared.ids()) == singles | many


def test_threads_write_the_same_ids(shared: Collection[str]):
    """Eight threads write the same ids: no error, and each row is what one of them wrote."""

    def work(number: int) -> None:
        ids = range(20) if number % 2 else range(19, -1, -1)
        for _ in range(3):
            entries = ((f"{i}", f"text {i} of {number}") for i in ids)
            shared.embed_multi(entries, store=True, batch_size=5)

    in_threads(work)

    records = {record.id: record for record in shared}
    assert records.keys() == {f"{i}" for i in range(20)}
    for id, record in records.items():
        assert str(record.content).startswith(f"text {id} of ")
        expected = DeterministicModel().embed(str(record.content))
        assert encode(record.embedding) == encode(expected)


@pytest.mark.parametrize("kind", ["own", "scoped"])
def test_threads_on_a_hosts_engine(engine: Engine, kind: str):
    """Eight threads with sessions of one engine write and commit, and nothing is lost."""
    registry = scoped_session(sessionmaker(engine))
    everyones = Collection("docs", registry, model=DeterministicModel())

    def work(number: int) -> None:
        with Session(engine) as session:
            own = Collection("docs", session, model=DeterministicModel())
            docs = own if kind == "own" else everyones
            for i in range(6):
                docs.embed(f"{number}-{i}", f"text {i} of {number}")
                assert docs.similar("text", number=1)
                (session if kind == "own" else registry).commit()
        registry.remove()

    in_threads(work)

    assert everyones.count() == 48
    registry.remove()


def test_threads_open_one_new_file(tmp_path: Path):
    """Eight threads each open the same new file, and create the collection once."""
    path = tmp_path / "new.db"

    def work(number: int) -> None:
        with Collection("docs", path, model=DeterministicModel()) as docs:
            docs.embed(f"{number}", f"text {number}", store=True)

    in_threads(work)

    assert query(path, "SELECT id, name FROM collections") == [(1, "docs")]
    assert query(path, "SELECT count(*) FROM embeddings") == [(8,)]
    assert is_sound(path)


# Killed

BATCH, BATCHES = 10, 30

KILLED = """
import os
import signal
import time

from sqlalchemy import Engine, event

kind, path, round, at, number = *sys.argv[1:5], int(sys.argv[5])
seen = 0


def die(where):
    global seen
    seen += where == at
    if seen == number and where == at:
        os.kill(os.getpid(), signal.SIGKILL)


class Model(DeterministicModel):
    def embed_batch(self, items):
        die("model")
        time.sleep(0.001)
        return super().embed_batch(items)


def entries():
    for batch in range(BATCHES):
        for i in range(BATCH):
            yield f"{round}-{batch}-{i}", f"text {i} of batch {batch} of round {round}"
        # Whoever asks for more is done with the batch.
        print(batch, flush=True)


db = database(kind, path)
docs = Collection("docs", db, model=Model())
docs.count()
event.listen(Engine, "before_cursor_execute", lambda *_: die("statement"))
event.listen(Engine, "commit", lambda *_: die("commit"))
print("ready", flush=True)
docs.embed_multi(entries(), store=True, batch_size=BATCH)
print("done", flush=True)
""".replace("BATCHES", str(BATCHES)).replace("BATCH", str(BATCH))


def item(round: int, batch: int, i: int) -> tuple[str, str]:
    return f"{round}-{batch}-{i}", f"text {i} of batch {batch} of round {round}"


def acknowledged(*arguments: object) -> list[str]:
    """Run a process that kills itself, and return the lines that it printed."""
    killed = run(KILLED, *arguments)
    assert killed.stderr == ""
    assert killed.returncode == -signal.SIGKILL
    return killed.stdout.splitlines()


def is_whole(path: Path, round: int) -> set[int]:
    """Return the batches of a round that are in the file, of which each has to be whole."""
    rows = query(path, f"SELECT id, content FROM embeddings WHERE id LIKE '{round}-%'")
    found = {int(id.split("-")[1]) for id, _ in rows}
    assert set(rows) == {item(round, batch, i) for batch in found for i in range(BATCH)}
    return found


@pytest.mark.parametrize(
    ("at", "kind"),
    [
        ("model", "path"),
        ("statement", "path"),
        ("commit", "path"),
        ("commit", "engine"),
        ("statement", "sqlite_utils"),
    ],
)
def test_a_writer_that_is_killed_leaves_whole_batches(at: str, kind: str, tmp_path: Path):
    """Killed while the model runs, between two statements or before a commit: all or nothing."""
    path = tmp_path / "app.db"
    Collection("docs", path, model=DeterministicModel()).close()
    number = {"model": 4, "statement": 17, "commit": 7}[at]

    lines = acknowledged(kind, path, 0, at, number)

    batches = is_whole(path, 0)
    assert lines[0] == "ready"
    assert {int(line) for line in lines[1:]} <= batches
    assert 0 < len(batches) < BATCHES
    assert is_sound(path)


def test_a_second_run_embeds_only_what_is_missing(tmp_path: Path):
    """After a kill the same call again calls the model for what is not in the file, once each."""
    path = tmp_path / "app.db"
    Collection("docs", path, model=DeterministicModel()).close()
    acknowledged("path", path, 0, "statement", 40)
    there = is_whole(path, 0)
    everything = [item(0, batch, i) for batch in range(BATCHES) for i in range(BATCH)]

    model = DeterministicModel()
    with Collection("docs", path, model=model) as docs:
        docs.embed_multi(everything, store=True, batch_size=BATCH)

    missing = [item(0, b, i)[1] for b in range(BATCHES) if b not in there for i in range(BATCH)]
    assert sorted(str(text) for call in model.calls for text in call) == sorted(missing)
    assert is_whole(path, 0) == {*range(BATCHES)}
    assert is_sound(path)


def test_killed_again_and_again(tmp_path: Path):
    """Whenever a writer is killed, what it acknowledged is there, and the file stays sound."""
    path = tmp_path / "app.db"
    Collection("docs", path, model=DeterministicModel()).close()
    engine = create_engine(f"sqlite:///{path}")
    embeddings.migrate(engine)
    engine.dispose()
    chance = random.Random(20)  # noqa: S311
    survivors: dict[int, set[int]] = {}
    script = KILLED.replace(f"range({BATCHES})", "range(100_000)")  # it never ends by itself
    assert script != KILLED
    for round in range(KILLS):
        kind = chance.choice(["path", "engine", "sqlite_utils"])
        output, errors = tmp_path / "output", tmp_path / "errors"
        with started(
            *program(script, kind, path, round, "never", 0),
            stdout=output,
            stderr=errors,
            **OPTIONS,
        ) as process:
            wanted = chance.randrange(BATCHES - 10)
            while output.read_text().count("\n") <= wanted:
                assert process.wait(0.001) is None
            time.sleep(chance.random() * 0.01)
            process.send(signal.SIGKILL)
            code = process.wait(60)
        assert (code, errors.read_text()) == (-signal.SIGKILL, "")
        lines = output.read_text().splitlines()

        survivors[round] = is_whole(path, round)
        assert lines[0] == "ready", lines
        assert {int(line) for line in lines[1:]} <= survivors[round]
        assert query(path, "PRAGMA integrity_check") == [("ok",)]

    assert {round: is_whole(path, round) for round in survivors} == survivors
    assert is_sound(path)

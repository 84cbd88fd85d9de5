"""A process forks while another of its threads is in the middle of something: the child works."""

from __future__ import annotations

import ast
import gc
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, WeakKeyDictionary, WeakSet

import pytest

import embeddings
from embeddings import Collection, forks
from embeddings.models.openai import OpenAIEmbeddingModel
from embeddings.testing import DeterministicModel
from tests.forked import python

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(embeddings.__file__).parent
PRIMITIVES = {
    "Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore", "Event", "Barrier", "Queue",
    "SimpleQueue", "LifoQueue", "PriorityQueue", "register_at_fork", "allocate_lock",
}  # fmt: skip
OF_MODULES = {"threading", "_thread", "queue", "multiprocessing", "os"}


def primitives(tree: ast.AST) -> Iterator[str]:
    """Yield the uses of what a thread can hold, and of what runs at a fork."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in PRIMITIVES:
            if isinstance(node.value, ast.Name) and node.value.id in OF_MODULES:
                yield f"{node.lineno}: {node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module in OF_MODULES and not node.level:
            yield from (f"{node.lineno}: {a.name}" for a in node.names if a.name in PRIMITIVES)


def test_every_lock_in_the_code_is_one_that_a_child_has_anew():
    """No module but `forks` makes a lock of Python's, or says what happens at a fork."""
    found = {
        path.relative_to(PACKAGE).as_posix(): [*primitives(ast.parse(path.read_text()))]
        for path in PACKAGE.rglob("*.py")
    }
    assert found.pop("forks.py")
    # What one call makes, and no other call can hold: a command in progress, the calls in flight.
    assert len(found.pop("following/commands.py")) == 3
    assert len(found.pop("sessions/runtime.py")) == 1
    assert {place: uses for place, uses in found.items() if uses} == {}


LOCKS = (type(threading.Lock()), type(threading.RLock()), threading.Condition, threading.Event)
CONTAINERS = (dict, list, tuple, set, frozenset, WeakKeyDictionary, WeakSet)


def held_by(root: object) -> list[str]:
    """Return where objects of this library hold a lock that is not of `forks`."""
    seen: set[int] = set()
    found: list[str] = []
    todo: list[tuple[str, Any]] = [("", root)]
    while todo:
        place, value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        kind = type(value)  # isinstance() would wake Django's settings, which are lazy
        if issubclass(kind, LOCKS):
            found.append(place)
        elif issubclass(kind, forks.Lock):
            continue
        elif issubclass(kind, ReferenceType):
            todo.append((place, value()))
        elif issubclass(kind, CONTAINERS) or kind.__module__.startswith("embeddings"):
            todo += [(f"{place}/{kind.__name__}", one) for one in gc.get_referents(value)]
    return found


def test_every_lock_of_the_objects_of_this_library(tmp_path: Path):
    """Those of the modules, of collections, of models: found by following what they refer to."""
    with (
        Collection("docs", tmp_path / "a.db", model=DeterministicModel()) as docs,
        Collection("docs", model=OpenAIEmbeddingModel("toy")) as memory,
    ):
        docs.embed_multi([("a", "one hound"), ("b", "two cats")])
        assert docs.similar("one hound", number=1)[0].id == "a"
        modules = [
            dict(vars(module))
            for name, module in sys.modules.items()
            if name.partition(".")[0] == "embeddings" and name != "embeddings.forks"
        ]
        assert held_by([modules, docs, memory]) == []


def test_a_lock_that_is_not_renewed_is_found():
    """By both of the ways above."""
    code = "import threading\nfrom queue import Queue\nlock = threading.Lock()"
    assert [*primitives(ast.parse(code))] == ["2: Queue", "3: threading.Lock"]
    model = DeterministicModel()
    model.__dict__["lock"] = threading.RLock()
    assert len(held_by([model])) == 1


PRELUDE = """
import os, signal, sys, threading, time
import embeddings
from embeddings import Collection
from embeddings.testing import DeterministicModel
from sqlalchemy import create_engine, event

folder, parent, entered = sys.argv[1], os.getpid(), threading.Event()
MAIN = threading.main_thread()

def wait_in_parent(*_, **__):
    if os.getpid() == parent and threading.current_thread() is not MAIN:
        entered.set()
        threading.Event().wait()

def engine_on(name):
    return create_engine(f"sqlite:///{folder}/{name}.db")

"""
FORK = """
threading.Thread(target=first, daemon=True).start()
assert entered.wait(60)
child = os.fork()
if child == 0:
    signal.alarm(60)
    status = 1
    try:
        in_child()
        status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
status = os.waitpid(child, 0)[1]
sys.stdout.flush()
os._exit(0 if status == 0 else 1)
"""

WRITE = """
engine = engine_on("a")
embeddings.migrate(engine)
docs = Collection("docs", engine, model=DeterministicModel())
docs.embed("a", "one hound")
event.listen(engine, "engine_connect", wait_in_parent)

def first():
    docs.embed("b", "two cats")

def in_child():
    docs.embed("c", "three foxes")
    assert docs.ids() == ["a", "c"]
    assert docs.similar("three foxes", number=1)[0].id == "c"
"""
MEMORY = """
docs = Collection("docs", model=DeterministicModel())
docs.embed("a", "one hound")
event.listen(docs.reference.sessions.engine, "engine_connect", wait_in_parent)

def first():
    docs.embed("b", "two cats")

def in_child():
    docs.embed("c", "three foxes")
    assert docs.ids() == ["a", "c"]
"""
FIRST_CALL = """
import os
os.makedirs(f"{folder}/openai")
with open(f"{folder}/openai/__init__.py", "w") as file:
    file.write("import __main__, time; __main__.entered.set(); time.sleep(0.5)")
sys.path.insert(0, folder)
from embeddings.models.openai import OpenAIEmbeddingModel

model = OpenAIEmbeddingModel("toy", api_key="none")

def first():
    model.embed("hound")

def in_child():
    import openai
    try:
        model.embed("hound")
    except embeddings.ModelError as error:
        assert "AttributeError" in str(error)
"""
MIGRATION = """
one, other = engine_on("a"), engine_on("b")

def wait_at_the_table(connection, cursor, statement, *_):
    if "CREATE TABLE embeddings" in statement:
        wait_in_parent()

event.listen(one, "before_cursor_execute", wait_at_the_table)

def first():
    embeddings.migrate(one)

def in_child():
    embeddings.migrate(other)
    docs = Collection("docs", other, model=DeterministicModel())
    docs.embed("a", "one hound")
    embeddings.downgrade(other, drop_rows=True)
    embeddings.migrate(other)
    assert docs.ids() == []
"""
REGISTRATION = """
class Waiting(dict):
    def __setitem__(self, key, value):
        wait_in_parent()
        super().__setitem__(key, value)

registry = embeddings.models.registry.REGISTRY
registry._models = Waiting(registry._models)

def first():
    embeddings.register_embedding_model(DeterministicModel("first"))

def in_child():
    embeddings.register_embedding_model(DeterministicModel("mine"))
    assert embeddings.get_embedding_model("mine").model_id == "mine"
    assert embeddings.get_embedding_model("3-small").model_id == "text-embedding-3-small"
"""
WITHIN = """
from embeddings.forks import Lock

lock = Lock()
with lock, lock:
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        taken = threading.Thread(target=lock.__enter__)
        taken.start()
        taken.join()
if child == 0:
    os._exit(0)
with lock:
    os._exit(os.waitpid(child, 0)[1])
"""
REMEMBERED = """
engine = engine_on("a")
embeddings.migrate(engine)
docs = Collection("docs", engine, model=DeterministicModel())
docs.embed("a", "one hound")

def first():
    with embeddings.work.row.ROWS._lock, embeddings.databases.sqlite.matrix.cache.CACHE._lock:
        wait_in_parent()

def in_child():
    for _ in range(5):
        assert docs.similar("one hound", number=1)[0].id == "a"
    docs.embed("b", "two cats")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.parametrize(
    "code",
    [
        pytest.param(WRITE, id="write"),
        pytest.param(MEMORY, id="write in memory"),
        pytest.param(FIRST_CALL, id="first call of a model"),
        pytest.param(MIGRATION, id="migration"),
        pytest.param(REGISTRATION, id="registration"),
        pytest.param(REMEMBERED, id="search"),
        pytest.param(WITHIN, id="the block itself, where it forks"),
    ],
)
def test_a_fork_while_another_thread_is_in_the_middle(code: str, tmp_path: Path):
    """The child waits for no thread of the parent."""
    ended = python("-c", PRELUDE + code + FORK, tmp_path)
    assert ended.returncode == 0, ended.stderr

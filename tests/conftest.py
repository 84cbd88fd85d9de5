"""The ways to reach a database, over which the contract suite runs, and what tests share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import sqlite_utils
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import embeddings
from embeddings import Collection
from embeddings.testing import DeterministicModel

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = ["embeddings.testing"]

# A busy machine makes no example wrong.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

BINDINGS = (
    "session",
    "scoped_session",
    "connection",
    "engine",
    "sessionmaker",
    "path",
    "memory",
    "sqlite_utils",
    "sqlite_utils_memory",
)

Open = Callable[..., Collection[Any]]
"""Open a collection by its name in the one database of the test; takes Collection's keywords."""


@pytest.fixture
def model() -> DeterministicModel:
    """A model that keeps account of its calls."""
    return DeterministicModel()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the tables, to be copied: migrating one for every test takes long."""
    path = tmp_path_factory.mktemp("template") / "app.db"
    engine = create_engine(f"sqlite:///{path}")
    embeddings.migrate(engine)
    engine.dispose()
    return path


@pytest.fixture
def engine(tmp_path: Path, migrated: Path) -> Iterator[Engine]:
    """An engine on a new SQLite file with the tables."""
    engine = create_engine(f"sqlite:///{shutil.copy(migrated, tmp_path / 'app.db')}")
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    """A host's session."""
    with Session(engine) as session:
        yield session


@pytest.fixture(params=BINDINGS)
def db(request: pytest.FixtureRequest, tmp_path: Path, migrated: Path) -> Iterator[Any]:
    """A database with the tables, as each of the kinds of thing that a collection takes."""
    kind = request.param
    path = tmp_path / "app.db"
    if kind == "path":
        yield path
    elif kind == "memory":
        # What Collection opens by itself; shared by the test's collections through the engine.
        from sqlalchemy.pool import StaticPool

        memory = create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        embeddings.migrate(memory)
        yield memory
        memory.dispose()
    elif kind == "sqlite_utils":
        database = sqlite_utils.Database(path)
        yield database
        database.close()
    elif kind == "sqlite_utils_memory":
        database = sqlite_utils.Database(memory=True)
        yield database
        database.close()
    else:
        engine = create_engine(f"sqlite:///{shutil.copy(migrated, path)}")
        if kind == "engine":
            yield engine
        elif kind == "sessionmaker":
            yield sessionmaker(engine)
        elif kind == "session":
            with Session(engine) as session:
                yield session
        elif kind == "scoped_session":
            registry = scoped_session(sessionmaker(engine))
            yield registry
            registry.remove()
        else:
            with engine.connect() as connection:
                yield connection
        engine.dispose()


@pytest.fixture
def opened(db: Any, model: DeterministicModel) -> Iterator[Open]:
    """Open collections in the test's database, with the test's model unless told otherwise."""
    collections: list[Collection[Any]] = []

    def open_collection(name: str = "docs", **options: Any) -> Collection[Any]:
        if not options.keys() & {"model", "model_id"}:
            options["model"] = model
        collection = Collection(name, db, **options)
        collections.append(collection)
        return collection

    yield open_collection
    for collection in collections:
        collection.close()


@pytest.fixture
def docs(opened: Open) -> Collection[str]:
    """A new collection called docs."""
    return opened()

"""The tests' application: every test works in a transaction that is rolled back at its end."""

import os
from collections.abc import Iterator
from pathlib import Path

import flask_migrate
import pytest
from app import create_app, db
from flask import Flask
from flask.testing import FlaskClient

pytest_plugins = ["embeddings.testing"]


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """The application on a database of its own, migrated as in production."""
    file = tmp_path_factory.mktemp("database") / "test.db"
    url = os.environ.get("TEST_DATABASE_URL", f"sqlite:///{file}")
    app = create_app({"TESTING": True, "SQLALCHEMY_DATABASE_URI": url})
    with app.app_context():
        flask_migrate.upgrade(Path(__file__).parent / "migrations")
        db.session.configure(join_transaction_mode="create_savepoint")
    yield app
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def client(app: Flask, deterministic_models: object) -> Iterator[FlaskClient]:
    """A browser, without a network. The commits of the views are savepoints here."""
    with app.app_context():
        engines = db.engines
    engine = engines[None]
    with engine.connect() as connection, connection.begin() as transaction:
        engines[None] = connection
        yield app.test_client()
        engines[None] = engine
        transaction.rollback()

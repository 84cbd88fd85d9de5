"""The tests' client: every test works in a transaction that is rolled back at its end."""

import os
from collections.abc import AsyncIterator

import pytest
from httpx import ASGITransport, AsyncClient
from main import app, create_tables, get_session
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

pytest_plugins = ["embeddings.testing"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run the tests marked with `anyio` by asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
async def engine(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[AsyncEngine]:
    """A database of the tests' own, with the tables."""
    file = tmp_path_factory.mktemp("database") / "test.db"
    url = os.environ.get("TEST_DATABASE_URL", f"sqlite+aiosqlite:///{file}")
    engine = create_async_engine(url)
    if engine.dialect.name == "sqlite":
        # Python's driver begins transactions late, which a test cannot roll back. See
        # "Transactions with SQLite and the sqlite3 driver" in SQLAlchemy's documentation.
        sync = engine.sync_engine
        event.listen(sync, "connect", lambda c, _: setattr(c, "isolation_level", None))
        event.listen(sync, "begin", lambda c: c.exec_driver_sql("BEGIN"))
    await create_tables(engine)
    yield engine
    await engine.dispose()


@pytest.fixture
async def client(engine: AsyncEngine, deterministic_models: object) -> AsyncIterator[AsyncClient]:
    """A client, without a network. The commits of the endpoints are savepoints here."""
    async with engine.connect() as connection, connection.begin() as transaction:

        async def get_tests_session() -> AsyncIterator[AsyncSession]:
            async with AsyncSession(
                connection, join_transaction_mode="create_savepoint"
            ) as session:
                yield session

        app.dependency_overrides[get_session] = get_tests_session
        async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
            yield client
        app.dependency_overrides.clear()
        await transaction.rollback()

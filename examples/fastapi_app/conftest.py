"""The tests' client: every test works in a transaction that is rolled back at its end."""

import os
from collections.abc import AsyncIterator

import pytest
from httpx import ASGITransport, AsyncClient
from main import app, create_tables, get_session, sessions
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from embeddings import configure_sqlite

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
    configure_sqlite(engine)
    await create_tables(engine)
    yield engine
    await engine.dispose()


@pytest.fixture
async def client(engine: AsyncEngine, deterministic_models: object) -> AsyncIterator[AsyncClient]:
    """A client, without a network. The commits of the endpoints are savepoints here."""
    async with engine.connect() as connection, connection.begin() as transaction:

        async def get_tests_session() -> AsyncIterator[AsyncSession]:
            joined = sessions(bind=connection, join_transaction_mode="create_savepoint")
            async with joined as session:
                yield session

        app.dependency_overrides[get_session] = get_tests_session
        async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
            yield client
        app.dependency_overrides.clear()
        await transaction.rollback()

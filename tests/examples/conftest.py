"""Databases for whole applications, without any table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import databases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def empty_database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, server: URL
) -> Iterator[str]:
    """The URL of a new, empty database, for the tests of the module."""
    folder = tmp_path_factory.mktemp("database")
    with databases.empty_database(request.param, folder, server) as url:
        yield url

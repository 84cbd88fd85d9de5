"""The contract holds for each way to search: these tests run on the one that is chosen first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from embeddings.databases.sqlite.matrix import build
from embeddings.databases.sqlite.matrix.cache import CACHE
from tests.distributed import recorded

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _from_the_first_search_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the first search of a collection load it into memory, as the second one does."""
    monkeypatch.setattr(build, "BUILT_AT", 1)
    yield
    CACHE.clear()


@pytest.fixture(autouse=True)
def _for_distributed_tables(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let no statement to PostgreSQL be one that Citus refuses."""
    with recorded() as refused:
        yield
    assert refused == []

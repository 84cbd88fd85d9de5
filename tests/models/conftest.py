"""Models without the machine's own settings of services."""

from __future__ import annotations

import pytest

from embeddings.models import limits


@pytest.fixture(autouse=True)
def _own_settings(own_settings: None) -> None:
    """Let no test here depend on the environment."""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the pause before another try be short, for tests of what comes after it."""
    monkeypatch.setattr(limits, "FIRST_PAUSE", 0.01)

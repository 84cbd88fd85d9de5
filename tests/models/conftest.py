"""Models without the machine's own settings of services."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _own_settings(own_settings: None) -> None:
    """Let no test here depend on the environment."""

"""The contract of `test_search`, over the `db` of this folder."""

from __future__ import annotations

from tests.contract.test_search import *  # noqa: F403

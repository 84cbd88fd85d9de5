"""The contract of `test_plan`, over the `db` of this folder."""

from __future__ import annotations

from tests.contract.test_plan import *  # noqa: F403

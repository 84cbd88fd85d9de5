"""The contract of `test_reference`, over the `db` of this folder."""

from __future__ import annotations

from tests.contract.test_reference import *  # noqa: F403

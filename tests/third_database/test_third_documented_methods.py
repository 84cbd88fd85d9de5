"""The contract of `test_documented_methods`, over the `db` of this folder."""

from __future__ import annotations

from tests.contract.test_documented_methods import *  # noqa: F403

"""The contract of `test_matches`, over the `db` of this folder."""

from __future__ import annotations

from tests.contract.test_matches import *  # noqa: F403

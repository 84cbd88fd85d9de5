"""The contract of `test_rows`, over the `db` of this folder."""

from __future__ import annotations

from tests.contract.test_rows import *  # noqa: F403

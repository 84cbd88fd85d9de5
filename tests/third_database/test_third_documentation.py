"""The contract of `test_documentation`, over the `db` of this folder."""

from __future__ import annotations

from tests.contract.test_documentation import *  # noqa: F403

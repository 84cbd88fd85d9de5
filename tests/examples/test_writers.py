"""The examples on SQLite, each under a server of several processes that many write to at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.examples.load import EXAMPLES, Example, failed_edits
from tests.examples.serving import LONG

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.once
EDITS = 5 if LONG else 3


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_who_reads_changes_embeds_and_commits_is_never_refused(example: Example, tmp_path: Path):
    """Eight clients change the same few rows at once, and two search: every answer is right."""
    with example.served(tmp_path) as address:
        assert failed_edits(example, address, writers=8, edits=EDITS) == (0, 0)

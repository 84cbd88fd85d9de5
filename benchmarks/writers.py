"""Requests that write to SQLite beside requests that read, in the examples under real servers.

    python -m benchmarks.writers [edits of each of 16 clients, 50 by default]

Four processes serve. Errors are counted while sixteen clients read, change, embed and commit as
fast as they can. Then four clients search, in turns beside no writer and beside one that changes
something once a second; the ratio of the searches answered is the median of the pairs.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.examples.load import EXAMPLES, Example, failed_edits, searches

WRITERS, READERS = 16, 4
PAIRS, SECONDS = 5, 6.0
EDITS_A_SECOND = 1.0


def main() -> None:
    edits = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    for example in EXAMPLES:
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            report(example, Path(folder), edits)


def report(example: Example, folder: Path, edits: int) -> None:
    with example.served(folder) as address:
        failed = failed_edits(example, address, writers=WRITERS, edits=edits)
        print(f"{example.name}: {WRITERS * edits} edits, failed edits and searches: {failed}")
        ratios, alone = [], []
        for _ in range(PAIRS):
            at = [
                searches(example, address, readers=READERS, seconds=SECONDS, edits_a_second=rate)
                for rate in (0, EDITS_A_SECOND)
            ]
            alone.append(at[0])
            ratios.append(at[1] / at[0])
        print(
            f"{example.name}: {statistics.median(alone):.0f} searches/s beside no writer; beside "
            f"one {statistics.median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""The program `embeddings`; also `python -m embeddings`."""

from __future__ import annotations

import sys

from .errors import MissingExtraError


def main() -> None:
    """Run it on the arguments of the process."""
    try:
        from .cli import embeddings
    except MissingExtraError as error:
        sys.exit(f"Error: {error}")
    embeddings(prog_name="embeddings")


if __name__ == "__main__":
    main()

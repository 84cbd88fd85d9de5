"""What the benchmarks share: a model that costs nothing, and paired rounds."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import embeddings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class FakeModel(embeddings.EmbeddingModel):
    """Hands out vectors that were made beforehand, as NumPy rows or as lists of floats."""

    model_id = "fake"

    def __init__(self, vectors: dict[str, Any]) -> None:
        self._vectors = vectors

    def embed_batch(self, items: Sequence[str | bytes]) -> list[Any]:
        return [self._vectors[item] for item in items]  # type: ignore[index]


def seconds(work: Callable[[], object]) -> float:
    """Return how long the work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(
    name: str, ours: Callable[[], float], theirs: Callable[[], float], rounds: int, target: str
) -> None:
    """Print the ratio of two pieces of work that return the seconds they took."""
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    ratios = sorted(a / b for a, b in pairs)
    print(
        f"{name:66} {statistics.median(ratios):8.4f}  ({ratios[0]:.4f} to {ratios[-1]:.4f})"
        f"   {statistics.median(a for a, _ in pairs) * 1000:9.2f} ms against"
        f" {statistics.median(b for _, b in pairs) * 1000:9.2f} ms   to reach: {target}",
        flush=True,
    )

"""What the benchmarks share: a model that costs nothing, and paired rounds."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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


class Spent(NamedTuple):
    """What a piece of work took, in seconds."""

    time: float
    processor: float


class Processors:
    """The processor time of this process and of a PostgreSQL server on this machine, in seconds.

    Other programs on the machine hardly change it, as they do the time that passes.
    Source: proc_pid_stat(5), whose times of a process that has ended are in those of its parent.
    """

    def __init__(self, backend: int | None = None) -> None:
        """Of a server, `backend` is the process of one connection."""
        self._server = None if backend is None else int(_stat(backend)[1])

    def of(self, work: Callable[[], object]) -> Spent:
        """Return the time that the work takes, and its processor time."""
        before = self._now()
        took = seconds(work)
        return Spent(took, self._now() - before)

    def _now(self) -> float:
        here = time.process_time()
        if self._server is None:
            return here
        children = Path(f"/proc/{self._server}/task/{self._server}/children").read_text().split()
        ticks = sum(map(int, _stat(self._server)[13:15]))  # of those that have ended
        ticks += sum(sum(map(int, _stat(int(child))[11:13])) for child in children)
        return here + ticks / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """Return the fields of a process from the third on: after its name, which may have blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()


def paired(
    name: str, ours: Callable[[], Spent], theirs: Callable[[], Spent], rounds: int, target: str
) -> None:
    """Print the ratios of two pieces of work: of their time, and of their processor time."""
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    print(f"{name}, to reach: {target}", flush=True)
    for at, kind in enumerate(("time", "processor time")):
        ratios = sorted(a[at] / b[at] for a, b in pairs)
        mine, other = (statistics.median(pair[of][at] for pair in pairs) for of in (0, 1))
        print(
            f"    {kind:15} {statistics.median(ratios):7.3f}  ({ratios[0]:.3f} to {ratios[-1]:.3f})"
            f"   {mine * 1000:9.1f} ms against {other * 1000:9.1f} ms",
            flush=True,
        )

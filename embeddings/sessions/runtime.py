"""How what takes long is waited for: in a thread by blocking. `aio` has that for event loops."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from ..models.base import embed_checked
from ..models.queries import QUERIES

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..models.base import Role, SupportsEmbedding
    from ..vectors import Float32


class Runtime:
    """Waits by blocking the thread."""

    holds_thread: bool = True
    """Whether nothing else goes on in the thread that waits."""

    def embed(
        self, model: SupportsEmbedding, items: list[Any], role: Role = "document"
    ) -> list[Float32]:
        """Return the vectors of items, checked: the one place where a collection calls a model."""
        if role == "document":
            return self.call(model, items, role)
        known = QUERIES.get(model, items)
        missing = [item for item in dict.fromkeys(items) if item not in known]
        if missing:
            made = dict(zip(missing, self.call(model, missing, role), strict=True))
            QUERIES.keep(model, made)
            known |= made
        return [known[item].copy() for item in items]

    def call(self, model: SupportsEmbedding, items: list[Any], role: Role) -> list[Float32]:
        """Return the vectors of items, from one call of the model."""
        return embed_checked(model, items, role)

    def pause(self, seconds: float) -> None:
        """Wait so long."""
        time.sleep(seconds)

    def wait(self, done: Future[None], seconds: float) -> None:
        """Wait until somebody else is done, at most so long."""
        wait([done], timeout=seconds)

    def checkpoint(self) -> None:
        """Let a cancellation take effect, where what waits can be cancelled."""

    def with_reports(
        self, work: Callable[[], object], report: Callable[[], object], seconds: float
    ) -> None:
        """Do the work, and report every so many seconds meanwhile."""
        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(copy_context().run, work)
            while wait([working], timeout=seconds).not_done:
                report()
            working.result()


BLOCKING = Runtime()

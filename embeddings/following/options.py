"""The keywords of `sync`, `refresh` and `reembed`, for the methods that pass them on."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..keys import Key
    from ..writing.calls import OnError
    from ..writing.progress import Progress
    from .refresh import Stop


class ReembedOptions(TypedDict, total=False):
    """Those of `reembed` and `back`."""

    batch_size: int
    progress: Progress


class SyncOptions(ReembedOptions, total=False):
    """Those of `sync`."""

    prune: bool
    allow_empty: bool
    dry_run: bool
    on_error: OnError


class RefreshOptions(ReembedOptions, total=False):
    """Those of `refresh`."""

    concurrency: int | None
    limit: int | None
    keys: Iterable[Key] | None
    on_error: OnError
    forever: bool
    stop: Stop | None

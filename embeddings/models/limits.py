"""What a service takes at once: how long a text is, what goes into a request, how often to ask."""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import os
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError, ModelError
from ..forks import Lock
from .stop import apause, is_stopped
from .stop import pause as pause_

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

log = logging.getLogger("embeddings")

FIRST_PAUSE = 0.5  # seconds before the second try; it doubles each time
LONGEST_PAUSE = 20.0  # seconds, unless the service asks for more
LONGEST_ASKED = 86_400.0  # seconds that a service may ask for: the longest of limits are by the day
PIECE = 20_000  # characters that are tokenized at once: the time grows faster than the length
# OpenAI's vocabulary of its embedding models, and the SHA-256 of the file.
VOCABULARY = "cl100k_base"
VOCABULARY_URL = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
VOCABULARY_SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
LONGEST_TOKEN = 128  # bytes of UTF-8, of that vocabulary
USUAL_TOKEN = 3  # bytes of UTF-8 that a token of text has at least in most languages
ENGLISH_TOKEN = 4  # bytes of UTF-8 that a token of English text has, about


class Tokens:
    """How many tokens a text has: exactly where OpenAI's vocabulary is on this machine.

    Elsewhere it is a bound. A token is at least one byte of UTF-8. Nothing is ever downloaded.

    Args:
        api_name: What the service calls the model.
    """

    def __init__(self, api_name: str) -> None:
        self._is_openai = api_name.startswith("text-embedding-")

    def most(self, text: str) -> int:
        """Return the most tokens that a text can have."""
        counted = self._counted(text)
        return len(text.encode(errors="replace")) if counted is None else counted

    def least(self, text: str) -> int:
        """Return the fewest tokens that a text can have; 0 where the vocabulary is unknown."""
        if not self._is_openai:
            return 0
        counted = self._counted(text)
        if counted is None:
            return len(text.encode(errors="replace")) // LONGEST_TOKEN
        return max(counted - len(text) // PIECE, 0)

    def estimated(self, text: str) -> int:
        """Return about how many tokens a text has: exactly where the vocabulary is here."""
        counted = self._counted(text)
        return estimated_tokens(text) if counted is None else counted

    def shortened(self, text: str, tokens: int) -> str:
        """Return the beginning of a text, which in all likelihood has so many tokens or fewer."""
        vocabulary = self._vocabulary()
        if vocabulary is None:
            return cut_bytes(text, tokens * USUAL_TOKEN)
        text = cut_bytes(text, tokens * LONGEST_TOKEN)
        while self.most(text) > tokens:
            excess = 1 - tokens / self.most(text)
            text = text[: min(int(len(text) * (1 - excess)), len(text) - 1)]
        return text

    def _counted(self, text: str) -> int | None:
        vocabulary = self._vocabulary()
        if vocabulary is None:
            return None
        pieces = (text[start : start + PIECE] for start in range(0, len(text), PIECE))
        return sum(len(vocabulary.encode_ordinary(piece)) for piece in pieces)

    def _vocabulary(self) -> Any:
        return vocabulary() if self._is_openai else None


@functools.cache
def vocabulary() -> Any:
    """Return tiktoken's vocabulary of OpenAI's embedding models if it is here, or None."""
    folder = next(
        (
            os.environ[name]
            for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")
            if name in os.environ
        ),
        os.path.join(tempfile.gettempdir(), "data-gym-cache"),  # noqa: PTH118
    )
    # The file's name is tiktoken's. A file that is not there, or not whole, it would download.
    name = hashlib.sha1(VOCABULARY_URL.encode(), usedforsecurity=False).hexdigest()
    try:
        content = (Path(folder) / name).read_bytes() if folder else b""
        if hashlib.sha256(content).hexdigest() != VOCABULARY_SHA256:
            return None
        import tiktoken
    except (OSError, ImportError):
        return None
    return tiktoken.get_encoding(VOCABULARY)


def estimated_tokens(text: str) -> int:
    """Return about how many tokens a text has, by the bytes that one has in English."""
    return -(-len(text.encode(errors="replace")) // ENGLISH_TOKEN)


def cut_bytes(text: str, most: int) -> str:
    """Return as much of the beginning of a text as has at most so many bytes of UTF-8."""
    data = text.encode(errors="replace")
    return text if len(data) <= most else data[:most].decode(errors="ignore")


def requests(
    counts: Sequence[int], most_texts: int | None, most_tokens: int | None
) -> Iterator[range]:
    """Yield the positions of the texts of each request, in order.

    Args:
        counts: The most tokens of each text.
        most_texts: In a request; None for any number.
        most_tokens: In a request, in all; None for any number. A text that has more goes alone.
    """
    start = total = 0
    for position, count in enumerate(counts):
        is_full = most_texts is not None and position - start >= most_texts
        if most_tokens is not None and total + count > most_tokens:
            is_full = True
        if is_full and position > start:
            yield range(start, position)
            start, total = position, 0
        total += count
    if start < len(counts):
        yield range(start, len(counts))


def check_number(name: str, number: float) -> float:
    """Return an argument if it is a positive number.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(number, int | float) or isinstance(number, bool) or not number > 0:
        raise ValueError(f"{name} must be a positive number, not {number!r}")
    return number


class Pace:
    """How often a service is asked: requests, and tokens, are spread evenly over a minute.

    Threads and event loops that share it take turns.

    Args:
        requests_per_minute: None for any number.
        tokens_per_minute: None for any number.
    """

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        for name, value in (
            ("requests_per_minute", requests_per_minute),
            ("tokens_per_minute", tokens_per_minute),
        ):
            if value is not None:
                check_number(name, value)
        self._requests, self._tokens = requests_per_minute, tokens_per_minute
        self.counts_tokens = bool(tokens_per_minute)
        self._next = 0.0  # the moment from which the next request may begin
        self._lock = Lock()

    def wait_for(self, tokens: int) -> float:
        """Return the seconds to wait before a request of so many tokens, which takes its turn."""
        costs = [60.0 / self._requests] if self._requests else []
        costs += [60.0 * tokens / self._tokens] if self._tokens else []
        if not costs:
            return 0.0
        with self._lock:
            now = time.monotonic()
            begins = max(now, self._next)
            self._next = begins + max(costs)
        return begins - now


class Deadline:
    """When a request with all its tries has to be over.

    Args:
        seconds: From now; None for never.
    """

    def __init__(self, seconds: float | None) -> None:
        self._ends = None if seconds is None else time.monotonic() + seconds

    def extend(self, seconds: float) -> None:
        """Add what was waited for the sake of the pace."""
        if self._ends is not None:
            self._ends += seconds

    def left(self, most: float) -> float:
        """Return the seconds that are left, at most so many."""
        return most if self._ends is None else min(self._ends - time.monotonic(), most)


def tries(most: int, deadline: Deadline, *, awaited: bool) -> Any:
    """Return tenacity's tries: to be gone through with `for` or `async for`, each a context.

    What a service asks for with Retry-After is waited for; else pauses double and are random.
    A pause that does not end before the deadline is not begun, nor one of more than a day, nor one
    in a call that is stopped.

    Args:
        most: The most tries.
        deadline: Of all of them.
        awaited: Whether they are gone through with `async for`.

    Raises:
        MissingExtraError: The `tenacity` package is not installed.
    """
    try:
        import tenacity
    except ImportError:
        raise MissingExtraError("tenacity", "openai") from None
    pause = 0.0
    failures = itertools.count()

    def is_worth_another(error: BaseException) -> bool:
        nonlocal pause
        seconds = pause_after(error, next(failures))
        pause = seconds or 0.0
        return seconds is not None and seconds < deadline.left(LONGEST_ASKED) and not is_stopped()

    def note(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.info("%s; asked again in %.1f s", error, pause)

    kind: Any = tenacity.AsyncRetrying if awaited else tenacity.Retrying
    return kind(
        stop=tenacity.stop_after_attempt(most),
        retry=tenacity.retry_if_exception(is_worth_another),
        wait=lambda _: pause,
        sleep=apause if awaited else pause_,
        before_sleep=note,
        reraise=True,
    )


def pause_after(error: BaseException, earlier: int) -> float | None:
    """Return the seconds to wait before another try, or None if it is not worth one.

    Args:
        error: What the last try failed with.
        earlier: How many tries failed before it.
    """
    if not isinstance(error, ModelError) or not error.is_retryable:
        return None
    longest: float = min(FIRST_PAUSE * 2**earlier, LONGEST_PAUSE)
    return error.retry_after or longest * random.uniform(0.5, 1.0)  # noqa: S311

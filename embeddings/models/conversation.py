"""Which requests the texts of one call take, and what follows from each answer. No input or output.

Whoever sends the requests goes through `requests_for`, a generator: it yields the texts of a
request, and is sent their vectors or why there are none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..errors import RefusedError, TooLongError
from .failures import Failure
from .limits import Tokens, cut_bytes, requests

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from ..vectors import VectorLike

    Outcome: TypeAlias = "list[VectorLike] | Failure"
    Requests: TypeAlias = Generator[list[str], Outcome, list[VectorLike]]

TooLong: TypeAlias = Literal["error", "truncate"]
STEP = 0.75  # of a text that was refused as too long, what is tried next


@dataclass(frozen=True)
class Limits:
    """What a service takes at once.

    Attributes:
        tokens: Counts them.
        texts_in_request: None for any number.
        tokens_in_request: In all its texts; None for any number.
        tokens_in_text: None for any number.
        too_long: What becomes of a text that has more.
    """

    tokens: Tokens
    texts_in_request: int | None
    tokens_in_request: int | None
    tokens_in_text: int | None
    too_long: TooLong

    def is_too_long(self, text: str) -> bool:
        """Return whether it is certain that a text has too many tokens."""
        most = self.tokens_in_text
        # A character has at most 4 bytes of UTF-8.
        if most is None or len(text) * 4 <= most:
            return False
        return self.tokens.least(text) > most

    def shortened(self, text: str) -> str:
        """Return a text as it is to be sent: its beginning where it may be too long."""
        most = self.tokens_in_text
        if self.too_long == "error" or most is None or len(text) * 4 <= most:
            return text
        return text if self.tokens.most(text) <= most else self.tokens.shortened(text, most)


@dataclass
class Learnt:
    """What a service's answers told of it.

    Attributes:
        takes_base64: Whether it can be asked to pack vectors in base64.
        has_answered: Whether it ever answered a request with vectors.
    """

    takes_base64: bool = True
    has_answered: bool = field(default=False)


def requests_for(texts: Sequence[str], limits: Limits, learnt: Learnt) -> Requests:
    """Yield the texts of each request; return one vector for each text, in order.

    Raises:
        ModelError: A text was refused by itself: then the error has its position. Or the service
            refuses every request, or gives no answer.
    """
    sent = [limits.shortened(text) for text in texts]
    counts = [limits.tokens.most(text) for text in sent]
    vectors: list[VectorLike] = []
    for positions in requests(counts, limits.texts_in_request, limits.tokens_in_request):
        vectors += yield from _part(sent, positions, limits, learnt)
    return vectors


def _part(texts: list[str], positions: range, limits: Limits, learnt: Learnt) -> Requests:
    outcome = yield from _asked([texts[position] for position in positions], learnt)
    if not isinstance(outcome, Failure):
        return outcome
    if not outcome.may_be_for_an_item:
        raise outcome.error
    if len(positions) > 1:
        return (yield from _halves(texts, positions, limits, learnt, outcome))
    (position,) = positions
    if isinstance(outcome.error, TooLongError) and limits.too_long == "truncate":
        shorter = _shorter(texts[position], limits)
        if shorter is not None:
            texts[position] = shorter
            return (yield from _part(texts, positions, limits, learnt))
    outcome.error.positions = (position,)
    raise outcome.error


def _halves(
    texts: list[str], positions: range, limits: Limits, learnt: Learnt, refusal: Failure
) -> Requests:
    middle = len(positions) // 2
    try:
        vectors = yield from _part(texts, positions[:middle], limits, learnt)
    except RefusedError as error:
        refused = error
    else:
        return vectors + (yield from _part(texts, positions[middle:], limits, learnt))
    # A service that has answered takes requests: it is the item. If not, it is asked for the rest.
    if not learnt.has_answered:
        rest = yield from _asked([texts[position] for position in positions[middle:]], learnt)
        if isinstance(rest, Failure) and not learnt.has_answered:
            refusal.error.positions = ()
            raise refusal.error
    raise refused


def _asked(texts: list[str], learnt: Learnt) -> Generator[list[str], Outcome, Outcome]:
    """Ask, and where the service does not know base64, once more without it."""
    asked_for_base64 = learnt.takes_base64
    outcome = yield texts
    if isinstance(outcome, Failure) and outcome.is_about_encoding and asked_for_base64:
        learnt.takes_base64 = False
        outcome = yield texts
    if not isinstance(outcome, Failure):
        learnt.has_answered = True
    return outcome


def _shorter(text: str, limits: Limits) -> str | None:
    """Return a shorter beginning of a text that was refused as too long, or None."""
    size = len(text.encode(errors="replace"))
    # A token is at least one byte: what has no more bytes than tokens allowed is not too long.
    least = limits.tokens_in_text or 1
    return cut_bytes(text, max(int(size * STEP), least)) if size > least else None

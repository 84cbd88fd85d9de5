"""Which requests the texts of one call take, and what follows from each answer. No input or output.

Whoever sends the requests goes through `requests_for`, a generator: it yields the texts of a
request, and is sent their vectors or why there are none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..errors import RefusedError, TooLongError
from .failures import Failure
from .limits import Tokens, cut_bytes, requests

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from ..vectors import VectorLike

    Outcome: TypeAlias = "list[VectorLike] | Failure"
    Requests: TypeAlias = Generator[list[str], Outcome, list[VectorLike]]
    Part: TypeAlias = Generator[list[str], Outcome, None]
    Made: TypeAlias = dict[int, VectorLike]
    """Vectors by the position of their text."""

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
    has_answered: bool = False


def requests_for(texts: Sequence[str], limits: Limits, learnt: Learnt) -> Requests:
    """Yield the texts of each request; return one vector for each text, in order.

    Raises:
        ModelError: A text was refused by itself: then the error has its position, and the vectors
            that came before. Or the service refuses every request, or gives no answer.
    """
    sent = [limits.shortened(text) for text in texts]
    counts = [limits.tokens.most(text) for text in sent]
    made: Made = {}
    try:
        for positions in requests(counts, limits.texts_in_request, limits.tokens_in_request):
            yield from _part(sent, positions, limits, learnt, made)
    except RefusedError as error:
        error.made = made
        raise
    return [made[position] for position in range(len(sent))]


def _part(texts: list[str], positions: range, limits: Limits, learnt: Learnt, made: Made) -> Part:
    """Ask for the vectors of some texts, in parts where the service does not take them at once."""
    outcome = yield from _asked(texts, positions, learnt, made)
    if outcome is None:
        return
    if not outcome.may_be_for_an_item:
        raise outcome.error
    if len(positions) > 1:
        yield from _halves(texts, positions, limits, learnt, made, outcome)
        return
    (position,) = positions
    if isinstance(outcome.error, TooLongError) and limits.too_long == "truncate":
        shorter = _shorter(texts[position], limits)
        if shorter is not None:
            texts[position] = shorter
            yield from _part(texts, positions, limits, learnt, made)
            return
        outcome.error.advise(
            f"The text is cut to max_tokens={limits.tokens_in_text}: set what the service takes"
        )
    outcome.error.positions = (position,)
    raise outcome.error


def _halves(
    texts: list[str],
    positions: range,
    limits: Limits,
    learnt: Learnt,
    made: Made,
    refusal: Failure,
) -> Part:
    middle = len(positions) // 2
    try:
        yield from _part(texts, positions[:middle], limits, learnt, made)
    except RefusedError as error:
        refused = error
    else:
        yield from _part(texts, positions[middle:], limits, learnt, made)
        return
    # A service that has answered takes requests: it is the item. If not, it is asked for the rest.
    if not learnt.has_answered:
        rest = yield from _asked(texts, positions[middle:], learnt, made)
        if rest is not None and not learnt.has_answered:
            refusal.error.positions = ()
            raise refusal.error
    raise refused


def _asked(
    texts: list[str], positions: range, learnt: Learnt, made: Made
) -> Generator[list[str], Outcome, Failure | None]:
    """Ask, and where the service does not know base64, once more without it."""
    request = [texts[position] for position in positions]
    asked_for_base64 = learnt.takes_base64
    outcome = yield request
    if isinstance(outcome, Failure) and outcome.is_about_encoding and asked_for_base64:
        learnt.takes_base64 = False
        outcome = yield request
    if isinstance(outcome, Failure):
        return outcome
    learnt.has_answered = True
    made |= zip(positions, outcome, strict=True)
    return None


def _shorter(text: str, limits: Limits) -> str | None:
    """Return a shorter beginning of a text that was refused as too long, or None."""
    size = len(text.encode(errors="replace"))
    # A token is at least one byte: what has no more bytes than tokens allowed is not too long.
    least = limits.tokens_in_text or 1
    return cut_bytes(text, max(int(size * STEP), least)) if size > least else None

"""Calls of the model for many batches: side by side, while what came is taken up in order."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

from ..errors import EmbeddingsError, InvalidItemError, InvalidVectorError, RefusedError
from ..models.base import BATCH_SIZE, at_most_own, batches, check_positive, checked_vectors
from ..models.stop import Stop, not_called, stoppable
from ..models.usage import Usage
from .report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..models.base import Content, SupportsEmbedding
    from ..sessions.runtime import Begun, Pool, Runtime
    from ..vectors import Float32

OnError: TypeAlias = Literal["raise", "skip"]
NOT_FINITE = "the model returned no vector of finite numbers"


@dataclass
class Answer:
    """What came of calling the model for some contents."""

    vectors: dict[bytes, Float32] = field(default_factory=dict)
    refused: dict[bytes, str] = field(default_factory=dict)
    """What the model does not take by itself, with the reason."""
    usage: Usage = field(default_factory=Usage)
    error: Exception | None = None
    """Why the rest has no vectors."""
    asked: list[bytes] = field(default_factory=list)
    """What the call was for that failed."""
    seconds: float = 0.0

    def concerned(self) -> set[bytes]:
        """Return the contents that the error is about."""
        positions = self.error.positions if isinstance(self.error, EmbeddingsError) else ()
        return {self.asked[at] for at in positions} if positions else {*self.asked}


class Calls:
    """Calls of one model; after one that failed none is begun any more.

    Those in progress are waited for, for what a service was sent is paid. But of those begun after
    it none pauses any more, to ask again.

    Args:
        model: The model.
        runtime: How a call is waited for.
        pool: What does several at a time.
        skips: Whether contents that the model refuses by themselves are no failure.
        size: The most contents in one call.
    """

    def __init__(
        self,
        model: SupportsEmbedding,
        runtime: Runtime,
        pool: Pool,
        *,
        skips: bool,
        size: int = BATCH_SIZE,
    ) -> None:
        self._model, self._runtime, self._pool, self._size = model, runtime, pool, size
        self.skips = skips
        self.ahead = pool.ahead
        self._has_failed = False
        self._begun = 0
        self._going_on: dict[int, Stop] = {}

    def begin(self, contents: dict[bytes, Content]) -> Begun[Answer]:
        """Begin to call the model for contents."""
        self._begun += 1
        return self._pool.begin(partial(self._ask, self._begun, contents))

    def _ask(self, number: int, contents: dict[bytes, Content]) -> Answer:
        with stoppable() as stop:
            self._going_on[number] = stop
            try:
                if self._has_failed:
                    return Answer(error=not_called(self._model.model_id), asked=list(contents))
                answer = ask(
                    self._model, self._runtime, contents, skips=self.skips, size=self._size
                )
            finally:
                del self._going_on[number]
        if answer.error is not None:
            self._has_failed = True
            for later, its_stop in list(self._going_on.items()):
                if later > number:
                    its_stop.say()
        return answer


def ask(
    model: SupportsEmbedding,
    runtime: Runtime,
    contents: dict[bytes, Content],
    *,
    skips: bool,
    size: int = BATCH_SIZE,
) -> Answer:
    """Return what comes of calling the model for contents: also what came before an error.

    Args:
        model: The model.
        runtime: How a call is waited for.
        contents: What is to be embedded.
        skips: Whether the model is called for the rest where it refuses some by themselves.
        size: The most contents in one call; a smaller `batch_size` of the model goes first.
    """
    answer = Answer()
    for keys in batches(list(contents), at_most_own(model, size)):
        _ask(answer, model, runtime, {key: contents[key] for key in keys}, skips=skips)
        if answer.error is not None:
            break
    return answer


def _ask(
    answer: Answer,
    model: SupportsEmbedding,
    runtime: Runtime,
    contents: dict[bytes, Content],
    *,
    skips: bool,
) -> None:
    """Add to an answer what comes of one call for contents, and of more where it refuses some."""
    rest, began, before = dict(contents), perf_counter(), answer.seconds
    while rest:
        answer.asked = list(rest)
        usage = Usage()
        try:
            made = runtime.counted_call(model, list(rest.values()), "document", usage)
            answer.vectors |= zip(rest, made, strict=True)
            return
        except (RefusedError, InvalidVectorError) as error:
            came = [answer.asked[at] for at in error.made]
            answer.vectors |= zip(
                came, checked_vectors(model, came, error.made.values()), strict=True
            )
            is_unfit = isinstance(error, InvalidVectorError)
            # If of several none is fit, it is the model.
            is_of_model = is_unfit and len(error.positions) == len(rest) > 1
            if not skips or not error.positions or is_of_model:
                answer.error = error
                return
            reason = NOT_FINITE if is_unfit else reason_of(error)
            answer.refused |= {answer.asked[at]: reason for at in error.positions}
        except Exception as error:  # noqa: BLE001  it is raised when this call's turn comes
            answer.error = error
            return
        finally:
            answer.usage.requests += usage.requests
            answer.usage.tokens += usage.tokens
            answer.seconds = before + perf_counter() - began
        rest = {
            key: content
            for key, content in rest.items()
            if key not in answer.vectors and key not in answer.refused
        }


def reason_of(error: RefusedError | InvalidItemError | InvalidVectorError) -> str:
    """Return why an item is skipped: what the service says, or what is known here."""
    return getattr(error, "reason", None) or str(error)


class InLine(Protocol):
    """A batch on its way."""

    def is_over(self) -> bool:
        """Return whether it can be finished without waiting for the model."""


Batch = TypeVar("Batch")
Flight = TypeVar("Flight", bound=InLine)


def in_order(
    batches: Iterable[Batch],
    begin: Callable[[Batch], Flight],
    finish: Callable[[Flight], Report],
    ahead: int,
) -> Report:
    """Begin batches, and finish each in its turn; return what was done.

    An error leaves finished whatever was begun and can be finished: it was paid for.

    Args:
        batches: Read no further ahead than is begun.
        begin: Begins what takes long.
        finish: Waits for that, and does the rest.
        ahead: The most batches between the two.
    """
    begun: deque[Flight] = deque()
    report = Report()

    def finish_oldest() -> Report:
        try:
            return finish(begun.popleft())
        except Exception:
            for later in begun:
                with suppress(Exception):
                    finish(later)
            begun.clear()
            raise

    try:
        for batch in batches:
            begun.append(begin(batch))
            # One for one: if all that is over were finished first, the model would be idle.
            if len(begun) >= ahead or begun[0].is_over():
                report += finish_oldest()
    except Exception:
        while begun:
            finish_oldest()
        raise
    while begun:
        report += finish_oldest()
    return report


def check_on_error(on_error: object) -> bool:
    """Return whether items that the model refuses are skipped.

    Raises:
        ValueError: It is neither "raise" nor "skip".
    """
    if on_error not in {"raise", "skip"}:
        raise ValueError(f'on_error must be "raise" or "skip", not {on_error!r}')
    return on_error == "skip"


def calls_at_once(model: Any, concurrency: int | None) -> int:
    """Return how many calls of a model there may be at a time.

    Args:
        model: Whose `concurrency` it is by default.
        concurrency: The most; None for the model's.

    Raises:
        ValueError: It is not a positive integer.
    """
    if concurrency is None:
        concurrency = getattr(model, "concurrency", 1)
    return check_positive("concurrency", concurrency)

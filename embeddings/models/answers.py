"""The vectors in a service's answer, in the order of the texts."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import AnswerError

if TYPE_CHECKING:
    from ..vectors import VectorLike

LARGEST_VECTOR = 500_000  # bytes of JSON: 16,384 numbers of 20 characters, and room
LARGEST_REST = 1_000_000  # bytes of JSON beside the vectors


def largest(count: int) -> int:
    """Return the most bytes that an answer of so many vectors can have."""
    return LARGEST_REST + count * LARGEST_VECTOR


def vectors_in(answer: Any, count: int, model_id: str) -> list[VectorLike]:
    """Return one vector for each of `count` texts, in order.

    Args:
        answer: The answer's JSON.
        count: The number of texts.
        model_id: What an error calls the model.

    Raises:
        AnswerError: There are too few or too many, or their numbers are no order.
    """
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        raise AnswerError(f"Model {model_id!r} answered {count} texts without a list of vectors")
    numbers = [_number(entry.get("index")) for entry in data]
    # Some services leave the numbers out, or give them all the number 0: then the order is theirs.
    if set(numbers) in ({None}, {0}):
        numbers = list(range(len(data)))
    # Gemini leaves out the number 0 alone.
    if numbers.count(None) == 1 and 0 not in numbers:
        numbers[numbers.index(None)] = 0
    if len(data) != count or {*numbers} != {*range(count)}:
        known = sorted(number for number in numbers if number is not None)
        raise AnswerError(
            f"Model {model_id!r} answered {count} texts with {len(data)} vectors, "
            f"numbered {known[:10]}"
        )
    entries = dict(zip(numbers, data, strict=True))
    return [_values(entries[position].get("embedding"), model_id) for position in range(count)]


def tokens_in(answer: Any) -> int:
    """Return how many tokens the service counted; 0 where it does not say."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return 0
    for name in ("prompt_tokens", "total_tokens"):
        if type(usage.get(name)) is int and usage[name] > 0:
            return int(usage[name])
    return 0


def _number(index: Any) -> int | None:
    """Return a number that may have been written as a string; -1 for what is none."""
    if index is None:
        return None
    if isinstance(index, str) and index.isascii() and index.isdigit() and len(index) < 10:
        return int(index)
    return index if type(index) is int else -1


def _values(embedding: Any, model_id: str) -> VectorLike:
    if isinstance(embedding, str):  # a service that does not know base64 answers with numbers
        try:
            return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
        except (binascii.Error, ValueError):
            raise AnswerError(f"Model {model_id!r}: a vector is malformed base64") from None
    return embedding  # type: ignore[no-any-return]

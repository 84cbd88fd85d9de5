"""What text and JSON may be stored: what is checked of them before anything else happens."""

from __future__ import annotations

import inspect
import json
import math
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

import numpy as np

from .errors import EmbeddingsError, InvalidItemError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Metadata: TypeAlias = dict[str, Any]
BYTES = (bytes, bytearray, memoryview)
PLAIN = (int, str, float, bool, type(None))
JSON_TYPES = frozenset({*PLAIN, dict, list})


def plain(value: object) -> object:
    """Return NumPy's integers, floats and bools as Python's, and anything else as it is."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.floating):
        return float(value)
    return bool(value) if isinstance(value, np.bool_) else value


def as_json(value: object) -> object:
    """Return what JSON has for a value; one for which it has nothing is returned as it is.

    Dates and times are ISO strings, datetimes with a zone those of UTC, UUIDs strings, decimals and
    NumPy's numbers floats and integers. An Enum is its name; where it is a string or a number, too,
    its value.
    """
    if type(value) in JSON_TYPES:
        return value
    if isinstance(value, datetime):
        return _in_utc(value).isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value if isinstance(value, str | int | float) else value.name
    if isinstance(value, UUID):
        return str(value)
    return float(value) if isinstance(value, Decimal) else plain(value)


def _in_utc(moment: datetime) -> datetime:
    """Return a moment in UTC, so that the order of its texts is that of time; or without a zone.

    Without microseconds it has none in its text, and "+" is before ".".
    """
    if moment.utcoffset() is None:
        return moment
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # it is before the year 1 there, or after 9999
        return moment


_JSON = json.JSONEncoder(allow_nan=False, default=as_json)
_JSON_DECODER = json.JSONDecoder()


def dump_metadata(metadata: Mapping[str, Any]) -> str:
    """Return the JSON text under which the metadata is stored.

    `as_json` says as what dates, NumPy's numbers and others are stored.

    Raises:
        InvalidItemError: It is not a dict of JSON values with strings as keys, or holds NaN,
            infinity, NUL or a lone surrogate. The message names the place.
    """
    if not isinstance(metadata, dict):
        raise InvalidItemError(f"metadata must be a dict, not {type(metadata).__name__}")
    try:
        text = plain_json(metadata)
        if text is None:
            _check_json(metadata, "metadata")
            text = _JSON.encode(metadata)
        return text
    except RecursionError:
        raise InvalidItemError("metadata is nested too deeply, or contains itself") from None
    except ValueError as error:
        if isinstance(error, InvalidItemError):
            raise
        raise InvalidItemError("metadata holds an integer with too many digits") from None


def plain_json(metadata: dict[Any, Any]) -> str | None:
    """Return the JSON text of flat metadata of ASCII, or None if each value is to be looked at."""
    if {*map(type, metadata)} != {str} or not {*map(type, metadata.values())} <= {*PLAIN}:
        return None
    try:
        text = _JSON.encode(metadata)
    except ValueError:  # NaN, infinity, or a number of too many digits
        return None
    return None if "\\u" in text else text  # NUL and lone surrogates are written so


class NotJSON(dict[str, Any]):
    """What is returned for stored metadata that is not JSON: empty, and the collection warns."""


def load_metadata(text: str) -> Metadata | None:
    """Return the metadata of a stored JSON text; None of an empty one, as others may leave it."""
    if not text:
        return None
    try:
        loaded: Metadata
        if text[0] == "{":  # as nearly always: there is no white space to be looked for
            loaded, end = _JSON_DECODER.raw_decode(text)
            if end == len(text):
                return loaded
        loaded = json.loads(text)
    except ValueError:
        return NotJSON()
    return loaded


def checked_content(value: object) -> str | bytes:
    """Return a content that can be stored, or raise InvalidItemError."""
    if isinstance(value, str):
        check_text(value, "The content")
        return value
    if isinstance(value, BYTES):
        return value if isinstance(value, bytes) else bytes(value)
    raise InvalidItemError(f"Content must be str or bytes, not {type(value).__name__}")


def check_is_called(text: Callable[..., object]) -> None:
    """Do nothing if a function that makes texts returns them when it is called.

    Raises:
        TypeError: It has to be awaited.
    """
    function = text.func if isinstance(text, partial) else text
    for kind in (function, type(function).__call__):
        if inspect.iscoroutinefunction(kind) or inspect.isasyncgenfunction(kind):
            raise TypeError(
                "text= is a function that is awaited (async def), and here it is called: give one "
                "that returns the text of an instance"
            )


def check_text(
    text: str,
    what: str,
    shown: str = "",
    error: type[EmbeddingsError] = InvalidItemError,
) -> None:
    """Do nothing if every database can store the text.

    Args:
        text: The text.
        what: What an error calls it.
        shown: What an error shows of it.
        error: What is raised.

    Raises:
        InvalidItemError: It holds NUL or a lone surrogate.
    """
    if "\0" not in text and text.isascii():
        return
    name = f"{what} {shown[:80]!r}" if shown else what
    if "\0" in text:
        raise error(f"{name} contains a NUL character, which databases cannot store")
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        raise error(
            f"{name} contains a lone surrogate at position {problem.start}, which is not text"
        ) from None


def is_storable(text: str) -> bool:
    """Return whether every database can store the text: see `check_text`."""
    try:
        check_text(text, "")
    except InvalidItemError:
        return False
    return True


def _check_json(value: object, place: str) -> None:
    value = as_json(value)
    if isinstance(value, str):
        check_text(value, place)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise InvalidItemError(f"{place} has the key {key!r}; keys in JSON are strings")
            check_text(key, f"a key of {place}")
            _check_json(inner, f"{place}[{key!r}]")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            _check_json(inner, f"{place}[{number}]")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidItemError(f"{place} is {value}, which JSON cannot hold")
    elif value is not None and not isinstance(value, int):
        raise InvalidItemError(f"{place} is of type {type(value).__name__}, which JSON cannot hold")

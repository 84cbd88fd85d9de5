"""A host's keys and the text ids under which rows are stored."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from sqlalchemy import ColumnElement, Float, Integer, Subquery, Text, false, null, select
from sqlalchemy.orm import QueryableAttribute
from sqlalchemy.types import NullType, TypeEngine, Uuid

from .errors import InvalidItemError
from .values import check_text

if TYPE_CHECKING:
    from collections.abc import Callable

Key: TypeAlias = str | int | uuid.UUID
K = TypeVar("K", bound=Key)

MAX_ID_BYTES = 1024  # fits the key of an index row in every database


@dataclass(frozen=True)
class Keys(Generic[K]):
    """The type of a collection's ids, as its caller sees them.

    Integers are stored as decimals and UUIDs as `.hex`, which is how SQLAlchemy and Django write
    them where a database has no type for them.
    """

    python_type: type[K]
    sql_type: TypeEngine[Any]
    _to_text: Callable[[Any], str]
    _from_text: Callable[[str], K]

    def to_text(self, key: object) -> str:
        """Return the stored id of a key.

        Raises:
            InvalidItemError: The key is of another type, empty, over-long, or cannot be stored.
        """
        # The documented API takes integers, too, and stores their decimals.
        accepted = (str, int) if self.python_type is str else self.python_type
        if isinstance(key, bool) or not isinstance(key, accepted):
            raise InvalidItemError(
                f"The ids of this collection are {self.python_type.__name__}, and {key!r} is "
                f"{type(key).__name__}. Collection(..., key=) sets the type"
            )
        if key == "":
            raise InvalidItemError("An id must not be empty")
        try:
            text = self._to_text(key)
        except ValueError as error:
            raise InvalidItemError(f"This id cannot be stored: {error}") from None
        check_text(text, "The id", text)
        if len(text) > MAX_ID_BYTES // 4 and len(text.encode()) > MAX_ID_BYTES:
            raise InvalidItemError(
                f"The id {text[:80]!r}... is over {MAX_ID_BYTES} bytes long in UTF-8"
            )
        return text

    def from_text(self, id: str) -> K:
        """Return the key of a stored id.

        Raises:
            InvalidItemError: The id is not one of this type.
        """
        try:
            return self._from_text(id)
        except ValueError:
            raise InvalidItemError(
                f"The stored id {id!r} is no {self.python_type.__name__}: "
                "this collection was written with another key="
            ) from None

    def none_found(self) -> Subquery:
        """Return a selectable with the columns `id` and `score`, and no rows."""
        columns = (null().cast(self.sql_type).label("id"), null().cast(Float).label("score"))
        return select(*columns).where(false()).subquery()


def _canonical_int(text: str) -> int:
    number = int(text)
    if str(number) != text:
        raise ValueError(text)
    return number


def _canonical_uuid(text: str) -> uuid.UUID:
    value = uuid.UUID(hex=text)
    if value.hex != text:
        raise ValueError(text)
    return value


def _decimal_or_text(key: str | int) -> str:
    # str() of a member of an enumeration would be its name.
    return str.__str__(key) if isinstance(key, str) else int.__repr__(key)


_KINDS: dict[type, Keys[Any]] = {
    str: Keys(str, Text(), _decimal_or_text, str),
    int: Keys(int, Integer(), int.__repr__, _canonical_int),
    uuid.UUID: Keys(uuid.UUID, Uuid(), lambda key: key.hex, _canonical_uuid),
}


def keys_of(key: type[Key] | QueryableAttribute[Any] | ColumnElement[Any]) -> Keys[Any]:
    """Return the keys for `str`, `int`, `uuid.UUID` or a mapped column of one of them.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(key, type) and key in _KINDS:
        return _KINDS[key]
    if isinstance(key, QueryableAttribute | ColumnElement):
        sql_type: TypeEngine[Any] = getattr(key, "type", None) or NullType()
        if isinstance(sql_type, Uuid) and not sql_type.as_uuid:
            return Keys(
                str,
                sql_type,
                lambda key: uuid.UUID(key).hex,
                lambda text: str(_canonical_uuid(text)),
            )
        try:
            base = _KINDS.get(sql_type.python_type)
        except NotImplementedError:  # a type that names no type of Python
            base = None
        if base is not None:
            return replace(base, sql_type=sql_type)
    raise TypeError(f"key must be str, int, uuid.UUID or a mapped column of such, not {key!r}")

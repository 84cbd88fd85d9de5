"""A host's keys and the text ids under which rows are stored."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeAlias

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Float,
    Subquery,
    Text,
    TypeDecorator,
    false,
    null,
    select,
)
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.orm import QueryableAttribute
from sqlalchemy.types import Integer, NullType, SmallInteger, String, TypeEngine, Uuid
from typing_extensions import TypeVar

from .errors import InvalidItemError
from .values import check_text, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy import Dialect

Key: TypeAlias = str | int | uuid.UUID
K = TypeVar("K", bound=Key, default=str)

CHUNK_MARK = "#"  # between an item's stored id and the number of a chunk
AFTER_MARK = "$"  # the next character
MAX_ID_BYTES = 1024  # fits the key of an index row in every database
SHOWN = 80  # characters of what is no id, in an error: it may be a content that was passed as one


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
        if type(key) is str and self._to_text is _decimal_or_text and _is_usual(key):
            return key
        if type(key) is not self.python_type:
            key = self._accepted(plain(key))
        if key == "":
            raise InvalidItemError("An id must not be empty")
        try:
            text = self._to_text(key)
        except ValueError as error:
            raise InvalidItemError(f"This id cannot be stored: {error}") from None
        if self.python_type is int and not _fits(int(text), 64):
            raise InvalidItemError(f"The id {text[:SHOWN]} is beyond 64 bits")
        check_text(text, "The id", text)
        if len(text) > MAX_ID_BYTES // 4 and len(text.encode()) > MAX_ID_BYTES:
            raise InvalidItemError(
                f"The id {text[:80]!r}... is over {MAX_ID_BYTES} bytes long in UTF-8"
            )
        return text

    def to_texts(self, keys: Sequence[Any]) -> list[str] | None:
        """Return the stored ids of keys, or None if `to_text` has to look at each of them.

        All are looked at at once, which takes a fraction of the time.
        """
        types = {*map(type, keys)}
        if types == {str} and self._to_text is _decimal_or_text:
            longest, are_usual = max(map(len, keys)), _is_usual_text("".join(keys))
            return list(keys) if are_usual and all(keys) and longest <= SHOWN else None
        if types == {int} and self._to_text is _decimal:
            ends = str(min(keys)), str(max(keys))
            are_usual = all(_fits(int(end), 64) and not self.exceeds_column(end) for end in ends)
            return list(map(str, keys)) if are_usual else None
        return None

    def usable(self, keys: Iterable[Any]) -> list[Any]:
        """Return those of a host's keys that can be ids: under others nothing is stored."""
        keys = list(keys)
        return keys if self.to_texts(keys) is not None else [*filter(self._is_usable, keys)]

    def _is_usable(self, key: object) -> bool:
        try:
            self.to_text(key)
        except InvalidItemError:
            return False
        return True

    def _accepted(self, key: object) -> object:
        # The documented API takes integers, too, and stores their decimals.
        accepted: Any = (str, int) if self.python_type is str else self.python_type
        if isinstance(self.sql_type, TypeDecorator):  # whose values may be of any type
            accepted = object
        if isinstance(key, bool) or not isinstance(key, accepted):
            raise InvalidItemError(
                f"The ids of this collection are {self.python_type.__name__}, and {_shown(key)} is "
                f"{type(key).__name__}. Collection(..., key=) sets the type; of a ModelCollection "
                "it is that of the primary key"
            )
        return key

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

    def id_noted(self, key: object) -> str:
        """Return the stored id of a key, or for what can be none the text that a trigger notes."""
        try:
            return self.to_text(key)
        except InvalidItemError:
            return key.decode(errors="surrogateescape") if isinstance(key, bytes) else str(key)

    def key_noted(self, id: str) -> K | str:
        """Return the key of an id that a trigger noted, or the id itself if it is of no key."""
        try:
            return self.from_text(id)
        except InvalidItemError:
            return id

    def from_texts(self, ids: Sequence[str]) -> list[K]:
        """Return the keys of stored ids. Errors as in `from_text`."""
        try:
            return list(map(self._from_text, ids))
        except ValueError:
            return list(map(self.from_text, ids))  # which tells the id

    def on(self, dialect: Dialect) -> Keys[Any]:
        """Return the keys as a database knows them, without a host's TypeDecorator."""
        if not isinstance(self.sql_type, TypeDecorator):
            return self
        sql_type = self.sql_type.type_engine(dialect)
        kind = uuid.UUID if isinstance(sql_type, Uuid) else self.python_type
        return replace(_KINDS[kind], sql_type=sql_type)

    def takes(self, sql_type: TypeEngine[Any]) -> bool:
        """Return whether the values of a column may be keys; True where its type is not known."""
        kinds: tuple[type[TypeEngine[Any]], ...] = (String, Integer, Uuid)
        if self.python_type is int:
            kinds = (Integer,)
        elif isinstance(self.sql_type, TypeDecorator):
            pass
        elif self.python_type is uuid.UUID or isinstance(self.sql_type, Uuid):
            kinds = (Uuid,)
        try:
            python_type: type = sql_type.python_type
        except NotImplementedError:
            return True
        return python_type is object or isinstance(sql_type, kinds)

    def exceeds_column(self, id: str) -> bool:
        """Return whether a stored id is an integer beyond the range of the host's column."""
        if self.python_type is not int:
            return False
        bits = 16 if isinstance(self.sql_type, SmallInteger) else 32
        return not isinstance(self.sql_type, BigInteger) and not _fits(int(id), bits)

    def none_found(self, *, with_rank: bool = False) -> Subquery:
        """Return a selectable with the columns `id` and `score`, and perhaps `rank`; no rows."""
        columns = (null().cast(self.sql_type).label("id"), null().cast(Float).label("score"))
        rank = (null().cast(Integer).label("rank"),) if with_rank else ()
        return select(*columns, *rank).where(false()).subquery()


def chunk_id(item: str, number: int) -> str:
    """Return the stored id of a chunk. The first, of number 0, stands for its item."""
    return f"{item}{CHUNK_MARK}{number}"


def chunk_owner(id: str) -> str:
    """Return the stored id of the item that a chunk's stored id belongs to."""
    return id.rpartition(CHUNK_MARK)[0]


def split_chunk_id(id: str) -> tuple[str, int]:
    """Return the stored id of the item that a chunk is of, and the number of the chunk."""
    item, _, number = id.rpartition(CHUNK_MARK)
    return item, int(number)


def _fits(number: int, bits: int) -> bool:
    return -(1 << bits - 1) <= number < 1 << bits - 1


def _shown(key: object) -> str:
    if key is None or isinstance(key, bool | int | float | uuid.UUID):
        return repr(key)
    if isinstance(key, str | bytes):
        return repr(key[:SHOWN]) + "..." * (len(key) > SHOWN)
    return f"an object of {type(key).__module__}"  # its repr may hold a content


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


def _is_usual(id: str) -> bool:
    """Return whether a text can be stored as an id, as almost all can: a quick look."""
    return 0 < len(id) <= SHOWN and _is_usual_text(id)


def _is_usual_text(text: str) -> bool:
    return text.isascii() and "\0" not in text


def _decimal_or_text(key: str | int) -> str:
    # str() of a member of an enumeration would be its name.
    return str.__str__(key) if isinstance(key, str) else int.__repr__(key)


_decimal = int.__repr__

_KINDS: dict[type, Keys[Any]] = {
    str: Keys(str, Text(), _decimal_or_text, str),
    int: Keys(int, BigInteger(), _decimal, _canonical_int),
    uuid.UUID: Keys(uuid.UUID, Uuid(), lambda key: key.hex, _canonical_uuid),
}


def _decorated(sql_type: TypeDecorator[Any]) -> Keys[Any]:
    """Return the keys for a host's own type: what it makes of its values for SQL is stored.

    Raises:
        TypeError: That is neither text nor a whole number nor a UUID.
    """
    dialect = DefaultDialect()  # which has no types of its own: the ids are of no database
    bound, python_type = sql_type.bind_processor(dialect), sql_type.impl_instance.python_type
    made = sql_type.result_processor(dialect, None)
    if python_type not in _KINDS:
        raise TypeError(f"key is {sql_type!r}, of {python_type.__name__}: no type of keys")

    def to_text(key: object) -> str:
        try:
            value: Any = key if bound is None else bound(key)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            kind = type(sql_type).__name__
            raise ValueError(f"{kind} takes no {type(key).__name__}") from error
        return _decimal_or_text(value)

    def from_text(text: str) -> Any:
        value = _canonical_int(text) if python_type is int else text
        return value if made is None else made(value)

    kind = int if python_type is int else str
    return Keys(kind, sql_type, to_text, from_text)


def keys_of(key: type[Any] | QueryableAttribute[Any] | ColumnElement[Any]) -> Keys[Any]:
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
        if isinstance(sql_type, TypeDecorator):
            return _decorated(sql_type)
        try:
            base = _KINDS.get(sql_type.python_type)
        except NotImplementedError:  # a type that names no type of Python
            base = None
        if base is not None:
            return replace(base, sql_type=sql_type)
    raise TypeError(f"key must be str, int, uuid.UUID or a mapped column of such, not {key!r}")

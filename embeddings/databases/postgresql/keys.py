"""Stored ids and the host's keys in one statement, compared in the type of the keys.

So the index of the host's primary key serves the comparison. The table holds the rows of other
collections too, and PostgreSQL may evaluate an expression for any row: the cast is guarded.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Integer,
    Numeric,
    Text,
    case,
    cast,
    collate,
    literal_column,
    type_coerce,
)
from sqlalchemy.types import CHAR, Enum, String, Uuid

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.types import TypeEngine

UP_TO_18_DIGITS = literal_column("'^(0|-?[1-9][0-9]{0,17})$'", Text)
WITH_19_DIGITS = literal_column("'^-?[1-9][0-9]{18}$'", Text)
LEAST, LARGEST = (literal_column(str(n), Numeric) for n in (-(2**63), 2**63 - 1))  # of BIGINT
HEX = literal_column("'^[0-9a-f]{32}$'", Text)


def kind_of(key_type: TypeEngine[Any]) -> type | None:
    """Return what the host's keys are compared as; None for a type of which this is not known."""
    if isinstance(key_type, Integer):
        return int
    if isinstance(key_type, Uuid):
        return uuid.UUID if key_type.native_uuid else None
    if isinstance(key_type, String) and not isinstance(key_type, CHAR | Enum):
        return str
    return None


def id_as_key(
    id: ColumnElement[str], is_ours: ColumnElement[bool], key_type: TypeEngine[Any]
) -> ColumnElement[Any]:
    """Return the SQL of a stored id in the type of the host's keys.

    It is NULL for an id that is not written as such a key is, and for rows of other collections.

    Args:
        id: The column of stored ids.
        is_ours: The condition that a row is of the collection.
        key_type: The type of the column of the host's keys, which `kind_of` knows.
    """
    kind = kind_of(key_type)
    if kind is int:
        number = cast(id, BigInteger)
        fits = cast(id, Numeric).between(LEAST, LARGEST)
        return case(
            (is_ours & id.regexp_match(UP_TO_18_DIGITS), number),
            # In two steps: the parts of an AND are evaluated in any order.
            (is_ours & id.regexp_match(WITH_19_DIGITS), case((fits, number))),
        )
    if kind is uuid.UUID:
        return case((is_ours & id.regexp_match(HEX), cast(id, Uuid())))
    # The collation of the host's index, which the database chose unless the type names one.
    collation = getattr(key_type, "collation", None) or "default"
    return type_coerce(case((is_ours, collate(id, collation))), Text)

"""What a search is asked for, as SQL conditions, and what it gives back."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypedDict

from sqlalchemy import ColumnElement, GenerativeSelect, Subquery
from sqlalchemy.sql.expression import SelectBase

from ..errors import InvalidQueryError
from ..internals import has_limit
from ..values import check_text, plain
from .conditions import (
    Among,
    CheckedWhere,
    Where,
    check_prefix,
    checked_among,
    checked_where,
    items_starting_with,
    where_condition,
)

if TYPE_CHECKING:
    from ..keys import Keys
    from ..vectors import Float64
    from ..work.operation import Work
    from ..work.reference import Reference


MAX_LIMIT = 2**62 - 1  # rows; Citus adds LIMIT and OFFSET, whose sum is to stay below 2**63


class Filters(TypedDict, total=False):
    """What every search takes besides. All of it holds before the best are taken."""

    offset: int
    """How many of the best to leave out before these; 0 by default."""
    min_score: float | None
    """Leave out what scores less."""
    where: Where | None
    """A dict of metadata, with operators, a SQL expression over `EmbeddingRecord`, or a list."""
    among: Among | None
    """Only these: a SELECT of your keys, as such or as a subquery, a CTE or VALUES; or keys."""
    words: bool | str | SelectBase | None
    """Search by words as well: True for those of the value, or others, or a SELECT of your keys
    in the order of your own full-text search."""
    weights: tuple[float, float]
    """How much the meaning and the words weigh where both are searched by; (1, 1) by default."""
    exact: bool | None
    """True: use no index. Else one is used if it is there and pays; with False, `matches*` use it
    also where it may not pay."""


@dataclass(frozen=True, slots=True)
class Words:
    """What is searched for by words, besides the meaning.

    Attributes:
        text: Whose words; None for those of the value.
        ranking: Or a SELECT of the host's keys, best first.
        weights: Of the two rankings, by meaning and by words.
    """

    text: str | None
    ranking: Subquery | None
    weights: tuple[float, float]


@dataclass(frozen=True)
class Query:
    """The checked arguments of a search, without the vector.

    All conditions hold before the best are taken, so that a result is never short. They become SQL
    when the database is known: `filters` and `conditions`.
    """

    number: int
    offset: int
    min_score: float | None
    exact: bool | None
    prefix: str | None
    """None if any id will do."""
    skip_id: str | None
    where: CheckedWhere | None
    among: Subquery | tuple[str, ...] | None
    """A SELECT of the host's keys, or stored ids."""
    keys: Keys[Any]
    words: Words | None = None
    also: tuple[Float64, ...] = ()
    """Further vectors: the score of an item is that to the nearest of all."""

    def about(self, value: object) -> Query:
        """Return the query with the words of the value that is searched for, if they are meant.

        Raises:
            InvalidQueryError: The value has none.
        """
        if self.words is None or self.words.text is not None or self.words.ranking is not None:
            return self
        if not isinstance(value, str):
            raise InvalidQueryError(
                "words=True searches for the words of the value, and bytes have none: pass "
                "words= a text"
            )
        return replace(self, words=replace(self.words, text=value))

    @property
    def needs_text_index(self) -> bool:
        """Whether it cannot be answered without a text index."""
        return self.words is not None and self.words.ranking is None and self.words.weights[1] > 0

    @property
    def depth(self) -> int:
        """How many of the best have to be known."""
        return self.number + self.offset

    @property
    def has_filters(self) -> bool:
        """Whether there is something that only the database can tell: `where` or `among`."""
        return self.where is not None or self.among is not None

    @property
    def has_conditions(self) -> bool:
        """Whether not every row of the collection is meant."""
        return self.has_filters or self.prefix is not None or self.skip_id is not None

    def as_seen(self, work: Work) -> Query:
        """Return the query with what the listeners of the host's session require of every row."""
        if not work.has_listeners:
            return self
        return replace(self, where=(work.visible(), *(self.where or ())))

    def filters(self, work: Work) -> list[ColumnElement[bool]]:
        """Return `where` and `among` as SQL."""
        filters = [] if self.where is None else [where_condition(work, self.where)]
        if isinstance(self.among, tuple):
            filters.append(work.database.is_one_of(work.item_id, self.among))
        elif self.among is not None:
            filters.append(work.database.is_among(work.item_id, self.among.c[0]))
        return filters

    def conditions(self, work: Work) -> list[ColumnElement[bool]]:
        """Return all of it as SQL: filters, prefix and the id to leave out."""
        conditions = self.filters(work)
        if self.prefix is not None:
            conditions += items_starting_with(work, self.prefix)
        if self.skip_id is not None:
            conditions.append(work.item_id != self.skip_id)
        return conditions


RIGHT_WORDS = {
    "limit": "number", "k": "number", "n": "number", "top_k": "number", "topk": "number",
    "n_results": "number", "count": "number", "size": "number", "max_results": "number",
    "skip": "offset", "start": "offset", "threshold": "min_score", "score": "min_score",
    "score_threshold": "min_score", "min_similarity": "min_score", "filter": "where",
    "filters": "where", "metadata": "where", "ids": "among", "keys": "among",
    "approximate": "exact", "text": "words", "keywords": "words", "hybrid": "words",
    "query_text": "words", "weight": "weights", "alpha": "weights",
}  # fmt: skip
"""What others call the arguments of a search, and what they are called here."""


def check_filters(method: str, filters: Mapping[str, Any], *, of_rows: bool = False) -> None:
    """Do nothing if every keyword that a search was given is one that it has.

    Args:
        method: The name of the method that was called.
        filters: What it was given besides its own arguments.
        of_rows: Whether it takes a SELECT of the host's rows, in place of `prefix` and `among`.

    Raises:
        TypeError: There is another one.
    """
    for name in filters:
        if name not in Filters.__annotations__:
            words = ["number", "prefix", *Filters.__annotations__]
            right = RIGHT_WORDS.get(name.lower())
            if of_rows:
                words = ["number", "rows", "pending", *Filters.__annotations__]
                words.remove("among")
                right = "rows" if right == "among" else right
            close = get_close_matches(name, words, 1)
            right = right or (close[0] if close else None)
            hint = f"use {right}=" if right else f"it takes {', '.join(words)}"
            raise TypeError(f"{method}() got an unexpected keyword argument {name!r}: {hint}")


def check_query(
    collection: Reference[Any],
    *,
    number: int = 10,
    offset: int = 0,
    min_score: float | None = None,
    prefix: str | None = None,
    where: Where | None = None,
    among: Among | None = None,
    exact: bool | None = None,
    words: bool | str | SelectBase | None = None,
    weights: tuple[float, float] | None = None,
    skip_id: str | None = None,
    has_value: bool = True,
) -> Query:
    """Return the query for a collection's arguments.

    Args:
        collection: Whose items are searched.
        number: The most results; zero or more.
        offset: How many of the best to leave out before these.
        min_score: Leave out what scores less.
        prefix: Only ids that begin with it, literally and in the same case.
        where: Metadata that rows must have, a SQL expression over the records, or a list of these.
        among: Only these ids: a SELECT of the host's keys, or keys.
        exact: Whether to use no index.
        words: True for the words of the value, others, or a SELECT of keys, best first.
        weights: Of the ranking by meaning and of that by words.
        skip_id: Not this stored id.
        has_value: Whether a value is searched for, whose words there are.

    Raises:
        InvalidQueryError: An argument means nothing.
    """
    number, offset = _whole("number", number), _whole("offset", offset)
    min_score = plain(min_score)  # type: ignore[assignment]
    if min_score is not None and not (
        isinstance(min_score, int | float)
        and not isinstance(min_score, bool)
        and abs(min_score) <= sys.float_info.max
    ):
        raise InvalidQueryError(f"min_score must be a finite number, not {min_score!r}")
    if min_score is not None and min_score > 1:
        raise InvalidQueryError(f"min_score is a cosine similarity, at most 1, not {min_score!r}")
    if exact is not None and not isinstance(exact, bool):
        raise InvalidQueryError(f"exact must be True, False or None, not {exact!r}")
    if prefix is not None:
        check_prefix(prefix)
    return Query(
        number,
        offset,
        min_score,
        exact,
        prefix or None,
        skip_id,
        None if where is None else checked_where(collection.records, where),
        None if among is None else checked_among(collection, among),
        collection.keys,
        _checked_words(collection, words, weights, has_value=has_value),
    )


def _checked_words(
    collection: Reference[Any], words: object, weights: object, *, has_value: bool
) -> Words | None:
    if words is None or words is False:
        if weights is not None:
            raise InvalidQueryError("weights= is about words=, which is not given")
        return None
    pair = _checked_weights((1, 1) if weights is None else weights)
    if words is True:
        if not has_value:
            raise InvalidQueryError(
                "words=True is about the words of a value, and none is searched for here: pass "
                "words= a text"
            )
        return Words(None, None, pair)
    if isinstance(words, SelectBase):
        if isinstance(words, GenerativeSelect) and not has_limit(words):
            words = words.limit(MAX_LIMIT)  # a database may leave out an order without one
        ranking = checked_among(collection, words, "words")
        assert isinstance(ranking, Subquery)  # noqa: S101  of a SELECT
        return Words(None, ranking, pair)
    if not isinstance(words, str):
        raise InvalidQueryError(
            "words must be True, a text or a SELECT of keys, best first, not "
            + type(words).__name__
        )
    if not words.strip():
        raise InvalidQueryError("words is empty: there is nothing to look for")
    check_text(words, "words", error=InvalidQueryError)
    return Words(words, None, pair)


def _checked_weights(weights: object) -> tuple[float, float]:
    if isinstance(weights, tuple | list) and len(weights) == 2:
        pair = [plain(weight) for weight in weights]
        if (
            all(isinstance(n, int | float) and not isinstance(n, bool) for n in pair)
            and all(math.isfinite(n) and n >= 0 for n in pair)  # type: ignore[arg-type,operator]
            and any(pair)
        ):
            return float(pair[0]), float(pair[1])  # type: ignore[arg-type]
    raise InvalidQueryError(
        "weights must be two numbers, that of the meaning and that of the words, zero or more and "
        f"not both zero, not {weights!r}"
    )


def _whole(name: str, given: object) -> int:
    value = plain(given)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidQueryError(f"{name} must be a whole number, zero or more, not {value!r}")
    return value


def several(values: Iterable[Any], what: str) -> list[Any]:
    """Return the values as a list, refusing a single one.

    Raises:
        InvalidQueryError: It is one value, or none that can be gone through.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidQueryError(f"{what} must be an iterable, not {type(values).__name__}")
    return list(values)

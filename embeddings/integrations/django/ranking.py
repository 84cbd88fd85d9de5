"""What a search found, as expressions in Django's own queries: which rows, scores and ranks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from django.core.exceptions import FieldDoesNotExist
from django.db.models import Expression, F, FloatField, IntegerField, Lookup, Model, Value

from ...errors import InvalidQueryError
from .database import is_one_of, value_under

if TYPE_CHECKING:
    from collections.abc import Iterable

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Field, QuerySet
    from django.db.models.sql.compiler import SQLCompiler

    from ...searching.entries import Entry

    Found: TypeAlias = tuple[tuple[Any, float], ...]
    """Keys, each with its score or its rank, best first."""

M = TypeVar("M", bound=Model)


def _keys(found: Found, field: Field[Any, Any], connection: BaseDatabaseWrapper) -> list[Any]:
    """Return the keys of what was found as the database is given them."""
    return [field.get_db_prep_value(key, connection) for key, _ in found]


class IsFound(Lookup):
    """Whether the row was found whose key is the expression.

    It is a lookup, for of other conditions Django 6.1 makes "... = True", which no index serves.

    Args:
        key: The primary key of the row.
        field: The model's field of the key, which says how the database has it.
        found: Keys, each with its number. They travel as one parameter, however many they are.
    """

    lookup_name = "is_found"
    prepare_rhs = False

    def __init__(self, key: Any, field: Field[Any, Any], found: Found) -> None:
        super().__init__(key, found)
        self.key_field = field

    def as_sql(
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper
    ) -> tuple[str, tuple[Any, ...]]:
        """Return the condition, which the index of the primary key serves."""
        sql, parameters = compiler.compile(self.lhs)
        keys = _keys(self.rhs, self.key_field, connection)
        kind = self.key_field.rel_db_type(connection)
        condition, value = is_one_of(connection, sql, kind, keys)
        return condition, (*parameters, value)


class IsFoundOfAll(IsFound):
    """The same, and Django evaluates it when window functions have seen all rows."""

    contains_over_clause = True


class Score(Expression):
    """The score of the row whose key is the expression; NULL if it was not found.

    Args:
        key: The primary key of the row.
        field: The model's field of the key, which says how the database has it.
        found: Keys, each with its number. They travel as one parameter, however many they are.
    """

    output_field: Field[Any, Any] = FloatField()
    kind = "double precision"

    def __init__(self, key: Any, field: Field[Any, Any], found: Found) -> None:
        super().__init__()
        self.key = self._parse_expressions(key)[0]
        self.key_field, self.found = field, found

    def get_source_expressions(self) -> list[Any]:
        """Return the key."""
        return [self.key]

    def set_source_expressions(self, expressions: list[Any]) -> None:
        """Take the key as the query has it."""
        (self.key,) = expressions

    def get_group_by_cols(self) -> list[Any]:
        """Return the key: where rows are grouped it decides everything here."""
        columns: list[Any] = self.key.get_group_by_cols()
        return columns

    def as_sql(
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper
    ) -> tuple[str, tuple[Any, ...]]:
        """Return the value under the key in an object of JSON."""
        sql, parameters = compiler.compile(self.key)
        numbers = (number for _, number in self.found)
        keys = map(str, _keys(self.found, self.key_field, connection))
        text = json.dumps(dict(zip(keys, numbers, strict=True)))
        return value_under(connection, sql, self.kind), (text, *parameters)


class Rank(Score):
    """The rank of the row, from 1, where the order is not that of the scores; NULL likewise."""

    output_field = IntegerField()
    kind = "integer"


def has_windows(queryset: QuerySet[Any]) -> bool:
    """Return whether window functions see the rows of a queryset."""
    query = queryset.query
    annotations = query.annotations.values()
    return query.where.contains_over_clause or any(
        annotation.contains_over_clause for annotation in annotations
    )


def check_annotation(queryset: QuerySet[Any], argument: str, name: object, example: str) -> str:
    """Return the name for an annotation.

    Args:
        queryset: Which gets it.
        argument: That the name was given as.
        name: The name.
        example: Of another one.

    Raises:
        InvalidQueryError: It is no name, or the queryset has something else under it.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise InvalidQueryError(f"{argument} must be the name of an annotation, not {name!r}")
    query, model = queryset.query, queryset.model
    taken = name in query.annotations or name in query.extra
    if not taken:
        try:
            model._meta.get_field(name)
            taken = True
        except FieldDoesNotExist:
            taken = hasattr(model, name)
    if taken:
        raise InvalidQueryError(
            f"The queryset of {model._meta.label} has something called {name!r} already: give the "
            f'{argument} another name, as in {argument}="{example}"'
        )
    return name


def unscored(queryset: QuerySet[M], score: str) -> QuerySet[M]:
    """Return a queryset without a score that can be ordered by it; as it is if it has its own."""
    try:
        check_annotation(queryset, "score", score, "relevance")
    except InvalidQueryError:
        return queryset
    return queryset.alias(**{score: Value(None, FloatField())})


def only(
    queryset: QuerySet[M], field: Field[Any, Any], entries: Iterable[Entry[Any]]
) -> QuerySet[M]:
    """Return what was found, of a queryset. What it has computed over its rows stays.

    Args:
        queryset: Of instances.
        field: Of the keys.
        entries: What the search found.
    """
    found = tuple((entry.id, entry.score) for entry in entries)
    condition = IsFoundOfAll if has_windows(queryset) else IsFound
    return queryset.filter(condition(F("pk"), field, found))


def keys_among(
    queryset: QuerySet[M], field: Field[Any, Any], entries: list[Entry[Any]]
) -> set[Any]:
    """Return the keys of what was found that are in a queryset. Arguments as in `only`."""
    if not entries:
        return set()
    keys = only(queryset.order_by(), field, entries).values_list("pk", flat=True)
    keys.query.select_for_update = False
    return {*map(field.get_prep_value, keys)}  # as the database has them, and so the entries


def ranked(
    queryset: QuerySet[M],
    field: Field[Any, Any],
    entries: Iterable[Entry[Any]],
    score: str,
    rank: str | None = None,
    offset: int = 0,
) -> QuerySet[M]:
    """Return what was found, of a queryset: annotated with the score, and ordered by it.

    Args:
        queryset: Of instances; its own order goes.
        field: Of the keys.
        entries: What the search found.
        score: The name of that annotation.
        rank: That of another one, by which the rows are ordered then; None for none.
        offset: How many ranks were left out before these.
    """
    entries = list(entries)
    found = tuple((entry.id, entry.score) for entry in entries)
    annotated = queryset.annotate(**{score: Score(F("pk"), field, found)})
    if rank is not None:
        ranks = tuple((entry.id, at) for at, entry in enumerate(entries, offset + 1))
        annotated = annotated.annotate(**{rank: Rank(F("pk"), field, ranks)})
    if annotated.query.distinct_fields:  # the search has kept one of each
        annotated = annotated.distinct()
        annotated.query.distinct_fields = ()
    annotated = only(annotated, field, entries) if entries else annotated.none()
    ordered = annotated.order_by(*((f"-{score}", "pk") if rank is None else (rank,)))
    ordered.query.standard_ordering = True  # of a queryset that was reversed
    return ordered

"""Cosine distances and vectors as SQL of pgvector's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Float,
    bindparam,
    case,
    func,
    literal_column,
    select,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import array

from .types import PGVector, to_pgvector_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...vectors import Float64

MOST_TERMS = 50
"""Vectors each of which has a term of its own in a statement; SQLAlchemy takes long for many."""


class _Sent(PGVector):
    """A float32 array as a parameter: in text, because the host executes the statement."""

    cache_ok = True

    def bind_processor(self, dialect: Any) -> Any:
        """Return what makes the array a text."""
        return to_pgvector_text


def as_sent(vector: Float64) -> ColumnElement[Any]:
    """Return a vector as a parameter of a statement that the host executes."""
    return bindparam(None, vector.astype("f4"), _Sent())


def cosine_distance(
    vector: ColumnElement[Any], sought: ColumnElement[Any], dimensions: int
) -> ColumnElement[float]:
    """Return the SQL of 1 - cosine; 1 for a zero vector, NULL for one of other dimensions."""
    # pgvector sums squares in single precision, which lose their meaning far from 1.
    squared = -vector.op("<#>", return_type=Float)(vector)
    apart = case(
        (
            squared.between(literal_column("1e-30"), literal_column("1e30")),
            vector.op("<=>")(sought),
        ),
        else_=func.l2_normalize(vector).op("<=>")(sought),
    )
    return case(
        # It raises on vectors of different dimensions.
        (
            func.vector_dims(vector) == literal_column(str(dimensions)),
            func.coalesce(func.nullif(apart, literal_column("'NaN'::float8")), literal_column("1")),
        )
    )


def least_distance(
    vector: ColumnElement[Any], sought: Sequence[ColumnElement[Any]], dimensions: int
) -> ColumnElement[float]:
    """Return the SQL of the distance to the nearest of some vectors, as `cosine_distance`."""
    if len(sought) > MOST_TERMS:
        each = func.unnest(array(sought)).table_valued("sought", name="of_all").render_derived()
        apart = cosine_distance(vector, each.c.sought, dimensions)
        return select(func.min(apart, type_=Float)).correlate_except(each).scalar_subquery()
    distances = [cosine_distance(vector, each, dimensions) for each in sought]
    return func.least(*distances) if len(distances) > 1 else distances[0]


def cosine_similarity(
    vector: ColumnElement[Any], other: ColumnElement[Any]
) -> ColumnElement[float]:
    """Return the SQL of the cosine similarity of two vectors; NULL if their lengths differ."""
    vector = type_coerce(vector, PGVector)
    apart: ColumnElement[float] = vector.op("<=>", return_type=Float())(other)
    # It raises on vectors of different lengths, and is NaN for one of zeros.
    similarity = literal_column("1.0", Float) - func.nullif(apart, literal_column("'NaN'::float8"))
    have_one_length = func.vector_dims(vector) == func.vector_dims(other)
    return case((have_one_length, func.coalesce(similarity, literal_column("0.0", Float))))

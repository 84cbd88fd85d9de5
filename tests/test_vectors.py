"""Vectors: the byte format, what is refused, cosine similarity, screening and the best k."""

from __future__ import annotations

import array
import contextlib
import math
import struct
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embeddings import InvalidVectorError, cosine_similarity, decode, encode
from embeddings.vectors import (
    Float32,
    Float64,
    TopK,
    are_contenders,
    as_query,
    as_vector,
    as_vectors,
    cosine_scores,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

pytestmark = pytest.mark.once

timeless = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A machine with other work to do fails no test."""

FLOAT32_MAX = float(np.finfo(np.float32).max)
DENORMAL = float(np.finfo(np.float32).smallest_subnormal)
EXTREMES = (0.0, -0.0, DENORMAL, -DENORMAL, 1e-38, 1e-23, 1e-10, 1.0, 1e15, 3e38, -FLOAT32_MAX)

float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)
float64s = st.floats(allow_nan=False, allow_infinity=False)
mixed32s = float32s | st.sampled_from(EXTREMES).map(lambda value: float(np.float32(value)))
vectors32 = st.lists(mixed32s, min_size=1, max_size=40)


@st.composite
def pairs(draw: st.DrawFn, values: st.SearchStrategy[float]) -> tuple[list[float], list[float]]:
    """Two vectors of one length."""
    size = draw(st.integers(1, 24))
    fixed = st.lists(values, min_size=size, max_size=size)
    return draw(fixed), draw(fixed)


@st.composite
def searches(draw: st.DrawFn) -> tuple[Float32, Float64]:
    """A matrix of finite float32 of any magnitude, and a query for it."""
    size = draw(st.integers(1, 12))
    row = st.lists(mixed32s, min_size=size, max_size=size)
    matrix = np.array(draw(st.lists(row, min_size=1, max_size=12)), np.float32)
    query = draw(row | st.sampled_from(matrix.tolist()))
    return matrix, as_query(query)


def exact_cosine(a: Iterable[float], b: Iterable[float]) -> float:
    """Return the cosine by rational arithmetic, rounded once."""
    left, right = [Fraction(x) for x in a], [Fraction(x) for x in b]
    squares = sum(x * x for x in left) * sum(x * x for x in right)
    if not squares:
        return 0.0
    dot = sum((x * y for x, y in zip(left, right, strict=True)), Fraction(0))
    return math.sqrt(dot * dot / squares) * (-1 if dot < 0 else 1)


class TestByteFormat:
    """Vectors are little-endian float32, four bytes a value."""

    @timeless
    @given(st.lists(float32s, min_size=1))
    def test_encode_is_the_documented_struct_format(self, values):
        """The bytes are those of struct.pack."""
        assert encode(values) == struct.pack("<" + "f" * len(values), *values)

    @timeless
    @given(st.lists(float32s, min_size=1))
    def test_decode_gives_back_what_was_encoded(self, values):
        """A float32 comes back as the same Python float, in a tuple, down to the sign of zero."""
        decoded = decode(encode(values))
        assert type(decoded) is tuple
        assert {*map(type, decoded)} == {float}
        assert [*map(repr, decoded)] == [*map(repr, values)]

    @timeless
    @given(st.binary(min_size=4, max_size=80).map(lambda data: data[: len(data) // 4 * 4]))
    def test_decode_reads_any_bits(self, data):
        """Whatever the bits are, decode agrees with struct, NaN and infinity included."""
        expected = struct.unpack(f"<{len(data) // 4}f", data)
        assert [*map(repr, decode(data))] == [*map(repr, expected)]

    @timeless
    @given(st.lists(float64s, min_size=1))
    def test_doubles_are_rounded_or_refused_as_struct_does(self, values):
        """A double is rounded to the nearest float32, and one beyond the range is refused."""
        try:
            expected = struct.pack(f"<{len(values)}f", *values)
        except OverflowError:
            with pytest.raises(InvalidVectorError, match="is not a finite float32"):
                encode(values)
        else:
            assert encode(values) == expected

    @pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0", b"\0" * 5, b"\0" * 4099])
    def test_bytes_of_another_length_are_refused(self, data):
        """A length that is not a positive multiple of four is named in the error."""
        with pytest.raises(InvalidVectorError, match=f"corrupt: {len(data)} bytes"):
            decode(data)

    @pytest.mark.parametrize("data", [None, "abcd", 4, 1.5, [0, 0, 0, 0]])
    def test_what_is_not_bytes_is_refused(self, data):
        """Anything but bytes is refused by its type."""
        with pytest.raises(InvalidVectorError, match=type(data).__name__):
            decode(data)


class TestAsVector:
    """as_vector takes anything of finite numbers and gives float32 of one dimension."""

    @pytest.mark.parametrize(
        "values",
        [
            [1, 2.0, 3],
            (1.0, 2.0, 3.0),
            range(1, 4),
            array.array("f", [1, 2, 3]),
            array.array("l", [1, 2, 3]),
            [np.float32(1), np.float64(2), np.int8(3)],
            [Decimal(1), Fraction(2), 3],
            np.array([1, 2, 3]),
            np.array([1, 2, 3], np.uint16),
            np.array([1, 2, 3], np.float16),
            np.array([1, 2, 3], np.float32),
            np.array([1, 2, 3], np.float64),
            np.array([1, 2, 3], np.longdouble),
            np.array([1, 2, 3], ">f4"),
            np.array([1, 2, 3], ">f8"),
            np.array([3, 9, 2, 9, 1], np.float32)[::-2],
            np.array([[1, 9], [2, 9], [3, 9]], np.float32)[:, 0],
        ],
        ids=lambda values: f"{type(values).__name__}-{getattr(values, 'dtype', '')}",
    )
    def test_every_form_of_numbers_is_taken(self, values):
        """Lists, iterables and arrays of every numeric type and layout hold the same vector."""
        vector = as_vector(values)
        assert vector.dtype == np.float32
        assert vector.tolist() == [1.0, 2.0, 3.0]
        assert decode(encode(values)) == (1.0, 2.0, 3.0)

    def test_a_generator_is_taken(self):
        """A one-shot iterable is read once."""
        assert as_vector(x / 2 for x in range(3)).tolist() == [0.0, 0.5, 1.0]

    def test_a_read_only_array_is_taken(self):
        """The argument need not be writable."""
        values = np.frombuffer(struct.pack("<2f", 1, 2), np.float32)
        assert as_vector(values).tolist() == [1.0, 2.0]

    def test_the_largest_and_the_smallest_float32_are_kept(self):
        """The whole range of float32 is allowed."""
        values = [FLOAT32_MAX, -FLOAT32_MAX, DENORMAL, -DENORMAL]
        assert as_vector(values).tolist() == values
        assert as_vectors([np.array(values, np.float32)])[0].tolist() == values


REFUSED: dict[str, Any] = {
    "empty list": [],
    "empty array": np.array([], np.float32),
    "empty generator": (),
    "number": 5,
    "zero-dimensional": np.array(5.0),
    "None": None,
    "str": "123",
    "bytes": b"1234",
    "bytearray": bytearray(b"1234"),
    "list of str": ["1", "2"],
    "list of bytes": [b"1"],
    "None inside": [1.0, None],
    "complex": [1j],
    "object": object(),
    "nested list": [[1.0, 2.0], [3.0, 4.0]],
    "list of arrays": [np.array([1.0, 2.0]), np.array([3.0, 4.0])],
    "2-D array": np.ones((2, 3), np.float32),
    "one row as 2-D": np.ones((1, 3)),
    "object array": np.array([1.0, 2.0], object),
    "array of str": np.array(["1", "2"]),
    "array of bytes": np.array([b"1"]),
    "complex array": np.array([1j]),
    "array of dates": np.array(["2020-01-01"], "M8[D]"),
    "array of bool": np.array([True, False]),
    "structured array": np.zeros(2, [("x", "f4")]),
    "NaN": [1.0, math.nan],
    "infinity": [math.inf],
    "-infinity": [-math.inf],
    "NaN array": np.array([1, np.nan], np.float32),
    "infinity array": np.array([-np.inf, 1], np.float64),
    "signalling NaN": [Decimal("sNaN")],
    "masked": np.ma.array([1.0, 2.0], mask=[False, True]),
    "masked NaN": np.ma.array(np.array([1.0, np.nan], np.float32), mask=[False, True]),
    "huge int": [10**400],
}
TOO_LARGE_FOR_FLOAT32: dict[str, Any] = {
    "double": [1e39],
    "negative double": [0.0, -3.5e38],
    "array of double": np.array([1e300]),
    "int": [10**39],
}


class TestRefusals:
    """What is not a finite vector is refused with the one error, before it is used."""

    @pytest.mark.parametrize(
        "function",
        [
            as_vector,
            as_query,
            encode,
            lambda values: as_vectors([[1.0, 2.0], values]),
            lambda values: as_vectors([np.ones(2, np.float32), values]),
            lambda values: cosine_similarity(values, [1.0, 2.0]),
            lambda values: cosine_similarity([1.0, 2.0], values),
        ],
        ids=["as_vector", "as_query", "encode", "lists", "arrays", "first", "second"],
    )
    def test_what_is_no_finite_vector_is_refused(self, function):
        """Every function refuses it with InvalidVectorError."""
        refused = set()
        for name, values in REFUSED.items():
            with contextlib.suppress(InvalidVectorError):
                function(values)
                continue
            refused.add(name)
        assert refused == {*REFUSED}

    @pytest.mark.parametrize("values", TOO_LARGE_FOR_FLOAT32.values(), ids=TOO_LARGE_FOR_FLOAT32)
    def test_what_float32_cannot_hold_is_refused_for_storing_and_allowed_in_a_query(self, values):
        """A value that would overflow to infinity is refused where it would be stored."""
        for function in (as_vector, encode, lambda values: as_vectors([values])):
            with pytest.raises(InvalidVectorError, match="is not a finite float32"):
                function(values)
        assert np.isfinite(as_query(values)).all()

    def test_what_float64_cannot_hold_is_refused_in_a_query(self):
        """A long double beyond the range of float64 is refused like infinity."""
        with pytest.raises(InvalidVectorError, match="NaN or infinity"):
            as_query(np.array(["1e400", "1"], np.longdouble))

    def test_the_error_names_the_value_and_its_position(self):
        """The first value that is not finite is shown, with where it stands."""
        with pytest.raises(InvalidVectorError, match="value nan at position 2 "):
            as_vector([1.0, 2.0, math.nan, math.inf])

    def test_the_error_carries_the_label(self):
        """The label tells which vector it is about."""
        with pytest.raises(InvalidVectorError, match=r"^vector of 'a': is empty"):
            as_vector([], label="vector of 'a'")

    @pytest.mark.parametrize("kind", [list, np.array])
    def test_the_error_of_many_tells_which_one(self, kind):
        """as_vectors numbers them."""
        with pytest.raises(InvalidVectorError, match="vector 1 of model 'm'"):
            as_vectors([kind([1.0]), kind([math.nan])], label="of model 'm'")


class TestAsVectors:
    """as_vectors does for each what as_vector does."""

    def test_none_are_none(self):
        """No vectors give no vectors."""
        assert as_vectors([]) == []

    @pytest.mark.parametrize(
        "values",
        [
            [np.array([1, 2], np.float32), np.array([3], np.float32)],
            [[1, 2], np.array([3], np.float32)],
            [np.array([1, 2]), (3.0,)],
        ],
    )
    def test_each_is_converted(self, values):
        """Lists and arrays, of different lengths too, come back as float32 in order."""
        vectors = as_vectors(values)
        assert [vector.dtype for vector in vectors] == [np.float32, np.float32]
        assert [vector.tolist() for vector in vectors] == [[1.0, 2.0], [3.0]]

    def test_a_matrix_is_taken_by_its_rows(self):
        """The rows of a two-dimensional array are the vectors."""
        matrix: Any = np.array([[1, 2], [3, 4]], np.float32)
        assert [row.tolist() for row in as_vectors(matrix)] == [[1.0, 2.0], [3.0, 4.0]]

    @timeless
    @given(st.lists(vectors32, max_size=5))
    def test_finite_vectors_of_any_magnitude_stay_as_they_are(self, values):
        """Values whose squares overflow float32 are taken, without a warning."""
        arrays = [np.array(row, np.float32) for row in values]
        assert [vector.tolist() for vector in as_vectors(arrays)] == values


class TestAsQuery:
    """as_query gives a float64 vector of length 1."""

    @timeless
    @given(st.lists(float64s, min_size=1, max_size=40))
    def test_it_has_length_one_or_is_zero(self, values):
        """Whatever the magnitude, the length is 1; zeros stay zeros."""
        query = as_query(values)
        assert query.dtype == np.float64
        assert query.shape == (len(values),)
        assert np.linalg.norm(query) == pytest.approx(1.0 if any(values) else 0.0, abs=1e-12)

    @pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
    def test_it_leaves_its_argument_alone(self, dtype):
        """The caller's array is not scaled in place."""
        values = np.array([3, 4], dtype)
        as_query(values)
        assert values.tolist() == [3, 4]

    def test_it_takes_a_read_only_array(self):
        """A vector as it comes out of a row is read-only."""
        values = np.array([3.0, 4.0])
        values.flags.writeable = False
        assert as_query(values) == pytest.approx([0.6, 0.8])


class TestCosine:
    """cosine_similarity and cosine_scores against rational arithmetic."""

    @timeless
    @given(pairs(mixed32s))
    def test_similarity_of_float32_is_exact(self, pair):
        """All finite float32 values, denormal and 3e38 alike, give the cosine."""
        assert cosine_similarity(*pair) == pytest.approx(exact_cosine(*pair), abs=1e-12)

    @timeless
    @given(pairs(float64s))
    def test_similarity_of_float64_is_exact(self, pair):
        """So do all finite float64 values."""
        assert cosine_similarity(*pair) == pytest.approx(exact_cosine(*pair), abs=1e-12)

    @timeless
    @given(searches())
    def test_scores_are_exact(self, search):
        """Every row of a matrix scores its cosine, as float64, between -1 and 1."""
        matrix, query = search
        scores = cosine_scores(matrix, query)
        assert scores.dtype == np.float64
        assert scores.shape == (len(matrix),)
        assert np.abs(scores).max() <= 1.0
        expected = [exact_cosine(row, query.tolist()) for row in matrix.tolist()]
        assert scores.tolist() == pytest.approx(expected, abs=1e-12)

    def test_long_vectors_agree_with_a_careful_sum(self):
        """At 1,536 dimensions the score agrees with math.fsum."""
        rng = np.random.default_rng(1)
        matrix = rng.standard_normal((20, 1536)).astype(np.float32)
        query = rng.standard_normal(1536)
        length = math.sqrt(math.fsum(x * x for x in query.tolist()))
        for row, score in zip(matrix.tolist(), cosine_scores(matrix, as_query(query)), strict=True):
            dot = math.fsum(x * y for x, y in zip(row, query.tolist(), strict=True))
            norm = math.sqrt(math.fsum(x * x for x in row))
            assert score == pytest.approx(dot / norm / length, abs=1e-13)

    @timeless
    @given(vectors32)
    def test_a_vector_is_equal_to_itself_and_opposite_to_its_negative(self, values):
        """The scores are 1 and -1, never beyond, and 0.0 for zeros."""
        expected = 1.0 if any(values) else 0.0
        assert cosine_similarity(values, values) == pytest.approx(expected, abs=1e-12)
        opposite = [-value for value in values]
        assert cosine_similarity(values, opposite) == pytest.approx(-expected, abs=1e-12)

    @pytest.mark.parametrize(("a", "b"), [([0, 0], [1, 2]), ([1, 2], [0, -0.0]), ([0, 0], [0, 0])])
    def test_zeros_score_zero(self, a, b):
        """All zeros on either side score 0.0."""
        assert cosine_similarity(a, b) == 0.0
        assert cosine_scores(np.array([a], np.float32), as_query(b)).tolist() == [0.0]

    def test_rows_that_are_not_finite_score_nan_and_leave_the_others_alone(self):
        """NaN or infinity in one row does not reach another."""
        matrix = np.array(
            [[1, 0], [np.nan, 0], [0, np.inf], [-np.inf, np.inf], [0, 0], [0, 1]], np.float32
        )
        scores = cosine_scores(matrix, as_query([1, 0]))
        assert [*map(repr, scores.tolist())] == ["1.0", "nan", "nan", "nan", "0.0", "0.0"]

    def test_different_lengths_are_refused(self):
        """Vectors of different lengths have no angle; the message has both lengths."""
        with pytest.raises(InvalidVectorError, match="2 and 3 dimensions"):
            cosine_similarity([1, 2], [1, 2, 3])

    def test_no_rows_score_nothing(self):
        """A matrix without rows gives an array without scores."""
        assert cosine_scores(np.empty((0, 2), np.float32), as_query([1, 2])).tolist() == []


SIZES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 256, 384, 1536, 9000)
LAYOUTS = {
    "plain": lambda row, count: np.tile(row, (count, 1)),
    "float64": lambda row, count: np.tile(row.astype(np.float64), (count, 1)),
    "by column": lambda row, count: np.asfortranarray(np.tile(row, (count, 1))),
    "float64 by column": lambda row, count: np.asfortranarray(
        np.tile(row.astype(np.float64), (count, 1))
    ),
    "columns of a wider one": lambda row, count: np.tile(row, (count, 2))[:, : row.size],
    "every other row": lambda row, count: np.tile(row, (2 * count, 1))[::2],
    "backwards": lambda row, count: np.tile(row, (count, 1))[::-1],
    "one row seen many times": lambda row, count: np.broadcast_to(row, (count, row.size)),
}


class TestEqualRows:
    """Equal rows score equally, wherever they stand: otherwise ties would not break by id."""

    @pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
    def test_layout_and_number_of_rows_do_not_matter(self, layout):
        """The score of a row alone is the score of it among any number of its equals."""
        for size in SIZES:
            rng = np.random.default_rng(size)
            row = rng.standard_normal(size).astype(np.float32)
            query = as_query(rng.standard_normal(size))
            alone = cosine_scores(row[np.newaxis], query).tolist()
            for count in (1, 2, 3, 5, 8, 17, 100):
                assert cosine_scores(layout(row, count), query).tolist() == alone * count, size

    @timeless
    @given(searches(), st.data())
    def test_cutting_the_matrix_changes_nothing(self, search, data):
        """Any selection of rows in any order has the scores that the rows have in the whole."""
        matrix, query = search
        chosen = data.draw(st.lists(st.integers(0, len(matrix) - 1), min_size=1, max_size=20))
        whole = cosine_scores(matrix, query)
        assert cosine_scores(matrix[chosen], query).tolist() == whole[chosen].tolist()
        one_by_one = [cosine_scores(row[np.newaxis], query)[0] for row in matrix]
        assert one_by_one == whole.tolist()

    @pytest.mark.parametrize("shift", range(8))
    def test_where_the_memory_begins_does_not_matter(self, shift):
        """Rows read at an odd address score as others do."""
        rng = np.random.default_rng(shift)
        row = rng.standard_normal(33).astype(np.float32)
        query = as_query(rng.standard_normal(33))
        alone = cosine_scores(row[np.newaxis], query).tolist()
        for dtype in (np.float32, np.float64):
            data = bytes(shift) + np.tile(row, (5, 1)).astype(dtype).tobytes()
            matrix = np.frombuffer(data, dtype, offset=shift).reshape(5, 33)
            assert cosine_scores(matrix, query).tolist() == alone * 5


def contenders(matrix: Any, query: Any, floor: float) -> Any:
    """Return the positions of what may score the floor, for one query."""
    return np.flatnonzero(are_contenders(matrix, query[np.newaxis], np.array([floor]))[0])


class TestContenders:
    """are_contenders leaves out no row that reaches the floor."""

    @timeless
    @given(searches(), st.data())
    def test_no_row_that_reaches_the_floor_is_left_out(self, search, data):
        """At any magnitude, the floor being a row's own score included."""
        matrix, query = search
        scores = cosine_scores(matrix, query)
        floor = data.draw(
            st.sampled_from(scores.tolist())
            | st.floats(-1.5, 1.5)
            | st.sampled_from([-math.inf, math.inf, 1e300, -1, 0, 1])
        )
        kept = contenders(matrix, query, floor)
        assert {*np.flatnonzero(scores >= floor).tolist()} <= {*kept.tolist()}
        assert kept.tolist() == sorted({*kept.tolist()})

    @pytest.mark.parametrize("size", [1, 3, 64, 1536])
    def test_the_bound_holds_at_every_magnitude(self, size):
        """Rows of every magnitude whose score is the floor itself stay."""
        rng = np.random.default_rng(size)
        query = as_query(rng.standard_normal(size))
        matrix = rng.standard_normal((200, size)) / 4
        for exponent in (-44, -38, -30, -22, -15, -10, 0, 10, 14, 18, 25, 38):
            with np.errstate(over="ignore", under="ignore"):
                scaled = (matrix * 10.0**exponent).astype(np.float32)
            scaled = np.nan_to_num(scaled)
            scores = cosine_scores(scaled, query)
            for floor in np.sort(scores)[::20].tolist():
                kept = {*contenders(scaled, query, floor).tolist()}
                assert {*np.flatnonzero(scores >= floor).tolist()} <= kept, exponent

    @pytest.mark.parametrize("size", [2, 384, 3072])
    def test_rows_with_one_large_and_many_small_values_stay(self, size):
        """Values of very different magnitudes within a row do not break the bound."""
        rng = np.random.default_rng(size)
        magnitudes = 10.0 ** rng.integers(-12, 3, (300, size))
        matrix = (rng.standard_normal((300, size)) * magnitudes).astype(np.float32)
        query = as_query(matrix[0] + matrix[1])
        scores = cosine_scores(matrix, query)
        for floor in np.sort(scores)[::30].tolist():
            kept = {*contenders(matrix, query, floor).tolist()}
            assert {*np.flatnonzero(scores >= floor).tolist()} <= kept

    @pytest.mark.parametrize(
        "row", [[math.nan, 1], [1, math.nan], [math.inf, 1], [-math.inf, 0], [math.inf, -math.inf]]
    )
    def test_rows_that_are_not_finite_stay(self, row):
        """They are for the exact scores to find, whatever the floor is."""
        matrix = np.array([[1, -1], row, [-1, 1]], np.float32)
        for floor in (-math.inf, -1.0, 0.0, 0.99, 1.0, 2.0):
            assert 1 in contenders(matrix, as_query([1, 1]), floor), floor

    def test_rows_far_below_the_floor_are_left_out(self):
        """It is a look worth taking: what is far away does not come through."""
        matrix = np.array([[1, 0], [0, 1], [-1, 0], [0.99, 0.01]], np.float32)
        assert contenders(matrix, as_query([1, 0]), 0.9).tolist() == [0, 3]

    def test_the_floor_below_every_score_lets_all_through(self):
        """At -1 and below there is nothing to leave out."""
        matrix = np.array([[1, 0], [-1, 0]], np.float32)
        assert contenders(matrix, as_query([1, 0]), -1.0).tolist() == [0, 1]
        assert contenders(matrix, as_query([1, 0]), -math.inf).tolist() == [0, 1]

    def test_a_query_of_zeros_scores_every_row_zero(self):
        """No row is left out at a floor of 0."""
        matrix = np.array([[1, 0], [-1, 0], [0, 0]], np.float32)
        assert contenders(matrix, as_query([0, 0]), 0.0).tolist() == [0, 1, 2]


scores_of_ids = st.lists(
    st.tuples(
        st.text("ab\U0010ffffé", min_size=1, max_size=6),
        st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0]) | st.floats(-1, 1),
    ),
    max_size=200,
    unique_by=lambda pair: pair[0],
)


def best_of(
    pairs: Sequence[tuple[str, float]], k: int, min_score: float | None = None, chunk: int = 10
) -> list[tuple[str, float]]:
    """Return what TopK makes of the pairs, given in chunks."""
    best = TopK(k, min_score)
    for start in range(0, len(pairs), chunk):
        part = pairs[start : start + chunk]
        best.add([id for id, _ in part], np.array([score for _, score in part], np.float64))
    return [*best.result()]


def sorted_best(
    pairs: Sequence[tuple[str, float]], k: int, min_score: float = -math.inf
) -> list[tuple[str, float]]:
    """Return the best by sorting everything."""
    kept = [pair for pair in pairs if pair[1] >= min_score]
    return sorted(kept, key=lambda pair: (-pair[1], pair[0]))[:k]


class TestTopK:
    """TopK gives what sorting everything would."""

    @timeless
    @given(
        scores_of_ids,
        st.integers(0, 250),
        st.none() | st.sampled_from([-1.0, 0.0, 0.25]) | st.floats(-2, 2),
        st.integers(1, 60),
    )
    def test_it_is_as_if_everything_were_sorted(self, pairs, k, min_score, chunk):
        """Highest first, ties by id, whatever the number, the floor and the chunks."""
        floor = -math.inf if min_score is None else min_score
        assert best_of(pairs, k, min_score, chunk) == sorted_best(pairs, k, floor)

    @timeless
    @given(st.permutations(range(150)), st.integers(0, 20), st.integers(1, 150))
    def test_all_equal_scores_are_ordered_by_id(self, order, k, chunk):
        """The order in which ids come does not show."""
        pairs = [(f"{number:03}", 0.5) for number in order]
        expected = [(f"{number:03}", 0.5) for number in range(k)]
        assert best_of(pairs, k, chunk=chunk) == expected

    @pytest.mark.parametrize("order", ["rising", "falling", "shuffled"])
    def test_many_chunks(self, order):
        """Thousands of scores in chunks of any order, with many ties."""
        scores = np.random.default_rng(1).integers(-50, 50, 5_000) / 50
        if order != "shuffled":
            scores = np.sort(scores)[:: 1 if order == "rising" else -1]
        pairs = [(f"id{i * 7919 % 5_000}", float(score)) for i, score in enumerate(scores)]
        for k in (0, 1, 10, 99, 5_000, 6_000):
            assert best_of(pairs, k, chunk=97) == sorted_best(pairs, k)

    def test_nan_is_never_among_the_best(self):
        """A score of NaN is passed over, with and without a least score."""
        pairs = [("a", math.nan), ("b", -1.0), ("c", math.nan)]
        assert best_of(pairs, 10) == [("b", -1.0)]
        assert best_of(pairs, 10, -1.0) == [("b", -1.0)]

    def test_the_least_score_itself_is_enough(self):
        """min_score is the least that is kept."""
        assert best_of([("a", 0.5), ("b", 0.49999)], 10, 0.5) == [("a", 0.5)]

    def test_the_floor_rises_to_the_last_of_the_best(self):
        """What can no longer be among the best can be told from the floor."""
        best = TopK(2)
        assert best.floor == -math.inf
        best.add([f"{i:03}" for i in range(100)], np.linspace(0.0, 0.99, 100))
        assert best.floor == pytest.approx(0.98)
        assert TopK(2, 0.5).floor == 0.5

    def test_an_empty_one_has_no_result(self):
        """Nothing in, nothing out; and asking twice gives the same."""
        best = TopK(3)
        assert [*best.result()] == []
        best.add(["b", "a"], np.array([0.1, 0.1]))
        assert [*best.result()] == [*best.result()] == [("a", 0.1), ("b", 0.1)]
        assert [*best.result(1)] == [("b", 0.1)]

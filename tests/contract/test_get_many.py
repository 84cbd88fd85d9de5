"""`get_many` and `vectors`: many records, or all vectors, by one statement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from embeddings import InvalidItemError, InvalidQueryError
from tests.reaching import on_both

if TYPE_CHECKING:
    from embeddings import Collection
    from tests.conftest import Open

ROWS = [("b", [1, 2]), ("a", [3, 4], {"n": 1}), ("é", [5, 6], {"n": 1}), ("ab", [7, 8])]


@pytest.fixture
def filled(docs: Collection[str]) -> Collection[str]:
    docs.store_vectors(ROWS)
    return docs


def test_records_in_the_order_asked_for(filled: Any):
    """Each may be asked for again; what is not there is None."""
    records = filled.get_many(["é", "nothing", "a", "é"])
    assert [record and record.id for record in records] == ["é", None, "a", "é"]
    assert records[2].metadata_ == {"n": 1}
    assert records[0] is records[3]


def test_no_ids_and_no_collection(docs: Any):
    """There is nothing to ask the database about."""
    assert docs.get_many([]) == []
    assert docs.get_many(["a", "b"]) == [None, None]


@on_both
def test_ids_that_are_none(docs: Any):
    """A single id is a mistake, and so is one that no item can have."""
    with pytest.raises(InvalidQueryError, match="ids must be an iterable"):
        docs.get_many("abc")
    with pytest.raises(InvalidItemError):
        docs.get_many(["a", 1.5])


@on_both
def test_many_ids(docs: Any):
    """More than parameters of a statement."""
    docs.store_vectors(((n, [n, 1]) for n in range(1500)), batch_size=1500)
    assert [record.id for record in docs.get_many(range(1500))] == [str(n) for n in range(1500)]


def test_vectors_in_the_order_of_ids(filled: Any):
    """A matrix of one's own."""
    ids, matrix = filled.vectors()
    assert ids == ["a", "ab", "b", "é"]
    assert matrix.dtype == np.float32
    assert matrix.tolist() == [[3, 4], [7, 8], [1, 2], [5, 6]]
    matrix[0] = 0.0
    assert filled.vectors()[1][0].tolist() == [3, 4]


def test_some_vectors(filled: Any):
    """By the beginning of their ids, by metadata, by both."""
    assert filled.vectors(prefix="a")[0] == ["a", "ab"]
    ids, matrix = filled.vectors(where={"n": 1})
    assert (ids, matrix.tolist()) == (["a", "é"], [[3, 4], [5, 6]])
    assert filled.vectors(prefix="a", where={"n": 1})[0] == ["a"]
    ids, matrix = filled.vectors(prefix="nothing")
    assert (ids, matrix.shape) == ([], (0, 2))


def test_vectors_of_nothing(docs: Any):
    """There are no dimensions yet."""
    ids, matrix = docs.vectors()
    assert (ids, matrix.shape) == ([], (0, 0))


@on_both
def test_ids_in_the_type_of_the_keys(opened: Open):
    """As everywhere."""
    docs = opened(key=int)
    docs.store_vectors([(2, [1, 2]), (10, [3, 4])])
    assert docs.vectors()[0] == [10, 2]
    assert [record and record.id for record in docs.get_many([2, 10])] == ["2", "10"]

"""Which rows may be among the best: every bound holds, and none of the best is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from embeddings.databases.sqlite.matrix import kernel
from embeddings.databases.sqlite.matrix.candidates import Probes
from embeddings.databases.sqlite.matrix.segments import Packer
from embeddings.databases.sqlite.matrix.state import Mark, State
from embeddings.vectors import as_query, cosine_scores

pytestmark = pytest.mark.once

SIZE = 256


def isotropic(rows: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((rows, SIZE), np.float32)


def clustered(rows: int, seed: int = 0) -> Any:
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((40, SIZE), np.float32)
    noise = generator.standard_normal((rows, SIZE), np.float32)
    return noise * np.float32(0.5) + centres[generator.integers(0, 40, rows)]


def fading(rows: int, seed: int = 0) -> Any:
    """Most of the length in few directions, as text embeddings have it, and all to one side."""
    generator = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(np.random.default_rng(99).standard_normal((SIZE, SIZE)))
    values = generator.standard_normal((rows, SIZE)) / np.arange(1, SIZE + 1)
    values[:, 0] += 2.0
    return (values @ turn).astype(np.float32)


def mixed(rows: int, seed: int = 0) -> Any:
    """Also rows that int8 holds badly, rows of zeros, equal ones, tiny and huge ones."""
    matrix = clustered(rows, seed)
    matrix[::17] = 0.0
    matrix[1::17, 3] = 500.0
    matrix[2::17] = matrix[2]
    matrix[3::17] *= np.float32(1e-18)
    matrix[4::17] *= np.float32(1e18)
    matrix[5::17, 1:] = 0.0
    return matrix


KINDS = {kind.__name__: kind for kind in (clustered, fading, mixed, isotropic)}


def packed(matrix: Any) -> State:
    packer = Packer(SIZE)
    for start in range(0, len(matrix), 100):
        part = enumerate(matrix[start : start + 100], start)
        packer.add((f"{at:06}", row.tobytes()) for at, row in part)
    return State.of(Mark(1, b"token"), packer.segments(), packer.invalid)


def assert_right(probes: Probes, state: State, matrix: Any) -> None:
    """Compare what is left of a state, and of parts of it, with the scores of all its rows."""
    dead = [f"{at:06}" for at in range(0, len(matrix), 7)]
    views = [state, state.without(dead), state.only(set(dead)), state.starting_with("0003")]
    views += [state.only({*dead[::9], "none"}), state.without(dead[::2]).only({*dead[::9]})]
    for view in views:
        alive = [
            int(id)
            for segment, start in zip(view.segments, view.starts, strict=False)
            for at, id in enumerate(segment.ids)
            if np.isfinite(view.radii[start + at])
        ]
        asked = [(1, None), (10, None), (100, None), (5000, None), (10, 0.3), (10, None), (3, -0.5)]
        for number, (vector, (depth, min_score)) in enumerate(
            zip(probes.vectors, asked, strict=True)
        ):
            scores = cosine_scores(matrix[alive], vector)
            found = probes.candidates(number, view, depth, min_score)
            by_id = dict(zip((f"{at:06}" for at in alive), scores.tolist(), strict=True))
            known = np.array([by_id[id] for id in found.ids])
            assert (found.lower <= known).all()
            assert (known <= found.upper).all()
            assert (np.diff(found.upper) <= 0.0).all()
            others = [by_id[id] for id in by_id.keys() - set(found.ids)]
            assert not others or max(others) < found.floor
            least = -2.0 if min_score is None else min_score
            kth = np.sort(scores)[::-1][depth - 1] if depth <= len(scores) else -2.0
            assert found.floor <= max(kth, least)


@pytest.mark.parametrize("has_simsimd", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_none_of_the_best_is_left_out(
    kind: str, has_simsimd: bool, monkeypatch: pytest.MonkeyPatch
):
    """Every bound holds, and the rest scores less than is said, before and after a write."""
    if not has_simsimd:
        monkeypatch.setattr(kernel, "_simsimd", lambda: None)
    matrix = KINDS[kind](1500)
    queries = [*KINDS[kind](4, seed=5), matrix[2], matrix[6], -matrix[8]]
    probes = Probes([as_query(query) for query in queries])
    state = packed(matrix)
    assert_right(probes, state, matrix)

    changed = KINDS[kind](1500, seed=6)
    ids = {f"{at:06}" for at in range(0, 1500, 3)}
    packer = Packer(SIZE)
    packer.add((f"{at:06}", changed[at].tobytes()) for at in range(0, 1500, 3))
    later = state.patched(Mark(2, b"other"), ids, packer.segments(), packer.invalid)
    matrix[::3] = changed[::3]
    assert later.rows == len(matrix)
    assert_right(probes, later, matrix)


def left_by_a_digit(vectors: Any) -> Any:
    """Return what is left of vectors when they are rounded to int8."""
    steps = np.abs(vectors).max(axis=1, keepdims=True) / 127
    return vectors - np.rint(vectors / steps) * steps


def assert_found(probes: Probes, matrix: Any, at: dict[int, list[int]]) -> None:
    """Ask for rows by their own scores, so that no bound may be a little too low.

    Args:
        probes: The queries.
        matrix: All rows.
        at: The rows to ask for, by the number of the query.
    """
    state = packed(matrix)
    assert_right(probes, state, matrix)
    for number, rows in at.items():
        for row in rows:
            score = float(cosine_scores(matrix[row : row + 1], probes.vectors[number])[0])
            found = probes.candidates(number, state, len(matrix), score - 1e-12)
            assert f"{row:06}" in found.ids


@pytest.mark.parametrize("spike", [0.0, 30.0])
def test_bounds_hold_along_what_the_codes_leave(spike: float):
    """Queries lie along that; a spike makes it so much that each row has a margin of its own."""
    matrix = clustered(300)
    matrix[:7, 3] += np.float32(spike)
    assert bool(len(packed(matrix).outliers)) == bool(spike)
    units = matrix[:7].astype(np.float64) / np.linalg.norm(matrix[:7], axis=1, keepdims=True)
    probes = Probes([as_query(query) for query in left_by_a_digit(units)])
    assert_found(probes, matrix, {number: [number] for number in range(7)})


def test_bounds_hold_along_what_the_digits_leave():
    """Rows lie along that, and some have codes that leave nothing."""
    probes = Probes([as_query(query) for query in clustered(7, seed=5)])
    first = left_by_a_digit(probes.vectors)
    lefts = np.concatenate([first, -first, left_by_a_digit(first)])
    for rows in (lefts, np.sign(lefts)):
        every = list(range(len(rows)))
        assert_found(probes, rows.astype(np.float32), dict.fromkeys(range(7), every))


def test_that_most_rows_are_zeros():
    """Where nothing has a direction yet, the other rows are still compared all at once."""
    matrix = isotropic(1000)
    matrix[:700] = 0.0
    assert len(packed(matrix).outliers) < 10
    assert packed(matrix[:700]).common_radius == 0.0


def test_many_written_rows_are_found_as_few_are():
    """Of ids that are there and ids that are not, over segments; each where it stands."""
    packer = Packer(4)
    matrix = np.random.default_rng(3).standard_normal((40_000, 4)).astype(np.float32)
    packer.add((f"{n:05}", row.tobytes()) for n, row in enumerate(matrix[:9_000]))
    packer.add((f"{n:05}", row.tobytes()) for n, row in enumerate(matrix[9_000:], 9_000))
    state = State.of(Mark(1, b""), packer.segments())
    assert len(state.segments) > 1
    sought = {f"{n:05}" for n in range(0, 80_000, 7)}
    found = state.positions(sought)
    assert found == sorted(at for id in sought for at in state.positions([id]))
    assert sorted(state.ids(found)) == sorted(id for id in sought if int(id) < 40_000)
    left = state.without(sought)
    assert left.rows == 40_000 - len(found)
    assert not np.isfinite(left.radii[found]).any()

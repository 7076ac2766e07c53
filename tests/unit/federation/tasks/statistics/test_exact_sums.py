"""Whole numbers in pieces: sums of any order and size are exact."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import TaskError
from federation.tasks.statistics.exact_sums import SUM_PIECES, Moments, from_pieces, to_pieces

LARGEST = 256**SUM_PIECES - 1


@given(st.lists(st.integers(-LARGEST, LARGEST), min_size=1, max_size=20))
def test_pieces_that_are_added_as_float32_stand_for_the_exact_sum(numbers: list[int]) -> None:
    pieces = [to_pieces([number], SUM_PIECES) for number in numbers]
    total = np.sum(pieces, axis=0, dtype=np.float32)
    assert from_pieces(np.asarray(total)) == [sum(numbers)]


def test_sixty_five_thousand_nodes_are_added_exactly() -> None:
    one = to_pieces([LARGEST], SUM_PIECES)
    total = np.zeros_like(one)
    for _ in range(65_000):
        total += one
    assert from_pieces(total) == [65_000 * LARGEST]


@given(st.lists(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=6), min_size=1, max_size=5))
def test_moments_of_parts_make_those_of_all_rows(parts: list[list[float]]) -> None:
    made = [Moments.of(len(part), np.array([np.mean(part)]), np.array([np.var(part)])).arrays() for part in parts]
    total = Moments.from_arrays({name: np.sum([each[name] for each in made], axis=0) for name in made[0]})
    rows = [Fraction(value) for part in parts for value in part]
    mean = sum(rows) / len(rows)
    largest = float(max(map(abs, rows)))
    assert total.rows == len(rows)
    assert total.mean[0] == pytest.approx(float(mean), abs=1e-15 * largest + 1e-18)
    wanted = float(sum((row - mean) ** 2 for row in rows) / len(rows))
    assert total.variance[0] == pytest.approx(wanted, rel=1e-9, abs=1e-14 * largest**2 + 2.0**-62 * largest + 1e-30)


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TaskError, match="too large"):
        Moments.of(1, np.array([1e300]), np.array([0.0])).arrays()
    with pytest.raises(TaskError, match="not finite"):
        Moments.of(1, np.array([np.nan]), np.array([0.0]))

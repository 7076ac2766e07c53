"""A node's counts are looked at: what contradicts itself is refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.tasks.statistics.counting import counts_of
from federation.tasks.statistics.judging import check_counts, check_pieces, next_plan
from federation.tasks.statistics.layout import BELOW, BOUND, PASSES, Counts, Plan

FIRST = Plan.first(np.array([[-BOUND, BOUND]] * 2))
READINGS = np.array([[20.0, 1.0], [21.5, -1.0], [19.0, np.nan]])
ANY = st.floats(width=64) | st.floats(-100, 100) | st.integers(-(2**63), 2**63 - 1).map(float)


def honest(plan: Plan = FIRST) -> Counts:
    return counts_of(READINGS, plan)


def later() -> Plan:
    return next_plan(FIRST, honest())


@given(arrays(np.float64, st.tuples(st.integers(0, 30), st.just(2)), elements=ANY))
def test_what_an_honest_node_counts_passes_in_every_pass(readings: NDArray[np.float64]) -> None:
    plan = FIRST
    for _ in range(PASSES):
        counts = counts_of(readings, plan)
        check_counts(counts, plan, rows=max(1, len(readings)))
        plan = next_plan(plan, counts)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_whole_numbers_that_no_float_holds_pass(numbers: list[int]) -> None:
    plan = Plan.first(np.array([[-BOUND, BOUND]]))
    readings = np.array(numbers, np.int64)[:, None]
    for _ in range(PASSES):
        counts = counts_of(readings, plan)
        check_counts(counts, plan, rows=len(numbers))
        plan = next_plan(plan, counts)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("plan", [FIRST, later()])
def test_a_huge_sum_without_rows_to_go_with_it_is_refused(plan: Plan, sign: int) -> None:
    found = honest(plan)
    with pytest.raises(TaskError, match="sum of column 0"):
        check_counts(replace(found, sums=[sign << 150, found.sums[1]]), plan, rows=3)


@pytest.mark.parametrize("squares", [0, 1 << 280])
def test_squares_that_are_not_of_the_bins_are_refused(squares: int) -> None:
    found = honest()
    with pytest.raises(TaskError, match="squares of column 0"):
        check_counts(replace(found, squares=[squares, found.squares[1]]), FIRST, rows=3)


def test_a_sum_that_is_too_large_for_its_squares_is_refused() -> None:
    plan = Plan(counted=1, bounds=FIRST.bounds[:1], span=np.array([[0.0, 256.0]]))
    found = counts_of(np.array([[0.0], [0.9]]), plan)
    # Both in [0, 1): a sum of 1.8 has squares of 1.62 at least.
    with pytest.raises(TaskError, match="no values have"):
        check_counts(replace(found, sums=[int(1.8 * 2**64)]), plan, rows=2)


def test_more_rows_than_are_said_are_refused() -> None:
    with pytest.raises(TaskError, match="counted 3 rows, and says that it has 2"):
        check_counts(honest(), FIRST, rows=2)


def test_columns_of_different_length_are_refused() -> None:
    found = honest()
    found.bins[1, 3] += 5
    with pytest.raises(TaskError, match="3 to 8 rows"):
        check_counts(found, FIRST, rows=3)


def test_a_negative_count_is_refused() -> None:
    found = honest()
    found.bins[0, 3] -= 1
    found.bins[0, 4] += 1
    with pytest.raises(TaskError, match="negative"):
        check_counts(found, FIRST, rows=3)


def test_a_node_without_rows_says_one_and_counts_none() -> None:
    check_counts(counts_of(np.zeros((0, 2)), FIRST), FIRST, rows=1)


@pytest.mark.parametrize("value", [0.5, 256.0, -256.0, np.nan])
def test_what_is_no_whole_piece_is_refused(value: float) -> None:
    found = honest().arrays()
    found["statistics.sums"][0, 0] = value
    with pytest.raises(TaskError, match=r"statistics\.sums"):
        check_pieces(found)


@pytest.mark.parametrize("name", ["statistics.pass", "statistics.bounds", "statistics.span"])
def test_a_node_does_not_change_the_plan(name: str) -> None:
    nothing = {key: np.zeros_like(array) for key, array in FIRST.arrays().items()}
    nothing[name].reshape(-1)[0] = 1
    with pytest.raises(TaskError, match="coordinator's to change"):
        check_pieces(nothing)


def test_bins_close_in_on_the_values_and_stay_after_the_last_pass() -> None:
    plan = FIRST
    spans = []
    for _ in range(PASSES):
        plan = next_plan(plan, counts_of(READINGS, plan))
        spans.append(plan.span[0].tolist())
    assert spans[0] == [16.0, 32.0]
    assert spans[1] == [19.0, 21.5625]
    assert spans[2] == spans[1]
    assert plan.counted == PASSES


def test_a_column_that_has_lost_its_values_keeps_its_bins() -> None:
    kept = next_plan(later(), counts_of(np.full((3, 2), np.nan), later()))
    assert kept.span.tolist() == later().span.tolist()


def test_bins_stay_within_the_bounds() -> None:
    plan = Plan.first(np.array([[19.5, 22.0]]))
    span = next_plan(plan, counts_of(READINGS[:, :1], plan)).span[0]
    assert span[0] == 19.5
    assert span[1] == np.nextafter(22.0, 23.0)


def test_a_sum_below_the_bins_is_judged_by_the_bounds() -> None:
    plan = Plan(counted=1, bounds=np.array([[-10.0, 50.0]]), span=np.array([[20.0, 30.0]]))
    found = counts_of(np.array([[-5.0], [25.0], [45.0]]), plan)
    assert found.bins[0, BELOW] == 1
    check_counts(found, plan, rows=3)
    with pytest.raises(TaskError, match="sum of column 0"):
        check_counts(replace(found, sums=[(-10 + 20 + 30 - 1) << 64]), plan, rows=3)

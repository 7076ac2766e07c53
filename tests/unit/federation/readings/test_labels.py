"""Labels that come late are joined by time within a tolerance, or by an id."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import TaskError
from federation.readings.labels import join_by_id, join_labels


def test_the_nearest_label_within_the_tolerance_counts() -> None:
    rows, labels = join_labels([0, 10, 20, 30], [29, 11, 9.5, 100], [4, 1, 2, 9], tolerance_s=1)
    assert rows.tolist() == [1, 3]
    assert labels.tolist() == [2, 4]


def test_of_two_labels_of_one_moment_the_last_counts_and_none_is_no_label() -> None:
    rows, labels = join_labels([5.0], [5, 5, 5], [1, 2, math.nan])
    assert (rows.tolist(), labels.tolist()) == ([0], [2])
    assert len(join_labels([5.0], [], [])[0]) == 0


def test_labels_without_times_are_refused() -> None:
    with pytest.raises(TaskError, match="labels"):
        join_labels([1.0], [1, 2], [1])
    with pytest.raises(TaskError, match="labels"):
        join_labels([1.0], [1], [1], tolerance_s=math.nan)
    with pytest.raises(TaskError, match="labels"):
        join_by_id([1], [1, 2], [1])


@given(
    times=st.lists(st.integers(-20, 20), max_size=12),
    labels=st.lists(st.tuples(st.integers(-20, 20), st.integers(0, 5)), max_size=12),
    tolerance=st.integers(0, 5),
)
def test_the_join_is_what_a_plain_search_finds(times: list[int], labels: list[tuple[int, int]], tolerance: int) -> None:
    rows, found = join_labels(times, [at for at, _ in labels], [one for _, one in labels], tolerance_s=tolerance)
    for row, time in enumerate(times):
        near = [abs(at - time) for at, _ in labels if abs(at - time) <= tolerance]
        assert (row in rows) == bool(near)
        if near:
            value = found[rows.tolist().index(row)]
            assert value in {one for at, one in labels if abs(at - time) == min(near)}


def test_an_id_finds_its_label() -> None:
    rows, labels = join_by_id(np.array(["a", "b", "c", "a"]), np.array(["c", "a", "a", "z"]), [1, 2, 3, 4])
    assert (rows.tolist(), labels.tolist()) == ([0, 2, 3], [3, 1, 3])
    rows, labels = join_by_id([7, 8], [8], [0.5])
    assert (rows.tolist(), labels.tolist()) == ([1], [0.5])

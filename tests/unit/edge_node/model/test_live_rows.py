"""Live windows are those that a training cuts of the same readings, whole as soon as they can be."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_node.model.live_rows import LiveRows
from federation.readings.windows import WindowSpec, resample

SPEC = WindowSpec(columns=("a", "b"), length=3)


def test_a_row_is_whole_once_all_columns_are_there_or_a_later_time_comes() -> None:
    rows = LiveRows(SPEC, 2)
    assert rows.add([(1.0, "a", 1.0), (1.0, "b", 2.0), (1.0, "other", 9.0)]) == []
    assert rows.add([(2.0, "a", 3.0)]) == []
    ((time, window),) = rows.add([(3.0, "a", 5.0)])
    assert time == 2.0
    np.testing.assert_array_equal(window, [[1, 2], [3, 2]])
    ((time, window),) = rows.add([(3.0, "b", 6.0)])
    assert time == 3.0
    np.testing.assert_array_equal(window, [[3, 2], [5, 6]])
    assert rows.add([(2.5, "a", 1.0)]) == []
    assert (rows.late, rows.latest) == (1, ("a", 0.5))


def test_no_window_goes_over_a_gap() -> None:
    rows = LiveRows(WindowSpec(columns=("a",), length=2, gap_max_s=10), 2)
    assert rows.add([(1.0, "a", 1.0)]) == []
    assert len(rows.add([(2.0, "a", 1.0)])) == 1
    assert rows.add([(60.0, "a", 1.0)]) == []
    assert len(rows.add([(61.0, "a", 1.0)])) == 1


@pytest.mark.parametrize("gap", ["hold", "drop"])
@given(
    steps=st.lists(st.tuples(st.integers(-4, 7), st.integers(0, 1), st.floats(-9, 9)), min_size=1, max_size=120),
    period=st.sampled_from([None, 2.0]),
)
@example(
    # Before the window a cell is held that is the mean of two readings.
    steps=[(0, 0, 0.0), (0, 0, 1.0), (0, 1, 0.0), (6, 0, 0.0), (2, 1, 0.0), (2, 0, 0.0)],
    period=2.0,
)
def test_live_windows_are_those_of_the_whole(
    gap: str, steps: list[tuple[int, int, float]], period: float | None
) -> None:
    spec = WindowSpec(("a", "b"), 3, 1, period, gap, 6.0)  # type: ignore[arg-type]
    times = np.cumsum([step for step, _, _ in steps]).astype(float)
    columns, values = np.array([c for _, c, _ in steps]), np.array([v for _, _, v in steps])
    live, taken = LiveRows(spec, 3), []
    for place, (time, column, value) in enumerate(zip(times, columns, values, strict=True)):
        found = live.add([(time, "ab"[column], value)])
        taken.append(place)
        frame = resample(times[taken], columns[taken], values[taken], spec)
        for when, window in found:
            end = int(np.searchsorted(frame.times, when))
            assert frame.times[end] == when
            np.testing.assert_allclose(window, frame.values[end - 2 : end + 1], rtol=1e-6)


def test_memory_is_bounded() -> None:
    rows = LiveRows(WindowSpec(columns=("a",), length=50), 50)
    for time in range(3_000):
        rows.add([(float(time), "a", 1.0)])
    assert len(rows._times) <= 1_024

"""Readings are joined by time, gaps are filled by rule, and no window goes over a gap that stays."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import ConfigError, TaskError
from federation.readings import windows
from federation.readings.windows import Frame, WindowSpec, cut_windows, frame_windows, resample

NAN = math.nan


def spec(**changes: Any) -> WindowSpec:
    settings: dict[str, Any] = {"columns": ("heat", "flow"), "length": 2, "period_s": 1.0}
    return WindowSpec(**(settings | changes))


def framed(rows: Sequence[tuple[float, int, float]], **changes: Any) -> Frame:
    times, columns, values = zip(*rows, strict=True) if rows else ((), (), ())
    return resample(times, columns, values, spec(**changes))


def equal(frame: Frame, times: Sequence[float], values: Sequence[Sequence[float]]) -> None:
    np.testing.assert_allclose(frame.times, times)
    np.testing.assert_allclose(frame.values, np.array(values, np.float32).reshape(len(times), -1))
    assert [frame.times.dtype.name, frame.values.dtype.name] == ["float64", "float32"]


def test_readings_of_one_period_are_averaged_on_a_grid_that_does_not_depend_on_the_first() -> None:
    rows = [(10.2, 0, 1.0), (10.9, 0, 3.0), (10.5, 1, 7.0), (11.0, 0, 5.0), (11.1, 1, 8.0)]
    equal(framed(rows), [10, 11], [[2, 7], [5, 8]])
    equal(framed(rows[::-1]), [10, 11], [[2, 7], [5, 8]])
    equal(framed(rows[3:]), [11], [[5, 8]])


def test_hold_keeps_the_last_value_as_long_as_it_may() -> None:
    rows = [(0, 0, 1.0), (0, 1, 5.0), (2, 0, 2.0), (5, 0, 3.0), (5, 1, 6.0)]
    equal(framed(rows, gap_max_s=2), [0, 1, 2, 3, 4, 5], [[1, 5], [1, 5], [2, 5], [2, NAN], [2, NAN], [3, 6]])


def test_linear_draws_no_line_that_is_too_long_and_none_beyond_the_last_value() -> None:
    rows = [(0, 0, 0.0), (0, 1, 0.0), (2, 0, 2.0), (6, 0, 6.0), (6, 1, 6.0), (7, 0, 7.0)]
    frame = framed(rows, gap="linear", gap_max_s=4)
    equal(frame, [0, 1, 2, 3, 4, 5, 6, 7], [[0, 0], [1, NAN], [2, NAN], [3, NAN], [4, NAN], [5, NAN], [6, 6], [7, NAN]])


def test_drop_fills_nothing_and_one_row_stands_for_a_gap() -> None:
    rows = [(0, 0, 1.0), (0, 1, 1.0), (100, 0, 2.0), (101, 1, 2.0)]
    equal(framed(rows, gap="drop"), [0, 1, 100, 101], [[1, 1], [NAN, NAN], [2, NAN], [NAN, 2]])


def test_a_gap_of_years_costs_as_many_rows_as_a_fill_reaches() -> None:
    rows = [(0, 0, 1.0), (0, 1, 1.0), (1e9, 0, 2.0), (1e9, 1, 2.0)]
    equal(framed(rows, gap_max_s=2), [0, 1, 2, 3, 1e9], [[1, 1], [1, 1], [1, 1], [NAN, NAN], [2, 2]])


def test_a_table_is_taken_as_it_comes() -> None:
    rows = [(0, 0, 1.0), (0, 1, 5.0), (0.7, 0, 2.0), (1.1, 0, 3.0), (1.1, 1, 6.0)]
    equal(framed(rows, period_s=None), [0, 0.7, 1.1], [[1, 5], [2, 5], [3, 6]])
    equal(framed(rows, period_s=None, gap="drop"), [0, 0.7, 1.1], [[1, 5], [2, NAN], [3, 6]])


def test_a_hole_in_a_table_is_a_gap() -> None:
    rows = [(0, 0, 1.0), (0, 1, 1.0), (1000, 0, 2.0), (1000, 1, 2.0)]
    for gap in ("hold", "linear", "drop"):
        frame = framed(rows, period_s=None, gap=gap, gap_max_s=999)
        assert np.isnan(frame.values[1]).all()
        assert len(frame_windows(frame, spec())[0]) == 0
    assert len(framed(rows, period_s=None, gap_max_s=1000).times) == 2


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf, 1e39, -1e308])
def test_what_is_no_number_of_float32_is_left_out(bad: float) -> None:
    equal(framed([(0, 0, 1.0), (0, 1, 2.0), (0, 0, bad)]), [0], [[1, 2]])
    assert np.isfinite(framed([(0, 0, 3e38), (0, 0, 3e38), (0, 1, 1.0)]).values).all()


@pytest.mark.parametrize("time", [NAN, math.inf, -math.inf, 1e300])
def test_a_time_that_is_none_is_left_out(time: float) -> None:
    equal(framed([(0, 0, 1.0), (0, 1, 2.0), (time, 0, 5.0)]), [0], [[1, 2]])


def test_a_column_that_is_not_asked_for_is_left_out() -> None:
    equal(framed([(0, 0, 1.0), (0, 1, 2.0), (0, 2, 5.0), (0, -1, 5.0)]), [0], [[1, 2]])


def test_no_readings_are_no_rows_and_no_windows() -> None:
    frame = framed([])
    assert frame.values.shape == (0, 2)
    starts, made = frame_windows(frame, spec(length=5))
    assert (len(starts), made.shape) == (0, (0, 5, 2))


def test_arrays_of_two_lengths_are_refused() -> None:
    with pytest.raises(TaskError, match="2 times, 1 columns"):
        resample([0, 1], [0], [1.0], spec())


def test_a_frame_that_is_too_large_is_refused_before_it_is_made() -> None:
    times = np.arange(3_000_000) * 100.0
    with pytest.raises(TaskError, match="make period_s longer"):
        resample(times, np.zeros(len(times), int), times, spec(gap_max_s=1e9))


def test_windows_that_are_too_many_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WINDOW_CELLS_MAX", 100)
    with pytest.raises(TaskError, match="raise the stride"):
        cut_windows(np.zeros((40, 2)), 3)
    assert len(cut_windows(np.zeros((40, 2)), 3, 3)[0]) == 13


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"columns": ()}, "columns"),
        ({"columns": ("a", "a")}, "columns"),
        ({"length": 0}, "length"),
        ({"length": True}, "length"),
        ({"stride": 0}, "stride"),
        ({"period_s": 0.0}, "period_s"),
        ({"period_s": NAN}, "period_s"),
        ({"gap_max_s": math.inf}, "gap_max_s"),
        ({"gap": "guess"}, "gap"),
    ],
)
def test_a_setting_out_of_its_range_is_named(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=f"window.{key}"):
        spec(**changes)


def test_windows_begin_anew_behind_a_gap() -> None:
    table = np.arange(9, dtype=float)[:, None]
    table[4] = 1e39  # no number of float32
    starts, made = cut_windows(table, 3, 2)
    assert starts.tolist() == [0, 5]
    assert made[:, :, 0].tolist() == [[0, 1, 2], [5, 6, 7]]
    assert [starts.dtype.name, made.dtype.name] == ["int64", "float32"]


def test_times_that_do_not_rise_or_are_far_apart_are_gaps() -> None:
    table = np.zeros((6, 1))
    assert cut_windows(table, 2, times=[0, 1, 1, 2, 9, 10])[0].tolist() == [0, 2, 3, 4]
    assert cut_windows(table, 2, times=[0, 1, 1, 2, 9, 10], gap_max_s=2)[0].tolist() == [0, 2, 4]
    with pytest.raises(TaskError, match="6 rows and 2 times"):
        cut_windows(table, 2, times=[0, 1])


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(TaskError, match="need a table"):
        cut_windows(np.zeros(5), 2)


@given(
    sound=st.lists(st.booleans(), max_size=40),
    length=st.integers(1, 6),
    stride=st.integers(1, 4),
    steps=st.lists(st.sampled_from([0.0, 1.0, 3.0]), min_size=40, max_size=40),
)
def test_windows_are_those_that_a_plain_search_finds(
    sound: list[bool], length: int, stride: int, steps: list[float]
) -> None:
    table = np.array([[row if good else NAN] for row, good in enumerate(sound)]).reshape(-1, 1)
    times = np.cumsum(steps[: len(sound)])
    expected, row = [], 0
    while row < len(sound):
        run = 0
        while row + run < len(sound) and sound[row + run] and (run == 0 or 0 < steps[row + run] <= 2):
            run += 1
        expected += list(range(row, row + run - length + 1, stride))
        row += max(run, 1)
    starts, made = cut_windows(table, length, stride, times=times, gap_max_s=2)
    assert starts.tolist() == expected
    assert made[:, 0, 0].tolist() == [float(start) for start in expected]


@given(
    rows=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 1), st.integers(-5, 5)), max_size=30),
    gap=st.sampled_from(["hold", "linear", "drop"]),
    reach=st.integers(1, 6),
)
def test_filled_cells_are_those_that_a_plain_search_finds(
    rows: list[tuple[int, int, int]], gap: Literal["hold", "linear", "drop"], reach: int
) -> None:
    frame = framed(rows, gap=gap, gap_max_s=float(reach))
    said: dict[tuple[int, int], list[int]] = {}
    for time, column, value in rows:
        said.setdefault((column, time), []).append(value)
    for time, cells in zip(frame.times.astype(int), frame.values, strict=True):
        for column, cell in enumerate(cells):
            assert _plain(said, column, int(time), gap, reach) == pytest.approx(float(cell), abs=1e-5, nan_ok=True)
    shown = {int(time) for time in frame.times}
    assert {time for _, time in said} <= shown
    assert all(later > earlier for earlier, later in itertools.pairwise(frame.times))


def _plain(said: dict[tuple[int, int], list[int]], column: int, time: int, gap: str, reach: int) -> float:
    known = {when: sum(all_) / len(all_) for (one, when), all_ in said.items() if one == column}
    if time in known:
        return known[time]
    before, after = [when for when in known if when < time], [when for when in known if when > time]
    if gap == "hold" and before and time - max(before) <= reach:
        return known[max(before)]
    if gap == "linear" and before and after and min(after) - max(before) <= reach:
        first, last = max(before), min(after)
        return known[first] + (known[last] - known[first]) * (time - first) / (last - first)
    return NAN

"""Counting: the same numbers, to the last digit, whoever has which row."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.tasks.statistics.counting import channels_of, counts_of, rows_of
from federation.tasks.statistics.layout import (
    ABOVE,
    BELOW,
    BINS,
    BOUND,
    MISSING,
    OUTSIDE,
    Counts,
    Plan,
    columns_of,
    edges_of,
    statistics_manifest,
)

ANY = st.floats(width=64) | st.floats(-100, 100) | st.sampled_from([0.0, -0.0, 2.0**-64, 3 * 2.0**-65, 2.0**63, 1e300])


def plan(columns: int = 1, low: float = -BOUND, high: float = BOUND) -> Plan:
    return Plan.first(np.tile([low, high], (columns, 1)))


def whole(value: float) -> int:
    return round(Fraction(value) * 2**64)


@given(arrays(np.float64, st.tuples(st.integers(0, 40), st.just(1)), elements=ANY))
@settings(max_examples=200)
def test_sums_are_those_of_fractions(readings: NDArray[np.float64]) -> None:
    """[FED-231]."""
    found = counts_of(readings, plan())
    values = [whole(float(each)) for each in readings[:, 0] if np.isfinite(each) and abs(each) < BOUND]
    assert found.sums == [sum(values)]
    assert found.squares == [sum(each**2 for each in values)]
    assert found.bins[0, MISSING] == np.count_nonzero(~np.isfinite(readings))
    assert found.bins.sum() == len(readings)
    assert found.counted.tolist() == [len(values)]


@given(arrays(np.float64, st.tuples(st.integers(0, 40), st.just(2)), elements=ANY), st.integers(0, 40))
def test_two_nodes_count_what_one_with_all_rows_counts(readings: NDArray[np.float64], cut: int) -> None:
    parts = [counts_of(part, plan(2)) for part in (readings[:cut], readings[cut:])]
    whole_counts = counts_of(readings, plan(2))
    assert np.array_equal(parts[0].bins + parts[1].bins, whole_counts.bins)
    assert [sum(pair) for pair in zip(parts[0].sums, parts[1].sums, strict=True)] == list(whole_counts.sums)
    assert [sum(pair) for pair in zip(parts[0].squares, parts[1].squares, strict=True)] == list(whole_counts.squares)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int8, np.uint16, np.bool_])
def test_whole_numbers_at_the_ends_of_their_type_are_exact(dtype: type[Any]) -> None:
    ends = (0, 1) if dtype is np.bool_ else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    readings = np.array([[ends[0]], [ends[1]], [ends[1]], [1]], dtype)
    found = counts_of(readings, plan())
    inside = [int(each) for each in readings[:, 0] if float(each) < BOUND]
    assert found.sums == [sum(inside) << 64]
    assert found.squares == [sum(each**2 for each in inside) << 128]
    assert found.bins[0, OUTSIDE] == 4 - len(inside)


def test_many_rows_are_exact() -> None:
    values = np.random.default_rng(0).normal(50, 1, 200_000).astype(np.float32)
    found = counts_of(values[:, None], plan())
    assert found.sums == [sum(whole(float(each)) for each in values)]


def test_a_float_as_large_as_the_bound_is_outside_and_counts_nowhere_else() -> None:
    found = counts_of(np.array([[2.0**64], [-(2.0**64)], [1e38], [1.0]]), plan())
    assert (found.bins[0, OUTSIDE], found.counted.tolist(), found.sums) == (3, [1], [1 << 64])


def test_bounds_leave_out_what_a_sensor_says_when_it_is_broken() -> None:
    found = counts_of(np.array([[-9999.0], [20.0], [-40.0], [125.0], [np.nan]]), plan(1, -40.0, 125.0))
    assert (found.bins[0, OUTSIDE], found.bins[0, MISSING], found.sums) == (1, 1, [105 << 64])


def test_no_rows_are_zeros() -> None:
    found = counts_of(np.zeros((0, 2), np.float32), plan(2))
    assert not found.bins.any()
    assert (found.sums, found.squares) == ([0, 0], [0, 0])


@given(ANY.filter(lambda value: abs(value) < BOUND))
def test_a_value_is_in_the_octave_that_has_it(value: float) -> None:
    value = round(Fraction(value) * 2**64) / 2**64
    edges = plan().edges(0)
    (place,) = np.flatnonzero(counts_of(np.array([[value]]), plan()).bins[0])
    assert edges[place] <= value < edges[place + 1]
    assert len(edges) == BINS + 1


def test_a_later_pass_says_what_is_below_and_above_its_bins() -> None:
    later = Plan(counted=1, bounds=np.array([[-BOUND, BOUND]]), span=np.array([[0.0, 1.0]]))
    found = counts_of(np.array([[-0.1], [0.0], [0.5], [1.0], [7.0]]), later)
    assert (found.bins[0, BELOW], found.bins[0, ABOVE], found.bins[0, 0], found.bins[0, 128]) == (1, 2, 1, 1)


@given(st.floats(-1e18, 1e18), st.floats(0, 1e18))
def test_edges_rise_and_end_where_they_should(low: float, width: float) -> None:
    """[FED-232]."""
    edges = edges_of(low, low + width)
    assert len(edges) == BINS + 1
    assert (np.diff(edges) >= 0).all()
    assert (edges[0], edges[-1]) == (low, low + width)


@given(st.lists(st.integers(0, 2**40 - 1), min_size=1, max_size=3))
def test_counts_travel_as_whole_pieces(numbers: list[int]) -> None:
    bins = np.zeros((len(numbers), 260), np.int64)
    bins[:, 7] = numbers
    counts = Counts(bins=bins, sums=[-number for number in numbers], squares=[number**2 for number in numbers])
    back = Counts.of(counts.arrays())
    assert np.array_equal(back.bins, bins)
    assert (back.sums, back.squares) == (counts.sums, counts.squares)


def test_a_count_without_room_is_refused() -> None:
    counts = Counts(bins=np.full((1, 260), 2**40, np.int64), sums=[0], squares=[0])
    with pytest.raises(TaskError, match=r"beyond 2\^40"):
        counts.arrays()


@pytest.mark.parametrize("readings", [np.zeros((3, 2)), np.zeros(3), np.array([["a"]]), np.zeros((1, 1), complex)])
def test_other_readings_are_refused(readings: NDArray[Any]) -> None:
    with pytest.raises(TaskError, match="readings"):
        counts_of(readings, plan())


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [((5,), 5, 1), ((5, 3), 5, 3), ((5, 7, 3), 35, 3), ((5, 3, 2, 2), 20, 3)],
)
def test_tables_windows_and_pictures_have_rows(shape: tuple[int, ...], rows: int, columns: int) -> None:
    inputs = np.arange(np.prod(shape)).reshape(shape)
    found = rows_of(inputs)
    assert (found.shape, channels_of(shape)) == ((rows, columns), columns)
    assert sorted(found.reshape(-1).tolist()) == sorted(inputs.reshape(-1).tolist())


def test_a_channel_of_a_picture_is_a_column() -> None:
    pictures = np.stack([np.zeros((4, 4)), np.ones((4, 4))])[None]
    assert rows_of(pictures).mean(axis=0).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("shape", [(), (1, 2, 3, 4, 5)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(TaskError, match="rows of columns"):
        rows_of(np.zeros(shape))


@pytest.mark.parametrize("columns", [1, 8, 1024])
def test_a_model_of_statistics_is_known_by_its_digest(columns: int) -> None:
    """[FED-230]."""
    assert columns_of(statistics_manifest(columns).digest) == columns


@pytest.mark.parametrize("digest", [b"", bytes(16), statistics_manifest(1025).digest])
def test_another_model_is_none(digest: bytes) -> None:
    assert columns_of(digest) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"statistics.pass": np.array([9], np.float32)},
        {"statistics.bounds": np.full((1, 2, 8), 255, np.float32)},
        {"statistics.span": np.full((1, 2, 8), 255, np.float32)},
        {"statistics.bounds": plan(1, 1.0, 2.0).arrays()["statistics.bounds"][:, ::-1]},
    ],
)
def test_a_damaged_plan_is_refused(changed: dict[str, NDArray[np.float32]]) -> None:
    with pytest.raises(TaskError, match="damaged"):
        Plan.of(plan().arrays() | changed)


def test_a_plan_travels_whole() -> None:
    sent = Plan(counted=2, bounds=np.array([[-1e-300, 0.1]]), span=np.array([[-0.0, 1 / 3]]))
    back = Plan.of(sent.arrays())
    assert (back.counted, back.bounds.tolist(), back.span.tolist()) == (2, sent.bounds.tolist(), sent.span.tolist())

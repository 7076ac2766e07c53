"""Shortcuts of the quantizer and the layouts give what the plain way gives, bit for bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from update_codec.arrays import FOLD, HOST
from update_codec.coders.deadzone_coder import EntropyRate
from update_codec.layouts.digits import BASES, pack
from update_codec.layouts.layout import SAMPLE_ENTRIES, write_symbols
from update_codec.layouts.levels import Layout, Sparse, write_places
from update_codec.limits import SYMBOL_MAX
from update_codec.quantizers.deadzone import ROUNDING, Large, quantize

F32 = NDArray[np.float32]

VALUES = arrays(
    np.float32,
    st.integers(0, 300),
    elements=st.floats(-200, 200, width=32) | st.sampled_from([0.0, -0.0, 1e-40, -1e-45, 3e38, -3e38]),
)
STEPS = st.floats(2.0**-90, 2.0**100) | st.floats(0.5, 3)


def plain(values: F32, step: float) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """The equation of the module, with one operation of float32 after the other."""
    with np.errstate(over="ignore"):
        scaled = np.abs(values) * np.float32(1 / step) + np.float32(ROUNDING)
    beyond = scaled >= SYMBOL_MAX + 1
    magnitudes = np.floor(np.where(beyond, 0, scaled))
    return np.where(values < 0, -magnitudes, magnitudes).astype(np.int8), np.flatnonzero(beyond)


@given(values=VALUES, step=STEPS)
def test_symbols_and_outliers_are_those_of_the_equation(values: F32, step: float) -> None:
    for found, expected in zip(quantize(values, step), plain(values, step), strict=True):
        np.testing.assert_array_equal(found, expected)


@given(values=VALUES, steps=st.lists(STEPS, min_size=1, max_size=4), cut=st.integers(0, 300))
def test_looking_for_the_large_ones_gives_the_same_at_each_step(values: F32, steps: list[float], cut: int) -> None:
    large = Large([values[:cut], values[cut:]])
    for step in steps:
        found = large.quantize(step, ROUNDING, 3)
        symbols, beyond = plain(values, step)
        shown = 3 * np.flatnonzero(symbols[::3])
        np.testing.assert_array_equal(found.symbols.dense(), symbols)
        np.testing.assert_array_equal(found.symbols.positions, np.flatnonzero(symbols))
        np.testing.assert_array_equal(found.outliers, beyond)
        np.testing.assert_array_equal(found.shown[0], values[shown])
        np.testing.assert_array_equal(found.shown[1], symbols[shown])


@pytest.mark.parametrize("near", range(-3, 4))
def test_a_value_next_to_the_threshold_is_found_where_it_counts(near: int) -> None:
    for step in (0.7, 1.0, 3.3e-5):
        edge = np.array([(1 - ROUNDING) * step], np.float32)
        values = (edge.view(np.int32) + near).view(np.float32)
        found = Large([values]).quantize(step, ROUNDING, 1)
        np.testing.assert_array_equal(found.symbols.dense(), plain(values, step)[0])


@pytest.mark.parametrize("base", [base for base in BASES if base < 256])
@pytest.mark.parametrize("size", [1, 7, 30_720, 122_880, 122_881, 250_003])
def test_digits_are_packed_as_the_format_says(base: int, size: int) -> None:
    for highest in (base - 1, 254):
        values = np.random.default_rng(size).integers(0, highest + 1, size).astype(np.uint8)
        width = BASES[base]
        digits = np.zeros(-(-size // width) * width, np.int64)
        digits[:size] = np.minimum(values, base - 1)
        packed, escapes = pack(values, base)
        np.testing.assert_array_equal(packed, digits.reshape(-1, width) @ base ** np.arange(width))
        escaped = values >= base - 1 if values.max() >= base else np.zeros(size, np.bool_)
        np.testing.assert_array_equal(escapes, values[escaped] - (base - 1))


@pytest.mark.parametrize("share", [1e-5, 0.003, 0.05, 0.6])
def test_sparse_symbols_are_written_as_all_of_them_are(share: float) -> None:
    rng = np.random.default_rng(1)
    for size in (1, SAMPLE_ENTRIES, SAMPLE_ENTRIES + 1, 200_000):
        symbols = np.where(rng.random(size) < share, rng.integers(-127, 128, size), 0).astype(np.int8)
        places = np.flatnonzero(symbols).astype(np.uint32)
        sparse = Sparse(size=size, positions=places, values=symbols[places])
        assert write_symbols(sparse) == write_symbols(symbols)
        if len(places):
            for layout in (Layout.MASK, Layout.GAPS):
                assert write_places(sparse, layout)[1] == write_places(symbols, layout)[1]


def test_sums_of_squares_are_halved_in_the_order_that_is_agreed() -> None:
    for size in (1, 600, FOLD, 3 * FOLD + 5):
        values = np.random.default_rng(size).normal(size=size).astype(np.float32)
        rows = np.zeros((-(-size // FOLD), FOLD), np.float32)
        rows.reshape(-1)[:size] = values * values
        while rows.shape[1] > 1:
            rows = rows[:, : rows.shape[1] // 2] + rows[:, rows.shape[1] // 2 :]
        np.testing.assert_array_equal(HOST.row_sums(values), rows[:, 0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_peak_tells_what_is_not_finite_wherever_it_is(bad: float) -> None:
    values = np.zeros(100_000, np.float32)
    for place in (0, 40_000, 99_999):
        values[place] = bad
        assert not np.isfinite(HOST.peak(values))
        values[place] = 0
    assert HOST.peak(values[:0]) == 0


def entropy(values: NDArray[np.float32], step: float) -> float:
    """Bits of the symbols by their shares, which are counted one by one."""
    edges = (np.arange(1, SYMBOL_MAX + 1) - ROUNDING) * step
    below = [float(np.count_nonzero(np.abs(values).astype(np.float64) < edge)) / len(values) for edge in edges]
    shares = np.diff([0.0, *below, 1.0])
    used = shares[shares > 0]
    # As magnitudes: the zeros' share says nothing of signs.
    return len(values) * float(1.0 - below[0] - np.dot(used, np.log2(used)))


@pytest.mark.parametrize("step", [1e-30, 1e-6, 1e-3, 0.1, 0.5, 1.0, 3.0, 1e6, 3e38])
@pytest.mark.parametrize("peak", [1e-20, 1.0, 1e10, 3e38])
def test_the_estimate_is_the_entropy_at_each_step(step: float, peak: float) -> None:
    values = np.random.default_rng(1).laplace(0.0, 0.1, 500).astype(np.float32)
    values[0] = peak
    values[1:5] = np.float32(min((2 - ROUNDING) * step, 3e38))  # on an edge, as near as a float32 comes to it
    rate = EntropyRate(np.sort(np.abs(values)), len(values), ROUNDING)
    assert rate.bits(step) == pytest.approx(entropy(values, step), rel=1e-12)
    zeros = np.count_nonzero(np.abs(values).astype(np.float64) < (1 - ROUNDING) * step)
    assert rate.density(step) == pytest.approx(1.0 - zeros / len(values))


def test_nothing_but_zeros_has_no_entropy() -> None:
    assert EntropyRate(np.zeros(9, np.float32), 9, ROUNDING).bits(1.0) == 0.0

"""Symbols survive every layout, come close to their entropy, and malformed streams are refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from update_codec import EntropyError, FrameError, HeaderError, TruncatedFrame
from update_codec.entropy import Method, StreamReader, compress
from update_codec.frame import Cursor, varint, write_stream
from update_codec.layouts.digits import BASES, DigitReader, write_digits
from update_codec.layouts.layout import Symbols, SymbolWriter, write_symbols
from update_codec.layouts.levels import Layout, level_values, plan_levels, write_levels
from update_codec.quantizers.deadzone import quantize

INDEX = np.arange(-127, 128)


class Vector:
    """A sink that collects symbols."""

    def __init__(self, size: int) -> None:
        self.values = np.zeros(size, np.int64)

    def dense(self, start: int, values: NDArray[Any]) -> None:
        self.values[start : start + len(values)] += values

    def sparse(self, positions: NDArray[np.int64], values: NDArray[Any]) -> None:
        self.values[positions] += values

    def room(self, start: int, count: int) -> None:
        """There is none."""


def read(data: bytes, size: int) -> NDArray[np.int64]:
    """Decode symbols and insist that every byte is used."""
    cursor = Cursor(memoryview(data))
    symbols = Symbols(cursor, size)
    cursor.finish()
    sink = Vector(size)
    symbols.feed(INDEX, sink)
    return sink.values


def entropy(symbols: NDArray[np.int8]) -> float:
    """Order-0 entropy in bits per symbol."""
    shares = np.bincount(symbols.astype(np.int64) + 127) / len(symbols)
    used = shares[shares > 0]
    return float(-np.dot(used, np.log2(used)))


SOURCES: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "gaussian": lambda rng, size: rng.normal(size=size),
    "laplace": lambda rng, size: rng.laplace(size=size) / 2**0.5,
    "student": lambda rng, size: rng.standard_t(4, size=size) / 2**0.5,
}


@pytest.mark.parametrize("step", [0.25, 0.5, 1.0, 1.5, 1.75, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("source", SOURCES)
def test_coded_size_stays_close_to_the_entropy(source: str, step: float) -> None:
    values = SOURCES[source](np.random.default_rng(3), 400_000).astype(np.float32)
    symbols, _ = quantize(values, step)
    data = write_symbols(symbols)
    np.testing.assert_array_equal(read(data, len(symbols)), symbols)
    assert 8 * len(data) <= (1.02 if source == "gaussian" else 1.03) * entropy(symbols) * len(symbols)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 3000), density=st.floats(0, 1), top=st.integers(1, 127))
def test_any_symbols_survive(seed: int, size: int, density: float, top: int) -> None:
    rng = np.random.default_rng(seed)
    symbols = (rng.integers(-top, top + 1, size=size) * (rng.random(size) < density)).astype(np.int8)
    np.testing.assert_array_equal(read(write_symbols(symbols), size), symbols)


@pytest.mark.parametrize("size", [30_719, 30_720, 30_721, 92_161, 200_003])
@pytest.mark.parametrize("density", [0.0001, 0.03, 0.4, 1.0])
def test_pieces_join_at_every_boundary(size: int, density: float) -> None:
    rng = np.random.default_rng(size)
    symbols = (rng.geometric(0.6, size=size).clip(1, 127) * rng.choice([-1, 1], size)).astype(np.int8)
    symbols[rng.random(size) >= density] = 0
    symbols[-1] = 5
    np.testing.assert_array_equal(read(write_symbols(symbols), size), symbols)


def test_single_symbol_at_the_end_of_a_long_run_survives() -> None:
    for place in (-1, 150_000):  # the second lies between the runs that the layout is chosen on
        symbols = np.zeros(2_000_000, np.int8)
        symbols[place] = -127
        data = write_symbols(symbols)
        assert len(data) < 100
        np.testing.assert_array_equal(read(data, len(symbols)), symbols)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("top", [1, 2, 5, 126, 254])
def test_digits_survive_every_base(base: int, top: int) -> None:
    values = np.random.default_rng(top).integers(0, top + 1, size=70_001).astype(np.uint8)
    cursor = Cursor(memoryview(write_digits(values, base)))
    reader = DigitReader(cursor, len(values))
    cursor.finish()
    np.testing.assert_array_equal(np.concatenate(list(reader.values())), values)


@pytest.mark.parametrize("layout", [Layout.MASK, Layout.GAPS])
@pytest.mark.parametrize("density", [0.00002, 0.01, 0.5])
def test_nested_levels_survive_with_a_plan_made_for_other_values(layout: Layout, density: float) -> None:
    rng = np.random.default_rng(4)
    values = (rng.integers(1, 40, size=150_000) * (rng.random(150_000) < density)).astype(np.uint8)
    for plan in (((layout, 0), (Layout.ZERO, 0)), ((layout, 0), (layout, 0), (Layout.PACKED, 3))):
        cursor = Cursor(memoryview(write_levels(values, plan)))
        read_back = level_values(cursor, len(values))
        cursor.finish()
        np.testing.assert_array_equal(read_back.take(len(values)), values)
        read_back.finish()


def test_plan_of_zeros_is_free() -> None:
    size, plan, _ = plan_levels(np.zeros(100, np.uint8), 3)
    assert (size, plan) == (1, ((Layout.ZERO, 0),))


def mask(bits: list[int], signs: list[int], level: bytes, nonzero: int | None = None) -> bytes:
    """A MASK layout from its parts."""
    places = np.packbits(bits, bitorder="little").tobytes()
    signed = np.packbits(signs, bitorder="little").tobytes() if signs else b""
    count = sum(bits) if nonzero is None else nonzero
    return bytes([Layout.MASK]) + varint(count) + write_stream(places) + write_stream(signed) + level


ZERO = bytes([Layout.ZERO])


def digits(values: list[int], base: int) -> bytes:
    """A PACKED level."""
    return bytes([Layout.PACKED]) + write_digits(np.array(values, np.uint8), base)


def nested(depth: int) -> bytes:
    """Levels of one value, each one higher."""
    one = bytes([Layout.MASK]) + varint(1) + write_stream(b"\x01")
    return one * depth + ZERO


def test_hand_made_layouts_are_read() -> None:
    assert read(mask([0, 1, 1], [0, 1], ZERO), 3).tolist() == [0, 1, -1]
    assert read(mask([0, 1, 1], [1, 0], digits([3, 0], 4)), 3).tolist() == [0, -4, 1]
    assert read(mask([1], [0], nested(4)), 1).tolist() == [5]
    gaps = bytes([Layout.GAPS]) + varint(2) + varint(1) + write_stream(bytes([1, 255, 0])) + write_stream(b"\x01")
    assert np.flatnonzero(read(gaps + ZERO, 300)).tolist() == [1, 257]
    assert read(bytes([Layout.PACKED]) + write_digits(np.array([0, 1, 2, 3, 4], np.uint8), 3), 5).tolist() == [
        0,
        1,
        -1,
        2,
        -2,
    ]


@pytest.mark.parametrize(
    ("data", "size", "error"),
    [
        (b"", 3, TruncatedFrame),
        (bytes([4]), 3, HeaderError),
        (bytes([Layout.PACKED, 5, 0]), 3, HeaderError),  # no such base
        (bytes([Layout.PACKED, 0, 1]), 3, HeaderError),  # base 256 has no escapes
        (bytes([Layout.PACKED, 3, 4]), 3, HeaderError),  # more escapes than values
        (bytes([Layout.PACKED, 3, 0]) + write_stream(b"\xf3"), 5, EntropyError),  # 3^5 = 243
        (bytes([Layout.PACKED, 0, 0]) + write_stream(b"\x01\xff"), 2, EntropyError),  # no zigzag number 255
        (bytes([Layout.PACKED, 3, 1]) + write_stream(b"\x00") + write_stream(b"\x07"), 5, EntropyError),  # unused
        (bytes([Layout.PACKED, 3, 1]) + write_stream(b"\x08") + write_stream(b"\x07"), 5, EntropyError),  # too few
        (bytes([Layout.PACKED, 3, 1]) + write_stream(b"\x02") + write_stream(b"\xfd"), 5, EntropyError),  # 2 + 253
        (bytes([Layout.MASK]) + varint(4), 3, HeaderError),  # more nonzero than entries
        (mask([0, 1, 1], [0], ZERO, nonzero=1), 3, EntropyError),  # more bits than stated
        (mask([0, 1, 0], [0, 1], ZERO, nonzero=2), 3, EntropyError),  # fewer bits than stated
        (mask([1], [0], digits([127], 256)), 1, EntropyError),  # magnitude 128
        (mask([1], [0], nested(5)), 1, HeaderError),  # too many levels
        (mask([1], [0], bytes([9])), 1, HeaderError),
        (
            mask([1], [0], bytes([Layout.MASK]) + varint(1) + write_stream(b"\x01") + digits([254], 256)),
            1,
            EntropyError,
        ),
        (
            mask([1], [0], (bytes([Layout.MASK]) + varint(1) + write_stream(b"\x01")) * 2 + digits([254], 256)),
            1,
            EntropyError,
        ),
        (bytes([Layout.GAPS, 1, 0]) + write_stream(b"\x03") + write_stream(b"\x00") + ZERO, 3, EntropyError),  # beyond
        (bytes([Layout.GAPS, 1, 1]), 3, HeaderError),  # more continued gaps than fit
        (bytes([Layout.GAPS, 2, 0]) + write_stream(b"\x00\xff") + write_stream(b"\x00") + ZERO, 300, EntropyError),
    ],
)
def test_malformed_layout_is_refused(data: bytes, size: int, error: type[FrameError]) -> None:
    with pytest.raises(error):
        read(data, size)


def test_gap_bytes_that_only_continue_are_read_in_a_nested_level() -> None:
    values = np.zeros(255 * 5000, np.uint8)
    values[-1] = 3
    cursor = Cursor(memoryview(write_levels(values, ((Layout.GAPS, 0), (Layout.PACKED, 4)))))
    read_back = level_values(cursor, len(values))
    np.testing.assert_array_equal(read_back.take(len(values)), values)


def test_stream_hands_out_no_more_than_it_holds() -> None:
    reader = StreamReader(Method.RAW, memoryview(b"abc"), 3)
    assert bytes(reader.read(2)) == b"ab"
    with pytest.raises(EntropyError):
        reader.finish()
    with pytest.raises(EntropyError):
        reader.read(2)


@pytest.mark.parametrize("data", [b"\x80\x00", b"\xff\xff\xff\xff\xff\x01", b"\x81\x01"])
def test_number_that_is_too_long_or_too_large_is_refused(data: bytes) -> None:
    with pytest.raises(HeaderError):
        Cursor(memoryview(data)).number(128)


@given(value=st.integers(0, 2**32 - 1))
def test_numbers_read_back(value: int) -> None:
    cursor = Cursor(memoryview(varint(value)))
    assert cursor.number(2**32 - 1) == value
    assert cursor.left == 0


def test_a_long_stream_that_was_altered_is_refused_as_a_short_one_is() -> None:
    """A long one is decoded piece by piece; what it states about itself comes first, and then its blocks."""
    for count in (1_000, 1_000_000):
        data = bytes(range(16)) * count
        method, stored = compress(data)
        assert method is Method.ZSTD
        assert bytes(StreamReader(method, memoryview(stored), len(data)).read(len(data))) == data
        altered = bytearray(stored)
        altered[-8:] = b"\xff" * 8
        with pytest.raises(EntropyError):
            StreamReader(method, memoryview(altered), len(data)).read(len(data))


def test_a_layout_serves_for_symbols_of_like_density_and_is_chosen_anew_for_others() -> None:
    rng = np.random.default_rng(3)
    few, more, many = (np.where(rng.random(9000) < share, 1, 0).astype(np.int8) for share in (0.02, 0.04, 0.7))
    writer = SymbolWriter(keeps_layout=True)
    for symbols in (few, more, many, few, np.zeros(9000, np.int8), more):
        written = writer.write(symbols)
        np.testing.assert_array_equal(read(written, 9000), symbols)
        assert len(written) <= 1.05 * len(write_symbols(symbols))


def test_symbols_beyond_the_digits_of_a_layout_that_was_chosen_are_written_in_it() -> None:
    rng = np.random.default_rng(3)
    writer = SymbolWriter(keeps_layout=True)
    for largest in (1, 127, 2):
        symbols = rng.integers(-largest, largest + 1, 5000).astype(np.int8)
        np.testing.assert_array_equal(read(writer.write(symbols), 5000), symbols)

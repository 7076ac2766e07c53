"""Magnitudes as nested levels: which values are not zero, which of those are above one, and so on.

A level is stored in one of four ways. ZERO: all values are zero. PACKED: base-k digits. MASK: one bit per value says
whether it is above zero. GAPS: runs of zeros between the values above zero, as bytes. After MASK and GAPS the values
above zero, less one, follow as a level of their own. Skewed levels cost almost nothing as gaps, dense ones as masks:
the coded size stays within 2 % of the entropy from 4 bits down to a few hundredths of a bit per value.
"""

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from update_codec.entropy import StreamReader, compress
from update_codec.errors import EntropyError, HeaderError
from update_codec.frame import Cursor, varint, write_stream
from update_codec.layouts.digits import Bytes, DigitReader, write_digits
from update_codec.limits import CHUNK_ENTRIES, LEVELS_MAX

__all__ = [
    "Layout",
    "Places",
    "Plan",
    "Values",
    "bits_of",
    "level_values",
    "plan_levels",
    "write_levels",
    "write_places",
]

GAP_MAX: Final = 255
"""A gap byte of this value continues in the next byte."""
_GAP_PIECE: Final = 2048


class Layout(IntEnum):
    """How one level is stored."""

    ZERO = 0
    PACKED = 1
    MASK = 2
    GAPS = 3


Plan = tuple[tuple[Layout, int], ...]
"""Layout and base (0 where there is none) of each level, outermost first."""


def plan_levels(values: Bytes, depth: int) -> tuple[int, Plan]:
    """Return the bytes and the plan of the smallest way to store `values`, found by trying.

    Args:
        values: a sample, or all values.
        depth: how many further levels may be used, at least one.
    """
    if not values.any():
        return 1, ((Layout.ZERO, 0),)
    tried = [(len(write_digits(values, base)) + 1, ((Layout.PACKED, base),)) for base in (2, 3, 4, 16, 256)]
    best: tuple[int, Plan] = min(tried)
    if depth > 1:
        positions = np.flatnonzero(values != 0)
        size, inner = plan_levels(values[positions] - np.uint8(1), depth - 1)
        for layout in (Layout.MASK, Layout.GAPS):
            places = _places(values, positions, layout)
            best = min(best, (size + len(compress(places)[1]) + 6, ((layout, 0), *inner)))
    return best


def write_levels(values: Bytes, plan: Sequence[tuple[Layout, int]]) -> bytes:
    """Store values by a plan; where the plan turns out not to fit, as plain digits."""
    layout, base = plan[0]
    if not values.any():
        return bytes([Layout.ZERO])
    if layout in (Layout.MASK, Layout.GAPS):
        positions = np.flatnonzero(values != 0)
        places = write_places(values, positions, layout)
        return bytes([layout]) + places + write_levels(values[positions] - np.uint8(1), plan[1:])
    return bytes([Layout.PACKED]) + write_digits(values, base or 16)


def write_places(values: NDArray[np.uint8 | np.int8], positions: NDArray[np.int64], layout: Layout) -> bytes:
    """Store which values are not zero: their number, for GAPS the number of continued bytes, and the stream."""
    places = _places(values, positions, layout)
    extra = varint(len(places) - len(positions)) if layout is Layout.GAPS else b""
    return varint(len(positions)) + extra + write_stream(places)


def _places(values: NDArray[np.uint8 | np.int8], positions: NDArray[np.int64], layout: Layout) -> bytes:
    if layout is Layout.MASK:
        return np.packbits(values != 0, bitorder="little").tobytes()
    gaps = positions.copy()
    gaps[1:] -= positions[:-1] + 1
    ends = np.cumsum(gaps // GAP_MAX + 1) - 1
    out = np.full(int(ends[-1]) + 1, GAP_MAX, np.uint8)
    out[ends] = gaps % GAP_MAX
    return out.tobytes()


class Values:
    """Hands out values of a generator of blocks in any piece size."""

    def __init__(self, blocks: Iterator[Bytes]) -> None:
        self._blocks = blocks
        self._ready = np.empty(0, np.uint8)

    def take(self, count: int) -> Bytes:
        """Return the next `count` values.

        Raises:
            EntropyError: if there are fewer.
        """
        while len(self._ready) < count:
            block = next(self._blocks, None)
            if block is None:
                raise EntropyError("there are more positions than values")
            self._ready = np.concatenate([self._ready, block]) if len(self._ready) else block
        piece, self._ready = self._ready[:count], self._ready[count:]
        return piece

    def finish(self) -> None:
        """Raise `EntropyError` if a value is left."""
        if len(self._ready) or next(self._blocks, None) is not None:
            raise EntropyError("there are more values than positions")


def level_values(cursor: Cursor, count: int, depth: int = LEVELS_MAX) -> Values:
    """Read the fields of a level and of those inside it; return its `count` values, still compressed.

    Raises:
        HeaderError: if a layout is unknown or the levels are too many.
        FrameError: as the streams do.
    """
    layout = cursor.byte()
    if layout not in set(Layout) or not depth:
        raise HeaderError(f"{layout} is not a layout of this format, or there are more than {LEVELS_MAX} levels")
    if layout == Layout.ZERO:
        return Values(_zeros(count))
    if layout == Layout.PACKED:
        return Values(DigitReader(cursor, count).values())
    places = Places(cursor, count, Layout(layout))
    inner = level_values(cursor, places.nonzero, depth - 1)
    return Values(_mask_blocks(places, inner) if layout == Layout.MASK else _gap_blocks(places, inner))


class Places:
    """The stream that says which of `size` values are not zero."""

    def __init__(self, cursor: Cursor, size: int, layout: Layout) -> None:
        self.size = size
        self.nonzero = cursor.number(size)
        extra = cursor.number(size // GAP_MAX) if layout is Layout.GAPS else 0
        self.gap_count = self.nonzero + extra
        self.stream = cursor.stream(self.gap_count if layout is Layout.GAPS else -(-size // 8))

    def masks(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield (entries of the piece, positions within it) of a MASK."""
        for bits in bits_of(self.stream, self.size):
            yield len(bits), np.flatnonzero(bits.view(np.bool_))

    def gaps(self, piece: int) -> Iterator[NDArray[np.int64]]:
        """Yield increasing positions of GAPS, from at most `piece` bytes at a time.

        Raises:
            EntropyError: if a position is beyond the end.
        """
        place = -1
        for start in range(0, self.gap_count, piece):
            gaps = np.frombuffer(self.stream.read(min(piece, self.gap_count - start)), np.uint8)
            ends = gaps != GAP_MAX
            steps = np.cumsum(gaps + ends.astype(np.int64)) + place
            place = int(steps[-1])
            if place >= self.size:
                raise EntropyError("a position is beyond the end")
            yield steps[ends]
        self.stream.finish()


def bits_of(stream: StreamReader, count: int) -> Iterator[Bytes]:
    """Yield the bits of a stream as bytes of 0 and 1, lowest bit first, then check that it ends."""
    for start in range(0, count, CHUNK_ENTRIES):
        size = min(CHUNK_ENTRIES, count - start)
        piece = np.frombuffer(stream.read(-(-size // 8)), np.uint8)
        yield np.unpackbits(piece, count=size, bitorder="little")
    stream.finish()


def _zeros(count: int) -> Iterator[Bytes]:
    for start in range(0, count, CHUNK_ENTRIES):
        yield np.zeros(min(CHUNK_ENTRIES, count - start), np.uint8)


def _mask_blocks(places: Places, inner: Values) -> Iterator[Bytes]:
    for size, positions in places.masks():
        yield _spread(size, positions, inner)
    inner.finish()


def _gap_blocks(places: Places, inner: Values) -> Iterator[Bytes]:
    start = 0
    for positions in places.gaps(_GAP_PIECE):
        if len(positions):
            end = int(positions[-1]) + 1
            yield _spread(end - start, positions - start, inner)
            start = end
    inner.finish()
    yield from _zeros(places.size - start)


def _spread(size: int, positions: NDArray[np.int64], inner: Values) -> Bytes:
    values = inner.take(len(positions))
    if len(values) and values.max() == 255:
        raise EntropyError("a value is above 255")
    out = np.zeros(size, np.uint8)
    out[positions] = values + np.uint8(1)
    return out

"""Magnitudes as nested levels: which values are not zero, which of those are above one, and so on.

A level is stored in one of four ways. ZERO: all values are zero. PACKED: base-k digits. MASK: one bit per value says
whether it is above zero. GAPS: runs of zeros between the values above zero, as bytes. After MASK and GAPS the values
above zero, less one, follow as a level of their own. Skewed levels cost almost nothing as gaps, dense ones as masks:
the coded size stays within 2 % of the entropy from 4 bits down to a few hundredths of a bit per value.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from update_codec.entropy import StreamReader, compress
from update_codec.errors import EntropyError, HeaderError
from update_codec.frame import Cursor, varint
from update_codec.kernel import kernel
from update_codec.layouts.digits import Bytes, DigitReader, write_digits
from update_codec.limits import CHUNK_ENTRIES, LEVELS_MAX

__all__ = [
    "ALL_BITS",
    "GAP_PIECE",
    "LAYOUTS",
    "Dense",
    "Layout",
    "Places",
    "Plan",
    "Sparse",
    "Values",
    "bits_of",
    "both_places",
    "level_values",
    "plan_levels",
    "write_levels",
    "write_places",
]

ALL_BITS: Final = np.arange(256, dtype=np.uint8)
"""Of a byte of eight places, which of them are set."""
GAP_MAX: Final = 255
"""A gap byte of this value continues in the next byte."""
GAP_PIECE: Final = 12_288
"""Gap bytes expanded at a time."""
_INNER_PIECE: Final = 6_144
"""The same of a level inside another: several wait at once."""
_BLOCK_MAX: Final = 1 << 18
"""Entries of a block of values, where gaps are wide."""


class Layout(IntEnum):
    """How one level is stored."""

    ZERO = 0
    PACKED = 1
    MASK = 2
    GAPS = 3


LAYOUTS: Final = frozenset(Layout)
"""Those that there are: to ask an enumeration again for each frame costs ten times as much."""

Plan = tuple[tuple[Layout, int], ...]
"""Layout and base (0 where there is none) of each level, outermost first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparse:
    """Values of which few are not zero, as those and their places."""

    size: int
    """All values, the zeros too."""
    positions: NDArray[np.uint32]
    """Increasing."""
    values: NDArray[np.int8]
    """None of them zero."""

    def __len__(self) -> int:
        """All values, the zeros too."""
        return self.size

    def dense(self, start: int = 0, stop: int | None = None) -> NDArray[np.int8]:
        """The values from `start` to before `stop`, zeros too."""
        end = self.size if stop is None else stop
        low, high = np.searchsorted(self.positions, np.array((start, end), np.uint32))
        out = np.zeros(end - start, np.int8)
        out[self.positions[low:high] - start] = self.values[low:high]
        return out


Dense = NDArray[np.uint8 | np.int8]


def plan_levels(values: Bytes, depth: int) -> tuple[int, Plan, bytes]:
    """Return an estimate of the bytes, the plan of the smallest way to store `values`, found by trying, and the bytes.

    Args:
        values: a sample, or all values.
        depth: how many further levels may be used, at least one.
    """
    if not values.any():
        return 1, ((Layout.ZERO, 0),), bytes([Layout.ZERO])
    tried: list[tuple[int, Plan, bytes]] = []
    for base in (2, 3, 4, 16, 256):
        written = bytes([Layout.PACKED]) + write_digits(values, base)
        tried.append((len(written), ((Layout.PACKED, base),), written))
    if depth > 1:
        nonzero, ways = both_places(values)
        size, inner, written = plan_levels(nonzero.view(np.uint8) - np.uint8(1), depth - 1)
        tried += [(size + way.bytes + 6, ((way.layout, 0), *inner), way.written + written) for way in ways]
    return min(tried)


def write_levels(values: Bytes, plan: Sequence[tuple[Layout, int]]) -> bytes:
    """Store values by a plan; where the plan turns out not to fit, as plain digits."""
    layout, base = plan[0]
    if not values.any():
        return bytes([Layout.ZERO])
    if layout in (Layout.MASK, Layout.GAPS):
        nonzero, places = write_places(values, layout)
        return places + write_levels(nonzero.view(np.uint8) - np.uint8(1), plan[1:])
    return bytes([Layout.PACKED]) + write_digits(values, base or 16)


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to store which values are not zero."""

    layout: Layout
    written: bytes
    """The layout's byte, their number, for GAPS the number of continued bytes, and the stream."""
    bytes: int
    """Of the stream."""


def both_places(values: Dense) -> tuple[Dense, list[_Way]]:
    """The values that are not zero, and where they are, as a mask and as gaps."""
    positions, nonzero = kernel().nonzero(values)
    gaps = kernel().gap_bytes(positions)
    return nonzero, [_way(Layout.MASK, _mask(values), len(nonzero)), _way(Layout.GAPS, gaps, len(nonzero))]


def write_places(values: Dense | Sparse, layout: Layout) -> tuple[Dense, bytes]:
    """The values that are not zero, and where they are, stored in one layout after its byte."""
    if layout is Layout.MASK:
        nonzero = values.values if isinstance(values, Sparse) else kernel().squeeze(values)
        return nonzero, _way(layout, _mask(values), len(nonzero)).written
    found: tuple[NDArray[np.uint32], Dense]
    found = (values.positions, values.values) if isinstance(values, Sparse) else kernel().nonzero(values)
    return found[1], _way(layout, kernel().gap_bytes(found[0]), len(found[1])).written


def _way(layout: Layout, places: Bytes, nonzero: int) -> _Way:
    extra = varint(len(places) - nonzero) if layout is Layout.GAPS else b""
    method, stored = compress(places.data)
    head = bytes([layout]) + varint(nonzero) + extra + varint(len(stored) << 1 | method)
    return _Way(layout, head + stored, len(stored))


def _mask(values: Dense | Sparse) -> Bytes:
    """A bit for each value, 1 where it is not zero."""
    if not isinstance(values, Sparse):
        return np.packbits(values != 0, bitorder="little")
    marks = np.zeros(values.size, np.bool_)
    marks[values.positions] = True
    return np.packbits(marks, bitorder="little")


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
    if layout not in LAYOUTS or not depth:
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

    def bits(self, piece: int) -> Iterator[tuple[int, int, Bytes]]:
        """Yield (first entry, entries, a bit for each) of a MASK, at most `piece` entries, then check that it ends."""
        for start in range(0, self.size, piece):
            size = min(piece, self.size - start)
            yield start, size, np.frombuffer(self.stream.read(-(-size // 8)), np.uint8)
        self.stream.finish()

    def gaps(self, piece: int) -> Iterator[NDArray[np.int64]]:
        """Yield increasing positions of GAPS, from at most `piece` bytes at a time.

        Raises:
            EntropyError: if a position is beyond the end.
        """
        place = -1
        for start in range(0, self.gap_count, piece):
            gaps = np.frombuffer(self.stream.read(min(piece, self.gap_count - start)), np.uint8)
            positions, place = kernel().gap_positions(gaps, place)
            if place >= self.size:
                raise EntropyError("a position is beyond the end")
            yield positions
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
    for _, size, bits in places.bits(CHUNK_ENTRIES):
        yield _spread(size, kernel().marked(ALL_BITS, 8, bits, size), inner)
    inner.finish()


def _gap_blocks(places: Places, inner: Values) -> Iterator[Bytes]:
    start = 0
    for positions in places.gaps(_INNER_PIECE):
        # Most often all at once. Gaps may be wide, and a block must not be.
        is_wide = len(positions) > 0 and positions[-1] - start > _BLOCK_MAX
        count = _BLOCK_MAX // GAP_MAX if is_wide else _INNER_PIECE
        for first in range(0, len(positions), count):
            some = positions[first : first + count]
            end = int(some[-1]) + 1
            yield _spread(end - start, some - start, inner)
            start = end
    inner.finish()
    yield from _zeros(places.size - start)


def _spread(size: int, positions: NDArray[np.int64], inner: Values) -> Bytes:
    values = inner.take(len(positions))
    if len(values) and values.max() == 255:
        raise EntropyError("a value is above 255")
    return kernel().spread(positions, values + np.uint8(1), size)

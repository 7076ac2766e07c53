"""How the symbols of one group become byte streams, and back without ever holding all of them.

Symbols are integers from -127 to 127. All layouts share one reader: `Symbols.feed` looks every symbol up in a table
and hands the values on, piece by piece. What is zero in a sparse layout is never touched, so a table must have 0 for
the symbol 0.
"""

from collections.abc import Iterator
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from update_codec.errors import EntropyError, HeaderError
from update_codec.frame import Cursor, write_stream
from update_codec.kernel import Marks, kernel
from update_codec.layouts.digits import Bytes, DigitReader, escaping, expansion, write_digits
from update_codec.layouts.levels import (
    ALL_BITS,
    GAP_PIECE,
    LAYOUTS,
    Dense,
    Layout,
    Places,
    Plan,
    Sparse,
    Values,
    bits_of,
    both_places,
    level_values,
    plan_levels,
    write_levels,
    write_places,
)
from update_codec.limits import CHUNK_ENTRIES, LEVELS_MAX, PIECE_ENTRIES, SYMBOL_MAX

__all__ = ["Sink", "SymbolWriter", "Symbols", "Where", "write_symbols"]

SAMPLE_ENTRIES: Final = 1 << 16
"""Symbols on which the layouts are tried out."""
_SAMPLE_RUNS: Final = 8
_ALIKE: Final = 4
"""Symbols of another step are written in a layout that was chosen for at most so many times as many."""


Where = int | NDArray[np.int64]
"""First of consecutive entries, or increasing positions of single ones, within the group."""


class Sink(Protocol):
    """Where decoded values go; positions count within the group."""

    def dense(self, start: int, values: NDArray[Any]) -> None:
        """Take consecutive values."""

    def sparse(self, positions: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Take single values at increasing positions."""

    def room(self, start: int, count: int) -> NDArray[Any] | None:
        """Where consecutive values are added, in one piece; None where the sink does something else with them."""


class SymbolWriter:
    """Encodes the symbols of one group: layout byte, then its fields and streams.

    Args:
        keeps_layout: whether the layout of the first symbols serves for those of other steps, too, unless far more or
            far fewer of them are not zero. To choose one takes four times as long as to write in it.
    """

    def __init__(self, *, keeps_layout: bool = False) -> None:
        self._keeps_layout = keeps_layout
        self._plan: Plan | None = None
        self._nonzero = 0

    def write(self, symbols: NDArray[np.int8] | Sparse) -> bytes:
        """Encode symbols in the layout that is smallest on a sample."""
        if isinstance(symbols, Sparse) and len(symbols) <= SAMPLE_ENTRIES:
            symbols = symbols.dense()
        nonzero = symbols.positions.size if isinstance(symbols, Sparse) else int(np.count_nonzero(symbols))
        if not nonzero:
            return bytes([Layout.ZERO])
        if self._plan is not None and self._nonzero < _ALIKE * nonzero and nonzero < _ALIKE * self._nonzero:
            return _write(symbols, self._plan)
        sample = _sample(symbols)
        tried = list(_tried(sample))
        if not tried:  # a sample that missed the few there are
            return _write(symbols, ((Layout.GAPS, 0), (Layout.PACKED, 16)))
        _, plan, written = min((len(written), plan, written) for plan, written in tried)
        if self._keeps_layout:
            self._plan, self._nonzero = plan, nonzero
        return written if sample is symbols else _write(symbols, plan)


def write_symbols(symbols: NDArray[np.int8] | Sparse) -> bytes:
    """Encode symbols in the layout that is smallest on a sample: layout byte, then its fields and streams."""
    return SymbolWriter().write(symbols)


def _sample(symbols: NDArray[np.int8] | Sparse) -> NDArray[np.int8]:
    """All of them, or several runs, because zstd sees neighbours and a model's layers differ."""
    if len(symbols) <= SAMPLE_ENTRIES and not isinstance(symbols, Sparse):
        return symbols
    width = SAMPLE_ENTRIES // _SAMPLE_RUNS
    starts = np.linspace(0, len(symbols) - width, _SAMPLE_RUNS).astype(int).tolist()
    if isinstance(symbols, Sparse):
        return np.concatenate([symbols.dense(start, start + width) for start in starts])
    return np.concatenate([symbols[start : start + width] for start in starts])


def _tried(symbols: NDArray[np.int8]) -> Iterator[tuple[Plan, bytes]]:
    """The plans that can win at this density of nonzero symbols, and what each writes."""
    density = np.count_nonzero(symbols) / len(symbols)
    if density > 0.1:
        values = kernel().zigzag(symbols)
        for base in (3, 4, 6, 16, 256):
            yield ((Layout.PACKED, base),), bytes([Layout.PACKED]) + write_digits(values, base)
    if 0 < density < 0.75:
        nonzero, ways = both_places(symbols)
        _, inner, written = plan_levels(_magnitudes(nonzero), LEVELS_MAX - 1)
        rest = _signs(nonzero) + written
        for way in ways:
            yield ((way.layout, 0), *inner), way.written + rest


def _write(symbols: NDArray[np.int8] | Sparse, plan: Plan) -> bytes:
    layout, base = plan[0]
    if layout is Layout.PACKED:
        dense = symbols.dense() if isinstance(symbols, Sparse) else symbols
        return bytes([layout]) + write_digits(kernel().zigzag(dense), base)
    nonzero, places = write_places(symbols, layout)
    return places + _signs(nonzero) + write_levels(_magnitudes(nonzero), plan[1:])


def _signs(nonzero: Dense) -> bytes:
    return write_stream(np.packbits(nonzero < 0, bitorder="little").data)


def _magnitudes(nonzero: Dense) -> Bytes:
    """Of symbols that are not zero, less one."""
    values = np.abs(nonzero).view(np.uint8)
    values -= np.uint8(1)
    return values


class Symbols:
    """The symbols of one group, still compressed; they can be fed once.

    Args:
        cursor: stands on the layout byte.
        size: entries of the group.

    Raises:
        FrameError: if the layout, a count or a stream is not acceptable.
    """

    def __init__(self, cursor: Cursor, size: int) -> None:
        layout = cursor.byte()
        if layout not in LAYOUTS:
            raise HeaderError(f"{layout} is not a layout of this format")
        self.layout = Layout(layout)
        self.nonzero = size
        self._places: Places | None = None
        self._digits: DigitReader | None = None
        if layout == Layout.ZERO:
            self.nonzero = 0
        elif layout == Layout.PACKED:
            self._digits = DigitReader(cursor, size)
        else:
            self._places = Places(cursor, size, self.layout)
            self.nonzero = self._places.nonzero
            signs = cursor.stream(-(-self.nonzero // 8))
            self._signs = Values(bits_of(signs, self.nonzero))
            self._magnitudes = level_values(cursor, self.nonzero, LEVELS_MAX - 1)

    def feed(self, table: NDArray[Any], sink: Sink) -> None:
        """Look up every symbol and hand the values to `sink`.

        Args:
            table: 255 values of any type; entry 127 + q belongs to the symbol q, entry 127 is 0.
            sink: takes the values.

        Raises:
            EntropyError: if a stream is malformed; the sink may have taken part of the values.
        """
        for where, values in self._left(table, sink):
            if isinstance(where, int):
                sink.dense(where, values)
            else:
                sink.sparse(where, values)

    def _left(self, table: NDArray[Any], sink: Sink | None) -> Iterator[tuple[Where, NDArray[Any]]]:
        """Add what can be added at once, in the sink's own memory, and yield the other values."""
        if self._digits is not None:
            yield from _packed_pieces(self._digits, table, sink)
        if self._places is not None:
            yield from self._place_pieces(self._places, table, sink)

    def pieces(self, table: NDArray[Any]) -> Iterator[tuple[Where, NDArray[Any]]]:
        """Yield the values in increasing order: consecutive ones with their start, or single ones with their positions.

        Args:
            table: as for `feed`.

        Raises:
            EntropyError: if a stream is malformed.
        """
        yield from self._left(table, None)

    def _place_pieces(
        self, places: Places, table: NDArray[Any], sink: Sink | None
    ) -> Iterator[tuple[Where, NDArray[Any]]]:
        signed = np.zeros(256, table.dtype)  # index: magnitude - 1, plus 128 for a negative sign
        signed[:SYMBOL_MAX] = table[SYMBOL_MAX + 1 :]
        signed[128 : 128 + SYMBOL_MAX] = table[SYMBOL_MAX - 1 :: -1]
        if self.layout is Layout.MASK:
            for start, size, bits in places.bits(PIECE_ENTRIES):
                room = None if sink is None else sink.room(start, size)
                if room is not None:
                    indices = self._indices(kernel().count_marked(ALL_BITS, 8, bits, size))
                    kernel().add_marked(room, signed, Marks(ALL_BITS, 8, bits), indices)
                else:
                    yield from self._marked_pieces(start, size, bits, signed)
        else:
            for positions in places.gaps(GAP_PIECE):
                yield positions, self._nonzero(len(positions), signed)
        self._magnitudes.finish()
        self._signs.finish()

    def _marked_pieces(
        self, start: int, size: int, bits: Bytes, signed: NDArray[Any]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
        for begin in range(0, size, CHUNK_ENTRIES):
            positions = kernel().marked(ALL_BITS, 8, bits[begin // 8 :], min(CHUNK_ENTRIES, size - begin))
            values = self._nonzero(len(positions), signed)
            positions += start + begin
            yield positions, values

    def _nonzero(self, count: int, signed: NDArray[Any]) -> NDArray[Any]:
        """Return the table's values for the next nonzero symbols."""
        return kernel().rows(signed[:, None], self._indices(count), count)

    def _indices(self, count: int) -> Bytes:
        """Magnitudes less one of the next nonzero symbols, plus 128 for a negative sign."""
        magnitudes = self._magnitudes.take(count)
        if count and magnitudes.max() >= SYMBOL_MAX:
            raise EntropyError(f"a magnitude is above {SYMBOL_MAX}")
        return magnitudes + (self._signs.take(count) << 7)


def _packed_pieces(digits: DigitReader, table: NDArray[Any], sink: Sink | None) -> Iterator[tuple[Where, NDArray[Any]]]:
    """Look up whole packed bytes: each gives several consecutive values at once."""
    zigzag = np.zeros(256, table.dtype)  # 0, 1, -1, 2, -2 … are the numbers 0, 1, 2, 3, 4 …
    zigzag[0:255:2] = table[SYMBOL_MAX::-1]
    zigzag[1:255:2] = table[SYMBOL_MAX + 1 :]
    escaped = zigzag
    if digits.escapes:  # their values come apart
        zigzag = zigzag.copy()
        zigzag[digits.base - 1] = 0
    wide = zigzag[: digits.base][expansion(digits.base)]
    start = 0
    for piece in digits.packed(PIECE_ENTRIES):
        count = min(len(piece) * digits.width, digits.count - start)
        room = None if sink is None else sink.room(start, count)
        if room is None:
            for begin in range(0, count, CHUNK_ENTRIES):
                chosen, size = piece[begin // digits.width :], min(CHUNK_ENTRIES, count - begin)
                values = kernel().rows(wide, chosen, size)
                _add_escaped(values, digits, chosen, escaped)
                yield start + begin, values
        else:
            kernel().add_rows(room, wide, piece)
            _add_escaped(room, digits, piece, escaped)
        start += count


def _add_escaped(target: NDArray[Any], digits: DigitReader, packed: Bytes, table: NDArray[Any]) -> None:
    """Add the values that come apart to zeros of a vector of digits."""
    if digits.escapes:
        where = Marks(escaping(digits.base), digits.width, packed)
        count = kernel().count_marked(where.masks, where.width, where.chosen, len(target))
        kernel().add_marked(target, table, where, digits.escaped(count))

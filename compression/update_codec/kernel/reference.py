"""The kernel's loops in NumPy: what they mean, and what runs where no library is."""

import math
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from update_codec.kernel.operands import F32, Bytes, Marks, Picked, Places, Positions, Scale, Small
from update_codec.limits import CHUNK_ENTRIES, SYMBOL_MAX

__all__ = ["BINS", "FOLD", "Reference"]


FOLD: Final = 1 << 14
"""Squares are added in rows of so many entries, halving the row until one is left."""
BINS: Final = 3
"""Magnitudes of symbols that are counted apart: 1, 2, and all above."""

_BLOCK: Final = 16_384
"""Entries at a time, in buffers that stay in the cache."""
_PIECE: Final = 1 << 15
"""The same, of less."""
_DIGITS: Final = 4 * CHUNK_ENTRIES
"""Values packed at a time."""
_REST: Final = 512
"""Entries down to which a row is halved before the next is begun."""
_GAP_MAX: Final = 255
_NONE: Final = np.empty(0, np.int64)


class Reference:
    """Loops in NumPy."""

    name = "numpy"

    def rows(self, table: NDArray[Any], chosen: Bytes, size: int) -> NDArray[Any]:
        """The rows that bytes choose, one after the other, cut to `size` entries.

        Args:
            table: any type, shape (rows, width).
            chosen: uint8, at least size / width of them.
            size: entries of the result.

        Raises:
            IndexError: if a byte chooses a row that there is not.
        """
        width = table.shape[1]
        # Taking rows is fast, and so is indexing single entries; each is slow where the other is fast.
        chosen = chosen[: -(-size // width)]
        found = np.take(table, chosen, axis=0).reshape(-1) if width > 1 else table[:, 0][chosen]
        return found[:size]

    def add_rows(self, target: NDArray[Any], table: NDArray[Any], chosen: Bytes) -> None:
        """Add such rows to a vector, as many entries as it has.

        Raises:
            IndexError: if a byte chooses a row that there is not; some entries may have been added.
        """
        width = table.shape[1]
        for start in range(0, len(target), CHUNK_ENTRIES // width * width):
            piece = target[start : start + CHUNK_ENTRIES // width * width]
            piece += self.rows(table, chosen[start // width :], len(piece))

    def marked(self, masks: Bytes, width: int, chosen: Bytes, size: int) -> Places:
        """Positions of set bits.

        Args:
            masks: uint8, shape (256,): which of its `width` places each byte stands for are set, the lowest bit first.
            width: at most 8.
            chosen: uint8, at least size / width of them.
            size: places in all.
        """
        bits = np.unpackbits(masks[chosen[: -(-size // width)]], bitorder="little").reshape(-1, 8)[:, :width]
        return np.flatnonzero(bits.reshape(-1)[:size].view(np.bool_))

    def count_marked(self, masks: Bytes, width: int, chosen: Bytes, size: int) -> int:
        """How many there are."""
        whole = size // width
        counts = np.unpackbits(masks[:, None], axis=1).sum(axis=1, dtype=np.uint8)
        rest = int(masks[chosen[whole]]) & ((1 << size % width) - 1) if size % width else 0
        return int(counts[chosen[:whole]].sum()) + rest.bit_count()

    def add_marked(self, target: NDArray[Any], table: NDArray[Any], where: Marks, indices: Bytes) -> None:
        """Add the table's entries, in the order of the indices, at set places.

        Args:
            target: float32 or int64.
            table: of the same type, shape (256,).
            where: which places of the target are set.
            indices: as many as there are.

        Raises:
            ValueError: if there are more of them, or fewer; some entries may have been added.
        """
        width, used = where.width, 0
        for start in range(0, len(target), CHUNK_ENTRIES // width * width):
            piece = target[start : start + CHUNK_ENTRIES // width * width]
            places = self.marked(where.masks, width, where.chosen[start // width :], len(piece))
            piece[places] += table[indices[used : used + len(places)]]
            used += len(places)
        if used != len(indices):
            raise ValueError("there are more values than places")

    def gap_positions(self, gaps: Bytes, place: int) -> tuple[Places, int]:
        """Positions that gaps tell, and the last place: a byte of 255 goes on in the next.

        Args:
            gaps: uint8, not empty.
            place: the last one before them, -1 at the beginning.
        """
        ends = gaps != 255
        steps = np.cumsum(gaps + ends.astype(np.int64)) + place
        return steps[ends], int(steps[-1])

    def add_at(self, target: NDArray[Any], positions: Places | Positions, values: NDArray[Any]) -> None:
        """Add values at distinct positions, int64 or uint32, none of them negative.

        Raises:
            IndexError: if one is beyond the end.
        """
        target[positions] += values

    def spread(self, positions: Places, values: Bytes, size: int) -> Bytes:
        """Values at distinct positions, none of them negative, among zeros.

        Raises:
            IndexError: if one is beyond the end.
        """
        out = np.zeros(size, np.uint8)
        out[positions] = values
        return out

    def add_scaled(self, sums: Places, values: NDArray[np.float32], factor: float) -> None:
        """Add rint(value · factor) to int64 sums; the products are below 2^62."""
        block = min(len(values), _BLOCK)
        wide, whole = np.empty(block), np.empty(block, np.int64)
        for start in range(0, len(values), _BLOCK):
            piece = values[start : start + _BLOCK]
            scaled, rounded = wide[: len(piece)], whole[: len(piece)]
            np.multiply(piece, factor, out=scaled, dtype=np.float64)
            np.rint(scaled, out=scaled)
            rounded[:] = scaled
            view = sums[start : start + len(piece)]
            view += rounded

    def peak(self, values: F32) -> float:
        """The largest magnitude; 0 for an empty vector, NaN if an entry is."""
        peaks = [0.0]
        for start in range(0, len(values), _PIECE):
            piece = values[start : start + _PIECE]
            peaks += (float(piece.max()), -float(piece.min()))
        return float(np.max(peaks))

    def row_sums(self, values: F32) -> F32:
        """Sums of squares of rows of `FOLD`, the last one filled with zeros.

        A row is halved until one entry is left: its first half plus its second half. Each row in the cache down to a
        few entries, and all together from there on.
        """
        rest = np.empty((-(-len(values) // FOLD), _REST), np.float32)
        first, second = np.empty((2, FOLD // 2), np.float32)
        steps = range(FOLD.bit_length() - 3, _REST.bit_length() - 2, -1)
        halves = [(first[: 1 << bits], first[1 << bits : 2 << bits]) for bits in steps]
        for row, target in enumerate(rest):
            piece = values[row * FOLD : (row + 1) * FOLD]
            if len(piece) < FOLD:
                piece = np.concatenate([piece, np.zeros(FOLD - len(piece), np.float32)])
            np.multiply(piece[: FOLD // 2], piece[: FOLD // 2], out=first)
            np.multiply(piece[FOLD // 2 :], piece[FOLD // 2 :], out=second)
            first += second
            for left, right in halves:
                np.add(left, right, out=left if len(left) > _REST else target)
        while (half := rest.shape[1] // 2) > 0:
            rest = np.add(rest[:, :half], rest[:, half:], out=rest[:, :half])
        return rest[:, 0]

    def quantize(self, values: F32, scale: Scale, symbols: NDArray[np.int8], peak: float = math.inf) -> Places:
        """Write the symbols of finite values, and return the positions beyond the last one, whose symbol is 0.

        Args:
            values: to be quantized.
            scale: how.
            symbols: as many, to be written.
            peak: no magnitude is larger.
        """
        exceeds = scale.exceeds(peak)
        beyond, buffers = [_NONE], np.empty((2, min(len(values), _PIECE)), np.float32)
        for start in range(0, len(values), _PIECE):
            piece = values[start : start + _PIECE]
            scaled = scale.of(piece, buffers[:, : len(piece)])
            if exceeds:
                beyond.append(_cut(scaled) + start)
            symbols[start : start + len(piece)] = scaled
        return np.concatenate(beyond)

    def large(self, values: F32, limit: float, first: int) -> tuple[Positions, F32]:
        """Positions, counted from `first`, and values of what is not below `limit`, a float32 value."""
        magnitudes, marks = np.empty((min(len(values), _PIECE)), np.float32), np.empty(_PIECE, np.bool_)
        positions, found = [np.empty(0, np.uint32)], [np.empty(0, np.float32)]
        for start in range(0, len(values), _PIECE):
            piece = values[start : start + _PIECE]
            size = len(piece)
            np.greater_equal(np.abs(piece, out=magnitudes[:size]), np.float32(limit), out=marks[:size])
            places = np.flatnonzero(marks[:size])
            found.append(piece.take(places))
            positions.append(places.astype(np.uint32) + np.uint32(first + start))
        return np.concatenate(positions), np.concatenate(found)

    def pick(self, positions: Positions, values: F32, scale: Scale, stride: int) -> Picked:
        """Symbols of single finite values that are not zero.

        Args:
            positions: uint32, increasing.
            values: as many.
            scale: of the quantizer.
            stride: see `Picked.shown`.
        """
        scaled = scale.of(values, np.empty((2, len(values)), np.float32))
        outliers = positions[_cut(scaled)].astype(np.int64)
        symbols = scaled.astype(np.int8)
        places = np.flatnonzero(symbols != 0)
        kept = positions[places]
        some = places[kept // np.uint32(stride) * np.uint32(stride) == kept]
        return Picked(kept, symbols[places], outliers, (values[some], symbols[some]))

    def excess(self, values: F32, symbols: NDArray[np.int8], step: float) -> tuple[Places, NDArray[np.float64]]:
        """For magnitudes of 1, of 2, and above: how many symbols, and the sum of |value| / step - |symbol|.

        The sums are of float64, one after the other; symbols that are zero do not count.
        """
        places = np.flatnonzero(symbols != 0)
        magnitudes = np.abs(symbols[places])
        excess = np.abs(values[places].astype(np.float64)) / step - magnitudes
        bins = np.minimum(magnitudes, BINS) - 1
        counts: Places = np.bincount(bins, minlength=BINS).astype(np.int64)
        sums: NDArray[np.float64] = np.bincount(bins, weights=excess, minlength=BINS).astype(np.float64)
        return counts, sums

    def nonzero(self, values: Small) -> tuple[Positions, Small]:
        """Positions, uint32, and values of what is not zero among bytes.

        A piece at a time: a position of NumPy takes eight times the room of a value.
        """
        positions, found = [np.empty(0, np.uint32)], [values[:0]]
        for start in range(0, len(values), _PIECE):
            piece = values[start : start + _PIECE]
            places = np.flatnonzero(piece != 0)  # of bytes that are not bool it takes five times as long
            found.append(piece.take(places))
            positions.append(places.astype(np.uint32) + np.uint32(start))
        return np.concatenate(positions), np.concatenate(found)

    def squeeze(self, values: Small) -> Small:
        """What is not zero among bytes."""
        return self.nonzero(values)[1]

    def gap_bytes(self, positions: Positions) -> Bytes:
        """Gaps before increasing positions, as bytes of which 255 goes on in the next; see `gap_positions`."""
        streams, before = [np.empty(0, np.uint8)], -1
        for start in range(0, len(positions), _PIECE):
            piece = positions[start : start + _PIECE].astype(np.int64)
            gaps = np.empty_like(piece)
            gaps[0] = piece[0] - before
            np.subtract(piece[1:], piece[:-1], out=gaps[1:])
            gaps -= 1
            before = int(piece[-1])
            streams.append(_gap_bytes(gaps))
        return np.concatenate(streams)

    def pack(self, values: Bytes, base: int, width: int) -> Bytes:
        """Digits of a base, `width` to a byte, the lowest first; larger values as the largest digit.

        A piece at a time: what it is on the way stays in the cache.
        """
        packed, is_over = np.empty(-(-len(values) // width), np.uint8), values.max(initial=0) >= base
        for start in range(0, len(values), _DIGITS):
            digits = values[start : start + _DIGITS]
            if is_over:
                digits = np.minimum(digits, _limit(base)[: len(digits)])
            if len(digits) % width:
                digits = np.concatenate([digits, np.zeros(-len(digits) % width, np.uint8)])
            packed[start // width : (start + _DIGITS) // width] = _together(digits, base, width)
        return packed

    def above(self, values: Bytes, limit: int) -> Bytes:
        """Values of at least `limit`, less it, in their order."""
        found = [values[:0]]
        for start in range(0, len(values), _DIGITS):
            piece = values[start : start + _DIGITS]
            found.append(piece[np.flatnonzero(piece >= limit)] - np.uint8(limit))
        return np.concatenate(found)

    def zigzag(self, symbols: NDArray[np.int8]) -> Bytes:
        """0, 1, -1, 2, -2 and so on as 0, 1, 2, 3, 4 and so on."""
        values = np.abs(symbols).view(np.uint8)
        values += values
        values -= (symbols > 0).view(np.uint8)
        return values


def _cut(scaled: F32) -> Places:
    """Set to zero what is beyond the last symbol, and return the places."""
    if not len(scaled) or (scaled.max() < SYMBOL_MAX + 1 and scaled.min() > -SYMBOL_MAX - 1):
        return _NONE
    beyond = np.flatnonzero(np.abs(scaled) >= SYMBOL_MAX + 1)
    scaled[beyond] = 0
    return beyond


def _gap_bytes(gaps: Places) -> Bytes:
    last = gaps.astype(np.uint8)
    if gaps.max() < _GAP_MAX:
        return last
    wide = np.flatnonzero(gaps >= _GAP_MAX)
    continued = gaps[wide] // _GAP_MAX
    last[wide] = gaps[wide] % _GAP_MAX
    more = np.zeros(len(gaps), np.int64)
    more[wide] = continued
    places = np.cumsum(more, out=more)
    places += np.arange(len(gaps))
    out = np.full(int(places[-1]) + 1, _GAP_MAX, np.uint8)
    out[places] = last
    return out


@cache
def _limit(base: int) -> Bytes:
    """The largest digit, for the length of a piece: numpy's minimum with one number takes fifteen times as long."""
    return np.full(_DIGITS, base - 1, np.uint8)


def _together(digits: Bytes, base: int, width: int) -> Bytes:
    """The packed bytes of whole groups of digits."""
    match width:
        case 8:
            return np.packbits(digits, bitorder="little")
        case 4:  # the highest byte of the product is d0 + 4 d1 + 16 d2 + 64 d3, and no byte below it carries
            words: NDArray[np.uint32] = digits.view("<u4")
            return (words * np.uint32(0x01_04_10_40) >> np.uint32(24)).astype(np.uint8)
        case 2:
            pairs: NDArray[np.uint16] = digits.view("<u2")
            return (pairs | pairs >> np.uint16(4)).astype(np.uint8)
        case _:  # at every place, though only each `width`-th counts: consecutive bytes are so much faster
            end = len(digits) - width + 1
            sums = digits[width - 1 :].copy()
            for place in range(width - 2, -1, -1):
                sums *= np.uint8(base)
                sums += digits[place : place + end]
            return sums[::width]

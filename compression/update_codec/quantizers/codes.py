"""Fixed-length codes: b bits for every entry, no entropy stage.

Code i fills the bits i·b … i·b + b - 1 of the stream, lowest first.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from update_codec.limits import CHUNK_ENTRIES

__all__ = ["Common", "codes_bytes", "pack_codes", "quantize_common", "unpack_codes"]

_PIECE: Final = 4096
"""Codes unpacked at a time: every bit takes four bytes on the way."""
_FLOAT_MAX: Final = float(np.finfo(np.float32).max)


def codes_bytes(count: int, bits: int) -> int:
    """Bytes that `count` codes take."""
    return -(-count * bits // 8)


def pack_codes(codes: NDArray[np.uint32], bits: int) -> bytes:
    """Pack codes below 2^bits."""
    pieces = []
    for start in range(0, len(codes), CHUNK_ENTRIES):
        piece = codes[start : start + CHUNK_ENTRIES, None] >> np.arange(bits, dtype=np.uint32) & np.uint32(1)
        pieces.append(np.packbits(piece.astype(np.uint8).reshape(-1), bitorder="little").tobytes())
    return b"".join(pieces)


def unpack_codes(stored: memoryview, start: int, count: int, bits: int) -> NDArray[np.int64]:
    """Return `count` codes from the code `start` on, which must begin at a whole byte: int64, shape (count,)."""
    first = start * bits // 8
    piece = np.frombuffer(stored[first : first + codes_bytes(count, bits)], np.uint8)
    digits = np.unpackbits(piece, count=count * bits, bitorder="little").reshape(count, bits)
    codes = digits.astype(np.int32) @ (np.int32(1) << np.arange(bits, dtype=np.int32))
    return codes.astype(np.int64)


def quantize_common(values: NDArray[np.float32], delta: float, bits: int) -> NDArray[np.uint32]:
    """Return round(x / delta) modulo 2^bits, with what is out of range cut to it: uint32."""
    limit = (1 << (bits - 1)) - 1
    integers = np.clip(np.rint(values.astype(np.float64) / delta), -limit, limit).astype(np.int64)
    return (integers & ((1 << bits) - 1)).astype(np.uint32)


class Common:
    """Parameters on a common grid: delta times a signed integer of `bits` bits.

    Args:
        stored: the packed codes.
        size: entries.
        how: bits per entry and the grid's step.
    """

    def __init__(self, stored: memoryview, size: int, how: tuple[int, float]) -> None:
        self._stored = stored
        self._size = size
        self._bits, self._delta = how

    def integers(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield (first entry, signed integers)."""
        half = 1 << (self._bits - 1)
        for start in range(0, self._size, _PIECE):
            codes = unpack_codes(self._stored, start, min(_PIECE, self._size - start), self._bits)
            yield start, (codes ^ half) - half

    def pieces(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield (first entry, values); each is one product in float64, rounded once to float32."""
        for start, integers in self.integers():
            yield start, np.clip(integers * self._delta, -_FLOAT_MAX, _FLOAT_MAX).astype(np.float32)

"""Fixed-length codes: b bits for every entry, no entropy stage.

Code i fills the bits i·b … i·b + b - 1 of the stream, lowest first.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Common", "codes_bytes", "pack_codes", "quantize_common", "unpack_codes", "unpack_into"]

_PIECE: Final = 4096
"""Entries decoded at a time."""
_GROUPED: Final = 32_768
"""Codes packed or unpacked at a time, divisible by 8: what they are on the way stays in the cache."""
_FLOAT_MAX: Final = float(np.finfo(np.float32).max)


def codes_bytes(count: int, bits: int) -> int:
    """Bytes that `count` codes take."""
    return -(-count * bits // 8)


def pack_codes(codes: NDArray[np.unsignedinteger[Any]], bits: int) -> bytes:
    """Pack codes below 2^bits, bits at most 32: eight codes become `bits` whole bytes."""
    pieces = [_packed(codes[start : start + _GROUPED], bits) for start in range(0, len(codes), _GROUPED)]
    return b"".join(pieces)


def unpack_codes(stored: memoryview, start: int, count: int, bits: int) -> NDArray[np.int64]:
    """Return `count` codes from the code `start` on, which must begin at a whole byte: int64, shape (count,)."""
    first = start * bits // 8
    out = np.empty(count, np.int64)
    unpack_into(stored[first : first + codes_bytes(count, bits)], bits, out)
    return out


def unpack_into(stored: memoryview, bits: int, out: NDArray[Any]) -> None:
    """Unpack codes of at most 32 bits into an array of integers that is as long as there are codes."""
    for start in range(0, len(out), _GROUPED):
        target = out[start : start + _GROUPED]
        first = start // 8 * bits
        _unpack(stored[first : first + codes_bytes(len(target), bits)], bits, target)


def _packed(codes: NDArray[np.unsignedinteger[Any]], bits: int) -> bytes:
    groups = -(-len(codes) // 8)
    wide = np.zeros((groups, 8), np.uint64)
    wide.reshape(-1)[: len(codes)] = codes
    words = np.zeros((groups, -(-8 * bits // 64)), "<u8")
    for place in range(8):
        word, shift = divmod(place * bits, 64)
        words[:, word] |= wide[:, place] << np.uint64(shift)
        if shift + bits > 64:
            words[:, word + 1] |= wide[:, place] >> np.uint64(64 - shift)
    whole = np.ascontiguousarray(words.view(np.uint8).reshape(groups, -1)[:, :bits]).tobytes()
    return whole[: codes_bytes(len(codes), bits)]


def _unpack(stored: memoryview, bits: int, out: NDArray[Any]) -> None:
    groups = -(-len(out) // 8)
    raw = np.zeros(groups * bits, np.uint8)
    raw[: len(stored)] = np.frombuffer(stored, np.uint8)
    wide = np.zeros((groups, 8 * -(-8 * bits // 64)), np.uint8)
    wide[:, :bits] = raw.reshape(groups, bits)
    words = wide.view("<u8")
    found, mask = np.empty((groups, 8), out.dtype), np.uint64((1 << bits) - 1)
    for place in range(8):
        word, shift = divmod(place * bits, 64)
        code = words[:, word] >> np.uint64(shift)
        if shift + bits > 64:
            code |= words[:, word + 1] << np.uint64(64 - shift)
        found[:, place] = code & mask
    out[:] = found.reshape(-1)[: len(out)]


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

"""Base-k packing: several small digits in each byte, so that a byte-wise Huffman code comes close to their entropy.

Values below k stand for themselves. Where there are larger ones, the digit k - 1 is an escape for all values from k - 1
on, and the value minus (k - 1) follows as one byte in a second stream. With k = 256 a byte is a value. Values are at
most 254.
"""

from collections.abc import Iterator
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from update_codec.entropy import Method, StreamReader
from update_codec.errors import EntropyError, HeaderError
from update_codec.frame import Cursor, varint, write_stream
from update_codec.kernel import kernel
from update_codec.limits import CHUNK_ENTRIES

__all__ = ["BASES", "DigitReader", "escaping", "expansion", "pack", "write_digits"]

BASES: Final = {2: 8, 3: 5, 4: 4, 6: 3, 16: 2, 256: 1}
"""Allowed bases and how many digits of each fit a byte; every count divides `CHUNK_ENTRIES`."""

Bytes = NDArray[np.uint8]


@cache
def expansion(base: int) -> Bytes:
    """Digits of every byte, lowest place first: uint8, shape (256, digits per byte)."""
    places = base ** np.arange(BASES[base])
    return (np.arange(256)[:, None] // places % base).astype(np.uint8)


@cache
def escaping(base: int) -> Bytes:
    """Which digits of every byte are escapes, the lowest place in the lowest bit: uint8, shape (256,)."""
    return np.packbits(expansion(base) == base - 1, axis=1, bitorder="little")[:, 0].copy()


def pack(values: Bytes, base: int) -> tuple[Bytes, Bytes]:
    """Pack values; return the packed bytes and the escaped remainders."""
    if base == 256:
        return values, values[:0]
    escapes = kernel().above(values, base - 1) if values.max(initial=0) >= base else values[:0]
    return kernel().pack(values, base, BASES[base]), escapes


def write_digits(values: Bytes, base: int) -> bytes:
    """Encode values as: base, number of escapes, packed stream, escape stream."""
    packed, escapes = pack(values, base)
    head = bytes([base & 255]) + varint(len(escapes))
    tail = write_stream(escapes.data) if len(escapes) else b""
    return head + write_stream(packed.data) + tail


class DigitReader:
    """Reads `count` values that `write_digits` wrote.

    Raises:
        HeaderError: if the base is unknown or there are more escapes than values.
        FrameError: as the streams do.
    """

    def __init__(self, cursor: Cursor, count: int) -> None:
        self.base = cursor.byte() or 256
        if self.base not in BASES:
            raise HeaderError(f"{self.base} is not a base of this format")
        self.width = BASES[self.base]
        self.count = count
        self.escapes = cursor.number(0 if self.base == 256 else count)
        self._packed = cursor.stream(-(-count // self.width))
        self._escaped = cursor.stream(self.escapes) if self.escapes else StreamReader(Method.RAW, memoryview(b""), 0)

    def packed(self, digits: int = CHUNK_ENTRIES) -> Iterator[Bytes]:
        """Yield packed bytes, at most so many digits at a time, then check that the streams end.

        Raises:
            EntropyError: if a byte stands for no digits, or a stream is malformed.
        """
        limit = 255 if self.base == 256 else self.base**self.width
        for start in range(0, self.count, digits):
            size = -(-min(digits, self.count - start) // self.width)
            piece = np.frombuffer(self._packed.read(size), np.uint8)
            if piece.max() >= limit:
                raise EntropyError(f"a packed byte is not below {limit}")
            yield piece
        self._packed.finish()
        self._escaped.finish()

    def escaped(self, count: int) -> Bytes:
        """Return the next `count` escaped values, complete with the escape's offset.

        Raises:
            EntropyError: if the stream has fewer, or a value is above 254.
        """
        if not count:
            return np.empty(0, np.uint8)
        values = np.frombuffer(self._escaped.read(count), np.uint8)
        if values.max() > 255 - self.base:
            raise EntropyError("an escaped value is above 254")
        return values + np.uint8(self.base - 1)

    def values(self) -> Iterator[Bytes]:
        """Yield the values, at most `CHUNK_ENTRIES` at a time."""
        table = expansion(self.base)
        left = self.count
        for piece in self.packed():
            values = kernel().rows(table, piece, min(left, len(piece) * self.width))
            left -= len(values)
            if self.escapes:
                places = kernel().marked(escaping(self.base), self.width, piece, len(values))
                values[places] = self.escaped(len(places))
            yield values

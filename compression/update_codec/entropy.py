"""The entropy stage: one byte stream in, the smaller of raw or zstd out, and a decoder that trusts nothing.

zstd frames follow RFC 8878 without the magic number and without a checksum (the codec's own digest covers every
byte). The decoder's order is: walk the frame's blocks to its end, compare the stated content size and window with
the limits, and only then decompress, into a buffer whose size the caller derived from the manifest.
"""

import threading
from enum import IntEnum
from typing import Final

import zstandard

from update_codec.errors import EntropyError, SizeMismatch
from update_codec.limits import WINDOW_BYTES_MAX

__all__ = ["Method", "StreamReader", "compress"]

_FORMAT: Final = zstandard.FORMAT_ZSTD1_MAGICLESS
# Long matches do not exist in packed symbols: the cheapest search finds the few there are, and the literals' Huffman
# code does the work. Levels 3 and 9 spend bits on sequences and come out larger (0.830 against 0.727 bits).
_PARAMETERS: Final = zstandard.ZstdCompressionParameters(
    format=_FORMAT,
    strategy=zstandard.STRATEGY_FAST,
    min_match=7,
    hash_log=6,
    chain_log=6,
    search_log=1,
    target_length=0,
    window_log=17,
    write_content_size=1,
    write_checksum=0,
    write_dict_id=0,
)

AT_ONCE_BYTES_MAX: Final = 1 << 16
"""Streams up to this decoded size are decoded as a whole: a reader of its own would take longer than that."""


class Method(IntEnum):
    """How a stream is stored."""

    RAW = 0
    ZSTD = 1


class _Contexts(threading.local):
    """Each thread's own: making one for every small stream takes longer than the stream."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(compression_params=_PARAMETERS)
        self.decompressor = _decompressor()


def _decompressor() -> zstandard.ZstdDecompressor:
    return zstandard.ZstdDecompressor(format=_FORMAT, max_window_size=WINDOW_BYTES_MAX)


_CONTEXTS: Final = _Contexts()


def compress(data: bytes | memoryview) -> tuple[Method, bytes]:
    """Return the method that makes `data` smallest, and the stored bytes."""
    if len(data) > 24:  # a zstd frame has 6 bytes of headers and a Huffman table: it cannot win below
        stored = _CONTEXTS.compressor.compress(data)
        if len(stored) < len(data):
            return Method.ZSTD, stored
    return Method.RAW, bytes(data)


class StreamReader:
    """Reads one stored stream piece by piece, and never holds more than the piece asked for or `AT_ONCE_BYTES_MAX`.

    Args:
        method: how the stream is stored.
        stored: exactly the stored bytes.
        size: decoded bytes that the caller expects, derived from the manifest.

    Raises:
        SizeMismatch: if the stream states another decoded size.
        EntropyError: if the stored bytes are not exactly one acceptable frame.
    """

    def __init__(self, method: Method, stored: memoryview, size: int) -> None:
        self._stored = stored
        self._source = None
        if method is Method.ZSTD:
            _check_zstd(stored, size)
            if size <= AT_ONCE_BYTES_MAX:
                self._stored = memoryview(_at_once(stored))
            else:
                self._source = _decompressor().stream_reader(stored, read_across_frames=False)
        elif len(stored) != size:
            raise SizeMismatch(f"a raw stream of {len(stored)} bytes should have {size}")

    def read(self, size: int) -> memoryview:
        """Return exactly `size` decoded bytes.

        Raises:
            EntropyError: if the stream is malformed or ends early.
        """
        if self._source is None:
            piece, self._stored = self._stored[:size], self._stored[size:]
        else:
            buffer = memoryview(bytearray(size))
            piece = buffer[: _fill(self._source, buffer)]
        if len(piece) != size:
            raise EntropyError("a stream ends early: more symbols are used than it holds")
        return piece

    def finish(self) -> None:
        """Check that every decoded byte was used and that none is left.

        Raises:
            EntropyError: if the stream holds more than was read.
        """
        left = len(self._stored) if self._source is None else _fill(self._source, memoryview(bytearray(1)))
        if left:
            raise EntropyError("a stream holds more than its symbols")


def _at_once(stored: memoryview) -> bytes:
    """Decode one frame, whose stated size has been checked."""
    try:
        return _CONTEXTS.decompressor.decompress(stored, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise EntropyError(f"a compressed stream is malformed: {error}") from error


def _fill(source: zstandard.ZstdDecompressionReader, view: memoryview) -> int:
    filled = 0
    try:
        while filled < len(view):
            count = source.readinto(view[filled:])
            if not count:
                break
            filled += count
    except zstandard.ZstdError as error:
        raise EntropyError(f"a compressed stream is malformed: {error}") from error
    return filled


def _check_zstd(stored: memoryview, size: int) -> None:
    """Refuse anything but one complete frame that states `size`, needs no dictionary and a small window."""
    try:
        parameters = zstandard.get_frame_parameters(stored, format=_FORMAT)
    except (zstandard.ZstdError, ValueError) as error:
        raise EntropyError(f"a compressed stream has no valid header: {error}") from error
    if parameters.content_size != size:
        raise SizeMismatch(f"a stream states {parameters.content_size} bytes, the manifest implies {size}")
    if parameters.window_size > WINDOW_BYTES_MAX or parameters.dict_id or parameters.has_checksum:
        raise EntropyError("a compressed stream asks for a large window, a dictionary or a checksum")
    place, last = _header_size(stored[0]), False
    while not last:
        block = int.from_bytes(stored[place : place + 3], "little")
        last = bool(block & 1)
        is_rle = (block >> 1) & 3 == 1
        place += 3 + (1 if is_rle else block >> 3)
        if place > len(stored):
            raise EntropyError("a compressed stream ends inside a block")
    if place != len(stored):
        raise EntropyError("bytes follow a compressed stream")


def _header_size(descriptor: int) -> int:
    """Bytes of a magicless frame header, from its first byte (RFC 8878, 3.1.1.1)."""
    single = (descriptor >> 5) & 1
    content = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    return 1 + (1 - single) + (0, 1, 2, 4)[descriptor & 3] + content

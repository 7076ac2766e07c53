"""Lossless coding of float32 and int64 vectors as byte planes.

A float32's bits are rotated left by one first: the eight exponent bits then fill the highest plane, which is the
only one that compresses. Counters are stored as they are: small numbers leave seven planes of zeros.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from update_codec.frame import Cursor, write_stream
from update_codec.limits import CHUNK_ENTRIES

__all__ = ["Planes", "write_counters", "write_floats"]

_ITEM_BYTES: Final = {"f": 4, "i": 8}


def write_floats(values: NDArray[np.float32]) -> bytes:
    """Encode float32 values as four streams, the lowest byte first."""
    return _write(np.ascontiguousarray(values, "<f4").view("<u4"), _rotate)


def write_counters(values: NDArray[np.int64]) -> bytes:
    """Encode int64 values as eight streams, the lowest byte first."""
    return _write(np.ascontiguousarray(values, "<i8"), lambda words: words)


def _rotate(bits: NDArray[np.uint32]) -> NDArray[np.uint32]:
    rotated: NDArray[np.uint32] = (bits << np.uint32(1)) | (bits >> np.uint32(31))
    return rotated


def _write(words: NDArray[Any], prepare: Callable[[NDArray[Any]], NDArray[Any]]) -> bytes:
    """One plane after the other, so that no second copy of the whole vector is ever made."""
    plane, streams = np.empty(len(words), np.uint8), list[bytes]()
    for place in range(words.itemsize):
        for start in range(0, len(words), CHUNK_ENTRIES):
            piece = prepare(words[start : start + CHUNK_ENTRIES]).view(np.uint8).reshape(-1, words.itemsize)
            plane[start : start + len(piece)] = piece[:, place]
        streams.append(write_stream(plane.data))
    return b"".join(streams)


class Planes:
    """Byte planes of one vector, still compressed; they can be read once.

    Args:
        cursor: stands on the first stream.
        size: entries of the vector.
        kind: "f" for float32, "i" for int64.
    """

    def __init__(self, cursor: Cursor, size: int, kind: str) -> None:
        self._size = size
        self._kind = kind
        self._streams = [cursor.stream(size) for _ in range(_ITEM_BYTES[kind])]

    def pieces(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (first entry, values), at most `CHUNK_ENTRIES` at a time, then check that the streams end.

        Raises:
            EntropyError: if a stream is malformed.
        """
        for start in range(0, self._size, CHUNK_ENTRIES):
            count = min(CHUNK_ENTRIES, self._size - start)
            planes = np.empty((count, len(self._streams)), np.uint8)
            for place, stream in enumerate(self._streams):
                planes[:, place] = np.frombuffer(stream.read(count), np.uint8)
            yield start, self._join(planes)
        for stream in self._streams:
            stream.finish()

    def _join(self, planes: NDArray[np.uint8]) -> NDArray[Any]:
        if self._kind == "i":
            return planes.view("<i8").reshape(-1).astype(np.int64, copy=False)
        words = planes.view("<u4").reshape(-1)
        bits: NDArray[np.uint32] = (words >> np.uint32(1)) | (words << np.uint32(31))
        return bits.view("<f4").astype(np.float32, copy=False)

"""EDEN: rotate blocks at random, round every entry to a Gaussian's best 2^b points, scale so that it is unbiased.

    z = H(s · x) / √n,   c = nearest centroids of z · √n / ‖x‖,   x̂ = s · H(c) · f / √n,   f = ‖z‖² / ⟨z, c⟩

Vargaftik et al., "EDEN: communication-efficient and robust distributed mean estimation for federated learning", ICML
2022 (arXiv 2108.08842), with a block Hadamard transform. Centroids are integers in units of 1/1024: every sum of the
inverse transform is then an integer below 2^24, which float32 holds exactly in any order of addition, so the decoder
gives the same bits with every linear algebra library.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from update_codec.quantizers.codes import codes_bytes, pack_codes, unpack_codes
from update_codec.quantizers.dithered import hash_words

__all__ = ["Eden", "eden_bytes", "write_eden"]

BLOCK: Final = 4096
_UNIT: Final = 1024
_POSITIVE: Final = {
    1: (817,),
    2: (464, 1547),
    3: (251, 774, 1376, 2204),
    4: (131, 397, 673, 965, 1286, 1657, 2119, 2798),
}
"""Lloyd-Max points of a standard normal distribution, in 1/1024."""
_FLOAT_MAX: Final = float(np.finfo(np.float32).max)


def block_sizes(count: int) -> list[int]:
    """Sizes of the blocks: 4096 each, the last one the power of two that holds the rest."""
    full, rest = divmod(count, BLOCK)
    return [BLOCK] * full + ([1 << (rest - 1).bit_length()] if rest else [])


def write_eden(values: NDArray[np.float32], bits: int, seed: int) -> bytes:
    """Encode: one float32 scale per block, then the codes."""
    sizes = block_sizes(len(values))
    padded = np.zeros(sum(sizes), np.float64)
    padded[: len(values)] = values
    points = _centroids(bits)
    edges = (points[1:] + points[:-1]) / (2 * _UNIT)
    scales, codes, start = [], [], 0
    for size in sizes:
        block = padded[start : start + size]
        norm = float(np.linalg.norm(block / max(np.abs(block).max(), 1e-300)) * np.abs(block).max())
        turned = _hadamard(block / max(norm, 1e-300) * _signs(seed, start, size))
        code = np.searchsorted(edges, turned)
        along = float(np.dot(turned, points[code]))
        # ⟨turned, turned⟩ is n; the factor 1/n of the inverse transform cancels it.
        scales.append(min(norm / along, _FLOAT_MAX) if norm else 0.0)
        codes.append(code)
        start += size
    packed = pack_codes(np.concatenate(codes).astype(np.uint32), bits) if codes else b""
    return np.array(scales, "<f4").tobytes() + packed


class Eden:
    """EDEN-coded parameters of a frame.

    Args:
        scales: float32, one per block.
        stored: the packed codes.
        size: entries.
        how: bits per entry and seed of the signs.
    """

    def __init__(self, scales: NDArray[np.float32], stored: memoryview, size: int, how: tuple[int, int]) -> None:
        self._scales = scales
        self._stored = stored
        self._size = size
        self._bits, self._seed = how

    def pieces(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (first entry, values), one block at a time; each value is rounded once to float32."""
        points = _centroids(self._bits).astype(np.float32)
        start = 0
        for size, scale in zip(block_sizes(self._size), self._scales.tolist(), strict=True):
            codes = unpack_codes(self._stored, start, size, self._bits)
            sums = _hadamard(points[codes]).astype(np.float64) * _signs(self._seed, start, size)
            values = np.clip(sums * scale, -_FLOAT_MAX, _FLOAT_MAX).astype(np.float32)
            yield start, values[: self._size - start] + np.float32(0)  # minus zero becomes zero
            start += size


def eden_bytes(count: int, bits: int) -> tuple[int, int]:
    """Bytes of the scales and of the codes."""
    sizes = block_sizes(count)
    return 4 * len(sizes), codes_bytes(sum(sizes), bits)


@cache
def _centroids(bits: int) -> NDArray[np.int64]:
    positive = np.array(_POSITIVE[bits])
    return np.concatenate([-positive[::-1], positive])


def _signs(seed: int, start: int, count: int) -> NDArray[np.float64]:
    """+1 or -1 by the highest bit of the hash."""
    return 1.0 - 2.0 * (hash_words(seed, start, count) >> np.uint32(31)).astype(np.float64)


@cache
def _matrix(size: int) -> NDArray[np.float32]:
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _hadamard(block: NDArray[Any]) -> NDArray[Any]:
    """Unnormalised Hadamard transform of a power of two of entries, as two small matrix products."""
    power = len(block).bit_length() - 1
    rows, columns = 1 << (power // 2), 1 << (power - power // 2)
    square = block.reshape(rows, columns)
    left, right = _matrix(rows).astype(block.dtype), _matrix(columns).astype(block.dtype)
    turned: NDArray[Any] = (left @ square @ right).reshape(-1)
    return turned

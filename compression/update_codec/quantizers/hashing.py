"""A counter-based hash: the same pseudo-random bits for entry i on every machine, in any order.

    h(i) = mix(i + seed · 0x9E3779B9 mod 2^32)

`mix` is the 32-bit finaliser with the lowest known bias (Wellons, "Prospecting for hash functions", 2018).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["dither", "hash_words"]

_GOLDEN: Final = 0x9E3779B9


def hash_words(seed: int, start: int, count: int) -> NDArray[np.uint32]:
    """Return h(start) … h(start + count - 1): uint32, shape (count,)."""
    offset = (start + seed * _GOLDEN) & 0xFFFFFFFF
    words = np.arange(count, dtype=np.uint32) + np.uint32(offset)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        words ^= words >> np.uint32(shift)
        words *= np.uint32(factor)
    words ^= words >> np.uint32(16)
    return words


def dither(seed: int, start: int, count: int) -> NDArray[np.float32]:
    """Return numbers in [-1/2, 1/2) from the upper 24 bits of the hash: float32, exact, shape (count,)."""
    words = hash_words(seed, start, count) >> np.uint32(8)
    return words.astype(np.float32) * np.float32(2.0**-24) - np.float32(0.5)

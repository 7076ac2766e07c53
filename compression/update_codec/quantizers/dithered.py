"""The dithered quantizer: unbiased, with an error that does not depend on the update, and no state between rounds.

    q = round(x / step + u),   x̂ = step · q - step · u,   u = u(seed, i) in [-1/2, 1/2)

Both ends compute u from a hash, so it is subtracted again and the error is uniform with the variance step² / 12
(Schuchman 1964; Ziv, "On universal quantization", IEEE Transactions on Information Theory 31, 1985).

The hash counts entries: h(i) = mix(i + seed · 0x9E3779B9 mod 2^32), the same bits for entry i on every machine, in any
order. `mix` is the 32-bit finaliser with the lowest known bias (Wellons, "Prospecting for hash functions", 2018).
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from update_codec.layouts.layout import Symbols
from update_codec.limits import CHUNK_ENTRIES, SYMBOL_MAX
from update_codec.quantizers.deadzone import Quantizer

__all__ = ["DitherRate", "Dithered", "dither", "hash_words", "quantize_dithered", "undither"]

F32 = NDArray[np.float32]
_SAMPLE_ENTRIES: Final = 1 << 15
_FLOAT_MAX: Final = float(np.finfo(np.float32).max)
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


def quantize_dithered(values: F32, step: float, seed: int) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Return int8 symbols and the positions beyond the last symbol (symbol 0 there)."""
    symbols = np.empty(len(values), np.int8)
    outliers = [np.empty(0, np.int64)]
    for start in range(0, len(values), CHUNK_ENTRIES):
        piece = values[start : start + CHUNK_ENTRIES]
        scaled = np.rint(piece.astype(np.float64) / step + dither(seed, start, len(piece)))
        beyond = np.flatnonzero(np.abs(scaled) > SYMBOL_MAX)
        scaled[beyond] = 0
        outliers.append(beyond + start)
        symbols[start : start + len(piece)] = scaled
    return symbols, np.concatenate(outliers)


def undither(symbols: NDArray[np.int8], start: int, step: float, seed: int) -> F32:
    """Return the values of symbols that begin at entry `start`: one float32 subtraction per entry."""
    table = Quantizer(step=step, scale=0, shifts=(0, 0, 0)).table()
    noise = dither(seed, start, len(symbols)) * np.float32(step)
    with np.errstate(over="ignore"):  # saturates below
        values = table[symbols.astype(np.intp) + SYMBOL_MAX] - noise
    return np.clip(values, np.float32(-_FLOAT_MAX), np.float32(_FLOAT_MAX))


class Dithered:
    """Dithered parameters of a frame; they can be read once.

    Args:
        symbols: of all parameters.
        how: step and seed.
        outliers: increasing positions and the values that replace what the symbols say.
    """

    def __init__(
        self, symbols: Symbols, size: int, how: tuple[float, int], outliers: tuple[NDArray[np.int64], F32]
    ) -> None:
        self._symbols = symbols
        self._size = size
        self._how = how
        self._outliers = outliers

    def pieces(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (first entry, values).

        Raises:
            EntropyError: if a stream is malformed.
        """
        collected = _Collector(self._size)
        self._symbols.feed(np.arange(-SYMBOL_MAX, SYMBOL_MAX + 1).astype(np.int8), collected)
        positions, exact = self._outliers
        for start in range(0, self._size, CHUNK_ENTRIES):
            values = undither(collected.symbols[start : start + CHUNK_ENTRIES], start, *self._how)
            low, high = np.searchsorted(positions, (start, start + len(values)))
            values[positions[low:high] - start] = exact[low:high]
            yield start, values


class _Collector:
    """A sink that keeps one byte per entry."""

    def __init__(self, size: int) -> None:
        self.symbols = np.zeros(size, np.int8)

    def dense(self, start: int, values: NDArray[Any]) -> None:
        self.symbols[start : start + len(values)] = values

    def sparse(self, positions: NDArray[np.int64], values: NDArray[Any]) -> None:
        self.symbols[positions] = values

    def room(self, start: int, count: int) -> None:
        """There is none: symbols are kept, not added."""


class DitherRate:
    """Estimates the bits of a dithered vector from the symbols of a sample."""

    def __init__(self, values: F32, seed: int) -> None:
        self._size = len(values)
        self._sample = values[:: max(1, len(values) // _SAMPLE_ENTRIES)].astype(np.float64)
        self._noise = dither(seed, 0, len(self._sample))

    def bits(self, step: float) -> float:
        """Entropy of all symbols at this step, in bits."""
        symbols = np.clip(np.rint(self._sample / step + self._noise), -SYMBOL_MAX, SYMBOL_MAX).astype(np.int64)
        shares = np.bincount(symbols + SYMBOL_MAX) / max(len(symbols), 1)
        used = shares[shares > 0]
        return -self._size * float(np.dot(used, np.log2(used)))

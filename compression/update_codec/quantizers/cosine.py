"""The cosine transform of matrices: neighbours along a row move together, so few of its coefficients carry most of it.

Each row of a matrix (its first dimension counts rows, all others make the row) is cut into blocks, and each block x of
n entries is turned into n coefficients c, a type-II discrete cosine transform (Ahmed, Natarajan and Rao, "Discrete
Cosine Transform", IEEE Transactions on Computers 23, 1974)::

    c_k = Σ_j x_j s_k cos(π (2j + 1) k / 2n)        s_0 = √(1/n), s_k = √(2/n)

The factors are integers, 2^16 times the real ones, and so are their operands: all sums stay below 2^53, where float64
is exact in any order of addition. So a library for matrices gives the same bits on every machine.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from update_codec.limits import BANDS_MAX, BLOCK_MAX, CHUNK_ENTRIES

__all__ = ["Matrix", "backward", "cosines", "forward"]

FACTOR_BITS: Final = 16
_OPERAND_BITS: Final = 24
"""Of the entries that are turned, relative to the largest of their matrix: what is lost is error feedback's."""
_UNITS_MAX: Final = 2.0**30
"""Of a coefficient, in 1/128 of the step."""
_FLOAT_MAX: Final = float(np.finfo(np.float32).max)

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Where a matrix is in the parameter vector, and how it is cut."""

    start: int
    rows: int
    length: int
    """Entries of a row."""

    @property
    def stop(self) -> int:
        """The entry behind it."""
        return self.start + self.rows * self.length

    @property
    def band(self) -> int:
        """Coefficients of a block that share a class."""
        return -(-min(self.length, BLOCK_MAX) // BANDS_MAX)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """First entry and size of each block of a row."""
        for first in range(0, self.length, BLOCK_MAX):
            yield first, min(BLOCK_MAX, self.length - first)

    def band_of(self, *, turned: bool) -> NDArray[np.int64]:
        """The band of each entry of a row, int64, shape (length,); one band where the matrix is not turned."""
        if not turned:
            return np.zeros(self.length, np.int64)
        return np.arange(self.length) % BLOCK_MAX // self.band

    def bands(self, *, turned: bool) -> int:
        """How many bands there are."""
        return -(-min(self.length, BLOCK_MAX) // self.band) if turned else 1


class _Factors:
    """The factors of blocks of one size, made when a coefficient is first asked for: of most models most never are."""

    def __init__(self, size: int) -> None:
        self._size = size
        # Of all (2j + 1) k only the rest by 4n counts: 4n cosines, each taken many times.
        each = np.cos(np.arange(4 * size) * (math.pi / (2 * size))) * math.sqrt(2.0 / size)
        self._each = np.rint(each * 2.0**FACTOR_BITS)
        self._factors = np.empty((size, size))
        self._made = np.zeros(size, np.bool_)

    def of(self, coefficients: NDArray[np.int64]) -> NDArray[np.float64]:
        """Those of some coefficients, which increase: shape (coefficients, entries)."""
        missing = coefficients[~self._made[coefficients]]
        if len(missing):
            odd = np.arange(1, 2 * self._size, 2, dtype=np.uint32)
            factors = self._each[np.outer(missing.astype(np.uint32), odd) % np.uint32(4 * self._size)]
            if missing[0] == 0:
                factors[0] = np.rint(math.sqrt(1.0 / self._size) * 2.0**FACTOR_BITS)
            self._factors[missing] = factors
            self._made[missing] = True  # two threads that come at once write the same
        return self._factors if len(coefficients) == self._size else self._factors.take(coefficients, axis=0)


_factors = lru_cache(16)(_Factors)


def cosines(size: int) -> NDArray[np.float64]:
    """The factors of a block: whole numbers, shape (coefficients, entries).

    No real factor of any size up to `BLOCK_MAX` is nearer than 10^-9 to a number halfway between two whole ones, so
    every library for the cosine gives the same whole numbers.
    """
    return _factors(size).of(np.arange(size))


def forward(values: F32, matrix: Matrix) -> F32:
    """The coefficients of a matrix, float32, shape (rows · length,): the same bits on every machine.

    Args:
        values: its entries, float32, shape (rows · length,), finite.
        matrix: how it is cut.
    """
    peak = max(float(values.max()), -float(values.min()))
    if peak == 0.0:
        return np.zeros_like(values)
    exponent = _OPERAND_BITS - math.frexp(peak)[1]
    whole = np.rint(np.ldexp(values.astype(np.float64), exponent)).reshape(matrix.rows, matrix.length)
    out = np.empty_like(whole)
    for first, size in matrix.blocks():
        np.matmul(whole[:, first : first + size], cosines(size).T, out=out[:, first : first + size])
    scaled = np.ldexp(out.reshape(-1), -exponent - FACTOR_BITS)
    return np.clip(scaled, -_FLOAT_MAX, _FLOAT_MAX).astype(np.float32)


def backward(coefficients: F32, matrix: Matrix, step: float) -> Iterator[tuple[int, F32]]:
    """Yield (place in the parameter vector, values) of a matrix from its decoded coefficients.

    Args:
        coefficients: float32, shape (rows · length,).
        matrix: how it is cut.
        step: of the quantizer, a float32 value.
    """
    unit = step * 2.0 ** (-7 - FACTOR_BITS)
    rows = max(1, CHUNK_ENTRIES // matrix.length)
    wide = coefficients.reshape(matrix.rows, matrix.length)
    for row in range(0, matrix.rows, rows):
        piece = wide[row : row + rows].astype(np.float64)
        np.divide(piece * 128.0, step, out=piece)
        units = np.clip(np.rint(piece, out=piece), -_UNITS_MAX, _UNITS_MAX)
        out = np.empty_like(units)
        for first, size in matrix.blocks():
            block = units[:, first : first + size]
            # Of most frequencies no row has anything: without them the sums, which are exact, are the same.
            used = np.flatnonzero(block.any(axis=0))
            block = block.take(used, axis=1) if len(used) < size else block
            np.matmul(block, _factors(size).of(used), out=out[:, first : first + size])
        values = np.clip(out * unit, -_FLOAT_MAX, _FLOAT_MAX).astype(np.float32)
        # Adding zero turns -0.0 into 0.0.
        yield matrix.start + row * matrix.length, values.reshape(-1) + np.float32(0)

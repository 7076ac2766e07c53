"""Where the parameters of an update live while it is encoded: in NumPy's memory, or wherever a backend keeps them.

The encoder of the deadzone kind asks its backend for whole-vector operations, and gets back only what it must see:
symbols, a sample, a few outliers. Every operation is one IEEE operation per entry, or a sum whose order is fixed here,
so two backends give the same bits. This package has the backend for NumPy; one for a GPU is an object that the caller
passes in.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from update_codec.limits import CHUNK_ENTRIES, SYMBOL_MAX
from update_codec.quantizers.deadzone import quantize

__all__ = ["FOLD", "HOST", "Arrays", "DeviceUpdate", "HostArrays", "Quantized", "Vector", "root_mean_square", "turned"]

FOLD: Final = 1 << 14
"""Squares are added in rows of so many entries, halving the row until one is left; the row sums are added exactly."""
_ROWS: Final = 32
_PEAK_MIN: Final = 1e-15
_PEAK_MAX: Final = 1e15

Vector = Any
"""A one-dimensional float32 vector of a backend: slices, `+`, `-`, `len`, item assignment."""
F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """Symbols of one group.

    Attributes:
        symbols: On the host, int8.
        resident: The same where the backend keeps them, for `Arrays.look_up`.
        outliers: Positions beyond the last symbol, on the host.
    """

    symbols: NDArray[np.int8]
    resident: Any
    outliers: NDArray[np.int64]


class Arrays(Protocol):
    """Whole-vector operations on float32 vectors."""

    def resident(self, values: F32) -> Vector:
        """Bring a vector of the host here."""

    def host(self, vector: Vector) -> F32:
        """Copy a vector to the host."""

    def sample(self, vector: Vector, stride: int) -> F32:
        """Copy every `stride`-th entry to the host."""

    def is_finite(self, vector: Vector) -> bool:
        """Whether no entry is NaN or infinite."""

    def peak(self, vector: Vector) -> float:
        """The largest magnitude; 0 for an empty vector."""

    def row_sums(self, vector: Vector) -> F32:
        """Sums of squares of each row of `FOLD` entries, the last one filled with zeros, on the host.

        A row is halved until one entry is left: its first half plus its second half, in float32.
        """

    def energy(self, vector: Vector) -> float:
        """The sum of squares, for a report: its last bits may differ between backends."""

    def join(self, pieces: list[Vector]) -> Vector:
        """Put vectors one behind the other."""

    def empty_like(self, vector: Vector) -> Vector:
        """A vector of the same size."""

    def zeros_like(self, vector: Vector) -> Vector:
        """A vector of zeros of the same size."""

    def quantize(self, vector: Vector, step: float, rounding: float) -> Quantized:
        """See `update_codec.quantizers.deadzone.quantize`."""

    def look_up(self, table: F32, symbols: Any) -> Vector:
        """The values of resident symbols from a table of the symbols -127 … 127."""

    def put(self, vector: Vector, positions: NDArray[np.int64], values: F32) -> None:
        """Set single entries from the host."""

    def take(self, vector: Vector, positions: NDArray[np.int64]) -> F32:
        """Copy single entries to the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUpdate:
    """An update whose parameters are not in NumPy's memory.

    Attributes:
        arrays: Where they are.
        parameters: Differences, a vector of `arrays`.
        statistics: As in `Vectors`.
        counters: As in `Vectors`.
    """

    arrays: Arrays
    parameters: Vector
    statistics: F32
    counters: NDArray[np.int64]


class HostArrays:
    """NumPy."""

    def resident(self, values: F32) -> F32:
        """The vector itself."""
        return values

    def host(self, vector: F32) -> F32:
        """The vector itself."""
        return vector

    def sample(self, vector: F32, stride: int) -> F32:
        """A view of every `stride`-th entry."""
        return vector[::stride]

    def is_finite(self, vector: F32) -> bool:
        """Whether no entry is NaN or infinite."""
        return bool(np.isfinite(vector).all())

    def peak(self, vector: F32) -> float:
        """The largest magnitude; 0 for an empty vector."""
        return max(float(vector.max()), -float(vector.min())) if len(vector) else 0.0

    def row_sums(self, vector: F32) -> F32:
        """Sums of squares of rows, a few rows at a time so that they stay in the cache."""
        sums = np.empty(-(-len(vector) // FOLD), np.float32)
        for row in range(0, len(sums), _ROWS):
            piece = vector[row * FOLD : (row + _ROWS) * FOLD]
            rows = -(-len(piece) // FOLD)
            squares = np.zeros(rows * FOLD, np.float32)
            np.multiply(piece, piece, out=squares[: len(piece)])
            folded = squares.reshape(rows, FOLD)
            while (half := folded.shape[1] // 2) > 0:
                folded = np.add(folded[:, :half], folded[:, half:], out=folded[:, :half])
            sums[row : row + rows] = folded[:, 0]
        return sums

    def energy(self, vector: F32) -> float:
        """The sum of squares, in float64 where float32 would overflow."""
        small = float(np.dot(vector, vector)) if self.peak(vector) < _PEAK_MAX else math.inf
        if 1e-25 < small < math.inf:
            return small
        wide = vector.astype(np.float64)
        return float(np.dot(wide, wide))

    def join(self, pieces: list[F32]) -> F32:
        """Put vectors one behind the other."""
        return np.concatenate(pieces)

    def empty_like(self, vector: F32) -> F32:
        """A vector of the same size."""
        return np.empty_like(vector)

    def zeros_like(self, vector: F32) -> F32:
        """A vector of zeros of the same size."""
        return np.zeros_like(vector)

    def quantize(self, vector: F32, step: float, rounding: float) -> Quantized:
        """See `update_codec.quantizers.deadzone.quantize`."""
        symbols, outliers = quantize(vector, step, rounding)
        return Quantized(symbols=symbols, resident=symbols, outliers=outliers)

    def look_up(self, table: F32, symbols: NDArray[np.int8]) -> F32:
        """Values of symbols, in pieces that stay in the cache: numpy widens every index to eight bytes."""
        values, shifted = np.empty(len(symbols), np.float32), turned(table)
        for start in range(0, len(symbols), CHUNK_ENTRIES):
            values[start : start + CHUNK_ENTRIES] = shifted[symbols[start : start + CHUNK_ENTRIES]]
        return values

    def put(self, vector: F32, positions: NDArray[np.int64], values: F32) -> None:
        """Set single entries."""
        vector[positions] = values

    def take(self, vector: F32, positions: NDArray[np.int64]) -> F32:
        """Copy single entries."""
        return vector[positions]


HOST: Final = HostArrays()


def turned(table: F32) -> F32:
    """The table with the symbol 0 first: a negative symbol then indexes from its end."""
    return np.roll(table, -SYMBOL_MAX)


def root_mean_square(vector: Vector, arrays: Arrays) -> float:
    """Root mean square; 0 for an empty vector. The same bits from every backend."""
    if not len(vector):
        return 0.0
    if not _PEAK_MIN < arrays.peak(vector) < _PEAK_MAX:  # squares, or their sum, would leave float32
        wide = arrays.host(vector).astype(np.float64)
        return float(np.sqrt(np.dot(wide, wide) / len(wide)))
    return math.sqrt(math.fsum(arrays.row_sums(vector).tolist()) / len(vector))

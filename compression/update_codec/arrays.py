"""Where the parameters of an update live while it is encoded: in NumPy's memory, or wherever a backend keeps them.

The encoder of the deadzone kind asks its backend for whole-vector operations, and gets back only what it must see:
symbols, a sample, a few outliers. Every operation is one IEEE operation per entry, or a sum whose order is fixed here,
so two backends give the same bits. This package has the backend for NumPy; one for a GPU is an object that the caller
passes in.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from update_codec.kernel import FOLD, kernel
from update_codec.layouts.levels import Sparse
from update_codec.limits import CHUNK_ENTRIES, SYMBOL_MAX
from update_codec.quantizers.deadzone import quantize_runs

__all__ = ["FOLD", "HOST", "Arrays", "DeviceUpdate", "HostArrays", "Quantized", "Vector", "root_mean_square"]

_PEAK_MIN: Final = 1e-15
_PEAK_MAX: Final = 1e15

Vector = Any
"""A one-dimensional float32 vector of a backend: slices, `+`, `-`, `len`, item assignment."""
F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """Symbols of one group.

    Attributes:
        symbols: On the host.
        resident: The same where the backend keeps them, for `Arrays.look_up`.
        outliers: Positions beyond the last symbol, on the host.
    """

    symbols: NDArray[np.int8] | Sparse
    resident: Any
    outliers: NDArray[np.int64]


class Arrays(Protocol):
    """Whole-vector operations on float32 vectors."""

    def resident(self, values: F32) -> Vector:
        """Bring a vector of the host here."""

    def host(self, vector: Vector) -> F32:
        """Copy a vector to the host."""

    def peak(self, vector: Vector) -> float:
        """The largest magnitude; 0 for an empty vector, NaN if an entry is."""

    def row_sums(self, vector: Vector) -> F32:
        """Sums of squares of each row of `FOLD` entries, the last one filled with zeros, on the host.

        A row is halved until one entry is left: its first half plus its second half, in float32.
        """

    def energy(self, vector: Vector) -> float:
        """The sum of squares, for a report: its last bits may differ between backends."""

    def zeros_like(self, vector: Vector) -> Vector:
        """A vector of zeros of the same size."""

    def quantize(self, runs: Sequence[Vector], step: float, rounding: float, peak: float) -> Quantized:
        """See `update_codec.quantizers.deadzone.quantize_runs`."""

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

    def peak(self, vector: F32) -> float:
        """The largest magnitude; 0 for an empty vector, NaN if an entry is."""
        return kernel().peak(vector)

    def row_sums(self, vector: F32) -> F32:
        """Sums of squares of rows."""
        return kernel().row_sums(vector)

    def energy(self, vector: F32) -> float:
        """The sum of squares, in float64 where float32 would overflow or lose most of it."""
        with np.errstate(over="ignore", invalid="ignore"):
            small = float(np.dot(vector, vector))
        if 1e-25 < small < math.inf:
            return small
        wide = vector.astype(np.float64)
        return float(np.dot(wide, wide))

    def zeros_like(self, vector: F32) -> F32:
        """A vector of zeros of the same size."""
        return np.zeros_like(vector)

    def quantize(self, runs: Sequence[F32], step: float, rounding: float, peak: float) -> Quantized:
        """See `update_codec.quantizers.deadzone.quantize_runs`."""
        symbols, outliers = quantize_runs(runs, step, rounding, peak)
        return Quantized(symbols=symbols, resident=symbols, outliers=outliers)

    def look_up(self, table: F32, symbols: NDArray[np.int8]) -> F32:
        """Values of symbols, in pieces that stay in the cache: numpy widens every index to eight bytes."""
        values, wide = np.empty(len(symbols), np.float32), np.zeros(256, np.float32)
        wide[: SYMBOL_MAX + 1], wide[-SYMBOL_MAX:] = table[SYMBOL_MAX:], table[:SYMBOL_MAX]
        for start in range(0, len(symbols), CHUNK_ENTRIES):
            piece = symbols[start : start + CHUNK_ENTRIES].view(np.uint8)
            # No index is out of range: this mode only spares numpy a copy of what it writes.
            wide.take(piece.astype(np.intp), out=values[start : start + len(piece)], mode="clip")
        return values

    def put(self, vector: F32, positions: NDArray[np.int64], values: F32) -> None:
        """Set single entries."""
        vector[positions] = values

    def take(self, vector: F32, positions: NDArray[np.int64]) -> F32:
        """Copy single entries."""
        return vector[positions]


HOST: Final = HostArrays()


def root_mean_square(vector: Vector, arrays: Arrays, peak: float | None = None) -> float:
    """Root mean square; 0 for an empty vector. The same bits from every backend.

    Args:
        vector: the entries.
        arrays: where they are.
        peak: the largest magnitude, where it is known.
    """
    if not len(vector):
        return 0.0
    largest = arrays.peak(vector) if peak is None else peak
    if not _PEAK_MIN < largest < _PEAK_MAX:  # squares, or their sum, would leave float32
        wide = arrays.host(vector).astype(np.float64)
        return float(np.sqrt(np.dot(wide, wide) / len(wide)))
    return math.sqrt(math.fsum(arrays.row_sums(vector).tolist()) / len(vector))

"""The deadzone quantizer: one global step, centroid reconstruction, symbols from -127 to 127.

    q = sign(x) · floor(|x| / step + rounding),   x̂ = sign(q) · step · (|q| + shift_|q| / 128)

With a rounding below one half the zero bin is wider than the others, which is what an entropy-coded quantizer of a
peaked source wants (Sullivan, "Efficient scalar quantization of exponential and Laplacian random variables", IEEE
Transactions on Information Theory 42, 1996). At a large step this is top-k selection; there is no second code path.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from update_codec.kernel import Scale, kernel
from update_codec.layouts.levels import Sparse
from update_codec.limits import SYMBOL_MAX

__all__ = ["ROUNDING", "Found", "Large", "Quantizer", "centroid_stride", "centroids", "quantize", "quantize_runs"]

ROUNDING: Final = 0.42
"""Within 1 % of the best error for Gaussian, Laplace and Student-t sources from 0.1 to 3 bits per parameter."""
_SHIFTS: Final = 3
_BELOW: Final = 0.95
"""Where entries are looked for, in units of the threshold: a step that is a little smaller finds them there too."""
_TOGETHER: Final = 1 << 20
"""Entries whose large ones are quantized together."""
_NONE: Final = np.empty(0, np.int64)
_FLOAT_MAX: Final = float(np.finfo(np.float32).max)
_MAGNITUDES: Final = np.arange(1, SYMBOL_MAX + 1)
_BINS: Final = np.minimum(_MAGNITUDES, _SHIFTS) - 1
_ZERO: Final = np.zeros(1, np.float32)

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantizer:
    """How the symbols of one group are turned back into values."""

    step: float
    """Global step, a float32 value."""
    scale: int
    """The group's step is step · 2^-scale."""
    shifts: tuple[int, int, int]
    """Offsets of the reconstruction points of |q| = 1, 2 and above, in 1/128 of the group's step."""

    def table(self) -> NDArray[np.float32]:
        """Values of the symbols -127 … 127: float32, shape (255,).

        Every product is exact in float64 and rounded once to float32, so all machines get the same bits.
        """
        shifts = np.array(self.shifts)[_BINS]
        points = (_MAGNITUDES * 128 + shifts) * (self.step * 2.0 ** (-7 - self.scale))
        half = np.minimum(points, _FLOAT_MAX).astype(np.float32)
        return np.concatenate([-half[::-1], _ZERO, half])


def quantize(values: F32, step: float, rounding: float = ROUNDING) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Quantize finite values.

    Returns:
        int8 symbols of the same shape, and the positions whose magnitude is beyond the last symbol (symbol 0 there).
    """
    return quantize_runs([values], step, rounding, math.inf)


def quantize_runs(
    runs: Sequence[F32], step: float, rounding: float, peak: float
) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """The same for vectors that stand for one; none of their magnitudes is above `peak`."""
    symbols, outliers, begin = np.empty(sum(map(len, runs)), np.int8), [_NONE], 0
    scale = Scale(step, rounding)
    for run in runs:
        outliers.append(kernel().quantize(run, scale, symbols[begin : begin + len(run)], peak) + begin)
        begin += len(run)
    return symbols, np.concatenate(outliers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is not zero at a step.

    Attributes:
        symbols: Those that are not zero.
        outliers: Positions beyond the last symbol.
        shown: Values of those symbols whose position is a multiple of the stride, and the symbols, for `centroids`.
    """

    symbols: Sparse
    outliers: NDArray[np.int64]
    shown: tuple[F32, NDArray[np.int8]]


class Large:
    """Those entries of a vector that a large step does not make zero: found once, and quantized for each step.

    Args:
        runs: vectors that stand for one.
    """

    def __init__(self, runs: Sequence[F32]) -> None:
        self._runs, self._size = runs, sum(map(len, runs))
        self._floor = math.inf
        self._pieces: list[tuple[NDArray[np.uint32], F32]] = []

    def quantize(self, step: float, rounding: float, stride: int) -> Found:
        """The same symbols and outliers as `quantize_runs` gives."""
        threshold, scale = (1.0 - rounding) * step, Scale(step, rounding)
        if self._floor > 0.999 * threshold:  # the sum above is rounded twice: a millionth is enough
            self._find(_BELOW * threshold)
        picked = [kernel().pick(*piece, scale, stride) for piece in self._pieces]
        positions = np.concatenate([each.positions for each in picked])
        symbols = np.concatenate([each.symbols for each in picked])
        found = Sparse(size=self._size, positions=positions, values=symbols)
        outliers = np.concatenate([each.outliers for each in picked])
        values, seen = (np.concatenate([each.shown[part] for each in picked]) for part in (0, 1))
        return Found(symbols=found, outliers=outliers, shown=(values, seen))

    def _find(self, floor: float) -> None:
        limit, begin = float(np.float32(floor)), 0
        self._floor, self._pieces = floor, []
        for run in self._runs:
            for start in range(0, len(run), _TOGETHER):
                piece = run[start : start + _TOGETHER]
                self._pieces.append(kernel().large(piece, limit, begin))
                begin += len(piece)
        if not self._pieces:
            self._pieces.append((np.empty(0, np.uint32), np.empty(0, np.float32)))


def centroid_stride(entries: int) -> int:
    """The distance of the entries that `centroids` is shown."""
    return max(1, entries >> 16)


def centroids(values: F32, symbols: NDArray[np.int8], step: float) -> tuple[int, int, int]:
    """Return the shifts that make the reconstruction points the means of their bins, measured on a sample."""
    counts, sums = kernel().excess(values, symbols, step)
    means = sums / np.maximum(counts, 1)
    first, second, third = (int(shift) for shift in np.clip(np.rint(means * 128), -127, 127))
    return first, second, third

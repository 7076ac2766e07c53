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

from update_codec.layouts.levels import Sparse
from update_codec.limits import SYMBOL_MAX

__all__ = ["ROUNDING", "Found", "Large", "Quantizer", "centroid_stride", "centroids", "quantize", "quantize_runs"]

ROUNDING: Final = 0.42
"""Within 1 % of the best error for Gaussian, Laplace and Student-t sources from 0.1 to 3 bits per parameter."""
_SHIFTS: Final = 3
_PIECE: Final = 1 << 15
"""Entries at a time: what they are on the way stays in the cache."""
_BELOW: Final = 0.95
"""Where entries are looked for, in units of the threshold: a step that is a little smaller finds them there too."""
_TOGETHER: Final = 32
"""Pieces whose large entries are quantized together."""
_SIGN: Final = np.uint32(1 << 31)
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
    scale, buffers = _Scale(step, rounding), np.empty((2, _PIECE), np.float32)
    exceeds = scale.exceeds(peak)
    for run in runs:
        for start in range(0, len(run), _PIECE):
            piece = run[start : start + _PIECE]
            scaled = scale.of(piece, buffers[:, : len(piece)])
            if exceeds:
                beyond = _cut(scaled)
                outliers.append(beyond + begin)
            symbols[begin : begin + len(piece)] = scaled
            begin += len(piece)
    return symbols, np.concatenate(outliers)


class _Scale:
    """Values in steps, moved away from zero by the rounding: cut to whole numbers they are symbols."""

    def __init__(self, step: float, rounding: float) -> None:
        self._inverse, self._rounding = np.float32(min(1.0 / step, _FLOAT_MAX)), np.float32(rounding)

    def of(self, values: F32, buffers: F32) -> F32:
        """Scaled values, in the first of two buffers of their length."""
        scaled: F32 = buffers[0]
        moved: F32 = buffers[1]
        # The rounding with the sign of the value: numpy's copysign takes three times as long.
        np.bitwise_and(values.view(np.uint32), _SIGN, out=moved.view(np.uint32))
        np.bitwise_or(moved.view(np.uint32), self._rounding.view(np.uint32), out=moved.view(np.uint32))
        with np.errstate(over="ignore"):
            np.multiply(values, self._inverse, out=scaled)
            scaled += moved
        return scaled

    def exceeds(self, magnitude: float) -> bool:
        """Whether a value of this magnitude may be beyond the last symbol."""
        with np.errstate(over="ignore"):
            return not np.float32(magnitude) * self._inverse + self._rounding < SYMBOL_MAX + 1


def _cut(scaled: F32) -> NDArray[np.int64]:
    """Set to zero what is beyond the last symbol, and return the places."""
    if not len(scaled) or (scaled.max() < SYMBOL_MAX + 1 and scaled.min() > -SYMBOL_MAX - 1):
        return _NONE
    beyond = np.flatnonzero(np.abs(scaled) >= SYMBOL_MAX + 1)
    scaled[beyond] = 0
    return beyond


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
        threshold, scale = (1.0 - rounding) * step, _Scale(step, rounding)
        if self._floor > 0.999 * threshold:  # the sum above is rounded twice: a millionth is enough
            self._find(_BELOW * threshold)
        kept, outliers, shown = [], [_NONE], []
        for positions, values in self._pieces:
            scaled = scale.of(values, np.empty((2, len(values)), np.float32))
            outliers.append(positions[_cut(scaled)].astype(np.int64))
            symbols = scaled.astype(np.int8)
            places = np.flatnonzero(symbols != 0)
            kept.append((positions[places], symbols[places]))
            some = places[kept[-1][0] // np.uint32(stride) * np.uint32(stride) == kept[-1][0]]
            shown.append((values[some], symbols[some]))
        positions, symbols = (np.concatenate(each) for each in zip(*kept, strict=True))
        sample = tuple(np.concatenate(each) for each in zip(*shown, strict=True))
        found = Sparse(size=self._size, positions=positions, values=symbols)
        return Found(symbols=found, outliers=np.concatenate(outliers), shown=(sample[0], sample[1]))

    def _find(self, floor: float) -> None:
        self._floor, self._pieces, limit, begin = floor, [], np.float32(floor), 0
        magnitudes, marks = np.empty(_PIECE, np.float32), np.empty(_PIECE, np.bool_)
        positions, values = [np.empty(0, np.uint32)], [np.empty(0, np.float32)]
        for run in self._runs:
            for start in range(0, len(run), _PIECE):
                piece = run[start : start + _PIECE]
                size = len(piece)
                np.greater_equal(np.abs(piece, out=magnitudes[:size]), limit, out=marks[:size])
                places = np.flatnonzero(marks[:size])
                values.append(piece.take(places))
                positions.append(places.astype(np.uint32) + np.uint32(begin))
                begin += size
                if len(values) > _TOGETHER:
                    self._pieces.append((np.concatenate(positions), np.concatenate(values)))
                    positions, values = [], []
        if values:
            self._pieces.append((np.concatenate(positions), np.concatenate(values)))


def centroid_stride(entries: int) -> int:
    """The distance of the entries that `centroids` is shown."""
    return max(1, entries >> 16)


def centroids(values: F32, symbols: NDArray[np.int8], step: float) -> tuple[int, int, int]:
    """Return the shifts that make the reconstruction points the means of their bins, measured on a sample."""
    places = np.flatnonzero(symbols != 0)
    magnitudes = np.abs(symbols[places])
    excess = np.abs(values[places].astype(np.float64)) / step - magnitudes
    bins = np.minimum(magnitudes, _SHIFTS) - 1
    counts = np.bincount(bins, minlength=_SHIFTS)
    means = np.bincount(bins, weights=excess, minlength=_SHIFTS) / np.maximum(counts, 1)
    first, second, third = (int(shift) for shift in np.clip(np.rint(means * 128), -127, 127))
    return first, second, third

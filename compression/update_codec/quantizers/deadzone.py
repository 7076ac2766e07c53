"""The deadzone quantizer: one global step, centroid reconstruction, symbols from -127 to 127.

    q = sign(x) · floor(|x| / step + rounding),   x̂ = sign(q) · step · (|q| + shift_|q| / 128)

With a rounding below one half the zero bin is wider than the others, which is what an entropy-coded quantizer of a
peaked source wants (Sullivan, "Efficient scalar quantization of exponential and Laplacian random variables", IEEE
Transactions on Information Theory 42, 1996). At a large step this is top-k selection; there is no second code path.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from update_codec.limits import SYMBOL_MAX

__all__ = ["ROUNDING", "Quantizer", "centroid_stride", "centroids", "quantize"]

ROUNDING: Final = 0.42
"""Within 1 % of the best error for Gaussian, Laplace and Student-t sources from 0.1 to 3 bits per parameter."""
_SHIFTS: Final = 3
_PIECE: Final = 1 << 16
_FLOAT_MAX: Final = float(np.finfo(np.float32).max)
_MAGNITUDES: Final = np.arange(1, SYMBOL_MAX + 1)
_BINS: Final = np.minimum(_MAGNITUDES, _SHIFTS) - 1
_ZERO: Final = np.zeros(1, np.float32)


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


def quantize(
    values: NDArray[np.float32], step: float, rounding: float = ROUNDING
) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Quantize finite values.

    Returns:
        int8 symbols of the same shape, and the positions whose magnitude is beyond the last symbol (symbol 0 there).
    """
    symbols = np.empty(len(values), np.int8)
    outliers = []
    inverse = np.float32(min(1.0 / step, _FLOAT_MAX))
    with np.errstate(over="ignore"):
        for start in range(0, len(values), _PIECE):
            piece = values[start : start + _PIECE]
            scaled = np.abs(piece)
            scaled *= inverse
            scaled += np.float32(rounding)
            if scaled.max() >= SYMBOL_MAX + 1:
                beyond = np.flatnonzero(scaled >= SYMBOL_MAX + 1)
                scaled[beyond] = 0
                outliers.append(beyond + start)
            signs = np.int8(1) - 2 * (piece < 0).view(np.int8)
            np.multiply(scaled.astype(np.int8), signs, out=symbols[start : start + _PIECE])
    return symbols, np.concatenate(outliers) if outliers else np.empty(0, np.int64)


def centroid_stride(entries: int) -> int:
    """The distance of the entries that `centroids` is shown."""
    return max(1, entries >> 16)


def centroids(values: NDArray[np.float32], symbols: NDArray[np.int8], step: float) -> tuple[int, int, int]:
    """Return the shifts that make the reconstruction points the means of their bins, measured on a sample."""
    places = np.flatnonzero(symbols)
    magnitudes = np.abs(symbols[places])
    excess = np.abs(values[places].astype(np.float64)) / step - magnitudes
    bins = np.minimum(magnitudes, _SHIFTS) - 1
    counts = np.bincount(bins, minlength=_SHIFTS)
    means = np.bincount(bins, weights=excess, minlength=_SHIFTS) / np.maximum(counts, 1)
    first, second, third = (int(shift) for shift in np.clip(np.rint(means * 128), -127, 127))
    return first, second, third

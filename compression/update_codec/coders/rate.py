"""Rate control: the step at which the symbols' entropy meets a target, by bisection on a sorted sample."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from update_codec.arrays import Arrays, Vector
from update_codec.limits import SYMBOL_MAX

__all__ = ["EntropyRate", "sorted_sample", "step_for"]

SAMPLE_ENTRIES: Final = 1 << 15
_TOLERANCE: Final = 1e-3
"""Relative error of the step: a tenth of what the real size may be below its target."""


@dataclass(frozen=True, slots=True)
class _Part:
    magnitudes: NDArray[np.float32]
    size: int
    scale: int


class EntropyRate:
    """Estimates the bits of a quantized vector from its order-0 entropy.

    Args:
        groups: for each group its `sorted_sample`, its size and its scale (step · 2^-scale).
        rounding: the quantizer's rounding offset.
    """

    def __init__(self, groups: Sequence[tuple[NDArray[np.float32], int, int]], rounding: float) -> None:
        self._edges = np.arange(1, SYMBOL_MAX + 1) - rounding
        self._parts = [_Part(sample, size, scale) for sample, size, scale in groups]

    def bits(self, step: float) -> float:
        """Entropy of all symbols at this step, in bits."""
        total = 0.0
        for part in self._parts:
            edges = self._edges * (step * 2.0**-part.scale)
            below = np.searchsorted(part.magnitudes, edges) / len(part.magnitudes)
            used = _differences(below)
            used = used[used > 0]
            total += part.size * float(1.0 - below[0] - np.dot(used, np.log2(used)))
        return total


def _differences(below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares between consecutive quantiles, from 0 to 1; `np.diff` with both ends takes seven times as long."""
    shares = np.empty(len(below) + 1)
    shares[0], shares[-1] = below[0], 1.0 - below[-1]
    np.subtract(below[1:], below[:-1], out=shares[1:-1])
    return shares


def step_for(estimate: Callable[[float], float], bits: float, low: float, high: float) -> float:
    """Return the step between `low` and `high` whose estimated bits are closest to `bits` from below."""
    if estimate(low) <= bits:
        return low
    while high / low > 1 + _TOLERANCE:
        middle = (low * high) ** 0.5
        if estimate(middle) > bits:
            low = middle
        else:
            high = middle
    return high


def sorted_sample(values: Vector, arrays: Arrays) -> NDArray[np.float32]:
    """Magnitudes of some entries, in order."""
    stride = max(1, len(values) // SAMPLE_ENTRIES)
    sample: NDArray[np.float32] = np.sort(np.abs(arrays.sample(values, stride)))
    return sample

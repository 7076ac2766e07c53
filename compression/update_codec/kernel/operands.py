"""What the kernel's loops take and give, besides plain arrays."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from update_codec.limits import SYMBOL_MAX

__all__ = ["F32", "Bytes", "Marks", "Picked", "Places", "Positions", "Scale", "Small"]

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]
Positions = NDArray[np.uint32]
Small = NDArray[np.uint8 | np.int8]
F32 = NDArray[np.float32]

_SIGN: Final = np.uint32(1 << 31)
_FLOAT_MAX: Final = float(np.finfo(np.float32).max)


class Scale:
    """Values in steps, moved away from zero by the rounding: cut to whole numbers they are symbols.

    Attributes:
        inverse: Of the step, float32.
        rounding: Float32.
    """

    def __init__(self, step: float, rounding: float) -> None:
        self.inverse, self.rounding = np.float32(min(1.0 / step, _FLOAT_MAX)), np.float32(rounding)

    def of(self, values: F32, buffers: F32) -> F32:
        """Scaled values, in the first of two buffers of their length."""
        scaled: F32 = buffers[0]
        moved: F32 = buffers[1]
        # The rounding with the sign of the value: numpy's copysign takes three times as long.
        np.bitwise_and(values.view(np.uint32), _SIGN, out=moved.view(np.uint32))
        np.bitwise_or(moved.view(np.uint32), self.rounding.view(np.uint32), out=moved.view(np.uint32))
        with np.errstate(over="ignore"):
            np.multiply(values, self.inverse, out=scaled)
            scaled += moved
        return scaled

    def exceeds(self, magnitude: float) -> bool:
        """Whether a value of this magnitude may be beyond the last symbol."""
        with np.errstate(over="ignore"):
            return not np.float32(magnitude) * self.inverse + self.rounding < SYMBOL_MAX + 1


@dataclass(frozen=True, slots=True)
class Picked:
    """Symbols of single values.

    Attributes:
        positions: Of those that are not zero, uint32.
        symbols: Those, int8.
        outliers: Positions beyond the last symbol, int64.
        shown: Values of those symbols whose position is a multiple of the stride, and the symbols.
    """

    positions: Positions
    symbols: NDArray[np.int8]
    outliers: Places
    shown: tuple[F32, NDArray[np.int8]]


@dataclass(frozen=True, slots=True)
class Marks:
    """Set places, as bits that bytes stand for: see `Reference.marked`."""

    masks: Bytes
    width: int
    chosen: Bytes

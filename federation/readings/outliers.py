"""Values that no sensor has measured: so far from all others that one of them would decide the scale of its column.

A reading comes from a bus, a radio and somebody's firmware: now and then a broken one says 1e38. One such value in a
hundred thousand makes the standard deviation of its column so large that all the others become one number. What is
only wrong (a sentinel such as -9999) is known to whoever knows the sensor: ``ranges`` in ``[data]``.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from federation.runtime.log import get_log

__all__ = ["SPANS", "outliers", "tell_outliers"]

SPANS: Final = 1e6
"""An outlier is further from the middle than so many times the span of the others. A converter of 24 bits with noise in
its last ten has a range of 2e4 spans of its noise."""

OF_CONSTANT: Final = 1e12
"""The same where the others are all alike, in units of their value, 1 at least: what changes seldom is a switch."""

ENDS, SHARE = 3, 1_000
"""At each end so many values, and one more for each thousand, do not count for the span."""

VALUES_MIN: Final = 20
"""Of fewer values nothing is said."""


def outliers(values: ArrayLike) -> NDArray[np.bool]:
    """Which values of one column are outliers.

    Args:
        values: float (n,); what is not finite is none.

    Returns:
        bool (n,).
    """
    found = np.asarray(values, np.float64)
    known = np.isfinite(found)
    count = int(known.sum())
    ends = ENDS + count // SHARE
    if count < max(VALUES_MIN, 2 * ends + 2):
        return np.zeros(found.shape, bool)
    places = (ends, count // 2, count - 1 - ends)
    low, middle, high = map(float, np.partition(found[known], places)[list(places)])
    span = high - low
    limit = SPANS * span if span > 0 else OF_CONSTANT * max(1.0, abs(middle))
    return known & (np.abs(np.where(known, found, middle) - middle) > limit)


def tell_outliers(column: str, values: Sequence[float] | NDArray[np.generic]) -> None:
    """Say in the log what is left out, and how to keep it from coming.

    Args:
        column: Its name.
        values: The outliers.
    """
    why = "no sensor says this: say what it can say, in ranges under [data], or see the sensor"
    get_log("readings").warning("outliers_left_out", column=column, count=len(values), first=float(values[0]), why=why)

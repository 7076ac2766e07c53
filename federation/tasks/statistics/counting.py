"""What one node counts: its values by bin, and their exact sums, without a rounding that depends on who has which row.

Each value is rounded once, to a multiple of 2^-64; then everything is whole numbers, so all nodes together have to the
last digit what one machine with all rows would have.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.tasks.statistics.exact_sums import UNIT_BITS
from federation.tasks.statistics.layout import ABOVE, BELOW, BOUND, MISSING, OUTSIDE, SLOTS, Counts, Plan

__all__ = ["channels_of", "counts_of", "rows_of"]

F64 = NDArray[np.float64]

_PART_BITS: Final = 18
"""A float64's 53 bits in three parts: products of two, summed over a piece, stay below 2^53."""
_BITS: Final = 22
_MASK: Final = (1 << _BITS) - 1
_ROWS: Final = 1 << 16
_EXACT_BELOW: Final = 2.0**-11
"""From here on, every float64 is a multiple of 2^-64."""


def counts_of(readings: NDArray[Any], plan: Plan) -> Counts:
    """Count one node's rows.

    Args:
        readings: Numbers of shape (rows, C): floats of any size, integers or booleans. What is not finite is missing.
        plan: Which bins, and which values count.

    Raises:
        TaskError: They are no numbers, or of another shape.
    """
    columns = len(plan.bounds)
    if readings.ndim != 2 or readings.shape[1] != columns:
        raise TaskError(f"this node's readings have the shape {list(readings.shape)}, and (rows, {columns}) is wanted")
    if readings.dtype.kind not in "fiub":
        raise TaskError(f"this node's readings are {readings.dtype}, and must be numbers")
    bins, sums, squares = np.zeros((columns, SLOTS), np.int64), [0] * columns, [0] * columns
    for column in range(columns):
        values = readings[:, column]
        as_floats = _rounded(values.astype(np.float64))
        with np.errstate(invalid="ignore"):
            missing = ~np.isfinite(as_floats) if values.dtype.kind == "f" else np.zeros(len(values), np.bool_)
            low, high = plan.bounds[column].tolist()
            inside = (as_floats >= low) & (as_floats <= high) & (np.abs(as_floats) < BOUND)
        bins[column] = _binned(as_floats[inside], plan.edges(column))
        bins[column, MISSING] = np.count_nonzero(missing)
        bins[column, OUTSIDE] = np.count_nonzero(~inside) - bins[column, MISSING]
        exact = values[inside] if values.dtype.kind in "iu" else as_floats[inside]
        sums[column], squares[column] = _sums(exact)
    return Counts(bins=bins, sums=sums, squares=squares)


def channels_of(shape: Sequence[int]) -> int:
    """How many columns inputs of this shape have, the number of examples included; 0 where it does not say so.

    Tables have (rows, columns), windows (windows, length, columns), pictures (pictures, channels, height, width).
    """
    if len(shape) in {2, 3}:
        return shape[-1]
    return shape[1] if len(shape) == 4 else int(len(shape) == 1)


def rows_of(inputs: NDArray[Any]) -> NDArray[Any]:
    """Inputs as rows of columns: of windows every row, of pictures every pixel.

    Raises:
        TaskError: They have another number of dimensions.
    """
    columns = channels_of(inputs.shape)
    if not columns:
        raise TaskError(f"inputs of shape {list(inputs.shape)} are no rows of columns: give the task rows()")
    return (np.moveaxis(inputs, 1, -1) if inputs.ndim == 4 else inputs).reshape(-1, columns)


def _rounded(values: F64) -> F64:
    """Multiples of 2^-64; what is not finite stays as it is."""
    with np.errstate(over="ignore", invalid="ignore"):
        near = np.abs(values) < _EXACT_BELOW
        values[near] = np.ldexp(np.rint(np.ldexp(values[near], UNIT_BITS)), -UNIT_BITS)
    return values


def _binned(values: F64, edges: F64) -> NDArray[np.int64]:
    found = np.searchsorted(edges, values, side="right") - 1
    last = len(edges) - 1
    places = np.where(found < 0, BELOW, np.where(found >= last, ABOVE, found))
    return np.bincount(places, minlength=SLOTS).astype(np.int64)


def _sums(values: NDArray[Any]) -> tuple[int, int]:
    """Sum and sum of squares, exactly, in units of 2^-64 and 2^-128."""
    total = squares = 0
    for start in range(0, len(values), _ROWS):
        piece = values[start : start + _ROWS]
        added, squared = _of_integers(piece) if piece.dtype.kind in "iu" else _of_floats(piece)
        total, squares = total + added, squares + squared
    return total, squares


def _of_floats(values: F64) -> tuple[int, int]:
    """By exponent, in parts whose sums a float64 holds exactly."""
    mantissas, exponents = np.frexp(values)
    whole = np.ldexp(mantissas, 53).astype(np.int64)
    signs, sizes = np.sign(whole), np.abs(whole)
    mask = np.int64((1 << _PART_BITS) - 1)
    parts = [(sizes >> shift & mask).astype(np.float64) for shift in (0, _PART_BITS, 2 * _PART_BITS)]
    kinds, of = np.unique(exponents, return_inverse=True)
    total = squares = 0
    for place, part in enumerate(parts):
        total += _shifted(_by_kind(of, part * signs, len(kinds)), kinds, place, 1)
        for other in range(place, len(parts)):
            product = _by_kind(of, part * parts[other], len(kinds))
            squares += _shifted(product, kinds, place + other, 2) * (1 if other == place else 2)
    return total, squares


def _by_kind(of: NDArray[np.int64], values: F64, kinds: int) -> F64:
    return np.bincount(of, values, kinds).astype(np.float64)


def _shifted(sums: F64, exponents: NDArray[Any], place: int, power: int) -> int:
    """Sums of parts by exponent, in the unit of this power.

    Values are multiples of the unit, so that a shift to the right loses no bit.
    """
    total = 0
    for amount, exponent in zip(sums.tolist(), exponents.tolist(), strict=True):
        shift = place * _PART_BITS + power * (exponent - 53 + UNIT_BITS)
        total += int(amount) << shift if shift >= 0 else int(amount) >> -shift
    return total


def _of_integers(values: NDArray[Any]) -> tuple[int, int]:
    """Up to 64 bits, in parts whose products an int64 can sum."""
    negative = values < 0
    sizes = values.astype(np.uint64)
    sizes = np.where(negative, np.uint64(0) - sizes, sizes)
    signs = np.where(negative, -1, 1)
    parts = [(sizes >> np.uint64(shift) & np.uint64(_MASK)).astype(np.int64) for shift in (0, _BITS, 2 * _BITS)]
    total = squares = 0
    for place, part in enumerate(parts):
        total += int((part * signs).sum()) << place * _BITS
        for other in range(place, len(parts)):
            squares += int((part * parts[other]).sum()) * (1 if other == place else 2) << (place + other) * _BITS
    return total << UNIT_BITS, squares << 2 * UNIT_BITS

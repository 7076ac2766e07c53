"""Sums over all nodes that are exact: whole numbers of any size in pieces that float32 adds without rounding.

A number is ``sum(piece[i] * 256**i)``, each piece of one sign and at most 255 large. Their role is control,
so what nodes add is summed as it is; float32 adds whole numbers exactly up to 2^24, which 65,000 nodes do not reach.
Moments are counted in units of 2^-64, and their squares in units of 2^-128::

    mean = S1 / n        variance = (n S2 - S1^2) / n^2

as fractions: nothing cancels, whatever the scale of a column.
"""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError

__all__ = ["COUNT_PIECES", "SQUARE_PIECES", "SUM_PIECES", "UNIT_BITS", "Moments", "from_pieces", "to_pieces"]

PIECE_BITS: Final = 8
UNIT_BITS: Final = 64
COUNT_PIECES: Final = 6
"""Pieces of a number of rows."""
SUM_PIECES: Final = 22
"""Pieces of a sum of values up to 2^64."""
SQUARE_PIECES: Final = 38
"""Pieces of a sum of their squares."""

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


class Moments:
    """Rows, sums and sums of squares of each column.

    Args:
        rows: How many rows.
        sums: One whole number per column, in units of 2^-64.
        squares: One per column, in units of 2^-128.
    """

    def __init__(self, rows: int, sums: Sequence[int], squares: Sequence[int]) -> None:
        self.rows, self._sums, self._squares = rows, sums, squares

    @classmethod
    def of(cls, rows: int, mean: F64, variance: F64) -> "Moments":
        """Those of one node's rows; means and variances are float64 of shape (columns,).

        Raises:
            TaskError: They are not finite.
        """
        if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
            raise TaskError("the scaler's means and variances are not finite: are there gaps in the data?")
        means, variances = ([Fraction(float(each)) for each in values] for values in (mean, variance))
        sums = [round(rows * one * (1 << UNIT_BITS)) for one in means]
        pairs = zip(means, variances, strict=True)
        return cls(rows, sums, [round(rows * (of + one * one) * (1 << 2 * UNIT_BITS)) for one, of in pairs])

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Moments":
        """What `arrays` made, summed over nodes."""
        rows = from_pieces(arrays["rows"])
        return cls(rows[0], from_pieces(arrays["sums"]), from_pieces(arrays["squares"]))

    def arrays(self) -> dict[str, F32]:
        """The pieces by name: ``rows`` (1, 6), ``sums`` (columns, 22), ``squares`` (columns, 38), float32.

        Raises:
            TaskError: A value is too large.
        """
        return {
            "rows": to_pieces([self.rows], COUNT_PIECES),
            "sums": to_pieces(self._sums, SUM_PIECES),
            "squares": to_pieces(self._squares, SQUARE_PIECES),
        }

    @property
    def mean(self) -> F64:
        """Of each column, correctly rounded, shape (columns,)."""
        unit = self.rows << UNIT_BITS
        return np.array([float(Fraction(total, unit)) for total in self._sums])

    @property
    def variance(self) -> F64:
        """Of each column, correctly rounded and never negative, shape (columns,)."""
        unit = self.rows**2 << 2 * UNIT_BITS
        pairs = zip(self._sums, self._squares, strict=True)
        return np.array([float(Fraction(max(0, self.rows * square - total**2), unit)) for total, square in pairs])


def to_pieces(numbers: Iterable[int], count: int) -> F32:
    """Whole numbers as pieces, the smallest first: float32 of shape (numbers, count).

    Raises:
        TaskError: A number does not fit.
    """
    rows = []
    for number in numbers:
        try:
            digits = np.frombuffer(abs(number).to_bytes(count, "little"), np.uint8)
        except OverflowError:
            raise TaskError("a value in the data is too large to be summed exactly: at most 2^64") from None
        rows.append(np.copysign(digits.astype(np.float32), np.float32(-1 if number < 0 else 1)))
    return np.stack(rows) if rows else np.zeros((0, count), np.float32)


def from_pieces(pieces: NDArray[Any]) -> list[int]:
    """The whole numbers that pieces of shape (numbers, count) stand for, also where each piece is a sum."""
    return [sum(int(piece) << PIECE_BITS * place for place, piece in enumerate(row)) for row in pieces.tolist()]

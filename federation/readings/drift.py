"""How far readings have moved from what was learnt: the population stability index and the shift of the mean.

The population stability index of two samples over bins of the first one's deciles is ``sum((q - p) * ln(q / p))``, with
p and q their shares in each bin (Siddiqi, Credit Risk Scorecards, 2006): below 0.1 is stable, above 0.25 has moved.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Reference", "drift_of"]

BINS = 10
ROWS_MIN = 50
"""Values of a column below which nothing is said: shares of so few are noise."""

_SHARE_MIN = 1e-4


@dataclass(frozen=True, slots=True)
class Reference:
    """One column as it was.

    Attributes:
        mean: Of its values.
        std: Their standard deviation.
        edges: Inner edges of the bins, rising, at most nine.
        shares: Share of the values in each bin.
    """

    mean: float
    std: float
    edges: tuple[float, ...]
    shares: tuple[float, ...]

    @classmethod
    def of(cls, values: ArrayLike) -> "Reference | None":
        """Of these values; None of too few."""
        found = _finite(values)
        if len(found) < ROWS_MIN:
            return None
        edges = np.unique(np.quantile(found, np.arange(1, BINS) / BINS))
        return cls(
            float(found.mean()), float(found.std()), tuple(edges.tolist()), tuple(_shares(found, edges).tolist())
        )

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"mean": self.mean, "std": self.std, "edges": list(self.edges), "shares": list(self.shares)}

    @classmethod
    def from_plain(cls, plain: Any) -> "Reference | None":
        """From `plain`; None where it is none."""
        try:
            edges, shares = tuple(map(float, plain["edges"])), tuple(map(float, plain["shares"]))
            made = cls(float(plain["mean"]), float(plain["std"]), edges, shares)
        except (TypeError, KeyError, ValueError):
            return None
        numbers = np.array([made.mean, made.std, *edges, *shares])
        return made if np.isfinite(numbers).all() and len(shares) == len(edges) + 1 else None

    def stability(self, values: ArrayLike) -> float | None:
        """The population stability index of these values against the reference; None of too few."""
        found = _finite(values)
        if len(found) < ROWS_MIN:
            return None
        was = np.maximum(self.shares, _SHARE_MIN)
        now = np.maximum(_shares(found, np.array(self.edges)), _SHARE_MIN)
        return float(((now - was) * np.log(now / was)).sum())

    def shift(self, values: ArrayLike) -> float | None:
        """How far the mean has moved, in standard deviations of the reference; None of too few."""
        found = _finite(values)
        if len(found) < ROWS_MIN:
            return None
        spread = max(self.std, 1e-6 * max(1.0, abs(self.mean)))
        return float((found.mean() - self.mean) / spread)


def drift_of(
    references: Mapping[str, Reference], names: Sequence[str], values: NDArray[np.float32]
) -> dict[str, tuple[float, float]]:
    """Stability index and shift of each column that has a reference and enough values.

    Args:
        references: By column.
        names: Of the columns of ``values``.
        values: (T, C), with NaN where there is none.
    """
    made = {}
    for place, name in enumerate(names):
        reference = references.get(name)
        if reference is None:
            continue
        stability, shift = reference.stability(values[:, place]), reference.shift(values[:, place])
        if stability is not None and shift is not None:
            made[name] = (stability, shift)
    return made


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    found = np.asarray(values, np.float64).ravel()
    return found[np.isfinite(found)]


def _shares(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    # A value on an edge belongs below it: a column of one value is in one bin, and stays there.
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1) / len(values)

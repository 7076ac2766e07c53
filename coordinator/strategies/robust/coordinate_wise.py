"""Coordinate-wise median (Yin et al., arXiv 1803.01498, definition 1); of an even number, the mean of the middle two.

    Δ̄_j = median{Δ_i,j : i}

Every update counts alike. Right as long as more than half of the updates are honest.

Coordinate-wise trimmed mean (Yin et al., arXiv 1803.01498, definition 2), with f assumed attackers of n.

    Δ̄_j = mean of {Δ_i,j : i} without its f largest and f smallest values

Every update counts alike.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.strategies.robust.updates import Updates, assumed_attackers, mean, middle
from update_codec import Vectors

__all__ = ["CoordinateMedian", "TrimmedMean"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinateMedian:
    """The median; ``attackers`` is not used."""

    attackers: float = 0.2

    def members_min(self, attackers: int) -> int:
        """An honest majority."""
        return max(3, 2 * attackers + 1)

    def combine(self, updates: Updates) -> Vectors:
        """The median of every entry."""
        return updates.coordinatewise(middle)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimmedMean:
    """The trimmed mean.

    Attributes:
        attackers: Share of the updates that may be bad: f = ⌊share · n⌋.
    """

    attackers: float = 0.2

    def members_min(self, attackers: int) -> int:
        """Something must be left."""
        return max(3, 2 * attackers + 1)

    def combine(self, updates: Updates) -> Vectors:
        """The trimmed mean of every entry."""
        cut = assumed_attackers(self, updates.count)

        def trimmed(values: NDArray[np.float32]) -> NDArray[np.float64]:
            return mean(np.sort(values, axis=0)[cut : len(values) - cut])

        return updates.coordinatewise(trimmed)

"""Coordinate-wise median (Yin et al., arXiv 1803.01498, definition 1); of an even number, the mean of the middle two.

    Δ̄_j = median{Δ_i,j : i}

Every update counts alike. Right as long as more than half of the updates are honest.
"""

from dataclasses import dataclass

from coordinator.strategies.robust.updates import Updates, middle
from update_codec import Vectors

__all__ = ["CoordinateMedian"]


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

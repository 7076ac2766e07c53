"""Bulyan (El Mhamdi et al., ICML 2018, arXiv 1802.07927), over Krum, with f assumed attackers of n.

1. θ = n - 2f times: move the update that Krum chooses from those that are left to the selection.
2. Δ̄_j = mean of the θ - 2f values {Δ_i,j : i selected} that are nearest to their median.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.strategies.robust.krum import krum_scores, squared_distances
from coordinator.strategies.robust.rule import assumed_attackers
from coordinator.strategies.robust.updates import Updates
from update_codec import Vectors

__all__ = ["Bulyan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulyan:
    """Krum's selection, then a mean around the median.

    Attributes:
        attackers: Share of the updates that may be bad: f = ⌊share · n⌋.
    """

    attackers: float = 0.2

    def members_min(self, attackers: int) -> int:
        """The paper's n ≥ 4f + 3."""
        return 4 * attackers + 3

    def combine(self, updates: Updates) -> Vectors:
        """The mean of what is nearest to the median of the selection."""
        bad = assumed_attackers(self, updates.count)
        chosen = select(squared_distances(updates.products()), bad)
        keep = max(1, len(chosen) - 2 * bad)
        return updates.coordinatewise(lambda values: _around_median(values, keep), chosen)


def select(distances: NDArray[np.float64], attackers: int) -> list[int]:
    """The updates that Krum chooses one after the other, n - 2f of them."""
    left, chosen = list(range(len(distances))), list[int]()
    while len(chosen) < len(distances) - 2 * attackers and len(left) > 1:
        scores = krum_scores(distances[np.ix_(left, left)], attackers)
        chosen.append(left.pop(int(np.argmin(scores))))
    return chosen if len(chosen) == len(distances) - 2 * attackers else [*chosen, *left]


def _around_median(values: NDArray[np.float32], keep: int) -> NDArray[np.floating]:
    ordered = np.sort(values, axis=0).astype(np.float64)
    away = np.abs(ordered - np.median(ordered, axis=0))
    nearest = np.argsort(away, axis=0, kind="stable")[:keep]
    mean: NDArray[np.floating] = np.take_along_axis(ordered, np.sort(nearest, axis=0), axis=0).mean(axis=0)
    return mean

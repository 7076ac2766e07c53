"""Krum and Multi-Krum (Blanchard et al., NeurIPS 2017, arXiv 1703.02757), with f assumed attackers of n.

    score(i) = Σ |Δ_i - Δ_j|² over the n - f - 2 updates j that are nearest to i

Krum takes the one update with the lowest score; Multi-Krum the plain mean of the n - f lowest. Distances come from the
products of all pairs: one pass over the updates, n² numbers.

Bulyan (El Mhamdi et al., ICML 2018, arXiv 1802.07927), over Krum, with f assumed attackers of n.

1. θ = n - 2f times: move the update that Krum chooses from those that are left to the selection.
2. Δ̄_j = mean of the θ - 2f values {Δ_i,j : i selected} that are nearest to their median.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.strategies.robust.updates import Updates, assumed_attackers, mean
from update_codec import Vectors

__all__ = ["Bulyan", "Krum", "MultiKrum", "krum_scores", "squared_distances"]

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Krum:
    """The one update that is closest to its neighbours.

    Attributes:
        attackers: Share of the updates that may be bad: f = ⌊share · n⌋.
    """

    attackers: float = 0.2

    def members_min(self, attackers: int) -> int:
        """The paper's 2f + 2 < n."""
        return 2 * attackers + 3

    def combine(self, updates: Updates) -> Vectors:
        """That update; among equals the first."""
        scores = krum_scores(squared_distances(updates.products()), assumed_attackers(self, updates.count))
        return updates.coordinatewise(mean, [int(np.argmin(scores))])


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiKrum(Krum):
    """The mean of the n - f updates that are closest to their neighbours."""

    def combine(self, updates: Updates) -> Vectors:
        """Their mean; among equals the first go first."""
        bad = assumed_attackers(self, updates.count)
        scores = krum_scores(squared_distances(updates.products()), bad)
        nearest = np.argsort(scores, kind="stable")[: updates.count - bad]
        return updates.coordinatewise(mean, [int(index) for index in nearest])


def squared_distances(products: F64) -> F64:
    """|Δ_i - Δ_j|² from the inner products, shape (n, n)."""
    squares = np.diag(products)
    distances: F64 = np.maximum(squares[:, None] + squares[None, :] - 2.0 * products, 0.0)
    np.fill_diagonal(distances, 0.0)
    return distances


def krum_scores(distances: F64, attackers: int) -> F64:
    """The scores of all updates, shape (n,); with few updates at least the nearest one is looked at."""
    count = len(distances)
    nearest = min(count - 1, max(1, count - attackers - 2))
    # The smallest is the distance to itself, 0.
    scores: F64 = np.sort(distances, axis=1)[:, 1 : 1 + nearest].sum(axis=1)
    return scores


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

"""Centered clipping (Karimireddy, He and Jaggi, ICML 2021, arXiv 2012.10333, algorithm 1).

    v ← v + Σ q_i (Δ_i - v) min(1, r / |Δ_i - v|)        `ITERATIONS` times, from v = 0

q_i are the strategy's weights, bounded and summing to 1; the radius r is the median of |Δ_i - v| in each iteration. v
stays a combination Σ c_i Δ_i with c_i ≥ 0, so the products of all pairs are all that the iterations need: two
passes over the updates, whatever the number of iterations. The paper starts from the last version's v; 0 needs no state
and cannot be poisoned by an earlier version.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.strategies.robust.norm_clip import norm_factors
from coordinator.strategies.robust.updates import Updates
from update_codec import Vectors

__all__ = ["CenteredClip", "clipped_center"]

F64 = NDArray[np.float64]

ITERATIONS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CenteredClip:
    """The centre of the updates; ``attackers`` says only how many updates a version needs."""

    attackers: float = 0.2

    def members_min(self, attackers: int) -> int:
        """An honest majority decides about the radius."""
        return max(3, 2 * attackers + 1)

    def combine(self, updates: Updates) -> Vectors:
        """The clipped centre."""
        return updates.weighted(clipped_center(updates.products(), updates.shares))


def clipped_center(products: F64, shares: F64, slack: float = 1.0) -> F64:
    """The coefficients c of v = Σ c_i Δ_i, shape (n,).

    Args:
        products: Inner products of all pairs, float64, shape (n, n).
        shares: q, shape (n,); updates with a share of 0 do not count, nor for the median.
        slack: The radius, in multiples of the median.
    """
    counting = shares > 0
    coefficients = np.zeros(len(shares))
    for _ in range(ITERATIONS):
        inner = products @ coefficients
        squares = np.diag(products) - 2.0 * inner + coefficients @ inner
        distances = np.sqrt(np.maximum(squares, 0.0))
        pull = np.zeros(len(shares))
        pull[counting] = shares[counting] * norm_factors(distances[counting], slack)
        coefficients = coefficients * (1.0 - pull.sum()) + pull
    return coefficients

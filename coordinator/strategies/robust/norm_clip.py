"""Clipping to the cohort's median norm (Sun et al., arXiv 1911.07963, with the quantile of arXiv 1905.03871).

    M = median |Δ_i|        Δ̄ = Σ q_i Δ_i min(1, M / |Δ_i|)

q_i are the strategy's weights, bounded and summing to 1. A large update loses its size, not its direction: alone it
stands attackers that shout, not those that agree with each other.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.strategies.robust.updates import Updates
from update_codec import Vectors

__all__ = ["MedianNormClip", "norm_factors"]

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MedianNormClip:
    """The mean of updates that are cut to the median norm; ``attackers`` is not used."""

    attackers: float = 0.2

    def members_min(self, attackers: int) -> int:
        """An honest majority decides about the median."""
        return max(3, 2 * attackers + 1)

    def combine(self, updates: Updates) -> Vectors:
        """The weighted mean of the clipped updates."""
        return updates.weighted(updates.shares * norm_factors(updates.norms))


def norm_factors(norms: F64, slack: float = 1.0) -> F64:
    """min(1, slack · M / |Δ_i|), shape (n,); updates of norm 0 stay."""
    bound = slack * float(np.median(norms))
    factors = np.ones(len(norms))
    np.divide(bound, norms, out=factors, where=norms > bound)
    return factors

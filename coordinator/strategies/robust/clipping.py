"""Clipping to the cohort's median norm (Sun et al., arXiv 1911.07963, with the quantile of arXiv 1905.03871).

    M = median |Δ_i|        Δ̄ = Σ q_i Δ_i min(1, M / |Δ_i|)

q_i are the strategy's weights, bounded and summing to 1. A large update loses its size, not its direction: alone it
stands attackers that shout, not those that agree with each other.

Centered clipping (Karimireddy, He and Jaggi, ICML 2021, arXiv 2012.10333, algorithm 1).

    v ← v + Σ q_i (Δ_i - v) min(1, r / |Δ_i - v|)        `ITERATIONS` times, from v = 0

q_i are the strategy's weights, bounded and summing to 1; the radius r is the median of |Δ_i - v| in each iteration. v
stays a combination Σ c_i Δ_i with c_i ≥ 0, so the products of all pairs are all that the iterations need: two
passes over the updates, whatever the number of iterations. The paper starts from the last version's v; 0 needs no state
and cannot be poisoned by an earlier version.

The default against bad nodes: leave out what is far too long, cut the rest a little, take the clipped centre.

    M = median |Δ_i|        leave out |Δ_i| > `LEFT_OUT` · M        Δ'_i = Δ_i min(1, `SLACK` · M / |Δ_i|)

and then centered clipping (`centered_clip`) of the Δ'_i with `SLACK` times the median radius.
Cutting alone bounds what an attacker can add, but where honest nodes disagree (skewed labels) their sum is short, and
even a bounded push turns it. The slack keeps the price without attack low: cutting at the median itself cuts every
second honest update. `make bench-algorithms` has the figures.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.strategies.robust.updates import Updates
from update_codec import Vectors

__all__ = ["CenteredClip", "DefaultRule", "MedianNormClip", "clipped_center", "norm_factors"]

F64 = NDArray[np.float64]

ITERATIONS = 5


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


LEFT_OUT = 5.0
"""Updates longer than this many times the median norm do not count."""

SLACK = 1.5
"""Bounds, in multiples of the median norm and of the median radius."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultRule:
    """Leave out, cut, centre; ``attackers`` says only how many updates a version needs."""

    attackers: float = 0.2

    def members_min(self, attackers: int) -> int:
        """An honest majority decides about the medians."""
        return max(3, 2 * attackers + 1)

    def combine(self, updates: Updates) -> Vectors:
        """The clipped centre of what is not left out."""
        norms = updates.norms
        kept = norms <= LEFT_OUT * np.median(norms)
        factors = np.where(kept, norm_factors(norms, SLACK), 0.0)
        shares = np.where(kept, updates.shares, 0.0)
        products = updates.products() * np.outer(factors, factors)
        return updates.weighted(clipped_center(products, shares / shares.sum(), SLACK) * factors)

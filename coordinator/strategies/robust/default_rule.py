"""The default against bad nodes: leave out what is far too long, cut the rest a little, take the clipped centre.

    M = median |Δ_i|        leave out |Δ_i| > `LEFT_OUT` · M        Δ'_i = Δ_i min(1, `SLACK` · M / |Δ_i|)

and then centered clipping (`centered_clip`) of the Δ'_i with `SLACK` times the median radius.
Cutting alone bounds what an attacker can add, but where honest nodes disagree (skewed labels) their sum is short, and
even a bounded push turns it. The slack keeps the price without attack low: cutting at the median itself cuts every
second honest update. `make bench-algorithms` has the figures.
"""

from dataclasses import dataclass

import numpy as np

from coordinator.strategies.robust.centered_clip import clipped_center
from coordinator.strategies.robust.norm_clip import norm_factors
from coordinator.strategies.robust.updates import Updates
from update_codec import Vectors

__all__ = ["DefaultRule"]

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

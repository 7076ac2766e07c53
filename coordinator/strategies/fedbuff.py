"""FedBuff (Nguyen et al., arXiv 2106.06639, algorithm 1): a version of every K updates, whatever they are based on.

    Δ̄ = (1/K) Σ s(τ_i) Δ_i        s(τ) = 1/√(1+τ)        w ← w + η Δ̄

τ_i is how many versions came between the model that i trained from and now; Δ_i is against the model it trained from.
With importance p_i this is Σ p_i s(τ_i) Δ_i / Σ p_i: stale updates make the whole step smaller. ``normalise =
"weight"`` divides by Σ p_i s(τ_i) instead: stale updates only lose influence.
"""

from coordinator.strategies.preset import Preset

__all__ = ["PRESET"]

PRESET = Preset(staleness="polynomial", normalise="count")

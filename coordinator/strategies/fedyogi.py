"""FedYogi (Reddi et al., arXiv 2003.00295, algorithm 2), with FedAvg's aggregate Δ̄; m starts at 0, v at τ².

m ← β₁ m + (1 - β₁) Δ̄        v ← v - (1 - β₂) Δ̄² sign(v - Δ̄²)        w ← w + η m / (√v + τ)
"""

from coordinator.strategies.preset import Preset

__all__ = ["PRESET"]

PRESET = Preset(server="yogi", server_learning_rate=0.01)

"""FedAvgM, server momentum (Hsu et al., arXiv 1909.06335, section 4.3), with FedAvg's aggregate Δ̄.

m ← β₁ m + Δ̄        w ← w + η m
"""

from coordinator.strategies.preset import Preset

__all__ = ["PRESET"]

PRESET = Preset(server="momentum")

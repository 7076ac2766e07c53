"""FedAdagrad (Reddi et al., arXiv 2003.00295, algorithm 1: no first moment), with FedAvg's Δ̄; v starts at τ².

v ← v + Δ̄²        w ← w + η Δ̄ / (√v + τ)
"""

from coordinator.strategies.preset import Preset

__all__ = ["PRESET"]

PRESET = Preset(server="adagrad", server_learning_rate=0.01)

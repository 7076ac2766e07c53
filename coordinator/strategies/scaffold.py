"""SCAFFOLD (Karimireddy et al., arXiv 1910.06378, algorithm 1): the server's part, with equal weights.

    x ← x + η / |S| Σ (y_i - x)        c ← c + 1/N Σ Δc_i

The first line is the mean with ``importance = "uniform"``: another weight would not fit c, which counts all nodes
alike. The second is a sum that the aggregate makes of every tensor with the role control. What nodes do, and why c
stays the mean of all c_i when updates are lost or refused, is in `federation.tasks.scaffold`.
"""

from coordinator.strategies.preset import Preset

__all__ = ["PRESET"]

PRESET = Preset(importance="uniform", controls=True)

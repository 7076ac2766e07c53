"""FedAsync (Xie et al., arXiv 1903.03934, algorithm 1): every update makes a version.

    η_t = η s(τ)        w ← (1 - η_t) w + η_t w_k

With w_k = w_base + Δ this is w + η_t Δ + η_t (w_base - w): besides what the node has learned, the model is pulled back
to what the node started from. w - w_base is the sum of the last τ server steps, so the state keeps as many steps as
updates may lag behind (``round.max_staleness``), each as large as the model. ``strategy.mixing = false`` leaves the
pull out, w ← w + η_t Δ, and keeps nothing. η, the paper's alpha, is ``server_learning_rate``.
"""

from coordinator.strategies.preset import Preset

__all__ = ["PRESET"]

PRESET = Preset(staleness="polynomial", normalise="count", server_learning_rate=0.6, mixes=True)

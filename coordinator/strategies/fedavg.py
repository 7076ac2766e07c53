"""FedAvg (McMahan et al., arXiv 1602.05629, algorithm 1), with n_k examples on node k.

    w ← Σ n_k w_k / Σ n_k = w + Σ n_k (w_k - w) / Σ n_k

An update that lags behind counts in full: with a buffer below the concurrency, `coordinator.strategies.fedbuff` fits.
"""

from coordinator.strategies.preset import Preset

__all__ = ["PRESET"]

PRESET = Preset()

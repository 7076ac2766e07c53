"""FedProx (Li et al., arXiv 1812.06127, algorithm 2): FedAvg whose nodes stay close to the model they got.

    w_k ← argmin F_k(u) + μ/2 |u - w|²        w ← Σ n_k w_k / Σ n_k

The term is the nodes' part: ``train.proximal_mu``, 0.01 where the configuration does not say it. The paper averages
nodes that were drawn by their examples; here all are drawn alike and weigh by their examples, as in FedAvg.
"""

from coordinator.strategies.preset import Preset

__all__ = ["PRESET"]

PRESET = Preset(proximal_mu=0.01)

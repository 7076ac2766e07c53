"""The named strategies: for each its paper, its equation, and the constants with which `Averaging` follows it."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["STRATEGIES", "Preset"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What a strategy's name stands for.

    Attributes:
        staleness: Name of s(τ): ``constant``, ``polynomial`` or ``hinge``.
        normalise: ``weight`` divides by Σ p s, ``count`` by Σ p.
        server: Name of the server optimizer.
        server_learning_rate: η.
        proximal_mu: FedProx's μ that nodes train with, where the configuration does not say it; 0 is none.
        mixes: The new model mixes the old one with the node's, instead of adding the node's difference.
        importance: Name of p.
        controls: The model carries control variates.
    """

    staleness: str = "constant"
    normalise: str = "weight"
    server: str = "sgd"
    server_learning_rate: float = 1.0
    proximal_mu: float = 0.0
    mixes: bool = False
    importance: str = "examples"
    controls: bool = False


FEDAVG = Preset()
"""FedAvg (McMahan et al., arXiv 1602.05629, algorithm 1), with n_k examples on node k.

    w ← Σ n_k w_k / Σ n_k = w + Σ n_k (w_k - w) / Σ n_k

An update that lags behind counts in full: with a buffer below the concurrency, FedBuff fits.
"""

FEDAVGM = Preset(server="momentum")
"""FedAvgM, server momentum (Hsu et al., arXiv 1909.06335, section 4.3), with FedAvg's aggregate Δ̄.

m ← β₁ m + Δ̄        w ← w + η m
"""

FEDADAM = Preset(server="adam", server_learning_rate=0.01)
"""FedAdam (Reddi et al., arXiv 2003.00295, algorithm 2), with FedAvg's aggregate Δ̄; m starts at 0, v at τ².

m ← β₁ m + (1 - β₁) Δ̄        v ← β₂ v + (1 - β₂) Δ̄²        w ← w + η m / (√v + τ)
"""

FEDYOGI = Preset(server="yogi", server_learning_rate=0.01)
"""FedYogi (Reddi et al., arXiv 2003.00295, algorithm 2), with FedAvg's aggregate Δ̄; m starts at 0, v at τ².

m ← β₁ m + (1 - β₁) Δ̄        v ← v - (1 - β₂) Δ̄² sign(v - Δ̄²)        w ← w + η m / (√v + τ)
"""

FEDADAGRAD = Preset(server="adagrad", server_learning_rate=0.01)
"""FedAdagrad (Reddi et al., arXiv 2003.00295, algorithm 1: no first moment), with FedAvg's Δ̄; v starts at τ².

v ← v + Δ̄²        w ← w + η Δ̄ / (√v + τ)
"""

FEDPROX = Preset(proximal_mu=0.01)
"""FedProx (Li et al., arXiv 1812.06127, algorithm 2): FedAvg whose nodes stay close to the model they got.

    w_k ← argmin F_k(u) + μ/2 |u - w|²        w ← Σ n_k w_k / Σ n_k

The term is the nodes' part: ``train.proximal_mu``, 0.01 where the configuration does not say it. The paper averages
nodes that were drawn by their examples; here all are drawn alike and weigh by their examples, as in FedAvg.
"""

FEDBUFF = Preset(staleness="polynomial", normalise="count")
"""FedBuff (Nguyen et al., arXiv 2106.06639, algorithm 1): a version of every K updates, whatever they are based on.

    Δ̄ = (1/K) Σ s(τ_i) Δ_i        s(τ) = 1/√(1+τ)        w ← w + η Δ̄

τ_i is how many versions came between the model that i trained from and now; Δ_i is against the model it trained from.
With importance p_i this is Σ p_i s(τ_i) Δ_i / Σ p_i: stale updates make the whole step smaller. ``normalise =
"weight"`` divides by Σ p_i s(τ_i) instead: stale updates only lose influence.
"""

FEDASYNC = Preset(staleness="polynomial", normalise="count", server_learning_rate=0.6, mixes=True)
"""FedAsync (Xie et al., arXiv 1903.03934, algorithm 1): every update makes a version.

    η_t = η s(τ)        w ← (1 - η_t) w + η_t w_k

With w_k = w_base + Δ this is w + η_t Δ + η_t (w_base - w): besides what the node has learned, the model is pulled back
to what the node started from. w - w_base is the sum of the last τ server steps, so the state keeps as many steps as
updates may lag behind (``round.max_staleness``), each as large as the model. ``strategy.mixing = false`` leaves the
pull out, w ← w + η_t Δ, and keeps nothing. η, the paper's alpha, is ``server_learning_rate``.
"""

SCAFFOLD = Preset(importance="uniform", controls=True)
"""SCAFFOLD (Karimireddy et al., arXiv 1910.06378, algorithm 1): the server's part, with equal weights.

    x ← x + η / |S| Σ (y_i - x)        c ← c + 1/N Σ Δc_i

The first line is the mean with ``importance = "uniform"``: another weight would not fit c, which counts all nodes
alike. The second is a sum that the aggregate makes of every tensor with the role control. What nodes do, and why c
stays the mean of all c_i when updates are lost or refused, is in `federation.tasks.scaffold`.
"""

STRATEGIES: Mapping[str, Preset] = {
    "fedavg": FEDAVG,
    "fedavgm": FEDAVGM,
    "fedadam": FEDADAM,
    "fedyogi": FEDYOGI,
    "fedadagrad": FEDADAGRAD,
    "fedprox": FEDPROX,
    "fedbuff": FEDBUFF,
    "fedasync": FEDASYNC,
    "scaffold": SCAFFOLD,
}
"""What each name stands for; every single choice can be set apart."""

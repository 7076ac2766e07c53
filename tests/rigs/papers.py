"""The strategies once more, straight from their papers: float64, whole models, and no code of ours."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

RATES = {"fedavgm": 1.0, "fedadam": 0.01, "fedyogi": 0.01, "fedadagrad": 0.01, "fedasync": 0.6}
BETA1, BETA2, TAU = 0.9, 0.99, 1e-3


@dataclass
class Sent:
    """One update: the model that the node had, the one that it made, and its buffers' differences."""

    base_version: int
    base: F64
    trained: F64
    examples: int
    statistics: F64


@dataclass
class Paper:
    """One strategy's server; ``s`` is the staleness function's name."""

    name: str
    model: F64
    statistics: F64
    s: str = "polynomial"
    version: int = 0
    moments: dict[str, F64] = field(default_factory=dict)

    def staleness(self, tau: int) -> float:
        """s(τ) of arXiv 1903.03934 with a = 0.5 and b = 4."""
        if self.s == "hinge":
            return 1.0 if tau <= 4 else 1.0 / (0.5 * (tau - 4) + 1.0)
        return 1.0 if self.s == "constant" else float((tau + 1.0) ** -0.5)

    def commit(self, sent: list[Sent]) -> None:
        """Make the next version of these updates."""
        taus = [self.version - one.base_version for one in sent]
        # SCAFFOLD's server counts all members alike; its control variates have a test of their own.
        examples = np.array([1 if self.name == "scaffold" else one.examples for one in sent], float)
        if self.name == "fedasync":
            alpha = RATES["fedasync"] * self.staleness(taus[0])
            self.model = (1 - alpha) * self.model + alpha * sent[0].trained
            self.statistics = self.statistics + self.staleness(taus[0]) * sent[0].statistics
        elif self.name == "fedbuff":
            weights = examples * [self.staleness(tau) for tau in taus] / examples.sum()
            self.model = self.model + sum(w * (one.trained - one.base) for w, one in zip(weights, sent, strict=True))
            self.statistics = self.statistics + sum(w * one.statistics for w, one in zip(weights, sent, strict=True))
        else:
            weights = examples / examples.sum()
            # With τ = 0 this is the average of the nodes' models.
            average = sum(w * (one.trained - one.base) for w, one in zip(weights, sent, strict=True))
            self.model = self.model + self._server(np.asarray(average))
            self.statistics = self.statistics + sum(w * one.statistics for w, one in zip(weights, sent, strict=True))
        self.version += 1

    def _server(self, delta: F64) -> F64:
        """Algorithm 1 and 2 of arXiv 2003.00295, and momentum of arXiv 1909.06335."""
        if self.name in {"fedavg", "fedprox", "scaffold"}:
            return delta
        m = self.moments.get("m", np.zeros_like(delta))
        v = self.moments.get("v", np.full_like(delta, TAU**2))
        if self.name == "fedavgm":
            self.moments["m"] = m = BETA1 * m + delta
            return RATES[self.name] * m
        if self.name == "fedadagrad":
            m, v = delta, v + delta**2
        elif self.name == "fedadam":
            m, v = BETA1 * m + (1 - BETA1) * delta, BETA2 * v + (1 - BETA2) * delta**2
        else:
            m = BETA1 * m + (1 - BETA1) * delta
            v = v - (1 - BETA2) * delta**2 * np.sign(v - delta**2)
        self.moments = {"m": m, "v": v}
        return RATES[self.name] * m / (np.sqrt(v) + TAU)

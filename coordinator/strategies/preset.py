"""The choices that make up a named strategy."""

from dataclasses import dataclass

__all__ = ["Preset"]


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

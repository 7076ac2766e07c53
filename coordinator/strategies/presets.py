"""One module per named strategy: its paper, its equation, and the constants with which `Averaging` follows it."""

from collections.abc import Mapping

from coordinator.strategies import fedadagrad, fedadam, fedasync, fedavg, fedavgm, fedbuff, fedprox, fedyogi, scaffold
from coordinator.strategies.preset import Preset

__all__ = ["STRATEGIES", "Preset"]

STRATEGIES: Mapping[str, Preset] = {
    "fedavg": fedavg.PRESET,
    "fedavgm": fedavgm.PRESET,
    "fedadam": fedadam.PRESET,
    "fedyogi": fedyogi.PRESET,
    "fedadagrad": fedadagrad.PRESET,
    "fedprox": fedprox.PRESET,
    "fedbuff": fedbuff.PRESET,
    "fedasync": fedasync.PRESET,
    "scaffold": scaffold.PRESET,
}
"""What each name stands for; every single choice can be set apart."""

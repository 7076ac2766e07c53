"""Nodes that lose their link while they train: the work goes on, and its update comes when the node is back."""

import math
import random
from dataclasses import dataclass, replace

from federation.errors import ConfigError
from simulation.faults import parse_fields

__all__ = ["Outages", "parse_outages"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outages:
    """How often, and for how long.

    Attributes:
        share: Probability that a training sees the link go.
        away_s: Mean time until the node is back, in seconds (exponential).
    """

    share: float = 0.0
    away_s: float = 30.0

    def draw(self, rng: random.Random, train_s: float) -> tuple[float, float] | None:
        """When the link goes and when it is back, in seconds from the training's start; None when it stays."""
        if rng.random() >= self.share:
            return None
        gone_s = rng.random() * train_s
        return gone_s, gone_s + rng.expovariate(1.0 / self.away_s)


def parse_outages(text: str) -> Outages:
    """``share=0.2,away_s=60``; nothing is no outage.

    Raises:
        ConfigError: A key is unknown, or a value is out of range.
    """
    values: dict[str, float] = {}
    for key, given in parse_fields("--outages", text, {"share": "share", "away_s": "away_s"}).items():
        try:
            values[key] = float(given)
        except ValueError:
            raise ConfigError("--outages", f"{key} needs a number, not {given!r}", source="command line") from None
        if (
            not 0.0 <= values[key] < math.inf
            or (key == "share" and values[key] > 1)
            or (key == "away_s" and not values[key])
        ):
            raise ConfigError("--outages", f"{key} is out of range: {given}", source="command line")
    return replace(Outages(), **values)

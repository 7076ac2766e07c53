"""Nodes that are offline: those that lose their link while they train, and those that are away in turn.

In both cases the work goes on, and its update comes when the node is back.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from federation.errors import ConfigError
from federation.types import NodeId
from fedmq.simulation.experiment.direct import DirectCoordinator, Question
from fedmq.simulation.world.faults import parse_fields

__all__ = ["Outages", "Turns", "parse_outages"]

_KEYS = ("share", "away_s", "away", "change_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outages:
    """How often, and for how long.

    Attributes:
        share: Probability that a training sees the link go. A node is then offline for more than this share of the
            time: it trains again as soon as it is back.
        away_s: Mean time until the node is back, in seconds (exponential).
        away: So many nodes are offline at any time, whatever they do.
        change_s: Every so many seconds one of them comes back, and another one leaves.
    """

    share: float = 0.0
    away_s: float = 30.0
    away: int = 0
    change_s: float = 3.0

    def draw(self, rng: random.Random, train_s: float) -> tuple[float, float] | None:
        """When the link goes and when it is back, in seconds from the training's start; None when it stays."""
        if rng.random() >= self.share:
            return None
        gone_s = rng.random() * train_s
        return gone_s, gone_s + rng.expovariate(1.0 / self.away_s)


@dataclass(slots=True)
class Turns:
    """Who is away in turn, and what they have trained meanwhile.

    Attributes:
        coordinator: Hears who leaves and who is back.
        names: All nodes.
        rng: Draws who is next.
        offer: Answers a question.
    """

    coordinator: DirectCoordinator
    names: Sequence[NodeId]
    rng: random.Random
    offer: Callable[[Question], None]
    _away: list[NodeId] = field(default_factory=list)
    _kept: dict[NodeId, list[Question]] = field(default_factory=dict)

    def begin(self, count: int) -> None:
        """The first ones leave."""
        for _ in range(count):
            self._leave()

    def change(self) -> None:
        """One comes back and offers what it has, another one leaves."""
        back = self._away.pop(self.rng.randrange(len(self._away)))
        self._leave(but=back)
        self.coordinator.come_back(back)
        for question in self._kept.pop(back, []):
            self.offer(question)

    def finish(self, question: Question) -> None:
        """A training is over: its update is offered now, or once the node is back."""
        if question.node in self._away:
            self._kept.setdefault(question.node, []).append(question)
        else:
            self.offer(question)

    def _leave(self, but: NodeId | None = None) -> None:
        node = self.rng.choice([name for name in self.names if name != but and name not in self._away])
        self._away.append(node)
        self.coordinator.leave(node)


def parse_outages(text: str, nodes: int) -> Outages:
    """``share=0.2,away_s=60`` or ``away=3,change_s=10``; nothing is no outage.

    Raises:
        ConfigError: A key is unknown, a value is out of range, or two of the ``nodes`` do not stay.
    """
    values: dict[str, float] = {}
    for key, given in parse_fields("--outages", text, {name: name for name in _KEYS}).items():
        try:
            values[key] = float(given)
        except ValueError:
            raise ConfigError("--outages", f"{key} needs a number, not {given!r}", source="command line") from None
        if not _in_range(key, values[key], nodes):
            raise ConfigError("--outages", f"{key} is out of range: {given}", source="command line")
    away = int(values.pop("away", 0))
    found = replace(Outages(away=away), **values)  # type: ignore[arg-type]  # the rest are floats
    if found.share and found.away:
        raise ConfigError("--outages", "share and away are two ways of being offline: give one", source="command line")
    return found


def _in_range(key: str, value: float, nodes: int) -> bool:
    if not 0.0 <= value < math.inf:
        return False
    match key:
        case "share":
            return value <= 1.0
        case "away":
            return value.is_integer() and value <= max(0, nodes - 2)
        case _:
            return value > 0.0

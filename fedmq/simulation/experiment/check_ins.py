"""Virtual nodes that check in by the coordinator's pace in place of standing connected, as real ones do (FED-325)."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from edge_node.engine.pace import SHARE_LEAST, SHARE_MOST
from edge_node.engine.settings import PACE_LINGER_S
from federation.types import NodeId
from fedmq.simulation.experiment.direct import DirectCoordinator

__all__ = ["CheckIns"]

_ROUNDING_S = 1e-6


@dataclass(slots=True, kw_only=True)
class CheckIns:
    """Who is connected, and when the others come.

    Attributes:
        coordinator: Hears who is there.
        pace_s: How often each is wanted, in seconds; 0: all stay.
        rng: Draws how long each is away.
        at: Lets something happen after so many seconds.
        connected: How many nodes are there now; ``peak``: the most that were there at once.
        came: How often a node has come.
    """

    coordinator: DirectCoordinator
    pace_s: float
    rng: random.Random
    at: Callable[[float, Callable[[], None]], None]
    connected: int = 0
    peak: int = 0
    came: int = 0
    _idle_since: dict[NodeId, float] = field(default_factory=dict)
    _owing: set[NodeId] = field(default_factory=set)

    def begin(self, nodes: Iterable[NodeId]) -> None:
        """All are away, and due at some time within one pace."""
        for node in nodes:
            self.at(self.pace_s * self.rng.random(), partial(self._come, node))

    def asked(self, node: NodeId) -> None:
        """A node has work, and then owes an update; where there is no pace nobody asks."""
        if self.pace_s:
            self._owing.add(node)

    def settled(self, node: NodeId) -> None:
        """A node owes nothing any more: it has a verdict, or has declined."""
        if node in self._owing:
            self._owing.remove(node)
            self._wait(node)

    def _come(self, node: NodeId) -> None:
        self.connected += 1
        self.came += 1
        self.peak = max(self.peak, self.connected)
        self.coordinator.come_back(node)
        self._wait(node)

    def _wait(self, node: NodeId) -> None:
        self._idle_since[node] = self.coordinator.now
        self.at(PACE_LINGER_S, partial(self._leave, node))

    def _leave(self, node: NodeId) -> None:
        since, now = self._idle_since.get(node), self.coordinator.now
        if since is None or node in self._owing or now < since + PACE_LINGER_S - _ROUNDING_S:
            return
        del self._idle_since[node]
        self.connected -= 1
        away_s = self.pace_s * (SHARE_LEAST + (SHARE_MOST - SHARE_LEAST) * self.rng.random())
        self.coordinator.check_out(node, away_s)
        self.at(away_s, partial(self._come, node))

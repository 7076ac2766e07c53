"""Calls on nodes that are believed gone when nobody else can be asked: what says that they are gone may be out of date.

A will that was delayed, or a birth that a full queue has dropped, leaves a node idle and unasked, and nothing but a
reconnect would show it. So a coordinator that finds nobody asks for a sign of life, with growing pauses [FED-61].
"""

from itertools import islice

from coordinator.engine.state import Desk
from federation.protocol.messages import Rebirth
from federation.types import NodeId

__all__ = ["ROLL_CALL_S", "RollCall"]

ROLL_CALL_S = 60.0
"""How long nobody can be asked before the first call, in seconds; doubled with each further one."""

ROLL_CALL_S_MAX = 3_600.0
"""Longest pause between two calls, in seconds."""

ROLL_CALL_NODES_MAX = 100
"""Nodes called at once, in turn: a call to a node that is really gone waits in its session at the broker."""

STARVING = frozenset({"no_candidates", "nodes_min"})
DOUBLINGS_MAX = 6


class RollCall:
    """One machine's calls."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._calls = 0
        self._called = 0
        self.due: float | None = None

    def consider(self, reason: str) -> None:
        """Look at what the machine waits for now, and call when it has starved for long enough."""
        desk = self._desk
        if reason not in STARVING or desk.registry.online == len(desk.registry):
            self.due, self._calls = None, 0
        elif self.due is None:
            self.due = desk.now + ROLL_CALL_S
        elif desk.now >= self.due:
            self._call()

    def gone(self, reason: str, most: int) -> list[NodeId]:
        """Some of the nodes that are believed gone; they are looked for only where somebody is missing."""
        desk = self._desk
        if reason not in STARVING or desk.registry.online == len(desk.registry):
            return []
        return list(islice(desk.registry.gone(), most))

    def _call(self) -> None:
        desk = self._desk
        self._calls += 1
        self.due = desk.now + min(ROLL_CALL_S_MAX, ROLL_CALL_S * 2.0 ** min(DOUBLINGS_MAX, self._calls))
        gone = len(desk.registry) - desk.registry.online
        count, start = min(gone, ROLL_CALL_NODES_MAX), self._called % gone
        # The pool of those who are gone may have changed since: to call one twice, or a little later, does no harm.
        twice = [*desk.registry.gone(), *desk.registry.gone()]
        for node in islice(twice, start, start + count):
            desk.send(node, Rebirth())
        self._called = start + count
        desk.count("roll_calls")
        desk.note("roll_call", nodes=count, gone=gone)

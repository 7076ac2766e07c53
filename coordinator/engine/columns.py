"""Nodes whose data frames have other columns, or in another order, than most nodes' are left out (FED-304).

Nobody has said an order, so that each node reads its frame in its own: two orders would train one model on different
columns. Which one is right nobody knows here; what most nodes have is taken, of equally many the least number, so that
a restart decides as before.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from coordinator.engine.state import MachineState
from federation.errors import TaskError
from federation.inputs import Inputs
from federation.protocol.messages import NodeState, Presence
from federation.types import COLUMNS, NodeId

__all__ = ["DIFFER", "Columns"]

DIFFER = (
    "its data frame has other columns than most nodes' frames, or in another order: give TorchTask(features=...), the "
    "same on every node"
)
"""Why a node is not asked."""

_WHO = "columns"


def _columns_of(described: str | None) -> Sequence[str]:
    if described is None:
        return ()
    try:
        return Inputs.from_text(described).features
    except TaskError:  # a damaged store: nodes decline what they cannot read
        return ()


class Columns:
    """What nodes say of their frames' columns.

    Args:
        state: The machine's.
        absent: Writes down that a node does not train, and in few words why.
    """

    def __init__(self, state: MachineState, absent: Callable[[NodeId, str], None]) -> None:
        self._state, self._absent = state, absent
        self._said: dict[NodeId, float] = {}
        self._counts: Counter[float] = Counter()
        self._most: float | None = None
        # Where the run says which columns it wants, nodes take them by name.
        self._known = bool(_columns_of(state.inputs))

    def observe(self, node: NodeId, node_state: NodeState) -> None:
        """Take in what a node says of itself, or that it is not there any more."""
        there = node_state.presence is Presence.ONLINE and not self._known
        said, before = (node_state.capabilities or {}).get(COLUMNS) if there else None, self._said.get(node)
        if said == before:
            self._look(node)
            return
        self._said.pop(node, None)
        if before is not None:
            self._counts[before] -= 1
            if not self._counts[before]:
                del self._counts[before]
            self._state.registry.include(node, _WHO)
        if said is not None:
            self._said[node] = said
            self._counts[said] += 1
        self._choose(before, said)
        self._look(node)

    def _choose(self, fewer: float | None, more: float | None) -> None:
        """Find what most nodes have, where it may be another now."""
        most, counts = self._most, self._counts
        if most is None or fewer == most:
            found = max(counts, key=lambda each: (counts[each], -each), default=None)
        else:
            found = more if more is not None and (counts[more], -more) > (counts[most], -most) else most
        if found != most:
            self._most = found
            for node in self._said:
                self._look(node)

    def _look(self, node: NodeId) -> None:
        state, said = self._state, self._said.get(node)
        if said is None:
            return
        if said == self._most:
            if state.failing.get(node) == DIFFER:
                state.serves(node)
            state.registry.include(node, _WHO)
            return
        if state.failing.get(node) != DIFFER:
            self._absent(node, "columns differ")
            state.note("columns_differ", node=node, nodes=self._counts[said], most=self._counts[self._most or 0.0])
        state.fails(node, DIFFER)
        state.registry.exclude(node, _WHO)

"""Nodes that have heard another gateway of this run, and so would not obey this one: the site lifts itself above it.

A node obeys the highest epoch and start that it has heard of a run (PROTOCOL.md, FED-20), and two gateways of one run
count theirs apart. A coordinator that hears of a higher pair stands still, since somebody else may lead its run. A
gateway need not: its versions come from above, and what counts twice is found there. It takes an epoch, and a first
round, above all that the node has heard, and starts again (docs/adr/0077).

The same is heard where this state is an older copy. So an order that only its disk knows is not worked for any more:
its sum may have its verdict, and another sum of that name would be told it.
"""

from typing import cast

from coordinator.engine.effects import Effect
from coordinator.engine.fencing import Behind
from coordinator.engine.state import MachineState
from federation.protocol.messages import NodeState
from federation.types import Epoch, ModelVersion, NodeId, RoundId, SeenRun, Start
from site_gateway.engine.events import LiftSite
from site_gateway.engine.state import site_of

__all__ = ["LIFT_CALM_S", "LIFT_MAX", "LIFT_PAUSE_S", "LIFT_PAUSE_S_MAX", "Newcomers"]

LIFT_PAUSE_S, LIFT_PAUSE_S_MAX = 5.0, 320.0
"""A process lifts itself this long after its start at the earliest: many nodes may come together, in seconds.

It is twice as long after each lift that came soon after another one, up to the second number: a node that lies about
what it has heard costs its site at most one new start in that time, and newcomers wait for as long.
"""

LIFT_CALM_S = 600.0
"""A process that has gone on for so long before it lifts itself begins to count anew, in seconds."""

_DOUBLINGS_MAX = 16

LIFT_MAX = 1 << 20
"""Epochs and rounds above our own that a node may have heard; whoever says more is not believed: numbers are finite."""


class Newcomers(Behind):
    """Never behind: whoever has heard more of the run than this site has made comes from another one.

    Attributes:
        due: When the site lifts itself, in monotonic seconds; None is that nobody needs it.
    """

    def __init__(self, state: MachineState) -> None:
        super().__init__(state)
        self._pair, self._round = (Epoch(0), Start(0)), RoundId(0)
        self._began_s: float | None = None
        self._lifts = site_of(state).lifts

    @property
    def _pause_s(self) -> float:
        return min(LIFT_PAUSE_S_MAX, LIFT_PAUSE_S * 2.0 ** min(self._lifts, _DOUBLINGS_MAX))

    def superseded(self, epoch: Epoch, start: Start) -> None:
        """A later start of this site has led it, and is gone: this store was restored from a backup."""
        self._lift_above(SeenRun(run=self._state.run, epoch=epoch, start=start))

    def told(self, node: NodeId, round_id: RoundId, version: ModelVersion) -> None:
        """A node offers work of a round that was never reserved here; versions come from above, and come late."""
        del node, version
        self._lift_above(SeenRun(run=self._state.run, epoch=Epoch(0), start=Start(0), round=round_id))

    def born(self, node: NodeId, node_state: NodeState) -> None:
        """A node says who it is, and what it has seen."""
        if node_state.seen is not None:
            self._compare(node_state.seen)
        if node_state.seen is not None and not self._lift_above(node_state.seen):
            self._state.count("claims_absurd")
            self._state.note("claim_not_believed", node=node, epoch=node_state.seen.epoch, round=node_state.seen.round)

    def _compare(self, seen: SeenRun) -> None:
        """A version that this site has never told of: the node has come from elsewhere, or this state is an old copy.

        What tells the two apart only the federation above knows.
        """
        state = self._state
        if seen.run == state.run and seen.version is not None and 0 < seen.version - state.newest <= LIFT_MAX:
            site_of(state).doubt()

    def proved(self, node: NodeId, proved: tuple[SeenRun, ...]) -> None:
        """A node shows what our own key has signed."""
        del node
        for seen in proved:
            self._lift_above(seen)

    def pass_time(self) -> None:
        """Lift the site when it is time; the process that follows speaks with the new numbers."""
        state = self._state
        self._began_s = state.now if self._began_s is None else self._began_s
        if self.due is None or state.now < self.due:
            return
        self.due = state.now + LIFT_PAUSE_S  # where the disk fails it is tried again
        if not state.paused:
            lifts = 1 if state.now - self._began_s >= LIFT_CALM_S else self._lifts + 1
            doubted = site_of(state).doubted
            lift = LiftSite(epoch=self._pair[0], next_round=self._round, lifts=lifts, forgets_order=doubted)
            state.emit(cast("Effect", lift))

    def _lift_above(self, seen: SeenRun) -> bool:
        """Whether this can be true."""
        state, first_free = self._state, RoundId(0 if seen.round is None else seen.round + 1)
        if seen.run != state.run or ((seen.epoch, seen.start) <= state.fence and first_free <= state.next_round):
            return True
        if seen.epoch > state.epoch + LIFT_MAX or first_free > state.next_round + LIFT_MAX:
            return False
        site_of(state).doubt()
        self._pair = max(self._pair, (seen.epoch, seen.start))
        self._round = max(self._round, first_free, state.next_round)
        if self.due is None:
            state.note("newcomer_knows_more", epoch=seen.epoch, round=seen.round, our_epoch=state.epoch)
            self.due = (state.now if self._began_s is None else self._began_s) + self._pause_s
        return True

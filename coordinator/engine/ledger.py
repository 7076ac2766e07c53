"""What each node has spent of its privacy budget, and who has none left, as it is heard here (FED-182, FED-183).

The nodes' own ledgers decide; this is their mirror, which never goes down. It tells a node that has lost its state what
it had spent, and the run when to end: when fewer nodes than a version needs have room for another turn.
"""

from dataclasses import replace

from coordinator.engine.effects import SaveSpent
from coordinator.engine.state import MachineState
from coordinator.records import NodeSpent, RecoveredState, RoundRecord
from federation.privacy.budget import fits, greatest, ledger_of, merged, turn_of
from federation.protocol.messages import Decline, NodeState, Presence, Rebirth, UpdateOffer
from federation.types import ExamplePrivacy, NodeId, RoundId, SampledSteps

__all__ = ["BUDGET", "Absent", "PrivacyLedger"]

BUDGET = "budget"
"""Why a node declines when a turn would exceed its budget."""


HEARD_WITHIN_S = 600.0
"""So long after a start, in seconds, nodes that former processes have seen may still come, and have budget."""


class Absent:
    """Nodes that were here before this process and have not been heard yet: a run does not end without them.

    Args:
        state: The machine's.
        recovered: What the store has.
    """

    def __init__(self, state: MachineState, recovered: RecoveredState) -> None:
        self._state, self._seen = state, recovered.nodes_seen
        self._began: float | None = None
        self._enrolled: frozenset[NodeId] | None = None

    def follow_enrolled(self, nodes: frozenset[NodeId]) -> None:
        """Only these may come: whoever is not enrolled any more has left."""
        self._enrolled = nodes

    def still(self, nodes: set[NodeId]) -> set[NodeId]:
        """Those of some nodes who may still come."""
        return nodes if self._enrolled is None else nodes & self._enrolled

    def beside(self, known: int) -> int:
        """How many there may be beside so many that are known."""
        if self._began is None:
            self._began = self._state.now
        most = self._seen if self._enrolled is None else min(self._seen, len(self._enrolled))
        waits = self._state.now < self._began + HEARD_WITHIN_S
        return max(0, most - known) if waits else 0


PRICED_MAX = 3
"""Ledgers of one node that are priced for each round that it was asked in; an honest node says one, again and again."""


class PrivacyLedger:
    """The mirror of all nodes' ledgers in this run.

    Args:
        state: The machine's.
        recovered: What the store has.
    """

    def __init__(self, state: MachineState, recovered: RecoveredState) -> None:
        self._state = state
        self._privacy = state.settings.train.privacy
        self._spent = {node: replace(one, steps=ledger_of(one.steps)) for node, one in recovered.spent.items()}
        self._first = recovered.next_round
        """A process before may have asked for turns of another price."""
        self._priced: dict[NodeId, tuple[RoundId, int]] = {}
        self._exhausted: set[NodeId] = set()
        self._absent = Absent(state, recovered)
        if self._privacy is not None:
            for node in self._spent:
                self._look(node, self._privacy)

    def follow_enrolled(self, nodes: frozenset[NodeId]) -> None:
        """Only these may come: a run does not wait for the budget of whoever has left the federation."""
        self._absent.follow_enrolled(nodes)

    def offered(self, node: NodeId, offer: UpdateOffer, asked: RoundRecord | None = None) -> None:
        """An update tells what its node has spent: it is on the disk before the update is answered."""
        privacy, state = self._privacy, self._state
        if privacy is None or offer.spent is None or offer.run != state.run or not state.leading or state.paused:
            return
        known = self._spent.get(node)
        steps = self._charged(known, offer.round, offer.spent, turn_of(state.settings.train, privacy))
        newest = offer.round if known is None else max(known.round, offer.round)
        self._spent[node] = NodeSpent(node=node, steps=steps, round=newest, privacy=privacy)
        state.emit(SaveSpent(spent=self._spent[node]))
        if self._may_be_priced(node, offer.round, asked):
            self._look(node, privacy)

    def _may_be_priced(self, node: NodeId, round_id: RoundId, asked: RoundRecord | None) -> bool:
        """What a node says may take seconds to price, and nobody else is heard meanwhile [FED-317]."""
        before, count = self._priced.get(node, (round_id, 0))
        count = count if before == round_id else 0
        if count >= PRICED_MAX or self._state.facts(node, round_id, asked).asked is None:
            return False
        self._priced[node] = (round_id, count + 1)
        return True

    def born(self, node: NodeId, node_state: NodeState) -> None:
        """A node that says less than is known has lost its state: it is told."""
        known = self._spent.get(node)
        if known is None or node_state.presence is not Presence.ONLINE or not self._state.leading:
            return
        said = node_state.spent or ()
        if greatest(said, known.steps) != merged(said):
            self._state.send(node, Rebirth(spent=known.steps))
            self._state.note("ledger_told", node=node, steps=sum(each.steps for each in known.steps))

    def declined(self, node: NodeId, decline: Decline) -> None:
        """A node that has no budget left is not asked again in this run."""
        if self._privacy is not None and decline.run == self._state.run and decline.reason == BUDGET:
            self._exclude(node)

    def _charged(
        self,
        known: NodeSpent | None,
        round_id: RoundId,
        said: tuple[SampledSteps, ...],
        turn: SampledSteps,
    ) -> tuple[SampledSteps, ...]:
        """What a node has spent with this update: no less than is known, and than this turn costs [FED-303]."""
        before = () if known is None else known.steps
        least = _count(before, turn) + (turn.steps if round_id >= self._first else 0)
        if _count(said, turn) < least and (known is None or round_id > known.round):
            # It has lost what it had spent before, or says too little: this turn comes on top of what is known.
            return ledger_of((*greatest(before, said), turn))
        return ledger_of(greatest(before, said))

    def _look(self, node: NodeId, privacy: ExamplePrivacy) -> None:
        turn = turn_of(self._state.settings.train, privacy)
        if not fits(self._spent[node].steps, turn, epsilon=privacy.epsilon, delta=privacy.delta):
            self._exclude(node)

    def _exclude(self, node: NodeId) -> None:
        if node not in self._exhausted:
            self._exhausted.add(node)
            self._state.registry.exclude(node)
            self._state.note("budget_spent", node=node)

    def end(self) -> None:
        """The run is over when a version cannot be made any more, of those that have budget and of what is paid for."""
        state = self._state
        if not self._exhausted or state.progress.over_budget or state.masked.batch is not None:
            return
        known = self._absent.still({*state.registry.nodes(), *self._spent})
        left = len(known - self._exhausted) + self._absent.beside(len(known))
        # An update that took the last of a node's budget is as good as any: it is stored, arriving, or still to come.
        left += sum(state.registry.used(node) + (node in state.assignments) for node in self._exhausted)
        if left < max(1, state.settings.quorum):
            state.progress.spend_budget()
            state.note("budget_ends_run", left=left, quorum=state.settings.quorum)


def _count(steps: tuple[SampledSteps, ...], kind: SampledSteps) -> int:
    """How many steps of a kind there are."""
    alike = replace(kind, steps=0)
    return sum(each.steps for each in steps if replace(each, steps=0) == alike)

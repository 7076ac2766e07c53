"""Where an update counts: what the sums of gateways claim, and what becomes of one whose node has moved.

Each update below a gateway is claimed by the sum that it is in, and in one sum at most: the store refuses the second. A
gateway that meets an update of another site asks for its fate, and what nobody has claimed by then nobody may claim any
more. So an update counts once, and its node is never told that it does not count where it does (docs/adr/0077).
"""

from dataclasses import replace

from coordinator.engine.effects import WithdrawUpdate
from coordinator.engine.events import OfferReceived
from coordinator.engine.state import MachineState
from coordinator.engine.timers import RateLimit
from coordinator.records import UpdateRecord, Verdict
from federation.protocol.limits import CLAIM_BYTES
from federation.protocol.messages import Reason, Receipt, ReceiptStatus, RetryAfter
from federation.types import NodeId

__all__ = ["UNDECIDED_RETRY_S", "Fates", "refuse_members"]

WITHDRAWN_S = 60.0
"""In so many seconds one gateway may have as many updates withdrawn as it may speak for nodes."""

UNDECIDED_RETRY_S = 5.0
"""A node whose update counts elsewhere, or may, offers it again after so long, in seconds."""


class Fates:
    """What became of updates that nodes have made at another site; gateways ask for it [FED-273].

    A question may end an update, and whoever asks may lie: one gateway ends as many in a minute as it may speak for.
    """

    def __init__(self, state: MachineState) -> None:
        self._state = state
        self._limits: dict[NodeId, RateLimit[NodeId]] = {}

    def answer(self, event: OfferReceived) -> None:
        """Say what is known; what no sum has claimed until now is withdrawn.

        The node may take it back then, and no sum with it counts.
        """
        state, update, known = self._state, event.offer.update, event.known
        if not state.leading or state.paused:
            return
        if known is None:
            if not self.admits(event.node):
                return  # it is asked for again
            known = Verdict(update=update, node=event.node, status=ReceiptStatus.REFUSED, reason=Reason.NOT_ASSIGNED)
            state.emit(WithdrawUpdate(update=update))
            state.note("update_withdrawn", node=event.node, update=update)
        receipt = Receipt(run=state.run, update=update, status=known.status, reason=known.reason, version=known.version)
        state.send(event.node, receipt)

    def admits(self, gateway: NodeId) -> bool:
        """Whether one more question of this gateway may end an update now [FED-288]."""
        state = self._state
        most = state.settings.gateways.get(gateway, 1)
        limit = self._limits.setdefault(gateway, RateLimit(per_s=most / WITHDRAWN_S, burst=most))
        admitted = limit.admits(gateway, state.now)
        if not admitted:
            state.count("questions_unanswered")
        return admitted


def refuse_members(state: MachineState, record: UpdateRecord, counted: bytes) -> None:
    """Some of it counts in another update: its gateway is to leave that out, and is asked again [FED-272].

    Nothing is kept of it: what is said now may be another thing when the gateway repeats its offer.
    """
    node, members = record.node, len(counted) // CLAIM_BYTES
    state.note("members_counted_elsewhere", node=node, update=record.update, members=members)
    if node not in state.settings.gateways:
        state.send(node, RetryAfter(update=record.update, seconds=UNDECIDED_RETRY_S))  # by then its claim has a fate
        return
    refused = Receipt(run=state.run, update=record.update, status=ReceiptStatus.REFUSED, reason=Reason.COUNTED)
    state.send(node, replace(refused, counted=counted))
    state.answered(node, record.round)

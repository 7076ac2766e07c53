"""Where an update counts: what the sums of gateways claim, and what becomes of one whose node has moved.

Each update below a gateway is claimed by the sum that it is in, and in one sum at most: the store refuses the second. A
gateway that meets an update of another site asks for its fate, and what nobody has claimed by then nobody may claim any
more. So an update counts once, and its node is never told that it does not count where it does (docs/adr/0077). A sum
that counts nowhere makes its claims, too: what has gone back to the nodes may be in no other sum (docs/adr/0094).
"""

from dataclasses import replace

from coordinator.engine.claims.effects import WithdrawClaims
from coordinator.engine.claims.events import ClaimsWithdrawn
from coordinator.engine.events import OfferReceived
from coordinator.engine.state import MachineState
from coordinator.engine.timers import RateLimit
from coordinator.records import UpdateRecord
from federation.protocol.claims import claim_of
from federation.protocol.limits import CLAIM_BYTES
from federation.protocol.messages import Reason, Receipt, ReceiptStatus, RetryAfter
from federation.types import NodeId

__all__ = ["UNDECIDED_RETRY_S", "Fates", "refuse_members", "within_cap"]

WITHDRAWN_S = 60.0
"""In so many seconds one gateway may have as many updates withdrawn as it may speak for nodes."""

UNDECIDED_RETRY_S = 5.0
"""A node whose update counts elsewhere, or may, offers it again after so long, in seconds."""


class Fates:
    """What became of updates that nodes have made at another site; gateways ask for it [FED-273].

    A question may end updates, and whoever asks may lie: one gateway ends as many in a minute as it may speak for.
    """

    def __init__(self, state: MachineState) -> None:
        self._state = state
        self._limits: dict[NodeId, RateLimit[NodeId]] = {}

    def answer(self, event: OfferReceived) -> None:
        """Say what is known; what no sum has claimed until now is withdrawn.

        The node may take it back then, and no sum with it counts. A question that names members is about all of them.
        """
        state, offer, known = self._state, event.offer, event.known
        if not state.leading or state.paused:
            return
        if known is not None and not offer.members:
            word = Receipt(run=state.run, update=offer.update, status=known.status, reason=known.reason)
            state.send(event.node, replace(word, version=known.version))
        elif self.admits(event):
            claims = offer.members or claim_of(offer.update)
            state.emit(WithdrawClaims(node=event.node, update=offer.update, claims=claims))

    def withdrawn(self, event: ClaimsWithdrawn) -> None:
        """Nobody may claim it any more; or some of several count, and those are named [FED-295].

        An update that was claimed since it was asked for is asked for again.
        """
        state, node, update = self._state, event.node, event.update
        receipt = Receipt(run=state.run, update=update, status=ReceiptStatus.REFUSED, reason=Reason.NOT_ASSIGNED)
        if not event.counted:
            state.note("update_withdrawn", node=node, update=update, updates=len(event.claims) // CLAIM_BYTES)
            state.send(node, receipt)
        elif event.claims != claim_of(update):
            state.send(node, replace(receipt, reason=Reason.COUNTED, counted=event.counted))

    def admits(self, question: OfferReceived) -> bool:
        """Whether this question of a gateway may end what it is about now [FED-288]."""
        state, gateway = self._state, question.node
        most = state.settings.gateways.get(gateway, 1)
        count = min(most, len(question.offer.members or b"") // CLAIM_BYTES or 1)
        limit = self._limits.setdefault(gateway, RateLimit(per_s=most / WITHDRAWN_S, burst=most))
        admitted = limit.admits(gateway, state.now, count)
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


def within_cap(state: MachineState, record: UpdateRecord) -> UpdateRecord:
    """What is refused claims for as many nodes as its sender may speak for: who names more claims nothing [FED-296]."""
    most = state.settings.gateways.get(record.node, 1)
    return record if len(record.members) <= most * CLAIM_BYTES else replace(record, members=b"")

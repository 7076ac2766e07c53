"""Updates that a site has not asked for, or cannot use: only the federation above knows whether they count elsewhere.

A node takes an update with it when it moves to another site. What the site says of it is final, so it says nothing by
itself that gives the work back, whatever the reason: it asks above first, and tells its node what is said there
(PROTOCOL.md, FED-273). A sum of a gateway below is asked for with all that it claims (FED-295). Whoever has made it
goes on offering it, and nothing of this is kept: who has forgotten asks again.
"""

from dataclasses import replace
from typing import cast

from coordinator.engine.claims.fates import UNDECIDED_RETRY_S
from coordinator.engine.effects import Effect
from coordinator.engine.events import OfferReceived
from coordinator.engine.fencing import Behind
from coordinator.engine.registry import NODES_MAX
from coordinator.engine.round import Judgement, Ruling
from coordinator.engine.state import MachineState
from coordinator.engine.update_receiver import UpdateReceiver
from coordinator.records import TransferRecord, UpdateRecord
from federation.protocol.chunking import payload_digest
from federation.protocol.limits import CHUNK_BYTES_MIN, EXAMPLES_MAX
from federation.protocol.messages import Reason, Receipt, ReceiptStatus, RetryAfter, UpdateOffer
from federation.types import Incarnation, RoundId, UpdateId, update_id
from site_gateway.engine.events import AskAbove, ForgetUpdate, VerdictReceived
from site_gateway.engine.state import ROUNDS_MAX, SiteState, site_of
from site_gateway.records import SiteSum

__all__ = ["OFFER_SOON_S", "ReturnedSums", "SiteReceiver"]

OFFER_SOON_S = 1.0
"""What the site has let go of is to be offered again after so long, in seconds."""

QUESTIONS_FROM = ROUNDS_MAX
"""Names of questions for sums count from here: no round has so high a number."""

_WITHDRAWN = (ReceiptStatus.REFUSED, Reason.NOT_ASSIGNED)
"""Nobody above has heard of it, and nobody will: what the site says of it counts."""


class SiteReceiver(UpdateReceiver):
    """`UpdateReceiver` whose word is final only where the federation above has nothing to say."""

    def __init__(self, state: MachineState, recovered: tuple[TransferRecord, ...], behind: Behind) -> None:
        super().__init__(state, recovered, behind)
        self._site = site_of(state)
        self._asked: dict[UpdateId, tuple[OfferReceived, Judgement | None]] = {}
        self._ruled: UpdateId | None = None
        self._refused: dict[UpdateId, Judgement] = {}

    def offer(self, event: OfferReceived, retry_s: float) -> None:
        """What is known to count elsewhere, or is of no use here, is not taken again."""
        update, judgement = event.offer.update, self._refused.get(event.offer.update)
        is_asked_for = judgement is not None or update in self._site.elsewhere
        if event.known is None and is_asked_for and self._state.leading:
            self._ask(event, judgement)
        else:
            super().offer(event, retry_s)

    def _fate(self, event: OfferReceived) -> None:
        """A gateway below asks what became of an update: who does not know asks above."""
        if event.known is not None and not event.offer.members:
            self._fates.answer(event)
        elif event.offer.update in self._asked or self._fates.admits(event):
            self._ask(event, None)

    def _turn_down(self, event: OfferReceived, judgement: Judgement) -> None:
        if not _is_own(event) or judgement.ruling is Ruling.FOREIGN or judgement.reason is Reason.FINISHED:
            self._resolved(event.offer.update)
            super()._turn_down(event, judgement)
            return
        if judgement.ruling is Ruling.AHEAD and event.offer.round >= self._state.next_round:
            self._behind.told(event.node, event.offer.round, event.offer.base_version)
        self._ask(event, judgement)

    def _ask(self, event: OfferReceived, judgement: Judgement | None) -> None:
        state, node, update = self._state, event.node, event.offer.update
        if not state.leading or (update not in self._asked and len(self._asked) >= NODES_MAX):
            return
        if self._resolved(update) is None:  # else another one has asked: its node, or the gateway that it stands behind
            state.note("fate_asked_above", node=node, update=update)
        if _is_own(event):
            state.registry.take(node)  # as long as it may be in the next version, its node makes none for that
        self._asked[update] = event, judgement
        state.emit(cast("Effect", AskAbove(offer=_question(event.offer))))
        state.send(node, RetryAfter(update=update, seconds=UNDECIDED_RETRY_S))

    def fate(self, receipt: Receipt) -> None:
        """The federation above says what became of an update."""
        state, asked = self._site, self._resolved(receipt.update) if receipt.status.final else None
        if asked is None:
            return
        event, judgement = asked
        state.is_settled(receipt.update)
        state.know(receipt.version)
        if receipt.update in state.buffer.records or receipt.update in self._saving:
            return  # taken in meanwhile: the sum that it is in is refused, where that is how it stands
        state.note("fate_heard", node=event.node, update=receipt.update, status=receipt.status.value)
        self._refused.pop(receipt.update, None)
        said_here = judgement is not None and judgement.ruling is not Ruling.AHEAD
        if said_here and (receipt.status, receipt.reason) == _WITHDRAWN:
            self._ruled = receipt.update
            super()._turn_down(event, cast("Judgement", judgement))
            self._ruled = None
            return
        state.send(event.node, receipt)
        if _is_own(event):
            state.answered(event.node, event.offer.round)

    def _resolved(self, update: UpdateId) -> tuple[OfferReceived, Judgement | None] | None:
        """Nobody needs to be asked for it any more; None where nobody was."""
        asked = self._asked.pop(update, None)
        if asked is not None and _is_own(asked[0]):
            self._state.registry.give(asked[0].node)
        return asked

    def settle(
        self, record: UpdateRecord, status: ReceiptStatus, reason: Reason, *, stored: bool = False, detail: str = ""
    ) -> None:
        """What is of no use here may count elsewhere: it is let go of, and its node's next offer asks above."""
        if reason is Reason.FINISHED or record.update == self._ruled:
            super().settle(record, status, reason, stored=stored, detail=detail)
            return
        if status is ReceiptStatus.REFUSED:  # a late one is late when it is offered again
            while len(self._refused) >= NODES_MAX:
                del self._refused[next(iter(self._refused))]  # it would be looked at once more
            self._refused[record.update] = Judgement(ruling=Ruling.REFUSED, reason=reason, detail=detail)
        if stored:
            self._state.emit(cast("Effect", ForgetUpdate(update=record.update)))
        self._state.send(record.node, RetryAfter(update=record.update, seconds=OFFER_SOON_S))
        self._state.answered(record.node, record.round)


class ReturnedSums:
    """Sums that nobody above has heard of, and nobody will: whether their nodes may take the work back is asked above.

    One at a time, with all that it claims, under a name that no update has: a round that begins again above may have
    brought another sum of the same name [FED-295].

    Args:
        state: The site's.
    """

    def __init__(self, state: SiteState) -> None:
        self._site = state
        self._asked: tuple[UpdateId, UpdateId] | None = None
        self._retry_s: float | None = None

    @property
    def retry_s(self) -> float | None:
        """When it is asked again, in monotonic seconds; None where nothing was asked, or it is time."""
        return self._retry_s

    def wake(self) -> None:
        """Time has passed."""
        if self._retry_s is not None and self._site.now >= self._retry_s:
            self._retry_s = None

    def question(self, made: SiteSum, claims: bytes) -> UpdateOffer:
        """What is to be asked; its round is another one than its name says, which makes it a question."""
        name = update_id(RoundId(QUESTIONS_FROM + made.round), self._site.gateway)
        self._asked, self._retry_s = (name, made.update), self._site.now + UNDECIDED_RETRY_S
        self._site.note("fates_asked_above", update=made.update, members=len(made.members))
        return UpdateOffer(
            run=self._site.run,
            round=made.round,
            update=name,
            incarnation=Incarnation(1),
            base_version=made.base_version,
            base_digest=self._site.head.digest,
            num_examples=min(made.num_examples, EXAMPLES_MAX),
            metrics={},
            codec="sum",
            payload_bytes=len(made.frame),
            payload_digest=payload_digest(made.frame),
            chunk_bytes=CHUNK_BYTES_MIN,
            members=claims,
        )

    def verdict(self, receipt: Receipt) -> VerdictReceived | None:
        """What its members are told; None where something else was asked for, or there is no answer yet."""
        if self._asked is None or receipt.update != self._asked[0] or not receipt.status.final:
            return None
        update, self._asked, self._retry_s = self._asked[1], None, None
        if receipt.counted:
            return VerdictReceived(update=update, status=receipt.status, reason=receipt.reason, counted=receipt.counted)
        return VerdictReceived(update=update, status=ReceiptStatus.STALE, reason=Reason.TOO_STALE)


def _is_own(event: OfferReceived) -> bool:
    """Whether a node speaks of its own update, and not a gateway of one that a node of its site has made elsewhere."""
    return event.offer.update == update_id(event.offer.round, event.node)


def _question(offer: UpdateOffer) -> UpdateOffer:
    """What names an update above, with what a sum claims, and nothing else of it."""
    plain = replace(offer, metrics={}, inline=None, ticket=None, boxes=None, content_key=None)
    return replace(plain, spent=None)

"""The way of an update from its offer to the buffer: judged, received, stored, receipted."""

from coordinator.engine.claims.effects import JudgeClaimed
from coordinator.engine.claims.events import ClaimedJudged, ClaimsAnswer, ClaimsWithdrawn
from coordinator.engine.claims.fates import Fates, refuse_members, within_cap
from coordinator.engine.claims.verdicts import Verdicts
from coordinator.engine.effects import DropTransfer, OpenTransfer, StoreChunk, StoreTransfer, StoreUpdate
from coordinator.engine.events import ChunkReceived, ChunkStored, OfferReceived, TransferOpened, UpdateRejected
from coordinator.engine.fencing import Behind
from coordinator.engine.registry import NODES_MAX
from coordinator.engine.round import Judgement, Ruling, check_staleness, identify, judge, size_detail
from coordinator.engine.state import MachineState
from coordinator.engine.timers import RateLimit
from coordinator.engine.transfers import (
    REGRANTS_BURST,
    REGRANTS_PER_S,
    Arrival,
    Transfer,
    Transfers,
    Unheard,
    record_of,
)
from coordinator.records import TransferRecord, UpdateRecord, Verdict
from federation.protocol.messages import Cancel, Reason, Receipt, ReceiptStatus, RetryAfter, UpdateOffer
from federation.types import NodeId, UpdateId

BUSY_RETRY_S = 5.0
"""A node whose transfer found no place offers again after one to two times this many seconds."""

RESENT_EACH_S = 3_600.0
"""Without signatures chunks that are not what was offered are asked for again once in so many seconds."""

_STATUS = {Ruling.STALE: ReceiptStatus.STALE, Ruling.REFUSED: ReceiptStatus.REFUSED}


class UpdateReceiver:
    """Takes updates in; whatever ends here frees the node's slot.

    What the disk is asked for changes nothing until it has answered; the driver hands its answers over before the next
    message. An open transfer counts in its node's quota, as an update in the buffer does.
    """

    def __init__(self, state: MachineState, recovered: tuple[TransferRecord, ...], behind: Behind) -> None:
        self._state, self._behind, self._fates = state, behind, Fates(state)
        self.verdicts = Verdicts(state)
        self._strangers: set[NodeId] = set()
        self._unheard = Unheard()
        self._expelled = frozenset[NodeId]()
        self._saving: dict[UpdateId, UpdateRecord] = {}
        self._regrants = RateLimit[UpdateId](per_s=REGRANTS_PER_S, burst=REGRANTS_BURST)
        self._resent = RateLimit[UpdateId](per_s=1 / RESENT_EACH_S, burst=1.0)
        self.transfers = Transfers(recovered)
        for saved in recovered:
            state.registry.take(saved.record.node)

    @property
    def saving(self) -> bool:
        """Whether the disk was asked for something and has not answered: what is decided now would not know it."""
        return bool(self._saving)

    # --- offers -----------------------------------------------------------------------------------------------------

    def offer(self, event: OfferReceived, retry_s: float) -> None:
        """Answer an offer; ``retry_s`` is what a node that must wait is told."""
        state, node, offer = self._state, event.node, event.offer
        foreign = identify(offer, node, state.run)
        if foreign is not None and foreign.ruling is Ruling.REFUSED and node in state.settings.gateways:
            self._fate(event)
        elif foreign is not None:
            self._turn_down(event, foreign)
        elif not state.leading:
            self._drop_offer(node, offer.update)
        elif event.known is not None:
            self._repeat(event, event.known)
        elif offer.update in self._saving:
            return
        elif offer.update in state.buffer.records:
            self.verdicts.receipt(node, offer.update, ReceiptStatus.STORED)
        elif state.paused:
            state.send(node, RetryAfter(update=offer.update, seconds=retry_s))
        elif not self._resume_transfer(offer):
            self._judge(event, retry_s)

    def _fate(self, event: OfferReceived) -> None:
        self._fates.answer(event)

    def _drop_offer(self, node: NodeId, update: UpdateId) -> None:
        """Whoever does not lead gives no verdict [FED-97]."""
        self._state.count("offers_unanswered")
        self._unheard.add(node, update)

    def chunks_lost(self) -> None:
        """The broker had no session for them: what nodes have sent until now comes to nobody [FED-329]."""
        for transfer in self.transfers:
            if not transfer.complete:
                self._unheard.add(transfer.record.node, transfer.record.update)

    def ask_again(self) -> None:
        """This process leads: what it has not heard is to be offered now."""
        state, expelled, self._expelled = self._state, self._expelled, frozenset()
        for record in [one for one in state.masked.free(state.buffer.records.values()) if one.node in expelled]:
            state.discard(record)
            self.settle(record, ReceiptStatus.REFUSED, Reason.NOT_ASSIGNED, stored=True, detail="revoked")
        words = self._unheard.take()
        for node, word in words:
            state.send(node, word)
        if words:
            state.note("offers_asked_again", updates=len(words))

    def _judge(self, event: OfferReceived, retry_s: float) -> None:
        node, offer = event.node, event.offer
        judgement = judge(offer, node, facts := self._state.facts(node, offer.round, event.asked))
        if judgement.ruling is Ruling.ACCEPT:
            judgement = self._state.masked.judge(offer, facts)
        if judgement.ruling is not Ruling.ACCEPT:
            self._turn_down(event, judgement)
        elif offer.inline is not None:
            self._save(StoreUpdate(record=self._record(node, offer), payload=offer.inline))
        elif len(self.transfers) >= self._state.settings.transfers_max and not self._make_room():
            self._state.send(node, RetryAfter(update=offer.update, seconds=retry_s))
        else:
            transfer = TransferRecord(record=self._record(node, offer), chunk_bytes=offer.chunk_bytes)
            self._saving[offer.update] = transfer.record
            self._state.emit(OpenTransfer(transfer=transfer))

    def _record(self, node: NodeId, offer: UpdateOffer) -> UpdateRecord:
        return record_of(node, offer, self._state.settings.gateways)

    def _make_room(self) -> bool:
        """Take a place back for who waits: a node that vanishes never holds it longer than its lease [FED-29]."""
        state = self._state
        for transfer in self.transfers.quiet(state.connected_s, state.settings.lease_s, state.registry.is_present):
            if transfer.record.update not in self._saving:
                state.note("transfer_dropped", node=transfer.record.node, update=transfer.record.update)
                self._drop(transfer)
                return True
        return False

    def _save(self, effect: StoreUpdate | StoreTransfer) -> None:
        self._saving[effect.record.update] = effect.record
        self._state.emit(effect)

    def _turn_down(self, event: OfferReceived, judgement: Judgement) -> None:
        node, offer = event.node, event.offer
        if judgement.ruling is Ruling.FOREIGN:
            self._of_another_run(node, offer)
            return
        if judgement.ruling is Ruling.AHEAD:
            self._state.count("updates_ahead")
            self._behind.told(node, offer.round, offer.base_version)
            return
        if judgement.durable:
            detail = judgement.detail
            if judgement.reason is Reason.TOO_LARGE and not detail:
                detail = size_detail(offer, self._state.settings)
            self.settle(self._record(node, offer), _STATUS[judgement.ruling], judgement.reason, detail=detail)
            return
        if offer.members and node in self._state.settings.gateways:
            self._fates.answer(event)  # nothing is kept of it, and nobody may claim what goes back [FED-296]
            return
        self.verdicts.receipt(node, offer.update, _STATUS[judgement.ruling], judgement.reason)
        self._state.count("foreign_updates")
        self._state.note("update_refused", node=node, update=offer.update, reason=judgement.reason.value)

    def _of_another_run(self, node: NodeId, offer: UpdateOffer) -> None:
        """Whoever leads that run may have it on disk: only it may give a verdict [FED-98]."""
        self._state.count("other_run_updates")
        if node not in self._strangers and len(self._strangers) < NODES_MAX:
            self._strangers.add(node)
            self._state.note("other_run_update", node=node, update=offer.update, run=offer.run)

    def _repeat(self, event: OfferReceived, known: Verdict) -> None:
        """The verdict is known: say it again. A stored update that the buffer lost sight of goes back into it."""
        state, node, update = self._state, event.node, event.offer.update
        own = known.update == update
        orphan = known.status is ReceiptStatus.STORED and own and update not in state.buffer.records
        if orphan and not state.paused:
            # What is in the store counts: the offer may speak of other numbers.
            self._count(event.stored or self._record(node, event.offer))
        else:
            state.send(
                node,
                Receipt(run=state.run, update=update, status=known.status, reason=known.reason, version=known.version),
            )
            state.answered(node, event.offer.round)

    # --- chunks -----------------------------------------------------------------------------------------------------

    def _resume_transfer(self, offer: UpdateOffer) -> bool:
        transfer = self.transfers.get(offer.update)
        if transfer is None:
            return False
        if transfer.matches(offer) and offer.inline is None:
            # A grant is much larger than what asks for it.
            if self._regrants.admits(offer.update, self._state.now):
                self._grant(transfer)
            return True
        self._drop(transfer)
        return False

    def chunk(self, event: ChunkReceived) -> bool:
        """Have one chunk saved; False when it is of no use: not granted, not as it was offered, or here already."""
        state, transfer = self._state, self.transfers.get(event.update)
        if transfer is None or transfer.record.node != event.node:
            return False
        if transfer.arrival(event.index, event.body) is not Arrival.NEW:
            return False
        if not state.paused:
            self._saving[event.update] = transfer.record
            state.emit(StoreChunk(update=event.update, index=event.index, body=event.body))
        return True

    def _grant(self, transfer: Transfer) -> None:
        window = self.transfers.window(self._state.settings.window_chunks)
        self._state.send(transfer.record.node, transfer.grant(window))

    def _store_transfer(self, transfer: Transfer) -> None:
        self._state.note("transfer_complete", node=transfer.record.node, update=transfer.record.update)
        self._save(StoreTransfer(record=transfer.record))

    def _drop(self, transfer: Transfer) -> None:
        self._close(transfer.record)
        self._state.emit(DropTransfer(update=self.transfers.drop(transfer.record.update)))

    def _close(self, record: UpdateRecord) -> None:
        """A transfer has come to its end; nothing happens where there is none."""
        if self.transfers.close(record.update):
            self._state.registry.give(record.node)

    def drop_idle(self) -> None:
        """Give up the transfers that stopped arriving; a complete one waits for the store, not for its node."""
        now = self._state.connected_s
        for transfer in self.transfers.idle(now):
            if transfer.complete:
                self.transfers.touch(transfer.record.update, now)
            else:
                self._state.note("transfer_dropped", node=transfer.record.node, update=transfer.record.update)
                self._drop(transfer)

    # --- what the store answers -------------------------------------------------------------------------------------

    def opened(self, event: TransferOpened) -> None:
        """It is on disk that a large update arrives: its node may send."""
        record = event.transfer.record
        self._saving.pop(record.update, None)
        self._state.registry.take(record.node)
        self._grant(self.transfers.open(event.transfer, self._state.connected_s))

    def chunk_stored(self, event: ChunkStored) -> None:
        """A chunk is on disk: grant more when half of the window has arrived."""
        self._saving.pop(event.update, None)
        transfer = self.transfers.get(event.update)
        if transfer is None:
            return
        transfer.take(event.index)
        self.transfers.touch(event.update, self._state.connected_s)
        if transfer.complete:
            # Where we do not lead it stays complete, and is stored once we do.
            if self._state.leading:
                self._store_transfer(transfer)
        elif transfer.wants_grant:
            self._grant(transfer)

    def stored(self, update: UpdateId) -> None:
        """The update is on disk: receipt it, then let it count."""
        record = self._saving.pop(update, None)
        if record is None:
            return
        state, node = self._state, record.node
        self._close(record)
        state.note("update_stored", node=node, update=update, round=record.round, bytes=record.payload_bytes)
        state.registry.praise(node, record.train_s, record.payload_bytes)
        state.serves(node)
        self._count(record)

    def turned_down(self, event: UpdateRejected | ClaimsAnswer) -> None:
        """The frame did not hold what its header promised, or the store has seen to what was claimed."""
        match event:
            case ClaimsWithdrawn():
                self._fates.withdrawn(event)
            case ClaimedJudged():
                if self._saving.pop(event.verdict.update, None) is not None:
                    self.verdicts.say(event.verdict, event.record, event.detail)
            case _:
                self._reject(event)

    def _reject(self, event: UpdateRejected) -> None:
        record = self._saving.pop(event.update, None)
        if record is None:
            return
        transfer = self.transfers.get(event.update)
        if event.reason is Reason.COUNTED:
            if transfer is not None:
                self._drop(transfer)
            refuse_members(self._state, record, event.counted)
            return
        if transfer is not None and event.reason is Reason.DIGEST_MISMATCH and self._may_resend(event.update):
            # Where the node has signed the digest, the chunks were altered on their way. To refuse the update for good
            # would let whoever did it cost the node its work; staleness bounds how often this can go round [FED-78].
            # Where it has not, the node may be broken, or a chunk of another run's update has waited in the broker: it
            # names its update, and updates are named alike in all runs.
            self._state.note("chunks_altered", node=record.node, update=record.update)
            self._drop(transfer)
            self._state.send(record.node, RetryAfter(update=record.update, seconds=BUSY_RETRY_S))
            return
        self._close(record)
        self.settle(record, ReceiptStatus.REFUSED, event.reason, detail=event.detail)

    def _may_resend(self, update: UpdateId) -> bool:
        return self._state.settings.signed or self._resent.admits(update, self._state.now)

    def storage_failed(self, retry_s: float) -> None:
        """What was asked for is not on the disk: nodes that can help are told when to offer again."""
        for update, record in self._saving.items():
            transfer = self.transfers.get(update)
            if transfer is None or not transfer.complete:
                self._state.send(record.node, RetryAfter(update=update, seconds=retry_s))
        self._saving.clear()
        self.transfers.storage_failed()
        self.verdicts.storage_failed()

    def store_complete(self) -> None:
        """Finish what a restart or a storage failure has left: verdicts, transfers that are complete or given up."""
        self.verdicts.give_again()
        for update in self.transfers.left():
            self._state.emit(DropTransfer(update=update))
        for transfer in self.transfers:
            if transfer.complete:
                self._store_transfer(transfer)

    # --- who has left -----------------------------------------------------------------------------------------------

    @property
    def senders(self) -> set[NodeId]:
        """Whose updates are arriving, or wait for the next version."""
        records = [*self._state.buffer.records.values(), *(transfer.record for transfer in self.transfers)]
        return {record.node for record in records}

    def expel(self, nodes: frozenset[NodeId]) -> None:
        """These have left the federation: what they have sent for a next version is in none."""
        for node in nodes:
            self._unheard.forget(node)
        for transfer in self.transfers:
            if transfer.record.node in nodes:
                self._drop(transfer)
        self._expelled |= nodes  # a verdict is final, so it waits until it was heard who leads [FED-97]

    # --- verdicts ---------------------------------------------------------------------------------------------------

    def _count(self, record: UpdateRecord) -> None:
        """Put a stored update into the buffer, unless a new head has made it too old in the meantime."""
        state = self._state
        late = self._late(record)
        if late is not Reason.NONE:
            self.settle(record, ReceiptStatus.STALE, late, stored=True)
            return
        state.buffer_update(record)
        self.verdicts.receipt(record.node, record.update, ReceiptStatus.STORED)
        state.answered(record.node, record.round)
        self._spare(record.node)

    def _spare(self, node: NodeId) -> None:
        """A late update can use up the quota of a node that was asked again: that work would be refused, or stale."""
        state, slot = self._state, self._state.assignments.get(node)
        settings = state.settings
        if slot is None or settings.max_staleness > 0 or state.registry.used(node) < settings.per_node_quota:
            return
        state.send(node, Cancel(run=state.run, round=slot.round))
        state.declined(node, slot.round)

    def sweep(self) -> None:
        """Settle what a new head has made too old, in the buffer and on its way."""
        free = self._state.masked.free(self._state.buffer.records.values())
        self._sweep_buffer([record for record in free if self._late(record) is not Reason.NONE])
        for transfer in self.transfers:
            late = self._late(transfer.record)
            if late is not Reason.NONE:
                self._drop(transfer)
                self.settle(transfer.record, ReceiptStatus.STALE, late)

    def _sweep_buffer(self, late: list[UpdateRecord]) -> None:
        state = self._state
        for record in late:
            state.discard(record)
            self.settle(record, ReceiptStatus.STALE, self._late(record), stored=True)

    def _late(self, record: UpdateRecord) -> Reason:
        return check_staleness(record.base_version, self._state.facts(record.node, record.round, None))

    def settle(
        self, record: UpdateRecord, status: ReceiptStatus, reason: Reason, *, stored: bool = False, detail: str = ""
    ) -> None:
        """Give a final verdict: saved, then said; the store looks once more at what is claimed [FED-296]."""
        verdict = Verdict(update=record.update, node=record.node, status=status, reason=reason)
        claiming = within_cap(self._state, record)
        if claiming.members and not stored:
            self._saving[record.update] = record
            self._state.emit(JudgeClaimed(verdict=verdict, record=claiming, detail=detail))
            return
        self.verdicts.give(verdict, record if stored else claiming, detail, stored=stored)

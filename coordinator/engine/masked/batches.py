"""One masked version at a time: its members are frozen on disk, its helpers are asked, what they answer is kept.

The same batch has the same answer for ever, and another one with a member of it has none: so the members never change
once a helper may have been asked, whoever restarts meanwhile. A batch that cannot be summed is dropped whole.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from coordinator.engine.masked.effects import DropBatch, ForgetSums, FreezeBatch, HelperCommand, StoreSum, StoreSumChunk
from coordinator.engine.masked.events import (
    BatchDropped,
    BatchFrozen,
    MaskedAnswer,
    SumChunkReceived,
    SumChunkStored,
    SumRejected,
    SumStored,
)
from coordinator.engine.masked.noised import NoisedSums
from coordinator.engine.masked.seeds import LOST, PASSING, SeedDelivery
from coordinator.engine.state import MachineState
from coordinator.records import BatchRecord, Member, RecoveredState, UpdateRecord, Verdict
from federation.privacy.classes import classes
from federation.privacy.terms import batch_digest
from federation.protocol.chunking import Bitmap, chunk_count, chunk_slice, payload_digest
from federation.protocol.limits import CHUNKS_MAX
from federation.protocol.messages import Grant, Reason, Receipt, ReceiptStatus
from federation.protocol.sum_messages import PrivacyTerms, SumOffer, SumReason, SumRefusal, SumRequest, transfer_id
from federation.types import Digest, HelperId, ModelVersion, UpdateId

__all__ = ["Batches"]


@dataclass(slots=True)
class _Arriving:
    """One class's sum on its way, in chunks."""

    helper: HelperId
    offer: SumOffer
    bitmap: Bitmap
    since_grant: int = 0
    window: int = 0


class Batches:
    """At most one is frozen; the machine goes on beside it."""

    def __init__(
        self, state: MachineState, delivery: SeedDelivery, noised: NoisedSums, recovered: RecoveredState
    ) -> None:
        self._state, self._delivery, self._noised = state, delivery, noised
        self._sums = set(recovered.sums)
        self._arriving: dict[UpdateId, _Arriving] = {}
        self._begun: dict[UpdateId, None] = {}  # sums of which chunks may be on the disk
        self._asked: dict[HelperId, SumRequest] = {}
        self._saving = False

    @property
    def saving(self) -> bool:
        """Whether the disk was asked to freeze or to drop, and has not answered."""
        return self._saving

    @property
    def complete(self) -> bool:
        """Whether all sums of the frozen batch are here."""
        batch = self._state.masked.batch
        return batch is not None and not self._saving and self._sums.issuperset(_parts(batch))

    # --- freeze -----------------------------------------------------------------------------------------------------

    def freeze(self, reason: str) -> None:
        """Let the updates that the helpers hold be the members of the next version."""
        state = self._state
        terms, records = state.masked.choose(state.settings.buffer)
        groups = self._grouped(records)
        records = [record for group in groups for record in group]
        version = ModelVersion(state.head.version + 1)
        members = tuple(
            Member(
                update=record.update,
                node=record.node,
                num_examples=record.num_examples,
                staleness=state.head.version - record.base_version,
            )
            for record in records
        )
        request, *others = (self._request(version, terms, group) for group in groups)
        self._saving = True
        batch = BatchRecord(version=version, request=request, members=members, reason=reason, others=tuple(others))
        state.emit(FreezeBatch(batch=batch, release=self._noised.charge(batch)))

    def _grouped(self, records: Sequence[UpdateRecord]) -> list[Sequence[UpdateRecord]]:
        """The members in groups of nearly the same size; nobody chooses a group: tickets' digests look random."""
        masking = self._state.settings.masking
        count = 1 if masking is None else max(1, min(masking.groups, len(records) // masking.members_min))
        if count == 1:
            return [records]
        shuffled = sorted(
            records, key=lambda record: b"" if record.seeds is None else payload_digest(record.seeds.ticket)
        )
        cuts = [place * len(shuffled) // count for place in range(count + 1)]
        return [shuffled[start:end] for start, end in pairwise(cuts)]

    def _request(self, version: ModelVersion, terms: PrivacyTerms, records: Sequence[UpdateRecord]) -> SumRequest:
        tickets = [payload_digest(record.seeds.ticket) for record in records if record.seeds is not None]
        members, run = b"".join(sorted(tickets)), self._state.run
        return SumRequest(
            run=run,
            version=version,
            batch=batch_digest(run, version, terms, tickets),
            terms=terms,
            members=members,
            classes=tuple(range(len(classes(terms.count, terms.threshold)))),
        )

    # --- what the store answers -------------------------------------------------------------------------------------

    def answered(self, event: MaskedAnswer) -> None:
        """Something of the batch is on disk."""
        match event:
            case BatchFrozen(batch=batch, release=release):
                self._noised.saved(release)
                self._frozen(batch)
            case BatchDropped(verdicts=verdicts):
                self._dropped(verdicts)
            case SumStored(part=part):
                self._sums.add(part)
                self._state.note("sum_stored", part=part, version=self._version)
            case SumChunkStored(offer=offer, index=index):
                self._chunk_stored(offer, index)
            case SumRejected(offer=offer, detail=detail):
                self._arriving.pop(transfer_id(offer.batch, offer.part), None)
                self._state.note("sum_rejected", part=offer.part, detail=detail)

    def _frozen(self, batch: BatchRecord) -> None:
        self._saving = False
        self._state.masked.freeze(batch)
        self._forget_answers()
        fields = {"version": batch.version, "members": len(batch.members), "batch": batch.request.batch.hex()}
        self._state.note("batch_frozen", reason=batch.reason, **fields)

    def _forget_answers(self) -> None:
        if self._begun:
            self._state.emit(ForgetSums(transfers=tuple(self._begun)))
        self._begun.clear()
        self._sums.clear()
        self._asked.clear()
        self._arriving.clear()

    def storage_failed(self) -> None:
        """Neither is on disk: what is still true is asked for again after the pause."""
        self._saving = False
        self._arriving.clear()

    def committed(self) -> None:
        """Its version is on disk."""
        self._state.masked.thaw()
        self._forget_answers()

    # --- ask --------------------------------------------------------------------------------------------------------

    def wanted(self) -> dict[HelperId, HelperCommand]:
        """Whom the frozen batch waits for, and what is asked of each."""
        batch = self._state.masked.batch
        if batch is None or self._saving:
            return {}
        found: dict[HelperId, HelperCommand] = {}
        for group, request in enumerate(batch.requests):
            asked: dict[HelperId, list[int]] = {}
            for number in request.classes:
                missing = _part(request, group, number) not in self._sums
                helper = self._delivery.helper_for(number, request.terms) if missing else None
                if helper is not None and helper not in found:  # one group after the other
                    asked.setdefault(helper, []).append(number)
            found |= {helper: replace(request, classes=tuple(its)) for helper, its in asked.items()}
        return found

    def ask(self, wanted: Mapping[HelperId, HelperCommand]) -> None:
        """Put each question that is new; the others are repeated when that is due."""
        for helper, request in wanted.items():
            if isinstance(request, SumRequest) and self._delivery.helpers[helper].present:
                if self._asked.get(helper) != request:
                    self._delivery.say(helper, request)
                self._asked[helper] = request

    def reborn(self, helper: HelperId) -> None:
        """A new process of a helper: it is asked again."""
        self._asked.pop(helper, None)

    # --- sums -------------------------------------------------------------------------------------------------------

    def offered(self, helper: HelperId, offer: SumOffer) -> None:
        """A helper has made a sum: store it, or have its chunks sent."""
        if not self._wants(helper, offer) or self._state.paused:
            return
        name = transfer_id(offer.batch, offer.part)
        batch = self._state.masked.batch
        if offer.inline is not None and batch is not None:
            self._store(batch, offer)
            return
        arriving = self._arriving.get(name)
        if arriving is None or replace(arriving.offer, inline=None) != offer:
            chunks = chunk_count(offer.payload_bytes, offer.chunk_bytes)
            if chunks > CHUNKS_MAX or offer.payload_bytes > self._state.settings.payload_bytes_max:
                self._state.note("sum_rejected", part=offer.part, detail=f"{offer.payload_bytes} bytes are too many")
                return
            arriving = self._arriving[name] = _Arriving(helper, offer, Bitmap(chunks))
        # The same sum may come of another helper of its class, when the one that has begun is gone.
        arriving.helper = helper
        self._grant(name, arriving)

    def _wants(self, helper: HelperId, offer: SumOffer) -> bool:
        batch, asked = self._state.masked.batch, self._asked.get(helper)
        if batch is None or self._saving or asked is None or asked.batch != offer.batch:
            return False
        return offer.part in asked.classes and _part_of(batch, offer) not in self._sums

    def _store(self, batch: BatchRecord, offer: SumOffer) -> None:
        self._state.emit(StoreSum(version=batch.version, offer=offer, part=_part_of(batch, offer)))

    def _grant(self, name: UpdateId, arriving: _Arriving) -> None:
        arriving.since_grant, arriving.window = 0, self._state.settings.window_chunks
        grant = Grant(update=name, bitmap=arriving.bitmap.to_bytes(), window=arriving.window)
        self._delivery.say(arriving.helper, grant)

    def chunk(self, event: SumChunkReceived) -> None:
        """One chunk: it is kept where it was granted and is new."""
        arriving = self._arriving.get(event.transfer)
        if arriving is None or arriving.helper != event.helper or event.index >= arriving.bitmap.count:
            return
        offer = arriving.offer
        place = chunk_slice(event.index, offer.payload_bytes, offer.chunk_bytes)
        fits = len(event.body) == place.stop - place.start
        if fits and event.index not in arriving.bitmap and not self._state.paused:
            self._begun[event.transfer] = None
            self._state.emit(StoreSumChunk(offer=offer, index=event.index, body=event.body))

    def _chunk_stored(self, offer: SumOffer, index: int) -> None:
        name, batch = transfer_id(offer.batch, offer.part), self._state.masked.batch
        arriving = self._arriving.get(name)
        if arriving is None or batch is None or not arriving.bitmap.add(index):
            return
        arriving.since_grant += 1
        if arriving.bitmap.complete:
            del self._arriving[name]
            self._store(batch, offer)
        elif arriving.since_grant * 2 >= arriving.window:
            self._grant(name, arriving)

    # --- no sum -----------------------------------------------------------------------------------------------------

    def refused(self, helper: HelperId, refusal: SumRefusal) -> None:
        """A helper will not reveal it: send what it lacks, come again, or drop the batch whole."""
        state, batch = self._state, self._state.masked.batch
        if batch is None or self._saving or helper not in self._asked:
            return
        if refusal.batch not in {request.batch for request in batch.requests}:
            return
        reason = refusal.reason
        state.note("sum_refused", helper=helper, version=batch.version, reason=reason.value)
        if reason in PASSING or not state.leading:
            return  # a verdict is final, so it waits until it was heard who leads [FED-97]: the helper is asked again
        if reason is SumReason.UNKNOWN_UPDATE:
            self._delivery.send_again(helper, self._named(batch, refusal))
            return
        if self._delivery.others_suffice(helper, reason):
            self._asked.pop(helper, None)
            return
        lost = reason in LOST
        self.drop(
            ReceiptStatus.STALE if lost else ReceiptStatus.REFUSED,
            Reason.HELPER_LOST if lost else Reason.HELPER_REFUSED,
            f"helper {helper}: {reason.value}",
        )

    def _named(self, batch: BatchRecord, refusal: SumRefusal) -> frozenset[UpdateId]:
        """The members that a refusal names; all of them where it names none."""
        cuts = range(0, len(refusal.members), len(batch.request.batch))
        named = {Digest(refusal.members[cut : cut + len(batch.request.batch)]) for cut in cuts}
        records = self._state.buffer.records
        found = {
            update
            for update in batch.updates
            if (seeds := records[update].seeds) is not None and payload_digest(seeds.ticket) in named
        }
        return frozenset(found or batch.updates)

    def drop(self, status: ReceiptStatus, reason: Reason, detail: str) -> None:
        """The batch makes no version: no part of it can be in another one, so all its members have this verdict."""
        batch = self._state.masked.batch
        if batch is None or self._saving:
            return
        self._saving = True
        self._state.note("batch_dropped", version=batch.version, reason=reason.value, detail=detail)
        verdicts = tuple(
            Verdict(update=member.update, node=member.node, status=status, reason=reason) for member in batch.members
        )
        self._state.emit(DropBatch(version=batch.version, verdicts=verdicts))

    def _dropped(self, verdicts: Sequence[Verdict]) -> None:
        state = self._state
        self._saving = False
        self.committed()
        for record, verdict in zip(state.take_out([verdict.update for verdict in verdicts]), verdicts, strict=True):
            receipt = Receipt(run=state.run, update=record.update, status=verdict.status, reason=verdict.reason)
            state.send(record.node, receipt)
            state.answered(record.node, record.round)

    @property
    def _version(self) -> ModelVersion | None:
        return None if self._state.masked.batch is None else self._state.masked.batch.version


def _part(request: SumRequest, group: int, number: int) -> int:
    return group * len(classes(request.terms.count, request.terms.threshold)) + number


def _part_of(batch: BatchRecord, offer: SumOffer) -> int:
    """The number of an offered sum among all of a version."""
    group = next((place for place, one in enumerate(batch.requests) if one.batch == offer.batch), 0)
    return _part(batch.request, group, offer.part)


def _parts(batch: BatchRecord) -> Iterable[int]:
    return (_part(request, group, number) for group, request in enumerate(batch.requests) for number in request.classes)

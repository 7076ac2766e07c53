"""Masked sums as the machine sees them: news in, effects out, and what there is to wait for."""

from collections.abc import Mapping
from typing import assert_never

from coordinator.engine.federated_evaluation import FederatedEvaluation
from coordinator.engine.masked.batches import Batches
from coordinator.engine.masked.effects import HelperCommand
from coordinator.engine.masked.evaluations import MaskedEvaluations
from coordinator.engine.masked.events import (
    EvaluationFrozen,
    HelperSpoke,
    MaskedAnswer,
    MaskedNews,
    ReportKept,
    SumChunkReceived,
)
from coordinator.engine.masked.noised import NoisedSums
from coordinator.engine.masked.seeds import LOST, SeedDelivery
from coordinator.engine.state import MachineState
from coordinator.engine.update_receiver import UpdateReceiver
from coordinator.records import BatchRecord, RecoveredState
from federation.protocol.messages import Reason, ReceiptStatus
from federation.protocol.sum_messages import Held, HelperState, PrivacyTerms, SumOffer, SumRefusal
from federation.types import HelperId, NodeId

__all__ = ["MaskedSums"]


class MaskedSums:
    """One machine's; without masks it does nothing.

    Attributes:
        noised: What noised sums have cost each node, whoever adds the noise.
    """

    def __init__(
        self, state: MachineState, receiver: UpdateReceiver, evaluation: FederatedEvaluation, recovered: RecoveredState
    ) -> None:
        self._state = state
        self._delivery = SeedDelivery(state, receiver)
        masking, self._evaluations = state.settings.masking, None
        if masking is not None:
            self._evaluations = MaskedEvaluations(state, masking, self._delivery, recovered)
            evaluation.hide(self._evaluations)
        self.noised = NoisedSums(state, recovered)
        self._batches = Batches(state, self._delivery, self.noised, recovered)

    @property
    def saving(self) -> bool:
        """Whether the disk was asked to freeze or to drop a batch, and has not answered."""
        return self._batches.saving

    @property
    def complete(self) -> BatchRecord | None:
        """The frozen batch, once all its sums are here."""
        return self._state.masked.batch if self._batches.complete else None

    def freeze(self, reason: str) -> None:
        """Let the updates that the helpers hold be the members of the next version."""
        self._batches.freeze(reason)

    def committed(self, terms: PrivacyTerms | None) -> None:
        """There is a new head; its nodes mask under these terms."""
        state = self._state
        self._batches.committed()
        state.masked.adopt(terms)
        state.masked.forget_terms(state.settings.max_staleness + 1)

    def unusable(self, reason: Reason, detail: str) -> None:
        """The sum makes no version, and nobody can say who has spoilt it: the whole batch goes."""
        self._batches.drop(ReceiptStatus.REFUSED, reason, detail)

    def storage_failed(self) -> None:
        """What was asked of the disk is not there."""
        self._batches.storage_failed()
        if self._evaluations is not None:
            self._evaluations.storage_failed()

    def follow_enrolled(self, nodes: frozenset[NodeId]) -> None:
        """Only these may come: nobody waits for the budget, or for the sums, of whoever has left the federation."""
        self.noised.follow_enrolled(nodes)
        self._delivery.follow_enrolled(nodes)

    # --- events -----------------------------------------------------------------------------------------------------

    def hear(self, news: MaskedNews) -> None:
        """A helper has said something; whoever is none of ours is not heard."""
        if news.helper not in self._delivery.helpers:
            self._state.count("unknown_helpers")
            return
        match news:
            case HelperSpoke(helper=helper, message=message):
                self._hear(helper, message)
            case SumChunkReceived():
                if self._evaluations is None or not self._evaluations.chunk(news):
                    self._batches.chunk(news)
            case _:
                assert_never(news)

    def _hear(self, helper: HelperId, message: HelperState | Held | SumOffer | SumRefusal) -> None:
        match message:
            case Held() | SumOffer() | SumRefusal():
                self._answer(helper, message)
            case HelperState():
                if self._delivery.heard(helper, message):
                    self._batches.reborn(helper)
                    if self._evaluations is not None:
                        self._evaluations.reborn(helper)
            case _:
                assert_never(message)

    def _answer(self, helper: HelperId, message: Held | SumOffer | SumRefusal) -> None:
        self._delivery.spoke(helper)
        if self._evaluations is not None and self._evaluations.hear(helper, message):
            return
        match message:
            case Held():
                self._held(helper, message)
            case SumOffer():
                self._batches.offered(helper, message)
            case SumRefusal():
                self._batches.refused(helper, message)
            case _:
                assert_never(message)

    def _held(self, helper: HelperId, held: Held) -> None:
        state = self._state
        record = state.buffer.records.get(held.update)
        if record is not None and held.run == state.run and self.noised.heard(helper, record.node, held):
            self._delivery.helpers[helper].doubted.add(record.node)
        never = self._delivery.held(helper, held)
        if never is None or not state.leading or state.paused:
            return
        batch = state.masked.batch
        if batch is None or never.update not in batch.updates:
            self._delivery.turn_down(never, held.reason)
        elif held.reason in LOST:
            self._batches.drop(ReceiptStatus.STALE, Reason.HELPER_LOST, f"helper {helper}: {held.reason.value}")
        else:
            self._batches.drop(ReceiptStatus.REFUSED, Reason.HELPER_REFUSED, f"helper {helper}: {held.reason.value}")

    def answered(self, event: MaskedAnswer) -> None:
        """Something is on disk."""
        if not isinstance(event, ReportKept | EvaluationFrozen):
            self._batches.answered(event)
        elif self._evaluations is not None:
            self._evaluations.answered(event)

    # --- time -------------------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Ask helpers for what they owe; where the run is over, nobody waits for a sum any more."""
        self.noised.end()
        masked = self._state.masked
        if not self._delivery.helpers and masked.batch is None and not masked.holds_former:
            return
        if self._state.finished and self._state.masked.batch is not None:
            self._batches.drop(ReceiptStatus.STALE, Reason.FINISHED, "the run is over")
        self._give_back()
        wanted = self._batches.wanted()
        owed: dict[HelperId, list[HelperCommand]] = {}
        if self._evaluations is not None:
            self._evaluations.advance()
            owed = self._evaluations.owed()
        for helper, command in wanted.items():
            owed.setdefault(helper, []).append(command)
        self._delivery.advance(owed)
        self._batches.ask(wanted)

    def _give_back(self) -> None:
        """Updates under former terms that nobody completes to a batch any more: their nodes would wait for ever."""
        state = self._state
        if not state.leading or not state.masked.holds_former:
            return
        slots = (state.assignments.get(node) for node in state.assignments)
        coming = sum(slot is not None and slot.version < state.head.version for slot in slots)
        coming += self._delivery.arriving
        for update in state.masked.stranded(state.settings.quorum - coming):
            self._delivery.outdate(state.buffer.records[update])

    def due(self) -> float | None:
        """When a helper is asked again, in monotonic seconds."""
        return self._delivery.due()

    # --- what there is to wait for ----------------------------------------------------------------------------------

    def waited_for(self) -> list[HelperId]:
        """Helpers that hold the next version up."""
        wanted = self._batches.wanted()
        return [name for name in self._delivery.helpers if name in wanted or self._state.masked.lacks(name)]

    def rows(self) -> Mapping[str, Mapping[str, object]]:
        """Each helper as plain data; ``since`` is when it came or went, in monotonic seconds."""
        wanted = self._batches.wanted()
        return {
            name: {
                "online": helper.present,
                "heard": helper.state is not None,
                "since": helper.since,
                "unheld": self._state.masked.lacks(name),
                "owes_sum": name in wanted,
                "refuses": helper.refused is not None,
                "doubted": len(helper.doubted),
            }
            for name, helper in self._delivery.helpers.items()
        }

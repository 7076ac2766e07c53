"""The evaluation of a version at a site: asked for above, announced below, answered with one report for all nodes."""

from typing import cast

from coordinator.engine.effects import Effect
from coordinator.engine.federated_evaluation import FederatedEvaluation
from coordinator.engine.state import MachineState
from coordinator.records import RecoveredState
from federation.protocol.limits import fit_text
from federation.protocol.messages import EvaluationReport, ModelRef
from site_gateway.engine.events import AnswerEvaluation, EvaluationAsked, SumEvaluation

__all__ = ["SiteEvaluation", "not_evaluated"]

NOBODY = "no node of the site is there"
PASSED = "the site has another version"


def not_evaluated(asked: EvaluationAsked, reason: str) -> EvaluationReport:
    """What a gateway says that has nothing to say of a version."""
    model = asked.model
    return EvaluationReport(
        run=asked.run, version=model.version, digest=model.digest, num_examples=0, metrics={}, reason=reason
    )


class SiteEvaluation(FederatedEvaluation):
    """One version at a time is wanted above; it is asked for, and ended, as a coordinator does."""

    def __init__(self, state: MachineState, recovered: RecoveredState) -> None:
        super().__init__(state, recovered)
        self._wanted: EvaluationAsked | None = None
        self._until, self._summing = 0.0, False

    def want(self, asked: EvaluationAsked) -> None:
        """A version is to be evaluated, or will be once the node above holds it."""
        if self._wanted is None or not asked.expected or self._wanted.model != asked.model:
            self._wanted, self._until, self._summing = asked, self._state.lease_until, False

    @property
    def to_follow(self) -> ModelRef | None:
        """The version that the site must have first; None where it need not follow any."""
        wanted = self._wanted
        if wanted is None or wanted.expected or self._state.head.version >= wanted.model.version:
            return None
        return wanted.model

    @property
    def busy(self) -> bool:
        """Whether the federation above waits for a report."""
        return super().busy or self._wanted is not None

    def due(self) -> bool:
        """Whether the head is what is wanted, and no node was asked yet, as far as this process knows."""
        wanted, head, state = self._wanted, self._state.head, self._state
        if wanted is None or wanted.expected:
            return False
        known = self._asked.get(head.version)
        unsaid = known is None or (known.open and state.current is None)
        return unsaid and (head.version, head.digest) == (wanted.model.version, wanted.model.digest)

    def ends(self) -> float | None:
        """When time alone may decide something, in connected seconds."""
        own = super().ends()
        if self._wanted is None or self._wanted.model.version in self._asked:
            return own
        return self._until if own is None else min(own, self._until)

    def advance(self, *, settled: bool) -> None:
        """End what is open, and answer what is wanted, where there is an answer."""
        super().advance(settled=settled)
        wanted, state = self._wanted, self._state
        if wanted is None or self._summing:
            return
        version = wanted.model.version
        if version in self._asked:
            if version not in self.pending and not wanted.expected:
                self._summing = True
                self._emit(SumEvaluation(asked=wanted))
        elif state.head.version > version or (
            state.head.version == version and state.head.digest != wanted.model.digest
        ):
            self.answer(not_evaluated(wanted, PASSED))
        elif state.connected_s >= self._until or (settled and state.clock.running and not state.registry.online):
            self.answer(not_evaluated(wanted, NOBODY))

    def answer(self, report: EvaluationReport) -> None:
        """This is said above."""
        wanted, self._wanted, self._summing = self._wanted, None, False
        if wanted is not None and not wanted.expected:
            self._emit(AnswerEvaluation(report=report))

    def fail(self, reason: str) -> None:
        """The version cannot be followed."""
        if self._wanted is not None and self.to_follow is not None:
            self.answer(not_evaluated(self._wanted, fit_text(reason)))

    def storage_failed(self) -> None:
        """What was asked of the disk is asked again after the pause."""
        super().storage_failed()
        self._summing = False

    def _emit(self, effect: SumEvaluation | AnswerEvaluation) -> None:
        self._state.emit(cast("Effect", effect))

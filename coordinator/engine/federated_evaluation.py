"""The evaluation of versions on the nodes: whom to ask, whom to wait for, what a report is worth, when it is over."""

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

from coordinator.engine.early_stopping import Source
from coordinator.engine.effects import CloseFederatedEvaluation, Note, SaveResult
from coordinator.engine.events import FederatedEvaluationClosed, ReportReceived, ResultSaved
from coordinator.engine.state import MachineState
from coordinator.records import NodeResult, NodesEvaluation, RecoveredState, believable
from federation.protocol.cohort import evaluates, evaluation_share
from federation.protocol.messages import EvaluationReceipt, EvaluationReport, Reason, ReceiptStatus
from federation.protocol.sum_messages import MaskedEvaluation
from federation.types import Digest, ModelVersion, NodeId

__all__ = ["EVALUATIONS_KEPT_MAX", "FederatedEvaluation", "HiddenReports"]

EVALUATIONS_KEPT_MAX = 16
"""Evaluations whose late reports are still taken; a report on an older version is refused."""


RETURN_S = 15.0
"""After a restart the fleet is given this long to be seen before nobody is waited for, in seconds [FED-10]."""


class HiddenReports(Protocol):
    """Reports of which only the sum is seen; `coordinator.engine.masked.evaluations.MaskedEvaluations` is one."""

    def is_able(self, node: NodeId) -> bool:
        """Whether a node reports so."""

    def objection(self, report: EvaluationReport, node: NodeId) -> str:
        """Why a report is not taken; nothing where it is."""

    def keep(self, node: NodeId, report: EvaluationReport) -> None:
        """A report is to count."""

    def counts(self, version: ModelVersion, node: NodeId) -> None:
        """It does, if it was kept: both are on disk."""

    def found(self, version: ModelVersion) -> int:
        """How many reports on a version are here."""

    def end(self, version: ModelVersion) -> None:
        """No further report counts: make the figures."""

    def ends(self) -> float | None:
        """When time alone decides something, in connected seconds."""

    def closed(self, found: NodesEvaluation) -> None:
        """They are on disk, or that there are none."""


@dataclass(slots=True, kw_only=True)
class _Asked:
    """One evaluation.

    Attributes:
        share: Who is asked.
        digest: Of the version; None when a former process asked and the version is forgotten.
        since: When it may be complete at the earliest, in connected seconds.
        until: When it ends at the latest, in connected seconds.
        waiting: Nodes that are there, were asked, and have not reported.
        reported: Nodes whose word is on disk.
        found: So many of them evaluated.
        open: Whether a report still counts.
    """

    share: int
    digest: Digest | None
    since: float = 0.0
    until: float = 0.0
    waiting: dict[NodeId, None] = field(default_factory=dict)
    reported: set[NodeId] = field(default_factory=set)
    found: int = 0
    open: bool = True


class FederatedEvaluation:
    """At most one evaluation is open; the next one ends it."""

    def __init__(self, state: MachineState, recovered: RecoveredState) -> None:
        self._state = state
        self._asked: OrderedDict[ModelVersion, _Asked] = OrderedDict()
        self._closing: set[ModelVersion] = set()
        self._unclosed: set[ModelVersion] = set()
        self._sums: HiddenReports | None = None
        for known in recovered.surveyed:
            digest = recovered.recent.get(known.version)
            self._asked[known.version] = _Asked(share=known.share, digest=digest, open=not known.closed)
            if not known.closed:
                self._unclosed.add(known.version)
        newest = self._newest
        if newest is not None:
            # Its nodes may be evaluating right now: they get a whole lease.
            newest.reported |= recovered.reported.keys()
            newest.found = sum(examples > 0 for examples in recovered.reported.values())
            newest.until = state.lease_until
            newest.since = min(newest.until, state.connected_s + RETURN_S)
            self._unclosed.discard(next(reversed(self._asked)))
        for version in self._unclosed:
            self._asked[version].open = False
        self._forget_oldest()

    def hide(self, sums: HiddenReports) -> None:
        """Only sums of what nodes find are seen; this sees to them."""
        self._sums = sums

    @property
    def busy(self) -> bool:
        """Whether an evaluation is open, or its mean is being made."""
        return bool(self.pending)

    @property
    def pending(self) -> frozenset[ModelVersion]:
        """Versions of which it is not known yet how good they are."""
        still_open = () if self._open is None else (next(reversed(self._asked)),)
        return frozenset((*self._unclosed, *still_open))

    def due(self) -> bool:
        """Whether the head is to be evaluated, and nobody was asked yet."""
        state, settings = self._state, self._state.settings.federated_evaluation
        head = state.head.version
        if settings.every <= 0 or head == 0 or head in self._asked:
            return False
        return head % settings.every == 0 or state.finished

    def ask(self) -> int | None:
        """Who is asked with the next announcement of the head; None is nobody. What was open before it is over."""
        state = self._state
        known = self._asked.get(state.head.version)
        if known is not None or not self.due():
            return None if known is None else known.share
        self._close()
        version, present = state.head.version, list(filter(self._is_able, state.registry.present()))
        settings = state.settings.federated_evaluation
        count = max(settings.nodes_min, math.ceil(settings.fraction * len(present) - 1e-9))
        share = evaluation_share(state.run, version, present, count)
        asked = _Asked(share=share, digest=state.head.digest, until=state.lease_until)
        asked.waiting = dict.fromkeys(node for node in present if evaluates(share, state.run, version, node))
        self._asked[version] = asked
        self._forget_oldest()
        state.note("evaluation_announced", version=version, nodes=len(asked.waiting))
        return share

    def expel(self, nodes: frozenset[NodeId]) -> None:
        """These have left the federation, and the registry: nobody waits for them."""
        for node in nodes:
            self.seen(node)

    def seen(self, node: NodeId) -> None:
        """A node came, or went: whoever is not there is not waited for."""
        asked = self._open
        if asked is None:
            return
        asks = self._state.registry.is_present(node) and self._is_asked(asked, node) and self._is_able(node)
        if asks and node not in asked.reported:
            asked.waiting[node] = None
        else:
            asked.waiting.pop(node, None)

    # --- reports ----------------------------------------------------------------------------------------------------

    def report(self, event: ReportReceived) -> None:
        """Judge a report; it is receipted when it is on disk."""
        state, node, report = self._state, event.node, event.report
        if report.run != state.run or not state.leading or report.version > state.head.version:
            # Of another run, or newer than what we know: only whoever has asked for it may judge it [FED-97, FED-98].
            state.count("reports_unanswered")
        elif event.known is not None:
            self._receipt(event.known)
        elif not state.paused:
            reason = self._objection(node, report)
            hindrance = self._misread(node, report) if reason is Reason.NONE else ""
            if hindrance:
                state.note("report_refused", node=node, version=report.version, detail=hindrance)
                self._refuse(node, report, Reason.TERMS)
            elif reason is Reason.NONE:
                self._save(node, report)
            else:
                self._refuse(node, report, reason)

    def _objection(self, node: NodeId, report: EvaluationReport) -> Reason:
        asked = self._asked.get(report.version)
        if asked is None:
            return Reason.UNKNOWN_ROUND
        if not evaluates(asked.share, self._state.run, report.version, node):
            return Reason.NOT_ASSIGNED
        if asked.digest is not None and report.digest != asked.digest:
            return Reason.BASE_MISMATCH
        nodes, settings = report.nodes or 1, self._state.settings
        if nodes > settings.gateways.get(node, 1):
            return Reason.NOT_ASSIGNED if node in settings.gateways else Reason.CODEC
        return Reason.BAD_NUM_EXAMPLES if report.num_examples > nodes * settings.num_examples_max else Reason.NONE

    def _misread(self, node: NodeId, report: EvaluationReport) -> str:
        """Why a report is not of the form that this run has; nothing where it is."""
        if self._sums is not None:
            return self._sums.objection(report, node)
        return "" if report.masked is None else "nothing is masked in this run"

    def announced(self, share: int | None) -> MaskedEvaluation | None:
        """How the nodes of a share are asked under masks; None where nothing is masked."""
        settings = self._state.settings
        if share is None or settings.masking is None:
            return None
        return MaskedEvaluation(share=share, metrics=settings.federated_evaluation.metrics)

    def _is_able(self, node: NodeId) -> bool:
        return self._sums is None or self._sums.is_able(node)

    def _save(self, node: NodeId, report: EvaluationReport) -> None:
        result = NodeResult(
            version=report.version,
            node=node,
            num_examples=report.num_examples,
            metrics=believable(report.metrics),
            evaluate_s=report.evaluate_s,
            reason=report.reason,
            counted=self._asked[report.version].open,
            nodes=report.nodes or 1,
        )
        if self._sums is not None and report.masked is not None and result.counted:
            self._sums.keep(node, report)
        self._state.emit(SaveResult(result=result))

    def saved(self, event: ResultSaved) -> None:
        """A result is on disk: say so."""
        result = event.result
        if self._sums is not None:
            self._sums.counts(result.version, result.node)
        asked = self._asked.get(result.version)
        if asked is not None and result.node not in asked.reported:
            asked.reported.add(result.node)
            asked.waiting.pop(result.node, None)
            asked.found += result.nodes if result.num_examples else 0
        self._receipt(result)
        fields = {"version": result.version, "num_examples": result.num_examples, "reason": result.reason}
        self._state.note("node_evaluated", node=result.node, **fields)

    def _receipt(self, result: NodeResult) -> None:
        status = ReceiptStatus.APPLIED if result.counted else ReceiptStatus.STALE
        self._state.send(result.node, EvaluationReceipt(run=self._state.run, version=result.version, status=status))

    def _refuse(self, node: NodeId, report: EvaluationReport, reason: Reason) -> None:
        state = self._state
        receipt = EvaluationReceipt(run=state.run, version=report.version, status=ReceiptStatus.REFUSED, reason=reason)
        state.send(node, receipt)
        state.note("evaluation_refused", node=node, version=report.version, reason=reason.value)
        asked = self._asked.get(report.version)
        if asked is not None:
            asked.waiting.pop(node, None)

    # --- the end ----------------------------------------------------------------------------------------------------

    def ends(self) -> float | None:
        """When time alone may end an open evaluation, in connected seconds."""
        asked, found = self._open, None if self._sums is None else self._sums.ends()
        if asked is None:
            return found
        own = asked.since if self._state.connected_s < asked.since else asked.until
        return own if found is None else min(own, found)

    def advance(self, *, settled: bool) -> None:
        """End it when everybody has reported who is there, or when it has lasted long enough."""
        asked, state = self._open, self._state
        for version in sorted(self._unclosed - self._closing):
            self._emit_close(version)
        if asked is None:
            return
        found = asked.found if self._sums is None else self._sums.found(next(reversed(self._asked)))
        enough = found >= state.settings.federated_evaluation.nodes_min and state.connected_s >= asked.since
        complete = settled and state.clock.running and not asked.waiting and enough
        if complete or state.connected_s >= asked.until:
            self._close()

    def closed(self, event: FederatedEvaluationClosed) -> None:
        """The mean is on disk: it decides what is the best version, and whether the run goes on."""
        found, state = event.evaluation, self._state
        self._closing.discard(found.version)
        self._unclosed.discard(found.version)
        if self._sums is not None:
            self._sums.closed(found)
        fields = {"nodes": found.nodes, "num_examples": found.num_examples, "metrics": dict(found.metrics)}
        state.emit(Note(event="nodes_evaluated", fields={"version": found.version, **fields}))
        state.observe(Source.NODES, found.version, found.decisive)

    def storage_failed(self) -> None:
        """No mean has reached the disk: each is asked for again after the pause."""
        self._closing.clear()

    def _close(self) -> None:
        asked = self._open
        if asked is not None:
            asked.open = False
            asked.waiting.clear()
            self._emit_close(next(reversed(self._asked)))

    def _emit_close(self, version: ModelVersion) -> None:
        self._unclosed.add(version)
        if self._sums is not None:
            self._sums.end(version)
            return
        self._closing.add(version)
        self._state.emit(CloseFederatedEvaluation(version=version))

    def _forget_oldest(self) -> None:
        while len(self._asked) > EVALUATIONS_KEPT_MAX:
            self._asked.popitem(last=False)

    def _is_asked(self, asked: _Asked, node: NodeId) -> bool:
        return evaluates(asked.share, self._state.run, next(reversed(self._asked)), node)

    @property
    def _newest(self) -> _Asked | None:
        return self._asked[next(reversed(self._asked))] if self._asked else None

    @property
    def _open(self) -> _Asked | None:
        newest = self._newest
        return newest if newest is not None and newest.open else None

"""Evaluations on nodes under masks: their helpers hold each report's seeds, and reveal one sum for each version.

A report goes to the helpers as soon as it is on disk. When the evaluation is over, the reports that the helpers hold
are frozen, and their sum is asked for, once: another set with one of them would have no answer. With fewer of them than
`members_min`, or a helper that does not answer in time, the version has no figures, and the run goes on.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import assert_never

from coordinator.engine.masked.effects import CloseHidden, FreezeEvaluation, HelperCommand, KeepReport
from coordinator.engine.masked.events import EvaluationFrozen, ReportKept, SumChunkReceived
from coordinator.engine.masked.seeds import PASSING, SeedDelivery
from coordinator.engine.settings import MaskingSettings
from coordinator.engine.state import MachineState
from coordinator.records import NodesEvaluation, RecoveredState
from federation.privacy.classes import classes
from federation.privacy.metrics import metric_terms, objection
from federation.privacy.terms import batch_digest, shape_of
from federation.protocol.chunking import Bitmap, chunk_count, chunk_slice, payload_digest
from federation.protocol.limits import MEMBERS_MAX
from federation.protocol.messages import EvaluationReport, Grant
from federation.protocol.sum_messages import (
    Held,
    HeldStatus,
    MaskedReport,
    SealedSeeds,
    SumOffer,
    SumReason,
    SumRefusal,
    SumRequest,
    transfer_id,
)
from federation.types import MASKED_REPORTS, HelperId, ModelVersion, NodeId, UpdateId
from update_codec.masking import sum_bytes

__all__ = ["MaskedEvaluations"]

HELD_WAIT_S = 15.0
"""So long after the end of an evaluation helpers may still take seeds of its reports, in connected seconds."""

SUM_WAIT_S = 600.0
"""So long after it a sum is waited for; then the version has no figures, in connected seconds."""


@dataclass(slots=True, kw_only=True)
class _Arriving:
    """A sum on its way in chunks: in memory, since it is small."""

    helper: HelperId
    offer: SumOffer
    missing: set[int]
    chunks: dict[int, bytes] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Summing:
    """The reports on one version.

    Attributes:
        reports: By their names for the helpers.
        request: What helpers are asked for, once that is on disk.
        held: Which reports each helper holds.
        asked: What each helper was asked for.
        sums: What they have answered, by class.
        arriving: Sums on their way, by their names.
        ended: Since when no report counts any more, in connected seconds.
        saving: Whether the disk was asked for something, and has not answered.
        hopeless: Whether there will be no sum.
    """

    reports: dict[UpdateId, MaskedReport] = field(default_factory=dict)
    request: SumRequest | None = None
    held: dict[HelperId, set[UpdateId]] = field(default_factory=dict)
    asked: dict[HelperId, SumRequest] = field(default_factory=dict)
    sums: dict[int, bytes] = field(default_factory=dict)
    arriving: dict[UpdateId, _Arriving] = field(default_factory=dict)
    ended: float | None = None
    saving: bool = False
    hopeless: bool = False

    def lacks(self, helper: HelperId) -> list[MaskedReport]:
        """Reports whose seeds a helper does not hold; of frozen ones those that are in the sum."""
        held, members = self.held.get(helper, set()), None if self.request is None else set(self.request.tickets)
        return [
            report
            for name, report in self.reports.items()
            if name not in held and (members is None or payload_digest(report.ticket) in members)
        ]


class MaskedEvaluations:
    """One machine's; without masks there is none.

    Args:
        state: The machine's.
        masking: Who helps.
        delivery: Who of them is there.
        recovered: What the store has.
    """

    def __init__(
        self, state: MachineState, masking: MaskingSettings, delivery: SeedDelivery, recovered: RecoveredState
    ) -> None:
        self._state, self._masking, self._delivery = state, masking, delivery
        self._names = state.settings.federated_evaluation.metrics
        self._summing: dict[ModelVersion, _Summing] = {}
        self._uncounted: dict[tuple[ModelVersion, NodeId], MaskedReport] = {}
        for known in recovered.masked_reports:
            reports = {report.update: report for report in known.reports.values()}
            self._summing[known.version] = _Summing(reports=reports, request=known.request)

    # --- who, and what they say -------------------------------------------------------------------------------------

    def is_able(self, node: NodeId) -> bool:
        """Whether a node reports under masks: one of an earlier release does not know of it, and stays silent."""
        return bool(self._state.registry.record(node).capabilities.get(MASKED_REPORTS))

    def objection(self, report: EvaluationReport, node: NodeId) -> str:
        """Why a report is not taken; nothing where it is. One without numbers only says why there are none."""
        if report.masked is None:
            return "its numbers are not masked" if report.num_examples else ""
        terms = self._state.masked.terms
        if terms is None:
            return "nothing is masked"
        return objection(report, node, metric_terms(terms, len(self._names)), self._names)

    def found(self, version: ModelVersion) -> int:
        """How many reports on a version are here."""
        one = self._summing.get(version)
        return 0 if one is None else len(one.reports)

    def keep(self, node: NodeId, report: EvaluationReport) -> None:
        """A report is to count: the disk gets it, and then that it counts."""
        if report.masked is not None:
            self._uncounted[report.version, node] = report.masked
        self._state.emit(KeepReport(node=node, report=report))

    def counts(self, version: ModelVersion, node: NodeId) -> None:
        """The disk has both: the report may be in the sum."""
        report = self._uncounted.pop((version, node), None)
        if report is not None:
            self._kept(self._summing.setdefault(version, _Summing()), report)

    def answered(self, event: ReportKept | EvaluationFrozen) -> None:
        """Something is on disk."""
        match event:
            case ReportKept():
                pass  # it does not count yet
            case EvaluationFrozen(request=request):
                one = self._summing[request.version]
                one.request, one.saving = request, False
            case _:
                assert_never(event)

    def _kept(self, one: _Summing, report: MaskedReport) -> None:
        one.reports[report.update] = report
        for name in self._delivery.present():
            self._delivery.say(name, self._seeds(name, report))

    def end(self, version: ModelVersion) -> None:
        """No further report counts; saying it again does nothing."""
        one = self._summing.setdefault(version, _Summing())
        if one.ended is None:
            one.ended = self._state.connected_s

    def closed(self, found: NodesEvaluation) -> None:
        """Its figures are on disk, or that it has none."""
        one = self._summing.pop(found.version, None)
        if one is not None and one.sums and not found.nodes:
            self._state.note("evaluation_spoilt", version=found.version, helpers=sorted(one.asked))

    def storage_failed(self) -> None:
        """What was asked of the disk is asked again after the pause, a report by its node."""
        self._uncounted.clear()
        for one in self._summing.values():
            one.saving = False

    # --- what helpers say -------------------------------------------------------------------------------------------

    def reborn(self, helper: HelperId) -> None:
        """A new process of a helper, which may be there with another disk: it is sent everything anew."""
        for one in self._summing.values():
            one.held.pop(helper, None)
            one.asked.pop(helper, None)
            for report in one.lacks(helper):
                self._delivery.say(helper, self._seeds(helper, report))

    def hear(self, helper: HelperId, message: Held | SumOffer | SumRefusal) -> bool:
        """Take an answer; says whether it was about an evaluation."""
        for version, one in self._summing.items():
            match message:
                case Held() if message.update in one.reports:
                    self._held(helper, one, message)
                    return True
                case SumOffer() | SumRefusal() if one.request is not None and one.request.batch == message.batch:
                    if isinstance(message, SumOffer):
                        self._offered(helper, one, message)
                    else:
                        self._refused(helper, version, one, message)
                    return True
                case _:
                    pass
        return False

    def _held(self, helper: HelperId, one: _Summing, held: Held) -> None:
        report = one.reports[held.update]
        if held.run != self._state.run or held.ticket != payload_digest(report.ticket):
            return
        if held.status is HeldStatus.HELD:
            one.held.setdefault(helper, set()).add(held.update)
        elif held.reason not in PASSING:
            self._state.note("seeds_refused", helper=helper, update=held.update, reason=held.reason.value)
            if self._delivery.others_suffice(helper, held.reason):
                return
            del one.reports[held.update]
            members = () if one.request is None else one.request.tickets
            one.hopeless = one.hopeless or held.ticket in members

    def _offered(self, helper: HelperId, one: _Summing, offer: SumOffer) -> None:
        asked = one.asked.get(helper)
        if asked is None or offer.part not in asked.classes or offer.part in one.sums:
            return
        if offer.payload_bytes != sum_bytes(shape_of(asked.terms)):
            self._reject(helper, offer)
        elif offer.inline is not None:
            self._take(helper, one, offer, offer.inline)
        else:
            name, count = transfer_id(offer.batch, offer.part), chunk_count(offer.payload_bytes, offer.chunk_bytes)
            one.arriving[name] = _Arriving(helper=helper, offer=offer, missing=set(range(count)))
            grant = Grant(update=name, bitmap=Bitmap(count).to_bytes(), window=count)
            self._delivery.say(helper, grant)

    def chunk(self, event: SumChunkReceived) -> bool:
        """Take a chunk of a sum, which has few of them; says whether it was one of an evaluation's."""
        one = next((one for one in self._summing.values() if event.transfer in one.arriving), None)
        if one is None:
            return False
        arriving = one.arriving[event.transfer]
        offer, size = arriving.offer, arriving.offer.payload_bytes
        if event.helper == arriving.helper and event.index in arriving.missing:
            place = chunk_slice(event.index, size, offer.chunk_bytes)
            if len(event.body) == place.stop - place.start:
                arriving.chunks[event.index] = event.body
                arriving.missing.discard(event.index)
        if not arriving.missing:
            del one.arriving[event.transfer]
            self._take(event.helper, one, offer, b"".join(body for _, body in sorted(arriving.chunks.items())))
        return True

    def _take(self, helper: HelperId, one: _Summing, offer: SumOffer, body: bytes) -> None:
        if payload_digest(body) == offer.payload_digest:
            one.sums[offer.part] = body
        else:
            self._reject(helper, offer)

    def _reject(self, helper: HelperId, offer: SumOffer) -> None:
        detail = "it is not the sum that was asked for"
        self._state.note("sum_rejected", helper=helper, part=offer.part, detail=detail)

    def _refused(self, helper: HelperId, version: ModelVersion, one: _Summing, refusal: SumRefusal) -> None:
        if helper not in one.asked or refusal.reason in PASSING:
            return
        told = {"version": version, "reason": refusal.reason.value}
        self._state.note("sum_refused", helper=helper, evaluation=True, **told)
        if refusal.reason is SumReason.UNKNOWN_UPDATE:
            one.held.pop(helper, None)
            for report in one.lacks(helper):
                self._delivery.say(helper, self._seeds(helper, report))
        elif self._delivery.others_suffice(helper, refusal.reason):
            one.asked.pop(helper, None)
        else:
            one.hopeless = True

    # --- time -------------------------------------------------------------------------------------------------------

    def ends(self) -> float | None:
        """When time alone decides something, in connected seconds."""
        ended = (one for one in self._summing.values() if one.ended is not None and not one.saving)
        now = self._state.connected_s
        dues = (one.ended + wait for one in ended if one.ended is not None for wait in (HELD_WAIT_S, SUM_WAIT_S))
        return min((due for due in dues if due > now), default=None)

    def advance(self) -> None:
        """Freeze what is held, ask for its sum, and close what has one, or will have none, in the versions' order."""
        first = min((version for version, one in self._summing.items() if one.ended is not None), default=None)
        for version, one in sorted(self._summing.items()):
            if one.ended is None or one.saving:
                continue
            overdue = self._state.connected_s >= one.ended + SUM_WAIT_S
            request = one.request
            done = request is not None and one.sums.keys() >= set(request.classes)
            lost = overdue or one.hopeless or (request is None and len(one.reports) < self._masking.members_min)
            if (done or lost) and version == first:
                self._close(version, one, tuple(body for _, body in sorted(one.sums.items())) if done else ())
            elif done or lost:
                pass  # versions are judged in their order
            elif request is None:
                self._freeze(version, one)
            else:
                self._ask(one, request)

    def owed(self) -> dict[HelperId, list[HelperCommand]]:
        """What each helper has been told, and has not answered."""
        found: dict[HelperId, list[HelperCommand]] = {}
        for one in (one for one in self._summing.values() if not one.saving):
            for helper in self._delivery.helpers:
                commands: list[HelperCommand] = [self._seeds(helper, report) for report in one.lacks(helper)]
                asked = one.asked.get(helper)
                if asked is not None and not one.sums.keys() >= set(asked.classes):
                    commands.append(asked)
                if commands:
                    found.setdefault(helper, []).extend(commands)
        return found

    def _freeze(self, version: ModelVersion, one: _Summing) -> None:
        """Of all reports, or after a while of those that the helpers hold."""
        needed = self._delivery.needed()
        ready = [report for name, report in one.reports.items() if all(name in one.held.get(h, ()) for h in needed)]
        waited = one.ended is not None and self._state.connected_s >= one.ended + HELD_WAIT_S
        if len(ready) < self._masking.members_min or (len(ready) < len(one.reports) and not waited):
            return
        one.saving = True
        self._state.emit(FreezeEvaluation(request=self._request(version, ready[:MEMBERS_MAX])))

    def _request(self, version: ModelVersion, reports: Iterable[MaskedReport]) -> SumRequest:
        masked = self._state.masked.terms
        assert masked is not None  # noqa: S101 - a masked run has terms from its first version on
        terms, run = metric_terms(masked, len(self._names)), self._state.run
        tickets = sorted(payload_digest(report.ticket) for report in reports)
        return SumRequest(
            run=run,
            version=version,
            batch=batch_digest(run, version, terms, tickets),
            terms=terms,
            members=b"".join(tickets),
            classes=tuple(range(len(classes(terms.count, terms.threshold)))),
        )

    def _ask(self, one: _Summing, request: SumRequest) -> None:
        wanted: dict[HelperId, list[int]] = {}
        for number in request.classes:
            helper = None if number in one.sums else self._delivery.helper_for(number, request.terms)
            if helper is not None:
                wanted.setdefault(helper, []).append(number)
        for helper, numbers in wanted.items():
            asked = replace(request, classes=tuple(numbers))
            if self._delivery.helpers[helper].present and one.asked.get(helper) != asked:
                one.asked[helper] = asked
                self._delivery.say(helper, asked)

    def _close(self, version: ModelVersion, one: _Summing, sums: tuple[bytes, ...]) -> None:
        one.saving = True
        if not sums:
            self._state.note("evaluation_without_sum", version=version, reports=len(one.reports))
        self._state.emit(CloseHidden(version=version, sums=sums, metrics=self._names))

    def _seeds(self, helper: HelperId, report: MaskedReport) -> SealedSeeds:
        box = report.boxes[self._delivery.helpers[helper].number]
        return SealedSeeds(run=self._state.run, update=report.update, ticket=report.ticket, box=box)

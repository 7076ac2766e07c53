"""Runs the coordinator's machine against a store model that refuses every broken promise; makes transcripts."""

from collections import Counter, deque
from dataclasses import dataclass, field, replace
from random import Random

from coordinator.engine import effects, events
from coordinator.engine.claims.effects import JudgeClaimed, WithdrawClaims
from coordinator.engine.claims.events import ClaimedJudged, ClaimsWithdrawn
from coordinator.engine.effects import Effect, Note, SaveAttendance
from coordinator.engine.events import Event
from coordinator.engine.machine import CoordinatorMachine
from coordinator.engine.settings import EngineSettings
from coordinator.records import (
    Attendance,
    Member,
    NodeResult,
    NodesEvaluation,
    NodeSpent,
    RecoveredState,
    ReleaseLedger,
    ReleaseRecord,
    RoundRecord,
    TransferRecord,
    UpdateRecord,
    Verdict,
    VersionRecord,
)
from coordinator.runtime.executor import INDEPENDENT
from coordinator.storage.evaluations import mean_of
from coordinator.strategies.selection import Selector, UniformSelector
from federation.privacy.budget import greatest
from federation.privacy.taking import NOBODY_YET, Taking
from federation.protocol import messages
from federation.protocol.cohort import NOBODY, includes
from federation.protocol.messages import Activity, NodeState, Presence, Reason, ReceiptStatus, UpdateOffer
from federation.types import Digest, Epoch, Incarnation, ModelVersion, NodeId, RoundId, RunId, Start, UpdateId

RUN = RunId("0123456789abcdef")
PAYLOAD = b"frame"
DIGEST = Digest(b"payload-digest-1")


def digest_of(version: int) -> Digest:
    return Digest(b"version-%08d" % version)


def version_record(version: int, accepted: int = 0) -> VersionRecord:
    return VersionRecord(
        version=ModelVersion(version),
        digest=digest_of(version),
        previous=digest_of(version - 1) if version else Digest(b""),
        manifest_digest=Digest(b"m" * 16),
        seed=None if version else 7,
        accepted=accepted,
    )


def engine(**changes: object) -> EngineSettings:
    """Small synchronous rounds of two, without settling and evaluation."""
    quick = EngineSettings(
        task="digits",
        concurrency=2,
        buffer=2,
        refill=2,
        nodes_min=2,
        settle_s=0.0,
        evaluate_every=0,
        lease_s=60.0,
        max_wait_s=30.0,
    )
    return replace(quick, **changes)  # type: ignore[arg-type]


def fresh(**changes: object) -> RecoveredState:
    """A store that was just made."""
    state = RecoveredState(
        run=RUN,
        epoch=Epoch(1),
        head=version_record(0),
        recent={ModelVersion(0): digest_of(0)},
        next_round=RoundId(0),
    )
    return replace(state, **changes)  # type: ignore[arg-type]


def offer_of(node: str, round_id: int, **changes: object) -> UpdateOffer:
    """A small, honest offer from version 0."""
    honest = UpdateOffer(
        run=RUN,
        round=RoundId(round_id),
        update=UpdateId(f"{round_id}-{node}"),
        incarnation=Incarnation(1),
        base_version=ModelVersion(0),
        base_digest=digest_of(0),
        num_examples=10,
        metrics={},
        codec="edge",
        payload_bytes=len(PAYLOAD),
        payload_digest=DIGEST,
        chunk_bytes=61_440,
        inline=PAYLOAD,
    )
    return replace(honest, **changes)  # type: ignore[arg-type]


@dataclass(slots=True)
class StoreModel:
    """What a store must keep; it fails the test when the machine asks for something that no store may do."""

    recent_max: int = 1
    rounds: dict[RoundId, RoundRecord] = field(default_factory=dict)
    open: dict[RoundId, list[NodeId]] = field(default_factory=dict)
    updates: dict[UpdateId, UpdateRecord] = field(default_factory=dict)
    verdicts: dict[UpdateId, Verdict] = field(default_factory=dict)
    transfers: dict[UpdateId, TransferRecord] = field(default_factory=dict)
    versions: list[VersionRecord] = field(default_factory=lambda: [version_record(0)])
    surveys: dict[ModelVersion, NodesEvaluation] = field(default_factory=dict)
    results: dict[tuple[ModelVersion, NodeId], NodeResult] = field(default_factory=dict)
    evaluated: dict[ModelVersion, dict[str, float]] = field(default_factory=dict)
    retained: frozenset[ModelVersion] = frozenset()
    best: ModelVersion | None = None
    incarnations: dict[NodeId, Incarnation] = field(default_factory=dict)
    attended: dict[NodeId, Counter[str]] = field(default_factory=dict)
    spent: dict[NodeId, NodeSpent] = field(default_factory=dict)
    released: dict[int, ReleaseRecord] = field(default_factory=dict)
    takings: dict[NodeId, Taking] = field(default_factory=dict)

    def charge(self, release: ReleaseRecord, members: tuple[Member, ...]) -> None:
        assert self.released.setdefault(release.release, release) == release, "one number, two sums"
        assert set(release.prices) == {member.node for member in members}
        for node, paid in release.prices.items():
            before = self.takings.get(node, NOBODY_YET)
            spent = before.spent + paid
            self.takings[node] = Taking(releases=before.releases + 1, last=release.release, spent=spent)

    def save_spent(self, spent: NodeSpent) -> None:
        before = self.spent.get(spent.node)
        assert before is None or greatest(before.steps, spent.steps) == spent.steps, "a ledger went down"
        self.spent[spent.node] = spent

    def save_attendance(self, attendance: Attendance) -> None:
        self.incarnations |= attendance.incarnations
        for node, reasons in attendance.absences.items():
            assert all(count > 0 for count in reasons.values()), "an absence that never was"
            self.attended.setdefault(node, Counter()).update(reasons)

    def save_round(self, record: RoundRecord) -> None:
        known = self.rounds.get(record.round)
        assert known in (None, record), "a round id has been used for another cohort"
        if known is None:
            assert not self.rounds or record.round > max(self.rounds)
            self.rounds[record.round] = record
            self._reserve(record)
            self.open[record.round] = list(record.nodes)

    def _reserve(self, record: RoundRecord) -> None:
        if record.evaluation is None:
            return
        survey = NodesEvaluation(version=record.version, share=record.evaluation)
        assert self.surveys.setdefault(record.version, survey).share == record.evaluation, "another share"

    def save_result(self, result: NodeResult) -> NodeResult:
        assert result.version in self.surveys, "an evaluation that was never reserved"
        assert not (result.counted and self.surveys[result.version].closed), "counted after the end"
        return self.results.setdefault((result.version, result.node), result)

    def close_survey(self, version: ModelVersion) -> NodesEvaluation:
        survey = self.surveys[version]
        found = [result for (of, _), result in self.results.items() if of == version]
        self.surveys[version] = survey if survey.closed else mean_of(survey, found)
        return self.surveys[version]

    def retain(self, versions: frozenset[ModelVersion], best: ModelVersion | None) -> None:
        head = self.versions[-1].version
        there = self.retained | {head, ModelVersion(head - 1)} | ({self.best} if self.best is not None else set())
        assert versions <= there, "a model is to be kept that is gone"
        assert best is None or best in there, "the best model is gone"
        self.retained, self.best = versions, best

    def close_round(self, round_id: RoundId, nodes: tuple[NodeId, ...]) -> None:
        self.open[round_id] = [node for node in self.open.get(round_id, []) if node not in nodes]

    def save_update(self, record: UpdateRecord) -> None:
        assert record.update not in self.verdicts, "an update was stored twice"
        self.updates[record.update] = record
        self.verdicts[record.update] = Verdict(update=record.update, node=record.node, status=ReceiptStatus.STORED)
        self.transfers.pop(record.update, None)

    def save_verdict(self, verdict: Verdict, record: UpdateRecord | None) -> None:
        known = self.verdicts.get(verdict.update)
        assert verdict.status.final
        assert known is None or known == verdict or not known.status.final, "a final verdict was changed"
        assert (known is None) == (record is not None), "a record is given exactly when the store has none"
        self.verdicts[verdict.update] = verdict
        self.transfers.pop(verdict.update, None)

    def save_chunk(self, update: UpdateId, index: int) -> None:
        transfer = self.transfers[update]
        self.transfers[update] = replace(transfer, arrived=transfer.arrived | {index})

    def complete(self, record: UpdateRecord) -> None:
        transfer = self.transfers[record.update]
        assert len(transfer.arrived) == -(-record.payload_bytes // transfer.chunk_bytes)
        self.save_update(record)

    def commit(self, version: ModelVersion, members: tuple[Member, ...]) -> VersionRecord:
        head = self.versions[-1].version
        assert version == head + 1
        assert len({member.update for member in members}) == len(members) > 0
        for member in members:
            record, verdict = self.updates[member.update], self.verdicts[member.update]
            assert verdict.status is ReceiptStatus.STORED, "an update counts twice"
            assert member.staleness == head - record.base_version
            self.verdicts[member.update] = replace(verdict, status=ReceiptStatus.APPLIED, version=version)
        self.versions.append(version_record(version, accepted=len(members)))
        return self.versions[-1]

    def recovered(self, epoch: int) -> RecoveredState:
        open_rounds = tuple(
            replace(self.rounds[round_id], nodes=tuple(nodes)) for round_id, nodes in sorted(self.open.items()) if nodes
        )
        numbers = {record.round for record in open_rounds}
        return RecoveredState(
            run=RUN,
            epoch=Epoch(epoch),
            head=self.versions[-1],
            recent={record.version: record.digest for record in self.versions[-self.recent_max :]},
            next_round=RoundId(max(self.rounds, default=-1) + 1),
            open_rounds=open_rounds,
            delivered=frozenset(update for update, record in self.updates.items() if record.round in numbers),
            stored=tuple(self.updates[update] for update in self.stored()),
            transfers=tuple(self.transfers.values()),
            evaluated=dict(self.evaluated),
            surveyed=tuple(self.surveys.values()),
            reported={
                node: result.num_examples
                for (version, node), result in self.results.items()
                if version == max(self.surveys)
            },
            retained=self.retained if self.best is None else self.retained | {self.best},
            best=self.best,
            nodes_seen=len({*self.incarnations, *(node for one in self.rounds.values() for node in one.nodes)}),
            spent=dict(self.spent),
            released=ReleaseLedger(releases=max(self.released, default=-1) + 1, takings=dict(self.takings)),
        )

    def stored(self) -> list[UpdateId]:
        return [update for update, verdict in self.verdicts.items() if verdict.status is ReceiptStatus.STORED]


class Rig:
    """One machine, its store, and a clock that the test moves."""

    def __init__(
        self,
        settings: EngineSettings | None = None,
        recovered: RecoveredState | None = None,
        seed: int = 0,
        start: int | None = None,
    ) -> None:
        self.drawn = None if start is None else Start(start)
        self.readers: frozenset[NodeId] | None = None
        self.settings = engine() if settings is None else settings
        self.store = StoreModel(recent_max=self.settings.max_staleness + 1)
        self.now, self.epoch = 100.0, 1
        self.failing = self.failed = False
        self.failing_kinds: tuple[type, ...] = SAVES
        self.full_for_attendance = False
        self.rejecting: Reason | None = None
        self.counted = b""  # claims of whatever is judged that other updates have made
        self.commit_failure: events.CommitFailed | None = None
        self.holding_commits = False
        self.delta: bytes | None = None
        self.evaluations: list[ModelVersion] = []
        self.announced: messages.RoundAnnouncement | None = None
        self.rng = Random(seed)
        self.selector: Selector = UniformSelector()
        self.machine = self._machine(fresh() if recovered is None else recovered)

    def _machine(self, recovered: RecoveredState) -> CoordinatorMachine:
        return CoordinatorMachine(
            self.settings, recovered, selector=self.selector, rng=self.rng.random, start=self.drawn
        )

    def restart(self) -> list[Effect]:
        """Kill the coordinator and start it on the same store."""
        self.epoch += 1
        self.failed = False
        self.machine = self._machine(self.store.recovered(self.epoch))
        return self.tell(None)

    # --- the driver and the executor --------------------------------------------------------------------------------

    def tell(self, event: Event | None) -> list[Effect]:
        """Handle an event and everything that its effects answer; returns the effects that took place."""
        done: list[Effect] = []
        pending: deque[Event | None] = deque([event])
        while pending:
            for effect in self.machine.handle(pending.popleft(), self.now):
                if isinstance(effect, effects.AcceptFailure):
                    self.failed = False
                elif self.failed and not isinstance(effect, INDEPENDENT):
                    continue
                elif self.failing and isinstance(effect, self.failing_kinds):
                    self.failed = True
                    pending.append(events.StorageFailed(detail="disk full"))
                    continue
                done.append(effect)
                pending.extend(self._run(effect))
        return done

    def _run(self, effect: Effect) -> list[Event]:  # noqa: PLR0911, PLR0912 - one branch per effect
        match effect:
            case effects.SaveRound():
                self.store.save_round(effect.record)
                return [events.RoundSaved(record=effect.record)]
            case effects.CloseRound():
                self.store.close_round(effect.round, effect.nodes)
            case effects.StoreUpdate() | effects.StoreTransfer():
                return [self._store(effect)]
            case effects.OpenTransfer():
                self.store.transfers[effect.transfer.record.update] = effect.transfer
                return [events.TransferOpened(transfer=effect.transfer)]
            case effects.StoreChunk():
                self.store.save_chunk(effect.update, effect.index)
                return [events.ChunkStored(update=effect.update, index=effect.index)]
            case effects.DropTransfer():
                self.store.transfers.pop(effect.update, None)
                return [events.TransferDropped(update=effect.update)]
            case effects.SaveVerdict():
                self.store.save_verdict(effect.verdict, effect.record)
            case JudgeClaimed():
                return [self._judge(effect)]
            case WithdrawClaims(node=node, update=update, claims=claims):
                return [ClaimsWithdrawn(node=node, update=update, claims=claims, counted=self.counted)]
            case effects.CommitVersion():
                return self._commit(effect)
            case effects.Evaluate():
                self.evaluations.append(effect.version)
            case effects.SaveResult(result=result):
                return [events.ResultSaved(result=self.store.save_result(result))]
            case effects.CloseFederatedEvaluation(version=version):
                return [events.FederatedEvaluationClosed(evaluation=self.store.close_survey(version))]
            case effects.SaveSpent(spent=spent):
                self.store.save_spent(spent)
            case effects.SaveAttendance(attendance=attendance):
                return [self._save_attendance(attendance)]
            case effects.FollowEnrolled(nodes=nodes):
                before, self.readers = self.readers, nodes
                return [events.EnrolledFollowed(renewed=before is not None and not before <= nodes)]
            case effects.RetainModels():
                self.store.retain(effect.versions, effect.best)
                return [events.ModelsRetained(versions=effect.versions, best=effect.best)]
            case effects.SendCommand(node=node, command=messages.EvaluationReceipt() as receipt):
                saved = self.store.results.get((receipt.version, node))
                assert receipt.status is ReceiptStatus.REFUSED or saved is not None, "said before it was saved"
            case effects.PublishAnnouncement() | effects.Invite():
                self._announce(effect.announcement)
                standing = isinstance(effect, effects.PublishAnnouncement)
                self.announced = effect.announcement if standing else self.announced
            case effects.SendCommand(node=node, command=messages.Receipt() as receipt):
                self._check_receipt(node, receipt)
            case _:
                pass
        return []

    def _judge(self, effect: JudgeClaimed) -> Event:
        if self.counted:
            update, node = effect.record.update, effect.record.node
            reason, counted = Reason.COUNTED, self.counted
            return events.UpdateRejected(update=update, node=node, reason=reason, detail="", counted=counted)
        self.store.save_verdict(effect.verdict, effect.record)
        return ClaimedJudged(verdict=effect.verdict, record=effect.record, detail=effect.detail)

    def _save_attendance(self, attendance: Attendance) -> Event:
        if self.full_for_attendance:
            return events.AttendanceNotSaved()
        self.store.save_attendance(attendance)
        return events.AttendanceSaved(attendance=attendance)

    def _store(self, effect: effects.StoreUpdate | effects.StoreTransfer) -> Event:
        record = effect.record
        if self.rejecting is not None:
            return events.UpdateRejected(update=record.update, node=record.node, reason=self.rejecting, detail="bad")
        if isinstance(effect, effects.StoreTransfer):
            self.store.complete(record)
        else:
            self.store.save_update(record)
        return events.UpdateStored(update=record.update)

    def _commit(self, effect: effects.CommitVersion) -> list[Event]:
        if self.commit_failure is not None:
            failure, self.commit_failure = self.commit_failure, None
            return [failure]
        if self.holding_commits:
            return []
        record = self.store.commit(effect.version, effect.members)
        if effect.release is not None:
            self.store.charge(effect.release, effect.members)
        return [events.VersionCommitted(record=record, members=effect.members, delta=self.delta)]

    def _announce(self, announcement: messages.RoundAnnouncement) -> None:
        saved = self.store.rounds[announcement.round]
        assert saved.cohort == announcement.cohort, "announced before it was saved"
        assert all(includes(announcement.cohort, RUN, announcement.round, node) for node in saved.nodes)
        hidden = announcement.masked_evaluation
        share = announcement.evaluation if hidden is None else hidden.share
        assert share == saved.evaluation, "announced before it was saved"
        assert announcement.cohort == NOBODY or not announcement.final

    def _check_receipt(self, node: NodeId, receipt: messages.Receipt) -> None:
        verdict = self.store.verdicts.get(receipt.update)
        unsaved = (Reason.OTHER_RUN, Reason.UNKNOWN_ROUND, Reason.NOT_ASSIGNED, Reason.COUNTED)
        if verdict is None:
            assert receipt.reason in unsaved, "said before it was saved"
        elif receipt.reason not in unsaved:
            assert (receipt.status, receipt.reason) == (verdict.status, verdict.reason) or not receipt.status.final
            assert verdict.node == node

    # --- what nodes and the broker do -------------------------------------------------------------------------------

    def connect(self) -> list[Effect]:
        return self.tell(None) + self.tell(events.BrokerConnected()) + self.tell(None)

    def disconnect(self) -> list[Effect]:
        return self.tell(events.BrokerDisconnected(reason="cut"))

    def heard(
        self,
        presence: Presence | None = None,
        *,
        epoch: int = 1,
        run: RunId = RUN,
        start: int | None = None,
        retained: bool = False,
    ) -> list[Effect]:
        """The coordinator's own topic says this; None is nothing readable."""
        state = None
        if presence is not None:
            state = messages.CoordinatorState(
                presence=presence,
                run=run,
                epoch=Epoch(epoch),
                protocol_min=1,
                protocol_max=1,
                start=None if start is None else Start(start),
            )
        return self.tell(events.CoordinatorStateReceived(state=state, retained=retained))

    def state(self, node: str, presence: Presence = Presence.ONLINE, **changes: object) -> list[Effect]:
        plain = NodeState(
            presence=presence,
            incarnation=Incarnation(1),
            protocol_min=1,
            protocol_max=1,
            task="digits",
            codecs=("edge",),
            activity=Activity.IDLE,
        )
        state = replace(plain, **changes)  # type: ignore[arg-type]
        return self.tell(events.NodeStateReceived(node=NodeId(node), state=state))

    def start(self, *nodes: str) -> list[Effect]:
        """Connect, and let these nodes be born; returns the effects of the last birth."""
        self.connect()
        return [self.state(node) for node in nodes][-1]

    def offer(self, node: str, round_id: int, **changes: object) -> list[Effect]:
        """An honest offer from the round's own version, unless changed."""
        record = self.store.rounds.get(RoundId(round_id))
        base = 0 if record is None else record.version
        current = {"base_version": ModelVersion(base), "base_digest": digest_of(base)}
        offer = offer_of(node, round_id, **{**current, **changes})
        known = self.store.verdicts.get(offer.update)
        stored = self.store.updates[offer.update] if offer.update in self.store.stored() else None
        event = events.OfferReceived(node=NodeId(node), offer=offer, known=known, stored=stored, asked=record)
        return self.tell(event)

    def chunk(self, node: str, update: str, index: int, body: bytes) -> list[Effect]:
        return self.tell(events.ChunkReceived(node=NodeId(node), update=UpdateId(update), index=index, body=body))

    def report(self, node: str, version: int, num_examples: int = 10, **changes: object) -> list[Effect]:
        """What a node found, unless changed: the digest of the version, and its numbers."""
        plain = messages.EvaluationReport(
            run=RUN, version=ModelVersion(version), digest=digest_of(version), num_examples=num_examples
        )
        report = replace(plain, **changes)  # type: ignore[arg-type]
        known = self.store.results.get((report.version, NodeId(node)))
        return self.tell(events.ReportReceived(node=NodeId(node), report=report, known=known))

    def found(self, version: int, **metrics: float) -> list[Effect]:
        """The coordinator's own evaluation has ended; it is saved before the machine hears of it."""
        self.store.evaluated[ModelVersion(version)] = metrics
        return self.tell(events.Evaluated(version=ModelVersion(version), metrics=metrics))

    def decline(
        self, node: str, round_id: int, retry_after_s: float = 0.0, run: RunId = RUN, reason: str = "busy"
    ) -> list[Effect]:
        decline = messages.Decline(run=run, round=RoundId(round_id), reason=reason, retry_after_s=retry_after_s)
        return self.tell(events.DeclineReceived(node=NodeId(node), decline=decline))

    def starve(self, node: str, round_id: int) -> list[Effect]:
        """A node says that chunks of the model never came."""
        decline = messages.Decline(run=RUN, round=RoundId(round_id), reason="no chunks", missing=True)
        return self.tell(events.DeclineReceived(node=NodeId(node), decline=decline))

    def wait(self, seconds: float) -> list[Effect]:
        """Let time pass, deadline by deadline, as the driver does."""
        end, done = self.now + seconds, []
        for _ in range(10_000):
            due = self.machine.deadline()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            done += self.tell(None)
            later = self.machine.deadline()
            assert later is None or later > self.now, "a deadline that does not move is a busy loop"
        else:
            raise AssertionError("more deadlines than a quiet machine can have")
        self.now = end
        return done + self.tell(None)

    # --- what the test looks at -------------------------------------------------------------------------------------

    def get(self, name: str) -> object:
        return self.machine.snapshot()[name]

    @property
    def waiting_for(self) -> str:
        waiting = self.machine.snapshot()["waiting_for"]
        assert isinstance(waiting, dict)
        return str(waiting["reason"])


SAVES = (
    effects.SaveRound,
    effects.CloseRound,
    effects.StoreUpdate,
    effects.OpenTransfer,
    effects.StoreChunk,
    effects.StoreTransfer,
    effects.DropTransfer,
    effects.SaveVerdict,
    JudgeClaimed,
    effects.CommitVersion,
    effects.SaveResult,
    effects.CloseFederatedEvaluation,
    effects.RetainModels,
    effects.SaveSpent,
)


def transcript(effects: list[Effect], *, notes: bool = False) -> list[str]:
    """One short line per effect; notes and what only figures come of are left out."""
    shown = [effect for effect in effects if not isinstance(effect, SaveAttendance)]
    return [_line(effect) for effect in shown if notes or not isinstance(effect, Note)]


def _line(effect: Effect) -> str:  # noqa: PLR0911, PLR0912 - one branch per effect
    match effect:
        case effects.SaveRound(record=record):
            return f"save round {record.round} of version {record.version} for {' '.join(sorted(record.nodes))}".strip()
        case effects.ClearNodeState(node=node):
            return f"clear {node}"
        case effects.FollowEnrolled(nodes=nodes):
            return f"follow {' '.join(sorted(nodes))}"
        case effects.RotateKey():
            return "rotate key"
        case effects.CountIncident(node=node, kind=kind):
            return f"count {kind} of {node}"
        case effects.CloseRound():
            return f"close {' '.join(sorted(effect.nodes))} in round {effect.round}"
        case effects.PublishState():
            return f"publish state {effect.state.presence.value} epoch {effect.state.epoch}"
        case effects.PublishModel():
            return f"publish model {effect.record.version}"
        case effects.ClearModel():
            return f"clear all but model {effect.head.version}"
        case effects.PublishAnnouncement(announcement=announcement):
            final = " final" if announcement.final else ""
            asks = "" if announcement.evaluation is None else " to be evaluated"
            return f"announce round {announcement.round} of version {announcement.model.version}{final}{asks}"
        case effects.Invite(nodes=nodes, announcement=announcement):
            place = f"round {announcement.round} of version {announcement.model.version}"
            return f"invite {' '.join(sorted(nodes))} to {place}"
        case effects.SendCommand():
            return f"tell {effect.node} {_command(effect.command)}"
        case effects.StoreUpdate() | effects.StoreTransfer():
            return f"store {effect.record.update}"
        case effects.OpenTransfer():
            return f"open transfer {effect.transfer.record.update}"
        case effects.StoreChunk():
            return f"store chunk {effect.index} of {effect.update}"
        case effects.DropTransfer():
            return f"drop transfer {effect.update}"
        case effects.SaveVerdict(verdict=verdict) | JudgeClaimed(verdict=verdict):
            return f"save {verdict.update} {verdict.status.value} {verdict.reason.value}"
        case effects.CommitVersion():
            members = " ".join(f"{member.update}@{member.staleness}" for member in effect.members)
            return f"commit {effect.version} of {members} because {effect.reason}"
        case effects.Evaluate():
            return f"evaluate {effect.version}"
        case effects.SaveResult(result=result):
            late = "" if result.counted else " too late"
            return f"save result of {result.node} for {result.version}{late}"
        case effects.CloseFederatedEvaluation():
            return f"close evaluation of {effect.version}"
        case effects.RetainModels():
            return f"retain {sorted(effect.versions)} best {effect.best}"
        case effects.SaveSpent(spent=spent):
            return f"save spent {spent.node} {sum(each.steps for each in spent.steps)}"
        case effects.SaveAttendance():
            return "save attendance"
        case effects.Note():
            return f"note {effect.event}"
        case effects.AcceptFailure():
            return "accept failure"
        case effects.Stop():
            return f"stop {effect.reason}"
        case _:
            return type(effect).__name__


def _command(command: effects.Command) -> str:
    match command:
        case messages.Receipt():
            parts = [command.status.value, command.update]
            if command.status in (ReceiptStatus.STALE, ReceiptStatus.REFUSED):
                parts.append(command.reason.value)
            if command.version is not None:
                parts.append(f"in {command.version}")
            return " ".join(parts)
        case messages.Grant():
            return f"grant {command.update} {command.bitmap.hex()} window {command.window}"
        case messages.Cancel():
            return f"cancel {command.round}"
        case messages.RetryAfter():
            return f"retry {command.update}"
        case messages.Rebirth():
            return "rebirth"
        case messages.EvaluationReceipt():
            reason = "" if command.status is not ReceiptStatus.REFUSED else f" {command.reason.value}"
            return f"evaluation {command.version} {command.status.value}{reason}"

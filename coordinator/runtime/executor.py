"""Carries out the machine's effects on store, transports and log; what they answer comes back as events."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import assert_never

from coordinator.engine.claims.effects import JudgeClaimed, WithdrawClaims
from coordinator.engine.effects import (
    AcceptFailure,
    ClearModel,
    ClearNodeState,
    CloseFederatedEvaluation,
    CloseRound,
    CommitVersion,
    CountIncident,
    DropTransfer,
    Effect,
    Evaluate,
    FollowEnrolled,
    Invite,
    Note,
    OpenTransfer,
    OwnEffect,
    Publication,
    PublishAnnouncement,
    PublishModel,
    PublishState,
    RetainModels,
    RotateKey,
    SaveAttendance,
    SaveResult,
    SaveRound,
    SaveSpent,
    SaveVerdict,
    SendCommand,
    Stop,
    StoreChunk,
    StoreTransfer,
    StoreUpdate,
)
from coordinator.engine.events import (
    AttendanceNotSaved,
    AttendanceSaved,
    ChunkStored,
    CommitFailed,
    EnrolledFollowed,
    Evaluated,
    Event,
    FederatedEvaluationClosed,
    ModelsRetained,
    ResultSaved,
    RoundSaved,
    StorageFailed,
    TransferDropped,
    TransferOpened,
    UpdateRejected,
    UpdateStored,
    VersionCommitted,
)
from coordinator.engine.masked.effects import MaskedEffect
from coordinator.global_model.aggregation import Unusable
from coordinator.global_model.committer import Committer
from coordinator.global_model.update_checks import Examine, Refusal, check_masked, check_update
from coordinator.records import Attendance, TransferRecord, UpdateRecord, Verdict
from coordinator.runtime.central_evaluation import Evaluator, NoEvaluator
from coordinator.runtime.claims import ClaimsExecution
from coordinator.runtime.masked_sums import MaskedExecution
from coordinator.runtime.publisher import ModelPublisher, Publisher, RoundPublisher
from coordinator.runtime.sealing import CoordinatorSealing
from coordinator.runtime.traffic import Traffic
from coordinator.storage.store import CoordinatorStore, Figures
from federation.errors import DamagedStore, StorageError, StoreGone
from federation.protocol.messages import (
    CoordinatorState,
    EvaluationReceipt,
    Presence,
    Receipt,
    ReceiptStatus,
    RoundAnnouncement,
)
from federation.protocol.sealed_messages import KeyWrap
from federation.protocol.signing import Signer, Writer
from federation.protocol.topics import Topics
from federation.runtime.failpoint import failpoint
from federation.types import ModelVersion, NodeId

__all__ = ["INDEPENDENT", "CoordinatorExecutor", "ExecutorParts"]

INDEPENDENT = (AcceptFailure, Evaluate, PublishState, Stop)
"""Effects that follow from no save of the same moment: a stop must be one, and an evaluation is asked for once."""


def _nobody(_node: str, _kind: str) -> None:
    """Nobody counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorParts:
    """What an executor works with.

    Attributes:
        store: Where everything is kept.
        committer: Makes versions.
        control: Connection for everything but bulk.
        data: Connection for bulk; may be the same.
        topics: The federation's tree.
        now: Monotonic seconds.
        say: Writes one log line: a stable event key and its fields.
        evaluator: Evaluates versions.
        traffic: Counts bytes; shared with `Inbound`.
        update_norm_max: Updates with a larger L2 norm are refused.
        signer: The coordinator's key; None says everything without a signature.
        check: Looks at an update before it is kept.
        blame: Counts what a node has done that it should not, by node and kind.
        passing: Passes a failpoint in the order of the publishes, wherever these are held back.
        sealing: Closes to the broker what is said; shared with `Inbound`. None says everything openly.
    """

    store: CoordinatorStore
    committer: Committer
    control: Publisher
    data: Publisher
    topics: Topics
    now: Callable[[], float]
    say: Callable[[str, Mapping[str, object]], None]
    evaluator: Evaluator = field(default_factory=NoEvaluator)
    traffic: Traffic = field(default_factory=Traffic)
    update_norm_max: float = 1e5
    signer: Signer | None = None
    check: Callable[[UpdateRecord, bytes, Examine, float], Refusal | None] = check_update
    blame: Callable[[str, str], object] = _nobody
    passing: Callable[[str], None] = failpoint
    sealing: CoordinatorSealing | None = None


class CoordinatorExecutor:
    """Runs one effect at a time, on one thread.

    After a `StorageFailed` it does nothing that is not `INDEPENDENT` until the machine says `AcceptFailure`: what
    follows a failed save depends on it.

    Attributes:
        stopped: The machine is done; ``stop_reason`` says why.
        other_run: The run that leads the federation instead, where that is why.
    """

    def __init__(self, parts: ExecutorParts) -> None:
        self._parts, self._store, self._sealing = parts, parts.store, parts.sealing
        close = None if parts.sealing is None else parts.sealing.part_chunk
        self._models = ModelPublisher(parts.store, parts.control, parts.data, parts.topics, close)
        self._writer = Writer(parts.topics, parts.signer, parts.sealing)
        self._rounds = RoundPublisher(parts.control, self._writer, parts.traffic)
        if parts.sealing is not None:
            parts.sealing.publish = self._say_key
        self._claims = ClaimsExecution(parts.store, self._judged)
        self._masked = MaskedExecution(parts.store, parts.control, Writer(parts.topics, parts.signer))
        self._failed = self.stopped = False
        self._since: float | None = None
        self._verdicts = {ReceiptStatus.STALE: 0, ReceiptStatus.REFUSED: 0}
        self.stop_reason = self.other_run = ""

    @property
    def sealing(self) -> CoordinatorSealing | None:
        """Who seals and opens, if anybody does."""
        return self._sealing

    @property
    def traffic(self) -> Traffic:
        """Bytes since the last commit."""
        return self._parts.traffic

    def broker_connected(self) -> None:
        """The broker may have lost everything that it retained."""
        self._models.forget()
        if self._sealing is not None:
            self._sealing.broker_connected()

    def execute(self, effect: Effect) -> Iterable[Event]:
        """Run one effect."""
        if self._failed and not isinstance(effect, INDEPENDENT):
            return ()
        try:
            return tuple(self._masked.run(effect) if isinstance(effect, MaskedEffect) else self._run(effect))
        except StoreGone:
            raise
        except StorageError as error:
            self._failed = True
            return (StorageFailed(detail=str(error)),)

    def _run(self, effect: OwnEffect) -> Iterator[Event]:  # noqa: C901, PLR0912 - one branch per effect
        match effect:
            case SaveRound(record=record):
                self._store.save_round(record)
                failpoint("coordinator_before_announce")
                yield RoundSaved(record=record)
            case CloseRound(round=round_id, nodes=nodes):
                self._store.close_round(round_id, nodes)
            case StoreUpdate(record=record, payload=payload):
                yield self._save_update(record, payload)
            case StoreTransfer(record=record):
                yield self._save_update(record, self._store.transfer_payload(record.update))
            case OpenTransfer(transfer=transfer):
                yield self._claims.elsewhere(transfer.record) or self._open(transfer)
            case StoreChunk(update=update, index=index, body=body):
                self._store.save_chunk(update, index, body)
                yield ChunkStored(update=update, index=index)
            case DropTransfer(update=update):
                yield TransferDropped(update=self._store.drop_transfer(update))
            case SaveVerdict() | SaveSpent():
                self._save_word(effect)
            case JudgeClaimed() | WithdrawClaims():
                yield self._claims.run(effect)
            case CommitVersion():
                yield self._commit(effect)
            case Evaluate(version=version):
                yield from self._evaluate(version)
            case SaveResult(result=result):
                yield ResultSaved(result=self._store.save_node_result(result))
            case CloseFederatedEvaluation(version=version):
                yield FederatedEvaluationClosed(evaluation=self._store.close_evaluation(version))
            case RetainModels(versions=versions, best=best):
                self._store.retain(versions, best)
                yield ModelsRetained(versions=versions, best=best)
            case SaveAttendance(attendance=attendance):
                yield self._save_attendance(attendance)
            case ClearNodeState() | FollowEnrolled() | RotateKey():
                yield from self._renew(effect)
            case CountIncident(node=node, kind=kind):
                self._parts.blame(node, kind)
            case PublishState() | PublishModel() | ClearModel() | PublishAnnouncement() | Invite() | SendCommand():
                self._publish(effect)
            case Note(event=event, fields=fields):
                self._parts.say(event, fields)
            case Stop(reason=reason, other_run=other_run):
                self.stopped, self.stop_reason, self.other_run = True, reason, other_run
            case AcceptFailure():
                self._failed = False
            case _:
                assert_never(effect)

    def _publish(self, effect: Publication) -> None:
        parts, topics = self._parts, self._parts.topics
        match effect:
            case PublishState(state=state):
                self._publish_state(state)
            case PublishModel():
                self._publish_model(effect)
            case ClearModel(head=head, named=named):
                self._models.clear(self._parts.committer.as_published(head), named)
            case PublishAnnouncement(announcement=announcement) | Invite(announcement=announcement):
                self._rounds.say(self._announced(announcement), effect.nodes if isinstance(effect, Invite) else None)
                self._since = parts.now() if self._since is None else self._since
                parts.passing("coordinator_after_announce")
            case SendCommand(node=node, command=command):
                topic = topics.node_command(node)
                payload = self._writer.encode(topic, command)
                parts.control.publish(topic, payload, qos=1)
                parts.traffic.commanded(topic, len(payload))
                if isinstance(command, Receipt | EvaluationReceipt):
                    # The driver acknowledges the offer once all effects have run.
                    parts.passing("coordinator_before_puback")
            case _:
                assert_never(effect)

    def _renew(self, effect: ClearNodeState | FollowEnrolled | RotateKey) -> Iterable[Event]:
        match effect:
            case ClearNodeState(node=node):
                self._clear_node(node)
            case FollowEnrolled(nodes=nodes):
                return (EnrolledFollowed(renewed=self._follow(nodes)),)
            case RotateKey():
                self._rotate()
            case _:
                assert_never(effect)
        return ()

    def _publish_state(self, state: CoordinatorState) -> None:
        topic, sealing = self._parts.topics.coordinator_state, self._sealing
        payload = self._writer.encode(topic, state if sealing is None else sealing.stated(state))
        self._parts.control.publish(topic, payload, qos=1, retain=True)
        self._parts.traffic.announced(topic, len(payload))
        if sealing is not None and state.presence is Presence.ONLINE:
            sealing.speaks()

    def _announced(self, announcement: RoundAnnouncement) -> RoundAnnouncement:
        announcement = self._parts.committer.announced(announcement)
        return announcement if self._sealing is None else self._sealing.announced(announcement)

    def _say_key(self, topic: str, wrap: KeyWrap) -> None:
        payload = self._writer.encode(topic, wrap)
        self._parts.control.publish(topic, payload, qos=1, retain=True)
        self._parts.traffic.commanded(topic, len(payload))

    def _clear_node(self, node: NodeId) -> None:
        """What the broker retains of a node that has left, and for it."""
        parts = self._parts
        parts.control.publish(parts.topics.node_state(node), b"", qos=1, retain=True)
        if self._sealing is not None and self._sealing.on:
            parts.control.publish(parts.topics.node_key(node), b"", qos=1, retain=True)

    def _follow(self, nodes: Collection[NodeId]) -> bool:
        """Somebody has left: the head's parts are closed anew, with a key that only the others get."""
        if self._sealing is None or not self._sealing.follow(nodes):
            return False
        self._models.forget()
        self._sealing.speak_again()
        self._parts.say("group_key_renewed", {"key_epoch": self._sealing.key_epoch, "nodes": len(nodes)})
        return True

    def _rotate(self) -> None:
        if self._sealing is not None and self._sealing.rotation_is_due():
            self._sealing.rotate()
            self._parts.say("sealing_key_rotated", self._sealing.row())

    # --- the model --------------------------------------------------------------------------------------------------

    def _publish_model(self, effect: PublishModel) -> None:
        """Publish a version; what is damaged of the head, or what a node cannot read, is made again before."""
        parts, committer = self._parts, self._parts.committer
        if effect.lost:
            self._models.forget()
        if effect.plain and (head := committer.replace_turned(parts.store)) is not None:
            parts.say("head_without_cosine_frames", {"version": head.version})
        try:
            self._models.publish(committer.as_published(effect.record))
        except DamagedStore as error:
            if (repaired := committer.repair(parts.store)) is None:
                raise
            parts.say("head_repaired", {"version": repaired.version, "detail": str(error)})
            self._models.publish(committer.as_published(effect.record))

    def _save_update(self, record: UpdateRecord, payload: bytes) -> Event:
        committer = self._parts.committer
        if (elsewhere := self._claims.elsewhere(record)) is not None:
            return elsewhere
        if record.seeds is not None:
            found = check_masked(record, payload, committer.manifest, committer.shape_for)
        else:
            found = self._parts.check(record, payload, committer.examine, self._parts.update_norm_max)
        if found is not None:
            return UpdateRejected(update=record.update, node=record.node, reason=found[0], detail=found[1])
        self._store.save_update(record, payload)
        self._parts.traffic.pulled(record.fetched_bytes)
        return UpdateStored(update=record.update)

    def _open(self, transfer: TransferRecord) -> Event:
        self._store.open_transfer(transfer)
        return TransferOpened(transfer=transfer)

    def _judged(self, verdict: Verdict, record: UpdateRecord | None) -> None:
        self._verdicts[verdict.status] += 1
        if record is not None:
            self._parts.traffic.pulled(record.fetched_bytes)

    def _save_attendance(self, attendance: Attendance) -> Event:
        """It only tells: a full disk costs the figures, not the run."""
        try:
            self._store.save_attendance(attendance)
        except StorageError:
            return AttendanceNotSaved()
        return AttendanceSaved(attendance=attendance)

    def _save_word(self, effect: SaveVerdict | SaveSpent) -> None:
        if isinstance(effect, SaveSpent):
            self._store.save_spent(effect.spent)
            return
        self._store.save_verdict(effect.verdict, effect.record)
        self._judged(effect.verdict, effect.record)

    def _commit(self, effect: CommitVersion) -> Event:
        failpoint("coordinator_after_freeze")
        parts, committer, now = self._parts, self._parts.committer, self._parts.now()
        wall_s = now - (now if self._since is None else self._since)
        spent = Figures(wall_s=wall_s, bytes_up=parts.traffic.up, bytes_down=parts.traffic.down)
        result = committer.commit(effect.members, effect.reason, spent, plain=effect.plain, release=effect.release)
        if isinstance(result, Unusable):
            return CommitFailed(culprits=result.culprits, reason=result.reason, detail=result.detail)
        self._since = now
        parts.traffic.take()
        said = {
            "version": result.version,
            "accepted": result.accepted,
            "stale": self._verdicts[ReceiptStatus.STALE],
            "refused": self._verdicts[ReceiptStatus.REFUSED],
            "bytes_up": spent.bytes_up,
            "bytes_down": spent.bytes_down,
            "seconds": round(wall_s, 4),
            "reason": effect.reason,
        }
        parts.say("version_committed", said)
        self._verdicts = dict.fromkeys(self._verdicts, 0)
        return VersionCommitted(record=result, members=effect.members, delta=committer.delta, terms=committer.terms)

    def _evaluate(self, version: ModelVersion) -> Iterable[Event]:
        if version != self._parts.committer.head.version:
            return (Evaluated(version=version, metrics={}, skipped=True),)
        return self._parts.evaluator.submit(version, self._parts.committer.evaluated_model)

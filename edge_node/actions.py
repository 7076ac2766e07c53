"""What can happen to an edge node (events, past tense) and what it can do (effects, imperatives)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_node.evaluation_actions import EvaluationFinished, StartEvaluation
from edge_node.seen import Seen
from edge_node.task_state import NO_CHANGE, StateChange
from federation.protocol.messages import (
    Cancel,
    CoordinatorState,
    Decline,
    EvaluationReceipt,
    EvaluationReport,
    Grant,
    ModelPart,
    ModelRef,
    NodeState,
    Progress,
    Rebirth,
    Receipt,
    RetryAfter,
    RoundAnnouncement,
    UpdateOffer,
)
from federation.types import Digest, ModelVersion, RoundId, RunId, UpdateId

# --- values ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    """A finished update in the durable outbox: its offer without the payload, and how far it got."""

    offer: UpdateOffer
    stored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedTraining:
    """What the worker made of one round: the encoded update and its numbers; the residual stays in the worker's store.

    Attributes:
        round: The round that it was made for.
        frame: The codec frame.
        num_examples: Local examples.
        metrics: The task's own numbers.
        train_s: Seconds of local training.
        token: Opaque handle under which the executor finds the new residual.
        run: The run that it was made for; None when the trainer does not say.
        codec: The codec that made the frame; "" is the announced one.
        change: What the task wants to be kept on this node.
    """

    round: RoundId
    frame: bytes
    num_examples: int
    metrics: Mapping[str, float]
    train_s: float
    token: object = None
    run: RunId | None = None
    codec: str = ""
    change: StateChange = NO_CHANGE


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveredNode:
    """Everything the machine needs to go on where the state folder was left.

    Attributes:
        run: The last run that was seen, or None.
        last_round: The newest round of that run that is finished or declined, or None.
        held_version: The model version on disk, or None.
        held_digest: Its digest, or None.
        outbox: Updates without a final receipt, oldest first.
        seen: The newest that was heard of the coordinator; kept where messages are signed.
    """

    run: RunId | None = None
    last_round: RoundId | None = None
    held_version: ModelVersion | None = None
    held_digest: Digest | None = None
    outbox: tuple[OutboxEntry, ...] = ()
    seen: Seen | None = None


# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConnected:
    """The connection is up, and subscriptions are sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerDisconnected:
    """The connection is gone."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorStateReceived:
    """Who coordinates."""

    state: CoordinatorState


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnouncementReceived:
    """The current round."""

    announcement: RoundAnnouncement


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChunkReceived:
    """One retained chunk of a model part: version, segment (``k0``, ``d0``, see topics.py), index in the segment."""

    version: ModelVersion
    segment: str
    index: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandReceived:
    """The coordinator's word to this node."""

    command: Receipt | Grant | Cancel | RetryAfter | Rebirth | EvaluationReceipt


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRefused:
    """Bytes that are no message: counted, never answered."""

    topic: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReady:
    """The model of this version is on disk, and its digest is right."""

    version: ModelVersion
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRejected:
    """The parts did not lead to the announced digest: a keyframe is needed."""

    version: ModelVersion
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFinished:
    """The worker is done."""

    result: FinishedTraining


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFailed:
    """The user's task raised, or the result was not finite."""

    round: RoundId
    reason: str
    run: RunId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxSaved:
    """The update and its residual are on disk."""

    entry: OutboxEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageFailed:
    """Nothing can be persisted: what must be saved is kept in memory and tried again.

    Attributes:
        detail: What the store said.
        effect: The effect that failed, where the executor says so: the machine repeats it.
    """

    detail: str
    effect: "Effect | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequested:
    """The operator asks for an orderly stop."""


Event = (
    BrokerConnected
    | BrokerDisconnected
    | CoordinatorStateReceived
    | AnnouncementReceived
    | ModelChunkReceived
    | CommandReceived
    | MessageRefused
    | ModelReady
    | ModelRejected
    | TrainingFinished
    | TrainingFailed
    | EvaluationFinished
    | OutboxSaved
    | StorageFailed
    | StopRequested
)

# --- effects --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishState:
    """Publish the retained node state."""

    state: NodeState


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishEvent:
    """Publish to this node's event topic."""

    message: Decline | EvaluationReport


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishProgress:
    """Publish telemetry, QoS 0."""

    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscribeSegment:
    """Pull one segment of a model part (256 retained chunks at most), or only ``indices``, each by its own topic."""

    version: ModelVersion
    segment: str
    indices: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsubscribeSegment:
    """The segment is complete, or no longer wanted; ``indices`` as it was subscribed."""

    version: ModelVersion
    segment: str
    indices: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptModel:
    """Decode these parts in order onto the held model, check the digest, persist.

    A first part that is a keyframe starts from nothing. ``averaging`` is for the codec's context. Answers `ModelReady`
    or `ModelRejected`.
    """

    model: ModelRef
    parts: tuple[tuple[ModelPart, bytes], ...]
    averaging: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeInitialModel:
    """Make version 0 from its seed and check its digest. Answers `ModelReady` or `ModelRejected`."""

    model: ModelRef
    averaging: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTraining:
    """Train in the worker; answers `TrainingFinished` or `TrainingFailed` later, through the inbox.

    Attributes:
        announcement: What is asked for.
        payload_bytes_max: What the uplink carries in time; a codec with error feedback sends no more. None is no bound.
    """

    announcement: RoundAnnouncement
    payload_bytes_max: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StopTraining:
    """Tell the worker to give up this round; its result will be ignored."""

    round: RoundId


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveOutbox:
    """Persist update, new residual and the task's state in one step. Answers `OutboxSaved` or `StorageFailed`."""

    offer: UpdateOffer
    result: FinishedTraining


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveProgress:
    """Persist the run and the newest round that is finished or declined."""

    run: RunId
    last_round: RoundId


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveSeen:
    """Persist the newest that was heard of the coordinator: what is older is refused after a restart, too."""

    seen: Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class SendOffer:
    """Publish the offer; with the payload inside when ``inline`` and it fits."""

    offer: UpdateOffer
    inline: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SendChunks:
    """Publish these chunks of an update in the outbox."""

    update: UpdateId
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkStored:
    """Remember that the coordinator has the payload."""

    update: UpdateId


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleUpdate:
    """A final verdict: what was not applied goes back into the residual; ``misread``: its context may be missing."""

    update: UpdateId
    applied: bool
    misread: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetRun:
    """Another run has begun: drop outbox, residual, task state and model of the old one."""

    run: RunId


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Say something in the log: a stable event key and fields."""

    event: str
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The machine is done: flush, disconnect, leave."""

    reason: str


Effect = (
    PublishState
    | PublishEvent
    | PublishProgress
    | SubscribeSegment
    | UnsubscribeSegment
    | AdoptModel
    | MakeInitialModel
    | StartTraining
    | StartEvaluation
    | StopTraining
    | SaveOutbox
    | SaveProgress
    | SaveSeen
    | SendOffer
    | SendChunks
    | MarkStored
    | SettleUpdate
    | ForgetRun
    | Note
    | Stop
)

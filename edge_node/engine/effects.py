"""What an edge node can do: effects, imperatives."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_node.records import FinishedTraining, Seen
from federation.protocol.messages import (
    Decline,
    EvaluationReport,
    ModelPart,
    ModelRef,
    NodeState,
    Progress,
    Proof,
    RoundAnnouncement,
    UpdateOffer,
)
from federation.protocol.sealed_messages import SealingKey
from federation.protocol.sum_messages import PrivacyTerms
from federation.types import ModelVersion, RoundId, RunId, SampledSteps, UpdateId

__all__ = [
    "AdoptModel",
    "Effect",
    "EnterRun",
    "MakeInitialModel",
    "MarkStored",
    "Note",
    "PublishEvent",
    "PublishProgress",
    "PublishState",
    "SaveOutbox",
    "SaveProgress",
    "SaveSeen",
    "SendChunks",
    "SendOffer",
    "SettleUpdate",
    "StartEvaluation",
    "StartTraining",
    "Stop",
    "StopTraining",
    "SubscribeSegment",
    "UnsubscribeSegment",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishState:
    """Publish the retained node state."""

    state: NodeState


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishEvent:
    """Publish to this node's event topic.

    Attributes:
        message: What.
        reader: Whose key closes it where the run is sealed; None is the coordinator's that leads.
    """

    message: Decline | EvaluationReport | Proof | UpdateOffer
    reader: SealingKey | None = None


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
        attempt: Its number in this process: the same round may be asked for again after another run was heard.
    """

    announcement: RoundAnnouncement
    payload_bytes_max: int | None = None
    attempt: int = 0


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
class SaveSpent:
    """Persist that at least so much was spent in a run."""

    run: RunId
    spent: tuple[SampledSteps, ...]


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
    """Publish these chunks of an update in the outbox, each of ``chunk_bytes`` but for the last."""

    update: UpdateId
    indices: tuple[int, ...]
    chunk_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkStored:
    """Remember that the coordinator has the payload."""

    update: UpdateId


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleUpdate:
    """A final verdict: what was not applied goes back into the residual.

    Attributes:
        update: Whose verdict it is.
        applied: Whether a version has it.
        misread: Its context may be missing at the coordinator.
        unfit: Its own values were refused: neither they nor the residual go into another update [FED-51].
    """

    update: UpdateId
    applied: bool
    misread: bool = False
    unfit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EnterRun:
    """Another run is at hand: hide outbox, residual, task state and model of the former one. Answers `RunEntered`."""

    run: RunId


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Say something in the log: a stable event key and fields."""

    event: str
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """Say what is queued, leave the broker, and come back after so many seconds; 0: come back now."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The machine is done: flush, disconnect, leave."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartEvaluation:
    """Evaluate the held model in the worker; answers `EvaluationFinished` later, through the inbox.

    An evaluation that nobody waits for any more runs to its end, and its result is ignored. With ``uses``, the
    device is offered the model by what it comes to.

    Attributes:
        model: Which version.
        run: Of which run.
        uses: See above.
        hidden: Under which terms the report is masked, and the metrics that it tells; None reports in clear.
    """

    model: ModelRef
    run: RunId
    uses: bool = False
    hidden: tuple[PrivacyTerms, tuple[str, ...]] | None = None


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
    | SaveSpent
    | SaveSeen
    | SendOffer
    | SendChunks
    | MarkStored
    | SettleUpdate
    | EnterRun
    | Note
    | Rest
    | Stop
)

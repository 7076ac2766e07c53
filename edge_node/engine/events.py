"""What can happen to an edge node (events, past tense)."""

from dataclasses import dataclass

from edge_node.engine.effects import Effect
from edge_node.records import FinishedTraining, Held, OutboxEntry
from federation.protocol.messages import (
    Cancel,
    CoordinatorState,
    EvaluationReceipt,
    EvaluationReport,
    Grant,
    Rebirth,
    Receipt,
    RetryAfter,
    RoundAnnouncement,
)
from federation.types import Digest, ModelVersion, RoundId, RunId


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConnected:
    """The connection is up, and subscriptions are sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerDisconnected:
    """The connection is gone."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorStateReceived:
    """Who coordinates; ``payload`` is what was signed."""

    state: CoordinatorState
    payload: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnouncementReceived:
    """A round; ``payload`` is what was signed; ``invited``: it was said to this node alone."""

    announcement: RoundAnnouncement
    payload: bytes = b""
    invited: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChunkReceived:
    """One retained chunk of a model part: version, segment (``k0``, ``d0``, see topics.py), index in the segment."""

    version: ModelVersion
    segment: str
    index: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandReceived:
    """The coordinator's word to this node; ``payload`` as it came."""

    command: Receipt | Grant | Cancel | RetryAfter | Rebirth | EvaluationReceipt
    payload: bytes = b""


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
    attempt: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxSaved:
    """The update and its residual are on disk."""

    entry: OutboxEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEntered:
    """The disk is about this run now.

    Attributes:
        run: Which run.
        held: Its model, or None.
        forgotten: Runs that had to go for it.
    """

    run: RunId
    held: Held | None = None
    forgotten: tuple[RunId, ...] = ()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationFinished:
    """The worker has evaluated a version, or says why it could not: what is to be reported."""

    report: EvaluationReport


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
    | RunEntered
    | StorageFailed
    | StopRequested
)

"""What can happen to the coordinator (events, past tense)."""

from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.engine.claims.events import ClaimsAnswer
from coordinator.engine.masked.events import MaskedAnswer, MaskedNews
from coordinator.records import (
    Attendance,
    Member,
    NodeResult,
    NodesEvaluation,
    RoundRecord,
    TransferRecord,
    UpdateRecord,
    Verdict,
    VersionRecord,
)
from federation.protocol.messages import (
    CoordinatorState,
    Decline,
    EvaluationReport,
    NodeState,
    Progress,
    Reason,
    UpdateOffer,
)
from federation.protocol.sum_messages import PrivacyTerms
from federation.types import ModelVersion, NodeId, SeenRun, UpdateId

__all__ = [
    "Answer",
    "AttendanceNotSaved",
    "AttendanceSaved",
    "BrokerConnected",
    "BrokerDisconnected",
    "BrokerDropped",
    "ChunkReceived",
    "ChunkStored",
    "CommitFailed",
    "CoordinatorStateReceived",
    "DeclineReceived",
    "EnrolledFollowed",
    "Evaluated",
    "Event",
    "FederatedEvaluationClosed",
    "MessageRefused",
    "ModelsRetained",
    "News",
    "NodeStateReceived",
    "OfferReceived",
    "ProgressReceived",
    "ProofReceived",
    "ReportReceived",
    "ResultSaved",
    "RotationDue",
    "RoundSaved",
    "StopRequested",
    "StorageFailed",
    "TransferDropped",
    "TransferOpened",
    "UpdateRejected",
    "UpdateStored",
    "VersionCommitted",
]


ANSWER_WAIT_S = 10.0
"""A broker that does not answer what is subscribed to is waited for so long, in seconds [FED-97]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConnected:
    """The control connection is up: the broker may have lost everything that it retained.

    Attributes:
        answered: Whether the broker has answered what we have subscribed to. Where it has not, the same comes again.
    """

    answered: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerDisconnected:
    """The control connection is gone."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStateReceived:
    """A node's birth, death or activity."""

    node: NodeId
    state: NodeState


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferReceived:
    """A node offers an update.

    Attributes:
        known: The verdict that the store already has for this update id, or None.
        stored: What the store has of it where that is ``stored``.
        asked: What the store knows of the offer's round, or None: the machine remembers only the newest ones.
    """

    node: NodeId
    offer: UpdateOffer
    known: Verdict | None = None
    stored: UpdateRecord | None = None
    asked: RoundRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkReceived:
    """One chunk of a granted transfer."""

    node: NodeId
    update: UpdateId
    index: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunksLost:
    """The data connection has a new session: what nodes have sent before the broker knew it is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclineReceived:
    """A node will not train."""

    node: NodeId
    decline: Decline


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressReceived:
    """What a node is doing; may be lost."""

    node: NodeId
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofReceived:
    """A node shows what this coordinator's own key has signed.

    Attributes:
        proved: What each of them says of who led and how far; an announcement says no start.
    """

    node: NodeId
    proved: tuple[SeenRun, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSaved:
    """A round is on disk: it may be announced."""

    record: RoundRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStored:
    """The update is valid and on disk."""

    update: UpdateId


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRejected:
    """The frame was checked and refused; nothing of it is on disk. ``counted`` are claims that others have made."""

    update: UpdateId
    node: NodeId
    reason: Reason
    detail: str
    counted: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOpened:
    """It is on disk that a large update arrives."""

    transfer: TransferRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferDropped:
    """A large update that stopped arriving is on the disk no more."""

    update: UpdateId


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkStored:
    """A chunk of it is on disk."""

    update: UpdateId
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsRetained:
    """The store keeps these models, and the best one, beside the head's and its predecessor's."""

    versions: frozenset[ModelVersion]
    best: ModelVersion | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionCommitted:
    """The commit's transaction is on disk.

    Attributes:
        record: The new head.
        members: The updates that it is made of.
        delta: The frame of its own delta, if there is one.
        terms: Under which its nodes mask; None where they do not.
    """

    record: VersionRecord
    members: tuple[Member, ...]
    delta: bytes | None = None
    terms: PrivacyTerms | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitFailed:
    """The aggregate was not usable; ``culprits`` must be refused, the rest may be tried again."""

    culprits: tuple[UpdateId, ...]
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageFailed:
    """Nothing can be persisted (disk full, EIO): stop acknowledging and say so."""

    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """The evaluation of a version has ended.

    Attributes:
        version: Which version.
        metrics: What was found: nothing when it failed, or nothing was finite.
        skipped: Nobody has evaluated it, or what was found could not be kept: it says nothing about the version.
    """

    version: ModelVersion
    metrics: Mapping[str, float]
    skipped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportReceived:
    """A node says what it found when it evaluated a version.

    Attributes:
        known: What the store has already of this node and version, or None.
    """

    node: NodeId
    report: EvaluationReport
    known: NodeResult | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultSaved:
    """A node's result is on disk; ``result`` is what is kept."""

    result: NodeResult


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedEvaluationClosed:
    """The mean over the nodes of one version is on disk."""

    evaluation: NodesEvaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class AttendanceSaved:
    """What was seen of nodes is on disk."""

    attendance: Attendance


@dataclass(frozen=True, slots=True, kw_only=True)
class AttendanceNotSaved:
    """It is not; unlike `StorageFailed` this is no reason to pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesEnrolled:
    """Who is enrolled now: everybody else has left the federation.

    Attributes:
        nodes: They.
        digest: Tells this list from others; the snapshot has it once the machine has acted on the list.
    """

    nodes: frozenset[NodeId]
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolledFollowed:
    """What follows opens only for those who are enrolled; ``renewed``: somebody has left, so there is another key."""

    renewed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationDue:
    """The key that nodes seal to is old, or a person asks for another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequested:
    """The operator asks for an orderly stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorStateReceived:
    """The coordinator's own topic says something that this process has not said.

    Attributes:
        state: What; None is nothing readable: it was cleared, or overwritten.
        retained: It stood there before this connection.
    """

    state: CoordinatorState | None
    retained: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerDropped:
    """The broker has dropped this many messages since its start, for whomever (``$SYS``): a queue was full."""

    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRefused:
    """Bytes that are no message: counted, never answered."""

    topic: str
    reason: str


News = (
    BrokerConnected
    | BrokerDisconnected
    | ChunksLost
    | NodeStateReceived
    | OfferReceived
    | ChunkReceived
    | DeclineReceived
    | ReportReceived
    | ProgressReceived
    | ProofReceived
    | MessageRefused
    | BrokerDropped
    | CoordinatorStateReceived
    | NodesEnrolled
    | RotationDue
    | StopRequested
)
"""What happens outside."""

Answer = (
    RoundSaved
    | UpdateStored
    | UpdateRejected
    | ClaimsAnswer
    | TransferOpened
    | TransferDropped
    | ChunkStored
    | VersionCommitted
    | CommitFailed
    | ModelsRetained
    | Evaluated
    | ResultSaved
    | FederatedEvaluationClosed
    | AttendanceSaved
    | AttendanceNotSaved
    | EnrolledFollowed
    | StorageFailed
)
"""What has come of an effect."""

Event = News | Answer | MaskedNews | MaskedAnswer

"""What the coordinator can do: effects, imperatives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from coordinator.engine.claims.effects import ClaimsEffect
from coordinator.engine.masked.effects import MaskedEffect
from coordinator.records import (
    Attendance,
    Member,
    NodeResult,
    NodeSpent,
    ReleaseRecord,
    RoundRecord,
    TransferRecord,
    UpdateRecord,
    Verdict,
    VersionRecord,
)
from federation.protocol.messages import (
    Cancel,
    CoordinatorState,
    EvaluationReceipt,
    Grant,
    ModelPart,
    Rebirth,
    Receipt,
    RetryAfter,
    RoundAnnouncement,
)
from federation.types import ModelVersion, NodeId, RoundId, UpdateId

__all__ = [
    "AcceptFailure",
    "ClearModel",
    "CloseFederatedEvaluation",
    "CloseRound",
    "Command",
    "CommitVersion",
    "DropTransfer",
    "Effect",
    "Evaluate",
    "FollowEnrolled",
    "Invite",
    "Leave",
    "Note",
    "OpenTransfer",
    "OwnEffect",
    "Publication",
    "PublishAnnouncement",
    "PublishModel",
    "PublishState",
    "RetainModels",
    "RotateKey",
    "SaveAttendance",
    "SaveResult",
    "SaveRound",
    "SaveSpent",
    "SaveVerdict",
    "SendCommand",
    "Stop",
    "StoreChunk",
    "StoreTransfer",
    "StoreUpdate",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveRound:
    """Reserve a round id and its cohort on disk, before it is announced. Answers `RoundSaved` or `StorageFailed`."""

    record: RoundRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseRound:
    """Forget the open assignments of these nodes in this round (delivered, expired or given up)."""

    round: RoundId
    nodes: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishState:
    """Publish the retained coordinator state."""

    state: CoordinatorState


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishModel:
    """Publish the retained chunks of the parts of this version that the broker lacks.

    Attributes:
        record: The version.
        lost: The broker has lost those that it had.
        plain: A node that is there reads no frames of the cosine kind: there must be a way without [FED-235].
    """

    record: VersionRecord
    lost: bool = False
    plain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearModel:
    """Remove the retained chunks of all parts that neither the head nor its predecessor lists, nor ``named`` has."""

    head: VersionRecord
    named: tuple[ModelPart, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishAnnouncement:
    """Publish the retained round announcement."""

    announcement: RoundAnnouncement


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """Publish an announcement to the command topics of the nodes that it asks, and to nobody else."""

    nodes: tuple[NodeId, ...]
    announcement: RoundAnnouncement


Command = Receipt | Grant | Cancel | RetryAfter | Rebirth | EvaluationReceipt


@dataclass(frozen=True, slots=True, kw_only=True)
class SendCommand:
    """Publish to one node's command topic."""

    node: NodeId
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreUpdate:
    """Check the frame and persist it. Answers `UpdateStored`, `UpdateRejected` or `StorageFailed`."""

    record: UpdateRecord
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTransfer:
    """Persist that a large update is arriving. Answers `TransferOpened` or `StorageFailed`."""

    transfer: TransferRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreChunk:
    """Persist one chunk. Answers `ChunkStored` or `StorageFailed`."""

    update: UpdateId
    index: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreTransfer:
    """All chunks are here: check the frame and persist it as `StoreUpdate` does, and drop the chunks."""

    record: UpdateRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class DropTransfer:
    """Forget a large update that stopped arriving. Answers `TransferDropped` or `StorageFailed`."""

    update: UpdateId


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveVerdict:
    """Persist a final verdict (stale, refused) before its receipt is sent; no ``record`` when it is stored already."""

    verdict: Verdict
    record: UpdateRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitVersion:
    """Aggregate, step, save blob, one transaction. Answers `VersionCommitted`, `CommitFailed` or `StorageFailed`."""

    version: ModelVersion
    members: tuple[Member, ...]
    reason: str
    plain: bool = False
    """As of `PublishModel`."""
    release: ReleaseRecord | None = None
    """What it costs its members, where the coordinator adds noise: charged in the same transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Evaluate a version in the background; answers `Evaluated` later."""

    version: ModelVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveResult:
    """Persist what a node found, before its receipt is sent. Answers `ResultSaved` or `StorageFailed`."""

    result: NodeResult


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseFederatedEvaluation:
    """Make and persist the mean over the nodes. Answers `FederatedEvaluationClosed` or `StorageFailed`."""

    version: ModelVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class RetainModels:
    """Keep exactly these models, and the best one, beside the head's and its predecessor's.

    Answers `ModelsRetained` or `StorageFailed`.
    """

    versions: frozenset[ModelVersion]
    best: ModelVersion | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveSpent:
    """Raise what is known of a node's privacy budget, before its update is answered; else `StorageFailed`."""

    spent: NodeSpent


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveAttendance:
    """Add what was seen of nodes to what the store knows of them. Answers `AttendanceSaved` or `AttendanceNotSaved`."""

    attendance: Attendance


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearNodeState:
    """Take what the broker retains of a node away: it has left the federation."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowEnrolled:
    """Let only these read what follows. Answers `EnrolledFollowed` or `StorageFailed`."""

    nodes: frozenset[NodeId]


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateKey:
    """Take another key that nodes seal to; the next state says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountIncident:
    """A node has done what it should not; ``kind`` is what ``coordinator status`` calls it."""

    node: NodeId
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Say something in the log: a stable event key and fields."""

    event: str
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptFailure:
    """The machine has heard `StorageFailed`: from here on effects count again.

    What follows a failed save depends on it, so the executor drops every effect between the failure and this one; the
    machine repeats what is still true later.
    """


class Leave(StrEnum):
    """Why this coordinator must leave: a stable reason in its log."""

    FENCED = "fenced"
    """A newer start leads this run."""
    OTHER_RUN = "other_run"
    """The coordinator of another run was there first."""
    REPLACED = "replaced"
    """The coordinator of another run has taken over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The machine is done: flush, disconnect, leave; ``other_run`` leads this federation where that is the reason."""

    reason: str
    other_run: str = ""


Publication = PublishState | PublishModel | ClearModel | PublishAnnouncement | Invite | SendCommand
"""What is said to nodes."""

OwnEffect = (
    SaveRound
    | CloseRound
    | PublishState
    | PublishModel
    | ClearModel
    | PublishAnnouncement
    | Invite
    | SendCommand
    | StoreUpdate
    | OpenTransfer
    | StoreChunk
    | StoreTransfer
    | DropTransfer
    | SaveVerdict
    | CommitVersion
    | Evaluate
    | SaveResult
    | CloseFederatedEvaluation
    | RetainModels
    | SaveAttendance
    | SaveSpent
    | ClaimsEffect
    | ClearNodeState
    | FollowEnrolled
    | RotateKey
    | CountIncident
    | Note
    | AcceptFailure
    | Stop
)
"""What everything needs, masked or not."""

Effect = OwnEffect | MaskedEffect

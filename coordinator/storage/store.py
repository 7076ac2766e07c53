"""What the coordinator keeps across a crash: the values it saves and the interface that every store offers."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from coordinator.records import (
    Attendance,
    Attended,
    BatchRecord,
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
from coordinator.storage.batches import Batches
from coordinator.storage.claims import Claims
from federation.protocol.messages import ModelPart, Reason, ReceiptStatus
from federation.types import Epoch, ModelVersion, NodeId, RoundId, RunId, UpdateId

if TYPE_CHECKING:  # whoever shows a run reads no arrays
    import numpy as np
    from numpy.typing import NDArray

    from update_codec import Manifest, Vectors

__all__ = [
    "Commit",
    "CoordinatorStore",
    "CurveKind",
    "CurvePoint",
    "Figures",
    "ModelState",
    "Participation",
    "UpdateRow",
    "VersionRow",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """The arrays of one committed version.

    Attributes:
        version: Its number.
        shadow: What nodes hold at this version.
        exact: The global model's parameters, float32, shape (D,); None where they equal the shadow's.
        strategy: The strategy's own state: plain arrays by name.
    """

    version: ModelVersion
    shadow: "Vectors"
    exact: "NDArray[np.float32] | None" = None
    strategy: "Mapping[str, NDArray[np.float32]]" = field(default_factory=dict)

    @property
    def parameters(self) -> "NDArray[np.float32]":
        """The exact global parameters, float32, shape (D,)."""
        return self.shadow.parameters if self.exact is None else self.exact


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one version cost.

    Attributes:
        wall_s: Seconds since the version before, or since the first announcement for the first one of a process.
        bytes_up, bytes_down: Bytes from nodes, and to them, in that time, headers included.
    """

    wall_s: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Everything that one commit makes durable in one step.

    Attributes:
        record: The new head.
        model: Its arrays.
        frames: The codec frames of the parts that are new with this version.
        members: The updates that it is made of.
        reason: Why it was committed now.
        figures: What it cost.
        release: What its noise costs its members; None where the coordinator adds none.
    """

    record: VersionRecord
    model: ModelState
    frames: Mapping[ModelPart, bytes]
    members: Sequence[Member] = ()
    reason: str = ""
    figures: Figures = field(default_factory=Figures)
    release: ReleaseRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRow:
    """One version in the history.

    Attributes:
        record: The version.
        reason: Why it was committed when it was.
        figures: What it cost.
        stale, refused: Updates that were found so while it was being made.
        metrics: Its evaluation; empty when there was none.
    """

    record: VersionRecord
    reason: str
    figures: Figures
    stale: int = 0
    refused: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRow:
    """One update in the history.

    Attributes:
        record: What arrived.
        verdict: What became of it.
        staleness: Versions that it lagged behind when it was applied.
        whole: False for one that is compacted: of its record only update, node, round and base version are kept.
    """

    record: UpdateRecord
    verdict: Verdict
    staleness: int = 0
    whole: bool = True


class CurveKind(StrEnum):
    """Whose numbers a point of a curve has."""

    TRAINING = "training"
    """A node's, reported with an update that was applied: they are about the version that it was trained from."""
    NODE = "node"
    """A node's evaluation of the version."""
    NODES = "nodes"
    """The mean of these, weighted by test examples."""
    CENTRAL = "central"
    """The coordinator's own evaluation of the version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """The numbers of one node, or of the whole federation, at one version.

    Attributes:
        kind: Whose numbers; ``version``: for training the one that the update became part of.
        node: The node; None for the whole federation.
        num_examples: Examples behind ``metrics``, the numbers by name (`federation.task.METRIC_NAMES`); 0 is unknown.
        base_version: For training the version that it was trained from.
        counted: For a node's evaluation whether it came in time to count in the mean.
    """

    kind: CurveKind
    version: ModelVersion
    node: NodeId | None = None
    num_examples: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    base_version: ModelVersion | None = None
    counted: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Participation:
    """One node's part in the run.

    Attributes:
        statuses: Updates of ``node`` by status; ``reasons``: stale and refused ones by reason.
        bytes_up: Bytes of its update frames; ``bytes_down``: of the model parts that it pulled.
        staleness_mean: Mean staleness of its applied updates, in versions.
        attended: How it behaved beside them.
    """

    node: NodeId
    statuses: Mapping[ReceiptStatus, int]
    reasons: Mapping[Reason, int]
    bytes_up: int
    bytes_down: int
    staleness_mean: float
    attended: Attended = field(default_factory=Attended)

    def count(self, status: ReceiptStatus) -> int:
        """How many of its updates have this status."""
        return self.statuses.get(status, 0)


class CoordinatorStore(Protocol):
    """The coordinator's durable state, with what gateways claim: used by one thread, owned by one process.

    Every method that changes something raises `StorageError` when it cannot persist, and has then changed nothing.
    """

    @property
    def run(self) -> RunId:
        """Identity of this store."""

    @property
    def epoch(self) -> Epoch:
        """This start's fencing number, already on disk."""

    def manifest(self) -> "Manifest | None":
        """The model's manifest; None before `initialise`."""

    def initialise(self, manifest: "Manifest", first: Commit) -> None:
        """Save the manifest and version 0, in one step.

        Raises:
            LocalProtocolError: There is a version already.
        """

    def recovered(self, *, recent: int) -> RecoveredState:
        """Where the last process left off, with the digests of the ``recent`` newest versions.

        Raises:
            LocalProtocolError: There is no version yet.
        """

    def verdict(self, update: UpdateId) -> Verdict | None:
        """What is known of an update, also as a member of a sum; None when it has never been stored or judged."""

    def stored(self, update: UpdateId) -> UpdateRecord | None:
        """What is kept of an update; None when it is not ``stored``."""

    def reserved(self, round_id: RoundId) -> RoundRecord | None:
        """A reserved round with its rule and version, without its nodes; None where it was never reserved."""

    def save_round(self, record: RoundRecord) -> None:
        """Reserve a round and open its assignments; saving the same record again does nothing.

        Raises:
            LocalProtocolError: The round has been reserved before, for something else.
        """

    def close_round(self, round_id: RoundId, nodes: Sequence[NodeId]) -> None:
        """Forget open assignments. Losing this costs one more lease."""

    def save_update(self, record: UpdateRecord, payload: bytes) -> None:
        """Save an update with its payload as ``stored``, and drop its transfer, in one step.

        Raises:
            LocalProtocolError: The update is known already.
        """

    def save_verdict(self, verdict: Verdict, record: UpdateRecord | None) -> None:
        """Save a final verdict, drop the payload and the transfer; ``record`` for an update that was never stored.

        Saving the same verdict again does nothing.

        Raises:
            LocalProtocolError: The update has another final verdict, or is neither stored nor given.
        """

    def payload(self, update: UpdateId) -> bytes:
        """The codec frame of a stored update, or of an applied one that is kept for the audit.

        Raises:
            DamagedStore: It is not there, or is not what was offered.
            StorageError: It cannot be read.
        """

    def open_transfer(self, transfer: TransferRecord) -> None:
        """Expect a large update in chunks; does nothing when it is expected already."""

    def save_chunk(self, update: UpdateId, index: int, body: bytes) -> None:
        """Save one chunk of an open transfer. Survives a killed process; a power cut may cost its sending again.

        Raises:
            LocalProtocolError: No such transfer is open.
        """

    def transfer_payload(self, update: UpdateId) -> bytes:
        """The payload of a transfer as it has arrived, unchecked.

        Raises:
            StorageError: It is not there or cannot be read.
        """

    def drop_transfer(self, update: UpdateId) -> UpdateId:
        """Forget a large update that stopped arriving; returns its id once nothing of it is left."""

    def commit(self, commit: Commit) -> None:
        """Save a version: the arrays first, then in one step the version, its members ``applied`` and the head.

        Raises:
            LocalProtocolError: It is not the version after the head, or a member is not ``stored``.
        """

    def model(self, version: ModelVersion) -> ModelState:
        """The arrays of the head, of the version before it, or of one that is retained.

        Raises:
            StorageError: They are not there, or their digest is wrong.
        """

    claims: Claims

    @property
    def batches(self) -> Batches:
        """What masked sums keep."""

    def batch(self, version: ModelVersion) -> BatchRecord | None:
        """The masked batch that a version is made of, or will be; None where there is none, or it is too long ago."""

    def sums(self, version: ModelVersion) -> list[bytes]:
        """What helpers answered for a version's batch, by class."""

    def retain(self, versions: Collection[ModelVersion], best: ModelVersion | None) -> None:
        """Keep the arrays of exactly these versions and of the best one, beside the head's and its predecessor's.

        Versions whose arrays are gone already are left out.
        """

    def best(self) -> ModelVersion | None:
        """The best version, which is retained; None before one was named."""

    def frame(self, part: ModelPart) -> bytes:
        """The codec frame of a part that the head or its predecessor lists.

        Raises:
            DamagedStore: It is not there, or is not what the part says.
            StorageError: It cannot be read.
        """

    def replace_parts(self, head: VersionRecord, frames: Mapping[ModelPart, bytes]) -> None:
        """Publish the head in the parts of this record from now on; ``frames`` are those that it did not have so."""

    def obsolete_parts(self, head: VersionRecord) -> tuple[ModelPart, ...]:
        """Parts of neither this head nor its predecessor that have not been marked cleared.

        A node may still be pulling the predecessor's.
        """

    def mark_cleared(self, parts: Sequence[ModelPart]) -> None:
        """Remember that these parts are off the broker. Losing this costs clearing them again."""

    def save_evaluation(self, version: ModelVersion, metrics: Mapping[str, float]) -> None:
        """Remember what an evaluation found; nothing, where it failed, never replaces something.

        Losing this costs a gap in the history.
        """

    def save_node_result(self, result: NodeResult) -> NodeResult:
        """Save what a node found; returns what is kept, which is the node's first word on this version.

        Raises:
            LocalProtocolError: No evaluation of this version was reserved with a round.
        """

    def node_result(self, version: ModelVersion, node: NodeId) -> NodeResult | None:
        """What a node found at a version; None when it has not said."""

    def close_evaluation(self, version: ModelVersion) -> NodesEvaluation:
        """Make the mean over the nodes that count, and save it; a closed one is returned as it is.

        Raises:
            LocalProtocolError: No evaluation of this version was reserved with a round.
        """

    def curves(self) -> list[CurvePoint]:
        """Every number that training and evaluation have given, by version."""

    def history(self) -> list[VersionRow]:
        """All versions in order; their parts are left out."""

    def updates(self) -> Iterator[UpdateRow]:
        """All updates in order of arrival."""

    def save_spent(self, spent: NodeSpent) -> None:
        """Raise what is known of a node's privacy budget; nothing is ever taken back. Raises `StorageError`."""

    def spent(self) -> Mapping[NodeId, NodeSpent]:
        """What nodes have spent under differential privacy."""

    def released(self) -> ReleaseLedger:
        """Each node's part in noised sums."""

    def save_attendance(self, attendance: Attendance) -> None:
        """Add what was seen of nodes. Losing this costs some counts."""

    def participation(self) -> list[Participation]:
        """All nodes that were ever seen or asked, by name: also those that never sent an update."""

    def close(self) -> None:
        """Release the state."""

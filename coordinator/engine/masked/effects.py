"""What masked sums ask for: effects, imperatives."""

from dataclasses import dataclass

from coordinator.records import BatchRecord, ReleaseRecord, Verdict
from federation.privacy.taking import Taking
from federation.protocol.messages import EvaluationReport, Grant
from federation.protocol.sum_messages import SealedSeeds, SumOffer, SumRequest
from federation.types import HelperId, ModelVersion, NodeId, UpdateId

__all__ = [
    "CloseHidden",
    "DropBatch",
    "ForgetSums",
    "FreezeBatch",
    "FreezeEvaluation",
    "HelperCommand",
    "KeepReport",
    "MaskedEffect",
    "RaiseTaking",
    "SendToHelper",
    "StoreSum",
    "StoreSumChunk",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeBatch:
    """Persist who makes the next masked version, before helpers are asked. Answers `BatchFrozen` or `StorageFailed`.

    Attributes:
        batch: They.
        release: What the sum costs them; None without noise.
    """

    batch: BatchRecord
    release: ReleaseRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RaiseTaking:
    """Persist what a helper knows better of a node's part in noised sums. Answers nothing, or `StorageFailed`."""

    node: NodeId
    taking: Taking


@dataclass(frozen=True, slots=True, kw_only=True)
class DropBatch:
    """The batch makes no version: persist that and its members' verdicts. Answers `BatchDropped` or `StorageFailed`."""

    version: ModelVersion
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSumChunk:
    """Keep one chunk of a class's sum; a restart fetches it again. Answers `SumChunkStored` or `StorageFailed`."""

    offer: SumOffer
    index: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetSums:
    """Remove what has arrived of sums that nobody waits for any more. Answers nothing, or `StorageFailed`."""

    transfers: tuple[UpdateId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSum:
    """Check a class's sum, inline or of chunks, and keep it. Answers `SumStored`, `SumRejected` or `StorageFailed`.

    Attributes:
        version: The version that it is for.
        offer: What the helper has promised.
        part: Its number among all sums of the version, see `BatchRecord.requests`.
    """

    version: ModelVersion
    offer: SumOffer
    part: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepReport:
    """Persist a node's masked report until its sum. Answers `ReportKept` or `StorageFailed`."""

    node: NodeId
    report: EvaluationReport


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseHidden:
    """Make the means of masked reports, and persist them. Answers `FederatedEvaluationClosed` or `StorageFailed`.

    Attributes:
        version: Of which version.
        sums: What helpers have answered, one for each class; none: there will be no means.
        metrics: The names of the metrics.
    """

    version: ModelVersion
    sums: tuple[bytes, ...]
    metrics: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeEvaluation:
    """Persist which reports are summed, before helpers are asked. Answers `EvaluationFrozen` or `StorageFailed`."""

    request: SumRequest


HelperCommand = SealedSeeds | SumRequest | Grant


@dataclass(frozen=True, slots=True, kw_only=True)
class SendToHelper:
    """Publish to one helper's command topic."""

    helper: HelperId
    command: HelperCommand


MaskedEffect = (
    FreezeBatch
    | DropBatch
    | StoreSumChunk
    | StoreSum
    | ForgetSums
    | SendToHelper
    | RaiseTaking
    | KeepReport
    | FreezeEvaluation
    | CloseHidden
)
"""What only masked sums need."""

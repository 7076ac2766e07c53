"""What can happen to masked sums (events, past tense)."""

from dataclasses import dataclass

from coordinator.records import BatchRecord, ReleaseRecord, Verdict
from federation.protocol.messages import EvaluationReport
from federation.protocol.sum_messages import Held, HelperState, SumOffer, SumRefusal, SumRequest
from federation.types import HelperId, UpdateId

__all__ = [
    "BatchDropped",
    "BatchFrozen",
    "EvaluationFrozen",
    "HelperSpoke",
    "MaskedAnswer",
    "MaskedNews",
    "ReportKept",
    "SumChunkReceived",
    "SumChunkStored",
    "SumRejected",
    "SumStored",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class HelperSpoke:
    """A helper is there or gone, holds seeds, offers a sum, or refuses one."""

    helper: HelperId
    message: HelperState | Held | SumOffer | SumRefusal


@dataclass(frozen=True, slots=True, kw_only=True)
class SumChunkReceived:
    """One chunk of a granted sum; ``transfer`` is its `transfer_id`."""

    helper: HelperId
    transfer: UpdateId
    index: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFrozen:
    """A batch is on disk, with what it costs its members: helpers may be asked for its sums."""

    batch: BatchRecord
    release: ReleaseRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportKept:
    """A node's masked report is on disk."""

    report: EvaluationReport


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationFrozen:
    """Which masked reports are summed is on disk: helpers may be asked."""

    request: SumRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDropped:
    """It is on disk that a batch makes no version, and what became of its members."""

    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SumChunkStored:
    """A chunk of a class's sum is kept."""

    offer: SumOffer
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SumStored:
    """A class's sum is on disk, and is what its helper has offered."""

    part: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SumRejected:
    """What has arrived is not what the helper has offered: it is asked again."""

    offer: SumOffer
    detail: str


MaskedNews = HelperSpoke | SumChunkReceived
"""What happens outside."""

MaskedAnswer = BatchFrozen | ReportKept | EvaluationFrozen | BatchDropped | SumChunkStored | SumStored | SumRejected
"""What has come of a `MaskedEffect`."""

"""What has come of what claims ask for: events, past tense."""

from dataclasses import dataclass

from coordinator.records import UpdateRecord, Verdict
from federation.types import NodeId, UpdateId

__all__ = ["ClaimedJudged", "ClaimsAnswer", "ClaimsWithdrawn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedJudged:
    """A final verdict is on disk, and nobody else may claim what the update claims."""

    verdict: Verdict
    record: UpdateRecord
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimsWithdrawn:
    """It is on disk that nobody may make these claims; or ``counted`` are those that count, and nothing was changed."""

    node: NodeId
    update: UpdateId
    claims: bytes
    counted: bytes = b""


ClaimsAnswer = ClaimedJudged | ClaimsWithdrawn

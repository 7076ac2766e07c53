"""What claims ask for: effects, imperatives."""

from dataclasses import dataclass

from coordinator.records import UpdateRecord, Verdict
from federation.types import NodeId, UpdateId

__all__ = ["ClaimsEffect", "JudgeClaimed", "WithdrawClaims"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeClaimed:
    """Persist a final verdict with what the update claims, in one step, unless some of that counts in another update.

    Answers `ClaimedJudged`, `UpdateRejected` for the reason ``counted``, or `StorageFailed`.

    Attributes:
        verdict: Stale or refused.
        record: The update, which is not stored.
        detail: What the log says beside the reason.
    """

    verdict: Verdict
    record: UpdateRecord
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WithdrawClaims:
    """Persist that no sum may make any of these claims any more, unless one of them counts.

    Answers `ClaimsWithdrawn` or `StorageFailed`.

    Attributes:
        node: The gateway that asks.
        update: By which name it asks.
        claims: Of the updates that it asks for.
    """

    node: NodeId
    update: UpdateId
    claims: bytes


ClaimsEffect = JudgeClaimed | WithdrawClaims
"""What becomes of claims."""

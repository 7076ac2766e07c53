"""The values that a gateway's machine, store and executor hand to each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator.records import Member, RecoveredState, Verdict
from federation.protocol.messages import Reason, ReceiptStatus, RoundAnnouncement
from federation.types import ModelVersion, NodeId, RoundId, UpdateId, update_id

__all__ = ["Order", "RecoveredSite", "SiteSum", "verdicts_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the federation above asks of the site.

    Attributes:
        announcement: What was announced there, with the model that the gateway holds.
        attempt: Comes back with the answer; None after a restart, when nobody waits for it yet.
    """

    announcement: RoundAnnouncement
    attempt: int | None = None

    @property
    def round(self) -> RoundId:
        """Its round above, and below."""
        return self.announcement.round

    @property
    def version(self) -> ModelVersion:
        """The version that the site trains from."""
        return self.announcement.model.version

    def update(self, gateway: NodeId) -> UpdateId:
        """The one update that the gateway owes for it."""
        return update_id(self.round, gateway)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSum:
    """Updates of a site that have become one for the federation above; frozen until its verdict.

    Attributes:
        update: What it is called above.
        round: For which round above.
        base_version: The version that all of them were trained from.
        members: The updates.
        num_examples: Their examples together.
        train_s: Seconds from the order to here.
        metrics: The mean of what the nodes report, by examples.
        reason: Why it was frozen when it was.
        frame: The exact sum; b"" before it is made.
    """

    update: UpdateId
    round: RoundId
    base_version: ModelVersion
    members: tuple[Member, ...]
    num_examples: int
    train_s: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str
    frame: bytes = field(default=b"", repr=False)

    @property
    def updates(self) -> frozenset[UpdateId]:
        """Its members' ids."""
        return frozenset(member.update for member in self.members)


def verdicts_of(
    made: SiteSum, status: ReceiptStatus, reason: Reason, version: ModelVersion | None
) -> tuple[Verdict, ...]:
    """The verdict from above, for each member."""
    return tuple(
        Verdict(update=member.update, node=member.node, status=status, reason=reason, version=version)
        for member in made.members
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveredSite(RecoveredState):
    """What the coordinator below needs to go on, and what is owed above.

    Attributes:
        gateway: Who the gateway is above.
        order: The newest order, whether it was answered or not.
        frozen: Sums without a verdict.
        lifts: How many times it has lifted itself above what newcomers had heard, each time soon after the last.
    """

    gateway: NodeId
    order: Order | None = None
    frozen: tuple[SiteSum, ...] = ()
    lifts: int = 0

"""What can happen to a helper, and what it can do about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from federation.privacy.releases import Taking
from federation.privacy.seeds import HeldSeeds
from federation.protocol.enumerations import Presence, SumReason
from federation.protocol.messages import CoordinatorState, Grant
from federation.protocol.sum_messages import Held, SealedSeeds, SumRefusal, SumRequest
from federation.types import Digest, NodeId
from sum_helper.records import AnsweredBatch, Charge, HeldUpdate, Member, Released

__all__ = [
    "BrokerConnected",
    "ComputeSum",
    "CoordinatorHeard",
    "Effect",
    "Event",
    "GrantReceived",
    "HoldSeeds",
    "LookUp",
    "MembersFound",
    "Note",
    "OfferSums",
    "PublishEvent",
    "PublishState",
    "RequestReceived",
    "SaveSums",
    "SeedsReceived",
    "SendChunks",
    "Stop",
    "StopRequested",
    "SumsComputed",
    "SumsSaved",
    "Sweep",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConnected:
    """The broker accepted us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorHeard:
    """``srv`` was published."""

    state: CoordinatorState


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedsReceived:
    """Seeds came for an update; ticket and box have been verified and opened, as far as they could be.

    Attributes:
        sealed: What came.
        ticket: Digest of its ticket.
        update: As the ticket tells it, and its seeds; None where they cannot be taken:
        reason: why.
        known: Digest of the ticket that is held, or was used, under this update's name; None is none.
        base: The digest under which this base version is known; None is none.
        oldest: Updates of an older base are not taken any more.
        held: How many updates are held.
        taking: The node's part in the noised sums of this run; None where it was in none.
        releases: How many of these there were.
    """

    sealed: SealedSeeds
    ticket: Digest
    update: tuple[HeldUpdate, HeldSeeds] | None
    reason: SumReason
    known: Digest | None
    base: Digest | None
    oldest: int
    held: int
    taking: Taking | None = None
    releases: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestReceived:
    """A sum is asked for."""

    request: SumRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class MembersFound:
    """What the store and the register know of a request, now.

    Attributes:
        request: Which.
        members: By ticket digest; who is missing is not known.
        registered: The nodes of the own register.
        batch: The batch, if it was answered before.
        released: The noised sums of its run.
    """

    request: SumRequest
    members: Mapping[Digest, Member]
    registered: frozenset[NodeId]
    batch: AnsweredBatch | None
    released: Released = field(default_factory=Released)


@dataclass(frozen=True, slots=True, kw_only=True)
class SumsComputed:
    """The adding thread is done; nothing was told to anybody yet."""

    request: SumRequest
    sums: Mapping[int, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SumsSaved:
    """Members are used, and the answers are on disk."""

    request: SumRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantReceived:
    """Chunks of a sum are wanted."""

    grant: Grant


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequested:
    """Somebody wants this process to end."""


Event = (
    BrokerConnected
    | CoordinatorHeard
    | SeedsReceived
    | RequestReceived
    | MembersFound
    | SumsComputed
    | SumsSaved
    | GrantReceived
    | StopRequested
)
"""Everything that the machine is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishState:
    """Publish the retained state, with the newest key."""

    presence: Presence


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishEvent:
    """Publish to the helper's event topic."""

    message: Held | SumRefusal


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldSeeds:
    """Write an update and its seeds down."""

    update: HeldUpdate
    seeds: HeldSeeds


@dataclass(frozen=True, slots=True, kw_only=True)
class LookUp:
    """Find what is known of a request's members; the answer is `MembersFound`."""

    request: SumRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeSum:
    """Add the masks of these classes; the answer is `SumsComputed`. ``release`` numbers the noised sums of the run."""

    request: SumRequest
    classes: tuple[int, ...]
    release: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveSums:
    """In one transaction: members used, ledger charged, seeds deleted, answers kept; the answer is `SumsSaved`.

    Attributes:
        request: Whose members.
        sums: By class.
        charge: What it costs the members; it is paid for once.
    """

    request: SumRequest
    sums: Mapping[int, bytes] = field(repr=False)
    charge: Charge


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferSums:
    """Offer answers that are on disk."""

    request: SumRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class SendChunks:
    """Send chunks of an answer, as granted."""

    grant: Grant


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Delete seeds and keys that are too old, and make a new key when it is time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Tell the operator."""

    event: str
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Leave the loop."""


Effect = (
    PublishState
    | PublishEvent
    | HoldSeeds
    | LookUp
    | ComputeSum
    | SaveSums
    | OfferSums
    | SendChunks
    | Sweep
    | Note
    | Stop
)
"""Everything that the machine asks for."""

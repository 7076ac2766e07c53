"""What happens between the two roles of a gateway: events, past tense, and effects, imperatives."""

from dataclasses import dataclass

import coordinator.engine.effects as below
import coordinator.engine.events as below_events
import edge_node.engine.effects as above
import edge_node.engine.events as above_events
from coordinator.records import Verdict
from federation.protocol.messages import EvaluationReport, ModelRef, Reason, Receipt, ReceiptStatus, UpdateOffer
from federation.types import Epoch, ModelVersion, RoundId, RunId, UpdateId
from site_gateway.records import Order, SiteSum

__all__ = [
    "AboveEffect",
    "AboveEvent",
    "AnswerEvaluation",
    "AnswerOrder",
    "AskAbove",
    "BelowEffect",
    "BelowEvent",
    "BindSum",
    "EvaluationAsked",
    "EvaluationSummed",
    "FateReceived",
    "ForgetUpdate",
    "FreezeSum",
    "GatewayEffect",
    "GatewayEvent",
    "LiftSite",
    "LinkChanged",
    "NameSum",
    "OrderEnded",
    "OrderReceived",
    "OrderSaved",
    "RefuseOrder",
    "ReleaseVerdict",
    "RunEnded",
    "SaveOrder",
    "SettleSum",
    "SiteEffect",
    "SiteEvent",
    "SiteLifted",
    "SumBound",
    "SumEvaluation",
    "SumFrozen",
    "SumNamed",
    "SumSettled",
    "SumSpoilt",
    "SumThawed",
    "ThawSum",
    "VerdictReceived",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderReceived:
    """The federation above asks the site to train; ``outstanding`` are the sums that may be known there."""

    order: Order
    outstanding: frozenset[UpdateId] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderEnded:
    """Nobody above waits for the answer any more."""

    round: RoundId


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictReceived:
    """The final word from above on a sum; ``counted`` are claims of members that count elsewhere."""

    update: UpdateId
    status: ReceiptStatus
    reason: Reason = Reason.NONE
    version: ModelVersion | None = None
    counted: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class FateReceived:
    """What became of an update that was asked for above."""

    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """The federation above has made its last version; ``outstanding`` as in `OrderReceived`."""

    outstanding: frozenset[UpdateId] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkChanged:
    """The broker above can be reached now, or cannot."""

    up: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationAsked:
    """The federation above asks what a version is worth at the site.

    Attributes:
        model: Which version.
        run: Of which run.
        expected: The node above does not hold it yet, and nothing is to be done before it does.
    """

    model: ModelRef
    run: RunId
    expected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSummed:
    """What the site's nodes have found, in one report."""

    report: EvaluationReport


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderSaved:
    """An order is on disk: nodes may be asked."""

    order: Order


@dataclass(frozen=True, slots=True, kw_only=True)
class SumFrozen:
    """Members and sum are on disk, under the name that the sum has above."""

    made: SiteSum


@dataclass(frozen=True, slots=True, kw_only=True)
class SumSpoilt:
    """No sum can be made with this update."""

    culprit: UpdateId
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SumBound:
    """A sum has the name of another round now, on disk."""

    former: UpdateId
    made: SiteSum


@dataclass(frozen=True, slots=True, kw_only=True)
class SumSettled:
    """All members have their verdict, on disk."""

    update: UpdateId
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SumThawed:
    """A sum is none any more, on disk: these members are gone, the others may be in another one."""

    update: UpdateId
    gone: tuple[UpdateId, ...]
    counted: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteLifted:
    """The next process has higher numbers, on disk: this one ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SumNamed:
    """What a frozen sum claims; b"" where it does not know all its members by name."""

    made: SiteSum
    claims: bytes


SiteNews = (
    (OrderReceived | OrderEnded | VerdictReceived | FateReceived | RunEnded)
    | LinkChanged
    | EvaluationAsked
    | EvaluationSummed
)
SiteAnswer = OrderSaved | SumFrozen | SumSpoilt | SumBound | SumSettled | SumThawed | SumNamed | SiteLifted
SiteEvent = SiteNews | SiteAnswer
"""What the coordinator below hears beside its own events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveOrder:
    """Persist what is asked for, before any node is asked. Answers `OrderSaved` or `StorageFailed`."""

    order: Order


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeSum:
    """Add the members, and persist them with their sum in one step.

    Answers `SumFrozen`, `SumSpoilt` or `StorageFailed`.
    """

    made: SiteSum


@dataclass(frozen=True, slots=True, kw_only=True)
class BindSum:
    """Persist that a sum answers another order; nobody has heard of its former name. Answers `SumBound`."""

    former: UpdateId
    made: SiteSum


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleSum:
    """Give all members the verdict, in one step. Answers `SumSettled` or `StorageFailed`."""

    update: UpdateId
    base_version: ModelVersion
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThawSum:
    """Undo a frozen sum, and forget those of its members that count elsewhere, in one step.

    Answers `SumThawed` or `StorageFailed`.
    """

    update: UpdateId
    counted: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NameSum:
    """Look up what a frozen sum claims. Answers `SumNamed` or `StorageFailed`."""

    made: SiteSum


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetUpdate:
    """Forget an update that is stored, and in no sum."""

    update: UpdateId


@dataclass(frozen=True, slots=True, kw_only=True)
class AskAbove:
    """Ask the federation above what became of an update."""

    offer: UpdateOffer


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOrder:
    """Hand a frozen sum to the node above, which trains no other way."""

    order: Order
    made: SiteSum


@dataclass(frozen=True, slots=True, kw_only=True)
class RefuseOrder:
    """Tell the node above that the site cannot do it."""

    order: Order
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseVerdict:
    """The site knows the verdict on a sum: the update above may be settled."""

    update: UpdateId


@dataclass(frozen=True, slots=True, kw_only=True)
class SumEvaluation:
    """Add up what the site's nodes have found. Answers `EvaluationSummed` or `StorageFailed`."""

    asked: EvaluationAsked


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerEvaluation:
    """Hand the site's report to the node above, which evaluates no other way."""

    report: EvaluationReport


@dataclass(frozen=True, slots=True, kw_only=True)
class LiftSite:
    """Have the next process count its epochs from above this one, and its rounds from this one.

    ``lifts`` is how many followed each other soon, this one too. Where it ``forgets_order`` the next process waits for
    the federation above to ask. Answers `SiteLifted` or `StorageFailed`.
    """

    epoch: Epoch
    next_round: RoundId
    lifts: int
    forgets_order: bool = False


KeptEffect = SaveOrder | FreezeSum | BindSum | SettleSum | ThawSum | NameSum | ForgetUpdate | LiftSite
SiteEffect = (KeptEffect | AnswerOrder | RefuseOrder | ReleaseVerdict | AskAbove) | SumEvaluation | AnswerEvaluation
"""What the coordinator below asks for beside its own effects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AboveEvent:
    """Something happened to the node above."""

    event: above_events.Event


@dataclass(frozen=True, slots=True, kw_only=True)
class BelowEvent:
    """Something happened to the coordinator below."""

    event: below_events.Event | SiteEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class AboveEffect:
    """The node above asks for something."""

    effect: above.Effect


@dataclass(frozen=True, slots=True, kw_only=True)
class BelowEffect:
    """The coordinator below asks for something."""

    effect: below.Effect | SiteEffect


GatewayEvent = AboveEvent | BelowEvent
GatewayEffect = AboveEffect | BelowEffect

"""The values that the coordinator's machine, store and executor hand to each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from federation.privacy.taking import NOBODY_YET, NOT_DRAWN, Drawn, Plan, Taking
from federation.protocol.messages import Cohort, ModelPart, Reason, ReceiptStatus
from federation.protocol.sum_messages import MaskedReport, PrivacyTerms, SumRequest
from federation.types import (
    Digest,
    Epoch,
    ExamplePrivacy,
    Incarnation,
    ModelVersion,
    NodeId,
    RoundId,
    RunId,
    SampledSteps,
    UpdateId,
)

SMALLER_IS_BETTER = ("loss", "error", "mse", "mae", "rmse", "perplexity")
"""A metric whose name holds one of these is better when it is smaller."""


class Goal(StrEnum):
    """Which value is better."""

    MAX = "max"
    MIN = "min"


def goal_of(metric: str) -> Goal:
    """Which value of a metric is better, by its name."""
    return Goal.MIN if any(word in metric.lower() for word in SMALLER_IS_BETTER) else Goal.MAX


METRIC_MAX = 1e100
"""Largest magnitude of a number that a node reports: sums of these do not overflow."""


def believable(metrics: Mapping[str, float]) -> dict[str, float]:
    """What may be kept of the numbers that a node reports: an accuracy from 0 to 1, and nothing beyond `METRIC_MAX`."""
    ends = {name: (0.0, 1.0) if "accuracy" in name.lower() else (-METRIC_MAX, METRIC_MAX) for name in metrics}
    return {name: value for name, value in metrics.items() if ends[name][0] <= value <= ends[name][1]}


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRecord:
    """One committed global model; the arrays are in the store's blob.

    Attributes:
        version: Its number; ``digest``: `Vectors.digest` of what nodes hold at it (the shadow).
        previous: The predecessor's digest; b"" for version 0.
        manifest_digest: Digest of the manifest.
        seed: Of `Task.initial_parameters` for version 0, while the deltas of ``parts`` reach back to it; else None.
        parts: The parts that are published with this version (its keyframe, its delta, older parts still retained).
        accepted: Updates in it.
    """

    version: ModelVersion
    digest: Digest
    previous: Digest
    manifest_digest: Digest
    seed: int | None = None
    parts: tuple[ModelPart, ...] = ()
    accepted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """One reserved announcement.

    Attributes:
        round: Its number; never used twice.
        version: The model version that it asks to train from.
        nodes: The chosen nodes: one slot each.
        cohort: The rule that was announced.
        evaluation: The share of the nodes that evaluate the version, one for all of its rounds; None asks nobody.
    """

    round: RoundId
    version: ModelVersion
    nodes: tuple[NodeId, ...]
    cohort: Cohort
    evaluation: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedSeeds:
    """What comes with a masked update for the helpers, who alone can read it.

    Attributes:
        ticket: The node's signed `Ticket`, as it came.
        boxes: The seeds, sealed to one helper each, by the order of the helpers' keys.
    """

    ticket: bytes
    boxes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenEvaluation:
    """Masked reports on a version that wait for their sum; ``request`` is for it, once that is frozen."""

    version: ModelVersion
    reports: Mapping[NodeId, MaskedReport]
    request: SumRequest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRecord:
    """An update as the store keeps it, without payload, a masked one's ``seeds``, and claims of its ``members``."""

    update: UpdateId
    node: NodeId
    round: RoundId
    base_version: ModelVersion
    num_examples: int
    codec: str
    payload_bytes: int
    payload_digest: Digest
    fetched_bytes: int = 0
    train_s: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    seeds: MaskedSeeds | None = None
    members: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of an update."""

    update: UpdateId
    node: NodeId
    status: ReceiptStatus
    reason: Reason = Reason.NONE
    version: ModelVersion | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One update of a commit, and its staleness in versions."""

    update: UpdateId
    node: NodeId
    num_examples: int
    staleness: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord:
    """The members of a masked version, frozen before any helper is asked: never others for the same request.

    Attributes:
        version: The version that they will make.
        request: What helpers are asked for; it names all classes.
        members: The members; ``reason`` is why now.
        others: What they are asked for of the further groups, where the members are in groups with a sum each.
    """

    version: ModelVersion
    request: SumRequest
    members: tuple[Member, ...]
    reason: str
    others: tuple[SumRequest, ...] = ()

    @property
    def requests(self) -> tuple[SumRequest, ...]:
        """All groups'; the sum of class c of group g has the number g times the classes plus c."""
        return self.request, *self.others

    @property
    def updates(self) -> frozenset[UpdateId]:
        """Its members' ids."""
        return frozenset(member.update for member in self.members)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRecord:
    """A large update that is still arriving; ``arrived`` are the chunk indices on disk."""

    record: UpdateRecord
    chunk_bytes: int
    arrived: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeResult:
    """What one node found when it evaluated one version; the first word of a node stays.

    Attributes:
        node: Who evaluated ``version``.
        num_examples: Local test examples: the weight; 0 when it has not evaluated.
        metrics: The task's own numbers.
        reason: Why it has not evaluated; ``evaluate_s``: seconds of the evaluation.
        counted: Whether it came in time to count in the mean over the nodes.
        nodes: Of a gateway: so many nodes of its site have evaluated; the metrics are their means.
    """

    version: ModelVersion
    node: NodeId
    num_examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    evaluate_s: float = 0.0
    reason: str = ""
    counted: bool = True
    nodes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Attended:
    """How one node behaved beside the updates that it sent, over the whole run.

    Attributes:
        incarnation: Its boot number when it was last seen; None before.
        restarts: How often it has started again since the run first saw it; starts that nobody saw count, too.
        asked: How often it was asked to train.
        absences: Why it did not, in its own words or the coordinator's, and how often.
    """

    incarnation: Incarnation | None = None
    restarts: int = 0
    asked: int = 0
    absences: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attendance:
    """What was seen of nodes since this was last saved.

    Attributes:
        incarnations: Newest boot number of the nodes that came online.
        absences: Why nodes did not train, and how often.
    """

    incarnations: Mapping[NodeId, Incarnation] = field(default_factory=dict)
    absences: Mapping[NodeId, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesEvaluation:
    """The evaluation of one version on the nodes.

    Attributes:
        version: The version.
        share: Who is asked: nodes whose hash for this version is below it.
        closed: Whether its mean is final.
        nodes: Nodes that count in the mean.
        num_examples: Their test examples.
        metrics: The mean, weighted by test examples; empty while it is open, or when nobody evaluated.
        medians: The median of the same, the worse of two in the middle: what decides. Empty where an earlier
            release has closed it.
    """

    version: ModelVersion
    share: int
    closed: bool = False
    nodes: int = 0
    num_examples: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    medians: Mapping[str, float] = field(default_factory=dict)

    @property
    def decisive(self) -> Mapping[str, float]:
        """By what the best version and the end of the run are decided: one report alone must not."""
        return self.medians or self.metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """One time that the run was begun again from a backup: what came after the backup is lost.

    Attributes:
        epoch: Higher than that of any start before; the starts that follow count up from it.
        version: The backup's newest version.
        first_round: The first round that the backup did not know.
        next_round: The first round number that is given out since: those between may have been announced.
    """

    epoch: Epoch
    version: ModelVersion
    first_round: RoundId
    next_round: RoundId


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpent:
    """What is known of one node's privacy budget.

    Attributes:
        node: Whose.
        steps: All that it has spent in this run, of each kind.
        round: The newest round of which an update was charged.
        privacy: What it was asked for last: budget and delta are in it.
    """

    node: NodeId
    steps: tuple[SampledSteps, ...]
    round: RoundId
    privacy: ExamplePrivacy


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRecord:
    """What a noised sum costs its members; on disk before anybody hears of it, or with the version that it makes.

    Attributes:
        release: Its number among the noised sums of the run, from 0.
        batch: Whose, for ``version``; ``noise`` is one helper's standard deviation, in units of ``clip``.
        epsilon: Budget of each node, at ``delta``; ``prices`` are what each pays, as mu^2, under ``plan``.
    """

    release: int
    batch: Digest
    version: ModelVersion
    noise: float
    clip: float
    epsilon: float
    delta: float
    prices: Mapping[NodeId, float]
    plan: Plan | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseLedger:
    """The noised sums of a run, as this store knows them.

    Attributes:
        releases: How many there were, the next one's number, and ``own`` of them with the coordinator's own noise.
        takings: Each node's part, and ``floor`` that of a node which is not known: after a restore.
        epsilon: Budget of each at ``delta``, of the newest sum; None where there was none.
        drawn: How much noise there was.
    """

    releases: int = 0
    own: int = 0
    takings: Mapping[NodeId, Taking] = field(default_factory=dict)
    floor: Taking = NOBODY_YET
    epsilon: float | None = None
    delta: float | None = None
    drawn: Drawn = NOT_DRAWN


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveredState:
    """Everything the machine needs to go on where the store was left.

    Attributes:
        run: Identity of the store; ``epoch`` is this start's fencing number, already on disk.
        head: The newest committed version.
        recent: Digests of the versions that an update may still be based on, head included.
        next_round: The first round number that has never been reserved.
        newest: The highest version that this store ever had; after a repair it is above the head. None is the head's.
        open_rounds: Rounds whose assignments were neither delivered nor given up.
        delivered: Updates of those rounds that are already here (their slots are free).
        stored: Updates receipted ``stored`` and not yet in a version, in order of arrival.
        transfers: Large updates still arriving.
        evaluated: What the coordinator's own evaluations found, by version.
        surveyed: The evaluations on the nodes, in order.
        reported: The nodes whose results of the last of these are here, with their examples.
        masked_reports: Under masks those that wait for their sum.
        began_ms: When the store was made, in ms since 1970: it orders runs. ``nodes_seen`` is how many ever were.
        retained: Versions whose models are kept beside the head's and its predecessor's; ``best`` is one of these.
        restored: The newest time that the run was begun again from a backup; None is never.
        inputs: What the run's inputs and targets mean; None where it was not known when it began.
        batch: The masked batch that is frozen and in no version yet; ``sums`` are its classes whose sums are here.
        terms: Under which the head's nodes mask; None where they do not.
        spent: What nodes have spent under differential privacy.
        released: The noised sums.
    """

    run: RunId
    epoch: Epoch
    head: VersionRecord
    recent: Mapping[ModelVersion, Digest]
    next_round: RoundId
    open_rounds: tuple[RoundRecord, ...] = ()
    delivered: frozenset[UpdateId] = frozenset()
    stored: tuple[UpdateRecord, ...] = ()
    transfers: tuple[TransferRecord, ...] = ()
    evaluated: Mapping[ModelVersion, Mapping[str, float]] = field(default_factory=dict)
    surveyed: tuple[NodesEvaluation, ...] = ()
    reported: Mapping[NodeId, int] = field(default_factory=dict)
    masked_reports: tuple[HiddenEvaluation, ...] = ()
    began_ms: int | None = None
    nodes_seen: int = 0
    retained: frozenset[ModelVersion] = frozenset()
    best: ModelVersion | None = None
    restored: Restored | None = None
    inputs: str | None = None
    newest: ModelVersion | None = None
    batch: BatchRecord | None = None
    sums: frozenset[int] = frozenset()
    terms: PrivacyTerms | None = None
    spent: Mapping[NodeId, NodeSpent] = field(default_factory=dict)
    released: ReleaseLedger = field(default_factory=ReleaseLedger)

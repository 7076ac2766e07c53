"""The messages of the protocol, frozen values; others are in `sum_messages` and `sealed_messages` (PROTOCOL.md)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from federation.protocol.enumerations import Activity, PartKind, Presence, Reason, ReceiptStatus
from federation.protocol.sealed_messages import KeyWrap, PartsSeal, Sealed, SealingKey
from federation.protocol.site_messages import SiteReport
from federation.protocol.sum_messages import MaskedEvaluation, MaskedReport, PrivacyTerms, SumMessage
from federation.protocol.task_messages import TaskReport
from federation.types import (
    Digest,
    Epoch,
    ExamplePrivacy,
    Incarnation,
    ModelVersion,
    RoundId,
    RunId,
    SampledSteps,
    SeenRun,
    Start,
    StateId,
    UpdateId,
)

__all__ = [
    "Activity",
    "Cancel",
    "Cohort",
    "CoordinatorState",
    "Decline",
    "EvaluationReceipt",
    "EvaluationReport",
    "Grant",
    "Message",
    "ModelPart",
    "ModelRef",
    "NodeState",
    "PartKind",
    "Presence",
    "Progress",
    "Proof",
    "Reason",
    "Rebirth",
    "Receipt",
    "ReceiptStatus",
    "RetryAfter",
    "RoundAnnouncement",
    "TrainSettings",
    "UpdateOffer",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How to train locally; a node's own config sets the bounds within which it obeys.

    Attributes:
        local_epochs: Passes over the local data.
        batch_size: Examples per step; 0 is the whole local data set. With ``privacy`` what a step's sum is divided by.
        learning_rate: Step size of local SGD.
        momentum: Momentum of local SGD; ``weight_decay``: its L2 penalty.
        max_steps: Steps after which local training stops; 0 is no limit.
        proximal_mu: Weight of FedProx's term mu/2 * |w - w_base|^2 (arXiv 1812.06127); 0 is none.
        seed: Seed of the round: nodes derive their shuffle from it and their id.
        extra: Further numbers that a user's own task understands.
        privacy: How each example is protected; None is not at all.
    """

    local_epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    max_steps: int = 0
    proximal_mu: float = 0.0
    seed: int = 0
    extra: Mapping[str, float] = field(default_factory=dict)
    privacy: ExamplePrivacy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPart:
    """One retained piece of the global model, pulled by nodes.

    Attributes:
        kind: Keyframe (the whole model) or delta (against ``version - 1``).
        version: The model version that holding this part leads to.
        payload_bytes: Size of the codec frame, in bytes; ``payload_digest`` is BLAKE2b-128 of it.
        chunk_bytes: Body size of every chunk but the last.
    """

    kind: PartKind
    version: ModelVersion
    payload_bytes: int
    payload_digest: Digest
    chunk_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """The global model that an announcement is about.

    Attributes:
        version: Its version; ``digest``: `update_codec.Vectors.digest` of exactly what nodes hold at it.
        manifest_digest: Digest of the model's manifest (names, shapes, dtypes).
        seed: Gives version 0 by `Task.initial_parameters`, as long as ``parts`` lists every delta since; else None.
        parts: Retained parts from which the version can be reached, at most 16.
        delta: The payload of the newest delta among ``parts``, where it is small and most nodes would pull it, or None.
        inputs_digest: Names what the model's inputs mean (`CoordinatorState.inputs`); None where nobody has said it.
    """

    version: ModelVersion
    digest: Digest
    manifest_digest: Digest
    seed: int | None
    parts: tuple[ModelPart, ...]
    delta: bytes | None = None
    inputs_digest: Digest | None = None

    @property
    def newest_delta(self) -> ModelPart | None:
        """The part that leads from the version before to this one, where it is listed."""
        return next((part for part in self.parts if (part.kind, part.version) == (PartKind.DELTA, self.version)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Who is asked to train: a rule that every reader evaluates by itself (cohort.py); exactly one of the two is set.

    Attributes:
        fingerprints: Concatenated 4-byte fingerprints of the chosen nodes, sorted, at most 600 of them; b"" is nobody.
        share: Nodes whose 64-bit salted hash is below this number; 2**64 - 1 is everybody; None uses ``fingerprints``.
    """

    fingerprints: bytes = b""
    share: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorState:
    """``srv``, retained and the coordinator's will: who coordinates, and whether it is there.

    Attributes:
        presence: Whether it is there.
        run: The store that it works on.
        epoch: Fencing number of this start; of two with one epoch the higher ``start`` leads. None is an older peer.
        protocol_min: Oldest protocol that it reads; ``protocol_max`` is the newest.
        began_ms: When the run's store was made, in milliseconds since 1970: it only orders runs. None: nobody asks.
        inputs: What the run's inputs and targets mean (`federation.inputs.Inputs`); None where it is not known.
        seal: What nodes seal to; None: the run is not sealed.
        births_s: Nodes spread the births that this start makes them say over so many seconds; None is their own time.
        pace_s: Nodes that owe nothing leave, and come back after about so many seconds; None: they stay connected.
    """

    presence: Presence
    run: RunId
    epoch: Epoch
    protocol_min: int
    protocol_max: int
    began_ms: int | None = None
    start: Start | None = None
    inputs: str | None = None
    seal: SealingKey | None = None
    births_s: float | None = None
    pace_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundAnnouncement:
    """``round``, retained: the current round; at most 4 KiB for a fleet of any size. ``n/{node}/cmd``: an invitation.

    Attributes:
        epoch: Fencing: a node ignores an announcement of an older epoch than it has seen in this run.
        round: This announcement's number.
        task: Name of the task, for the log and for a node that is configured for another one.
        codec: The update codec spec, such as ``edge``.
        min_base_version: Updates from older versions will be stale: a node may stop such work.
        lease_s: How long an assignment lasts, in seconds from reading this.
        spread_s: A node waits a random time up to this before it reacts, in seconds.
        final: The run has ended: nothing follows.
        evaluation: Nodes whose evaluation hash for this version is below it evaluate the model, whoever trains (see
            cohort.py); 2**64 - 1 is everybody, None is nobody. All announcements of a version say the same.
        start_low: The low 32 bits of the start that announces (`CoordinatorState`); None is an older peer.
        privacy: Updates are masked under these terms; None: they are not. ``seal``: how the model's parts are sealed.
        masked_evaluation: In the place of ``evaluation`` where nodes mask: their metrics are told only as sums.
    """

    run: RunId
    epoch: Epoch
    round: RoundId
    task: str
    model: ModelRef
    cohort: Cohort
    settings: TrainSettings
    codec: str
    min_base_version: ModelVersion
    lease_s: float
    spread_s: float
    final: bool = False
    evaluation: int | None = None
    start_low: int | None = None
    privacy: PrivacyTerms | None = None
    seal: PartsSeal | None = None
    masked_evaluation: MaskedEvaluation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """``n/{node}/state``, retained and its will: one life (``state_id``, ``incarnation``), device, seen and spent."""

    presence: Presence
    incarnation: Incarnation
    protocol_min: int
    protocol_max: int
    task: str = ""
    device: str = ""
    codecs: tuple[str, ...] = ()
    activity: Activity = Activity.IDLE
    round: RoundId | None = None
    capabilities: Mapping[str, float] | None = None
    state_id: StateId | None = None
    seen: SeenRun | None = None
    seal: SealingKey | None = None
    spent: tuple[SampledSteps, ...] | None = None
    invitable: bool | None = None
    release: str | None = None
    away_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateOffer:
    """``n/{node}/evt``: a finished update; one that fits a chunk rides inside.

    Attributes:
        run: The run that it was trained for; ``round``: the announcement that asked for it.
        base_version: What it was trained from: staleness comes from here; ``base_digest``: as the node held it.
        num_examples: Local examples: the weight, at least 1.
        metrics: The task's own numbers (finite), at most 16.
        codec: The spec that made the frame; ``inline``: the frame itself, or None.
        payload_bytes: Size of the codec frame, in bytes; ``payload_digest`` is BLAKE2b-128 of it.
        chunk_bytes: Body size of every chunk but the last, when it is granted.
        fetched_bytes: Model bytes that the node pulled for this round.
        ticket: The bytes of a signed `Ticket`: what helpers are shown of a masked update; None of any other.
        boxes: The update's seeds, sealed to one helper each, by the order of the helpers' keys.
        spent: Under differential privacy all that the node has spent in the run, this update with it.
        members: What a gateway's sum is made of: a claim of 16 bytes for each update of its site; None of any other.
    """

    run: RunId
    round: RoundId
    update: UpdateId
    incarnation: Incarnation
    base_version: ModelVersion
    base_digest: Digest
    num_examples: int
    metrics: Mapping[str, float]
    codec: str
    payload_bytes: int
    payload_digest: Digest
    chunk_bytes: int
    fetched_bytes: int = 0
    train_s: float = 0.0
    inline: bytes | None = None
    ticket: bytes | None = None
    boxes: tuple[bytes, ...] | None = None
    content_key: bytes | None = None
    spent: tuple[SampledSteps, ...] | None = None
    members: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decline:
    """``n/{node}/evt``: the node will not train this round, and says why; ``missing``: model chunks never came."""

    run: RunId
    round: RoundId
    reason: str
    retry_after_s: float = 0.0
    missing: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """``n/{node}/cmd``: send the first ``window`` chunks that ``bitmap`` lacks.

    Attributes:
        bitmap: Bit i (little-endian within a byte) is set when chunk i has arrived.
        window: How many of the missing chunks may be under way.
    """

    update: UpdateId
    bitmap: bytes
    window: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """``n/{node}/cmd``: the coordinator's word on one update.

    Attributes:
        run: The run of the offer that it answers.
        status: stored, applied, stale or refused; ``reason`` says why, for the last two.
        version: The version that it became part of, for applied; else None.
        counted: Claims of those members of a refused sum that count elsewhere, for the reason ``counted``; else None.
    """

    run: RunId
    update: UpdateId
    status: ReceiptStatus
    reason: Reason = Reason.NONE
    version: ModelVersion | None = None
    counted: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """``n/{node}/cmd``: stop working on this round; its update would not be used."""

    run: RunId
    round: RoundId


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryAfter:
    """``n/{node}/cmd``: offer this update again, not before so many seconds."""

    update: UpdateId
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebirth:
    """``n/{node}/cmd``: publish your state again; ``proof`` of later ones too, sealed to ``seal``; ``spent``: yours."""

    proof: bool | None = None
    spent: tuple[SampledSteps, ...] | None = None
    seal: SealingKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """``n/{node}/evt``: the coordinator's words of the highest pair and round, and of the newest version applied."""

    state: bytes | None = None
    announcement: bytes | None = None
    receipt: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """``n/{node}/tel``, QoS 0: what the node is doing, or how a gateway's ``site`` stands; may be lost."""

    round: RoundId
    activity: Activity
    fraction: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    site: SiteReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """``n/{node}/evt``: what a node found when it evaluated a version; repeated until its receipt.

    Attributes:
        digest: Digest of that version as the node held it.
        num_examples: Local test examples: the weight; 0 when it has not evaluated, and ``reason`` says why.
        metrics: The task's own numbers (finite), at most 16.
        masked: What it has measured, where only sums of it are to be seen; then there is no other number.
        nodes: Of a gateway: so many nodes of its site have evaluated, and these are the means over them.
    """

    run: RunId
    version: ModelVersion
    digest: Digest
    num_examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    evaluate_s: float = 0.0
    reason: str = ""
    masked: MaskedReport | None = None
    nodes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReceipt:
    """``n/{node}/cmd``: the word on one report: it counts (applied), came too late (stale), or is refused."""

    run: RunId
    version: ModelVersion
    status: ReceiptStatus
    reason: Reason = Reason.NONE


Message = (
    (CoordinatorState | RoundAnnouncement | NodeState | UpdateOffer | Decline | Grant | Receipt | Cancel)
    | (RetryAfter | Rebirth | Progress | EvaluationReport | EvaluationReceipt)
    | (Proof | SumMessage | Sealed | KeyWrap | TaskReport)
)
"""Everything that is said in msgpack; model and update chunks are raw bytes."""

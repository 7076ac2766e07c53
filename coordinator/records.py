"""The values that the coordinator's machine, store and executor hand to each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator.progress import StoppingSettings
from federation.protocol.messages import Cohort, ModelPart, Reason, ReceiptStatus, TrainSettings
from federation.types import Digest, Epoch, Incarnation, ModelVersion, NodeId, RoundId, RunId, UpdateId


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveySettings:
    """Evaluation on the nodes.

    Attributes:
        every: Evaluate each n-th version there; 0 is never.
        fraction: Share of the nodes online that are asked.
        nodes_min: At least so many are asked; with fewer results an evaluation waits for its lease.
    """

    every: int = 0
    fraction: float = 1.0
    nodes_min: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """The one engine for synchronous and asynchronous rounds.

    Synchronous FedAvg: ``concurrency == buffer == refill == cohort size``. FedAsync: ``buffer == 1``.
    FedBuff (arXiv 2106.06639): ``1 < buffer < concurrency``, ``refill == 1``.

    Attributes:
        task: The task's name, announced to the nodes.
        train: How nodes train; ``seed`` is the run's seed and each round derives its own.
        codec_up: Codec spec that nodes use for updates.
        codec_fallbacks: Further specs, the best first, for nodes that do not agree to that one.
        versions: Model versions to commit before the run ends; 0 is no end.
        concurrency: Assignments in flight at most.
        buffer: Updates that make a version.
        refill: Free slots at which new nodes are asked.
        quorum: Updates with which a partial buffer may be committed.
        nodes_min: Nodes that must be online before the first round.
        lease_s: How long an assignment lasts, in seconds.
        max_wait_s: After this many seconds since the buffer's first update, a quorum is enough.
        max_staleness: Versions that an update may lag behind; older ones are ``stale``.
        per_node_quota: Updates of one node in one version, at most.
        num_examples_max: Larger claims are refused.
        payload_bytes_max: Larger update frames are refused; from the configuration 0 until the model is known.
        spread_s: Nodes spread their reaction to an announcement over this many seconds.
        chunk_bytes: Body size of a chunk.
        window_chunks: Chunks that one node may have under way.
        transfers_max: Large transfers at once; others are told to retry later.
        evaluate_every: Evaluate each n-th version; 0 is never.
        settle_s: After a connection, retained node states are gathered this long before nodes are asked, in seconds.
        exit_when_finished: Stop by itself once the last version is committed and evaluated.
        fraction: Synchronous rounds ask this share of the nodes online, at most ``buffer``; 0 asks a fixed number.
        over_selection: With a fraction, so many times more are asked than are waited for, at most ``concurrency``.
        signed: Whether offers are signed: then a payload that arrives in chunks and is not the offered one is the way's
            fault, not the node's.
        needs: What a node must have to be asked to train, by the names of its capabilities.
        survey: Evaluation on the nodes.
        stopping: What is called the best version, and when the run ends because there is no better one.
    """

    task: str
    train: TrainSettings = field(default_factory=TrainSettings)
    codec_up: str = "edge"
    codec_fallbacks: tuple[str, ...] = ()
    versions: int = 0
    concurrency: int = 5
    buffer: int = 5
    refill: int = 5
    quorum: int = 1
    nodes_min: int = 1
    lease_s: float = 120.0
    max_wait_s: float = 60.0
    max_staleness: int = 0
    per_node_quota: int = 1
    num_examples_max: int = 1_000_000
    payload_bytes_max: int = 64 * 1024 * 1024
    spread_s: float = 0.0
    chunk_bytes: int = 61_440
    window_chunks: int = 128
    transfers_max: int = 16
    evaluate_every: int = 1
    settle_s: float = 0.25
    exit_when_finished: bool = False
    fraction: float = 0.0
    over_selection: float = 1.0
    signed: bool = False
    needs: Mapping[str, float] = field(default_factory=dict)
    survey: SurveySettings = field(default_factory=SurveySettings)
    stopping: StoppingSettings = field(default_factory=StoppingSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRecord:
    """One committed global model; the arrays are in the store's blob.

    Attributes:
        version: Its number.
        digest: `Vectors.digest` of what nodes hold at this version (the shadow).
        previous: The predecessor's digest; b"" for version 0.
        manifest_digest: Digest of the manifest.
        seed: The seed whose `Task.initial_parameters` gives version 0, while the deltas of ``parts`` reach back to it;
            else None.
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
        evaluation: The share of the nodes that evaluate the version; None asks nobody. All rounds of a version have the
            same one.
    """

    round: RoundId
    version: ModelVersion
    nodes: tuple[NodeId, ...]
    cohort: Cohort
    evaluation: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRecord:
    """An update without its payload, as the store keeps it."""

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
class TransferRecord:
    """A large update that is still arriving; ``arrived`` are the chunk indices on disk."""

    record: UpdateRecord
    chunk_bytes: int
    arrived: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeResult:
    """What one node found when it evaluated one version; the first word of a node stays.

    Attributes:
        version: The version.
        node: Who evaluated it.
        num_examples: Local test examples: the weight; 0 when it has not evaluated.
        metrics: The task's own numbers.
        evaluate_s: Seconds of the evaluation.
        reason: Why it has not evaluated.
        counted: Whether it came in time to count in the mean over the nodes.
    """

    version: ModelVersion
    node: NodeId
    num_examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    evaluate_s: float = 0.0
    reason: str = ""
    counted: bool = True


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
    """

    version: ModelVersion
    share: int
    closed: bool = False
    nodes: int = 0
    num_examples: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveredState:
    """Everything the machine needs to go on where the store was left.

    Attributes:
        run: Identity of the store.
        epoch: This start's fencing number, already on disk.
        head: The newest committed version.
        recent: Digests of the versions that an update may still be based on, head included.
        next_round: The first round number that has never been reserved.
        open_rounds: Rounds whose assignments were neither delivered nor given up.
        delivered: Updates of those rounds that are already here (their slots are free).
        stored: Updates receipted ``stored`` and not yet in a version, in order of arrival.
        transfers: Large updates still arriving.
        evaluated: What the coordinator's own evaluations found, by version.
        surveyed: The evaluations on the nodes, in order.
        reported: The nodes whose results of the last of these are here, with their examples.
        began_ms: When the store was made, in milliseconds since 1970: it orders runs. None where nobody asks.
        retained: Versions whose models are kept beside the head's and its predecessor's.
        best: The best version, one of these.
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
    began_ms: int | None = None
    retained: frozenset[ModelVersion] = frozenset()
    best: ModelVersion | None = None

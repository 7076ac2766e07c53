"""What the engine is told: its settings, and those of evaluations on nodes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from coordinator.engine.early_stopping import StoppingSettings
from coordinator.strategies.codecs import codec_for
from coordinator.strategies.learning_rate import RateSchedule
from federation.protocol.messages import TrainSettings
from federation.types import HelperId, NodeId

__all__ = [
    "FINISH_WAIT_S",
    "EngineSettings",
    "FederatedEvaluationSettings",
    "MaskingSettings",
    "NoiseSettings",
    "ReleaseBudget",
    "sized",
]

FINISH_WAIT_S = 600.0
"""A finished run waits this long at most for its evaluations and its broker before it stops, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedEvaluationSettings:
    """Evaluation on the nodes.

    Attributes:
        every: Evaluate each n-th version there; 0 is never.
        fraction: Share of the nodes online that are asked.
        nodes_min: At least so many are asked; with fewer results an evaluation waits for its lease.
        metrics: Under masks the names of those that are told, as sums; without masks nodes say what they have.
    """

    every: int = 0
    fraction: float = 1.0
    nodes_min: int = 1
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseBudget:
    """How much all noised sums of the run may tell of one node's contribution, against none.

    Attributes:
        epsilon: At most so much,
        delta: at this delta.
    """

    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSettings:
    """Noise for whole nodes that the coordinator itself adds to each version's sum.

    Attributes:
        noise: Its standard deviation, in units of ``clip``.
        clip: L2 norm that each update is scaled down to.
        budget: Of each node.
    """

    noise: float
    clip: float
    budget: ReleaseBudget


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskingSettings:
    """Masked sums: who helps, and how many must.

    Attributes:
        helpers: Their names, in the order of their identity keys.
        threshold: So many of them must hold an update, and answer for its batch.
        members_min: Fewest updates of a sum.
        groups: In so many groups a version's members are summed, each by itself.
        budget: Of each node, where helpers add noise for whole nodes; None: they do not.
    """

    helpers: tuple[HelperId, ...]
    threshold: int
    members_min: int
    groups: int = 1
    budget: ReleaseBudget | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """The one engine for synchronous and asynchronous rounds.

    Synchronous FedAvg: ``concurrency == buffer == refill == cohort size``. FedAsync: ``buffer == 1``.
    FedBuff (arXiv 2106.06639): ``1 < buffer < concurrency``, ``refill == 1``.

    Attributes:
        task: The task's name, announced to the nodes.
        train: How nodes train; ``seed`` is the run's seed and each round derives its own.
        rates: How the learning rate changes with the versions.
        codec_up: Codec spec that nodes use for updates.
        codec_fallbacks: Further specs, the best first, for nodes that do not agree to that one.
        versions: Model versions to commit before the run ends; 0 is no end.
        concurrency: Assignments in flight at most.
        buffer: Updates that make a version.
        refill: Free slots at which new nodes are asked.
        quorum: Updates with which a partial buffer may be committed.
        nodes_min: Nodes that must be online before the first round.
        lease_s: How long an assignment lasts, in seconds.
        interval_min_s: At least so long after a version nobody is asked, and no other one is made, in seconds.
        max_wait_s: After this many seconds since the buffer's first update, a quorum is enough.
        max_staleness: Versions that an update may lag behind; older ones are ``stale``.
        per_node_quota: Updates of one node in one version, at most.
        num_examples_max: Larger claims are refused.
        payload_bytes_max: Larger update frames are refused; from the configuration 0 until the model is known.
        spread_s: Nodes spread their reaction to an announcement over this many seconds.
        pace_s: Nodes that owe nothing leave, and come back after about so many seconds; 0: they stay connected.
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
        sealed: Whether what nodes say and pull is sealed: then only those are asked that can do it.
        replaces: Whether the coordinator of another run, if there is one, gives way to this one.
        needs: What a node must have to be asked to train, by the names of its capabilities.
        federated_evaluation: Evaluation on the nodes.
        stopping: What is called the best version, and when the run ends because there is no better one.
        masking: Updates are masked, and only their sums are seen; None: they are not.
        noise: For whole nodes, where the coordinator adds it; None: it adds none.
        gateways: Nodes that speak for a site, and for how many nodes at most.
    """

    task: str
    train: TrainSettings = field(default_factory=TrainSettings)
    rates: RateSchedule = field(default_factory=RateSchedule)
    codec_up: str = "edge"
    codec_fallbacks: tuple[str, ...] = ()
    versions: int = 0
    concurrency: int = 5
    buffer: int = 5
    refill: int = 5
    quorum: int = 1
    nodes_min: int = 1
    lease_s: float = 120.0
    interval_min_s: float = 0.0
    max_wait_s: float = 60.0
    max_staleness: int = 0
    per_node_quota: int = 1
    num_examples_max: int = 1_000_000
    payload_bytes_max: int = 64 * 1024 * 1024
    spread_s: float = 0.0
    pace_s: float = 0.0
    chunk_bytes: int = 61_440
    window_chunks: int = 128
    transfers_max: int = 16
    evaluate_every: int = 1
    settle_s: float = 0.25
    exit_when_finished: bool = False
    fraction: float = 0.0
    over_selection: float = 1.0
    signed: bool = False
    sealed: bool = False
    replaces: bool = False
    needs: Mapping[str, float] = field(default_factory=dict)
    federated_evaluation: FederatedEvaluationSettings = field(default_factory=FederatedEvaluationSettings)
    stopping: StoppingSettings = field(default_factory=StoppingSettings)
    masking: MaskingSettings | None = None
    noise: NoiseSettings | None = None
    gateways: Mapping[NodeId, int] = field(default_factory=dict)

    def for_model(self, parameters: int) -> Self:
        """The same for a model of so many parameters: a named codec takes a rate that suits it.

        The name itself stays a fallback, for nodes that agree to nothing else.
        """
        asked = (self.codec_up, *self.codec_fallbacks)
        suited = tuple(codec_for(codec, parameters) for codec in asked)
        if suited == asked:
            return self
        first, *others = dict.fromkeys((*suited, *asked))
        return replace(self, codec_up=first, codec_fallbacks=tuple(others))


def sized(settings: EngineSettings, online: int) -> EngineSettings:
    """The settings of one version: as many nodes as the fraction of those online says, and at least the quorum.

    McMahan et al. (arXiv 1602.05629) ask max(C · K, 1) of K nodes; C = 1 asks all of them.
    """
    # 0.3 * 10 is a little more than 3.
    share = math.ceil(settings.fraction * online - 1e-9)
    buffer = max(settings.quorum, min(settings.buffer, share))
    concurrency = max(buffer, min(settings.concurrency, math.ceil(buffer * settings.over_selection - 1e-9)))
    return replace(
        settings,
        buffer=buffer,
        concurrency=concurrency,
        refill=min(settings.refill, concurrency),
        quorum=max(settings.quorum, buffer // 2),
    )

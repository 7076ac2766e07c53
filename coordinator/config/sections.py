"""The settings of the coordinator: TOML, environment (``FEDMQ_COORDINATOR__SECTION__KEY``) and flags, all checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

import federation.config
from coordinator.config.alerts import AlertsSection, HomeAssistantSection
from coordinator.config.evaluation import EvaluationSection, StoppingSection
from coordinator.config.gateways import GatewaysSection
from coordinator.config.privacy import PrivacySection
from coordinator.config.statistics import StatisticsSection
from coordinator.storage.files import STATE_FOLDER
from coordinator.strategies.lag_compensation import LAG_VERSIONS_MAX
from coordinator.strategies.learning_rate import ScheduleKind
from federation.config import (
    Codec,
    FederationSection,
    LogSection,
    PositiveSeconds,
    Seconds,
    Section,
    TaskArguments,
    load_config,
)
from federation.setting_checks import check_place

__all__ = ["PREFIX", "CoordinatorConfig", "read_config", "state_folder"]

PREFIX = "FEDMQ_COORDINATOR"
"""Prefix of the environment variables."""

VERSIONS_BACK_MAX = 1 << 32
"""How far a store may be told to look back: numbers of versions are added up, and a database has 64 bits."""

CONFIG_FILE = "coordinator.toml"
"""What the file is called in a folder that ``coordinator init`` has made."""

CONCURRENCY_MAX = 100_000
"""Nodes that train at once, at most: as many as are remembered. One announcement lists 600 of them."""


class BrokerSection(federation.config.BrokerSection):
    """``[broker]``: where the broker is; the coordinator has two connections to it.

    Attributes:
        client_id: MQTT client id; the two connections add ``-control`` and ``-data``. Nothing is
            ``coordinator-FEDERATION``.
        tls_data_certificate: PEM file of the data connection's own certificate chain. Nothing is the same one.
        tls_data_key: PEM file of its private key.
        chunk_bytes: Body size of a chunk, in bytes. Nothing is the profile's: 61,440, or less.
    """

    client_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,56}$")] | None = None
    tls_data_certificate: Path | None = None
    tls_data_key: Path | None = None
    chunk_bytes: Annotated[int, Field(ge=1024, le=61_440)] | None = None

    @property
    def body_bytes(self) -> int:
        """Body size of a chunk, in bytes."""
        return self.limits.chunk_bytes if self.chunk_bytes is None else self.chunk_bytes

    @model_validator(mode="after")
    def _chunk_fits_profile(self) -> "BrokerSection":
        if self.body_bytes > self.limits.chunk_bytes:
            raise ValueError(f"chunk_bytes is at most {self.limits.chunk_bytes} with the profile {self.profile}")
        return self


class TaskSection(TaskArguments):
    """``[task]``: what is trained.

    Attributes:
        name: A built-in name, ``file.py:function``, ``package.module:function`` or ``file.toml``.
        arguments: What the task is told, by name; the task checks it.
        data: Folder with the data, for the evaluation.
        seed: Seed of the initial model and of the partition.
        initial: safetensors file with the initial parameters; nothing is the task's own.
    """

    data: Path | None = None
    seed: NonNegativeInt = 0
    initial: Path | None = None


class RoundSection(Section):
    """``[round]``: the engine. ``concurrency`` alone is synchronous; a ``buffer`` below it is asynchronous.

    See docs/reference/strategies.md for what fits together.

    Attributes:
        concurrency: Nodes that train at once.
        buffer: Updates that make a version. Nothing is ``concurrency``.
        refill: Free places at which nodes are asked. Nothing is a tenth of ``concurrency`` when asynchronous, else all.
        quorum: Updates with which a version may be made after ``max_wait_s``. Nothing is half the buffer.
        nodes_min: Nodes that must be online before the first round. Nothing is the quorum.
        versions: Versions after which the run is over; 0 is no end.
        lease_s: How long a node may take, in seconds.
        interval_min_s: Least time between two versions, in seconds: meanwhile nobody is asked and no version is made.
        max_wait_s: Patience after the first update of a version, in seconds.
        max_staleness: Versions that an update may lag behind. Nothing is 10 when asynchronous, else 0.
        per_node_quota: Updates of one node in one version.
        spread_s: Nodes react within a random time up to this, in seconds.
        pace_s: Nodes that owe nothing leave the broker and check in after about so many seconds; 0: they stay.
        fraction: Ask this share of the nodes online, ``concurrency`` of them at most; 1 asks all. Synchronous only.
        over_selection: Ask so many times more nodes than are waited for; who comes too late is stale. Synchronous only.
        selector: ``uniform``, ``fair``, ``reliable``, ``capable``, ``repeatable``, or
            ``package.module:factory``.
        needs: What a node must have to be asked, such as ``{ memory_bytes = 2e8, battery = 0.3 }``: ``memory_bytes``,
            ``cores``, ``battery`` (0 to 1; mains power is any), ``link_bytes_s``. What a node does not say counts as
            enough.
        exit_when_finished: End the process when the run is over.
    """

    concurrency: Annotated[int, Field(ge=1, le=CONCURRENCY_MAX)] = 5
    buffer: PositiveInt | None = None
    refill: PositiveInt | None = None
    quorum: PositiveInt | None = None
    nodes_min: PositiveInt | None = None
    versions: NonNegativeInt = 0
    lease_s: PositiveSeconds = 120.0
    interval_min_s: Seconds = 0.0
    max_wait_s: PositiveSeconds = 60.0
    max_staleness: Annotated[int, Field(ge=0, le=VERSIONS_BACK_MAX)] | None = None
    per_node_quota: PositiveInt = 1
    spread_s: Seconds = 0.0
    pace_s: Annotated[float, Field(ge=0, le=7 * 86_400)] = 0.0
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    over_selection: Annotated[float, Field(ge=1, le=10)] = 1.0
    selector: str = "uniform"
    needs: Mapping[Literal["memory_bytes", "cores", "battery", "link_bytes_s"], NonNegativeFloat] = Field(
        default_factory=dict
    )
    exit_when_finished: bool = False


class TrainSection(Section):
    """``[train]``: how nodes train. What is not given is the task's own choice.

    Attributes:
        local_epochs: Passes over the local data.
        batch_size: Examples per step; 0 is the whole local data set.
        learning_rate: Step size of local SGD.
        momentum: Momentum of local SGD.
        weight_decay: L2 penalty of local SGD.
        max_steps: Steps after which local training stops; 0 is no limit.
        proximal_mu: Weight of FedProx's term; 0 is none.
        optimizer: ``sgd``, ``adam`` or ``adamw``. Nodes of earlier releases know only ``sgd``.
        optimizer_state: What an optimizer gathers (momentum, moments) is forgotten after each round (``reset``), or
            ``kept`` on the node as long as its updates are applied.
        mixed_precision: Forward passes in 16 bits: ``off``, ``bfloat16``, ``float16``, or ``auto``, with which each
            device takes what it computes fast.
        clip_norm: Gradients whose norm over all tensors is longer are scaled down to it; 0 is never.
        schedule: How the learning rate changes with the versions: ``constant``, ``step`` or ``cosine``.
        warmup: Versions in which it rises to its value.
        decay_every: Versions between two steps.
        decay: Factor of a step; of a cosine the share of the rate that is left at the end.
        seed: Seed of the shuffles. Nothing is the task's seed.
        extra: Further numbers that a user's own task understands.
    """

    local_epochs: PositiveInt | None = None
    batch_size: NonNegativeInt | None = None
    learning_rate: PositiveFloat | None = None
    momentum: NonNegativeFloat | None = None
    weight_decay: NonNegativeFloat | None = None
    max_steps: NonNegativeInt | None = None
    proximal_mu: NonNegativeFloat | None = None
    optimizer: Literal["sgd", "adam", "adamw"] | None = None
    optimizer_state: Literal["reset", "kept"] | None = None
    mixed_precision: Literal["off", "auto", "bfloat16", "float16"] | None = None
    clip_norm: NonNegativeFloat | None = None
    schedule: ScheduleKind = ScheduleKind.CONSTANT
    warmup: NonNegativeInt = 0
    decay_every: NonNegativeInt = 0
    decay: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    seed: NonNegativeInt | None = None
    extra: Mapping[str, float] | None = None


class CodecSection(Section):
    """``[codec]``: how updates travel up, and the model down.

    Attributes:
        up: A profile such as ``edge``, or ``deadzone(bpp=0.35,feedback=1)``. With ``link`` each node sends what its
            uplink carries in time; ``context=1`` codes the parameters that usually move apart.
        fallbacks: Further ones, the best first, for nodes that say that they do not agree to ``up``.
        down: The same for the model's deltas; keyframes are lossless. Nothing is ``cosine`` with feedback at a third of
            the bits of ``up``, at least 0.1 and at most 0.3 bits per parameter; for models below 16,384 or above
            4,194,304 parameters, and while a node of an earlier release is online, ``edge`` where ``up`` has feedback,
            else ``lossless``. A lossless ``up`` goes down losslessly.
        delta_chain_max: Deltas that a version offers to nodes that lag behind.
        lag_versions: The server moves the model ahead by so many versions of what error feedback holds back; 0 is not.
            Nothing is what suits ``up``.
    """

    up: Codec = "edge"
    fallbacks: tuple[Codec, ...] = ()
    down: Codec | None = None
    delta_chain_max: Annotated[int, Field(ge=0, le=15)] = 15
    lag_versions: Annotated[float, Field(ge=0, le=LAG_VERSIONS_MAX)] | None = None


class StrategySection(Section):
    """``[strategy]``: how updates become a model; see `coordinator.strategies.strategy.StrategySettings`.

    Attributes:
        name: ``fedavg``, ``fedbuff``, ``fedasync``, ``fedprox``, ``fedavgm``, ``fedadam``, ``fedyogi``, ``fedadagrad``,
            ``scaffold``, or ``package.module:factory``. Nothing is ``fedavg`` when synchronous, else ``fedbuff``.
        nodes: How many nodes the federation has, also those that are offline; ``scaffold`` needs it.
        importance: ``examples``, ``uniform``, ``sqrt`` or ``log`` of num_examples. Nothing is the strategy's own.
        importance_max: Bound of one node's importance, as a multiple of the median; 0 is none.
        staleness: ``constant``, ``polynomial`` or ``hinge``. Nothing is the strategy's own.
        staleness_a: Exponent, or slope.
        staleness_b: Where the hinge is, in versions.
        normalise: ``count`` or ``weight``. Nothing is the strategy's own.
        server: ``sgd``, ``momentum``, ``adam``, ``yogi`` or ``adagrad``. Nothing is the strategy's own.
        server_learning_rate: Nothing is the strategy's own.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        tau: Degree of adaptivity.
        mixing: FedAsync's pull back to the version that an update is based on. Nothing is the strategy's own.
        robust: ``none``, ``default``, ``median``, ``trimmed_mean``, ``krum``, ``multi_krum``, ``bulyan``,
            ``median_norm_clip``, ``centered_clip``, or ``package.module:factory``.
        attackers: Share of the updates that may be bad; only the robust rules that count them use it.
        sums: ``per_update`` weighs each update by itself; ``per_base`` has the bits of a federation with gateways.
    """

    name: str | None = None
    nodes: PositiveInt | None = None
    importance: str | None = None
    importance_max: NonNegativeFloat = 10.0
    staleness: str | None = None
    staleness_a: PositiveFloat = 0.5
    staleness_b: NonNegativeFloat = 4.0
    normalise: str | None = None
    server: str | None = None
    server_learning_rate: PositiveFloat | None = None
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    tau: PositiveFloat = 1e-3
    mixing: bool | None = None
    robust: str = "none"
    attackers: Annotated[float, Field(ge=0, lt=0.5)] = 0.2
    sums: Literal["per_update", "per_base"] | None = None


class StoreSection(Section):
    """``[store]``: where the coordinator keeps what must survive.

    Attributes:
        folder: The state folder; one process at a time. Nothing is ``state/coordinator``.
        url: ``postgresql://USER@HOST/DATABASE``: what must survive the machine is there, several coordinators may be
            started with it, and one of them leads. Nothing: all is in the folder.
        lease_s: A leader that has not said for so long that it lives is replaced.
        audit_versions: Versions whose updates are kept, so that the head can be computed again.
        updates_kept: Newest updates that keep all that they said. Of older ones some four bytes are kept: who, in
            which round, and what became of it. Their bytes are in sums, and their times and losses are gone.
    """

    folder: Path = STATE_FOLDER
    url: Annotated[str, Field(pattern="^postgres(ql)?://")] | None = None
    lease_s: Annotated[float, Field(ge=1, le=3600)] = 3.0
    audit_versions: Annotated[int, Field(gt=0, le=VERSIONS_BACK_MAX)] = 1
    updates_kept: PositiveInt = 10_000


class LimitsSection(Section):
    """``[limits]``: the most that one node may cost.

    Attributes:
        num_examples_max: Larger claims are refused.
        payload_bytes_max: Larger update frames are refused, in bytes. Nothing is what the model can take at most.
        transfers_max: Large updates that arrive at once.
        window_chunks: Chunks that one node may have under way; with more than four transfers fewer, 512 in all.
        update_norm_max: Updates with a larger L2 norm are refused.
        clip_norm: Updates are scaled down to this L2 norm; 0 is none.
        step_norm_max: A version that moves the model further, in L2 norm, is not made.
    """

    num_examples_max: PositiveInt = 1_000_000
    payload_bytes_max: PositiveInt | None = None
    transfers_max: PositiveInt = 16
    window_chunks: Annotated[int, Field(ge=1, le=512)] = 128
    update_norm_max: PositiveFloat = 1e5
    clip_norm: NonNegativeFloat = 0.0
    step_norm_max: PositiveFloat = 1e6


class SecuritySection(Section):
    """``[security]``: signatures, which hold whatever the broker does.

    Attributes:
        signing_key: PEM file of the coordinator's Ed25519 key: everything that it says is signed with it.
        node_keys: File of the nodes' public keys, which ``coordinator enroll`` keeps.
        require_signatures: Believe only what a node has signed with its own key.
        broker_log: Count in ``status`` what the broker's own log says that it refused; Mosquitto with
            ``log_dest topic``.
    """

    signing_key: Path | None = None
    node_keys: Path | None = None
    require_signatures: bool = False
    broker_log: bool = False

    @model_validator(mode="after")
    def _keys_for_signatures(self) -> "SecuritySection":
        if self.require_signatures and (self.signing_key is None or self.node_keys is None):
            raise ValueError("require_signatures needs signing_key and node_keys")
        return self


class CoordinatorConfig(Section):
    """Everything that the coordinator is told."""

    federation: FederationSection
    broker: BrokerSection
    task: TaskSection
    round: RoundSection
    train: TrainSection
    codec: CodecSection
    strategy: StrategySection
    store: StoreSection
    evaluation: EvaluationSection
    stopping: StoppingSection
    limits: LimitsSection
    security: SecuritySection
    alerts: AlertsSection
    home_assistant: HomeAssistantSection
    privacy: PrivacySection
    statistics: StatisticsSection
    gateways: GatewaysSection
    log: LogSection


def read_config(
    file: Path | None, flags: Mapping[str, object], environ: Mapping[str, str] | None = None
) -> CoordinatorConfig:
    """Read and check all sources; flags win over the environment, which wins over the file.

    Args:
        file: The TOML file, or the folder that has a `CONFIG_FILE`.
        flags: Values of the command line by dotted key.
        environ: None is the process's own.

    Raises:
        ConfigError: A key is unknown, missing or out of range, or two do not fit together.
    """
    config = load_config(
        CoordinatorConfig, prefix=PREFIX, file=file, flags=flags, environ=environ, in_folder=CONFIG_FILE
    )
    for key, path in (("task.data", config.task.data), ("task.initial", config.task.initial)):
        check_place(key, path, Path.exists, "does not exist")
    return config


def state_folder(config: CoordinatorConfig | None, given: Path | None) -> Path:
    """Where a run's state is: as a command was told, else as the configuration says, else the default."""
    if given is not None:
        return given
    return (StoreSection() if config is None else config.store).folder

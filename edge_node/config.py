"""The settings of one edge node: TOML, environment (``FEDMQ_NODE__SECTION__KEY``) and flags, strictly checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator

import federation.config
from edge_node.readings.settings import DataSection
from federation.config import (
    Codec,
    Device,
    FederationSection,
    LogSection,
    PositiveSeconds,
    Seconds,
    Section,
    TaskArguments,
    Threads,
    accepted_by,
    load_config,
)
from federation.errors import ConfigError, LocalProtocolError
from federation.identity.helper_keys import PinnedHelper, in_key_order
from federation.protocol.limits import HELPERS_MAX
from federation.protocol.topics import validate_node_id
from federation.setting_checks import check_place
from federation.tasks.data.partitioners import parse_partition

__all__ = ["NodeConfig", "read_config"]

PREFIX = "FEDMQ_NODE"
"""Prefix of the environment variables."""

TOPIC_BYTES_MAX = 512

CONFIG_FILE = "edge-node.toml"
"""What the file is called in a folder that ``edge-node join`` has made."""


def _partition(text: str) -> str:
    parse_partition(text)
    return text


def _own_topic(text: str) -> str:
    if not 1 <= len(text.encode()) <= TOPIC_BYTES_MAX or set(text) & set("+#\x00"):
        raise ValueError(f"a topic has 1 to {TOPIC_BYTES_MAX} bytes and no + or #")
    if text.partition("/")[0] in {"fl", "$SYS"}:
        raise ValueError("topics under fl/ are the federation's: choose one of your own")
    return text


OwnTopic = Annotated[str, AfterValidator(_own_topic)]
"""A topic to publish on that is no federation's."""


class BrokerSection(federation.config.BrokerSection):
    """``[broker]``: where the broker is.

    Attributes:
        client_id: MQTT client id. Nothing is the node's id where the broker knows the node by it, from a certificate or
            as the user name; else ``FEDERATION.NODE``, so that nodes of two federations on one broker cannot clash.
    """

    client_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")] | None = None


class NodeSection(Section):
    """``[node]``: who this node is.

    Attributes:
        id: Its name: a topic level.
        exit_when_finished: End the process when the run has ended and every update has its receipt.
    """

    id: Annotated[str, accepted_by(validate_node_id)]
    exit_when_finished: bool = False


class TaskSection(TaskArguments):
    """``[task]``: what this node trains, and on which part of the data.

    Attributes:
        name: A built-in name, ``file.py:function``, ``package.module:function`` or ``file.toml``.
        arguments: What the task is told, by name; the task checks it.
        data: Folder with the data.
        index: Which part of the data is this node's, from 0.
        count: How many parts there are.
        seed: Seed of the partition: the same at all participants.
        partition: How one known data set is divided: ``iid``, ``shards:N``, ``dirichlet:ALPHA`` or ``natural``. Nothing
            is the task's own way.
        updates: ``manual``: nothing but what is installed here is run. ``signed``: releases of the task that the
            federation's authority has signed are fetched, tried, and run in its place.
        authority: PEM file of the certificate whose key signs them. Nothing is ``broker.tls_authority``.
        trial_s: Seconds that the trial of a release may take before it is refused.
    """

    data: Path | None = None
    index: Annotated[int, Field(ge=0)] = 0
    count: PositiveInt = 1
    seed: int = 0
    partition: Annotated[str, accepted_by(_partition)] | None = None
    updates: Literal["manual", "signed"] = "manual"
    authority: Path | None = None
    trial_s: PositiveSeconds = 900.0

    @model_validator(mode="after")
    def _index_in_count(self) -> "TaskSection":
        if self.index >= self.count:
            raise ValueError(f"index {self.index} needs a count above it, not {self.count}")
        return self


class TrainingSection(Section):
    """``[training]``: how this device works.

    Attributes:
        device: ``auto`` takes a GPU when there is one.
        threads: CPU threads of one training.
        nice: How far the training thread's priority is below the other processes', 0 to 19, from the first training on
            that takes longer than 0.25 s; with 19 it runs only when nobody else wants the processor (Linux). A node
            that leads a session, as a service does, lowers the whole session.
        stall_s: A training that has not asked its stop flag for so long is stuck: the watchdog is not fed, in seconds.
        codecs: Codec specs that this node agrees to; empty is all.
        update_norm_max: Longer updates are scaled down to this L2 norm; nothing is no bound.
        residual_decay: Share of what was not sent that is left for each version in which this node had no part.
        residual_versions_max: Such versions after which nothing of it is left.
    """

    device: Device = "auto"
    threads: Threads = 1
    nice: Annotated[int, Field(ge=0, le=19)] = 10
    stall_s: PositiveSeconds = 900.0
    codecs: tuple[Codec, ...] = ()
    update_norm_max: PositiveFloat | None = None
    residual_decay: Annotated[float, Field(ge=0, le=1)] = 1.0
    residual_versions_max: Annotated[int, Field(ge=0)] = 1_000


class BoundsSection(Section):
    """``[bounds]``: the most that an announcement may ask of this device; it declines more.

    Attributes:
        local_epochs_max: Passes over the local data.
        batch_size_max: Examples per step.
        learning_rate_max: Step size.
        max_steps: Steps of one round; 0 is no bound, else an announcement without a step limit is declined.
        model_bytes_max: Size of a model part, in bytes.
        train_s_max: Seconds of one training; then it is stopped and the round declined; 0 is no bound.
        epsilon_max: Epsilon that this node spends for each of its examples, in all runs together; a round that would
            exceed it, or is without differential privacy, is declined. Nothing is no bound.
        epsilon_delta: The delta of that epsilon.
        statistics: Whether ``coordinator analyze`` may count this node's rows: without masks, the coordinator sees a
            histogram of each column.
    """

    local_epochs_max: PositiveInt = 100
    batch_size_max: PositiveInt = 65_536
    learning_rate_max: PositiveFloat = 10.0
    max_steps: Annotated[int, Field(ge=0)] = 0
    model_bytes_max: PositiveInt = 1 << 30
    train_s_max: Seconds = 3_600.0
    epsilon_max: PositiveFloat | None = None
    epsilon_delta: Annotated[float, Field(ge=1e-9, le=1e-2)] = 1e-5
    statistics: bool = True


class SecuritySection(Section):
    """``[security]``: signatures, which hold whatever the broker does.

    Attributes:
        signing_key: PEM file of this node's Ed25519 key: everything that it says is signed with it.
        coordinator_key: PEM file of the coordinator's public key, pinned when the node joined.
        require_signatures: Obey only what the coordinator has signed.
        require_sealed: Decline a run whose model and updates the broker could read; needs ``require_signatures``.
    """

    signing_key: Path | None = None
    coordinator_key: Path | None = None
    require_signatures: bool = False
    require_sealed: bool = False

    @model_validator(mode="after")
    def _keys_for_signatures(self) -> "SecuritySection":
        if self.require_signatures and (self.signing_key is None or self.coordinator_key is None):
            raise ValueError("require_signatures needs signing_key and coordinator_key")
        if self.require_sealed and not self.require_signatures:
            raise ValueError("require_sealed needs require_signatures: else the broker could name a key of its own")
        return self


class PrivacySection(Section):
    """``[privacy]``: for whom this node masks its updates; with helpers it sends nothing that is not masked.

    Attributes:
        helpers: The helpers, as ``NAME=KEY`` each: exactly those of the federation, by the word of those who run them.
    """

    helpers: Annotated[tuple[str, ...], Field(max_length=HELPERS_MAX)] = ()

    def pinned(self) -> tuple[PinnedHelper, ...]:
        """The helpers, in the order of their keys.

        Raises:
            ConfigError: One is no helper, or two are the same.
        """
        try:
            return in_key_order(map(PinnedHelper.from_text, self.helpers))
        except LocalProtocolError as error:
            raise ConfigError("privacy.helpers", str(error)) from error


class EligibilitySection(Section):
    """``[eligibility]``: when this device may train; at other times it declines, and says why. Nothing is no condition.

    Attributes:
        load_max: Load of the last minute per CPU core.
        mains: Only on mains power; a device without a battery is.
        battery_min: Charge from which it may train without mains, 0 to 1.
        interfaces: Networks that cost nothing, such as ``eth0``: the default route must use one of them.
        temperature_max_c: Of the hottest sensor, in degrees Celsius.
        hours: Local time, such as ``22:00-06:00``.
        examples_new_min: New examples of ``[data]`` since this node has trained: windows, where its task cuts them.
        retry_s: The coordinator may ask again after so many seconds.
    """

    load_max: PositiveFloat | None = None
    mains: bool = False
    battery_min: Annotated[float, Field(ge=0, le=1)] | None = None
    interfaces: tuple[str, ...] = ()
    temperature_max_c: float | None = None
    hours: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$")] | None = None
    examples_new_min: Annotated[int, Field(ge=0)] = 0
    retry_s: PositiveSeconds = 600.0


class StoreSection(Section):
    """``[store]``: where the node keeps what must survive.

    Attributes:
        folder: The state folder; one process at a time. Nothing is ``state/NODE``.
        outbox_max: Updates that may wait for their receipt; then new rounds are declined.
    """

    folder: Path | None = None
    outbox_max: PositiveInt = 16


class ModelSection(Section):
    """``[model]``: the model on the device, for programs beside this one; nothing is written without ``folder``.

    Attributes:
        folder: Where versions are written; ``current`` in it is the present one.
        form: ``onnx`` or ``pt2``, programs that run without the task's code, or ``safetensors``, its arrays.
        program: ONNX file of this task's model, such as ``coordinator export`` writes: it is filled with each version's
            numbers, so that this device needs nothing that traces programs. Only with ``onnx``.
        figure: By which of the task's numbers a version is judged; nothing is ``accuracy`` where there is one, else
            ``loss``.
        larger_is_better: Of that number; nothing: unless its name ends in ``loss``, ``error``, ``mse``, ``rmse`` or
            ``mae``.
        worse_max: A version is not taken that is worse than the present one on this device's own data by more than this
            share of the figure.
        keep: Versions that stay on the disk, the present one among them.
        every_s: At least so many seconds between two versions: it spares flash memory.
        command: What is run when a version was taken, without a shell; the environment variables ``FEDMQ_MODEL_FILE``,
            ``FEDMQ_MODEL_NOTE``, ``FEDMQ_MODEL_VERSION`` and ``FEDMQ_MODEL_FOLDER`` say which.
        topic: Where it is said, retained, on the node's broker.
        reload_unit: Unit of systemd that is reloaded then.
        hook_s: Seconds after which the command, or the reload, is killed.
    """

    folder: Path | None = None
    form: Literal["onnx", "pt2", "safetensors"] = "onnx"
    program: Path | None = None
    figure: str | None = None
    larger_is_better: bool | None = None
    worse_max: Annotated[float, Field(ge=0)] = 0.05
    keep: Annotated[int, Field(ge=1, le=1_000)] = 3
    every_s: Seconds = 0.0
    command: tuple[str, ...] = ()
    topic: OwnTopic | None = None
    reload_unit: Annotated[str, Field(pattern=r"^[A-Za-z0-9:_.@\\-]{1,255}$")] | None = None
    hook_s: PositiveSeconds = 30.0


class ScoreSection(Section):
    """``[score]``: what ``edge-node score`` says of the windows of ``[data.mqtt]``, on the same broker.

    Attributes:
        with_agent: ``edge-node run`` keeps the scoring process itself: a second service is not needed.
        topic: Where the newest score is said, retained; nothing is ``fedmq/FEDERATION/NODE/score``.
        qos: 0 or 1.
        home_assistant: Home Assistant's discovery prefix, such as ``homeassistant``; nothing announces nothing.
    """

    with_agent: bool = False
    topic: OwnTopic | None = None
    qos: Annotated[int, Field(ge=0, le=1)] = 0
    home_assistant: OwnTopic | None = None


class NodeConfig(Section):
    """Everything that one edge node is told."""

    federation: FederationSection
    node: NodeSection
    broker: BrokerSection
    task: TaskSection
    data: DataSection
    training: TrainingSection
    bounds: BoundsSection
    security: SecuritySection
    privacy: PrivacySection
    eligibility: EligibilitySection
    store: StoreSection
    model: ModelSection
    score: ScoreSection
    log: LogSection

    @property
    def state_folder(self) -> Path:
        """Where this node's state is."""
        return self.store.folder if self.store.folder is not None else Path("state") / self.node.id


def read_config(file: Path | None, flags: Mapping[str, object], environ: Mapping[str, str] | None = None) -> NodeConfig:
    """Read and check all sources; flags win over the environment, which wins over the file.

    Args:
        file: The TOML file, or the folder that has a `CONFIG_FILE`.
        flags: Values of the command line by dotted key.
        environ: None is the process's own.

    Raises:
        ConfigError: A key is unknown, missing or out of range.
    """
    config = load_config(NodeConfig, prefix=PREFIX, file=file, flags=flags, environ=environ, in_folder=CONFIG_FILE)
    if config.privacy.pinned() and config.security.signing_key is None:
        raise ConfigError("security.signing_key", "helpers count nobody who does not sign: privacy.helpers needs it")
    if config.eligibility.examples_new_min and not config.data.is_given:
        raise ConfigError("eligibility.examples_new_min", "counts what [data] gives: name a source there")
    if config.task.updates == "signed" and config.task.authority is None and config.broker.tls_authority is None:
        raise ConfigError("task.updates", "signed by whom? Name the authority's certificate as task.authority")
    check_place("task.data", config.task.data, Path.is_dir, "is not a folder")
    return config

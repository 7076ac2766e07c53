"""The node's composition root: store, task, worker, broker connection, machine, and the loop that runs them."""

import os
import queue
import random
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from edge_node.config import NodeConfig, SecuritySection
from edge_node.engine.events import StopRequested
from edge_node.engine.machine import NodeMachine, NodeSettings, TrainBounds
from edge_node.model.keeper import ModelKeeper, make_keeper
from edge_node.model.score_process import score_beside
from edge_node.readings.live import NodeReadings
from edge_node.readings.running import Ingestion
from edge_node.rollout.installed import Installed
from edge_node.rollout.receiver import Rollout
from edge_node.rollout.starting import installed_for, rollout_for, with_release
from edge_node.runtime.connection import node_will
from edge_node.runtime.disk_trouble import DiskTrouble
from edge_node.runtime.eligibility import Conditions, Sensors, columns_said, parse_hours, why_not
from edge_node.runtime.executor import NodeExecutor, NodeParts
from edge_node.runtime.inbound import Inbound
from edge_node.runtime.sealing import NodeSealing
from edge_node.storage.sqlite_store import SqliteNodeStore
from edge_node.storage.store import NodeStore
from edge_node.training.adoption import manifest_of
from edge_node.training.priority import Priority, own_session
from edge_node.training.process import TrainingMark
from edge_node.training.update import ResidualAging
from edge_node.training.worker import ThreadTrainer, TrainingSetup
from federation import RELEASE
from federation.config import broker_address
from federation.errors import ConfigError, TaskError, user_code
from federation.identity.signing_keys import Trust, read_coordinator_key, read_trust
from federation.process_state import process_state_kept
from federation.protocol.limits import RELEASE_BYTES_MAX, fit_text
from federation.protocol.signing import Writer
from federation.protocol.topics import Topics
from federation.runtime.address import BrokerAddress, exposures
from federation.runtime.clock import MonotonicClock
from federation.runtime.driver import Driver
from federation.runtime.log import configure_log, get_log, said_while_slow
from federation.runtime.mqtt import MqttTransport
from federation.runtime.network_thread import lost_on_error
from federation.runtime.session import SessionSettings
from federation.runtime.signals import StopSignals, leave_at_once
from federation.runtime.supervision import Supervision
from federation.runtime.transport import INBOX_ITEMS_MAX, Inbox, Will
from federation.task import Private, Task, TaskContext, prepare, task_label
from federation.tasks.registry import load_task
from federation.types import FederationId, NodeId
from update_codec import Manifest

__all__ = [
    "START_AGAIN",
    "client_id",
    "node_sealing",
    "node_settings",
    "node_transport",
    "node_trust",
    "run_node",
]

START_AGAIN = -1
"""No exit code: the process is to start again, because the device has another release of its task."""

MODEL_FRAMES_MAX = 4
"""Parts of one announcement, in frames of the task's own model: a keyframe with controls, and deltas after it."""

WORKER_STOP_S = 2.0
"""How long an orderly stop waits for a training to give up, in seconds."""

HOOKS_STOP_S = 1.0
"""How long it waits for who is told of the model, in seconds."""

FLUSH_S = 2.0
"""How long an orderly stop waits for the broker, in seconds."""


def run_node(config: NodeConfig) -> int:
    """Run one edge node until it is told to stop; returns the exit code, or `START_AGAIN`.

    Raises:
        ConfigError: A setting, a certificate or the task's name is wrong.
        TaskError: The task cannot be built.
        StorageError: The state folder is in use, damaged or not writable.
        TransportError: The broker cannot be used, or another client has this node's id.
    """
    configure_log(json=config.log.as_json, level=config.log.level)
    address = broker_address(config.broker)
    # A task may change the working directory, as scripts do to find their files: the state stays where it is.
    store_section = config.store.model_copy(update={"folder": config.state_folder.absolute()})
    config = config.model_copy(update={"store": store_section})
    with ExitStack() as opened:
        store = SqliteNodeStore(config.state_folder)
        opened.callback(store.close)
        installed = installed_for(config)
        config = with_release(config, installed)
        ingestion = open_readings(config)
        if ingestion is not None:
            opened.callback(ingestion.close)
        score = score_beside(config)
        if score is not None:
            opened.callback(score.close)
        return _run(config, address, store, ingestion, installed)


def open_readings(config: NodeConfig) -> Ingestion | None:
    """Begin to take this device's own readings in, where it has sources of them.

    Raises:
        ConfigError: A source is described wrongly.
        StorageError: Its store is damaged or cannot be written.
    """
    if not config.data.is_given:
        return None
    owner = f"{config.federation.id}.{config.node.id}"
    made = Ingestion(config.data, config.state_folder, owner=owner, data=config.task.data)
    made.open()
    return made


def node_trust(section: SecuritySection) -> Trust:
    """This node's key, and the coordinator's where its word must be signed.

    Raises:
        ConfigError: A file is missing or damaged.
    """
    others = section.coordinator_key if section.require_signatures else None
    return read_trust(section.signing_key, others, read_coordinator_key)


def build_workshop(config: NodeConfig, readings: NodeReadings | None = None) -> TrainingSetup:
    """Build the task and read its data: before the node says that it is there, so that its first round is not slow.

    Args:
        config: The node's.
        readings: Its own readings, where it has sources of them.

    Raises:
        ConfigError: There is no such task.
        TaskError: Building it failed.
    """
    # Read by the libraries when they are first imported: a pool of threads per process starves a small device.
    os.environ.setdefault("OMP_NUM_THREADS", str(config.training.threads))
    context = TaskContext(
        node_index=config.task.index,
        node_count=config.task.count,
        data=config.task.data,
        device=config.training.device,
        seed=config.task.seed,
        partition=config.task.partition,
        readings=readings,
    )
    task = _build(config.task.name, context)
    return TrainingSetup(
        node=NodeId(config.node.id),
        task=task,
        manifest=manifest_of(task),
        norm_max=config.training.update_norm_max,
        aging=ResidualAging(decay=config.training.residual_decay, versions_max=config.training.residual_versions_max),
        observe=None if readings is None else readings.trained,
        counted=config.bounds.statistics,
        mark=TrainingMark(config.state_folder, task_label(config.task.name)),
    )


def _workshop(config: NodeConfig, ingestion: Ingestion | None, installed: Installed | None) -> TrainingSetup | None:
    """The same; None where a release on trial cannot be built, and the one before is to run again."""
    try:
        setup = build_workshop(config, None if ingestion is None else ingestion.readings)
    except (ConfigError, TaskError) as error:
        if installed is None or not installed.on_trial:
            raise
        get_log("node").warning("task_release_failed", number=installed.state.running, reason=str(error))
        installed.go_back(str(error))
        return None
    if setup.mark is not None:
        setup.mark.tell()
    return setup


def _build(name: str, context: TaskContext) -> Task:
    get_log("node").info("loading_task", task=task_label(name))  # at once: torch may take half a minute
    with said_while_slow(f"loading the task {name} and its data"):
        with user_code(f"the task {name} cannot be built"), process_state_kept():
            task = load_task(name)(context)
            prepare(task)
        return task


def _device(task: Task, config: NodeConfig) -> str:
    """What the task says that it runs on; a task that says nothing runs on the CPU unless it was told otherwise."""
    said = getattr(task, "device", None)
    if isinstance(said, str):
        return said
    return "cpu" if config.training.device == "auto" else config.training.device


def _keeps_privacy(task: Task) -> bool:
    """Whether the task can be trained with differential privacy; why it cannot is said once, in the log."""
    if not isinstance(task, Private):
        return False
    objection = task.private_objection()
    if objection is not None:
        only = "this node cannot take part in a run with differential privacy; any other is as ever"
        get_log("node").info("no_differential_privacy", why=f"{only}: {objection}")
    return objection is None


def _run(
    config: NodeConfig,
    address: BrokerAddress,
    store: NodeStore,
    ingestion: Ingestion | None,
    installed: Installed | None,
) -> int:
    setup = _workshop(config, ingestion, installed)
    if setup is None:
        return START_AGAIN
    device = _device(setup.task, config)
    get_log("node").info("node_started", node=setup.node, incarnation=store.incarnation, device=device)
    inbox: Inbox = queue.Queue(INBOX_ITEMS_MAX)
    clock, topics = MonotonicClock(), Topics(FederationId(config.federation.id))
    trust = node_trust(config.security)
    _warn(address, trust)
    transport = node_transport(config, address, inbox, node_will(Writer(topics, trust.signer), setup.node, store))
    keeper = _keeper(config, setup.task, transport)
    offer, training = None if keeper is None else keeper.offer, config.training
    priority = Priority(training.nice, threads=training.threads, session=own_session())
    trainer = ThreadTrainer(setup, inbox, clock, stall_s=training.stall_s, priority=priority, offer=offer)
    sealing, pinned = node_sealing(config, topics, trust), config.privacy.pinned()
    inbound = Inbound(topics, setup.node, trust.verifier, sealing, pinned, config.state_folder)
    parts = NodeParts(
        setup=setup,
        store=store,
        trainer=trainer,
        transport=transport,
        topics=topics,
        signer=trust.signer,
        inputs_of=inbound.inputs_of,
        sealing=sealing,
        helpers=inbound.masking,
        rest=transport.rest,
    )
    executor = NodeExecutor(parts)
    sensors = Sensors()
    machine = NodeMachine(
        replace(node_settings(config, device, setup.manifest), private=_keeps_privacy(setup.task)),
        store.incarnation,
        executor.recovered(),
        rng=random.SystemRandom().random,
        state_id=store.state_id,
        gate=_gate(config, sensors, ingestion),
        device=lambda: {**sensors.capabilities(), **columns_said(setup.task)},
        lacks_key=(lambda: None) if sealing is None else sealing.lacks,
    )
    rollout = rollout_for(config, installed, parts, inbox, lambda: trainer.trains)
    translate = inbound.translate if rollout is None else rollout.watching(inbound.translate)
    with StopSignals(inbox, StopRequested()) as signals:
        transport.open()
        alive = lambda: transport.alive and trainer.gets_on and _takes_in(ingestion)  # noqa: E731 - of one use
        supervised = Supervision(inbox, alive, folder=config.state_folder)
        with supervised, lost_on_error(transport, timeout_s=FLUSH_S):
            told = DiskTrouble(executor, supervised.obstacles)
            Driver(machine, told, inbox, clock, supervised.watching(translate)).run()
        return _left(parts, keeper, rollout, signals)


def _left(parts: NodeParts, keeper: ModelKeeper | None, rollout: Rollout | None, signals: StopSignals) -> int:
    """Close what is open; returns the exit code, or `START_AGAIN` where the end is for another release alone."""
    if keeper is not None:
        keeper.close(timeout_s=HOOKS_STOP_S)
    parts.transport.close(timeout_s=FLUSH_S)
    if rollout is not None:
        rollout.close()
        if rollout.restarts and signals.received is None:
            return START_AGAIN
    if not parts.trainer.close(timeout_s=WORKER_STOP_S):
        get_log("node").warning("worker_abandoned", why="the task does not ask its stop flag")
        leave_at_once(signals.exit_code, parts.store.close)
    return signals.exit_code


def _takes_in(ingestion: Ingestion | None) -> bool:
    return ingestion is None or ingestion.alive


def _gate(config: NodeConfig, sensors: Sensors, ingestion: Ingestion | None) -> Callable[[], str | None]:
    """Why the device does not train now, or None; too little may have come since the last training."""
    conditions, least = eligibility(config), config.eligibility.examples_new_min
    if ingestion is None:
        return lambda: why_not(conditions, sensors)
    return lambda: why_not(conditions, sensors) or ingestion.readings.why_not(least)


def node_sealing(config: NodeConfig, topics: Topics, trust: Trust) -> NodeSealing | None:
    """What this node seals and opens; None where it has no certified keys: a broker could put its own in their place.

    Raises:
        StorageError: The keys cannot be kept.
    """
    if trust.signer is None or trust.verifier is None:
        return None
    sealing = NodeSealing(topics, NodeId(config.node.id), config.state_folder)
    sealing.start()
    return sealing


def _keeper(config: NodeConfig, task: Task, transport: MqttTransport) -> ModelKeeper | None:
    """What writes the model for the device's own use.

    Raises:
        ConfigError: The task cannot write it so.
    """
    keeper = make_keeper(
        config.model, task_label(config.task.name), lambda topic, body: transport.publish(topic, body, retain=True)
    )
    if keeper is not None:
        keeper.check(task)
    return keeper


def _warn(address: BrokerAddress, trust: Trust) -> None:
    log = get_log("node")
    for event, why in exposures(address, sys.argv):
        log.warning(event, why=why)
    if trust.verifier is None:
        why = "whoever can write to the broker can make this device train: security.require_signatures"
        log.warning("unsigned_obeyed", why=why)


def client_id(config: NodeConfig, address: BrokerAddress) -> str:
    """As what the broker knows this node's session.

    A name that the broker has by other means (the certificate's, the user's) is what it forces or pins ids to.
    Elsewhere the federation is in it: two nodes of one name, in two federations, would end each other's connection.
    """
    if config.broker.client_id is not None:
        return config.broker.client_id
    known = config.broker.tls_certificate is not None or address.username == config.node.id
    return config.node.id if known else f"{config.federation.id}.{config.node.id}"


def node_transport(config: NodeConfig, address: BrokerAddress, inbox: Inbox, will: Will) -> MqttTransport:
    """The node's connection with its subscriptions; it connects when it is opened."""
    node, topics = NodeId(config.node.id), Topics(FederationId(config.federation.id))
    session = SessionSettings(
        client_id=client_id(config, address),
        keepalive_s=config.broker.keepalive_s,
        perishable=topics.node_chunks(node),
    )
    profile = config.broker.limits
    transport = MqttTransport(address, profile.session(session), inbox, will=profile.will(will))
    # The keys come before the round that needs them: what is retained arrives in the order of the subscriptions.
    keys = (topics.node_key(node),) if config.security.require_signatures else ()
    helpers = (topics.helper_states,) if config.privacy.helpers else ()
    for topic_filter in (*keys, *helpers, *topics.node_subscriptions(node)):
        transport.subscribe(topic_filter)
    return transport


def node_settings(config: NodeConfig, device: str, manifest: Manifest) -> NodeSettings:
    """What the machine is told of the configuration, and of the size of the task's own model."""
    bounds = TrainBounds(**config.bounds.model_dump(exclude={"statistics"}))
    # A run that began under an earlier release has what never changes in its frames, too.
    needed = MODEL_FRAMES_MAX * max(manifest.frame_bytes_max, manifest.former.frame_bytes_max)
    return NodeSettings(
        node=NodeId(config.node.id),
        task=task_label(config.task.name),
        device=device,
        release=fit_text(RELEASE, RELEASE_BYTES_MAX),
        codecs=config.training.codecs,
        chunk_bytes=config.broker.limits.chunk_bytes,
        named_chunks_max=config.broker.limits.named_chunks_max,
        bounds=replace(bounds, model_bytes_max=min(bounds.model_bytes_max, needed)),
        outbox_max=config.store.outbox_max,
        signed=config.security.require_signatures,
        sealed_only=config.security.require_sealed,
        helpers={helper.name: helper.key for helper in config.privacy.pinned()},
        ineligible_retry_s=config.eligibility.retry_s,
        uses_model=config.model.folder is not None,
        model_every_s=config.model.every_s,
        exit_when_finished=config.node.exit_when_finished,
    )


def eligibility(config: NodeConfig) -> Conditions:
    """When this device may train.

    Raises:
        ConfigError: The hours are not a window.
    """
    wanted = config.eligibility
    hours = None if wanted.hours is None else parse_hours(wanted.hours)
    return Conditions(**wanted.model_dump(exclude={"hours", "retry_s", "examples_new_min"}), hours=hours)

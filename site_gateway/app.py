"""The gateway's composition root: two stores, two brokers, both roles' machines, and the one loop around them."""

import os
import queue
import random
import secrets
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from coordinator.app import coordinator_trust
from coordinator.config.settings import committer_settings, engine_settings
from coordinator.engine.effects import Leave
from coordinator.engine.events import StopRequested
from coordinator.engine.settings import EngineSettings
from coordinator.global_model.sums import SiteClaims, sum_bytes_max
from coordinator.global_model.update_checks import check_update
from coordinator.monitoring.presence_file import PresenceFile
from coordinator.monitoring.state_files import StoppingRule, read_incidents
from coordinator.monitoring.status_file import StatusFile
from coordinator.monitoring.watched_machine import WatchedMachine
from coordinator.runtime.connections import Connections, coordinator_will, open_connections
from coordinator.runtime.enrolled import EnrolledWatch
from coordinator.runtime.executor import ExecutorParts
from coordinator.runtime.group_commit import BATCH_MAX, GroupCommit
from coordinator.runtime.inbound import Inbound as SiteInbound
from coordinator.runtime.incidents import Incidents
from coordinator.runtime.retained_mail import RetainedMail
from coordinator.runtime.sealing import CoordinatorSealing
from coordinator.runtime.starting import ensure_model, evaluated_task
from coordinator.strategies.selection import make_selector
from edge_node.app import node_sealing, node_settings, node_transport, node_trust
from edge_node.engine.effects import PublishProgress
from edge_node.engine.machine import NodeMachine
from edge_node.runtime.connection import node_will
from edge_node.runtime.executor import NodeParts
from edge_node.runtime.inbound import Inbound as NodeInbound
from edge_node.storage.sqlite_store import SqliteNodeStore
from edge_node.training.evaluation import EvaluationJob
from edge_node.training.worker import TrainingJob, TrainingSetup
from federation.config import broker_address
from federation.errors import ConfigError
from federation.identity.signing_keys import Trust
from federation.protocol.messages import Progress
from federation.protocol.signing import Writer
from federation.protocol.topics import Topics
from federation.runtime.clock import MonotonicClock
from federation.runtime.driver import Driver
from federation.runtime.log import configure_log, get_log, write_fields
from federation.runtime.mqtt import MqttTransport
from federation.runtime.network_thread import lost_on_error
from federation.runtime.signals import StopSignals
from federation.runtime.supervision import Supervision
from federation.runtime.transport import INBOX_ITEMS_MAX, Inbox
from federation.types import FederationId, ModelVersion, NodeId, RoundId, RunId, Start
from site_gateway.config import GatewaySettings
from site_gateway.engine.machine import GatewayMachine
from site_gateway.engine.site import LIFTED, SiteMachine
from site_gateway.runtime.executor import AboveExecutor, GatewayExecutor, SiteExecutor
from site_gateway.runtime.following import Follower, SiteTask, site_model
from site_gateway.runtime.inbound import Side, SideInbox, Translator
from site_gateway.runtime.reporting import SiteWatch
from site_gateway.setup.run_above import run_above
from site_gateway.storage.store import SiteStore
from update_codec import Manifest

__all__ = ["run_gateway", "site_folder"]

FLUSH_S = 2.0
"""How long an orderly stop waits for each broker, in seconds."""


def site_folder(settings: GatewaySettings, run: RunId) -> Path:
    """Where the site's state for one run above is."""
    return settings.below.store.folder / run


def run_gateway(settings: GatewaySettings) -> int:
    """Run one gateway until it is told to stop, or the run above is over; returns the exit code.

    A node that has heard more of the run elsewhere has it begin again with higher numbers.

    Raises:
        ConfigError: A setting or a certificate is wrong.
        StorageError: A state folder is in use, damaged or not writable.
        TransportError: A broker cannot be used, or no run has ever been heard above.
    """
    configure_log(json=settings.own.log.as_json, level=settings.own.log.level)
    while (code := _run_once(settings)) is None:
        pass
    return code


def _run_once(settings: GatewaySettings) -> int | None:
    """As `run_gateway`; None where it is to begin again."""
    node_store = SqliteNodeStore(settings.above.state_folder)
    try:
        run = run_above(settings, node_store)
        gateway = NodeId(settings.above.node.id)
        folder, kept = site_folder(settings, run), settings.below.store
        versions, updates = kept.audit_versions, kept.updates_kept
        store = SiteStore(folder, gateway=gateway, run=run, audit_versions=versions, updates_kept=updates)
        store.wait_later()
        try:
            return _Gateway.make(settings, node_store, store).drive()
        finally:
            store.close()
    finally:
        node_store.close()


class _NoTrainer:
    """A gateway's node hands its training to the site."""

    def start(self, job: TrainingJob) -> None:
        """Never asked: the gateway's machine takes the order."""

    def evaluate(self, job: EvaluationJob) -> None:
        """Never asked."""

    def stop(self, round_id: RoundId) -> None:
        """Never asked."""

    def close(self, *, timeout_s: float) -> bool:
        """Nothing runs."""
        del timeout_s
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Above:
    """The node's parts."""

    transport: MqttTransport
    inbound: NodeInbound
    executor: AboveExecutor
    machine: NodeMachine


@dataclass(frozen=True, slots=True, kw_only=True)
class _Below:
    """The coordinator's parts."""

    connections: Connections
    commits: GroupCommit
    inbound: SiteInbound
    executor: SiteExecutor
    machine: SiteMachine
    incidents: Incidents


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gateway:
    """Everything together."""

    settings: GatewaySettings
    store: SiteStore
    inbox: Inbox
    above: _Above
    below: _Below
    engine: EngineSettings

    @classmethod
    def make(cls, settings: GatewaySettings, node_store: SqliteNodeStore, store: SiteStore) -> "_Gateway":
        """Put both roles together; nothing is connected yet."""
        # A site evaluates nothing centrally, and ends when the run above does.
        changed = {"evaluation": settings.below.evaluation.model_copy(update={"every": 0, "nodes_every": 0})}
        settings = replace(settings, below=settings.below.model_copy(update=changed))
        task = evaluated_task(settings.below)
        try:
            ensure_model(settings.below, store, task)
        finally:
            task.close()
        inbox: Inbox = queue.Queue(INBOX_ITEMS_MAX)
        engine = replace(engine_settings(settings.below), versions=0)
        above = _above(settings, node_store, store, SideInbox(inbox, Side.ABOVE))
        below, engine = _below(settings, engine, store, SideInbox(inbox, Side.BELOW), above.executor)
        return cls(settings=settings, store=store, inbox=inbox, above=above, below=below, engine=engine)

    def _say(self, progress: Progress) -> None:
        """Telemetry above: it may be lost, and nobody acts on it."""
        self.above.executor.execute(PublishProgress(progress=progress))

    def drive(self) -> int | None:
        """Run the loop; None where it is to begin again."""
        log, machine = get_log("gateway"), GatewayMachine(self.above.machine, self.below.machine, self.store.run)
        incidents = self.below.incidents
        rule = StoppingRule(settings=self.engine.stopping, versions=0)
        status = StatusFile(self.store.folder, machine.snapshot, incidents.counts, rule)
        clock = MonotonicClock()
        presence = PresenceFile(self.store.folder, self.store.run, gateways=self.engine.gateways)
        watch = SiteWatch(presence, machine.snapshot, self._say)
        driven = WatchedMachine(machine, self.below.commits.settle, clock.now, status, watch)
        executor = GatewayExecutor(self.above.executor, self.below.executor, self.settings.own.gateway.form)
        told = {"run": self.store.run, "version": self.store.head(), "form": self.settings.own.gateway.form.value}
        log.info("gateway_started", gateway=self.settings.above.node.id, pid=os.getpid(), **told)
        site_keys = self.settings.below.security
        enrolled = site_keys.node_keys if site_keys.require_signatures else None
        side = SideInbox(self.inbox, Side.BELOW)
        with StopSignals(self.inbox, StopRequested()) as signals:
            self.above.transport.open()
            self.below.connections.open()
            try:
                with (
                    EnrolledWatch(enrolled, side, self.below.executor.sealing),
                    Supervision(
                        self.inbox,
                        lambda: self.above.transport.alive and self.below.connections.alive,
                        folder=self.store.folder,
                    ) as seen,
                ):
                    alive = seen.watching(lambda event: event)
                    translate = Translator(alive, self.above.inbound.translate, self.below.inbound.translate, seen.see)
                    parts = (driven, executor, self.inbox, clock, translate)
                    with lost_on_error(*self.below.connections.threads, self.above.transport, timeout_s=FLUSH_S):
                        Driver(*parts, settle=driven.settle, batch_max=BATCH_MAX).run()
            finally:
                self.below.connections.close(timeout_s=FLUSH_S)
                self.above.transport.close(timeout_s=FLUSH_S)
                driven.close()
            log.info("gateway_stopped", reason=executor.stop_reason)
        _check_left(self.below.executor, self.store, self.settings.below.federation.id)
        return None if executor.stop_reason == LIFTED and not signals.exit_code else signals.exit_code


def _check_left(executor: SiteExecutor, store: SiteStore, federation: str) -> None:
    """Say why this gateway has left its site to another one, and what to do; a new start would leave again.

    Raises:
        ConfigError: It has.
    """
    match executor.stop_reason:
        case Leave.FENCED:
            problem = f"a newer gateway leads this site in run {store.run}: this folder (epoch {store.epoch}) is a copy"
            remedy = (
                "of its state, or a new one; stop one of the two, and start the one with the newer state again. If that"
            )
            remedy += " state is lost, wait until the broker has noticed (two minutes), and start this one again"
            raise ConfigError("store.folder", f"{problem} {remedy}", source=str(store.folder))
        case Leave.OTHER_RUN | Leave.REPLACED:
            problem = (
                f"the coordinator of another run, {executor.other_run}, leads federation {federation} at the site's"
            )
            remedy = "broker: stop that one (after a kill, wait two minutes), or give the site another federation.id"
            raise ConfigError("federation.id", f"{problem} {remedy}", source=federation)


def _above(settings: GatewaySettings, node_store: SqliteNodeStore, store: SiteStore, inbox: SideInbox) -> _Above:
    config = settings.above
    node, topics = NodeId(config.node.id), Topics(FederationId(config.federation.id))
    trust = node_trust(config.security)
    manifest = store.manifest()
    assert manifest is not None  # noqa: S101 - the store has a version
    first = store.model(ModelVersion(0)) if store.head() == 0 else None
    setup = TrainingSetup(node=node, task=SiteTask(manifest, first), manifest=manifest)
    transport = node_transport(
        config, broker_address(config.broker), inbox, node_will(Writer(topics, trust.signer), node, node_store)
    )
    sealing = node_sealing(config, topics, trust)
    inbound = NodeInbound(topics, node, trust.verifier, sealing)
    parts = NodeParts(
        setup=setup,
        store=node_store,
        trainer=_NoTrainer(),
        transport=transport,
        topics=topics,
        signer=trust.signer,
        inputs_of=inbound.inputs_of,
        sealing=sealing,
    )
    executor = AboveExecutor(parts, store.run, site_model(store))
    # The site stops first: until then the node above is there for its verdicts.
    told = replace(node_settings(config, "gateway", manifest), exit_when_finished=False)
    machine = NodeMachine(
        told,
        node_store.incarnation,
        executor.recovered(),
        rng=random.SystemRandom().random,
        state_id=node_store.state_id,
        lacks_key=(lambda: None) if sealing is None else sealing.lacks,
    )
    return _Above(transport=transport, inbound=inbound, executor=executor, machine=machine)


def _below(
    settings: GatewaySettings, engine: EngineSettings, store: SiteStore, inbox: SideInbox, above: AboveExecutor
) -> tuple[_Below, EngineSettings]:
    config = settings.below
    topics, trust = Topics(FederationId(config.federation.id)), coordinator_trust(config.security)
    recovered = store.recovered_site(recent=engine.max_staleness + 1)
    follower = Follower(store, recovered.head, committer_settings(config), above.held_model)
    recovered = replace(recovered, head=follower.repair(store) or follower.head)
    engine = replace(engine, payload_bytes_max=engine.payload_bytes_max or _frame_bytes_max(engine, follower.manifest))
    start = Start(1 + secrets.randbelow(2**64 - 1))
    will = coordinator_will(Writer(topics, trust.signer), store.run, store.epoch, start)
    connections = open_connections(config, broker_address(config.broker), will, inbox, follower.manifest)
    commits, incidents = (
        GroupCommit(store, connections.control, connections.data),
        Incidents(read_incidents(store.folder)),
    )
    parts = ExecutorParts(
        store=store,
        committer=follower,
        control=commits.control,
        data=commits.data,
        topics=topics,
        now=MonotonicClock().now,
        say=lambda event, fields: write_fields(get_log("gateway").info, event, fields),
        update_norm_max=config.limits.update_norm_max,
        check=partial(check_update, sites=SiteClaims(engine.gateways, engine.num_examples_max)),
        signer=trust.signer,
        sealing=CoordinatorSealing(
            topics, (store.run, store.epoch), store.folder, config.privacy.sealing, trust.signer
        ),
        blame=incidents.count,
        passing=commits.passing,
    )
    executor = SiteExecutor(parts, store, engine.num_examples_max)
    inbound = _site_inbound(topics, store, executor, trust, incidents, connections)
    machine = SiteMachine(
        engine,
        recovered,
        selector=make_selector(config.round.selector),
        rng=random.SystemRandom().random,
        start=start,
    )
    machine.go_on_away(settings.own.gateway.members_max)
    made = _Below(
        connections=connections,
        commits=commits,
        inbound=inbound,
        executor=executor,
        machine=machine,
        incidents=incidents,
    )
    return made, engine


def _frame_bytes_max(engine: EngineSettings, manifest: Manifest) -> int:
    """The largest update that is honest: a node's, or the sum of a gateway below."""
    return max(manifest.frame_bytes_max, sum_bytes_max(manifest) if engine.gateways else 0)


def _site_inbound(
    topics: Topics,
    store: SiteStore,
    executor: SiteExecutor,
    trust: Trust,
    incidents: Incidents,
    connections: Connections,
) -> SiteInbound:
    return SiteInbound(
        topics,
        store,
        executor.traffic,
        executor.broker_connected,
        verifier=trust.verifier,
        incidents=incidents,
        signer=trust.signer,
        retained=RetainedMail(connections.clear_retained, connections.look_again),
        sealing=executor.sealing,
    )

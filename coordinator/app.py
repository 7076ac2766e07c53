"""The coordinator's composition root: store, model, connections, machine, and the loop that runs them."""

import json
import os
import queue
import random
import resource
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from coordinator.config.privacy import pinned_helpers
from coordinator.config.sections import CoordinatorConfig, SecuritySection
from coordinator.config.settings import (
    committer_settings,
    counting_config,
    strategy_name,
    up_codec,
    update_norm_max,
)
from coordinator.engine.effects import Effect, Leave
from coordinator.engine.events import Event, StopRequested
from coordinator.engine.machine import CoordinatorMachine
from coordinator.engine.settings import EngineSettings
from coordinator.global_model.committer import Committer
from coordinator.global_model.sums import SiteClaims, sum_bytes_max
from coordinator.global_model.update_checks import check_update
from coordinator.monitoring.presence_file import PresenceFile
from coordinator.monitoring.report import build_report
from coordinator.monitoring.state_files import StoppingRule, read_incidents
from coordinator.monitoring.status_file import StatusFile
from coordinator.monitoring.watched_machine import WatchedMachine
from coordinator.monitoring.why import lift_words
from coordinator.records import RecoveredState
from coordinator.runtime.central_evaluation import EvaluationWorker, Evaluator, NoEvaluator
from coordinator.runtime.connections import Connections, coordinator_will, open_connections
from coordinator.runtime.enrolled import EnrolledWatch
from coordinator.runtime.executor import CoordinatorExecutor, ExecutorParts
from coordinator.runtime.group_commit import BATCH_MAX, GroupCommit
from coordinator.runtime.inbound import Inbound
from coordinator.runtime.incidents import Incidents
from coordinator.runtime.leading import open_store, while_leading
from coordinator.runtime.retained_mail import RetainedMail
from coordinator.runtime.sealing import CoordinatorSealing, check_room
from coordinator.runtime.starting import check_metric, engine_of, ensure_model, evaluated_task, repaired_head
from coordinator.runtime.task_process import EvaluatedTask
from coordinator.runtime.task_releases import ReleaseShelf, TaskReleases
from coordinator.runtime.traffic import Traffic
from coordinator.storage.sqlite_store import SqlStore
from coordinator.storage.store import CoordinatorStore
from coordinator.strategies.selection import make_selector
from federation.config import broker_address
from federation.errors import ConfigError
from federation.identity.signing_keys import NodeKeys, Trust, read_trust
from federation.protocol.signing import Signer, Writer
from federation.protocol.topics import Topics
from federation.runtime.address import BrokerAddress, exposures
from federation.runtime.clock import MonotonicClock
from federation.runtime.driver import Driver
from federation.runtime.log import configure_log, get_log, write_fields
from federation.runtime.network_thread import lost_on_error
from federation.runtime.signals import StopSignals, leave_at_once
from federation.runtime.supervision import Supervision
from federation.runtime.transport import INBOX_ITEMS_MAX, Inbox
from federation.types import FederationId, RunId, Start
from update_codec import Manifest

__all__ = ["run_coordinator"]

EVALUATION_STOP_S = 2.0
"""How long an orderly stop waits for an evaluation, in seconds."""

ALARMS = frozenset(
    {
        "behind",
        "broker_drops",
        "claim_without_proof",
        "fenced",
        "nobody_trains",
        "other_coordinator",
        "retained_lost",
        "storage_failed",
    }
)
"""Events of the machine that a person should see."""

FLUSH_S = 2.0
"""How long an orderly stop waits for the broker, in seconds."""


def run_coordinator(
    config: CoordinatorConfig,
    report: Path | None = None,
    *,
    incidents: Incidents | None = None,
    inbox: Inbox | None = None,
    replaces: bool = False,
) -> int:
    """Run the coordinator until it is told to stop, or the run is over; returns the exit code.

    Args:
        config: All settings.
        report: Where the report goes at the end, also after Ctrl-C; None is nowhere.
        incidents: Counts what is refused, here and elsewhere; None is the state folder's.
        inbox: Where everything arrives; None is one that nobody else writes to.
        replaces: Whether a coordinator of another run that is online gives way to this one.

    Raises:
        ConfigError: A setting, a certificate or the task's name is wrong; another coordinator leads the federation.
        TaskError: The task cannot be built.
        StorageError: The state folder is in use, damaged or not writable.
        TransportError: The broker cannot be used, or another client has our id.
    """
    configure_log(json=config.log.as_json, level=config.log.level)
    config = counting_config(config)
    plan = _Plan(
        config=config,
        engine=engine_of(config, replaces=replaces),
        address=broker_address(config.broker),
        inbox=queue.Queue(INBOX_ITEMS_MAX) if inbox is None else inbox,
        incidents=Incidents(read_incidents(config.store.folder)) if incidents is None else incidents,
    )
    store = open_store(config.store, plan.inbox)
    if store is None:
        return 0
    store.wait_later()
    task = evaluated_task(config)
    try:
        return _run(plan, store, report, task)
    finally:
        task.close()
        store.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """The configuration after all checks, and what is shared with others."""

    config: CoordinatorConfig
    engine: EngineSettings
    address: BrokerAddress
    inbox: Inbox
    incidents: Incidents


def _run(plan: _Plan, store: SqlStore, report: Path | None, task: EvaluatedTask) -> int:
    config, inbox, log = plan.config, plan.inbox, get_log("coordinator")
    _tell_alarms(plan, store)
    ensure_model(config, store, task)
    recovered = store.recovered(recent=plan.engine.max_staleness + 1)
    committer = Committer(store, recovered.head, committer_settings(config))
    recovered = replace(recovered, head=repaired_head(config, committer, store), terms=committer.terms)
    most = plan.engine.payload_bytes_max or _frame_bytes_max(plan, committer.manifest)
    worker = EvaluationWorker(task, committer.manifest, inbox) if config.evaluation.every else None
    _begin_evaluation(plan, worker, task, committer, store)
    trust = coordinator_trust(config.security)
    start = Start(1 + secrets.randbelow(2**64 - 1))
    will = coordinator_will(Writer(_topics(config), trust.signer), store.run, store.epoch, start)
    connections = open_connections(config, plan.address, will, inbox, committer.manifest)
    commits = GroupCommit(store, connections.control, connections.data)
    executor = _executor(plan, commits, committer, store, worker, signer=trust.signer)
    machine = _machine(
        config,
        replace(plan.engine.for_model(committer.manifest.parameter_count), payload_bytes_max=most),
        recovered,
        start,
    )
    watched = _watched(plan, machine, commits, store.run)
    releases = TaskReleases(ReleaseShelf(config.store.folder), _topics(config), connections.data)
    inbound = _inbound(plan, store, executor, connections, releases)
    log.info("coordinator_started", run=store.run, epoch=store.epoch, version=recovered.head.version, pid=os.getpid())
    with StopSignals(inbox, StopRequested()) as signals:
        connections.open()
        try:
            watch = EnrolledWatch(_enrolled(config.security), inbox, executor.sealing)
            with (
                watch,
                releases,
                Supervision(inbox, lambda: connections.alive, folder=config.store.folder) as supervision,
            ):
                translate: Callable[[object], Event | None] = supervision.watching(while_leading(inbound.translate))
                parts = (watched, executor, inbox, MonotonicClock(), translate)
                with lost_on_error(*connections.threads, timeout_s=FLUSH_S):
                    Driver(*parts, settle=watched.settle, batch_max=BATCH_MAX, follows=machine.follows).run()
        finally:
            connections.close(timeout_s=FLUSH_S)
            watched.close()
        log.info("coordinator_stopped", reason=executor.stop_reason)
        _check_left(executor, config, store)
        if report is not None:
            write_report(config, store, executor.traffic, report)
        if worker is not None and not worker.close(timeout_s=EVALUATION_STOP_S):
            get_log("coordinator").warning("evaluation_abandoned")
            leave_at_once(signals.exit_code, store.close)
    return signals.exit_code


def _frame_bytes_max(plan: _Plan, manifest: Manifest) -> int:
    """The largest update that is honest."""
    return max(manifest.frame_bytes_max, sum_bytes_max(manifest) if plan.engine.gateways else 0)


def _inbound(
    plan: _Plan, store: SqlStore, executor: CoordinatorExecutor, connections: Connections, releases: TaskReleases
) -> Inbound:
    trust = coordinator_trust(plan.config.security)

    def connected() -> None:
        executor.broker_connected()
        releases.connected()

    return Inbound(
        _topics(plan.config),
        store,
        executor.traffic,
        connected,
        verifier=trust.verifier,
        incidents=plan.incidents,
        signer=trust.signer,
        helpers=pinned_helpers(plan.config.privacy),
        retained=RetainedMail(connections.clear_retained, connections.look_again),
        sealing=executor.sealing,
        hear_task=releases.hear,
    )


def _enrolled(section: SecuritySection) -> Path | None:
    """The file of those who are enrolled, where it decides who is believed."""
    return section.node_keys if section.require_signatures else None


def _machine(
    config: CoordinatorConfig, engine: EngineSettings, recovered: RecoveredState, start: Start
) -> CoordinatorMachine:
    selector, rng = make_selector(config.round.selector), random.SystemRandom().random
    return CoordinatorMachine(engine, recovered, selector=selector, rng=rng, start=start)


def _watched(
    plan: _Plan, machine: CoordinatorMachine, commits: GroupCommit, run: RunId
) -> WatchedMachine[Event, Effect]:
    rule = StoppingRule(settings=plan.engine.stopping, versions=plan.engine.versions)
    status = StatusFile(plan.config.store.folder, machine.snapshot, plan.incidents.counts, rule)
    presence = PresenceFile(plan.config.store.folder, run, gateways=plan.engine.gateways)
    return WatchedMachine(machine, commits.settle, MonotonicClock().now, status, presence)


def _begin_evaluation(
    plan: _Plan, worker: EvaluationWorker | None, task: EvaluatedTask, committer: Committer, store: SqlStore
) -> None:
    """Fill the gap that a crash may have left, and load the evaluation's data before the first round needs it."""
    if worker is None:
        return
    check_metric(plan.engine.stopping, task, committer)
    if not store.history()[-1].metrics:
        worker.submit(committer.head.version, committer.evaluated_model)


def _tell_alarms(plan: _Plan, store: SqlStore) -> None:
    for event, why in exposures(plan.address, sys.argv):
        get_log("coordinator").warning(event, why=why)
    for alarm in store.alarms:
        get_log("coordinator").error("head_repaired", detail=alarm)


def coordinator_trust(section: SecuritySection) -> Trust:
    """The coordinator's key, and the nodes' where their word must be signed.

    Raises:
        ConfigError: A file is missing or damaged.
    """
    return read_trust(section.signing_key, section.node_keys if section.require_signatures else None, NodeKeys)


def write_report(config: CoordinatorConfig, store: CoordinatorStore, traffic: Traffic, path: Path) -> None:
    """Write the run's report as JSON."""
    report: Mapping[str, object] = build_report(
        store, strategy=strategy_name(config), codec=up_codec(config), tail=(traffic.up, traffic.down)
    ) | {
        "task": config.task.name,
        # Kilobytes on Linux.
        "coordinator_peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _executor(
    plan: _Plan,
    commits: GroupCommit,
    committer: Committer,
    store: CoordinatorStore,
    evaluator: Evaluator | None,
    *,
    signer: Signer | None,
) -> CoordinatorExecutor:
    config = plan.config
    check_room(config.privacy.sealing, store.recovered(recent=1).inputs)
    sealed = (store.run, store.epoch), config.store.folder, config.privacy.sealing, signer
    return CoordinatorExecutor(
        ExecutorParts(
            store=store,
            committer=committer,
            control=commits.control,
            data=commits.data,
            topics=_topics(config),
            now=MonotonicClock().now,
            say=_speaker(),
            evaluator=evaluator or NoEvaluator(),
            update_norm_max=update_norm_max(config),
            check=partial(check_update, sites=SiteClaims(config.gateways.caps, config.limits.num_examples_max)),
            signer=signer,
            sealing=CoordinatorSealing(_topics(config), *sealed),
            blame=plan.incidents.count,
            passing=commits.passing,
        )
    )


def _speaker() -> Callable[[str, Mapping[str, object]], None]:
    """Writes the machine's notes, once the log is configured: each message is one or two of them."""
    log = get_log("coordinator").bind()

    def say(event: str, fields: Mapping[str, object]) -> None:
        if event == "behind":
            fields = {**fields, "remedy": lift_words(fields)}
        write_fields(log.warning if event in ALARMS else log.info, event, fields)

    return say


def _check_left(executor: CoordinatorExecutor, config: CoordinatorConfig, store: CoordinatorStore) -> None:
    """Say why this coordinator has left the federation to another one, and what to do.

    Raises:
        ConfigError: It has.
    """
    match executor.stop_reason:
        case Leave.FENCED:
            problem = f"a newer coordinator leads run {store.run}: this folder (epoch {store.epoch}) is a copy"
            remedy = "of its store; stop one of the two. If the newer state is lost, wait until the broker has noticed "
            remedy += "(two minutes), start this one again, and ask coordinator why"
            raise ConfigError("store.folder", f"{problem} {remedy}", source=str(config.store.folder))
        case Leave.OTHER_RUN:
            problem = (
                f"the coordinator of another run, {executor.other_run}, is online here, and this is run {store.run}"
            )
            remedy = "stop that one (after a kill, wait two minutes), take another federation.id, or start this one"
            raise ConfigError("federation.id", f"{problem}: {remedy} with --replace", source=config.federation.id)
        case Leave.REPLACED:
            problem = f"the coordinator of another run, {executor.other_run}, has taken this federation over"
            remedy = f"from run {store.run}, which keeps its state; to go on with it, start it with --replace"
            raise ConfigError("federation.id", f"{problem} {remedy}", source=config.federation.id)


def _topics(config: CoordinatorConfig) -> Topics:
    return Topics(FederationId(config.federation.id))

"""``edge-node doctor``: checks what a node needs, in the order in which it needs it, and says the remedy."""

import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path

from edge_node.app import build_workshop, node_trust
from edge_node.config import NodeConfig
from edge_node.readings.live import NodeReadings
from edge_node.setup.status import check_readings
from edge_node.setup.visit import Visit, visit_as_node
from edge_node.storage.database import DATABASE, remedy_of, traces
from federation.config import broker_address
from federation.doctor import (
    FREE_BYTES_MIN,
    Finding,
    Verdict,
    check_clock,
    check_dial,
    check_folder,
    check_own_certificate,
    check_room,
    check_tls,
    check_versions,
    failed,
    judge_refusal,
    judge_silence,
    passed,
    passing_by,
    warned,
)
from federation.errors import FederationError
from federation.identity.bundle import BUNDLE_BYTES_MAX
from federation.identity.private_files import read_text
from federation.identity.signing_keys import read_signing_key
from federation.protocol.messages import Presence
from federation.protocol.wire import PROTOCOL_VERSION
from federation.storage.folder import has_content, lost
from federation.task import task_label

__all__ = ["check_disk", "check_own_key", "check_state", "examine", "examine_broker"]


def examine(config: NodeConfig) -> Iterator[Finding]:
    """Check everything; what needs a broker is left out when there is none."""
    yield check_versions()
    yield check_clock(time.time())
    state = check_state(config)
    yield state
    yield check_disk(config)
    if config.data.is_given:
        yield check_readings(config.state_folder, time.time())
    yield check_task(config)
    yield from examine_broker(config, runs=state.verdict is Verdict.WARN)


def examine_broker(config: NodeConfig, *, runs: bool) -> Iterator[Finding]:
    """The way to the broker, what it lets this node do, and who coordinates there; ``runs``: the node does."""
    try:
        address = broker_address(config.broker)
    except FederationError as error:
        yield failed("broker settings", str(error), "correct this setting")
        return
    if config.broker.tls_certificate is not None:
        yield check_certificate(config.broker.tls_certificate, config.node.id, dt.datetime.now(dt.UTC))
    dialled = check_dial(address)
    yield from check_own_key(config)
    yield dialled
    if dialled.verdict is not Verdict.PASS:
        return
    secured = check_tls(address, time.time())
    if secured is not None:
        yield secured
        if secured.verdict is Verdict.FAIL:
            return
    if config.broker.tls_certificate is not None and runs:
        # A broker that takes the client id from the certificate would end the running node's connection for ours.
        said = "not tried: the node runs, and the broker would take this visit for it"
        yield passing_by(config.state_folder, said, "see the node's own log")
        return
    try:
        trust = node_trust(config.security)
    except FederationError as error:
        yield failed("signatures", str(error), "join again with an enrolment file")
        return
    yield from judge_visit(visit_as_node(config, address, trust), config)


def check_own_key(config: NodeConfig) -> Iterator[Finding]:
    """The line by which helpers of masked sums admit this node; nothing where it has no key."""
    file = config.security.signing_key
    if file is None:
        return
    try:
        key = read_signing_key(read_text(file, bytes_max=BUNDLE_BYTES_MAX), source=str(file))
    except FederationError:
        return  # the check of the signatures says so
    yield passed("own key", f"{config.node.id}={key.public_hex}")


def check_state(config: NodeConfig) -> Finding:
    """Whether the state folder can be written, is not in use, and has its database."""
    folder = config.state_folder
    if (found := traces(folder)) and not has_content(folder / DATABASE):
        return failed("state folder", *str(lost(folder / DATABASE, found, remedy_of(folder))).split(": ", 1))
    return check_folder(folder)


def check_disk(config: NodeConfig) -> Finding:
    """Whether there is room for a model and some updates."""
    remedy = "make room: an update that cannot be saved is not sent"
    return check_room(config.state_folder, bytes_min=FREE_BYTES_MIN, remedy=remedy)


def check_task(config: NodeConfig) -> Finding:
    """Whether the task can be built here, and on which device."""
    try:
        readings = NodeReadings(config.state_folder, wall=time.time) if config.data.is_given else None
        setup = build_workshop(config, readings)
    except FederationError as error:
        return failed("task", str(error), "see the task's name, its data folder and its packages")
    device = getattr(setup.task, "device", "cpu")
    said = f"{config.task.name}: {setup.manifest.parameter_count:,} parameters on {device}"
    return passed("task", said)


def check_certificate(path: Path, node: str, now: dt.datetime) -> Finding:
    """Whether this node's certificate is its own, and for how long; ``now`` has a time zone."""
    renewal = "ask for a new enrolment file (coordinator renew) and join again"
    return check_own_certificate(path, now, owner=node, renewal=renewal)


def judge_visit(visit: Visit, config: NodeConfig) -> Iterator[Finding]:
    """What a short connection to the broker has shown."""
    if not visit.accepted:
        yield judge_refusal(visit, with_certificate=config.broker.tls_certificate is not None)
        return
    yield passed("broker session", f"accepted, packets up to {visit.packet_bytes_max:,} bytes")
    if visit.refused:
        topics = f"fl/{config.federation.id}/n/{config.node.id}/#"
        remedy = (
            f"the broker's ACL must let it write {topics} (mosquitto/acl.example); where a rule has %u, its user name"
        )
        yield failed("access rules", "this node may not publish to its own topics", f"{remedy} must be its id")
    elif visit.unanswered:
        yield judge_silence(visit)
    else:
        yield passed("access rules", "this node may publish to its own topics")
    if visit.forged is not None:
        yield failed("signatures", visit.forged, "somebody else speaks there, or this node was enrolled elsewhere")
    yield _judge_coordinator(visit)
    if visit.announcement is not None:
        announced, own = visit.announcement.task, task_label(config.task.name)
        same = announced == own
        said = f"round {visit.announcement.round} is about {announced}"
        yield passed("task of the run", said) if same else failed("task of the run", said, f"this node has {own}")


def _judge_coordinator(visit: Visit) -> Finding:
    state = visit.coordinator
    if state is None or state.presence is not Presence.ONLINE:
        said = "none has been here" if state is None else f"it is {state.presence}"
        remedy = "start the coordinator, or see the federation's name and the broker's ACL"
        return warned("coordinator", said, remedy)
    spoken = f"protocol {state.protocol_min} to {state.protocol_max}"
    if not state.protocol_min <= PROTOCOL_VERSION <= state.protocol_max:
        return failed("coordinator", spoken, f"this node speaks {PROTOCOL_VERSION}: upgrade the older side")
    return passed("coordinator", f"online, {spoken}")

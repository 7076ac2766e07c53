"""``coordinator doctor``: checks what a coordinator needs, in the order in which it needs it, and says the remedy."""

import datetime as dt
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from coordinator.config.sections import CoordinatorConfig, StoreSection
from coordinator.config.settings import engine_settings
from coordinator.global_model.initial import InitialRequest, initial_model
from coordinator.storage.database import DATABASE
from coordinator.storage.files import remedy_of, traces
from coordinator.storage.places import NOTE, leader_at
from coordinator.storage.read_only import ReadOnlyStore
from federation.config import broker_address
from federation.doctor import (
    FREE_BYTES_MIN,
    OUTDATED,
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
    is_outdated,
    is_patched,
    judge_refusal,
    judge_silence,
    package_version,
    passed,
    warned,
)
from federation.errors import FederationError, RemoteProtocolError, StorageError
from federation.protocol.messages import CoordinatorState, NodeState, Presence
from federation.protocol.topics import NodeStateTopic, Topics
from federation.protocol.wire import decode_message
from federation.runtime.address import BrokerAddress
from federation.runtime.visit import Seen, visit_broker
from federation.storage.folder import has_content, lock_holder, lost
from federation.storage.sealing_keys import read_keys
from federation.types import FederationId, ModelVersion, NodeId
from update_codec import Manifest

__all__ = ["examine"]

COPIES_ON_DISK = 8
"""A version is its arrays, a keyframe and a delta, twice, and updates on their way: so often the model's size."""

BROKER_VERSION_TOPIC = "$SYS/broker/version"
NOBODY = NodeId("doctor")
LAST_VERSION = ModelVersion(2**32 - 1)


def examine(config: CoordinatorConfig) -> Iterator[Finding]:
    """Check everything; what needs a broker is left out when there is none."""
    folder = config.store.folder
    yield check_versions()
    yield check_clock(time.time())
    settings = check_settings(config)
    finding, manifest = check_task(config)
    if settings.detail != finding.detail:  # a wrong task makes both fail, and is said once
        yield settings
    yield check_folder(folder)
    yield finding
    yield from check_database(config.store)
    yield check_store(folder, manifest)
    yield check_sealing(config)
    bytes_min = FREE_BYTES_MIN + (0 if manifest is None else COPIES_ON_DISK * manifest.fp32_bytes)
    yield check_room(
        folder, bytes_min=bytes_min, remedy=f"make {bytes_min >> 20} MiB of room: a full disk stops rounds"
    )
    yield from check_broker(config)


def check_settings(config: CoordinatorConfig) -> Finding:
    """Whether the settings fit together."""
    try:
        engine_settings(config)
    except FederationError as error:
        return failed("settings", str(error), "correct this setting")
    return passed("settings", f"federation {config.federation.id}, task {config.task.name}")


def check_sealing(config: CoordinatorConfig) -> Finding:
    """Whether the broker reads updates and the model, and whether the keys against that can be used."""
    if not config.privacy.sealed:
        said = "off: the broker reads every update and the model"
        if not config.security.require_signatures:
            return passed("sealing", f"{said}, as in every federation without certificates")
        return warned("sealing", said, "set privacy.sealed = true (docs/how-to/privacy.md)")
    try:
        keys = read_keys(config.store.folder)
    except StorageError as error:
        return failed("sealing", str(error), "move the file away")
    epoch = f", group key {keys.groups[-1].epoch}" if keys.groups else "; the first start makes its keys"
    return passed("sealing", f"{config.privacy.kem}{epoch}")


def check_task(config: CoordinatorConfig) -> tuple[Finding, Manifest | None]:
    """Whether the task can be imported and makes its initial model here."""
    task = config.task
    data, file = (None if path is None else str(path) for path in (task.data, task.initial))
    try:
        made = initial_model(InitialRequest(task=task.name, data=data, seed=task.seed, file=file))
    except FederationError as error:
        return failed("task", str(error), "see the task's name, its data folder and its packages"), None
    said = f"{task.name}: {made.manifest.parameter_count:,} parameters, {made.manifest.fp32_bytes:,} bytes"
    return passed("task", said), made.manifest


def check_store(folder: Path, manifest: Manifest | None) -> Finding:
    """Whether the store is whole, and of this task; a running coordinator is not disturbed."""
    if not has_content(folder / DATABASE) and not (folder / NOTE).is_file():
        if found := traces(folder, DATABASE):
            return failed("store", *str(lost(folder / DATABASE, found, remedy_of(folder))).split(": ", 1))
        return passed("store", "none yet: the first start makes it")
    try:
        with ReadOnlyStore(folder) as store:
            damage, head = store.damage(), store.history()[-1].record
            store.model(head.version)
            other = manifest is not None and store.manifest().digest != manifest.digest
    except (StorageError, IndexError) as error:
        return failed("store", str(error) or "it has no version", remedy_of(folder))
    if damage:
        return failed("store", damage, remedy_of(folder))
    if other:
        return failed("store", "it holds another model than the task's", "name its task, or choose another folder")
    return passed("store", f"whole, version {head.version}")


def check_database(section: StoreSection) -> Iterator[Finding]:
    """Whether the database of the run can be used, and who leads."""
    if section.url is None:
        return
    try:
        leader = leader_at(section.url)
    except FederationError as error:
        yield failed("database", str(error), "see docs/how-to/high-availability.md")
        return
    if leader is None:
        yield passed("database", "nobody has led a run there yet: the first start makes it")
    elif leader.overdue:
        yield passed("database", f"nobody leads; {leader.holder} has last, term {leader.term}")
    else:
        yield passed("database", f"{leader.holder} leads, term {leader.term}")


def check_broker(config: CoordinatorConfig) -> Iterator[Finding]:
    """The way to the broker, and what it lets a coordinator do."""
    try:
        address = broker_address(config.broker)
    except FederationError as error:
        yield failed("broker settings", str(error), "correct this setting")
        return
    for path in (config.broker.tls_certificate, config.broker.tls_data_certificate):
        if path is not None:
            yield check_own_certificate(path, dt.datetime.now(dt.UTC), owner=None, renewal="coordinator renew DIR")
    dialled = check_dial(address)
    yield dialled
    if dialled.verdict is not Verdict.PASS:
        return
    secured = check_tls(address, time.time())
    if secured is not None:
        yield secured
        if secured.verdict is Verdict.FAIL:
            return
    if config.broker.tls_certificate is not None and lock_holder(config.store.folder) is not None:
        # A broker that takes the client id from the certificate would end the running connection for ours.
        said = "not tried: the coordinator runs, and the broker would take this visit for it"
        yield warned("broker session", said, "see coordinator status, and its log")
        return
    topics = Topics(FederationId(config.federation.id))
    certificate = config.broker.tls_certificate is not None
    seen = _visit(config, address, topics)
    yield from judge_visit(seen, topics, with_certificate=certificate)
    if BROKER_VERSION_TOPIC in seen.messages:
        yield judge_broker_version(seen.messages[BROKER_VERSION_TOPIC], package_version() if address.is_local else "")


def judge_visit(seen: Seen, topics: Topics, *, with_certificate: bool = False) -> Iterator[Finding]:
    """What a short connection to the broker has shown."""
    if not seen.accepted:
        yield judge_refusal(seen, with_certificate=with_certificate)
        return
    version = seen.messages.get(BROKER_VERSION_TOPIC, b"a broker that does not name its version").decode(
        errors="replace"
    )
    yield passed("broker session", f"{version}, packets up to {seen.packet_bytes_max:,} bytes")
    probes = len(_probes(topics))
    if seen.refused:
        said = f"{seen.refused} of {probes} publishes were refused: {', '.join(seen.refused_topics)}"
        yield failed(
            "access rules", said, "let the coordinator's user write these in the broker's ACL: mosquitto/acl.example"
        )
    elif seen.unanswered:
        yield judge_silence(seen)
    else:
        yield passed("access rules", "it may publish its state, rounds, models and commands")
    yield _judge_nodes(seen.messages, topics)
    yield _judge_coordinator(seen.messages.get(topics.coordinator_state, b""))


def judge_broker_version(said: bytes, package: str) -> Finding:
    """Whether Mosquitto has the security fixes that were published for it.

    Args:
        said: What the broker says of itself.
        package: The version of this system's package; empty where the broker is elsewhere.
    """
    version = said.decode(errors="replace")
    if not is_outdated(version):
        return passed("broker release", version)
    shown = f"{version}{f', package {package}' if package else ''}"
    if package and is_patched(package):
        return passed("broker release", shown)
    return warned("broker release", shown, OUTDATED)


def _judge_nodes(messages: Mapping[str, bytes], topics: Topics) -> Finding:
    states = [_decoded(body) for topic, body in messages.items() if _is_node_state(topic, topics)]
    known = [state for state in states if isinstance(state, NodeState)]
    if not known:
        remedy = "start a node; when it runs already, see the coordinator's read lines in the broker's ACL"
        return warned("nodes", "no node has said anything that this coordinator may read", remedy)
    online = sum(state.presence is Presence.ONLINE for state in known)
    return passed("nodes", f"{online} of {len(known)} online")


def _judge_coordinator(body: bytes) -> Finding:
    state = _decoded(body)
    if isinstance(state, CoordinatorState) and state.presence is Presence.ONLINE:
        said = f"one is online: run {state.run}, epoch {state.epoch}"
        return warned("coordinator", said, "fine if it is this one; else give this one another federation.id")
    return passed("coordinator", "no other one is online")


def _visit(config: CoordinatorConfig, address: BrokerAddress, topics: Topics) -> Seen:
    name = config.broker.client_id or f"coordinator-{config.federation.id}"
    filters = (topics.coordinator_state, topics.coordinator_subscriptions_control[0], BROKER_VERSION_TOPIC)
    return visit_broker(address, f"{name}-doctor", filters=filters, probes=_probes(topics), enough=lambda _: False)


def _probes(topics: Topics) -> list[tuple[str, bytes]]:
    """Empty and not retained: nodes ignore them, and nothing stays."""
    model = topics.model_chunk(LAST_VERSION, "k0", 0)
    return [(topic, b"") for topic in (topics.coordinator_state, topics.round, model, topics.node_command(NOBODY))]


def _is_node_state(topic: str, topics: Topics) -> bool:
    try:
        return isinstance(topics.parse(topic), NodeStateTopic)
    except RemoteProtocolError:
        return False


def _decoded(body: bytes) -> object:
    try:
        return decode_message(body)
    except RemoteProtocolError:
        return None

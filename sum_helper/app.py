"""The helper's composition root: store, keys, adding thread, broker connection, machine, and the loop around them."""

import queue

from federation.config import broker_address
from federation.identity.private_files import read_text
from federation.identity.signing_keys import (
    NodeKeys,
    SigningKey,
    enrolled_nodes,
    read_coordinator_key,
    read_signing_key,
)
from federation.protocol.enumerations import Presence
from federation.protocol.signing import Writer
from federation.protocol.topics import Topics
from federation.runtime.clock import MonotonicClock
from federation.runtime.driver import Driver
from federation.runtime.log import configure_log, get_log
from federation.runtime.mqtt import MqttTransport
from federation.runtime.network_thread import lost_on_error
from federation.runtime.session import SessionSettings
from federation.runtime.signals import StopSignals
from federation.runtime.supervision import Supervision
from federation.runtime.transport import INBOX_ITEMS_MAX, Inbox, Will
from federation.types import FederationId, HelperId
from federation.units import counted
from sum_helper.config import HelperConfig
from sum_helper.engine.events import StopRequested
from sum_helper.engine.machine import HelperMachine
from sum_helper.runtime.executor import HelperExecutor, HelperParts, helper_state, renew_key
from sum_helper.runtime.inbound import Inbound
from sum_helper.runtime.summing import SummingThread, noise_from
from sum_helper.storage.store import HelperStore

__all__ = ["client_id", "own_key", "run_helper"]

KEY_BYTES_MAX = 65_536
TOGETHER = 64
"""Messages that wait for the disk together."""
STOP_S = 2.0
"""How long an orderly stop waits for the sum at hand, and for the broker, in seconds."""


def run_helper(config: HelperConfig) -> int:
    """Run one helper until it is told to stop; returns the exit code.

    Raises:
        ConfigError: A setting, a certificate or a key is wrong.
        StorageError: The state folder is in use, damaged or not writable.
        TransportError: The broker cannot be used, or another client has this helper's id.
    """
    configure_log(json=config.log.as_json, level=config.log.level)
    store = HelperStore(config.state_folder)
    try:
        return _run(config, store)
    finally:
        store.close()


def own_key(config: HelperConfig) -> SigningKey:
    """The key that nodes and coordinator have pinned.

    Raises:
        ConfigError: The file is missing or damaged.
    """
    path = config.security.signing_key
    return read_signing_key(read_text(path, bytes_max=KEY_BYTES_MAX), source=path.name)


def client_id(config: HelperConfig) -> str:
    """As what the broker knows this helper's session: its own name where a certificate says it."""
    known = config.broker.tls_certificate is not None
    return config.helper.id if known else f"{config.federation.id}.h.{config.helper.id}"


def _run(config: HelperConfig, store: HelperStore) -> int:
    helper, topics = HelperId(config.helper.id), Topics(FederationId(config.federation.id))
    rules, keeping, register = config.helper_rules, config.keeping, config.helper.register_file
    coordinator, nodes = read_coordinator_key(config.security.coordinator_key), NodeKeys(register)
    writer = Writer(topics, own_key(config))
    renew_key(store, keeping)
    store.sync()
    _tell(config, store)
    inbox: Inbox = queue.Queue(INBOX_ITEMS_MAX)
    lost = helper_state(store, Presence.LOST, members_min=rules.members_min)
    topic = topics.helper_state(helper)
    transport = _transport(config, topics, inbox, Will(topic=topic, payload=writer.encode(topic, lost)))
    summing = SummingThread(inbox, noise_from(store.secret))
    parts = HelperParts(
        helper=helper,
        store=store,
        summing=summing,
        transport=transport,
        writer=writer,
        registered=lambda: enrolled_nodes(register),
        rules=rules,
        keeping=keeping,
        chunk_bytes=config.broker.limits.chunk_bytes,
    )
    executor = HelperExecutor(parts)
    inbound = Inbound(topics, helper, coordinator=coordinator, register=nodes, store=store, rules=rules)
    with StopSignals(inbox, StopRequested()) as signals:
        transport.open()
        leaving = lost_on_error(transport, timeout_s=STOP_S)
        alive = lambda: transport.alive and summing.alive  # noqa: E731 - of one use
        with Supervision(inbox, alive, folder=config.state_folder) as supervision, leaving:
            machine, clock, settle = HelperMachine(rules), MonotonicClock(), executor.settle
            watched = supervision.watching
            Driver(machine, executor, inbox, clock, watched(inbound.translate), settle=settle, batch_max=TOGETHER).run()
        transport.close(timeout_s=STOP_S)
        summing.close(timeout_s=STOP_S)
    return signals.exit_code


def _tell(config: HelperConfig, store: HelperStore) -> None:
    log, admitted = get_log("helper"), len(enrolled_nodes(config.helper.register_file))
    told = {"helper": config.helper.id, "incarnation": store.identity.incarnation, "nodes": admitted}
    log.info("helper_started", **told)
    if admitted < config.rules.members_min:
        least, there = config.rules.members_min, counted(admitted, "node")
        why = f"{there} admitted, and a sum has at least {least}: fedmq helper admit"
        log.warning("no_sum_possible", why=why)


def _transport(config: HelperConfig, topics: Topics, inbox: Inbox, will: Will) -> MqttTransport:
    helper, profile = HelperId(config.helper.id), config.broker.limits
    session = SessionSettings(
        client_id=client_id(config),
        keepalive_s=config.broker.keepalive_s,
        perishable=topics.helper_chunks(helper),
    )
    transport = MqttTransport(broker_address(config.broker), profile.session(session), inbox, will=profile.will(will))
    for topic_filter in topics.helper_subscriptions(helper):
        transport.subscribe(topic_filter)
    return transport

"""A real node process behind a broker that was taken over: forged, altered and repeated messages change nothing.

The broker has no access rules here: whoever is on it can say anything anywhere, as whoever runs it could.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_node.storage.sqlite_store import SqliteNodeStore
from federation.identity.signing_keys import NodeKeys, SigningKey, node_keys_text
from federation.protocol.messages import Activity, NodeState, Rebirth, Receipt, ReceiptStatus
from federation.protocol.signing import Reader, Writer
from federation.protocol.topics import NodeEventTopic
from federation.protocol.wire import encode_message
from federation.runtime.local_broker import LocalBroker
from federation.runtime.transport import MessageReceived
from federation.types import ModelVersion, NodeId, RunId, UpdateId
from tests.rigs.scripted_coordinator import LIMIT_S, ScriptedCoordinator, point_model

pytestmark = pytest.mark.broker

NODE = NodeId("n1")
UPDATE = UpdateId("2-n1")
OLD_RUN = RunId("00000000000000bb")
TASK = "quadratic-50"


@dataclass
class Site:
    """One node with keys, and the coordinator that it has pinned."""

    folder: Path
    coordinator: ScriptedCoordinator
    key: SigningKey

    def start(self) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "edge_node", "run", "--config", str(self.folder / "node.toml"), "--log-json"]
        environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)

    def fence(self) -> NodeState:
        """What the node says of itself once it has read everything before."""
        self.coordinator.command(NODE, Rebirth())
        return self.coordinator.birth()

    def settled(self) -> bool:
        """Whether the node has forgotten its update; asked while it does not run."""
        store = SqliteNodeStore(self.folder / "state")
        try:
            return store.entry(UPDATE) is None
        finally:
            store.close()


@pytest.fixture
def site(broker: LocalBroker, tmp_path: Path) -> Iterator[Site]:
    own, key = SigningKey.new(), SigningKey.new()
    (tmp_path / "signing.key").write_text(own.pem)
    (tmp_path / "coordinator.pub").write_text(key.public_pem)
    (tmp_path / "nodes.json").write_text(node_keys_text({NODE: [own.public_hex]}))
    (tmp_path / "node.toml").write_text(
        f"""
federation.id = "it"
node.id = "{NODE}"
broker.url = "{broker.url}"
task.name = "{TASK}"
store.folder = "{{here}}/state"
[security]
require_signatures = true
signing_key = "{{here}}/signing.key"
coordinator_key = "{{here}}/coordinator.pub"
"""
    )
    with ScriptedCoordinator(broker.url, signer=key) as playing:
        yield Site(folder=tmp_path, coordinator=playing, key=key)


def stop(process: "subprocess.Popen[str]") -> list[str]:
    """The event keys of what the node has logged."""
    process.send_signal(signal.SIGTERM)
    said, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, errors
    return [json.loads(line)["event"] for line in said.splitlines()]


def trained(site: Site) -> bytes:
    """Let the node train round 2 from version 2, and return what was announced before."""
    manifest, content = point_model(50)
    older = site.coordinator.publish_model(1, content, manifest)
    site.coordinator.say_online(began_ms=2_000)
    before = site.coordinator.announce(1, older, task="another")  # for nobody here: the node declines
    newer = site.coordinator.publish_model(2, content, manifest)
    site.coordinator.announce(2, newer, task=TASK)
    assert site.coordinator.offer().update == UPDATE
    return before


def test_what_a_node_says_is_signed_with_its_own_key(site: Site) -> None:
    """FED-75, FED-76."""
    process = site.start()
    reader = Reader(site.coordinator.topics, NodeKeys(site.folder / "nodes.json"))
    manifest, content = point_model(50)
    site.coordinator.announce(2, site.coordinator.publish_model(2, content, manifest), task=TASK)
    topics = set()
    while NodeEventTopic(node=NODE) not in topics:
        event = site.coordinator.inbox.get(timeout=LIMIT_S).event
        if isinstance(event, MessageReceived) and event.payload:
            reader.decode(event.topic, event.payload)
            topics.add(site.coordinator.topics.parse(event.topic))
    stop(process)


def test_a_forged_or_altered_receipt_does_not_cost_an_update(site: Site) -> None:
    """FED-76: an update is forgotten at the coordinator's own word only."""
    process = site.start()
    trained(site)
    topic = site.coordinator.topics.node_command(NODE)
    applied = Receipt(run=site.coordinator.run, update=UPDATE, status=ReceiptStatus.APPLIED, version=ModelVersion(3))
    stored = Receipt(run=site.coordinator.run, update=UPDATE, status=ReceiptStatus.STORED)
    other = site.coordinator.topics.node_command(NodeId("n2"))
    forged = (
        encode_message(applied),
        Writer(site.coordinator.topics, SigningKey.new()).encode(topic, applied),
        site.coordinator.writer.encode(other, applied),
        encode_message(applied) + site.coordinator.writer.encode(topic, stored)[-68:],
    )
    for payload in forged:
        site.coordinator.transport.publish(topic, payload)
    site.fence()
    assert "message_refused" in stop(process)
    assert not site.settled()
    process = site.start()
    assert site.coordinator.offer().update == UPDATE
    site.coordinator.receipt(NODE, UPDATE, ReceiptStatus.APPLIED, 3)
    site.fence()
    stop(process)
    assert site.settled()


def test_what_was_signed_once_is_not_obeyed_again(site: Site) -> None:
    """FED-79: after a restart the broker retains an old round, and an old run's coordinator."""
    process = site.start()
    old_round = trained(site)
    stop(process)
    site.coordinator.say_online(9, run=OLD_RUN, began_ms=1_000)
    site.coordinator.transport.publish(site.coordinator.topics.round, old_round, retain=True)
    process = site.start()
    site.fence()
    # The run's own coordinator hears the other word there, and repeats its own [FED-98].
    site.coordinator.say_online(began_ms=2_000)
    assert site.coordinator.offer().update == UPDATE, "the outbox was lost to a former run"
    assert site.fence().activity is Activity.UPLOADING, "its update waits for its own run"
    assert "out_of_date_ignored" in stop(process)
    assert not site.settled()


def test_an_unsigned_round_is_not_trained(site: Site) -> None:
    """FED-76."""
    process = site.start()
    site.coordinator.birth()
    manifest, content = point_model(50)
    model = site.coordinator.publish_model(1, content, manifest)
    signing, site.coordinator.writer = site.coordinator.writer, Writer(site.coordinator.topics)
    site.coordinator.announce(1, model, task=TASK)
    site.coordinator.writer = signing
    assert site.fence().activity is Activity.IDLE
    assert "round_joined" not in stop(process)

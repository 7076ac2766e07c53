"""A node that never helped is named with its reason, and restarts are counted, by a coordinator's own process."""

import signal
from pathlib import Path

import pytest

from coordinator.monitoring.status import read_status
from federation.protocol.messages import Decline, Presence
from federation.protocol.wire import encode_message
from federation.runtime.local_broker import LocalBroker
from federation.types import NodeId
from tests.integration.roles.test_coordinator import MANIFEST, coordinator, ended, settings
from tests.rigs.scripted_nodes import ScriptedNodes

pytestmark = pytest.mark.broker


def test_restarts_and_a_node_that_only_declined_show_in_the_status(broker: LocalBroker, tmp_path: Path) -> None:
    file = settings(tmp_path, broker)
    with ScriptedNodes(broker.url, MANIFEST, ("ann", "bob"), obedient=False) as nodes, coordinator(file) as process:
        nodes.until(lambda: bool(nodes.announcements))
        asked = nodes.announcements[-1]
        declined = Decline(run=asked.run, round=asked.round, reason="battery is low")
        nodes.transport.publish(nodes.topics.node_event(NodeId("bob")), encode_message(declined))
        nodes.present("ann", Presence.ONLINE, incarnation=3)
        nodes.offer(nodes.make_offer(asked, "ann"))
        nodes.until(lambda: bool(nodes.receipts))
        process.send_signal(signal.SIGTERM)
        assert ended(process)[0] == 0
    told = read_status(tmp_path / "state")["nodes"]
    assert isinstance(told, list)
    ann, bob = told
    assert (ann["id"], ann["restarts"], ann["updates_waiting"] + ann["updates_applied"]) == ("ann", 2, 1)
    assert (bob["id"], bob["restarts"], bob["absences"]) == ("bob", 0, {"battery is low": 1})
    assert bob["asked"] >= 1

"""Several hosts for real: broker, coordinator and three nodes with addresses of their own, one of them cut off."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rigs.network_hosts import Host, Network, Program, is_event, why_no_namespaces

pytestmark = [pytest.mark.netns, pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]

BROKER = "broker.example"
CUT = "edge-03"
VERSIONS_MEANWHILE = 5
# The pace of a device: training lasts a tenth of a second, and as long as the file "hold" is there; then it says so.
TASK = """
import threading
from pathlib import Path

import numpy as np

from federation.task import TrainResult


class PacedTask:
    def __init__(self, context):
        self._centre = 0.0 if context.node_index is None else 1.0

    def initial_parameters(self, seed):
        return {"point": np.zeros(64, np.float32)}

    def roles(self):
        return {}

    def train(self, parameters, settings, stop):
        pace = threading.Event()
        pace.wait(0.1)
        if Path("hold").exists():
            print('{"event": "held"}', flush=True)
        while Path("hold").exists() and not stop():
            pace.wait(0.02)
        point = parameters["point"]
        return TrainResult(parameters={"point": point + np.float32(0.1) * (self._centre - point)}, num_examples=10)

    def evaluate(self, parameters):
        return {}


def build(context):
    return PacedTask(context)
"""
# Asynchronous, so that nobody waits for the one that is cut off, and patient with what comes late.
COORDINATOR = {
    "FEDMQ_COORDINATOR__BROKER__URL": f"mqtts://{BROKER}:8883",
    "FEDMQ_COORDINATOR__ROUND__CONCURRENCY": "3",
    "FEDMQ_COORDINATOR__ROUND__INTERVAL_MIN_S": "0",
    "FEDMQ_COORDINATOR__ROUND__BUFFER": "1",
    "FEDMQ_COORDINATOR__ROUND__QUORUM": "1",
    "FEDMQ_COORDINATOR__ROUND__NODES_MIN": "3",
    "FEDMQ_COORDINATOR__ROUND__MAX_STALENESS": "5000",
    "FEDMQ_COORDINATOR__LOG__JSON": "true",
}
NODE = {"FEDMQ_NODE__LOG__JSON": "true", "FEDMQ_NODE__BROKER__KEEPALIVE_S": "5"}


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    reason = why_no_namespaces()
    if reason is not None:
        pytest.skip(reason)
    with Network(tmp_path) as made:
        yield made


@pytest.mark.thorough
def test_versions_go_on_while_a_host_is_cut_off_and_its_update_counts_when_it_is_back(network: Network) -> None:
    broker, server = network.add("broker", aliases=(BROKER,)), network.add("coordinator")
    devices = [network.add(f"edge-0{number}") for number in (1, 2, 3)]
    for host in (server, *devices):
        (host.home / "paced.py").write_text(TASK)
    server.run(f"coordinator init plant --host {BROKER} --no-evaluate --task paced.py:build --enroll edge-01")
    server.run("coordinator enroll plant edge-02 edge-03")
    # Each file goes where it belongs: the authority stays, the broker gets its own folder.
    broker.run(f"cp -r {server.home}/plant/broker .")
    for device in devices:
        device.run(f"cp {server.home}/plant/enrolled/{device.name}.fedmq .")
    broker.start("sh -c 'cd broker && exec mosquitto -c mosquitto.conf'").wait_for("running")
    coordinator = server.start("coordinator run --config plant", **COORDINATOR)
    nodes = {device.name: _join(device) for device in devices}
    coordinator.event("version_committed")

    cut = network.hosts[CUT]
    node = nodes[CUT]
    before_it = len(node.said)
    (cut.home / "hold").touch()
    training = node.event("held", since=before_it)  # whenever it began
    cut.cut()
    node.event("disconnected", since=training)
    meanwhile = len(coordinator.said)
    for _ in range(VERSIONS_MEANWHILE):
        meanwhile = coordinator.event("version_committed", since=meanwhile)
    before = _figures(server, CUT)

    (cut.home / "hold").unlink()
    finished = node.event("training_finished", since=training)
    trained = json.loads(node.said[finished - 1])["round"]
    assert not any(is_event(line, "update_stored", {"node": CUT, "round": trained}) for line in coordinator.said)
    cut.restore()
    node.event("connected", since=finished)
    stored = coordinator.event("update_stored", node=CUT, round=trained)
    coordinator.event("version_committed", since=stored)
    after = _figures(server, CUT)
    assert after["updates_applied"] > before["updates_applied"]
    assert (after["updates_refused"], after["updates_stale"]) == (0, 0)


def _join(device: Host) -> Program:
    return device.start(f"edge-node join {device.name}.fedmq --task paced.py:build --run", **NODE)


def _figures(server: Host, node: str) -> dict[str, int]:
    status = json.loads(server.run("coordinator status --config plant --json"))
    found: dict[str, int] = next(row for row in status["nodes"] if row["id"] == node)
    return found

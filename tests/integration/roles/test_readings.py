"""A real node takes readings from a real broker: whatever is killed, what was acknowledged is in its store."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edge_node.storage.reading_store import read_readings, read_stored
from federation.errors import StorageError
from federation.runtime.address import parse_broker_url
from federation.runtime.local_broker import LocalBroker

pytestmark = pytest.mark.broker

LIMIT_S = 60.0

SETTINGS = """
[federation]
id = "it"
[node]
id = "n1"
[broker]
url = "{url}"
[task]
name = "quadratic-50"
[store]
folder = "{folder}/state"
[data]
flush_s = 0.2
[data.mqtt]
url = "{url}"
[[data.mqtt.topics]]
topic = "plant/+"
time = "t"
columns = {{ "{{1}}" = "v" }}
"""


class Node:
    """A node process that can be killed and started again."""

    def __init__(self, broker: LocalBroker, folder: Path) -> None:
        self.state = folder / "state"
        self._settings = folder / "node.toml"
        self._settings.write_text(SETTINGS.format(url=broker.url, folder=folder))
        self._process: subprocess.Popen[bytes] | None = None
        self._log = (folder / "log").open("wb")

    def start(self) -> None:
        command = [sys.executable, "-m", "edge_node", "run", "--config", str(self._settings)]
        environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, env=environ)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(LIMIT_S)

    def stored(self) -> int:
        try:
            return read_stored(self.state).received
        except StorageError:
            return 0

    def numbers(self) -> set[int]:
        return set(read_readings(self.state).values.astype(int).tolist())

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self._log.close()


class Plant:
    """A sensor, which counts which of its readings the broker has acknowledged."""

    def __init__(self, broker: LocalBroker) -> None:
        address = parse_broker_url(broker.url)
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="plant", protocol=paho.MQTTv5)
        self._client.connect(address.host, address.port)
        self._client.loop_start()
        self.said: set[int] = set()

    def say(self, first: int, count: int) -> None:
        """Say these numbers; returns when the broker has all of them."""
        sent = []
        for number in range(first, first + count):
            payload = f'{{"t": {1_700_000_000 + number}, "v": {number}}}'
            sent.append(self._client.publish("plant/pump", payload, qos=1))
        for one in sent:
            one.wait_for_publish(LIMIT_S)
        self.said |= set(range(first, first + count))

    def reach(self, node: Node) -> None:
        """Say something until it is stored: then the node has subscribed."""
        before = node.stored()

        def heard() -> bool:
            self._client.publish("plant/probe", f'{{"t": {time.time()}, "v": -1}}', qos=1).wait_for_publish(LIMIT_S)
            return node.stored() > before

        until(heard)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def node(broker: LocalBroker, tmp_path: Path) -> Iterator[Node]:
    made = Node(broker, tmp_path)
    yield made
    made.close()
    print((tmp_path / "log").read_text())  # noqa: T201 - shown by pytest when the test has failed


def until(holds: Callable[[], bool]) -> None:
    by = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < by, "it did not come to hold in time"
        time.sleep(0.02)


def test_a_killed_node_has_every_reading_that_the_broker_had(broker: LocalBroker, node: Node) -> None:
    node.start()
    plant = Plant(broker)
    plant.reach(node)
    plant.say(0, 300)
    until(lambda: node.stored() > 0)
    plant.say(300, 300)
    node.kill()
    plant.say(600, 200)
    node.start()
    plant.say(800, 100)
    until(lambda: node.numbers() >= plant.said)
    node.kill()
    plant.close()
    assert node.numbers() == plant.said | {-1}


def test_a_killed_broker_costs_nothing_that_is_stored_and_the_node_comes_back(broker: LocalBroker, node: Node) -> None:
    node.start()
    plant = Plant(broker)
    plant.reach(node)
    plant.say(0, 200)
    until(lambda: node.numbers() >= set(range(200)))
    broker.kill()
    plant.close()
    broker.restart()
    plant = Plant(broker)
    plant.reach(node)
    plant.say(200, 100)
    until(lambda: node.numbers() >= set(range(300)))
    plant.close()

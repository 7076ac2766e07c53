"""A node process with a sensors' broker: what it stores and writes, what a sensor says, what a relay reads along."""

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edge_node.storage.reading_store import read_readings, read_stored
from federation.errors import StorageError
from federation.runtime.address import parse_broker_url

__all__ = ["LIMIT_S", "Node", "Relay", "Sensor"]

LIMIT_S = 120.0
"""The longest wait for anything, in seconds."""

PUBLISH, PUBACK = 3, 4

SETTINGS = """
[federation]
id = "bench"
[node]
id = "n1"
[broker]
url = "{url}"
[task]
name = "quadratic-50"
[store]
folder = "{folder}/state"
[log]
level = "error"
[data]
flush_s = {flush_s}
[data.mqtt]
url = "{sensors}"
[[data.mqtt.topics]]
topic = "one/+"
time = "t"
columns = {{ "{{1}}" = "v" }}
[[data.mqtt.topics]]
topic = "eight/+"
columns = {{ {eight} }}
"""
EIGHT = ", ".join(f'"c{number}" = "v[{number}]"' for number in range(8))


@dataclass(slots=True)
class Node:
    """A node process, and its state.

    Attributes:
        folder: Where its settings and its state are.
        broker: The federation's.
        sensors: The sensors' broker, or a relay to it.
        flush_s: How long readings wait for the disk, in seconds.
        core: The one core that it may use; None lets it use all.
    """

    folder: Path
    broker: str
    sensors: str
    flush_s: float
    core: int | None = None
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def state(self) -> Path:
        """Its state folder."""
        return self.folder / "state"

    def start(self) -> None:
        """Start it."""
        file = self.folder / "node.toml"
        file.write_text(
            SETTINGS.format(
                url=self.broker, sensors=self.sensors, folder=self.folder, flush_s=self.flush_s, eight=EIGHT
            )
        )
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "edge_node", "run", "--config", str(file)]
        if self.core is not None:
            command = ["taskset", "--cpu-list", str(self.core), *command]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environ)

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(LIMIT_S)

    def received(self) -> int:
        """Readings that it has ever stored."""
        try:
            return read_stored(self.state).received
        except StorageError:
            return 0

    def values(self) -> set[int]:
        """The numbers that it has stored."""
        return set(read_readings(self.state).values.astype(int).tolist())

    def used(self) -> tuple[int, float]:
        """Bytes that it has sent to the disk, and its CPU time in seconds."""
        place = Path("/proc") / str(0 if self.process is None else self.process.pid)
        counts = dict(line.split(": ") for line in (place / "io").read_text(encoding="ascii").splitlines())
        cells = (place / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        return int(counts["write_bytes"]), (int(cells[11]) + int(cells[12])) / os.sysconf("SC_CLK_TCK")


class Sensor:
    """Says numbers, and knows which of them the broker has acknowledged."""

    def __init__(self, url: str) -> None:
        address = parse_broker_url(url)
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="sensor", protocol=paho.MQTTv5)
        self._client.max_inflight_messages = 1_000
        self._client.connect(address.host, address.port)
        self._client.loop_start()
        self._sent: list[tuple[int, paho.MQTTMessageInfo]] = []

    @property
    def acknowledged(self) -> set[int]:
        """Numbers that the broker has."""
        return {number for number, info in self._sent if info.rc == paho.MQTT_ERR_SUCCESS and info.is_published()}

    def say(self, number: int) -> None:
        """One number, at a second of its own."""
        payload = f'{{"t": {1_600_000_000 + number}, "v": {number}}}'
        self._sent.append((number, self._client.publish("one/pump", payload, qos=1)))

    def say_eight(self, number: int) -> None:
        """Eight numbers in one message."""
        self._client.publish("eight/pump", json.dumps({"v": [number + 0.5] * 8}), qos=1)

    def reach(self, node: Node) -> None:
        """Say something until the node has stored it: then it listens.

        Raises:
            TimeoutError: It does not.
        """
        before, by = node.received(), time.monotonic() + LIMIT_S
        while node.received() == before:
            self._client.publish("one/probe", f'{{"t": {time.time()}, "v": -1}}', qos=1).wait_for_publish(LIMIT_S)
            time.sleep(0.1)
            if time.monotonic() > by:
                raise TimeoutError("the node does not listen")

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()


@dataclass(slots=True)
class Told:
    """What a relay has read along.

    Attributes:
        sent: Number in each packet that the broker has sent on this connection, by packet id.
        acknowledged: Numbers that the node has acknowledged.
    """

    sent: dict[int, int] = field(default_factory=dict)
    acknowledged: set[int] = field(default_factory=set)

    def read(self, body: bytes, *, from_broker: bool) -> bytes:
        """Read whole packets; returns the rest."""
        while (packet := _packet(body)) is not None:
            kind, content, body = packet
            if from_broker and kind == PUBLISH:
                begin = 2 + int.from_bytes(content[:2])
                mid, body_at = int.from_bytes(content[begin : begin + 2]), begin + 3 + content[begin + 2]
                self.sent[mid] = json.loads(content[body_at:])["v"]
            elif not from_broker and kind == PUBACK:
                self.acknowledged.add(self.sent.pop(int.from_bytes(content[:2]), -1))
        return body


class Relay:
    """Stands between a node and its broker, and reads along which readings are acknowledged."""

    def __init__(self, broker: str) -> None:
        self._broker = parse_broker_url(broker)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._server.getsockname()[1]}"
        self.told = Told()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                node, _ = self._server.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection((self._broker.host, self._broker.port))
            except OSError:
                node.close()
                continue
            self.told.sent.clear()
            threading.Thread(target=self._carry, args=(node, broker), daemon=True).start()

    def _carry(self, node: socket.socket, broker: socket.socket) -> None:
        rests, others = {node: b"", broker: b""}, {node: broker, broker: node}
        with selectors.DefaultSelector() as selector, contextlib.suppress(OSError), node, broker:
            for one in others:
                selector.register(one, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                for one in (each for each in others if each in ready):
                    if not (body := one.recv(65_536)):
                        return
                    # Before it is passed on: what the node is about to hear, and what it has acknowledged.
                    rests[one] = self.told.read(rests[one] + body, from_broker=one is broker)
                    others[one].sendall(body)


def _packet(body: bytes) -> tuple[int, bytes, bytes] | None:
    """The first packet's kind and content, and what follows; None while it is not whole."""
    length = shift = 0
    for place in range(1, min(len(body), 5)):
        length |= (body[place] & 127) << shift
        shift += 7
        if body[place] < 128:
            end = place + 1 + length
            return None if len(body) < end else (body[0] >> 4, body[place + 1 : end], body[end:])
    return None

"""A real score service at a real broker: a score for each row, another version without a restart, a word at its end."""

import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from edge_node.model.versions import Versions, Written
from federation.model_notes import ModelNotes
from federation.runtime.address import parse_broker_url
from federation.runtime.local_broker import LocalBroker
from federation.runtime.mqtt import MqttTransport
from federation.runtime.session import SessionSettings
from federation.runtime.transport import Inbox, MessageReceived
from tests.unit.edge_node.model.test_prediction import RULE, program

pytestmark = pytest.mark.broker

LIMIT_S = 150.0
"""A busy machine takes a minute to start two programs."""
SETTINGS = """
[federation]
id = "it"
[node]
id = "n1"
[broker]
url = "{url}"
[data.mqtt]
url = "{url}"
[[data.mqtt.topics]]
topic = "plant/pump"
columns = {{ a = "a", b = "b" }}
time = "t"
[model]
folder = "{folder}/model"
[score]
home_assistant = "homeassistant"
"""


class Plant:
    """The sensors, and everybody who listens to what is said of them."""

    def __init__(self, url: str) -> None:
        self._inbox: Inbox = queue.Queue(10_000)
        self._kept: list[tuple[str, bytes]] = []
        session = SessionSettings(client_id="plant", connection="data")
        self._transport = MqttTransport(parse_broker_url(url), session, self._inbox)
        for topic in ("fedmq/#", "homeassistant/#"):
            self._transport.subscribe(topic)
        self._transport.open()
        self.row = 0

    def say(self, value: float) -> None:
        self.row += 1
        body = {"t": 1_700_000_000 + self.row, "a": value, "b": value}
        self._transport.publish("plant/pump", json.dumps(body).encode())

    def heard(self, end: str) -> bytes:
        """The next message on a topic that ends so; the others are kept for whoever asks for them."""
        while True:
            for place, (topic, payload) in enumerate(self._kept):
                if topic.endswith(end):
                    del self._kept[place]
                    return payload
            event = self._inbox.get(timeout=LIMIT_S).event
            if isinstance(event, MessageReceived):
                self._kept.append((event.topic, event.payload))

    def score(self, *, version: int) -> dict[str, Any]:
        """A score by this version of a row said from now on; rows are said until there is one."""
        before = 1_700_000_000 + self.row
        while True:
            self.say(2.0)
            try:
                event = self._inbox.get(timeout=0.2).event
            except queue.Empty:
                continue
            if isinstance(event, MessageReceived) and event.topic.endswith("/score"):
                found: dict[str, Any] = json.loads(event.payload)
                if found["version"] == version and found["time"] > before:
                    return found

    def close(self) -> None:
        self._transport.close(timeout_s=2)


def write(folder: Path, version: int) -> None:
    notes = ModelNotes(version=version, task="toy", score=RULE)
    body = program(folder / "m.onnx", notes, rows=3).read_bytes()
    written = Written(notes=notes, run="aa", digest=f"{version:032x}", file="model.onnx")
    assert Versions(folder / "model").write(written, {"model.onnx": body}) is not None


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[tuple[Plant, subprocess.Popen[bytes]]]:
    write(tmp_path, 1)
    with LocalBroker() as broker, (tmp_path / "log").open("wb") as log:
        settings = tmp_path / "node.toml"
        settings.write_text(SETTINGS.format(url=broker.url, folder=tmp_path))
        command = [sys.executable, "-m", "edge_node", "score", "--config", str(settings)]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"PYTHONUNBUFFERED": "1"})
        made = Plant(broker.url)
        try:
            yield made, process
        finally:
            made.close()
            process.kill()
            process.wait(LIMIT_S)


def test_each_row_has_a_score_and_another_version_takes_over(
    plant: tuple[Plant, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    sensors, process = plant
    assert sensors.heard("/availability") == b"online"
    assert json.loads(sensors.heard("/score/config"))["state_topic"] == "fedmq/it/n1/score"
    first = sensors.score(version=1)
    assert (first["score"], first["threshold"], first["anomaly"], first["number"]) == (2.0, 1.5, True, 1)
    write(tmp_path, 2)
    assert sensors.score(version=2)["number"] == 2
    assert Versions(tmp_path / "model").go_back().notes.version == 1
    assert sensors.score(version=1)["number"] == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 0
    assert sensors.heard("/availability") == b"offline"


@pytest.mark.timeout(300)
def test_an_agent_keeps_the_service_itself_and_takes_it_along(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with LocalBroker() as broker, (tmp_path / "log").open("wb") as log:
        settings = tmp_path / "node.toml"
        own = f'with_agent = true\n[task]\nname = "quadratic-50"\n[store]\nfolder = "{tmp_path}/state"\n'
        text = SETTINGS.format(url=broker.url, folder=tmp_path).replace("[model]", '[model]\nform = "safetensors"')
        settings.write_text(text + own)
        command = [sys.executable, "-m", "edge_node", "run", "--config", str(settings)]
        agent = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"PYTHONUNBUFFERED": "1"})
        sensors = Plant(broker.url)
        try:
            assert sensors.heard("/availability") == b"online"
            assert sensors.score(version=1)["anomaly"] is True
            killed = psutil.Process(scoring(agent.pid))
            killed.kill()
            killed.wait(LIMIT_S)
            assert sensors.score(version=1)["score"] == 2.0
            assert scoring(agent.pid) != killed.pid
            agent.kill()  # without a word to the other process
            while sensors.heard("/availability") != b"offline":
                pass  # what the second one has said before
        finally:
            sensors.close()
            agent.kill()
            agent.wait(LIMIT_S)
    assert b"score_process_ended" in (tmp_path / "log").read_bytes()


def scoring(agent: int) -> int:
    """The agent's child that scores."""
    return next(
        int(each.pid) for each in psutil.Process(agent).children() if "score_process" in " ".join(each.cmdline())
    )

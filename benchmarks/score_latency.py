"""From a row of readings to its score, while the same device trains: p50 and p99, with the bar.

A device is one core (``taskset``): on it run the node, which trains without a pause, and the score service. A broker,
the coordinator and the sensors are on the others. The same rows are scored again with nothing to train.

    python -m benchmarks.score_latency [--rows 1500] [--rate 20] [--nice 19] [--json]
"""

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from federation.runtime.address import parse_broker_url
from federation.runtime.local_broker import LocalBroker
from federation.runtime.log import configure_log
from federation.runtime.mqtt import MqttTransport
from federation.runtime.session import SessionSettings
from federation.runtime.transport import Inbox, MessageReceived, TransportConnected

BAR_MS = 20.0
COLUMNS = tuple("abcdefgh")
TASK = f"sensors/autoencoder?columns={','.join(COLUMNS)}&window=60&model=conv"
EPOCH_S = 1_700_000_000.0
WARM_ROWS = 1_200
WAIT_S = 180.0

COORDINATOR = """
[federation]
id = "score"
[broker]
url = "{url}"
[store]
folder = "{folder}/coordinator"
[task]
name = "{task}"
[train]
local_epochs = 5
batch_size = 32
learning_rate = 0.001
optimizer = "adam"
[round]
concurrency = 1
nodes_min = 1
versions = 0
[evaluation]
every = 0
"""
NODE = """
[federation]
id = "score"
[node]
id = "device"
[broker]
url = "{url}"
[task]
name = "{task}"
[store]
folder = "{folder}/state"
[training]
nice = {nice}
[data]
flush_s = 1.0
report = false
[data.mqtt]
url = "{url}"
[[data.mqtt.topics]]
topic = "plant/device/sensors"
columns = {{ {columns} }}
time = "time"
[model]
folder = "{folder}/model"
worse_max = 1000.0
every_s = 5.0
[score]
topic = "plant/device/score"
"""


class Sensors:
    """One device's sensors, and a listener to its scores."""

    def __init__(self, url: str) -> None:
        self._inbox: Inbox = queue.Queue(100_000)
        session = SessionSettings(client_id="sensors", receive_max=1_000, inflight_max=200, connection="data")
        self._transport = MqttTransport(parse_broker_url(url), session, self._inbox)
        self._transport.subscribe("plant/device/score", qos=0)
        self._transport.open()
        self._rng, self.row = np.random.default_rng(0), 0

    def send(self) -> float:
        """One row; returns when it was given to the network, in monotonic seconds."""
        values = np.sin(self.row / (7.0 + np.arange(8))) + 0.1 * self._rng.normal(size=8)
        body = dict(zip(COLUMNS, (round(float(value), 5) for value in values), strict=True))
        text = json.dumps(body | {"time": EPOCH_S + self.row}).encode()
        self.row += 1
        sent_at = time.monotonic()
        self._transport.publish("plant/device/sensors", text, qos=1)
        return sent_at

    def heard(self, timeout_s: float) -> tuple[int, float] | None:
        """A row that was scored, and when that was heard; None where nothing came."""
        try:
            event = self._inbox.get(timeout=timeout_s).event
        except queue.Empty:
            return None
        now = time.monotonic()
        if isinstance(event, MessageReceived) and not event.retained:
            return round(json.loads(event.payload)["time"] - EPOCH_S), now
        return (-1, now) if isinstance(event, TransportConnected) else None

    def close(self) -> None:
        """Leave."""
        self._transport.close(timeout_s=2)


def measured(sensors: Sensors, rows: int, rate: float) -> list[float]:
    """Delays of so many rows, in milliseconds; rows without a score count as a second."""
    sent: dict[int, float] = {}
    found: dict[int, float] = {}
    began = time.monotonic()
    for turn in range(rows):
        row = sensors.row
        sent[row] = sensors.send()
        while (left := began + (turn + 1) / rate - time.monotonic()) > 0:
            if (heard := sensors.heard(left)) is not None and heard[0] in sent:
                found.setdefault(heard[0], 1e3 * (heard[1] - sent[heard[0]]))
    while len(found) < len(sent) and (heard := sensors.heard(1.0)) is not None:
        if heard[0] in sent:
            found.setdefault(heard[0], 1e3 * (heard[1] - sent[heard[0]]))
    return [found.get(row, 1_000.0) for row in sent]


def started(command: list[str], log: Path, core: int | None) -> subprocess.Popen[bytes]:
    """A process in a session of its own, as a service's is, on one core where that is possible."""
    pinned = ["taskset", "-c", str(core)] if core is not None else []
    whole = [*pinned, sys.executable, "-m", *command]
    with log.open("wb") as output:
        return subprocess.Popen(whole, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)


def waited(over: Callable[[], bool], what: str) -> None:
    """Raises SystemExit: it does not come."""
    until = time.monotonic() + WAIT_S
    while not over():
        if time.monotonic() > until:
            raise SystemExit(f"{what}: not within {WAIT_S:.0f} s")
        time.sleep(0.1)


def run(rows: int, rate: float, nice: int, folder: Path) -> Mapping[str, object]:
    """Measure with and without training."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    core = cores[0] if len(cores) > 1 else None
    with LocalBroker() as broker:
        columns = ", ".join(f'{name} = "{name}"' for name in COLUMNS)
        texts = {"url": broker.url, "folder": folder, "task": TASK, "columns": columns, "nice": nice}
        (folder / "node.toml").write_text(NODE.format(**texts))
        (folder / "coordinator.toml").write_text(COORDINATOR.format(**texts))
        node_log = folder / "node.log"
        node = ["edge_node", "run", "--config", str(folder / "node.toml"), "--log-json"]
        score = ["edge_node", "score", "--config", str(folder / "node.toml"), "--log-json"]
        processes = [started(node, node_log, core), started(score, folder / "score.log", core)]
        sensors = Sensors(broker.url)
        try:
            waited(lambda: b'"connection": "data"' in node_log.read_bytes(), "the node connects")
            measured(sensors, WARM_ROWS, 400.0)
            command = ["coordinator", "run", "--config", str(folder / "coordinator.toml"), "--log-json"]
            processes.append(started(command, folder / "coordinator.log", None))
            waited((folder / "model/current").exists, "the first version comes")
            waited(lambda: b"model_opened" in (folder / "score.log").read_bytes(), "the service opens it")
            measured(sensors, 100, rate)
            before = node_log.read_bytes().count(b"training_started")
            training = measured(sensors, rows, rate)
            rounds = node_log.read_bytes().count(b"training_started") - before
            processes[2].terminate()
            processes[0].terminate()
            processes[0].wait(30)
            idle = measured(sensors, rows, rate)
        finally:
            sensors.close()
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(30)
    return {"training": figures(training), "idle": figures(idle), "rows": rows, "rounds_meanwhile": rounds}


def figures(delays: list[float]) -> Mapping[str, float]:
    """p50, p99, the greatest, and rows without a score."""
    found = np.array(delays)
    named = {"p50_ms": np.percentile(found, 50), "p99_ms": np.percentile(found, 99), "max_ms": found.max()}
    return {name: round(float(value), 2) for name, value in named.items()} | {"lost": int((found >= 1_000).sum())}


def main() -> int:
    """Measure, print, and say whether the bar is met."""
    parser = argparse.ArgumentParser(description="From a row to its score, while the same device trains.")
    parser.add_argument("--rows", type=int, default=1_500)
    parser.add_argument("--rate", type=float, default=20.0, help="rows a second")
    parser.add_argument("--nice", type=int, default=19, help="the node's training.nice")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    configure_log(json=False, level="critical")
    with tempfile.TemporaryDirectory(prefix="fedmq-score-") as folder:
        result = run(options.rows, options.rate, options.nice, Path(folder))
    training = result["training"]
    met = isinstance(training, dict) and training["p99_ms"] <= BAR_MS
    if options.json:
        print(json.dumps({**result, "bar_ms": BAR_MS, "met": met}))
        return 0 if met else 1
    print(f"row in, score out; {result['rows']} rows at {options.rate:g}/s")
    print(f"rounds trained meanwhile: {result['rounds_meanwhile']}")
    for name in ("training", "idle"):
        print(f"  {name:<9} {result[name]}")
    print(f"p99 while the device trains <= {BAR_MS:g} ms: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

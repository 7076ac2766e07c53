"""What security costs: updates per second with client certificates, access rules and signatures, and without any.

Both federations are real processes on this machine: a broker with the same limits, a coordinator, and nodes that train
nothing. They run in turn, one pair after the other, so that a machine that slows down slows both; the figure is the
median of the pairs' ratios. Before the first measured pair each runs once.

``make bench-fleet`` or ``python -m benchmarks.fleet [--pairs N] [--nodes N] [--json]``.
"""

import argparse
import datetime as dt
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.table import Figure, show
from coordinator.enrolment.broker import FleetBroker
from coordinator.enrolment.federation import Fleet
from coordinator.enrolment.folder import FleetFolder
from coordinator.enrolment.texts import FleetPlan
from edge_node.setup.join import install
from federation.runtime.local_broker import LocalBroker, free_port
from federation.runtime.log import configure_log
from federation.types import FederationId

FEDERATION = "plant"
LIMIT_S = 300.0
RATIO_MIN = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One kind of work.

    Attributes:
        what: For people.
        task: ``null-N``: N float32 parameters, sent whole.
        versions: How many are made.
    """

    what: str
    task: str
    versions: int


LOADS = (
    Load(what="updates of 4 KB, inside their offer", task="null-1000", versions=80),
    Load(what="updates of 370 KB, in chunks", task="null-100000", versions=25),
)


@dataclass(frozen=True, slots=True)
class Bench:
    """A folder with an enrolled federation, and how many nodes take part."""

    folder: Path
    nodes: int

    @property
    def names(self) -> list[str]:
        """The nodes' names."""
        return [f"node-{index}" for index in range(self.nodes)]

    def prepare(self) -> None:
        """Enrol everybody once."""
        fleet = Fleet(folder=FleetFolder(self.folder / "plant"), now=dt.datetime.now(dt.UTC))
        fleet.create(
            FleetPlan(
                federation=FederationId(FEDERATION),
                hosts=("localhost",),
                port=free_port(),
                task="null",
                evaluate=False,
            )
        )
        for name in fleet.enroll(self.names):
            install(fleet.folder.bundle(name), self.folder / name)

    def rate(self, load: Load, *, secured: bool) -> float:
        """Updates that were applied, per second."""
        state = self.folder / "state"
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        with self._broker(secured=secured) as url:
            report = self._run(load, url, state)
        applied = sum(node["updates_applied"] for node in report["nodes_detail"])
        return float(applied / report["loop_wall_s"])

    @contextmanager
    def _broker(self, *, secured: bool) -> Iterator[str | None]:
        if not secured:
            with LocalBroker() as broker:
                yield broker.url
            return
        broker_folder = self.folder / "plant" / "broker"
        shutil.rmtree(broker_folder / "data")
        (broker_folder / "data").mkdir(mode=0o700)
        with FleetBroker(broker_folder):
            yield None

    def _run(self, load: Load, url: str | None, state: Path) -> dict[str, Any]:
        report = state / "report.json"
        coordinator = self._start(
            "coordinator", "FEDMQ_COORDINATOR", self._coordinator(load, state), url, "plant", "--report", str(report)
        )
        nodes = [
            self._start("edge_node", "FEDMQ_NODE", self._node(name, index, load, state), url, name)
            for index, name in enumerate(self.names)
        ]
        try:
            coordinator.wait(LIMIT_S)
            for node in nodes:
                node.wait(LIMIT_S)
        finally:
            for process in (coordinator, *nodes):
                process.kill()
                process.wait()
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return found

    def _coordinator(self, load: Load, state: Path) -> dict[str, str]:
        return {
            "TASK__NAME": load.task,
            "STORE__FOLDER": str(state / "coordinator"),
            "ROUND__CONCURRENCY": str(self.nodes),
            "ROUND__NODES_MIN": str(self.nodes),
            "ROUND__QUORUM": str(self.nodes),
            "ROUND__VERSIONS": str(load.versions),
            "ROUND__INTERVAL_MIN_S": "0",
            "ROUND__EXIT_WHEN_FINISHED": "true",
            "CODEC__UP": "lossless",
            "EVALUATION__EVERY": "0",
        }

    def _node(self, name: str, index: int, load: Load, state: Path) -> dict[str, str]:
        return {
            "NODE__ID": name,
            "NODE__EXIT_WHEN_FINISHED": "true",
            "TASK__NAME": load.task,
            "TASK__INDEX": str(index),
            "TASK__COUNT": str(self.nodes),
            "STORE__FOLDER": str(state / name),
        }

    def _start(
        self, module: str, prefix: str, keys: Mapping[str, str], url: str | None, folder: str, *more: str
    ) -> "subprocess.Popen[bytes]":
        keys = {**keys, "LOG__LEVEL": "error"}
        if url is None:
            more = ("--config", str(self.folder / folder), *more)
        else:
            keys |= {"BROKER__URL": url, "FEDERATION__ID": FEDERATION}
        environ = os.environ | {"OMP_NUM_THREADS": "1"} | {f"{prefix}__{key}": value for key, value in keys.items()}
        return subprocess.Popen([sys.executable, "-m", module, "run", *more], env=environ)


def measure(bench: Bench, load: Load, pairs: int) -> Figure:
    """The median ratio of some pairs."""
    for secured in (False, True):
        bench.rate(load, secured=secured)
    plain, secure, ratios = [], [], []
    for number in range(pairs):
        # The first of a pair finds warmer caches or a busier disk as often as the second.
        order = (False, True) if number % 2 else (True, False)
        rates = {secured: bench.rate(load, secured=secured) for secured in order}
        plain.append(rates[False])
        secure.append(rates[True])
        ratios.append(rates[True] / rates[False])
    note = (
        f"{statistics.median(secure):.0f} / {statistics.median(plain):.0f} updates/s (medians), "
        f"ratios {min(ratios):.2f} to {max(ratios):.2f}"
    )
    return Figure(what=load.what, measured=statistics.median(ratios), bar=RATIO_MIN, at_least=True, note=note)


def main() -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    configure_log(json=False, level="error")
    with tempfile.TemporaryDirectory(prefix="fedmq-fleet-") as folder:
        bench = Bench(Path(folder), given.nodes)
        bench.prepare()
        figures = [measure(bench, load, given.pairs) for load in LOADS]
    title = f"mTLS, access rules and signatures / none: {given.nodes} nodes, {given.pairs} interleaved pairs"
    return 0 if show(title, figures, as_json=given.json, skipped={}) else 1


if __name__ == "__main__":
    sys.exit(main())

"""``make soak``: twenty nodes for minutes, 1 % of their rounds end with SIGKILL: is the coordinator's memory flat?

    python -m benchmarks.soak [--minutes 10] [--nodes 20] [--json]

Memory is the coordinator's resident set, read every few versions. Its slope is a least-squares line over all samples
after the warm-up, as a share of the mean per 1,000 versions.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console

from benchmarks.chaos.federation import COORDINATOR, LIMIT_S, Federation, running
from benchmarks.chaos.kills import judge
from benchmarks.chaos.plan import Plan
from benchmarks.chaos.table import Row
from benchmarks.table import Figure, show
from federation.runtime.local_broker import LocalBroker
from fedmq.demo.processes import Line

FAULT_SHARE = 0.01
SAMPLE_VERSIONS = 20
WARM_UP_SHARE = 0.25
SLOPE_MAX = 0.01
MIB = 2**20


@dataclass(slots=True)
class Watcher:
    """Samples memory at every n-th version, and kills one node in a hundred rounds.

    Attributes:
        federation: Who is watched.
        broker: Its broker.
        rng: Decides who is killed.
        samples: Version, resident bytes of the coordinator, of the broker.
        kills: Nodes killed.
        errors: Lines of level error or critical.
    """

    federation: Federation
    broker: LocalBroker
    rng: random.Random
    samples: list[tuple[int, int, int]] = field(default_factory=list)
    kills: int = 0
    errors: list[str] = field(default_factory=list)

    def __call__(self, line: Line) -> None:
        """Look at one log line."""
        if line.fields.get("level") in {"error", "critical"}:
            self.errors.append(f"{line.source}: {dict(line.fields)}")
        if line.source != COORDINATOR:
            if line.event == "training_started" and self.rng.random() < FAULT_SHARE:
                self.kills += 1
                self.federation.kill(line.source)
        elif line.event == "version_committed" and self.federation.version % SAMPLE_VERSIONS == 0:
            pids = (self.federation.fleet.pid(COORDINATOR), self.broker.pid)
            resident = (psutil.Process(pid).memory_info().rss for pid in pids)
            self.samples.append((self.federation.version, *resident))


def slope_per_1000(samples: Sequence[tuple[int, int, int]]) -> float:
    """Growth of the coordinator's memory per 1,000 versions, as a share of its mean; after the warm-up.

    Raises:
        ValueError: There are too few samples for a line.
    """
    steady = np.array(samples[int(WARM_UP_SHARE * len(samples)) :], float)
    if len(steady) < 3:
        raise ValueError(f"{len(samples)} samples are too few: let it run longer")
    slope, _ = np.polyfit(steady[:, 0], steady[:, 1], 1)
    return float(1000 * slope / steady[:, 1].mean())


def main() -> int:
    """Soak, print, and judge; 0 when the memory is flat and nothing went wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = tempfile.TemporaryDirectory(prefix="fedmq-soak-", ignore_cleanup_errors=True)
    with folder as path, LocalBroker(persistence=True) as broker:
        watcher, row = soak(broker, Path(path), options.nodes, 60 * options.minutes)
    return 0 if report(watcher, row, as_json=options.json) else 1


def soak(broker: LocalBroker, folder: Path, nodes: int, seconds: float) -> tuple[Watcher, Row]:
    """Run for so long, then stop everything and audit the stores."""
    plan = Plan(nodes=nodes, buffer=max(1, nodes // 4), spread_s=1.0)
    row = Row(fault="soak")
    with running(plan, folder, broker.url) as federation:
        row.hung += not federation.wait(federation.everybody_works, 4 * LIMIT_S)
        watcher = Watcher(federation, broker, random.Random(0))
        federation.watchers.append(watcher)
        federation.wait(lambda: False, seconds)
        federation.watchers.remove(watcher)
        row.hung += not federation.wait(federation.everybody_works, 2 * LIMIT_S)
        judge(federation, row)
        row.injected, row.note = watcher.kills, f"{federation.version} versions"
    return watcher, row


def report(watcher: Watcher, row: Row, *, as_json: bool) -> bool:
    """Print the figures; whether all bars are met."""
    resident = [sample[1] / MIB for sample in watcher.samples]
    problems = watcher.errors + row.failures
    broker = watcher.samples[-1][2] / MIB
    figures = [
        Figure(
            what="growth of the coordinator's memory per 1,000 versions",
            measured=100 * slope_per_1000(watcher.samples),
            bar=100 * SLOPE_MAX,
            unit="%",
            note=f"{row.note}, {resident[0]:.1f} to {resident[-1]:.1f} MiB, broker {broker:.1f} MiB",
        ),
        Figure(what="updates lost, double, hung", measured=row.lost + row.double + row.hung, bar=0),
        Figure(what="errors", measured=len(problems), bar=0, note=f"{row.injected} nodes killed"),
    ]
    for problem in problems:
        Console(stderr=True).print(problem, markup=False, highlight=False)
    return show("Soak", figures, as_json=as_json, skipped={})


if __name__ == "__main__":
    sys.exit(main())

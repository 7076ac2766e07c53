"""``make bench-algorithms``: what strategies, robust rules and asynchronous rounds are worth, beside their bars.

    python -m benchmarks.algorithms [--json] [--only bad,attack,async,skew,offline,aggregate]

Everything runs in one process with production's coordinator, codec and store; `benchmarks.algorithm_learning` describes
the federation. Times are virtual where they are a run's, CPU time where they are the aggregation's.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.algorithm_learning import Experiment, Run, by_dirichlet, by_labels, iid, run_rounds, run_until
from benchmarks.algorithm_offline import OUTAGES, run_offline
from benchmarks.table import Figure, show
from coordinator.strategies.strategy import StrategySettings

ROUNDS_ATTACK = 40
ROUNDS_SKEW = 100
NODES = 20
STRAGGLERS = 4
TARGET = 0.88
SKEWED = {
    "FedAvgM": StrategySettings(name="fedavgm"),
    "FedAdam, 0.03": StrategySettings(name="fedadam", server_learning_rate=0.03),
}


def bad_updates() -> Iterator[Figure]:
    """One poisoned, duplicated, stale and NaN update in each round: strategies and rules whose model changes."""
    from tests.unit.coordinator.strategies.test_bad_updates import CASES, Federation  # noqa: PLC0415 - needs pytest

    changed = []
    for name, rule, buffer in CASES:
        clean = Federation(name, rule, buffer=buffer).run(attacked=False)
        attacked = Federation(name, rule, buffer=buffer).run(attacked=True)
        if clean.digest() != attacked.digest():
            changed.append(f"{name}/{rule}/{buffer}")
    note = f"{len(CASES)} combinations of strategy, rule and buffer, 9 versions; {', '.join(changed) or 'all the same'}"
    yield Figure(what="bad updates in each round: models that differ in a bit", measured=len(changed), bar=0, note=note)


def attacks() -> Iterator[Figure]:
    """2 of 10 nodes send ten times the opposite; accuracy lost against the plain mean without attackers."""
    kinds = (
        ("iid", iid()[:10], 3.0),
        ("Dirichlet 0.5", by_dirichlet(0.5, 10), 5.0),
        ("label shards", by_labels(10), 5.0),
    )
    for name, parts, bar in kinds:
        clean = _points(Experiment(parts=parts))
        quiet = _points(Experiment(parts=parts, robust="default"))
        attacked = _points(Experiment(parts=parts, robust="default", attackers=2))
        mean = _points(Experiment(parts=parts, attackers=2))
        alone = _points(Experiment(parts=parts[2:], cohort=8))
        near = _points(Experiment(parts=parts, robust="default", attackers=2, flip=-4.0))
        note = (
            f"clean {clean:.1f} %, attacked {attacked:.1f} %; the 8 honest alone {alone:.1f} %, the plain mean "
            f"{mean:.1f} %; flipped x 4, below what is left out: {near:.1f} %"
        )
        yield Figure(
            what=f"20 % sign-flip x 10, {name}", measured=round(clean - attacked, 3), unit="points", bar=bar, note=note
        )
        note = f"{quiet:.1f} % instead of {clean:.1f} %"
        yield Figure(
            what=f"the rule without attack, {name}",
            measured=round(clean - quiet, 3) + 0.0,
            unit="points",
            bar=0.5,
            note=note,
        )


def _points(experiment: Experiment) -> float:
    return 100 * run_rounds(experiment, ROUNDS_ATTACK).last()


def asynchronous() -> Iterator[Figure]:
    """Virtual time to the target under delays of 1, 2 or 4 s, ten times as long on every fifth node."""
    ratios, notes = [], []
    for seed in range(3):
        sync = _timed(StrategySettings(name="fedavg"), None, seed)
        buffered = _timed(StrategySettings(name="fedbuff"), 5, seed)
        ratios.append(sync.seconds[-1] / buffered.seconds[-1])
        notes.append(f"{sync.seconds[-1]:.0f} s / {buffered.seconds[-1]:.0f} s")
        counts = np.bincount(np.minimum(buffered.staleness, 5), minlength=6)
    shares = " ".join(f"{share:.0%}" for share in counts / counts.sum())
    note = f"least of {', '.join(notes)}; staleness 0 1 2 3 4 5+: {shares}"
    yield Figure(what=f"time to {TARGET:.0%}, sync / FedBuff", measured=min(ratios), bar=3.0, at_least=True, note=note)


def _timed(strategy: StrategySettings, buffer: int | None, seed: int) -> Run:
    rng = np.random.default_rng(seed)
    slow = set(rng.permutation(NODES)[:STRAGGLERS].tolist())

    def delay_s(node: int) -> float:
        return float(rng.choice([1.0, 2.0, 4.0])) * (10.0 if node in slow else 1.0)

    return run_until(Experiment(parts=iid(), strategy=strategy, buffer=buffer, seed=seed), TARGET, delay_s, 20_000.0)


def skewed() -> Iterator[Figure]:
    """Dirichlet(0.1) labels: rounds to what FedAvg has after 100, by the mean of three rounds."""
    parts = by_dirichlet(0.1)
    target = run_rounds(Experiment(parts=parts), ROUNDS_SKEW).last()
    found = {name: _rounds_to(target, Experiment(parts=parts, strategy=strategy)) for name, strategy in SKEWED.items()}
    found["FedProx, 0.01"] = _rounds_to(
        target, Experiment(parts=parts, strategy=StrategySettings(name="fedprox"), proximal_mu=0.01)
    )
    found["SCAFFOLD"] = _rounds_to(target, Experiment(parts=parts, strategy=StrategySettings(name="scaffold")))
    note = f"{100 * target:.1f} %: " + ", ".join(f"{name} {rounds}" for name, rounds in found.items())
    yield Figure(
        what="Dirichlet 0.1, rounds to FedAvg's accuracy at 100", measured=min(found.values()), bar=50, note=note
    )
    many = run_rounds(Experiment(parts=parts, epochs=5), ROUNDS_SKEW).last()
    scaffold = Experiment(parts=parts, epochs=5, strategy=StrategySettings(name="scaffold"))
    fine, coarse = _rounds_to(many, scaffold), _rounds_to(many, replace(scaffold, resolution=2.0))
    note = f"{100 * many:.1f} %; with controls as coarse as with edge, a third of the bytes: {coarse}"
    yield Figure(what="SCAFFOLD, the same with 5 local epochs", measured=fine, bar=50, note=note)


def _rounds_to(target: float, experiment: Experiment) -> int:
    seen: list[float] = []

    def reached(accuracy: float) -> bool:
        seen.append(accuracy)
        return float(np.mean(seen[-3:])) >= target

    run_rounds(experiment, ROUNDS_SKEW, reached)
    return len(seen)


def offline() -> Iterator[Figure]:
    """J4: 30 % of the nodes offline at any time, against the same run without that."""
    data = Path(os.environ.get("FEDMQ_DATA", "../shared/data"))
    whole, faulty = run_offline(data, ""), run_offline(data, OUTAGES)
    note = (
        f"{faulty.accuracy:.1f} % instead of {whole.accuracy:.1f} %, means of three seeds; {faulty.virtual_s:.0f} s of"
        f" virtual time instead of {whole.virtual_s:.0f} s, {faulty.late:.0f} updates that did not count"
    )
    lost = round(whole.accuracy - faulty.accuracy, 3)
    yield Figure(what="J4, CNN, label shards, 3 of 10 nodes offline", measured=lost, unit="points", bar=0.5, note=note)


def aggregation() -> Iterator[Figure]:
    """100 updates of ResNet-18's size, coded with ``edge``, on one core."""
    mean, median = _aggregated("mean"), _aggregated("median")
    note = f"edge payloads of {mean['payload_mb']:.2f} MB, {mean['seconds']:.2f} s of CPU"
    yield Figure(what="mean of 100 x ResNet-18, memory", measured=mean["peak_mb"], unit="MB", bar=200, note=note)
    yield Figure(what="the same, fp32 read", measured=mean["gb_per_s"], unit="GB/s", bar=1.0, at_least=True, note=note)
    note = f"{median['gb_per_s']:.2f} GB/s, {median['seconds']:.1f} s of CPU; holds all coded payloads"
    yield Figure(what="coordinate median, memory", measured=median["peak_mb"], unit="MB", bar=300, note=note)


def _aggregated(rule: str) -> dict[str, float]:
    return _in_a_process("benchmarks.algorithm_aggregation", rule)


def _in_a_process(module: str, *arguments: str) -> dict[str, float]:
    one_core = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | one_core)
    found: dict[str, float] = json.loads(done.stdout)
    return found


PARTS: dict[str, Callable[[], Iterator[Figure]]] = {
    "bad": bad_updates,
    "attack": attacks,
    "async": asynchronous,
    "skew": skewed,
    "offline": offline,
    "aggregate": aggregation,
}


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description="Figures of the algorithms")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", type=partial(str.split, sep=","), default=list(PARTS), metavar="PART,...")
    options = parser.parse_args()
    unknown = set(options.only) - set(PARTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    figures = [figure for part in options.only for figure in PARTS[part]()]
    return 0 if show("Algorithms", figures, as_json=options.json, skipped={}) else 1


if __name__ == "__main__":
    sys.exit(main())

"""J4: a CNN on label-skewed MNIST, FedProx, asynchronous, with and without nodes that go offline.

    python -m benchmarks.algorithm_offline [--data DIR]

One definition, for `make jobs` and `make bench-algorithms`: the task ``mnist-cnn`` (two label shards for every node) in
the simulator, so ``coordinator simulate --train`` with the options below is one of its runs. Coordinator, codec and
store are production's, time is virtual. A node that is away goes on training, and offers its update when it is back.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from fedmq.simulation.experiment.cli import TrainOptions, build_experiment
from fedmq.simulation.experiment.experiment import Result

__all__ = ["HARDER", "OUTAGES", "SETTING", "Outcome", "run_offline"]

SETTING = "10 nodes, two label shards each, FedProx 0.01, 7 of 10 make a version, 300 versions"
OUTAGES = "away=3,change_s=3"
"""Three of ten nodes are offline at any time; every three seconds one is back, another one leaves."""
HARDER = "share=0.3,away_s=10"
"""Three of ten trainings, of 2 s in the median, lose their link, for 10 s on average."""

SEEDS = (0, 1, 2)
VERSIONS = 300
BUFFER = 7
"""As many as are there at any time: every label is a fifth of the nodes', and a version without it forgets it."""
EVERY, LAST = 5, 10
"""Every so many versions there is an evaluation, and the mean of the last ones counts."""
PROCESSES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the runs ended, mean of all seeds.

    Attributes:
        accuracy: Percent.
        each: Percent of every seed.
        away_share: What part of the nodes' time was spent offline.
        updates: How many one version is made of.
        late: Updates that came too late to count, or besides a newer one of the same node.
        virtual_s: Virtual seconds that a run took.
    """

    accuracy: float
    each: tuple[float, ...]
    away_share: float
    updates: float
    late: float
    virtual_s: float


def run_offline(data: Path, outages: str) -> Outcome:
    """The runs of all seeds, two at a time; with no ``outages`` nobody ever is away."""
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(partial(_run, data, outages), SEEDS))
    each = tuple(100 * float(np.mean(list(_accuracies(result))[-LAST:])) for result in results)
    return Outcome(
        accuracy=float(np.mean(each)),
        each=each,
        away_share=float(np.mean([result.away_share for result in results])),
        updates=float(np.mean([figures.updates for result in results for figures in result.versions])),
        late=float(
            np.mean([result.verdicts.get("stale", 0) + result.verdicts.get("refused", 0) for result in results])
        ),
        virtual_s=float(np.mean([result.virtual_s for result in results])),
    )


def _run(data: Path, outages: str, seed: int) -> Result:
    return build_experiment(
        TrainOptions(
            task="mnist-cnn",
            nodes=10,
            rounds=VERSIONS,
            buffer=BUFFER,
            data=data,
            outages=outages,
            seed=seed,
            evaluate_every=EVERY,
        )
    ).run()


def _accuracies(result: Result) -> Iterator[float]:
    return (figures.metrics["accuracy"] for figures in result.versions if figures.metrics)


def main() -> None:
    """The runs without outages, with them and with harder ones, as JSON."""
    parser = argparse.ArgumentParser(description="J4 with and without nodes that are offline.")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FEDMQ_DATA", "../shared/data")))
    data = parser.parse_args().data
    found = {name: asdict(run_offline(data, text)) for name, text in (("without", ""), ("with", OUTAGES))}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()

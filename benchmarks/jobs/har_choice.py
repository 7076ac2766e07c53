"""J5's strategy, chosen among the training subjects alone: the test subjects 26 to 30 are never looked at.

    python -m benchmarks.jobs.har_choice [--data DIR] [--rounds 100]

Four times four of the 16 training subjects are held out and are the test of the other twelve, so that each subject is
held out once. The strategy with the best mean, over the last ten versions of all four, is the one that J5 should use.
"""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from federation.task import TaskContext
from federation.tasks.builtin.har import build_held_out, training_subjects
from federation.tasks.training.torch_task import TorchTask
from fedmq.simulation.experiment.cli import TrainOptions, build_experiment

__all__ = ["CANDIDATES", "CHOSEN", "Candidate", "fold_0", "fold_1", "fold_2", "fold_3", "validated"]

FOLDS = 4
LAST = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A strategy and the nodes' learning rate."""

    strategy: str
    learning_rate: float

    def __str__(self) -> str:
        return f"{self.strategy}, SGD {self.learning_rate:g}"


CANDIDATES = tuple(
    Candidate(strategy=strategy, learning_rate=learning_rate)
    for strategy in ("fedavg", "fedavgm")
    for learning_rate in (0.05, 0.02, 0.01)
)

CHOSEN = Candidate(strategy="fedavgm", learning_rate=0.05)
"""What this command found, and J5 uses; it fails where another one is best."""


def held_out(data: Path | None, fold: int) -> tuple[int, ...]:
    """The training subjects that test in one of the four divisions."""
    return tuple(training_subjects(data)[fold::FOLDS])


def _build(context: TaskContext, fold: int) -> TorchTask:
    return build_held_out(context, held_out(context.data, fold))


fold_0, fold_1, fold_2, fold_3 = (partial(_build, fold=fold) for fold in range(FOLDS))


def validated(candidate: Candidate, data: Path, *, rounds: int = 100) -> list[float]:
    """Accuracy on the subjects that are held out, in percent, of each division: the mean of the last ten versions."""
    found = []
    nodes = len(training_subjects(data))
    for fold in range(FOLDS):
        count = nodes - len(held_out(data, fold))
        options = TrainOptions(
            task=f"{__package__}.har_choice:fold_{fold}",
            nodes=count,
            rounds=rounds,
            per_round=count,
            data=data,
            strategy=candidate.strategy,
            settings=(
                f"train.learning_rate={candidate.learning_rate}",
                "train.batch_size=32",
                "train.local_epochs=1",
            ),
        )
        versions = build_experiment(options).run().versions[-LAST:]
        found.append(100 * float(np.mean([figures.metrics["accuracy"] for figures in versions])))
    return found


def main() -> int:
    """All candidates, best first, as JSON; exit code 1 when the best one is not the one that J5 uses."""
    parser = argparse.ArgumentParser(description="Choose J5's strategy on training subjects.")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FEDMQ_DATA", "../shared/data")))
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    found = {str(each): validated(each, options.data, rounds=options.rounds) for each in CANDIDATES}
    ordered = sorted(found, key=lambda name: -float(np.mean(found[name])))
    rows = [
        {"strategy": name, "mean": round(float(np.mean(found[name])), 2), "folds": [round(x, 2) for x in found[name]]}
        for name in ordered
    ]
    sys.stdout.write(json.dumps({"candidates": rows, "used": str(CHOSEN)}, indent=1) + "\n")
    return 0 if ordered[0] == str(CHOSEN) else 1


if __name__ == "__main__":
    sys.exit(main())

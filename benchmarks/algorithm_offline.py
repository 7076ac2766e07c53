"""J4: a CNN on label-skewed MNIST, FedProx, asynchronous, with and without three of ten nodes offline at any time.

    python -m benchmarks.algorithm_offline [versions]

Ten nodes hold two label shards of 500 images each and train with production's `TorchTask`; coordinator, codec and
store are production's, time is virtual. Every three seconds one of the nodes that are away comes back, and another one
leaves, in the middle of whatever it does: it goes on training, and offers its update when it is back.
"""

import heapq
import json
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.algorithm_nodes import data
from coordinator.committer import CommitterSettings
from coordinator.records import EngineSettings
from coordinator.strategy import StrategySettings, make_strategy
from federation.protocol.messages import TrainSettings
from federation.task import TaskContext
from federation.tasks import TorchTask
from federation.types import NodeId
from simulation.direct import DirectCoordinator, Question, Setup
from update_codec import Manifest, Vectors

__all__ = ["Outcome", "run_offline"]

NODES = 10
IMAGES = 1_000
SHARDS = 2
AWAY = 3
CHANGE_S = 3.0
VERSIONS = 120
LAST = 20
"""Versions at the end whose mean accuracy counts."""
MAX_STALENESS = 10
DELAYS_S = (1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: mean accuracy of the last versions, updates too late to count, virtual seconds."""

    accuracy: float
    stale: int
    seconds: float


def cnn() -> Any:
    """Two convolutions, two dense layers: 20,522 parameters."""
    from torch import nn  # noqa: PLC0415 - costs seconds: only where it is trained

    return nn.Sequential(
        *(nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def shards(seed: int) -> list[NDArray[np.int64]]:
    """Rows sorted by label, two shards for every node (arXiv 1602.05629, section 3)."""
    order = np.argsort(data()[1][: NODES * IMAGES], kind="stable")
    pieces = np.array_split(order, NODES * SHARDS)
    dealt = np.random.default_rng(seed).permutation(NODES * SHARDS).reshape(NODES, SHARDS)
    return [np.concatenate([pieces[index] for index in row]) for row in dealt]


def make_task(index: int, rows: NDArray[np.int64]) -> TorchTask:
    """One node's task."""
    from torch.nn.functional import cross_entropy  # noqa: PLC0415 - costs seconds: only where it is trained

    images, labels, tests, answers = data()
    return TorchTask(
        TaskContext(node_index=index, node_count=NODES, device="cpu"),
        model=cnn,
        train_data=lambda: (images[rows], labels[rows]),
        test_data=lambda: (tests, answers),
        loss=cross_entropy,
    )


@dataclass(slots=True)
class _Fleet:
    """Ten nodes and who of them is away."""

    coordinator: DirectCoordinator
    manifest: Manifest
    tasks: list[TorchTask]
    names: list[NodeId]
    rng: np.random.Generator
    models: dict[int, Vectors] = field(default_factory=dict)
    away: set[int] = field(default_factory=set)
    boxes: dict[int, list[tuple[Question, Vectors]]] = field(default_factory=dict)

    def leave(self, index: int) -> None:
        """The node's link breaks."""
        self.away.add(index)
        self.coordinator.leave(self.names[index])

    def come_back(self, index: int) -> None:
        """It is back, and offers what it made meanwhile."""
        self.away.discard(index)
        self.coordinator.come_back(self.names[index])
        for question, update in self.boxes.pop(index, []):
            self.coordinator.answer(question, update, IMAGES)

    def change(self) -> None:
        """One comes back, another one leaves."""
        back = int(self.rng.choice(sorted(self.away)))
        self.leave(int(self.rng.choice(sorted(set(range(NODES)) - self.away))))
        self.come_back(back)

    def finish(self, index: int, question: Question) -> None:
        """A training has ended: offer it, or keep it until the link is back."""
        announcement = question.announcement
        base = self.models[announcement.model.version]
        result = self.tasks[index].train(self.manifest.unflatten(base), announcement.settings, lambda: False)
        update = self.manifest.flatten(dict(result.parameters)).minus(base)
        if index in self.away:
            self.boxes.setdefault(index, []).append((question, update))
        else:
            self.coordinator.answer(question, update, result.num_examples)


def run_offline(*, away: int, seed: int = 0, versions: int = VERSIONS) -> Outcome:
    """One run; with 0 ``away`` nobody ever is."""
    fleet, accuracy, next_change = _make(seed), list[float](), CHANGE_S
    coordinator, due, number = fleet.coordinator, list[tuple[float, int, Question]](), 0
    for index in range(away):
        fleet.leave(index)
    seen = coordinator.version
    fleet.models[seen] = coordinator.model
    while coordinator.version < versions:
        while coordinator.questions:
            question, number = coordinator.questions.popleft(), number + 1
            delay_s = float(fleet.rng.choice(DELAYS_S))
            heapq.heappush(due, (coordinator.now + delay_s, number, question))
        end_s = due[0][0] if due else next_change
        if away and next_change <= end_s:
            coordinator.pass_time(max(0.0, next_change - coordinator.now))
            next_change += CHANGE_S
            fleet.change()
        else:
            _, _, question = heapq.heappop(due)
            coordinator.pass_time(max(0.0, end_s - coordinator.now))
            fleet.finish(fleet.names.index(question.node), question)
        if coordinator.version != seen:
            seen = coordinator.version
            fleet.models[seen] = coordinator.model
            if seen > versions - LAST:
                found = fleet.tasks[0].evaluate(fleet.manifest.unflatten(coordinator.model))
                accuracy.append(found["accuracy"])
    stale = sum(receipt.status.value == "stale" for _, receipt in coordinator.receipts)
    return Outcome(float(np.mean(accuracy)), stale, coordinator.now)


def _make(seed: int) -> _Fleet:
    tasks = [make_task(index, rows) for index, rows in enumerate(shards(seed))]
    arrays = dict(tasks[0].initial_parameters(seed))
    manifest = Manifest.of(arrays, tasks[0].roles())
    engine = EngineSettings(
        task="j4",
        train=TrainSettings(local_epochs=1, batch_size=25, learning_rate=0.05, proximal_mu=0.01, seed=seed),
        codec_up="lossless",
        concurrency=NODES,
        buffer=5,
        refill=1,
        quorum=1,
        nodes_min=NODES,
        max_staleness=MAX_STALENESS,
        lease_s=30.0,
        max_wait_s=30.0,
        evaluate_every=0,
    )
    committer = CommitterSettings(strategy=make_strategy(StrategySettings(name="fedbuff")))
    setup = Setup(manifest=manifest, initial=manifest.flatten(arrays), engine=engine, committer=committer, seed=seed)
    names = [NodeId(f"n{index}") for index in range(NODES)]
    coordinator = DirectCoordinator(setup, names)
    return _Fleet(coordinator, manifest, tasks, names, np.random.default_rng(seed))


def main() -> None:
    """Both runs, as JSON."""
    versions = int(sys.argv[1]) if len(sys.argv) > 1 else VERSIONS
    whole, faulty = run_offline(away=0, versions=versions), run_offline(away=AWAY, versions=versions)
    found = {
        "without": 100 * whole.accuracy,
        "with": 100 * faulty.accuracy,
        "stale": faulty.stale,
        "seconds_without": whole.seconds,
        "seconds_with": faulty.seconds,
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()

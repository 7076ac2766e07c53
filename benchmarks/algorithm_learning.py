"""A small federation for experiments with algorithms: a numpy network on MNIST, in one process and in virtual time.

Coordinator, codec and store are those of production (`simulation.direct`); only the network is left out. Nodes train a
perceptron 784-64-10 on 500 images each by plain SGD: small enough for a hundred rounds in a minute, and hard enough for
differences to show.
"""

import heapq
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coordinator.aggregation import AggregateLimits
from coordinator.committer import CommitterSettings
from coordinator.records import EngineSettings
from coordinator.registry import REST_MAX_S
from coordinator.robust import make_rule
from coordinator.strategy import StrategySettings, make_strategy
from federation.tasks.mnist import mnist, scaled
from federation.types import NodeId
from simulation.direct import DirectCoordinator, Question, Setup
from update_codec import Manifest, Vectors

__all__ = ["Experiment", "Run", "by_dirichlet", "by_labels", "iid", "run_rounds", "run_until"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

NODES = 20
IMAGES = 500
TEST_IMAGES = 4_000
HIDDEN = 64
BATCH = 25
SHAPES = {"hidden.weight": (784, HIDDEN), "hidden.bias": (HIDDEN,), "out.weight": (HIDDEN, 10), "out.bias": (10,)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One training.

    Attributes:
        parts: Rows of the data by node.
        strategy: The coordinator's.
        robust: Name of a robust rule.
        cohort: Nodes that train at once.
        buffer: Updates that make a version; the cohort is synchronous.
        epochs: Passes over the local data.
        learning_rate: Of the nodes' SGD.
        proximal_mu: FedProx's term.
        attackers: Nodes that send ``flip`` times their update.
        flip: See ``attackers``.
        seed: Everything random comes from it.
    """

    parts: Sequence[I64]
    strategy: StrategySettings = field(default_factory=StrategySettings)
    robust: str = "none"
    cohort: int = 10
    buffer: int | None = None
    epochs: int = 1
    learning_rate: float = 0.1
    proximal_mu: float = 0.0
    attackers: int = 0
    flip: float = -10.0
    seed: int = 0


@dataclass(slots=True)
class Run:
    """How it went: accuracy, virtual time in seconds and mean staleness by version."""

    accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    staleness: list[int] = field(default_factory=list)

    def last(self, count: int = 5) -> float:
        """Mean accuracy of the last versions."""
        return float(np.mean(self.accuracy[-count:]))


@cache
def data() -> tuple[F32, I64, F32, I64]:
    """Training and test images in [0, 1], and their labels."""
    folder = Path(os.environ.get("FEDMQ_DATA", "../shared/data"))
    source = folder if folder.is_dir() else None
    images, labels = mnist(source, train=True)
    tests, answers = mnist(source, train=False)
    rows = NODES * IMAGES
    return _flat(images[:rows]), labels[:rows], _flat(tests[:TEST_IMAGES]), answers[:TEST_IMAGES]


def _flat(images: NDArray[np.uint8]) -> F32:
    return scaled(images.reshape(len(images), -1))


def iid(nodes: int = NODES, seed: int = 0) -> list[I64]:
    """Equal parts of shuffled rows."""
    return [np.asarray(part) for part in np.array_split(np.random.default_rng(seed).permutation(NODES * IMAGES), nodes)]


def by_labels(nodes: int = NODES, shards: int = 2, seed: int = 0) -> list[I64]:
    """Two shards of rows sorted by label for every node (arXiv 1602.05629, section 3)."""
    order = np.argsort(data()[1], kind="stable")
    pieces = np.array_split(order, nodes * shards)
    dealt = np.random.default_rng(seed).permutation(nodes * shards).reshape(nodes, shards)
    return [np.concatenate([pieces[index] for index in row]) for row in dealt]


def by_dirichlet(concentration: float, nodes: int = NODES, seed: int = 0) -> list[I64]:
    """Each label's rows are dealt in shares from Dirichlet(concentration) (arXiv 1909.06335)."""
    rng, labels = np.random.default_rng(seed), data()[1]
    parts: list[list[I64]] = [[] for _ in range(nodes)]
    for label in range(10):
        rows = rng.permutation(np.flatnonzero(labels == label))
        cuts = (np.cumsum(rng.dirichlet(np.full(nodes, concentration)))[:-1] * len(rows)).astype(int)
        for part, piece in zip(parts, np.split(rows, cuts), strict=True):
            part.append(piece)
    made = [np.concatenate(part) for part in parts]
    # A node without examples cannot train.
    return [part if len(part) else rng.integers(0, len(labels), 1) for part in made]


class _Network:
    """784-64-10, ReLU, softmax; parameters are one float32 vector in the order of the manifest."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        arrays = {
            name: (rng.normal(scale=np.sqrt(2.0 / shape[0]), size=shape) if len(shape) > 1 else np.zeros(shape)).astype(
                np.float32
            )
            for name, shape in SHAPES.items()
        }
        self.manifest = Manifest.of(arrays)
        self.initial = self.manifest.flatten(arrays)

    def arrays(self, flat: F32) -> dict[str, F32]:
        """Views by name."""
        empty = Vectors.zeros(self.manifest)
        named = self.manifest.unflatten(Vectors(flat, empty.statistics, empty.counters))
        return {name: np.array(array, np.float32) for name, array in named.items()}

    def train(self, flat: F32, rows: I64, experiment: Experiment, rng: np.random.Generator) -> Vectors:
        """The update that SGD makes from these parameters."""
        images, labels, _, _ = data()
        weights = self.arrays(flat)
        base = {name: array.copy() for name, array in weights.items()}
        for _ in range(experiment.epochs):
            order = rng.permutation(rows)
            for start in range(0, len(order), BATCH):
                batch = order[start : start + BATCH]
                for name, gradient in _gradients(weights, images[batch], labels[batch]).items():
                    pull = np.float32(experiment.proximal_mu) * (weights[name] - base[name])
                    weights[name] -= np.float32(experiment.learning_rate) * (gradient + pull)
        return self.manifest.flatten(weights).minus(self.manifest.flatten(base))

    def accuracy(self, flat: F32) -> float:
        """Share of the test images that are right."""
        _, _, images, labels = data()
        weights = self.arrays(flat)
        hidden = np.maximum(images @ weights["hidden.weight"] + weights["hidden.bias"], 0)
        return float(((hidden @ weights["out.weight"] + weights["out.bias"]).argmax(axis=1) == labels).mean())


def _gradients(weights: dict[str, F32], images: F32, labels: I64) -> dict[str, F32]:
    hidden = np.maximum(images @ weights["hidden.weight"] + weights["hidden.bias"], 0)
    logits = hidden @ weights["out.weight"] + weights["out.bias"]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    shares[np.arange(len(labels)), labels] -= 1
    shares /= len(labels)
    back = (shares @ weights["out.weight"].T) * (hidden > 0)
    return {
        "hidden.weight": images.T @ back,
        "hidden.bias": back.sum(axis=0),
        "out.weight": hidden.T @ shares,
        "out.bias": shares.sum(axis=0),
    }


class _Federation:
    """The coordinator of one experiment, and what its nodes do."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.network = experiment, _Network()
        buffer = experiment.cohort if experiment.buffer is None else experiment.buffer
        late = 0 if buffer == experiment.cohort else 50
        engine = EngineSettings(
            task="t",
            codec_up="lossless",
            concurrency=experiment.cohort,
            buffer=buffer,
            refill=experiment.cohort if late == 0 else 1,
            quorum=buffer,
            nodes_min=len(experiment.parts),
            max_staleness=late,
            lease_s=1e6,
            max_wait_s=1e6,
            evaluate_every=0,
        )
        committer = CommitterSettings(
            strategy=make_strategy(experiment.strategy),
            limits=AggregateLimits(rule=make_rule(experiment.robust, 0.2)),
        )
        self.nodes = [NodeId(f"n{index}") for index in range(len(experiment.parts))]
        manifest, initial = self.network.manifest, self.network.initial
        setup = Setup(manifest=manifest, initial=initial, engine=engine, committer=committer, seed=experiment.seed)
        self.coordinator = DirectCoordinator(setup, self.nodes)
        self.models = {0: self.coordinator.model.parameters}

    def answer(self, question: Question) -> int:
        """The node trains from the version that it was asked for; returns the update's staleness."""
        index, base = self.nodes.index(question.node), question.announcement.model.version
        rng = np.random.default_rng([self.experiment.seed, index, question.announcement.round])
        rows = self.experiment.parts[index]
        # A model under attack may diverge; its updates are refused, which says it all.
        with np.errstate(all="ignore"):
            update = self.network.train(self.models[base], rows, self.experiment, rng)
        if index < self.experiment.attackers:
            update = Vectors(np.float32(self.experiment.flip) * update.parameters, update.statistics, update.counters)
        staleness = self.coordinator.version - base
        finite = bool(np.isfinite(update.parameters).all())
        self.coordinator.answer(question, update if finite else b"diverged", len(rows))
        self.models[self.coordinator.version] = self.coordinator.model.parameters
        return staleness


def run_rounds(experiment: Experiment, rounds: int, stop: Callable[[float], bool] | None = None) -> Run:
    """Train synchronously, in no time; ``stop`` is asked with each version's accuracy.

    It ends early when the model has diverged and no update of it is accepted any more.
    """
    federation, run = _Federation(experiment), Run()
    coordinator = federation.coordinator
    while coordinator.version < rounds:
        version = coordinator.version
        refused_all = coordinator.now + 2 * REST_MAX_S
        while coordinator.version == version and coordinator.now < refused_all and _somebody(coordinator):
            federation.answer(coordinator.questions.popleft())
        if coordinator.version == version:
            break
        run.accuracy.append(federation.network.accuracy(coordinator.model.parameters))
        if stop is not None and stop(run.accuracy[-1]):
            break
    return run


def _somebody(coordinator: DirectCoordinator) -> bool:
    """Whether anybody is asked, once those that were refused have rested: a model that diverged is left by all."""
    if not coordinator.questions:
        coordinator.pass_time(REST_MAX_S)
    return bool(coordinator.questions)


def run_until(experiment: Experiment, target: float, delay_s: Callable[[int], float], limit_s: float) -> Run:
    """Train in virtual time until the accuracy is reached.

    Args:
        experiment: What is trained.
        target: The accuracy.
        delay_s: How long a node's next training takes, in seconds, by its index.
        limit_s: When it is given up.
    """
    federation, run = _Federation(experiment), Run()
    coordinator, version = federation.coordinator, 0
    under_way: list[tuple[float, int, Question]] = []
    number = 0
    while coordinator.now < limit_s:
        while coordinator.questions:
            question = coordinator.questions.popleft()
            number += 1
            end_s = coordinator.now + delay_s(federation.nodes.index(question.node))
            heapq.heappush(under_way, (end_s, number, question))
        end_s, _, question = heapq.heappop(under_way)
        coordinator.pass_time(end_s - coordinator.now)
        run.staleness.append(federation.answer(question))
        if coordinator.version == version:
            continue
        version = coordinator.version
        run.accuracy.append(federation.network.accuracy(coordinator.model.parameters))
        run.seconds.append(coordinator.now)
        if np.mean(run.accuracy[-3:]) >= target:
            break
    return run

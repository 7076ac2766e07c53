"""A small federation for experiments with algorithms: a numpy network on MNIST, in one process and in virtual time.

Coordinator, codec and store are those of production (`fedmq.simulation.experiment.direct`); only the network is left
out. Nodes train a perceptron on 500 images each: see `benchmarks.algorithm_nodes`.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.algorithm_nodes import BATCH, IMAGES, NODES, Learner, Network, Node, data
from coordinator.engine.registry import REST_MAX_S
from coordinator.engine.settings import EngineSettings
from coordinator.global_model.aggregation import AggregateLimits
from coordinator.global_model.committer import CommitterSettings
from coordinator.strategies.presets import STRATEGIES
from coordinator.strategies.robust import make_rule
from coordinator.strategies.strategy import StrategySettings, make_strategy
from federation.protocol.messages import TrainSettings
from federation.tasks.scaffold import NODES_KEY, RESOLUTION_KEY, ScaffoldTask, with_controls
from federation.types import NodeId, update_id
from fedmq.simulation.experiment.direct import DirectCoordinator, Question, Setup
from update_codec import Vectors

__all__ = ["Experiment", "Run", "by_dirichlet", "by_labels", "iid", "run_rounds", "run_until"]

I64 = NDArray[np.int64]


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
        resolution: How coarsely SCAFFOLD's control variates travel; 0 is as finely as with a lossless codec.
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
    resolution: float = 0.0
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


class _Federation:
    """The coordinator of one experiment, and what its nodes do."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.network = experiment, Network()
        buffer = experiment.cohort if experiment.buffer is None else experiment.buffer
        late = 0 if buffer == experiment.cohort else 50
        self.controlled = STRATEGIES[experiment.strategy.name].controls
        engine = EngineSettings(
            task="t",
            train=self._settings(),
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
        self.names = [NodeId(f"n{index}") for index in range(len(experiment.parts))]
        self.nodes = [self._node(rows) for rows in experiment.parts]
        node = self.nodes[0]
        initial = node.manifest.flatten(dict(node.task.initial_parameters(0)))
        setup = Setup(manifest=node.manifest, initial=initial, engine=engine, committer=committer, seed=experiment.seed)
        self.coordinator = DirectCoordinator(setup, self.names)
        self.models = {0: self.coordinator.model}
        self._heard = 0

    def answer(self, question: Question) -> int:
        """The node trains from the version that it was asked for; returns the update's staleness."""
        index, announcement = self.names.index(question.node), question.announcement
        base, node = announcement.model.version, self.nodes[index]
        node.learner.rng = np.random.default_rng([self.experiment.seed, index, announcement.round])
        # A model under attack may diverge; its updates are refused, which says it all.
        with np.errstate(all="ignore"):
            update = node.train(self.models[base], announcement.settings, update_id(announcement.round, question.node))
        if index < self.experiment.attackers:
            update = Vectors(np.float32(self.experiment.flip) * update.parameters, update.statistics, update.counters)
        staleness = self.coordinator.version - base
        finite = bool(np.isfinite(update.parameters).all())
        self.coordinator.answer(question, update if finite else b"diverged", len(node.learner.rows))
        self.models[self.coordinator.version] = self.coordinator.model
        self._tell()
        return staleness

    def _tell(self) -> None:
        """Every receipt reaches its node."""
        for name, receipt in self.coordinator.receipts[self._heard :]:
            self.nodes[self.names.index(name)].settle(receipt)
        self._heard = len(self.coordinator.receipts)

    def _settings(self) -> TrainSettings:
        experiment = self.experiment
        scaffold = {NODES_KEY: float(len(experiment.parts)), RESOLUTION_KEY: experiment.resolution}
        return TrainSettings(
            local_epochs=experiment.epochs,
            batch_size=BATCH,
            learning_rate=experiment.learning_rate,
            proximal_mu=experiment.proximal_mu,
            extra=scaffold if self.controlled else {},
        )

    def _node(self, rows: I64) -> Node:
        learner, manifest = Learner(self.network, rows), self.network.manifest
        if not self.controlled:
            return Node(learner, manifest, learner)
        return Node(learner, with_controls(manifest), ScaffoldTask(learner))


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
            end_s = coordinator.now + delay_s(federation.names.index(question.node))
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

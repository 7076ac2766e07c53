"""The nodes of the experiments: a perceptron 784-64-10 in numpy, trained on MNIST by plain SGD, and what a node keeps.

Small enough for a hundred rounds in a minute, and hard enough for differences to show.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_node.storage.task_state import added, expected_state
from edge_node.training.update import difference
from federation.protocol.messages import Receipt, ReceiptStatus, TrainSettings
from federation.task import Metrics, Parameters, Stateful, Stop, Task, TrainResult
from federation.tasks.builtin.mnist import mnist, scaled
from federation.types import UpdateId
from update_codec import Manifest, Role, Vectors

__all__ = ["BATCH", "IMAGES", "NODES", "Learner", "Network", "Node", "data"]

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

NODES = 20
IMAGES = 500
TEST_IMAGES = 4_000
HIDDEN = 64
BATCH = 25
SHAPES = {"hidden.weight": (784, HIDDEN), "hidden.bias": (HIDDEN,), "out.weight": (HIDDEN, 10), "out.bias": (10,)}


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


class Network:
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

    def accuracy(self, flat: F32) -> float:
        """Share of the test images that are right."""
        _, _, images, labels = data()
        weights = self.arrays(flat)
        hidden = np.maximum(images @ weights["hidden.weight"] + weights["hidden.bias"], 0)
        return float(((hidden @ weights["out.weight"] + weights["out.bias"]).argmax(axis=1) == labels).mean())


@dataclass(slots=True)
class Learner:
    """One node's task: plain SGD on its rows, from a new seed in each round.

    Attributes:
        network: The model.
        rows: Of the data.
        rng: Of the shuffles; to be set before each training.
    """

    network: Network
    rows: I64
    rng: np.random.Generator = field(default_factory=np.random.default_rng)

    def initial_parameters(self, seed: int) -> Parameters:
        """The same for everybody, whatever the seed."""
        del seed
        return self.network.arrays(self.network.initial.parameters)

    def roles(self) -> Mapping[str, Role]:
        """Parameters alone."""
        return {}

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:
        """Local SGD, with FedProx's term where it is asked for."""
        return self.train_corrected(parameters, settings, stop, {})

    def train_corrected(
        self, parameters: Parameters, settings: TrainSettings, stop: Stop, correction: Parameters
    ) -> TrainResult:
        """Local SGD with SCAFFOLD's correction."""
        del stop
        images, labels, _, _ = data()
        base = {name: np.asarray(array, np.float32) for name, array in parameters.items()}
        weights = {name: array.copy() for name, array in base.items()}
        added = {name: np.asarray(array, np.float32) for name, array in correction.items()}
        steps = 0
        for _ in range(settings.local_epochs):
            order = self.rng.permutation(self.rows)
            for start in range(0, len(order), BATCH):
                batch = order[start : start + BATCH]
                for name, gradient in _gradients(weights, images[batch], labels[batch]).items():
                    pull = np.float32(settings.proximal_mu) * (weights[name] - base[name])
                    slope = gradient + pull + added.get(name, np.float32(0))
                    weights[name] -= np.float32(settings.learning_rate) * slope
                steps += 1
        return TrainResult(parameters=weights, num_examples=len(self.rows), steps=steps)

    def evaluate(self, parameters: Parameters) -> Metrics:
        """Not here: `Network.accuracy` looks at the global model."""
        del parameters
        return {}


@dataclass(slots=True)
class Node:
    """What a node is without a network: its task, and what it keeps.

    Attributes:
        learner: The task.
        manifest: Of the model that it trains.
        task: The learner, or the learner under SCAFFOLD.
        state: What it keeps for the task.
        pending: By update, what is added once it is applied.
    """

    learner: Learner
    manifest: Manifest
    task: Task
    state: Parameters = field(default_factory=dict)
    pending: dict[UpdateId, Parameters] = field(default_factory=dict)

    def train(self, model: Vectors, settings: TrainSettings, update: UpdateId) -> Vectors:
        """The update that it makes of a model."""
        if isinstance(self.task, Stateful):
            self.task.restore(expected_state(self.state, self.pending.values()))
        result = self.task.train(self.manifest.unflatten(model), settings, lambda: False)
        self.pending[update] = result.pending
        changed = difference(model, result.parameters, self.manifest)
        assert isinstance(changed, Vectors)  # noqa: S101 - for the type checker: nothing is on another device
        return changed

    def settle(self, receipt: Receipt) -> None:
        """A verdict has come."""
        if receipt.status is not ReceiptStatus.STORED:
            pending = self.pending.pop(receipt.update, {})
            self.state = added(self.state, pending) if receipt.status is ReceiptStatus.APPLIED else self.state


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

r"""Tasks without data, numpy only: one whose answer is known, and one that trains nothing.

Quadratic: node k minimises f_k(w) = 1/2 |w - c_k|^2 by ``local_epochs`` exact gradient steps. All nodes have the same
weight, so the global optimum, which the federation must find, is the mean of the c_k, and after E steps with rate a a
node holds c_k + (1 - a)^E (w - c_k). Thousands of such nodes fit one simulation.

Null: for measuring everything but the training.
"""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import Metrics, Parameters, Stop, TaskContext, TrainResult
from update_codec import Role

NUM_EXAMPLES = 100
"""What every node reports as its weight."""
_CHANGE = 1e-3
"""Largest difference that "training" makes in any entry."""


def build_quadratic(context: TaskContext, *, size: int = 50) -> "QuadraticTask":
    """The factory that the registry finds as ``quadratic`` and ``quadratic-N``."""
    return QuadraticTask(context, size=size)


def node_optimum(seed: int, node_index: int, size: int) -> NDArray[np.float32]:
    """c_k: a point that all nodes of a seed share, and a node's own distance from it.

    Returns:
        A float32 vector of shape (size,).
    """
    shared = np.random.default_rng([abs(seed), 0]).standard_normal(size, dtype=np.float32)
    own = np.random.default_rng([abs(seed), 1, node_index]).standard_normal(size, dtype=np.float32)
    return shared + np.float32(0.5) * own


class QuadraticTask:
    """One vector ``point``, pulled towards this node's optimum."""

    def __init__(self, context: TaskContext, *, size: int = 50) -> None:
        """Args: ``size`` is the number of parameters, at least 1."""
        self._context = context
        self._size = size

    def initial_parameters(self, seed: int) -> Parameters:
        """One float32 vector ``point`` of shape (size,), near zero."""
        return {"point": np.float32(0.1) * np.random.default_rng(abs(seed)).standard_normal(self._size, np.float32)}

    def roles(self) -> Mapping[str, Role]:
        """All tensors have the default role."""
        return {}

    @cached_property
    def optimum(self) -> NDArray[np.float32]:
        """The global optimum, float32 of shape (size,): the mean of all nodes' optima."""
        seed, count = self._context.seed, self._context.node_count
        total = np.zeros(self._size, np.float64)
        for node_index in range(count):
            total += node_optimum(seed, node_index, self._size)
        return (total / count).astype(np.float32)

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:
        """Take ``local_epochs`` gradient steps (at most ``max_steps``), with FedProx's term where it is asked for.

        Raises:
            TaskError: This participant has no data, the parameters are not this task's, or the steps diverge.
        """
        return self.train_corrected(parameters, settings, stop, {})

    def train_corrected(
        self, parameters: Parameters, settings: TrainSettings, stop: Stop, correction: Parameters
    ) -> TrainResult:
        """The same with SCAFFOLD's correction of the gradient.

        Raises:
            TaskError: This participant has no data, the parameters are not this task's, or the steps diverge.
        """
        base = self._point(parameters)
        added = correction.get("point", np.float32(0))
        steps = min(settings.local_epochs, settings.max_steps or settings.local_epochs)
        rate, pull = np.float32(settings.learning_rate), np.float32(settings.proximal_mu)
        point = base.copy()
        for _ in range(steps):
            if stop():
                break
            point -= rate * ((point - self._centre) + pull * (point - base) + added)
        loss = float(0.5 * np.square(point - self._centre, dtype=np.float64).sum())
        if not np.isfinite(loss):
            raise TaskError(f"local training diverged: lower learning_rate ({settings.learning_rate})")
        return TrainResult(parameters={"point": point}, num_examples=NUM_EXAMPLES, metrics={"loss": loss}, steps=steps)

    def evaluate(self, parameters: Parameters) -> Metrics:
        """``loss``: 1/2 |w - optimum|^2, which is 0 at the global optimum."""
        return {"loss": float(0.5 * np.square(self._point(parameters) - self.optimum, dtype=np.float64).sum())}

    @cached_property
    def _centre(self) -> NDArray[np.float32]:
        if self._context.node_index is None:
            raise TaskError("the coordinator has no training data: set node_index")
        return node_optimum(self._context.seed, self._context.node_index, self._size)

    def _point(self, parameters: Parameters) -> NDArray[np.float32]:
        point = parameters.get("point")
        if point is None or point.shape != (self._size,):
            raise TaskError(f"the quadratic task has one tensor 'point' of shape ({self._size},)")
        return point.astype(np.float32, copy=False)


def build_null(context: TaskContext, *, size: int = 1000) -> "NullTask":
    """The factory that the registry finds as ``null`` and ``null-N``."""
    return NullTask(context, size=size)


class NullTask:
    """A model of one vector; local training adds a small pattern that depends on the node and the round's seed."""

    def __init__(self, context: TaskContext, *, size: int = 1000) -> None:
        """Args: ``size`` is the number of parameters, at least 1."""
        self._size = size
        self._node_index = context.node_index or 0

    def initial_parameters(self, seed: int) -> Parameters:
        """One float32 vector ``weights`` of shape (size,), uniform in [-0.5, 0.5)."""
        return {"weights": np.random.default_rng(abs(seed)).random(self._size, dtype=np.float32) - np.float32(0.5)}

    def roles(self) -> Mapping[str, Role]:
        """All tensors have the default role."""
        return {}

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:  # noqa: ARG002 - nothing to stop
        """Add the pattern: entry i changes by 0.001 sin(i + seed + node).

        Raises:
            TaskError: The parameters are not this task's.
        """
        weights = parameters.get("weights")
        if weights is None or weights.shape != (self._size,):
            raise TaskError(f"the null task has one tensor 'weights' of shape ({self._size},)")
        angle = np.arange(self._size, dtype=np.float32) + np.float32((settings.seed + self._node_index) % 1024)
        after = (weights + np.float32(_CHANGE) * np.sin(angle)).astype(np.float32)
        return TrainResult(parameters={"weights": after}, num_examples=1)

    def evaluate(self, parameters: Parameters) -> Metrics:  # noqa: ARG002 - there is nothing to measure
        """Nothing: there is no data."""
        return {}

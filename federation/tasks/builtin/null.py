"""The task that trains nothing: numpy only, for measuring everything but the training."""

from collections.abc import Mapping

import numpy as np

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import Metrics, Parameters, Stop, TaskContext, TrainResult
from update_codec import Role

_CHANGE = 1e-3
"""Largest difference that "training" makes in any entry."""


def build(context: TaskContext, *, size: int = 1000) -> "NullTask":
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

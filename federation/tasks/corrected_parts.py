"""Nodes that share one torch model and one data set, trained one after the other with SCAFFOLD's corrected steps."""

from collections.abc import Sequence

import numpy as np
import torch

from federation.protocol.messages import TrainSettings
from federation.task import Metrics, Parameters, Stop, TrainResult
from federation.tasks.local_data import TensorData, as_tensor
from federation.tasks.local_training import LocalTraining
from federation.tasks.partitioners import Rows
from federation.tasks.torch_task import TorchTask
from federation.tasks.whole_data import WholeData
from update_codec import Role

__all__ = ["CorrectedParts", "PartTask"]


class CorrectedParts:
    """One model, one copy of the data, and the rows of every node.

    Args:
        task: A node's task, without layers or test data of its own.
        data: Everybody's data.
        parts: The rows of every node.
    """

    def __init__(self, task: TorchTask, data: WholeData, parts: Sequence[Rows]) -> None:
        self._training, self._parts = LocalTraining(task), parts
        inputs, targets = data.everything()
        device = self._training.device
        self._inputs, self._targets = as_tensor(inputs).to(device), as_tensor(targets).to(device)

    def task(self, node: int) -> "PartTask":
        """The task of one node."""
        return PartTask(self, node)

    def train(
        self, node: int, parameters: Parameters, settings: TrainSettings, correction: Parameters | None
    ) -> TrainResult:
        """Train as this node's own task does, bit for bit.

        Raises:
            TaskError: The parameters or the settings cannot be used, or the training diverged.
        """
        rows = torch.from_numpy(np.ascontiguousarray(self._parts[node])).to(self._training.device)
        data = TensorData(self._inputs[rows], self._targets[rows], self._training.device)
        return self._training.train_on(data, node, parameters, settings, correction)

    def roles(self) -> dict[str, Role]:
        """The model's."""
        return dict(self._training.roles())

    def initial_parameters(self, seed: int) -> Parameters:
        """The model's."""
        return self._training.initial_parameters(seed)


class PartTask:
    """One node of it, as a task whose steps can be corrected."""

    def __init__(self, parts: CorrectedParts, node: int) -> None:
        self._parts, self._node = parts, node

    def initial_parameters(self, seed: int) -> Parameters:
        """See `federation.task.Task`."""
        return self._parts.initial_parameters(seed)

    def roles(self) -> dict[str, Role]:
        """See `federation.task.Task`."""
        return self._parts.roles()

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:
        """See `federation.task.Task`; nobody stops a simulated training."""
        del stop
        return self._parts.train(self._node, parameters, settings, None)

    def train_corrected(
        self, parameters: Parameters, settings: TrainSettings, stop: Stop, correction: Parameters
    ) -> TrainResult:
        """See `federation.task.Correctable`."""
        del stop
        return self._parts.train(self._node, parameters, settings, correction)

    def evaluate(self, parameters: Parameters) -> Metrics:
        """Nothing: a pool evaluates as the coordinator does."""
        del parameters
        return {}

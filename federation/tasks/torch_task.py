"""`TorchTask`: a model, data and a loss become a task. torch is imported when it first trains or evaluates.

```python
import torch
from federation.tasks import TorchTask

def build(context):
    x, y, x_test, y_test = ...
    return TorchTask(context, model=lambda: torch.nn.Linear(64, 10), train_data=(x, y), test_data=(x_test, y_test),
                     loss=torch.nn.functional.cross_entropy)
```
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any

from federation.errors import TaskError
from federation.picture import PictureInput
from federation.protocol.messages import TrainSettings
from federation.task import Array, Metrics, Parameters, ProgramForm, Stop, TaskContext, TrainResult
from update_codec import Role

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from federation.tasks.local_training import LocalTraining


@dataclass
class TorchTask:
    """A task around a torch model.

    Attributes:
        context: What the factory was given: which part of the data, which device.
        model: Makes the model; its random initial weights are drawn from the seed that the coordinator chose.
        train_data: (inputs, targets), a `WholeData` or a map-style Dataset of the whole federation, of which this node
            takes its part (see ``split``); or a function that gives this node's own: (inputs, targets), a Dataset, or
            an iterable of batches such as a DataLoader. The function is called on first use, so never at the
            coordinator.
        loss: Output and target to the mean loss of the batch, such as ``torch.nn.functional.cross_entropy``.
        test_data: The same kinds; None evaluates nothing. The coordinator has all of it. Of data of the whole
            federation a node has a part: of each label the share that it has of the training rows.
        own_test: This node's own test split: a share of its training data that is held out (0.2 is a fifth), or data of
            the same kinds as ``train_data``. With it, every update reports ``global_accuracy`` and ``global_loss`` (the
            model as it came), ``personal_accuracy`` and ``personal_loss`` (after training here), ``test_examples``.
        local: Patterns such as ``head.*`` of tensors that stay on the node: personal layers (FedPer). Each node keeps
            its own in its state folder; neither the coordinator nor its model has them.
        local_norms: The same for all BatchNorm layers with their statistics (FedBN).
        finetune_epochs: Further passes before the personal evaluation, of which nothing is sent or kept.
        accuracy: Report the share of right answers where the targets are classes.
        threads: CPU threads for this task's arithmetic; 0 leaves torch's own choice.
        split: How data of the whole federation is divided, where the context does not say it: ``iid``, ``shards:N``,
            ``dirichlet:ALPHA`` or ``natural``.
        picture: How a picture becomes an input, for `coordinator predict`.
        classes: Names of the classes, in the order of the model's outputs.
        input_shape: Shape of one input, for `coordinator export` where there is neither ``test_data`` nor ``picture``.
        initial: Initial parameters without torch, for a coordinator that has none; the model must have no buffers.
        kept: What this node keeps: see `restore`.
    """

    context: TaskContext
    _: KW_ONLY
    model: "Callable[[], Module]"
    train_data: Any
    loss: "Callable[[Any, Any], Tensor]"
    test_data: Any = None
    own_test: Any = None
    local: Sequence[str] = ()
    local_norms: bool = False
    finetune_epochs: int = 0
    accuracy: bool = True
    threads: int = 1
    split: str = "iid"
    picture: PictureInput | None = None
    classes: Sequence[str] = ()
    input_shape: tuple[int, ...] | None = None
    initial: Callable[[int], Parameters] | None = field(default=None, repr=False)
    kept: Parameters = field(default_factory=dict, init=False, repr=False)

    def initial_parameters(self, seed: int) -> Parameters:
        """All tensors of version 0 that travel; the same seed gives the same bits (for the same torch version)."""
        if self.initial is not None:
            made = self.initial(seed)
            return {name: array for name, array in made.items() if not _any_matches(self.local, name)}
        return self._training.initial_parameters(seed)

    def roles(self) -> Mapping[str, Role]:
        """Float buffers (BatchNorm's statistics) are statistics, integer buffers are counters."""
        return {} if self.initial is not None else self._training.roles()

    def prepare(self) -> None:
        """Load torch, the model and this node's data before the first round needs them.

        Raises:
            ConfigError: The device is not there.
            TaskError: The data cannot be read or the model cannot be trained on it.
        """
        self._training.prepare()

    @property
    def device(self) -> str:
        """The device that it runs on: ``cpu`` or ``cuda``."""
        return self._training.device.type

    def restore(self, state: Parameters) -> None:
        """Take the local tensors that this node keeps; without any they begin as the model is made."""
        self.kept = state

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:
        """Local SGD from ``parameters`` (local_sgd.py); ``stop`` is asked before each step.

        Raises:
            ConfigError: The device is not there.
            TaskError: The data, the parameters or the settings cannot be used, or the training diverged.
        """
        return self._training.train(parameters, settings, stop)

    def train_corrected(
        self, parameters: Parameters, settings: TrainSettings, stop: Stop, correction: Parameters
    ) -> TrainResult:
        """The same with ``correction`` added to every gradient: SCAFFOLD's local steps (scaffold.py).

        Raises:
            ConfigError: The device is not there.
            TaskError: The data, the parameters or the settings cannot be used, or the training diverged.
        """
        return self._training.train(parameters, settings, stop, correction)

    def evaluate(self, parameters: Parameters) -> Metrics:
        """``loss`` and, for classes, ``accuracy`` on the test data; empty where there is none.

        A node says ``test_examples``, and takes its own test split where it has one, with its local layers; a
        coordinator of a task with local layers has no whole model, and evaluates nothing.

        Raises:
            ConfigError: The device is not there.
            TaskError: The data or the parameters cannot be used.
        """
        if self.context.node_index is not None and self.own_test is not None:
            return self._training.evaluate_own(parameters)
        partial = self.context.node_index is None and (self.local or self.local_norms)
        return {} if self.test_data is None or partial else self._training.evaluate(parameters)

    def export(self, parameters: Parameters, form: ProgramForm, notes: Mapping[str, str]) -> bytes:
        """The model as a program (exporting.py); the number of inputs stays free.

        Raises:
            TaskError: The model cannot be written so, what writes it is not installed, or no input is known.
        """
        return self._training.export(parameters, form, notes)

    def predict(self, parameters: Parameters, inputs: Array) -> Array:
        """The model's outputs for these inputs.

        Raises:
            ConfigError: The device is not there.
            TaskError: The inputs or the parameters cannot be used.
        """
        return self._training.predict(parameters, inputs)

    @cached_property
    def _training(self) -> "LocalTraining":
        try:
            from federation.tasks.local_training import LocalTraining  # noqa: PLC0415 - torch costs seconds and 200 MB
        except ModuleNotFoundError as error:
            raise TaskError(f"this task needs {error.name}: pip install 'fedmq[torch]'") from error
        return LocalTraining(self)


def _any_matches(patterns: Sequence[str], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)

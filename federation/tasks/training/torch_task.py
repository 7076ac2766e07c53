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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from federation.errors import TaskError
from federation.inputs import Inputs
from federation.protocol.messages import TrainSettings
from federation.runtime.log import get_log
from federation.task import Array, Metrics, Parameters, ProgramForm, Stop, TrainResult
from federation.tasks.data.data_files import OwnData
from federation.tasks.data.frames import ByName, by_name, columns_of
from federation.tasks.data.whole_data import WholeData
from federation.tasks.statistics.counting import channels_of, rows_of
from federation.tasks.training.spec import TorchTaskSpec
from update_codec import Role

if TYPE_CHECKING:
    from torch.nn import Module

    from federation.tasks.training.local_training import LocalTraining


@dataclass
class TorchTask(TorchTaskSpec):
    """A task around a torch model; its fields are those of `TorchTaskSpec`."""

    def __post_init__(self) -> None:
        """Check the fields, and take the columns of data frames by the names that were given.

        Raises:
            TaskError: A field is wrong; or a frame lacks a column, or has it twice.
        """
        self.check()
        self._take_columns(tuple(self.features))

    def initial_parameters(self, seed: int) -> Parameters:
        """All tensors of version 0 but local ones; the same seed gives the same bits (for the same torch version)."""
        if self.initial is not None:
            made = self.initial(seed)
            return {name: array for name, array in made.items() if not _any_matches(self.local, name)}
        return self._training.initial_parameters(seed)

    def roles(self) -> Mapping[str, Role]:
        """Float buffers (BatchNorm's) are statistics, integer ones counters; frozen tensors are constants."""
        return {} if self.initial is not None else self._training.roles()

    def prepare(self) -> None:
        """Load torch, the model and this node's data before the first round needs them.

        A table whose columns nobody has chosen may have more of them than the run: that the model cannot take them all
        says nothing before the coordinator has said which it wants.

        Raises:
            ConfigError: The device is not there.
            TaskError: The data cannot be read or the model cannot be trained on it.
        """
        open_columns = self._open_columns()
        try:
            self._training.prepare()
        except TaskError as error:
            if self.is_live:
                # A new device has no readings yet: it declines rounds until it has, and says the same.
                get_log("task").warning("readings_awaited", reason=str(error))
                return
            if not open_columns:
                raise
            get_log("task").warning("inputs_not_taken", columns=open_columns, reason=str(error))
            return
        if columns := self.columns_unsaid():
            why = "the order is the frame's: give TorchTask features=, or the coordinator test data with the same names"
            get_log("task").warning("columns_unsaid", columns=columns, why=why)

    def columns_unsaid(self) -> Sequence[str]:
        """The columns of this node's own frame, once it was read, where nobody has said which are wanted."""
        own = self.train_data if isinstance(self.train_data, ByName) and self.context.node_index is not None else None
        return own.columns if own is not None and not own.features else ()

    def complete(self, parameters: Parameters) -> Parameters:
        """The whole model: with what never changes, second names, and on a node the layers that it keeps.

        Raises:
            TaskError: The parameters are not this model's.
        """
        return self._training.complete(parameters)

    def inputs(self) -> Inputs:
        """What the inputs and targets mean: what the tables of `csv_data` and the like say, and what is declared here.

        Raises:
            TaskError: A node's table cannot be read. A coordinator need not have one.
        """
        sources = self._sources
        found = sources[0].inputs(needed=self.context.node_index is not None) if sources else Inputs()
        shape = self.input_shape or (() if self.picture is None else self.picture.shape)
        features = found.features or self._frame_columns() or tuple(self.features)
        classes = found.classes or tuple(map(str, self.classes))
        return replace(found, features=features, classes=classes, shape=tuple(shape))

    def column_names(self) -> Sequence[str]:
        """Names of the inputs' columns, or their numbers; of windows the last axis, of pictures the channels.

        Raises:
            TaskError: This node's data cannot be read.
        """
        if features := self.inputs().features:
            return features
        whole = WholeData.of(self.train_data)
        shape = (1, *self.input_shape) if self.input_shape is not None else ()
        if whole is not None:
            shape = tuple(np.shape(whole()[0]))
        elif self.context.node_index is not None and not shape:
            shape = self.rows().shape
        return tuple(map(str, range(channels_of(shape))))

    def rows(self) -> Array:
        """The inputs that this node trains on, of shape (rows, columns).

        Raises:
            ConfigError: The device is not there.
            TaskError: The data cannot be read, or has no columns.
        """
        return rows_of(self._training.inputs())

    def adopt_inputs(self, wanted: Inputs) -> None:
        """Read tables by these names from now on."""
        for source in self._sources:
            source.adopt(wanted)
        self._take_columns(wanted.features)
        self._training.forget_data()

    def _take_columns(self, features: tuple[str, ...]) -> None:
        """Read the inputs' columns by these names, in this order, where the data are frames."""
        given = self.__dict__.setdefault("_given", (self.train_data, self.own_test, self.test_data))
        self.train_data, self.own_test, self.test_data = (by_name(each, features) for each in given)

    def _frame_columns(self) -> tuple[str, ...]:
        """Names of the inputs' columns, where they are a data frame's.

        Raises:
            TaskError: This node's own data cannot be read.
        """
        if self._sources:
            return ()
        on_a_node = self.context.node_index is not None
        if on_a_node and isinstance(self.train_data, ByName):
            return self._training.read_columns()
        return columns_of(self.train_data) or (() if on_a_node else columns_of(self.test_data))

    def _open_columns(self) -> Sequence[str]:
        """The columns of a node's own table, where nobody has chosen them.

        Raises:
            TaskError: It cannot be read.
        """
        found = self._sources[:1] if self.context.node_index is not None else []
        return next((each.inputs().features for each in found if not each.chosen), ())

    @property
    def _sources(self) -> list[OwnData]:
        """What knows the names of its columns, a node's training data first."""
        asked = (self.train_data, self.own_test, self.test_data)
        found = [getattr(each, "__self__", None) for each in asked]
        return list({id(each): each for each in found if isinstance(each, OwnData)}.values())

    @property
    def device(self) -> str:
        """The device that it runs on: ``cpu`` or ``cuda``."""
        return self._training.device.type

    def restore(self, state: Parameters) -> None:
        """Take the local tensors that this node keeps; without any they begin as the model is made."""
        self.kept = state

    @property
    def reads_only(self) -> bool:
        """Whether what is given is only copied into the model: see `federation.task.Reader`."""
        own = type(self)
        return own.train is TorchTask.train and own.evaluate is TorchTask.evaluate

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:
        """Local SGD from ``parameters`` (local_sgd.py); ``stop`` is asked before each step.

        Raises:
            ConfigError: The device is not there.
            TaskError: The data, the parameters or the settings cannot be used, or the training diverged.
        """
        try:
            return self._training.train(parameters, settings, stop)
        except TaskError as error:
            if open_columns := self._open_columns():
                raise TaskError(f"{error} (its inputs are the columns {', '.join(open_columns)})") from error
            raise

    def private_objection(self) -> str | None:
        """Why this model or this node's data cannot be trained on with a guarantee for each row, or None.

        Raises:
            ConfigError: The device is not there.
            TaskError: The data cannot be read.
        """
        try:
            return self._training.private_objection()
        except TaskError:
            if self.is_live:
                return None  # no readings yet: a round that asks for it is declined as long as it cannot be kept
            raise

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
        if self.test_data is None or (self.context.node_index is None and self._training.keeps_layers):
            return {}
        return self._training.evaluate(parameters)

    def module_with(self, parameters: Parameters) -> "Module":
        """A model of its own with these tensors, on the CPU, in evaluation mode.

        Raises:
            TaskError: The tensors are not this model's.
        """
        return self._training.module_with(parameters)

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
            from federation.tasks.training.local_training import LocalTraining  # noqa: PLC0415 - torch costs seconds and 200 MB
        except ModuleNotFoundError as error:
            raise TaskError(f"this task needs {error.name}: pip install 'fedmq[torch]'") from error
        return LocalTraining(self)


def _any_matches(patterns: Sequence[str], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)

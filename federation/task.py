"""The extension point for the user's model, data, training and evaluation: arrays in, arrays out.

A task is built by a factory ``build(context: TaskContext) -> Task``, named by a built-in name (``digits``) or by
``file.py:function`` or ``package.module:function``. torch never crosses this boundary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from numbers import Integral
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from federation.picture import PictureInput
from federation.protocol.limits import NAME_BYTES_MAX, fit_text
from federation.protocol.messages import TrainSettings
from federation.readings.live import LiveReadings
from federation.types import SampledSteps
from update_codec import DeviceUpdate, Manifest, Role, Vectors

Array = NDArray[np.generic]
Parameters = Mapping[str, Array]
"""Tensors by name: float arrays are parameters (or statistics, see `Task.roles`); integer arrays are counters."""

Metrics = Mapping[str, float]
"""The task's own finite numbers by name; ``accuracy`` (0 to 1) and ``loss`` are shown where they are present."""

METRIC_NAMES: Mapping[str, str] = {
    "accuracy": "share of right answers of the model at hand, 0 to 1",
    "loss": "mean loss of the model at hand; with an update, of local training",
    "global_accuracy": "accuracy of the global model as it came, on this node's test data",
    "global_loss": "its mean loss there",
    "personal_accuracy": "accuracy there after this node has made the model its own (local layers, fine-tuning)",
    "personal_loss": "its mean loss there",
    "data_age_s": "age of the newest of this node's own readings when it trained, in seconds",
    "new_examples": "examples that came since this node trained last",
    "drift": "population stability index of the column that has moved most: above 0.25 it has moved",
    "test_examples": "how many examples the evaluation is over: its weight in a mean over the nodes",
}
"""What the common names mean; a node may report the last five with an update, too."""

TEST_EXAMPLES = "test_examples"
"""Name of the number that weighs an evaluation."""

ADAM_KEY, DECOUPLED_KEY, CLIP_KEY = "adam", "adam_decoupled", "clip_norm"
"""Names in `TrainSettings.extra`: 1 for Adam; 1 for AdamW beside it; and the longest gradient, 0 for any."""

KEPT_KEY, MIXED_KEY = "optimizer_kept", "mixed_precision"
"""The same: 1 where a node keeps its optimizer's state from round to round; one of `MIXED`, 0 for full precision."""

MIXED: Mapping[str, float] = {"auto": 1.0, "bfloat16": 2.0, "float16": 3.0}
"""Kinds of mixed precision; with the first, each device takes what it computes fast."""

Stop = Callable[[], bool]
"""Asked between steps: True means give up soon (the result is thrown away)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskContext:
    """Where a task is built: which part of the data, which device, which seed.

    Attributes:
        node_index: Which part of the data this node owns, 0 to ``node_count - 1``; None at the coordinator.
        node_count: How many parts there are.
        data: Folder with the data, or None for the task's default.
        device: ``auto``, ``cpu`` or ``cuda``.
        seed: Seed of the partition: all participants of a run use the same.
        partition: How one data set is divided for an experiment: ``iid``, ``shards:N``, ``dirichlet:ALPHA`` or
            ``natural``; None is the task's own way.
        arguments: What a configuration tells the task, by name: plain values of TOML. The task checks them.
        readings: This node's own readings, which go on arriving (``[data]``); None where there are none, as at the
            coordinator.
    """

    node_index: int | None
    node_count: int
    data: Path | None = None
    device: str = "auto"
    seed: int = 0
    partition: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    readings: LiveReadings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What local training made.

    Attributes:
        parameters: All tensors after training, with the names and shapes that came in.
        num_examples: Size of the local data set that was drawn from: the weight, at least 1.
        metrics: The task's own finite numbers.
        spent: What the training took of the node's budget; a task that keeps `TrainSettings.privacy` must say it.
        steps: Gradient steps taken; only `Correctable.train_corrected` must say it.
        kept: Arrays that this node keeps from now on, whatever becomes of the update; see `Stateful`.
        pending: Float arrays that are added to what this node keeps when the update is applied, else dropped.
    """

    parameters: Parameters
    num_examples: int
    metrics: Metrics = field(default_factory=dict)
    steps: int = 0
    spent: SampledSteps | None = None
    kept: Parameters = field(default_factory=dict)
    pending: Parameters = field(default_factory=dict)

    def __post_init__(self) -> None:
        # NumPy's whole numbers are whole numbers; what is none is said by whoever needs one.
        for name in ("num_examples", "steps"):
            value = getattr(self, name)
            if isinstance(value, Integral) and not isinstance(value, bool):
                object.__setattr__(self, name, int(value))


class Task(Protocol):
    """A model, its data, its training and its evaluation."""

    def initial_parameters(self, seed: int) -> Parameters:
        """All tensors of version 0; the same seed gives the same bits."""

    def roles(self) -> Mapping[str, Role]:
        """Roles of the tensors that are not the default (float: parameter; integer: counter).

        What is constant or a second name is among the initial parameters, so that all can compare it; ``train`` and
        ``evaluate`` get no constants, and need not return either.
        """

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:
        """Train locally from ``parameters``.

        Raises:
            TaskError: The local data or the settings cannot be used.
        """

    def evaluate(self, parameters: Parameters) -> Metrics:
        """Evaluate on this participant's evaluation data; empty where it has none."""


@runtime_checkable
class Reader(Protocol):
    """A task that can say that it never writes to what it is given: then it gets views of the model, no copies.

    Attributes:
        reads_only: Whether it is so. Views are read-only, and hold until the call is over.
    """

    @property
    def reads_only(self) -> bool:
        """See above."""


@runtime_checkable
class Resident(Protocol):
    """Trained parameters that are still on the device where they were trained: a mapping that also can do this.

    A task may return them as `TrainResult.parameters`: difference, error feedback and quantization then run there.
    """

    def minus(self, base: Vectors, manifest: Manifest) -> DeviceUpdate:
        """What training changed, on the device.

        Raises:
            ShapeError: The tensors are not those of the manifest.
        """


@runtime_checkable
class Preparable(Protocol):
    """A task that can load its libraries, model and data before the first round needs them."""

    def prepare(self) -> None:
        """Load everything that `Task.train` needs; twice is once.

        Raises:
            TaskError: The data cannot be read, or the model cannot be trained on it.
        """


@runtime_checkable
class Stateful(Protocol):
    """A task that keeps arrays of its own on the node: it returns them from `Task.train`, and gets them before it."""

    def restore(self, state: Parameters) -> None:
        """Take what this node keeps: called before each `Task.train`, on the same thread.

        Args:
            state: Read-only arrays by name: what `TrainResult.kept` said last, and the sum of every
                `TrainResult.pending` that was applied or of which no word has come yet. Empty when a run begins.
        """


@runtime_checkable
class Measurable(Protocol):
    """A task whose data is rows of numbers that can be counted, as ``coordinator analyze`` does."""

    def column_names(self) -> Sequence[str]:
        """Names of the columns, in the order of the inputs; empty where they are not known here, as at a coordinator.

        Raises:
            TaskError: This node's data cannot be read.
        """

    def rows(self) -> Array:
        """This node's training data, of shape (rows, columns), as it is before any scaling; NaN where one is missing.

        Raises:
            TaskError: It cannot be read.
        """


@runtime_checkable
class Correctable(Protocol):
    """A task whose gradient steps can be corrected: SCAFFOLD needs it."""

    def train_corrected(
        self, parameters: Parameters, settings: TrainSettings, stop: Stop, correction: Parameters
    ) -> TrainResult:
        """Train as `Task.train` does, with ``correction`` added to the gradient in each step.

        Args:
            parameters: As for `Task.train`.
            settings: As for `Task.train`; momentum and the proximal term are 0.
            stop: As for `Task.train`.
            correction: float32 by the name of each tensor whose role is parameter, of its shape.

        Returns:
            As `Task.train`, and the number of steps.

        Raises:
            TaskError: The local data or the settings cannot be used.
        """


def prepare(task: Task) -> None:
    """Have a task load what it trains with, if it knows how: a node calls this before it says that it is there.

    Raises:
        ConfigError: The device is not there.
        TaskError: The data cannot be read, or the model cannot be trained on it.
    """
    if isinstance(task, Preparable):
        task.prepare()


class ProgramForm(StrEnum):
    """How a model is written as a program."""

    PT2 = "pt2"
    """What ``torch.export`` saves and loads."""
    ONNX = "onnx"


@runtime_checkable
class Exportable(Protocol):
    """A task whose model can be written as a program that runs without the task, and can be asked for a prediction.

    Attributes:
        classes: Names of the classes in the order of the scores; empty where they are numbers, or there are none.
        picture: How a picture becomes an input; None where the inputs are no pictures.
    """

    classes: Sequence[str]
    picture: PictureInput | None

    def export(self, parameters: Parameters, form: ProgramForm, notes: Mapping[str, str]) -> bytes:
        """The model with these parameters, as the content of a file; the notes are kept in it.

        Raises:
            TaskError: The model cannot be written in this form, or what writes it is not installed.
        """

    def predict(self, parameters: Parameters, inputs: Array) -> Array:
        """What the model answers, float32 of shape (n, ...); scores that are no probabilities yet where it classifies.

        Raises:
            TaskError: The inputs or the parameters cannot be used.
        """


@runtime_checkable
class Private(Protocol):
    """A task that can keep `TrainSettings.privacy`: then nothing else of its data may be in what it returns."""

    def private_objection(self) -> str | None:
        """Why its model or data cannot be trained on with differential privacy, or None.

        Raises:
            TaskError: The data cannot be read.
        """


@runtime_checkable
class ReadsFrames(Protocol):
    """A task that may read a data frame whose columns have names."""

    def columns_unsaid(self) -> Sequence[str]:
        """The columns of this node's frame, in their order, where nobody has said which are wanted; else nothing."""


@runtime_checkable
class Completable(Protocol):
    """A task whose model has tensors that do not travel."""

    def complete(self, parameters: Parameters) -> Parameters:
        """The whole model: what travelled, what never changes, and second names.

        Raises:
            TaskError: The parameters are not this model's.
        """


TaskFactory = Callable[[TaskContext], Task]


def task_label(name: str) -> str:
    """The task's name as it is announced and compared: of a file only ``file.py:function``, as its folder differs.

    Arguments are left out: what they say of the inputs is compared as such.
    """
    name = name.partition("?")[0]
    if name.endswith(".toml"):
        return fit_text(Path(name).name, NAME_BYTES_MAX)
    file, colon, function = name.rpartition(":")
    if not colon and name.endswith(".py"):
        file, function = name, "build"
    return fit_text(f"{Path(file).name}:{function}" if file.endswith(".py") else name, NAME_BYTES_MAX)

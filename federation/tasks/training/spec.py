"""What a torch task is told: the model, the data, the loss, and how they are used."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any

from federation.errors import ConfigError, TaskError
from federation.picture import PictureInput
from federation.protocol.limits import METRIC_NAME_BYTES_MAX, METRICS_MAX, fit_text
from federation.protocol.messages import TrainSettings
from federation.task import TEST_EXAMPLES, Parameters, TaskContext
from federation.tasks.data.partitioners import parse_partition

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = ["TorchTaskSpec", "is_stateful"]


_OWN_METRICS = ("loss", "accuracy", TEST_EXAMPLES)
"""What is reported beside a task's own."""


@dataclass
class TorchTaskSpec:
    """The fields of a `TorchTask`.

    Attributes:
        context: What the factory was given: which part of the data, which device.
        model: Makes the model; its random initial weights are drawn from the seed that the coordinator chose.
        train_data: (inputs, targets), more arrays of one length, a dict of them, a `WholeData` or a map-style Dataset
            of the whole federation, of which this node takes its part (see ``split``); or a function that gives this
            node's own: the same kinds, or an iterable of batches such as a DataLoader. The function is called on first
            use, so never at the coordinator.
        loss: Output and target to the mean loss of the batch, such as ``torch.nn.functional.cross_entropy``. Where
            batches are dicts, or its second argument is called ``batch``, it gets the whole batch (batches.py).
        step: A training step of your own: ``step(module, batch)`` gives a loss of which we take the step, and
            ``step(module, batch, optimizer)`` takes it itself and gives the loss to report (own_steps.py). ``loss`` is
            still what evaluates.
        optimizer: ``optimizer(module, settings)`` makes a torch optimizer (or several, in a tuple or a dict) for one
            round; None is the one that the settings name.
        test_data: The same kinds; None evaluates nothing. The coordinator has all of it. Of data of the whole
            federation a node has a part: of each label the share that it has of the training rows.
        own_test: This node's own test split: a share of its training data that is held out (0.2 is a fifth), or data of
            the same kinds as ``train_data``. With it, every update reports ``global_accuracy`` and ``global_loss`` (the
            model as it came), ``personal_accuracy`` and ``personal_loss`` (after training here), ``test_examples``.
        local: Patterns such as ``head.*`` of tensors that stay on the node: personal layers (FedPer). Each node keeps
            its own in its state folder; neither the coordinator nor its model has them.
        local_norms: The same for all BatchNorm layers with their statistics (FedBN).
        constant: Patterns of further tensors that never change, such as a table in a float buffer. They do not travel,
            nor do frozen parameters, bool buffers, and buffers that are not finite when the model is made; every node
            must have the same (tensors.py).
        changing: Patterns of tensors that are such, and change or differ all the same, such as a teacher that the
            model's own code updates. They travel lossless.
        finetune_epochs: Further passes before the personal evaluation, of which nothing is sent or kept.
        accuracy: Report the share of right answers where the loss says that the targets are classes (metrics.py).
        metrics: Metrics of your own by name: functions of (output, target), or objects with ``update``, ``compute`` and
            ``reset`` as in torchmetrics. One that is called ``accuracy`` takes the place of ours.
        threads: CPU threads for this task's arithmetic; 0 leaves torch's own choice.
        split: How data of the whole federation is divided, where the context does not say it: ``iid``, ``shards:N``,
            ``dirichlet:ALPHA`` or ``natural``.
        picture: How a picture becomes an input, for `coordinator predict`.
        classes: Names of the classes, in the order of the model's outputs.
        features: Names of the inputs in their order, where the data is read by code of your own: a node that has others
            declines. `csv_data` knows them.
        input_shape: Shape of one input, for `coordinator export` where there is neither ``test_data`` nor ``picture``;
            of whole numbers where the model takes no others.
        gaps: The data may have numbers that are not finite, and model and loss know what to do with them. Else they are
            refused when the data is read.
        initial: Initial parameters without torch, for a coordinator that has none; the model must have no buffers.
        kept: What this node keeps: see `TorchTask.restore`.
    """

    context: TaskContext
    _: KW_ONLY
    model: "Callable[[], Module]"
    train_data: Any
    loss: "Callable[[Any, Any], Tensor]"
    step: "Callable[..., Any] | None" = None
    optimizer: "Callable[[Module, TrainSettings], Any] | None" = None
    test_data: Any = None
    own_test: Any = None
    local: Sequence[str] = ()
    local_norms: bool = False
    constant: Sequence[str] = ()
    changing: Sequence[str] = ()
    finetune_epochs: int = 0
    accuracy: bool = True
    metrics: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    split: str = "iid"
    picture: PictureInput | None = None
    classes: Sequence[str] = ()
    features: Sequence[str] = ()
    input_shape: tuple[int, ...] | None = None
    gaps: bool = False
    initial: Callable[[int], Parameters] | None = field(default=None, repr=False)
    kept: Parameters = field(default_factory=dict, init=False, repr=False)

    def check(self) -> None:
        """See whether the fields are what they should be, as far as that can be told at once and without torch.

        Raises:
            TaskError: It names the field.
        """
        for name in ("local", "constant", "changing", "classes", "features"):
            if isinstance(value := getattr(self, name), str):
                raise TaskError(f"{name} must be a list of names, such as [{value!r}], not one text")
        self._check_names()
        self._check_numbers()
        try:
            parse_partition(self.split)
        except ConfigError as error:
            raise TaskError(f"split: {error}") from error
        if isinstance(self.loss, type):
            raise TaskError(f"loss is the class {self.loss.__name__}: give an object of it, {self.loss.__name__}()")
        self._check_metrics()

    def _check_numbers(self) -> None:
        for name in ("threads", "finetune_epochs"):
            if not _is_whole(value := getattr(self, name)):
                raise TaskError(f"{name} must be a whole number of at least 0, not {value!r}")
        for name in ("accuracy", "gaps", "local_norms"):
            if not isinstance(value := getattr(self, name), bool):
                raise TaskError(f"{name} must be True or False, not {value!r}")
        shape: object = self.input_shape
        if shape is not None and not (isinstance(shape, tuple | list) and all(map(_is_whole, shape))):
            raise TaskError(f"input_shape must be the lengths of one input's axes, such as (20,), not {shape!r}")

    def _check_metrics(self) -> None:
        if not isinstance(self.metrics, Mapping) or not all(isinstance(name, str) for name in self.metrics):
            raise TaskError("metrics must be a dict of functions or objects, each with a name of text")
        for name, metric in self.metrics.items():
            if name in {"loss", TEST_EXAMPLES}:
                raise TaskError(f"metrics: {name} is reported anyway; choose another name")
            if isinstance(metric, type):
                raise TaskError(f"metrics: {name} is the class {metric.__name__}: give an object of it")
            if not callable(metric) and not is_stateful(metric):
                raise TaskError(f"metrics: {name} must be a function of (output, target), not {type(metric).__name__}")
        short = [fit_text(name, METRIC_NAME_BYTES_MAX) for name in self.metrics]
        if double := next((name for place, name in enumerate(short) if name in short[:place]), None):
            told = f"of each name {METRIC_NAME_BYTES_MAX} bytes are told"
            raise TaskError(f"metrics: {told}, and two begin with {double!r}")
        if len(self.metrics) > METRICS_MAX - len(_OWN_METRICS):
            most = METRICS_MAX - len(_OWN_METRICS)
            raise TaskError(f"metrics: {len(self.metrics)} are more than a message carries: at most {most}")

    def _check_names(self) -> None:
        for name in ("classes", "features"):
            if isinstance(value := getattr(self, name), set | frozenset):
                raise TaskError(f"{name} must be a list of names in a fixed order, not a set: sorted(...) gives one")
            if double := next((each for number, each in enumerate(value) if each in list(value)[:number]), None):
                raise TaskError(f"{name} has {double!r} twice")

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes, or those of the reader of the data; empty where there are none."""
        source = getattr(self.train_data, "__self__", None)
        return self.classes or getattr(source, "classes", ()) or ()

    @property
    def is_live(self) -> bool:
        """Whether the data goes on arriving, and is asked for again at each round (`LiveWindows`)."""
        asked = (self.train_data, self.own_test, self.test_data)
        return any(getattr(getattr(each, "__self__", None), "is_live", False) for each in asked)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0


def is_stateful(metric: Any) -> bool:
    """Whether a metric gathers batches, as torchmetrics' do."""
    return all(callable(getattr(metric, name, None)) for name in ("update", "compute", "reset"))

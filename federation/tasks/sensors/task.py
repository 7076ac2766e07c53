"""The sensor tasks: `TorchTask` with a model of windows, data from tables, and a score rule.

Each is told by arguments alone (`plan.SensorPlan`):

```toml
[task]
name = "sensors/autoencoder"
arguments = { columns = ["Pressure", "Current"], window = 60, model = "conv" }
```
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from federation.errors import TaskError
from federation.protocol.messages import TrainSettings
from federation.task import Array, Parameters, Stop, TaskContext, TrainResult
from federation.tasks.data.whole_data import WholeData
from federation.tasks.sensors.examples import DeviceReadings, Pair
from federation.tasks.sensors.live import LiveSource
from federation.tasks.sensors.plan import Kind, SensorPlan, read_plan
from federation.tasks.sensors.rules import SHARES, ScoreRule, quantile_of_shares, shares_of
from federation.tasks.sensors.series import TEST, read_series, table_files
from federation.tasks.training.torch_task import TorchTask

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

__all__ = [
    "SensorTask",
    "build_autoencoder",
    "build_classifier",
    "build_forecaster",
    "build_remaining_life",
]

F32 = NDArray[np.float32]


@dataclass
class TableSource:
    """The tables of a data folder, of which an experiment gives each node every n-th.

    Attributes:
        context: Says which node, and where the folder is.
        plan: What the task is told.
        kind: What it learns.
    """

    context: TaskContext
    plan: SensorPlan
    kind: Kind

    @cached_property
    def readings(self) -> DeviceReadings:
        """This device's.

        Raises:
            TaskError: They cannot be read.
        """
        return self._device(table_files(self.context.data), self.context.node_index or 0)

    def train(self) -> Pair:
        """See `DeviceReadings.train`."""
        return self.readings.train()

    def held_out(self) -> Pair:
        """See `DeviceReadings.test`."""
        return self.readings.test()

    def everybodys(self) -> tuple[Any, ...]:
        """Inputs, targets and the node of each window, of all nodes of an experiment.

        Raises:
            TaskError: They cannot be read, or there are fewer tables than nodes.
        """
        files, count = table_files(self.context.data), self.context.node_count
        pairs = [self._device(files, index).train() for index in range(count)]
        inputs = np.concatenate([pair[0] for pair in pairs])
        # What a model must tell again is what it is told: one copy will do.
        same = self.kind is Kind.RECONSTRUCTION
        targets = inputs if same else np.concatenate([pair[1] for pair in pairs])
        return inputs, targets, np.repeat(np.arange(count), [len(pair[0]) for pair in pairs])

    @property
    def has_tests(self) -> bool:
        """Whether there is a folder of tables that only test."""
        return self.context.data is not None and bool(table_files(self.context.data, TEST))

    def tests(self) -> Pair:
        """The tables of the folder ``test``, each a device of its own.

        Raises:
            TaskError: They cannot be read.
        """
        pairs = [self._readings([path]).whole() for path in table_files(self.context.data, TEST)]
        return np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])

    def _device(self, files: Sequence[Path], index: int) -> DeviceReadings:
        if len(files) < self.context.node_count:
            raise TaskError(f"{len(files)} tables cannot be divided among {self.context.node_count} nodes")
        return self._readings(files[index :: self.context.node_count])

    def _readings(self, files: Sequence[Path]) -> DeviceReadings:
        series = [read_series(path, self.plan, self.kind) for path in files]
        return DeviceReadings(self.plan, self.kind, series, self.context.data)


@dataclass
class SensorTask(TorchTask):
    """A torch task whose answers become scores.

    Attributes:
        plan: What it is told.
        kind: What it learns.
        source: Where its readings are.
    """

    _: KW_ONLY
    plan: SensorPlan
    kind: Kind
    source: TableSource | LiveSource

    def score_rule(self, parameters: Parameters) -> ScoreRule:
        """How this device scores windows with this model: its scaler, and its threshold.

        Args:
            parameters: The model's; the device's own threshold is a quantile of its training windows' scores with it.

        Raises:
            TaskError: The data or the parameters cannot be used.
        """
        rule = self._rule
        threshold, said = self._threshold(rule, parameters)
        return replace(rule, threshold=threshold, threshold_from=said)

    @property
    def _rule(self) -> ScoreRule:
        """Without a threshold."""
        plan = self.plan
        return ScoreRule(
            kind=self.kind,
            window=plan.spec,
            scaler=self.readings.scaler,
            horizon=plan.horizon if self.kind is Kind.FORECAST else 0,
            above=self.kind is not Kind.REMAINING,
            points=plan.points,
            classes=plan.classes,
        )

    def _threshold(self, rule: ScoreRule, parameters: Parameters) -> tuple[float | None, str]:
        plan = self.plan
        if isinstance(plan.threshold, float):
            return plan.threshold, "a number"
        if self.kind in {Kind.CLASS, Kind.REMAINING}:
            return None, "nobody has set one"
        times = "" if plan.factor == 1 else f" times {plan.factor:g}"
        said = f"the {plan.quantile:g} quantile of the scores of {{}} training windows{times}"
        if plan.threshold == "federated" and SHARES in parameters:
            found = quantile_of_shares(parameters[SHARES], plan.quantile)
            if found is not None:
                return plan.factor * found, said.format("all nodes'")
        own = self.score(parameters, self.readings.training_windows(), rule)
        return plan.factor * float(np.quantile(own, plan.quantile)), said.format("its own")

    def score(self, parameters: Parameters, windows: F32, rule: ScoreRule | None = None) -> F32:
        """Scores of windows in the sensors' units.

        Args:
            parameters: The model's.
            windows: float32 of shape (n, length + horizon, columns).
            rule: None is this device's; its threshold does not matter.

        Returns:
            float32 of shape (n,).

        Raises:
            TaskError: The windows or the parameters cannot be used.
        """
        rule = rule or self._rule
        return rule.score(lambda inputs: np.asarray(self.predict(parameters, inputs)), windows)

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:
        """As every torch task; with a federated threshold the update carries this node's histogram of scores.

        Raises:
            ConfigError: The device is not there.
            TaskError: The data, the parameters or the settings cannot be used, or the training diverged.
        """
        if SHARES not in parameters:
            return super().train(parameters, settings, stop)
        if settings.privacy is not None:
            raise TaskError(f"no training with differential privacy: {self.private_objection()}")
        shares = shares_of(self.score(parameters, self.readings.training_windows()))
        result = super().train(parameters, settings, stop)
        return replace(result, parameters={**result.parameters, SHARES: shares})

    def rows(self) -> Array:
        """This device's readings, each once, in the sensors' units: what ``coordinator analyze`` counts.

        Raises:
            TaskError: They cannot be read.
        """
        return self.readings.training_rows()

    def private_objection(self) -> str | None:
        """As every torch task; a histogram of scores has no noise on it."""
        if self.plan.threshold == "federated":
            return "a federated threshold sends a histogram of this node's scores: take threshold = 'own'"
        return super().private_objection()

    @property
    def readings(self) -> DeviceReadings:
        """What this device has.

        Raises:
            TaskError: It cannot be read.
        """
        return self.source.readings


def build_autoencoder(context: TaskContext) -> SensorTask:
    """The factory that the registry finds as ``sensors/autoencoder``."""
    return _build(context, Kind.RECONSTRUCTION)


def build_forecaster(context: TaskContext) -> SensorTask:
    """The factory that the registry finds as ``sensors/forecaster``."""
    return _build(context, Kind.FORECAST)


def build_classifier(context: TaskContext) -> SensorTask:
    """The factory that the registry finds as ``sensors/classifier``."""
    return _build(context, Kind.CLASS)


def build_remaining_life(context: TaskContext) -> SensorTask:
    """The factory that the registry finds as ``sensors/remaining-life``."""
    return _build(context, Kind.REMAINING)


def _build(context: TaskContext, kind: Kind) -> SensorTask:
    plan = read_plan(context.arguments, kind)
    if context.readings is not None:
        return _live(context, plan, kind)
    source = TableSource(context, plan, kind)
    # One data set for all nodes of a simulation, where no node does anything of its own.
    held_out = bool(plan.held_out(kind))
    shared = context.node_count > 1 and not held_out and plan.threshold != "federated"
    return _task(
        source,
        train_data=WholeData(source.everybodys) if shared else source.train,
        test_data=source.tests if source.has_tests else None,
        own_test=source.held_out if held_out else None,
    )


def _live(context: TaskContext, plan: SensorPlan, kind: Kind) -> SensorTask:
    """On the device's own readings, as they are at each round."""
    source = LiveSource(context, plan, kind)
    return _task(source, train_data=source.train, own_test=source.held_out if plan.held_out(kind) else None)


def _task(source: TableSource | LiveSource, train_data: Any, own_test: Any, test_data: Any = None) -> SensorTask:
    plan, kind = source.plan, source.kind
    return SensorTask(
        source.context,
        model=partial(_model, plan, kind),
        train_data=train_data,
        test_data=test_data,
        own_test=own_test,
        loss=partial(_loss, plan, kind),
        accuracy=kind is Kind.CLASS,
        metrics=_metrics(kind),
        split="natural",
        features=plan.columns,
        classes=plan.classes,
        input_shape=(plan.window, len(plan.columns)),
        plan=plan,
        kind=kind,
        source=source,
    )


def _model(plan: SensorPlan, kind: Kind) -> "Module":
    from federation.tasks.sensors.models import model_of  # noqa: PLC0415 - torch costs seconds and 200 MB

    return model_of(plan, kind)


def _loss(plan: SensorPlan, kind: Kind, output: "Tensor", target: "Tensor") -> "Tensor":
    from torch.nn import functional  # noqa: PLC0415 - as above

    match kind:
        case Kind.CLASS:
            return functional.cross_entropy(output, target)
        case Kind.REMAINING:
            return functional.mse_loss(output / plan.cap, target / plan.cap)
        case _:
            return functional.mse_loss(output, target)


def _metrics(kind: Kind) -> dict[str, Any]:
    match kind:
        case Kind.CLASS:
            return {}
        case Kind.REMAINING:
            return {"rmse": RootMeanSquare()}
        case _:
            return {"mae": _mean_distance}


def _mean_distance(output: "Tensor", target: "Tensor") -> "Tensor":
    return (output - target).abs().mean()


class RootMeanSquare:
    """The root of the mean squared error over all examples, which is no mean of batches."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._total, self._count = 0.0, 0

    def update(self, output: "Tensor", target: "Tensor") -> None:
        """Take one batch."""
        self._total += float((output - target).double().square().sum())
        self._count += target.numel()

    def compute(self) -> float:
        """The figure, in the target's unit; 0 of nothing."""
        return float(np.sqrt(self._total / max(1, self._count)))

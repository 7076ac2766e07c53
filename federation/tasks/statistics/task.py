"""A task whose model is what all nodes have counted: it rides on the rounds, receipts and masks of any other task."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.errors import ConfigError, TaskError, user_code
from federation.inputs import Describable, Inputs
from federation.privacy.budget import turn_of
from federation.privacy.noise import KEY_BYTES, rounded_gaussian
from federation.protocol.messages import TrainSettings
from federation.task import Measurable, Metrics, Parameters, Stop, Task, TrainResult, prepare
from federation.tasks.statistics.counting import counts_of
from federation.tasks.statistics.layout import BOUND, COLUMNS_MAX, SLOTS, Counts, Plan
from update_codec import Role

__all__ = ["StatisticsRequest", "StatisticsTask", "counting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsRequest:
    """What a coordinator asks for.

    Attributes:
        columns: Names of the columns, or how many there are as one number; empty is what the task knows.
        bounds: Name, least and greatest value that counts.
        noise: Standard deviation of a node's noise on the counts of one column; 0 is none.
    """

    columns: tuple[str, ...] = ()
    bounds: tuple[tuple[str, float, float], ...] = ()
    noise: float = 0.0

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> "StatisticsRequest":
        """What `dataclasses.asdict` made of one, after a way through JSON."""
        bounds = tuple((str(name), float(low), float(high)) for name, low, high in said["bounds"])
        return cls(columns=tuple(said["columns"]), bounds=bounds, noise=float(said["noise"]))


def counting(task: Task, request: StatisticsRequest) -> "StatisticsTask":
    """The task whose readings are counted, as a coordinator has it.

    Raises:
        ConfigError: Nobody has said which columns there are, they are too many, or a bound is of none of them.
    """
    names = tuple(request.columns) or (tuple(task.column_names()) if isinstance(task, Measurable) else ())
    named = not all(name.isdecimal() for name in names)
    if len(request.columns) == 1 and not named:
        names = tuple(map(str, range(min(int(names[0]), COLUMNS_MAX + 1))))
    if not 1 <= len(names) <= COLUMNS_MAX or len(set(names)) < len(names):
        found = f"{len(names)} columns: 1 to {COLUMNS_MAX} different ones are wanted" if names else "not known here"
        raise ConfigError(
            "statistics.columns", f"{found}; say their names, as the nodes' tables have them, or how many"
        )
    bounds = np.tile([-BOUND, BOUND], (len(names), 1))
    for name, low, high in request.bounds:
        if name not in names:
            raise ConfigError("statistics.bounds", f"there is no column {name!r}: there are {', '.join(names)}")
        bounds[names.index(name)] = low, high
    return StatisticsTask(task, len(names), bounds, names if named else (), deviation_of(request.noise, len(names)))


def deviation_of(noise: float, columns: int) -> float:
    """Standard deviation of the noise on each count: one row is in one place of every column, so of length sqrt(C)."""
    return noise * math.sqrt(columns)


@dataclass(frozen=True)
class StatisticsTask:
    """Another task's readings, counted.

    Attributes:
        task: Whose.
        columns: How many columns all nodes have.
        bounds: Lowest and highest value that counts, float64 of shape (columns, 2); None is everything below 2^64. Only
            the coordinator's matter: nodes are told them.
        names: Of the columns, where the coordinator says them; else what the task knows.
        noise: Standard deviation of each node's noise on each count. Only the coordinator's matters, too.
        allowed: Whether this device's owner lets its rows be counted.
    """

    task: Task
    columns: int
    bounds: NDArray[np.float64] | None = None
    names: tuple[str, ...] = ()
    noise: float = 0.0
    allowed: bool = True

    def initial_parameters(self, seed: int) -> Parameters:  # noqa: ARG002 - nothing is drawn
        """Nothing is counted yet."""
        bounds = np.tile([-BOUND, BOUND], (self.columns, 1)) if self.bounds is None else self.bounds
        zero = [0] * self.columns
        empty = Counts(bins=np.zeros((self.columns, SLOTS), np.int64), sums=zero, squares=zero)
        return {**Plan.first(bounds, self.noise).arrays(), **empty.arrays()}

    def roles(self) -> Mapping[str, Role]:
        """All are parameters: under masks only those are exact."""
        return {}

    def prepare(self) -> None:
        """What the task does before its first round."""
        prepare(self.task)

    def inputs(self) -> Inputs:
        """The names of the columns, where the task knows them."""
        if self.names:
            return Inputs(features=self.names)
        found = self.task.inputs() if isinstance(self.task, Describable) else Inputs()
        return Inputs(features=found.features, features_digest=found.features_digest)

    def adopt_inputs(self, wanted: Inputs) -> None:
        """Hand on how the data is read."""
        if isinstance(self.task, Describable):
            self.task.adopt_inputs(wanted)

    def train(self, parameters: Parameters, settings: TrainSettings, stop: Stop) -> TrainResult:  # noqa: ARG002 - there are no steps
        """Count this node's rows into the bins that the model asks for.

        Raises:
            TaskError: The task has no readings, or other columns; the owner does not allow it; or noise is said in one
                place and not in the other.
        """
        if not self.allowed:
            raise TaskError("this device's owner lets nobody count its rows (bounds.statistics)")
        plan = Plan.of(parameters)
        wanted = 0.0 if settings.privacy is None else deviation_of(settings.privacy.noise, self.columns)
        if plan.noise != wanted:
            raise TaskError(f"the announced noise is {wanted:g} on a count, and the model's {plan.noise:g}")
        if not isinstance(self.task, Measurable):
            what = type(self.task).__name__
            raise TaskError(f"a {what} has no readings to count: give the task a method rows() (docs: statistics)")
        with user_code("the task's readings cannot be read"):
            readings: NDArray[Any] = np.asarray(self.task.rows())
        counts = counts_of(readings, plan)
        if settings.privacy is not None:
            counts = _with_noise(counts, plan.noise)
        own = counts.arrays()
        sums = {name: np.add(array, own[name]) if name in own else array for name, array in parameters.items()}
        if settings.privacy is not None:
            return TrainResult(parameters=sums, num_examples=1, spent=turn_of(settings, settings.privacy))
        return TrainResult(parameters=sums, num_examples=max(1, len(readings)))

    def evaluate(self, parameters: Parameters) -> Metrics:  # noqa: ARG002 - as above
        """Nothing."""
        return {}


def _with_noise(counts: Counts, deviation: float) -> Counts:
    """Counts with rounded Gaussian noise of the device's own randomness, and without sums, which would have none."""
    noise = rounded_gaussian(os.urandom(KEY_BYTES), counts.bins.size, deviation).reshape(counts.bins.shape)
    nothing = [0] * len(counts.bins)
    return Counts(bins=counts.bins + noise, sums=nothing, squares=nothing)

"""``[evaluation]`` and ``[stopping]``: who tests the versions, what of it is told, and what follows from it."""

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator

from coordinator.engine.early_stopping import Goal, Source
from federation.config import Device, Section, Threads
from federation.protocol.limits import EVALUATION_METRICS_MAX, METRIC_NAME_BYTES_MAX

__all__ = ["EvaluationSection", "StoppingSection"]

_Metric = Annotated[str, Field(min_length=1, max_length=METRIC_NAME_BYTES_MAX, pattern=r"^[!-~]+$")]


class EvaluationSection(Section):
    """``[evaluation]``: tests of the global model, by the coordinator (which needs what the task needs) and on nodes.

    Attributes:
        every: The coordinator evaluates each n-th version; 0 is never.
        device: ``auto`` takes a GPU when there is one.
        threads: CPU threads.
        apart: In a process of its own, which ends when nothing is evaluated: what the task imports is not in the
            coordinator's memory.
        nodes_every: Nodes evaluate each n-th version on their own test data, and the last one; 0 is never.
        nodes_fraction: Share of the nodes online that are asked; they need not train.
        nodes_min: At least so many are asked; with fewer results an evaluation waits for ``round.lease_s``. Under
            masks it is at least ``privacy.members_min``.
        nodes_metrics: Under masks the names of those metrics that nodes tell, as sums; without masks they tell all.
    """

    every: NonNegativeInt = 1
    device: Device = "auto"
    threads: Threads = 1
    apart: bool = True
    nodes_every: NonNegativeInt = 0
    nodes_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    nodes_min: PositiveInt = 1
    nodes_metrics: Annotated[tuple[_Metric, ...], Field(min_length=1, max_length=EVALUATION_METRICS_MAX)] = (
        "accuracy",
        "loss",
    )

    @field_validator("nodes_metrics")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError("each metric once")
        return names


class StoppingSection(Section):
    """``[stopping]``: which version is called the best, and when a run ends because none is better.

    Attributes:
        on: ``central`` or ``nodes``: whose evaluations count. Nothing is the coordinator's where there are any.
        metric: Its name. Nothing is ``accuracy`` where it is reported, else ``loss``. One that the task lacks is
            refused at the start.
        goal: ``max`` or ``min``. Nothing is what the name says: losses and errors are better when they are smaller.
        patience: Evaluations in a row without improvement after which the run ends; 0 is never.
        min_delta: The least improvement, in the metric's own unit.
    """

    on: Source | None = None
    metric: str = ""
    goal: Goal | None = None
    patience: NonNegativeInt = 0
    min_delta: NonNegativeFloat = 0.0

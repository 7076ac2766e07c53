"""The sections of the coordinator's settings that are about evaluation."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from coordinator.engine.early_stopping import Goal, Source
from federation.config import Section

__all__ = ["EvaluationSection", "StoppingSection"]


class EvaluationSection(Section):
    """``[evaluation]``: tests of the global model, by the coordinator (which needs what the task needs) and on nodes.

    Attributes:
        every: The coordinator evaluates each n-th version; 0 is never.
        device: ``auto`` takes a GPU when there is one.
        threads: CPU threads.
        nodes_every: Nodes evaluate each n-th version on their own test data, and the last one; 0 is never.
        nodes_fraction: Share of the nodes online that are asked; they need not train.
        nodes_min: At least so many are asked; with fewer results an evaluation waits for ``round.lease_s``.
    """

    every: NonNegativeInt = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: PositiveInt = 1
    nodes_every: NonNegativeInt = 0
    nodes_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    nodes_min: PositiveInt = 1


class StoppingSection(Section):
    """``[stopping]``: which version is called the best, and when a run ends because none is better.

    Attributes:
        on: ``central`` or ``nodes``: whose evaluations count. Nothing is the coordinator's where there are any.
        metric: Its name. Nothing is ``accuracy`` where it is reported, else ``loss``.
        goal: ``max`` or ``min``. Nothing is what the name says: losses and errors are better when they are smaller.
        patience: Evaluations in a row without improvement after which the run ends; 0 is never.
        min_delta: The least improvement, in the metric's own unit.
    """

    on: Source | None = None
    metric: str = ""
    goal: Goal | None = None
    patience: NonNegativeInt = 0
    min_delta: NonNegativeFloat = 0.0

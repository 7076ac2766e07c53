"""Which version is the best so far, and whether the run has stopped getting better: from evaluations alone.

Early stopping with patience p and minimum delta d (Prechelt, doi 10.1007/3-540-49430-8_3, with evaluations for epochs):
the run ends after p evaluations in a row of which none is better by d or more than the best one that was. One that
failed, or found nothing finite, is none that is better. It stays ended: the end has been announced, and nodes may have
left, when a version that was made before it turns out better. The best version is the one with the best value, however
small its lead.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from coordinator.records import Goal, goal_of
from federation.types import ModelVersion

__all__ = ["EarlyStopping", "Goal", "Source", "StoppingSettings", "goal_of", "missing_metric"]


class Source(StrEnum):
    """Whose evaluations count."""

    CENTRAL = "central"
    NODES = "nodes"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingSettings:
    """What is called better, and how long to wait for it.

    Attributes:
        source: Whose evaluations count.
        metric: Its name; "" is ``accuracy`` where the first evaluation has it, else ``loss``.
        goal: Which value is better; None is what the metric's name says.
        patience: Evaluations in a row without improvement after which the run ends; 0 is never.
        min_delta: What counts as an improvement, in the metric's own unit.
    """

    source: Source = Source.CENTRAL
    metric: str = ""
    goal: Goal | None = None
    patience: int = 0
    min_delta: float = 0.0


def missing_metric(settings: StoppingSettings, metrics: Mapping[str, float]) -> str | None:
    """Why a run could never stop early or name a best version by these settings, or None.

    Args:
        settings: What is waited for.
        metrics: What an evaluation of the first version has found.
    """
    if settings.metric and settings.metric not in metrics:
        found = ", ".join(sorted(metrics)) or "nothing"
        return f"the task's evaluation has no {settings.metric!r}; it reports {found}"
    if settings.patience and not metrics.keys() & {"accuracy", "loss"} and not settings.metric:
        found = ", ".join(sorted(metrics)) or "nothing"
        waits = f"stopping.patience waits for accuracy or loss, and the task's evaluation reports {found}"
        return f"{waits}: set it to 0, or give the coordinator data to evaluate on (task.data)"
    return None


class EarlyStopping:
    """What has been found so far.

    Attributes:
        best: The best version whose model is kept; None before the first evaluation that has the metric.
        value: Its metric.
        metric: Its name, as it was reported; "" before the first such evaluation.
        waited: Evaluations since the last improvement, counted until the patience has ended.
        over_budget: The nodes' privacy budgets are spent: no version can follow, whatever it would be worth.
    """

    def __init__(self, settings: StoppingSettings) -> None:
        self._settings = settings
        self.best: ModelVersion | None = None
        self.value: float | None = None
        self.metric = ""
        self.waited = 0
        self.over_budget = False
        self._reference: float | None = None
        self._newest = ModelVersion(0)
        self._sign = 1.0

    @property
    def exhausted(self) -> bool:
        """Whether the patience has ended; it does not begin again."""
        return 0 < self._settings.patience <= self.waited

    def spend_budget(self) -> None:
        """No budget is left, and it does not come back in this run."""
        self.over_budget = True

    def observe(self, source: Source, version: ModelVersion, metrics: Mapping[str, float], *, kept: bool) -> bool:
        """Take an evaluation in, each version once and in their order; says whether it is the best one now.

        Args:
            source: Whose evaluation.
            version: Of which version.
            metrics: What it found.
            kept: Whether the version's model is there: only then can it be called the best.
        """
        if source is not self._settings.source or version <= self._newest:
            return False
        score = self._score(metrics)
        if score is None:
            self._count_nothing(source, version, metrics)
            return False
        self._newest = version
        if not self.exhausted:
            self._count(score)
        if not kept or (self.value is not None and score <= self._signed(self.value)):
            return False
        self.best, self.value = version, self._signed(score)
        return True

    def _count(self, score: float) -> None:
        if self._reference is None or score - self._reference >= max(self._settings.min_delta, _TINY):
            self._reference, self.waited = score, 0
        else:
            self.waited += 1

    def _count_nothing(self, source: Source, version: ModelVersion, metrics: Mapping[str, float]) -> None:
        """A model that cannot be evaluated any more has not become better.

        Before anything was found it may be the metric that nobody has, or the nodes that have no test data.
        """
        if self._reference is not None or (source is Source.CENTRAL and not metrics):
            self._newest = version
            self.waited += not self.exhausted

    def _name(self, metrics: Mapping[str, float]) -> str:
        # Once found it stays: an evaluation that lacks it is none, and no other number takes its place.
        return self._settings.metric or self.metric or ("accuracy" if "accuracy" in metrics else "loss")

    def _score(self, metrics: Mapping[str, float]) -> float | None:
        """The metric, turned so that more is better."""
        name = self._name(metrics)
        if name not in metrics:
            return None
        self.metric = name
        self._sign = 1.0 if (self._settings.goal or goal_of(name)) is Goal.MAX else -1.0
        return self._signed(metrics[name])

    def _signed(self, value: float) -> float:
        return self._sign * value


_TINY = 5e-324
"""The smallest difference: without a minimum delta, what is equal is no improvement."""

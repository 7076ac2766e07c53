"""A metric over versions: the mean over several runs, and how far the runs are apart."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from coordinator.artifacts.plots.run import Run
from federation.errors import ConfigError

__all__ = ["CurvePoint", "as_table", "curve_points", "main_metric", "metric_names"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One version.

    Attributes:
        version: Its number.
        mean: Of the metric, over the runs that evaluated this version.
        std: Its sample standard deviation; 0 for one run.
        low: The smallest value.
        high: The largest value.
        runs: How many evaluated it.
    """

    version: int
    mean: float
    std: float
    low: float
    high: float
    runs: int


def metric_names(runs: Sequence[Run]) -> list[str]:
    """The metrics that any of the runs has, accuracy and loss first."""
    return list(dict.fromkeys(name for run in runs for name in run.metric_names()))


def main_metric(runs: Sequence[Run], metric: str | None) -> str:
    """The metric that was asked for, else the first one: accuracy where there is one.

    Raises:
        ConfigError: No version was evaluated, or nobody measured this one.
    """
    names = metric_names(runs)
    if not names:
        raise ConfigError("metric", "no version was evaluated: give test data", source="this study")
    if metric is None:
        return names[0]
    if metric not in names:
        raise ConfigError("metric", f"there is no {metric!r}; there are {', '.join(names)}", source="this study")
    return metric


def curve_points(runs: Sequence[Run], metric: str) -> list[CurvePoint]:
    """The mean and the spread of a metric at every version that any run evaluated."""
    found: dict[int, list[float]] = {}
    for run in runs:
        for point in run.versions:
            if metric in point.metrics:
                found.setdefault(point.version, []).append(point.metrics[metric])
    return [
        CurvePoint(
            version=version,
            mean=fmean(values),
            std=stdev(values) if len(values) > 1 else 0.0,
            low=min(values),
            high=max(values),
            runs=len(values),
        )
        for version, values in sorted(found.items())
    ]


def as_table(points: Sequence[CurvePoint]) -> Any:
    """A pandas DataFrame where pandas is installed, else a list of dictionaries."""
    rows: list[Mapping[str, float]] = [asdict(point) for point in points]
    try:
        import pandas as pd  # noqa: PLC0415 - no dependency of ours: used where it is there
    except ModuleNotFoundError:
        return rows
    return pd.DataFrame(rows, columns=list(CurvePoint.__dataclass_fields__))

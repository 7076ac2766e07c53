"""Accuracy and loss of one or more runs over versions, time and bytes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from coordinator.artifacts.plots.canvas import (
    bytes_scale,
    drawable,
    legend_columns,
    line_styles,
    new_figure,
    plain,
    time_scale,
    whole_ticks,
)
from coordinator.artifacts.plots.run import Run, VersionPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_learning", "label_metric"]

METRICS_MAX = 4
"""Rows of the figure: accuracy and loss, the coordinator's and the nodes', or other numbers of the task."""

MARKED_MAX = 25
"""Points up to which each gets a dot."""

METRIC_LABELS: Mapping[str, str] = MappingProxyType(
    {
        "accuracy": "accuracy (%)",
        "loss": "loss (mean per example)",
        "nodes_accuracy": "accuracy on the nodes (%)",
        "nodes_loss": "loss on the nodes",
    }
)

NAMED_MAX = 2
ROW_IN = 2.9
WIDTH_IN = 12.0

Measure = Callable[[VersionPoint], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """One way to measure how far a run has come."""

    title: str
    label: str
    measure: Measure
    whole: bool = False


def draw_learning(runs: Sequence[Run]) -> "Figure | None":
    """One row for each metric, one column each for versions, time and bytes; None when nothing was evaluated."""
    metrics = list(dict.fromkeys(name for run in runs for name in run.metric_names()))[:METRICS_MAX]
    if not metrics:
        return None
    subject = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    figure = new_figure(f"{subject}: {_listed(metrics)}", width=WIDTH_IN, height=ROW_IN * len(metrics) + 1.0)
    columns = _columns(runs)
    grid = figure.subplots(len(metrics), len(columns), squeeze=False, sharey="row", sharex="col")
    for row, metric in zip(grid, metrics, strict=True):
        for axes, column in zip(row, columns, strict=True):
            _draw_curves(axes, runs, metric, column.measure)
            if column.whole:
                whole_ticks(axes, "x")
        label_metric(row[0], metric)
    for axes, column in zip(grid[0], columns, strict=True):
        axes.set_title(column.title)
    for axes, column in zip(grid[-1], columns, strict=True):
        axes.set_xlabel(column.label)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns(labels, WIDTH_IN))
    return figure


def _columns(runs: Sequence[Run]) -> list[_Column]:
    ends = [run.versions[-1] for run in runs if run.versions]
    unit_s, seconds = time_scale(max((end.time_s for end in ends), default=0.0))
    # A simulation counts updates only.
    ways = "bytes up and down" if any(end.bytes_down for end in ends) else "bytes up"
    unit_bytes, size = bytes_scale(max((end.bytes_total for end in ends), default=0))
    return [
        _Column(title="over versions", label="model version", measure=lambda point: point.version, whole=True),
        _Column(title="over time", label=_time_label(runs, seconds), measure=lambda at: at.time_s / unit_s),
        _Column(title="over bytes", label=f"{ways} ({size})", measure=lambda at: at.bytes_total / unit_bytes),
    ]


def _time_label(runs: Sequence[Run], unit: str) -> str:
    """Whose time it is: that of a simulation is another one."""
    virtual = [plain(run.name) for run in runs if run.virtual]
    if not virtual:
        return f"time since the start ({unit})"
    if len(virtual) == len(runs):
        return f"virtual time since the start ({unit})"
    named = ", ".join(virtual) if len(virtual) <= NAMED_MAX else f"{len(virtual)} runs"
    return f"time since the start ({unit}); virtual: {named}"


def _draw_curves(axes: "Axes", runs: Sequence[Run], metric: str, measure: Measure) -> None:
    for run, (colour, dashes) in zip(runs, line_styles(len(runs)), strict=True):
        points = [point for point in run.versions if metric in point.metrics]
        axes.plot(
            [drawable(measure(point)) for point in points],
            [drawable(point.metrics[metric]) for point in points],
            color=colour,
            linestyle=dashes,
            marker="o" if 0 < len(points) <= MARKED_MAX else "",
            markersize=3.5,
            linewidth=1.6,
            label=plain(run.name),
        )


def _listed(names: Sequence[str]) -> str:
    told = [name.replace("nodes_", "nodes' ") for name in names]
    return " and ".join(filter(None, [", ".join(told[:-1]), told[-1]]))


def label_metric(axes: "Axes", metric: str) -> None:
    """Name the metric beside the axis, in percent where it is a share of right answers."""
    axes.set_ylabel(METRIC_LABELS.get(metric, plain(metric)))
    if metric.endswith("accuracy"):
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.6g}")

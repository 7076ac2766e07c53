"""Runs side by side: what each reached, what it cost, and what it took to reach a target."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from coordinator.artifacts.plots.run import Run, VersionPoint
from federation.units import human_bytes, human_traffic

__all__ = ["Comparison", "compare_runs", "comparison_row", "comparison_tables"]

PERCENT_MAX = 1000.0
"""A larger number is no share, whatever its name: a node may have said it."""

LOWER_IS_BETTER = ("loss", "error", "mse", "mae", "perplexity")
"""A metric whose name ends so is better when it is smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One run, measured by one metric.

    Attributes:
        run: Its name.
        metric: What it is measured by.
        versions: Its newest version.
        time_s: Seconds from its start to that version.
        bytes_up: Bytes that nodes sent.
        bytes_down: Bytes that nodes were sent.
        final: The metric at the last version that was evaluated.
        best: The best version by this metric.
        reached: The first version that met the target.
    """

    run: str
    metric: str
    versions: int
    time_s: float
    bytes_up: int
    bytes_down: int
    final: float | None
    best: VersionPoint | None
    reached: VersionPoint | None


def compare_runs(runs: Sequence[Run], *, metric: str = "accuracy", target: float | None = None) -> list[Comparison]:
    """Measure each run; ``target`` is met by this much or better."""
    return [_measure(run, metric, target) for run in runs]


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of this metric is the better one."""
    return metric.endswith(LOWER_IS_BETTER)


def comparison_row(one: Comparison) -> dict[str, object]:
    """One run, as plain data."""
    best, reached = one.best, one.reached
    return {
        "run": one.run,
        "metric": one.metric,
        "versions": one.versions,
        "time_s": one.time_s,
        "bytes_up": one.bytes_up,
        "bytes_down": one.bytes_down,
        "final": one.final,
        "best": None if best is None else best.metrics[one.metric],
        "best_version": None if best is None else best.version,
        "target_version": None if reached is None else reached.version,
        "target_time_s": None if reached is None else reached.time_s,
        "target_bytes": None if reached is None else reached.bytes_total,
    }


def comparison_tables(rows: Sequence[Comparison], *, target: float | None = None) -> Group:
    """One row for each run; what the target took is a table of its own, so that both fit 80 columns."""
    metric = rows[0].metric if rows else "accuracy"
    tables = [_table("", ["versions", f"final {escape(metric)}", "best", "at", "s", "up", "down"])]
    for one in rows:
        tables[0].add_row(escape(one.run), *_reached_cells(one))
    if target is not None:
        tables.append(_table(f"to reach {escape(metric)} {shown(metric, target)}", ["versions", "s", "bytes"]))
        for one in rows:
            tables[1].add_row(escape(one.run), *_target_cells(one))
    return Group(*tables)


def shown(metric: str, value: float) -> str:
    """A metric's value for people: an accuracy in percent, where it can be one."""
    return f"{value:.2%}" if metric.endswith("accuracy") and abs(value) <= PERCENT_MAX else f"{value:.4g}"


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _measure(run: Run, metric: str, target: float | None) -> Comparison:
    sign = -1.0 if lower_is_better(metric) else 1.0
    points = [point for point in run.versions if metric in point.metrics]
    good = (point for point in points if target is not None and sign * point.metrics[metric] >= sign * target)
    last = run.versions[-1] if run.versions else VersionPoint(version=0, time_s=0.0, bytes_up=0, bytes_down=0)
    return Comparison(
        run=run.name,
        metric=metric,
        versions=last.version,
        time_s=last.time_s,
        bytes_up=last.bytes_up,
        bytes_down=last.bytes_down,
        final=points[-1].metrics[metric] if points else None,
        best=max(points, key=lambda point: sign * point.metrics[metric], default=None),
        reached=next(good, None),
    )


def _reached_cells(one: Comparison) -> list[str]:
    best = one.best
    return [
        str(one.versions),
        "-" if one.final is None else shown(one.metric, one.final),
        "-" if best is None else shown(one.metric, best.metrics[one.metric]),
        "-" if best is None else str(best.version),
        f"{one.time_s:.1f}",
        human_traffic(one.bytes_up),
        human_traffic(one.bytes_down),
    ]


def _target_cells(one: Comparison) -> list[str]:
    reached = one.reached
    if reached is None:
        return ["never", "-", "-"]
    return [str(reached.version), f"{reached.time_s:.1f}", human_bytes(reached.bytes_total)]

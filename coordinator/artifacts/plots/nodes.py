"""What each node contributed: its loss curve, what became of its updates, how late they were, and what they told."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, groupby
from math import isnan, nan
from statistics import quantiles
from typing import TYPE_CHECKING

from coordinator.artifacts.plots.canvas import (
    GREY,
    PALETTE,
    STATUS_STYLES,
    drawable,
    legend_columns,
    line_styles,
    new_figure,
    plain,
    whole_ticks,
)
from coordinator.artifacts.plots.run import NodeTotals, Run, SpentEpsilon
from federation.units import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_budget", "draw_node_accuracies", "draw_node_losses", "draw_participation", "draw_staleness"]

NAMED_LINES_MAX = 10
"""Nodes up to which each has a colour of its own; more are grey, below their median."""

NAMED_BARS_MAX = 64
"""Nodes up to which each bar has its name beside it."""

GAP_SHARE = 0.2
"""A node that was away for more than this share of the run: its line is broken, as nobody knows what was between."""

INK = 15.0
"""Lines of this sum of opacity: a thousand nodes leave what lies above them readable."""

BINS_MAX = 40

LABELLED_BARS_MAX = 12

Curve = tuple[list[int], list[float]]
"""Base versions and losses of one node."""


def draw_node_losses(run: Run) -> "Figure | None":
    """Each node's training loss over the versions that it trained from; None when no node reported one."""
    points = [(each.node, each.base_version, drawable(each.loss)) for each in run.updates if each.loss is not None]
    if not points:
        return None
    curves = _curves(points)
    figure, axes = _draw_nodes(f"{run.name}: training loss of {_count(curves, 'node')}", curves, worst="highest")
    axes.set_xlabel("model version that the node trained from")
    axes.set_ylabel("training loss (mean per example)")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    return figure


def draw_node_accuracies(run: Run) -> "Figure | None":
    """The global model's accuracy on each node's own test data; None when no node evaluated it."""
    points = [
        (each.node, each.version, 100 * drawable(each.accuracy))
        for each in run.evaluations
        if each.accuracy is not None
    ]
    if not points:
        return None
    curves = _curves(points)
    figure, axes = _draw_nodes(f"{run.name}: accuracy on {_count(curves, 'node')}", curves, worst="lowest")
    axes.set_xlabel("model version")
    axes.set_ylabel("accuracy on the node's own test data (%)")
    return figure


def _draw_nodes(title: str, curves: Mapping[str, Curve], *, worst: str) -> "tuple[Figure, Axes]":
    figure = new_figure(title, width=9.0, height=5.2)
    axes = figure.subplots()
    if len(curves) <= NAMED_LINES_MAX:
        for (node, curve), (colour, dashes) in zip(curves.items(), line_styles(len(curves)), strict=True):
            axes.plot(*_with_gaps(curve), color=colour, linestyle=dashes, linewidth=1.3, marker=".", label=plain(node))
    else:
        _draw_crowd(axes, curves, worst)
    whole_ticks(axes, "x")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns(labels, 9.0))
    return figure, axes


def draw_participation(run: Run) -> "Figure | None":
    """What became of each node's updates; None when no node sent one."""
    if not any(node.updates for node in run.nodes):
        return None
    named = len(run.nodes) <= NAMED_BARS_MAX
    width, height = (8.0, 1.9 + 0.17 * max(6, len(run.nodes))) if named else (10.0, 5.0)
    figure = new_figure(f"{run.name}: updates of {_count(run.nodes, 'node')}", width=width, height=height)
    axes = figure.subplots()
    if named:
        _draw_named_bars(axes, sorted(run.nodes, key=lambda node: natural(node.node)))
    else:
        _draw_sorted_bars(axes, run.nodes)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def draw_staleness(run: Run) -> "Figure | None":
    """How many versions the applied updates lagged behind; None when none is known that did: one bar says nothing."""
    counts = Counter(update.staleness for update in run.updates if update.applied)
    if not any(counts):
        return None
    total, largest = counts.total(), max(counts)
    width = largest // BINS_MAX + 1
    bins = Counter(dict.fromkeys(range(largest // width + 1), 0))
    for lag, count in counts.items():
        bins[lag // width] += count
    mean = sum(lag * count for lag, count in counts.items()) / total
    figure = new_figure(f"{run.name}: staleness of {total:,} applied updates", width=8.0, height=4.6)
    axes = figure.subplots()
    starts = [start * width + (width - 1) / 2 for start in bins]
    bars = axes.bar(
        starts, list(bins.values()), width=0.8 * width, color=PALETTE[0], label=f"updates applied, mean lag {mean:.2f}"
    )
    whole_ticks(axes, "x", "y")
    if len(bins) <= LABELLED_BARS_MAX:
        axes.bar_label(bars, labels=[f"{count / total:.1%}" for count in bins.values()], padding=2, fontsize=9)
        axes.set_xticks(starts)
    axes.set_xlabel("staleness (versions behind the head)")
    axes.set_ylabel("updates")
    axes.set_xlim(min(starts) - 0.7 * width, max(starts) + 0.7 * width)
    axes.margins(y=0.12)
    figure.legend(loc="outside lower center")
    return figure


def _curves(points: Iterable[tuple[str, int, float]]) -> Mapping[str, Curve]:
    """Versions and values by node."""
    curves: defaultdict[str, Curve] = defaultdict(lambda: ([], []))
    for node, version, value in sorted(points, key=lambda point: (natural(point[0]), point[1])):
        curves[node][0].append(version)
        curves[node][1].append(value)
    return curves


def _with_gaps(curve: Curve) -> Curve:
    """NaN where the node was away for long: the line ends there, and begins again."""
    versions, losses = curve
    longest = GAP_SHARE * (versions[-1] - versions[0])
    broken: Curve = (versions[:1], losses[:1])
    for before, version, loss in zip(versions, versions[1:], losses[1:], strict=False):
        if version - before > max(1.0, longest):
            broken[0].append(before)
            broken[1].append(nan)
        broken[0].append(version)
        broken[1].append(loss)
    return broken


def _draw_crowd(axes: "Axes", curves: Mapping[str, Curve], extreme: str) -> None:
    """All nodes in grey, the median and the middle half of them above, and the node that ends worst."""
    late = max(versions[-1] for versions, _ in curves.values()) * 2 / 3
    stayed = [node for node, (versions, _) in curves.items() if versions[-1] >= late and len(versions) > 1]
    pick = max if extreme == "highest" else min
    worst = pick(stayed or curves, key=lambda node: curves[node][1][-1])
    alpha = min(0.35, INK / len(curves))
    for node, curve in curves.items():
        if node != worst:
            axes.plot(*curve, color=GREY, alpha=alpha, linewidth=0.7, marker="." if len(curve[0]) == 1 else "")
    axes.plot([], [], color=GREY, linewidth=0.7, label="one node")
    axes.plot(
        *curves[worst], color=PALETTE[1], linestyle="--", linewidth=1.3, label=plain(f"{extreme} at its end: {worst}")
    )
    at, low, middle, high = _quartiles(curves)
    axes.fill_between(
        at, low, high, color=PALETTE[0], alpha=0.3, linewidth=0, zorder=2.5, label="middle half of the nodes"
    )
    axes.plot(at, middle, color=PALETTE[0], linewidth=2.2, zorder=3, label="median")


def _quartiles(curves: Mapping[str, Curve]) -> tuple[list[float], list[float], list[float], list[float]]:
    """Over at most `BINS_MAX` groups of versions: their middles, and the quartiles of the losses in each."""
    first = min(versions[0] for versions, _ in curves.values())
    last = max(versions[-1] for versions, _ in curves.values())
    span = last - first + 1
    width = -(-span // BINS_MAX)
    groups: defaultdict[int, list[float]] = defaultdict(list)
    for versions, losses in curves.values():
        for version, loss in zip(versions, losses, strict=True):
            if not isnan(loss):
                groups[(version - first) // width].append(loss)
    rows = [(min(last, first + group * width + (width - 1) / 2), groups[group]) for group in sorted(groups)]
    cuts = [quantiles(losses, n=4, method="inclusive") if len(losses) > 1 else losses * 3 for _, losses in rows]
    low, middle, high = (list(column) for column in zip(*cuts, strict=True)) if cuts else ([], [], [])
    return [at for at, _ in rows], low, middle, high


def _draw_named_bars(axes: "Axes", nodes: Sequence[NodeTotals]) -> None:
    places = list(range(len(nodes)))
    lefts = [0] * len(nodes)
    for status, (colour, hatch) in STATUS_STYLES.items():
        counts = [int(getattr(node, status)) for node in nodes]
        if any(counts):
            axes.barh(
                places, counts, 0.8, lefts, color=colour, hatch=hatch, edgecolor="white", linewidth=0, label=status
            )
        lefts = [left + count for left, count in zip(lefts, counts, strict=True)]
    axes.set_yticks(places, [_short(node.node) for node in nodes], fontsize=9 if len(nodes) <= 20 else 7)
    axes.set_ylim(len(nodes) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 1.03 * max(node.updates for node in nodes))
    axes.set_xlabel("updates")
    axes.set_ylabel("node")
    whole_ticks(axes, "x")


def _draw_sorted_bars(axes: "Axes", nodes: Sequence[NodeTotals]) -> None:
    """Too many for names: from the busiest to the idlest, as an outline."""
    rows = sorted(nodes, key=lambda node: (-node.updates, -node.applied, node.node))
    columns = [[int(getattr(node, status)) for node in rows] for status in STATUS_STYLES]
    tops = list(accumulate(columns, lambda some, more: [a + b for a, b in zip(some, more, strict=True)]))
    bottoms = [[0] * len(rows), *tops]
    edges = [place - 0.5 for place in range(len(rows) + 1)]
    for (status, (colour, hatch)), bottom, top in zip(STATUS_STYLES.items(), bottoms, tops, strict=False):
        if top != bottom:
            axes.fill_between(
                edges,
                [*bottom, bottom[-1]],
                [*top, top[-1]],
                step="post",
                facecolor=colour,
                hatch=hatch,
                edgecolor="white",
                linewidth=0,
                label=status,
            )
    axes.set_xlabel("nodes, the busiest first")
    axes.set_ylabel("updates")
    axes.margins(x=0)
    whole_ticks(axes, "x", "y")


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key by which node-2 comes before node-10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _short(name: str) -> str:
    return plain(name if len(name) <= 24 else f"{name[:23]}…")


def _count(things: Sequence[object] | Mapping[str, object], noun: str) -> str:
    return counted(len(things), noun)


def draw_budget(run: Run) -> "Figure | None":
    """Each node's epsilon, with unit, adjacency and delta; None where nothing was spent.

    An epsilon without these three says nothing: they are in the title of each picture.
    """
    units = [list(group) for _, group in groupby(run.spent, key=lambda one: (one.unit, one.adjacency))]
    if not units:
        return None
    rows = max(len(unit) for unit in units)
    figure = new_figure(f"{run.name}: privacy spent", width=9.0, height=1.6 + 0.24 * min(rows, NAMED_BARS_MAX))
    for axes, unit in zip(figure.subplots(1, len(units), squeeze=False)[0], units, strict=True):
        _draw_unit(axes, sorted(unit, key=lambda one: (-one.epsilon, one.node)))
        handles, labels = axes.get_legend_handles_labels()
        if labels:
            figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns(labels, 9.0))
    return figure


def _draw_unit(axes: "Axes", unit: Sequence[SpentEpsilon]) -> None:
    deltas = sorted({one.delta for one in unit})
    budgets = sorted({one.budget for one in unit if one.budget is not None})
    axes.barh(range(len(unit)), [one.epsilon for one in unit], color=PALETTE[0])
    for budget in budgets:
        axes.axvline(budget, color=GREY, linestyle="--", label=f"budget {budget:g}")
    if len(unit) <= NAMED_BARS_MAX:
        axes.set_yticks(range(len(unit)), [plain(one.node) for one in unit])
    else:
        axes.set_yticks([])
        axes.set_ylabel(f"{counted(len(unit), 'node')}, the largest epsilon on top")
    axes.invert_yaxis()
    axes.set_xlim(0, 1.05 * max([*(one.epsilon for one in unit), *budgets, 1e-9]))
    axes.set_xlabel(f"epsilon at delta {', '.join(f'{delta:g}' for delta in deltas)}")
    axes.set_title(f"unit: {unit[0].unit}\nadjacency: {unit[0].adjacency}", fontsize=8)
    axes.grid(visible=False, axis="y")

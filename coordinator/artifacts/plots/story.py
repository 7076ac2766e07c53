"""One picture that tells a run: how good it became, who was killed and came back, and what fp32 would have cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from coordinator.artifacts.plots.canvas import GREY, PALETTE, bytes_scale, drawable, new_figure, plain, time_scale
from coordinator.artifacts.plots.curves import label_metric
from coordinator.artifacts.plots.run import NewsPoint, Run
from federation.units import counted, human_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_story"]

NODES_MAX = 12
"""Rows of nodes: those first to which something happened."""

NEWS_MAX = 6
"""What happened is written into the curve where it is no more than this."""

LINES_MAX, LINE = 5, 0.11
"""Lines of what happened below the curve, and the height of one: a share of the curve's."""

MARGIN = 0.02
WRITTEN_MIN = 0.14
"""Of the whole time: a shorter absence has no room for words."""

GONE = frozenset({"killed", "lost", "left"})
LOOKS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "killed": (PALETTE[1], "killed"),
        "lost": (PALETTE[1], "lost"),
        "left": (PALETTE[4], "left"),
        "back": (PALETTE[2], "back"),
        "restarted": (PALETTE[2], "started again"),
    }
)


@dataclass(frozen=True, slots=True)
class _Away:
    """A node did not take part between these two versions; the second is None where it never came back."""

    node: str
    since: int
    until: int | None


def draw_story(run: Run) -> "Figure | None":
    """Accuracy over time and what happened to nodes, whose updates each version has, bytes; None without updates."""
    members = _members(run)
    if not run.versions or not members:
        return None
    nodes = _shown(run, members)
    figure = new_figure(_headline(run), width=10.5, height=3.6 + 0.28 * len(nodes))
    grid = figure.add_gridspec(2, 2, width_ratios=[3.9, 1], height_ratios=[2.6, 0.6 + 0.28 * len(nodes)])
    curve = figure.add_subplot(grid[0, 0])
    rows = figure.add_subplot(grid[1, 0], sharex=curve)
    _draw_curve(curve, run)
    _draw_rows(rows, run, nodes, members)
    _draw_bytes(figure.add_subplot(grid[:, 1]), run)
    return figure


def _headline(run: Run) -> str:
    measured = [point.metrics["accuracy"] for point in run.versions if "accuracy" in point.metrics]
    result = f", {measured[-1]:.1%} right" if measured and 0 <= measured[-1] <= 1 else ""
    up = run.versions[-1].bytes_up
    saved = f", 1/{run.plain_bytes / up:.0f} of the bytes of fp32" if 0 < up < run.plain_bytes else ""
    counts = ((len(run.nodes), "node"), (run.versions[-1].version, "version"))
    told = ", ".join(counted(count, what) for count, what in counts)
    return f"{run.name}: {told}{result}{saved}"


def _members(run: Run) -> dict[str, list[int]]:
    """The versions that each node's updates became part of."""
    found: dict[str, list[int]] = {}
    for update in run.updates:
        if update.applied and update.version is not None:
            found.setdefault(update.node, []).append(update.version)
    return found


def _shown(run: Run, members: Mapping[str, Sequence[int]]) -> list[str]:
    told = dict.fromkeys(one.node for one in run.news)
    every = sorted({*told, *members, *(node.node for node in run.nodes)})
    return sorted(sorted(every, key=lambda name: name not in told)[:NODES_MAX])


def _times(run: Run) -> tuple[dict[int, float], str]:
    """When each version was made, and in what unit."""
    unit_s, unit = time_scale(run.versions[-1].time_s)
    return {point.version: point.time_s / unit_s for point in run.versions}, unit


def _draw_curve(axes: "Axes", run: Run) -> None:
    times, _ = _times(run)
    metric = next(iter(run.metric_names()), None)
    if metric is None:
        axes.set_ylabel("not evaluated")
        axes.set_yticks([])
    else:
        points = [point for point in run.versions if metric in point.metrics]
        values = [drawable(point.metrics[metric]) for point in points]
        axes.plot([times[point.version] for point in points], values, color=PALETTE[0], linewidth=1.8)
        label_metric(axes, metric)
    axes.tick_params(labelbottom=False)
    written = len(run.news) <= NEWS_MAX
    if written:
        _make_room(axes, min(LINES_MAX, len(run.news)))
    for place, one in enumerate(run.news):
        at = times.get(one.version)
        if at is None:
            continue
        colour, what = LOOKS.get(one.what, (GREY, one.what))
        axes.axvline(at, color=colour, linestyle="--", linewidth=1.2 if written else 0.5)
        if written:
            _write(axes, at, place, f"{plain(one.node)} {what}", colour)


def _make_room(axes: "Axes", lines: int) -> None:
    """Below the curve, so that no word covers it; what is there has no numbers."""
    low, high = axes.get_ylim()
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
    room = LINE * lines
    axes.set_ylim(low - (high - low) * room / (1 - room), high)
    axes.set_yticks(ticks)


def _write(axes: "Axes", at: float, place: int, text: str, colour: str) -> None:
    """Beside its line, on the side where there is room; one below the other, and readable over other lines."""
    low, high = axes.get_xlim()
    left = at > (low + high) / 2
    axes.annotate(
        text,
        (at, 0.03 + LINE * (place % LINES_MAX)),
        xycoords=("data", "axes fraction"),
        xytext=(-6 if left else 6, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        color=colour,
        fontweight="bold",
        bbox={"facecolor": axes.get_facecolor(), "edgecolor": "none", "alpha": 0.85, "pad": 1.0},
    )


def _draw_rows(axes: "Axes", run: Run, nodes: Sequence[str], members: Mapping[str, Sequence[int]]) -> None:
    times, unit = _times(run)
    for row, node in enumerate(nodes):
        at = [times[version] for version in members.get(node, ()) if version in times]
        axes.plot(at, [row] * len(at), linestyle="", marker="|", markersize=9, markeredgewidth=1.4, color=PALETTE[0])
    for away in _absences(run.news):
        if away.node in nodes:
            _draw_absence(axes, run, nodes.index(away.node), away, members.get(away.node, ()))
    axes.set_yticks(range(len(nodes)), [plain(node) for node in nodes])
    axes.set_ylim(len(nodes) - 0.5, -0.5)
    last = max(times.values()) or 1.0
    axes.set_xlim(-MARGIN * last, (1 + MARGIN) * last)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(
        f"{'virtual ' if run.virtual else ''}time since the start ({unit}); a stroke: a version has its update"
    )


def _draw_absence(axes: "Axes", run: Run, row: int, away: _Away, versions: Sequence[int]) -> None:
    times, _ = _times(run)
    # Its own last update before, and its first after: in between it missed every version.
    since = max((version for version in versions if version <= away.since), default=run.versions[0].version)
    until = min((version for version in versions if version > away.since), default=run.versions[-1].version + 1)
    start, end = times.get(since, 0.0), times.get(until, max(times.values()))
    axes.barh(row, end - start, left=start, height=0.8, color=PALETTE[1], alpha=0.18, linewidth=0)
    missed = sum(since < point.version < until for point in run.versions)
    if end - start >= WRITTEN_MIN * max(times.values()):
        # Where no version was made, nobody was there to make one.
        said = f"missed {counted(missed, 'version')}" if missed else "away"
        axes.text((start + end) / 2, row, said, ha="center", va="center", fontsize=9)


def _absences(news: Sequence[NewsPoint]) -> list[_Away]:
    """From each loss of a node to its return; one that only started again was away just before."""
    found, gone = list[_Away](), dict[str, int]()
    for one in news:
        if one.what in GONE:
            gone.setdefault(one.node, one.version)
        elif one.node in gone:
            found.append(_Away(one.node, gone.pop(one.node), one.version))
        elif one.what == "restarted":
            found.append(_Away(one.node, one.version, one.version))
    return found + [_Away(node, since, None) for node, since in gone.items()]


def _draw_bytes(axes: "Axes", run: Run) -> None:
    """What was sent, beside what plain float32 would have been."""
    end = run.versions[-1]
    bars = [("up", end.bytes_up, PALETTE[0]), ("down", end.bytes_down, PALETTE[2])]
    if run.plain_bytes:
        bars.insert(0, ("up as\nfp32", run.plain_bytes, GREY))
    unit, name = bytes_scale(max(count for _, count, _ in bars))
    drawn = axes.bar(
        [label for label, _, _ in bars], [count / unit for _, count, _ in bars], color=[colour for *_, colour in bars]
    )
    axes.bar_label(drawn, [human_bytes(count) for _, count, _ in bars], fontsize=9, padding=2)
    axes.set_ylabel(f"bytes of all nodes ({name})")
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.1)

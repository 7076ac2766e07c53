"""Histograms of columns, with mean, quantiles and range: what all nodes' rows look like."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coordinator.artifacts.plots.canvas import DOTS_PER_INCH, GREY, PALETTE, new_figure, plain, styled
from federation.errors import ConfigError, StorageError
from federation.tasks.statistics.summary import ColumnStatistics, Statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_statistics"]

BARS = 64
"""Bars of one histogram: four bins make one."""
COLUMNS_SHOWN = 36
ACROSS = 4
PEAKED = 0.8
"""Where one bar has more than this share, the others are drawn on a scale on which they are seen."""


def draw_statistics(found: Statistics, out: Path, title: str) -> None:
    """Draw each column's histogram into one picture; the file's name says whether as PNG or SVG.

    Raises:
        ConfigError: matplotlib is not installed, or the name ends otherwise.
        StorageError: The file cannot be written.
    """
    if out.suffix.lower() not in (".png", ".svg"):
        raise ConfigError("--plot", f"{out.name} must end in .png or .svg", source="command line")
    shown = found.columns[:COLUMNS_SHOWN]
    across = min(ACROSS, len(shown))
    down = -(-len(shown) // across)
    with styled():
        more = f", {len(shown)} of {len(found.columns)} columns" if len(shown) < len(found.columns) else ""
        figure = new_figure(f"{title}{more}", width=1 + 3.2 * across, height=1.1 + 2.3 * down)
        grid = np.atleast_1d(figure.subplots(down, across, squeeze=False)).reshape(-1)
        for axes, column in zip(grid, shown, strict=False):
            _draw_column(axes, column)
        for axes in grid[len(shown) :]:
            axes.set_axis_off()
        handles, labels = _legend(grid[: len(shown)])
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        try:
            changing = "Date" if out.suffix.lower() == ".svg" else "Software"
            figure.savefig(out, dpi=DOTS_PER_INCH, metadata={changing: None})
        except OSError as error:
            raise StorageError(f"{out} cannot be written: {error}") from error


def _draw_column(axes: "Axes", column: ColumnStatistics) -> None:
    axes.set_title(plain(column.name), fontsize=10)
    axes.grid(visible=False)
    said = f"{column.count:,} values" + (f", {column.missing:,} missing" if column.missing else "")
    axes.set_xlabel(said + (f", {column.outside:,} outside" if column.outside else ""), fontsize=8)
    if not column.count or not math.isfinite(column.mean):
        axes.text(0.5, 0.5, "no values", ha="center", va="center", color=GREY, transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    if column.minimum == column.maximum:
        axes.text(0.5, 0.5, f"always {column.mean:.6g}", ha="center", va="center", transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    together = len(column.counts) // BARS
    counts, edges = column.counts.reshape(BARS, together).sum(axis=1), column.edges[::together]
    if counts.max() > PEAKED * counts.sum():
        axes.set_yscale("log")
        axes.set_ylabel("log scale", fontsize=8)
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=PALETTE[5], linewidth=0)
    low, middle, high = (column.quantile(share) for share in (0.05, 0.5, 0.95))
    axes.axvspan(low, high, color=PALETTE[5], alpha=0.15, linewidth=0, label="5 % to 95 %")
    axes.axvline(middle, color=PALETTE[0], label="median")
    axes.axvline(column.mean, color=PALETTE[1], linestyle="--", label="mean")
    axes.tick_params(labelsize=8)
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(axis="y", which="both", left=False, labelleft=False)


def _legend(parts: Iterable["Axes"]) -> tuple[list[Any], list[str]]:
    found: dict[str, Any] = {}
    for axes in parts:
        found.update({label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)})
    return list(found.values()), list(found)

"""Draw a partition: one stacked bar of labels for every node. Needs matplotlib (the extra ``plot``)."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from federation.tasks.label_counts import LabelCounts

__all__ = ["draw_partition"]

GAP_NODES_MAX = 60
"""With more nodes than this the bars touch."""

LEGEND_ROWS = 12


def draw_partition(counts: LabelCounts, out: Path, title: str) -> None:
    """Write the picture; the file's name says whether as PNG or SVG."""
    table = np.array(counts.rows)
    figure = Figure(figsize=(8.4, 4.8), dpi=150, layout="constrained")
    axes = figure.subplots()
    colours = colormaps["tab10" if len(counts.labels) <= 10 else "viridis"]
    shades = [colours(i if len(counts.labels) <= 10 else i / (len(counts.labels) - 1)) for i in range(table.shape[1])]
    bottom = np.zeros(len(table))
    width = 0.85 if len(table) <= GAP_NODES_MAX else 1.0
    for column, (label, colour) in enumerate(zip(counts.labels, shades, strict=True)):
        axes.bar(np.arange(len(table)), table[:, column], width, bottom=bottom, color=colour, label=label)
        bottom += table[:, column]
    axes.set_title(title, loc="left")
    axes.set_xlabel("node")
    axes.set_ylabel("examples")
    axes.set_xlim(-0.5, len(table) - 0.5)
    if len(table) <= 20:
        axes.set_xticks(range(len(table)))
    axes.spines[["top", "right"]].set_visible(False)
    columns = -(-len(counts.labels) // LEGEND_ROWS)
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], title="label", loc="outside right upper", frameon=False, ncols=columns)
    figure.savefig(out)

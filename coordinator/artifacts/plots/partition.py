"""Who would own which labels: a table, and one stacked bar for every node (matplotlib, the extra ``plot``)."""

import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from coordinator.artifacts.plots.canvas import require_matplotlib
from federation.command_line import JsonOption
from federation.task import TaskContext
from federation.tasks.label_counts import LabelCounts, label_counts
from federation.tasks.registry import load_task

__all__ = ["draw_partition", "partition"]

GAP_NODES_MAX = 60
"""With more nodes than this the bars touch."""

LEGEND_ROWS = 12
ROWS_SHOWN = 20
PIPED_COLUMNS = 160


def draw_partition(counts: LabelCounts, out: Path, title: str) -> None:
    """Write the picture; the file's name says whether as PNG or SVG.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib import colormaps  # noqa: PLC0415 - an extra, and it takes a second
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

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


def partition(  # noqa: PLR0913 - one parameter per option of the command line
    *,
    task: Annotated[str, typer.Option(help="digits, mnist-mlp, har, ... or FILE.py:FUNCTION.")] = "digits",
    nodes: Annotated[int, typer.Option(help="Into how many parts.", min=1)] = 10,
    by: Annotated[
        str | None,
        typer.Option("--partition", help="iid, shards:N, dirichlet:ALPHA or natural. Default: the task's own."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Data folder. Default: bundled or downloaded.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the partition: the same for all participants.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Picture to write: FILE.png or FILE.svg.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how many examples of each label every node would own; with -o as stacked bars (needs the extra plot).

    \b
    Examples:
      coordinator partition --task digits --nodes 10 --partition dirichlet:0.1 -o parts.png
    """  # noqa: D301 - the escape is the library's mark for a block that keeps its lines
    context = TaskContext(node_index=0, node_count=nodes, data=data, device="cpu", seed=seed, partition=by)
    counts = label_counts(load_task(task)(context))
    if as_json:
        sys.stdout.write(
            json.dumps({"partition": counts.partition, "labels": counts.labels, "nodes": counts.rows}) + "\n"
        )
    else:
        Console(width=None if sys.stdout.isatty() else PIPED_COLUMNS).print(_table(counts))
    if out is not None:
        draw_partition(counts, out, f"{task}, {nodes} nodes, {counts.partition}, seed {seed}")
        typer.echo(f"picture written to {out}", err=as_json)


def _table(counts: LabelCounts) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), title=f"examples by label, {counts.partition}")
    table.add_column("node", justify="right")
    for label in counts.labels:
        table.add_column(label, justify="right", no_wrap=True)
    table.add_column("all", justify="right", no_wrap=True)
    for node, row in enumerate(counts.rows[:ROWS_SHOWN]):
        table.add_row(str(node), *(f"{count:,}" for count in row), f"{sum(row):,}")
    if len(counts.rows) > ROWS_SHOWN:
        table.add_row("…", *("" for _ in counts.labels), f"{len(counts.rows)} nodes")
    return table
